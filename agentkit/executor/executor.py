"""Run one agent over many tasks, a bounded number at a time, and keep everything that happened.

What it holds: `ParallelAgentExecutor`: what you ask for is checked here, and what can run is made to fit.
Guarantees: bad arguments are refused before anything starts; nothing about one run is shared with the next but
the limiter. Bound to the event loop it is used on; use one executor per loop.
Strategy: `Run` does the work and `Report` is its log; this file makes one out of what you ask for.
Opened by notebook 01.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from operator import is_
from typing import TYPE_CHECKING, Any, TypeVar, overload

from agentkit.base.arguments import called, choice, function, instance, refusal, seconds, switch, whole
from agentkit.executor.call import MAX_THREADS, as_coroutine_function, is_async
from agentkit.executor.run import Run
from agentkit.executor.settings import ON_ERROR, OnError, Plan, Settings
from agentkit.executor.source import Source
from agentkit.executor.stream import Stream
from agentkit.journal import Journal
from agentkit.limits import Budget, RateLimiter
from agentkit.report import Outcome, Report, attach
from agentkit.retry import RetryPolicy
from agentkit.retry.policy import Retries
from agentkit.semaphore import CapacityLimiter

if TYPE_CHECKING:
    from agentkit.report.usage import Usage

__all__ = ["ParallelAgentExecutor"]

T = TypeVar("T")  # without the defaults of a report's: with them mypy would take a coroutine for the result of an agent
R = TypeVar("R")
Tasks = Iterable[T] | AsyncIterable[T]
Async = Callable[[T], Awaitable[R]]
Plain = Callable[[T], Awaitable[R] | R]
Cost = Callable[[T], float]
Aggregator = Callable[[list[Outcome[T, R]]], Any]

_CHECKS: dict[str, Callable[[str, Any], Any]] = {  # of what is assigned, by the constructor and later
    "limiter": partial(instance, kind=CapacityLimiter),
    "pool": partial(instance, kind=Executor, remedy="use None for threads", none=True),
    "rate_limiter": partial(
        instance, kind=RateLimiter, remedy="to limit how many run at once use max_concurrency", none=True
    ),
    "retry": partial(instance, kind=RetryPolicy, remedy="for three attempts write RetryPolicy(attempts=3)", none=True),
    "budget": partial(instance, kind=Budget, none=True),
    "journal": partial(instance, kind=Journal, none=True),
    "usage": partial(function, remedy="use None for the usual one", none=True),
    "progress": switch,
    "timeout": seconds,
    "deadline": seconds,
    "on_error": partial(choice, choices=ON_ERROR, remedy="use 'collect' to keep failures and go on"),
    "max_failures": partial(whole, remedy="use None for no limit", none=True),
}


class ParallelAgentExecutor:
    """Runs an agent over many tasks: at most `max_concurrency` at a time, failures kept, nothing lost.

    >>> async def agent(question):
    ...     await asyncio.sleep(0.001)
    ...     return len(question)
    >>> report = asyncio.run(ParallelAgentExecutor(max_concurrency=2).execute(["why", "how", "when"], agent))
    >>> report.results, report.summary.succeeded, report.summary.peak_in_flight
    ([3, 3, 4], 3, 2)

    An agent is any `async def agent(task)`; a plain function is one too and runs in a pool of threads. `execute` gives
    a report, `map` the results alone, `stream` outcomes as they come, and `start` a run to watch, pause and cancel.

    - `max_concurrency`: tasks in flight at once; 0 runs one after another in this very thread, for debugging; None
      is no limit; a `CapacityLimiter` may be handed in and shared with other executors.
    - `timeout` bounds one attempt, `deadline` a task from its submission, waiting included; both in seconds.
    - `on_error`: `"collect"` keeps a failure and goes on; `"stop"` starts nothing new, cancels the others and returns
      what was done; `"raise"` does the same and raises the error, with the report as its `.report`.
    - `max_failures=n`: with `"collect"`, stop at the n-th failure.
    - `rate_limiter`: a `RateLimiter`, for starts and tokens per minute; may be shared as well.
    - `retry`: a `RetryPolicy`; while a task backs off it holds no slot and no thread.
    - `budget`: a `Budget` of calls, tokens or money; what it refuses is `rejected`, and no further task starts.
    - `journal`: a `Journal`; what it knows as done is taken from it, and what is finished is written to it.
    - `pool`: any `concurrent.futures.Executor`, for agents that are plain functions.
    - `usage(result)` reads the `Usage` of results in which the kit does not find it.
    - `progress=True` shows a bar where there is a terminal or a notebook, and tqdm.

    All of these can be assigned later, for the runs that begin then.
    """

    __slots__ = ("_called", "_retries", "_threads", "budget", "deadline", "journal", "limiter", "max_failures",
                 "on_error", "pool", "progress", "rate_limiter", "retry", "serial", "timeout",
                 "usage")  # fmt: skip

    def __init__(
        self,
        max_concurrency: int | CapacityLimiter | None = 10,
        *,
        rate_limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        budget: Budget | None = None,
        journal: Journal | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        on_error: OnError = "collect",
        max_failures: int | None = None,
        pool: Executor | None = None,
        usage: Callable[[Any], Usage | None] | None = None,
        progress: bool = False,
    ) -> None:
        self.serial = not isinstance(max_concurrency, CapacityLimiter) and max_concurrency == 0
        """Whether tasks run one after another in the caller's thread."""
        self.limiter = _limiter(max_concurrency)
        self.pool, self.rate_limiter, self.retry, self.budget, self.journal = pool, rate_limiter, retry, budget, journal
        self.usage, self.progress = usage, progress
        self.timeout, self.deadline, self.max_failures = timeout, deadline, max_failures
        self.on_error: OnError = on_error
        self._threads: Executor | None = None  # for `call`
        self._retries: tuple[asyncio.AbstractEventLoop, RetryPolicy | None, Retries | None] | None = None  # of calls
        self._called: tuple[tuple[Any, ...], Plan[Any, Any]] | None = None  # what the last `call` was made of

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, _CHECKS[name](name, value) if name in _CHECKS else value)

    @property
    def max_concurrency(self) -> float:
        """Tasks in flight at once; assign to it at any time, also during a run."""
        return 0 if self.serial else self.limiter.limit

    @max_concurrency.setter
    def max_concurrency(self, limit: int | None) -> None:
        if self.serial or (isinstance(limit, int) and limit == 0):
            raise refusal("max_concurrency", "cannot change from or to 0", limit, "make another executor")
        self.limiter.limit = limit

    @property
    def semaphore(self) -> CapacityLimiter:
        """The limiter, by the name of what it takes the place of."""
        return self.limiter

    @overload
    async def execute(
        self,
        tasks: Tasks[T],
        agent_fn: Async[T, R],
        aggregator: Aggregator[T, R] | None = None,
        *,
        within: float | None = None,
        cost: Cost[T] | None = None,
    ) -> Report[T, R]: ...
    @overload
    async def execute(
        self,
        tasks: Tasks[T],
        agent_fn: Plain[T, R],
        aggregator: Aggregator[T, R] | None = None,
        *,
        within: float | None = None,
        cost: Cost[T] | None = None,
    ) -> Report[T, R]: ...
    async def execute(
        self,
        tasks: Tasks[T],
        agent_fn: Callable[[T], Any],
        aggregator: Aggregator[T, R] | None = None,
        *,
        within: float | None = None,
        cost: Cost[T] | None = None,
    ) -> Report[T, Any]:
        """Run `agent_fn` over `tasks` and return the `Report`.

        `aggregator(outcomes)` makes `report.aggregated` from all outcomes, failed ones included; it may be async.
        `within` bounds the whole run in seconds: what is in flight then counts as a timeout, the rest as not started.
        `cost(task)` guesses how long a task takes; the longest then start first, which shortens the run's tail.
        """
        function("aggregator", aggregator, "use None for none", none=True, may_be_async=True)
        report = await self.start(tasks, agent_fn, within=within, cost=cost)
        if aggregator is not None:
            try:
                report.aggregated = called("aggregator", aggregator, report.individual_results)
                if inspect.isawaitable(report.aggregated):
                    report.aggregated = await report.aggregated
            except BaseException as error:
                attach(error, report, "raised by the aggregator of a run")
                raise
        return report

    @overload
    def start(
        self, tasks: Tasks[T], agent_fn: Async[T, R], *, within: float | None = None, cost: Cost[T] | None = None
    ) -> Run[T, R]: ...
    @overload
    def start(
        self, tasks: Tasks[T], agent_fn: Plain[T, R], *, within: float | None = None, cost: Cost[T] | None = None
    ) -> Run[T, R]: ...
    def start(
        self, tasks: Tasks[T], agent_fn: Callable[[T], Any], *, within: float | None = None, cost: Cost[T] | None = None
    ) -> Run[T, Any]:
        """Begin at once and return the live `Run`; await it for the `Report`."""
        asyncio.get_running_loop()  # a clear RuntimeError outside a coroutine
        run = Run(self._plan(agent_fn, within), Source(tasks, cost))
        run.begin()
        return run

    @overload
    def stream(
        self, tasks: Tasks[T], agent_fn: Async[T, R], *, ordered: bool = False, within: float | None = None
    ) -> Stream[T, R]: ...
    @overload
    def stream(
        self, tasks: Tasks[T], agent_fn: Plain[T, R], *, ordered: bool = False, within: float | None = None
    ) -> Stream[T, R]: ...
    def stream(
        self, tasks: Tasks[T], agent_fn: Callable[[T], Any], *, ordered: bool = False, within: float | None = None
    ) -> Stream[T, Any]:
        """Return a `Stream` to iterate over with `async for`: outcomes as they finish, or in input order.

        It begins with the iteration. Nothing is kept, the input may be endless, and a slow reader slows the run.
        """
        return Stream(self._plan(agent_fn, within), Source(tasks), ordered=ordered)

    @overload
    async def map(
        self, tasks: Tasks[T], agent_fn: Async[T, R], *, within: float | None = None, cost: Cost[T] | None = None
    ) -> list[R]: ...
    @overload
    async def map(
        self, tasks: Tasks[T], agent_fn: Plain[T, R], *, within: float | None = None, cost: Cost[T] | None = None
    ) -> list[R]: ...
    async def map(
        self, tasks: Tasks[T], agent_fn: Callable[[T], Any], *, within: float | None = None, cost: Cost[T] | None = None
    ) -> list[Any]:
        """Return what `agent_fn` returned for each task, in the order of the input; the first failure ends it.

        >>> asyncio.run(ParallelAgentExecutor(2).map(["a", "b", "c"], str.upper))
        ['A', 'B', 'C']

        The results of a run, and nothing else: `on_error` does not count. When a task fails, after its retries,
        nothing new starts, what is in flight is cancelled, and the error is raised, with the report of what was done
        as its `.report`. After `within` seconds it is a `TimeoutError`.
        """
        plan = self._plan(agent_fn, within, on_error="raise")
        return await self._results(Run(plan, Source(tasks, cost)))

    @overload
    async def call(self, task: T, agent_fn: Async[T, R]) -> R: ...
    @overload
    async def call(self, task: T, agent_fn: Plain[T, R]) -> R: ...
    async def call(self, task: T, agent_fn: Callable[[T], Any]) -> Any:
        """Return what `agent_fn` returned for one task, under the same limits, retries and budget as a run.

        >>> asyncio.run(ParallelAgentExecutor(2).call("a", str.upper))
        'A'

        What a web handler needs: all calls on one executor share its slots, and a pause that one of them is asked for
        holds back the others. An error is the agent's own.
        """
        loop = asyncio.get_running_loop()
        if self._retries is None or self._retries[:2] != (loop, self.retry):  # one pause and budget for all calls
            self._retries = loop, self.retry, None if self.retry is None else self.retry.begin()
        given = (agent_fn, self._retries, self.limiter, self.timeout, self.deadline, self.rate_limiter, self.budget,
                 self.journal, self.pool, self.usage)  # fmt: skip
        known = self._called is not None and all(map(is_, self._called[0], given)) and self.journal is None
        if self._called is None or not known:
            if self.pool is None and self._threads is None and not self.serial and not is_async(agent_fn):
                self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="agentkit")
            pool = None if is_async(agent_fn) else self.pool or self._threads
            plan = self._plan(agent_fn, on_error="raise", pool=pool, monitored=False)
            plan.retries = self._retries[2]
            self._called = given, plan
        return (await self._results(Run(self._called[1], Source([task]))))[0]

    async def _results(self, run: Run[T, R]) -> list[R]:
        report = await run
        if report.stopped is None:
            return report.results
        error = (TimeoutError if run.timed_out else RuntimeError)(report.stopped)
        attach(error, report, "the run was stopped")
        raise error

    def _settings(self, within: float | None = None, on_error: OnError | None = None) -> Settings:
        on_error = on_error or self.on_error
        times = {"timeout": self.timeout, "deadline": self.deadline, "within": within}
        return Settings(on_error=on_error, max_failures=self.max_failures, **times)

    def _plan(
        self,
        agent_fn: Callable[[T], Any],
        within: float | None = None,
        *,
        on_error: OnError | None = None,
        pool: Executor | None = None,
        monitored: bool = True,
    ) -> Plan[T, Any]:
        call, close = as_coroutine_function(agent_fn, self.limiter, pool=pool or self.pool, serial=self.serial)
        return Plan(
            call=call,
            agent=agent_fn,
            limiter=self.limiter,
            settings=self._settings(within, on_error),
            rate_limiter=self.rate_limiter,
            budget=self.budget,
            retries=None if self.retry is None else self.retry.begin(),
            writer=None if self.journal is None else self.journal.writer(agent_fn),
            observe=getattr(self.limiter, "observe", None),
            usage=self.usage,
            close=close,
            monitored=monitored and not self.serial,
            progress=self.progress,
        )

    def __repr__(self) -> str:
        return f"<ParallelAgentExecutor {'serial' if self.serial else repr(self.limiter)[1:-1]}>"


def _limiter(max_concurrency: int | CapacityLimiter | None) -> CapacityLimiter:
    if isinstance(max_concurrency, CapacityLimiter):
        return max_concurrency
    remedy = "use 0 to run one task at a time, None for no limit, or a CapacityLimiter"
    limit = whole("max_concurrency", max_concurrency, remedy, least=0, none=True)
    return CapacityLimiter(1 if limit == 0 else limit)
