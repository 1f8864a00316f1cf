"""The facts of a run, as numbers and in words; checks of arguments that several charts share.

What it holds: `facts_of` a report, `words_of` those facts, `labels_for`, which checks the labels of several runs, and
`mark_of`, which checks a mark.
Guarantee: a change that moves a bar of a timeline changes a number here, so charts of different data have different
reprs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import agentkit.plots.events as events
from agentkit.plots.chart import count, seconds
from agentkit.report import Report

__all__ = ["facts_of", "gains", "labels_for", "mark_of", "mark_words", "words_of"]


def facts_of(report: Report, serial: float | Report | None = None) -> dict[str, Any]:
    """Return the facts of a run; seconds that several agents spend at the same time count once per agent."""
    outcomes, rows, summary = report.individual_results, events.rows(report), report.summary
    spans = events.has_spans(report)
    alone = math.fsum(o.latency or 0.0 for o in outcomes) if serial is None else serial
    facts: dict[str, Any] = {
        "agents": summary.total,
        "peak_in_flight": summary.peak_in_flight,
        "seconds": events.now(report),
        "succeeded": summary.succeeded,
        **{words.replace(" ", "_"): summary.by_status.get(status, 0) for status, words in events.STATUS.items()},
        "retries": summary.retries,
        "one_after_another": alone.summary.makespan if isinstance(alone, Report) else float(alone),
        "limits": report.limits,
        "waited": events.duration(interval for row in rows for interval in row.waiting),
        "called" if spans else "ran": events.duration(interval for row in rows for interval in row.calling),
        "own_work": events.duration(interval for row in rows for interval in row.working),
        "backed_off": events.duration(interval for row in rows for interval in row.backing_off),
    }
    facts["still_running"] = sum(map(events.still_running, outcomes))
    facts["cancelled"] -= facts["still_running"]
    named: dict[str, list[events.Interval]] = {}
    for name, start, end in sorted(span for row in rows for span in row.named):
        named.setdefault(name, []).append((start, end))
    facts["spans"] = {name: events.duration(intervals) for name, intervals in named.items()}
    facts["span_counts"] = {name: len(intervals) for name, intervals in named.items()}
    return facts


def words_of(facts: dict[str, Any]) -> list[str]:
    """Return the facts in words, most important first; anything that did not happen is left out."""
    said = [count(facts["agents"], "agent"), f"at most {facts['peak_in_flight']} in flight"]
    said += [seconds(facts["seconds"]), f"{facts['succeeded']} succeeded"]
    for what in ("failed", "timed_out", "cancelled", "rejected", "still_running"):
        said += [f"{facts[what]} {what.replace('_', ' ')}"] if facts[what] else []
    said += [count(facts["retries"], "retry", "retries")] if facts["retries"] else []
    said[-1] += ";"
    said += [f"{seconds(facts['one_after_another'])} one after another"] if gains(facts) else []
    said.append(events.limit_words(facts["limits"]))
    for what in ("waited", "called", "ran", "own_work", "backed_off"):
        if facts.get(what) or (what in facts and what in ("waited", "called", "ran")):
            said.append(f"{what.replace('_', ' ')} {seconds(facts[what])}")
    for name, spent in facts["spans"].items():
        said.append(f"{name} {seconds(spent)} in {count(facts['span_counts'][name], 'span')}")
    return said


def gains(facts: dict[str, Any]) -> bool:
    """Whether concurrency saved enough time (2 % or more) to be mentioned in the title."""
    return bool(facts["one_after_another"] > 1.02 * facts["seconds"] > 0)


def mark_of(mark: tuple[float, str] | None) -> tuple[float, str] | None:
    """Check a mark: a time in seconds, and what happened then."""
    if mark is None:
        return None
    match mark:
        case (int() | float() as at, str() as what) if 0 <= at < math.inf and what.strip():
            return float(at), what
    raise ValueError(f"mark must be (seconds, what happened then), got {mark!r}; write mark=(3, 'the caller leaves')")


def mark_words(mark: tuple[float, str]) -> str:
    """Return a mark in words, for repr and legend: `'the caller leaves at 3 s'`."""
    return f"{mark[1]} at {seconds(mark[0])}"


def labels_for(reports: Sequence[Any], labels: Sequence[object] | None) -> list[str]:
    """Return a label per run; `run 1`, `run 2`, … if none are given."""
    if labels is None:
        return [f"run {i}" for i in range(1, len(reports) + 1)]
    if isinstance(labels, str) or len(labels) != len(reports):
        raise ValueError(
            f"labels must hold one text per run, {len(reports)} in all, got {labels!r}; leave it out for numbers"
        )
    return [str(label) for label in labels]
