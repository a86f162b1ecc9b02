"""A page and the WebSocket that it opens (RFC 6455), by HTTP/1.1 without TLS.

    websocket.py PORT PAGE DIRECTORY

/           PAGE
/socket     says each message again; one ping in between. What was received and sent behind the heads is written to
            DIRECTORY/received and DIRECTORY/sent
/over       answered when that socket has ended
"""

import base64
import hashlib
import http.server
import sys
import threading

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE, PING, PONG = 8, 9, 10
LIMIT_S = 120

port, page, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
over = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/socket":
            self.socket()
        elif self.path == "/over":
            over.wait(LIMIT_S)
            self.answer(b"")
        else:
            with open(page, "rb") as file:
                self.answer(file.read())

    def answer(self, content):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def socket(self):
        key = self.headers["Sec-WebSocket-Key"] + GUID
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "websocket")
        accept = hashlib.sha1(key.encode()).digest()
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(accept).decode())
        self.end_headers()
        self.received, self.sent = bytearray(), bytearray()
        try:
            while self.frame():
                pass
        finally:
            for name, said in (("received", self.received), ("sent", self.sent)):
                with open(f"{directory}/{name}", "wb") as file:
                    file.write(said)
            self.close_connection = True
            over.set()

    def frame(self):
        """One of the client's, and the answer to it; whether more may come."""
        first, second = self.take(2)
        opcode, length = first & 15, second & 127
        if length >= 126:
            length = int.from_bytes(self.take(2 if length == 126 else 8), "big")
        assert second & 128, "a client masks"
        mask = self.take(4)
        masked = self.take(length)
        if opcode == PONG:
            return True
        # As one number: byte by byte takes long.
        pad = (mask * (length // 4 + 1))[:length]
        clear = int.from_bytes(masked, "big") ^ int.from_bytes(pad, "big")
        if len(self.sent) == 0:
            self.say(128 | PING, b"still there?")
        self.say(128 | PONG if opcode == PING else first, clear.to_bytes(length, "big"))
        return opcode != CLOSE

    def take(self, length):
        taken = self.rfile.read(length)
        assert len(taken) == length, "the client goes without a word"
        self.received += taken
        return taken

    def say(self, first, content):
        length = len(content)
        if length < 126:
            head = bytes([first, length])
        elif length < 65536:
            head = bytes([first, 126]) + length.to_bytes(2, "big")
        else:
            head = bytes([first, 127]) + length.to_bytes(8, "big")
        self.wfile.write(head + content)
        self.sent += head + content


http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
