"""The control room without a browser: knobs by `.value`, runs in virtual time and in real time, nothing left behind."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from agentkit.lab.control_room.advice import advise
from agentkit.lab.control_room.engine import Engine
from agentkit.lab.control_room.knob_panel import KnobPanel
from agentkit.lab.control_room.knobs import Knobs
from agentkit.lab.control_room.live_picture import figures, picture
from agentkit.lab.control_room.operation import Operation, rehearse
from agentkit.lab.control_room.panel import ControlRoom
from agentkit.lab.loops.virtual import simulate

OPEN = Knobs(requests_per_minute=None)


@pytest.fixture
def room():
    """A room of 60 agents, a hundred times as fast as real time; closed, and proved empty, at the end."""
    before = set(threading.enumerate())
    panel = ControlRoom(60, speed=100, max_concurrency=10, requests_per_minute=None)
    yield panel
    panel.close()
    assert set(threading.enumerate()) <= before


def until(condition):
    """Wait for another thread, a few seconds at most."""
    signal, tries = threading.Event(), 0
    while not condition():
        tries += 1
        assert tries < 1000, "what was waited for did not come"
        signal.wait(0.01)


# -- knobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knob", "said"),
    [
        ({"max_concurrency": 0}, "max_concurrency must be 1 or more, got 0"),
        ({"requests_per_minute": 0.5}, "requests_per_minute must be a whole number"),
        ({"tokens_per_minute": -1}, "tokens_per_minute must be 1 or more, got -1"),
        ({"retry": "twice"}, "retry must be one of none, after 1 s"),
        ({"latency": 0}, "latency must be above 0"),
        ({"timeout": 0}, "timeout must be above 0, got 0; give seconds, or None"),
        ({"failure_rate": 1.5}, "failure_rate must be from 0 to 1, got 1.5"),
    ],
)
def test_Knobs_refuses_bad_values(knob, said):
    """A position that makes no sense is refused with knob, rule, value and remedy."""
    with pytest.raises((TypeError, ValueError), match=said):
        Knobs(**knob)


def test_Knobs_switches_are_true_or_false():
    """A switch takes no number."""
    with pytest.raises(TypeError, match="adaptive must be True or False, got 3"):
        Knobs(adaptive=3)


def test_KnobPanel_slider_and_value_agree():
    """A slider moved changes the value, a value assigned moves the slider, once, off the scale too."""
    panel, seen = KnobPanel(Knobs()), []
    panel.observe(lambda change: seen.append(change.new), "value")
    panel["max_concurrency"].value = 50
    panel["adaptive"].value = True
    assert (panel.value.max_concurrency, panel.value.adaptive, len(seen)) == (50, True, 2)
    panel.value = Knobs(max_concurrency=17, timeout=2.5, tokens_per_minute=30_000)
    assert [panel[name].value for name in ("max_concurrency", "timeout", "tokens_per_minute")] == [17, 2.5, 30_000]
    assert len(seen) == 3
    panel["timeout"].value = float("inf")
    assert panel.value.timeout is None


# -- the operation: every knob acts while it runs ---------------------------------------------------------------------


def test_rehearse_is_exact():
    """The same knobs and turns give the same report; another seed another."""
    turns = {3.0: {"max_concurrency": 30}}
    one, two = (rehearse(60, Knobs(), turns=turns) for _ in range(2))
    assert one.to_frame()["finished"].tolist() == two.to_frame()["finished"].tolist()
    assert rehearse(60, Knobs(), turns=turns, seed=1).summary.makespan != one.summary.makespan


@pytest.mark.parametrize(
    ("start", "change", "figure"),
    [
        (OPEN, {"max_concurrency": 40}, lambda r: -r.summary.makespan),
        (OPEN, {"latency": 0.5}, lambda r: -r.summary.makespan),
        (OPEN, {"failure_rate": 1.0}, lambda r: r.summary.failed),
        (OPEN, {"timeout": 0.1}, lambda r: r.summary.failed),
        (OPEN, {"requests_per_minute": 30}, lambda r: r.summary.retries),
        (OPEN, {"tokens_per_minute": 3000}, lambda r: r.summary.retries),
        (Knobs(requests_per_minute=60), {"retry": "none"}, lambda r: r.summary.failed),
        (Knobs(requests_per_minute=60), {"rate_limiter": True}, lambda r: -r.summary.retries),
        (Knobs(requests_per_minute=60), {"retry": "as told"}, lambda r: -r.summary.retries),
        (OPEN, {"adaptive": True}, lambda r: max(limit for _, limit in r.limits)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_Operation_every_knob_acts_while_it_runs(start, change, figure):
    """Turned at 5 s, the knob changes the figure it should; without the turn the figure is lower."""
    left_alone, turned = rehearse(80, start), rehearse(80, start, turns={5.0: change})
    assert figure(turned) > figure(left_alone)
    assert [o.started for o in turned if (o.started or 9) < 5] == [
        o.started for o in left_alone if (o.started or 9) < 5
    ]


def test_Operation_rate_limiter_switched_off_lets_waiters_go():
    """Who was held back when the limiter is switched off starts at once."""
    paced = replace(Knobs(requests_per_minute=60), rate_limiter=True)
    assert rehearse(100, paced).summary.makespan > 95
    report = rehearse(100, paced, turns={5.0: {"rate_limiter": False, "requests_per_minute": None}})
    assert report.summary.makespan < 40


def test_Operation_snapshot_states_what_is():
    """The figures at an instant are those of the run's own log."""

    async def main():
        operation = Operation([f"q{i}" for i in range(50)], replace(OPEN, failure_rate=0.2, retry="none"))
        async with operation.provider.client() as client:
            run = operation.start(client)
            await asyncio.sleep(6)
            shot = operation.snapshot()
            report = await run
        return shot, report, operation

    shot, report, operation = simulate(main)
    done = [o for o in report if o.finished <= 6]
    assert (shot.now, shot.total, shot.in_flight) == (6, 50, 10)
    assert shot.succeeded == sum(o.status == "success" for o in done)
    assert shot.failed == sum(o.status == "failed" for o in done) > 0
    assert shot.waiting == sum(o.started > 6 for o in report)
    assert shot.throughput == shot.succeeded / 6
    assert "InternalServerError" in shot.latest
    used = operation.provider.statistics().tokens_used
    assert operation.snapshot().tokens == used > shot.tokens > 0


