"""RetryPolicy: what is worth another try, how long to wait, and when to stop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.errors import ERRORS
from agentkit.lab.provider.faults import Fault, Faults
from agentkit.lab.provider.provider import Provider
from agentkit.limits import NeverFits, go_duration, retry_after
from agentkit.retry import RetryBudget, RetryPolicy
from agentkit.retry.failures import classify
from agentkit.semaphore import QueueFull


class ApiError(Exception):
    """As a client of any HTTP library raises it."""

    def __init__(self, status: int | None = None, code: str | None = None, message: str = "", **headers: str) -> None:
        super().__init__(message)
        if status is not None:
            self.status_code = status
        self.code = code
        self.response = SimpleNamespace(headers={name.replace("_", "-"): value for name, value in headers.items()})


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


# -- classification ---------------------------------------------------------------------------------------------------

TOO_LARGE = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 31538."
WAIT_A_BIT = "Rate limit reached on tokens per min (TPM): Limit 30000, Used 29937, Requested 385. Please try again."


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ApiError(429, "rate_limit_exceeded", WAIT_A_BIT), "rate_limited"),
        (ApiError(429, "slow_down"), "rate_limited"),
        (ApiError(429), "rate_limited"),
        (ApiError(None, "rate_limit_exceeded"), "rate_limited"),  # told in the middle of a stream
        (ApiError(408), "transient"),
        (ApiError(409, "conflict"), "transient"),
        (ApiError(500, "server_error"), "transient"),
        (ApiError(503, "server_is_overloaded"), "transient"),
        (ApiError(529), "transient"),
        (TimeoutError(), "transient"),
        (ConnectionResetError(), "transient"),
        (openai.APIConnectionError(request=None), "transient"),  # type: ignore[arg-type]
        (openai.APITimeoutError(request=None), "transient"),  # type: ignore[arg-type]
        (ApiError(429, "insufficient_quota"), "permanent"),
        (ApiError(429, "credit_balance_exhausted"), "permanent"),
        (ApiError(429, "project_spend_limit_exceeded"), "permanent"),
        (ApiError(429, "organization_usage_limit_exceeded"), "permanent"),
        (ApiError(429, "rate_limit_exceeded", TOO_LARGE), "permanent"),
        (ApiError(429, "rate_limit_exceeded", "Limit 30000, Requested 31538"), "permanent"),
        (ApiError(400, "context_length_exceeded"), "permanent"),
        (ApiError(413), "permanent"),
        (ApiError(401, "invalid_api_key"), "permanent"),
        (ApiError(404, "model_not_found"), "permanent"),
        (ApiError(422), "permanent"),
        (ApiError(429, x_should_retry="false"), "permanent"),
        (ApiError(400, x_should_retry="true"), "transient"),
        (ApiError(429, "insufficient_quota", x_should_retry="true"), "permanent"),
        (KeyError("label"), "permanent"),
        (QueueFull("full"), "permanent"),
        (NeverFits("too large"), "permanent"),
        (asyncio.CancelledError(), "permanent"),
        (KeyboardInterrupt(), "permanent"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__}-{vars(value).get('status_code')}",
)
def test_classify_tells_wait_from_stop(error: BaseException, kind: str) -> None:
    """By code first, then status, then type."""
    assert classify(error) == kind
    assert RetryPolicy().kind(error) == kind


def client_error(fault: str | Fault) -> Exception:
    """Return what the real client raises when the provider answers with that fault."""

    async def main() -> Exception:
        client = Provider("open", faults=Faults(script={1: fault})).client(timeout=5)
        try:
            await client.chat.completions.create(model="small", messages=[{"role": "user", "content": "?"}])
        except openai.APIError as error:
            return error
        raise AssertionError("no error")

    return simulate(main)


PERMANENT = {
    "bad_request",
    "invalid_api_key",
    "forbidden",
    "not_found",
    "unprocessable",
    "insufficient_quota",
    "too_large",
}
RATE_LIMITED = {"rate_limit", "rate_limit_tokens", "slow_down"}


@pytest.mark.parametrize("name", [*ERRORS, "cut", "stall"])
def test_classify_sorts_what_the_real_client_raises(name: str) -> None:
    """Each error of the embedded provider, a lost connection and a timeout, through the openai client."""
    expected = "permanent" if name in PERMANENT else "rate_limited" if name in RATE_LIMITED else "transient"
    assert classify(client_error(name)) == expected


def test_classify_by_status_alone_would_retry_what_never_succeeds() -> None:
    """Broken: going by the status, as the client itself does, an empty account is asked again and again."""

    def by_status(error: Any) -> bool:
        return error.status_code in (408, 409, 429) or error.status_code >= 500

    hopeless = [client_error("insufficient_quota"), client_error("too_large")]
    assert [by_status(error) for error in hopeless] == [True, True]
    assert [classify(error) for error in hopeless] == ["permanent", "permanent"]


def test_RetryPolicy_on_adds_types_or_a_predicate() -> None:
    """An application's own errors; a cancellation stays what it is, whatever the predicate says."""
    by_type, by_function = RetryPolicy(on=KeyError), RetryPolicy(on=lambda error: True)
    assert [by_type.kind(KeyError()), by_type.kind(ValueError()), by_function.kind(ValueError())] == [
        "transient", "permanent", "transient",
    ]  # fmt: skip
    assert by_function.kind(asyncio.CancelledError()) == "permanent"


