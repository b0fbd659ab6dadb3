"""Where a packet buffer can come from in Python, side by side; run with `pytest benches/bench_python.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pktalloc import Allocator

SIZE = 1400
BATCH = 64


class Pool:
    """A pool as one writes it by hand: bytearrays of one size, taken from the end of a list."""

    def __init__(self) -> None:
        self.free = [bytearray(SIZE) for _ in range(BATCH)]

    def take(self) -> bytearray:
        return self.free.pop() if self.free else bytearray(SIZE)

    def give(self, buffer: bytearray) -> None:
        self.free.append(buffer)

    def pass_through(self) -> None:
        self.give(self.take())


ALLOCATOR = Allocator()
SOURCES: dict[str, Callable[[], Any]] = {
    "packet": lambda: ALLOCATOR.allocate(SIZE),
    "bytearray": lambda: bytearray(SIZE),
    "bytes": lambda: bytes(SIZE),
    "np.empty": lambda: np.empty(SIZE, np.uint8),
    "pool": Pool().pass_through,
}
BATCHES: dict[str, Callable[[], Any]] = {
    "packet": lambda: ALLOCATOR.allocate_many(SIZE, BATCH),
    "bytearray": lambda: [bytearray(SIZE) for _ in range(BATCH)],
    "bytes": lambda: [bytes(SIZE) for _ in range(BATCH)],
    "np.empty": lambda: [np.empty(SIZE, np.uint8) for _ in range(BATCH)],
}
BUFFERS: dict[str, Any] = {
    "packet": ALLOCATOR.allocate(SIZE),
    "bytearray": bytearray(SIZE),
    "np.empty": np.empty(SIZE, np.uint8),
}
USES: dict[str, Callable[[Any], object]] = {
    "index": lambda buffer: buffer[5],
    "assign": lambda buffer: buffer.__setitem__(5, 7),
    "len": len,
    "slice": lambda buffer: buffer[2:1000],
    "view": memoryview,
    "bytes": bytes,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.benchmark(group="one and drop")
def test_one(benchmark: Callable[..., object], source: str) -> None:
    benchmark(SOURCES[source])


@pytest.mark.parametrize("source", BATCHES)
@pytest.mark.benchmark(group=f"{BATCH} and drop")
def test_many(benchmark: Callable[..., object], source: str) -> None:
    benchmark(BATCHES[source])


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("buffer", BUFFERS)
def test_use(benchmark: Any, buffer: str, use: str) -> None:
    benchmark.group = use
    benchmark(USES[use], BUFFERS[buffer])
