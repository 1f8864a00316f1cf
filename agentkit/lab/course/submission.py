"""What is taken from a submission: its exercise cells, known by tag, and nothing else.

What it holds: `answers`, `lesson_number`, `merged`. Guarantee: checks, helpers and outputs of a submission have no
effect, since the notebook that runs is the solution with only its exercise cells replaced.
Strategy: tags survive nbstripout, jupytext and renumbered ids; a lost tag is reported with the nearest one that is
there.
Used by `grade`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from agentkit.lab.course.notebooks import CellError, exercise_name, stub, tags
from agentkit.lab.course.registry import lessons

__all__ = ["answers", "is_blank", "lesson_number", "merged", "not_there"]


def answers(notebook: Any) -> dict[str, str]:
    """Return the text of each exercise cell by name; of two with one name the last counts, as it does when run."""
    return {name: cell.source for cell in notebook.cells if (name := exercise_name(cell))}


def lesson_number(notebook: Any, path: Path) -> str:
    """Say which lesson a submission answers: by its exercises, else by the number its file name holds."""
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
    """Return the solution up to its last exercise's check with the given answers put in, and each exercise's index."""
    notebook, at = deepcopy(solution), {}
    for index, cell in enumerate(notebook.cells):
        name = exercise_name(cell)
        if name and "exercise" in tags(cell):
            at[name] = index
            cell.source = given.get(name, cell.source)
    last = max(
        (i for i, cell in enumerate(notebook.cells) if re.search(r"\bcheck\(", cell.source)),
        default=len(notebook.cells),
    )
    notebook.cells = notebook.cells[: last + 1]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    return notebook, at


def is_blank(answer: str, solution: str) -> bool:
    """Say whether an exercise cell is as it was handed out."""

    def text(source: str) -> str:
        return "\n".join(line.rstrip() for line in source.strip().splitlines())

    return text(answer) in (text(stub(solution)), "")


def not_there(name: str, own: Mapping[str, str]) -> str:
    """Say that an exercise cell is missing, and which tag may have been meant."""
    near = get_close_matches(name, own, 1, 0.5)
    return f"no cell has the tag {name}" + (
        f"; there is one tagged {near[0]}" if near else "; it was deleted or renamed"
    )
