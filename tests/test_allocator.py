"""What an allocator hands out, what it refuses and how, and what it tells about itself."""

import collections.abc
import copy
import doctest
import inspect
import itertools
import json
import os
import pathlib
import pickle
import re
import sys
import xml.etree.ElementTree
from typing import TYPE_CHECKING

import pytest

import pktalloc
from pktalloc import Allocator, IntegrityError, Packet, Stats

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = 131072
CONFIGURATIONS: list[dict[str, int | bool | None]] = [
    {},
    {"alignment": 16, "window_bytes": 4096, "preallocated_windows": 0, "keep_empty_windows": 0},
    {"alignment": 4096, "window_bytes": 1 << 20},
    {"alignment": 4096},
    {"zero": True},
    {"check": True, "window_bytes": 1 << 14},
    {"zero": True, "check": True, "window_bytes": 1 << 13},
    {"huge_pages": True},
    {"memory_limit": 64 << 20},
]


@pytest.mark.parametrize("settings", CONFIGURATIONS, ids=str)
def test_packets_are_aligned_apart_and_writable(settings: dict[str, int]) -> None:
    with Allocator(**settings) as allocator:  # type: ignore[arg-type]
        alignment = settings.get("alignment", 64)
        packets = [allocator.allocate(size) for size in (*range(1, 200), 1400, 4096, 9000, 70_000, 1 << 20)]
        packet = packets[0]
        for number, packet in enumerate(packets):
            assert packet.address % alignment == 0
            assert packet.capacity >= len(packet)
            packet[:] = bytes([number % 251]) * len(packet)
        ranges = sorted((packet.address, packet.address + packet.capacity) for packet in packets)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))
        for number, packet in enumerate(packets):
            assert packet == bytes([number % 251]) * len(packet)
        allocator.integrity_check()
        packets.clear()
        del packet
        assert allocator.used_bytes == 0
        allocator.trim()
        allocator.integrity_check()


@pytest.mark.parametrize("size", [-1, -(1 << 40), -(10**30)])
def test_negative_sizes_are_value_errors(allocator: Allocator, size: int) -> None:
    packet = allocator.allocate(10)
    calls: list[Callable[[], object]] = [
        lambda: allocator.allocate(size),
        lambda: allocator.allocate_many(size, 1),
        lambda: allocator.reallocate(packet, size),
        lambda: allocator.shrink(packet, size),
        lambda: packet.resize(size),
        lambda: packet.shrink(size),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="size must be at least 0"):
            call()
    assert len(packet) == 10


@pytest.mark.parametrize("size", [1.0, "1", b"1", None, [], 1j], ids=repr)
def test_sizes_that_are_no_integers_are_type_errors(allocator: Allocator, size: int) -> None:
    packet = allocator.allocate(10)
    calls: list[Callable[[], object]] = [
        lambda: allocator.allocate(size),
        lambda: allocator.allocate_many(size, 1),
        lambda: allocator.allocate_many(1, size),
        lambda: allocator.reallocate(packet, size),
        lambda: packet.resize(size),
        lambda: packet.shrink(size),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"^(size|count) must be an integer, not {type(size).__name__}$"):
            call()


@pytest.mark.parametrize("size", [1 << 50, (1 << 63) - 1, 1 << 63, 1 << 64, 10**30], ids=repr)
def test_sizes_that_cannot_be_served_are_memory_errors(allocator: Allocator, size: int) -> None:
    packet = allocator.allocate(10)
    packet[:] = b"0123456789"
    calls: list[Callable[[], object]] = [
        lambda: allocator.allocate(size),
        lambda: allocator.allocate_many(size, 2),
        lambda: allocator.allocate_many(10, size),
        lambda: allocator.reallocate(packet, size),
        lambda: packet.resize(size, copy=False),
    ]
    for call in calls:
        with pytest.raises(MemoryError):
            call()
    assert packet == b"0123456789"
    assert allocator.used_bytes == 64


@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="sizes beyond the pointers of this system are refused as such")
def test_a_list_that_memory_cannot_hold_is_named(allocator: Allocator) -> None:
    with pytest.raises(MemoryError, match=r"^there is no memory for a list of 1000000000000 packets$"):
        allocator.allocate_many(10, 10**12)
    assert allocator.used_bytes == 0


def test_windows_compare_by_value(allocator: Allocator) -> None:
    packet = allocator.allocate(100)
    before = allocator.windows()
    assert before == allocator.windows()
    assert hash(before) == hash(allocator.windows())
    packet.release()
    assert before != allocator.windows()
    assert before != list(before)


