"""The tests that CPython and uvloop have for their own datagrams, run against ours.

- `test_socket`: its sockets receive and send with batches of one, through `BatchSocket`.
- `test_asyncio`, uvloop: their loops make datagram endpoints with `pktalloc.aio`.

What cannot apply is listed in `SKIPPED`, with the reason. uvloop's tests are in its source archive alone: `make
conformance` fetches it and names the file in PKTALLOC_UVLOOP_TESTS.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import pktalloc

if sys.platform != "linux":
    pytest.skip("datagrams in batches are there on Linux", allow_module_level=True)

from pktalloc import _bind, aio

test_socket: Any = pytest.importorskip("test.test_socket", exc_type=ImportError)
test_base_events: Any = pytest.importorskip("test.test_asyncio.test_base_events", exc_type=ImportError)
test_events: Any = pytest.importorskip("test.test_asyncio.test_events", exc_type=ImportError)

REUSE = "reuse_address is uvloop's; asyncio has taken that argument away"
SKIPPED = {
    "test_create_datagram_endpoint_ip_addr": "serves a mock in the place of a socket; ours asks the kernel to receive",
    "test_create_datagram_endpoint_nosoreuseport": "is about systems without SO_REUSEPORT, which Linux has",
    "test_create_datagram_endpoint_reuse_address_error": REUSE,
    "test_create_datagram_endpoint_reuse_address_warning": REUSE,
    "test_udp_sendto_dns": "uvloop refuses names in sendto(); asyncio looks them up, and so does ours",
}

if "A UDP Socket was expected" in Path(test_base_events.__file__).read_text(encoding="utf-8"):
    SKIPPED["test_create_datagram_endpoint_wrong_sock"] = "asks for a wording that asyncio had once"

ALLOCATOR = pktalloc.Allocator()
PLAIN = socket.socket


class BatchSocket(PLAIN):
    """A socket whose datagrams go in batches of one; what is no datagram goes as it does otherwise."""

    def _in_batches(self, flags: int) -> bool:
        return self.type == socket.SOCK_DGRAM and flags == 0

    def recvfrom(self, bufsize: int, flags: int = 0) -> Any:
        if not self._in_batches(flags):
            return super().recvfrom(bufsize, flags)
        packet, address = ALLOCATOR.recv_many(self, 1, bufsize)[0]
        return bytes(packet), address

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        if not self._in_batches(flags):
            return super().recv(bufsize, flags)
        return bytes(self.recvfrom(bufsize)[0])

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> Any:
        if not self._in_batches(flags):
            return super().recvfrom_into(buffer, nbytes, flags)
        view = memoryview(buffer).cast("B")[: nbytes or None]
        batch = pktalloc.recv_many_into(self, view.cast("B", (1, len(view))))
        return batch.sizes[0], batch.addresses[0]

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        if not self._in_batches(flags):
            return super().recv_into(buffer, nbytes, flags)
        return int(self.recvfrom_into(buffer, nbytes)[0])

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> Any:
        if not self._in_batches(flags) or ancbufsize or bufsize < 1:
            return super().recvmsg(bufsize, ancbufsize, flags)
        batch = ALLOCATOR.recv_many(self, 1, bufsize)
        return bytes(batch.packets[0]), [], socket.MSG_TRUNC * batch.truncated[0], batch.addresses[0]

    def sendto(self, data: Any, *arguments: Any) -> int:
        if len(arguments) != 1 or not self._in_batches(0):
            return super().sendto(data, *arguments)
        assert pktalloc.send_many(self, [data], arguments[0]) == 1
        return memoryview(data).nbytes

    def send(self, data: Any, flags: int = 0) -> int:
        if not self._in_batches(flags):
            return super().send(data, flags)
        assert pktalloc.send_many(self, [data]) == 1
        return memoryview(data).nbytes

    def recvmsg_into(self, buffers: Any, ancbufsize: int = 0, flags: int = 0) -> Any:
        if not (self._in_batches(flags) and ancbufsize == 0 and isinstance(buffers, list) and len(buffers) == 1):
            return super().recvmsg_into(buffers, ancbufsize, flags)
        view = memoryview(buffers[0]).cast("B")
        batch = pktalloc.recv_many_into(self, view.cast("B", (1, len(view))))
        return batch.sizes[0], [], socket.MSG_TRUNC * batch.truncated[0], batch.addresses[0]

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:
        plain = ancdata in ([], ()) and isinstance(buffers, list) and len(buffers) == 1
        if not (self._in_batches(flags) and plain):
            return super().sendmsg(buffers, ancdata, flags, address)
        assert pktalloc.send_many(self, buffers, address) == 1
        return memoryview(buffers[0]).nbytes


class InBatches:
    """Has a class of `test_socket` make sockets that work in batches."""

    patch: Any

    @classmethod
    def setUpClass(cls) -> None:
        cls.patch = mock.patch.object(socket, "socket", BatchSocket)
        cls.patch.start()
        super().setUpClass()  # type: ignore[misc]

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()  # type: ignore[misc]
        cls.patch.stop()


class BasicUDP(InBatches, test_socket.BasicUDPTest):  # type: ignore[misc]
    """Sending and receiving."""


class TimeoutUDP(InBatches, test_socket.UDPTimeoutTest):  # type: ignore[misc]
    """Timeouts."""


class InterruptedUDP(InBatches, test_socket.InterruptedRecvTimeoutTest):  # type: ignore[misc]
    """Signals while a call waits."""


class ReceiveMessageUDP(InBatches, test_socket.RecvmsgUDPTest):  # type: ignore[misc]
    """Truncation, timeouts, closed sockets, addresses."""


class ReceiveMessageUDP6(InBatches, test_socket.RecvmsgUDP6Test):  # type: ignore[misc]
    """The same over IPv6."""


class ReceiveMessageIntoUDP(InBatches, test_socket.RecvmsgIntoUDPTest):  # type: ignore[misc]
    """The same into buffers."""


class ReceiveMessageIntoUDP6(InBatches, test_socket.RecvmsgIntoUDP6Test):  # type: ignore[misc]
    """The same over IPv6."""


class SendMessageUDP(InBatches, test_socket.SendmsgUDPTest):  # type: ignore[misc]
    """Sending, with and without an address."""


class SendMessageUDP6(InBatches, test_socket.SendmsgUDP6Test):  # type: ignore[misc]
    """The same over IPv6."""


class BasicUDPLite(InBatches, test_socket.BasicUDPLITETest):  # type: ignore[misc]
    """UDP with a checksum over a part, where the kernel has it."""


class TimeoutUDPLite(InBatches, test_socket.UDPLITETimeoutTest):  # type: ignore[misc]
    """The same with timeouts."""


class SocketsOfAsyncio:
    """The module `socket` as `asyncio.base_events` has it, where tests put mocks."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio.base_events.socket, name)  # type: ignore[attr-defined]


