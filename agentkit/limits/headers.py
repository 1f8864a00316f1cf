"""Reading rate limits and waits from a response's headers, in the forms that providers really send.

What it holds: `headers_of` (the headers of a response or an error), `retry_after`, `parse_rate_limits`, `go_duration`.
Guarantee: nothing a server sends makes these functions raise; a value that cannot be parsed is ignored.
Strategy: duck typing. Responses of any HTTP library work, and openai is not imported. Opened by notebook 07.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from agentkit.base.arguments import read

__all__ = ["MAX_RETRY_AFTER", "go_duration", "headers_of", "parse_rate_limits", "retry_after"]

MAX_RETRY_AFTER = 120.0
"""Seconds: if the provider asks for a longer wait, retrying stops instead."""

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")


def headers_of(source: object) -> dict[str, str]:
    """The headers of a response, an error or a mapping, with lowercase names; empty if there are none.

    >>> headers_of({"Retry-After": "2"})
    {'retry-after': '2'}
    """
    for name in ("response", "headers"):
        source = read(source, name, source)
    try:
        return {str(k).lower(): str(v) for k, v in source.items()} if isinstance(source, Mapping) else {}
    except Exception:  # a mapping of somebody else's class
        return {}


def retry_after(source: object) -> float | None:
    """Seconds the provider asks you to wait; None if it does not say.

    >>> retry_after({"retry-after": "2", "retry-after-ms": "300"})
    0.3
    >>> retry_after({"Retry-After": "Fri, 01 Aug 2025 12:00:30 GMT", "Date": "Fri, 01 Aug 2025 12:00:00 GMT"})
    30.0

    A date is compared with the response's own date, if it has one. Zero and negative waits are ignored.
    """
    headers = headers_of(source)
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None and milliseconds > 0:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is None and (until := _date(text)) is not None:
        sent = _date(headers.get("date")) or datetime.now(UTC)
        seconds = (until - sent).total_seconds()
    return seconds if seconds is not None and seconds > 0 else None


def parse_rate_limits(source: object) -> dict[str, tuple[float, float]]:
    """Limit per minute and remaining amount of `requests` and `tokens`, from the `x-ratelimit-*` headers.

    >>> parse_rate_limits({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"})
    {'requests': (60.0, 59.0)}

    A limit that takes more than ten minutes to refill is a daily limit, and is left out.
    """
    headers, found = headers_of(source), {}
    for kind in ("requests", "tokens"):
        limit, left = (_number(headers.get(f"x-ratelimit-{what}-{kind}")) for what in ("limit", "remaining"))
        if limit is None or left is None or limit < 1 or not 0 <= left <= limit:
            continue
        until_full = go_duration(headers.get(f"x-ratelimit-reset-{kind}")) or 0.0
        if until_full * limit <= 600 * max(1.0, limit - left):
            found[kind] = (limit, left)
    return found


def go_duration(text: str | None) -> float | None:
    """Seconds in a duration in Go's format, the format of `x-ratelimit-reset-*`; None if it cannot be parsed.

    >>> [go_duration(text) for text in ("12ms", "1s", "6m0s", "1h23m31s", "soon")]
    [0.012, 1.0, 360.0, 5011.0, None]
    """
    parts = _PART.findall(text or "")
    if not parts or "".join(value + unit for value, unit in parts) != text:
        return None
    return math.fsum(float(value) * _UNITS[unit] for value, unit in parts)


def _number(text: str | None) -> float | None:
    """The finite number in a header; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
