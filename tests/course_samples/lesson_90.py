"""A lesson file as a teacher writes it: two exercises, their wrong answers, a quiz. The tests use it."""

from __future__ import annotations

import asyncio

from agentkit.lab.course import Exercise, Question, case, swap


class Flight:
    """Jobs that count how many of them are in flight."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    async def job(self) -> str:
        """Wait a second."""
        self.now += 1
        self.peak = max(self.peak, self.now)
        await asyncio.sleep(1)
        self.now -= 1
        return "done"


@case(within=60)
async def at_most_k(limited):
    """At most k jobs are in flight."""
    flight = Flight()
    await limited([flight.job] * 9, 3)
    assert flight.peak <= 3, f"{flight.peak} were in flight with k = 3"


async def as_many_as_allowed(limited):
    """Three jobs with k = 3 take as long as one."""
    loop = asyncio.get_running_loop()
    await limited([Flight().job] * 3, 3)
    assert loop.time() == 1, f"they took {loop.time():g} s instead of 1 s"


async def in_order(limited):
    """The results come in the order of the jobs."""

    async def slow():
        await asyncio.sleep(5)
        return "slow"

    async def fast():
        return "fast"

    got = await limited([slow, fast], 2)
    assert got == ["slow", "fast"], f"got {got}"


async def errors_come_out(limited):
    """An error of a job comes out of the call."""

    async def broken():
        raise RuntimeError("broken")

    try:
        got = await limited([broken], 1)
    except RuntimeError:
        return
    raise AssertionError(f"the error was swallowed, the call returned {got}")


async def unlimited(jobs, k):
    """Start everything at once."""
    return await asyncio.gather(*(job() for job in jobs))


async def one_by_one(jobs, k):
    """Run them in sequence."""
    return [await job() for job in jobs]


def is_makespan(total):
    """The total is the time of the longest wait."""
    assert total == 5, f"got {total}"


def is_number(total):
    """The total is a number, in seconds."""
    assert isinstance(total, int | float), f"got {total!r}"


EXERCISES = {
    "ex-limit": Exercise(
        cases=[at_most_k, as_many_as_allowed, in_order],
        hidden=[errors_come_out],
        wrong=[
            unlimited,
            one_by_one,
            swap("return await job()", "return (await asyncio.gather(job(), return_exceptions=True))[0]"),
            "async def limited(jobs, k):\n    while True:\n        await asyncio.sleep(1)",
        ],
        hints=("What counts how many are inside?", "A semaphore: enter it in each job.", "async with gate: ..."),
    ),
    "ex-total": Exercise(
        cases=[is_makespan],
        hidden=[is_number],
        wrong=[10, 3, "total = 'five'"],
        hints=("They wait together.", "Which one ends last?", "total = max(…)"),
    ),
}
QUIZ = [
    Question(
        "Three waits of 2, 3 and 5 s in one gather take",
        right="5 s",
        because="they wait together, and the longest ends last",
        wrong={"10 s": "that is the sum, the time in sequence", "3 s": "the longest wait is not cut short"},
    ),
    Question(
        "A semaphore of 5 bounds",
        right="how many are in flight",
        because="the sixth waits until one leaves",
        wrong={
            "how many start per minute": "that depends on how long each takes",
            "the queue": "waiting is not bounded",
        },
    ),
]
