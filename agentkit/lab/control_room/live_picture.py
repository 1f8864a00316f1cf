"""Draws a running operation: a picture of the last seconds, and a row of figures.

What it holds: `picture`, a snapshot as SVG, and `figures`, a snapshot as a row of labeled numbers in HTML.
Guarantees: pure functions of a snapshot; all text from agents and errors is escaped; the picture stays small however
many attempts a run makes, because all bars of one color are one path.
Strategy: writes SVG directly, fifty times as fast as matplotlib; a run in real time shares its CPU core with its
picture. The colors and their meanings are those of `agentkit.plots`.
Used by the control room.
"""

from __future__ import annotations

import html
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterable, Sequence

from agentkit.lab.control_room.snapshot import AttemptBar, Snapshot
from agentkit.plots.events import steps
from agentkit.plots.style import BACKING_OFF, CALLING, FAINT, FILL, INK, SOFT, TROUBLE, WAITING

__all__ = ["WINDOW", "figures", "picture"]

WINDOW = 30.0  # seconds of the run in the picture
WIDTH, LEFT, RIGHT = 780, 116, 12  # pixels
LANES, FLIGHT, QUEUE, ENDS = (14, 190), (228, 70), (322, 50), (396, 50)  # top and height of each panel
HEIGHT = 494
UNDER_WAY = "#80b8d8"  # a paler shade of the blue for calls
COLORS = {"calling": UNDER_WAY, "ok": CALLING, "refused": TROUBLE, "failed": TROUBLE, "timed out": TROUBLE,
          "cancelled": SOFT}  # fmt: skip
WORDS = {"calling": "calling", "ok": "answered", "refused": "refused (429)", "failed": "failed",
         "timed out": "timed out", "cancelled": "cancelled"}  # fmt: skip
MARKS = {"failed": "m-4 -4h8v8h-8z", "timed out": "m-5 0l5 -5l5 5l-5 5z"}  # one shape each, readable without seeing red
LOW = 0.45  # relative height of a refused attempt's bar, readable without color
MAX_BARS = 4000  # most bars in one picture; older ones are left out


def figures(shot: Snapshot) -> str:
    """Return the figures of a snapshot as one row of HTML."""
    limit = "no limit" if shot.limit == math.inf else f"of {shot.limit:g}"
    done = shot.succeeded + shot.failed
    cells = [
        ("done", f"{done:,}", f"of {shot.total:,}, {shot.failed:,} lost", shot.failed),
        ("in flight", f"{shot.in_flight:,}", limit, 0),
        ("waiting", f"{shot.waiting:,}", f"{shot.backing_off:,} backing off", 0),
        ("throughput", f"{shot.throughput:.1f}/s", "last 10 s", 0),
        ("p95 latency", "–" if shot.p95 is None else f"{shot.p95:.1f} s", "latest 100", 0),
        ("refused (429)", f"{shot.refused:,}", f"of {shot.attempts:,} requests", shot.refused),
        ("cost in USD", f"{shot.money:.4f}", f"{shot.tokens:,} tokens", 0),
        ("run time", f"{shot.now:.1f} s", "since Start", 0),
    ]
    columns = "grid-template-columns:repeat(auto-fit,minmax(98px,1fr))"
    return (
        f'<div style="display:grid;gap:4px;line-height:1.25;{columns}">{"".join(_cell(*cell) for cell in cells)}</div>'
    )


def _cell(name: str, value: str, remark: str, trouble: int) -> str:
    color = f"color:{TROUBLE};" if trouble else ""
    return (
        '<div style="padding:4px 7px;overflow:hidden;border-left:2px solid var(--jp-border-color2,#ccc)">'
        f'<div style="font-size:11px;opacity:.75;white-space:nowrap">{html.escape(name)}</div>'
        f'<div style="font-size:17px;font-weight:600;white-space:nowrap;{color}">{html.escape(value)}</div>'
        f'<div style="font-size:11px;opacity:.75;white-space:nowrap">{html.escape(remark)}</div></div>'
    )


def picture(shot: Snapshot, *, whole: bool = False) -> bytes:
    """Return the last `WINDOW` seconds of a run as SVG, or the whole run if `whole`."""
    drawing = _Drawing(shot, whole)
    parts = [*drawing.lanes(), *drawing.flight(), *drawing.queue(), *drawing.ends(), *drawing.axis()]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="DejaVu Sans,Verdana,Helvetica,sans-serif" font-size="11" fill="{INK}">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        f"{_hatch('backing', BACKING_OFF, 45)}{_hatch('vain', TROUBLE, -45)}"
    )
    return f"{head}{''.join(parts)}</svg>".encode()


def _hatch(name: str, color: str, degrees: int) -> str:
    return (
        f'<pattern id="{name}" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate({degrees})">'
        f'<rect width="5" height="5" fill="white"/><rect width="2.6" height="5" fill="{color}"/></pattern>'
    )