def test_wrong_arguments_are_type_errors(allocator: Allocator) -> None:
    packet = allocator.allocate(10)
    calls: list[tuple[Callable[..., object], str]] = [
        (allocator.allocate, "missing required argument: 'size'"),
        (lambda: allocator.allocate(1, 2, 3), "takes at most 2 arguments"),  # type: ignore[call-arg]
        (lambda: allocator.allocate(1, size=2), "multiple values for argument 'size'"),  # type: ignore[misc]
        (lambda: allocator.allocate(bytes=2), "unexpected keyword argument 'bytes'"),  # type: ignore[call-arg]
        (lambda: allocator.allocate_many(1), "missing required argument: 'count'"),  # type: ignore[call-arg]
        (lambda: allocator.reallocate(packet, 1, False), "copy must be given by keyword"),  # type: ignore[call-arg]
        (packet.resize, "missing required argument: 'size'"),
        (lambda: packet.release(1), r"release\(\) takes no arguments, 1 was given$"),  # type: ignore[call-arg]
        (lambda: packet.release(1, 2), r"release\(\) takes no arguments, 2 were given$"),  # type: ignore[call-arg]
        (lambda: packet.shrink(1, 2), r"shrink\(\) takes at most 1 argument, 2 were given$"),  # type: ignore[call-arg]
        (lambda: packet.resize(1, copy=1), r"^copy must be True or False, not int$"),  # type: ignore[arg-type]
        (lambda: packet.resize(1, "x"), r"^copy must be True or False, not str$"),  # type: ignore[arg-type]
        (lambda: allocator.reallocate(packet, 1, copy=None), r"^copy must be True or False, not NoneType$"),  # type: ignore[arg-type]
        (lambda: Allocator(64), "positional"),  # type: ignore[call-arg]
        (lambda: Allocator(colour=1), "unexpected keyword argument 'colour'"),  # type: ignore[call-arg]
    ]
    for call, message in calls:
        with pytest.raises(TypeError, match=message):
            call()


