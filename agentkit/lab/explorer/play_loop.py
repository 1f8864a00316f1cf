"""A virtual loop that runs its tasks in the order of a string of letters.

What it holds: `PlayLoop`; `OutOfChoices`, raised when the letters run out; `PlayRecorder`, the recorder for its runs.
Guarantees: tasks that the scenario makes are named A, B, C, … in that order, and run a step only when chosen;
everything else (the scenario itself, tasks that agents make, timeouts) runs as soon as it can.
Strategy: the explorer's loop, whose ready queue takes the next letter instead of a script.
Used by `agentkit.lab.explorer.play`.
"""

from __future__ import annotations

import asyncio
import dis
from collections import Counter
from collections.abc import Coroutine
from types import CodeType
from typing import Any

from agentkit.lab.explorer.search import BadScenario
from agentkit.lab.loops.choosing import ChoosingLoop, ReadyQueue
from agentkit.lab.loops.interleaving import is_changeable
from agentkit.lab.loops.internals import Handle, is_bookkeeping, owner_of, slept_on, waited_for
from agentkit.lab.loops.recorder import Recorder
from agentkit.lab.loops.source import source_of
from agentkit.lab.loops.task_state import Line, TaskState, task_state

__all__ = ["OutOfChoices", "PlayLoop", "PlayRecorder"]

_LETTERS = "ABCDEFGH"
_STORES = ("STORE_DEREF", "STORE_GLOBAL")


class OutOfChoices(BaseException):
    """The choices have run out, or the next one is not possible, and the scenario is not over."""


class PlayRecorder(Recorder):
    """Records lines, and shows what the agents share from the start: variables that two of them use and one can change.

    A plain `Recorder` shows a value only once two agents have reached it.
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
    """The loop's queue of ready callbacks; agents in it wait for their letter."""

    loop: PlayLoop

    def chosen(self) -> Handle:
        """Remove and return the callback to run next: any that is not a step of an agent, else the chosen agent's."""
        agents = {}
        for i, handle in enumerate(self):
            owner = owner_of(handle)
            if is_bookkeeping(handle) or owner not in self.loop.agents:
                return self.take(i)
            agents[owner.get_name()] = i
        asleep = self.loop.sleepers()
        letter = self.loop.next_choice({**agents, **asleep})
        if letter in agents:
            return self.take(agents[letter])
        self.loop.wake(asleep[letter])
        return self.pop()


class PlayLoop(ChoosingLoop):
    """A virtual loop that runs the tasks of the scenario in the order of `choices`, a string of their letters."""

    def __init__(self, choices: str) -> None:
        self.recorder = PlayRecorder(self)
        super().__init__(on_step=self.recorder.step)
        self._ready: Any = _PlayQueue(self._ready)
        self._ready.loop = self
        self.agents: list[asyncio.Task[Any]] = []
        self.options: tuple[str, ...] = ()
        """The agents that could run at the last choice."""
        self.refused: str | None = None
        """The letter of an agent that was chosen and could not run."""
        self._choices, self._made = choices, 0
        self._code: dict[str, Any] = {}

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        """Create a task; if the scenario makes it, it is an agent and gets the next letter."""
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
        """Return the timers that agents are sleeping on, by letter."""
        timers = {slept_on(timer): timer for timer in self.sleeping()}
        waits = [(waited_for(agent), agent.get_name()) for agent in self.agents]
        return {name: timers[future] for future, name in waits if future in timers}

    def next_choice(self, options: dict[str, Any]) -> str:
        """Return the next letter; raise `OutOfChoices` if there is none, or if it is not among the options."""
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
        """Raise ValueError if one of the choices was not possible."""
        if self.refused is not None:
            what = {each.task: each.what for each in states}.get(self.refused, "is no agent here")
            could = " or ".join(self.options)
            raise ValueError(f"step {self._made + 1} cannot be {self.refused}, which {what}; choose {could}")
        if self._made < len(self._choices):
            raise ValueError(f"the run was over after {self._made} steps, got {len(self._choices)} choices; undo some")

    def states(self) -> tuple[TaskState, ...]:
        """Return what each agent is doing; before its first step, it is on the first line of its function."""
        sleeps = {slept_on(timer): timer.when() for timer in self.sleeping()}
        return tuple(self._begin(task_state(agent, sleeps, self.time())) for agent in self.agents)

    def _begin(self, each: TaskState) -> TaskState:
        code = self._code.get(each.task)
        if each.line is not None or each.state == "ended" or code is None:
            return each
        return TaskState(each.task, each.state, each.what, Line(code.co_name, code.co_firstlineno, code.co_filename))

    def source(self) -> dict[str, dict[int, str]]:
        """Return the agents' code, by file and line."""
        return source_of(dict.fromkeys(self.codes))
