"""Virtual time: exact, deterministic, and honest about deadlock. One test per trap named in `loops/virtual.py`."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import linecache
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agentkit.lab.explorer.explore import explore
from agentkit.lab.explorer.play import play
from agentkit.lab.loops.virtual import Deadlock, VirtualLoop, simulate
from agentkit.lab.tracer.trace import trace


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


def python(*code: str, hash_seed: str = "0") -> str:
    """Run lines of code in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- time ---------------------------------------------------------------------------------------------------------


def test_simulate_an_hour_takes_an_hour_of_virtual_time():
    """Sleeping moves the clock by exactly what was asked, from a start at 0."""

    async def main():
        before = now()
        await asyncio.sleep(3600)
        return before, now()

    assert simulate(main) == (0.0, 3600.0)


def test_simulate_jumps_to_the_instant_itself():
    """Trap, rounding: a timer set at 0.2 for 0.3 fires at 0.3, not at a sum of rounded steps."""

    async def main():
        await asyncio.sleep(0.2)
        loop, fired = asyncio.get_running_loop(), []
        for when in (0.3, 0.7, 1.1, 100.1):
            loop.call_at(when, lambda: fired.append(now()))
        await asyncio.sleep(200)
        return fired

    assert simulate(main) == [0.3, 0.7, 1.1, 100.1]


@pytest.mark.timeout(5)  # a clock too coarse for its own instant spins for ever
@pytest.mark.parametrize("seconds", [1e7, 1e8, 1e12, 1e300])
def test_simulate_a_sleep_of_years_ends(seconds: float):
    """A timer fires also where the clock's resolution is lost in the rounding of large numbers."""

    async def main():
        await asyncio.sleep(seconds)
        return now()

    assert simulate(main) == seconds


def test_simulate_no_timer_fires_early():
    """A timer that is a fraction of a nanosecond away fires at its own instant, not together with the one before."""

    async def main():
        fired: list[float] = []
        for when in (1e-10, 2e-10, 3e-10):
            asyncio.get_running_loop().call_at(when, lambda: fired.append(now()))
        await asyncio.sleep(1)
        return fired

    assert simulate(main) == [1e-10, 2e-10, 3e-10]


def test_simulate_a_timer_in_the_past_does_not_turn_time_back():
    """A timer set for an instant that is over fires at once, and the clock stays."""

    async def main():
        await asyncio.sleep(5)
        fired = asyncio.Event()
        asyncio.get_running_loop().call_at(1, fired.set)
        await fired.wait()
        return now()

    assert simulate(main) == 5.0


def test_simulate_a_cancelled_timer_does_not_move_the_clock():
    """Time only goes where something still happens."""

    async def main():
        handles = [asyncio.get_running_loop().call_later(1000 + i, print) for i in range(500)]
        for handle in handles:
            handle.cancel()
        await asyncio.sleep(3)
        return now()

    assert simulate(main) == 3.0


def test_simulate_a_task_that_is_ready_keeps_time_still():
    """A hundred thousand turns without a timer take no virtual time."""

    async def main():
        for _ in range(100_000):
            await asyncio.sleep(0)
        return now()

    assert simulate(main) == 0.0


@pytest.mark.parametrize(
    "wait",
    [
        lambda: asyncio.wait_for(asyncio.Event().wait(), 2.5),
        lambda: _under_timeout(2.5),
    ],
    ids=["wait_for", "timeout"],
)
def test_simulate_timeouts_fire_at_their_instant(wait: Callable[[], Awaitable[Any]]):
    """`wait_for` and `asyncio.timeout` end at exactly the virtual second they name."""

    async def main():
        with pytest.raises(TimeoutError):
            await wait()
        return now()

    assert simulate(main) == 2.5


