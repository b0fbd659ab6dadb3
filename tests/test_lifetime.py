"""Who keeps memory alive, who may take it away, and what is said when somebody may not."""

import contextlib
import copy
import gc
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator

import pytest

from pktalloc import Allocator, IntegrityError, Packet

USES: dict[str, Callable[[Packet], object]] = {
    "len": len,
    "bool": bool,
    "index": lambda packet: packet[0],
    "slice": lambda packet: packet[0:4],
    "set index": lambda packet: packet.__setitem__(0, 1),
    "set slice": lambda packet: packet.__setitem__(slice(0, 1), b"x"),
    "iter": iter,
    "in": lambda packet: 0 in packet,
    "==": lambda packet: packet == b"",
    "== itself": lambda packet: packet == packet,  # noqa: PLR0124
    "!=": lambda packet: packet != b"",
    "view": lambda packet: packet.view,
    "memoryview": memoryview,
    "bytes": bytes,
    "tobytes": lambda packet: packet.tobytes(),
    "hex": lambda packet: packet.hex(),
    "size": lambda packet: packet.size,
    "capacity": lambda packet: packet.capacity,
    "address": lambda packet: packet.address,
    "resize": lambda packet: packet.resize(10),
    "shrink": lambda packet: packet.shrink(10),
    "with": lambda packet: packet.__enter__(),
    "headroom": lambda packet: packet.headroom,
    "tailroom": lambda packet: packet.tailroom,
    "prepend": lambda packet: packet.prepend(b""),
    "append": lambda packet: packet.append(b""),
    "advance": lambda packet: packet.advance(0),
    "split": lambda packet: packet.split(10),
    "copy": lambda packet: packet.copy(),
}

