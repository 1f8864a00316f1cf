"""What mypy and pyright infer from the signatures, and which mistakes they find: the programs of `tests/typing`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "typing" / "programs.py"
LINES = PROGRAMS.read_text("utf-8").splitlines()
EXPECTED = {number: line.partition("# E: ")[2] for number, line in enumerate(LINES, 1) if "  # E: " in line}

# What agentkit itself draws on is left out, for speed.
MYPY = """[mypy]
strict = True
[mypy-openai.*,pandas.*,numpy.*,matplotlib.*,tqdm.*,agentkit.plots.*]
follow_imports = skip
"""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    root = PROGRAMS.parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
           "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # fmt: skip
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=root, env=env)


def _check(found: list[tuple[int, str]]) -> None:
    """Compare the errors found, as `(line, message)`, with those expected."""
    messages: dict[int, str] = {}
    for number, message in found:
        messages[number] = f"{messages.get(number, '')}{message}\n"
    wrong = []
    for number in sorted(EXPECTED.keys() | messages.keys()):
        words, message = EXPECTED.get(number), messages.get(number)
        if message is None:
            wrong.append(f"line {number} was accepted, expected an error: {words}")
        elif words is None or words not in message:
            wrong.append(f"line {number}, expected {words or 'no error'}: {message}")
    assert not wrong, "\n".join(wrong)


def test_there_are_twenty_programs() -> None:
    """Both checkers read the same twenty programs, with more than twenty mistakes in them."""
    assert len([line for line in LINES if re.match(r"async def program_\d\d\(", line)]) == 20
    assert len(EXPECTED) > 20


def test_mypy(tmp_path: Path) -> None:
    """`mypy --strict` infers the stated types, and finds each mistake and nothing else."""
    config = tmp_path / "mypy.ini"
    config.write_text(MYPY)
    done = _run("mypy", "--config-file", str(config), "--cache-dir", os.devnull, "--output", "json", str(PROGRAMS))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = [json.loads(line) for line in done.stdout.splitlines()]
    _check([(e["line"], e["message"]) for e in errors if Path(e["file"]).name == PROGRAMS.name])


def test_pyright() -> None:
    """Pyright in strict mode infers the same types, and finds the same mistakes."""
    tried = _run("pyright", "--version")
    if tried.returncode:
        pytest.skip(f"pyright cannot start here: {(tried.stderr.strip() or 'no reason given').splitlines()[-1]}")
    done = _run("pyright", "--pythonpath", sys.executable, "--outputjson", str(PROGRAMS))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = json.loads(done.stdout)["generalDiagnostics"]
    _check([(e["range"]["start"]["line"] + 1, e["message"]) for e in errors])
