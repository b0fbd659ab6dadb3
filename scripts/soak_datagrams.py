"""Millions of datagrams through a relay and an echo, each counted and checked, with an eye on memory.

`make soak-datagrams`. Three processes: this one sends numbered datagrams of changing sizes to a relay (an endpoint of
`pktalloc.aio`), which passes them to an echo (a protocol on the drop-in endpoint) and the answers back. Nothing may be
lost, changed, or come in another order, and neither process may grow.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pktalloc
from pktalloc import Allocator, aio, send_many

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

BATCH = 64
WINDOW = 2 * BATCH
"""Datagrams that are on their way at a time: fewer than a receive buffer holds."""
SIZES = (60, 1200, 200, 1400, 9, 576)
"""Bytes of the datagrams of a batch, one after the other."""
FILLER = os.urandom(1400)
WARM_UP = 0.1
GROWTH = 2 << 20
"""Bytes by which a process may grow once it is warm."""


def made() -> socket.socket:
    """Make a socket with a receive buffer as large as the system allows without privileges."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind(("127.0.0.1", 0))
    return sock


async def relay(pipe: Connection, upstream: Any, gro: bool) -> None:
    """Pass what comes from anywhere upstream, and what comes from there to the last one that asked."""
    client = None
    async with aio.datagrams(sock=made(), gro=gro, gso=gro) as endpoint:
        pipe.send(endpoint.get_extra_info("sockname"))
        async for batch in endpoint:
            run: list[Any] = []
            to = None
            for packet, source in batch:
                if source != upstream:
                    client = source
                target = client if source == upstream else upstream
                if target != to and run:
                    endpoint.send_many(run, to)
                    run = []
                to = target
                run.append(packet)
            endpoint.send_many(run, to)


async def echo(pipe: Connection, _upstream: Any, gro: bool) -> None:
    """Send everything back."""

    class Echo(asyncio.DatagramProtocol):
        transport: Any = None

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: Any, addr: Any) -> None:
            self.transport.sendto(data, addr)

    transport, _ = await aio.create_datagram_endpoint(Echo, sock=made(), gro=gro, allocator=Allocator())
    pipe.send(transport.get_extra_info("sockname"))
    await asyncio.Event().wait()


def serve(what: Any, pipe: Connection, upstream: Any, gro: bool) -> None:
    """Be one of the processes."""
    asyncio.run(what(pipe, upstream, gro))


def resident(process: Any) -> int:
    """Bytes of memory that a process has in use."""
    return int(Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def exchange(count: int, to: Any, servers: dict[str, Any], gro: bool) -> bool:
    """Send and check `count` datagrams; print memory as it goes; return whether it stayed flat."""
    allocator = Allocator()
    sock = made()
    sock.settimeout(10)
    under_way: deque[bytes] = deque()
    sent = received = 0
    warm: dict[str, int] = {}
    most = dict.fromkeys(servers, 0)
    started, next_look = time.monotonic(), count * WARM_UP
    while received < count:
        while sent < count and len(under_way) <= WINDOW - BATCH:
            size = SIZES[sent // BATCH % len(SIZES)]
            batch = [struct.pack(">Q", number) + FILLER[: size - 8] for number in range(sent, min(sent + BATCH, count))]
            under_way.extend(batch)
            sent += len(batch)
            left = batch
            while left:
                left = left[send_many(sock, left, to, gso=gro) :]
        try:
            answers = allocator.recv_many(sock, BATCH, gro=gro)
        except TimeoutError:
            print(f"datagram {received} of {count} did not come back within 10 seconds")
            return False
        for packet in answers.packets:
            if packet != under_way.popleft():
                print(f"datagram {received} of {count} came back as another")
                return False
            received += 1
        if received >= next_look:
            next_look += count * WARM_UP
            now = {name: resident(server) for name, server in servers.items()}
            warm = warm or now
            most = {name: max(most[name], size) for name, size in now.items()}
            memory = ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in now.items())
            print(f"  {received:>11,} after {time.monotonic() - started:6.1f} s: {memory}", flush=True)
    grown = {name: most[name] - warm[name] for name in servers}
    flat = all(growth <= GROWTH for growth in grown.values())
    growth = ", ".join(f"{name} {size / 1024:.0f} KiB" for name, size in grown.items())
    offload = "with" if gro else "without"
    print(f"{count:,} datagrams {offload} segment offload: none lost, changed or out of order; growth: {growth}")
    return flat


def main() -> int:
    """Start the servers and have them tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--gro", action="store_true", help="have the kernel join and cut datagrams")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    servers: dict[str, Any] = {}
    address = None
    try:
        for name, what in (("echo", echo), ("relay", relay)):
            mine, theirs = context.Pipe()
            server = context.Process(target=serve, args=(what, theirs, address, options.gro), daemon=True)
            server.start()
            servers[name] = server
            address = mine.recv()
        flat = exchange(options.count, address, servers, options.gro)
    finally:
        for server in servers.values():
            server.terminate()
            server.join()
    counters = pktalloc.datagram_counters()
    print(f"here {counters['receive_calls']:,} receive calls, {counters['send_calls']:,} send calls")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
