"""What can be said here about Windows: that the tests and the command line ask for nothing that it does not have."""

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


COMMAND = """
import sys, windows_names
windows_names.become()
from pktalloc import _cli
sys.exit(_cli.main(sys.argv[1:]))
"""


def as_on_windows(*words: object) -> subprocess.CompletedProcess[str]:
    """Run an interpreter that finds the plugin."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)


def test_every_module_of_tests_can_be_collected() -> None:
    plugins = ["-p", "windows_names", "-p", "no:cacheprovider"]
    done = as_on_windows("-m", "pytest", *plugins, "-s", "-q", "--tb=native", "--collect-only", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    # Skipped modules say what is missing.
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert any("datagrams in batches are there on Linux" in line for line in skipped)


def test_the_command_line_writes_its_files(trace: Path, tmp_path: Path) -> None:
    picture, page = tmp_path / "map.svg", tmp_path / "page.html"
    # One that is there and one that is not are opened in two ways.
    picture.write_text("something longer than nothing\n" * 100_000)
    options = ["--rounds", "1", "--allocators", "malloc", "--json", "--map", picture, "--report", page]
    done = as_on_windows("-c", COMMAND, "replay", trace, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["packets"] == 100
    assert picture.read_text().endswith("</svg>\n")
    assert page.read_text().endswith("</html>\n")


def test_the_command_line_says_that_nothing_is_recorded() -> None:
    done = as_on_windows("-c", COMMAND, "record", "--", sys.executable, "-c", "")
    assert (done.returncode, done.stderr) == (2, "pktalloc: programs are recorded on Linux only\n")


def test_what_is_for_linux_says_so() -> None:
    done = as_on_windows("-c", "import windows_names\nwindows_names.become()\nimport pktalloc.aio")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: pktalloc.aio is for Linux, ")
    assert last.endswith("this system is win32")
