"""A run with knobs: agents against the embedded provider, sampled while they run, everything turned while they run.

What it holds: `Operation`, the run, its provider and its knobs; `rehearse`, which runs one in virtual time to its end.
Guarantees: no widget and no thread in here. All methods but `stop` and the constructor want the operation's own loop.
Strategy: each knob sets a property that limiter, rate limiter, retry policy and provider have anyway; only the timeout
is kept by the agent itself, since an executor's is fixed for a run.
Opened by notebook 08.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentkit.agent import ChatAgent, Reply
from agentkit.executor import ParallelAgentExecutor
from agentkit.executor.run import Run
from agentkit.lab.control_room.knobs import MEAN_OUTPUT, RETRIES, Knobs
from agentkit.lab.control_room.snapshot import Snapshot, Try
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.call_log import Call
from agentkit.lab.provider.provider import Provider
from agentkit.limits import RateLimiter
from agentkit.report import Report, percentile
from agentkit.report.outcome import current
from agentkit.retry import RetryPolicy
from agentkit.semaphore.adaptive import AdaptiveLimiter

__all__ = ["PRICES", "Operation", "rehearse"]

PRICES = (0.15, 0.60)  # USD for a million input and a million output tokens; a small model of 2024
RECENT = 10.0  # seconds over which throughput is counted
LATEST = 100  # successes whose latencies make the p95


class _Slots(AdaptiveLimiter):
    """An adaptive limiter that can be told to hold still."""

    __slots__ = ("adaptive",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit, most=max(1000, limit))
        self.adaptive = False

    def observe(self, started: float, finished: float, **what: Any) -> None:
        if self.adaptive:
            super().observe(started, finished, **what)


class _Pacer(RateLimiter):
    """A rate limiter that keeps to the knobs alone."""

    def update_from(self, answer: Any) -> None:
        """Learn nothing: what to allow is said by the knobs."""


class Operation:
    """A run under way, with every knob within reach.

    >>> async def main():
    ...     operation = Operation(["why", "how"], Knobs(latency=1.0))
    ...     async with operation.provider.client() as client:
    ...         run = operation.begin(client)
    ...         operation.turn(Knobs(latency=1.0, max_concurrency=1))
    ...         await run
    ...     return operation.snapshot()
    >>> shot = simulate(main)
    >>> shot.succeeded, shot.attempts, shot.limit
    (2, 2, 1)
    """

    def __init__(self, tasks: Sequence[str], knobs: Knobs | None = None, *, seed: int = 0) -> None:
        self.tasks, self.knobs = list(tasks), knobs or Knobs()
        self.provider = Provider(
            seed=seed, limits=self.knobs.limits, latency=self.knobs.model, faults=self.knobs.faults
        )
        self.provider.subscribe(self._paid)
        self.run: Run | None = None
        """The run, from `begin` on."""
        self._order = "resume"  # what it was last told
        self._slots, self._pacer = _Slots(self.knobs.max_concurrency), _Pacer(estimate=_tokens)
        self._retry = RetryPolicy(seed=seed, budget=None)
        self._tries: list[Try] = []
        self._levels: list[tuple[float, int, int]] = []
        self._limits: list[tuple[float, float]] = []
        self._first: dict[int, float] = {}  # when a task's first attempt began
        self._ok: deque[tuple[float, float]] = deque(maxlen=10_000)  # when a success came, and its latency
        self._lanes, self._widest = list[int](), 0
        self._refused = self._input = self._output = 0
        self._latest = ""
        self._time: Callable[[], float] = float  # the loop's clock, once there is a loop
        self._began = 0.0

    # -- the run --------------------------------------------------------------------------------------------------

    def begin(self, client: Any) -> Run:
        """Start all agents with this client; await the run for its report."""
        loop = asyncio.get_running_loop()
        self._began, self._time = loop.time(), loop.time
        self._agent = ChatAgent("agent", client=client)
        self._slots.subscribe(self._limit_changed)
        self._apply()
        executor = ParallelAgentExecutor(self._slots, rate_limiter=self._pacer, retry=self._retry)
        self.run = executor.start(self.tasks, self._attempt)
        self._limit_changed()
        getattr(self.run, self._order)()
        return self.run

    def tell(self, order: str) -> None:
        """Have the run `pause`, `resume` or `cancel`; at once when it begins, if it has not."""
        self._order = order
        if self.run is not None:
            getattr(self.run, order)()

    def turn(self, knobs: Knobs) -> None:
        """Set all knobs, while it runs; what is under way keeps the latency and the timeout it began with."""
        before, self.knobs = self.knobs, knobs
        self._apply(before)

    def _apply(self, before: Knobs | None = None) -> None:
        knobs, provider = self.knobs, self.provider
        provider.limits, provider.faults = knobs.limits, knobs.faults
        if before is None or before.latency != knobs.latency:
            provider.latency = knobs.model
        for name, value in RETRIES[knobs.retry].items():
            setattr(self._retry, name, value)
        self._pacer.requests_per_minute = knobs.requests_per_minute if knobs.rate_limiter else None
        self._pacer.tokens_per_minute = knobs.tokens_per_minute if knobs.rate_limiter else None
        self._slots.adaptive = knobs.adaptive
        if before is None or (before.max_concurrency, before.adaptive) != (knobs.max_concurrency, knobs.adaptive):
            self._slots.limit = knobs.max_concurrency

    async def _attempt(self, task: str) -> Reply:
        """One attempt of one agent, noted for the picture."""
        outcome = current.get()
        assert outcome is not None
        lane, timeout = self._take_lane(), self.knobs.timeout
        noted = Try(outcome.task_id, lane, self._now())
        self._tries.append(noted)
        self._first.setdefault(outcome.task_id, noted.started)
        self._level()
        try:
            async with asyncio.timeout(timeout):
                reply = await self._agent.ask(task)
            noted.kind = "ok"
            return reply
        except TimeoutError:
            noted.kind, self._latest = "timed out", f"agent {outcome.task_id}: took longer than timeout={timeout:g} s"
            raise TimeoutError(f"took longer than timeout={timeout:g} s") from None
        except asyncio.CancelledError:
            noted.kind = "cancelled"
            raise
        except Exception as error:
            noted.kind = "refused" if getattr(error, "status_code", None) == 429 else "failed"
            self._refused += noted.kind == "refused"
            self._latest = f"agent {outcome.task_id}: {type(error).__name__}: {error}"
            raise
        finally:
            noted.finished = self._now()
            heapq.heappush(self._lanes, lane)
            if noted.kind == "ok":
                self._ok.append((noted.finished, noted.finished - self._first[outcome.task_id]))

    def _take_lane(self) -> int:
        if self._lanes:
            return heapq.heappop(self._lanes)
        self._widest += 1
        return self._widest - 1

    def _paid(self, call: Call) -> None:
        if call.output_tokens:
            self._input, self._output = self._input + call.prompt_tokens, self._output + call.output_tokens

    # -- looking on -----------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._time() - self._began

    def _limit_changed(self) -> None:
        self._limits.append((self._now(), self._slots.limit))

    def _level(self) -> None:
        assert self.run is not None
        run = self.run.statistics()
        self._levels.append((self._now(), run.waiting or 0, run.backing_off))

    def snapshot(self, window: float = math.inf) -> Snapshot:
        """What it looks like now; of the attempts, those that reach into the last `window` seconds."""
        assert self.run is not None, "begin() first"
        self._level()
        run = self.run.statistics()
        now = run.elapsed
        span = min(RECENT, now)
        recent = sum(1 for at, _ in reversed(self._ok) if at > now - span) if span else 0
        latest = [latency for _, latency in list(self._ok)[-LATEST:]]
        money = (self._input * PRICES[0] + self._output * PRICES[1]) / 1e6
        return Snapshot(
            now, run.total or 0, run.succeeded, run.failed, run.in_flight, self._slots.limit, run.waiting or 0,
            run.backing_off, self._pacer.statistics().queue_depth, recent / span if span else 0.0,
            percentile(latest, 0.95), self._refused, len(self._tries), self._input + self._output, money, self._latest,
            tuple(one for one in self._tries if one.finished is None or one.finished >= now - window),
            tuple(self._levels), tuple(self._limits),
        )  # fmt: skip


def _tokens(task: str) -> float:
    return len(task) / 4 + 10 + MEAN_OUTPUT


def rehearse(
    tasks: int | Sequence[str],
    knobs: Knobs | None = None,
    *,
    turns: Mapping[float, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> Report:
    """Run to the end in virtual time, turning knobs at given seconds; exact, and the same every time.

    >>> rehearse(40, Knobs(max_concurrency=4, requests_per_minute=None), turns={5.0: {"max_concurrency": 20}})
    <Report: 40 of 40 succeeded, at most 20 in flight, ... s>
    """
    prompts = [f"question {i}" for i in range(tasks)] if isinstance(tasks, int) else tasks

    async def main() -> Report:
        operation = Operation(prompts, knobs, seed=seed)
        loop = asyncio.get_running_loop()

        def turn(changes: Mapping[str, Any]) -> None:
            operation.turn(replace(operation.knobs, **changes))

        async with operation.provider.client() as client:
            run = operation.begin(client)
            for at, changes in (turns or {}).items():
                loop.call_later(at, turn, changes)
            return await run

    return simulate(main)
