"""Files that are written: never an input, and tried before the work begins."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")

BINARY = getattr(os, "O_BINARY", 0)
"""What is written comes from native code: Windows would change the ends of lines."""
NONBLOCK = getattr(os, "O_NONBLOCK", 0)
"""Where there are pipes in the file system, to open one must not wait for its reader."""


class Output:
    """A file that is opened before the work and written after it.

    What was in it stays until then; a file that was not there is removed again if nothing is written.
    """

    def __init__(self, path: str, inputs: list[str], others: list[str]) -> None:
        """Open the file, or raise a `ValueError` that names it."""
        self.path = path
        for other in inputs:
            if same_file(path, other):
                message = f"{path}: it is an input, which is not overwritten"
                raise ValueError(message)
        for other in others:
            if same_file(path, other) or Path(path).absolute() == Path(other).absolute():
                message = f"{path}: named for two outputs"
                raise ValueError(message)
        self._made = False
        try:
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
                self._made = True
            except FileExistsError:
                # Not truncated before there is something to write. A pipe without a reader is refused.
                self._fd = os.open(path, os.O_WRONLY | NONBLOCK | BINARY)
        except OSError as error:
            raise unwritable(path, error) from error
        self._written = False

    def write(self, text: str) -> None:
        """Replace what was in the file."""

        def fill(fd: int) -> None:
            with open(fd, "w", encoding="utf-8", closefd=False) as file:
                file.write(text)

        self.write_with(fill)

    def write_with(self, fill: Callable[[int], T]) -> T:
        """Replace what was in the file by what a function writes to its descriptor."""
        try:
            if stat.S_ISREG(os.fstat(self._fd).st_mode):
                os.ftruncate(self._fd, 0)
            if NONBLOCK:
                os.set_blocking(self._fd, True)
            result = fill(self._fd)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._written = True
        return result

    def __enter__(self) -> Self:
        """Nothing more to do: it is open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        os.close(self._fd)
        if self._made and not self._written:
            with contextlib.suppress(OSError):
                Path(self.path).unlink()


def unwritable(path: str, error: OSError) -> ValueError:
    """What to say of a file that cannot be written."""
    return ValueError(f"{path}: {error.strerror or error}")


def same_file(first: str, second: str) -> bool:
    """Whether two names lead to one file."""
    try:
        return Path(first).samefile(second)
    except (OSError, ValueError):
        return False


def refuse_output_onto(inputs: list[str]) -> None:
    """Refuse inputs that the standard output goes to: what is printed would end up in them."""
    if sys.stdout is None:
        return
    try:
        output = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return
    for path in inputs:
        try:
            same = stat.S_ISREG(output.st_mode) and os.path.samestat(output, Path(path).stat())
        except (OSError, ValueError):
            continue
        if same:
            message = f"{path}: it is also the standard output, and inputs are not overwritten"
            raise ValueError(message)
