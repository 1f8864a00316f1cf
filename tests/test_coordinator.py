"""A lead and its specialists: checked plans, nobody held up by the slowest, rounds that stop, one tree of spans."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agentkit.agent import Agent, ChatAgent, Reply
from agentkit.executor import ParallelAgentExecutor
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.provider import Provider
from agentkit.orchestration import CoordinatorOrchestrator, RoutingError
from agentkit.report.outcome import span
from agentkit.retry import RetryPolicy
from agentkit.semaphore import CapacityLimiter


class Scripted(Agent):
    """Takes `seconds`, then returns or raises what it was given."""

    def __init__(self, name: str, seconds: float = 1.0, answer: Any = None) -> None:
        super().__init__(name)
        self.seconds, self.answer = seconds, f"{name}'s answer" if answer is None else answer

    async def process(self, prompt: str, context: Any = None) -> Any:
        """Answer as scripted, after looking something up."""
        with span("searching"):
            await asyncio.sleep(self.seconds)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def plan_of(*names: str) -> Any:
    """Return a router that takes a second and names these."""

    async def router(question: str, state: Any) -> dict[str, str]:
        await asyncio.sleep(1)
        return {name: f"{name}: {question}" for name in names}

    return router


async def joiner(question: str, answers: dict[str, str]) -> str:
    """Take a second and list who answered."""
    await asyncio.sleep(1)
    return " + ".join(answers)


def team(*specialists: Agent, **settings: Any) -> CoordinatorOrchestrator:
    """Return a coordinator whose router names everybody."""
    return CoordinatorOrchestrator(plan_of(*(s.name for s in specialists)), specialists, joiner, **settings)


def run(coordinator: Any, question: str = "Why?") -> Any:
    """Run on the virtual clock."""
    return simulate(coordinator.run, question)


# -- one round ----------------------------------------------------------------------------------------------------


def test_Coordinator_plans_delegates_side_by_side_and_joins():
    """Plan, the slowest specialist, join: that is the makespan; results follow the plan, then the lead."""
    state, results = run(team(Scripted("slow", 5), Scripted("quick", 1)))
    assert [(r.agent, r.error) for r in results] == [("slow", None), ("quick", None), ("lead", None)]
    assert results.answer == state.agent_outputs["lead"] == "slow + quick"
    assert results.report.summary.makespan == 7
    assert [m["role"] for m in state.messages] == ["user", "assistant", "assistant", "assistant"]


def test_Coordinator_gives_each_specialist_its_own_brief():
    """A brief is data: nobody has to find out of the question what is meant for him."""
    seen = {}

    def specialist(name):
        async def work(brief):
            seen[name] = brief
            return name

        return work

    names = {"a": specialist("a"), "b": specialist("b"), "idle": specialist("idle")}
    run(CoordinatorOrchestrator(lambda q, state: [("b", "costs"), ("a", "risks")], names))
    assert seen == {"b": "costs", "a": "risks"}


def test_Coordinator_waiting_for_all_is_held_up_by_the_slowest():
    """The barrier, as it is usually drawn: one straggler costs everybody 95 seconds."""
    _, results = run(team(Scripted("a", 2), Scripted("b", 3), Scripted("straggler", 98)))
    assert results.report.summary.makespan == 100


def test_Coordinator_quorum_joins_when_enough_have_answered():
    """The straggler is cancelled, named in the results, and not waited for."""
    coordinator = team(Scripted("a", 2), Scripted("b", 3), Scripted("straggler", 98), quorum=2)
    _, results = run(coordinator)
    assert results.report.summary.makespan == 5
    assert [r.error for r in results] == [None, None, "not needed: 2 of 3 were enough", None]
    assert results.answer == "a + b"


def test_Coordinator_a_failure_is_no_vote_for_the_quorum():
    """Enough means enough answers; failures do not count."""
    _, results = run(team(Scripted("a", 1, KeyError("k")), Scripted("b", 2), Scripted("c", 3), quorum=2))
    assert [r.error for r in results] == ["'k'", None, None, None]
    assert results.answer == "b + c"


@pytest.mark.parametrize("limit", [1, 5])
def test_Coordinator_deadline_cuts_off_who_is_late_also_in_the_queue(limit):
    """Working or still waiting for a slot: who has no answer by then has a timeout."""
    late = [Scripted("b", 50), Scripted("c", 60)]
    _, results = run(team(Scripted("a", 2), *late, deadline=10, max_concurrency=limit))
    assert [r.error for r in results] == [None, "timeout", "timeout", None]
    assert (results.answer, results.report.summary.makespan) == ("a", 12)


def test_Coordinator_deadline_is_not_stretched_by_retries():
    """A specialist that fails and backs off when time is up is late like any other."""
    executor = ParallelAgentExecutor(5, retry=RetryPolicy(wait_initial=100, jitter="none", wait_max=100))
    coordinator = team(Scripted("a"), Scripted("b", 1, ConnectionError("reset")), deadline=10, executor=executor)
    _, results = run(coordinator)
    assert [r.error for r in results] == [None, "timeout", None]
    assert results.report.summary.makespan == 12


def test_Coordinator_nobody_answers():
    """There is nothing to join, and the result says why; as an agent it raises that."""
    coordinator = team(Scripted("a", 1, KeyError("k")), Scripted("b", 50), deadline=5)
    _, results = run(coordinator)
    assert results.answer is None
    assert results[-1].error == "no specialist has answered (a: 'k'; b: timeout)"
    assert results.stopped == "round 1: no specialist has answered (a: 'k'; b: timeout)"
    with pytest.raises(RuntimeError, match="'lead' has no answer: no specialist has answered"):
        run(type("Call", (), {"run": coordinator.__call__}))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("", None),
        ([None], "agent 'b' returned None, which is no answer; return a text, '' counts as one"),
        (asyncio.CancelledError(), "cancelled: the agent raised CancelledError by itself"),
    ],
)
def test_Coordinator_odd_answers(answer, error):
    """An empty text is an answer, None is not, and a cancellation from inside harms nobody else."""
    odd = Scripted("b", 1, answer)
    if isinstance(answer, list):

        async def nothing(prompt, context=None):
            return None

        odd.process = nothing
    _, results = run(team(Scripted("a"), odd))
    assert [r.error for r in results] == [None, error, None]
    assert results.answer == ("a + b" if error is None else "a")


def test_Coordinator_a_synthesizer_that_fails_loses_nothing():
    """What the specialists found is in the results and in the state."""

    def broken(question, answers):
        raise KeyError("template")

    coordinator = CoordinatorOrchestrator(plan_of("a"), [Scripted("a")], broken)
    state, results = run(coordinator)
    assert (results[0].result, results[1].error, results.answer) == ("a's answer", "'template'", None)
    assert dict(state.agent_outputs) == {"a": "a's answer"}


def test_Coordinator_stream_yields_each_result_as_it_comes():
    """The quick one is read long before the slow one has finished."""

    async def main():
        now = asyncio.get_running_loop().time
        return [(r.agent, now()) async for r in team(Scripted("slow", 5), Scripted("quick", 1)).stream("Why?")]

    assert simulate(main) == [("quick", 2), ("slow", 6), ("lead", 7)]


# -- plans that cannot be carried out -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"stranger": "x"}, "named a stranger, 'stranger'; the specialists are 'a', 'b'"),
        ({}, "named nobody, got {}; name at least one of 'a', 'b'"),
        (None, "named nobody, got None"),
        ([("a", "x"), ("a", "y")], "named 'a' twice"),
        ({"a": ""}, "the brief for 'a' must be a text that is not empty, got ''"),
        ({"a": 5}, "the brief for 'a' must be a text that is not empty, got 5"),
        (["a", "b"], r"must return {name: brief} or pairs \(name, brief\), got \['a', 'b'\]"),
        ("ask a and b", "answer is not JSON: 'ask a and b'; it must name 'a', 'b'"),
        (7, "must return {name: brief}"),
    ],
)
def test_Coordinator_a_wrong_plan_is_refused_before_anybody_starts(plan, said):
    """The error names what is wrong and whom there is to name; its report shows that only the plan ran."""
    coordinator = CoordinatorOrchestrator(lambda q, state: plan, [Scripted("a"), Scripted("b")])
    with pytest.raises(RoutingError, match=said) as caught:
        run(coordinator)
    assert len(caught.value.report) == 1


def test_Coordinator_a_wrong_plan_can_be_tried_again():
    """A model that plans may be wrong once; the retry policy of the executor covers the lead as well."""
    plans = [{"stranger": "x"}, {"a": "x"}]
    executor = ParallelAgentExecutor(5, retry=RetryPolicy(on=RoutingError))
    coordinator = CoordinatorOrchestrator(lambda q, state: plans.pop(0), [Scripted("a")], executor=executor)
    assert run(coordinator)[1].answer == "a: a's answer"


def test_Coordinator_a_router_that_is_a_model_answers_in_json():
    """The model is told who there is, and its JSON is found also inside a fence."""
    asked = []

    class Lead(Agent):
        async def process(self, prompt, context=None):
            asked.append(prompt)
            return f"```json\n{json.dumps({'a': 'look it up'})}\n```"

    specialist = Scripted("a")
    specialist.instructions = "reads statutes"
    _, results = run(CoordinatorOrchestrator(Lead("router"), [specialist], Scripted("writer", 1, "joined")))
    assert "- a: reads statutes" in asked[0]
    assert results.answer == "joined"


def test_Coordinator_a_router_that_fails_raises_its_error():
    """Nothing has been done, so nothing is lost."""

    def broken(question, state):
        raise ConnectionError("no route")

    with pytest.raises(ConnectionError, match="no route"):
        run(CoordinatorOrchestrator(broken, [Scripted("a")]))


def test_Coordinator_a_router_that_cancels_itself_does_not_cancel_the_caller():
    """Raised as it is, it would look as if somebody had cancelled the caller."""

    async def broken(question, state):
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="the plan of 'lead' was cut off"):
        run(CoordinatorOrchestrator(broken, [Scripted("a")]))


# -- rounds -------------------------------------------------------------------------------------------------------


def rounds_of(*plans: Any) -> Any:
    """Return a router that goes through these plans."""
    left = list(plans)
    return lambda question, state: left.pop(0)


def test_Coordinator_rounds_end_when_the_lead_is_content():
    """The second answer satisfies; there is no third plan."""
    router = rounds_of({"a": "1"}, {"b": "2"}, {"a": "3"})
    coordinator = CoordinatorOrchestrator(
        router, [Scripted("a"), Scripted("b")], joiner, rounds=3, done=lambda answer: "b" in answer
    )
    state, results = run(coordinator)
    assert [r.agent for r in results] == ["a", "lead", "b", "lead"]
    assert (results.answer, results.rounds, results.stopped) == ("a + b", 2, None)
    assert state.agent_outputs["lead"] == "a + b"


def test_Coordinator_rounds_end_when_the_router_names_nobody():
    """In the first round that is a mistake, later it means content."""
    _, results = run(CoordinatorOrchestrator(rounds_of({"a": "1"}, {}), [Scripted("a")], rounds=5))
    assert (results.rounds, results.answer, results.stopped) == (1, "a: a's answer", None)


def test_Coordinator_rounds_end_with_their_number():
    """The bound holds whatever the router wants."""
    router = rounds_of(*[{"a": "again"}] * 5)
    assert run(CoordinatorOrchestrator(router, [Scripted("a")], rounds=3))[1].rounds == 3


def test_Coordinator_a_later_round_that_fails_keeps_the_earlier_answer():
    """A bad plan in round two costs round two, not round one."""
    _, results = run(CoordinatorOrchestrator(rounds_of({"a": "1"}, {"z": "2"}), [Scripted("a")], rounds=3))
    assert results.answer == "a: a's answer"
    assert results.stopped == "round 2: the plan failed: the router named a stranger, 'z'; the specialists are 'a'"


# -- the tree of spans --------------------------------------------------------------------------------------------


def test_Coordinator_report_is_one_log_on_one_clock():
    """Plan, specialists and join follow one another in one report, tools inside as spans."""
    _, results = run(team(Scripted("a", 2), Scripted("b", 3)))
    rows = [(o.task_id, o.task["agent"], o.started, o.finished) for o in results.report]
    assert rows == [(0, "lead", 0, 1), (1, "a", 1, 3), (2, "b", 1, 4), (3, "lead", 4, 5)]
    assert [(s.name, s.started, s.finished) for s in results.report.individual_results[2].spans] == [
        ("searching", 1, 4)
    ]
    assert results.report.summary.peak_in_flight == 2
    assert "4 agents" in repr(results.plot())


def test_Coordinator_inside_an_executor_shows_the_whole_tree_in_each_row():
    """Lead, specialists and their tools are spans of the question they worked for, nested in time."""

    async def main():
        coordinator = team(Scripted("a", 2), Scripted("b", 3))
        return await ParallelAgentExecutor(1).execute(["q1", "q2"], coordinator)

    report = simulate(main)
    spans = {(s.name, s.started, s.finished) for s in report.individual_results[1].spans}
    assert spans == {
        ("lead plans", 5, 6),
        ("waiting for specialists", 6, 9),
        ("a", 6, 8),
        ("searching · a", 6, 8),
        ("b", 6, 9),
        ("searching · b", 6, 9),
        ("lead joins", 9, 10),
    }
    assert "2 agents" in repr(report.plot())


def test_Coordinator_can_be_a_specialist_of_another():
    """A lead of leads: the inner team's answer is one answer among others."""
    inner = team(Scripted("a"), Scripted("b"), name="inner")
    _, results = run(team(inner, Scripted("c")))
    assert [r.result for r in results] == ["a + b", "c's answer", "inner + c"]


