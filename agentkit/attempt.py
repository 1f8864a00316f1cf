"""One attempt at a task: leave to start, the call, its time limit, and what its end means.

What it holds: `Attempter`, which the workers of a run share.
Guarantees: an attempt ends with the outcome recorded, or with the number of seconds after which to try again; a
cancellation from outside always passes through; whatever was reserved is corrected or given back.
Strategy: the common case, a call that ends well, takes the short way through; retries and limits are consulted only
where there are any.
Taken apart in notebook 09.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any

from agentkit.outcome import Attempt, Outcome
from agentkit.settings import Settings
from agentkit.watchdog import Watchdog

if TYPE_CHECKING:
    from agentkit.budget import Budget, Claim
    from agentkit.ratelimit import RateLimiter, Reservation
    from agentkit.retry import RetryPolicy

__all__ = ["Attempter"]

_UNFINISHED = (CoroutineType, asyncio.Future, AsyncGeneratorType)  # what an agent returns when it forgets to await


class Attempter:
    """Attempts tasks with one agent, under one run's settings."""

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
        self._call, self._settings, self._agent = call, settings, agent
        self._rate, self._policy, self._budget, self._observe = rate_limiter, retry, budget, observe
        self._gated = rate_limiter is not None or budget is not None
        self.closed: tuple[str, Exception] | None = None
        """Status and error of all that would start from now on; None as long as they may."""
        self.retries = None if retry is None else retry.begin()
        self._timeout = settings.allowed(0) if settings.deadline is None else (inf, "")
        self._timed = settings.timeout is not None or settings.deadline is not None
        self.in_flight = 0

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the clock."""
        self._time, self.began = loop.time, loop.time()
        self.watchdog = Watchdog(loop)

    def close(self, status: str, error: Exception) -> None:
        """Let nothing new start. What is in flight goes on to its end, for it is paid already."""
        if self.closed is None:
            self.closed, self._gated = (status, error), True

    async def attempt(self, outcome: Outcome, me: asyncio.Task[Any], now: float | None = None) -> float | None:
        """Try once, in the task `me`. Return None if the outcome is final, else the seconds until the next try.

        `now` is the run's time, if the caller happens to know it; reading the clock is dear.
        """
        reservation = claim = None
        if self._gated or (self.retries is not None and self.retries.pause.due() > -inf):
            (reservation, claim), now = await self._leave_to_start(outcome), None
            if outcome.finished is not None:
                return None
        started = self._time() - self.began if now is None else now
        if self.retries is not None:
            self.retries.start(self.began + started, retry=outcome.started is not None)
        rule, watched = "", self._timed
        if watched:
            allowed, rule = self._timeout
            if self._settings.deadline is not None:
                allowed, rule = self._settings.allowed(started - outcome.submitted)
                if allowed <= 0:
                    _give_back(reservation, claim)
                    outcome.end("timeout", TimeoutError(f"not started: {rule} had passed"), started)
                    return None
            self.watchdog.watch(me, self.began + started + allowed)
        if outcome.started is None:
            outcome.started = started
        self.in_flight += 1
        error: BaseException | None = None
        result: Any = None
        try:
            result = await self._call(outcome.task)
        except asyncio.CancelledError as cancelled:
            late = watched and self.watchdog.release(me)
            watched = False
            if me.cancelling():  # neither the watchdog nor the agent itself: the run is being stopped
                raise
            error = TimeoutError(f"took longer than {rule}") if late else cancelled
        except Exception as failed:
            error = failed
        except BaseException as fatal:  # such as a test framework's abort; the log says whose it was, and the run ends
            outcome.end("failed", fatal, self._time() - self.began)
            raise
        finally:
            self.in_flight -= 1
            if watched:
                self.watchdog.release(me)
            if claim is not None:
                claim.settle(result, error)
        if error is None and not isinstance(result, _UNFINISHED):
            finished = self._time() - self.began
            outcome.result, outcome.status, outcome.finished = result, "success", finished
            if reservation is not None or outcome._attempts is not None or self._observe is not None:
                self._note_success(outcome, started, reservation)
            return None
        return self._failed(outcome, started, error or _forgotten_await(result))

    async def _leave_to_start(self, outcome: Outcome) -> tuple[Reservation | None, Claim | None]:
        """Wait until the pause is over, and budget and rate allow a start; ends the outcome if they never will."""
        reservation = claim = None
        try:
            while self.retries is not None and (pause := self.retries.delay(self._time())) > 0:  # noqa: ASYNC110
                await asyncio.sleep(pause)
            if self._budget is not None and self.closed is None:
                claim = await self._budget.acquire(outcome.task, self._agent)
            if self._rate is not None and self.closed is None:
                tokens = self._rate.cost(outcome.task, self._agent)
                reservation = self._rate.try_acquire(tokens) or await self._rate.acquire(tokens)
            if claim is not None:
                claim.begin()
        except ValueError as error:  # NeverFits and BudgetExceeded: no wait can help
            if hasattr(error, "not_started"):
                self.close("rejected", error)
            outcome.end("rejected", error, self._time() - self.began)
        except asyncio.CancelledError:
            _give_back(reservation, claim)
            raise
        if self.closed is not None and outcome.finished is None:
            outcome.end(*self.closed, self._time() - self.began)
        if outcome.finished is not None:
            _give_back(reservation, claim)
        return reservation, claim

    def _note_success(self, outcome: Outcome, started: float, reservation: Reservation | None) -> None:
        assert outcome.finished is not None
        if outcome._attempts is not None:
            outcome._attempts += (Attempt(started, outcome.finished),)
        usage = getattr(outcome.result, "usage", None)
        if reservation is not None and usage is not None:
            reservation.correct(usage.total_tokens)
        if self._observe is not None:
            tokens = getattr(usage, "output_tokens", 0)
            per_token = (outcome.finished - started) / tokens if tokens else None
            self._observe(self.began + started, self.began + outcome.finished, per_token=per_token)

    def _tells_of_the_limit(self, error: BaseException) -> bool:
        """Whether too many were in flight; a refusal with a hint is about the rate, and the pause meets it."""
        from agentkit.failures import classify  # only adaptive limits ask
        from agentkit.hints import retry_after

        return classify(error) == "refused" and (self.retries is None or retry_after(error) is None)

    def _failed(self, outcome: Outcome, started: float, error: BaseException) -> float | None:
        now = self._time()
        finished, wait = now - self.began, None
        if self._rate is not None:
            self._rate.update_from(error)
        if self._observe is not None and self._tells_of_the_limit(error):
            self._observe(self.began + started, now, refused=True)
        if self.retries is not None and self._policy is not None and outcome.started is not None:
            kind = self._policy.kind(error)
            alike = sum(a.error is not None and self._policy.kind(a.error) == kind for a in outcome._attempts or ())
            wait = self.retries.next_wait(error, alike + 1, self.began + outcome.started, now)
            deadline = self._settings.deadline
            if wait is not None and deadline is not None and finished + wait >= outcome.submitted + deadline:
                wait = None  # it could not end in time
        if wait is not None or outcome._attempts is not None:
            outcome._attempts = (*(outcome._attempts or ()), Attempt(started, finished, error))
        if wait is None:
            stopped = {TimeoutError: "timeout", asyncio.CancelledError: "cancelled"}
            status = next((status for kind, status in stopped.items() if isinstance(error, kind)), "failed")
            outcome.end(status, error, finished)
        return wait


def _give_back(*claims: Reservation | Claim | None) -> None:
    """No call was made."""
    for claim in claims:
        if claim is not None:
            claim.cancel()


def _forgotten_await(result: Any) -> TypeError:
    kind = type(result).__name__
    if isinstance(result, CoroutineType):
        result.close()
        kind = f"coroutine {result.__qualname__}()"
    return TypeError(f"the agent returned the {kind} instead of its value; await it in the agent")
