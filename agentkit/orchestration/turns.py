"""What orchestrators share: an agent's turn, and its result.

What it holds: `AgentResult`, `Results` and `Coordinated`, which `run_*` return; and `pair`, `turn`, `ask`, `record` and
`fold`, from which the orchestrators are built.
Guarantees: one result per turn, also for turns that never started; an error message is never empty; `""` is an answer
and None is not; only one task changes the state, in the order of the agents, regardless of who finished first.
Strategy: a turn is a task for an executor, written as plain data, so that limits, retries and a journal apply to it.
Opened by the decision guide.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from agentkit.agent import ChatAgent, Reply
from agentkit.base.arguments import instance, items, refusal
from agentkit.executor import ParallelAgentExecutor
from agentkit.report import Report
from agentkit.report.outcome import Outcome, Reads
from agentkit.state.conversation import ConversationState
from agentkit.state.frozen import freeze, thaw

__all__ = [
    "AgentResult",
    "Coordinated",
    "Results",
    "ask",
    "checked",
    "context_fingerprint",
    "executor_for",
    "fold",
    "label",
    "pair",
    "record",
    "start",
    "turn",
]


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


class Coordinated(Results):
    """The results of a coordinated run: in each round, the specialists' in the order of the plan, then the lead's."""

    answer: Any = None
    """The lead's answer; None if there was nothing to join."""
    rounds: int = 0
    """Number of plans that were executed."""
    stopped: str | None = None
    """Why it ended early; None if the answer was good enough or all rounds were used."""

    @property
    def usage(self) -> Any:
        """The total cost of all turns, if the agents report it."""
        return self.report.summary.usage


def label(outcome: Outcome) -> str:
    """Return the label of a turn in a picture."""
    task = outcome.task
    return f"{task['agent']} {task['step']}" if "step" in task else str(task["agent"])


# -- before a run -------------------------------------------------------------------------------------------------


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


def pair(agents: Iterable[Any], prompts: Iterable[Any]) -> list[tuple[Any, Any]]:
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


# -- a turn, and after it -----------------------------------------------------------------------------------------


async def ask(agent: Any, name: str, prompt: Any, context: Any) -> Any:
    """Return an agent's answer; from a `ChatAgent`, the whole `Reply`, so that its usage is known."""
    if getattr(type(agent), "process", None) is ChatAgent.process:
        return await agent.ask(prompt, context)
    answer = agent.process(prompt, context) if hasattr(agent, "process") else agent(prompt)
    return checked(await answer if inspect.isawaitable(answer) else answer, name)


def checked(answer: Any, name: str) -> Any:
    """Refuse None and answers that a state cannot hold, while the error can still name the agent."""
    if answer is None:
        raise TypeError(f"agent {name!r} returned None, which is no answer; return a text, '' counts as one")
    freeze(_content(answer), f"answer of {name!r}")
    return answer


def _content(answer: Any) -> Any:
    return answer.text if isinstance(answer, Reply) else answer


def record(outcome: Outcome, cut: str | None = None) -> AgentResult:
    """Return the result of a turn; `cut` is why the run was stopped, if it was."""
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
    """Return the state with a turn added: prompt, answer, output. A failed turn adds nothing."""
    if result.error is not None:
        return state
    state = state if prompt is None else state.add_message("user", prompt)
    return state.add_message("assistant", result.result, name=result.agent).add_output(result.agent, result.result)
