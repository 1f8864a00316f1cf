"""Reads the answers of a submission: its tagged exercise cells, and nothing else.

What it holds: `answers`, `lesson_number`, `merged`, `is_blank` and `not_there`.
Guarantee: checks, helpers and outputs of a submission have no effect, because the notebook that runs is the solution
with only its exercise cells replaced.
Strategy: cells are found by tag; tags survive nbstripout, jupytext and renumbered ids. For a missing tag, the error
names the closest one that is there.
Used by `grade`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nbformat.v4 import new_code_cell

from agentkit.lab.course.cells import CellError, asked_for, definitions, exercise_name, stub, tags
from agentkit.lab.course.registry import lessons

__all__ = ["answers", "is_blank", "lesson_number", "merged", "not_there"]

_CHECK = re.compile(r"\bcheck\(")


def answers(notebook: Any) -> dict[str, str]:
    """Return the source of each exercise cell by name; if two have the same name the last counts, as when run."""
    return {name: cell.source for cell in notebook.cells if (name := exercise_name(cell))}


def lesson_number(notebook: Any, path: Path) -> str:
    """Return the lesson's number, found by the exercises in it or else by the number in the file name."""
    own = set(answers(notebook))
    scores = {each.number: len(own & set(each.exercises)) for each in lessons()}
    if scores and (best := max(scores.values())):
        return next(number for number, score in scores.items() if score == best)
    for number in re.findall(r"(?<!\d)(\d\d)_", path.name):
        if number in scores:
            return str(number)
    raise CellError(
        "no exercise cell is left in it, and its name does not begin with a lesson's number; say --lesson NN"
    )


def merged(solution: Any, given: Mapping[str, str]) -> tuple[Any, dict[str, int]]:
    """Return the notebook to run, the solution with the given answers inserted, and the index of each exercise.

    Of the lesson's other cells, only definitions (imports, functions, classes, constants) and checks are kept, so
    grading doesn't repeat the lesson's experiments. If an exercise's own cell holds its check, the check is repeated in
    a cell below it, because the submission may have changed or removed it.
    """
    notebook, at = deepcopy(solution), {}
    cells: list[Any] = []
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.outputs = []
        cells.append(cell)
        name = exercise_name(cell) if "exercise" in tags(cell) else None
        if name is None:
            cell.source = cell.source if _CHECK.search(cell.source) else ast.unparse(definitions(cell.source))
            continue
        at[name] = len(cells) - 1
        if (answer := asked_for([cell], name)) is not None:
            cells.append(new_code_cell(f"check({name!r}, {ast.unparse(answer)})"))  # type: ignore[no-untyped-call]
        cell.source = given.get(name, cell.source)
    notebook.cells = cells
    return notebook, at


def is_blank(answer: str, solution: str) -> bool:
    """Return whether an exercise cell is empty or unchanged from the learner's notebook."""

    def text(source: str) -> str:
        return "\n".join(line.rstrip() for line in source.strip().splitlines())

    return text(answer) in (text(stub(solution)), "")


def not_there(name: str, own: Mapping[str, str]) -> str:
    """Return the message for a missing exercise cell, with the tag that may have been meant."""
    near = get_close_matches(name, own, 1, 0.5)
    return f"no cell has the tag {name}" + (
        f"; there is one tagged {near[0]}" if near else "; it was deleted or renamed"
    )
