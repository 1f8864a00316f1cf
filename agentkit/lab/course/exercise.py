"""The records an author writes: exercises with cases, wrong answers and hints, and quiz questions.

What it holds: `Exercise`, `Question` and `Swap`, the helpers `case` and `swap`, and `Verdict`, the result of one case.
Guarantee: the records are plain data, validated when created: a lesson file with a missing hint, or a case without a
docstring, fails at import and not in front of a class.
Strategy: a case is an ordinary function, so it can be read, linted and debugged like one.
Opened by no notebook; the package docstring of `agentkit.lab.course` shows a whole lesson file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

__all__ = ["Case", "Exercise", "Question", "Swap", "Verdict", "bounds", "case", "swap", "words"]

Case = Callable[[Any], Any]
F = TypeVar("F", bound=Case)

SECONDS = 3.0  # of real time per case: a right answer takes milliseconds, but a busy machine is slow
WITHIN = 3600.0  # of virtual time per async case


def case(*, within: float = WITHIN, seconds: float = SECONDS) -> Callable[[F], F]:
    """Set the time limits of a case: `within` virtual seconds (async cases), `seconds` of real time.

    >>> @case(within=10)
    ... async def in_time(answer):
    ...     '''All agents finish within ten seconds.'''
    ...     await answer()

    The defaults are an hour of virtual time and three seconds of real time.
    """

    def mark(function: F) -> F:
        function.case_bounds = (within, seconds)  # type: ignore[attr-defined]
        return function

    return mark


def bounds(function: Case) -> tuple[float, float]:
    """Return the time limits of a case: (virtual seconds, real seconds)."""
    within, seconds = getattr(function, "case_bounds", (WITHIN, SECONDS))
    return within, seconds


def words(function: Case) -> str:
    """Return the description of a case: the first paragraph of its docstring, on one line, without the period.

    >>> def peak(answer):
    ...     '''At most three agents are in flight.'''
    >>> words(peak)
    'At most three agents are in flight'
    """
    paragraph = inspect.cleandoc(function.__doc__ or "").split("\n\n")[0]
    return " ".join(paragraph.split()).removesuffix(".")


@dataclass(frozen=True, slots=True)
class Swap:
    """A wrong answer made from the solution by replacing a piece of its code; see `swap`."""

    old: str
    """The piece of the solution's cell to replace."""
    new: str
    """Its replacement."""

    def apply(self, source: str) -> str:
        """Return the solution's cell with every occurrence replaced; raise ValueError if there is none."""
        if self.old not in source:
            raise ValueError(
                f"swap({self.old!r}, …): the solution holds no such text; copy it from the solution's cell"
            )
        return source.replace(self.old, self.new)


def swap(old: str, new: str) -> Swap:
    """Return a wrong answer: the solution's cell with `old` replaced by `new`.

    >>> swap("Semaphore(k)", "Semaphore(k + 1)").apply("gate = asyncio.Semaphore(k)")
    'gate = asyncio.Semaphore(k + 1)'
    """
    return Swap(old, new)


@dataclass(frozen=True, slots=True)
class Exercise:
    """One exercise: the cases that must pass, the wrong answers they must reject, and three hints.

    >>> def doubled(answer):
    ...     '''3 becomes 6.'''
    ...     assert answer(3) == 6, f"answer(3) gave {answer(3)}"
    >>> def negative(answer):
    ...     '''It also holds below zero.'''
    ...     assert answer(-2) == -4, f"answer(-2) gave {answer(-2)}"
    >>> Exercise(cases=[doubled], hidden=[negative], wrong=[lambda n: n, lambda n: 6, abs],
    ...          hints=("What is twice 3?", "Multiply.", "return 2 * n"))
    <Exercise 1 case, 1 hidden, 3 wrong answers>
    """

    cases: Sequence[Case]
    """Functions of the answer that raise AssertionError; the docstring of each says what must hold."""
    hidden: Sequence[Case]
    """Cases the learner does not see, run in the solution notebook and by the grader. At least one."""
    wrong: Sequence[Any]
    """At least three answers that some case must reject: a value or function, a `swap`, or the source of a cell."""
    hints: tuple[str, str, str]
    """Three hints: a nudge, the idea, nearly the answer."""

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("cases must hold at least one function, got none; a check needs something that must hold")
        for function in (*self.cases, *self.hidden):
            if not words(function):
                raise ValueError(f"case {function.__name__} has no docstring; say in a sentence what must hold")
        if len(self.hints) != 3:
            raise ValueError(f"hints must be three texts, weak to strong, got {len(self.hints)}")

    def __repr__(self) -> str:
        many = "" if len(self.cases) == 1 else "s"
        return f"<Exercise {len(self.cases)} case{many}, {len(self.hidden)} hidden, {len(self.wrong)} wrong answers>"


@dataclass(frozen=True, slots=True)
class Question:
    """One quiz question: the right choice and why it is right, and why each wrong choice is wrong.

    >>> question = Question("Three waits of 2 s in one gather take", right="2 s", because="they wait together",
    ...                     wrong={"6 s": "that is the sum, the time in sequence", "0 s": "waiting is not free"})
    >>> question.letter in "abc"
    True
    """

    ask: str
    """The question, in one or two sentences."""
    right: str
    """The right choice."""
    because: str
    """Why it is right."""
    wrong: Mapping[str, str]
    """Each wrong choice, with the reason why it is wrong."""

    def __post_init__(self) -> None:
        missing = [choice for choice, why in self.wrong.items() if not why.strip()]
        if missing or not self.because.strip():
            raise ValueError(
                f"question {self.ask!r} gives no reason for {missing or [self.right]}; every choice needs one"
            )
        if not self.wrong or self.right in self.wrong:
            raise ValueError(f"question {self.ask!r} needs wrong choices that differ from the right one")

    @property
    def choices(self) -> list[tuple[str, str]]:
        """The choices with their reasons, shuffled with the question as the seed."""
        both = [(self.right, self.because), *self.wrong.items()]
        Random(self.ask).shuffle(both)
        return both

    @property
    def letter(self) -> str:
        """The letter of the right choice."""
        return "abcdefgh"[[choice for choice, _ in self.choices].index(self.right)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one case for one answer."""

    exercise: str
    """The exercise's name, such as `ex-limit`."""
    case: str
    """The description of the case: what must hold."""
    ok: bool
    """Whether the case passed."""
    message: str = ""
    """What is wrong; empty if the case passed."""
    hidden: bool = False
    """Whether it is a hidden case, which the learner's own check skips."""

    @property
    def line(self) -> str:
        """The line that `check` prints."""
        return f"ok    {self.case}" if self.ok else f"todo  {self.case}: {self.message}"
