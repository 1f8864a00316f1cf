"""Checks of notebook 06, threads and pools: a pool with a bound and a clean end, and a counter for threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from agentkit.lab.course.exercise import Exercise, Question, swap

__all__ = ["EXERCISES", "QUIZ", "Meddling", "at_once", "in_threads"]

PATIENCE = 0.6  # seconds to wait for what must happen, on a busy machine too
SHORT = 0.2  # seconds after which something that must not happen is taken not to happen

RUN_ID: contextvars.ContextVar[str] = contextvars.ContextVar("run_id", default="lost")


async def at_once(tool_pool: Any, threads: int, calls: int, expected: int, patience: float) -> bool:
    """Tell whether so many as expected of the calls are at work at the same time."""
    together = threading.Barrier(expected)

    def tool() -> bool:
        return together.wait(patience) >= 0  # it raises if they do not come

    async with tool_pool(threads) as tools:
        return True in await asyncio.gather(*(tools.call(tool) for _ in range(calls)), return_exceptions=True)


def threads_are_used(tool_pool: Any) -> None:
    """Three tools are at work at the same time with three threads."""
    assert asyncio.run(at_once(tool_pool, 3, 3, 3, PATIENCE)), "fewer than three were at work at the same time"


def never_more(tool_pool: Any) -> None:
    """With two threads, never more than two of six tools are at work."""
    assert not asyncio.run(at_once(tool_pool, 2, 6, 3, SHORT)), "three were at work with two threads"


def loop_goes_on(tool_pool: Any) -> None:
    """The loop goes on while a tool is at work."""

    async def main() -> bool:
        turn = threading.Event()
        asyncio.get_running_loop().call_later(0.01, turn.set)
        async with tool_pool(1) as tools:
            return bool(await tools.call(turn.wait, PATIENCE))

    assert asyncio.run(main()), "the loop stood still until the tool was done"


async def _left_early(tool_pool: Any) -> tuple[bool | None, bool]:
    """Leave the block with a tool at work; return whether it saw the loop turn, and whether it had ended by then."""
    begun, turn, ended, saw = threading.Event(), threading.Event(), threading.Event(), []

    def tool() -> None:
        begun.set()
        saw.append(turn.wait(PATIENCE))
        ended.set()

    async with tool_pool(1) as tools:
        call = asyncio.ensure_future(tools.call(tool))
        await asyncio.to_thread(begun.wait, PATIENCE)
        asyncio.get_running_loop().call_later(0.05, turn.set)
    had_ended = ended.is_set()
    await asyncio.wait([call])
    return (saw[0] if saw else None), had_ended


def leaving_waits(tool_pool: Any) -> None:
    """Leaving the block waits for a tool that is still at work."""
    assert asyncio.run(_left_early(tool_pool))[1], "the block was left, and the tool went on"


def leaving_lets_the_loop_go_on(tool_pool: Any) -> None:
    """While the block is being left, the loop goes on."""
    assert asyncio.run(_left_early(tool_pool))[0], "the loop stood still until the tool was done"


def no_thread_is_left(tool_pool: Any) -> None:
    """Afterwards none of its threads is left, also when the block ends with an error, which comes out."""
    before, kept = set(threading.enumerate()), []

    async def main() -> bool:
        with suppress(ValueError):
            async with tool_pool(2) as tools:
                kept.append(tools)
                await tools.call(int, "no number")
            return False
        return True

    assert asyncio.run(main()), "the tool raised a ValueError, and none came out of the block"
    left = set(threading.enumerate()) - before
    assert not left, f"{len(left)} of its threads were still there"


def context_goes_along(tool_pool: Any) -> None:
    """A tool sees the context variables of the agent that calls it, and gets its arguments."""

    def tool(first: str, second: str) -> str:
        return f"{RUN_ID.get()} {first} {second}"

    async def main() -> list[str]:
        async with tool_pool(2) as tools:

            async def agent(name: str) -> str:
                RUN_ID.set(name)
                return str(await tools.call(tool, "why", "how"))

            return list(await asyncio.gather(agent("run-7"), agent("run-8")))

    got = asyncio.run(main())
    assert got == ["run-7 why how", "run-8 why how"], f"the tools of run-7 and run-8 got {got}"


class Meddling(int):
    """An amount that, the n-th time it is added to something, waits for another thread to be just as far.

    It makes certain what is rare: two threads that have both read, and neither has written. If nobody can come, since
    a lock keeps them out, it goes on after a while.
    """

    meeting: threading.Barrier
    nth: int

    @classmethod
    def pair(cls, nth: int) -> tuple[Meddling, Meddling]:
        """Two ones that meet."""
        meeting, pair = threading.Barrier(2), (cls(1), cls(1))
        for amount in pair:
            amount.meeting, amount.nth = meeting, nth
        return pair

    def __radd__(self, other: int) -> int:  # called before the other's __add__, which has been read by then
        self.nth -= 1
        if self.nth == 0:
            with suppress(threading.BrokenBarrierError):
                self.meeting.wait(SHORT)
        return int(other) + int(self)

    __add__ = __radd__


def in_threads(take: Callable[[Any], Any], amounts: Any) -> list[Any]:
    """Take each amount in a thread of its own; return what came or was raised, None for a thread that did not end."""
    got: list[Any] = [None] * len(amounts)

    def one(place: int, amount: Any) -> None:
        try:
            got[place] = take(amount)
        except Exception as error:
            got[place] = error

    threads = [threading.Thread(target=one, args=each, daemon=True) for each in enumerate(amounts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    return got


def one_gets_the_last(call_counter: Any) -> None:
    """Two threads ask for the last call: one gets it, and one is counted."""
    for nth in (1, 2):
        counter = call_counter(1)
        got = in_threads(counter.take, Meddling.pair(nth))
        assert sorted(map(str, got)) == ["False", "True"], f"the two threads got {got}"
        assert counter.used == 1, f"with a limit of 1, used was {counter.used}"


def none_is_lost(call_counter: Any) -> None:
    """Two threads take one each of ten: two are counted."""
    for nth in (1, 2):
        counter = call_counter(10)
        got = in_threads(counter.take, Meddling.pair(nth))
        assert got == [True, True], f"the two threads got {got}"
        assert counter.used == 2, f"used was {counter.used}"


def what_does_not_fit(call_counter: Any) -> None:
    """With a limit of 3: 2 fit, 2 more do not and are not counted, 1 more fits."""
    counter = call_counter(3)
    got = [counter.take(2), counter.take(2), counter.take(1)]
    assert got == [True, False, True], f"take(2), take(2), take(1) gave {got}"
    assert counter.used == 3, f"used was {counter.used}"


def error_in_take(call_counter: Any) -> None:
    """After an error inside `take` the counter goes on working."""
    counter = call_counter(3)
    with suppress(TypeError):
        counter.take("one")
    [got] = in_threads(counter.take, [1])
    assert got is True, 'take("one") raised, and the next take never came back' if got is None else f"it gave {got!r}"


CALL = "run_in_executor(self.threads, run, tool, *args)"
LEAVE = "await asyncio.to_thread(self.threads.shutdown)"

CHECK = """        with self.lock:
            if self.used + amount > self.limit:
                return False
            self.used += amount
            return True"""
BY_HAND = """        self.lock.acquire()
        fits = self.used + amount <= self.limit
        if fits:
            self.used += amount
        self.lock.release()
        return fits"""

EXERCISES = {
    "ex-tools": Exercise(
        cases=[threads_are_used, never_more, loop_goes_on, leaving_waits, leaving_lets_the_loop_go_on],
        hidden=[no_thread_is_left, context_goes_along],
        wrong=[
            swap(CALL, "run_in_executor(None, run, tool, *args)"),
            swap(f"return await asyncio.get_running_loop().{CALL}", "return tool(*args)"),
            swap(CALL, "run_in_executor(self.threads, tool, *args)"),
            swap(f"await asyncio.get_running_loop().{CALL}", "self.threads.submit(run, tool, *args).result()"),
            swap("ThreadPoolExecutor(threads)", "ThreadPoolExecutor()"),
            swap("ThreadPoolExecutor(threads)", "ThreadPoolExecutor(1)"),
            swap(LEAVE, "self.threads.shutdown()"),
            swap(LEAVE, "self.threads.shutdown(wait=False)"),
            swap(LEAVE, "pass"),
            swap(LEAVE, f"{LEAVE}\n        return True"),
        ],
        hints=(
            "Which of the six ways to a tool uses your own pool and keeps the run id? And who may wait for shutdown()?",
            "call: run_in_executor with self.threads, and context.run as the function. __aexit__: shutdown() blocks, "
            "so it is itself a tool for a thread.",
            "run = contextvars.copy_context().run … run_in_executor(self.threads, run, tool, *args) … "
            "await asyncio.to_thread(self.threads.shutdown)",
        ),
    ),
    "ex-counter": Exercise(
        cases=[one_gets_the_last, none_is_lost, what_does_not_fit],
        hidden=[error_in_take],
        wrong=[
            swap("with self.lock:", "if True:"),
            swap("with self.lock:", "with threading.Lock():"),
            swap("            self.used += amount\n            return", "        self.used += amount\n        return"),
            swap(
                "with self.lock:\n            if self.used + amount > self.limit:\n                return False\n",
                "if self.used + amount > self.limit:\n            return False\n        with self.lock:\n",
            ),
            swap(CHECK, BY_HAND),
            swap("> self.limit", ">= self.limit"),
            swap("                return False", "                return True"),
            swap("            if self.used + amount > self.limit:\n                return False\n", ""),
        ],
        hints=(
            "Between which two lines may another thread come in, and what has it seen by then?",
            "One lock for the counter, made in __init__, and held from the first read of used to the last write.",
            "self.lock = threading.Lock() … with self.lock: and in it the check, the addition and both returns.",
        ),
    ),
}

QUIZ = [
    Question(
        "An agent calls a tool that blocks for 3 s, without a thread. The other agents on its loop",
        right="stand still for 3 s, timeouts included",
        because="the loop has one thread, and the tool has it",
        wrong={"go on": "that is so with await, or in a thread", "go on, if in a gather": "gather makes no thread"},
    ),
    Question(
        "A hundred to_thread calls on a machine with two cores run in",
        right="6 threads",
        because="the loop's own pool has min(32, cores + 4)",
        wrong={"100 threads": "they come from a pool, one for all calls", "2 threads": "waiting needs no core"},
    ),
    Question(
        "wait_for(to_thread(tool), 5) raises TimeoutError. The tool",
        right="runs on to its end",
        because="nobody can stop a thread; only the waiting was cancelled",
        wrong={
            "is stopped at its next line": "a cancellation is raised at an await, and a thread has none",
            "is stopped when the loop closes": "asyncio.run even waits for it",
        },
    ),
    Question(
        "A tool spends its time in plain Python code. What makes eight of them faster on eight cores?",
        right="processes",
        because="each has a GIL of its own",
        wrong={
            "threads": "one at a time runs Python code",
            "async def and gather": "that overlaps waits; nobody waits",
        },
    ),
    Question(
        "Many threads append to one list and add to one counter with read, add, write. What needs a lock?",
        right="the counter",
        because="another thread may write between its read and its write; append is one step",
        wrong={"both": "an append cannot be cut in two", "neither, with the GIL": "it keeps one step whole, not three"},
    ),
]
