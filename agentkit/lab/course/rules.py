"""The style rules for stored notebooks: each rule, the page it reads, and the violation it reports.

What it holds: the records `Page`, `SizeLimits` and `Violation`; `NOTEBOOK_RULES`, which hold for every notebook;
`LEARNER_RULES`, which are about the text and are read in the learner's notebooks only; and `readme`, which compares the
README's map with all notebooks.
Guarantees: nothing is executed; code is read as a syntax tree; code, formulas and link targets are not read as prose. A
violation is one line that names file, cell, rule and remedy.
Strategy: a rule is a generator of violations over one page, and each one prevents a failure that was seen in a course:
cells that never ran pass every comparison, a trailing semicolon prints differently without a front end, a bare plot
call prints an address. The glossary is a table of what not to write and what to write instead.
Used by `style`, the command `check`.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from agentkit.lab.course.cells import ABSOLUTE, is_lesson, parsed, tags, texts, where

__all__ = ["LEARNER_RULES", "NOTEBOOK_RULES", "Page", "SizeLimits", "Violation", "minutes", "readme"]

BYTES, MAX_LINES, IN_A_ROW = 400_000, 25, 2
_AXES = re.compile(r"(plt|fig|figure|axs?|axes|ax\d+)")
MINUTES = 45
OPENING = {
    "what you'll do": r"what you['’]ll do",
    "what you'll be able to do": r"what you['’]ll be able to",
    "what you need": r"what you need|you need",
    "minutes": r"minutes",
}
GUIDE_OPENING = {"what it answers": r"what it answers", "what you need": OPENING["what you need"]}
GLOSSARY = {
    r"semaphore permits?|permits (?:left|free|held)|a permit": "slot",
    r"semaphor\b": "semaphore",
    r"back[- ]pressure": "backpressure",
    r"make[- ]span": "makespan",
    r"through[- ]put": "throughput",
    r"inflight": "in flight",
    r"dead[- ]locks?": "deadlock",
    r"time[- ]out\b": "timeout",
    r"co-routines?": "coroutine",
    r"eventloop|event-loop": "event loop",
    r"task group|taskgroup|Task Group": "TaskGroup",
    r"AsyncIO|asyncIO|Asyncio": "asyncio",
    r"rate-limiter|ratelimit(?:er)?": "rate limit, or RateLimiter",
    r"Open AI|OpenAi|openAI": "OpenAI",
    r"Jupyterlab|Jupyter Lab": "JupyterLab",
    r"multi-threading|multithreading": "threads",
}
_CODE = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\]\([^)]*\)|<[^>]+>", re.S)
_LINK = re.compile(r"\]\(<?([^)\s>]+)")
_REFERENCE = re.compile(r"\bnotebooks/[\w./-]+\.ipynb")
_CLAIM = re.compile(r"\(claims?:?\s+([^)]+)\)")


@dataclass(frozen=True, slots=True)
class Violation:
    """One violation of one rule."""

    file: str
    """The notebook's path, relative to the notebooks folder."""
    cell: str
    """The cell's number (from 1, counting all cells) and its id; empty for the notebook as a whole."""
    rule: str
    """What is wrong."""
    remedy: str
    """What to do."""

    def __str__(self) -> str:
        return ": ".join(filter(None, [self.file, self.cell, f"{self.rule}; {self.remedy}"]))


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """The size limits of one notebook."""

    words: int
    """Most words of text."""
    code_cells: int
    """Most visible code cells."""
    median_lines: int
    """Most lines of the median code cell."""


LESSON = SizeLimits(words=1800, code_cells=45, median_lines=6)
GUIDE = SizeLimits(words=1200, code_cells=20, median_lines=12)  # fewer and longer cells: each is a program to compare


@dataclass(frozen=True, slots=True)
class Page:
    """One notebook that was read from a file."""

    folder: Path
    """The notebooks folder."""
    path: Path
    """The notebook's file."""
    notebook: Any
    """The content, as nbformat returns it."""

    @property
    def name(self) -> str:
        """The path relative to the notebooks folder."""
        return self.path.relative_to(self.folder).as_posix()

    @property
    def lesson(self) -> bool:
        """Whether it is a lesson, with a number, minutes and a solution; otherwise it is a guide."""
        return is_lesson(self.path)

    @property
    def limits(self) -> SizeLimits:
        """The size limits that apply to it."""
        return LESSON if self.lesson else GUIDE

    def broken(self, index: int | None, rule: str, remedy: str) -> Violation:
        """Return a violation in the cell at `index`, or in the whole notebook if None."""
        return Violation(self.name, "" if index is None else where(self.notebook.cells[index], index), rule, remedy)

    def cells(self, kind: str) -> Iterator[tuple[int, Any]]:
        """Yield the cells of one type, with their indices."""
        return ((index, cell) for index, cell in enumerate(self.notebook.cells) if cell.cell_type == kind)


