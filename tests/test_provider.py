"""The embedded provider: limits, latency, faults and books, all in virtual time."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import openai
import pytest

from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.faults import Faults
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.provider import Provider
from agentkit.lab.provider.quota import Limits

INSTANT = Latency.preset("instant")
THREE = Limits(requests_per_minute=3, count_failed=False)


def ask(client: openai.AsyncOpenAI, text: str = "hello", **options: Any) -> Awaitable[Any]:
    """One chat completion."""
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="small", messages=messages, **options)  # type: ignore[call-overload]


def sized(prompt: int, answer: int) -> dict[str, Any]:
    """A request that is charged `prompt + answer` tokens."""
    return {"text": "x" * (4 * prompt), "max_tokens": answer}


# Limits: the two formulas, against figures that users of a paid endpoint published.

SAID = [
    (30_000, 29_937, 385, "644ms"),
    (10_000, 8_554, 3_082, "9.816s"),
    (30_000, 14_567, 24_754, "18.642s"),
    (30_000, 18_928, 11_159, "174ms"),
    (30_000, 28_039, 3_906, "3.89s"),
]


@pytest.mark.parametrize(("limit", "used", "requested", "wait"), SAID)
def test_Provider_tokens_refusal_says_what_a_paid_endpoint_said(
    limit: int, used: int, requested: int, wait: str
) -> None:
    """The published 429 messages come out to the millisecond, and the hint headers agree with them."""
    provider = Provider(limits=Limits(tokens_per_minute=limit), latency=INSTANT)

    async def main() -> openai.RateLimitError:
        client = provider.client()
        await ask(client, **sized(1, used - 1))
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client, **sized(1, requested - 1))
        return caught.value

    error = simulate(main)
    assert f"Limit {limit}, Used {used}, Requested {requested}. Please try again in {wait}." in error.message
    assert (error.type, error.code) == ("tokens", "rate_limit_exceeded")
    milliseconds = int(error.response.headers["retry-after-ms"])
    assert milliseconds == -(-(used + requested - limit) * 60_000 // limit)
    assert int(error.response.headers["retry-after"]) == -(-milliseconds // 1000)


def test_Provider_requests_refusal_says_what_a_paid_endpoint_said() -> None:
    """The fourth request in a minute of a free account: try again in 20 seconds."""
    provider = Provider(limits=THREE, latency=INSTANT)

    async def main() -> str:
        client = provider.client()
        for i in range(3):
            await ask(client, f"question {i}")
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client)
        return caught.value.message

    assert "(RPM): Limit 3, Used 3, Requested 1. Please try again in 20s." in simulate(main)


def test_Provider_headers_say_what_a_paid_endpoint_said() -> None:
    """One request of 24 tokens against 5,000 requests and 160,000 tokens a minute: 12 ms and 9 ms to full."""
    provider = Provider("tier3")

    async def main() -> dict[str, str]:
        raw = await provider.client().chat.completions.with_raw_response.create(
            model="small", messages=[{"role": "user", "content": "x" * 16}], max_tokens=20
        )
        return {name: value for name, value in raw.headers.items() if name.startswith("x-ratelimit")}

    assert simulate(main) == {
        "x-ratelimit-limit-requests": "5000",
        "x-ratelimit-limit-tokens": "160000",
        "x-ratelimit-remaining-requests": "4999",
        "x-ratelimit-remaining-tokens": "159976",
        "x-ratelimit-reset-requests": "12ms",
        "x-ratelimit-reset-tokens": "9ms",
    }


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        ("both", {"retry-after": "20", "retry-after-ms": "20000"}),
        ("retry-after", {"retry-after": "20"}),
        ("retry-after-ms", {"retry-after-ms": "20000"}),
        ("none", {}),
    ],
)
def test_Provider_hints(hint: Any, expected: dict[str, str]) -> None:
    """A refusal says when to come back in the form asked for; with "none" it hides its limits too."""
    provider = Provider(limits=replace(THREE, hint=hint), latency=INSTANT)

    async def main() -> dict[str, str]:
        client = provider.client()
        for i in range(3):
            await ask(client, f"{i}")
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client)
        return dict(caught.value.response.headers)

    headers = simulate(main)
    assert {name: value for name, value in headers.items() if name.startswith("retry-after")} == expected
    assert ("x-ratelimit-limit-requests" in headers) == (hint != "none")


def test_Provider_date_hint_is_obeyed_by_the_client() -> None:
    """An HTTP date 20 seconds ahead makes the client wait 20 to 21 seconds."""
    provider = Provider(limits=replace(THREE, hint="date"), latency=INSTANT)

    async def main() -> float:
        client = provider.client(max_retries=1)
        for i in range(4):
            await ask(client, f"{i}")
        return asyncio.get_running_loop().time()

    assert 18.5 < simulate(main) < 21.5


def test_Provider_request_that_can_never_fit() -> None:
    """A request above the limit is told so, without a hint when to come back."""
    provider = Provider(limits=Limits(tokens_per_minute=30_000), latency=INSTANT)

    async def main() -> openai.RateLimitError:
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(provider.client(), **sized(1, 31_537))
        return caught.value

    error = simulate(main)
    assert "Request too large for small" in error.message
    assert "Limit 30000, Requested 31538." in error.message
    assert "retry-after" not in error.response.headers
    assert provider.statistics().refused == {"too_large": 1}


def test_Provider_max_tokens_is_charged_on_arrival() -> None:
    """The same work with max_tokens=4096 instead of 300 hits the token limit ten times earlier, as predicted."""

    async def accepted(cap: int) -> int:
        provider = Provider(limits=Limits(tokens_per_minute=200_000), latency=INSTANT)
        client = provider.client()
        calls = [ask(client, f"{i:04}" * 100, max_tokens=cap) for i in range(600)]
        await asyncio.gather(*calls, return_exceptions=True)
        return provider.statistics().accepted

    assert [simulate(accepted, cap) for cap in (300, 4096)] == [200_000 // 400, 200_000 // 4196]


def test_Provider_charge_actual_and_refund() -> None:
    """Charged what it uses, or charged up front and given back: in the end the bucket holds the same."""
    left = []
    for limits in (
        Limits(tokens_per_minute=60_000, charge="actual"),
        Limits(tokens_per_minute=60_000, refund=True),
        Limits(tokens_per_minute=60_000),
    ):
        provider = Provider(limits=limits, latency=INSTANT)
        simulate(lambda provider=provider: ask(provider.client(), **sized(10, 1000)))
        seen = provider.statistics()
        left.append((seen.tokens_left, seen.tokens_charged, seen.tokens_used))
    assert left == [(59_980, 20, 20), (59_980, 20, 20), (58_990, 1010, 20)]


def test_Provider_hint_is_honest_where_refusals_count() -> None:
    """A refusal that is counted is part of "used", so whoever waits as told gets through."""
    provider = Provider("free", latency=INSTANT)

    async def main() -> tuple[str, float]:
        client = provider.client(max_retries=1)
        for i in range(3):
            await ask(client, f"{i}")
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client.with_options(max_retries=0))
        await asyncio.sleep(int(caught.value.response.headers["retry-after"]))
        await ask(client.with_options(max_retries=0))
        return caught.value.message, asyncio.get_running_loop().time()

    message, waited = simulate(main)
    assert "Limit 3, Used 4, Requested 1. Please try again in 40s." in message
    assert waited == 40


# The herd: 100 agents at once against 300 requests a minute, in a bucket of one second (5).

Policy = Callable[[openai.AsyncOpenAI, int], Awaitable[Any]]


def herd(policy: Policy, *, seed: int, **limits: Any) -> tuple[int, int]:
    """How many of 100 agents succeed, and how many attempts the provider counts."""
    usual: dict[str, Any] = {"quantum": 1, "count_failed": False, "hint": "none"}
    provider = Provider(limits=Limits(**{"requests_per_minute": 300, **usual, **limits}), seed=seed)

    async def main() -> int:
        client = provider.client()
        calls = [policy(client, i) for i in range(100)]
        return sum(not isinstance(r, BaseException) for r in await asyncio.gather(*calls, return_exceptions=True))

    return simulate(main, seed=seed), provider.statistics().arrivals


def retries(n: int) -> Policy:
    """The client's own retries, n of them."""
    return lambda client, i: ask(client.with_options(max_retries=n), f"{i}")


