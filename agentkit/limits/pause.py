"""Pausing all starts until a given time, and spacing them out afterwards.

What it holds: `Pause`, with which `RateLimiter` and `RetryPolicy` apply one call's `Retry-After` to all calls.
Guarantees: nothing starts before the latest time asked for. After it, starts are spaced at the rate the provider was
last seen to accept, in the ten seconds before the end of the pause; otherwise all waiting calls would start in the same
instant and be rejected again. The spacing shrinks slowly at first and then fast, so a pause has no lasting effect.
"""

from __future__ import annotations

import math
from collections import deque

__all__ = ["CATCH_UP", "Pause"]

MEMORY = 10.0  # seconds for which starts are remembered
FADE = 30.0  # seconds after which the spacing has shrunk to 1/e; by 3 % after 5 s, by 11 % after 10 s
CATCH_UP = 0.05  # seconds a schedule may lag behind: timers fire late, and this much lost time is made up


class Pause:
    """Holds back all starts until a given time, then allows them one by one.

    >>> pause = Pause()
    >>> for second in range(5):
    ...     pause.start(now=second)
    >>> pause.hold(until=5.0, now=4.0)  # the last of the five was rejected: four in five seconds were accepted
    >>> pause.delay(now=4.0)
    1.0
    >>> pause.start(now=5.0)
    >>> pause.delay(now=5.0)
    1.25
    """

    __slots__ = ("_gap", "_next", "_starts", "_until")

    def __init__(self) -> None:
        self._until = self._next = -math.inf
        self._gap = 0.0  # seconds between two starts right after the pause; 0 before the first pause
        self._starts: deque[float] = deque(maxlen=1000)

    def hold(self, until: float, now: float) -> None:
        """Allow no start before `until`, because a recent one was rejected."""
        if self._starts:
            self._starts.pop()  # whichever one it was, it was not accepted
        if until <= max(now, self._until):
            return
        while self._starts and self._starts[0] < now - MEMORY:
            self._starts.popleft()
        since = max(until - MEMORY, self._starts[0] if self._starts else until)
        accepted = sum(start >= since for start in self._starts)
        self._gap = (until - since) / accepted if accepted else 0.0
        self._until = self._next = until

    def due(self) -> float:
        """The earliest time of the next start; minus infinity if there never was a pause."""
        return self._next

    def delay(self, now: float) -> float:
        """Seconds until the next start is allowed; 0 if it is allowed now."""
        return max(0.0, self._next - now)

    def start(self, now: float) -> None:
        """Record a start."""
        self._starts.append(now)
        if self._gap:
            self._next = max(self._next, now - CATCH_UP) + self._gap * math.exp(-(((now - self._until) / FADE) ** 2))

    def __repr__(self) -> str:
        return f"<Pause until {self._until:g} s, then one start every {self._gap:.3g} s>"
