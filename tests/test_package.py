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


def test_the_import_warns_of_nothing() -> None:
    assert run("-W", "error", "-c", "import pktalloc") == ""


def test_the_version_is_that_of_the_metadata() -> None:
    assert pktalloc.__version__ == importlib.metadata.version("pktalloc")
