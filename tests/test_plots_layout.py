"""Charts as pictures: text that is all there and does not overlap, and data of every size."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from agentkit import Outcome, Reply, Report, Usage, plots
from agentkit.lab.provider.call_log import CallRecord
from agentkit.plots import spans
from agentkit.plots.style import plain
from agentkit.report.outcome import Attempt, Span

STATUSES = ("success", "failed", "timeout", "cancelled", "rejected")


def run_of(agents: int, at_once: int = 8, *, statuses: tuple[str, ...] = ("success",), spans: bool = True) -> Report:
    """Agents in a row, each 1 to 2 s long, with every third retried where there are several statuses."""
    free, outcomes = [0.0] * at_once, []
    for i in range(agents):
        slot = i % at_once
        start, end, status = free[slot], free[slot] + 1.0 + i % 7 / 7, statuses[i % len(statuses)]
        result = Reply("yes", Usage(1, 900, 90)) if status == "success" else None
        error = None if status == "success" else RuntimeError("no")
        outcome = Outcome(i, i, status, result, error, started=start, finished=end)
        if status == "rejected":
            outcome.started, outcome.finished = None, start
        elif len(statuses) > 1 and i % 3 == 0:
            outcome.attempt_log = (Attempt(start, start + 0.25, RuntimeError("429")), Attempt(start + 0.75, end, error))
        if spans and status != "rejected":
            outcome.span_log = [Span("calling", start + 0.75, end - 0.125), Span("reading", start, start + 0.125)]
        free[slot] = end
        outcomes.append(outcome)
    return Report(outcomes, limits=[(0.0, at_once), (1.5, at_once + 2)])


SPANS = ("plan", "search the web for every word of the question", "read", "rank the answers", "write", "研究 $x_1$")


def run_with_spans(agents: int, levels: int = 1) -> Report:
    """Agents that name what they do: spans in a row and, from the second level on, spans inside them."""
    outcomes = []
    for i in range(agents):
        start, long = 0.5 * i, 6.0 + i % 5
        spans = [Span("calling", start + 0.3 * long, start + 0.6 * long)]
        for level in range(levels):
            parts = 2 + level
            width = (0.94 - 0.2 * level) * long / parts
            left = start + (0.03 + 0.1 * level) * long
            for part in range(parts):
                name = SPANS[(i + part + level) % len(SPANS)]
                spans.append(Span(name, left + part * width, left + (part + 1) * width))
        spans.append(Span("across", start + 0.45 * long, start + 0.8 * long))
        outcomes.append(Outcome(i, i, "success", started=start, finished=start + long, span_log=spans))
    for one in outcomes[1::3]:
        one.status, one.error = "timeout", TimeoutError("took longer")
    for one in outcomes[2::3]:
        middle = one.started + 0.5 * (one.finished - one.started)
        one.attempt_log = (Attempt(one.started, middle, RuntimeError("429")), Attempt(middle + 0.4, one.finished))
    return Report(outcomes, limits=[(0.0, agents)])


REPORTS: dict[str, Callable[[], Report]] = {
    "empty": lambda: Report([]),
    "one": lambda: run_of(1, 1, spans=False),
    "instant": lambda: Report([Outcome(0, "a", "success", started=0.0, finished=0.0)]),
    "never started": lambda: Report([Outcome(0, "a", "cancelled", error=RuntimeError("not started"))]),
    "all failed": lambda: run_of(14, statuses=("failed",)),
    "every status": lambda: run_of(40, statuses=STATUSES),
    "a thousand": lambda: run_of(1000, 50, statuses=STATUSES),
    "no limit": lambda: Report(run_of(5).individual_results, limits=[(0.0, float("inf"))]),
    "limit far above": lambda: Report(run_of(5).individual_results, limits=[(0.0, 1000)]),
}
KINDS = ("cost", "in_flight", "latency", "little", "queue_depth", "storm", "timeline")
LONG = "a name that goes on and on, longer than anybody would want to read it beside a picture"
OTHERS: dict[str, Callable[[], plots.Chart]] = {
    "long names": lambda: plots.timeline(run_of(30), labels=[f"{i} {LONG}" for i in range(30)], title=f"{LONG} {LONG}"),
    "odd names": lambda: plots.timeline(run_of(4), labels=["$x_", "研究", "two\nlines", ""]),
    "compare two": lambda: plots.compare(run_of(6, 1), run_of(6, 6), labels=["one after another", LONG]),
    "compare four": lambda: plots.compare(*(run_of(n, 3, statuses=STATUSES) for n in (0, 1, 20, 300))),
    "spans": lambda: plots.timeline(run_with_spans(6), mark=(1, LONG)),
    "nested spans": lambda: plots.timeline(run_with_spans(20, 4)),
    "spans of many agents": lambda: plots.timeline(run_with_spans(40, 2)),
    "spans compared": lambda: plots.compare(run_with_spans(3, 2), run_with_spans(9), mark=(30, "the caller leaves")),
    "side by side": lambda: plots.side_by_side(
        run_of(300, 1), run_of(300, 1200), Report([]), run_of(9, statuses=("failed",)), labels=["a", LONG, "none", "b"]
    ),
    "one side": lambda: plots.side_by_side([CallRecord(1, 2.0, status=429, finished=2.0)]),
    "queues": lambda: plots.queue_depth(*(run_of(40, n, statuses=STATUSES) for n in (2, 4, 8, 16))),
    "latencies": lambda: plots.latency(run_of(90), run_of(50, 3), run_of(0), of="waited", labels=["a", LONG, "none"]),
    "cost with prices": lambda: plots.cost(run_of(30), prices=(2.5, 10.0), budget=0.01),
    "cost with budget": lambda: plots.cost(run_of(30), budget=20_000),
    "storms": lambda: plots.storm([(i / 9, i % 7) for i in range(900)], [(0.0, 0)] * 50, [], labels=["a", "b", LONG]),
    "long storm": lambda: plots.storm([(float(i), i % 3) for i in range(2000)]),
    "outcomes": lambda: plots.outcomes({f"{i} {LONG}": (40 - i) ** 4 for i in range(40)}, right=f"7 {LONG}"),
    "no outcomes": lambda: plots.outcomes({}),
    "bucket": lambda: plots.bucket([(i / 8, i / 4 if i % 3 else None) for i in range(90)], rate=4, capacity=5),
    "empty bucket": lambda: plots.bucket([], rate=4, capacity=5),
    "bucket in debt": lambda: plots.bucket([(0, 0, 90_000)], rate=500, capacity=30_000, unit="tokens"),
    "knee": lambda: plots.knee([(k, min(k, 40) / 2, 2.0) for k in range(1, 101)], limit=20, highlight=50),
    "knee of one": lambda: plots.knee([(1, 0.0, None)]),
    "knee of reports": lambda: plots.knee([(k, run_of(60, k)) for k in (1, 2, 4, 8)]),
    "curve": lambda: plots.curve(range(1, 200), range(199, 0, -1), xlabel="k", ylabel="y", ideal=range(199), limit=50),
    "flat curve": lambda: plots.curve([3], [0.0], xlabel="k", ylabel="y", highlight=3),
    "curve below 0": lambda: plots.curve([-1, 2], [-100_000, 5], xlabel="k", ylabel="y"),
    "no curve": lambda: plots.curve([], [], xlabel="k", ylabel="y"),
    "pool": lambda: plots.pool([(f"{LONG} {i % 12}", i, i + 2) for i in range(60)], [0, 0.1, 5, 5.1]),
    "big pool": lambda: plots.pool([(f"t{i % 80}", i / 10, i / 10 + 2) for i in range(400)]),
    "no pool": lambda: plots.pool([]),
}
ALL = [
    *[(f"{kind} of {name}", lambda k=kind, n=name: REPORTS[n]().plot(k)) for kind in KINDS for name in REPORTS],
    *OTHERS.items(),
]


def texts_of(chart: plots.Chart) -> tuple[Any, list[tuple[str, Any]]]:
    """The figure's frame, and each text that is drawn in it with its frame."""
    canvas = FigureCanvasAgg(chart.figure)
    canvas.draw()
    found = []
    for text in chart.figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            found.append((text.get_text(), text.get_window_extent(canvas.get_renderer())))
    shown = set()
    for axes in chart.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                inside = low - 1e-9 <= tick.get_loc() <= high + 1e-9
                shown.update(id(label) for label in (tick.label1,) if not (inside and label.get_visible()))
    hidden = [t.get_window_extent(canvas.get_renderer()).bounds for t in chart.figure.findobj(Text) if id(t) in shown]
    return chart.figure.bbox, [(said, frame) for said, frame in found if frame.bounds not in hidden]


