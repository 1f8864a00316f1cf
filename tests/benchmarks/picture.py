"""The benchmark table as a picture: four panels of bars, agentkit's dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentkit.plots.chart import Chart
from agentkit.plots.style import INK, SOFT, heading, page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Panel", "picture"]

BAR = 22  # pixels


@dataclass(frozen=True)
class Panel:
    """One measure, a bar for each system."""

    says: str
    """What is measured."""
    names: Sequence[str]
    """The systems, best first; agentkit's begin with its name."""
    values: Sequence[float]
    """Their figures."""
    digits: int = 2
    """Decimals shown."""

    def text(self, value: float) -> str:
        """A figure as it is shown."""
        return f"{value:,.{self.digits}f}"


def picture(title: str, panels: Sequence[Panel]) -> Chart:
    """A chart of bars, one panel below the other."""
    said = [
        f"{p.says}: " + ", ".join(f"{n} {p.text(v)}" for n, v in zip(p.names, p.values, strict=True)) for p in panels
    ]

    def draw() -> Figure:
        heights = [BAR * len(panel.names) for panel in panels]
        names = [name for panel in panels for name in panel.names]
        figure, all_axes = page(title, heights, names=names, ylabel=False, gap=44, above=22, right=70)
        for axes, panel in zip(all_axes, panels, strict=True):
            heading(axes, panel.says)
            rows = range(len(panel.names))
            colours = [INK if name.startswith("agentkit") else SOFT for name in panel.names]
            axes.barh(rows, panel.values, height=0.68, color=colours)
            axes.set_yticks(rows, panel.names)
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
            axes.set_ylim(len(panel.names) - 0.5, -0.5)
            axes.set_xlim(0, max(panel.values) or 1)
            for row, value in enumerate(panel.values):
                axes.annotate(panel.text(value), (value, row), (5, 0), textcoords="offset points", va="center")
        return figure

    return Chart(
        "Benchmarks",
        title,
        ["; ".join(said)],
        {p.says: dict(zip(p.names, p.values, strict=True)) for p in panels},
        draw,
    )
