"""Commit to a guess before you look: `predict`.

What it holds: `Prediction`, a question with a few answers to choose from, and `predict`, which makes one.
Guarantee: a lesson runs to its end without a guess too, with the same text each time; with one, the comparison says
what was right, and for a wrong choice why someone might have thought so.
Opened by notebook 00.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

__all__ = ["Prediction", "predict"]


class Prediction(widgets.VBox):  # type: ignore[misc]
    """A question to answer before the experiment runs.

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
        """The answer chosen; None before any was. Assign to choose without a browser."""
        return self._buttons.value

    @value.setter
    def value(self, value: Any) -> None:
        if value is not None and value not in self.options:
            raise ValueError(f"value must be one of {self.options}, got {value!r}; None takes the guess back")
        self._buttons.value = value

    def compare(self, measured: Any) -> None:
        """Print the guess beside what was measured, with the reason for a wrong choice.

        Where the answers are numbers, the right one is the one nearest to `measured`.
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
    """Ask for a guess; `reasons` says for each wrong option what thought leads there.

    The last line of a cell shows it; `.compare(measured)` in a later cell sets the guess against the truth.
    """
    if len(options) < 2:
        raise ValueError(f"options must hold 2 or more answers, got {list(options)}; one answer is no choice")
    strangers = [option for option in reasons or {} if option not in options]
    if strangers:
        raise ValueError(f"reasons must be for options, got {strangers}; the options are {list(options)}")
    return Prediction(question, options, reasons or {})
