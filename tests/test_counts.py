"""What the replay prints of a file, counted again: by another reader, and by sorting where the replay uses queues."""

import bisect
import csv
import gzip
import importlib.resources
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from c_programs import is_of_our_library
from pktalloc import _pktalloc

COMMAND = [sys.executable, "-m", "pktalloc", "replay"]
FAST = ["--rounds", "1", "--allocators", "malloc", "--json"]
TRACES = Path(os.environ.get("PKTALLOC_TRACES", Path(__file__).parents[2] / "shared" / "traces"))
DEPTH = 1024
"""How many packets are held where neither the trace nor an option says."""
KINDS = ["new", "allocate", "free", "reallocate_copy", "reallocate_discard"]
RANGES = 32
"""Of sizes, in the picture, where no block is larger than this:"""
SMALL = 16384


class Packet(NamedTuple):
    """A packet of a file: times in nanoseconds, and `None` where nothing is known."""

    arrival: int
    size: int
    life: int | None = None
    stays: bool = False


class Step(NamedTuple):
    """What happens to a block: it has so many bytes afterwards, 0 when it is gone."""

    block: int
    size: int
    is_new: bool = False


class Counted(NamedTuple):
    """What there is to compare."""

    facts: dict[str, Any]
    steps: list[Step]


def rows(path: Path) -> Iterator[list[str]]:
    """The rows of a table, without comments."""
    with gzip.open(path, "rt") as text:
        yield from csv.reader(line for line in text if not line.startswith("#"))


def packets_of_table(path: Path) -> list[Packet]:
    found, clock = [], 0
    for step, size, life, *kind in (row + ["-1"] * (3 - len(row)) for row in rows(path)):
        clock += int(step) * 1000
        never = kind == ["N"]
        found.append(Packet(clock, int(size), int(life) * 1000 if int(life) >= 0 and not never else None, never))
    return found


