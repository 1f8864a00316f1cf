"""ChatAgent over both APIs, whole and streamed: what comes back, what is heard on the way, and how an answer breaks."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from agentkit.agent import BrokenAnswer, ChatAgent, Reply
from agentkit.agent.chat import PerLoop
from agentkit.executor import ParallelAgentExecutor
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.faults import FAULTS, Fault, Faults
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.provider import Provider
from agentkit.report.outcome import Span
from agentkit.report.usage import Usage
from agentkit.retry import RetryPolicy
from agentkit.retry.failures import classify

APIS = ("chat", "responses")
WORDS = "one two three four five six seven eight"
PIECES = [WORDS[i : i + 4] for i in range(0, len(WORDS), 4)]  # a token is four characters here
HALF = "".join(PIECES[:5])
both = pytest.mark.parametrize("api", APIS)
every_way = pytest.mark.parametrize(("api", "stream"), [(api, stream) for api in APIS for stream in (False, True)])


def provider(**options: Any) -> Provider:
    """A provider without limits that always says the same eight words, with 1 s to the first."""
    return Provider("open", latency=Latency(base=1.0, speed=None, mean_output=0), answer=lambda _: WORDS, **options)


def ask(here: Provider, client: dict[str, Any] | None = None, **options: Any) -> Any:
    """The reply to one question asked on the virtual clock, or the error."""

    async def main() -> Any:
        try:
            return await ChatAgent("a", client=here.client(**(client or {})), **options).ask("Count.")
        except Exception as error:
            return error

    return simulate(main)


# -- whole and streamed replies -----------------------------------------------------------------------------------


@every_way
def test_ChatAgent_gives_the_same_reply_in_every_way(api: str, stream: bool):
    """Both APIs, whole or streamed, give one and the same reply: text, usage, model, reason and request id."""
    reply = ask(provider(), api=api, stream=stream)
    assert reply == Reply(WORDS, Usage(1, 2, 10), "small", "stop")
    assert reply.request_id == "req_00000001"


@every_way
def test_ChatAgent_instructions_reach_either_api(api: str, stream: bool):
    """Instructions and context are sent by either API, in their order."""
    here = Provider("open", answer=lambda request: f"{request.instructions}|{request.prompt}")

    async def main() -> str:
        agent = ChatAgent("a", "Be brief.", client=here.client(), api=api, stream=stream)
        return await agent.process("Now?", [{"role": "user", "content": "before"}])

    assert simulate(main) == "Be brief.|Now?"


@every_way
def test_ChatAgent_max_tokens_cuts_with_reason_length(api: str, stream: bool):
    """`max_tokens` goes to the field that the API has for it, and the reason is `length` in both."""
    reply = ask(provider(), api=api, stream=stream, max_tokens=3)
    assert (reply.text, reply.finish_reason) == ("one two thre", "length")
    assert reply.usage == Usage(1, 2, 3)


@every_way
def test_ChatAgent_an_answer_of_nothing(api: str, stream: bool):
    """A model that says nothing gives an empty text, not an error."""
    here = Provider("open", answer=lambda _: "")
    reply = ask(here, api=api, stream=stream)
    assert (reply.text, reply.finish_reason) == ("", "stop")


@every_way
def test_ChatAgent_without_usage(api: str, stream: bool):
    """An endpoint that does not say what it cost gives a whole reply without usage."""
    reply = ask(provider(faults=Faults(script={1: "no_usage"})), api=api, stream=stream)
    assert reply == Reply(WORDS, None, "small", "stop")


@both
def test_ChatAgent_stream_tells_each_piece(api: str):
    """A function given as `stream` hears each piece once, in order; together they are the reply."""
    heard: list[str] = []
    reply = ask(provider(), api=api, stream=heard.append)
    assert heard == PIECES
    assert "".join(heard) == reply.text


@both
def test_ChatAgent_stream_is_heard_while_it_arrives(api: str):
    """Pieces are told when they arrive, not at the end: after 1 s, one every tenth of a second."""
    here = Provider("open", latency=Latency(base=1.0, speed=10, mean_output=0), answer=lambda _: WORDS)

    async def main() -> tuple[list[float], float]:
        now, times = asyncio.get_running_loop().time, []
        await ChatAgent("a", client=here.client(), api=api, stream=lambda _: times.append(now())).ask("Count.")
        return times, now()

    times, ended = simulate(main)
    assert times == pytest.approx([1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0])
    assert ended == pytest.approx(2.0)


@both
def test_ChatAgent_stream_waits_for_an_async_listener(api: str):
    """A listener may be async; the stream goes on when it is done, so a slow one slows the reading."""
    heard: list[str] = []

    async def listen(text: str) -> None:
        await asyncio.sleep(1)
        heard.append(text)

    async def main() -> float:
        await ChatAgent("a", client=provider().client(), api=api, stream=listen).ask("Count.")
        return asyncio.get_running_loop().time()

    assert simulate(main) == pytest.approx(1 + len(PIECES))
    assert heard == PIECES


def test_ChatAgent_stream_of_one_call_counts_instead_of_the_agents():
    """`ask(stream=…)` listens to one call, and only to that; False asks for a whole answer."""
    heard: list[str] = []
    always: list[str] = []

    async def main() -> None:
        agent = ChatAgent("a", client=provider().client(), stream=always.append)
        await agent.ask("Count.", stream=heard.append)
        await agent.ask("Count.", stream=False)
        await agent("Count.")

    simulate(main)
    assert heard == always == PIECES


@both
def test_ChatAgent_stream_logs_the_wait_for_the_first_token(api: str):
    """A streamed call logs when its first text came, inside the span of the whole call."""
    here = Provider("open", latency=Latency(base=1.0, speed=10, mean_output=0), answer=lambda _: WORDS)

    async def main() -> tuple[Span, ...]:
        agent = ChatAgent("a", client=here.client(), api=api, stream=True)
        return (await ParallelAgentExecutor(1).execute(["Count."], agent)).individual_results[0].spans

    first, whole = simulate(main)
    assert (first.name, whole.name) == ("first token", "calling")
    assert first.started == whole.started == 0
    assert (first.finished, whole.finished) == pytest.approx((1.1, 2.0))


# -- answers that break -------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("cut_stream", openai.APIConnectionError),
        ("stall", openai.APITimeoutError),
        ("stream_error", openai.APIError),
        ("malformed_json", BrokenAnswer),
    ],
)
def test_ChatAgent_broken_stream_keeps_what_had_arrived(api: str, fault: str, error: type[Exception]):
    """A stream that breaks half-way raises; the text until there, which is paid for, is on the error."""
    heard: list[str] = []
    found = ask(provider(faults=Faults(script={1: fault})), {"timeout": 20}, api=api, stream=heard.append)
    assert isinstance(found, error)
    assert found.partial == Reply(HALF, None, found.partial.model, "cut")
    assert found.partial.request_id == "req_00000001"
    assert "".join(heard) == HALF


@both
def test_ChatAgent_stream_without_done_line(api: str):
    """What counts as the end is that the answer says so, not the line after it; a missing `[DONE]` loses nothing."""
    reply = ask(provider(faults=Faults(script={1: "no_done"})), api=api, stream=True)
    if api == "chat":
        assert reply == Reply(WORDS, Usage(1, 2, 10), "small", "stop")
    else:  # there the last event is the end, and without it the answer is not complete
        assert isinstance(reply, BrokenAnswer)
        assert reply.partial.text == WORDS


@every_way
@pytest.mark.parametrize("fault", ["malformed_json", "wrong_content_type"])
def test_ChatAgent_unreadable_answer_may_be_tried_again(api: str, stream: bool, fault: str):
    """Half a JSON or some gateway's page is an error of its own that says so, and a policy retries it."""
    here = provider(faults=Faults(script={1: fault}))

    async def main() -> Any:
        agent = ChatAgent("a", client=here.client(), api=api, stream=stream)
        return (
            await ParallelAgentExecutor(1, retry=RetryPolicy(attempts=2)).execute(["Count."], agent)
        ).individual_results[0]

    outcome = simulate(main)
    broken = outcome.attempts[0].error
    assert isinstance(broken, BrokenAnswer)
    assert classify(broken) == "transient"
    assert isinstance(broken.partial, Reply)
    assert outcome.result.text == WORDS


