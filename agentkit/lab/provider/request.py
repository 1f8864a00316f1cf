"""What arrives on the wire: a request read, checked and measured.

What it holds: `Request`, and `read_request`, which parses bytes or raises the `ApiError` the API would send.
Guarantee: whatever the bytes, the outcome is a valid `Request` or an error of the API's own shape.
Strategy: only the fields that matter here are read (model, messages or input, the token cap, n, stop, stream); others
are accepted and ignored, as a lenient gateway does.
A token is four characters: a good approximation for English, and easy to check by hand.
Not reproduced: tool calls, images, audio, stored responses, organizations and projects, HTTP/2, TLS.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentkit.lab.provider.errors import ERRORS, ApiError, bad_request
from agentkit.limits import estimate_tokens

__all__ = ["CONTEXT_WINDOW", "MAX_BODY", "Request", "check_key", "read_request"]

CONTEXT_WINDOW = 128_000
"""The most tokens of a prompt and its answer together."""
MAX_BODY = 4 * 2**20
"""The most bytes of a request."""

_JSON_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request that passed all checks; the argument of an `answer=` function."""

    endpoint: Literal["chat", "responses"]
    """Which endpoint was called."""
    model: str
    """The model requested."""
    messages: tuple[tuple[str, str], ...]
    """`(role, text)` pairs."""
    max_tokens: int | None
    """The cap on the answer's tokens, if any."""
    n: int
    """The number of answers requested."""
    stop: tuple[str, ...]
    """Strings at which an answer ends."""
    stream: bool
    """Whether the answer is streamed."""
    include_usage: bool
    """Whether a stream ends with its usage."""
    obfuscate: bool
    """Whether a stream's events are padded to hide the length of their text."""
    seed: int | None
    """The request's own seed, part of its fingerprint."""

    @property
    def prompt(self) -> str:
        """The last user message."""
        return next((text for role, text in reversed(self.messages) if role == "user"), "")

    @property
    def instructions(self) -> str:
        """The text of all system and developer messages."""
        return "\n".join(text for role, text in self.messages if role in ("system", "developer"))

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all messages together."""
        return sum(estimate_tokens(text) for _, text in self.messages)

    def fingerprint(self) -> str:
        """A short hash of the content; equal requests have the same one, streamed or not."""
        content = (self.model, self.messages, self.max_tokens, self.n, self.stop, self.seed)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def read_request(
    endpoint: Literal["chat", "responses"], authorization: str, body: bytes, models: Sequence[str]
) -> Request:
    """Parse what arrived into a `Request`, or raise the `ApiError` that says what is wrong with it."""
    check_key(authorization)
    if len(body) > MAX_BODY:
        raise bad_request(f"Request body too large: at most {MAX_BODY} bytes.", code="request_too_large", status=413)
    fields = _read_json(body)
    model = _get(fields, "model", str)
    if not model:
        raise bad_request("you must provide a model parameter", "model", "missing_required_parameter")
    if model not in models:
        raise ApiError("not_found", ERRORS["not_found"][3].format(model=model[:100]))
    if endpoint == "chat":
        messages, cap = _messages(fields, "messages"), "max_completion_tokens"
        cap = cap if fields.get(cap) is not None else "max_tokens"
    else:
        messages, cap = _response_messages(fields), "max_output_tokens"
    options = _get(fields, "stream_options", dict) or {}
    n = _whole(fields, "n", 128)
    request = Request(
        endpoint, model, messages, _whole(fields, cap, CONTEXT_WINDOW), 1 if n is None else n, _stop(fields),
        bool(_get(fields, "stream", bool)), bool(_get(options, "include_usage", bool)),
        _get(options, "include_obfuscation", bool) is not False, _get(fields, "seed", int),
    )  # fmt: skip
    _check_length(request)
    return request


def check_key(authorization: str) -> None:
    """Accept any key, except an empty one or one that starts with "bad", which gets the API's error."""
    scheme, _, key = authorization.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise ApiError("invalid_api_key", "You didn't provide an API key. Send it as `Authorization: Bearer KEY`.")
    if key.startswith("bad"):
        masked = key[:3] + "*" * 8 + key[-4:] if len(key) > 8 else key[:3] + "***"
        raise ApiError("invalid_api_key", ERRORS["invalid_api_key"][3].format(key=masked))


