"""Checks of notebook 07, limits and rates: build a token bucket; find the limit that binds."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from agentkit.lab.course.exercise import Exercise, Question, swap
from agentkit.limits.token_bucket import TokenBucket

__all__ = ["EXERCISES", "QUIZ", "taken"]

Maker = Callable[[float, float], Any]
Binding = Callable[[float, float, int, int], tuple[float, str]]


def taken(bucket: Any, *asked: tuple[float, float]) -> str:
    """Ask for each (amount, now) in turn; return y for what was given and n for what was refused.

    >>> taken(TokenBucket(rate=1, capacity=2), (1, 0), (1, 0), (1, 0), (1, 1))
    'yyny'
    """
    return "".join("y" if bucket.try_take(amount, now) else "n" for amount, now in asked)


def full_at_first(make: Maker) -> None:
    """A full bucket of 3 gives three at once, and refuses the fourth."""
    got = taken(make(1, 3), (1, 0), (1, 0), (1, 0), (1, 0))
    assert got == "yyyn", f"four requests at second 0 got {got} (y given, n refused)"


def refills_with_time(make: Maker) -> None:
    """At 2 per second, an empty bucket gives one after half a second and two after one more."""
    got = taken(make(2, 4), (4, 0), (1, 0.25), (1, 0.5), (2, 1.5), (1, 1.5))
    assert got == "ynyyn", f"4 at 0 s, 1 at 0.25, 1 at 0.5, 2 at 1.5 and 1 at 1.5 s got {got}, not ynyyn"


def never_above_the_brim(make: Maker) -> None:
    """After an hour of quiet it holds its capacity and no more."""
    got = taken(make(1, 3), (3, 0), (3, 3600), (1, 3600))
    assert got == "yyn", f"3 at 0 s, 3 at 3600 s and 1 at 3600 s got {got}, not yyn"


def a_refusal_takes_nothing(make: Maker) -> None:
    """A refusal takes nothing: who asks for too much does not empty the bucket for others."""
    got = taken(make(1, 3), (2, 0), (2, 0), (1, 0))
    assert got == "yny", f"2, 2 and 1 at second 0 got {got}, not yny"


def keeps_fractions(make: Maker) -> None:
    """Asking often changes nothing: what flows in between two looks is neither lost nor counted twice."""
    got = taken(make(1, 2), (2, 0), *((1, quarter / 4) for quarter in range(1, 9)))
    assert got == "ynnnynnny", f"an empty bucket, asked every quarter of a second for two seconds, gave {got[1:]}"


def decides_like_agentkit(make: Maker) -> None:
    """It decides 400 random requests, of any amount, as agentkit's TokenBucket does."""
    rng, now = random.Random(7), 0.0
    for _ in range(20):
        rate, capacity = rng.choice([0.5, 1, 4]), rng.choice([2, 5, 8])
        mine, theirs, now = make(rate, capacity), TokenBucket(rate, capacity), 0.0
        for _ in range(20):
            now += rng.choice([0, 0.25, 0.5, 2, 16])
            amount = rng.choice([0.5, 1, 3])
            given, wanted = mine.try_take(amount, now), theirs.try_take(amount, now)
            assert bool(given) == wanted, f"{amount} at {now} s gave {given} at rate {rate}, capacity {capacity}"


REFILL = "min(self.capacity, self.level + (now - self.looked) * self.rate)"


def tokens_bind(binding: Binding) -> None:
    """500 requests and 30,000 tokens a minute, 96 + 304 tokens a call: 75 calls, and tokens bind."""
    assert tuple(binding(500, 30_000, 96, 304)) == (75, "tokens"), f"it returned {binding(500, 30_000, 96, 304)}"


def requests_bind(binding: Binding) -> None:
    """500 requests and 200,000 tokens a minute, 100 tokens a call: 500 calls, and requests bind."""
    assert tuple(binding(500, 200_000, 60, 40)) == (500, "requests"), f"it returned {binding(500, 200_000, 60, 40)}"


def larger_than_the_limit(binding: Binding) -> None:
    """A call of 40,000 tokens never starts where 30,000 a minute are allowed: 0 calls, and tokens bind."""
    found = binding(500, 30_000, 38_000, 2_000)
    assert tuple(found) == (0, "tokens"), f"it returned {found}"


