"""An OpenAI-compatible provider inside your own process: no key, no network, no money.

What it holds: `Provider`. Its parts have files of their own: limits, latency, faults, errors, wire, replies, answers.
Guarantee: limits, headers, errors and streams are those of a paid endpoint; the same seed gives the same run.
Strategy: a core that decides, given a request and the time, and two shells around it that only carry bytes:
`client()` stays in the process and runs on any clock, `serve()` listens on loopback.
Limits, latency and faults can be replaced while it runs. One event loop at a time; settings from any thread.
Not reproduced: tool calls, images, batches, organisations and projects, HTTP/2, TLS.
Opened by notebook 07; used by all from 01 on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agentkit.lab.provider.answers import teaching_answer
from agentkit.lab.provider.call_log import CallLog, CallRecord, ProviderState, ProviderStatistics
from agentkit.lab.provider.delivery import Job
from agentkit.lab.provider.errors import ERRORS, ApiError, injected_error, rate_limited
from agentkit.lab.provider.faults import Fault, Faults
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.quota import Limits, QuotaRejection, presets
from agentkit.lab.provider.request import Request
from agentkit.lab.provider.response import make_completion
from agentkit.limits import estimate_tokens

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from starlette.applications import Starlette

    from agentkit.lab.provider.server import Server

__all__ = ["MODELS", "Provider"]

MODELS = (
    "small", "large", "fast",
    "gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-5", "gpt-5-mini",
)  # fmt: skip
"""The models it has; the name changes nothing else. The last seven let code written for an account run unchanged."""


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

    Presets: free, tier1, tier1-mini, tier3, azure-10k, lesson, open (`data/rate_limits.json` says what each is).
    `limits`, `latency` and `faults` may be given, and assigned at any time:
    `provider.limits = replace(provider.limits, requests_per_minute=60)`, with `dataclasses.replace`.
    `answer(request) -> str` decides what the model says. A provider that meets another clock (a new `simulate`) starts
    over with full buckets and an empty log, so a cell that is run again gives the same result.
    """

    def __init__(
        self, preset: str = "lesson", *, seed: int = 0, limits: Limits | None = None, latency: Latency | None = None,
        faults: Faults | None = None, answer: Callable[[Request], str] = teaching_answer,
        models: Sequence[str] = MODELS, log_size: int = 10_000,
    ) -> None:  # fmt: skip
        usual = Limits.preset(preset)  # also where limits are given: a preset must exist
        self._limits = limits or usual
        self._latency = latency or Latency.preset(presets("rate_limits.json")[preset]["latency"])
        self._faults = faults or Faults()
        self.preset, self.seed, self.answer, self.models = preset, seed, answer, tuple(models)
        self._log_size, self._listeners = log_size, list[Callable[[CallRecord], None]]()
        for name, kind in (("limits", Limits), ("latency", Latency), ("faults", Faults)):
            _check(name, getattr(self, name), kind)
        self._clock: object = self  # no clock met so far
        self._loop: asyncio.AbstractEventLoop | None = None
        self._epoch = ProviderState(self._limits, self._latency.slots, log_size, 0.0)

    @property
    def limits(self) -> Limits:
        """What may be used per minute; assign to it at any time. What was used up stays used up."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        _check("limits", limits, Limits)
        self._limits = limits

    @property
    def latency(self) -> Latency:
        """How long answers take; assign to it at any time. Answers under way are not changed."""
        return self._latency

    @latency.setter
    def latency(self, latency: Latency) -> None:
        _check("latency", latency, Latency)
        self._latency = latency
        self._on_its_loop(self._apply_slots)

    @property
    def faults(self) -> Faults:
        """What goes wrong; assign to it at any time."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        _check("faults", faults, Faults)
        self._faults = faults

    @property
    def log(self) -> CallLog:
        """The latest calls; `provider.log.to_frame()` for pandas."""
        return self._epoch.log

    def statistics(self) -> ProviderStatistics:
        """What the provider is doing now, and its sums so far."""
        return self._epoch.statistics(self._time())

    def subscribe(self, listener: Callable[[CallRecord], None]) -> Callable[[], None]:
        """Call `listener(call)` whenever a call has ended; returns a function that ends the subscription."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def client(self, **options: Any) -> AsyncOpenAI:
        """A ready `AsyncOpenAI` that stays inside the process; works in real and in virtual time.

        It does not retry by itself (`max_retries=0`); `options` go to `AsyncOpenAI`.
        """
        from agentkit.lab.provider.transport import in_process_client

        return in_process_client(self.app, **options)

    def serve(self, *, port: int = 0, host: str = "127.0.0.1") -> Server:
        """A loopback server for this provider: `with provider.serve() as server: server.base_url`."""
        from agentkit.lab.provider.server import Server

        return Server(self, port=port, host=host)

    @cached_property
    def app(self) -> Starlette:
        """The starlette app that both shells carry bytes to."""
        from agentkit.lab.provider.app import make_app

        return make_app(self)

    # What follows is called by the app, for each call: arrive, then decide, then work.

    def arrive(self, endpoint: str, retry: int) -> CallRecord:
        """Write a call into the log."""
        epoch = self._enter()
        epoch.arrivals += 1
        epoch.by_retry[retry] += 1
        call = CallRecord(epoch.arrivals, self._time(), endpoint, retry)
        epoch.log.append(call)
        return call

    def decide(self, request: Request, call: CallRecord) -> Job:
        """Accept a request, with all that chance decides about it, or raise the `ApiError` it gets."""
        epoch, now, limits = self._epoch, call.arrived, self._limits
        epoch.quota.apply(limits, now)
        fingerprint = request.fingerprint()
        repeats = epoch.repeats(fingerprint)
        repeats[0] += 1
        key = f"{fingerprint}{repeats[1]}"
        text = self._answer(request)
        call.model, call.stream, call.prompt_tokens = request.model, request.stream, request.prompt_tokens
        draw = self._latency.draw(f"{self.seed}:{key}", call.prompt_tokens, estimate_tokens(text), request.max_tokens)
        cap = request.max_tokens if limits.charge == "max_tokens" and request.max_tokens else draw.output_tokens
        call.charged_tokens = call.prompt_tokens + cap * request.n
        rejection = epoch.quota.take(call.charged_tokens, now)
        if rejection:
            raise self._rate_limited(rejection, request.model)
        fault = self._faults.choose(call.number, f"{self.seed}:fault:{fingerprint}:{repeats[0]}")
        failure = self._failure(fault, request.model)
        if failure:
            if not limits.count_failed:
                epoch.quota.give_back(1, call.charged_tokens, now)
            raise failure
        repeats[1] += 1
        completion = make_completion(request, key, now - epoch.began, text, draw.output_tokens)
        call.output_tokens, call.outcome = draw.output_tokens * request.n, "waiting"
        epoch.accepted += 1
        epoch.charged += call.charged_tokens
        epoch.used += call.prompt_tokens + call.output_tokens
        return Job(call, completion, draw, fault, epoch.quota.headers(now), epoch)

    def _rate_limited(self, rejection: QuotaRejection, model: str) -> ApiError:
        error = rate_limited(rejection, model)
        if rejection.kind != "too_large":  # no wait helps that one
            error.headers |= self._epoch.quota.hint(rejection.wait_ms)
        error.seconds = self._limits.refusal_seconds
        return error

    def _failure(self, fault: Fault | None, model: str) -> ApiError | None:
        """The error that a fault, or a full line of waiting requests, answers with."""
        slots, bound = self._epoch.slots, self._latency.max_queue
        if fault and fault.kind in ERRORS:
            error, wait_ms = injected_error(fault.kind, model, self._limits)
            error.headers = (self._epoch.quota.hint(wait_ms) if wait_ms else {}) | dict(fault.headers)
            return error
        if bound is not None and slots.locked() and slots.statistics().queue_depth >= bound:
            return ApiError("overloaded")
        return None

    def refuse(self, call: CallRecord, error: ApiError) -> dict[str, str]:
        """Note that a call got an error; returns the rate-limit headers to send with it."""
        self._epoch.refused[error.name] += 1
        call.status, call.outcome, call.charged_tokens = error.status, error.name, 0
        self._end(call)
        hidden = error.status == 429 and self._limits.hint == "none"
        return {} if hidden else self._epoch.quota.headers(self._time())

    def headers(self, call: CallRecord, quota: dict[str, str]) -> dict[str, str]:
        """The headers of any answer to a call; its rate-limit headers are those of its arrival."""
        return {
            "x-request-id": f"req_{call.number:08d}", "openai-organization": "org-lab", "openai-version": "2020-10-01",
            "openai-processing-ms": str(round((self._time() - call.arrived) * 1000)),
            **quota,
        }  # fmt: skip

    def begin_answer(self, call: CallRecord) -> None:
        """Note that the first byte of an answer leaves."""
        call.status, call.first_token = 200, self._time()

    @asynccontextmanager
    async def work(self, job: Job) -> AsyncIterator[int]:
        """Hold a slot for a job, waiting for one if need be; gives how many are at work. Notes how it ended."""
        call, epoch = job.call, job.epoch
        try:
            async with epoch.slots:
                call.started, call.in_flight = self._time(), epoch.slots.statistics().in_flight
                yield call.in_flight
        except BaseException:  # the client left, or the provider is being stopped
            epoch.abandoned += 1
            call.outcome = "abandoned"
            raise
        else:
            epoch.completed += 1
            call.outcome = job.fault.kind if job.fault else "ok"
        finally:
            if self._limits.refund:
                unused = max(0, call.charged_tokens - call.prompt_tokens - call.output_tokens)
                epoch.charged -= unused
                epoch.quota.give_back(0, unused, self._time())
            self._end(call)

    def _end(self, call: CallRecord) -> None:
        call.finished = self._time()
        for listener in list(self._listeners):
            listener(call)

    def _answer(self, request: Request) -> str:
        try:
            return self.answer(request)
        except Exception as error:
            raise ApiError("server_error", f"The answer function raised {type(error).__name__}: {error}") from error

    def _enter(self) -> ProviderState:
        """The present run; a new one if the running loop keeps another clock than the last."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            real = type(loop).time is asyncio.BaseEventLoop.time
            clock = "the machine's" if real else loop  # all real loops share one clock, a virtual loop has its own
            if clock != self._clock:
                self._epoch = ProviderState(self._limits, self._latency.slots, self._log_size, loop.time())
            self._loop, self._clock = loop, clock
        return self._epoch

    def _time(self) -> float:
        return self._loop.time() if self._loop else 0.0

    def _apply_slots(self) -> None:
        self._epoch.slots.limit = self._latency.slots

    def _on_its_loop(self, change: Callable[[], None]) -> None:
        """Make a change where it is safe: waiters must be woken in the thread of their own loop."""
        if self._loop is None or not self._loop.is_running():
            change()
        else:
            self._loop.call_soon_threadsafe(change)

    def __repr__(self) -> str:
        def per_minute(limit: int | None, what: str) -> str:
            return f"no {what} limit" if limit is None else f"{limit:,} {what}s/min"

        limits, seen = self._limits, self.statistics()
        return (
            f"<Provider {self.preset}: {per_minute(limits.requests_per_minute, 'request')}, "
            f"{per_minute(limits.tokens_per_minute, 'token')}; {seen.arrivals:,} arrived, "
            f"{sum(seen.refused.values()):,} refused, {seen.in_flight} in flight>"
        )


def _check(name: str, value: object, kind: type[Any]) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {value!r}; build one with {kind.__name__}(...)")