async def _under_timeout(seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await asyncio.Event().wait()


# -- the traps ----------------------------------------------------------------------------------------------------


def test_simulate_equal_deadlines_are_first_in_first_out():
    """Trap, equal timers: whoever set a timer first wakes first, however many share the instant."""

    async def main():
        woke: list[int] = []

        async def nap(i):
            await asyncio.sleep(1)
            woke.append(i)

        await asyncio.gather(*(nap(i) for i in range(100)))
        return woke

    assert simulate(main) == list(range(100))


def test_simulate_equal_deadlines_on_the_usual_loop_are_not():
    """What the trap is: asyncio's own timer heap gives equal instants in another order."""
    loop = asyncio.new_event_loop()
    try:
        ran: list[int] = []
        when = loop.time()
        for i in range(8):
            loop.call_at(when, ran.append, i)
        loop.run_until_complete(asyncio.sleep(0.001))
    finally:
        loop.close()
    assert sorted(ran) == list(range(8))
    assert ran != list(range(8))


def test_simulate_run_in_executor_is_inline():
    """Trap, worker threads: `run_in_executor` and `to_thread` run in the loop's own thread, in order, in no time."""

    async def main():
        loop, here = asyncio.get_running_loop(), threading.get_ident()
        idents = await asyncio.gather(
            loop.run_in_executor(None, threading.get_ident),
            asyncio.to_thread(threading.get_ident),
            loop.run_in_executor(ThreadPoolExecutor(1), threading.get_ident),
        )
        order: list[int] = []
        await asyncio.gather(*(asyncio.to_thread(order.append, i) for i in range(20)))
        return set(idents) == {here}, order, now()

    assert simulate(main) == (True, list(range(20)), 0.0)


def test_simulate_run_in_executor_hands_errors_to_the_caller():
    """An exception of the function reaches whoever awaits it, and the loop lives on."""

    async def main():
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return await asyncio.to_thread(lambda: "fine")

    assert simulate(main) == "fine"


def test_simulate_run_in_executor_keeps_contextvars():
    """`to_thread` sees the caller's context, as it does with real threads."""
    var = contextvars.ContextVar("var", default="outer")

    async def main():
        var.set("inner")
        return await asyncio.to_thread(var.get)

    assert simulate(main) == "inner"


def test_simulate_run_in_executor_cancelled_before_its_turn_never_runs():
    """A call that is cancelled before the loop's next turn is not made."""

    async def main():
        ran: list[int] = []
        future = asyncio.get_running_loop().run_in_executor(None, ran.append, 1)
        future.cancel()
        await asyncio.sleep(1)
        return ran

    assert simulate(main) == []


def test_simulate_run_in_executor_futures_in_a_set_keep_one_order():
    """Trap, sets: what `asyncio.wait` returns for executor futures is walked in the same order on every run."""

    async def main():
        loop = asyncio.get_running_loop()
        ballast = [bytearray(random_size) for random_size in sizes]  # shifts the addresses from run to run
        done, _ = await asyncio.wait([loop.run_in_executor(None, int, i) for i in range(40)])
        return [future.result() for future in done], len(ballast)

    orders = set()
    for seed in range(5):
        rng = random.Random(seed)
        sizes = [rng.randrange(1, 600) for _ in range(rng.randrange(2000))]
        orders.add(tuple(simulate(main)[0]))
    assert len(orders) == 1


def test_simulate_default_executor_shutdown_is_no_deadlock():
    """Trap, the shutdown thread: a default executor with a live thread is joined without a jump of the clock."""
    loop = VirtualLoop()
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()
    loop.set_default_executor(pool)
    loop.call_later(1_000_000, print)
    loop.run_until_complete(loop.shutdown_default_executor())
    assert loop.time() == 0.0
    loop.close()


def test_simulate_task_group_abort_cancels_in_one_order():
    """Trap, sets of tasks: the siblings of a failed task are cancelled in the same order on every run."""

    async def main():
        cancelled: list[int] = []

        async def sibling(i):
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                cancelled.append(i)
                raise

        async def failing():
            await asyncio.sleep(1)
            raise ValueError

        try:
            async with asyncio.TaskGroup() as group:
                for i in range(30):
                    group.create_task(sibling(i))
                group.create_task(failing())
        except* ValueError:
            pass
        return cancelled

    orders = []
    for size in (0, 100, 1000):
        ballast = [bytearray(n) for n in range(size)]
        orders.append(simulate(main))
        del ballast
    assert sorted(orders[0]) == list(range(30))
    assert orders[0] == orders[1] == orders[2]


def test_simulate_wait_returns_sets_of_one_order():
    """Trap, sets of tasks: `done` and `pending` of `asyncio.wait` are walked in the same order on every run."""

    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(i % 3, i)) for i in range(40)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return [t.get_name() for t in done], [t.get_name() for t in pending]

    first = simulate(main)
    ballast = [bytearray(n) for n in range(1000)]
    assert simulate(main) == first
    del ballast


