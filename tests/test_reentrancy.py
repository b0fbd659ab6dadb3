"""Python code that runs in the middle of an operation and pulls the ground from under it."""

import contextlib
import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from pktalloc import Allocator, Packet


class Interrupting:
    """A number whose conversion does something first."""

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.number = number
        self.action = action

    def __index__(self) -> int:
        self.action()
        return self.number


ACTIONS: dict[str, Callable[[Allocator, Packet], object]] = {
    "release": lambda _, packet: packet.release(),
    "close": lambda allocator, _: allocator.close(),
}
OPERATIONS: dict[str, Callable[[Allocator, Packet, Interrupting], object]] = {
    "index": lambda _, packet, number: packet[number],
    "slice": lambda _, packet, number: packet[0:number],
    "slice with step": lambda _, packet, number: packet[0:9:number],
    "set at index": lambda _, packet, number: packet.__setitem__(number, 1),
    "set to value": lambda _, packet, number: packet.__setitem__(1, number),
    "set slice": lambda _, packet, number: packet.__setitem__(slice(0, number), b"xxx"),
    "set slice with step": lambda _, packet, number: packet.__setitem__(slice(0, 9, number), b"xxx"),
    "resize": lambda _, packet, number: packet.resize(number),
    "shrink": lambda _, packet, number: packet.shrink(number),
    "reallocate": lambda allocator, packet, number: allocator.reallocate(packet, number),
    "advance": lambda _, packet, number: packet.advance(number),
    "split": lambda _, packet, number: packet.split(number),
    "allocator.shrink": lambda allocator, packet, number: allocator.shrink(packet, number),
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS.keys())
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_a_conversion_that_takes_the_packet_away(
    operation: Callable[[Allocator, Packet, Interrupting], object], action: Callable[[Allocator, Packet], object]
) -> None:
    allocator = Allocator(check=True)
    packet = allocator.allocate(1000)
    with pytest.raises(ValueError, match=r"the packet is released|closed"):
        operation(allocator, packet, Interrupting(3, lambda: action(allocator, packet)))
    if not allocator.closed:
        allocator.integrity_check()


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_a_conversion_that_shortens_the_packet(
    operation: Callable[[Allocator, Packet, Interrupting], object],
) -> None:
    allocator = Allocator(check=True)
    packet = allocator.allocate(1000)
    with contextlib.suppress(IndexError, ValueError):
        operation(allocator, packet, Interrupting(3, lambda: packet.resize(1)))
    assert packet.released == (operation is OPERATIONS["split"])
    allocator.integrity_check()


def test_a_size_that_closes_the_allocator() -> None:
    calls: list[Callable[[Allocator, Interrupting], object]] = [
        lambda allocator, size: allocator.allocate(size),
        lambda allocator, size: allocator.allocate_many(size, 3),
        lambda allocator, size: allocator.allocate_many(3, size),
    ]
    for call in calls:
        allocator = Allocator()
        allocator.allocate(3)
        with pytest.raises(ValueError, match="the allocator is closed"):
            call(allocator, Interrupting(10, allocator.close))


def test_a_conversion_that_fails_passes_its_error_on(allocator: Allocator) -> None:
    def fail() -> None:
        raise KeyError("conversion")

    packet = allocator.allocate(100)
    number = Interrupting(1, fail)
    calls: list[Callable[[], object]] = [
        lambda: allocator.allocate(number),
        lambda: allocator.allocate_many(1, number),
        lambda: packet[number],
        lambda: packet.__setitem__(0, number),
        lambda: packet.__setitem__(slice(number), b""),
        lambda: packet.resize(number),
        lambda: packet.shrink(number),
        lambda: Allocator(alignment=number),
        lambda: Allocator(memory_limit=number),
    ]
    for call in calls:
        with pytest.raises(KeyError, match="conversion"):
            call()


def test_conversions_that_allocate_and_free(allocator: Allocator) -> None:
    packets: list[Packet] = []

    def churn() -> None:
        packets.extend(allocator.allocate_many(700, 50))
        del packets[::2]

    for size in range(1, 200):
        packet = allocator.allocate(Interrupting(size, churn))
        packet.resize(Interrupting(size + 3000, churn))
        packet.shrink(Interrupting(size, churn))
        assert len(packet) == size
        del packet
    allocator.integrity_check()
    packets.clear()
    assert allocator.used_bytes == 0


def test_callbacks_of_weak_references_use_the_allocator(allocator: Allocator) -> None:
    spare: list[Packet] = []
    packets = allocator.allocate_many(1400, 100)
    references = [weakref.ref(packet, lambda _: spare.append(allocator.allocate(1400))) for packet in packets]
    del packets
    assert all(reference() is None for reference in references)
    assert len(spare) == 100
    assert allocator.used_bytes == 100 * 1408
    closing = weakref.ref(spare.pop(), lambda _: allocator.close())
    assert closing() is None
    assert allocator.closed


def test_finalizers_that_run_while_a_list_of_packets_is_made() -> None:
    allocator = Allocator()
    kept: list[Packet] = []

    class Cycle:
        def __init__(self) -> None:
            self.itself = self
            self.packet = allocator.allocate(64)

        def __del__(self) -> None:
            kept.extend(allocator.allocate_many(64, 3))
            self.packet.release()

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for count in range(100):
            Cycle()
            packets = allocator.allocate_many(1400, count)
            assert len({packet.address for packet in packets}) == count
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    allocator.integrity_check()


