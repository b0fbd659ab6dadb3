"""The example programs run, check their own results, and end with a line that says what happened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.skipif(sys.platform != "linux", reason="the examples use datagrams in batches, which Linux has")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(example)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"{example.stem}: ")
