"""Checks of notebook 04, race conditions: force the worst order, and mend a budget so that one outcome is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from agentkit.lab.course.exercise import Exercise, Question, swap
from agentkit.lab.explorer.explore import explore
from agentkit.lab.explorer.play import play

__all__ = ["EXERCISES", "QUIZ", "Till", "rounds_of"]

Scenario = Callable[[], Awaitable[int]]
Order = Callable[[int], str]
Call = Callable[[], Awaitable[Any]]
Ask = Callable[[dict[str, Any], int, Call], Awaitable[Any]]


def rounds_of(rounds: int) -> Scenario:
    """Make the notebook's scenario: two agents, each reads, waits, writes and gives way, so many times."""

    async def two_agents() -> int:
        total = 0

        async def agent() -> None:
            nonlocal total
            for _ in range(rounds):
                read = total
                await asyncio.sleep(1)
                total = read + 1
                await asyncio.sleep(0)

        await asyncio.gather(agent(), agent())
        return total

    return two_agents


class Till:
    """A purse, and a model that counts its calls and how many are in flight."""

    def __init__(self, left: int) -> None:
        self.purse: dict[str, Any] = {"left": left}
        self.calls = self.in_flight = self.peak = 0

    async def call(self) -> str:
        """Answer after a second."""
        self.calls += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        await asyncio.sleep(1)
        self.in_flight -= 1
        return "yes"

    async def fails(self) -> str:
        """Raise after a second."""
        await self.call()
        raise ValueError("the answer is no JSON")


# -- ex-break ---------------------------------------------------------------------------------------------------------


def _comes_to_two(worst: Order, rounds: int) -> None:
    order = worst(rounds)
    assert isinstance(order, str), f"worst({rounds}) returned {order!r}, not a text"
    try:
        end = play(rounds_of(rounds), order)
    except ValueError as error:
        raise AssertionError(f"{order!r}: {error}") from None
    steps = f"two agents of {rounds} rounds have {4 * rounds + 2} steps"
    assert end.outcome is not None, f"{order!r} stops half-way, after {len(order)} steps; {steps}"
    assert end.outcome == "2", f"{order!r} came to {end.outcome}"


def three_rounds(worst: Order) -> None:
    """With three rounds each, the order can be played to its end, and the total is 2."""
    _comes_to_two(worst, 3)


def four_rounds(worst: Order) -> None:
    """With four rounds each, the total is 2."""
    _comes_to_two(worst, 4)


def two_rounds(worst: Order) -> None:
    """With two rounds each, the total is 2."""
    _comes_to_two(worst, 2)


def many_rounds(worst: Order) -> None:
    """With nine rounds each, the total is still 2."""
    _comes_to_two(worst, 9)


# -- ex-single --------------------------------------------------------------------------------------------------------


def one_bar(ask_within: Ask) -> None:
    """Three agents of 40 leave 20 of 100, in every order of their steps."""

    async def scenario() -> int:
        till = Till(100)
        await asyncio.gather(*(ask_within(till.purse, 40, till.call) for _ in range(3)))
        return int(till.purse["left"])

    left = explore(scenario).outcomes
    assert list(left) == ["20"], "what was left, and in how many orders: " + _counts(left)


async def calls_overlap(ask_within: Ask) -> None:
    """Two agents that can both pay ask at the same time."""
    till = Till(100)
    await asyncio.gather(*(ask_within(till.purse, 40, till.call) for _ in range(2)))
    took = asyncio.get_running_loop().time()
    assert till.peak == 2, f"{till.peak} call was in flight at most, and two calls of 1 s took {took:g} s"


async def no_money_no_call(ask_within: Ask) -> None:
    """Of three agents two are answered; the third gets None and makes no call."""
    till = Till(100)
    got = await asyncio.gather(*(ask_within(till.purse, 40, till.call) for _ in range(3)))
    assert sorted(map(str, got)) == ["None", "yes", "yes"], f"the agents got {got}"
    assert till.calls == 2, f"{till.calls} calls were made, and the third cannot be paid"


async def an_error_costs_nothing(ask_within: Ask) -> None:
    """A call that raises an error costs nothing, and its error reaches the caller."""
    till = Till(100)
    [got] = await asyncio.gather(ask_within(till.purse, 40, till.fails), return_exceptions=True)
    assert isinstance(got, ValueError), f"the call raised ValueError, the caller got {got!r}"
    assert till.purse["left"] == 100, f"{till.purse['left']} of 100 were left after it"


async def the_last_coin(ask_within: Ask) -> None:
    """What costs exactly what is left can be paid."""
    till = Till(40)
    assert await ask_within(till.purse, 40, till.call) == "yes", "40 were left, a call of 40 was not made"
    assert till.purse["left"] == 0, f"40 were left, 40 were paid, then {till.purse['left']} were left"


def an_error_among_others(ask_within: Ask) -> None:
    """One call of two fails: the other is paid for, in every order."""

    async def scenario() -> int:
        till = Till(100)
        both = (ask_within(till.purse, 40, call) for call in (till.fails, till.call))
        await asyncio.gather(*both, return_exceptions=True)
        return int(till.purse["left"])

    left = explore(scenario).outcomes
    assert list(left) == ["60"], "what was left, and in how many orders: " + _counts(left)


