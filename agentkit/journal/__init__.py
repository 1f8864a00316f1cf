"""A file of finished tasks, from which an interrupted run resumes.

`journal`: what people and runs use. `codec`: results as JSON, tasks as keys. `file`: lines on disk.
"""

from __future__ import annotations

from agentkit.journal.file import JournalError
from agentkit.journal.journal import Journal, JournalRecord, JournalWriter

__all__ = ["Journal", "JournalError", "JournalRecord", "JournalWriter"]
