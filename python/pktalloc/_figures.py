"""The state of an allocator: its figures, and which units of its windows are in use."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, SupportsIndex, TypeAlias, final, overload

_Facts: TypeAlias = tuple[int, int, int, tuple[int, int], bytes, Literal["current", "full", "reusable", "empty"]]


class Stats(NamedTuple):
    """The figures of an allocator at one moment, a named tuple: `_asdict()` makes a dictionary.

    Attributes:
        used_bytes: bytes of live packets, each rounded up to a multiple of the alignment.
        allocated_bytes: bytes taken from the system.
        peak_allocated_bytes: the most that `allocated_bytes` has been.
        live_packets: packets that hold a block.
        large_packets: packets among them that are longer than a region has room for (about 7.5 MiB).
        large_bytes: bytes of large packets.
        windows: windows taken from the system.
        empty_windows: windows without a live packet.
        reusable_windows: windows with live packets and enough holes to be used again.
        alignment: bytes that every block's address and size are a multiple of.
        window_bytes: bytes of a window.
    """

    used_bytes: int
    allocated_bytes: int
    peak_allocated_bytes: int
    live_packets: int
    large_packets: int
    large_bytes: int
    windows: int
    empty_windows: int
    reusable_windows: int
    alignment: int
    window_bytes: int


@final
class Window:
    """The occupancy of one window at one moment."""

    __slots__ = ("_facts",)

    def __init__(self, facts: _Facts, /) -> None:
        self._facts = facts

    @property
    def address(self) -> int:
        """The address of the window, a multiple of its size."""
        return self._facts[0]

    @property
    def units(self) -> int:
        """Units of the window, those of its bookkeeping included; a unit is as many bytes as the alignment."""
        return self._facts[1]

    @property
    def live_units(self) -> int:
        """Units of live packets."""
        return self._facts[2]

    @property
    def bookkeeping(self) -> tuple[int, int]:
        """The first unit of the bookkeeping, and the one after its last."""
        return self._facts[3]

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """For each live packet its first unit, and the one after its last; in order."""
        bounds = memoryview(self._facts[4]).cast("I").tolist()
        return list(zip(bounds[::2], bounds[1::2], strict=True))

    @property
    def state(self) -> Literal["current", "full", "reusable", "empty"]:
        """The state of the window: 'current', 'full', 'reusable' or 'empty'."""
        return self._facts[5]

    def __eq__(self, other: object, /) -> bool:
        return self._facts == other._facts if isinstance(other, Window) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._facts)

    def __repr__(self) -> str:
        return (
            f"<pktalloc.Window address={self.address:#x} {self.state}: "
            f"{self.live_units} of {self.units} units live in {len(self._facts[4]) // 8} packets>"
        )


@final
class Windows(Sequence[Window]):
    """The windows of an allocator at one moment, a sequence of `Window`s in order of address.

    `print` shows it as text, a notebook as a picture; `to_svg` returns the picture.

    >>> from pktalloc import Allocator
    >>> a = Allocator(preallocated_windows=1)
    >>> packets = a.allocate_many(1400, 46)
    >>> a.windows()
    <pktalloc.Windows: 1 window, 1012 of 2048 units live>
    """

    __slots__ = ("_windows",)

    def __init__(self, facts: Iterable[_Facts], /) -> None:
        # By way of a list: the collector sees a tuple that has empty places while its elements are made.
        windows = [Window(one) for one in facts]
        self._windows = tuple(windows)

    def __len__(self) -> int:
        return len(self._windows)

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> Window: ...
    @overload
    def __getitem__(self, key: slice, /) -> tuple[Window, ...]: ...
    def __getitem__(self, key: SupportsIndex | slice, /) -> Window | tuple[Window, ...]:
        return self._windows[key]

    def __iter__(self) -> Iterator[Window]:
        return iter(self._windows)

    def __eq__(self, other: object, /) -> bool:
        return self._windows == other._windows if isinstance(other, Windows) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._windows)

    def to_svg(self) -> str:
        """Return a drawing in the SVG format: windows as rows, packets as runs of two alternating colours, holes light.

        >>> from pktalloc import Allocator
        >>> a = Allocator()
        >>> packets = a.allocate_many(1400, 100)
        >>> a.windows().to_svg()[:4]
        '<svg'
        """
        return "".join(_svg(self._windows))

    def _repr_html_(self) -> str:
        return self.to_svg()

    def __str__(self) -> str:
        return "\n".join(map(_line, self._windows))

    def __repr__(self) -> str:
        windows = f"{len(self)} window{'' if len(self) == 1 else 's'}"
        live, units = sum(window.live_units for window in self), sum(window.units for window in self)
        return f"<pktalloc.Windows: {windows}, {live} of {units} units live>"


Window.__module__ = Windows.__module__ = Stats.__module__ = "pktalloc"

COLUMNS = 64
"""Characters that a window takes on a terminal."""
SHADES = " ░▒▓█"
"""From no unit in use to all of them."""


def _line(window: Window) -> str:
    """A window in one line: its address, its units from left to right, and its state."""
    bounds = [column * window.units // COLUMNS for column in range(COLUMNS + 1)]
    live = [0] * COLUMNS
    for start, end in window.blocks:
        column, at = bisect_right(bounds, start) - 1, start
        while at < end:
            stop = min(end, bounds[column + 1])
            live[column] += stop - at
            column, at = column + 1, stop
    cells = "".join(_shade(count, bounds[at + 1] - bounds[at]) for at, count in enumerate(live))
    return f"{window.address:#014x} │{cells}│ {window.state}"


def _shade(live: int, units: int) -> str:
    """A cell. With a single unit in use it is not shown as empty, nor with a single hole as full."""
    if live == units:
        return SHADES[-1]
    return SHADES[0] if live == 0 else SHADES[1 + live * (len(SHADES) - 2) // units]


ROW, ROW_STEP = 14, 20
"""Height of a window's row, and its distance from the next, in the units of the drawing."""
LEFT, TOP = 190, 34
"""Where the rows begin: beside the addresses, below the legend."""
LENGTH = 1024
"""Length of a row."""
LEGEND = (("a", "block"), ("b", "next block"), ("h", "hole"), ("k", "bookkeeping"))
STYLE = ".h{fill:#eceff1}.a{fill:#1565c0}.b{fill:#64b5f6}.k{fill:#78909c}"