def test_Operation_abandoned_answers_are_paid_for():
    """A timeout ends the waiting, not the bill: the tokens of cut-off answers count."""
    knobs = replace(OPEN, timeout=0.6, retry="none")

    async def main():
        operation = Operation(["a", "b", "c"], knobs)
        async with operation.provider.client() as client:
            await operation.start(client)
        return operation.snapshot(), operation.provider.statistics().tokens_used

    shot, used = simulate(main)
    assert shot.failed >= 2
    assert shot.tokens == used > 0


# -- the engine -------------------------------------------------------------------------------------------------------


def test_Engine_run_at_any_speed_is_the_same_run():
    """Pace changes when things are seen, never what happens."""

    def finished(speed):
        operation = Operation([f"question {i}" for i in range(40)], OPEN)

        async def main():
            async with operation.provider.client() as client:
                return await operation.start(client)

        engine = Engine(main, speed=speed)
        engine.start()
        engine.join()
        assert engine.error is None
        return [o.finished for o in engine.result]

    assert finished(500) == finished(5000) == [o.finished for o in rehearse(40, OPEN)]


def test_Engine_paces_virtual_time():
    """At a thousand seconds per second, two hundred seconds take about a fifth of one, not none."""
    engine = Engine(lambda: asyncio.sleep(200), speed=1000)
    began = time.perf_counter()
    engine.start()
    assert engine.join(30)
    assert time.perf_counter() - began > 0.1


@pytest.mark.parametrize("speed", [None, 50.0])
def test_Engine_error_of_a_beat_or_a_post_ends_it(speed):
    """An error in a callback is kept, and `main` is cancelled and cleans up."""
    cleaned = []

    async def main():
        try:
            await asyncio.sleep(10_000)
        finally:
            cleaned.append(True)

    engine = Engine(main, speed=speed)
    engine.post(lambda: 1 / 0)
    engine.start()
    assert engine.join(30)
    assert isinstance(engine.error, ZeroDivisionError)
    assert cleaned == [True]
    engine.post(lambda: 1 / 0)  # nobody is there any more: no harm


def test_Engine_speed_must_be_positive():
    """Standing still is what pause is for."""
    with pytest.raises(ValueError, match="speed must be above 0, got 0"):
        Engine(lambda: asyncio.sleep(0), speed=0)


