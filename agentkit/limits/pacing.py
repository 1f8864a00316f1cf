"""When the next call may start: the arithmetic of `RateLimiter`, without its queue.

What it holds: `RateSchedule`, all limits of an account together; `GcraSchedule`, for requests or tokens; `NeverFits`.
Guarantees: at most `quota` is used in any `window` seconds, wherever the window begins; use is evenly spaced; a late
wake-up costs no rate, because the schedule is absolute.
Strategy: the later of two times counts. GCRA (the generic cell rate algorithm of ATM networks): each use moves the next
one back by amount / rate. A sliding log of recent uses makes the window exact. Every call is passed the time.
Opened by notebook 07.
"""

from __future__ import annotations

import math
from collections import deque

from agentkit.base.arguments import number, whole
from agentkit.limits.headers import MAX_RETRY_AFTER, parse_rate_limits, retry_after
from agentkit.limits.pause import CATCH_UP, Pause

__all__ = ["GcraSchedule", "LogEntry", "NeverFits", "RateSchedule"]

SHARE = 1e-3  # of the window: uses this close together share an entry, so a log has at most a thousand entries
MINUTE = 60.0


class NeverFits(ValueError):
    """A request is larger than the limit itself, so waiting cannot help. Remedy: make it smaller."""


class LogEntry:
    """How much was used, and when; uses in quick succession share one entry, with the time of the last."""

    __slots__ = ("amount", "at", "began", "logged")

    def __init__(self, amount: float, at: float) -> None:
        self.amount, self.at, self.began, self.logged = amount, at, at, True

    def __repr__(self) -> str:
        return f"LogEntry({self.amount:g} at {self.at:g} s)"


class GcraSchedule:
    """Evenly spaced use of something that is limited per minute.

    >>> schedule = GcraSchedule(300)  # 300 a minute: one every 0.2 s, and at most 5 in any second
    >>> schedule.take(1, now=0.0)
    LogEntry(1 at 0 s)
    >>> schedule.due(1)
    0.2

    `burst` is how much may be used at once after an idle period. `window` is the period in seconds over which the limit
    is counted; the default is one second, or longer if `burst` needs it.
    """

    __slots__ = ("_burst", "_fixed_window", "_left", "_left_at", "_log", "_next", "_tolerance", "_used",
                 "per_minute", "quota", "rate", "window")  # fmt: skip

    def __init__(self, per_minute: float, *, burst: float = 1, window: float | None = None) -> None:
        self._burst, self._fixed_window = burst, window
        self._set(per_minute)
        self._log: deque[LogEntry] = deque()
        self.forget()

    def forget(self) -> None:
        """Reset, as if nothing had been used."""
        self._next = -math.inf  # the schedule: the time at which everything used so far is paid for
        for entry in self._log:
            entry.logged = False
        self._log.clear()
        self._used = 0.0  # the sum of the log
        self._left, self._left_at = math.inf, 0.0  # what the provider reported as remaining, and when

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
        """Change the limit; use that is not yet paid for is paid for at the new rate."""
        owed, old_rate = max(0.0, self._next - now), self.rate
        self._set(per_minute)
        self._next = min(self._next, now + owed * old_rate / self.rate)

    def due(self, amount: float) -> float:
        """The earliest time at which `amount` may be used; infinite if it exceeds the quota."""
        if amount > self.quota:
            return math.inf
        excess, free = self._used + amount - self.quota, -math.inf
        for entry in self._log:
            if excess <= 0:
                break
            excess -= entry.amount
            free = entry.at + self.window
        due = max(self._next - self._tolerance, free)
        if amount > self._left:
            due = max(due, self._left_at + (amount - self._left) / self.rate)
        return due

    def take(self, amount: float, now: float, due: float | None = None) -> LogEntry:
        """Use `amount`. `due` is for callers that had to wait: when they could have started, if woken in time."""
        earliest = now if due is None else max(now, due + self._tolerance) - CATCH_UP
        self._next = max(self._next, earliest) + amount / self.rate
        while self._log and self._log[0].at + self.window <= now:
            old = self._log.popleft()
            old.logged = False
            self._used -= old.amount
        self._used += amount
        entry = self._log[-1] if self._log else None
        if entry is not None and now - entry.began <= self.window * SHARE:
            entry.amount, entry.at = entry.amount + amount, max(entry.at, now)
        else:
            entry = LogEntry(amount, now)
            self._log.append(entry)
        if self._left < math.inf:
            self._left = min(self.per_minute, self._left + (now - self._left_at) * self.rate) - amount
            self._left_at = now
        return entry

    def correct(self, entry: LogEntry, change: float) -> None:
        """Add `change` to an earlier use; negative to take some back."""
        if not entry.logged:  # it has left the window
            return
        entry.amount += change
        self._used += change
        latest = self._log[-1]  # stays paid for, so that returning some never bunches the starts that follow
        self._next = max(self._next + change / self.rate, latest.at + latest.amount / self.rate)

    def learn(self, left: float, now: float) -> None:
        """Adopt the provider's figure for what is left now."""
        self._left, self._left_at = left, now


