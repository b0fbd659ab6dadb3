"""What Python code can do wrong: each misuse has its error, and changes nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pktalloc import Allocator, IntegrityError, Packet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 8 << 20
FREED = 0xDE


def state(allocator: Allocator, *packets: Packet) -> tuple[object, ...]:
    """All that a refused call must leave as it is."""
    return (
        str(allocator.stats()),
        allocator.used_bytes,
        allocator.allocated_bytes,
        *((packet.address, packet.size, packet.tobytes()) for packet in packets),
    )


@pytest.mark.parametrize("check", [False, True])
def test_every_misuse_of_a_packet_is_named_and_changes_nothing(*, check: bool) -> None:
    allocator, other = Allocator(check=check), Allocator(check=check)
    live, theirs, released, exported = (
        allocator.allocate(1400),
        other.allocate(1400),
        allocator.allocate(1400),
        allocator.allocate(1400),
    )
    live[:] = b"\x07" * 1400
    released.release()
    closing = Allocator()
    closed = closing.allocate(100)
    closing.close()
    view = memoryview(exported)
    misuses: list[tuple[type[Exception], Callable[[], object]]] = [
        (ValueError, lambda: allocator.free(released)),
        (ValueError, lambda: allocator.reallocate(released, 10)),
        (ValueError, lambda: allocator.shrink(released, 10)),
        (ValueError, lambda: released[0]),
        (ValueError, lambda: memoryview(released)),
        (ValueError, closed.tobytes),
        (ValueError, lambda: closing.allocate(1)),
        (ValueError, lambda: allocator.free(theirs)),
        (ValueError, lambda: allocator.reallocate(theirs, 3000)),
        (ValueError, lambda: allocator.shrink(theirs, 10)),
        (ValueError, lambda: live.shrink(1401)),
        (ValueError, lambda: live.resize(-1)),
        (ValueError, lambda: allocator.allocate(-1)),
        (BufferError, exported.release),
        (BufferError, lambda: exported.resize(3000)),
        (BufferError, lambda: allocator.free(exported)),
        (BufferError, allocator.close),
    ]
    before = state(allocator, live, exported)
    for error, misuse in misuses:
        with pytest.raises(error):
            misuse()
        assert state(allocator, live, exported) == before
        allocator.integrity_check()
        other.integrity_check()
    view.release()
    exported.release()
    # Twice is no error.
    exported.release()


def sizes() -> Iterator[int]:
    for bit in range(65):
        yield from (size for delta in (-32, -1, 0, 1, 32) if (size := (1 << bit) + delta) > 0)
    yield from (sys.maxsize - 1, sys.maxsize, sys.maxsize + 1, 1 << 70, 1 << 200)


@pytest.mark.parametrize("options", [{}, {"zero": True}, {"check": True}, {"alignment": 4096, "window_bytes": 1 << 20}])
def test_every_size_in_every_call_is_served_or_a_memory_error(options: dict[str, int]) -> None:
    allocator = Allocator(memory_limit=LIMIT, **options)  # type: ignore[arg-type]
    packet = allocator.allocate(100)
    packet[:] = b"\x07" * 100
    for size in sizes():
        if size <= LIMIT // 8:
            for served in [allocator.allocate(size), *allocator.allocate_many(size, 2)]:
                assert len(served) == size
                served[size - 1] = 1
                served.release()
            packet.resize(size)
            packet.resize(100)
            packet[:] = b"\x07" * 100
        elif size > LIMIT:
            for call in (
                lambda: allocator.allocate(size),  # noqa: B023
                lambda: allocator.allocate_many(size, 2),  # noqa: B023
                lambda: packet.resize(size),  # noqa: B023
                lambda: allocator.reallocate(packet, size, copy=False),  # noqa: B023
            ):
                with pytest.raises((MemoryError, OverflowError)):
                    call()
            assert packet == b"\x07" * 100
    packet.release()
    assert allocator.used_bytes == 0
    allocator.integrity_check()


def test_a_write_to_freed_memory_is_an_integrity_error_with_its_address() -> None:
    ctypes = pytest.importorskip("ctypes")
    allocator = Allocator(check=True)
    packet = allocator.allocate(1000)
    address = packet.address
    packet.release()
    ctypes.memset(address + 500, 0, 1)
    for call in (allocator.integrity_check, lambda: allocator.allocate(1000)):
        with pytest.raises(IntegrityError, match=rf"written to: 1 bytes from {address + 500:#x} on"):
            call()
    assert allocator.used_bytes == 0
    ctypes.memset(address + 500, FREED, 1)
    allocator.integrity_check()
    assert allocator.allocate(1000).address == address
