"""An OpenAI-compatible provider inside your own process: no key, no network, no money.

What it holds: `Provider`, the object you create. Its parts have files of their own, listed in the package docstring.
Guarantee: limits, headers, errors and streams are those of a paid endpoint; the same seed gives the same run.
Strategy: `decisions` decides, given a request and the time; two transports only carry bytes: `client()` stays in the
process and runs on any clock, `serve()` listens on loopback.
Limits, latency and faults can be replaced while it runs. One event loop at a time; settings from any thread.
Not reproduced: tool calls, images, batches, organizations and projects, HTTP/2, TLS.
Opened by notebook 07; used by all from 01 on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agentkit.base.arguments import attribute, function, instance, items, text, whole
from agentkit.lab.provider.answers import teaching_answer
from agentkit.lab.provider.call_log import CallLog, CallRecord, ProviderStatistics
from agentkit.lab.provider.decisions import Decisions
from agentkit.lab.provider.faults import Faults
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.quota import Limits, presets
from agentkit.lab.provider.request import Request

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from starlette.applications import Starlette

    from agentkit.lab.provider.server import Server

__all__ = ["MODELS", "Provider"]

MODELS = (
    "small", "large", "fast",
    "gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-5", "gpt-5-mini",
)  # fmt: skip
"""The models it serves; the name changes nothing else. The last seven let code written for an account run unchanged."""


def _names(name: str, value: Any) -> tuple[str, ...]:
    return tuple(text(name, model) for model in items(name, value, "give the names of models"))


class Provider:
    """An OpenAI-compatible provider to run agents against, on this machine alone.

    >>> from agentkit.lab.loops.virtual import simulate
    >>> provider = Provider("lesson", seed=1)
    >>> async def ask(question):
    ...     answer = await provider.client().chat.completions.create(
    ...         model="small", messages=[{"role": "user", "content": question}])
    ...     return answer.choices[0].message.content
    >>> simulate(ask, "How many agents?")
    'How many agents?'
    >>> provider
    <Provider lesson: 300 requests/min, no token limit; 1 arrived, 0 refused, 0 in flight>

    Presets: free, tier1, tier1-mini, tier3, azure-10k, lesson, open (`data/rate_limits.json` describes each).
    `limits`, `latency` and `faults` may be given, and assigned at any time:
    `provider.limits = replace(provider.limits, requests_per_minute=60)`, with `dataclasses.replace`.
    `answer(request) -> str` returns what the model says. On a loop with another clock (a new `simulate`) the provider
    starts over with full buckets and an empty log, so running a cell again gives the same result.
    """

    models: tuple[str, ...] = attribute(_names)
    """The models it serves."""
    seed: int = attribute(whole, least=None)
    """What random choices depend on."""
    answer: Callable[[Request], str] = attribute(function, remedy="write answer=lambda request: 'yes'")
    """What the model says to a request."""

    def __init__(
        self, preset: str = "lesson", *, seed: int = 0, limits: Limits | None = None, latency: Latency | None = None,
        faults: Faults | None = None, answer: Callable[[Request], str] = teaching_answer,
        models: Sequence[str] = MODELS, log_size: int = 10_000,
    ) -> None:  # fmt: skip
        usual = Limits.preset(preset)  # also where limits are given: a preset must exist
        self._limits = instance("limits", limits, Limits, none=True) or usual
        usual_latency = Latency.preset(presets("rate_limits.json")[preset]["latency"])
        self._latency = instance("latency", latency, Latency, none=True) or usual_latency
        self._faults = instance("faults", faults, Faults, none=True) or Faults()
        self._preset, self.seed, self.answer, self.models = preset, seed, answer, models  # type: ignore[assignment]
        self._decisions = Decisions(self, whole("log_size", log_size, "it is how many calls to keep"))

    @property
    def preset(self) -> str:
        """The name of the preset."""
        return self._preset

    @property
    def limits(self) -> Limits:
        """What may be used per minute; assign to it at any time. Usage so far still counts."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = instance("limits", limits, Limits)

    @property
    def latency(self) -> Latency:
        """How long answers take; assign to it at any time. Answers in progress are not affected."""
        return self._latency

    @latency.setter
    def latency(self, latency: Latency) -> None:
        self._latency = instance("latency", latency, Latency)
        self._decisions.apply_slots()

    @property
    def faults(self) -> Faults:
        """What goes wrong; assign to it at any time."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = instance("faults", faults, Faults)

    @property
    def log(self) -> CallLog:
        """The latest calls; `provider.log.to_frame()` for pandas."""
        return self._decisions.log

    def statistics(self) -> ProviderStatistics:
        """What the provider is doing now, and its totals so far."""
        return self._decisions.statistics()

    def subscribe(self, listener: Callable[[CallRecord], None]) -> Callable[[], None]:
        """Call `listener(call)` whenever a call has ended; returns a function that unsubscribes."""
        return self._decisions.subscribe(function("listener", listener))

    def client(self, **options: Any) -> AsyncOpenAI:
        """A ready `AsyncOpenAI` that stays inside the process; works in real and in virtual time.

        It does not retry on its own (`max_retries=0`); `options` go to `AsyncOpenAI`.
        """
        from agentkit.lab.provider.transport import in_process_client

        return in_process_client(self.app, **options)

    def serve(self, *, port: int = 0, host: str = "127.0.0.1") -> Server:
        """A loopback server for this provider: `with provider.serve() as server: server.base_url`."""
        from agentkit.lab.provider.server import Server

        return Server(self, port=port, host=host)

    @cached_property
    def app(self) -> Starlette:
        """The ASGI app, a Starlette one, behind both transports."""
        from agentkit.lab.provider.app import make_app

        return make_app(self._decisions)

    def __repr__(self) -> str:
        def per_minute(limit: int | None, what: str) -> str:
            return f"no {what} limit" if limit is None else f"{limit:,} {what}s/min"

        limits, seen = self._limits, self.statistics()
        return (
            f"<Provider {self.preset}: {per_minute(limits.requests_per_minute, 'request')}, "
            f"{per_minute(limits.tokens_per_minute, 'token')}; {seen.arrivals:,} arrived, "
            f"{sum(seen.refused.values()):,} refused, {seen.in_flight} in flight>"
        )