# -- the room ---------------------------------------------------------------------------------------------------------


def test_ControlRoom_runs_to_its_report_and_advice(room):
    """Start, and in the end: report, advice, figures and picture are there, and the repr states the facts."""
    assert repr(room) == "<ControlRoom: 60 agents, at most 10 at once; latency 2 s, no request limit; ready>"
    room.start()
    report = room.wait(30)
    assert (room.phase, report.summary.succeeded, room.report) == ("finished", 60, report)
    assert room.advice == advise(room.value, report)
    assert room.advice in room._message.value
    assert "60 of 60 succeeded" in repr(room)
    assert ElementTree.fromstring(room._image.value).tag.endswith("svg")


def test_ControlRoom_slider_acts_on_the_run():
    """A slider moved by `.value` changes the limit of the run under way."""
    room = ControlRoom(500, speed=10, max_concurrency=5, requests_per_minute=None)
    room.start()
    until(lambda: room.snapshot is not None and room.snapshot.in_flight == 5)
    room.knobs["max_concurrency"].value = 50
    until(lambda: room.snapshot.in_flight == 50)
    room.turn(timeout=0.5, retry="none")
    until(lambda: room.snapshot.failed > 0)
    room.close()


def test_ControlRoom_pause_resume_stop(room):
    """Paused, nothing starts; resumed, it goes on; stopped, the report says what was done."""
    room._speed.value = 10
    room.start()
    until(lambda: room.snapshot is not None and room.snapshot.succeeded > 5)
    room._buttons["Pause"].click()
    until(lambda: room.snapshot.in_flight == 0)
    waiting = room.snapshot.waiting
    until(lambda now=room.snapshot.now: room.snapshot.now > now + 3)
    assert (room.phase, room.snapshot.waiting) == ("paused", waiting)
    room._buttons["Start"].click()
    until(lambda: room.snapshot.in_flight > 0)
    room._buttons["Stop"].click()
    report = room.wait(30)
    assert (room.phase, report.stopped) == ("stopped", "cancelled by its owner")
    assert "let one run reach its end" in room.advice


def test_ControlRoom_new_run_cancels_the_old(room):
    """Started anew, the first run is cancelled; what is shown is the second's alone."""
    room._speed.value = 10
    room.start()
    first = room._engine
    until(lambda: room.snapshot is not None)
    room._speed.value = 100
    room.start()
    report = room.wait(30)
    assert room._engine is not first
    assert isinstance(first.error, asyncio.CancelledError)
    assert (report.summary.succeeded, room.phase) == (60, "finished")


def test_ControlRoom_close_during_a_run_leaves_nothing(room):
    """Closed in the middle, also before it has well begun, the thread is gone (the fixture looks)."""
    room._speed.value = 1
    room.start()
    room.close()
    assert room._engine is None


@pytest.mark.parametrize("clock", ["real", "http"])
def test_ControlRoom_real_time(clock):
    """In real time, in process and over a socket, the same agents reach the same end."""
    before = set(threading.enumerate())
    room = ControlRoom(12, clock=clock, latency=0.05, requests_per_minute=None)
    room.start()
    assert room.wait(60).summary.succeeded == 12
    room.close()
    assert set(threading.enumerate()) <= before


def test_ControlRoom_shows_what_goes_wrong(monkeypatch, room):
    """An error while drawing ends the run and is in the panel, escaped; the next run begins with a clean one."""
    with monkeypatch.context() as patch:
        patch.setattr("agentkit.lab.control_room.panel.figures", lambda shot: 1 / len(f"<{shot.now}>"[:0]))
        room.start()
        with pytest.raises(ZeroDivisionError):
            room.wait(30)
    assert room.phase == "broken"
    assert "<b>ZeroDivisionError</b>" in room._message.value
    room.start()
    assert room.wait(30).summary.succeeded == 60


def test_ControlRoom_callback_error_is_shown(monkeypatch, room):
    """An error in a button's callback would vanish: the panel has it, escaped."""

    def broken():
        raise RuntimeError("no <course>")

    monkeypatch.setattr("agentkit.lab.control_room.panel.prompts", broken)
    room._buttons["Start"].click()
    assert room.phase == "broken"
    assert "no &lt;course&gt;" in room._message.value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"clock": "sundial"}, "clock must be one of virtual, real, http, got 'sundial'"),
        ({"agents": 0}, "agents must be from 1 to 2,000, got 0"),
        ({"agents": []}, "agents must be from 1 to 2,000, got 0"),
        ({"speed": 0}, "speed must be above 0"),
    ],
)
def test_ControlRoom_refuses_bad_arguments(arguments, said):
    """A room that could not run is not opened."""
    with pytest.raises(ValueError, match=said):
        ControlRoom(**arguments)


