"""Agents with a name: what they send to a provider, what they bring back, and what they never do by themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from agentkit.agent import Agent, ChatAgent, Reply
from agentkit.executor import ParallelAgentExecutor
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.faults import Faults
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.provider import Provider
from agentkit.report.usage import Usage
from agentkit.semaphore import CapacityLimiter

ONE_SECOND = Latency(base=1.0, speed=None, mean_output=0)


def provider(**options: Any) -> Provider:
    """Return a provider without limits whose answers take exactly one second."""
    return Provider("open", latency=ONE_SECOND, **options)


class Shouter(Agent):
    """Answers in capitals, with what it was told before."""

    async def process(self, prompt: str, context: Any = None) -> str:
        """Answer."""
        return f"{prompt.upper()} {context or ''}".strip()


# -- Agent --------------------------------------------------------------------------------------------------------


def test_Agent_is_abstract():
    """A class without `process` is not an agent."""
    with pytest.raises(TypeError, match="process"):
        Agent("nobody")  # type: ignore[abstract]


@pytest.mark.parametrize("name", ["", None, 7])
def test_Agent_needs_a_name(name: Any):
    """The name labels the agent in every picture, so it must be there."""
    with pytest.raises((TypeError, ValueError), match=r"name must be a string.*, got .*; it labels the agent"):
        Shouter(name)


def test_Agent_is_called_with_a_task_or_processes_with_context():
    """An executor calls it with a task; an orchestrator calls `process` with context."""
    agent = Shouter("shouter")
    assert asyncio.run(agent("hi")) == "HI"
    assert asyncio.run(agent.process("hi", "there")) == "HI there"
    assert repr(agent) == "<Shouter 'shouter'>"


def test_Agent_serves_an_executor():
    """An agent object is an async callable, so it runs on the loop and not in a thread."""

    async def main():
        return (await ParallelAgentExecutor(2).execute(["a", "b"], Shouter("s"))).results

    assert simulate(main) == ["A", "B"]


# -- Usage and Reply ----------------------------------------------------------------------------------------------


def test_Usage_adds_up():
    """Usages are summed field by field; nothing is the neutral element."""
    assert Usage(1, 10, 5) + Usage(2, 1, 1) == Usage(3, 11, 6)
    assert Usage() + Usage(1, 2, 3) == Usage(1, 2, 3)
    assert Usage(1, 10, 5).total_tokens == 15


def test_Reply_is_its_text():
    """`str(reply)` is the text; two replies are equal whatever their request ids."""
    assert str(Reply("hello")) == "hello"
    assert Reply("a", request_id="1") == Reply("a", request_id="2")


# -- ChatAgent ----------------------------------------------------------------------------------------------------


def test_ChatAgent_brings_back_a_reply():
    """One call is one request; text, usage, model and request id come back."""

    async def main():
        here = provider()
        reply = await ChatAgent("a", client=here.client(), model="small")("What is a lock?")
        return reply, asyncio.get_running_loop().time(), here.statistics().arrivals

    reply, seconds, arrived = simulate(main)
    assert reply.text
    assert (reply.model, reply.finish_reason) == ("small", "stop")
    assert reply.usage.requests == 1
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens > 0
    assert reply.request_id
    assert (seconds, arrived) == (1.0, 1)


def test_ChatAgent_sends_instructions_context_and_prompt_in_this_order():
    """The messages are the system's, then what was said before, then the prompt; without instructions none is sent."""
    client = provider().client()
    earlier = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert ChatAgent("a", "Be brief.", client=client).messages("now?", earlier) == [
        {"role": "system", "content": "Be brief."},
        *earlier,
        {"role": "user", "content": "now?"},
    ]
    assert ChatAgent("a", client=client).messages("now?") == [{"role": "user", "content": "now?"}]


def test_ChatAgent_context_may_be_a_state():
    """A context that knows `to_messages` is asked for them."""

    class State:
        def to_messages(self):
            return [{"role": "user", "content": "before"}]

    messages = ChatAgent("a", client=provider().client()).messages("now", State())
    assert [m["content"] for m in messages] == ["before", "now"]


