"""What goes over the wire: shapes, errors, streams and damages, as the real client meets them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest

from agentkit.lab.data import documents
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.answers import pick_label
from agentkit.lab.provider.errors import ERRORS
from agentkit.lab.provider.faults import Fault, Faults
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.provider import Provider
from agentkit.lab.provider.transport import InProcessTransport

INSTANT = Latency.preset("instant")
TEXT = "The cat sat on the mat."


def chat(text: str = TEXT, **more: Any) -> dict[str, Any]:
    """A request that asks for an echo of `text`."""
    return {"model": "small", "messages": [{"role": "user", "content": text}], **more}


def post(body: bytes, *, path: str = "/v1/chat/completions", key: str = "Bearer k", method: str = "POST") -> Any:
    """Send bytes, get status and decoded body."""

    async def main() -> tuple[int, Any]:
        transport = InProcessTransport(Provider("open", latency=INSTANT).app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://in-process") as client:
            answer = await client.request(method, path, content=body, headers={"authorization": key} if key else {})
            return answer.status_code, answer.json()

    return simulate(main)


GOOD = json.dumps(chat()).encode()
BAD: dict[str, tuple[bytes, int, str | None, str]] = {
    "empty body": (b"", 400, None, "invalid_json"),
    "half of a JSON text": (GOOD[:-5], 400, None, "invalid_json"),
    "not UTF-8": (GOOD.replace(b"cat", b"\xff\xfe"), 400, None, "invalid_json"),
    "nested beyond measure": (b"[" * 100_000, 400, None, "invalid_json"),
    "a list": (b"[]", 400, "body", "invalid_type"),
    "no model": (b'{"messages": []}', 400, "model", "missing_required_parameter"),
    "model is a number": (b'{"model": 4}', 400, "model", "invalid_type"),
    "unknown model": (json.dumps(chat() | {"model": "x" * 9999}).encode(), 404, None, "model_not_found"),
    "no messages": (b'{"model": "small"}', 400, "messages", "missing_required_parameter"),
    "messages is a string": (b'{"model": "small", "messages": "hi"}', 400, "messages", "invalid_type"),
    "a message is a string": (b'{"model": "small", "messages": ["hi"]}', 400, "messages[0]", "invalid_type"),
    "unknown role": (b'{"model": "small", "messages": [{"role": []}]}', 400, "messages[0].role", "invalid_value"),
    "content is a number": (
        json.dumps({"model": "small", "messages": [{"role": "user", "content": 1.5}]}).encode(),
        400, "messages[0].content", "invalid_type",
    ),
    "negative max_tokens": (json.dumps(chat(max_tokens=-5)).encode(), 400, "max_tokens", "integer_below_min_value"),
    "zero max_completion_tokens": (
        json.dumps(chat(max_completion_tokens=0)).encode(), 400, "max_completion_tokens", "integer_below_min_value",
    ),
    "huge max_tokens": (
        json.dumps(chat(max_tokens=10**300)).encode(), 400, "max_tokens", "integer_above_max_value",
    ),
    "max_tokens is a boolean": (json.dumps(chat(max_tokens=True)).encode(), 400, "max_tokens", "invalid_type"),
    "max_tokens is NaN": (b'{"model": "small", "max_tokens": NaN, ' + GOOD[1:], 400, "max_tokens", "invalid_type"),
    "stream is a string": (json.dumps(chat(stream="yes")).encode(), 400, "stream", "invalid_type"),
    "stop is a number": (json.dumps(chat(stop=3)).encode(), 400, "stop", "invalid_type"),
    "n is zero": (json.dumps(chat(n=0)).encode(), 400, "n", "integer_below_min_value"),
    "beyond the context": (json.dumps(chat("x" * 600_000)).encode(), 400, "messages", "context_length_exceeded"),
    "10 MB": (json.dumps(chat("x" * 10**7)).encode(), 413, None, "request_too_large"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_Provider_bad_request_gets_the_apis_own_error(name: str) -> None:
    """Each mistake gets an error with message, type, param and code, and never a 500."""
    body, status, param, code = BAD[name]
    found, answer = post(body)
    assert found == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert (answer["error"]["type"], answer["error"]["param"], answer["error"]["code"]) == (
        "invalid_request_error", param, code,
    )  # fmt: skip
    assert 0 < len(answer["error"]["message"]) < 300


@pytest.mark.parametrize(
    ("key", "message"),
    [("", "didn't provide"), ("Bearer ", "didn't provide"), ("Bearer bad-key-9876", "bad********9876")],
)
def test_Provider_key_missing_or_bad(key: str, message: str) -> None:
    """No key, an empty one and one that begins with "bad" are a 401; the key is masked."""
    status, answer = post(GOOD, key=key)
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert message in answer["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/nothing", 404, "unknown_url"),
        ("POST", "/", 404, "unknown_url"),
        ("GET", "/v1/models/nothing", 404, "model_not_found"),
    ],
)
def test_Provider_wrong_path_or_method(method: str, path: str, status: int, code: str) -> None:
    """Other paths and methods are told so in the same shape."""
    found, answer = post(b"", path=path, method=method)
    assert (found, answer["error"]["code"]) == (status, code)


def test_Provider_accepts_what_it_need_not_understand() -> None:
    """Unknown fields, content in parts, null caps and lone surrogates are no mistakes."""
    parts = [{"type": "text", "text": "a\ud800b"}, {"type": "image_url"}, "odd"]
    body = chat() | {"messages": [{"role": "user", "content": parts}], "tools": [{}], "max_tokens": None, "top_p": 0.1}
    status, answer = post(json.dumps(body).encode())
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "a\ud800b")


def run(call: Any, *, provider: Provider | None = None, **client: Any) -> Any:
    """Run `call(client)` in virtual time against an instant provider."""
    provider = provider or Provider("open", latency=INSTANT)
    return simulate(lambda: call(provider.client(**client)))


def test_Provider_chat_completion_shape() -> None:
    """The typed client finds every field where it expects it, n answers, and the cap obeyed."""
    answer = run(lambda c: c.chat.completions.create(**chat(n=2, max_tokens=3)))
    assert [choice.message.content for choice in answer.choices] == ["The cat sat "] * 2
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 2
    assert (answer.object, answer.model, answer.id[:9]) == ("chat.completion", "small", "chatcmpl-")
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (6, 6, 12)


def test_Provider_stop_text_ends_the_answer() -> None:
    """The text ends before the first stop text, which is not an end by length."""
    choice = run(lambda c: c.chat.completions.create(**chat(stop=["mat", "sat"]))).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("The cat ", "stop")


def test_Provider_headers_and_models() -> None:
    """A request id, the processing time, and a list of models."""

    async def main(client: openai.AsyncOpenAI) -> tuple[Any, ...]:
        raw = await client.chat.completions.with_raw_response.create(**chat())
        models = [model.id async for model in client.models.list()]
        return raw.headers, raw.parse()._request_id, models, (await client.models.retrieve("large")).id

    headers, request_id, models, one = run(main, provider=Provider("open", latency=Latency(base=1.5, speed=None)))
    assert (headers["x-request-id"], request_id, headers["openai-processing-ms"]) == ("req_00000001",) * 2 + ("1500",)
    assert "small" in models
    assert one == "large"


async def collect(client: openai.AsyncOpenAI, **more: Any) -> list[tuple[float, Any]]:
    """The chunks of a stream and when they came."""
    loop, began, chunks = asyncio.get_running_loop(), asyncio.get_running_loop().time(), []
    async with await client.chat.completions.create(**chat(stream=True, **more)) as stream:
        async for chunk in stream:
            chunks.append((round(loop.time() - began, 6), chunk))
    return chunks


def test_Provider_chat_stream_arrives_piece_by_piece() -> None:
    """A role, the pieces evenly spaced, a finish reason, and the usage if asked for."""
    provider = Provider("open", latency=Latency(base=1, speed=10, mean_output=0))
    chunks = run(lambda c: collect(c, stream_options={"include_usage": True}), provider=provider)
    assert [when for when, _ in chunks] == [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.6, 1.6]
    assert "".join(c.choices[0].delta.content or "" for _, c in chunks if c.choices) == TEXT
    assert chunks[0][1].choices[0].delta.role == "assistant"
    assert chunks[-2][1].choices[0].finish_reason == "stop"
    assert [c.usage for _, c in chunks[:-1]] == [None] * 8
    assert (chunks[-1][1].choices, chunks[-1][1].usage.total_tokens) == ([], 12)
    assert len({c.id for _, c in chunks}) == 1


def test_Provider_obfuscation_pads_and_can_be_turned_off() -> None:
    """Padding evens out the size of the packets; without it their size gives the text's away."""

    def sizes(**options: Any) -> set[int]:
        chunks = run(lambda c: collect(c, stream_options=options))
        return {len(c.choices[0].delta.content) + len(getattr(c, "obfuscation", "") or "") for _, c in chunks[1:-1]}

    assert sizes() == {12}
    assert sizes(include_obfuscation=False) == {3, 4}