ALLOCATOR_USES: dict[str, Callable[[Allocator], object]] = {
    "allocate": lambda allocator: allocator.allocate(1),
    "allocate_many": lambda allocator: allocator.allocate_many(1, 1),
    "used_bytes": lambda allocator: allocator.used_bytes,
    "allocated_bytes": lambda allocator: allocator.allocated_bytes,
    "stats": lambda allocator: allocator.stats(),
    "windows": lambda allocator: allocator.windows(),
    "integrity_check": lambda allocator: allocator.integrity_check(),
    "trim": lambda allocator: allocator.trim(),
    "with": lambda allocator: allocator.__enter__(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_every_use_of_a_released_packet_is_a_value_error(allocator: Allocator, use: Callable[[Packet], object]) -> None:
    packet = allocator.allocate(100)
    packet.release()
    with pytest.raises(ValueError, match="the packet is released"):
        use(packet)
    packet.release()


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_every_use_of_a_packet_of_a_closed_allocator_is_a_value_error(use: Callable[[Packet], object]) -> None:
    allocator = Allocator()
    packet = allocator.allocate(100)
    allocator.close()
    assert packet.released
    with pytest.raises(ValueError, match="the packet's allocator is closed"):
        use(packet)
    packet.release()


@pytest.mark.parametrize("use", ALLOCATOR_USES.values(), ids=ALLOCATOR_USES.keys())
def test_every_use_of_a_closed_allocator_is_a_value_error(use: Callable[[Allocator], object]) -> None:
    allocator = Allocator()
    allocator.allocate(100)
    allocator.close()
    with pytest.raises(ValueError, match="the allocator is closed"):
        use(allocator)
    allocator.close()
    assert allocator.closed


def test_methods_of_the_allocator_refuse_released_packets(allocator: Allocator) -> None:
    packet = allocator.allocate(100)
    allocator.free(packet)
    calls: list[Callable[[], object]] = [
        lambda: allocator.free(packet),
        lambda: allocator.shrink(packet, 10),
        lambda: allocator.reallocate(packet, 10),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="the packet is released"):
            call()


def test_a_packet_of_another_allocator_is_a_value_error(allocator: Allocator) -> None:
    with Allocator() as other:
        packet = other.allocate(100)
        calls: list[Callable[[], object]] = [
            lambda: allocator.free(packet),
            lambda: allocator.shrink(packet, 10),
            lambda: allocator.reallocate(packet, 10),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="belongs to another allocator"):
                call()
        assert len(packet) == 100
        packet.release()
        with pytest.raises(ValueError, match="belongs to another allocator"):
            allocator.free(packet)


@pytest.mark.parametrize("thing", [None, 1, b"bytes", bytearray(4), memoryview(b""), object(), Packet, Allocator()])
def test_what_is_no_packet_is_a_type_error(allocator: Allocator, thing: object) -> None:
    calls: list[Callable[[], object]] = [
        lambda: allocator.free(thing),  # type: ignore[arg-type]
        lambda: allocator.shrink(thing, 10),  # type: ignore[arg-type]
        lambda: allocator.reallocate(thing, 10),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"expected a pktalloc\.Packet, got"):
            call()


def test_exports_forbid_what_would_pull_memory_away_and_say_how_many_there_are(allocator: Allocator) -> None:
    packet = allocator.allocate(1000)
    packet[:4] = b"data"
    calls: list[tuple[str, Callable[[], object]]] = [
        ("release the packet", packet.release),
        ("resize the packet", lambda: packet.resize(2000)),
        ("resize the packet", lambda: packet.resize(1000)),
        ("resize the packet", lambda: allocator.reallocate(packet, 10, copy=False)),
        ("shrink the packet", lambda: packet.shrink(10)),
        ("shrink the packet", lambda: allocator.shrink(packet, 1000)),
        ("free the packet", lambda: allocator.free(packet)),
        ("close the allocator", allocator.close),
    ]
    before = (packet.address, packet.size, packet.capacity, allocator.used_bytes)
    first = packet.view
    second = memoryview(packet)
    for exports, count in (("2 buffer exports alive; release them first", second), ("1 buffer export alive", first)):
        for action, call in calls:
            with pytest.raises(BufferError, match=f"cannot {action}: {exports}"):
                call()
            assert (packet.address, packet.size, packet.capacity, allocator.used_bytes) == before
            assert first.tobytes()[:4] == b"data"
        count.release()
    packet.resize(2000)
    packet.shrink(10)
    packet.release()
    allocator.close()


def test_views_of_views_hold_one_export_until_the_last_goes(allocator: Allocator) -> None:
    packet = allocator.allocate(64)
    whole = packet.view
    part = whole[8:32][4:]
    cast = part.cast("I")
    whole.release()
    part.release()
    with pytest.raises(BufferError, match="1 buffer export"):
        packet.release()
    del cast
    packet.release()


def test_the_count_in_the_repr(allocator: Allocator) -> None:
    packet = allocator.allocate(100)
    assert repr(packet) == f"<pktalloc.Packet size=100 capacity=128 address={packet.address:#x} exports=0>"
    with packet.view, packet[1:5]:
        assert repr(packet).endswith(" exports=2>")
    packet.release()
    assert repr(packet) == "<pktalloc.Packet released>"
    assert repr(allocator).startswith("<pktalloc.Allocator used_bytes=0 allocated_bytes=")
    allocator.close()
    assert repr(allocator) == "<pktalloc.Allocator closed>"


def test_other_packets_can_be_released_while_one_is_exported(allocator: Allocator) -> None:
    one, other = allocator.allocate_many(100, 2)
    with one.view:
        other.release()
        with pytest.raises(BufferError):
            allocator.close()
    allocator.close()


def test_a_dropped_packet_frees_its_block(allocator: Allocator) -> None:
    packet = allocator.allocate(1400)
    assert allocator.used_bytes == 1408
    del packet
    assert allocator.used_bytes == 0


def test_a_view_keeps_the_packet_and_the_allocator(allocator: Allocator) -> None:
    view = allocator.allocate(1400).view
    view[:3] = b"abc"
    assert allocator.used_bytes == 1408
    gone = Allocator()
    other = gone.allocate(50000).view
    del gone
    gc.collect()
    other[-3:] = b"xyz"
    assert other.tobytes().endswith(b"xyz")
    assert view.tobytes().startswith(b"abc")


def test_packets_outlive_the_name_of_their_allocator() -> None:
    allocator = Allocator()
    packets = allocator.allocate_many(1400, 1000)
    reference = weakref.ref(allocator)
    del allocator
    packet = packets[0]
    for number, packet in enumerate(packets):
        packet[:] = number.to_bytes(2, "big") * 700
    assert all(packet == number.to_bytes(2, "big") * 700 for number, packet in enumerate(packets))
    assert reference() is not None
    packets.clear()
    del packet
    assert reference() is None


def test_with_releases_and_closes() -> None:
    with Allocator() as allocator:
        with allocator.allocate(1400) as packet:
            assert not packet.released
        assert allocator.used_bytes == 0
        with allocator.allocate(1400) as other:
            other.release()
        assert (packet.released, other.released) == (True, True)
        kept = allocator.allocate(1)
    assert kept.released
    assert allocator.closed


def test_an_exception_in_a_with_block_is_not_hidden() -> None:
    with pytest.raises(KeyError, match="inside"), Allocator() as allocator, allocator.allocate(100) as packet:
        raise KeyError("inside")
    assert packet.released
    assert allocator.closed


def test_a_view_alive_at_the_end_of_a_with_block_keeps_the_memory_and_nothing_else(allocator: Allocator) -> None:
    with allocator.allocate(1400) as packet:
        packet[:5] = b"hello"
        whole, part = packet.view, packet[1:3]
    assert packet.released
    for use in USES.values():
        with pytest.raises(ValueError, match="the packet is released"):
            use(packet)
    packet.release()
    with pytest.raises(ValueError, match="the packet is released"):
        allocator.free(packet)
    assert repr(packet) == "<pktalloc.Packet released>"
    assert allocator.used_bytes == 1408
    other = allocator.allocate(1400)
    other[:] = b"x" * 1400
    assert (whole.tobytes()[:5], part.tobytes()) == (b"hello", b"el")
    with pytest.raises(BufferError, match="2 buffer exports"):
        allocator.close()
    whole.release()
    assert allocator.used_bytes == 2 * 1408
    part[0] = 0
    part.release()
    assert allocator.used_bytes == 1408
    del packet
    assert allocator.used_bytes == 1408


def test_a_view_alive_at_the_end_of_an_allocators_with_block_keeps_its_memory() -> None:
    with Allocator() as allocator:
        packets = allocator.allocate_many(1400, 10)
        large = allocator.allocate(1_000_000)
        views = [packets[3].view, packets[4].view, large.view]
        for view in views:
            view[:3] = b"abc"
    assert allocator.closed
    assert all(packet.released for packet in packets)
    for use in ALLOCATOR_USES.values():
        with pytest.raises(ValueError, match="the allocator is closed"):
            use(allocator)
    for use_packet in USES.values():
        with pytest.raises(ValueError, match="the packet's allocator is closed"):
            use_packet(packets[0])
    allocator.close()
    del packets[2:5], large
    gc.collect()
    assert all(view.tobytes().startswith(b"abc") for view in views)
    reference = weakref.ref(allocator)
    del allocator, packets
    assert reference() is not None
    del view, use
    views.clear()
    assert reference() is None


def resident_bytes() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_the_memory_goes_back_with_the_last_view() -> None:
    with Allocator() as allocator:
        packets = allocator.allocate_many(1400, 50_000)
        for packet in packets:
            packet[:] = b"x" * 1400
        view, other = packets[7].view, packets[8].view
    before = resident_bytes()
    view.release()
    assert resident_bytes() > before - 10_000_000
    other.release()
    assert resident_bytes() < before - 60_000_000


class PeerGoneError(Exception):
    """What a body raises."""


def test_a_with_block_passes_the_bodys_exception_on_while_views_are_alive() -> None:
    held: list[memoryview] = []
    with pytest.raises(PeerGoneError), Allocator() as allocator:  # noqa: PT012
        packet = allocator.allocate(2048)
        held.append(packet[:12])
        raise PeerGoneError
    with pytest.raises(PeerGoneError), Allocator() as allocator, allocator.allocate(100) as packet:  # noqa: PT012
        held.append(packet.view)
        raise PeerGoneError
    with pytest.raises(PeerGoneError), contextlib.ExitStack() as stack:  # noqa: PT012
        allocator = stack.enter_context(Allocator())
        packets = [stack.enter_context(packet) for packet in allocator.allocate_many(100, 3)]
        held.extend(packet.view for packet in packets)
        raise PeerGoneError
    assert allocator.closed

    @contextlib.contextmanager
    def fixture() -> Iterator[Packet]:
        with Allocator() as allocator, allocator.allocate(100) as packet:
            yield packet

    with fixture() as packet:
        held.append(packet.view)
    assert packet.released
    with pytest.raises(PeerGoneError), fixture() as packet:  # noqa: PT012
        held.append(packet.view)
        raise PeerGoneError
    for view in held:
        view[0] = 1


def test_damage_at_the_end_of_a_with_block_does_not_hide_the_bodys_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    ctypes = pytest.importorskip("ctypes")
    reported: list[type[BaseException] | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(report.exc_type))
    allocator = Allocator(check=True)
    with pytest.raises(IntegrityError, match="past the end"), allocator.allocate(100) as packet:  # noqa: PT012
        address = packet.address
        ctypes.memset(address + 100, 0, 3)
    assert packet.released
    assert reported == []
    ctypes.memset(address + 100, 0xC5, 3)
    with pytest.raises(PeerGoneError), allocator.allocate(100) as other:  # noqa: PT012
        ctypes.memset(other.address + 100, 0, 3)
        address = other.address
        raise PeerGoneError
    assert other.released
    assert reported == [IntegrityError]
    ctypes.memset(address + 100, 0xC5, 3)
    del packet, other
    assert allocator.used_bytes == 0
    allocator.integrity_check()


def test_weak_references(allocator: Allocator) -> None:
    packet = allocator.allocate(100)
    seen: list[int] = []
    reference = weakref.ref(packet, lambda _: seen.append(allocator.used_bytes))
    assert reference() is packet
    packet.release()
    assert reference() is packet
    del packet
    assert reference() is None
    assert seen == [0]
    values = weakref.WeakValueDictionary({1: allocator.allocate(1)})
    assert 1 not in values


def test_packets_are_not_hashable_nor_pickled_and_allocators_not_copied(allocator: Allocator) -> None:
    packet = allocator.allocate(100)
    with pytest.raises(TypeError, match="unhashable"):
        hash(packet)
    for thing in (packet, allocator):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="cannot pickle"):
                pickle.dumps(thing, protocol)
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot pickle or copy"):
            copied(allocator)
    assert allocator.used_bytes == 128


def test_packets_cannot_be_made_derived_or_changed(allocator: Allocator) -> None:
    with pytest.raises(TypeError, match="cannot create"):
        Packet()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"not safe|cannot create"):  # the second from Python 3.14 on
        object.__new__(Packet)
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Derived", (Packet,), {})
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Derived", (Allocator,), {})
    with pytest.raises(AttributeError):
        allocator.allocate(1).colour = "red"  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="size"):
        allocator.allocate(1).size = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="immutable"):
        Packet.size = 3  # type: ignore[method-assign, assignment]


