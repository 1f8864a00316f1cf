"""The log of a run and its views: figures that agree, records that read like dicts, tables that are safe to show."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CompletionUsage

from agentkit.agent import ChatAgent, Reply
from agentkit.executor import ParallelAgentExecutor
from agentkit.lab import Provider
from agentkit.lab.loops.virtual import simulate
from agentkit.report import Report, Stall, attach, peak, percentile
from agentkit.report.archive import StoredRepr
from agentkit.report.outcome import Attempt, Outcome, Span, span
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


def test_Summary_usage_reads_foreign_results():
    """The usage in the openai client's own answers counts as well."""

    class Answer:
        usage = CompletionUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15)

    report = Report([done(i, 0, 1, Answer()) for i in range(3)])
    assert report.summary.usage == Usage(3, 30, 15)


def test_Summary_usage_prefers_what_the_outcome_says():
    """The usage of an outcome replaces that of its result, and counts for failed tasks too."""
    retried = done(0, 0, 1, Reply("a", Usage(1, 10, 5)))
    retried.usage = Usage(2, 20, 5)
    failed = Outcome(1, "b", "failed", error=ValueError(), usage=Usage(1, 7, 0))
    assert Report([retried, failed, done(2, 0, 1, "no usage")]).summary.usage == Usage(3, 27, 5)


class Hostile(Exception):
    """An object of which everything that can raise does."""

    def _refuse(self, *_: object) -> str:
        raise ValueError("hostile")

    __str__ = __repr__ = __getattr__ = _refuse
    usage = response = property(_refuse)


def test_Report_survives_results_and_errors_that_raise(tmp_path: Path):
    """No method or property of a task, a result or an error can break the summary, the repr, the table or the file."""
    outcomes = [Outcome(i, Hostile(), "failed", error=Hostile(), started=0.0, finished=1.0) for i in range(3)]
    report = Report([Outcome(9, Hostile(), "success", Hostile(), started=0.0, finished=1.0), *outcomes])
    assert report.summary.usage is None
    assert repr(report).endswith("1 s; all 3 failures: Hostile>")
    assert "Hostile: its str raised ValueError" in report._repr_html_()
    report.save(tmp_path / "run")
    assert Report.load(tmp_path / "run")[0].result == "<Hostile: its repr raised ValueError>"


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
    assert "end" not in outcome
    assert outcome.get("end") is None


def test_Outcome_makes_a_dict():
    """`dict(record)` has everything that was recorded, by name."""
    outcome = done(0, 1, 3, "answer")
    record = dict(outcome)
    assert list(record) == list(outcome.keys())
    assert (record["result"], record["latency"], record["spans"], record["usage"]) == ("answer", 2, (), None)
    assert dict(Report([outcome]).summary)["succeeded"] == 1


def test_Outcome_spans_cannot_be_assigned():
    """An assignment that would be lost is refused."""
    with pytest.raises(AttributeError, match="spans"):
        done(0, 1, 3).spans = ()  # type: ignore[misc]


def test_Report_reads_like_a_dict():
    """A report and its summary answer to names as well."""
    report = Report([done(0, 0, 1, "a")])
    assert report["individual_results"][0]["result"] == "a"
    assert report["summary"]["succeeded"] == 1
    assert "summary" in report
    assert "succeeded" in report.summary
    assert "plot" not in report
    with pytest.raises(
        KeyError, match="'nonsense' is not a key of a report; it has individual_results, aggregated, su"
    ):
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


def test_Report_is_a_sequence_of_outcomes():
    """Indices, slices, `in`, `reversed`, `index` and patterns work as on a list."""
    outcomes = [done(i, 0, 1, i) for i in range(4)]
    report = Report(outcomes)
    assert isinstance(report, Sequence)
    assert (report[0], report[-1], report[1:3]) == (outcomes[0], outcomes[3], outcomes[1:3])
    assert list(reversed(report)) == outcomes[::-1]
    assert report.index(outcomes[2]) == 2
    assert outcomes[2] in report
    assert done(7, 0, 1) not in report
    with pytest.raises(IndexError):
        report[4]
    match report:
        case [first, *_]:
            assert first is outcomes[0]


def test_Report_results_or_keeps_the_positions():
    """One value per task, so that it can be zipped with the tasks."""
    failed = Outcome(1, "b", "failed", error=ValueError())
    report = Report([done(0, 0, 1, "a"), failed, done(2, 0, 1, None)])
    assert report.results_or("none") == ["a", "none", None]


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


