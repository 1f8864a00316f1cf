"""State: what is frozen stays so, what is shared loses nothing, what is versioned says so when it refuses."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import enum
import importlib.util
import json
import pickle
import re
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentkit.lab import Provider, simulate
from agentkit.lab.explorer.explore import explore
from agentkit.state import Conflict, ConversationState, Message, SharedState, VersionedState
from agentkit.state.frozen import FrozenDict, MessageLog, freeze, thaw

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from("abc")
steady = settings(max_examples=60, deadline=None)  # a busy machine is no failure


@dataclasses.dataclass(frozen=True)
class ArticleState:
    """The immutable state that articles show."""

    messages: tuple[Any, ...] = ()
    agent_outputs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add_message(self, role: str, content: str) -> ArticleState:
        """Return a new state."""
        return dataclasses.replace(self, messages=(*self.messages, {"role": role, "content": content}))

    def add_output(self, agent_name: str, output: Any) -> ArticleState:
        """Return a new state."""
        return dataclasses.replace(self, agent_outputs={**self.agent_outputs, agent_name: output})


# --- ConversationState ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ArticleState, ConversationState])
def test_ConversationState_runs_code_written_for_the_articles_class(kind: Callable[..., Any]) -> None:
    """The same lines give the same answers with the class of the articles and with this one."""
    state = kind()
    state = state.add_message("user", "hello").add_output("researcher", {"score": [1, 2]})
    assert state.messages[-1]["content"] == "hello"
    assert state.agent_outputs["researcher"]["score"][0] == 1
    assert [m["role"] for m in state.messages] == ["user"]
    assert len(state.messages) == 1
    assert state.messages[-1:] == (state.messages[-1],)
    assert "researcher" in state.agent_outputs
    same = kind(messages=({"role": "user", "content": "hello"},)).add_output("researcher", {"score": [1, 2]})
    assert state == same
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.messages = ()
    assert len(dataclasses.replace(state, messages=(*state.messages, {"role": "user", "content": "x"})).messages) == 2


def test_ConversationState_is_immutable_all_the_way_down() -> None:
    """The articles' class lets the dict inside be edited, in every version at once; this one refuses each way in."""
    careless = ArticleState().add_output("a", {"score": [1]})
    later = careless.add_message("user", "hi")
    later.agent_outputs["a"]["score"].append(2)
    assert careless.agent_outputs["a"] == {"score": [1, 2]}  # an old version was rewritten

    given_list = [1]
    state = (
        ConversationState().add_output("a", {"score": given_list, "tags": {"x"}}).add_message("user", [{"text": "hi"}])
    )
    given_list.append(2)
    assert state.agent_outputs["a"]["score"] == (1,)
    assert state.agent_outputs["a"]["tags"] == frozenset("x")
    for edit in (
        lambda: state.agent_outputs.update(a=1),
        lambda: state.agent_outputs["a"].pop("score"),
        lambda: state.messages[0].__setitem__("content", "bye"),
        lambda: state.messages[0]["content"][0].clear(),
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            edit()


def test_ConversationState_keeps_old_versions() -> None:
    """Two branches of one state do not see each other, whichever of them extended the shared memory."""
    base = ConversationState().add_message("user", "q")
    one, two = base.add_message("assistant", "1"), base.add_message("assistant", "2")
    assert [m["content"] for m in base.messages] == ["q"]
    assert [m["content"] for m in one.messages] == ["q", "1"]
    assert [m["content"] for m in two.messages] == ["q", "2"]


def test_ConversationState_compares_and_hashes_by_value() -> None:
    """Equal however they came about; a set holds one of them; pickle and copy keep that."""
    one = ConversationState().add_message("user", "hi").add_output("a", [1])
    two = ConversationState([{"content": "hi", "role": "user"}], {"a": (1,)})
    assert one == two
    assert len({one, two}) == 1
    assert one != one.add_message("user", "hi")
    assert pickle.loads(pickle.dumps(one)) == one
    assert copy.deepcopy(one) == one


@steady
@given(st.lists(st.fixed_dictionaries({"role": WORDS, "content": JSON}, optional={"name": WORDS}), max_size=5))
def test_ConversationState_goes_to_the_chat_format_and_back(messages: list[dict[str, Any]]) -> None:
    """to_messages gives plain JSON, equal to what came in; from_messages gives the state again."""
    state = ConversationState.from_messages(messages)
    plain = state.to_messages()
    assert plain == messages
    assert json.loads(json.dumps(plain)) == messages
    assert ConversationState.from_messages(plain) == state
    assert json.loads(json.dumps(list(state.messages))) == messages  # the frozen ones are accepted as they are


CONVERSATION = (
    ConversationState()
    .add_message("user", [{"type": "text", "text": "hi"}])
    .add_message("assistant", None, name="a", tool_calls=[{"id": "1", "type": "function", "function": {"name": "f"}}])
    .add_message("tool", "ok", tool_call_id="1")
)


def test_Message_reads_as_a_dict_a_pair_and_a_record() -> None:
    """Unpacking gives role and content, whatever else there is; everything else is what a dict does."""
    user, assistant, tool = CONVERSATION.messages
    assert [(role, content) for role, content in (assistant, tool)] == [("assistant", None), ("tool", "ok")]
    assert (tool.role, tool.content, tool["role"], tool.get("name", "-")) == ("tool", "ok", "tool", "-")
    plain = {"role": "tool", "content": "ok", "tool_call_id": "1"}
    assert dict(tool) == {**tool} == plain == tool
    assert type(dict(tool)) is dict
    assert list(tool.keys()) == list(plain)
    assert len({tool, Message(plain), Message(**plain)}) == 1
    assert isinstance(tool, Mapping)
    assert Message(role="assistant").content is None
    assert type(tool | {"name": "b"}) is type(pickle.loads(pickle.dumps(tool))) is Message
    assert repr(user) == "Message({'role': 'user', 'content': (FrozenDict({'type': 'text', 'text': 'hi'}),)})"
    assert freeze(tool) is tool
    assert thaw(tool) == plain
    with pytest.raises(TypeError, match="a Message cannot be changed"):
        tool["content"] = "no"


def test_Message_is_what_a_state_holds_however_it_was_made() -> None:
    """Dicts, pairs and messages become messages, in the constructor, by appending, replacing and merging."""
    state = ConversationState([("user", "a"), {"role": "user", "content": "b"}])
    state = dataclasses.replace(state, messages=state.messages.__add__([{"role": "user", "content": "c"}]))
    state = dataclasses.replace(state, messages=(*state.messages, ("user", "d")))  # type: ignore[arg-type]
    state = state.merge(ConversationState([("user", "e")]))
    assert [type(message) for message in state.messages] == [Message] * 5
    assert "".join(content for _, content in state.messages) == "abcde"
    assert all(type(message) is Message for message in pickle.loads(pickle.dumps(state)).messages)
    with pytest.raises(ValueError, match=r"messages\[1\] must be a dict with a 'role', got \('a', 'b', 'c'\)"):
        ConversationState([("user", "a"), ("a", "b", "c")])


def test_Message_goes_to_the_client_as_it_is() -> None:
    """The openai client sends `state.messages` as it sends a list of dicts; `json` writes the same."""
    sent: list[Any] = []

    def answer(request: Any) -> str:
        sent.append(request.messages)
        return "fine"

    async def main() -> str:
        client = Provider(answer=answer).client()
        for messages in (CONVERSATION.messages, CONVERSATION.to_messages()):
            reply = await client.chat.completions.create(model="small", messages=messages)  # type: ignore[arg-type]
        reply = await client.responses.create(model="small", input=list(CONVERSATION.messages[:1]))
        return str(reply.output_text)

    assert simulate(main) == "fine"
    assert sent[0] == sent[1]
    assert json.dumps([dict(m) for m in CONVERSATION.messages]) == json.dumps(CONVERSATION.to_messages())


def test_ConversationState_copies_nothing_for_a_message() -> None:
    """A thousand versions of a growing conversation share one list of messages."""
    versions = [ConversationState()]
    for i in range(1000):
        versions.append(versions[-1].add_message("user", str(i)))
    assert len({id(version.messages._items) for version in versions}) == 1
    assert [len(version.messages) for version in versions] == list(range(1001))
    assert versions[10].messages[-1]["content"] == "9"


def test_ConversationState_repr_shows_the_last_message_and_who_answered() -> None:
    """The number of messages, the content of the last one, and the agents with an output."""
    empty = ConversationState()
    assert repr(empty) == "<ConversationState 0 messages>"
    asked = empty.add_message("user", "Why?").add_message("assistant", "Because.")
    assert repr(asked) == "<ConversationState 2 messages, last 'Because.'>"
    answered = asked.add_output("a", 1).add_output("b", 2)
    assert repr(answered) == "<ConversationState 2 messages, last 'Because.', outputs of a, b>"


def test_ConversationState_explains_what_it_cannot_take() -> None:
    """Each error names the way to the culprit and the remedy."""
    with pytest.raises(TypeError, match=r"message\['content'\]\[1\] must be immutable, got an object of type Thread"):
        ConversationState().add_message("user", ["fine", threading.Thread()])
    with pytest.raises(TypeError, match=r"output of 'a'\['x'\] must be immutable, got an object of type object"):
        ConversationState().add_output("a", {"x": object()})
    with pytest.raises(ValueError, match=r"messages\[1\] must be a dict with a 'role', got 'hi'"):
        ConversationState.from_messages([{"role": "user"}, "hi"])  # type: ignore[list-item]


# --- merge -----------------------------------------------------------------------------------------------------------

STATES = st.builds(
    lambda messages, outputs: ConversationState([{"role": m} for m in messages], outputs),
    st.lists(WORDS, max_size=5),
    st.dictionaries(WORDS, st.just(0), max_size=3),
)


def contents(state: ConversationState) -> dict[Any, int]:
    """Count each message."""
    return {message: list(state.messages).count(message) for message in state.messages}


@steady
@given(STATES, STATES, STATES)
def test_merge_is_associative(a: ConversationState, b: ConversationState, c: ConversationState) -> None:
    """Joining in pairs gives the same however the pairs are made."""
    assert a.merge(b).merge(c) == a.merge(b.merge(c))


@steady
@given(STATES, STATES)
def test_merge_is_commutative_but_for_the_order_of_messages(a: ConversationState, b: ConversationState) -> None:
    """The outputs and the messages there are do not depend on who merges whom; mine come first."""
    one, two = a.merge(b), b.merge(a)
    assert one.agent_outputs == two.agent_outputs
    assert contents(one) == contents(two)
    assert one.messages[: len(a.messages)] == tuple(a.messages)


@steady
@given(STATES, STATES)
def test_merge_twice_changes_nothing(a: ConversationState, b: ConversationState) -> None:
    """Idempotent: a branch that arrives twice is harmless, and so is merging with an ancestor."""
    once = a.merge(b)
    assert once.merge(b) == once
    assert once.merge(a) == once
    assert a.merge(a) == a


@steady
@given(STATES, st.lists(WORDS, max_size=3), st.lists(WORDS, max_size=3))
def test_merge_keeps_what_each_branch_added(base: ConversationState, one: list[str], two: list[str]) -> None:
    """Three agents never lose a word: base, then all of mine, then all of theirs, where the names differ."""

    def branch(name: str, said: list[str]) -> ConversationState:
        state = base
        for role in said:
            state = state.add_message(role, None, name=name)
        return state

    merged = branch("1", one).merge(branch("2", two))
    added = [(m["role"], m["name"]) for m in merged.messages[len(base.messages) :]]
    assert added == [(role, "1") for role in one] + [(role, "2") for role in two]


def test_merge_counts_what_two_agents_both_say_without_a_name() -> None:
    """The rule in one example: said once on each side is said once; a name tells them apart."""
    base = ConversationState()
    assert len(base.add_message("assistant", "yes").merge(base.add_message("assistant", "yes")).messages) == 1
    one, two = (base.add_message("assistant", "yes", name=name) for name in "ab")
    assert len(one.merge(two).messages) == 2


def test_merge_refuses_two_outputs_of_one_agent_unless_told_which() -> None:
    """Conflict names the agent and both outputs, in both directions; resolve decides."""
    one, two = ConversationState({}, {"a": 1}), ConversationState({}, {"a": 2})
    for mine, theirs in ((one, two), (two, one)):
        with pytest.raises(Conflict, match="agent 'a' has two outputs") as refused:
            mine.merge(theirs)
        assert refused.value.key == "a"
        assert mine.merge(theirs, resolve=lambda agent, x, y: max(x, y)).agent_outputs == {"a": 2}
    assert one.merge(ConversationState((), {"a": 1})) == one


# --- freeze and MessageLog -------------------------------------------------------------------------------------------


@steady
@given(JSON)
def test_freeze_and_thaw_are_inverse(value: Any) -> None:
    """What goes in as JSON comes out equal, hashable in between, and freezing twice hands back the same."""
    frozen = freeze(value)
    hash(frozen)
    assert freeze(frozen) is frozen or frozen == freeze(frozen)
    assert thaw(frozen) == value


def test_freeze_takes_records_and_plain_values() -> None:
    """Frozen dataclasses that hold nothing changeable, named tuples, enums and bytes pass."""

    class Point(NamedTuple):
        x: int
        tags: Any

    class Colour(enum.Enum):
        RED = 1

    @dataclasses.dataclass(frozen=True, slots=True)
    class Record:
        value: Any

    good = Record((1, "a"))
    assert freeze(good) is good
    assert freeze(Point(1, [2])) == Point(1, (2,))
    assert freeze([Colour.RED, bytearray(b"x")]) == (Colour.RED, b"x")
    with pytest.raises(TypeError, match="Record, whose field 'value' holds a list"):
        freeze(Record([1]))
    with pytest.raises(TypeError, match="a dataclass without frozen=True"):
        freeze(dataclasses.make_dataclass("Loose", ["x"])(1))


def test_freeze_keeps_the_type_of_a_tuple_whose_items_it_freezes() -> None:
    """A named tuple keeps its names, a plain tuple stays plain, and one with nothing to freeze is returned as it is."""

    class Point(NamedTuple):
        name: str
        tags: Any

    frozen = freeze(Point("a", ["x"]))
    assert type(frozen) is Point
    assert frozen == Point("a", ("x",))
    assert freeze(("a", ["x"])) == ("a", ("x",))
    done = ("a", ("x",))
    assert freeze(done) is done


def test_freeze_explains_a_value_that_contains_itself() -> None:
    """A circle has no frozen form."""
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="value must not contain itself"):
        freeze(circle)


