"""`make`: from the solution to the learner's notebook, and the form in which both are stored."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from agentkit.lab.course.__main__ import main
from agentkit.lab.course.cells import ABSOLUTE, CellError, definitions, normalise, read, stub, student_version
from agentkit.lab.course.make import make

SAMPLES = Path(__file__).parent / "course_samples"
BUILD = runpy.run_path(str(SAMPLES / "build.py"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The sample course, made once: solution run, learner's notebook made and run."""
    folder = BUILD["course"](tmp_path_factory.mktemp("made"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTKIT_LESSONS", str(SAMPLES))
        assert [status for status, _ in make(folder, execute_solutions=True)] == ["made", "made"]
        yield folder


def printed(notebook):
    """What each code cell of a notebook printed."""
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells if "outputs" in cell]


def code(source, *tags):
    """A code cell with tags."""
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


# the learner's version


def test_stub_lines_are_taken_with_the_indent_of_the_mark():
    """What follows `# stub:` is what the learner starts from, at the answer's depth."""
    lines = ["def f(n):", "    ### BEGIN SOLUTION", "    # stub: if n:", "    # stub:     return 0", "    return n"]
    source = "\n".join([*lines, "    ### END SOLUTION\n"])
    assert stub(source) == "def f(n):\n    # your answer here\n    if n:\n        return 0\n"


def test_stub_without_lines_is_three_dots_and_each_answer_has_its_own():
    """A cell may hold several answers; text between them stays."""
    source = "### BEGIN SOLUTION\na = 1\n### END SOLUTION\nb = 2\n### BEGIN SOLUTION\nc = 3\n### END SOLUTION"
    assert stub(source) == "# your answer here\n...\nb = 2\n# your answer here\n..."


def test_student_version_holds_no_answer_and_no_hidden_cell():
    """Nothing of the answer is left, the solution itself is not touched."""
    solution = new_notebook(cells=BUILD["cells"]())
    before = deepcopy(solution)
    text = nbformat.writes(student_version(solution))
    assert "Semaphore" not in text
    assert "max(2, 3, 5)" not in text
    assert "hidden" not in text
    assert solution == before


def test_student_version_answer_without_the_tag_is_refused():
    """An answer in a cell without the tag would leak."""
    cell = code("### BEGIN SOLUTION\nx = 1\n### END SOLUTION")
    with pytest.raises(CellError, match="not the tag exercise; add it, or the answer leaks"):
        student_version(new_notebook(cells=[cell]))


@pytest.mark.parametrize(
    ("source", "tags"),
    [("x = 1", ("exercise", "ex-a")), ("### BEGIN SOLUTION\nx = 1\n### END SOLUTION", ("exercise",))],
)
def test_student_version_exercise_without_marks_or_name_is_refused(source, tags):
    """An exercise needs both, or nobody could grade it."""
    with pytest.raises(CellError, match="needs a tag ex-"):
        student_version(new_notebook(cells=[code(source, *tags)]))


@pytest.mark.parametrize(
    ("link", "wanted"),
    [
        ("../../data/README.md", "../data/README.md"),
        ("../02_next.ipynb", "02_next.ipynb"),
        ("02_next.ipynb#top", "02_next.ipynb#top"),
        ("https://docs.python.org/3/", "https://docs.python.org/3/"),
        ("#top", "#top"),
        ("../../agentkit/lab/loops/virtual.py", "../agentkit/lab/loops/virtual.py"),
    ],
)
def test_student_version_links_are_right_from_one_folder_up(link, wanted):
    """A link that leaves `solutions/` is one step shorter from the learner's notebook."""
    notebook = student_version(new_notebook(cells=[new_markdown_cell(f"See [it]({link}).")]))
    assert notebook.cells[0].source == f"See [it]({wanted})."


# the stored form


def test_make_student_says_todo_and_solution_says_ok(made):
    """The blank reaches its end with todo, the solution with ok, hidden cases too."""
    student, solution = read(made / "90_sample.ipynb"), read(made / "solutions" / "90_sample.ipynb")
    assert "".join(printed(student)).count("todo") == 4
    assert "ok " not in "".join(printed(student))
    assert "".join(printed(solution)).count("ok ") == 6
    assert "todo" not in "".join(printed(solution))


def test_make_stores_one_normal_form(made):
    """Counts 1…n, one kernel name, no random ids, no timing, no widget ids."""
    for path in (made / "90_sample.ipynb", made / "solutions" / "90_sample.ipynb"):
        notebook = read(path)
        counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1))
        assert dict(notebook.metadata) == {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
        }
        assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
        assert [cell.id for cell in notebook.cells][:3] == [
            "90-sample-what-youll-do",
            "import-asyncio-from-agentkit-lab",
            "bound-the-jobs-see-the",
        ]
        assert "widget-view" not in path.read_text(encoding="utf-8")
    nbformat.validate(read(made / "90_sample.ipynb"))


