"""One file per lesson, `lesson_NN.py`: its exercises with cases, wrong answers and hints, and its quiz.

The notebook `notebooks/NN_name.ipynb` finds its exercises here by name. The docstring of `agentkit.lab.course`
shows how to write one.
"""

from __future__ import annotations

__all__: list[str] = []
