"""Amounts and prices: the arithmetic of a `Budget`, and the error it raises.

What it holds: `Spent`, `Prices`, `BudgetExceeded`, `BudgetStatistics`, and `most_tokens`, the upper bound for one call:
more than real tokenizers make of any natural language. Nothing here knows a budget or a queue.
Opened by the decision guide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from agentkit.base.arguments import number, read, refusal
from agentkit.limits.rate import answer_bound

__all__ = ["BudgetExceeded", "BudgetStatistics", "Prices", "Spent", "amount", "most_tokens"]

_OVERHEAD = 16  # upper bound in tokens for the roles and separators of a short conversation


@dataclass(frozen=True, slots=True)
class Spent:
    """How much was spent: calls, tokens and money.

    >>> Spent(1, 900, 0.5) + Spent(1, 100)
    Spent(calls=2, tokens=1000, money=0.5)
    """

    calls: int = 0
    """Calls to the provider."""
    tokens: float = 0
    """LLM tokens, input and output together."""
    money: float = 0.0
    """Money, in the unit of the prices."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.calls + other.calls, self.tokens + other.tokens, self.money + other.money)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.calls - other.calls, self.tokens - other.tokens, self.money - other.money)


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    """A snapshot of a budget."""

    used: Spent
    """Total used by settled calls."""
    held: Spent
    """Total reserved for calls in flight."""
    in_flight: int
    """Claims that are not settled yet."""
    queue_depth: int
    """Callers waiting for budget that calls in flight may return."""
    refused: int
    """Claims refused so far."""
    guessed: int
    """Settled calls without a known usage, for which the estimate was charged."""


class BudgetExceeded(ValueError):
    """The budget does not allow the next call. Remedy: raise the limit, or use the results you have.

    >>> error = BudgetExceeded("tokens", 200_000, 199_412, 900)
    >>> error.not_started = 41, 120
    >>> print(error)
    41 of 120 tasks not started: 200,000 tokens allowed, 199,412 used, the next needs about 900
    """

    def __init__(self, kind: str, limit: float, used: float, need: float) -> None:
        super().__init__(kind, limit, used, need)
        self.kind, self.limit, self.used, self.need = kind, limit, used, need
        self.not_started: tuple[int, int] | None = None
        """How many tasks of the run were not started because of this, and how many it has; None outside a run."""

    def __str__(self) -> str:
        begin = "{} of {} tasks not started: ".format(*self.not_started) if self.not_started else ""
        end = "" if self.kind == "calls" else f", the next needs about {amount(self.kind, self.need)}"
        unit = "of money" if self.kind == "money" else self.kind
        return f"{begin}{amount(self.kind, self.limit)} {unit} allowed, {amount(self.kind, self.used)} used{end}"


def amount(kind: str, value: float) -> str:
    """Format an amount for messages."""
    return f"{value:,.4g}" if kind == "money" else f"{math.ceil(value):,}"


class Prices:
    """Money per million tokens, `(input, output)`, for all models or per model.

    >>> Prices({"small": (0.15, 0.60), "large": (2.5, 10)}).cost("small", 1_000_000, 500_000)
    0.45
    """

    def __init__(self, prices: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None) -> None:
        self._all = dict(prices) if isinstance(prices, Mapping) else None  # a copy: somebody else's mapping may raise
        self._one = (0.0, 0.0) if prices is None or isinstance(prices, Mapping) else prices
        self.known = prices is not None
        for pair in self._all.values() if self._all else [self._one]:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise refusal("prices", "must be (input, output) per million tokens, or a dict of these by model", pair)
            for price in pair:
                number("prices", price, "give (input, output) per million tokens", least=0)

    def check(self, model: str) -> None:
        """Raise `ValueError` if a model has no price."""
        if self._all and model and model not in self._all:
            raise ValueError(f"prices must name every model, got none for {model!r}; add it to prices={{...}}")

    def cost(self, model: str, read: float, written: float) -> float:
        """The cost of a call's input and output tokens; an unnamed model is charged the highest prices."""
        read_price, written_price = self._one
        if self._all:
            found = self._all.get(model)
            read_price, written_price = found or (max(p[0] for p in self._all.values()),
                                                  max(p[1] for p in self._all.values()))  # fmt: skip
        return (read * read_price + written * written_price) / 1e6


def most_tokens(task: object, agent: object = None) -> tuple[int, int | None]:
    """Upper bounds for the input and output tokens of a call; None if nothing limits the output.

    >>> most_tokens({"prompt": "What is a race condition?", "max_tokens": 300})
    (45, 300)

    One token per two bytes of text, plus 16 for the message format: more than real tokenizers need for any language.
    """
    text = str(task) + str(read(agent, "instructions") or "")
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / 2) + _OVERHEAD, answer_bound(task, agent)
