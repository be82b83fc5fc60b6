"""The ledger between any two statements: killed there, or with somebody else's work done there, on both databases.

Each scenario names an operation and what comes in between. The operation is run once for each of its statements: before
that statement the other thing happens, to its end or until it has to wait for a lock. Then everything is brought to an
end, and the promises of DESIGN.md §8 are held against what really left: nobody is lost, nobody is mailed twice, and
doubts are those that were announced without an answer.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from audience import add_people, address, as_ways, edition, editions
from newsletter.config import Config
from newsletter.errors import Fenced, LedgerError
from newsletter.recorder import Evidence, Lease, Outcome, Recorder, read_evidence

if TYPE_CHECKING:
    from newsletter.store.ledger import Claim, Due

PEOPLE = 6  # three for each language, so two batches of three
LEASE = 60.0
LONG_AGO = 2 * LEASE


class Killed(BaseException):
    """The process ends here, and the database rolls back what it had not committed."""


# --- the world --------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class World:
    """A mailing with a dead worker: of its chunk the first message was answered, the second was not, the third never
    left. `sent` is the truth: how often a message for each delivery left."""

    config: Config
    mailing: int = 0
    sent: Counter[int] = field(default_factory=Counter)
    claim: Claim | None = None
    due: tuple[Due, ...] = ()

    def open(self) -> None:
        from django.db import connection

        from newsletter.store import mailings, models

        for table in ("delivery", "batch", "edition", "mailing", "round", "suppression"):
            with connection.cursor() as cursor:
                cursor.execute(f"DELETE FROM {table}")
        if models.Subscriber.objects.count() < PEOPLE:
            models.Subscription.objects.all().delete()
            models.Subscriber.objects.all().delete()
            add_people(self.config, range(1, PEOPLE + 1))
        self.sent.clear()
        list_id = models.List.objects.get(name="weekly").pk
        opened = mailings.open_mailing(
            editions(), issue="2017-11-19", list=list_id, default_language="en", provider="memory"
        )
        self.mailing = opened.mailing

    def write_down(self) -> None:
        from newsletter.store import mailings

        while mailings.write_down(self.mailing):
            pass

    def crash(self, *, ago: float = LONG_AGO) -> None:
        """The worker took its chunk so many seconds ago and died in the middle of it."""
        from newsletter.store import keys, ledger, schema

        now = time.time() - ago
        self.claim = ledger.claim(owner="dead", lease=LEASE, now=now, mailing=self.mailing)
        assert self.claim
        self.due = ledger.turn(self.claim, (), start=self.claim.first, limit=9, lease=LEASE, now=now).due
        assert len(self.due) == 3
        lease = Lease(batch=self.claim.batch, epoch=self.claim.epoch, until=time.time() + LEASE)
        recorder = Recorder(self.config.recorders, lease, store=schema.store_id(), owner="dead")
        names = keys.keyring(self.config).delivery_keys([each.id for each in self.due])
        recorder.leaving(names[0])
        recorder.answered(Outcome(names[0], "accepted", "queued as 1"))
        recorder.leaving(names[1])
        recorder.close()
        self.sent.update([self.due[0].id, self.due[1].id])

    def evidence(self) -> Evidence:
        assert self.claim
        evidence = read_evidence(self.config.recorders / f"{self.claim.batch}-{self.claim.epoch}.recorder")
        assert evidence
        return evidence

    # --- operations ---

    def reap_all(self) -> None:
        from newsletter import duties
        from newsletter.store import keys, schema

        duties.reap(self.config, keys.keyring(self.config), schema.store_id())

    def reap_blindly(self) -> None:
        """Another machine's reaper, which sees the end of the lease and no recorder."""
        from newsletter.store import keys, ledger

        assert self.claim
        ring = keys.keyring(self.config)
        ledger.reap(self.claim.batch, self.claim.epoch, evidence=None, keyring=ring, now=time.time())

    def finish(self) -> None:
        from newsletter import duties

        duties.finish()

    def work(self) -> bool:
        """A healthy worker: one batch from claim to release, everything accepted. False when there was none."""
        from newsletter.store import ledger

        claim = ledger.claim(owner="healthy", lease=LEASE, now=time.time() + 1e6, mailing=self.mailing)
        if claim is None:
            return False
        chunk = ledger.turn(claim, (), start=claim.first, limit=2, lease=LEASE, now=time.time() + 1e6)
        while chunk.due:
            self.sent.update(each.id for each in chunk.due)
            results = [(each.id, Outcome(str(each.id), "accepted", f"queued as {each.id}")) for each in chunk.due]
            chunk = ledger.turn(claim, results, start=chunk.next, limit=2, lease=LEASE, now=time.time() + 1e6)
        ledger.release(claim, now=time.time() + 1e6)
        return True

    def wake(self) -> None:
        """The worker was only stopped: it comes with what it knows."""
        from newsletter.store import ledger

        assert self.claim
        results = [
            (self.due[0].id, Outcome("", "accepted", "queued as 1")),
            (self.due[1].id, Outcome("", "in_doubt", "", "no answer")),
        ]
        with suppress(Fenced):
            ledger.turn(
                self.claim,
                results,
                not_handed_over=[self.due[2].id],
                start=self.claim.last + 1,
                limit=0,
                lease=LEASE,
                now=time.time(),
            )
            ledger.release(self.claim, now=time.time())

    def pause(self) -> None:
        from newsletter.store import mailings

        mailings.pause(self.mailing, "test")

    def resume(self) -> None:
        from newsletter.store import mailings

        with suppress(LedgerError):
            mailings.resume(self.mailing)

    def cancel(self) -> None:
        from newsletter.store import mailings

        with suppress(LedgerError):
            mailings.cancel(self.mailing, "test")

    def again(self) -> None:
        from newsletter.store import mailings

        with suppress(LedgerError):
            mailings.resolve(self.mailing, again=True, now=time.time(), quarantine=0)

    def treat_as_sent(self) -> None:
        from newsletter.store import mailings

        mailings.resolve(self.mailing, again=False, now=time.time())

    def erase(self) -> None:
        """The person whose message never left."""
        from newsletter.store import subscribers

        subscribers.erase(self.config, self.due[2].address)

    def add_a_member(self) -> None:
        add_people(self.config, [1000])

    def drain(self) -> None:
        """Brings everything to its end, as workers do in time."""
        from newsletter.store import keys, ledger

        ring = keys.keyring(self.config)
        self.write_down()
        self.reap_all()
        for batch, epoch in ledger.expired(time.time() + 1e9):
            ledger.reap(batch, epoch, evidence=None, keyring=ring, now=time.time() + 1e9)
        while self.work():
            pass
        self.finish()

    # --- promises ---

    def check(self, *, doubts: int, twice: bool = False) -> None:
        """`twice`: an operator sent again those in doubt."""
        from newsletter.store import ledger, mailings, models

        row, tally = mailings.find(self.mailing), ledger.tally(self.mailing)
        assert sum(tally.values()) == row.audience
        assert row.state in ("finished", "cancelled"), (row.state, row.reason, tally)
        assert (tally["pending"], tally["sending"]) == (0, 0)
        assert tally["in_doubt"] <= doubts, tally
        again = {id: count for id, count in self.sent.items() if count > 1}
        assert not again or twice, f"sent twice: {again}"
        for delivery in models.Delivery.objects.filter(mailing_id=self.mailing):
            if delivery.state == "accepted" and not delivery.detail.startswith("treated"):
                assert self.sent[delivery.pk], f"never left: {delivery.pk}"
            if delivery.state == "skipped":
                assert not self.sent[delivery.pk] or row.state == "cancelled" or delivery.detail == "erased"


