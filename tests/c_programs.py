"""The C compiler that tests build programs and libraries with."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest


def compiler_for(what: str) -> str:
    """Return `CC`, or else `cc`, if it builds for the C library that the interpreter runs on; or skip the test."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip(f"no C compiler to build {what} with")
    machine = subprocess.run([compiler, "-dumpmachine"], check=True, capture_output=True, text=True).stdout
    if ("musl" in machine) != runs_on_musl():
        pytest.skip(f"{compiler} builds for another C library than the interpreter's; CC can name a compiler")
    return compiler


def runs_on_musl() -> bool:
    """Whether the interpreter's C library is musl."""
    return "musl" in str(sysconfig.get_config_var("SOABI"))


def is_of_our_library(program: str) -> bool:
    """Whether a program of the system runs on the interpreter's C library, so that what is preloaded into it can be."""
    return (b"/ld-musl-" in Path(program).read_bytes()) == runs_on_musl()
