"""Look at the built site in a browser, as `make browse` does: scripts/browse_site.py FOLDER [PICTURES].

Every page of ours (not those of rustdoc) in both themes, at the width of a phone and of a desk: axe-core's rules for
WCAG 2.2 AA, contrast among them; nothing wider than the screen; and the keyboard, which must reach every link and
button that is shown, in sight and with a mark that it is there. With PICTURES, a folder, screenshots are left in it.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

WIDTHS = {"phone": (390, 844), "desk": (1280, 900)}
THEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

# What can be pressed and is shown, by its place among them.
MARK_STOPS = """() => {
    const stops = [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]')]
        .filter(e => e.tabIndex >= 0 && !e.disabled && e.checkVisibility({ visibilityProperty: true }));
    stops.forEach((e, i) => e.dataset.stop = i);
    return stops.length;
}"""
# The stop that has the keyboard: its number, what it is, whether it is in sight, and whether something is drawn around
# it (around its icon, for a check box that is not drawn itself).
FOCUSED = """() => {
    const e = document.activeElement;
    if (!e || e === document.body) return null;
    const box = e.getBoundingClientRect();
    const icons = getComputedStyle(e).opacity === '0' ? [...document.querySelectorAll(`label[for='${e.id}']`)] : [e];
    return [
        e.dataset.stop ?? '',
        e.outerHTML.slice(0, 90),
        box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight
            && box.right > 0 && box.left < innerWidth,
        icons.some(i => getComputedStyle(i).outlineStyle !== 'none'),
    ];
}"""
PLACE = "number => document.querySelector(`[data-stop='${number}']`).outerHTML.slice(0, 90)"


def keyboard(page: Page) -> Iterator[str]:
    """Go through the page with the tabulator, and yield what is wrong on the way."""
    count = page.evaluate(MARK_STOPS)
    reached = set()
    for _ in range(count + 5):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None:
            break
        number, what, in_sight, marked = focused
        if not in_sight:
            yield f"has the keyboard out of sight: {what}"
        if not marked:
            yield f"does not show that it has the keyboard: {what}"
        reached.add(number)
    missed = [number for number in range(count) if str(number) not in reached]
    for number in missed[:3]:
        yield f"is out of the keyboard's reach ({len(missed)} of {count} are): {page.evaluate(PLACE, number)}"


def look_at(page: Page, axe: Axe) -> Iterator[str]:
    """Yield what is wrong with a page as it is shown now."""
    rules = {"runOnly": {"type": "tag", "values": TAGS}}
    for rule in axe.run(page, options=rules).response["violations"]:
        node = rule["nodes"][0]
        yield f"{rule['help']} ({rule['id']}): {node['html'][:100]} {node['failureSummary'][:200]!r}"
    wide = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
    if wide > 0:
        yield f"is {wide} pixels wider than the screen"


def browse(browser: Browser, paths: list[Path], pictures: Path | None) -> dict[str, list[str]]:
    """Look at every page in every way; return what is wrong, with the places."""
    axe = Axe()
    wrong: dict[str, list[str]] = {}
    ways = [(width, size, theme) for width, size in WIDTHS.items() for theme in THEMES]
    for width, (across, down), theme in ways:
        context = browser.new_context(
            viewport={"width": across, "height": down}, color_scheme=theme, reduced_motion="reduce"
        )
        page = context.new_page()
        for path in paths:
            page.goto(path.as_uri())
            if pictures:
                page.screenshot(path=pictures / f"{path.stem}-{width}-{theme}.png")
            # The theme changes nothing about the way that the keyboard takes.
            found = itertools.chain(look_at(page, axe), keyboard(page) if theme == "light" else ())
            for what in found:
                wrong.setdefault(what, []).append(f"{path.stem} ({width}, {theme})")
        context.close()
    return wrong


def main() -> int:
    """Run from the command line."""
    site = Path(sys.argv[1]).resolve()
    pictures = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        print("make browse: skipped: no browser found: install chromium")
        return 0
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    paths = sorted(site.glob("*.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        wrong = browse(browser, paths, pictures)
        version = browser.version
        browser.close()
    for what, where in wrong.items():
        print(f"{', '.join(where[:4])}{f' and {len(where) - 4} more' if len(where) > 4 else ''}: {what}")
    if wrong:
        print(f"make browse: FAILED: {len(wrong)} faults")
        return 1
    print(f"make browse: {len(paths)} pages, phone and desk, light and dark: nothing wrong (Chromium {version})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