def test_a_finalizer_that_closes_the_allocator_while_a_list_of_packets_is_made() -> None:
    allocator = Allocator()

    class Closing:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            allocator.close()

    Closing()
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with pytest.raises(ValueError, match="the allocator is closed"):
            [allocator.allocate_many(10, 10) for _ in range(1000)]
    finally:
        gc.set_threshold(*threshold)


def test_packets_released_by_the_exception_that_their_release_raises(allocator: Allocator) -> None:
    packet = allocator.allocate(100)
    view = packet.view
    try:
        packet.release()
    except BufferError:
        view.release()
        packet.release()
    assert packet.released


def test_getsizeof_runs_no_code_of_the_packet(allocator: Allocator) -> None:
    packet = allocator.allocate(100)
    size = sys.getsizeof(packet)
    packet.release()
    assert sys.getsizeof(packet) == size


@pytest.mark.skipif(sys.version_info < (3, 12), reason="buffers made by Python code came with Python 3.12")
class TestBuffersMadeByPythonCode:
    class Exporter:
        def __init__(self, content: bytes, before: Callable[[], object], after: Callable[[], object]) -> None:
            self.content = content
            self.before = before
            self.after = after

        def __buffer__(self, flags: int) -> memoryview:
            self.before()
            return memoryview(self.content)

        def __release_buffer__(self, view: memoryview) -> None:
            self.after()
            view.release()

    @pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS.keys())
    def test_a_source_that_takes_the_target_away(self, action: Callable[[Allocator, Packet], object]) -> None:
        uses: list[Callable[[Packet, Any], object]] = [
            lambda packet, source: packet.__setitem__(slice(None), source),
            lambda packet, source: packet.__setitem__(slice(0, 20, 2), source),
            lambda packet, source: packet == source,
        ]
        for use in uses:
            allocator = Allocator()
            packet = allocator.allocate(10)
            source = self.Exporter(b"0123456789", lambda: action(allocator, packet), lambda: None)  # noqa: B023
            with pytest.raises(ValueError, match=r"released|closed"):
                use(packet, source)
            allocator = Allocator()
            packet = allocator.allocate(10)
            source = self.Exporter(b"0123456789", lambda: None, lambda: action(allocator, packet))  # noqa: B023
            packet[:] = source
            assert packet.released

    def test_a_source_that_shortens_the_target(self, allocator: Allocator) -> None:
        packet = allocator.allocate(10)
        source = self.Exporter(b"0123456789", lambda: packet.resize(4), lambda: None)
        with pytest.raises(ValueError, match="cannot assign 10 bytes to a slice of 4"):
            packet[:] = source
        assert packet != source

    def test_releasing_by_hand(self, allocator: Allocator) -> None:
        packet = allocator.allocate(10)
        view = packet.__buffer__(0)
        with pytest.raises(ValueError, match="not this object"):
            packet.__release_buffer__(memoryview(b""))  # type: ignore[attr-defined]
        packet.__release_buffer__(view)  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="already been released"):
            packet.__release_buffer__(view)  # type: ignore[attr-defined]
        assert "exports=0" in repr(packet)
        packet.release()


# Code that asks the collector for every object, whenever it runs, finds none of ours with places that are empty. (The
# interpreter has such itself, when it imports and when it makes a `zip`.)
COLLECTIONS = """
import gc, socket, sys
from pktalloc import Allocator

def look(phase, info):
    for found in gc.get_objects():
        if type(found) in (list, tuple):
            for element in found:
                pass

allocator = Allocator()
packets = [allocator.allocate(1400) for _ in range(300)]

def tell():
    allocator.stats(), allocator.windows(), allocator.allocate_many(100, 5), allocator.allocate(256).split(64)

tell()
if sys.platform == "linux":
    from pktalloc import recv_many_into, send_many

    here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    here.bind(("127.0.0.1", 0))
    here.settimeout(10)
    rows = memoryview(bytearray(800)).cast("B", (8, 100))
    peers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(40)]

    def receive(call):
        for peer in peers:
            # Each from a new address, so that a tuple is made for it.
            peer.sendto(b"x", here.getsockname())
        received = 0
        while received < len(peers):
            batch = call()
            received += len(batch)
            batch.sizes, batch.truncated, batch.timestamps_ns, batch.addresses, batch[0:0]
            if batch.packets:
                batch[0], batch[0:3], send_many(here, batch)

gc.callbacks.append(look)
gc.set_threshold(1)
for _ in range(20):
    tell()
if sys.platform == "linux":
    receive(lambda: allocator.recv_many(here, timestamps=True))
    receive(lambda: recv_many_into(here, rows))
"""


# Where a later part of the list is refused, the exception is made while the list is half full. That allocates, and so
# may collect, once the interpreter's stock of such exceptions is used up.
REFUSALS = """
import gc
from pktalloc import Allocator

def look(phase, info):
    for found in gc.get_objects():
        if type(found) is list and len(found) > 300:
            for element in found:
                pass

raised = [MemoryError() for _ in range(60)]

def refuse(call, *arguments):
    for threshold in range(1, 8):
        gc.collect()
        gc.set_threshold(threshold)
        try:
            call(*arguments)
        except MemoryError as error:
            raised.append(error.with_traceback(None))
        else:
            raise SystemExit("not refused")
        gc.set_threshold(0)

allocator = Allocator(memory_limit=1 << 20)
gc.callbacks.append(look)
refuse(allocator.allocate_many, 1400, 740)
packet, others = allocator.allocate(400 * 1001), allocator.allocate_many(1400, 200)
refuse(packet.split, 1001)
"""


@pytest.mark.parametrize("program", [COLLECTIONS, REFUSALS], ids=["made", "refused"])
def test_collections_see_no_list_that_is_being_made(program: str) -> None:
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
