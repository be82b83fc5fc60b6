from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter import recorder as module
from newsletter.recorder import Lease, Outcome, Recorder, read_evidence, recorder_paths, this_machine

ROOT = Path(__file__).parents[1]


def lease(batch: int = 7, epoch: int = 3, *, until: float | None = None) -> Lease:
    return Lease(batch=batch, epoch=epoch, until=time.time() + 3600 if until is None else until)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path, lease(), store="store", owner="owner")
    yield recorder
    recorder.close()


def accepted(key: str, ref: str = "", detail: str = "") -> Outcome:
    return Outcome(key=key, state="accepted", provider_ref=ref, detail=detail)


def written(recorder: Recorder) -> bytes:
    """What is in the file of a recorder that is open: behind it stands the room for more."""
    lines, _, room = recorder.path.read_bytes().partition(b"\0")
    assert not room.strip(b"\0")
    return lines


# --- the writer's side ---


def test_the_file_names_the_lease_and_is_its_owners_only(recorder: Recorder) -> None:
    assert recorder.path.name == "7-3.recorder"
    assert recorder.path.stat().st_mode & 0o777 == 0o600
    head = json.loads(written(recorder).splitlines()[0])
    assert (head["store"], head["batch"], head["epoch"], head["owner"]) == ("store", 7, 3, "owner")
    assert head["machine"] == this_machine()["machine"]


def test_what_leaves_is_in_the_file_before_leaving_returns(recorder: Recorder) -> None:
    assert recorder.leaving("ana")
    assert written(recorder).endswith(b"\n>ana\n")
    assert recorder.left == 1


def test_an_answer_is_in_the_file_at_once(recorder: Recorder) -> None:
    recorder.leaving("ana")
    recorder.answered(accepted("ana", "ref-1"))
    assert written(recorder).endswith(b">ana\n<ana\taccepted\tref-1\t\n")
    recorder.leaving("bea")
    recorder.answered(Outcome(key="bea", state="refused", detail="550 no"))
    assert written(recorder).endswith(b"ref-1\t\n>bea\n<bea\trefused\t\t550 no\n")


def test_the_messages_of_one_request_are_told_in_one_stroke(recorder: Recorder) -> None:
    assert recorder.leaving_all(["ana", "bea", "cid"]) == 3
    assert recorder.left == 3
    assert written(recorder).endswith(b"\n>ana\n>bea\n>cid\n")
    recorder.answered_all([accepted("ana", "ref-1"), accepted("bea", "ref-1")])
    assert written(recorder).endswith(b">cid\n<ana\taccepted\tref-1\t\n<bea\taccepted\tref-1\t\n")
    recorder.answered_all([Outcome(key="cid", state="refused", detail="ñ\nno"), accepted("ana", "ref-2")])
    assert written(recorder).endswith("<cid\trefused\t\tñ no\n<ana\taccepted\tref-2\t\n".encode())


def test_nobody_to_tell_of_is_nothing_to_write(recorder: Recorder) -> None:
    before = written(recorder)
    assert recorder.leaving_all([]) == 0
    recorder.answered_all([])
    assert (written(recorder), recorder.left) == (before, 0)


def test_of_a_whole_request_nothing_leaves_after_the_lease(recorder: Recorder) -> None:
    recorder.lease.stopping = True
    before = written(recorder)
    assert recorder.leaving_all(["ana", "bea"]) == 0
    assert (written(recorder), recorder.left) == (before, 0)


def test_closing_leaves_nothing_behind_the_last_line(recorder: Recorder) -> None:
    recorder.leaving("ana")
    recorder.close()
    assert recorder.path.read_bytes().endswith(b"\n>ana\n")


def test_a_recorder_grows_by_blocks_and_loses_no_line(recorder: Recorder) -> None:
    keys = [f"{number:032x}" for number in range(3000)]
    for key in keys:
        recorder.leaving(key)
        recorder.answered(accepted(key, "ref"))
    assert recorder.path.stat().st_size % module.BLOCK == 0
    recorder.leaving("x" * 3 * module.BLOCK)
    recorder.close()
    evidence = read_evidence(recorder.path)
    assert evidence
    assert evidence.left == {*keys, "x" * 3 * module.BLOCK}
    assert evidence.answers == {key: accepted(key, "ref") for key in keys}


