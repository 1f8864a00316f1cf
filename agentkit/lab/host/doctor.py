"""The commands `doctor`, which reports what this machine lacks for the course, and `lab`, which starts JupyterLab.

What it holds: `examine`, which returns findings with a fix for each problem, and `main`, the command line of
`python -m agentkit.lab.host.notebook`. `make doctor` and `make lab` call it.
Guarantees: it imports only the standard library, so it can report everything else as missing; `doctor` changes nothing
and returns exit code 0 if there are no problems, else 1; `lab` listens on loopback only.
Strategy: package names and versions come from the installed metadata, not from a second list here.
Opened by notebook 00.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

__all__ = ["Finding", "examine", "main"]

_START = "notebooks/00_start_here.ipynb"
_EXECUTABLE = Path(sys.executable)
_PYTHON = _EXECUTABLE.relative_to(Path.cwd()) if _EXECUTABLE.is_relative_to(Path.cwd()) else _EXECUTABLE
_INSTALL = f"{_PYTHON} -m pip install --upgrade -e '.[lab]'"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    """What was checked, e.g. `ipykernel>=7.4,<8`."""
    state: str
    """What was found, e.g. `7.4.0` or `missing`."""
    fix: str = ""
    """The command or step that fixes it; empty if there is no problem."""

    def __str__(self) -> str:
        return f"{'FIX' if self.fix else 'ok':4} {self.name}: {self.state}"


def examine() -> list[Finding]:
    """Check everything the course needs; findings with a `fix` are problems.

    >>> [finding.name for finding in examine()][-4:]
    ['kernel python3', 'widgets in JupyterLab', 'port on loopback', 'Stop on a waiting cell']
    """
    return [*_packages(), _kernel(), _widgets(), _port(), _stop()]


def _packages() -> Iterator[Finding]:
    """Check the distributions that the core and the `lab` extra require."""
    try:
        wanted = metadata.requires("agentkit-lab") or []
    except metadata.PackageNotFoundError:
        yield Finding("agentkit-lab", "not installed", _INSTALL)
        return
    for line in wanted:
        requirement, _, marker = line.partition(";")
        if marker and "lab" not in re.findall(r"extra == ['\"](\w+)['\"]", marker):
            continue
        name = re.split(r"[<>=!~ \[]", requirement.strip())[0]
        yield _package(name, bounds=requirement.strip().removeprefix(name))


def _package(name: str, bounds: str) -> Finding:
    bounds = ",".join(sorted(bounds.split(","), reverse=True))  # lower bound first
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name + bounds, "missing", _INSTALL)
    return Finding(name + bounds, found, "" if _satisfies(found, bounds) else _INSTALL)


def _satisfies(version: str, bounds: str) -> bool:
    """Return whether a version satisfies bounds such as `>=7.4,<8`; this project uses no other operators.

    >>> _satisfies("7.4.0", ">=7.4,<8"), _satisfies("8.0", ">=7.4,<8")
    (True, False)
    """
    pairs = re.findall(r"(>=|<)\s*([\d.]+)", bounds)
    return all((_release(version) >= _release(bound)) == (sign == ">=") for sign, bound in pairs)


def _release(version: str) -> tuple[int, ...]:
    """Return `7.4.0` as (7, 4): comparable numbers without trailing zeros."""
    match = re.match(r"[\d.]*\d", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _kernel() -> Finding:
    """Check that the kernel named in the notebooks runs this interpreter."""
    name = "kernel python3"
    if not (find_spec("jupyter_client") and find_spec("ipykernel")):
        return Finding(name, "missing", _INSTALL)
    from jupyter_client.kernelspec import KernelSpecManager

    spec = KernelSpecManager().get_kernel_spec("python3")
    program = Path(spec.argv[0])
    # A bare name means "the Python that runs Jupyter".
    if program.name == spec.argv[0] or program.parent == _EXECUTABLE.parent:
        return Finding(name, "runs this Python")
    fix = f"{_PYTHON} -m ipykernel install --sys-prefix"
    return Finding(name, f"runs another Python, {spec.argv[0]}", fix)


def _widgets() -> Finding:
    """Check the extension that JupyterLab loads for ipywidgets."""
    name = "widgets in JupyterLab"
    if find_spec("jupyter_core"):
        from jupyter_core.paths import jupyter_path

        places = [Path(p, "@jupyter-widgets", "jupyterlab-manager") for p in jupyter_path("labextensions")]
        if any((place / "package.json").is_file() for place in places):
            return Finding(name, "there")
    fix = f"{_PYTHON} -m pip install --force-reinstall jupyterlab_widgets"
    return Finding(name, "missing", fix if find_spec("ipywidgets") else _INSTALL)


def _port() -> Finding:
    """Check that a server can listen on loopback, as the embedded provider does."""
    try:
        with socket.create_server(("127.0.0.1", 0)):
            return Finding("port on loopback", "can be opened")
    except OSError as error:
        fix = "allow programs to listen on 127.0.0.1 (firewall, sandbox); lessons in virtual time run without it"
        return Finding("port on loopback", f"refused: {error}", fix)


def _stop() -> Finding:
    """Report how fast Stop works here after `setup`."""
    return Finding("Stop on a waiting cell", "at once" if hasattr(signal, "SIGURG") else "within a tenth of a second")


def _doctor() -> int:
    findings = examine()
    print(*findings, sep="\n")
    wrong = [finding for finding in findings if finding.fix]
    if not wrong:
        print(f"All {len(findings)} are well.")
        return 0
    print(f"{len(wrong)} of {len(findings)} need this:")
    for fix in dict.fromkeys(finding.fix for finding in wrong):  # one command can fix many packages
        print(f"    {fix}")
    return 1


def _lab() -> int:
    """Run JupyterLab in the course's folder until Ctrl-C."""
    root = next((p for p in (Path.cwd(), *Path(__file__).parents) if (p / _START).is_file()), None)
    if root is None:
        print(f"There is no {_START} here; run this in the folder of the course.", file=sys.stderr)
        return 1
    if not find_spec("jupyterlab"):
        print(f"jupyterlab: missing\n    {_INSTALL}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="agentkit-") as folder:
        # Must be set before jupyter_core is imported. These are defaults, so the user's own settings override them.
        os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, [folder, os.getenv("JUPYTER_CONFIG_PATH")]))
        _write_settings(Path(folder))
        from jupyterlab.labapp import LabApp  # type: ignore[import-untyped]

        LabApp.launch_instance(argv=_arguments(root))
    return 0


