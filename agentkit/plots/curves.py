"""Measured points and the lines through them.

What it holds: `curve`, any quantity against any other; `knee`, throughput and p95 against concurrency; `ways`, a line
per alternative on logarithmic axes.
Guarantee: every point drawn was measured, and the `repr` lists them; the lines between points only guide the eye.
How to read a knee: to its left, more concurrency buys throughput; to its right, only waiting.
Opened by notebooks 00, 05 and 08.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.style import CALLING, FAINT, INK, SERIES, SOFT, legend, level, page, ticks
from agentkit.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curve", "knee", "ways"]

Row = tuple[float, float, float | None]
"""Concurrency, agents per second, p95 in seconds."""

LISTED = 20  # points listed one by one in the repr
KNEE = 0.95  # the knee is the first point with this share of the best throughput
MARKERS = "osD^vX"  # of `ways`
IDEAL: dict[str, Any] = {"color": SOFT, "linestyle": (0, (2, 2)), "linewidth": 1.2}
POINTS: dict[str, Any] = {"color": CALLING, "marker": "o", "markersize": 5.5, "linewidth": 1.6, "clip_on": False}
CHOSEN: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 12,
    "markerfacecolor": "none",
    "markeredgecolor": INK,
    "markeredgewidth": 2.2,
}


def curve(
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    highlight: float | None = None,
    ideal: Sequence[float] | None = None,
    ideal_name: str = "ideal",
    limit: float | None = None,
) -> Chart:
    """Draw measured points, with one highlighted, for example the value of a slider.

    >>> curve([1, 5, 10], [200, 40, 20], xlabel="max_concurrency", ylabel="makespan, s", highlight=5)
    <Curve: makespan, s against max_concurrency: 1: 200, 5: 40, 10: 20; highlighted 5: 40>

    `ideal` is a second, dotted line: the theoretical values at the same `xs`, named by `ideal_name`. `limit` is a
    horizontal line.
    """
    if len(xs) != len(ys) or (ideal is not None and len(ideal) != len(xs)):
        raise ValueError(f"xs, ys and ideal must be equally long, got {len(xs)} and {len(ys)}; give one y per x")
    if highlight is not None and highlight not in xs:
        raise ValueError(f"highlight must be one of xs, got {highlight!r}; xs are {list(xs)}")
    pairs = sorted(zip(xs, ys, strict=True))
    theory = sorted(zip(xs, ideal, strict=True)) if ideal is not None else []
    chosen = next((pair for pair in pairs if pair[0] == highlight), None)
    facts = {"xlabel": xlabel, "ylabel": ylabel, "points": pairs, "highlight": chosen, "ideal": theory, "limit": limit}
    facts["ideal_name"] = ideal_name
    said = [f"{ylabel} against {xlabel}: {_points(pairs)};"]
    said += [f"highlighted {_points([chosen])};"] if chosen else []
    said += [f"{ideal_name} {_points(theory)};"] if theory else []
    said += [f"limit {number(limit)};"] if limit is not None else []
    said[-1] = said[-1].rstrip(";")
    if title is None:
        title = f"{ylabel} against {xlabel}" + (f": {number(chosen[1])} at {number(chosen[0])}" if chosen else "")
        title = title[:1].upper() + title[1:] if len(ylabel) > 1 else title
    return Chart("Curve", title, said, facts, lambda: _draw_curve(facts, str(title)))


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    if not pairs:
        return "no points"
    if len(pairs) <= LISTED:
        return ", ".join(f"{number(x)}: {number(y)}" for x, y in pairs)
    low, high = min(pairs, key=lambda pair: pair[1]), max(pairs, key=lambda pair: pair[1])
    mean = number(sum(y for _, y in pairs) / len(pairs))
    named = {"first": pairs[0], "last": pairs[-1], "lowest": low, "highest": high}
    return f"{count(len(pairs), 'point')}, mean {mean}, " + ", ".join(f"{n} {_points([p])}" for n, p in named.items())


def _draw_curve(facts: dict[str, Any], title: str) -> Figure:
    pairs, chosen, theory, limit = (facts[name] for name in ("points", "highlight", "ideal", "limit"))
    entries = [
        w for w, there in (("measured", theory), (facts["ideal_name"], theory), ("chosen", chosen and theory)) if there
    ]
    highest = max([y for _, y in [*pairs, *theory]] + [limit or 0.0], default=0.0)
    lowest = min([y for _, y in [*pairs, *theory]], default=0.0)
    figure, (axes,) = page(title, [210], names=[f"{y:,.1f}0" for y in (lowest, highest)], entries=entries)
    _frame(axes, [x for x, _ in pairs], highest, lowest)
    handles = axes.plot(*_columns(pairs), **_points_look(len(pairs)))
    if theory:
        handles += axes.plot(*_columns(theory), zorder=1, **IDEAL)
    if chosen:
        handles += axes.plot([chosen[0]], [chosen[1]], zorder=4, clip_on=False, **CHOSEN)
    if limit is not None:
        level(axes, limit, f"limit {number(limit)}")
    axes.set_xlabel(facts["xlabel"], labelpad=3)
    axes.set_ylabel(facts["ylabel"])
    legend(figure, handles, entries)
    return figure


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _points_look(many: int) -> dict[str, Any]:
    return POINTS if many <= 40 else {**POINTS, "markersize": 2.5, "linewidth": 1.0}


def _frame(axes: Axes, xs: Sequence[float], highest: float, lowest: float = 0.0) -> None:
    axes.grid(color=FAINT, linewidth=0.8)
    tall = axes.bbox.height
    axes.set_ylim(min(0.0, 1.08 * lowest), (highest or 1.0) * tall / (tall - 16))
    low, high = min(xs, default=0.0), max(xs, default=1.0)
    axes.set_xlim(min(0.0, low), high + 0.03 * ((high - min(0.0, low)) or 1.0))
    ticks(axes, xs)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def knee(
    points: Iterable[Sequence[Any]],
    *,
    limit: float | None = None,
    highlight: float | None = None,
    title: str | None = None,
) -> Chart:
    """Draw throughput and p95 latency against concurrency, and mark where more concurrency stops helping.

    >>> knee([(1, 0.5, 2.0), (4, 2.0, 2.0), (8, 2.5, 3.2), (16, 2.5, 6.4)])
    <Knee: knee at 8, throughput per s (p95 in s): 1: 0.5 (2), 4: 2 (2), 8: 2.5 (3.2), 16: 2.5 (6.4)>

    A row is `(k, report)` or `(k, throughput, p95)`: agents per second, and seconds or None. The knee is the first
    row with 95 % of the best throughput, unless that is the last. `limit` is the provider's capacity in agents per
    second; `highlight` is the k to highlight. The dotted line is the ideal: throughput proportional to k.
    """
    rows = sorted(map(_row, points))
    if not rows:
        raise ValueError("points must hold 1 row or more, got none; a row is (k, report) or (k, throughput, p95)")
    best = max(throughput for _, throughput, _ in rows)
    at = next((row for row in rows[:-1] if row[1] >= KNEE * best), None)
    last = number(rows[-1][0])
    chosen = next((row for row in rows if row[0] == highlight), None)
    if highlight is not None and chosen is None:
        raise ValueError(
            f"highlight must be one of the measured k, got {highlight!r}; they are {[k for k, *_ in rows]}"
        )
    facts = {"points": rows, "knee": at and at[0], "best_throughput": best, "limit": limit, "highlight": chosen}
    said = [
        f"knee at {number(at[0])}" if at else f"no knee up to {last}",
        f"throughput per s (p95 in s): {_row_words(rows[0])}",
        *map(_row_words, rows[1:]),
    ]
    said[-1] += f"; limit {number(limit)} per s" if limit is not None else ""
    said[-1] += f"; highlighted {number(chosen[0])}" if chosen else ""
    title = _knee_finding(at, rows[-1], best) if title is None else title
    return Chart("Knee", title, said, facts, lambda: _draw_knee(facts, title))


def _knee_finding(at: Row | None, last: Row, best: float) -> str:
    if at is None:
        return f"No knee up to {number(last[0])} in flight: {number(best)} agents per second at best"
    title = f"{number(at[1])} agents per second from {number(at[0])} in flight on"
    if at[2] is None or last[2] is None:
        return title
    return f"{title}; p95 there {seconds(at[2])}, at {number(last[0])} in flight {seconds(last[2])}"


def _row(row: Sequence[Any]) -> Row:
    if len(row) == 2 and isinstance(row[1], Report):
        return row[0], row[1].summary.throughput, row[1].summary.latency_p95
    if len(row) == 3:
        return row[0], float(row[1]), None if row[2] is None else float(row[2])
    raise ValueError(f"a row of points must be (k, report) or (k, throughput, p95), got {row!r:.80}")


def _row_words(row: Row) -> str:
    k, throughput, p95 = row
    return f"{number(k)}: {number(throughput)} ({'none' if p95 is None else number(p95)})"


def _draw_knee(facts: dict[str, Any], title: str) -> Figure:
    rows, limit, chosen = facts["points"], facts["limit"], facts["highlight"]
    highest = max(facts["best_throughput"], limit or 0.0) * 1.06
    entries = ["measured", "ideal", *(["knee"] if facts["knee"] is not None else []), *(["chosen"] if chosen else [])]
    figure, (top, below) = page(title, [150, 110], names=["10,000"], entries=entries, gap=16)
    ks = [k for k, *_ in rows]
    tails = [(k, p95) for k, _, p95 in rows if p95 is not None]
    _frame(top, ks, highest)
    _frame(below, ks, max([p95 for _, p95 in tails], default=1.0))
    slope = rows[0][1] / rows[0][0] if rows[0][0] else 0.0
    reach = min(ks[-1], highest / slope) if slope else 0.0
    handles = top.plot([k for k, *_ in rows], [throughput for _, throughput, _ in rows], **_points_look(len(rows)))
    handles += top.plot([0, reach], [0, slope * reach], zorder=1, **IDEAL)
    below.plot(*_columns(tails), **_points_look(len(rows)))
    if facts["knee"] is not None:
        handles += [axes.axvline(facts["knee"], color=INK, linewidth=1.0, zorder=1) for axes in (below, top)][1:]
    if chosen:
        handles += top.plot([chosen[0]], [chosen[1]], zorder=4, clip_on=False, **CHOSEN)
        below.plot([chosen[0]], [chosen[2] or 0.0], zorder=4, clip_on=False, **CHOSEN)
    if limit is not None:
        level(top, limit, f"limit {number(limit)} per s")
    top.tick_params(labelbottom=False)
    top.set_ylabel("agents per s")
    below.set_ylabel("p95, s")
    below.set_xlabel("in flight at most (max_concurrency)", labelpad=3)
    legend(figure, handles, entries)
    return figure


def ways(
    xs: Sequence[float],
    measured: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
) -> Chart:
    """Draw one line per alternative over `xs`; both axes are logarithmic, so all values must be above 0.

    >>> ways([1, 10], {"lock": [1, 10], "queue": [1, 10], "merge": [1, 1]}, xlabel="writers", ylabel="seconds")
    <Ways: seconds against writers 1, 10: lock, queue 1, 10; merge 1, 1>

    Alternatives with equal values share a line and a legend entry.
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
    return Chart("Ways", finding, said, facts, lambda: _draw_ways(xs, lines, xlabel, ylabel, finding))


def _draw_ways(
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
        color, dash = SERIES[i % len(SERIES)]
        look: dict[str, Any] = {
            "color": color,
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
    """Return the powers of ten that cover the values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]
