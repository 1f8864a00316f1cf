"""The laboratory: what draws, serves and teaches, on top of the core.

`from agentkit.lab import simulate, Provider, setup, …`: names load when first used, so that
importing this package costs nothing. The core never imports it; `tests/test_ladder.py` sees to that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkit.lab.clock import Deadlock, VirtualLoop, simulate

_HOME = {
    "Deadlock": "clock",
    "VirtualLoop": "clock",
    "simulate": "clock",
}

__all__ = ["Deadlock", "VirtualLoop", "simulate"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
