"""What every test of the Python face uses."""

from collections.abc import Callable, Iterator

import pytest

import pktalloc


@pytest.fixture
def allocator() -> Iterator[pktalloc.Allocator]:
    """Give an allocator of the default configuration whose bookkeeping must be whole at the end."""
    allocator = pktalloc.Allocator()
    yield allocator
    if not allocator.closed:
        allocator.integrity_check()


@pytest.fixture(params=[0, 5], ids=["at the start of its block", "behind a header"])
def offset(request: pytest.FixtureRequest) -> int:
    """Return how many bytes of its block lie in front of a packet."""
    return int(request.param)


@pytest.fixture
def packet_of(allocator: pktalloc.Allocator, offset: int) -> Callable[[bytes], pktalloc.Packet]:
    """Return a function that makes a packet with a content, so far behind the start of its block."""

    def make(content: bytes) -> pktalloc.Packet:
        packet = allocator.allocate(offset + len(content))
        packet.advance(offset)
        packet[:] = content
        return packet

    return make
