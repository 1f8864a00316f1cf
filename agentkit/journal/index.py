"""What a journal holds, kept in memory: which tasks are done, which failed, and which are running now.

What it holds: `JournalIndex`, shared by a `Journal` and the writers of its runs, and `JournalRecord`.
Guarantees: the file is open exactly while a run uses it; a damaged line or a journal of other work raises
`JournalError` before the run starts.
Strategy: keys and the offsets of their records are in memory, results in the file. Opened by the decision guide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agentkit.journal.codec import Codec
from agentkit.journal.file import JournalError, JournalFile

__all__ = ["JournalIndex", "JournalRecord"]


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


class JournalIndex:
    """Keys of done, failed and running tasks, with the file and the codec to read their records."""

    def __init__(self, file: JournalFile, codec: Codec) -> None:
        self.file, self.codec = file, codec
        self.done: dict[str, int] = {}
        """Offset of the record of each task that succeeded, by key."""
        self.failed: set[str] = set()
        """Keys of tasks whose latest record is a failure."""
        self.running: set[str] = set()
        """Keys of tasks that a run is doing now."""
        self.skipped = self.written = 0
        """Tasks that runs took from the journal; records that runs wrote."""
        self._runs = 0  # runs using the journal now
        self._work: dict[str, str] | None = None  # from the header: whose work this is
        self._latest: dict[str, JournalRecord] = {}  # what `latest` has read so far
        self.read_to = 0
        """Offset up to which `latest` has read."""

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
                raise JournalError(
                    f"journal {str(self.file.path)!r} holds other work: {_words(self._work)}; this run is "
                    f"{_words(work)}; use another path, or give both the same name with Journal(path, work=...)"
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

    def result(self, offset: int) -> Any:
        """Return the result in the record at `offset`."""
        return self.codec.decode(self.file.line(offset).decode())["result"]

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


def _words(work: dict[str, str]) -> str:
    """Write out a work, for an error."""
    return ", ".join(f"{what} {which!r}" for what, which in work.items())
