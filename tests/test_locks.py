"""Locks: what each says about itself, and what it refuses. The checklist of every primitive is in test_waiters.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.lab.explorer.explore import explore
from agentkit.lab.loops.virtual import Deadlock, simulate
from agentkit.locks import KeyedLock, LockOrder, LockOrderError, LockSpan, TracedLock

Task = asyncio.Task[Any]


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run on the virtual clock."""
    return simulate(main)


async def turn(times: int = 1) -> None:
    """Let every other task go as far as it can."""
    for _ in range(times * 5):
        await asyncio.sleep(0)


# --- TracedLock ------------------------------------------------------------------------------------------------------


def test_TracedLock_twice_in_one_task() -> None:
    """An asyncio.Lock waits for itself for ever; this one says so."""

    async def forever() -> None:
        lock = asyncio.Lock()
        async with lock, lock:
            pass

    with pytest.raises(Deadlock):
        run(forever)

    async def main() -> None:
        lock = TracedLock("history")
        async with lock:
            with pytest.raises(RuntimeError, match="already holds 'history' and would wait for itself"):
                await lock.acquire()
        assert not lock.locked()

    run(main)


def test_TracedLock_only_the_holder_releases() -> None:
    """Releasing a free lock, or one that another task holds, is an error that names the holder."""

    async def main() -> None:
        lock = TracedLock("history")
        with pytest.raises(RuntimeError, match="released 'history', which nobody holds"):
            lock.release()

        async def holder() -> None:
            async with lock:
                await asyncio.sleep(1)

        task = asyncio.create_task(holder(), name="writer")
        await turn()
        with pytest.raises(RuntimeError, match="which task 'writer' holds"):
            lock.release()
        await task

    run(main)


async def _use(lock: TracedLock, seconds: float = 1) -> None:
    async with lock:
        await asyncio.sleep(seconds)


@pytest.mark.parametrize(("when", "abandoned"), [("waiting", 1), ("same step", 1), ("handed over", 0)])
def test_TracedLock_counts_the_waiters_that_gave_up(when: str, abandoned: int) -> None:
    """A waiter cancelled after it was handed the lock took it; one cancelled before that abandoned it."""

    async def main() -> tuple[int, int]:
        lock = TracedLock()
        await lock.acquire()
        first, second = asyncio.create_task(_use(lock)), asyncio.create_task(_use(lock))
        await turn()
        if when != "handed over":
            first.cancel()
        if when == "waiting":
            await turn()
        lock.release()
        first.cancel()
        await asyncio.wait([first, second])
        assert len(lock.spans) == 3
        now = lock.statistics()
        return now.abandoned, now.acquisitions

    assert run(main) == (abandoned, 3 - abandoned)


def test_TracedLock_statistics_and_spans() -> None:
    """Three agents hold it for two seconds each: who waited, who held, from when to when."""

    async def main() -> None:
        lock = TracedLock("history")
        tasks = [asyncio.create_task(_use(lock, 2), name=name) for name in "abc"]
        await asyncio.sleep(3)
        assert repr(lock) == "<TracedLock 'history' held by 'b', 1 waiting, taken 2 times>"
        assert lock.spans == [
            LockSpan("history", "a", 0, 0, 2),
            LockSpan("history", "b", 0, 2, None),
            LockSpan("history", "c", 0, None, None),
        ]
        await asyncio.gather(*tasks)
        assert lock.spans[-1] == LockSpan("history", "c", 0, 4, 6)
        now = lock.statistics()
        assert (now.holder, now.queue_depth, now.peak_queue_depth) == (None, 0, 2)
        assert (now.acquisitions, now.abandoned, now.waited) == (3, 0, 6)

    run(main)


def test_TracedLock_span_of_one_that_gave_up() -> None:
    """It has no time of acquiring, and ends when it left."""

    async def main() -> None:
        lock = TracedLock("a")
        async with lock:
            try:
                async with asyncio.timeout(3):
                    await asyncio.create_task(lock.acquire(), name="late")
            except TimeoutError:
                pass
        assert LockSpan("a", "late", 0, None, 3) in lock.spans

    run(main)


def test_TracedLock_counts_each_wait_from_the_request() -> None:
    """Two tasks ask at second 5; one gives up at second 7, one has the lock at second 8: five seconds of waiting."""

    async def main() -> float:
        lock = TracedLock()
        async with lock:
            await asyncio.sleep(5)
            waiters = [asyncio.create_task(lock.acquire()) for _ in range(2)]
            await asyncio.sleep(2)
            waiters[0].cancel()
            await asyncio.sleep(1)
        await asyncio.wait(waiters)
        return lock.statistics().waited

    assert run(main) == 5