# -- cells and outputs ------------------------------------------------------------------------------------------------


def _lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def sizes(page: Page) -> Iterator[Violation]:
    """A notebook has limits on cells and bytes, a cell on lines."""
    lengths = {index: _lines(cell.source) for index, cell in page.cells("code") if "hidden" not in tags(cell)}
    limits = page.limits
    if len(lengths) > limits.code_cells:
        rule = f"{len(lengths)} code cells, {limits.code_cells} allowed"
        yield page.broken(None, rule, "split the lesson or merge cells")
    if lengths and median(lengths.values()) > limits.median_lines:
        rule = f"the median code cell has {median(lengths.values()):g} lines, {limits.median_lines} allowed"
        yield page.broken(None, rule, "shorten cells")
    if (size := page.path.stat().st_size) > BYTES:
        yield page.broken(None, f"{size:,} bytes, {BYTES:,} allowed", "store fewer or smaller pictures")
    for index, length in lengths.items():
        if length > MAX_LINES:
            yield page.broken(index, f"{length} lines, {MAX_LINES} allowed", "move code to agentkit or split the cell")


def rows(page: Page) -> Iterator[Violation]:
    """From the third code cell in a row on, each needs a comment on its first line that says why."""
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
    """Every code cell ran once, from top to bottom; nbval compares nothing in a cell that did not run."""
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
    """A cell shows an error exactly if it has the tag raises-exception."""
    for index, cell in page.cells("code"):
        shown = [output.ename for output in cell.outputs if output.output_type == "error"]
        meant = {"raises-exception", "nbval-raises-exception"} & set(tags(cell))
        if shown and not meant:
            yield page.broken(
                index, f"shows {shown[0]} without the tag raises-exception", "fix the cell or add the tag"
            )
        elif meant and not shown:
            yield page.broken(
                index, "has the tag raises-exception but shows no error", "remove the tag or restore the error"
            )


def _drawing(node: ast.stmt) -> bool:
    """Return whether a statement is a bare call of a plotting method, whose value prints as an address."""
    if not (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
    ):
        return False
    owner = node.value.func.value
    while isinstance(owner, ast.Subscript | ast.Attribute):
        owner = owner.value
    return isinstance(owner, ast.Name) and bool(_AXES.fullmatch(owner.id)) and node.value.func.attr != "show"


def code(page: Page) -> Iterator[Violation]:
    """Code has no syntax error, trailing semicolon, bare plot call at the end, or call of input()."""
    for index, cell in page.cells("code"):
        try:
            tree = parsed(cell.source)
        except SyntaxError as error:
            if "raises-exception" not in tags(cell):
                yield page.broken(index, f"cannot be read: {error.msg}", "fix the cell")
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
    """No absolute path appears in text, code or output."""
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
    """The metadata is what `make` stores: kernel python3, nothing specific to a machine or a run."""
    stored = page.notebook.metadata
    kernel = stored.get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield page.broken(None, f"asks for the kernel {kernel!r}", "run make; the kernel's name is python3")
    for key in ("language_info", "widgets"):
        if key in stored:
            yield page.broken(None, f"stores {key}", "run make, which removes it")


# -- text -------------------------------------------------------------------------------------------------------------


def minutes(page: Page) -> int | None:
    """Return the minutes that the opening states, or None."""
    text = page.notebook.cells[0].source if page.notebook.cells else ""
    found = re.search(r"minutes?\W{1,6}(\d+)|(\d+)\s*(?:min\b|minutes?)", text, re.I)
    return int(found[1] or found[2]) if found else None


def opening(page: Page) -> Iterator[Violation]:
    """The first cell has the four parts of an opening, or the two of a guide's, and minutes within the limit."""
    first = page.notebook.cells[0] if page.notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield page.broken(None, "does not open with a text cell that has a title", "begin with: # NN Title")
        return
    parts, remedy = OPENING, "every lesson opens with the same four parts"
    if not page.lesson:
        parts, remedy = GUIDE_OPENING, "a guide says both; a lesson has a number in its name: NN_name.ipynb"
    missing = [part for part, pattern in parts.items() if not re.search(pattern, first.source, re.I)]
    if missing:
        yield page.broken(0, f"the opening lacks: {', '.join(missing)}", remedy)
    if not page.lesson:
        return
    stated = minutes(page)
    if stated is None:
        yield page.broken(0, "the opening states no number of minutes", "write: **Minutes:** 30")
    elif stated > MINUTES:
        yield page.broken(0, f"{stated} minutes, {MINUTES} allowed", "split the lesson")


