"""The log of a run, and its views.

What it holds: `Report`, all outcomes of a run with their frame, picture and table, and `Summary`, its figures.
Guarantee: every picture and every number of a run is computed from its outcomes; there is no second bookkeeping.
Strategy: figures are computed when asked for, once; pandas and matplotlib are loaded only then.
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

__all__ = ["Report", "Summary", "attach", "keep_with", "peak", "percentile"]


TIMES = ["submitted", "started", "finished", "waited", "latency"]
COLUMNS = ["task_id", "task", "status", "result", "error", *TIMES, "attempts"]


@dataclass(frozen=True, slots=True)
class Summary(Reads):
    """A run in figures. `succeeded + failed == total`, always."""

    total: int
    """Tasks the run knew of."""
    succeeded: int
    """Tasks whose status is `success`."""
    failed: int
    """All the others, whatever stopped them; `by_status` tells them apart."""
    by_status: dict[str, int]
    """Tasks by status; a status that did not occur is absent."""
    makespan: float
    """Seconds from the start of the run to the end of its last task."""
    throughput: float
    """Successes per second over the makespan; 0.0 where the makespan is 0."""
    latency_p50: float | None
    """Median seconds from first attempt to end, over the successes; None without any."""
    latency_p95: float | None
    """95 of 100 successes took at most this many seconds."""
    retries: int
    """Attempts beyond the first, over all tasks."""
    peak_in_flight: int
    """The most tasks that were being attempted at one instant."""
    usage: Any
    """Sum of `result.usage` over the results that have one, failed tasks not counted; None without any."""

    def __repr__(self) -> str:
        parts = [f"{self.succeeded} of {self.total} succeeded"]
        parts += [f"{count} {status}" for status, count in self.by_status.items() if status != "success"]
        if self.retries:
            parts.append(f"{self.retries} retr{'y' if self.retries == 1 else 'ies'}")
        parts.append(f"at most {self.peak_in_flight} in flight")
        parts.append(f"{self.makespan:.3g} s")
        return f"<Summary: {', '.join(parts)}>"


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile: the smallest value that at least `share` of all do not exceed.

    >>> percentile([4, 1, 3, 2], 0.5), percentile([], 0.5)
    (2, None)
    """
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def peak(intervals: Sequence[tuple[float, float]]) -> int:
    """Return the most intervals that overlap; one that ends when another begins does not overlap it.

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
    """What a run leaves: every outcome in input order, and views of them.

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
        """What the aggregator returned; None without one."""
        self.limits = tuple(limits)
        """The concurrency limit over time as `(second, limit)`; several rows where it was changed during the run."""
        self.stopped = stopped
        """Why the run ended before its input did; None if it ran to the end."""
        self.stalls = tuple(stalls)
        """Which agents blocked the loop for more than 0.1 s, for how long, and where; watched in real time only."""

    @property
    def results(self) -> list[Any]:
        """What the successful tasks returned, in input order: shorter than the input where a task failed."""
        return [outcome.result for outcome in self.individual_results if outcome.status == "success"]

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that are not successes, in input order."""
        return [outcome for outcome in self.individual_results if outcome.status != "success"]

    @cached_property
    def summary(self) -> Summary:
        """The figures of the run, computed once from its outcomes."""
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
        """Return one row per task as a pandas frame; `attempts` is their number, `error` its text."""
        import pandas

        rows = []
        for o in self.individual_results:
            times = o.submitted, o.started, o.finished, o.waited, o.latency
            rows.append((o.task_id, o.task, o.status, o.result, o.reason, *times, len(o.attempts)))
        return pandas.DataFrame(rows, columns=COLUMNS).set_index("task_id")

    def plot(self, kind: str = "timeline", **options: Any) -> Any:
        """Draw the run: `"timeline"`, `"in_flight"`, `"queue_depth"` and others; see `agentkit.plots`."""
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
        """Show the run as a table; everything that came from an agent is escaped."""
        left = 'style="text-align: left"'
        head = "".join(f"<th {left}>{name}</th>" for name in ("task", "status", "result or error", "waited", "latency"))
        body = ""
        for outcome in self.individual_results[:rows]:
            said = outcome.result if outcome.status == "success" else outcome.reason
            cells = [_short(outcome.task), outcome.status, _short(said), _seconds(outcome.waited)]
            body += (
                "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in [*cells, _seconds(outcome.latency)]) + "</tr>"
            )
        more = len(self) - rows
        if more > 0:
            body += f"<tr><td colspan=5>and {more} more: .to_frame() has them all</td></tr>"
        caption = html.escape(repr(self)[9:-1])
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _sum(usages: Sequence[Any]) -> Any:
    """Add usages up; None where there are none, or they are of a kind that cannot be added."""
    try:
        return reduce(add, usages) if usages else None
    except TypeError:
        return None


def attach(error: BaseException, report: Report, what: str) -> None:
    """Give an exception that ends a run the run's report, as `.report`, and say so in its traceback."""
    keep_with(error, f"{what}; its report is in .report: {report!r}", report=report)


def keep_with(error: BaseException, note: str, **found: Any) -> None:
    """Give an exception what was there when it ended something, as attributes, and a note that says so."""
    try:
        for name, value in found.items():
            setattr(error, name, value)
        error.add_note(note)
    except Exception:  # an exception that cannot be changed is raised as it is
        pass


def _short(value: object, width: int = 60) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