def test_Provider_responses_whole_and_streamed() -> None:
    """The Responses API: text, usage in its own words, a cap that makes it incomplete, and the stream helper."""

    async def main(client: openai.AsyncOpenAI) -> tuple[Any, ...]:
        whole = await client.responses.create(model="small", input=TEXT, instructions="Echo.")
        short = await client.responses.create(
            model="small",
            input=[{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}],
            max_output_tokens=3,
        )
        events = []
        async with client.responses.stream(model="small", input=TEXT) as stream:
            async for event in stream:
                events.append(event.type)
            final = await stream.get_final_response()
        return whole, short, events, final

    whole, short, events, final = run(main)
    assert (whole.output_text, whole.status) == (final.output_text, final.status) == (TEXT, "completed")
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (8, 6)
    assert (short.output_text, short.status) == ("The cat sat ", "incomplete")
    assert short.incomplete_details.reason == "max_output_tokens"
    assert list(dict.fromkeys(events)) == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip


def test_Provider_stored_responses_are_refused() -> None:
    """Nothing is stored, so a previous response cannot be referred to."""
    with pytest.raises(openai.BadRequestError, match="send the whole conversation"):
        run(lambda c: c.responses.create(model="small", input="x", previous_response_id="resp_1"))


CLASSES = {
    400: openai.BadRequestError, 401: openai.AuthenticationError, 403: openai.PermissionDeniedError,
    404: openai.NotFoundError, 408: openai.APIStatusError, 409: openai.ConflictError,
    422: openai.UnprocessableEntityError, 429: openai.RateLimitError, 500: openai.InternalServerError,
    503: openai.InternalServerError, 529: openai.InternalServerError,
}  # fmt: skip
RETRIED = (408, 409, 429, 500, 503, 529)


