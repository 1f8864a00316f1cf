"""Agents that work together, one after another or concurrently, and what all orchestrators share: an agent's turn.

What it holds: `SequentialOrchestrator`, `ParallelOrchestrator`, `AgentResult`, `Results`, and functions of one turn.
Guarantees: every turn has a result, including one that failed or never started; an error message is never empty; `""`
is an answer and None is not; the final state depends only on the answers, not on which agent finished first.
Strategy: a turn is a task of an executor, written as plain data, so that limits, retries, timeouts and a journal apply
to it. Opened by the decision guide.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256
from types import EllipsisType
from typing import Any

from agentkit.agent import ChatAgent, Reply
from agentkit.base.arguments import attribute, instance, items, refusal, seconds
from agentkit.executor import ParallelAgentExecutor
from agentkit.report import Report, attach
from agentkit.report.outcome import Outcome, Reads
from agentkit.semaphore import CapacityLimiter
from agentkit.state.conversation import ConversationState
from agentkit.state.frozen import freeze, thaw

__all__ = [
    "AgentResult",
    "ParallelOrchestrator",
    "Results",
    "SequentialOrchestrator",
    "ask",
    "asking",
    "context_fingerprint",
    "executor_for",
    "fold",
    "label",
    "record",
    "start",
    "turn",
]

TIMEOUT = 30.0  # seconds per attempt, in an executor made here


@dataclass(frozen=True, slots=True)
class AgentResult(Reads):
    """The result of one agent's turn; reads like the dict `{"agent", "result", "error"}`.

    >>> done, late = AgentResult("critic", ""), AgentResult("poet", None, "timeout")
    >>> done["error"] is None, late["error"], late.text, dict(late)
    (True, 'timeout', '[poet: timeout]', {'agent': 'poet', 'result': None, 'error': 'timeout'})
    """

    agent: str
    """The agent's name."""
    result: Any
    """Its answer, which may be `""`; None if it failed."""
    error: str | None = None
    """None if it succeeded; otherwise `"timeout"` or the error message, never empty."""
    seconds: float | None = None
    """From the start of its first attempt to its end; None if it never started."""
    usage: Any = None
    """What it cost, if the agent reports it."""

    @property
    def text(self) -> str:
        """The answer as a string; for a failure, a note in brackets. Safe to print and to slice."""
        return str(self.result) if self.error is None else f"[{self.agent}: {self.error}]"

    def keys(self) -> tuple[str, ...]:
        """Return the keys of `dict(result)`."""
        return ("agent", "result", "error")


class Results(list[AgentResult]):
    """The results of a run, one per turn, and the `report` they were taken from.

    >>> Results([AgentResult("critic", "fine"), AgentResult("poet", None, "timeout")])
    <Results: critic 'fine'; poet failed: timeout>
    """

    def __init__(self, results: Iterable[AgentResult] = (), report: Report | None = None) -> None:
        super().__init__(results)
        self.report = Report([]) if report is None else report
        """The log of the run: `.summary`, `.to_frame()`, `.plot()`."""

    @property
    def failed(self) -> list[AgentResult]:
        """The turns that failed."""
        return [result for result in self if result.error is not None]

    def plot(self, kind: str = "timeline", **options: Any) -> Any:
        """Draw the run, like `Report.plot`; the rows of a timeline are labeled with the agents' names."""
        if kind == "timeline":
            options.setdefault("labels", label)
        return self.report.plot(kind, **options)

    def __repr__(self) -> str:
        said = (f"{r.agent} {r.result!r:.40}" if r.error is None else f"{r.agent} failed: {r.error:.60}" for r in self)
        return f"<{type(self).__name__}: {'; '.join(said) or 'none'}>"


class _Orchestrator:
    """What both have: an executor, and totals of finished turns."""

    executor: ParallelAgentExecutor = attribute(instance, kind=ParallelAgentExecutor)
    """What runs the turns; its limit can be changed while they run."""

    _runs = _succeeded = _failed = 0

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
        self.executor = executor_for(1, 1, executor)

    async def run_sequential(
        self, agents: Iterable[Any], prompts: Iterable[Any], initial_state: ConversationState | None = None
    ) -> tuple[ConversationState, Results]:
        """Run the agents in order; return the final state and one result per agent."""
        team, first = _pair(agents, prompts), start(initial_state)
        by_name, state = {agent.name: agent for agent, _ in team}, first
        settled, outcomes, initial = asyncio.Event(), list[Outcome](), context_fingerprint(first)
        recorded = self.executor.journal is not None

        async def turns() -> AsyncGenerator[dict[str, Any], None]:
            for agent, prompt in team:  # for a journal, a turn includes everything said before it
                yield turn(agent, agent.name, prompt, **(context_fingerprint(state) if recorded else initial))
                await settled.wait()
                settled.clear()

        call = asking(by_name, lambda: state, type(self).__name__)
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
        if max_concurrency is not ... and max_concurrent is not ...:
            raise TypeError(
                f"max_concurrency={max_concurrency!r} and max_concurrent={max_concurrent!r} were both given, and "
                "mean the same; give one of them"
            )
        limit = max_concurrent if max_concurrency is ... else max_concurrency
        self.executor = executor_for(5 if limit is ... else limit, 5, executor, timeout=TIMEOUT)

    async def run_parallel(
        self, agents: Iterable[Any], prompts: Iterable[Any], initial_state: ConversationState | None = None
    ) -> tuple[ConversationState, Results]:
        """Run all agents; return the final state and one result per agent, in the order of the agents."""
        team, state = _pair(agents, prompts), start(initial_state)
        call = asking({agent.name: agent for agent, _ in team}, lambda: state, type(self).__name__)
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
        team, context = _pair([agent], [prompt]), start(state)
        seconds("timeout", timeout)

        async def call(task: dict[str, Any]) -> Any:
            async with asyncio.timeout(timeout):
                return await ask(agent, agent.name, task["prompt"], context)

        call.__qualname__ = type(self).__name__  # how a journal names the work
        task = turn(agent, agent.name, prompt, **context_fingerprint(context))
        report = await self.executor.execute([task], call)
        return self._ended(team, context, report)[1][0]