def test_TracedLock_keeps_a_bounded_number_of_spans() -> None:
    """A lock that lives long does not grow; the totals go on."""

    async def main() -> None:
        lock = TracedLock(keep=3)
        for _ in range(10):
            await _use(lock)
        assert len(lock.spans) == 3
        assert lock.statistics().acquisitions == 10

    run(main)
    assert TracedLock(keep=0).spans == []
    with pytest.raises(ValueError, match="keep must be 0 or more, got -1"):
        TracedLock(keep=-1)


def test_TracedLock_outside_a_task_and_on_another_loop() -> None:
    """It can be made anywhere; taking it needs a task, and waiting for another loop's holder is refused."""
    lock = TracedLock("a")
    with pytest.raises(RuntimeError):
        lock.acquire_nowait()

    async def take_and_keep() -> None:
        await lock.acquire()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="held on another event loop"):
            await lock.acquire()

    run(take_and_keep)
    run(main)


def test_TracedLock_is_proved_for_three() -> None:
    """In every order of three agents the update is whole: a lock of one's own is only worth having proved."""

    async def scenario() -> int:
        lock, total = TracedLock(), 0

        async def agent() -> None:
            nonlocal total
            async with lock:
                read = total
                await asyncio.sleep(0)
                total = read + 1

        await asyncio.gather(agent(), agent(), agent())
        return total

    assert explore(scenario, lambda total: total == 3).proved


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), st.none() | st.integers(0, 9)), min_size=1, max_size=8))
def test_TracedLock_survives_any_cancellations(plan: list[tuple[int, int, int | None]]) -> None:
    """Agents come, hold and are cancelled at any second: never two inside, nothing lost, FIFO for who got it."""

    async def main() -> None:
        lock, inside, got = TracedLock(), 0, []

        async def agent(i: int, start: int, hold: int) -> None:
            nonlocal inside
            await asyncio.sleep(start)
            async with lock:
                got.append((start, i))
                inside += 1
                assert inside == 1
                try:
                    await asyncio.sleep(hold)
                finally:
                    inside -= 1

        tasks = [asyncio.create_task(agent(i, start, hold)) for i, (start, hold, _) in enumerate(plan)]
        for task, (_, _, cancel) in zip(tasks, plan, strict=True):
            if cancel is not None:
                asyncio.get_running_loop().call_later(cancel, task.cancel)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
        assert got == sorted(got)
        assert not lock.locked()
        assert lock.statistics().queue_depth == 0
        assert len(lock.spans) == lock.statistics().acquisitions + lock.statistics().abandoned

    run(main)


# --- KeyedLock -------------------------------------------------------------------------------------------------------


def test_KeyedLock_same_key_takes_turns_other_keys_do_not_meet() -> None:
    """Two with one key need two seconds, ten with ten keys need one."""

    async def seconds(keys: str) -> float:
        locks = KeyedLock()

        async def agent(key: str) -> None:
            async with locks.hold(key):
                await asyncio.sleep(1)

        await asyncio.gather(*map(agent, keys))
        return asyncio.get_running_loop().time()

    assert simulate(seconds, "aa") == 2
    assert simulate(seconds, "abcdefghij") == 1


def test_KeyedLock_forgets_idle_keys() -> None:
    """Twenty thousand keys leave nothing behind, cancelled waiters and failing blocks included."""

    async def main() -> None:
        locks = KeyedLock("docs", keep=10)
        for key in range(20_000):
            async with locks.hold(key):
                pass
        assert len(locks) == 0
        assert locks._users == {}

        async def agent(fail: bool) -> None:
            async with locks.hold("x"):
                await asyncio.sleep(1)
                if fail:
                    raise ValueError

        tasks = [asyncio.create_task(agent(fail)) for fail in (True, False, False)]
        await turn()
        assert (list(locks), locks.locked("x"), locks.locked("y")) == (["x"], True, False)
        assert repr(locks) == "<KeyedLock 'docs' 1 keys in use, 2 waiting, taken 20001 times>"
        tasks[1].cancel()
        await asyncio.wait(tasks)
        assert isinstance(tasks[0].exception(), ValueError)
        assert len(locks) == 0
        now = locks.statistics()
        assert (now.keys, now.queue_depth, now.acquisitions) == (0, 0, 20_002)

    run(main)


def test_KeyedLock_spans_name_the_key() -> None:
    """One list for the chart, the keys of the moment and those forgotten alike."""

    async def main() -> None:
        locks = KeyedLock("docs")

        async def agent(key: str, seconds: float) -> None:
            async with locks.hold(key):
                await asyncio.sleep(seconds)

        tasks = [asyncio.create_task(agent(key, n), name=f"{key}{n}") for key, n in (("a", 1), ("a", 2), ("b", 1))]
        await asyncio.sleep(1.5)
        assert [(s.lock, s.task, s.acquired, s.released) for s in locks.spans] == [
            ("docs['b']", "b1", 0, 1),
            ("docs['a']", "a1", 0, 1),
            ("docs['a']", "a2", 1, None),
        ]
        await asyncio.gather(*tasks)

    run(main)


