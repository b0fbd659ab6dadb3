"""The command line: `pktalloc replay FILE`."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich import box
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from pktalloc import _pktalloc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pktalloc import Windows

EXIT_FAILURE = 1
"""The allocator itself failed: no memory, or a packet's bytes changed."""
EXIT_USAGE = 2
"""The file or an option is to blame."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""As from a program that the signal ended: 128 and the signal's number."""

SECONDS_BEFORE_BAR = 1.0
"""A replay that is over sooner needs no progress bar."""
SECONDS_BETWEEN_BARS = 0.1

MOST_32_BIT = 2**32 - 1

DESCRIPTION = """\
Allocate and free the packets of a capture or a trace with pktalloc and with
the system's malloc: once to check every byte, then in rounds to compare how
fast they are.
"""

EPILOG = """\
FILE is a pcap or pcapng capture, or a CSV trace that starts with the line
`# dt_us,size`, `# dt_us,size,life_us` or `# dt_us,size,life_us,kind`; each
plain or gzip. Its contents are recognised, its name does not matter.

A packet is held as long as the trace records. Where it records nothing, the
packet is held until --depth later ones have arrived, for --delay milliseconds,
or until the link of --link carries it off.

Exit status: 0 success, 1 the allocator failed, 2 the file or an option is
wrong, 130 interrupted.
"""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        """End with the message and where to read more."""
        self.exit(EXIT_USAGE, f"pktalloc: {message} (see {self.prog} --help)\n")


