"""Limiting how much may be used per minute: the token bucket.

What it holds: `TokenBucket`, the arithmetic that a provider uses to reject requests and a client uses to wait.
Guarantees: in any t seconds at most `capacity + rate * t` can be taken; the level is never negative and never above
the capacity; waiting as long as `wait` says is always enough.
Strategy: pure arithmetic. Every call is passed the time (`now`, in seconds of any clock).
Source: the token bucket of network traffic shaping (Turner 1986; RFC 2697 is a readable account).
Opened by notebook 07.
"""

from __future__ import annotations

import math

from agentkit.base.arguments import number

__all__ = ["TokenBucket"]

_SLACK = 1e-8  # seconds: clocks are floats, and a caller that waited long enough must not fail by a rounding error


class TokenBucket:
    """A bucket that refills at a steady rate up to its capacity.

    >>> bucket = TokenBucket.per_minute(300, quantum=1)  # 300 a minute, at most a second's worth at once
    >>> [bucket.try_take(1, now=0) for _ in range(6)]
    [True, True, True, True, True, False]
    >>> bucket.wait(1, now=0)
    0.2
    >>> bucket.try_take(1, now=0.2)
    True

    `rate` is the refill per second; `capacity` is the most it holds, and so the largest burst. What it counts is up to
    you: requests, LLM tokens, money. A new bucket is full.
    """

    __slots__ = ("_capacity", "_credit", "_rate", "_updated")

    def __init__(self, rate: float, capacity: float, *, now: float = 0.0) -> None:
        self._rate, self._capacity = _size("rate", rate), _size("capacity", capacity)
        self._credit, self._updated = self._capacity, number("now", now)

    @classmethod
    def per_minute(cls, limit: float, *, quantum: float = 60.0, now: float = 0.0) -> TokenBucket:
        """A bucket for `limit` per minute with a capacity of `quantum` seconds' worth, and at least 1.

        "300 requests per minute" may be enforced over a minute (300 at once are fine) or over a second (5 at once).
        """
        capacity = _size("limit", limit) * number("quantum", quantum, "it is a time in seconds", above=0) / 60
        return cls(limit / 60, max(1.0, capacity), now=now)

    @property
    def rate(self) -> float:
        """Refill per second."""
        return self._rate

    @property
    def capacity(self) -> float:
        """The most the bucket can hold."""
        return self._capacity

    def credit(self, now: float) -> float:
        """The level at `now`; below 0 while there is debt."""
        since: float = max(0.0, number("now", now) - self._updated)
        return min(self._capacity, self._credit + since * self._rate)

    def level(self, now: float) -> float:
        """What could be taken at `now`, from 0 to `capacity`."""
        return max(0.0, self.credit(now))

    def try_take(self, amount: float, now: float) -> bool:
        """Take `amount` if the level allows it; return whether it did. Takes nothing otherwise."""
        amount, credit = number("amount", amount, least=0), self.credit(now)
        if credit + self._rate * _SLACK < amount:
            return False
        self._set(max(0.0, credit - amount), now)
        return True

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken, if nothing else is taken before; infinite above the capacity."""
        amount, credit = number("amount", amount, least=0), self.credit(now)
        return math.inf if amount > self._capacity else max(0.0, (amount - credit) / self._rate)

    def charge(self, amount: float, now: float) -> None:
        """Take `amount` even if that makes the level negative; the debt is at most one full bucket.

        This is how a provider counts requests that it rejects: a client that retries at once keeps itself out.
        """
        self._set(max(-self._capacity, self.credit(now) - number("amount", amount, least=0)), now)

    def give_back(self, amount: float, now: float) -> None:
        """Return an amount that was taken and not used; anything above the capacity is lost."""
        self._set(min(self._capacity, self.credit(now) + number("amount", amount, least=0)), now)

    def resize(self, rate: float, capacity: float, now: float) -> None:
        """Change rate and capacity; what was used stays used, up to the new capacity."""
        used = self._capacity - self.credit(now)
        self._rate, self._capacity = _size("rate", rate), _size("capacity", capacity)
        self._set(max(-self._capacity, self._capacity - used), now)

    def _set(self, credit: float, now: float) -> None:
        self._credit, self._updated = credit, max(now, self._updated)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._credit:g} of {self._capacity:g} at {self._updated:g} s, {self._rate:g}/s>"
        )


def _size(name: str, value: float) -> float:
    return float(number(name, value, "leave the bucket out where there is no limit", above=0))
