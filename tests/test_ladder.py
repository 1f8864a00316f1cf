"""The ladder of imports: every import points down, nothing goes round in a circle, and the core stays light."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "agentkit"
LAB = sorted((PACKAGE / "lab").rglob("*.py"))
FILES = sorted(PACKAGE.rglob("*.py"))

# Each room, which is a folder (or a file of the lab's own), and the rooms right below it. It may import those, and
# whatever is below them.
LADDER: dict[str, set[str]] = {
    "orchestration": {"executor", "agent", "state", "journal", "report", "semaphore"},
    "executor": {"agent", "journal", "retry", "limits", "semaphore", "report"},
    "journal": {"agent", "report"},
    "agent": {"semaphore", "report"},
    "retry": {"limits"},
    "limits": {"semaphore"},
    "locks": {"semaphore"},
    "state": {"semaphore"},
    "semaphore": {"base"},
    "report": {"base"},
    "base": set(),
    "plots": {"report"},
    "lab.course": {"lab.widgets", "lab.control_room", "lab.explorer", "lab.claims", "lab.data"},
    "lab.control_room": {"lab.provider", "lab.loops", "orchestration", "plots"},
    "lab.widgets": {"lab.explorer", "lab.tracer"},
    "lab.explorer": {"lab.tracer"},
    "lab.tracer": {"lab.loops", "plots"},
    "lab.provider": {"lab.data", "lab.loops", "orchestration", "locks"},
    "lab.loops": set(),
    "lab.host": set(),
    "lab.claims": {"lab.data"},
    "lab.data": set(),
}
CORE = {room for room in LADDER if not room.startswith("lab.")} - {"plots"}
# Packages that a file of the core may import, inside a function or for type checkers only, and in which rooms.
LAZY = {
    "openai": {"agent", "retry"},
    "pandas": {"report", "journal"},
    "tqdm": {"executor"},
    "typing_extensions": {"report"},
}
# The one import that points up: `report.plot()` draws a chart. It is made when it is called.
DOOR = ("agentkit.report.report", "agentkit.plots")

Imports = dict[str, dict[str, str]]


def _imports(tree: ast.AST, when: str = "load") -> Iterator[tuple[str, str, str]]:
    """Each imported module with the name taken from it, and when: at `load`, on a `call`, or for `types` only."""
    for node in ast.iter_child_nodes(tree):
        inner = when
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name, when) for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = "call" if when == "load" else when
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            inner = "types"
        yield from _imports(node, inner)


def _sources() -> dict[str, str]:
    """The text of each module of the package, by its dotted name."""
    found = {}
    for path in FILES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path.read_text("utf-8")
    return found


def _graph(sources: Mapping[str, str]) -> Imports:
    """Which module imports which, and when (the earliest time counts)."""
    order = ("load", "call", "types")
    graph: Imports = {name: {} for name in sources}
    for name, source in sources.items():
        for module, taken, when in _imports(ast.parse(source)):
            if (module, taken) == ("agentkit", "__version__"):
                continue
            targets = {module, f"{module}.{taken}" if taken else module} & sources.keys()
            for target in targets - {name}:
                graph[name][target] = min(when, graph[name].get(target, when), key=order.index)
    return graph


def _circles(graph: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
            if target in stack:
                low[name] = min(low[name], low[target])
        if low[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                found.append(sorted(component))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def _room(module: str) -> str:
    """The room a module is in: `executor`, `lab.provider`; empty for `agentkit` and `agentkit.lab` themselves."""
    _, *parts = module.split(".")
    if parts[:1] == ["lab"]:
        return ".".join(parts[:2]) if len(parts) > 1 else ""
    return parts[0] if parts else ""


def _below(room: str) -> set[str]:
    """Every room further down the ladder, and the room itself."""
    return {room}.union(*map(_below, LADDER[room]))


def _wrong_inside(name: str, targets: Mapping[str, str]) -> list[str]:
    """What is wrong with the imports one module makes of other parts of agentkit."""
    room = _room(name)
    if room not in LADDER:
        return [f"tests/test_ladder.py does not know the room {room!r}: give it a place on the ladder"]
    allowed = _below(room)
    if room.startswith("lab."):
        allowed |= CORE | {"plots"}
    return [
        f"{name} imports {target}, which is not below it"
        for target in targets
        if (name, target) != DOOR and _room(target) not in allowed
    ]


def _wrong_outside(name: str, source: str) -> list[str]:
    """What is wrong with the imports a module of the core makes of other packages."""
    room, found = _room(name), []
    if room not in CORE:
        return []
    for module, _, when in _imports(ast.parse(source)):
        first = module.split(".")[0]
        if first not in sys.stdlib_module_names | LAZY.keys() | {"agentkit"}:
            found.append(f"{name} imports {first}: the core uses the standard library, and openai in agent alone")
        elif first in LAZY and (when == "load" or room not in LAZY[first]):
            found.append(f"{name} imports {first} at {when}: only inside functions, and only in {LAZY[first]}")
    return found


SOURCES = _sources()
GRAPH = _graph(SOURCES)


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("agentkit", "agentkit.lab")])
def test_ladder_imports_point_down(name: str) -> None:
    """A module imports only what is below it, and the core nothing but the standard library when it loads."""
    assert _wrong_inside(name, GRAPH[name]) + _wrong_outside(name, SOURCES[name]) == []


def test_ladder_has_no_circle() -> None:
    """No module reaches itself through its imports, lazy ones and those for type checkers included."""
    graph = {name: {t: when for t, when in targets.items() if (name, t) != DOOR} for name, targets in GRAPH.items()}
    assert _circles(graph) == []


def test_ladder_door_is_opened_on_a_call() -> None:
    """The one import that points up exists, and is made by `Report.plot` only when it is called."""
    assert GRAPH[DOOR[0]][DOOR[1]] == "call"


def test_ladder_folders_are_the_rooms() -> None:
    """Each room is one folder, or one of the lab's own files; nothing of the core lies outside them."""
    rooms = {_room(name) for name in SOURCES} - {""}
    assert rooms == LADDER.keys()
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("package", ["agentkit", "agentkit.lab"])
def test_ladder_package_itself_imports_nothing_when_it_loads(package: str) -> None:
    """`agentkit` and `agentkit.lab` name everything and load nothing."""
    loaded = {module.split(".")[0] for module, _, when in _imports(ast.parse(SOURCES[package])) if when == "load"}
    assert loaded <= {"__future__", "importlib", "typing"}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("agentkit.semaphore.capacity", "from agentkit.executor import ParallelAgentExecutor"),
        ("agentkit.retry.policy", "def f():\n    from agentkit.executor.run import Run"),
        ("agentkit.limits.budget", "if TYPE_CHECKING:\n    from agentkit.report import Report"),
        ("agentkit.executor.run", "from agentkit import CapacityLimiter"),
        ("agentkit.state.shared", "import agentkit.locks"),
        ("agentkit.executor.run", "def f():\n    from agentkit.lab.loops.virtual import simulate"),
        ("agentkit.report.outcome", "def f():\n    from agentkit.plots import draw"),
        ("agentkit.plots.chart", "from agentkit.lab.loops.virtual import simulate"),
        ("agentkit.lab.loops.virtual", "from agentkit.lab.provider.provider import Provider"),
        ("agentkit.lab.provider.app", "from agentkit.lab import simulate"),
        ("agentkit.novelty.new", "from agentkit.report import Report"),
        ("agentkit.report.report", "import pandas"),
        ("agentkit.executor.run", "def f():\n    import pandas"),
        ("agentkit.agent.chat", "from openai import AsyncOpenAI"),
        ("agentkit.agent.chat", "class A:\n    import openai"),
        ("agentkit.agent.chat", "def f():\n    import httpx"),
    ],
)
def test_ladder_finds_a_wrong_import(name: str, source: str) -> None:
    """A planted import that points up or across, of the lab, of anything heavy or unknown, is found."""
    targets = _graph(SOURCES | {name: source})[name]
    assert len(_wrong_inside(name, targets) + _wrong_outside(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("agentkit.executor.run", "from agentkit.report.outcome import Outcome"),
        ("agentkit.orchestration.teams", "from agentkit.semaphore import CapacityLimiter"),
        ("agentkit.report.report", "def plot():\n    from agentkit.plots import draw"),
        (
            "agentkit.agent.chat",
            "if TYPE_CHECKING:\n    from openai import AsyncOpenAI",
        ),
        ("agentkit.retry.failures", "def f():\n    import openai"),
    ],
)
def test_ladder_lets_a_right_import_pass(name: str, source: str) -> None:
    """Imports downwards, of openai on a call or for type checkers, and the one door to the charts are allowed."""
    targets = _graph(SOURCES | {name: source})[name]
    assert _wrong_inside(name, targets) + _wrong_outside(name, source) == []


@pytest.mark.parametrize(
    "line", ["from agentkit.executor.run import Run", "def f():\n    import agentkit.executor.run"]
)
def test_ladder_finds_a_planted_circle(line: str) -> None:
    """A file that imports one of those that import it makes a circle, also where it does so only when called."""
    name = "agentkit.executor.settings"
    circles = _circles(_graph(SOURCES | {name: f"{SOURCES[name]}\n{line}\n"}))
    assert any({name, "agentkit.executor.run"} <= set(circle) for circle in circles)


@pytest.mark.parametrize("name", SOURCES)
def test_ladder_has_no_httpx(name: str) -> None:
    """The openai client is built on httpx2; importing the older package would bring a second one."""
    assert "httpx" not in {module.split(".")[0] for module, _, _ in _imports(ast.parse(SOURCES[name]))}
