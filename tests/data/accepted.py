"""Connections that root accepts, and others use: a worker that is there already, to which the first is passed on (SCM_RIGHTS,
unix(7)), and a child that inherits the second. Both have become another user, and give their library memory, no socket.

    accepted.py CERT KEY UID    prints its port, and for each connection the client's, once what it says has been answered
"""

import os
import socket
import ssl
import sys

CERT, KEY, UID = sys.argv[1], sys.argv[2], int(sys.argv[3])


def use(raw):
    """Says what it hears, until the client ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERT, KEY)
    os.setgid(UID)
    os.setuid(UID)
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, to_send, server_side=True)

    def until_done(step):
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass
            finally:
                raw.sendall(to_send.read())
            heard = raw.recv(16384)
            received.write(heard) if heard else received.write_eof()

    until_done(tls.do_handshake)
    while text := until_done(lambda: tls.read(16384)):
        until_done(lambda: tls.write(text))
        print(raw.getpeername()[1], flush=True)


def passed(channel):
    _, (descriptor,), _, _ = socket.recv_fds(channel, 1, 1)
    use(socket.socket(fileno=descriptor))


def child(work, argument):
    if (pid := os.fork()) == 0:
        work(argument)
        os._exit(0)
    return pid


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    ours, theirs = socket.socketpair()
    children = [child(passed, theirs)]
    theirs.close()
    print(listener.getsockname()[1], flush=True)
    # They stay open here, too.
    first, _ = listener.accept()
    socket.send_fds(ours, [b"x"], [first.fileno()])
    second, _ = listener.accept()
    children.append(child(use, second))
    for pid in children:
        _, status = os.waitpid(pid, 0)
        if status:
            sys.exit(os.waitstatus_to_exitcode(status))


main()
