"""What type checkers must know of datagrams, which Linux has, at every Python from 3.11 on; nothing runs it."""

import socket
import sys
from typing import Any, Never, assert_type

import numpy as np

import pktalloc

if sys.platform == "linux":
    allocator = pktalloc.Allocator()
    switch = bool(sys.argv)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        batch = allocator.recv_many(sock, 64, gro=True)
        assert_type(batch, pktalloc.DatagramBatch[pktalloc.Packet])
        assert_type(batch.packets, list[pktalloc.Packet])
        assert_type(batch[0], tuple[pktalloc.Packet, Any])
        assert_type(batch[:2], list[tuple[pktalloc.Packet, Any]])
        for packet, _address in batch:
            assert_type(packet, pktalloc.Packet)
        assert_type(allocator.recv_many(sock, slices=True)[0][0], memoryview)
        either = allocator.recv_many(sock, slices=switch)
        assert_type(either, pktalloc.DatagramBatch[pktalloc.Packet] | pktalloc.DatagramBatch[memoryview])

        rows = np.zeros((64, 1500), np.uint8)
        filled = pktalloc.recv_many_into(sock, rows)
        assert_type(filled.packets, list[Never])
        if filled == 64 or filled < np.int64(64):
            first = rows[:filled]

        pktalloc.send_many(sock, batch)
        pktalloc.send_many(sock, batch.packets, ("127.0.0.1", 9))
        pktalloc.send_many(sock, [b"one", bytearray(3), memoryview(b"two"), batch.packets[0], np.zeros(16, np.uint8)])
        pktalloc.send_many(sock, [(b"one", ("127.0.0.1", 9)), (batch[0][0], ("127.0.0.1", 9))])

    def longest(batch: pktalloc.DatagramBatch) -> pktalloc.Packet:
        """Without a parameter a batch is one of packets."""
        return max(batch.packets, key=len)