def _counts(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{outcome} ×{count}" for outcome, count in sorted(outcomes.items()))


LOCK_ACROSS = """
async def ask_within(purse, cost, call):
    async with purse.setdefault("lock", asyncio.Lock()):
        if purse["left"] < cost:
            return None
        answer = await call()
        purse["left"] -= cost
        return answer
"""

CHECK_AGAIN = """
async def ask_within(purse, cost, call):
    if purse["left"] < cost:
        return None
    answer = await call()
    if purse["left"] < cost:
        return None
    purse["left"] -= cost
    return answer
"""

STALE = """
async def ask_within(purse, cost, call):
    before = purse["left"]
    if before < cost:
        return None
    purse["left"] = before - cost
    try:
        return await call()
    except Exception:
        purse["left"] = before
        raise
"""

PAY = '    purse["left"] -= cost                    # in the same step as the check\n'
GIVE_BACK = '    except Exception:\n        purse["left"] += cost\n        raise'

EXERCISES = {
    "ex-break": Exercise(
        cases=[three_rounds, four_rounds],
        hidden=[two_rounds, many_rounds],
        wrong=[
            lambda rounds: "AB" * (2 * rounds + 1),
            lambda rounds: "A" * (2 * rounds + 1) + "B" * (2 * rounds + 1),
            lambda rounds: "A" + "B" * (2 * rounds + 1) + "A" * (2 * rounds),
            lambda rounds: "ABBBBABAAAAABB",
            lambda rounds: "ABBABAAABB",
            swap('a_writes_1, b_reads_1 = "A", "B"', 'a_writes_1, b_reads_1 = "B", "A"'),
            swap('"BB" * (rounds - 1)', '"BB" * rounds'),
            swap('b_writes_2_and_ends = "BB"', 'b_writes_2_and_ends = "B"'),
        ],
        hints=(
            "Who can bring a high total down again? An agent that read a low one long ago, and writes now.",
            "A reads 0 and waits. B does all its rounds but one. A writes 1. Who should read that 1, and write last?",
            "A reads; B does rounds - 1 rounds, of two steps each; A writes; B reads; A goes to its end; B ends.",
        ),
    ),
    "ex-single": Exercise(
        cases=[one_bar, calls_overlap, no_money_no_call, an_error_costs_nothing],
        hidden=[the_last_coin, an_error_among_others],
        wrong=[
            LOCK_ACROSS,
            CHECK_AGAIN,
            STALE,
            swap(PAY, "    await asyncio.sleep(0)\n" + PAY),
            swap(GIVE_BACK, "    except Exception:\n        raise"),
            swap(GIVE_BACK, '    finally:\n        purse["left"] += cost'),
            swap("        raise", "        return None"),
            swap('purse["left"] < cost', 'purse["left"] <= cost'),
            swap('purse["left"] < cost', "False"),
        ],
        hints=(
            "Between which two lines can the other agents come in, and why must those two belong together?",
            "Check and pay are one decision: let no await stand between them. Then think of the call that raises.",
            "Check; pay; then try: return await call() … except Exception: pay back, by adding, and raise.",
        ),
    ),
}

QUIZ = [
    Question(
        "On one event loop, where can another task come in?",
        right="only at an await that has to wait",
        because="what stands between two such awaits is one step",
        wrong={
            "between any two lines": "that is so in threads",
            "nowhere, there is one thread": "there is one thread, and at each await it turns to another task",
        },
    ),
    Question(
        "`total += await ask()`, in two agents at the same time. What is wrong?",
        right="total is read before the wait and written after it",
        because="the second to write starts from what it read before the first one wrote",
        wrong={
            "nothing, it is one line": "a line with an await in it is several steps",
            "+= needs a lock, always": "on one loop, total += tokens after the wait needs none",
        },
    ),
    Question(
        "`explore` finds that 4 of 6 orders fail. How often will it fail in production?",
        right="that cannot be said from it",
        because="the count of orders says what can happen; the network decides what does",
        wrong={
            "two times out of three": "orders are not equally likely; asyncio's own order is always the same one",
            "never, if the tests pass": "tests run in one order, that of the answers in the test",
        },
    ),
    Question(
        "Ten agents, a lock held while each one asks the model. What does it cost?",
        right="all concurrency: they ask one after another",
        because="10 s where 1 s would do; ask first, then update in one step",
        wrong={
            "nothing worth mentioning": "the lock is cheap, the waiting for it is ten calls long",
            "the right result": "the result is right; the time is what is lost",
        },
    ),
    Question(
        "A hammer test with four threads finds nothing. Is the code safe?",
        right="not shown: it may only have been lucky",
        because="a wrong result proves a race, a right one proves nothing; force the order with a barrier",
        wrong={
            "yes, if it ran long enough": "+= 1 survives for ever on this interpreter, and breaks without the GIL",
            "yes, the GIL makes each line atomic": "+= with a function call in it loses updates under the GIL",
        },
    ),
]
