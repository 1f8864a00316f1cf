"""One call to an OpenAI-compatible endpoint, whole or streamed, by either of its two APIs.

The APIs differ in the names of their fields and events; `_Chat` and `_Responses` know these, the rest is shared. A
stream left early, by an error or a cancellation, is closed, and the provider stops its work.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from agentkit.agent.reply import BrokenAnswer, Reply
from agentkit.base.arguments import refusal
from agentkit.report.outcome import span
from agentkit.report.usage import Usage, usage_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["APIS", "Listener", "PerLoop", "call"]

Listener = Callable[[str], Awaitable[object] | object]
"""What is told each piece of a streamed text; it may be async, and then the stream waits for it."""


@dataclass(slots=True)
class _Draft:
    """A reply in the making."""

    pieces: list[str] = field(default_factory=list)
    usage: Usage | None = None
    model: str = ""
    finish_reason: str = ""  # empty until the answer says that it is complete
    request_id: str | None = None
    begun: bool = False

    def reply(self) -> Reply:
        return Reply("".join(self.pieces), self.usage, self.model, self.finish_reason or "cut", self.request_id)


class _Chat:
    create = attrgetter("chat.completions.create")
    prompt, cap = "messages", "max_completion_tokens"
    streamed: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}  # noqa: RUF012

    def whole(self, answer: Any, draft: _Draft) -> None:
        choice, used = answer.choices[0], answer.usage
        draft.pieces.append(choice.message.content or "")
        draft.model, draft.finish_reason = answer.model, choice.finish_reason or "stop"
        draft.usage = usage_of(used)

    def piece(self, chunk: Any, draft: _Draft) -> str:
        draft.model = chunk.model or draft.model
        if (used := getattr(chunk, "usage", None)) is not None:
            draft.usage = usage_of(used)
        for choice in chunk.choices:
            if choice.index == 0:
                draft.finish_reason = choice.finish_reason or draft.finish_reason
                return choice.delta.content or ""
        return ""


class _Responses:
    create = attrgetter("responses.create")
    prompt, cap = "input", "max_output_tokens"
    streamed: dict[str, Any] = {"stream": True}  # noqa: RUF012
    _last = ("response.completed", "response.incomplete", "response.failed")
    _reasons = {"max_output_tokens": "length", None: "stop"}  # noqa: RUF012

    def whole(self, answer: Any, draft: _Draft) -> None:
        draft.pieces[:] = [answer.output_text] if answer.output_text else draft.pieces
        why = getattr(answer.incomplete_details, "reason", None)
        draft.model, draft.usage = answer.model, usage_of(answer.usage)
        if answer.status == "failed":
            raise _as_api_error(answer.error)
        draft.finish_reason = self._reasons.get(why, why or "stop")

    def piece(self, event: Any, draft: _Draft) -> str:
        if event.type == "response.output_text.delta":
            return str(event.delta)
        if event.type == "error":
            raise _as_api_error(event)
        if event.type in self._last:
            self.whole(event.response, draft)
        return ""


APIS: dict[str, _Chat | _Responses] = {"chat": _Chat(), "responses": _Responses()}
"""The two APIs of an OpenAI-compatible endpoint, by name."""


async def call(client: Any, api: _Chat | _Responses, request: dict[str, Any], listen: Listener | None = None) -> Reply:
    """Send one request and return the whole `Reply`; with `listen`, stream it, and tell each piece as it arrives.

    Logs a span `calling`; a streamed call also `first token`, until the first text arrives or the call fails. Raises
    the client's own errors, and `BrokenAnswer`; if an answer had begun, `error.partial` is the part that arrived.
    """
    draft = _Draft()
    with span("calling"):
        try:
            if listen is None:
                answer = await api.create(client)(**request)
                if isinstance(answer, str):  # what the client makes of a page that is no JSON
                    raise BrokenAnswer(f"the endpoint answered with a page that is no JSON: {answer:.60}", Reply(""))
                draft.begun, draft.request_id = True, answer._request_id  # noqa: SLF001  (the name openai documents)
                api.whole(answer, draft)
            else:
                await _stream(client, api, request, listen, draft)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BrokenAnswer(f"the answer cannot be read: {error}", draft.reply()) from error
        except Exception as error:
            if draft.begun and not isinstance(error, BrokenAnswer):
                error.partial = draft.reply()  # type: ignore[attr-defined]
            raise
    return draft.reply()


async def _stream(client: Any, api: Any, request: dict[str, Any], listen: Listener, draft: _Draft) -> None:
    with ExitStack() as until_first_token:
        until_first_token.enter_context(span("first token"))
        async with await api.create(client)(**api.streamed, **request) as stream:
            draft.begun, draft.request_id = True, stream.response.headers.get("x-request-id")
            async for event in stream:
                if text := api.piece(event, draft):
                    until_first_token.close()
                    draft.pieces.append(text)
                    if inspect.isawaitable(heard := listen(text)):
                        await heard
    if not draft.finish_reason:
        raise BrokenAnswer("the stream ended before the answer did", draft.reply())


def _as_api_error(error: Any) -> Exception:
    """The client's error for a failure that is told inside an answer with status 200."""
    from openai import APIError

    request: Any = None  # not at hand here, and the connection was all right
    return APIError(error.message, request, body={"message": error.message, "code": error.code, "type": None})


class PerLoop:
    """A client for each event loop: made by a function when a loop first asks, then kept for it.

    >>> from agentkit.lab import Provider
    >>> clients = PerLoop(Provider().client)
    >>> async def main():
    ...     return clients() is clients()
    >>> asyncio.run(main())
    True

    An async client's connections belong to the loop they were opened on; used from another, it fails or hangs. Agents
    with the same `PerLoop` share one client, and so one pool of connections. A client that is passed in serves one
    loop, and a second is refused. Clients never retry: that is the caller's layer.
    """

    def __init__(self, client: AsyncOpenAI | Callable[[], AsyncOpenAI]) -> None:
        self._make: Callable[[], AsyncOpenAI] | None = client if callable(client) else None
        self._given = None if callable(client) else _checked(client)
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()
        self._served = False  # whether a loop holds connections of the given client

    def __call__(self) -> Any:
        """Return the running loop's client."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = self._take()
        return self._clients[loop]

    def _take(self) -> Any:
        if self._make is not None:
            return _checked(self._make())
        if self._served and _holds_connections(self._given):
            raise RuntimeError(
                f"client must stay on the event loop it was first used on, got {self._given!r:.60} on a second one; "
                "hand in a function that makes a client for each loop: client=lambda: AsyncOpenAI(…)"
            )
        self._served = True
        return self._given

    async def aclose(self) -> None:
        """Close the client that was made for the running loop; a client given as it is stays its owner's to close."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None and self._make is not None:
            await client.close()

    def __reduce__(self) -> tuple[type[PerLoop], tuple[Any]]:
        return type(self), (self._make or self._given,)


def _checked(client: Any) -> Any:
    """The client, without retries of its own; or what is wrong with it."""
    if not hasattr(client, "chat") or hasattr(client, "__enter__"):  # openai.OpenAI would block the event loop
        remedy = "for the embedded one, Provider().client()"
        raise refusal("client", "must be an openai.AsyncOpenAI", client, remedy, TypeError)
    return client.with_options(max_retries=0) if client.max_retries else client


def _holds_connections(client: Any) -> bool:
    """Whether it reaches the endpoint over sockets, which belong to a loop."""
    transport = getattr(getattr(client, "_client", None), "_transport", None)
    return hasattr(transport, "_pool") or hasattr(transport, "client")