@pytest.mark.parametrize("name", ERRORS)
def test_Provider_every_error_as_the_client_sees_it(name: str) -> None:
    """Class by status, type and code from the body, and retried or not as the client always does."""
    status, kind, code, _ = ERRORS[name]
    provider = Provider("open", latency=INSTANT, faults=Faults(rates={name: 1}))
    with pytest.raises(openai.APIStatusError) as caught:
        run(lambda c: c.chat.completions.create(**chat()), provider=provider, max_retries=2)
    error = caught.value
    assert type(error) is CLASSES[status]
    assert (error.status_code, error.type, error.code) == (status, kind, code)
    assert error.request_id == f"req_{provider.statistics().arrivals:08d}"
    assert provider.statistics().by_retry == ({0: 1, 1: 1, 2: 1} if status in RETRIED else {0: 1})
    assert provider.statistics().refused == {name: provider.statistics().arrivals}


HINTS: list[tuple[Fault, list[tuple[float, float]]]] = [
    (Fault("slow_down", headers={"retry-after": "0", "retry-after-ms": ""}), [(0.375, 0.5), (0.75, 1.0)]),
    (Fault("rate_limit", headers={"retry-after": "2", "retry-after-ms": ""}), [(2, 2), (2, 2)]),
    (Fault("rate_limit", headers={"retry-after": "2", "retry-after-ms": "300"}), [(0.3, 0.3), (0.3, 0.3)]),
    (Fault("rate_limit", headers={"retry-after": "121", "retry-after-ms": ""}), []),
    (Fault("rate_limit", headers={"x-should-retry": "false"}), []),
    (Fault("bad_request", headers={"x-should-retry": "true"}), [(0.375, 0.5), (0.75, 1.0)]),
    (Fault("insufficient_quota"), [(0.375, 0.5), (0.75, 1.0)]),
]


