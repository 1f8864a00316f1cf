"""A run in progress: watched, streamed, paused, left early, cancelled at every step; and nothing stays behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from agentkit.executor import ParallelAgentExecutor
from agentkit.lab.loops.virtual import simulate
from agentkit.semaphore import CapacityLimiter

Strays = Callable[[], list[str]]


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


async def nap(seconds: float) -> float:
    """Take as long as the task says, and return it."""
    await asyncio.sleep(seconds)
    return seconds


async def leave_open(stream: Any) -> None:
    """Read one outcome, and leave."""
    async for _ in stream:
        break


async def second(task: Any) -> Any:
    """Take one second."""
    await asyncio.sleep(1)
    return task


# -- start: a live handle -----------------------------------------------------------------------------------------


def test_start_begins_at_once_and_is_awaited_for_the_report():
    """A started run goes on while its owner does something else; awaiting it twice gives the same report."""

    async def main():
        run = ParallelAgentExecutor(2).start([1, 2, 3], nap)
        await asyncio.sleep(10)
        report = await run
        return report.results, report.summary.makespan, now(), await run is report

    assert simulate(main) == ([1, 2, 3], 4.0, 10.0, True)


def test_Run_statistics_while_it_runs():
    """At every instant the parts make up the total."""

    async def main():
        run = ParallelAgentExecutor(2).start([1, 2, 3, 4], nap)
        seen = []
        await asyncio.sleep(0.5)
        for _ in range(7):
            s = run.statistics()
            assert s.succeeded + s.failed + s.in_flight + s.waiting == s.total == 4
            seen.append((s.elapsed, s.in_flight, s.succeeded))
            await asyncio.sleep(1)
        return seen

    assert simulate(main) == [(0.5, 2, 0), (1.5, 2, 1), (2.5, 2, 2), (3.5, 2, 2), (4.5, 1, 3), (5.5, 1, 3), (6.0, 0, 4)]


def test_Run_repr_tells_its_state():
    """The repr says how far it is, and why it ended if it ended early."""

    async def main():
        run = ParallelAgentExecutor(2).start([1, 2, 3], nap)
        await asyncio.sleep(1.5)
        texts = [repr(run)]
        run.pause()
        texts.append(repr(run))
        run.resume()
        await run
        texts.append(repr(run))
        cancelled = ParallelAgentExecutor(2).start([1, 2, 3], nap)
        cancelled.cancel()
        return [*texts, repr(cancelled)]

    assert simulate(main) == [
        "<Run: 1 of 3 done, 0 failed, 2 in flight, 1.5 s>",
        "<Run: 1 of 3 done, 0 failed, paused, 1.5 s>",
        "<Run: 3 of 3 done, 0 failed, ended, 4 s>",
        "<Run: 0 of 3 done, 0 failed, stopped: cancelled by its owner, 0 s>",
    ]


def test_Run_awaited_by_two():
    """Two may wait for one run; both get the report."""

    async def main():
        run = ParallelAgentExecutor(2).start([1, 2], nap)

        async def wait():
            return await run

        first, other = await asyncio.gather(wait(), wait())
        return first is other, first.results

    assert simulate(main) == (True, [1, 2])


def test_Run_awaited_under_wait_for(strays: Strays):
    """`wait_for` around a run cancels it and leaves nothing behind."""

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ParallelAgentExecutor(2).start([1, 100], nap), 5)
        return now(), strays()

    assert simulate(main) == (5.0, [])


def test_Run_kept_for_a_report_cannot_be_iterated():
    """A started run and a stream are told apart, each with the remedy."""

    async def main():
        executor = ParallelAgentExecutor(1)
        with pytest.raises(TypeError, match=r"await it, or use executor.stream\(\) to iterate"):
            aiter(executor.start([1], nap))
        with pytest.raises(TypeError, match=r"iterate over it with `async for`, or use executor.start\(\)"):
            await executor.stream([1], nap)

    simulate(main)


# -- stream -------------------------------------------------------------------------------------------------------


def test_stream_yields_as_they_finish():
    """Outcomes come when they are finished, at that instant."""

    async def main():
        return [(o.result, now()) async for o in ParallelAgentExecutor(3).stream([3, 1, 2], nap)]

    assert simulate(main) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_stream_ordered_yields_in_input_order():
    """With `ordered=True` an outcome waits for those before it."""

    async def main():
        return [(o.result, now()) async for o in ParallelAgentExecutor(3).stream([3, 1, 2, 4], nap, ordered=True)]

    assert simulate(main) == [(3, 3.0), (1, 3.0), (2, 3.0), (4, 5.0)]


def test_stream_ordered_keeps_the_workers_busy():
    """A slow first task does not idle the others: they run ahead of it, by a bounded number."""
    begun: list[int] = []

    async def agent(i):
        begun.append(i)
        await asyncio.sleep(100 if i == 0 else 1)

    async def main():
        first = None
        async for _ in ParallelAgentExecutor(4).stream(range(100), agent, ordered=True):
            first = first or (now(), len(begun))
        return first, now()

    first, end = simulate(main)
    assert first[0] == 100.0
    assert 4 * 4 <= first[1] <= 4 * 4 + 1
    assert end <= 125.0


@pytest.mark.parametrize("ordered", [False, True])
def test_stream_endless_source_with_a_bounded_look_ahead(ordered: bool):
    """An endless source works, and is never asked for more than a few times the limit ahead of the reader."""
    ahead: list[int] = []
    read = 0

    def source():
        for i in itertools.count():
            ahead.append(i + 1 - read)
            yield i

    async def main():
        nonlocal read
        async with ParallelAgentExecutor(3).stream(source(), second, ordered=ordered) as run:
            async for _ in run:
                read += 1
                if read == 200:
                    break
        return now()

    assert 66.0 <= simulate(main) <= 68.0
    assert max(ahead) <= 4 * 3 + 1


def test_stream_slow_reader_slows_the_workers():
    """With a reader that takes 10 s each, the workers wait; nothing piles up and nothing is lost."""
    begun = 0

    async def agent(i):
        nonlocal begun
        begun += 1
        await asyncio.sleep(1)
        return i

    async def main():
        got, most = [], 0
        async for outcome in ParallelAgentExecutor(2).stream(range(50), agent):
            await asyncio.sleep(10)
            got.append(outcome.result)
            most = max(most, begun - len(got))
        return sorted(got), most

    got, most = simulate(main)
    assert got == list(range(50))
    assert most <= 2 * 4


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("with_block", [False, True])
def test_stream_break_leaves_no_task(with_block: bool, ordered: bool, strays: Strays):
    """After `break` the calls in flight are cancelled; at the end of an `async with` at once, else within few turns."""
    cleaned: list[int] = []

    async def agent(i):
        try:
            await asyncio.sleep(1 if i < 2 else 100)
        finally:
            cleaned.append(i)

    async def main():
        executor = ParallelAgentExecutor(3)
        if with_block:
            async with executor.stream(range(100), agent, ordered=ordered) as run:
                async for _ in run:
                    break
        else:
            with pytest.warns(ResourceWarning, match="was left open; use `async with` to end it"):
                await leave_open(executor.stream(range(100), agent, ordered=ordered))
            for _ in range(5):
                await asyncio.sleep(0)
        return now(), strays(), executor.limiter.statistics().in_flight

    assert simulate(main) == (1.0, [], 0)
    assert len(cleaned) >= 3


def test_stream_error_in_the_readers_body_leaves_no_task(strays: Strays):
    """An exception in the loop's body ends the run too, and reaches the caller as it is."""

    async def main():
        with pytest.raises(ZeroDivisionError):
            await read()
        return strays()

    async def read():
        async with ParallelAgentExecutor(3).stream(range(100), second) as run:
            async for _ in run:
                raise ZeroDivisionError

    assert simulate(main) == []


