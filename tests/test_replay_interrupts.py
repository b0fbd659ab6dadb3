"""`pktalloc replay` while it runs: its bar, and what ends it at any moment."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pktalloc import _pktalloc
from pktalloc._cli import progress as _cli_progress
from processor_time import scheduled
from replay_command import COMMAND, LONG, Terminal, load, pcap, run


def test_a_long_replay_shows_a_bar_on_a_terminal(trace: Path) -> None:
    text, status = Terminal(trace, *LONG).finish()
    assert status == 0
    assert re.search(rb"timing.*\d+%", text), text
    assert text.endswith(b"\x1b[2K"), "the bar is taken off the screen"


def test_the_bar_waits_for_a_second(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = _cli_progress.ProgressBar()
    bar("timing", 1, 2)
    now = 100.9
    bar("timing", 1, 2)
    assert capsys.readouterr().err == ""
    now = 101.1
    bar("timing", 1, 2)
    assert "timing" in capsys.readouterr().err
    bar.close()


def test_without_a_terminal_there_is_no_bar(trace: Path) -> None:
    done = run(trace, *LONG)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_ends_it_with_one_line(trace: Path) -> None:
    terminal = Terminal(trace, "--rounds", 1_000_000)
    assert b"timing" in terminal.read_until(b"timing")
    terminal.process.send_signal(signal.SIGINT)
    text, status = terminal.finish()
    assert status == 130
    assert text.endswith(b"pktalloc: interrupted\r\n")
    assert b"Traceback" not in text


def test_progress_is_reported_and_may_end_the_replay(trace: Path) -> None:
    phases = []
    program, _ = load(trace, progress=lambda phase, _done, _total: phases.append(phase))
    runner = _pktalloc.ReplayRunner(program, "pktalloc")
    runner.first_pass(lambda phase, _done, _total: phases.append(phase))
    assert list(dict.fromkeys(phases)) == ["planning", "verifying"]

    def stop(_phase: str, _done: int, _total: int) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        load(trace, progress=stop)
    with pytest.raises(LookupError):
        runner.first_pass(stop)
    assert runner.passes_per_round() >= 1


class Running:
    """A command that is about to be interrupted."""

    def __init__(self, *arguments: object, **how: Any) -> None:
        ours = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how
        )
        signal.signal(signal.SIGINT, ours)

    def wait_for(self, what: Callable[[Path], bool]) -> None:
        """Until what `/proc` says of the process is so."""
        deadline = time.monotonic() + 60
        while not what(Path(f"/proc/{self.process.pid}")):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def interrupt(self) -> float:
        """How long it goes on after an interrupt, which it says in one line; the time aside in which nothing ran it."""
        began = time.monotonic(), self.waited()
        self.process.send_signal(signal.SIGINT)
        # It ends without a reader: a line fits the pipe. Until it is asked for its status its figures can be read.
        while os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            assert time.monotonic() < began[0] + 60
            time.sleep(0.001)
        ended = time.monotonic(), self.waited()
        out, err = self.process.communicate()
        assert (self.process.returncode, out, err) == (130, b"", b"pktalloc: interrupted\n")
        return (ended[0] - began[0]) - (ended[1] - began[1])

    def waited(self) -> float:
        """For how long it, and this process, have waited for a processor."""
        return scheduled(self.process.pid)[1] + scheduled()[1]


def soon() -> float:
    """Half a second, or where others keep the machine busy the time of a few interpreters that do nothing."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return max(0.5, 8 * (time.monotonic() - started))


def waits(process: Path) -> bool:
    """Whether it is in the call `poll`, or in `ppoll`: all that aarch64 has, and what Python calls from 3.15 on."""
    numbers = {"7", "271"} if os.uname().machine == "x86_64" else {"73"}
    return (process / "syscall").read_text().split(" ")[0] in numbers


