"""The report of a run: its outcomes, and views of them.

What it holds: `Report`, all outcomes of a run with data frame, charts and HTML table; `Summary`, its figures;
`percentile` and `peak`, the statistics they use; `attach` and `annotate`, which put results on an exception.
Guarantee: every chart and every number of a run is computed from its outcomes; there is no second set of counters.
Strategy: the summary is computed on first access and cached; pandas and matplotlib are imported on first use.
Opened by notebook 01.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import TYPE_CHECKING, Any

from agentkit.report.outcome import STATUSES, Outcome, Reads

if TYPE_CHECKING:
    import pandas

    from agentkit.report.stalls import Stall

__all__ = ["Report", "Summary", "annotate", "attach", "peak", "percentile"]

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
    usage: Any
    """Sum of `result.usage` over the results that have one, without failed tasks; None if no result has one."""

    def __repr__(self) -> str:
        parts = [f"{self.succeeded} of {self.total} succeeded"]
        parts += [f"{count} {status}" for status, count in self.by_status.items() if status != "success"]
        if self.retries:
            parts.append(f"{self.retries} retr{'y' if self.retries == 1 else 'ies'}")
        parts.append(f"at most {self.peak_in_flight} in flight")
        parts.append(f"{self.makespan:.3g} s")
        return f"<Summary: {', '.join(parts)}>"


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile: the smallest value that is not exceeded by at least `share` of all values.

    >>> percentile([4, 1, 3, 2], 0.5), percentile([], 0.5)
    (2, None)
    """
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


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


class Report(Reads):
    """The result of a run: every outcome in input order, and views of them.

    >>> report = Report([Outcome(0, "a", "success", 1, started=0.0, finished=2.0), Outcome(1, "b", "failed")])
    >>> report.summary.succeeded, report["summary"]["failed"], report.results
    (1, 1, [1])
    """

    def __init__(
        self,
        individual_results: Sequence[Outcome],
        *,
        limits: Sequence[tuple[float, float]] = (),
        stopped: str | None = None,
        stalls: Sequence[Stall] = (),
    ) -> None:
        self.individual_results = list(individual_results)
        """One `Outcome` per task, in the order of the input."""
        self.aggregated: Any = None
        """What the aggregator returned; None if there was none."""
        self.limits = tuple(limits)
        """The concurrency limit over time as `(second, limit)`; several rows if it was changed during the run."""
        self.stopped = stopped
        """Why the run ended before its input was used up; None if it ran to completion."""
        self.stalls = tuple(stalls)
        """Agents that blocked the event loop for more than 0.1 s, how long, and where; detected in real time only."""

    @property
    def results(self) -> list[Any]:
        """What the successful tasks returned, in input order; shorter than the input if a task failed."""
        return [outcome.result for outcome in self.individual_results if outcome.status == "success"]

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes of all tasks that did not succeed, in input order."""
        return [outcome for outcome in self.individual_results if outcome.status != "success"]

    @cached_property
    def summary(self) -> Summary:
        """The figures of the run, computed from its outcomes on first access."""
        outcomes = self.individual_results
        counts = Counter(outcome.status for outcome in outcomes)
        latencies = [o.latency for o in outcomes if o.status == "success" and o.latency is not None]
        attempts = [attempt for outcome in outcomes for attempt in outcome.attempts]
        makespan = max((o.finished for o in outcomes if o.finished is not None), default=0.0)
        usages = [o.result.usage for o in outcomes if getattr(o.result, "usage", None) is not None]
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
            usage=_sum(usages),
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

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.individual_results)

    def __len__(self) -> int:
        return len(self.individual_results)

    def __repr__(self) -> str:
        stopped = f"; stopped: {self.stopped}" if self.stopped else ""
        return repr(self.summary).replace("<Summary: ", "<Report: ")[:-1] + stopped + ">"

    def _repr_html_(self, rows: int = 20) -> str:
        """Return the run as an HTML table; every value that came from an agent is escaped."""
        left = 'style="text-align: left"'
        head = "".join(f"<th {left}>{name}</th>" for name in ("task", "status", "result or error", "waited", "latency"))
        body = ""
        for outcome in self.individual_results[:rows]:
            said = outcome.result if outcome.status == "success" else outcome.reason
            times = _seconds(outcome.waited), _seconds(outcome.latency)
            cells = (_short(outcome.task), outcome.status, _short(said), *times)
            body += "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        more = len(self) - rows
        if more > 0:
            body += f"<tr><td colspan=5>and {more} more: .to_frame() has them all</td></tr>"
        caption = html.escape(repr(self)[9:-1])
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _sum(usages: Sequence[Any]) -> Any:
    """Add up usages; None if there are none, or if their type does not support addition."""
    try:
        return reduce(add, usages) if usages else None
    except TypeError:
        return None


def attach(error: BaseException, report: Report, what: str) -> None:
    """Put the report of a run on the exception that ended it, as `.report`, with a note in its traceback."""
    annotate(error, f"{what}; its report is in .report: {report!r}", report=report)


def annotate(error: BaseException, note: str, **found: Any) -> None:
    """Set attributes on an exception and add a note to its traceback; does nothing if it does not allow that."""
    try:
        for name, value in found.items():
            setattr(error, name, value)
        error.add_note(note)
    except Exception:  # an immutable exception is raised unchanged
        pass


def _short(value: object, width: int = 60) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