class RateSchedule:
    """All limits of an account on requests and tokens, yours and the provider's, and the pause it asked for.

    >>> schedule = RateSchedule()
    >>> schedule.set("requests", 300, now=0.0)
    >>> entries = schedule.take(0, now=0.0)
    >>> schedule.due(0)
    0.2
    """

    def __init__(self, *, burst: int = 1, window: float | None = None) -> None:
        self._burst = whole("burst", burst, "use 1 for evenly spaced starts")
        self._window = number("window", window, "use None for the usual one", above=0, none=True)
        self._own = dict[str, float | None]()  # limits set by the owner
        self._learned = dict[str, float]()  # limits read from the provider's headers
        self.schedules = dict[str, GcraSchedule]()  # the limits in force, by kind: `requests`, `tokens`
        self.pause = Pause()  # the one the provider asked for

    def per_minute(self, kind: str) -> float | None:
        """The limit in force; None for no limit."""
        return self.schedules[kind].per_minute if kind in self.schedules else None

    def set(self, kind: str, limit: float | None, now: float) -> None:
        """Change the owner's limit; None removes it."""
        self._own[kind] = number(f"{kind}_per_minute", limit, "use None for no limit", above=0, none=True)
        self._apply(kind, now)

    def learn(self, answer: object, now: float) -> None:
        """Apply the limits and the wait in a response's headers."""
        for kind, (limit, left) in parse_rate_limits(answer).items():
            if self._learned.get(kind) != limit:
                self._learned[kind] = limit
                self._apply(kind, now)
            self.schedules[kind].learn(left, now)
        seconds = retry_after(answer)
        if seconds is not None and seconds <= MAX_RETRY_AFTER:
            self.pause.hold(now + seconds, now)

    def due(self, tokens: float) -> float:
        """The earliest time at which the first call in the queue may start; infinite if it never may."""
        due = self.pause.due()
        for kind, schedule in self.schedules.items():
            if (free := schedule.due(1 if kind == "requests" else tokens)) > due:
                due = free
        return due

    def due_behind(self, calls: int, tokens: float) -> float:
        """A lower bound for the start of a call that has `calls` calls with `tokens` tokens ahead of it."""
        ahead = {"requests": calls, "tokens": tokens}
        return max((one.due(0) + ahead[kind] / one.rate for kind, one in self.schedules.items()), default=0.0)

    def take(self, tokens: float, now: float, due: float | None = None) -> dict[str, LogEntry]:
        """Use one request and `tokens`; `due` is for callers that had to wait, as in `GcraSchedule.take`."""
        self.pause.start(now)
        return {kind: one.take(1 if kind == "requests" else tokens, now, due) for kind, one in self.schedules.items()}

    def correct(self, entries: dict[str, LogEntry], kind: str, change: float) -> None:
        """Change what an earlier call used of one kind."""
        if kind in entries and kind in self.schedules:
            self.schedules[kind].correct(entries[kind], change)

    def forget(self) -> None:
        """Reset, as if nothing had been used; the limits stay."""
        self.pause = Pause()
        for schedule in self.schedules.values():
            schedule.forget()

    def never_fits(self, tokens: float) -> NeverFits:
        """The error for a call that exceeds the token limit itself."""
        schedule = self.schedules["tokens"]
        return NeverFits(
            f"tokens must be at most {schedule.quota:,.10g}, what the limit allows in {schedule.window:g} s, "
            f"got {tokens:,.10g}; shorten the prompt, or lower max_tokens"
        )

    def _apply(self, kind: str, now: float) -> None:
        limits = [limit for limit in (self._own.get(kind), self._learned.get(kind)) if limit is not None]
        if not limits:
            self.schedules.pop(kind, GcraSchedule(1)).forget()  # later corrections must not touch the next log
        elif kind in self.schedules:
            self.schedules[kind].resize(min(limits), now)
        elif kind == "requests":
            self.schedules[kind] = GcraSchedule(min(limits), burst=self._burst, window=self._window)
        else:
            self.schedules[kind] = GcraSchedule(min(limits), window=self._window or MINUTE)