@pytest.mark.parametrize(("fault", "gaps"), HINTS)
def test_Provider_client_waits_as_measured(fault: Fault, gaps: list[tuple[float, float]]) -> None:
    """Attempts and pauses of the client's own two retries, for each kind of hint."""
    provider = Provider("open", latency=INSTANT, faults=Faults(rates={fault: 1}))
    with pytest.raises(openai.APIStatusError):
        run(lambda c: c.chat.completions.create(**chat()), provider=provider, max_retries=2)
    times = [call.arrived for call in provider.log]
    assert len(times) == len(gaps) + 1
    for earlier, later, (least, most) in zip(times, times[1:], gaps, strict=False):
        assert least - 1e-6 <= later - earlier <= most + 1e-6


def damaged(kind: str, *, stream: bool, seconds: float = 3600, **client: Any) -> tuple[Any, Provider]:
    """What the client gets of a damaged answer: its text, or the exception."""
    faults = Faults(script={1: Fault(kind, seconds=seconds)})
    provider = Provider("open", latency=Latency(base=1, speed=10, mean_output=0), faults=faults)

    async def main() -> Any:
        try:
            if stream:
                return [chunk for _, chunk in await collect(provider.client(**client))]
            return await provider.client(**client).chat.completions.create(**chat())
        except Exception as error:
            return error

    return simulate(main), provider


def test_Provider_cut_before_and_in_mid_answer() -> None:
    """A cut connection is an APIConnectionError; before the first byte it is retried, in mid-stream it is not."""
    for kind, stream, arrivals in (("cut", False, 2), ("cut", True, 2), ("cut_stream", True, 1)):
        result, provider = damaged(kind, stream=stream, max_retries=1)
        assert provider.statistics().arrivals == arrivals
        assert isinstance(result, openai.APIConnectionError) == (kind == "cut_stream")
        assert provider.log[0].outcome == kind
        assert provider.log[0].status == (0 if kind == "cut" else 200)
    result, _ = damaged("cut_stream", stream=False)
    assert isinstance(result, openai.APIConnectionError)


def test_Provider_stall_and_slow_start_meet_the_timeout() -> None:
    """A silence longer than the client's timeout is an APITimeoutError, and the provider stops working on it."""
    for kind in ("stall", "slow_start"):
        for stream in (True, False):
            result, provider = damaged(kind, stream=stream, timeout=5)
            assert isinstance(result, openai.APITimeoutError)
            seen = provider.statistics()
            assert (seen.in_flight, seen.abandoned) == (0, 1)
            assert provider.log[0].outcome == "abandoned"
            assert provider.log[0].finished == pytest.approx(5 if kind == "slow_start" or not stream else 6.3, abs=1.7)


