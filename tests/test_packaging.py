"""What is shipped: the conda environment, the wheel, what an import costs, and the names each module exports."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import agentkit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
MODULES = sorted((ROOT / "agentkit").rglob("*.py"))
HEAVY = [
    "pandas",
    "matplotlib",
    "ipywidgets",
    "IPython",
    "starlette",
    "uvicorn",
    "openai",
    "httpx2",
    "numpy",
    "asyncio",
]


def _run(code: str, **env: str) -> str:
    """What a fresh interpreter prints, away from this folder."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.anchor, env=env or None).stdout


def _bounds(lines: list[str]) -> dict[str, set[str]]:
    """Names and bounds of requirements, comparable: `{'openai': {'>=3', '<4'}}`."""
    parsed = [Requirement(line.replace(" ", "")) for line in lines]
    return {requirement.name: {str(bound) for bound in requirement.specifier} for requirement in parsed}


# --- environment.yml


def test_environment_lists_what_pyproject_lists() -> None:
    """Conda gets the same packages within the same bounds as pip: core, lab and dev."""
    extras = PROJECT["optional-dependencies"]
    wanted = _bounds([*PROJECT["dependencies"], *extras["lab"], *extras["dev"]])
    lines = [line for line in CONDA["dependencies"] if isinstance(line, str)]
    found = _bounds(lines)
    assert len(found) == len(lines), "a package is listed twice"
    assert {name: bounds for name, bounds in found.items() if name not in ("python", "pip")} == wanted


def test_environment_is_one_that_conda_reads() -> None:
    """One name, one channel of packages, specs in conda's own form, and this project last, by pip."""
    assert set(CONDA) == {"name", "channels", "dependencies"}
    assert CONDA["name"] == "agentkit"
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]
    *lines, pip = CONDA["dependencies"]
    assert pip == {"pip": ["-e ."]}
    for line in lines:
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]* (>=|<)[0-9.]+(,(>=|<)[0-9.]+)?", line), line


def test_environment_asks_for_the_pythons_the_project_names() -> None:
    """Conda would take the newest Python there is; the bounds are those of the classifiers."""
    named = [
        Version(c.rpartition(" ")[2]) for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Py")
    ]
    low, high = min(named), max(named)
    assert _bounds(CONDA["dependencies"][:1])["python"] == {f">={low}", f"<{high.major}.{high.minor + 1}"}
    assert PROJECT["requires-python"] == f">={low}"


# --- what an import costs


def test_import_loads_nothing_heavy() -> None:
    """`import agentkit` loads none of the packages that draw, serve or call, nor the event loop."""
    code = f"import sys, agentkit; print([name for name in {HEAVY} if name in sys.modules])"
    assert _run(code) == "[]\n"


def test_import_of_the_laboratory_loads_nothing_heavy() -> None:
    """`import agentkit.lab` is as light; what draws or serves loads when it is first used."""
    code = f"import sys, agentkit.lab; print([name for name in {HEAVY} if name in sys.modules])"
    assert _run(code) == "[]\n"


def test_import_costs_less_than_50_ms() -> None:
    """The fastest of seven fresh interpreters, timed from inside, so that a busy machine does not count."""
    code = "import time; began = time.perf_counter(); import agentkit; print(time.perf_counter() - began)"
    seconds = sorted(float(_run(code)) for _ in range(7))
    print(f"import agentkit: {1000 * seconds[0]:.1f} ms, median {1000 * seconds[3]:.1f} ms")
    assert seconds[0] < 0.050


# --- the names


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _exports(tree: ast.Module) -> list[str] | None:
    """The module's `__all__`, read from its source."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and ast.unparse(node).startswith("__all__"):
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def _public(tree: ast.Module) -> set[str]:
    """Functions and classes that a module defines under a name without an underscore."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


def _listed(tree: ast.Module, exported: list[str]) -> set[str]:
    """Names that an exported table of the module mentions, as in `RULES = (sizes, links)`: the table exports them."""
    tables = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value]
    named = [t for t in tables if {n.id for n in ast.walk(t) if isinstance(n, ast.Name)} & set(exported)]
    return {name.id for table in named for name in ast.walk(table) if isinstance(name, ast.Name)}


