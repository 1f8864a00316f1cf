"""One knob and the picture it changes: `tune`.

What it holds: `Tuner`, a slider over the values of one parameter with the chart that a function of yours draws for
the chosen one, and `tune`, which makes it.
Guarantees: the picture always belongs to the slider's value; an error in your function is shown in the panel.
Strategy: your function runs inside the callback, in virtual time, so there is nothing to cancel and nothing can arrive
late. For a knob on a run that goes on in real time see the control room.
Opened by notebook 00.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

__all__ = ["Tuner", "tune"]


class Tuner(widgets.VBox):  # type: ignore[misc]
    """A slider and the chart for its value.

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
        """The chart shown, as `draw` returned it; None after an error."""
        self._slider = widgets.SelectionSlider(
            options=values, value=value, description=name, continuous_update=False, layout=widgets.Layout(width="420px")
        )
        # A box stretches what is in it, and text that is stretched is blurred: the picture keeps its own width.
        size = widgets.Layout(max_width="100%", object_fit="contain", align_self="flex-start")
        self._image = widgets.Image(format="png", layout=size)
        self._said = widgets.HTML()
        self._slider.observe(self._changed, names="value")
        super().__init__([self._slider, self._image, self._said])
        self._changed(None)

    @property
    def value(self) -> Any:
        """The value chosen; assign to move the slider without a browser."""
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
        except Exception as error:  # in a callback it would vanish: show it where the reader looks
            self.chart, self._image.value = None, b""
            self._said.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"

    def __repr__(self) -> str:
        return f"<Tuner {self.name}={self.value}: {self.chart!r}>"


def tune(draw: Callable[[Any], Any], **values: Sequence[Any]) -> Tuner:
    """Make a slider over `name=values` and show `draw(value)`, a chart, under it.

    `tune(draw, k=range(1, 21))`; a pair `k=(range(1, 21), 4)` says where the slider starts.
    """
    if len(values) != 1:
        raise ValueError(f"tune takes exactly one parameter, got {sorted(values)}; write tune(draw, k=range(1, 11))")
    [(name, chosen)] = values.items()
    start = None
    if isinstance(chosen, tuple) and len(chosen) == 2 and isinstance(chosen[0], Sequence):
        chosen, start = chosen
    options = list(chosen)
    if len(options) < 2:
        raise ValueError(f"{name} must have 2 or more values, got {options}; one value leaves nothing to turn")
    return Tuner(draw, name, options, options[0] if start is None else start)