def overlap(a: Any, b: Any, slack: float = 1.0) -> bool:
    """Whether two frames share more than a pixel each way."""
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    high = min(a.y1, b.y1) - max(a.y0, b.y0)
    return bool(wide > slack and high > slack)


@pytest.mark.parametrize(("name", "make"), ALL, ids=[name for name, _ in ALL])
def test_Chart_text_is_inside_and_does_not_overlap(name: str, make: Callable[[], plots.Chart]) -> None:
    """Titles, tick labels, legends and remarks of any data lie within the picture and beside each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = make()
        png = chart._repr_png_()
        page, texts = texts_of(chart)
    assert len(png) <= 40_000
    assert chart.title
    outside = [said for said, frame in texts if frame.x0 < 0 or frame.y0 < 0 or frame.x1 > 700 or frame.y1 > page.y1]
    assert not outside
    touching = [(a, b) for (a, fa), (b, fb) in itertools.combinations(texts, 2) if overlap(fa, fb)]
    assert not touching


def names_of(chart: plots.Chart) -> list[Text]:
    """The names written into bars."""
    return [text for axes in chart.figure.axes for text in axes.texts if text.get_size() == spans.SIZE]


def bars_of(axes: Any) -> list[tuple[str, Any]]:
    """Each bar of a panel: its fill, and its frame in pixels."""
    found = []
    for boxes in axes.collections:
        fill = to_hex(boxes.get_facecolor()[0])
        for path in boxes.get_paths():
            (x0, y0), (x1, y1) = axes.transData.transform(path.get_extents())
            found.append((fill, Bbox.from_extents(x0, min(y0, y1), x1, max(y0, y1))))
    return found


def misplaced(chart: plots.Chart) -> list[str]:
    """Names that are not wholly inside a bar of one fill, or that touch a mark, a line or one another."""
    canvas = FigureCanvasAgg(chart.figure)
    canvas.draw()
    wrong, names = [], {id(text): text for text in names_of(chart)}
    for axes in chart.figure.axes:
        here = [(text, text.get_window_extent(canvas.get_renderer())) for text in axes.texts if id(text) in names]
        wrong += [a.get_text() for (a, fa), (_, fb) in itertools.permutations(here, 2) if overlap(fa, fb, 0)]
        spots = [axes.transData.transform(line.get_xydata()) for line in axes.lines]
        for text, frame in here:
            home = [fill for fill, bar in bars_of(axes) if bar.x0 <= frame.x0 and frame.x1 <= bar.x1
                    and bar.y0 <= frame.y0 + 1 and frame.y1 - 1 <= bar.y1]  # fmt: skip
            if home not in (["#0072b2"], ["#e69f00"]):
                wrong.append(f"{text.get_text()} on {home}")
            for line, points in zip(axes.lines, spots, strict=True):
                (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
                if line.get_linestyle() == "None":  # marks, each a point
                    touched = any(frame.x0 < x + 4 and x - 4 < frame.x1 and frame.y0 < y < frame.y1 for x, y in points)
                elif x0 == x1:
                    touched = frame.x0 < x0 < frame.x1  # an upright goes through all rows
                else:
                    touched = frame.x0 < x1 and x0 < frame.x1 and frame.y0 + 1 < y1 and y0 < frame.y1 - 1
                if touched:
                    wrong.append(f"{text.get_text()} touches a line or a mark")
    return wrong


SPANNED = [name for name in OTHERS if "spans" in name]


@pytest.mark.parametrize("name", SPANNED)
def test_names_of_spans_lie_inside_their_bars(name: str) -> None:
    """A name is whole, in one bar of one fill, and touches no mark, no line and no other name."""
    chart = OTHERS[name]()
    assert len(names_of(chart)) >= (0 if "many" in name else 5)
    assert not misplaced(chart)


@pytest.mark.parametrize("name", SPANNED)
def test_names_of_spans_are_left_out_where_they_do_not_fit(name: str) -> None:
    """No name is shortened; of the longest none is written, and rows without room have none at all."""
    shown = {text.get_text() for text in names_of(OTHERS[name]())}
    assert shown <= {plain(said) for said in (*SPANS, "across")}
    assert SPANS[1] not in shown
    assert not shown or "many" not in name


@pytest.mark.parametrize("name", SPANNED)
def test_names_of_spans_stand_out_in_colour_and_in_grey(name: str) -> None:
    """White on blue, ink on orange: 4.5 to 1 and more, also where only the brightness is left of the fill."""
    chart = OTHERS[name]()
    canvas = FigureCanvasAgg(chart.figure)
    canvas.draw()
    page = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    for text in names_of(chart):
        frame = text.get_window_extent(canvas.get_renderer())
        under = page.getpixel((int(frame.x0) - 2, int(page.height - (frame.y0 + frame.y1) / 2)))
        grey = round(sum(share * part for share, part in zip((0.299, 0.587, 0.114), under, strict=True)))
        ink = tuple(round(255 * part) for part in to_rgb(text.get_color()))
        assert contrast(ink, under) >= 4.5
        assert contrast(ink, (grey, grey, grey)) >= 4.5


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """How well two colours are told apart, from 1 to 21 (WCAG 2.2)."""
    light, dark = sorted((_brightness(one), _brightness(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _brightness(colour: tuple[int, ...]) -> float:
    parts = [part / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


ROOMS = spans._rooms
BROKEN: dict[str, tuple[str, Any]] = {
    "a name need not fit": ("CLEAR", -30.0),
    "marks are not minded": ("_rooms", lambda row, taken: ROOMS(row, [])),
    "lines are not minded": ("FOOT", -6.0),
    "the baseline is too high": ("RISE", 3.0),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_check_of_names_can_fail(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Names placed with less care are noticed."""
    monkeypatch.setattr(spans, *BROKEN[what])
    assert any(misplaced(OTHERS[name]()) for name in SPANNED)


def test_the_check_for_overlaps_can_fail() -> None:
    """A tick label pushed onto its neighbour is noticed."""
    chart = plots.curve([1, 50, 100], [1, 2, 3], xlabel="k", ylabel="y")
    chart.figure.axes[0].set_xticks([50, 51], ["fifty", "fifty-one"])
    _, texts = texts_of(chart)
    assert any(overlap(a, b) for (_, a), (_, b) in itertools.combinations(texts, 2))


def test_Chart_is_700_pixels_wide() -> None:
    """What a notebook shows without scaling."""
    for chart in (run_of(14).plot(), plots.compare(run_of(3)), plots.outcomes({1: 2})):
        assert Image.open(BytesIO(chart._repr_png_())).width == 700
