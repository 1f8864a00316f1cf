"""Charts: what they state, that they state it exactly, and that altered data changes it."""

from __future__ import annotations

import asyncio
import copy
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from agentkit import CapacityLimiter, Outcome, ParallelAgentExecutor, RateLimiter, Reply, Report, Usage, plots, span
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.call_log import CallLog, CallRecord
from agentkit.plots import bars, events
from agentkit.report.outcome import Attempt, Span


def run_of_fourteen() -> Report:
    """Fourteen agents, four at a time: one was retried, one timed out."""
    free, outcomes = [0.0] * 4, []
    for i in range(14):
        start, call, own = min(free), 1.0 + 0.25 * (i % 5), 0.125
        slot = free.index(start)
        outcome = Outcome(i, f"question {i}", "success", Reply("yes", Usage(1, 900 + i, 100)), started=start)
        outcome.finished = start + call + own
        outcome.span_log = [Span("calling", start, start + call)]
        if i == 4:
            again = start + 1.5
            outcome.attempt_log = (Attempt(start, start + 0.5, RuntimeError("429")), Attempt(again, again + call + own))
            outcome.span_log = [Span("calling", start, start + 0.5), Span("calling", again, again + call)]
            outcome.finished = again + call + own
        if i == 9:
            outcome.status, outcome.error, outcome.result = "timeout", TimeoutError("took longer"), None
            outcome.span_log = [Span("calling", start, start + call + own)]
        free[slot] = outcome.finished
        outcomes.append(outcome)
    return Report(outcomes, limits=[(0.0, 4)])


def altered(change: Callable[[list[Outcome]], Any]) -> Callable[[Report], Report]:
    """A way to make a wrong report of a right one."""

    def make(report: Report) -> Report:
        outcomes = [copy.copy(outcome) for outcome in report.individual_results]
        change(outcomes)
        return Report(outcomes, limits=report.limits)

    make.__name__ = getattr(change, "__name__", "altered")
    return make


def lose_one(outcomes: list[Outcome]) -> None:
    """An agent is missing."""
    del outcomes[3]


def delay_one(outcomes: list[Outcome]) -> None:
    """An agent starts half a second later."""
    one = outcomes[7]
    one.started, one.finished = one.started + 0.5, one.finished + 0.5
    one.span_log = [Span(s.name, s.started + 0.5, s.finished + 0.5) for s in one.spans]


def lengthen_one(outcomes: list[Outcome]) -> None:
    """An agent takes longer."""
    outcomes[2].finished += 0.75


def fail_one(outcomes: list[Outcome]) -> None:
    """A success becomes a failure."""
    outcomes[1].status, outcomes[1].result, outcomes[1].error = "failed", None, RuntimeError("wrong")


def hide_a_retry(outcomes: list[Outcome]) -> None:
    """Two attempts become one."""
    outcomes[4].attempt_log = None


def serve_one_late(outcomes: list[Outcome]) -> None:
    """An agent arrives later."""
    outcomes[13].submitted = 1.5


def reject_one(outcomes: list[Outcome]) -> None:
    """An agent is turned away."""
    outcomes[13].status, outcomes[13].started, outcomes[13].span_log = "rejected", None, []


def spend_more(outcomes: list[Outcome]) -> None:
    """A call used more tokens."""
    outcomes[0].result = Reply("yes", Usage(1, 2000, 100))


def spend_later(outcomes: list[Outcome]) -> None:
    """A call ended later."""
    outcomes[13].finished += 1.0


def free_of_charge(outcomes: list[Outcome]) -> None:
    """A call has no usage."""
    outcomes[5].result = "yes"


def other_limit(report: Report) -> Report:
    """The limit is another."""
    return Report(report.individual_results, limits=[(0.0, 5)])


