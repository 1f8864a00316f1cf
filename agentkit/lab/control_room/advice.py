"""One sentence on what to try next, computed from the figures of a run.

What it holds: `advise`.
Guarantee: every number in the sentence comes from the report, or follows from the knobs by the formula the sentence
names; the same report gives the same sentence.
Strategy: a list of rules, one per bottleneck, ordered by cost: rejected requests (429), timeouts, failed agents, the
account's rate, the slots, and last the longest call. The first rule that applies gives the advice.
Opened by notebook 08.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from agentkit.lab.control_room.knobs import Knobs
from agentkit.plots.chart import count, number, seconds
from agentkit.plots.in_flight import in_flight
from agentkit.report import Report

__all__ = ["advise"]


@dataclass(frozen=True, slots=True)
class _RunFigures:
    """The figures that the rules read."""

    knobs: Knobs
    report: Report
    agents: int
    attempts: int
    refused: int
    """Attempts rejected with status 429."""
    late: int
    """Attempts that timed out."""
    lost: int
    """Agents that did not succeed."""
    mean: float
    """Mean latency of the answers, in seconds."""
    at_limit: float
    """Share of the time in which all slots were in use."""

    @property
    def makespan(self) -> float:
        """Seconds from the start of the run to its end."""
        return self.report.summary.makespan

    @property
    def account(self) -> tuple[float, str]:
        """The least time in seconds in which the account's limits admit all agents, and the limit that sets it."""
        found = [(0.0, "")]
        usage, rpm, tpm = self.report.summary.usage, self.knobs.requests_per_minute, self.knobs.tokens_per_minute
        if rpm is not None:
            found.append((60 * self.agents / rpm, f"{rpm:,} requests a minute"))
        if tpm is not None and usage is not None:  # the token bucket starts full: one minute's quota
            found.append((60 * max(0, usage.total_tokens - tpm) / tpm, f"{tpm:,} tokens a minute"))
        return max(found)


def advise(knobs: Knobs, report: Report) -> str:
    """Return one sentence: which knob to turn next, and why.

    >>> from agentkit.lab.control_room.operation import rehearse
    >>> knobs = Knobs(max_concurrency=2, requests_per_minute=None)
    >>> print(advise(knobs, rehearse(20, knobs)))
    All 2 slots were taken ... % of the time while agents waited: with a limit of 4 expect about ... s instead of ... s.
    """
    attempts = [attempt for outcome in report for attempt in outcome.attempts]
    answered = [a.finished - a.started for o in report if o.status == "success" for a in o.attempts[-1:]]
    run = _RunFigures(
        knobs, report, len(report), len(attempts),
        sum(getattr(attempt.error, "status_code", None) == 429 for attempt in attempts),
        sum(isinstance(attempt.error, TimeoutError) for attempt in attempts),
        report.summary.failed, math.fsum(answered) / len(answered) if answered else 0.0,
        in_flight(report).facts["share_at_limit"],
    )  # fmt: skip
    return next(said for rule in _RULES if (said := rule(run)))


def _stopped(run: _RunFigures) -> str:
    if not run.report.stopped:
        return ""
    done = run.agents - run.lost
    return f"Stopped with {done} of {count(run.agents, 'agent')} done: let one run reach its end, then compare with it."


def _refusals(run: _RunFigures) -> str:
    if run.knobs.rate_limiter or run.refused <= 0.05 * run.attempts:
        return ""
    share, (least, limit) = number(round(100 * run.refused / run.attempts)), run.account
    said = f"{run.refused:,} of {run.attempts:,} requests were refused with 429, {share} %"
    if not limit:
        return f"{said}: the account's limits were raised during the run, so run it again with the new ones."
    needs = f": {limit} need {seconds(least)} for {count(run.agents, 'agent')} however you ask"
    return f"{said}{needs if least else ''}; switch the rate limiter on and none is wasted."


def _timeouts(run: _RunFigures) -> str:
    if run.knobs.timeout is None or run.late <= 0.02 * run.attempts:
        return ""
    said = (
        f"{run.late:,} of {run.attempts:,} attempts were cut off at {run.knobs.timeout:g} s and paid for all the same"
    )
    return f"{said}: a mean answer takes {seconds(run.knobs.latency)}, so try a timeout of {3 * run.knobs.latency:g} s."


def _lost(run: _RunFigures) -> str:
    if not run.lost:
        return ""
    if run.knobs.retry == "none":
        return f"{count(run.lost, 'agent')} failed and had no second try: choose a retry policy, with jitter."
    if run.knobs.failure_rate:
        share = number(100 * run.knobs.failure_rate)
        return f"{count(run.lost, 'agent')} used up all retries: no policy saves a provider failing {share} %."
    return f"{count(run.lost, 'agent')} used up all retries: fewer at once, or the rate limiter, leaves less to retry."


def _rate(run: _RunFigures) -> str:
    least, limit = run.account
    if least + run.mean < 0.7 * run.makespan or not limit:
        return ""
    needs = math.ceil(run.agents / least * run.mean)
    said = f"The account is the limit: {limit} need {seconds(least)} for {count(run.agents, 'agent')}"
    fewer = (
        f"; rate x latency (Little) says {count(needs, 'slot')} are enough" if needs < run.knobs.max_concurrency else ""
    )
    return f"{said} and the run took {seconds(run.makespan)}{fewer}, and only a higher limit is faster."


def _slots(run: _RunFigures) -> str:
    limit = run.knobs.max_concurrency
    if run.at_limit < 0.5 or run.knobs.adaptive or run.report.summary.peak_in_flight < limit:
        return ""
    more = min(2 * limit, run.agents)
    expected = max(run.agents * run.mean / more + run.mean, run.account[0])
    if more == limit or expected > 0.95 * run.makespan:
        return ""
    taken = number(round(100 * run.at_limit))
    said = f"All {count(limit, 'slot')} were taken {taken} % of the time while agents waited"
    return f"{said}: with a limit of {more} expect about {seconds(expected)} instead of {seconds(run.makespan)}."


def _tail(run: _RunFigures) -> str:
    longest = max((o.latency or 0.0 for o in run.report), default=0.0)
    peak = run.report.summary.peak_in_flight
    return (
        f"Nothing but the work holds it back: at most {peak} in flight, the longest agent {seconds(longest)} "
        f"of {seconds(run.makespan)}; try more agents, or a slower provider."
    )


_RULES: tuple[Callable[[_RunFigures], str], ...] = (_stopped, _refusals, _timeouts, _lost, _rate, _slots, _tail)
