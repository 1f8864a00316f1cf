"""How a run treats its tasks: time limits, what a failure means for the others, and all else that it is made of.

What it holds: `Settings`, the executor's arguments after they were checked, and `Plan`, all that one run
needs, and `RunStatistics`, what it does at an instant.
Guarantee: a `Settings` object is valid; a bad value is refused with the parameter, the rule, the value and the remedy.
"""

from __future__ import annotations

import logging
import sys
from asyncio import CancelledError, get_running_loop
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from types import SimpleNamespace
from typing import Generic, Literal

from agentkit.base.arguments import called, check_fields, choice, read, seconds, whole
from agentkit.executor.grants import Grant
from agentkit.journal.journal import JournalWriter
from agentkit.limits import Budget, RateLimiter, retry_after
from agentkit.report.outcome import Outcome, R, T
from agentkit.report.usage import Usage, usage_of
from agentkit.retry.failures import is_overload, status_of
from agentkit.retry.policy import Retries
from agentkit.semaphore import CapacityLimiter

__all__ = ["ON_ERROR", "OnError", "Plan", "RunStatistics", "Settings", "open_bar", "report_error"]

OnError = Literal["collect", "stop", "raise"]
ON_ERROR = ("collect", "stop", "raise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run treats its tasks.

    >>> settings = Settings(timeout=5, deadline=30)
    >>> settings.seconds_left(waited=27), settings.rule(waited=27)
    (3, 'deadline=30 s from submission')
    """

    timeout: float | None = None
    """Seconds one attempt may take."""
    deadline: float | None = None
    """Seconds from a task's submission to its end, waiting included."""
    within: float | None = None
    """Seconds the whole run may take."""
    on_error: OnError = "collect"
    """What a failure means for the others: `collect`, `stop` or `raise`."""
    max_failures: int | None = None
    """With `collect`: stop at this many failures."""

    def __post_init__(self) -> None:
        check_fields(self, seconds, "timeout", "deadline", "within")
        choice("on_error", self.on_error, ON_ERROR, "use 'collect' to keep failures and go on")
        check_fields(self, whole, "max_failures", remedy="use None for no limit", none=True)

    def seconds_left(self, waited: float) -> float:
        """Seconds an attempt may take that starts so long after its task was submitted."""
        if self.deadline is None:
            return inf if self.timeout is None else self.timeout
        return min(inf if self.timeout is None else self.timeout, self.deadline - waited)

    def rule(self, waited: float) -> str:
        """The time limit that ends such an attempt, in words."""
        if self.deadline is not None and (self.timeout is None or self.deadline - waited < self.timeout):
            return f"deadline={self.deadline:g} s from submission"
        return f"timeout={self.timeout:g} s"

    def ends_run(self, outcome: Outcome, failed: int) -> tuple[str, BaseException | None] | None:
        """Why this failure, one of `failed`, ends the run, and what the run then raises; None if it does not end it."""
        if self.on_error != "collect":
            error = outcome.error if self.on_error == "raise" else None
            if isinstance(error, CancelledError):  # as it is, it would look as if the caller were cancelled
                error = RuntimeError(f"the agent of task {outcome.task_id} was cancelled from inside")
                error.__cause__ = outcome.error
            return f"on_error={self.on_error!r} after task {outcome.task_id}: {outcome.reason}", error
        if self.max_failures is not None and failed >= self.max_failures:
            return f"max_failures={self.max_failures} reached with task {outcome.task_id}: {outcome.reason}", None
        return None


@dataclass(slots=True, kw_only=True)
class Plan(Generic[T, R]):
    """What one run is made of."""

    call: Callable[[T], Awaitable[R]]
    agent: Callable[[T], object]
    limiter: CapacityLimiter
    settings: Settings
    rate_limiter: RateLimiter | None
    budget: Budget | None
    retries: Retries | None
    writer: JournalWriter | None
    observe: Callable[..., None] | None
    """What an adaptive limiter wants to know of each attempt."""
    usage: Callable[[R], Usage | None] | None
    """Reads what a result used, where the user knows better."""
    close: Callable[[], None] | None
    """What to call when the run is over: its threads go."""
    monitored: bool
    """Whether agents that block the loop are noted."""
    progress: bool

    def settle(
        self,
        outcome: Outcome[T, R],
        grant: Grant | None,
        times: tuple[float, float],
        result: R,
        error: BaseException | None,
    ) -> None:
        """Tell the limits how an attempt ended that ran between two `times` of the loop."""
        usage, model = None, ""
        try:
            answer = result if error is None else read(error, "partial")  # a broken answer keeps what arrived
            if isinstance(named := read(answer, "model"), str):
                model = named
            if error is None and self.usage is not None:
                answer = called("usage of the executor", self.usage, result)
            usage = usage_of(answer)
            if error is not None and status_of(error) is not None:
                usage = Usage(1)  # refused, and not billed
        finally:
            if grant is not None:
                grant.settle(usage, model, error is not None)
        if usage is not None and usage.total_tokens:
            outcome.usage = usage if outcome.usage is None else outcome.usage + usage
        if error is not None and self.rate_limiter is not None:
            self.rate_limiter.update_from(error)
        if self.observe is not None:
            try:
                self._tell_limiter(self.observe, times, usage, error)
            except Exception as raised:  # a listener of the limiter: the task has its answer all the same
                report_error("a limiter could not follow an attempt", raised)

    def _tell_limiter(
        self,
        observe: Callable[..., None],
        times: tuple[float, float],
        usage: Usage | None,
        error: BaseException | None,
    ) -> None:
        started, finished = times
        if error is None:
            written = 0 if usage is None else usage.output_tokens
            observe(started, finished, per_token=(finished - started) / written if written else None)
        elif is_overload(error) and (self.retries is None or retry_after(error) is None):
            observe(started, finished, refused=True)  # with a hint it is about the rate, which the pause meets

    def next_try(self, outcome: Outcome[T, R], error: BaseException, began: float, finished: float) -> float | None:
        """Return the seconds until the next attempt; None if this was the last one."""
        if self.retries is None or outcome.started is None:
            return None
        kind, deadline = self.retries.policy.kind, self.settings.deadline
        alike = sum(a.error is not None and kind(a.error) == kind(error) for a in outcome.attempt_log or ())
        wait = self.retries.next_wait(error, alike + 1, began + outcome.started, began + finished)
        if wait is not None and deadline is not None and finished + wait >= outcome.submitted + deadline:
            return None  # it could not end in time
        return wait


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """A run at one instant."""

    total: int | None
    """Tasks in the input; None where that cannot be known."""
    waiting: int | None
    """Tasks not yet started; None where `total` is."""
    in_flight: int
    """Tasks being attempted now."""
    backing_off: int
    """Tasks that failed and will be tried again; they hold no slot."""
    succeeded: int
    """Tasks that ended well."""
    failed: int
    """Tasks that ended in any other way."""
    elapsed: float
    """Seconds since the run began; fixed once it has ended."""


class _Bar:
    """A tqdm bar that costs nothing but itself when it fails, as it does where its stream is closed."""

    def __init__(self, bar: object) -> None:
        self._bar = bar

    def update(self) -> None:
        """One task more."""
        self._do("update")

    def close(self) -> None:
        """Leave the bar as it is."""
        self._do("close")

    def _do(self, what: str) -> None:
        try:
            getattr(self._bar, what)()
        except Exception as error:
            logging.getLogger("agentkit").warning("the progress bar failed: %r", error)
            self._bar = SimpleNamespace(update=int, close=int)


def open_bar(total: int | None) -> _Bar | None:
    """A progress bar, where there is a terminal or a notebook to show it, and tqdm; else None."""
    if "ipykernel" not in sys.modules and (sys.stderr is None or not sys.stderr.isatty()):
        return None
    try:
        from tqdm.auto import tqdm

        return _Bar(tqdm(total=total, unit="task"))
    except Exception:  # it is not installed, or has nowhere to draw
        return None


def report_error(message: str, error: BaseException) -> None:
    """Hand an error that must not end a run to the event loop's exception handler."""
    get_running_loop().call_exception_handler({"message": message, "exception": error})
