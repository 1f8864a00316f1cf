"""The settings of the control room, and what each means for the provider and the executor.

What it holds: `Knobs`, one frozen record of all settings, and `RETRIES`, the retry policies by name.
Guarantees: a `Knobs` object is valid; a bad value raises an error that names the knob, the rule, the value and the
remedy. Equal knobs configure the provider equally.
Opened by notebook 08.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentkit.base.arguments import check_fields, choice, number, seconds, switch, whole
from agentkit.lab.provider.faults import Faults
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.quota import Limits

__all__ = ["RETRIES", "Knobs"]

MEAN_OUTPUT = 210  # mean tokens of an answer
DEFAULT_RETRY = "with jitter"

RETRIES: dict[str, dict[str, Any]] = {
    "none": {"attempts": 1, "rate_limit_attempts": 1, "wait_initial": 1.0, "wait_max": 1.0, "jitter": "none"},
    "after 1 s": {"attempts": 6, "rate_limit_attempts": 12, "wait_initial": 1.0, "wait_max": 1.0, "jitter": "none"},
    "doubling": {"attempts": 6, "rate_limit_attempts": 12, "wait_initial": 0.5, "wait_max": 30.0, "jitter": "none"},
    "with jitter": {"attempts": 6, "rate_limit_attempts": 12, "wait_initial": 0.5, "wait_max": 30.0, "jitter": "full"},
    "as told": {"attempts": 6, "rate_limit_attempts": 12, "wait_initial": 0.5, "wait_max": 30.0, "jitter": "full"},
}
"""Retry policies, from none to honoring the provider's `Retry-After`, a header that is sent for `as told` only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """The setting of every knob: the first five are the client's, the others the provider's.

    >>> Knobs(max_concurrency=20, adaptive=True)
    Knobs(at most 20 at once, adaptive; latency 2 s, 300 requests/min)
    """

    max_concurrency: int = 10
    """How many agents run at the same time; the start value of an adaptive limit."""
    adaptive: bool = False
    """Whether the limit adapts to the provider's rejections."""
    rate_limiter: bool = False
    """Whether a rate limiter paces requests to the account's limits per minute."""
    retry: str = DEFAULT_RETRY
    """A key of `RETRIES`."""
    timeout: float | None = None
    """The most seconds an attempt may take; None for no timeout."""
    latency: float = 2.0
    """Mean seconds of an answer."""
    requests_per_minute: int | None = 300
    """The account's limit, with a burst of one second's requests; None for no limit."""
    tokens_per_minute: int | None = None
    """The account's limit, with a burst of one minute's tokens; None for no limit."""
    failure_rate: float = 0.0
    """Share of requests that fail with a server error."""

    def __post_init__(self) -> None:
        check_fields(self, whole, "max_concurrency", remedy="use 1 to run one task at a time")
        limits = ("requests_per_minute", "tokens_per_minute")
        check_fields(self, whole, *limits, remedy="use None for no limit", none=True)
        choice("retry", self.retry, RETRIES)
        check_fields(self, number, "latency", remedy="use 0.01 for next to none", above=0)
        check_fields(self, seconds, "timeout")
        check_fields(self, number, "failure_rate", remedy="0.05 is one in twenty", least=0, most=1)
        check_fields(self, switch, "adaptive", "rate_limiter")

    @property
    def limits(self) -> Limits:
        """The provider's rate limits."""
        hint: Any = "both" if self.retry == "as told" else "none"
        return Limits(
            requests_per_minute=self.requests_per_minute, tokens_per_minute=self.tokens_per_minute,
            quantum=1, count_failed=False, charge="actual", hint=hint,
        )  # fmt: skip

    @property
    def model(self) -> Latency:
        """The provider's latency: a quarter of it until the first token, the rest to generate the tokens."""
        return Latency(
            base=0.25 * self.latency, base_spread=0.3, mean_output=MEAN_OUTPUT,
            speed=MEAN_OUTPUT / (0.75 * self.latency), speed_spread=0.2,
        )  # fmt: skip

    @property
    def faults(self) -> Faults:
        """The provider's faults."""
        return Faults({"server_error": self.failure_rate} if self.failure_rate else {})

    def __repr__(self) -> str:
        yours = [f"at most {self.max_concurrency} at once"]
        yours += [word for word, on in (("adaptive", self.adaptive), ("rate limiter", self.rate_limiter)) if on]
        yours += [f"retry {self.retry}"] if self.retry != DEFAULT_RETRY else []
        yours += [f"timeout {self.timeout:g} s"] if self.timeout is not None else []
        rpm, tpm = self.requests_per_minute, self.tokens_per_minute
        theirs = [f"latency {self.latency:g} s", "no request limit" if rpm is None else f"{rpm:,} requests/min"]
        theirs += [f"{tpm:,} tokens/min"] if tpm is not None else []
        theirs += [f"{100 * self.failure_rate:g} % fail"] if self.failure_rate else []
        return f"Knobs({', '.join(yours)}; {', '.join(theirs)})"
