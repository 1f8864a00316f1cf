"""What one run remembers about its retries: how many it may still make, and when nobody may start.

What it holds: `Retries`, made by `RetryPolicy.begin`; `RetryBudget`, its bounds; `RetryStatistics`.
Guarantees: retries never exceed the budget; a `Retry-After` told to one call holds back all of them.
Strategy: the budget is a bucket that requests fill and retries empty: when everything fails, retrying everything
would double the load on a provider that is already in trouble. Source: the retry budget of the Google SRE book,
chapter 21. Refusals for the rate have a bucket of their own: they are the provider's way of pacing, not trouble.
Opened by the decision guide.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentkit.limits import MAX_RETRY_AFTER, retry_after
from agentkit.limits.pause import Pause

if TYPE_CHECKING:
    from agentkit.retry.policy import RetryPolicy

__all__ = ["Retries", "RetryBudget", "RetryStatistics"]


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How many retries a run may make: `reserve`, and a share of its requests."""

    faults: float = 0.1
    """Retries earned by each request, for timeouts, lost connections and 5xx."""
    refusals: float = 3.0
    """Retries earned by each request, for refusals because of the rate."""
    reserve: float = 100
    """Retries there are from the start, for each of the two kinds; and the most that can be saved up for faults."""

    def __post_init__(self) -> None:
        for name in ("faults", "refusals", "reserve"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)!r}; use budget=None for no bound")


@dataclass(frozen=True, slots=True)
class RetryStatistics:
    """The retries of a run so far."""

    requests: int
    """First attempts."""
    retries: int
    """Attempts after the first."""
    refusals: int
    """Failures because of the rate."""
    faults: int
    """Failures that might pass for other reasons."""
    stopped: int
    """Failures that were not retried, whatever the reason."""
    over_budget: int
    """How many of those only because the budget was used up."""
    waited: float
    """Seconds of waiting that were ordered, all tasks together."""
    paused: float
    """Seconds until anything may start, because the provider asked for a pause."""


class Retries:
    """The retries of one run: `policy.begin()` makes one; ask it after every failure.

    >>> from agentkit.retry.policy import RetryPolicy
    >>> retries = RetryPolicy(attempts=2, base=1.0, jitter="none").begin()
    >>> retries.start(now=0.0)
    >>> retries.next_wait(TimeoutError(), attempt=1, started=0.0, now=5.0)
    1.0
    >>> retries.next_wait(TimeoutError(), attempt=2, started=0.0, now=11.0) is None
    True
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy, self.pause = policy, Pause()
        self._started = self.pause.start
        self._rng = random.Random(policy.seed)
        reserve = policy.budget.reserve if policy.budget else 0.0
        self._level = {"fault": reserve, "refused": reserve}
        self._failures = {"fault": 0, "refused": 0, "stop": 0}
        self._requests = self._retries = self._stopped = self._over_budget = 0
        self._credited = 0  # requests the levels have been raised for
        self._waited = 0.0

    def delay(self, now: float) -> float:
        """Seconds for which nothing may start; 0 if something may."""
        return self.pause.delay(now)

    def start(self, now: float, retry: bool = False) -> None:
        """Note that an attempt starts."""
        self._started(now)
        if retry:
            self._retries += 1
        else:
            self._requests += 1

    def _earn(self, budget: RetryBudget) -> None:
        """Credit the requests made since this was last asked."""
        fresh, self._credited = self._requests - self._credited, self._requests
        self._level["fault"] = min(budget.reserve, self._level["fault"] + fresh * budget.faults)
        self._level["refused"] += fresh * budget.refusals

    def next_wait(self, error: BaseException, attempt: int, started: float, now: float) -> float | None:
        """Seconds to wait before the next attempt at a task; None to stop.

        `attempt` counts the task's failures of this kind (`policy.kind(error)`), this one included; `started` is when
        its first attempt began.
        """
        kind = self.policy.kind(error)
        self._failures[kind] += 1
        hint = retry_after(error) if kind != "stop" else None
        if hint is not None and hint <= MAX_RETRY_AFTER:
            self.pause.hold(now + hint, now)
        wait = self.policy.wait(error, attempt, now - started, self._rng)
        if wait is not None and self.policy.budget:
            self._earn(self.policy.budget)
            if self._level[kind] < 1:
                self._over_budget += 1
                wait = None
            else:
                self._level[kind] -= 1
        self._stopped += wait is None
        self._waited += wait or 0.0
        return wait

    def statistics(self, now: float | None = None) -> RetryStatistics:
        """Return the sums so far, and how long the pause lasts, seen from `now`."""
        return RetryStatistics(
            self._requests, self._retries, self._failures["refused"], self._failures["fault"],
            self._stopped, self._over_budget, self._waited, 0.0 if now is None else self.pause.delay(now),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Retries: {self._requests} requests, {self._retries} retries, {self._stopped} given up>"
