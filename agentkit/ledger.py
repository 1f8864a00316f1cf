"""One run's dealings with a journal: what it may skip, what it writes down, and what is told to those who follow.

What it holds: `Ledger`, made by `Journal.ledger` for an executor, and `Follower`, made by `Journal.follow`.
Guarantees: a task is looked up before it takes a slot, and its record is written in the same breath as its outcome is
settled: no other code of the run comes between the answer and the record.
Strategy: equal tasks of one run are told apart by their count, so that asking the same thing five times gives five
records; that takes memory for each task, about 300 bytes.
Opened by notebook 09, with `agentkit.journal`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

from agentkit.journalfile import JournalError
from agentkit.outcome import Outcome
from agentkit.packing import SHORT, stable_key, stable_text, without_secrets

if TYPE_CHECKING:
    from agentkit.journal import Journal, JournalRecord

__all__ = ["Follower", "Ledger", "named", "work_of"]


class Ledger:
    """What one run skips, thanks to a journal, and writes into it.

    `open` when the run begins and `close` when it ends; `recall` each task before it starts, `record` each outcome.
    """

    def __init__(self, journal: Journal, agent: Any) -> None:
        self._journal, self._file = journal, journal._file
        self._append, self._packed = journal._file.append, journal.packer.text
        about = work_of(agent)
        self._work = about if journal.work is None else {"name": journal.work}
        self._whose = "" if journal.work is None else about["agent"]  # named work may be that of several agents
        self._keys: dict[int, str] = {}  # task_id -> key, of the tasks being done
        self._met: set[str] = set()  # keys of the tasks of this run so far
        self._repeats: dict[str, int] = {}  # key -> how many tasks of this run had it, if more than one
        self._own = journal._key

    def open(self, now: Callable[[], float]) -> None:
        """Read the journal and lock it; raises `JournalError` if it cannot be used, before anything is done."""
        self._now = now
        self._journal._begin(self._work)

    def close(self) -> None:
        """Let others use the journal."""
        self._journal._end()

    def recall(self, outcome: Outcome) -> None:
        """If the task is done already, make its outcome that of the journal."""
        task = outcome.task
        key = stable_key(task, self._whose) if self._own is None else self._own_key(task)
        if key in self._met:
            key = self._again(key, task)
        else:
            self._met.add(key)
        offset = self._journal._done.get(key)
        if offset is None:
            self._keys[outcome.task_id] = key
            return
        outcome.result = self._journal.packer.value(self._file.line(offset).decode())["result"]
        outcome.status, outcome.finished = "success", self._now()
        self._journal._skipped += 1

    def _own_key(self, task: Any) -> str:
        assert self._own is not None
        key = self._own(task)
        text = key if type(key) is str else stable_text(key)
        return f"{self._whose}/{text}" if self._whose else text

    def _again(self, key: str, task: Any) -> str:
        if self._own is not None:
            raise ValueError(f"key must tell tasks apart, and gave {key!r} twice, the second time for {task!r:.60}")
        self._repeats[key] = count = self._repeats.get(key, 1) + 1
        return f"{key}\n#{count}"  # no key of a task has a line break in it

    def record(self, outcome: Outcome) -> JournalError | None:
        """Write down how a task ended; return the error if that is impossible."""
        key = self._keys.pop(outcome.task_id, None)
        started, finished, status = outcome.started, outcome.finished, outcome.status
        if key is None or started is None or finished is None or status == "cancelled":
            return None  # it was done before, or it was not done now
        succeeded, task, journal = status == "success", outcome.task, self._journal
        try:
            end = '"result":' + self._packed(outcome.result) if succeeded else _error(outcome)
            label = ""
            if task is not key and type(task) is str:
                label = f'"task":{quoted(without_secrets(task, SHORT))},'
            attempts = 1 if outcome._attempts is None else len(outcome._attempts)
            line = f'{{"key":{quoted(key)},"status":"{status}",{label}"attempts":{attempts},'
            offset = self._append(f'{line}"seconds":{finished - started:.6g},{end}}}\n'.encode("ascii"))
        except JournalError as error:
            return error
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            return JournalError(f"the result of task {outcome.task_id} cannot go into the journal: {error}")
        journal._written += 1
        if succeeded:
            journal._done[key] = offset
            journal._failed.discard(key)
        else:
            journal._failed.add(key)
        if journal._news:
            journal._tell()
        return None


class Follower:
    """Records of a journal as they come, until no run of this process writes to it any more."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._read_to = journal, 0
        self._ready: deque[JournalRecord] = deque()

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> JournalRecord:
        while not self._ready:
            for end, record in self._journal._records(self._read_to):
                self._read_to = end
                self._ready.append(record)
            if self._ready:
                break
            if not self._journal._runs:
                raise StopAsyncIteration
            news = asyncio.get_running_loop().create_future()
            self._journal._news.append(news)
            await news
        return self._ready.popleft()


def _error(outcome: Outcome) -> str:
    return f'"error":{quoted(without_secrets(outcome.reason))}'


def work_of(agent: Any) -> dict[str, str]:
    """Say whose work a run is: the agent's name, model and a hash of its instructions; of a function, its name.

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


def named(work: dict[str, str]) -> str:
    """A work in words, for an error."""
    return ", ".join(f"{what} {which!r}" for what, which in work.items())
