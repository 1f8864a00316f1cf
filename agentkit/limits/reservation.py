"""Permission to start one call: what `RateLimiter` grants, and its statistics.

What it holds: `Reservation`, `RateStatistics`, and `estimate_tokens`, the estimate made before a call.
Guarantee: tokens that were reserved and not used are available to others as soon as the reservation is corrected or
cancelled.
Strategy: a provider charges a request before it knows the answer, so the client also estimates first and corrects
later.
Opened by notebook 07.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentkit.base.arguments import number, read
from agentkit.limits.pacing import LogEntry

__all__ = ["RateStatistics", "Reservation", "answer_bound", "estimate_tokens"]

_ANSWER_BOUNDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class RateStatistics:
    """A snapshot of a rate limiter."""

    requests_per_minute: float | None
    """The limit on starts in force, which may be the provider's; None for no limit."""
    tokens_per_minute: float | None
    """The limit on tokens in force, which may be the provider's; None for no limit."""
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

    >>> import asyncio
    >>> from agentkit.limits.rate import RateLimiter
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
        self.entries: dict[str, LogEntry] = {}
        """What it uses of each limit; empty while it waits."""
        self.tokens = tokens
        """Tokens reserved for the call."""
        self.due = math.nan
        """When it could have started, if its task had been woken in time."""
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


def estimate_tokens(task: object) -> int:
    """Estimate of a task's tokens: a quarter of its characters, plus the limit on its answer if it names one.

    >>> estimate_tokens("What is a race condition?")
    7
    >>> estimate_tokens({"prompt": "Why?", "max_tokens": 300})
    310
    """
    return math.ceil(len(str(task)) / 4) + (answer_bound(task) or 0)


def answer_bound(task: object, agent: object = None) -> int | None:
    """The limit on the answer's tokens that the task names, or else the agent; None if there is none."""
    bounds = [task.get(name) if isinstance(task, Mapping) else read(task, name) for name in _ANSWER_BOUNDS]
    bounds.append(read(agent, "max_tokens"))
    return next((bound for bound in bounds if isinstance(bound, int) and not isinstance(bound, bool)), None)
