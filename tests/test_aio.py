"""Datagrams in batches under asyncio: the endpoint and the drop-in transport, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import pktalloc

if sys.platform != "linux":
    pytest.skip("datagrams in batches are there on Linux", allow_module_level=True)

import uvloop

from pktalloc import aio

Run = Callable[[Coroutine[Any, Any, Any]], Any]
LOCAL = ("127.0.0.1", 0)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a coroutine on each kind of loop, and see that it leaves nothing behind."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    # The first loop of a kind opens what stays open.
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.sleep(0))
    before = len(list(Path("/proc/self/fd").iterdir()))

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        reports: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: reports.append(context))
            result = runner.run(asyncio.wait_for(coroutine, 20))
            runner.run(asyncio.sleep(0.001))
        assert not reports
        return result

    yield run
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


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


@pytest.mark.parametrize("packets", [False, True])
def test_an_echo_between_protocols(run: Run, allocator: pktalloc.Allocator, packets: bool) -> None:
    async def main() -> None:
        async with (
            protocol(Echo, LOCAL, allocator=allocator if packets else None) as server,
            protocol(remote_addr=server.transport.get_extra_info("sockname")) as client,
        ):
            datagrams = [b"%d" % number * (number % 200) for number in range(300)]
            for start in range(0, 300, 30):
                for datagram in datagrams[start : start + 30]:
                    client.transport.sendto(datagram)
                await client.want(start + 30)
            assert [data for data, _ in client.received] == datagrams
            assert {address for _, address in client.received} == {server.transport.get_extra_info("sockname")}
            assert isinstance(server.received[0][0], pktalloc.Packet if packets else bytes)
            assert not server.errors
            assert not client.errors
            server.received.clear()

    run(main())
    gc.collect()
    assert allocator.used_bytes == 0


def test_one_system_call_for_what_is_waiting(run: Run) -> None:
    async def main() -> None:
        async with protocol(Echo, LOCAL) as server:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind(LOCAL)
                pktalloc.send_many(client, [b"x" * 100] * 64, server.transport.get_extra_info("sockname"), gso=False)
                before = pktalloc.datagram_counters()
                await server.want(64)
                after = pktalloc.datagram_counters()
                assert after["receive_calls"] - before["receive_calls"] == 1
                assert after["sent"] - before["sent"] == 64
                assert after["send_calls"] - before["send_calls"] == 1

    run(main())


def test_an_endpoint_iterates_and_sends_back(run: Run) -> None:
    async def main() -> None:
        async with aio.datagrams(local_addr=LOCAL) as server:
            task = asyncio.create_task(relay(server))
            async with aio.datagrams(remote_addr=server.get_extra_info("sockname")) as client:
                received: list[bytes] = []
                for start in range(0, 3000, 100):
                    assert client.send_many([b"%d" % number for number in range(start, start + 100)]) == 100
                    while len(received) < start + 100:
                        batch = await client.recv()
                        received.extend(bytes(packet) for packet in batch.packets)
                assert received == [b"%d" % number for number in range(3000)]
            server.close()
            await task
        assert server.closed
        with pytest.raises(ConnectionError, match="the endpoint is closed"):
            await server.recv()
        with pytest.raises(ConnectionError, match="the endpoint is closed"):
            server.send_many([b"x"], ("127.0.0.1", 9))

    async def relay(endpoint: aio.DatagramEndpoint) -> None:
        async for batch in endpoint:
            endpoint.send_many(batch)

    run(main())


def test_a_batch_is_not_lost_when_its_reader_is_cancelled(run: Run) -> None:
    async def main() -> None:
        async with aio.datagrams(local_addr=LOCAL) as server, aio.datagrams(local_addr=LOCAL) as client:
            to = server.get_extra_info("sockname")
            for number in range(50):
                reader = asyncio.create_task(server.recv())
                await asyncio.sleep(0)
                client.send_many([b"%d" % number], to)
                # At each moment: before the datagram is seen, when it was received, and when the task was woken.
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                reader.cancel()
                try:
                    batch = await reader
                except asyncio.CancelledError:
                    batch = await server.recv()
                assert [bytes(packet) for packet in batch.packets] == [b"%d" % number]

    run(main())


def test_one_reader_at_a_time(run: Run) -> None:
    async def main() -> None:
        async with aio.datagrams(local_addr=LOCAL) as server:
            reader = asyncio.create_task(server.recv())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another coroutine is already waiting"):
                await server.recv()
            server.close()
            with pytest.raises(ConnectionError):
                await reader

    run(main())


def test_other_tasks_get_a_turn(run: Run) -> None:
    async def main() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with aio.datagrams(local_addr=LOCAL, batch=1) as server, aio.datagrams(local_addr=LOCAL) as client:
            task = asyncio.create_task(other())
            client.send_many([b"x"] * 100, server.get_extra_info("sockname"))
            for _ in range(100):
                await server.recv()
            assert turns > 5
            task.cancel()

    run(main())


def test_an_endpoint_that_nobody_reads_leaves_datagrams_in_the_socket(run: Run) -> None:
    async def main() -> None:
        async with aio.datagrams(local_addr=LOCAL, batch=4) as server, aio.datagrams(local_addr=LOCAL) as client:
            to = server.get_extra_info("sockname")
            client.send_many([b"first"], to)
            await server.recv()
            before = pktalloc.datagram_counters()["receive_calls"]
            client.send_many([b"%d" % number for number in range(40)], to)
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert pktalloc.datagram_counters()["receive_calls"] - before <= 1
            received: list[bytes] = []
            while len(received) < 40:
                received.extend(bytes(packet) for packet in (await server.recv()).packets)
            assert received == [b"%d" % number for number in range(40)]

    run(main())


def test_back_pressure_of_an_endpoint(run: Run, tmp_path: Path) -> None:
    name = str(tmp_path / "sink")

    async def main() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sink:
            sink.bind(name)
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            sink.setblocking(False)
            async with aio.datagrams(sock=here) as endpoint:
                datagrams = [b"%d" % number for number in range(5000)]
                went = endpoint.send_many(datagrams)
                assert 0 < went < 5000
                assert f"queued={5000 - went}" in repr(endpoint)
                # So many wait that it receives nothing either.
                there.send(b"later")
                reader = asyncio.create_task(endpoint.recv())
                draining = asyncio.create_task(endpoint.drain())
                await asyncio.sleep(0.01)
                assert not reader.done()
                received: list[bytes] = []
                there.setblocking(False)
                while len(received) < 5000:
                    with contextlib.suppress(BlockingIOError):
                        received.append(there.recv(100))
                        continue
                    await asyncio.sleep(0)
                await draining
                assert received == datagrams
                assert bytes((await reader).packets[0]) == b"later"
            there.close()

    run(main())


def test_closing_an_endpoint_sends_what_waits_and_an_error_does_not_wait(run: Run) -> None:
    async def main(fail: bool) -> int:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with there:
            there.settimeout(5)
            reader = threading.Thread(target=lambda: counts.append(count(there)))
            with contextlib.suppress(KeyError):
                async with aio.datagrams(sock=here) as endpoint:
                    endpoint.send_many([b"x"] * 1000)
                    if fail:
                        raise KeyError
                    reader.start()
            if not fail:
                reader.join()
                return counts.pop()
            return count(there)

    def count(sock: socket.socket) -> int:
        received = 0
        with contextlib.suppress(ConnectionError, TimeoutError):
            sock.settimeout(0.2)
            while sock.recv(10):
                received += 1
        return received

    counts: list[int] = []
    assert run(main(fail=False)) == 1000
    assert 0 < run(main(fail=True)) < 1000


def test_errors_of_an_endpoint(run: Run) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(LOCAL)
            address = gone.getsockname()
        async with aio.datagrams(remote_addr=address) as client:
            client.send_many([b"bounces"])
            with pytest.raises(ConnectionRefusedError):
                await client.recv()
            client.send_many([b"bounces"])
            await asyncio.sleep(0.001)
            with pytest.raises(ConnectionRefusedError):
                client.send_many([b"again"])
            with pytest.raises(TypeError, match="bytes-like"):
                client.send_many(["text"])
            with pytest.raises(OSError, match="Message too long"):
                await client.send(bytes(70_000))
        with pytest.raises(TypeError, match="2-tuple is expected"):
            await aio.datagrams(local_addr="127.0.0.1:5")
        with pytest.raises(ValueError, match="unexpected address family"):
            await aio.datagrams()
        with pytest.raises(ValueError, match="size must be from 1"):
            await aio.datagrams(local_addr=LOCAL, size=0)

    run(main())


def test_an_endpoint_whose_allocator_is_closed_says_so_and_keeps_what_came(run: Run) -> None:
    async def main() -> None:
        allocator = pktalloc.Allocator()
        async with (
            aio.datagrams(local_addr=LOCAL, allocator=allocator) as server,
            aio.datagrams(local_addr=LOCAL) as client,
        ):
            reader = asyncio.create_task(server.recv())
            await asyncio.sleep(0)
            allocator.close()
            client.send_many([b"1", b"2"], server.get_extra_info("sockname"))
            with pytest.raises(ValueError, match="the allocator is closed"):
                await reader
            with pytest.raises(ValueError, match="the allocator is closed"):
                await server.recv()

    run(main())


def test_what_is_wrong_with_a_datagram_behind_others_is_told(run: Run) -> None:
    async def main() -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with there:
            there.setblocking(False)
            async with aio.datagrams(sock=here) as endpoint:
                datagrams = [b"%d" % number for number in range(600)]
                went = endpoint.send_many(datagrams)
                assert went < 600
                # The socket has no room, so that these are kept as well.
                for wrong in (5, "text", None, object()):
                    with pytest.raises(TypeError, match="bytes-like"):
                        endpoint.send_many([wrong])
                bad: list[Any] = [(b"bad", 5), (b"bad", "/no/such/path")]
                assert endpoint.send_many([(b"good", None), *bad, (b"better", None)]) == 0
                draining = asyncio.create_task(endpoint.drain())
                received: list[bytes] = []
                while len(received) < 602:
                    with contextlib.suppress(BlockingIOError):
                        received.append(there.recv(100))
                        continue
                    await asyncio.sleep(0)
                assert received == [*datagrams, b"good", b"better"]
                with pytest.raises((TypeError, OSError)):
                    await draining

    run(main())


def test_readers_that_wait_for_room_are_one_at_a_time_as_well(run: Run) -> None:
    async def main() -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with there:
            there.setblocking(False)
            async with aio.datagrams(sock=here) as endpoint:
                endpoint.send_many([b"x"] * 5000)
                readers = [asyncio.create_task(endpoint.recv()) for _ in range(2)]
                while "queued=0" not in repr(endpoint):
                    with contextlib.suppress(BlockingIOError):
                        there.recv(10)
                        continue
                    await asyncio.sleep(0)
                await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
                there.send(b"one")
                outcomes = await asyncio.gather(*readers, return_exceptions=True)
                assert {type(outcome) for outcome in outcomes} == {pktalloc.DatagramBatch, RuntimeError}

    run(main())


def test_an_endpoint_whose_allocator_is_full_loses_nothing(run: Run) -> None:
    async def main() -> None:
        small = pktalloc.Allocator(memory_limit=160 << 10, preallocated_windows=1)
        filler: list[Any] = []
        for size in (1000, 64):
            with contextlib.suppress(MemoryError):
                while True:
                    filler.append(small.allocate(size))
        async with (
            aio.datagrams(local_addr=LOCAL, allocator=small) as server,
            aio.datagrams(local_addr=LOCAL) as client,
        ):
            client.send_many([b"%d" % number * 300 for number in range(10)], server.get_extra_info("sockname"))
            with pytest.raises(MemoryError):
                await server.recv()
            filler.clear()
            received: list[bytes] = []
            while len(received) < 10:
                received.extend(bytes(packet) for packet in (await server.recv()).packets)
            assert received == [b"%d" % number * 300 for number in range(10)]

    run(main())


def test_segment_offload_on_both_sides(run: Run) -> None:
    async def main() -> None:
        async with (
            aio.datagrams(local_addr=LOCAL, gro=True) as server,
            protocol(Collector, LOCAL, gro=True) as sink,
            aio.datagrams(local_addr=LOCAL) as client,
        ):
            datagrams = [os.urandom(1000) for _ in range(100)]
            client.send_many(datagrams, server.get_extra_info("sockname"))
            received: list[bytes] = []
            while len(received) < 100:
                batch = await server.recv()
                assert batch.joined
                received.extend(bytes(packet) for packet in batch.packets)
            assert received == datagrams
            client.send_many(datagrams, sink.transport.get_extra_info("sockname"))
            await sink.want(100)
            assert [data for data, _ in sink.received] == datagrams

    run(main())


def test_a_socket_that_joins_datagrams_already_is_served_as_one(run: Run) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
            here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            here.bind(("127.0.0.1", 0))
            here.setsockopt(socket.IPPROTO_UDP, 104, 1)  # UDP_GRO
            transport, collector = await aio.create_datagram_endpoint(Collector, sock=here)
            address = transport.get_extra_info("sockname")
            # One by one at first, so that a single one is what is expected.
            for count in (1, 1, 1, 20, 1, 20):
                expected = [os.urandom(300) for _ in range(count)]
                collector.received.clear()
                pktalloc.send_many(there, expected, address)
                await collector.want(count)
                assert [data for data, _ in collector.received] == expected
            transport.close()
            await asyncio.sleep(0)

    run(main())


def test_an_endpoint_left_open_warns() -> None:
    async def main() -> None:
        await aio.datagrams(local_addr=LOCAL)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert [str(warning.message).split(" open ")[0] for warning in caught] == [
        "unclosed endpoint <pktalloc.aio.DatagramEndpoint"
    ]


def test_a_loop_that_is_closed_with_datagrams_queued() -> None:
    loop = asyncio.new_event_loop()
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def main() -> aio.DatagramEndpoint:
        endpoint = await aio.datagrams(sock=here)
        endpoint.send_many([b"x"] * 1000)
        return endpoint

    endpoint = loop.run_until_complete(main())
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del endpoint
        gc.collect()
    assert "unclosed endpoint" in str(caught[0].message)
    assert here.fileno() == -1
    there.close()


def test_a_loop_that_is_closed_with_datagrams_of_a_protocol_queued() -> None:
    loop = asyncio.new_event_loop()
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def main() -> Any:
        transport, _ = await aio.create_datagram_endpoint(Collector, sock=here)
        while transport.get_write_buffer_size() == 0:
            transport.sendto(b"x")
        there.send(b"never seen")
        return transport

    transport = loop.run_until_complete(main())
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        gc.collect()
    assert [str(warning.message).split(" open ")[0] for warning in caught] == ["unclosed transport <DatagramTransport"]
    assert here.fileno() == -1
    there.close()


# What asyncio's transports do, and ours as well.


def test_write_flow_control(run: Run) -> None:
    async def main() -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with there:
            there.setblocking(False)
            async with protocol(sock=here) as client:
                transport = client.transport
                assert transport.get_write_buffer_limits() == (16384, 65536)
                transport.set_write_buffer_limits(high=4000)
                assert transport.get_write_buffer_limits() == (1000, 4000)
                for wrong in ({"high": 1, "low": 2}, {"low": -1}):
                    with pytest.raises(ValueError, match="must be >="):
                        transport.set_write_buffer_limits(**wrong)
                sent = 0
                while "pause" not in client.events:
                    transport.sendto(b"%04d" % sent * 25)
                    sent += 1
                assert transport.get_write_buffer_size() == 4100
                received: list[bytes] = []
                while len(received) < sent:
                    with contextlib.suppress(BlockingIOError):
                        received.append(there.recv(100))
                        continue
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert received == [b"%04d" % number * 25 for number in range(sent)]
                assert client.events == ["made", "pause", "resume"]
                assert transport.get_write_buffer_size() == 0

    run(main())


@pytest.mark.parametrize("abort", [False, True])
def test_close_sends_what_is_kept_and_abort_does_not(run: Run, abort: bool) -> None:
    async def main() -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with there:
            there.setblocking(False)
            transport, client = await aio.create_datagram_endpoint(Collector, sock=here)
            sent = 0
            while transport.get_write_buffer_size() < 100:
                transport.sendto(b"x")
                sent += 1
            if abort:
                transport.abort()
            transport.close()
            assert transport.is_closing()
            await asyncio.sleep(0.001)
            assert client.lost.done() == abort
            received = 0
            while not client.lost.done() or received < sent - 100 * abort:
                with contextlib.suppress(BlockingIOError):
                    received += len(there.recv(10))
                    continue
                await asyncio.sleep(0)
            assert client.lost.result() is None
            assert received == sent - 100 * abort
            assert here.fileno() == -1
            assert "closed" in repr(transport)
            for _ in range(8):
                transport.sendto(b"dropped")

    run(main())


def test_a_protocol_that_fails_is_reported_and_loses_no_other_datagram() -> None:
    class Failing(Collector):
        def datagram_received(self, data: Any, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"3":
                raise ArithmeticError("on purpose")

    async def main() -> list[dict[str, Any]]:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        async with protocol(Failing, LOCAL) as server, aio.datagrams(local_addr=LOCAL) as client:
            client.send_many([b"%d" % number for number in range(8)], server.transport.get_extra_info("sockname"))
            await server.want(8)
            assert [data for data, _ in server.received] == [b"%d" % number for number in range(8)]
        return reports

    reports = asyncio.run(main())
    assert [str(report["exception"]) for report in reports] == ["on purpose"]
    assert "datagram_received" in reports[0]["message"]


def test_a_protocol_whose_allocator_is_full_gets_what_came_when_there_is_room() -> None:
    async def main() -> list[dict[str, Any]]:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        small = pktalloc.Allocator(memory_limit=160 << 10, preallocated_windows=1)
        filler: list[Any] = []
        for size in (1000, 64):
            with contextlib.suppress(MemoryError):
                while True:
                    filler.append(small.allocate(size))
        async with protocol(Collector, LOCAL, allocator=small) as server, aio.datagrams(local_addr=LOCAL) as client:
            to = server.transport.get_extra_info("sockname")
            client.send_many([b"%d" % number * 300 for number in range(5)], to)
            # The first is refused, also after a while; meanwhile another one comes, and the loop does not spin.
            before = pktalloc.datagram_counters()["receive_calls"]
            await asyncio.sleep(0.05)
            client.send_many([b"5" * 300], to)
            await asyncio.sleep(0.05)
            assert pktalloc.datagram_counters()["receive_calls"] - before <= 1
            assert not server.received
            filler.clear()
            await server.want(6)
            assert [bytes(data) for data, _ in server.received] == [b"%d" % number * 300 for number in range(6)]
            server.received.clear()
        return reports

    reports = asyncio.run(asyncio.wait_for(main(), 20))
    assert [str(report["message"]) for report in reports] == ["No memory for a datagram, which is kept"]
    assert isinstance(reports[0]["exception"], MemoryError)


def test_a_protocol_whose_allocator_is_closed_loses_its_connection(run: Run) -> None:
    async def main() -> None:
        allocator = pktalloc.Allocator()
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        _, server = await aio.create_datagram_endpoint(Collector, LOCAL, allocator=allocator)
        allocator.close()
        async with aio.datagrams(local_addr=LOCAL) as client:
            client.send_many([b"x"], server.transport.get_extra_info("sockname"))
            error = await server.lost
        assert isinstance(error, ValueError)
        assert str(error) == "the allocator is closed"
        assert [report["message"] for report in reports] == ["Fatal read error on datagram transport"]

    run(main())


def test_an_interrupt_in_a_protocol_loses_no_datagram() -> None:
    class Interrupted(Collector):
        def datagram_received(self, data: Any, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"3":
                raise KeyboardInterrupt

    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        _, made = await aio.create_datagram_endpoint(Interrupted, LOCAL)
        return made

    async def end() -> None:
        await made.want(8)
        made.transport.close()
        await made.lost

    made = loop.run_until_complete(begin())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        to = made.transport.get_extra_info("sockname")
        pktalloc.send_many(client, [b"%d" % number for number in range(8)], to, gso=False)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(made.want(8))
    assert len(made.received) == 4
    loop.run_until_complete(end())
    assert [data for data, _ in made.received] == [b"%d" % number for number in range(8)]
    loop.close()


@pytest.mark.parametrize("how", ["close", "abort"])
def test_nothing_is_received_after_close(run: Run, how: str) -> None:
    class Closing(Echo):
        def datagram_received(self, data: Any, addr: Any) -> None:
            super().datagram_received(data, addr)
            if len(self.received) == 3:
                getattr(self.transport, how)()

    async def main() -> None:
        transport, server = await aio.create_datagram_endpoint(Closing, LOCAL)
        async with aio.datagrams(local_addr=LOCAL) as client:
            client.send_many([b"%d" % number for number in range(8)], transport.get_extra_info("sockname"))
            assert await server.lost is None
            assert [data for data, _ in server.received] == [b"0", b"1", b"2"]
            assert server.events == ["made", "lost"]
            if how == "close":
                # What it had answered was sent.
                received: list[bytes] = []
                while len(received) < 3:
                    received.extend(bytes(packet) for packet in (await client.recv()).packets)
                assert received == [b"0", b"1", b"2"]

    run(main())


def test_reading_can_be_paused_in_the_middle_of_a_batch(run: Run) -> None:
    class Pausing(Collector):
        def datagram_received(self, data: Any, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"3":
                self.transport.pause_reading()
                self.wanted.set()

    async def main() -> None:
        async with protocol(Pausing, LOCAL) as server, aio.datagrams(local_addr=LOCAL) as client:
            to = server.transport.get_extra_info("sockname")
            client.send_many([b"%d" % number for number in range(8)], to)
            await server.wanted.wait()
            client.send_many([b"8"], to)
            await asyncio.sleep(0.005)
            assert len(server.received) == 4
            assert not server.transport.is_reading()
            server.transport.resume_reading()
            await server.want(9)
            assert [data for data, _ in server.received] == [b"%d" % number for number in range(9)]

    run(main())


def test_a_protocol_can_be_replaced_in_the_middle_of_a_batch(run: Run) -> None:
    async def main() -> None:
        second = Collector()

        class First(Collector):
            def datagram_received(self, data: Any, addr: Any) -> None:
                super().datagram_received(data, addr)
                if len(self.received) == 3:
                    self.transport.set_protocol(second)

        transport, first = await aio.create_datagram_endpoint(First, LOCAL)
        async with aio.datagrams(local_addr=LOCAL) as client:
            client.send_many([b"%d" % number for number in range(8)], transport.get_extra_info("sockname"))
            await second.want(5)
        assert (len(first.received), len(second.received)) == (3, 5)
        assert transport.get_protocol() is second
        transport.close()
        await second.lost

    run(main())


def test_answers_go_out_in_order_also_those_of_later(run: Run) -> None:
    class Later(Collector):
        def datagram_received(self, data: Any, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.sendto(b"now " + data, addr)
            asyncio.get_running_loop().call_soon(self.transport.sendto, b"later " + data, addr)

    async def main() -> None:
        async with protocol(Later, LOCAL) as server, aio.datagrams(local_addr=LOCAL) as client:
            client.send_many([b"%d" % number for number in range(100)], server.transport.get_extra_info("sockname"))
            received: list[bytes] = []
            while len(received) < 200:
                received.extend(bytes(packet) for packet in (await client.recv()).packets)
            for kind in (b"now", b"later"):
                assert [one for one in received if one.startswith(kind)] == [b"%s %d" % (kind, i) for i in range(100)]

    run(main())


def test_what_is_sent_in_one_turn_leaves_together(run: Run) -> None:
    async def main() -> None:
        async with protocol(Collector, LOCAL) as server:
            async with protocol(remote_addr=server.transport.get_extra_info("sockname")) as client:
                await asyncio.sleep(0)
                for turn in range(3):
                    before = pktalloc.datagram_counters()["send_calls"]
                    for number in range(50):
                        client.transport.sendto(b"%d" % (50 * turn + number))
                    await server.want(50 * (turn + 1))
                    assert pktalloc.datagram_counters()["send_calls"] - before == 1
                # Closing and aborting send what leaves at the end of the turn.
                for number in range(150, 170):
                    client.transport.sendto(b"%d" % number)
                client.transport.abort()
            await server.want(170)
            assert [data for data, _ in server.received] == [b"%d" % number for number in range(170)]

    run(main())


def test_what_is_sent_may_be_changed_afterwards(run: Run) -> None:
    class Reusing(Collector):
        buffer = bytearray(4)

        def datagram_received(self, data: Any, addr: Any) -> None:
            self.buffer[:] = data
            self.transport.sendto(self.buffer, addr)
            self.transport.sendto(memoryview(self.buffer), addr)

    async def main() -> None:
        async with protocol(Reusing, LOCAL) as server, aio.datagrams(local_addr=LOCAL) as client:
            client.send_many([b"%04d" % number for number in range(50)], server.transport.get_extra_info("sockname"))
            received: list[bytes] = []
            while len(received) < 100:
                received.extend(bytes(packet) for packet in (await client.recv()).packets)
            assert received == [b"%04d" % (number // 2) for number in range(100)]

    run(main())


def test_an_unreachable_peer_is_told_to_the_protocol(run: Run) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(LOCAL)
            address = gone.getsockname()
        async with protocol(remote_addr=address) as client:
            client.transport.sendto(b"bounces")
            await client.wanted.wait()
            assert [type(error) for error in client.errors] == [ConnectionRefusedError]
            client.errors.clear()
            client.transport.sendto(b"x" * 70_000)
            assert [str(error) for error in client.errors] == ["[Errno 90] Message too long"]
            with pytest.raises(ValueError, match="Invalid address: must be None or"):
                client.transport.sendto(b"x", ("127.0.0.2", 5))
            with pytest.raises(TypeError, match="must be a bytes-like object, not 'str'"):
                client.transport.sendto("text")

    run(main())


def test_bad_answers_are_told_one_by_one(run: Run) -> None:
    class Answers(Collector):
        def datagram_received(self, data: Any, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.sendto(bytes(70_000) if int(data) % 3 == 0 else data, addr)

    async def main() -> None:
        async with protocol(Answers, LOCAL) as server, aio.datagrams(local_addr=LOCAL) as client:
            client.send_many([b"%d" % number for number in range(30)], server.transport.get_extra_info("sockname"))
            received: list[int] = []
            while len(received) < 20:
                received.extend(int(bytes(packet)) for packet in (await client.recv()).packets)
            assert received == [number for number in range(30) if number % 3]
            assert [str(error) for error in server.errors] == ["[Errno 90] Message too long"] * 10

    run(main())


def test_arguments_of_asyncio(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with protocol(Collector, LOCAL, reuse_port=True, allow_broadcast=True) as first:
            sock = first.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
            assert first.transport.get_extra_info("peername") is None
            assert first.transport.get_extra_info("nothing", 5) == 5
            async with protocol(Collector, sock.getsockname(), reuse_port=True):
                pass
        stale = tmp_path / "stale"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
            left.bind(str(stale))
        async with (
            protocol(Echo, str(stale), family=socket.AF_UNIX) as server,
            protocol(Collector, str(tmp_path / "client"), str(stale), family=socket.AF_UNIX) as client,
        ):
            client.transport.sendto(b"x")
            await client.want(1)
            assert server.received == [(b"x", str(tmp_path / "client"))]
        async with protocol(Collector, family=socket.AF_INET) as unbound:
            assert unbound.transport.get_extra_info("sockname") == ("0.0.0.0", 0)  # noqa: S104
        broadcast = await aio.create_datagram_endpoint(
            Collector, remote_addr=("127.255.255.255", 9), allow_broadcast=True
        )
        assert broadcast[0].get_extra_info("peername") is None
        broadcast[0].sendto(b"to all")
        broadcast[0].close()
        await broadcast[1].lost

    run(main())


def test_an_address_in_numbers_is_not_looked_up(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        asked: list[Any] = []
        lookup = loop.getaddrinfo

        async def getaddrinfo(host: Any, *arguments: Any, **keywords: Any) -> Any:
            asked.append(host)
            return await lookup(host, *arguments, **keywords)

        loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]
        for host in ("127.0.0.1", "::1", "localhost"):
            async with protocol(Collector, (host, 0)):
                pass
        # Each takes a thread.
        assert asked == ["localhost"]

    run(main())


def test_install_has_the_loop_make_them(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        allocator = pktalloc.Allocator()
        uninstall = aio.install(allocator=allocator)
        transport, server = await loop.create_datagram_endpoint(Collector, local_addr=LOCAL)
        uninstall()
        other, client = await loop.create_datagram_endpoint(Collector, remote_addr=transport.get_extra_info("sockname"))
        assert isinstance(transport, aio.DatagramTransport)
        assert not isinstance(other, aio.DatagramTransport)
        other.sendto(b"x")
        await server.want(1)
        assert isinstance(server.received[0][0], pktalloc.Packet)
        for one in (transport, other):
            one.close()
        await server.lost
        await client.lost

    run(main())
