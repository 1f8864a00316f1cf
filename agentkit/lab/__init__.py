"""The laboratory: everything that simulates, visualizes, serves and teaches, on top of the core.

`from agentkit.lab import simulate, Provider, setup, …`: each name is imported on first use, so importing this package
is cheap. The core never imports it (`tests/test_ladder.py`).

`loops`: event loops, among them virtual time. `provider`: the embedded provider. `explorer`: all orders in which tasks
or threads can run. `tracer`: what an event loop did. `control_room`: the live panel. `host`: `setup` and `doctor`.
`widgets`: interactive pieces of the lessons. `course`: exercises and the commands for notebooks. `data`: the data
files. `claims`: the ledger of claims.
A folder must not have the name of a function exported here (`trace`, `explore`, `setup`): once imported, it would
replace the function.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkit.lab.claims import claim, ledger, surprising
    from agentkit.lab.control_room.panel import ControlRoom
    from agentkit.lab.course import check, hint, quiz
    from agentkit.lab.data import data_path, documents, prompts
    from agentkit.lab.explorer.explore import Exploration, explore
    from agentkit.lab.explorer.play import Play, play
    from agentkit.lab.explorer.threads import Hammering, hammer, opcode_explore
    from agentkit.lab.host.notebook import setup
    from agentkit.lab.loops.virtual import Deadlock, VirtualLoop, simulate
    from agentkit.lab.provider.faults import Fault, Faults
    from agentkit.lab.provider.latency import Latency
    from agentkit.lab.provider.provider import Provider
    from agentkit.lab.provider.quota import Limits
    from agentkit.lab.tracer.trace import LoopTrace, block, trace
    from agentkit.lab.widgets import Scheduler, Stepper
    from agentkit.lab.widgets.predict import predict
    from agentkit.lab.widgets.tune import tune

# Which module each name comes from.
_NAMES = {
    "claims": "claim ledger surprising",
    "control_room.panel": "ControlRoom",
    "course": "check hint quiz",
    "data": "data_path documents prompts",
    "explorer.explore": "Exploration explore",
    "explorer.play": "Play play",
    "explorer.threads": "Hammering hammer opcode_explore",
    "host.notebook": "setup",
    "loops.virtual": "Deadlock VirtualLoop simulate",
    "provider.faults": "Fault Faults",
    "provider.latency": "Latency",
    "provider.provider": "Provider",
    "provider.quota": "Limits",
    "tracer.trace": "LoopTrace block trace",
    "widgets": "Scheduler Stepper predict tune",
}
_HOME = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [
    "ControlRoom", "Deadlock", "Exploration", "Fault", "Faults", "Hammering", "Latency", "Limits", "LoopTrace", "Play",
    "Provider", "Scheduler", "Stepper", "VirtualLoop", "block", "check", "claim", "data_path", "documents", "explore",
    "hammer", "hint", "ledger", "opcode_explore", "play", "predict", "prompts", "quiz", "setup", "simulate",
    "surprising", "trace", "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
