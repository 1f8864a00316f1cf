"""A record on disk of every finished task, so that an interrupted run resumes where it stopped.

What it holds: `Journal`; `JournalWriter`, what one run does with it; `JournalIndex`, what all runs share.
Guarantees: a task that is done is not run again, and no two runs do the same one. A record is passed to the operating
system before the run returns its outcome; calls in flight when the process dies are made again. Not thread-safe.
Strategy: append-only JSON lines after a header that names the work (a write-ahead log without undo). Credentials are
not stored; of an agent's instructions, only a hash; what it returns, unchanged. Opened by the decision guide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkit.base.arguments import attribute, called, function, items, refusal, switch, text
from agentkit.base.redact import redact
from agentkit.journal.codec import SHORT, Codec, stable_json, stable_key
from agentkit.journal.file import JournalError, JournalFile
from agentkit.report.outcome import Outcome

if TYPE_CHECKING:
    import pandas

__all__ = ["Journal", "JournalIndex", "JournalRecord", "JournalWriter", "work_of"]


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One finished task in a journal."""

    key: str
    """The key that identifies the task."""
    status: str
    """`success`, or `failed`, `timeout` or `rejected` for a task that the next run tries again."""
    task: str
    """The beginning of the task if it is a string; otherwise its key."""
    result: Any
    """What the agent returned; None for a failure."""
    error: str
    """Type and message of the error; empty for a success."""
    attempts: int
    """How many attempts it took in the run that wrote the record."""
    seconds: float
    """Seconds from the start of the first attempt to the end."""


