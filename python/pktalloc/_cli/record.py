"""Recording the allocations of a program, by a library that is loaded into it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pktalloc import _pktalloc
from pktalloc._cli.exits import EXIT_USAGE, fail, warn, write_out
from pktalloc._cli.outputs import Output

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

SCHEMA = "pktalloc-record-1"

EXIT_NOT_FOUND = 127
"""As from a shell that does not find a command."""

FILE_VARIABLE = "PKTALLOC_RECORD"
"""Where the library finds the file that it writes to."""


def record(options: argparse.Namespace) -> int:
    """The command `record`."""
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        return fail("no command to record (see pktalloc record --help)", EXIT_USAGE)
    if _pktalloc.recorder is None:
        return fail("programs are recorded on Linux only", EXIT_USAGE)
    if options.min_size > options.max_size:
        return fail(f"--min-size is {options.min_size}; allowed: at most --max-size, {options.max_size}", EXIT_USAGE)
    path = options.output or f"{Path(words[0]).name}.calls.csv.gz"
    # What the program may read, itself included.
    read = [word for word in [shutil.which(words[0]) or words[0], *words[1:]] if Path(word).is_file()]
    with Output(path, read, []) as output, tempfile.TemporaryDirectory(prefix="pktalloc-record-") as folder:
        library, notes = Path(folder, "libpktalloc_record.so"), Path(folder, "notes")
        library.write_bytes(_pktalloc.recorder)
        with notes.open("w+b") as file:
            _pktalloc.begin_recording(file.fileno(), options.limit, options.min_size, options.max_size)
            try:
                status = run(words, preloading(library, notes))
            except OSError as error:
                return fail(f"{words[0]}: {error.strerror or error}", EXIT_NOT_FOUND)
            found = output.write_with(lambda fd: _pktalloc.end_recording(file.fileno(), fd, path.endswith(".gz")))
    say(path, found, options.limit)
    if options.json and (failed := write_out(json.dumps({"schema": SCHEMA, "file": path, "status": status, **found}))):
        return failed
    return status


def preloading(library: Path, notes: Path) -> dict[str, str]:
    """The environment of a program that is recorded."""
    others = [os.environ["LD_PRELOAD"]] if os.environ.get("LD_PRELOAD") else []
    return os.environ | {"LD_PRELOAD": ":".join([str(library), *others]), FILE_VARIABLE: str(notes)}


def run(words: list[str], environment: dict[str, str]) -> int:
    """Run the program to its end; its exit status as a shell has it."""
    process = subprocess.Popen(words, env=environment)
    with ignored(signal.SIGINT, signal.SIGQUIT):
        # What the terminal sends is for the program, whose end is waited for in any case.
        status = process.wait()
    return 128 - status if status < 0 else status


@contextlib.contextmanager
def ignored(*signals: signal.Signals) -> Iterator[None]:
    """Let signals pass by."""
    before = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def say(path: str, found: dict[str, int], limit: int) -> None:
    """Say what was recorded, and what was left out."""
    if not found["processes"]:
        warn(f"{path}: nothing was recorded: the program is linked statically, or may not be looked into")
        return
    processes = f"{found['processes']:,} process" + ("" if found["processes"] == 1 else "es")
    warn(
        f"{path}: {found['allocated']:,} blocks allocated, {found['resized']:,} resized, {found['freed']:,} freed, "
        f"in {processes}"
    )
    left_out = {
        "smaller": "of smaller blocks",
        "larger": "of larger blocks",
        "unknown": "of blocks whose allocation was not recorded",
        "over_limit": f"after the {limit:,} that --limit allows",
        "unfinished": "that a process did not live to finish",
    }
    parts = [f"{found[name]:,} {what}" for name, what in left_out.items() if found[name]]
    if parts:
        warn(f"{path}: left out: calls {', '.join(parts)}")
