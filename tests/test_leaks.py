"""No call leaves anything behind, whether it succeeds or is refused."""

import contextlib
import gc
import pickle
import sys
from collections.abc import Callable

import pytest

from pktalloc import Allocator, Packet

ALLOCATOR = Allocator()
PACKET = ALLOCATOR.allocate(1400)
RELEASED = ALLOCATOR.allocate(1)
RELEASED.release()


def with_packet() -> None:
    with ALLOCATOR.allocate(100) as packet:
        packet.view.release()


def with_view_left() -> None:
    with Allocator() as allocator, allocator.allocate(100) as packet:
        view = packet.view
    view.release()


def set_slice(key: slice, value: bytes) -> None:
    PACKET[key] = value


def header_and_tag() -> None:
    packet = ALLOCATOR.allocate(1000, headroom=14)
    packet.prepend(b"x" * 14)
    packet.append(b"y" * 300)
    packet.append(packet)
    packet.advance(20)


def refuse_while_exported() -> None:
    with PACKET.view:
        PACKET.resize(10)


CALLS: dict[str, Callable[[], object]] = {
    "slice": lambda: PACKET[2:40],
    "slice with a step": lambda: PACKET[::2],
    "slice backwards": lambda: PACKET[1000:2:-3],
    "slice beyond small numbers": lambda: PACKET[300:1300:257],
    "assign to a slice": lambda: set_slice(slice(0, 4), b"abcd"),
    "assign to a slice with a step": lambda: set_slice(slice(300, 1300, 257), b"abcd"),
    "assign too much": lambda: set_slice(slice(0, 4), b"abcde"),
    "index": lambda: PACKET[700],
    "index out of range": lambda: PACKET[5000],
    "index of another type": lambda: PACKET["a"],  # type: ignore[call-overload]
    "view": lambda: PACKET.view,
    "iterate": lambda: list(PACKET),
    "in": lambda: b"xyz" in PACKET,
    "compare": lambda: bytes(1400) == PACKET,
    "compare with an object": lambda: object() == PACKET,
    "tobytes": PACKET.tobytes,
    "hex": lambda: PACKET.hex(":", 2),
    "repr": lambda: repr(PACKET),
    "address": lambda: PACKET.address,
    "capacity": lambda: PACKET.capacity,
    "allocate": lambda: ALLOCATOR.allocate(1000),
    "allocate large": lambda: ALLOCATOR.allocate(100_000),
    "allocate by keyword": lambda: ALLOCATOR.allocate(size=1000),
    "allocate by a wrong keyword": lambda: ALLOCATOR.allocate(bytes=1000),  # type: ignore[call-arg]
    "allocate twice the size": lambda: ALLOCATOR.allocate(1000, size=1000),  # type: ignore[misc]
    "allocate in vain": lambda: ALLOCATOR.allocate(1 << 62),
    "allocate too few": lambda: ALLOCATOR.allocate(-5),
    "allocate many": lambda: ALLOCATOR.allocate_many(100, 70),
    "allocate many in vain": lambda: ALLOCATOR.allocate_many(1 << 50, 3),
    "header and tag": header_and_tag,
    "prepend too much": lambda: PACKET.prepend(bytes(5000)),
    "prepend text": lambda: PACKET.prepend("text"),  # type: ignore[arg-type]
    "advance too far": lambda: PACKET.advance(5000),
    "copy": PACKET.copy,
    "split": lambda: PACKET.copy().split(100),
    "split in vain": lambda: PACKET.split(0),
    "use a released packet": lambda: len(RELEASED),
    "free a foreign packet": lambda: ALLOCATOR.free(Allocator().allocate(1)),
    "free no packet": lambda: ALLOCATOR.free(3),  # type: ignore[arg-type]
    "refuse while exported": refuse_while_exported,
    "pickle": lambda: pickle.dumps(PACKET),
    "with a packet": with_packet,
    "with a view left": with_view_left,
    "new allocator": lambda: Allocator(alignment=32, memory_limit=None),
    "new allocator with a wrong setting": lambda: Allocator(alignment=48),
    "new allocator with a wrong type": lambda: Allocator(zero=3),  # type: ignore[arg-type]
    "stats": ALLOCATOR.stats,
    "windows": lambda: str(ALLOCATOR.windows()),
    "repr of the allocator": lambda: repr(ALLOCATOR),
    "integrity check": ALLOCATOR.integrity_check,
    "trim": ALLOCATOR.trim,
    "make a packet": lambda: Packet(),  # type: ignore[call-arg]  # noqa: PLW0108
}


@pytest.mark.skipif(not hasattr(sys, "getallocatedblocks"), reason="the interpreter does not count its blocks")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_call_leaves_nothing_behind(call: Callable[[], object]) -> None:
    def repeat(times: int) -> int:
        for _ in range(times):
            with contextlib.suppress(Exception):
                call()
        gc.collect()
        return sys.getallocatedblocks()

    before = repeat(20)
    used = ALLOCATOR.used_bytes
    repeat(200)
    # What is remembered once, and what other parts of the process do, is less than one block a call.
    assert repeat(1) - before < 100
    assert ALLOCATOR.used_bytes == used
