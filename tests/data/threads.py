"""An HTTPS server with a thread for each connection, as Python's library has it.

    threads.py PORT CERTIFICATE KEY DIRECTORY

GET /get/NAME sends the file NAME of DIRECTORY, POST sends back what it is sent. SIGTERM ends it.
"""

import http.server
import signal
import ssl
import sys

PORT, CERTIFICATE, KEY, DIRECTORY = int(sys.argv[1]), *sys.argv[2:]


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


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    # In the connection's thread.
    def finish_request(self, request, address):
        with self.context.wrap_socket(request, server_side=True) as tls:
            self.RequestHandlerClass(tls, address, self)


def end(*_):
    raise SystemExit(0)


signal.signal(signal.SIGTERM, end)
Server.context.load_cert_chain(CERTIFICATE, KEY)
Server(("127.0.0.1", PORT), Handler).serve_forever()