class Journal:
    """A file of finished tasks: a run that is given one skips those tasks, and adds its own.

    >>> import asyncio, tempfile
    >>> from agentkit import ParallelAgentExecutor
    >>> journal = Journal(Path(tempfile.mkdtemp(), "questions.jsonl"))
    >>> executor = ParallelAgentExecutor(2, journal=journal)
    >>> asyncio.run(executor.execute(["why", "how"], str.upper)).results
    ['WHY', 'HOW']
    >>> asyncio.run(executor.execute(["why", "how", "when"], str.upper)).results  # two of them are not run again
    ['WHY', 'HOW', 'WHEN']
    >>> journal
    <Journal 'questions.jsonl': 3 done, 0 failed; 2 skipped, 3 written>

    Concurrent runs may share one `Journal`, as long as they do different tasks: a run that reaches a task which
    another run is doing ends with a `JournalError`, since the task would be paid for twice.

    - `work` names the work; without it, that is the agent's name, model and instructions, or the function's name. A
      journal of other work is refused.
    - `key(task)` identifies a task; without it, the key is the task itself if that is a short string, otherwise a hash.
      A task whose hash would differ from one process to the next is refused.
    - `types`: dataclasses, besides `Reply` and `Usage`, that your results contain.
    - `sync=True` waits for the disk at each record: only that survives a power cut, at 100 times the cost.
    """

    work: str | None = attribute(text, remedy="use None for the agent's own name", empty=False, none=True)
    """The name of the work; None for the agent's own name."""

    def __init__(
        self,
        path: str | Path,
        *,
        work: str | None = None,
        key: Callable[[Any], Any] | None = None,
        types: Iterable[type[Any]] = (),
        sync: bool = False,
    ) -> None:
        if not isinstance(path, str | Path) or not str(path):
            raise refusal("path", "must be a path", path, "such as Journal('runs.jsonl')", TypeError)
        self.work = work
        self._key = function("key", key, "use None for a hash of the task", none=True)
        self._index = JournalIndex(JournalFile(Path(path), sync=switch("sync", sync)), Codec(items("types", types)))

    @property
    def path(self) -> Path:
        """The file."""
        return self._index.file.path

    def writer(self, agent: Any) -> JournalWriter:
        """Return what one run of `agent` reads and writes with; for an executor."""
        return JournalWriter(self._index, agent, work=self.work, key=self._key)

    def records(self) -> Iterator[JournalRecord]:
        """Return every record in the file, oldest first; works while a run, here or in another process, is writing."""
        return (record for _, record in self._index.records())

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas frame with one row per task, its latest record; works while a run is writing.

        Reads only what is new since the last call, so it is cheap to call often.
        """
        import pandas

        names = JournalRecord.__slots__
        rows = [[getattr(record, name) for name in names] for record in self._index.latest().values()]
        return pandas.DataFrame(rows, columns=list(names)).set_index("key")

    def __repr__(self) -> str:
        index, kept = self._index, self._index.file.unwritten.count(10)
        said = f"{len(index.done)} done, {len(index.failed)} failed; {index.skipped} skipped, {index.written} written"
        return f"<Journal {self.path.name!r}: {said}" + (f", {kept} kept in memory" if kept else "") + ">"


class JournalIndex:
    """Keys of done, failed and running tasks, with the file and the codec to read their records."""

    def __init__(self, file: JournalFile, codec: Codec) -> None:
        self.file, self.codec = file, codec
        self.done: dict[str, int] = {}  # key -> offset of the record, of each task that succeeded
        self.failed: set[str] = set()  # keys of tasks whose latest record is a failure
        self.running: set[str] = set()  # keys of tasks that a run is doing now
        self.skipped = self.written = 0  # tasks that runs took from the journal; records that runs wrote
        self._runs = 0  # runs using the journal now
        self._work: dict[str, str] | None = None  # from the header: whose work this is
        self._latest: dict[str, JournalRecord] = {}  # what `latest` has read so far
        self.read_to = 0  # offset up to which `latest` has read

    def open(self, work: dict[str, str]) -> None:
        """Register a run of `work`. The first one opens and reads the file, and writes the header if it is empty."""
        if not self._runs:
            self.file.open()
        try:
            if not self._runs:
                self._load()
            if self._work is None:
                header = {"agentkit journal": 1, "work": work}
                self.file.append(json.dumps(header, separators=(",", ":")).encode() + b"\n")
                self._work = work
            elif self._work != work:
                theirs, ours = (", ".join(f"{what} {which!r}" for what, which in w.items()) for w in (self._work, work))
                raise JournalError(
                    f"journal {str(self.file.path)!r} holds other work: {theirs}; this run is {ours}; "
                    "use another path, or give both the same name with Journal(path, work=...)"
                )
        except BaseException:
            if not self._runs:
                self.file.close()
            raise
        self._runs += 1

    def close(self) -> None:
        """Unregister a run; the last one closes the file."""
        self._runs -= 1
        if not self._runs:
            self.file.close()

    def records(self, offset: int = 0) -> Iterator[tuple[int, JournalRecord]]:
        """Return each record from `offset` on, with the offset of its end."""
        for start, line in self.file.lines(offset):
            found = self.codec.decode(line.decode())
            if "key" in found:
                key = found["key"]
                task = found.get("task", key.partition("\n")[0])
                how = found.get("result"), found.get("error", ""), found["attempts"], found["seconds"]
                yield start + len(line), JournalRecord(key, found["status"], task, *how)

    def latest(self) -> dict[str, JournalRecord]:
        """Return the latest record of each task; reads only what is new since the last call."""
        path = self.file.path
        if path.exists() and path.stat().st_size < self.read_to:  # the file was replaced
            self._latest, self.read_to = {}, 0
        for end, record in self.records(self.read_to):
            self._latest[record.key], self.read_to = record, end
        return self._latest

    def _load(self) -> None:
        self.done, self.failed, self._work = {}, set(), None
        for offset, line in self.file.lines():
            try:
                found = json.loads(line)
                if offset == 0:
                    if found["agentkit journal"] != 1:
                        raise ValueError
                    self._work = found["work"]
                    continue
                key, succeeded = found["key"], found["status"] == "success"
            except (ValueError, TypeError, KeyError):
                what = f"has a damaged record at byte {offset}" if offset else "is not a journal of this version"
                raise JournalError(f"{str(self.file.path)!r} {what}; use another path, or mend that line") from None
            if succeeded:
                self.done[key] = offset
                self.failed.discard(key)
            elif key not in self.done:
                self.failed.add(key)


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
            outcome.result = index.codec.decode(index.file.line(offset).decode())["result"]
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