def test_make_again_writes_nothing(made, capsys):
    """The same solution makes the same bytes, and `--check` agrees."""
    files = [made / "90_sample.ipynb", made / "solutions" / "90_sample.ipynb"]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    assert main(["make", "--execute-solutions", "--notebooks", str(made)]) == 0
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before
    assert capsys.readouterr().out.split() == ["same", "solutions/90_sample.ipynb", "same", "90_sample.ipynb"]


def test_make_check_fails_for_a_stale_file_and_leaves_it(made, capsys):
    """An edited learner's notebook is reported and not written."""
    path = made / "90_sample.ipynb"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"Bound the jobs.", b"Bound all jobs."))
    stale = path.read_bytes()
    try:
        assert main(["make", "--check", "--notebooks", str(made)]) == 1
        assert capsys.readouterr().out == "stale   90_sample.ipynb; run make\n"
        assert path.read_bytes() == stale
    finally:
        path.write_bytes(good)


def test_make_picture_bytes_are_not_a_difference_facts_are():
    """Fonts differ from machine to machine; what the chart states does not."""
    from agentkit.lab.course.make import _compared

    def shown(png, text):
        output = new_output("display_data", data={"image/png": png, "text/plain": text})
        return new_notebook(cells=[new_code_cell("x", id="x", outputs=[output])])

    assert _compared(shown("AAAA", "<3 agents>")) == _compared(shown("BBBB", "<3 agents>"))
    assert _compared(shown("AAAA", "<3 agents>")) != _compared(shown("AAAA", "<4 agents>"))