def test_arguments_can_be_given_by_name(allocator: Allocator) -> None:
    packet = allocator.allocate(size=10)
    allocator.reallocate(packet=packet, size=2000, copy=False)
    packet.resize(copy=True, size=1000)
    allocator.shrink(size=100, packet=packet)
    packet.shrink(size=50)
    assert len(packet) == 50
    assert len(allocator.allocate_many(count=3, size=10)) == 3
    allocator.free(packet=packet)


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ({"alignment": 8}, "alignment is 8, must be a power of two from 16 to 4096"),
        ({"alignment": 96}, "alignment is 96, must be a power of two from 16 to 4096"),
        ({"alignment": 8192}, "alignment is 8192, must be a power of two from 16 to 4096"),
        ({"alignment": -64}, "alignment is -64, must be a power of two from 16 to 4096"),
        ({"window_bytes": 0}, "window_bytes is 0, must be a power of two from 4096 to 4194304"),
        ({"window_bytes": 131073}, "window_bytes is 131073, must be a power of two from 4096 to 4194304"),
        ({"window_bytes": 1 << 70}, "window_bytes is far beyond what is allowed, must be a power of two"),
        ({"memory_limit": -(1 << 70)}, "memory_limit is far beyond what is allowed, must be at least one window"),
        ({"alignment": 4096, "window_bytes": 131072}, "window_bytes is 131072, must be a power of two from 262144"),
        ({"preallocated_windows": -1}, "preallocated_windows is -1, must be from 0 to 1048576"),
        ({"preallocated_windows": 1 << 21}, "preallocated_windows is 2097152, must be at most 1048576"),
        ({"keep_empty_windows": -1}, "keep_empty_windows is -1, must be from 0 to 1048576"),
        ({"keep_empty_windows": 1 << 21}, "keep_empty_windows is 2097152, must be at most 1048576"),
        ({"memory_limit": 0}, "memory_limit is 0 bytes, must be at least"),
        ({"memory_limit": -5}, "memory_limit is -5, must be at least one window, or None"),
        ({"memory_limit": WINDOW - 1}, f"memory_limit is {WINDOW - 1} bytes, must be at least 135832: a window and"),
    ],
    ids=repr,
)
def test_settings_that_make_no_sense_are_refused_by_name(setting: dict[str, int], allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        Allocator(**setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["alignment", "window_bytes", "memory_limit", "zero", "check", "huge_pages"])
def test_settings_of_other_types_are_type_errors(setting: str) -> None:
    with pytest.raises(TypeError, match=f"^{setting} must be (an integer|True or False), not str$"):
        Allocator(**{setting: "1"})  # type: ignore[arg-type]


def test_what_goes_wrong_in_a_number_itself_is_not_hidden(allocator: Allocator) -> None:
    class Odd:
        def __index__(self) -> int:
            raise TypeError("ran out of luck")

    for call in (allocator.allocate, lambda size: Allocator(memory_limit=size)):
        with pytest.raises(TypeError, match="ran out of luck"):
            call(Odd())


def test_the_memory_limit() -> None:
    allocator = Allocator(memory_limit=4 * WINDOW, preallocated_windows=0)
    packets: list[Packet] = []
    with pytest.raises(MemoryError, match="cannot allocate 1400 bytes: the memory limit"):
        packets.extend(allocator.allocate(1400) for _ in range(1000))
    # Three windows: bookkeeping counts as well.
    assert len(packets) == 3 * (WINDOW // 64 // 22)
    assert allocator.allocated_bytes <= 4 * WINDOW
    with pytest.raises(MemoryError, match="the memory limit"):
        allocator.allocate(100_000)
    with pytest.raises(MemoryError):
        packets[0].resize(5000)
    del packets[::2]
    used = allocator.used_bytes
    with pytest.raises(MemoryError):
        allocator.allocate_many(1400, 1000)
    assert allocator.used_bytes == used
    allocator.integrity_check()
    packets.clear()
    assert len(allocator.allocate_many(1400, 270)) == 270


def test_allocate_many(allocator: Allocator) -> None:
    assert allocator.allocate_many(10, 0) == []
    for count in (1, 63, 64, 65, 1000):
        packets = allocator.allocate_many(1400, count)
        assert type(packets) is list
        assert len(packets) == len({packet.address for packet in packets}) == count
        assert all(len(packet) == 1400 and packet.capacity == 1408 for packet in packets)
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        allocator.allocate_many(10, -1)
    with pytest.raises(ValueError, match="size must be at least 0"):
        allocator.allocate_many(-1, 0)


def test_resize_keeps_what_fits(allocator: Allocator) -> None:
    packet = allocator.allocate(100)
    packet[:] = bytes(range(100))
    neighbour = allocator.allocate(100)
    for size in (1, 50, 100, 1000, 32_768, 32_769, 1_000_000, 40_000, 500):
        content = packet.tobytes()
        packet.resize(size)
        kept = min(size, len(content))
        assert len(packet) == size
        assert packet[:kept] == content[:kept]
        packet[:] = bytes(index % 253 for index in range(size))
        allocator.integrity_check()
    assert len(neighbour) == 100
    allocator.reallocate(packet, 60_000, copy=False)
    assert len(packet) == 60_000


def test_shrinking_gives_the_tail_back_at_once(allocator: Allocator) -> None:
    packet = allocator.allocate(2048)
    packet[:900] = b"x" * 900
    packet.shrink(900)
    follower = allocator.allocate(100)
    assert follower.address == packet.address + 960
    assert packet == b"x" * 900
    with pytest.raises(ValueError, match="cannot shrink a packet of 900 bytes to 901"):
        packet.shrink(901)
    packet.shrink(900)
    packet.shrink(1)
    assert (len(packet), packet.capacity) == (1, 64)


@pytest.mark.parametrize("check", [False, True])
def test_zeroed_packets_never_show_old_bytes(*, check: bool) -> None:
    allocator = Allocator(zero=True, check=check, window_bytes=1 << 14)
    for size in (1, 64, 100, 3000, 5000, 100_000):
        for _ in range(3):
            packet = allocator.allocate(size)
            assert packet == bytes(size)
            packet[:] = b"\xff" * size
            packet.shrink(max(1, size // 3))
            packet.resize(size)
            assert packet == b"\xff" * max(1, size // 3) + bytes(size - max(1, size // 3))
            packet.resize(2 * size, copy=False)
            assert packet == bytes(2 * size)
            packet[:] = b"\xff" * 2 * size


def test_damage_is_an_integrity_error_and_the_interpreter_survives(capsys: pytest.CaptureFixture[str]) -> None:
    ctypes = pytest.importorskip("ctypes")
    assert issubclass(IntegrityError, RuntimeError)
    allocator = Allocator(check=True)
    packet = allocator.allocate(100)
    other = allocator.allocate(10)
    ctypes.memset(packet.address + 100, 0, 3)
    message = rf"3 past the end of the 100 bytes at {packet.address:#x}"
    for call in (
        allocator.integrity_check,
        packet.release,
        other.release,
        lambda: allocator.free(packet),
        lambda: allocator.allocate(10),
        lambda: allocator.allocate_many(10, 2),
        lambda: packet.resize(1000),
        lambda: packet.shrink(1),
    ):
        with pytest.raises(IntegrityError, match=message):
            call()
        assert not packet.released
    ctypes.memset(packet.address + 100, 0xC5, 3)
    allocator.integrity_check()
    packet.release()
    other.release()
    assert capsys.readouterr().err == ""


def test_damage_seen_while_a_packet_is_dropped_is_reported_as_unraisable(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[type[BaseException] | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(report.exc_type))
    ctypes = pytest.importorskip("ctypes")
    allocator = Allocator(check=True)
    packet = allocator.allocate(100)
    address = packet.address
    ctypes.memset(address + 100, 0, 1)
    del packet
    assert reported == [IntegrityError]
    with pytest.raises(IntegrityError):
        allocator.integrity_check()
    ctypes.memset(address + 100, 0xC5, 1)
    allocator.integrity_check()


def test_figures(allocator: Allocator) -> None:
    assert allocator.used_bytes == 0
    # One that takes a part of a window, rounded up by at most an eighth, and one beyond a region.
    large = 10 << 20
    packets = [*allocator.allocate_many(1400, 100), allocator.allocate(100_000), allocator.allocate(large)]
    stats = allocator.stats()
    assert isinstance(stats, Stats)
    assert stats.used_bytes == allocator.used_bytes == 100 * 1408 + 106_496 + large
    bookkeeping = stats.allocated_bytes - stats.windows * WINDOW - large
    assert 0 < bookkeeping < WINDOW
    assert stats.allocated_bytes == allocator.allocated_bytes
    assert (stats.live_packets, stats.large_packets, stats.large_bytes) == (102, 1, large)
    assert (stats.alignment, stats.window_bytes) == (64, WINDOW)
    assert repr(stats).startswith(f"Stats(used_bytes={stats.used_bytes}, allocated_bytes=")
    assert stats == allocator.stats()
    packets.clear()
    assert allocator.stats() != stats
    assert allocator.stats().peak_allocated_bytes == stats.peak_allocated_bytes
    with pytest.raises(AttributeError):
        stats.windows = 3  # type: ignore[misc]


def test_figures_convert_to_a_dictionary_and_can_be_stored(allocator: Allocator) -> None:
    packets = allocator.allocate_many(1400, 100)
    stats = allocator.stats()
    figures = stats._asdict()
    assert figures["live_packets"] == len(packets) == 100
    assert json.loads(json.dumps(figures)) == figures
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(stats, protocol))  # noqa: S301
        assert again == stats
        assert type(again) is Stats
    assert copy.deepcopy(stats) == stats


def test_windows_are_a_sequence_and_can_be_stored(allocator: Allocator) -> None:
    packets = allocator.allocate_many(1400, 500)
    windows = allocator.windows()
    assert isinstance(windows, collections.abc.Sequence)
    assert list(reversed(windows)) == list(windows)[::-1]
    assert (windows.index(windows[2]), windows.count(windows[2]), windows[2] in windows) == (2, 1, True)
    assert windows[1:3] == (windows[1], windows[2])
    again = pickle.loads(pickle.dumps(windows))  # noqa: S301
    assert list(again) == list(windows)
    assert str(again) == str(windows)
    del packets
    assert list(allocator.windows()) != list(windows)
    with pytest.raises(AttributeError):
        windows[0].units = 3  # type: ignore[misc]


def test_windows_are_of_2048_units_unless_a_size_is_asked_for() -> None:
    for alignment in (16, 64, 256, 4096):
        for allocator in (Allocator(alignment=alignment), Allocator(alignment=alignment, window_bytes=None)):
            packet = allocator.allocate(1400)
            assert packet.address % alignment == 0
            assert allocator.stats().window_bytes == alignment * 2048


def test_trim_gives_everything_back_but_the_floor(allocator: Allocator) -> None:
    packets = allocator.allocate_many(1400, 10_000)
    high = allocator.allocated_bytes
    packets.clear()
    allocator.integrity_check()
    # The windows wait for the next burst until they are asked for.
    assert allocator.allocated_bytes == high
    freed = allocator.trim()
    assert freed == high - allocator.allocated_bytes
    assert allocator.allocated_bytes <= 3 * WINDOW
    assert allocator.trim() == 0


def resident_bytes() -> int:
    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc/self/statm here")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("size", "count"), [(1400, 100_000), (60_000, 2000), (10_000_000, 12)])
def test_memory_of_a_burst_goes_back_to_the_system(size: int, count: int) -> None:
    allocator = Allocator()
    before = resident_bytes()
    packets = allocator.allocate_many(size, count)
    packet = packets[0]
    for packet in packets:
        packet[::1024] = b"x" * len(packet[::1024])
    del packet
    assert resident_bytes() - before > size * count // 2
    packets.clear()
    allocator.trim()
    assert allocator.allocated_bytes <= 3 * WINDOW
    assert resident_bytes() - before < size * count // 10


def test_windows(allocator: Allocator) -> None:
    assert len(allocator.windows()) == 0
    packets = allocator.allocate_many(1400, 200)
    windows = allocator.windows()
    assert len(windows) == allocator.stats().windows
    assert [window.address for window in windows] == sorted(window.address for window in windows)
    assert windows[-1].address == list(windows)[-1].address
    assert [window.state for window in windows[:2]]
    with pytest.raises(IndexError):
        windows[len(windows)]
    places = {
        window.address + first * 64: (behind - first) * 64 for window in windows for first, behind in window.blocks
    }
    assert places == {packet.address: packet.capacity for packet in packets}
    for window in windows:
        assert window.live_units == sum(behind - first for first, behind in window.blocks)
        first, behind = window.bookkeeping
        assert all(end <= first or start >= behind for start, end in window.blocks)
        assert window.units == WINDOW // 64
        assert f"{window.live_units} of {window.units} units" in repr(window)
    live = sum(window.live_units for window in windows)
    assert repr(windows) == f"<pktalloc.Windows: {len(windows)} windows, {live} of {len(windows) * 2048} units live>"


def test_windows_draw_themselves(allocator: Allocator) -> None:
    svg = xml.etree.ElementTree.fromstring(allocator.windows().to_svg())  # noqa: S314
    assert str(allocator.windows()) == ""
    packets = allocator.allocate_many(1400, 300)
    del packets[100:160]
    del packets[::5]
    windows = allocator.windows()
    svg = xml.etree.ElementTree.fromstring(windows.to_svg())  # noqa: S314
    rows = svg.findall("{http://www.w3.org/2000/svg}svg")
    assert len(rows) == len(windows)
    for row, window in zip(rows, windows, strict=True):
        paths = {path.get("class"): path.get("d", "") for path in row}
        drawn = sorted(
            (int(start), int(start) + int(length))
            for kind in "ab"
            for start, length in re.findall(r"M(\d+) 0h(\d+)v1h-\2z", paths.get(kind, ""))
        )
        assert drawn == window.blocks
    assert windows._repr_html_() == windows.to_svg()
    lines = str(windows).splitlines()
    assert len(lines) == len(windows)
    for line, window in zip(lines, windows, strict=True):
        address, cells, state = line.split("│")
        assert (int(address, 16), len(cells), state.strip()) == (window.address, 64, window.state)
        for column, cell in enumerate(cells):
            part = range(column * 32, column * 32 + 32)
            live = sum(len(range(max(part.start, start), min(part.stop, end))) for start, end in window.blocks)
            assert (cell == " ", cell == "█") == (live == 0, live == 32)


@pytest.mark.parametrize("thing", [getattr(pktalloc, name) for name in pktalloc.__all__] + [pktalloc])
def test_the_examples_in_the_documentation(thing: object) -> None:
    examples = doctest.DocTestFinder().find(thing, getattr(thing, "__name__", "pktalloc"), globs={})
    for example in examples:
        results = doctest.DocTestRunner().run(example)
        assert results.failed == 0


def test_the_examples_of_the_guide_run() -> None:
    guide = pathlib.Path(__file__).parent.parent / "docs" / "python.md"
    examples = re.findall(r"^```python\n(.*?)^```", guide.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        exec(compile(example, str(guide), "exec"), {})  # noqa: S102


def test_everything_public_is_documented() -> None:
    for name in pktalloc.__all__:
        thing = getattr(pktalloc, name)
        if not isinstance(thing, type):
            continue
        assert inspect.getdoc(thing)
        for member, value in vars(thing).items():
            if not member.startswith("_"):
                assert inspect.getdoc(value), f"{name}.{member}"


def test_signatures_can_be_read() -> None:
    assert str(inspect.signature(pktalloc.Allocator.allocate)) == "(self, /, size, headroom=0)"
    assert str(inspect.signature(pktalloc.Allocator.reallocate)) == "(self, /, packet, size, *, copy=True)"
    assert str(inspect.signature(pktalloc.Packet.resize)) == "(self, /, size, copy=True)"
    assert list(inspect.signature(pktalloc.Allocator).parameters) == [
        *("alignment", "window_bytes", "preallocated_windows", "memory_limit"),
        *("zero", "check", "keep_empty_windows", "huge_pages"),
    ]
