"""A virtual loop that asks which ready task runs next, instead of taking the first.

What it holds: `ChoosingLoop`, its `ReadyQueue`, and `NotRepeatable`, raised when a scenario does not repeat its steps.
Guarantees: with an empty script and `fifo=True` it runs exactly as asyncio does; any run is repeated by its script.
Strategy: the loop's ready queue is a deque whose `popleft` chooses. Only steps of tasks, timeouts and calls in threads
are choices. asyncio's own bookkeeping (what gather does when a task ends) touches no state of yours, so it runs
immediately; that keeps the number of orders small and loses none. Used by `agentkit.lab.explorer.search`.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

from agentkit.lab.loops.internals import Handle, is_bookkeeping, is_sleep, is_task, owner_of
from agentkit.lab.loops.virtual import VirtualLoop

__all__ = ["ChoosingLoop", "NotRepeatable", "ReadyQueue", "Script"]

_MAX_STEPS = 5_000  # in one run
_REMEDY = "make fresh state inside the scenario, and seed its random numbers"
Script = tuple[tuple[int, int], ...]  # for each choice: which option, of how many; after the last, always the first


class NotRepeatable(RuntimeError):
    """The scenario took other steps this time. Remedy: make its state inside it, and seed its random numbers."""


class ReadyQueue(deque[Handle]):
    """The loop's queue of ready callbacks; while the loop is choosing, `popleft` takes the chosen one."""

    loop: ChoosingLoop

    def popleft(self) -> Handle:
        """Remove and return the callback to run next."""
        loop = self.loop
        if not loop.choosing:
            return self._first()
        loop.check_length()
        handle = self._first() if loop.fifo else self.chosen()
        if not is_bookkeeping(handle):
            loop.note_step(handle)
        return handle

    def _first(self) -> Handle:
        return super().popleft()

    def chosen(self) -> Handle:
        """Remove and return the callback to run next: bookkeeping first, then the one that the loop chooses."""
        for i, handle in enumerate(self):
            if is_bookkeeping(handle):
                return self.take(i)
        asleep = self.loop.sleeping() if self.loop.any_latency else []
        pick = self.loop.choose(len(self) + len(asleep))
        if pick < len(self):
            return self.take(pick)
        woken = len(self)
        self.loop.wake(asleep[pick - woken])
        return self.pop() if len(self) > woken else self.chosen()  # a sleep that was cancelled wakes no task

    def take(self, i: int) -> Handle:
        """Remove and return callback number `i`."""
        handle = self[i]
        del self[i]
        return handle


class ChoosingLoop(VirtualLoop):
    """A virtual loop that runs ready tasks in the order a script gives, and records the choices it had."""

    _ready: ReadyQueue

    def __init__(
        self,
        script: Script = (),
        *,
        fifo: bool = False,
        any_latency: bool = True,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.fifo, self.any_latency = fifo, any_latency
        self.choosing = False  # True while the scenario runs, False during setup and cleanup
        self.trail: list[tuple[int, int]] = []  # the choices made, as a script
        self.order: list[str] = []  # names of the tasks, one per step
        self._script, self._on_step = script, on_step
        self._names: Counter[str] = Counter()
        self._ready = ReadyQueue(self._ready)
        self._ready.loop = self

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        """Create a task named after its function: agent-1, agent-2, ..."""
        if kwargs.get("name") is None:
            name = getattr(coro, "__name__", "task")
            self._names[name] += 1
            kwargs["name"] = f"{name}-{self._names[name]}"
        return super().create_task(coro, **kwargs)

    def choose(self, options: int) -> int:
        """Return which of `options` callbacks runs next: as the script says, and after its end the first."""
        if options == 1:
            return 0
        at = len(self.trail)
        pick, expected = self._script[at] if at < len(self._script) else (0, options)
        if options != expected:
            self.choosing = False
            raise NotRepeatable(
                f"{options} tasks could run at choice {at + 1}, and {expected} the last time; {_REMEDY}"
            )
        self.trail.append((pick, options))
        return pick

    def check_end(self) -> None:
        """Raise `NotRepeatable` if the run ended before its script did."""
        if len(self.trail) < len(self._script):
            raise NotRepeatable(
                f"there were {len(self.trail)} choices, and {len(self._script)} the last time; {_REMEDY}"
            )

    def check_length(self) -> None:
        """Raise RuntimeError if the run has taken too many steps."""
        if len(self.order) >= _MAX_STEPS:
            self.choosing = False
            raise RuntimeError(f"the scenario took more than {_MAX_STEPS:,} steps; give it an end, or make it smaller")

    def note_step(self, handle: Handle) -> None:
        """Record the step that is about to run."""
        owner = owner_of(handle)
        name = owner.get_name() if is_task(owner) else "a thread or timer"
        self.order.append(name)
        if self._on_step is not None:
            self._on_step(name)

    def sleeping(self) -> list[Handle]:
        """Return the timers of pending sleeps, soonest first."""
        pending: list[Handle] = list(self._scheduled)
        return sorted(timer for timer in pending if is_sleep(timer) and not timer.cancelled())

    def wake(self, timer: Handle) -> None:
        """End a sleep now, as if the answer had come sooner. The clock does not move, so no timeout fires early."""
        i = next(i for i, each in enumerate(self._scheduled) if each is timer)
        del self._scheduled[i]
        heapq.heapify(self._scheduled)
        timer._scheduled = False  # noqa: SLF001  (as asyncio does before it runs a timer)
        timer._run()  # noqa: SLF001  (asyncio has no public way to run a handle)
