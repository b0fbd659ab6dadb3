"""Follow every link and anchor of a built site that stays in it: scripts/check_links.py FOLDER."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page, and what links can lead to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[tuple[int, str]] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002, D102
        for name, value in attrs:
            if name in {"href", "src"} and value:
                self.links.append((self.getpos()[0], value))
            elif name in {"id", "name"} and value:
                self.anchors.add(value)


def is_source(path: Path, site: Path) -> bool:
    """Tell whether a page shows a source file of the crate: thousands of lines, each an anchor made when it is seen."""
    return "src" in path.relative_to(site).parts[:-1]


def main() -> int:
    """Print what leads nowhere."""
    site = Path(sys.argv[1]).resolve()
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if not is_source(path, site)}
    links = 0
    dead = []
    for path, page in pages.items():
        for line, link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            links += 1
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            # rustdoc escapes in the page what others escape in the link alone.
            anchors = {url.fragment, unquote(url.fragment)}
            if not target.is_file():
                dead.append(f"{path.relative_to(site)}:{line}: {link}: no such page")
            elif url.fragment and target in pages and not anchors & pages[target].anchors:
                dead.append(f"{path.relative_to(site)}:{line}: {link}: no such place in the page")
    print("\n".join(dead) or f"check_links: {links} links of {len(pages)} pages lead somewhere")
    return bool(dead)


if __name__ == "__main__":
    sys.exit(main())
