"""Checks of notebook 00, start here: one number, found by turning a knob."""

from __future__ import annotations

from functools import cache
from typing import Any

from agentkit.agent import ChatAgent
from agentkit.executor import ParallelAgentExecutor
from agentkit.lab.course.exercise import Exercise, Question
from agentkit.lab.data import prompts
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.provider import Provider

__all__ = ["EXERCISES", "QUIZ", "makespan"]

LIMIT = 15  # seconds, as in the notebook's text


@cache
def makespan(max_concurrency: int) -> float:
    """Seconds for the six calls of the notebook."""
    researcher = ChatAgent(
        "researcher", "Answer in one sentence.", client=Provider("tier1", seed=3).client(), model="large"
    )
    questions = [prompt.question for prompt in prompts()[:6]]
    report: Any = simulate(ParallelAgentExecutor(max_concurrency).execute, questions, researcher)
    return float(report.summary.makespan)


def fast_enough(smallest: Any) -> None:
    """All six questions are answered in under fifteen seconds."""
    seconds = makespan(smallest)
    assert seconds < LIMIT, f"with {smallest} at a time it takes {seconds:.1f} s"


def no_smaller(smallest: Any) -> None:
    """One fewer would not be enough."""
    seconds = makespan(smallest - 1) if smallest > 1 else float("inf")
    assert seconds >= LIMIT, f"{smallest - 1} at a time is enough already: {seconds:.1f} s"


def whole_number(smallest: Any) -> None:
    """It is a whole number: places are not divisible."""
    assert isinstance(smallest, int), f"{smallest!r} is a {type(smallest).__name__}"


EXERCISES = {
    "ex-smallest": Exercise(
        cases=[fast_enough, no_smaller],
        hidden=[whole_number],
        wrong=[1, 2, 4, 6, 'smallest = "3"'],
        hints=(
            "The table above has the makespan for each number.",
            "Read it from the left and stop at the first time under fifteen.",
            "Two at a time is too slow and four is more than you need.",
        ),
    )
}
QUIZ: list[Question] = []
