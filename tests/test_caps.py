"""Caps over simulated days: four workers on one database, with a clock that only the test moves on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from audience import add_people, address, edition, editions
from newsletter.config import Config, Pace
from newsletter.envelope import Recipient
from newsletter.errors import ProviderDown
from newsletter.providers import Limits, Outcome, Recorder, WayOut
from newsletter.rendering.edition import Edition

HOUR, DAY = 3600.0, 86400.0
START = 1_795_600_000.0  # some afternoon


@dataclass(kw_only=True)
class Clock:
    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass(kw_only=True)
class Sink:
    """Takes everything, and keeps when by the clock; now and then it cannot be reached."""

    clock: Clock
    fails: int = 0  # every so many chunks
    limits: Limits = field(default_factory=lambda: Limits(chunk=50, lanes=2, connections=2, leaves=False))
    taken: list[tuple[float, str, str]] = field(default_factory=list)
    chunks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, edition: Edition, recipients: Sequence[Recipient], recorder: Recorder) -> list[Outcome]:
        with self.lock:
            self.chunks += 1
            if self.fails and self.chunks % self.fails == 0:
                raise ProviderDown("gone for a moment")
            outcomes = []
            for recipient in recipients:
                assert recorder.leaving(recipient.key)
                self.taken.append((self.clock(), edition.key, recipient.address))
                outcomes.append(Outcome(key=recipient.key, state="accepted"))
                recorder.answered(outcomes[-1])
            return outcomes

    def close(self) -> None:
        """Nothing is held open."""


def most_within(moments: list[float], span: float) -> int:
    """The largest number of moments in any window of that length."""
    moments = sorted(moments)
    first = most = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= span:
            first += 1
        most = max(most, last - first + 1)
    return most


def test_caps_hold_to_the_message_over_three_days_with_four_workers(
    store: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.dispatch import Dispatcher
    from newsletter.store import keys, ledger, mailings, pace, schema
    from newsletter.store.subscribers import address_key

    monkeypatch.setattr("newsletter.route.LONGEST_REST", 0.02)
    monkeypatch.setattr("newsletter.dispatch.IDLE", 0.01)
    if not store.database_url:
        schema.prepare(store)
    people = 900
    list_id = add_people(store, range(1, people + 1))
    mailing = mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="way"
    ).mailing
    while mailings.write_down(mailing):
        pass
    caps = Pace(per_hour=100, per_day=300)
    clock = Clock()
    sink = Sink(clock=clock, fails=7)
    ring = keys.keyring(store)
    store_id = schema.store_id()
    workers = []
    for number in range(4):
        own = replace(store, recorders=store.root / f"recorders{number}")
        ways = [WayOut(name="way", provider=sink, pace=caps)]
        workers.append(Dispatcher(own, ways, keyring=ring, store=store_id, clock=clock))
    confirm = replace(edition("en"), key="confirm", kind="transactional", list_id=None)
    posted = 0
    for worker in workers:
        worker.start()
    try:
        way = pace.way_id("way")
        while clock.now < START + 3 * DAY:
            for _ in range(24):  # strangers keep asking for confirmations: 12 an hour, 288 a day
                posted += 1
                who = address(100_000 + posted)
                mailings.post(
                    confirm,
                    key=f"confirm:{posted}:1",
                    address=who,
                    address_key=address_key(store, who),
                    slots={},
                    provider="way",
                )
            quiet(workers, lambda: pace.room(way, caps, "issue", clock()).count == 0, sink)
            clock.now += 2 * HOUR - 1
            for worker in workers:
                worker.wake()
    finally:
        for worker in workers:
            worker.stop()
        assert all(worker.join(20) for worker in workers)
    issue = [(at, who) for at, key, who in sink.taken if key != "confirm"]
    confirmations = [at for at, key, _ in sink.taken if key == "confirm"]
    everything = [at for at, _, _ in sink.taken]
    assert most_within(everything, HOUR) <= 100
    assert most_within(everything, DAY) <= 300
    assert most_within(confirmations, HOUR) <= 20
    assert most_within(confirmations, DAY) <= 60
    assert most_within([at for at, _ in issue], DAY) <= 270
    assert len({who for _, who in issue}) == len(issue)
    counts = ledger.tally(mailing)
    assert counts["accepted"] == len(issue)
    assert counts["in_doubt"] == counts["sending"] == 0
    assert len(issue) >= 3 * 200, "the caps let much more out in three days than that"


def quiet(workers: Sequence[object], full: Callable[[], bool], sink: Sink) -> None:
    """Waits until nothing leaves any more at this time of the clock."""
    deadline = time.monotonic() + 20
    before, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        if len(sink.taken) != before:
            before, since = len(sink.taken), time.monotonic()
        if full() and time.monotonic() - since > 0.1:
            return
        if time.monotonic() - since > 0.5:
            return  # nothing is due
        time.sleep(0.01)
