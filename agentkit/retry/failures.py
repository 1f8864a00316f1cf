"""What a failed call means: wait and try again, or stop.

What it holds: `classify`, which sorts an exception into `refused`, `fault` or `stop`.
Guarantee: an error it does not know means stop; a mistake in a program is never repeated.
Strategy: first the error's code, then its status, then its type. Behind status 429 there are two families: too fast,
which passes, and out of money or too large, which never does; only code and message tell them apart. Duck typing:
`status_code`, `code` and `response.headers` are looked at, and openai is not imported.
Opened by the decision guide.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from agentkit.limits import headers_of

__all__ = ["Kind", "classify", "is_overload"]

Kind = Literal["refused", "fault", "stop"]

_CODES: dict[str, Kind] = {
    "rate_limit_exceeded": "refused", "slow_down": "refused", "rate_limit_error": "refused",
    "server_error": "fault", "server_is_overloaded": "fault", "overloaded_error": "fault", "api_error": "fault",
    # out of money
    "insufficient_quota": "stop", "credit_balance_exhausted": "stop", "organization_usage_limit_exceeded": "stop",
    "billing_hard_limit_reached": "stop", "billing_not_active": "stop", "billing_error": "stop",
    # too large
    "context_length_exceeded": "stop", "request_too_large": "stop", "string_above_max_length": "stop",
}  # fmt: skip
_NETWORK = {"APIConnectionError", "APITimeoutError", "TransportError", "TimeoutException"}  # by name: not imported
_SIZES = re.compile(r"Limit:? (\d+)\b.*?Requested:? (\d+)\b", re.DOTALL)


def classify(error: BaseException) -> Kind:
    """Sort a failure: `refused` (too fast), `fault` (it happens) or `stop` (trying again cannot help).

    >>> classify(TimeoutError()), classify(ConnectionResetError()), classify(KeyError("label"))
    ('fault', 'fault', 'stop')

    Wait: 429 for the rate, 408, 409, 5xx, timeouts, connection errors. Stop: quota and billing, requests that are too
    large, other 4xx, everything else. `x-should-retry` overrules the status, and `false` everything.
    """
    wish = headers_of(error).get("x-should-retry")
    by_code = _by_code(error)
    if wish == "false" or by_code == "stop" or _too_large(error):
        return "stop"
    status = _status(error)
    if wish == "true":
        return by_code or ("refused" if status == 429 else "fault")
    if status is None:
        return by_code or _by_type(error)
    if status == 429:
        return "refused"
    return "fault" if status in (408, 409) or status >= 500 else "stop"


def is_overload(error: BaseException) -> bool:
    """Whether the provider had no room for the call, as far as it says: 429 for the rate, 503, 529.

    >>> class Overloaded(Exception):
    ...     status_code = 529
    >>> is_overload(Overloaded()), is_overload(TimeoutError())
    (True, False)
    """
    kind = classify(error)
    return kind == "refused" or (kind == "fault" and (_status(error) in (503, 529) or _says_overloaded(error)))


def _says_overloaded(error: BaseException) -> bool:
    return any("overloaded" in str(getattr(error, name, "")) for name in ("code", "type"))


def _by_code(error: BaseException) -> Kind | None:
    for name in ("code", "type"):
        word = getattr(error, name, None)
        if isinstance(word, str):
            if word.endswith("_spend_limit_exceeded"):
                return "stop"
            if word in _CODES:
                return _CODES[word]
    return None


def _by_type(error: BaseException) -> Kind:
    if isinstance(error, TimeoutError | ConnectionError):
        return "fault"
    return "fault" if _NETWORK & {cls.__name__ for cls in type(error).__mro__} else "stop"


def _status(error: Any) -> int | None:
    for owner in (error, getattr(error, "response", None)):
        status = getattr(owner, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _too_large(error: BaseException) -> bool:
    """Whether a refusal says that the request alone exceeds the limit: its code is that of any other refusal."""
    message = str(error)
    sizes = _SIZES.search(message)
    return "Request too large" in message or (sizes is not None and int(sizes[2]) > int(sizes[1]))
