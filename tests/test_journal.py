"""The journal by itself: what goes in comes out, keys that last, files that are torn, foreign, full or locked."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.agent.reply import Reply
from agentkit.base.redact import redact
from agentkit.journal import Journal, JournalError
from agentkit.journal.codec import Codec, stable_key
from agentkit.journal.file import JournalFile
from agentkit.journal.journal import work_of
from agentkit.report.outcome import Outcome
from agentkit.report.usage import Usage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
    max_leaves=10,
)


@dataclass(frozen=True)
class Finding:
    claim: str
    sources: tuple[str, ...]


def write(path: Path, results: list, agent=str.upper, **options) -> Journal:
    """A journal in which tasks 0, 1, … of `agent` have these results; an exception is a failure."""
    journal = Journal(path, **options)
    writer = journal.writer(agent)
    writer.open(lambda: 1.0)
    try:
        for i, result in enumerate(results):
            outcome = Outcome(i, f"task {i}", started=0.5)
            writer.recall(outcome)
            failed = isinstance(result, BaseException)
            outcome.end("failed" if failed else "success", result if failed else None, 1.0)
            outcome.result = None if failed else result
            problem = writer.record(outcome)
            if problem is not None:
                raise problem
    finally:
        writer.close()
    return journal


def recalled(path: Path, count: int, agent=str.upper, **options) -> list:
    """What a fresh journal object gives for tasks 0, 1, …; None for those it does not know."""
    writer = Journal(path, **options).writer(agent)
    writer.open(lambda: 1.0)
    outcomes = [Outcome(i, f"task {i}") for i in range(count)]
    for outcome in outcomes:
        writer.recall(outcome)
    writer.close()
    return [outcome.result for outcome in outcomes]


# -- results ------------------------------------------------------------------------------------------------------


@given(JSON)
def test_Codec_gives_back_what_went_in(value):
    """JSON values and tuples come back equal and of the same type, on one line."""
    text = Codec().encode(value)
    again = Codec().decode(text)
    assert again == value
    assert repr(again) == repr(value)
    assert "\n" not in text


@given(st.text(), st.integers(0, sys.maxsize), st.text() | st.none())
def test_Codec_short_way_for_replies_is_the_long_one(text, tokens, request_id):
    """The fast path writes every field that the general path writes."""
    reply = Reply(text, Usage(1, tokens, 3), "small", "stop", request_id)
    codec = Codec()
    assert json.loads(codec.encode(reply)) == codec._marked(reply)
    assert codec.decode(codec.encode(reply)) == reply
    assert codec.decode(codec.encode(reply)).request_id == request_id


@pytest.mark.parametrize("reply", [Reply("a"), Reply("a", None, "m", "length", None)])
def test_Codec_keeps_replies_of_endpoints_that_leave_things_out(reply):
    """What is None stays None."""
    assert Codec().decode(Codec().encode(reply)) == reply


def test_Codec_keeps_dataclasses_it_was_told_of_and_refuses_others():
    """A class is made again only if the reader named it; the error says how to."""
    finding = {7: Finding("x", ("a", "b"))}
    text = Codec([Finding]).encode(finding)
    assert Codec([Finding]).decode(text) == finding
    with pytest.raises(ValueError, match=r"types=\[Finding\]"):
        Codec().decode(text)
    with pytest.raises(TypeError, match=r"types=\[Finding\]"):
        Codec().encode(finding)
    with pytest.raises(TypeError, match="cannot store a set; return a text"):
        Codec().encode({1})


def test_Codec_marks_are_not_confused_with_data():
    """A dict of the user's that looks like a mark stays a dict."""
    value = {"!": "tuple", "of": [1]}
    assert Codec().decode(Codec().encode(value)) == value


# -- keys ---------------------------------------------------------------------------------------------------------


@given(JSON, JSON)
def test_stable_key_is_equal_exactly_for_equal_tasks(one, other):
    """Two tasks share a key only if their JSON is the same."""
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (stable_key(one) == stable_key(other)) == same


def test_stable_key_does_not_depend_on_the_process():
    """A literal, so that a change of the key, which would make every task new, is noticed; sets have no order."""
    assert stable_key("What is a race condition? " * 5) == "d0362ce1dea14a1ba6f4a5a14e182cc8"
    assert stable_key(["What", "why"]) == "05b8eaaf544c696e8bd40f6a5f4d51c6"
    assert stable_key("What is a race condition?") == "What is a race condition?"
    assert stable_key("use sk-abcdefgh12345678").isalnum()
    assert stable_key({"b": {"y", "x"}, "a": Finding("c", ())}) == stable_key({"a": Finding("c", ()), "b": {"x", "y"}})
    assert stable_key("1") != stable_key(1)


@pytest.mark.parametrize("task", [object(), [lambda: None], {"a": object()}])
def test_stable_key_refuses_what_has_another_name_in_every_process(task):
    """An address in memory is no key; the remedy is named."""
    with pytest.raises(TypeError, match=r"no stable key .*give Journal\(\.\.\., key=function\)"):
        stable_key(task)


