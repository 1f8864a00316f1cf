"""A concurrency limit that finds out how many calls at once a provider accepts.

What it holds: `AdaptiveLimiter`, a `CapacityLimiter` whose `limit` follows what calls report; its statistics; and
`Gradient`, which compares whole windows of answers to detect that a provider has become slow.
Guarantees: `min_limit <= limit <= max_limit`; a burst of refusals cuts the limit once; it grows only while all its
slots are in use. Use one event loop at a time; not thread-safe. If the provider limits a rate, add a `RateLimiter`.
Strategy: AIMD (additive increase, multiplicative decrease: Chiu and Jain 1989) with slow start, a remembered ceiling
that is approached fast and passed carefully (CUBIC), and recovery after a collapse (ssthresh). The gradient (Netflix's
concurrency-limits, 2018) compares with the best so far, which drifts slowly towards recent values.
Opened by notebook 08.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from agentkit.base.arguments import number, switch, whole
from agentkit.semaphore.capacity import CapacityLimiter, LimiterStatistics

__all__ = ["AdaptiveLimiter", "AdaptiveStatistics", "Gradient"]

CUT = 0.9  # factor applied to the limit after a refusal
FAST = 0.5  # slots per success below the ceiling: the limit grows by half in each round of calls
CALM = 50  # successes at the ceiling that earn the first slot above it; every 50 more double the growth
HOLD, TOLERANCE = 1.2, 1.5  # gradient: slowdowns above which the limit stops growing, and is cut
INSTANT = 0.01  # share of a call's duration: calls that end this close together count as simultaneous
WINDOW = 20  # gradient: answers per window
DRIFT = 0.001  # gradient: share of the way that the best moves towards the latest window


@dataclass(frozen=True, slots=True)
class AdaptiveStatistics(LimiterStatistics):
    """A snapshot of an adaptive limiter."""

    ceiling: float
    """Calls in flight that the provider accepted just before its last refusal; infinite before the first one."""
    refusals: int
    """Refusals reported so far."""
    cuts: int
    """How often the limit was cut."""


class AdaptiveLimiter(CapacityLimiter):
    """A capacity limiter that grows while calls succeed and shrinks when one is refused.

    >>> limiter = AdaptiveLimiter(10)
    >>> limiter.acquire_nowait()
    True
    >>> limiter.observe(started=0.0, finished=0.1, refused=True)
    >>> limiter.observe(started=0.0, finished=0.1, refused=True)  # same burst: counts once
    >>> limiter
    <AdaptiveLimiter 1 of 9 in flight, 0 waiting; ceiling 1, 2 refusals, 1 cut>

    An executor reports every attempt with `observe`; `subscribe` calls you back when the limit changes. The limit
    starts at `initial` and stays between `min_limit` and `max_limit`. Assigning `limit` restarts the search from there;
    0 closes the limiter until you assign another value. With `gradient=True`, rising latency per output token cuts the
    limit too, before anything is refused; a slowdown of 50 % over 20 answers is tolerated.
    """

    __slots__ = ("_calm", "_ceiling", "_cut_at", "_cuts", "_first", "_gradient", "_instant", "_level",
                 "_max_limit", "_min_limit", "_pace", "_refusals", "_slow", "_used_up")  # fmt: skip

    def __init__(self, initial: int = 10, *, min_limit: int = 1, max_limit: int = 1000, gradient: bool = False) -> None:
        initial = whole("initial", initial, "for a fixed limit use CapacityLimiter")
        self._min_limit = whole("min_limit", min_limit, "it must not be above initial", most=initial)
        self._max_limit = whole("max_limit", max_limit, "it must not be below initial", least=initial)
        super().__init__(initial)
        self._gradient = Gradient() if switch("gradient", gradient) else None
        self._level = float(initial)  # the limit before rounding down
        self._cut_at = -math.inf  # only calls that started after the last cut may change the limit again
        self._refusals = self._cuts = 0
        self._slow = 1.0  # gradient: the latest slowdown
        self._instant, self._used_up = -math.inf, False  # when calls last ended, and whether all slots were taken then
        self._restart()

    def _restart(self) -> None:
        self._ceiling = self._first = math.inf
        self._pace = self._fastest()  # slots per success at and above the ceiling
        self._calm = True  # whether a call has succeeded since the last cut

    def observe(
        self, started: float, finished: float, *, refused: bool = False, per_token: float | None = None
    ) -> None:
        """Report an attempt, while its slot is held or right after: when it ran, and how it ended.

        `refused`: the provider was overloaded. Do not report a refusal with a `Retry-After`: that is about a rate, and
        `Retries` handles it by pausing all calls. `per_token`: seconds per output token.
        """
        started, finished = number("started", started), number("finished", finished)
        switch("refused", refused)
        if not isinstance(per_token, float):  # a NaN or an infinity counts as not known
            number("per_token", per_token, "use None where it is not known", none=True)
        if self._limit != int(self._level):  # `limit` was assigned
            if self._limit == 0:
                return
            self._level = float(min(max(self._limit, self._min_limit), self._max_limit))
            self._restart()
        current = started >= self._cut_at
        self._refusals += refused
        if refused:
            if current:
                accepted = float(max(1, min(self._in_flight - 1, self._level)))
                if self._calm:
                    self._first = accepted
                self._ceiling = max(accepted, self._first / 2)  # in a collapse, half of the first one at least
                self._cut(CUT, finished)
        elif current:
            self._calm = True
            if self._gradient is not None:
                self._slow = self._gradient.slowdown(finished - started, per_token) or self._slow
            if self._slow > TOLERANCE:
                self._cut(max(0.5, HOLD / self._slow), finished)
            elif self._is_used_up(started, finished) and self._slow <= HOLD:
                self._grow()
        if int(self._level) != self._limit:
            self.limit = int(self._level)

    def _cut(self, share: float, now: float) -> None:
        self._level = max(float(self._min_limit), self._level * share)
        self._cut_at, self._calm, self._pace = now, False, 1 / CALM
        self._cuts += 1
        if self._gradient is not None:
            self._gradient.restart()
            self._slow = 1.0

    def _is_used_up(self, started: float, finished: float) -> bool:
        """Whether all slots were in use; for calls that end simultaneously, when the first of them ended."""
        if not abs(finished - self._instant) <= INSTANT * (finished - started):
            self._instant, self._used_up = finished, self._in_flight + 1 >= int(self._level)
        return self._used_up

    def _grow(self) -> None:
        if self._level < self._ceiling < math.inf:
            self._level = min(self._ceiling, self._level + FAST)
        else:
            self._level += self._pace
            self._pace = min(self._fastest(), self._pace * 2 ** (1 / CALM))
        self._level = min(float(self._max_limit), self._level)

    def _fastest(self) -> float:
        """Slots per success: 1 doubles the limit each round; half of that with the gradient, which reacts later."""
        return 1.0 if self._gradient is None else 0.5

    def statistics(self) -> AdaptiveStatistics:
        """Return the limiter's current state, its peaks, and what it has learned."""
        return AdaptiveStatistics(
            self._in_flight, self._limit, len(self._waiters), self._peak_in_flight, self._waiters.peak,
            self._ceiling, self._refusals, self._cuts,
        )  # fmt: skip

    def __repr__(self) -> str:
        ceiling = "no ceiling met" if self._ceiling == math.inf else f"ceiling {self._ceiling:g}"
        cuts = "1 cut" if self._cuts == 1 else f"{self._cuts} cuts"
        return f"{super().__repr__()[:-1]}; {ceiling}, {self._refusals} refusals, {cuts}>"


