"""Write the docstrings of the built module into its stubs, so that editors show them: `make stubs`.

The docstrings have one source, the module itself. With `--check` nothing is written: the difference is printed, and the
exit status says whether there is one.
"""

from __future__ import annotations

import argparse
import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

import libcst as cst

STUBS = Path(__file__).parent.parent / "python" / "pktalloc" / "_pktalloc.pyi"
LINUX, ALWAYS = 'if sys.platform == "linux":', "if sys.version_info >= (3, 0):"
"""Docify takes every platform for another one, and leaves out what is below: it is shown a condition that it knows."""
ELLIPSIS = cst.SimpleStatementSuite([cst.Expr(cst.Ellipsis())])


class WithoutDocstrings(cst.CSTTransformer):
    """Takes the docstrings out; a body that was nothing else becomes `...` again."""

    def _body(self, node: cst.FunctionDef | cst.ClassDef) -> cst.BaseSuite:
        if node.get_docstring() is None or not isinstance(node.body, cst.IndentedBlock):
            return node.body
        rest = node.body.body[1:]
        return node.body.with_changes(body=rest) if rest else ELLIPSIS

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:  # noqa: ARG002, D102, N802
        return updated_node.with_changes(body=self._body(updated_node))

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> cst.ClassDef:  # noqa: ARG002, D102, N802
        return updated_node.with_changes(body=self._body(updated_node))

    def leave_Module(self, original_node: cst.Module, updated_node: cst.Module) -> cst.Module:  # noqa: ARG002, D102, N802
        return updated_node.with_changes(body=updated_node.body[1:]) if updated_node.get_docstring() else updated_node


def documented(stubs: str) -> str:
    """Return the stubs with the docstrings that the built module has today."""
    bare = cst.parse_module(stubs).visit(WithoutDocstrings()).code
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pktalloc" / STUBS.name
        path.parent.mkdir()
        (path.parent / "__init__.py").touch()
        path.write_text(bare.replace(LINUX, ALWAYS), encoding="utf-8")
        for command in (
            [sys.executable, "-P", "-m", "docify", "--quiet", "--in-place", "--workers", "1", folder],
            ["ruff", "check", "--quiet", "--isolated", "--select", "PIE790", "--fix", str(path)],
            ["ruff", "format", "--quiet", "--isolated", "--line-length", "120", str(path)],
        ):
            subprocess.run(command, check=True, cwd=folder)
        with_docstrings = path.read_text(encoding="utf-8").replace(ALWAYS, LINUX)
    if '"""' not in with_docstrings:
        sys.exit("stub_docs: the module could not be imported, so there is nothing to take from it")
    return with_docstrings


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    before = STUBS.read_text(encoding="utf-8")
    after = documented(before)
    if before == after:
        return 0
    if not check:
        STUBS.write_text(after, encoding="utf-8")
        return 0
    sys.stdout.writelines(
        difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), "stubs", "module")
    )
    print(f"stub_docs: {STUBS.name} does not have the docstrings of the module: make stubs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
