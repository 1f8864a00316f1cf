"""What orchestrators share: an agent's turn, the record of it, and the log of several runs as one.

What it holds: `AgentResult` and `Results`, which `run_*` return; and `pair`, `ask`, `fold` and `Log`, of which the
orchestrators are made.
Guarantees: one result per turn, also for turns that never began; an error's text is never empty; `""` is an answer
and None is not; state is changed by one writer, in the order of the agents, whoever finished first.
Strategy: a turn is a task for an executor, written as plain data, so that limits, retries and a journal apply to it.
Taken apart in notebook 10.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentkit.agent import ChatAgent, Reply
from agentkit.conversation import ConversationState
from agentkit.executor import ParallelAgentExecutor
from agentkit.frozen import freeze
from agentkit.outcome import Outcome, Reads, Span, clock, current
from agentkit.report import Report
from agentkit.run import Run

__all__ = ["AgentResult", "Log", "Results", "ask", "checked", "executor_for", "fold", "pair", "record", "start", "turn"]


@dataclass(frozen=True, slots=True)
class AgentResult(Reads):
    """What became of one agent's turn; reads like the dict `{"agent", "result", "error"}`.

    >>> done, late = AgentResult("critic", ""), AgentResult("poet", None, "timeout")
    >>> done["error"] is None, late["error"], late.text, dict(late)
    (True, 'timeout', '[poet: timeout]', {'agent': 'poet', 'result': None, 'error': 'timeout'})
    """

    agent: str
    """The agent's name."""
    result: Any
    """What it answered, `""` included; None if it failed."""
    error: str | None = None
    """None if it went well; else `"timeout"`, or what the error says, never empty."""
    seconds: float | None = None
    """From its first attempt to its end; None if it never began."""
    usage: Any = None
    """What it cost, where the agent says so."""

    @property
    def text(self) -> str:
        """The answer as a text; for a failure a remark in brackets. Safe to print and to slice."""
        return str(self.result) if self.error is None else f"[{self.agent}: {self.error}]"

    def keys(self) -> tuple[str, ...]:
        """Return the names that `dict(result)` holds."""
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
        """The turns that did not end well."""
        return [result for result in self if result.error is not None]

    def plot(self, kind: str = "timeline", **options: Any) -> Any:
        """Draw the run, as `Report.plot`; the rows of a timeline carry the agents' names."""
        if kind == "timeline":
            options.setdefault("labels", _label)
        return self.report.plot(kind, **options)

    def __repr__(self) -> str:
        said = (f"{r.agent} {r.result!r:.40}" if r.error is None else f"{r.agent} failed: {r.error:.60}" for r in self)
        return f"<{type(self).__name__}: {'; '.join(said) or 'none'}>"


def _label(outcome: Outcome) -> str:
    task = outcome.task
    return f"{task['agent']} {task['step']}" if "step" in task else str(task["agent"])


# -- before a run -------------------------------------------------------------------------------------------------


def executor_for(max_concurrent: Any, usual: Any, executor: Any, **settings: Any) -> ParallelAgentExecutor:
    """Return the executor that was handed in, or make one from `max_concurrent`."""
    if executor is None:
        try:
            return ParallelAgentExecutor(max_concurrent, **settings)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("max_concurrency", "max_concurrent")) from None
    if not isinstance(executor, ParallelAgentExecutor):
        raise TypeError(f"executor must be a ParallelAgentExecutor, got {executor!r:.80}; leave it out for a plain one")
    if max_concurrent != usual:
        raise TypeError(
            f"max_concurrent={max_concurrent!r} and executor= were both given, and the executor has a limit of its own; "
            "write ParallelAgentExecutor(max_concurrency=...)"
        )
    return executor