@every_way
def test_ChatAgent_connection_cut_before_any_answer(api: str, stream: bool):
    """Where nothing had arrived there is nothing to keep: the client's own error, as it is."""
    found = ask(provider(faults=Faults(script={1: "cut"})), api=api, stream=stream)
    assert isinstance(found, openai.APIConnectionError)
    assert not hasattr(found, "partial")


@pytest.mark.parametrize("fault", sorted(FAULTS))
@every_way
def test_ChatAgent_never_takes_a_damaged_answer_for_a_whole_one(api: str, stream: bool, fault: str):
    """Whatever goes wrong, either an error is raised or the reply is complete; a shortened reply never passes."""
    found = ask(provider(faults=Faults(script={1: Fault(fault, seconds=60)})), {"timeout": 20}, api=api, stream=stream)
    assert isinstance(found, Exception) or found.text == WORDS


@both
def test_ChatAgent_error_of_the_listener_ends_the_stream(api: str):
    """An error in the listener comes out as it is, and the provider stops its work."""
    here = Provider("open", latency=Latency(base=1.0, speed=10, mean_output=0), answer=lambda _: WORDS)

    def listen(text: str) -> None:
        raise KeyError(text)

    async def main() -> tuple[float, int]:
        with pytest.raises(KeyError, match="one"):
            await ChatAgent("a", client=here.client(), api=api, stream=listen).ask("Count.")
        await asyncio.sleep(0)
        return asyncio.get_running_loop().time(), here.statistics().in_flight

    seconds, in_flight = simulate(main)
    assert seconds < 1.5
    assert in_flight == 0


