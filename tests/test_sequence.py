"""A packet as a sequence of bytes, side by side with a bytearray."""

import collections.abc
import itertools
import operator
import struct
from collections.abc import Callable

import pytest

from pktalloc import Allocator, Packet

CONTENT = bytes(range(7))


@pytest.fixture
def packet(packet_of: Callable[[bytes], Packet]) -> Packet:
    return packet_of(CONTENT)


@pytest.mark.parametrize("index", [-8, -7, -1, 0, 6, 7, 1 << 40, -(1 << 40), True], ids=repr)
def test_an_index_takes_and_gives_what_a_bytearray_does(packet: Packet, index: int) -> None:
    expected = bytearray(CONTENT)
    try:
        value = expected[index]
        expected[index] = 99
    except IndexError:
        for call in (lambda: packet[index], lambda: packet.__setitem__(index, 99)):
            with pytest.raises(IndexError, match="packet index out of range"):
                call()
    else:
        assert packet[index] == value
        packet[index] = 99
    assert packet == expected


@pytest.mark.parametrize("index", [1 << 64, -(1 << 64)], ids=repr)
def test_an_index_beyond_machine_words_is_an_index_error(packet: Packet, index: int) -> None:
    with pytest.raises(IndexError, match="cannot fit"):
        packet[index]
    with pytest.raises(IndexError, match="cannot fit"):
        packet[index] = 0


@pytest.mark.parametrize("index", [1.0, "1", None, b"1", (1,), ...], ids=repr)
def test_other_indices_are_type_errors(packet: Packet, index: object) -> None:
    with pytest.raises(TypeError, match="packet indices must be integers or slices"):
        packet[index]  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="packet indices must be integers or slices"):
        packet[index] = 1  # type: ignore[call-overload]


BOUNDS = [None, -9, -7, -3, -1, 0, 1, 3, 6, 7, 9, 1 << 70, -(1 << 70)]


def test_slices_take_and_give_what_a_bytearrays_do(packet: Packet) -> None:
    for start, stop, step in itertools.product(BOUNDS, BOUNDS, [None, 1, 2, 3, -1, -2, 8, -8, 1 << 70]):
        chosen = slice(start, stop, step)
        expected = bytearray(CONTENT)
        packet[:] = CONTENT
        assert packet[chosen] == expected[chosen]
        data = bytes(range(100, 100 + len(expected[chosen])))
        expected[chosen] = data
        packet[chosen] = data
        assert packet == expected, chosen
        with pytest.raises(ValueError, match="cannot assign"):
            packet[chosen] = data + b"x"
        assert packet == expected, chosen


def test_a_slice_with_step_zero_is_a_value_error(packet: Packet) -> None:
    with pytest.raises(ValueError, match="zero"):
        packet[::0]
    with pytest.raises(ValueError, match="zero"):
        packet[::0] = b""


@pytest.mark.parametrize("value", [-1, 256, 1 << 80, -(1 << 80)], ids=repr)
def test_bytes_out_of_range_are_value_errors(packet: Packet, value: int) -> None:
    with pytest.raises(ValueError, match=r"byte must be in range\(0, 256\)"):
        packet[0] = value
    with pytest.raises(ValueError, match=r"byte must be in range\(0, 256\)"):
        value in packet  # noqa: B015
    assert packet == CONTENT


@pytest.mark.parametrize("value", [1.0, "a", None, b"a", [1]], ids=repr)
def test_values_that_are_no_integers_are_type_errors(packet: Packet, value: object) -> None:
    with pytest.raises(TypeError):
        packet[0] = value  # type: ignore[call-overload]
    assert packet == CONTENT


@pytest.mark.parametrize("value", [1, "a", None, [1], range(1)], ids=repr)
def test_slices_take_bytes_like_objects_only(packet: Packet, value: object) -> None:
    with pytest.raises(TypeError, match="bytes-like"):
        packet[0:1] = value  # type: ignore[call-overload]
    assert packet == CONTENT


def test_nothing_can_be_deleted_or_appended(packet: Packet) -> None:
    with pytest.raises(TypeError, match="cannot be deleted"):
        del packet[0]  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="cannot be deleted"):
        del packet[1:2]  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        packet + b""  # type: ignore[operator]
    with pytest.raises(TypeError):
        packet * 2  # type: ignore[operator]
    assert packet == CONTENT


@pytest.mark.parametrize("distance", range(-6, 7))
@pytest.mark.parametrize("step", [1, 2, -1])
def test_assigning_a_packet_to_itself_moves_its_bytes(packet: Packet, distance: int, step: int) -> None:
    expected = bytearray(CONTENT)
    source = slice(max(0, distance), 7 + min(0, distance))
    target = slice(max(0, -distance), 7 + min(0, -distance))
    expected[target] = bytes(expected[source])[::step][: len(expected[target])] if step != 2 else expected[target]
    if step == 2:
        half = bytes(expected[::2])
        expected[:4] = half
        packet[:4] = packet[::2]
    else:
        packet[target] = packet[source][::step]
    assert packet == expected


