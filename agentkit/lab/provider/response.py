"""What goes out over the wire: a completion as either endpoint sends it, whole or streamed, and when each byte leaves.

What it holds: `Completion`, what the model says and what it cost; the four shapes it can take (a chat completion, a
chat stream, a response, a response stream); `deliver`, which makes a `Delivery` of it: bytes and their times.
Guarantee: the shapes of the public API, field by field. Ids depend on the request alone, so runs can be compared.
Pure: the same completion, draw and fault give the same bytes at the same times, in process and over loopback.
Strategy: a delivery is a list of `(seconds to wait, bytes)`: one entry for a whole answer, one per piece of text for
a stream, evenly spaced over the writing time. A fault edits the list halfway; None stands for a cut connection.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from agentkit.lab.provider.faults import Fault
from agentkit.lab.provider.latency import Draw
from agentkit.lab.provider.request import Request
from agentkit.limits import estimate_tokens

__all__ = ["EPOCH", "Completion", "Delivery", "deliver", "make_completion"]

Frames = list[tuple[float, bytes | None]]

_PAGE = b"<html><body>The service is temporarily unavailable.</body></html>"

_encode = json.JSONEncoder(separators=(",", ":")).encode  # built once: `json.dumps` would build one per call

EPOCH = 1_767_225_600
"""2026-01-01: what `created` counts from, so that a run in virtual time gives the same value every time."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model says in answer to a request, and what it cost."""

    request: Request
    """What was asked."""
    id: str
    """A hash of the request, followed by the number of equal requests accepted before."""
    created: int
    """Seconds of the provider's clock, added to `EPOCH`."""
    text: str
    """What the model says."""
    cut_short: bool
    """Whether `max_tokens` ended it."""
    output_tokens: int
    """Tokens of one answer: its text and its hidden reasoning."""
    with_usage: bool = True
    """Whether the answer includes its usage."""

    @property
    def pieces(self) -> list[str]:
        """The text split into tokens."""
        return [self.text[i : i + 4] for i in range(0, len(self.text), 4)]

    @property
    def finish_reason(self) -> str:
        """`length` if the cap was reached, otherwise `stop`."""
        return "length" if self.cut_short else "stop"

    def usage(self) -> dict[str, Any] | None:
        """The usage object, in the shape of its endpoint."""
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
    """A completion of `text`, truncated at the request's `stop` sequences and its token cap."""
    for stop in request.stop:
        text = text.split(stop, 1)[0]
    cut_short = request.max_tokens is not None and estimate_tokens(text) > request.max_tokens
    if cut_short and request.max_tokens is not None:
        text = text[: 4 * request.max_tokens]
    return Completion(request, key, EPOCH + int(created), text, cut_short, output_tokens)


@dataclass(slots=True)
class Delivery:
    """The bytes of an answer and when they leave."""

    content_type: str
    """The `content-type` header."""
    length: int | None
    """The `content-length`; None for a stream."""
    frames: Frames
    """`(seconds to wait, bytes)`, with None instead of bytes to close the connection without an answer."""


def deliver(completion: Completion, draw: Draw, fault: Fault | None, in_flight: int) -> Delivery:
    """The bytes of a completion and their times, with `in_flight` requests running, this one included."""
    kind = fault.kind if fault else ""
    if kind == "no_usage":
        completion = replace(completion, with_usage=False)
    stream = completion.request.stream
    frames = (_stream if stream else _whole)(completion, draw, in_flight, kind)
    length = None if stream else sum(len(data or b"") for _, data in frames)
    if fault:
        frames = _damaged(frames, fault)
    usual = "text/event-stream; charset=utf-8" if stream else "application/json"
    return Delivery("text/html; charset=utf-8" if kind == "wrong_content_type" else usual, length, frames)