REQUESTS = [(0.0, 0.0), (0.0, 0.0), (0.25, 1.0), (0.5, 2.0), (0.75, None)]
STORM = [(0.0, 0), (0.25, 0), (0.5, 0), (2.0, 1), (2.25, 1), (6.0, 2)]
CALLS = [("thread 1", 0.0, 1.0), ("thread 2", 0.25, 1.0), ("thread 1", 1.0, 2.0)]
POINTS = [(1, 0.5, 2.0), (4, 2.0, 2.0), (8, 2.5, 3.25), (16, 2.5, 6.5)]
MAKESPANS = [(1, 230.0), (2, 115.0), (5, 46.5), (10, 23.75)]

Case = tuple[Callable[[Any], plots.Chart], Callable[[], Any], str, list[Callable[[Any], Any]]]


def with_row(index: int, row: Any) -> Callable[[list[Any]], list[Any]]:
    """Replace one row; None leaves it out."""
    return lambda rows: [*rows[:index], *([] if row is None else [row]), *rows[index + 1 :]]


LOST = [
    {"step": 1, "task": "A", "line": 6, "source": "seen = n", "ended": True, "n": ("0", "0")},
    {"step": 2, "task": "B", "line": 6, "source": "seen = n", "ended": True, "n": ("0", "0")},
    {"step": 3, "task": "A", "line": 8, "source": "n = seen + 1", "ended": True, "n": ("0", "1")},
]


def through_a_pipeline(waits: list[tuple[str, float, float]]) -> Report:
    """One item that waited like this in front of the stages."""
    spans = tuple(Span(f"waiting for {stage}", started, finished) for stage, started, finished in waits)
    return Report([Outcome(0, "item", "success", started=0.0, finished=10.0, span_log=list(spans))])


def logged(*calls: tuple[float, float, int, int]) -> CallLog:
    """A provider's log of calls `(arrived, finished, status, tokens)`."""
    log = CallLog()
    for i, (arrived, finished, status, tokens) in enumerate(calls):
        charged = tokens if status == 200 else 0
        log.append(
            CallRecord(i, arrived, status=status, finished=finished, prompt_tokens=tokens, charged_tokens=charged)
        )
    return log


CALLED = [(5.0, 7.0, 200, 100), (5.0, 5.0, 429, 100), (6.0, 9.0, 200, 50)]

