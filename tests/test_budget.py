"""The budget by itself: what is claimed, used, given back, waited for and refused."""

from __future__ import annotations

import asyncio
import pickle
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.lab.loops.virtual import simulate
from agentkit.limits import Budget, BudgetExceeded
from agentkit.limits.spending import Prices, Spent, most_tokens
from agentkit.report.usage import Usage

AGENT = SimpleNamespace(max_tokens=100, instructions="", model="small")


def test_Budget_counts_calls_tokens_and_money():
    """Used is what the answers' usage said, priced by model."""
    budget = Budget(calls=10, tokens=10_000, money=1, prices={"small": (1, 2), "large": (10, 20)})
    budget.try_acquire("a", AGENT).settle(Usage(1, 900, 100))
    budget.try_acquire("a").settle(Usage(2, 100_000 - 99_000, 0), "large")
    used = budget.statistics().used
    assert (used.calls, used.tokens) == (3, 2_000)
    assert used.money == pytest.approx((900 + 200 + 10_000) / 1e6)
    assert budget.statistics().held == Spent()


def test_Budget_calls_are_exact_also_without_reserve():
    """A call in flight counts, so two claims on one call are one too many: the second waits, and is refused."""

    async def main():
        budget = Budget(calls=1)
        first = await budget.acquire()
        assert budget.try_acquire() is None
        second = asyncio.create_task(budget.acquire())
        await asyncio.sleep(0)
        assert budget.statistics().queue_depth == 1
        first.settle(Usage(1, 1, 1))
        with pytest.raises(BudgetExceeded, match=r"^1 calls allowed, 1 used$"):
            await second
        return budget

    assert repr(asyncio.run(main())) == "<Budget 1 of 1 calls; 0 in flight, 1 refused>"


def test_Budget_message_says_what_is_left_and_what_is_needed():
    """The mean of the calls so far is what the next one needs."""
    budget = Budget(tokens=200_000)
    for used in (100_000, 99_412):
        budget.try_acquire().settle(Usage(1, used, 0))
    with pytest.raises(BudgetExceeded) as refused:
        budget.try_acquire()
    assert str(refused.value) == "200,000 tokens allowed, 199,412 used, the next needs about 99,706"
    refused.value.not_started = 41, 120
    assert str(refused.value).startswith("41 of 120 tasks not started: 200,000 tokens allowed")
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


def test_Budget_limits_can_be_raised_while_callers_wait():
    """What waits goes on at once."""

    async def main():
        budget = Budget(calls=1)
        first = await budget.acquire()
        waiting = asyncio.create_task(budget.acquire())
        await asyncio.sleep(0)
        budget.calls = 2
        second = await waiting
        first.cancel()
        second.cancel()
        return budget.statistics()

    assert asyncio.run(main()).used == Spent()


def test_Claim_counts_the_estimate_where_nobody_knows_the_usage():
    """An unknown usage is billed at the estimate, a refusal at no tokens; a claim is settled once."""
    budget = Budget(tokens=10_000, reserve=True)
    claims = [budget.try_acquire("abcd", AGENT) for _ in range(3)]
    claims[0].settle()
    claims[1].settle(Usage(1))
    claims[2].settle(None)
    claims[2].settle(Usage(1, 9_000, 0))
    claims[2].cancel()
    now = budget.statistics()
    assert (now.used.calls, now.used.tokens, now.guessed) == (3, 2 * sum(most_tokens("abcd", AGENT)), 2)


def test_Budget_reserve_needs_a_bound():
    """Without one it would promise what it cannot keep."""
    with pytest.raises(ValueError, match=r"reserve=True needs to know .*give the agent or the task max_tokens"):
        Budget(tokens=1_000, reserve=True).try_acquire("a question")
    assert Budget(tokens=1_000, reserve=True, estimate=lambda task: 10).try_acquire("a question") is not None
    assert Budget(tokens=1_000, reserve=True).try_acquire({"prompt": "a", "max_tokens": 10}) is not None


