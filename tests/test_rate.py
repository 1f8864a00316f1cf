"""The arithmetic of limits: the token bucket, the schedule, what headers say."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.limits import TokenBucket, go_duration
from agentkit.limits.headers import parse_rate_limits
from agentkit.limits.pacing import GcraSchedule
from agentkit.limits.rate import Reservation

RATES = st.floats(0.01, 1e6)
CAPACITIES = st.floats(0.1, 1e6)
STEPS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 2)), min_size=1, max_size=60)


def test_TokenBucket_starts_full_and_refills_steadily() -> None:
    """Five at once, then one every 0.2 seconds, as 300 a minute in quanta of a second must be."""
    bucket = TokenBucket.per_minute(300, quantum=1)
    assert [bucket.try_take(1, 0) for _ in range(6)] == [True] * 5 + [False]
    assert [bucket.try_take(1, t) for t in (0.1, 0.2, 0.3, 0.4)] == [False, True, False, True]


def test_TokenBucket_quantum_is_the_burst() -> None:
    """The same 300 a minute allow 300 at once in a bucket of a minute, and never fewer than 1."""
    assert [TokenBucket.per_minute(300, quantum=q).capacity for q in (60, 10, 1, 0.001)] == [300, 50, 5, 1]


def test_GcraSchedule_refills_what_the_provider_reported() -> None:
    """Ten left at second 100, one more each second, one used at second 105: fourteen are left, so twenty take six."""
    schedule = GcraSchedule(60, window=60)
    schedule.learn(10, now=100.0)
    schedule.take(1, now=105.0)
    assert schedule.due(14) == 106  # one second after the last use
    assert schedule.due(20) == 111


def test_go_duration_knows_every_unit() -> None:
    """From hours to nanoseconds, as Go prints them."""
    units = ("2h", "2m", "2s", "2ms", "2us", "2µs", "2ns", "1.5s")
    assert [go_duration(text) for text in units] == [7200, 120, 2, 2e-3, 2e-6, 2e-6, 2e-9, 1.5]


@pytest.mark.parametrize(("reset", "limits"), [("10m0s", {"requests": (60.0, 0.0)}), ("10m1s", {})])
def test_parse_rate_limits_leaves_out_what_takes_more_than_ten_minutes(reset: str, limits: dict[str, Any]) -> None:
    """An empty bucket that is full in ten minutes counts; a slower one is a daily limit."""
    headers = {"limit": "60", "remaining": "0", "reset": reset}
    assert parse_rate_limits({f"x-ratelimit-{name}-requests": text for name, text in headers.items()}) == limits


def test_Reservation_has_no_start_while_it_waits() -> None:
    """NaN, also in its repr."""
    assert repr(Reservation(5, lambda *_: None)) == "<Reservation of 5 tokens, started at nan s>"


def test_TokenBucket_refuses_what_can_never_fit() -> None:
    """An amount above the capacity waits for ever."""
    assert TokenBucket(1, 10).wait(10.5, 0) == math.inf


def test_TokenBucket_charge_makes_debt_of_at_most_one_bucket() -> None:
    """A hundred refused requests cost what one bucket of them would."""
    bucket = TokenBucket(5, 5)
    for _ in range(100):
        bucket.charge(1, 0)
    assert bucket.credit(0) == -5
    assert bucket.level(0) == 0
    assert bucket.wait(1, 0) == pytest.approx(1.2)


def test_TokenBucket_resize_keeps_what_was_used() -> None:
    """After 3 of 5 were taken, a bucket of 50 holds 47 and one of 2 holds none."""
    bucket = TokenBucket(5, 5)
    bucket.charge(3, 0)
    bucket.resize(10, 50, 0)
    assert bucket.level(0) == 47
    bucket.resize(10, 2, 0)
    assert bucket.level(0) == 0


def test_TokenBucket_reading_changes_nothing() -> None:
    """Looking at the level, even at a later time, takes nothing and moves no clock."""
    bucket = TokenBucket(1, 10)
    bucket.charge(10, 0)
    assert (bucket.level(8), bucket.level(3), bucket.wait(5, 0)) == (8, 3, 5)


@pytest.mark.parametrize(("rate", "capacity"), [(0, 1), (-1, 1), (1, 0), (math.inf, 1), (math.nan, 1)])
def test_TokenBucket_bad_sizes_are_named(rate: float, capacity: float) -> None:
    """The error names the parameter, the rule and the value."""
    with pytest.raises(ValueError, match=r"(rate|capacity) must be (above 0|a finite number), got"):
        TokenBucket(rate, capacity)


@given(rate=RATES, capacity=CAPACITIES, steps=STEPS)
def test_TokenBucket_never_exceeds_burst_plus_rate(
    rate: float, capacity: float, steps: list[tuple[float, float]]
) -> None:
    """In every window, what was taken is at most the capacity plus the rate times the window's length."""
    bucket, now, taken = TokenBucket(rate, capacity), 0.0, []
    for pause, share in steps:
        now += pause
        if bucket.try_take(share * capacity, now):
            taken.append((now, share * capacity))
        assert 0 <= bucket.level(now) <= capacity
    for first in range(len(taken)):
        total = 0.0
        for when, amount in taken[first:]:
            total += amount
            allowed = capacity + rate * (when - taken[first][0])
            assert total <= allowed * (1 + 1e-6) + rate * 1e-6


@given(rate=RATES, capacity=CAPACITIES, steps=STEPS)
def test_TokenBucket_conserves(rate: float, capacity: float, steps: list[tuple[float, float]]) -> None:
    """Level = capacity - taken + given back, as long as no time passes and nothing spills."""
    bucket, out = TokenBucket(rate, capacity), 0.0
    for _, share in steps:
        amount = share * capacity / 10
        if bucket.try_take(amount, 0):
            out += amount
        else:
            bucket.give_back(out / 2, 0)
            out /= 2
        assert bucket.level(0) == pytest.approx(capacity - out, rel=1e-6, abs=capacity * 1e-6 + rate * 1e-7)


@given(rate=RATES, capacity=CAPACITIES, share=st.floats(0, 1), begin=st.floats(0, 1e6), steps=STEPS)
def test_TokenBucket_waiting_as_told_is_enough(
    rate: float, capacity: float, share: float, begin: float, steps: list[tuple[float, float]]
) -> None:
    """Whoever waits as long as `wait` says gets what it asked for."""
    bucket, now = TokenBucket(rate, capacity, now=begin), begin
    for pause, charged in steps:
        now += pause
        bucket.charge(charged * capacity, now)
    amount = share * capacity
    assert bucket.try_take(amount, now + bucket.wait(amount, now))
