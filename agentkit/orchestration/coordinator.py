"""A lead agent that plans, delegates to specialists that run concurrently, and joins their answers.

What it holds: `CoordinatorOrchestrator`, `Coordinated`, and `RoutingError` for a plan that cannot be executed.
Guarantees: a plan is checked before any specialist starts; a specialist that is slow (with a deadline or a quorum) or
fails does not block the others, and is in the results; earlier answers are kept when a later round fails.
Strategy: the plan, the specialists and the join are runs of one executor, whose logs are merged. The deadline is the
`within` of the specialists' run, and a quorum cancels that run. Opened by the decision guide.
"""

from __future__ import annotations

import inspect
import json
from asyncio import CancelledError, get_running_loop
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from agentkit.agent import Reply
from agentkit.base.arguments import attribute, called, function, instance, items, refusal, seconds, shown, text, whole
from agentkit.executor import ParallelAgentExecutor
from agentkit.executor.call import is_async
from agentkit.executor.run import Handle
from agentkit.orchestration.teams import (
    AgentResult,
    Results,
    ask,
    asking,
    context_fingerprint,
    executor_for,
    fold,
    label,
    record,
    start,
    turn,
)
from agentkit.report import Report, attach
from agentkit.report.outcome import Outcome, clock, current, span
from agentkit.report.usage import Usage
from agentkit.semaphore import CapacityLimiter
from agentkit.state.conversation import ConversationState

__all__ = ["Coordinated", "CoordinatorOrchestrator", "RoutingError"]

Stream = AsyncGenerator[AgentResult, None]


class RoutingError(ValueError):
    """A router's plan cannot be executed. Remedy: correct it, or retry with `RetryPolicy(on=RoutingError)`."""


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


class _Work:
    """One question being worked on, and the log of its runs, one after another, on one clock.

    Each run counts seconds from its own start; here they count from the start of the work. Inside a task of another
    executor, each turn and the spans inside it are also spans of that task, so the outer timeline shows the whole tree.
    """

    def __init__(self, question: Any, initial_state: ConversationState | None) -> None:
        self.question, self.state = question, start(initial_state)
        self.fingerprint = context_fingerprint(self.state)  # of the initial state
        self.results: list[AgentResult] = []
        self.answer: Any = None
        self.rounds = 0
        self.stopped: str | None = None
        self._began = get_running_loop().time()
        self._outcomes: list[Outcome] = []
        self._limits: list[tuple[float, float]] = []
        self._outer = current.get()
        self._shift = 0.0 if self._outer is None else self._began - clock.get()[1]

    def add(self, run: Handle, outcomes: Sequence[Outcome], *, limits: bool = True) -> None:
        """Add a run's outcomes and, unless `limits` is false, the changes of its limit."""
        by = run.began - self._began
        if limits:
            self._limits += [(at + by, limit) for at, limit in run.limits]
        for outcome in outcomes:
            _shift(outcome, by)
            outcome.task_id = len(self._outcomes)
            self._outcomes.append(outcome)
            if self._outer is None or outcome.started is None or outcome.finished is None:
                continue
            who = label(outcome)
            self._outer.add_span(who, outcome.started + self._shift, outcome.finished + self._shift)
            for s in outcome.spans:
                self._outer.add_span(f"{s.name} · {who}", s.started + self._shift, s.finished + self._shift)

    def report(self) -> Report:
        """Return the log so far."""
        return Report(self._outcomes, limits=self._limits, stopped=self.stopped)


def _shift(outcome: Outcome, by: float) -> None:
    """Move all times of an outcome by so many seconds."""
    outcome.submitted += by
    outcome.started = None if outcome.started is None else outcome.started + by
    outcome.finished = None if outcome.finished is None else outcome.finished + by
    if outcome.attempt_log is not None:
        outcome.attempt_log = tuple(
            replace(a, started=a.started + by, finished=a.finished + by) for a in outcome.attempt_log
        )
    outcome.span_log = [replace(s, started=s.started + by, finished=s.finished + by) for s in outcome.spans]


