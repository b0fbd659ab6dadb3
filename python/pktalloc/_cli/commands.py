"""What the commands do, and how they end."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from pktalloc._cli import arguments, outputs, tables
from pktalloc._cli.competitors import chosen
from pktalloc._cli.exits import EXIT_BROKEN_PIPE, EXIT_FAILURE, EXIT_USAGE, fail, silence, warn, write_out
from pktalloc._cli.progress import ProgressBar
from pktalloc._cli.record import record
from pktalloc._cli.replay import load, measure
from pktalloc._cli.tune import tune as try_settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from pktalloc._pktalloc import ReplayProgram


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
        return {"replay": replay, "tune": tune, "record": record}[options.command](options)
    except ModuleNotFoundError:
        raise
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
    with prepared(options, {"map": options.map, "report": options.report}) as (bar, files):
        if "report" in files:
            pages()
        competitors = chosen(options.allocators)
        program, facts = loaded(options, bar)
        result = measure(
            program,
            facts,
            competitors,
            arguments.settings(options),
            rounds=options.rounds,
            progress=bar,
            want_map="map" in files,
            want_page="report" in files,
        )
        bar.close()
        picture, page_map = result.pop("map", ""), result.pop("page_map", None)
        moments = [allocator.pop("moments") for allocator in result["allocators"]]
        status = write_out(json.dumps(result) if options.json else tables.replay(result))
        if "map" in files:
            files["map"].write(picture)
        if "report" in files:
            files["report"].write(pages().replay_page(result, program.profile(), moments, page_map))
    return status


def tune(options: argparse.Namespace) -> int:
    """The command `tune`."""
    with prepared(options, {"report": options.report}) as (bar, files):
        if "report" in files:
            pages()
        program, facts = loaded(options, bar)
        result = try_settings(program, facts, bar)
        bar.close()
        status = write_out(json.dumps(result) if options.json else tables.tune(result))
        if "report" in files:
            files["report"].write(pages().tune_page(result, program.profile()))
    return status


@contextlib.contextmanager
def prepared(
    options: argparse.Namespace, named: dict[str, str | None]
) -> Iterator[tuple[ProgressBar, dict[str, outputs.Output]]]:
    """A bar, and the files to write: none of them an input, and all of them open."""
    if sys.stdout is None:
        message = "standard output: it is closed"
        raise RuntimeError(message)
    read = inputs(options)
    outputs.refuse_output_onto(read)
    wanted = {name: path for name, path in named.items() if path is not None}
    with contextlib.ExitStack() as stack:
        files: dict[str, outputs.Output] = {}
        for name, path in wanted.items():
            files[name] = stack.enter_context(outputs.Output(path, read, [file.path for file in files.values()]))
        bar = ProgressBar()
        stack.callback(bar.close)
        yield bar, files


def pages() -> ModuleType:
    """What writes pages: loaded when there is one to write, since the charts take their time."""
    return importlib.import_module("pktalloc._cli.report")


def loaded(options: argparse.Namespace, bar: ProgressBar) -> tuple[ReplayProgram, dict[str, Any]]:
    """What the file holds; what is wrong with its end is said at once."""
    program, facts = load(options, bar)
    for note in facts["notes"]:
        bar.close()
        warn(f"{facts['file']}: {note}")
    return program, facts
