"""An HTTPS server with a thread or a process for each connection, as Python's library has them. Of the
latter the parent shakes hands, forks, and gives the connection back without a word; the child speaks.

    server.py threads|forks PORT CERTIFICATE KEY DIRECTORY

GET /get/NAME sends the file NAME of DIRECTORY, POST sends back what it is sent. SIGTERM ends it.
"""

import http.server
import signal
import socketserver
import ssl
import sys

WAY, PORT, CERTIFICATE, KEY, DIRECTORY = sys.argv[1:]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        name = self.path.split("?")[0].rsplit("/", 1)[1]
        with open(f"{DIRECTORY}/{name}", "rb") as file:
            self.answer(file.read())

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_):
        pass


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class Threads(http.server.ThreadingHTTPServer):
    request_queue_size = 64

    # In the connection's thread.
    def finish_request(self, request, address):
        with CONTEXT.wrap_socket(request, server_side=True) as tls:
            self.RequestHandlerClass(tls, address, self)


class Forks(socketserver.ForkingMixIn, http.server.HTTPServer):
    request_queue_size = 64

    # In the parent; the handshake is part of it.
    def get_request(self):
        request, address = super().get_request()
        return CONTEXT.wrap_socket(request, server_side=True), address

    # In the parent, too: who only looks whether somebody listens says no hello.
    def handle_error(self, request, address):
        pass


def end(*_):
    raise SystemExit(0)


signal.signal(signal.SIGTERM, end)
CONTEXT.load_cert_chain(CERTIFICATE, KEY)
server = {"threads": Threads, "forks": Forks}[WAY]
server(("127.0.0.1", int(PORT)), Handler).serve_forever()
