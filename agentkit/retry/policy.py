"""Retrying failed calls: whether, after what wait, and when to give up.

What it holds: `RetryPolicy`, the rules; `RetryBudget`, the limit on a run's retries; `Retries`, the state of one run,
and its `RetryStatistics`; `Attempts`, for use without an executor. `failures.py` classifies errors.
Guarantees: permanent failures are not retried; a `Retry-After` delays all calls of the run; the number of attempts, the
total time and the share of retries are limited; cancellation is never caught.
Strategy: exponential backoff with full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015). A bucket that
requests fill and retries empty limits the load on a provider in trouble (Google SRE book, chapter 21).
Use only one retry layer: three attempts around three attempts are nine. Opened by the decision guide.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from agentkit.base.arguments import (
    attribute,
    called,
    check_fields,
    choice,
    function,
    instance,
    number,
    refusal,
    seconds,
    whole,
)
from agentkit.limits import MAX_RETRY_AFTER, retry_after
from agentkit.limits.pause import Pause
from agentkit.retry.failures import Kind, classify

__all__ = ["Attempts", "Retries", "RetryBudget", "RetryPolicy", "RetryStatistics"]

P = ParamSpec("P")
T = TypeVar("T")

On = tuple[type[BaseException], ...] | type[BaseException] | Callable[[BaseException], bool]
_JITTER = {"full": 0.0, "equal": 0.5, "none": 1.0}  # the share of the wait that is not random


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How many retries a run may make: `reserve`, plus a share of its requests."""

    transient: float = 0.1
    """Retries earned per request, for timeouts, lost connections and 5xx."""
    rate_limited: float = 3.0
    """Retries earned per request, for calls rejected because of the rate."""
    reserve: float = 100
    """Retries available at the start, for each of the two kinds; also the most that can be saved up for transient."""

    def __post_init__(self) -> None:
        check_fields(
            self, number, "transient", "rate_limited", "reserve", remedy="use budget=None for no limit", least=0
        )


def _exceptions(on: Any) -> On:
    """Check what else to retry: exception types, or a function."""
    kinds = on if isinstance(on, tuple) else (on,)
    if all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        return on  # type: ignore[no-any-return]
    if isinstance(on, type | tuple):
        raise refusal("on", "must be exception types, or a function of an exception", on, kind=TypeError)
    return function("on", on, "give exception types, or a function of an exception")  # type: ignore[no-any-return]