def test_ControlRoom_nothing_to_wait_for(room):
    """Waiting before the start is an error that says what to do; a wait that is too short says so too."""
    with pytest.raises(RuntimeError, match="start"):
        room.wait()
    room._speed.value = 1
    room.start()
    with pytest.raises(TimeoutError, match="stop\\(\\) ends it"):
        room.wait(0.01)


# -- picture and words ------------------------------------------------------------------------------------------------


def _shot(knobs, seconds=8.0, agents=80):
    async def main():
        operation = Operation([f"q{i}" for i in range(agents)], knobs)
        async with operation.provider.client() as client:
            run = operation.start(client)
            await asyncio.sleep(seconds)
            shot = operation.snapshot()
            run.cancel()
            await run
        return shot

    return simulate(main)


def test_picture_is_valid_and_small():
    """A storm of hundreds of refusals is still well-formed SVG of less than 60 kB."""
    shot = _shot(Knobs(max_concurrency=80, retry="after 1 s"))
    svg = picture(shot)
    assert shot.refused > 200
    ElementTree.fromstring(svg)
    assert len(svg) < 60_000


def test_picture_bars_are_the_attempts():
    """One bar per attempt, in the colour of how it ended."""
    shot = _shot(replace(OPEN, max_concurrency=5), seconds=4.0)
    root = ElementTree.fromstring(picture(shot, whole=True))
    bars = sum(
        path.get("d").count("z")
        for path in root.iter()
        if (path.get("d") or "").count("v") and "v-" not in path.get("d")
    )
    assert bars == shot.attempts == len(shot.bars)


def test_figures_escape_and_state():
    """Every figure of the snapshot is in the row."""
    shot = replace(_shot(OPEN), latest="<script>")
    text = re.sub("<[^>]*>", " ", figures(shot))
    for value in (
        f"of {shot.total}",
        f"{shot.throughput:.1f}/s",
        f"{shot.tokens:,} tokens",
        f"of {shot.attempts} requests",
    ):
        assert value in text
    assert "<script>" not in figures(shot) + picture(shot).decode()


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        (Knobs(), "switch the rate limiter on"),
        (Knobs(rate_limiter=True, max_concurrency=100), "The account is the limit: 300 requests a minute need 12 s"),
        (replace(OPEN, timeout=1.0), "so try a timeout of 6 s"),
        (replace(OPEN, failure_rate=0.3, retry="none"), "choose a retry policy"),
        (replace(OPEN, failure_rate=1.0), "no policy saves a provider failing 100 %"),
        (replace(OPEN, max_concurrency=5), "with a limit of 10 expect about"),
        (replace(OPEN, max_concurrency=100), "Nothing but the work holds it back"),
        (Knobs(rate_limiter=True, requests_per_minute=6000, tokens_per_minute=2000), "2,000 tokens a minute"),
    ],
)
def test_advise_names_what_holds_the_run_back(knobs, said):
    """Each cause gets its own sentence, with the figures of the run."""
    assert said in advise(knobs, rehearse(60, knobs))


@pytest.mark.parametrize("limit", [3, 5, 10])
def test_advise_slots_prediction_comes_true(limit):
    """The makespan promised for twice the slots is what a run with twice the slots takes, within a fifth."""
    knobs = replace(OPEN, max_concurrency=limit)
    promised = float(re.search(r"about ([\d.]+) s", advise(knobs, rehearse(100, knobs)))[1])
    taken = rehearse(100, replace(knobs, max_concurrency=2 * limit)).summary.makespan
    assert promised == pytest.approx(taken, rel=0.2)


def test_advise_followed_saves_the_refusals():
    """Switched on as advised, the rate limiter wastes no request, and the run is no slower."""
    stormy = rehearse(100, Knobs(max_concurrency=50))
    calm = rehearse(100, Knobs(max_concurrency=50, rate_limiter=True))
    assert (stormy.summary.retries > 100, calm.summary.retries) == (True, 0)
    assert calm.summary.makespan < stormy.summary.makespan