def test_methods_refuse_objects_of_other_types(allocator: Allocator) -> None:
    with pytest.raises(TypeError, match="doesn't apply"):
        Packet.release(allocator)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="doesn't apply"):
        Allocator.allocate(allocator.allocate(1), 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"doesn't apply|requires a"):
        Packet.__len__(b"")  # type: ignore[arg-type]


def test_getsizeof_reports_the_handle(allocator: Allocator) -> None:
    assert sys.getsizeof(allocator.allocate(1)) == sys.getsizeof(allocator.allocate(1 << 20)) < 100


def test_reference_cycles_through_a_packets_owner_are_collected(allocator: Allocator) -> None:
    class Owner:
        def __init__(self) -> None:
            self.packet = allocator.allocate(1400)
            self.view = self.packet.view
            self.itself = self

    Owner()
    gc.collect()
    assert allocator.used_bytes == 0


def test_released_memory_stays_mapped_for_those_who_hold_no_export() -> None:
    np = pytest.importorskip("numpy")
    for size in (1400, 50_000, 5_000_000):
        allocator = Allocator(keep_empty_windows=0, preallocated_windows=0)
        packets = allocator.allocate_many(size, 100)
        arrays = [np.ndarray(shape=(size,), dtype=np.uint8, buffer=packet) for packet in packets]
        for packet in packets:
            packet.release()
        allocator.trim()
        allocator.integrity_check()
        for array in arrays:
            array[:] = 0xAA
        again = allocator.allocate_many(size, 100)
        for array in arrays:
            array[:] = 0x55
        allocator.integrity_check()
        for packet in again:
            packet.release()
        allocator.close()
        for array in arrays:
            array[:] = array + 1
        del allocator, packets, again
        gc.collect()
        assert int(arrays[0].sum()) == size * int(arrays[0][0])


