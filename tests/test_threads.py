"""Threads that share an allocator and pass packets on."""

import contextlib
import queue
import random
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from pktalloc import Allocator, Packet


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    """Let threads take turns a thousand times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 1000)
    yield
    sys.setswitchinterval(interval)


def run(*workers: threading.Thread) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


class Worker(threading.Thread):
    """A thread whose exception fails the test."""

    def __init__(self, failures: list[BaseException]) -> None:
        super().__init__()
        self.failures = failures

    def work(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        try:
            self.work()
        except BaseException as failure:  # noqa: BLE001
            self.failures.append(failure)


class Producer(Worker):
    """Fills packets and passes them on."""

    def __init__(self, failures: list[BaseException], allocator: Allocator, out: queue.Queue[Packet | None]) -> None:
        super().__init__(failures)
        self.allocator = allocator
        self.out = out

    def work(self) -> None:
        choose = random.Random(self.name)
        for number in range(2000):
            packet = self.allocator.allocate(choose.randrange(4, 2000))
            packet[:] = bytes([number % 256]) * len(packet)
            packet.shrink(choose.randrange(4, len(packet) + 1))
            packet[:4] = len(packet).to_bytes(4, "big")
            self.out.put(packet)
        self.out.put(None)


class Consumer(Worker):
    """Checks packets and lets them go in one of the ways that there are."""

    def __init__(self, failures: list[BaseException], allocator: Allocator, into: queue.Queue[Packet | None]) -> None:
        super().__init__(failures)
        self.allocator = allocator
        self.into = into
        self.seen = 0

    def work(self) -> None:
        while (packet := self.into.get()) is not None:
            self.seen += 1
            assert int.from_bytes(packet[:4], "big") == len(packet)
            with packet.view as view:
                assert len(set(view[4:])) <= 1
                with pytest.raises(BufferError):
                    packet.release()
            match self.seen % 3:
                case 0:
                    packet.release()
                case 1:
                    self.allocator.free(packet)
                case _:
                    packet.resize(len(packet) + 1000)
            del packet


def test_packets_pass_through_queues() -> None:
    failures: list[BaseException] = []
    allocator = Allocator()
    passages: list[queue.Queue[Packet | None]] = [queue.Queue(64) for _ in range(4)]
    consumers = [Consumer(failures, allocator, passage) for passage in passages]
    run(*(Producer(failures, allocator, passage) for passage in passages), *consumers)
    assert failures == []
    assert [consumer.seen for consumer in consumers] == [2000] * 4
    allocator.integrity_check()
    assert allocator.used_bytes == 0


class Clash(Worker):
    """Uses packets that another thread may release or resize at any moment."""

    def __init__(self, failures: list[BaseException], packets: list[Packet], *, closing: bool) -> None:
        super().__init__(failures)
        self.packets = packets
        self.closing = closing

    def work(self) -> None:
        choose = random.Random(self.name)
        uses: list[Callable[[Packet], object]] = [
            lambda packet: packet.resize(choose.randrange(1, 5000)),
            lambda packet: packet.shrink(choose.randrange(1, 100)),
            lambda packet: packet.__setitem__(slice(1, 5), b"data"),
            lambda packet: packet.__setitem__(-1, packet[0]),
            lambda packet: packet == choose.choice(self.packets),
            bytes,
            lambda packet: packet[: choose.randrange(100)].tobytes(),
            lambda packet: packet.release() if self.closing and choose.random() < 0.01 else None,
        ]
        for _ in range(5000):
            with contextlib.suppress(ValueError, BufferError, IndexError):
                choose.choice(uses)(choose.choice(self.packets))


@pytest.mark.parametrize("closing", [False, True])
def test_threads_that_use_the_same_packets_at_once(*, closing: bool) -> None:
    failures: list[BaseException] = []
    allocator = Allocator()
    packets = allocator.allocate_many(1000, 8)
    run(*(Clash(failures, packets, closing=closing) for _ in range(6)))
    assert failures == []
    allocator.integrity_check()
    packets.clear()
    assert allocator.used_bytes == 0


def test_an_allocator_that_is_closed_while_threads_use_it() -> None:
    class User(Worker):
        def work(self) -> None:
            with contextlib.suppress(ValueError):
                while True:
                    packets = allocator.allocate_many(1400, 16)
                    packets[3][:4] = packets[2][:4]
                    packets[0].resize(40_000)

    class Closer(Worker):
        def work(self) -> None:
            while not allocator.closed:
                with contextlib.suppress(BufferError):
                    allocator.close()

    for _ in range(20):
        failures: list[BaseException] = []
        allocator = Allocator()
        run(*(User(failures) for _ in range(4)), Closer(failures))
        assert failures == []
