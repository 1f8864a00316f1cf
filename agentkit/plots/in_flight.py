"""Calls in flight over time: the curve of one run, its area, and the curves of several runs.

What it holds: `in_flight`, the curve with the concurrency limit; `little`, its area next to Little's law;
`side_by_side`, several ways to do the same work with their time, calls and tokens, and the `SideBySide` it returns,
which is a chart and a data frame of the same numbers.
Guarantees: curves count the intervals of the log, without sampling, so the area under a curve is the sum of the
seconds; `little` computes the two sides of the law independently, one from the curve and one from the agents;
`side_by_side` counts calls in the provider's log or in the attempts of a report, and all its panels share both scales.
How to read it: while the curve is at the limit, the limit is what slows the run down. A long flat strip is work done
one after another, a short tall block the same work done concurrently.
Source: Little, A Proof for the Queuing Formula L = λW (1961).
Opened by notebook 08.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import agentkit.plots.bars as bars
import agentkit.plots.events as events
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.facts import labels_for
from agentkit.plots.style import CALLING, FILL, INK, MARKS, TROUBLE, heading, legend, page, plain
from agentkit.report import Report

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["SideBySide", "in_flight", "little", "side_by_side"]

TOO_MANY = 429
HEIGHT = 66  # pixels of a panel, at least
CURVE: dict[str, Any] = {"color": CALLING, "linewidth": 1.4, "clip_on": False}


def in_flight(report: Report, *, title: str | None = None) -> Chart:
    """Draw the number of attempts in flight over time, with the concurrency limit.

    >>> from agentkit import Outcome, Report
    >>> a, b = (Outcome(i, i, "success", started=0.0, finished=2.0 + 2 * i) for i in range(2))
    >>> in_flight(Report([a, b], limits=[(0.0, 2)]))
    <InFlight: 2 agents in 4 s, at most 2 in flight, 1.5 on average, at the limit 50 % of the time, limit 2>
    """
    end = events.now(report)
    tried = [interval for outcome in report.individual_results for interval in events.attempts(outcome, end)]
    busy = events.duration(tried)
    facts: dict[str, Any] = {
        "agents": len(report),
        "seconds": end,
        "peak_in_flight": report.summary.peak_in_flight,
        "mean_in_flight": busy / end if end else 0.0,
        "share_at_limit": _share_at_limit(tried, report.limits, end),
        "limits": report.limits,
    }
    mean, share = number(facts["mean_in_flight"]), round(100 * facts["share_at_limit"], 6)
    said = [f"{count(len(report), 'agent')} in {seconds(end)}", f"at most {facts['peak_in_flight']} in flight"]
    said += [f"{mean} on average", f"at the limit {number(share)} % of the time", events.limit_words(report.limits)]
    if title is None:
        title = f"At most {facts['peak_in_flight']} in flight, {mean} on average over {seconds(end)}"

    def draw() -> Figure:
        figure, (axes,) = page(title, [170], names=["1,000"])
        bars.in_flight(axes, report)
        bars.time_axis(axes, end, labeled=True)
        return figure

    return Chart("InFlight", title, said, facts, draw)


def _share_at_limit(tried: Sequence[events.Interval], limits: Sequence[tuple[float, float]], end: float) -> float:
    """Return the share of the time in which all slots were taken."""
    times, counts = events.steps(tried)
    edges = sorted({0.0, end, *times, *(at for at, _ in limits)})
    full = []
    for start, stop in pairwise(edges):
        running = counts[bisect_right(times, start) - 1]
        limit = next((limit for at, limit in reversed(limits) if at <= start), math.inf)
        full.append((start, stop) if start < end and running >= limit else (start, start))
    return events.duration(full) / end if end else 0.0


def little(report: Report, *, title: str | None = None) -> Chart:
    """Draw Little's law, L = λ × W: the average number in flight, computed in two ways.

    >>> from agentkit import Outcome, Report
    >>> little(Report([Outcome(i, i, "success", started=0.0, finished=2.0 + 2 * i) for i in range(2)]))
    <Little: L 1.5 in flight on average, λ 0.5 agents per s × W 3 s each = 1.5, 2 agents, 6 agent-seconds in 4 s>

    Top: the area under the in-flight curve. Bottom: the seconds of each agent, longest first. Both areas are the same
    number of agent-seconds. Only time in flight counts, not waiting or backing off.
    """
    end = events.now(report)
    tried = [events.attempts(outcome, end) for outcome in report.individual_results]
    each = sorted((events.duration(intervals) for intervals in tried if intervals), reverse=True)
    times, counts = events.steps([interval for intervals in tried for interval in intervals])
    area = math.fsum(level * (stop - start) for level, (start, stop) in zip(counts, pairwise(times), strict=False))
    rate, mean = (len(each) / end if end else 0.0), (math.fsum(each) / len(each) if each else 0.0)
    facts = {
        "in_flight": area / end if end else 0.0,
        "rate": rate,
        "mean_seconds": mean,
        "product": rate * mean,
        "agents": len(each),
        "agent_seconds": area,
        "seconds": end,
    }
    left = number(facts["in_flight"])
    said = [f"L {left} in flight on average"]
    said += [f"λ {number(rate)} agents per s × W {seconds(mean)} each = {number(rate * mean)}"]
    said += [count(len(each), "agent"), f"{number(area)} agent-seconds in {seconds(end)}"]
    if title is None:
        title = f"{left} in flight on average = {number(rate)} agents per second × {seconds(mean)} each"
    return Chart("Little", title, said, facts, lambda: _draw_little(report, each, facts, str(title)))


def _draw_little(report: Report, each: Sequence[float], facts: dict[str, Any], title: str) -> Figure:
    figure, (top, below) = page(title, [120, 140], names=["1,000"], gap=58, above=22)
    bars.in_flight(top, Report(report.individual_results))
    top.axhline(facts["in_flight"], color=INK, linewidth=1.3, linestyle=(0, (4, 2)))
    bars.time_axis(top, facts["seconds"], labeled=True)
    left, total = number(facts["in_flight"]), number(facts["agent_seconds"])
    heading(top, f"instant by instant: {total} agent-seconds over {seconds(facts['seconds'])}: L = {left}, dashed")
    below.barh(
        range(len(each)), each, height=1.0, color=FILL, edgecolor=CALLING, linewidth=0.8 if len(each) < 60 else 0
    )
    below.axvline(facts["mean_seconds"], color=INK, linewidth=1.3, linestyle=(0, (4, 2)))
    below.set_ylim(max(len(each), 1) - 0.5, -0.5)
    below.set_xlim(0, 1.02 * max([*each, 0.0]) or 1.0)
    below.set_yticks([])
    below.set_ylabel(count(len(each), "agent"))
    below.set_xlabel("seconds in flight, agent by agent", labelpad=3)
    heading(
        below, f"agent by agent: {total} agent-seconds over {len(each)}: W = {seconds(facts['mean_seconds'])}, dashed"
    )
    return figure


class _Call(NamedTuple):
    """One call: start, end, whether it was rejected with status 429, and the tokens it used."""

    started: float
    finished: float
    refused: bool
    tokens: int


class SideBySide(Chart):
    """A `Chart` of several runs that also converts to a data frame."""

    def to_frame(self) -> pandas.DataFrame:
        """Return a frame with one row per run: `makespan, calls, tokens, refused, peak_in_flight, mean_in_flight`."""
        import pandas

        frame = pandas.DataFrame.from_dict(self.facts["runs"], orient="index")
        return frame.rename_axis("run")


def side_by_side(
    *runs: Iterable[Any] | Report, labels: Sequence[object] | None = None, title: str | None = None
) -> SideBySide:
    """Draw the calls in flight of several runs, one below the other, on the same time axis.

    >>> from agentkit import ChatAgent, ParallelOrchestrator, SequentialOrchestrator
    >>> from agentkit.lab import Provider, simulate
    >>> async def calls(way):
    ...     provider = Provider("tier1-mini")
    ...     team = [ChatAgent(name, client=provider.client()) for name in ("economist", "engineer", "lawyer")]
    ...     await way.run(team, ["What decides it?"] * 3)
    ...     return provider.log
    >>> logs = [simulate(calls, way) for way in (SequentialOrchestrator(), ParallelOrchestrator())]
    >>> chart = side_by_side(*logs, labels=["sequential", "parallel"])
    >>> chart.title
    'Sequential 8.46 s, parallel 2.22 s: parallel is 3.81 times as fast'
    >>> print(chart.to_frame()[["makespan", "calls", "tokens", "refused"]].round(2))  # doctest: +NORMALIZE_WHITESPACE
                makespan  calls  tokens  refused
    run
    sequential      8.46      3     683        0
    parallel        2.22      3     373        0

    A run is a provider's log, which has every call that was really made, or a report, whose attempts then count as
    calls; for a team, that is `results.report`. The makespan is from the first call to the end of the last; `refused`
    counts responses with status 429. `labels` names the runs.
    """
    if not runs:
        raise ValueError("side_by_side needs at least 1 run, got none; call side_by_side(provider.log, report)")
    names = labels_for(runs, labels)
    if len(set(names)) != len(names):
        raise ValueError(f"labels must differ from each other, got {names}")
    calls = [_calls(run) for run in runs]
    facts = {name: _calls_facts(made) for name, made in zip(names, calls, strict=True)}
    said = [f"{name}: {', '.join(_calls_words(fact))};" for name, fact in facts.items()]
    said[-1] = said[-1].rstrip(";")
    title = title if title is not None else _compared(facts)
    return SideBySide("SideBySide", title, said, {"runs": facts}, lambda: _draw_side_by_side(calls, facts, title))


def _calls(run: Iterable[Any] | Report) -> list[_Call]:
    """Return the calls of a run, in seconds since the first."""
    calls = _attempted(run) if isinstance(run, Report) else [_logged(call) for call in run]
    began = min((call.started for call in calls), default=0.0)
    return [call._replace(started=call.started - began, finished=call.finished - began) for call in calls]


def _attempted(report: Report) -> list[_Call]:
    end, found = events.now(report), []
    for outcome in report.individual_results:
        tries = outcome.attempts
        for attempt in tries:
            refused = getattr(attempt.error, "status_code", None) == TOO_MANY
            usage = getattr(outcome.result, "usage", None) if attempt is tries[-1] else None
            found.append(_Call(attempt.started, attempt.finished, refused, getattr(usage, "total_tokens", None) or 0))
        if not tries:  # its attempt may be in progress
            found += [_Call(start, stop, False, 0) for start, stop in events.attempts(outcome, end)]
    return found


def _logged(call: Any) -> _Call:
    if not (hasattr(call, "arrived") and hasattr(call, "charged_tokens")):
        raise TypeError(f"a run must be a report or a provider's log, got a row {call!r:.80}; hand in provider.log")
    tokens = call.prompt_tokens + call.output_tokens if call.charged_tokens else 0  # rejected calls cost nothing
    finished = call.arrived if call.finished is None else call.finished
    return _Call(call.arrived, finished, call.status == TOO_MANY, tokens)


def _calls_facts(calls: Sequence[_Call]) -> dict[str, Any]:
    spans = [(call.started, call.finished) for call in calls if not call.refused]
    end = max((call.finished for call in calls), default=0.0)
    return {
        "makespan": end,
        "calls": len(calls),
        "tokens": sum(call.tokens for call in calls),
        "refused": sum(call.refused for call in calls),
        "peak_in_flight": max(events.steps(spans)[1]),
        "mean_in_flight": events.duration(spans) / end if end else 0.0,
    }


def _calls_words(fact: dict[str, Any]) -> list[str]:
    said = [seconds(fact["makespan"]), count(fact["calls"], "call"), f"{fact['tokens']:,} tokens"]
    said += [f"{fact['refused']:,} refused" if fact["refused"] else "none refused"]
    return [*said, f"at most {fact['peak_in_flight']:,} in flight", f"{number(fact['mean_in_flight'])} on average"]


def _compared(facts: dict[str, dict[str, Any]]) -> str:
    times = {name: fact["makespan"] for name, fact in facts.items()}
    said = ", ".join(f"{name} {seconds(time)}" for name, time in times.items())
    said = said[:1].upper() + said[1:]
    quick, slow = min(times, key=lambda name: times[name]), max(times, key=lambda name: times[name])
    if len(times) < 2 or not times[quick]:
        return said
    if times[slow] < 1.02 * times[quick]:
        return f"{said}: no difference"
    whom = f" as {slow}" if len(times) > 2 else ""
    return f"{said}: {quick} is {number(times[slow] / times[quick])} times as fast{whom}"


def _draw_side_by_side(calls: Sequence[Sequence[_Call]], facts: dict[str, dict[str, Any]], title: str) -> Figure:
    refused = any(fact["refused"] for fact in facts.values())
    entries = ["calls in flight", "refused"] if refused else []
    heights = [max(HEIGHT, min(150, 300 / len(facts)))] * len(facts)
    figure, panels = page(title, heights, names=["1,000"], entries=entries, gap=30, above=22)
    end, highest = max(f["makespan"] for f in facts.values()), max(1, *(f["peak_in_flight"] for f in facts.values()))
    handles: dict[str, Any] = {}
    for axes, made, (name, fact) in zip(panels, calls, facts.items(), strict=True):
        times, counts = events.steps((call.started, call.finished) for call in made if not call.refused)
        handles["calls in flight"] = axes.fill_between(times, counts, step="post", facecolor=FILL, linewidth=0)
        axes.step(times, counts, where="post", **CURVE)
        marker, size = MARKS["rejected"]
        if late := [call.started for call in made if call.refused]:
            look: dict[str, Any] = {"marker": marker, "markersize": size * 0.8, "color": TROUBLE, "clip_on": False}
            (handles["refused"],) = axes.plot(late, [0.0] * len(late), linestyle="", zorder=4, **look)
        axes.axvline(fact["makespan"], color=INK, linewidth=0.9)
        axes.set_ylim(0, 1.08 * highest)
        bars.whole_ticks(axes, highest)
        axes.set_ylabel("in flight")
        about = f"{count(fact['calls'], 'call')}, {fact['tokens']:,} tokens"
        said = f"{seconds(fact['makespan'])}, {about}, at most {fact['peak_in_flight']:,} in flight"
        heading(axes, f"{plain(name, 260)}: {said}")
        bars.time_axis(axes, end, labeled=axes is panels[-1])
    legend(figure, [handles[entry] for entry in entries], entries)
    return figure