CASES: dict[str, Case] = {
    "side_by_side": (
        lambda calls: plots.side_by_side(logged(*calls), run_of_fourteen(), labels=["log", "report"]),
        lambda: CALLED,
        "<SideBySide: log: 4 s, 3 calls, 150 tokens, 1 refused, at most 2 in flight, 1.25 on average; "
        "report: 6.62 s, 15 calls, 13,082 tokens, none refused, at most 4 in flight, 3.43 on average>",
        [
            with_row(0, None),
            with_row(1, (5.0, 5.0, 500, 100)),
            with_row(1, (5.0, 6.0, 200, 100)),
            with_row(2, (6.0, 9.5, 200, 50)),
            with_row(2, (7.0, 9.0, 200, 50)),
            with_row(2, (6.0, 9.0, 200, 51)),
        ],
    ),
    "stages": (
        lambda waits: plots.stages(through_a_pipeline(waits)),
        lambda: [("read", 0.0, 1.0), ("write", 2.0, 7.0)],
        "<Stages: 1 item in 10 s; read: at most 1 waiting, 0.1 on average; write: at most 1 waiting, 0.5 on average>",
        [
            lambda waits: waits[:1],
            lambda waits: [waits[0], ("write", 2.0, 8.0)],
            lambda waits: [("send", 0.0, 1.0), waits[1]],
            lambda waits: [*waits, ("write", 3.0, 4.0)],
        ],
    ),
    "interleaving": (
        plots.interleaving,
        lambda: [dict(row) for row in LOST],
        "<Interleaving: 3 steps of 2 tasks: A 6, B 6, A 8 (n 0 → 1)>",
        [
            lambda rows: rows[:2],
            lambda rows: [rows[1], rows[0], rows[2]],
            lambda rows: [*rows[:2], {**rows[2], "n": ("0", "2")}],
            lambda rows: [*rows[:2], {**rows[2], "line": 9}],
        ],
    ),
    "ways": (
        lambda measured: plots.ways([1, 10], measured, xlabel="writers", ylabel="seconds"),
        lambda: {"lock": [1, 10], "owner": [1, 10], "merge": [1, 1]},
        "<Ways: seconds against writers 1, 10: lock, owner 1, 10; merge 1, 1>",
        [
            lambda measured: {**measured, "owner": [1, 1]},
            lambda measured: {**measured, "merge": [1, 2]},
            lambda measured: {"lock": [1, 10], "merge": [1, 1]},
        ],
    ),
    "timeline": (
        plots.timeline,
        run_of_fourteen,
        "<Timeline: 14 agents, at most 4 in flight, 6.62 s, 13 succeeded, 1 timed out, 1 retry; "
        "23.8 s one after another, limit 4, waited 28.8 s, called 21.1 s, own work 1.62 s, backed off 1 s>",
        [*map(altered, (lose_one, delay_one, lengthen_one, fail_one, hide_a_retry)), other_limit],
    ),
    "compare": (
        lambda report: plots.compare(report, other_limit(report), labels=["four", "five"]),
        run_of_fourteen,
        "<Compare: four: 14 agents, at most 4 in flight, 6.62 s, 13 succeeded, 1 timed out, 1 retry, "
        "23.8 s one after another, limit 4, waited 28.8 s, called 21.1 s, own work 1.62 s, backed off 1 s; "
        "five: 14 agents, at most 4 in flight, 6.62 s, 13 succeeded, 1 timed out, 1 retry, "
        "23.8 s one after another, limit 5, waited 28.8 s, called 21.1 s, own work 1.62 s, backed off 1 s>",
        [*map(altered, (lose_one, delay_one, lengthen_one))],
    ),
    "in_flight": (
        plots.in_flight,
        run_of_fourteen,
        "<InFlight: 14 agents in 6.62 s, at most 4 in flight, 3.43 on average, "
        "at the limit 62.3 % of the time, limit 4>",
        [*map(altered, (lose_one, lengthen_one, hide_a_retry)), other_limit],
    ),
    "queue_depth": (
        plots.queue_depth,
        run_of_fourteen,
        "<QueueDepth: 14 agents in 6.62 s, at most 10 waiting, 4.34 on average, longest wait 4.75 s, "
        "1 did not succeed>",
        [*map(altered, (lose_one, delay_one, serve_one_late, reject_one))],
    ),
    "latency": (
        plots.latency,
        run_of_fourteen,
        "<Latency: 13 agents, least 1.12 s, p50 1.62 s, p95 3.62 s, most 3.62 s, mean 1.66 s, "
        "1 not successful, left out>",
        [*map(altered, (lose_one, lengthen_one, fail_one))],
    ),
    "little": (
        plots.little,
        run_of_fourteen,
        "<Little: L 3.43 in flight on average, λ 2.11 agents per s × W 1.62 s each = 3.43, "
        "14 agents, 22.8 agent-seconds in 6.62 s>",
        [*map(altered, (lose_one, lengthen_one, hide_a_retry))],
    ),
    "cost": (
        lambda report: plots.cost(report, prices=(2.5, 10.0), budget=0.05),
        run_of_fourteen,
        "<Cost: 13 requests, 11,782 input tokens, 1,300 output tokens, 0.0425 USD; "
        "half of the tokens by 3.5 s, all by 6.62 s, budget 0.05>",
        [*map(altered, (spend_more, spend_later, free_of_charge))],
    ),
    "storm": (
        plots.storm,
        lambda: STORM,
        "<Storm: 6 attempts in 6 s, 3 first tries, 2 1st retries, 1 2nd retry; at most 3 in 1 s, at 0 s, "
        "mean arrival 1.83 s>",
        [with_row(0, None), with_row(2, (0.5, 1)), with_row(3, (3.0, 1)), with_row(5, (8.0, 2))],
    ),
    "bucket": (
        lambda rows: plots.bucket(rows, rate=1, capacity=2),
        lambda: REQUESTS,
        "<Bucket: 5 requests, 2 let through at once, 2 held for 1.5 s at most and 2.25 s in all, 1 refused; "
        "1 per s, room for 2, lowest level 0>",
        [with_row(0, None), with_row(2, (0.25, 1.25)), with_row(4, (0.75, 3.0)), with_row(0, (0.0, 0.0, 3.0))],
    ),
    "outcomes": (
        lambda counts: plots.outcomes(counts, right=2),
        lambda: {1: 18, 2: 2},
        "<Outcomes: 20 interleavings, 2 different results: 1 ×18 (wrong), 2 ×2 (right); 2 of 20 right>",
        [lambda c: {**c, 1: 17}, lambda c: {1: 2, 2: 18}, lambda c: {**c, 0: 1}],
    ),
    "knee": (
        lambda rows: plots.knee(rows, limit=2.5, highlight=4),
        lambda: POINTS,
        "<Knee: knee at 8, throughput per s (p95 in s): 1: 0.5 (2), 4: 2 (2), 8: 2.5 (3.25), 16: 2.5 (6.5); "
        "limit 2.5 per s; highlighted 4>",
        [with_row(0, None), with_row(2, (8, 2.25, 3.25)), with_row(3, (16, 2.5, 7.0))],
    ),
    "curve": (
        lambda rows: plots.curve(*zip(*rows, strict=True), xlabel="max_concurrency", ylabel="makespan, s", highlight=5),
        lambda: MAKESPANS,
        "<Curve: makespan, s against max_concurrency: 1: 230, 2: 115, 5: 46.5, 10: 23.8; highlighted 5: 46.5>",
        [with_row(0, None), with_row(2, (5, 47.0)), with_row(3, (20, 23.75))],
    ),
    "pool": (
        lambda rows: plots.pool(rows, beats=[0.0, 0.5, 1.0, 2.0], every=0.4),
        lambda: CALLS,
        "<Pool: 2 threads, 3 calls, at most 2 at once, 2.75 s of work in 2 s; thread 1 2 s, thread 2 0.75 s; "
        "4 beats, 1 stall, "
        "longest pause 1 s from 1 s on>",
        [with_row(0, None), with_row(1, ("thread 3", 0.25, 1.0)), with_row(2, ("thread 1", 1.0, 3.0))],
    ),
}
REPORT_KINDS = ("cost", "in_flight", "latency", "little", "queue_depth", "stages", "storm", "timeline")


