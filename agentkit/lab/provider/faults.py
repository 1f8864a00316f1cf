"""What goes wrong, on purpose: by rate, or by script.

What it holds: `Fault`, one thing that goes wrong; `Faults`, when it does; `FAULTS`, every kind by name.
Guarantee: the same seed and the same request fail the same way, whatever the order of arrival; a repeat of the
request draws again, so a retry may succeed.
Strategy: errors replace the answer; the other faults damage an answer on its way, which clients rarely test.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentkit.base.arguments import check_fields, choice, instance, number, refusal, text, whole
from agentkit.lab.provider.errors import ERRORS

__all__ = ["FAULTS", "Fault", "Faults"]

FAULTS: dict[str, str] = {
    **{name: f"{status}: {message.strip('{}').replace('_', ' ')}" for name, (status, _, _, message) in ERRORS.items()},
    "slow_start": "the first byte comes `seconds` later",
    "stall": "the answer stops halfway for `seconds`, then continues",
    "cut": "the connection closes before any answer",
    "cut_stream": "the connection closes halfway",
    "stream_error": "a stream carries an error halfway, and ends",
    "no_done": "a stream ends without its [DONE] line",
    "no_usage": "the answer has no usage",
    "malformed_json": "half of the JSON is missing",
    "wrong_content_type": "a status of 200, and a gateway's HTML page instead of the answer",
}
"""Every kind of fault: the errors of `ERRORS`, and the kinds of damage."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    >>> Fault("rate_limit", headers={"retry-after": "2"}).kind
    'rate_limit'
    """

    kind: str
    """A name of `FAULTS`."""
    seconds: float = 3600.0
    """How long `slow_start` and `stall` last; the default of 3600 exceeds any client's timeout."""
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Headers of the error, such as `retry-after` or `x-should-retry`; they replace the usual ones."""

    def __post_init__(self) -> None:
        choice("kind", self.kind, FAULTS)
        check_fields(self, number, "seconds", least=0)
        for name, value in instance("headers", self.headers, Mapping, "give a dict of strings").items():
            text("headers", name)
            text("headers", value)


@dataclass(frozen=True, slots=True)
class Faults:
    """Which faults happen, and when.

    >>> faults = Faults(rates={"server_error": 0.05}, script={3: "cut"})
    >>> faults.choose(3, "any text")
    Fault(kind='cut', seconds=3600.0, headers={})
    """

    rates: Mapping[str | Fault, float] = field(default_factory=dict)
    """Probability of each kind, or of each `Fault`; at most 1 in all."""
    script: Mapping[int, str | Fault] = field(default_factory=dict)
    """What happens to the first call (1), the second (2) and so on, in order of arrival."""

    def __post_init__(self) -> None:
        instance("rates", self.rates, Mapping, "give a dict of probabilities by fault")
        instance("script", self.script, Mapping, "give a dict of faults by call")
        for fault in (*self.rates, *self.script.values()):
            _as_fault(fault)
        rates = [number("rates", rate, "give probabilities", least=0, most=1) for rate in self.rates.values()]
        if sum(rates) > 1 + 1e-9:
            raise refusal("rates", "must be probabilities that add up to 1 at most", dict(self.rates))
        for call in self.script:
            whole("script", call, "its keys are calls: 1 for the first, 2 for the second")

    def choose(self, call: int, seed: str) -> Fault | None:
        """What happens to the call of that number; a random choice depends on `seed` alone."""
        if call in self.script:
            return _as_fault(self.script[call])
        if not self.rates:
            return None
        lot = random.Random(seed).random()
        for fault, rate in self.rates.items():
            if lot < rate:
                return _as_fault(fault)
            lot -= rate
        return None


def _as_fault(fault: str | Fault) -> Fault:
    return fault if isinstance(fault, Fault) else Fault(fault)