def run(code: str, *options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **(environment or {})},
    )


def test_shutdown_with_packets_alive() -> None:
    finished = run(
        """
        import atexit, threading, pktalloc
        allocator = pktalloc.Allocator()
        packets = allocator.allocate_many(1400, 100)
        view = packets[0].view
        large = allocator.allocate(1_000_000)
        class Late:
            def __init__(self, packet): self.packet = packet
            def __del__(self): self.packet.release()
        late = Late(allocator.allocate(10))
        cycle = [allocator.allocate(10)]
        cycle.append(cycle)
        atexit.register(lambda: packets[1].release())
        atexit.register(allocator.allocate, 10)
        import sys
        sys.modules["holds"] = [allocator.allocate(10)]
        print("end")
        """,
        "-X",
        "dev",
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "end\n", "")


def test_shutdown_with_a_daemon_thread_at_work() -> None:
    finished = run(
        """
        import threading, pktalloc
        allocator = pktalloc.Allocator()
        started = threading.Event()
        def work():
            while True:
                allocator.allocate_many(1400, 8)
                started.set()
        threading.Thread(target=work, daemon=True).start()
        started.wait()
        """
    )
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_packets_of_its_own() -> None:
    finished = run(
        """
        import os, pktalloc
        allocator = pktalloc.Allocator()
        packet = allocator.allocate(1400)
        packet[:6] = b"parent"
        child = os.fork()
        if child == 0:
            packet[:6] = b"child!"
            more = allocator.allocate_many(1400, 500)
            allocator.integrity_check()
            packet.release()
            allocator.close()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        allocator.integrity_check()
        print(status, packet[:6].tobytes())
        """
    )
    assert (finished.stdout, finished.stderr) == ("0 b'parent'\n", "")


