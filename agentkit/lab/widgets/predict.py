"""Commit to a guess before you look: `predict`.

What it holds: `Prediction`, a multiple-choice question, and `predict`, which creates one.
Guarantee: a lesson also runs without a guess, with the same output every time; with a guess, the comparison states the
right answer and, for a wrong choice, the reasoning that leads to it.
Opened by notebook 00.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from agentkit.base.arguments import instance, items, refusal, text

__all__ = ["Prediction", "predict"]


class Prediction(widgets.VBox):  # type: ignore[misc]
    """A multiple-choice question to answer before the experiment runs.

    >>> guess = predict("seconds for three calls of 2 s, started together", [2, 4, 6], {6: "that is one after another"})
    >>> guess.value = 6
    >>> guess.compare(2)
    You said 6; it is 2. Not so: that is one after another.
    """

    def __init__(self, question: str, options: Sequence[Any], reasons: Mapping[Any, str]) -> None:
        self.question, self.options, self.reasons = question, list(options), dict(reasons)
        self._buttons = widgets.ToggleButtons(options=self.options, value=None, description="")
        super().__init__([widgets.Label(f"Your guess: {question}?"), self._buttons])

    @property
    def value(self) -> Any:
        """The chosen answer; None if there is none yet. Assign to it to choose without a browser."""
        return self._buttons.value

    @value.setter
    def value(self, value: Any) -> None:
        if value is not None and value not in self.options:
            raise ValueError(f"value must be one of {self.options}, got {value!r}; None takes the guess back")
        self._buttons.value = value

    def compare(self, measured: Any) -> None:
        """Print the guess next to the measured value; for a wrong choice, also the reason.

        If the answers are numbers, the right one is the one closest to `measured`.
        """
        right = self._nearest(measured)
        shown = f"{measured:g}" if isinstance(measured, float) else f"{measured}"
        if self.value is None:
            print(f"Measured: {shown}. (No guess yet: choose an answer above and run this cell again.)")
        elif self.value == right:
            print(f"You said {self.value}, and so it is." if right == measured else f"You said {right}; it is {shown}.")
        else:
            why = self.reasons.get(self.value)
            print(f"You said {self.value}; it is {shown}." + (f" Not so: {why}." if why else ""))

    def _nearest(self, measured: Any) -> Any:
        if all(isinstance(value, int | float) for value in [measured, *self.options]):
            return min(self.options, key=lambda option: abs(option - measured))
        return measured

    def __repr__(self) -> str:
        chosen = "no guess yet" if self.value is None else f"guess {self.value}"
        return f"<Prediction: {self.question}? {self.options}, {chosen}>"


def predict(question: str, options: Sequence[Any], reasons: Mapping[Any, str] | None = None) -> Prediction:
    """Ask for a guess; `reasons` maps wrong options to the reasoning that leads to them.

    Make it the last expression of a cell to display it; call `.compare(measured)` in a later cell.
    """
    text("question", question)
    options = items("options", options, "give a list of answers")
    if len(options) < 2:
        raise refusal("options", "must hold 2 or more answers", options, "one answer is no choice")
    reasons = instance("reasons", reasons, Mapping, "give a dict of reasons by option", none=True) or {}
    if strangers := [option for option in reasons if option not in options]:
        raise refusal("reasons", "must be for options", strangers, f"the options are {options}")
    return Prediction(question, options, reasons)
