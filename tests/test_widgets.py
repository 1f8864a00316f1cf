"""Widgets work without a browser: set `.value`, look at the state."""

import re

import pytest

from agentkit.lab.control_room.live_picture import picture
from agentkit.lab.control_room.snapshot import AttemptBar, Snapshot
from agentkit.lab.widgets import predict, tune


class Picture:
    """Stands in for a chart."""

    def __init__(self, k):
        self.k = k

    def __repr__(self):
        return f"<Picture <{self.k}>>"

    def _repr_png_(self):
        if self.k == 4:
            raise RuntimeError("no <picture> for 4")
        return f"png {self.k}".encode()


def test_tune_picture_belongs_to_the_slider():
    """After each move the image, the text and the chart are those of the value chosen."""
    knob = tune(Picture, k=([1, 2, 3], 2))
    assert (knob.value, knob._image.value) == (2, b"png 2")
    knob.value = 3
    assert (knob.chart.k, knob._image.value, repr(knob)) == (3, b"png 3", "<Tuner k=3: <Picture <3>>>")
    assert "&lt;3&gt;" in knob._said.value


def test_tune_error_is_shown_and_passes():
    """An error of the drawing function appears in the panel, escaped, and the next move clears it."""
    knob = tune(Picture, k=[1, 4])
    knob.value = 4
    assert knob._image.value == b""
    assert "RuntimeError" in knob._said.value
    assert "&lt;picture&gt;" in knob._said.value
    knob.value = 1
    assert (knob._image.value, "RuntimeError" in knob._said.value) == (b"png 1", False)


@pytest.mark.parametrize("values", [{}, {"k": [1]}, {"k": [1, 2], "n": [1, 2]}])
def test_tune_refuses_what_cannot_be_turned(values):
    """One parameter with two values or more, or a clear error."""
    with pytest.raises(ValueError, match=r"tune takes exactly one parameter|2 or more values"):
        tune(Picture, **values)


def test_tune_refuses_a_value_off_the_scale():
    """A value that the slider does not have is an error that lists those it has."""
    with pytest.raises(ValueError, match=r"k must be one of \[1, 2\], got 9"):
        tune(Picture, k=[1, 2]).value = 9


def test_predict_without_a_guess_says_what_was_measured(capsys):
    """A lesson run from top to bottom, without anybody guessing, prints the same text each time."""
    predict("seconds", [1, 2]).compare(2)
    assert capsys.readouterr().out.startswith("Measured: 2.")


def test_predict_right_and_wrong(capsys):
    """A right guess is confirmed; a wrong one gets its own reason."""
    guess = predict("seconds", [1, 2, 3], {3: "it is not a sum"})
    guess.value = 2
    guess.compare(2)
    guess.value = 3
    guess.compare(2)
    guess.value = 1
    guess.compare(2)
    assert capsys.readouterr().out.splitlines() == [
        "You said 2, and so it is.",
        "You said 3; it is 2. Not so: it is not a sum.",
        "You said 1; it is 2.",
    ]


def test_predict_the_nearest_number_is_right(capsys):
    """Measured 15.3 s, the answer 15 was right and 30 was not."""
    guess = predict("seconds", [5, 15, 30])
    guess.value = 15
    guess.compare(15.3)
    guess.value = 30
    guess.compare(15.3)
    assert capsys.readouterr().out.splitlines() == ["You said 15; it is 15.3.", "You said 30; it is 15.3."]


@pytest.mark.parametrize(
    ("options", "reasons", "said"),
    [([1], {}, "2 or more answers"), ([1, 2], {3: "why"}, r"reasons must be for options")],
)
def test_predict_refuses_bad_questions(options, reasons, said):
    """A question with one answer, or a reason for no answer, is refused."""
    with pytest.raises(ValueError, match=said):
        predict("what", options, reasons)


def test_predict_value_must_be_an_option():
    """A guess that is not among the answers is refused; None takes a guess back."""
    guess = predict("what", [1, 2])
    guess.value = 1
    guess.value = None
    with pytest.raises(ValueError, match="one of"):
        guess.value = 5


def test_picture_tells_refused_from_answered_without_colour():
    """A refused attempt is a bar less than half as high, and what ended in vain is hatched: both hold in grey."""
    kinds = ("ok", "refused")
    attempts = tuple(AttemptBar(i, i, 0.0, finished=5.0, kind=kind) for i, kind in enumerate(kinds))
    shot = Snapshot(10.0, 2, 1, 1, 0, 5, 0, 0, 0, 0.1, 5.0, 1, 2, 100, 0.0, "", attempts, ((0.0, 0, 0),), ((0.0, 5.0),))
    svg = picture(shot, whole=True).decode()
    bars = re.findall(r'fill="(#\w+)" d="M[\d.]+ [\d.]+h[\d.]+v([\d.]+)h-[\d.]+z"', svg)
    high = {colour: float(tall) for colour, tall in bars}
    assert high["#d55e00"] < 0.5 * high["#0072b2"]
    assert re.search(r'fill="url\(#vain\)"[^>]* d="M', svg)
    assert '<pattern id="vain"' in svg
