"""Stages in a line: the slowest sets the pace, bounds hold at every instant, every way of leaving cleans up."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.executor import ParallelAgentExecutor
from agentkit.lab.loops.virtual import simulate
from agentkit.orchestration import Pipeline
from agentkit.report.outcome import span
from agentkit.retry import RetryPolicy
from agentkit.semaphore import CapacityLimiter


def stage(seconds: float, name: str = "stage", fails_on: Any = None) -> Any:
    """Return a stage that takes so long and adds its initial to the item."""

    async def work(item: Any) -> Any:
        await asyncio.sleep(seconds)
        if item == fails_on:
            raise KeyError(f"item {item}")
        return item

    work.__name__ = name
    return work


class Counted:
    """An iterable that knows how many items were taken from it: 1, 2, 3, and so on."""

    def __init__(self, items: Any = None) -> None:
        self.items, self.taken = itertools.count(1) if items is None else iter(items), 0

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> int:
        self.taken += 1
        return next(self.items)


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


# -- items through stages -----------------------------------------------------------------------------------------


def test_Pipeline_executes_in_input_order_with_all_stages_at_work():
    """Three stages of one second overlap: five items take 5 + 2 seconds, not 15."""

    async def double(x):
        await asyncio.sleep(1)
        return 2 * x

    report = simulate(Pipeline([stage(1), double, stage(1)]).execute, range(5))
    assert report.results == [0, 2, 4, 6, 8]
    assert [o.task for o in report] == [0, 1, 2, 3, 4]
    assert report.summary.makespan == 7


def test_Pipeline_slowest_stage_sets_the_pace():
    """Whatever the others could do, the throughput is that of the slow middle."""
    pipeline = Pipeline([stage(0.01), (stage(1), 4), stage(0.01)], max_queue=4)
    report = simulate(pipeline.execute, range(200))
    assert report.summary.throughput >= 0.95 * 4


@pytest.mark.parametrize(("limit", "max_queue"), [(1, 0), (1, 1), (3, 2), (2, 10)])
def test_Pipeline_bounds_hold_at_every_instant(limit, max_queue):
    """A fast stage before a slow one: items taken and not yet handed on are never more than slots plus queue."""
    source, peak = Counted(range(60)), 0

    async def main():
        nonlocal peak
        done = 0
        pipeline = Pipeline([(stage(0.1), limit), stage(1)], max_queue=max_queue)
        async with pipeline.stream(source) as flow:
            async for _ in flow:
                done += 1
                fast, slow = flow.statistics()
                assert fast.queue_depth <= max_queue
                assert fast.in_flight + fast.blocked <= limit
                assert slow.in_flight <= 1
                peak = max(peak, source.taken - done)
        return done

    assert simulate(main) == 60
    assert peak <= limit + max_queue + 1 + max_queue
    assert peak > max_queue


def test_Pipeline_a_slow_reader_slows_the_first_stage():
    """Nobody reads, nobody runs ahead."""
    taken = 0

    async def source():
        nonlocal taken
        for taken in itertools.count(1):
            yield taken

    async def main():
        async with Pipeline([stage(0.001), stage(0.001)], max_queue=5).stream(source()) as flow:
            async for _ in flow:
                await asyncio.sleep(100)
                if now() > 500:
                    return taken
        return None

    assert simulate(main) <= 5 + 12


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_Pipeline_every_item_comes_out_once(items, shape, max_queue):
    """Whatever the stages, their speed, their failures and the queues: in as many as out, each once."""
    stages = [(stage(seconds, fails_on=place), limit) for place, (seconds, limit) in enumerate(shape)]
    report = simulate(Pipeline(stages, max_queue=max_queue).execute, items)
    assert [(o.task_id, o.task) for o in report] == list(enumerate(items))
    assert [o.status == "success" for o in report] == [item >= len(shape) for item in items]


# -- failures -----------------------------------------------------------------------------------------------------


def test_Pipeline_a_failed_item_skips_what_is_left_and_comes_out():
    """Its error is kept, later stages never see it, the others go on."""
    seen = []

    async def last(item):
        seen.append(item)
        return item

    report = simulate(Pipeline([stage(1, fails_on=2), stage(1), last]).execute, range(5))
    assert [o.status for o in report] == ["success"] * 2 + ["failed"] + ["success"] * 2
    assert report.individual_results[2].reason == "KeyError: 'item 2'"
    assert report.individual_results[2].result is None
    assert 2 not in seen


def test_Pipeline_endless_failures_do_not_pile_up():
    """Failed items count against the bound until they are read."""
    source = Counted()

    async def broken(item):
        await asyncio.sleep(0.01)
        raise KeyError(item)

    async def main():
        async with Pipeline([broken, stage(1)], max_queue=5).stream(source) as flow:
            await asyncio.sleep(1000)
            async for outcome in flow:
                return outcome.status, source.taken
        return None

    status, ahead = simulate(main)
    assert status == "failed"
    assert ahead <= 7


def test_Pipeline_raise_ends_all_stages_and_names_the_stage(strays):
    """The original exception, with a note that says where; nothing goes on."""

    async def main():
        pipeline = Pipeline([stage(1), (stage(1, "parse", fails_on=2), 2)], on_error="raise")
        with pytest.raises(KeyError) as caught:
            await pipeline.execute(itertools.count())
        return caught.value, strays()

    error, left = simulate(main)
    assert left == []
    assert "in stage 'parse' of a pipeline, item 2: 2" in error.__notes__
    assert error.report.results == [0, 1]


def test_Pipeline_an_agent_that_cancels_itself_does_not_cancel_the_reader():
    """Collected it is a cancelled item; raised it is an error that says what happened."""

    async def broken(item):
        raise asyncio.CancelledError

    report = simulate(Pipeline([broken]).execute, [1])
    assert report.individual_results[0].status == "cancelled"
    with pytest.raises(RuntimeError, match="item 0 was cancelled from inside"):
        simulate(Pipeline([broken], on_error="raise").execute, [1])


def test_Pipeline_a_source_that_breaks_loses_nothing_it_gave(strays):
    """What was taken comes out, then the source's own error is raised, with the report."""

    def source():
        yield from range(3)
        raise OSError("disk")

    async def main():
        with pytest.raises(OSError, match="disk") as caught:
            await Pipeline([stage(1), stage(1)]).execute(source())
        return caught.value.report.results, strays()

    assert simulate(main) == ([0, 1, 2], [])


