"""Nobody starts until a given moment, and then not all at once.

What it holds: `Pause`, the arithmetic behind obeying a `Retry-After` on behalf of everybody.
Guarantees: no start before the latest moment asked for; after it, starts are spaced at the rate the provider has just
shown that it accepts, and the spacing shrinks slowly at first and then fast, so a pause leaves no trace for long.
Strategy: measure what was accepted in the ten seconds up to the end of the pause. Without the spacing all who waited
come back in the same instant, and are all refused again. Pure arithmetic; every call is given the time.
`RateLimiter` and `RetryPolicy` use it.
"""

from __future__ import annotations

import math
from collections import deque

__all__ = ["Pause"]

MEMORY = 10.0  # seconds of starts that are remembered
FADE = 30.0  # seconds after which the spacing has shrunk to 1/e; by 3 % after 5 s, by 11 % after 10 s
CATCH_UP = 0.05  # seconds by which the schedule may lag, so that late timers cost no rate


class Pause:
    """Holds back all starts until a moment, then lets them in one by one.

    >>> pause = Pause()
    >>> for second in range(5):
    ...     pause.start(now=second)
    >>> pause.hold(until=5.0, now=4.0)  # the last of the five was refused: four in five seconds were accepted
    >>> pause.delay(now=4.0)
    1.0
    >>> pause.start(now=5.0)
    >>> pause.delay(now=5.0)
    1.25
    """

    __slots__ = ("_gap", "_next", "_starts", "_until")

    def __init__(self) -> None:
        self._until = self._next = -math.inf
        self._gap = 0.0  # seconds between two starts right after the pause; 0 if there was none
        self._starts: deque[float] = deque(maxlen=1000)

    def hold(self, until: float, now: float) -> None:
        """Let nobody start before `until`, because one of those that did was refused."""
        if self._starts:
            self._starts.pop()  # whichever it was, it does not count as accepted
        if until <= max(now, self._until):
            return
        while self._starts and self._starts[0] < now - MEMORY:
            self._starts.popleft()
        since = max(until - MEMORY, self._starts[0] if self._starts else until)
        accepted = sum(start >= since for start in self._starts)
        self._gap = (until - since) / accepted if accepted else 0.0
        self._until = self._next = until

    def due(self) -> float:
        """The moment from which the next start is allowed; minus infinity if there never was a pause."""
        return self._next

    def delay(self, now: float) -> float:
        """Seconds until the next start is allowed; 0 if it is."""
        return max(0.0, self._next - now)

    def start(self, now: float) -> None:
        """Note that something started."""
        self._starts.append(now)
        if self._gap:
            self._next = max(self._next, now - CATCH_UP) + self._gap * math.exp(-(((now - self._until) / FADE) ** 2))

    def __repr__(self) -> str:
        return f"<Pause until {self._until:g} s, then one start every {self._gap:.3g} s>"