@pytest.fixture
def world(store: Config) -> World:
    return World(config=store)


# --- between two statements -------------------------------------------------------------------------------------------


Operation = Callable[[], object]


@contextmanager
def _before_statement(step: int, action: Operation, seen: list[str]) -> Iterator[None]:
    """Runs `action` before this thread's statement number `step`, counted from 0; `seen` collects the statements."""
    from django.db import connection

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        if len(seen) == step + 1:
            action()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(wrapper):
        yield


def _elsewhere(config: Config, action: Operation, errors: list[BaseException]) -> threading.Thread:
    """Another process: a thread with a connection of its own. Waited for until it ends or has to wait for a lock of
    ours, after which it goes on when we do."""
    from django.db import connection

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    if config.database_url:
        with psycopg.connect(config.database_url, autocommit=True) as server:
            while thread.is_alive() and not server.execute(_WAITING).fetchall():
                thread.join(0.005)
    else:
        thread.join()
    return thread


_WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def with_another(world: World, *, prepare: Operation, one: Operation, other: Operation, check: Operation) -> None:
    """Runs `one` once for each of its statements, with `other` before that statement."""
    from django.db import connection

    step = 0
    while True:
        world.open()
        prepare()
        errors: list[BaseException] = []
        threads: list[threading.Thread] = []

        def between(errors: list[BaseException] = errors, threads: list[threading.Thread] = threads) -> None:
            # On SQLite a transaction that writes is alone: whoever comes in between comes after it.
            if connection.vendor == "postgresql" or not connection.in_atomic_block:
                threads.append(_elsewhere(world.config, other, errors))

        seen: list[str] = []
        with _before_statement(step, between, seen):
            one()
        for thread in threads:
            thread.join()
        if len(seen) <= step:
            break
        if threads:
            _judge(world, check, errors, f"with the other before statement {step + 1}", seen[step])
        step += 1
    assert step, "it has no statement: nothing was tested"