def test_stream_begins_with_the_iteration():
    """A stream that nobody reads does nothing."""
    begun: list[int] = []

    async def agent(i):
        begun.append(i)

    async def main():
        run = ParallelAgentExecutor(3).stream(range(5), agent)
        await asyncio.sleep(5)
        return repr(run)

    assert simulate(main) == "<Stream: 0 of 5 done, 0 failed, 0 in flight, 0 s>"
    assert begun == []


@pytest.mark.parametrize("ordered", [False, True])
def test_stream_raise_yields_what_was_done_first(ordered: bool):
    """With `on_error="raise"` the reader gets what is finished, and then the error."""

    async def agent(i):
        await asyncio.sleep(1 + i)
        if i == 2:
            raise ValueError("two")
        return i

    async def main():
        got = []
        try:
            async for outcome in ParallelAgentExecutor(3, on_error="raise").stream(range(9), agent, ordered=ordered):
                got.append((outcome.task_id, outcome.status))
        except ValueError as error:
            got.insert(3, error.args)
        return got[:4]

    assert simulate(main) == [(0, "success"), (1, "success"), (2, "failed"), ("two",)]


@pytest.mark.parametrize("ordered", [False, True])
def test_stream_within_ends_on_time(ordered: bool):
    """`within` bounds a stream as well; what is cut off is yielded as a timeout."""

    async def main():
        run = ParallelAgentExecutor(2).stream(itertools.count(1), nap, ordered=ordered, within=6.5)
        return [(o.task_id, o.status) async for o in run], now()

    outcomes, end = simulate(main)
    assert end == 6.5
    assert [status for _, status in sorted(outcomes)] == ["success"] * 4 + ["timeout"] * 2 or ordered
    assert {status for _, status in outcomes} == {"success", "timeout"}


