"""The style rules about words: the opening, the length, links, glossary spellings, claims, and the README's map.

What it holds: `RULES` over one page, and `readme` over all of them. Guarantee: code, formulas and link targets are
not read as prose. Strategy: the glossary is a table of what not to write and what to write instead; it grows by a
line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentkit.lab.course.page import Page, Violation

__all__ = ["RULES", "links", "minutes", "readme"]

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


def minutes(page: Page) -> int | None:
    """Return the minutes that the opening states, None if it does not."""
    text = page.notebook.cells[0].source if page.notebook.cells else ""
    found = re.search(r"minutes?\W{1,6}(\d+)|(\d+)\s*(?:min\b|minutes?)", text, re.I)
    return int(found[1] or found[2]) if found else None


def opening(page: Page) -> Iterator[Violation]:
    """The first cell tells what, what for, what is needed and how long; of a guide, what it answers and needs."""
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
    """A lesson has at most 1,800 words, a guide 1,200."""
    words = sum(len(_CODE.sub(" ", cell.source).split()) for _, cell in page.cells("markdown"))
    allowed = page.bounds.words
    if words > allowed:
        yield page.broken(None, f"{words:,} words, {allowed:,} allowed", "cut, or move text to another lesson")


def links(page: Page) -> Iterator[Violation]:
    """Every relative link and every named notebook is there."""
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
    """One word per idea, spelled one way."""
    for index, cell in page.cells("markdown"):
        text = _CODE.sub(" ", cell.source)
        for pattern, better in GLOSSARY.items():
            if found := re.search(rf"\b(?:{pattern})", text):
                yield page.broken(index, f"writes {found[0]!r}", f"the word here is: {better}")


def _ledger(folder: Path) -> set[str] | None:
    """Return the ids of the claims ledger, None if there is none yet."""
    path = folder.parent / "data" / "claims.csv"
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("id") if rows and "id" in rows[0] else 0
    return {row[column] for row in rows[1:] if row}


def claims(page: Page) -> Iterator[Violation]:
    """Every (claim id) is in the ledger."""
    known = _ledger(page.folder)
    for index, cell in page.cells("markdown") if known is not None else ():
        for group in _CLAIM.findall(cell.source):
            for name in re.findall(r"[\w.-]+", group):
                if known is not None and name not in known and name != "and":
                    yield page.broken(
                        index, f"the claim {name!r} is not in data/claims.csv", "add it there or correct the id"
                    )


def _minutes_in(row: str) -> int | None:
    """Return the minutes of a table row: the last cell that is a number."""
    numbers = [re.fullmatch(r"\W*(\d+)\s*(?:min|minutes)?\W*", cell) for cell in row.strip().strip("|").split("|")]
    found = [int(match[1]) for match in numbers if match]
    return found[-1] if found else None


def readme(folder: Path, pages: Sequence[Page]) -> Iterator[Violation]:
    """The README's map names every lesson with its minutes, a row called total has their sum; guides are linked."""
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


RULES = (opening, length, glossary, claims)
