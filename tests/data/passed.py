"""A connection that one process makes and another one uses, as another user: it is passed on (SCM_RIGHTS, unix(7)).

    passed.py PORT UID    prints the port that it comes from; ends it when its input does
"""

import os
import socket
import ssl
import sys

PORT, UID = int(sys.argv[1]), int(sys.argv[2])


def use(channel):
    os.setgid(UID)
    os.setuid(UID)
    _, (descriptor,), _, _ = socket.recv_fds(channel, 1, 1)
    raw = socket.socket(fileno=descriptor)
    print(raw.getsockname()[1], flush=True)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(raw, server_hostname="mirror.test"):
        sys.stdin.read()


def main():
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        use(theirs)
        return
    theirs.close()
    with socket.create_connection(("127.0.0.1", PORT)) as raw:
        socket.send_fds(ours, [b"x"], [raw.fileno()])
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


main()
