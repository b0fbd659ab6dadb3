"""The drop-in transport of datagrams in batches under asyncio, on asyncio's loop and on uvloop."""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import pktalloc

if sys.platform != "linux":
    pytest.skip("datagrams in batches are there on Linux", allow_module_level=True)

from aio_protocols import LOCAL, Collector, Echo, Run, protocol, received_from
from datagram_sockets import filled
from pktalloc import aio

TOO_LONG = str(OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE)))


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
                received = await received_from(there, sent)
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
        filler = filled(small, 1000) + filled(small, 64)
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


@pytest.mark.parametrize("gso", [True, False])
def test_datagrams_of_a_protocol_are_joined_unless_told_otherwise(run: Run, gso: bool) -> None:
    async def main() -> None:
        async with (
            protocol(local_addr=LOCAL) as there,
            protocol(remote_addr=there.transport.get_extra_info("sockname"), gso=gso) as here,
        ):
            before = pktalloc.datagram_counters()
            for _ in range(11):
                here.transport.sendto(b"x" * 100)
            await there.want(11)
            after = pktalloc.datagram_counters()
            joined = {name: after[name] - before[name] for name in ("sent_joined", "send_refused")}
            # The first one leaves at once; a kernel may refuse the others together.
            assert joined["sent_joined"] == 10 or joined["send_refused"] if gso else set(joined.values()) == {0}

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
            assert [str(error) for error in client.errors] == [TOO_LONG]
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
            assert [str(error) for error in server.errors] == [TOO_LONG] * 10

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
