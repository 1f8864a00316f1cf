"""Mutation testing: break the code in small ways and check that a test fails each time.

    make mutants                                    # 200 mutants of six rooms
    python tests/mutation/mutate.py --room retry --sample 50 --seed 7

How to read it: a mutant is the package with one small change, such as `<` for `<=` or a statement left out. It is
*killed* if a test of its room fails, crashes or uses too much CPU time; it has *survived* if they all pass. A survivor
is printed as `file:line  before -> after`. Either a test is missing for what that line does, so write it; or the change
makes no difference, so add a row with a one-line proof to `equivalents.csv`, and the mutant no longer counts. Exits 1
if fewer than 90 % are killed, if a row there matches no mutant, or if the rows exceed 5 % of all mutants.

The sample is drawn evenly from the rooms. Its seed is printed; the default comes from the current commit, so the same
commit always draws the same sample. Nothing is written to disk: a warm parent process imports what the tests import,
except agentkit itself, and forks once per mutant; the child compiles the changed syntax tree in memory. Each mutant has
a limit of CPU time rather than of seconds, so a busy machine kills none. Needs `os.fork` (Linux, macOS).
Type hints, strings, decorators, asserts and imports are not mutated.
"""

from __future__ import annotations

import argparse
import ast
import copy
import csv
import importlib
import importlib.abc
import importlib.util
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parents[2]
TESTS = {  # room -> its tests, as tests/test_NAME.py
    "semaphore": ("semaphore", "adaptive", "waiters"),
    "limits": ("budget", "rate", "rate_client", "budget_runs", "retry"),
    "retry": ("retry",),
    "locks": ("locks", "waiters"),
    "state": ("state",),
    "executor": ("executor", "run", "executor_limits", "call", "map", "traps", "doors"),
}
PASS_MARK, MOST_EQUIVALENTS = 0.90, 0.05
MEMORY = 4 << 30  # bytes of address space per mutant
END = "the tests imported:"  # a child prints this last, with the names of the modules

COMPARE = {
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn], ast.NotIn: [ast.In],
}  # fmt: skip
SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
DELETED = (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Delete)
SKIPPED = {"annotation", "returns", "decorator_list", "type_params", "format_spec", "bases"}  # fields of a node


@dataclass(frozen=True)
class Mutant:
    """One change to one file: `old`, the child of `parent` in `field` (at `index` if that is a list), becomes `new`."""

    room: str
    file: str
    line: str  # the text of the source line
    nth: int  # among the same changes to this line, from 1
    tree: ast.Module
    parent: ast.AST
    field: str
    index: int | None
    old: ast.expr | ast.stmt
    new: ast.expr | ast.stmt

    @property
    def change(self) -> str:
        """The source before and after, without the blocks of a statement."""
        change = " -> ".join(ast.unparse(node).splitlines()[0][:90] for node in (self.old, self.new))
        return change if self.nth == 1 else f"{change} ({self.nth})"

    def apply(self) -> ast.Module:
        """Change the tree, for good."""
        if self.index is None:
            setattr(self.parent, self.field, self.new)
        else:
            getattr(self.parent, self.field)[self.index] = self.new
        ast.copy_location(self.new, self.old)
        return ast.fix_missing_locations(self.tree)