@both
def test_ChatAgent_cancelled_stream_ends_at_the_provider_too(api: str):
    """A timeout in the middle of a stream frees the provider; the text until then was heard."""
    here = Provider("open", latency=Latency(base=1.0, speed=10, mean_output=0), answer=lambda _: WORDS)
    heard: list[str] = []

    async def main() -> tuple[str, int]:
        agent = ChatAgent("a", client=here.client(), api=api, stream=heard.append)
        outcome = (await ParallelAgentExecutor(1, timeout=1.45).execute(["Count."], agent)).individual_results[0]
        await asyncio.sleep(0)
        return outcome.status, here.statistics().in_flight

    assert simulate(main) == ("timeout", 0)
    assert 0 < len(heard) < len(PIECES)


def test_ChatAgent_response_that_failed_is_an_error():
    """The Responses API tells a failure inside an answer with status 200; it is raised, and its code can be read."""
    failed = SimpleNamespace(
        output_text="half", usage=None, model="m", status="failed", incomplete_details=None, _request_id="r",
        error=SimpleNamespace(message="The server had an error.", code="server_error"),
    )  # fmt: skip

    class Client:
        """The part of the client that an agent uses; its answers fail."""

        max_retries, chat = 0, None

        def __init__(self) -> None:
            self.responses = self

        async def create(self, **request: Any) -> Any:
            return failed

    agent: Any = ChatAgent("a", client=Client(), api="responses")  # type: ignore[arg-type]
    with pytest.raises(openai.APIError, match="had an error") as caught:
        asyncio.run(agent("Count."))
    assert caught.value.code == "server_error"
    assert classify(caught.value) == "transient"
    assert caught.value.partial == Reply("half", None, "m", "cut")  # type: ignore[attr-defined]


def test_ChatAgent_response_stream_that_tells_an_error():
    """The Responses API has an event for an error; it is raised, with the text until then."""
    events = [
        SimpleNamespace(type="response.output_text.delta", delta="half"),
        SimpleNamespace(type="error", message="The server is overloaded.", code="server_is_overloaded"),
    ]

    class Stream:
        """What the client returns for `stream=True`, as far as it is used."""

        response = SimpleNamespace(headers={})

        async def __aenter__(self) -> Stream:
            return self

        async def __aexit__(self, *_: Any) -> None: ...

        async def __aiter__(self) -> Any:
            for event in events:
                yield event

    class Client:
        """The part of the client that an agent uses."""

        max_retries, chat = 0, None

        def __init__(self) -> None:
            self.responses = self

        async def create(self, **request: Any) -> Any:
            return Stream()

    agent: Any = ChatAgent("a", client=Client(), api="responses", stream=True)  # type: ignore[arg-type]
    with pytest.raises(openai.APIError, match="overloaded") as caught:
        asyncio.run(agent("Count."))
    assert classify(caught.value) == "transient"
    assert caught.value.partial.text == "half"  # type: ignore[attr-defined]


