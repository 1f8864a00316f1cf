"""Retries: how they multiply, what the openai client already does, and what it never tells you.

The real client of the openai package talks to a function in place of a network, on the virtual clock.
"""

import asyncio
import os
import random
from collections import Counter
from unittest.mock import patch

import httpx2
import openai
import pytest

from agentkit.lab import simulate
from agentkit.lab.claims import claim

model_call = asyncio.sleep  # to the program a model call is a wait: model_call(seconds, reply)

REPLY = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}]}


def now():
    """The running loop's clock, in virtual seconds."""
    return asyncio.get_running_loop().time()


def client(handler, **options):
    """The real client, with `handler(request)` in place of the network."""
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
    return openai.AsyncOpenAI(api_key="none", base_url="http://provider.test/v1", http_client=http, **options)


async def ask(api):
    """One chat completion; gives back the error it ended with, or None."""
    try:
        await api.chat.completions.create(model="m", messages=[{"role": "user", "content": "q"}])
    except openai.OpenAIError as error:
        return error


def requests_for(status, *, calls=1, headers=None, code=None, **options):
    """Count the requests that `calls` calls make to a provider that always answers with `status`."""
    seen = []

    async def provider(request):
        seen.append(request)
        return httpx2.Response(status, headers=headers, json={"error": {"message": "no", "code": code}})

    async def main():
        async with client(provider, **options) as api:
            for _ in range(calls):
                await ask(api)

    simulate(main)
    return len(seen)


@claim("retry-layers")
def test_retries_multiply_through_layers():
    """Three tries in each of 1, 2, 3 and 4 layers around a failing call: 3, 9, 27 and 81 requests."""
    requests = 0

    async def provider():
        nonlocal requests
        requests += 1
        raise ConnectionError

    def retrying(call):
        async def three_times():
            for _ in range(2):
                try:
                    return await call()
                except ConnectionError:
                    pass
            return await call()  # the third, whose error is the caller's

        return three_times

    counts, call = [], provider
    for _ in range(4):
        call, requests = retrying(call), 0
        with pytest.raises(ConnectionError):
            simulate(call)
        counts.append(requests)
    assert counts == [3, 9, 27, 81]


@claim("sdk-retries")
def test_openai_client_already_makes_three_requests():
    """One failing call: 3 requests by default; 9 inside a loop of three tries, 3 there with max_retries=0."""
    assert requests_for(429) == 3
    assert requests_for(429, calls=3) == 9
    assert requests_for(429, calls=3, max_retries=0) == 3


@claim("sdk-what")
def test_openai_client_retries_by_status():
    """408, 409, 429 and every 5xx are tried 3 times; 400, 401, 404 and 422 once."""
    assert {status: requests_for(status) for status in (408, 409, 429, 500, 503)} == dict.fromkeys(
        (408, 409, 429, 500, 503), 3
    )
    assert {status: requests_for(status) for status in (400, 401, 404, 422)} == dict.fromkeys((400, 401, 404, 422), 1)


@claim("sdk-quota")
def test_openai_client_retries_what_cannot_succeed():
    """An exhausted quota is a 429 as well: 3 requests, and no wait will help."""
    assert requests_for(429, code="insufficient_quota") == 3


@claim("sdk-retry-after")
def test_openai_client_waits_as_long_as_it_is_told():
    """Retry-After: 7 is obeyed: requests at 0, 7 and 14 s, instead of its own half second."""
    times = []

    async def provider(request):
        times.append(now())
        return httpx2.Response(429, headers={"retry-after": "7"}, json={})

    async def main():
        async with client(provider) as api:
            await ask(api)

    simulate(main)
    assert times == [0, 7, 14]


@claim("sdk-retry-after-long")
def test_openai_client_gives_up_when_told_to_wait_long():
    """Retry-After of 120 s is waited out (3 requests); one of 121 s ends the call at once (1 request)."""
    assert requests_for(429, headers={"retry-after": "120"}) == 3
    assert requests_for(429, headers={"retry-after": "121"}) == 1


@claim("sdk-jitter")
def test_openai_client_barely_spreads_its_retries():
    """100 clients refused at once: all of the second requests come within an eighth of a second."""
    times = []

    async def provider(request):
        times.append(now())
        return httpx2.Response(429, json={})

    async def main():
        async with client(provider, max_retries=1) as api:
            await asyncio.gather(*(ask(api) for _ in range(100)))

    simulate(main)
    assert times[:100] == [0] * 100
    assert 0.375 <= min(times[100:]) <= max(times) <= 0.5


