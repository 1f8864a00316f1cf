"""The provider's starlette app: from bytes to a decision, and from an answer back to bytes.

What it holds: `make_app`, and the endpoint that serves chat completions and responses alike.
Guarantee: every answer is of the API's own shape, those to wrong paths, methods and bodies too.
Strategy: read, check, decide, wait, send. All of it is `async def`: no worker thread ever, so it runs on a virtual
clock. A shell adds one thing to the ASGI scope: `scope["cut"]()` closes the connection without a word.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from agentkit.lab.provider.delivery import Delivery, Job, deliver
from agentkit.lab.provider.errors import ERRORS, ApiError, bad_request
from agentkit.lab.provider.request import MAX_BODY, check_key, read_request
from agentkit.lab.provider.response import EPOCH

if TYPE_CHECKING:
    from agentkit.lab.provider.provider import Provider

__all__ = ["Endpoint", "make_app"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def make_app(provider: Provider) -> Starlette:
    """The app of a provider: three paths, and errors of the API's own shape for all others."""

    async def models(request: HttpRequest) -> Response:
        try:
            check_key(request.headers.get("authorization", ""))
            if name := request.path_params.get("name"):
                if name not in provider.models:
                    raise ApiError("not_found", ERRORS["not_found"][3].format(model=name[:100]))
                return _json(_model(name))
            return _json({"object": "list", "data": [_model(name) for name in provider.models]})
        except ApiError as error:
            return _json(error.body(), error.status)

    routes = [
        Route("/v1/chat/completions", Endpoint(provider, "chat"), methods=["POST"]),
        Route("/v1/responses", Endpoint(provider, "responses"), methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", models),
    ]
    app = Starlette(routes=routes, exception_handlers={404: _no_such_path, 405: _wrong_method})
    app.router.redirect_slashes = False
    return app


class Endpoint:
    """One of the two paths that answer: an ASGI app of its own, since it decides when each byte leaves."""

    def __init__(self, provider: Provider, name: Literal["chat", "responses"]) -> None:
        self.provider, self.name = provider, name

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        provider, headers = self.provider, dict(scope["headers"])
        body = await _read(receive)
        retry = headers.get(b"x-stainless-retry-count", b"")
        call = provider.arrive(self.name, int(retry) if retry.isdigit() else 0)
        try:
            request = read_request(
                self.name, headers.get(b"authorization", b"").decode("latin-1"), body, provider.models
            )
            job = provider.decide(request, call)
        except ApiError as error:
            quota = provider.refuse(call, error)
            if error.seconds:
                await asyncio.sleep(error.seconds)
            sent = {**provider.headers(call, quota), "content-type": "application/json", **error.headers}
            await _start(send, error.status, sent, len(data := error.bytes()))
            await send({"type": "http.response.body", "body": data})
            return
        async with provider.work(job) as in_flight:
            await self._send(scope, send, job, deliver(job, in_flight))

    async def _send(self, scope: Message, send: Send, job: Job, delivery: Delivery) -> None:
        """Send the frames of a delivery, each in its time."""
        last = len(delivery.frames) - 1
        for index, (seconds, data) in enumerate(delivery.frames):
            if seconds:
                await asyncio.sleep(seconds)
            if data is None:
                scope["cut"]()
                return
            if index == 0:
                self.provider.begin_answer(job.call)
                headers = {**self.provider.headers(job.call, job.quota), "content-type": delivery.content_type}
                await _start(send, 200, headers, delivery.length)
            await send({"type": "http.response.body", "body": data, "more_body": index < last})


async def _read(receive: Receive) -> bytes:
    """The body; of one that is too large, only as much as shows that it is."""
    body = b""
    while True:
        message = await receive()
        if len(body) <= MAX_BODY:
            body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _start(send: Send, status: int, headers: dict[str, str], length: int | None) -> None:
    if length is not None:
        headers["content-length"] = str(length)
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _no_such_path(request: HttpRequest, _: Exception) -> Response:
    error = bad_request(f"Invalid URL ({request.method} {request.url.path[:200]})", code="unknown_url", status=404)
    return _json(error.body(), 404)


async def _wrong_method(request: HttpRequest, _: Exception) -> Response:
    message = f"Not allowed to {request.method} on {request.url.path[:200]}."
    error = bad_request(message, code="method_not_allowed", status=405)
    return _json(error.body(), 405)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": EPOCH, "owned_by": "lab"}


def _json(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type="application/json")
