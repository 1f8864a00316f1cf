"""`grade`: every kind of submission a class hands in gets the right verdict, and none stops the grader."""

from __future__ import annotations

import json
import runpy
import uuid
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from agentkit.lab.course.__main__ import main
from agentkit.lab.course.cells import read, tags
from agentkit.lab.course.grade import ResourceLimits, grade
from agentkit.lab.course.make import make

SAMPLES = Path(__file__).parent / "course_samples"
BUILD = runpy.run_path(str(SAMPLES / "build.py"))
RIGHT = BUILD["LIMIT"]

OTHER_WAY = """async def limited(jobs, k):
    results, waiting = {}, list(enumerate(jobs))

    async def worker():
        while waiting:
            index, job = waiting.pop(0)
            results[index] = await job()

    await asyncio.gather(*(worker() for _ in range(k)))
    return [results[index] for index in range(len(jobs))]"""
UNLIMITED = "async def limited(jobs, k):\n    return await asyncio.gather(*(job() for job in jobs))"
SERIAL = "async def limited(jobs, k):\n    return [await job() for job in jobs]"
SWALLOWED = RIGHT.replace("gather(*map(one, jobs))", "gather(*map(one, jobs), return_exceptions=True)")


def cell(notebook, tag):
    """The cell with a tag."""
    return next(cell for cell in notebook.cells if tag in tags(cell))


def answered(limit=RIGHT, total="total = 5"):
    """An edit that fills in both exercises."""

    def edit(notebook):
        cell(notebook, "ex-limit").source = limit
        cell(notebook, "ex-total").source = total

    return edit


def then(change, **answers):
    """Fill in both exercises, then change something else."""

    def edit(notebook):
        answered(**answers)(notebook)
        change(notebook)

    return edit


def delete_cell(notebook):
    """The exercise is gone."""
    notebook.cells.remove(cell(notebook, "ex-limit"))


def rename_tag(notebook):
    """The tag was typed over."""
    cell(notebook, "ex-limit").metadata.tags = ["exercise", "ex-limits"]


def rename_ids(notebook):
    """Another tool gave every cell another id."""
    for each in notebook.cells:
        each.id = uuid.uuid4().hex[:8]


def edit_check(notebook):
    """The check cells print what the learner would like to see."""
    for each in notebook.cells:
        each.source = each.source.replace('check("ex-limit", limited)', 'print("ok    everything")')


def strip(notebook):
    """As nbstripout leaves it: no outputs, no counts, numbered ids."""
    for number, each in enumerate(notebook.cells):
        each.id = str(number)
        if each.cell_type == "code":
            each.outputs, each.execution_count = [], None


def round_trip(notebook):
    """As jupytext leaves it after percent format and back: new ids, no outputs, its own metadata, tags kept."""
    strip(notebook)
    rename_ids(notebook)
    header = {"extension": ".py", "format_name": "percent", "format_version": "1.3", "jupytext_version": "1.19.6"}
    notebook.metadata = nbformat.from_dict(
        {"jupytext": {"text_representation": header}, "kernelspec": notebook.metadata.kernelspec}
    )


def other_kernel(notebook):
    """Saved on a machine whose kernels are called otherwise."""
    notebook.metadata.kernelspec.name = "conda-env-teaching-py"
    notebook.metadata.language_info = {"name": "python", "version": "3.9.1"}


def copied(notebook):
    """The exercise cell twice, the second time right."""
    notebook.cells.append(new_code_cell(RIGHT, metadata={"tags": ["exercise", "ex-limit"]}))


