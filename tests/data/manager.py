"""A service manager as far as an agent needs one: keeps descriptors and gives them to the next process,
as sd_notify(3), sd_listen_fds(3) and systemd.service(5) say.

    manager.py SOCKET ROOM

Reads commands from standard input, a line of JSON each, and answers each with one:

    ["start", PROGRAM, ARGUMENT…]   starts the service with what is kept; answers once it is ready
    ["end", SIGNAL]                 sends the signal, and waits for its end: its status
    ["kept"]                        the names of all that is kept, once nothing has come for a moment
    ["put", NAME, KIND]             keeps something else: "null", "loose", "small", "dead", "copy:OTHER"
    ["drop", NAME]                  keeps it no longer

It ends with its standard input, and ends the service then.
"""

import json
import os
import select
import signal
import socket
import sys

PATH, ROOM = sys.argv[1], int(sys.argv[2])
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind(PATH)
store = []
service = None
ready = False


def hear(timeout):
    """Takes one message; False if none comes."""
    global ready
    if not select.select([listener], [], [], timeout)[0]:
        return False
    message, descriptors, flags, _ = socket.recv_fds(listener, 4096, 16)
    assert not flags & socket.MSG_CTRUNC
    words = dict(line.split("=", 1) for line in message.decode().splitlines())
    ready |= words.get("READY") == "1"
    name = words.get("FDNAME", "stored")
    assert len(name) <= 255 and all(" " <= letter <= "~" and letter != ":" for letter in name), name
    if words.get("FDSTOREREMOVE") == "1":
        drop(name)
    elif words.get("FDSTORE") == "1":
        # Else it would be dropped as soon as its process ends.
        assert words.get("FDPOLL") == "0"
        for descriptor in descriptors:
            keep(name, descriptor)
        return True
    for descriptor in descriptors:
        os.close(descriptor)
    return True


def keep(name, descriptor):
    if len(store) < ROOM:
        store.append((name, descriptor))
    else:
        os.close(descriptor)


def drop(name):
    for known, descriptor in [entry for entry in store if entry[0] == name]:
        os.close(descriptor)
        store.remove((known, descriptor))


def start(words):
    global service, ready
    assert service is None
    ready = False
    service = os.fork()
    if service == 0:
        # Out of the way of the numbers that they are to have.
        first = 3 + len(store)
        moved = []
        for name, descriptor in store:
            copy = os.dup(descriptor)
            while copy < first + 100:
                copy = os.dup(copy)
            moved.append((name, copy))
        for number, (_, copy) in enumerate(moved):
            os.dup2(copy, 3 + number)
        os.closerange(first, 4096)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        environment = dict(os.environ, NOTIFY_SOCKET=PATH, FDSTORE=str(ROOM))
        if moved:
            environment["LISTEN_PID"] = str(os.getpid())
            environment["LISTEN_FDS"] = str(len(moved))
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in moved)
        os.execve(words[0], words, environment)
    while not ready:
        hear(0.05)
        pid, status = os.waitpid(service, os.WNOHANG)
        if pid:
            service = None
            return {"failed": status}
    return {"pid": service}


def end(number):
    global service
    os.kill(service, number)
    while True:
        hear(0.01)
        pid, status = os.waitpid(service, os.WNOHANG)
        if pid:
            break
    service = None
    while hear(0):
        pass
    return {"status": status}


def kept():
    while hear(0.1):
        pass
    return {"kept": sorted(name for name, _ in store)}


def put(name, kind):
    if kind == "null":
        descriptor = os.open(os.devnull, os.O_RDWR)
    elif kind in ("loose", "small"):
        descriptor = os.memfd_create("other", os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, 128 * 1024)
        if kind == "small":
            import fcntl

            fcntl.fcntl(descriptor, 1033, 1 | 2 | 4)  # F_ADD_SEALS: SEAL, SHRINK, GROW
    elif kind == "dead":
        child = os.fork()
        if child == 0:
            os._exit(0)
        descriptor = os.pidfd_open(child)
        os.waitpid(child, 0)
    elif kind == "self":
        descriptor = os.pidfd_open(os.getpid())
    else:
        descriptor = os.dup(dict(store)[kind.removeprefix("copy:")])
    store.append((name, descriptor))
    return {}


def command(name, *words):
    if name == "start":
        return start(list(words))
    if name == "end":
        return end(*words)
    if name == "kept":
        return kept()
    if name == "put":
        return put(*words)
    drop(*words)
    return {}


def main():
    buffered = b""
    while True:
        readable, _, _ = select.select([0, listener], [], [])
        if listener in readable:
            hear(0)
        if 0 in readable:
            piece = os.read(0, 65536)
            if not piece:
                break
            buffered += piece
            while b"\n" in buffered:
                line, buffered = buffered.split(b"\n", 1)
                print(json.dumps(command(*json.loads(line))), flush=True)
    if service:
        os.kill(service, signal.SIGKILL)
        os.waitpid(service, 0)


main()
