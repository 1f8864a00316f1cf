"""How long an answer takes: four lines of arithmetic, every term visible.

What it holds: `Latency`, the settings of a model server, and `Draw`, the random values of one request.
Guarantee: the same request with the same seed draws the same numbers, whatever the order of arrival, on every
Python. So you can compare two executors on exactly the same work (common random numbers).
Strategy: time to first token, then tokens at a speed that drops as more requests are in flight:
    output  = 1 + Exponential(mean_output), at most max_tokens
    ttft    = base x LogNormal(base_spread) + prompt_tokens / prefill_rate      (+ the wait for a slot)
    speed   = speed / (1 + slowdown x (in_flight - 1)) x LogNormal(speed_spread)
    latency = ttft + output / speed,   ten times as long with probability `hiccup`
Opened by notebook 08.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from agentkit.base.arguments import check_fields, items, number, refusal, whole
from agentkit.lab.provider.quota import settings

__all__ = ["Draw", "Latency"]


_PAIRS = "give (seconds, output tokens) of measured answers"


@dataclass(frozen=True, slots=True)
class Latency:
    """A model server: how fast it starts, how fast it writes, how many requests it serves at once.

    >>> Latency.preset("large").speed
    35
    >>> model = Latency(base=1.0, speed=50, mean_output=100)
    >>> draw = model.draw("any text", prompt_tokens=200, answer_tokens=10, max_tokens=None)
    >>> draw.seconds(in_flight=1) == model.draw("any text", 200, 10, None).seconds(in_flight=1)
    True
    """

    base: float = 0.5
    """Median seconds until the first token of an empty prompt."""
    base_spread: float = 0.0
    """Sigma of the lognormal factor on `base`."""
    prefill_rate: float | None = None
    """Prompt tokens read per second; None for instant reading."""
    speed: float | None = 90.0
    """Tokens written per second by a request alone; None for instant writing."""
    speed_spread: float = 0.0
    """Sigma of the lognormal factor on `speed`."""
    mean_output: float = 210.0
    """Mean tokens an answer costs. Any excess over the visible text counts as reasoning; 0 for the text alone."""
    slowdown: float = 0.0
    """By how much each further request in flight slows the writing: 0.013 is 1.3 %."""
    hiccup: float = 0.0
    """Probability that a request takes ten times as long."""
    slots: int | None = None
    """Requests served at once; the others queue. None for any number."""
    max_queue: int | None = None
    """Requests that may queue; the others get a 503. None for any number."""
    trace: Sequence[tuple[float, int]] = ()
    """Measured `(seconds, output tokens)` of whole answers to draw from, instead of the arithmetic."""

    def __post_init__(self) -> None:
        check_fields(self, number, "base", "mean_output", "slowdown", least=0)
        check_fields(self, number, "base_spread", "speed_spread", remedy="0.3 is a lot", least=0, most=10)
        check_fields(self, number, "prefill_rate", "speed", remedy="use None for no time at all", above=0, none=True)
        check_fields(self, number, "hiccup", remedy="it is a probability", least=0, most=1)
        check_fields(self, whole, "slots", remedy="use None for any number", none=True)
        check_fields(self, whole, "max_queue", remedy="use None for any number", least=0, none=True)
        for pair in items("trace", self.trace, _PAIRS):
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise refusal("trace", "must hold pairs", pair, _PAIRS)
            number("trace", pair[0], _PAIRS, least=0)
            whole("trace", pair[1], _PAIRS, least=0)

    @classmethod
    def preset(cls, name: str) -> Latency:
        """The latency of a preset of `data/latency.json`: small, large, fast or instant."""
        return cls(**settings("latency.json", name, cls))

    def draw(self, seed: str, prompt_tokens: int, answer_tokens: int, max_tokens: int | None) -> Draw:
        """Draw what a request will cost; random, but determined by `seed`."""
        rng = random.Random(seed)
        first, pace = rng.lognormvariate(0, self.base_spread), rng.lognormvariate(0, self.speed_spread)
        output = round(1 + rng.expovariate(1 / self.mean_output)) if self.mean_output else 1
        factor = 10.0 if rng.random() < self.hiccup else 1.0
        if self.trace:
            seconds, output = rng.choice(self.trace)
            output = max(output, answer_tokens)
            return Draw(output, seconds * factor, 0.0, 0.0)
        output = max(output, answer_tokens)
        if max_tokens is not None:
            output = min(output, max_tokens)
        reading = prompt_tokens / self.prefill_rate if self.prefill_rate else 0.0
        per_token = 1 / (self.speed * pace) if self.speed else 0.0
        return Draw(output, (self.base * first + reading) * factor, per_token * factor, self.slowdown)


@dataclass(frozen=True, slots=True)
class Draw:
    """The random values of one request; the load of the server is added later."""

    output_tokens: int
    """Tokens the answer costs."""
    ttft: float
    """Seconds until the first token, once a slot is free."""
    per_token: float
    """Seconds per token of a request alone."""
    slowdown: float
    """By how much each further request in flight slows this one."""

    def writing(self, in_flight: int) -> float:
        """Seconds from the first token to the last, with `in_flight` requests running, this one included."""
        return self.output_tokens * self.per_token * (1 + self.slowdown * (in_flight - 1))

    def seconds(self, in_flight: int) -> float:
        """Seconds for the whole answer."""
        return self.ttft + self.writing(in_flight)