def killed(world: World, *, prepare: Operation, one: Operation, check: Operation) -> None:
    """Runs `one` once for each of its statements, killed before that statement."""
    from django.db import connection

    def kill() -> None:
        raise Killed

    step = 0
    while True:
        world.open()
        prepare()
        seen: list[str] = []
        with suppress(Killed), _before_statement(step, kill, seen):
            one()
        connection.close()
        if len(seen) <= step:
            break
        _judge(world, check, [], f"killed before statement {step + 1}", seen[step])
        step += 1
    assert step, "it has no statement: nothing was tested"


def _judge(world: World, check: Operation, errors: list[BaseException], when: str, sql: str) -> None:
    try:
        if errors:
            raise errors[0]
        world.drain()
        check()
    except BaseException as error:
        error.add_note(f"{when}: {sql[:200]}")
        raise


# --- killed between any two statements --------------------------------------------------------------------------------


def test_reaping_may_be_killed_anywhere(world: World) -> None:
    killed(world, prepare=lambda: _crashed(world), one=world.reap_all, check=lambda: world.check(doubts=1))


def _crashed(world: World) -> None:
    world.write_down()
    world.crash()


def test_writing_down_may_be_killed_anywhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import mailings

    monkeypatch.setattr(mailings, "RANGE", 2)
    killed(world, prepare=lambda: None, one=world.write_down, check=lambda: everybody_once(world))


def everybody_once(world: World) -> None:
    world.check(doubts=0)
    assert sorted(world.sent.values()) == [1] * PEOPLE


def test_a_worker_may_be_killed_anywhere(world: World) -> None:
    """Here its recorder is lost, too: what it had in hand is in doubt, and nobody is mailed twice."""
    killed(world, prepare=world.write_down, one=world.work, check=lambda: world.check(doubts=2))


def test_sending_doubts_again_may_be_killed_anywhere(world: World) -> None:
    def prepare() -> None:
        _crashed(world)
        world.reap_all()
        for _ in range(3):
            world.work()
        world.finish()

    def check() -> None:
        world.again()  # the operator sees that it did not go through
        world.drain()
        world.check(doubts=0, twice=True)

    killed(world, prepare=prepare, one=world.again, check=check)


def test_sending_doubts_again_may_be_killed_anywhere_and_leaves_nobody_waiting_for_ever(world: World) -> None:
    def prepare() -> None:
        _crashed(world)
        world.reap_all()
        for _ in range(3):
            world.work()
        world.finish()

    killed(world, prepare=prepare, one=world.again, check=lambda: world.check(doubts=1, twice=True))


def test_cancelling_may_be_killed_anywhere(world: World) -> None:
    def one() -> None:
        world.cancel()
        world.finish()

    def check() -> None:
        world.cancel()
        world.drain()
        world.check(doubts=1)

    killed(world, prepare=lambda: _crashed(world), one=one, check=check)


# --- two at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ago", [0.0, LONG_AGO], ids=["lease runs", "lease is over"])
@pytest.mark.parametrize(
    "other", ["reap_all", "reap_blindly", "work", "finish", "pause", "cancel", "treat_as_sent", "erase"]
)
def test_a_reaper_and_another(world: World, other: str, ago: float) -> None:
    def prepare() -> None:
        world.write_down()
        world.crash(ago=ago)

    def check() -> None:
        world.resume()
        world.drain()
        world.check(doubts=1)

    with_another(world, prepare=prepare, one=world.reap_all, other=getattr(world, other), check=check)


