"""What the embedded provider costs: calls per second against a bare app, and memory over 100,000 calls.

Run with `make bench`, or `python -m pytest tests/benchmarks/bench_provider.py -o python_files='bench_*.py' -s`.
Throughput is taken per second of processor time, in turns, so that other work on the machine does not decide; the bare
app is a starlette app that reads the JSON and returns the very bytes and headers that the provider returned once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.provider import Provider
from agentkit.lab.provider.quota import Limits
from agentkit.lab.provider.server import Server
from agentkit.lab.provider.transport import in_process_client

MESSAGES: list[Any] = [{"role": "user", "content": "hello " * 20}]
ROUNDS, CALLS, AT_ONCE = 41, 100, 25


def unlimited() -> Provider:
    """A provider whose limits and latency are at work but never in the way."""
    limits = Limits(requests_per_minute=10**9, tokens_per_minute=10**9)
    return Provider("open", limits=limits, latency=Latency.preset("instant"))


def bare_app() -> Starlette:
    """An app that returns what the provider returns, and does nothing else."""

    async def once() -> Any:
        return await unlimited().client().chat.completions.with_raw_response.create(model="small", messages=MESSAGES)

    raw = asyncio.run(once())
    headers = {name: value for name, value in raw.headers.items() if not name.startswith("content-")}

    async def answer(request: Request) -> Response:
        await request.json()
        return Response(raw.content, headers=headers, media_type="application/json")

    return Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])


async def calls_per_second(client: openai.AsyncOpenAI) -> float:
    """Calls per second of processor time, client included."""
    numbers = iter(range(CALLS))

    async def worker() -> None:
        for _ in numbers:
            await client.chat.completions.create(model="small", messages=MESSAGES)

    began = time.process_time()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return CALLS / (time.process_time() - began)


async def compare(bare: openai.AsyncOpenAI, ours: openai.AsyncOpenAI) -> tuple[float, float, float]:
    """Calls per second of both, each in its least disturbed round, and their ratio."""
    rounds = []
    await calls_per_second(bare), await calls_per_second(ours)
    for _ in range(ROUNDS):
        rounds.append((await calls_per_second(bare), await calls_per_second(ours)))
    await bare.close()
    await ours.close()
    left, right = map(max, zip(*rounds, strict=True))
    return left, right, right / left


def in_process() -> tuple[float, float, float]:
    """Both apps behind the in-process transport."""

    async def main() -> tuple[float, float, float]:
        return await compare(in_process_client(bare), unlimited().client())

    bare = bare_app()
    return asyncio.run(main())


def loopback() -> tuple[float, float, float]:
    """Both apps behind sockets."""
    bare: Any = SimpleNamespace(app=bare_app())
    with Server(bare) as one, unlimited().serve() as other:

        async def main() -> tuple[float, float, float]:
            return await compare(one.client(), other.client())

        return asyncio.run(main())


@pytest.mark.parametrize("shell", [in_process, loopback])
def test_Provider_throughput(shell: Callable[[], tuple[float, float, float]]) -> None:
    """At least 0.9 of what a bare app reaches, through the same client and the same shell."""
    bare, ours, ratio = shell()
    print(f"\n{shell.__name__:<11} bare {bare:6.0f}/s, provider {ours:6.0f}/s, ratio {ratio:.3f}")
    assert ratio >= 0.9


def resident() -> float:
    """Resident memory of this process in MB, now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_Provider_memory_is_flat() -> None:
    """A hundred thousand different calls leave no more than the bounded log behind."""
    provider = unlimited()

    async def main() -> list[float]:
        seen = []
        for number in range(100_000):
            body = json.dumps({"model": "small", "messages": [{"role": "user", "content": f"document {number}"}]})
            await call(provider, body.encode())
            if number % 20_000 == 19_999:
                seen.append(resident())
        return seen

    seen = simulate(main)
    print(f"\nMB after each 20,000 calls: {', '.join(f'{mb:.1f}' for mb in seen)}; log {len(provider.log)} rows")
    assert provider.statistics().completed == 100_000
    assert max(seen[1:]) - seen[0] < 2


async def call(provider: Provider, body: bytes) -> None:
    """One call straight into the app, so that the client's own memory plays no part."""

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        pass

    headers = [(b"authorization", b"Bearer k")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "root_path": ""}
    await provider.app(scope, receive, send)
