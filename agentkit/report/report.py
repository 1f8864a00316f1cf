"""The report of a run: its outcomes, and views of them.

Every chart and every number of a run is computed from its outcomes; there is no second set of counters. A result or an
error whose own methods raise does not break a summary, a repr or a table. Opened by notebook 01.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, reduce
from operator import add
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from agentkit.base.arguments import instance, items, refusal, text
from agentkit.base.redact import redact
from agentkit.report.archive import decode, encode
from agentkit.report.outcome import STATUSES, Outcome, R, Reads, StoredError, T, shown
from agentkit.report.usage import Usage, usage_of

if TYPE_CHECKING:
    import pandas

    from agentkit.report.stalls import Stall

__all__ = ["Comparison", "Report", "Summary", "attach", "peak", "percentile", "used"]

D = TypeVar("D")

KEYS = "individual_results", "aggregated", "summary"
NOTABLE = 0.1  # a task is faster or slower if its latency differs by more than this share
TIMES = ["submitted", "started", "finished", "waited", "latency"]
COLUMNS = ["task_id", "task", "status", "result", "error", *TIMES, "attempts"]


@dataclass(frozen=True, slots=True)
class Summary(Reads):
    """The figures of a run. `succeeded + failed == total`, always."""

    total: int
    """Tasks the run received."""
    succeeded: int
    """Tasks whose status is `success`."""
    failed: int
    """All other tasks, for any reason; `by_status` has the breakdown."""
    by_status: dict[str, int]
    """Number of tasks per status; a status that did not occur is absent."""
    makespan: float
    """Seconds from the start of the run to the end of its last task."""
    throughput: float
    """Successes per second over the makespan; 0.0 if the makespan is 0."""
    latency_p50: float | None
    """Median seconds from first attempt to finish, over the successes; None if there are none."""
    latency_p95: float | None
    """95th percentile of the same: 95 of 100 successes took at most this many seconds."""
    retries: int
    """Attempts beyond the first, over all tasks."""
    peak_in_flight: int
    """The largest number of attempts running at the same time."""
    usage: Usage | None
    """Sum of the usage of all tasks for which it is known, failed ones included; None if it is known for none."""

    def __repr__(self) -> str:
        parts = [f"{self.succeeded} of {self.total} succeeded"]
        parts += [f"{count} {status}" for status, count in self.by_status.items() if status != "success"]
        if self.retries:
            parts.append(f"{self.retries} retr{'y' if self.retries == 1 else 'ies'}")
        return f"<Summary: {', '.join(parts)}, at most {self.peak_in_flight} in flight, {self.makespan:.3g} s>"


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile: the smallest value that is not exceeded by at least `share` of all values.

    >>> percentile([4, 1, 3, 2], 0.5), percentile([], 0.5)
    (2, None)
    """
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def peak(intervals: Sequence[tuple[float, float]]) -> int:
    """Return the largest number of intervals that overlap; one that ends when another begins does not overlap it.

    >>> peak([(0, 2), (1, 3), (2, 4)])
    2
    """
    lasting = [(start, end) for start, end in intervals if end > start]
    now, most = 0, min(1, len(intervals))
    for _, step in sorted([(start, 1) for start, _ in lasting] + [(end, -1) for _, end in lasting]):
        now += step
        most = max(most, now)
    return most


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed from one run to another over the same tasks; tasks are matched by `task_id`.

    >>> before = Report([Outcome(0, "a", "success", 1, started=0.0, finished=4.0)])
    >>> now = Report([Outcome(0, "a", "success", 1, started=0.0, finished=2.0)])
    >>> now.compare(before)
    <Comparison: 1 faster, 0 slower, 0 newly failed, 0 recovered; succeeded 1 -> 1, makespan 4 s -> 2 s>
    """

    faster: list[int]
    """Ids of tasks that succeeded in both runs and whose latency is now more than 10% lower."""
    slower: list[int]
    """Ids of tasks that succeeded in both runs and whose latency is now more than 10% higher."""
    failed: list[int]
    """Ids of tasks that succeeded before and did not now."""
    recovered: list[int]
    """Ids of tasks that did not succeed before and did now."""
    figures: dict[str, tuple[Any, Any]]
    """Each figure of the two summaries, as `(before, now)`."""

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas frame with one row per figure and the columns `before` and `now`."""
        import pandas

        return pandas.DataFrame(list(self.figures.values()), list(self.figures), ["before", "now"], dtype=object)

    def __repr__(self) -> str:
        succeeded, makespan = self.figures["succeeded"], self.figures["makespan"]
        return (
            f"<Comparison: {len(self.faster)} faster, {len(self.slower)} slower, {len(self.failed)} newly failed, "
            f"{len(self.recovered)} recovered; succeeded {succeeded[0]} -> {succeeded[1]}, "
            f"makespan {makespan[0]:.3g} s -> {makespan[1]:.3g} s>"
        )


