"""The import ladder: an import points down, never up or across, and the core stays light."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "agentkit"
LAB = sorted((PACKAGE / "lab").rglob("*.py"))
CORE = sorted(path for path in PACKAGE.rglob("*.py") if path not in LAB)

# Each topic of the core, which is a folder of that name, and the topics right below it.
LADDER: dict[str, set[str]] = {
    "orchestration": {"executor", "agent", "state"},
    "cluster": {"executor"},
    "executor": {"semaphore", "ratelimit", "retry", "budget", "report", "journal"},
    "agent": {"report"},
    "report": set(),
    "semaphore": set(),
    "ratelimit": {"hints"},
    "retry": {"hints"},
    "hints": set(),
    "budget": set(),
    "journal": {"agent"},
    "state": set(),
    "locks": set(),
}
# Packages that a file of the core may import, inside a function or for type checkers only.
LAZY = {"openai": None, "pandas": {"report", "journal"}, "tqdm": {"executor"}, "distributed": {"cluster"}}


def _below(topic: str) -> set[str]:
    """Every topic further down the ladder, and the topic itself."""
    found = {topic}
    for step in LADDER[topic]:
        found |= _below(step)
    return found


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(tree: ast.AST, when: str = "load") -> Iterator[tuple[str, str]]:
    """Each imported module, and when: at `load`, on a `call`, or for `types` only."""
    for node in ast.iter_child_nodes(tree):
        inner = when
        if isinstance(node, ast.Import):
            yield from ((alias.name, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from agentkit import plots` imports a module too
            yield node.module or "", when
            yield from ((f"{node.module}.{alias.name}", when) for alias in node.names if node.module)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = "call" if when == "load" else when
        elif _for_type_checkers(node):
            inner = "types"
        yield from _imports(node, inner)


def _wrong(topic: str, source: str) -> list[str]:
    """What is wrong with the imports of one file of the core."""
    if topic not in LADDER:
        return [f"tests/test_ladder.py does not know the folder {topic}: give it a place on the ladder"]
    found = []
    for module, when in _imports(ast.parse(source)):
        first, *rest = module.split(".")
        if first == "agentkit":
            found += _wrong_inside(topic, module, rest, when)
        elif first not in sys.stdlib_module_names | LAZY.keys():
            found.append(f"{topic} imports {first}: the core uses the standard library and openai only")
        elif first in LAZY and (when == "load" or topic not in (LAZY[first] or {topic})):
            found.append(f"{topic} imports {first} at {when}: only inside functions, and pandas in report alone")
    return found


def _wrong_inside(topic: str, module: str, rest: list[str], when: str) -> list[str]:
    """What is wrong with the import of a part of agentkit itself."""
    if rest[:1] == ["lab"]:
        allowed = (topic, when) == ("report", "call")
        return [] if allowed else [f"{topic} imports {module}: the core never imports the lab"]
    if rest == [topic] and when == "load":
        return [f"a file of {topic} imports {module}, which is not loaded yet; name the file"]
    if not rest or rest[0] in _below(topic):
        return []
    return [f"{topic} imports {module}, which is not below it; name the folder, as in agentkit.report"]


@pytest.mark.parametrize(
    "path", [p for p in CORE if p.parent != PACKAGE], ids=lambda path: f"{path.parent.name}.{path.stem}"
)
def test_ladder_core_imports_point_down(path: Path) -> None:
    """A file of the core imports the standard library and what lies below it, and nothing heavy when it loads."""
    found = _wrong(path.parent.name, path.read_text("utf-8"))
    assert not found


def test_ladder_folders_are_the_topics() -> None:
    """Each topic is one folder, and nothing of the core lies outside them."""
    assert {path.parent.name for path in CORE if path.parent != PACKAGE} <= LADDER.keys()
    assert [path.name for path in CORE if path.parent == PACKAGE] == ["__init__.py"]


def test_ladder_package_itself_imports_nothing_when_it_loads() -> None:
    """`agentkit/__init__.py` names everything and loads nothing."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    loaded = {module.split(".")[0] for module, when in _imports(tree) if when == "load"}
    assert loaded <= {"__future__", "importlib", "typing"}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("semaphore", "from agentkit.executor import ParallelAgentExecutor"),
        ("retry", "from agentkit import budget"),
        ("executor", "from agentkit import CapacityLimiter"),
        ("state", "import agentkit.locks"),
        ("executor", "def f():\n    from agentkit.lab.loops.virtual import simulate"),
        ("report", "from agentkit import plots"),
        ("report", "import pandas"),
        ("executor", "def f():\n    import pandas"),
        ("executor", "from agentkit.executor import Run"),
        ("agent", "from openai import AsyncOpenAI"),
        ("agent", "class A:\n    import openai"),
        ("agent", "def f():\n    import httpx"),
        ("novelty", "import asyncio"),
    ],
)
def test_ladder_finds_a_wrong_import(name: str, source: str) -> None:
    """Imports upwards, across, of the lab, of anything heavy or unknown are each found."""
    assert len(set(_wrong(name, source))) >= 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("executor", "from agentkit.report.outcome import Outcome"),
        ("orchestration", "from agentkit.semaphore import CapacityLimiter"),
        ("report", "def plot():\n    from agentkit import plots"),
        ("agent", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from openai import AsyncOpenAI"),
        ("retry", "def f():\n    import openai"),
    ],
)
def test_ladder_lets_a_right_import_pass(name: str, source: str) -> None:
    """Imports downwards, of openai on a call or for type checkers, and the one door to the charts are allowed."""
    assert _wrong(name, source) == []


def test_ladder_has_no_cycle() -> None:
    """Taken together, core and lab, the modules load in some order in which nobody waits for himself."""
    modules = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts): p for p in [*CORE, *LAB]}
    modules = {name if path in LAB else name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {
        name: {m for m, when in _imports(ast.parse(path.read_text("utf-8"))) if when == "load" and m in modules}
        for name, path in modules.items()
    }
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) == len(modules)


@pytest.mark.parametrize("path", [*CORE, *LAB], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_ladder_nobody_imports_httpx(path: Path) -> None:
    """The openai client is built on httpx2; importing the older package would bring a second one."""
    assert "httpx" not in {module.split(".")[0] for module, _ in _imports(ast.parse(path.read_text("utf-8")))}
