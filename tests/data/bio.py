"""TLS without a socket of the library's: by asyncio, and by memory BIOs whose bytes go out in pieces as asked.

    bio.py server ADDRESS CERT KEY COUNT CASE [LOG]  prints its port, says back what it hears on COUNT connections
    bio.py client ADDRESS PORT CASE…                 one connection each; prints its port, and `resumed` if it was
    bio.py crowd ADDRESS PORT COUNT AT_ONCE          so many short connections by asyncio, each reset at its end

A server's log has a line for each connection: the client's address and port, and what it heard.

Cases:

    asyncio          as asyncio does it
    cut:3,60         the first flight cut behind these bytes, each piece in a segment of its own
    long:1400        the same with a ClientHello of some 4,000 bytes
    records:60       the first flight in records of so many bytes
    curve:NAME       only this curve is good enough for the server: a HelloRetryRequest
    resume           the session of the connection before goes on
    held             it stays open until there is a line on standard input
    replayed:FROM    before it is said, the first flight is said from the address FROM, and answered
"""

import asyncio
import fcntl
import os
import socket
import ssl
import struct
import sys
import time

SIOCOUTQ = 0x5411
TEXT = b"said over memory BIOs"


class Talk:
    """A connection by memory BIOs over a socket that only moves bytes."""

    def __init__(self, raw, context, case, **options):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.raw, self.cuts, self.record = raw, numbers_of(case, "cut", "long"), numbers_of(case, "records")
        self.replayed = case.partition("replayed:")[2]
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, **options)

    def flush(self):
        flight, at = self.outgoing.read(), 0
        if flight and self.replayed:
            self.replay(flight, self.replayed)
            self.replayed = None
        if flight and self.record:
            flight = in_records(flight, self.record.pop())
        for end in [cut for cut in self.cuts if cut < len(flight)] + [len(flight)]:
            self.raw.sendall(flight[at:end])
            at = end
            # What waits would go out with the next piece, in one segment.
            while struct.unpack("i", fcntl.ioctl(self.raw, SIOCOUTQ, b"\0" * 4))[0]:
                if self.raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise EOFError
                time.sleep(0.001)
        if flight:
            self.cuts = []

    def replay(self, flight, source):
        other = socket.create_connection(self.raw.getpeername()[:2], source_address=(source, 0))
        other.sendall(flight)
        assert other.recv(1) == b"\x16", "another ServerHello"
        self.other = other  # stays open as long as this one

    def do(self, call, *arguments):
        while True:
            try:
                result = call(*arguments)
                self.flush()
                return result
            except ssl.SSLWantReadError:
                self.flush()
                heard = self.raw.recv(65536)
                if not heard:
                    raise EOFError from None
                self.incoming.write(heard)


def numbers_of(case, *names):
    name, _, numbers = case.partition(":")
    return [int(number) for number in numbers.split(",") if number] if name in names else []


def in_records(flight, size):
    """The same handshake message, which is one record's, in smaller ones."""
    message = flight[5:]
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(flight[:3] + struct.pack(">H", len(part)) + part for part in parts)


def server_context(certificate, key, case):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if case.startswith("curve:"):
        context.set_ecdh_curve(case.split(":")[1])
    return context


def record(log, peer, text):
    print(*peer[:2], text.decode(), file=log, flush=True)


def serve(listener, context, count, case, log):
    for _ in range(count):
        raw, peer = listener.accept()
        talk = Talk(raw, context, case, server_side=True)
        talk.do(talk.tls.do_handshake)
        text = talk.do(talk.tls.read, 1000)
        record(log, peer, text)
        talk.do(talk.tls.write, text)
        try:
            talk.tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # the peer's own end needn't come
        talk.flush()
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(1000):
            pass
        raw.close()


async def serve_asyncio(listener, context, count, log):
    left, done = [count], asyncio.Event()

    async def answer(reader, writer):
        try:
            text = await reader.readexactly(len(TEXT))
            record(log, writer.get_extra_info("peername"), text)
            writer.write(text)
            await writer.drain()
            await reader.read()
        except (OSError, EOFError):
            pass  # a client of the crowd, or a hello that was replayed
        writer.close()
        left[0] -= 1
        if not left[0]:
            done.set()

    await asyncio.start_server(answer, sock=listener, ssl=context, backlog=1000)
    await done.wait()


def server(address, certificate, key, count, case, log=os.devnull):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family)
    print(listener.getsockname()[1], flush=True)
    context = server_context(certificate, key, case)
    with open(log, "w") as log:
        if case == "asyncio":
            asyncio.run(serve_asyncio(listener, context, int(count), log))
        else:
            serve(listener, context, int(count), case, log)


def client_context(case):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    names = ["http/1.1"]
    if case.startswith("long:"):
        names += [f"{number:03}" * 60 for number in range(20)]
    context.set_alpn_protocols(names)
    return context


async def talk_asyncio(address, port):
    context = client_context("asyncio")
    reader, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname="mirror.test")
    print(writer.get_extra_info("sockname")[1])
    writer.write(TEXT)
    assert await reader.readexactly(len(TEXT)) == TEXT
    writer.close()
    await writer.wait_closed()


def client(address, port, *cases):
    last = None
    for case in cases:
        if case == "asyncio":
            asyncio.run(talk_asyncio(address, int(port)))
            continue
        raw = socket.create_connection((address, int(port)))
        context, session = client_context(case), None
        if case == "resume":
            context, session = last
        talk = Talk(raw, context, case, server_hostname="mirror.test", session=session)
        talk.do(talk.tls.do_handshake)
        talk.do(talk.tls.write, TEXT)
        assert talk.do(talk.tls.read, 1000) == TEXT
        print(raw.getsockname()[1], "resumed" if talk.tls.session_reused else "", flush=True)
        if case == "held":
            sys.stdin.readline()
        last = context, talk.tls.session
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(1000):
            pass
        raw.close()


async def talk_shortly(address, port, context, number):
    reader, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname="mirror.test")
    raw = writer.get_extra_info("socket")
    text = b"%05d over port %05d" % (number, raw.getsockname()[1])
    assert len(text) == len(TEXT)
    writer.write(text)
    assert await reader.readexactly(len(text)) == text
    # Reset: its port is free for the next one.
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    await writer.wait_closed()


async def talk_in_turns(address, port, count, at_once):
    context, numbers = client_context("crowd"), iter(range(count))

    async def one_after_another():
        for number in numbers:
            await talk_shortly(address, port, context, number)

    await asyncio.gather(*(one_after_another() for _ in range(at_once)))


def crowd(address, port, count, at_once):
    asyncio.run(talk_in_turns(address, int(port), int(count), int(at_once)))


globals()[sys.argv[1]](*sys.argv[2:])
