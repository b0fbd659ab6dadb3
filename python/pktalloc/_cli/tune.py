"""Trying settings on a program, and recommending some."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from pktalloc._cli.competitors import OURS, Competitor
from pktalloc._cli.workers import Worker, shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from pktalloc._pktalloc import ReplayProgram

SCHEMA = "pktalloc-tune-1"

DEFAULT_ALIGNMENT = 64
DEFAULT_WINDOW = 128 << 10
ALIGNMENTS = (16, 32, 64, 128, 256)
WINDOWS = tuple(1 << shift for shift in range(14, 22))
"""16 KiB to 2 MiB."""
MOST_UNITS = 65536
"""The most units that a window can have."""
OTHERS: list[dict[str, int | bool]] = [
    {"keep_empty_windows": 0},
    {"keep_empty_windows": 256},
    {"preallocated_windows": 0},
    {"preallocated_windows": 16},
    {"huge_pages": True},
]
"""What is tried on top of the best shape."""

MOST_STEPS = 1 << 20
"""Longer programs are tuned on their first part: what there is to find shows there."""
FIRST_ROUNDS, LAST_ROUNDS = 3, 11
SHORTLIST = 6

FASTER, LESS_MEMORY = 0.9, 0.8
"""A setting is worth leaving the default for if it takes at most so much of its time, or so much of its memory."""
NOT_SLOWER, NOT_MORE = 1.05, 1.25
"""And if the other of the two is at most so much of the default's."""


class Trial(NamedTuple):
    """What came of a setting; times and the default's were taken in turns."""

    settings: dict[str, int | bool]
    ns: float
    """Of the fastest round, per packet or call: what others on the machine disturb least."""
    ratio: float
    """Of the default's."""
    held_bytes: int
    resident_bytes: int | None
    longest_ns: int

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**self._asdict(), "settings": full(self.settings)}


def shapes() -> list[dict[str, int | bool]]:
    """All shapes, the default one first."""
    every = [
        {"alignment": alignment, "window_bytes": window}
        for alignment in ALIGNMENTS
        for window in WINDOWS
        if window // alignment <= MOST_UNITS
    ]
    default = {"alignment": DEFAULT_ALIGNMENT, "window_bytes": DEFAULT_WINDOW}
    return [default, *(shape for shape in every if shape != default)]


def tune(
    program: ReplayProgram, facts: dict[str, Any], progress: Callable[[str, float, float], None]
) -> dict[str, Any]:
    """Try settings, and return the few worth having."""
    tried = len(program)
    if tried > MOST_STEPS:
        program = program.head(MOST_STEPS)
        tried = MOST_STEPS
    with shared(program) as file, contextlib.ExitStack() as stack:
        bench = Bench(stack, file, program.units)
        candidates = shapes()
        trials = []
        for number, settings in enumerate(candidates):
            progress("trying shapes", number, len(candidates))
            trials.append(bench.run(settings, FIRST_ROUNDS))
        listed = shortlist(trials)
        final = []
        for number, settings in enumerate(listed):
            progress("comparing", number, len(listed))
            final.append(bench.run(settings, LAST_ROUNDS))
        best = confirmed(bench, final, {})
        for number, more in enumerate(OTHERS):
            progress("trying other settings", number, len(OTHERS))
            final.append(bench.run(best.settings | more, LAST_ROUNDS))
        best = confirmed(bench, final, best.settings)
        final = [bench.judged(trial) for trial in final]
    worth = worth_having(final, best)
    return {
        "schema": SCHEMA,
        **facts,
        "unit": "packet" if facts["packets"] is not None else "call",
        "steps_tried": tried,
        "shapes_tried": len(candidates),
        "trials": [{"why": why, **trial.as_dict()} for why, trial in worth],
        "recommended": full(best.settings),
        "is_default": full(best.settings) == full({}),
        "rust": rust_line(best.settings),
        "python": python_line(best.settings),
        "reason": reason(best, final[0]),
    }


class Bench:
    """Runs settings beside the default ones, two processes at a time."""

    def __init__(self, stack: contextlib.ExitStack, file: str, units: int) -> None:
        self._file = file
        self._units = units
        self._default = stack.enter_context(Worker(Competitor(OURS), file, {}))
        self._default.ask("begin")
        self._passes: int = self._default.ask("passes")
        self._fastest_default = float("inf")

    def run(self, settings: dict[str, int | bool], rounds: int) -> Trial:
        """Try a setting."""
        with Worker(Competitor(OURS), self._file, settings) as worker:
            first = worker.ask("first_pass")
            worker.ask("begin")
            worker.ask("round", passes=self._passes)
            times, defaults = [], []
            for _ in range(rounds):
                times.append(worker.ask("round", passes=self._passes))
                defaults.append(self._default.ask("round", passes=self._passes))
        self._fastest_default = min(self._fastest_default, self._ns(defaults))
        return Trial(
            settings,
            self._ns(times),
            min(times) / min(defaults),
            first["held_bytes"],
            first["resident_bytes"],
            first["longest_ns"],
        )

    def _ns(self, seconds: list[float]) -> float:
        return min(seconds) * 1e9 / float(self._units * self._passes)

    def judged(self, trial: Trial) -> Trial:
        """A trial beside the fastest round that the default ones ever had: what disturbs it speaks for them."""
        if not changed(trial.settings):
            return trial._replace(ns=self._fastest_default, ratio=1.0)
        return trial._replace(ratio=trial.ns / self._fastest_default)


