"""Limiting what a run may spend: calls, LLM tokens and money.

What it holds: `Budget`, the `Claim` it grants for each call, and `running`, the claim of the current task. Amounts,
prices and `BudgetExceeded` are in `spending.py`.
Guarantees: calls never exceed the limit. Tokens and money exceed it by at most the calls in flight, and not at all
with `reserve=True`, provided each call's upper bound is known. A claim is settled once. A call is charged even if its
answer never arrived.
Strategy: make a claim before each call and settle it afterwards, with the usage that the answer states. Where the usage
is unknown, after a timeout or a lost connection, the provider may have done the work and bills it, so the estimate is
charged. `reserve=True` sets aside each call's upper bound, like a hotel's hold on a credit card, and lets callers wait
for what other calls return.
Use one event loop at a time; not thread-safe. Share one budget among all executors that spend from it.
Opened by the decision guide.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from agentkit.base.arguments import called, function, number, read, refusal, switch, whole
from agentkit.limits.spending import BudgetExceeded, BudgetStatistics, Prices, Spent, amount, most_tokens
from agentkit.semaphore.waiters import Waiters

__all__ = ["Budget", "Claim", "Figures", "running"]

_KINDS = ("calls", "tokens", "money")


class Figures(Protocol):
    """What a call used; a `Usage` has these attributes."""

    @property
    def requests(self) -> int:
        """Requests the provider answered."""

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompts."""

    @property
    def output_tokens(self) -> int:
        """Tokens of the answers."""


class Claim:
    """Permission to make one call: settle it when the call has ended, or cancel it if no call was made."""

    __slots__ = ("_model", "_open", "aside", "budget", "need")

    def __init__(self, budget: Budget, need: Spent, aside: Spent, model: str) -> None:
        self.budget, self._model, self._open = budget, model, True
        self.need = need
        """What the call is expected to use."""
        self.aside = aside
        """What is reserved for it: all of `need` with `reserve=True`, otherwise one call."""

    def begin(self) -> None:
        """Start the call in the current task; raises `BudgetExceeded` if the budget has been used up since the claim.

        If the task makes claims of its own, by running others under the same budget, they replace this one.
        """
        if not self.budget.reserve:
            self.budget.check(self.need)
        running.set(self)

    def settle(self, usage: Figures | None = None, model: str = "") -> None:
        """Charge what the call used; only the first settlement counts.

        `usage` is a `Usage`; if it is None, the usage is unknown and the estimate is charged. A call that was refused
        and not billed used `Usage(1)`. `model` is the model that answered, for its price if the agent names none.
        """
        if not self._open:
            return
        self._open = False
        if usage is None or not 0 <= usage.input_tokens + usage.output_tokens < math.inf:
            self.budget.close_claim(self, Spent(1, self.need.tokens, self.need.money), guessed=True)
        else:
            money = self.budget.prices.cost(self._model or model, usage.input_tokens, usage.output_tokens)
            tokens = usage.input_tokens + usage.output_tokens
            self.budget.close_claim(self, Spent(max(1, usage.requests), tokens, money))

    def cancel(self) -> None:
        """Return everything to the budget: no call was made."""
        if self._open:
            self._open = False
            self.budget.close_claim(self, None)

    def __repr__(self) -> str:
        return f"<Claim on about {self.need.tokens:,.0f} tokens, {'open' if self._open else 'closed'}>"


running: ContextVar[Claim | None] = ContextVar("agentkit claim", default=None)
"""The claim under which the current task makes its call."""


