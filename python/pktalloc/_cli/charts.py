"""Charts as SVG, drawn by pygal."""

from __future__ import annotations

import sys
from typing import Any
from xml.etree import ElementTree

from pygal import XY, Bar, HorizontalBar
from pygal.style import Style

# pygal makes itself part of every later import, for plugins that are not used here.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__.partition(".")[0] != "pygal"]

__all__ = ["XY", "Bar", "HorizontalBar", "drawn", "options"]

SVG = "{http://www.w3.org/2000/svg}"
COLOURS = 6
"""How many the page's style has."""
CHART = Style(
    background="transparent",
    plot_background="transparent",
    foreground="var(--front)",
    foreground_strong="var(--front)",
    foreground_subtle="var(--line)",
    colors=tuple(f"var(--c{number})" for number in range(COLOURS)),
    font_family="inherit",
    label_font_size=13,
    major_label_font_size=13,
    legend_font_size=14,
    value_font_size=13,
    transition="0s",
    guide_stroke_color="var(--line)",
    guide_stroke_dasharray="0",
    major_guide_stroke_color="var(--line)",
    major_guide_stroke_dasharray="0",
)


def drawn(chart: Any, title: str) -> str:
    """The chart as SVG, without what pygal adds for scripts, and with a name for those who cannot see it."""
    root = chart.render_tree()
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.removeprefix(SVG) in {"script", "desc"}:
                parent.remove(child)
    root.set("role", "img")
    root.set("aria-label", title)
    for child in root:
        # A screen reader has the name, and the table; the labels of the axes by themselves say nothing.
        child.set("aria-hidden", "true")
    for attribute in "width", "height":
        root.attrib.pop(attribute, None)
    text = ElementTree.tostring(root, encoding="unicode")
    return text.replace("ns0:", "").replace("xmlns:ns0", "xmlns")


def options(**more: Any) -> dict[str, Any]:
    """What all charts have in common."""
    return {
        "style": CHART,
        "js": [],
        "width": 900,
        "height": 380,
        "margin": 10,
        "show_dots": False,
        "dots_size": 2,
        "legend_at_bottom": True,
        "legend_box_size": 14,
        "truncate_legend": -1,
        "tooltip_border_radius": 0,
        **more,
    }
