"""What is done stays done: a record on disk of every finished task, so that a run that died goes on where it stopped.

What it holds: `Journal`, `JournalRecord`, `JournalStatistics`; what a run does with them is in `ledger.py`.
Guarantees: a task that a journal knows as done is not run again, so it is not paid again; a record is on its way to
the disk before the run hands its outcome on. Calls in flight when the process dies are not known to anybody: they are
made again. Not for threads.
Strategy: append-only JSON lines, after a header that says whose work it is (a write-ahead log without undo). Keys and
offsets are kept in memory, results are not. Credentials are not stored: of an agent its name, model and a hash of its
instructions, of an error its type and message. What an agent returns is stored as it is.
Opened by the decision guide.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkit.journal.codec import Codec
from agentkit.journal.file import JournalError, JournalFile
from agentkit.journal.writer import Follower, JournalWriter, named

if TYPE_CHECKING:
    import pandas

__all__ = ["Journal", "JournalRecord", "JournalStatistics"]


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One finished task, as a journal knows it."""

    key: str
    """What the task is recognised by."""
    status: str
    """`success`, or `failed`, `timeout` or `rejected` for one that is tried again."""
    task: str
    """The beginning of the task, where it is a text; else its key."""
    result: Any
    """What the agent returned; None for a failure."""
    error: str
    """Type and message of the error; empty for a success."""
    attempts: int
    """How many tries it took in the run that wrote the record."""
    seconds: float
    """Seconds from the first try to the end."""


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """A journal at one instant."""

    done: int
    """Tasks it knows as done; read when a run begins."""
    failed: int
    """Tasks whose latest record is a failure."""
    skipped: int
    """Tasks that runs with this object took from it instead of doing them."""
    written: int
    """Records that runs with this object wrote."""
    unwritten: int
    """Records that wait in memory because the disk took no more."""
    torn: int
    """Bytes of a torn last line that were cut off: what a crash leaves."""
    size: int
    """Bytes in the file."""


