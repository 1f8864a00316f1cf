"""Limiting how many calls start per minute, and how many LLM tokens they use.

What it holds: `RateLimiter`, its `RateStatistics`, the `Reservation` it grants, and the estimates of a call's tokens.
Guarantees: first come, first served, so a large request is neither overtaken nor starved. Starts are evenly spaced and
never exceed the limit in any window. When a caller is cancelled, its reservation is returned.
Strategy: callers wait in a FIFO queue with one timer, for the first of them; `RateSchedule` computes when it is due.
Tokens are reserved before the call, from an estimate, and corrected after it.
Use one event loop at a time; not thread-safe. Opened by notebook 07.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentkit.base.arguments import called, function, number, read
from agentkit.limits.pacing import LogEntry, RateSchedule
from agentkit.semaphore.waiters import Waiters, is_real

__all__ = ["RateLimiter", "RateStatistics", "Reservation", "answer_bound", "estimate_tokens"]

_SLACK = 1e-9  # seconds: the resolution of the event loop's timers
_NONE_USED = "use 0 for a call that uses none"
_GUARD = 5e-4  # seconds between a late wake-up and sending the request
_ANSWER_BOUNDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class RateStatistics:
    """A snapshot of a rate limiter."""

    started: int
    """Calls started so far."""
    tokens: float
    """Tokens they used: the estimates, corrected where the usage is known."""
    queue_depth: int
    """Callers waiting now."""
    peak_queue_depth: int
    """The most callers that have waited at once."""
    waited: float
    """Seconds waited, the sum over all callers."""
    paused: float
    """Seconds until the next start because the provider asked for a pause; 0 if there is no pause."""


class Reservation:
    """Permission to start one call, with an estimate of its tokens that can be corrected.

    >>> async def main():
    ...     reservation = await RateLimiter(tokens_per_minute=90_000).acquire(tokens=700)
    ...     reservation.correct(420)  # what the answer's usage said
    ...     return reservation.tokens
    >>> asyncio.run(main())
    420
    """

    __slots__ = ("_cancelled", "_correct", "due", "entries", "started", "tokens")

    def __init__(self, tokens: float, correct: Callable[[Reservation, float, bool], None]) -> None:
        self._correct = correct  # (reservation, change in tokens, whether the start is cancelled)
        self._cancelled = False
        self.entries: dict[str, LogEntry] = {}  # what it uses of each limit; empty while it waits
        self.tokens = tokens
        """Tokens reserved for the call."""
        self.due = math.nan  # when it could have started, if its task had been woken in time
        self.started = math.nan
        """When the call was allowed to start, in `loop.time()`; NaN while it waits."""

    def correct(self, used_tokens: float) -> None:
        """Replace the estimate by what the call really used; the difference is available to others at once."""
        used_tokens = number("used_tokens", used_tokens, "use cancel() if no call was made", least=0)
        if not self._cancelled:
            change, self.tokens = used_tokens - self.tokens, used_tokens
            self._correct(self, change, False)

    def cancel(self) -> None:
        """Return everything: the call was not made. Safe to call twice."""
        if not self._cancelled:
            self._cancelled, change, self.tokens = True, -self.tokens, 0
            self._correct(self, change, True)

    def __repr__(self) -> str:
        return f"<Reservation of {self.tokens:g} tokens, started at {self.started:g} s>"


def estimate_tokens(task: Any) -> int:
    """Estimate of a task's tokens: a quarter of its characters, plus the limit on its answer if it names one.

    >>> estimate_tokens("What is a race condition?")
    7
    >>> estimate_tokens({"prompt": "Why?", "max_tokens": 300})
    310
    """
    return math.ceil(len(str(task)) / 4) + (answer_bound(task) or 0)


def answer_bound(task: Any, agent: Any = None) -> int | None:
    """The limit on the answer's tokens that the task names, or else the agent; None if there is none."""
    bounds = [task.get(name) if isinstance(task, Mapping) else read(task, name) for name in _ANSWER_BOUNDS]
    bounds.append(read(agent, "max_tokens"))
    return next((bound for bound in bounds if isinstance(bound, int) and not isinstance(bound, bool)), None)