def test_simulate_default_task_names_start_afresh():
    """Trap, default names: they come from the loop's own counter, so a second run has the same ones."""

    async def main():
        return [asyncio.create_task(asyncio.sleep(0)).get_name() for _ in range(3)]

    names = simulate(main)
    assert simulate(main) == names
    assert len(set(names)) == 3
    assert all(name.startswith("task-") for name in names)


def test_simulate_names_given_by_the_user_stay():
    """A name that was asked for is kept."""

    async def main():
        return asyncio.create_task(asyncio.sleep(0), name="planner").get_name()

    assert simulate(main) == "planner"


def test_simulate_module_random_is_seeded_and_put_back():
    """Trap, module-level random: fixed inside by `seed`, and outside as if nothing had happened."""

    async def main():
        return random.random()

    random.seed(99)
    expected = random.random()
    random.seed(99)
    assert simulate(main) == simulate(main) == random.Random(0).random()
    assert simulate(main, seed=7) == random.Random(7).random()
    assert random.random() == expected


def test_simulate_module_random_is_put_back_after_an_error():
    """An exception does not leave the module-level random numbers fixed."""

    async def main():
        raise ValueError

    random.seed(3)
    expected = random.random()
    random.seed(3)
    with pytest.raises(ValueError):  # noqa: PT011
        simulate(main)
    assert random.random() == expected


# -- deadlock -----------------------------------------------------------------------------------------------------


async def _lock():
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()


async def _queue():
    await asyncio.Queue().get()


async def _event():
    await asyncio.Event().wait()


async def _semaphore():
    await asyncio.Semaphore(0).acquire()


async def _condition():
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()


async def _gather():
    await asyncio.gather(_event(), _event())


async def _nested():
    async def inner():
        await _queue()

    await inner()


@pytest.mark.parametrize(
    ("main", "line"),
    [
        (_lock, "in _lock, line {}: await lock.acquire()"),
        (_queue, "in _queue, line {}: await asyncio.Queue().get()"),
        (_event, "in _event, line {}: await asyncio.Event().wait()"),
        (_semaphore, "in _semaphore, line {}: await asyncio.Semaphore(0).acquire()"),
        (_condition, "in _condition, line {}: await condition.wait()"),
        (_gather, "in _gather, line {}: await asyncio.gather(_event(), _event())"),
        (_nested, "in _queue, line {}: await asyncio.Queue().get()"),
    ],
)
def test_Deadlock_names_the_line_that_waits(main: Callable[[], Awaitable[Any]], line: str):
    """The place is the innermost line of the reader's own code, not of asyncio's."""
    with pytest.raises(Deadlock) as caught:
        simulate(main)
    name, place = caught.value.waiting[0]
    where = place.split("line ")[1].split(":")[0]
    assert name == "task-0"
    assert place == line.format(where)
    assert linecache.getline(__file__, int(where)).strip() == line.split(": ", 1)[1]


def test_Deadlock_names_every_task_in_the_order_they_were_made():
    """Each waiting task is listed with its own name, the user's where one was given."""

    async def main():
        await asyncio.sleep(2.5)
        async with asyncio.TaskGroup() as group:
            group.create_task(_lock(), name="writer")
            group.create_task(_queue(), name="reader")
            group.create_task(_event())

    with pytest.raises(Deadlock) as caught:
        simulate(main)
    names = [name for name, _ in caught.value.waiting]
    assert names[:3] == ["task-0", "writer", "reader"]
    assert len(names) == 4
    assert names[3].startswith("task-")
    assert caught.value.now == 2.5
    assert str(caught.value).startswith(
        "at 2.5 s every task waits for something that can never come:\n  task-0 in main"
    )


def test_Deadlock_two_locks_in_opposite_order():
    """The classic: both tasks are named, each at the lock it cannot get."""

    async def main():
        a, b = asyncio.Lock(), asyncio.Lock()

        async def cross(first, second):
            async with first:
                await asyncio.sleep(1)
                async with second:
                    pass

        await asyncio.gather(cross(a, b), cross(b, a))

    with pytest.raises(Deadlock) as caught:
        simulate(main)
    places = [place for _, place in caught.value.waiting]
    assert sum("async with second:" in place for place in places) == 2


def test_Deadlock_runs_the_finally_blocks():
    """The tasks that waited for ever are cancelled, so their clean-up runs."""
    cleaned: list[str] = []

    async def main():
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("main")

    with pytest.raises(Deadlock):
        simulate(main)
    assert cleaned == ["main"]


