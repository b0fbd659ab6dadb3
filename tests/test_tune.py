"""The command `pktalloc tune`, and the page of `--report`."""

import gzip
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import pktalloc
from pktalloc._cli import report
from pktalloc._cli import tune as tuning

COMMAND = [sys.executable, "-m", "pktalloc"]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tune") / "packets.csv.gz"
    path.write_bytes(gzip.compress(b"# dt_us,size\n" + b"1,1400\n2,60\n1,700\n" * 700))
    return path


def trial(settings: dict[str, int | bool], ns: float, held: int) -> tuning.Trial:
    return tuning.Trial(settings, ns, ns / 10, held, held, 1000)


DEFAULT = trial({"alignment": 64, "window_bytes": 131072}, 10, 1_000_000)


def shape(alignment: int, window: int) -> dict[str, int | bool]:
    return {"alignment": alignment, "window_bytes": window}


def test_the_defaults_stay_unless_another_setting_is_clearly_better() -> None:
    cases: list[tuple[list[tuning.Trial], tuning.Trial | int]] = [
        ([trial(shape(32, 65536), 9.5, 900_000)], DEFAULT),
        ([trial(shape(32, 65536), 8.9, 1_000_000)], 0),
        ([trial(shape(32, 65536), 8.9, 1_300_000)], DEFAULT),
        ([trial(shape(32, 65536), 10.4, 790_000)], 0),
        ([trial(shape(32, 65536), 10.6, 790_000)], DEFAULT),
        ([trial(shape(32, 65536), 10, 700_000), trial(shape(16, 65536), 9, 600_000)], 1),
    ]
    for others, best in cases:
        expected = best if isinstance(best, tuning.Trial) else others[best]
        for order in [DEFAULT, *others], [*reversed(others), DEFAULT]:
            assert tuning.recommended(order, DEFAULT) == expected


@pytest.mark.parametrize(
    ("settings", "rust", "python"),
    [
        (shape(64, 131072), "pktalloc::Allocator::new();", "pktalloc.Allocator()"),
        (
            shape(32, 65536),
            "pktalloc::Allocator::<32, 2048>::default();",
            "pktalloc.Allocator(alignment=32, window_bytes=65536)",
        ),
        (
            shape(64, 131072) | {"keep_empty_windows": 0},
            "pktalloc::Allocator::with_config(pktalloc::Config::default().keep_empty_windows(0))?;",
            "pktalloc.Allocator(keep_empty_windows=0)",
        ),
        (
            shape(128, 131072) | {"huge_pages": True},
            "pktalloc::Allocator::<128, 1024>::with_config(pktalloc::Config::default().huge_pages(true))?;",
            "pktalloc.Allocator(alignment=128, huge_pages=True)",
        ),
    ],
    ids=["default", "shape", "setting", "both"],
)
def test_lines_can_be_pasted(settings: dict[str, int | bool], rust: str, python: str) -> None:
    assert tuning.rust_line(settings) == f"let allocator = {rust}"
    line = tuning.python_line(settings)
    assert line == f"allocator = {python}"
    exec(line, {"pktalloc": pktalloc})  # noqa: S102 - that it runs is what is promised


def test_all_shapes_are_tried_and_all_can_be_made() -> None:
    shapes = tuning.shapes()
    assert len(shapes) == 39
    assert shapes[0] == shape(64, 131072)
    for settings in shapes:
        pktalloc.Allocator(**settings)  # type: ignore[arg-type] # they are numbers, none is a flag


@pytest.fixture(scope="module")
def tuned(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    page = tmp_path_factory.mktemp("page") / "tune.html"
    done = run("tune", trace, "--json", "--report", page)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result, page.read_text()


def test_tuning_recommends_and_says_why(tuned: tuple[dict[str, Any], str]) -> None:
    result, _ = tuned
    documented = set(re.findall(r"`([a-z_]+)`", (Path(__file__).parents[1] / "docs" / "replay.md").read_text()))
    assert set(result) <= documented
    assert result["schema"] == "pktalloc-tune-1"
    assert (result["packets"], result["steps_tried"], result["shapes_tried"]) == (2100, 4200, 39)
    assert "recommended" in result["trials"][0]["why"]
    assert result["trials"][0]["settings"] == result["recommended"]
    assert any("default" in trial["why"] for trial in result["trials"])
    for one in result["trials"]:
        assert set(one) <= documented
    assert result["rust"].startswith("let allocator = pktalloc::")
    assert result["is_default"] == (result["python"] == "allocator = pktalloc.Allocator()")


@pytest.fixture(scope="module")
def replayed(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("page") / "replay.html"
    done = run("replay", trace, "--rounds", 3, "--allocators", "malloc", "--report", page)
    assert (done.returncode, done.stderr) == (0, "")
    return page


class Page(HTMLParser):
    """What matters of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, list[dict[str, str | None]]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.setdefault(tag, []).append(dict(attrs))


def test_a_page_needs_nothing_else(replayed: Path, tuned: tuple[dict[str, Any], str]) -> None:
    for text, pictures in (replayed.read_text(), 4), (tuned[1], 4):
        page = Page(text)
        assert "script" not in page.tags
        assert not re.search(r"(?:src|href)=\"(?!#)|url\(|@import", text)
        named = [svg for svg in page.tags["svg"] if svg.get("role") == "img"]
        assert len(named) == pictures
        assert all(svg.get("aria-label") for svg in named)
        # Tables have a caption and heads, and can be scrolled with the keyboard.
        assert len(page.tags["caption"]) >= 3
        assert all(head.get("scope") in {"col", "row"} for head in page.tags["th"])
        assert all(part.get("tabindex") == "0" for part in page.tags["div"] if part.get("class") == "scroll")
        assert page.tags["html"][0]["lang"] == "en"
        assert "viewport" in [meta.get("name") for meta in page.tags["meta"]]
        assert "prefers-color-scheme: dark" in text


@pytest.mark.skipif(sys.platform == "win32", reason="every name of a file is text on Windows")
def test_names_are_text_on_the_page(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"<b>\xff&.csv")
    path.write_text("# dt_us,size\n1,1400\n")
    page = tmp_path / "page.html"
    assert run("replay", path, "--rounds", 1, "--allocators", "malloc", "--report", page).returncode == 0
    assert "&lt;b&gt;\\udcff&amp;.csv" in page.read_text(encoding="utf-8")
    done = run("replay", path, "--report", path)
    assert (done.returncode, done.stdout) == (2, "")
    done = run("replay", path, "--report", page, "--map", page)
    assert (done.returncode, done.stderr) == (2, f"pktalloc: {page}: named for two outputs\n")


def test_figures_keep_the_digits_that_matter() -> None:
    assert [report.si(value) for value in (0, 999, 1000, 123_456, 5_000_000, 2e9)] == [
        "0",
        "999",
        "1 k",
        "123 k",
        "5 M",
        "2 G",
    ]
    assert [report.figure_of(value) for value in (4.66, 999.94, 1234.5)] == ["4.7", "999.9", "1,234"]