def replacements(node: ast.AST, in_function: bool) -> Iterator[ast.expr | ast.stmt]:
    """Every node that takes the place of `node` in one mutant.

    >>> [ast.unparse(new) for new in replacements(ast.parse("a < b", mode="eval").body, True)]
    ['a <= b', 'a >= b']
    """
    match node:
        case ast.Compare(left, ops, comparators):
            for i, op in enumerate(ops):
                for other in COMPARE[type(op)]:
                    yield ast.Compare(left, [*ops[:i], other(), *ops[i + 1 :]], comparators)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in SWAPPED:
            new = copy.copy(node)
            new.op = SWAPPED[type(op)]()
            yield new
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Return(ast.expr() as value) if ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case ast.If(ast.Name() | ast.Attribute() | ast.Call() as test, body, orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Break() | ast.Continue():
            yield ast.Continue() if isinstance(node, ast.Break) else ast.Break()
    if in_function and (isinstance(node, DELETED) or (isinstance(node, ast.Return) and not node.value)):
        yield ast.Pass()


def _is_skipped(node: ast.AST) -> bool:
    """Whether nothing inside `node` is mutated: a docstring, an assert, code for type checkers alone."""
    match node:
        case ast.Expr(ast.Constant()):
            return True
        case ast.Assign([ast.Name("__all__" | "__slots__")]) | ast.If(ast.Name("TYPE_CHECKING")) | ast.Assert():
            return True
    return False


def mutants(source: str, room: str = "", file: str = "") -> Iterator[Mutant]:
    r"""All mutants of one module, in the order of its source.

    >>> for mutant in mutants("def f(a: int = 1):\n    'Docstring.'\n    return not a"):
    ...     print(mutant.old.lineno, mutant.change)
    1 1 -> 2
    1 1 -> 0
    3 return not a -> return None
    3 not a -> a
    """
    tree, lines, seen = ast.parse(source), source.splitlines(), Counter[tuple[int, str]]()

    def visit(parent: ast.AST, in_function: bool) -> Iterator[Mutant]:
        in_function |= isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for field, value in ast.iter_fields(parent):
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if field in SKIPPED or not isinstance(node, ast.AST) or _is_skipped(node):
                    continue
                for new in replacements(node, in_function):
                    text = lines[node.lineno - 1].strip()
                    mutant = Mutant(room, file, text, 1, tree, parent, field, index, node, new)
                    seen[node.lineno, mutant.change] += 1
                    yield replace(mutant, nth=seen[node.lineno, mutant.change])
                yield from visit(node, in_function)

    return visit(tree, False)


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module of the package from a mutant; all others as usual."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant, self.path = mutant, str(ROOT / mutant.file)
        self.name = mutant.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return a spec for the mutated module, None for others."""
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def exec_module(self, module: object) -> None:
        """Run the mutated module."""
        exec(compile(self.mutant.apply(), self.path, "exec", dont_inherit=True), vars(module))


def pytest_sessionstart() -> None:
    """Pytest hook, called after `conftest.py` has loaded its profile: the first failing example is enough."""
    settings.register_profile("mutants", settings(), phases=(Phase.explicit, Phase.generate))
    settings.load_profile("mutants")


def fork(mutant: Mutant, output: int, cpu_seconds: int) -> int:
    """Run the room's tests in a child process, which exits with pytest's exit code; return its process id."""
    if pid := os.fork():
        return pid
    code = 1  # a mutant that cannot be imported is killed
    try:
        os.setpgid(0, 0)  # so that the parent can kill all that the tests started
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 2))
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        loader = Loader(mutant)
        sys.meta_path.insert(0, loader)
        importlib.import_module(loader.name)
        options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout=30", "--tb=short", "--assert=plain"]
        paths = [*(f"tests/test_{name}.py" for name in TESTS[mutant.room]), f"agentkit/{mutant.room}"]
        code = int(pytest.main([*options, *paths], plugins=[sys.modules[__name__]]))
        names = [name for name in sys.modules if name.split(".")[0] not in ("agentkit", "tests", "conftest")]
        print(END, *names, flush=True)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def warm_up(mutant: Mutant) -> int:
    """Check that the room's tests pass without a change, import what they import; return the CPU seconds to allow."""
    with tempfile.TemporaryFile() as file:
        _, status, usage = os.wait4(fork(replace(mutant, new=mutant.old), file.fileno(), 600), 0)
        file.seek(0)
        text, _, names = file.read().decode(errors="replace").partition(END)
    if status:
        sys.exit(f"{text}\nthe tests of {mutant.room} must pass before mutants are tried; fix them first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names.split():
            with suppress(Exception):  # some private modules can be imported by their package only
                importlib.import_module(name)
    return int(5 + 3 * (usage.ru_utime + usage.ru_stime))


def try_all(chosen: list[Mutant], jobs: int) -> list[Mutant]:
    """Run the tests against each mutant, `jobs` at once; print and return those that survive."""
    cpu_seconds = {room: warm_up(mutant) for room, mutant in {mutant.room: mutant for mutant in chosen}.items()}
    survivors, running, waiting = [], {}, chosen[::-1]
    with open(os.devnull, "w") as nowhere:
        while waiting or running:
            while waiting and len(running) < jobs:
                limit = cpu_seconds[(mutant := waiting.pop()).room]
                running[fork(mutant, nowhere.fileno(), limit)] = mutant, time.monotonic() + 10 * limit
            time.sleep(0.02)
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid and (ended := running.pop(pid)[0]) and not status:
                survivors.append(ended)
                print(f"{ended.file}:{ended.old.lineno}  {ended.change}", flush=True)
            for late, (_, until) in running.items():
                if time.monotonic() > until:  # it waits without using CPU time
                    os.killpg(late, signal.SIGKILL)
    return survivors


def main() -> int:
    """Draw a sample, try it, print what survived."""
    parser = argparse.ArgumentParser(description="Mutation testing of the rooms that everything rests on.")
    parser.add_argument("--sample", type=int, default=200, help="how many mutants, over all rooms; 0 for every one")
    parser.add_argument("--seed", type=int, help="default: from the current commit")
    parser.add_argument("--room", action="append", choices=TESTS, help="may be repeated; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    if args.seed is None:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
        args.seed = int(commit[:7] or "0", 16)
    with open(Path(__file__).with_name("equivalents.csv"), encoding="utf-8", newline="") as file:
        same = {(row["file"], row["line"], row["mutation"]) for row in csv.DictReader(file)}
    rooms, matched, chosen, count = args.room or list(TESTS), set(), [], 0
    for i, room in enumerate(rooms):
        found = []
        for path in sorted(Path("agentkit", room).glob("*.py")):
            for mutant in mutants(path.read_text(encoding="utf-8"), room, path.as_posix()):
                key = mutant.file, mutant.line, mutant.change
                matched |= same & {key}
                found += [] if key in same else [mutant]
        count += len(found)
        share = args.sample * (i + 1) // len(rooms) - args.sample * i // len(rooms) if args.sample else len(found)
        chosen += random.Random(args.seed).sample(found, min(share, len(found)))
    print(f"{len(chosen)} of {count} mutants, seed {args.seed}", flush=True)
    survivors = try_all(chosen, args.jobs)
    for room in rooms:
        tried, survived = (sum(mutant.room == room for mutant in group) for group in (chosen, survivors))
        print(f"{room:10} {tried - survived:4} killed, {survived:3} survived")
    killed = 1 - len(survivors) / max(1, len(chosen))
    print(f"{killed:.1%} killed; {PASS_MARK:.0%} are needed")
    for row in (stale := sorted(row for row in same - matched if row[0].split("/")[1] in rooms)):
        print(f"equivalents.csv: no mutant matches {row}; remove or correct the row")
    if too_many := len(matched) > MOST_EQUIVALENTS * (count + len(matched)):
        print(f"equivalents.csv: {len(matched)} rows are more than {MOST_EQUIVALENTS:.0%} of the mutants; write tests")
    return int(killed < PASS_MARK or bool(stale) or too_many)


if __name__ == "__main__":
    sys.exit(main())
