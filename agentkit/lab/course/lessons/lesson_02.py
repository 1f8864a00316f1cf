"""Checks of notebook 02, inside the event loop: an agent that freezes the others, and a loop in fifteen lines.

The analyst is tried on a real loop with real threads. What counts is whether another agent took steps meanwhile, never
how long anything took; a wait has a bound only so that a loop that stands still is noticed.
"""

from __future__ import annotations

import asyncio
import random
import threading
import types
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

from agentkit.lab.course.exercise import Exercise, Question, swap
from agentkit.lab.loops.virtual import simulate

__all__ = ["EXERCISES", "QUIZ", "Diary", "Office", "pause"]

Analyst = Callable[[Any, Any, str], Awaitable[Any]]
PATIENCE = 2.0  # real seconds until a tool in a thread gives up; only wrong answers need them
PAGES = ("one", "two", "three", "four")


# -- ex-freeze --------------------------------------------------------------------------------------------------------
class Office:
    """Analysts beside an agent that is always ready, and tools that note how many steps it took."""

    def __init__(self, analyst: Analyst) -> None:
        self.analyst = analyst
        self.steps = self.during = 0
        self.digested: list[int | None] = []  # steps of the other so far, or None if it is done in a thread
        self._enough, self._wanted, self._own = threading.Event(), 0, threading.get_ident()

    def run(self, fetch: Any, analysts: int = 1) -> list[Any]:
        """Run analysts on a real loop and return their answers."""

        async def main() -> list[Any]:
            self.other = asyncio.ensure_future(self._other())
            return await asyncio.gather(*(self.analyst(fetch, self.digest, "report") for _ in range(analysts)))

        return asyncio.run(main())

    async def _other(self) -> None:
        while True:
            self.steps += 1
            if 0 < self._wanted <= self.steps:
                self._enough.set()
            await asyncio.sleep(0)

    def on_the_loop(self) -> bool:
        """Whether this runs in the loop's own thread."""
        return threading.get_ident() == self._own

    def fetch(self, url: str) -> list[str]:
        """Return the pages."""
        return [f"{url} {page}" for page in PAGES]

    def slow_fetch(self, url: str) -> list[str]:
        """Block until the other has taken five steps; in the loop's thread it never will, so do not wait there."""
        before, self._wanted = self.steps, self.steps + 5
        if not self.on_the_loop():
            self._enough.wait(PATIENCE)
        self.during = self.steps - before
        return self.fetch(url)

    def digest(self, page: str) -> str:
        """Compute for a moment."""
        self.digested.append(self.steps if self.on_the_loop() else None)
        return page.upper()


def steps_during_the_fetch(analyst: Analyst) -> None:
    """The others take steps during the fetch."""
    office = Office(analyst)
    office.run(office.slow_fetch)
    assert office.during >= 5, "another agent, always ready, took none between its beginning and its end"


def steps_between_pages(analyst: Analyst) -> None:
    """Between two pages the others take a step."""
    office = Office(analyst)
    office.run(office.fetch)
    steps = [step for step in office.digested if step is not None]
    together = sum(a == b for a, b in pairwise(steps))
    assert not together, f"{together + 1} pages were digested without one"


def digests_in_order(analyst: Analyst) -> None:
    """The digests come back, in the order of the pages."""
    office = Office(analyst)
    [answer] = office.run(office.fetch)
    assert answer == [f"REPORT {page.upper()}" for page in PAGES], f"the answer was {answer!r}"


def two_at_once(analyst: Analyst) -> None:
    """Two analysts fetch at the same time."""
    office, two = Office(analyst), threading.Barrier(2)

    def fetch(url: str) -> list[str]:
        two.wait(0 if office.on_the_loop() else PATIENCE)
        return [url]

    try:
        office.run(fetch, analysts=2)
    except threading.BrokenBarrierError:
        raise AssertionError("the first fetch was over before the second began") from None


def errors_come_out(analyst: Analyst) -> None:
    """An error of the fetch reaches the caller."""

    def fetch(url: str) -> list[str]:
        raise ConnectionError(url)

    with suppress(ConnectionError):
        raise AssertionError(f"fetch failed, and the analyst returned {Office(analyst).run(fetch)[0]!r}")


