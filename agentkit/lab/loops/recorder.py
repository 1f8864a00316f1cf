"""Recording what a few tasks do, line by line, and what they share.

What it holds: `Recorder`, with which `explore` replays a run; the table it makes is an `Interleaving`.
Guarantees: only lines of the reader's own code are recorded, notebook cells included.
Strategy: a trace function compares the values before and after each line. Tasks share what two of them can reach and
a line changed: variables of the enclosing function, globals, and objects passed to both.
Used by `agentkit.lab.explorer.search`.
"""

from __future__ import annotations

import dis
import linecache
import sys
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from agentkit.lab.loops.frames import callers, is_yours
from agentkit.lab.loops.interleaving import Interleaving, Step, is_changeable, is_data, show

__all__ = ["Recorder"]

_ROWS = 500  # a longer run is too long to read

Key = str | int  # a variable's name, or the id of an object


@dataclass(slots=True)
class _LineRow:
    """One line that ran, with all values that were reachable before and after it."""

    number: int
    task: str
    line: int
    source: str
    rest: bool
    """Whether it is the rest of a line that waited or called a function."""
    ended: bool
    """Whether the line finished; False if it stopped to wait or to call a function."""
    before: dict[Key, str]
    after: dict[Key, str]


class Recorder:
    """Records every line of the reader's own code that runs between `start` and `stop`."""

    def __init__(self) -> None:
        self._rows: list[_LineRow] = []
        self._open = False  # whether the line of the last row is still running
        self._met: set[FrameType] = set()
        self._values: dict[Key, Any] = {}  # current values; keeping the objects alive keeps their ids unique
        self._labels: dict[Key, str] = {}
        self._owners: dict[Key, int] = {}  # for an attribute: the id of its object
        self._users: dict[Key, set[str]] = {}  # names of the tasks that can reach it
        self._bound: dict[int, str] = {}  # for the id of an object: the variable that holds it
        self._number, self._task = 0, "main"
        self._before: Any = None

    def start(self) -> None:
        """Start to record lines."""
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def stop(self) -> None:
        """Stop, and restore the previous trace function."""
        sys.settrace(self._before)

    def step(self, task: str) -> None:
        """Attribute the lines that follow to the next step, a step of `task`."""
        self._number, self._task = self._number + 1, task

    def watch(self, label: str, value: Any) -> None:
        """Treat `value` as shared from the start."""
        self._note(id(value), label, value)
        self._users[id(value)] |= {"first user", "second user"}  # shared means more than one

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
                self._rows.pop()  # it resumed and waited again without doing anything
        running: FrameType | None = frame
        if event == "return":  # next runs the rest of the caller's line
            running = next((f for f in callers(frame) if f in self._met), None) if returned else None
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
        """Record the values that the running lines can reach."""
        for each in (frame, *(f for f in callers(frame) if f in self._met)):
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
            self._labels[key] = label  # any other name is clearer
        self._users.setdefault(key, set()).add(self._task)

    def _shared(self) -> dict[Key, str]:
        """Return the label of each value that two tasks can reach and a line changed."""
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
        """Return the table of the lines that ran, with the shared values that changed."""
        shared = self._shared()
        kept: list[Step] = []
        numbers: dict[int, int] = {}
        for row in self._rows:
            before = {label: row.before[key] for key, label in shared.items() if key in row.before}
            after = {label: row.after[key] for key, label in shared.items() if key in row.after}
            step = Step(numbers.get(row.number, 0), row.task, row.line, row.source, row.ended, before, after)
            touched = any(step.touches(label) for label in shared.values())
            # a line reported twice in a row, as when a `with` block is left
            again = bool(kept) and (kept[-1].number, kept[-1].line) == (step.number, step.line)
            if (touched and (kept or row.task != "main")) or not (row.rest or again or row.task == "main"):
                number = numbers.setdefault(row.number, len(numbers) + 1)
                kept.append(replace(step, number=number))
        return Interleaving(tuple(kept), tuple(shared.values()), outcome)