class CoordinatorOrchestrator:
    """A lead that plans, specialists that run concurrently, and a lead that joins their answers.

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

    - `router(question, state)` returns the plan: `{name: brief}`, or pairs `(name, brief)`. It may be an agent that
      answers with the plan as JSON. From round 2, an empty plan ends the loop.
    - `specialists`: agents with names, or `{name: agent}`; a function of the brief is an agent too.
    - `synthesizer(question, answers)` joins `{name: answer}` of the specialists that succeeded. It may be an agent;
      without one, the answers are listed. A router or synthesizer that is a plain function takes no slot and does not
      count toward a rate.
    - `deadline`: seconds each specialist has from the start of its round, including the wait for a slot; the error of
      a late one is `"timeout"`.
    - `quorum`: this many answers are enough; the other specialists are then cancelled.
    - `rounds`: the largest number of plans; the loop ends earlier when `done(answer)` is true.
    """

    name: str = attribute(text, empty=False)
    executor: ParallelAgentExecutor = attribute(instance, kind=ParallelAgentExecutor)
    """What runs every turn, including the lead's."""
    deadline: float | None = attribute(seconds)
    quorum: int | None = attribute(whole, remedy="use None to wait for all", none=True)
    rounds: int = attribute(whole)
    done: Callable[[Any], bool] | None = attribute(function, remedy="use None for all rounds", none=True)

    def __init__(
        self,
        router: Any,
        specialists: Mapping[str, Any] | Iterable[Any],
        synthesizer: Any = None,
        *,
        name: str = "lead",
        max_concurrency: int | CapacityLimiter | None = 5,
        executor: ParallelAgentExecutor | None = None,
        deadline: float | None = None,
        quorum: int | None = None,
        rounds: int = 1,
        done: Callable[[Any], bool] | None = None,
    ) -> None:
        self.name, self.router, self.synthesizer, self.done = name, router, synthesizer, done
        for what, lead in (("router", router), ("synthesizer", synthesizer)):
            if not (callable(getattr(lead, "process", lead)) or (what == "synthesizer" and lead is None)):
                raise refusal(what, "must be an agent or a function of the question and more", lead, kind=TypeError)
        self.specialists = _by_name(specialists, name)
        """The specialists by name."""
        self.executor = executor_for(max_concurrency, 5, executor)
        self.deadline, self.quorum, self.rounds = deadline, quorum, rounds
        self._runs = self._answered = 0

    async def run_coordinated(
        self, question: Any, initial_state: ConversationState | None = None
    ) -> tuple[ConversationState, Coordinated]:
        """Work on one question; return the final state and the results, with `.answer` and `.report`."""
        work = _Work(question, initial_state)
        async with aclosing(self._steps(work)) as steps:
            async for _ in steps:
                pass
        results = Coordinated(work.results, work.report())
        results.answer, results.rounds, results.stopped = work.answer, work.rounds, work.stopped
        return work.state, results

    run = run_coordinated

    async def stream(self, question: Any, initial_state: ConversationState | None = None) -> Stream:
        """Work on one question and yield each result when it is ready: specialists as they finish, then the lead."""
        work = _Work(question, initial_state)
        async with aclosing(self._steps(work)) as steps:
            async for result in steps:
                yield result

    async def process(self, prompt: Any, context: Any = None) -> Any:
        """Answer like an agent, so a coordinator can be a specialist of another one, or the agent of any executor."""
        return (await self(prompt, context)).text

    async def __call__(self, task: Any, context: Any = None) -> Reply:
        """Answer one task; the usage of the reply is that of all turns."""
        _, results = await self.run_coordinated(task, context)
        if results.answer is None:
            raise RuntimeError(f"{self.name!r} has no answer: {results[-1].error if results else results.stopped}")
        return Reply(str(results.answer), results.usage if isinstance(results.usage, Usage) else None)

    def __repr__(self) -> str:
        who = ", ".join(self.specialists)
        return f"<CoordinatorOrchestrator {self.name!r} of {who}: {self._runs} runs, {self._answered} answered>"

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
                work.rounds = number
                joined = await self._join(work, number)
                yield joined
                if joined.error is not None:
                    work.stopped = f"round {number}: {joined.error}"
                    break
                if self.done is not None and called("done of the coordinator", self.done, work.answer):
                    break
        finally:
            self._runs += 1
            self._answered += work.answer is not None

    async def _plan(self, work: _Work, number: int) -> dict[str, str]:
        outcome = await self._alone(work, number, "plans", partial(self._route, work, number))
        if outcome.status == "success":
            return outcome.result or {}
        if number == 1:
            error = outcome.error or RuntimeError("the router failed")
            if isinstance(error, CancelledError):  # raised unchanged, it would look as if the caller were cancelled
                error = RuntimeError(f"the plan of {self.name!r} was cut off: {record(outcome).error}")
            attach(error, work.report(), f"the plan of {self.name!r} failed")
            raise error
        work.stopped = f"round {number}: the plan failed: {record(outcome).error}"
        return {}

    async def _delegate(self, work: _Work, briefs: dict[str, str], number: int) -> Stream:
        """Run the specialists concurrently until all, or enough, have answered, or the deadline has passed."""
        tasks = []
        for name, brief in briefs.items():
            agent = self.specialists[name]  # a plain function sees only the brief
            context = self._fingerprint(work) if hasattr(agent, "process") else work.fingerprint
            tasks.append(turn(agent, name, brief, round=number, **context))
        call = asking(self.specialists, lambda: work.state, self.name)
        results: dict[str, AgentResult] = {}
        outcomes: dict[str, Outcome] = {}
        cut, answered = None, 0
        with span("waiting for specialists"):
            async with self.executor.stream(tasks, call, within=self.deadline) as run:
                async for outcome in run:
                    cut = cut or _why(run)
                    name = outcome.task["agent"]
                    outcomes[name] = outcome
                    results[name] = record(outcome, cut)
                    yield results[name]
                    answered += results[name].error is None
                    if self.quorum is not None and self.quorum <= answered < len(tasks) and cut is None:
                        cut = f"not needed: {answered} of {len(tasks)} were enough"
                        run.cancel()
        cut = cut or _why(run)
        for task in (task for task in tasks if task["agent"] not in results):
            name = task["agent"]
            outcomes[name] = Outcome(0, task, error=CancelledError(f"not started: {cut}"))
            results[name] = record(outcomes[name], cut)
            yield results[name]
        work.add(run, [outcomes[name] for name in briefs])
        for name in briefs:
            work.results.append(results[name])
            work.state = fold(work.state, None, results[name])

    def _fingerprint(self, work: _Work) -> dict[str, str]:
        """Return the fingerprint of everything said so far, by which a journal tells equal prompts apart."""
        return work.fingerprint if self.executor.journal is None else context_fingerprint(work.state)

    async def _join(self, work: _Work, number: int) -> AgentResult:
        """Have the lead join the answers so far; an answer of an earlier round is kept unless there is a newer one."""
        names = dict.fromkeys(result.agent for result in work.results if result.agent != self.name)
        answers = {name: work.state.agent_outputs[name] for name in names if name in work.state.agent_outputs}
        if not answers:
            said = "; ".join(f"{result.agent}: {result.error}" for result in work.results)
            joined = AgentResult(self.name, None, f"no specialist has answered ({said})")
        else:
            joined = record(await self._alone(work, number, "joins", partial(self._synthesize, work, answers)))
        work.results.append(joined)
        work.state = fold(work.state, None, joined)
        work.answer = joined.result if joined.error is None else work.answer
        return joined

    async def _alone(self, work: _Work, number: int, step: str, answer: Callable[[], Awaitable[Any]]) -> Outcome:
        """Run one turn of the lead."""

        async def call(task: dict[str, Any]) -> Any:
            return await answer()

        call.__qualname__ = self.name  # how a journal names the work
        agent = self.router if step == "plans" else self.synthesizer
        task = turn(agent, self.name, work.question, step=step, round=number, **self._fingerprint(work))
        paid = hasattr(agent, "process") or is_async(agent)  # a plain function calls no model: no slot, no rate
        executor = self.executor if paid else ParallelAgentExecutor(None, retry=self.executor.retry)
        async with executor.stream([task], call) as run:
            outcomes = [outcome async for outcome in run]
        work.add(run, outcomes, limits=paid)
        return outcomes[0]

    async def _route(self, work: _Work, number: int) -> dict[str, str]:
        """Return the router's plan; an agent gets a list of the specialists and is asked for JSON."""
        if hasattr(self.router, "process"):
            known = "\n".join(f"- {who}: {getattr(a, 'instructions', '')}" for who, a in self.specialists.items())
            prompt = f"{work.question}\n\nSpecialists:\n{known}\n\nAnswer with a JSON object: name to brief."
            plan = await ask(self.router, self.name, prompt, work.state)
        else:
            plan = self.router(work.question, work.state)
            plan = await plan if inspect.isawaitable(plan) else plan
        return _briefs_of(plan, self.specialists, number)

    async def _synthesize(self, work: _Work, answers: dict[str, Any]) -> Any:
        """Return the synthesizer's answer; without a synthesizer, one line per specialist."""
        listed = "\n".join(f"{who}: {answer}" for who, answer in answers.items())
        if self.synthesizer is None:
            return listed
        is_agent = hasattr(self.synthesizer, "process")
        agent = self.synthesizer if is_agent else lambda prompt: self.synthesizer(work.question, answers)
        return await ask(agent, self.name, f"{work.question}\n\n{listed}", work.state)


