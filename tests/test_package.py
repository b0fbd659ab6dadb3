"""The package as it is installed: what importing it does, and what it says about itself."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pktalloc

# What an interpreter imports for pktalloc that it has not imported already: imports are slow by what they bring along.
IMPORTS = """
import sys
before = set(sys.modules)
import pktalloc
print(*sorted(name for name in set(sys.modules) - before if name.split(".")[0] != "pktalloc"))
"""


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


def test_the_import_brings_little_and_nothing_that_must_be_installed() -> None:
    brought = {name.split(".")[0] for name in run("-I", "-c", IMPORTS).split()}
    assert brought <= sys.stdlib_module_names
    # Each of these takes as long as the rest together.
    assert brought.isdisjoint(
        {"argparse", "asyncio", "ast", "dataclasses", "email", "inspect", "json", "logging", "socket", "typing"}
    )


def test_the_import_takes_less_than_15_ms_of_processor_time() -> None:
    # About 1 ms where it was measured; the best of five, since another program may have emptied the caches.
    code = "import time; start = time.process_time(); import pktalloc; print(time.process_time() - start)"
    assert min(float(run("-I", "-c", code)) for _ in range(5)) < 0.015


def test_the_import_warns_of_nothing() -> None:
    assert run("-W", "error", "-c", "import pktalloc") == ""


def test_the_version_is_that_of_the_metadata() -> None:
    assert pktalloc.__version__ == importlib.metadata.version("pktalloc")
