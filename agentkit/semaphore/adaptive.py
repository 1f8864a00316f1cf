"""A limit that finds out by itself how many calls at once a provider takes.

What it holds: `AdaptiveLimiter`, a `CapacityLimiter` whose `limit` follows what calls report, and its statistics.
Guarantees: `least <= limit <= most`; one burst of refusals cuts the limit once; it grows only while it is used up.
Strategy: AIMD (additive increase, multiplicative decrease: Chiu and Jain 1989), with what TCP learned since: slow
start; a remembered ceiling, approached fast and passed carefully (CUBIC); a way back from a collapse (ssthresh).
One event loop at a time; not for threads. When the limit is a rate, a `RateLimiter` does far better: use both.
Opened by notebook 08.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from agentkit.semaphore.capacity import CapacityLimiter, LimiterStatistics
from agentkit.semaphore.gradient import Gradient

__all__ = ["AdaptiveLimiter", "AdaptiveStatistics"]

CUT = 0.9  # what a refusal leaves of the limit
FAST = 0.5  # slots per success below the ceiling: the limit grows by half in each round of calls
CALM = 50  # successes at the ceiling that earn the first slot above it; each 50 more double the pace
HOLD, TOLERANCE = 1.2, 1.5  # gradient: multiples of the best latency per token that end growth, and cut the limit
INSTANT = 0.01  # of a call's duration: calls that end this close together end at once


@dataclass(frozen=True, slots=True)
class AdaptiveStatistics(LimiterStatistics):
    """An adaptive limiter at one instant."""

    ceiling: float
    """Calls at once that the provider took just before it last refused one; infinite before the first refusal."""
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
    >>> limiter.observe(started=0.0, finished=0.1, refused=True)  # of the same burst: counts once
    >>> limiter
    <AdaptiveLimiter 1 of 9 in flight, 0 waiting; ceiling 1, 2 refusals, 1 cut>

    An executor reports every attempt with `observe`; `subscribe` tells when the limit changes. `initial` is where it
    starts, `least` and `most` bound it. Assigning `limit` is a new start from there; 0 shuts it until you open it.
    With `gradient=True`, rising latency per output token cuts it too, before anything is refused: by half again is
    tolerated, over 20 answers together.
    """

    __slots__ = ("_calm", "_ceiling", "_cut_at", "_cuts", "_first", "_gradient", "_instant", "_least", "_level",
                 "_most", "_pace", "_refusals", "_slow", "_used_up")  # fmt: skip

    def __init__(self, initial: int = 10, *, least: int = 1, most: int = 1000, gradient: bool = False) -> None:
        for name, value in (("initial", initial), ("least", least), ("most", most)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, got {value!r}; for a fixed limit use CapacityLimiter")
        if not 1 <= least <= initial <= most:
            raise ValueError(
                f"least, initial and most must be 1 or more and in this order, got {least}, {initial} and {most}; "
                "lower `least` or raise `most`"
            )
        super().__init__(initial)
        self._least, self._most, self._gradient = least, most, Gradient() if gradient else None
        self._level = float(initial)  # the limit before rounding down
        self._cut_at = -math.inf  # only a call that started after the last cut may cut again, or let it grow
        self._refusals = self._cuts = 0
        self._slow = 1.0  # gradient: how many times slower than at its best the provider was lately
        self._instant, self._used_up = -math.inf, False  # when calls ended last, and whether all slots were taken then
        self._restart()

    def observe(
        self, started: float, finished: float, *, refused: bool = False, per_token: float | None = None
    ) -> None:
        """Report an attempt, while its slot is held or right after: when it ran, and how it went.

        `refused`: the provider had no room for it. A refusal that says when to come back is about a rate, and better
        left to `Retries`, which paces everybody; do not report it. `per_token`: seconds per output token.
        """
        if self._limit != int(self._level):  # somebody has turned the knob
            if self._limit == 0:
                return
            self._level = float(min(max(self._limit, self._least), self._most))
            self._restart()
        current = started >= self._cut_at
        self._refusals += refused
        if refused:
            if current:
                self._remember_ceiling()
                self._cut(CUT, finished)
        elif current:
            self._calm = True
            if self._gradient is not None:
                self._slow = self._gradient.slowdown(finished - started, per_token) or self._slow
            if self._slow > TOLERANCE:
                self._cut(max(0.5, HOLD / self._slow), finished)
            elif self._is_used_up(started, finished) and self._slow <= HOLD:
                self._grow()
        self._apply()

    def _restart(self) -> None:
        self._ceiling = self._first = math.inf
        self._pace = self._fastest()  # slots per success at and above the ceiling
        self._calm = True  # a call has succeeded since the last cut

    def _remember_ceiling(self) -> None:
        """What was in flight, the refused one excepted, was taken; half of the first ceiling if we are collapsing."""
        taken = float(max(1, min(self._in_flight - 1, self._level)))
        if self._calm:
            self._first = taken
        self._ceiling = max(taken, self._first / 2)

    def _cut(self, share: float, now: float) -> None:
        self._level = max(float(self._least), self._level * share)
        self._cut_at, self._calm, self._pace = now, False, 1 / CALM
        self._cuts += 1
        if self._gradient is not None:
            self._gradient.restart()
            self._slow = 1.0

    def _is_used_up(self, started: float, finished: float) -> bool:
        """Whether calls took all slots; for those that end in one instant, when the first of them did."""
        if not abs(finished - self._instant) <= INSTANT * (finished - started):
            self._instant, self._used_up = finished, self._in_flight + 1 >= int(self._level)
        return self._used_up

    def _grow(self) -> None:
        if self._level < self._ceiling < math.inf:
            self._level = min(self._ceiling, self._level + FAST)
        else:
            self._level += self._pace
            self._pace = min(self._fastest(), self._pace * 2 ** (1 / CALM))
        self._level = min(float(self._most), self._level)

    def _fastest(self) -> float:
        """Slots per success: 1 doubles the limit in each round; half of it where latency tells, which is later."""
        return 1.0 if self._gradient is None else 0.5

    def _apply(self) -> None:
        if int(self._level) != self._limit:
            self.limit = int(self._level)

    def statistics(self) -> AdaptiveStatistics:
        """Return what the limiter is doing now, its peaks, and what it has learned."""
        return AdaptiveStatistics(
            self._in_flight, self._limit, len(self._waiters), self._peak_in_flight, self._peak_queue,
            self._ceiling, self._refusals, self._cuts,
        )  # fmt: skip

    def __repr__(self) -> str:
        ceiling = "no ceiling met" if self._ceiling == math.inf else f"ceiling {self._ceiling:g}"
        cuts = "1 cut" if self._cuts == 1 else f"{self._cuts} cuts"
        return f"{super().__repr__()[:-1]}; {ceiling}, {self._refusals} refusals, {cuts}>"
