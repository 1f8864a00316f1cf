"""What orchestrators share: an agent's turn, and the record of it.

What it holds: `AgentResult`, `Results` and `Coordinated`, which `run_*` return; `CoordinatorStatistics`; and `pair`,
`turn`, `ask`, `record` and `fold`, of which the orchestrators are made.
Guarantees: one result per turn, also for turns that never began; an error's text is never empty; `""` is an answer
and None is not; state is changed by one writer, in the order of the agents, whoever finished first.
Strategy: a turn is a task for an executor, written as plain data, so that limits, retries and a journal apply to it.
Opened by the decision guide.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from agentkit.agent import ChatAgent, Reply
from agentkit.executor import ParallelAgentExecutor
from agentkit.executor.lending import holder, lent
from agentkit.journal.writer import JournalWriter
from agentkit.report import Report
from agentkit.report.outcome import Outcome, Reads, current, span
from agentkit.state.conversation import ConversationState
from agentkit.state.frozen import freeze, thaw

__all__ = [
    "AgentResult",
    "Call",
    "Coordinated",
    "CoordinatorStatistics",
    "Results",
    "after",
    "ask",
    "checked",
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
            options.setdefault("labels", label)
        return self.report.plot(kind, **options)

    def __repr__(self) -> str:
        said = (f"{r.agent} {r.result!r:.40}" if r.error is None else f"{r.agent} failed: {r.error:.60}" for r in self)
        return f"<{type(self).__name__}: {'; '.join(said) or 'none'}>"


class Coordinated(Results):
    """The results of a coordinated run: the specialists' of each round in the order of the plan, then the lead's."""

    answer: Any = None
    """What the lead made of it; None where nothing could be joined."""
    rounds: int = 0
    """Plans that were carried out."""
    stopped: str | None = None
    """Why it ended before the lead was content; None if the lead was, or all rounds were used."""

    @property
    def usage(self) -> Any:
        """What all turns cost together, where the agents say so."""
        return self.report.summary.usage


@dataclass(frozen=True, slots=True)
class CoordinatorStatistics:
    """A coordinator at one instant."""

    runs: int
    """Questions whose work has ended, well or not."""
    answered: int
    """Those that have an answer."""
    rounds: int
    """Plans carried out."""
    left_behind: int
    """Specialists that were cut off by the deadline, or because enough others had answered."""
    in_flight: int
    """Turns being attempted now, by anybody on the same limiter."""


def label(outcome: Outcome) -> str:
    """Name a turn for a picture."""
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
            f"max_concurrent={max_concurrent!r} and executor= were both given, and an executor has its own limit; "
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


def after(state: ConversationState) -> dict[str, str]:
    """Return what makes a turn after this state another task than the same turn after another state.

    A journal would else take the answer to "Go on." from the conversation in which it was given first.
    """
    if not state.messages and not state.agent_outputs:
        return {}
    said = repr((state.to_messages(), sorted(thaw(state.agent_outputs).items())))
    return {"after": sha256(said.encode()).hexdigest()[:16]}


class Call:
    """An async function of a turn, with the name of the team, which is what a journal knows the work by.

    Teams that share a journal often come to the same turn at the same time: two questions, one brief for the lawyer.
    The second then waits for the answer of the first, and lends its slot meanwhile.
    """

    def __init__(self, name: str, fn: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
        self.name, self._fn = name, fn
        self._ledger: JournalWriter | None = None

    def share_turns(self, ledger: JournalWriter) -> None:
        """Called by the ledger of the run, if there is a journal."""
        self._ledger = ledger

    async def __call__(self, task: dict[str, Any]) -> Any:
        """Take the turn, or the answer of another run that is taking it."""
        outcome, mine = current.get(), holder.get()
        if self._ledger is not None and outcome is not None and self._ledger.is_elsewhere(outcome):
            assert mine is not None  # an executor calls this
            with span("waiting for the same turn"):
                async with lent(mine.limiter):
                    found = await self._ledger.elsewhere(outcome)
            if found is not None:
                if mine.leave is not None:
                    mine.leave.give_back()  # nobody was asked: it counts towards no budget and no rate
                return found[0]
        return await self._fn(task)


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
