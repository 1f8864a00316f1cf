"""Agents that work together, one after another or side by side.

What it holds: `SequentialOrchestrator` and `ParallelOrchestrator`. With a lead: `coordinator.py`; in a line:
`pipeline.py`.
Guarantees: every agent gets its prompt and has its result, also the one that failed or never began; the final state
depends on the answers alone, not on who finished first; both leave the same kind of state, so that one can take the
other's place.
Strategy: a turn is a task of an executor. Limits, retries, time limits, journal, budget and pictures are the
executor's; nothing here runs anything by itself.
Opened by the decision guide.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from agentkit.executor import ParallelAgentExecutor
from agentkit.orchestration.turns import (
    AgentResult,
    Call,
    Results,
    after,
    ask,
    executor_for,
    fold,
    pair,
    record,
    start,
    turn,
)
from agentkit.report import Report, attach
from agentkit.report.outcome import Outcome
from agentkit.semaphore import CapacityLimiter
from agentkit.state.conversation import ConversationState

__all__ = ["OrchestratorStatistics", "ParallelOrchestrator", "SequentialOrchestrator"]

TIMEOUT = 30.0  # seconds an agent may take in an executor made here


@dataclass(frozen=True, slots=True)
class OrchestratorStatistics:
    """An orchestrator at one instant."""

    runs: int
    """Runs that have ended, well or not."""
    succeeded: int
    """Turns that ended well, in those runs."""
    failed: int
    """Turns that did not."""
    in_flight: int
    """Turns being attempted now, by anybody on the same limiter."""


class _Orchestrator:
    """What both have: an executor, and sums."""

    executor: ParallelAgentExecutor
    """What runs the turns; its limiter can be turned while they run."""

    def __init__(self) -> None:
        self._runs = self._succeeded = self._failed = 0

    def _ended(self, team: list[tuple[Any, Any]], state: Any, report: Report) -> tuple[ConversationState, Results]:
        """Fold the outcomes into the state, in the order of the agents."""
        results = Results((record(outcome) for outcome in report.individual_results), report)
        for (_, prompt), result in zip(team, results, strict=True):
            state = fold(state, prompt, result)
        self._runs += 1
        self._failed += len(results.failed)
        self._succeeded += len(results) - len(results.failed)
        return state, results

    def statistics(self) -> OrchestratorStatistics:
        """Return what ended so far, and what is in flight."""
        in_flight = self.executor.limiter.statistics().in_flight
        return OrchestratorStatistics(self._runs, self._succeeded, self._failed, in_flight)

    def __repr__(self) -> str:
        turns = f"{self._succeeded} turns succeeded, {self._failed} failed"
        return f"<{type(self).__name__}: {self._runs} runs, {turns}; {repr(self.executor)[1:-1]}>"


class SequentialOrchestrator(_Orchestrator):
    """Agents one after another; each sees what was asked and answered before it.

    >>> from agentkit import Agent, ConversationState
    >>> class Echo(Agent):
    ...     async def process(self, prompt, context):
    ...         return f"{prompt} after {len(context.messages)} messages"
    >>> team, prompts = [Echo("a"), Echo("b")], ["plan", "write"]
    >>> state, results = asyncio.run(SequentialOrchestrator().run_sequential(team, prompts, ConversationState()))
    >>> [result["result"] for result in results], [message["role"] for message in state.messages]
    (['plan after 0 messages', 'write after 2 messages'], ['user', 'assistant', 'user', 'assistant'])

    A turn that fails leaves no trace in the state, and the next agent has its turn; with an executor of
    `on_error="stop"` the rest is recorded as not started, with `"raise"` the error is raised, its `.report` attached.
    Retries keep the order: an agent begins when the one before it has ended for good.
    """

    def __init__(self, *, executor: ParallelAgentExecutor | None = None) -> None:
        super().__init__()
        self.executor = executor_for(1, 1, executor)

    async def run_sequential(
        self, agents: Iterable[Any], prompts: Iterable[Any], initial_state: ConversationState | None = None
    ) -> tuple[ConversationState, Results]:
        """Run the agents in order; return the final state and one result per agent."""
        team, first = pair(agents, prompts), start(initial_state)
        by_name, state = {agent.name: agent for agent, _ in team}, first
        settled, outcomes, known = asyncio.Event(), list[Outcome](), after(first)
        recorded = self.executor.journal is not None

        async def turns() -> AsyncGenerator[dict[str, Any], None]:
            for agent, prompt in team:  # a journal knows a turn by all that has been said before it
                yield turn(agent, agent.name, prompt, **(after(state) if recorded else known))
                await settled.wait()
                settled.clear()

        async def call(task: dict[str, Any]) -> Any:
            return await ask(by_name[task["agent"]], task["agent"], task["prompt"], state)

        async with aclosing(turns()) as source, self.executor.stream(source, Call(type(self).__name__, call)) as run:
            try:
                async for outcome in run:
                    state = fold(state, outcome.task["prompt"], record(outcome))
                    outcomes.append(outcome)
                    settled.set()
            except Exception as error:
                attach(error, Report(outcomes, limits=run._limits), "the run was stopped")
                raise
        cut = asyncio.CancelledError(f"not started: {(reason := run._cut_off and run._cut_off[1])}")
        for agent, prompt in team[len(outcomes) :]:
            outcomes.append(Outcome(len(outcomes), turn(agent, agent.name, prompt, **known), error=cut))
        return self._ended(team, first, Report(outcomes, limits=run._limits, stopped=reason))

    run = run_sequential


class ParallelOrchestrator(_Orchestrator):
    """Agents side by side, at most `max_concurrent` at a time; all see the same initial state.

    >>> from agentkit import Agent, ConversationState
    >>> class Echo(Agent):
    ...     async def process(self, prompt, context):
    ...         return f"{prompt} after {len(context.messages)} messages"
    >>> team, prompts = [Echo("a"), Echo("b")], ["costs", "risks"]
    >>> state, results = asyncio.run(ParallelOrchestrator(max_concurrent=3).run_parallel(team, prompts))
    >>> [(result["agent"], result["error"]) for result in results], dict(state.agent_outputs)["b"]
    ([('a', None), ('b', None)], 'risks after 0 messages')

    Prompts and answers enter the final state in the order of the agents. An agent has 30 seconds; hand in
    `executor=ParallelAgentExecutor(5, timeout=60, retry=…)` for other limits. One orchestrator may serve many runs at
    once: they share its slots.
    """

    def __init__(
        self, max_concurrent: int | CapacityLimiter | None = 5, *, executor: ParallelAgentExecutor | None = None
    ) -> None:
        super().__init__()
        self.executor = executor_for(max_concurrent, 5, executor, **({} if executor else {"timeout": TIMEOUT}))

    async def run_parallel(
        self, agents: Iterable[Any], prompts: Iterable[Any], initial_state: ConversationState | None = None
    ) -> tuple[ConversationState, Results]:
        """Run all agents; return the final state and one result per agent, in the order of the agents."""
        team, state = pair(agents, prompts), start(initial_state)
        by_name = {agent.name: agent for agent, _ in team}

        async def call(task: dict[str, Any]) -> Any:
            return await ask(by_name[task["agent"]], task["agent"], task["prompt"], state)

        known = after(state)
        tasks = [turn(agent, agent.name, prompt, **known) for agent, prompt in team]
        return self._ended(team, state, await self.executor.execute(tasks, Call(type(self).__name__, call)))

    run = run_parallel

    async def run_with_limit(
        self, agent: Any, prompt: Any, state: ConversationState | None = None, timeout: float | None = TIMEOUT
    ) -> AgentResult:
        """Run one agent within the limit that all runs of this orchestrator share.

        `timeout` bounds an attempt, in seconds, the wait for a slot not counted. A failure is in the
        result, unless the executor has `on_error="raise"`.
        """
        team, context = pair([agent], [prompt]), start(state)
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, got {timeout!r}; use None for no bound")

        async def call(task: dict[str, Any]) -> Any:
            async with asyncio.timeout(timeout):
                return await ask(agent, agent.name, task["prompt"], context)

        task = turn(agent, agent.name, prompt, **after(context))
        report = await self.executor.execute([task], Call(type(self).__name__, call))
        return self._ended(team, context, report)[1][0]
