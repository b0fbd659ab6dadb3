"""Processes that run one allocator each, seen from the one that asks them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pktalloc._cli.competitors import OURS, Competitor, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from pktalloc._pktalloc import ReplayProgram

COMMAND = [sys.executable, "-m", "pktalloc._cli.worker"]


class WorkerError(Exception):
    """An allocator that could not run the program: not the fault of the file or of an option."""


@contextlib.contextmanager
def shared(program: ReplayProgram) -> Iterator[str]:
    """The name of a file that holds the program for other processes, in memory where the system has such files."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):  # noqa: PTH112
        fd = os.memfd_create("pktalloc-replay")
        try:
            program.write(fd)
            yield f"/proc/{os.getpid()}/fd/{fd}"
        finally:
            os.close(fd)
    else:
        # Closed before others open it, which Windows wants.
        with tempfile.TemporaryDirectory(prefix="pktalloc-replay-") as folder:
            path = Path(folder, "program")
            with path.open("wb") as file:
                program.write(file.fileno())
            yield str(path)


class Worker:
    """A process that runs one allocator."""

    def __init__(self, competitor: Competitor, program: str, settings: dict[str, Any]) -> None:
        """Start the process; `settings` are those of pktalloc."""
        self.competitor = competitor
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            # An interrupt from the terminal is for the one who started it.
            process_group=0,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        try:
            self.ask(
                "start",
                program=program,
                allocator=competitor.library or competitor.name,
                settings=settings if competitor.name == OURS else {},
            )
        except BaseException:
            self.close()
            raise

    def ask(self, task: str, progress: Callable[[str, int, int], None] | None = None, **details: Any) -> Any:
        """Have something done, and return what came of it."""
        if self._process.stdin is None or self._process.stdout is None:
            raise self._ended()
        try:
            self._process.stdin.write(json.dumps({"do": task, **details}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error
        for line in self._process.stdout:
            answer = json.loads(line)
            if "progress" in answer:
                if progress is not None:
                    progress(*answer["progress"])
            elif "error" in answer:
                raise self._failure(answer["kind"], answer["error"])
            else:
                return answer["result"]
        raise self._ended()

    def _failure(self, kind: str, text: str) -> Exception:
        if self.competitor.name != OURS:
            return WorkerError(text)
        return {"MemoryError": MemoryError, "ValueError": ValueError}.get(kind, RuntimeError)(text)

    def _ended(self) -> Exception:
        status = self._process.wait()
        how = f"status {status}"
        if status < 0:
            # A real-time signal has no name.
            with contextlib.suppress(ValueError):
                how = signal.Signals(-status).name
        text = f"the process of {self.competitor.name} ended with {how}"
        return RuntimeError(text) if self.competitor.name == OURS else WorkerError(text)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in self._process.stdin, self._process.stdout:
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def __enter__(self) -> Self:
        """Nothing more to do: it runs."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()
