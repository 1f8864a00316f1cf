"""The search behind `explore`: which orders to try, in which order, and the outcome of each.

What it holds: `Search`, `Failure`, and `BadScenario`, raised for a scenario that returns nothing to run.
Guarantees: every order is tried once; those with fewer departures from asyncio's own order come first.
Strategy: a run is repeated by its script, the list of choices it made. Each choice after the end of the script opens
branches, which are searched breadth first and generated lazily. Used by `explore`; `play` uses `body` and `judge`.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from agentkit.lab.loops.choosing import ChoosingLoop, NotRepeatable, Script
from agentkit.lab.loops.interleaving import Interleaving, show
from agentkit.lab.loops.recorder import Recorder
from agentkit.lab.loops.virtual import Deadlock

__all__ = ["BadScenario", "Failure", "Search"]


class BadScenario(TypeError):
    """What a scenario returned cannot be run. Remedy: in the message."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How to reproduce a failure."""

    run: int
    """Number of the run that failed, counted from 1."""
    departures: int
    """How many times it departs from asyncio's own order."""
    script: Script
    """The choices it made."""
    fifo: bool
    """Whether it was asyncio's own order, bookkeeping included."""


class Search:
    """The runs of one exploration."""

    def __init__(self, scenario: Callable[[], Any], invariant: Callable[[Any], Any] | None, any_latency: bool) -> None:
        self.scenario, self.invariant, self.any_latency = scenario, invariant, any_latency
        self.name = getattr(scenario, "__name__", "scenario")
        self._stopped = False
        self.outcomes: dict[str, int] = {}
        self.failures = 0
        self.usual: str | None = None
        self.first: Failure | None = None

    @property
    def runs(self) -> int:
        """Orders tried so far."""
        return sum(self.outcomes.values())

    def stop(self) -> None:
        """Ask `run` to return after the current run; any thread may call it."""
        self._stopped = True

    def run(self, max_runs: int, max_deviations: int | None, stop_at_first: bool) -> bool:
        """Try asyncio's own order, then all departures from it, breadth first; return whether all orders were tried."""
        limit = math.inf if max_deviations is None else max_deviations
        own, outcome, failed = self._try((), fifo=True)
        self._count(outcome, failed, 0, (), True)
        tree, outcome, failed = self._try(())  # the root of the tree: nearly always the same order again
        if tree.order != own.order:
            self._count(outcome, failed, 0, (), False)
        level = deque([(1, _branches(tree.trail, 0))])
        exhausted = True
        while level and exhausted and not (self._stopped or (stop_at_first and self.failures)):
            departures, scripts = level[0]
            script = next(scripts, None)
            if script is None:
                level.popleft()
            elif departures > limit or self.runs >= max_runs:
                exhausted = False
            else:
                loop, outcome, failed = self._try(script)
                self._count(outcome, failed, departures, script, False)
                level.append((departures + 1, _branches(loop.trail, len(script))))
        return exhausted and not level

    def _count(self, outcome: str, failed: bool, departures: int, script: Script, fifo: bool) -> None:
        if self.invariant is None and not failed:  # then all orders should have the same outcome
            self.usual = self.usual or outcome
            failed = outcome != self.usual
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.failures += failed
        if failed and self.first is None:
            self.first = Failure(self.runs, departures, script, fifo)

    def replay(self) -> Interleaving | None:
        """Repeat the first failing order and record every line; None if no order failed."""
        if self.first is None:
            return None
        recorder = Recorder()
        outcome = self._try(self.first.script, fifo=self.first.fifo, recorder=recorder)[1]
        return recorder.result(outcome)

    def _try(
        self, script: Script, *, fifo: bool = False, recorder: Recorder | None = None
    ) -> tuple[ChoosingLoop, str, bool]:
        """Run the scenario once; return the loop with its choices, the outcome, and whether the run failed."""
        on_step = None if recorder is None else recorder.step
        loop = ChoosingLoop(script, fifo=fifo, any_latency=self.any_latency, on_step=on_step)
        loop.set_exception_handler(lambda *_: None)  # each run would print the same error
        dice = random.getstate()
        random.seed(0)
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                try:
                    value = runner.run(self.body(loop, recorder))
                finally:  # the rest is cleanup, not part of the scenario
                    loop.choosing = False
                    if recorder is not None:
                        recorder.stop()
            loop.check_end()
            return loop, *self.judge(value)
        except (NotRepeatable, BadScenario, KeyboardInterrupt, SystemExit):
            raise
        except Deadlock as stuck:
            return loop, "deadlock of " + ", ".join(name for name, _ in stuck.waiting if name != "main"), True
        except BaseException as error:  # CancelledError too: it is an outcome of the scenario
            return loop, show(error, 100), True
        finally:
            random.setstate(dice)

    async def body(self, loop: ChoosingLoop, recorder: Recorder | None) -> Any:
        """Run the scenario on `loop` and return the value to judge."""
        task = asyncio.current_task()
        assert task is not None
        task.set_name("main")
        loop.choosing = True
        if recorder is not None:
            recorder.start()
        try:
            made = self.scenario()
            if inspect.isawaitable(made):
                return await made
            state, tasks = _parts(made)
            if recorder is not None and state is not None:
                recorder.watch("state", state)
            results = await asyncio.gather(*tasks)
            return results if state is None else state
        finally:
            loop.choosing = False

    def judge(self, value: Any) -> tuple[str, bool]:
        """Return the outcome for `value`, and whether it breaks the invariant."""
        if self.invariant is None:
            return show(value, 100), False
        try:
            verdict = self.invariant(value)
        except AssertionError as error:
            why = str(error).partition("\n")[0]
            return f"{show(value, 100)} ({why})" if why else show(value, 100), True
        return show(value, 100), verdict is not None and not verdict


def _parts(made: Any) -> tuple[Any, list[Any]]:
    """Split what a scenario returned into its state (or None) and its coroutines."""
    with_state = isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], list | tuple)
    state, tasks = made if with_state else (None, made)
    if not isinstance(tasks, list | tuple) or not all(map(inspect.isawaitable, tasks)):
        raise BadScenario(
            f"scenario must be async, or return coroutines, got {type(made).__name__}; "
            "return [agent(...), agent(...)], or a tuple of the state and such a list"
        )
    return state, list(tasks)


def _branches(trail: list[tuple[int, int]], start: int) -> Iterator[Script]:
    """Yield every script that follows a run up to some choice after `start` and makes another choice there.

    Each order comes up exactly once: as the branch of its last departure.
    """
    for at in range(start, len(trail)):
        options = trail[at][1]
        for other in range(1, options):
            yield (*trail[:at], (other, options))
