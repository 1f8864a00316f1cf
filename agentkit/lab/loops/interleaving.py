"""One run of a few tasks, line by line: which task ran which line, and how the line changed shared values.

What it holds: `Interleaving` (a table), `Step` (its rows), and `show`, the short text of a value.
Guarantees: no addresses and no paths, so the same run gives the same text everywhere; HTML is escaped.
Strategy: plain data for the table here and for charts; `agentkit.lab.loops.recorder` collects it.
Opened by notebook 04.
"""

from __future__ import annotations

import html
import re
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Interleaving", "Step", "is_changeable", "is_data", "show"]

_STATE = ("conversation", "frozen", "state")  # modules of agentkit whose objects are data
_NO_REPR: Any = object.__repr__
_ROWS = 80  # a longer table is too long to read
_PLAIN = (bool, int, float, complex, str, bytes, tuple, frozenset, type(None))
_CHANGEABLE = (list, dict, set, bytearray, deque)


def show(value: Any, width: int = 64) -> str:
    """Return a short string for a value, the same in every run: no addresses, sets sorted, long ones cut in the middle.

    >>> class Budget:
    ...     def __init__(self):
    ...         self.spent = 3
    >>> show(Budget()), show({"b", "a"})
    ('Budget(spent=3)', "{'a', 'b'}")
    """
    try:
        if isinstance(value, set | frozenset):
            text = "{" + ", ".join(sorted(map(repr, value))) + "}"
        elif type(value).__repr__ is _NO_REPR:
            parts = ", ".join(f"{k}={show(v, width)}" for k, v in getattr(value, "__dict__", {}).items() if is_data(v))
            text = f"{type(value).__name__}({parts})"
        else:
            text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", text).replace("\n", " ")
    return text if len(text) <= width else f"{text[: width // 3]}…{text[len(text) - width + width // 3 + 1 :]}"


def is_data(value: Any) -> bool:
    """Whether a value is data that tasks can share and corrupt, as opposed to code, locks and queues."""
    if isinstance(value, _PLAIN + _CHANGEABLE):
        return True
    package, _, module = type(value).__module__.partition(".")
    return module in _STATE if package == "agentkit" else package not in sys.stdlib_module_names


def is_changeable(value: Any) -> bool:
    """Whether a value is mutable data."""
    return is_data(value) and not isinstance(value, _PLAIN)


@dataclass(frozen=True, slots=True)
class Step:
    """One line that one task ran."""

    number: int
    """Number of the step; no other task runs between the lines of one step."""
    task: str
    """Name of the task."""
    line: int
    """Line number in its file or cell."""
    source: str
    """The source of the line."""
    ended: bool
    """Whether the line finished; False if it stopped to wait or to call a function of yours."""
    before: dict[str, str]
    """The shared values before the line ran."""
    after: dict[str, str]
    """The shared values after it ran."""

    def touches(self, name: str) -> bool:
        """Whether the line wrote to `name`, even if the value stayed the same."""
        before, after = self.before.get(name, ""), self.after.get(name, "")
        if before != after or not before:
            return before != ""
        target = rf"(.*[\s,(.])?{re.escape(name)}\b[^=!<>:]*[-+*/|&]?=(?!=)"
        return self.ended and re.match(target, self.source) is not None


@dataclass(frozen=True, slots=True, repr=False)
class Interleaving:
    """The lines of one run, in the order they ran, as a table."""

    steps: tuple[Step, ...]
    """One per line."""
    shared: tuple[str, ...]
    """Names of the shared values that changed."""
    outcome: str
    """The outcome of the run."""

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict per line, for a data frame or a chart."""
        return [
            {"step": s.number, "task": s.task, "line": s.line, "source": s.source, "ended": s.ended}
            | {name: (s.before.get(name, ""), s.after.get(name, "")) for name in self.shared}
            for s in self.steps
        ]

    def _cells(self) -> Iterator[list[str]]:
        last = 0
        for step in self.steps[:_ROWS]:
            who = [str(step.number), step.task] if step.number != last else ["", ""]
            last = step.number
            values = [_change(step, name) for name in self.shared]
            yield [*who, str(step.line), step.source, *values]
        if len(self.steps) > _ROWS:
            yield ["", "", "", f"… and {len(self.steps) - _ROWS} more lines", *[""] * len(self.shared)]

    def __repr__(self) -> str:
        table = [["step", "task", "line", "source", *self.shared], *self._cells()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        right = (0, 2)
        return "\n".join(
            "  ".join(
                cell.rjust(w) if i in right else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ("step", "task", "line", "source", *self.shared))
        body = "".join(
            "<tr>"
            + "".join(f"<td style='text-align:left'>{_code(i, cell)}</td>" for i, cell in enumerate(row))
            + "</tr>"
            for row in self._cells()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _change(step: Step, name: str) -> str:
    """Return both values if the line wrote, even if they are equal: that is what a lost update looks like."""
    before, after = step.before.get(name, ""), step.after.get(name, "")
    return f"{before} → {after}" if step.touches(name) else after


def _code(column: int, cell: str) -> str:
    text = html.escape(cell)
    return f"<code>{text}</code>" if column >= 3 and text else text