class Endpoints(test_base_events.BaseEventLoopWithSelectorTests):  # type: ignore[misc]
    """How endpoints are made."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(aio.install(self.loop))
        sockets = mock.patch.object(_bind, "socket", SocketsOfAsyncio())
        sockets.start()
        self.addCleanup(sockets.stop)


class Events(test_events.EventLoopTestsMixin, test_events.test_utils.TestCase):  # type: ignore[misc]
    """What protocols see."""

    def create_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop()
        aio.install(loop)
        return loop

    def tearDown(self) -> None:
        # Transports that a test has closed at its very end.
        self.loop.run_until_complete(asyncio.sleep(0))
        super().tearDown()


def keep_datagram_tests(case: type[unittest.TestCase]) -> None:
    """Hide the tests of other things, and skip what cannot apply."""
    for name in dir(case):
        if not name.startswith("test"):
            continue
        if case is not OnUvloop and "datagram" not in name:
            setattr(case, name, None)
        elif name in SKIPPED:
            setattr(case, name, unittest.skip(SKIPPED[name])(getattr(case, name)))


def uvloop_tests() -> Any:
    """Load uvloop's tests of datagrams, whose loops make endpoints that work in batches."""
    path = os.environ.get("PKTALLOC_UVLOOP_TESTS")
    if not path:
        return None
    spec = importlib.util.spec_from_file_location("uvloop_test_udp", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


UVLOOP = uvloop_tests()


@unittest.skipUnless(UVLOOP, "make conformance fetches uvloop's tests")
class OnUvloop(UVLOOP.Test_UV_UDP if UVLOOP else unittest.TestCase):  # type: ignore[misc]
    """uvloop's own tests on uvloop."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(aio.install(self.loop))

    def test_there_are_tests(self) -> None:
        assert len([name for name in dir(self) if name.startswith("test_create_datagram")]) > 5


keep_datagram_tests(Endpoints)
keep_datagram_tests(Events)
keep_datagram_tests(OnUvloop)