class Report(Sequence[Outcome[T, R]], Generic[T, R]):
    """The result of a run: a sequence of all outcomes, in input order, and views of them.

    >>> report = Report([Outcome(0, "a", "success", 1, started=0.0, finished=2.0), Outcome(1, "b", "failed")])
    >>> report[-1].status, len(report), report.results, report.results_or(0)
    ('failed', 2, [1], [1, 0])
    >>> report.summary.succeeded, report["summary"]["failed"], [r["status"] for r in report["individual_results"]]
    (1, 1, ['success', 'failed'])

    Generic in the tasks and the results. For programs written for plain dicts it also answers to the keys
    `individual_results`, `aggregated` and `summary`.
    """

    def __init__(
        self,
        individual_results: Iterable[Outcome[T, R]],
        *,
        limits: Sequence[tuple[float, float]] = (),
        stopped: str | None = None,
        stalls: Sequence[Stall] = (),
    ) -> None:
        self.individual_results = items("individual_results", individual_results, "give a list of outcomes")
        """One `Outcome` per task, in the order of the input."""
        self.aggregated: Any = None
        """What the aggregator returned; None if there was none."""
        for outcome in self.individual_results:
            instance("individual_results", outcome, Outcome)
        self.limits = tuple(items("limits", limits, "give rows (second, limit)"))
        """The concurrency limit over time as `(second, limit)`; several rows if it was changed during the run."""
        self.stopped = text("stopped", stopped, none=True)
        """Why the run ended before its input was used up; None if it ran to completion."""
        self.stalls = tuple(items("stalls", stalls))
        """Agents that blocked the event loop for more than 0.1 s, how long, and where; detected in real time only."""

    @property
    def results(self) -> list[R]:
        """What the successful tasks returned, in input order; shorter than the input if a task failed."""
        return [outcome.result for outcome in self if outcome.status == "success"]  # type: ignore[misc]

    def results_or(self, default: D) -> list[R | D]:
        """Return one value per task, in input order: its result, or `default` if it did not succeed."""
        return [o.result if o.status == "success" else default for o in self]  # type: ignore[misc]

    @property
    def failures(self) -> list[Outcome[T, R]]:
        """The outcomes of all tasks that did not succeed, in input order."""
        return [outcome for outcome in self if outcome.status != "success"]

    @cached_property
    def summary(self) -> Summary:
        """The figures of the run, computed from its outcomes on first access."""
        outcomes = self.individual_results
        counts = Counter(outcome.status for outcome in outcomes)
        latencies = [o.latency for o in outcomes if o.status == "success" and o.latency is not None]
        attempts = [attempt for outcome in outcomes for attempt in outcome.attempts]
        makespan = max((o.finished for o in outcomes if o.finished is not None), default=0.0)
        usages = [usage for o in outcomes if (usage := used(o)) is not None]
        return Summary(
            total=len(outcomes),
            succeeded=counts["success"],
            failed=len(outcomes) - counts["success"],
            by_status={status: counts[status] for status in STATUSES if counts[status]},
            makespan=makespan,
            throughput=counts["success"] / makespan if makespan else 0.0,
            latency_p50=percentile(latencies, 0.50),
            latency_p95=percentile(latencies, 0.95),
            retries=len(attempts) - sum(1 for outcome in outcomes if outcome.attempts),
            peak_in_flight=peak([(attempt.started, attempt.finished) for attempt in attempts]),
            usage=reduce(add, usages) if usages else None,
        )

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas frame with one row per task; `attempts` is a count, `error` a string."""
        import pandas

        rows = []
        for o in self.individual_results:
            times = o.submitted, o.started, o.finished, o.waited, o.latency
            rows.append((o.task_id, o.task, o.status, o.result, o.reason, *times, len(o.attempts)))
        return pandas.DataFrame(rows, columns=COLUMNS).set_index("task_id")

    def plot(self, kind: str = "timeline", **options: Any) -> Any:
        """Draw a chart of the run: `"timeline"`, `"in_flight"`, `"queue_depth"` and others; see `agentkit.plots`."""
        from agentkit.plots import draw

        return draw(kind, self, **options)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the report to a file of JSON lines, UTF-8: a header, then one line per task, credentials redacted.

        A value that JSON cannot hold is stored as its repr, under a key that ends in `_repr`. Overwrites the file.
        """
        about = {"stopped": self.stopped, "limits": self.limits, "stalls": self.stalls, "aggregated": self.aggregated}
        lines = encode(about, ((outcome, used(outcome)) for outcome in self))
        _path(path).write_text(lines, encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Report[Any, Any]:
        """Read a report that `save` wrote; raises `ValueError` if the file holds anything else.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Report([Outcome(0, "a", "failed", error=KeyError("label"))]).save(f"{folder}/run.jsonl")
        ...     Report.load(f"{folder}/run.jsonl")[0].reason
        "KeyError: 'label'"

        Tasks and results are what was stored: a tuple is a list, an object is the repr it had, a `StoredRepr`. An
        error is a `StoredError`. The figures are those of the run.
        """
        outcomes, about = decode(_path(path).read_text(encoding="utf-8"), str(path))
        report = Report(outcomes, limits=about["limits"], stopped=about["stopped"], stalls=about["stalls"])
        report.aggregated = about["aggregated"]
        return report

    def compare(self, other: Report[Any, Any]) -> Comparison:
        """Compare this run with an earlier one, `other`, over the same tasks: what got faster, slower, or failed."""
        instance("other", other, Report)
        figures = {each.name: (other.summary[each.name], self.summary[each.name]) for each in fields(Summary)}
        earlier, changes = {o.task_id: o for o in other}, Comparison([], [], [], [], figures)
        for now in self:
            before = earlier.get(now.task_id)
            if before is None or "success" not in (now.status, before.status):
                continue
            if now.status != "success":
                changes.failed.append(now.task_id)
            elif before.status != "success":
                changes.recovered.append(now.task_id)
            elif now.latency is not None and before.latency is not None:
                if now.latency < before.latency * (1 - NOTABLE):
                    changes.faster.append(now.task_id)
                elif now.latency > before.latency * (1 + NOTABLE):
                    changes.slower.append(now.task_id)
        return changes

    @overload
    def __getitem__(self, index: int) -> Outcome[T, R]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome[T, R]]: ...
    @overload
    def __getitem__(self, index: Literal["individual_results"]) -> list[Outcome[T, R]]: ...
    @overload
    def __getitem__(self, index: Literal["summary"]) -> Summary: ...
    @overload
    def __getitem__(self, index: str) -> Any: ...
    def __getitem__(self, index: int | slice | str) -> Any:
        if not isinstance(index, str):
            return self.individual_results[index]
        if index not in KEYS:
            raise KeyError(f"{index!r} is not a key of a report; it has {', '.join(KEYS)}")
        return getattr(self, index)

    def __contains__(self, item: object) -> bool:
        return item in KEYS if isinstance(item, str) else item in self.individual_results

    def __iter__(self) -> Iterator[Outcome[T, R]]:
        return iter(self.individual_results)

    def __len__(self) -> int:
        return len(self.individual_results)

    def __repr__(self) -> str:
        stopped, cause = f"; stopped: {self.stopped}" if self.stopped else "", self._cause()
        return repr(self.summary).replace("<Summary: ", "<Report: ")[:-1] + stopped + (cause and f"; {cause}") + ">"

    def _cause(self) -> str:
        """What most failures have in common, and what to do about it; empty if nothing, or if `stopped` says it."""
        stopped = self.stopped or ""
        passed_over = ("cancelled", "rejected") if stopped else ("cancelled",)
        failures = [o for o in self.failures if o.status not in passed_over and o.reason not in stopped]
        kinds = [_kind(o) for o in failures]
        kind, count = max(Counter(kinds).items(), key=lambda item: item[1], default=("", 0))
        if count < 2 or 2 * count <= len(failures):
            return ""
        alike = [o for o, its_kind in zip(failures, kinds, strict=True) if its_kind == kind]
        if kind == "429":
            tries = max(len(o.attempts) for o in alike)
            if tries > 1:
                return f"{count} refused with 429 after up to {tries} attempts: give the executor a rate_limiter"
            return f"{count} refused with 429: give the executor retry=RetryPolicy() or a rate_limiter"
        reason, same = Counter(o.reason for o in alike).most_common(1)[0]
        reason = redact(reason)
        message = _short(reason.partition(": ")[2])
        if kind == "timeout":
            which = f" ({message})" if message else ""
            return f"{count} timed out{which}: raise that limit, or make each task smaller"
        of = f"all {count}" if count == len(failures) else f"{count} of {len(failures)}"
        return f"{of} failures: {_short(reason) if same == count else f'{kind}, for example {message}'}"

    def _repr_html_(self, rows: int = 20) -> str:
        """Return the run as an HTML table; every value that came from an agent is escaped."""
        left = 'style="text-align: left"'
        head = "".join(f"<th {left}>{name}</th>" for name in ("task", "status", "result or error", "waited", "latency"))
        body = ""
        for outcome in self[:rows]:
            said = outcome.result if outcome.status == "success" else outcome.reason
            times = ("" if time is None else f"{time:.2f} s" for time in (outcome.waited, outcome.latency))
            cells = (_short(outcome.task), outcome.status, _short(said), *times)
            body += "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        if len(self) > rows:
            body += f"<tr><td colspan=5>and {len(self) - rows} more: .to_frame() has them all</td></tr>"
        caption = html.escape(repr(self)[9:-1])
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def used(outcome: Outcome[Any, Any]) -> Usage | None:
    """Return what a task used: what the executor recorded, else what its result says; None if neither is known."""
    return usage_of(outcome.result) if outcome.usage is None else outcome.usage


