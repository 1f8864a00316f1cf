"""The command line: `python -m agentkit.lab.course make | mutants | check | grade`.

What it holds: the argument parser only; `make`, `mutants` and `grade` are modules of the same name, `check` is `style`.
The exit code is 0 for success, 1 if something is stale, wrong or against the rules, 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m agentkit.lab.course", description="make, prove and grade coursework"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make the learner's notebooks from the solutions")
    make.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    make.add_argument("--execute-solutions", action="store_true", help="also run the solution notebooks, in place")
    mutants = commands.add_parser("mutants", help="prove that blanks and wrong answers fail and solutions pass")
    style = commands.add_parser("check", help="check the style of all notebooks, without running them")
    grade = commands.add_parser("grade", help="grade submissions: a table, and a JSON file for each")
    grade.add_argument("files", nargs="+", type=Path, metavar="FILE", help="notebooks handed in")
    grade.add_argument("--out", type=Path, default=Path("graded"), help="folder of the JSON files (default: graded)")
    grade.add_argument("--lesson", help="the lesson's number, if neither tags nor file name tell it")
    grade.add_argument("--seconds", type=float, default=3.0, help="bound of one exercise cell (default: 3)")
    grade.add_argument("--jobs", type=int, default=1, help="submissions at the same time (default: 1)")
    grade.add_argument("--memory", type=int, default=1024, help="bound of the kernel's memory in MB (default: 1024)")
    for command in (make, mutants):
        command.add_argument("names", nargs="*", metavar="NAME", help="notebooks by name or number (default: all)")
    for command in (make, mutants, style, grade):
        command.add_argument("--notebooks", type=Path, help="the folder that holds solutions/ (default: notebooks)")
    return parser


def _notebooks(given: Path | None) -> Path:
    """Return the notebooks folder: the given one, `./notebooks`, or the one next to the package."""
    for folder in [given] if given else [Path("notebooks"), Path(__file__).parents[3] / "notebooks"]:
        if (folder / "solutions").is_dir():
            return folder.resolve()
    raise ValueError(f"{given or 'notebooks'} holds no folder solutions; name the one that does: --notebooks FOLDER")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(argv)
    from agentkit.lab.course.cells import CellError

    try:
        return _command(options, _notebooks(options.notebooks))
    except (CellError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _command(options: argparse.Namespace, folder: Path) -> int:
    """Import the module of the command and call it."""
    if options.command == "make":
        from agentkit.lab.course.make import make

        done = make(folder, options.names, only_check=options.check, execute_solutions=options.execute_solutions)
        return int(any(status in ("stale", "failed") for status, _ in done))
    if options.command == "mutants":
        from agentkit.lab.course.mutants import mutants

        return int(not mutants(folder, options.names))
    if options.command == "check":
        from agentkit.lab.course.style import report

        return int(bool(report(folder)))
    from agentkit.lab.course.grade import ResourceLimits, grade

    limits = ResourceLimits(seconds=options.seconds, memory=options.memory)
    results = grade(folder, options.files, out=options.out, lesson=options.lesson, limits=limits, jobs=options.jobs)
    return int(not all(result.passed for result in results))


if __name__ == "__main__":
    sys.exit(main())
