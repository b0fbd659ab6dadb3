"""Loading, measuring, and the verdict."""

from __future__ import annotations

import contextlib
import statistics
import sys
from typing import TYPE_CHECKING, Any

from pktalloc import _pktalloc
from pktalloc._cli.competitors import LOOP, MALLOC, OURS, Competitor
from pktalloc._cli.workers import Worker, WorkerError, shared

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from pktalloc._cli.progress import ProgressBar

SCHEMA = "pktalloc-replay-2"
"""The version of what `--json` prints: raised when a key changes its meaning or goes."""

DEFAULT_ROUNDS = 21
"""Enough for quartiles."""
LEAST_ROUNDS = 5
SECONDS_OF_ROUNDS = 10.0
"""How long all rounds may last for there to be more than the least."""
NOTABLE_RATIO = 1.05
"""Below this ratio of medians two count as equal: what a shared machine moves by between two runs."""

MOST_WINDOWS = 200
"""How many a page shows."""

STANDARD_INPUT = "standard input"


def load(options: argparse.Namespace, progress: ProgressBar) -> tuple[_pktalloc.ReplayProgram, dict[str, Any]]:
    """Read the file and lay out its replay."""
    name, fd = options.file, None
    if name == "-":
        if sys.stdin is None:
            message = f"{STANDARD_INPUT}: it is closed"
            raise ValueError(message)
        name, fd = STANDARD_INPUT, sys.stdin.fileno()
    program, facts = _pktalloc.load(
        name,
        fd=fd,
        strict=options.strict,
        depth=options.depth,
        delay_ms=options.delay,
        link=options.link,
        copies=options.copies,
        progress=progress,
    )
    return program, {"file": name, **facts}


def measure(  # noqa: PLR0913 - what is not the program and its rivals is named at the call
    program: _pktalloc.ReplayProgram,
    facts: dict[str, Any],
    competitors: list[Competitor],
    settings: dict[str, int | bool],
    *,
    rounds: int | None,
    progress: ProgressBar,
    want_map: bool = False,
    want_page: bool = False,
) -> dict[str, Any]:
    """Run a program on pktalloc and on its competitors, and return what was found."""
    left_out: list[dict[str, str]] = []
    with shared(program) as file, contextlib.ExitStack() as stack:
        workers: list[Worker] = []
        found: list[dict[str, Any]] = []
        # One at a time, and memory first: nothing was allocated in its process before.
        for competitor in [Competitor(OURS), *competitors]:
            try:
                worker = stack.enter_context(Worker(competitor, file, settings))
                found.append(worker.ask("first_pass", step_of(f"checking {competitor.name}", progress)))
                worker.ask("begin")
                workers.append(worker)
            except WorkerError as error:
                left_out.append({"name": competitor.name, "why": str(error)})
        if len(workers) == 1:
            message = "; ".join(f"{one['name']}: {one['why']}" for one in left_out)
            raise RuntimeError(message or "there is nothing to compare with")
        loop = stack.enter_context(Worker(Competitor(LOOP), file, {}))
        picture = workers[0].ask("map", most=None)[0] if want_map else None
        page_map = workers[0].ask("map", most=MOST_WINDOWS) if want_page else None
        passes = workers[0].ask("passes")
        timed = [*workers, loop]
        # A round off the record: each has its memory by the time that counts, and the length of a round is known.
        seconds = sum(worker.ask("round", passes=passes) for worker in timed)
        if rounds is None:
            rounds = min(DEFAULT_ROUNDS, max(LEAST_ROUNDS, int(SECONDS_OF_ROUNDS / max(seconds, 1e-9))))
        times: list[list[float]] = [[] for _ in timed]
        for number in range(rounds):
            for place, (worker, column) in enumerate(zip(timed, times, strict=True)):
                progress("timing", number + place / len(timed), rounds)
                column.append(worker.ask("round", passes=passes) * 1e9 / (program.units * passes))
    allocators = [
        {
            "name": worker.competitor.name,
            "library": worker.competitor.library,
            "ns": spread(column),
            "speedup": None
            if worker is workers[0]
            else spread([other / own for own, other in zip(times[0], column, strict=True)]),
            "held_bytes": first["held_bytes"],
            "resident_bytes": first["resident_bytes"],
            "longest_ns": first["longest_ns"],
            "longest_call": first["longest_call"],
            "moments": first["moments"],
        }
        for worker, column, first in zip(workers, times, found, strict=False)
    ]
    result = {
        "schema": SCHEMA,
        **facts,
        "verified": program.units,
        "settings": settings,
        "rounds": rounds,
        "passes_per_round": passes,
        "unit": "packet" if facts["packets"] is not None else "call",
        "allocators": allocators,
        "loop_ns": spread(times[-1]),
        "left_out": left_out,
    }
    if picture is not None:
        result["map"] = picture
    if page_map is not None:
        result["page_map"] = page_map
    return result | verdict(result)


