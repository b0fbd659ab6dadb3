"""Lists what the crate offers to others, one declaration a line, from rustdoc's JSON and the sources it points to.

`make api` writes docs/public-api.txt; `make lint` fails while that differs, so that no change of what others build on
goes unseen.
"""

import argparse
import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Traits that the compiler gives by itself, but that users build on.
AUTO_TRAITS = ("Send", "Sync")
# Traits that come with a derived one and that nobody names.
UNNAMED_TRAITS = ("StructuralPartialEq",)
# The source of what a macro makes is where the macro is used.
MACRO = re.compile(r"\w+!\(")
# The format of rustdoc's JSON, which changes with the compiler: that of Rust 1.95.
FORMAT = 57


class Crate:
    """What rustdoc wrote, and the sources beside it."""

    def __init__(self, path: Path) -> None:
        document = json.loads(path.read_text())
        self.format: int = document["format_version"]
        self.index: dict[str, Any] = document["index"]
        self.root = str(document["root"])
        self.sources: dict[str, list[str]] = {}

    def item(self, number: int | str) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
        """The kind, the particulars and the whole of an item; None for one of another crate or a hidden one."""
        item = self.index.get(str(number))
        if item is None:
            return None
        [(kind, inner)] = item["inner"].items()
        return kind, inner if isinstance(inner, dict) else {}, item

    def declaration(self, item: dict[str, Any]) -> str:
        """The source of an item up to its body, on one line."""
        span = item["span"]
        lines = self.sources.setdefault(span["filename"], (ROOT / span["filename"]).read_text().splitlines())
        (first, start), (last, end) = span["begin"], span["end"]
        text = lines[first - 1 : last]
        text[-1] = text[-1][: end - 1]
        text[0] = text[0][start - 1 :]
        code = " ".join(" ".join(line.split("//")[0] for line in text).split())
        declaration = re.split(r"\s*(?:where\s*)?[{]|;(?![^\[]*\])", code)[0].strip()
        return re.sub(r",? ([)>])(?!=)", r"\1", re.sub(r"([(<]) ", r"\1", declaration)).rstrip(",")


def listing(crate: Crate) -> Iterator[str]:
    """Every declaration that others can use, after the path by which they do."""
    yield from module(crate, crate.root, "pktalloc")


def module(crate: Crate, number: str, path: str) -> Iterator[str]:
    """The declarations of a module, re-exports under their new names."""
    found = crate.item(number)
    for child in found[1]["items"] if found else []:
        target = crate.item(child)
        if target is not None and target[0] == "use":
            target = crate.item(target[1]["id"])
        if target is None:
            continue
        kind, inner, item = target
        name = f"{path}::{item['name']}"
        if kind == "module":
            yield f"{name}: mod"
            yield from module(crate, str(item["id"]), name)
        else:
            yield f"{name}: {crate.declaration(item)}"
            yield from members(crate, kind, inner, name)


def members(crate: Crate, kind: str, inner: dict[str, Any], name: str) -> Iterator[str]:
    """Fields, variants, and what is implemented."""
    if kind == "struct":
        fields = inner["kind"].get("plain", {}).get("fields", []) if isinstance(inner["kind"], dict) else []
        yield from (f"{name}: {declared}" for declared in declarations(crate, fields))
    for variant in inner.get("variants", []):
        found = crate.item(variant)
        if found is None:
            continue
        shape = found[1]["kind"]
        fields = shape["struct"]["fields"] if isinstance(shape, dict) and "struct" in shape else []
        inside = f" {{ {', '.join(declarations(crate, fields))} }}" if fields else ""
        text = found[2]["name"] if fields else crate.declaration(found[2])
        yield f"{name}::{text}{inside}"
    if kind == "trait":
        yield from (f"{name}: {declared}" for declared in declarations(crate, inner["items"]))
    derived = []
    for number in inner.get("impls", []):
        found = crate.item(number)
        if found is None:
            continue
        if "automatically_derived" in json.dumps(found[2]["attrs"]):
            derived.append(found[1]["trait"]["path"])
        else:
            yield from implementation(crate, found[1], found[2], name)
    if derived:
        yield f"{name}: derive({', '.join(sorted(trait for trait in derived if trait not in UNNAMED_TRAITS))})"


def implementation(crate: Crate, inner: dict[str, Any], item: dict[str, Any], name: str) -> Iterator[str]:
    """The public methods of an inherent implementation, or the head of a trait's."""
    trait = inner["trait"]
    if trait is None:
        for number in inner["items"]:
            found = crate.item(number)
            if found is not None and found[2]["visibility"] == "public":
                declared = crate.declaration(found[2])
                by_macro = f"pub fn {found[2]['name']} by {declared}" if MACRO.match(declared) else declared
                yield f"{name}: {by_macro}"
    elif inner["is_synthetic"]:
        if trait["path"] in AUTO_TRAITS:
            yield f"{name}: {'!' if inner['is_negative'] else ''}{trait['path']}"
    elif inner["blanket_impl"] is None:
        declared = crate.declaration(item)
        by_macro = f"impl {trait['path']} by {declared}" if MACRO.match(declared) else declared
        yield f"{name}: {by_macro}"


def declarations(crate: Crate, numbers: list[int]) -> Iterator[str]:
    """The declarations of those items that are not hidden."""
    for number in numbers:
        found = crate.item(number)
        if found is not None:
            yield crate.declaration(found[2])


def main() -> None:
    """Writes the listing, or compares it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, help="what `rustdoc --output-format json` wrote")
    parser.add_argument("listing", type=Path, help="the file to write")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file differs")
    arguments = parser.parse_args()

    crate = Crate(arguments.json)
    if crate.format != FORMAT:
        print(
            f"public_api.py: {arguments.listing} goes unchecked: this compiler's rustdoc writes format {crate.format}"
        )
        print(f"public_api.py: and this script reads {FORMAT}, that of Rust 1.95")
        return
    lines = [f"{line}\n" for line in sorted(set(listing(crate)))]
    if not arguments.check:
        arguments.listing.write_text("".join(lines))
        return
    recorded = arguments.listing.read_text().splitlines(keepends=True)
    difference = list(difflib.unified_diff(recorded, lines, "recorded", "in the sources"))
    if difference:
        print(*difference, sep="", end="")
        raise SystemExit(f"public_api.py: {arguments.listing} is out of date: review the difference, then `make api`")


if __name__ == "__main__":
    main()
