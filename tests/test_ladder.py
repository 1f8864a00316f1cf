"""The import ladder: an import points down, never up or across, and the core stays light."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "agentkit"
CORE = sorted(PACKAGE.glob("*.py"))
LAB = sorted((PACKAGE / "lab").rglob("*.py"))

# Each topic of the core, and the topics below it.
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
# Files that are part of a topic; a file not named here is a topic of its own.
TOPIC = {
    "adaptive": "semaphore",
    "agent_call": "executor",
    "attempt": "executor",
    "chat": "agent",
    "journalfile": "journal",
    "ledger": "journal",
    "packing": "journal",
    "spending": "budget",
    "reply": "agent",
    "allowance": "ratelimit",
    "failures": "retry",
    "pacing": "ratelimit",
    "pause": "hints",
    "reservation": "ratelimit",
    "retries": "retry",
    "tokenbucket": "ratelimit",
    "gate": "executor",
    "gradient": "semaphore",
    "lending": "executor",
    "progress": "executor",
    "run": "executor",
    "settings": "executor",
    "source": "executor",
    "stalls": "report",
    "watchdog": "executor",
    "workers": "executor",
    "outcome": "report",
    "coordinator": "orchestration",
    "pipeline": "orchestration",
    "routing": "orchestration",
    "station": "orchestration",
    "turnlog": "orchestration",
    "turns": "orchestration",
    "conversation": "state",
    "frozen": "state",
    "lockorder": "locks",
    "tracedlock": "locks",
}
# Packages that a file of the core may import, inside a function or for type checkers only.
LAZY = {"openai": None, "pandas": {"report", "journal"}, "tqdm": {"progress"}, "distributed": {"cluster"}}


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
            # `from agentkit.lab import plots` imports a module too
            yield node.module or "", when
            yield from ((f"{node.module}.{alias.name}", when) for alias in node.names if node.module)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = "call" if when == "load" else when
        elif _for_type_checkers(node):
            inner = "types"
        yield from _imports(node, inner)


def _wrong(name: str, source: str) -> list[str]:
    """What is wrong with the imports of one file of the core."""
    topic = TOPIC.get(name, name)
    if topic not in LADDER:
        return [f"tests/test_ladder.py does not know {name}.py: give it a place on the ladder, or a topic"]
    allowed = _below(topic)
    found = []
    for module, when in _imports(ast.parse(source)):
        first, *rest = module.split(".")
        if first == "agentkit":
            found += _wrong_inside(name, module, rest, when, allowed)
        elif first not in sys.stdlib_module_names | LAZY.keys():
            found.append(f"{name} imports {first}: the core uses the standard library and openai only")
        elif first in LAZY and (when == "load" or name not in (LAZY[first] or {name})):
            found.append(f"{name} imports {first} at {when}: only inside functions, and pandas in report alone")
    return found


def _wrong_inside(name: str, module: str, rest: list[str], when: str, allowed: set[str]) -> list[str]:
    """What is wrong with the import of a part of agentkit itself."""
    if rest[:1] == ["lab"]:
        return (
            [] if (name, when) == ("report", "call") else [f"{name} imports {module}: the core never imports the lab"]
        )
    if not rest or TOPIC.get(rest[0], rest[0]) in allowed:
        return []
    return [f"{name} imports {module}, which is not below it; name the file, as in agentkit.report"]


@pytest.mark.parametrize("path", [p for p in CORE if p.stem != "__init__"], ids=lambda path: path.stem)
def test_ladder_core_imports_point_down(path: Path) -> None:
    """A file of the core imports the standard library and what lies below it, and nothing heavy when it loads."""
    found = _wrong(path.stem, path.read_text("utf-8"))
    assert not found


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
        ("executor", "def f():\n    from agentkit.lab.clock import simulate"),
        ("report", "from agentkit.lab import plots"),
        ("report", "import pandas"),
        ("executor", "def f():\n    import pandas"),
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
        ("run", "from agentkit.outcome import Outcome"),
        ("orchestration", "from agentkit.semaphore import CapacityLimiter"),
        ("report", "def plot():\n    from agentkit.lab import plots"),
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
