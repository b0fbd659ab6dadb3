"""Room on both sides of a packet: headers and trailers that come and go without a copy, and parts of packets."""

import copy
import random
import struct
from typing import TYPE_CHECKING, Any

import pytest

from pktalloc import Allocator, Packet

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS: list[dict[str, Any]] = [
    {},
    {"check": True},
    {"zero": True},
    {"check": True, "zero": True},
    {"alignment": 16, "window_bytes": 4096},
    {"alignment": 4096},
]


@pytest.fixture(params=SETTINGS, ids=str)
def allocator(request: pytest.FixtureRequest) -> Allocator:
    return Allocator(**request.param)


def alignment(allocator: Allocator) -> int:
    return allocator.stats().alignment


def filled(allocator: Allocator, size: int, headroom: int = 0) -> Packet:
    packet = allocator.allocate(size, headroom)
    packet[:] = random.Random(size).randbytes(size)
    return packet


@pytest.mark.parametrize("headroom", [0, 1, 14, 63, 64, 65, 128, 5000, 100_000])
def test_the_payload_is_aligned_and_the_room_in_front_is_there(allocator: Allocator, headroom: int) -> None:
    for packet in (allocator.allocate(1400, headroom), *allocator.allocate_many(1400, 70, headroom=headroom)):
        assert packet.address % alignment(allocator) == 0
        assert packet.headroom >= headroom
        assert packet.headroom - headroom < alignment(allocator)
        assert len(packet) == 1400
        assert packet.capacity == packet.size + packet.tailroom
        header = bytes([7]) * headroom
        address = packet.address
        packet[:] = bytes([9]) * 1400
        packet.prepend(header)
        assert (packet.address, len(packet)) == (address - headroom, headroom + 1400)
        assert packet == header + bytes([9]) * 1400
        packet.advance(headroom)
        assert packet.address == address
    allocator.integrity_check()


def test_a_tunnel_header_and_a_tag_copy_nothing_but_themselves() -> None:
    allocator = Allocator()
    packet = filled(allocator, 1400, headroom=28)
    payload, address = bytes(packet), packet.address
    packet.append(b"")
    packet.prepend(b"")
    packet.append(b"tag4")
    packet.append(memoryview(b"tag8"))
    packet.prepend(bytearray(b"udp-----"))
    packet.prepend(b"ip------------------")
    assert packet.address == address - 28
    assert packet == b"ip------------------udp-----" + payload + b"tag4tag8"
    assert allocator.used_bytes == 64 + 1408
    packet.advance(28)
    packet.shrink(1400)
    assert (packet.address, bytes(packet)) == (address, payload)


def test_a_received_header_is_stripped_and_the_payload_is_aligned() -> None:
    np = pytest.importorskip("numpy")
    allocator = Allocator(alignment=64)
    frame = struct.pack(">6s6sH", b"target", b"source", 0x0800) + struct.pack("<100d", *range(100))
    packet = allocator.allocate(1500, headroom=14)
    packet.prepend(bytes(14))
    packet[: len(frame)] = frame  # as `recv_into(packet)` does
    packet.shrink(len(frame))
    packet.advance(14)
    numbers = np.frombuffer(packet, dtype=np.float64)
    assert numbers.flags.aligned
    assert numbers.ctypes.data % 64 == 0
    assert numbers.sum() == sum(range(100))


def test_what_does_not_fit_is_refused_and_changes_nothing(allocator: Allocator) -> None:
    packet = filled(allocator, 100, headroom=20)
    content, headroom, used = bytes(packet), packet.headroom, allocator.used_bytes
    calls: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ValueError, f"with a headroom of {headroom}", lambda: packet.prepend(bytes(headroom + 1))),
        (ValueError, "cannot advance a packet of 100 bytes by 101", lambda: packet.advance(101)),
        (ValueError, "n must be at least 0", lambda: packet.advance(-1)),
        (ValueError, "size must be at least 1", lambda: packet.split(0)),
        (ValueError, "headroom must be at least 0", lambda: allocator.allocate(1, -1)),
        (MemoryError, "beyond|cannot allocate|refused", lambda: allocator.allocate(1, 1 << 63)),
        (MemoryError, "beyond|cannot allocate|refused", lambda: allocator.allocate(1 << 62, 1 << 62)),
        (MemoryError, "beyond|cannot allocate|refused", lambda: allocator.allocate(1, (1 << 63) - 1)),
        (MemoryError, "beyond|cannot allocate|refused", lambda: allocator.allocate_many(1, 1, headroom=1 << 62)),
        (MemoryError, "beyond|cannot allocate|refused", lambda: packet.resize((1 << 63) - 1)),
        (TypeError, "bytes-like", lambda: packet.prepend("text")),  # type: ignore[arg-type]
        (TypeError, "bytes-like", lambda: packet.append(3)),  # type: ignore[arg-type]
        (TypeError, "integer", lambda: packet.advance("1")),  # type: ignore[arg-type]
        (TypeError, "missing required argument: 'data'", packet.append),  # type: ignore[list-item]
    ]
    for error, message, call in calls:
        with pytest.raises(error, match=message):
            call()
        assert (bytes(packet), packet.headroom, allocator.used_bytes) == (content, headroom, used)
    allocator.integrity_check()


def test_exports_forbid_what_moves_a_packets_bounds(allocator: Allocator) -> None:
    packet = filled(allocator, 100, headroom=20)
    with packet.view:
        for call, action in (
            (lambda: packet.prepend(b"x"), "prepend to"),
            (lambda: packet.append(b"x"), "append to"),
            (lambda: packet.append(packet.view), "append to"),
            (lambda: packet.advance(1), "advance"),
            (lambda: packet.split(10), "split"),
        ):
            with pytest.raises(BufferError, match=f"cannot {action} the packet: [12] buffer export"):
                call()
        assert packet.copy() == packet
    packet.prepend(b"x")


