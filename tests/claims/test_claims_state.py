"""Shared state: what immutability, versions and caches do and do not promise."""

import asyncio
import contextvars
import functools
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from agentkit.lab import simulate
from agentkit.lab.claims import claim

model_call = asyncio.sleep  # to the program a model call is a wait: model_call(seconds, reply)


def now():
    """The running loop's clock, in virtual seconds."""
    return asyncio.get_running_loop().time()


@dataclass(frozen=True)
class State:
    """The conversation state one meets everywhere: frozen, with a dict inside."""

    messages: tuple = ()
    outputs: dict = field(default_factory=dict)

    def add_output(self, name, text):
        """A new state with one more output; this one stays as it is."""
        return replace(self, outputs={**self.outputs, name: text})

    def add_message(self, role, text):
        """A new state with one more message; it shares the dict of outputs with this one."""
        return replace(self, messages=(*self.messages, (role, text)))


@claim("immutable-prevents")
def test_frozen_state_does_not_prevent_lost_updates():
    """Three agents rebind one frozen state: 1 output is kept. One writer that adds them after gather keeps 3."""

    async def main(agents_write):
        state = State()

        async def agent(name):
            nonlocal state
            seen = state
            text = await model_call(1, "text")
            if agents_write:
                state = seen.add_output(name, text)
            return name, text

        for name, text in await asyncio.gather(*map(agent, "ABC")):
            if not agents_write:
                state = state.add_output(name, text)
        return len(state.outputs)

    assert (simulate(main, True), simulate(main, False)) == (1, 3)


@claim("frozen-dict")
def test_frozen_dataclass_with_a_dict_can_be_edited():
    """The attribute cannot be rebound, the dict in it can be edited, and the state cannot be hashed."""
    state = State()
    with pytest.raises(FrozenInstanceError):
        state.outputs = {}
    state.outputs["writer"] = "edited"
    assert state.outputs == {"writer": "edited"}
    with pytest.raises(TypeError, match="unhashable"):
        hash(state)


@claim("old-state-unchanged")
def test_replace_shares_what_it_does_not_replace():
    """add_message makes a new state, and an edit of the new one's dict changes the old one."""
    old = State(outputs={"writer": "draft"})
    new = old.add_message("user", "hello")
    new.outputs["writer"] = "rewritten"
    assert old.messages == ()
    assert old.outputs == {"writer": "rewritten"}


@claim("tuple-of-dicts")
def test_tuple_is_only_as_immutable_as_what_is_in_it():
    """A tuple of messages protects the sequence; each message, a dict, can still be edited by any agent."""
    history = ({"role": "user", "content": "hello"},)
    seen_by_another = history
    history[0]["content"] = "edited"
    assert seen_by_another[0]["content"] == "edited"


@claim("conflict-is-a-race")
def test_version_check_turns_a_lost_update_into_a_conflict():
    """Two agents write at 1 s: blindly one entry is kept; with a version check both, one of them redone, at 2 s."""

    async def main(check):
        version, history, conflicts = 0, (), 0

        async def agent(name):
            nonlocal version, history, conflicts
            while True:
                seen, mine = version, (*history, name)
                await model_call(1)
                if not check or seen == version:
                    version, history = version + 1, mine
                    return
                conflicts += 1  # like a refused push: read again, redo

        await asyncio.gather(agent("A"), agent("B"))
        return len(history), conflicts, now()

    assert simulate(main, False) == (1, 0, 1)
    assert simulate(main, True) == (2, 1, 2)


@claim("budget-check")
def test_budget_checked_before_and_booked_after_is_overspent():
    """A budget of 10, 20 agents that cost 1: booked after the call 20 are spent, booked before it 10."""

    async def main(book_first):
        spent = 0

        async def agent():
            nonlocal spent
            if spent < 10:
                spent += book_first
                await model_call(1)
                spent += not book_first

        await asyncio.gather(*(agent() for _ in range(20)))
        return spent

    assert (simulate(main, False), simulate(main, True)) == (20, 10)


@claim("cache-stampede")
def test_cache_does_not_stop_ten_agents_from_asking_at_once():
    """Ten agents, one question: a cache of answers makes 10 calls, a cache of tasks 1."""

    async def main(cache_tasks):
        cache, calls = {}, []

        async def ask(question):
            calls.append(question)
            return await model_call(1, "answer")

        async def agent():
            if cache_tasks:
                if "q" not in cache:
                    cache["q"] = asyncio.create_task(ask("q"))
                return await cache["q"]
            if "q" not in cache:
                cache["q"] = await ask("q")
            return cache["q"]

        await asyncio.gather(*(agent() for _ in range(10)))
        return len(calls)

    assert (simulate(main, False), simulate(main, True)) == (10, 1)


