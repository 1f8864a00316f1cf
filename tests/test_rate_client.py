"""RateLimiter: never too many in any window, evenly spaced, first come first served, whoever is cancelled."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.lab.loops.virtual import VirtualLoop, simulate
from agentkit.lab.provider.provider import Provider
from agentkit.limits import NeverFits, RateLimiter, estimate_tokens, parse_rate_limits
from agentkit.limits.pacing import GcraSchedule
from agentkit.limits.pause import Pause

SLACK = 1e-6


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


async def starts(limiter: RateLimiter, tokens: list[float]) -> list[float]:
    """Let one call per entry of `tokens` wait at once; return when each started."""

    async def call(amount: float) -> float:
        await limiter.acquire(amount)
        return now()

    return await asyncio.gather(*map(call, tokens))


# -- pace -------------------------------------------------------------------------------------------------------------


def test_RateLimiter_spaces_starts_evenly() -> None:
    """300 a minute is one every 0.2 s, from the first on, and without drift after ten minutes."""
    times = simulate(starts, RateLimiter(300), [0] * 3001)
    assert times[:4] == pytest.approx([0, 0.2, 0.4, 0.6])
    assert times[-1] == pytest.approx(600)


def test_RateLimiter_burst_lets_that_many_go_at_once_and_then_spaces_them() -> None:
    """With burst=5 five go at once; afterwards the rate is kept, in no burst of five again."""
    times = simulate(starts, RateLimiter(300, burst=5), [0] * 50)
    assert times[:5] == [0] * 5
    assert times[5] == pytest.approx(1)
    assert min(b - a for a, b in pairwise(times[5:])) > 0.14
    assert most_in_window(times, 1.0) <= 5


def most_in_window(times: list[float], window: float) -> int:
    """Return the largest number of times in any half-open stretch of that length."""
    return max(sum(t <= other < t + window - SLACK for other in times) for t in times)


class RelativeGap:
    """Broken: the next start is counted from the last one, so being woken late is never made good."""

    def __init__(self, gap: float) -> None:
        self.gap, self.next = gap, 0.0

    def due(self, amount: float) -> float:
        """Return when the next may start."""
        return self.next

    def take(self, amount: float, now: float, due: float) -> None:
        """Start."""
        self.next = now + self.gap


@pytest.mark.parametrize(("pace", "minimum"), [(RelativeGap(0.005), 0.0), (GcraSchedule(12_000), 0.995)])
def test_GcraSchedule_does_not_drift_when_timers_are_late(pace: RelativeGap | GcraSchedule, minimum: float) -> None:
    """Timers that fire 1 ms late cost the relative schedule a sixth of the rate, and the absolute one nothing."""
    woken, count = 0.0, 0
    while (due := max(woken, pace.due(1))) < 10:
        woken = due + 0.001
        pace.take(1, woken, due)
        count += 1
    achieved = count / 2000
    assert minimum <= achieved <= 1.001
    if isinstance(pace, RelativeGap):
        assert achieved < 0.85


class CheckThenAct:
    """Broken: looks at what is left, awaits, and only then takes it."""

    def __init__(self, left: int) -> None:
        self.left = left

    async def acquire(self, tokens: float) -> None:
        """Wait until there is enough, and take it."""
        if self.left < tokens:
            await asyncio.sleep(60)
        await asyncio.sleep(0)  # such as asking a store that others share
        self.left -= int(tokens)


def test_RateLimiter_takes_before_it_awaits() -> None:
    """Ten calls of 400 tokens pass a check-then-act limit of 1,000 in the same instant; of ours, one does."""

    async def first_minute(limiter: RateLimiter | CheckThenAct) -> int:
        tasks = [asyncio.ensure_future(limiter.acquire(400)) for _ in range(10)]
        done, waiting = await asyncio.wait(tasks, timeout=1)
        for task in waiting:
            task.cancel()
        return len(done)

    assert simulate(first_minute, CheckThenAct(1000)) == 10
    assert simulate(first_minute, RateLimiter(tokens_per_minute=1000)) == 1


plans = st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.1, 0.7, 5.0, 30.0]), st.integers(0, 900)), max_size=40)


@given(plans, st.sampled_from([7, 60, 300, 900]), st.integers(1, 6), st.sampled_from([None, 1.0, 10.0, 60.0]))
def test_RateLimiter_never_exceeds_its_limits_in_any_window(
    plan: list[tuple[float, int]], rpm: int, burst: int, window: float | None
) -> None:
    """Whatever arrives when: no window holds more starts or tokens than allowed, and starts keep the order."""
    tpm = 60_000 if window else 1000
    limiter = RateLimiter(rpm, tpm, burst=burst, window=window)

    async def main() -> list[tuple[float, int]]:
        log: list[tuple[float, int]] = []
        order: list[int] = []

        async def call(index: int, amount: int) -> None:
            await limiter.acquire(amount)
            log.append((now(), amount))
            order.append(index)

        async with asyncio.TaskGroup() as group:
            for index, (gap, amount) in enumerate(plan):
                await asyncio.sleep(gap)
                group.create_task(call(index, amount))
        assert order == sorted(order)
        return log

    log = simulate(main)
    for pace, weight in zip(limiter._schedule.schedules.values(), (lambda _: 1, lambda amount: amount), strict=True):
        for begin, _ in log:
            used = sum(weight(amount) for at, amount in log if begin <= at < begin + pace.window - SLACK)
            assert used <= pace.quota


def test_RateLimiter_neither_starves_nor_overtakes_a_large_request() -> None:
    """A request for most of a minute's tokens waits its turn, and those behind it wait for it."""
    times = simulate(starts, RateLimiter(tokens_per_minute=1000), [100, 100, 900, 100, 100])
    assert times == sorted(times)
    assert times[2] <= 66