def test_Coordinator_teams_of_teams_on_one_limiter_do_not_lock_each_other_out():
    """Every level waits for the next on the same single slot."""
    executor = ParallelAgentExecutor(CapacityLimiter(1))
    inner = team(Scripted("a"), Scripted("b"), name="inner", executor=executor)
    outer = team(inner, Scripted("c"), executor=executor)

    async def main():
        return await executor.execute(["q1", "q2"], outer)

    report = simulate(main)
    assert [reply.text for reply in report.results] == ["inner + c"] * 2
    assert report.limits[0] == (0, 1)


def test_Coordinator_usage_of_all_turns_adds_up():
    """The reply of a coordinator costs what all its turns cost, by the provider's own count."""

    async def main():
        provider = Provider("open")
        client = provider.client()
        specialists = [ChatAgent(name, client=client) for name in ("a", "b")]
        coordinator = CoordinatorOrchestrator(
            lambda q, state: {"a": q, "b": q}, specialists, ChatAgent("writer", client=client)
        )
        return await coordinator("Why?"), provider.statistics().tokens_used

    reply, used = simulate(main)
    assert isinstance(reply, Reply)
    assert (reply.usage.requests, reply.usage.total_tokens) == (3, used)


# -- leaving, and bad settings ------------------------------------------------------------------------------------


