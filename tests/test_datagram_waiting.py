"""Datagrams in batches while a call waits: timeouts, signals, other threads, and what they close or release."""

import errno
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("datagrams in batches are there on Linux", allow_module_level=True)

from datagram_sockets import Sockets, receive, wait_until_asleep
from pktalloc import Allocator, DatagramBatch, recv_many_into, send_many

if TYPE_CHECKING:
    from collections.abc import Callable


def test_waiting_is_as_the_socket_says(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    here.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        allocator.recv_many(here)
    assert caught.value.errno == errno.EAGAIN
    here.settimeout(0.03)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"^timed out$"):
        allocator.recv_many(here)
    assert time.monotonic() - start >= 0.03
    for count in (1, 64):
        here.settimeout(None)
        thread = threading.Thread(target=there.sendto, args=(b"late", here.getsockname()))
        thread.start()
        assert len(allocator.recv_many(here, count)) == 1
        thread.join()


@pytest.mark.parametrize("count", [1, 64])
def test_a_signal_interrupts_a_call_that_blocks_and_loses_nothing(
    allocator: Allocator, sockets: Sockets, count: int
) -> None:
    here, there = sockets(), sockets()
    here.settimeout(None)

    class StopError(Exception):
        pass

    calls = []

    def handler(_number: int, _frame: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise StopError

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        with pytest.raises(StopError):
            allocator.recv_many(here, count)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    send_many(there, [b"1", b"2", b"3"], here.getsockname())
    assert len(receive(allocator, here, 3, count=count)) == 3


@pytest.mark.parametrize("what", ["recv_many(1)", "recv_many(64)", "recv_many_into", "send_many"])
def test_ctrl_c_ends_a_call_that_blocks_and_loses_nothing(allocator: Allocator, what: str) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    rows = np.zeros((4, 10), np.uint8)
    calls: dict[str, Callable[[], object]] = {
        "recv_many(1)": lambda: allocator.recv_many(here, 1),
        "recv_many(64)": lambda: allocator.recv_many(here, 64),
        "recv_many_into": lambda: recv_many_into(here, rows),
        "send_many": lambda: send_many(there, [b"never"]),
    }
    with here, there:
        there.setblocking(False)
        full = 0
        if what == "send_many":
            full = send_many(there, [b"x"] * 1000)
        there.setblocking(True)
        old = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(KeyboardInterrupt):
                calls[what]()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        if full == 0:
            there.send(b"y")
            full = 1
        assert len(receive(allocator, here, full)) == full
        here.setblocking(False)
        with pytest.raises(BlockingIOError):
            allocator.recv_many(here)


def test_other_threads_run_while_a_call_waits(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    started = threading.Event()

    def wait() -> None:
        started.set()
        batches.append(allocator.recv_many(here))

    batches: list[DatagramBatch] = []
    thread = threading.Thread(target=wait)
    thread.start()
    started.wait()
    other = Allocator()
    for _ in range(1000):
        other.allocate(100)
    there.sendto(b"x", here.getsockname())
    thread.join()
    assert len(batches[0]) == 1


def test_a_closed_allocator(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    there.sendto(b"x", here.getsockname())
    allocator.close()
    with pytest.raises(ValueError, match="the allocator is closed"):
        allocator.recv_many(here)
    assert here.recv(10) == b"x"
    here.settimeout(None)
    other = Allocator()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            other.recv_many(here)
        except ValueError as error:
            errors.append(error)

    # Closed in the middle of a call: the datagram is not lost.
    thread = threading.Thread(target=wait)
    thread.start()
    wait_until_asleep(thread)
    other.close()
    there.sendto(b"y", here.getsockname())
    thread.join()
    assert [str(error) for error in errors] == ["the allocator is closed"]
    assert [bytes(packet) for packet in Allocator().recv_many(here).packets] == [b"y"]


def test_packets_are_pinned_while_they_are_sent(allocator: Allocator) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        there.setblocking(False)
        full = send_many(there, [b"x"] * 10_000)
        there.settimeout(10)
        packet = allocator.allocate(100)
        packet[:] = b"p" * 100
        thread = threading.Thread(target=send_many, args=(there, [packet, packet]))
        thread.start()
        while "exports=2" not in repr(packet):
            pass
        with pytest.raises(BufferError, match="2 buffer exports alive"):
            packet.release()
        here.settimeout(10)
        received = [here.recv(200) for _ in range(full + 2)]
        thread.join()
        assert received[-1] == b"p" * 100
        packet.release()
        with pytest.raises(ValueError, match="released"):
            send_many(there, [b"y", packet])


def test_threads_share_an_allocator(allocator: Allocator, sockets: Sockets) -> None:
    rounds, size = 200, 16

    def relay(number: int) -> None:
        here, there = sockets(), sockets()
        for _ in range(rounds):
            send_many(there, [bytes([number]) * (number + 1)] * size, here.getsockname())
            for packet, _ in receive(allocator, here, size, count=7):
                assert bytes(packet) == bytes([number]) * (number + 1)
            done[number] += size

    done = [0] * 4
    threads = [threading.Thread(target=relay, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [rounds * size] * 4
    allocator.integrity_check()
