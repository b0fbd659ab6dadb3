"""The process of one allocator: `python -m pktalloc._cli.worker`.

It takes a line of JSON for each thing to do and answers with lines of JSON: `progress`, then `result` or `error`. The
first thing to do names the program's file and the allocator. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from pktalloc._pktalloc import ReplayProgram, ReplayRunner


def answer(**what: Any) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def progress(phase: str, done: int, total: int) -> None:
    """Say how far it is."""
    answer(progress=[phase, done, total])


def serve() -> None:
    """Do what the input says."""
    runner: ReplayRunner | None = None
    for line in sys.stdin:
        task = json.loads(line)
        try:
            if task["do"] == "start":
                fd = os.open(task["program"], os.O_RDONLY | getattr(os, "O_BINARY", 0))
                program = ReplayProgram.read(fd)
                os.close(fd)
                runner = ReplayRunner(program, task["allocator"], **task["settings"])
                result: object = None
            elif runner is None:
                continue
            elif task["do"] == "first_pass":
                result = runner.first_pass(progress)
            elif task["do"] == "begin":
                runner.begin()
                result = None
            elif task["do"] == "passes":
                result = runner.passes_per_round()
            elif task["do"] == "map":
                windows, count = runner.windows_at_peak(task["most"])
                result = windows.to_svg(), count
            else:
                result = runner.round(task["passes"])
        except (ValueError, MemoryError, RuntimeError, OSError) as error:
            answer(error=str(error) or "there is no memory", kind=type(error).__name__)
        else:
            answer(result=result)


if __name__ == "__main__":
    # The one who started this decides when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve()
