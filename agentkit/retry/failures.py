"""Classifying a failed call: worth a retry or not.

What it holds: `classify`, which sorts exceptions into `rate_limited`, `transient` and `permanent`, and `is_overload`.
Guarantee: unknown errors are permanent, so a bug in a program is never retried.
Strategy: check the error's code first, then its status, then its type. Status 429 covers two families: too fast, which
passes, and out of money or too large, which never does; only the code and the message distinguish them. Duck typing:
openai is not imported. Opened by the decision guide.
"""

from __future__ import annotations

import re
from asyncio import CancelledError
from typing import Literal

from agentkit.base.arguments import read
from agentkit.limits import headers_of

__all__ = ["Kind", "classify", "is_overload", "status_of"]

Kind = Literal["rate_limited", "transient", "permanent"]

_CODES: dict[str, Kind] = {
    "rate_limit_exceeded": "rate_limited", "slow_down": "rate_limited", "rate_limit_error": "rate_limited",
    "server_error": "transient", "server_is_overloaded": "transient", "overloaded_error": "transient",
    "api_error": "transient",
    # out of money
    "insufficient_quota": "permanent", "credit_balance_exhausted": "permanent",
    "organization_usage_limit_exceeded": "permanent", "billing_hard_limit_reached": "permanent",
    "billing_not_active": "permanent", "billing_error": "permanent",
    # too large
    "context_length_exceeded": "permanent", "request_too_large": "permanent", "string_above_max_length": "permanent",
}  # fmt: skip
_NETWORK = {"APIConnectionError", "APITimeoutError", "TransportError", "TimeoutException"}  # by name: not imported
_SIZES = re.compile(r"Limit:? (\d+)\b.*?Requested:? (\d+)\b", re.DOTALL)


def classify(error: BaseException) -> Kind:
    """Classify a failure: `rate_limited` (too fast), `transient` or `permanent` (a retry cannot help).

    >>> classify(TimeoutError()), classify(ConnectionResetError()), classify(KeyError("label"))
    ('transient', 'transient', 'permanent')

    Rate limited: 429 for the rate. Transient: 408, 409, 5xx, timeouts, connection errors. Permanent: quota and billing,
    requests that are too large, other 4xx, everything else. The header `x-should-retry` overrides the status; `false`
    overrides everything.
    """
    wish = headers_of(error).get("x-should-retry")
    by_code = _by_code(error)
    if wish == "false" or by_code == "permanent" or _too_large(error):
        return "permanent"
    status = status_of(error)
    if wish == "true":
        return by_code or ("rate_limited" if status == 429 else "transient")
    if status is None:
        return by_code or _by_type(error)
    if status == 429:
        return "rate_limited"
    return "transient" if status in (408, 409) or status >= 500 else "permanent"


def is_overload(error: BaseException) -> bool:
    """Whether the provider says that it is overloaded: 429 for the rate, 503, 529, or an "overloaded" code.

    >>> class Overloaded(Exception):
    ...     status_code = 529
    >>> is_overload(Overloaded()), is_overload(TimeoutError())
    (True, False)
    """
    kind = classify(error)
    if kind != "transient":
        return kind == "rate_limited"
    return status_of(error) in (503, 529) or any("overloaded" in word for word in _codes(error))


def _codes(error: BaseException) -> list[str]:
    return [word for name in ("code", "type") if isinstance(word := read(error, name), str)]


def _by_code(error: BaseException) -> Kind | None:
    for word in _codes(error):
        if word.endswith("_spend_limit_exceeded"):
            return "permanent"
        if word in _CODES:
            return _CODES[word]
    return None


def _by_type(error: BaseException) -> Kind:
    if isinstance(error, TimeoutError | ConnectionError):
        return "transient"
    return "transient" if _NETWORK & {cls.__name__ for cls in type(error).__mro__} else "permanent"


def status_of(error: object) -> int | None:
    """The HTTP status of an error; None if it has none."""
    for owner in (error, read(error, "response")):
        status = read(owner, "status_code")
        if isinstance(status, int):
            return status
    return None


def _too_large(error: BaseException) -> bool:
    """Whether a 429 says that this one request exceeds the limit; its code is the same as for other 429s."""
    try:
        message = str(error)
    except (Exception, CancelledError):  # its __str__ raises
        return False
    sizes = _SIZES.search(message)
    return "Request too large" in message or (sizes is not None and int(sizes[2]) > int(sizes[1]))
