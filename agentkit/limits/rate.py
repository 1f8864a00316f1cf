"""Bounding how many calls start per minute, and how many LLM tokens they use.

What it holds: `RateLimiter`; what it hands out and says is in `reservation.py`.
Guarantees: first come, first served, so a large request is neither overtaken nor starved; starts are evenly spaced
and never more than allowed in any window; what a cancelled caller had reserved is free again.
Strategy: callers queue, and only the first of them is looked at, with one timer; `Allowance` says when it is due.
Tokens are reserved before the call, when only an estimate is known, and corrected after it.
One event loop at a time; not for threads.
Opened by notebook 07.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Any

from agentkit.limits.rate_schedule import Allowance
from agentkit.limits.reservation import RateStatistics, Reservation, estimate_tokens

__all__ = ["RateLimiter"]

_SLACK = 1e-9  # seconds: the resolution of the loop's own timers
_GUARD = 5e-4  # seconds between a late wake-up and the wire


class RateLimiter:
    """Lets calls start at a steady rate: at most so many per minute, and so many LLM tokens.

    >>> async def main():
    ...     limiter = RateLimiter(requests_per_minute=60_000, tokens_per_minute=90_000)
    ...     async with limiter:  # a start, without tokens
    ...         pass
    ...     reservation = await limiter.acquire(tokens=700)
    ...     reservation.correct(420)  # what the answer's `usage` said
    ...     return limiter
    >>> asyncio.run(main())
    <RateLimiter 60,000 requests/min, 90,000 tokens/min; 2 started, 0 waiting>

    Starts are evenly spaced; `burst` many may come at once after a quiet time. A provider that counts per second
    refuses bursts that a minute would allow, hence the default of 1. `window` is the stretch, in seconds, over which
    the provider counts: none of that length ever holds more than its share. Without it, that is a second for requests
    (longer where less than one a second is allowed) and a minute for tokens. `estimate(task)` guesses a task's tokens.
    Limits can be assigned while calls wait. Share one limiter among all executors that share an account. It bounds
    starts, not how many run at once: for that see `CapacityLimiter`.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        burst: int = 1,
        estimate: Callable[[Any], float] | None = None,
        window: float | None = None,
    ) -> None:
        self._allowance = Allowance(burst=burst, window=window)
        self._waiters: OrderedDict[asyncio.Future[None], Reservation] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._started = self._peak = 0
        self._tokens = self._waited = 0.0
        self.estimate = estimate or estimate_tokens
        """The function that guesses a task's tokens."""
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute

    # -- settings -------------------------------------------------------------------------------------------------

    @property
    def requests_per_minute(self) -> float | None:
        """Starts allowed per minute; assign to it at any time, None for no limit."""
        return self._allowance.per_minute("requests")

    @requests_per_minute.setter
    def requests_per_minute(self, limit: float | None) -> None:
        self._set("requests", limit)

    @property
    def tokens_per_minute(self) -> float | None:
        """Tokens allowed per minute; assign to it at any time, None for no limit."""
        return self._allowance.per_minute("tokens")

    @tokens_per_minute.setter
    def tokens_per_minute(self, limit: float | None) -> None:
        self._set("tokens", limit)

    def update_from(self, answer: Any) -> None:
        """Learn from an answer's headers, or from an error's: limits, what is left, and when to come back.

        A limit that the provider names counts if it is lower than yours, or if you gave none. A `Retry-After` of up
        to two minutes pauses all starts, which then begin slowly again; a longer one is left to the caller.
        """
        self._allowance.learn(answer, self._enter())
        self._serve()

    def cost(self, task: Any, agent: Any = None) -> float:
        """Tokens to reserve for a task: its estimate, with what the agent adds; 0 where tokens are not limited."""
        if self.tokens_per_minute is None:
            return 0
        answer, instructions = getattr(agent, "max_tokens", None), getattr(agent, "instructions", "")
        return self.estimate(task) + (answer or 0) + math.ceil(len(instructions) / 4)

    # -- taking turns ---------------------------------------------------------------------------------------------

    def delay(self, tokens: float = 0) -> float:
        """Seconds a call that asked now would wait at least: 0 if it could start. Nothing is reserved."""
        now, queue = self._enter(), self._waiters.values()
        behind = self._allowance.due_behind(len(queue), sum(reservation.tokens for reservation in queue))
        return max(0.0, self._allowance.due(tokens) - now, behind - now)

    def try_acquire(self, tokens: float = 0) -> Reservation | None:
        """Reserve a start and `tokens` if nobody waits and nothing has to be waited for; else None."""
        now = self._enter()
        if not tokens >= 0:
            raise ValueError(f"tokens must be 0 or more, got {tokens!r}; use 0 for a call that uses none")
        if (due := self._allowance.due(tokens)) == math.inf:
            raise self._allowance.never_fits(tokens)
        if self._waiters or due > now + _SLACK:
            return None
        reservation = Reservation(tokens, self._correct)
        self._let_through(reservation, now, None)
        return reservation

    async def acquire(self, tokens: float = 0) -> Reservation:
        """Wait for leave to start a call that uses `tokens`; raises `NeverFits` if that can never be."""
        if (reservation := self.try_acquire(tokens)) is not None:
            return reservation
        assert self._loop is not None
        began, reservation = self._loop.time(), Reservation(tokens, self._correct)
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiters[turn] = reservation
        self._peak = max(self._peak, len(self._waiters))
        if len(self._waiters) == 1:
            self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled() or turn.exception() is not None:
                self._waiters.pop(turn, None)
                self._serve()
            else:  # cancelled between being let through and waking up
                reservation.cancel()
            raise
        finally:
            self._waited += self._loop.time() - began
        self._stamp(reservation)
        return reservation

    async def __aenter__(self) -> Reservation:
        return await self.acquire()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is given back: a start has been made."""

    def statistics(self) -> RateStatistics:
        """Return what the limiter is doing now, and its sums so far."""
        return RateStatistics(
            self.requests_per_minute, self.tokens_per_minute, self._started, self._tokens,
            len(self._waiters), self._peak, self._waited, self._allowance.pause.delay(self._now()),
        )  # fmt: skip

    # -- inside ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Let through whose turn has come, and set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is None:
            return
        now = self._loop.time()
        while self._waiters:
            turn, reservation = next(iter(self._waiters.items()))
            due = self._allowance.due(reservation.tokens)
            if due == math.inf or turn.done():
                del self._waiters[turn]
                if not turn.done():  # the limit has fallen below what it asks for
                    turn.set_exception(self._allowance.never_fits(reservation.tokens))
            elif due > now + _SLACK:
                self._timer = self._loop.call_at(due, self._serve)
                return
            else:
                del self._waiters[turn]
                self._let_through(reservation, now, due)
                turn.set_result(None)

    def _let_through(self, reservation: Reservation, now: float, due: float | None) -> None:
        reservation.started, reservation.due = now, now if due is None else due
        reservation.uses = self._allowance.take(reservation.tokens, now, due)
        self._started += 1
        self._tokens += reservation.tokens

    def _stamp(self, reservation: Reservation) -> None:
        """Log a start when it really happens, and a little later if it was late: it may reach the wire later still."""
        now = reservation.started = self._now()
        for use in reservation.uses.values():
            use.at = max(use.at, now + (_GUARD if now > reservation.due + _SLACK else 0.0))

    def _correct(self, reservation: Reservation, change: float, cancelled: bool) -> None:
        self._allowance.correct(reservation.uses, "tokens", change)
        if cancelled:
            self._allowance.correct(reservation.uses, "requests", -1)
            self._started -= 1
        self._tokens += change
        self._serve()

    def _enter(self) -> float:
        """The time; and a fresh start where the running loop keeps another clock than the last."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._waiters and self._loop is not None and not self._loop.is_closed():
                raise RuntimeError(f"{self!r} has waiters on another event loop; give each loop a limiter of its own")
            self._waiters.clear()
            if self._loop is None or not _same_clock(loop, self._loop):
                self._allowance.forget()
            self._loop = loop
        return loop.time()

    def _now(self) -> float:
        return 0.0 if self._loop is None else self._loop.time()

    def _set(self, kind: str, limit: float | None) -> None:
        self._allowance.set(kind, limit, self._now())
        self._serve()

    def __repr__(self) -> str:
        limits = (self.requests_per_minute, self.tokens_per_minute)
        says = [
            f"no {kind} limit" if limit is None else f"{limit:,.6g} {kind}s/min"
            for limit, kind in zip(limits, ("request", "token"), strict=True)
        ]
        return f"<RateLimiter {', '.join(says)}; {self._started} started, {len(self._waiters)} waiting>"


def _same_clock(one: asyncio.AbstractEventLoop, other: asyncio.AbstractEventLoop) -> bool:
    """Whether two loops both tell the machine's time; others keep a clock of their own."""
    return type(one).time is type(other).time is asyncio.BaseEventLoop.time