def _why(run: Handle) -> str | None:
    """Return why a run was stopped early, if it was."""
    return "timeout" if run.timed_out else run.stopped


def _briefs_of(plan: Any, specialists: Mapping[str, Any], number: int) -> dict[str, str]:
    """Check the plan of round `number` and return it; from round 2 it may be empty.

    >>> _briefs_of('Here it is: {"lawyer": "Is it allowed?"}', {"lawyer": None}, 1)
    {'lawyer': 'Is it allowed?'}
    """
    known = ", ".join(map(repr, specialists))
    pairs = _pairs(plan, known)
    if not pairs and number == 1:
        raise RoutingError(f"the router named nobody, got {plan!r:.120}; name at least one of {known}")
    briefs: dict[str, str] = {}
    for name, brief in pairs:
        if name not in specialists:
            raise RoutingError(f"the router named a stranger, {name!r}; the specialists are {known}")
        if name in briefs:
            raise RoutingError(f"the router named {name!r} twice; write one brief for each specialist")
        if not isinstance(brief, str) or not brief.strip():
            raise RoutingError(f"the brief for {name!r} must be a text that is not empty, got {brief!r:.60}")
        briefs[name] = brief
    return briefs


def _by_name(specialists: Any, lead: str) -> dict[str, Any]:
    """Return the specialists by name; the names differ from each other and from `lead`."""
    if isinstance(specialists, Mapping):
        found = dict(specialists)
    else:
        listed = items("specialists", specialists, "give agents, or {name: agent}")
        names = [getattr(agent, "name", None) for agent in listed]
        if None in names:
            place, remedy = names.index(None), "derive it from agentkit.Agent, or hand in {name: agent}"
            raise refusal(f"specialists[{place}]", "must have a name", listed[place], remedy, TypeError)
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"specialists must have different names, got {', '.join(twice)} more than once")
        found = dict(zip(names, listed, strict=True))
    for name, agent in found.items():
        if not callable(getattr(agent, "process", agent)):
            rule = "must be an agent or a function of the brief"
            raise refusal(f"specialists[{shown(name)}]", rule, agent, kind=TypeError)
    if not found or lead in found:
        rule = f"none of the name of the lead, {lead!r}" if found else "at least one"
        raise ValueError(f"specialists must be {rule}, got {', '.join(found) or 'nobody'}; give name= or rename it")
    return found


def _pairs(plan: Any, known: str) -> list[tuple[Any, Any]]:
    """Return a plan as pairs; a string is read as JSON, also inside a code fence."""
    said = plan
    if isinstance(plan, Reply):
        plan = plan.text
    if isinstance(plan, str):
        try:
            plan = json.loads(plan[plan.index("{") : plan.rindex("}") + 1] if "{" in plan else plan)
        except ValueError:
            raise RoutingError(f"the router's answer is not JSON: {said!r:.120}; it must name {known}") from None
    if plan is None:
        return []
    pairs = list(plan.items()) if isinstance(plan, Mapping) else plan
    if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise RoutingError(f"the router must return {{name: brief}} or pairs (name, brief), got {said!r:.120}")
    return [(name, brief) for name, brief in pairs]
