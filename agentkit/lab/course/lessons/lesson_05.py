"""Checks of notebook 05, locks and state: a conversation frozen all the way down, and two locks in one order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from agentkit.lab.course.exercise import Exercise, Question, swap

__all__ = ["EXERCISES", "QUIZ", "Library", "refused"]

Conversation = Callable[..., Any]
Link = Callable[..., Coroutine[Any, Any, Any]]


def refused(what: str, edit: Callable[[], object], look: Callable[[], object]) -> None:
    """Try an edit; fail, in words, unless it was refused or changed nothing of what `look` sees.

    >>> numbers = [1]
    >>> refused("somebody appended", lambda: numbers.append(2), lambda: len(numbers))
    Traceback (most recent call last):
    AssertionError: somebody appended; 1 became 2
    """
    before = look()
    with contextlib.suppress(Exception):  # refused, by whatever error
        edit()
    if look() != before:
        raise AssertionError(f"{what}; {before!r} became {look()!r}")


class Library:
    """Documents with a lock each, and a `write` that notes which of its two locks were free meanwhile."""

    def __init__(self) -> None:
        self.locks = {name: asyncio.Lock() for name in "abcd"}
        self.written: list[tuple[str, str]] = []
        self.unlocked: list[str] = []
        self.error: Exception | None = None

    async def write(self, source: str, target: str) -> str:
        """Write a link in one second, or raise the error."""
        for moment in range(2):
            self.unlocked += [name for name in {source: 0, target: 0} if not self.locks[name].locked()]
            await asyncio.sleep(1 - moment)
        if self.error:
            raise self.error
        self.written.append((source, target))
        return f"{source} to {target}"

    @property
    def taken(self) -> str:
        """The documents whose lock is held now."""
        return ", ".join(name for name, lock in self.locks.items() if lock.locked())

    async def busy(self, link: Link, *pairs: tuple[str, str]) -> None:
        """Link all pairs, while every document is read for the first second: whoever comes, waits in line."""
        for lock in self.locks.values():
            await lock.acquire()
        tasks = [asyncio.create_task(link(self.locks, *pair, self.write), name=" to ".join(pair)) for pair in pairs]
        await asyncio.sleep(1)
        for lock in self.locks.values():
            lock.release()
        await asyncio.gather(*tasks)


def messages_stay(make: Conversation) -> None:
    """A message cannot be edited."""
    message = make().add_message("user", "Why?").messages[0]
    refused("one agent edited a message", lambda: message.update(content="edited"), lambda: message["content"])


def outputs_stay(make: Conversation) -> None:
    """The outputs cannot be edited."""
    outputs = make().add_output("writer", "a draft").outputs
    refused("one agent edited the outputs", lambda: outputs.update(writer="edited"), lambda: outputs["writer"])


def also_inside(make: Conversation) -> None:
    """Nor can a list that stands in an output, or in a message."""
    sources = make().add_output("reader", {"sources": ["a.txt"]}).outputs["reader"]["sources"]
    refused("one agent appended to a list in an output", lambda: sources.append("b.txt"), lambda: len(sources))
    calls = make().add_message("assistant", None, tool_calls=[{"name": "search"}]).messages[0]["tool_calls"]
    refused("one agent edited a tool call", lambda: calls[0].update(name="delete"), lambda: calls[0]["name"])


def kept_objects(make: Conversation) -> None:
    """What the caller keeps and edits later does not show in the state."""
    outputs, messages = {"writer": "a draft"}, [{"role": "user", "content": "Why?"}]
    state = make(messages, outputs)
    refused("the caller edited its own dict", lambda: outputs.update(writer="edited"), lambda: state.outputs["writer"])
    refused("the caller appended to its own list", lambda: messages.append({}), lambda: len(state.messages))


def still_reads(make: Conversation) -> None:
    """It reads as before: messages in order, outputs by name, and the old state as it was."""
    old = make().add_message("user", "Why?").add_output("writer", "a draft")
    new = old.add_message("assistant", "Scattering.", name="writer").add_output("critic", "fine")
    said = [message["content"] for message in new.messages]
    assert said == ["Why?", "Scattering."], f"the messages were {said!r}"
    assert dict(new.outputs) == {"writer": "a draft", "critic": "fine"}, f"the outputs were {new.outputs!r}"
    assert len(old.messages) == 1, f"the old state of one message had {len(old.messages)}"
    assert "critic" not in old.outputs, "an output of the new state was in the old one"


def one_hash(make: Conversation) -> None:
    """Two equal states count as one in a set."""
    one, two = (make().add_message("user", "Why?").add_output("reader", {"sources": ["a"]}) for _ in range(2))
    assert len({one, two}) == 1, "there were two of them"


def no_list(make: Conversation) -> None:
    """Nothing can be appended to the messages."""
    messages = make([{"role": "user", "content": "Why?"}]).messages
    refused("one agent appended a message", lambda: messages.append({}), lambda: len(messages))


async def both_ways(link: Link) -> None:
    """Two agents that link a to b and b to a both end."""
    library = Library()
    await library.busy(link, ("a", "b"), ("b", "a"))
    assert len(library.written) == 2, f"{len(library.written)} of 2 links were written"


async def a_ring(link: Link) -> None:
    """Four agents in a ring, a to b, b to c, c to d and d to a, all end."""
    library = Library()
    await library.busy(link, ("a", "b"), ("b", "c"), ("c", "d"), ("d", "a"))
    assert len(library.written) == 4, f"{len(library.written)} of 4 links were written"


async def both_held(link: Link) -> None:
    """Both locks are held while it writes, and free after it."""
    library = Library()
    await link(library.locks, "a", "b", library.write)
    assert not library.unlocked, f"while it wrote, the lock of {', '.join(sorted({*library.unlocked}))} was free"
    assert not library.taken, f"after it the lock of {library.taken} was held"


async def strangers(link: Link) -> None:
    """Agents at other documents do not wait: a to b and c to d take one second."""
    library, began = Library(), asyncio.get_running_loop().time()
    await asyncio.gather(link(library.locks, "a", "b", library.write), link(library.locks, "c", "d", library.write))
    took = asyncio.get_running_loop().time() - began
    assert took == 1, f"they took {took:g} s"


async def direction(link: Link) -> None:
    """It writes from source to target, whichever lock comes first, and returns what write returns."""
    library = Library()
    got = await link(library.locks, "b", "a", library.write)
    assert got == "b to a", f"source b and target a gave {got!r}"


async def itself(link: Link) -> None:
    """A document can be linked to itself."""
    library = Library()
    await link(library.locks, "a", "a", library.write)
    assert library.written == [("a", "a")], f"written was {library.written!r}"


async def errors_free_the_locks(link: Link) -> None:
    """When write fails the caller gets its error, and both locks are free again."""
    library = Library()
    library.error = OSError("disk full")
    got = (await asyncio.gather(link(library.locks, "b", "a", library.write), return_exceptions=True))[0]
    assert got is library.error, f"the caller got {got!r}"
    assert not library.taken, f"the lock of {library.taken} was held for ever"


BOTH = """        object.__setattr__(self, "messages", freeze(self.messages))
        object.__setattr__(self, "outputs", freeze(self.outputs))"""
VIEWS = """        from types import MappingProxyType
        object.__setattr__(self, "messages", tuple(MappingProxyType(m) for m in self.messages))
        object.__setattr__(self, "outputs", MappingProxyType(self.outputs))"""
UNHASHED = """        from types import MappingProxyType

        def deep(value):
            if isinstance(value, (dict, MappingProxyType)):
                return MappingProxyType({key: deep(each) for key, each in value.items()})
            return tuple(map(deep, value)) if isinstance(value, (list, tuple)) else value

        object.__setattr__(self, "messages", deep(self.messages))
        object.__setattr__(self, "outputs", deep(self.outputs))"""

ORDER = "    first, second = sorted([source, target])"
INNER = """        if first == second:
            return await write(source, target)
