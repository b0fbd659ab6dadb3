"""What type checkers must accept at every Python from 3.11 on: `make lint` gives them this file; nothing runs it."""

import hashlib
import os
import socket
import struct
import sys
from collections import deque
from typing import assert_type

import numpy as np
from typing_extensions import Buffer

import pktalloc

allocator = pktalloc.Allocator(alignment=64, memory_limit=None, check=True)
packet = allocator.allocate(1400)

# A packet is a buffer, for readers and for writers.
view = memoryview(packet)
if sys.version_info >= (3, 12):
    array = np.frombuffer(packet, dtype=np.uint8)
else:
    # Before 3.12 NumPy's stubs take the buffers that they name, and no class of another package, as this one shows. If
    # that changes, mypy reports the comment as unused; the line above then holds for every version.
    class Foreign:
        def __buffer__(self, flags: int, /) -> memoryview:
            return memoryview(b"")

    foreign: Buffer = Foreign()
    np.frombuffer(Foreign(), dtype=np.uint8)  # type: ignore[call-overload]
    array = np.frombuffer(packet.view, dtype=np.uint8)
digest = hashlib.sha256(packet)
struct.pack_into("!HH", packet, 0, 1, 2)
numbers = struct.unpack_from("!HH", packet)
with socket.socket(type=socket.SOCK_DGRAM) as sock:
    received = sock.recv_into(packet)
    sock.sendto(packet, ("127.0.0.1", 9))
with open(os.devnull, "rb", buffering=0) as file:  # noqa: PTH123
    file.readinto(packet)
copy = b"".join([packet, bytes(packet), bytearray(packet)])

# A slice takes any buffer of its size.
packet[:4] = b"head"
packet[4:8] = bytearray(4)
packet[8:12] = memoryview(b"tail")
packet[0:16] = np.zeros(16, np.uint8)
packet[0:16] = allocator.allocate(16)
packet[0] = 7

assert_type(packet[0], int)
assert_type(packet[0:4], memoryview)
assert_type(packet.view, memoryview)
assert_type(list(packet), list[int])
assert_type(packet.tobytes(), bytes)
assert_type(allocator.allocate_many(1400, 64), list[pktalloc.Packet])
assert_type(allocator.stats().used_bytes, int)
assert_type(allocator.windows()[0], pktalloc.Window)
with allocator as same, same.allocate(100) as inner:
    assert_type(inner, pktalloc.Packet)

# What grows takes the same.
packet.append(np.zeros(16, np.uint8))
packet.prepend(np.zeros(16, np.uint8))
packet.append(b"tail")

queue: deque[pktalloc.Packet] = deque([packet])