def packets_of_capture(path: Path) -> list[Packet]:
    from scapy.utils import RawPcapNgReader  # noqa: PLC0415 - takes a second

    with RawPcapNgReader(str(path)) as reader:
        abouts = [about for _, about in reader]
    ticks = [about.tshigh << 32 | about.tslow for about in abouts]
    found = [Packet(tick * 10**9 // about.tsresol, about.wirelen) for tick, about in zip(ticks, abouts, strict=True)]
    return sorted(found, key=lambda packet: packet.arrival)


def departures(path: Path, arrivals: list[int]) -> list[int]:
    """When each packet leaves over a link: one at each departure, the list of which repeats."""
    clock, once = 0, []
    for step, count in rows(path):
        clock += int(step) * 1_000_000
        once += [clock] * int(count)
    slots = (base * clock + time for base in itertools.count() for time in once)
    return [next(slot for slot in slots if slot >= arrival) for arrival in arrivals]


def count_packets(packets: list[Packet], link: Path | None = None) -> Counted:
    start, total = packets[0].arrival, len(packets)
    arrivals = [packet.arrival - start for packet in packets]
    knows = any(packet.life is not None or packet.stays for packet in packets)
    by_link = departures(link, arrivals) if link else None
    # Each arrival, and each departure with the arrival in front of which it happens.
    events: list[tuple[tuple[int, ...], Step]] = []
    for number, packet in enumerate(packets):
        events.append(((number, 1), Step(number, packet.size, is_new=True)))
        leaves = by_link[number] if by_link else None if packet.life is None else arrivals[number] + packet.life
        if leaves is not None:
            before = next((later for later in range(number + 1, total) if arrivals[later] > leaves), total)
            key = (before, 0, 1, leaves, number)
        elif packet.stays:
            key = (total, 0, 3, 0, number)
        elif knows:
            key = (number, 2, 0, 0, number)
        elif number + DEPTH < total:
            key = (number + DEPTH, 0, 0, 0, number)
        else:
            key = (total, 0, 2, 0, number)
        events.append((key, Step(number, 0)))
    steps = [step for _, step in sorted(events)]
    recorded = 0 if link else sum(packet.life is not None for packet in packets)
    stay = 0 if link else sum(packet.stays for packet in packets)
    sizes = [packet.size for packet in packets]
    facts = {
        "packets": total,
        "verified": total,
        "seconds": arrivals[-1] / 1e9,
        "smallest": min(sizes),
        "largest": max(sizes),
        "bytes": sum(sizes),
        "recorded": recorded,
        "forever": stay,
        "ruled": total - recorded - stay,
    }
    return Counted(facts, steps)


def count_calls(path: Path) -> Counted:
    live: dict[tuple[str, str], int] = {}
    counts: Counter[str] = Counter()
    sizes, steps, blocks = [], [], itertools.count()
    for call, allocator, block, size in rows(path):
        counts[call] += 1
        if call == "allocate":
            live[allocator, block] = next(blocks)
        if call in {"allocate", "reallocate_copy", "reallocate_discard"}:
            sizes.append(int(size))
            steps.append(Step(live[allocator, block], int(size), is_new=call == "allocate"))
        elif call == "free":
            steps.append(Step(live.pop((allocator, block)), 0))
        elif call == "drop":
            gone = [key for key in live if key[0] == allocator]
            steps += [Step(live.pop(key), 0) for key in gone]
    steps += [Step(block, 0) for block in live.values()]
    about_blocks = counts.total() - counts["new"] - counts["drop"]
    facts = {
        "calls": {name: counts[name] for name in KINDS},
        "verified": about_blocks,
        "smallest": min(sizes),
        "largest": max(sizes),
        "bytes": sum(sizes),
    }
    return Counted(facts, steps)


def peaks(steps: list[Step]) -> tuple[int, int, list[int]]:
    """The most blocks and bytes at once, and the bytes after each step."""
    held: dict[int, int] = {}
    blocks, live = 0, [0]
    for step in steps:
        before = held.pop(step.block, 0)
        if step.size or step.is_new:
            held[step.block] = step.size
        blocks = max(blocks, len(held))
        live.append(live[-1] - before + step.size)
    return blocks, max(live), live


def lives(steps: list[Step]) -> list[int]:
    """How many blocks live while none, 1, 2 to 3, 4 to 7, … further ones are allocated."""
    born: dict[int, int] = {}
    counts: Counter[int] = Counter()
    for step in steps:
        if step.is_new:
            born[step.block] = len(born)
        elif not step.size:
            counts[(len(born) - 1 - born[step.block]).bit_length()] += 1
    return [counts[power] for power in range(max(counts) + 1)]


def ranges(steps: list[Step]) -> list[tuple[str, int]]:
    """How many blocks were asked for in each range of sizes."""
    sizes = [max(step.size, 1) for step in steps if step.size or step.is_new]
    largest = max(sizes)
    if largest <= SMALL:
        width = -(-largest // RANGES)
        ends = [*range(width, largest + width, width)]
    else:
        doubling = [64 << power for power in range(20)]
        between = [end + end // 2 for end in doubling]
        ends = sorted([*doubling, *between])
        ends = ends[: bisect.bisect_left(ends, largest) + 1]
    counts = Counter(bisect.bisect_left(ends, size) for size in sizes)
    return [(f"{first + 1:,} to {last:,}", counts[n]) for n, (first, last) in enumerate(itertools.pairwise([0, *ends]))]


class Tables(HTMLParser):
    """The tables of a page, by their captions."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.rows: list[list[str]] = []
        self.caption = ""
        self.into = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.rows, self.caption = [], dict(attrs).get("aria-label") or ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in {"th", "td"}:
            self.rows[-1].append("")
        self.into = tag

    def handle_data(self, data: str) -> None:
        if self.into == "caption":
            self.caption += data
        elif self.into in {"th", "td"}:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.into = ""
        if tag == "table":
            self.found[self.caption] = self.rows


def number(text: str) -> int:
    return int(text.replace(",", ""))


def compare(file: Path, counted: Counted, folder: Path, *options: str) -> None:
    """Everything that the command says about the file, against what was counted."""
    page = folder / "page.html"
    done = subprocess.run([*COMMAND, file, *FAST, *options, "--report", page], capture_output=True, check=True)
    result = json.loads(done.stdout)
    flat = result | result["lifetimes"] if result["lifetimes"] else result
    assert {name: flat[name] for name in counted.facts} == counted.facts
    blocks, most, live = peaks(counted.steps)
    assert (result["peak_packets"], result["peak_bytes"]) == (blocks, most)

    tables = Tables(page.read_text(encoding="utf-8")).found
    said = dict(tables["The file"])
    bytes_said = [number(each) for each in re.findall(r"[\d,]*\d", said["bytes"])]
    assert bytes_said == [counted.facts[name] for name in ("bytes", "smallest", "largest")]
    held = said["peak packets held" if "packets" in counted.facts else "peak blocks held"]
    assert [number(each) for each in re.findall(r"[\d,]*\d", held)] == [blocks, most]
    [(_, by_size)] = [found for found in tables.items() if found[0].startswith("How many blocks were asked")]
    assert [(name, number(count)) for name, count in by_size[1:]] == ranges(counted.steps)
    [(_, by_life)] = [found for found in tables.items() if found[0].startswith("How many further blocks")]
    assert [number(count) for _, count in by_life[1:]] == lives(counted.steps)
    names = [name for name, _ in by_life[1:]]
    assert names == ["0", "1", *(f"{1 << power:,} to {(2 << power) - 1:,}" for power in range(1, len(names) - 1))]
    if "packets" in counted.facts:
        # Steps of calls that are not about blocks are counted, too, so that their numbers differ.
        assert result["steps"] == len(counted.steps)
        [(_, over_time)] = [found for found in tables.items() if found[0].startswith("Bytes of live blocks")]
        assert len(over_time) > 20
        assert [(number(row[0]), number(row[1])) for row in over_time[1:]] == [
            (number(row[0]), live[number(row[0])]) for row in over_time[1:]
        ]


def test_the_shipped_capture_counts_as_another_reader_counts_it(tmp_path: Path) -> None:
    pytest.importorskip("scapy", reason="reads captures with scapy: pip install scapy")
    with importlib.resources.as_file(importlib.resources.files("pktalloc") / "data" / "demo.pcapng") as demo:
        compare(demo, count_packets(packets_of_capture(demo)), tmp_path)


@pytest.mark.parametrize("linked", [False, True], ids=["as recorded", "over a link"])
@pytest.mark.parametrize("name", ["pcpp_example", "quic_server_sent_acked", "trex_rtp_250k"])
def test_traces_count_as_their_tables_do(name: str, tmp_path: Path, *, linked: bool) -> None:
    if not TRACES.is_dir():
        pytest.skip(f"no traces in {TRACES}; PKTALLOC_TRACES can name their directory")
    file, link = TRACES / f"{name}.csv.gz", TRACES / "lte_verizon_short_down.csv.gz"
    counted = count_packets(packets_of_table(file), link if linked else None)
    compare(file, counted, tmp_path, *(["--link", str(link)] if linked else []))


@pytest.mark.parametrize("name", ["fec_stream", "fec_block"])
def test_traces_of_calls_count_as_their_tables_do(name: str, tmp_path: Path) -> None:
    if not TRACES.is_dir():
        pytest.skip(f"no traces in {TRACES}; PKTALLOC_TRACES can name their directory")
    file = TRACES / "calls" / f"{name}.csv.gz"
    compare(file, count_calls(file), tmp_path)


AWK = 'BEGIN { for (i = 0; i < 5000; i++) { row[i] = sprintf("%1400d", i); delete row[i - 100] } }'


@pytest.mark.skipif(_pktalloc.recorder is None, reason="programs are recorded on Linux only")
@pytest.mark.parametrize("program", ["a Python program on aioquic", "a C program of the system"])
def test_a_recorded_program_counts_as_its_trace_does(program: str, tmp_path: Path) -> None:
    if program.startswith("a Python"):
        pytest.importorskip("aioquic", reason="the example needs it: pip install aioquic")
        example = Path(__file__).parents[1] / "examples" / "quic_transfer.py"
        if not example.exists():
            pytest.skip("the examples are not beside the tests")
        words = [sys.executable, str(example), "1"]
        least = 10_000
    else:
        awk = shutil.which("awk")
        if awk is None or not is_of_our_library(awk):
            pytest.skip("the system has no awk, or one for another C library than the interpreter's")
        words, least = ["awk", AWK], 5_000
    file = tmp_path / "calls.csv.gz"
    done = subprocess.run(
        [*COMMAND[:-1], "record", "--json", "-o", file, "--", *words], capture_output=True, check=True
    )
    said = json.loads(done.stdout.splitlines()[-1])
    counted = count_calls(file)
    calls = counted.facts["calls"]
    assert (said["allocated"], said["resized"], said["freed"], said["processes"]) == (
        *(calls[name] for name in ("allocate", "reallocate_copy", "free", "new")),
    )
    assert calls["allocate"] > least
    compare(file, counted, tmp_path)
