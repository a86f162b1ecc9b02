"""Clear text in front of TLS, on the same connection.

    clear_first.py pop3 CERT KEY   prints its port; a mailbox with a message, by STLS (RFC 2595)
    clear_first.py connect         prints its port; a proxy by CONNECT (RFC 9110 9.3.6)

Serves one connection.
"""

import select
import socket
import ssl
import sys

MESSAGE = b"Subject: said by TLS\r\n\r\nbehind clear text\r\n"


def accepted():
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    return listener.accept()[0]


def pop3(certificate, key):
    raw = accepted()
    lines = raw.makefile("rb")
    raw.sendall(b"+OK mirror.test\r\n")
    while (line := lines.readline()) != b"STLS\r\n":
        raw.sendall(b"+OK\r\nSTLS\r\n.\r\n" if line == b"CAPA\r\n" else b"-ERR\r\n")
    raw.sendall(b"+OK\r\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    tls = context.wrap_socket(raw, server_side=True)
    for line in tls.makefile("rb"):
        answers = {b"CAPA": b"+OK\r\nUSER\r\n.\r\n", b"RETR": b"+OK\r\n" + MESSAGE + b".\r\n"}
        tls.sendall(answers.get(line[:4], b"+OK\r\n"))
        if line == b"QUIT\r\n":
            return


def connect():
    near = accepted()
    lines = near.makefile("rb", 0)
    host, port = lines.readline().split()[1].decode().split(":")
    while lines.readline() != b"\r\n":
        pass
    far = socket.create_connection((host, int(port)))
    near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    other = {near: far, far: near}
    while True:
        for ready in select.select(list(other), [], [])[0]:
            heard = ready.recv(65536)
            if not heard:
                return
            other[ready].sendall(heard)


globals()[sys.argv[1]](*sys.argv[2:])
