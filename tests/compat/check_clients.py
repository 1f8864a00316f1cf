"""Three majors of the openai client against the embedded provider: answers, streams, headers, every error.

Run with `python tests/compat/check_clients.py [version …]`. It installs each version into an environment of its own
in a temporary folder (1.109.1 and 2.54.0 unless told otherwise; the installed one is always checked), runs
client_script.py there against providers on loopback, and compares. Not part of `make test`: it downloads packages.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agentkit.lab.provider.errors import ERRORS
from agentkit.lab.provider.faults import Fault, Faults
from agentkit.lab.provider.latency import Latency
from agentkit.lab.provider.provider import Provider
from agentkit.lab.provider.quota import Limits

TEXT = "The cat sat on the mat."
GOOD = {
    "chat": TEXT,
    "usage": [6, 6],
    "headers": 6,
    "request id": "req_",
    "chat stream": TEXT,
    "stream usage": 12,
    "response": TEXT,
    "response stream": TEXT,
    "models": True,
}
CLASSES = {
    400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError",
    408: "APIStatusError", 409: "ConflictError", 422: "UnprocessableEntityError", 429: "RateLimitError",
}  # fmt: skip
RETRIED = (408, 409, 429, 500, 503, 529)
LATE = Fault("rate_limit", headers={"retry-after": "121", "retry-after-ms": ""})


def providers() -> dict[str, Provider]:
    """One provider for each thing that can happen."""
    plenty, instant = Limits(requests_per_minute=10**6, tokens_per_minute=10**6), Latency.preset("instant")
    faults: dict[str, Faults] = {"good": Faults(), "error retry-after 121": Faults(rates={LATE: 1})}
    faults |= {f"error {name}": Faults(rates={name: 1}) for name in (*ERRORS, "cut")}
    faults |= {f"stream {name}": Faults(rates={name: 1}) for name in ("cut_stream", "stream_error", "no_done")}
    return {name: Provider("open", limits=plenty, latency=instant, faults=fault) for name, fault in faults.items()}


def expected(major: int) -> dict[str, Any]:
    """What a version sees, and in how many attempts; where majors differ, the difference was measured."""
    wanted: dict[str, Any] = {"good": (GOOD, 5)}  # the list of models is not logged
    for name, (status, _, code, _) in ERRORS.items():
        wanted[f"error {name}"] = (
            [CLASSES.get(status, "InternalServerError"), status, code],
            3 if status in RETRIED else 1,
        )
    wanted["error cut"] = (["APIConnectionError", None, None], 3)
    # 1.x ignores a wait of more than 60 seconds and retries in half a second; later ones give up above 120.
    wanted["error retry-after 121"] = (["RateLimitError", 429, "rate_limit_exceeded"], 3 if major == 1 else 1)
    wanted["stream cut_stream"] = ("RemoteProtocolError" if major < 3 else "APIConnectionError", 1)
    wanted["stream stream_error"] = ("APIError", 1)
    wanted["stream no_done"] = (TEXT, 1)
    return wanted


def install(folder: Path, wanted: str) -> str:
    """Make an environment with that version of openai; return its interpreter."""
    venv.create(folder / wanted, with_pip=True)
    python = str(folder / wanted / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    with (folder / f"{wanted}.log").open("w") as log:
        subprocess.run([python, "-m", "pip", "install", f"openai=={wanted}"], stdout=log, stderr=log, check=True)
    return python


def differences(python: str, major: int) -> list[str]:
    """Play all scenarios with one interpreter; return what is not as expected."""
    served = providers()
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(provider.serve()).base_url for name, provider in served.items()}
        script = Path(__file__).with_name("client_script.py")
        done = subprocess.run([python, script, json.dumps(urls)], capture_output=True, text=True, timeout=120)
    if done.returncode:
        return [done.stderr]
    found = json.loads(done.stdout)
    attempts = {name: provider.statistics().arrivals for name, provider in served.items()}
    return [
        f"{name}: expected {wanted}, got {(found[name], attempts[name])}"
        for name, wanted in expected(major).items()
        if (found[name], attempts[name]) != wanted
    ]


def main(versions: list[str]) -> int:
    """Check each version; return how many differ."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for wanted in (*versions, version("openai")):
            python = sys.executable if wanted == version("openai") else install(Path(folder), wanted)
            problems = differences(python, int(wanted.split(".")[0]))
            print(f"openai {wanted:<9} {len(expected(3))} scenarios, {len(problems) or 'no'} differences", flush=True)
            print("".join(f"  {problem}\n" for problem in problems), end="", flush=True)
            failed += bool(problems)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["1.109.1", "2.54.0"]))
