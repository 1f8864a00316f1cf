"""A picture that states its facts.

What it holds: `Chart`, which every function of `agentkit.plots` returns, and the words that facts are put in.
Guarantees: the `repr` of a chart says what the picture shows, the same on every run and every Python, so it can be
compared by nbval and read aloud as alt text; matplotlib's global settings and pyplot are never touched.
Strategy: facts are computed when the chart is made; the picture is drawn when somebody looks at it, once.
Opened by notebook 00.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkit.plots.style import COLOURS, DPI, house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Chart", "count", "number", "phrase", "seconds"]


class Chart:
    """A picture with its facts in words.

    >>> from agentkit import Outcome, Report
    >>> from agentkit.plots import timeline
    >>> chart = timeline(Report([Outcome(0, "a", "success", started=0.0, finished=2.0)]))
    >>> chart
    <Timeline: 1 agent, at most 1 in flight, 2 s, 1 succeeded; no limit, waited 0 s, ran 2 s>
    >>> chart.facts["seconds"]
    2.0

    A notebook shows it as the last line of a cell. `figure` is an ordinary `matplotlib.figure.Figure`.
    """

    def __init__(
        self, kind: str, title: str, said: Iterable[str], facts: dict[str, Any], draw: Callable[[], Figure]
    ) -> None:
        self.kind, self.title = kind, title
        self.facts = facts
        """What the picture shows, as numbers."""
        self._said = ", ".join(said).replace(";,", ";")
        self._draw = draw

    @property
    def alt(self) -> str:
        """The picture in words, for those who cannot see it."""
        return f"{self.kind}: {self._said}. {self.title}."

    @cached_property
    def figure(self) -> Figure:
        """The drawing, made when first asked for."""
        with house_style():
            return self._draw()

    @cached_property
    def _png(self) -> bytes:
        """The drawing as a PNG of few colours: it lies in the notebook for good, so it should be small."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        canvas: Any = FigureCanvasAgg(self.figure)
        with house_style():
            canvas.draw()
        image = Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()), "raw", "RGBA", 0, 1)
        file = io.BytesIO()
        image.convert("RGB").quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            file, "png", optimize=True
        )
        return file.getvalue()

    def save(self, path: str | Path, *, dpi: int = 2 * DPI) -> Path:
        """Write the picture to a file, in the format its name ends in (`.png`, `.svg`, `.pdf`); return the path."""
        with house_style():
            self.figure.savefig(path, dpi=dpi)
        return Path(path)

    def _repr_png_(self) -> bytes:
        return self._png

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Hand the notebook picture, words, and the words again as alt text."""
        return {"text/plain": repr(self), "image/png": self._png}, {"image/png": {"alt": self.alt}}

    def __repr__(self) -> str:
        return f"<{self.kind}: {self._said}>"


def number(value: float) -> str:
    """A number to three digits, never in powers of ten.

    >>> number(10.2468), number(12345.6), number(0.5), number(3)
    ('10.2', '12,346', '0.5', '3')
    """
    value = round(float(value), 9)  # sums that differ in the last bit must read the same
    if value in (float("inf"), float("-inf")) or value != value:
        return str(value)
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.6f}".rstrip("0").rstrip(".") or "0" if "e" in text else text


def seconds(value: float | None) -> str:
    """A duration to three digits, with its unit.

    >>> seconds(36.714), seconds(None)
    ('36.7 s', 'unknown')
    """
    return "unknown" if value is None else f"{number(value)} s"


def count(amount: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> count(1, "retry", "retries"), count(1200, "agent")
    ('1 retry', '1,200 agents')
    """
    return f"{amount:,} {one if amount == 1 else many or one + 's'}"


def phrase(names: Sequence[str], values: Sequence[float]) -> str:
    """Names with their numbers: `phrase(["a", "b"], [1, 2.5])` is `'a 1, b 2.5'`."""
    return ", ".join(f"{name} {number(value)}" for name, value in zip(names, values, strict=True))
