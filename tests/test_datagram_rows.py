"""Datagrams in batches into the rows of an array."""

import struct
import sys
from typing import Any

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("datagrams in batches are there on Linux", allow_module_level=True)

from datagram_sockets import Sockets, filled
from pktalloc import Allocator, DatagramBatch, recv_many_into, send_many


def test_rows_of_an_array(sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    rows = np.full((8, 16), 255, np.uint8)
    send_many(there, [bytes([number]) * number for number in range(5)] + [b"z" * 20], here.getsockname(), gso=False)
    batch = recv_many_into(here, rows)
    assert (len(batch), batch.sizes, batch.truncated[-2:]) == (6, [0, 1, 2, 3, 4, 16], [False, True])
    assert batch.packets == []
    assert batch.addresses == [there.getsockname()] * 6
    assert rows[:batch][5].tobytes() == b"z" * 16
    assert rows[4].tolist() == [4] * 4 + [255] * 12
    with pytest.raises(IndexError):
        batch[0]
    # Fewer rows than datagrams: the rest stays in the socket.
    send_many(there, [b"%d" % number for number in range(10)], here.getsockname(), gso=False)
    assert recv_many_into(here, rows) == 8
    assert recv_many_into(here, rows) == 2
    # Numbers of other sizes, and rows with room between them.
    numbers = np.zeros((4, 6), np.uint32)
    send_many(there, [struct.pack("=3I", 1, 2, 3)] * 4, here.getsockname())
    assert recv_many_into(here, numbers[:, 1:4]) == 4
    assert numbers.tolist() == [[0, 1, 2, 3, 0, 0]] * 4
    send_many(there, [b"a", b"b"], here.getsockname())
    assert recv_many_into(here, rows[::-1]) == 2
    assert rows[-1][0] == ord("a")
    assert rows[-2][0] == ord("b")


def test_rows_that_make_no_sense(sockets: Sockets) -> None:
    here = sockets()
    wrong: list[tuple[Any, type[Exception], str]] = [
        (bytearray(100), ValueError, "two dimensions, this one has 1"),
        (np.zeros((2, 2, 2), np.uint8), ValueError, "two dimensions, this one has 3"),
        (np.zeros((0, 100), np.uint8), ValueError, "no room in 0 rows"),
        (np.zeros((4, 0), np.uint8), ValueError, "no room in 4 rows of 0"),
        (np.zeros((4, 100), np.uint8)[:, ::2], BufferError, "rows that are contiguous"),
        (np.zeros((4, 100), np.uint8, order="F"), BufferError, "rows that are contiguous"),
        (np.lib.stride_tricks.as_strided(np.zeros(100, np.uint8), (4, 50), (0, 1)), BufferError, "overlap"),
        (memoryview(b"x" * 100).cast("B", (10, 10)), TypeError, "needs a writable buffer"),
        ([bytearray(10)], TypeError, "not list"),
    ]
    readonly = np.zeros((4, 100), np.uint8)
    readonly.flags.writeable = False
    wrong.append((readonly, ValueError, "needs a writable buffer"))
    for rows, kind, text in wrong:
        with pytest.raises(kind, match=text):
            recv_many_into(here, rows)


def test_what_an_allocator_had_no_room_for_goes_into_rows(sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    small = Allocator(memory_limit=160 << 10, preallocated_windows=1)
    filler = [small.allocate(1 << 14) for _ in range(7)]
    send_many(there, [b"%d" % number * 600 for number in range(3)], here.getsockname(), gso=False)
    fillers = filled(small, 64)
    assert fillers
    with pytest.raises(MemoryError):
        small.recv_many(here)
    rows = np.zeros((2, 100), np.uint8)
    batch = recv_many_into(here, rows)
    assert (batch.sizes, batch.truncated, batch.waiting) == ([100, 100], [True, True], 1)
    assert rows[1].tobytes() == b"1" * 100
    assert recv_many_into(here, rows) == 1
    assert rows[0].tobytes() == b"2" * 100
    del filler


def test_no_memory_for_an_object_loses_no_datagram_of_a_row(sockets: Sockets) -> None:
    testcapi: Any = pytest.importorskip("_testcapi", exc_type=ImportError)
    sent = [b"%d" % number * 10 for number in range(5)]
    rows = np.zeros((8, 100), np.uint8)
    refused = 0
    for place in range(50):
        here, there = sockets(), sockets()
        send_many(there, sent, here.getsockname(), gso=False)
        batch: DatagramBatch[Any] | None = None
        # Nothing but the call may need memory.
        testcapi.set_nomemory(place, place + 1)
        try:
            batch = recv_many_into(here, rows)
        except MemoryError:
            pass
        finally:
            testcapi.remove_mem_hooks()
        refused += batch is None
        received: list[bytes] = []
        while True:
            if batch is not None:
                assert len(batch.addresses) == len(batch)
                received.extend(row[:size].tobytes() for row, size in zip(rows, batch.sizes, strict=False))
            if len(received) >= 5:
                break
            batch = recv_many_into(here, rows)
        assert received == sent, place
        here.close()
        there.close()
    assert refused