class RateLimiter:
    """Starts calls at a steady rate: limits requests and LLM tokens per minute.

    >>> async def main():
    ...     limiter = RateLimiter(requests_per_minute=60_000, tokens_per_minute=90_000)
    ...     async with limiter:  # a start, without tokens
    ...         pass
    ...     reservation = await limiter.acquire(tokens=700)
    ...     reservation.correct(420)  # what the answer's `usage` said
    ...     return limiter
    >>> asyncio.run(main())
    <RateLimiter 60,000 requests/min, 90,000 tokens/min; 2 started, 0 waiting>

    Starts are evenly spaced; up to `burst` calls may start at once after an idle period. The default is 1, because a
    provider that counts per second rejects bursts that its limit per minute would allow. `window` is the period in
    seconds over which the provider counts; no window of that length exceeds its share of the limit. The default is one
    second for requests (longer if the limit is below one a second) and a minute for tokens. `estimate(task)` returns
    the tokens that a task needs. You can assign the limits while calls wait. Share one limiter among all executors that
    use the same account. It limits how many calls start, not how many run at once; for that, see `CapacityLimiter`.
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
        self._schedule = RateSchedule(burst=burst, window=window)
        self._waiters = Waiters[Reservation]("limiter")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_real = False  # whether that loop uses the machine's clock
        self._timer: asyncio.TimerHandle | None = None
        self._started = 0
        self._tokens = self._waited = 0.0
        self._estimate = function("estimate", estimate, "use None for the usual one", none=True) or estimate_tokens
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute

    @property
    def requests_per_minute(self) -> float | None:
        """Starts allowed per minute; assign at any time, None for no limit."""
        return self._schedule.per_minute("requests")

    @requests_per_minute.setter
    def requests_per_minute(self, limit: float | None) -> None:
        self._set("requests", limit)

    @property
    def tokens_per_minute(self) -> float | None:
        """Tokens allowed per minute; assign at any time, None for no limit."""
        return self._schedule.per_minute("tokens")

    @tokens_per_minute.setter
    def tokens_per_minute(self, limit: float | None) -> None:
        self._set("tokens", limit)

    def update_from(self, answer: object) -> None:
        """Apply the headers of a response or an error: limits, what is left of them, and `Retry-After`.

        A provider's limit applies if it is lower than yours, or if you set none. A `Retry-After` of up to two minutes
        pauses all starts and then resumes them gradually; a longer one is left to the caller.
        """
        self._schedule.learn(answer, self._enter())
        self._serve()

    def cost(self, task: object, agent: object = None) -> float:
        """Tokens to reserve for a task: its estimate, plus what the agent adds; 0 if tokens are not limited."""
        if self.tokens_per_minute is None:
            return 0
        tokens: float = called("estimate of the rate limiter", self._estimate, task)
        tokens = number("the result of estimate", tokens, "it is a number of tokens", least=0)
        instructions = str(read(agent, "instructions") or "")
        return tokens + (answer_bound(None, agent) or 0) + math.ceil(len(instructions) / 4)

    def delay(self, tokens: float = 0) -> float:
        """Lower bound, in seconds, for the wait of a call made now; 0 if it could start. Reserves nothing."""
        number("tokens", tokens, _NONE_USED, least=0)
        now, ahead = self._enter(), [reservation.tokens for reservation in self._waiters]
        behind = self._schedule.due_behind(len(ahead), sum(ahead))
        return max(0.0, self._schedule.due(tokens) - now, behind - now)

    def try_acquire(self, tokens: float = 0) -> Reservation | None:
        """Reserve a start and `tokens` if that is possible without waiting and the queue is empty; else None."""
        now, tokens = self._enter(), number("tokens", tokens, _NONE_USED, least=0)
        if (due := self._schedule.due(tokens)) == math.inf:
            raise self._schedule.never_fits(tokens)
        if self._waiters or due > now + _SLACK:
            return None
        reservation = Reservation(tokens, self._correct)
        self._grant(reservation, now, None)
        return reservation

    async def acquire(self, tokens: float = 0) -> Reservation:
        """Wait until a call that uses `tokens` may start; raises `NeverFits` if the limit is below `tokens`."""
        if (reservation := self.try_acquire(tokens)) is not None:
            return reservation
        assert self._loop is not None
        began, reservation = self._loop.time(), Reservation(tokens, self._correct)
        try:
            await self._waiters.wait(reservation, self._start, Reservation.cancel)
        except asyncio.CancelledError:
            self._serve()  # the next one may be due earlier than this one was
            raise
        finally:
            self._waited += self._loop.time() - began
        now = reservation.started = self._loop.time()
        late = now > reservation.due + _SLACK  # then the request may be sent later still
        for entry in reservation.entries.values():
            entry.at = max(entry.at, now + (_GUARD if late else 0.0))
        return reservation

    async def __aenter__(self) -> Reservation:
        return await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        """Return nothing to the limiter: the start has been used."""

    def statistics(self) -> RateStatistics:
        """Return the limiter's current state and its totals."""
        waiting, paused = len(self._waiters), self._schedule.pause.delay(self._now())
        return RateStatistics(self._started, self._tokens, waiting, self._waiters.peak, self._waited, paused)

    def _serve(self) -> None:
        """Grant the waiting calls that are due, and set the timer for the next one."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiters.serve(self._start)

    def _start(self, reservation: Reservation) -> bool:
        """Grant the first waiting call if it is due; raises `NeverFits` if the limit is now below what it needs."""
        assert self._loop is not None
        now, due = self._loop.time(), self._schedule.due(reservation.tokens)
        if due == math.inf:
            raise self._schedule.never_fits(reservation.tokens)
        if due > now + _SLACK:
            self._timer = self._loop.call_at(due, self._serve)
            return False
        self._grant(reservation, now, due)
        return True

    def _grant(self, reservation: Reservation, now: float, due: float | None) -> None:
        reservation.started, reservation.due = now, now if due is None else due
        reservation.entries = self._schedule.take(reservation.tokens, now, due)
        self._started += 1
        self._tokens += reservation.tokens

    def _correct(self, reservation: Reservation, change: float, cancelled: bool) -> None:
        self._schedule.correct(reservation.entries, "tokens", change)
        if cancelled:
            self._schedule.correct(reservation.entries, "requests", -1)
            self._started -= 1
        self._tokens += change
        self._serve()

    def _enter(self) -> float:
        """Return the time; reset the schedule if the running loop has a different clock than the last one."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._waiters.check_loop(loop)
            before, self._is_real = self._is_real, is_real(loop)
            if not (before and self._is_real):
                self._schedule.forget()
            self._loop, self._timer = loop, None
        return loop.time()

    def _now(self) -> float:
        return 0.0 if self._loop is None else self._loop.time()

    def _set(self, kind: str, limit: float | None) -> None:
        self._schedule.set(kind, limit, self._now())
        self._serve()

    def __repr__(self) -> str:
        limits = {"request": self.requests_per_minute, "token": self.tokens_per_minute}
        says = [f"no {kind} limit" if n is None else f"{n:,.6g} {kind}s/min" for kind, n in limits.items()]
        return f"<RateLimiter {', '.join(says)}; {self._started} started, {len(self._waiters)} waiting>"