# --- LockOrder -------------------------------------------------------------------------------------------------------


def test_LockOrder_names_both_orders_and_where() -> None:
    """The error tells who takes what in which order now, and who took it the other way round, with both lines."""

    async def main() -> str:
        order = LockOrder()
        history, budget = TracedLock("history", order=order), TracedLock("budget", order=order)

        async def writer() -> None:
            async with history, budget:
                pass

        async def auditor() -> None:
            async with budget, history:
                pass

        await asyncio.create_task(writer(), name="writer")
        with pytest.raises(LockOrderError) as refused:
            await asyncio.create_task(auditor(), name="auditor")
        assert not history.locked()
        assert not budget.locked()
        assert repr(order) == "<LockOrder 1 orders seen, 0 tasks holding, 1 refused>"
        return str(refused.value)

    text = run(main)
    assert text.startswith("possible deadlock: task 'auditor' takes 'budget' then 'history' (auditor, line ")
    assert "async with budget, history:), but task 'writer' took 'history' then 'budget' (writer, line " in text
    assert text.endswith("async with history, budget:); take them in one order everywhere")


def test_LockOrder_finds_circles_of_three() -> None:
    """First a then b, b then c, c then a: no two of them disagree, all three together do."""

    async def main() -> str:
        order = LockOrder()
        locks = {name: TracedLock(name, order=order) for name in "abc"}
        for one, two in ("ab", "bc"):
            async with locks[one], locks[two]:
                pass
        async with locks["c"]:
            with pytest.raises(LockOrderError) as refused:
                await locks["a"].acquire()
        return str(refused.value)

    text = run(main)
    assert "takes 'c' then 'a'" in text
    assert "took 'a' then 'b'" in text
    assert ", and task" in text
    assert "took 'b' then 'c'" in text


def test_LockOrder_searches_each_lock_once() -> None:
    """Twenty-five layers of two locks are joined by 2**25 chains; the search visits 50 locks."""

    async def main() -> None:
        order, task = LockOrder(), asyncio.current_task()
        assert task is not None
        for layer in range(24):
            for one in "ab":
                order.acquired(f"{layer}{one}", task)
                for two in "ab":
                    order.acquiring(f"{layer + 1}{two}", task)
                order.released(f"{layer}{one}", task)
        order.acquired("24a", task)
        order.acquiring("alone", task)
        with pytest.raises(LockOrderError, match="takes '24a' then '0a'"):
            order.acquiring("0a", task)

    run(main)


def test_LockOrder_accepts_one_order_and_keys() -> None:
    """Sorted keys never clash; unsorted ones are found by name and key."""

    async def main(*pairs: str) -> int:
        order = LockOrder()
        locks = KeyedLock("accounts", order=order)
        for one, two in pairs:
            async with locks.hold(one), locks.hold(two):
                pass
        return len(order.orders)

    assert simulate(main, "ab", "bc", "ac") == 3
    with pytest.raises(LockOrderError, match=r"takes \"accounts\['b'\]\" then \"accounts\['a'\]\""):
        simulate(main, "ab", "ba")


def test_LockOrder_refuses_two_locks_of_one_name() -> None:
    """Locks are known by name, so two that are held together need two."""

    async def main() -> None:
        order = LockOrder()
        async with TracedLock("x", order=order), TracedLock("x", order=order):
            pass

    with pytest.raises(LockOrderError, match="takes two locks named 'x'"):
        run(main)


def test_LockOrder_waiting_tasks_are_not_deadlocked_by_the_error() -> None:
    """The classic pair of tasks hangs with plain locks in some order; with a watcher no order hangs."""

    async def scenario(make: Callable[[str], Any]) -> str:
        a, b = make("a"), make("b")

        async def take(one: Any, two: Any) -> None:
            async with one:
                await asyncio.sleep(0)
                async with two:
                    pass

        results = await asyncio.gather(take(a, b), take(b, a), return_exceptions=True)
        return ", ".join(sorted(type(r).__name__ for r in results))

    plain = explore(lambda: scenario(lambda name: asyncio.Lock()))
    assert any(outcome.startswith("deadlock") for outcome in plain.outcomes)

    async def watched() -> str:
        order = LockOrder()
        return await scenario(lambda name: TracedLock(name, order=order))

    found = explore(watched)
    assert found.exhausted
    assert list(found.outcomes) == ["'LockOrderError, NoneType'"]