@pytest.mark.parametrize("kind", CASES)
def test_Chart_states_its_facts(kind: str) -> None:
    """The repr is the same text on every Python."""
    draw, data, said, _ = CASES[kind]
    assert repr(draw(data())) == said


@pytest.mark.parametrize("kind", CASES)
def test_Chart_of_altered_data_says_something_else(kind: str) -> None:
    """Comparing reprs, as nbval does, catches every wrong log."""
    draw, data, said, mutants = CASES[kind]
    assert len(mutants) >= 3
    said_of_mutants = [repr(draw(mutate(data()))) for mutate in mutants]
    assert said not in said_of_mutants


def test_cases_cover_every_chart() -> None:
    """No function that draws is left out of the table above."""
    assert set(CASES) == set(plots.__all__) - {"Chart", "SideBySide", "draw"}


@pytest.mark.parametrize("kind", CASES)
def test_Chart_is_a_small_png_with_words(kind: str) -> None:
    """A notebook gets a picture of at most 40 kB, the facts as text, and the facts again as alt text."""
    draw, data, said, _ = CASES[kind]
    chart = draw(data())
    png = chart._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert len(png) <= 40_000
    bundle, about = chart._repr_mimebundle_()
    assert bundle == {"text/plain": said, "image/png": png}
    assert about["image/png"]["alt"] == chart.alt
    assert said[1:-1] in chart.alt


