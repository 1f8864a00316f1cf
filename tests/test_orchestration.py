"""Agents one after another and side by side: nothing lost, nothing out of order, every bad input named."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.agent import Agent, ChatAgent
from agentkit.executor import ParallelAgentExecutor
from agentkit.lab.loops.virtual import simulate
from agentkit.lab.provider.provider import Provider
from agentkit.orchestration import ParallelOrchestrator, SequentialOrchestrator
from agentkit.retry import RetryPolicy
from agentkit.semaphore import CapacityLimiter
from agentkit.state import ConversationState


class Scripted(Agent):
    """Takes `seconds`, then returns or raises what it was given; notes the messages it saw."""

    def __init__(self, name: str, seconds: float = 1.0, answer: Any = "ok") -> None:
        super().__init__(name)
        self.seconds, self.answer, self.saw = seconds, answer, []

    async def process(self, prompt: str, context: Any = None) -> Any:
        """Answer as scripted."""
        self.saw.append([message["role"] for message in context.messages])
        await asyncio.sleep(self.seconds)
        answer = self.answer.pop(0) if isinstance(self.answer, list) else self.answer
        if isinstance(answer, BaseException):
            raise answer
        return answer


ORCHESTRATORS = [SequentialOrchestrator, ParallelOrchestrator]


def run(orchestrator: Any, agents: Any, prompts: Any, state: Any = None) -> Any:
    """Run on the virtual clock."""
    return simulate(orchestrator.run, agents, prompts, state)


# -- what is promised of both -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ORCHESTRATORS)
def test_Orchestrator_results_and_state_are_in_the_order_of_the_agents(kind):
    """The slowest agent comes first: results and state do not care who finished first."""
    state, results = run(kind(), [Scripted("a", 9, "A"), Scripted("b", 1, "B")], ["x", "y"])
    assert [dict(r) for r in results] == [
        {"agent": "a", "result": "A", "error": None},
        {"agent": "b", "result": "B", "error": None},
    ]
    assert [m["content"] for m in state.messages] == ["x", "A", "y", "B"]
    assert dict(state.agent_outputs) == {"a": "A", "b": "B"}


def test_Orchestrator_swapping_one_for_the_other_changes_only_what_agents_see():
    """Both leave the same state; what an agent sees on its way is what tells them apart."""
    seen, states = {}, {}
    for kind in ORCHESTRATORS:
        team = [Scripted(name) for name in "abc"]
        states[kind], _ = run(kind(), team, ["1", "2", "3"])
        seen[kind] = [len(agent.saw[0]) for agent in team]
    assert states[SequentialOrchestrator] == states[ParallelOrchestrator]
    assert seen == {SequentialOrchestrator: [0, 2, 4], ParallelOrchestrator: [0, 0, 0]}


def test_Sequential_keeps_the_prompts():
    """The third agent sees both earlier questions, each before its answer; storing answers alone would lose them."""
    team = [Scripted(name) for name in "abc"]
    run(SequentialOrchestrator(), team, ["1", "2", "3"])
    assert team[2].saw == [["user", "assistant", "user", "assistant"]]


@pytest.mark.parametrize("kind", ORCHESTRATORS)
def test_Orchestrator_an_empty_answer_is_an_answer(kind):
    """A truth test on results would drop it."""
    state, results = run(kind(), [Scripted("a", 1, "A"), Scripted("b", 1, "")], ["x", "y"])
    assert dict(state.agent_outputs) == {"a": "A", "b": ""}
    assert results[1].error is None
    assert [r["agent"] for r in results if r["result"]] == ["a"]  # the broken way


@pytest.mark.parametrize("kind", ORCHESTRATORS)
def test_Orchestrator_unequal_lengths_are_refused_before_anything_runs(kind):
    """Plain zip would drop the third agent in silence."""
    team = [Scripted(name) for name in "abc"]
    assert len(list(zip(team, ["x", "y"], strict=False))) == 2
    with pytest.raises(ValueError, match="prompts must be as many as agents, got 2 prompts for 3 agents"):
        run(kind(), team, ["x", "y"])
    assert all(not agent.saw for agent in team)


@pytest.mark.parametrize("kind", ORCHESTRATORS)
def test_Orchestrator_two_agents_of_one_name_are_refused(kind):
    """A dict of outputs by name would keep two of three."""
    with pytest.raises(ValueError, match="different names, got 'a' at places 0 and 2"):
        run(kind(), [Scripted("a"), Scripted("b"), Scripted("a")], ["x", "y", "z"])
    assert len(dict.fromkeys(["a", "b", "a"])) == 2


@pytest.mark.parametrize("kind", ORCHESTRATORS)
@pytest.mark.parametrize(
    ("agents", "prompts", "state", "said"),
    [
        ([Scripted("a")], "x", None, r"prompts must be a list or another iterable, got 'x'; write \[prompt\] \* len"),
        ([object()], ["x"], None, r"agents\[0\] must have a name and"),
        ([Scripted("a")], ["x"], {}, "initial_state must be a ConversationState"),
    ],
)
def test_Orchestrator_bad_input_is_named(kind, agents, prompts, state, said):
    """Each error says which argument, what rule, what came, and what to do."""
    with pytest.raises(TypeError, match=said):
        run(kind(), agents, prompts, state)


@pytest.mark.parametrize("kind", ORCHESTRATORS)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (KeyError(), "KeyError"),
        (ValueError("too short"), "too short"),
        (TimeoutError(), "timeout"),
        (None, "agent 'b' returned None, which is no answer; return a text, '' counts as one"),
        (asyncio.CancelledError(), "cancelled: the agent raised CancelledError by itself"),
    ],
)
def test_Orchestrator_a_failure_is_in_its_result_and_the_others_go_on(kind, answer, error):
    """The error is never empty, the others are untouched, the state holds what succeeded."""
    state, results = run(kind(), [Scripted("a"), Scripted("b", 1, answer), Scripted("c")], ["x", "y", "z"])
    assert [r.error for r in results] == [None, error, None]
    assert sorted(state.agent_outputs) == ["a", "c"]
    assert len(state.messages) == 4
    assert results.report.summary.total == 3


def test_AgentResult_text_survives_where_a_plain_dict_crashes():
    """Slicing the reply of a failed agent is a TypeError; its `.text` says what happened."""
    _, results = run(ParallelOrchestrator(), [Scripted("a", 99)], ["x"])
    with pytest.raises(TypeError):
        results[0]["result"][:100]
    assert results[0].text[:100] == "[a: timeout]"


@pytest.mark.parametrize("kind", ORCHESTRATORS)
def test_Orchestrator_no_agents_is_an_empty_run(kind):
    """Nothing in, nothing out."""
    state, results = run(kind(), [], [])
    assert (state, results, len(results.report)) == (ConversationState(), [], 0)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["fine", "", KeyError("k")])), max_size=6), st.integers(1, 4)
)
def test_Parallel_state_does_not_depend_on_who_finishes_first(script, limit):
    """Whatever the durations and the limit, state and results are those of a sequential fold."""
    team = [Scripted(f"a{i}", seconds, answer) for i, (seconds, answer) in enumerate(script)]
    state, results = run(ParallelOrchestrator(limit), team, ["?"] * len(team))
    good = {f"a{i}": answer for i, (_, answer) in enumerate(script) if isinstance(answer, str)}
    assert list(state.agent_outputs.items()) == list(good.items())
    assert [r.agent for r in results] == [agent.name for agent in team]


# -- the executor's part ------------------------------------------------------------------------------------------


def test_Sequential_keeps_the_order_also_while_one_backs_off():
    """An agent that is retried is finished before the next begins, though it holds no slot meanwhile."""
    team = [Scripted("a", 1, [ConnectionError("reset"), "A"]), Scripted("b")]
    executor = ParallelAgentExecutor(5, retry=RetryPolicy(jitter="none", wait_initial=2))
    _, results = run(SequentialOrchestrator(executor=executor), team, ["x", "y"])
    assert team[1].saw == [["user", "assistant"]]
    assert [(o.started, o.finished, len(o.attempts)) for o in results.report] == [(0, 4, 2), (4, 5, 1)]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_Sequential_works_with_any_limit(limit):
    """Also serially, where the source waits in the very worker that must go on."""
    orchestrator = SequentialOrchestrator(executor=ParallelAgentExecutor(limit))
    _, results = run(orchestrator, [Scripted("a"), Scripted("b")], ["x", "y"])
    assert results.report.summary.makespan == 2


def test_Sequential_stop_says_who_was_not_started():
    """With on_error='stop' every agent still has its result."""
    executor = ParallelAgentExecutor(1, on_error="stop")
    team = [Scripted("a"), Scripted("b", 1, KeyError("k")), Scripted("c")]
    _, results = run(SequentialOrchestrator(executor=executor), team, ["x", "y", "z"])
    assert [r.agent for r in results] == ["a", "b", "c"]
    assert results[2].error.startswith("not started: on_error='stop' after task 1")
    assert not team[2].saw


@pytest.mark.parametrize("kind", ORCHESTRATORS)
def test_Orchestrator_raise_raises_with_the_report(kind):
    """What was done before the failure is attached to it."""
    orchestrator = kind(executor=ParallelAgentExecutor(1, on_error="raise"))
    with pytest.raises(KeyError) as caught:
        run(orchestrator, [Scripted("a"), Scripted("b", 1, KeyError("k"))], ["x", "y"])
    assert caught.value.report.results == ["ok"]


@pytest.mark.parametrize("kind", ORCHESTRATORS)
def test_Orchestrator_cancelled_from_outside_leaves_nothing_behind(kind, strays):
    """Cancellation passes through, and no task goes on."""

    async def main():
        team = [Scripted("a", 5), Scripted("b", 5)]
        task = asyncio.create_task(kind().run(team, ["x", "y"]))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return strays()

    assert simulate(main) == []


def test_Parallel_run_with_limit_shares_the_slots():
    """Five single runs at once on two slots take three turns; a timeout does not count the wait."""

    async def main():
        orchestrator = ParallelOrchestrator(max_concurrent=2)
        calls = [orchestrator.run_with_limit(Scripted(f"a{i}", 2), "x", None, timeout=3) for i in range(5)]
        results = await asyncio.gather(*calls)
        late = await orchestrator.run_with_limit(Scripted("late", 9), "x", None, timeout=3)
        return [r.error for r in results], late["error"], asyncio.get_running_loop().time(), repr(orchestrator)

    errors, late, seconds, said = simulate(main)
    assert (errors, late, seconds) == ([None] * 5, "timeout", 9)
    assert said == (
        "<ParallelOrchestrator: 6 runs, 5 turns succeeded, 1 failed; "
        "ParallelAgentExecutor CapacityLimiter 0 of 2 in flight, 0 waiting>"
    )


def test_Parallel_inside_a_task_on_the_same_limiter_does_not_lock_itself_out():
    """An agent that runs a team of its own lends its slot meanwhile."""

    async def main():
        executor = ParallelAgentExecutor(CapacityLimiter(1))

        async def agent(task):
            _, results = await ParallelOrchestrator(executor=executor).run([Scripted("a"), Scripted("b")], ["x", "y"])
            return [r.result for r in results]

        return (await executor.execute([1, 2], agent)).results

    assert simulate(main) == [["ok", "ok"], ["ok", "ok"]]


def test_Orchestrator_knows_what_a_ChatAgent_costs():
    """The result is the text, the report has the reply's usage, and the timeline shows the call."""

    async def main():
        client = Provider("open").client()
        return await ParallelOrchestrator().run([ChatAgent(n, client=client) for n in "ab"], ["Why?", "How?"])

    state, results = simulate(main)
    assert all(isinstance(r.result, str) for r in results)
    assert results.report.summary.usage.requests == 2
    assert results[0].usage + results[1].usage == results.report.summary.usage
    assert [o.spans[0].name for o in results.report] == ["calling", "calling"]
    assert state.agent_outputs["a"] == results[0].result
    assert "2 agents" in repr(results.plot())


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: ParallelOrchestrator(-1), ValueError, "max_concurrency must be 0 or more, got -1"),
        (lambda: ParallelOrchestrator("5"), TypeError, "max_concurrency must be a whole number"),
        (lambda: ParallelOrchestrator(3, executor=ParallelAgentExecutor()), TypeError, "were both given"),
        (
            lambda: ParallelOrchestrator(5, max_concurrent=5),
            TypeError,
            "max_concurrency=5 and max_concurrent=5 were both",
        ),
        (lambda: SequentialOrchestrator(executor=5), TypeError, "executor must be a ParallelAgentExecutor, got 5"),
    ],
)
def test_Orchestrator_bad_settings_are_named(make, error, said):
    """A mistake shows when the orchestrator is made."""
    with pytest.raises(error, match=said):
        make()


def test_Parallel_run_with_limit_refuses_a_timeout_of_nothing():
    """Zero seconds is a mistake, not a bound."""
    with pytest.raises(ValueError, match="timeout must be above 0, got 0; give seconds, or None"):
        simulate(ParallelOrchestrator().run_with_limit, Scripted("a"), "x", None, 0)


def test_Orchestrator_repr_tells_what_it_did():
    """At a glance: runs, turns, slots."""
    orchestrator = ParallelOrchestrator(3)
    run(orchestrator, [Scripted("a"), Scripted("b", 1, KeyError())], ["x", "y"])
    assert repr(orchestrator) == (
        "<ParallelOrchestrator: 1 runs, 1 turns succeeded, 1 failed; "
        "ParallelAgentExecutor CapacityLimiter 0 of 3 in flight, 0 waiting>"
    )