def test_stream_lowering_the_limit_while_the_reader_lags(strays: Strays):
    """A stream whose limit is lowered while its workers wait for the reader still comes to its end."""

    async def main():
        executor = ParallelAgentExecutor(10)
        got = []
        async for outcome in executor.stream(range(60), second):
            if not got:
                await asyncio.sleep(100)  # the look-ahead is full, all ten workers wait
                executor.limiter.limit = 1
            got.append(outcome.task_id)
        return sorted(got), strays()

    assert simulate(main) == (list(range(60)), [])


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("leave", ["break", "read on"])
def test_stream_stop_while_the_reader_lags(limit: int, leave: str, strays: Strays):
    """A failure that stops the run while the look-ahead is full ends it, whether the reader leaves or reads on."""

    async def agent(i):
        await asyncio.sleep(1)
        if i == 4 * limit:  # the last one before the workers must wait for the reader
            raise ValueError(i)

    async def main():
        async with ParallelAgentExecutor(limit, on_error="stop").stream(range(100), agent) as run:
            async for _ in run:
                await asyncio.sleep(1000)
                if leave == "break":
                    break
        return strays()

    assert simulate(main) == []


# -- pause and resume ---------------------------------------------------------------------------------------------


def test_Run_pause_starts_nothing_new():
    """What is in flight goes on, nothing new starts, and `resume` goes on from there."""
    begun: list[tuple[int, float]] = []

    async def agent(i):
        begun.append((i, now()))
        await asyncio.sleep(2)

    async def main():
        run = ParallelAgentExecutor(2).start(range(5), agent)
        await asyncio.sleep(1)
        run.pause()
        await asyncio.sleep(9)
        in_flight = run.statistics().in_flight
        run.resume()
        report = await run
        return in_flight, report.summary.succeeded

    assert simulate(main) == (0, 5)
    assert begun == [(0, 0.0), (1, 0.0), (2, 10.0), (3, 10.0), (4, 12.0)]


def test_Run_pause_before_the_first_turn():
    """A run paused at once begins with `resume`."""

    async def main():
        run = ParallelAgentExecutor(2).start([1, 2], nap)
        run.pause()
        asyncio.get_running_loop().call_later(5, run.resume)
        report = await run
        return [o.started for o in report]

    assert simulate(main) == [5.0, 5.0]


def test_Run_pause_again_and_again():
    """Pausing and resuming in any rhythm loses nothing."""

    async def main():
        run = ParallelAgentExecutor(3).start(range(30), second)
        for i in range(40):
            run.pause() if i % 2 else run.resume()
            await asyncio.sleep(0.3 * (i % 4))
        run.resume()
        return (await run).results

    assert simulate(main) == list(range(30))


def test_Run_cancel_while_paused(strays: Strays):
    """A paused run can be cancelled."""

    async def main():
        run = ParallelAgentExecutor(2).start(range(5), second)
        await asyncio.sleep(0.5)
        run.pause()
        await asyncio.sleep(5)
        run.cancel()
        report = await run
        return report.summary.by_status, now(), strays()

    assert simulate(main) == ({"success": 2, "cancelled": 3}, 5.5, [])


