"""What the commands do, and how they end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING

from pktalloc._cli import arguments, outputs, tables
from pktalloc._cli.competitors import chosen
from pktalloc._cli.exits import EXIT_BROKEN_PIPE, EXIT_FAILURE, EXIT_USAGE, fail, silence, warn, write_out
from pktalloc._cli.progress import ProgressBar
from pktalloc._cli.replay import load, measure

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def run(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(words)
    if isinstance(options, int):
        return options
    # A file's name may hold what the terminal cannot say.
    for stream in sys.stdout, sys.stderr:
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        return {"replay": replay}[options.command](options)
    except ValueError as error:
        return fail(error, EXIT_USAGE)
    except MemoryError as error:
        return fail(str(error) or "there is no memory", EXIT_FAILURE)
    except (RuntimeError, OSError) as error:
        return fail(error, EXIT_FAILURE)


def parse(words: Sequence[str] | None) -> argparse.Namespace | int:
    """The options, or the exit status of what ends here: help, the version, a mistake."""
    try:
        try:
            return arguments.parser().parse_args(words)
        except SystemExit as end:
            # What was printed may not have gone out yet.
            if sys.stdout is not None:
                sys.stdout.flush()
            return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        silence(sys.stdout)
        return EXIT_BROKEN_PIPE
    except OSError as error:
        silence(sys.stdout)
        return fail(f"standard output: {error.strerror or error}", EXIT_FAILURE)


def inputs(options: argparse.Namespace) -> list[str]:
    """The files that are read."""
    named = [options.file, options.link]
    files = [name for name in named if name is not None and name != "-"]
    return [*files, "/dev/stdin"] if options.file == "-" and os.path.exists("/dev/stdin") else files  # noqa: PTH110


def replay(options: argparse.Namespace) -> int:
    """The command `replay`."""
    if sys.stdout is None:
        return fail("standard output: it is closed", EXIT_FAILURE)
    read = inputs(options)
    outputs.refuse_output_onto(read)
    with contextlib.ExitStack() as stack:
        map_file = stack.enter_context(outputs.Output(options.map, read, [])) if options.map is not None else None
        bar = ProgressBar()
        stack.callback(bar.close)
        competitors = chosen(options.allocators)
        program, facts = load(options, bar)
        for note in facts["notes"]:
            bar.close()
            warn(f"{facts['file']}: {note}")
        result = measure(
            program,
            facts,
            competitors,
            arguments.settings(options),
            rounds=options.rounds,
            progress=bar,
            want_map=map_file is not None,
        )
        bar.close()
        picture = result.pop("map", None)
        moments = [allocator.pop("moments") for allocator in result["allocators"]]
        del moments
        status = write_out(json.dumps(result) if options.json else tables.replay(result))
        if map_file is not None and picture is not None:
            map_file.write(picture)
    return status