def test_Provider_short_stall_is_only_a_pause() -> None:
    """A pause shorter than the timeout delays the rest and loses nothing."""
    result, provider = damaged("stall", stream=True, seconds=3)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in result) == TEXT
    assert provider.log[0].finished == pytest.approx(4.6)


def test_Provider_stream_error_in_the_middle() -> None:
    """An error event in mid-stream is an APIError without a status, after one attempt."""
    result, provider = damaged("stream_error", stream=True, max_retries=2)
    assert type(result) is openai.APIError
    assert provider.statistics().arrivals == 1


def test_Provider_missing_done_goes_unnoticed() -> None:
    """A stream without its last line looks complete to the client."""
    result, _ = damaged("no_done", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in result) == TEXT


def test_Provider_missing_usage_is_none() -> None:
    """The client accepts an answer that does not say what it cost."""
    result, _ = damaged("no_usage", stream=False)
    assert result.usage is None
    assert result.choices[0].message.content == TEXT


def test_Provider_malformed_json_and_wrong_content_type() -> None:
    """Half of a JSON text fails to parse; a gateway's HTML page is handed over as a bare string."""
    for stream in (False, True):
        assert isinstance(damaged("malformed_json", stream=stream)[0], ValueError | openai.APIError)
    result, _ = damaged("wrong_content_type", stream=False)
    assert isinstance(result, str)
    assert result.startswith("<html>")
    assert damaged("wrong_content_type", stream=True)[0] == []


def test_Faults_script_and_rates() -> None:
    """The third call fails by script; by rate, about as many as asked, and the same ones every time."""
    provider = Provider("open", latency=INSTANT, faults=Faults(script={3: "overloaded"}))

    async def main(n: int) -> list[int]:
        client = provider.client()
        for i in range(n):
            await asyncio.gather(client.chat.completions.create(**chat(f"{i}")), return_exceptions=True)
        return [call.number for call in provider.log if call.status != 200]

    assert simulate(main, 5) == [3]
    provider.faults = Faults(rates={"server_error": 0.1, "overloaded": 0.1})
    failed = simulate(main, 400)
    assert 60 < len(failed) < 100
    assert simulate(main, 400) == failed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fault("nonsense"), "kind must be one of bad_request, .* got 'nonsense'"),
        (lambda: Faults(rates={"cut": 0.6, "stall": 0.6}), "rates must be probabilities that add up to 1"),
        (lambda: Faults(script={0: "cut"}), "script must be 1 or more, got 0; its keys are calls"),
        (lambda: Latency(hiccup=2), "hiccup must be from 0 to 1, got 2"),
        (lambda: Latency(slots=0), "slots must be 1 or more, got 0"),
    ],
)
def test_Faults_bad_settings_are_named(make: Any, message: str) -> None:
    """An error names the parameter, the rule and the value."""
    with pytest.raises(ValueError, match=message):
        make()


def test_answers_are_useful_to_teach_with() -> None:
    """Labels are right for most documents, summaries are first sentences, the rest is an echo."""
    labels = sorted({document.label for document in documents()})
    right = [pick_label(document.text, labels) == document.label for document in documents()]
    assert 0.85 < sum(right) / len(right) < 1

    async def main(client: openai.AsyncOpenAI) -> list[str]:
        document = documents()[0]
        said = []
        for instructions, text in (
            (f"Classify the text. Answer with one of: {', '.join(labels)}.", document.text),
            ("Summarise the text in one sentence.", document.text),
            ("", f"Classify as {' or '.join(labels)}.\n\n{document.text}"),
            ("", "Good morning"),
        ):
            messages = [{"role": "system", "content": instructions}, {"role": "user", "content": text}]
            answer = await client.chat.completions.create(model="small", messages=messages)  # type: ignore[arg-type]
            said.append(answer.choices[0].message.content or "")
        return said

    label, summary, again, echo = run(main)
    assert label == again == documents()[0].label
    assert documents()[0].text.startswith(summary)
    assert summary.endswith(".")
    assert echo == "Good morning"