def step_of(phase: str, progress: ProgressBar) -> Callable[[str, int, int], None]:
    """Report the progress of a worker as that of a phase of its own."""
    return lambda _, done, total: progress(phase, done, total)


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles; between two values where none is in the middle."""
    if len(values) == 1:
        return dict.fromkeys(("median", "low", "high"), values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def verdict(result: dict[str, Any]) -> dict[str, str]:
    """Who is the fastest of the others, whether pktalloc is faster, and the sentence that says so."""
    ours, *others = result["allocators"]
    best = min(others, key=lambda one: one["ns"]["median"])
    own, other = ours["ns"]["median"], best["ns"]["median"]
    ratio = other / own
    if best["speedup"]["low"] > 1 and ratio > NOTABLE_RATIO:
        winner = OURS
    elif best["speedup"]["high"] < 1 and ratio < 1 / NOTABLE_RATIO:
        winner = best["name"]
    else:
        winner = "equal"
    rival = title(best["name"]) + (", the fastest of the others," if len(others) > 1 else "")
    figures = f"{own:.1f} against {other:.1f} ns per {result['unit']}"
    if winner == OURS:
        sentence = f"pktalloc is {times(ratio)} times as fast as {rival} on this traffic: {figures}"
    elif winner == "equal":
        figures = figures.replace("against", "and")
        if 1 / NOTABLE_RATIO <= ratio <= NOTABLE_RATIO:
            sentence = f"This run shows no difference between pktalloc and {rival} on this traffic: {figures}"
        else:
            sentence = f"The rounds disagree whether pktalloc or {rival} is faster on this traffic: {figures}"
    else:
        figures = f"{other:.1f} against {own:.1f} ns per {result['unit']}"
        sentence = f"{capital(rival)} is {times(1 / ratio)} times as fast as pktalloc on this traffic: {figures}"
    memory = memory_sentence(ours, best)
    return {
        "best": best["name"],
        "winner": winner,
        "verdict": f"{sentence}. The calls come from native code; a Python program spends more around them.{memory}",
    }


def memory_sentence(ours: dict[str, Any], best: dict[str, Any]) -> str:
    """How much memory the two took."""
    own, other = ours["resident_bytes"], best["resident_bytes"]
    if own is None or other is None:
        return ""
    return f" At most {own:,} bytes of memory were in use with pktalloc, {other:,} with {best['name']}."


def times(ratio: float) -> str:
    """A ratio above 1 that is not rounded to 1."""
    return f"{ratio:.2f}" if ratio < 1.95 else f"{ratio:.1f}"


def title(name: str) -> str:
    """The name of an allocator in a sentence."""
    return "the system's malloc" if name == MALLOC else name


def capital(text: str) -> str:
    """The same with a capital at the start, unless it is a name."""
    return text[0].upper() + text[1:] if text.startswith("the ") else text
