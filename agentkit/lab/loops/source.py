"""Lines of the reader's source: which statement a line belongs to, and which lines a function has.

What it holds: `statement`, and `source_of` some functions.
Guarantee: Pythons report the inner lines of a long statement differently; by its first line they all agree.
Strategy: the source comes from `linecache`, where notebooks and doctests put theirs too, and is parsed, not run.
Used by `agentkit.lab.tracer.loop`.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterable
from types import CodeType

__all__ = ["source_of", "statement"]

_KNOWN: dict[str, tuple[list[str], dict[int, int]]] = {}  # a memo: for each file its lines, and where each belongs


def statement(file: str, line: int) -> int:
    """Return the first line of the statement that `line` is part of; `line` itself where there is no source."""
    lines = linecache.getlines(file)
    known = _KNOWN.get(file)
    if known is None or known[0] is not lines:  # linecache hands out the same list until the file or cell changes
        known = _KNOWN[file] = (lines, _starts("".join(lines)))
    return known[1].get(line, line)


def _starts(source: str) -> dict[int, int]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with magics in it: every line stands for itself
        return {}
    starts: dict[int, int] = {}
    for node in ast.walk(tree):  # outer statements first, so the innermost has the last word
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            starts |= dict.fromkeys(range(node.lineno, _end(node) + 1), node.lineno)
    return starts


def _end(node: ast.stmt | ast.ExceptHandler) -> int:
    """Last line of a statement; of one with a block, the line before the block."""
    body: list[ast.stmt] = getattr(node, "body", None) or []
    if body:
        return max(node.lineno, body[0].lineno - 1)
    return node.end_lineno or node.lineno


def source_of(codes: Iterable[CodeType]) -> dict[str, dict[int, str]]:
    """Return the lines of functions, by file and number: of a function, and of those written inside it, once."""
    found: dict[str, dict[int, str]] = {}
    for code in codes:
        lines = linecache.getlines(code.co_filename)
        last = max([number for _, _, number in code.co_lines() if number is not None], default=0)
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                last = max([last, *(number for _, _, number in inner.co_lines() if number is not None)])
        for number in range(code.co_firstlineno, min(last, len(lines)) + 1):
            found.setdefault(code.co_filename, {})[number] = lines[number - 1].rstrip("\n")
    return {file: dict(sorted(lines.items())) for file, lines in found.items()}