@pytest.mark.parametrize("policy", ["stop", "raise", "max_failures"])
def test_Run_failure_that_ends_a_paused_run(policy: str, strays: Strays):
    """A failure in flight ends a paused run as it would any other: nobody has to resume it first."""
    settings: dict[str, Any] = {"max_failures": 1} if policy == "max_failures" else {"on_error": policy}

    async def agent(i):
        await asyncio.sleep(1)
        raise ValueError(i)

    async def main():
        run = ParallelAgentExecutor(2, **settings).start(range(5), agent)
        await asyncio.sleep(0.5)
        run.pause()
        try:
            await run
        except ValueError:
            pass
        return now(), strays()

    assert simulate(main) == (1.0, [])


def test_Run_paused_after_its_last_task_has_begun_ends_by_itself():
    """A pause holds back what is not yet started; when nothing is left, the run ends."""

    async def main():
        run = ParallelAgentExecutor(3).start([1, 2, 3], nap)
        await asyncio.sleep(0.5)
        run.pause()
        return (await run).results, now()

    assert simulate(main) == ([1, 2, 3], 3.0)


def test_Run_paused_and_the_time_is_over():
    """`within` goes on counting in a pause."""

    async def main():
        run = ParallelAgentExecutor(1).start([1, 2, 3], nap, within=5)
        await asyncio.sleep(0.5)
        run.pause()
        return (await run).summary.by_status, now()

    assert simulate(main) == ({"success": 1, "cancelled": 2}, 5.0)


# -- the limit changes during the run -----------------------------------------------------------------------------


def test_Run_limit_raised_during_the_run():
    """More slots are used from the instant they are there; the report knows the change."""

    async def main():
        executor = ParallelAgentExecutor(1)
        asyncio.get_running_loop().call_later(2.5, setattr, executor.limiter, "limit", 4)
        report = await executor.execute(range(12), second)
        return [o.started for o in report], report.limits

    started, limits = simulate(main)
    assert started == [0.0, 1.0, 2.0, 2.5, 2.5, 2.5, 3.0, 3.5, 3.5, 3.5, 4.0, 4.5]
    assert limits == ((0.0, 1), (2.5, 4))


def test_Run_limit_lowered_during_the_run():
    """Nobody is interrupted; from then on the lower limit holds."""
    busy: list[tuple[float, int]] = []
    working = 0

    async def agent(_):
        nonlocal working
        working += 1
        busy.append((now(), working))
        await asyncio.sleep(1)
        working -= 1

    async def main():
        executor = ParallelAgentExecutor(5)
        asyncio.get_running_loop().call_later(1.5, setattr, executor.limiter, "limit", 2)
        report = await executor.execute(range(16), agent)
        return report.summary.by_status, report.summary.makespan

    assert simulate(main) == ({"success": 16}, 5.0)
    assert max(n for t, n in busy if t < 2) == 5
    assert max(n for t, n in busy if t >= 2) == 2


def test_Run_limit_lowered_loses_no_task():
    """Workers that become superfluous at the same instant do not all leave."""

    async def main():
        executor = ParallelAgentExecutor(8)
        run = executor.start(range(40), second)
        await asyncio.sleep(0.5)
        executor.limiter.limit = 3
        return (await run).summary.succeeded

    assert simulate(main) == 40


def test_Run_limit_zero_holds_everything_back():
    """A limit of 0 stops new starts until it is raised again."""

    async def main():
        limiter = CapacityLimiter(0)
        asyncio.get_running_loop().call_later(7, setattr, limiter, "limit", 2)
        report = await ParallelAgentExecutor(limiter).execute([1, 1, 1], nap)
        return [o.started for o in report]

    assert simulate(main) == [7.0, 7.0, 8.0]


def test_Run_limit_changed_at_random():
    """Whatever the limit does meanwhile, every task is done once and in order."""

    async def main():
        executor = ParallelAgentExecutor(3)
        run = executor.start(range(200), second)
        for i in range(60):
            executor.limiter.limit = (i * 7) % 9
            await asyncio.sleep(0.7)
        executor.limiter.limit = None
        report = await run
        return report.results, executor.limiter.statistics().in_flight

    assert simulate(main) == (list(range(200)), 0)


# -- leaving early ------------------------------------------------------------------------------------------------


def test_Run_cancel_gives_the_report_of_what_was_done(strays: Strays):
    """`cancel` ends the run now; awaiting it gives every task's outcome and raises nothing."""

    async def main():
        run = ParallelAgentExecutor(2).start([1, 2, 3, 4], nap)
        await asyncio.sleep(2.5)
        run.cancel()
        run.cancel()
        report = await run
        return [o.status for o in report], report.stopped, now(), strays()

    statuses, stopped, at, left = simulate(main)
    assert statuses == ["success", "success", "cancelled", "cancelled"]
    assert (stopped, at, left) == ("cancelled by its owner", 2.5, [])