@claim("sdk-timeout-per-attempt")
def test_openai_client_timeout_is_per_attempt():
    """timeout=5 and a provider that never answers: three attempts, over 15 s until the error."""

    async def provider(request):
        patience = request.extensions["timeout"]["read"]
        await asyncio.sleep(patience)
        raise httpx2.ReadTimeout("nothing came", request=request)

    async def main():
        async with client(provider, timeout=5) as api:
            return await ask(api), now()

    error, seconds = simulate(main)
    assert isinstance(error, openai.APITimeoutError)
    assert 15 < seconds < 17


@claim("sdk-timeout-default")
def test_openai_client_waits_ten_minutes_by_default():
    """The default read timeout is 600 s, and there are three attempts: one call may take half an hour."""
    assert openai.DEFAULT_TIMEOUT.read == 600
    assert openai.DEFAULT_MAX_RETRIES == 2


@claim("sdk-timeout-bills")
def test_hanging_up_does_not_stop_the_provider():
    """Three calls given up after 5 s: no answer received, three generated, no request with an idempotency key."""
    requests, generated = [], []

    async def generate():
        generated.append(await model_call(8, "answer"))

    async def provider(request):
        requests.append(request)
        await asyncio.shield(asyncio.create_task(generate()))
        return httpx2.Response(200, json=REPLY)

    async def main():
        async with client(provider) as api:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(ask(api), 5)
            await asyncio.sleep(60)

    simulate(main)
    assert (len(requests), len(generated)) == (3, 3)
    assert not any("idempotency" in name.lower() for request in requests for name in request.headers)


@claim("sdk-no-limit")
def test_openai_client_does_not_limit_concurrency():
    """60 calls in one gather: 60 at the provider at once; the connection pool would allow 1000."""
    inside = most = 0

    async def provider(request):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await model_call(1)
        inside -= 1
        return httpx2.Response(200, json=REPLY)

    async def main():
        async with client(provider) as api:
            return await asyncio.gather(*(ask(api) for _ in range(60)))

    assert simulate(main) == [None] * 60
    assert most == 60
    assert openai.DEFAULT_CONNECTION_LIMITS.max_connections == 1000


@claim("sdk-needs-key")
def test_agent_that_builds_its_own_client_needs_a_key_to_be_tested():
    """Without a key in the environment the constructor raises; a client handed in needs none."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    with patch.dict(os.environ, clean, clear=True), pytest.raises(openai.OpenAIError):
        openai.AsyncOpenAI()


@claim("retry-runs-twice")
def test_retry_after_a_timeout_runs_the_tool_twice():
    """A booking takes 8 s, the timeout is 5 s, one retry: two bookings, and two errors."""

    async def main():
        bookings, errors = [], 0

        async def book():
            bookings.append("seat")  # done at once; only the confirmation is slow
            await model_call(8)

        for _ in range(2):
            try:
                await asyncio.wait_for(book(), 5)
            except TimeoutError:
                errors += 1
        return len(bookings), errors

    assert simulate(main) == (2, 2)


@claim("backoff-in-slot")
def test_backing_off_inside_the_semaphore_idles_the_others():
    """20 agents of 1 s, limit 2, 5 of them told to wait 10 s: in the slot 40 s, outside it 20 s."""

    async def main(inside):
        semaphore = asyncio.Semaphore(2)

        async def agent(number):
            refused = number % 4 == 0
            async with semaphore:
                await model_call(1)
                if refused and inside:
                    await asyncio.sleep(10)
                    await model_call(1)
            if refused and not inside:
                await asyncio.sleep(10)
                async with semaphore:
                    await model_call(1)

        await asyncio.gather(*map(agent, range(20)))
        return now()

    assert simulate(main, True) > 1.5 * simulate(main, False)


@claim("jitter")
def test_backoff_without_jitter_keeps_the_herd_together():
    """100 clients, 10 served a second: plain doubling needs 4 minutes, full jitter less than half a minute."""

    async def main(jitter):
        rng, hits = random.Random(1), Counter()

        async def agent():
            wait = 1
            while True:
                hits[int(now())] += 1
                if hits[int(now())] <= 10:
                    return
                await asyncio.sleep(rng.uniform(0, wait) if jitter else wait)
                wait = min(2 * wait, 64)

        await asyncio.gather(*(agent() for _ in range(100)))
        return now(), sum(hits.values())

    (plain_end, plain_requests), (jitter_end, jitter_requests) = simulate(main, False), simulate(main, True)
    assert plain_end > 240 > 30 > jitter_end
    assert plain_requests > jitter_requests


@claim("retry-cancel")
def test_retry_on_Exception_lets_a_cancellation_through():
    """A retry loop with `except Exception`, cancelled in its first try: one try, and it is over."""
    tries = []

    async def agent():
        for _ in range(3):
            try:
                tries.append(1)
                await model_call(9)
            except Exception:
                pass

    async def main():
        task = asyncio.create_task(agent())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert simulate(main)
    assert len(tries) == 1
