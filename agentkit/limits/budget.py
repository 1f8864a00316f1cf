"""What a run may spend: calls, LLM tokens and money.

What it holds: `Budget`. The `Claim` it hands out, `BudgetExceeded` and `Spent` are in `spending.py`.
Guarantees: calls are never exceeded; tokens and money by no more than the calls in flight, and with `reserve=True` not
at all, where what a call may use at most is known. What a call used counts even if its answer never came.
Strategy: a claim is made before each call and settled after it. `reserve=True` sets aside what the call may use at
most, as a bank does with a card at a hotel, and lets calls wait for what others give back.
One event loop at a time; not for threads. Share one budget among all executors that spend from it.
Opened by the decision guide.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from agentkit.limits.spending import (
    BudgetExceeded,
    BudgetStatistics,
    Claim,
    Prices,
    Spent,
    amount,
    most_tokens,
    running,
)

__all__ = ["Budget"]

_KINDS = ("calls", "tokens", "money")


class Budget:
    """What may be spent, and what was.

    >>> async def main():
    ...     budget = Budget(tokens=2_000, money=0.01, prices=(0.15, 0.60))  # per million tokens, input and output
    ...     claim = await budget.acquire("What is a race condition?")
    ...     claim.settle(Usage(1, 900, 600))
    ...     claim = budget.try_acquire("And what is a deadlock?")
    >>> from agentkit.report.usage import Usage
    >>> asyncio.run(main())
    Traceback (most recent call last):
    agentkit.limits.spending.BudgetExceeded: 2,000 tokens allowed, 1,500 used, the next needs about 1,500

    Given to an executor, it makes a claim for each attempt and settles it by the result's `usage`; a task it refuses
    is `rejected`, and no further task starts. `calls`, `tokens` and `money` can be assigned at any time; None is no
    bound. `prices` is `(input, output)` per million tokens, or a dict of such pairs by model.
    `estimate(task)` says how many tokens a call needs: without it, what calls used so far on average; with
    `reserve=True`, what it may use at most (`most_tokens`, which needs the agent's or the task's `max_tokens`).
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
        if estimate is not None and not callable(estimate):
            raise TypeError(f"estimate must be a function of a task, got {estimate!r}; use None for the usual one")
        self.prices = Prices(prices)
        """What tokens cost."""
        self.reserve = reserve
        """Whether what a call may use at most is set aside before it starts."""
        self._estimate = estimate
        self._limits = dict.fromkeys(_KINDS, math.inf)
        self._used, self._held = Spent(), Spent()
        self._known = self._guessed = self._in_flight = self._refused = 0
        self._waiters: deque[tuple[asyncio.Future[Claim], Spent, str]] = deque()
        self.calls, self.tokens, self.money = calls, tokens, money

    # -- settings -------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> int | None:
        """Calls allowed; None for any number."""
        limit = self._limits["calls"]
        return None if limit == math.inf else int(limit)

    @calls.setter
    def calls(self, limit: int | None) -> None:
        self._set("calls", limit)
        if limit is not None and limit % 1:
            raise ValueError(f"calls must be a whole number, got {limit!r}; use None for no bound")

    @property
    def tokens(self) -> float | None:
        """LLM tokens allowed, input and output together; None for any number."""
        return _or_none(self._limits["tokens"])

    @tokens.setter
    def tokens(self, limit: float | None) -> None:
        self._set("tokens", limit)

    @property
    def money(self) -> float | None:
        """Money allowed, in the unit of `prices`; None for any amount."""
        return _or_none(self._limits["money"])

    @money.setter
    def money(self, limit: float | None) -> None:
        if limit is not None and not self.prices.known:
            raise ValueError("money needs prices; give prices=(input, output), each per million tokens")
        self._set("money", limit)

    def _set(self, name: str, limit: float | None) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int | float | None):
            raise TypeError(f"{name} must be a number, got {limit!r}; use None for no bound")
        if limit is not None and not limit >= 0:
            raise ValueError(f"{name} must be 0 or more, got {limit!r}; use None for no bound")
        self._limits[name] = math.inf if limit is None else limit
        self._serve()

    # -- claims ---------------------------------------------------------------------------------------------------

    def try_acquire(self, task: Any = "", agent: Any = None) -> Claim | None:
        """Claim one call on `task` by `agent`; None if that has to wait for calls in flight to be settled.

        Raises `BudgetExceeded` if no wait can help, and `ValueError` if `reserve=True` and nothing bounds the call.
        """
        need, model = self._need(task, agent), _model_of(agent)
        if (outer := running.get()) is not None and outer.budget is self:
            outer.cancel()  # the task it was made for makes the claims itself
        self._refuse_what_never_fits(need)
        return None if self._waiters or not self._fits(need) else self._grant(need, model)

    async def acquire(self, task: Any = "", agent: Any = None) -> Claim:
        """Do the same, and wait where that may help; first come, first served."""
        if (claim := self.try_acquire(task, agent)) is not None:
            return claim
        turn: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()
        self._waiters.append((turn, self._need(task, agent), _model_of(agent)))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                turn.result().cancel()  # cancelled between being granted it and waking up
            self._serve()
            raise

    def statistics(self) -> BudgetStatistics:
        """Return what is allowed, used, set aside and refused now."""
        return BudgetStatistics(
            self.calls, self.tokens, self.money, self._used, self._held, self._in_flight,
            len([turn for turn, _, _ in self._waiters if not turn.done()]), self._refused, self._guessed,
        )  # fmt: skip

    # -- inside ---------------------------------------------------------------------------------------------------

    def _need(self, task: Any, agent: Any) -> Spent:
        """What a call is taken to use: at most with `reserve=True`, else about."""
        model = _model_of(agent)
        self.prices.check(model)
        if self._estimate is not None:
            tokens = self._estimate(task)
            if not tokens >= 0:
                raise ValueError(f"estimate must return 0 or more tokens, got {tokens!r} for {task!r:.60}")
            return Spent(1, tokens, max(self.prices.cost(model, tokens, 0), self.prices.cost(model, 0, tokens)))
        if self._known and not self.reserve:
            return Spent(1, self._used.tokens / self._known, self._used.money / self._known)
        prompt, answer = most_tokens(task, agent)
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

    def _refuse_what_never_fits(self, need: Spent) -> None:
        """Raise if it would not fit even if all calls in flight gave everything back."""
        for kind, limit in self._limits.items():
            used, needed = getattr(self._used, kind), getattr(need, kind)
            if used + needed > limit:
                self._refused += 1
                raise BudgetExceeded(kind, limit, used, needed)

    def _grant(self, need: Spent, model: str) -> Claim:
        claim = Claim(self, need, need if self.reserve else Spent(1), model)
        self._held += claim.aside
        self._in_flight += 1
        return claim

    def _close(self, claim: Claim, spent: Spent | None, guessed: bool = False) -> None:
        """Called by a claim: what it set aside is free, and what was spent is gone."""
        self._in_flight -= 1
        self._held = self._held - claim.aside if self._in_flight else Spent()  # sums of money do not cancel exactly
        if spent is not None:
            self._used += spent
            self._known += spent.tokens > 0  # a refusal says nothing about what calls need
            self._guessed += guessed
        self._serve()

    def _serve(self) -> None:
        """Grant, or refuse, those who wait, in their turn."""
        while self._waiters:
            turn, need, model = self._waiters[0]
            if not turn.done():
                try:
                    self._refuse_what_never_fits(need)
                except BudgetExceeded as error:
                    turn.set_exception(error)
                else:
                    if not self._fits(need):
                        return
                    turn.set_result(self._grant(need, model))
            self._waiters.popleft()

    def __repr__(self) -> str:
        says = [
            f"{amount(kind, getattr(self._used, kind))} of {amount(kind, limit)} {kind}"
            for kind, limit in self._limits.items()
            if limit != math.inf
        ]
        now = self.statistics()
        return f"<Budget {', '.join(says) or 'without bounds'}; {now.in_flight} in flight, {now.refused} refused>"


def _model_of(agent: Any) -> str:
    return str(getattr(agent, "model", ""))


def _or_none(limit: float) -> float | None:
    return None if limit == math.inf else limit
