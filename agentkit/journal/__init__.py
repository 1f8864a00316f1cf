"""What is done stays done: a file of outcomes, from which a run resumes.

`journal`: what people use. `ledger`: what a run does with it. `packing`: a record as a line. `file`: lines on disk.
"""

from __future__ import annotations

from agentkit.journal.file import JournalError
from agentkit.journal.journal import Journal, JournalRecord, JournalStatistics
from agentkit.journal.writer import Follower, JournalWriter

__all__ = [
    "Follower",
    "Journal",
    "JournalError",
    "JournalRecord",
    "JournalStatistics",
    "JournalWriter",
]