async def full_jitter(client: openai.AsyncOpenAI, i: int) -> Any:
    """Six retries, each after a random time up to 1, 2, 4 … 60 seconds."""
    for attempt in range(6):
        try:
            return await ask(client, f"{i}")
        except openai.RateLimitError:
            await asyncio.sleep(random.uniform(0, min(60, 2**attempt)))
    return await ask(client, f"{i}")


async def five_per_second(client: openai.AsyncOpenAI, i: int) -> Any:
    """What a client-side limiter does: one start every 0.2 seconds."""
    await asyncio.sleep(0.2 * i)
    return await ask(client, f"{i}")


HERD = [
    ("no retry", retries(0), {}, 5, 100),
    ("client default", retries(2), {}, 12, 288),
    ("client default, failed counted", retries(2), {"count_failed": True}, 5, 290),
    ("6 retries", retries(6), {}, 69, 576),
    ("6 retries, failed counted", retries(6), {"count_failed": True}, 25, 651),
    ("6 retries that obey the hint", retries(6), {"hint": "both"}, 8, 658),
    ("6 retries, full jitter", full_jitter, {}, 99.5, 490),
    ("the same, failed counted", full_jitter, {"count_failed": True}, 64, 669),
    ("client limiter", five_per_second, {}, 100, 100),
    ("a bucket of a minute", retries(2), {"quantum": 60}, 100, 100),
]


