"""One file per lesson, `lesson_NN.py`: its exercises with cases, wrong answers and hints, and its quiz.

The notebook `notebooks/NN_name.ipynb` refers to its exercises by name. The docstring of `agentkit.lab.course` shows how
to write a lesson file.
"""

from __future__ import annotations

__all__: list[str] = []
