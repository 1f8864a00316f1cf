"""`mutants`: an exercise is proven only if blanks and wrong answers fail and the solution passes."""

from __future__ import annotations

import runpy
from pathlib import Path

import nbformat
import pytest

from agentkit.lab.course.__main__ import main
from agentkit.lab.course.cells import read, solutions
from agentkit.lab.course.mutants import mutants

HERE = Path(__file__).parent
BUILD = runpy.run_path(str(HERE / "course_samples" / "build.py"))
COURSE = HERE.parent / "notebooks"


@pytest.fixture
def prove(tmp_path, monkeypatch, capsys):
    """Prove the sample course after changing a piece of its lesson file or notebook; return what is printed."""

    def run(old="", new="", *, cell="", instead="", then=("", "")):
        folder = BUILD["course"](tmp_path)
        source = (HERE / "course_samples" / "lesson_90.py").read_text(encoding="utf-8")
        assert old in source
        (tmp_path / "lesson_90.py").write_text(source.replace(old, new, 1) if old else source, encoding="utf-8")
        monkeypatch.setenv("AGENTKIT_LESSONS", str(tmp_path))
        path = folder / "solutions" / "90_sample.ipynb"
        notebook = read(path)
        for each in notebook.cells:
            each.source = each.source.replace(cell, instead) if cell else each.source
            each.source = each.source.replace(*then) if then[0] else each.source
        nbformat.write(notebook, path)
        proven = mutants(folder, ["90"])
        return proven, capsys.readouterr().out

    return run


@pytest.mark.parametrize("path", solutions(COURSE), ids=lambda path: path.stem)
def test_mutants_every_exercise_of_the_course_is_proven(path, capsys):
    """Unsolved says todo, the solution ok, and each of at least three wrong answers is rejected."""
    assert mutants(COURSE, [path.stem]), capsys.readouterr().out


def test_mutants_sample_is_proven(prove):
    """The sample as it is has no problem."""
    assert prove() == (
        True,
        "ok     90_sample  ex-limit  4 wrong answers rejected\nok     90_sample  ex-total  3 wrong answers rejected\n",
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("wrong=[10, 3,", "wrong=[", "has 1 wrong answers, needs 3; add mistakes a learner would make"),
        ("hidden=[is_number]", "hidden=[]", "has no hidden case"),
        ("wrong=[10, 3,", "wrong=[10, 5,", "a wrong answer passes: 5; add a case that rejects it"),
        (
            "assert total == 5",
            "assert total == 6",
            "the solution is rejected: The total is the time of the longest wait: got 5",
        ),
        ("total = 'five'", "totl = 'five'", "a wrong answer cannot be tried: the cell \"totl = 'five'\": NameError"),
        ("total = 'five'", "total = 7", "a case rejects no wrong answer: The total is a number, in seconds"),
        ("return await job()", "return await jobs()", "the solution holds no such text"),
        ('"ex-total": Exercise', '"ex-sum": Exercise', "is not in the EXERCISES of lesson 90"),
        ('"ex-total": Exercise', '"ex-sum": Exercise', "has no cell tagged exercise and ex-sum in 90_sample.ipynb"),
    ],
    ids=lambda text: text[:30],
)
def test_mutants_problem_is_named(prove, old, new, said):
    """Each gap in an exercise is a line that says what to add."""
    if old == "return await job()":
        old, new = 'swap("' + old, 'swap("' + new
    proven, output = prove(old, new)
    assert not proven
    assert said in output


@pytest.mark.parametrize(
    ("cell", "instead", "said"),
    [
        (
            "# stub: total = ...",
            "# stub: total = 5",
            "the blank passes every visible case; a case must reject the stub",
        ),
        (
            'check("ex-total", total',
            'print("ex-total", total',
            "is never checked; add a cell check('ex-total', …) below it",
        ),
        ("total = max(2", "total = maximum(2", "the cell cannot run with what the cells above it define: NameError"),
    ],
    ids=["leak", "unchecked", "broken"],
)
def test_mutants_problem_of_the_notebook_is_named(prove, cell, instead, said):
    """A stub that is the answer, a missing check, a broken solution."""
    proven, output = prove(cell=cell, instead=instead)
    assert not proven
    assert said in output


def test_mutants_cell_may_use_what_the_cells_above_define(prove):
    """Imports, functions and constants above the exercise are there; experiments above it do not run."""
    above = "import asyncio\nLONGEST = 5\nraise SystemExit('an experiment')\ndef longest(*waits): return max(waits)"
    proven, output = prove(
        "", "", cell="import asyncio", instead=above, then=("max(2, 3, 5)", "longest(2, 3, LONGEST)")
    )
    assert proven, output


def test_mutants_unknown_notebook_is_a_wrong_call(tmp_path, capsys):
    """The error lists the notebooks there are."""
    folder = BUILD["course"](tmp_path)
    assert main(["mutants", "77", "--notebooks", str(folder)]) == 2
    assert "no solution notebook is called 77; there are: 90_sample" in capsys.readouterr().err
