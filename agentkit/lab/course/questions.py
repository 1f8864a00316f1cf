"""`quiz`: the questions of a lesson with a reason for every choice, as buttons or as text.

What it holds: `quiz` and the `Quiz` it returns.
Guarantee: all state is in `value`, a string with one letter per question (`-` if none is chosen); assigning it works
without a browser and has the same effect as clicks.
Strategy: the repr is the text form, so nbval compares the questions, and they are readable without widgets.
Every lesson ends with a quiz.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentkit.base.arguments import refusal, text
from agentkit.lab.course.exercise import Question
from agentkit.lab.course.registry import lesson

__all__ = ["Quiz", "quiz"]

LETTERS = "abcdefgh"


class Quiz:
    """The questions of a lesson: display it to click, or get and set `value`.

    >>> sums = Quiz([Question("1 + 1 is", right="2", because="count", wrong={"11": "that joins the digits"})])
    >>> sums
    1. 1 + 1 is
       a) 11
       b) 2
    >>> sums.value = "a"
    >>> print(sums.reasons())
    1. a is not right: that joins the digits
    0 of 1 right
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = tuple(questions)
        self._chosen = ["-"] * len(self.questions)
        self._buttons: list[Any] = []
        self._box: Any = None

    @property
    def value(self) -> str:
        """The chosen letters, one per question, `-` for no choice."""
        return "".join(self._chosen)

    @value.setter
    def value(self, letters: str) -> None:
        letters = text("answers", letters, "write one letter per question").lower()
        if len(letters) != len(self.questions):
            rule = f"must be {len(self.questions)} letters, one per question"
            raise refusal("answers", rule, letters, "- leaves one out")
        for number, (question, letter) in enumerate(zip(self.questions, letters, strict=True), 1):
            allowed = LETTERS[: len(question.choices)] + "-"
            if letter not in allowed:
                raise ValueError(f"question {number} has the choices {', '.join(allowed[:-1])}, got {letter!r}")
        self._chosen = list(letters)
        for button, letter in zip(self._buttons, letters, strict=False):
            button.index = None if letter == "-" else LETTERS.index(letter)

    @property
    def right(self) -> int:
        """The number of right choices."""
        return sum(letter == question.letter for letter, question in zip(self._chosen, self.questions, strict=True))

    def reasons(self) -> str:
        """Return, for every choice, whether it is right and why, and the number of right choices."""
        lines = [f"{n}. {self.reason(n)}" for n, letter in enumerate(self._chosen, 1) if letter != "-"]
        return "\n".join([*lines, f"{self.right} of {len(self.questions)} right"])

    def reason(self, number: int) -> str:
        """Return why the choice for question `number` (from 1) is right or wrong; empty if none is chosen."""
        question, letter = self.questions[number - 1], self._chosen[number - 1]
        if letter == "-":
            return ""
        why = question.choices[LETTERS.index(letter)][1]
        return f"{letter} is {'right' if letter == question.letter else 'not right'}: {why}"

    def __repr__(self) -> str:
        blocks = []
        for number, question in enumerate(self.questions, 1):
            blocks.append(f"{number}. {question.ask}")
            blocks += [f"   {LETTERS[i]}) {choice}" for i, (choice, _) in enumerate(question.choices)]
        return "\n".join(blocks)

    @property
    def widget(self) -> Any:
        """The questions as buttons (an ipywidgets box), created on first access."""
        if self._box is None:
            self._box = self._build()
        return self._box

    def _build(self) -> Any:
        import ipywidgets

        rows: list[Any] = []
        for number, question in enumerate(self.questions, 1):
            options = [f"{LETTERS[i]}) {choice}" for i, (choice, _) in enumerate(question.choices)]
            chosen = self._chosen[number - 1]
            button = ipywidgets.RadioButtons(
                options=options, index=None if chosen == "-" else LETTERS.index(chosen), layout={"width": "max-content"}
            )
            reason = ipywidgets.Label(self.reason(number))

            def choose(change: Any, number: int = number, reason: Any = reason) -> None:
                self._chosen[number - 1] = "-" if change["new"] is None else LETTERS[change["new"]]
                reason.value = self.reason(number)

            button.observe(choose, "index")
            self._buttons.append(button)
            rows += [ipywidgets.Label(f"{number}. {question.ask}"), button, reason]
        return ipywidgets.VBox(rows)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        text = {"text/plain": repr(self)}
        try:
            bundle = self.widget._repr_mimebundle_(**kwargs)
        except ImportError:
            return text
        return {**bundle, **text}


def quiz(number: str, answers: str | None = None) -> Quiz | None:
    """Return the quiz of a lesson to click; with `answers="bacda"`, print a reason for each answer instead.

    `number` is the lesson's number, as in the notebook's name: `quiz("01")`. Use `-` to skip a question.
    """
    questions = Quiz(lesson(number).quiz)
    if answers is None:
        return questions
    questions.value = answers
    print(questions.reasons())
    return None
