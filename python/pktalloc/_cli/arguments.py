"""What the command understands."""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import sys
from typing import TYPE_CHECKING, NoReturn

from pktalloc._cli.exits import EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import SupportsWrite

MOST_32_BIT = 2**32 - 1
MOST_64_BIT = 2**64 - 1
MOST_CALLS = 2**25
"""As many as a replay takes."""

REPLAY = """\
Allocate and free the packets of a capture or a trace, or the calls of a
program, with pktalloc, with the system's malloc and with every other
allocator that this machine has, each in a process of its own: once to check
every byte and to see memory and the longest call, then in rounds to compare
how fast they are.
"""

TUNE = """\
Try units of 16 to 256 bytes, windows of 16 KiB to 2 MiB and the other settings
on a file, and print the few that are worth having: time, memory and the longest
call, with the lines to paste. The defaults are recommended unless others take a
tenth less time and hold at most a quarter more memory, or hold a fifth less
memory and take at most a twentieth more time.
"""

RECORD = """\
Run a program, record the calls of malloc, calloc, aligned_alloc, memalign,
posix_memalign, realloc and free of it and of the programs that it starts, and
write them as a call trace for `replay` and `tune`. Linux; programs that are
linked statically or change their user cannot be recorded.
"""

RECORD_STATUS = """\
Exit status: that of the program, 128 and the number of the signal that ended
it, 127 if it cannot be started, 2 if an option is wrong.
"""

FILES = """\
FILE is a pcap or pcapng capture, a CSV trace that starts with the line
`# dt_us,size`, `# dt_us,size,life_us` or `# dt_us,size,life_us,kind`, or the
calls of a program, which start with `# call,allocator,block,size`; each plain
or compressed with gzip or zstd. `-` is the standard input. Its contents are
recognised, its name does not matter.
"""

HELD = """\
A packet is held as long as the trace records. Where it records nothing, the
packet is held until --depth later ones have arrived, for --delay milliseconds,
or until the link of --link carries it off.
"""