def test_Coordinator_cancelled_at_any_time_leaves_nothing_behind(strays):
    """While planning, delegating or joining: cancellation passes through and cleans up."""

    async def main(at):
        task = asyncio.create_task(team(Scripted("a", 2), Scripted("b", 3)).run("Why?"))
        await asyncio.sleep(at)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return strays()

    assert [simulate(main, at) for at in (0, 0.5, 1.5, 3.5, 4.5)] == [[]] * 5


def test_Coordinator_stream_left_early_leaves_nothing_behind(strays):
    """A reader that has read enough closes the stream, and the others are cancelled."""

    async def main():
        steps = team(Scripted("slow", 50), Scripted("quick", 1)).stream("Why?")
        async for _ in steps:
            break
        await steps.aclose()
        return strays(), asyncio.get_running_loop().time()

    assert simulate(main) == ([], 2)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: team(), ValueError, "specialists must be at least one, got nobody"),
        (lambda: team(Scripted("a"), Scripted("a")), ValueError, "different names, got a more than once"),
        (lambda: team(Scripted("lead")), ValueError, "none of the name of the lead, 'lead'"),
        (lambda: CoordinatorOrchestrator(max, [max]), TypeError, r"specialists\[0\] must have a name"),
        (
            lambda: CoordinatorOrchestrator(max, {"a": 5}),
            TypeError,
            r"specialists\['a'\] must be an agent or a function",
        ),
        (lambda: team(Scripted("a"), quorum=0), ValueError, "quorum must be 1 or more, got 0"),
        (lambda: team(Scripted("a"), rounds=None), TypeError, "rounds must be a whole number, got None"),
        (lambda: team(Scripted("a"), deadline=0), ValueError, "deadline must be above 0, got 0"),
        (lambda: CoordinatorOrchestrator(5, [Scripted("a")]), TypeError, "router must be an agent or a function"),
        (lambda: CoordinatorOrchestrator(max, [Scripted("a")], 5), TypeError, "synthesizer must be an agent or"),
    ],
)
def test_Coordinator_bad_settings_are_named(make, error, said):
    """A mistake shows when the coordinator is made."""
    with pytest.raises(error, match=said):
        make()


def test_Coordinator_repr_tells_what_it_did():
    """At a glance: who leads whom, and how often that led to an answer."""
    coordinator = team(Scripted("a"), Scripted("b"))
    run(coordinator)
    assert repr(coordinator) == "<CoordinatorOrchestrator 'lead' of a, b: 1 runs, 1 answered>"
