"""The command `pktalloc record`: what programs of several kinds leave in a call trace."""

import collections
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from c_programs import compiler_for
from pktalloc import _pktalloc

if _pktalloc.recorder is None:
    pytest.skip("programs are recorded on Linux only", allow_module_level=True)

COMMAND = [sys.executable, "-m", "pktalloc"]

PROGRAM = Path(__file__).with_name("record_program.c")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = compiler_for("a program")
    folder = tmp_path_factory.mktemp("record")
    built = folder / "program"
    subprocess.run([compiler, "-O1", "-fno-builtin", "-pthread", "-o", built, PROGRAM], check=True)
    return built


Record = Callable[..., tuple[dict[str, Any], collections.Counter[tuple[str, str]], subprocess.CompletedProcess[str]]]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    def run(
        *words: object, options: tuple[object, ...] = ()
    ) -> tuple[dict[str, Any], collections.Counter[tuple[str, str]], subprocess.CompletedProcess[str]]:
        """The summary, how often there is each call with each size, and what the command said."""
        trace = tmp_path / "trace.csv.gz"
        command = [*COMMAND, "record", "--json", "-o", trace, *options, "--", *words]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        rows = gzip.decompress(trace.read_bytes()).decode().splitlines()
        assert rows[0] == "# call,allocator,block,size"
        calls = collections.Counter((row.split(",")[0], row.split(",")[3]) for row in rows[1:])
        # Whatever happened, it is a trace that can be read.
        _, facts = _pktalloc.load(trace)
        assert facts["calls"]["allocate"] == sum(count for (call, _), count in calls.items() if call == "allocate")
        return json.loads(done.stdout.splitlines()[-1]), calls, done

    return run


def test_the_calls_of_a_program_are_recorded(program: Path, record: Record) -> None:
    summary, calls, done = record(program)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "done")
    assert calls["allocate", "1003"] == calls["reallocate_copy", "2003"] == 1
    assert calls["allocate", str(17 * 61)] == 1
    # What aligned_alloc, memalign and posix_memalign returned.
    assert [calls["allocate", size] for size in ("1088", "1281", "1153")] == [1, 1, 1]
    assert calls["new", ""] == calls["drop", ""] == 1
    assert (summary["schema"], summary["status"], summary["processes"]) == ("pktalloc-record-1", 0, 1)
    assert summary["smaller"] >= 1
    assert summary["larger"] == 1
    assert summary["allocated"] == sum(count for (call, _), count in calls.items() if call == "allocate")
    assert "left out: calls " in done.stderr


def test_threads_lose_nothing(program: Path, record: Record) -> None:
    summary, calls, done = record(program, "threads")
    assert done.returncode == 0
    assert calls["allocate", "1001"] == 80_000
    assert summary["unfinished"] == summary["over_limit"] == 0


def test_a_fork_and_another_program_are_allocators_of_their_own(program: Path, record: Record) -> None:
    summary, calls, done = record(program, "fork")
    assert (done.returncode, summary["processes"]) == (0, 2)
    assert calls["allocate", "1001"] == 10_000
    # The child frees what its parent allocated.
    assert summary["unknown"] >= 1
    summary, calls, done = record(program, "exec")
    assert (done.returncode, summary["processes"]) == (0, 2)
    assert calls["allocate", "1003"] == calls["new", ""] == calls["drop", ""] == 2


@pytest.mark.parametrize(("what", "ended_by"), [("crash", signal.SIGABRT), ("kill", signal.SIGKILL)])
def test_what_a_program_did_before_it_died_is_there(
    program: Path, record: Record, what: str, ended_by: signal.Signals
) -> None:
    summary, calls, done = record(program, what)
    assert done.returncode == summary["status"] == 128 + ended_by
    assert calls["allocate", "1003"] == calls["reallocate_copy", "2003"] == 1


def test_sizes_and_the_number_of_calls_are_bounded(program: Path, record: Record) -> None:
    summary, calls, done = record(program, "threads", options=("--limit", "1000"))
    assert done.returncode == 0
    assert sum(calls.values()) <= 1002
    assert summary["over_limit"] > 150_000
    assert "after the 1,000 that --limit allows" in done.stderr
    _, calls, _ = record(program, options=("--min-size", "1038", "--max-size", "2K"))
    assert calls["allocate", "1003"] == calls["allocate", str(17 * 61)] == 0
    # It grew into what is recorded.
    assert calls["allocate", "2003"] == 1


def test_the_status_of_the_program_is_passed_on(program: Path, record: Record, tmp_path: Path) -> None:
    assert record(program, "status")[2].returncode == 3
    cases: list[tuple[list[object], int, str]] = [
        (["--", tmp_path / "absent"], 127, "No such file or directory"),
        (["--"], 2, "no command to record"),
        (["--min-size", "2K", "--max-size", "1K", "--", "true"], 2, "--min-size is 2048"),
        (["-o", tmp_path / "absent" / "file", "--", "true"], 2, "No such file or directory"),
    ]
    for words, status, said in cases:
        done = subprocess.run(
            [*COMMAND, "record", *map(str, words)], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["trace.csv.gz"]


def test_the_program_and_what_it_reads_are_not_overwritten(program: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_text("kept")
    before = program.read_bytes()
    for output in program, data:
        done = subprocess.run(
            [*COMMAND, "record", "-o", output, "--", program, data], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"pktalloc: {output}: it is an input, which is not overwritten\n"
    assert (program.read_bytes(), data.read_text()) == (before, "kept")


def test_a_python_program_is_recorded_and_replayed(record: Record, tmp_path: Path) -> None:
    code = "for n in range(2000): b = bytearray(1400); b += bytes(1000)"
    _, calls, done = record(sys.executable, "-c", code)
    assert done.returncode == 0
    # From Python 3.15 on the bytes of a `bytearray` are those of a `bytes` object, which has a header.
    header = sys.getsizeof(b"")
    sizes = range(1400, 1411 + header)
    assert sum(count for (call, size), count in calls.items() if call == "allocate" and int(size) in sizes) >= 2000
    replayed = subprocess.run(
        [*COMMAND, "replay", tmp_path / "trace.csv.gz", "--rounds", "1", "--allocators", "malloc", "--json"],
        capture_output=True,
        check=True,
    )
    assert json.loads(replayed.stdout)["format"] == "calls"


def test_an_interrupt_is_for_the_program(tmp_path: Path) -> None:
    code = (
        "import signal, sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "print('ready', flush=True)\nsignal.sigwait([signal.SIGINT])\nsys.exit(5)"
    )
    process = subprocess.Popen(
        [*COMMAND, "record", "-o", tmp_path / "trace.csv", "--", sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 5
    process.stdout.close()
    assert (tmp_path / "trace.csv").read_text().startswith("# call,allocator,block,size\nnew,")
