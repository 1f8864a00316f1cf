"""Spreading use evenly over time, and never too much of it in any window: the arithmetic of `RateLimiter`.

What it holds: `Pace`, for one thing that is limited per minute (requests, or tokens), and `Use`, one entry of its log.
Guarantees: in any stretch of `window` seconds at most `quota` is used, wherever the stretch begins; use is evenly
spaced; being woken late costs no rate, for the schedule is absolute.
Strategy: two rules, each giving a moment from which the next use is allowed; the later one counts. The schedule is
GCRA (the generic cell rate algorithm of ATM networks): each use pushes the next one away by amount / rate. The log of
recent uses makes it exact. Pure arithmetic: every call is given the time.
Opened by notebook 07.
"""

from __future__ import annotations

import math
from collections import deque

__all__ = ["Pace", "Use"]

CATCH_UP = 0.05  # seconds a schedule may lag behind: timers fire late, and what they lose is made good, up to this
SHARE = 1e-3  # of the window: uses this close together share an entry, so a log has a thousand of them at most


class Use:
    """One entry of a log: how much was used, and when; uses in quick succession share one, dated by the last."""

    __slots__ = ("amount", "at", "began", "logged")

    def __init__(self, amount: float, at: float) -> None:
        self.amount, self.at, self.began, self.logged = amount, at, at, True

    def __repr__(self) -> str:
        return f"Use({self.amount:g} at {self.at:g} s)"


class Pace:
    """Evenly spaced use of something limited per minute.

    >>> pace = Pace(300)  # 300 a minute: one every 0.2 s, and at most 5 in any second
    >>> pace.take(1, now=0.0)
    Use(1 at 0 s)
    >>> pace.due(1)
    0.2

    `burst` is how much may be used at once after a quiet time. `window` is the stretch in seconds over which the
    limit is counted; without it, a second, or as long as `burst` takes.
    """

    __slots__ = ("_burst", "_fixed_window", "_left", "_left_at", "_log", "_next", "_tolerance", "_used",
                 "per_minute", "quota", "rate", "window")  # fmt: skip

    def __init__(self, per_minute: float, *, burst: float = 1, window: float | None = None) -> None:
        self._burst, self._fixed_window = burst, window
        self._set(per_minute)
        self._log: deque[Use] = deque()
        self.forget()

    def forget(self) -> None:
        """Start afresh, as if nothing had been used."""
        self._next = -math.inf  # the schedule: when all that was used so far is paid for
        for use in self._log:
            use.logged = False
        self._log.clear()
        self._used = 0.0  # the sum of the log
        self._left, self._left_at = math.inf, 0.0  # what the provider said is left, and when

    def _set(self, per_minute: float) -> None:
        self.per_minute, self.rate = per_minute, per_minute / 60
        self._tolerance = (self._burst - 1) / self.rate  # how far ahead of the schedule a burst may run
        if self._fixed_window is None:
            self.quota: float = max(self._burst, math.ceil(self.rate))
            self.window = self.quota / self.rate
        else:
            self.quota = max(self._burst, math.floor(self.rate * self._fixed_window + 1e-9))
            self.window = max(self._fixed_window, self.quota / self.rate)

    def resize(self, per_minute: float, now: float) -> None:
        """Change the limit; what is still to be paid for is paid for at the new rate."""
        owed, old_rate = max(0.0, self._next - now), self.rate
        self._set(per_minute)
        self._next = min(self._next, now + owed * old_rate / self.rate)

    def due(self, amount: float) -> float:
        """The moment from which `amount` may be used; infinite if it exceeds the quota."""
        if amount > self.quota:
            return math.inf
        due = self._next - self._tolerance
        if self._used + amount > self.quota and (free := self._window_due(amount)) > due:
            due = free
        if amount > self._left:
            due = max(due, self._left_at + (amount - self._left) / self.rate)
        return due

    def _window_due(self, amount: float) -> float:
        excess, due = self._used + amount - self.quota, -math.inf
        for use in self._log:
            if excess <= 0:
                break
            excess -= use.amount
            due = use.at + self.window
        return due

    def take(self, amount: float, now: float, due: float | None = None) -> Use:
        """Use `amount`. `due` is for those who had to wait: when they might have gone, had they been woken in time."""
        earliest = now if due is None else max(now, due + self._tolerance) - CATCH_UP
        self._next = max(self._next, earliest) + amount / self.rate
        while self._log and self._log[0].at + self.window <= now:
            old = self._log.popleft()
            old.logged = False
            self._used -= old.amount
        self._used += amount
        use = self._log[-1] if self._log else None
        if use is not None and now - use.began <= self.window * SHARE:
            use.amount, use.at = use.amount + amount, max(use.at, now)
        else:
            use = Use(amount, now)
            self._log.append(use)
        if self._left < math.inf:
            self._left = min(self.per_minute, self._left + (now - self._left_at) * self.rate) - amount
            self._left_at = now
        return use

    def correct(self, use: Use, change: float) -> None:
        """Add to an earlier use, or take back from it."""
        if not use.logged:  # too long ago to matter
            return
        use.amount += change
        self._used += change
        latest = self._log[-1]  # it stays paid for, so that giving back never bunches what follows
        self._next = max(self._next + change / self.rate, latest.at + latest.amount / self.rate)

    def learn(self, left: float, now: float) -> None:
        """Take the provider's word for what is left now."""
        self._left, self._left_at = left, now
