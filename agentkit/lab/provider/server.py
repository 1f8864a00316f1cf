"""The loopback shell: the provider behind a real socket, for any OpenAI client of any language.

What it holds: `Server`, a context manager, and the command `python -m agentkit.lab.provider.server`.
Guarantee: it listens on this machine only; after `close`, or when the interpreter ends, no thread and no socket is
left. A client that leaves early ends the work on its request, as in the in-process shell.
Strategy: uvicorn in one daemon thread with an event loop of its own, on a socket bound before the thread starts.
The loop is run by `asyncio.Runner`, which works under nest_asyncio too.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentkit.lab.provider.provider import Provider
from agentkit.lab.provider.quota import presets

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from agentkit.lab.provider.call_log import CallRecord

__all__ = ["Server", "main"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _Connection(H11Protocol):
    """A connection that can be found by its peer's address, and whose end ends the work on its request."""

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
    """The provider's app, with what this shell adds to the scope."""

    def __init__(self, app: Any) -> None:
        self.app, self.connections = app, dict[Any, _Connection]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        connection = self.connections[scope["client"]]
        connection.task, scope["cut"] = asyncio.current_task(), connection.transport.close
        try:
            await self.app(scope, receive, send)
        finally:
            connection.task = None


class _Uvicorn(uvicorn.Server):
    """A server that says when it is ready and hangs up on everybody when it is told to stop."""

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
            self.ready.set()  # whoever waits for a server that could not start must not wait for ever


class Server:
    """A provider on a port of this machine.

    >>> from agentkit.lab.provider.provider import Provider
    >>> with Provider().serve() as server:
    ...     server.base_url
    'http://127.0.0.1:.../v1'

    `port=0` lets the machine choose a free one. Use it as a context manager, or call `start()` and `close()`.
    Any OpenAI client can be pointed at `base_url`, with any key; `client()` gives a ready one.
    """

    def __init__(self, provider: Provider, *, port: int = 0, host: str = "127.0.0.1") -> None:
        if host not in _LOOPBACK:
            raise ValueError(
                f"host must be one of {', '.join(_LOOPBACK)}, got {host!r}; "
                "the provider has no protection against strangers and serves this machine only"
            )
        self.provider, self.host, self.port = provider, host, port
        self._uvicorn: _Uvicorn | None = None

    @property
    def base_url(self) -> str:
        """What to give an OpenAI client as `base_url`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    def client(self, **options: Any) -> AsyncOpenAI:
        """A ready `AsyncOpenAI` that talks to this server over a socket; `options` go to it. Close it when done."""
        import httpx2
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        # No proxy (trust_env) may stand between a client and its own machine, and nothing is encrypted (verify).
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
        """Listen, and return once requests are served."""
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
        # Named as TCP, or asyncio leaves Nagle's algorithm on, and small answers wait 40 ms for an acknowledgement.
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
        """Hang up on everybody, stop listening, end the thread. Closing twice does no harm."""
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C: `python -m agentkit.lab.provider.server --preset tier1 --port 0 --log`."""
    parser = _parser()
    options = parser.parse_args(arguments)
    provider = Provider(options.preset, seed=options.seed)
    if options.log:
        provider.subscribe(lambda call: print(_line(call), flush=True))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being told to stop is as good as Ctrl-C
    try:
        with Server(provider, port=options.port) as server:
            print(f"{options.preset}: {server.base_url} (any key; Ctrl-C to stop)", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except OSError as error:
        parser.exit(1, f"{error}\n")
    for name, value in asdict(provider.statistics()).items():
        print(f"{name:<15} {value}")


def _parser() -> argparse.ArgumentParser:
    known = presets("rate_limits.json")
    about = "\n".join(f"  {name:<11}{preset['about']}" for name, preset in known.items())
    parser = argparse.ArgumentParser(
        prog="python -m agentkit.lab.provider.server",
        description="An OpenAI-compatible provider on this machine: no key, no network, no money.",
        epilog=f"presets:\n{about}\n\nTheir figures and sources are in data/rate_limits.json and data/latency.json.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--preset", choices=known, default="lesson", metavar="NAME", help="limits and latency, see below"
    )
    parser.add_argument("--port", type=int, default=0, help="0 lets the machine choose a free one (the default)")
    parser.add_argument("--seed", type=int, default=0, help="what chance depends on (default 0)")
    parser.add_argument("--log", action="store_true", help="print a line for each call when it ends")
    return parser


def _line(call: CallRecord) -> str:
    seconds = (call.finished or call.arrived) - call.arrived
    return (
        f"{call.number:>6}  {call.endpoint:<9}  retry {call.retry}  {call.status or '---'}  {call.outcome:<18} "
        f"{seconds:7.3f} s  {call.prompt_tokens} + {call.output_tokens} tokens"
    )


if __name__ == "__main__":
    main()