@pytest.mark.parametrize(("name", "policy", "limits", "ok", "attempts"), HERD, ids=[row[0] for row in HERD])
def test_Provider_herd(name: str, policy: Policy, limits: dict[str, Any], ok: float, attempts: int) -> None:
    """The published table of the thundering herd: successes within 3 of 100, attempts within 2 %."""
    found = [herd(policy, seed=seed, **limits) for seed in (1, 2)]
    assert sum(succeeded for succeeded, _ in found) / 2 == pytest.approx(ok, abs=3)
    assert sum(made for _, made in found) / 2 == pytest.approx(attempts, rel=0.02)


# Latency.


def test_Provider_thousand_agents_give_the_same_digest_everywhere() -> None:
    """A thousand agents of about five seconds each: the same figures on every run and every Python."""
    provider = Provider("open", seed=7, latency=replace(Latency.preset("large"), slowdown=0))

    async def main() -> list[tuple[int, float, int]]:
        client, loop, rows = provider.client(), asyncio.get_running_loop(), []

        async def agent(i: int) -> None:
            answer = await ask(client, f"document {i}", max_tokens=300)
            rows.append((i, round(loop.time(), 6), answer.usage.completion_tokens))

        await asyncio.gather(*map(agent, range(1000)))
        return rows

    rows = simulate(main)
    assert simulate(main) == rows
    assert 4 < sum(row[1] for row in rows) / 1000 < 8
    assert hashlib.sha256(repr(rows).encode()).hexdigest()[:12] == "0f84c6e4d473"


def test_Provider_same_request_same_latency_in_any_order() -> None:
    """Shuffled, alone or streamed: a request takes what it takes; a repeat of it is a new draw."""
    provider = Provider("open", seed=3, latency=replace(Latency.preset("small"), slowdown=0))

    async def main(order: list[int]) -> dict[int, float]:
        client, loop, took = provider.client(), asyncio.get_running_loop(), {}
        for i in order:
            began = loop.time()
            await ask(client, f"document {i}")
            took[i] = round(loop.time() - began, 9)
        began = loop.time()
        await ask(client, "document 0")
        took[-1] = round(loop.time() - began, 9)
        return took

    forwards, backwards = simulate(main, [0, 1, 2, 3]), simulate(main, [3, 1, 0, 2])
    assert forwards == backwards
    assert len(set(forwards.values())) == 5


def test_Provider_slowdown_can_be_recovered_by_regression() -> None:
    """Time per token against requests in flight: the slope of a fitted line is the `slowdown` that was set."""
    latency = Latency(base=0.1, speed=100, mean_output=200, slowdown=0.013)
    provider = Provider("open", latency=latency)

    async def main() -> None:
        client = provider.client()

        async def agent(i: int) -> None:
            await asyncio.sleep(i * 0.05)
            await ask(client, f"{i}")

        await asyncio.gather(*map(agent, range(300)))

    simulate(main)
    points = [(c.in_flight, (c.finished - c.started - 0.1) / c.output_tokens) for c in provider.log if c.finished]
    n, mean_x, mean_y = len(points), *(sum(values) / len(points) for values in zip(*points, strict=True))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    assert n == 300
    assert max(x for x, _ in points) > 20
    assert slope / (mean_y - slope * (mean_x - 1)) == pytest.approx(0.013, rel=1e-3)


