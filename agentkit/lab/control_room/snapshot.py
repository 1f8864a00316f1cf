"""The state of a run in the control room at one instant.

What it holds: `Snapshot`, the figures and the attempts, and `AttemptBar`, one attempt as the picture shows it.
Guarantee: a snapshot is built from the run's own log and statistics. Its figures never change, but the bar of an
attempt in flight is updated when the attempt ends.
Used by the control room: `Operation.snapshot` makes one, `live_picture` draws it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AttemptBar", "Snapshot"]


@dataclass(slots=True)
class AttemptBar:
    """One attempt, as the picture shows it."""

    task_id: int
    """The task it belongs to."""
    lane: int
    """Its row: the lowest one that was free when it started."""
    started: float
    """Seconds since the run started."""
    finished: float | None = None
    """Seconds since the run started; None while in flight."""
    kind: str = "calling"
    """`calling`, `ok`, `refused` (429), `failed`, `timed out` or `cancelled`."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of an operation at one instant."""

    now: float
    """Seconds since the run started."""
    total: int
    """Number of agents."""
    succeeded: int
    """Agents that succeeded."""
    failed: int
    """Agents that ended any other way."""
    in_flight: int
    """Attempts in flight."""
    limit: float
    """Number of slots."""
    waiting: int
    """Agents that have not started."""
    backing_off: int
    """Agents that wait before a retry."""
    held: int
    """Agents that wait for the rate limiter."""
    throughput: float
    """Successes per second, over the last ten seconds."""
    p95: float | None
    """95th percentile of the latest 100 successes, in seconds from the first attempt to the end."""
    refused: int
    """Attempts rejected with status 429."""
    attempts: int
    """Attempts started."""
    tokens: int
    """Tokens billed, including those of answers abandoned after a timeout."""
    money: float
    """Their cost in USD."""
    latest: str
    """The message of the latest failure; empty if there is none."""
    bars: tuple[AttemptBar, ...]
    """The attempts, oldest first; those in flight are still updated."""
    levels: tuple[tuple[float, int, int], ...]
    """`(second, waiting, backing off)`, oldest first."""
    limits: tuple[tuple[float, float], ...]
    """`(second, limit)` for each change of the limit."""
