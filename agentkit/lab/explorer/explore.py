"""Every order in which a few asyncio tasks can run: find a race, see it, prove that it is fixed.

What it holds: `explore`, and its result `Exploration`.
Guarantees: the same scenario gives the same runs, counts and table every time and on every supported Python.
Strategy: run the scenario repeatedly, on fresh state, on a virtual loop whose ready queue chooses the next step. The
first run takes asyncio's own order (first in, first out), followed by all runs that depart from it once, then twice,
and so on, so the first failure found has the fewest departures. (This is the idea of delay-bounded scheduling: Emmi,
Qadeer and Rakamarić, 2011.) Opened by notebook 04. For threads: `agentkit.lab.explorer.threads`.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentkit.base.arguments import function, switch, whole
from agentkit.lab.explorer.search import Search
from agentkit.lab.loops.beside import beside
from agentkit.lab.loops.interleaving import Interleaving

__all__ = ["Exploration", "explore"]


@dataclass(frozen=True, slots=True, repr=False)
class Exploration:
    """What `explore` found; its `repr` states all of it."""

    scenario: str
    """Name of the scenario."""
    runs: int
    """Orders tried, each once."""
    outcomes: dict[str, int]
    """How many orders had each outcome, in the order of discovery."""
    failures: int
    """Orders that broke the invariant, raised, deadlocked, or (without an invariant) differ from the first outcome."""
    first_failure: int | None
    """Number of the first run that failed, counted from 1; None if none did."""
    departures: int | None
    """How many times that run departs from asyncio's own order."""
    exhausted: bool
    """Whether every order was tried."""
    interleaving: Interleaving | None
    """That run, line by line; None if none failed."""

    @property
    def holds(self) -> bool:
        """Whether none of the orders tried failed."""
        return not self.failures

    @property
    def proved(self) -> bool:
        """Whether every order was tried and none failed."""
        return self.exhausted and not self.failures

    def _headline(self) -> str:
        orders = f"{self.runs:,} order{'s' * (self.runs != 1)}"
        if self.proved:
            return f"{self.scenario}: proved, it holds in every order there is ({orders})"
        tried = f"every order tried ({self.runs:,})" if self.exhausted else f"{orders} tried, not all there are"
        if self.holds:
            return f"{self.scenario}: no failure and no proof, {tried}; raise max_runs or make the scenario smaller"
        off = f"{self.departures} departure{'s' * (self.departures != 1)} from" if self.departures else "in"
        return (
            f"{self.scenario}: {self.failures:,} of {self.runs:,} orders fail, the first is run {self.first_failure}, "
            f"{off} asyncio's own order; {tried}"
        )

    def _counts(self) -> str:
        most = [f"{outcome} ×{count:,}" for outcome, count in itertools.islice(self.outcomes.items(), 8)]
        return (
            "outcomes: " + ", ".join(most) + (f", and {len(self.outcomes) - 8} more" if len(self.outcomes) > 8 else "")
        )

    def __repr__(self) -> str:
        text = f"{self._headline()}\n{self._counts()}"
        if self.interleaving is not None:
            text += f"\nhow it comes to {self.interleaving.outcome}:\n{self.interleaving!r}"
        return text

    def _repr_html_(self) -> str:
        parts = [f"<p><b>{html.escape(self._headline())}</b><br>{html.escape(self._counts())}</p>"]
        if self.interleaving is not None:
            parts.append(f"<p>How it comes to {html.escape(self.interleaving.outcome)}:</p>")
            parts.append(self.interleaving._repr_html_())
        return "".join(parts)


def explore(
    scenario: Callable[[], Any],
    invariant: Callable[[Any], Any] | None = None,
    *,
    max_runs: int = 5_000,
    max_deviations: int | None = None,
    any_latency: bool = True,
    stop_at_first: bool = False,
) -> Exploration:
    """Run `scenario` in every order its tasks can take, and report the orders that break `invariant`.

    >>> import asyncio
    >>> async def two_agents():
    ...     counter = 0
    ...     async def agent():
    ...         nonlocal counter
    ...         read = counter
    ...         await asyncio.sleep(0)
    ...         counter = read + 1
    ...     await asyncio.gather(agent(), agent())
    ...     return counter
    >>> explore(two_agents, lambda counter: counter == 2)
    two_agents: 4 of 6 orders fail, the first is run 1, in asyncio's own order; every order tried (6)
    outcomes: 1 ×4, 2 ×2
    how it comes to 1:
    step  task     line  source                  counter
       1  agent-1     5  read = counter          0
                      6  await asyncio.sleep(0)  0
       2  agent-2     5  read = counter          0
                      6  await asyncio.sleep(0)  0
       3  agent-1     7  counter = read + 1      0 → 1
       4  agent-2     7  counter = read + 1      1 → 1

    `scenario` makes fresh state on each call. It is an async function that runs its tasks and returns the value to
    check, or a plain function that returns coroutines, or `(state, coroutines)`; in that case `state` is checked.
    `invariant(value)` returns whether the value is right, or asserts it. Without an invariant, an order fails if its
    outcome differs from the first one's. An exception or a deadlock is also a failure.

    What it shows: asyncio itself is first in, first out; the other orders model a network that answers sooner or later
    than it did here. So with `any_latency`, a sleep may end at any moment, as an answer may; False keeps sleeps as
    written and reorders only what is ready at the same time. Tasks switch at an `await` and nowhere else; for threads,
    see `hammer`. The share of orders that fail is not a probability. If every order was tried and none failed, `proved`
    is True, for this number of tasks and this input. `max_runs` and `max_deviations` bound the search.
    Works the same in a script and in a notebook cell, without `await`.
    """
    function("scenario", scenario, "write explore(f), not explore(f())", may_be_async=True)
    function("invariant", invariant, none=True)
    whole("max_runs", max_runs, "each run tries one order")
    whole("max_deviations", max_deviations, "use None for no limit", least=0, none=True)
    switch("any_latency", any_latency)
    switch("stop_at_first", stop_at_first)
    search = Search(scenario, invariant, any_latency)

    def work() -> Exploration:
        exhausted = search.run(max_runs, max_deviations, stop_at_first)
        run, departures = (search.first.run, search.first.departures) if search.first else (None, None)
        return Exploration(
            search.name, search.runs, search.outcomes, search.failures, run, departures, exhausted, search.replay()
        )

    return beside(work, search.stop)
