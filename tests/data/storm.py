"""ClientHellos of clients that aren't there, each of another connection, with another random, and well-formed.

    storm.py INTERFACE COUNT
"""

import os
import socket
import ssl
import struct
import sys

ETHERNET = bytes.fromhex("020000000001 020000000002 0800")
SERVER = socket.inet_aton("198.51.100.1")
SYN, DATA = 0x02, 0x18
RANDOM = slice(11, 43)  # behind the record's header, the message's, and a version (RFC 8446 4.1.2, 5.1)


def hello():
    context = ssl.create_default_context()
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="storm.test")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return bytearray(out.read())


def frame(number, sequence, flags, payload):
    client = struct.pack("!I", 0xCB007100 + number // 50_000)  # 203.0.113.0/24
    ports = struct.pack("!HH", 1024 + number % 50_000, 443)
    tcp = ports + struct.pack("!IIBBHHH", sequence, 1, 5 << 4, flags, 65535, 0, 0) + payload
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0)
    return ETHERNET + ip + client + SERVER + tcp


def main():
    interface, count = sys.argv[1], int(sys.argv[2])
    said = hello()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((interface, 0))
        for number in range(count):
            said[RANDOM] = os.urandom(32)
            wire.send(frame(number, 0, SYN, b""))
            wire.send(frame(number, 1, DATA, bytes(said)))


main()
