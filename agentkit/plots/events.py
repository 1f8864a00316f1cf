"""Extracts from a report what the charts draw: intervals and marks per task, and counts over time.

What it holds: `Row` and `rows` (one per task), interval arithmetic (`union`, `without`, `duration`), `steps` (how many
intervals are open over time), and `limit_words`.
Guarantee: only `report.individual_results` and `report.limits` are read; a report of a run that is still in progress is
read up to the last event in it.
Used by every chart of a report.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from agentkit.plots.chart import number, seconds
from agentkit.report import Outcome, Report, Span

__all__ = [
    "STATUS",
    "Interval",
    "Row",
    "attempts",
    "duration",
    "has_spans",
    "limit_words",
    "now",
    "queued_for",
    "rows",
    "steps",
    "still_running",
    "union",
    "waited_for",
    "waiting",
    "without",
]

Interval = tuple[float, float]
"""Start and end, in seconds since the run began."""

SLOT = "waiting for a slot"
STATUS = {"failed": "failed", "timeout": "timed out", "cancelled": "cancelled", "rejected": "rejected"}


@dataclass(frozen=True, slots=True)
class Row:
    """One task as intervals of time, by what it was doing."""

    waiting: tuple[Interval, ...] = ()
    """Waiting for a slot, or inside a span whose name begins with `waiting`."""
    waits: tuple[str, ...] = ()
    """What it waited for: the names of such spans, and `waiting for a slot` for time that no such span covers."""
    calling: tuple[Interval, ...] = ()
    """Inside a span named `calling`; in a report without spans, the whole attempts."""
    working: tuple[Interval, ...] = ()
    """The rest of the attempts."""
    backing_off: tuple[Interval, ...] = ()
    """Between attempts."""
    named: tuple[tuple[str, float, float], ...] = ()
    """Spans of other names."""
    marks: tuple[tuple[float, str], ...] = ()
    """`(second, what)`: retried, timed out, failed, cancelled, rejected."""


def duration(intervals: Iterable[Interval]) -> float:
    """Return the sum of the lengths, computed exactly, so that it is the same on every Python."""
    return math.fsum(end - start for start, end in intervals)


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Merge intervals that overlap or touch; empty intervals are dropped.

    >>> union([(0, 2), (1, 3), (5, 6), (4, 4)])
    [(0, 3), (5, 6)]
    """
    merged: list[Interval] = []
    for start, end in sorted(interval for interval in intervals if interval[1] > interval[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _within(intervals: Iterable[Interval], frames: Sequence[Interval]) -> list[Interval]:
    return union((max(s, a), min(e, b)) for s, e in intervals for a, b in frames)


def without(frames: Iterable[Interval], holes: Iterable[Interval]) -> list[Interval]:
    """Subtract `holes` from intervals.

    >>> without([(0, 5)], [(1, 2), (4, 9)])
    [(0, 1), (2, 4)]
    """
    left = union(frames)
    for start, end in holes:
        left = [piece for a, b in left for piece in ((a, min(b, start)), (max(a, end), b)) if piece[1] > piece[0]]
    return left


def now(report: Report) -> float:
    """Return the time of the last event in the report."""
    times = [0.0]
    for outcome in report.individual_results:
        times += [t for t in (outcome.submitted, outcome.started, outcome.finished) if t is not None]
        times += [attempt.finished for attempt in outcome.attempts] + [span.finished for span in outcome.spans]
    return max(times)


def still_running(outcome: Outcome) -> bool:
    """Whether a task has not ended yet, in a report of a run that is still in progress."""
    return outcome.finished is None and outcome.error is None and outcome.status == "cancelled"


def attempts(outcome: Outcome, until: float) -> list[Interval]:
    """Return the attempts of a task as intervals, including one in progress."""
    done = [(attempt.started, attempt.finished) for attempt in outcome.attempts]
    if still_running(outcome) and outcome.started is not None and not done:
        done.append((outcome.started, until))
    return done


def waiting(outcome: Outcome, until: float) -> Interval:
    """Return the interval from submission to the first attempt, or to the end of a task without any."""
    end = outcome.started if outcome.started is not None else outcome.finished
    gone = end is None and not still_running(outcome) and outcome.error is None
    return (outcome.submitted, outcome.submitted if gone else until if end is None else end)


def rows(report: Report) -> list[Row]:
    """Return one row per task, in input order."""
    until, spans = now(report), has_spans(report)
    return [_row(outcome, until, spans) for outcome in report.individual_results]


def has_spans(report: Report) -> bool:
    """Whether any agent recorded a span, not counting spans that only mark waiting."""
    return any(_word(span) not in ("waiting", "backing") for o in report.individual_results for span in o.spans)


def _word(span: Span) -> str:
    return span.name.split(" ")[0]


def waited_for(names: Iterable[str]) -> str:
    """Describe what several tasks waited for; with more than two kinds, just `waiting`.

    >>> waited_for(["waiting for a slot", "waiting for the rate"]), waited_for(["waiting for a slot"])
    ('waiting for a slot and for the rate', 'waiting for a slot')
    """
    kinds = sorted(set(names))
    if not 0 < len(kinds) <= 2 or "waiting" in kinds:
        return "waiting"
    return "waiting " + " and ".join(kind.removeprefix("waiting ") for kind in kinds)


def queued_for(*reports: Report) -> str:
    """Describe what tasks waited for before their first attempts."""
    names = set[str]()
    for report in reports:
        until = now(report)
        for outcome in report.individual_results:
            start = waiting(outcome, until)[1]
            before = replace(outcome, span_log=[span for span in outcome.spans if span.finished <= start])
            names |= set(_row(before, until, False).waits)
    return waited_for(names)


def _row(outcome: Outcome, until: float, spans: bool) -> Row:
    tried = attempts(outcome, until)
    frames = union(tried)
    sorted_spans: dict[str, list[Interval]] = {"calling": [], "waiting": [], "backing": []}
    named, waits, first = [], set[str](), waiting(outcome, until)
    for span in outcome.spans:
        if (word := _word(span)) in sorted_spans:
            sorted_spans[word].append((span.started, span.finished))
            if word == "waiting" and _within([(span.started, span.finished)], [first, *frames]):
                waits.add(span.name)
        else:
            named.append((span.name, span.started, span.finished))
    if without([first], sorted_spans["waiting"]):
        waits.add(SLOT)
    waited = sorted_spans["waiting"] + sorted_spans["backing"]
    calling = _within(sorted_spans["calling"], frames) if spans else without(frames, waited)
    paused = without(_within(sorted_spans["backing"], frames), calling)
    queued = without(_within(sorted_spans["waiting"], frames), [*calling, *paused])
    gaps = [(a[1], b[0]) for a, b in pairwise(tried) if b[0] > a[1]]
    return Row(
        waiting=tuple(union([first, *queued])),
        waits=tuple(sorted(waits)),
        calling=tuple(calling),
        working=tuple(without(frames, [*calling, *paused, *queued])),
        backing_off=tuple(union([*gaps, *paused])),
        named=tuple(sorted(named, key=lambda span: (span[1], span[2], span[0]))),
        marks=tuple(_marks(outcome, until)),
    )


def _marks(outcome: Outcome, until: float) -> list[tuple[float, str]]:
    marks = [(attempt.finished, "retried") for attempt in outcome.attempts[:-1]]
    if outcome.status in STATUS and not still_running(outcome):
        end = waiting(outcome, until)[1] if outcome.finished is None else outcome.finished
        marks.append((end, STATUS[outcome.status]))
    return marks


def steps(intervals: Iterable[Interval], start: float = 0.0) -> tuple[list[float], list[int]]:
    """Return how many intervals are open over time, as a step function: times, and the count from each time on.

    >>> steps([(0, 2), (1, 3)])
    ([0.0, 1, 2, 3], [1, 2, 1, 0])
    """
    changes: Counter[float] = Counter({start: 0})
    for begin, end in intervals:
        if end > begin:
            changes[begin] += 1
            changes[end] -= 1
    times, counts, level = [], [], 0
    for time in sorted(changes):
        level += changes[time]
        times.append(time)
        counts.append(level)
    return times, counts


def limit_words(limits: Sequence[tuple[float, float]]) -> str:
    """Describe the limit over time.

    >>> limit_words([(0, 4)]), limit_words([(0, 4), (2.5, 8)]), limit_words([])
    ('limit 4', 'limit 4, then 8 from 2.5 s', 'no limit')
    """
    rows = [row for i, row in enumerate(limits) if i == 0 or row[1] != limits[i - 1][1]]
    if all(limit == math.inf for _, limit in rows):
        return "no limit"
    if len(rows) <= 4:
        later = [f"then {number(limit)} from {seconds(at)}" for at, limit in rows[1:]]
        return ", ".join([f"limit {number(rows[0][1])}", *later])
    values = [limit for _, limit in rows]
    low, high = number(min(values)), number(max(values))
    return f"limit from {low} to {high} in {len(rows) - 1} changes, {number(values[-1])} at the end"
