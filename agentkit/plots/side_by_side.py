"""Ways to do the same work, side by side: how long each takes, how many calls it makes, and what they cost.

What it holds: `side_by_side`, and the `SideBySide` it returns, which is a picture and a frame of the same numbers.
Guarantees: calls are counted where they were made, in the provider's log or in a report's attempts; all panels share
both scales, so equal areas are equal seconds of calling.
How to read it: a long flat strip is work done one after another, a short tall block the same work side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from agentkit.plots import bars, events
from agentkit.plots.chart import Chart, count, number, seconds
from agentkit.plots.facts import labels_for
from agentkit.plots.style import CALLING, FILL, INK, MARKS, TROUBLE, heading, legend, page, plain
from agentkit.report import Report

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["SideBySide", "side_by_side"]

TOO_MANY = 429
HEIGHT = 66  # pixels of a panel
CURVE: dict[str, Any] = {"color": CALLING, "linewidth": 1.4, "clip_on": False}


class _Call(NamedTuple):
    """One call: from when to when, whether it was refused, what it used."""

    started: float
    finished: float
    refused: bool
    tokens: int


class SideBySide(Chart):
    """A `Chart` of several runs that is a frame too."""

    def to_frame(self) -> pandas.DataFrame:
        """Return one row per run: `makespan, calls, tokens, refused, peak_in_flight, mean_in_flight`."""
        import pandas

        frame = pandas.DataFrame.from_dict(self.facts["runs"], orient="index")
        return frame.rename_axis("run")


def side_by_side(
    *runs: Iterable[Any] | Report, labels: Sequence[object] | None = None, title: str | None = None
) -> SideBySide:
    """Draw the calls in flight of several runs, one below the other on one time axis.

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

    A run is a provider's log, the witness of what was really called, or a report, whose attempts then count as calls:
    that of the turns, `results.report`. The makespan is from the first call to the end of the last; `refused` counts
    the answers with status 429. `labels` names the runs.
    """
    if not runs:
        raise ValueError("side_by_side needs at least 1 run, got none; call side_by_side(provider.log, report)")
    names = labels_for(runs, labels)
    if len(set(names)) != len(names):
        raise ValueError(f"labels must differ from each other, got {names}")
    calls = [_calls(run) for run in runs]
    facts = {name: _facts(made) for name, made in zip(names, calls, strict=True)}
    said = [f"{name}: {', '.join(_words(fact))};" for name, fact in facts.items()]
    said[-1] = said[-1].rstrip(";")
    title = title if title is not None else _finding(facts)
    return SideBySide("SideBySide", title, said, {"runs": facts}, lambda: _draw(calls, facts, title))


def _calls(run: Iterable[Any] | Report) -> list[_Call]:
    """Read the calls of a run, in seconds since the first."""
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
        if not tries:  # perhaps it is under way
            found += [_Call(start, stop, False, 0) for start, stop in events.attempts(outcome, end)]
    return found


def _logged(call: Any) -> _Call:
    if not (hasattr(call, "arrived") and hasattr(call, "charged_tokens")):
        raise TypeError(f"a run must be a report or a provider's log, got a row {call!r:.80}; hand in provider.log")
    tokens = call.prompt_tokens + call.output_tokens if call.charged_tokens else 0  # what is refused costs nothing
    finished = call.arrived if call.finished is None else call.finished
    return _Call(call.arrived, finished, call.status == TOO_MANY, tokens)


def _facts(calls: Sequence[_Call]) -> dict[str, Any]:
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


def _words(fact: dict[str, Any]) -> list[str]:
    said = [seconds(fact["makespan"]), count(fact["calls"], "call"), f"{fact['tokens']:,} tokens"]
    said += [f"{fact['refused']:,} refused" if fact["refused"] else "none refused"]
    return [*said, f"at most {fact['peak_in_flight']:,} in flight", f"{number(fact['mean_in_flight'])} on average"]


def _finding(facts: dict[str, dict[str, Any]]) -> str:
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


def _draw(calls: Sequence[Sequence[_Call]], facts: dict[str, dict[str, Any]], title: str) -> Figure:
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
        bars.time_axis(axes, end, labelled=axes is panels[-1])
    legend(figure, [handles[entry] for entry in entries], entries)
    return figure
