"""Agents: something with a name that answers prompts.

An agent keeps nothing between calls, so one may serve any number of tasks at once. Its client is passed in and shared;
it does not retry by itself, so that there is one retry layer and it is yours. For the executor, any function of one
task will do. Opened by notebook 01.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agentkit.agent.chat import APIS, Listener, PerLoop, call
from agentkit.agent.reply import Reply
from agentkit.base.arguments import attribute, choice, function, instance, items, refusal, text, whole

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Agent", "ChatAgent"]


class Agent(ABC):
    """Something with a name that answers prompts; derive from it for orchestration.

    >>> class Shouter(Agent):
    ...     async def process(self, prompt, context=None):
    ...         return prompt.upper()
    >>> import asyncio
    >>> asyncio.run(Shouter("shouter")("not so loud"))
    'NOT SO LOUD'
    """

    name: str = attribute(text, remedy="it labels the agent in every picture", empty=False)

    def __init__(self, name: str) -> None:
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
    """Asks an OpenAI-compatible endpoint; each call returns a whole `Reply`.

    >>> from agentkit.lab import Provider, simulate
    >>> async def main():
    ...     agent = ChatAgent("echo", client=Provider().client())
    ...     return await agent("What is a race condition?")
    >>> simulate(main).usage.requests
    1

    - `instructions` become the system message; `max_tokens` bounds the answer (providers charge it up front).
    - `client` is an `AsyncOpenAI`, or a function that makes one for each event loop; share it.
    - `api`: `"chat"` for chat completions, `"responses"` for the Responses API.
    - `stream=True` asks for the answer piece by piece; a function given instead is called with each piece of text as it
      arrives, and may be async. The whole reply, usage included, is returned all the same.
    - `request` holds further fields of the request, as in the API's reference.

    Errors are the openai client's own, or `BrokenAnswer` for an answer that did not arrive whole; one in the middle of
    an answer has what had arrived, a `Reply`, as `error.partial`.
    """

    instructions: str = attribute(text)
    model: str = attribute(text, remedy="name a model of the endpoint", empty=False)
    api: str = attribute(choice, choices=APIS, remedy="most endpoints speak 'chat'")
    max_tokens: int | None = attribute(whole, remedy="use None for no limit", none=True)

    def __init__(
        self,
        name: str,
        instructions: str = "",
        *,
        client: AsyncOpenAI | Callable[[], AsyncOpenAI],
        model: str = "small",
        max_tokens: int | None = None,
        api: str = "chat",
        stream: bool | Listener = False,
        request: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(name)
        self.instructions, self.model, self.max_tokens, self.api = instructions, model, max_tokens, api
        self._request = dict(instance("request", request, Mapping, "give a dict of fields", none=True) or {})
        if "stream" in self._request:
            raise ValueError("request must not hold 'stream'; use ChatAgent(stream=True), which returns whole replies")
        self._client = client if isinstance(client, PerLoop) else PerLoop(client)
        self._listener = _listener(stream)

    def messages(self, prompt: str, context: Any = None) -> list[dict[str, str]]:
        """Return the request's messages: instructions, then the context's messages, then the prompt."""
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if hasattr(context, "to_messages"):
            context = context.to_messages()
        earlier = [] if context is None else items("context", context, "give messages, or a ConversationState")
        return [*system, *earlier, {"role": "user", "content": prompt}]

    async def ask(self, prompt: str, context: Any = None, *, stream: bool | Listener | None = None) -> Reply:
        """Send one request and return the whole `Reply`; `stream`, if given, counts instead of the agent's own."""
        listener = self._listener if stream is None else _listener(stream)
        if not isinstance(prompt, str | list):
            raise refusal("prompt", "must be a string or a list of parts", prompt, "write str(prompt)", TypeError)
        api, messages = APIS[self.api], self.messages(prompt, context)
        bound = {} if self.max_tokens is None else {api.cap: self.max_tokens}
        request = {"model": self.model, api.prompt: messages, **self._request, **bound}
        return await call(self._client(), api, request, listener)

    async def process(self, prompt: str, context: Any = None) -> str:
        """Answer `prompt` with the text alone, as orchestrators want it."""
        return (await self.ask(prompt, context)).text

    async def __call__(self, task: Any) -> Reply:
        """Answer one task: a text, or anything whose `str` is the prompt."""
        return await self.ask(task if isinstance(task, str) else str(task))


def _listener(stream: bool | Listener) -> Listener | None:
    """Return the function to tell each piece of text; None for no stream."""
    if isinstance(stream, bool):
        return _unheard if stream else None
    return function("stream", stream, "use True, False or a function of one piece of text", may_be_async=True)  # type: ignore[no-any-return]


def _unheard(text: str) -> None:
    """Listen to a stream that nobody listens to."""
