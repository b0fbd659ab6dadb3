"""Datagrams in batches: every kind of socket, and everything that goes wrong with one."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pktalloc
from pktalloc import Allocator, DatagramBatch, Packet, recv_many_into, send_many

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="datagrams in batches are there on Linux")

Sockets = Callable[..., socket.socket]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """Make sockets that are bound to this host (or to nothing: `None`), wait at most 10 seconds, and are closed."""
    with ExitStack() as stack:

        def make(family: int = socket.AF_INET, host: str | None = "", kind: int = socket.SOCK_DGRAM) -> socket.socket:
            made = stack.enter_context(socket.socket(family, kind))
            if family in {socket.AF_INET, socket.AF_INET6} and host is not None:
                made.bind((host or ("127.0.0.1" if family == socket.AF_INET else "::1"), 0))
            made.settimeout(10)
            return made

        yield make


def receive(allocator: Allocator, sock: socket.socket, total: int, **options: Any) -> list[tuple[Any, Any]]:
    """Receive `total` datagrams in as many calls as that takes."""
    pairs: list[tuple[Any, Any]] = []
    while len(pairs) < total:
        pairs.extend(allocator.recv_many(sock, **options))
    assert len(pairs) == total
    return pairs


def drained(allocator: Allocator, sock: socket.socket) -> int:
    """Receive everything from a non-blocking socket; return how many datagrams that were."""
    received = 0
    try:
        while True:
            received += len(allocator.recv_many(sock))
    except BlockingIOError:
        return received


def filled(allocator: Allocator, size: int) -> list[Packet]:
    """Allocate packets until the allocator refuses."""
    packets: list[Packet] = []
    try:
        while True:
            packets.append(allocator.allocate(size))
    except MemoryError:
        return packets


def wait_until_asleep(thread: threading.Thread) -> None:
    """Wait until a thread waits for the system."""
    state = Path(f"/proc/self/task/{thread.native_id}/stat")
    while not state.read_text(encoding="ascii").split(") ")[1].startswith("S"):
        pass


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


def link_local() -> tuple[str, str]:
    """Find a link-local address of this host, and the interface that has it."""
    lines = [line.split() for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()]
    found = [line for line in lines if line[0].startswith("fe80")]
    if not found:
        pytest.skip("this host has no link-local address")
    raw, _, _, _, _, name = found[0]
    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(raw)), name


@dataclass
class Kind:
    """Two sockets of a kind: where datagrams are received, where they come from, and the address that they go to."""

    here: socket.socket
    there: socket.socket
    to: Any
    source: Any
    inet: bool = True


def ipv4(sockets: Sockets, folder: Path) -> Kind:
    del folder
    here, there = sockets(), sockets()
    return Kind(here, there, here.getsockname(), there.getsockname())


def ipv6(sockets: Sockets, folder: Path) -> Kind:
    del folder
    here, there = sockets(socket.AF_INET6), sockets(socket.AF_INET6)
    return Kind(here, there, here.getsockname(), there.getsockname())


def ipv6_with_scope(sockets: Sockets, folder: Path) -> Kind:
    del folder
    host, name = link_local()
    here, there = sockets(socket.AF_INET6, None), sockets(socket.AF_INET6, None)
    for sock in (here, there):
        sock.bind((host, 0, 0, socket.if_nametoindex(name)))
    return Kind(here, there, (f"{host}%{name}", here.getsockname()[1]), there.getsockname())


def multicast_over_ipv4(sockets: Sockets, folder: Path) -> Kind:
    del folder
    here, there = sockets(host="0.0.0.0"), sockets()  # noqa: S104 - what a receiver of multicast binds to
    group = "239.255.77.9"
    try:
        member = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
        here.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        there.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        there.sendto(b"can it be sent", (group, 9))
    except OSError as error:
        pytest.skip(f"this host has no multicast: {error}")
    return Kind(here, there, (group, here.getsockname()[1]), there.getsockname())


def multicast_over_ipv6(sockets: Sockets, folder: Path) -> Kind:
    del folder
    host, name = link_local()
    group, scope = "ff12::7:9", socket.if_nametoindex(name)
    here, there = sockets(socket.AF_INET6, "::"), sockets(socket.AF_INET6, None)
    there.bind((host, 0, 0, scope))
    member = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@i", scope)
    here.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
    return Kind(here, there, (group, here.getsockname()[1], 0, scope), there.getsockname())


def unix(sockets: Sockets, folder: Path) -> Kind:
    here, there = sockets(socket.AF_UNIX), sockets(socket.AF_UNIX)
    here.bind(str(folder / "here"))
    there.bind(b"\0pktalloc-kind-%d" % os.getpid())
    return Kind(here, there, str(folder / "here"), there.getsockname(), inet=False)


def packets(sockets: Sockets, folder: Path) -> Kind:
    del folder
    protocol = 0x88B6  # for experiments
    try:
        here, there = (sockets(socket.AF_PACKET, kind=socket.SOCK_DGRAM) for _ in range(2))
    except PermissionError:
        pytest.skip("packet sockets need privileges")
    here.bind(("lo", protocol))
    source = ("lo", protocol, socket.PACKET_HOST, 772, bytes(6))
    return Kind(here, there, ("lo", protocol, 0, 0, bytes(6)), source, inet=False)


KINDS = [ipv4, ipv6, ipv6_with_scope, multicast_over_ipv4, multicast_over_ipv6, unix, packets]


@pytest.mark.parametrize("gro", [True, False], ids=["gro", "no gro"])
@pytest.mark.parametrize("gso", [True, False], ids=["gso", "no gso"])
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "to an address"])
@pytest.mark.parametrize("make", KINDS, ids=[make.__name__ for make in KINDS])
def test_every_kind_of_socket(  # noqa: PLR0917 - fixtures and parameters
    allocator: Allocator,
    sockets: Sockets,
    tmp_path: Path,
    make: Callable[[Sockets, Path], Kind],
    connected: bool,
    gso: bool,
    gro: bool,
) -> None:
    kind = make(sockets, tmp_path)
    here, there = kind.here, kind.there
    if connected and make is packets:
        there.bind(kind.to[:2])
        kind.source = None  # the last frame's memory says what kind it is
    elif connected:
        there.connect(kind.to)
    here.setblocking(False)
    with pytest.raises(BlockingIOError):
        allocator.recv_many(here, gro=gro)
    here.settimeout(10)
    before = pktalloc.datagram_counters()
    # A Unix socket's queue holds ten.
    for datagrams in ([os.urandom(1200) for _ in range(7)] + [b"a shorter one"], [b"n" * 60] * 3, [b"one by itself"]):
        address = None if connected else kind.to
        assert send_many(there, datagrams, address, gso=gso) == len(datagrams)
        pairs = receive(allocator, here, len(datagrams), gro=gro)
        assert [bytes(packet) for packet, _ in pairs] == datagrams
        if kind.source is not None:
            assert {sender for _, sender in pairs} == {kind.source}
    after = pktalloc.datagram_counters()
    assert (after["sent_joined"] > before["sent_joined"]) == (gso and kind.inet)
    assert (after["received_joined"] > before["received_joined"]) == (gro and gso and kind.inet)
    if kind.inet and not connected:
        # And back, to the address that came along.
        assert send_many(here, [b"back"] * 3, kind.source, gso=gso) == 3
        assert [bytes(packet) for packet, _ in receive(allocator, there, 3)] == [b"back"] * 3


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


def test_link_local_addresses_keep_their_scope(allocator: Allocator) -> None:
    host, name = link_local()
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as there,
    ):
        for sock in (here, there):
            sock.bind((host, 0, 0, socket.if_nametoindex(name)))
            sock.settimeout(10)
        _, port, _, _ = here.getsockname()
        assert send_many(there, [b"1"], (f"{host}%{name}", port)) == 1
        assert send_many(there, [b"2"], here.getsockname()) == 1
        assert [address for _, address in receive(allocator, here, 2)] == [there.getsockname()] * 2
        assert send_many(here, [b"3"], there.getsockname()) == 1


def test_names_are_looked_up(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    assert send_many(there, [b"x"], ("localhost", here.getsockname()[1])) == 1
    assert bytes(receive(allocator, here, 1)[0][0]) == b"x"
    with pytest.raises(OSError, match=r"Name or service|Temporary failure|No address") as caught:
        send_many(there, [b"x"], ("no-such-name.invalid", 1))
    assert isinstance(caught.value, socket.gaierror)


def test_a_multicast_group_is_the_local_address(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(host="0.0.0.0"), sockets()  # noqa: S104 - what a receiver of multicast binds to
    group = "239.255.77.8"
    try:
        member = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
        here.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        there.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        here.setblocking(False)
        with pytest.raises(BlockingIOError):
            allocator.recv_many(here, local_addresses=True)
        here.settimeout(10)
        send_many(there, [b"all"], (group, here.getsockname()[1]))
    except OSError as error:
        if error.errno not in {errno.ENODEV, errno.ENETUNREACH}:
            raise
        pytest.skip(f"this host has no multicast: {error}")
    assert allocator.recv_many(here, local_addresses=True).local_addresses == [group]


def test_unix_datagrams(allocator: Allocator, sockets: Sockets, tmp_path: Path) -> None:
    here, there, unnamed = (sockets(socket.AF_UNIX) for _ in range(3))
    here.bind(str(tmp_path / "here"))
    there.bind(b"\0pktalloc-test-%d" % os.getpid())
    assert send_many(there, [b"1", b""], here.getsockname()) == 2
    assert send_many(unnamed, [b"2"], str(tmp_path / "here").encode()) == 1
    pairs = receive(allocator, here, 3)
    assert [bytes(packet) for packet, _ in pairs] == [b"1", b"", b"2"]
    assert [address for _, address in pairs] == [there.getsockname()] * 2 + [None]
    assert send_many(here, [b"back"], there.getsockname()) == 1
    assert [address for _, address in receive(allocator, there, 1)] == [str(tmp_path / "here")]
    with pytest.raises(OSError, match="path too long"):
        send_many(here, [b""], "x" * 200)
    with pytest.raises(FileNotFoundError):
        send_many(here, [b""], str(tmp_path / "nobody"))
    with pytest.raises(TypeError, match="not int"):
        send_many(here, [b""], 5)
    # A full queue: a part goes, and nothing blocks.
    there.setblocking(False)
    sent = send_many(there, [b"x"] * 600, here.getsockname())
    assert 0 < sent < 600
    with pytest.raises(BlockingIOError) as caught:
        send_many(there, [b"x"], here.getsockname())
    assert caught.value.errno == errno.EAGAIN
    there.settimeout(0.02)
    with pytest.raises(TimeoutError, match="timed out"):
        send_many(there, [b"x"], here.getsockname())
    assert send_many(there, [], here.getsockname()) == 0
    assert len(receive(allocator, here, sent)) == sent


def test_descriptors_that_unix_peers_pass_are_closed(allocator: Allocator) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(10):
            socket.send_fds(there, [b"x"], [0, 1])
            allocator.recv_many(here)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_closed_seqpacket_peer_ends_the_batch(allocator: Allocator) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here:
        there.send(b"x")
        there.close()
        assert allocator.recv_many(here).sizes == [1]
        assert allocator.recv_many(here).sizes == [0]


def test_packet_sockets(allocator: Allocator) -> None:
    protocol = 0x88B5  # for experiments
    try:
        here, there = (socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(protocol)) for _ in range(2))
    except PermissionError:
        pytest.skip("packet sockets need privileges")
    with here, there:
        here.bind(("lo", protocol))
        here.settimeout(10)
        for address in (("lo", protocol), ("lo", protocol, 0, 0, bytes(6))):
            assert send_many(there, [b"x" * 60, b"y" * 60], address) == 2
            pairs = receive(allocator, here, 2)
            assert [bytes(packet) for packet, _ in pairs] == [b"x" * 60, b"y" * 60]
            there.sendto(b"plain" * 12, address)
            name, number, _, *hardware = here.recvfrom(100)[1]
            for _, (seen_name, seen_number, kind, *seen_hardware) in pairs:
                assert (name, number, hardware) == (seen_name, seen_number, seen_hardware)
                # Without an address it goes to the receiver that the last frame's memory names.
                assert kind == socket.PACKET_HOST or len(address) == 2
        wrong: list[tuple[Any, type[Exception], str]] = [
            (("no-such-card", protocol), OSError, "No such device|no interface"),
            (("lo", 1 << 16), OverflowError, "proto must be 0-65535"),
            (("lo", protocol, 0, 0, bytes(9)), ValueError, "8 bytes or less"),
            ("lo", TypeError, "must be tuple, not str"),
        ]
        for bad, kind, text in wrong:
            with pytest.raises(kind, match=text):
                send_many(there, [b"x"], bad)


def test_waiting_is_as_the_socket_says(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    here.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        allocator.recv_many(here)
    assert caught.value.errno == errno.EAGAIN
    here.settimeout(0.03)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"^timed out$"):
        allocator.recv_many(here)
    assert time.monotonic() - start >= 0.03
    for count in (1, 64):
        here.settimeout(None)
        thread = threading.Thread(target=there.sendto, args=(b"late", here.getsockname()))
        thread.start()
        assert len(allocator.recv_many(here, count)) == 1
        thread.join()


@pytest.mark.parametrize("count", [1, 64])
def test_a_signal_interrupts_a_call_that_blocks_and_loses_nothing(
    allocator: Allocator, sockets: Sockets, count: int
) -> None:
    here, there = sockets(), sockets()
    here.settimeout(None)

    class StopError(Exception):
        pass

    calls = []

    def handler(_number: int, _frame: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise StopError

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        with pytest.raises(StopError):
            allocator.recv_many(here, count)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    send_many(there, [b"1", b"2", b"3"], here.getsockname())
    assert len(receive(allocator, here, 3, count=count)) == 3


@pytest.mark.parametrize("what", ["recv_many(1)", "recv_many(64)", "recv_many_into", "send_many"])
def test_ctrl_c_ends_a_call_that_blocks_and_loses_nothing(allocator: Allocator, what: str) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    rows = np.zeros((4, 10), np.uint8)
    calls: dict[str, Callable[[], object]] = {
        "recv_many(1)": lambda: allocator.recv_many(here, 1),
        "recv_many(64)": lambda: allocator.recv_many(here, 64),
        "recv_many_into": lambda: recv_many_into(here, rows),
        "send_many": lambda: send_many(there, [b"never"]),
    }
    with here, there:
        there.setblocking(False)
        full = 0
        if what == "send_many":
            full = send_many(there, [b"x"] * 1000)
        there.setblocking(True)
        old = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(KeyboardInterrupt):
                calls[what]()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        if full == 0:
            there.send(b"y")
            full = 1
        assert len(receive(allocator, here, full)) == full
        here.setblocking(False)
        with pytest.raises(BlockingIOError):
            allocator.recv_many(here)


def test_other_threads_run_while_a_call_waits(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    started = threading.Event()

    def wait() -> None:
        started.set()
        batches.append(allocator.recv_many(here))

    batches: list[DatagramBatch] = []
    thread = threading.Thread(target=wait)
    thread.start()
    started.wait()
    other = Allocator()
    for _ in range(1000):
        other.allocate(100)
    there.sendto(b"x", here.getsockname())
    thread.join()
    assert len(batches[0]) == 1


def test_an_unreachable_peer_is_reported_and_loses_nothing(allocator: Allocator, sockets: Sockets) -> None:
    here, gone = sockets(), sockets()
    gone.sendto(b"queued", here.getsockname())
    here.connect(gone.getsockname())
    gone.close()
    here.send(b"bounces")
    with pytest.raises(ConnectionRefusedError) as caught:
        allocator.recv_many(here)
    assert caught.value.errno == errno.ECONNREFUSED
    assert bytes(receive(allocator, here, 1)[0][0]) == b"queued"
    assert send_many(here, [b"bounces"]) == 1
    with pytest.raises(ConnectionRefusedError):
        send_many(here, [b"a", b"b"])


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX], ids=lambda family: family.name)
@pytest.mark.parametrize(
    "address",
    [
        ("::1", 9),
        ("::1", 9, 0, 0),
        ("::1", -1),
        ("::1", 65536),
        ("127.0.0.1", 9),
        ("127.0.0.1", 9, 0),
        ("127.0.0.1", 9, 0, 0, 0),
        ("127.0.0.1", -1),
        ("127.0.0.1", 65536),
        ("127.0.0.1", 10**30),
        ("127.0.0.1", "9"),
        ("127.0.0.1", 1.5),
        ("::1", 9, -1),
        ("::1", 9, 1 << 20),
        (5, 9),
        (None, 9),
        ("127.0.0.1",),
        (),
        ["127.0.0.1", 9],
        "/no/such/path",
        b"/no/such/path",
        "",
        "a\0b",
        5,
        1.5,
        object(),
        ("lo", 3),
    ],
    ids=repr,
)
def test_addresses_of_another_family_are_refused_as_sendto_refuses_them(
    sockets: Sockets, family: int, address: Any
) -> None:
    sock = sockets(family)
    if isinstance(address, list):
        # A list is one address each.
        with pytest.raises((ValueError, TypeError)):
            send_many(sock, [b"x"], address)
        return
    expected: BaseException | None = None
    try:
        sock.sendto(b"x", address)
    except BaseException as error:  # noqa: BLE001 - whatever it is
        expected = error
    if expected is None:
        assert send_many(sock, [b"x"], address) == 1
        return
    kinds: Any = type(expected)
    if isinstance(expected, socket.gaierror):
        # Of two things that are wrong either may be told.
        kinds = (socket.gaierror, OverflowError)
    calls: list[tuple[Any, ...]] = [([b"x"], address), ([(b"x", address)],)]
    for arguments in calls:
        with pytest.raises(kinds) as caught:
            send_many(sock, *arguments)
        if isinstance(caught.value, OSError):
            assert isinstance(expected, OSError)
            assert caught.value.errno == expected.errno or "path too long" in str(expected)


def test_a_scope_that_no_interface_can_have_is_refused(sockets: Sockets) -> None:
    # `sendto()` takes it for another one.
    for scope in (-1, 1 << 32):
        with pytest.raises(OverflowError, match="scopeid must be 0-4294967295"):
            send_many(sockets(socket.AF_INET6), [b"x"], ("::1", 9, 0, scope))


def test_one_bad_address_among_many(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    good = here.getsockname()
    pairs = [(b"1", good), (b"2", good), (b"3", ("127.0.0.1", 0)), (b"4", good)]
    assert send_many(there, pairs) == 2
    with pytest.raises(OSError, match="Invalid argument"):
        send_many(there, pairs[2:])
    assert send_many(there, pairs[3:]) == 1
    assert [bytes(packet) for packet, _ in receive(allocator, here, 3)] == [b"1", b"2", b"4"]
    # What is wrong with the arguments is raised before anything is sent.
    wrong: list[tuple[Any, type[Exception], str]] = [
        (("::1", 5), socket.gaierror, "family"),
        (("127.0.0.1", 70000), OverflowError, "port must be 0-65535"),
        (("127.0.0.1", -1), OverflowError, "port must be 0-65535"),
        (("127.0.0.1", 2**70), OverflowError, "port must be 0-65535"),
        (("127.0.0.1", "http"), TypeError, "integer"),
        (("127.0.0.1",), TypeError, "must be a pair"),
        (("::1", 5, 0, 0), TypeError, "must be a pair"),
        ("127.0.0.1:5", TypeError, "must be tuple, not str"),
    ]
    for address, kind, text in wrong:
        with pytest.raises(kind, match=text):
            send_many(there, [(b"5", good), (b"6", address)])
    here.setblocking(False)
    with pytest.raises(BlockingIOError):
        allocator.recv_many(here)


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


def test_a_datagram_that_is_too_long(sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    assert send_many(there, [b"1", bytes(70_000)], here.getsockname()) == 1
    with pytest.raises(OSError, match="Message too long") as caught:
        send_many(there, [bytes(70_000)], here.getsockname())
    assert caught.value.errno == errno.EMSGSIZE
    assert send_many(there, [bytes(60_000)] * 2, here.getsockname()) == 2


def test_what_is_no_datagram_socket_is_refused(allocator: Allocator, sockets: Sockets) -> None:
    stream = sockets(kind=socket.SOCK_STREAM)
    rows = np.zeros((4, 100), np.uint8)
    calls: list[Callable[[Any], object]] = [
        allocator.recv_many,
        lambda sock: recv_many_into(sock, rows),
        lambda sock: send_many(sock, [b"x"], ("127.0.0.1", 9)),
    ]
    closed = sockets()
    closed.close()
    for call in calls:
        with pytest.raises(ValueError, match="a datagram socket was expected, got <socket"):
            call(stream)
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            call(closed)
        assert caught.value.errno == errno.EBADF
        for wrong in (5, None, "socket"):
            with pytest.raises(TypeError, match=r"expected a socket\.socket, got"):
                call(wrong)


@pytest.mark.parametrize(
    ("count", "size", "error", "text"),
    [
        (0, 2048, ValueError, "count must be at least 1, got 0"),
        (-1, 2048, ValueError, "count must be at least 1, got -1"),
        (64, 0, ValueError, "size must be at least 1, got 0"),
        (64, -5, ValueError, "size must be at least 1, got -5"),
        (64, 10**9, ValueError, "size must be from 1 to 16777216, got 1000000000"),
        (64, 10**30, ValueError, "size must be from 1 to 16777216"),
        ("64", 2048, TypeError, "integer"),
        (64, 1.5, TypeError, "integer"),
    ],
)
def test_counts_and_sizes_that_make_no_sense(  # noqa: PLR0917 - fixtures and parameters
    allocator: Allocator, sockets: Sockets, count: Any, size: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        allocator.recv_many(sockets(), count, size)


def test_arguments_that_make_no_sense(allocator: Allocator, sockets: Sockets) -> None:
    sock = sockets()
    recv: Any = allocator.recv_many
    for arguments, keywords in (((), {}), ((sock, 1, 2, 3), {}), ((sock,), {"flags": 1}), ((sock, 1), {"count": 2})):
        with pytest.raises(TypeError):
            recv(*arguments, **keywords)
    with pytest.raises(TypeError, match="bytes-like objects, not int"):
        send_many(sock, b"whole", ("127.0.0.1", 9))
    with pytest.raises(TypeError, match="bytes-like objects, not str"):
        send_many(sock, ["text"], ("127.0.0.1", 9))
    with pytest.raises(TypeError, match="pairs come without an address"):
        send_many(sock, [(b"x", ("127.0.0.1", 9))], ("127.0.0.1", 9))
    with pytest.raises(TypeError, match="not iterable"):
        send_many(sock, 5, ("127.0.0.1", 9))  # type: ignore[arg-type]
    with pytest.raises(BufferError, match="contiguous"):
        send_many(sock, [memoryview(b"abcd")[::2]], ("127.0.0.1", 9))


def test_an_allocator_at_its_limit_loses_nothing(sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    small = Allocator(memory_limit=160 << 10, preallocated_windows=1, keep_empty_windows=1)
    fillers = filled(small, 1400)
    datagrams = [bytes([number]) * 1400 for number in range(40)]
    send_many(there, datagrams, here.getsockname())
    for _ in range(2):
        with pytest.raises(MemoryError, match="cannot allocate 1400 bytes"):
            small.recv_many(here)
    there.sendto(b"later", here.getsockname())
    del fillers[:10]
    batch = small.recv_many(here)
    assert 0 < len(batch) < 40
    assert batch.waiting == 40 - len(batch)
    assert len(batch.packets) == len(batch.addresses) == len(batch.sizes) == len(batch)
    received = [bytes(packet) for packet in batch.packets]
    fillers.clear()
    while len(received) < 40:
        received.extend(bytes(packet) for packet in small.recv_many(here).packets)
    assert received == datagrams
    assert bytes(small.recv_many(here).packets[0]) == b"later"
    small.integrity_check()


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


def test_a_closed_allocator(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    there.sendto(b"x", here.getsockname())
    allocator.close()
    with pytest.raises(ValueError, match="the allocator is closed"):
        allocator.recv_many(here)
    assert here.recv(10) == b"x"
    here.settimeout(None)
    other = Allocator()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            other.recv_many(here)
        except ValueError as error:
            errors.append(error)

    # Closed in the middle of a call: the datagram is not lost.
    thread = threading.Thread(target=wait)
    thread.start()
    wait_until_asleep(thread)
    other.close()
    there.sendto(b"y", here.getsockname())
    thread.join()
    assert [str(error) for error in errors] == ["the allocator is closed"]
    assert [bytes(packet) for packet in Allocator().recv_many(here).packets] == [b"y"]


def test_packets_are_pinned_while_they_are_sent(allocator: Allocator) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        there.setblocking(False)
        full = send_many(there, [b"x"] * 10_000)
        there.settimeout(10)
        packet = allocator.allocate(100)
        packet[:] = b"p" * 100
        thread = threading.Thread(target=send_many, args=(there, [packet, packet]))
        thread.start()
        while "exports=2" not in repr(packet):
            pass
        with pytest.raises(BufferError, match="2 buffer exports alive"):
            packet.release()
        here.settimeout(10)
        received = [here.recv(200) for _ in range(full + 2)]
        thread.join()
        assert received[-1] == b"p" * 100
        packet.release()
        with pytest.raises(ValueError, match="released"):
            send_many(there, [b"y", packet])


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


def test_threads_share_an_allocator(allocator: Allocator, sockets: Sockets) -> None:
    rounds, size = 200, 16

    def relay(number: int) -> None:
        here, there = sockets(), sockets()
        for _ in range(rounds):
            send_many(there, [bytes([number]) * (number + 1)] * size, here.getsockname())
            for packet, _ in receive(allocator, here, size, count=7):
                assert bytes(packet) == bytes([number]) * (number + 1)
            done[number] += size

    done = [0] * 4
    threads = [threading.Thread(target=relay, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [rounds * size] * 4
    allocator.integrity_check()


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
            send_many(there, [b"z", 5], address)

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
    batch = allocator.recv_many(here)
    batch.packets.append(batch)
    assert allocator.used_bytes == 64
    del batch
    gc.collect()
    assert allocator.used_bytes == 0


def test_no_memory_for_an_object_loses_no_datagram(allocator: Allocator, sockets: Sockets) -> None:
    testcapi: Any = pytest.importorskip("_testcapi", exc_type=ImportError)
    sent = [b"%d" % number for number in range(5)]
    refused = 0
    for place in range(50):
        here, there = sockets(), sockets()
        here.setblocking(False)
        send_many(there, sent, here.getsockname(), gso=False)
        batch: DatagramBatch | None = None
        # Nothing but the call may need memory.
        testcapi.set_nomemory(place, place + 1)
        try:
            batch = allocator.recv_many(here)
        except MemoryError:
            pass
        finally:
            testcapi.remove_mem_hooks()
        refused += batch is None
        received = [bytes(packet) for packet in batch.packets] if batch is not None else []
        while len(received) < 5:
            received.extend(bytes(packet) for packet in allocator.recv_many(here).packets)
        assert received == sent
        here.close()
        there.close()
    assert refused


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
