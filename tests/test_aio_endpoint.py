"""The endpoint of datagrams in batches under asyncio, on asyncio's loop and on uvloop."""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import pktalloc

if sys.platform != "linux":
    pytest.skip("datagrams in batches are there on Linux", allow_module_level=True)

from aio_protocols import LOCAL, Collector, Run, protocol, received_from
from datagram_sockets import filled
from pktalloc import aio


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
                there.setblocking(False)
                received = await received_from(there, 5000)
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
            with pytest.raises(OSError, match=os.strerror(errno.EMSGSIZE)):
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
                received = await received_from(there, 602)
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
        filler = filled(small, 1000) + filled(small, 64)
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


def test_what_comes_with_an_address_goes_there_and_the_rest_to_the_endpoints_own(run: Run) -> None:
    async def main() -> None:
        async with aio.datagrams(local_addr=LOCAL) as own, aio.datagrams(local_addr=LOCAL) as other:
            own_name, other_name = (each.get_extra_info("sockname") for each in (own, other))
            async with aio.datagrams(local_addr=LOCAL, remote_addr=own_name, allow_broadcast=True) as endpoint:
                other.send_many([b"one", b"two"], endpoint.get_extra_info("sockname"))
                batch = await endpoint.recv()
                assert batch.addresses == [other_name] * 2
                assert endpoint.send_many(batch) == 2
                assert [bytes(packet) for packet in (await other.recv()).packets] == [b"one", b"two"]
                assert endpoint.send_many([b"plain", (b"pair", other_name), b"more"]) == 3
                assert [bytes(packet) for packet in (await other.recv()).packets] == [b"pair"]
                received: list[bytes] = []
                while len(received) < 2:
                    received += [bytes(packet) for packet in (await own.recv()).packets]
                assert received == [b"plain", b"more"]

    run(main())


def test_gso_is_true_or_false(run: Run) -> None:
    async def main() -> None:
        wrong: Any = 1
        with pytest.raises(TypeError, match=r"^gso must be True or False, not int$"):
            await aio.datagrams(local_addr=LOCAL, gso=wrong)
        with pytest.raises(TypeError, match=r"^gso must be True or False, not int$"):
            await aio.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=LOCAL, gso=wrong)

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
