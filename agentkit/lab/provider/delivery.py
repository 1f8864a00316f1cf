"""How an answer travels: which bytes leave when, and how a fault damages them.

What it holds: `Job`, a request that was accepted; `Delivery`, and `deliver`, which makes one of a job.
Guarantee: pure; the same job gives the same bytes at the same times in both shells.
Strategy: an answer is a list of `(seconds to wait, bytes)`. A whole answer has one entry, a stream one per piece of
text, evenly spaced over the time the writing takes. A fault edits the list half-way; None stands for a cut.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agentkit.lab.provider.call_log import CallRecord, ProviderState
from agentkit.lab.provider.faults import Fault
from agentkit.lab.provider.latency import Draw
from agentkit.lab.provider.response import (
    Completion,
    chat_body,
    chat_events,
    response_body,
    response_events,
    sse,
    to_json,
)

__all__ = ["Delivery", "Job", "deliver"]

Frames = list[tuple[float, bytes | None]]

_PAGE = b"<html><body>The service is temporarily unavailable.</body></html>"


@dataclass(frozen=True, slots=True)
class Job:
    """A request that was accepted, and all that chance decided about it."""

    call: CallRecord
    """Its row in the log."""
    completion: Completion
    """What it will be told."""
    draw: Draw
    """What it will cost in tokens and seconds."""
    fault: Fault | None
    """How its answer will be damaged, if at all."""
    quota: dict[str, str]
    """The rate-limit headers as they were when it was accepted."""
    epoch: ProviderState
    """The run it belongs to."""


@dataclass(slots=True)
class Delivery:
    """The bytes of an answer and when they leave."""

    content_type: str
    """The header of that name."""
    length: int | None
    """The `content-length`; None for a stream."""
    frames: Frames
    """`(seconds to wait, bytes)`, or None for bytes to close the connection without a word."""


def deliver(job: Job, in_flight: int) -> Delivery:
    """The answer of a job that starts with `in_flight` requests at work, itself included."""
    completion, fault, kind = job.completion, job.fault, job.fault.kind if job.fault else ""
    if kind == "no_usage":
        completion = replace(completion, with_usage=False)
    stream = completion.request.stream
    frames = (_stream if stream else _whole)(completion, job.draw, in_flight, kind)
    length = None if stream else sum(len(data or b"") for _, data in frames)
    if fault:
        frames = _damaged(frames, fault)
    usual = "text/event-stream; charset=utf-8" if stream else "application/json"
    return Delivery("text/html; charset=utf-8" if kind == "wrong_content_type" else usual, length, frames)


def _whole(completion: Completion, draw: Draw, in_flight: int, kind: str) -> Frames:
    body = chat_body(completion) if completion.request.endpoint == "chat" else response_body(completion)
    data = to_json(body)
    seconds, middle = draw.seconds(in_flight), len(data) // 2
    if kind == "malformed_json":
        return [(seconds, data[:middle])]
    if kind == "wrong_content_type":
        return [(seconds, _PAGE)]
    if kind in ("stall", "cut_stream"):
        return [(seconds, data[:middle]), (0.0, data[middle:])]
    return [(seconds, data)]


def _stream(completion: Completion, draw: Draw, in_flight: int, kind: str) -> Frames:
    make = chat_events if completion.request.endpoint == "chat" else response_events
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
            return [*frames[:middle], (0.0, sse({"error": error}))]
    return frames
