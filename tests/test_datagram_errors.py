"""Datagrams in batches when something goes wrong: bad arguments, peers that are gone, no memory. Nothing is lost."""

import errno
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("datagrams in batches are there on Linux", allow_module_level=True)

from datagram_sockets import Sockets, filled, receive
from pktalloc import Allocator, DatagramBatch, recv_many_into, send_many
from pktalloc._pktalloc import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable


def test_what_is_neither_true_nor_false_is_named(allocator: Allocator, sockets: Sockets) -> None:
    here: Any = sockets()
    rows = np.zeros((4, 100), np.uint8)
    recv: Any = allocator.recv_many
    into: Any = recv_many_into
    for name in "gro", "slices", "timestamps", "local_addresses", "ecn", "dropped":
        for wrong in 1, None, "x":
            message = f"^{name} must be True or False, not {type(wrong).__name__}$"
            with pytest.raises(TypeError, match=message):
                recv(here, **{name: wrong})
            if name not in {"gro", "slices"}:
                with pytest.raises(TypeError, match=message):
                    into(here, rows, **{name: wrong})
    with pytest.raises(TypeError, match=r"^gso must be True or False, not int$"):
        send_many(here, [b""], ("127.0.0.1", 9), gso=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^gro must be True or False, not int$"):
        Receiver(here, gro=1)  # type: ignore[arg-type]


def test_a_tuple_of_addresses_is_said_to_be_one(sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    for addresses in (there.getsockname(), here.getsockname()), (there.getsockname(),), (here.getsockname(),) * 3:
        with pytest.raises(TypeError, match="address must be one address, or a list of them, not a tuple of them"):
            send_many(here, [b"x", b"y"], addresses)


def test_an_unreachable_peer_is_reported_and_loses_nothing(allocator: Allocator, sockets: Sockets) -> None:
    here, gone = sockets(), sockets()
    gone.sendto(b"queued", here.getsockname())
    here.connect(gone.getsockname())
    gone.close()
    here.send(b"bounces")
    with pytest.raises(ConnectionRefusedError) as caught:
        allocator.recv_many(here)
    assert caught.value.errno == errno.ECONNREFUSED
    assert bytes(receive(allocator, here, 1)[0][0]) == b"queued"
    assert send_many(here, [b"bounces"]) == 1
    with pytest.raises(ConnectionRefusedError):
        send_many(here, [b"a", b"b"])


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX], ids=lambda family: family.name)
@pytest.mark.parametrize(
    "address",
    [
        ("::1", 9),
        ("::1", 9, 0, 0),
        ("::1", -1),
        ("::1", 65536),
        ("127.0.0.1", 9),
        ("127.0.0.1", 9, 0),
        ("127.0.0.1", 9, 0, 0, 0),
        ("127.0.0.1", -1),
        ("127.0.0.1", 65536),
        ("127.0.0.1", 10**30),
        ("127.0.0.1", "9"),
        ("127.0.0.1", 1.5),
        ("::1", 9, -1),
        ("::1", 9, 1 << 20),
        (5, 9),
        (None, 9),
        ("127.0.0.1",),
        (),
        ["127.0.0.1", 9],
        "/no/such/path",
        b"/no/such/path",
        "",
        "a\0b",
        5,
        1.5,
        object(),
        ("lo", 3),
    ],
    ids=repr,
)
def test_addresses_of_another_family_are_refused_as_sendto_refuses_them(
    sockets: Sockets, family: int, address: Any
) -> None:
    sock = sockets(family)
    if isinstance(address, list):
        # A list is one address each.
        with pytest.raises((ValueError, TypeError)):
            send_many(sock, [b"x"], address)
        return
    expected: BaseException | None = None
    try:
        sock.sendto(b"x", address)
    except BaseException as error:  # noqa: BLE001 - whatever it is
        expected = error
    if expected is None:
        assert send_many(sock, [b"x"], address) == 1
        return
    kinds: Any = type(expected)
    if isinstance(expected, socket.gaierror):
        # Of two things that are wrong either may be told.
        kinds = (socket.gaierror, OverflowError)
    calls: list[tuple[Any, ...]] = [([b"x"], address), ([(b"x", address)],)]
    for arguments in calls:
        with pytest.raises(kinds) as caught:
            send_many(sock, *arguments)
        if isinstance(caught.value, OSError):
            assert isinstance(expected, OSError)
            assert caught.value.errno == expected.errno or "path too long" in str(expected)


