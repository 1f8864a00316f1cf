"""What happens to a request: accepted or rejected, at what cost, after how long; no HTTP.

What it holds: `Decisions`, which takes each request through arrive, decide, work; `Job`, a request that was accepted;
`ProviderState`, everything that starts over with a new clock; `ProviderSettings`, what decisions depend on.
Guarantee: a decision depends on the settings, the request, the state and the time of arrival alone.
Strategy: the app calls these methods in order, one event loop at a time. Settings are read at every request, so a
change applies to the next one.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from agentkit.lab.provider.call_log import CallLog, CallRecord, ProviderStatistics
from agentkit.lab.provider.errors import ERRORS, ApiError, injected_error, rate_limited
from agentkit.lab.provider.faults import Fault, Faults
from agentkit.lab.provider.latency import Draw, Latency
from agentkit.lab.provider.quota import Limits, Quota, QuotaRejection
from agentkit.lab.provider.request import Request
from agentkit.lab.provider.response import Completion, make_completion
from agentkit.limits import estimate_tokens
from agentkit.semaphore import CapacityLimiter

__all__ = ["Decisions", "Job", "ProviderSettings", "ProviderState"]

_REMEMBERED = 10_000  # distinct requests whose repeats are counted


class ProviderSettings(Protocol):
    """The settings that decisions depend on; a `Provider` has them."""

    limits: Limits
    latency: Latency
    faults: Faults
    answer: Callable[[Request], str]
    models: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Job:
    """A request that was accepted, with everything chance decided about it."""

    call: CallRecord
    """Its record in the log."""
    completion: Completion
    """What the answer will say."""
    draw: Draw
    """What the answer costs in tokens and seconds."""
    fault: Fault | None
    """How the answer will be damaged, if at all."""
    quota_headers: dict[str, str]
    """The rate-limit headers as of its arrival."""
    state: ProviderState
    """The state it was accepted under."""


class ProviderState:
    """Everything that starts over when the provider meets a new clock: quota, slots, log, counts."""

    def __init__(self, limits: Limits, slots: int | None, log_size: int, now: float) -> None:
        self.began = now
        self.quota, self.slots = Quota(limits, now), CapacityLimiter(slots)
        self.log = CallLog(maxlen=log_size)
        self.seen: OrderedDict[str, list[int]] = OrderedDict()
        self.refused: Counter[str] = Counter()
        self.by_retry: Counter[int] = Counter()
        self.arrivals = self.accepted = self.completed = self.abandoned = self.charged = self.used = 0

    def repeats(self, fingerprint: str) -> list[int]:
        """`[arrived, accepted]`, the counts of equal requests; bounded, least recently seen dropped first."""
        counts = self.seen.setdefault(fingerprint, [0, 0])
        self.seen.move_to_end(fingerprint)
        if len(self.seen) > _REMEMBERED:
            self.seen.popitem(last=False)
        return counts

    def statistics(self, now: float) -> ProviderStatistics:
        """The counts, and the level of buckets and slots at `now`."""
        slots = self.slots.statistics()
        requests_left, tokens_left = self.quota.left(now)
        return ProviderStatistics(
            self.arrivals, self.accepted, self.completed, self.abandoned, dict(self.refused), dict(self.by_retry),
            slots.in_flight, slots.queue_depth, slots.peak_in_flight, self.charged, self.used,
            requests_left, tokens_left,
        )  # fmt: skip


class Decisions:
    """Decides about requests: `arrive`, then `decide`, then `work` or `refuse`.

    Bound to one event loop at a time. On a loop with another clock, the state starts over.
    """

    def __init__(self, settings: ProviderSettings, log_size: int) -> None:
        self.settings = settings
        self._log_size, self._listeners = log_size, list[Callable[[CallRecord], None]]()
        self._clock: object = self  # no clock met so far
        self._loop: asyncio.AbstractEventLoop | None = None
        self._state = self._new_state(0.0)

    @property
    def log(self) -> CallLog:
        """The latest calls."""
        return self._state.log

    def statistics(self) -> ProviderStatistics:
        """The present state in numbers."""
        return self._state.statistics(self._time())

    def subscribe(self, listener: Callable[[CallRecord], None]) -> Callable[[], None]:
        """Call `listener(call)` whenever a call has ended; returns a function that unsubscribes."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def apply_slots(self) -> None:
        """Apply a changed `latency.slots`, on the loop's own thread: raising the limit wakes waiters."""
        if self._loop is None or not self._loop.is_running():
            self._set_slots()
        else:
            self._loop.call_soon_threadsafe(self._set_slots)

    def arrive(self, endpoint: str, retry: int) -> CallRecord:
        """Enter a call in the log."""
        state = self._enter()
        state.arrivals += 1
        state.by_retry[retry] += 1
        call = CallRecord(state.arrivals, self._time(), endpoint, retry)
        state.log.append(call)
        return call

    def decide(self, request: Request, call: CallRecord) -> Job:
        """Accept a request and draw everything random about it, or raise the `ApiError` it gets."""
        settings, state, now = self.settings, self._state, call.arrived
        limits = settings.limits
        state.quota.apply(limits, now)
        fingerprint = request.fingerprint()
        repeats = state.repeats(fingerprint)
        repeats[0] += 1
        key = f"{fingerprint}{repeats[1]}"
        text = self._answer(request)
        call.model, call.stream, call.prompt_tokens = request.model, request.stream, request.prompt_tokens
        draw = settings.latency.draw(
            f"{settings.seed}:{key}", call.prompt_tokens, estimate_tokens(text), request.max_tokens
        )
        cap = request.max_tokens if limits.charge == "max_tokens" and request.max_tokens else draw.output_tokens
        call.charged_tokens = call.prompt_tokens + cap * request.n
        rejection = state.quota.take(call.charged_tokens, now)
        if rejection:
            raise self._rate_limited(rejection, request.model)
        fault = settings.faults.choose(call.number, f"{settings.seed}:fault:{fingerprint}:{repeats[0]}")
        failure = self._failure(fault, request.model)
        if failure:
            if not limits.count_failed:
                state.quota.give_back(1, call.charged_tokens, now)
            raise failure
        repeats[1] += 1
        completion = make_completion(request, key, now - state.began, text, draw.output_tokens)
        call.output_tokens, call.outcome = draw.output_tokens * request.n, "waiting"
        state.accepted += 1
        state.charged += call.charged_tokens
        state.used += call.prompt_tokens + call.output_tokens
        return Job(call, completion, draw, fault, state.quota.headers(now), state)

    def refuse(self, call: CallRecord, error: ApiError) -> dict[str, str]:
        """Record that a call got an error; returns the rate-limit headers to send with it."""
        self._state.refused[error.name] += 1
        call.status, call.outcome, call.charged_tokens = error.status, error.name, 0
        self._end(call)
        hidden = error.status == 429 and self.settings.limits.hint == "none"
        return {} if hidden else self._state.quota.headers(self._time())

    def headers(self, call: CallRecord, quota_headers: dict[str, str]) -> dict[str, str]:
        """The headers of any answer to a call, with these rate-limit headers."""
        return {
            "x-request-id": f"req_{call.number:08d}", "openai-organization": "org-lab", "openai-version": "2020-10-01",
            "openai-processing-ms": str(round((self._time() - call.arrived) * 1000)),
            **quota_headers,
        }  # fmt: skip

    def begin_answer(self, call: CallRecord) -> None:
        """Record that the first byte of an answer leaves."""
        call.status, call.first_token = 200, self._time()

    @asynccontextmanager
    async def work(self, job: Job) -> AsyncIterator[int]:
        """Hold a slot for a job, waiting for one if necessary; yields the number in flight. Records how it ended."""
        call, state = job.call, job.state
        try:
            async with state.slots:
                call.started, call.in_flight = self._time(), state.slots.statistics().in_flight
                yield call.in_flight
        except BaseException:  # the client disconnected, or the provider is being stopped
            state.abandoned += 1
            call.outcome = "abandoned"
            raise
        else:
            state.completed += 1
            call.outcome = job.fault.kind if job.fault else "ok"
        finally:
            if self.settings.limits.refund:
                unused = max(0, call.charged_tokens - call.prompt_tokens - call.output_tokens)
                state.charged -= unused
                state.quota.give_back(0, unused, self._time())
            self._end(call)

    def _answer(self, request: Request) -> str:
        try:
            return self.settings.answer(request)
        except Exception as error:
            raise ApiError("server_error", f"The answer function raised {type(error).__name__}: {error}") from error

    def _rate_limited(self, rejection: QuotaRejection, model: str) -> ApiError:
        error = rate_limited(rejection, model)
        if rejection.kind != "too_large":  # waiting does not help
            error.headers |= self._state.quota.hint(rejection.wait_ms)
        error.seconds = self.settings.limits.refusal_seconds
        return error

    def _failure(self, fault: Fault | None, model: str) -> ApiError | None:
        """The error for a fault, or for a full queue."""
        slots, bound = self._state.slots, self.settings.latency.max_queue
        if fault and fault.kind in ERRORS:
            error, wait_ms = injected_error(fault.kind, model, self.settings.limits)
            error.headers = (self._state.quota.hint(wait_ms) if wait_ms else {}) | dict(fault.headers)
            return error
        if bound is not None and slots.locked() and slots.statistics().queue_depth >= bound:
            return ApiError("overloaded")
        return None

    def _end(self, call: CallRecord) -> None:
        call.finished = self._time()
        for listener in list(self._listeners):
            listener(call)

    def _enter(self) -> ProviderState:
        """The current state; a new one if the running loop's clock differs from the last loop's."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            real = type(loop).time is asyncio.BaseEventLoop.time
            clock = "the machine's" if real else loop  # all real loops share one clock; a virtual loop has its own
            if clock != self._clock:
                self._state = self._new_state(loop.time())
            self._loop, self._clock = loop, clock
        return self._state

    def _new_state(self, now: float) -> ProviderState:
        return ProviderState(self.settings.limits, self.settings.latency.slots, self._log_size, now)

    def _set_slots(self) -> None:
        self._state.slots.limit = self.settings.latency.slots

    def _time(self) -> float:
        return self._loop.time() if self._loop else 0.0