def test_assigning_with_steps_from_itself(packet: Packet) -> None:
    packet[::-1] = packet
    assert packet == CONTENT[::-1]
    packet[::2] = packet[:4]
    assert packet.tobytes()[::2] == CONTENT[::-1][:4]


def test_equality(allocator: Allocator, packet: Packet) -> None:
    equal: list[object] = [CONTENT, bytearray(CONTENT), memoryview(CONTENT), memoryview(CONTENT * 2)[:7]]
    equal.append(memoryview(bytes(itertools.chain.from_iterable((byte, 0) for byte in CONTENT)))[::2])
    other = allocator.allocate(7)
    other[:] = CONTENT
    equal += [other, other.view, packet, packet.view]
    for thing in equal:
        assert packet == thing
        assert thing == packet
        assert not packet != thing  # noqa: SIM202
    unequal: list[object] = [
        b"",
        CONTENT[:-1],
        CONTENT + b"\0",
        b"\1" + CONTENT[1:],
        "text",
        None,
        0,
        list(CONTENT),
        object(),
    ]
    for thing in unequal:
        assert packet != thing
        assert thing != packet
        assert not packet == thing  # noqa: SIM201
    assert packet in [b"", CONTENT]


def test_comparison_with_a_released_packet_is_a_value_error(allocator: Allocator, packet: Packet) -> None:
    gone = allocator.allocate(7)
    gone.release()
    with pytest.raises(ValueError, match="released"):
        packet == gone  # noqa: B015


def test_packets_have_no_order(packet: Packet) -> None:
    for compare in (operator.lt, operator.le, operator.gt, operator.ge):
        with pytest.raises(TypeError):
            compare(packet, packet)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            compare(packet, CONTENT)  # type: ignore[arg-type]


def test_containment(allocator: Allocator, packet: Packet) -> None:
    part = allocator.allocate(2)
    part[:] = b"\2\3"
    for present in (0, 6, True, b"", b"\0", b"\2\3\4", CONTENT, bytearray(b"\5\6"), memoryview(b"\1"), part):
        assert present in packet
    for absent in (7, 255, b"\6\0", CONTENT + b"\7"):
        assert absent not in packet
    for wrong in ("a", None, 1.0, [0]):
        with pytest.raises(TypeError):
            wrong in packet  # type: ignore[operator]  # noqa: B015


def test_iteration(packet: Packet) -> None:
    assert list(packet) == list(CONTENT)
    assert list(reversed(packet)) == list(reversed(CONTENT))
    assert (min(packet), max(packet), sum(packet)) == (0, 6, 21)
    for kind in (collections.abc.Iterable, collections.abc.Sized, collections.abc.Container):
        assert issubclass(Packet, kind)
    first, *rest = packet
    assert (first, rest) == (0, list(CONTENT[1:]))
    assert dict(enumerate(packet))[3] == 3
    iterator = iter(packet)
    assert (next(iterator), operator.length_hint(iterator)) == (0, 6)


def test_iteration_sees_the_packet_as_it_is_now(packet: Packet) -> None:
    iterator = iter(packet)
    next(iterator)
    packet[1] = 50
    assert next(iterator) == 50
    packet.shrink(3)
    assert list(iterator) == [2]
    iterator = iter(packet)
    next(iterator)
    packet.release()
    with pytest.raises(ValueError, match="released"):
        next(iterator)


def test_hex_and_tobytes(packet: Packet) -> None:
    assert packet.tobytes() == CONTENT
    assert packet.hex() == CONTENT.hex()
    assert packet.hex(":") == CONTENT.hex(":")
    assert packet.hex(b"-", -2) == CONTENT.hex(b"-", -2)
    assert packet.hex(sep="_", bytes_per_sep=4) == CONTENT.hex(sep="_", bytes_per_sep=4)
    with pytest.raises(ValueError, match="sep"):
        packet.hex("xx")


def test_truth_and_length(allocator: Allocator) -> None:
    for size in (1, 63, 64, 65, 1400, 100_000):
        packet = allocator.allocate(size)
        assert packet
        assert len(packet) == packet.size == memoryview(packet).nbytes == size
        assert packet.capacity >= size
        assert packet.address % 64 == 0


def test_the_index_protocol(packet: Packet) -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    packet[Three()] = Three()
    assert packet[Three()] == 3
    assert packet[Three() : Three()].nbytes == 0
    packet.resize(Three())
    assert struct.unpack("3B", packet) == (0, 1, 2)
