"""A run of your own coroutine, step by step: the lines each task ran, which tasks are ready or waiting, and the timers.

What it holds: `trace`, which runs a coroutine function in virtual time and records each step; `LoopTrace`, a table of
the steps; `block`, which blocks the loop for some seconds, as a computation or a driver without `await` does.
Guarantees: the same run gives the same table every time, on every supported Python; the order is asyncio's own.
Strategy: `agentkit.lab.tracer.loop` records the loop's queues after each step. A `time.sleep` in your code takes
virtual seconds here, during which no other task runs, as on any loop.
Opened by notebook 02; `agentkit.lab.widgets.Stepper` shows it step by step.
"""

from __future__ import annotations

import asyncio
import html
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from agentkit.base.arguments import function, number, whole
from agentkit.lab.loops.beside import beside, running_loop
from agentkit.lab.loops.interleaving import show
from agentkit.lab.loops.task_state import amount
from agentkit.lab.loops.virtual import Deadlock, VirtualLoop
from agentkit.lab.tracer.loop import LoopStep, TraceLoop

__all__ = ["LoopTrace", "block", "few", "trace"]

_ROWS = 60  # a longer table is too long to read
_HEAD = ("step", "time", "runs", "lines", "and then", "ready", "timers")
_sleep = time.sleep
_patched = 0
_patching = threading.Lock()


def block(seconds: float) -> None:
    """Block the loop for `seconds`: the virtual clock moves on, and no other task runs.

    >>> async def rude():
    ...     block(3)
    ...     return asyncio.get_running_loop().time()
    >>> from agentkit.lab import simulate
    >>> simulate(rude)
    3.0

    Stands for a long computation or a driver without `await`. Without a virtual loop, it is `time.sleep`.
    """
    number("seconds", seconds, "a blocking call takes time and gives none back", least=0)
    loop = running_loop()
    if isinstance(loop, VirtualLoop):
        loop.advance(seconds)
    else:
        _sleep(seconds)


@contextmanager
def _sleep_is_seen() -> Iterator[None]:
    """A block in which `time.sleep` on a virtual loop moves that loop's clock; other threads really sleep."""
    global _patched
    with _patching:
        _patched += 1
        time.sleep = cast("Any", block)
    try:
        yield
    finally:
        with _patching:
            _patched -= 1
            if not _patched:
                time.sleep = _sleep


