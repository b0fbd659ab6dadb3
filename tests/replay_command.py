"""What the tests of `pktalloc replay` use: the command, with and without a terminal, and small inputs."""

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pktalloc import _pktalloc

COMMAND = [sys.executable, "-m", "pktalloc", "replay"]

PACKETS = "# dt_us,size\n" + "1,1400\n2,60\n" * 50

LINK = "# dt_ms,count\n0,1\n5,2\n"

# Enough rounds for the bar, which waits a second: one of them takes 10 ms at least, for each of three.
LONG = ["--rounds", "60", "--allocators", "malloc"]

FAST = ["--rounds", "1", "--allocators", "malloc"]

QUICK = [*COMMAND, *FAST]


def run(
    *arguments: object, environment: dict[str, str] | None = None, stdin: bytes | None = None, **how: Any
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        env=os.environ | (environment or {}),
        **how,
    )
    out, err = (text.decode().replace(os.linesep, "\n") for text in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def replay_json(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--rounds", 1, "--allocators", "malloc", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def pcap(*sizes: int) -> bytes:
    records = [struct.pack("<4I", second, 0, 0, size) for second, size in enumerate(sizes)]
    return b"".join([struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1), *records])


def load(path: Path, **options: Any) -> tuple[_pktalloc.ReplayProgram, dict[str, Any]]:
    return _pktalloc.load(path, **options)


class Terminal:
    """A replay whose error output is a terminal; its output is discarded."""

    def __init__(self, *arguments: object, command: str = "replay") -> None:
        pty = pytest.importorskip("pty", reason="a terminal that a test can read is had from pty")
        self.screen, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
        # A shell has what runs in its background ignore interrupts, and so would all that this starts.
        ours = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [*COMMAND[:-1], command, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=theirs, env=environment
        )
        signal.signal(signal.SIGINT, ours)
        os.close(theirs)

    def read_until(self, word: bytes | None) -> bytes:
        """What is on the screen up to a word, or to the end."""
        text = b""
        while word is None or word not in text:
            try:
                more = os.read(self.screen, 4096)
            except OSError:  # how Linux says that the other side is closed
                break
            if not more:
                break
            text += more
        return text

    def finish(self) -> tuple[bytes, int]:
        """The rest of the screen, and the exit status."""
        text = self.read_until(None)
        os.close(self.screen)
        return text, self.process.wait()