def test_FrozenDict_is_a_dict_that_refuses() -> None:
    """Equal, hashable, joinable, picklable; every way to change it raises."""
    frozen = FrozenDict(a=[1])
    assert frozen == {"a": (1,)}
    assert hash(frozen) == hash(FrozenDict(a=(1,)))
    assert frozen | {"b": 2} == {"a": (1,), "b": 2}
    assert isinstance(frozen | {}, FrozenDict)
    assert pickle.loads(pickle.dumps(frozen)) == copy.copy(frozen) == copy.deepcopy(frozen)
    edits: list[Callable[[], Any]] = [
        lambda: frozen.__setitem__("a", 1),
        lambda: frozen.__delitem__("a"),
        lambda: frozen.__ior__({}),
        lambda: frozen.setdefault("b", 1),
        frozen.popitem,
        frozen.clear,
    ]
    for edit in edits:
        with pytest.raises(TypeError, match="cannot be changed"):
            edit()


@steady
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=25))
def test_Log_versions_are_tuples_that_share_memory(script: list[tuple[int, int]]) -> None:
    """Append to any version in any order: each one equals, indexes, iterates and hashes as a tuple of its items."""
    versions: list[tuple[MessageLog, tuple[int, ...]]] = [(MessageLog(), ())]
    for which, item in script:
        log, model = versions[which % len(versions)]
        versions.append((log.append(item), (*model, item)))
    for log, model in versions:
        assert log == model
        assert tuple(log) == model
        assert hash(log) == hash(model)
        assert log[-2:] == model[-2:]
        assert repr(log) == repr(model)
        assert len(log) == len(model)
    with pytest.raises(IndexError):
        versions[0][0][0]