def test_after_the_lease_or_a_stop_nothing_leaves_and_nothing_is_written(tmp_path: Path) -> None:
    over = Recorder(tmp_path, lease(until=time.time() + 1.9), store="s", owner="o")  # the margin is two seconds
    stopping = Recorder(tmp_path, lease(batch=8), store="s", owner="o")
    stopping.lease.stopping = True
    for recorder in (over, stopping):
        before = recorder.path.read_bytes()
        assert not recorder.leaving("ana")
        assert (recorder.left, recorder.path.read_bytes()) == (0, before)
        recorder.close()


def test_a_lease_that_was_renewed_lets_on(recorder: Recorder) -> None:
    recorder.lease.until = 0
    assert not recorder.leaving("ana")
    recorder.lease.until = time.time() + 60
    assert recorder.leaving("ana")


def test_a_served_recorder_is_gone(recorder: Recorder, tmp_path: Path) -> None:
    gone = Recorder(tmp_path, lease(batch=9), store="s", owner="o")
    gone.remove()
    assert recorder_paths(tmp_path) == [recorder.path]


def test_closing_twice_closes_nobody_elses_file(recorder: Recorder, tmp_path: Path) -> None:
    recorder.close()
    with (tmp_path / "another").open("w") as other:
        recorder.close()
        recorder.remove()
        other.write("still open")
    assert (tmp_path / "another").read_text() == "still open"


def test_a_recorder_of_the_same_lease_that_is_there_already_is_kept_out_of_the_way(tmp_path: Path) -> None:
    first = Recorder(tmp_path, lease(), store="newer", owner="o")
    first.leaving("ana")
    first.close()
    second = Recorder(tmp_path, lease(), store="older", owner="o")
    second.close()
    (former,) = tmp_path.glob("*.former")
    assert b">ana\n" in former.read_bytes()
    assert recorder_paths(tmp_path) == [second.path]


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1000])
def test_a_full_disk_is_an_error_before_anything_leaves(tmp_path: Path, room: int) -> None:
    with no_file_longer_than(room), pytest.raises(OSError, match=r"No space|too large"):
        Recorder(tmp_path, lease(), store="s", owner="o")
    assert recorder_paths(tmp_path) == []


@pytest.mark.parametrize("room", [0, 3, module.BLOCK - 1])
def test_a_disk_that_fills_up_lets_nothing_more_leave_and_loses_no_answer(recorder: Recorder, room: int) -> None:
    sent: list[str] = []
    with no_file_longer_than(recorder.path.stat().st_size + room):
        while True:
            key = f"{len(sent):032x}"
            try:
                recorder.leaving(key)
            except OSError:
                break
            sent.append(key)
    assert len(sent) > 1000
    with no_file_longer_than(recorder.path.stat().st_size):
        for key in sent:
            recorder.answered(accepted(key))  # there is no room for most of these
        with pytest.raises(OSError, match=r"No space|too large"):
            recorder.leaving("bea")
    assert recorder.left == len(sent)
    assert recorder.leaving("cid")  # there is room again
    recorder.close()
    evidence = read_evidence(recorder.path)
    assert evidence
    assert evidence.left == {*sent, "cid"}
    assert evidence.answers == {key: accepted(key) for key in sent}


def test_a_closed_recorder_takes_answers_in_silence_and_lets_nothing_leave(recorder: Recorder) -> None:
    recorder.leaving("ana")
    recorder.close()
    recorder.answered(accepted("ana"))  # of a connection that nobody waits for any more
    with pytest.raises(OSError, match="descriptor"):
        recorder.leaving("bea")


def test_paths_come_oldest_lease_first(tmp_path: Path) -> None:
    for name in ("10-1.recorder", "9-9.recorder", "9-10.recorder", "9-2.17.former"):
        (tmp_path / name).touch()
    names = [path.name for path in recorder_paths(tmp_path)]
    assert names.index("9-9.recorder") < names.index("9-10.recorder")
    assert names.index("9-9.recorder") < names.index("10-1.recorder")
    assert len(names) == 3
    assert recorder_paths(tmp_path / "not there") == []


