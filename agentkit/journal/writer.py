"""What one run does with a journal: it skips the tasks that are done and records each outcome.

What it holds: `JournalWriter`, which `Journal.writer` makes for an executor, and `work_of`.
Guarantees: a task is looked up before it takes a slot. Its record is written synchronously when the outcome is set.
Concurrent runs on one `Journal` never do the same task twice: the second one gets a `JournalError`.
Strategy: equal tasks of one run are told apart by counting them, so asking the same question five times gives five
records. Opened by the decision guide.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from agentkit.base.hooks import called
from agentkit.base.redact import redact
from agentkit.journal.codec import SHORT, stable_json, stable_key
from agentkit.journal.file import JournalError
from agentkit.journal.index import JournalIndex
from agentkit.report.outcome import Outcome

__all__ = ["JournalWriter", "work_of"]


class JournalWriter:
    """What one run skips because of a journal, and writes into it.

    Call `open` when the run begins and `close` when it ends; `recall` for each task before it starts, and `record` for
    each outcome.
    """

    def __init__(
        self, index: JournalIndex, agent: Any, *, work: str | None = None, key: Callable[[Any], Any] | None = None
    ) -> None:
        self._index, self._custom_key = index, key
        self._append, self._encode = index.file.append, index.codec.encode
        about = work_of(agent)
        self._work = about if work is None else {"name": work}
        self._whose = "" if work is None else about["agent"]  # work with a name may be that of several agents
        self._keys: dict[int, str] = {}  # task_id -> key, of the tasks this run is doing
        self._met: set[str] = set()  # keys of the tasks of this run so far
        self._repeats: dict[str, int] = {}  # key -> how many tasks of this run had it, if more than one
        self._is_open = False

    def open(self, now: Callable[[], float]) -> None:
        """Lock and read the journal; raises `JournalError` if it cannot be used, before any task starts."""
        self._now = now
        self._index.open(self._work)
        self._is_open = True

    def close(self) -> None:
        """Release the journal."""
        self._is_open = False
        self._index.running.difference_update(self._keys.values())
        self._index.close()

    def recall(self, outcome: Outcome) -> None:
        """If the task is done already, copy the result from the journal into its outcome.

        A task whose key cannot be made ends as `failed`. Raises `JournalError` if another run with the same `Journal`
        is doing the task now.
        """
        task, index = outcome.task, self._index
        try:
            key = called("key of the journal", self._key_of, task)
        except Exception as error:
            outcome.end("failed", error, self._now())
            return
        if key in self._met:
            if self._custom_key is not None:
                raise ValueError(f"key must tell tasks apart, and gave {key!r} twice, the second time for {task!r:.60}")
            self._repeats[key] = count = self._repeats.get(key, 1) + 1
            key = f"{key}\n#{count}"  # no key of a task contains a line break
        else:
            self._met.add(key)
        if (offset := index.done.get(key)) is not None:
            outcome.result = index.result(offset)
            outcome.status, outcome.finished = "success", self._now()
            index.skipped += 1
            return
        if not self._is_open:
            return  # the run ended before it reached this task
        if key in index.running:
            raise JournalError(
                f"task {redact(str(task), 60)!r} is being done by another run with this journal, and would be paid "
                "twice; begin this run when that one has ended, or give each run a journal of its own"
            )
        index.running.add(key)
        self._keys[outcome.task_id] = key

    def _key_of(self, task: Any) -> str:
        if self._custom_key is None:
            return stable_key(task, self._whose)
        key = self._custom_key(task)
        text = key if type(key) is str else stable_json(key)
        return f"{self._whose}/{text}" if self._whose else text

    def record(self, outcome: Outcome) -> JournalError | None:
        """Write down how a task ended; return the error if that is impossible."""
        key = self._keys.pop(outcome.task_id, None)
        if key is None:
            return None  # taken from the journal, or refused
        index = self._index
        index.running.discard(key)
        started, finished, status = outcome.started, outcome.finished, outcome.status
        if started is None or finished is None or status == "cancelled":
            return None  # it was not done
        succeeded, task = status == "success", outcome.task
        try:
            end = self._encode(outcome.result) if succeeded else quoted(redact(outcome.reason))
            how = '"status":"success","attempts":1,'  # true of nearly all records
            if not succeeded or outcome.attempt_log is not None:
                how = f'"status":"{status}","attempts":{len(outcome.attempts)},'
            if task is not key and type(task) is str:
                how += f'"task":{quoted(redact(task, SHORT))},'
            what, seconds = "result" if succeeded else "error", finished - started
            offset = self._append(f'{{"key":{quoted(key)},{how}"seconds":{seconds:.6g},"{what}":{end}}}\n'.encode())
        except JournalError as error:
            return error
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            return JournalError(f"the result of task {outcome.task_id} cannot go into the journal: {error}")
        index.written += 1
        if succeeded:
            index.done[key] = offset
            index.failed.discard(key)
        else:
            index.failed.add(key)
        return None


def work_of(agent: Any) -> dict[str, str]:
    """Identify the work of a run: the agent's name, model and a hash of its instructions; for a function, its name.

    >>> work_of(str.upper)
    {'agent': 'str.upper'}
    """
    while isinstance(agent, partial):
        agent = agent.func
    owner = getattr(agent, "__self__", agent)
    name = getattr(owner, "name", None)
    function = getattr(agent, "__qualname__", None)
    if not isinstance(name, str):
        return {"agent": function or type(agent).__qualname__}
    work = {"agent": name if owner is agent or not function else f"{name}.{function.rpartition('.')[2]}"}
    for what in ("model", "max_tokens"):
        if isinstance(value := getattr(owner, what, None), str | int):
            work[what] = str(value)
    if isinstance(text := getattr(owner, "instructions", None), str) and text:
        work["instructions"] = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return work
