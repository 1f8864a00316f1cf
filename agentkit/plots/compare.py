"""Several runs on one time axis: the staircase becomes a block.

What it holds: `compare`.
Guarantee: all panels share one scale, so a bar twice as long took twice the time.
Opened by notebook 01.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentkit.plots import bars, events, spans
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.facts import facts_of, labels_for, mark_of, mark_words, words_of
from agentkit.plots.style import INK, heading, legend, page, plain
from agentkit.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compare"]


def compare(
    *reports: Report,
    labels: Sequence[object] | None = None,
    title: str | None = None,
    mark: tuple[float, str] | None = None,
) -> Chart:
    """Draw runs one below the other on one time axis.

    >>> from agentkit import Outcome, Report
    >>> one = Report([Outcome(i, i, "success", started=2.0 * i, finished=2.0 * i + 2) for i in range(3)])
    >>> all_ = Report([Outcome(i, i, "success", started=0.0, finished=2.0) for i in range(3)])
    >>> compare(one, all_, labels=["one after another", "all at once"]).title
    'One after another 6 s, all at once 2 s: 3 times as fast'

    `labels` names the runs, one text per report. `mark=(3, "the caller leaves")` draws an upright line through all of
    them at 3 s and says in the legend what it stands for.
    """
    if not reports:
        raise ValueError("compare needs at least 1 report, got none; call compare(first, second)")
    names = labels_for(reports, labels)
    facts = {name: facts_of(report) for name, report in zip(names, reports, strict=True)}
    if len(facts) != len(names):
        raise ValueError(f"labels must differ from each other, got {names}")
    said = [f"{name}: {', '.join(words_of(fact)).replace(';,', ',')};" for name, fact in facts.items()]
    mark = mark_of(mark)
    said = [*said, mark_words(mark)] if mark else [*said[:-1], said[-1].rstrip(";")]
    title = title if title is not None else _finding(facts)
    return Chart(
        "Compare", title, said, {"runs": facts, "mark": mark}, lambda: _draw(reports, names, facts, title, mark)
    )


def _finding(facts: dict[str, dict[str, Any]]) -> str:
    times = [fact["seconds"] for fact in facts.values()]
    said = ", ".join(f"{name} {seconds(time)}" for name, time in zip(facts, times, strict=True))
    said = said[:1].upper() + said[1:]
    if len(times) != 2 or not all(times):
        return said
    gain = times[0] / times[1]
    if 0.98 < gain < 1.02:
        return f"{said}: no difference"
    return f"{said}: {number(gain if gain > 1 else 1 / gain)} times as {'fast' if gain > 1 else 'long'}"


def _draw(
    reports: Sequence[Report],
    names: Sequence[str],
    facts: dict[str, dict[str, Any]],
    title: str,
    mark: tuple[float, str] | None,
) -> Figure:
    runs = [events.rows(report) for report in reports]
    heights = [min(max(26, spans.height(rows, 18) * len(rows)), max(60, 420 / len(runs))) for rows in runs]
    rooms = [height / max(len(rows), 1) for height, rows in zip(heights, runs, strict=True)]
    called = any(map(events.has_spans, reports))
    key = bars.key([row for rows in runs for row in rows], called, max(rooms), mark)
    figure, panels = page(title, heights, names=[""], entries=list(key), ylabel=False, gap=28, above=22)
    end = max([*(events.now(report) for report in reports), *([mark[0]] if mark else [])])
    for axes, rows, name, room in zip(panels, runs, names, rooms, strict=True):
        fact = facts[name]
        about = f"{count(fact['agents'], 'agent')}, at most {fact['peak_in_flight']} in flight"
        bars.draw(axes, rows, room)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks([])
        axes.axvline(fact["seconds"], color=INK, linewidth=0.9)
        heading(axes, f"{plain(name, 300)}: {about}, {seconds(fact['seconds'])}")
        bars.time_axis(axes, end, labelled=axes is panels[-1])
        bars.upright(axes, mark)
        if room >= bars.DENSE_BELOW:
            spans.draw(axes, rows, room, [fact["seconds"], *([mark[0]] if mark else [])])
    legend(figure, list(key.values()), list(key))
    return figure