def failures(*errors: BaseException, status: str = "failed") -> list[Outcome]:
    """Return a failed outcome per error."""
    return [Outcome(i, i, status, error=error, started=0.0, finished=1.0) for i, error in enumerate(errors)]


class RefusedError(Exception):
    """A 429, as a client reports it."""

    status_code = 429


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (
            failures(*[RefusedError("slow down")] * 3, KeyError("x")),
            "3 refused with 429: give the executor retry=RetryPolicy() or a rate_limiter",
        ),
        (
            failures(*[TimeoutError("took longer than timeout=2 s")] * 2, status="timeout"),
            "2 timed out (took longer than timeout=2 s): raise that limit, or make each task smaller",
        ),
        (failures(*[TimeoutError()] * 2, status="timeout"), "2 timed out: raise that limit, or make each task smaller"),
        (failures(*[KeyError("x")] * 5), "all 5 failures: KeyError: 'x'"),
        (failures(*map(KeyError, "aab")), "all 3 failures: KeyError, for example 'a'"),
        (failures(KeyError("x"), KeyError("x"), OSError("y")), "2 of 3 failures: KeyError: 'x'"),
        (failures(*[OSError("two\nlines key=abcdefgh")] * 2), "all 2 failures: OSError: two lines key=[hidden]"),
        (failures(KeyError("x"), OSError("y")), ""),
        (failures(KeyError("x")), ""),
        (failures(*[asyncio.CancelledError("not started")] * 5, status="cancelled"), ""),
    ],
)  # fmt: skip
def test_Report_repr_names_the_cause_of_most_failures(outcomes: list[Outcome], said: str):
    """If most failures have one cause, the repr says which, in one line, with the remedy where there is one."""
    shown = repr(Report([done(9, 0, 1), *outcomes]))
    assert shown.endswith(f"in flight, 1 s{'; ' if said else ''}{said}>")
    assert "\n" not in shown


def test_Report_repr_names_the_remedy_for_real_refusals(tmp_path: Path):
    """A provider that refuses most calls: the repr says what to give the executor, also after a save and a load."""

    async def main() -> Report:
        agent = ChatAgent("a", "", client=Provider().client(max_retries=0), model="small")
        return await ParallelAgentExecutor(100).execute(["Hi."] * 100, agent)

    report = simulate(main)
    assert report.summary.failed > 90
    remedy = f"{report.summary.failed} refused with 429: give the executor retry=RetryPolicy() or a rate_limiter"
    assert repr(report).endswith(f"; {remedy}>")
    report.save(tmp_path / "run")
    assert repr(Report.load(tmp_path / "run")) == repr(report)


def test_Report_repr_advises_no_retry_where_there_was_one():
    """Where retries did not help, the remedy is a rate limiter; where no wait can help, there is none."""
    refused = failures(*[RefusedError("slow down")] * 2)
    refused[1].attempt_log = (
        Attempt(0.0, 0.5, RefusedError("slow down")),
        Attempt(0.5, 1.0, RefusedError("slow down")),
    )
    assert repr(Report(refused)).endswith(
        "2 refused with 429 after up to 2 attempts: give the executor a rate_limiter>"
    )
    broke = failures(*[RefusedError("code: 'insufficient_quota'")] * 2)
    assert repr(Report(broke)).endswith("all 2 failures: RefusedError: code: 'insufficient_quota'>")


def test_Report_repr_does_not_repeat_why_it_stopped():
    """What `stopped` says is not said again."""
    outcomes = failures(*[KeyError("x")] * 3) + failures(*[RuntimeError("budget")] * 4, status="rejected")
    assert repr(Report(outcomes, stopped="max_failures=3: KeyError: 'x'")).endswith(
        "stopped: max_failures=3: KeyError: 'x'>"
    )


# -- files --------------------------------------------------------------------------------------------------------


class Custom:
    """A result that JSON cannot hold."""

    def __repr__(self) -> str:
        return "Custom(password='abcdefgh')"


