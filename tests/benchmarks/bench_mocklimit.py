"""The embedded provider next to mocklimit, the nearest rival in fidelity, on the same work.

Run with `python tests/benchmarks/bench_mocklimit.py`; it installs mocklimit into an environment of its own in a
temporary folder, starts both servers as processes on loopback, asks both the same questions and prints the answers.
mocklimit serves any API that an OpenAPI file describes; it is configured here as close to the OpenAI API as it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.faults import FAULTS
from agentkit.lab.provider.provider import Provider

SPEC = """
openapi: 3.0.0
info: {title: chat, version: "1"}
servers: [{url: "http://127.0.0.1/v1"}]
paths:
  /chat/completions:
    post:
      responses:
        "200":
          description: ok
          content:
            application/json:
              schema: {type: object, properties: {id: {type: string}, choices: {type: array, items: {type: object}}}}
"""
CONFIG = """
policies:
  chat:
    strategy: token_bucket
    scope: api_key
    format: {reset: go_duration, retry_after: {header: retry-after-ms, unit: milliseconds}}
    error_template: {provider: openai}
    limits:
      - {dimension: requests, capacity: 5000, refill_rate: 83.3333, headers: {limit: x-ratelimit-limit-requests, \
remaining: x-ratelimit-remaining-requests, reset: x-ratelimit-reset-requests}}
      - {dimension: tokens, capacity: 160000, refill_rate: 2666.6667, headers: {limit: x-ratelimit-limit-tokens, \
remaining: x-ratelimit-remaining-tokens, reset: x-ratelimit-reset-tokens}}
endpoints:
  /chat/completions:
    methods: [POST]
    policy: chat
    resources:
      requests: {input: {strategy: fixed, value: 1}, output: {strategy: fixed, value: 0}}
      tokens: {input: {strategy: characters_div_4}, output: {strategy: random, range: [1, 400], cap_field: max_tokens}}
"""
Ask = Callable[..., httpx2.Response]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(*command: str, port: int) -> Iterator[Ask]:
    """Run a server until the block ends; gives a function that posts to it with a key of its own each time."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until = time.monotonic() + 30
            while time.monotonic() < until:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}/v1", trust_env=False, timeout=30) as client:
                yield lambda key="k", **body: client.post(
                    "/chat/completions", headers={"authorization": f"Bearer {key}"}, content=json.dumps(body)
                )
        finally:
            server.terminate()


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    """A request."""
    return {"model": "small", "messages": [{"role": "user", "content": text}], **more}


def milliseconds(duration: str) -> float:
    """A Go duration in milliseconds."""
    units = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", duration))


def reset_formula(ask: Ask) -> str:
    """Whether the reset header is (limit - remaining) / limit x 60 s."""
    headers = ask("reset", **chat(max_tokens=20)).headers
    right = []
    for kind in ("requests", "tokens"):
        limit, remaining = (int(headers[f"x-ratelimit-{name}-{kind}"]) for name in ("limit", "remaining"))
        right.append(
            abs(milliseconds(headers[f"x-ratelimit-reset-{kind}"]) - (limit - remaining) / limit * 60_000) <= 1
        )
    return (
        "exact" if all(right) else f"requests {'exact' if right[0] else 'off'}, tokens {'exact' if right[1] else 'off'}"
    )


def refusal_formula(ask: Ask) -> str:
    """Whether a refusal's Limit, Used, Requested and hint obey (used + requested - limit) / limit x 60 s."""
    for _ in range(6):
        answer = ask("refusal", **chat("x" * 160_000, max_tokens=1))
        if answer.status_code == 429:
            found = re.search(r"Limit (\d+), Used (\d+), Requested (\d+)", answer.json()["error"]["message"])
            limit, used, requested = map(int, found.groups()) if found else (1, 0, 0)
            hint, formula = float(answer.headers["retry-after-ms"]), (used + requested - limit) / limit * 60_000
            return "exact" if abs(hint - formula) <= 1 else f"hint {hint:.0f} ms, formula {formula:.0f} ms"
    return "no refusal"


def stream(ask: Ask) -> str:
    """What `stream=True` gives."""
    answer = ask(**chat(stream=True))
    kind, events = answer.headers["content-type"].split(";")[0], answer.text.count("data: ")
    return f"{events} events, ends with [DONE]" if "[DONE]" in answer.text else f"none ({kind})"


