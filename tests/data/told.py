"""Two peers that say on TLS connections, for which both agreed on HTTP/2, what they are told to, in turns.

    told.py server CERTIFICATE KEY DIRECTORY        prints its port; ends by SIGTERM
    told.py client PORT DIRECTORY NAME…             all at once; prints how many; fails if one isn't as it should be

The file DIRECTORY/NAME has what is said on the connection whose SNI is NAME: a line of JSON, a list of pairs `[who, bytes]`, `who`
being `client`, `server` or `wait`, and behind it the bytes, one turn after another. Whoever isn't to speak hears all of a turn, and
compares it, before the next begins. At `wait` the client makes DIRECTORY/NAME.waits and goes on when there is DIRECTORY/go.
The client closes at last.
"""

import json
import os
import signal
import socket
import ssl
import sys
import threading
import time


def turns(directory, name):
    with open(f"{directory}/{name}", "rb") as file:
        for who, length in json.loads(file.readline()):
            yield who, file.read(length)


def hear(tls, text):
    heard = bytearray()
    while len(heard) < len(text):
        piece = tls.recv(65536)
        if not piece:
            raise EOFError(f"{len(heard)} bytes of {len(text)}")
        heard += piece
    if heard != text:
        raise ValueError("something else was said")


def talk(tls, side, directory, name):
    for who, text in turns(directory, name):
        if who == side:
            tls.sendall(text)
        elif who == "wait":
            wait(side, directory, name)
        else:
            hear(tls, text)


def wait(side, directory, name):
    if side != "client":
        return
    open(f"{directory}/{name}.waits", "w").close()
    while not os.path.exists(f"{directory}/go"):
        time.sleep(0.01)


def serve(certificate, key, directory):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])

    def asked(tls, name, _):
        names[tls] = name

    names = {}
    context.sni_callback = asked

    def answer(raw):
        with context.wrap_socket(raw, server_side=True) as tls:
            talk(tls, "server", directory, names.pop(tls))
            if tls.recv(1):
                raise ValueError("more was said")
            tls.unwrap()

    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    while True:
        raw, _ = listener.accept()
        threading.Thread(target=answer, args=(raw,), daemon=True).start()


def ask(port, directory, names):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    done = []

    def connect(name):
        raw = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(raw, server_hostname=name) as tls:
            talk(tls, "client", directory, name)
            tls.unwrap()
        done.append(name)

    threads = [threading.Thread(target=connect, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(done))
    sys.exit(0 if len(done) == len(names) else 1)


def end(*_):
    raise SystemExit(0)


signal.signal(signal.SIGTERM, end)
threading.stack_size(256 << 10)
if sys.argv[1] == "server":
    serve(*sys.argv[2:])
else:
    ask(sys.argv[2], sys.argv[3], sys.argv[4:])
