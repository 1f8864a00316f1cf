"""How an agent is called: async or plain, in a pool, and inside the run of another agent.

What it holds: `as_coroutine_function`, which makes one calling convention of all kinds of agents, and `Nesting`, the
place of a run among those it is nested in.
Guarantees: an attempt that waits for a nested run on its own limiter lends it its slot, so runs may nest as deep as
they like; a slot is lent only by the attempt's own asyncio task, so the limit holds; a nested run that no slot can
ever reach, because all are held by attempts that wait for such runs in other tasks, is refused at once.
Strategy: async callables are awaited as they are; plain ones go to a pool (`agentkit.base.threads`). A context
variable says inside which run the running code is. Taken apart in notebooks 05 and 06.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from types import AsyncGeneratorType, CoroutineType
from typing import Any

from agentkit.base.arguments import refusal
from agentkit.base.threads import InPool, inline
from agentkit.report.outcome import Outcome, current
from agentkit.semaphore import CapacityLimiter

__all__ = [
    "MAX_THREADS",
    "UNFINISHED",
    "Nesting",
    "NeverStarts",
    "as_coroutine_function",
    "forgotten_await",
    "inside",
    "is_async",
]

Call = Callable[[Any], Awaitable[Any]]

UNFINISHED = (CoroutineType, asyncio.Future, AsyncGeneratorType)
"""What an agent returns that forgot to await."""
MAX_THREADS = 1_000  # a pool makes a thread only when none is idle, and the limiter bounds how many are busy


def is_async(agent_fn: object) -> bool:
    """Tell whether calling `agent_fn` gives a coroutine: an async function, method, partial or callable object."""
    while isinstance(agent_fn, partial):
        agent_fn = agent_fn.func
    return inspect.iscoroutinefunction(agent_fn) or inspect.iscoroutinefunction(getattr(agent_fn, "__call__", None))  # noqa: B004


def as_coroutine_function(
    agent_fn: Any, limiter: CapacityLimiter, *, pool: futures.Executor | None = None, serial: bool = False
) -> tuple[Call, Callable[[], None] | None]:
    """Return an async callable for `agent_fn`, and what to call when the run has ended."""
    _check_agent(agent_fn)
    if is_async(agent_fn):
        if pool is not None:
            raise TypeError(
                "pool is for plain functions, and agent_fn is async; leave pool out, or write a plain function"
            )
        return agent_fn, None
    if serial:
        return partial(inline, agent_fn), None
    if pool is not None:
        return InPool(agent_fn, pool, limiter.acquire_anyway, limiter.release), None
    threads = futures.ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="agentkit")
    return InPool(agent_fn, threads, limiter.acquire_anyway, limiter.release), partial(threads.shutdown, wait=False)


def _check_agent(agent_fn: Any) -> None:
    if inspect.iscoroutine(agent_fn):
        agent_fn.close()
        raise TypeError(
            "agent_fn must be a function of one task, got a coroutine; hand in the function without calling it"
        )
    if not callable(agent_fn):
        rule, remedy = "must be a function of one task", "write `async def agent(task): …`"
        raise refusal("agent_fn", rule, agent_fn, remedy, TypeError)
    if inspect.isasyncgenfunction(agent_fn):
        raise TypeError(
            f"agent_fn must return one value, got the async generator {agent_fn!r}; return a list instead of yielding"
        )
    if inspect.isclass(agent_fn) and any("__call__" in vars(base) for base in agent_fn.__mro__):
        raise TypeError(f"agent_fn must be an agent, got the class {agent_fn.__name__}; hand in an instance of it")


def forgotten_await(result: object) -> TypeError:
    """The error for an agent that returned something unfinished."""
    kind = type(result).__name__
    if isinstance(result, CoroutineType):
        result.close()
        kind = f"coroutine {result.__qualname__}()"
    return TypeError(f"the agent returned the {kind} instead of its value; await it in the agent")


class NeverStarts(RuntimeError):
    """A nested run that would wait for a slot forever. Remedy: await it directly, or give it its own limiter."""


class Nesting:
    """The place of a run: which attempt it was started in, and which of its own attempts have lent their slot."""

    __slots__ = ("_awaited", "_queued", "lent", "limiter", "live", "outcome", "outer")

    def __init__(self, limiter: CapacityLimiter, live: Mapping[int, tuple[asyncio.Task[Any], float]]) -> None:
        self.limiter = limiter
        self.live = live
        """The attempts of the run, by the number of their task."""
        self.lent: set[int] = set()
        """Those whose slot is lent."""
        self.outer, self.outcome = inside.get(), current.get()
        """The run, and the attempt of it, inside which this one was started; None for neither."""
        self._queued = self._awaited = False  # for a slot; by a task that lends it none

    @contextmanager
    def queued(self) -> Iterator[None]:
        """While the run waits for a slot; raises `NeverStarts` if it would wait forever."""
        self._queued = True
        try:
            self.check()
            yield
        finally:
            self._queued = False
            _blocked.discard(self)

    @asynccontextmanager
    async def awaited(self) -> AsyncIterator[None]:
        """While the running code waits for the run: lends the slot of the attempt that it is, if it is one."""
        outer, outcome = inside.get(), current.get()
        if outer is None or outcome is None or not self._may_lend(outer, outcome):
            self._awaited = True
            yield
            return
        outer.lent.add(outcome.task_id)
        self.limiter.release()
        try:
            yield
        finally:
            try:
                await self.limiter.acquire_again()
            finally:
                outer.lent.discard(outcome.task_id)

    def _may_lend(self, outer: Nesting, outcome: Outcome) -> bool:
        """Whether the running code is an attempt under this limiter, and not a task that an agent started."""
        attempt = outer.live.get(outcome.task_id)
        return outer.limiter is self.limiter and attempt is not None and attempt[0] is asyncio.current_task()

    def check(self) -> None:
        """Raise `NeverStarts` if every slot is held by an attempt that waits, without lending it, for such a run."""
        if not (self._queued and self._awaited and self.holders()):
            return
        _blocked.add(self)
        waiting = [nesting for nesting in list(_blocked) if nesting.limiter is self.limiter]
        holders: set[int] = set().union(*(nesting.holders() for nesting in waiting))
        if len(holders) >= self.limiter.statistics().in_flight:
            raise NeverStarts(
                "a nested run can never start: every slot of its limiter is held by an agent that waits for such a "
                "run; await the nested run in the agent itself, not in a task, or give it a limiter of its own"
            )

    def holders(self) -> set[int]:
        """The attempts inside which the run was started and which hold a slot of its limiter now."""
        found, nesting = set(), self
        while (outer := nesting.outer) is not None:
            outcome = nesting.outcome
            held = outcome is not None and outcome.task_id in outer.live and outcome.task_id not in outer.lent
            if outer.limiter is self.limiter and held:
                found.add(id(outcome))
            nesting = outer
        return found


inside: ContextVar[Nesting | None] = ContextVar("agentkit run", default=None)
"""The run whose attempt the running code belongs to."""
_blocked: set[Nesting] = set()  # those that wait for a slot, and are waited for by a task that lends them none