def test_Report_load_gives_what_save_stored(tmp_path: Path):
    """Times, attempts, spans, usage, limits and figures are the same; errors keep their reason."""
    one = done(0, 1.0, 3.5, {"label": ("a", 1.5, None, True)})
    one.usage = Usage(2, 30, 4)
    one.add_span("calling", 1.5, 2.5)
    one.attempt_log = (Attempt(1.0, 2.0, KeyError("x")), Attempt(2.5, 3.5))
    two = Outcome(1, ["b"], "failed", error=KeyError("label"), submitted=0.5, started=1.0, finished=2.0)
    saved = Report(
        [one, two, done(2, 0, 1, Reply("hi", Usage(1, 5, 6)))],
        limits=[(0.0, float("inf")), (1.0, 5)], stopped="it was stopped", stalls=[Stall(2.5, 1, "line 3 of f")],
    )  # fmt: skip
    saved.aggregated = {"total": 2}
    saved.save(tmp_path / "run.jsonl")
    loaded = Report.load(str(tmp_path / "run.jsonl"))
    assert loaded.summary == saved.summary
    assert (loaded.limits, loaded.stopped, loaded.stalls) == (saved.limits, saved.stopped, saved.stalls)
    assert loaded.aggregated == {"total": 2}
    assert loaded[0].result == {"label": ["a", 1.5, None, True]}
    assert (loaded[0].spans, loaded[0].usage) == (one.spans, one.usage)
    assert [a.started for a in loaded[0].attempts] == [1.0, 2.5]
    assert (loaded[1].task, loaded[1].reason, loaded[1].waited) == (["b"], "KeyError: 'label'", 0.5)
    assert repr(loaded[2].result).startswith("<stored repr: Reply(text='hi'")
    loaded.save(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "run.jsonl").read_text()


@pytest.mark.parametrize("value", [Custom(), {1: "a"}, {1, 2}, float("nan"), b"x", [object], (Custom(),)])
def test_Report_save_stores_other_values_as_their_repr(value: object, tmp_path: Path):
    """What JSON cannot hold is stored as its repr, redacted, and says so."""
    Report([done(0, 0, 1, value)]).save(tmp_path / "run")
    row = json.loads((tmp_path / "run").read_text().splitlines()[1])
    result = Report.load(tmp_path / "run")[0].result
    assert isinstance(result, StoredRepr)
    assert row["result_repr"] == result == repr(value).replace("abcdefgh", "[hidden]")
    assert "result" not in row


def test_Report_save_redacts_everything(tmp_path: Path):
    """No credential reaches the file: not from tasks, results, keys, errors, attempts, spans or reasons."""
    secret = "sk-abcdefgh12345678"
    one = Outcome(
        0, {"prompt": secret, "api_key": "abcdefgh12345678", "token": "short"}, "failed", error=ValueError(secret)
    )
    one.attempt_log = (Attempt(0.0, 1.0, ValueError(f"Bearer {secret}")),)
    one.add_span(secret, 0.0, 1.0)
    report = Report([one, done(1, 0, 1, [secret, {secret: secret}]), done(2, 0, 1, {secret})], stopped=secret)
    report.aggregated = {"password": "abcdefgh12345678"}
    report.save(tmp_path / "run")
    text = (tmp_path / "run").read_text()
    assert "abcdefgh" not in text
    assert Report.load(tmp_path / "run")[0].task == {"prompt": "[hidden]", "api_key": "[hidden]", "token": "short"}


def test_Report_save_keeps_long_texts_whole(tmp_path: Path):
    """Redaction does not shorten what is stored, and lines stay lines."""
    text = "word\u2028\n" * 5_000 + "\ud800 api_key=abcdef " * 100
    Report([done(0, 0, 1, text)]).save(tmp_path / "run")
    assert Report.load(tmp_path / "run")[0].result == text.replace("abcdef", "[hidden]")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: "", "not enough values"),
        (lambda text: text[: text.rindex("{")], "it has 1 of 2 tasks"),
        (lambda text: text[:-9], "Unterminated|Expecting|delimiter"),
        (
            lambda text: text.replace('"agentkit_report": 1', '"agentkit_report": 2'),
            "it has version 2, this is version 1",
        ),
        (lambda text: '{"key": 1}\n', "KeyError: 'agentkit_report'"),
        (lambda text: "[1]\n[2]\n", "TypeError"),
    ],
)
def test_Report_load_refuses_other_files(damage: Callable[[str], str], said: str, tmp_path: Path):
    """A file that is damaged, incomplete or something else is refused by name."""
    path = tmp_path / "run"
    Report([done(0, 0, 1), done(1, 0, 1)]).save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=f"path must name a whole file that Report.save wrote, got .*run: .*({said})"):
        Report.load(path)


