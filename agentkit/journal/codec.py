"""Results as JSON that decodes to equal values, and keys that are the same in every process.

What it holds: `Codec` (results to JSON and back) and `stable_key` (what identifies a task in another process).
Guarantees: a value that would not decode to an equal one is refused, and so is a task whose key would differ between
processes. Decoding never imports code: it creates objects only of the classes it was given.
Strategy: JSON, with a mark for types that JSON does not have: `{"!": "tuple", ...}`. Opened by the decision guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from hashlib import sha256
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from agentkit.agent.reply import Reply
from agentkit.base.redact import redact
from agentkit.report.usage import Usage

__all__ = ["SHORT", "Codec", "stable_json", "stable_key"]

SHORT = 100  # characters of a task that a journal shows
_MARK = "!"
_PLAIN = (str, int, float, bool, type(None))
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_to_sorted_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_UNSTABLE = re.compile(r" at 0x[0-9a-fA-F]+|\.\.\.|…")  # an address, or a repr that leaves something out


class Codec:
    """Encodes results as JSON, and decodes them.

    >>> codec = Codec()
    >>> codec.encode(("a", Usage(1, 900, 100)))
    '{"!":"tuple","of":["a",{"!":"Usage","requests":1,"input_tokens":900,"output_tokens":100}]}'
    >>> codec.decode(codec.encode(("a", Usage(1, 900, 100))))
    ('a', Usage(requests=1, input_tokens=900, output_tokens=100))

    Handles what JSON has, tuples, dicts with keys of any type, `Reply`, `Usage` and the dataclasses in `types`.
    """

    def __init__(self, types: Iterable[type[Any]] = ()) -> None:
        self._types: dict[str, type[Any]] = {"Reply": Reply, "Usage": Usage}
        for cls in types:
            if not isinstance(cls, type) or not is_dataclass(cls):
                raise TypeError(f"types must be dataclasses, got {cls!r}; for other results return a dict")
            if self._types.setdefault(cls.__name__, cls) is not cls:
                raise ValueError(f"types must have different names, got {cls.__name__} twice; rename one of them")
        self.decode: Callable[[str], Any] = json.JSONDecoder(object_hook=self._restored).decode
        """Returns the value that was encoded as a line."""

    def encode(self, value: Any) -> str:
        """Return one line of JSON; raises `TypeError` for a value that would not decode to an equal one."""
        if type(value) is Reply and type(usage := value.usage) is Usage:  # nearly all results: a third of the time
            calls, read, written, number = usage.requests, usage.input_tokens, usage.output_tokens, value.request_id
            if type(calls) is type(read) is type(written) is int:
                try:
                    return (
                        f'{{"!":"Reply","text":{quoted(value.text)},"usage":{{"!":"Usage","requests":{calls},'
                        f'"input_tokens":{read},"output_tokens":{written}}},"model":{quoted(value.model)},'
                        f'"finish_reason":{quoted(value.finish_reason)},'
                        f'"request_id":{"null" if number is None else quoted(number)}}}'
                    )
                except TypeError:  # the endpoint left something out
                    pass
        return quoted(value) if type(value) is str else _to_json(self._marked(value))

    def _marked(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is list:
            return [self._marked(item) for item in value]
        if kind is tuple:
            return {_MARK: "tuple", "of": [self._marked(item) for item in value]}
        if kind is dict:
            if _MARK not in value and all(type(key) is str for key in value):
                return {key: self._marked(item) for key, item in value.items()}
            return {_MARK: "dict", "of": [[self._marked(key), self._marked(item)] for key, item in value.items()]}
        if self._types.get(kind.__name__) is kind:
            return {_MARK: kind.__name__} | {f.name: self._marked(getattr(value, f.name)) for f in fields(kind)}
        if is_dataclass(kind):
            raise TypeError(f"cannot store a {kind.__name__}; name it: Journal(..., types=[{kind.__name__}])")
        raise TypeError(f"cannot store a {kind.__name__}; return a text, numbers, lists, dicts or a dataclass")

    def _restored(self, found: dict[str, Any]) -> Any:
        if _MARK not in found:
            return found
        name = found.pop(_MARK)
        if name == "tuple":
            return tuple(found["of"])
        if name == "dict":
            return {key: item for key, item in found["of"]}  # noqa: C416
        if name not in self._types:
            raise ValueError(f"a stored result is a {name}; name that class: Journal(..., types=[{name}])")
        cls = self._types[name]
        result = object.__new__(cls)  # equal to the original, whatever __init__ would do
        for key, item in found.items():
            object.__setattr__(result, key, item)
        return result


def stable_json(task: Any) -> str:
    r"""Return a string that is the same for equal tasks in every process; raises `TypeError` if there is none.

    >>> stable_json({"b": 1, "a": {"x", "y"}})
    '{"a":{"!":"set","of":["\\"x\\"","\\"y\\""]},"b":1}'
    """
    kind = type(task)
    return quoted(task) if kind is str else str(task) if kind is int else _to_sorted_json(_stable(task))


def stable_key(task: Any, whose: str = "") -> str:
    """Return what identifies a task: a short string itself; otherwise 32 hexadecimal digits of SHA-256.

    >>> stable_key("What is a race condition?"), stable_key(["What", "why"])
    ('What is a race condition?', '05b8eaaf544c696e8bd40f6a5f4d51c6')

    `whose` is part of the hash, so the same task has a different key for another agent.
    """
    if type(task) is str:
        if not whose and len(task) <= SHORT and "\n" not in task and redact(task) == task:
            return task
        text = quoted(task)
    else:
        text = stable_json(task)
    return sha256(f"{whose}\n{text}".encode()).hexdigest()[:32]


def _stable(task: Any) -> Any:
    kind = type(task)
    if kind in _PLAIN:
        return task
    if kind is list or kind is tuple:
        return [_stable(item) for item in task]
    if isinstance(task, set | frozenset):
        return {_MARK: "set", "of": sorted(stable_json(item) for item in task)}
    if kind is dict:
        if all(type(key) is str for key in task):
            return {key: _stable(item) for key, item in task.items()}
        return {_MARK: "dict", "of": sorted([stable_json(key), _stable(item)] for key, item in task.items())}
    if is_dataclass(task):
        return {_MARK: kind.__qualname__} | {f.name: _stable(getattr(task, f.name)) for f in fields(task)}
    said = repr(task)
    if _UNSTABLE.search(said):
        what = f"a task of type {kind.__name__}"
        raise TypeError(f"{what} has no stable key ({said:.60}); give Journal(..., key=function)")
    return {_MARK: said}
