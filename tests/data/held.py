"""A client of HTTP/2 that has what it asks for on one connection, and lets come what it is told to.

    held.py PORT

Lines on its standard input:

    get PATH        asks on the next stream, of which a mebibyte may come
    more STREAM N   lets N bytes more of it come
    end             closes

It prints `STREAM BYTES SHA256` where a stream has ended. How much comes on the connection as a whole is held up by nobody.
"""

import hashlib
import os
import select
import socket
import ssl
import sys

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
ACK = END_STREAM = 1
END_HEADERS = 4
MEBIBYTE = 1 << 20
ANY_WINDOW = (1 << 31) - 1
FIRST_WINDOW = 65535  # RFC 9113 section 6.9.2


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def setting(identifier, value):
    return identifier.to_bytes(2, "big") + value.to_bytes(4, "big")


def text(value):
    """A string of less than 127 bytes, RFC 7541 section 5.2."""
    return bytes([len(value)]) + value.encode()


class Client:
    def __init__(self, port):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection(("127.0.0.1", port))
        self.tls = context.wrap_socket(raw, server_hostname="mirror.test")
        self.kept, self.streams, self.next = bytearray(), {}, 1
        initial_window, push = setting(4, MEBIBYTE), setting(2, 0)
        self.tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, push + initial_window))
        self.more(0, ANY_WINDOW - FIRST_WINDOW)

    def more(self, stream, count):
        self.tls.sendall(frame(WINDOW_UPDATE, 0, stream, count.to_bytes(4, "big")))

    def get(self, path):
        # GET, https, then :path and :authority by their numbers in RFC 7541 appendix A.
        block = b"\x82\x87\x04" + text(path) + b"\x01" + text("mirror.test")
        self.streams[self.next] = [0, hashlib.sha256()]
        self.tls.sendall(frame(HEADERS, END_STREAM | END_HEADERS, self.next, block))
        self.next += 2

    def read(self):
        piece = self.tls.recv(65536)
        if not piece:
            raise EOFError
        self.kept += piece
        at, kept = 0, memoryview(self.kept)
        while len(kept) >= at + 9:
            length = int.from_bytes(kept[at : at + 3], "big")
            if len(kept) < at + 9 + length:
                break
            stream = int.from_bytes(kept[at + 5 : at + 9], "big")
            self.frame(kept[at + 3], kept[at + 4], stream, kept[at + 9 : at + 9 + length])
            at += 9 + length
        kept.release()
        del self.kept[:at]

    def frame(self, kind, flags, stream, payload):
        if kind == DATA:
            self.streams[stream][0] += len(payload)
            self.streams[stream][1].update(payload)
        elif kind == SETTINGS and not flags & ACK:
            self.tls.sendall(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.tls.sendall(frame(PING, ACK, 0, bytes(payload)))
        elif kind == RST_STREAM:
            raise ValueError(f"stream {stream} was given up")
        payload.release()
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            count, sha256 = self.streams.pop(stream)
            print(stream, count, sha256.hexdigest(), flush=True)


def main(port):
    client, lines = Client(port), b""
    while True:
        ready = [client.tls] if client.tls.pending() else select.select([client.tls, 0], [], [])[0]
        if client.tls in ready:
            client.read()
        if 0 in ready:
            lines += os.read(0, 65536)
        *whole, lines = lines.split(b"\n")
        for line in whole:
            word, *rest = line.decode().split()
            if word == "get":
                client.get(*rest)
            elif word == "more":
                client.more(*map(int, rest))
            else:
                client.tls.unwrap()
                return


main(int(sys.argv[1]))
