"""The Stepper and the trace it walks through: the loop's own order, what each task waits for, what holds up whom."""

from __future__ import annotations

import asyncio
import html
import linecache
import random
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkit.lab.loops.virtual import Deadlock, simulate
from agentkit.lab.tracer.trace import LoopTrace, block, trace
from agentkit.lab.tracer.view import panel
from agentkit.lab.widgets import Stepper

TEAM = """\
import asyncio, time

async def agent(seconds):
    await asyncio.sleep(seconds)
    return seconds

async def rude():
    await asyncio.sleep(0.5)
    time.sleep(3)
    await asyncio.sleep(0.1)

async def team():
    return await asyncio.gather(
        agent(2),
        agent(1),
        rude(),
    )

async def waits():
    lock, queue, ready = asyncio.Lock(), asyncio.Queue(), asyncio.Event()

    async def holder():
        async with lock:
            await ready.wait()

    async def second():
        async with lock:
            pass

    async def reader():
        try:
            async with asyncio.timeout(3):
                await queue.get()
        except TimeoutError:
            ready.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(holder())
        group.create_task(second())
        await group.create_task(reader())

async def fails():
    async def late():
        try:
            await asyncio.sleep(9)
        finally:
            await asyncio.sleep(1)
    async def bad():
        await asyncio.sleep(1)
        raise ValueError("<b>no</b>")
    async with asyncio.TaskGroup() as group:
        group.create_task(late())
        group.create_task(bad(), name="<i>bad</i>")

async def stuck():
    await asyncio.Event().wait()
"""


@pytest.fixture(scope="module")
def cell() -> dict[str, Any]:
    """The functions above, defined as a notebook cell defines them: source known to linecache only."""
    name = "ipykernel_1/1234.py"
    linecache.cache[name] = (len(TEAM), None, TEAM.splitlines(True), name)
    space: dict[str, Any] = {}
    exec(compile(TEAM, name, "exec"), space)
    return space


# --- the trace


def test_trace_table_is_exact(cell: dict[str, Any]) -> None:
    """The whole table, character by character, as a notebook under nbval compares it; a blocking call freezes all."""
    assert repr(trace(cell["team"])).splitlines() == [
        "step   time  runs     lines  and then                                      ready                     timers",
        "   1    0 s  team     13     waits for gather, 3 left                      agent-1, agent-2, rude-1",
        "   2    0 s  agent-1  4      sleeps until 2 s                              agent-2, rude-1           "
        "agent-1 at 2 s",
        "   3    0 s  agent-2  4      sleeps until 1 s                              rude-1                    "
        "agent-2 at 1 s, agent-1 at 2 s",
        "   4    0 s  rude-1   8      sleeps until 0.5 s                                                      "
        "rude-1 at 0.5 s, agent-2 at 1 s, agent-1 at 2 s",
        "   5  0.5 s  rude-1   8-10   blocked the loop for 3 s; sleeps until 3.6 s                            "
        "agent-2 at 1 s (2.5 s late), agent-1 at 2 s (1.5 s late), rude-1 at 3.6 s",
        "   6  3.5 s  agent-2  4-5    returned 1                                    agent-1                   "
        "rude-1 at 3.6 s",
        "   7  3.5 s  agent-1  4-5    returned 2                                                              "
        "rude-1 at 3.6 s",
        "   8  3.6 s  rude-1   10     ended                                         team",
        "   9  3.6 s  team     13     returned [2, 1, None]",
        "team returned [2, 1, None]",
    ]


def test_trace_says_who_waits_for_what(cell: dict[str, Any]) -> None:
    """A lock, a queue, an event, a task and a timeout are told by name, and so is who goes on because of whom."""
    run = trace(cell["waits"])
    fourth = {each.task: each.what for each in run.steps[3].states}
    assert fourth == {
        "waits": "waits for reader-1",
        "holder-1": "waits for Event.wait",
        "second-1": "waits for Lock.acquire",
        "reader-1": "waits for Queue.get",
    }
    assert [str(timer) for timer in run.steps[3].timers] == ["timeout of reader-1 at 3 s"]
    assert [(s.task, s.started) for s in run.steps[4:7]] == [
        ("timeout of reader-1", 3.0),
        ("reader-1", 3.0),
        ("holder-1", 3.0),
    ]
    assert run.outcome == "returned None"


