"""A packet may be empty: an empty datagram is a datagram."""

import socket

import pytest

from pktalloc import Allocator, Packet


def expect_empty(packet: Packet) -> None:
    assert len(packet) == packet.size == 0
    assert not packet
    assert packet == b"" == packet
    assert bytes(packet) == packet.tobytes() == b""
    assert packet.hex() == ""
    assert list(packet) == []
    assert 0 not in packet
    assert b"" in packet
    with pytest.raises(IndexError):
        packet[0]
    with pytest.raises(IndexError):
        packet[-1] = 1
    packet[:] = b""
    with packet.view as view, packet[:] as part, memoryview(packet)[::2] as stepped:
        assert view.nbytes == part.nbytes == stepped.nbytes == 0


@pytest.mark.parametrize("settings", [{}, {"check": True}, {"zero": True}, {"check": True, "zero": True}], ids=str)
def test_every_way_to_an_empty_packet(settings: dict[str, bool]) -> None:
    allocator = Allocator(**settings)
    packet = allocator.allocate(0)
    expect_empty(packet)
    packet.resize(100)
    packet[:] = b"x" * 100
    packet.resize(0)
    expect_empty(packet)
    packet.resize(10)
    if settings.get("zero"):
        assert packet == bytes(10)
    packet[:] = b"0123456789"
    packet.shrink(0)
    expect_empty(packet)
    packet.shrink(0)
    packet.resize(0, copy=False)
    allocator.reallocate(packet, 0)
    allocator.shrink(packet, 0)
    expect_empty(packet)
    packet.resize(100_000)
    assert len(packet) == 100_000
    packet.shrink(0)
    expect_empty(packet)
    allocator.integrity_check()
    assert len(allocator.allocate_many(0, 100)) == 100
    assert allocator.allocate_many(0, 0) == []
    packet.release()
    assert allocator.used_bytes == 0
    allocator.integrity_check()


def test_an_empty_packet_gives_its_memory_back_when_it_goes(allocator: Allocator) -> None:
    packets = allocator.allocate_many(0, 1000)
    assert len({packet.address for packet in packets}) == 1000
    assert allocator.used_bytes == 64_000
    packets.clear()
    assert allocator.used_bytes == 0


def test_an_empty_datagram_is_received(allocator: Allocator) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        sender.sendto(b"", receiver.getsockname())
        packet = allocator.allocate(2048)
        packet.shrink(receiver.recv_into(packet))
        expect_empty(packet)
        sender.sendto(packet.view, receiver.getsockname())
        assert receiver.recv(100) == b""
