"""The record of one task: every chart and every number of a run is computed from these.

Each task of a run has exactly one `Outcome`, and no other record of it is kept. All times are seconds since the run
began, on the clock of the loop that ran it, real or virtual. Opened by notebook 01.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, Literal

from agentkit.base.arguments import text
from agentkit.report.usage import Usage

if TYPE_CHECKING:  # a type checker reads plain `Outcome` as `Outcome[Any, Any]`; before Python 3.13 `typing` cannot
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)
    R = TypeVar("R", default=Any)
else:
    from typing import TypeVar

    T, R = TypeVar("T"), TypeVar("R")

__all__ = [
    "STATUSES", "Attempt", "Outcome", "Reads", "Span", "Status", "StoredError", "clock", "current", "reason_of",
    "shown", "span",
]  # fmt: skip

Status = Literal["success", "failed", "timeout", "cancelled", "rejected"]
STATUSES: tuple[Status, ...] = ("success", "failed", "timeout", "cancelled", "rejected")


@dataclass(frozen=True, slots=True)
class Span:
    """A named interval of time inside a task, in seconds since the run began."""

    name: str
    """What the task was doing: `"calling"` for a request to a provider; other names are yours."""
    started: float
    finished: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a task, in seconds since the run began. There are several only if a retry policy is active."""

    started: float
    finished: float
    error: BaseException | None = None
    """Why this attempt failed; None if it succeeded."""


class StoredError(Exception):
    """An error read from a saved report; its message is the `reason` that was stored: type and message."""


class Reads:
    """Read-only dict access to a record: `record["name"]` is `record.name`, and `dict(record)` has all its `keys()`."""

    __slots__ = ()

    def keys(self) -> tuple[str, ...]:
        """The names of its fields, which are the keys of `dict(record)`."""
        return tuple(each.name for each in fields(self))  # type: ignore[arg-type]  # each record is a dataclass

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and hasattr(self, name) and not callable(getattr(type(self), name, None))

    def get(self, name: str, default: object = None) -> Any:
        """Return `record[name]`, or `default` if there is no such name."""
        return getattr(self, name) if name in self else default


_first_span = Lock()  # threads of one agent may log their first spans at the same time


@dataclass(slots=True)
class Outcome(Reads, Generic[T, R]):
    """The record of one task: its status, result or error, and its times. Generic in the task and the result.

    >>> outcome = Outcome(7, "a question", "failed", error=KeyError("label"), started=1.0, finished=3.5)
    >>> outcome.latency, outcome["status"], outcome.reason
    (2.5, 'failed', "KeyError: 'label'")
    >>> dict(outcome)["task"]
    'a question'
    """

    task_id: int
    """The task's index in the input, starting at 0."""
    task: T
    """The task as it was passed in."""
    status: Status = "cancelled"
    """One of `success, failed, timeout, cancelled, rejected`."""
    result: R | None = None
    """What the agent returned; None unless `status` is `success`."""
    error: BaseException | None = None
    """The exception; None if `status` is `success`."""
    submitted: float = 0.0
    """When the run received the task: 0 for an iterable, the time of arrival for an async iterable."""
    started: float | None = None
    """When its first attempt began; None if none did."""
    finished: float | None = None
    """When its last attempt ended or the run dropped it; None while it is running."""
    attempt_log: tuple[Attempt, ...] | None = field(default=None, repr=False)
    """Written by the executor if there is more to record than one plain attempt; read `attempts` instead."""
    usage: Usage | None = None
    """What its calls used, failed attempts included; None if that is not known."""
    span_log: list[Span] | None = field(default=None, repr=False)
    """Written by `add_span`; read `spans` instead."""

    def keys(self) -> tuple[str, ...]:
        """The keys of `dict(outcome)`."""
        return KEYS

    def end(self, status: Status, error: BaseException | None, finished: float) -> None:
        """Set the final status, error and finish time."""
        self.status, self.error, self.finished = status, error, finished

    def add_span(self, name: str, started: float, finished: float) -> None:
        """Add a span; times are seconds since the run began. Takes constant time, and any thread may call it."""
        if self.span_log is None:  # made when it is needed: most outcomes have no span
            with _first_span:
                self.span_log = [] if self.span_log is None else self.span_log
        self.span_log.append(Span(name, started, finished))

    @property
    def spans(self) -> tuple[Span, ...]:
        """Spans logged by the agent, and waits for a rate limit, budget or pause, in the order in which they ended."""
        return tuple(self.span_log or ())

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt, oldest first; empty if the task never started."""
        if self.attempt_log is not None:
            return self.attempt_log
        if self.started is None or self.finished is None:
            return ()
        return (Attempt(self.started, self.finished, self.error),)

    @property
    def waited(self) -> float | None:
        """Seconds from submission to the first attempt; None if it never started."""
        return None if self.started is None else self.started - self.submitted

    @property
    def latency(self) -> float | None:
        """Seconds from the first attempt to the finish, without the wait for a slot; None if it never started."""
        return None if self.started is None or self.finished is None else self.finished - self.started

    @property
    def reason(self) -> str:
        """The error as a string: its type, and its message if it has one. Empty for a success."""
        return reason_of(self.error)


KEYS = (
    "task_id", "task", "status", "result", "error", "reason", "submitted", "started", "finished", "waited", "latency",
    "attempts", "spans", "usage",
)  # fmt: skip


def shown(value: object, how: Callable[[object], str] = str, default: str | None = None) -> str:
    """Return `how(value)`; if that raises, `default` or a note. Used for objects of agents and libraries.

    >>> shown(ValueError("bad")), shown("bad", repr)
    ('bad', "'bad'")
    """
    try:
        return how(value)
    except (Exception, CancelledError) as error:
        note = f"<{type(value).__name__}: its {how.__name__} raised {type(error).__name__}>"
        return note if default is None else default


def reason_of(error: BaseException | None) -> str:
    """Return an error as a string: its type, and its message if it has one; empty for None."""
    if error is None:
        return ""
    message = shown(error, default="")
    if isinstance(error, StoredError):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


current: ContextVar[Outcome | None] = ContextVar("agentkit outcome", default=None)
"""The outcome of the task that the current code runs for; background tasks it starts inherit it."""
clock: ContextVar[tuple[Callable[[], float], float]] = ContextVar("agentkit clock")
"""The clock of the run, and the time on it at which the run began."""


@contextmanager
def span(name: str) -> Iterator[None]:
    """Record a named interval of an agent's time, for the timeline; `ChatAgent` records `"calling"` itself.

    >>> with span("reading a file"):
    ...     text = "…"

    Works in coroutines and in plain functions that run in a thread pool. Outside a run it does nothing.
    """
    text("name", name)
    outcome = current.get()
    if outcome is None:
        yield
        return
    time, began = clock.get()
    started = time() - began
    try:
        yield
    finally:
        outcome.add_span(name, started, time() - began)
