"""When a call may start: the limits on requests and tokens, yours and the provider's, and its pauses.

What it holds: `Allowance`, all the arithmetic of `RateLimiter`, without its queue.
Guarantee: a call is due when every limit and the pause allow it; what it takes, it takes from all of them at once.
Strategy: one `Pace` for requests and one for tokens, and one `Pause`. Pure arithmetic: every call is given the time.
Opened by notebook 07, with `agentkit.limits`.
"""

from __future__ import annotations

import math
from typing import Any

from agentkit.limits.headers import PATIENCE, limits_told, retry_after
from agentkit.limits.pacing import Pace, Use
from agentkit.limits.pause import Pause
from agentkit.limits.reservation import NeverFits

__all__ = ["Allowance"]

MINUTE = 60.0


class Allowance:
    """What an account may use, and when.

    >>> allowance = Allowance()
    >>> allowance.set("requests", 300, now=0.0)
    >>> uses = allowance.take(0, now=0.0)
    >>> allowance.due(0)
    0.2
    """

    def __init__(self, *, burst: int = 1, window: float | None = None) -> None:
        if not burst >= 1:
            raise ValueError(f"burst must be 1 or more, got {burst!r}; use 1 for evenly spaced starts")
        self._burst = burst
        self._window = _positive("window", window, "leave it out for the usual one") if window is not None else None
        self._own = dict[str, float | None]()  # limits the owner asked for
        self._told = dict[str, float]()  # limits the provider told of
        self.paces = dict[str, Pace]()
        """The limits in force, by kind: `requests`, `tokens`."""
        self.pause = Pause()
        """The pause the provider asked for."""

    def per_minute(self, kind: str) -> float | None:
        """The limit in force; None for none."""
        return self.paces[kind].per_minute if kind in self.paces else None

    def set(self, kind: str, limit: float | None, now: float) -> None:
        """Change the owner's limit; None removes it."""
        if limit is not None:
            _positive(f"{kind}_per_minute", limit, "use None for no limit")
        self._own[kind] = limit
        self._apply(kind, now)

    def learn(self, answer: Any, now: float) -> None:
        """Take in what an answer's headers say."""
        for kind, (limit, left) in limits_told(answer).items():
            if self._told.get(kind) != limit:
                self._told[kind] = limit
                self._apply(kind, now)
            self.paces[kind].learn(left, now)
        seconds = retry_after(answer)
        if seconds is not None and seconds <= PATIENCE:
            self.pause.hold(now + seconds, now)

    def due(self, tokens: float) -> float:
        """The moment from which a call may start, were it the first in line; infinite if it never may."""
        due = self.pause.due()
        for kind, pace in self.paces.items():
            if (free := pace.due(1 if kind == "requests" else tokens)) > due:
                due = free
        return due

    def due_behind(self, calls: int, tokens: float) -> float:
        """The moment before which nobody may start who stands behind so many calls and tokens."""
        ahead = {"requests": calls, "tokens": tokens}
        return max((pace.due(0) + ahead[kind] / pace.rate for kind, pace in self.paces.items()), default=0.0)

    def take(self, tokens: float, now: float, due: float | None = None) -> dict[str, Use]:
        """Use one request and `tokens`; `due` for those who had to wait, as in `Pace.take`."""
        self.pause.start(now)
        return {kind: pace.take(1 if kind == "requests" else tokens, now, due) for kind, pace in self.paces.items()}

    def correct(self, uses: dict[str, Use], kind: str, change: float) -> None:
        """Change what an earlier call used of one kind."""
        if kind in uses and kind in self.paces:
            self.paces[kind].correct(uses[kind], change)

    def forget(self) -> None:
        """Start afresh, as if nothing had been used; the limits stay."""
        self.pause = Pause()
        for pace in self.paces.values():
            pace.forget()

    def never_fits(self, tokens: float) -> NeverFits:
        """The error for a call that no waiting helps."""
        pace = self.paces["tokens"]
        return NeverFits(
            f"tokens must be at most {pace.quota:,.10g}, what the limit allows in {pace.window:g} s, "
            f"got {tokens:,.10g}; shorten the prompt, or lower max_tokens"
        )

    def _apply(self, kind: str, now: float) -> None:
        limits = [limit for limit in (self._own.get(kind), self._told.get(kind)) if limit is not None]
        if not limits:
            self.paces.pop(kind, Pace(1)).forget()  # its log ends here: later corrections must not touch the next one
        elif kind in self.paces:
            self.paces[kind].resize(min(limits), now)
        elif kind == "requests":
            self.paces[kind] = Pace(min(limits), burst=self._burst, window=self._window)
        else:
            self.paces[kind] = Pace(min(limits), window=self._window or MINUTE)


def _positive(name: str, value: float, remedy: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}; {remedy}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}; {remedy}")
    return value