def has_read_much(process: Path) -> bool:
    """Whether it is past its imports, and reading."""
    return int((process / "io").read_text().split()[1]) > 100_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_interrupt_ends_a_wait_for_a_pipe(tmp_path: Path, trace: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def waits_for_fifo(process: Path) -> bool:
        # It waits before, too: for the process that looks for allocators.
        return waits(process) and any(file.resolve() == fifo for file in (process / "fd").iterdir())

    for arguments in [fifo], [trace, "--link", fifo]:
        running = Running(*arguments)
        running.wait_for(waits_for_fifo)
        assert running.interrupt() < soon()
    # A writer that stalls in the middle of a record.
    read, write = os.pipe()
    running = Running("-", stdin=read)
    os.write(write, pcap(60, 60)[:-3])
    running.wait_for(lambda process: waits(process) and not select.select([read], [], [], 0)[0])
    assert running.interrupt() < soon()
    os.close(read)
    os.close(write)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no SIGALRM to handle")
def test_a_signal_that_is_handled_does_not_fail_a_read() -> None:
    code = (
        "import os, signal, sys, threading, time\n"
        "from pktalloc import _pktalloc\n"
        "caught = []\n"
        "signal.signal(signal.SIGALRM, lambda *_: caught.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\n"
        "read, write = os.pipe()\n"
        "def feed():\n"
        "    for part in (b'# dt_us,size\\n', b'1,', b'60\\n', b'1,70\\n'):\n"
        "        time.sleep(0.1)\n"
        "        os.write(write, part)\n"
        "    os.close(write)\n"
        "threading.Thread(target=feed).start()\n"
        "program, facts = _pktalloc.load('a pipe', fd=read)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "assert facts['bytes'] == 130, facts\n"
        "assert len(caught) > 5, caught\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("packets", [True, False])
def test_an_interrupt_ends_reading_at_any_moment(trace: Path, *, packets: bool) -> None:
    header = "# dt_us,size" if packets else "# dt_ms,count"
    with subprocess.Popen(["sh", "-c", f"echo '{header}'; exec yes '# a comment'"], stdout=subprocess.PIPE) as endless:
        assert endless.stdout is not None
        running = Running(
            "-" if packets else trace, *([] if packets else ["--link", "/dev/stdin"]), stdin=endless.stdout
        )
        running.wait_for(has_read_much)
        assert running.interrupt() < soon()
        endless.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_interrupt_ends_the_imports(tmp_path: Path, trace: Path) -> None:
    slow = tmp_path / "rich"
    slow.mkdir()
    (slow / "__init__.py").write_text("import select\nselect.poll().poll()\n")
    running = Running(trace, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    running.wait_for(waits)
    assert running.interrupt() < soon()


def expect_an_end(terminal: Terminal) -> None:
    """Interrupt a program, which has to end soon and say so."""
    terminal.process.send_signal(signal.SIGINT)
    started = time.monotonic()
    text, status = terminal.finish()
    assert status == 130
    assert time.monotonic() - started < soon()
    assert text.endswith(b"pktalloc: interrupted\r\n")


def test_an_interrupt_ends_tuning(trace: Path) -> None:
    terminal = Terminal(trace, command="tune")
    assert b"trying shapes" in terminal.read_until(b"trying shapes")
    expect_an_end(terminal)


def test_an_interrupt_ends_huge_packets(tmp_path: Path) -> None:
    path = tmp_path / "huge.csv"
    path.write_text("# dt_us,size\n" + "1,16000000\n" * 200_000)
    terminal = Terminal(path, "--depth", 10, "--zero", "--rounds", 100_000)
    assert b"checking" in terminal.read_until(b"checking")
    expect_an_end(terminal)


def test_no_process_is_left_behind(trace: Path) -> None:
    terminal = Terminal(trace, "--rounds", 1_000_000)
    terminal.read_until(b"timing")
    children = Path(f"/proc/{terminal.process.pid}/task/{terminal.process.pid}/children")
    if not children.exists():
        pytest.skip("the system does not list the children of a process")
    pids = children.read_text().split()
    assert len(pids) >= 3
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish()[1] == 130
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
