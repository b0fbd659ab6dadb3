"""`DatagramTransport`: asyncio's, receiving and sending in batches."""

from __future__ import annotations

import asyncio
import logging
import warnings
from asyncio.trsock import TransportSocket
from collections import deque
from typing import TYPE_CHECKING, Any

from pktalloc._pktalloc import Allocator, Packet, Receiver, send_many

if TYPE_CHECKING:
    import socket

    from pktalloc._bind import Address

logger = logging.getLogger("asyncio")

BATCH = 64
"""Datagrams that are received, or sent, in one call."""
SIZE = 65536
"""Bytes of the longest datagram that is received whole. None over UDP is longer."""
RETRY = 0.01
"""Seconds until the allocator is asked again for a packet that it refused."""
LOST_WRITES = 5
"""Datagrams to a closed transport that are dropped without a word in the log."""


class DatagramTransport(asyncio.DatagramTransport, asyncio.Transport):
    """A transport for asyncio's `DatagramProtocol`s that fetches up to 64 datagrams in one system call.

    What a protocol sends while it is given datagrams leaves together when it has seen them all, and what it sends in
    one turn of the loop leaves at its end, except for the first datagram; all in order. Apart from that, everything
    happens as on the transport of `loop.create_datagram_endpoint()`.
    """

    # Looked up for every batch, so that it has a place of its own.
    __slots__ = ("__dict__", "__weakref__", "_protocol")

    def __init__(  # noqa: PLR0913 - each a property of the transport
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Address = None,
        *,
        allocator: Allocator | None = None,
        batch: int = BATCH,
        size: int = SIZE,
        gro: bool = False,
        gso: bool = True,
    ) -> None:
        """Serve `sock`, which the transport owns from now on; `address` is the only one to send to."""
        _check_switch("gso", gso)
        self._receiver = Receiver(sock, batch, size, gro=gro)
        self._loop = loop
        self._gso = gso
        self._sock: socket.socket | None = sock
        self._number = sock.fileno()
        peer = _name(sock.getpeername)
        super().__init__({"socket": TransportSocket(sock), "sockname": _name(sock.getsockname), "peername": peer})
        self._address = address
        self._connected = bool(peer)
        self._allocator = allocator
        self._protocol: Any = protocol
        # Sent already as far as the protocol knows: while it is given datagrams, and when the socket is full.
        self._buffer: deque[tuple[bytes, Address]] = deque()
        self._buffer_size = 0
        self._writing = False
        # Something was sent in this turn of the loop: what follows leaves together at its end.
        self._burst = False
        self._closing = False
        self._lost = 0
        self._reading = False
        # The allocator, which had refused a packet, is asked again.
        self._retrying = False
        self._paused = False
        self._protocol_paused = False
        self._low, self._high = _limits(None, None)

    def start(self, waiter: asyncio.Future[None]) -> None:
        """Introduce the transport to its protocol, then read, then wake the one who waits for both."""
        self._loop.call_soon(self._protocol.connection_made, self)
        self._loop.call_soon(self._start_reading)
        self._loop.call_soon(_wake, waiter)

    def __repr__(self) -> str:
        state = "closed" if self._sock is None else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {state} fd={self._number} bufsize={self._buffer_size}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "_sock", None) is not None:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            assert self._sock is not None  # noqa: S101 - for the type checker
            self._sock.close()

    # Reading

    def _start_reading(self) -> None:
        if not (self._closing or self._paused or self._reading):
            self._reading = True
            self._loop.add_reader(self._number, self._receiver.deliver, self, self._buffer, self._allocator)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._number)

    def is_reading(self) -> bool:
        """Return whether the protocol is given datagrams."""
        return not (self._closing or self._paused)

    def pause_reading(self) -> None:
        """Give the protocol no more datagrams until `resume_reading()`."""
        if self.is_reading():
            self._paused = True
            self._receiver.stop()
            self._stop_reading()

    def resume_reading(self) -> None:
        """Give the protocol datagrams again, those first that were received when it paused."""
        if self._paused and not self._closing:
            self._paused = False
            self._loop.call_soon(self._readable)
            self._start_reading()

    def _readable(self) -> None:
        """Give the protocol what is left of a batch, or what is there."""
        if self.is_reading():
            self._receiver.deliver(self, self._buffer, self._allocator)

    def _delivered(self, left: int, error: BaseException | None, in_callback: bool) -> None:
        """Send what the protocol has answered, and have it given those that are left."""
        refused = isinstance(error, MemoryError) and not in_callback
        try:
            if error is not None and not (refused and self._retrying):
                self._failed(error, in_callback)
        finally:
            if self._buffer and not self._writing:
                self._flush()
            if refused and self.is_reading():
                # Until somebody has freed some.
                self._stop_reading()
                self._loop.call_later(RETRY, self._retry)
            elif left and self.is_reading():
                self._loop.call_soon(self._readable)

    def _retry(self) -> None:
        """Give the protocol what the allocator had refused, if it has room now. That it has none was reported."""
        self._start_reading()
        self._retrying = True
        try:
            self._readable()
        finally:
            self._retrying = False

    def _failed(self, error: BaseException, in_callback: bool) -> None:
        """Report what has stopped datagrams from being delivered; those that are left come next."""
        if in_callback:
            self._report(error, f"Exception in callback {self._protocol.datagram_received!r}")
        elif isinstance(error, OSError):
            self._protocol.error_received(error)
        elif isinstance(error, MemoryError):
            self._report(error, "No memory for a datagram, which is kept")
        else:
            self._fatal(error, "Fatal read error on datagram transport")

    # Writing

    def sendto(self, data: Any, addr: Address = None) -> None:
        """Send a datagram; one that the socket has no room for now is sent later."""
        if not isinstance(data, bytes | bytearray | memoryview | Packet):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._address and addr is not None and addr != self._address:
            raise ValueError(f"Invalid address: must be None or {self._address}")
        addr = None if self._connected else addr or self._address
        if self._sock is None or self._lost:
            if self._lost >= LOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._lost += 1
            return
        if not (self._buffer or self._receiver.delivering or self._burst):
            self._burst = True
            self._loop.call_soon(self._end_burst)
            if self._send_now(self._sock, data, addr):
                return
        # What is kept must not change.
        kept = bytes(data)
        self._buffer.append((kept, addr))
        self._buffer_size += len(kept)
        if not self._writing and (len(self._buffer) >= BATCH or self._buffer_size > self._high):
            self._flush()
        self._maybe_pause()

    def _end_burst(self) -> None:
        self._burst = False
        if self._buffer and not self._writing:
            self._flush()

    def _send_now(self, sock: socket.socket, data: Any, addr: Address) -> bool:
        """Send a datagram, or say what is wrong with it; return whether it is done with."""
        try:
            if addr is None:
                sock.send(data)
            else:
                sock.sendto(data, addr)
        except (BlockingIOError, InterruptedError):
            self._start_writing()
            return False
        except OSError as error:
            self._protocol.error_received(error)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as asyncio does
            self._fatal(error, "Fatal write error on datagram transport")
        return True

    def _start_writing(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._number, self._flush)

    def _flush(self) -> None:
        """Send what is kept, as far as there is room."""
        buffer = self._buffer
        while buffer and self._sock is not None:
            pairs = [buffer[place] for place in range(min(BATCH, len(buffer)))]
            try:
                packets, addresses = [data for data, _ in pairs], [address for _, address in pairs]
                sent = send_many(self._sock, packets, addresses, gso=self._gso)
            except (BlockingIOError, InterruptedError):
                self._start_writing()
                return
            except OSError as error:
                self._forget(1)
                self._protocol.error_received(error)
                continue
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does
                self._fatal(error, "Fatal write error on datagram transport")
                return
            self._forget(sent)
        if self._writing and self._sock is not None:
            self._writing = False
            self._loop.remove_writer(self._number)
        self._maybe_resume()
        if self._closing and not self._buffer and not self._lost:
            self._lost += 1
            self._loop.call_soon(self._finish, None)

    def _forget(self, count: int) -> None:
        for _ in range(count):
            data, _address = self._buffer.popleft()
            self._buffer_size -= len(data)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are kept to be sent."""
        return self._buffer_size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the numbers of bytes below which a protocol is resumed, and above which it is paused."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the numbers of bytes above which a protocol is paused, and below which it is resumed."""
        self._low, self._high = _limits(high, low)
        self._maybe_pause()

    def _maybe_pause(self) -> None:
        if self._buffer_size > self._high and not self._protocol_paused:
            self._protocol_paused = True
            self._tell("pause_writing")

    def _maybe_resume(self) -> None:
        if self._protocol_paused and self._buffer_size <= self._low:
            self._protocol_paused = False
            self._tell("resume_writing")

    def _tell(self, what: str) -> None:
        try:
            getattr(self._protocol, what)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as asyncio does
            self._report(error, f"protocol.{what}() failed")

    # The end

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give datagrams to another protocol from now on."""
        self._protocol = protocol
        self._receiver.stop()

    def get_protocol(self) -> Any:
        """Return the protocol that is given the datagrams."""
        return self._protocol

    def is_closing(self) -> bool:
        """Return whether the transport is closed, or about to be."""
        return self._closing

    def close(self) -> None:
        """Receive no more, send what is kept, then close the socket and call `connection_lost(None)`."""
        if self._closing:
            return
        self._closing = True
        self._receiver.stop()
        self._stop_reading()
        if not self._buffer:
            self._lost += 1
            self._loop.call_soon(self._finish, None)

    def abort(self) -> None:
        """Close the socket without sending what it had no room for."""
        if self._buffer and not self._writing:
            self._flush()
        self._force(None)

    def _force(self, error: BaseException | None) -> None:
        if self._lost:
            return
        self._buffer.clear()
        self._buffer_size = 0
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._number)
        self._closing = True
        self._receiver.stop()
        self._stop_reading()
        self._lost += 1
        self._loop.call_soon(self._finish, error)

    def _finish(self, error: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            if self._sock is not None:
                self._sock.close()
            self._sock = None
            self._protocol = None

    def _fatal(self, error: BaseException, message: str) -> None:
        if isinstance(error, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=error)
        else:
            self._report(error, message)
        self._force(error)

    def _report(self, error: BaseException, message: str) -> None:
        context = {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        self._loop.call_exception_handler(context)


def _check_switch(name: str, value: object) -> None:
    """Refuse what is neither true nor false before there is something to send with it."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__}")


def _name(of: Any) -> Address:
    try:
        return of()
    except OSError:
        return None


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _limits(high: int | None, low: int | None) -> tuple[int, int]:
    if high is None:
        high = 64 * 1024 if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return low, high
