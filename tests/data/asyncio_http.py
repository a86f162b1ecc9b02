"""HTTPS by asyncio, whose TLS is memory BIOs: a server, and a client with many connections at once.

    asyncio_http.py server PORT CERTIFICATE KEY DIRECTORY ADDRESS…
    asyncio_http.py client ADDRESS PORT OUT NAME CONNECTIONS REQUESTS

The server answers GET /get/FILE with that file of DIRECTORY, and POST with what it was sent; SIGTERM ends it. Each connection
of the client makes its requests one after another, all connections side by side. OUT/NAME.N.port is the port of connection
number N, OUT/NAME.N.sent and OUT/NAME.N.received are all its bytes.
"""

import asyncio
import signal
import ssl
import sys


async def head_of(reader):
    """First line and length of the body of a request or response, and its bytes."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    return lines[0], int(fields.get("content-length", 0)), head


async def serve(directory, reader, writer):
    try:
        while True:
            line, length, _ = await head_of(reader)
            method, url, _ = line.split(" ")
            body = await reader.readexactly(length)
            if method == "GET":
                with open(f"{directory}/{url.split('?')[0].rsplit('/', 1)[1]}", "rb") as file:
                    body = file.read()
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


async def server(port, certificate, key, directory, *addresses):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await asyncio.start_server(lambda *ends: serve(directory, *ends), list(addresses), int(port), ssl=context)
    await ended.wait()


async def talk(address, port, record, url, requests):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname="mirror.test")
    with open(f"{record}.port", "w") as file:
        file.write(str(writer.get_extra_info("sockname")[1]))
    with open(f"{record}.sent", "wb") as sent, open(f"{record}.received", "wb") as received:
        for number in range(requests):
            request = f"GET {url}.{number} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode()
            writer.write(request)
            sent.write(request)
            _, length, head = await head_of(reader)
            received.write(head + await reader.readexactly(length))
    writer.close()
    await writer.wait_closed()


async def client(address, port, out, name, connections, requests):
    each = (
        talk(address, int(port), f"{out}/{name}.{number}", f"/get/20000?{name}.{number}", int(requests))
        for number in range(int(connections))
    )
    await asyncio.gather(*each)


asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