def _whole(completion: Completion, draw: Draw, in_flight: int, kind: str) -> Frames:
    body = _chat_body(completion) if completion.request.endpoint == "chat" else _response_body(completion)
    data = _to_json(body)
    seconds, middle = draw.seconds(in_flight), len(data) // 2
    if kind == "malformed_json":
        return [(seconds, data[:middle])]
    if kind == "wrong_content_type":
        return [(seconds, _PAGE)]
    if kind in ("stall", "cut_stream"):
        return [(seconds, data[:middle]), (0.0, data[middle:])]
    return [(seconds, data)]


def _stream(completion: Completion, draw: Draw, in_flight: int, kind: str) -> Frames:
    make = _chat_events if completion.request.endpoint == "chat" else _response_events
    if kind == "wrong_content_type":
        return [(draw.ttft, _PAGE)]
    opening, pieces, end = make(completion)
    if kind == "no_done":
        end = end[:-1]
    gap = draw.writing(in_flight) / max(1, len(pieces))
    frames: Frames = [(draw.ttft, b"".join(opening)), *((gap, b"".join(events)) for events in pieces)]
    if kind == "malformed_json":
        frames.insert(1 + len(pieces) // 2, (0.0, b'data: {"id": "chatcmpl-\n\n'))
    return [*frames, (0.0 if pieces else gap, b"".join(end))]


def _damaged(frames: Frames, fault: Fault) -> Frames:
    first, middle = frames[0], (len(frames) + 1) // 2
    match fault.kind:
        case "slow_start":
            return [(first[0] + fault.seconds, first[1]), *frames[1:]]
        case "cut":
            return [(first[0], None)]
        case "stall":
            return [*frames[:middle], (fault.seconds, b""), *frames[middle:]]
        case "cut_stream":
            return [*frames[:middle], (0.0, None)]
        case "stream_error" if len(frames) > 1:
            error = {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}
            return [*frames[:middle], (0.0, _sse({"error": error}))]
    return frames


def _chat_body(completion: Completion) -> dict[str, Any]:
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


def _chat_events(completion: Completion) -> tuple[list[bytes], list[list[bytes]], list[bytes]]:
    """A chat stream: opening events, one list of events per piece of text, closing events."""
    request, ends_with_usage = completion.request, completion.request.include_usage and completion.with_usage
    padding = random.Random(completion.id) if request.obfuscate else None

    def chunk(delta: dict[str, str], reason: str | None = None) -> list[bytes]:
        return [_sse(frame) for frame in frames(delta, reason)]

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
        end.append(_sse(_chat_frame(completion, "chat.completion.chunk", []) | {"usage": completion.usage()}))
    opening = chunk({"role": "assistant", "content": ""})
    return opening, [chunk({"content": piece}) for piece in completion.pieces], [*end, b"data: [DONE]\n\n"]


def _chat_frame(completion: Completion, kind: str, choices: list[Any]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{completion.id}", "object": kind, "created": completion.created,
        "model": completion.request.model, "choices": choices,
        "service_tier": "default", "system_fingerprint": "fp_lab",
    }  # fmt: skip


def _response_body(completion: Completion, status: str = "", output: list[Any] | None = None) -> dict[str, Any]:
    """A response; with `output`, the incomplete one that a stream begins with."""
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


def _response_events(completion: Completion) -> tuple[list[bytes], list[list[bytes]], list[bytes]]:
    """A response stream: opening events, one list of events per piece of text, closing events."""
    number = iter(range(10**9))
    where = {"item_id": f"msg_{completion.id}", "output_index": 0, "content_index": 0}

    def event(kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": next(number), **fields}
        return f"event: {kind}\n".encode() + _sse(data)

    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    full, item = empty | {"text": completion.text}, _output_item(completion, "completed")
    begun = _response_body(completion, "in_progress", [])
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
        event(last, response=_response_body(completion)),
    ]
    return opening, pieces, end


def _output_item(completion: Completion, status: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": completion.text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": f"msg_{completion.id}", "role": "assistant", "status": status, "content": [part]}


def _to_json(data: dict[str, Any]) -> bytes:
    """Compact JSON, in ASCII: lone surrogates, which UTF-8 cannot hold, stay escaped."""
    return _encode(data).encode()


def _sse(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + _to_json(data) + b"\n\n"