def long_prompts_count(binding: Binding) -> None:
    """A long prompt is charged like a long answer: 5,900 + 100 tokens a call leave 5 calls of 30,000."""
    assert tuple(binding(500, 30_000, 5_900, 100)) == (5, "tokens"), f"it returned {binding(500, 30_000, 5_900, 100)}"


def exactly_the_limit(binding: Binding) -> None:
    """A call of exactly the limit fits, once a minute."""
    assert tuple(binding(500, 30_000, 29_000, 1_000)) == (1, "tokens"), "29,000 + 1,000 of 30,000 was not 1 call"


CHARGED = "charged = prompt_tokens + max_tokens"
BOTH = 'min((rpm, "requests"), (tpm / charged, "tokens"))'

EXERCISES = {
    "ex-bucket": Exercise(
        cases=[full_at_first, refills_with_time, never_above_the_brim, a_refusal_takes_nothing, keeps_fractions],
        hidden=[decides_like_agentkit],
        wrong=[
            swap(REFILL, "self.level + (now - self.looked) * self.rate"),
            swap(REFILL, "min(self.capacity, self.level + now - self.looked)"),
            swap(REFILL, "self.capacity if now > self.looked else self.level"),
            swap(REFILL, "min(self.capacity, self.level + int(now - self.looked) * self.rate)"),
            swap("self.looked = now", "self.looked = self.looked"),
            swap("self.level -= amount", "self.level -= 1"),
            swap("if self.level < amount", "if self.level <= amount"),
            swap(
                "            return False",
                "            self.level = max(0, self.level - amount)\n            return False",
            ),
        ],
        hints=(
            "How much has flowed in since the last look? Work that out first, whether or not you give anything.",
            "Add (now - self.looked) * self.rate to the level, cut it at the capacity, and remember when you looked.",
            "self.level = min(...); self.looked = now; then: less than amount? False. Else take it: True.",
        ),
    ),
    "ex-binds": Exercise(
        cases=[tokens_bind, requests_bind, larger_than_the_limit],
        hidden=[long_prompts_count, exactly_the_limit],
        wrong=[
            swap(CHARGED, "charged = max_tokens"),
            swap(BOTH, '(rpm, "requests")'),
            swap(BOTH, '(tpm / charged, "tokens")'),
            swap(BOTH, BOTH.replace("min", "max")),
            swap("if charged > tpm", "if charged >= tpm"),
            swap("if charged > tpm", "if max_tokens > tpm"),
        ],
        hints=(
            "How many such calls do 30,000 tokens pay for?",
            "Divide the tokens of a minute by the tokens of a call, and compare with the requests of a minute.",
            'First: charged > tpm gives 0, "tokens". Else the smaller of rpm and tpm / charged, with its name.',
        ),
    ),
}

QUIZ = [
    Question(
        "Calls take 2 seconds. How many start per minute through Semaphore(10)?",
        right="300",
        because="rate = slots / latency: 10 / 2 s is 5 a second",
        wrong={"10": "ten are in flight at a time; each slot is used thirty times", "600": "that needs 1-second calls"},
    ),
    Question(
        "x-ratelimit-reset-requests: 1m20s. In 80 seconds",
        right="the bucket is full again",
        because="the header counts to the brim; the first request fits much earlier, as Retry-After says",
        wrong={
            "the first request fits": "that is Retry-After; the bucket refills all the time",
            "a new minute begins": "there is no fixed minute; the refill is continuous",
        },
    ),
    Question(
        "A 429 with the code insufficient_quota. Your agent should",
        right="stop",
        because="money does not come back by waiting; each retry is one more request in vain",
        wrong={
            "wait and try again": "that helps when the rate was too high, which has another code",
            "try again at once": "no kind of 429 gets better at once",
        },
    ),
    Question(
        "A provider counts 600 requests a minute by the second. Which limiter is refused nothing?",
        right="RateLimiter(600, burst=1)",
        because="one start every tenth of a second is never more than ten in a second",
        wrong={
            "RateLimiter(600, burst=600)": "600 at once meet room for ten",
            "Semaphore(10)": "with calls of half a second it starts twenty a second",
        },
    ),
    Question(
        "30,000 tokens a minute, answers of about 150 tokens, max_tokens=3,000. What makes the run faster?",
        right="a lower max_tokens",
        because="the cap is charged on arrival, so it decides how many calls fit into a minute",
        wrong={
            "a higher max_concurrency": "more calls would wait, for the same 30,000 tokens",
            "a higher limit on requests": "tokens bind, long before requests",
        },
    ),
]