def test_trace_of_a_failure_tells_it_to_the_end(cell: dict[str, Any]) -> None:
    """An error is part of the table: who raised, who was cancelled and cleaned up, what became of the whole."""
    run = trace(cell["fails"])
    what = {each.task: each.what for each in run.steps[-1].states}
    assert what["<i>bad</i>"] == "raised ValueError('<b>no</b>')"
    assert what["late-1"] == "was cancelled"
    assert isinstance(run.error, ExceptionGroup)
    assert run.steps[-1].started == 2.0, "the clean-up of late takes its second"


def test_trace_of_a_deadlock_shows_who_waits(cell: dict[str, Any]) -> None:
    """Nothing hangs, and the last step says for what."""
    run = trace(cell["stuck"])
    assert isinstance(run.error, Deadlock)
    assert run.outcome == "got stuck: at 0 s every task waits for something that can never come"
    assert run.steps[-1].then == "waits for Event.wait"


def test_trace_in_a_running_loop_is_the_same(cell: dict[str, Any]) -> None:
    """A cell has a loop running already; the trace takes a thread of its own, which is gone afterwards."""
    before = threading.active_count()

    async def in_a_cell() -> LoopTrace:
        return trace(cell["team"])

    assert repr(asyncio.run(in_a_cell())) == repr(trace(cell["team"]))
    assert threading.active_count() == before


def test_trace_refuses_a_coroutine(cell: dict[str, Any]) -> None:
    """`trace(team())` gets an error that says what to write, and leaves no coroutine never awaited."""
    with pytest.raises(TypeError, match=r"write trace\(main, argument\), not trace\(main\(argument\)\)"):
        trace(cell["team"]())


def test_trace_rows_and_html_say_the_same(cell: dict[str, Any]) -> None:
    """One dict per step; markup in names and errors is escaped."""
    rows = trace(cell["team"]).rows()
    assert rows[4] | {"timers": 0} == {
        "step": 5,
        "time": 0.5,
        "blocked": 3.0,
        "task": "rude-1",
        "lines": "8-10",
        "then": "sleeps until 3.6 s",
        "ready": [],
        "timers": 0,
    }
    table = trace(cell["fails"])._repr_html_()
    assert "<i>bad" not in table
    assert "&lt;i&gt;bad" in table


