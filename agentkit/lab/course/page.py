"""A stored notebook as the style rules see it, and what they find.

What it holds: the records `Page`, `Bounds` and `Violation`. Guarantee: a violation is one line that names file, cell,
rule and remedy.
Strategy: rules are generators over pages; they live in `cells` and `prose` and are collected in `rules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkit.lab.course.notebooks import is_lesson, where

__all__ = ["Bounds", "Page", "Violation"]


@dataclass(frozen=True, slots=True)
class Violation:
    """One place where one rule is broken."""

    file: str
    """The notebook, as seen from the course's folder."""
    cell: str
    """The cell's place from 1, counting all cells, and its id; empty if the notebook as a whole is meant."""
    rule: str
    """What is wrong."""
    remedy: str
    """What to do."""

    def __str__(self) -> str:
        return ": ".join(filter(None, [self.file, self.cell, f"{self.rule}; {self.remedy}"]))


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one notebook may hold."""

    words: int
    """Words of text."""
    code_cells: int
    """Code cells that the learner sees."""
    median_lines: int
    """Lines of the median code cell."""


LESSON = Bounds(words=1800, code_cells=45, median_lines=6)
GUIDE = Bounds(words=1200, code_cells=20, median_lines=12)  # fewer, longer cells: each is a program to compare


@dataclass(frozen=True, slots=True)
class Page:
    """One notebook, read."""

    folder: Path
    """The folder that holds all notebooks."""
    path: Path
    """The file."""
    notebook: Any
    """Its content."""

    @property
    def name(self) -> str:
        """The file as seen from the course's folder."""
        return self.path.relative_to(self.folder).as_posix()

    @property
    def lesson(self) -> bool:
        """Whether it is a lesson, with a number, minutes and a solution; else it is a guide."""
        return is_lesson(self.path)

    @property
    def bounds(self) -> Bounds:
        """How much it may hold."""
        return LESSON if self.lesson else GUIDE

    def broken(self, index: int | None, rule: str, remedy: str) -> Violation:
        """Return the violation of a rule in the cell at `index`, or in the whole notebook."""
        return Violation(self.name, "" if index is None else where(self.notebook.cells[index], index), rule, remedy)

    def cells(self, kind: str) -> Iterator[tuple[int, Any]]:
        """Yield the cells of a kind, with their index."""
        return ((index, cell) for index, cell in enumerate(self.notebook.cells) if cell.cell_type == kind)