@dataclass(frozen=True, slots=True, repr=False)
class LoopTrace:
    """The steps of one run, in order, as a table."""

    name: str
    """Name of the coroutine function that was run."""
    steps: tuple[LoopStep, ...]
    """One for each time the loop ran a task."""
    outcome: str
    """How the run ended: `returned 3`, `raised ValueError: ...`, or a deadlock."""
    value: Any
    """The value it returned; None if it raised."""
    error: BaseException | None
    """The exception it raised, or None."""
    source: dict[str, dict[int, str]]
    """The lines of the functions that ran, by file or cell."""

    def lines(self, step: LoopStep) -> str:
        """Return the line numbers of a step: `4-6`, or `4-6 of agent` if the code is in several files or cells."""
        return ", ".join(numbers + name for numbers, name in self._groups(step))

    def ran(self, step: LoopStep) -> str:
        """Return what a step ran, in words: `agent-1 runs lines 4-6`."""
        parts = [f"line{'s' * (not numbers.isdigit())} {numbers}{name}" for numbers, name in self._groups(step)]
        return f"{step.task} runs {', '.join(parts)}" if parts else f"{step.task} has its turn"

    def _groups(self, step: LoopStep) -> list[tuple[str, str]]:
        groups: dict[str, list[int]] = {}
        for line in step.lines:
            groups.setdefault(f" of {line.function}" if len(self.source) > 1 else "", []).append(line.number)
        return [(_ranges(numbers), name) for name, numbers in groups.items()]

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict per step, for a data frame."""
        return [
            {"step": t.number, "time": t.started, "blocked": t.blocked, "task": t.task, "lines": self.lines(t)}
            | {"then": t.then, "ready": list(t.ready), "timers": [(timer.owner, timer.when) for timer in t.timers]}
            for t in self.steps
        ]

    def _cells(self) -> Iterator[tuple[str, ...]]:
        for t in self.steps[:_ROWS]:
            then = f"blocked the loop for {amount(t.blocked)}; {t.then}" if t.blocked else t.then
            yield str(t.number), amount(t.started), t.task, self.lines(t), then, few(t.ready), few(t.timers)
        if len(self.steps) > _ROWS:
            yield "", "", "", "", f"… and {len(self.steps) - _ROWS} more steps", "", ""

    def __repr__(self) -> str:
        table = [_HEAD, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(w) if i < 2 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        return "\n".join([*lines, f"{self.name} {self.outcome}"])

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in _HEAD)
        body = "".join(
            f"<tr>{''.join(f'<td style=text-align:left>{html.escape(cell)}</td>' for cell in row)}</tr>"
            for row in self._cells()
        )
        end = html.escape(f"{self.name} {self.outcome}")
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{end}</p>"


def few(items: Sequence[object], most: int = 5) -> str:
    """Return the first few items in words, with the number of the rest: `few("abc", 2)` is `'a, b and 1 more'`."""
    more = len(items) - most
    return ", ".join(map(str, items[:most])) + (f" and {more} more" if more > 0 else "")


def _ranges(numbers: list[int]) -> str:
    """Return `[4, 5, 6, 9]` as `4-6, 9`."""
    parts: list[list[int]] = []
    for line in sorted(set(numbers)):
        if parts and line == parts[-1][-1] + 1:
            parts[-1].append(line)
        else:
            parts.append([line])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def trace(main: Callable[..., Awaitable[Any]], *args: Any, seed: int = 0) -> LoopTrace:
    """Run `main(*args)` in virtual time and return what the event loop did, step by step.

    >>> async def agent(seconds):
    ...     await asyncio.sleep(seconds)
    >>> async def team():
    ...     await asyncio.gather(agent(2), agent(1))
    >>> run = trace(team)
    >>> run
    step  time  runs     lines       and then                  ready             timers
       1   0 s  team     2 of team   waits for gather, 2 left  agent-1, agent-2
       2   0 s  agent-1  2 of agent  sleeps until 2 s          agent-2           agent-1 at 2 s
       3   0 s  agent-2  2 of agent  sleeps until 1 s                            agent-2 at 1 s, agent-1 at 2 s
       4   1 s  agent-2  2 of agent  ended                                       agent-1 at 2 s
       5   2 s  agent-1  2 of agent  ended                     team
       6   2 s  team     2 of team   ended
    team returned None

    A step lasts from the moment the loop takes a task from its ready queue to the next `await` that has to wait.
    Ready tasks, timers and what each task waits for are those after the step. Tasks are named after their functions.
    An error or a deadlock of `main` ends the run and is part of the table, not raised. Works the same in a script and
    in a notebook cell. A `sleep` imported by name (`from time import sleep`) is not replaced: it takes real time.
    """
    function("main", main, "write trace(main, argument), not trace(main(argument))", may_be_async=True)
    seed = whole("seed", seed, least=None)
    return beside(lambda: _run(main, args, seed))


def _run(main: Callable[..., Awaitable[Any]], args: tuple[Any, ...], seed: int) -> LoopTrace:
    name = getattr(main, "__name__", "main")
    loop = TraceLoop(name)
    value, error, outcome = None, None, ""
    dice = random.getstate()
    random.seed(seed)
    try:
        with _sleep_is_seen(), asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                value = runner.run(loop.body(main, args))
                outcome = f"returned {show(value)}"
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as caught:  # any other error is the outcome of the run
                error = caught
                outcome = f"raised {show(caught, 100)}"
            finally:
                loop.end()
    finally:
        random.setstate(dice)
    if isinstance(error, Deadlock):
        outcome = f"got stuck: at {amount(error.now)} every task waits for something that can never come"
    return LoopTrace(name, tuple(loop.steps), outcome, value, error, loop.source())