def _pair(agents: Iterable[Any], prompts: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Pair agents with prompts; refuses unequal lengths and duplicate names, either of which would lose an answer."""
    team = items("agents", agents, "put a single agent in a list")
    asked = items("prompts", prompts, "write [prompt] * len(agents) to ask all the same")
    seen: dict[str, int] = {}
    for place, agent in enumerate(team):
        name = getattr(agent, "name", None)
        if not isinstance(name, str) or not name or not callable(getattr(agent, "process", None)):
            rule = "must have a name and `async def process(prompt, context)`"
            raise refusal(f"agents[{place}]", rule, agent, "derive it from agentkit.Agent", TypeError)
        if name in seen:
            raise ValueError(
                f"agents must have different names, got {name!r} at places {seen[name]} and {place}: "
                "agent_outputs keeps one output per name, so one would be lost; rename one of them"
            )
        seen[name] = place
    if len(team) != len(asked):
        raise ValueError(
            f"prompts must be as many as agents, got {len(asked)} prompts for {len(team)} agents; "
            "nothing was run, since the rest would have been dropped in silence"
        )
    return list(zip(team, asked, strict=True))


def label(outcome: Outcome) -> str:
    """Return the label of a turn in a picture."""
    task = outcome.task
    return f"{task['agent']} {task['step']}" if "step" in task else str(task["agent"])


def executor_for(max_concurrency: Any, default: Any, executor: Any, **settings: Any) -> ParallelAgentExecutor:
    """Return the given executor, or make one from `max_concurrency`."""
    if executor is None:
        return ParallelAgentExecutor(max_concurrency, **settings)
    given: ParallelAgentExecutor = instance("executor", executor, ParallelAgentExecutor, "leave it out for a plain one")
    if max_concurrency != default:
        raise TypeError(
            f"max_concurrency={max_concurrency!r} and executor= were both given, and an executor has its own limit; "
            "write ParallelAgentExecutor(max_concurrency=...)"
        )
    return given


def start(state: Any) -> ConversationState:
    """Return the initial state; an empty one for None."""
    remedy = "leave it out for an empty one"
    return instance("initial_state", state, ConversationState, remedy, none=True) or ConversationState()


def turn(agent: Any, name: str, prompt: Any, **more: Any) -> dict[str, Any]:
    """Return a turn as a task: plain data, so a limiter can estimate its tokens and a journal can recognize it."""
    task = {"agent": name, "prompt": prompt, **more}
    bound = getattr(agent, "max_tokens", None)
    return task if bound is None else {**task, "max_tokens": bound}


def context_fingerprint(state: ConversationState) -> dict[str, str]:
    """Return an entry for a turn's task that differs between conversations.

    Without it, a journal would answer "Go on." with the record of the first conversation in which it was said.
    """
    if not state.messages and not state.agent_outputs:
        return {}
    said = repr((state.to_messages(), sorted(thaw(state.agent_outputs).items())))
    return {"after": sha256(said.encode()).hexdigest()[:16]}


async def ask(agent: Any, name: str, prompt: Any, context: Any) -> Any:
    """Return an agent's answer; from a `ChatAgent`, the whole `Reply`, so that its usage is known.

    Refuses None and answers that a state cannot hold, while the error can still name the agent.
    """
    if getattr(type(agent), "process", None) is ChatAgent.process:
        answer = agent.ask(prompt, context)
    else:
        answer = agent.process(prompt, context) if hasattr(agent, "process") else agent(prompt)
    if inspect.isawaitable(answer):
        answer = await answer
    if answer is None:
        raise TypeError(f"agent {name!r} returned None, which is no answer; return a text, '' counts as one")
    freeze(_content(answer), f"answer of {name!r}")
    return answer


def _content(answer: Any) -> Any:
    return answer.text if isinstance(answer, Reply) else answer


def asking(agents: Mapping[str, Any], context: Callable[[], Any], work: str) -> Callable[[dict[str, Any]], Any]:
    """Return what an executor calls with each turn; a journal names it `work`."""

    async def call(task: dict[str, Any]) -> Any:
        name = task["agent"]
        return await ask(agents[name], name, task["prompt"], context())

    call.__qualname__ = work
    return call


def record(outcome: Outcome, cut: str | None = None) -> AgentResult:
    """Return the result of a turn; `cut` is why the run was stopped, if it was."""
    name, error = outcome.task["agent"], outcome.error
    if outcome.status == "success":
        usage = getattr(outcome.result, "usage", None)
        return AgentResult(name, _content(outcome.result), None, outcome.latency, usage)
    if outcome.status == "timeout":
        said = "timeout"
    elif isinstance(error, asyncio.CancelledError):
        said = cut or str(error).strip() or "cancelled: the agent raised CancelledError by itself"
    else:
        said = str(error).strip() or type(error).__name__
    return AgentResult(name, None, said, outcome.latency)


def fold(state: ConversationState, prompt: Any, result: AgentResult) -> ConversationState:
    """Return the state with a turn added: prompt, answer, output. A failed turn adds nothing."""
    if result.error is not None:
        return state
    state = state if prompt is None else state.add_message("user", prompt)
    return state.add_message("assistant", result.result, name=result.agent).add_output(result.agent, result.result)
