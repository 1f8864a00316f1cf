"""One line taken apart: what it reads, changes and writes, and whether it waits in between.

What it holds: `line_parts` of a function's code.
Guarantee: the parts are the same on every supported Python, though the instructions are not.
Strategy: read the line's instructions and keep those that touch a shared name, compute, or wait.
Used by `agentkit.lab.widgets.scheduler`.
"""

from __future__ import annotations

import dis
from collections.abc import Collection
from types import CodeType

__all__ = ["line_parts"]

_LOADS = ("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME")
_STORES = ("STORE_DEREF", "STORE_GLOBAL", "STORE_NAME")


def line_parts(code: CodeType, names: Collection[str]) -> dict[int, tuple[str, ...]]:
    r"""Return, for each line that reads one of `names` and writes it too, its parts in order.

    >>> source = "async def agent(call):\n    global n\n    n += 1\n    n += await call()\n    read = n\n"
    >>> space = {}
    >>> exec(source, space)
    >>> line_parts(space["agent"].__code__, ["n"])
    {3: ('read n', 'change', 'write n'), 4: ('read n', 'wait', 'change', 'write n')}

    Between two parts with no `wait`, no other task of the loop can come in; another thread could.
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
