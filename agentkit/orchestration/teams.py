"""Agents that work together, one after another or concurrently.

What it holds: `SequentialOrchestrator` and `ParallelOrchestrator`. For a team with a lead see `coordinator.py`, for
stages see `pipeline.py`.
Guarantees: every agent has a result, including one that failed or never started; the final state depends only on the
answers, not on which agent finished first; both return the same kind of state, so either can replace the other.
Strategy: a turn is a task of an executor. Limits, retries, timeouts, journal, budget and pictures are the executor's;
this module runs nothing by itself.
Opened by the decision guide.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from types import EllipsisType
from typing import Any

from agentkit.base.arguments import attribute, instance, seconds
from agentkit.executor import ParallelAgentExecutor
from agentkit.orchestration.turns import (
    AgentResult,
    Results,
    ask,
    context_fingerprint,
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

__all__ = ["ParallelOrchestrator", "SequentialOrchestrator"]

TIMEOUT = 30.0  # seconds per attempt, in an executor made here


class _Orchestrator:
    """What both have: an executor, and totals of finished turns."""

    executor: ParallelAgentExecutor = attribute(instance, kind=ParallelAgentExecutor)
    """What runs the turns; its limit can be changed while they run."""

    def __init__(self) -> None:
        self._runs = self._succeeded = self._failed = 0

    def _ended(self, team: list[tuple[Any, Any]], state: Any, report: Report) -> tuple[ConversationState, Results]:
        """Add the outcomes to the state, in the order of the agents."""
        results = Results((record(outcome) for outcome in report.individual_results), report)
        for (_, prompt), result in zip(team, results, strict=True):
            state = fold(state, prompt, result)
        self._runs += 1
        self._failed += len(results.failed)
        self._succeeded += len(results) - len(results.failed)
        return state, results

    def __repr__(self) -> str:
        turns = f"{self._succeeded} turns succeeded, {self._failed} failed"
        return f"<{type(self).__name__}: {self._runs} runs, {turns}; {repr(self.executor)[1:-1]}>"


class SequentialOrchestrator(_Orchestrator):
    """Agents one after another; each sees all prompts and answers before its own.

    >>> from agentkit import Agent, ConversationState
    >>> class Echo(Agent):
    ...     async def process(self, prompt, context):
    ...         return f"{prompt} after {len(context.messages)} messages"
    >>> team, prompts = [Echo("a"), Echo("b")], ["plan", "write"]
    >>> state, results = asyncio.run(SequentialOrchestrator().run_sequential(team, prompts, ConversationState()))
    >>> [result["result"] for result in results], [message["role"] for message in state.messages]
    (['plan after 0 messages', 'write after 2 messages'], ['user', 'assistant', 'user', 'assistant'])

    A failed turn adds nothing to the state, and the next agent runs. With an executor of `on_error="stop"`, the
    remaining agents are recorded as not started; with `"raise"`, the error is raised with its `.report` attached.
    Retries keep the order: an agent starts after all attempts of the one before it.
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
        settled, outcomes, initial = asyncio.Event(), list[Outcome](), context_fingerprint(first)
        recorded = self.executor.journal is not None

        async def turns() -> AsyncGenerator[dict[str, Any], None]:
            for agent, prompt in team:  # for a journal, a turn includes everything said before it
                yield turn(agent, agent.name, prompt, **(context_fingerprint(state) if recorded else initial))
                await settled.wait()
                settled.clear()

        async def call(task: dict[str, Any]) -> Any:
            return await ask(by_name[task["agent"]], task["agent"], task["prompt"], state)

        call.__qualname__ = type(self).__name__  # how a journal names the work
        async with aclosing(turns()) as source, self.executor.stream(source, call) as run:
            try:
                async for outcome in run:
                    state = fold(state, outcome.task["prompt"], record(outcome))
                    outcomes.append(outcome)
                    settled.set()
            except Exception as error:
                attach(error, Report(outcomes, limits=run.limits), "the run was stopped")
                raise
        cut = asyncio.CancelledError(f"not started: {run.stopped}")
        for agent, prompt in team[len(outcomes) :]:
            outcomes.append(Outcome(len(outcomes), turn(agent, agent.name, prompt, **initial), error=cut))
        return self._ended(team, first, Report(outcomes, limits=run.limits, stopped=run.stopped))

    run = run_sequential


