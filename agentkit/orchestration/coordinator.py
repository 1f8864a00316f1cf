"""A lead agent that plans, delegates to specialists side by side, and joins what they found.

What it holds: `CoordinatorOrchestrator`, and `RoutingError` for a plan that cannot be carried out.
Guarantees: a plan is checked before anybody starts; a slow or failed specialist holds nobody up and is in the results;
what was found is kept when a later round fails; state is written by one writer, in the order of the plan.
Strategy: each step is a run of one executor: the plan, the specialists, the joining. A deadline is the run's `within`,
a quorum cancels the run when enough have answered, and the logs of all steps become one (`turnlog.Log`).
Opened by the decision guide.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from agentkit.agent import Reply, Usage
from agentkit.executor import ParallelAgentExecutor
from agentkit.executor.call import is_async
from agentkit.executor.run import Run
from agentkit.orchestration.routing import RoutingError, briefs_of, by_name, joined_by, routed
from agentkit.orchestration.turnlog import Log
from agentkit.orchestration.turns import (
    AgentResult,
    Call,
    Coordinated,
    CoordinatorStatistics,
    after,
    ask,
    checked,
    executor_for,
    fold,
    record,
    start,
    turn,
)
from agentkit.report import attach
from agentkit.report.outcome import Outcome, span
from agentkit.semaphore import CapacityLimiter
from agentkit.state.conversation import ConversationState

__all__ = ["CoordinatorOrchestrator", "CoordinatorStatistics", "RoutingError"]

Stream = AsyncGenerator[AgentResult, None]


@dataclass(slots=True)
class _Work:
    """One question on its way."""

    question: Any
    state: ConversationState
    known: dict[str, str]
    log: Log = field(default_factory=Log)
    results: list[AgentResult] = field(default_factory=list)
    answer: Any = None
    rounds: int = 0
    stopped: str | None = None


class CoordinatorOrchestrator:
    """A lead that plans, specialists that work side by side, and a lead that joins what they found.

    >>> import asyncio
    >>> def router(question, state):
    ...     return {"economist": f"What does it cost? {question}", "lawyer": "Is it allowed?"}
    >>> async def economist(brief):
    ...     return "12 million"
    >>> async def lawyer(brief):
    ...     return "yes"
    >>> team = CoordinatorOrchestrator(router, {"economist": economist, "lawyer": lawyer})
    >>> state, results = asyncio.run(team.run_coordinated("A bridge?"))
    >>> print(results.answer)
    economist: 12 million
    lawyer: yes

    - `router(question, state)` returns who is to work on what: `{name: brief}`, or pairs `(name, brief)`; or it is an
      agent, whose answer is that in JSON. From the second round on, naming nobody means content.
    - `specialists`: agents with names, or `{name: agent}`; a function of the brief is an agent too.
    - `synthesizer(question, answers)` joins `{name: answer}` of those that succeeded; or it is an agent; without it
      the answers are listed. A router or synthesizer that is a plain function takes no slot and no part of a rate.
    - `deadline`: seconds a round's specialists have, waiting for a slot included; who is late has `"timeout"`.
    - `quorum`: so many answers are enough; the others are cancelled then.
    - `rounds`: at most so many plans; `content(answer)` true ends earlier.
    """

    def __init__(
        self,
        router: Any,
        specialists: Mapping[str, Any] | Iterable[Any],
        synthesizer: Any = None,
        *,
        name: str = "lead",
        max_concurrent: int | CapacityLimiter | None = 5,
        executor: ParallelAgentExecutor | None = None,
        deadline: float | None = None,
        quorum: int | None = None,
        rounds: int = 1,
        content: Callable[[Any], bool] | None = None,
    ) -> None:
        self.name, self.router, self.synthesizer, self.content = name, router, synthesizer, content
        for what, lead in (("router", router), ("synthesizer", synthesizer)):
            if not (callable(getattr(lead, "process", lead)) or (what == "synthesizer" and lead is None)):
                raise TypeError(f"{what} must be an agent or a function of the question and more, got {lead!r:.80}")
        self.specialists = by_name(specialists, name)
        """The specialists by name."""
        self.executor = executor_for(max_concurrent, 5, executor)
        """What runs every turn, the lead's as well."""
        for what, value, unset in (("quorum", quorum, True), ("rounds", rounds, False)):
            if not (unset and value is None) and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{what} must be a whole number, 1 or more, got {value!r}")
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline must be more than 0 seconds, got {deadline!r}; use None to wait for all")
        self.deadline, self.quorum, self.rounds = deadline, quorum, rounds
        self._runs = self._answered = self._rounds = self._left = 0

    async def run_coordinated(
        self, question: Any, initial_state: ConversationState | None = None
    ) -> tuple[ConversationState, Coordinated]:
        """Work on one question; return the final state and the results, with `.answer` and `.report`."""
        work = _begin(question, initial_state)
        async with aclosing(self._steps(work)) as steps:
            async for _ in steps:
                pass
        return work.state, self._results(work)

    run = run_coordinated

    async def stream(self, question: Any, initial_state: ConversationState | None = None) -> Stream:
        """Work on one question and yield each result as it comes: specialists as they finish, then the lead."""
        work = _begin(question, initial_state)
        async with aclosing(self._steps(work)) as steps:
            async for result in steps:
                yield result

    async def process(self, prompt: Any, context: Any = None) -> Any:
        """Answer as an agent does, so that a coordinator can be a specialist of another, or any executor's agent."""
        return (await self(prompt, context)).text

    async def __call__(self, task: Any, context: Any = None) -> Reply:
        """Answer one task; the reply's usage is that of all turns."""
        _, results = await self.run_coordinated(task, context)
        if results.answer is None:
            raise RuntimeError(f"{self.name!r} has no answer: {results[-1].error if results else results.stopped}")
        return Reply(str(results.answer), results.usage if isinstance(results.usage, Usage) else None)

    def statistics(self) -> CoordinatorStatistics:
        """Return what was done so far, and what is in flight."""
        in_flight = self.executor.limiter.statistics().in_flight
        return CoordinatorStatistics(self._runs, self._answered, self._rounds, self._left, in_flight)

    def __repr__(self) -> str:
        who = ", ".join(self.specialists)
        return f"<CoordinatorOrchestrator {self.name!r} of {who}: {self._runs} runs, {self._answered} answered>"

    # -- the rounds -----------------------------------------------------------------------------------------------

    async def _steps(self, work: _Work) -> Stream:
        try:
            work.state = work.state.add_message("user", work.question)
            for number in range(1, self.rounds + 1):
                briefs = await self._plan(work, number)
                if not briefs:
                    break
                async with aclosing(self._delegate(work, briefs, number)) as results:
                    async for result in results:
                        yield result
                work.rounds, self._rounds = number, self._rounds + 1
                joined = await self._join(work, number)
                yield joined
                if joined.error is not None:
                    work.stopped = f"round {number}: {joined.error}"
                    break
                if self.content is not None and self.content(work.answer):
                    break
        finally:
            self._runs += 1
            self._answered += work.answer is not None

    async def _plan(self, work: _Work, number: int) -> dict[str, str]:
        async def plan(task: dict[str, Any]) -> dict[str, str]:
            said = await routed(self.router, self.name, work.question, work.state, self.specialists)
            return briefs_of(said, self.specialists, number)

        outcome = await self._alone(work, "plans", plan, number)
        if outcome.status == "success":
            briefs: dict[str, str] = outcome.result
            return briefs
        if number == 1:
            error = outcome.error or RuntimeError("the router failed")
            if isinstance(error, CancelledError):  # raised as it is, it would look as if the caller were cancelled
                error = RuntimeError(f"the plan of {self.name!r} was cut off: {record(outcome).error}")
            attach(error, work.log.report(), f"the plan of {self.name!r} failed")
            raise error
        work.stopped = f"round {number}: the plan failed: {record(outcome).error}"
        return {}

    async def _delegate(self, work: _Work, briefs: dict[str, str], number: int) -> Stream:
        """Run the specialists side by side until all, or enough, have answered, or time is up."""
        tasks = []
        for name, brief in briefs.items():
            agent = self.specialists[name]  # a plain function sees the brief alone
            known = self._known(work) if hasattr(agent, "process") else work.known
            tasks.append(turn(agent, name, brief, round=number, **known))
        results: dict[str, AgentResult] = {}
        outcomes: list[Outcome] = []
        cut, answered = None, 0
        with span("waiting for specialists"):
            async with self.executor.stream(tasks, self._specialist(work.state), within=self.deadline) as run:
                async for outcome in run:
                    cut = cut or _why(run)
                    outcomes.append(outcome)
                    result = results[outcome.task["agent"]] = record(outcome, cut)
                    yield result
                    answered += result.error is None
                    if self.quorum is not None and self.quorum <= answered < len(tasks) and cut is None:
                        cut = f"not needed: {answered} of {len(tasks)} were enough"
                        run.cancel()
        cut = cut or _why(run)
        for task in (task for task in tasks if task["agent"] not in results):
            outcomes.append(Outcome(0, task, error=CancelledError(f"not started: {cut}")))
            results[task["agent"]] = record(outcomes[-1], cut)
            yield results[task["agent"]]
        places = list(briefs)
        work.log.add(run, sorted(outcomes, key=lambda outcome: places.index(outcome.task["agent"])))
        self._keep(work, [results[name] for name in briefs], cut)

    def _known(self, work: _Work) -> dict[str, str]:
        """Return what a journal knows a turn by besides its prompt: all that has been said before it."""
        return work.known if self.executor.journal is None else after(work.state)

    def _specialist(self, context: ConversationState) -> Callable[[dict[str, Any]], Any]:
        async def call(task: dict[str, Any]) -> Any:
            return await ask(self.specialists[task["agent"]], task["agent"], task["prompt"], context)

        return Call(self.name, call)

    def _keep(self, work: _Work, results: list[AgentResult], cut: str | None) -> None:
        for result in results:
            work.results.append(result)
            work.state = fold(work.state, None, result)
            self._left += cut is not None and result.error == cut

    async def _join(self, work: _Work, number: int) -> AgentResult:
        """Have the lead join what succeeded so far; what an earlier round found stays unless it was found anew."""
        names = dict.fromkeys(result.agent for result in work.results if result.agent != self.name)
        answers = {name: work.state.agent_outputs[name] for name in names if name in work.state.agent_outputs}
        if not answers:
            said = "; ".join(f"{result.agent}: {result.error}" for result in work.results)
            joined = AgentResult(self.name, None, f"no specialist has answered ({said})")
        else:

            async def join(task: dict[str, Any]) -> Any:
                said = await joined_by(self.synthesizer, self.name, work.question, answers, work.state)
                return checked(said, self.name)

            joined = record(await self._alone(work, "joins", join, number))
        work.results.append(joined)
        work.state = fold(work.state, None, joined)
        work.answer = joined.result if joined.error is None else work.answer
        return joined

    async def _alone(self, work: _Work, step: str, call: Callable[[dict[str, Any]], Any], number: int) -> Outcome:
        """Run one turn of the lead."""
        agent = self.router if step == "plans" else self.synthesizer
        task = turn(agent, self.name, work.question, step=step, round=number, **self._known(work))
        paid = hasattr(agent, "process") or is_async(agent)  # a plain function calls no model: no slot, no rate
        executor = self.executor if paid else ParallelAgentExecutor(None, retry=self.executor.retry)
        async with executor.stream([task], Call(self.name, call)) as run:
            outcomes = [outcome async for outcome in run]
        work.log.add(run, outcomes, limits=paid)
        return outcomes[0]

    def _results(self, work: _Work) -> Coordinated:
        results = Coordinated(work.results, work.log.report(work.stopped))
        results.answer, results.rounds, results.stopped = work.answer, work.rounds, work.stopped
        return results


def _begin(question: Any, initial_state: Any) -> _Work:
    state = start(initial_state)
    return _Work(question, state, after(state))


def _why(run: Run) -> str | None:
    """Say why a run was ended early, if it was."""
    if run._cut_off is None:
        return None
    status, reason = run._cut_off
    return "timeout" if status == "timeout" else reason
