"""Trying again: whether, when, and when to stop.

What it holds: `RetryPolicy` and `Attempts`; what one run remembers is in `retries.py`, how errors are sorted in
`failures.py`.
Guarantees: what cannot succeed is not repeated; a `Retry-After` is a floor, never a ceiling; the number of attempts,
the total time and the share of retries are all bounded; cancellation passes through.
Strategy: exponential backoff with full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015). The policy is
arithmetic and holds no state of a run, so it can be shared; `begin()` makes the state.
Have one retry layer only: three attempts around three attempts are nine. agentkit's clients do not retry.
Opened by the decision guide.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from agentkit.limits import MAX_RETRY_AFTER, retry_after
from agentkit.retry.failures import Kind, classify
from agentkit.retry.retries import Retries, RetryBudget, RetryStatistics

__all__ = ["Attempts", "RetryPolicy"]

P = ParamSpec("P")
T = TypeVar("T")

On = tuple[type[BaseException], ...] | type[BaseException] | Callable[[BaseException], bool]


class RetryPolicy:
    """What to retry, how long to wait, and when to stop.

    >>> policy = RetryPolicy(attempts=3, base=0.001)
    >>> policy
    <RetryPolicy: 3 attempts, 20 if refused; wait U(0, min(30, 0.001·2^k)) s; retries <= 100 + 10 % of requests>
    >>> calls = []
    >>> @policy
    ... async def ask():
    ...     calls.append("once more")
    ...     if len(calls) < 3:
    ...         raise TimeoutError
    ...     return len(calls)
    >>> asyncio.run(ask())
    3

    Before retry k = 0, 1, … it waits a random time from 0 to min(`cap`, `base`·2^k) seconds (`jitter="full"`), from
    half of that (`"equal"`) or exactly that (`"none"`: all come back together). If the provider says when to come back,
    that is added as a floor; more than two minutes mean stop. `attempts` counts those that failed by a fault; those
    refused for the rate have a bound of their own, `refusals`. `within` bounds a task's total time in seconds.
    `budget` is the share of requests that may be retried because of faults, or a `RetryBudget`, or None. `on` adds
    exception types, or is a function that says yes. `seed=None` draws other random numbers in every process.
    """

    def __init__(
        self,
        attempts: int = 5,
        *,
        base: float = 0.5,
        cap: float = 30.0,
        jitter: str = "full",
        budget: float | RetryBudget | None = 0.1,
        within: float | None = None,
        refusals: int = 20,
        on: On = (),
        seed: int | None = 0,
    ) -> None:
        for name, value in (("attempts", attempts), ("refusals", refusals)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}; use 1 for no retry")
        for name, seconds in (("base", base), ("cap", cap), ("within", within)):
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} must be more than 0 seconds, got {seconds!r}; use attempts=1 for no retry")
        if jitter not in _JITTER:
            raise ValueError(f"jitter must be one of {', '.join(_JITTER)}, got {jitter!r}; use 'full'")
        self.attempts, self.refusals = attempts, 1 if attempts == 1 else refusals
        self.base, self.cap, self.jitter, self.within, self.seed = base, cap, jitter, within, seed
        self.budget = RetryBudget(budget) if isinstance(budget, int | float) else budget
        self._on = on
        self._alone: tuple[asyncio.AbstractEventLoop, Retries] | None = None  # for use without an executor

    # -- arithmetic -----------------------------------------------------------------------------------------------

    def kind(self, error: BaseException) -> Kind:
        """Sort a failure into `refused`, `fault` or `stop`, as `classify` does, with the policy's own `on`."""
        kind = classify(error)
        if kind == "stop" and isinstance(error, Exception):
            own = isinstance(error, self._on) if isinstance(self._on, tuple | type) else self._on(error)
            return "fault" if own else "stop"
        return kind if isinstance(error, Exception) else "stop"

    def wait(self, error: BaseException, attempt: int, waited: float, rng: random.Random) -> float | None:
        """Seconds to wait after the `attempt`-th failure (from 1) of its kind; None to stop.

        `waited` is the time since the first attempt began. Nothing is remembered.
        """
        kind, hint = self.kind(error), retry_after(error) or 0.0
        most = {"stop": 0, "refused": self.refusals, "fault": self.attempts}[kind]
        if attempt >= most or hint > MAX_RETRY_AFTER:
            return None
        lowest = _JITTER[self.jitter]
        ceiling = min(self.cap, self.base * 2.0 ** min(attempt - 1, 60))
        wait = hint + ceiling * (lowest + (1 - lowest) * rng.random())
        return None if self.within is not None and waited + wait >= self.within else wait

    def begin(self) -> Retries:
        """State for one run: its budget, its pauses, its random numbers."""
        return Retries(self)

    # -- use without an executor ----------------------------------------------------------------------------------

    def __call__(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Decorate an async function: each call of it is retried by this policy."""
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
        """Attempts at a block: `async for attempt in policy: with attempt: ...`; it ends with the first success."""
        loop = asyncio.get_running_loop()
        if self._alone is None or self._alone[0] is not loop:
            self._alone = loop, self.begin()
        return Attempts(self._alone[1])

    def statistics(self) -> RetryStatistics:
        """Return the sums of all decorated functions and loops on the latest event loop; executors keep their own."""
        return (Retries(self) if self._alone is None else self._alone[1]).statistics()

    def __repr__(self) -> str:
        ceiling = f"min({self.cap:g}, {self.base:g}·2^k)"
        wait = {"full": f"U(0, {ceiling})", "equal": f"U(1/2, 1)·{ceiling}", "none": ceiling}[self.jitter]
        parts = [f"{self.attempts} attempts, {self.refusals} if refused; wait {wait} s"]
        if self.within is not None:
            parts.append(f"within {self.within:g} s")
        if self.budget:
            parts.append(
                f"retries <= {self.budget.reserve:g} + {self.budget.faults:.0%} of requests".replace("%", " %")
            )
        return f"<RetryPolicy: {'; '.join(parts)}>"


_JITTER = {"full": 0.0, "equal": 0.5, "none": 1.0}  # the share of the wait that is certain


class Attempts:
    """The attempts at one block, one after another; an iterator rather than a generator, so `break` leaves nothing."""

    def __init__(self, retries: Retries) -> None:
        self._retries, self._loop = retries, asyncio.get_running_loop()
        self._began = self._loop.time()
        self._failed = {"fault": 0, "refused": 0, "stop": 0}
        self._error: BaseException | None = None
        self._wait = 0.0
        self.number = 0
        """Attempts begun so far."""

    def __aiter__(self) -> Attempts:
        return self

    async def __anext__(self) -> Attempts:
        if self.number and self._error is None:
            raise StopAsyncIteration
        wait = max(self._wait, self._retries.delay(self._loop.time()))
        while wait > 0:
            await asyncio.sleep(wait)
            wait = self._retries.delay(self._loop.time())
        within = self._retries.policy.within
        if self._error is not None and within is not None and self._loop.time() - self._began >= within:
            raise self._error
        self._retries.start(self._loop.time(), retry=self.number > 0)
        self.number, self._error = self.number + 1, None
        return self

    def __enter__(self) -> Attempts:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._failed[self._retries.policy.kind(error)] += 1
        failures = self._failed[self._retries.policy.kind(error)]
        wait = self._retries.next_wait(error, failures, self._began, self._loop.time())
        if wait is None:
            if self.number > 1:
                error.add_note(f"gave up after {self.number} attempts and {self._loop.time() - self._began:.3g} s")
            return False
        self._error, self._wait = error, wait
        return True
