"""Nobody starts until a given moment, and then not all at once.

What it holds: `Pause`, the arithmetic behind obeying a `Retry-After` on behalf of everybody.
Guarantees: no start before the latest moment asked for; after it the k-th start (from 0) no earlier than
`step * log2(1 + k)` seconds later, so each step lets in as many as all steps before it: slow start, as TCP has it.
Strategy: pure arithmetic on a moment and a count; every call is given the time. Without the ramp all callers that
waited come back in the same instant, and are all refused again.
Opened by notebook 09; `RateLimiter` and `RetryPolicy` use it.
"""

from __future__ import annotations

import math

__all__ = ["Pause"]

STEPS = 6  # doublings, after which everybody may go


class Pause:
    """Holds back all starts until a moment, then lets them in at a doubling rate.

    >>> pause = Pause()
    >>> pause.hold(until=14.0, now=10.0)
    >>> pause.delay(now=10.0), pause.delay(now=14.0)
    (4.0, 0.0)
    >>> pause.start(now=14.0)
    >>> pause.delay(now=14.0)  # the second start waits one step: a quarter of the pause, at most 1 s
    1.0
    """

    __slots__ = ("_count", "_step", "_until")

    def __init__(self) -> None:
        self._until = -math.inf
        self._step = 0.0
        self._count = 0  # starts since the pause ended

    @property
    def until(self) -> float:
        """The moment of the first start; minus infinity if there never was a pause."""
        return self._until

    def hold(self, until: float, now: float) -> None:
        """Let nobody start before `until`; a shorter pause than the present one changes nothing."""
        if until > max(now, self._until):
            self._until, self._count = until, 0
            self._step = min(1.0, (until - now) / 4)

    def due(self) -> float:
        """The moment from which the next start is allowed; minus infinity once the ramp is over."""
        if self._count >= 2**STEPS:
            return -math.inf
        return self._until + self._step * math.log2(1 + self._count)

    def delay(self, now: float) -> float:
        """Seconds until the next start is allowed; 0 if it is."""
        return max(0.0, self.due() - now)

    def start(self, now: float) -> None:
        """Note that something started."""
        if now >= self._until + self._step * STEPS:
            self._count = 2**STEPS
        else:
            self._count += 1

    def __repr__(self) -> str:
        return f"<Pause until {self._until:g} s, {self._count} started since>"
