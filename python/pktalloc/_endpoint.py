"""`DatagramEndpoint`: datagrams for coroutines, without a protocol."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from asyncio.trsock import TransportSocket
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from pktalloc._pktalloc import Allocator, DatagramBatch, Receiver, send_many
from pktalloc._transport import BATCH, SIZE, _check_switch, _name, _wake

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Iterable
    from types import TracebackType

    from pktalloc._bind import Address

QUEUE_HIGH = 4096
"""Datagrams that may wait for room in the socket before those who send have to wait."""
BATCHES_A_TURN = 8
"""Batches that are handed out one after the other before other tasks get a turn."""

MOST_SKIPPED = 31
"""Calls, at most, that wait for the loop although there might be datagrams already."""


class DatagramEndpoint:
    """A datagram socket for coroutines that receives and sends batches.

    `async for batch in endpoint` gives a `pktalloc.DatagramBatch` as soon as datagrams have arrived, and `send_many()`
    sends. While more than 4096 datagrams wait to be sent, receiving waits as well, so that the queue of a relay stays
    bounded. Made by `pktalloc.aio.datagrams()`.
    """

    def __init__(  # noqa: PLR0913 - each a property of the endpoint
        self,
        sock: socket.socket,
        address: Address = None,
        *,
        allocator: Allocator | None = None,
        batch: int = BATCH,
        size: int = SIZE,
        gro: bool = False,
        gso: bool = True,
    ) -> None:
        """Serve `sock`, which the endpoint owns from now on, on the running loop."""
        self._loop = asyncio.get_running_loop()
        _check_switch("gso", gso)
        self._receive = Receiver(sock, batch, size, gro=gro).receive
        self._allocator = Allocator() if allocator is None else allocator
        self._sock: socket.socket | None = sock
        self._number = sock.fileno()
        self._full = batch
        self._gso = gso
        peer = _name(sock.getpeername)
        self._address = None if peer else address
        self._extra = {"socket": TransportSocket(sock), "sockname": _name(sock.getsockname), "peername": peer}
        # The batch, or the error, that was received while nobody waited.
        self._batch: DatagramBatch | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._reading = False
        # The last batch was full, or failed, so that there may be more.
        self._more = True
        # How many calls wait for the loop before one looks at the socket first, and how many did the last time.
        self._skip = self._skipped = 0
        self._at_once = 0
        self._queue: deque[tuple[bytes, Address]] = deque()
        self._drained: asyncio.Future[None] | None = None
        self._send_error: Exception | None = None
        self._closing = False

    # Receiving

    def recv(self) -> Coroutine[Any, Any, DatagramBatch]:
        """Wait for datagrams; return those that have arrived, at least one and at most a full batch.

        Raises the system's errors, such as `ConnectionRefusedError` on a connected socket, `MemoryError` when the
        allocator has no memory (the datagrams are then kept for the next call), and `ConnectionError` on a closed
        endpoint. When it is cancelled, no datagram is lost.
        """
        return self._next(ConnectionError)

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, DatagramBatch]:
        return self._next(StopAsyncIteration)

    async def _next(self, end: type[Exception]) -> DatagramBatch:
        """Wait for a batch; raise `end` when there will be none. A single coroutine, since each one costs."""
        if len(self._queue) > QUEUE_HIGH:
            await self.drain()
        self._at_once += 1
        if self._at_once > BATCHES_A_TURN:
            self._at_once = 0
            await asyncio.sleep(0)
        while not self._closing:
            if self._waiter is not None:
                raise RuntimeError("another coroutine is already waiting for datagrams")
            if self._batch is None and self._error is None:
                self._look()
            batch, error = self._batch, self._error
            if batch is not None:
                self._batch = None
                return batch
            if error is not None:
                self._error = None
                raise error
            self._at_once = 0
            self._waiter = self._loop.create_future()
            if not self._reading:
                self._reading = True
                self._loop.add_reader(self._number, self._readable)
            try:
                await self._waiter
            finally:
                self._waiter = None
        raise end("the endpoint is closed")

    def _look(self) -> None:
        """Receive what is there, unless nothing is likely to be."""
        if not (self._more or self._skip == 0):
            self._skip -= 1
        elif self._fetch():
            self._skipped = 0
        else:
            # To look in vain costs a system call: less often from now on.
            self._skip = self._skipped = min(2 * self._skipped + 1, MOST_SKIPPED)

    def _fetch(self) -> bool:
        """Receive what is there; tell whether that was something, an error included."""
        try:
            batch = self._receive(self._allocator)
        except Exception as error:  # noqa: BLE001 - the one who waits for datagrams is told
            # What was received and is kept for the next call is in no socket that the loop watches.
            self._error, self._more = error, True
            return True
        # A short batch says that there was nothing else.
        self._more = batch is not None and (len(batch) >= self._full or batch.waiting > 0)
        self._batch = batch
        return batch is not None

    def _readable(self) -> None:
        if self._batch is not None or self._error is not None:
            # Nobody takes what is there: the rest stays in the socket.
            self._stop_reading()
            return
        if self._fetch() and self._waiter is not None:
            _wake(self._waiter)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._number)

    # Sending

    def send_many(self, packets: Iterable[Any], address: Address = None) -> int:
        """Send datagrams as `pktalloc.send_many()` does, without waiting; return how many went at once.

        The others are copied and sent when the socket has room; `await drain()` waits for that. Raises what the system
        says about the first one, and the error that one sent later has met. What follows one that failed is sent.

        A batch goes back to where its datagrams came from; `send_many(batch.packets)` sends them to the endpoint's own
        peer, `send_many(batch.packets, address)` to another. Pairs of a packet and its address go to that address.
        """
        sock = self._open()
        if self._send_error is not None:
            error, self._send_error = self._send_error, None
            raise error
        if not isinstance(packets, DatagramBatch | list):
            packets = list(packets)
        if address is None and self._address is not None and not isinstance(packets, DatagramBatch):
            # The one to send to, unless a packet comes with its own.
            packets = [one if isinstance(one, tuple) else (one, self._address) for one in packets]
        sent = 0
        if not self._queue:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                sent = send_many(sock, packets, address, gso=self._gso)
            if sent == len(packets):
                return sent
        self._queue.extend(_pairs(packets, address, sent))
        self._loop.add_writer(self._number, self._flush)
        return sent

    async def send(self, packet: Any, address: Address = None) -> None:
        """Send a datagram, and wait until it went."""
        self.send_many([packet], address)
        await self.drain()

    async def drain(self) -> None:
        """Wait until everything that was to be sent has gone; raise what went wrong with any of it."""
        while self._queue and self._sock is not None:
            if self._drained is None:
                self._drained = self._loop.create_future()
            # Others may wait for the same.
            await asyncio.shield(self._drained)
        if self._send_error is not None:
            error, self._send_error = self._send_error, None
            raise error

    def _flush(self) -> None:
        queue, most = self._queue, BATCH
        while queue and self._sock is not None:
            pairs = [queue[place] for place in range(min(most, len(queue)))]
            try:
                packets, addresses = [packet for packet, _ in pairs], [address for _, address in pairs]
                sent = send_many(self._sock, packets, addresses, gso=self._gso)
            except (BlockingIOError, InterruptedError):
                return
            except Exception as error:  # noqa: BLE001 - the next one who sends is told
                if len(pairs) > 1 and not isinstance(error, OSError):
                    # One of the addresses makes no sense, and nothing was sent: one by one tells which.
                    most = 1
                    continue
                self._send_error = error
                sent = 1
            for _ in range(sent):
                queue.popleft()
        if self._sock is not None:
            self._loop.remove_writer(self._number)
        if self._drained is not None:
            _wake(self._drained)
            self._drained = None
        if self._closing:
            self._finish()

    # The end

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return 'sockname', 'peername' or 'socket', as a transport's method of this name."""
        return self._extra.get(name, default)

    @property
    def closed(self) -> bool:
        """Whether the endpoint is closed, or about to be."""
        return self._closing

    def close(self) -> None:
        """Receive no more, send what waits to be sent, then close the socket. To close twice is no error."""
        if self._closing:
            return
        self._closing = True
        self._stop_reading()
        if self._waiter is not None:
            _wake(self._waiter)
        if not self._queue:
            self._finish()

    def abort(self) -> None:
        """Close the socket without sending what waits to be sent."""
        self.close()
        if self._queue:
            self._queue.clear()
            self._flush()

    async def wait_closed(self) -> None:
        """Wait until everything has gone and the socket is closed."""
        while self._sock is not None and self._queue:
            await self.drain()

    def _finish(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        self._batch = self._error = None

    def _open(self) -> socket.socket:
        if self._sock is None or self._closing:
            raise ConnectionError("the endpoint is closed")
        return self._sock

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()
        if error is not None:
            # What is sent later must not keep an error, or a cancellation, waiting.
            self.abort()
        try:
            await self.wait_closed()
        except BaseException:
            self.abort()
            raise

    def __repr__(self) -> str:
        state = "closed" if self._sock is None else "closing" if self._closing else "open"
        return f"<pktalloc.aio.DatagramEndpoint {state} {self._extra['sockname']!r} queued={len(self._queue)}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "_sock", None) is not None:
            _warn(f"unclosed endpoint {self!r}", ResourceWarning, source=self)
            assert self._sock is not None  # noqa: S101 - for the type checker
            self._sock.close()


def _copied(packet: Any) -> bytes:
    """Copy a datagram. Of a number `bytes()` alone would make zeroes."""
    return bytes(memoryview(packet))


def _pairs(packets: DatagramBatch | list[Any], address: Address, start: int) -> list[tuple[bytes, Address]]:
    """Copy the datagrams from `start` on, each with its address."""
    if isinstance(packets, DatagramBatch):
        addresses = packets.addresses if address is None else [address] * len(packets)
        pairs = zip(packets.packets[start:], addresses[start:], strict=False)
        return [(_copied(packet), to) for packet, to in pairs]
    if isinstance(address, list):
        return [(_copied(packet), to) for packet, to in zip(packets[start:], address[start:], strict=False)]
    if address is not None:
        return [(_copied(packet), address) for packet in packets[start:]]
    rest = packets[start:]
    return [(_copied(one[0]), one[1]) if isinstance(one, tuple) else (_copied(one), None) for one in rest]
