"""The provider's errors: status, type, code and message, as the API words them.

What it holds: `ApiError`, and `ERRORS`, a table of every error by name.
Guarantee: each one has the API's shape, `{"error": {"message", "type", "param", "code"}}`, never a bare 500.
The status alone doesn't tell a client whether to retry; `code` does: of the five kinds of 429, three pass with time,
two (`insufficient_quota`, `too_large`) never do.
Messages of 401 and 429 follow published ones; those of 403, 404, 408, 409, 422, 500, 503 and 529 are our own wording.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentkit.lab.provider.quota import Limits, QuotaRejection, go_duration

__all__ = ["ERRORS", "ApiError", "bad_request", "injected_error", "rate_limited"]

_BAD = "invalid_request_error"
_RATE = "rate_limit_exceeded"

ERRORS: dict[str, tuple[int, str, str | None, str]] = {
    "bad_request": (400, _BAD, "invalid_value", "The request is not valid."),
    "invalid_api_key": (401, _BAD, "invalid_api_key", "Incorrect API key provided: {key}."),
    "forbidden": (403, _BAD, "unsupported_country", "Your country, region or territory is not supported."),
    "not_found": (404, _BAD, "model_not_found", "The model `{model}` does not exist or you do not have access to it."),
    "timeout": (408, "timeout_error", "request_timeout", "The request timed out."),
    "conflict": (409, _BAD, "conflict", "The request conflicts with another one. Please try again."),
    "unprocessable": (422, _BAD, "unprocessable_entity", "The request could not be processed."),
    "rate_limit": (429, "requests", _RATE, "{requests}"),
    "rate_limit_tokens": (429, "tokens", _RATE, "{tokens}"),
    "too_large": (429, "tokens", _RATE, "{too_large}"),
    "slow_down": (429, "rate_limit_error", "slow_down", "Traffic grew too fast. Please slow down."),
    "insufficient_quota": (
        429, "insufficient_quota", "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "server_error": (500, "server_error", None, "The server had an error while processing your request."),
    "overloaded": (503, "service_unavailable_error", "server_is_overloaded", "The model is currently overloaded."),
    "overloaded_529": (529, "overloaded_error", None, "Overloaded"),
}  # fmt: skip
"""Errors by name: status, type, code, message."""


class ApiError(Exception):
    """An error to send as the answer.

    >>> error = ApiError("server_error")
    >>> error.status, error.body()["error"]["type"]
    (500, 'server_error')
    """

    def __init__(
        self, name: str, message: str = "", *, status: int | None = None, code: str | None = None,
        param: str | None = None, headers: Mapping[str, str] | None = None, seconds: float = 0.0,
    ) -> None:  # fmt: skip
        self.name = name
        usual_status, self.type, usual_code, usual_message = ERRORS[name]
        self.status, self.code = status or usual_status, code or usual_code
        self.message, self.param, self.headers = message or usual_message, param, dict(headers or {})
        self.seconds = seconds  # how long rejecting takes
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type[ApiError], tuple[str, str], dict[str, Any]]:
        return type(self), (self.name, self.message), vars(self)

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error in the API's shape."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def bytes(self) -> bytes:
        """The body as JSON."""
        return json.dumps(self.body()).encode()


def bad_request(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> ApiError:
    """The error for an invalid request; `param` names the field."""
    return ApiError("bad_request", message, status=status, param=param, code=code or "invalid_value")


def rate_limited(rejection: QuotaRejection, model: str) -> ApiError:
    """The 429 for an exceeded limit, in the API's own words.

    >>> print(rate_limited(QuotaRejection("tokens", 30_000, 29_937, 385), "small").message)
    Rate limit reached for small in organization org-lab on tokens per min (TPM): Limit 30000, Used 29937,
    Requested 385. Please try again in 644ms.
    """
    per = "requests per min (RPM)" if rejection.kind == "requests" else "tokens per min (TPM)"
    where = f"for {model} in organization org-lab on {per}: Limit {rejection.limit}"
    if rejection.kind == "too_large":
        advice = "The input or output tokens must be reduced in order to run successfully."
        return ApiError("too_large", f"Request too large {where}, Requested {rejection.requested}. {advice}")
    text = (
        f"Rate limit reached {where}, Used {rejection.used}, Requested {rejection.requested}. "
        f"Please try again in {go_duration(rejection.wait_ms)}."
    )
    return ApiError("rate_limit" if rejection.kind == "requests" else "rate_limit_tokens", text)


def injected_error(name: str, model: str, limits: Limits) -> tuple[ApiError, int]:
    """The error of that name, injected although no limit was hit, and the wait in ms it announces (0 for none)."""
    rpm, tpm = limits.requests_per_minute or 500, limits.tokens_per_minute or 30_000
    kinds = {
        "rate_limit": QuotaRejection("requests", rpm, rpm, 1),
        "rate_limit_tokens": QuotaRejection("tokens", tpm, tpm, 500),
        "too_large": QuotaRejection("too_large", tpm, 0, tpm + 1),
    }
    if name in kinds:
        return rate_limited(kinds[name], model), 0 if name == "too_large" else kinds[name].wait_ms
    message = ERRORS[name][3].format(model=model, key="sk-***")
    return ApiError(name, message), 1000 if name == "slow_down" else 0
