"""The loopback server: the provider behind a real socket, for any OpenAI client in any language.

What it holds: `Server`, a context manager.
Guarantee: it listens on this machine only; after `close`, or when the interpreter exits, no thread and no socket is
left. A client that disconnects early ends the work on its request, as in process.
Strategy: uvicorn in one daemon thread with an event loop of its own, on a socket bound before the thread starts.
The loop is run by `asyncio.Runner`, which works under nest_asyncio too.
"""

from __future__ import annotations

import asyncio
import atexit
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentkit.base.arguments import choice, whole

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HasApp", "Server"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class HasApp(Protocol):
    """What a server can serve: an object with an ASGI app, such as a `Provider`."""

    @property
    def app(self) -> ASGIApp:
        """The app."""


class _Connection(H11Protocol):
    """A connection that is listed under its peer's address, and that cancels its request's task when it is lost."""

    task: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.config.app.connections[self.client] = self  # type: ignore[union-attr]

    def connection_lost(self, exc: Exception | None) -> None:
        self.config.app.connections.pop(self.client, None)  # type: ignore[union-attr]
        super().connection_lost(exc)
        if self.task:
            self.task.cancel()


class _App:
    """The provider's app, with `scope["cut"]` added."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.connections = app, dict[Any, _Connection]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = self.connections[scope["client"]]
        connection.task, scope["cut"] = asyncio.current_task(), connection.transport.close
        try:
            await self.app(scope, receive, send)
        finally:
            connection.task = None


class _Uvicorn(uvicorn.Server):
    """A uvicorn server that signals when it is ready, and drops all connections when stopped."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config)
        self.ready, self.listening = threading.Event(), sockets

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.ready.set()

    def stop(self) -> None:
        self.should_exit = True
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def work(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self.serve(self.listening))
        finally:
            self.ready.set()  # also if startup failed: `Server.start` is waiting


class Server:
    """A provider on a port of this machine.

    >>> from agentkit.lab import Provider
    >>> with Provider().serve() as server:
    ...     server.base_url
    'http://127.0.0.1:.../v1'

    `port=0` picks a free port. Use it as a context manager, or call `start()` and `close()`.
    Any OpenAI client can be pointed at `base_url`, with any key; `client()` returns a ready one.
    """

    def __init__(self, provider: HasApp, *, port: int = 0, host: str = "127.0.0.1") -> None:
        choice("host", host, _LOOPBACK, "the provider has no protection against strangers and serves this machine only")
        whole("port", port, "use 0 for any free port", least=0, most=65535)
        self.provider, self.host, self.port = provider, host, port
        self._uvicorn: _Uvicorn | None = None

    @property
    def base_url(self) -> str:
        """The `base_url` for an OpenAI client."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    def client(self, **options: Any) -> AsyncOpenAI:
        """A ready `AsyncOpenAI` that talks to this server over a socket; `options` go to it. Close it when done."""
        import httpx2
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        # trust_env: no proxy between a client and its own machine. verify: nothing is encrypted.
        http_client = DefaultAsyncHttpxClient(trust_env=False, verify=False)
        assert isinstance(http_client, httpx2.AsyncClient)
        usual: dict[str, Any] = {
            "api_key": "loopback",
            "base_url": self.base_url,
            "max_retries": 0,
            "http_client": http_client,
        }
        return AsyncOpenAI(**(usual | options))

    def start(self) -> Server:
        """Start listening; returns once requests are served."""
        if self._uvicorn:
            raise RuntimeError(f"{self!r} is started already; make another one with provider.serve()")
        listening = self._listen()
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(
            _App(self.provider.app), http=_Connection, ws="none", lifespan="off", log_config=None,
            log_level="critical", access_log=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._uvicorn = _Uvicorn(config, [listening])
        self._thread = threading.Thread(target=self._uvicorn.work, name="agentkit-provider", daemon=True)
        self._thread.start()
        self._uvicorn.ready.wait()
        atexit.register(self.close)
        return self

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        # IPPROTO_TCP named: otherwise asyncio leaves Nagle's algorithm on, and small answers wait 40 ms for an ACK.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if sys.platform != "win32":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self.host, self.port))
            listening.listen(2048)
        except (OSError, OverflowError) as error:
            listening.close()
            raise OSError(f"port {self.port} cannot be used ({error}); use port=0") from None
        return listening

    def close(self) -> None:
        """Drop all connections, stop listening, join the thread. Closing twice is safe."""
        if self._uvicorn and self._thread.is_alive():
            self._uvicorn.loop.call_soon_threadsafe(self._uvicorn.stop)
            self._thread.join()
        self._uvicorn = None
        atexit.unregister(self.close)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server {self.base_url if self._uvicorn else 'not running'}: {self.provider!r}>"
