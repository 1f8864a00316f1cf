"""Checks of notebook 03, tasks that fail: keep what came, and a timeout that counts the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from agentkit.lab.course.exercise import Exercise, Question, swap

__all__ = ["EXERCISES", "QUIZ", "Desk", "member"]

AskAll = Callable[[dict[str, Any], str, float], Awaitable[Any]]
AskInTime = Callable[[asyncio.Semaphore, Any, str, float], Awaitable[Any]]


def member(seconds: float, answer: Any) -> Callable[[str], Awaitable[Any]]:
    """Make an agent that answers, or raises the answer if it is an error, after so many seconds."""

    async def agent(question: str) -> Any:
        await asyncio.sleep(seconds)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return agent


def _now() -> float:
    """The clock of the running loop, in seconds."""
    return asyncio.get_running_loop().time()


class Desk:
    """Slots, and an agent that counts how many of it are in flight and how many were cut off."""

    def __init__(self, slots: int, seconds: float) -> None:
        self.gate, self.seconds = asyncio.Semaphore(slots), seconds
        self.in_flight = self.peak = self.cut_off = 0

    async def agent(self, question: str) -> str:
        """Answer after a while."""
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        finally:
            self.in_flight -= 1
        return f"to {question}: yes"

    async def timed(self, ask_in_time: AskInTime, seconds: float) -> tuple[Any, float]:
        """Return what one caller gets, and how long it took."""
        began = _now()
        try:
            got = await ask_in_time(self.gate, self.agent, "why?", seconds)
        except TimeoutError as error:
            got = error
        return got, _now() - began


# -- ex-partial -------------------------------------------------------------------------------------------------------


async def answers_are_kept(ask_all: AskAll) -> None:
    """One agent fails, and the answers of the others are there under their names."""
    team = {"reader": member(1, "yes"), "critic": member(2, ValueError("no JSON")), "writer": member(3, "no")}
    answers, _ = await ask_all(team, "why?", 9)
    assert answers == {"reader": "yes", "writer": "no"}, f"the answers were {answers!r}"


async def errors_are_kept(ask_all: AskAll) -> None:
    """Each failure is kept under its agent's name, as the exception itself."""
    wrong = ValueError("no JSON")
    _, errors = await ask_all({"reader": member(1, "yes"), "critic": member(2, wrong)}, "why?", 9)
    assert errors == {"critic": wrong}, f"the errors were {errors!r}"


async def asked_at_once(ask_all: AskAll) -> None:
    """Agents of 2, 5 and 3 seconds take 5 seconds in all."""
    began = _now()
    await ask_all({str(seconds): member(seconds, "yes") for seconds in (2, 5, 3)}, "why?", 9)
    assert _now() - began == 5, f"they took {_now() - began:g} s"


async def late_is_a_timeout(ask_all: AskAll) -> None:
    """An agent that is too late is a TimeoutError, at the time given, and does not run on."""
    began, desk = _now(), Desk(1, 8)
    answers, errors = await ask_all({"reader": member(1, "yes"), "late": desk.agent}, "why?", 4)
    took = _now() - began
    assert took == 4, f"it took {took:g} s with seconds=4"
    assert answers == {"reader": "yes"}, f"the answers were {answers!r}"
    assert isinstance(errors.get("late"), TimeoutError), f"the errors were {errors!r}"
    await asyncio.sleep(9)
    assert desk.cut_off == 1, "the late agent went on to its end"


async def empty_is_an_answer(ask_all: AskAll) -> None:
    """An empty answer is an answer."""
    answers, errors = await ask_all({"reader": member(1, ""), "critic": member(1, None)}, "why?", 9)
    assert answers == {"reader": "", "critic": None}, f"the answers were {answers!r}, the errors {errors!r}"


async def cancelled_with_its_caller(ask_all: AskAll) -> None:
    """When the caller is cancelled, the agents are too, and the cancellation goes through."""
    desk = Desk(2, 5)
    task = asyncio.ensure_future(ask_all({"reader": desk.agent, "critic": desk.agent}, "why?", 9))
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.wait([task], timeout=20)
    assert task.cancelled(), "ask_all was cancelled and ended as if nothing had been"
    assert desk.cut_off == 2, f"{2 - desk.cut_off} agents went on to their end"


# -- ex-queue ---------------------------------------------------------------------------------------------------------


async def the_line_counts(ask_in_time: AskInTime) -> None:
    """Six calls of 4 s, two slots, 10 s: four are answered, two get a TimeoutError at 10 s."""
    desk = Desk(2, 4)
    got = await asyncio.gather(*(desk.timed(ask_in_time, 10) for _ in range(6)))
    late = [took for answer, took in got if isinstance(answer, TimeoutError)]
    assert late == [10, 10], f"{len(late)} got a TimeoutError, and the six took {[took for _, took in got]} s"


async def at_most_the_slots(ask_in_time: AskInTime) -> None:
    """No more agents are in flight than there are slots."""
    desk = Desk(2, 4)
    await asyncio.gather(*(desk.timed(ask_in_time, 10) for _ in range(6)))
    assert desk.peak <= 2, f"{desk.peak} were in flight with two slots"


async def in_time_is_answered(ask_in_time: AskInTime) -> None:
    """An agent that is in time is answered, with the question that was asked."""
    got, took = await Desk(1, 4).timed(ask_in_time, 10)
    assert (got, took) == ("to why?: yes", 4), f"the caller got {got!r} after {took:g} s"


async def the_late_one_is_stopped(ask_in_time: AskInTime) -> None:
    """An agent in flight at the timeout is cancelled."""
    desk = Desk(1, 40)
    await desk.timed(ask_in_time, 10)
    await asyncio.sleep(50)
    assert desk.cut_off == 1, "it went on to its end"