def test_Chart_facts_are_numbers() -> None:
    """What the words say is there to compute with."""
    facts = plots.timeline(run_of_fourteen()).facts
    assert (facts["agents"], facts["succeeded"], facts["timed_out"], facts["retries"]) == (14, 13, 1, 1)
    assert facts["seconds"] == 6.625
    assert facts["called"] + facts["own_work"] == 22.75


def test_Chart_of_a_real_run_is_exact() -> None:
    """A run in virtual time, with spans, a shared limit and a failure, gives the same words every time."""

    async def agent(task: int) -> int:
        with span("calling"):
            await asyncio.sleep(1.0 + 0.5 * (task % 3))
        with span("reading the answer"):
            await asyncio.sleep(0.25)
        return 1 // (task - 5)

    async def main() -> Report:
        limiter = CapacityLimiter(3)
        asyncio.get_running_loop().call_later(2.0, setattr, limiter, "limit", 6)
        return await ParallelAgentExecutor(max_concurrency=limiter).execute(range(12), agent)

    said = (
        "<Timeline: 12 agents, at most 6 in flight, 5.75 s, 11 succeeded, 1 failed; 21 s one after another, "
        "limit 3, then 6 from 2 s, waited 20.5 s, called 18 s, own work 3 s, reading the answer 3 s in 12 spans>"
    )
    assert [repr(simulate(main).plot()) for _ in range(2)] == [said, said]


def test_timeline_of_a_run_that_goes_on() -> None:
    """A report taken in the middle is drawn up to the last thing that happened."""
    waiting = Outcome(2, "c")
    done = Outcome(0, "a", "success", started=0.0, finished=3.0)
    chart = plots.timeline(Report([done, Outcome(1, "b", started=1.0), waiting], limits=[(0.0, 2)]))
    assert chart.facts["still_running"] == 2
    assert chart.facts["ran"] == 5.0
    assert chart.facts["waited"] == 4.0
    assert "cancelled" not in repr(chart)
    chart._repr_png_()


def test_timeline_sorts_time_into_what_it_was_spent_on() -> None:
    """Calls that overlap count once; back-off and limits inside an attempt are neither calling nor own work."""
    spans = (
        Span("calling", 0.0, 2.0),
        Span("calling", 1.0, 3.0),
        Span("waiting for a limit", 3.0, 4.0),
        Span("backing off", 4.0, 4.5),
        Span("thinking", 4.5, 5.0),
    )
    facts = plots.timeline(Report([Outcome(0, "a", "success", started=0.0, finished=6.0, span_log=list(spans))])).facts
    assert (facts["called"], facts["waited"], facts["backed_off"], facts["own_work"]) == (3.0, 1.0, 0.5, 1.5)
    assert facts["spans"] == {"thinking": 0.5}


def test_timeline_says_what_was_waited_for() -> None:
    """In the words of the spans; for a slot where none says so; and simply waiting where it was many things."""

    def words(*outcomes: Outcome) -> list[str]:
        return [word for word in bars.key(events.rows(Report(outcomes)), True, 20) if word.startswith("waiting")]

    lock = Span("waiting for the lock", 1.0, 2.0)
    slot = Outcome(0, "a", "success", submitted=0.0, started=1.0, finished=3.0)
    inside = Outcome(1, "b", "success", started=0.0, finished=3.0, span_log=[lock])
    before = Outcome(2, "c", "success", submitted=1.0, started=2.0, finished=3.0, span_log=[lock])
    neither = Outcome(3, "d", "success", started=0.0, finished=3.0)
    assert words(slot) == words(slot, neither) == ["waiting for a slot"]
    assert words(inside) == words(before) == words(inside, before) == ["waiting for the lock"]
    assert words(slot, inside) == ["waiting for a slot and for the lock"]
    assert words(Outcome(4, "e", "success", started=0.0, finished=3.0, span_log=[Span("waiting", 1.0, 2.0)])) == [
        "waiting"
    ]
    assert words(slot, inside, replace(inside, span_log=[Span("waiting for the rate", 1.0, 2.0)])) == ["waiting"]
    assert words(neither) == []


