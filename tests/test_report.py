"""The log of a run and its views: figures that agree, records that read like dicts, tables that are safe to show."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CompletionUsage

from agentkit.agent import Reply
from agentkit.executor import ParallelAgentExecutor
from agentkit.lab.loops.virtual import simulate
from agentkit.report import Report, peak, percentile
from agentkit.report.outcome import Outcome, span
from agentkit.report.usage import Usage


def done(i: int, started: float, finished: float, result: object = None) -> Outcome:
    """Return a success."""
    return Outcome(i, f"task {i}", "success", result, started=started, finished=finished)


# -- figures ------------------------------------------------------------------------------------------------------


def test_Summary_figures():
    """Counts, makespan, throughput and percentiles of a small run, by hand."""
    failed = Outcome(3, "d", "failed", error=ValueError(), started=2.0, finished=10.0)
    never = Outcome(4, "e", "rejected", error=RuntimeError("full"))
    summary = Report([done(0, 0, 1), done(1, 0, 3), done(2, 1, 5), failed, never]).summary
    assert (summary.total, summary.succeeded, summary.failed) == (5, 3, 2)
    assert summary.by_status == {"success": 3, "failed": 1, "rejected": 1}
    assert (summary.makespan, summary.throughput) == (10.0, 0.3)
    assert (summary.latency_p50, summary.latency_p95) == (3, 4)
    assert (summary.peak_in_flight, summary.retries, summary.usage) == (3, 0, None)
    assert repr(summary) == "<Summary: 3 of 5 succeeded, 1 failed, 1 rejected, at most 3 in flight, 10 s>"


def test_Summary_of_nothing():
    """An empty report has figures too: zeros, and None where a figure would mean nothing."""
    summary = Report([]).summary
    assert (summary.total, summary.makespan, summary.throughput, summary.peak_in_flight) == (0, 0.0, 0.0, 0)
    assert (summary.latency_p50, summary.latency_p95, summary.by_status) == (None, None, {})


def test_Summary_usage_adds_up():
    """The usage of all replies is summed; results without any do not count."""
    replies = [Reply("a", Usage(1, 10, 5)), Reply("b", Usage(1, 20, 7)), Reply("c"), "text"]
    report = Report([done(i, 0, 1, reply) for i, reply in enumerate(replies)])
    assert report.summary.usage == Usage(2, 30, 12)


def test_Summary_usage_of_foreign_results_does_no_harm():
    """Agents that return the openai client's own answers, whose usages cannot be added, still have a summary."""

    class Answer:
        usage = CompletionUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15)

    report = Report([done(i, 0, 1, Answer()) for i in range(3)])
    assert report.summary.succeeded == 3
    assert "3 of 3 succeeded" in repr(report)
    assert report._repr_html_()


@given(st.lists(st.integers(-50, 50)), st.floats(0.01, 1))
def test_percentile_is_one_of_the_values_and_high_enough(values: list[int], share: float):
    """Nearest rank: at least the given share of the values is not above it, and one less would not do."""
    found = percentile(values, share)
    if not values:
        assert found is None
    else:
        below = sum(v <= found for v in values)
        assert found in values
        assert below >= share * len(values) - 1e-9
        assert sum(v < found for v in values) < share * len(values)


_SPANS = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)).map(lambda p: (p[0], p[0] + p[1])))


@given(_SPANS)
def test_peak_equals_counting_at_every_instant(intervals: list[tuple[int, int]]):
    """The most that overlap, found by looking at every instant between whole seconds."""
    assert peak(intervals) == max((sum(start <= t < end for start, end in intervals) for t in range(30)), default=0)


# -- records ------------------------------------------------------------------------------------------------------


def test_Outcome_reads_like_a_dict():
    """`record["name"]`, `get` and `in` work as they do on a dict; an unknown name is a KeyError."""
    outcome = done(0, 1, 3, "answer")
    assert (outcome["status"], outcome["result"], outcome["latency"]) == ("success", "answer", 2)
    assert outcome.get("error") is None
    assert outcome.get("nonsense", "default") == "default"
    with pytest.raises(KeyError, match="nonsense"):
        outcome["nonsense"]
    assert "status" in outcome
    assert "nonsense" not in outcome


def test_Report_reads_like_a_dict():
    """A report and its summary answer to names as well."""
    report = Report([done(0, 0, 1, "a")])
    assert report["individual_results"][0]["result"] == "a"
    assert report["summary"]["succeeded"] == 1
    assert "summary" in report
    assert "succeeded" in report.summary
    with pytest.raises(KeyError):
        report["nonsense"]


def test_Outcome_times_that_do_not_exist_are_None():
    """A task that never started has no wait and no latency."""
    outcome = Outcome(0, "a")
    assert (outcome.waited, outcome.latency, outcome.attempts) == (None, None, ())