async def no_slot_is_lost(ask_in_time: AskInTime) -> None:
    """After timeouts, in line and in flight, every slot is free."""
    desk = Desk(2, 40)
    await asyncio.gather(*(desk.timed(ask_in_time, 10) for _ in range(5)))
    desk.seconds = 1
    began = _now()
    await asyncio.wait([asyncio.ensure_future(desk.timed(ask_in_time, 10)) for _ in range(2)])
    assert _now() - began == 1, f"afterwards two calls of 1 s took {_now() - began:g} s"


GATHER = "replies = await asyncio.gather(*map(ask, agents.values()), return_exceptions=True)"
KEPT = "isinstance(reply, BaseException)"

ONE_BY_ONE = """
async def ask_all(agents, question, seconds):
    answers, errors = {}, {}
    for name, agent in agents.items():
        try:
            answers[name] = await asyncio.wait_for(agent(question), seconds)
        except Exception as error:
            errors[name] = error
    return answers, errors
"""

RUNS_ON = """
async def ask_all(agents, question, seconds):
    tasks = {name: asyncio.create_task(agent(question)) for name, agent in agents.items()}
    await asyncio.wait(tasks.values(), timeout=seconds)
    answers, errors = {}, {}
    for name, task in tasks.items():
        if not task.done():
            errors[name] = TimeoutError()
        elif task.exception():
            errors[name] = task.exception()
        else:
            answers[name] = task.result()
    return answers, errors
"""

INSIDE = """    async with gate:
        async with asyncio.timeout(seconds):
            return await agent(question)"""
RIGHT = """    async with asyncio.timeout(seconds):
        async with gate:
            return await agent(question)"""

EXERCISES = {
    "ex-partial": Exercise(
        cases=[answers_are_kept, errors_are_kept, asked_at_once, late_is_a_timeout],
        hidden=[empty_is_an_answer, cancelled_with_its_caller],
        wrong=[
            swap(", return_exceptions=True", ""),
            swap(KEPT, "not reply"),
            swap(KEPT, f"{KEPT} or not reply"),
            swap("kept[name] = reply", "kept[name] = str(reply)"),
            swap("asyncio.timeout(seconds)", "asyncio.timeout(None)"),
            swap("return answers, errors", "return answers, {}"),
            ONE_BY_ONE,
            RUNS_ON,
            swap(
                GATHER, f"try:\n        {GATHER}\n    except BaseException as e:\n        replies = [e] * len(agents)"
            ),
        ],
        hints=(
            "Which way in the table hands over five answers and one error, and what does each agent need of its own?",
            "A small coroutine with a timeout around one agent; gather them with return_exceptions=True; then sort "
            "them by isinstance(reply, BaseException).",
            "async with asyncio.timeout(seconds): return await agent(question) … for name, reply in zip(agents, "
            "replies): …",
        ),
    ),
    "ex-queue": Exercise(
        cases=[the_line_counts, at_most_the_slots, in_time_is_answered],
        hidden=[the_late_one_is_stopped, no_slot_is_lost],
        wrong=[
            swap(RIGHT, INSIDE),
            swap(RIGHT, "    async with asyncio.timeout(seconds):\n        return await agent(question)"),
            swap(RIGHT, "    async with gate:\n        return await agent(question)"),
            swap("await agent(question)", "await asyncio.shield(agent(question))"),
            swap("async with gate:", "if await gate.acquire():"),
            swap("agent(question)", 'agent("")'),
            swap(
                RIGHT,
                "    try:\n        async with asyncio.timeout(seconds), gate:\n            return await "
                "agent(question)\n    except TimeoutError:\n        return None",
            ),
        ],
        hints=(
            "When does the clock of the timeout start to run: before or after the wait for a slot?",
            "What is outside counts what is inside. Which of the two blocks should be the outer one?",
            "async with asyncio.timeout(seconds): and in it async with gate: and in it the call.",
        ),
    ),
}

QUIZ = [
    Question(
        "Six agents in a gather; one fails at 3 s. What do the others do?",
        right="run on, unheard and billed",
        because="gather passes the error to its caller and stops nobody",
        wrong={
            "stop at 3 s": "that is what a TaskGroup makes them do",
            "run on, and gather returns their answers": "only with return_exceptions=True",
        },
    ),
    Question(
        "Around a TaskGroup, an agent's ValueError is caught by",
        right="except* ValueError",
        because="it comes inside an ExceptionGroup, since several agents may fail at once",
        wrong={
            "except ValueError": "that does not look into a group",
            "nothing, it cancels the caller": "the siblings are cancelled, the caller gets the group",
        },
    ),
    Question(
        "task.cancel() has returned. The task",
        right="will get a CancelledError at the await where it waits",
        because="it is a request, heard on the task's next turn; finally still runs",
        wrong={
            "has ended": "it has not even heard of it yet",
            "ends without running any more of its code": "except and finally blocks run, and may take their time",
        },
    ),
    Question(
        "A timeout of 30 s stands inside the semaphore. An agent that is 200th in line",
        right="may be answered after minutes, in time",
        because="its clock starts when it has a slot; the line is not counted",
        wrong={
            "fails after 30 s": "for that, the timeout has to stand around the semaphore",
            "is refused at once": "nothing here looks at the length of the line",
        },
    ),
    Question(
        "Answers take 8 s. What do three tries with a timeout of 5 s give?",
        right="three bills and no answer",
        because="each try is cut off before its end, and the provider is paid for each",
        wrong={
            "the answer on the second try, after 13 s": "the second try is cut off after 5 s, too",
            "one bill, since only answers are paid": "providers charge for calls that were hung up on",
        },
    ),
]