class _Drawing:
    """One picture: a time window, its scale, and a method for each panel."""

    def __init__(self, shot: Snapshot, whole: bool) -> None:
        self.shot = shot
        self.end = shot.now if whole else max(shot.now, WINDOW)
        self.end = self.end or WINDOW
        self.start = 0.0 if whole else self.end - WINDOW
        self.scale = (WIDTH - LEFT - RIGHT) / (self.end - self.start)
        seen = [bar for bar in shot.bars if bar.finished is None or bar.finished >= self.start]
        self.bars: Sequence[AttemptBar] = seen[-MAX_BARS:]

    def x(self, second: float) -> float:
        return round(LEFT + (min(max(second, self.start), self.end) - self.start) * self.scale, 1)

    # -- panels ---------------------------------------------------------------------------------------------------

    def lanes(self) -> Iterable[str]:
        """Yield one row per slot, with a bar for each attempt."""
        top, height = LANES
        rows = max(
            [bar.lane + 1 for bar in self.bars] + [1 if self.shot.limit == math.inf else min(self.shot.limit, 10)]
        )
        room = height / rows
        thick = room * (0.78 if room > 4 else 1)
        outlines: dict[str, list[str]] = {}
        marks: dict[str, list[str]] = {}
        for bar in self.bars:
            x, to = self.x(bar.started), self.x(self.shot.now if bar.finished is None else bar.finished)
            wide, y = max(to - x - (0.6 if room > 4 else 0), 1.2), round(top + bar.lane * room, 1)
            tall = thick * LOW if bar.kind == "refused" else thick
            outlines.setdefault(bar.kind, []).append(
                f"M{x} {y + (thick - tall) / 2:.1f}h{wide:.1f}v{tall:.1f}h-{wide:.1f}z"
            )
            if bar.kind in MARKS:
                marks.setdefault(bar.kind, []).append(_marker(bar.kind, x + wide, y + thick / 2))
        yield _panel_name(top, "slots", "a bar per", "attempt")
        for kind in sorted(outlines, key=list(COLORS).index):
            yield f'<path fill="{COLORS[kind]}" d="{"".join(outlines[kind])}"/>'
        for kind, where in marks.items():
            yield f'<path fill="{COLORS[kind]}" stroke="white" d="{"".join(where[-400:])}"/>'
        yield self._legend(outlines)

    def _legend(self, kinds: Container[str]) -> str:
        """Return the legend of fills and shapes, in one row."""
        shown = [(COLORS[kind], word, kind) for kind, word in WORDS.items() if kind in kinds]
        x, y, parts = float(LEFT), HEIGHT - 17, []
        for fill, text, kind in [*shown, (WAITING, "waiting", ""), ("url(#backing)", "backing off", "")]:
            tall = 9 * LOW if kind == "refused" else 9
            parts.append(f'<rect x="{x}" y="{y + (9 - tall) / 2:g}" width="14" height="{tall:g}" fill="{fill}"/>')
            if kind in MARKS:
                parts.append(f'<path fill="{fill}" stroke="white" d="{_marker(kind, x + 14, y + 4.5)}"/>')
            parts.append(f'<text x="{x + 21}" y="{y + 8}">{text}</text>')
            x += 40 + 6.5 * len(text)
        return "".join(parts)

    def flight(self) -> Iterable[str]:
        """Yield the number of attempts in flight over time, and the limit."""
        stretches = [(bar.started, self.shot.now if bar.finished is None else bar.finished) for bar in self.bars]
        times, counts = steps(stretches, self.start)
        limits = [(at, limit) for at, limit in self.shot.limits if limit < math.inf]
        here = [limit for at, limit in limits if at >= self.start] + [limit for _, limit in limits[-1:]]
        most = max([*counts, 1])
        highest = max([most, *(limit for limit in here if limit <= 3 * most)])
        yield _panel_name(FLIGHT[0], "in flight", f"limit {self.shot.limit:g}")
        yield self._area(FLIGHT, times, counts, highest, FILL, CALLING)
        line = self._steps(
            FLIGHT, [at for at, _ in limits], [min(limit, 1.15 * highest) for _, limit in limits], highest
        )
        yield f'<path d="{line}" fill="none" stroke="{INK}" stroke-width="1.2" stroke-dasharray="5 3"/>'
        yield _ticks(FLIGHT, highest)

    def queue(self) -> Iterable[str]:
        """Yield the number of agents that have not started and, stacked on it, the number backing off."""
        first = bisect_left(self.shot.levels, (self.start,))
        levels = self._thin(self.shot.levels[max(0, first - 1) :])
        times = [at for at, _, _ in levels]
        both = [waiting + off for _, waiting, off in levels]
        highest = max([*both, 1])
        yield _panel_name(QUEUE[0], "queue", "depth")
        yield self._area(QUEUE, times, both, highest, "url(#backing)", BACKING_OFF)
        yield self._area(QUEUE, times, [waiting for _, waiting, _ in levels], highest, WAITING, SOFT)
        yield _ticks(QUEUE, highest)

    def ends(self) -> Iterable[str]:
        """Yield a stacked histogram of attempts by the second in which they ended: answers in blue, failures above."""
        per = max(1.0, math.ceil((self.end - self.start) / 100))
        ended = Counter(
            (math.floor(bar.finished / per), bar.kind == "ok")
            for bar in self.bars if bar.finished is not None and bar.kind != "cancelled"
        )  # fmt: skip
        slots = sorted({slot for slot, _ in ended})
        highest = max([ended[slot, True] + ended[slot, False] for slot in slots] + [1])
        (top, height), paths = ENDS, {True: "", False: ""}
        for slot in slots:
            x, to, low = self.x(slot * per), self.x(min((slot + 1) * per, self.shot.now)), float(top + height)
            for good in (good for good in (True, False) if ended[slot, good]):
                tall = ended[slot, good] / highest * height
                paths[good] += f"M{x} {low:.1f}h{max(to - x - 1, 0.5):.1f}v-{tall:.1f}h-{max(to - x - 1, 0.5):.1f}z"
                low -= tall
        yield _panel_name(top, f"ended per {per:g} s" if per != 1 else "ended per s", "hatched: in", "vain")
        yield f'<path fill="{CALLING}" d="{paths[True]}"/>'
        yield f'<path fill="url(#vain)" stroke="{TROUBLE}" stroke-width="0.8" d="{paths[False]}"/>'
        yield _ticks(ENDS, highest)

    def axis(self) -> Iterable[str]:
        """Yield the time axis, in seconds since the run started."""
        step = next(s for s in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1e9) if (self.end - self.start) / s <= 12)
        base = ENDS[0] + ENDS[1]
        for i in range(math.ceil(self.start / step), math.floor(self.end / step) + 1):
            x = self.x(i * step)
            yield f'<text x="{x}" y="{base + 15}" text-anchor="middle">{i * step:g}</text>'
        yield f'<text x="{LEFT - 8}" y="{base + 15}" text-anchor="end">seconds</text>'
        for top, height in (LANES, FLIGHT, QUEUE, ENDS):
            yield f'<path d="M{LEFT} {top + height + 0.5}H{WIDTH - RIGHT}" stroke="{INK}" stroke-width="0.8"/>'
        if self.end > self.shot.now:
            yield f'<path d="M{self.x(self.shot.now)} {LANES[0]}V{base}" stroke="{SOFT}" stroke-width="0.8"/>'

    # -- paths ----------------------------------------------------------------------------------------------------

    def _thin(self, rows: Sequence[tuple[float, int, int]]) -> Sequence[tuple[float, int, int]]:
        """Keep at most two rows per pixel."""
        by_pixel = {round(self.x(row[0]) * 2): row for row in rows}
        return list(by_pixel.values())

    def _steps(self, panel: tuple[int, int], times: Sequence[float], values: Sequence[float], highest: float) -> str:
        if not times:
            return ""
        (top, height), path = panel, ""
        for at, value in zip(times, values, strict=True):
            y = f"{top + height - value / highest * height:.1f}"
            path += f"H{self.x(at)}V{y}" if path else f"M{self.x(at)} {y}"
        return path + f"H{self.x(self.shot.now)}"

    def _area(
        self,
        panel: tuple[int, int],
        times: Sequence[float],
        values: Sequence[float],
        highest: float,
        fill: str,
        line: str,
    ) -> str:
        path = self._steps(panel, times, values, highest)
        if not path:
            return ""
        base = sum(panel)
        return (
            f'<path fill="{fill}" d="{path}V{base}H{self.x(times[0])}z"/>'
            f'<path fill="none" stroke="{line}" stroke-width="1.2" d="{path}"/>'
        )


def _marker(kind: str, x: float, y: float) -> str:
    """Return the marker of a kind of failure, centered on a point."""
    return f"M{x:.1f} {y:.1f}{MARKS[kind]}"


def _panel_name(top: float, *lines: str) -> str:
    """Return the label to the left of a panel; the first line is its name."""
    first, *others = (html.escape(line) for line in lines)
    said = f'<text x="8" y="{top + 10}">{first}</text>'
    return said + "".join(f'<text x="8" y="{top + 24 + 13 * i}" fill="{SOFT}">{o}</text>' for i, o in enumerate(others))


def _ticks(panel: tuple[int, int], highest: float) -> str:
    """Return the labels of the scale's top and of zero."""
    top, height = panel
    said = f'<text x="{LEFT - 6}" y="{top + 4}" text-anchor="end">{highest:,.0f}</text>'
    said += f'<text x="{LEFT - 6}" y="{top + height + 1}" text-anchor="end">0</text>'
    return said + f'<path d="M{LEFT} {top}H{WIDTH - RIGHT}" stroke="{FAINT}" stroke-width="0.8"/>'
