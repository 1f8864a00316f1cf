"""What a provider allows per minute, and how it says so in headers.

What it holds: `Limits`, the settings of an account; `Quota`, the two buckets that enforce them; `QuotaRejection`, why
a request does not fit; Go-style durations; the presets of the data files.
Guarantee: headers and messages follow two formulas, exact to the millisecond:
time until this request fits = (used + requested - limit) / limit x 60 s;
time until the bucket is full = (capacity - remaining) / limit x 60 s.
Strategy: `agentkit.limits.token_bucket.TokenBucket` twice, requests and tokens; a request takes from both or
from neither.
The formulas were checked against 429 messages and headers that users published.
Opened by notebook 07.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, fields
from email.utils import formatdate
from functools import cache
from typing import Any, Literal

from agentkit.base.arguments import check_fields, choice, number, switch, whole
from agentkit.lab.data import data_path
from agentkit.limits.token_bucket import TokenBucket

__all__ = ["Limits", "Quota", "QuotaRejection", "go_duration", "presets", "settings"]

_ROUNDING = 1e-6  # requests or tokens: the rounding error of a float bucket


@cache
def presets(name: str) -> dict[str, dict[str, Any]]:
    """The presets of a data file, `rate_limits.json` or `latency.json`: their settings and sources."""
    return dict(json.loads(data_path(name).read_text(encoding="utf-8")))


def settings(file: str, preset: str, record: type[Any]) -> dict[str, Any]:
    """The fields of `record` that a preset sets."""
    known = presets(file)
    choice("preset", preset, known, f"the choices are in data/{file}")
    names = {field.name for field in fields(record)}
    return {name: value for name, value in known[preset].items() if name in names}


@dataclass(frozen=True, slots=True)
class Limits:
    """What an account may use per minute, and what it gets when it exceeds that.

    >>> Limits.preset("tier1").tokens_per_minute
    30000
    """

    requests_per_minute: int | None = None
    """Requests that may start per minute; None for no limit."""
    tokens_per_minute: int | None = None
    """LLM tokens, prompt and answer together, per minute; None for no limit."""
    quantum: float = 60.0
    """Seconds' worth of requests that may arrive at once: a minute's (60) or only a second's (1)."""
    token_quantum: float = 60.0
    """The same for tokens."""
    count_failed: bool = True
    """Whether a rejected or failed request uses up a request too, as with real providers.
    "Used" in the error then includes the rejected request itself, so that the announced wait is enough."""
    charge: Literal["max_tokens", "actual"] = "max_tokens"
    """What a request is charged on arrival: its prompt and its `max_tokens`, or what it will actually use.
    A request without `max_tokens` is charged what it will use."""
    refund: bool = False
    """Whether tokens that were charged but not used are refunded when the answer is complete."""
    hint: Literal["both", "retry-after", "retry-after-ms", "date", "none"] = "both"
    """How a 429 says when to retry; with "none" it carries no rate-limit headers either."""
    refusal_seconds: float = 0.0
    """How long the provider takes to reject; public logs show 6 seconds."""

    def __post_init__(self) -> None:
        limits = ("requests_per_minute", "tokens_per_minute")
        check_fields(self, whole, *limits, remedy="use None for no limit", none=True)
        check_fields(self, number, "quantum", "token_quantum", remedy="it is a time in seconds", above=0, most=60)
        check_fields(self, number, "refusal_seconds", least=0)
        check_fields(self, switch, "count_failed", "refund")
        choice("charge", self.charge, ("max_tokens", "actual"))
        choice("hint", self.hint, ("both", "retry-after", "retry-after-ms", "date", "none"))

    @classmethod
    def preset(cls, name: str) -> Limits:
        """The limits of a preset of `data/rate_limits.json`."""
        return cls(**settings("rate_limits.json", name, cls))


@dataclass(frozen=True, slots=True)
class QuotaRejection:
    """Why a quota rejects a request."""

    kind: Literal["requests", "tokens", "too_large"]
    """Which limit was hit; `too_large` can never fit, however long the client waits."""
    limit: int
    """The limit per minute."""
    used: int
    """What counts as used now."""
    requested: int
    """What this request needs."""

    @property
    def wait_ms(self) -> int:
        """Milliseconds until the request fits: the first formula."""
        return max(1, _ceil_div((self.used + self.requested - self.limit) * 60_000, self.limit))