def test_Pipeline_an_executor_that_stops_ends_the_flow_and_loses_nothing(strays):
    """A stage's own max_failures: what it, and those before it, had in hand comes out as cancelled."""
    source = Counted()

    async def main():
        breaker = ParallelAgentExecutor(1, max_failures=1)
        report = await Pipeline([stage(0.1), (stage(1, fails_on=3), breaker), stage(0.1)], max_queue=3).execute(source)
        return report, strays()

    report, left = simulate(main)
    assert left == []
    assert [o.task for o in report] == list(range(1, source.taken + 1))
    assert [o.status for o in report][:4] == ["success", "success", "failed", "cancelled"]
    assert {o.status for o in report.individual_results[3:]} == {"cancelled"}


def test_Pipeline_stages_bring_their_own_retries():
    """A stage with an executor tries again; its neighbours never know."""
    failed = []

    async def flaky(item):
        await asyncio.sleep(1)
        if not failed:
            failed.append(item)
            raise ConnectionError("reset")
        return item

    flaky_stage = (flaky, ParallelAgentExecutor(1, retry=RetryPolicy(wait_initial=1)))
    assert simulate(Pipeline([stage(1), flaky_stage]).execute, range(3)).results == [0, 1, 2]


def test_Pipeline_stages_may_share_one_limiter():
    """Stages without a worker of their own take slots of the executor that was handed in."""
    executor = ParallelAgentExecutor(CapacityLimiter(2))
    report = simulate(Pipeline([stage(1)] * 3, executor=executor).execute, range(6))
    assert report.summary.succeeded == 6
    assert report.summary.makespan == 9
    assert executor.limiter.statistics().peak_in_flight == 2


def test_Pipeline_plain_functions_run_in_threads():
    """A stage may be any function, as an agent may."""
    assert simulate(Pipeline([str.strip, (len, 2)]).execute, [" a ", "bcd"]).results == [1, 3]


