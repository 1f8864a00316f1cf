"""The knobs of the control room as sliders in two columns: your side and the provider's.

What it holds: `KnobPanel`.
Guarantee: `value` is always a valid `Knobs`, whether a slider was moved or `value` was assigned; one assignment is one
change event, however many sliders it moves.
Used by the control room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import ipywidgets as widgets
import traitlets

from agentkit.lab.control_room.knobs import RETRIES, Knobs

__all__ = ["KnobPanel"]

NONE = math.inf  # represents None on a slider, where None itself means that nothing is selected

SCALES: dict[str, tuple[str, Sequence[Any]]] = {
    "max_concurrency": ("concurrency", [1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 75, 100, 150, 200]),
    "timeout": ("timeout", [0.5, 1, 2, 3, 5, 10, 20, 30, 60, NONE]),
    "retry": ("retry", list(RETRIES)),
    "adaptive": ("adaptive limit", ()),
    "rate_limiter": ("rate limiter", ()),
    "requests_per_minute": ("requests/min", [30, 60, 120, 300, 600, 1200, 3000, 6000, NONE]),
    "tokens_per_minute": ("tokens/min", [10_000, 20_000, 30_000, 60_000, 120_000, 200_000, 500_000, NONE]),
    "latency": ("mean latency", [0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20]),
    "failure_rate": ("failure rate", [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]),
}
UNITS = {"timeout": "{:g} s", "latency": "{:g} s", "failure_rate": "{:.3g} %", "retry": "{}"}


class KnobPanel(widgets.HBox):  # type: ignore[misc]
    """A slider or a checkbox for each field of `Knobs`.

    >>> panel = KnobPanel(Knobs())
    >>> panel["timeout"].value = 5
    >>> panel.value.timeout
    5
    """

    value = traitlets.Instance(Knobs)
    """The setting of all knobs; assign another `Knobs` to move the sliders."""

    def __init__(self, knobs: Knobs) -> None:
        self._moving = False
        self._knobs = {name: _widget(name, _slider_value(knobs, name)) for name in SCALES}
        yours, theirs = list(self._knobs.values())[:5], list(self._knobs.values())[5:]
        switches = widgets.HBox(yours[3:], layout={"margin": "4px 0 0 22px", "flex_flow": "wrap", "grid_gap": "0 24px"})
        half = {"width": "50%", "min_width": "280px", "overflow": "hidden"}
        left = widgets.VBox([widgets.HTML("<b>Your side</b>"), *yours[:3], switches], layout=half)
        right = widgets.VBox([widgets.HTML("<b>The provider</b>"), *theirs], layout=half)
        super().__init__([left, right], value=knobs, layout={"width": "100%"})
        for knob in self._knobs.values():
            knob.observe(self._moved, "value")
        self.observe(self._assigned, "value")

    def __getitem__(self, name: str) -> Any:
        """Return the slider of one knob; its `.value` is `inf` where the knob is None."""
        return self._knobs[name]

    def _moved(self, _: object) -> None:
        if not self._moving:
            given = {name: knob.value for name, knob in self._knobs.items()}
            positions: dict[str, Any] = {name: None if value == NONE else value for name, value in given.items()}
            self.value = Knobs(**positions)

    def _assigned(self, change: Any) -> None:
        self._moving = True
        try:
            for name, knob in self._knobs.items():
                value = _slider_value(change.new, name)
                if value != knob.value and SCALES[name][1] and value not in dict(knob.options).values():
                    knob.options = _options(name, value)
                knob.value = value
        finally:
            self._moving = False

    def __repr__(self) -> str:
        return f"<KnobPanel {self.value!r}>"


def _slider_value(knobs: Knobs, name: str) -> Any:
    value = getattr(knobs, name)
    return NONE if value is None else value


def _widget(name: str, value: Any) -> Any:
    label, scale = SCALES[name]
    if not scale:
        return widgets.Checkbox(value=value, description=label, indent=False, layout={"width": "auto"})
    return widgets.SelectionSlider(
        options=_options(name, value), value=value, description=label, continuous_update=False,
        style={"description_width": "92px"}, layout={"width": "97%"},
    )  # fmt: skip


def _options(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return the labels and values of a knob's scale, with `value` inserted in order if the scale lacks it."""
    scale = list(SCALES[name][1])
    if value not in scale:
        scale = sorted([*scale, value])
    percent = 100 if name == "failure_rate" else 1
    return [("none" if v == NONE else UNITS.get(name, "{:,}").format(v * percent), v) for v in scale]


assert {field.name for field in fields(Knobs)} == set(SCALES)