def test_Report_compare_says_what_changed():
    """Each task is faster, slower, newly failed, recovered or much the same; figures stand side by side."""

    def run(*latencies: float | None) -> Report:
        return Report([
            Outcome(i, i, "failed", error=KeyError("x"), started=0.0, finished=1.0) if t is None else done(i, 0, t)
            for i, t in enumerate(latencies)
        ])  # fmt: skip

    before, now = run(4, 4, 4, 4, None, None), run(2, 6, 4.2, None, 3, None, 99)
    changes = now.compare(before)
    assert (changes.faster, changes.slower, changes.failed, changes.recovered) == ([0], [1], [3], [4])
    assert changes.figures["succeeded"] == (4, 5)
    frame = changes.to_frame()
    assert list(frame.columns) == ["before", "now"]
    assert list(frame.loc["makespan"]) == [4, 99]
    assert repr(changes) == (
        "<Comparison: 1 faster, 1 slower, 1 newly failed, 1 recovered; succeeded 4 -> 5, makespan 4 s -> 99 s>"
    )


# -- exceptions that carry a report -------------------------------------------------------------------------------


def test_attach_leaves_one_note_and_the_last_report():
    """An exception that ends many runs, such as a constant of a module, does not collect notes."""
    error = ValueError("bad")
    error.add_note("its own note")
    for i in range(50):
        attach(error, last := Report([done(j, 0, 1) for j in range(i)]), "the run was stopped")
    assert error.report is last  # type: ignore[attr-defined]
    assert error.__notes__ == ["its own note", f"the run was stopped; its report is in .report: {last!r}"]


def test_attach_leaves_an_immutable_exception_alone():
    """An exception that cannot be changed is left as it is."""

    class Frozen(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    attach(error := Frozen(), Report([]), "the run was stopped")
    assert not hasattr(error, "report")


def test_Report_is_freed_without_the_collector_also_while_an_error_is_kept():
    """One kept error keeps no results alive, nor does the run that made them."""

    class Result:
        pass

    kept: list[BaseException | None] = []
    results: list[weakref.ref[Result]] = []

    async def agent(i: int) -> Result:
        await asyncio.sleep(1)
        if i == 2:
            raise KeyError(i)
        results.append(weakref.ref(result := Result()))
        return result

    async def main() -> int:
        report = await ParallelAgentExecutor(3).execute(range(6), agent)
        kept.append(report[2].error)
        del report
        return sum(ref() is not None for ref in results)

    gc.collect()
    gc.disable()
    try:
        alive = simulate(main)
    finally:
        gc.enable()
    assert (alive, len(results), type(kept[0])) == (0, 5, KeyError)


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


def test_span_loses_nothing_among_threads():
    """Eight threads of one agent add 3,000 spans each to its record, and all are there."""

    async def agent(_: int) -> None:
        start = threading.Barrier(8)

        def work() -> None:
            start.wait()
            for _ in range(3_000):
                with span("working"):
                    pass

        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(8)))

    async def main() -> Report:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(8) as pool:
            loop.set_default_executor(pool)
            return await ParallelAgentExecutor(1).execute([0], agent)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        (outcome,) = asyncio.run(main())
    finally:
        sys.setswitchinterval(interval)
    assert outcome.reason == ""
    assert len(outcome.spans) == 24_000


def test_Outcome_adds_a_span_without_copying_the_others():
    """The log is extended in place, so the cost of a span does not grow with their number."""
    outcome = done(0, 0, 1)
    outcome.add_span("step", 0, 1)
    log = outcome.span_log
    for i in range(1_000):
        outcome.add_span("step", i, i + 1)
    assert outcome.span_log is log
    assert isinstance(outcome.spans, tuple)
    assert outcome.spans[-1] == Span("step", 999, 1_000)


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


@pytest.mark.parametrize("path", [None, 5, "", b"run.jsonl", []])
def test_report_save_and_load_refuse_what_is_no_path(path: object):
    """A wrong path is refused by name, before anything is written."""
    with pytest.raises(TypeError, match="path must be a path, got"):
        Report([]).save(path)
    with pytest.raises(TypeError, match="path must be a path, got"):
        Report.load(path)
