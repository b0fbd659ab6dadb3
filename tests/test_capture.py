"""The capture that ships with the package: enough of it, mixed, small, and nobody's data."""

import collections
import importlib.resources
import ipaddress
import itertools
import struct
from typing import NamedTuple

import pytest

SECTION_HEADER, INTERFACE, ENHANCED_PACKET = 0x0A0D0D0A, 1, 6
# Offsets of the headers in a frame.
IPV4, TRANSPORT = 14, 34
ICMP, TCP, UDP = 1, 6, 17


class Frame(NamedTuple):
    """What the capture says of one packet."""

    microseconds: int
    wire_length: int
    captured: bytes


@pytest.fixture(scope="module")
def capture() -> bytes:
    return importlib.resources.files("pktalloc").joinpath("data", "demo.pcapng").read_bytes()


@pytest.fixture(scope="module")
def frames(capture: bytes) -> list[Frame]:
    found = []
    offset = 0
    while offset < len(capture):
        kind, length = struct.unpack_from("<II", capture, offset)
        if kind == ENHANCED_PACKET:
            _, high, low, captured, wire_length = struct.unpack_from("<IIIII", capture, offset + 8)
            start = offset + 28
            found.append(Frame(high << 32 | low, wire_length, capture[start : start + captured]))
        else:
            assert kind in {SECTION_HEADER, INTERFACE}
        offset += length
    assert offset == len(capture)
    return found


def protocol(frame: Frame) -> int:
    return frame.captured[IPV4 + 9]


def test_it_is_small_enough_to_ship(capture: bytes) -> None:
    assert len(capture) < 1_000_000


def test_it_holds_thousands_of_packets_over_many_seconds(frames: list[Frame]) -> None:
    assert len(frames) >= 5_000
    assert frames[-1].microseconds - frames[0].microseconds >= 15_000_000
    assert all(before.microseconds <= after.microseconds for before, after in itertools.pairwise(frames))


def test_sizes_are_mixed_and_those_of_a_wire(frames: list[Frame]) -> None:
    lengths = sorted(frame.wire_length for frame in frames)
    # Ethernet's MTU of 1500 and its header of 14: no segment that an offload would still have to cut.
    assert lengths[-1] == 1514
    assert lengths[0] < 70
    assert len(set(lengths)) > 300
    # Acknowledgements, voice, QUIC packets and full frames: none of them is rare.
    shares = collections.Counter(
        "tiny" if length < 128 else "small" if length < 640 else "large" if length < 1400 else "full"
        for length in lengths
    )
    assert all(shares[band] >= len(lengths) // 10 for band in ("tiny", "small", "large", "full"))


def test_all_three_conversations_are_there_both_ways(frames: list[Frame]) -> None:
    ports: collections.Counter[tuple[int, int]] = collections.Counter()
    for frame in frames:
        if protocol(frame) in {TCP, UDP}:
            source, destination = struct.unpack_from("!HH", frame.captured, TRANSPORT)
            ports[protocol(frame), source] += 1
            ports[protocol(frame), destination] += 1
    for conversation in ((UDP, 4433), (TCP, 8080), (UDP, 5004), (UDP, 5006)):
        assert ports[conversation] >= 500, conversation


def test_it_holds_headers_and_no_payload(frames: list[Frame]) -> None:
    # 34 bytes of Ethernet and IPv4, then TCP's fixed header of 20, or UDP's 8 and 12 of RTP's or QUIC's.
    assert all(len(frame.captured) == min(frame.wire_length, TRANSPORT + 20) for frame in frames)
    assert {protocol(frame) for frame in frames} <= {ICMP, TCP, UDP}


def test_its_addresses_belong_to_nobody(frames: list[Frame]) -> None:
    documentation = ipaddress.ip_network("192.0.2.0/24")
    for frame in frames:
        assert frame.captured[12:14] == b"\x08\x00"
        for offset in (IPV4 + 12, IPV4 + 16):
            assert ipaddress.ip_address(frame.captured[offset : offset + 4]) in documentation
