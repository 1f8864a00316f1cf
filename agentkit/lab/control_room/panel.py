"""The control room: a real run of agents against the embedded provider, every knob turned while it runs.

What it holds: `ControlRoom`.
Guarantees: widget callbacks only post to the engine; starting a new run cancels the previous one and waits for its end;
after `close()` no thread and no task is left; every error is shown in the panel, escaped.
Strategy: `Operation` is the run, `Engine` the thread and loop it runs on, `live_picture` draws it. The engine's `beat`
callback refreshes the panel at most ten times a second; the kernel's own event loop stays idle.
Opened by notebook 08.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import traitlets

from agentkit.base.arguments import choice, instance, items, number, seconds, whole
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
    """A live panel for a run of agents: its knobs, figures and picture.

    >>> room = ControlRoom(20, speed=100, max_concurrency=5, requests_per_minute=None)
    >>> room.start()
    >>> room.wait()
    <Report: 20 of 20 succeeded, at most 5 in flight, ... s>
    >>> room.close()

    `agents`: the number of agents, or their prompts. `clock`: `"virtual"` (`speed` virtual seconds per real second),
    `"real"` (real time, provider in this process) or `"http"` (real time, provider over loopback HTTP). The other
    arguments are fields of `Knobs`. Without a browser, `room.turn(timeout=5)` moves a slider, and the methods `start`,
    `pause` and `stop` are the buttons.
    """

    phase = traitlets.Enum(["ready", "running", "paused", "stopping", "stopped", "finished", "broken"], "ready")
    """State of the run; `broken` after an error, which the panel shows."""
    snapshot = traitlets.Any(None, allow_none=True)
    """The latest `Snapshot`; None before the first."""
    report = traitlets.Any(None, allow_none=True)
    """The report of the latest finished run; None before the first."""
    advice = traitlets.Unicode("")
    """What to try next; empty during a run."""

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
        choice("clock", clock, _CLOCKS.values())
        self.seed = whole("seed", seed, least=None)
        speed = number("speed", speed, "use 1 for real time, pause() to hold a run", above=0)
        self._lock = threading.RLock()
        self._operation: Operation | None = None
        listed = isinstance(agents, Iterable) and not isinstance(agents, str | bytes)
        self._prompts = [str(prompt) for prompt in items("agents", agents)] if listed else None
        total = whole(
            "agents", agents if self._prompts is None else len(self._prompts), "give a number, or prompts", most=2000
        )
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
        self._figures, self._message = widgets.HTML(layout={"width": "100%"}), widgets.HTML(layout={"width": "100%"})
        self._image = widgets.Image(format="svg+xml", layout={"width": "100%", "max_width": "1200px"})
        super().__init__(self._layout(), layout={"width": "100%", "max_width": "1200px"})
        self._observe_widgets()
        self._show_phase(None)

    def _layout(self) -> list[Any]:
        top = widgets.HBox(
            [*self._buttons.values(), self._agents, self._clock, self._speed], layout={"flex_flow": "wrap"}
        )
        return [top, self.knobs, self._figures, self._image, self._message]

    def _observe_widgets(self) -> None:
        for button, act in zip(self._buttons.values(), (self.start, self.pause, self.stop), strict=True):
            button.on_click(lambda _, act=act: self._guarded(act))
        self.knobs.observe(lambda _: self._guarded(self._apply_knobs), "value")
        self._speed.observe(lambda change: self._guarded(lambda: self._set_speed(change.new)), "value")
        self.observe(self._show_phase, "phase")

    # -- public methods --------------------------------------------------------------------------------------------

    @property
    def value(self) -> Knobs:
        """The setting of all knobs; assign another `Knobs` to change them."""
        return self.knobs.value

    @value.setter
    def value(self, knobs: Knobs) -> None:
        self.knobs.value = instance("value", knobs, Knobs)

    def turn(self, **knobs: Any) -> None:
        """Change some knobs: `room.turn(max_concurrency=50, timeout=None)`."""
        self.value = replace(self.value, **knobs)

    def start(self) -> None:
        """Start a new run, or resume a paused one; a current run is cancelled first."""
        with self._lock:
            if self.phase == "paused":
                self._command("resume", "running")
                return
            previous = self._engine
            if previous is not None:
                previous.cancel()
            self._operation = operation = Operation(self._tasks(), self.value, seed=self.seed)
            speed = self._speed.value if self._clock.value == "virtual" else None
            self._engine = engine = Engine(
                lambda: self._body(operation, over_http), speed=speed, previous=previous,
                beat=lambda: self._beat(engine, operation), done=lambda: self._done(engine, operation),
            )  # fmt: skip
            over_http = self._clock.value == "http"
            self.report, self.advice, self.snapshot, self.phase = None, "", None, "running"
            self._message.value = ""
            engine.start()

    def pause(self) -> None:
        """Stop starting attempts, or resume if paused; attempts in flight run to their end."""
        with self._lock:
            if self.phase == "running":
                self._command("pause", "paused")
            elif self.phase == "paused":
                self._command("resume", "running")

    def stop(self) -> None:
        """Cancel the attempts in flight; the report covers the work done so far."""
        with self._lock:
            if self.phase in ("running", "paused"):
                self._command("cancel", "stopping")

    def wait(self, timeout: float | None = None) -> Report:
        """Block until the run ends; return its report, or raise the error that broke it. A cell only needs `start`."""
        seconds("timeout", timeout)
        engine = self._engine
        if engine is None:
            raise RuntimeError("nothing to wait for: start() first")
        if not engine.join(timeout):
            raise TimeoutError(f"the run has not ended after {timeout:g} s; stop() ends it")
        if engine.error is not None:
            raise engine.error
        return self.report  # type: ignore[no-any-return]

    def close(self) -> None:
        """Cancel the run, wait until its thread has ended, and remove the panel."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
        super().close()

    # -- in the engine's thread -----------------------------------------------------------------------------------

    async def _body(self, operation: Operation, over_http: bool) -> Report:
        if not over_http:
            async with operation.provider.client() as client:
                return await operation.start(client)
        with operation.provider.serve() as server:
            async with server.client() as client:
                return await operation.start(client)

    def _beat(self, engine: Engine, operation: Operation) -> None:
        if engine is self._engine and operation.run is not None:
            self._show(operation.snapshot(WINDOW))

    def _done(self, engine: Engine, operation: Operation) -> None:
        """Handle the end of an engine, unless a newer one has replaced it."""
        with self._lock:
            if engine is not self._engine:
                return
            if engine.error is not None:
                self._fail(engine.error)
                return
            self._guarded(lambda: self._finish(operation, engine.result))

    def _finish(self, operation: Operation, report: Report) -> None:
        self._show(operation.snapshot(), whole=True)
        self.advice = advise(operation.knobs, report)
        self.report = report
        self._message.value = _summary(report, self.advice)
        self.phase = "stopped" if report.stopped else "finished"

    # -- the panel ------------------------------------------------------------------------------------------------

    def _show(self, shot: Snapshot, whole: bool = False) -> None:
        self.snapshot = shot
        self._figures.value = figures(shot)
        self._image.value = picture(shot, whole=whole)
        if not whole:
            failure = html.escape(shot.latest[:200])
            self._message.value = f"<small>latest failure: {failure}</small>" if failure else ""

    def _guarded(self, act: Callable[[], None]) -> None:
        """Run a callback and show its exception in the panel, since ipywidgets would only log it."""
        try:
            act()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._message.value = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}"
        self.phase = "broken"

    def _apply_knobs(self) -> None:
        operation, engine, knobs = self._operation, self._engine, self.value
        if engine is not None and operation is not None:
            engine.post(lambda: operation.turn(knobs))

    def _set_speed(self, speed: float) -> None:
        engine = self._engine
        if engine is not None and engine.speed is not None:
            engine.speed = speed

    def _command(self, command: str, phase: str) -> None:
        operation, engine = self._operation, self._engine
        assert engine is not None
        assert operation is not None
        engine.post(lambda: operation.command(command))
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
    """Return the report in one line and the advice as HTML, both escaped."""
    return (
        f'<div style="line-height:1.45;padding:4px 0">{html.escape(repr(report)[9:-1])}<br>'
        f"<b>Try this next.</b> {html.escape(advice)}</div>"
    )