def length(page: Page) -> Iterator[Violation]:
    """A lesson has at most 1,800 words, a guide at most 1,200."""
    words = sum(len(_CODE.sub(" ", cell.source).split()) for _, cell in page.cells("markdown"))
    allowed = page.limits.words
    if words > allowed:
        yield page.broken(None, f"{words:,} words, {allowed:,} allowed", "cut, or move text to another lesson")


def links(page: Page) -> Iterator[Violation]:
    """The targets of relative links and the notebooks named in text exist."""
    for index, cell in page.cells("markdown"):
        for target in _LINK.findall(cell.source):
            relative = target.split("#")[0]
            if re.match(r"[a-z]+:", target) or not relative:
                continue
            if not (page.path.parent / relative).exists():
                yield page.broken(index, f"the link {target} leads nowhere", "correct it")
        for name in _REFERENCE.findall(cell.source):
            if (
                not (page.folder.parent / name).exists()
                and not (page.folder / name.removeprefix("notebooks/")).exists()
            ):
                yield page.broken(index, f"{name} does not exist", "correct the name")


def glossary(page: Page) -> Iterator[Violation]:
    """Each idea has one word with one spelling."""
    for index, cell in page.cells("markdown"):
        text = _CODE.sub(" ", cell.source)
        for pattern, better in GLOSSARY.items():
            if found := re.search(rf"\b(?:{pattern})", text):
                yield page.broken(index, f"writes {found[0]!r}", f"the word here is: {better}")


def _ledger(folder: Path) -> set[str] | None:
    """Return the ids in the claims ledger, or None if there is no ledger."""
    path = folder.parent / "data" / "claims.csv"
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("id") if rows and "id" in rows[0] else 0
    return {row[column] for row in rows[1:] if row}


def claims(page: Page) -> Iterator[Violation]:
    """Every claim id cited as `(claim id)` is in the ledger."""
    known = _ledger(page.folder)
    for index, cell in page.cells("markdown") if known is not None else ():
        for group in _CLAIM.findall(cell.source):
            for name in re.findall(r"[\w.-]+", group):
                if known is not None and name not in known and name != "and":
                    yield page.broken(
                        index, f"the claim {name!r} is not in data/claims.csv", "add it there or correct the id"
                    )


def _minutes_in(row: str) -> int | None:
    """Return the minutes of a table row: its last numeric cell."""
    numbers = [re.fullmatch(r"\W*(\d+)\s*(?:min|minutes)?\W*", cell) for cell in row.strip().strip("|").split("|")]
    found = [int(match[1]) for match in numbers if match]
    return found[-1] if found else None


def readme(folder: Path, pages: Sequence[Page]) -> Iterator[Violation]:
    """The README's map lists every lesson with its minutes and their total, and links every guide."""
    path = folder.parent / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    table = [line for line in text.splitlines() if line.lstrip().startswith("|")]
    lessons = [page for page in pages if page.lesson]
    for page in lessons if path.exists() else ():
        row = next((line for line in table if re.search(rf"\b{page.path.stem}\b", line)), None)
        if row is None:
            yield Violation("README.md", "", f"the map does not name {page.path.stem}", "add a row with its minutes")
        elif (mapped := _minutes_in(row)) != minutes(page):
            rule = f"the map gives {page.path.stem} {mapped} minutes, the notebook {minutes(page)}"
            yield Violation("README.md", "", rule, "make them equal")
    for page in pages if path.exists() else ():
        if not page.lesson and (target := f"{folder.name}/{page.path.name}") not in _LINK.findall(text):
            yield Violation("README.md", "", f"does not link {target}", "add a line below the map, or delete the file")
    total = sum(minutes(page) or 0 for page in lessons)
    for row in table:
        if re.match(r"\W*total\b", row, re.I) and _minutes_in(row) not in (None, total):
            yield Violation(
                "README.md", "", f"the total is {_minutes_in(row)} minutes, the notebooks sum to {total}", "correct it"
            )


NOTEBOOK_RULES = (sizes, rows, runs, errors, code, paths, live, metadata, links)
LEARNER_RULES = (opening, length, glossary, claims)