def test_several_threads_write_whole_lines(recorder: Recorder) -> None:
    together = threading.Barrier(8)

    def send(lane: int) -> None:
        together.wait(30)
        for number in range(200):
            key = f"{lane}-{number}"
            assert recorder.leaving(key)
            recorder.answered(accepted(key, f"ref {key}"))

    threads = [threading.Thread(target=send, args=(lane,)) for lane in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    evidence = read_evidence(recorder.path)
    assert evidence
    keys = {f"{lane}-{number}" for lane in range(8) for number in range(200)}
    assert evidence.left == keys
    assert evidence.answers == {key: accepted(key, f"ref {key}") for key in keys}
    assert recorder.left == 1600


# --- the reader's side ---


def test_a_closed_recorder_tells_everything(recorder: Recorder) -> None:
    recorder.leaving("ana")
    recorder.answered(accepted("ana", "ref-1"))
    recorder.leaving("bea")
    recorder.answered(Outcome(key="bea", state="deferred", detail="451 später"))
    recorder.leaving("cid")
    recorder.close()
    evidence = read_evidence(recorder.path)
    assert evidence
    assert (evidence.store, evidence.batch, evidence.epoch, evidence.same_boot) == ("store", 7, 3, True)
    assert evidence.left == {"ana", "bea", "cid"}
    assert evidence.answers == {
        "ana": accepted("ana", "ref-1"),
        "bea": Outcome(key="bea", state="deferred", detail="451 später"),
    }


def test_of_two_answers_the_later_counts(recorder: Recorder) -> None:
    recorder.leaving("ana")
    recorder.answered(Outcome(key="ana", state="in_doubt"))
    recorder.answered(accepted("ana"))
    recorder.close()
    evidence = read_evidence(recorder.path)
    assert evidence
    assert evidence.answers["ana"].state == "accepted"


def test_while_the_writer_lives_there_is_no_evidence(recorder: Recorder) -> None:
    recorder.leaving("ana")
    assert read_evidence(recorder.path) is None


def test_whoever_reads_does_not_keep_the_file(recorder: Recorder) -> None:
    recorder.close()
    assert read_evidence(recorder.path)
    with recorder.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


WRITER = """
import sys, time
from pathlib import Path
from newsletter.recorder import Lease, Outcome, Recorder
recorder = Recorder(Path(sys.argv[1]), Lease(batch=7, epoch=3, until=time.time() + 3600), store="s", owner="o")
for key in ("ana", "bea", "cid"):
    recorder.leaving(key)
    if key != "cid":
        recorder.answered(Outcome(key=key, state="accepted"))
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def writer(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has announced three messages and had two answers, and waits."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def test_a_killed_writer_leaves_all_that_it_announced(tmp_path: Path) -> None:
    with writer(tmp_path) as child:
        (path,) = recorder_paths(tmp_path)
        assert read_evidence(path) is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        evidence = read_evidence(path)
    assert evidence
    assert evidence.same_boot
    assert evidence.left == {"ana", "bea", "cid"}
    assert evidence.answers == {"ana": accepted("ana"), "bea": accepted("bea")}


def test_a_stopped_writer_counts_as_living(tmp_path: Path) -> None:
    with writer(tmp_path) as child:
        (path,) = recorder_paths(tmp_path)
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert read_evidence(path) is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert read_evidence(path)


def changed_head(path: Path, **values: object) -> None:
    head, _, rest = path.read_text().partition("\n")
    path.write_text(f"{json.dumps({**json.loads(head), **values})}\n{rest}")


def test_a_recorder_of_another_machine_is_no_evidence_here(recorder: Recorder) -> None:
    recorder.close()
    changed_head(recorder.path, machine="elsewhere 1234")
    assert read_evidence(recorder.path) is None


@pytest.mark.parametrize("boot", ["another", "", None])
def test_after_another_start_of_the_machine_the_evidence_says_so(recorder: Recorder, boot: str | None) -> None:
    recorder.leaving("ana")
    recorder.close()
    changed_head(recorder.path, boot=boot)
    evidence = read_evidence(recorder.path)
    assert evidence
    assert not evidence.same_boot
    assert evidence.left == {"ana"}


def test_a_machine_that_does_not_tell_its_start_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "this_machine", lambda: {"machine": "m", "boot": ""})
    recorder = Recorder(tmp_path, lease(), store="s", owner="o")
    recorder.close()
    evidence = read_evidence(recorder.path)
    assert evidence
    assert not evidence.same_boot


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_line_that_was_cut_is_not_counted(recorder: Recorder, cut: int) -> None:
    recorder.leaving("ana")
    recorder.answered(accepted("ana"))
    recorder.leaving("bea-and-a-long-key")
    recorder.close()
    whole = recorder.path.read_bytes()
    recorder.path.write_bytes(whole[:-cut])
    evidence = read_evidence(recorder.path)
    assert evidence
    assert evidence.left == {"ana"}
    assert set(evidence.answers) <= {"ana"}


@pytest.mark.parametrize("hole", range(1, 30))
def test_a_line_that_was_being_stored_when_its_writer_died_is_not_counted(recorder: Recorder, hole: int) -> None:
    recorder.leaving("ana")
    recorder.leaving("bea-and-a-long-key-that-is-stored-in-pieces")
    recorder.close()
    whole = recorder.path.read_bytes()
    recorder.path.write_bytes(whole[: -hole - 2] + bytes(hole) + whole[-2:] + bytes(100))
    evidence = read_evidence(recorder.path)
    assert evidence
    assert evidence.left == {"ana"}


HOSTILE = ["a\tb", "a\nb", "a\r\n<zoe\taccepted\t\t", ">zoe", "\x00", "\x85", "\u2028x", "\ud800", "é", "x" * 5000]


@pytest.mark.parametrize("words", HOSTILE)
def test_a_providers_words_cannot_forge_a_line(recorder: Recorder, words: str) -> None:
    recorder.leaving("ana")
    recorder.answered(Outcome(key="ana", state="refused", provider_ref=words, detail=words))
    recorder.close()
    evidence = read_evidence(recorder.path)
    assert evidence
    assert evidence.left == {"ana"}
    assert {key: answer.state for key, answer in evidence.answers.items()} == {"ana": "refused"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_any_words_keep_every_answer_apart(tmp_path: Path, words: list[tuple[str, str]]) -> None:
    recorder = Recorder(tmp_path, lease(), store="s", owner="o")
    for number, (ref, detail) in enumerate(words):
        recorder.leaving(f"k{number}")
        recorder.answered(Outcome(key=f"k{number}", state="accepted", provider_ref=ref, detail=detail))
    recorder.close()
    evidence = read_evidence(recorder.path)
    assert evidence
    assert set(evidence.answers) == evidence.left == {f"k{number}" for number in range(len(words))}
    for number, (ref, detail) in enumerate(words):
        answer = evidence.answers[f"k{number}"]
        assert ref.isprintable() is False or answer.provider_ref == ref
        assert detail.isprintable() is False or answer.detail == detail
    recorder.path.unlink()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"not json\n>ana\n",
        b"[]\n>ana\n",
        b'"text"\n>ana\n',
        b"null\n",
        b'{"store": "s"}\n',
        b'{"store": "s", "batch": "x", "epoch": 1, "machine": "HERE", "boot": "b"}\n',
        b'{"store": "s", "batch": null, "epoch": 1, "machine": "HERE", "boot": "b"}\n',
        b"\xff\xfe\x00\x00" * 100,
    ],
)
def test_what_is_no_recorder_is_no_evidence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "1-1.recorder"
    path.write_bytes(content.replace(b"HERE", this_machine()["machine"].encode()))
    assert read_evidence(path) is None


def test_lines_of_unknown_kinds_and_states_are_passed_over(recorder: Recorder) -> None:
    recorder.leaving("ana")
    recorder.close()
    with recorder.path.open("ab") as file:
        file.write(b"?new kind\n<ana\tlaunched\t\t\n<bea\taccepted\n\n\xff\xfe\n>\xff\n")
    evidence = read_evidence(recorder.path)
    assert evidence
    assert "ana" in evidence.left
    assert evidence.answers == {"bea": accepted("bea")}


def test_a_recorder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_evidence(tmp_path / "1-1.recorder")
