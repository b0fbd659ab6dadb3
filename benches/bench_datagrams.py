"""Processor time a datagram, on loopback: batches beside the usual ways, in one run, interleaved.

`make bench-datagrams`. Each figure is the median over rounds that take turns, so that a machine that slows down slows
all of them. The thread's own processor time is measured: what the kernel does for it included, other processes not.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import functools
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

import pktalloc
from pktalloc import Allocator, aio, send_many

BATCH = 64
SIZES = (60, 1200, 1400)
UDP_GRO = 104
TURN = 8
"""Rounds that one candidate has before the next: caches are then as in a program that does one thing."""
CLOCK = time.thread_time_ns

Work = Callable[[], int]


class Pair:
    """Two sockets on loopback, the sender connected to the receiver."""

    def __init__(self, size: int, *, gro: bool = False) -> None:
        self.here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.here.bind(("127.0.0.1", 0))
        if gro:
            self.here.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        self.address = self.here.getsockname()
        self.there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.there.bind(("127.0.0.1", 0))
        self.data = [os.urandom(size) for _ in range(BATCH)]
        self.gro = gro
        self.allocator = Allocator()

    def fill(self, gso: bool) -> None:
        send_many(self.there, self.data, self.address, gso=gso)

    def empty(self) -> None:
        received = 0
        while received < BATCH:
            received += len(self.allocator.recv_many(self.here, BATCH, gro=self.gro))


def timed(work: Callable[[], object]) -> float:
    start = CLOCK()
    work()
    return (CLOCK() - start) / BATCH


def receiving(size: int) -> dict[str, Callable[[], float]]:
    """Time to receive 64 datagrams that wait, by how it is done."""
    plain, joined = Pair(size), Pair(size, gro=True)
    buffer = bytearray(2048)

    def recvfrom() -> None:
        for _ in range(BATCH):
            plain.here.recvfrom(2048)

    def recvfrom_into() -> None:
        for _ in range(BATCH):
            plain.here.recvfrom_into(buffer)

    def after_filling(pair: Pair, work: Callable[[], object], *, gso: bool = False) -> Callable[[], float]:
        def measure() -> float:
            pair.fill(gso)
            return timed(work)

        return measure

    rows = memoryview(bytearray(BATCH * 2048)).cast("B", (BATCH, 2048))
    in_c = library()
    works = {
        "recvfrom": after_filling(plain, recvfrom),
        "recvfrom_into": after_filling(plain, recvfrom_into),
        "recv_many": after_filling(plain, plain.empty),
        "recv_many_into": after_filling(plain, lambda: pktalloc.recv_many_into(plain.here, rows)),
        "recv_many, gro": after_filling(joined, joined.empty, gso=True),
    }
    return works if in_c is None else {**works, "recvmmsg in C": lambda: in_c(size)}


def receiving_one(size: int) -> dict[str, Callable[[], float]]:
    """Time to receive the only datagram that waits at a socket, by how it is done: of one socket after the other."""
    pairs = [Pair(size) for _ in range(BATCH)]
    sockets = [pair.here for pair in pairs]
    allocator = pairs[0].allocator

    def of_each(receive: Callable[[socket.socket], object]) -> Callable[[], float]:
        def all_of_them() -> None:
            for sock in sockets:
                receive(sock)

        def measure() -> float:
            for pair in pairs:
                pair.there.sendto(pair.data[0], pair.address)
            return timed(all_of_them)

        return measure

    return {
        "recvfrom": of_each(lambda sock: sock.recvfrom(2048)),
        "recv_many(1)": of_each(lambda sock: allocator.recv_many(sock, 1)),
        "recv_many(64)": of_each(lambda sock: allocator.recv_many(sock, BATCH)),
    }


def sending(size: int) -> dict[str, Callable[[], float]]:
    """Time to send 64 datagrams to a socket of this host, delivery included."""
    plain, joined = Pair(size), Pair(size, gro=True)

    def sendto() -> None:
        for datagram in plain.data:
            plain.there.sendto(datagram, plain.address)

    def then_empty(pair: Pair, work: Callable[[], object]) -> Callable[[], float]:
        def measure() -> float:
            took = timed(work)
            pair.empty()
            return took

        return measure

    return {
        "sendto": then_empty(plain, sendto),
        "send_many, no gso": then_empty(plain, lambda: plain.fill(gso=False)),
        "send_many": then_empty(plain, lambda: plain.fill(gso=True)),
        "send_many to gro": then_empty(joined, lambda: joined.fill(gso=True)),
    }


class Sink(asyncio.DatagramProtocol):
    """Counts, and answers if asked to."""

    def __init__(self, *, echo: bool) -> None:
        self.echo = echo
        self.left = 0
        self.done: asyncio.Future[None] | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: Any, addr: Any) -> None:
        if self.echo:
            self.transport.sendto(data, addr)
        self.left -= 1
        if self.left == 0 and self.done is not None:
            self.done.set_result(None)


class Sending:
    """Datagrams that are sent at once, or one that is sent when the loop comes to it."""

    def __init__(self, pair: Pair, waiting: int, address: Any, *, gso: bool) -> None:
        self.took = 0
        if waiting:
            send_many(pair.there, pair.data[:waiting], address, gso=gso)
        else:
            asyncio.get_running_loop().call_soon(self.later, pair, address)

    def later(self, pair: Pair, address: Any) -> None:
        start = CLOCK()
        pair.there.sendto(pair.data[0], address)
        self.took = CLOCK() - start


async def through_protocol(  # noqa: PLR0913 - what varies
    make: Any, size: int, waiting: int, rounds: int, *, echo: bool, gro: bool
) -> list[float]:
    """Time that a protocol takes for datagrams of which so many wait each time; 0: one comes when it is waited for."""
    loop = asyncio.get_running_loop()
    transport, sink = await make(lambda: Sink(echo=echo), local_addr=("127.0.0.1", 0))
    pair = Pair(size)
    times = []
    for _ in range(rounds):
        sink.left, sink.done = max(waiting, 1), loop.create_future()
        sending = Sending(pair, waiting, transport.get_extra_info("sockname"), gso=gro)
        start = CLOCK()
        await sink.done
        times.append((CLOCK() - start - sending.took) / max(waiting, 1))
        drain(pair.there, waiting if echo else 0)
    transport.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return times


async def through_endpoint(size: int, waiting: int, rounds: int, *, echo: bool, gro: bool) -> list[float]:
    """The same for an endpoint."""
    pair = Pair(size)
    if gro:
        pair.there.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    times = []
    async with aio.datagrams(local_addr=("127.0.0.1", 0), gro=gro) as endpoint:
        address = endpoint.get_extra_info("sockname")
        for _ in range(rounds):
            left = max(waiting, 1)
            sending = Sending(pair, waiting, address, gso=gro)
            start = CLOCK()
            while left:
                batch = await endpoint.recv()
                left -= len(batch)
                if echo:
                    endpoint.send_many(batch)
            times.append((CLOCK() - start - sending.took) / max(waiting, 1))
            drain(pair.there, waiting if echo else 0)
    return times


def drain(sock: socket.socket, count: int) -> None:
    """Take what came back."""
    allocator = Allocator()
    while count > 0:
        count -= len(allocator.recv_many(sock, BATCH, 2048, gro=bool(sock.getsockopt(socket.IPPROTO_UDP, UDP_GRO))))


Kind = tuple[str, str, Callable[..., Coroutine[Any, Any, list[float]]]]


def loops(size: int, rounds: int) -> dict[str, float]:  # noqa: C901 - a loop for each thing that varies
    """Microseconds a datagram under event loops; the name says how many wait, and what serves them."""

    def stock(waiting: int, part: int, *, echo: bool, gro: bool) -> Coroutine[Any, Any, list[float]]:
        async def run() -> list[float]:
            make = asyncio.get_running_loop().create_datagram_endpoint
            return await through_protocol(make, size, waiting, part, echo=echo, gro=gro)

        return run()

    def dropin(waiting: int, part: int, *, echo: bool, gro: bool) -> Coroutine[Any, Any, list[float]]:
        async def make(*arguments: Any, **keywords: Any) -> Any:
            return await aio.create_datagram_endpoint(*arguments, gro=gro, **keywords)

        return through_protocol(make, size, waiting, part, echo=echo, gro=gro)

    def endpoint(waiting: int, part: int, *, echo: bool, gro: bool) -> Coroutine[Any, Any, list[float]]:
        return through_endpoint(size, waiting, part, echo=echo, gro=gro)

    serve = {"protocol": stock, "drop-in": dropin, "endpoint": endpoint}
    factories = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    times: dict[str, list[float]] = {}
    for _ in range(3):
        for loop_name, factory in factories.items():
            for served, make in serve.items():
                for what, waiting, echo, gro in (
                    ("1 to come", 0, False, False),
                    ("1 waiting", 1, False, False),
                    ("8 waiting", 8, False, False),
                    ("64 waiting", 64, False, False),
                    ("64 waiting, gro", 64, False, True),
                    ("echo of 64", 64, True, False),
                    ("echo of 64, gro", 64, True, True),
                ):
                    if gro and served == "protocol":
                        continue
                    part = max(rounds // 3, 2) * (8 if waiting <= 1 else 1)
                    with asyncio.Runner(loop_factory=factory) as runner:
                        measured = runner.run(make(waiting, part, echo=echo, gro=gro))
                    times.setdefault(f"{what}: {served} on {loop_name}", []).extend(measured)
    return {name: statistics.median(each) / 1000 for name, each in times.items()}


def loops_in_process(size: int, rounds: int, *, raised: bool) -> dict[str, float]:
    """Measure them in a process of their own: with malloc as it comes, or keeping asyncio's receive buffer mapped."""
    command = [sys.executable, __file__, "--size", str(size), "--rounds", str(rounds), "--loops-only"]
    environment = dict(os.environ)
    if raised:
        environment |= {"MALLOC_MMAP_THRESHOLD_": "4194304", "MALLOC_TRIM_THRESHOLD_": "16777216"}
    else:
        # glibc raises the threshold by itself when something large is freed, which would flatter asyncio.
        environment |= {"MALLOC_MMAP_THRESHOLD_": "131072"}
    lines = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition("=") for line in lines)}


