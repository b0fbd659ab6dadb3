"""What a packet costs in Python, as a ratio to what a bytearray costs; prints a table and judges the targets.

    python benches/python_targets.py [--rounds N]

Each pair is measured in turns within one process, a few thousand calls at a time; the ratio is the median of the turns'
ratios, in each of which both sides met the machine in the same mood. Both sides contain the interpreter's loop.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import time
import timeit
from typing import TYPE_CHECKING, Any

from pktalloc import Allocator

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 1400
BATCH = 64
CALLS = 5000
"""Calls of one measurement; of a batch a 64th of that."""
RECEIVED = 32
"""Datagrams of one measurement: they wait in the socket's buffer, and the packets for them lie in one window."""


class Statements:
    """Two statements, measured alike."""

    def __init__(self, name: str, ours: str, theirs: str, most: float | None, per: int = 1) -> None:
        self.name = name
        self.ours = ours
        self.theirs = theirs
        self.most = most
        self.calls = CALLS // per

    def measure(self, names: dict[str, Any]) -> Callable[[], tuple[float, float]]:
        """Return a function that measures both once, in ns a call."""
        ours, theirs = (timeit.Timer(statement, globals=names) for statement in (self.ours, self.theirs))
        return lambda: (ours.timeit(self.calls) / self.calls * 1e9, theirs.timeit(self.calls) / self.calls * 1e9)


PAIRS = [
    Statements("allocate, drop", "allocate(1400)", "bytearray(1400)", 0.6),
    Statements("allocate_many, drop", "allocate_many(1400, 64)", "[bytearray(1400) for _ in range(64)]", 0.35, BATCH),
    Statements("index", "packet[5]", "array[5]", 1.5),
    Statements("len", "len(packet)", "len(array)", 1.5),
    Statements("view", "packet.view", "memoryview(array)", 1.5),
    Statements("slice of a view", "packet[2:1000]", "memoryview(array)[2:1000]", 1.5),
    Statements("slice, beside a copy", "packet[:]", "array[:]", None),
    Statements("short slice, beside a copy", "packet[2:40]", "array[2:40]", None),
    Statements("assign to index", "packet[5] = 7", "array[5] = 7", None),
    Statements("assign to slice", "packet[2:6] = b'abcd'", "array[2:6] = b'abcd'", None),
    Statements("compare", "packet == array", "array == array", None),
    Statements("copy to bytes", "packet.tobytes()", "bytes(array)", None),
    Statements("write and drop", "p = allocate(1400); p[:] = content", "p = bytearray(1400); p[:] = content", None),
    Statements("beside bytes(1400)", "allocate(1400)", "bytes(1400)", None),
    Statements("beside a pool of bytearrays", "allocate(1400)", "p = take(); give(p)", None),
]


def receiving(*, allocating: bool) -> Callable[[], tuple[float, float]]:
    """Return a function that measures a receive: into a packet that is then shrunk, and into one bytearray.

    Each packet is a fresh one; to allocate it is part of the measurement or not.
    """
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(receiver.getsockname())
    datagram = bytes(900)
    allocator = Allocator()
    array = bytearray(2048)

    def into_packets() -> float:
        packets = [] if allocating else allocator.allocate_many(2048, RECEIVED)
        start = time.perf_counter_ns()
        for packet in packets or allocator.allocate_many(2048, RECEIVED):
            packet.shrink(receiver.recv_into(packet))
        return (time.perf_counter_ns() - start) / RECEIVED

    def into_array() -> float:
        start = time.perf_counter_ns()
        for _ in range(RECEIVED):
            receiver.recv_into(array)
        return (time.perf_counter_ns() - start) / RECEIVED

    def after_sending(receive: Callable[[], float]) -> float:
        for _ in range(RECEIVED):
            sender.send(datagram)
        return receive()

    return lambda: (after_sending(into_packets), after_sending(into_array))


def main() -> int:
    """Measure, print, and return 1 when a target was missed."""
    parser = argparse.ArgumentParser(description="What a packet costs in Python, beside a bytearray.")
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="turns of each pair (default 200)")
    rounds = parser.parse_args().rounds
    allocator = Allocator()
    pool = [bytearray(SIZE)]
    names = {
        "allocate": allocator.allocate,
        "allocate_many": allocator.allocate_many,
        "packet": allocator.allocate(SIZE),
        "array": bytearray(SIZE),
        "content": bytes(SIZE),
        "take": pool.pop,
        "give": pool.append,
    }
    pairs = [(pair.name, pair.measure(names), pair.most) for pair in PAIRS]
    pairs.append(("receive, shrink", receiving(allocating=False), 1.1))
    pairs.append(("allocate, receive, shrink", receiving(allocating=True), None))
    print(f"{'':28} {'packet':>9} {'beside':>9} {'ratio':>6} {'target':>7}")
    missed = 0
    for name, measure, most in pairs:
        measured = [measure() for _ in range(rounds)]
        ours, theirs = (statistics.median(side) for side in zip(*measured, strict=True))
        ratio = statistics.median(ours / theirs for ours, theirs in measured)
        verdict = "" if most is None else f"{most:7.2f} {'met' if ratio <= most else 'MISSED'}"
        missed += verdict.endswith("MISSED")
        print(f"{name:28} {ours:6.0f} ns {theirs:6.0f} ns {ratio:6.3f} {verdict}")
    print(f"targets missed: {missed}" if missed else "all targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
