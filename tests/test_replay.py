"""The command `pktalloc replay`: what it prints, where, and with which exit status."""

import gzip
import importlib.resources
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pktalloc import _cli, _pktalloc

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "pktalloc", "replay"]
PACKETS = "# dt_us,size\n" + "1,1400\n2,60\n" * 50
LINK = "# dt_ms,count\n0,1\n5,2\n"
# Enough rounds for the bar, which waits a second: one of them takes 10 ms at least, for each of three.
LONG = ["--rounds", "100"]

KEYS = {
    "": {
        *("file", "format", "seconds", "copies", "packets", "bytes", "smallest", "largest", "lifetimes"),
        *("peak_packets", "verified_packets", "rounds", "passes_per_round", "ns_per_packet", "speedup", "memory"),
        *("winner", "verdict"),
    },
    "lifetimes": {"recorded", "forever", "ruled", "rule", "depth", "delay_ms", "link"},
    "ns_per_packet": {"pktalloc", "malloc", "loop"},
    "speedup": {"median", "low", "high"},
    "memory": {"held_bytes", "live_bytes", "held_over_live"},
}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def replay_json(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--rounds", 1, "--json")
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
    done = run(demo)
    assert (done.returncode, done.stderr) == (0, "")
    for row in (
        *("packets", "bytes", "peak packets held", "ns per packet, median of 21 rounds"),
        *("bytes taken from the system", "over bytes of packets live"),
    ):
        assert re.search(rf"^ *{row} ", done.stdout, re.MULTILINE), done.stdout
    verdict = " ".join(done.stdout.split("\n\n")[-1].split())
    assert re.search(r"system's malloc.* [\d.]+ (against|and) [\d.]+ ns per packet\.$", verdict), verdict
    assert verdict.count(". ") == 0


def test_the_table_is_plain_text_where_the_terminal_knows_no_more(trace: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([*COMMAND, trace], capture_output=True, env=environment, check=True)
    assert done.stdout.isascii()
    assert b"\x1b" not in done.stdout


def test_json_has_the_keys_that_the_documentation_names(demo: Path) -> None:
    result = replay_json(demo)
    documented = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "replay.md").read_text()))
    for name, keys in KEYS.items():
        part = result[name] if name else result
        assert set(part) == keys
        assert keys <= documented
    for spread in result["ns_per_packet"].values():
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    assert result["packets"] == result["verified_packets"] > 5_000
    assert result["winner"] in {"pktalloc", "malloc", "equal"}


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
    "cut off": (pcap(60, 60)[:-3], "packet 2 at byte 40: the file ends in the middle of it"),
    "cut in the header": (pcap()[:10], "byte 0: the file ends in the middle of it"),
    "zero in a capture": (pcap(60, 0), "packet 2 at byte 40: size is 0; allowed: 1 to 16777216 bytes"),
    "zero in a trace": (b"# dt_us,size\n1,0\n", "line 2: size is `0`; allowed: 1 to 16777216 bytes"),
    "negative": (b"# dt_us,size\n1,60\n-1,60\n", "line 3: dt_us is `-1`; allowed: 0 or more"),
    "nonsense": (b"# dt_us,size\nx\n", "line 2: columns: 1; expected: 2"),
    "histogram": (b"# size,frequency\n9,316\n", "a histogram of sizes"),
    "link": (LINK.encode(), "the departures of a link, not packets; name it with --link"),
    "damaged gzip": (
        gzip.compress(pcap(60))[:-9],
        "the gzip data is cut off or damaged after 40 bytes of its contents",
    ),
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


def test_a_name_that_is_no_text_is_printed_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff[bold]")
    path.write_text(PACKETS)
    done = run(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[bold]" in done.stdout


BAD_OPTIONS = [
    ["--depth", "0"],
    ["--depth", "-5"],
    ["--depth", "many"],
    ["--depth", "1.5"],
    ["--depth", "4294967296"],
    ["--delay", "-1"],
    ["--delay", "nan"],
    ["--delay", "inf"],
    ["--delay", "soon"],
    ["--copies", "0"],
    ["--rounds", "0"],
    ["--depth", "5", "--delay", "5"],
    ["--nonsense"],
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=" ".join)
def test_a_bad_option_is_refused_in_one_line(trace: Path, options: Sequence[str]) -> None:
    done = run(trace, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pktalloc: ")
    assert options[0] in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status, words in [
        (["--version"], 0, ["pktalloc 0."]),
        (["--help"], 0, ["replay"]),
        (["replay", "--help"], 0, ["--depth", "--delay", "--link", "--copies", "--rounds", "--json", "Exit status"]),
    ]:
        with pytest.raises(SystemExit) as ended:
            _cli.main(arguments)
        assert ended.value.code == status
        text = capsys.readouterr().out
        assert all(word in text for word in words)
    for arguments in [], ["replay"]:
        with pytest.raises(SystemExit) as ended:
            _cli.main(arguments)
        assert ended.value.code == 2


class Terminal:
    """A replay whose error output is a terminal; its output is discarded."""

    def __init__(self, *arguments: object) -> None:
        self.screen, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
        # A shell has what runs in its background ignore interrupts, and so would all that this starts.
        ours = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=theirs, env=environment
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
    assert re.search(rb"timing.*\d+/100", text), text
    assert text.endswith(b"\x1b[2K"), "the bar is taken off the screen"


def test_a_short_replay_shows_no_bar(trace: Path) -> None:
    assert Terminal(trace, "--rounds", 1).finish() == (b"", 0)


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
    process = subprocess.Popen([*COMMAND, trace], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_progress_is_reported_and_may_end_the_replay(trace: Path) -> None:
    phases = []
    _pktalloc.replay(trace, rounds=1, progress=lambda phase, _done, _total: phases.append(phase))
    assert list(dict.fromkeys(phases)) == ["planning", "verifying", "timing"]

    def stop(_phase: str, _done: int, _total: int) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        _pktalloc.replay(trace, progress=stop)


def test_what_makes_no_sense_is_a_value_error(trace: Path, link: Path) -> None:
    with pytest.raises(ValueError, match="depth must be at least 1"):
        _pktalloc.replay(trace, depth=0)
    with pytest.raises(ValueError, match="delay_ms must be 0 or more"):
        _pktalloc.replay(trace, delay_ms=-1)
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        _pktalloc.replay(trace, rounds=0)
    with pytest.raises(ValueError, match="only one of depth, delay_ms and link"):
        _pktalloc.replay(trace, depth=1, link=link)


def test_the_map_at_the_peak_is_drawn(trace: Path, tmp_path: Path) -> None:
    picture = tmp_path / "peak.svg"
    done = run(trace, "--rounds", 1, "--depth", 7, "--map", picture)
    assert (done.returncode, done.stderr) == (0, "")
    # The file is our own.
    root = ElementTree.parse(picture).getroot()  # noqa: S314
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    blocks = [int(count) for title in titles for count in re.findall(r"in (\d+) block", title)]
    assert sum(blocks) == 7


def test_a_map_that_cannot_be_written_loses_nothing(trace: Path, tmp_path: Path) -> None:
    picture = tmp_path / "absent" / "peak.svg"
    done = run(trace, "--rounds", 1, "--map", picture)
    assert done.returncode == 2
    assert "packets" in done.stdout
    assert done.stderr == f"pktalloc: {picture}: No such file or directory\n"