# -- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [1, 2, 3])
def test_RateLimiter_cancelled_waiter_leaves_its_turn_to_the_next(victim: int) -> None:
    """Cancelling any waiter moves those behind it up, and nobody else."""

    async def main() -> list[float]:
        limiter = RateLimiter(60)
        tasks = [asyncio.create_task(starts(limiter, [0])) for _ in range(5)]
        await asyncio.sleep(0.5)
        tasks[victim].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return [result[0] for result in results if isinstance(result, list)]

    assert simulate(main) == [0, 1, 2, 3]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), min_size=1, max_size=25), st.booleans())
def test_RateLimiter_forgets_nothing_and_keeps_nothing_under_cancellation(
    plan: list[tuple[int, int]], finite: bool
) -> None:
    """Whoever is cancelled whenever: all others start, in order, and the sums are those of the others."""

    async def main() -> None:
        limiter = RateLimiter(60 if finite else None, 600)
        done: list[int] = []
        spent = 0

        async def call(index: int, amount: int) -> None:
            nonlocal spent
            await limiter.acquire(amount)
            done.append(index)
            spent += amount

        tasks = [asyncio.create_task(call(i, amount)) for i, (amount, _) in enumerate(plan)]
        for task, (_, patience) in zip(tasks, plan, strict=True):
            if patience:
                asyncio.get_running_loop().call_later(patience, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert done == sorted(done)
        assert set(done) >= {index for index, (_, patience) in enumerate(plan) if not patience}
        seen = limiter.statistics()
        assert (seen.started, seen.tokens, seen.queue_depth) == (len(done), spent, 0)

    simulate(main)


def test_RateLimiter_reservation_cancelled_twice_counts_once() -> None:
    """A start that was not made is given back, once."""

    async def main() -> tuple[float, int]:
        limiter = RateLimiter(60)
        reservation = await limiter.acquire()
        reservation.cancel()
        reservation.cancel()
        return limiter.delay(), limiter.statistics().started

    assert simulate(main) == (0.0, 0)


# -- without waiting --------------------------------------------------------------------------------------------------


def test_RateLimiter_try_acquire_takes_only_what_needs_no_waiting() -> None:
    """It succeeds when nobody waits and a start is due; it never overtakes."""

    async def main() -> list[bool]:
        limiter = RateLimiter(60)
        found = [limiter.try_acquire() is not None, limiter.try_acquire() is not None]
        waiter = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(1.0)  # the waiter's turn comes at this very instant
        found.append(limiter.try_acquire() is not None)
        await waiter
        await asyncio.sleep(1.0)
        found.append(limiter.try_acquire() is not None)
        return found

    assert simulate(main) == [True, False, False, True]


def test_RateLimiter_delay_says_when_and_takes_nothing() -> None:
    """The wait it names is the wait that follows, those in front included."""

    async def main() -> tuple[list[float], float]:
        limiter = RateLimiter(60, 6000)
        said = [limiter.delay(100)]
        await limiter.acquire(100)
        said += [limiter.delay(100), limiter.delay(100)]
        waiters = [asyncio.create_task(limiter.acquire(100)) for _ in range(3)]
        await asyncio.sleep(0)
        said.append(limiter.delay(100))
        await limiter.acquire(100)
        await asyncio.wait(waiters)
        return said, now()

    assert simulate(main) == ([0, 1, 1, 4], 4)


def test_RateLimiter_without_limits_never_waits() -> None:
    """No limit on either: everything starts at once, and the cost of a task is not even estimated."""
    limiter = RateLimiter()
    assert simulate(starts, limiter, [5] * 100) == [0] * 100
    assert limiter.cost("any text") == 0
    assert repr(limiter) == "<RateLimiter no request limit, no token limit; 100 started, 0 waiting>"


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_RateLimiter_correct_frees_what_was_reserved_in_vain() -> None:
    """A reservation corrected from 900 tokens to 100 lets the next call start when 100 are paid for."""

    async def main(correct: bool) -> float:
        limiter = RateLimiter(tokens_per_minute=1000)
        reservation = await limiter.acquire(900)
        waiter = asyncio.create_task(limiter.acquire(900))
        await asyncio.sleep(1)
        if correct:
            reservation.correct(100)
        await waiter
        return now()

    assert simulate(main, False) == pytest.approx(60)
    assert simulate(main, True) == pytest.approx(6)


def test_RateLimiter_correct_upwards_makes_the_next_wait_longer() -> None:
    """A call that used more than was thought is paid for before the next starts."""

    async def main() -> float:
        limiter = RateLimiter(tokens_per_minute=1000)
        (await limiter.acquire(100)).correct(500)
        await limiter.acquire(100)
        return now()

    assert simulate(main) == pytest.approx(30)


def test_RateLimiter_refuses_at_once_what_can_never_fit() -> None:
    """The error names both numbers; a waiter that no longer fits because the limit fell gets it too."""

    async def main() -> str:
        limiter = RateLimiter(tokens_per_minute=30_000)
        with pytest.raises(NeverFits, match=r"at most 30,000, what the limit allows in 60 s, got 31,538; shorten"):
            await limiter.acquire(31_538)
        await limiter.acquire(30_000)
        waiter = asyncio.create_task(limiter.acquire(20_000))
        behind = asyncio.create_task(limiter.acquire(10))
        await asyncio.sleep(1)
        limiter.tokens_per_minute = 10_000
        await behind
        return type(waiter.exception()).__name__

    assert simulate(main) == "NeverFits"


def test_estimate_counts_characters_and_the_bound_on_the_answer() -> None:
    """A quarter of the characters, and max_tokens by any of its names, on a dict or an object; never a flag."""

    class Task:
        max_output_tokens = 50

        def __str__(self) -> str:
            return "x" * 40

    assert [estimate_tokens(task) for task in ("", "abcde", Task())] == [0, 2, 60]
    assert estimate_tokens({"max_completion_tokens": 300}) == 300 + 8
    assert RateLimiter(tokens_per_minute=100, estimate=len).cost("four") == 4


# -- limits that change, and headers ----------------------------------------------------------------------------------


def test_RateLimiter_limits_can_be_turned_while_calls_wait() -> None:
    """Raising the rate wakes waiters sooner, None lets all go, lowering it holds them longer."""

    async def main() -> list[float]:
        limiter = RateLimiter(1)
        task = asyncio.create_task(starts(limiter, [0] * 6))
        await asyncio.sleep(1)
        limiter.requests_per_minute = 60
        await asyncio.sleep(2.5)
        limiter.requests_per_minute = None
        return await task

    # After 1 s, 59/60 of a start are still owed; at the new rate that takes 59/60 of a second.
    assert simulate(main) == pytest.approx([0, 1 + 59 / 60, 2 + 59 / 60, 3.5, 3.5, 3.5])


def test_RateLimiter_learns_a_lower_limit_and_keeps_its_own_lower_one() -> None:
    """What the provider names counts where it is stricter, or where nothing was asked for; and it follows changes."""
    told = {"x-ratelimit-limit-requests": "300", "x-ratelimit-remaining-requests": "300"}

    async def main() -> list[float | None]:
        limits = []
        for own in (None, 600, 120):
            limiter = RateLimiter(own)
            limiter.update_from(told)
            limits.append(limiter.requests_per_minute)
            limiter.update_from(told | {"x-ratelimit-limit-requests": "500"})
            limits.append(limiter.requests_per_minute)
        return limits

    assert simulate(main) == [300, 500, 300, 500, 120, 120]


def test_RateLimiter_waits_when_the_provider_says_little_is_left() -> None:
    """Others use the same account: 100 tokens are said to be left, so 400 wait for 300 to flow in."""

    async def main() -> float:
        limiter = RateLimiter(tokens_per_minute=6000)
        limiter.update_from({"X-RateLimit-Limit-Tokens": "6000", "X-RateLimit-Remaining-Tokens": "100"})
        await limiter.acquire(400)
        return now()

    assert simulate(main) == pytest.approx(3)


def test_parse_rate_limits_leaves_out_limits_per_day() -> None:
    """58 of 1,000 used and 1h23m31s until it is full again: that is a limit per day, not per minute."""
    day = {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "942",
        "x-ratelimit-reset-requests": "1h23m31s",
    }
    assert parse_rate_limits(day) == {}
    assert parse_rate_limits(day | {"x-ratelimit-reset-requests": "3.48s"}) == {"requests": (1000, 942)}
    assert parse_rate_limits(day | {"x-ratelimit-remaining-requests": "-1"}) == {}
    assert parse_rate_limits({"x-ratelimit-limit-requests": "many"}) == {}


def test_RateLimiter_pauses_on_retry_after_and_then_ramps() -> None:
    """Nobody starts for as long as was asked; afterwards not all start at once; two minutes is the longest pause."""

    async def main() -> tuple[list[float], float]:
        limiter = RateLimiter()
        for _ in range(10):
            await limiter.acquire()
            await asyncio.sleep(0.1)
        limiter.update_from({"retry-after": "7", "retry-after-ms": "2000"})
        assert limiter.statistics().paused == pytest.approx(2)
        times = await starts(limiter, [0] * 5)
        limiter.update_from({"retry-after": "3600"})
        return times, limiter.statistics().paused

    times, paused = simulate(main)
    assert times[0] == pytest.approx(3)
    assert min(b - a for a, b in pairwise(times)) > 0.2
    assert paused < 1


def test_Pause_spaces_starts_at_the_accepted_rate_and_fades() -> None:
    """Ten a second were accepted before the pause: so many follow it at first, and far more after half a minute."""
    pause = Pause()
    for tick in range(100):
        pause.start(tick / 10)
    pause.hold(until=10.0, now=9.95)
    gaps, at = [], 10.0
    while at < 60:
        at = max(at, pause.due())
        pause.start(at)
        gaps.append(pause.due() - at)
    assert gaps[0] == pytest.approx(0.1, rel=0.02)
    assert gaps[-1] < 0.02


# -- the rest of the checklist ----------------------------------------------------------------------------------------


def test_RateLimiter_keeps_a_provider_that_counts_seconds_content() -> None:
    """A hundred agents against 300 a minute counted by the second: a hundred requests, none refused."""

    async def main() -> tuple[int, int, dict[str, int]]:
        provider, limiter = Provider("lesson"), RateLimiter(300)
        client = provider.client()

        async def agent(number: int) -> None:
            async with limiter:
                answer = await client.chat.completions.with_raw_response.create(
                    model="small", messages=[{"role": "user", "content": f"question {number}"}]
                )
            limiter.update_from(answer)

        await asyncio.gather(*map(agent, range(100)))
        seen = provider.statistics()
        return seen.arrivals, seen.completed, dict(seen.refused)

    assert simulate(main) == (100, 100, {})


def test_RateLimiter_statistics_and_repr_tell_what_goes_on() -> None:
    """Limits, starts, tokens, waiters, their peak and their waiting time."""

    async def main() -> None:
        limiter = RateLimiter(60, 90_000)
        tasks = [asyncio.create_task(limiter.acquire(10)) for _ in range(4)]
        await asyncio.sleep(1.5)
        assert repr(limiter) == "<RateLimiter 60 requests/min, 90,000 tokens/min; 2 started, 2 waiting>"
        await asyncio.wait(tasks)
        seen = limiter.statistics()
        assert (limiter.requests_per_minute, limiter.tokens_per_minute) == (60, 90_000)
        assert (seen.started, seen.tokens, seen.queue_depth, seen.peak_queue_depth) == (4, 40, 0, 3)
        assert seen.waited == pytest.approx(1 + 2 + 3)

    simulate(main)


class CoarseLoop(asyncio.SelectorEventLoop):
    """The machine's clock by another method, as uvloop reads it."""

    def time(self) -> float:
        """Milliseconds, as a float of seconds."""
        return round(super().time(), 3)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (asyncio.SelectorEventLoop, CoarseLoop, True),
        (CoarseLoop, CoarseLoop, True),
        (VirtualLoop, CoarseLoop, False),
        (CoarseLoop, VirtualLoop, False),
        (VirtualLoop, VirtualLoop, False),
    ],
)
def test_RateLimiter_remembers_across_loops_with_one_clock(first: type, second: type, same: bool) -> None:
    """Loops that read the machine's clock, however they do it, are one run to the provider; virtual ones are not."""
    limiter = RateLimiter(1)

    async def starts_at_once() -> bool:
        return limiter.try_acquire() is not None

    found = []
    for loop in (first, second):
        with asyncio.Runner(loop_factory=loop) as runner:
            found.append(runner.run(starts_at_once()))
    assert found == [True, not same]


