"""One attempt at a task: leave to start, the call, its time limit, and what its end means.

What it holds: `Attempter`, which the workers of a run share, and `Leave`.
Guarantees: an attempt ends with the outcome recorded, or with the number of seconds after which to try again; a
cancellation from outside always passes through; whatever was reserved is corrected or given back.
Strategy: plain functions on either side of the awaited call, which stands in the worker itself: a coroutine in between
would cost as much as all the rest. Retries and limits are consulted only where there are any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any

from agentkit.executor.settings import Settings
from agentkit.executor.watchdog import Watchdog
from agentkit.report.outcome import Attempt, Outcome, Span

if TYPE_CHECKING:
    from agentkit.limits import Budget, Claim, RateLimiter, Reservation
    from agentkit.retry import RetryPolicy

__all__ = ["Attempter", "Leave"]

_USUAL = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})  # results that are no forgotten await
NOTED = 0.001  # seconds; a shorter wait is not noted
_UNFINISHED = (CoroutineType, asyncio.Future, AsyncGeneratorType)  # what an agent returns when it forgets to await


class Leave:
    """What one attempt was granted before it started; given back if no call is made."""

    __slots__ = ("claim", "reservation")

    def __init__(self) -> None:
        self.reservation: Reservation | None = None
        self.claim: Claim | None = None

    def settle(self, result: Any, error: BaseException | None = None) -> None:
        """The call has ended."""
        if self.claim is not None:
            self.claim.settle(result, error)
        if self.reservation is not None and (usage := getattr(result, "usage", None)) is not None:
            self.reservation.correct(usage.total_tokens)

    def give_back(self) -> None:
        """No call was made."""
        for granted in (self.reservation, self.claim):
            if granted is not None:
                granted.cancel()


class Attempter:
    """Attempts tasks with one agent, under one run's settings: a worker awaits `call` between `start` and its end.

    The steps are `ask_leave` if `gated`, `start`, `await call(task)`, then `returned` or `raised`. A worker does
    without `start` if the run is `plain`, and without `returned` if the type of a result is `usual`.
    """

    def __init__(
        self,
        call: Callable[[Any], Awaitable[Any]],
        settings: Settings,
        *,
        agent: Any = None,
        rate_limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        budget: Budget | None = None,
        observe: Callable[..., None] | None = None,
    ) -> None:
        self.call, self._settings, self._agent = call, settings, agent
        self._rate, self._policy, self._budget, self._observe = rate_limiter, retry, budget, observe
        self.gated = rate_limiter is not None or budget is not None
        """Whether an attempt has to ask for leave: for a rate, a budget, or a pause the provider has asked for."""
        self.closed: tuple[str, Exception] | None = None
        """Status and error of all that would start from now on; None as long as they may."""
        self.retries = None if retry is None else retry.begin()
        self._seconds = inf if settings.timeout is None else settings.timeout
        self._timed = settings.timeout is not None or settings.deadline is not None
        self.plain = not (self.gated or self._timed or retry is not None or observe is not None)
        """Whether there is nothing to be done for an attempt but the call; no longer so once it is closed."""
        self.usual = _USUAL if self.plain else frozenset()
        """Types of results that need no look."""

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the clock."""
        usual = type(loop).time is asyncio.BaseEventLoop.time  # which asks `monotonic`, by way of one more call
        self.time, self.began = (monotonic if usual else loop.time), loop.time()
        self.watchdog = Watchdog(loop)
        self._watched = self.watchdog.watched

    def close(self, status: str, error: Exception) -> None:
        """Let nothing new start. What is in flight goes on to its end, for it is paid already."""
        if self.closed is None:
            self.closed, self.gated, self.plain = (status, error), True, False

    def start(self, outcome: Outcome, me: asyncio.Task[Any], now: float | None, leave: Leave | None) -> float:
        """Note that `me` is about to call the agent, and return when; the outcome has ended if its time was over.

        `now` is the run's time, if the caller happens to know it; reading the clock is dear.
        """
        started = self.time() - self.began if now is None else now
        if self.retries is not None:
            self.retries.start(self.began + started, outcome.started is not None)
        if self._timed:
            seconds = self._seconds
            if self._settings.deadline is not None:
                seconds, rule = self._settings.allowed(started - outcome.submitted)
                if seconds <= 0:
                    if leave is not None:
                        leave.give_back()
                    outcome.end("timeout", TimeoutError(f"not started: {rule} had passed"), started)
                    return started
            self._watched[me] = until = self.began + started + seconds
            if until < self.watchdog.due:
                self.watchdog.wake(until)
        if outcome.started is None:
            outcome.started = started
        return started

    def returned(self, outcome: Outcome, me: asyncio.Task[Any], started: float, leave: Leave | None) -> float | None:
        """The agent has returned. Return None, or as `raised` does if what it returned is no result."""
        if self._timed and self._watched.pop(me, None) is None:
            self.watchdog.forgive(me)
        if type(outcome.result) not in _USUAL and isinstance(outcome.result, _UNFINISHED):
            result, outcome.result, outcome.status, outcome.finished = outcome.result, None, "cancelled", None
            if leave is not None:
                leave.settle(result)
            return self._failed(outcome, started, _forgotten_await(result))
        if leave is not None or outcome.attempt_log is not None or self._observe is not None:
            self._note_success(outcome, started, leave)
        return None

    def raised(
        self, outcome: Outcome, error: BaseException, me: asyncio.Task[Any], started: float, leave: Leave | None
    ) -> float | None:
        """The agent has raised. Return the seconds until the next attempt, or None if the outcome has ended.

        What is not the agent's own passes through: the run's cancellation, and errors that are meant to end programs.
        """
        late = self._timed and self.watchdog.release(me)
        if leave is not None:
            leave.settle(None, error)
        if isinstance(error, asyncio.CancelledError):
            if me.cancelling():  # neither the watchdog nor the agent itself: the run is being stopped
                raise error
            if late:
                _, rule = self._settings.allowed(started - outcome.submitted)
                error = TimeoutError(f"took longer than {rule}")
        elif not isinstance(error, Exception):  # such as a test framework's abort; the log says whose it was
            outcome.end("failed", error, self.time() - self.began)
            raise error
        return self._failed(outcome, started, error)

    async def ask_leave(self, outcome: Outcome) -> Leave | None:
        """Wait until the pause is over, and budget and rate allow a start; None if that has ended the outcome."""
        leave = Leave()
        try:
            while self.retries is not None and (pause := self.retries.delay(self.time())) > 0:
                with self._waiting(outcome, "the provider's pause"):
                    await asyncio.sleep(pause)
            if self._budget is not None and self.closed is None:
                with self._waiting(outcome, "the budget"):
                    leave.claim = await self._budget.acquire(outcome.task, self._agent)
            if self._rate is not None and self.closed is None:
                tokens = self._rate.cost(outcome.task, self._agent)
                leave.reservation = self._rate.try_acquire(tokens)
                if leave.reservation is None:
                    with self._waiting(outcome, "the rate"):
                        leave.reservation = await self._rate.acquire(tokens)
            if leave.claim is not None:
                leave.claim.begin()
        except ValueError as error:  # NeverFits and BudgetExceeded: no wait can help
            if hasattr(error, "not_started"):
                self.close("rejected", error)
            outcome.end("rejected", error, self.time() - self.began)
        except asyncio.CancelledError:
            leave.give_back()
            raise
        if self.closed is not None and outcome.finished is None:
            outcome.end(*self.closed, self.time() - self.began)
        if outcome.finished is None:
            return leave
        leave.give_back()
        return None

    @contextmanager
    def _waiting(self, outcome: Outcome, what: str) -> Iterator[None]:
        """Note what a task waited for, if it did, so that a picture can tell it from waiting for a slot."""
        since = self.time()
        try:
            yield
        finally:
            if (now := self.time()) > since + NOTED:
                outcome.spans += (Span(f"waiting for {what}", since - self.began, now - self.began),)

    def _note_success(self, outcome: Outcome, started: float, leave: Leave | None) -> None:
        assert outcome.finished is not None
        if outcome.attempt_log is not None:
            outcome.attempt_log += (Attempt(started, outcome.finished),)
        if leave is not None:
            leave.settle(outcome.result)
        if self._observe is not None:
            tokens = getattr(getattr(outcome.result, "usage", None), "output_tokens", 0)
            per_token = (outcome.finished - started) / tokens if tokens else None
            self._observe(self.began + started, self.began + outcome.finished, per_token=per_token)

    def _tells_of_the_limit(self, error: BaseException) -> bool:
        """Whether too many were in flight; a refusal with a hint is about the rate, and the pause meets it."""
        from agentkit.limits import retry_after
        from agentkit.retry.failures import is_overload  # only adaptive limits ask

        return is_overload(error) and (self.retries is None or retry_after(error) is None)

    def _failed(self, outcome: Outcome, started: float, error: BaseException) -> float | None:
        now = self.time()
        finished, wait = now - self.began, None
        if self._rate is not None:
            self._rate.update_from(error)
        if self._observe is not None and self._tells_of_the_limit(error):
            self._observe(self.began + started, now, refused=True)
        if self.retries is not None and self._policy is not None and outcome.started is not None:
            kind = self._policy.kind(error)
            alike = sum(a.error is not None and self._policy.kind(a.error) == kind for a in outcome.attempt_log or ())
            wait = self.retries.next_wait(error, alike + 1, self.began + outcome.started, now)
            self.gated = self.gated or self.retries.pause.due() > -inf
            deadline = self._settings.deadline
            if wait is not None and deadline is not None and finished + wait >= outcome.submitted + deadline:
                wait = None  # it could not end in time
        if wait is not None or outcome.attempt_log is not None:
            outcome.attempt_log = (*(outcome.attempt_log or ()), Attempt(started, finished, error))
        if wait is None:
            stopped = {TimeoutError: "timeout", asyncio.CancelledError: "cancelled"}
            status = next((status for kind, status in stopped.items() if isinstance(error, kind)), "failed")
            outcome.end(status, error, finished)
        return wait


def _forgotten_await(result: Any) -> TypeError:
    kind = type(result).__name__
    if isinstance(result, CoroutineType):
        result.close()
        kind = f"coroutine {result.__qualname__}()"
    return TypeError(f"the agent returned the {kind} instead of its value; await it in the agent")