class ProgressBar:
    """Shows how far a replay is, on a terminal, once it has taken a second.

    The bar is drawn from the replay's own calls: a thread that draws it would make malloc take its locks.
    """

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._phase = ""
        self._next_draw = time.monotonic() + SECONDS_BEFORE_BAR

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Draw if it is time to."""
        now = time.monotonic()
        if now < self._next_draw:
            return
        self._next_draw = now + SECONDS_BETWEEN_BARS
        if self._progress is None:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
            console = Console(stderr=True)
            self._progress = Progress(*columns, console=console, transient=True, auto_refresh=False)
            self._progress.start()
        if self._task is None or phase != self._phase:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(phase)
            self._phase = phase
        self._progress.update(self._task, completed=done, total=total or None, refresh=True)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._progress is not None:
            self._progress.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser().parse_args(arguments)
    # A file's name may hold what the terminal cannot say.
    for stream in sys.stdout, sys.stderr:
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        result = replay(options)
        windows = result.pop("windows_at_peak", None)
        print(json.dumps(result) if options.json else table(result))
        sys.stdout.flush()
        if windows is not None:
            draw(windows, options.map)
    except ValueError as error:
        return fail(error, EXIT_USAGE)
    except (MemoryError, RuntimeError) as error:
        return fail(error, EXIT_FAILURE)
    except KeyboardInterrupt:
        return fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # What is left in the buffer must not fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments that the command understands."""
    version = f"pktalloc {importlib.metadata.version('pktalloc')}"
    top = OneLineParser(prog="pktalloc", description="An allocator for packet buffers, tried on your own traffic.")
    top.add_argument("--version", action="version", version=version)
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)
    replay = commands.add_parser(
        "replay",
        help="replay a capture or a trace against pktalloc and the system's malloc",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    replay.add_argument("file", metavar="FILE", help="the capture or trace")
    leaving = replay.add_mutually_exclusive_group()
    leaving.add_argument(
        "--depth",
        metavar="N",
        type=whole_number(1),
        help="hold each packet until N later ones have arrived (default: 1024, if the trace records no lifetime)",
    )
    leaving.add_argument("--delay", metavar="MS", type=milliseconds, help="hold each packet for MS milliseconds")
    leaving.add_argument(
        "--link",
        metavar="FILE",
        help="hold all packets in front of a link that carries off one of them at each departure; "
        "a CSV file that starts with the line `# dt_ms,count`",
    )
    replay.add_argument(
        "--copies",
        metavar="N",
        type=whole_number(1),
        default=1,
        help="replay N copies of the trace at once, evenly shifted in time (default: 1)",
    )
    replay.add_argument(
        "--rounds",
        metavar="N",
        type=whole_number(1),
        help="time N rounds of each allocator (default: 21, or down to 5 if they take longer than ten seconds)",
    )
    replay.add_argument(
        "--map",
        metavar="FILE.svg",
        help="also draw the allocator's windows as they are when the most bytes are held",
    )
    replay.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return top


def whole_number(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to what 32 bits hold."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and least <= int(text[:11]) <= MOST_32_BIT:
            return int(text[:11])
        message = f"{text!r} is not a whole number from {least} to {MOST_32_BIT}"
        raise argparse.ArgumentTypeError(message)

    return parse


def milliseconds(text: str) -> float:
    """Parse a time that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        message = f"{text!r} is not a number of milliseconds, 0 or more"
        raise argparse.ArgumentTypeError(message)
    return value


def draw(windows: Windows, path: str) -> None:
    """Write the picture of the windows. What was measured is printed by then, so that a bad path loses nothing."""
    try:
        Path(path).write_text(windows.to_svg(), encoding="utf-8")
    except OSError as error:
        message = f"{path}: {error.strerror or error}"
        raise ValueError(message) from error


def replay(options: argparse.Namespace) -> dict[str, Any]:
    """Replay a file and return what was found."""
    bar = ProgressBar() if sys.stderr.isatty() else None
    try:
        return _pktalloc.replay(
            options.file,
            depth=options.depth,
            delay_ms=options.delay,
            link=options.link,
            copies=options.copies,
            rounds=options.rounds,
            progress=bar,
            windows_at_peak=options.map is not None,
        )
    finally:
        if bar is not None:
            bar.close()


def fail(what: object, status: int) -> int:
    """Say in one line what went wrong."""
    print("pktalloc:", " ".join(str(what).split("\n")), file=sys.stderr)
    return status


def table(result: dict[str, Any]) -> str:
    """What a replay found, for people."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    memory = result["memory"]
    for name, value in [
        ("file", result["file"]),
        ("traffic", source(result)),
        ("packets", f"{result['packets']:,}, every byte of each written and checked"),
        ("bytes", f"{result['bytes']:,}, {result['smallest']:,} to {result['largest']:,} a packet"),
        ("peak packets held", f"{result['peak_packets']:,}, {memory['live_bytes']:,} bytes"),
        ("held", lifetimes(result["lifetimes"])),
    ]:
        facts.add_row(name, Text(value))

    compared = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    compared.add_column()
    compared.add_column("pktalloc", justify="right")
    compared.add_column("malloc", justify="right")
    times = result["ns_per_packet"]
    ours, malloc = times["pktalloc"], times["malloc"]
    compared.add_row(
        f"ns per packet, median of {result['rounds']} rounds", f"{ours['median']:.1f}", f"{malloc['median']:.1f}"
    )
    compared.add_row("  middle half of the rounds", middle_half(ours), middle_half(malloc))
    compared.add_row("  of it the replay's own loop", *[f"{times['loop']['median']:.1f}"] * 2)
    compared.add_row("bytes taken from the system", f"{memory['held_bytes']:,}", "not measured")
    compared.add_row("  over bytes of packets live", f"{memory['held_over_live']:.2f}", "not measured")

    console = Console(highlight=False)
    with console.capture() as capture:
        console.print(Group(facts, compared, Text(result["verdict"], style="bold")))
    # A line is padded to the width of the table, which is of no use outside of it.
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def source(result: dict[str, Any]) -> str:
    """What kind of file it was, and how long the traffic took."""
    copies = f", {result['copies']} copies" if result["copies"] > 1 else ""
    return f"{result['format']}, {result['seconds']:,.1f} s{copies}"


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
