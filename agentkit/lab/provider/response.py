"""What leaves on the wire: answers as the two endpoints send them, whole or streamed.

What it holds: `Completion`, one answer with what it cost, and the four shapes it can take: a chat completion, a chat
stream, a response, a response stream.
Guarantee: the shapes of the public API, field by field; ids depend on the request alone, so runs can be compared.
Strategy: a stream is a list of events, one list entry per piece of text; when each is sent is not decided here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agentkit.lab.provider.request import Request
from agentkit.limits import estimate_tokens

__all__ = [
    "Completion",
    "chat_body",
    "chat_events",
    "make_completion",
    "response_body",
    "response_events",
    "sse",
    "to_json",
]

_encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: `json.dumps` would make one per call

EPOCH = 1_767_225_600
"""2026-01-01: what `created` counts from, so that a run in virtual time says the same every time."""


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer and what it cost."""

    request: Request
    """What was asked."""
    id: str
    """A hash of the request and how often it came before."""
    created: int
    """Seconds of the provider's clock, on top of `EPOCH`."""
    text: str
    """What the model says."""
    cut_short: bool
    """Whether `max_tokens` ended it."""
    output_tokens: int
    """Tokens of one answer: its text, and the reasoning nobody sees."""
    with_usage: bool = True
    """Whether the answer says what it cost."""

    @property
    def pieces(self) -> list[str]:
        """The text in tokens."""
        return [self.text[i : i + 4] for i in range(0, len(self.text), 4)]

    @property
    def finish_reason(self) -> str:
        """`length` where the cap was hit, otherwise `stop`."""
        return "length" if self.cut_short else "stop"

    def usage(self) -> dict[str, Any] | None:
        """What it cost, in the words of its endpoint."""
        if not self.with_usage:
            return None
        asked, made = self.request.prompt_tokens, self.output_tokens * self.request.n
        reasoning = made - estimate_tokens(self.text) * self.request.n
        if self.request.endpoint == "chat":
            return {
                "prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {
                    "reasoning_tokens": reasoning, "audio_tokens": 0,
                    "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
                },
            }  # fmt: skip
        return {
            "input_tokens": asked, "output_tokens": made, "total_tokens": asked + made,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": reasoning},
        }  # fmt: skip


def make_completion(request: Request, key: str, created: float, text: str, output_tokens: int) -> Completion:
    """An answer of `text`, ended by the request's `stop` texts and its cap."""
    for stop in request.stop:
        text = text.split(stop, 1)[0]
    cut_short = request.max_tokens is not None and estimate_tokens(text) > request.max_tokens
    if cut_short and request.max_tokens is not None:
        text = text[: 4 * request.max_tokens]
    return Completion(request, key, EPOCH + int(created), text, cut_short, output_tokens)


def chat_body(completion: Completion) -> dict[str, Any]:
    """A chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": completion.text, "refusal": None, "annotations": []}
    choices = [
        {"index": i, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}
        for i in range(completion.request.n)
    ]
    body = _chat_frame(completion, "chat.completion", choices)
    if completion.with_usage:
        body["usage"] = completion.usage()
    return body


def chat_events(completion: Completion) -> tuple[list[bytes], list[list[bytes]], list[bytes]]:
    """A chat stream: its opening, one list of events per piece of text, and its end."""
    request, ends_with_usage = completion.request, completion.request.include_usage and completion.with_usage
    padding = random.Random(completion.id) if request.obfuscate else None

    def chunk(delta: dict[str, str], reason: str | None = None) -> list[bytes]:
        return [sse(frame) for frame in frames(delta, reason)]

    def frames(delta: dict[str, str], reason: str | None) -> Iterator[dict[str, Any]]:
        for i in range(request.n):
            choice = {"index": i, "delta": delta, "logprobs": None, "finish_reason": reason}
            frame = _chat_frame(completion, "chat.completion.chunk", [choice])
            if ends_with_usage:
                frame["usage"] = None
            if padding:
                frame["obfuscation"] = f"{padding.getrandbits(48):012x}"[len(delta.get("content", "")) :]
            yield frame

    end = chunk({}, completion.finish_reason)
    if ends_with_usage:
        end.append(sse(_chat_frame(completion, "chat.completion.chunk", []) | {"usage": completion.usage()}))
    opening = chunk({"role": "assistant", "content": ""})
    return opening, [chunk({"content": piece}) for piece in completion.pieces], [*end, b"data: [DONE]\n\n"]


def _chat_frame(completion: Completion, kind: str, choices: list[Any]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{completion.id}", "object": kind, "created": completion.created,
        "model": completion.request.model, "choices": choices,
        "service_tier": "default", "system_fingerprint": "fp_lab",
    }  # fmt: skip


def response_body(completion: Completion, status: str = "", output: list[Any] | None = None) -> dict[str, Any]:
    """A response; while it is streamed, one that is not complete yet."""
    done = output is None
    status = status or ("incomplete" if completion.cut_short else "completed")
    body = {
        "id": f"resp_{completion.id}", "object": "response", "created_at": completion.created, "status": status,
        "background": False, "error": None, "instructions": completion.request.instructions or None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "max_output_tokens": completion.request.max_tokens, "metadata": {}, "model": completion.request.model,
        "output": [_output_item(completion, status)] if output is None else output,
        "parallel_tool_calls": True, "previous_response_id": None, "temperature": 1.0,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "truncation": "disabled",
    }  # fmt: skip
    if not done or completion.with_usage:
        body["usage"] = completion.usage() if done else None
    return body


def response_events(completion: Completion) -> tuple[list[bytes], list[list[bytes]], list[bytes]]:
    """A response stream: its opening, one list of events per piece of text, and its end."""
    number = iter(range(10**9))
    where = {"item_id": f"msg_{completion.id}", "output_index": 0, "content_index": 0}

    def event(kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": next(number), **fields}
        return f"event: {kind}\n".encode() + sse(data)

    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    full, item = empty | {"text": completion.text}, _output_item(completion, "completed")
    begun = response_body(completion, "in_progress", [])
    opening = [
        event("response.created", response=begun),
        event("response.in_progress", response=begun),
        event("response.output_item.added", output_index=0, item=item | {"status": "in_progress", "content": []}),
        event("response.content_part.added", **where, part=empty),
    ]
    pieces = [[event("response.output_text.delta", **where, delta=text, logprobs=[])] for text in completion.pieces]
    last = "response.incomplete" if completion.cut_short else "response.completed"
    end = [
        event("response.output_text.done", **where, text=completion.text, logprobs=[]),
        event("response.content_part.done", **where, part=full),
        event("response.output_item.done", output_index=0, item=item),
        event(last, response=response_body(completion)),
    ]
    return opening, pieces, end


def _output_item(completion: Completion, status: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": completion.text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": f"msg_{completion.id}", "role": "assistant", "status": status, "content": [part]}


def to_json(data: dict[str, Any]) -> bytes:
    """Compact JSON, in ASCII: lone surrogates, which UTF-8 cannot hold, stay escaped."""
    return _encode(data).encode()


def sse(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + to_json(data) + b"\n\n"