KINDS = {
    # name: (edit of the learner's notebook, verdict on ex-limit, verdict on ex-total, piece of the message)
    "blank": (lambda notebook: None, "blank", "blank", "not answered yet"),
    "right": (answered(), "ok", "ok", ""),
    "right in another way": (answered(OTHER_WAY), "ok", "ok", ""),
    "mutant, unlimited": (answered(UNLIMITED), "wrong", "ok", "9 were in flight with k = 3"),
    "mutant, serial": (answered(SERIAL), "wrong", "ok", "they took 3 s instead of 1 s"),
    "mutant, swallows": (answered(SWALLOWED), "wrong", "ok", "the error was swallowed"),
    "syntax error": (
        answered("async def limited(jobs, k)\n    pass"),
        "error",
        "ok",
        "SyntaxError: expected ':' (line 1)",
    ),
    "deleted cell": (then(delete_cell), "missing", "ok", "no cell has the tag ex-limit; it was deleted or renamed"),
    "renamed cell, tag": (then(rename_tag), "missing", "ok", "there is one tagged ex-limits"),
    "renamed cell, ids": (then(rename_ids), "ok", "ok", ""),
    "edited check": (then(edit_check, limit=UNLIMITED), "wrong", "ok", "9 were in flight"),
    "hidden check": (
        answered(UNLIMITED + "\ndef check(*args, **named): print('ok')"),
        "unchecked",
        "unchecked",
        "hide the name check",
    ),
    "endless loop in the cell": (answered("while True:\n    pass"), "time", "ok", "did not end within its bound"),
    "endless loop in the answer": (
        answered("async def limited(jobs, k):\n    while True:\n        pass"),
        "time",
        "ok",
        "did not end within 3 s",
    ),
    "endless wait in the cell": (answered("await asyncio.sleep(10_000)"), "time", "ok", "did not end within its bound"),
    "loop that cannot be interrupted": (
        answered(
            "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
        ),
        "time",
        "ok",
        "did not end within its bound",
    ),
    "memory hog": (answered("hoard = bytearray(10**11)"), "memory", "ok", "MemoryError"),
    "memory hog in the answer": (
        answered("async def limited(jobs, k):\n    return bytearray(10**11)"),
        "memory",
        "ok",
        "more memory than is allowed",
    ),
    "stripped outputs": (then(strip), "ok", "ok", ""),
    "jupytext and back": (then(round_trip), "ok", "ok", ""),
    "other kernel name": (then(other_kernel), "ok", "ok", ""),
    "sys.exit in the cell": (answered("import sys\nsys.exit()"), "error", "ok", "SystemExit"),
    "sys.exit in the answer": (
        answered("import sys\nasync def limited(jobs, k):\n    sys.exit()"),
        "wrong",
        "ok",
        "the answer called sys.exit",
    ),
    "quit()": (answered("quit()"), "error", "ok", "SystemExit: the cell ends the kernel"),
    "os._exit": (answered("import os\nos._exit(3)"), "died", "ok", "the kernel was lost"),
    "prints noise": (answered(RIGHT + "\nfor i in range(20_000):\n    print('ok ' * 20)"), "ok", "ok", ""),
    "no answer defined": (answered("limitd = 3"), "unchecked", "ok", "name 'limited' is not defined"),
    "two cells of one name": (then(copied, limit=UNLIMITED), "ok", "ok", ""),
    "wrong value": (answered(total="total = 'five'"), "ok", "wrong", "got five"),
}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The sample course, made."""
    folder = BUILD["course"](tmp_path_factory.mktemp("course"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTKIT_LESSONS", str(SAMPLES))
        make(folder, execute_solutions=True)
        yield folder


@pytest.fixture(scope="module")
def graded(course, tmp_path_factory):
    """All kinds of submission, graded two at a time: (result, JSON) by kind."""
    handed_in, out = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("out")
    handed_out = read(course / "90_sample.ipynb")
    paths = []
    for number, (edit, *_) in enumerate(KINDS.values()):
        notebook = deepcopy(handed_out)
        edit(notebook)
        paths.append(handed_in / f"student_{number:02}.ipynb")
        nbformat.write(notebook, paths[-1])
    results = grade(course, paths, out=out, limits=ResourceLimits(seconds=2), jobs=2)
    files = [json.loads((out / f"{path.stem}.json").read_text(encoding="utf-8")) for path in paths]
    return dict(zip(KINDS, zip(results, files, strict=True), strict=True))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_grade_kind(graded, kind):
    """Both exercises get their verdict, and the JSON file says the same."""
    _, limit, total, said = KINDS[kind]
    result, stored = graded[kind]
    assert result.error == ""
    assert [mark.verdict for mark in result.marks] == [limit, total], result.marks
    assert said in result.marks[0].message + result.marks[1].message
    assert [mark["verdict"] for mark in stored["marks"]] == [limit, total]
    assert stored["right"] == [limit, total].count("ok")


def test_grade_names_the_failing_case_and_whether_it_is_hidden(graded):
    """The verdict is in the words of the case; a hidden case is marked as such."""
    visible, hidden = graded["mutant, unlimited"][0].marks[0], graded["mutant, swallows"][0].marks[0]
    assert (visible.case, visible.hidden) == ("At most k jobs are in flight", False)
    assert (hidden.case, hidden.hidden) == ("An error of a job comes out of the call", True)
    assert [(case["ok"], case["hidden"]) for case in hidden.cases] == [(True, False)] * 3 + [(False, True)]


def test_grade_table_and_exit_code(course, tmp_path, capsys):
    """One line per submission, one per exercise that is not ok; exit code 1 unless all are right."""
    blank = tmp_path / "ana" / "90_sample.ipynb"
    blank.parent.mkdir()
    nbformat.write(read(course / "90_sample.ipynb"), blank)
    broken = tmp_path / "ben" / "90_sample.ipynb"
    broken.parent.mkdir()
    broken.write_text("<html>", encoding="utf-8")
    other = tmp_path / "cy" / "homework.ipynb"
    other.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(), other)
    call = ["grade", str(blank), str(broken), str(other), str(tmp_path / "none.ipynb")]
    assert main([*call, "--notebooks", str(course), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ana/90_sample.ipynb  0 of 2 right  ex-limit blank  ex-total blank",
        "    ex-limit: not answered yet",
        "    ex-total: not answered yet",
        "ben/90_sample.ipynb  not graded: 90_sample.ipynb: not a notebook (NotJSONError); "
        "save it again from JupyterLab",
        "cy/homework.ipynb  not graded: no exercise cell is left in it, and its name does not begin with a lesson's "
        "number; say --lesson NN",
        "none.ipynb  not graded: none.ipynb: there is no such file",
    ]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["ana__90_sample.json", "ben__90_sample.json", "cy__homework.json", "none.json"]


def test_grade_solution_itself_is_right(course, tmp_path, capsys):
    """The solution notebook handed in passes, and the exit code is 0."""
    path = course / "solutions" / "90_sample.ipynb"
    assert main(["grade", str(path), "--notebooks", str(course), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "90_sample.ipynb  2 of 2 right  ex-limit ok  ex-total ok\n"


def test_grade_check_inside_the_exercise_cell_cannot_be_lost(course, tmp_path, capsys):
    """With answer and check in one cell, a submission that drops or changes the check is still checked."""
    folder = tmp_path / "course"
    (folder / "solutions").mkdir(parents=True)
    notebook = read(course / "solutions" / "90_sample.ipynb")
    cell(notebook, "ex-total").source += '\n\ncheck("ex-total", total)'
    notebook.cells = [each for each in notebook.cells if each.source != 'check("ex-total", total)']
    nbformat.write(notebook, folder / "solutions" / "90_sample.ipynb")
    for name, source in {"a": "total = 5", "b": "total = 6", "c": 'total = 6\n\ncheck("ex-total", 5)'}.items():
        answered(total=source)(notebook)
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    paths = [tmp_path / f"{name}.ipynb" for name in "abc"]
    results = grade(folder, paths, out=tmp_path / "out", jobs=2)
    assert [result.marks[1].verdict for result in results] == ["ok", "wrong", "wrong"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory", "64"], "memory must be 512 or more, got 64"),
        (["--seconds", "0"], "seconds must be above 0, got 0.0"),
        (["--jobs", "0"], "jobs must be 1 or more, got 0"),
    ],
)
def test_grade_bad_bounds_are_a_wrong_call(course, tmp_path, capsys, options, said):
    """The error names option, rule and value; exit code 2."""
    call = ["grade", "x.ipynb", "--notebooks", str(course), "--out", str(tmp_path)]
    assert main([*call, *options]) == 2
    assert said in capsys.readouterr().err