def confirmed(bench: Bench, trials: list[Trial], start: dict[str, int | bool]) -> Trial:
    """The setting to use, if it is still better than what is used without it when it is tried again."""
    again: list[dict[str, int | bool]] = []
    while True:
        judged = [bench.judged(trial) for trial in trials]
        first = next(trial for trial in judged if full(trial.settings) == full(start))
        best = recommended(judged, first)
        if best.settings in [first.settings, *again]:
            return best
        again.append(best.settings)
        place = next(place for place, trial in enumerate(trials) if trial.settings == best.settings)
        slower = max(trials[place].ns, bench.run(best.settings, LAST_ROUNDS).ns)
        trials[place] = trials[place]._replace(ns=slower)


def shortlist(trials: list[Trial]) -> list[dict[str, int | bool]]:
    """The default, and the shapes that are best at something: time, memory, or both together."""
    orders: list[Callable[[Trial], float]] = [
        lambda trial: trial.ratio,
        lambda trial: trial.held_bytes,
        lambda trial: trial.ratio * trial.held_bytes,
    ]
    # Equals in the order of the list, so that the same figures give the same answer.
    ranked = [sorted(trials[1:], key=order) for order in orders]
    chosen = [trials[0].settings]
    for row in zip(*ranked, strict=True):
        for trial in row:
            if trial.settings not in chosen and len(chosen) < 1 + SHORTLIST:
                chosen.append(trial.settings)
    return chosen


def recommended(trials: list[Trial], start: Trial) -> Trial:
    """The setting to use: `start`, unless another is clearly better at one thing and not much worse at the other.

    What counts as better is far more than what two runs differ by; memory is the same in every run.
    """
    best = start
    for trial in sorted(trials, key=lambda trial: (trial.held_bytes, sorted(trial.settings.items()))):
        time, memory = trial.ratio / best.ratio, trial.held_bytes / best.held_bytes
        if (memory <= LESS_MEMORY and time <= NOT_SLOWER) or (time <= FASTER and memory <= NOT_MORE):
            best = trial
    return best


def worth_having(trials: list[Trial], best: Trial) -> list[tuple[str, Trial]]:
    """The few to show, each with what it is best at."""
    rows: list[tuple[str, Trial]] = []
    for why, trial in [
        ("recommended", best),
        ("default", trials[0]),
        ("fastest", min(trials, key=lambda trial: trial.ratio)),
        ("least memory", min(trials, key=lambda trial: trial.held_bytes)),
        ("shortest longest call", min(trials, key=lambda trial: trial.longest_ns)),
    ]:
        place = next((place for place, (_, other) in enumerate(rows) if other.settings == trial.settings), None)
        if place is None:
            rows.append((why, trial))
        else:
            rows[place] = (f"{rows[place][0]}, {why}", rows[place][1])
    return rows


def full(settings: dict[str, int | bool]) -> dict[str, int | bool]:
    """Settings with the shape in any case."""
    return {"alignment": DEFAULT_ALIGNMENT, "window_bytes": DEFAULT_WINDOW, **settings}


def changed(settings: dict[str, int | bool]) -> dict[str, int | bool]:
    """What is not the default."""
    default = full({})
    return {name: value for name, value in settings.items() if default.get(name) != value}


def rust_line(settings: dict[str, int | bool]) -> str:
    """The line for a Rust program."""
    values = full(settings)
    calls = "".join(
        f".{name}({str(value).lower()})"
        for name, value in settings.items()
        if name not in {"alignment", "window_bytes"}
    )
    unit, units = values["alignment"], values["window_bytes"] // values["alignment"]
    if not changed(settings):
        return "let allocator = pktalloc::Allocator::new();"
    if not calls:
        return f"let allocator = pktalloc::Allocator::<{unit}, {units}>::default();"
    shape = "" if (unit, values["window_bytes"]) == (DEFAULT_ALIGNMENT, DEFAULT_WINDOW) else f"::<{unit}, {units}>"
    return f"let allocator = pktalloc::Allocator{shape}::with_config(pktalloc::Config::default(){calls})?;"


def python_line(settings: dict[str, int | bool]) -> str:
    """The line for a Python program."""
    return (
        f"allocator = pktalloc.Allocator({', '.join(f'{name}={value}' for name, value in changed(settings).items())})"
    )


def reason(best: Trial, default: Trial) -> str:
    """Why it is recommended."""
    if not changed(best.settings):
        return (
            "The defaults are the best here: nothing that was tried takes a tenth less time, or holds a fifth less "
            f"memory, without being much worse at the other. They take {default.ns:.1f} ns and hold "
            f"{default.held_bytes:,} bytes."
        )
    time, memory = best.ratio / default.ratio, best.held_bytes / default.held_bytes
    return (
        f"{words(time)} the time of the defaults and {words(memory)} their memory: "
        f"{best.ns:.1f} ns, {best.held_bytes:,} bytes instead of {default.held_bytes:,}."
    )


def words(ratio: float) -> str:
    """A ratio as a percentage."""
    return f"{ratio:.0%} of"
