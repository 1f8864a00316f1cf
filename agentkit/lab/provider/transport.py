"""The in-process transport: carries an HTTP client's requests to an app without a socket.

What it holds: `InProcessTransport`, and `in_process_client`, an `AsyncOpenAI` on top of it.
Guarantee: it behaves like a socket: bytes arrive when they are sent, a read that takes longer than the client's
timeout fails, closing early or cancelling stops the server's work, a cut connection raises the same exception.
Strategy: the app runs in a task of its own and puts its messages in a queue; the client takes them out.
(The stock ASGI transport collects the whole answer first and ignores timeouts.)
It starts no thread and opens no socket, so it runs on a virtual clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx2

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from starlette.types import ASGIApp, Message, Scope

__all__ = ["InProcessTransport", "in_process_client"]


class InProcessTransport(httpx2.AsyncBaseTransport):
    """Carries requests to an ASGI app in this process; usable by any number of clients and loops."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; return as soon as the answer starts."""
        exchange = _Exchange(request, await request.aread())
        exchange.start(self.app)
        try:
            start = await exchange.next_message()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx2.Response(start["status"], headers=start["headers"], stream=exchange)


class _Exchange(httpx2.AsyncByteStream):
    """One request and its answer, passed between the client's task and the app's."""

    def __init__(self, request: httpx2.Request, body: bytes) -> None:
        self._request, self._body = request, body
        self._timeout: float | None = request.extensions.get("timeout", {}).get("read")
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._body_sent = False

    def start(self, app: ASGIApp) -> None:
        """Start the app in a task of its own."""
        self._task = asyncio.create_task(self._run(app), name="provider")

    async def _run(self, app: ASGIApp) -> None:
        url = self._request.url
        scope: Scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": self._request.method,
            "headers": [(name.lower(), value) for name, value in self._request.headers.raw], "scheme": url.scheme,
            "path": url.path, "raw_path": url.raw_path.split(b"?")[0], "query_string": url.query, "root_path": "",
            "server": (url.host, url.port), "client": ("127.0.0.1", 0), "cut": self._cut,
        }  # fmt: skip
        try:
            await app(scope, self._receive, self._send)
        finally:
            self._cut()  # not read if the answer was complete

    def _cut(self) -> None:
        self._messages.put_nowait({"type": "cut"})

    async def _receive(self) -> Message:
        if self._body_sent:
            await asyncio.Event().wait()  # nothing more to receive; a client that disconnects cancels the task
        self._body_sent = True
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _send(self, message: Message) -> None:
        self._messages.put_nowait(message)

    async def next_message(self) -> Message:
        """The app's next message; the client's read timeout applies to each message."""
        if self._messages.empty():
            try:
                async with asyncio.timeout(self._timeout):
                    message = await self._messages.get()
            except TimeoutError:
                raise httpx2.ReadTimeout("The read operation timed out", request=self._request) from None
        else:
            message = self._messages.get_nowait()
        if message["type"] == "cut":
            if self._task.done() and not self._task.cancelled() and self._task.exception():
                raise self._task.exception()  # type: ignore[misc]
            text = "The connection was closed before the answer was complete"
            raise httpx2.RemoteProtocolError(text, request=self._request)
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.next_message()
            more = message.get("more_body", False)
            if message["body"]:
                yield message["body"]

    async def aclose(self) -> None:
        """Cancel the app's task if it is still running."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


def in_process_client(app: ASGIApp, **options: Any) -> AsyncOpenAI:
    """An `AsyncOpenAI` whose requests go to an app in this process."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    http_client = DefaultAsyncHttpxClient(transport=InProcessTransport(app), trust_env=False)
    usual: dict[str, Any] = {
        "api_key": "in-process",
        "base_url": "http://in-process/v1",
        "max_retries": 0,
        "http_client": http_client,
    }
    return AsyncOpenAI(**(usual | options))
