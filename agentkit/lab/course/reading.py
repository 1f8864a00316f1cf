"""Cells as code: the syntax tree of a cell, what it defines, and what a notebook hands to `check`.

What it holds: `parsed`, `definitions` and `asked_for`. Guarantee: nothing is executed.
Strategy: await at the top of a cell is allowed, as in a notebook; lines with magics are left out.
Used by `mutants`, `submission` and the style rules.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

__all__ = ["asked_for", "definitions", "parsed"]

_KEPT = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def parsed(source: str) -> ast.Module:
    """Return a cell's syntax tree; await at the top is allowed, lines with magics are left out."""
    text = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
    tree = compile(text, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(tree, ast.Module)
    return tree


def _lenient(source: str) -> ast.Module:
    """Return a cell's syntax tree, an empty one if it cannot be read: lessons show such cells on purpose."""
    try:
        return parsed(source)
    except SyntaxError:
        return ast.Module([], [])


def definitions(source: str) -> ast.Module:
    """Return what a cell defines without doing anything: imports, functions, classes, constants."""

    def constant(node: ast.stmt) -> bool:
        if not isinstance(node, ast.Assign):
            return False
        parts = [part for target in node.targets for part in getattr(target, "elts", [target])]
        if not all(isinstance(part, ast.Name) for part in parts):
            return False  # `box.size = 4` changes something that may not be there
        try:
            return ast.literal_eval(node.value) is not ...
        except ValueError:
            return False

    tree = _lenient(source)
    tree.body = [node for node in tree.body if isinstance(node, _KEPT) or constant(node)]
    return tree


def asked_for(cells: Sequence[Any], name: str) -> ast.expr | None:
    """Return what the notebook hands to `check` as the answer of an exercise."""
    for cell in cells:
        for node in ast.walk(_lenient(cell.source)) if cell.cell_type == "code" else ():
            match node:
                case ast.Call(func=ast.Name(id="check"), args=[ast.Constant(value=value), answer]) if value == name:
                    return answer
    return None
