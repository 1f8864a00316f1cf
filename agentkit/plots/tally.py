"""How often each result came out: of all interleavings, or of many runs.

What it holds: `outcomes`.
Guarantee: bars are in order of frequency, ties in order of name, so the picture is the same for the same counts.
Opened by notebook 04.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentkit.plots.chart import Chart, count, number
from agentkit.plots.style import FAINT, SOFT, TROUBLE, legend, page, plain, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["outcomes"]

ROWS = 12  # more results are drawn as one bar
NONE = object()


def outcomes(
    counts: Mapping[Any, int] | Any, *, right: object = NONE, of: str = "interleaving", title: str | None = None
) -> Chart:
    """Draw how often each result came out, the wrong ones marked.

    >>> outcomes({2: 2, 1: 18}, right=2)
    <Outcomes: 20 interleavings, 2 different results: 1 ×18 (wrong), 2 ×2 (right); 2 of 20 right>

    `counts` maps each result to its number, or is what `explore` returns. `right` is the result that should always
    come out; without it nothing is called wrong. `of` names what was counted.
    """
    table: Mapping[Any, int] = counts if isinstance(counts, Mapping) else counts.outcomes
    rows = sorted(((str(result), times) for result, times in table.items()), key=lambda row: (-row[1], row[0]))
    total = sum(times for _, times in rows)
    good = None if right is NONE else str(right)
    facts: dict[str, Any] = {
        "total": total,
        "counts": dict(rows),
        "right": None if good is None else dict(rows).get(good, 0),
    }
    said = [
        f"{count(total, of)}, {count(len(rows), 'different result')}: {', '.join(_row(*row, good) for row in rows)}"
    ]
    said[-1] = said[-1].removesuffix(": ")
    said[-1] += f"; {facts['right']:,} of {total:,} right" if good is not None else ""
    if title is None:
        title = f"{count(total, of)}, {count(len(rows), 'different result')}"
        title += f": {facts['right']:,} right, {total - (facts['right'] or 0):,} wrong" if good is not None else ""
    return Chart("Outcomes", title, said, facts, lambda: _draw(_bars(rows, good), total, of, str(title)))


def _row(result: str, times: int, good: str | None) -> str:
    verdict = "" if good is None else " (right)" if result == good else " (wrong)"
    return f"{result} ×{times:,}{verdict}"


def _bars(rows: Sequence[tuple[str, int]], good: str | None) -> list[tuple[str, int, bool]]:
    """Name, number, and whether it is wrong; the rare wrong ones as a single bar, the right one never among them."""
    keep = len(rows) if len(rows) <= ROWS else ROWS - 1
    shown = [row for i, row in enumerate(rows) if i < keep or row[0] == good]
    rest = [row for row in rows if row not in shown]
    bars = [(plain(name, 240), times, good is not None and name != good) for name, times in shown]
    if rest:
        bars.append((f"{len(rest)} others", sum(times for _, times in rest), good is not None))
    return bars


def _draw(bars: Sequence[tuple[str, int, bool]], total: int, of: str, title: str) -> Figure:
    verdicts = {True: "wrong", False: "right"} if any(bad for *_, bad in bars) else {}
    entries = [verdicts[bad] for bad in (False, True) if verdicts and any(bar[2] is bad for bar in bars)]
    names = [name for name, *_ in bars]
    shares = [f"{times:,} ({number(100 * times / total)} %)" if total else "0" for _, times, _ in bars]
    room = 16 + max(map(text_width, shares), default=0)
    figure, (axes,) = page(title, [max(30, 26 * len(bars))], names=names, entries=entries, ylabel=False, right=room)
    handles: dict[str, Any] = {}
    for y, (_, times, bad) in enumerate(bars):
        look: dict[str, Any] = {"color": TROUBLE, "hatch": "///", "edgecolor": "white"} if bad else {"color": SOFT}
        handles[verdicts.get(bad, "")] = axes.barh(y, times, height=0.66, linewidth=0, **look)
        axes.annotate(shares[y], (times, y), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(bars)), names)
    axes.set_ylim(max(len(bars), 1) - 0.4, -0.6)
    axes.set_xlim(0, max([times for _, times, _ in bars] + [0]) or 1)
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_xlabel(f"{of}s", labelpad=3)
    legend(figure, [handles[word] for word in entries], entries)
    return figure