@claim("lru-cache-async")
def test_lru_cache_on_an_async_function_caches_the_coroutine():
    """The second caller gets the same, already awaited coroutine: RuntimeError instead of an answer."""

    @functools.lru_cache
    def _cached(question):
        return ask(question)

    async def ask(question):
        return await model_call(1, f"answer to {question}")

    async def main():
        first = await _cached("q")
        with pytest.raises(RuntimeError, match="already awaited"):
            await _cached("q")
        return first

    assert simulate(main) == "answer to q"


@claim("shared-default")
def test_default_list_is_shared_by_all_agents():
    """Two agents, each called without a history: the second sees the first one's message."""

    def agent(message, history=[]):  # noqa: B006 - this is the bug
        history.append(message)
        return list(history)

    assert agent("a") == ["a"]
    assert agent("b") == ["a", "b"]


@claim("dict-iteration")
def test_iterating_over_shared_state_across_an_await_fails():
    """A reader waits between items, a writer adds a key: RuntimeError; over list(state) it is safe."""

    async def main(copy):
        state = {"a": 1, "b": 2}

        async def reader():
            for _ in list(state) if copy else state:
                await model_call(1)
            return "read"

        async def writer():
            await model_call(0.5)
            state["c"] = 3

        return (await asyncio.gather(reader(), writer(), return_exceptions=True))[0]

    assert simulate(main, True) == "read"
    assert isinstance(simulate(main, False), RuntimeError)


@claim("same-name")
def test_outputs_keyed_by_agent_name_overwrite_each_other():
    """Three agents, two of the same name: two outputs."""
    state = State()
    for name in ("researcher", "writer", "researcher"):
        state = state.add_output(name, "text")
    assert len(state.outputs) == 2


@claim("empty-reply")
def test_truth_test_drops_an_empty_reply():
    """Replies "text", "" and None: `if reply` keeps one, `is not None` keeps the two that are replies."""
    replies = ["text", "", None]
    assert len([reply for reply in replies if reply]) == 1
    assert len([reply for reply in replies if reply is not None]) == 2


@claim("zip-drops")
def test_zip_drops_the_agent_without_a_prompt():
    """Three agents, two prompts: two run and nothing is said; strict=True raises."""
    agents, prompts = ["a", "b", "c"], ["p", "q"]
    assert len(list(zip(agents, prompts))) == 2  # noqa: B905 - this is the bug
    with pytest.raises(ValueError, match="shorter"):
        list(zip(agents, prompts, strict=True))


@claim("swap-orchestrators")
def test_parallel_and_sequential_agents_see_different_histories():
    """Three agents: in parallel each sees 0 messages, one after another 0, 1 and 2."""

    async def agent(state):
        return await model_call(1, len(state.messages))

    async def parallel():
        return await asyncio.gather(*(agent(State()) for _ in range(3)))

    async def sequential():
        state, seen = State(), []
        for _ in range(3):
            seen.append(await agent(state))
            state = state.add_message("assistant", "reply")
        return seen

    assert simulate(parallel) == [0, 0, 0]
    assert simulate(sequential) == [0, 1, 2]


@claim("sequential-prompts")
def test_keeping_only_replies_loses_the_questions():
    """State built from replies alone: the third agent gets two answers and no earlier question."""
    state, sent = State(), []
    for prompt in ("p1", "p2", "p3"):
        sent.append([role for role, _ in (*state.messages, ("user", prompt))])
        state = state.add_message("assistant", "reply")
    assert sent[2] == ["assistant", "assistant", "user"]


@claim("context-isolated")
def test_context_variable_set_in_a_task_stays_there():
    """Two agents set the same context variable: each reads its own value, the parent still its old one."""
    run_id = contextvars.ContextVar("run_id", default="parent")

    async def agent(name):
        run_id.set(name)
        await model_call(1)
        return run_id.get()

    async def main():
        return await asyncio.gather(agent("a"), agent("b")), run_id.get()

    assert simulate(main) == (["a", "b"], "parent")


@claim("global-request-id")
def test_module_variable_mixes_up_concurrent_agents():
    """The same with a plain variable: both agents read the name that was written last."""
    current = None

    async def agent(name):
        nonlocal current
        current = name
        await model_call(1)
        return current

    async def main():
        return await asyncio.gather(agent("a"), agent("b"))

    assert simulate(main) == ["b", "b"]