def test_Deadlock_is_not_declared_while_a_timer_is_set():
    """As long as something will happen, time goes on to it."""

    async def main():
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(1e6, event.set)
        await event.wait()
        return now()

    assert simulate(main) == 1e6


@pytest.mark.timeout(5)
def test_Deadlock_an_endless_sleep_is_not_something_that_will_come():
    """`sleep(inf)` never ends; when nothing else is left, that is a deadlock, and the clock does not go to infinity."""

    async def main():
        await asyncio.sleep(math.inf)
        return now()

    with pytest.raises(Deadlock, match=r"asyncio\.sleep"):
        simulate(main)


def test_Deadlock_reaches_the_caller_through_a_running_loop():
    """From inside a running loop, as in a notebook cell, the error is the same."""

    async def cell():
        simulate(_event)

    with pytest.raises(Deadlock, match="in _event"):
        asyncio.run(cell())


# -- where it may be called from ----------------------------------------------------------------------------------


def test_simulate_inside_a_running_loop():
    """Called from a coroutine, as in a notebook cell, it gives the same value as from a script."""

    async def nap():
        await asyncio.sleep(100)
        return now()

    async def cell():
        return simulate(nap)

    assert asyncio.run(cell()) == simulate(nap) == 100.0


def test_simulate_inside_simulate():
    """A simulation may run another one: it has a clock of its own, and the outer clock and random stay."""

    async def inner():
        await asyncio.sleep(50)
        return now(), random.random()

    async def outer():
        await asyncio.sleep(1)
        random.random()
        result = simulate(inner, seed=5)
        return now(), result, random.random()

    rng = random.Random(0)
    rng.random()
    assert simulate(outer) == (1.0, (50.0, random.Random(5).random()), rng.random())


def test_simulate_sees_contextvars_of_the_caller():
    """Context variables set outside are visible inside, with and without a running loop."""
    var = contextvars.ContextVar("var", default="unset")

    async def main():
        return var.get()

    async def cell():
        var.set("cell")
        return simulate(main)

    var.set("script")
    assert simulate(main) == "script"
    assert asyncio.run(cell()) == "cell"


@pytest.mark.parametrize("in_loop", [False, True], ids=["script", "cell"])
def test_simulate_exception_passes_through_with_its_traceback(in_loop: bool):
    """The caller gets the exception itself, and its traceback still shows the line that raised it."""
    error = KeyError("gone")

    async def deep():
        await asyncio.sleep(1)
        raise error

    async def cell():
        simulate(deep)

    with pytest.raises(KeyError) as caught:
        asyncio.run(cell()) if in_loop else simulate(deep)
    assert caught.value is error
    assert "raise error" in "".join(traceback.format_tb(caught.value.__traceback__))


@pytest.mark.parametrize("in_loop", [False, True], ids=["script", "cell"])
def test_simulate_leaves_nothing_behind(in_loop: bool):
    """Tasks that `main` left running are cancelled, and no thread stays."""
    cleaned: list[float] = []

    async def background():
        try:
            await asyncio.sleep(1000)
        finally:
            cleaned.append(now())

    async def main():
        task = asyncio.create_task(background())
        await asyncio.sleep(1)
        return task

    async def cell():
        return simulate(main)

    task = asyncio.run(cell()) if in_loop else simulate(main)
    assert task.cancelled()
    assert cleaned == [1.0]
    _no_thread_stays()


def _no_thread_stays() -> None:
    for thread in threading.enumerate():
        if thread.name == "agentkit-beside":
            thread.join(30)
            assert not thread.is_alive()


def test_simulate_passes_arguments():
    """Positional arguments go to `main`."""

    async def main(a, b):
        return a - b

    assert simulate(main, 5, 3) == 2


def test_simulate_refuses_a_coroutine_object():
    """A coroutine instead of a function is refused with the remedy, and closed, so that no second warning follows."""

    async def main():
        return 1

    coroutine = main()
    with pytest.raises(TypeError, match=r"main must be a function, got <coroutine.*; write simulate\(main"):
        simulate(coroutine)
    assert coroutine.cr_frame is None, "the coroutine was left open and will warn that it was never awaited"


def test_VirtualLoop_closed_refuses_timers():
    """A closed loop does not take a timer that will never fire, as asyncio's own does not."""
    loop = VirtualLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)


# -- Stop ---------------------------------------------------------------------------------------------------------


