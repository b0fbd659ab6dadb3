"""Exit statuses, and how a failure is said: in one line on the error output, if there is one."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

EXIT_FAILURE = 1
"""An allocator failed, there was no memory, or the output could not be written."""
EXIT_USAGE = 2
"""The file or an option is to blame."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""As from a program that the signal ended: 128 and the signal's number."""


def warn(what: object) -> None:
    """Say something in one line on the error output."""
    # Where it is closed `print` would take the standard output, and where it is full there is nobody to tell.
    if sys.stderr is None:
        return
    try:
        print("pktalloc:", " ".join(str(what).splitlines()), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)


def fail(what: object, status: int) -> int:
    """Say in one line what went wrong, and return the exit status."""
    warn(what)
    return status


def silence(stream: TextIO) -> None:
    """Let what is left in a stream that cannot be written go nowhere: the interpreter's end then says no more."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def write_out(text: str) -> int:
    """Print a text, all of it, and return the exit status."""
    if sys.stdout is None:
        return fail("standard output: it is closed", EXIT_FAILURE)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence(sys.stdout)
        return EXIT_BROKEN_PIPE
    except OSError as error:
        silence(sys.stdout)
        return fail(f"standard output: {error.strerror or error}", EXIT_FAILURE)
    return 0