def test_a_scope_that_no_interface_can_have_is_refused(sockets: Sockets) -> None:
    # `sendto()` takes it for another one.
    for scope in (-1, 1 << 32):
        with pytest.raises(OverflowError, match="scopeid must be 0-4294967295"):
            send_many(sockets(socket.AF_INET6), [b"x"], ("::1", 9, 0, scope))


def test_one_bad_address_among_many(allocator: Allocator, sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    good = here.getsockname()
    pairs = [(b"1", good), (b"2", good), (b"3", ("127.0.0.1", 0)), (b"4", good)]
    assert send_many(there, pairs) == 2
    with pytest.raises(OSError, match="Invalid argument"):
        send_many(there, pairs[2:])
    assert send_many(there, pairs[3:]) == 1
    assert [bytes(packet) for packet, _ in receive(allocator, here, 3)] == [b"1", b"2", b"4"]
    # What is wrong with the arguments is raised before anything is sent.
    wrong: list[tuple[Any, type[Exception], str]] = [
        (("::1", 5), socket.gaierror, "."),  # in words of the C library
        (("127.0.0.1", 70000), OverflowError, "port must be 0-65535"),
        (("127.0.0.1", -1), OverflowError, "port must be 0-65535"),
        (("127.0.0.1", 2**70), OverflowError, "port must be 0-65535"),
        (("127.0.0.1", "http"), TypeError, "integer"),
        (("127.0.0.1",), TypeError, "must be a pair"),
        (("::1", 5, 0, 0), TypeError, "must be a pair"),
        ("127.0.0.1:5", TypeError, "must be tuple, not str"),
    ]
    for address, kind, text in wrong:
        with pytest.raises(kind, match=text):
            send_many(there, [(b"5", good), (b"6", address)])
    here.setblocking(False)
    with pytest.raises(BlockingIOError):
        allocator.recv_many(here)


def test_a_datagram_that_is_too_long(sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    assert send_many(there, [b"1", bytes(70_000)], here.getsockname()) == 1
    with pytest.raises(OSError, match=os.strerror(errno.EMSGSIZE)) as caught:
        send_many(there, [bytes(70_000)], here.getsockname())
    assert caught.value.errno == errno.EMSGSIZE
    assert send_many(there, [bytes(60_000)] * 2, here.getsockname()) == 2


def test_what_is_no_datagram_socket_is_refused(allocator: Allocator, sockets: Sockets) -> None:
    stream = sockets(kind=socket.SOCK_STREAM)
    rows = np.zeros((4, 100), np.uint8)
    calls: list[Callable[[Any], object]] = [
        allocator.recv_many,
        lambda sock: recv_many_into(sock, rows),
        lambda sock: send_many(sock, [b"x"], ("127.0.0.1", 9)),
    ]
    closed = sockets()
    closed.close()
    for call in calls:
        with pytest.raises(ValueError, match="a datagram socket was expected, got <socket"):
            call(stream)
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            call(closed)
        assert caught.value.errno == errno.EBADF
        for wrong in (5, None, "socket"):
            with pytest.raises(TypeError, match=r"expected a socket\.socket, got"):
                call(wrong)


@pytest.mark.parametrize(
    ("count", "size", "error", "text"),
    [
        (0, 2048, ValueError, "count must be at least 1, got 0"),
        (-1, 2048, ValueError, "count must be at least 1, got -1"),
        (64, 0, ValueError, "size must be at least 1, got 0"),
        (64, -5, ValueError, "size must be at least 1, got -5"),
        (64, 10**9, ValueError, "size must be from 1 to 16777216, got 1000000000"),
        (64, 10**30, ValueError, "size must be from 1 to 16777216"),
        ("64", 2048, TypeError, "count must be an integer, not str"),
        (64, 1.5, TypeError, "size must be an integer, not float"),
    ],
)
def test_counts_and_sizes_that_make_no_sense(  # noqa: PLR0917 - fixtures and parameters
    allocator: Allocator, sockets: Sockets, count: Any, size: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        allocator.recv_many(sockets(), count, size)


def test_arguments_that_make_no_sense(allocator: Allocator, sockets: Sockets) -> None:
    sock = sockets()
    recv: Any = allocator.recv_many
    for arguments, keywords in (((), {}), ((sock, 1, 2, 3), {}), ((sock,), {"flags": 1}), ((sock, 1), {"count": 2})):
        with pytest.raises(TypeError):
            recv(*arguments, **keywords)
    with pytest.raises(TypeError, match="bytes-like objects, not int"):
        send_many(sock, b"whole", ("127.0.0.1", 9))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bytes-like objects, not str"):
        send_many(sock, ["text"], ("127.0.0.1", 9))  # type: ignore[list-item]
    with pytest.raises(
        TypeError, match="not tuple: a pair of a packet and its address is taken where no address is given"
    ):
        send_many(sock, [(b"x", ("127.0.0.1", 9))], ("127.0.0.1", 9))
    with pytest.raises(TypeError, match="not iterable"):
        send_many(sock, 5, ("127.0.0.1", 9))  # type: ignore[arg-type]
    with pytest.raises(BufferError, match="contiguous"):
        send_many(sock, [memoryview(b"abcd")[::2]], ("127.0.0.1", 9))


def test_an_allocator_at_its_limit_loses_nothing(sockets: Sockets) -> None:
    here, there = sockets(), sockets()
    small = Allocator(memory_limit=160 << 10, preallocated_windows=1, keep_empty_windows=1)
    fillers = filled(small, 1400)
    datagrams = [bytes([number]) * 1400 for number in range(40)]
    send_many(there, datagrams, here.getsockname())
    for _ in range(2):
        with pytest.raises(MemoryError, match="cannot allocate 1400 bytes"):
            small.recv_many(here)
    there.sendto(b"later", here.getsockname())
    del fillers[:10]
    batch = small.recv_many(here)
    assert 0 < len(batch) < 40
    assert batch.waiting == 40 - len(batch)
    assert len(batch.packets) == len(batch.addresses) == len(batch.sizes) == len(batch)
    received = [bytes(packet) for packet in batch.packets]
    fillers.clear()
    while len(received) < 40:
        received.extend(bytes(packet) for packet in small.recv_many(here).packets)
    assert received == datagrams
    assert bytes(small.recv_many(here).packets[0]) == b"later"
    small.integrity_check()


def test_no_memory_for_an_object_loses_no_datagram(allocator: Allocator, sockets: Sockets) -> None:
    testcapi: Any = pytest.importorskip("_testcapi", exc_type=ImportError)
    sent = [b"%d" % number for number in range(5)]
    refused = 0
    for place in range(50):
        here, there = sockets(), sockets()
        here.setblocking(False)
        send_many(there, sent, here.getsockname(), gso=False)
        batch: DatagramBatch | None = None
        # Nothing but the call may need memory.
        testcapi.set_nomemory(place, place + 1)
        try:
            batch = allocator.recv_many(here)
        except MemoryError:
            pass
        finally:
            testcapi.remove_mem_hooks()
        refused += batch is None
        received = [bytes(packet) for packet in batch.packets] if batch is not None else []
        while len(received) < 5:
            received.extend(bytes(packet) for packet in allocator.recv_many(here).packets)
        assert received == sent
        here.close()
        there.close()
    assert refused


GROWING = """
import resource, socket
from pathlib import Path
from pktalloc import send_many

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))


class Port:
    def __index__(self):
        packets.append(pairs[len(packets) % 2])
        return sock.getsockname()[1]


pairs = [(b"x", ("127.0.0.1", Port())) for _ in range(2)]
packets = [pairs[0]]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
try:
    send_many(sock, packets)
except MemoryError:
    packets.clear()
assert send_many(sock, [b"x"], sock.getsockname()) == 1
"""


def test_a_list_that_grows_while_it_is_sent_is_a_memory_error_in_the_end() -> None:
    ended = subprocess.run([sys.executable, "-c", GROWING], check=False, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
