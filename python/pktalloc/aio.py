"""Datagrams in batches under asyncio, on its own event loops and on uvloop. Linux.

`datagrams()` makes an endpoint for coroutines:

>>> import asyncio
>>> from pktalloc import aio
>>> async def echo_once():
...     async with aio.datagrams(local_addr=("127.0.0.1", 0)) as server:
...         async with aio.datagrams(remote_addr=server.get_extra_info("sockname")) as client:
...             client.send_many([b"one", b"two"])
...             async for batch in server:
...                 server.send_many(batch)
...                 break
...             return [bytes(packet) for packet in (await client.recv()).packets]
>>> asyncio.run(echo_once())
[b'one', b'two']

`create_datagram_endpoint()` is asyncio's, for protocols: the same arguments, the same callbacks, many datagrams a
system call. `install()` makes a loop use it, for libraries that call the loop.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from pktalloc import _bind, _pktalloc

if not hasattr(_pktalloc, "Receiver"):
    raise ImportError(
        f"pktalloc.aio is for Linux, whose calls for many datagrams it uses; this system is {sys.platform}",
        name=__name__,
    )

from pktalloc._endpoint import DatagramEndpoint
from pktalloc._transport import BATCH, SIZE, DatagramTransport

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator
    from types import TracebackType

    from pktalloc import Allocator
    from pktalloc._bind import Address

__all__ = ["DatagramEndpoint", "DatagramTransport", "create_datagram_endpoint", "datagrams", "install"]

Protocol = TypeVar("Protocol", bound=asyncio.DatagramProtocol)


async def _socket(
    sock: socket.socket | None, local_addr: Address, remote_addr: Address, modifiers: dict[str, Any]
) -> tuple[socket.socket, Address]:
    if sock is not None:
        return _bind.check_socket(sock, {"local_addr": local_addr, "remote_addr": remote_addr, **modifiers}), None
    return await _bind.make_socket(local_addr, remote_addr, **modifiers)


async def create_datagram_endpoint(  # noqa: PLR0913 - asyncio's arguments, and some
    protocol_factory: Callable[[], Protocol],
    local_addr: Address = None,
    remote_addr: Address = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sock: socket.socket | None = None,
    allocator: Allocator | None = None,
    batch: int = BATCH,
    size: int = SIZE,
    gro: bool = False,
    gso: bool = True,
) -> tuple[DatagramTransport, Protocol]:
    """Make a datagram endpoint as `loop.create_datagram_endpoint()` does, receiving and sending in batches.

    An unchanged `asyncio.DatagramProtocol` gets `bytes`, or, with an `allocator`, packets from it. Up to `batch`
    datagrams of up to `size` bytes are received in one system call, and those that the protocol sends meanwhile are
    sent together. With `gro` the kernel may join datagrams of one flow; the protocol gets them one by one. `gso=False`
    sends every datagram by itself, without segment offload.

    Returns the transport and the protocol.
    """
    loop = asyncio.get_running_loop()
    modifiers = {
        "family": family,
        "proto": proto,
        "flags": flags,
        "reuse_port": reuse_port,
        "allow_broadcast": allow_broadcast,
    }
    made, address = await _socket(sock, local_addr, remote_addr, modifiers)
    try:
        protocol = protocol_factory()
        transport = DatagramTransport(
            loop, made, protocol, address, allocator=allocator, batch=batch, size=size, gro=gro, gso=gso
        )
    except BaseException:
        # The caller's socket stays the caller's.
        if sock is None:
            made.close()
        raise
    waiter: asyncio.Future[None] = loop.create_future()
    transport.start(waiter)
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return transport, protocol


class _Datagrams:
    """The result of `datagrams()`: await it, or enter it with `async with`."""

    def __init__(
        self,
        sock: socket.socket | None,
        addresses: tuple[Address, Address],
        modifiers: dict[str, Any],
        how: dict[str, Any],
    ) -> None:
        self._sock = sock
        self._addresses = addresses
        self._modifiers = modifiers
        self._how = how
        self._endpoint: DatagramEndpoint | None = None

    async def _make(self) -> DatagramEndpoint:
        made, address = await _socket(self._sock, *self._addresses, self._modifiers)
        try:
            return DatagramEndpoint(made, address, **self._how)
        except BaseException:
            if self._sock is None:
                made.close()
            raise

    def __await__(self) -> Generator[Any, None, DatagramEndpoint]:
        return self._make().__await__()

    async def __aenter__(self) -> DatagramEndpoint:
        self._endpoint = await self._make()
        return self._endpoint

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._endpoint is not None:
            await self._endpoint.__aexit__(kind, error, traceback)


def datagrams(  # noqa: PLR0913 - asyncio's arguments, and some
    local_addr: Address = None,
    remote_addr: Address = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sock: socket.socket | None = None,
    allocator: Allocator | None = None,
    batch: int = BATCH,
    size: int = SIZE,
    gro: bool = False,
    gso: bool = True,
) -> _Datagrams:
    """Make an endpoint for coroutines.

    `async with datagrams(...) as endpoint` closes it at the end; after `endpoint = await datagrams(...)` you close it.
    The arguments are those of `loop.create_datagram_endpoint()`, except for the protocol. Packets come from
    `allocator`, or from one that the endpoint makes. Up to `batch` datagrams of up to `size` bytes are received in one
    system call; with `gro` the kernel may join received datagrams of one flow. `gso=False` sends every datagram by
    itself, without segment offload.
    """
    modifiers = {
        "family": family,
        "proto": proto,
        "flags": flags,
        "reuse_port": reuse_port,
        "allow_broadcast": allow_broadcast,
    }
    how = {"allocator": allocator, "batch": batch, "size": size, "gro": gro, "gso": gso}
    return _Datagrams(sock, (local_addr, remote_addr), modifiers, how)


def install(loop: asyncio.AbstractEventLoop | None = None, **options: Any) -> Callable[[], None]:
    """Replace `create_datagram_endpoint()` of the loop, or of the running one, by the one that works in batches.

    For libraries that call the loop, such as aioquic. `options` are further arguments for each endpoint: `batch`,
    `size`, `gro`, `gso`, `allocator`. Returns a function that undoes the replacement; endpoints that exist stay as they
    are.
    """
    on = asyncio.get_running_loop() if loop is None else loop

    async def create(*arguments: Any, **keywords: Any) -> tuple[DatagramTransport, Any]:
        return await create_datagram_endpoint(*arguments, **{**options, **keywords})

    on.create_datagram_endpoint = create  # type: ignore[method-assign]

    def uninstall() -> None:
        if vars(on).get("create_datagram_endpoint") is create:
            del on.create_datagram_endpoint

    return uninstall
