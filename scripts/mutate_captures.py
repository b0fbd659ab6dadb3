"""Compare the replay's reader of captures with scapy's, on files that were damaged at random.

    python scripts/mutate_captures.py [--mutations N] [--seed S] [FILE ...]

Each FILE (without any: the capture that ships, and some that are written here) is read whole, then with bytes changed,
removed, repeated or cut off. What our reader takes must be packets that scapy finds too, as many bytes of them; what it
leaves out it must have said: refused, or read up to a place that it names. The exit status is 1 for anything else.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import logging
import random
import struct
import sys
import tempfile
from collections import Counter
from importlib.resources import files
from pathlib import Path

from scapy.utils import RawPcapNgReader, RawPcapReader

from pktalloc import _pktalloc

MOST_PACKETS = 100
"""Longer seeds are cut: what can go wrong is in the first records."""


class Warned(logging.Handler):
    """Notices that scapy gave up: it warns, and ends as if the file did."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what it says."""
        self.said.append(record.getMessage())


def theirs(path: Path, warned: Warned) -> tuple[list[int], bool]:
    """The sizes of the packets that scapy finds, and whether it was content with the file."""
    warned.said.clear()
    sizes: list[int] = []
    try:
        with RawPcapReader(str(path)) as reader:
            for _, metadata in reader:
                sizes.append(metadata.wirelen)
                if isinstance(reader, RawPcapNgReader) and warned.said:
                    break
    except Exception:  # noqa: BLE001 - it raises what its parts raise
        return sizes, False
    return sizes, not warned.said


def ours(path: Path) -> tuple[int, int, list[str]] | str:
    """Packets, bytes and notes, or what the reader refuses the file with."""
    try:
        _, facts = _pktalloc.load(path)
    except ValueError as error:
        return str(error)
    return facts["packets"], facts["bytes"], facts["notes"]


def disagreement(path: Path, warned: Warned, kinds: Counter[str]) -> str | None:  # noqa: PLR0911 - one each
    """What the two readers do not agree on, if anything."""
    mine = ours(path)
    if isinstance(mine, str):
        if not mine.startswith(f"{path}: ") or "\n" in mine:
            return f"refused without the name of the file: {mine}"
        kinds["refused"] += 1
        return None
    packets, size, notes = mine
    sizes, content = theirs(path, warned)
    if packets <= len(sizes):
        if sum(sizes[:packets]) != size:
            return f"{packets} packets of {size} bytes; scapy: {sum(sizes[:packets])}"
        if packets < len(sizes) and not notes:
            return f"{packets} packets and not a word of the others; scapy: {len(sizes)}"
        kinds["noted" if notes else "equal"] += 1
        return None
    if content:
        return f"{packets} packets; scapy: {len(sizes)}"
    # It gave up on something that a reader of lengths has no need of.
    if sum(sizes) > size:
        return f"{packets} packets of {size} bytes; scapy: {sum(sizes)} in the first {len(sizes)}"
    kinds["scapy gave up"] += 1
    return None


def block(order: str, kind: int, body: bytes) -> bytes:
    """A block of a pcapng."""
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def written_here() -> list[bytes]:
    """Small captures of all kinds."""
    found = []
    for order in "<", ">":
        for magic, header in (0xA1B2C3D4, 16), (0xA1B23C4D, 16):
            records = b"".join(
                struct.pack(order + "4I", 100 + n, n, 20 * n, 30 * n).ljust(header, b"\0") + bytes([n]) * (20 * n)
                for n in range(8)
            )
            found.append(struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 1) + records)
        section = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
        options = struct.pack(order + "HHB3xHHqHH", 9, 1, 9, 14, 8, 100, 0, 0)
        interface = block(order, 1, struct.pack(order + "HHI", 1, 0, 0) + options)
        packets = b"".join(
            block(order, 6, struct.pack(order + "5I", 0, 0, n, 12 * n, 50 * n) + bytes([n]) * (12 * n))
            + block(order, 0xBAD, bytes([n]) * n)
            for n in range(1, 6)
        )
        simple = block(order, 3, struct.pack(order + "I", 40) + bytes(40))
        found.append(section + interface + packets + simple)
    return found


def seeds(paths: list[Path]) -> list[bytes]:
    """What to damage."""
    found = []
    for path in paths:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        found.append(content[: 256 * MOST_PACKETS])
    demo = files("pktalloc").joinpath("data", "demo.pcapng").read_bytes()
    return found or [*written_here(), demo[: 100 * MOST_PACKETS]]


def mutated(content: bytes, random_numbers: random.Random) -> bytes:
    """The content with something wrong."""
    data = bytearray(content)
    for _ in range(random_numbers.choice([1, 1, 1, 2, 4])):
        if not data:
            break
        # Most of what matters is near the beginning, or in heads; the rest of a packet is never looked at.
        at = (
            random_numbers.randrange(len(data))
            if random_numbers.random() < 0.5
            else random_numbers.randrange(min(400, len(data)))
        )
        kind = random_numbers.randrange(7)
        if kind <= 1:
            data[at] ^= 1 << random_numbers.randrange(8)
        elif kind == 2:
            data[at] = random_numbers.choice([0, 1, 0x7F, 0x80, 0xFF, random_numbers.randrange(256)])
        elif kind == 3:
            word = random_numbers.choice([0, 1, 12, 2**16, 2**31, 2**32 - 1, random_numbers.randrange(300)])
            data[at : at + 4] = struct.pack(random_numbers.choice("<>") + "I", word)
        elif kind == 4:
            del data[at : at + random_numbers.choice([1, 4, 16, 64])]
        elif kind == 5:
            data[at:at] = data[at : at + random_numbers.choice([1, 4, 32, 100])]
        else:
            del data[at:]
    return bytes(data)


def run(files: list[Path], mutations: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Compare on each seed and on its mutations; how often what happened, and what the readers disagree on."""
    warned = Warned()
    logger = logging.getLogger("scapy")
    logger.handlers[:] = [warned]
    logger.propagate = False
    random_numbers = random.Random(seed)
    originals = seeds(files)
    kinds: Counter[str] = Counter()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        damaged = (mutated(random_numbers.choice(originals), random_numbers) for _ in range(mutations))
        for number, content in enumerate(itertools.chain(originals, damaged)):
            path.write_bytes(content)
            if (text := disagreement(path, warned, kinds)) is not None:
                kept = Path(tempfile.gettempdir()) / f"disagreement-{seed}-{number}.pcap"
                kept.write_bytes(content)
                found.append(f"{kept}: {text}; scapy says {warned.said[-1:]}")
    return kinds, found


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    kinds, found = run(options.files, options.mutations, options.seed)
    for text in found[:20]:
        print(text)
    print(f"{kinds.total() + len(found)} files: {dict(kinds)}, {len(found)} disagreements")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