def _write_settings(folder: Path) -> None:
    """Turn off JupyterLab's news popup and its check for updates, so no request leaves the machine."""
    quiet = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    place = folder / "labconfig" / "default_setting_overrides.json"
    place.parent.mkdir()
    place.write_text(json.dumps(quiet), encoding="utf-8")


def _arguments(root: Path) -> list[str]:
    arguments = [
        f"--ServerApp.root_dir={root}",
        "--ServerApp.ip=127.0.0.1",  # the port is 8888, or the next free one
        f"--LabApp.default_url=/lab/tree/{_START}",
        "--ServerApp.answer_yes=True",  # Ctrl-C stops it without confirmation
        "--Application.log_level=WARN",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--ServerApp.allow_root=True")
    if not _has_display():
        arguments.append("--ServerApp.open_browser=False")
    return arguments


def _has_display() -> bool:
    """Return whether a browser can open; if not, JupyterLab only prints the address."""
    if sys.platform in ("darwin", "win32"):
        return True
    return any(os.getenv(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def main(arguments: list[str]) -> int:
    """Run the command `doctor` or `lab` and return its exit code."""
    commands = {"doctor": _doctor, "lab": _lab}
    if len(arguments) != 1 or arguments[0] not in commands:
        print("usage: python -m agentkit.lab.host.notebook doctor|lab", file=sys.stderr)
        return 2
    return commands[arguments[0]]()
