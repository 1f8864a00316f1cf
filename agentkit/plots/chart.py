"""A chart that states its facts.

What it holds: `Chart`, which every chart function of `agentkit.plots` returns, and `number`, `seconds` and `count`,
which format facts.
Guarantees: the `repr` of a chart states what the image shows and is the same on every run and every Python, so nbval
can compare it and a screen reader can read it; matplotlib's global settings and pyplot are never touched.
Strategy: facts are computed when the chart is created; the image is drawn on first access and cached.
Opened by notebook 00.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkit.plots.style import COLORS, DPI, house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Chart", "count", "number", "seconds"]


class Chart:
    """An image together with its facts in words.

    >>> from agentkit import Outcome, Report
    >>> from agentkit.plots import timeline
    >>> chart = timeline(Report([Outcome(0, "a", "success", started=0.0, finished=2.0)]))
    >>> chart
    <Timeline: 1 agent, at most 1 in flight, 2 s, 1 succeeded; no limit, waited 0 s, ran 2 s>
    >>> chart.facts["seconds"]
    2.0

    A notebook displays it if it is the last expression of a cell. `figure` is an ordinary `matplotlib.figure.Figure`.
    """

    def __init__(
        self, kind: str, title: str, said: Iterable[str], facts: dict[str, Any], draw: Callable[[], Figure]
    ) -> None:
        self.kind, self.title = kind, title
        self.facts = facts
        """What the image shows, as numbers."""
        self._said = ", ".join(said).replace(";,", ";")
        self._draw = draw

    @property
    def alt(self) -> str:
        """The alt text: facts and title in words."""
        return f"{self.kind}: {self._said}. {self.title}."

    @cached_property
    def figure(self) -> Figure:
        """The matplotlib figure, drawn on first access."""
        with house_style():
            return self._draw()

    @cached_property
    def _png(self) -> bytes:
        """The image as a PNG with a small palette, because it is stored in the notebook."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        canvas: Any = FigureCanvasAgg(self.figure)
        with house_style():
            canvas.draw()
        image = Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()), "raw", "RGBA", 0, 1)
        file = io.BytesIO()
        image.convert("RGB").quantize(COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            file, "png", optimize=True
        )
        return file.getvalue()

    def save(self, path: str | Path, *, dpi: int = 2 * DPI) -> Path:
        """Write the image to a file, in the format of its extension (`.png`, `.svg`, `.pdf`); return the path."""
        with house_style():
            self.figure.savefig(path, dpi=dpi)
        return Path(path)

    def _repr_png_(self) -> bytes:
        return self._png

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return image, text and alt text for the notebook."""
        return {"text/plain": repr(self), "image/png": self._png}, {"image/png": {"alt": self.alt}}

    def __repr__(self) -> str:
        return f"<{self.kind}: {self._said}>"


def number(value: float) -> str:
    """Format a number to three significant digits, without an exponent.

    >>> number(10.2468), number(12345.6), number(0.5), number(3)
    ('10.2', '12,346', '0.5', '3')
    """
    value = round(float(value), 9)  # sums that differ in the last bit must print the same
    if value in (float("inf"), float("-inf")) or value != value:
        return str(value)
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.6f}".rstrip("0").rstrip(".") or "0" if "e" in text else text


def seconds(value: float | None) -> str:
    """Format a duration to three significant digits, with its unit.

    >>> seconds(36.714), seconds(None)
    ('36.7 s', 'unknown')
    """
    return "unknown" if value is None else f"{number(value)} s"


def count(amount: int, one: str, many: str | None = None) -> str:
    """Format a count with its noun.

    >>> count(1, "retry", "retries"), count(1200, "agent")
    ('1 retry', '1,200 agents')
    """
    return f"{amount:,} {one if amount == 1 else many or one + 's'}"