def test_Log_equality_compares_items_within_and_across_histories() -> None:
    """Logs of one length and different items differ, whether or not they share memory."""
    one = MessageLog(["a"])
    two = one.append("b")
    assert MessageLog(["a"]) == one
    assert MessageLog(["b"]) != one
    assert two != one
    assert one.append("c") != two
    assert one == ("a",)
    assert one != ["a"]


def test_Log_branches_of_two_threads_do_not_meet() -> None:
    """Two threads that extend one version at once each get a version of their own."""
    for _ in range(200):
        base, gate, got = MessageLog([0]), threading.Barrier(4), []

        def extend(name: int, base: MessageLog = base, gate: Any = gate, got: list[Any] = got) -> None:
            gate.wait()
            got.append((name, base.append(name).append(name)))

        threads = [threading.Thread(target=extend, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(log == (0, name, name) for name, log in got)


# --- SharedState -----------------------------------------------------------------------------------------------------


def test_SharedState_loses_nothing_among_threads() -> None:
    """Eight threads, each change a function from old to new: the count is exact, with a check in the middle."""
    shared = SharedState({"n": 0})

    def work() -> None:
        for _ in range(500):
            shared.update(lambda old: {"n": old["n"] + len([1])})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.read() == {"n": 4000}
    assert "4000 updates" in repr(shared)


def test_SharedState_loses_nothing_among_tasks() -> None:
    """Proved for three tasks: an update has no await inside, so no order can split it."""

    async def scenario() -> int:
        shared = SharedState(0)

        async def agent() -> None:
            await asyncio.sleep(1)
            shared.update(lambda n: n + 1)

        await asyncio.gather(agent(), agent(), agent())
        return int(shared.read())

    assert explore(scenario, lambda n: n == 3).proved


def test_SharedState_refuses_an_async_function() -> None:
    """The error says why; nothing changes, no lock stays taken, and no coroutine is left unawaited."""
    shared = SharedState(1)

    async def slow(old: int) -> int:
        return old + 1

    for fn in (slow, lambda old: slow(old)):
        with pytest.raises(
            TypeError, match=r"fn must be a plain function, got the async .* no lock is held across an await"
        ):
            shared.update(fn)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="fn must be a plain function"):
            shared.read(fn)
    assert shared.update(lambda old: old + 1) == 2


def test_SharedState_hands_out_what_cannot_change() -> None:
    """An edit in place fails loudly, and a change that returns nothing is caught."""
    shared = SharedState({"log": ["a"]})
    with pytest.raises(TypeError, match="cannot be changed"):
        shared.update(lambda old: old.update(log=[]))  # type: ignore[arg-type, func-returns-value]
    with pytest.raises(TypeError, match="fn must return the new value, got None"):
        shared.update(lambda old: None)  # type: ignore[arg-type, return-value]
    assert shared.read(lambda value: value["log"]) == ("a",)


def test_SharedState_survives_an_error_and_names_a_nested_update() -> None:
    """If fn raises, the old value stays and the lock is free; an update within an update is refused, not a deadlock."""
    shared = SharedState(1)
    with pytest.raises(ZeroDivisionError):
        shared.update(lambda old: old // 0)
    with pytest.raises(RuntimeError, match=r"update\(fn\) called inside an update\(fn\)"):
        shared.update(lambda old: shared.update(lambda inner: inner + 1))
    assert shared.update(lambda old: old + 1) == 2
    assert repr(shared) == "<SharedState 2, 1 updates, 0 waited>"


def test_SharedState_counts_who_waited() -> None:
    """A second thread that comes while the first is inside waits, and is counted."""
    shared = SharedState(0)
    inside, go = threading.Event(), threading.Event()

    def slow(old: int) -> int:
        inside.set()
        assert go.wait(60)
        return old + 1

    first = threading.Thread(target=shared.update, args=(slow,))
    first.start()
    assert inside.wait(60)
    second = threading.Thread(target=shared.update, args=(lambda old: old + 1,))
    second.start()
    go.set()
    first.join()
    second.join()
    assert shared.read() == 2
    assert re.search("2 updates, [01] waited", repr(shared))  # the second may have come too late to wait


def test_SharedState_counts_an_update_that_found_the_lock_taken() -> None:
    """A lock that is always taken at first: each update waits, and each is counted."""
    shared = SharedState(0)
    shared._lock = SimpleNamespace(acquire=lambda blocking=True: blocking, release=lambda: None)  # type: ignore[assignment]
    shared.update(lambda old: old + 1)
    shared.update(lambda old: old + 1)
    assert repr(shared) == "<SharedState 2, 2 updates, 2 waited>"


# --- VersionedState --------------------------------------------------------------------------------------------------


def test_VersionedState_refuses_a_stale_write() -> None:
    """The error in full: the key, both versions, the remedy; and nothing was written."""
    notes = VersionedState()
    for n in range(7):
        notes.set("summary", n, expected=n)
    with pytest.raises(Conflict) as refused:
        notes.set("summary", "stale", expected=5)
    assert str(refused.value) == (
        "key 'summary' is at version 7, expected 5; read it again and redo the change, or use update(fn)"
    )
    assert notes.get("summary") == (6, 7)
    assert refused.value.key == "summary"


def test_VersionedState_starts_at_version_zero() -> None:
    """A key never written is None at version 0, so that the first writer is checked as well."""
    notes = VersionedState(given=[1])
    assert notes.get("new") == (None, 0)
    assert notes.get("given") == ((1,), 1)
    assert notes.set("new", 1, expected=0) == 1
    with pytest.raises(Conflict, match="is at version 1, expected 0"):
        notes.set("new", 2, expected=0)
    assert notes.snapshot() == {"given": (1,), "new": 1}
    assert repr(notes) == "<VersionedState given (1,) v1, new 1 v1; 1 conflicts>"


def test_VersionedState_update_redoes_the_change() -> None:
    """Somebody writes between the read and the write: fn runs again on the new value, and nothing is lost."""
    notes, seen = VersionedState(n=0), []

    def change(old: int) -> int:
        if not seen:
            notes.set("n", 10, expected=1)  # another writer, at the worst moment
        seen.append(old)
        return old + 1

    assert notes.update("n", change) == 11
    assert seen == [0, 10]
    assert repr(notes) == "<VersionedState n 11 v3; 1 conflicts>"


def test_VersionedState_update_gives_up_when_told() -> None:
    """With attempts, the last Conflict comes out; a bad number is explained; an async fn is refused."""
    notes = VersionedState(n=0)

    def meddle(old: int) -> int:
        notes.set("n", old, expected=notes.get("n")[1])
        return old + 1

    with pytest.raises(Conflict):
        notes.update("n", meddle, attempts=3)
    assert repr(notes).endswith("; 3 conflicts>")
    with pytest.raises(ValueError, match="attempts must be 1 or more, got 0"):
        notes.update("n", meddle, attempts=0)

    async def slow(old: int) -> int:
        return old

    with pytest.raises(TypeError, match="fn must be a plain function"):
        notes.update("n", slow)


@pytest.mark.parametrize("attempts", [1, 2])
def test_VersionedState_update_calls_fn_at_most_as_often_as_allowed(attempts: int) -> None:
    """One attempt is enough where there is no conflict; where each one conflicts, fn is called `attempts` times."""
    notes, calls = VersionedState(n=0), list[int]()
    assert notes.update("n", lambda old: old + 1, attempts=attempts) == 1

    def meddle(old: int) -> int:
        calls.append(old)
        notes.set("n", old + 10, expected=notes.get("n")[1])
        return old + 1

    with pytest.raises(Conflict):
        notes.update("n", meddle, attempts=attempts)
    assert len(calls) == attempts


def test_VersionedState_update_async_returns_the_new_value() -> None:
    """The value it stored, frozen."""

    async def main() -> Any:
        notes = VersionedState(tags=[])

        async def add(old: tuple[str, ...]) -> list[str]:
            return [*old, "new"]

        return await notes.update_async("tags", add), notes.get("tags")

    assert simulate(main) == (("new",), (("new",), 2))


def test_VersionedState_repr_lists_four_keys() -> None:
    """Keys, values and versions; more than four are cut."""
    assert repr(VersionedState()) == "<VersionedState no keys; 0 conflicts>"
    assert repr(VersionedState(a=1, b=2, c=3, d=4)) == "<VersionedState a 1 v1, b 2 v1, c 3 v1, d 4 v1; 0 conflicts>"
    assert repr(VersionedState(a=1, b=2, c=3, d=4, e=5)).endswith("d 4 v1, …; 0 conflicts>")


def test_VersionedState_update_async_is_proved_for_three() -> None:
    """Three agents improve one key with a wait inside: every order keeps all three."""

    async def scenario() -> str:
        notes = VersionedState(text="")

        async def agent(name: str) -> None:
            async def change(old: str) -> str:
                await asyncio.sleep(1)
                return old + name

            await notes.update_async("text", change)

        await asyncio.gather(*map(agent, "abc"))
        return str(notes.get("text")[0])

    assert explore(scenario, lambda text: sorted(text) == ["a", "b", "c"], max_runs=20_000).proved


def test_VersionedState_loses_nothing_among_threads() -> None:
    """Optimistic updates from eight threads: the count is exact."""
    notes = VersionedState(n=0)

    def work() -> None:
        for _ in range(300):
            notes.update("n", lambda n: n + len([1]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes.get("n") == (2400, 2401)


class Versions(RuleBasedStateMachine):
    """Writers that read at one time and write at another, against a plain model of what must happen."""

    def __init__(self) -> None:
        super().__init__()
        self.state = VersionedState()
        self.model: dict[str, list[int]] = {}
        self.read: dict[tuple[int, str], int] = {}
        self.refused = 0

    @rule(who=st.integers(0, 2), key=WORDS)
    def look(self, who: int, key: str) -> None:
        """Read a key and remember its version."""
        value, version = self.state.get(key)
        history = self.model.get(key, [])
        assert (value, version) == (history[-1] if history else None, len(history))
        self.read[who, key] = version

    @rule(who=st.integers(0, 2), key=WORDS, value=st.integers())
    def write(self, who: int, key: str, value: int) -> None:
        """Write with the version that was read: accepted exactly if nobody wrote since."""
        expected, history = self.read.get((who, key), 0), self.model.setdefault(key, [])
        if expected == len(history):
            assert self.state.set(key, value, expected=expected) == expected + 1
            history.append(value)
        else:
            self.refused += 1
            with pytest.raises(Conflict):
                self.state.set(key, value, expected=expected)

    @rule(key=WORDS)
    def update(self, key: str) -> None:
        """Add one, whatever is there."""
        history = self.model.setdefault(key, [])
        history.append(self.state.update(key, lambda old: (old or 0) + 1))

    @invariant()
    def counts(self) -> None:
        """Versions and conflicts agree with the model."""
        assert all(self.state.get(key)[1] == len(history) for key, history in self.model.items())
        assert repr(self.state).endswith(f"; {self.refused} conflicts>")
        assert self.state.snapshot() == {key: history[-1] for key, history in self.model.items() if history}


Versions.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestVersions = Versions.TestCase


def test_the_price_of_each_way_is_exact_on_the_virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten writers, a call of one second between read and write: seconds, calls billed, changes that are still there."""
    path = Path(__file__).parent / "benchmarks" / "bench_state.py"
    spec = importlib.util.spec_from_file_location("bench_state", path)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_state", bench)  # dataclasses look their module up there
    spec.loader.exec_module(bench)
    assert bench.waits(10) == {
        "unguarded": (1, 10, 1),
        "lock": (10, 10, 10),
        "keyed lock": (1, 10, 10),
        "versioned": (10, 55, 10),
        "immutable": (1, 10, 10),
        "single owner": (10, 10, 10),
    }