def test_work_of_names_agents_and_hides_instructions():
    """An agent is known by name, model and a hash; a function by its name."""

    class Analyst:
        name, model, instructions, client = "analyst", "small", "Use key sk-abcdefgh12345678.", object()

        async def __call__(self, task):
            return task

    work = work_of(Analyst())
    assert work["agent"] == "analyst"
    assert work["model"] == "small"
    assert "sk-" not in str(work)
    assert set(work) == {"agent", "model", "instructions"}
    assert work_of(str.upper) == {"agent": "str.upper"}


# -- the file -----------------------------------------------------------------------------------------------------


def test_Journal_gives_back_results_and_forgets_failures(tmp_path):
    """A success is recalled by a fresh object, a failure is not, and a later success of it counts."""
    path = tmp_path / "j"
    write(path, ["A", ValueError("no"), Reply("C", Usage(1, 2, 3))])
    assert recalled(path, 4) == ["A", None, Reply("C", Usage(1, 2, 3)), None]
    now = write(path, ["unused", "B"])._index
    assert recalled(path, 3)[1] == "B"
    assert (len(now.done), len(now.failed), now.skipped, now.written) == (3, 0, 1, 1)


def test_Journal_equal_tasks_of_one_run_have_records_of_their_own(tmp_path):
    """Asking the same thing three times gives three answers, again after a restart."""
    path = tmp_path / "j"
    for expected in ([None] * 3, ["0", "1", "2"]):
        writer = Journal(path).writer(str.upper)
        writer.open(lambda: 1.0)
        outcomes = [Outcome(i, "same", started=0.0) for i in range(3)]
        for outcome in outcomes:
            writer.recall(outcome)
        assert [outcome.result for outcome in outcomes] == expected
        for outcome in outcomes:
            outcome.status, outcome.result, outcome.finished = "success", str(outcome.task_id), 1.0
            assert writer.record(outcome) is None
        writer.close()


def test_Journal_key_that_gives_two_tasks_one_name_is_refused(tmp_path):
    """A key function of the user's must tell tasks apart."""
    with pytest.raises(ValueError, match="key must tell tasks apart, and gave 'k' twice"):
        write(tmp_path / "j", ["a", "b"], key=lambda task: "k")


@given(st.data())
def test_Journal_survives_a_cut_at_any_byte(tmp_path_factory, data):
    """Whatever a crash leaves of the last line, the whole lines count and the next record is readable."""
    path = tmp_path_factory.mktemp("cut") / "j"
    write(path, ["one", "two", "three"])
    whole = path.read_bytes()
    kept = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:kept])
    done = max(0, whole[:kept].count(b"\n") - 1)
    journal = write(path, ["one", "two", "three"])
    assert journal._index.skipped == done
    assert recalled(path, 3) == ["one", "two", "three"]
    assert len([line for line in path.read_text().splitlines() if '"success"' in line]) == 3


def test_Journal_of_other_work_is_refused_and_names_both(tmp_path):
    """Two agents do not share results by accident; a common name lets them share a file, not their tasks."""
    path = tmp_path / "j"
    write(path, ["A"])
    with pytest.raises(JournalError, match=r"holds other work: agent 'str.upper'; this run is agent 'str.lower'; use"):
        write(path, ["a"], agent=str.lower)
    named = tmp_path / "named"
    write(named, ["A"], work="letters")
    assert recalled(named, 1, agent=str.lower, work="letters") == [None]
    assert recalled(named, 1, agent=str.upper, work="letters") == ["A"]
    with pytest.raises(JournalError, match=r"name 'letters'; this run is name 'numbers'"):
        recalled(named, 1, work="numbers")


@pytest.mark.parametrize("text", ["name,age\n", "not a journal", '{"a": 1}\n', '{"agentkit journal":2,"work":{}}\n'])
def test_Journal_leaves_files_of_others_alone(tmp_path, text):
    """A path that holds something else is refused, and not a byte of it changes."""
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(JournalError, match="is not a journal"):
        write(path, ["A"])
    assert path.read_text() == text


def test_Journal_damaged_in_the_middle_is_refused(tmp_path):
    """A whole line that cannot be read is not passed over: its task would be paid again."""
    path = tmp_path / "j"
    write(path, ["A", "B"])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "garbage\n" + lines[2])
    with pytest.raises(JournalError, match=r"has a damaged record at byte \d+; use another path, or mend that line"):
        recalled(path, 1)


def test_Journal_path_that_cannot_be_written(tmp_path):
    """A folder that does not exist, or a folder instead of a file: a clear error before anything is done."""
    for path in (tmp_path / "absent" / "j", tmp_path):
        with pytest.raises(JournalError, match=r"cannot be written: .*; use a path in a folder that exists"):
            write(path, ["A"])


