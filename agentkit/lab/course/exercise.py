"""What a teacher writes: exercises with their cases, wrong answers and hints, and quiz questions.

What it holds: the records `Exercise`, `Question` and `Swap`, the helpers `case` and `swap`, and `Verdict`,
the record of one case that was tried. Plain data, checked when it is made: a lesson file with a missing
hint or a case without words fails at import, not in front of a class.
Strategy: a case is an ordinary function, so that it can be read, linted and debugged like one.
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

SECONDS = 3.0  # of real time, for one case: a right answer takes milliseconds, a busy machine is slow
WITHIN = 3600.0  # of virtual time, for one async case


def case(*, within: float = WITHIN, seconds: float = SECONDS) -> Callable[[F], F]:
    """Give a case bounds of its own: `within` virtual seconds (async cases), `seconds` of real time.

    >>> @case(within=10)
    ... async def in_time(answer):
    ...     '''All agents are done within ten seconds.'''
    ...     await answer()

    Without it a case has an hour of virtual time and three seconds of real time.
    """

    def mark(function: F) -> F:
        function.case_bounds = (within, seconds)  # type: ignore[attr-defined]
        return function

    return mark


def bounds(function: Case) -> tuple[float, float]:
    """Return (virtual seconds, real seconds) a case may take."""
    within, seconds = getattr(function, "case_bounds", (WITHIN, SECONDS))
    return within, seconds


def words(function: Case) -> str:
    """Return what a case says must hold: the first paragraph of its docstring, on one line, without the full stop.

    >>> def peak(answer):
    ...     '''At most three agents are in flight.'''
    >>> words(peak)
    'At most three agents are in flight'
    """
    paragraph = inspect.cleandoc(function.__doc__ or "").split("\n\n")[0]
    return " ".join(paragraph.split()).removesuffix(".")


@dataclass(frozen=True, slots=True)
class Swap:
    """A wrong answer made from the right one by changing a piece of its text; see `swap`."""

    old: str
    """The piece of the solution's cell."""
    new: str
    """What stands there instead."""

    def apply(self, source: str) -> str:
        """Return the solution's cell with the piece changed everywhere; ValueError if the piece is not in it."""
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
    """One exercise: what must hold, what must not pass, and three hints.

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
    """Functions of the answer, each with a docstring that says what must hold; they raise AssertionError."""
    hidden: Sequence[Case]
    """Cases the learner does not see; run in the solution notebook and when grading. At least one."""
    wrong: Sequence[Any]
    """Answers that some case must reject, at least three: a value or function, a `swap`, or the text of a cell."""
    hints: tuple[str, str, str]
    """A nudge, the idea, nearly the answer."""

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
    """One quiz question: the right choice and why, and for every wrong choice the reason it is wrong.

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
    """Each wrong choice and the reason against it."""

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
        """The choices with their reasons, in an order drawn once from the question's own text."""
        both = [(self.right, self.because), *self.wrong.items()]
        Random(self.ask).shuffle(both)
        return both

    @property
    def letter(self) -> str:
        """The letter of the right choice."""
        return "abcdefgh"[[choice for choice, _ in self.choices].index(self.right)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one case said about one answer."""

    exercise: str
    """The exercise's name, such as `ex-limit`."""
    case: str
    """What must hold, in words."""
    ok: bool
    """Whether it holds."""
    message: str = ""
    """What was found instead; empty when it holds."""
    hidden: bool = False
    """Whether the learner's own check leaves this case out."""

    @property
    def line(self) -> str:
        """The line printed by `check`."""
        return f"ok    {self.case}" if self.ok else f"todo  {self.case}: {self.message}"