# -- leaving ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["break", "close", "error", "cancel"])
def test_Pipeline_left_early_leaves_nothing_behind(how, strays):
    """An endless source, left by break, close, an error or cancellation: no task goes on, the source is let go."""

    async def read(flow):
        async with flow:
            async for outcome in flow:
                if how == "cancel" or outcome.task < 3:
                    continue
                if how == "error":
                    raise KeyError
                if how == "close":
                    await flow.aclose()
                break

    async def main():
        flow = Pipeline([stage(1), (stage(1), 2), stage(1)]).stream(itertools.count())
        task = asyncio.create_task(read(flow))
        if how == "cancel":
            await asyncio.sleep(5.5)
            task.cancel()
        await asyncio.wait([task])
        return strays(), [s.in_flight for s in flow.statistics()]

    assert simulate(main) == ([], [0, 0, 0])


def test_Pipeline_break_without_a_block_ends_the_stages_too(strays):
    """The iterator goes with its loop, and takes the stages along."""

    async def main():
        async for outcome in Pipeline([stage(1), stage(1)]).stream(itertools.count()):
            if outcome.task == 2:
                break
        await asyncio.sleep(0.01)
        return strays()

    assert simulate(main) == []


def test_Pipeline_cancelled_at_every_step_leaves_nothing_behind(strays):
    """Whatever the instant of the cancellation."""

    async def main(at):
        pipeline = Pipeline([stage(0.3), (stage(0.7), 2), stage(0.2)], max_queue=1)
        task = asyncio.create_task(pipeline.execute(range(10)))
        await asyncio.sleep(at)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return strays()

    assert [simulate(main, at / 10) for at in range(20)] == [[]] * 20


# -- what can be seen ---------------------------------------------------------------------------------------------


def test_Pipeline_statistics_show_where_pressure_is():
    """Before the slow stage the queue is full and the fast stage blocked; behind it there is nothing."""

    async def main():
        pipeline = Pipeline([(stage(0.1, "fetch"), 2), (stage(1, "parse"), 1), stage(0.1, "save")], max_queue=3)
        async with pipeline.stream(itertools.count()) as flow:
            async for outcome in flow:
                if outcome.task == 5:
                    return pipeline.statistics(), repr(flow), repr(pipeline)
        return None

    (fetch, parse, save), flow, pipeline = simulate(main)
    assert (fetch.name, fetch.queue_depth, fetch.blocked, fetch.in_flight, fetch.peak_queue_depth) == (
        "fetch",
        3,
        2,
        0,
        3,
    )
    assert (parse.queue_depth, parse.blocked, parse.in_flight) == (0, 0, 1)
    assert (save.queue_depth, save.blocked, save.in_flight) == (0, 0, 0)
    assert flow.startswith("<Flow: fetch 0 of 2 in flight, 3 behind it; parse 1 of 1 in flight, 0 behind it")
    assert pipeline == "<Pipeline fetch -> parse -> save, at most 3 waiting between>"


def test_Pipeline_outcome_tells_the_time_in_each_stage_and_between():
    """Each stage is a span of the item, what happened in it and the wait before it as well."""

    async def look(item):
        with span("calling"):
            await asyncio.sleep(2)
        return item

    report = simulate(Pipeline([stage(1, "fetch"), look]).execute, range(2))
    assert [(s.name, s.started, s.finished) for s in report.individual_results[1].spans] == [
        ("fetch", 1, 2),
        ("waiting for look", 2, 3),
        ("calling · look", 3, 5),
        ("look", 3, 5),
    ]
    assert "2 agents" in repr(report.plot())


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Pipeline([]), ValueError, "stages must hold at least one stage"),
        (lambda: Pipeline([5]), TypeError, r"stages\[0\] must be a function or \(function, concurrency\), got 5"),
        (lambda: Pipeline([(len, -1)]), ValueError, r"stages\[0\]: max_concurrency must be 0 or more, got -1"),
        (lambda: Pipeline([len], max_queue=-1), ValueError, "max_queue must be 0 or more, got -1"),
        (lambda: Pipeline([len], on_error="stop"), ValueError, "on_error must be one of collect, raise, got 'stop'"),
        (lambda: Pipeline([len], executor=3), TypeError, "executor must be a ParallelAgentExecutor, got 3"),
        (lambda: Pipeline([len]).stream("text"), TypeError, "items must be an iterable or async iterable, got 'text'"),
    ],
)
def test_Pipeline_bad_settings_are_named(make, error, said):
    """A mistake shows when the pipeline is made."""
    with pytest.raises(error, match=said):
        make()


def test_Pipeline_names_of_stages_are_told_apart():
    """The same function twice is two stages in every picture."""
    assert [name for name, _, _ in Pipeline([len, len, str, len]).stages] == ["len", "len (2)", "str", "len (3)"]
