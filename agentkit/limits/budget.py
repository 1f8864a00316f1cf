"""Limiting what a run may spend: calls, LLM tokens and money.

What it holds: `Budget`, the `Claim` it grants for each call, and `running`, the claim of the current task.
Guarantees: calls never exceed the limit. Tokens and money exceed it by at most the calls in flight, and not at all with
`reserve=True`, provided each call's upper bound is known. A claim is settled once.
Strategy: make a claim before each call and settle it afterwards with the usage that the answer states. Where that is
unknown, after a timeout, the provider may have done the work and bills it, so the estimate is charged.
Use one event loop at a time; not thread-safe. Opened by the decision guide.
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
        self.need = need  # what the call is expected to use
        self.aside = aside  # what is reserved for it: all of `need` with `reserve=True`, otherwise one call

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
    no limit. `prices` is `(input, output)` per million tokens, or a dict of such pairs by model. `estimate(task)`
    returns the tokens a call needs. Without it, the average of the calls so far is used. With `reserve=True`, each
    call's upper bound is set aside before it starts (`most_tokens`, which needs `max_tokens` on the agent or the task).
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
        self.reserve = switch("reserve", reserve)
        self._estimate = function("estimate", estimate, "use None for the usual one", none=True)
        self._limits = dict.fromkeys(_KINDS, math.inf)
        self._used, self._held = Spent(), Spent()
        self._known = self._guessed = self._in_flight = self._refused = 0
        self._waiters = Waiters[Claim]("budget")
        self.calls, self.tokens, self.money = calls, tokens, money

    @property
    def calls(self) -> int | None:
        """Calls allowed; None for any number."""
        return None if (limit := self._limits["calls"]) == math.inf else int(limit)

    @calls.setter
    def calls(self, limit: int | None) -> None:
        self._set("calls", limit, whole)

    @property
    def tokens(self) -> float | None:
        """LLM tokens allowed, input plus output; None for any number."""
        return None if (limit := self._limits["tokens"]) == math.inf else limit

    @tokens.setter
    def tokens(self, limit: float | None) -> None:
        self._set("tokens", limit, number)

    @property
    def money(self) -> float | None:
        """Money allowed, in the unit of `prices`; None for any amount."""
        return None if (limit := self._limits["money"]) == math.inf else limit

    @money.setter
    def money(self, limit: float | None) -> None:
        if limit is not None and not self.prices.known:
            raise refusal("money", "needs prices", limit, "give prices=(input, output), each per million tokens")
        self._set("money", limit, number)

    def _set(self, name: str, limit: float | None, check: Callable[..., Any]) -> None:
        limit = check(name, limit, "use None for no limit", least=0, none=True)
        self._limits[name] = math.inf if limit is None else limit
        self._waiters.serve(self._decide)

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
                self._waiters.serve(self._decide)  # the next one may need less than this one did
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
        self._waiters.serve(self._decide)

    def statistics(self) -> BudgetStatistics:
        """Return what is used, reserved and refused now."""
        waiting = len(self._waiters)
        return BudgetStatistics(self._used, self._held, self._in_flight, waiting, self._refused, self._guessed)

    def _claim(self, task: object, agent: object) -> Claim:
        """Return a claim on one call, not granted yet; raises `BudgetExceeded` if it never can be."""
        model = name if isinstance(name := read(agent, "model", ""), str) else ""
        need = self._need(task, agent, model)
        if (outer := running.get()) is not None and outer.budget is self:
            outer.cancel()  # the task it was made for makes its own claims
        self.check(need)
        return Claim(self, need, need if self.reserve else Spent(1), model)

    def _need(self, task: object, agent: object, model: str) -> Spent:
        """What a call needs: its upper bound with `reserve=True`, otherwise an estimate."""
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

    def _grant(self, claim: Claim) -> bool:
        used, held, need, limits = self._used, self._held, claim.need, self._limits
        fits = (
            used.calls + held.calls + need.calls <= limits["calls"]
            and used.tokens + held.tokens + need.tokens <= limits["tokens"]
            and used.money + held.money + need.money <= limits["money"]
        )
        if fits:
            self._held += claim.aside
            self._in_flight += 1
        return fits

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
        use = f"{self._in_flight} in flight, {self._refused} refused"
        return f"<Budget {', '.join(says) or 'without bounds'}; {use}>"