def _check_length(request: Request) -> None:
    wanted = request.prompt_tokens + (request.max_tokens or 0)
    if wanted > CONTEXT_WINDOW:
        raise bad_request(
            f"This model's maximum context length is {CONTEXT_WINDOW} tokens. However, you requested {wanted} tokens. "
            "Please reduce the length of the messages.",
            "messages" if request.endpoint == "chat" else "input",
            "context_length_exceeded",
        )


def _read_json(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested too deeply
        hint = "(HINT: This likely means you aren't using your HTTP library correctly. Expected a JSON payload.)"
        raise bad_request(f"We could not parse the JSON body of your request. {hint}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise _wrong_type("body", "an object", fields)
    return fields


def _get(fields: dict[str, Any], name: str, kind: type[Any]) -> Any:
    """The field, checked for its type; None if it is absent or null."""
    value = fields.get(name)
    if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value
    raise _wrong_type(name, _JSON_NAMES[kind], value)


def _whole(fields: dict[str, Any], name: str, most: int) -> int | None:
    value: int | None = _get(fields, name, int)
    if value is None:
        return None
    for broken, what, sign, bound in ((value < 1, "below min", ">=", 1), (value > most, "above max", "<=", most)):
        if broken:
            raise bad_request(
                f"Invalid '{name}': integer {what}imum value. Expected a value {sign} {bound}, "
                f"but got {str(value)[:40]} instead.",
                name,
                f"integer_{what.replace(' ', '_')}_value",
            )
    return value


def _messages(fields: dict[str, Any], name: str) -> tuple[tuple[str, str], ...]:
    found = _get(fields, name, list)
    if not found:
        missing = "Missing required parameter" if found is None else "Invalid empty array"
        raise bad_request(f"{missing}: '{name}'.", name, "missing_required_parameter")
    pairs = []
    for index, message in enumerate(found):
        where = f"{name}[{index}]"
        if not isinstance(message, dict):
            raise _wrong_type(where, "an object", message)
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant", "tool", "function"):
            raise bad_request(f"Invalid value for '{where}.role': {str(role)[:40]!r}.", f"{where}.role")
        pairs.append((role, _text(message.get("content"), f"{where}.content")))
    return tuple(pairs)


def _response_messages(fields: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    if fields.get("previous_response_id") is not None:
        raise bad_request("Responses are not stored here: send the whole conversation.", "previous_response_id")
    first = _get(fields, "instructions", str)
    before = (("developer", first),) if first else ()
    if isinstance(fields.get("input"), str):
        return (*before, ("user", fields["input"]))
    return (*before, *_messages(fields, "input"))


def _text(content: Any, where: str) -> str:
    """The text of a message: a string, or the text parts of a list."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise _wrong_type(where, "a string or an array", content)
    texts = [part.get("text", "") for part in content if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _stop(fields: dict[str, Any]) -> tuple[str, ...]:
    stop = fields.get("stop")
    found = (stop,) if isinstance(stop, str) else tuple(stop or ()) if isinstance(stop, list | None) else (stop,)
    if not all(isinstance(text, str) for text in found):
        raise _wrong_type("stop", "a string or an array of strings", stop)
    return tuple(text for text in found if text)


def _wrong_type(name: str, expected: str, got: object) -> ApiError:
    kind = _JSON_NAMES.get(type(got), "a number" if isinstance(got, float) else "null")
    return bad_request(f"Invalid type for '{name}': expected {expected}, but got {kind} instead.", name, "invalid_type")
