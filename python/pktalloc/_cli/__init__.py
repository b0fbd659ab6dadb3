"""The command line: `pktalloc replay FILE` and its sisters.

- `arguments`: what the command understands; `commands`: what it does, and how it ends;
- `replay`: loading, measuring, and the verdict; `tables`: how that looks on a terminal;
- `workers`, `worker`: each allocator runs in a process of its own; `competitors`: which there are on this machine;
- `tune`: settings; `report`: the page with pictures;
- `outputs`, `progress`, `exits`: files that are written, the bar, and how failures are said.

`main` is all that is loaded at first: an interrupt during the rest of the imports is caught, and what is not installed
is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pktalloc._cli.exits import EXIT_FAILURE, EXIT_INTERRUPTED, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTRA = ("pygal", "rich")
"""What the extra `cli` brings."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        try:
            from pktalloc._cli.commands import run  # noqa: PLC0415 - see above
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in EXTRA:
                raise
            return fail(f"the command line needs the package {error.name}: pip install 'pktalloc[cli]'", EXIT_FAILURE)
        return run(arguments)
    except KeyboardInterrupt:
        return fail("interrupted", EXIT_INTERRUPTED)
