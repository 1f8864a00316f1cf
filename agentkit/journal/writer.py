"""One run's dealings with a journal: what it may skip, what it writes down, and what is told to those who follow.

What it holds: `JournalWriter`, made by `Journal.ledger` for an executor, and `Follower`, made by `Journal.follow`.
Guarantees: a task is looked up before it takes a slot, and its record is written in the same breath as its outcome is
settled: no other code of the run comes between the answer and the record. Runs at the same time on one `Journal` never
do the same task both: a plain run is refused it, a turn of an orchestrator waits for the answer of the other.
Strategy: equal tasks of one run are told apart by their count, so that asking the same thing five times gives five
records; that takes memory for each task, about 300 bytes.
Opened by the decision guide, with `agentkit.journal`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

from agentkit.base.redact import redact
from agentkit.journal.codec import SHORT, stable_json, stable_key
from agentkit.journal.file import JournalError
from agentkit.report.outcome import Outcome

if TYPE_CHECKING:
    from agentkit.journal.journal import Journal, JournalRecord

__all__ = ["Follower", "JournalWriter", "named", "work_of"]


AT_ONCE = '"status":"success","attempts":1,'  # of nearly all records


class JournalWriter:
    """What one run skips, thanks to a journal, and writes into it.

    `open` when the run begins and `close` when it ends; `recall` each task before it starts, `record` each outcome.
    """

    def __init__(self, journal: Journal, agent: Any) -> None:
        self._journal, self._file = journal, journal._file
        self._append, self._packed = journal._file.append, journal.codec.text
        about = work_of(agent)
        self._work = about if journal.work is None else {"name": journal.work}
        self._whose = "" if journal.work is None else about["agent"]  # named work may be that of several agents
        self._keys: dict[int, str] = {}  # task_id -> key, of the tasks being done
        self._busy = journal._busy  # keys of the tasks being done, kept while there are several runs
        self._elsewhere: dict[int, str] | None = None  # task_id -> key, of those that another run does; None: refused
        self._met: set[str] = set()  # keys of the tasks of this run so far
        self._repeats: dict[str, int] = {}  # key -> how many tasks of this run had it, if more than one
        self._own = journal._key
        self._is_open = False
        if hasattr(agent, "share_turns"):  # an agent that asks `elsewhere` before it does a task
            self._elsewhere = {}
            agent.share_turns(self)

    def open(self, now: Callable[[], float]) -> None:
        """Read the journal and lock it; raises `JournalError` if it cannot be used, before anything is done."""
        self._now = now
        journal = self._journal
        journal._begin(self._work)
        self._is_open = True
        if len(journal._ledgers) == 1:  # the first run was alone so far
            for key in journal._ledgers[0]._keys.values():
                self._busy.setdefault(key, None)
        journal._ledgers.append(self)

    def close(self) -> None:
        """Let others use the journal."""
        self._is_open = False
        self._journal._ledgers.remove(self)
        self._journal._end()

    def recall(self, outcome: Outcome) -> None:
        """If the task is done already, make its outcome that of the journal.

        Raises `JournalError` if another run with the same `Journal` is doing it now.
        """
        task = outcome.task
        key = stable_key(task, self._whose) if self._own is None else self._own_key(task)
        if key in self._met:
            key = self._again(key, task)
        else:
            self._met.add(key)
        journal = self._journal
        offset = journal._done.get(key)
        if offset is not None:
            outcome.result = self._result(offset)
            outcome.status, outcome.finished = "success", self._now()
            journal._skipped += 1
        elif journal._runs == 1:
            self._keys[outcome.task_id] = key
        elif self._is_open:  # else the run has ended before it came to this task
            self._claim(outcome, key)

    def _claim(self, outcome: Outcome, key: str) -> None:
        """Begin a task while there are other runs, one of which may have begun it."""
        if key not in self._busy:
            self._busy[key], self._keys[outcome.task_id] = None, key
        elif self._elsewhere is not None:
            self._elsewhere[outcome.task_id] = key
        else:
            said = redact(str(outcome.task), 60)
            raise JournalError(
                f"task {said!r} is being done by another run with this journal, and would be paid twice; "
                "begin this run when that one has ended, or give each run a journal of its own"
            )

    def _result(self, offset: int) -> Any:
        return self._journal.codec.value(self._file.line(offset).decode())["result"]

    def _own_key(self, task: Any) -> str:
        assert self._own is not None
        key = self._own(task)
        text = key if type(key) is str else stable_json(key)
        return f"{self._whose}/{text}" if self._whose else text

    def _again(self, key: str, task: Any) -> str:
        if self._own is not None:
            raise ValueError(f"key must tell tasks apart, and gave {key!r} twice, the second time for {task!r:.60}")
        self._repeats[key] = count = self._repeats.get(key, 1) + 1
        return f"{key}\n#{count}"  # no key of a task has a line break in it

    def is_elsewhere(self, outcome: Outcome) -> bool:
        """Whether another run was doing this task when this one came to it."""
        return self._elsewhere is not None and outcome.task_id in self._elsewhere

    async def elsewhere(self, outcome: Outcome) -> tuple[Any] | None:
        """Wait while another run does this task; return its result, or None if it is for this run to do."""
        key = None if self._elsewhere is None else self._elsewhere.get(outcome.task_id)
        while key is not None:
            if (offset := self._journal._done.get(key)) is not None:
                self._journal._skipped += 1
                return (self._result(offset),)
            if key not in self._busy:  # the other has failed, or left
                del self._elsewhere[outcome.task_id]  # type: ignore[union-attr]
                self._claim(outcome, key)
                break
            ended = self._busy[key] = self._busy[key] or asyncio.Event()
            await ended.wait()
        return None

    def _free(self, key: str) -> None:
        if (ended := self._busy.pop(key, None)) is not None:
            ended.set()  # who waits has a turn when the record has been written

    def record(self, outcome: Outcome) -> JournalError | None:
        """Write down how a task ended; return the error if that is impossible."""
        key = self._keys.pop(outcome.task_id, None)
        if key is None:
            return None  # it was done before, or by another
        if self._busy:
            self._free(key)
        started, finished, status = outcome.started, outcome.finished, outcome.status
        if started is None or finished is None or status == "cancelled":
            return None  # it was not done
        succeeded, task, journal = status == "success", outcome.task, self._journal
        try:
            end = self._packed(outcome.result) if succeeded else quoted(redact(outcome.reason))
            how = AT_ONCE
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
        journal._written += 1
        if succeeded:
            journal._done[key] = offset
            if journal._failed:
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
