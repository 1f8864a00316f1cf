"""The provider's two shells: loopback HTTP and in-process, side by side."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.faults import Fault, Faults
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.provider import Provider
from agentkit.lab.provider.quota import Limits, presets
from agentkit.lab.provider.server import Server
from agentkit.lab.provider.transport import InProcessTransport

INSTANT = Latency.preset("instant")
Shell = Callable[[Provider, Callable[[httpx2.AsyncClient], Any]], Any]


def in_process(provider: Provider, scenario: Callable[[httpx2.AsyncClient], Any]) -> Any:
    """Play a scenario through the in-process transport, in virtual time."""

    async def main() -> Any:
        async with httpx2.AsyncClient(transport=InProcessTransport(provider.app), base_url="http://in-process/v1") as c:
            return await scenario(c)

    return simulate(main)


def loopback(provider: Provider, scenario: Callable[[httpx2.AsyncClient], Any]) -> Any:
    """Play a scenario over real sockets, in real time."""

    async def main(url: str) -> Any:
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as c:
            return await scenario(c)

    with provider.serve() as server:
        return asyncio.run(main(server.base_url))


SHELLS = pytest.mark.parametrize("shell", [in_process, loopback])
KEY = {"authorization": "Bearer k"}


def chat(text: str = "hello there", **more: Any) -> dict[str, Any]:
    """A request that asks for an echo of `text`."""
    return {"model": "small", "messages": [{"role": "user", "content": text}], **more}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another thread; the test's own time limit is the limit."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def scenario(client: httpx2.AsyncClient) -> list[Any]:
    """Good and bad requests, streams, refusals and faults, one after the other."""
    seen: list[Any] = []
    for path, body in [
        ("/chat/completions", chat()),
        ("/chat/completions", chat(stream=True, stream_options={"include_usage": True})),
        ("/responses", {"model": "small", "input": "hello", "stream": True}),
        ("/chat/completions", chat(max_tokens=-1)),
        ("/chat/completions", chat("x" * 10**7)),
        ("/chat/completions", chat(max_tokens=2000)),
        ("/chat/completions", chat("cut before")),
        ("/chat/completions", chat("cut in mid-stream", stream=True)),
        ("/chat/completions", chat("overloaded")),
        ("/chat/completions", chat("the last that fits")),
        ("/chat/completions", chat("one too many")),
        ("/nowhere", {}),
    ]:
        text = b""
        try:
            async with client.stream("POST", path, json=body, headers=KEY) as answer:
                kept = {n: v for n, v in answer.headers.items() if n.startswith(("x-", "retry", "content-"))}
                seen.append((answer.status_code, kept))
                async for data in answer.aiter_bytes():
                    text += data
        except httpx2.HTTPError as error:
            seen.append(type(error))
        seen.append(text)
    return seen


def decisions(shell: Shell) -> tuple[Any, ...]:
    """What a client saw and what the provider wrote down, times left out."""
    provider = Provider(
        limits=Limits(requests_per_minute=8, tokens_per_minute=1000, hint="none"),
        latency=INSTANT,
        faults=Faults(script={7: "cut", 8: "cut_stream", 9: "overloaded"}),
    )
    seen = shell(provider, scenario)
    rows = [
        (
            c.number,
            c.endpoint,
            c.status,
            c.outcome,
            c.stream,
            c.in_flight,
            c.prompt_tokens,
            c.output_tokens,
            c.charged_tokens,
        )
        for c in provider.log
    ]
    statistics = provider.statistics()
    return seen, rows, statistics.refused, statistics.completed, statistics.tokens_charged


def test_Provider_both_shells_decide_alike() -> None:
    """The same scenario gives the same statuses, headers, bytes, exceptions and books."""
    ours, theirs = decisions(in_process), decisions(loopback)
    for seen in (ours[0], theirs[0]):  # 17 tokens a second flow in: the one thing that depends on the machine's speed
        for entry in seen:
            if isinstance(entry, tuple):
                entry[1].pop("x-ratelimit-remaining-tokens", None)
                entry[1].pop("x-ratelimit-reset-tokens", None)
    assert ours == theirs
    assert [row[3] for row in ours[1]] == [
        "ok", "ok", "ok", "bad_request", "bad_request", "too_large", "cut", "cut_stream", "overloaded", "ok",
        "rate_limit",
    ]  # fmt: skip
    assert ours[0].count(httpx2.RemoteProtocolError) == 2


@SHELLS
def test_Provider_times_are_the_same_in_both_shells(shell: Shell) -> None:
    """At scale 1, a piece of a stream comes when the latency says: never early, and late only by the machine."""
    provider = Provider("open", latency=Latency(base=0.2, speed=20, mean_output=0))

    async def watch(client: httpx2.AsyncClient) -> list[float]:
        loop, times = asyncio.get_running_loop(), []
        began = loop.time()
        async with client.stream("POST", "/chat/completions", json=chat(stream=True), headers=KEY) as answer:
            async for _ in answer.aiter_bytes():
                times.append(loop.time() - began)
        return times

    times = shell(provider, watch)
    expected = [0.2, 0.25, 0.3, 0.35]
    assert len(times) >= 3
    assert times[0] >= expected[0] - 1e-6
    assert times[-1] >= expected[-1] - 1e-6
    if shell is in_process:
        assert times[:4] == pytest.approx(expected)


@SHELLS
@pytest.mark.parametrize("stream", [False, True])
def test_Provider_client_that_leaves_ends_the_work(shell: Shell, stream: bool) -> None:
    """After a read timeout the provider has nothing in flight and calls the request abandoned; it is still charged."""
    provider = Provider("open", latency=Latency(base=3600, speed=None))

    async def leave(client: httpx2.AsyncClient) -> None:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post("/chat/completions", json=chat(stream=stream), headers=KEY, timeout=0.1)
        await until(lambda: not provider.statistics().in_flight)

    shell(provider, leave)
    seen = provider.statistics()
    assert (seen.accepted, seen.abandoned, seen.completed) == (1, 1, 0)
    assert seen.tokens_charged > 0


@SHELLS
def test_Provider_stream_closed_early_ends_the_work(shell: Shell) -> None:
    """Leaving a stream in the middle frees its slot."""
    provider = Provider("open", latency=Latency(base=0, speed=20, mean_output=0, slots=1))

    async def leave(client: httpx2.AsyncClient) -> None:
        for _ in range(3):
            async with client.stream(
                "POST", "/chat/completions", json=chat("x" * 4000, stream=True), headers=KEY
            ) as answer:
                async for _ in answer.aiter_bytes():
                    break

    shell(provider, leave)
    assert provider.statistics().in_flight == 0
    assert [call.outcome for call in provider.log] == ["abandoned"] * 3


def test_InProcessTransport_cancelling_the_caller_cancels_the_work() -> None:
    """`asyncio.timeout` around a call leaves no task behind."""
    provider = Provider("open", latency=Latency(base=100, speed=None))

    async def main() -> tuple[float, int]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await provider.client().responses.create(model="small", input="x")
        return asyncio.get_running_loop().time(), len(asyncio.all_tasks())

    assert simulate(main) == (2, 1)
    assert provider.statistics().abandoned == 1


def test_InProcessTransport_stock_one_does_break() -> None:
    """The stock ASGI transport collects the stream and knows no timeout; this is why there is another."""
    provider = Provider("open", latency=Latency(base=5, speed=1, mean_output=0))

    async def times(transport: httpx2.AsyncBaseTransport) -> list[float]:
        loop, seen = asyncio.get_running_loop(), []
        async with (
            httpx2.AsyncClient(transport=transport, base_url="http://in-process/v1", timeout=6) as client,
            client.stream("POST", "/chat/completions", json=chat("eight ch", stream=True), headers=KEY) as answer,
        ):
            async for _ in answer.aiter_bytes():
                seen.append(loop.time())
        return seen

    assert simulate(times, InProcessTransport(provider.app)) == [5, 6, 7, 7]
    assert simulate(times, httpx2.ASGITransport(app=provider.app)) == [7]


def test_Server_with_the_real_client_over_sockets() -> None:
    """Whole and streamed answers, two loops one after the other, statistics read from outside."""
    provider = Provider("open", latency=Latency(base=0.01, speed=2000))

    async def main(server: Server) -> tuple[str, str]:
        async with server.client() as client:
            many = [client.chat.completions.create(**chat(f"number {i}")) for i in range(30)]
            texts = [answer.choices[0].message.content for answer in await asyncio.gather(*many)]
            async with client.responses.stream(model="small", input="streamed") as stream:
                async for _ in stream:
                    pass
                return str(texts[7]), (await stream.get_final_response()).output_text

    with provider.serve() as server:
        assert [asyncio.run(main(server)) for _ in range(2)] == [("number 7", "streamed")] * 2
        assert provider.statistics().completed == 62
        assert repr(server).startswith(f"<Server {server.base_url}: <Provider open")


def test_Server_leaves_no_thread_and_no_socket() -> None:
    """After closing, with a request still at work, the thread is gone and the port is free again."""
    provider = Provider("open", latency=Latency(base=3600, speed=None))
    before = set(threading.enumerate())

    async def main(server: Server) -> None:
        async with server.client() as client:
            call = asyncio.create_task(client.chat.completions.create(**chat()))
            await until(lambda: provider.statistics().in_flight == 1)
            await asyncio.to_thread(server.close)
            with pytest.raises(openai.APIConnectionError):
                await call

    with provider.serve() as server:
        port = server.port
        asyncio.run(main(server))
    assert set(threading.enumerate()) == before
    assert provider.statistics().in_flight == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    with provider.serve(port=port) as again:
        assert again.port == port


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.168.1.5", "::", "example.org"])
def test_Server_refuses_all_but_loopback(host: str) -> None:
    """Any host that others could reach is an error before a socket is opened."""
    with pytest.raises(ValueError, match=r"host must be one of 127\.0\.0\.1, localhost, ::1, got"):
        Provider().serve(host=host)


def test_Server_port_in_use_is_said() -> None:
    """A port that is taken is named, with the remedy."""
    with (
        Provider().serve() as server,
        pytest.raises(OSError, match=f"port {server.port} cannot be used .*; use port=0"),
        Provider().serve(port=server.port),
    ):
        pass


def test_Server_settings_apply_from_another_thread() -> None:
    """Slots raised from outside admit at once those who wait in the server's own thread."""
    provider = Provider("open", latency=Latency(base=3600, speed=None, slots=1))

    async def main(server: Server) -> int:
        async with server.client() as client:
            calls = [asyncio.create_task(client.chat.completions.create(**chat(f"{i}"))) for i in range(3)]
            await until(lambda: provider.statistics().queue_depth == 2)
            provider.latency = Latency(base=3600, speed=None, slots=3)
            await until(lambda: provider.statistics().in_flight == 3)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            return provider.statistics().queue_depth

    with provider.serve() as server:
        assert asyncio.run(main(server)) == 0


