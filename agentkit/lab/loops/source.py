"""The source of the reader's functions: the statement a line belongs to, the lines of a function, the parts of a line.

What it holds: `statement`, `source_of` some functions, and `line_parts` of a function's code.
Guarantee: Pythons report the inner lines of a long statement differently; they agree on its first line.
Strategy: source comes from `linecache`, which also holds notebook cells and doctests, and is parsed, not run. The parts
of a line come from its bytecode: instructions that touch a shared name, compute, or wait.
Used by `task_state`, `agentkit.lab.tracer.loop` and `agentkit.lab.explorer.play`.
"""

from __future__ import annotations

import ast
import dis
import linecache
from collections.abc import Collection, Iterable
from types import CodeType

__all__ = ["line_parts", "source_of", "statement"]

_LOADS = ("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME")
_STORES = ("STORE_DEREF", "STORE_GLOBAL", "STORE_NAME")
_KNOWN: dict[str, tuple[list[str], dict[int, int]]] = {}  # cache, by file: its lines, and the first line of each


def statement(file: str, line: int) -> int:
    """Return the first line of the statement that `line` is part of, or `line` itself if there is no source."""
    lines = linecache.getlines(file)
    known = _KNOWN.get(file)
    if known is None or known[0] is not lines:  # linecache returns the same list until the file or cell changes
        known = _KNOWN[file] = (lines, _starts("".join(lines)))
    return known[1].get(line, line)


def _starts(source: str) -> dict[int, int]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with magics: treat each line as a statement
        return {}
    starts: dict[int, int] = {}
    for node in ast.walk(tree):  # outer statements first, so the innermost wins
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            starts |= dict.fromkeys(range(node.lineno, _end(node) + 1), node.lineno)
    return starts


def _end(node: ast.stmt | ast.ExceptHandler) -> int:
    """Return the last line of a statement; for one with a block, the last line before the block."""
    body: list[ast.stmt] = getattr(node, "body", None) or []
    if body:
        return max(node.lineno, body[0].lineno - 1)
    return node.end_lineno or node.lineno


def source_of(codes: Iterable[CodeType]) -> dict[str, dict[int, str]]:
    """Return the lines of functions, nested functions included, by file and line number."""
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


def line_parts(code: CodeType, names: Collection[str]) -> dict[int, tuple[str, ...]]:
    r"""Return the parts, in order, of each line that reads one of `names` and also writes it.

    >>> source = "async def agent(call):\n    global n\n    n += 1\n    n += await call()\n    read = n\n"
    >>> space = {}
    >>> exec(source, space)
    >>> line_parts(space["agent"].__code__, ["n"])
    {3: ('read n', 'change', 'write n'), 4: ('read n', 'wait', 'change', 'write n')}

    Where no `wait` separates two parts, no other task of the loop can run between them; another thread could.
    The parts are the same on every supported Python, though the bytecode is not.
    """
    found: dict[int, list[str]] = {}
    for instruction in dis.get_instructions(code):
        line = instruction.positions.lineno if instruction.positions else None
        if line is not None:
            parts = found.setdefault(line, [])
            part = _part(instruction, names, parts)
            if part and part not in parts[-1:]:
                parts.append(part)
    return {line: tuple(parts) for line, parts in sorted(found.items()) if _reads_and_writes(parts)}


def _part(instruction: dis.Instruction, names: Collection[str], parts: list[str]) -> str:
    name, argument = instruction.opname, instruction.argval
    if name in _LOADS and argument in names:
        return f"read {argument}"
    if name in _STORES and argument in names:
        return f"write {argument}"
    if name == "YIELD_VALUE":
        return "wait"
    reads = [part for part in parts if part.startswith("read ")]
    if name in ("STORE_SUBSCR", "STORE_ATTR") and reads:  # state["n"] = ..., state.n = ...
        return f"write {reads[-1][5:]}"
    return "change" if name == "BINARY_OP" and reads and instruction.argrepr != "[]" else ""


def _reads_and_writes(parts: list[str]) -> bool:
    return any(part.startswith("read ") and f"write {part[5:]}" in parts[i:] for i, part in enumerate(parts))
