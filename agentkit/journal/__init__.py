"""A file of finished tasks, from which an interrupted run resumes.

`journal`: what people use. `writer`: what one run reads and writes. `index`: what the file holds, kept in memory.
`codec`: results as JSON, tasks as keys. `file`: lines on disk.
"""

from __future__ import annotations

from agentkit.journal.file import JournalError
from agentkit.journal.index import JournalRecord
from agentkit.journal.journal import Journal
from agentkit.journal.writer import JournalWriter

__all__ = ["Journal", "JournalError", "JournalRecord", "JournalWriter"]
