"""What an attempt must be granted before it starts: the end of a provider's pause, the budget, the rate.

What it holds: `Gate`, which waits for them on behalf of one run, `Grant`, what one attempt got, and `refusal`.
Guarantees: whatever was granted is corrected when the call has ended, or given back if none was made, also where a
function of the user's (an `estimate`, a price list) raises in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

from agentkit.limits import BudgetExceeded, NeverFits
from agentkit.report.outcome import Outcome, Status
from agentkit.semaphore import QueueFull

if TYPE_CHECKING:
    from agentkit.limits import Budget, Claim, RateLimiter, Reservation
    from agentkit.report.usage import Usage
    from agentkit.retry.policy import Retries

__all__ = ["Gate", "Grant", "refusal"]

NOTED = 0.001  # seconds; a shorter wait is not noted


class Grant:
    """What one attempt was granted."""

    __slots__ = ("claim", "reservation", "used")

    def __init__(self) -> None:
        self.reservation: Reservation | None = None
        self.claim: Claim | None = None
        self.used = False
        """Whether the agent was called."""

    def begin(self) -> None:
        """The call starts now, in the running context."""
        if self.claim is not None:
            self.claim.begin()

    def settle(self, usage: Usage | None, model: str, failed: bool) -> None:
        """The call has ended; `usage` is what it used, as far as that is known."""
        if not self.used:
            self.give_back()
            return
        if self.claim is not None:
            self.claim.settle(usage, model)
        if self.reservation is not None and usage is not None and not failed:
            self.reservation.correct(usage.total_tokens)

    def give_back(self) -> None:
        """No call was made."""
        for granted in (self.reservation, self.claim):
            if granted is not None:
                granted.cancel()


class Gate:
    """Where the attempts of one run wait for the provider's pause, the budget and the rate."""

    def __init__(
        self,
        agent: object,
        rate: RateLimiter | None,
        budget: Budget | None,
        retries: Retries | None,
        clock: tuple[Callable[[], float], float],
    ) -> None:
        self._agent, self._rate, self._budget, self._retries = agent, rate, budget, retries
        self._time, self._began = clock
        self.is_open = rate is None and budget is None
        """Whether an attempt may start without asking."""
        self.closed: tuple[Status, Exception] | None = None
        """Status and error of every task that would start from now on; None as long as tasks may start."""

        self.since: float | None = None
        """Since when tasks have been waiting here one after another, while a slot was free; None while none waits."""
        self._what = ""  # what the last of them waited for
        self.note_pause()

    def close(self, status: Status, error: Exception) -> None:
        """Let nothing more start."""
        self.closed, self.is_open = (status, error), False

    def note_pause(self) -> None:
        """A failure may have begun a pause, for which attempts have to wait from now on."""
        if self._retries is not None and self._retries.pause.due() > -inf:
            self.is_open = False

    async def claim(self, outcome: Outcome, grant: Grant) -> None:
        """Wait until the provider's pause is over and the budget allows the attempt; holds no slot."""
        await self._pause(outcome)
        if self._budget is not None and self.closed is None:
            grant.claim = self._budget.try_acquire(outcome.task, self._agent)
            if grant.claim is None:
                with self._waiting(outcome, "the budget"):
                    grant.claim = await self._budget.acquire(outcome.task, self._agent)

    async def reserve(self, outcome: Outcome, grant: Grant) -> None:
        """Wait until the rate allows a start, and a pause that has begun meanwhile is over."""
        await self._pause(outcome)
        if self._rate is not None and self.closed is None and grant.reservation is None:
            tokens = self._rate.cost(outcome.task, self._agent)
            grant.reservation = self._rate.try_acquire(tokens)
            if grant.reservation is None:
                with self._waiting(outcome, "the rate"):
                    grant.reservation = await self._rate.acquire(tokens)
        if outcome.started is None and not outcome.spans:  # it did not have to wait after those before it
            with self._waiting(outcome, self._what):
                pass

    async def _pause(self, outcome: Outcome) -> None:
        while self._retries is not None and (pause := self._retries.delay(self._time())) > 0:
            with self._waiting(outcome, "the provider's pause"):
                await asyncio.sleep(pause)

    @contextmanager
    def _waiting(self, outcome: Outcome, what: str) -> Iterator[None]:
        """Note what a task waited for, so that a picture can tell it from waiting for a slot."""
        since = self._time()
        if outcome.started is None and self.since is not None:  # it has waited while those before it did
            since = max(self.since, self._began + outcome.submitted)
        self.since, self._what = since if self.since is None else self.since, what
        try:
            yield
        finally:
            if (now := self._time()) > since + NOTED:
                outcome.add_span(f"waiting for {what}", since - self._began, now - self._began)


def refusal(error: Exception, deadline: float | None) -> tuple[Status, Exception]:
    """Status and error of a task that `error` kept from starting; `deadline` is the one that passed, if one did."""
    if deadline is not None:
        return "timeout", TimeoutError(f"not started: deadline={deadline:g} s from submission had passed")
    return "rejected" if isinstance(error, QueueFull | NeverFits | BudgetExceeded) else "failed", error
