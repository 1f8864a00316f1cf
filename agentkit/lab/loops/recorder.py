"""Noting what a few tasks do, line by line, and what they share.

What it holds: `Recorder`, with which `explore` replays a run; the table it makes is an `Interleaving`.
Guarantees: only the reader's own lines are noted, also those written in a notebook cell.
Strategy: a trace function looks at the values before and after each line. What two tasks can both reach and a line
changed is what they share: variables of the enclosing function, globals, and objects handed to both.
Used by `agentkit.lab.explorer.search`.
"""

from __future__ import annotations

import asyncio
import dis
import linecache
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from agentkit.lab.loops.interleaving import Interleaving, Step, is_changeable, is_data, show

__all__ = ["Recorder"]

_NOT_YOURS = ("<frozen", *(f"{p}{os.sep}" for p in (Path(asyncio.__file__).parents[1], Path(__file__).parents[2])))
_ROWS = 500  # a run that takes more lines is too long to read
_INLINED = ("<listcomp>", "<setcomp>", "<dictcomp>")  # frames of their own up to 3.11, not from 3.12 on

Key = str | int  # a variable's name, or the id of an object


def is_yours(frame: FrameType) -> bool:
    """Whether a frame runs the reader's code: not an installed package, not agentkit, not a generated method."""
    code = frame.f_code
    if code.co_filename.startswith(_NOT_YOURS) or "site-packages" in code.co_filename:
        return False
    return code.co_name not in _INLINED and code.co_filename != "<string>"


@dataclass(slots=True)
class _LineRow:
    number: int
    task: str
    line: int
    source: str
    rest: bool
    """Whether it is the rest of a line that waited, or called a function."""
    ended: bool
    """Whether the line came to its end, and did not stop to wait or to call a function."""
    before: dict[Key, str]
    after: dict[Key, str]


class Recorder:
    """Notes every line of the reader's own code that runs between `start` and `stop`."""

    def __init__(self) -> None:
        self._rows: list[_LineRow] = []
        self._open = False  # whether the last row's line is still running
        self._met: set[FrameType] = set()
        self._values: dict[Key, Any] = {}  # what it is now; keeps objects alive, so that an id stays theirs
        self._labels: dict[Key, str] = {}
        self._owners: dict[Key, int] = {}  # for an attribute: the id of the object it is part of
        self._users: dict[Key, set[str]] = {}  # tasks that can reach it
        self._bound: dict[int, str] = {}  # ids of objects that a variable stands for
        self._number, self._task = 0, "main"
        self._before: Any = None

    def start(self) -> None:
        """Begin to note lines."""
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def stop(self) -> None:
        """Stop, and put back the trace function that was there."""
        sys.settrace(self._before)

    def step(self, task: str) -> None:
        """Say that the loop goes on with `task`."""
        self._number, self._task = self._number + 1, task

    def watch(self, label: str, value: Any) -> None:
        """Count `value` as shared from the start."""
        self._note(id(value), label, value)
        self._users[id(value)] |= {"everybody", "else"}

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if len(self._rows) > _ROWS or not is_yours(frame):
            return None
        if event == "exception":
            return self._trace
        returned = event == "return" and dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")
        self._look(frame)
        values = {key: show(value) for key, value in self._values.items()}
        if self._open:
            row = self._rows[-1]
            row.after, row.ended = values, event == "line" or returned
            if row.rest and row.before == values and (event == "call" or (event == "return" and not returned)):
                self._rows.pop()  # it had only begun to go on when it came to wait again
        running: FrameType | None = frame
        if event == "return":  # what the caller does next is the rest of its line
            running = next((f for f in _callers(frame) if f in self._met), None) if returned else None
        elif event == "call" and frame not in self._met:
            running = None
        self._met.add(frame)
        self._open = running is not None
        if running is not None:
            source = linecache.getline(running.f_code.co_filename, running.f_lineno).strip()
            row = _LineRow(self._number, self._task, running.f_lineno, source, event != "line", False, values, values)
            self._rows.append(row)
        return self._trace

    def _look(self, frame: FrameType) -> None:
        """Find what the running lines can reach."""
        for each in (frame, *(f for f in _callers(frame) if f in self._met)):
            code, local = each.f_code, each.f_locals
            for name in code.co_freevars:
                if name in local:
                    self._variable(name, local[name])
            for name in code.co_names if local is not each.f_globals else ():
                if name in each.f_globals:
                    self._variable(name, each.f_globals[name])
            for name, value in local.items():
                if name not in code.co_freevars and name not in code.co_cellvars and is_changeable(value):
                    self._note(id(value), name, value)
                    if name == "self":
                        self._look_inside(value)

    def _look_inside(self, owner: Any) -> None:
        for name, part in getattr(owner, "__dict__", {}).items():
            if is_changeable(part):
                self._note(id(part), f"self.{name}", part)
                self._owners.setdefault(id(part), id(owner))

    def _variable(self, name: str, value: Any) -> None:
        if is_data(value):
            self._note(name, name, value)
            self._bound[id(value)] = name

    def _note(self, key: Key, label: str, value: Any) -> None:
        self._values[key] = value
        if self._labels.setdefault(key, label).startswith("self"):
            self._labels[key] = label  # any other name says more
        self._users.setdefault(key, set()).add(self._task)

    def _shared(self) -> dict[Key, str]:
        """Return what two tasks can reach and a line changed, with its label; one entry for each thing."""
        changed = {k for row in self._rows for k, text in row.after.items() if row.before.get(k, text) != text}
        among_tasks = {key for key in changed if len(self._users[key] - {"main"}) > 1}
        changed = among_tasks or {key for key in changed if len(self._users[key]) > 1}
        alone = [key for key in self._values if key in changed and key not in self._bound]
        labels: dict[Key, str] = {}
        for key in alone:
            owner = self._owners.get(key)
            if owner not in changed and self._bound.get(owner or 0) not in changed:
                label = self._labels[key]
                labels[key] = f"{label} ({type(self._values[key]).__name__})" if label in labels.values() else label
        return labels

    def result(self, outcome: str) -> Interleaving:
        """Return the table: what was shared and changed, and the lines around it."""
        shared = self._shared()
        kept: list[Step] = []
        numbers: dict[int, int] = {}
        for row in self._rows:
            before = {label: row.before[key] for key, label in shared.items() if key in row.before}
            after = {label: row.after[key] for key, label in shared.items() if key in row.after}
            step = Step(numbers.get(row.number, 0), row.task, row.line, row.source, row.ended, before, after)
            touched = any(step.touches(label) for label in shared.values())
            again = bool(kept) and (kept[-1].number, kept[-1].line) == (step.number, step.line)  # the end of a `with`
            if (touched and (kept or row.task != "main")) or not (row.rest or again or row.task == "main"):
                number = numbers.setdefault(row.number, len(numbers) + 1)
                kept.append(replace(step, number=number))
        return Interleaving(tuple(kept), tuple(shared.values()), outcome)


def _callers(frame: FrameType) -> list[FrameType]:
    callers = []
    while frame.f_back is not None:
        frame = frame.f_back
        callers.append(frame)
    return callers