def pair(agents: Iterable[Any], prompts: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Pair agents with prompts, and refuse what would lose one: unequal lengths, and names that occur twice."""
    if isinstance(prompts, str | bytes):
        raise TypeError(
            f"prompts must hold one prompt per agent, got the single text {prompts!r:.40}; "
            "write [prompt] * len(agents) to ask all the same"
        )
    team, asked = list(agents), list(prompts)
    seen: dict[str, int] = {}
    for place, agent in enumerate(team):
        name = getattr(agent, "name", None)
        if not isinstance(name, str) or not name or not callable(getattr(agent, "process", None)):
            raise TypeError(
                f"agents[{place}] must have a name and `async def process(prompt, context)`, got {agent!r:.80}; "
                "derive it from agentkit.Agent"
            )
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


def start(state: Any) -> ConversationState:
    """Return the state to begin with; an empty one for None."""
    if state is None:
        return ConversationState()
    if not isinstance(state, ConversationState):
        raise TypeError(f"initial_state must be a ConversationState, got {state!r:.80}; leave it out for an empty one")
    return state


def turn(agent: Any, name: str, prompt: Any, **more: Any) -> dict[str, Any]:
    """Return a turn as a task: plain data, from which a limiter can guess its tokens and a journal know it again."""
    task = {"agent": name, "prompt": prompt, **more}
    bound = getattr(agent, "max_tokens", None)
    return task if bound is None else {**task, "max_tokens": bound}


# -- a turn, and after it -----------------------------------------------------------------------------------------


async def ask(agent: Any, name: str, prompt: Any, context: Any) -> Any:
    """Have an agent answer; a `ChatAgent` with the whole `Reply`, so that what it cost is known."""
    if getattr(type(agent), "process", None) is ChatAgent.process:
        return await agent.ask(prompt, context)
    answer = agent.process(prompt, context) if hasattr(agent, "process") else agent(prompt)
    return checked(await answer if inspect.isawaitable(answer) else answer, name)


def checked(answer: Any, name: str) -> Any:
    """Refuse what is no answer, or could not be kept in a state, where the agent can still be named."""
    if answer is None:
        raise TypeError(f"agent {name!r} returned None, which is no answer; return a text, '' counts as one")
    freeze(_content(answer), f"answer of {name!r}")
    return answer


def _content(answer: Any) -> Any:
    return answer.text if isinstance(answer, Reply) else answer


def record(outcome: Outcome, cut: str | None = None) -> AgentResult:
    """Make a turn's result of its outcome; `cut` says why the run was ended, if it was."""
    name = outcome.task["agent"]
    if outcome.status == "success":
        usage = getattr(outcome.result, "usage", None)
        return AgentResult(name, _content(outcome.result), None, outcome.latency, usage)
    return AgentResult(name, None, _words(outcome, cut), outcome.latency)


def _words(outcome: Outcome, cut: str | None) -> str:
    error = outcome.error
    if outcome.status == "timeout":
        return "timeout"
    if isinstance(error, asyncio.CancelledError):
        if cut is not None:
            return cut
        return str(error).strip() or "cancelled: the agent raised CancelledError by itself"
    return str(error).strip() or type(error).__name__


def fold(state: ConversationState, prompt: Any, result: AgentResult) -> ConversationState:
    """Return the state with a turn in it: prompt, answer, output. A failed turn leaves the state as it was."""
    if result.error is not None:
        return state
    state = state if prompt is None else state.add_message("user", prompt)
    return state.add_message("assistant", result.result, name=result.agent).add_output(result.agent, result.result)


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

    def add(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        """Add a run's outcomes, with their times counted from the start of this log."""
        by = run._began - self.began
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
        label, by = _label(outcome), self._shift
        inside = [Span(f"{s.name} · {label}", s.started + by, s.finished + by) for s in outcome.spans]
        self._outer.spans += (Span(label, outcome.started + by, outcome.finished + by), *inside)


def _move(outcome: Outcome, by: float) -> None:
    outcome.submitted += by
    outcome.started = None if outcome.started is None else outcome.started + by
    outcome.finished = None if outcome.finished is None else outcome.finished + by
    stretches = [*(outcome._attempts or ()), *outcome.spans]
    moved: list[Any] = [replace(s, started=s.started + by, finished=s.finished + by) for s in stretches]
    if outcome._attempts is not None:
        outcome._attempts = tuple(moved[: len(outcome._attempts)])
    outcome.spans = tuple(moved[len(moved) - len(outcome.spans) :])
