"""What a provider's answer says about waiting: its headers, read the way they are really sent.

What it holds: `headers_of` (headers of an answer or of an error), `retry_after`, `limits_told` and `go_duration`.
Guarantees: nothing here raises on what a server sends; what cannot be read counts as not said. `retry-after-ms` beats
`retry-after`; a date is read against the answer's own `date` header where there is one; 0 and less say nothing.
Strategy: duck typing. An answer of any HTTP library will do, and openai is not imported.
Opened by notebook 07.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = ["PATIENCE", "go_duration", "headers_of", "limits_told", "number", "retry_after"]

PATIENCE = 120.0
"""Seconds: a provider that asks for more than this means "not today", and waiting is not the answer."""

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")


def headers_of(source: Any) -> dict[str, str]:
    """The headers of an answer, an error or a mapping, with names in lower case; empty if there are none.

    >>> headers_of({"Retry-After": "2"})
    {'retry-after': '2'}
    """
    for name in ("response", "headers"):
        source = getattr(source, name, source)
    return {str(k).lower(): str(v) for k, v in source.items()} if isinstance(source, Mapping) else {}


def retry_after(source: Any) -> float | None:
    """Seconds the provider asks to wait; None if it does not say.

    >>> retry_after({"retry-after": "2", "retry-after-ms": "300"})
    0.3
    >>> retry_after({"Retry-After": "Fri, 01 Aug 2025 12:00:30 GMT", "Date": "Fri, 01 Aug 2025 12:00:00 GMT"})
    30.0
    """
    headers = headers_of(source)
    if (milliseconds := number(headers.get("retry-after-ms"))) is not None and milliseconds > 0:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = number(text)
    if seconds is None:
        seconds = _until(text, headers.get("date"))
    return seconds if seconds is not None and seconds > 0 else None


def limits_told(source: Any) -> dict[str, tuple[float, float]]:
    """What `x-ratelimit-*` says of `requests` and `tokens`: the limit per minute, and how much of it is left.

    >>> limits_told({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"})
    {'requests': (60.0, 59.0)}

    A limit that takes more than ten minutes to fill up counts days, not minutes, and is left out.
    """
    headers, told = headers_of(source), {}
    for kind in ("requests", "tokens"):
        limit, left = (number(headers.get(f"x-ratelimit-{what}-{kind}")) for what in ("limit", "remaining"))
        if limit is None or left is None or limit < 1 or not 0 <= left <= limit:
            continue
        until_full = go_duration(headers.get(f"x-ratelimit-reset-{kind}")) or 0.0
        if until_full * limit <= 600 * max(1.0, limit - left):
            told[kind] = (limit, left)
    return told


def go_duration(text: str | None) -> float | None:
    """Seconds in a duration as the Go language prints it, which is how `x-ratelimit-reset-*` is sent.

    >>> [go_duration(text) for text in ("12ms", "1s", "6m0s", "1h23m31s", "soon")]
    [0.012, 1.0, 360.0, 5011.0, None]
    """
    parts = _PART.findall(text or "")
    if not parts or "".join(value + unit for value, unit in parts) != text:
        return None
    return math.fsum(float(value) * _UNITS[unit] for value, unit in parts)


def number(text: str | None) -> float | None:
    """A finite number in a header; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _until(text: str | None, sent: str | None) -> float | None:
    """Seconds from the answer's own date to another; the calendar stands in where the answer has none."""
    when, then = _date(text), _date(sent)
    return None if when is None else (when - (then or datetime.now(UTC))).total_seconds()


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
