"""What can be turned in the control room: the knobs, and what each position means to provider and executor.

What it holds: `Knobs`, one frozen record of all positions, and `RETRIES`, the retry policies by name.
Guarantees: a `Knobs` object is valid; a bad value is refused with the knob, the rule, the value and the remedy. The
same knobs give the same provider.
Opened by notebook 08.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from agentkit.lab.provider.faults import Faults
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.quota import Limits

__all__ = ["RETRIES", "Knobs"]

MEAN_OUTPUT = 210  # tokens of an answer, on average

RETRIES: dict[str, dict[str, Any]] = {
    "none": {"attempts": 1, "refusals": 1, "base": 1.0, "cap": 1.0, "jitter": "none"},
    "after 1 s": {"attempts": 6, "refusals": 12, "base": 1.0, "cap": 1.0, "jitter": "none"},
    "doubling": {"attempts": 6, "refusals": 12, "base": 0.5, "cap": 30.0, "jitter": "none"},
    "with jitter": {"attempts": 6, "refusals": 12, "base": 0.5, "cap": 30.0, "jitter": "full"},
    "as told": {"attempts": 6, "refusals": 12, "base": 0.5, "cap": 30.0, "jitter": "full"},
}
"""What to do after a failure, from nothing to obeying the provider's `Retry-After`, which only `as told` is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """The position of every knob; the first five are yours, the others the provider's.

    >>> Knobs(max_concurrency=20, adaptive=True)
    Knobs(at most 20 at once, adaptive; latency 2 s, 300 requests/min)
    """

    max_concurrency: int = 10
    """Agents in flight at once; where an adaptive limit starts."""
    adaptive: bool = False
    """Whether the limit follows what the provider refuses."""
    rate_limiter: bool = False
    """Whether starts are paced to what the account allows per minute."""
    retry: str = "with jitter"
    """A name of `RETRIES`."""
    timeout: float | None = None
    """Seconds an attempt may take; None for no bound."""
    latency: float = 2.0
    """Seconds a mean answer takes."""
    requests_per_minute: int | None = 300
    """Requests the account allows, a second's worth at once; None for no limit."""
    tokens_per_minute: int | None = None
    """Tokens the account allows, a minute's worth at once; None for no limit."""
    failure_rate: float = 0.0
    """Share of requests that end in a server error."""

    def __post_init__(self) -> None:
        _whole("max_concurrency", self.max_concurrency, "1 runs one after another")
        for name in ("requests_per_minute", "tokens_per_minute"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), "use None for no limit")
        if self.retry not in RETRIES:
            raise ValueError(f"retry must be one of {', '.join(RETRIES)}, got {self.retry!r}")
        if not self.latency > 0:
            raise ValueError(f"latency must be more than 0 seconds, got {self.latency!r}; use 0.01 for next to none")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, got {self.timeout!r}; use None for no bound")
        if not 0 <= self.failure_rate <= 1:
            raise ValueError(f"failure_rate must be from 0 to 1, got {self.failure_rate!r}; 0.05 is one in twenty")
        for name in ("adaptive", "rate_limiter"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")

    @property
    def limits(self) -> Limits:
        """What the provider allows."""
        hint: Any = "both" if self.retry == "as told" else "none"
        return Limits(
            requests_per_minute=self.requests_per_minute, tokens_per_minute=self.tokens_per_minute,
            quantum=1, count_failed=False, charge="actual", hint=hint,
        )  # fmt: skip

    @property
    def model(self) -> Latency:
        """How the provider answers: a quarter of the time to the first token, the rest for writing."""
        return Latency(
            base=0.25 * self.latency, base_spread=0.3, mean_output=MEAN_OUTPUT,
            speed=MEAN_OUTPUT / (0.75 * self.latency), speed_spread=0.2,
        )  # fmt: skip

    @property
    def faults(self) -> Faults:
        """What goes wrong at the provider."""
        return Faults({"server_error": self.failure_rate} if self.failure_rate else {})

    def __repr__(self) -> str:
        yours = [f"at most {self.max_concurrency} at once"]
        yours += [word for word, on in (("adaptive", self.adaptive), ("rate limiter", self.rate_limiter)) if on]
        yours += [f"retry {self.retry}"] if self.retry != _usual("retry") else []
        yours += [f"timeout {self.timeout:g} s"] if self.timeout is not None else []
        rpm, tpm = self.requests_per_minute, self.tokens_per_minute
        theirs = [f"latency {self.latency:g} s", "no request limit" if rpm is None else f"{rpm:,} requests/min"]
        theirs += [f"{tpm:,} tokens/min"] if tpm is not None else []
        theirs += [f"{100 * self.failure_rate:g} % fail"] if self.failure_rate else []
        return f"Knobs({', '.join(yours)}; {', '.join(theirs)})"


def _usual(name: str) -> Any:
    return next(field.default for field in fields(Knobs) if field.name == name)


def _whole(name: str, value: Any, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}; {remedy}")
