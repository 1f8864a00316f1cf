"""The file format of saved reports: JSON lines, with credentials redacted.

Every report can be stored: a value that JSON cannot hold becomes its repr, under a key that says so. Decoding never
imports code and creates no objects but those of this package; a file that is incomplete is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from math import inf, isfinite
from typing import Any

from agentkit.base.redact import redact
from agentkit.report.outcome import Attempt, Outcome, Span, StoredError, reason_of, shown
from agentkit.report.stalls import Stall
from agentkit.report.usage import Usage

__all__ = ["StoredRepr", "decode", "encode"]

VERSION = 1


class StoredRepr(str):
    """The repr of a value that JSON could not hold, read from a saved report."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<stored repr: {self}>"


def encode(about: Mapping[str, Any], outcomes: Iterable[tuple[Outcome[Any, Any], Usage | None]]) -> str:
    """Return the lines of a file: a header, then one line per outcome, given with what its calls used."""
    rows = [_row(outcome, usage) for outcome, usage in outcomes]
    header = {
        "agentkit_report": VERSION,
        "tasks": len(rows),
        "stopped": about["stopped"] and _redacted(about["stopped"]),
        "limits": [[at, limit if isfinite(limit) else None] for at, limit in about["limits"]],
        "stalls": [asdict(stall) for stall in about["stalls"]],
        **_held("aggregated", about["aggregated"]),
    }
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in (header, *rows))


def decode(text: str, path: str) -> tuple[list[Outcome[Any, Any]], dict[str, Any]]:
    """Return the outcomes and the header of a file; `path` is its name in error messages."""
    try:
        about, *rows = [json.loads(line) for line in text.splitlines()]
        if about["agentkit_report"] != VERSION:
            raise ValueError(f"it has version {about['agentkit_report']}, this is version {VERSION}")
        if len(rows) != about["tasks"]:
            raise ValueError(f"it has {len(rows)} of {about['tasks']} tasks")
        about["limits"] = [(at, inf if limit is None else limit) for at, limit in about["limits"]]
        about["stalls"] = [Stall(**stall) for stall in about["stalls"]]
        return [_outcome(row) for row in rows], {**about, "aggregated": _value(about, "aggregated")}
    except (ValueError, TypeError, KeyError) as error:
        said = f"{type(error).__name__}: {error}" if isinstance(error, KeyError | TypeError) else error
        raise ValueError(f"path must name a whole file that Report.save wrote, got {path}: {said}") from None


def _row(outcome: Outcome[Any, Any], usage: Usage | None) -> dict[str, Any]:
    log = outcome.attempt_log
    return {
        "task_id": outcome.task_id,
        **_held("task", outcome.task),
        "status": outcome.status,
        **_held("result", outcome.result),
        "error": _reason(outcome.error),
        "submitted": outcome.submitted,
        "started": outcome.started,
        "finished": outcome.finished,
        "attempts": None if log is None else [[a.started, a.finished, _reason(a.error)] for a in log],
        "spans": [[_redacted(span.name), span.started, span.finished] for span in outcome.spans],
        "usage": None if usage is None else asdict(usage),
    }


def _outcome(row: dict[str, Any]) -> Outcome[Any, Any]:
    log, usage, times = row["attempts"], row["usage"], (row["submitted"], row["started"], row["finished"])
    attempts = None if log is None else tuple(Attempt(started, finished, _error(why)) for started, finished, why in log)
    said = row["task_id"], _value(row, "task"), row["status"], _value(row, "result"), _error(row["error"])
    spans = [Span(*span) for span in row["spans"]]
    return Outcome(*said, *times, attempts, None if usage is None else Usage(**usage), spans)


def _reason(error: BaseException | None) -> str | None:
    return None if error is None else _redacted(reason_of(error))


def _error(reason: str | None) -> StoredError | None:
    return None if reason is None else StoredError(reason)


def _held(name: str, value: object) -> dict[str, Any]:
    """Return a value under its name, or its repr under a name that says so."""
    if not isinstance(value, StoredRepr):
        try:
            return {name: _plain(value)}
        except Exception:  # JSON cannot hold it, or a method of its own raised
            value = shown(value, repr)
    return {f"{name}_repr": _redacted(value)}


def _value(row: dict[str, Any], name: str) -> Any:
    return row[name] if name in row else StoredRepr(row[f"{name}_repr"])


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it, its strings redacted; raises `TypeError` if JSON cannot hold it."""
    if value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, str):
        return _redacted(value)
    if type(value) in (list, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value.keys()):  # noqa: SIM118
        return {_redacted(key): _named(key, item) for key, item in value.items()}
    raise TypeError(type(value).__name__)


def _named(key: str, value: object) -> Any:
    """Return the value of a dict's key, which may itself say that the value is a credential."""
    secret = isinstance(value, str) and _redacted(f"{key}={value}") == f"{_redacted(key)}=[hidden]"
    return "[hidden]" if secret else _plain(value)


def _redacted(text: str) -> str:
    return redact(text, 2 * len(text))  # `[hidden]` may be longer than what it replaces
