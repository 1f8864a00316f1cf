"""Things to turn and press in a lesson: one file per widget.

Rules they all keep: state lives only in traits, so that a test can set `.value` without a browser; pictures are drawn
into the state of an `Image`, never into an `Output`; a callback computes or posts, and leaves nothing running behind.
"""

from __future__ import annotations

from agentkit.lab.widgets.predict import Prediction, predict
from agentkit.lab.widgets.scheduler import Scheduler
from agentkit.lab.widgets.stepper import Stepper
from agentkit.lab.widgets.tune import Tuner, tune

__all__ = ["Prediction", "Scheduler", "Stepper", "Tuner", "predict", "tune"]