@pytest.mark.parametrize(
    "text", ["What is a race condition?", "竞争条件是什么？" * 20, "def f(x):\n    return {x: x**2}", ""]
)
def test_most_tokens_bounds_what_a_prompt_may_cost(text):
    """At least a token per four characters, as the embedded provider counts, and per Chinese character."""
    assert most_tokens(text)[0] >= max(-(-len(text) // 4), sum(ord(c) > 0x2E80 for c in text))


async def spend(budget: Budget, calls: int, agents: int, seed: int) -> float:
    """Let agents call until refused; return what calls really used."""
    rng, used = random.Random(seed), 0.0
    left = iter(range(calls))

    async def agent():
        nonlocal used
        for _ in left:
            try:
                claim = await budget.acquire({"max_tokens": 100})
            except BudgetExceeded:
                return
            try:
                claim.begin()
            except BudgetExceeded:
                claim.cancel()
                return
            tokens = rng.randint(1, 100)
            used += tokens
            await asyncio.sleep(rng.random())
            fate = rng.random()
            if fate < 0.1:
                claim.settle()
            else:
                claim.settle(Usage(1, 0, tokens))

    await asyncio.gather(*(agent() for _ in range(agents)))
    return used


@given(st.integers(0, 3_000), st.integers(1, 20), st.integers(0, 50), st.booleans())
def test_Budget_bound_holds(tokens, agents, seed, reserve):
    """With `reserve=True` never exceeded; else by no more than the calls in flight. Nobody waits for ever."""
    budget = Budget(tokens=tokens, calls=60, reserve=reserve)
    used = simulate(spend, budget, 80, agents, seed)
    now = budget.statistics()
    assert used <= tokens + (0 if reserve else 100 * agents)
    assert now.used.calls <= 60
    assert (now.in_flight, now.queue_depth, now.held) == (0, 0, Spent())


def test_Budget_without_reserve_is_exceeded_by_calls_in_flight():
    """With twenty agents the plain budget does go over its bound; with `reserve=True` it does not."""
    over = simulate(spend, Budget(tokens=1_000), 80, 20, 1)
    kept = simulate(spend, Budget(tokens=1_000, reserve=True), 80, 20, 1)
    assert over > 1_000 >= kept


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"calls": -1}, "calls must be 0 or more, got -1; use None"),
        ({"calls": 1.5}, "calls must be a whole number, got 1.5"),
        ({"tokens": "many"}, "tokens must be a number, got 'many'"),
        ({"tokens": float("nan")}, "tokens must be a finite number, got nan"),
        ({"money": 1}, r"money needs prices, got 1; give prices=\(input, output\)"),
        ({"money": 1, "prices": (1,)}, r"prices must be \(input, output\) per million tokens"),
        ({"money": 1, "prices": {"a": (1, -1)}}, "prices must be"),
        ({"estimate": 3}, "estimate must be a function, got 3; use None"),
    ],
)
def test_Budget_bad_arguments_name_parameter_value_and_remedy(arguments, said):
    """Each is refused when the budget is made."""
    with pytest.raises((TypeError, ValueError), match=said):
        Budget(**arguments)


def test_Budget_refuses_a_model_without_a_price_before_the_call():
    """Money that cannot be counted is not spent."""
    with pytest.raises(ValueError, match="prices must name every model, got none for 'small'"):
        Budget(money=1, prices={"large": (1, 2)}).try_acquire("a", AGENT)


def test_Budget_with_an_estimate_counts_one_call_per_claim():
    """One call allowed, one claim granted; the second has to wait."""
    budget = Budget(calls=1, estimate=lambda task: 5)
    assert budget.try_acquire() is not None
    assert budget.try_acquire() is None


def test_Budget_accepts_an_estimate_of_zero_tokens():
    """A call that needs nothing fits even a budget of nothing."""
    assert Budget(tokens=0, estimate=lambda task: 0).try_acquire() is not None


def test_Prices_of_an_unnamed_model_are_the_highest():
    """The input price of one model and the output price of another, so the cost is never too low."""
    prices = Prices({"reader": (10, 2), "writer": (1, 20)})
    assert prices.cost("reader", 1e6, 1e6) == 12
    assert prices.cost("", 1e6, 0) == 10
    assert prices.cost("", 0, 1e6) == 20


def test_Budget_has_no_memory_of_rounding_when_nothing_is_in_flight():
    """Sums of money do not cancel exactly; what is left over must not keep the last caller waiting for ever."""
    budget = Budget(money=0.6, prices=(1e6, 1e6), reserve=True, estimate=lambda task: task)
    claims = [budget.try_acquire(x) for x in (0.1, 0.2)]
    for claim in claims:
        claim.cancel()
    assert budget.statistics().held == Spent()
    assert budget.try_acquire(0.6) is not None
