"""What is taken from a submission: its exercise cells, known by tag, and nothing else.

What it holds: `answers`, `lesson_number`, `merged`. Guarantee: checks, helpers and outputs of a submission have no
effect, since the notebook that runs is the solution with only its exercise cells replaced.
Strategy: tags survive nbstripout, jupytext and renumbered ids; a lost tag is reported with the nearest one that is
there.
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

from agentkit.lab.course.notebooks import CellError, asked_for, definitions, exercise_name, stub, tags
from agentkit.lab.course.registry import lessons

__all__ = ["answers", "is_blank", "lesson_number", "merged", "not_there"]

_CHECK = re.compile(r"\bcheck\(")


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
    """Return what is run: the solution's exercises with the given answers, and each exercise's index.

    Of the lesson's other cells only what they define is kept (imports, functions, classes, constants), and the checks:
    grading does not repeat its experiments. Where an exercise's own cell holds its check, the check is repeated below
    it, since the submission may have changed or lost it.
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
