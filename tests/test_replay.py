"""The command `pktalloc replay`: what it prints, where, and with which exit status."""

import gzip
import importlib.resources
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pktalloc import _cli, _pktalloc
from pktalloc._cli import competitors
from pktalloc._cli import progress as _cli_progress
from pktalloc._cli import replay as _cli_replay

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "pktalloc", "replay"]
PACKETS = "# dt_us,size\n" + "1,1400\n2,60\n" * 50
LINK = "# dt_ms,count\n0,1\n5,2\n"
# Enough rounds for the bar, which waits a second: one of them takes 10 ms at least, for each of three.
LONG = ["--rounds", "60", "--allocators", "malloc"]
FAST = ["--rounds", "1", "--allocators", "malloc"]
QUICK = [*COMMAND, *FAST]

KEYS = {
    "": {
        *("schema", "file", "format", "notes", "seconds", "copies", "packets", "calls", "bytes", "smallest", "largest"),
        *(
            "lifetimes",
            "peak_packets",
            "peak_bytes",
            "steps",
            "verified",
            "settings",
            "rounds",
            "passes_per_round",
            "unit",
        ),
        *("allocators", "loop_ns", "left_out", "best", "winner", "verdict"),
    },
    "lifetimes": {"recorded", "forever", "ruled", "rule", "depth", "delay_ms", "link"},
    "loop_ns": {"median", "low", "high"},
}
ALLOCATOR_KEYS = {
    *("name", "library", "ns", "speedup", "held_bytes", "resident_bytes", "longest_ns", "longest_call"),
}


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
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def replay_json(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--rounds", 1, "--allocators", "malloc", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def pcap(*sizes: int) -> bytes:
    records = [struct.pack("<4I", second, 0, 0, size) for second, size in enumerate(sizes)]
    return b"".join([struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1), *records])


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "packets.csv"
    path.write_text(PACKETS)
    return path


@pytest.fixture
def link(tmp_path: Path) -> Path:
    path = tmp_path / "link.csv"
    path.write_text(LINK)
    return path


@pytest.fixture(scope="module")
def demo() -> Iterator[Path]:
    with importlib.resources.as_file(importlib.resources.files("pktalloc") / "data" / "demo.pcapng") as path:
        yield path


def test_the_shipped_capture_replays_as_a_table(demo: Path) -> None:
    done = run(demo, "--allocators", "malloc")
    assert (done.returncode, done.stderr) == (0, "")
    for row in ("packets", "bytes", "peak packets held", "pktalloc", "malloc"):
        assert re.search(rf"^ *{row} ", done.stdout, re.MULTILINE), done.stdout
    text = " ".join(done.stdout.split())
    assert re.search(r"Medians of \d+ rounds; [\d.]+ ns of each are the replay's own loop", text), text
    assert re.search(
        r"system's malloc.* [\d.]+ (against|and) [\d.]+ ns per packet\. The calls come from native code;", text
    ), text
    assert "1 round;" in " ".join(run(demo, "--allocators", "malloc", "--rounds", 1).stdout.split())


def test_the_table_is_plain_text_where_the_terminal_knows_no_more(trace: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([*QUICK, trace], capture_output=True, env=environment, check=True)
    assert done.stdout.isascii()
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("columns", ["0", "1", "20", "-5", "many", "1000"])
def test_any_width_of_a_terminal_shows_the_table(trace: Path, columns: str) -> None:
    done = run(trace, *FAST, environment={"COLUMNS": columns})
    assert (done.returncode, done.stderr) == (0, "")
    text = "".join(done.stdout.split())
    assert "pktalloc" in text
    assert "nspercall"[:5] in text


def test_json_has_the_keys_that_the_documentation_names(demo: Path) -> None:
    result = replay_json(demo)
    documented = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "replay.md").read_text()))
    for name, keys in KEYS.items():
        part = result[name] if name else result
        assert set(part) == keys
        assert keys <= documented
    assert [one["name"] for one in result["allocators"]] == ["pktalloc", "malloc"]
    for one in result["allocators"]:
        assert set(one) == ALLOCATOR_KEYS <= documented
        assert 0 < one["ns"]["low"] <= one["ns"]["median"] <= one["ns"]["high"]
        assert one["longest_ns"] > 0
    assert result["schema"] == "pktalloc-replay-2"
    assert result["packets"] == result["verified"] > 5_000
    assert result["winner"] in {"pktalloc", "malloc", "equal"}
    assert result["best"] == "malloc"