@given(st.lists(st.lists(st.sampled_from([0, 0, 0.5, 1, 2]), max_size=3), min_size=1, max_size=4))
@settings(max_examples=40)
def test_trace_order_is_that_of_the_loop(naps: list[list[float]]) -> None:
    """Whatever the agents do, the trace's order and times are those of the same run untraced."""
    seen: list[tuple[int, float]] = []

    async def agent(number: int) -> None:
        seen.append((number, asyncio.get_running_loop().time()))
        for nap in naps[number]:
            await asyncio.sleep(nap)
            seen.append((number, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(*(agent(i) for i in range(len(naps))))

    simulate(main)
    untraced = seen[:]
    seen.clear()
    run = trace(main)
    assert seen == untraced
    taken = [(int(s.task[6:]) - 1, s.started) for s in run.steps if s.task.startswith("agent-")]
    assert taken == untraced
    for step, following in zip(run.steps, run.steps[1:], strict=False):
        if step.ready:
            assert step.ready[0] == following.task, "the head of the queue goes next"
        else:
            assert following.started >= step.ended


# --- block


def test_block_holds_up_a_virtual_loop_only() -> None:
    """The clock moves by exactly the seconds given, and a timer due meanwhile goes off late."""

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        late: list[float] = []
        loop.call_later(1, lambda: late.append(loop.time()))
        block(3)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return loop.time(), late[0]

    assert simulate(main) == (3.0, 3.0)
    with pytest.raises(ValueError, match="seconds must be 0 or more, got -1"):
        block(-1)


def test_block_is_put_back_after_a_trace(cell: dict[str, Any]) -> None:
    """`time.sleep` is Python's own again, also after a run that failed."""
    own = time.sleep
    for name in ("team", "fails", "stuck"):
        trace(cell[name])
        assert time.sleep is own


def test_trace_leaves_random_and_tracing_alone(cell: dict[str, Any]) -> None:
    """Neither the dice nor the debugger notice that there was a trace."""
    import sys

    random.seed(5)
    state, tracer = random.getstate(), sys.gettrace()
    trace(cell["team"])
    assert (random.getstate(), sys.gettrace()) == (state, tracer)


# --- the widget


def test_Stepper_shows_the_step_of_its_value(cell: dict[str, Any]) -> None:
    """Panel, repr and text/plain follow `.value`; the facts are not cut off."""
    walk = Stepper(cell["team"])
    assert repr(walk) == (
        "<Stepper step 1 of 9 at 0 s: team runs line 13, waits for gather, 3 left; "
        "ready: agent-1, agent-2, rude-1; timers: none>"
    )
    walk.value = 5
    assert repr(walk) == (
        "<Stepper step 5 of 9 at 0.5 s: rude-1 runs lines 8-10, blocks the loop for 3 s, sleeps until 3.6 s; ready: "
        "nobody; timers: agent-2 at 1 s (2.5 s late), agent-1 at 2 s (1.5 s late), rude-1 at 3.6 s>"
    )
    assert walk._repr_mimebundle_()["text/plain"] == repr(walk)
    assert walk._panel.value == panel(walk.trace, 5)
    assert "blocks the loop for 3 s" in walk._panel.value
    assert "agent-2</code></td>" in walk._panel.value
    assert "is held up, its sleep was over at 1 s" in walk._panel.value
    assert "the timers that are due come next" in walk._panel.value


def test_Stepper_buttons_move_and_stop_at_the_ends(cell: dict[str, Any]) -> None:
    """Next and back move by one; at an end the button that leads nowhere is disabled and does nothing."""
    walk = Stepper(cell["stuck"])
    assert (walk._back.disabled, walk._next.disabled) == (True, True)
    walk = Stepper(cell["team"])
    walk._next.click()
    walk._next.click()
    walk._back.click()
    assert (walk.value, walk._back.disabled, walk._next.disabled) == (2, False, False)
    walk.value = 9
    walk._next.click()
    assert (walk.value, walk._next.disabled) == (9, True)
    with pytest.raises(ValueError, match="from 1 to 9, got 10"):
        walk.value = 10


def test_Stepper_marks_the_lines_and_escapes_the_rest(cell: dict[str, Any]) -> None:
    """The line that ran last has a sign, tasks stand at theirs, and markup stays text."""
    walk = Stepper(cell["team"])
    walk.value = 5
    assert "▶ 10<" in walk._panel.value
    assert "◂ agent-1, agent-2" in walk._panel.value
    walk = Stepper(cell["fails"])
    walk.value = walk._slider.max
    assert "<b>no" not in walk._panel.value
    assert html.escape("<i>bad</i>") in walk._panel.value


def test_Stepper_facts_tell_runs_apart(cell: dict[str, Any]) -> None:
    """Other seconds, another order, a blocking call more: each changes what nbval compares."""

    async def team(first: float, second: float, rude: float) -> None:
        async def agent(seconds: float) -> None:
            await asyncio.sleep(seconds)

        slow, quick = asyncio.create_task(agent(first)), asyncio.create_task(agent(second))
        await asyncio.sleep(0)
        block(rude)
        await slow
        await quick

    told = set()
    for args in ((2, 1, 0), (1, 2, 0), (2, 1, 0.5), (2, 1.5, 0)):
        walk = Stepper(team, *args)
        walk.value = 4
        told.add(repr(walk))
    assert len(told) == 4


def test_Stepper_of_many_agents_stays_readable() -> None:
    """A hundred agents: queues and lanes are cut with a count of the rest."""

    async def agent() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        await asyncio.gather(*(agent() for _ in range(100)))

    walk = Stepper(main)
    assert "and 95 more" in repr(walk)
    assert len(walk._panel.value) < 30_000
