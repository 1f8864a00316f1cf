"""From the log of a run to what a picture needs: stretches of time per task, marks, and counts over time.

What it holds: `Row` and `rows` (one per task), `union` and `without` of stretches, `steps` (how many at each instant),
and `limit_words`.
Guarantee: only `report.individual_results` and `report.limits` are read; a run that still goes on is read up to the
last thing that happened in it.
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
    "Row",
    "Stretch",
    "attempts",
    "duration",
    "going_on",
    "has_spans",
    "limit_words",
    "now",
    "queued_for",
    "rows",
    "steps",
    "union",
    "waited_for",
    "waiting",
    "without",
]

Stretch = tuple[float, float]
"""From, to; seconds since the run began."""

SLOT = "waiting for a slot"
STATUS = {"failed": "failed", "timeout": "timed out", "cancelled": "cancelled", "rejected": "rejected"}


@dataclass(frozen=True, slots=True)
class Row:
    """One task as stretches of time."""

    waiting: tuple[Stretch, ...] = ()
    """For a slot, or inside a span whose name begins with `waiting`."""
    waits: tuple[str, ...] = ()
    """What that was: the names of such spans, and `waiting for a slot` where no span says what the wait was for."""
    calling: tuple[Stretch, ...] = ()
    """Inside a span named `calling`; the whole attempts in a report without any span."""
    working: tuple[Stretch, ...] = ()
    """The rest of the attempts."""
    backing_off: tuple[Stretch, ...] = ()
    """Between attempts."""
    named: tuple[tuple[str, float, float], ...] = ()
    """Spans of other names."""
    marks: tuple[tuple[float, str], ...] = ()
    """`(second, what)`: retried, timed out, failed, cancelled, rejected."""


def duration(stretches: Iterable[Stretch]) -> float:
    """Sum of the lengths; exact, so that it is the same on every Python."""
    return math.fsum(end - start for start, end in stretches)


def union(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Merge what overlaps or touches; what has no length is left out.

    >>> union([(0, 2), (1, 3), (5, 6), (4, 4)])
    [(0, 3), (5, 6)]
    """
    merged: list[Stretch] = []
    for start, end in sorted(stretch for stretch in stretches if stretch[1] > stretch[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _within(stretches: Iterable[Stretch], frames: Sequence[Stretch]) -> list[Stretch]:
    return union((max(s, a), min(e, b)) for s, e in stretches for a, b in frames)


def without(frames: Iterable[Stretch], holes: Iterable[Stretch]) -> list[Stretch]:
    """Cut holes out of stretches.

    >>> without([(0, 5)], [(1, 2), (4, 9)])
    [(0, 1), (2, 4)]
    """
    left = union(frames)
    for start, end in holes:
        left = [piece for a, b in left for piece in ((a, min(b, start)), (max(a, end), b)) if piece[1] > piece[0]]
    return left


def now(report: Report) -> float:
    """When the last thing in the log happened."""
    times = [0.0]
    for outcome in report.individual_results:
        times += [t for t in (outcome.submitted, outcome.started, outcome.finished) if t is not None]
        times += [attempt.finished for attempt in outcome.attempts] + [span.finished for span in outcome.spans]
    return max(times)


def going_on(outcome: Outcome) -> bool:
    """Whether a task of a live report has not ended yet."""
    return outcome.finished is None and outcome.error is None and outcome.status == "cancelled"


def attempts(outcome: Outcome, until: float) -> list[Stretch]:
    """The attempts of a task, the one in progress included."""
    done = [(attempt.started, attempt.finished) for attempt in outcome.attempts]
    if going_on(outcome) and outcome.started is not None and not done:
        done.append((outcome.started, until))
    return done


def waiting(outcome: Outcome, until: float) -> Stretch:
    """From submission to the first attempt, or to the end of a task that never had one."""
    end = outcome.started if outcome.started is not None else outcome.finished
    gone = end is None and not going_on(outcome) and outcome.error is None
    return (outcome.submitted, outcome.submitted if gone else until if end is None else end)


def rows(report: Report) -> list[Row]:
    """One row per task, in input order."""
    until, spans = now(report), has_spans(report)
    return [_row(outcome, until, spans) for outcome in report.individual_results]


def has_spans(report: Report) -> bool:
    """Whether agents said what they did; what only says that a task waited does not count."""
    return any(_word(span) not in ("waiting", "backing") for o in report.individual_results for span in o.spans)


def _word(span: Span) -> str:
    return span.name.split(" ")[0]


def waited_for(names: Iterable[str]) -> str:
    """The waits of several tasks in words; more than two kinds are simply waiting.

    >>> waited_for(["waiting for a slot", "waiting for the rate"]), waited_for(["waiting for a slot"])
    ('waiting for a slot and for the rate', 'waiting for a slot')
    """
    kinds = sorted(set(names))
    if not 0 < len(kinds) <= 2 or "waiting" in kinds:
        return "waiting"
    return "waiting " + " and ".join(kind.removeprefix("waiting ") for kind in kinds)


def queued_for(*reports: Report) -> str:
    """What tasks waited for before their first attempts, in words."""
    names = set[str]()
    for report in reports:
        until = now(report)
        for outcome in report.individual_results:
            start = waiting(outcome, until)[1]
            before = replace(outcome, spans=tuple(span for span in outcome.spans if span.finished <= start))
            names |= set(_row(before, until, False).waits)
    return waited_for(names)


def _row(outcome: Outcome, until: float, spans: bool) -> Row:
    tried = attempts(outcome, until)
    frames = union(tried)
    sorted_spans: dict[str, list[Stretch]] = {"calling": [], "waiting": [], "backing": []}
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
    if outcome.status in STATUS and not going_on(outcome):
        end = waiting(outcome, until)[1] if outcome.finished is None else outcome.finished
        marks.append((end, STATUS[outcome.status]))
    return marks


def steps(stretches: Iterable[Stretch], start: float = 0.0) -> tuple[list[float], list[int]]:
    """How many of the stretches cover each instant: times, and the count from each time on.

    >>> steps([(0, 2), (1, 3)])
    ([0.0, 1, 2, 3], [1, 2, 1, 0])
    """
    changes: Counter[float] = Counter({start: 0})
    for begin, end in stretches:
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
    """The limit over time in words.

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
