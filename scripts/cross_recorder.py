"""Record a C program on other processors and C libraries: `make cross` calls this, with what it set up.

    python scripts/cross_recorder.py FOLDER

The recorder (src/recorder) and tests/record_program.c are compiled for each target into FOLDER, with zig as the linker
and the C compiler, and run there: under qemu, or with the target's own dynamic linker. What cannot be had here is said,
and skipped. Prints a line for each target; exit status 1 if one fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pktalloc import _pktalloc

ROOT = Path(__file__).parents[1]
THREADS, CALLS = 8, 10_000
"""What the program does with blocks of 1001 bytes, as its threads and as its child."""
EXPECTED = {"plain": 0, "threads": THREADS * CALLS, "fork": CALLS, "crash": 0}


class Target(NamedTuple):
    """Where a program runs."""

    rust: str
    zig: str
    package: str | None
    """Debian's package with the C library; `None` where there is none, and the target is only compiled for."""
    launcher: list[str]
    """What starts a program, in the folder of the package."""
    preload: list[str]
    """Its option that preloads a library."""


TARGETS = [
    Target(
        *("aarch64-unknown-linux-gnu", "aarch64-linux-gnu", "libc6-arm64-cross"),
        *(["qemu-aarch64", "-L", "usr/aarch64-linux-gnu"], ["-E", "LD_PRELOAD={}"]),
    ),
    Target("aarch64-unknown-linux-musl", "aarch64-linux-musl", None, [], []),
    Target("x86_64-unknown-linux-musl", "x86_64-linux-musl", "musl", ["lib/ld-musl-x86_64.so.1"], ["--preload", "{}"]),
    Target(
        *("i686-unknown-linux-gnu", "x86-linux-gnu", "libc6-i386"),
        *(["lib32/ld-linux.so.2", "--library-path", "lib32"], ["--preload", "{}"]),
    ),
]


class SkippedError(Exception):
    """Why a target cannot be tried here."""


def run(command: list[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command, with its output kept."""
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def build(command: list[str | Path], **environment: str) -> None:
    """Run a command that must work."""
    done = run(command, **environment)
    if done.returncode:
        raise SystemExit(" ".join(map(str, command)) + "\n" + done.stderr)


def compiled(target: Target, folder: Path) -> tuple[Path, Path]:
    """The recorder and the program."""
    installed = run(["rustc", "--print", "target-libdir", "--target", target.rust]).stdout.strip()
    if not Path(installed).is_dir():
        raise SkippedError(f"no standard library: rustup target add {target.rust}")
    linker, library, binary = (folder / f"{target.zig}.{end}" for end in ("sh", "so", "out"))
    linker.write_text(f'#!/bin/sh\nexec cargo-zigbuild zig cc -- -target {target.zig} "$@"\n')
    linker.chmod(0o755)
    options = ["-C", "opt-level=3", "-C", "panic=abort", "-C", "codegen-units=1", "-C", "target-feature=-crt-static"]
    rustc: list[str | Path] = [
        "rustc",
        "--crate-type",
        "cdylib",
        "--crate-name",
        "pktalloc_record",
        "--edition",
        "2024",
    ]
    rustc += [*options, "-C", f"linker={linker}", "--target", target.rust, "-o", library]
    build([*rustc, ROOT / "src" / "recorder" / "lib.rs"])
    dynamic = ["-dynamic"] if "musl" in target.zig else []
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", target.zig, "-O1", "-fno-builtin", "-pthread", *dynamic]
    build([*zig, "-o", binary, ROOT / "tests" / "record_program.c"])
    return library, binary


def library_root(package: str, folder: Path) -> Path:
    """The files of a package."""
    root = folder / f"root-{package}"
    if not root.is_dir():
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise SkippedError(f"no apt-get to fetch {package} with")
        download = f"apt-get -qq -o APT::Sandbox::User=root download {package}"
        fetch = f"{download} && dpkg-deb -x {package}_*.deb root-{package}"
        if subprocess.run(["sh", "-c", fetch], cwd=folder, check=False, capture_output=True).returncode:
            raise SkippedError(f"{package} could not be fetched")
    return root


def record(target: Target, package: str, folder: Path, library: Path, binary: Path) -> None:
    """Record the program in each of its ways."""
    root = library_root(package, folder)
    launcher = [str(root / word) if (root / word).exists() else word for word in target.launcher]
    if not shutil.which(launcher[0]):
        raise SkippedError(f"no {launcher[0]}")
    notes, trace = folder / "notes", folder / "trace.csv"
    for what, calls in EXPECTED.items():
        with notes.open("w+b") as file:
            _pktalloc.begin_recording(file.fileno(), 300_000, 64, 1 << 20)
        preload = [word.format(library) for word in target.preload]
        done = run([*launcher, *preload, binary, what], PKTALLOC_RECORD=str(notes))
        with notes.open("rb") as file, trace.open("wb") as out:
            found = _pktalloc.end_recording(file.fileno(), out.fileno(), False)
        rows = [line.split(",") for line in trace.read_text().splitlines()]
        seen = Counter((row[0], row[3]) for row in rows)
        counts = [seen["allocate", size] for size in ("1001", "1003", "1037")]
        if counts != [calls, 1, 1] or found["unfinished"] or (done.returncode == 0) != (what != "crash"):
            raise SystemExit(f"{target.rust}: {what}: {counts}, {found}, {done.returncode}: {done.stderr}")


def main() -> int:
    """Run from the command line."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for target in TARGETS:
        try:
            library, binary = compiled(target, folder)
            if target.package is None:
                print(f"recorder: {target.rust}: compiled and linked; there is no C library to run it with")
                continue
            record(target, target.package, folder, library, binary)
            print(f"recorder: {target.rust}: recorded threads, a fork and a crash")
        except SkippedError as why:
            print(f"recorder: {target.rust}: skipped: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
