"""A link in user space: a TAP device, on which a host has its addresses, whose frames go over another interface.

    link.py TAP INTERFACE WAY      prints `up` when frames pass

What the way does is done to frames that come from the TAP device, before they are on the other interface:

    tags:7,8           they have these VLAN tags, the outer first; without them nothing comes in
    twice              what carries text is said twice
    swapped            of a direction's first segments with text the third stands before the second
    lost               a direction's first two segments with text are on the interface, and never arrive
    asked:OWN,OTHER    what OWN says of handshakes is said by OTHER, too, and first
    replayed:OWN,OTHER the same, with what OWN is answered
"""

import fcntl
import ipaddress
import os
import select
import socket
import struct
import subprocess
import sys

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
ETH_P_ALL, SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 3, 263, 8, 23
TAGGED = 1 << 4  # in a frame's tp_status
QUIET_S = 0.02  # what is held back goes when nothing has come for so long
MOST = 65536


class Segment:
    """A frame's TCP segment."""

    def __init__(self, frame, addresses, size, tcp, end):
        self.addresses, self.size, self.tcp = addresses, size, tcp
        self.way = frame[addresses : addresses + 2 * size] + frame[tcp : tcp + 4]
        self.flags = frame[tcp + 13]
        self.payload = frame[tcp + (frame[tcp + 12] >> 4) * 4 : end]

    @staticmethod
    def of(frame):
        if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
            end = 14 + int.from_bytes(frame[16:18], "big")
            return Segment(frame, 26, 4, 14 + (frame[14] & 15) * 4, end)
        if frame[12:14] == b"\x86\xdd" and frame[20] == socket.IPPROTO_TCP:
            return Segment(frame, 22, 16, 54, 54 + int.from_bytes(frame[18:20], "big"))
        return None


def with_other_address(frame, segment, own, other, places):
    """The frame with another address instead of that one, at the source (0) or the destination (1); None: it isn't there."""
    at = [segment.addresses + place * segment.size for place in places]
    at = [place for place in at if frame[place : place + segment.size] == own]
    if not at or len(own) != segment.size:
        return None
    changed = bytearray(frame)
    changed[at[0] : at[0] + segment.size] = other
    checksums = [segment.tcp + 16] + ([24] if segment.size == 4 else [])
    for place in checksums:  # RFC 1624
        total = ~int.from_bytes(frame[place : place + 2], "big") & 0xFFFF
        for old, new in zip(struct.iter_unpack(">H", own), struct.iter_unpack(">H", other)):
            total += (~old[0] & 0xFFFF) + new[0]
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into(">H", changed, place, ~total & 0xFFFF)
    return bytes(changed)


class Way:
    def __init__(self, way):
        self.name, _, words = way.partition(":")
        words = [word for word in words.split(",") if word]
        self.tags = [int(word) for word in words] if self.name == "tags" else []
        self.others = [ipaddress.ip_address(word).packed for word in words] if not self.tags else []
        self.said, self.heard, self.held = {}, {}, None

    def out(self, frame):
        """What is sent of a frame from the TAP device, in its order."""
        if self.tags:
            return [self.tagged(frame)]
        segment = Segment.of(frame)
        if segment is None:
            return [frame]
        if self.name in ("asked", "replayed") and (segment.flags & 2 or segment.payload[:1] == b"\x16"):
            places = [0] if self.name == "asked" else [0, 1]
            other = with_other_address(frame, segment, *self.others, places)
            return [other, frame] if other else [frame]
        if not segment.payload:
            return [frame]
        if self.name == "twice":
            return [frame, frame]
        if self.name == "swapped":
            number = self.said[segment.way] = self.said.get(segment.way, 0) + 1
            if number == 2:
                self.held = frame
                return []
            return [frame] + self.quiet()
        return [frame]

    def quiet(self):
        """What was held back."""
        held, self.held = self.held, None
        return [held] if held else []

    def arrives(self, frame):
        segment = Segment.of(frame)
        if self.name != "lost" or segment is None or not segment.payload:
            return True
        number = self.heard[segment.way] = self.heard.get(segment.way, 0) + 1
        return number > 2

    def tagged(self, frame):
        kinds = [0x88A8] * (len(self.tags) - 1) + [0x8100]
        tags = b"".join(struct.pack(">HH", kind, tag) for kind, tag in zip(kinds, self.tags))
        return frame[:12] + tags + frame[12:]

    def untagged(self, frame, outer):
        """A frame from the interface without its tags, of which the kernel has taken off the outer one."""
        tags = [] if outer is None else [outer]
        while frame[12:14] in (b"\x81\x00", b"\x88\xa8"):
            tags.append(int.from_bytes(frame[14:16], "big"))
            frame = frame[:12] + frame[16:]
        return frame if tags == self.tags else None


def outer_tag(ancillary):
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tag, _ = struct.unpack("IIIHHHH", data)
            return tag if status & TAGGED else None
    return None


def main(tap_name, interface, way):
    way = Way(way)
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", tap_name.encode(), IFF_TAP | IFF_NO_PI))
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    wire.bind((interface, 0))
    wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    wire.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    subprocess.run(["ip", "link", "set", tap_name, "up"], check=True)
    print("up", flush=True)
    while True:
        ready, _, _ = select.select([tap, wire], [], [], QUIET_S if way.held else None)
        frames = way.quiet() if not ready else []
        if tap in ready:
            frames = way.out(os.read(tap, MOST))
        for frame in frames:
            wire.send(frame)
        if wire in ready:
            frame, ancillary, _, _ = wire.recvmsg(MOST, 100)
            frame = way.untagged(frame, outer_tag(ancillary))
            if frame and way.arrives(frame):
                os.write(tap, frame)


main(*sys.argv[1:])