STATUS = """\
Exit status: 0 success, 1 an allocator failed, there was no memory, or the
output could not be written, 2 the file or an option is wrong, 130 interrupted.
"""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        """End with the message and where to read more."""
        self.exit(EXIT_USAGE, f"pktalloc: {message} (see {self.prog} --help)\n")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Print, and let what goes wrong with it be known, which the one of the base class does not."""
        stream = sys.stderr if file is None else file
        # None where it is closed.
        if message and stream is not None:
            stream.write(message)


def parser() -> argparse.ArgumentParser:
    """The arguments that the command understands."""
    version = f"pktalloc {importlib.metadata.version('pktalloc')}"
    top = OneLineParser(prog="pktalloc", description="An allocator for packet buffers, tried on your own traffic.")
    top.add_argument("--version", action="version", version=version)
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command", parser_class=OneLineParser)
    add_replay(commands)
    add_tune(commands)
    add_record(commands)
    return top


def add_replay(commands: argparse._SubParsersAction[OneLineParser]) -> None:
    """The command `replay`."""
    replay = commands.add_parser(
        "replay",
        help="replay a capture, a trace or the calls of a program against pktalloc and other allocators",
        description=REPLAY,
        epilog=f"{FILES}\n{HELD}\n{STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_file(replay)
    add_competitors(replay)
    replay.add_argument(
        "--rounds",
        metavar="N",
        type=whole_number(1),
        help="time N rounds of each allocator (default: 21, or down to 5 if they take longer than ten seconds)",
    )
    add_settings(replay)
    replay.add_argument(
        "--map",
        metavar="FILE.svg",
        help="also draw the allocator's windows as they are when the most bytes are held",
    )
    add_report(replay)
    replay.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def add_tune(commands: argparse._SubParsersAction[OneLineParser]) -> None:
    """The command `tune`."""
    tune = commands.add_parser(
        "tune",
        help="try settings on a capture, a trace or the calls of a program, and recommend some",
        description=TUNE,
        epilog=f"{FILES}\n{HELD}\n{STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_file(tune)
    add_report(tune)
    tune.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def add_record(commands: argparse._SubParsersAction[OneLineParser]) -> None:
    """The command `record`."""
    record = commands.add_parser(
        "record",
        help="record the allocations of a program as a call trace",
        usage="pktalloc record [options] -- COMMAND [ARGUMENT ...]",
        description=RECORD,
        epilog=RECORD_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    record.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the call trace; compressed if the name ends in .gz (default: COMMAND.calls.csv.gz)",
    )
    record.add_argument(
        "--min-size", metavar="BYTES", type=size(), default=64, help="leave out smaller blocks (default: 64)"
    )
    record.add_argument(
        "--max-size", metavar="BYTES", type=size(), default=1 << 20, help="leave out larger blocks (default: 1M)"
    )
    record.add_argument(
        "--limit",
        metavar="N",
        type=whole_number(1, MOST_CALLS),
        default=1 << 22,
        help="record at most N calls, each 32 bytes of a temporary file (default: 4194304)",
    )
    record.add_argument("--json", action="store_true", help="print what was recorded and left out as one JSON object")
    record.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run, with its arguments")


def add_file(command: argparse.ArgumentParser) -> None:
    """The file, and how its packets are held."""
    command.add_argument("file", metavar="FILE", help="the capture, the trace or the calls; - is the standard input")
    command.add_argument(
        "--strict", action="store_true", help="refuse a capture that is cut off, instead of replaying what is there"
    )
    leaving = command.add_mutually_exclusive_group()
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
    command.add_argument(
        "--copies",
        metavar="N",
        type=whole_number(1),
        default=1,
        help="replay N copies of the trace at once, evenly shifted in time (default: 1)",
    )


def add_report(command: argparse.ArgumentParser) -> None:
    """The page."""
    command.add_argument(
        "--report", metavar="FILE.html", help="also write a page with pictures, which needs no network and no scripts"
    )


def add_competitors(command: argparse.ArgumentParser) -> None:
    """Which allocators to compare with."""
    command.add_argument(
        "--allocators",
        metavar="LIST",
        help="compare with these: malloc, jemalloc, mimalloc, tcmalloc, snmalloc, rpmalloc, or paths of shared "
        "libraries, separated by commas (default: malloc and all that are installed)",
    )


def add_settings(command: argparse.ArgumentParser) -> None:
    """The settings of pktalloc's allocator."""
    group = command.add_argument_group("settings of pktalloc", "as in the configuration; sizes may end in K, M or G")
    group.add_argument("--alignment", metavar="BYTES", type=size(), help="a power of two, 16 to 4096 (default: 64)")
    group.add_argument(
        "--window-bytes",
        metavar="BYTES",
        type=size(),
        help="a power of two, 64 to 65536 times the alignment (default: 128K)",
    )
    group.add_argument("--preallocated-windows", metavar="N", type=whole_number(0), help="default: 2")
    group.add_argument("--keep-empty-windows", metavar="N", type=whole_number(0), help="default: 32")
    group.add_argument("--memory-limit", metavar="BYTES", type=size(), help="default: none")
    group.add_argument("--zero", action="store_true", help="blocks come zeroed")
    group.add_argument("--check", action="store_true", help="the self-check around every call (slow)")
    group.add_argument("--huge-pages", action="store_true", help="ask for transparent huge pages")


SETTINGS = (
    *("alignment", "window_bytes", "preallocated_windows", "keep_empty_windows", "memory_limit"),
    *("zero", "check", "huge_pages"),
)


def settings(options: argparse.Namespace) -> dict[str, int | bool]:
    """The settings that were given."""
    given = ((name, getattr(options, name)) for name in SETTINGS)
    return {name: value for name, value in given if value is not None and value is not False}


def whole_number(least: int, most: int = MOST_32_BIT) -> Callable[[str], int]:
    """A parser of whole numbers, by default to what 32 bits hold."""

    def parse(text: str) -> int:
        digits = text.lstrip("0") or "0"
        if text.isascii() and text.isdigit() and len(digits) <= len(str(most)) and least <= int(digits) <= most:
            return int(digits)
        message = f"{text!r} is not a whole number from {least} to {most}"
        raise argparse.ArgumentTypeError(message)

    return parse


def size() -> Callable[[str], int]:
    """A parser of numbers of bytes."""
    number = whole_number(0, MOST_64_BIT)

    def parse(text: str) -> int:
        factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper())
        try:
            value = number(text[:-1]) * factor if factor else number(text)
        except argparse.ArgumentTypeError:
            value = MOST_64_BIT + 1
        if value > MOST_64_BIT:
            message = f"{text!r} is not a number of bytes, such as 131072 or 128K"
            raise argparse.ArgumentTypeError(message)
        return value

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