# -- ex-loop ----------------------------------------------------------------------------------------------------------
@types.coroutine
def pause(seconds: float) -> Generator[float, None, None]:
    """Pause; the driver is handed the seconds."""
    yield seconds


class Diary:
    """A learner's loop, and the steps that agents took on it."""

    def __init__(self, loop_class: Any) -> None:
        self.loop, self.steps = loop_class(), list[tuple[float, str]]()

    async def agent(self, name: str, waits: Sequence[float], sleep: Any, now: Callable[[], float]) -> str:
        """Sleep some times, and note each step."""
        self.steps.append((now(), name))
        for seconds in waits:
            await sleep(seconds)
            self.steps.append((now(), name))
        return name.upper()

    def run(self, team: Mapping[str, Sequence[float]], *more: Any) -> Any:
        """Run an agent for each name, and more coroutines; what the loop has not run is closed."""
        agents = [*(self.agent(name, waits, pause, lambda: self.loop.now) for name, waits in team.items()), *more]
        try:
            return self.loop.run(*agents)
        finally:
            for agent in agents:
                agent.close()

    async def on_asyncio(self, team: Mapping[str, Sequence[float]]) -> None:
        """Run the same agents on asyncio's loop."""
        now = asyncio.get_running_loop().time
        await asyncio.gather(*(self.agent(name, waits, asyncio.sleep, now) for name, waits in team.items()))


def takes_steps(loop_class: Any) -> None:
    """Each goes on when its pause is over; while all pause, the clock jumps to the first of them."""
    diary = Diary(loop_class)
    diary.run({"a": [2, 7200], "b": [1, 1.5]})
    wanted = [(0, "a"), (0, "b"), (1, "b"), (2, "a"), (2.5, "b"), (7202, "a")]
    assert diary.steps == wanted, f"with pauses of 2, 7200 s (a) and 1, 1.5 s (b) the steps were {diary.steps}"


def answers_in_order(loop_class: Any) -> None:
    """What each returned is returned, in the order of the coroutines."""
    answers = Diary(loop_class).run({"a": [3], "b": [1], "c": [2]})
    assert answers == ["A", "B", "C"], f"for agents that return A, B and C it returned {answers!r}"


def first_come_first_served(loop_class: Any) -> None:
    """Of those due at the same instant, the first to pause goes on first."""
    diary = Diary(loop_class)
    diary.run({name: [2] for name in "faebdc"})
    order = "".join(name for when, name in diary.steps if when == 2)
    assert order == "faebdc", f"f, a, e, b, d, c paused for 2 s, in this order; they went on in the order {order!r}"


def errors_are_kept(loop_class: Any) -> None:
    """An agent that fails leaves its error in its place, and the others go on."""
    wrong = ValueError("no JSON")

    async def critic() -> None:
        await pause(1)
        raise wrong

    answers = Diary(loop_class).run({"a": [2]}, critic())
    assert answers == ["A", wrong], f"the first ended at 2 s, the second failed at 1 s; run returned {answers!r}"


def clock_never_goes_back(loop_class: Any) -> None:
    """A blocking agent makes the others late, and the clock never goes back."""
    diary = Diary(loop_class)

    async def rude() -> None:
        await pause(1)
        diary.loop.now += 5

    diary.run({"a": [2]}, rude())
    assert diary.steps[-1] == (6, "a"), f"blocked from 1 to 6 s, with a due at 2 s; the steps were {diary.steps}"


def asyncios_order(loop_class: Any) -> None:
    """Twenty random teams take their steps in asyncio's order."""
    dice = random.Random(2)
    for _ in range(20):
        team = {name: [dice.choice([0, 0.5, 1, 2]) for _ in range(dice.randrange(4))] for name in "abcde"}
        yours, theirs = Diary(loop_class), Diary(loop_class)
        yours.run(team)
        simulate(theirs.on_asyncio, team)
        assert yours.steps == theirs.steps, f"not so with the pauses {team}"


