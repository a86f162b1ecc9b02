"""A client whose connections carry text that can be told apart. All stay open until the end.

    marked.py PORT STEP…

    say@ADDRESS@NAME@FILE   a new connection to ADDRESS for the server NAME asks for /get/FILE
    again@FILE              the last connection asks once more
    pause@PATH              makes the file PATH.here, and waits for PATH.go
"""

import os
import socket
import ssl
import sys
import time

PORT, STEPS = int(sys.argv[1]), sys.argv[2:]
CONTEXT = ssl.create_default_context()
CONTEXT.check_hostname = False
CONTEXT.verify_mode = ssl.CERT_NONE


def ask(tls, file):
    tls.sendall(f"GET /get/{file}?request-of-{file} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += tls.recv(65536)
    head, body = data.split(b"\r\n\r\n", 1)
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += tls.recv(65536)
    assert head.startswith(b"HTTP/1.1 200 ") and body.startswith(f"response-of-{file}".encode()), head


def main():
    connections = []
    for step in STEPS:
        kind, *words = step.split("@")
        if kind == "say":
            address, name, file = words
            raw = socket.create_connection((address, PORT))
            connections.append(CONTEXT.wrap_socket(raw, server_hostname=name or None))
            ask(connections[-1], file)
        elif kind == "again":
            ask(connections[-1], words[0])
        elif kind == "pause":
            open(words[0] + ".here", "w").close()
            while not os.path.exists(words[0] + ".go"):
                time.sleep(0.01)
        else:
            sys.exit(f"marked.py: unknown step {step}")
    for connection in connections:
        connection.close()


main()