def test_Run_cancel_before_the_first_turn_starts_nothing():
    """Cancelled at once, no agent is called; every task has its outcome."""
    called: list[int] = []

    async def main():
        run = ParallelAgentExecutor(2).start([1, 2, 3], called.append)
        run.cancel()
        return (await run).summary.by_status

    assert simulate(main) == {"cancelled": 3}
    assert called == []


def test_Run_cancel_after_the_end_changes_nothing():
    """A run that is over stays as it was."""

    async def main():
        run = ParallelAgentExecutor(2).start([1, 2], nap)
        report = await run
        run.cancel()
        return await run is report, report.stopped

    assert simulate(main) == (True, None)


def test_Run_as_context_manager_is_cancelled_on_the_way_out(strays: Strays):
    """Leaving the block before the end cancels what is in flight and waits for its clean-up."""
    cleaned: list[float] = []

    async def agent(_):
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(3)
            cleaned.append(now())

    async def main():
        async with ParallelAgentExecutor(2).start(range(9), agent) as run:
            await asyncio.sleep(1)
        return now(), run.statistics().in_flight, strays()

    assert simulate(main) == (4.0, 0, [])
    assert cleaned == [4.0, 4.0]


def test_Run_as_context_manager_that_ended_before():
    """Leaving the block after the end costs nothing and changes nothing."""

    async def main():
        async with ParallelAgentExecutor(2).start([1, 2], nap) as run:
            report = await run
        return report.results, (await run).stopped

    assert simulate(main) == ([1, 2], None)


def test_Run_worker_cancelled_from_outside_lets_go(strays: Strays):
    """Whoever cancels all tasks, as `asyncio.run` does at its end, stops a run: no further agent is called.

    Also when an agent turns its cancellation into a result, or into another error.
    """
    begun: list[int] = []

    async def agent(i):
        begun.append(i)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            if i:
                raise OSError("connection closed") from None
            return "partial"

    async def main():
        run = ParallelAgentExecutor(2).start(range(10), agent)
        await asyncio.sleep(1)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await run
        return now(), strays()

    assert simulate(main) == (1.0, [])
    assert begun == [0, 1]


def _scenario(log: list[str], limiter: CapacityLimiter, kind: str) -> Any:
    """Return a coroutine function that uses a run in one of several ways; agents note their begin and end."""

    async def agent(i):
        log.append(f"begin {i}")
        try:
            await asyncio.sleep(1 + i % 3)
            async with asyncio.timeout(5):
                await asyncio.sleep(1)
            if i % 5 == 4:
                raise ValueError(i)
        finally:
            log.append(f"end {i}")

    async def pages():
        for i in range(9):
            await asyncio.sleep(0.5)
            yield i

    executor = ParallelAgentExecutor(limiter, timeout=3, deadline=20)

    async def use():
        if kind == "execute":
            await executor.execute(range(9), agent, lambda outcomes: nap(1), within=50)
        elif kind == "async source":
            await executor.execute(pages(), agent)
        elif kind == "stream":
            async with executor.stream(range(9), agent) as run:
                async for _ in run:
                    await asyncio.sleep(0.25)
        elif kind == "ordered":
            async with executor.stream(range(9), agent, ordered=True) as run:
                async for _ in run:
                    await asyncio.sleep(0)
        elif kind == "map":
            await executor.map(iter([0, 1, 2, 3, 5, 6, 7, 8]), agent)
        elif kind == "paused":
            async with executor.start(range(9), agent) as run:
                await asyncio.sleep(1.5)
                run.pause()
                await asyncio.sleep(2)
                run.resume()
                limiter.limit = 1
                await run

    return use