class Quota:
    """The two buckets of an account, under `Limits` that may change at any time.

    >>> quota = Quota(Limits(tokens_per_minute=30_000), now=0)
    >>> quota.take(29_937, now=0)
    >>> quota.take(385, now=0).wait_ms
    644
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._requests: TokenBucket | None = None
        self._tokens: TokenBucket | None = None
        self._limits = Limits()
        self.apply(limits, now)

    def apply(self, limits: Limits, now: float) -> None:
        """Change the limits; usage so far still counts."""
        if limits is not self._limits:
            self._requests = _fit(self._requests, limits.requests_per_minute, limits.quantum, now)
            self._tokens = _fit(self._tokens, limits.tokens_per_minute, limits.token_quantum, now)
            self._limits = limits

    def take(self, tokens: int, now: float) -> QuotaRejection | None:
        """Take one request and `tokens` tokens, or neither; returns why not, or None."""
        limits = self._limits
        if self._tokens and tokens > self._tokens.capacity:
            kind: Literal["requests", "tokens", "too_large"] = "too_large"
        elif self._requests and not self._requests.try_take(1, now):
            kind = "requests"
        elif self._tokens and not self._tokens.try_take(tokens, now):
            kind = "tokens"
            if self._requests:
                self._requests.give_back(1, now)
        else:
            return None
        if limits.count_failed and self._requests:
            self._requests.charge(1, now)
        bucket, limit, wants = (
            (self._requests, limits.requests_per_minute, 1)
            if kind == "requests"
            else (self._tokens, limits.tokens_per_minute, tokens)
        )
        assert bucket is not None
        assert limit is not None
        return QuotaRejection(kind, limit, math.ceil(limit - bucket.credit(now) - _ROUNDING), wants)

    def give_back(self, requests: int, tokens: int, now: float) -> None:
        """Refund what was charged but not used."""
        if self._requests and requests:
            self._requests.give_back(requests, now)
        if self._tokens and tokens > 0:
            self._tokens.give_back(tokens, now)

    def left(self, now: float) -> tuple[float, float]:
        """Requests and tokens that could be taken now; infinite where there is no limit."""
        return tuple(math.inf if b is None else b.level(now) for b in (self._requests, self._tokens))  # type: ignore[return-value]

    def headers(self, now: float) -> dict[str, str]:
        """The six `x-ratelimit-*` headers; three where only one kind is limited."""
        found = {}
        limits = self._limits
        for kind, bucket, limit in (
            ("requests", self._requests, limits.requests_per_minute),
            ("tokens", self._tokens, limits.tokens_per_minute),
        ):
            if bucket is not None and limit is not None:
                remaining = math.floor(bucket.credit(now) + _ROUNDING)
                until_full = _ceil_div(round((bucket.capacity - remaining) * 60_000), limit)
                found[f"x-ratelimit-limit-{kind}"] = str(limit)
                found[f"x-ratelimit-remaining-{kind}"] = str(max(0, remaining))
                found[f"x-ratelimit-reset-{kind}"] = go_duration(until_full)
        return found

    def hint(self, wait_ms: int) -> dict[str, str]:
        """The headers that say when to retry, in the form these limits specify."""
        seconds = _ceil_div(wait_ms, 1000)
        match self._limits.hint:
            case "both":
                return {"retry-after": str(seconds), "retry-after-ms": str(wait_ms)}
            case "retry-after":
                return {"retry-after": str(seconds)}
            case "retry-after-ms":
                return {"retry-after-ms": str(wait_ms)}
            case "date":  # the only use of wall-clock time: a date is meaningless on another clock
                return {"retry-after": formatdate(math.ceil(time.time()) + seconds, usegmt=True)}
        return {}


def go_duration(milliseconds: int) -> str:
    """A duration as the Go language prints it, and with it the rate-limit headers.

    >>> [go_duration(ms) for ms in (0, 12, 1000, 9816, 360_000, 5_011_000)]
    ['0s', '12ms', '1s', '9.816s', '6m0s', '1h23m31s']
    """
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + seconds


def _fit(bucket: TokenBucket | None, limit: int | None, quantum: float, now: float) -> TokenBucket | None:
    if limit is None:
        return None
    wanted = TokenBucket.per_minute(limit, quantum=quantum, now=now)
    if bucket is None:
        return wanted
    bucket.resize(wanted.rate, wanted.capacity, now)
    return bucket


def _ceil_div(number: int, by: int) -> int:
    return -(-number // by)