def test_RateLimiter_can_be_made_before_the_loop_and_used_on_the_next() -> None:
    """A new clock is a fresh start: the second run gives the same times as the first."""
    limiter = RateLimiter(60)
    assert simulate(starts, limiter, [0] * 3) == simulate(starts, limiter, [0] * 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"requests_per_minute": 0}, ValueError, "requests_per_minute must be above 0, got 0; use None for"),
        ({"requests_per_minute": "60"}, TypeError, "requests_per_minute must be a number, got '60'; use None"),
        ({"tokens_per_minute": -5}, ValueError, "tokens_per_minute must be above 0"),
        ({"tokens_per_minute": True}, TypeError, "tokens_per_minute must be a number, got True"),
        ({"burst": 0}, ValueError, "burst must be 1 or more, got 0; use 1 for evenly"),
        ({"window": -1}, ValueError, "window must be above 0, got -1; use None"),
    ],
)
def test_RateLimiter_names_what_is_wrong(arguments: dict[str, float], error: type[Exception], says: str) -> None:
    """Parameter, rule, value, remedy."""
    with pytest.raises(error, match=says):
        RateLimiter(**arguments)


def test_RateLimiter_refuses_amounts_that_make_no_sense() -> None:
    """Negative tokens, at the door and in a correction."""

    async def main() -> None:
        limiter = RateLimiter(tokens_per_minute=60)
        with pytest.raises(ValueError, match="tokens must be 0 or more, got -1"):
            await limiter.acquire(-1)
        with pytest.raises(ValueError, match="used_tokens must be 0 or more, got -1; use cancel"):
            (await limiter.acquire(1)).correct(-1)

    simulate(main)