class RetryPolicy:
    """What to retry, how long to wait, and when to stop.

    >>> policy = RetryPolicy(attempts=3, wait_initial=0.001)
    >>> policy
    <RetryPolicy: 3 attempts, 20 if rate limited; wait U(0, min(30, 0.001·2^k)) s; retries <= 100 + 10 % of requests>
    >>> calls = []
    >>> @policy
    ... async def ask():
    ...     calls.append("once more")
    ...     if len(calls) < 3:
    ...         raise TimeoutError
    ...     return len(calls)
    >>> asyncio.run(ask())
    3

    Before retry k = 0, 1, … it waits a random time from 0 to min(`wait_max`, `wait_initial`·2^k) seconds
    (`jitter="full"`), from half of that (`"equal"`) or exactly that (`"none"`: all calls retry together). A
    `Retry-After` of up to two minutes is added to the wait; a longer one ends the retries. `attempts` limits the
    attempts that fail with a transient error, `rate_limit_attempts` those rejected because of the rate. `deadline`
    limits a task's total time in seconds. `budget` is the share of requests that may be retried after transient errors,
    or a `RetryBudget`, or None. `on` adds exception types to retry, or is a function that returns whether to retry an
    exception. With `seed=None`, the random numbers differ in every run; inside `simulate` they can be reproduced.
    """

    attempts: int = attribute(whole, remedy="use 1 for no retry")
    rate_limit_attempts: int = attribute(whole, remedy="use 1 for no retry")
    wait_initial: float = attribute(number, remedy="it is a time in seconds", above=0)
    wait_max: float = attribute(number, remedy="it is a time in seconds", above=0)
    deadline: float | None = attribute(seconds)
    jitter: str = attribute(choice, choices=_JITTER, remedy="use 'full'")
    budget: RetryBudget | None = attribute(instance, kind=RetryBudget, none=True)
    seed: int | None = attribute(whole, least=None, none=True)

    def __init__(
        self,
        attempts: int = 5,
        *,
        wait_initial: float = 0.5,
        wait_max: float = 30.0,
        jitter: str = "full",
        budget: float | RetryBudget | None = 0.1,
        deadline: float | None = None,
        rate_limit_attempts: int = 20,
        on: On = (),
        seed: int | None = None,
    ) -> None:
        self.attempts, self.rate_limit_attempts = attempts, rate_limit_attempts
        if self.attempts == 1:
            self.rate_limit_attempts = 1
        self.wait_initial, self.wait_max, self.deadline = wait_initial, wait_max, deadline
        self.jitter, self.seed = jitter, seed
        if budget is not None and not isinstance(budget, RetryBudget):
            budget = RetryBudget(number("budget", budget, "give a share such as 0.1, a RetryBudget, or None", least=0))
        self.budget = budget
        self._on = _exceptions(on)
        self._alone: tuple[asyncio.AbstractEventLoop, Retries] | None = None  # for use without an executor

    def kind(self, error: BaseException) -> Kind:
        """Classify a failure as `rate_limited`, `transient` or `permanent`: `classify` plus the policy's `on`."""
        kind = classify(instance("error", error, BaseException, "give the exception that was raised"))
        if kind == "permanent" and isinstance(error, Exception):
            if isinstance(self._on, tuple | type):
                return "transient" if isinstance(error, self._on) else "permanent"
            return "transient" if called("on of the retry policy", self._on, error) else "permanent"
        return kind if isinstance(error, Exception) else "permanent"

    def wait(self, error: BaseException, attempt: int, waited: float, rng: random.Random) -> float | None:
        """Seconds to wait after failure number `attempt` (from 1) of its kind; None to give up.

        `waited` is the time since the first attempt began. Keeps no state.
        """
        attempt, waited = whole("attempt", attempt), number("waited", waited)
        instance("rng", rng, random.Random)
        kind, hint = self.kind(error), retry_after(error) or 0.0
        most = {"permanent": 0, "rate_limited": self.rate_limit_attempts, "transient": self.attempts}[kind]
        if attempt >= most or hint > MAX_RETRY_AFTER:
            return None
        lowest = _JITTER[self.jitter]
        ceiling = min(self.wait_max, self.wait_initial * 2.0 ** min(attempt - 1, 60))
        wait = hint + ceiling * (lowest + (1 - lowest) * rng.random())
        return None if self.deadline is not None and waited + wait >= self.deadline else wait

    def begin(self) -> Retries:
        """Create the state of one run: its budget, its pause, its random numbers."""
        return Retries(self)

    def __call__(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Decorate an async function: each call is retried according to this policy."""
        if not inspect.iscoroutinefunction(fn):
            raise TypeError(f"a RetryPolicy decorates async functions, got {fn!r}; write `async def`")

        @functools.wraps(fn)
        async def retrying(*args: P.args, **kwargs: P.kwargs) -> T:
            async for attempt in self:
                with attempt:
                    return await fn(*args, **kwargs)
            raise AssertionError("an attempt neither returned nor raised")

        return retrying

    def __aiter__(self) -> Attempts:
        """Retry a block: `async for attempt in policy: with attempt: ...`; ends after the first success."""
        loop = asyncio.get_running_loop()
        if self._alone is None or self._alone[0] is not loop:
            self._alone = loop, self.begin()
        return Attempts(self._alone[1])

    def statistics(self) -> RetryStatistics:
        """Return the totals on the latest event loop, without those of executors, which keep their own."""
        return (Retries(self) if self._alone is None else self._alone[1]).statistics()

    def __repr__(self) -> str:
        ceiling = f"min({self.wait_max:g}, {self.wait_initial:g}·2^k)"
        wait = {"full": f"U(0, {ceiling})", "equal": f"U(1/2, 1)·{ceiling}", "none": ceiling}[self.jitter]
        parts = [f"{self.attempts} attempts, {self.rate_limit_attempts} if rate limited; wait {wait} s"]
        if self.deadline is not None:
            parts.append(f"deadline {self.deadline:g} s")
        if self.budget:
            parts.append(
                f"retries <= {self.budget.reserve:g} + {self.budget.transient:.0%} of requests".replace("%", " %")
            )
        return f"<RetryPolicy: {'; '.join(parts)}>"


@dataclass(frozen=True, slots=True)
class RetryStatistics:
    """A snapshot of a run's retries."""

    requests: int
    """First attempts."""
    retries: int
    """Attempts after the first."""
    rate_limited: int
    """Failures because of the rate."""
    transient: int
    """Other failures that a retry may fix."""
    given_up: int
    """Failures that were not retried, for any reason."""
    waited: float
    """Seconds of backoff, the sum over all tasks."""


class Retries:
    """The state of one run's retries: `policy.begin()` creates it; call `next_wait` after every failure.

    >>> retries = RetryPolicy(attempts=2, wait_initial=1.0, jitter="none").begin()
    >>> retries.start(now=0.0)
    >>> retries.next_wait(TimeoutError(), attempt=1, started=0.0, now=5.0)
    1.0
    >>> retries.next_wait(TimeoutError(), attempt=2, started=0.0, now=11.0) is None
    True
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy, self.pause = policy, Pause()
        self._rng = random.Random(random.getrandbits(64) if policy.seed is None else policy.seed)
        reserve = policy.budget.reserve if policy.budget else 0.0
        self._level = {"transient": reserve, "rate_limited": reserve}
        self._failures = {"transient": 0, "rate_limited": 0, "permanent": 0}
        self._requests = self._retries = self._given_up = 0
        self._credited = 0  # requests already added to the levels
        self._waited = 0.0

    def delay(self, now: float) -> float:
        """Seconds until a start is allowed; 0 if it is allowed now."""
        return self.pause.delay(now)

    def start(self, now: float, retry: bool = False) -> None:
        """Record the start of an attempt."""
        self.pause.start(now)
        if retry:
            self._retries += 1
        else:
            self._requests += 1

    def next_wait(self, error: BaseException, attempt: int, started: float, now: float) -> float | None:
        """Seconds to wait before the next attempt at a task; None to give up.

        `attempt` counts the task's failures of this kind (`policy.kind(error)`), including this one; `started` is the
        time its first attempt began.
        """
        kind = self.policy.kind(error)
        self._failures[kind] += 1
        hint = retry_after(error) if kind != "permanent" else None
        if hint is not None and hint <= MAX_RETRY_AFTER:
            self.pause.hold(now + hint, now)
        wait = self.policy.wait(error, attempt, now - started, self._rng)
        if wait is not None and (budget := self.policy.budget):
            fresh, self._credited = self._requests - self._credited, self._requests
            self._level["transient"] = min(budget.reserve, self._level["transient"] + fresh * budget.transient)
            self._level["rate_limited"] += fresh * budget.rate_limited
            if self._level[kind] < 1:
                wait = None
            else:
                self._level[kind] -= 1
        self._given_up += wait is None
        self._waited += wait or 0.0
        return wait

    def statistics(self) -> RetryStatistics:
        """Return the totals so far."""
        limited, transient = self._failures["rate_limited"], self._failures["transient"]
        return RetryStatistics(self._requests, self._retries, limited, transient, self._given_up, self._waited)

    def __repr__(self) -> str:
        return f"<Retries: {self._requests} requests, {self._retries} retries, {self._given_up} given up>"


class Attempts:
    """The attempts at one block. An iterator rather than a generator, so `break` leaves nothing to close."""

    def __init__(self, retries: Retries) -> None:
        self._retries, self._loop = retries, asyncio.get_running_loop()
        self._began = self._loop.time()
        self._failed = {"transient": 0, "rate_limited": 0, "permanent": 0}
        self._error: BaseException | None = None
        self._wait = 0.0
        self.number = 0
        """Attempts started so far."""

    def __aiter__(self) -> Attempts:
        return self

    async def __anext__(self) -> Attempts:
        if self.number and self._error is None:
            raise StopAsyncIteration
        wait = max(self._wait, self._retries.delay(self._loop.time()))
        while wait > 0:
            await asyncio.sleep(wait)
            wait = self._retries.delay(self._loop.time())
        deadline = self._retries.policy.deadline
        if self._error is not None and deadline is not None and self._loop.time() - self._began >= deadline:
            raise self._error
        self._retries.start(self._loop.time(), retry=self.number > 0)
        self.number, self._error = self.number + 1, None
        return self

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        failure = self._retries.policy.kind(error)
        self._failed[failure] += 1
        wait = self._retries.next_wait(error, self._failed[failure], self._began, self._loop.time())
        if wait is None:
            if self.number > 1:
                error.add_note(f"gave up after {self.number} attempts and {self._loop.time() - self._began:.3g} s")
            return False
        self._error, self._wait = error, wait
        return True
