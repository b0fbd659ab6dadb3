"""Datagrams in batches: what a batch holds and tells, in which calls it comes and goes, and what it leaves behind."""

from __future__ import annotations

import gc
import operator
import os
import socket
import subprocess
import sys
import time
from typing import Any
from unittest import mock

import numpy as np
import pytest

import pktalloc

if sys.platform != "linux":
    pytest.skip("datagrams in batches are there on Linux", allow_module_level=True)

from datagram_sockets import Sockets, drained, receive
from pktalloc import Allocator, recv_many_into, send_many


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_packets_of_their_size_and_addresses_as_recvfrom_gives_them(
    allocator: Allocator, sockets: Sockets, family: int
) -> None:
    here, there = sockets(family), sockets(family)
    datagrams = [bytes([number]) * (number * 20) for number in range(64)]
    assert send_many(there, datagrams, here.getsockname()) == 64
    there.sendto(b"plain", here.getsockname())
    pairs = receive(allocator, here, 64)
    assert [bytes(packet) for packet, _ in pairs] == datagrams
    _, plain = here.recvfrom(100)
    assert {address for _, address in pairs} == {plain}
    assert allocator.used_bytes == sum(max(1, -(-len(datagram) // 64)) * 64 for datagram in datagrams)


class Broken:
    """An index that cannot be had."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __index__(self) -> int:
        raise self.error


def test_an_index_raises_what_it_raises(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    there.sendto(b"one", here.getsockname())
    batch = allocator.recv_many(here)
    for far in (10**30, -(10**30)):
        with pytest.raises(IndexError):
            batch[far]
    for error in ZeroDivisionError, KeyboardInterrupt, TypeError:
        with pytest.raises(error):
            batch[Broken(error)]
    assert bytes(batch[np.int64(0)][0]) == b"one"


def test_a_batch_compares_as_its_number(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    send_many(there, [b"a", b"b", b"c"], here.getsockname(), gso=False)
    batch: Any = allocator.recv_many(here)
    for kind in int, np.int64, np.uint8, np.array:
        for number in 2, 3, 4:
            for compare in operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge:
                assert compare(batch, kind(number)) == compare(3, number), (kind, number, compare)
                assert compare(kind(number), batch) == compare(number, 3), (kind, number, compare)
    assert batch == mock.ANY
    assert not batch != mock.ANY  # noqa: SIM202 - the operator is what is tried
    assert batch == batch  # noqa: PLR0124
    assert batch != "3"
    with pytest.raises(TypeError):
        batch < "3"  # noqa: B015
    with pytest.raises(ZeroDivisionError):
        batch == Broken(ZeroDivisionError)  # noqa: B015
    # Batches of one length are not the same batch.
    send_many(there, [b"d", b"e", b"f"], here.getsockname(), gso=False)
    other = allocator.recv_many(here)
    assert batch != other
    with pytest.raises(TypeError):
        batch < other  # noqa: B015


def test_a_batch_is_a_sequence_of_pairs(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    send_many(there, [b"a", b"", b"ccc", b"dddddd"], here.getsockname(), gso=False)
    batch = allocator.recv_many(here, 10, 4)
    assert len(batch) == batch == 4
    assert batch != 5
    assert batch > 3
    assert batch.sizes == [1, 0, 3, 4]
    assert batch.truncated == [False, False, False, True]
    assert [bytes(packet) for packet in batch.packets] == [b"a", b"", b"ccc", b"dddd"]
    assert batch.addresses == [there.getsockname()] * 4
    assert batch[0] == (batch.packets[0], there.getsockname())
    assert batch[-1] == batch[3]
    assert batch[1:3] == [batch[1], batch[2]]
    assert batch[::-1] == list(batch)[::-1]
    for wrong in (4, -5):
        with pytest.raises(IndexError, match="out of range"):
            batch[wrong]
    with pytest.raises(TypeError, match="integers or slices, not str"):
        batch["0"]  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="unhashable"):
        hash(batch)
    assert repr(batch) == "<pktalloc.DatagramBatch: 4 datagrams, 8 bytes>"
    for told in (batch.timestamps_ns, batch.local_addresses, batch.ecn, batch.interfaces):
        assert told == [None] * 4
    assert (batch.dropped, batch.joined, batch.waiting) == (None, 0, 0)


def test_an_empty_datagram_is_an_empty_packet(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    send_many(there, [b"", b""], here.getsockname())
    packets = [packet for packet, _ in receive(allocator, here, 2)]
    assert [len(packet) for packet in packets] == [0, 0]
    assert packets[0] == b""
    assert send_many(there, packets, here.getsockname()) == 2
    assert here.recv(10) == b""


def test_small_datagrams_in_large_slots_hold_little(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    held: list[Any] = []
    for _ in range(200):
        send_many(there, [b"x" * 60] * 50, here.getsockname(), gso=False)
        held.extend(receive(allocator, here, 50, size=65536))
    assert allocator.allocated_bytes < 130 * len(held)


@pytest.mark.parametrize("gro", [True, False])
@pytest.mark.parametrize("gso", [True, False])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_what_the_kernel_joins_comes_out_as_it_was_sent(
    allocator: Allocator, sockets: Sockets, gro: bool, gso: bool, family: int
) -> None:
    here, there = sockets(family), sockets(family)
    datagrams = [os.urandom(1200) for _ in range(70)] + [b"short", b"", b"60" * 30, b"61" * 30]
    before = pktalloc.datagram_counters()
    if gro:
        # The option has to be on before the datagrams come.
        here.setblocking(False)
        with pytest.raises(BlockingIOError):
            allocator.recv_many(here, gro=True)
        here.settimeout(10)
    assert send_many(there, datagrams, here.getsockname(), gso=gso) == len(datagrams)
    pairs = receive(allocator, here, len(datagrams), gro=gro)
    assert [bytes(packet) for packet, _ in pairs] == datagrams
    assert {address for _, address in pairs} == {there.getsockname()}
    after = pktalloc.datagram_counters()
    assert (after["sent_joined"] > before["sent_joined"]) == gso
    assert (after["received_joined"] > before["received_joined"]) == (gro and gso)


def test_slices_share_one_packet(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    here.setsockopt(socket.SOL_UDP, 104, 1)
    datagrams = [bytes([number]) * 1000 for number in range(10)] + [b"end"]
    send_many(there, datagrams, here.getsockname())
    batch = allocator.recv_many(here, gro=True, slices=True)
    assert [bytes(part) for part in batch.packets] == datagrams
    assert all(isinstance(part, memoryview) for part in batch.packets)
    assert allocator.stats().live_packets == 1
    assert batch.joined == 11
    assert send_many(there, batch.packets, here.getsockname()) == 11
    del batch
    gc.collect()
    assert allocator.used_bytes == 0


def test_what_the_system_says_about_datagrams(allocator: Allocator, sockets: Sockets) -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        here, there = sockets(family), sockets(family)
        here.setblocking(False)
        wanted = {"timestamps": True, "local_addresses": True, "ecn": True, "dropped": True}
        with pytest.raises(BlockingIOError):
            allocator.recv_many(here, **wanted)
        if family == socket.AF_INET:
            there.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 2)
        else:
            there.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 2)
        send_many(there, [b"a", b"b"], here.getsockname())
        batch = allocator.recv_many(here, **wanted)
        assert batch.local_addresses == [host] * 2
        assert batch.ecn == [2, 2]
        assert batch.interfaces == [socket.if_nametoindex("lo")] * 2
        assert all(stamp is not None and 0 <= time.time_ns() - stamp < 10**10 for stamp in batch.timestamps_ns)


def test_drops_are_counted(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    here.setblocking(False)
    with pytest.raises(BlockingIOError):
        allocator.recv_many(here, dropped=True)
    for _ in range(20):
        send_many(there, [b"x" * 1000] * 100, here.getsockname(), gso=False)
    received = drained(allocator, here)
    assert received < 2000
    there.sendto(b"last", here.getsockname())
    assert allocator.recv_many(here).dropped == 2000 - received


def test_addresses_for_each_for_all_and_none(allocator: Allocator, sockets: Sockets) -> None:
    first, second, there = sockets(), sockets(), sockets()
    to = [first.getsockname(), second.getsockname(), first.getsockname()]
    assert send_many(there, [b"1", bytearray(b"2"), memoryview(b"3")], to) == 3
    assert [bytes(packet) for packet, _ in receive(allocator, first, 2)] == [b"1", b"3"]
    assert [bytes(packet) for packet, _ in receive(allocator, second, 1)] == [b"2"]
    assert send_many(there, (packet for packet in [b"4"]), second.getsockname()) == 1
    batch = allocator.recv_many(second)
    assert send_many(second, batch) == 1
    assert send_many(second, batch, first.getsockname()) == 1
    assert there.recv(10) == b"4"
    assert first.recv(10) == b"4"
    there.connect(first.getsockname())
    assert send_many(there, [b"5", b"6"]) == 2
    assert len(receive(allocator, first, 2)) == 2
    with pytest.raises(ValueError, match="2 packets and 1 addresses"):
        send_many(there, [b"", b""], [first.getsockname()])
    first.settimeout(1)
    with pytest.raises(OSError, match="Destination address required"):
        send_many(second, [b"7"])


def test_a_send_of_thousands(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    datagrams = [number.to_bytes(2, "big") for number in range(2500)]
    assert send_many(there, datagrams, here.getsockname()) == 2500
    pairs = receive(allocator, here, 2500, count=10**6)
    assert [bytes(packet) for packet, _ in pairs] == datagrams


def test_many_peers(allocator: Allocator, sockets: Sockets) -> None:
    here = sockets()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    peers = [sockets() for _ in range(400)]
    for _ in range(3):
        for peer in peers:
            peer.sendto(b"%d" % peer.getsockname()[1], here.getsockname())
        pairs = receive(allocator, here, 400)
        assert [address for _, address in pairs] == [peer.getsockname() for peer in peers]
        assert send_many(here, pairs) == 400
        for peer in peers:
            assert peer.recv(10) == b"%d" % peer.getsockname()[1]


def test_nothing_is_leaked(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    address = here.getsockname()
    rows = np.zeros((16, 100), np.uint8)

    def step() -> None:
        send_many(there, [bytearray(b"x" * 50)] * 16, address)
        for packet, _ in receive(allocator, here, 16):
            assert len(packet) == 50
        send_many(there, [b"y"] * 8, [address] * 8)
        recv_many_into(here, rows)
        with pytest.raises(TypeError):
            send_many(there, [b"z", 5], address)  # type: ignore[list-item]

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    for _ in range(50):
        step()
    before, references = blocks(), sys.getrefcount(address)
    for _ in range(300):
        step()
    assert blocks() - before < 100
    assert sys.getrefcount(address) - references < 5
    assert allocator.used_bytes == 0


def test_a_batch_that_holds_itself_is_collected(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    there.sendto(b"x", here.getsockname())
    batch: Any = allocator.recv_many(here)
    batch.packets.append(batch)
    assert allocator.used_bytes == 64
    del batch
    gc.collect()
    assert allocator.used_bytes == 0


# Until somebody in a process asks a socket for more than addresses, datagrams that come one at a time are received by
# plain calls: in a process of its own, since other tests ask.
BATCHES_OF_ONE = """
import socket, threading
from pktalloc import Allocator, datagram_counters, recv_many_into, send_many

allocator = Allocator()
rows = memoryview(bytearray(64 * 100)).cast("B", (64, 100))

def calls(work):
    before = datagram_counters()["receive_calls"]
    batch = work()
    return datagram_counters()["receive_calls"] - before, batch

for make in ("inet", "inet6", "unix"):
    if make == "unix":
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = None
    else:
        family, host = (socket.AF_INET, "127.0.0.1") if make == "inet" else (socket.AF_INET6, "::1")
        here, there = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
        here.bind((host, 0))
        there.bind((host, 0))
        there.connect(here.getsockname())
        address = there.getsockname()
    for timeout in (0, 10, None):
        here.settimeout(timeout)
        for receive in (
            lambda count: allocator.recv_many(here, count, 100),
            lambda count: recv_many_into(here, rows[:count]),
        ):
            for _ in range(3):
                # One at a time; then several, which come in one batch although one was expected.
                for length in (7, 0, 100, 101):
                    there.send(b"x" * length)
                    _, batch = calls(lambda: receive(64))
                    assert (batch.sizes, batch.truncated) == ([min(length, 100)], [length > 100])
                    assert batch.addresses == [address]
                for count in (2, 3, 9):
                    for _ in range(2):
                        there.send(b"alone")
                        assert receive(64).sizes == [5]
                    assert send_many(there, [b"y" * number for number in range(count)], gso=False) == count
                    assert receive(64).sizes == list(range(count))
            for length in (7, 101):
                there.send(b"x" * length)
                there.send(b"stays")
                system_calls, batch = calls(lambda: receive(1))
                assert (system_calls, batch.sizes, batch.truncated) == (1, [min(length, 100)], [length > 100])
                assert receive(64).sizes == [5]
            for _ in range(2):
                there.send(b"alone")
                assert receive(64).sizes == [5]
    for count in (1, 64):
        thread = threading.Timer(0.01, there.send, (b"late",))
        thread.start()
        assert allocator.recv_many(here, count).sizes == [4]
        thread.join()
    if make == "unix":
        socket.send_fds(there, [b"x"], [0])
        assert allocator.recv_many(here, 1).sizes == [1]

here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("127.0.0.1", 0))
here.setblocking(False)
try:
    allocator.recv_many(here, timestamps=True, local_addresses=True)
except BlockingIOError:
    pass
# From then on, also in batches of one and where nobody asks again.
for count in (64, 64, 1):
    there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    there.sendto(b"x", here.getsockname())
    batch = allocator.recv_many(here, count)
    assert batch.timestamps_ns[0] > 0 and batch.local_addresses == ["127.0.0.1"]
print("done")
"""


def test_batches_of_one() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BATCHES_OF_ONE], check=False, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "done\n")