@pytest.mark.skipif(sys.platform != "linux", reason="the system says how much memory a process has")
def test_memory_is_what_a_process_of_its_own_grows_by(tmp_path: Path) -> None:
    path = tmp_path / "packets.csv"
    path.write_text("# dt_us,size\n" + "1,1400\n" * 50_000)
    result = replay_json(path, "--depth", 20_000)
    live = result["peak_bytes"]
    assert live == 20_000 * 1400
    for one in result["allocators"]:
        assert live <= one["resident_bytes"] <= 1.3 * live, one
    assert live <= result["allocators"][0]["held_bytes"] <= 1.3 * live


def test_packets_are_held_as_told(trace: Path, link: Path) -> None:
    default = replay_json(trace)
    assert (default["format"], default["packets"], default["bytes"]) == ("csv", 100, 50 * 1460)
    assert (default["lifetimes"]["rule"], default["lifetimes"]["depth"]) == ("depth", 1024)
    assert replay_json(trace, "--depth", 7)["peak_packets"] == 7
    assert replay_json(trace, "--delay", "0.003")["lifetimes"]["delay_ms"] == 0.003
    # All arrive within a millisecond: one leaves at once, the others from the fifth on.
    linked = replay_json(trace, "--link", link)
    assert (linked["peak_packets"], linked["lifetimes"]["link"]) == (99, str(link))
    copied = replay_json(trace, "--copies", 3, "--depth", 10)
    assert (copied["copies"], copied["packets"], copied["peak_packets"]) == (3, 300, 10)


def test_gzip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(gzip.compress(pcap(60, 1500)))
    assert replay_json(path)["bytes"] == 1560


def test_every_shared_trace_with_packets_replays() -> None:
    traces = Path(os.environ.get("PKTALLOC_TRACES", ROOT.parent / "shared" / "traces"))
    if not traces.is_dir():
        pytest.skip(f"no traces in {traces}; PKTALLOC_TRACES can name their directory")
    counts = {path.name: replay_json(path)["packets"] for path in traces.glob("*.gz") if "lte" not in path.name}
    assert counts == {
        "pcpp_example.csv.gz": 4_631,
        "quic_server_sent_acked.csv.gz": 9_769,
        "trex_rtp_250k.csv.gz": 4_092,
    }