def test_make_failing_cell_is_named_and_the_others_are_made(tmp_path, capsys):
    """A notebook that does not run to its end is not written; the rest is."""
    folder = BUILD["course"](tmp_path)
    broken = new_notebook(cells=[new_markdown_cell("# 10"), code("1 / 0")])
    nbformat.write(broken, folder / "solutions" / "10_broken.ipynb")
    fine = new_notebook(cells=[new_markdown_cell("# 11"), code("1 + 1")])
    nbformat.write(fine, folder / "solutions" / "11_fine.ipynb")
    assert main(["make", "10", "11", "--notebooks", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("failed  10_broken: cell 2 (")
    assert "ZeroDivisionError: division by zero; the tag raises-exception allows it" in lines[0]
    assert lines[1] == "made    11_fine.ipynb"
    assert not (folder / "10_broken.ipynb").exists()


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """A course whose only notebook is a guide, not run yet."""
    folder = tmp_path_factory.mktemp("guide") / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    cells = [new_markdown_cell("# Guide"), code("1 + 1"), code("import random\nrandom.random()", "nbval-ignore-output")]
    nbformat.write(new_notebook(cells=cells), folder / "guide.ipynb")
    return folder


def test_make_runs_a_guide_where_it_lies(guide, capsys):
    """A notebook without a number is its own source: run, stored in normal form, and the same the next time."""
    assert main(["make", "guide", "--notebooks", str(guide)]) == 0
    assert capsys.readouterr().out == "made    guide.ipynb\n"
    notebook = read(guide / "guide.ipynb")
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2]
    assert notebook.cells[1].outputs[0]["data"]["text/plain"] == "2"
    assert notebook.metadata.kernelspec.name == "python3"
    before = (guide / "guide.ipynb").read_bytes()
    assert main(["make", "--notebooks", str(guide)]) == 0
    assert capsys.readouterr().out == "same    guide.ipynb\n"
    assert (guide / "guide.ipynb").read_bytes() == before
    assert not list((guide / "solutions").iterdir())


def test_make_check_sees_a_guide_whose_output_no_longer_holds(guide, capsys):
    """The stored number is compared with a run, and the file is left as it is."""
    path = guide / "guide.ipynb"
    notebook = read(path)
    notebook.cells[1].outputs = [new_output("execute_result", data={"text/plain": "3"}, execution_count=1)]
    nbformat.write(notebook, path)
    stale = path.read_bytes()
    assert main(["make", "--check", "guide", "--notebooks", str(guide)]) == 1
    assert capsys.readouterr().out == "stale   guide.ipynb; run make\n"
    assert path.read_bytes() == stale


def test_guide_is_no_coursework(guide, capsys):
    """What proves and grades exercises does not know it."""
    assert main(["mutants", "guide", "--notebooks", str(guide)]) == 2
    assert "no solution notebook is called guide" in capsys.readouterr().err


def test_normalise_refuses_a_path_in_a_compared_output():
    """A test would compare it, on a machine that has no such folder."""
    path = "/".join(["", "home", "someone", "x.csv"])
    cell = new_code_cell("print(path)", outputs=[new_output("stream", name="stdout", text=f"read {path}\n")])
    with pytest.raises(CellError, match=r"cell 1 \(.*its output holds the path .*x.csv; print a name instead"):
        normalise(new_notebook(cells=[cell]))


def test_normalise_takes_paths_and_foreign_frames_out_of_a_traceback():
    """A traceback is not compared; the frames of installed packages would name this machine."""
    place = "/".join(["", "usr", "lib", "python3.11", "asyncio", "runners.py"])
    frames = [
        "RuntimeError",
        "\x1b[36mCell\x1b[39m In[1], line 1",
        f"\x1b[36mFile\x1b[39m {place}:190, in run",
        f"in {place}",
    ]
    output = new_output("error", ename="RuntimeError", evalue="no", traceback=frames)
    notebook = normalise(new_notebook(cells=[new_code_cell("x", outputs=[output])]))
    assert notebook.cells[0].outputs[0].traceback == [*frames[:2], "in …/runners.py"]


@pytest.mark.parametrize("text", ["C:\\Users\\me\\x.csv", "/".join(["", "tmp", "ipykernel_7", "1.py:3"])])
def test_ABSOLUTE_finds_paths(text):
    """Unix and Windows."""
    assert ABSOLUTE.search(f"warning in {text}: old")


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:8000/v1/chat", "a / b", "../data/x.csv", "and/or", "3 tokens/s", "n:\nr"]
)
def test_ABSOLUTE_leaves_other_text_alone(text):
    """URLs, fractions, relative paths."""
    assert not ABSOLUTE.search(text)


# nbval, strict


def nbval(*paths):
    """Run strict nbval on notebooks in a process of its own; return (failed?, output)."""
    environment = {**os.environ, "AGENTKIT_LESSONS": str(SAMPLES)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
    ]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, env=environment, check=False)
    return done.returncode != 0, done.stdout


def test_make_both_trees_pass_strict_nbval_and_a_leaked_answer_does_not(made, tmp_path):
    """Strict nbval proves todo in one tree and ok in the other, so it sees an answer that leaks."""
    failed, output = nbval(made / "90_sample.ipynb", made / "solutions" / "90_sample.ipynb")
    assert not failed, output
    leaked, solution = read(made / "90_sample.ipynb"), read(made / "solutions" / "90_sample.ipynb")
    leaked.cells[3].source = solution.cells[3].source
    nbformat.write(leaked, tmp_path / "90_leaked.ipynb")
    failed, output = nbval(tmp_path / "90_leaked.ipynb")
    assert failed
    assert "1 failed" in output


def test_definitions_are_what_a_cell_makes_without_doing_anything():
    """Functions, classes, imports and constants stay; calls go, and changes to things that may not be there."""
    cell = "import math\nA, B = 1, 2\nbox.size = 4\nbox[0] = 5\nrun = start()\ndef half(x):\n    return x / 2"
    kept = [ast.unparse(node).split("\n")[0] for node in definitions(cell).body]
    assert kept == ["import math", "A, B = (1, 2)", "def half(x):"]