class Gradient:
    """Measures how many times slower than its best a provider has become.

    >>> gradient = Gradient()
    >>> [gradient.slowdown(seconds=2.0, per_token=0.01) for _ in range(20)][-2:]
    [None, 1.0]
    >>> [gradient.slowdown(seconds=6.0, per_token=0.03) for _ in range(20)][-1]
    2.994...
    """

    __slots__ = ("_best", "_count", "_seconds", "_tokens")

    def __init__(self) -> None:
        self._best = math.nan  # seconds per token
        self.restart()

    def restart(self) -> None:
        """Begin a new window: measurements from before a change of the limit say nothing about the time after."""
        self._count, self._seconds, self._tokens = 0, 0.0, 0.0

    def slowdown(self, seconds: float, per_token: float | None) -> float | None:
        """Record one answer; return the slowdown if it completes a window, else None."""
        if per_token is None or not 0 < per_token < math.inf or not 0 < seconds < math.inf:
            return None
        self._count += 1
        self._seconds += seconds
        self._tokens += seconds / per_token
        if self._count < WINDOW:
            return None
        recent = self._seconds / self._tokens
        best = recent if math.isnan(self._best) else self._best
        self._best = min(recent, best + DRIFT * (recent - best))
        self.restart()
        return recent / self._best

    def __repr__(self) -> str:
        return f"<Gradient: at best {self._best:.3g} s per token, {self._count} of {WINDOW} answers in the window>"
