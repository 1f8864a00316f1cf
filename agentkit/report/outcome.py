"""What happened to one task: the record that every picture and number of a run is made of.

What it holds: `Span` and `Attempt` (what happened inside a task), `Outcome` (one task from submission to finish), and
`span`, with which an agent adds to the record from inside.
Guarantees: each task of a run has one outcome, and it is the only record kept of it. All times are seconds since the
run began, on the clock of the loop that ran it, real or virtual.
Opened by notebook 01.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

__all__ = ["STATUSES", "Attempt", "Outcome", "Reads", "Span", "clock", "current", "span"]

STATUSES = ("success", "failed", "timeout", "cancelled", "rejected")


@dataclass(frozen=True, slots=True)
class Span:
    """A named stretch of time inside a task, such as a call to the provider."""

    name: str
    """What was going on: `"calling"` for a request to a provider; other names are yours."""
    started: float
    """Seconds since the run began."""
    finished: float
    """Seconds since the run began."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a task. A task has several only where a retry policy is at work."""

    started: float
    """Seconds since the run began."""
    finished: float
    """Seconds since the run began."""
    error: BaseException | None = None
    """Why this try failed; None for the one that succeeded."""


class Reads:
    """Lets code written for plain dicts read a record: `record["name"]` is `record.name`."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and hasattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return `record[name]`, or `default` where there is no such name."""
        return getattr(self, name, default)


@dataclass(slots=True)
class Outcome(Reads):
    """What became of one task.

    >>> outcome = Outcome(7, "a question", "failed", error=KeyError("label"), started=1.0, finished=3.5)
    >>> outcome.latency, outcome["status"], outcome.reason
    (2.5, 'failed', "KeyError: 'label'")
    """

    task_id: int
    """The task's place in the input, counted from 0."""
    task: Any
    """The task itself, as it was handed in."""
    status: str = "cancelled"
    """One of `success, failed, timeout, cancelled, rejected`."""
    result: Any = None
    """What the agent returned; None unless `status` is `success`."""
    error: BaseException | None = None
    """The exception itself; None where `status` is `success`."""
    submitted: float = 0.0
    """When the run knew of the task. For an iterable that is 0, for an async iterable the moment it arrived."""
    started: float | None = None
    """When its first attempt began; None if it never did."""
    finished: float | None = None
    """When the last attempt ended, or the run gave it up; None while it goes on."""
    _attempts: tuple[Attempt, ...] | None = field(default=None, repr=False)
    spans: tuple[Span, ...] = ()
    """What the agent logged with `span`, and waits for a rate, a budget or a pause, in the order they ended."""

    def end(self, status: str, error: BaseException | None, finished: float) -> None:
        """Close the record."""
        self.status, self.error, self.finished = status, error, finished

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every try, oldest first; empty if the task never started."""
        if self._attempts is not None:
            return self._attempts
        if self.started is None or self.finished is None:
            return ()
        return (Attempt(self.started, self.finished, self.error),)

    @property
    def waited(self) -> float | None:
        """Seconds from submission to the first attempt; None if it never started."""
        return None if self.started is None else self.started - self.submitted

    @property
    def latency(self) -> float | None:
        """Seconds from the first attempt to the end, without the wait for a slot; None if it never started."""
        return None if self.started is None or self.finished is None else self.finished - self.started

    @property
    def reason(self) -> str:
        """The error in words: its type, and its message where it has one. Empty for a success."""
        if self.error is None:
            return ""
        name = type(self.error).__name__
        try:
            message = str(self.error)
        except Exception:  # an exception that cannot say what it is
            message = ""
        return f"{name}: {message}" if message else name


current: ContextVar[Outcome | None] = ContextVar("agentkit outcome", default=None)
"""The outcome that the running code works for; what it starts in the background goes on working for the same one."""
clock: ContextVar[tuple[Callable[[], float], float]] = ContextVar("agentkit clock")
"""The clock of the run, and the instant at which it began."""


@contextmanager
def span(name: str) -> Iterator[None]:
    """Log a named stretch of an agent's time, for the timeline; `ChatAgent` logs `"calling"` by itself.

    >>> with span("reading a file"):
    ...     text = "…"

    Works in coroutines and in plain functions run in a pool. Outside a run it does nothing.
    """
    outcome = current.get()
    if outcome is None:
        yield
        return
    time, began = clock.get()
    started = time() - began
    try:
        yield
    finally:
        outcome.spans += (Span(name, started, time() - began),)