def _path(path: object) -> Path:
    if not isinstance(path, str | PathLike) or not str(path):
        raise refusal("path", "must be a path", path, "such as 'run.jsonl'", TypeError)
    return Path(path)


def attach(error: BaseException, report: Report[Any, Any], what: str) -> None:
    """Put the report of a run on the exception that ended it, as `.report`, with a note in its traceback.

    An exception that ended several runs keeps those of the last one. One that cannot be changed is left as it is.
    """
    said = "; its report is in .report: "
    try:
        error.report = report  # type: ignore[attr-defined]
        error.__notes__ = [note for note in getattr(error, "__notes__", ()) if said not in note]
        error.add_note(f"{what}{said}{report!r}")
    except Exception:
        pass


def _kind(outcome: Outcome[Any, Any]) -> str:
    """The cause of a failure: `timeout`, `429` (too many requests), or the type of the error."""
    error, reason = outcome.error, outcome.reason
    name = reason.partition(":")[0]
    if outcome.status == "timeout":
        return "timeout"
    if "insufficient_quota" in reason:  # a 429 that no wait can cure
        return name
    if name == "RateLimitError" or (isinstance(error, StoredError) and "429" in reason):
        return "429"
    try:
        sources, names = (error, getattr(error, "response", None)), ("status_code", "status", "code")
        refused = any(getattr(source, at, None) == 429 for source in sources for at in names)
    except Exception:  # a property of the error's own
        refused = False
    return "429" if refused else name


def _short(value: object) -> str:
    text = " ".join(shown(value).split())
    return text if len(text) <= 60 else text[:59] + "…"