class Budget:
    """A limit on what may be spent, and a count of what was.

    >>> async def main():
    ...     budget = Budget(tokens=2_000, money=0.01, prices=(0.15, 0.60))  # per million tokens, input and output
    ...     claim = await budget.acquire("What is a race condition?")
    ...     claim.settle(Usage(1, 900, 600))
    ...     claim = budget.try_acquire("And what is a deadlock?")
    >>> from agentkit.report.usage import Usage
    >>> asyncio.run(main())
    Traceback (most recent call last):
    agentkit.limits.spending.BudgetExceeded: 2,000 tokens allowed, 1,500 used, the next needs about 1,500

    An executor makes a claim for each attempt and settles it with the result's `usage`. A task that the budget refuses
    gets the status `rejected`, and no further task starts. Assign `calls`, `tokens` and `money` at any time; None means
    no limit. `prices` is `(input, output)` per million tokens, or a dict of such pairs by model.
    `estimate(task)` returns the tokens a call needs. Without it, the average of the calls so far is used, or, with
    `reserve=True`, the upper bound (`most_tokens`, which needs `max_tokens` on the agent or the task).
    """

    def __init__(
        self,
        calls: int | None = None,
        tokens: float | None = None,
        money: float | None = None,
        *,
        prices: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
        reserve: bool = False,
        estimate: Callable[[Any], float] | None = None,
    ) -> None:
        self.prices = Prices(prices)
        """What tokens cost."""
        self.reserve = switch("reserve", reserve)
        """Whether each call's upper bound is set aside before it starts."""
        self._estimate = function("estimate", estimate, "use None for the usual one", none=True)
        self._limits = dict.fromkeys(_KINDS, math.inf)
        self._used, self._held = Spent(), Spent()
        self._known = self._guessed = self._in_flight = self._refused = 0
        self._waiters = Waiters[Claim]("budget")
        self.calls, self.tokens, self.money = calls, tokens, money

    # -- settings -------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> int | None:
        """Calls allowed; None for any number."""
        limit = self._limits["calls"]
        return None if limit == math.inf else int(limit)

    @calls.setter
    def calls(self, limit: int | None) -> None:
        self._set("calls", limit, whole)

    @property
    def tokens(self) -> float | None:
        """LLM tokens allowed, input plus output; None for any number."""
        return _or_none(self._limits["tokens"])

    @tokens.setter
    def tokens(self, limit: float | None) -> None:
        self._set("tokens", limit, number)

    @property
    def money(self) -> float | None:
        """Money allowed, in the unit of `prices`; None for any amount."""
        return _or_none(self._limits["money"])

    @money.setter
    def money(self, limit: float | None) -> None:
        if limit is not None and not self.prices.known:
            raise refusal("money", "needs prices", limit, "give prices=(input, output), each per million tokens")
        self._set("money", limit, number)

    def _set(self, name: str, limit: float | None, check: Callable[..., Any]) -> None:
        limit = check(name, limit, "use None for no limit", least=0, none=True)
        self._limits[name] = math.inf if limit is None else limit
        self._serve()

    # -- claims ---------------------------------------------------------------------------------------------------

    def try_acquire(self, task: object = "", agent: object = None) -> Claim | None:
        """Claim one call on `task` by `agent`; None if it must first wait for calls in flight to be settled.

        Raises `BudgetExceeded` if waiting cannot help, and `ValueError` if `reserve=True` and the call has no upper
        bound.
        """
        claim = self._claim(task, agent)
        return claim if not self._waiters and self._grant(claim) else None

    async def acquire(self, task: object = "", agent: object = None) -> Claim:
        """Same as `try_acquire`, but wait if waiting can help; first come, first served."""
        claim = self._claim(task, agent)
        if self._waiters or not self._grant(claim):
            try:
                await self._waiters.wait(claim, self._decide, Claim.cancel)
            except asyncio.CancelledError:
                self._serve()  # the next one may need less than this one did
                raise
        return claim

    def check(self, need: Spent) -> None:
        """Raise `BudgetExceeded` if `need` would not fit even if all calls in flight returned what they reserved."""
        for kind, limit in self._limits.items():
            used, needed = getattr(self._used, kind), getattr(need, kind)
            if used + needed > limit:
                self._refused += 1
                raise BudgetExceeded(kind, limit, used, needed)

    def close_claim(self, claim: Claim, spent: Spent | None, guessed: bool = False) -> None:
        """Release what the claim reserved and charge `spent`, if anything. Only a claim calls this, once."""
        self._in_flight -= 1
        self._held = self._held - claim.aside if self._in_flight else Spent()  # float sums do not cancel exactly
        if spent is not None:
            self._used += spent
            self._known += spent.tokens > 0  # an error response says nothing about what calls need
            self._guessed += guessed
        self._serve()

    def statistics(self) -> BudgetStatistics:
        """Return what is allowed, used, reserved and refused now."""
        return BudgetStatistics(
            self.calls, self.tokens, self.money, self._used, self._held, self._in_flight,
            len(self._waiters), self._refused, self._guessed,
        )  # fmt: skip

    # -- inside ---------------------------------------------------------------------------------------------------

    def _claim(self, task: object, agent: object) -> Claim:
        """Return a claim on one call, not granted yet; raises `BudgetExceeded` if it never can be."""
        need = self._need(task, agent)
        if (outer := running.get()) is not None and outer.budget is self:
            outer.cancel()  # the task it was made for makes its own claims
        self.check(need)
        return Claim(self, need, need if self.reserve else Spent(1), _model_of(agent))

    def _need(self, task: object, agent: object) -> Spent:
        """What a call needs: its upper bound with `reserve=True`, otherwise an estimate."""
        model = _model_of(agent)
        self.prices.check(model)
        if self._estimate is not None:
            tokens = called("estimate of the budget", self._estimate, task)
            tokens = number("the result of estimate", tokens, "it is a number of tokens", least=0)
            return Spent(1, tokens, max(self.prices.cost(model, tokens, 0), self.prices.cost(model, 0, tokens)))
        if self._known and not self.reserve:
            return Spent(1, self._used.tokens / self._known, self._used.money / self._known)
        prompt, answer = called("estimate of the budget", most_tokens, task, agent)
        if answer is None and self.reserve and (self.tokens is not None or self.money is not None):
            raise ValueError(
                "reserve=True needs to know what a call may use at most, and nothing bounds the answer; "
                "give the agent or the task max_tokens, or the budget estimate=function"
            )
        return Spent(1, prompt + (answer or 0), self.prices.cost(model, prompt, answer or 0))

    def _fits(self, need: Spent) -> bool:
        used, held, limits = self._used, self._held, self._limits
        return (
            used.calls + held.calls + need.calls <= limits["calls"]
            and used.tokens + held.tokens + need.tokens <= limits["tokens"]
            and used.money + held.money + need.money <= limits["money"]
        )

    def _grant(self, claim: Claim) -> bool:
        if not self._fits(claim.need):
            return False
        self._held += claim.aside
        self._in_flight += 1
        return True

    def _serve(self) -> None:
        """Grant or refuse waiting claims, in the order they arrived."""
        self._waiters.serve(self._decide)

    def _decide(self, claim: Claim) -> bool:
        """Grant the first waiting claim if it fits now; raises `BudgetExceeded` if it never will."""
        self.check(claim.need)
        return self._grant(claim)

    def __repr__(self) -> str:
        says = [
            f"{amount(kind, getattr(self._used, kind))} of {amount(kind, limit)} {kind}"
            for kind, limit in self._limits.items()
            if limit != math.inf
        ]
        now = self.statistics()
        return f"<Budget {', '.join(says) or 'without bounds'}; {now.in_flight} in flight, {now.refused} refused>"


def _model_of(agent: object) -> str:
    return model if isinstance(model := read(agent, "model", ""), str) else ""


def _or_none(limit: float) -> float | None:
    return None if limit == math.inf else limit
