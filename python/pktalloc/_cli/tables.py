"""What was found, for people."""

from __future__ import annotations

import io
import sys
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pktalloc._cli import tune as tuning

LEAST_WIDTH = 40
"""Narrower terminals get wrapped lines."""
USUAL_WIDTH = 80


def replay(result: dict[str, Any]) -> str:
    """What a replay found."""
    verdict = Text(result["verdict"], style="bold")
    return rendered(Group(facts(result), comparison(result), *left_out(result), verdict))


def tune(result: dict[str, Any]) -> str:
    """What tuning found."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column("settings", overflow="fold")
    for name in (f"ns per {result['unit']}", "held bytes", "in memory", "longest call"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("", overflow="fold")
    for trial in result["trials"]:
        table.add_row(
            shape(trial["settings"]),
            f"{trial['ns']:.1f}",
            count(trial["held_bytes"]),
            count(trial["resident_bytes"]),
            f"{trial['longest_ns'] / 1000:,.1f} us",
            trial["why"],
        )
    table.caption = tried(result)
    # Lines to paste are not wrapped.
    lines = f"\nRust:    {result['rust']}\nPython:  {result['python']}\n"
    top = rendered(Group(facts({**result, "settings": {}}), table))
    return "\n".join([top, lines, rendered(Text(result["reason"], style="bold"))])


def tried(result: dict[str, Any]) -> str:
    """What the figures of tuning are."""
    steps = f"{result['steps_tried']:,} of {result['steps']:,} operations"
    return f"{result['shapes_tried']} shapes tried on {steps}; the fastest of {tuning.LAST_ROUNDS} rounds."


def shape(settings: dict[str, int | bool]) -> str:
    """Settings in a cell."""
    window = settings["window_bytes"]
    size = f"{window >> 20} MiB" if window >= 1 << 20 else f"{window >> 10} KiB"
    rest = [
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}"
        for name, value in settings.items()
        if name not in {"alignment", "window_bytes"}
    ]
    return ", ".join([f"units of {settings['alignment']}, windows of {size}", *rest])


class Lines(io.StringIO):
    """What is rendered for the standard output, to be written at once."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What the standard output can say."""
        return sys.stdout.encoding or "ascii"

    def isatty(self) -> bool:
        """Whether the standard output is a terminal."""
        return sys.stdout.isatty()


def rendered(what: RenderableType) -> str:
    """Lines of text, as wide as the terminal is."""
    lines = Lines()
    console = Console(highlight=False, file=lines)
    if console.width < LEAST_WIDTH:
        width = USUAL_WIDTH if console.width < 1 else LEAST_WIDTH
        console = Console(highlight=False, file=lines, width=width)
    console.print(what)
    # A line is padded to the width of the table, which is of no use outside of it.
    return "\n".join(line.rstrip() for line in lines.getvalue().splitlines())


def facts(result: dict[str, Any]) -> Table:
    """What the file holds."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fact_rows(result):
        table.add_row(name, Text(value))
    return table


def fact_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The same, as names and values."""
    rows = [("file", result["file"]), ("traffic", source(result))]
    if result["packets"] is not None:
        rows += [
            ("packets", f"{result['packets']:,}, the bytes of each written and checked"),
            ("bytes", f"{result['bytes']:,}, {result['smallest']:,} to {result['largest']:,} a packet"),
            ("peak packets held", f"{result['peak_packets']:,}, {result['peak_bytes']:,} bytes"),
            ("held", lifetimes(result["lifetimes"])),
        ]
    else:
        rows += [
            ("calls", calls(result["calls"])),
            ("bytes", f"{result['bytes']:,} asked for, {result['smallest']:,} to {result['largest']:,} a call"),
            ("peak blocks held", f"{result['peak_packets']:,}, {result['peak_bytes']:,} bytes"),
        ]
    if result["settings"]:
        given = ", ".join(f"{name.replace('_', '-')} {value:,}" for name, value in result["settings"].items())
        rows.append(("settings", given.replace(" True", "")))
    return rows


def comparison(result: dict[str, Any]) -> Table:
    """The allocators side by side."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column("", overflow="fold")
    table.add_column(f"ns per {result['unit']}", justify="right", overflow="fold")
    table.add_column("middle half", justify="right", overflow="fold")
    table.add_column("held bytes", justify="right", overflow="fold")
    table.add_column("in memory", justify="right", overflow="fold")
    table.add_column("longest call", justify="right", overflow="fold")
    for one in result["allocators"]:
        table.add_row(
            one["name"],
            f"{one['ns']['median']:.1f}",
            middle_half(one["ns"]),
            count(one["held_bytes"]),
            count(one["resident_bytes"]),
            f"{one['longest_ns'] / 1000:,.1f} us",
        )
    table.caption = caption(result)
    return table


def rounds(result: dict[str, Any]) -> str:
    """How many rounds."""
    return f"{result['rounds']} round" + ("" if result["rounds"] == 1 else "s")


def caption(result: dict[str, Any]) -> str:
    """What the figures are."""
    loop = result["loop_ns"]["median"]
    return (
        f"Medians of {rounds(result)}; {loop:.1f} ns of each are the replay's own loop. Most bytes taken from the "
        f"system, most resident growth of a process of its own; {result['peak_bytes']:,} bytes were live at most."
    )


def left_out(result: dict[str, Any]) -> list[RenderableType]:
    """Those that could not run."""
    return [Text(f"{one['name']} is left out: {one['why']}") for one in result["left_out"]]


def count(value: int | None) -> str:
    """A number, where there is one."""
    return "-" if value is None else f"{value:,}"


def source(result: dict[str, Any]) -> str:
    """What kind of file it was, and how long the traffic took."""
    if result["seconds"] is None:
        return "the calls of a program"
    copies = f", {result['copies']} copies" if result["copies"] > 1 else ""
    return f"{result['format']}, {result['seconds']:,.1f} s{copies}"


def calls(counts: dict[str, int]) -> str:
    """How many calls of each kind."""
    resized = counts["reallocate_copy"] + counts["reallocate_discard"]
    made = f"{counts['new']:,} allocator{'' if counts['new'] == 1 else 's'}"
    return f"{counts['allocate']:,} allocate, {resized:,} reallocate, {counts['free']:,} free, of {made}"


def lifetimes(counts: dict[str, Any]) -> str:
    """How long packets are held."""
    rules = {
        "departure": "freed on departure",
        "depth": f"until {counts['depth']:,} later packets have arrived" if counts["depth"] else "",
        "delay": f"for {counts['delay_ms']} ms",
        "link": f"until carried off by the link {counts['link']}",
    }
    parts = []
    if counts["recorded"]:
        parts.append(f"{counts['recorded']:,} as long as the trace records")
    if counts["forever"]:
        parts.append(f"{counts['forever']:,} to the end, as the trace records")
    if counts["ruled"]:
        parts.append(f"{counts['ruled']:,} {rules[counts['rule']]}")
    return ", ".join(parts)


def middle_half(spread: dict[str, float]) -> str:
    """Between which times the middle half of the rounds lay."""
    return f"{spread['low']:.1f} to {spread['high']:.1f}"
