"""A progress bar, where there is somebody to look at it.

What it holds: `progress_bar`. In a notebook it is a widget, in a terminal a line; elsewhere, and without tqdm, nothing.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["progress_bar"]


def progress_bar(total: int | None) -> Any:
    """Return a tqdm bar over `total` tasks (None: unknown), or None where nobody would see it."""
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit="task")
