"""A record on disk of every finished task, so that an interrupted run resumes where it stopped.

What it holds: `Journal`; `writer.py` holds what a run does with it.
Guarantees: a task that is done is not run again. A record is passed to the operating system before the run returns its
outcome; calls in flight when the process dies leave none, and are made again. Not thread-safe.
Strategy: append-only JSON lines after a header that names the work (a write-ahead log without undo). Credentials are
not stored, only a hash of an agent's instructions; what an agent returns is stored unchanged. Opened by the decision
guide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkit.base.arguments import attribute, function, items, refusal, switch, text
from agentkit.journal.codec import Codec
from agentkit.journal.file import JournalFile
from agentkit.journal.index import JournalIndex, JournalRecord
from agentkit.journal.writer import JournalWriter

if TYPE_CHECKING:
    import pandas

__all__ = ["Journal"]


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
        index = self._index
        said = f"<Journal {self.path.name!r}: {len(index.done)} done, {len(index.failed)} failed; "
        said += f"{index.skipped} skipped, {index.written} written"
        unwritten = index.file.unwritten.count(10)
        return said + (f", {unwritten} kept in memory" if unwritten else "") + ">"