def test_Summary_is_frozen():
    """Figures cannot be changed afterwards."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Report([]).summary.total = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (asyncio.CancelledError(), "CancelledError"),
        (TimeoutError(), "TimeoutError"),
        (None, ""),
    ],
)
def test_Outcome_reason_names_the_type(error: BaseException | None, reason: str):
    """The reason is never empty for a failure."""
    assert Outcome(0, "a", error=error).reason == reason


# -- views --------------------------------------------------------------------------------------------------------


def test_Report_iterates_over_its_outcomes():
    """A report is a collection of outcomes; `results` and `failures` divide them."""
    failed = Outcome(1, "b", "failed", error=ValueError())
    report = Report([done(0, 0, 1, "a"), failed])
    assert (len(report), [o.task_id for o in report]) == (2, [0, 1])
    assert (report.results, report.failures) == (["a"], [failed])


def test_Report_html_is_escaped():
    """Nothing that came from a task, an agent or an error can inject markup into the page."""
    evil = "<script>alert('&')</script>"
    failed = Outcome(1, evil, "failed", error=ValueError(evil), started=0.0, finished=1.0)
    page = Report([Outcome(0, evil, "success", evil, started=0.0, finished=1.0), failed], stopped=evil)._repr_html_()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_Report_html_of_many_shows_some_and_says_so():
    """A long report shows its first rows and says how many there are more."""
    page = Report([done(i, 0, 1, "x" * 500) for i in range(45)])._repr_html_()
    assert page.count("<tr>") == 1 + 20 + 1
    assert "and 25 more: .to_frame() has them all" in page
    assert "x" * 100 not in page


def test_Report_html_of_nothing():
    """An empty report is a table with a head."""
    assert "0 of 0 succeeded" in Report([])._repr_html_()


def test_Report_repr_says_why_it_stopped():
    """The repr carries the figures, and the reason for an early end."""
    report = Report([done(0, 0, 1)], stopped="within=1 s is over")
    assert repr(report) == "<Report: 1 of 1 succeeded, at most 1 in flight, 1 s; stopped: within=1 s is over>"


def test_Report_to_frame_has_a_row_per_task():
    """The frame has one row per task, in input order, with text instead of exception objects."""
    failed = Outcome(1, {"q": 1}, "failed", error=ValueError("no"), started=2.0, finished=5.0)
    frame = Report([done(0, 0, 1, [1, 2]), failed]).to_frame()
    assert list(frame.index) == [0, 1]
    assert frame.loc[1, "task"] == {"q": 1}
    assert list(frame["status"]) == ["success", "failed"]
    assert list(frame["error"]) == ["", "ValueError: no"]
    assert list(frame["latency"]) == [1.0, 3.0]
    assert list(frame["attempts"]) == [1, 1]


def test_Report_to_frame_of_nothing_has_the_same_columns():
    """Code that reads a column works on the frame of an empty run as well."""
    empty, full = Report([]).to_frame(), Report([done(0, 0, 1)]).to_frame()
    assert list(empty.columns) == list(full.columns)
    assert len(empty) == 0


# -- spans --------------------------------------------------------------------------------------------------------


def test_span_is_logged_with_its_task():
    """What an agent logs lands in its own outcome, with times since the run began."""

    async def agent(i):
        await asyncio.sleep(i)
        with span("calling"):
            await asyncio.sleep(1)

    async def main():
        await asyncio.sleep(100)
        return await ParallelAgentExecutor(2).execute([1, 2, 3], agent)

    report = simulate(main)
    assert [[(s.name, s.started, s.finished) for s in o.spans] for o in report] == [
        [("calling", 1.0, 2.0)],
        [("calling", 2.0, 3.0)],
        [("calling", 5.0, 6.0)],
    ]


def test_span_is_logged_when_the_block_fails():
    """A span ends where its block ends, however it ends; it swallows nothing."""

    async def agent(_):
        with span("calling"):
            await asyncio.sleep(5)

    async def main():
        return await ParallelAgentExecutor(1, timeout=2).execute([1], agent)

    (outcome,) = simulate(main)
    assert outcome.status == "timeout"
    assert [(s.started, s.finished) for s in outcome.spans] == [(0.0, 2.0)]


def test_span_of_a_plain_function_is_logged():
    """A plain function in a pool logs like a coroutine."""

    def agent(_):
        with span("thinking"):
            pass

    async def main():
        return await ParallelAgentExecutor(1).execute([1, 2], agent)

    assert [[s.name for s in o.spans] for o in simulate(main)] == [["thinking"], ["thinking"]]


def test_span_of_work_that_outlives_its_task_stays_with_it():
    """A background task that goes on after its agent has returned does not write into the next task's outcome."""
    background: list[asyncio.Task[None]] = []

    async def afterwards():
        await asyncio.sleep(1.5)
        with span("late"):
            await asyncio.sleep(1)

    async def agent(i):
        if i == 0:
            background.append(asyncio.create_task(afterwards()))
        await asyncio.sleep(1)

    async def main():
        report = await ParallelAgentExecutor(1).execute(range(5), agent)
        await background[0]
        return [o.task_id for o in report if any(s.name == "late" for s in o.spans)]

    assert simulate(main) in ([], [0])


def test_span_outside_a_run_does_nothing():
    """Outside a run there is nowhere to log to, and that is fine."""
    with span("alone"):
        pass


def test_span_of_nested_runs_belongs_to_the_inner_task():
    """A sub-agent's span is logged with the sub-agent's task; the outer agent's with its own."""
    inner: list[Report] = []

    async def leaf(_):
        with span("leaf"):
            await asyncio.sleep(1)

    async def lead(_):
        with span("lead"):
            inner.append(await ParallelAgentExecutor(2).execute([1, 2], leaf))

    async def main():
        return await ParallelAgentExecutor(1).execute([1], lead)

    outer = simulate(main)
    assert [[s.name for s in o.spans] for o in outer] == [["lead"]]
    assert [[s.name for s in o.spans] for o in inner[0]] == [["leaf"], ["leaf"]]