def test_timeline_of_a_run_under_a_rate_says_so() -> None:
    """Tasks that have a slot and wait for the rate do not wait for a slot; their calls are drawn as without a rate."""

    async def main(limit: int, seconds: float) -> Report:
        rate = RateLimiter(30)
        return await ParallelAgentExecutor(limit, rate_limiter=rate).execute([seconds] * 4, asyncio.sleep)

    def words(report: Report) -> list[str]:
        return list(bars.key(events.rows(report), events.has_spans(report), 20))

    wide, narrow = simulate(main, 4, 1), simulate(main, 2, 5)
    assert words(wide) == ["waiting for the rate", "running"]
    assert words(narrow) == ["waiting for a slot and for the rate", "running"]
    assert plots.queue_depth(wide).title == "Up to 3 agents wait for the rate, the longest for 6 s"
    assert plots.queue_depth(narrow).title == "Up to 3 agents wait for a slot and for the rate, the longest for 7 s"
    assert repr(plots.timeline(wide)) == (
        "<Timeline: 4 agents, at most 1 in flight, 7 s, 4 succeeded; limit 4, waited 12 s, ran 4 s>"
    )


def test_timeline_counts_spans() -> None:
    """Spans joined, lost, renamed, shortened or told twice change the words; without spans they are as before."""
    made = (Span("calling", 0.0, 4.0), Span("search", 0.0, 1.5), Span("search", 1.5, 4.0), Span("read", 1.0, 1.5))

    def chart(*spans: Span) -> plots.Chart:
        return plots.timeline(Report([Outcome(0, "a", "success", started=0.0, finished=4.0, span_log=list(spans))]))

    facts = chart(*made).facts
    assert (facts["spans"], facts["span_counts"]) == ({"read": 0.5, "search": 4.0}, {"read": 1, "search": 2})
    said = repr(chart(*made))
    assert said.endswith("no limit, waited 0 s, called 4 s, read 0.5 s in 1 span, search 4 s in 2 spans>")
    calling, first, second, read = made
    mutants = [
        (calling, Span("search", 0.0, 4.0), read),
        (calling, first, second),
        (calling, first, second, Span("look", 1.0, 1.5)),
        (calling, first, Span("search", 1.75, 4.0), read),
        (calling, first, second, read, read),
    ]
    assert said not in [repr(chart(*spans)) for spans in mutants]
    assert repr(chart(calling)).endswith("no limit, waited 0 s, called 4 s>")


def test_timeline_and_compare_mark_an_instant() -> None:
    """A mark is a line at its second in every panel, an entry of the legend and the end of the words."""
    report, mark = run_of_fourteen(), (9, "the caller leaves")
    for chart in (plots.timeline(report, mark=mark), plots.compare(report, report, mark=mark)):
        plain = plots.timeline(report) if chart.kind == "Timeline" else plots.compare(report, report)
        between = ", " if chart.kind == "Timeline" else "; "
        assert repr(chart) == f"{repr(plain)[:-1]}{between}the caller leaves at 9 s>"
        assert (chart.facts["mark"], plain.facts["mark"]) == ((9.0, "the caller leaves"), None)
        uprights = [[line for line in axes.lines if set(line.get_xdata()) == {9}] for axes in chart.figure.axes]
        assert all(len(lines) == 1 for lines in uprights)
        assert all(axes.get_xlim()[1] > 9 for axes in chart.figure.axes), "after the run, and still on the page"
        [legend] = chart.figure.legends
        assert "the caller leaves at 9 s" in [text.get_text() for text in legend.get_texts()]


