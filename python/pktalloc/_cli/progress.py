"""The progress bar."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

SECONDS_BEFORE_BAR = 1.0
"""What is over sooner needs no progress bar."""
SECONDS_BETWEEN_BARS = 0.1


class ProgressBar:
    """Shows how far the work is, on a terminal, once it has taken a second.

    The bar is drawn from the calls that report progress, without a thread.
    """

    def __init__(self) -> None:
        self._visible = sys.stderr is not None and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._phase = ""
        self._next_draw = time.monotonic() + SECONDS_BEFORE_BAR

    def __call__(self, phase: str, done: float, total: float) -> None:
        """Draw if it is time to."""
        now = time.monotonic()
        if not self._visible or now < self._next_draw:
            return
        self._next_draw = now + SECONDS_BETWEEN_BARS
        if self._progress is None:
            columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
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
            self._progress = None
