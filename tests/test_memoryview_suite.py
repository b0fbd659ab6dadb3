"""The interpreter's own tests of memoryview, with packets as what is viewed.

Packets are made by an allocator, not by calling their type, so the type given to the tests is a function: `test_gc`,
which derives from the type, then skips it (a packet can be in no reference cycle; see `test_lifetime.py` for views of
packets in cycles). The tests that are skipped are those of read-only types.
"""

import importlib
import unittest
from typing import Any

import pytest

from pktalloc import Allocator, Packet

suite: Any = pytest.importorskip("test.test_memoryview", exc_type=ImportError)

ALLOCATOR = Allocator(check=True)


def packet_of(content: bytes, offset: int) -> Packet:
    """Make a packet with this content, so far behind the start of its block."""
    packet = ALLOCATOR.allocate(offset + len(content))
    packet.advance(offset)
    packet[:] = content
    return packet


class Views(suite.BaseBytesMemoryTests):  # type: ignore[misc]
    """What the tests view."""

    ro_type = None

    @staticmethod
    def rw_type(content: bytes) -> Packet:
        """Make a packet with this content."""
        return packet_of(content, 0)


class ViewsBehindHeaders(Views):
    """The same behind five bytes that are not the packet's."""

    @staticmethod
    def rw_type(content: bytes) -> Packet:
        """Make a packet with this content."""
        return packet_of(content, 5)


class WholeViews(suite.BaseMemoryviewTests, Views, unittest.TestCase):  # type: ignore[misc]
    """`memoryview(packet)`."""


class SlicedViews(suite.BaseMemorySliceTests, Views, unittest.TestCase):  # type: ignore[misc]
    """Slices of views."""


class TwiceSlicedViews(suite.BaseMemorySliceSliceTests, Views, unittest.TestCase):  # type: ignore[misc]
    """Slices of slices of views."""


class WholeViewsBehindHeaders(suite.BaseMemoryviewTests, ViewsBehindHeaders, unittest.TestCase):  # type: ignore[misc]
    """`memoryview(packet)`."""


class SlicedViewsBehindHeaders(suite.BaseMemorySliceTests, ViewsBehindHeaders, unittest.TestCase):  # type: ignore[misc]
    """Slices of views."""


class TwiceSlicedViewsBehindHeaders(
    suite.BaseMemorySliceSliceTests,  # type: ignore[misc]
    ViewsBehindHeaders,
    unittest.TestCase,
):
    """Slices of slices of views."""


def test_nothing_is_left_of_the_tests_above() -> None:
    importlib.import_module("gc").collect()
    ALLOCATOR.integrity_check()
    assert ALLOCATOR.used_bytes == 0
