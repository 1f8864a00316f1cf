"""The doctor's findings, and the way JupyterLab is opened."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from agentkit.lab.host import doctor

COMMAND = [sys.executable, "-m", "agentkit.lab.host.notebook"]


def _fixes() -> dict[str, str]:
    return {finding.name: finding.fix for finding in doctor.examine() if finding.fix}


def test_doctor_finds_nothing_wrong_here() -> None:
    """The environment the tests run in is complete, and the exit code says so."""
    done = subprocess.run([*COMMAND, "doctor"], capture_output=True, text=True, check=False)
    *lines, verdict = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert verdict == f"All {len(lines)} are well."
    assert any(line.startswith("ok   jupyterlab>=4.6,<5: ") for line in lines)


def test_doctor_looks_at_core_and_lab_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only tests or a cluster need is not asked for, and other conditions of a line do not confuse it."""
    lines = ["a>=1", "b<3,>=2; extra == 'lab'", 'c>1; extra == "dev"', "d; extra == 'lab' and python_version > '3'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.5")
    assert [finding.name for finding in doctor.examine()][:3] == ["a>=1", "b>=2,<3", "d"]


def test_doctor_names_what_is_missing_old_or_too_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each such package gets the command that puts it right."""
    versions = {"ipykernel": "7.3.1", "openai": "4.0.0", "pandas": "2.2.0"}

    def version(name: str) -> str:
        if name == "jupyterlab":
            raise metadata.PackageNotFoundError(name)
        return versions.get(name, real(name))

    real = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", version)
    assert set(_fixes()) == {"ipykernel>=7.4,<8", "openai>=3,<4", "jupyterlab>=4.6,<5"}
    assert all("-m pip install" in fix and ".[lab]" in fix for fix in _fixes().values())


def test_doctor_says_when_agentkit_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run from the folder alone, it asks for the installation first."""

    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", requires)
    assert set(_fixes()) == {"agentkit-lab"}


def test_doctor_finds_a_kernel_of_another_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kernel named python3 that starts another interpreter is the classic reason for ModuleNotFoundError."""
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": ["/elsewhere/bin/python", "-m", "ipykernel_launcher"], "display_name": "P", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert "ipykernel install" in _fixes()["kernel python3"]


def test_doctor_finds_that_lab_cannot_draw_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the part inside JupyterLab, a slider shows as text; that part is looked for by itself."""
    import jupyter_core.paths

    monkeypatch.setattr(jupyter_core.paths, "jupyter_path", lambda *parts: [])
    assert "jupyterlab_widgets" in _fixes()["widgets in JupyterLab"]


def test_doctor_finds_that_no_port_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the system's own words."""

    def refuse(address: tuple[str, int]) -> socket.socket:
        raise PermissionError("not permitted")

    monkeypatch.setattr(doctor.socket, "create_server", refuse)
    assert "127.0.0.1" in _fixes()["port on loopback"]


def test_doctor_ends_with_1_and_each_fix_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three packages, one command; the exit code tells a script."""
    findings = [doctor.Finding(name, "missing", "do this") for name in "abc"]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert doctor.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "FIX  a: missing", "FIX  b: missing", "FIX  c: missing", "3 of 3 need this:", "    do this",
    ]  # fmt: skip


versions = st.lists(st.integers(0, 12), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))


@given(version=versions, low=versions, high=versions)
def test_doctor_compares_versions_as_pip_does(version: str, low: str, high: str) -> None:
    """The doctor must work where `packaging` is not installed; where it is, both agree."""
    bounds = f">={low},<{high}"
    assert doctor._satisfies(version, bounds) is SpecifierSet(bounds).contains(version)


@pytest.mark.parametrize("arguments", [[], ["docter"], ["lab", "doctor"]])
def test_main_tells_how_to_use_it(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Anything but one known command ends with 2 and one line."""
    assert doctor.main(arguments) == 2
    assert capsys.readouterr().err == "usage: python -m agentkit.lab.host.notebook doctor|lab\n"


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A folder with a first lesson in it."""
    lesson = tmp_path / "notebooks" / "00_start_here.ipynb"
    lesson.parent.mkdir()
    lesson.write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return tmp_path


def _ask(address: SplitResult, path: str) -> Any:
    """Get JSON from the server, which prints its address a moment before it listens."""
    for _ in range(200):
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        try:
            connection.request("GET", f"{path}?{address.query}")
            return json.loads(connection.getresponse().read())
        except ConnectionRefusedError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise AssertionError(f"nobody listens on port {address.port}")


def test_lab_serves_the_first_lesson_on_loopback_and_ends_on_ctrl_c(course: Path) -> None:
    """As root and without a display it prints the address on a line of its own; Ctrl-C ends it with 0."""
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")}
    pipe = subprocess.PIPE
    server = subprocess.Popen(
        [*COMMAND, "lab"],
        cwd=course,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with server:
        try:
            assert server.stdout is not None
            url = next(line.strip() for line in server.stdout if line.strip().startswith("http://"))
            address = urlsplit(url)
            assert address.hostname == "127.0.0.1"
            assert address.path == "/lab/tree/notebooks/00_start_here.ipynb"
            [lesson] = _ask(address, "/api/contents/notebooks")["content"]
            assert lesson["name"] == "00_start_here.ipynb"
            settings = {item["id"]: item["schema"] for item in _ask(address, "/lab/api/settings")["settings"]}
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()
    assert "token=" in address.query
    news = settings["@jupyterlab/apputils-extension:notification"]["properties"]
    assert (news["fetchNews"]["default"], news["checkForUpdates"]["default"]) == ("false", False)


def test_lab_without_a_course_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Installed without the notebooks, or called in another folder, it names what it looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_START", "notebooks/99_not_there.ipynb")
    assert doctor.main(["lab"]) == 1


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"BROWSER": "firefox"}, True),
        ("darwin", {}, True),
        ("win32", {}, True),
    ],
)
def test_lab_opens_a_browser_only_where_there_is_a_display(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: bool
) -> None:
    """A server without a screen gets the address instead."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor.sys, "platform", platform)
    arguments = doctor._arguments(Path())
    assert ("--ServerApp.open_browser=False" not in arguments) is expected


def test_lab_allows_root_only_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where it is needed, as in a container."""
    for uid, expected in ((0, True), (1000, False)):
        monkeypatch.setattr(doctor.os, "geteuid", lambda uid=uid: uid)
        assert ("--ServerApp.allow_root=True" in doctor._arguments(Path())) is expected