def test_timeline_title_says_what_was_gained() -> None:
    """The title compares with the sum, with given seconds, or with a measured run; without a gain it does not."""
    report = run_of_fourteen()
    assert plots.timeline(report).title == "14 agents, 4 at a time: 6.62 s instead of 23.8 s one after another"
    assert "instead of 30 s" in plots.timeline(report, serial=30).title
    slow = Report([Outcome(0, "a", "success", started=0.0, finished=50.0)])
    assert "instead of 50 s" in plots.timeline(report, serial=slow).title
    assert plots.timeline(slow).title == "1 agent: 50 s"
    assert plots.timeline(slow, title="Mine").title == "Mine"


def test_little_counts_the_same_in_two_ways() -> None:
    """The area under the curve and rate times mean are one number."""
    facts = plots.little(run_of_fourteen()).facts
    assert facts["in_flight"] == pytest.approx(facts["product"])


def test_bucket_level_never_rises_above_the_brim() -> None:
    """The line drawn refills to the brim, stops there, and falls by what each request took."""
    figure = plots.bucket([(0, 0), (5, 5, 2.0), (5.5, 5.5)], rate=1, capacity=2).figure
    times, levels = figure.axes[0].lines[0].get_data()
    assert list(zip(times, levels, strict=True)) == [
        (0.0, 2.0), (0.0, 2.0), (0.0, 1.0), (1.0, 2.0), (5.0, 2.0), (5.0, 0.0), (5.5, 0.5), (5.5, -0.5)
    ]  # fmt: skip


def test_side_by_side_is_a_frame_and_says_what_was_gained() -> None:
    """Frame and picture have the same numbers; the title names the quickest; rows of something else are refused."""
    one, two = logged((0.0, 4.0, 200, 10), (4.0, 8.0, 200, 10)), logged((3.0, 7.0, 200, 10), (3.0, 7.0, 200, 10))
    chart = plots.side_by_side(one, two, labels=["in turn", "at once"])
    assert chart.title == "In turn 8 s, at once 4 s: at once is 2 times as fast"
    assert chart.to_frame().T.to_dict() == chart.facts["runs"]
    assert list(chart.to_frame().index) == ["in turn", "at once"]
    assert chart.facts["runs"]["at once"]["peak_in_flight"] == 2
    assert plots.side_by_side(one, one).title == "Run 1 8 s, run 2 8 s: no difference"
    assert plots.side_by_side(one, two, two).title.endswith("run 2 is 2 times as fast as run 1")
    failed = Outcome(0, "a", "failed", started=0.0, finished=1.0)
    failed.error = type("Refused", (Exception,), {"status_code": 429})()
    assert "1 call, 0 tokens, 1 refused" in repr(plots.side_by_side(Report([failed])))
    with pytest.raises(TypeError, match=r"must be a report or a provider's log, got a row \(0.0, 0\)"):
        plots.side_by_side(STORM)


def test_outcomes_never_hides_the_right_result() -> None:
    """Rare results share a bar, but not the one that was right, however rare."""
    chart = plots.outcomes({i: 100 - i for i in range(30)}, right=29)
    names = [label.get_text() for label in chart.figure.axes[0].get_yticklabels()]
    assert "29" in names
    assert "18 others" in names


def test_storm_reads_reports_and_provider_logs() -> None:
    """A report's attempts, records of a provider and plain rows give the same picture."""
    calls = CallLog([CallRecord(i, at, retry=retry) for i, (at, retry) in enumerate(STORM)])
    assert repr(plots.storm(calls)) == repr(plots.storm(STORM))
    by_retry = plots.storm(run_of_fourteen()).facts["by_retry"]
    assert by_retry == {0: 14, 1: 1}


@pytest.mark.parametrize("kind", REPORT_KINDS)
def test_Report_plot_draws_each_kind(kind: str) -> None:
    """The report's own door gives what the function gives."""
    report = run_of_fourteen()
    assert repr(report.plot(kind)) == repr(getattr(plots, kind)(report))