class ParallelOrchestrator(_Orchestrator):
    """Agents that run concurrently, at most `max_concurrency` at a time; all see the same initial state.

    >>> from agentkit import Agent, ConversationState
    >>> class Echo(Agent):
    ...     async def process(self, prompt, context):
    ...         return f"{prompt} after {len(context.messages)} messages"
    >>> team, prompts = [Echo("a"), Echo("b")], ["costs", "risks"]
    >>> state, results = asyncio.run(ParallelOrchestrator(max_concurrency=3).run_parallel(team, prompts))
    >>> [(result["agent"], result["error"]) for result in results], dict(state.agent_outputs)["b"]
    ([('a', None), ('b', None)], 'risks after 0 messages')

    Prompts and answers are added to the final state in the order of the agents. Five agents may run at a time, each
    for 30 seconds; pass `executor=ParallelAgentExecutor(5, timeout=60, retry=…)` for other limits. `max_concurrent` is
    another name for `max_concurrency`. Concurrent runs of one orchestrator share its slots.
    """

    def __init__(
        self,
        max_concurrency: int | CapacityLimiter | EllipsisType | None = ...,
        *,
        max_concurrent: int | CapacityLimiter | EllipsisType | None = ...,
        executor: ParallelAgentExecutor | None = None,
    ) -> None:
        super().__init__()
        if max_concurrent is not ...:
            if max_concurrency is not ...:
                raise TypeError(
                    f"max_concurrency={max_concurrency!r} and max_concurrent={max_concurrent!r} were both given, and "
                    "mean the same; give one of them"
                )
            max_concurrency = max_concurrent
        limit = 5 if max_concurrency is ... else max_concurrency
        self.executor = executor_for(limit, 5, executor, **({"timeout": TIMEOUT} if executor is None else {}))

    async def run_parallel(
        self, agents: Iterable[Any], prompts: Iterable[Any], initial_state: ConversationState | None = None
    ) -> tuple[ConversationState, Results]:
        """Run all agents; return the final state and one result per agent, in the order of the agents."""
        team, state = pair(agents, prompts), start(initial_state)
        by_name = {agent.name: agent for agent, _ in team}

        async def call(task: dict[str, Any]) -> Any:
            return await ask(by_name[task["agent"]], task["agent"], task["prompt"], state)

        call.__qualname__ = type(self).__name__  # how a journal names the work
        context = context_fingerprint(state)
        tasks = [turn(agent, agent.name, prompt, **context) for agent, prompt in team]
        return self._ended(team, state, await self.executor.execute(tasks, call))

    run = run_parallel

    async def run_with_limit(
        self, agent: Any, prompt: Any, state: ConversationState | None = None, timeout: float | None = TIMEOUT
    ) -> AgentResult:
        """Run one agent under the limit that all runs of this orchestrator share.

        `timeout` bounds an attempt, in seconds, without the wait for a slot. A failure is reported in the result, or
        raised if the executor has `on_error="raise"`.
        """
        team, context = pair([agent], [prompt]), start(state)
        seconds("timeout", timeout)

        async def call(task: dict[str, Any]) -> Any:
            async with asyncio.timeout(timeout):
                return await ask(agent, agent.name, task["prompt"], context)

        call.__qualname__ = type(self).__name__  # how a journal names the work
        task = turn(agent, agent.name, prompt, **context_fingerprint(context))
        report = await self.executor.execute([task], call)
        return self._ended(team, context, report)[1][0]
