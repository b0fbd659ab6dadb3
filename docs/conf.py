"""The documentation site: `make docs`."""

from __future__ import annotations
import __future__

import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sphinx.ext.napoleon import Config, GoogleDocstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent

project = "pktalloc"
author = "the pktalloc maintainers"
project_copyright = "the pktalloc maintainers"
release = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["package"]["version"]
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["public-api.txt"]
# A page, a heading or a name that is referred to must be there: the build takes warnings for errors.
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(pktalloc\._(Array|PacketT)|(typing_extensions|collections\.abc|os|types|_?asyncio|socket)\..*)"),
    ("py:class", "Address|_Datagrams"),
]
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]

# Docstrings are Markdown to the eye: `name` is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "furo"
html_title = f"pktalloc {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

HIDDEN = re.compile(r"^ *# .*\n|^ *#\n", re.MULTILINE)
RUST = re.compile(r"^```rust[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def hide_what_rustdoc_hides(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Leave out the lines of Rust examples that rustdoc compiles and does not show."""
    source[0] = RUST.sub(lambda block: f"```rust\n{HIDDEN.sub('', block[1])}```", source[0])


def import_from_stubs() -> None:
    """Import the package with its stubs in place of the extension module: types and docstrings, nothing built."""
    folder = ROOT / "python" / "pktalloc"
    package, native = ModuleType("pktalloc"), ModuleType("pktalloc")
    package.__path__ = [str(folder)]
    sys.modules["pktalloc"], sys.modules["pktalloc._pktalloc"] = package, native
    for module, path in ((native, folder / "_pktalloc.pyi"), (package, folder / "__init__.py")):
        module.__file__ = str(path)
        code = compile(path.read_text(encoding="utf-8"), path, "exec", flags=__future__.annotations.compiler_flag)
        exec(code, module.__dict__)  # noqa: S102
        for name in getattr(module, "__annotations__", ()):
            vars(module).setdefault(name, None)


import_from_stubs()


def read_arguments(*arguments: object) -> None:
    """Make a list of the arguments that a docstring describes; only where it does, since "a: b" is also plain prose."""
    lines = arguments[-1]
    assert isinstance(lines, list)  # noqa: S101
    # What is code to the eye ends where its backtick does, also in front of a letter.
    lines[:] = [re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", line) for line in lines]
    if "Args:" in lines:
        lines[:] = GoogleDocstring(lines, Config(napoleon_use_param=True)).lines()


def reach_what_scrolls(_app: Sphinx, _page: str, _template: str, context: dict[str, object], _doctree: object) -> None:
    """Let the keyboard reach what may be wider than the screen, so that it can be scrolled; give headings a level."""
    tree = "furo_navigation_tree"
    if tree in context:
        context[tree] = str(context[tree]).replace('role="heading"', 'role="heading" aria-level="2"')
    if "body" in context:
        body = str(context["body"]).replace("<pre>", '<pre tabindex="0">')
        context["body"] = body.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')


def setup(app: Sphinx) -> None:
    """Register what is our own."""
    app.connect("autodoc-process-docstring", read_arguments)
    # After the theme, which makes the navigation in the same event.
    app.connect("html-page-context", reach_what_scrolls, priority=900)
    app.connect("source-read", hide_what_rustdoc_hides)
    app.connect("include-read", lambda app, path, _parent, source: hide_what_rustdoc_hides(app, str(path), source))