def test_Provider_obeys_littles_law() -> None:
    """Mean in flight, sampled from `statistics()`, is arrival rate times mean time in the system, within 2 %."""
    provider = Provider("open", seed=2)

    async def main() -> tuple[float, float]:
        client, loop, rng, samples = provider.client(), asyncio.get_running_loop(), random.Random(1), []

        async def sample() -> None:
            while True:
                samples.append(provider.statistics().in_flight)
                await asyncio.sleep(0.05)

        watching, calls = asyncio.create_task(sample()), []
        for i in range(800):
            await asyncio.sleep(rng.expovariate(4))
            calls.append(asyncio.create_task(ask(client, f"{i}")))
        await asyncio.gather(*calls)
        watching.cancel()
        took = [call.finished - call.arrived for call in provider.log if call.finished is not None]
        return sum(samples) / len(samples), len(took) / loop.time() * sum(took) / len(took)

    measured, predicted = simulate(main)
    assert measured == pytest.approx(predicted, rel=0.02)


def test_Provider_slots_queue_and_503() -> None:
    """Two slots and two places in line: of six at once, two work, two wait, two get a 503."""
    provider = Provider("open", latency=Latency(base=1, speed=None, slots=2, max_queue=2))

    async def main() -> tuple[Any, ...]:
        client = provider.client()
        calls = [asyncio.create_task(ask(client, f"{i}")) for i in range(6)]
        await asyncio.sleep(0.5)
        seen = provider.statistics()
        results = await asyncio.gather(*calls, return_exceptions=True)
        codes = [r.code for r in results if isinstance(r, openai.InternalServerError)]
        return seen.in_flight, seen.queue_depth, codes, asyncio.get_running_loop().time()

    assert simulate(main) == (2, 2, ["server_is_overloaded"] * 2, 2.0)
    assert provider.statistics().refused == {"overloaded": 2}


def test_Latency_trace_is_drawn_from() -> None:
    """Rows of measured times take the place of the arithmetic."""
    rows = [(2.0, 50), (8.0, 120)]
    provider = Provider("open", latency=Latency(trace=rows))

    async def main() -> None:
        client = provider.client()
        for i in range(20):
            await ask(client, f"{i}")

    simulate(main)
    seen = {(round(call.finished - call.arrived, 6), call.output_tokens) for call in provider.log if call.finished}
    assert seen == set(rows)


# Control while it runs, and the books.


def test_Provider_limits_can_be_changed_while_it_runs() -> None:
    """Used credit stays used: after 5 of 5, raising 300 to 600 a minute (bucket 10) leaves 5."""
    provider = Provider("lesson", latency=INSTANT)

    async def main() -> list[int]:
        client, accepted = provider.client(), []
        for limit in (300, 600, None, 60):
            provider.limits = replace(provider.limits, requests_per_minute=limit)
            await asyncio.gather(*(ask(client, f"{limit} {i}") for i in range(20)), return_exceptions=True)
            accepted.append(provider.statistics().accepted)
        return accepted

    assert simulate(main) == [5, 10, 30, 31]


def test_Provider_slots_can_be_changed_while_it_runs() -> None:
    """Raising the slots admits those who wait at once."""
    provider = Provider("open", latency=Latency(base=10, speed=None, slots=1))

    async def main() -> tuple[int, float]:
        client, loop = provider.client(), asyncio.get_running_loop()
        calls = [asyncio.create_task(ask(client, f"{i}")) for i in range(4)]
        await asyncio.sleep(1)
        provider.latency = replace(provider.latency, slots=None)
        await asyncio.sleep(1)
        in_flight = provider.statistics().in_flight
        await asyncio.gather(*calls)
        return in_flight, loop.time()

    assert simulate(main) == (4, 11.0)