# -- how long ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"retry-after": "2", "retry-after-ms": "300"}, 0.3),
        ({"retry-after": "2", "retry-after-ms": "1"}, 0.001),
        ({"retry-after": "Fri, 01 Aug 2025 12:00:30 GMT", "date": "Fri, 01 Aug 2025 12:00:00 GMT"}, 30.0),
        ({"retry-after": "Fri, 01 Aug 2025 12:00:30 GMT"}, None),  # long ago
        ({"retry-after": "0"}, None),
        ({"retry-after": "-1", "retry-after-ms": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_reads_every_form(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds, dates; what makes no sense says nothing."""
    assert retry_after(headers) == seconds
    assert retry_after(SimpleNamespace(response=SimpleNamespace(headers=headers))) == seconds


def test_go_duration_reads_what_the_provider_writes() -> None:
    """All the forms in which a time until full is sent."""
    said = ["12ms", "1s", "9.816s", "6m0s", "1h23m31s", "0s", "", "12", "1s then", None]
    assert [go_duration(text) for text in said] == [0.012, 1, 9.816, 360, 5011, 0, None, None, None, None]


@given(
    st.integers(1, 25), st.floats(0, 200), st.floats(0.01, 10), st.floats(0.01, 60),
    st.sampled_from(["full", "equal", "none"]), st.one_of(st.none(), st.floats(0.1, 100)), st.floats(0, 50),
    st.integers(),
)  # fmt: skip
def test_RetryPolicy_wait_stays_between_the_hint_and_the_hint_plus_the_backoff(
    attempt: int,
    hint: float,
    initial: float,
    most: float,
    jitter: str,
    deadline: float | None,
    waited: float,
    seed: int,
) -> None:
    """Never before the provider says, never more than the backoff after, never past the total time."""
    policy = RetryPolicy(wait_initial=initial, wait_max=most, jitter=jitter, deadline=deadline)
    error = ApiError(429, retry_after=str(hint))
    wait = policy.wait(error, attempt, waited, random.Random(seed))
    if attempt >= policy.rate_limit_attempts or hint > 120:
        assert wait is None
    elif wait is not None:
        assert hint <= wait <= hint + min(most, initial * 2 ** (attempt - 1)) + 1e-9
        assert deadline is None or waited + wait < deadline
    else:
        assert deadline is not None


def test_RetryPolicy_jitter_formulas() -> None:
    """None: exactly wait_initial·2^k up to wait_max; equal: at least half of it; full: down to nothing."""
    waits = {
        jitter: [
            RetryPolicy(9, wait_initial=1, wait_max=8, jitter=jitter).wait(TimeoutError(), n, 0, random.Random(7))
            for n in range(1, 6)
        ]
        for jitter in ("none", "equal", "full")
    }
    assert waits["none"] == [1, 2, 4, 8, 8]
    full = [ceiling * random.Random(7).random() for ceiling in waits["none"]]
    assert waits["full"] == full
    assert waits["equal"] == [pytest.approx(c / 2 + f / 2) for c, f in zip(waits["none"], full, strict=True)]


def test_RetryPolicy_counts_rate_limited_apart_from_transient() -> None:
    """Five attempts for transient errors, twenty where rate limited; with attempts=1 nothing is retried."""
    policy, rng = RetryPolicy(), random.Random(0)
    allowed = {kind: sum(policy.wait(error, n, 0, rng) is not None for n in range(1, 40))
               for kind, error in (("transient", TimeoutError()), ("rate_limited", ApiError(429)))}  # fmt: skip
    assert allowed == {"transient": 4, "rate_limited": 19}
    assert RetryPolicy(1).wait(ApiError(429), 1, 0, rng) is None


def test_RetryPolicy_holds_no_state_of_a_run() -> None:
    """Two runs of one policy with a seed draw the same waits and have budgets of their own."""
    policy = RetryPolicy(seed=0, budget=RetryBudget(transient=0, reserve=3))
    runs = [policy.begin(), policy.begin()]
    waits = [[run.next_wait(TimeoutError(), 1, 0.0, 0.0) for _ in range(4)] for run in runs]
    assert waits[0] == waits[1]
    assert waits[0][3] is None
    assert None not in waits[0][:3]


# -- one run ----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from(["start", "transient", "rate_limited"]), max_size=300), st.floats(0, 1), st.integers(0, 20)
)
def test_Retries_never_exceed_the_budget(events: list[str], share: float, reserve: int) -> None:
    """Retries after transient errors are at most the reserve and that share of the requests, whatever happens when."""
    retries = RetryPolicy(budget=RetryBudget(share, 2 * share, reserve)).begin()
    granted, requests = {"transient": 0, "rate_limited": 0}, 0
    for event in events:
        if event == "start":
            retries.start(0.0)
            requests += 1
        else:
            error = TimeoutError() if event == "transient" else ApiError(429)
            granted[event] += retries.next_wait(error, 1, 0.0, 0.0) is not None
        assert granted["transient"] <= reserve + share * requests + 1e-9
        assert granted["rate_limited"] <= reserve + 2 * share * requests + 1e-9
    assert retries.statistics().requests == requests


def test_Retries_budget_keeps_a_dead_provider_from_twice_the_load() -> None:
    """Broken: without a budget, 1,000 requests to a provider that is down become 5,000; with it, at most 1,200."""

    def attempts(policy: RetryPolicy) -> int:
        retries, made = policy.begin(), 0
        for request in range(1000):
            failures = 0
            while True:
                retries.start(float(request), retry=failures > 0)
                made, failures = made + 1, failures + 1
                if retries.next_wait(ApiError(503), failures, float(request), float(request)) is None:
                    break
        return made

    assert attempts(RetryPolicy(5, budget=None)) == 5000
    assert attempts(RetryPolicy(5, budget=0.1)) <= 1200


def test_Retries_one_hint_holds_back_everybody() -> None:
    """After one Retry-After nothing starts before its time; a longer one than two minutes stops, and holds nobody."""
    retries = RetryPolicy(jitter="none", wait_initial=1).begin()
    retries.start(10.0)
    assert retries.next_wait(ApiError(429, retry_after="4"), 1, 10.0, 11.0) == 5
    assert [retries.delay(at) for at in (11.0, 14.0, 15.0)] == [4, 1, 0]
    assert retries.next_wait(ApiError(429, retry_after="3600"), 1, 10.0, 16.0) is None
    assert retries.delay(16.0) == 0
    seen = retries.statistics()
    assert (seen.requests, seen.rate_limited, seen.given_up, seen.waited) == (1, 2, 1, 5)
    assert retries.delay(12.0) == 3


def test_Retries_a_hint_with_a_failure_that_stops_holds_nobody() -> None:
    """An empty account with a Retry-After is still an empty account."""
    retries = RetryPolicy().begin()
    assert retries.next_wait(ApiError(429, "insufficient_quota", retry_after="4"), 1, 0.0, 0.0) is None
    assert retries.delay(0.0) == 0
    assert repr(retries) == "<Retries: 0 requests, 0 retries, 1 given up>"


# -- alone: decorator and loop ----------------------------------------------------------------------------------------


def flaky(failures: int, error: Callable[[], BaseException]) -> Callable[[], Any]:
    """Return an async function that fails so many times, and then returns when it was called each time."""
    calls: list[float] = []

    async def call() -> list[float]:
        calls.append(now())
        if len(calls) <= failures:
            raise error()
        return calls

    return call


def test_RetryPolicy_decorates_an_async_function() -> None:
    """It keeps the name, passes arguments and the value, and waits as the formula says."""
    policy = RetryPolicy(wait_initial=1, jitter="none")
    call = flaky(3, TimeoutError)

    @policy
    async def ask(*args: int, **kwargs: int) -> tuple[Any, ...]:
        return args, kwargs, await call()

    assert simulate(ask, 1) == ((1,), {}, [0, 1, 3, 7])
    assert ask.__name__ == "ask"
    seen = policy.statistics()
    assert (seen.requests, seen.retries, seen.transient, seen.waited) == (1, 3, 3, 7)


def test_RetryPolicy_loops_over_attempts() -> None:
    """`async for attempt in policy: with attempt:` ends with the first success; `break` and `return` leave nothing."""

    async def main() -> tuple[Any, int, list[str]]:
        call = flaky(2, ConnectionResetError)
        async for attempt in RetryPolicy(wait_initial=1, jitter="none"):
            with attempt:
                result = await call()
        return result, attempt.number, [task.get_name() for task in asyncio.all_tasks()]

    result, number, tasks = simulate(main)
    assert (result, number, len(tasks)) == ([0, 1, 3], 3, 1)


def test_RetryPolicy_gives_up_with_the_original_error_and_a_note() -> None:
    """The last exception itself, with how many attempts were made in how long; a first failure has no note."""

    async def attempt(error: Callable[[], BaseException]) -> Any:
        return await RetryPolicy(3, wait_initial=1, jitter="none")(flaky(9, error))()

    with pytest.raises(ConnectionResetError) as found:
        simulate(attempt, ConnectionResetError)
    assert found.value.__notes__ == ["gave up after 3 attempts and 3 s"]
    with pytest.raises(KeyError) as found_key:
        simulate(attempt, KeyError)
    assert not hasattr(found_key.value, "__notes__")


def test_RetryPolicy_deadline_bounds_the_total_time() -> None:
    """It does not begin a wait that would outlast the time; a pause ordered meanwhile counts as well."""
    policy = RetryPolicy(50, wait_initial=1, jitter="none", deadline=10)

    async def main() -> float:
        with pytest.raises(TimeoutError):
            await policy(flaky(99, TimeoutError))()
        return now()

    assert simulate(main) == 7

    async def paused() -> float:
        block = aiter(policy)
        with await anext(block):
            raise TimeoutError
        block._retries.pause.hold(now() + 60, now())
        with pytest.raises(TimeoutError):
            await anext(block)
        return now()

    assert simulate(paused) == 60


def test_RetryPolicy_alone_shares_its_pause_among_all_calls() -> None:
    """Ten calls at once, one is told to wait 5 s: those that have not begun wait too, and do not come all at once."""
    policy, began = RetryPolicy(wait_initial=0.1), list[float]()

    @policy
    async def ask(number: int) -> None:
        began.append(now())
        if len(began) == 1:
            raise ApiError(429, retry_after="5")

    async def main() -> None:
        first = asyncio.create_task(ask(0))
        await asyncio.sleep(0.5)
        await asyncio.gather(first, *map(ask, range(1, 10)))

    simulate(main)
    assert len(began) == 11
    assert min(began[1:]) >= 5


@pytest.mark.parametrize("instant", [0.5, 1.5, 2.5])
def test_RetryPolicy_lets_cancellation_through(instant: float) -> None:
    """Cancelled in the call, while waiting, or in the second call: it ends at once and is never retried."""
    calls = list[float]()

    @RetryPolicy(wait_initial=1, jitter="none")
    async def ask() -> None:
        calls.append(now())
        await asyncio.sleep(1)
        raise TimeoutError

    async def main() -> float:
        task = asyncio.create_task(ask())
        await asyncio.sleep(instant)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return now()

    assert simulate(main) == instant
    assert len(calls) == (1 if instant < 2 else 2)


def test_RetryPolicy_repeats_itself_on_a_new_loop() -> None:
    """Each loop has budget, pause and random numbers of its own, so a cell that is run again gives the same times."""
    policy = RetryPolicy()
    runs = [simulate(policy(flaky(3, TimeoutError))) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0][1] not in (0, 0.5)


def test_RetryPolicy_herd_with_pause_and_ramp_loses_nobody() -> None:
    """A hundred agents at once against 5 a second: all succeed, where the client's own two retries save a few."""

    async def main(policy: RetryPolicy | None) -> tuple[int, int]:
        provider = Provider("lesson")
        client = provider.client(max_retries=0 if policy else 2)

        async def agent(number: int) -> None:
            await client.chat.completions.create(model="small", messages=[{"role": "user", "content": f"{number}"}])

        agents = map(policy(agent) if policy else agent, range(100))
        found = await asyncio.gather(*agents, return_exceptions=True)
        return sum(result is None for result in found), provider.statistics().arrivals

    succeeded, attempts = simulate(main, RetryPolicy())
    assert succeeded == 100
    assert attempts < 400
    assert simulate(main, None)[0] < 20


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"attempts": 0}, ValueError, "attempts must be 1 or more, got 0; use 1 for no retry"),
        ({"attempts": 2.5}, TypeError, "attempts must be a whole number"),
        ({"rate_limit_attempts": 0}, ValueError, "rate_limit_attempts must be 1 or more, got 0"),
        ({"wait_initial": 0}, ValueError, "wait_initial must be above 0, got 0"),
        ({"wait_max": -1}, ValueError, "wait_max must be above 0, got -1"),
        ({"deadline": 0}, ValueError, "deadline must be above 0, got 0"),
        ({"jitter": "some"}, ValueError, "jitter must be one of full, equal, none, got 'some'; use 'full'"),
        ({"budget": -0.1}, ValueError, "budget must be 0 or more, got -0.1; give a share"),
    ],
)
def test_RetryPolicy_names_what_is_wrong(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    """Parameter, rule, value, remedy."""
    with pytest.raises(error, match=says):
        RetryPolicy(**arguments)


def test_RetryPolicy_attempts_are_an_iterator() -> None:
    """Taken by hand, the iterator can be looped over, and its number read afterwards."""

    async def main() -> int:
        attempts = aiter(RetryPolicy(wait_initial=1))
        async for attempt in attempts:
            with attempt:
                if attempt.number < 3:
                    raise TimeoutError
        return attempts.number

    assert simulate(main) == 3


def test_RetryPolicy_decorates_only_async_functions() -> None:
    """A plain function cannot wait without blocking the loop."""
    with pytest.raises(TypeError, match="decorates async functions"):
        RetryPolicy()(len)  # type: ignore[arg-type]


def test_RetryPolicy_repr_is_its_formula() -> None:
    """All that can be set, as it is reckoned."""
    policy = RetryPolicy(4, wait_initial=0.2, wait_max=10, jitter="equal", deadline=60, budget=None)
    assert (
        repr(policy)
        == "<RetryPolicy: 4 attempts, 20 if rate limited; wait U(1/2, 1)·min(10, 0.2·2^k) s; deadline 60 s>"
    )
