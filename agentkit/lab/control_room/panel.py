"""The control room: a real run of agents against the embedded provider, every knob turned while it runs.

What it holds: `ControlRoom`.
Guarantees: a callback only posts; a new run cancels the one before it and begins when that has ended; after `close()`
no thread and no task is left; whatever goes wrong is shown in the panel, escaped.
Strategy: `Operation` is the run, `Engine` the thread it has to itself, `live_picture` draws. The panel is refreshed on
the engine's beat, at most ten times a second; the kernel's own loop has nothing to do.
Opened by notebook 08.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import traitlets

from agentkit.lab.control_room.advice import advise
from agentkit.lab.control_room.engine import Engine
from agentkit.lab.control_room.knob_panel import KnobPanel
from agentkit.lab.control_room.knobs import Knobs
from agentkit.lab.control_room.live_picture import WINDOW, figures, picture
from agentkit.lab.control_room.operation import Operation
from agentkit.lab.control_room.snapshot import Snapshot
from agentkit.lab.data import prompts
from agentkit.report import Report

__all__ = ["ControlRoom"]

_CLOCKS = {"virtual time": "virtual", "real time, in process": "real", "real time, over HTTP": "http"}
_SPEEDS = (1, 2, 5, 10, 20, 50, 100)


class ControlRoom(widgets.VBox):  # type: ignore[misc]
    """A run of agents with all its knobs, live.

    >>> room = ControlRoom(20, speed=100, max_concurrency=5, requests_per_minute=None)
    >>> room.start()
    >>> room.wait()
    <Report: 20 of 20 succeeded, at most 5 in flight, ... s>
    >>> room.close()

    `agents` is their number, or their prompts. `clock` is `"virtual"` (at `speed` seconds per second), `"real"`
    (in this process) or `"http"` (real time, over loopback). The other arguments are fields of `Knobs`. Without a
    browser, `room.value = replace(room.value, timeout=5)` or `room.turn(timeout=5)` moves the sliders, and `start`,
    `pause`, `stop` are the buttons.
    """

    phase = traitlets.Enum(["ready", "running", "paused", "stopping", "stopped", "finished", "broken"], "ready")
    """Where the run is; `broken` after an error, which the panel shows."""
    snapshot = traitlets.Any(None, allow_none=True)
    """The latest `Snapshot`; None before the first."""
    report = traitlets.Any(None, allow_none=True)
    """The report of the latest run that ended; None before."""
    advice = traitlets.Unicode("")
    """What to try next; empty while it runs."""

    _engine: Engine | None = None

    def __init__(
        self,
        agents: int | Sequence[str] = 100,
        *,
        clock: str = "virtual",
        speed: float = 5,
        seed: int = 0,
        **knobs: Any,
    ) -> None:
        if clock not in _CLOCKS.values():
            raise ValueError(f"clock must be one of {', '.join(_CLOCKS.values())}, got {clock!r}")
        self.seed = seed
        if not speed > 0:
            raise ValueError(f"speed must be above 0, got {speed!r}; 1 is as fast as real time, pause() stands still")
        self._lock = threading.RLock()
        self._operation: Operation | None = None
        self._prompts = None if isinstance(agents, int) else [str(prompt) for prompt in agents]
        total = agents if isinstance(agents, int) else len(agents)
        if total < 1:
            raise ValueError(f"agents must be 1 or more, or their prompts, got {agents!r}")
        self.knobs = KnobPanel(Knobs(**knobs))
        """The sliders; `room.knobs["timeout"].value = 5` moves one."""
        self._agents = widgets.BoundedIntText(
            total, min=1, max=2000, description="agents", style={"description_width": "52px"},
            layout={"width": "124px"},
        )  # fmt: skip
        self._agents.disabled = self._prompts is not None
        self._clock = widgets.Dropdown(options=_CLOCKS, value=clock, layout={"width": "166px"})
        speeds = sorted({*_SPEEDS, speed})
        self._speed = widgets.SelectionSlider(
            options=[(f"{s:g}x", s) for s in speeds], value=speed, description="speed", continuous_update=False,
            style={"description_width": "40px"}, layout={"width": "196px"},
        )  # fmt: skip
        self._buttons = {
            name: widgets.Button(description=name, icon=icon, button_style=style, layout={"width": "86px"})
            for name, icon, style in (("Start", "play", "primary"), ("Pause", "pause", ""), ("Stop", "stop", ""))
        }
        self._figures, self._said = widgets.HTML(layout={"width": "100%"}), widgets.HTML(layout={"width": "100%"})
        self._image = widgets.Image(format="svg+xml", layout={"width": "100%", "max_width": "1200px"})
        super().__init__(self._laid_out(), layout={"width": "100%", "max_width": "1200px"})
        self._listen()
        self._show_phase(None)

    def _laid_out(self) -> list[Any]:
        top = widgets.HBox(
            [*self._buttons.values(), self._agents, self._clock, self._speed], layout={"flex_flow": "wrap"}
        )
        return [top, self.knobs, self._figures, self._image, self._said]

    def _listen(self) -> None:
        for button, act in zip(self._buttons.values(), (self.start, self.pause, self.stop), strict=True):
            button.on_click(lambda _, act=act: self._shown(act))
        self.knobs.observe(lambda _: self._shown(self._turned), "value")
        self._speed.observe(lambda change: self._shown(lambda: self._set_speed(change.new)), "value")
        self.observe(self._show_phase, "phase")

    # -- what a reader may do -------------------------------------------------------------------------------------

    @property
    def value(self) -> Knobs:
        """The position of all knobs; assign another `Knobs` to turn them."""
        return self.knobs.value

    @value.setter
    def value(self, knobs: Knobs) -> None:
        self.knobs.value = knobs

    def turn(self, **knobs: Any) -> None:
        """Turn some knobs: `room.turn(max_concurrency=50, timeout=None)`."""
        self.value = replace(self.value, **knobs)

    def start(self) -> None:
        """Begin a new run, or go on after `pause`; a run under way is cancelled first."""
        with self._lock:
            if self.phase == "paused":
                self._tell("resume", "running")
                return
            before = self._engine
            if before is not None:
                before.cancel()
            self._operation = operation = Operation(self._tasks(), self.value, seed=self.seed)
            speed = self._speed.value if self._clock.value == "virtual" else None
            self._engine = engine = Engine(
                lambda: self._body(operation, over_http), speed=speed, after=before,
                beat=lambda: self._beat(engine, operation), done=lambda: self._done(engine, operation),
            )  # fmt: skip
            over_http = self._clock.value == "http"
            self.report, self.advice, self.snapshot, self.phase = None, "", None, "running"
            self._said.value = ""
            engine.start()

    def pause(self) -> None:
        """Start nothing new, or go on if it is paused; what is in flight ends."""
        with self._lock:
            if self.phase == "running":
                self._tell("pause", "paused")
            elif self.phase == "paused":
                self._tell("resume", "running")

    def stop(self) -> None:
        """Cancel what is in flight; the report is of what was done."""
        with self._lock:
            if self.phase in ("running", "paused"):
                self._tell("cancel", "stopping")

    def wait(self, timeout: float | None = None) -> Report:
        """Wait for the run's end and return its report; raise what broke it. Blocks: in a cell, `start` is enough."""
        engine = self._engine
        if engine is None:
            raise RuntimeError("nothing to wait for: start() first")
        if not engine.join(timeout):
            raise TimeoutError(f"the run goes on after {timeout:g} s; stop() ends it")
        if engine.error is not None:
            raise engine.error
        return self.report  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the run, wait until its thread is gone, and remove the panel."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
        super().close()

    # -- in the engine's thread -----------------------------------------------------------------------------------

    async def _body(self, operation: Operation, over_http: bool) -> Report:
        if not over_http:
            async with operation.provider.client() as client:
                return await operation.begin(client)
        with operation.provider.serve() as server:
            async with server.client() as client:
                return await operation.begin(client)

    def _beat(self, engine: Engine, operation: Operation) -> None:
        if engine is self._engine and operation.run is not None:
            self._show(operation.snapshot(WINDOW))

    def _done(self, engine: Engine, operation: Operation) -> None:
        """The last word of an engine; that of one which a newer has replaced is not heard."""
        with self._lock:
            if engine is not self._engine:
                return
            if engine.error is not None:
                self._broke(engine.error)
                return
            self._shown(lambda: self._ended(operation, engine.result))

    def _ended(self, operation: Operation, report: Report) -> None:
        self._show(operation.snapshot(), whole=True)
        self.advice = advise(operation.knobs, report)
        self.report = report
        self._said.value = _summary(report, self.advice)
        self.phase = "stopped" if report.stopped else "finished"

    # -- the panel ------------------------------------------------------------------------------------------------

    def _show(self, shot: Snapshot, whole: bool = False) -> None:
        self.snapshot = shot
        self._figures.value = figures(shot)
        self._image.value = picture(shot, whole=whole)
        if not whole:
            self._said.value = f"<small>latest failure: {html.escape(shot.latest[:200])}</small>" if shot.latest else ""

    def _shown(self, act: Callable[[], None]) -> None:
        """Do what a button or a slider asks; an error in a callback would vanish, so it is shown."""
        try:
            act()
        except Exception as error:
            self._broke(error)

    def _broke(self, error: BaseException) -> None:
        self._said.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"
        self.phase = "broken"

    def _turned(self) -> None:
        operation, engine, knobs = self._operation, self._engine, self.value
        if engine is not None and operation is not None:
            engine.post(lambda: operation.turn(knobs))

    def _set_speed(self, speed: float) -> None:
        engine = self._engine
        if engine is not None and engine.speed is not None:
            engine.speed = speed

    def _tell(self, order: str, phase: str) -> None:
        operation, engine = self._operation, self._engine
        assert engine is not None
        assert operation is not None
        engine.post(lambda: operation.tell(order))
        self.phase = phase

    def _tasks(self) -> list[str]:
        if self._prompts is not None:
            return self._prompts
        course = prompts()
        return [f"{course[i % len(course)].question} ({i})" for i in range(self._agents.value)]

    def _show_phase(self, _: object) -> None:
        running, paused = self.phase == "running", self.phase == "paused"
        start, pause, stop = self._buttons.values()
        start.disabled, start.description = running, "Resume" if paused else "Start"
        pause.disabled, stop.disabled = not running, not (running or paused)
        self._clock.disabled = running or paused
        self._agents.disabled = running or paused or self._prompts is not None

    def __repr__(self) -> str:
        ended = f": {self.report!r}" if self.report is not None else ""
        return f"<ControlRoom: {self._agents.value} agents, {repr(self.value)[6:-1]}; {self.phase}{ended}>"


def _summary(report: Report, advice: str) -> str:
    """The report in a line, and the advice; both escaped."""
    return (
        f'<div style="line-height:1.45;padding:4px 0">{html.escape(repr(report)[9:-1])}<br>'
        f"<b>Try this next.</b> {html.escape(advice)}</div>"
    )