def test_a_sub_interpreter_gets_an_import_error() -> None:
    finished = run(
        """
        import pktalloc
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        interpreter = interpreters.create()
        script = "try:\\n import pktalloc\\nexcept ImportError as e:\\n print('refused', type(e).__name__, flush=True)"
        run = getattr(interpreters, "exec", None) or interpreters.run_string
        run(interpreter, script)
        pktalloc.Allocator().allocate(10)
        """
    )
    assert (finished.returncode, finished.stdout) == (0, "refused ImportError\n"), finished.stderr


def test_memory_does_not_grow_with_a_million_rounds() -> None:
    resource = pytest.importorskip("resource")
    allocator = Allocator()
    rounds = 50_000

    def use() -> None:
        for _ in range(rounds):
            allocator.allocate(1400)
        for _ in range(rounds // 64):
            allocator.allocate_many(1400, 64)
        for _ in range(rounds // 4):
            with allocator.allocate(700) as packet:
                packet.resize(1500)
                packet.shrink(10)
                memoryview(packet)[1:3].release()
                packet[2:4] = b"ab"
        for _ in range(rounds // 16):
            packet = allocator.allocate(100_000)
            allocator.reallocate(packet, 150_000, copy=False)
            allocator.free(packet)
            with pytest.raises(ValueError, match="released"):
                packet[0]
        for _ in range(100):
            with Allocator() as other:
                other.allocate_many(1400, 10)
        with pytest.raises(MemoryError):
            allocator.allocate_many(1 << 40, 1 << 30)

    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5):
        use()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 4096, f"{grown} KiB more after a million rounds"
    assert allocator.used_bytes == 0


def test_importing_the_module_again_gives_the_same_types() -> None:
    finished = run(
        """
        import sys, pktalloc
        packet = pktalloc.Allocator().allocate(10)
        first = pktalloc.Packet
        for name in [name for name in sys.modules if name.startswith("pktalloc")]:
            del sys.modules[name]
        import pktalloc
        assert pktalloc.Packet is first
        other = pktalloc.Allocator().allocate(10)
        print(type(other) is type(packet), other == packet.tobytes())
        """
    )
    assert (finished.stdout, finished.stderr) == ("True True\n", "")


def test_no_memory_for_objects_leaves_no_block_behind() -> None:
    testcapi = pytest.importorskip("_testcapi")
    allocator = Allocator()
    packet = allocator.allocate(1000)
    calls: list[Callable[[], object]] = [
        lambda: allocator.allocate(1400),
        lambda: allocator.allocate_many(1400, 150),
        lambda: packet[5:10],
        lambda: packet.view,
        packet.tobytes,
        lambda: (packet.size, packet.capacity, packet.address, repr(packet)),
        lambda: packet.__setitem__(slice(0, 1000, 2), bytes(500)),
        lambda: packet == bytearray(1000),
    ]
    for call in calls:
        failures = 0
        for place in range(200):
            try:
                testcapi.set_nomemory(place, place + 1)
                result = call()
            except MemoryError:
                failures += 1
            else:
                del result
            finally:
                testcapi.remove_mem_hooks()
            assert allocator.used_bytes == 1024
        assert failures > 0
        assert "exports=0" in repr(packet)
        assert packet[5:10].nbytes == 5
    allocator.integrity_check()


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on addresses is enforced on Linux")
def test_a_system_that_refuses_memory_is_a_memory_error_and_work_goes_on() -> None:
    finished = run(
        """
        import resource, pktalloc
        allocator = pktalloc.Allocator()
        small = allocator.allocate_many(1400, 100)
        packets = []
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
        try:
            while True:
                packets.append(allocator.allocate_many(1_000_000, 10))
        except MemoryError as error:
            print(error)
        allocator.integrity_check()
        assert len(packets) > 10
        del packets[::2], small[::2]
        for _ in range(20):
            packets.append(allocator.allocate(900_000))
            small.append(allocator.allocate(1400))
        allocator.integrity_check()
        packets.clear()
        small.clear()
        print(allocator.used_bytes)
        """
    )
    assert finished.stdout == "cannot allocate 1000000 bytes: the system refused memory\n0\n", finished.stderr