class Journal:
    """A file of what is done; a run that is given it skips that, and adds to it.

    >>> import tempfile
    >>> from agentkit import ParallelAgentExecutor
    >>> journal = Journal(Path(tempfile.mkdtemp(), "questions.jsonl"))
    >>> executor = ParallelAgentExecutor(2, journal=journal)
    >>> asyncio.run(executor.execute(["why", "how"], str.upper)).results
    ['WHY', 'HOW']
    >>> asyncio.run(executor.execute(["why", "how", "when"], str.upper)).results  # two of them are not run again
    ['WHY', 'HOW', 'WHEN']
    >>> journal
    <Journal 'questions.jsonl': 3 done, 0 failed; 2 skipped, 3 written>

    Runs at the same time may share it, as long as they do different tasks: a run that comes to a task which another
    is doing ends with a `JournalError`. Turns of orchestrators wait instead, and take the answer of the other.

    - `work` names the work; without it, it is the agent's name, model and instructions, or its function's name. A
      journal of other work is refused.
    - `key(task)` is what a task is recognised by; without it, a short text itself, else a hash, where that is stable.
    - `types`: dataclasses, besides `Reply` and `Usage`, that your results are made of.
    - `sync=True` waits for the disk itself at each record: only that survives a power cut, at 100 times the cost.
    """

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
            raise TypeError(f"path must be a path, got {path!r}; such as Journal('runs.jsonl')")
        if work is not None and not (isinstance(work, str) and work):
            raise ValueError(f"work must be a text that is not empty, got {work!r}; use None for the agent's own name")
        if key is not None and not callable(key):
            raise TypeError(f"key must be a function of a task, got {key!r}; use None for a hash of the task")
        self.path, self.work, self._key = Path(path), work, key
        self._file, self.codec = JournalFile(self.path, sync=sync), Codec(types)
        self._runs = self._skipped = self._written = 0
        self._done: dict[str, int] = {}  # key -> offset of its record
        self._failed: set[str] = set()
        self._busy: dict[str, asyncio.Event | None] = {}  # key of a task that a run is doing -> set when it has ended
        self._ledgers: list[JournalWriter] = []  # those of the runs going on
        self._header: dict[str, Any] | None = None
        self._rows: dict[str, JournalRecord] = {}  # what `to_frame` has read so far
        self._read_to = 0
        self._news: list[asyncio.Future[None]] = []  # followers that wait

    def writer(self, agent: Any) -> JournalWriter:
        """For an executor: the dealings of one run of `agent` with this journal."""
        return JournalWriter(self, agent)

    def statistics(self) -> JournalStatistics:
        """Return what is done, and what runs with this object skipped and wrote."""
        file = self._file
        return JournalStatistics(
            len(self._done), len(self._failed), self._skipped, self._written,
            file.unwritten.count(10), file.torn, file.size,
        )  # fmt: skip

    def records(self) -> Iterator[JournalRecord]:
        """Every record in the file, oldest first; also while a run, here or in another process, writes to it."""
        return (record for _, record in self._records(0))

    def to_frame(self) -> pandas.DataFrame:
        """One row per task, its latest record, as a pandas frame; reads only what is new, so ask as often as you like.

        Works while a run goes on, and from another process.
        """
        import pandas

        if self.path.exists() and self.path.stat().st_size < self._read_to:  # another file by now
            self._rows, self._read_to = {}, 0
        for end, record in self._records(self._read_to):
            self._rows[record.key], self._read_to = record, end
        names = JournalRecord.__slots__
        rows = [[getattr(record, name) for name in names] for record in self._rows.values()]
        return pandas.DataFrame(rows, columns=list(names)).set_index("key")

    def follow(self) -> Follower:
        """Every record there is, and then each as it comes: `async for record in journal.follow()`.

        Ends when no run of this process writes to the journal any more.
        """
        return Follower(self)

    def __repr__(self) -> str:
        now = self.statistics()
        said = f"<Journal {self.path.name!r}: {now.done} done, {now.failed} failed; "
        said += f"{now.skipped} skipped, {now.written} written"
        return said + (f", {now.unwritten} kept in memory" if now.unwritten else "") + ">"

    # -- inside ---------------------------------------------------------------------------------------------------

    def _begin(self, work: dict[str, str]) -> None:
        if not self._runs:
            self._file.open()
        try:
            if not self._runs:
                self._load()
            if self._header is None:
                self._header = {"agentkit journal": 1, "work": work}
                self._file.append(json.dumps(self._header, separators=(",", ":")).encode() + b"\n")
            elif (there := self._header["work"]) != work:
                raise JournalError(
                    f"journal {str(self.path)!r} holds other work: {named(there)}; this run is {named(work)}; "
                    "use another path, or give both the same name with Journal(path, work=...)"
                )
        except BaseException:
            if not self._runs:
                self._file.close()
            raise
        self._runs += 1

    def _end(self) -> None:
        self._runs -= 1
        if not self._runs:
            self._file.close()
        self._tell()

    def _load(self) -> None:
        self._done, self._failed, self._header = {}, set(), None
        for offset, line in self._file.lines():
            try:
                found = json.loads(line)
                if offset == 0:
                    assert found["agentkit journal"] == 1
                    self._header = found
                    continue
                key, succeeded = found["key"], found["status"] == "success"
            except (ValueError, TypeError, KeyError, AssertionError):
                what = f"has a damaged record at byte {offset}" if offset else "is not a journal of this version"
                raise JournalError(f"{str(self.path)!r} {what}; use another path, or mend that line") from None
            if succeeded:
                self._done[key] = offset
                self._failed.discard(key)
            elif key not in self._done:
                self._failed.add(key)

    def _records(self, offset: int) -> Iterator[tuple[int, JournalRecord]]:
        """Each record from `offset` on, and the offset behind it."""
        for start, line in self._file.lines(offset):
            found = self.codec.value(line.decode())
            if "key" in found:
                label, result, error = (
                    found.get("task", found["key"].partition("\n")[0]),
                    found.get("result"),
                    found.get("error", ""),
                )
                how = found["attempts"], found["seconds"]
                record = JournalRecord(found["key"], found["status"], label, result, error, *how)
                yield start + len(line), record

    def _tell(self) -> None:
        waiting, self._news = self._news, []
        for follower in waiting:
            if not follower.done():
                follower.set_result(None)
