"""One step of a traced run as HTML: the code, the loop's queues, the tasks, and a timeline with a row per task.

What it holds: `panel`, which returns the whole, and `code`, the part with the reader's lines.
Guarantees: everything from the reader's program is escaped; colors are those of the charts, each with a sign or a word
as well, and text keeps the color of the page, light or dark.
Strategy: plain strings made from a `LoopTrace` and a step number, so they can be tested without a browser.
Used by `agentkit.lab.widgets.stepper` and, for `code`, `agentkit.lab.widgets.scheduler`.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from agentkit.lab.loops.task_state import amount
from agentkit.lab.tracer.loop import LoopStep
from agentkit.lab.tracer.trace import LoopTrace, few
from agentkit.plots.style import CALLING, SOFT, TROUBLE, WAITING, WORK

__all__ = ["Place", "code", "panel"]

Place = tuple[str, int]  # file, line

_TASKS = 16  # more rows do not fit on a screen
_BUSY = "background:rgba(230,159,0,.28)"  # WORK, transparent
_HELD = f"repeating-linear-gradient(135deg,{TROUBLE} 0 3px,transparent 3px 6px)"
_CELL = "padding:1px 10px 1px 0;text-align:left;vertical-align:top;white-space:nowrap"


def panel(trace: LoopTrace, number: int) -> str:
    """Return step `number`, counted from 1, as HTML."""
    step = trace.steps[number - 1]
    return (
        "<div style='line-height:1.45;max-width:860px'>"
        f"<div style='margin:4px 0 8px'><b>{_headline(trace, step)}</b></div>"
        "<div style='display:flex;flex-wrap:wrap;gap:8px 28px'>"
        f"<div>{_code(trace, step)}</div><div>{_queues(step)}{_tasks(step)}</div></div>"
        f"{_lanes(trace, step)}</div>"
    )


def _headline(trace: LoopTrace, step: LoopStep) -> str:
    held = f" and blocks the loop for {amount(step.blocked)}" if step.blocked else ""
    last = f"; {trace.name} {trace.outcome}" if step.number == len(trace.steps) else ""
    return html.escape(f"At {amount(step.started)}: {trace.ran(step)}{held}, then: {step.then}{last}")


def _code(trace: LoopTrace, step: LoopStep) -> str:
    """Return the functions that ran, with the step's lines marked and the other tasks next to their lines."""
    here: dict[Place, list[str]] = {}
    for each in step.states:
        if each.line is not None and each.task != step.task:
            here.setdefault((each.line.file, each.line.number), []).append(each.task)
    return code(trace.source, [(line.file, line.number) for line in step.lines], here)


def code(source: dict[str, dict[int, str]], ran: Sequence[Place], here: dict[Place, list[str]]) -> str:
    """Return lines of code as HTML: those that ran shaded, the last one with a sign, tasks next to their lines."""
    rows: list[str] = []
    for file, lines in source.items():
        before = 0
        for number, text in lines.items():
            if rows and number != before + 1:
                rows.append(f"<tr><td colspan=3 style='color:{SOFT}'>⋮</td></tr>")
            before, place = number, (file, number)
            style = _BUSY if place in ran else ""
            sign = "▶" if ran and place == ran[-1] else ""
            who = html.escape(few(here.get(place, []), 3))
            rows.append(
                f"<tr style='{style}'><td style='text-align:right;opacity:.6;padding-right:8px'>{sign} {number}</td>"
                f"<td style='white-space:pre;padding-right:16px'>{html.escape(text)}</td>"
                f"<td style='white-space:pre;color:{CALLING}'>{'◂ ' + who if who else ''}</td></tr>"
            )
    return f"<table style='font-family:monospace;font-size:12px;border-spacing:0'>{''.join(rows)}</table>"