@pytest.mark.parametrize("kind", ["execute", "async source", "stream", "ordered", "paused", "map"])
def test_Run_awaiting_task_cancelled_at_every_step(kind: str, strays: Strays):
    """Cancel whoever uses a run after 0, 1, 2, … turns: no task stays, no slot is lost, every agent's `finally` ran."""

    async def main(steps):
        log: list[str] = []
        limiter = CapacityLimiter(3)
        task = asyncio.create_task(_scenario(log, limiter, kind)())
        for _ in range(steps):
            await asyncio.sleep(0)
            if not any(
                handle for handle in asyncio.get_running_loop()._ready if handle
            ):  # nothing ready: let time pass
                await asyncio.sleep(0.125)
        ended = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(5):
            await asyncio.sleep(0)
        begun = sorted(entry[6:] for entry in log if entry.startswith("begin"))
        over = sorted(entry[4:] for entry in log if entry.startswith("end"))
        assert begun == over, f"after {steps} steps"
        assert strays() == [], f"after {steps} steps"
        now_ = limiter.statistics()
        assert (now_.in_flight, now_.queue_depth) == (0, 0), f"after {steps} steps"
        return ended

    steps = 0
    while not simulate(main, steps):
        steps += 1
        assert steps < 500
    assert steps > 20


def test_Run_awaiting_task_cancelled_twice(strays: Strays):
    """An impatient second cancellation during the clean-up leaves nothing behind either."""

    async def agent(_):
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(5)

    async def main():
        task = asyncio.create_task(ParallelAgentExecutor(2).execute(range(4), agent))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled(), strays()

    assert simulate(main) == (True, [])


def test_Run_awaited_by_work_that_outlives_its_agent():
    """A background task of an agent that is over lends nobody's slot when it waits for a run on the same limiter."""
    limiter = CapacityLimiter(1)
    working = peak = 0
    background: list[asyncio.Task[Any]] = []

    async def work(i):
        nonlocal working, peak
        working += 1
        peak = max(peak, working)
        await asyncio.sleep(1)
        working -= 1
        return i

    async def afterwards():
        await asyncio.sleep(0.5)
        return await ParallelAgentExecutor(limiter).execute(range(2), work)

    async def agent(i):
        if i == 0:
            background.append(asyncio.create_task(afterwards()))
            return i
        return await work(i)

    async def main():
        report = await ParallelAgentExecutor(limiter).execute(range(5), agent)
        return report.results, (await background[0]).results

    assert simulate(main) == ([0, 1, 2, 3, 4], [0, 1])
    assert peak == 1
    assert limiter.statistics().in_flight == 0


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_Run_nested_in_tasks_of_their_own_is_refused_where_it_can_never_start(limit: int):
    """An agent that waits in tasks of its own lends no slot; once all agents do so, the last run is refused."""
    limiter = CapacityLimiter(limit)

    async def lead(_):
        runs = [ParallelAgentExecutor(limiter).execute(range(3), second) for _ in range(2)]
        return sum([len(report.results) for report in await asyncio.gather(*runs)])

    async def main():
        return await ParallelAgentExecutor(limiter).execute(range(limit), lead)

    report = simulate(main)
    assert len(report.failures) == 1
    assert "await the nested run in the agent itself" in report.failures[0].reason
    assert report.results == [6] * (limit - 1)
    assert (limiter.statistics().in_flight, limiter.statistics().queue_depth) == (0, 0)


def test_Run_nested_in_a_task_keeps_to_the_limit():
    """While an agent works on, a nested run beside it takes a slot of its own, so the limit holds."""
    limiter = CapacityLimiter(2)
    working: list[int] = []
    peak = 0

    async def work(task):
        nonlocal peak
        working.append(task)
        peak = max(peak, len(working))
        await asyncio.sleep(1)
        working.remove(task)

    async def agent(task):
        await asyncio.gather(work(task), ParallelAgentExecutor(limiter).map([task], work))

    async def main():
        return await ParallelAgentExecutor(limiter).execute([1], agent)

    assert simulate(main).summary.succeeded == 1
    assert peak == 2


@pytest.mark.parametrize("after", [0.5, 1.5, 2.5])
def test_Run_nested_run_timed_out_or_cancelled(after: float, strays: Strays):
    """A timeout or a cancellation while a slot is lent leaves no slot lost and no task behind."""
    limiter = CapacityLimiter(2)

    async def lead(_):
        return (await ParallelAgentExecutor(limiter).execute(range(9), second)).results

    async def main():
        timed = await ParallelAgentExecutor(limiter, timeout=after).execute(range(3), lead)
        run = ParallelAgentExecutor(limiter).start(range(3), lead)
        await asyncio.sleep(after)
        run.cancel()
        await run
        return timed.summary.by_status, limiter.statistics().in_flight, strays()

    assert simulate(main) == ({"timeout": 3}, 0, [])
