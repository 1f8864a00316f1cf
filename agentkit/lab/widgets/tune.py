"""A slider and the chart it controls: `tune`.

What it holds: `Tuner`, a slider over the values of one parameter, with the chart that your function draws for the
current value, and `tune`, which creates one.
Guarantees: the image always matches the slider's value; an exception in your function is shown in the widget.
Strategy: your function runs synchronously in the slider's callback, in virtual time, so there is nothing to cancel and
no result can arrive late. To change a run in progress, in real time, use the control room.
Opened by notebook 00.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from agentkit.base.arguments import function, items, refusal, shown

__all__ = ["Tuner", "tune"]


class Tuner(widgets.VBox):  # type: ignore[misc]
    """A slider and the chart for its current value.

    >>> class Square:
    ...     def __init__(self, k): self.k = k
    ...     def __repr__(self): return f"<Square {self.k ** 2}>"
    ...     def _repr_png_(self): return b""
    >>> knob = tune(Square, k=[1, 2, 3])
    >>> knob.value = 3
    >>> knob
    <Tuner k=3: <Square 9>>
    """

    def __init__(self, draw: Callable[[Any], Any], name: str, values: Sequence[Any], value: Any) -> None:
        self.draw, self.name = draw, name
        self.chart: Any = None
        """The chart shown, as returned by `draw`; None after an error."""
        self._slider = widgets.SelectionSlider(
            options=values, value=value, description=name, continuous_update=False, layout=widgets.Layout(width="420px")
        )
        # A box stretches its children, which blurs text, so the image keeps its own width.
        size = widgets.Layout(max_width="100%", object_fit="contain", align_self="flex-start")
        self._image = widgets.Image(format="png", layout=size)
        self._said = widgets.HTML()
        self._slider.observe(self._changed, names="value")
        super().__init__([self._slider, self._image, self._said])
        self._changed(None)

    @property
    def value(self) -> Any:
        """The current value; assign to it to move the slider without a browser."""
        return self._slider.value

    @value.setter
    def value(self, value: Any) -> None:
        if value not in self._slider.options:
            raise ValueError(f"{self.name} must be one of {list(self._slider.options)}, got {value!r}")
        self._slider.value = value

    def _changed(self, _: object) -> None:
        try:
            self.chart = self.draw(self.value)
            self._image.value, self._said.value = self.chart._repr_png_(), html.escape(repr(self.chart))
        except Exception as error:  # an exception in a callback would be lost, so show it in the widget
            self.chart, self._image.value = None, b""
            self._said.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"

    def __repr__(self) -> str:
        return f"<Tuner {self.name}={self.value}: {self.chart!r}>"


def tune(draw: Callable[[Any], Any], **values: Sequence[Any]) -> Tuner:
    """Create a slider over `name=values`, with the chart `draw(value)` below it.

    Example: `tune(draw, k=range(1, 21))`. With a pair, `k=(range(1, 21), 4)`, the slider starts at 4.
    """
    if len(values) != 1:
        raise ValueError(f"tune takes exactly one parameter, got {sorted(values)}; write tune(draw, k=range(1, 11))")
    [(name, chosen)] = values.items()
    start = None
    if isinstance(chosen, tuple) and len(chosen) == 2 and isinstance(chosen[0], Sequence):
        chosen, start = chosen
    options = items(name, chosen, "write tune(draw, k=range(1, 11))")
    if len(options) < 2:
        raise refusal(name, "must have 2 or more values", options, "one value leaves nothing to turn")
    start = options[0] if start is None else start
    if start not in options:
        raise refusal(name, "must start at one of its values", start, f"they are {shown(options)}")
    return Tuner(function("draw", draw, "write a function of the value"), name, options, start)
