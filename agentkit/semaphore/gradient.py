"""Whether a provider has become slow, seen from the answers it gives.

What it holds: `Gradient`, which compares the seconds per output token of late with the best there were.
Guarantee: answers of uneven length make no difference: a window of them is judged by all its seconds and all its
tokens together, never answer by answer, since a short answer is mostly the wait for its first token.
Strategy: one judgement per window; the best drifts slowly towards what is measured, so that a provider that has
become slower for good is not held against its past (the gradient limits of Netflix's concurrency-limits, 2018).
Opened by notebook 08, with `agentkit.semaphore.adaptive`.
"""

from __future__ import annotations

import math

__all__ = ["Gradient"]

WINDOW = 20  # answers a judgement needs
DRIFT = 0.001  # of the way from the best to the latest window, per window


class Gradient:
    """Tells how many times slower than at its best the provider has become.

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
        """Begin a new window: what was measured before a change of the limit says nothing about after it."""
        self._count, self._seconds, self._tokens = 0, 0.0, 0.0

    def slowdown(self, seconds: float, per_token: float | None) -> float | None:
        """Take in one answer. Return the slowdown if it completes a window, else None."""
        if per_token is None or not 0 < per_token < math.inf or not 0 < seconds < math.inf:
            return None
        self._count, self._seconds, self._tokens = (
            self._count + 1,
            self._seconds + seconds,
            self._tokens + seconds / per_token,
        )
        if self._count < WINDOW:
            return None
        recent = self._seconds / self._tokens
        best = recent if math.isnan(self._best) else self._best
        self._best = min(recent, best + DRIFT * (recent - best))
        self.restart()
        return recent / self._best

    def __repr__(self) -> str:
        return f"<Gradient: at best {self._best:.3g} s per token, {self._count} of {WINDOW} answers in the window>"