def test_Journal_in_use_is_refused_to_others_until_it_is_closed(tmp_path):
    """A second object on the same path gets an error, not an interleaved file; the same object may be shared."""
    path = tmp_path / "j"
    journal = Journal(path)
    first, second = journal.writer(str.upper), journal.writer(str.upper)
    first.open(lambda: 0.0)
    second.open(lambda: 0.0)
    with pytest.raises(JournalError, match="is in use by another run, here or in another process"):
        recalled(path, 1)
    first.close()
    with pytest.raises(JournalError, match="in use"):
        recalled(path, 1)
    second.close()
    assert recalled(path, 1) == [None]


class FullDisk:
    """A file that takes `room` bytes and then no more, perhaps in the middle of a line."""

    def __init__(self, file, room):
        self._file, self.room = file, room

    def write(self, data):
        """Take what there is room for."""
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = self._file.write(data[: self.room])
        self.room -= taken
        return taken

    def __getattr__(self, name):
        return getattr(self._file, name)


@given(st.integers(0, 400))
def test_JournalFile_full_disk_leaves_whole_lines_and_keeps_the_rest(tmp_path_factory, room):
    """However many bytes fit, the file ends with a whole line, and the others are written when there is room again."""
    file = JournalFile(tmp_path_factory.mktemp("full") / "j")
    file.open()
    lines = [b"%d" % i * 50 + b"\n" for i in range(1, 6)]
    disk = file._file = FullDisk(file._file, room)  # type: ignore[assignment]
    refused: list[str] = []
    for line in lines:
        try:
            file.append(line)
        except JournalError as error:
            refused.append(str(error))
    written = file.path.read_bytes()
    assert bool(refused) == (room < 255)
    assert all("No space left on device" in said and "kept in memory" in said for said in refused)
    assert written + file.unwritten == b"".join(lines)
    assert written == b"" or written.endswith(b"\n")
    disk.room = 10_000
    file.close()
    assert file.path.read_bytes() == b"".join(lines)


def test_Journal_stores_no_credentials(tmp_path):
    """Of an error its type and message go in, without what looks like a key; so do texts of tasks."""
    key = "sk-" + "a1b2c3d4" * 3
    error = RuntimeError(f"401 for Authorization: Bearer {key}, api_key='{key}' token={key}")
    error.request = {"headers": {"authorization": key}}  # type: ignore[attr-defined]
    journal = Journal(tmp_path / "j", work="w")
    writer = journal.writer(str.upper)
    writer.open(lambda: 0.0)
    outcome = Outcome(0, f"use {key}", started=0.0)
    writer.recall(outcome)
    outcome.end("failed", error, 1.0)
    writer.record(outcome)
    writer.close()
    text = (tmp_path / "j").read_text()
    assert "a1b2" not in text
    assert "RuntimeError: 401" in text
    assert "[hidden]" in text


@given(st.text(max_size=600), st.sampled_from(["sk-", "Bearer ", "api_key=", '"token": "', "password: "]))
def test_redact_hides_a_key_wherever_it_stands(text, before):
    """No text around a key brings it to light."""
    assert "Zq9Zq9Zq9Zq9" not in redact(f"{text} {before}Zq9Zq9Zq9Zq9", max_length=5_000)


def test_Journal_result_that_cannot_be_stored_is_an_error_that_names_it(tmp_path):
    """It is not left out silently, for it would be paid again."""
    with pytest.raises(JournalError, match="result of task 0 cannot go into the journal: cannot store a object"):
        write(tmp_path / "j", [object()])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": 3}, "path must be a path, got 3"),
        ({"path": "j", "work": ""}, "work must be a string that is not empty, got ''"),
        ({"path": "j", "key": 3}, "key must be a function, got 3; use None"),
        ({"path": "j", "types": [dict]}, "types must be dataclasses, got"),
    ],
)
def test_Journal_bad_arguments_name_parameter_value_and_remedy(arguments, said):
    """Each is refused when the journal is made."""
    with pytest.raises((TypeError, ValueError), match=said):
        Journal(**arguments)


# -- watching -----------------------------------------------------------------------------------------------------


def test_Journal_frame_has_one_row_per_task_and_grows(tmp_path):
    """The latest record of a task is its row; asking again reads only what is new."""
    path = tmp_path / "j"
    watcher = Journal(path)
    assert len(watcher.to_frame()) == 0
    write(path, ["A", ValueError("no")])
    frame = watcher.to_frame()
    assert list(frame["status"]) == ["success", "failed"]
    assert list(frame["error"]) == ["", "ValueError: no"]
    read_to = watcher._index.read_to
    write(path, ["A", "B"])
    assert list(watcher.to_frame()["result"]) == ["A", "B"]
    assert list(watcher.to_frame()["task"]) == ["task 0", "task 1"]
    assert watcher._index.read_to > read_to


def test_Journal_repr_tells_all(tmp_path):
    """It shows done, failed, skipped and written."""
    journal = write(tmp_path / "j", ["A", ValueError()])
    assert repr(journal) == "<Journal 'j': 1 done, 1 failed; 0 skipped, 2 written>"
