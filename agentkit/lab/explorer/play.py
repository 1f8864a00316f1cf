"""A few agents whose order you choose, step by step: `play`.

What it holds: `play`, which runs a scenario in the order you choose until the choices end, and `Play`, its state at
that point: which agents can run next, what happened line by line, and, at the end, whether the invariant broke and why.
Guarantees: the same choices give the same play every time, on every supported Python; nothing is left running.
Strategy: each play is a run from the start, on fresh state, on a loop that runs its tasks in the order of the choices.
Undo is a play with one choice fewer. Opened by notebook 04.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentkit.base.arguments import function, text
from agentkit.lab.explorer.lost_update import lost_update
from agentkit.lab.explorer.play_loop import OutOfChoices, PlayLoop
from agentkit.lab.explorer.search import BadScenario, Search
from agentkit.lab.loops.beside import beside
from agentkit.lab.loops.interleaving import Interleaving, show
from agentkit.lab.loops.source import line_parts
from agentkit.lab.loops.task_state import TaskState
from agentkit.lab.loops.virtual import Deadlock

__all__ = ["Play", "play", "where"]


@dataclass(frozen=True, slots=True, repr=False)
class Play:
    """The state of a scenario after your choices."""

    choices: str
    """The agents that ran a step, in order: `ABAB`."""
    can_run: tuple[str, ...]
    """The agents that can run the next step; empty when the run is over."""
    states: tuple[TaskState, ...]
    """What each agent is doing."""
    table: Interleaving
    """The lines that ran, and how they changed what the agents share."""
    outcome: str | None
    """The outcome of the run; None until it is over."""
    broke: bool | None
    """Whether it broke the invariant, raised, or deadlocked; None if that is not known: before the end, or without an
    invariant."""
    stuck: bool
    """Whether it ended in a deadlock."""
    why: str
    """Why it broke; empty if it did not."""
    printed: str
    """What the agents printed."""
    source: dict[str, dict[int, str]]
    """The agents' code, by file or cell, and line."""
    parts: dict[int, tuple[str, ...]]
    """The parts of lines that read and write what is shared: `('read n', 'change', 'write n')`."""

    @property
    def verdict(self) -> str:
        """The state in one sentence."""
        steps = f"{len(self.choices)} step{'s' * (len(self.choices) != 1)}"
        if self.outcome is None:
            return f"{steps}; {' or '.join(self.can_run)} can go next"
        said = ", and the invariant holds" if self.broke is False else f": {self.why}" if self.why else ""
        came = "it ended" if self.outcome == "None" else f"it came to {self.outcome}"
        return f"{steps}; {came}{said}"

    def __repr__(self) -> str:
        agents = "\n".join(f"{each.task}: {where(each)}" for each in self.states)
        table = f"{self.table!r}\n" if self.table.steps else ""
        return f"{table}{agents}\n{self.choices or 'no choice yet'}: {self.verdict}"

    def _repr_html_(self) -> str:
        agents = "<br>".join(html.escape(f"{each.task}: {where(each)}") for each in self.states)
        table = self.table._repr_html_() if self.table.steps else ""
        return f"{table}<p>{agents}</p><p><b>{html.escape(f'{self.choices}: {self.verdict}')}</b></p>"


def where(each: TaskState) -> str:
    """Return what an agent is doing, and where: `waits for Lock.acquire at line 25`."""
    return each.what + (f" at line {each.line.number}" if each.line else "")


def play(scenario: Callable[[], Any], choices: str = "", invariant: Callable[[Any], Any] | None = None) -> Play:
    """Run steps of the agents A, B, … of `scenario` in the order of `choices`, and return the state after them.

    >>> async def two_agents():
    ...     counter = 0
    ...     async def agent():
    ...         nonlocal counter
    ...         read = counter
    ...         await asyncio.sleep(0)
    ...         counter = read + 1
    ...     await asyncio.gather(agent(), agent())
    ...     return counter
    >>> print(play(two_agents, "ABAB", lambda counter: counter == 2).verdict)
    4 steps; it came to 1: B wrote counter in step 4 from what it had read in step 2, so what A wrote in step 3 is lost

    A step runs an agent to its next `await` that has to wait; no other agent runs in between. A step of a sleeping
    agent means that its answer has arrived. `scenario` and `invariant` are those of `explore`. The agents are the tasks
    that the scenario makes, in that order; tasks that agents make run immediately. Raises ValueError for a choice that
    is not possible, naming those that are.
    """
    function("scenario", scenario, "write play(f), not play(f())", may_be_async=True)
    text("choices", choices, "such as 'ABAB'")
    function("invariant", invariant, none=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):  # here, not in the thread: restored even if Stop leaves that behind
        return beside(lambda: _play(scenario, choices, invariant, printed))


def _play(
    scenario: Callable[[], Any], choices: str, invariant: Callable[[Any], Any] | None, printed: io.StringIO
) -> Play:
    loop, dice = PlayLoop(choices), random.getstate()
    random.seed(0)
    try:
        end = _run(Search(scenario, invariant, True), loop, printed)
    finally:
        random.setstate(dice)
    loop.check_choices(end.states)
    over = end.outcome is not None
    table = loop.recorder.result(end.outcome or "")
    return Play(
        choices=choices,
        can_run=() if over else loop.options,
        states=end.states,
        table=table,
        outcome=end.outcome,
        broke=end.broke if end.broke or (over and invariant is not None) else None,
        stuck=end.stuck,
        why=_why(table, end) if over else "",
        printed=end.printed,
        source=loop.source(),
        parts={n: parts for code in loop.codes for n, parts in line_parts(code, table.shared).items()},
    )


@dataclass(slots=True)
class _PlayEnd:
    """The state of a run when the choices, or the scenario, ended."""

    outcome: str | None = None
    broke: bool = False
    stuck: bool = False
    states: tuple[TaskState, ...] = ()
    printed: str = ""


def _run(search: Search, loop: PlayLoop, printed: io.StringIO) -> _PlayEnd:
    """Run the scenario on `loop` until it, or the choices, end."""
    end = _PlayEnd()
    loop.set_exception_handler(lambda *_: None)  # each step would print the same error again
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            end.outcome, end.broke = search.judge(runner.run(search.body(loop, loop.recorder)))
        except OutOfChoices:
            pass
        except Deadlock:
            end.outcome, end.broke, end.stuck = "a deadlock", True, True
        except (BadScenario, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # CancelledError too: it is an outcome of the scenario
            end.outcome, end.broke = show(error, 100), True
        finally:  # the rest is cleanup, not part of the scenario
            loop.choosing = False
            loop.recorder.stop()
            end.states, end.printed = loop.states(), printed.getvalue()
    return end


def _why(table: Interleaving, end: _PlayEnd) -> str:
    """Return why this order of steps broke the scenario; an empty string if it did not."""
    if end.stuck:
        return ", and ".join(f"{s.task} {where(s)}" for s in end.states if s.state != "ended")
    return lost_update(table) or "the invariant does not hold" * end.broke
