"""The provider's Starlette app: from bytes to a decision, and from a completion back to bytes.

What it holds: `make_app`, and `Endpoint`, which serves chat completions and responses alike.
Guarantee: every answer has the API's own shape, including errors for wrong paths, methods and bodies.
Strategy: read, check, decide, wait, send. Everything is `async def` and no worker thread is used, so it runs on a
virtual clock. A transport adds one entry to the ASGI scope: `scope["cut"]()` closes the connection without an answer.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agentkit.lab.provider.decisions import Decisions, Job
from agentkit.lab.provider.errors import ERRORS, ApiError, bad_request
from agentkit.lab.provider.request import MAX_BODY, check_key, read_request
from agentkit.lab.provider.response import EPOCH, Delivery, deliver

__all__ = ["Endpoint", "make_app"]


def make_app(decisions: Decisions) -> Starlette:
    """The app of a provider: three paths, and errors in the API's shape for all others."""

    async def models(request: HttpRequest) -> Response:
        try:
            check_key(request.headers.get("authorization", ""))
            if name := request.path_params.get("name"):
                if name not in decisions.settings.models:
                    raise ApiError("not_found", ERRORS["not_found"][3].format(model=name[:100]))
                return _json(_model(name))
            return _json({"object": "list", "data": [_model(name) for name in decisions.settings.models]})
        except ApiError as error:
            return _json(error.body(), error.status)

    routes = [
        Route("/v1/chat/completions", Endpoint(decisions, "chat"), methods=["POST"]),
        Route("/v1/responses", Endpoint(decisions, "responses"), methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", models),
    ]
    app = Starlette(routes=routes, exception_handlers={404: _no_such_path, 405: _wrong_method})
    app.router.redirect_slashes = False
    return app


class Endpoint:
    """One of the two POST paths: a raw ASGI app, because it controls when each byte leaves."""

    def __init__(self, decisions: Decisions, name: Literal["chat", "responses"]) -> None:
        self.decisions, self.name = decisions, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        decisions, headers = self.decisions, dict(scope["headers"])
        body = await _read(receive)
        retry = headers.get(b"x-stainless-retry-count", b"")
        call = decisions.arrive(self.name, int(retry) if retry.isdigit() else 0)
        try:
            authorization = headers.get(b"authorization", b"").decode("latin-1")
            request = read_request(self.name, authorization, body, decisions.settings.models)
            job = decisions.decide(request, call)
        except ApiError as error:
            quota_headers = decisions.refuse(call, error)
            if error.seconds:
                await asyncio.sleep(error.seconds)
            sent = {**decisions.headers(call, quota_headers), "content-type": "application/json", **error.headers}
            await _start(send, error.status, sent, len(data := error.bytes()))
            await send({"type": "http.response.body", "body": data})
            return
        async with decisions.work(job) as in_flight:
            await self._send(scope, send, job, deliver(job.completion, job.draw, job.fault, in_flight))

    async def _send(self, scope: Scope, send: Send, job: Job, delivery: Delivery) -> None:
        """Send the frames of a delivery, waiting before each."""
        last = len(delivery.frames) - 1
        for index, (seconds, data) in enumerate(delivery.frames):
            if seconds:
                await asyncio.sleep(seconds)
            if data is None:
                scope["cut"]()
                return
            if index == 0:
                self.decisions.begin_answer(job.call)
                headers = self.decisions.headers(job.call, job.quota_headers)
                headers["content-type"] = delivery.content_type
                await _start(send, 200, headers, delivery.length)
            await send({"type": "http.response.body", "body": data, "more_body": index < last})


async def _read(receive: Receive) -> bytes:
    """The body; if it is too large, only enough of it to tell."""
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