def test_BrokenAnswer_survives_pickling():
    """An error crosses processes with what it carries."""
    broken = pickle.loads(pickle.dumps(BrokenAnswer("cut", Reply("half", finish_reason="cut"))))
    assert (str(broken), broken.partial) == ("cut", Reply("half", finish_reason="cut"))


# -- clients and loops --------------------------------------------------------------------------------------------


def counting(make: Callable[[], Any]) -> tuple[Callable[[], Any], list[Any]]:
    """A function that makes clients, and the list of those made."""
    made: list[Any] = []

    def factory() -> Any:
        made.append(make())
        return made[-1]

    return factory, made


def test_ChatAgent_client_over_sockets_is_refused_on_a_second_loop():
    """Connections belong to a loop, and the client would fail on another one; the agent says so before it sends."""
    with provider().serve() as server:
        client = server.client()

        async def first() -> Any:
            return agent, await agent("Count."), await client.close()

        agent = ChatAgent("a", client=client)
        asyncio.run(first())
        with pytest.raises(RuntimeError, match=r"client must stay on the event loop .* a function that makes a client"):
            asyncio.run(agent("Count."))


def test_ChatAgent_client_made_for_each_loop():
    """With a function, each loop gets a client of its own, made once, and several loops may use one agent."""
    with provider().serve() as server:
        factory, made = counting(server.client)
        clients = PerLoop(factory)
        agents = [ChatAgent(name, client=clients) for name in "ab"]

        async def main() -> list[str]:
            replies = await asyncio.gather(*(agent("Count.") for agent in agents * 2))
            await clients.aclose()
            return [reply.text for reply in replies]

        assert asyncio.run(main()) == asyncio.run(main()) == [WORDS] * 4
        assert len(made) == 2


def test_ChatAgent_embedded_client_serves_any_loop():
    """The embedded provider's client holds no connections, so one client does for all simulations."""
    agent = ChatAgent("a", client=provider().client())

    async def main() -> str:
        return (await agent("Count.")).text

    assert [simulate(main), simulate(main), asyncio.run(main())] == [WORDS] * 3


def test_PerLoop_makes_clients_that_do_not_retry():
    """Whatever the function sets, the retry layer is the caller's; and what is no client is refused when made."""
    factory, made = counting(lambda: provider().client(max_retries=5))

    async def main(clients: PerLoop) -> int:
        return clients().max_retries

    clients = PerLoop(factory)
    assert made == []
    assert asyncio.run(main(clients)) == 0
    with pytest.raises(TypeError, match=r"client must be an openai.AsyncOpenAI, got 7"):
        asyncio.run(main(PerLoop(lambda: 7)))  # type: ignore[arg-type,return-value]


# -- bad arguments ------------------------------------------------------------------------------------------------


def test_ChatAgent_refuses_an_unknown_api():
    """There are two APIs, and they are named."""
    with pytest.raises(ValueError, match=r"api must be one of chat, responses, got 'completions'"):
        ChatAgent("a", client=provider().client(), api="completions")


@pytest.mark.parametrize("stream", [1, "yes", []])
def test_ChatAgent_refuses_a_stream_that_nobody_can_call(stream: Any):
    """`stream` is a switch or a function."""
    with pytest.raises(
        TypeError, match=r"stream must be a function, got .*; use True, False or a function of one piece of text"
    ):
        ChatAgent("a", client=provider().client(), stream=stream)


def test_ChatAgent_refuses_stream_among_the_request_fields():
    """The field would bring back a stream where a reply is expected; the remedy is named."""
    with pytest.raises(ValueError, match=r"request must not hold 'stream'; use ChatAgent\(stream=True\)"):
        ChatAgent("a", client=provider().client(), request={"stream": True})