def cap_charged(ask: Ask) -> str:
    """Whether `max_tokens` is charged on arrival."""
    left = [ask(f"cap{cap}", **chat(max_tokens=cap)).headers["x-ratelimit-remaining-tokens"] for cap in (10, 4000)]
    return "yes" if abs(int(left[0]) - int(left[1]) - 3990) <= 20 else "no"  # the bucket refills in between


def bad_requests(ask: Ask) -> str:
    """Statuses of a negative cap, an unknown model and missing messages."""
    bodies = (chat(max_tokens=-5), chat() | {"model": "nothing"}, {"model": "small"})
    return ", ".join(str(ask(**body).status_code) for body in bodies)


def six_headers(ask: Ask) -> str:
    """How many rate-limit headers a success carries."""
    return str(sum(name.startswith("x-ratelimit-") for name in ask(**chat(max_tokens=1)).headers))


def calls_per_second(ask: Ask) -> str:
    """Sequential calls per second over one connection; latency differs, so only the refused ones are timed."""
    while ask("speed", **chat("x" * 160_000, max_tokens=1)).status_code != 429:
        pass
    began = time.perf_counter()
    for _ in range(300):
        ask("speed", **chat("x" * 4_000, max_tokens=100_000))
    return f"{300 / (time.perf_counter() - began):.0f}"


PROBES: dict[str, Callable[[Ask], str]] = {
    "rate-limit headers on success": six_headers,
    "time to full, to the millisecond": reset_formula,
    "max_tokens charged on arrival": cap_charged,
    "streams": stream,
    "bad cap, model, messages": bad_requests,
    "time to fit, to the millisecond": refusal_formula,
    "refusals per second, one connection": calls_per_second,
}


def virtual_seconds() -> str:
    """A thousand calls of seconds each, on the virtual clock."""
    provider = Provider("open")

    async def main() -> float:
        client = provider.client()
        calls = [client.chat.completions.create(**chat(f"{i}", max_tokens=300)) for i in range(1000)]
        await asyncio.gather(*calls)
        return asyncio.get_running_loop().time()

    began = time.perf_counter()
    virtual = simulate(main)
    return f"{virtual:.0f} s of calls in {time.perf_counter() - began:.1f} s"


def install(folder: Path) -> str:
    """Put mocklimit into an environment of its own; return its interpreter."""
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    with (folder / "pip.log").open("w") as log:
        subprocess.run([python, "-m", "pip", "install", "mocklimit==0.6.0"], stdout=log, stderr=log, check=True)
    (folder / "spec.yaml").write_text(SPEC)
    (folder / "limits.yaml").write_text(CONFIG)
    return python


def main() -> None:
    """Print the table; fails if the provider does not reproduce what it claims to."""
    with tempfile.TemporaryDirectory() as name:
        folder, port, other = Path(name), free_port(), free_port()
        theirs = [install(folder), "-m", "mocklimit", "serve", "--port", str(port), "--spec", str(folder / "spec.yaml")]
        theirs += ["--rate-config", str(folder / "limits.yaml"), "--log-level", "ERROR"]
        ours = [sys.executable, "-m", "agentkit.lab.provider", "--preset", "tier3", "--port", str(other)]
        with process(*theirs, port=port) as mocklimit, process(*ours, port=other) as agentkit:
            rows = [(name, probe(agentkit), probe(mocklimit)) for name, probe in PROBES.items()]
    rows.append(("faults", f"{len(FAULTS)} kinds, by rate or script", "none"))  # the rest: from its documentation
    rows.append(("virtual time", virtual_seconds(), "none: a server process"))
    rows.append(("changed while it runs", "limits, latency, faults", "no: read at the start"))
    print(f"{'':<38}{'agentkit':<34}mocklimit 0.6.0")
    for row in rows:
        print(f"{row[0]:<38}{row[1]:<34}{row[2]}")
    assert [row[1] for row in rows[:4]] == ["6", "exact", "yes", "5 events, ends with [DONE]"]
    assert [row[1] for row in rows[4:6]] == ["400, 404, 400", "exact"]


if __name__ == "__main__":
    main()
