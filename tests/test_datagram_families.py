"""Datagrams in batches over every kind of socket, and the addresses of each."""

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pktalloc

if sys.platform != "linux":
    pytest.skip("datagrams in batches are there on Linux", allow_module_level=True)

from datagram_sockets import Sockets, link_local, receive
from pktalloc import Allocator, send_many


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


def join(here: socket.socket, there: socket.socket, group: str) -> None:
    """Make `here` a member of a group on the loopback interface, by which `there` sends to it."""
    member = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
    here.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    there.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))


def multicast_over_ipv4(sockets: Sockets, folder: Path) -> Kind:
    del folder
    here, there = sockets(host="0.0.0.0"), sockets()  # noqa: S104 - what a receiver of multicast binds to
    group = "239.255.77.9"
    try:
        join(here, there, group)
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
    # The C library chooses the words.
    with pytest.raises(socket.gaierror):
        send_many(there, [b"x"], ("no-such-name.invalid", 1))


def test_a_multicast_group_is_the_local_address(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(host="0.0.0.0"), sockets()  # noqa: S104 - what a receiver of multicast binds to
    group = "239.255.77.8"
    try:
        join(here, there, group)
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
