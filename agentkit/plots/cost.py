"""Cumulative cost of a run: tokens and money.

What it holds: `cost`.
Guarantee: counts the usage of each task at the time the task ended, so the curves end at the sums in
`report.summary.usage`. Calls whose usage is not known may have cost more; the provider's log has those.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from agentkit.plots.bars import time_axis
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.style import INK, SERIES, legend, level, page
from agentkit.report import Report
from agentkit.report.report import used

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cost"]

Row = tuple[float, int, int, int]
"""Second, requests, input tokens, output tokens."""

WORDS = ("tokens in all", "input tokens", "output tokens")


def cost(
    report: Report,
    *,
    prices: tuple[float, float] | None = None,
    budget: float | None = None,
    currency: str = "USD",
    title: str | None = None,
) -> Chart:
    """Draw cumulative tokens, and cumulative cost if `prices` are given, over the run.

    >>> from agentkit import Outcome, Reply, Report, Usage
    >>> reply = Reply("yes", Usage(1, 900, 100))
    >>> run = Report([Outcome(i, i, "success", reply, started=0.0, finished=1.0 + i) for i in range(3)])
    >>> cost(run, prices=(2.0, 10.0))
    <Cost: 3 requests, 2,700 input tokens, 300 output tokens, 0.0084 USD; half of the tokens by 2 s, all by 3 s>

    `prices` are the prices of a million input tokens and a million output tokens. `budget` is a level to draw: money
    if there are prices, else tokens.
    """
    rows = _rows(report)
    money = list(accumulate(_price(row, prices) for row in rows)) if prices else []
    tokens = list(accumulate(i + o for _, _, i, o in rows))
    facts: dict[str, Any] = {
        "requests": sum(requests for _, requests, _, _ in rows),
        "input_tokens": sum(i for _, _, i, _ in rows),
        "output_tokens": sum(o for *_, o in rows),
        "money": money[-1] if money else None,
        "half_by": next((row[0] for row, n in zip(rows, tokens, strict=True) if 2 * n >= tokens[-1]), 0.0),
        "seconds": rows[-1][0] if rows else 0.0,
        "budget": budget,
    }
    spent = f"{_money(facts['money'])} {currency}" if prices else ""
    if title is None:
        total = f"{facts['input_tokens'] + facts['output_tokens']:,} tokens" + (f", {spent}" if spent else "")
        title = f"{total} for {count(facts['requests'], 'request')} in {seconds(facts['seconds'])}"
    return Chart("Cost", title, _words(facts, spent), facts, lambda: _draw(rows, money, budget, currency, str(title)))


def _words(facts: dict[str, Any], spent: str) -> list[str]:
    words = [count(facts["requests"], "request"), f"{facts['input_tokens']:,} input tokens"]
    words += [f"{facts['output_tokens']:,} output tokens", *([spent] if spent else [])]
    words[-1] += ";"
    words += [f"half of the tokens by {seconds(facts['half_by'])}", f"all by {seconds(facts['seconds'])}"]
    return words + ([f"budget {_money(facts['budget'])}"] if facts["budget"] is not None else [])


def _rows(report: Report) -> list[Row]:
    """`(second, requests, input tokens, output tokens)` of each task with a usage, by time."""
    ended = [(o.finished or 0.0, used(o)) for o in report]
    rows = [(at, usage.requests, usage.input_tokens, usage.output_tokens) for at, usage in ended if usage is not None]
    return sorted(rows, key=lambda row: row[0])


def _price(row: Row, prices: tuple[float, float] | None) -> float:
    return (row[2] * prices[0] + row[3] * prices[1]) / 1e6 if prices else 0.0


def _money(value: float | None) -> str:
    return "0" if not value else f"{value:,.2f}" if value >= 100 else number(value)


def _draw(rows: Sequence[Row], money: Sequence[float], budget: float | None, currency: str, title: str) -> Figure:
    figure, panels = page(title, [150, *([90] if money else [])], names=["1,000,000"], entries=WORDS, gap=16)
    times, handles = [0.0, *(at for at, *_ in rows)], []
    for columns, (color, dash) in zip(((2, 3), (2,), (3,)), SERIES, strict=False):
        line = [0, *accumulate(sum(int(row[column]) for column in columns) for row in rows)]
        handles += panels[0].step(times, line, where="post", color=color, linestyle=dash, linewidth=1.6)
    _scale(panels[0], sum(i + o for _, _, i, o in rows), "tokens", None if money else budget)
    if money:
        panels[1].step(times, [0.0, *money], where="post", color=INK, linewidth=1.6)
        _scale(panels[1], money[-1], currency, budget)
    for axes in panels:
        time_axis(axes, times[-1], labeled=axes is panels[-1])
    legend(figure, handles, WORDS)
    return figure


def _scale(axes: Axes, highest: float, name: str, budget: float | None) -> None:
    axes.set_ylim(0, 1.25 * (max(highest, budget or 0.0) or 1.0))
    axes.locator_params(axis="y", nbins=4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if name == "tokens" else _money(value))
    axes.set_ylabel(name)
    if budget is not None:
        level(axes, budget, f"budget {_money(budget)}")
