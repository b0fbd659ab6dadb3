"""What the tests of datagrams under asyncio use: protocols that keep what happens."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from pktalloc import aio

Run = Callable[[Coroutine[Any, Any, Any]], Any]

LOCAL = ("127.0.0.1", 0)


class Collector(asyncio.DatagramProtocol):
    """Keeps what happens."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.received: list[tuple[Any, Any]] = []
        self.errors: list[Exception] = []
        self.events: list[str] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.wanted = asyncio.Event()
        self.count = 1

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("made")

    def datagram_received(self, data: Any, addr: Any) -> None:
        self.received.append((data, addr))
        if len(self.received) >= self.count:
            self.wanted.set()

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self.wanted.set()

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)

    async def want(self, count: int) -> None:
        """Wait until so many datagrams were received."""
        self.count = count
        if len(self.received) < count:
            self.wanted.clear()
            await self.wanted.wait()


class Echo(Collector):
    """Sends everything back."""

    def datagram_received(self, data: Any, addr: Any) -> None:
        super().datagram_received(data, addr)
        self.transport.sendto(data, addr)


@contextlib.asynccontextmanager
async def protocol(factory: Any = Collector, *arguments: Any, **keywords: Any) -> Any:
    """Make a transport and its protocol that are closed at the end."""
    transport, made = await aio.create_datagram_endpoint(factory, *arguments, **keywords)
    try:
        yield made
    finally:
        transport.close()
        await made.lost


async def received_from(sock: socket.socket, count: int) -> list[bytes]:
    """Receive so many datagrams from a non-blocking socket while the loop goes on."""
    received: list[bytes] = []
    while len(received) < count:
        with contextlib.suppress(BlockingIOError):
            received.append(sock.recv(100))
            continue
        await asyncio.sleep(0)
    return received
