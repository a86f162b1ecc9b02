"""STARTTLS as mail has it, server and client: clear lines first, TLS on the same socket afterwards.

    starttls.py server CERT KEY     prints its port, serves one connection
    starttls.py client PORT
"""

import socket
import ssl
import sys


def server(certificate, key):
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    raw, _ = listener.accept()
    raw.sendall(b"220 mirror.test ready\r\n")
    assert raw.recv(100) == b"STARTTLS\r\n"
    raw.sendall(b"220 go ahead\r\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    tls = context.wrap_socket(raw, server_side=True)
    tls.sendall(b"you said: " + tls.recv(100))
    tls.recv(100)


def client(port):
    raw = socket.create_connection(("127.0.0.1", int(port)))
    raw.recv(100)
    raw.sendall(b"STARTTLS\r\n")
    raw.recv(100)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tls = context.wrap_socket(raw, server_hostname="mirror.test")
    tls.sendall(b"EHLO after the upgrade")
    print(tls.recv(100).decode())
    tls.close()


globals()[sys.argv[1]](*sys.argv[2:])
