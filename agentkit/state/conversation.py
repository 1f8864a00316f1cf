"""An immutable conversation: each step returns a new state that shares memory with the old one.

It is safe to use from any thread or task, and adding the hundred-thousandth message costs the same as adding the first:
messages are kept in a `MessageLog` whose versions share one list. Opened by notebook 05.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentkit.base.arguments import function, hashable, instance, items, text
from agentkit.state.frozen import FrozenDict, MessageLog, freeze, thaw

__all__ = ["Conflict", "ConversationState", "Message"]


class Conflict(RuntimeError):
    """Another writer changed `key` first. Nothing was written. Remedy: read it again and redo the change."""

    def __init__(self, message: str, key: Any) -> None:
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[type[Conflict], tuple[str, Any]]:
        return type(self), (str(self), self.key)


class Message(FrozenDict):
    """A message: an immutable dict that also unpacks into its role and its content.

    >>> message = Message(role="assistant", content="Scattering.", name="physicist")
    >>> role, content = message
    >>> role, message["role"], message.content, len(dict(message))
    ('assistant', 'assistant', 'Scattering.', 3)

    A subclass of dict, so `json.dumps` and the openai client accept it, and it equals the dict with the same keys. Only
    iteration differs: it yields the role and the content. Iterate over `keys()` or `items()` to see all of it.
    """

    __slots__ = ()

    @property
    def role(self) -> str:
        """Who said it: `"user"`, `"assistant"` and so on."""
        return self["role"]  # type: ignore[no-any-return]

    @property
    def content(self) -> Any:
        """What was said; None if the message has none, such as one that only calls tools."""
        return self.get("content")

    def __iter__(self) -> Iterator[Any]:
        return iter((self.role, self.content))


class _Messages(MessageLog):
    """A log whose items are `Message`s; takes mappings with a `role`, and pairs of role and content."""

    __slots__ = ()

    @staticmethod
    def _item(item: Any, index: int) -> Message:
        if isinstance(item, Message):
            return item
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
            item = {"role": item[0], "content": item[1]}
        if not isinstance(item, Mapping) or "role" not in item:
            raise ValueError(f"messages[{index}] must be a dict with a 'role', got {item!r:.60}; see to_messages()")
        return Message.of_frozen(freeze(item, f"messages[{index}]"))


@dataclass(frozen=True, slots=True)
class ConversationState:
    """A conversation at one moment: the messages, and the latest output of each agent. It never changes.

    >>> start = ConversationState().add_message("user", "Why is the sky blue?")
    >>> done = start.add_message("assistant", "Scattering.", name="physicist").add_output("physicist", "Scattering.")
    >>> done.messages[-1].content, done.agent_outputs["physicist"], len(start.messages)
    ('Scattering.', 'Scattering.', 1)
    >>> [f"{role}: {content}" for role, content in done.messages]
    ['user: Why is the sky blue?', 'assistant: Scattering.']

    Deeply immutable, hashable, equal by value. Pass `messages` to `client.chat.completions.create` as they are. Adding
    a message takes constant time; adding an output copies the small table of outputs.
    """

    messages: Sequence[Message] = ()
    """The messages, oldest first; each one has `role`, `content` and any other keys it was given."""
    agent_outputs: Mapping[str, Any] = field(default_factory=dict)
    """The latest output of each agent, by name."""

    def __post_init__(self) -> None:
        if not isinstance(self.messages, _Messages):
            messages = items("messages", self.messages, "give a list of dicts with a 'role' and a 'content'")
            object.__setattr__(self, "messages", _Messages(messages))
        if not isinstance(self.agent_outputs, FrozenDict):
            outputs = instance("agent_outputs", self.agent_outputs, Mapping, "give a dict of outputs by agent")
            object.__setattr__(self, "agent_outputs", freeze(dict(outputs), "agent_outputs"))

    def add_message(self, role: str, content: Any, **more: Any) -> ConversationState:
        """Return a state with one more message; `more` is for `name`, `tool_calls` and the like."""
        text("role", role, "such as 'user'", empty=False)
        message = freeze({"role": role, "content": content, **more}, "message")
        return replace(self, messages=self.messages.append(Message.of_frozen(message)))  # type: ignore[attr-defined]

    def add_output(self, agent: str, output: Any) -> ConversationState:
        """Return a state with `output` as the output of `agent`, replacing an earlier one."""
        changed = {**self.agent_outputs, hashable("agent", agent): freeze(output, f"output of {agent!r}")}
        return replace(self, agent_outputs=FrozenDict.of_frozen(changed))

    def merge(
        self, other: ConversationState, *, resolve: Callable[[str, Any, Any], Any] | None = None
    ) -> ConversationState:
        """Join two branches of one conversation.

        >>> base = ConversationState().add_message("user", "Compare.")
        >>> one, two = (base.add_message("assistant", "Done.", name=n).add_output(n, n.upper()) for n in ("a", "b"))
        >>> both = one.merge(two)
        >>> [m.get("name") for m in both.messages], dict(both.agent_outputs)
        ([None, 'a', 'b'], {'a': 'A', 'b': 'B'})

        Messages: this state's, then the other's that are missing here, each in their order; so merge in the order of
        the input, not in the order of finishing. A message that occurs n times on one side and m times on the other
        occurs max(n, m) times in the result, so merging is associative and merging twice changes nothing; use `name=`
        to distinguish two agents that say the same thing. Outputs: those of both; if an agent has two different ones,
        `resolve(agent, mine, theirs)` picks one; without it, `Conflict` is raised.
        """
        instance("other", other, ConversationState)
        function("resolve", resolve, "use None to be told of a conflict", none=True)
        messages = self.messages + self._lacking(other)  # type: ignore[operator]
        return ConversationState(messages, self._joined(other, resolve))

    def to_messages(self) -> list[dict[str, Any]]:
        """Return plain dicts and lists in the format of the chat completions endpoint, as a copy you may change."""
        return [thaw(message) for message in self.messages]

    @classmethod
    def from_messages(
        cls, messages: Iterable[Mapping[str, Any]], agent_outputs: Mapping[str, Any] | None = None
    ) -> ConversationState:
        """Make a state from messages in the chat format; each needs a `role`."""
        return cls(items("messages", messages), {} if agent_outputs is None else agent_outputs)

    def _lacking(self, other: ConversationState) -> list[Any]:
        """List the other's messages missing here, counting repeats: each occurrence is an item of its own."""
        mine, theirs = list(self.messages), list(other.messages)
        same = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a is not b and a != b), None)
        if same is None:  # one is a continuation of the other
            return theirs[len(mine) :]
        unmatched, lacking = Counter(mine[same:]), []
        for message in theirs[same:]:
            if unmatched[message] > 0:
                unmatched[message] -= 1
            else:
                lacking.append(message)
        return lacking

    def _joined(self, other: ConversationState, resolve: Callable[[str, Any, Any], Any] | None) -> dict[str, Any]:
        joined = dict(self.agent_outputs)
        for agent, theirs in other.agent_outputs.items():
            mine = joined.setdefault(agent, theirs)
            if mine == theirs:
                continue
            if resolve is None:
                raise Conflict(
                    f"agent {agent!r} has two outputs, {mine!r:.40} and {theirs!r:.40}; "
                    "give the agents different names, or say which one counts with merge(other, resolve=...)",
                    agent,
                )
            joined[agent] = resolve(agent, mine, theirs)
        return joined

    def __repr__(self) -> str:
        last = f", last {self.messages[-1].get('content')!r:.40}" if self.messages else ""
        who = f", outputs of {', '.join(map(str, self.agent_outputs))}" if self.agent_outputs else ""
        return f"<ConversationState {len(self.messages)} messages{last}{who}>"
