# pyright: strict
"""Twenty small programs for type checkers: what they must infer, and what they must reject.

`tests/test_typing.py` runs mypy and pyright on this file; nothing calls its functions. `assert_type` states an inferred
type. The comment `# E: words` expects an error on its line, and these words in the message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, assert_type

from agentkit import ChatAgent, Outcome, ParallelAgentExecutor, Reply, Report
from agentkit.executor import Run, Stream
from agentkit.report import Summary

T = TypeVar("T")
R = TypeVar("R")

executor = ParallelAgentExecutor(max_concurrency=5)


async def count(text: str) -> int:
    """An async agent."""
    return len(text)


def plain(text: str) -> int:
    """A plain function as an agent."""
    return len(text)


@dataclass
class Question:
    text: str


@dataclass
class Answer:
    label: str


async def ask(question: Question) -> Answer:
    """An async agent with types of its own."""
    return Answer(question.text)


class Counter:
    async def __call__(self, text: str) -> int:
        """An agent that is an object."""
        return len(text)

    async def method(self, text: str) -> int:
        """An agent that is a method."""
        return len(text)


async def program_01() -> None:
    """An async agent."""
    report = await executor.execute(["a", "b"], count)
    assert_type(report, Report[str, int])
    assert_type(report.results, list[int])
    await executor.execute([1, 2], count)  # E: int


async def program_02() -> None:
    """A plain function."""
    assert_type(await executor.execute(["a", "b"], plain), Report[str, int])
    assert_type(await executor.execute(["a", "b"], str.upper), Report[str, str])
    await executor.execute([b"a"], plain)  # E: bytes


async def program_03() -> None:
    """A lambda, also one around an async agent."""
    assert_type(await executor.execute(["a", "b"], lambda text: len(text)), Report[str, int])
    assert_type(
        await executor.execute([Question("why?")], lambda question: count(question.text)), Report[Question, int]
    )
    await executor.execute([1, 2], lambda number: number.upper())  # E: "upper"


async def program_04() -> None:
    """A callable object, a method, and a class in place of its instance."""
    assert_type(await executor.execute(["a"], Counter()), Report[str, int])
    assert_type(await executor.execute(["a"], Counter().method), Report[str, int])
    await executor.execute(["a"], Counter)  # E: Counter


async def program_05(agent: ChatAgent) -> None:
    """A `ChatAgent`, its method, and a partial."""

    async def cut(length: int, text: str) -> str:
        return text[:length]

    assert_type(await executor.execute(["a"], agent), Report[str, Reply])
    assert_type(await executor.execute(["a"], agent.ask), Report[str, Reply])
    assert_type(await executor.execute(["a"], partial(cut, 3)), Report[str, str])


async def program_06() -> None:
    """Agents that return None at times, or dicts with any values."""

    async def find(text: str) -> int | None:
        return len(text) or None

    async def search(text: str) -> dict[str, Any]:
        return {"text": text}

    report = await executor.execute(["a"], find)
    assert_type(report.results, list[int | None])
    assert_type(await executor.map(["a"], search), list[dict[str, Any]])
    print(sum(report.results))  # E: list[int | None]


async def program_07() -> None:
    """The record of one task."""
    report = await executor.execute([Question("why?")], ask)
    assert_type(report[0], Outcome[Question, Answer])
    print(report[0].task.text, report.results[0].label)
    print(report[0].task.label)  # E: "label"
    print(report[0].status == "succeeded")  # E: Literal['succeeded']


async def program_08() -> None:
    """An async source, a set, and a single task that is not in a list."""

    async def questions() -> AsyncIterator[Question]:
        yield Question("why?")

    assert_type(await executor.execute(questions(), ask), Report[Question, Answer])
    assert_type(await executor.execute({"a", "b"}, count), Report[str, int])
    await executor.execute(questions(), count)  # E: Question
    await executor.execute(Question("why?"), ask)  # E: "Question"


async def program_09() -> None:
    """What a report holds."""
    report = await executor.execute(["a", "b"], count)
    assert_type(report[1:], list[Outcome[str, int]])
    assert_type(report.failures, list[Outcome[str, int]])
    assert_type(report.results_or(None), list[int | None])
    assert_type(report["individual_results"], list[Outcome[str, int]])
    assert_type(report["summary"], Summary)
    assert_type([outcome.task for outcome in report], list[str])
    print((report[0].result or 0) + 1)
    print(report[0].result + 1)  # E: "None"


async def program_10() -> None:
    """Aggregators."""

    def add_up(outcomes: list[Outcome[str, int]]) -> int:
        return sum(outcome.result or 0 for outcome in outcomes)

    def join(outcomes: list[Outcome[str, str]]) -> str:
        return "".join(outcome.result or "" for outcome in outcomes)

    async def any_outcomes(outcomes: list[Outcome]) -> int:
        return len(outcomes)

    assert_type(await executor.execute(["a"], count, add_up), Report[str, int])
    assert_type(await executor.execute(["a"], plain, aggregator=add_up), Report[str, int])
    assert_type(await executor.execute(["a"], count, lambda outcomes: outcomes[0].task.upper()), Report[str, int])
    await executor.execute(["a"], count, any_outcomes)
    await executor.execute(["a"], count, join)  # E: "execute"


async def program_11() -> None:
    """A run, which you await."""
    run = executor.start(["a"], count)
    assert_type(run, Run[str, int])
    assert_type(await run, Report[str, int])
    assert_type(executor.start(["a"], plain), Run[str, int])
    async with executor.start(["a"], count) as entered:
        assert_type(entered, Run[str, int])
    async for _ in run:  # E: __anext__
        break


async def program_12() -> None:
    """A stream, which you iterate over."""
    stream = executor.stream(["a"], count, ordered=True)
    assert_type(stream, Stream[str, int])
    async for outcome in stream:
        assert_type(outcome, Outcome[str, int])
    async with executor.stream([Question("why?")], ask) as entered:
        assert_type([outcome.result async for outcome in entered], list[Answer | None])
    await stream  # E: Stream[str, int]


async def program_13() -> None:
    """A stream of a plain function; it takes no `cost`, for it never sees all tasks."""
    assert_type([outcome async for outcome in executor.stream(["a"], plain)], list[Outcome[str, int]])
    executor.stream(["a"], plain, cost=len)  # E: "stream"


async def program_14() -> None:
    """Results alone."""
    assert_type(await executor.map(["a"], count), list[int])
    assert_type(await executor.map(["a"], plain), list[int])
    texts: list[str] = await executor.map(["a"], count)  # E: int
    print(texts)


async def program_15() -> None:
    """One call."""
    assert_type(await executor.call("a", count), int)
    assert_type(await executor.call("a", plain), int)
    await executor.call(["a"], count)  # E: list[str]


async def program_16() -> None:
    """Costs of tasks."""

    def words(question: Question) -> float:
        return len(question.text.split())

    assert_type(await executor.map([Question("why?")], ask, cost=words), list[Answer])
    assert_type(await executor.execute(["a"], count, cost=len), Report[str, int])
    await executor.map(["a"], count, cost=words)  # E: Question


async def program_17() -> None:
    """Settings."""
    executor.on_error = "raise"
    executor.on_error = "ignore"  # E: Literal['ignore']
    ParallelAgentExecutor(on_error="stop", timeout=5, deadline=30.0)
    ParallelAgentExecutor(on_error="colect")  # E: Literal['colect']
    ParallelAgentExecutor(timeout="5")  # E: float
    ParallelAgentExecutor(pool=4)  # E: Executor


async def program_18() -> None:
    """Mistakes of the first day."""
    await executor.execute(["a"], count("a"))  # E: [Any, Any, int]
    await executor.execute(count, ["a"])  # E: list[str]
    print(executor.execute(["a"], count).results)  # E: "results"


async def program_19() -> None:
    """A generic function around the executor."""

    async def all_of(tasks: Iterable[T], agent: Callable[[T], Awaitable[R]]) -> list[R]:
        report = await executor.execute(tasks, agent)
        assert_type(report, Report[T, R])
        return report.results

    assert_type(await all_of(["a"], count), list[int])
    assert_type(await all_of([Question("why?")], ask), list[Answer])
    await all_of(["a"], plain)  # E: int


async def program_20(tasks: list[Any], anything: Any) -> None:
    """Tasks and agents of which nothing is known."""
    assert_type(await executor.execute(tasks, count), Report[Any, int])
    assert_type(await executor.map(tasks, count), list[int])
    report: Report = await executor.execute(["a"], anything)
    assert_type(report.results, list[Any])
    with ProcessPoolExecutor() as pool:
        assert_type(await ParallelAgentExecutor(pool=pool).map(["a"], plain), list[int])
