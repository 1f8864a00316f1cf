"""The logs of several runs, one after another, as one log.

What it holds: `Log`, in which a coordinator keeps its plan, its specialists' turns and the joining.
Guarantees: all times are on one clock, so that one report, frame and picture shows it all; outcomes are numbered in the
order in which they were added.
Strategy: each run counts its seconds from its own beginning; here they are moved to the beginning of the log.
Opened by the decision guide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from agentkit.executor.run import Run
from agentkit.orchestration.turns import label
from agentkit.report import Report
from agentkit.report.outcome import Outcome, Span, clock, current

__all__ = ["Log"]


class Log:
    """Several runs, one after another, as one log on one clock.

    Inside a task of another executor, what happens here is noted there as well: a span for each turn and for what
    went on inside it, so that the outer timeline shows the whole tree.
    """

    def __init__(self) -> None:
        self.began = asyncio.get_running_loop().time()
        self.outcomes: list[Outcome] = []
        self.limits: list[tuple[float, float]] = []
        self._outer = current.get()
        self._shift = 0.0 if self._outer is None else self.began - clock.get()[1]

    def add(self, run: Run, outcomes: Sequence[Outcome], *, limits: bool = True) -> None:
        """Add a run's outcomes, with their times counted from the start of this log; without `limits`, only these."""
        by = run._began - self.began
        if limits:
            self.limits += [(at + by, limit) for at, limit in run._limits]
        for outcome in outcomes:
            _move(outcome, by)
            outcome.task_id = len(self.outcomes)
            self.outcomes.append(outcome)
            self._tell(outcome)

    def report(self, stopped: str | None = None) -> Report:
        """Return all of it as one report."""
        return Report(self.outcomes, limits=self.limits, stopped=stopped)

    def _tell(self, outcome: Outcome) -> None:
        if self._outer is None or outcome.started is None or outcome.finished is None:
            return
        who, by = label(outcome), self._shift
        inside = [Span(f"{s.name} · {who}", s.started + by, s.finished + by) for s in outcome.spans]
        self._outer.spans += (Span(who, outcome.started + by, outcome.finished + by), *inside)


def _move(outcome: Outcome, by: float) -> None:
    outcome.submitted += by
    outcome.started = None if outcome.started is None else outcome.started + by
    outcome.finished = None if outcome.finished is None else outcome.finished + by
    if outcome.attempt_log is not None:
        outcome.attempt_log = tuple(
            replace(a, started=a.started + by, finished=a.finished + by) for a in outcome.attempt_log
        )
    outcome.spans = tuple(replace(s, started=s.started + by, finished=s.finished + by) for s in outcome.spans)