@pytest.mark.parametrize(("kind", "name"), [("limits", "Limits"), ("latency", "Latency"), ("faults", "Faults")])
def test_Provider_settings_must_be_records(kind: str, name: str) -> None:
    """Assigning anything else is refused, by name, then and there."""
    provider = Provider()
    with pytest.raises(TypeError, match=f"{kind} must be a {name}, got 60"):
        setattr(provider, kind, 60)
    with pytest.raises(TypeError, match=f"{kind} must be a {name}, got 60"):
        Provider(**{kind: 60})  # type: ignore[arg-type]


def test_Provider_unknown_preset_is_named() -> None:
    """A preset that does not exist is an error that lists those that do."""
    with pytest.raises(ValueError, match=r"preset must be one of free, tier1, .* got 'tier9'"):
        Provider("tier9", limits=Limits())


def test_Provider_books_balance_at_every_instant() -> None:
    """Arrivals = accepted + refused, accepted = completed + abandoned + in flight + waiting."""
    latency = replace(Latency.preset("small"), slots=4, max_queue=8)
    faults = Faults(rates={"server_error": 0.1, "cut_stream": 0.1})
    provider = Provider("lesson", latency=latency, faults=faults)

    async def main() -> None:
        client, rng = provider.client(timeout=3), random.Random(1)

        async def check() -> None:
            while True:
                seen = provider.statistics()
                assert seen.arrivals == seen.accepted + sum(seen.refused.values()) == sum(seen.by_retry.values())
                assert seen.accepted == seen.completed + seen.abandoned + seen.in_flight + seen.queue_depth
                await asyncio.sleep(0.1)

        checking, calls = asyncio.create_task(check()), []
        for i in range(150):
            await asyncio.sleep(rng.expovariate(5))
            calls.append(asyncio.create_task(ask(client.with_options(max_retries=1), f"{i}")))
        await asyncio.gather(*calls, return_exceptions=True)
        assert not checking.done()
        checking.cancel()

    simulate(main)
    seen = provider.statistics()
    assert min(seen.completed, seen.abandoned, len(seen.refused), seen.by_retry[1]) > 0
    assert (seen.in_flight, seen.queue_depth) == (0, 0)


def test_Provider_new_clock_starts_over() -> None:
    """Each `simulate` meets full buckets, no repeats and an empty log, so a cell run again says the same."""
    provider = Provider("free")

    async def main() -> list[tuple[str, float | None]]:
        client = provider.client()
        await asyncio.gather(*(ask(client, "same") for _ in range(5)), return_exceptions=True)
        return [(call.outcome, call.finished) for call in provider.log]

    assert simulate(main) == simulate(main)
    assert len(provider.log) == 5


def test_Provider_log_is_bounded_and_a_frame() -> None:
    """The log keeps the latest calls; the frame has a column per field."""
    provider = Provider("open", latency=INSTANT, log_size=3)

    async def main() -> None:
        client = provider.client()
        for i in range(5):
            await ask(client, f"{i}")

    simulate(main)
    frame = provider.log.to_frame()
    assert list(frame["number"]) == [3, 4, 5]
    assert set(frame["outcome"]) == {"ok"}
    assert repr(provider.log) == "<CallLog of 3 calls>"


def test_Provider_subscribe_hears_of_every_end() -> None:
    """A listener is called once per call, whether it was answered or refused, until it leaves."""
    provider, heard = Provider("free", latency=INSTANT), []
    leave = provider.subscribe(lambda call: heard.append(call.outcome))

    async def main() -> None:
        client = provider.client()
        await asyncio.gather(*(ask(client, f"{i}") for i in range(4)), return_exceptions=True)
        leave()
        await asyncio.gather(ask(client), return_exceptions=True)

    simulate(main)
    assert sorted(heard) == ["ok", "ok", "ok", "rate_limit"]


def test_Provider_scripted_answer_and_its_failure() -> None:
    """`answer=` decides what is said; if it raises, the client learns what was raised."""
    provider = Provider(
        "open", latency=INSTANT, answer=lambda request: f"{request.model}: {1 / len(request.prompt):.1f}"
    )

    async def main() -> tuple[str, str]:
        client = provider.client()
        said = await ask(client, "four")
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(client, "")
        return said.choices[0].message.content, caught.value.message

    said, error = simulate(main)
    assert said == "small: 0.2"
    assert "The answer function raised ZeroDivisionError" in error
