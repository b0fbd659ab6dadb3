"""The pages of `--report`, as a browser shows them: to the eye, to the keyboard, and to a screen reader."""

import gzip
import importlib.resources
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import Browser

COMMAND = [sys.executable, "-m", "pktalloc"]
PICTURES = 4
"""Of each page: times, memory, sizes, lifetimes."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each command."""
    folder = tmp_path_factory.mktemp("report")
    trace = folder / "packets.csv.gz"
    trace.write_bytes(gzip.compress(b"# dt_us,size\n" + b"1,1400\n2,60\n1,700\n" * 700))
    found = {"replay": folder / "replay.html", "tune": folder / "tune.html"}
    demo = importlib.resources.files("pktalloc") / "data" / "demo.pcapng"
    with importlib.resources.as_file(demo) as capture:
        options: list[str | Path] = ["--rounds", "3", "--allocators", "malloc", "--report", found["replay"]]
        subprocess.run([*COMMAND, "replay", capture, *options], check=True, capture_output=True)
    subprocess.run([*COMMAND, "tune", trace, "--report", found["tune"]], check=True, capture_output=True)
    return found


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    """One browser for all tests."""
    with Browser() as browser:
        yield browser


@pytest.fixture(params=["replay", "tune"])
def page(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Path:
    """Each of the pages in turn."""
    return pages[request.param]


TEXTS = "h1, h2, p, td, th, caption, figcaption, summary"
OPEN_ALL = "document.querySelectorAll('details').forEach(each => each.open = true)"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_fits_and_asks_for_nothing(running: Browser, page: Path, width: int, theme: str) -> None:
    running.show(page, width=width, theme=theme)
    for _ in range(2):
        wide = running.ask("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1] == width
        # Whatever is wider than its place can be scrolled where it is.
        assert running.ask(
            "[...document.querySelectorAll('table, svg, pre')].every(each => {"
            "  const box = each.closest('.scroll') ?? document.body;"
            "  return each.scrollWidth <= box.clientWidth || getComputedStyle(box).overflowX === 'auto'})"
        )
        # Nothing is set in letters that nobody can read.
        sizes = running.ask(
            f"[...document.querySelectorAll('{TEXTS}, figure > .scroll > svg text')]"
            ".filter(each => each.textContent.trim() && each.getBoundingClientRect().height > 0)"
            ".map(each => parseFloat(getComputedStyle(each).fontSize)"
            "  * (each.ownerSVGElement ? Math.hypot(each.getScreenCTM().a, each.getScreenCTM().b) : 1))"
        )
        assert len(sizes) > 50
        assert min(sizes) > 7.5
        running.ask(OPEN_ALL)
    requests = [each["request"]["url"] for each in running.happened("Network.requestWillBeSent")]
    assert requests == [page.as_uri()]
    assert running.happened("Runtime.exceptionThrown") == running.happened("Log.entryAdded") == []
    assert running.happened("Runtime.consoleAPICalled") == []


def luminance(colour: list[float]) -> float:
    """As the guidelines for accessible content define it."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """From 1, for the same colour, to 21."""
    colours = [[int(part) / 255 for part in re.findall(r"\d+", colour)[:3]] for colour in (first, second)]
    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_stand_out_in_both_themes(running: Browser, page: Path, theme: str) -> None:
    running.show(page, theme=theme)
    running.ask(OPEN_ALL)
    back = running.ask("getComputedStyle(document.body).backgroundColor")
    assert luminance([int(part) / 255 for part in re.findall(r"\d+", back)[:3]]) > 0.9 or theme == "dark"
    assert luminance([int(part) / 255 for part in re.findall(r"\d+", back)[:3]]) < 0.05 or theme == "light"
    texts = running.ask(f"[...document.querySelectorAll('{TEXTS}, code')].map(each => getComputedStyle(each).color)")
    assert min(contrast(colour, back) for colour in texts) >= 4.5
    labels = running.ask(
        "[...document.querySelectorAll('figure > .scroll > svg text')]"
        ".filter(each => each.textContent.trim() && each.getBoundingClientRect().height > 0)"
        ".map(each => getComputedStyle(each).fill)"
    )
    assert len(labels) > 20
    assert min(contrast(colour, back) for colour in labels) >= 4.5
    drawn = running.ask(
        "[...document.querySelectorAll('figure > .scroll > svg .series rect, figure > .scroll > svg .series path')]"
        ".map(each => getComputedStyle(each))"
        ".map(each => each.fill.startsWith('rgb') ? each.fill : each.stroke).filter(each => each.startsWith('rgb'))"
    )
    assert len(drawn) > 10
    assert min(contrast(colour, back) for colour in drawn) >= 3


FOCUSED = (
    "(() => { const each = document.activeElement, box = each.getBoundingClientRect(), style = getComputedStyle(each);"
    "  return {place: [...document.querySelectorAll('*')].indexOf(each), tag: each.tagName,"
    "    outlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0,"
    "    seen: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth}; })()"
)
REACHABLE = (
    "[...document.querySelectorAll('summary, .scroll')].filter(each => each.checkVisibility()"
    "  && !(each.parentElement.closest('details:not([open])') && each.tagName !== 'SUMMARY'))"
    ".map(each => [...document.querySelectorAll('*')].indexOf(each))"
)


def tab_through(browser: Browser) -> list[dict[str, Any]]:
    """What has the focus after each press of the tabulator key, up to the end of the page."""
    stops: list[dict[str, Any]] = []
    while len(stops) < 100:
        browser.press("Tab", 9)
        stop = browser.ask(FOCUSED)
        if stop["tag"] == "BODY" or (stops and stop["place"] == stops[0]["place"]):
            break
        stops.append(stop)
    return stops


@pytest.mark.parametrize("width", [360, 1600])
def test_the_keyboard_reaches_everything(running: Browser, page: Path, width: int) -> None:
    running.show(page, width=width)
    closed = tab_through(running)
    assert [stop["place"] for stop in closed] == running.ask(REACHABLE)
    assert all(stop["outlined"] and stop["seen"] for stop in closed), closed
    summaries = [stop["place"] for stop in closed if stop["tag"] == "SUMMARY"]
    assert len(summaries) >= 2

    # Each summary opens with the keyboard, and what it hides comes next.
    running.show(page, width=width)
    opened = 0
    for _ in range(100):
        running.press("Tab", 9)
        if running.ask("document.activeElement.tagName") == "BODY":
            break
        if running.ask("document.activeElement.matches('details:not([open]) > summary')"):
            running.press("Enter", 13, "\r")
            assert running.ask("document.activeElement.parentElement.open")
            opened += 1
            if opened == len(summaries):
                break
    assert opened == len(summaries)
    assert running.ask("document.querySelectorAll('details:not([open])').length") == 0
    running.ask("document.activeElement.blur(), scrollTo(0, 0)")
    running.show(page, width=width)
    running.ask(OPEN_ALL)
    everything = tab_through(running)
    assert [stop["place"] for stop in everything] == running.ask(REACHABLE)
    assert len(everything) > len(closed)
    assert all(stop["outlined"] and stop["seen"] for stop in everything), everything


def test_wide_tables_scroll_with_the_arrows(running: Browser, page: Path) -> None:
    running.show(page, width=360)
    wide = "[...document.querySelectorAll('.scroll')].find(each => each.scrollWidth > each.clientWidth)"
    running.ask(f"{wide}.focus()")
    assert running.ask(f"{wide}.scrollLeft") == 0
    running.press("ArrowRight", 39)
    running.ask_until(f"{wide}.scrollLeft > 0")


def value(node: dict[str, Any], key: str) -> str:
    """What the accessibility tree says of a node."""
    return str(node.get(key, {}).get("value", ""))


def test_a_screen_reader_finds_names_and_heads(running: Browser, page: Path) -> None:
    running.show(page)
    running.ask(OPEN_ALL)
    nodes = running.call("Accessibility.getFullAXTree")["nodes"]
    by_id = {node["nodeId"]: node for node in nodes}
    shown = [node for node in nodes if not node.get("ignored")]

    def of_role(*roles: str) -> list[dict[str, Any]]:
        return [node for node in shown if value(node, "role") in roles]

    def below(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for child in node.get("childIds", []):
            yield by_id[child]
            yield from below(by_id[child])

    assert len(of_role("main")) == 1
    levels = [
        next(each["value"]["value"] for each in node["properties"] if each["name"] == "level")
        for node in of_role("heading")
    ]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}
    assert all(value(node, "name") for node in of_role("heading"))

    # Every picture says what it shows, and is one thing and not a hundred bars.
    pictures = of_role("image")
    assert len(pictures) == running.ask("document.querySelectorAll('[role=img]').length") >= PICTURES
    assert running.ask("[...document.querySelectorAll('svg')].every(each => each.closest('[role=img]'))")
    for picture in pictures:
        assert len(value(picture, "name")) > 10
        assert all(each.get("ignored") for each in below(picture)), picture

    tables = of_role("table")
    in_document = running.ask("document.querySelectorAll('table').length")
    assert len(tables) == in_document >= 4
    names = [value(table, "name") for table in tables]
    assert all(names)
    assert len(set(names)) == len(names)
    for table in tables:
        parts = [value(node, "role") for node in below(table) if not node.get("ignored")]
        rows = parts.count("row")
        assert rows >= 2
        # A head for each row, but for the one of the heads of the columns.
        assert parts.count("rowheader") in {rows - 1, rows}, value(table, "name")
        assert parts.count("columnheader") >= 2 or parts.count("rowheader") == rows, value(table, "name")
        assert parts.count("cell") >= rows - 1
    for region in of_role("region"):
        assert value(region, "name")
    triangles = of_role("DisclosureTriangle", "button")
    assert len(triangles) == running.ask("document.querySelectorAll('summary').length")
    assert all(value(node, "name") for node in triangles)
