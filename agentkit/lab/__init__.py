"""The laboratory: what draws, serves and teaches, on top of the core.

`from agentkit.lab import simulate, Provider, setup, …`: names load when first used, so that
importing this package costs nothing. The core never imports it; `tests/test_ladder.py` sees to that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkit.lab.claims import claim, ledger, surprising
    from agentkit.lab.clock import Deadlock, VirtualLoop, simulate
    from agentkit.lab.course import check, hint, quiz
    from agentkit.lab.data import data_path, documents, prompts
    from agentkit.lab.faults import Fault, Faults
    from agentkit.lab.hammering import Hammering, hammer, opcode_explore
    from agentkit.lab.hand import Play, play
    from agentkit.lab.latency import Latency
    from agentkit.lab.limits import Limits
    from agentkit.lab.looptrace import LoopTrace, block, trace
    from agentkit.lab.notebook import setup
    from agentkit.lab.provider import Provider
    from agentkit.lab.races import Exploration, explore
    from agentkit.lab.widgets import ControlRoom, Scheduler, Stepper
    from agentkit.lab.widgets.predict import predict
    from agentkit.lab.widgets.tune import tune

_HOME = {
    "ControlRoom": "widgets",
    "Deadlock": "clock",
    "Exploration": "races",
    "Fault": "faults",
    "Faults": "faults",
    "Hammering": "hammering",
    "Latency": "latency",
    "Limits": "limits",
    "LoopTrace": "looptrace",
    "Play": "hand",
    "Provider": "provider",
    "Scheduler": "widgets",
    "Stepper": "widgets",
    "VirtualLoop": "clock",
    "block": "looptrace",
    "check": "course",
    "claim": "claims",
    "data_path": "data",
    "documents": "data",
    "explore": "races",
    "hammer": "hammering",
    "hint": "course",
    "ledger": "claims",
    "opcode_explore": "hammering",
    "play": "hand",
    "predict": "widgets",
    "prompts": "data",
    "quiz": "course",
    "setup": "notebook",
    "simulate": "clock",
    "surprising": "claims",
    "trace": "looptrace",
    "tune": "widgets",
}

__all__ = [
    "ControlRoom",
    "Deadlock",
    "Exploration",
    "Fault",
    "Faults",
    "Hammering",
    "Latency",
    "Limits",
    "LoopTrace",
    "Play",
    "Provider",
    "Scheduler",
    "Stepper",
    "VirtualLoop",
    "block",
    "check",
    "claim",
    "data_path",
    "documents",
    "explore",
    "hammer",
    "hint",
    "ledger",
    "opcode_explore",
    "play",
    "predict",
    "prompts",
    "quiz",
    "setup",
    "simulate",
    "surprising",
    "trace",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