def python(code: str) -> str:
    """Run a script in an interpreter of its own; it must end by itself."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_Server_does_not_outlive_the_interpreter() -> None:
    """A script that forgets to close its server ends all the same."""
    code = "from agentkit.lab.provider.provider import Provider; s = Provider().serve().start(); print(s.port)"
    port = int(python(code))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_Server_works_where_nest_asyncio_was_applied() -> None:
    """nest_asyncio replaces `asyncio.run`, which would kill a server thread started the usual way on 3.12 and later."""
    code = """
import warnings; warnings.simplefilter("ignore")
import asyncio, nest_asyncio; nest_asyncio.apply()
from agentkit.lab.provider.provider import Provider
async def main(server):
    async with server.client() as client:
        answer = await client.responses.create(model="small", input="served")
        print(answer.output_text)
with Provider("open").serve() as server:
    asyncio.run(main(server))
"""
    assert python(code) == "served\n"


def test_server_command_serves_logs_and_sums_up() -> None:
    """`python -m agentkit.lab.provider` prints its URL, a line per call, and its statistics when interrupted."""
    command = [sys.executable, "-m", "agentkit.lab.provider", "--preset", "free", "--log"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        with httpx2.Client(trust_env=False) as client:
            for _ in range(4):
                answer = client.post(f"{url}/chat/completions", content=json.dumps(chat(max_tokens=1)), headers=KEY)
        assert answer.status_code == 429
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    lines = out.splitlines()
    assert sum(" 200  ok " in line for line in lines) == 3
    assert sum(" 429  rate_limit " in line for line in lines) == 1
    assert "arrivals        4" in lines
    assert "refused         {'rate_limit': 1}" in lines


def test_server_command_help_explains_each_preset(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` has a line for each preset."""
    from agentkit.lab.provider.__main__ import main

    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for name, preset in presets("rate_limits.json").items():
        assert f"{name} " in text
        assert preset["about"] in text


@pytest.mark.parametrize("name", ["rate_limits.json", "latency.json"])
def test_presets_name_their_sources(name: str) -> None:
    """Every preset says what it is and where its figures come from."""
    for preset in presets(name).values():
        assert preset["about"]
        assert len(preset["source"]) > 40


def test_Fault_repr_is_what_one_types() -> None:
    """A fault prints as the code that makes it."""
    assert eval(repr(Fault("cut"))) == Fault("cut")
