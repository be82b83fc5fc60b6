from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from newsletter.envelope import Recipient
from newsletter.errors import ProviderDown, ProviderError, ProviderRejected, ProviderUnsure
from newsletter.providers import Provider, Recorder
from newsletter.providers.memory import Fault, Memory, Point
from newsletter.recorder import Lease, read_evidence
from newsletter.rendering.edition import Edition, Mailbox

EDITION = Edition(
    key="confirm",
    language="en",
    direction="ltr",
    kind="transactional",
    subject="Please confirm",
    sender=Mailbox(address="news@example.org"),
    html="<p>Hello</p>",
    text="Hello\n",
)
CHUNK = [Recipient(key=key, address=f"{key}@example.net") for key in ("ana", "bea", "cid")]


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path, Lease(batch=1, epoch=1, until=time.time() + 3600), store="s", owner="o")
    yield recorder
    recorder.close()


def evidence(recorder: Recorder) -> dict[str, str]:
    """What the file tells: the key of each message that left, and its answer, or "" for none."""
    recorder.close()
    found = read_evidence(recorder.path)
    assert found
    return {key: found.answers[key].state if key in found.answers else "" for key in sorted(found.left)}


def kept(memory: Memory) -> list[str]:
    return [each.key for each in memory.messages]


def test_it_is_a_provider_that_reaches_nobody(recorder: Recorder) -> None:
    provider: Provider = Memory()
    assert not provider.limits.leaves
    assert [outcome.state for outcome in provider.send(EDITION, CHUNK, recorder)] == ["accepted"] * 3


@pytest.mark.parametrize("state", ["refused", "deferred", "in_doubt"])
@pytest.mark.parametrize(("at", "leaves", "stays"), [("before", 0, 0), ("left", 1, 0), ("taken", 1, 1)])
def test_a_word_is_the_outcome_wherever_it_comes(
    recorder: Recorder, state: str, at: Point, leaves: int, stays: int
) -> None:
    memory = Memory(faults={"bea": Fault(at=at, do=state)})  # type: ignore[arg-type]
    outcomes = memory.send(EDITION, CHUNK, recorder)
    assert [outcome.state for outcome in outcomes] == ["accepted", state, "accepted"]
    assert kept(memory) == ["ana", *["bea"] * stays, "cid"]
    assert evidence(recorder) == {"ana": "accepted", **dict([("bea", state)] * leaves), "cid": "accepted"}


@pytest.mark.parametrize("error", [ProviderDown, ProviderRejected, ProviderUnsure])
def test_an_error_carries_the_outcomes_so_far_and_stops_the_chunk(
    recorder: Recorder, error: type[ProviderError]
) -> None:
    memory = Memory(faults={2: Fault(at="before", do=error)})
    with pytest.raises(error, match="as scripted") as caught:
        memory.send(EDITION, CHUNK, recorder)
    assert [outcome.key for outcome in caught.value.outcomes] == ["ana"]  # type: ignore[attr-defined]
    assert kept(memory) == ["ana"]
    assert evidence(recorder) == {"ana": "accepted"}


def test_an_error_before_anything_leaves_nothing(recorder: Recorder) -> None:
    memory = Memory(faults={1: Fault(at="before", do=ProviderDown)})
    with pytest.raises(ProviderDown):
        memory.send(EDITION, CHUNK, recorder)
    assert (kept(memory), evidence(recorder)) == ([], {})


class Crash(BaseException):
    """Nobody catches it: as good as dead."""


def crash() -> None:
    raise Crash


@pytest.mark.parametrize(
    ("at", "stays", "tells"),
    [
        ("before", [], {"ana": "accepted"}),
        ("left", [], {"ana": "accepted", "bea": ""}),
        ("taken", ["bea"], {"ana": "accepted", "bea": ""}),
        ("answered", ["bea"], {"ana": "accepted", "bea": "accepted"}),
    ],
)
def test_a_crash_leaves_what_a_crash_there_leaves(
    recorder: Recorder, at: Point, stays: list[str], tells: dict[str, str]
) -> None:
    memory = Memory(faults={"bea": Fault(at=at, do=crash)})
    with pytest.raises(Crash):
        memory.send(EDITION, CHUNK, recorder)
    assert kept(memory) == ["ana", *stays]
    assert evidence(recorder) == tells


def test_a_slow_one_goes_on_when_it_may(recorder: Recorder) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go.wait(30)

    memory = Memory(faults={"bea": Fault(at="left", do=wait)})
    thread = threading.Thread(target=memory.send, args=(EDITION, CHUNK, recorder))
    thread.start()
    assert begun.wait(30)
    assert kept(memory) == ["ana"]
    go.set()
    thread.join()
    assert kept(memory) == ["ana", "bea", "cid"]


def test_a_fault_happens_as_often_as_it_says(recorder: Recorder) -> None:
    memory = Memory(faults={"bea": Fault(at="before", do="deferred", times=2)})
    states = [memory.send(EDITION, CHUNK[1:2], recorder)[0].state for _ in range(3)]
    assert states == ["deferred", "deferred", "accepted"]


def test_numbers_count_over_all_chunks(recorder: Recorder) -> None:
    memory = Memory(faults={4: Fault(at="before", do="refused")})
    memory.send(EDITION, CHUNK, recorder)
    assert [outcome.state for outcome in memory.send(EDITION, CHUNK, recorder)] == ["refused", "accepted", "accepted"]