def test_ChatAgent_sends_its_request_fields():
    """Model, `max_tokens` and further fields of the request reach the provider."""
    seen: list[dict[str, Any]] = []

    class Client:
        """The part of the client that an agent uses, writing down what it is asked."""

        max_retries = 0

        def __init__(self) -> None:
            self.chat = self.completions = self

        async def create(self, **request: Any) -> Any:
            seen.append(request)
            raise RuntimeError("enough")

    agent = ChatAgent("a", client=Client(), model="m", max_tokens=50, request={"temperature": 0})  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="enough"):
        asyncio.run(agent("hi"))
    messages = [{"role": "user", "content": "hi"}]
    assert seen == [{"model": "m", "messages": messages, "temperature": 0, "max_completion_tokens": 50}]


def test_ChatAgent_says_when_the_answer_was_cut_off():
    """With a small `max_tokens` the finish reason is `length`."""

    async def main():
        agent = ChatAgent("a", client=provider(answer=lambda _: "word " * 200).client(), max_tokens=5)
        return (await agent("Tell me everything.")).finish_reason

    assert simulate(main) == "length"


def test_ChatAgent_process_gives_the_text_alone():
    """Orchestrators get the text."""

    async def main():
        return await ChatAgent("a", client=provider(answer=lambda _: "forty-two").client()).process("?")

    assert simulate(main) == "forty-two"


def test_ChatAgent_answer_without_usage():
    """An endpoint that does not say what it cost gives a reply without usage."""

    async def main():
        here = provider(faults=Faults(script={1: "no_usage"}))
        return (await ChatAgent("a", client=here.client())("?")).usage

    assert simulate(main) is None


def test_ChatAgent_does_not_retry_by_itself():
    """Whatever the client was set to, an error comes back after one request: the retry layer is the caller's."""

    async def main():
        here = provider(faults=Faults(rates={"server_error": 1}))
        agent = ChatAgent("a", client=here.client(max_retries=5))
        with pytest.raises(openai.InternalServerError):
            await agent("?")
        return here.statistics().arrivals

    assert simulate(main) == 1


def test_ChatAgent_errors_are_the_clients_own():
    """A refusal arrives as the openai client's exception, status and body included."""

    async def main():
        here = provider(faults=Faults(script={1: "rate_limit"}))
        report = await ParallelAgentExecutor(1).execute(["a", "b"], ChatAgent("a", client=here.client()))
        return report.individual_results

    refused, served = simulate(main)
    assert isinstance(refused.error, openai.RateLimitError)
    assert refused.reason.startswith("RateLimitError: Error code: 429")
    assert served.status == "success"


@pytest.mark.parametrize("client", [None, "client", 7])
def test_ChatAgent_refuses_what_is_no_client(client: Any):
    """Something that is no client is refused when the agent is made, with the remedy."""
    with pytest.raises(TypeError, match=r"client must be an openai.AsyncOpenAI, got .*; for the embedded one"):
        ChatAgent("a", client=client)


def test_ChatAgent_refuses_a_client_that_blocks():
    """The synchronous client would block the loop, so it is refused when the agent is made, not when it is called."""
    client = openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9")
    with client, pytest.raises(TypeError, match=r"client must be an openai.AsyncOpenAI, got"):
        ChatAgent("a", client=client)  # type: ignore[arg-type]


def test_ChatAgent_task_that_is_no_text():
    """A task that is no text is asked as its `str`."""

    async def main():
        agent = ChatAgent("a", client=provider(answer=lambda request: request.prompt).client())
        return (await agent(42)).text

    assert simulate(main) == "42"


def test_ChatAgent_many_at_once_log_their_calls_and_their_usage():
    """One agent serves many tasks at once; each call is a span of its task, and the run knows what it cost."""

    async def main():
        agent = ChatAgent("a", client=provider().client())
        return await ParallelAgentExecutor(5).execute([f"question {i}" for i in range(20)], agent)

    report = simulate(main)
    assert report.summary.makespan == 4.0
    assert report.summary.usage.requests == 20
    assert [(s.name, s.finished - s.started) for o in report for s in o.spans] == [("calling", 1.0)] * 20


def test_ChatAgent_cancelled_stops_the_providers_work():
    """A timed-out call is ended on the provider's side too, and the limiter is free again."""

    async def main():
        here, limiter = provider(), CapacityLimiter(2)
        agent = ChatAgent("a", client=here.client())
        report = await ParallelAgentExecutor(limiter, timeout=0.25).execute(range(4), agent)
        await asyncio.sleep(0)
        return report.summary.by_status, here.statistics().in_flight, limiter.statistics().in_flight

    assert simulate(main) == ({"timeout": 4}, 0, 0)
