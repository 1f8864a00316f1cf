"""The style rules about cells: sizes, runs, outputs, and code that nbval or a learner would stumble over.

What it holds: `RULES`, each a generator of violations over one page. Guarantee: nothing is executed; code is read
as a syntax tree.
Strategy: each rule stands for a failure that was seen in a course: cells never run pass every comparison, a
trailing semicolon prints differently without a front end, a bare plot call prints an address.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from statistics import median
from typing import Any

from agentkit.lab.course.notebooks import ABSOLUTE, tags, texts
from agentkit.lab.course.page import Page, Violation
from agentkit.lab.course.reading import parsed

__all__ = ["RULES"]

BYTES, MAX_LINES, IN_A_ROW = 400_000, 25, 2
_AXES = re.compile(r"(plt|fig|figure|axs?|axes|ax\d+)")


def _lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def sizes(page: Page) -> Iterator[Violation]:
    """A notebook is read in one sitting, a cell at one look."""
    lengths = {index: _lines(cell.source) for index, cell in page.cells("code") if "hidden" not in tags(cell)}
    bounds = page.bounds
    if len(lengths) > bounds.code_cells:
        rule = f"{len(lengths)} code cells, {bounds.code_cells} allowed"
        yield page.broken(None, rule, "split the lesson or merge cells")
    if lengths and median(lengths.values()) > bounds.median_lines:
        rule = f"the median code cell has {median(lengths.values()):g} lines, {bounds.median_lines} allowed"
        yield page.broken(None, rule, "shorten cells")
    if (size := page.path.stat().st_size) > BYTES:
        yield page.broken(None, f"{size:,} bytes, {BYTES:,} allowed", "store fewer or smaller pictures")
    for index, length in lengths.items():
        if length > MAX_LINES:
            yield page.broken(index, f"{length} lines, {MAX_LINES} allowed", "move code to agentkit or split the cell")


def rows(page: Page) -> Iterator[Violation]:
    """More than two code cells in a row need a reason: a first line that is a comment."""
    shown = [(index, cell) for index, cell in enumerate(page.notebook.cells) if "hidden" not in tags(cell)]
    for kind, group in groupby(shown, key=lambda pair: pair[1].cell_type):
        for index, cell in list(group)[IN_A_ROW:] if kind == "code" else ():
            if not cell.source.lstrip().startswith("# "):
                yield page.broken(
                    index,
                    "the third code cell or more in a row",
                    "say in text, or in a comment on its first line, why it is here",
                )


def runs(page: Page) -> Iterator[Violation]:
    """Every code cell was run, once, from top to bottom; nbval compares nothing in a cell that was not."""
    expected = 0
    for index, cell in page.cells("code"):
        if not cell.source.strip():
            yield page.broken(index, "empty code cell", "delete it, or begin it with a comment")
            continue
        expected += 1
        if cell.execution_count != expected:
            yield page.broken(index, f"execution count {cell.execution_count}, expected {expected}", "run make")
            return


def errors(page: Page) -> Iterator[Violation]:
    """An error is shown on purpose or not at all."""
    for index, cell in page.cells("code"):
        shown = [output.ename for output in cell.outputs if output.output_type == "error"]
        meant = {"raises-exception", "nbval-raises-exception"} & set(tags(cell))
        if shown and not meant:
            yield page.broken(
                index, f"shows {shown[0]} without the tag raises-exception", "mend the cell or add the tag"
            )
        elif meant and not shown:
            yield page.broken(
                index, "has the tag raises-exception but shows no error", "remove the tag or restore the error"
            )


def _drawing(node: ast.stmt) -> bool:
    """Say whether a statement is a bare call of a plotting method, whose value prints as an address."""
    if not (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
    ):
        return False
    owner = node.value.func.value
    while isinstance(owner, ast.Subscript | ast.Attribute):
        owner = owner.value
    return isinstance(owner, ast.Name) and bool(_AXES.fullmatch(owner.id)) and node.value.func.attr != "show"


def code(page: Page) -> Iterator[Violation]:
    """No trailing semicolon, no bare plot call at the end, no input(), nothing that cannot be read."""
    for index, cell in page.cells("code"):
        try:
            tree = parsed(cell.source)
        except SyntaxError as error:
            if "raises-exception" not in tags(cell):
                yield page.broken(index, f"cannot be read: {error.msg}", "mend the cell")
            continue
        if cell.source.rstrip().endswith(";"):
            yield page.broken(index, "ends with a semicolon", "assign the value: _ = …")
        if tree.body and _drawing(tree.body[-1]):
            yield page.broken(index, "ends with a bare plot call", "assign it, _ = …, or end with the chart object")
        if any(
            isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "input" for n in ast.walk(tree)
        ):
            yield page.broken(index, "calls input()", "use a variable to edit, predict() or a widget")


def paths(page: Page) -> Iterator[Violation]:
    """No path of one machine, in text, code or output."""
    for index, cell in enumerate(page.notebook.cells):
        said = [cell.source, *(text for output in cell.get("outputs", []) for text in texts(output))]
        if found := ABSOLUTE.search("\n".join(said)):
            yield page.broken(index, f"holds the absolute path {found[0]}", "use a relative path, or print path.name")


def live(page: Page) -> Iterator[Violation]:
    """A cell whose output nbval ignores is followed by one that states the result and is compared."""
    cells: list[tuple[int, Any]] = list(page.cells("code"))
    for place, (index, cell) in enumerate(cells):
        after = cells[place + 1][1] if place + 1 < len(cells) else None
        if "nbval-ignore-output" in tags(cell) and (
            after is None or not after.outputs or "nbval-ignore-output" in tags(after)
        ):
            yield page.broken(
                index, "its output is not compared, and no cell after it states the result", "add such a cell"
            )


def metadata(page: Page) -> Iterator[Violation]:
    """The stored form is that of `make`: kernel python3, nothing of one machine or one run."""
    stored = page.notebook.metadata
    kernel = stored.get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield page.broken(None, f"asks for the kernel {kernel!r}", "run make; the kernel's name is python3")
    for key in ("language_info", "widgets"):
        if key in stored:
            yield page.broken(None, f"stores {key}", "run make, which removes it")


RULES = (sizes, rows, runs, errors, code, paths, live, metadata)
