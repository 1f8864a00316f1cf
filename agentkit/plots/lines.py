"""Several ways to do one thing, measured at the same points.

What it holds: `ways`, a line for each way on axes that multiply: a step to the right is ten times as many.
Guarantee: every point drawn is one that was measured, and the `repr` lists them; ways with equal figures share a line
and are named together.
Opened by notebook 05.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentkit.plots.chart import Chart, number
from agentkit.plots.style import FAINT, SERIES, legend, page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ways"]

MARKERS = "osD^vX"


def ways(
    xs: Sequence[float],
    measured: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
) -> Chart:
    """Draw one line per way over `xs`; both axes are logarithmic, so all figures must be above 0.

    >>> ways([1, 10], {"lock": [1, 10], "queue": [1, 10], "merge": [1, 1]}, xlabel="writers", ylabel="seconds")
    <Ways: seconds against writers 1, 10: lock, queue 1, 10; merge 1, 1>
    """
    wrong = [name for name, ys in measured.items() if len(ys) != len(xs) or min(ys, default=1) <= 0]
    if wrong or not measured or min(xs, default=1) <= 0:
        raise ValueError(f"measured must hold one figure above 0 for each of {list(xs)}, got {wrong or measured}")
    together: dict[tuple[float, ...], list[str]] = {}
    for name, ys in measured.items():
        together.setdefault(tuple(ys), []).append(name)
    lines = [(", ".join(names), ys) for ys, names in together.items()]
    facts = {"xlabel": xlabel, "ylabel": ylabel, "xs": list(xs), "ways": {k: list(v) for k, v in measured.items()}}
    listed = "; ".join(f"{name} {', '.join(map(number, ys))}" for name, ys in lines)
    said = [f"{ylabel} against {xlabel} {', '.join(map(number, xs))}: {listed}"]
    finding = title if title is not None else f"{ylabel[:1].upper()}{ylabel[1:]} against {xlabel}"
    return Chart("Ways", finding, said, facts, lambda: _draw(xs, lines, xlabel, ylabel, finding))


def _draw(
    xs: Sequence[float], lines: Sequence[tuple[str, Sequence[float]]], xlabel: str, ylabel: str, title: str
) -> Figure:
    entries = [name for name, _ in lines]
    widest = max((number(y) for _, ys in lines for y in ys), key=len)
    figure, (axes,) = page(title, [210], names=[widest], entries=entries)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color=FAINT, linewidth=0.8)
    handles: list[Any] = []
    for i, (_, ys) in enumerate(lines):
        colour, dash = SERIES[i % len(SERIES)]
        look: dict[str, Any] = {
            "color": colour,
            "linestyle": dash,
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 5,
        }
        handles += axes.plot(xs, ys, linewidth=1.6, clip_on=False, **look)
    for axis, shown in ((axes.xaxis, sorted(set(xs))), (axes.yaxis, _decades([y for _, ys in lines for y in ys]))):
        axis.set_ticks(shown, [number(value) for value in shown])
        axis.set_ticks([], minor=True)
    axes.set_xlabel(xlabel, labelpad=3)
    axes.set_ylabel(ylabel)
    legend(figure, handles, entries)
    return figure


def _decades(values: Sequence[float]) -> list[float]:
    """Return the powers of ten around the values."""
    from math import ceil, floor, log10

    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]
