"""Agents: something with a name that answers prompts.

What it holds: `Agent`, the class to derive orchestrated agents from; `ChatAgent`, which asks an OpenAI-compatible
endpoint; `Reply` and `Usage`, what it brings back.
Guarantees: an agent keeps nothing between calls, so one may serve any number of tasks at once; its client does not
retry by itself, so that there is one retry layer and it is yours.
Strategy: the client is handed in and shared. Nothing here knows a key or an address.
For the executor an agent need not be any of this: any function of one task will do.
Opened by notebook 01.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentkit.outcome import span

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Agent", "ChatAgent", "Reply", "Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls cost, in the provider's units. Usages add up.

    >>> (Usage(1, 900, 100) + Usage(1, 500, 60)).total_tokens
    1560
    """

    requests: int = 0
    """Requests the provider answered."""
    input_tokens: int = 0
    """Tokens of the prompts."""
    output_tokens: int = 0
    """Tokens of the answers."""

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer; `str(reply)` is its text."""

    text: str
    """What the model wrote."""
    usage: Usage | None = None
    """What it cost; None where the endpoint did not say."""
    model: str = ""
    """The model that answered."""
    finish_reason: str = "stop"
    """`stop`, or `length` where `max_tokens` cut the answer off."""
    request_id: str | None = field(default=None, compare=False)
    """The endpoint's own id of the request, to find it in a log."""

    def __str__(self) -> str:
        return self.text


class Agent(ABC):
    """Something with a name that answers prompts; derive from it for orchestration.

    >>> class Shouter(Agent):
    ...     async def process(self, prompt, context=None):
    ...         return prompt.upper()
    >>> import asyncio
    >>> asyncio.run(Shouter("shouter")("not so loud"))
    'NOT SO LOUD'
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"name must be a text that is not empty, got {name!r}; it labels the agent in every picture"
            )
        self.name = name

    @abstractmethod
    async def process(self, prompt: str, context: Any = None) -> str:
        """Answer `prompt`; `context` is what came before, such as a `ConversationState`."""

    async def __call__(self, task: Any) -> Any:
        """Answer one task, without context: what an executor calls."""
        return await self.process(task)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class ChatAgent(Agent):
    """Asks an OpenAI-compatible endpoint (chat completions); each call returns a `Reply`.

    >>> from agentkit.lab import Provider, simulate
    >>> async def main():
    ...     agent = ChatAgent("echo", client=Provider().client())
    ...     return await agent("What is a race condition?")
    >>> simulate(main).usage.requests
    1

    `client` is an `AsyncOpenAI`; share one among all agents. `instructions` become the system message, `max_tokens`
    bounds the answer (providers charge it up front), and `request` holds further fields of the request, as in the
    API's reference. Errors are the openai client's own.
    """

    def __init__(
        self,
        name: str,
        instructions: str = "",
        *,
        client: AsyncOpenAI,
        model: str = "small",
        max_tokens: int | None = None,
        request: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(name)
        if not hasattr(client, "chat") or hasattr(client, "__enter__"):  # openai.OpenAI would block the event loop
            raise TypeError(
                f"client must be an openai.AsyncOpenAI, got {client!r:.80}; for the embedded one, Provider().client()"
            )
        self.instructions, self.model, self.max_tokens = instructions, model, max_tokens
        self._client = client.with_options(max_retries=0) if client.max_retries else client
        self._request = dict(request or {})
        if max_tokens is not None:
            self._request["max_completion_tokens"] = max_tokens

    def messages(self, prompt: str, context: Any = None) -> list[dict[str, str]]:
        """Return the request's messages: instructions, then the context's messages, then the prompt."""
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        earlier = context.to_messages() if hasattr(context, "to_messages") else list(context or [])
        return [*system, *earlier, {"role": "user", "content": prompt}]

    async def ask(self, prompt: str, context: Any = None) -> Reply:
        """Send one request and return the whole `Reply`."""
        messages: Any = self.messages(prompt, context)
        with span("calling"):
            answer = await self._client.chat.completions.create(model=self.model, messages=messages, **self._request)
        choice, used = answer.choices[0], answer.usage
        return Reply(
            choice.message.content or "",
            None if used is None else Usage(1, used.prompt_tokens, used.completion_tokens),
            answer.model,
            choice.finish_reason,
            answer._request_id,
        )

    async def process(self, prompt: str, context: Any = None) -> str:
        """Answer `prompt` with the text alone, as orchestrators want it."""
        return (await self.ask(prompt, context)).text

    async def __call__(self, task: Any) -> Reply:
        """Answer one task: a text, or anything whose `str` is the prompt."""
        return await self.ask(task if isinstance(task, str) else str(task))
