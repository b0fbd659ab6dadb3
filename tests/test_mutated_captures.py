"""The reader of captures beside scapy's: a few of the damaged files that `scripts/mutate_captures.py` makes."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("scapy", reason="compares with scapy: pip install scapy")

SCRIPT = Path(__file__).parents[1] / "scripts" / "mutate_captures.py"


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_read_is_what_scapy_reads_or_is_said_to_be_left_out(seed: int) -> None:
    command = [sys.executable, str(SCRIPT), "--mutations", "1000", "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 disagreements" in done.stdout
