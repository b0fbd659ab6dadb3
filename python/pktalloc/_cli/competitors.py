"""The allocators of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PROBE = """
import ctypes, json, sys
found = {}
for name, libraries in json.loads(sys.argv[1]).items():
    for library in libraries:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        found[name] = library
        break
print(json.dumps(found))
"""
"""Loads libraries, and prints which could be loaded."""

OURS = "pktalloc"
MALLOC = "malloc"
LOOP = "loop"

LIBRARIES = {
    "jemalloc": ["libjemalloc.so.2", "libjemalloc.so", "libjemalloc.2.dylib", "libjemalloc.dylib"],
    "mimalloc": ["libmimalloc.so.3", "libmimalloc.so.2", "libmimalloc.so", "libmimalloc.dylib"],
    "tcmalloc": ["libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libtcmalloc_minimal.so", "libtcmalloc_minimal.dylib"],
    "snmalloc": ["libsnmallocshim.so", "libsnmallocshim.dylib"],
    "rpmalloc": ["librpmallocwrap.so", "librpmalloc.so"],
}
"""Names under which systems install them, the newest first."""

TUNABLES = "glibc.rtld.optional_static_tls=65536"
"""Allocators keep their state in thread-local memory of a kind that glibc has little of for libraries loaded late."""


class Competitor(NamedTuple):
    """An allocator to run."""

    name: str
    library: str | None = None


def installed(names: list[str]) -> list[Competitor]:
    """Those of the named libraries that can be loaded."""
    wanted = {name: LIBRARIES[name] for name in names}
    # In a process of its own: loading a library runs its initialisers.
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROBE, json.dumps(wanted)],
        capture_output=True,
        env=environment(),
        check=False,
        stdin=subprocess.DEVNULL,
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return []
    return [Competitor(name, library) for name, library in found.items()]


def environment() -> dict[str, str]:
    """The environment of a process that loads an allocator late."""
    tunables = [os.environ["GLIBC_TUNABLES"]] if os.environ.get("GLIBC_TUNABLES") else []
    return os.environ | {"GLIBC_TUNABLES": ":".join([*tunables, TUNABLES])}


def chosen(names: str | None) -> list[Competitor]:
    """The competitors that an option names; without it malloc, and every allocator that is known and found."""
    if names is None:
        return [Competitor(MALLOC), *installed(list(LIBRARIES))]
    wanted = list(dict.fromkeys(name for name in names.split(",") if name))
    found = {competitor.name: competitor for competitor in installed([name for name in wanted if name in LIBRARIES])}
    result = []
    for name in wanted:
        if name == MALLOC:
            result.append(Competitor(MALLOC))
        elif "/" in name or os.sep in name:
            result.append(Competitor(Path(name).name, str(Path(name).absolute())))
        elif name in found:
            result.append(found[name])
        elif name in LIBRARIES:
            message = f"{name} is not installed: tried {', '.join(LIBRARIES[name])}"
            raise ValueError(message)
        else:
            known = ", ".join([MALLOC, *LIBRARIES])
            message = f"--allocators: {name!r} is not one of {known}, nor the path of a library"
            raise ValueError(message)
    if not result:
        message = "--allocators names none to compare with"
        raise ValueError(message)
    return result
