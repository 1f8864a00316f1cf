"""Agents that block the loop: who they are, and for how long."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading

import pytest

from agentkit import ParallelAgentExecutor
from agentkit.lab import simulate
from agentkit.report import Report
from agentkit.report.stalls import Stall, StallDetector, line_of

A, B = (1, "line 1 of a"), (2, "line 2 of b")


def detected(checks, beat):
    """For each (t, busy), check at second t and find the loop running `busy`; then beat. Return the stalls."""
    found = iter([busy for _, busy in checks])
    detector = StallDetector(lambda: next(found), began=0.0)
    for now, _ in checks:
        detector.check(now)
    detector.beat(beat)
    return [(round(stall.seconds, 3), stall.task_id) for stall in detector.stalls]


@pytest.mark.parametrize(
    ("checks", "beat", "stalls"),
    [
        ([(0.2, A)], 3.0, [(3.0, 1)]),
        ([(0.2, A), (0.3, A), (0.4, A)], 0.45, [(0.45, 1)]),
        ([(0.2, A), (1.0, B)], 2.5, [(1.0, 1), (1.5, 2)]),  # one after the other, without the loop in between
        ([(0.2, None), (4.95, None), (5.0, A)], 5.5, [(0.55, 1)]),  # something else held the loop first
        ([(0.2, A), (1.0, None)], 9.0, [(1.0, 1)]),
        ([(0.2, None), (0.3, None)], 9.0, []),  # nobody of this run
    ],
)
def test_StallDetector_charges_each_stretch_to_the_agent_seen_in_it(checks, beat, stalls):
    """From the last beat, or from the look that found another one at work."""
    assert detected(checks, beat) == stalls


def test_StallDetector_ignores_a_loop_that_beats_in_time():
    """A loop that comes round is not asked who is in it, however long the run takes."""
    detector = StallDetector(lambda: pytest.fail("asked"), began=0.0)
    for tick in range(1, 200):
        detector.check(now=tick * 0.05 + 0.04)
        detector.beat(now=tick * 0.05 + 0.05)
    assert detector.stalls == []


def test_StallDetector_keeps_a_bounded_number():
    """A run of a million blocking agents does not fill the memory with their names."""
    detector = StallDetector(lambda: A, began=0.0)
    for turn in range(1200):
        detector.check(now=turn + 0.5)
        detector.beat(now=turn + 1.0)
    assert len(detector.stalls) == 1000


def test_line_of_names_the_line_of_the_agent():
    """Not that of what it calls."""
    assert line_of(sys._getframe()).startswith("line ")
    assert line_of(None) == "somewhere"


def hold_until_seen(run):
    """Block the loop, as a call of a blocking client would, until the detector has noticed."""
    detector, tick = run._monitor.detector, threading.Event()
    while detector._suspect is None:
        tick.wait(0.001)


def test_run_names_the_agent_that_blocks_the_loop():
    """The one task of three that blocks is in `report.stalls`, with the seconds and the line."""

    async def agent(task):
        await asyncio.sleep(0)
        if task == "blocks":
            hold_until_seen(run)

    async def main():
        nonlocal run
        run = ParallelAgentExecutor(2).start(["waits", "blocks", "waits"], agent)
        return await run

    run = None
    [stall] = asyncio.run(main()).stalls
    assert stall.task_id == 1
    assert stall.seconds > 0.1
    assert "agent in tests.test_stalls" in stall.where
    assert run.stalls == [stall]


def test_run_logs_a_grave_stall_once(caplog):
    """With the task, the seconds, the line, and what to do."""

    async def agent(task):
        if task == "a":
            detector = run._monitor.detector
            detector._last_beat = detector._since = (
                detector._last_beat - 5
            )  # as if the loop had been held for five seconds so far
            hold_until_seen(run)

    async def main():
        nonlocal run
        run = ParallelAgentExecutor(1).start(["a", "b"], agent)
        return await run

    run = None
    with caplog.at_level(logging.WARNING, logger="agentkit"):
        report = asyncio.run(main())
    assert report.stalls[0].seconds > 5
    [record] = caplog.records
    assert record.getMessage().startswith("task 0 kept the event loop for 5")
    assert "make the agent a plain function" in record.getMessage()


def test_run_watches_neither_virtual_time_nor_serial_runs_nor_after_its_end():
    """In virtual time blocking takes no time; a serial run blocks on purpose."""

    async def agent(task):
        await asyncio.sleep(task)

    async def main(**how):
        run = ParallelAgentExecutor(**how).start([0, 0], agent)
        return await run, run._monitor

    assert simulate(main)[1] is None
    assert asyncio.run(main(max_concurrency=0))[1] is None
    _, monitor = asyncio.run(main())
    assert monitor._timer.cancelled()


def test_report_made_by_hand_has_no_stalls():
    """Stalls are known of runs only."""
    assert Report([]).stalls == ()
    assert repr(Stall(0.25, 3, "line 9 of ask in notes")) == "<Stall: 0.25 s in task 3, line 9 of ask in notes>"
