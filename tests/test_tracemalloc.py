"""Packet memory as `tracemalloc` shows it."""

import sys
import tracemalloc
from collections.abc import Iterator

import pytest

import pktalloc
from pktalloc import Allocator


@pytest.fixture(autouse=True)
def tracing() -> Iterator[None]:
    tracemalloc.start(3)
    yield
    tracemalloc.stop()


def traces() -> dict[int, int]:
    """Bytes of packets by the line of this file that allocated them."""
    found: dict[int, int] = {}
    domain = tracemalloc.DomainFilter(inclusive=True, domain=pktalloc.tracemalloc_domain)
    for trace in tracemalloc.take_snapshot().filter_traces([domain]).traces:
        frame = trace.traceback[-1]
        assert frame.filename == __file__
        found[frame.lineno] = found.get(frame.lineno, 0) + trace.size
    return found


def line(offset: int) -> int:
    """Return the number of a line counted from the caller's function."""
    frame = sys._getframe(1)
    return frame.f_code.co_firstlineno + offset


def test_a_packet_is_shown_with_the_line_that_allocated_it() -> None:
    allocator = Allocator()
    packet = allocator.allocate(1400)
    many = allocator.allocate_many(100, 70)
    large = allocator.allocate(1_000_000)
    expected = {line(2): 1408, line(3): 70 * 128, line(4): large.capacity}
    assert traces() == expected
    total, _ = tracemalloc.get_traced_memory()
    assert total > sum(expected.values())
    del many[10:]
    assert traces()[line(3)] == 10 * 128
    packet.release()
    many.clear()
    allocator.free(large)
    assert traces() == {}


def test_a_change_of_size_is_shown() -> None:
    allocator = Allocator()
    packet = allocator.allocate(2048)
    packet.shrink(900)
    assert traces() == {line(3): 960}
    packet.resize(100_000)
    assert traces() == {line(5): packet.capacity}
    packet.resize(10)
    assert traces() == {line(7): packet.capacity}


def test_parts_are_shown() -> None:
    allocator = Allocator()
    packet = allocator.allocate(10_240)
    parts = packet.split(1024)
    assert traces() == {line(3): 10_240}
    assert len(tracemalloc.take_snapshot().traces) > 10
    more = parts[0].split(100)
    assert traces() == {line(3): 9 * 1024, line(6): 10 * 128 + 64}
    parts.clear()
    more.clear()
    assert traces() == {}


def test_close_takes_all_traces_back() -> None:
    with Allocator() as allocator:
        packets = allocator.allocate_many(1400, 100)
    assert traces() == {}
    with Allocator() as allocator:
        view = allocator.allocate(100).view
    assert traces() == {line(5): 128}
    view.release()
    assert traces() == {}
    allocator = Allocator()
    packets += [allocator.allocate(100)]
    del allocator
    assert traces() == {line(10): 128}
    packets.clear()
    assert traces() == {}


def test_packets_from_before_tracing_and_from_before_it_was_stopped() -> None:
    tracemalloc.stop()
    allocator = Allocator()
    first = allocator.allocate(1400)
    tracemalloc.start()
    second = allocator.allocate(1400)
    del first
    assert traces() == {line(5): 1408}
    tracemalloc.stop()
    third = allocator.allocate(100)
    del second
    tracemalloc.start()
    assert traces() == {}
    del third
    fourth = allocator.allocate(1400)
    assert traces() == {line(14): 1408}
    fourth.release()
    assert traces() == {}


def test_a_packet_that_is_left_in_use_by_a_view_stays_until_the_view_goes() -> None:
    allocator = Allocator()
    with allocator.allocate(1400) as packet:
        view = packet.view
    assert traces() == {line(2): 1408}
    view.release()
    assert traces() == {}
