"""A run whose settings can be changed and whose state can be read while it runs.

What it holds: `Operation`, a run against the embedded provider with its knobs; `rehearse`, which simulates a whole run
in virtual time.
Guarantees: no widgets and no threads. All methods must be called on the operation's own event loop.
Strategy: each knob sets an ordinary property of the limiter, the rate limiter, the retry policy or the provider. Only
the timeout is applied by the agent itself, because an executor's timeout is fixed for a run.
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
from agentkit.lab.control_room.snapshot import AttemptBar, Snapshot
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.call_log import CallRecord
from agentkit.lab.provider.provider import Provider
from agentkit.limits import RateLimiter
from agentkit.report import Report, percentile
from agentkit.report.outcome import current
from agentkit.retry import RetryPolicy
from agentkit.semaphore.adaptive import AdaptiveLimiter

__all__ = ["PRICES", "Operation", "rehearse"]

PRICES = (0.15, 0.60)  # USD for a million input and a million output tokens; a small model of 2024
RECENT = 10.0  # seconds that the throughput is averaged over
LATEST = 100  # number of successes that the p95 is computed from


class _SwitchableLimiter(AdaptiveLimiter):
    """An adaptive limiter whose adaptation can be switched off."""

    __slots__ = ("adaptive",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit, max_limit=max(1000, limit))
        self.adaptive = False

    def observe(self, started: float, finished: float, **what: Any) -> None:
        if self.adaptive:
            super().observe(started, finished, **what)


class _FixedRateLimiter(RateLimiter):
    """A rate limiter with exactly the rates that the knobs set."""

    def update_from(self, answer: Any) -> None:
        """Ignore the limits in response headers; the knobs set the rates."""


class Operation:
    """A run of agents whose knobs can be changed while it runs.

    >>> async def main():
    ...     operation = Operation(["why", "how"], Knobs(latency=1.0))
    ...     async with operation.provider.client() as client:
    ...         run = operation.start(client)
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
        self.provider.subscribe(self._bill)
        self.run: Run | None = None
        """The run, from `start` on."""
        self._latest_command = "resume"
        self._limiter = _SwitchableLimiter(self.knobs.max_concurrency)
        self._rate_limiter = _FixedRateLimiter(estimate=_estimated_tokens)
        self._retry = RetryPolicy(seed=seed, budget=None)
        self._bars: list[AttemptBar] = []
        self._levels: list[tuple[float, int, int]] = []
        self._limits: list[tuple[float, float]] = []
        self._first: dict[int, float] = {}  # start of each task's first attempt
        self._ok: deque[tuple[float, float]] = deque(maxlen=10_000)  # time and latency of each success
        self._lanes, self._lane_count = list[int](), 0
        self._refused = self._input = self._output = 0
        self._latest = ""
        self._time: Callable[[], float] = float  # the loop's clock, once started
        self._began = 0.0

    # -- the run --------------------------------------------------------------------------------------------------

    def start(self, client: Any) -> Run:
        """Start all agents with `client`; await the returned run for its report."""
        loop = asyncio.get_running_loop()
        self._began, self._time = loop.time(), loop.time
        self._agent = ChatAgent("agent", client=client)
        self._limiter.subscribe(self._limit_changed)
        self._apply()
        executor = ParallelAgentExecutor(self._limiter, rate_limiter=self._rate_limiter, retry=self._retry)
        self.run = executor.start(self.tasks, self._attempt)
        self._limit_changed()
        getattr(self.run, self._latest_command)()
        return self.run

    def command(self, command: str) -> None:
        """Send the run `pause`, `resume` or `cancel`; if it has not started, the command applies at its start."""
        self._latest_command = command
        if self.run is not None:
            getattr(self.run, command)()

    def turn(self, knobs: Knobs) -> None:
        """Change the knobs during the run; attempts in flight keep their latency and timeout."""
        before, self.knobs = self.knobs, knobs
        self._apply(before)

    def _apply(self, before: Knobs | None = None) -> None:
        knobs, provider = self.knobs, self.provider
        provider.limits, provider.faults = knobs.limits, knobs.faults
        if before is None or before.latency != knobs.latency:
            provider.latency = knobs.model
        for name, value in RETRIES[knobs.retry].items():
            setattr(self._retry, name, value)
        self._rate_limiter.requests_per_minute = knobs.requests_per_minute if knobs.rate_limiter else None
        self._rate_limiter.tokens_per_minute = knobs.tokens_per_minute if knobs.rate_limiter else None
        self._limiter.adaptive = knobs.adaptive
        if before is None or (before.max_concurrency, before.adaptive) != (knobs.max_concurrency, knobs.adaptive):
            self._limiter.limit = knobs.max_concurrency

    async def _attempt(self, task: str) -> Reply:
        """Run one attempt of one agent and record it for the picture."""
        outcome = current.get()
        assert outcome is not None
        lane, timeout = self._take_lane(), self.knobs.timeout
        bar = AttemptBar(outcome.task_id, lane, self._now())
        self._bars.append(bar)
        self._first.setdefault(outcome.task_id, bar.started)
        self._level()
        try:
            async with asyncio.timeout(timeout):
                reply = await self._agent.ask(task)
            bar.kind = "ok"
            return reply
        except TimeoutError:
            bar.kind, self._latest = "timed out", f"agent {outcome.task_id}: took longer than timeout={timeout:g} s"
            raise TimeoutError(f"took longer than timeout={timeout:g} s") from None
        except asyncio.CancelledError:
            bar.kind = "cancelled"
            raise
        except Exception as error:
            bar.kind = "refused" if getattr(error, "status_code", None) == 429 else "failed"
            self._refused += bar.kind == "refused"
            self._latest = f"agent {outcome.task_id}: {type(error).__name__}: {error}"
            raise
        finally:
            bar.finished = self._now()
            heapq.heappush(self._lanes, lane)
            if bar.kind == "ok":
                self._ok.append((bar.finished, bar.finished - self._first[outcome.task_id]))

    def _take_lane(self) -> int:
        if self._lanes:
            return heapq.heappop(self._lanes)
        self._lane_count += 1
        return self._lane_count - 1

    def _bill(self, call: CallRecord) -> None:
        if call.output_tokens:
            self._input, self._output = self._input + call.prompt_tokens, self._output + call.output_tokens

    # -- observation ----------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._time() - self._began

    def _limit_changed(self) -> None:
        self._limits.append((self._now(), self._limiter.limit))

    def _level(self) -> None:
        assert self.run is not None
        run = self.run.statistics()
        self._levels.append((self._now(), run.waiting or 0, run.backing_off))

    def snapshot(self, window: float = math.inf) -> Snapshot:
        """Return the current state, with the attempts that ran within the last `window` seconds."""
        assert self.run is not None, "start() first"
        self._level()
        run = self.run.statistics()
        now = run.elapsed
        span = min(RECENT, now)
        recent = sum(1 for at, _ in reversed(self._ok) if at > now - span) if span else 0
        latest = [latency for _, latency in list(self._ok)[-LATEST:]]
        money = (self._input * PRICES[0] + self._output * PRICES[1]) / 1e6
        return Snapshot(
            now, run.total or 0, run.succeeded, run.failed, run.in_flight, self._limiter.limit, run.waiting or 0,
            run.backing_off, self._rate_limiter.statistics().queue_depth, recent / span if span else 0.0,
            percentile(latest, 0.95), self._refused, len(self._bars), self._input + self._output, money, self._latest,
            tuple(bar for bar in self._bars if bar.finished is None or bar.finished >= now - window),
            tuple(self._levels), tuple(self._limits),
        )  # fmt: skip


def _estimated_tokens(task: str) -> float:
    return len(task) / 4 + 10 + MEAN_OUTPUT


def rehearse(
    tasks: int | Sequence[str],
    knobs: Knobs | None = None,
    *,
    turns: Mapping[float, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> Report:
    """Simulate a whole run in virtual time and return its report; the same arguments always give the same report.

    >>> rehearse(40, Knobs(max_concurrency=4, requests_per_minute=None), turns={5.0: {"max_concurrency": 20}})
    <Report: 40 of 40 succeeded, at most 20 in flight, ... s>

    `turns` maps a time in seconds to the knobs that change at that time.
    """
    prompts = [f"question {i}" for i in range(tasks)] if isinstance(tasks, int) else tasks

    async def main() -> Report:
        operation = Operation(prompts, knobs, seed=seed)
        loop = asyncio.get_running_loop()

        def turn(changes: Mapping[str, Any]) -> None:
            operation.turn(replace(operation.knobs, **changes))

        async with operation.provider.client() as client:
            run = operation.start(client)
            for at, changes in (turns or {}).items():
                loop.call_later(at, turn, changes)
            return await run

    return simulate(main)