"""
ALL_LOCKS = """
from contextlib import AsyncExitStack
async def link(locks, source, target, write):
    async with AsyncExitStack() as stack:
        for name in sorted(locks):
            await stack.enter_async_context(locks[name])
        return await write(source, target)
"""
BY_HAND = """
async def link(locks, source, target, write):
    names = sorted({source, target})
    for name in names:
        await locks[name].acquire()
    written = await write(source, target)
    for name in names:
        locks[name].release()
    return written
"""

EXERCISES = {
    "ex-deep": Exercise(
        cases=[messages_stay, outputs_stay, also_inside, kept_objects, still_reads],
        hidden=[one_hash, no_list],
        wrong=[
            swap(BOTH, "        pass"),
            swap(BOTH, "        self.messages, self.outputs = freeze(self.messages), freeze(self.outputs)"),
            swap('        object.__setattr__(self, "messages", freeze(self.messages))\n', ""),
            swap('        object.__setattr__(self, "outputs", freeze(self.outputs))\n', ""),
            swap("freeze(self.outputs)", "dict(self.outputs)"),
            swap("freeze(self.outputs)", "frozenset(self.outputs.items())"),
            swap("freeze(self.messages)", "tuple(self.messages)"),
            swap("freeze(self.messages)", "[freeze(message) for message in self.messages]"),
            swap(BOTH, VIEWS),
            swap(BOTH, UNHASHED),
        ],
        hints=(
            "A copy can be edited, a view shows the original's edits. What makes an equal that cannot change?",
            "freeze, from the imports above, does both: it copies what can be changed and leaves what cannot. Bind "
            "both fields to what it returns.",
            'object.__setattr__(self, "messages", freeze(self.messages)), and the same for outputs.',
        ),
    ),
    "ex-lock-order": Exercise(
        cases=[both_ways, a_ring, both_held, strangers, direction],
        hidden=[itself, errors_free_the_locks],
        wrong=[
            swap(ORDER, "    first, second = source, target"),
            swap(ORDER, "    first, second = sorted([source, target], key=len)"),
            swap(INNER, ""),
            swap("write(source, target)", "write(first, second)"),
            swap("async with locks[second]:", "if True:"),
            swap("            return await write", "            await write"),
            ALL_LOCKS,
            BY_HAND,
        ],
        hints=(
            "Which lock does each of the two agents take first? When would they ask for the same one?",
            "Any order will do, if it is the same for everybody: the names, sorted. And what if both names are one?",
            "first, second = sorted([source, target]); locks[first], and in it locks[second], unless they are one.",
        ),
    ),
}

QUIZ = [
    Question(
        "Ten agents each read an immutable state, wait, and bind the name to a new one. What is kept?",
        right="one change",
        because="every new state was made from the same old one, and the last to bind the name wins",
        wrong={
            "all ten, since nothing can be edited": "nothing was edited; nine new states were replaced",
            "none": "the last one stays",
        },
    ),
    Question(
        "A lock held across a call of 4 s, ten agents. All are done after",
        right="40 s",
        because="the call is what goes one at a time; ten times 4 s",
        wrong={
            "4 s": "that is the call first and the lock after it",
            "13 s": "that is 1 s of the 4 under the lock: 4 + 9",
        },
    ),
    Question(
        "With versions, a change that comes too late",
        right="is refused, and done again from the newest state",
        because="it names the version it has read, and that one is no longer the newest",
        wrong={
            "waits in line": "that is the lock; here nobody waits, and calls are paid for twice instead",
            "is merged with the one before": "only merge joins two states; a version check compares numbers",
        },
    ),
    Question(
        "Two agents take two locks in opposite orders. A test of it is green. What does that say?",
        right="that this order of steps did not hang",
        because="a deadlock needs both to hold their first lock at once; explore or a LockOrder finds it all the same",
        wrong={
            "that there is no deadlock": "late by two seconds was green, and at once was not",
            "that async with has prevented it": "it gives back what is held at the end of the block, which never comes",
        },
    ),
    Question(
        "Ten agents answer independently of each other, and one report is to hold all answers. Cheapest and right is",
        right="call first, then add the answer in one step without await",
        because="the calls overlap, and nothing can come in between the read and the write",
        wrong={
            "a lock around each agent": "right, and ten times as slow",
            "versions, with as many tries as it takes": "right, and 55 calls are paid for where ten would do",
        },
    ),
]
