"""Leave to start one call: what `RateLimiter` hands out, and what it says about itself.

What it holds: `Reservation`, `NeverFits`, `RateStatistics`, and `estimate_tokens`, the guess made before a call.
Guarantee: what was set aside and not used is free for others from the moment it is corrected or cancelled.
Strategy: a provider charges a request before it knows the answer, so a client has to guess too, and to correct later.
Opened by notebook 07, with `agentkit.limits`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentkit.limits.pacing import Use

__all__ = ["NeverFits", "RateStatistics", "Reservation", "estimate_tokens"]

_ANSWER_BOUNDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


class NeverFits(ValueError):
    """A request is larger than the limit itself, so waiting cannot help. Remedy: make it smaller."""


@dataclass(frozen=True, slots=True)
class RateStatistics:
    """A rate limiter at one instant."""

    requests_per_minute: float | None
    """The limit on starts in force, learned ones included; None for no limit."""
    tokens_per_minute: float | None
    """The limit on tokens in force; None for no limit."""
    started: int
    """Calls let through so far."""
    tokens: float
    """Tokens they used: as estimated, or as corrected since."""
    queue_depth: int
    """Callers waiting now."""
    peak_queue_depth: int
    """The most callers that ever waited at once."""
    waited: float
    """Seconds that callers waited, all together."""
    paused: float
    """Seconds until the next start because the provider asked for a pause; 0 if it did not."""


class Reservation:
    """Leave to start one call, with an estimate of its tokens that can be corrected.

    >>> import asyncio
    >>> from agentkit.limits.rate import RateLimiter
    >>> async def main():
    ...     reservation = await RateLimiter(tokens_per_minute=90_000).acquire(tokens=700)
    ...     reservation.correct(420)  # what the answer's usage said
    ...     return reservation.tokens
    >>> asyncio.run(main())
    420
    """

    __slots__ = ("_cancelled", "_correct", "due", "started", "tokens", "uses")

    def __init__(self, tokens: float, correct: Callable[[Reservation, float, bool], None]) -> None:
        self._correct = correct  # tells the limiter how its sum of tokens changes, and whether the start counts
        self._cancelled = False
        self.uses: dict[str, Use] = {}
        """What it takes from each limit; empty while it waits."""
        self.tokens = tokens
        """Tokens set aside for the call."""
        self.due = math.nan
        """When it might have started, had its caller been woken in time."""
        self.started = math.nan
        """When the call was let through, in `loop.time()`; not a number while it waits."""

    def correct(self, used_tokens: float) -> None:
        """Say what the call really used; what was set aside in vain is free for others at once."""
        if not used_tokens >= 0:
            raise ValueError(f"used_tokens must be 0 or more, got {used_tokens!r}; use cancel() if no call was made")
        if not self._cancelled:
            change, self.tokens = used_tokens - self.tokens, used_tokens
            self._correct(self, change, False)

    def cancel(self) -> None:
        """Give everything back: the call was not made. Safe to call twice."""
        if not self._cancelled:
            self._cancelled, change, self.tokens = True, -self.tokens, 0
            self._correct(self, change, True)

    def __repr__(self) -> str:
        return f"<Reservation of {self.tokens:g} tokens, started at {self.started:g} s>"


def estimate_tokens(task: Any) -> int:
    """Tokens a task may use: a quarter of its characters, and its answer's bound where it names one.

    >>> estimate_tokens("What is a race condition?")
    7
    >>> estimate_tokens({"prompt": "Why?", "max_tokens": 300})
    310
    """
    bounds = (task.get(n) if isinstance(task, dict) else getattr(task, n, None) for n in _ANSWER_BOUNDS)
    answer = next((bound for bound in bounds if isinstance(bound, int)), 0)
    return math.ceil(len(str(task)) / 4) + answer