def _queues(step: LoopStep) -> str:
    ready = " ← ".join(f"<code>{html.escape(name)}</code>" for name in step.ready[:8])
    ready += f" and {len(step.ready) - 8} more" if len(step.ready) > 8 else ""
    timers = "<br>".join(html.escape(str(timer)) for timer in step.timers[:8])
    timers += f"<br>and {len(step.timers) - 8} more" if len(step.timers) > 8 else ""
    return (
        f"<table style='border-spacing:0'><tr><td style='{_CELL}'>ready queue</td><td style='{_CELL}'>"
        f"{ready or _empty(step)}</td></tr>"
        f"<tr><td style='{_CELL}'>timers</td><td style='{_CELL}'>{timers or '(none)'}</td></tr></table>"
    )


def _empty(step: LoopStep) -> str:
    """Return what the loop does next when no task is ready."""
    if not step.timers:
        return "(empty)"
    return "(empty: the timers that are due come next)" if step.timers[0].late else "(empty: the clock moves on)"


def _tasks(step: LoopStep) -> str:
    rows = ""
    for each in step.states[:_TASKS]:
        style = _BUSY if each.task == step.task else "opacity:.6" if each.state == "ended" else ""
        line = f" (line {each.line.number})" if each.line else ""
        rows += (
            f"<tr style='{style}'><td style='{_CELL}'><code>{html.escape(each.task)}</code></td>"
            f"<td style='{_CELL};white-space:normal'>{html.escape(each.what + line)}</td></tr>"
        )
    more = len(step.states) - _TASKS
    return f"<table style='border-spacing:0;margin-top:6px'>{rows}</table>" + (f"and {more} more" if more > 0 else "")


def _lanes(trace: LoopTrace, step: LoopStep) -> str:
    """Return the timeline, a row per task: waiting, delayed by a blocked loop, and a stroke for each step."""
    end = max(each.ended for each in trace.steps)
    if not end:
        return ""
    lanes: dict[str, str] = {each.task: "" for each in trace.steps[-1].states[:_TASKS]}
    for task, start, stop, fill in _stretches(trace):
        if task in lanes:
            width = "2px" if stop == start else f"{100 * (stop - start) / end:.2f}%"
            lanes[task] += _bar(f"left:{100 * start / end:.2f}%;width:{width};{fill}")
    now = _bar(f"left:{100 * step.ended / end:.2f}%;width:0;border-left:1px solid;top:-3px;bottom:-3px")
    rows = "".join(
        f"<tr><td style='{_CELL}'><code>{html.escape(task)}</code></td><td style='width:100%'>"
        f"<div style='position:relative;height:14px'>{bars}{now}</div></td></tr>"
        for task, bars in lanes.items()
    )
    held = any(each.blocked for each in trace.steps)
    legend = "grey: waits · stroke: has its turn" + " · orange: blocks the loop · striped: held up by it" * held
    return (
        f"<table style='width:100%;border-spacing:0 2px;margin-top:8px'>{rows}<tr><td></td><td>"
        f"<div style='display:flex;justify-content:space-between'><span>0 s</span><span style='opacity:.75'>{legend}"
        f"</span><span>{amount(end)}</span></div></td></tr></table>"
    )


def _bar(style: str) -> str:
    return f"<div style='position:absolute;top:1px;bottom:1px;{style}'></div>"


def _stretches(trace: LoopTrace) -> Iterator[tuple[str, float, float, str]]:
    """Yield the bars to draw, steps last, each as task, start, end and fill."""
    before: tuple[str, ...] = ()
    for i, step in enumerate(trace.steps):
        until = trace.steps[i + 1].started if i + 1 < len(trace.steps) else step.ended
        for each in step.states:
            if each.state in ("sleeping", "waiting") and until > step.started:
                yield each.task, step.started, until, f"background:{WAITING}"
        if step.blocked:
            held = [(t.owner, max(t.when, step.started)) for t in step.timers if t.late]
            held += [(name, step.started) for name in before if name != step.task]
            for task, start in held:
                yield task, start, step.ended, f"background:{_HELD},#fff"
        before = step.ready
    for step in trace.steps:
        yield step.task, step.started, step.ended, f"background:{WORK}"
