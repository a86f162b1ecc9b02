"""A client with a script: talks HTTP/1.1 over TLS on one connection at a time, records what it says and
hears, and does on request what only the middle of a transfer shows.

    client.py PORT OUT STEP…

    get:URL       one request on the open connection; prints status, length and hash of the body
    slowly:URL    fifty times get with pauses and numbers, for a ring that needs time to be read
    close         ends the connection; the next step opens another
    stop, go      stops or continues the parent process
    until:URL     get again and again, until there is the file OUT/enough
    each:URL      the same, with a connection for each
    pace:MS       from here on a pause of so many milliseconds between two requests of both
    half:URL      as get, but in the middle of the body it makes the file OUT/half and waits for OUT/go
    verify        a connection that must fail, since nobody has signed the certificate

OUT/sent.N and OUT/received.N are all bytes of connection number N, OUT/port.N is its port.
"""

import hashlib
import os
import signal
import socket
import ssl
import sys
import time

PORT, OUT, STEPS = int(sys.argv[1]), sys.argv[2], sys.argv[3:]


class Connection:
    count = 0

    def __init__(self):
        Connection.count += 1
        number = Connection.count
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        raw = socket.create_connection(("127.0.0.1", PORT))
        with open(f"{OUT}/port.{number}", "w") as file:
            file.write(str(raw.getsockname()[1]))
        self.tls = context.wrap_socket(raw, server_hostname="mirror.test")
        self.sent = open(f"{OUT}/sent.{number}", "wb", buffering=0)
        self.received = open(f"{OUT}/received.{number}", "wb", buffering=0)
        print(self.tls.version(), self.tls.cipher()[0])
        self.kept = b""

    def receive(self):
        piece = self.tls.recv(65536)
        if not piece:
            raise EOFError
        self.received.write(piece)
        return piece

    def get(self, url, in_the_middle=None):
        request = f"GET {url} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode()
        self.tls.sendall(request)
        self.sent.write(request)
        while b"\r\n\r\n" not in self.kept:
            self.kept += self.receive()
        head, body = self.kept.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:"))
        pieces, have = [body], len(body)
        while have < length:
            if in_the_middle and have > length // 2:
                in_the_middle()
                in_the_middle = None
            pieces.append(self.receive())
            have += len(pieces[-1])
        self.kept = b""
        body = b"".join(pieces)
        print(lines[0], len(body), hashlib.sha256(body).hexdigest())

    def close(self):
        # The peer may be gone already.
        try:
            self.tls.unwrap()
        except (OSError, ssl.SSLError):
            pass
        self.tls.close()


def pause():
    open(f"{OUT}/half", "w").close()
    while not os.path.exists(f"{OUT}/go"):
        time.sleep(0.01)


def verify():
    context = ssl.create_default_context()
    try:
        raw = socket.create_connection(("127.0.0.1", PORT))
        context.wrap_socket(raw, server_hostname="mirror.test")
    except ssl.SSLCertVerificationError as error:
        print(error.verify_code, error.reason)


def main():
    connection, pace = None, 0
    for step in STEPS:
        name, _, argument = step.partition(":")
        if name == "stop":
            os.kill(os.getppid(), signal.SIGSTOP)
        elif name == "go":
            os.kill(os.getppid(), signal.SIGCONT)
        elif name == "close":
            connection.close()
            connection = None
        elif name == "verify":
            verify()
        elif name == "pace":
            pace = int(argument) / 1000
        elif name in ("get", "half"):
            connection = connection or Connection()
            connection.get(argument, pause if name == "half" else None)
        elif name == "until":
            connection = connection or Connection()
            while not os.path.exists(f"{OUT}/enough"):
                connection.get(argument)
                time.sleep(pace or 0.002)
        elif name == "each":
            while not os.path.exists(f"{OUT}/enough"):
                connection = Connection()
                connection.get(argument)
                connection.close()
                time.sleep(pace)
            connection = None
        elif name == "slowly":
            # Many small requests with pauses: somewhere among them a ring that was full is empty again.
            for number in range(50):
                connection.get(f"{argument}?{number}")
                time.sleep(0.01)
        else:
            sys.exit(f"client.py: unknown step {step}")
    if connection:
        connection.close()


main()
