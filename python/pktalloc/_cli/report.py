"""The report: one page with everything in it, which needs neither scripts nor a network.

Pictures are drawn by pygal, as SVG, with colours that are variables of the page's style, which follows the reader's
light or dark theme. Under each picture are its figures, as a table.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from pktalloc._cli import charts, tables
from pktalloc._cli.replay import MOST_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_ROWS = 40
"""Of a table under a picture."""

STYLE = """\
:root { color-scheme: light dark; --back: #fff; --front: #1c2126; --soft: #59636e; --line: #d5dae0;
  --c0: #0b5cad; --c1: #b5470a; --c2: #1a7f37; --c3: #8250df; --c4: #b3145c; --c5: #6b5900; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181d; --front: #e6e9ed; --soft: #a3adb8; --line: #3a424c;
    --c0: #6cb2ff; --c1: #ff9c5c; --c2: #5fd27d; --c3: #c4a1ff; --c4: #ff86b6; --c5: #d9c34a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--back); color: var(--front);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
.verdict { font-size: 1.1rem; border-left: 0.3rem solid var(--c0); padding-left: 0.8rem; }
.scroll { overflow-x: auto; } .scroll:focus-visible, summary:focus-visible { outline: 0.15rem solid var(--c0); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: 0.4rem; }
th, td { padding: 0.3rem 0.8rem 0.3rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  overflow-wrap: normal; }
th:first-child, td:first-child, .facts td { text-align: left; } .facts td { overflow-wrap: anywhere; }
figure { margin: 0; } figcaption, .note { color: var(--soft); }
figure svg { display: block; width: 100%; min-width: 34rem; height: auto; }
.map { background: #fff; } details { margin: 0.5rem 0; } summary { cursor: pointer; }
pre { width: max-content; min-width: 100%; padding: 0.6rem; border: 1px solid var(--line); }
"""


def replay_page(
    result: dict[str, Any], profile: dict[str, Any], moments: list[list[list[int | None]]], windows: tuple[str, int]
) -> str:
    """The page of a replay."""
    allocators = result["allocators"]
    names = [one["name"] for one in allocators]
    unit = result["unit"]
    comparison = table(
        f"Medians of {tables.rounds(result)}",
        ["allocator", f"ns per {unit}", "middle half", "held bytes", "bytes in memory", "longest call, us", "which"],
        [
            [
                *(one["name"], f"{one['ns']['median']:.1f}", tables.middle_half(one["ns"])),
                *(tables.count(one["held_bytes"]), tables.count(one["resident_bytes"])),
                *(f"{one['longest_ns'] / 1000:,.1f}", one["longest_call"]),
            ]
            for one in allocators
        ],
    )
    times = bars(f"Nanoseconds per {unit}", names, [one["ns"]["median"] for one in allocators])
    sections = [
        section("The allocators", comparison + notes(tables.caption(result), *left_out(result))),
        section(f"Time per {unit}", figure(times, "Medians. Shorter is faster.", "")),
        section("Memory over time", memory_over_time(names, moments)),
        *traffic(profile),
        section("The windows at the peak", map_of(windows)),
    ]
    return page(f"Replay of {result['file']}", result["verdict"], [facts(result), *sections])


def tune_page(result: dict[str, Any], profile: dict[str, Any]) -> str:
    """The page of tuned settings."""
    trials = result["trials"]
    names = [trial["why"] for trial in trials]
    unit = result["unit"]
    rows = [
        [
            *(trial["why"], tables.shape(trial["settings"]), f"{trial['ns']:.1f}", tables.count(trial["held_bytes"])),
            *(tables.count(trial["resident_bytes"]), f"{trial['longest_ns'] / 1000:,.1f}"),
        ]
        for trial in trials
    ]
    heads = ["best at", "settings", f"ns per {unit}", "held bytes", "bytes in memory", "longest call, us"]
    lines = scrolling(
        "Lines to paste", f"<pre><code>{html.escape(result['rust'])}\n{html.escape(result['python'])}</code></pre>"
    )
    time = bars(f"Nanoseconds per {unit}", names, [trial["ns"] for trial in trials])
    memory = bars("Bytes taken from the system", names, [trial["held_bytes"] for trial in trials])
    sections = [
        section("Lines to paste", lines),
        section("Settings worth having", table(tables.tried(result), heads, rows)),
        section(f"Time per {unit}", figure(time, "The fastest round. Shorter is faster.", "")),
        section("Memory", figure(memory, "The most bytes taken from the system.", "")),
        *traffic(profile),
    ]
    return page(f"Settings for {result['file']}", result["reason"], [facts({**result, "settings": {}}), *sections])


def page(title: str, verdict: str, parts: Iterable[str]) -> str:
    """The whole page."""
    # A name that is no text cannot be written as UTF-8.
    title = title.encode("utf-8", "backslashreplace").decode()
    body = "\n".join(parts).encode("utf-8", "backslashreplace").decode()
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="verdict">{html.escape(verdict)}</p>\n'
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    """A part of the page."""
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{content}\n</section>"


def notes(*texts: str) -> str:
    """Sentences below a table."""
    return "".join(f'<p class="note">{html.escape(text)}</p>' for text in texts)


def left_out(result: dict[str, Any]) -> list[str]:
    """Those that could not run."""
    return [f"{one['name']} is left out: {one['why']}." for one in result["left_out"]]


def facts(result: dict[str, Any]) -> str:
    """What the file holds."""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
        for name, value in tables.fact_rows(result)
    )
    return section(
        "The file",
        f'<table class="facts" aria-label="The file"><tbody>{rows}</tbody></table>' + notes(*result["notes"]),
    )


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that can be scrolled with the keyboard where it does not fit."""
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return scrolling(
        caption,
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
    )


def scrolling(name: str, content: str) -> str:
    """What may be wider than the page."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(name)}">{content}</div>'


def figure(picture: str, caption: str, figures: str) -> str:
    """A picture, what it shows, and its figures."""
    more = f"<details><summary>The figures</summary>{figures}</details>" if figures else ""
    return f"<figure>{scrolling(caption, picture)}<figcaption>{html.escape(caption)}</figcaption></figure>{more}"


def bars(title: str, names: Sequence[str], values: Sequence[float]) -> str:
    """A bar for each name."""
    chart = charts.HorizontalBar(
        **charts.options(
            show_legend=False,
            height=70 + 42 * len(names),
            value_formatter=figure_of,
        )
    )
    # The first is drawn at the bottom.
    chart.x_labels = [
        f"{name}: {figure_of(value)}" for name, value in zip(reversed(names), reversed(values), strict=True)
    ]
    chart.add(title, list(reversed(values)))
    return charts.drawn(
        chart, title + ": " + ", ".join(f"{name} {value:,.1f}" for name, value in zip(names, values, strict=True))
    )


def figure_of(value: float) -> str:
    """A figure with as many digits as matter."""
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def memory_over_time(names: Sequence[str], moments: list[list[list[int | None]]]) -> str:
    """Live bytes, and what each allocator took for them."""
    chart = charts.XY(
        **charts.options(value_formatter=si, x_value_formatter=si, x_title="operations", stroke_style={"width": 2})
    )
    chart.add("live", [(step, live) for step, live, _, _ in moments[0]])
    for name, found in zip(names, moments, strict=True):
        points = [(step, held if resident is None else resident) for step, _, held, resident in found]
        if any(value is not None for _, value in points):
            chart.add(name, points)
    caption = (
        "Bytes of live blocks, and by how many the process of each allocator had grown in memory, in the first pass."
    )
    rows = [
        [f"{step:,}", f"{live:,}", *(tables.count(found[row][3]) for found in moments if row < len(found))]
        for row, (step, live, _, _) in enumerate(moments[0])
    ]
    return figure(charts.drawn(chart, caption), caption, table(caption, ["operations", "live", *names], thinned(rows)))


def traffic(profile: dict[str, Any]) -> list[str]:
    """What the program asks for, whatever serves it."""
    sizes = profile["sizes"]
    lower = [1, *(upper + 1 for upper, _ in sizes)]
    ranges = [f"{first:,} to {last:,}" for first, (last, _) in zip(lower, sizes, strict=False)]
    chart = charts.Bar(**charts.options(show_legend=False, x_label_rotation=50, height=420, show_minor_x_labels=False))
    chart.x_labels = ranges
    chart.x_labels_major = ranges[:: max(1, len(ranges) // 8)]
    chart.add("blocks", [count for _, count in sizes])
    caption = "How many blocks were asked for with how many bytes."
    by_size = figure(
        charts.drawn(chart, caption),
        caption,
        table(
            caption, ["bytes", "blocks"], [[name, f"{count:,}"] for name, (_, count) in zip(ranges, sizes, strict=True)]
        ),
    )
    lives = ["0", *(f"{1 << power:,} to {(2 << power) - 1:,}" for power in range(len(profile["lifetimes"]) - 1))]
    lives[1:2] = ["1"] if len(lives) > 1 else []
    chart = charts.Bar(**charts.options(show_legend=False, x_label_rotation=50, height=420))
    chart.x_labels = lives
    chart.add("blocks", profile["lifetimes"])
    caption = "How many further blocks were allocated while a block lived."
    by_life = figure(
        charts.drawn(chart, caption),
        caption,
        table(
            caption,
            ["further blocks", "blocks"],
            [[name, f"{count:,}"] for name, count in zip(lives, profile["lifetimes"], strict=True)],
        ),
    )
    return [section("Sizes", by_size), section("Lifetimes", by_life)]


def map_of(windows: tuple[str, int]) -> str:
    """The map, which is behind a click."""
    svg, count = windows
    caption = "Windows as rows, blocks in two alternating colours, holes light, when the most bytes were live."
    if count > MOST_WINDOWS:
        caption += f" The first {MOST_WINDOWS} of {count:,} windows; --map draws all."
    picture = (
        f'<div class="map" role="img" aria-label="{html.escape(caption)}"><div aria-hidden="true">{svg}</div></div>'
    )
    return f"<details><summary>Show the map</summary>{figure(picture, caption, '')}</details>"


def thinned(rows: list[list[str]]) -> list[list[str]]:
    """At most so many rows, evenly spaced."""
    step = max(1, -(-len(rows) // MOST_ROWS))
    return rows[::step]


def si(value: float) -> str:
    """A number in three digits."""
    for factor, letter in (1e9, "G"), (1e6, "M"), (1e3, "k"):
        if value >= factor:
            return f"{value / factor:.3g} {letter}"
    return f"{value:.3g}"
