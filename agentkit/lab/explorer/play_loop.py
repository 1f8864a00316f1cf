"""A virtual loop that gives steps to its tasks in the order of a string of letters.

What it holds: `PlayLoop`; `OutOfChoices`, raised where the letters end; `PlayRecorder`, the recorder for its runs.
Guarantees: tasks that the scenario makes are called A, B, C, … in the order they are made, and take a step only when
chosen; all else (the scenario itself, tasks that agents make, timeouts) runs as soon as it can.
Strategy: the explorer's loop, whose ready queue asks which task goes next. Used by `agentkit.lab.explorer.play`.
"""

from __future__ import annotations

import asyncio
import dis
from collections import Counter
from collections.abc import Coroutine
from types import CodeType
from typing import Any

from agentkit.lab.explorer.search import BadScenario
from agentkit.lab.loops.choosing import ChoosingLoop, ReadyQueue, is_bookkeeping
from agentkit.lab.loops.interleaving import is_changeable
from agentkit.lab.loops.recorder import Recorder
from agentkit.lab.loops.source import source_of
from agentkit.lab.loops.task_state import Line, TaskState, task_state

__all__ = ["OutOfChoices", "PlayLoop", "PlayRecorder"]

_LETTERS = "ABCDEFGH"
_STORES = ("STORE_DEREF", "STORE_GLOBAL")


class OutOfChoices(BaseException):
    """The choices end here, and the scenario does not."""


class PlayRecorder(Recorder):
    """Records lines, and knows from the start what the agents share: variables that two of them use and one can change.

    Without that, a value would come into sight only when two agents have come to it, which is late for a player.
    """

    def __init__(self, loop: PlayLoop) -> None:
        super().__init__()
        self._loop = loop

    def _shared(self) -> dict[Any, str]:
        users = Counter(name for code in self._loop.codes for name in {*code.co_freevars, *code.co_names})
        stored = {i.argval for code in self._loop.codes for i in dis.get_instructions(code) if i.opname in _STORES}
        known = {
            key: str(key)
            for key, value in self._values.items()
            if isinstance(key, str) and users[key] > 1 and (key in stored or is_changeable(value))
        }
        return known | super()._shared()


class _PlayQueue(ReadyQueue):
    """The loop's queue of what can run now; agents in it wait for their letter."""

    loop: PlayLoop

    def _chosen(self) -> Any:
        agents = {}
        for i, handle in enumerate(self):
            owner = getattr(handle._callback, "__self__", None)
            if is_bookkeeping(handle) or owner not in self.loop.agents:
                return self._take(i)
            agents[owner.get_name()] = i
        asleep = self.loop.sleepers()
        letter = self.loop.next_choice({**agents, **asleep})
        if letter in agents:
            return self._take(agents[letter])
        self.loop.wake(asleep[letter])
        return self.pop()


class PlayLoop(ChoosingLoop):
    """A virtual loop whose tasks go in the order of `choices`."""

    def __init__(self, choices: str) -> None:
        self.notes = PlayRecorder(self)
        super().__init__(on_step=self.notes.step)
        self._ready: Any = _PlayQueue(self._ready)
        self._ready.loop = self
        self.agents: list[asyncio.Task[Any]] = []
        self.options: tuple[str, ...] = ()
        """The agents that could go, when a choice was last asked for."""
        self.refused: str | None = None
        """A letter among the choices whose agent could not go."""
        self._choices, self._made = choices, 0
        self._code: dict[str, Any] = {}

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        """Create a task; one that the scenario makes is an agent, and gets the next letter."""
        maker = asyncio.current_task(self) if self.choosing else None
        if maker is None or maker.get_name() != "main":
            return super().create_task(coro, **kwargs)
        if len(self.agents) == len(_LETTERS):
            coro.close()
            raise BadScenario(f"scenario must make {len(_LETTERS)} tasks or fewer, it makes more; take some out")
        task = super().create_task(coro, **(kwargs | {"name": _LETTERS[len(self.agents)]}))
        self.agents.append(task)
        self._code[task.get_name()] = getattr(coro, "cr_code", None)
        return task

    @property
    def codes(self) -> list[CodeType]:
        """The code of each agent."""
        return [code for code in self._code.values() if code is not None]

    def sleepers(self) -> dict[str, Any]:
        """Return the timers that agents sleep on, by their letter."""
        timers = {timer._args[0]: timer for timer in self.sleeping()}
        waits: list[tuple[Any, str]] = [(getattr(a, "_fut_waiter"), a.get_name()) for a in self.agents]  # noqa: B009
        return {name: timers[future] for future, name in waits if future in timers}

    def next_choice(self, options: dict[str, Any]) -> str:
        """Return the next letter, if its agent is among the options."""
        self.options = tuple(sorted(options))
        if self._made == len(self._choices):
            raise OutOfChoices
        letter = self._choices[self._made]
        if letter not in options:
            self.refused = letter
            raise OutOfChoices
        self._made += 1
        return letter

    def check_choices(self, states: tuple[TaskState, ...]) -> None:
        """Raise ValueError if a choice could not be made."""
        if self.refused is not None:
            what = {each.task: each.what for each in states}.get(self.refused, "is no agent here")
            could = " or ".join(self.options)
            raise ValueError(f"step {self._made + 1} cannot be {self.refused}, which {what}; choose {could}")
        if self._made < len(self._choices):
            raise ValueError(f"the run was over after {self._made} steps, got {len(self._choices)} choices; undo some")

    def states(self) -> tuple[TaskState, ...]:
        """Return where each agent stands; one that has not begun, on the first line of its function."""
        sleeps = {timer._args[0]: timer._when for timer in self.sleeping()}
        return tuple(self._begin(task_state(agent, sleeps, self._now)) for agent in self.agents)

    def _begin(self, each: TaskState) -> TaskState:
        code = self._code.get(each.task)
        if each.line is not None or each.state == "ended" or code is None:
            return each
        return TaskState(each.task, each.state, each.what, Line(code.co_name, code.co_firstlineno, code.co_filename))

    def source(self) -> dict[str, dict[int, str]]:
        """Return the agents' code, by file and line."""
        return source_of(dict.fromkeys(self.codes))
