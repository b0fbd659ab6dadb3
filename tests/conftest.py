"""What every test of the Python face uses."""

from collections.abc import Iterator

import pytest

import pktalloc


@pytest.fixture
def allocator() -> Iterator[pktalloc.Allocator]:
    """Give an allocator of the default configuration whose bookkeeping must be whole at the end."""
    allocator = pktalloc.Allocator()
    yield allocator
    if not allocator.closed:
        allocator.integrity_check()
