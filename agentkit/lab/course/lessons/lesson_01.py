"""Checks of notebook 01, waiting is the work: ask a team of agents together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from agentkit.lab.course.exercise import Exercise, Question, swap

__all__ = ["EXERCISES", "QUIZ", "member", "seconds_taken"]

Answer = Callable[[list[Any], str], Awaitable[Any]]


def member(name: str, seconds: float) -> Callable[[str], Awaitable[str]]:
    """Make an agent that answers after so many seconds."""

    async def agent(question: str) -> str:
        await asyncio.sleep(seconds)
        return f"{name}: {question}"

    return agent


TEAM = [member("reader", 2), member("analyst", 5), member("critic", 3)]


async def seconds_taken(ask_team: Answer, agents: list[Any]) -> float:
    """Return the virtual seconds a call takes."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await ask_team(agents, "why?")
    return loop.time() - began


async def takes_as_long_as_the_longest(ask_team: Answer) -> None:
    """Agents of 2, 5 and 3 seconds take 5 seconds in all."""
    seconds = await seconds_taken(ask_team, TEAM)
    assert seconds == 5, f"they took {seconds:g} s"


async def in_the_order_of_the_agents(ask_team: Answer) -> None:
    """The answers come in the order of the agents, not in the order in which they finish."""
    names = [answer.partition(":")[0] for answer in await ask_team(TEAM, "why?")]
    assert names == ["reader", "analyst", "critic"], f"the order was {', '.join(names)}"


async def any_number_of_agents(ask_team: Answer) -> None:
    """It also works for one agent and for ten."""
    for count in (1, 10):
        answers = await ask_team([member(str(i), 1) for i in range(count)], "why?")
        assert len(answers) == count, f"{count} asked, {len(answers)} answered"


async def errors_come_out(ask_team: Answer) -> None:
    """When an agent fails, the caller hears of it."""

    async def failing(question: str) -> str:
        raise ValueError("no answer")

    try:
        answers = await ask_team([*TEAM, failing], "why?")
    except ValueError:
        return
    raise AssertionError(f"an agent raised ValueError and the caller got {answers!r}")


async def the_question_reaches_everybody(ask_team: Answer) -> None:
    """Each agent gets the question that was asked."""
    answers = await ask_team(TEAM, "when?")
    assert all(answer.endswith("when?") for answer in answers), f"the answers were {answers}"


GATHER = "await asyncio.gather(*(agent(question) for agent in agents))"

EXERCISES = {
    "ex-together": Exercise(
        cases=[takes_as_long_as_the_longest, in_the_order_of_the_agents, any_number_of_agents],
        hidden=[errors_come_out, the_question_reaches_everybody],
        wrong=[
            swap(GATHER, "[await agent(question) for agent in agents]"),
            swap(GATHER, "[await done for done in asyncio.as_completed([a(question) for a in agents])]"),
            swap(GATHER, "await asyncio.gather(*(agent(question) for agent in agents[:3]))"),
            swap(GATHER, "await asyncio.gather(*(agent(question) for agent in agents), return_exceptions=True)"),
            swap(GATHER, 'await asyncio.gather(*(agent("why?") for agent in agents))'),
        ],
        hints=(
            "Which function of asyncio started the three agents at the top of this lesson?",
            "asyncio.gather takes coroutines, not a list of them: unpack with a star. It keeps their order.",
            "return await asyncio.gather(*(agent(question) for ... in ...))",
        ),
    )
}

QUIZ = [
    Question(
        "Four agents take 1, 2, 3 and 6 seconds. Started together, they take",
        right="6 s",
        because="the waits overlap, so the longest is all that counts",
        wrong={"12 s": "that is the sum, in turn", "3 s": "that is the mean; waiting is not shared out"},
    ),
    Question(
        "Three equal agents run together instead of in turn. How much time is saved?",
        right="67 %",
        because="one length remains of three",
        wrong={"90 %": "for that it takes ten equal agents", "0 %": "waits overlap, so something is saved"},
    ),
    Question(
        "An agent computes for two seconds without any await. Meanwhile the other agents of its loop",
        right="stand still",
        because="the thread is given away only at an await that has to wait",
        wrong={
            "go on": "they share one thread with it",
            "go on if gather started them": "gather starts them; it cannot interrupt anybody",
        },
    ),
    Question(
        "In a notebook cell you have a coroutine function main. You write",
        right="await main()",
        because="the kernel's loop is running already and the cell runs on it",
        wrong={
            "asyncio.run(main())": "it refuses, since a loop is running",
            "nest_asyncio.apply() first": "it works, and makes plain function calls a place where other tasks may run",
        },
    ),
    Question(
        "Semaphore(8) around each of forty calls. What does it bound?",
        right="how many are in flight at the same time",
        because="it counts free places, and a place is free again when its holder leaves",
        wrong={
            "how many start per minute": "quick calls come and go; rate is another matter, in lesson 07",
            "how long a call takes": "it waits at the door and never looks inside",
        },
    ),
]