def test_Report_plot_of_an_unknown_kind_lists_them() -> None:
    """A wrong name is answered with the right ones."""
    with pytest.raises(ValueError, match=f"kind must be one of {', '.join(REPORT_KINDS)}, got 'gantt'"):
        run_of_fourteen().plot("gantt")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda r: plots.timeline(r, labels=["a"]), "labels must hold one text per task, got 1 for 14 tasks"),
        (lambda r: plots.timeline(r, mark=3), "mark must be .seconds, what happened then., got 3; write mark="),
        (lambda r: plots.compare(r, mark=(-1, "before")), "mark must be .seconds, what happened then., got .-1"),
        (lambda r: plots.compare(r, mark=("x", 1)), "mark must be"),
        (lambda r: plots.timeline(r, mark=(1, " ")), "mark must be"),
        (lambda r: plots.compare(), "compare needs at least 1 report"),
        (lambda r: plots.compare(r, r, labels=["a", "a"]), "labels must differ"),
        (lambda r: plots.queue_depth(r, labels=["a", "b"]), "labels must hold one text per run"),
        (lambda r: plots.side_by_side(), "side_by_side needs at least 1 run, got none"),
        (lambda r: plots.side_by_side(r, r, labels=["a", "a"]), "labels must differ"),
        (lambda r: plots.latency(r, of="speed"), "of must be one of latency, waited, total"),
        (lambda r: plots.storm(r, per=0), "per must be more than 0 seconds"),
        (lambda r: plots.knee([]), "points must hold 1 row or more"),
        (lambda r: plots.knee([(1, 2)]), "a row of points must be"),
        (lambda r: plots.knee(POINTS, highlight=5), "highlight must be one of the measured k"),
        (lambda r: plots.curve([1], [1, 2], xlabel="x", ylabel="y"), "must be equally long, got 1 and 2"),
        (lambda r: plots.curve([1], [1], xlabel="x", ylabel="y", highlight=2), "highlight must be one of xs"),
        (lambda r: plots.bucket([(2, 1)], rate=1, capacity=1), "a request must be"),
    ],
)
def test_Chart_refuses_bad_arguments(call: Callable[[Report], Any], said: str) -> None:
    """Each error names the parameter, the rule and the value."""
    with pytest.raises(ValueError, match=said):
        call(run_of_fourteen())


def test_Chart_saves_in_several_formats(tmp_path: Any) -> None:
    """The ending of the name decides."""
    chart = plots.timeline(run_of_fourteen())
    for name, magic in {"a.png": b"\x89PNG", "a.svg": b"<?xml", "a.pdf": b"%PDF"}.items():
        assert chart.save(tmp_path / name).read_bytes().startswith(magic)


def test_Chart_drawn_in_two_threads_leaves_settings_alone() -> None:
    """Two drawings that overlap in time do not put back each other's settings."""
    import matplotlib

    before, charts = matplotlib.rcParams["font.size"], [plots.timeline(run_of_fourteen()) for _ in range(6)]
    with ThreadPoolExecutor(3) as pool:
        assert len(set(map(len, pool.map(plots.Chart._repr_png_, charts)))) == 1
    assert matplotlib.rcParams["font.size"] == before
    assert matplotlib.rcParams["text.parse_math"] is True


def test_Chart_leaves_matplotlib_alone() -> None:
    """Drawing imports no pyplot, changes no setting, and the package itself loads no matplotlib."""
    code = """
import sys
from agentkit import Outcome, Report
from agentkit import plots
chart = plots.timeline(Report([Outcome(0, "a", "success", started=0.0, finished=1.0)]))
repr(chart), chart.facts, chart.alt
assert "matplotlib" not in sys.modules, "stating facts needs no matplotlib"
import matplotlib
matplotlib.rcParams["axes.facecolor"] = "black"
def settings():
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
chart._repr_png_()
assert settings() == before
assert chart.figure.axes[0].get_facecolor()[:3] == (1.0, 1.0, 1.0), "the reader's style does not leak in"
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
