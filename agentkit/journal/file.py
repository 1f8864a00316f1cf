"""The file of a journal: whole lines, one writer at a time.

What it holds: `JournalFile` and `JournalError`.
Guarantees: the operating system has a line before `append` returns, so the line survives the death of the process
(and, with `sync`, a power cut); a line that was partly written is removed, kept in memory, and written with the next.
Strategy: unbuffered appends, one system call each; an advisory lock (flock) where the system has one; on opening, a
torn last line, which a crash may leave, is cut off. Opened by the decision guide.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

__all__ = ["JournalError", "JournalFile"]


class JournalError(RuntimeError):
    """The journal cannot be used this way; the message says what to do."""


class JournalFile:
    r"""Appends lines to a file, each one whole or not at all.

    >>> import tempfile
    >>> file = JournalFile(Path(tempfile.mkdtemp(), "lines"))
    >>> file.open()
    >>> file.append(b"one\n"), file.append(b"two\n"), list(file.lines())
    (0, 4, [(0, b'one\n'), (4, b'two\n')])
    >>> file.close()
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self.path, self._sync = path, sync
        self._file: FileIO | None = None
        self.size = 0
        """Bytes of whole lines."""
        self.unwritten = b""
        """Lines that could not be written so far."""

    def open(self) -> None:
        """Open and lock the file for appending; cut off a torn last line, and write lines kept from before."""
        try:
            file = FileIO(self.path, "a+")
        except OSError as error:
            raise JournalError(
                f"journal {str(self.path)!r} cannot be written: {error.strerror or error}; "
                "use a path in a folder that exists and that you may write to"
            ) from error
        try:
            _lock(file, self.path)
            self.size = file.seek(0, os.SEEK_END)
            self._cut_torn_line(file)
            self._file = file
            if self.unwritten:
                self.append(b"")
        except BaseException:
            self._file = None
            file.close()
            raise

    def _cut_torn_line(self, file: FileIO) -> None:
        end = whole = self.size
        found = -1
        while whole and found < 0:  # search backwards for the end of the last whole line
            start = max(0, whole - 65_536)
            file.seek(start)
            found = file.read(whole - start).rfind(b"\n")
            whole = start + found + 1
        if whole == end:
            return
        file.seek(whole)
        if whole == 0 and not file.read(20).startswith(b'{"agentkit journal":'[: end - whole]):
            raise JournalError(f"{str(self.path)!r} is not a journal; use another path, nothing was changed")
        file.truncate(whole)
        self.size = whole

    def append(self, line: bytes) -> int:
        """Write a line and return its offset; raises `JournalError` if it cannot be written."""
        if self._file is None:
            raise JournalError(f"journal {str(self.path)!r} is not open")
        data, start = self.unwritten + line if self.unwritten else line, self.size
        size = len(data)
        try:
            written = self._file.write(data)
            while written < size:  # a partial write; the next one raises the reason
                written += self._file.write(data[written:])
            if self._sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            self.unwritten = data
            try:
                self._file.truncate(self.size)
            except OSError:  # the next `open` cuts the torn line off
                pass
            raise JournalError(
                f"journal {str(self.path)!r} cannot be written: {error.strerror or error}; {data.count(10)} results "
                "are kept in memory and in the report; make room, and run again with the same journal"
            ) from error
        self.size = end = start + size
        if data is not line:
            self.unwritten = b""
        return end - len(line)

    def line(self, offset: int) -> bytes:
        """Return the line at `offset`; works after `close` too, for a run that ended before its last tasks."""
        if self._file is None:
            return next(self.lines(offset))[1]
        self._file.seek(offset)
        data = self._file.read(4_096)
        while b"\n" not in data and (more := self._file.read(len(data))):
            data += more
        return data[: data.index(b"\n") + 1]

    def lines(self, offset: int = 0) -> Iterator[tuple[int, bytes]]:
        """Return every whole line from `offset` on, with its offset; works while another process is writing."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                for line in file:
                    if line.endswith(b"\n"):
                        yield offset, line
                    offset += len(line)
        except FileNotFoundError:
            return

    def close(self) -> None:
        """Release the file. Lines that could not be written are tried once more, then kept for the next `open`."""
        if self._file is None:
            return
        try:
            if self.unwritten:
                self.append(b"")
        except JournalError:  # the run has reported it already
            pass
        finally:
            self._file.close()
            self._file = None


def _lock(file: FileIO, path: Path) -> None:
    """Lock a file against other writers, in this process or others, until it is closed."""
    if sys.platform == "win32":  # it has no advisory locks
        return
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(
            f"journal {str(path)!r} is in use by another run, here or in another process; wait until that has ended, "
            "hand in the same Journal object, or use another path"
        ) from None
    except OSError:  # a file system that has no locks
        pass