def test_a_packet_can_be_given_to_itself(allocator: Allocator) -> None:
    packet = filled(allocator, 100, headroom=100)
    content = bytes(packet)
    packet.append(packet)
    assert packet == content * 2
    packet.shrink(50)
    packet.prepend(packet)
    assert packet == content[:50] * 2
    allocator.integrity_check()


def test_append_grows_where_there_is_no_room(allocator: Allocator) -> None:
    packet = allocator.allocate(0, headroom=10)
    neighbour = allocator.allocate(10)
    content = bytearray()
    headroom = packet.headroom
    for number in range(300):
        data = bytes([number % 256]) * (number * 7 % 400)
        packet.append(data)
        content += data
    assert packet == content
    assert packet.headroom == headroom
    assert packet.address % alignment(allocator) == 0
    packet.prepend(b"0123456789")
    assert packet == b"0123456789" + content
    allocator.integrity_check()
    assert len(neighbour) == 10


def test_resizing_keeps_the_headroom(allocator: Allocator) -> None:
    packet = filled(allocator, 100, headroom=30)
    packet.advance(7)
    headroom = packet.headroom
    for size in (50, 300, 40_000, 10, 0, 500):
        content = bytes(packet)
        packet.resize(size)
        kept = min(size, len(content))
        assert (packet.headroom, len(packet)) == (headroom, size)
        assert packet[:kept] == content[:kept]
        allocator.integrity_check()
    packet.resize(1000, copy=False)
    packet.shrink(5)
    assert packet.headroom == headroom
    packet.prepend(bytes(headroom))
    assert packet.headroom == 0


def test_with_zero_what_a_packet_gains_is_zero() -> None:
    allocator = Allocator(zero=True)
    packet = allocator.allocate(100, headroom=10)
    packet[:] = b"\xff" * 100
    packet.shrink(50)
    packet.resize(100)
    assert packet == b"\xff" * 50 + bytes(50)
    packet.advance(100)
    packet.resize(20)
    assert packet == bytes(20)


def test_a_copy_has_its_own_memory(allocator: Allocator) -> None:
    packet = filled(allocator, 1000, headroom=20)
    packet.advance(3)
    for other in (packet.copy(), copy.copy(packet), copy.deepcopy({"key": [packet]})["key"][0]):
        assert type(other) is Packet
        assert other == packet
        assert other.headroom == packet.headroom
        assert other.address != packet.address
        other[0] ^= 255
        assert other != packet
        other.release()
    assert allocator.allocate(0).copy() == b""


@pytest.mark.parametrize("size", [1, 10, 63, 64, 100, 128, 1200, 5000, 50_000])
@pytest.mark.parametrize("advanced", [0, 14, 64])
def test_parts_own_what_they_have(allocator: Allocator, size: int, advanced: int) -> None:
    packet = filled(allocator, 4800 + advanced, headroom=20)
    packet.advance(advanced)
    content = bytes(packet)
    parts = packet.split(size)
    assert packet.released
    packet.release()
    assert [bytes(part) for part in parts] == [content[start : start + size] for start in range(0, 4800, size)]
    allocator.integrity_check()
    for part in parts:
        part[0] = 0
        part.append(b"tail")
    assert [bytes(part) for part in parts] == [
        b"\0" + content[start + 1 : start + size] + b"tail" for start in range(0, 4800, size)
    ]
    allocator.integrity_check()
    random.Random(0).shuffle(parts)
    while parts:
        parts.pop()
    del part
    assert allocator.used_bytes == 0
    allocator.integrity_check()


@pytest.mark.parametrize("headroom", [0, 64, 128])
def test_parts_of_whole_units_stay_where_they_are(headroom: int) -> None:
    allocator = Allocator()
    packet = filled(allocator, 20_000, headroom)
    content, address = bytes(packet), packet.address
    parts = packet.split(1280)
    assert [part.address for part in parts] == [address + start for start in range(0, 20_000, 1280)]
    assert b"".join(map(bytes, parts)) == content
    assert [part.headroom for part in parts] == [headroom] + [0] * 15
    assert [part.capacity for part in parts] == [1280] * 15 + [832]
    assert allocator.used_bytes == headroom + 20_032
    allocator.integrity_check()
    for part in parts[::2]:
        part.release()
    allocator.integrity_check()
    assert [bytes(part) for part in parts[1::2]] == [
        content[start : start + 1280] for start in range(1280, 20_000, 2560)
    ]
    assert allocator.stats().live_packets == 8
    parts[1].resize(5000)
    parts[1].append(b"more")
    parts[3].prepend(b"")
    allocator.integrity_check()
    del parts, part
    assert allocator.used_bytes == 0
    allocator.trim()
    allocator.integrity_check()


def test_an_empty_packet_has_no_parts(allocator: Allocator) -> None:
    packet = allocator.allocate(0)
    assert packet.split(100) == []
    assert packet.released
    assert allocator.used_bytes == 0


def test_a_split_without_memory_changes_nothing() -> None:
    allocator = Allocator(memory_limit=1 << 20, preallocated_windows=0)
    packet = filled(allocator, 700_001)
    content, used = bytes(packet), allocator.used_bytes
    with pytest.raises(MemoryError):
        packet.split(1300)
    assert (bytes(packet), allocator.used_bytes) == (content, used)
    allocator.integrity_check()