def _svg(windows: Sequence[Window]) -> Iterator[str]:
    """A drawing: windows as rows, blocks as runs in two alternating colours, holes as what is left of the row."""
    width, height = LEFT + LENGTH + 10, TOP + len(windows) * ROW_STEP + 6
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="monospace" font-size="11">\n<style>{STYLE}</style>\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n'
    )
    for place, (kind, label) in enumerate(LEGEND):
        x = LEFT + place * 110
        yield f'<rect class="{kind}" x="{x}" y="8" width="12" height="12"/><text x="{x + 18}" y="18">{label}</text>\n'
    for row, window in enumerate(windows):
        y, units, blocks = TOP + row * ROW_STEP, window.units, window.blocks
        yield (
            f'<text x="6" y="{y + 11}">{window.address:#014x} {window.state}</text>\n'
            f'<svg x="{LEFT}" y="{y}" width="{LENGTH}" height="{ROW}" viewBox="0 0 {units} 1" '
            f'preserveAspectRatio="none"><title>{window.live_units} of {units} units in {len(blocks)} blocks</title>'
            f'<path class="h" d="{_run((0, units))}"/><path class="k" d="{_run(window.bookkeeping)}"/>'
        )
        for kind, alternate in (("a", blocks[::2]), ("b", blocks[1::2])):
            if alternate:
                yield f'<path class="{kind}" d="{"".join(map(_run, alternate))}"/>'
        yield "</svg>\n"
    yield "</svg>\n"


def _run(units: tuple[int, int]) -> str:
    """The outline of a run of units."""
    start, end = units
    return f"M{start} 0h{end - start}v1h-{end - start}z"