def test_simulate_stop_while_the_simulated_code_waits():
    """A KeyboardInterrupt cancels `main`: its `finally` runs, at the instant of the interrupt."""
    seen: list[tuple[str, float]] = []

    async def main():
        asyncio.get_running_loop().call_later(7, signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(1e9)
        finally:
            seen.append(("finally", now()))

    with pytest.raises(KeyboardInterrupt):
        simulate(main)
    assert seen == [("finally", 7.0)]


def _stopped_in_a_cell(run: Callable[[Any], Any], scenario: Any) -> None:
    async def cell():
        run(scenario)

    loop = asyncio.new_event_loop()  # not asyncio.run, which would catch the signal before the kernel's handler does
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(cell())
    finally:
        loop.close()


def _press_stop() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_simulate_stop_in_a_cell():
    """In a cell the virtual loop has a thread of its own; Stop reaches it all the same and ends it."""
    seen: list[str] = []

    async def endless():
        asyncio.get_running_loop().call_later(20_000, _press_stop)
        try:
            while True:  # noqa: ASYNC110
                await asyncio.sleep(1)
        finally:
            seen.append("finally")

    _stopped_in_a_cell(simulate, endless)
    assert seen == ["finally"]
    _no_thread_stays()


@pytest.mark.parametrize("run", [simulate, trace, explore, play])
def test_beside_stop_ends_a_loop_that_never_awaits(run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch):
    """In a cell, Stop ends code that never awaits: its `finally` runs, and no thread is left."""
    monkeypatch.setattr("agentkit.lab.loops.beside._GRACE", 0.01)
    seen: list[str] = []

    async def busy():
        turns = 0
        try:
            _press_stop()
            while True:
                turns += 1
        finally:
            seen.append("finally")

    state, output, sleep = random.getstate(), sys.stdout, time.sleep
    _stopped_in_a_cell(run, busy)
    _no_thread_stays()
    assert seen == ["finally"]
    assert (random.getstate(), sys.stdout, time.sleep) == (state, output, sleep)


@pytest.mark.parametrize("run", [simulate, trace, explore, play])
def test_beside_stop_does_not_wait_for_work_that_does_not_end(
    run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
):
    """Stop leaves a thread behind that cannot be interrupted, and restores the output at once."""
    monkeypatch.setattr("agentkit.lab.loops.beside._GRACE", 0.01)
    gate = threading.Event()

    async def stubborn():
        try:
            if not gate.is_set():  # explore runs it again
                _press_stop()
            gate.wait()
        except KeyboardInterrupt:
            gate.wait()

    output = sys.stdout
    try:
        _stopped_in_a_cell(run, stubborn)
        assert sys.stdout is output
        assert any(thread.name == "agentkit-beside" for thread in threading.enumerate())
    finally:
        gate.set()
    _no_thread_stays()


# -- nest_asyncio -------------------------------------------------------------------------------------------------

_NAPS = """
import asyncio
async def main():
    woke = []
    async def nap(i):
        async with asyncio.timeout(60):
            await asyncio.sleep(1 + i % 3)
        woke.append(i)
    async with asyncio.TaskGroup() as group:
        for i in range(9):
            group.create_task(nap(i))
    return woke, await asyncio.to_thread(str, 'thread'), asyncio.get_running_loop().time()
async def forever():
    await asyncio.Event().wait()
async def cell():
    return simulate(main)
def check():
    assert simulate(main) == simulate(main)
    print(simulate(main), asyncio.run(cell()) == simulate(main))
    try:
        simulate(forever)
    except Deadlock as error:
        print(error.waiting[0][0])
"""


@pytest.mark.parametrize("order", ["never", "before the import", "after the import", "inside the loop"])
def test_simulate_with_nest_asyncio(order: str):
    """The same result whether nest_asyncio was never applied, or before or after the import of agentkit."""
    load = "from agentkit.lab.loops.virtual import simulate, Deadlock"
    # nest_asyncio asks for a current event loop, which newer Pythons warn about
    apply = (
        "import asyncio; asyncio.set_event_loop(asyncio.new_event_loop()); import nest_asyncio; nest_asyncio.apply()"
    )
    lines = {
        "never": [load, _NAPS, "check()"],
        "before the import": [apply, load, _NAPS, "check()"],
        "after the import": [load, apply, _NAPS, "check()"],
        "inside the loop": [
            load,
            _NAPS,
            "async def notebook():",
            "    import nest_asyncio; nest_asyncio.apply()",
            "    check()",
            "loop = asyncio.new_event_loop(); loop.run_until_complete(notebook())",
        ],
    }[order]
    quiet = "import warnings; warnings.simplefilter('ignore')"  # nest_asyncio leaves its loops open
    assert python(quiet, *lines).splitlines() == ["([0, 3, 6, 1, 4, 7, 2, 5, 8], 'thread', 3.0) True", "task-0"]


# -- the digest: the same everywhere ------------------------------------------------------------------------------

DIGEST = "2f5cb0b9752a586e0a858f49c0b63ccc1d1e9fd26f5eed2e35221b310fe0a363"


async def _mixed(log: Callable[..., None]) -> None:
    """Two hundred tasks that gather, fail in groups, time out, queue and take slots, with seeded lognormal times."""
    rng = random.Random(2024)
    slots, queue = asyncio.Semaphore(7), asyncio.Queue(maxsize=5)

    async def step(name):
        try:
            async with slots:
                log(name, "has a slot")
                await asyncio.sleep(rng.lognormvariate(0, 1))
                if rng.random() < 0.1:
                    raise ValueError(name)
            log(name, "done")
        except asyncio.CancelledError:
            log(name, "cancelled")
            raise
        return name

    async def group(g):
        try:
            async with asyncio.TaskGroup() as tasks:
                for i in range(8):
                    tasks.create_task(step(f"group {g}.{i}"))
        except* ValueError as errors:
            log(g, sorted(str(error) for error in errors.exceptions))

    async def bounded(i):
        try:
            async with asyncio.timeout(rng.lognormvariate(0.5, 1)):
                await step(f"bounded {i}")
        except TimeoutError:
            log(i, "timeout")
        except ValueError:
            log(i, "failed")

    async def produce():
        for i in range(40):
            await asyncio.sleep(rng.lognormvariate(-2, 1))
            await queue.put(i)

    async def consume(c):
        while True:
            item = await queue.get()
            await asyncio.sleep(rng.lognormvariate(-1, 1))
            log(c, "took", item)
            queue.task_done()

    consumers = [asyncio.create_task(consume(f"consumer {c}")) for c in range(3)]
    racers = {asyncio.create_task(asyncio.sleep(round(rng.lognormvariate(0, 1)), i)) for i in range(40)}
    loop = asyncio.get_running_loop()
    race = asyncio.create_task(_race(racers, log))
    await asyncio.gather(*(group(g) for g in range(8)), *(bounded(i) for i in range(80)), produce(), race)
    log(await asyncio.gather(*(step(f"loose {i}") for i in range(10)), return_exceptions=True))
    log(await asyncio.to_thread(random.random), await loop.run_in_executor(None, str.upper, "thread"))
    await queue.join()
    for task in consumers:
        task.cancel()
    log([type(e).__name__ for e in await asyncio.gather(*consumers, return_exceptions=True)])


async def _race(racers: set[asyncio.Task[int]], log: Callable[..., None]) -> None:
    while racers:
        done, racers = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        log("won", [task.result() for task in done], [task.get_name() for task in racers])


def digest() -> str:
    """Hash every event of the mixed scenario together with its time and its task's name."""
    hashed, count = hashlib.sha256(), 0

    def log(*event):
        nonlocal count
        count += 1
        task = asyncio.current_task()
        hashed.update(repr((task and task.get_name(), event, now())).encode())

    simulate(_mixed, log)
    assert count > 300, count
    return hashed.hexdigest()


def test_simulate_digest_is_the_same_on_every_python():
    """Every event of a mixed scenario, with its instant, hashes to one constant."""
    assert digest() == digest() == DIGEST


@pytest.mark.parametrize("hash_seed", ["1", "12345", "random"])
def test_simulate_digest_does_not_depend_on_hash_seed_or_addresses(hash_seed: str):
    """A fresh interpreter with another hash seed and other addresses gives the same digest."""
    ballast = f"ballast = [bytearray(n % 700) for n in range({len(hash_seed) * 3000})]"
    code = f"import runpy; print(runpy.run_path({__file__!r})['digest']())"
    assert python(ballast, code, hash_seed=hash_seed) == DIGEST


def test_simulate_digest_is_the_same_inside_a_running_loop():
    """In a cell the digest is the same as in a script."""

    async def cell():
        return digest()

    assert asyncio.run(cell()) == DIGEST
