"""The command `pktalloc replay`: what it prints, and what follows from its options."""

import gzip
import importlib.resources
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pktalloc import _cli
from pktalloc._cli import competitors
from pktalloc._cli import replay as _cli_replay
from replay_command import FAST, PACKETS, QUICK, pcap, replay_json, run

ROOT = Path(__file__).parents[1]

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
