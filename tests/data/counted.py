"""Connections by asyncio that all ask for as much, and get different amounts.

    counted.py server ADDRESS CERT KEY           prints its port; answers until it is ended
    counted.py client ADDRESS PORT ROUNDS SIZE…  a connection for each size, all at once, each of which asks so often;
                                                 prints its port and its size

An answer takes a moment, as on a network.
"""

import asyncio
import ssl
import sys

MOMENT = 0.03


def answer_of(size):
    return (b"%06d," % size * (size // 7 + 1))[:size]


async def serve(reader, writer):
    try:
        while line := await reader.readline():
            await asyncio.sleep(MOMENT)
            writer.write(answer_of(int(line)))
    except ConnectionError:
        pass
    writer.close()


async def server(address, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = await asyncio.start_server(serve, address, 0, ssl=context, backlog=1000)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


async def ask(address, port, rounds, size, context, all_done):
    reader, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname="mirror.test")
    for _ in range(rounds):
        writer.write(b"%06d\n" % size)
        assert await reader.readexactly(size) == answer_of(size)
    print(writer.get_extra_info("sockname")[1], size, flush=True)
    await all_done.wait()
    writer.close()


async def client(address, port, rounds, *sizes):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    all_done = asyncio.Barrier(len(sizes)) if sys.version_info >= (3, 11) else asyncio.Event()
    if isinstance(all_done, asyncio.Event):
        all_done.set()
    await asyncio.gather(*(ask(address, int(port), int(rounds), int(size), context, all_done) for size in sizes))


asyncio.run({"server": server, "client": client}[sys.argv[1]](*sys.argv[2:]))
