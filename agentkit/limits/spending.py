"""Sums of what is spent, the claim on a call, and the refusal: the parts of a `Budget`.

What it holds: `Spent`, `Claim`, `BudgetExceeded`, `BudgetStatistics`, `Prices`, and `most_tokens`, the bound on a call.
Guarantee: a claim is settled once; what it set aside is free again from that moment.
Strategy: what a call cost is known from the answer's `usage`. An error with a status cost nothing; after any other
end, a timeout or a lost connection, the provider has worked and bills, so the estimate counts.
Opened by the decision guide, with `agentkit.limits`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkit.limits.budget import Budget

__all__ = ["BudgetExceeded", "BudgetStatistics", "Claim", "Prices", "Spent", "amount", "most_tokens", "running"]

_ANSWER_BOUNDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_OVERHEAD = 16  # tokens that roles and separators of a short conversation take, at most


@dataclass(frozen=True, slots=True)
class Spent:
    """An amount of each kind.

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
    """A budget at one instant."""

    calls: int | None
    """Calls allowed; None for any number."""
    tokens: float | None
    """Tokens allowed; None for any number."""
    money: float | None
    """Money allowed; None for any amount."""
    used: Spent
    """What settled calls used."""
    held: Spent
    """What is set aside for calls in flight."""
    in_flight: int
    """Claims not settled yet."""
    queue_depth: int
    """Callers that wait for what calls in flight may give back."""
    refused: int
    """Claims refused so far."""
    guessed: int
    """Settled calls whose usage nobody knew, so that the estimate counted."""


class BudgetExceeded(ValueError):
    """The budget does not allow the next call. Remedy: raise the limit, or be content with what was done.

    >>> error = BudgetExceeded("tokens", 200_000, 199_412, 900)
    >>> error.not_started = 41, 120
    >>> print(error)
    41 of 120 tasks not started: 200,000 tokens allowed, 199,412 used, the next needs about 900
    """

    def __init__(self, kind: str, limit: float, used: float, need: float) -> None:
        super().__init__(kind, limit, used, need)
        self.kind, self.limit, self.used, self.need = kind, limit, used, need
        self.not_started: tuple[int, int] | None = None
        """Tasks of the run that were not started for this reason, and all of them; None outside a run."""

    def __str__(self) -> str:
        begin = "{} of {} tasks not started: ".format(*self.not_started) if self.not_started else ""
        end = "" if self.kind == "calls" else f", the next needs about {amount(self.kind, self.need)}"
        unit = "of money" if self.kind == "money" else self.kind
        return f"{begin}{amount(self.kind, self.limit)} {unit} allowed, {amount(self.kind, self.used)} used{end}"


def amount(kind: str, value: float) -> str:
    """An amount for people to read."""
    return f"{value:,.4g}" if kind == "money" else f"{math.ceil(value):,}"


class Claim:
    """Leave to make one call: settle it when the call has ended, or cancel it if there was none."""

    __slots__ = ("_model", "_open", "aside", "budget", "need")

    def __init__(self, budget: Budget, need: Spent, aside: Spent, model: str) -> None:
        self.budget, self._model, self._open = budget, model, True
        self.need = need
        """What the call is taken to use."""
        self.aside = aside
        """What is set aside for it: all of that with `reserve=True`, else one call."""

    def begin(self) -> None:
        """Say that the call starts now, in the running task; raises `BudgetExceeded` if meanwhile all was used.

        If the task makes claims of its own, by running others under the same budget, those take this one's place.
        """
        if not self.budget.reserve:
            self.budget._refuse_what_never_fits(self.need)
        running.set(self)

    def settle(self, answer: Any = None, error: BaseException | None = None) -> None:
        """Say what the call used: a `Usage`, or an answer that has one; None if nobody knows. Only the first counts."""
        if not self._open:
            return
        self._open = False
        answer = answer if error is None else getattr(error, "partial", None)  # a broken answer keeps what had come
        usage = getattr(answer, "usage", answer)
        read = _first(usage, "input_tokens", "prompt_tokens")
        written = _first(usage, "output_tokens", "completion_tokens")
        if error is not None and isinstance(getattr(error, "status_code", None), int):
            self.budget._close(self, Spent(1))
        elif read is None or written is None:
            self.budget._close(self, Spent(1, self.need.tokens, self.need.money), guessed=True)
        else:
            money = self.budget.prices.cost(self._model or str(getattr(answer, "model", "")), read, written)
            requests = getattr(usage, "requests", 1)
            self.budget._close(self, Spent(max(1, requests), read + written, money))

    def cancel(self) -> None:
        """Give everything back: no call was made."""
        if self._open:
            self._open = False
            self.budget._close(self, None)

    def __repr__(self) -> str:
        return f"<Claim on about {self.need.tokens:,.0f} tokens, {'open' if self._open else 'closed'}>"


running: ContextVar[Claim | None] = ContextVar("agentkit claim", default=None)
"""The claim under which the running task makes its call."""


def _first(usage: Any, *names: str) -> Any:
    values = (getattr(usage, name, None) for name in names)
    return next((value for value in values if isinstance(value, int | float)), None)


class Prices:
    """Money per million tokens, `(input, output)`, for all models or by model.

    >>> Prices({"small": (0.15, 0.60), "large": (2.5, 10)}).cost("small", 1_000_000, 500_000)
    0.45
    """

    def __init__(self, prices: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None) -> None:
        self._all: Mapping[str, tuple[float, float]] | None = prices if isinstance(prices, Mapping) else None
        self._one = (0.0, 0.0) if prices is None or isinstance(prices, Mapping) else prices
        self.known = bool(prices)
        for pair in self._all.values() if self._all else [self._one]:
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(_is_price(price) for price in pair):
                raise ValueError(
                    f"prices must be (input, output) per million tokens, or a dict of these by model, got {pair!r}"
                )

    def check(self, model: str) -> None:
        """Raise `ValueError` where a model has no price."""
        if self._all and model and model not in self._all:
            raise ValueError(f"prices must name every model, got none for {model!r}; add it to prices={{...}}")

    def cost(self, model: str, read: float, written: float) -> float:
        """Money for so many tokens of input and output; a model that nobody named has the dearest price."""
        read_price, written_price = self._one
        if self._all:
            found = self._all.get(model)
            read_price, written_price = found or (max(p[0] for p in self._all.values()),
                                                  max(p[1] for p in self._all.values()))  # fmt: skip
        return (read * read_price + written * written_price) / 1e6


def _is_price(price: Any) -> bool:
    return isinstance(price, int | float) and not isinstance(price, bool) and 0 <= price < math.inf


def most_tokens(task: Any, agent: Any = None) -> tuple[int, int | None]:
    """Tokens of input and output that a call may use at most; None where nothing bounds the output.

    >>> most_tokens({"prompt": "What is a race condition?", "max_tokens": 300})
    (45, 300)

    A token per two bytes of text and 16 for the frame: more than real tokenizers make of any natural language.
    """
    bounds = [_bound(task, name) for name in _ANSWER_BOUNDS] + [getattr(agent, "max_tokens", None)]
    answer = next((bound for bound in bounds if isinstance(bound, int) and not isinstance(bound, bool)), None)
    text = str(task) + str(getattr(agent, "instructions", ""))
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / 2) + _OVERHEAD, answer


def _bound(task: Any, name: str) -> Any:
    return task.get(name) if isinstance(task, Mapping) else getattr(task, name, None)