@pytest.mark.parametrize("other", ["reap_blindly", "wake", "finish"])
def test_a_blind_reaper_and_the_evidence(world: World, other: str) -> None:
    """The doubts of a reaper without evidence are settled by the recorder, whatever came between."""

    def one() -> None:
        getattr(world, other)()

    with_another(
        world,
        prepare=lambda: _crashed(world),
        one=one,
        other=world.reap_all,
        check=lambda: world.check(doubts=1),
    )


@pytest.mark.parametrize("other", ["wake", "reap_all", "again", "treat_as_sent", "cancel", "pause", "erase"])
def test_a_finishing_duty_and_another(world: World, other: str) -> None:
    """Everything but the doubts is done: the mailing is about to be called finished when something comes back."""

    def prepare() -> None:
        _crashed(world)
        world.reap_blindly()
        for _ in range(3):
            world.work()

    def check() -> None:
        world.resume()
        world.drain()
        world.check(doubts=1, twice=other == "again")

    with_another(world, prepare=prepare, one=world.finish, other=getattr(world, other), check=check)


@pytest.mark.parametrize("other", ["reap_all", "reap_blindly", "work", "pause", "cancel", "erase", "finish"])
def test_a_worker_that_wakes_and_another(world: World, other: str) -> None:
    def check() -> None:
        world.resume()
        world.drain()
        world.check(doubts=1)

    with_another(world, prepare=lambda: _crashed(world), one=world.wake, other=getattr(world, other), check=check)


@pytest.mark.parametrize("other", ["work", "pause", "cancel", "reap_all", "finish", "erase"])
def test_a_worker_and_another(world: World, other: str) -> None:
    def check() -> None:
        world.resume()
        world.drain()
        world.check(doubts=1)

    with_another(world, prepare=lambda: _crashed(world), one=world.work, other=getattr(world, other), check=check)


@pytest.mark.parametrize("other", ["work", "reap_all", "cancel", "wake", "finish"])
def test_an_operator_who_sends_doubts_again_and_another(world: World, other: str) -> None:
    def prepare() -> None:
        _crashed(world)
        world.reap_blindly()

    with_another(
        world,
        prepare=prepare,
        one=world.again,
        other=getattr(world, other),
        check=lambda: world.check(doubts=1, twice=True),
    )