@functools.cache
def library() -> Callable[[int], float] | None:
    """What receives with recvmmsg in C, where there is a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        built = str(Path(folder) / "datagrams.so")
        source = str(Path(__file__).with_name("datagrams.c"))
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", built, source], check=True)
        loaded = ctypes.CDLL(built)
    if loaded.set_up() != 0:
        raise OSError("benches/datagrams.c has no sockets")
    loaded.receive.restype, loaded.receive.argtypes = ctypes.c_double, [ctypes.c_uint]

    def receive(size: int) -> float:
        took = float(loaded.receive(size))
        if took < 0:
            raise OSError("benches/datagrams.c: a system call failed")
        return took

    return receive


def alternate(works: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Run each in turn, a few rounds at a time of which the first does not count, and take the median of each."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(-(-rounds // TURN)):
        for name, work in works.items():
            work()
            times[name].extend(work() for _ in range(TURN))
    return {name: statistics.median(each) for name, each in times.items()}


def judge(name: str, value: float, reference: float, target: float) -> bool:
    ratio = value / reference
    met = ratio <= target
    print(f"  {name:<66} {ratio:6.2f} of it, at most {target:.2f}: {'met' if met else 'MISSED'}")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--size", type=int, default=1200, help="bytes of the datagrams under event loops")
    parser.add_argument("--loops-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loops_only:
        for name, value in loops(options.size, options.rounds).items():
            print(f"{name}={value}")
        return 0
    verdicts = []
    # First, before a socket is asked for gro: from then on a process receives nothing by plain calls.
    singles = {size: alternate(receiving_one(size), options.rounds) for size in SIZES}
    for size, single in singles.items():
        received, sent = alternate(receiving(size), options.rounds), alternate(sending(size), options.rounds)
        print(f"\n{size} bytes, ns of processor time a datagram:")
        alone = {f"1 waiting: {name}": figure for name, figure in single.items()}
        for name, figure in {**received, **alone, **sent}.items():
            print(f"  {name:<40} {figure:8.0f}")
        if "recvmmsg in C" not in received:
            print("  no C compiler: recvmmsg in C is left out")
        verdicts += [
            judge("recv_many, of recvfrom", received["recv_many"], received["recvfrom"], 0.53),
            judge("recv_many(1), 1 waiting, of recvfrom", single["recv_many(1)"], single["recvfrom"], 1.0),
            judge("recv_many with gro, of recvfrom", received["recv_many, gro"], received["recvfrom"], 0.14),
            judge("send_many without gso, of sendto", sent["send_many, no gso"], sent["sendto"], 0.77),
            judge("send_many, of sendto", sent["send_many"], sent["sendto"], 0.22),
            judge("send_many to a receiver with gro, of sendto", sent["send_many to gro"], sent["sendto"], 0.08),
        ]
        if "recvmmsg in C" in received:
            in_c = received["recvmmsg in C"]
            verdicts.append(judge("recv_many, of recvmmsg in C", received["recv_many"], in_c, 1.3))
    under, raised = (loops_in_process(options.size, options.rounds, raised=raised) for raised in (False, True))
    print(f"\n{options.size} bytes, us of processor time a datagram (and with malloc's mmap threshold raised):")
    for name, value in under.items():
        print(f"  {name:<44} {value:8.2f} {raised[name]:8.2f}")
    for served in ("endpoint", "drop-in"):
        ours = f"{served} on"
        stock, tuned = under["64 waiting: protocol on asyncio"], raised["64 waiting: protocol on asyncio"]
        verdicts += [
            judge(f"{ours} asyncio, 64 waiting, of asyncio", under[f"64 waiting: {ours} asyncio"], stock, 0.06),
            judge(
                f"{ours} asyncio, 64 waiting, of asyncio, raised", raised[f"64 waiting: {ours} asyncio"], tuned, 0.25
            ),
        ]
        for waiting, target in (("64 waiting", 0.5), ("1 waiting", 1.0)):
            reference = under[f"{waiting}: protocol on uvloop"]
            value = under[f"{waiting}: {ours} uvloop"]
            verdicts.append(judge(f"{ours} uvloop, {waiting}, of uvloop", value, reference, target))
        one, tuned = raised[f"1 waiting: {ours} asyncio"], raised["1 waiting: protocol on asyncio"]
        verdicts.append(judge(f"{ours} asyncio, 1 waiting, of asyncio, raised", one, tuned, 1.0))
    echo = under["echo of 64: protocol on uvloop"]
    verdicts += [
        judge("echo, endpoint on uvloop, of uvloop", under["echo of 64: endpoint on uvloop"], echo, 0.6),
        judge("echo with gro and gso, of uvloop", under["echo of 64, gro: endpoint on uvloop"], echo, 0.1),
    ]
    print(f"\n{sum(verdicts)} of {len(verdicts)} targets met")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