BAD_FILES = {
    "empty file": (b"", "holds no bytes"),
    "not a capture": (b"hello\n", "neither a capture"),
    "no packets": (pcap(), "holds no packets"),
    "cut in the header": (pcap()[:10], "byte 0: the file ends in the middle of it"),
    "cut off in the first record": (pcap(60)[:-3], "packet 1 at byte 24: the file ends in the middle of it"),
    "too large in a trace": (b"# dt_us,size\n1,16777217\n", "line 2: size is `16777217`; allowed: 0 to 16777216 bytes"),
    "snoop": (b"snoop\0\0\0" + bytes(20), "a snoop capture"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "negative": (b"# dt_us,size\n1,60\n-1,60\n", "line 3: dt_us is `-1`; allowed: 0 or more"),
    "nonsense": (b"# dt_us,size\nx\n", "line 2: columns: 1; expected: 2"),
    "histogram": (b"# size,frequency\n9,316\n", "a histogram of sizes"),
    "link": (LINK.encode(), "the departures of a link, not packets; name it with --link"),
    "damaged gzip": (
        gzip.compress(pcap(60))[:-8] + bytes(8),
        "the gzip data is damaged after 40 bytes of its contents",
    ),
    "cut gzip of text": (gzip.compress(PACKETS.encode())[:-9], "line 1"),
    "no end of a line": (b"# dt_us,size\n" + b"1" * 70_000, "line 2: length of the line is more than 65536 bytes"),
}


@pytest.mark.parametrize(("content", "complaint"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    done = run(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"pktalloc: {path}: {complaint}")
    assert done.stderr.count("\n") == 1


def test_what_cannot_be_opened_is_named_in_one_line(tmp_path: Path, trace: Path) -> None:
    assert run(tmp_path).stderr == f"pktalloc: {tmp_path}: Is a directory\n"
    missing = tmp_path / "two\nlines"
    assert run(missing).stderr == f"pktalloc: {tmp_path}/two lines: No such file or directory\n"
    done = run(trace, "--link", trace)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"pktalloc: {trace}: not the departures of a link")
    done = run(trace, "--copies", 2**32 - 1)
    assert done.returncode == 2
    assert done.stderr.startswith(f"pktalloc: {trace}: more than 16777216 packets, copies included")
    assert run(trace, "--allocators", "/no/such.so").stderr.count("\n") == 1


def test_a_name_that_is_no_text_is_printed_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff[bold]")
    path.write_text(PACKETS)
    done = run(path, *FAST)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[bold]" in done.stdout
    link = tmp_path / os.fsdecode(b"\xfe.csv")
    link.write_text(LINK)
    result = replay_json(path, "--link", link)
    assert os.fsencode(result["file"]) == os.fsencode(path)
    assert os.fsencode(result["lifetimes"]["link"]) == os.fsencode(link)


BAD_OPTIONS = [
    ["--depth", "0"],
    ["--depth", "-5"],
    ["--depth", "many"],
    ["--depth", "1.5"],
    ["--depth", "4294967296"],
    ["--depth", "1" + "0" * 5000],
    ["--depth", "\u0665"],
    ["--window-bytes", "12X"],
    ["--alignment", "-1"],
    ["--memory-limit", "99999999999G"],
    ["--allocators", "nonsense"],
    ["--allocators", ","],
    ["--delay", "-1"],
    ["--delay", "nan"],
    ["--delay", "inf"],
    ["--delay", "soon"],
    ["--copies", "0"],
    ["--rounds", "0"],
    ["--depth", "5", "--delay", "5"],
    ["--nonsense"],
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=lambda options: " ".join(options)[:30])
def test_a_bad_option_is_refused_in_one_line(trace: Path, options: Sequence[str]) -> None:
    done = run(trace, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pktalloc: ")
    assert options[0].lstrip("-") in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status, words in [
        (["--version"], 0, ["pktalloc 0."]),
        (["--help"], 0, ["replay"]),
        (["replay", "--help"], 0, ["--depth", "--delay", "--link", "--copies", "--rounds", "--json", "Exit status"]),
    ]:
        assert _cli.main(arguments) == status
        text = capsys.readouterr().out
        assert all(word in text for word in words)
    for arguments in [], ["replay"]:
        assert _cli.main(arguments) == 2


class Terminal:
    """A replay whose error output is a terminal; its output is discarded."""

    def __init__(self, *arguments: object, command: str = "replay") -> None:
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


def test_a_reader_that_leaves_is_no_error_to_talk_about(trace: Path) -> None:
    process = subprocess.Popen([*QUICK, trace], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def load(path: Path, **options: Any) -> tuple[_pktalloc.ReplayProgram, dict[str, Any]]:
    return _pktalloc.load(path, **options)


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


def test_what_makes_no_sense_is_a_value_error(trace: Path, link: Path) -> None:
    with pytest.raises(ValueError, match="depth must be at least 1"):
        load(trace, depth=0)
    with pytest.raises(ValueError, match="delay_ms must be 0 or more"):
        load(trace, delay_ms=-1)
    with pytest.raises(ValueError, match="only one of depth, delay_ms and link"):
        load(trace, depth=1, link=link)


def test_the_map_at_the_peak_is_drawn(tmp_path: Path) -> None:
    trace = tmp_path / "packets.csv"
    # One of seven is larger than a window, one larger than anything that windows come from.
    trace.write_text(PACKETS + "1,300000\n1,10000000\n")
    picture = tmp_path / "peak.svg"
    done = run(trace, *FAST, "--depth", 7, "--map", picture)
    assert (done.returncode, done.stderr) == (0, "")
    # The file is our own.
    root = ElementTree.parse(picture).getroot()  # noqa: S314
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    found = [re.findall(r"(\d+) of \d+ units in (\d+) block", title) for title in titles]
    units = sum(int(live) for [(live, _)] in found)
    # The last five of the small ones, and both large ones, to the unit or to the window.
    least = 2 * 22 + 3 + 4688 + 156_250
    assert least <= units <= least + 2 * 2048
    assert sum(int(blocks) for [(_, blocks)] in found) >= 7


def test_an_output_is_tried_before_the_work(trace: Path, tmp_path: Path) -> None:
    for picture, why in [
        (tmp_path / "absent" / "peak.svg", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (Path("/proc/version"), "Permission denied"),
    ]:
        if picture.exists() and picture.is_file() and os.access(picture, os.W_OK):
            continue
        done = run(trace, "--rounds", 1_000_000, "--map", picture)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"pktalloc: {picture}: ")
        assert done.stderr.count("\n") == 1, why


def test_no_output_overwrites_an_input(trace: Path, link: Path, tmp_path: Path) -> None:
    other = tmp_path / "hard"
    other.hardlink_to(trace)
    symbolic = tmp_path / "symbolic"
    symbolic.symlink_to(link)
    for picture in trace, link, other, symbolic:
        done = run(trace, "--link", link, "--map", picture)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"pktalloc: {picture}: it is an input, which is not overwritten\n"
    with trace.open("ab") as same:
        done_to_file = subprocess.run([*COMMAND, trace], stdout=same, stderr=subprocess.PIPE, check=False)
    assert done_to_file.returncode == 2
    assert done_to_file.stderr.endswith(b"it is also the standard output, and inputs are not overwritten\n")
    assert trace.read_text() == PACKETS
    assert link.read_text() == LINK


def test_a_map_that_fails_leaves_what_was_there(trace: Path, tmp_path: Path) -> None:
    kept, fresh = tmp_path / "kept.svg", tmp_path / "fresh.svg"
    kept.write_text("before")
    for picture in kept, fresh:
        assert run(tmp_path / "absent", "--map", picture).returncode == 2
    assert kept.read_text() == "before"
    assert not fresh.exists()
    assert run(trace, *FAST, "--map", kept).returncode == 0
    assert kept.read_text().startswith("<svg")
    assert run(trace, *FAST, "--map", "/dev/null").returncode == 0


def test_a_capture_that_is_cut_off_is_replayed_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(pcap(60, 60)[:-3])
    done = run(path, *FAST, "--json")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    note = "packet 2 at byte 40: the file ends in the middle of it; replaying the 1 packet before it"
    assert done.stderr == f"pktalloc: {path}: {note}\n"
    result = json.loads(done.stdout)
    assert (result["packets"], result["notes"]) == (1, [note])
    strict = run(path, "--strict")
    assert (strict.returncode, strict.stdout) == (2, "")
    assert strict.stderr == f"pktalloc: {path}: packet 2 at byte 40: the file ends in the middle of it\n"


def test_standard_input_is_read(trace: Path) -> None:
    for content in PACKETS.encode(), gzip.compress(PACKETS.encode()):
        done = run("-", *FAST, "--json", stdin=content)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["packets"] == 100
    with trace.open("rb") as file:
        done_from_file = subprocess.run([*QUICK, "-"], stdin=file, capture_output=True, check=True)
    assert b"standard input" in done_from_file.stdout
    done = run("-", stdin=b"")
    assert (done.returncode, done.stderr) == (2, "pktalloc: standard input: holds no bytes\n")
    closed = subprocess.run([*COMMAND, "-"], preexec_fn=lambda: os.close(0), capture_output=True, check=False)
    assert (closed.returncode, closed.stderr) == (2, b"pktalloc: standard input: it is closed\n")


def test_zeros_in_front_of_a_number_are_no_digits_of_it(trace: Path) -> None:
    assert replay_json(trace, "--depth", "00000000005000000")["lifetimes"]["depth"] == 5_000_000


def test_settings_are_tried(trace: Path) -> None:
    result = replay_json(
        trace,
        *("--alignment", 128, "--window-bytes", "32K", "--preallocated-windows", 1, "--keep-empty-windows", 0),
        "--zero",
    )
    assert result["settings"] == {
        "alignment": 128,
        "window_bytes": 32768,
        "preallocated_windows": 1,
        "keep_empty_windows": 0,
        "zero": True,
    }
    assert result["allocators"][0]["held_bytes"] < replay_json(trace)["allocators"][0]["held_bytes"]
    for option, value, complaint in [
        ("--alignment", "48", "alignment is 48, must be a power of two"),
        ("--window-bytes", "100K", "window_bytes is 102400, must be a power of two"),
        ("--memory-limit", "1K", "memory_limit is 1024 bytes, must be at least"),
        ("--keep-empty-windows", "99999999", "keep_empty_windows is 99999999, must be at most"),
    ]:
        done = run(trace, option, value)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"pktalloc: {complaint}")
    done = run(trace, "--memory-limit", "256K", "--depth", 5000, "--copies", 50, "--preallocated-windows", 0)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pktalloc: pktalloc has no memory for a packet of ")


def test_a_call_trace_replays(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    path.write_text(
        "# call,allocator,block,size\nnew,0,,\nallocate,0,0,1400\nreallocate_copy,0,0,3000\nreallocate_discard,0,0,9\n"
        "allocate,0,1,50\nfree,0,1,\ndrop,0,,\n"
    )
    result = replay_json(path)
    assert (result["format"], result["unit"], result["verified"], result["packets"]) == ("calls", "call", 5, None)
    assert result["calls"] == {"new": 1, "allocate": 2, "free": 1, "reallocate_copy": 1, "reallocate_discard": 1}
    assert (result["bytes"], result["peak_bytes"], result["peak_packets"]) == (4459, 3000, 2)
    done = run(path, *FAST)
    assert "ns per call" in " ".join(done.stdout.split())
    for option in "--depth", "--delay", "--copies":
        done = run(path, option, "5")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "call trace" in done.stderr
    path.write_text("# call,allocator,block,size\nfree,0,0,\n")
    assert run(path).stderr == f"pktalloc: {path}: line 2: block is `0`; allowed: one that is allocated\n"


def libraries() -> list[competitors.Competitor]:
    return competitors.installed(list(competitors.LIBRARIES))


def test_other_allocators_run_in_processes_of_their_own(trace: Path) -> None:
    found = libraries()
    if not found:
        pytest.skip("no other allocator is installed (Debian: libjemalloc2, libmimalloc2.0, libtcmalloc-minimal4)")
    done = run(trace, "--rounds", 1, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    names = [one["name"] for one in result["allocators"]]
    assert names[:2] == ["pktalloc", "malloc"]
    assert names[2:] + [one["name"] for one in result["left_out"]] == [one.name for one in found]
    fastest = min(result["allocators"][1:], key=lambda one: one["ns"]["median"])
    assert result["best"] == fastest["name"]


def test_a_library_that_crashes_is_left_out_and_named(trace: Path, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build a bad allocator with")
    source, library = tmp_path / "bad.c", tmp_path / "bad.so"
    source.write_text(
        "#include <stdlib.h>\nvoid *malloc(size_t n) { abort(); }\nvoid free(void *p) {}\n"
        "void *realloc(void *p, size_t n) { return 0; }\n"
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    result = json.loads(run(trace, "--rounds", 1, "--json", "--allocators", f"malloc,{library}").stdout)
    assert result["left_out"] == [{"name": "bad.so", "why": "the process of bad.so ended with SIGABRT"}]
    alone = run(trace, "--allocators", library)
    assert (alone.returncode, alone.stdout) == (1, "")
    assert alone.stderr == "pktalloc: bad.so: the process of bad.so ended with SIGABRT\n"


def test_the_verdict_follows_from_the_medians() -> None:
    def result(own: float, others: dict[str, tuple[float, list[float]]]) -> dict[str, Any]:
        def one(name: str, median: float, speedup: list[float] | None) -> dict[str, Any]:
            spread = None if speedup is None else dict(zip(("low", "median", "high"), speedup, strict=True))
            return {"name": name, "ns": {"median": median}, "speedup": spread, "resident_bytes": None}

        allocators = [one("pktalloc", own, None), *(one(name, *what) for name, what in others.items())]
        return _cli_replay.verdict({"allocators": allocators, "unit": "packet"})

    found = result(10, {"malloc": (20, [1.9, 2, 2.1])})
    assert (found["winner"], found["best"]) == ("pktalloc", "malloc")
    assert found["verdict"].startswith(
        "pktalloc is 2.0 times as fast as the system's malloc on this traffic: 10.0 against 20.0 ns"
    )
    found = result(20, {"malloc": (10, [0.4, 0.5, 0.6])})
    assert found["verdict"].startswith(
        "The system's malloc is 2.0 times as fast as pktalloc on this traffic: 10.0 against 20.0"
    )
    # Against the best of them, and by the medians that are shown.
    found = result(10, {"malloc": (30, [2.9, 3, 3.1]), "jemalloc": (10.6, [1.2, 1.9, 2.1])})
    assert found["verdict"].startswith(
        "pktalloc is 1.06 times as fast as jemalloc, the fastest of the others, on this traffic"
    )
    for median, speedup in [
        (10.4, [1.03, 1.04, 1.05]),
        (9.6, [0.95, 0.96, 0.97]),
        (20, [0.9, 2, 3]),
        (5, [0.2, 0.5, 1.1]),
    ]:
        assert result(10, {"malloc": (median, speedup)})["winner"] == "equal"


def test_rounds_that_disagree_are_said_to() -> None:
    def said(median: float, speedup: dict[str, float]) -> str:
        ours = {"name": "pktalloc", "ns": {"median": 10}, "speedup": None, "resident_bytes": None}
        malloc = {"name": "malloc", "ns": {"median": median}, "speedup": speedup, "resident_bytes": None}
        return _cli_replay.verdict({"allocators": [ours, malloc], "unit": "call"})["verdict"]

    alike = said(10.4, {"low": 1.03, "median": 1.04, "high": 1.05})
    assert alike.startswith(
        "This run shows no difference between pktalloc and the system's malloc on this traffic: 10.0 and"
    )
    apart = said(20, {"low": 0.9, "median": 2, "high": 3})
    assert apart.startswith(
        "The rounds disagree whether pktalloc or the system's malloc is faster on this traffic: 10.0 and 20.0 ns"
    )


def test_the_median_of_an_even_number_lies_between() -> None:
    assert _cli_replay.spread([9, 8]) == {"low": 8.25, "median": 8.5, "high": 8.75}
    assert _cli_replay.spread([1, 2, 3, 10]) == {"low": 1.75, "median": 2.5, "high": 4.75}
    assert _cli_replay.spread([5]) == {"low": 5, "median": 5, "high": 5}


def close(*descriptors: int) -> Callable[[], None]:
    def run_in_child() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return run_in_child


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["replay", "--help"], ["replay", "FILE"]], ids=" ".join)
def test_an_output_that_is_full_is_one_line_and_status_1(trace: Path, words: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("the system has no /dev/full")
    words = [word if word != "FILE" else str(trace) for word in words] + (FAST if "FILE" in words else [])
    command = [sys.executable, "-m", "pktalloc", *words]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (1, b"pktalloc: standard output: No space left on device\n")
        for unbuffered in "", "1":
            environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
            done = subprocess.run(command, stdout=full, stderr=full, check=False, env=environment)
            assert done.returncode == 1
        done = subprocess.run([*COMMAND, trace.parent], stdout=subprocess.PIPE, stderr=full, check=False)
        assert (done.returncode, done.stdout) == (2, b"")


def test_outputs_that_are_closed_change_nothing_else(trace: Path, tmp_path: Path) -> None:
    def run_closed(*descriptors: int, file: Path = trace) -> tuple[int, bytes, bytes]:
        done = subprocess.run([*QUICK, file], preexec_fn=close(*descriptors), capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    status, out, err = run_closed(2)
    assert (status, err) == (0, b"")
    assert b"pktalloc" in out
    assert run_closed(1) == (1, b"", b"pktalloc: standard output: it is closed\n")
    assert run_closed(1, 2) == (1, b"", b"")
    # What is said goes nowhere, and not to the standard output.
    assert run_closed(2, file=tmp_path) == (2, b"", b"")


def test_without_the_extra_the_command_says_how_to_get_it(trace: Path) -> None:
    code = "import sys; sys.modules['rich'] = None; import pktalloc._cli as c; sys.exit(c.main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "replay", trace], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"pktalloc: the command line needs the package rich: pip install 'pktalloc[cli]'\n"


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
        """How long it takes to end after an interrupt, which it says in one line."""
        self.process.send_signal(signal.SIGINT)
        started = time.monotonic()
        out, err = self.process.communicate(timeout=60)
        elapsed = time.monotonic() - started
        assert (self.process.returncode, out, err) == (130, b"", b"pktalloc: interrupted\n")
        return elapsed


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


def test_an_interrupt_ends_tuning(trace: Path) -> None:
    terminal = Terminal(trace, command="tune")
    assert b"trying shapes" in terminal.read_until(b"trying shapes")
    terminal.process.send_signal(signal.SIGINT)
    started = time.monotonic()
    text, status = terminal.finish()
    assert status == 130
    assert time.monotonic() - started < soon()
    assert text.endswith(b"pktalloc: interrupted\r\n")


def test_an_interrupt_ends_huge_packets(tmp_path: Path) -> None:
    path = tmp_path / "huge.csv"
    path.write_text("# dt_us,size\n" + "1,16000000\n" * 200_000)
    terminal = Terminal(path, "--depth", 10, "--zero", "--rounds", 100_000)
    assert b"checking" in terminal.read_until(b"checking")
    terminal.process.send_signal(signal.SIGINT)
    started = time.monotonic()
    text, status = terminal.finish()
    assert status == 130
    assert time.monotonic() - started < soon()
    assert text.endswith(b"pktalloc: interrupted\r\n")


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


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_no_memory_is_one_line_and_status_1(tmp_path: Path) -> None:
    def run_within(megabytes: int, file: Path) -> subprocess.CompletedProcess[bytes]:
        limited = ["sh", "-c", f'ulimit -v {megabytes << 10}; exec "$@"', "sh"]
        return subprocess.run([*limited, *QUICK, file], capture_output=True, check=False)

    one, many = tmp_path / "one.csv", tmp_path / "many.csv"
    one.write_text("# dt_us,size\n1,60\n")
    many.write_text("# dt_us,size\n" + "1,60\n" * 2_000_000)
    # Below this, Python itself or its modules do not fit.
    least = next(megabytes for megabytes in range(40, 400, 10) if run_within(megabytes, one).returncode == 0)
    said = set()
    megabytes = least
    while (done := run_within(megabytes, many)).returncode != 0:
        assert (done.returncode, done.stdout) == (1, b""), (megabytes, done.returncode, done.stderr)
        assert done.stderr.count(b"\n") == 1, done.stderr
        said.add(done.stderr.decode().rpartition(": ")[2].strip())
        megabytes += 10
        assert megabytes < least + 200, said
    assert done.stderr == b""
    assert said >= {f"there is no memory for the {what}" for what in ("packets of the trace", "plan of the replay")}
