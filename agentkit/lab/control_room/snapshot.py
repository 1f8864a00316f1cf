"""What a run in the control room looks like at one instant.

What it holds: `Snapshot`, the figures and the attempts, and `Try`, one attempt as the picture shows it.
Guarantee: a snapshot is made of the run's own log and statistics; its figures never change, while an attempt under way
goes on to be filled in.
Used by the control room: `Operation.snapshot` makes one, `live_picture` draws it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Snapshot", "Try"]


@dataclass(slots=True)
class Try:
    """One attempt, as the picture shows it."""

    task_id: int
    """Whose it is."""
    lane: int
    """The lowest row that was free when it began."""
    started: float
    """Seconds since the run began."""
    finished: float | None = None
    """Seconds since the run began; None while it goes on."""
    kind: str = "calling"
    """`calling`, `ok`, `refused` (429), `failed`, `timed out` or `cancelled`."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An operation at one instant."""

    now: float
    """Seconds since the run began."""
    total: int
    """Agents in all."""
    succeeded: int
    """Agents that are done."""
    failed: int
    """Agents that were given up, for whatever reason."""
    in_flight: int
    """Attempts under way."""
    limit: float
    """Slots there are."""
    waiting: int
    """Agents that have not begun."""
    backing_off: int
    """Agents between two attempts."""
    held: int
    """Agents that the rate limiter holds back."""
    throughput: float
    """Successes per second, over the last ten."""
    p95: float | None
    """95 of the latest 100 successes took at most this many seconds, from first attempt to end."""
    refused: int
    """Requests refused with 429."""
    attempts: int
    """Attempts begun."""
    tokens: int
    """Tokens paid for, those of abandoned answers included."""
    money: float
    """What they cost, in USD."""
    latest: str
    """The latest failure, in its own words; empty before any."""
    tries: tuple[Try, ...]
    """The attempts, oldest first; those under way go on changing."""
    levels: tuple[tuple[float, int, int], ...]
    """`(second, waiting, backing off)`, oldest first."""
    limits: tuple[tuple[float, float], ...]
    """`(second, limit)`, whenever it changed."""
