"""Every code block of the README and of the pages in docs/ is a test, or says something that is checked."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pktalloc import Allocator

ROOT = Path(__file__).parent.parent
# The pages whose Python examples are for Linux alone.
LINUX = {"docs/datagrams.md"}
MEMORY_PAGES = ("docs/memory.md", "docs/parameters.md", "docs/queues.md", "src/config.rs")
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            path.relative_to(ROOT).as_posix(),
            text.count("\n", 0, match.start()) + 1,
            re.split(r"[\s,]", match[1], maxsplit=1)[0],
            match[2],
        )
        for match in FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES if page.exists() for block in blocks_of(page)]


def blocks_in(*languages: str) -> list[pytest.param]:  # type: ignore[valid-type]
    return [pytest.param(block, id=block.place) for block in BLOCKS if block.language in languages]


def commands_of(block: Block) -> list[list[str]]:
    """Return the commands that a console block shows behind a `$`."""
    lines = [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]


def test_there_are_examples_on_the_pages_that_people_read_first() -> None:
    for page in ("README.md", "docs/index.md", "docs/start.md"):
        assert {block.language for block in BLOCKS if block.page == page} >= {"python", "rust"}, page


@pytest.mark.parametrize("block", blocks_in("python"))
def test_a_python_example_runs(block: Block) -> None:
    if block.page in LINUX and sys.platform != "linux":
        pytest.skip("the page is about what only Linux has")
    code = "\n" * block.line + block.text
    exec(compile(code, ROOT / block.page, "exec"), {"__name__": "__main__"})  # noqa: S102


def test_rust_examples_are_tests_of_the_crate() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/lib.rs", ROOT / "src/guide.rs"))
    included = set(re.findall(r'include_str!\("\.\./([^"]+)"\)', sources))
    assert {block.page for block in BLOCKS if block.language == "rust"} <= included


@pytest.mark.parametrize("block", blocks_in("toml"))
def test_a_toml_example_is_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", blocks_in("console"))
def test_commands_that_are_shown_exist(block: Block) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = commands_of(block)
    assert commands, block.place
    for command in commands:
        program = Path(command[0]).name
        if program == "make":
            names = [word for word in command[1:] if "=" not in word]
            assert set(names) <= targets, command
        elif program == "pktalloc" or command[1:3] == ["-m", "pktalloc"]:
            words = command[command.index("pktalloc") + 1 :] if program != "pktalloc" else command[1:]
            # What follows is another program's.
            words = words[: words.index("--")] if "--" in words else words
            run = subprocess.run(
                [sys.executable, "-m", "pktalloc", words[0], "--help"], capture_output=True, text=True, check=False
            )
            assert run.returncode == 0, run.stderr
            options = {word.split("=")[0] for word in words if word.startswith("--")}
            assert options <= set(re.findall(r"--[a-z][a-z-]*", run.stdout)), command
        else:
            assert program in {"cargo", "cd", "pip", "tcpdump"}, command


def test_no_block_is_in_a_language_that_nothing_checks() -> None:
    checked = {"console", "python", "rust", "toml"}
    drawings_and_markup = {"text", "{toctree}", "{include}", "{eval-rst}"}
    for block in BLOCKS:
        assert block.language in checked | drawings_and_markup, f"{block.place} is in {block.language!r}"


def table_below(text: str, heading: str) -> list[dict[str, str]]:
    """Return the rows of the first table below a heading, by column, without emphasis and units."""
    rows = re.search(r"(?:^\|.*\n)+", text[text.index(f"\n## {heading}\n") :], re.MULTILINE)
    assert rows, heading
    cells = [
        [re.sub(r"\*|ns|[(),]|, best", "", cell).strip() for cell in line.strip("|").split("|")]
        for line in rows[0].splitlines()
    ]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_the_figures_of_the_readme_are_those_of_the_page_on_performance() -> None:
    same = {
        "": "what",
        "a ring that can do nothing else": "floor",
        "jemalloc": "jemalloc best",
        "malloc glibc": "malloc",
    }
    page = table_below((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), "Where it stands")
    rows = table_below((ROOT / "README.md").read_text(encoding="utf-8"), "Figures")
    assert rows
    for row in rows:
        figures = {same.get(name, name): figure for name, figure in row.items() if name and figure}
        assert any(figures.items() <= other.items() for other in page), (
            f"README.md has figures that docs/performance.md has not: {row}"
        )


def test_what_an_allocation_costs_in_python_is_the_same_everywhere() -> None:
    pages = {
        name: " ".join((ROOT / name).read_text(encoding="utf-8").split())
        for name in ("README.md", "docs/python.md", "docs/performance.md")
    }
    ratio = {
        call: re.search(rf"\| `{re.escape(call)}` and drop \|[^|]*\|[^|]*\| ([0-9.]+) \|", pages["docs/python.md"])[1]  # type: ignore[index]
        for call in ("allocate(1400)", "allocate_many(1400, 64)")
    }
    said = f"`allocate(1400)` costs {ratio['allocate(1400)']} of `bytearray(1400)`"
    assert said in pages["README.md"]
    batch = f"{said}, and a packet of a batch {ratio['allocate_many(1400, 64)']}"
    assert batch in pages["docs/performance.md"]


@pytest.mark.skipif(sys.platform != "linux" or sys.maxsize < 1 << 32, reason="the figures are those of 64-bit Linux")
def test_what_an_allocator_takes_is_what_the_pages_say() -> None:
    pages = {name: " ".join((ROOT / name).read_text(encoding="utf-8").split()) for name in MEMORY_PAGES}

    def begins_with(**settings: Any) -> int:
        with Allocator(**settings) as allocator:
            allocator.allocate(1400)
            return allocator.allocated_bytes

    first, small, bookkeeping = begins_with(), begins_with(window_bytes=16 << 10), begins_with() - (256 << 10)
    said = f"holds {first:,} bytes: two windows and {bookkeeping:,} bytes of bookkeeping"
    assert said in pages["docs/memory.md"]
    assert f"two windows of 128 KiB and {bookkeeping:,} bytes of bookkeeping" in pages["docs/queues.md"]
    assert f"from its first packet on: {first:,} bytes" in pages["docs/parameters.md"]
    assert f"windows of 16 KiB and begins with {small:,} bytes" in pages["docs/parameters.md"]
    with pytest.raises(ValueError, match="memory_limit is 1 byte") as refused:
        Allocator(memory_limit=1)
    least = int(str(refused.value).split("at least ")[1].split(":")[0])
    for page in "docs/parameters.md", "src/config.rs":
        assert f"{least:,} bytes" in pages[page].replace("/// ", ""), page


@pytest.mark.skipif(not (ROOT / "fuzz").is_dir(), reason="looks at the whole repository")
def test_files_and_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:benches|docs|examples|fuzz|python|scripts|src|tests)/[\w./-]+)`", text):
            assert (ROOT / name).exists(), f"{page.name} names {name}"
        for target in re.findall(r"`make ([a-z-]+)", text):
            assert target in targets, f"{page.name} names make {target}"


@pytest.mark.skipif(not (ROOT / "fuzz").is_dir(), reason="looks at the whole repository")
def test_tests_that_show_what_packets_do_exist() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for path in [*ROOT.glob("tests/**/*.rs"), *ROOT.glob("src/**/*.rs")]
    )
    rows = table_below((ROOT / "docs" / "packets.md").read_text(encoding="utf-8"), "Beside the others")
    names = [name for row in rows for name in re.findall(r"`([a-z_]+)`", row["shown by"])]
    assert len(names) > 10
    for name in names:
        assert f"fn {name}(" in sources, name
