"""A proxy that reads nothing of what it passes on.

    passes.py PORT    prints its own port; then for each connection those on which it goes on: its own, and the client's
"""

import socket
import sys
import threading


def pump(come, go):
    while text := come.recv(65536):
        go.sendall(text)
    go.shutdown(socket.SHUT_WR)


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        client, (_, port) = listener.accept()
        server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        print(server.getsockname()[1], port, sep="\n", flush=True)
        for ends in [(client, server), (server, client)]:
            threading.Thread(target=pump, args=ends, daemon=True).start()


main()