@pytest.mark.parametrize("other", ["write_down", "add_a_member", "pause", "cancel", "work"])
def test_writing_down_and_another(world: World, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import mailings, models

    monkeypatch.setattr(mailings, "RANGE", 2)

    def prepare() -> None:
        models.Subscription.objects.filter(subscriber_id=1000).delete()
        models.Subscriber.objects.filter(pk=1000).delete()

    def both() -> None:
        getattr(world, other)()
        if other == "add_a_member":
            mailings.write_down(world.mailing)  # another worker's round of the same duty

    def check() -> None:
        if other == "pause":
            world.resume()
        world.drain()
        world.check(doubts=0)

    with_another(world, prepare=prepare, one=world.write_down, other=both, check=check)


# --- single facts -----------------------------------------------------------------------------------------------------


def test_a_stopped_workers_transaction_does_not_hold_up_the_reapers_of_others(world: World) -> None:
    """On PostgreSQL a worker stopped inside a transaction keeps its batch's row locked: others must go round it, or
    their heartbeats and their SIGTERM wait for it. (On SQLite nobody can write meanwhile, whatever we do.)"""
    if not world.config.database_url:
        pytest.skip("PostgreSQL's locks")
    world.open()
    _crashed(world)
    assert world.claim
    with psycopg.connect(world.config.database_url) as stopped:
        stopped.execute("UPDATE batch SET lease_until = lease_until WHERE id = %s", (world.claim.batch,))
        errors: list[BaseException] = []
        thread = _elsewhere(world.config, world.reap_all, errors)
        held_up = thread.is_alive()
        stopped.rollback()
        thread.join()
    assert not errors
    assert not held_up


def test_a_recorder_written_under_a_key_since_retired_still_tells_what_left(world: World) -> None:
    world.open()
    _crashed(world)
    retired = replace(world.config, secret_key="n" * 40, retired_keys=(world.config.secret_key,))
    renewed = World(config=retired, mailing=world.mailing, sent=world.sent, claim=world.claim, due=world.due)
    renewed.reap_all()
    renewed.drain()
    renewed.check(doubts=1)


def test_a_message_announced_again_after_it_was_put_off_is_in_doubt(world: World) -> None:
    """A provider that tries again itself: announced, broken off, announced once more, and then the end."""
    from newsletter.store import keys, schema

    world.open()
    _crashed(world)
    assert world.claim
    (world.config.recorders / f"{world.claim.batch}-{world.claim.epoch}.recorder").unlink()
    lease = Lease(batch=world.claim.batch, epoch=world.claim.epoch, until=time.time() + LEASE)
    recorder = Recorder(world.config.recorders, lease, store=schema.store_id(), owner="dead")
    names = keys.keyring(world.config).delivery_keys([each.id for each in world.due])
    for name in names[:2]:
        recorder.leaving(name)
        recorder.answered(Outcome(name, "deferred", "", "the connection broke"))
        recorder.leaving(name)
    recorder.close()
    world.drain()
    world.check(doubts=2)


def test_doubts_that_are_too_young_are_not_sent_again_with_the_old_ones(world: World) -> None:
    """A worker dies while the operator's command is on its way."""
    from newsletter.store import mailings, models

    world.open()
    _crashed(world)
    world.reap_blindly()
    models.Delivery.objects.filter(state="in_doubt").update(at=time.time() - 2 * mailings.QUARANTINE)

    def second() -> None:
        world.crash()
        world.reap_blindly()

    threads: list[threading.Thread] = []
    errors: list[BaseException] = []
    seen: list[str] = []

    def between() -> None:
        threads.append(_elsewhere(world.config, second, errors))

    with _before_statement(3, between, seen):
        settled = mailings.resolve(world.mailing, again=True, now=time.time())
    for thread in threads:
        thread.join()
    assert not errors
    assert threads
    assert settled == 3


def test_a_stopped_worker_that_wakes_after_the_reaper_loses_and_doubles_nobody(world: World) -> None:
    world.open()
    _crashed(world)
    world.reap_blindly()
    world.wake()  # fenced
    world.reap_all()  # its recorder is closed now
    world.drain()
    world.check(doubts=1)


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_neither_loses_nor_doubles_anybody(
    world: World, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.open()
    _crashed(world)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + jump)
    world.reap_blindly()
    world.wake()
    world.reap_all()
    world.drain()
    world.check(doubts=1)


def test_evidence_read_twice_changes_nothing_the_second_time(world: World) -> None:
    from newsletter.store import keys, ledger, models

    world.open()
    _crashed(world)
    evidence, ring = world.evidence(), keys.keyring(world.config)
    ledger.hand_in(evidence, keyring=ring, now=time.time())
    world.drain()
    before = list(models.Delivery.objects.order_by("pk").values("pk", "state", "attempts", "epoch"))
    ledger.hand_in(evidence, keyring=ring, now=time.time())
    assert list(models.Delivery.objects.order_by("pk").values("pk", "state", "attempts", "epoch")) == before
    world.check(doubts=1)


def test_no_flood_of_sign_ups_holds_up_other_single_mail(store: Config) -> None:
    from newsletter.store import ledger, mailings

    for number, kind in enumerate(["confirm"] * 5 + ["manage"]):
        mailings.post(
            edition(kind="transactional", key=kind),
            key=f"{kind}:{number}",
            address=address(number),
            address_key=b"k%d" % number,
            slots={"CONFIRM_URL": "https://news.example.org/c/1"},
            provider="memory",
        )
    claims = [ledger.claim(owner="w", lease=LEASE, now=time.time()) for _ in range(6)]
    assert [claim and claim.share for claim in claims] == ["oneoff", *["confirm"] * 5]


def test_single_mail_posted_at_the_same_moment_is_counted_to_the_last(store: Config) -> None:
    from django.db import connections

    from newsletter.store import mailings, models

    def post(kind: str, number: int) -> None:
        mailings.post(
            edition(kind="transactional", key=kind),
            key=f"{kind}:{number}",
            address=address(number),
            address_key=b"k%d" % number,
            slots={"CONFIRM_URL": "https://news.example.org/c/1"},
            provider="memory",
        )

    post("confirm", 0)

    def several(first: int) -> None:
        try:
            for number in range(first, first + 15):
                post("confirm", number)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=several, args=(first,)) for first in (100, 200, 300, 400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert models.Mailing.objects.get().audience == models.Delivery.objects.count() == 61


def test_one_off_mail_whose_answer_was_lost_is_sent_again_by_a_living_worker_too(store: Config) -> None:
    from newsletter.store import ledger, mailings, models

    id = mailings.post(
        edition(kind="transactional", key="confirm"),
        key="confirm:1:1",
        address=address(1),
        address_key=b"k" * 16,
        slots={"CONFIRM_URL": "https://news.example.org/c/1"},
        provider="memory",
    )
    assert id is not None
    claim = ledger.claim(owner="w", lease=LEASE, now=time.time())
    assert claim
    ledger.turn(claim, (), start=claim.first, limit=1, lease=LEASE, now=time.time())
    unsure = [(id, Outcome("k", "in_doubt", "", "no answer"))]
    ledger.turn(claim, unsure, start=claim.last + 1, limit=0, lease=LEASE, now=time.time())
    ledger.release(claim, now=time.time())
    assert models.Delivery.objects.get(pk=id).state == "pending"


def test_one_off_mail_taken_with_a_remark_forgets_its_slots(store: Config) -> None:
    from newsletter.store import ledger, mailings, models

    id = mailings.post(
        edition(kind="transactional", key="confirm"),
        key="confirm:1:1",
        address=address(1),
        address_key=b"k" * 16,
        slots={"CONFIRM_URL": "https://news.example.org/c/1"},
        provider="memory",
    )
    assert id is not None
    claim = ledger.claim(owner="w", lease=LEASE, now=time.time())
    assert claim
    ledger.turn(claim, (), start=claim.first, limit=1, lease=LEASE, now=time.time())
    taken = [(id, Outcome("k", "accepted", "queued", "250 with a remark"))]
    ledger.turn(claim, taken, start=claim.last + 1, limit=0, lease=LEASE, now=time.time())
    row = models.Delivery.objects.get(pk=id)
    assert (row.state, row.slots) == ("accepted", None)


def test_a_copy_taken_while_its_last_lease_ran_sends_nothing_by_itself(world: World) -> None:
    """The copy knows the last lease, but not what was sent under it: it is an older copy all the same."""
    from newsletter.engine import local
    from newsletter.providers import Limits
    from newsletter.store import mailings, models

    class Unsafe:
        """Takes everything, and has the ledger copied while its first chunk is on its way."""

        limits = Limits(chunk=1, lanes=1)
        rows: list[models.Delivery]
        batches: list[models.Batch]

        def __init__(self) -> None:
            self.sent: list[str] = []
            self.rows, self.batches = [], []

        def send(self, edition: Any, recipients: Any, recorder: Any) -> list[Outcome]:
            if len(self.sent) == PEOPLE - 2:  # both leases were given, the second has two chunks left
                self.rows, self.batches = list(models.Delivery.objects.all()), list(models.Batch.objects.all())
            self.sent += [each.address for each in recipients]
            assert all(recorder.leaving(each.key) for each in recipients)
            return [Outcome(each.key, "accepted") for each in recipients]

        def close(self) -> None:
            pass

    world.open()
    world.write_down()
    provider = Unsafe()
    ways = as_ways(provider, mailings.find(world.mailing).provider)
    finished: Operation = lambda: mailings.find(world.mailing).state in ("finished", "paused")  # noqa: E731
    local.run(world.config, ways, stop=threading.Event(), until=lambda: bool(finished()))
    assert sorted(provider.sent) == sorted(address(n) for n in range(1, PEOPLE + 1))
    # The copy is put in the place of the database, within the grace period.
    for row in (*provider.rows, *provider.batches):
        row.save()
    models.Batch.objects.filter(state="leased").update(lease_until=0)
    models.Mailing.objects.filter(pk=world.mailing).update(
        state="sending", finished_at=None, watched_at=datetime.now(UTC)
    )
    assert models.Delivery.objects.filter(state="pending").exists()
    local.run(world.config, ways, stop=threading.Event(), until=lambda: bool(finished()))
    assert len(provider.sent) == PEOPLE, provider.sent[PEOPLE:]


def test_a_recorder_that_cannot_be_begun_keeps_neither_a_file_nor_a_lock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at its first line."""
    lease = Lease(batch=7, epoch=1, until=time.time() + LEASE)

    def full(file: int, octets: bytes, at: int) -> int:
        raise OSError(28, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            Recorder(world.config.recorders, lease, store="x", owner="y")
    with closing(Recorder(world.config.recorders, lease, store="x", owner="y")):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
    assert [path.name for path in world.config.recorders.iterdir()] == ["7-1.recorder"]