def _order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each by the alphabet: the order that ruff keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("path", MODULES, ids=_dotted)
def test_module_exports_what_it_defines(path: Path) -> None:
    """Every module lists its public functions and classes, sorted, and all that it lists is there."""
    tree = ast.parse(path.read_text("utf-8"))
    exported = _exports(tree)
    if exported is None and path.name == "__init__.py" and not _public(tree):
        return  # a package that says which file is what, and nothing else
    assert exported is not None, f"{path.name} has no __all__"
    assert exported == sorted(exported, key=_order)
    extra = sorted(_public(tree) - set(exported) - _listed(tree, exported))
    assert not extra, "not in __all__: export them, or begin their names with _"
    module = importlib.import_module(_dotted(path))
    missing = [name for name in exported if not hasattr(module, name)]
    assert not missing


@pytest.mark.parametrize("path", MODULES, ids=_dotted)
def test_module_fits_in_one_sitting(path: Path) -> None:
    """No file of the package is longer than 450 lines; a lesson, which is text, may have 700."""
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= (700 if path.parent.name == "lessons" else 450)


def test_core_is_small() -> None:
    """The core, docstrings included, has at most 60 files."""
    core = [path for path in MODULES if path.relative_to(ROOT).parts[1] not in ("lab", "plots", "cluster")]
    print(f"core: {sum(len(path.read_text('utf-8').splitlines()) for path in core)} lines in {len(core)} files")
    assert len(core) <= 60


@pytest.mark.parametrize("package", ["agentkit", "agentkit.lab"])
def test_package_hides_no_name_behind_a_module(package: str) -> None:
    """With every module imported, an exported name is still the object it names, not a folder or file of that name."""
    for path in MODULES:
        importlib.import_module(_dotted(path))
    exporter = importlib.import_module(package)
    hidden = [name for name in exporter.__all__ if isinstance(getattr(exporter, name), ModuleType)]
    assert not hidden, "rename the folder or file"


def test_package_exports_35_names_at_most() -> None:
    """What you import from `agentkit` stays few enough to know."""
    assert len(agentkit.__all__) <= 35
    assert set(agentkit.__all__) <= set(dir(agentkit))


def test_version_is_the_one_of_the_project() -> None:
    """`agentkit.__version__` and the distribution agree."""
    assert agentkit.__version__ == PROJECT["version"]


# --- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, as an index would serve it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("agentkit_lab-*-py3-none-any.whl"))


def test_wheel_holds_the_package_its_types_and_the_data(wheel: Path) -> None:
    """Every module, `py.typed`, and each data file inside the package; no tests and no notebooks."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = {f"agentkit/_data/{path.name}" for path in (ROOT / "data").iterdir() if not path.name.startswith(".")}
    wanted = {str(path.relative_to(ROOT)) for path in MODULES} | {"agentkit/py.typed"} | data
    assert "agentkit/_data/documents.csv" in wanted
    assert wanted <= names
    assert {name.partition("/")[0] for name in names} == {"agentkit", wheel.name.rpartition("-py3")[0] + ".dist-info"}


def test_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere, it imports and finds its own data."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import json, agentkit; from agentkit.lab.data import data_path, documents; "
        "print(json.dumps([agentkit.__file__, str(data_path('documents.csv')), len(documents())]))"
    )
    package, data, count = json.loads(_run(code, PYTHONPATH=str(tmp_path)))
    assert Path(package) == tmp_path / "agentkit" / "__init__.py"
    assert Path(data) == tmp_path / "agentkit" / "_data" / "documents.csv"
    assert count > 0


def test_checkout_is_what_an_editable_install_imports() -> None:
    """Tests and notebooks see the files that are edited here, and the data beside them."""
    code = (
        "import agentkit; from agentkit.lab.data import data_path; print(agentkit.__file__, data_path('documents.csv'))"
    )
    package, data = _run(code).split()
    assert Path(package) == ROOT / "agentkit" / "__init__.py"
    assert Path(data) == ROOT / "data" / "documents.csv"
