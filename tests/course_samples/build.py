"""Builds the sample course of the tests in a folder: `notebooks/solutions/90_sample.ipynb`, never run."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

SAMPLES = Path(__file__).parent

OPENING = """# 90 Sample

**What you'll do.** Bound a crowd of jobs.
**What you'll be able to do.** Say how many are in flight.
**What you need.** Nothing.
**Minutes:** 10"""

LIMIT = '''async def limited(jobs, k):
    """Run all jobs, at most k at a time; return their results in order."""
    ### BEGIN SOLUTION
    gate = asyncio.Semaphore(k)

    async def one(job):
        async with gate:
            return await job()

    return await asyncio.gather(*map(one, jobs))
    ### END SOLUTION'''

TOTAL = """# Three agents wait 2, 3 and 5 s together. How long do they take?
### BEGIN SOLUTION
# stub: total = ...
total = max(2, 3, 5)
### END SOLUTION"""


def cells():
    """The cells of the sample solution, fresh ones."""

    def code(source, *tags, **more):
        return new_code_cell(source, metadata={"tags": list(tags)} if tags else {}, **more)

    return [
        new_markdown_cell(OPENING),
        code("import asyncio\n\nfrom agentkit.lab.course import check, quiz"),
        new_markdown_cell("Bound the jobs. See [the data](../../data/README.md) and [the next](90_sample.ipynb)."),
        code(LIMIT, "exercise", "ex-limit"),
        code('check("ex-limit", limited)'),
        code('check("ex-limit", limited, hidden=True)', "hidden"),
        new_markdown_cell("How long?"),
        code(TOTAL, "exercise", "ex-total"),
        code('check("ex-total", total)'),
        code('check("ex-total", total, hidden=True)', "hidden"),
        new_markdown_cell("What is right?"),
        code('quiz("90")'),
    ]


def course(folder: Path) -> Path:
    """Write the sample course into `folder` and return its `notebooks` folder."""
    notebooks = folder / "notebooks"
    (notebooks / "solutions").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "data" / "README.md").write_text("# Data\n", encoding="utf-8")
    (folder / "README.md").write_text("| [90](notebooks/90_sample.ipynb) 90_sample | 10 |\n", encoding="utf-8")
    notebook = new_notebook(cells=cells())
    nbformat.write(notebook, notebooks / "solutions" / "90_sample.ipynb")
    return notebooks