FETCH, SEND, ZERO = "await asyncio.to_thread(fetch, url)", "coroutine.send(None)", "        await asyncio.sleep(0)"
POOL = "__import__('concurrent.futures').futures.ThreadPoolExecutor(1)"
GATED = """GATE = asyncio.Lock()
async def analyst(fetch, digest, url):
    async with GATE:
        pages = await asyncio.to_thread(fetch, url)
    return await asyncio.to_thread(list, map(digest, pages))"""
WRAPPED = "async def get():\n        return fetch(url)\n    pages = await get()"
CAUGHT = f"try:\n        pages = {FETCH}\n    except OSError:\n        pages = []"

EXERCISES = {
    "ex-freeze": Exercise(
        cases=[steps_during_the_fetch, steps_between_pages, digests_in_order],
        hidden=[two_at_once, errors_come_out],
        wrong=[
            swap(FETCH, "fetch(url)"),
            swap(f"pages = {FETCH}", WRAPPED),
            swap(FETCH, "await asyncio.to_thread(fetch(url))"),
            swap(FETCH, f"{POOL}.submit(fetch, url).result()"),
            swap(f"pages = {FETCH}", CAUGHT),
            GATED,
            swap(ZERO, ""),
            swap(ZERO, ZERO[4:]),
            swap("digests.append(digest(page))", "digests.insert(0, digest(page))"),
        ],
        hints=(
            "Which two lines keep the thread? Only one of them can be cut into pieces.",
            "Hand the fetch to asyncio.to_thread. Between two pages, go to the end of the ready queue.",
            "pages = await asyncio.to_thread(fetch, url) … for page in pages: … await asyncio.sleep(0)",
        ),
    ),
    "ex-loop": Exercise(
        cases=[takes_steps, answers_in_order, first_come_first_served, errors_are_kept],
        hidden=[clock_never_goes_back, asyncios_order],
        wrong=[
            swap("next(number), ", ""),
            swap("next(number)", "-next(number)"),
            swap("self.now + delay", "delay"),
            swap("max(self.now, timers[0][0])", "timers[0][0]"),
            swap("ready.popleft()", "ready.pop()"),
            swap("= error", "= None"),
            swap("[ended[coroutine] for coroutine in coroutines]", "list(ended.values())"),
            swap(f"delay = {SEND}", f"while not (delay := {SEND}):\n                    pass"),
        ],
        hints=(
            "Each coroutine is ready, or paused until an instant. Which list is which?",
            "If nobody is ready, move the clock and take one from the heap. Then send None to the first that is ready.",
            "delay = coroutine.send(None) … heapq.heappush(timers, (self.now + delay, next(number), coroutine)) … "
            "self.now = max(self.now, timers[0][0])",
        ),
    ),
}

QUIZ = [
    Question(
        "A coroutine that was called, and not awaited, has run",
        right="nothing yet",
        because="a call only makes it; a driver has to send it None",
        wrong={"its first line": "it stands before that", "up to its first await": "that is its first step"},
    ),
    Question(
        "`await` ends an agent's step",
        right="if what it awaits has to wait",
        because="a cache or a free slot pauses nowhere, and the agent goes straight on",
        wrong={"always": "then a and b had written abab", "when its time is up": "nobody is interrupted"},
    ),
    Question(
        "Agent A sleeps 1 s. At 0.5 s agent B blocks for 3 s. A goes on at",
        right="3.5 s",
        because="its timer is due at 1 s, and the loop is free to look at 3.5 s",
        wrong={"1 s": "it is due then, but the loop is not free", "4.5 s": "its sleep began at 0 s, not at 3.5 s"},
    ),
    Question(
        "A client without await holds up the loop. It helps to",
        right="call it by await asyncio.to_thread(…)",
        because="then it holds up a thread of its own, and the loop goes on",
        wrong={"await an async def around it": "that pauses nowhere", "sleep(0) before it": "one step, then the stall"},
    ),
    Question(
        "Why is there a running number in a timer's entry?",
        right="so that equal instants come in the order they were set",
        because="a heap compares entries from the left, and the number settles a tie",
        wrong={"so that the heap is sorted": "the instants see to that", "to count the steps": "it is only compared"},
    ),
]
