"""The ledger's rules, one by one, on both databases (DESIGN.md §8)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from audience import add_people, address, editions
from newsletter.config import Config
from newsletter.errors import Fenced, LedgerError, NotFound
from newsletter.recorder import Evidence, Lease, Outcome, Recorder, read_evidence

if TYPE_CHECKING:
    from newsletter.store.ledger import Claim, Turn

LEASE = 60.0


def open_to(config: Config, people: int = 10, *, again: bool = False, issue: str = "2017-11-19") -> int:
    """A mailing that is open: its id."""
    from newsletter.store import mailings, models

    if people and not models.Subscriber.objects.exists():
        add_people(config, range(1, people + 1))
    list_id = models.List.objects.get(name="weekly").pk
    opened = mailings.open_mailing(
        editions(), issue=issue, list=list_id, default_language="en", provider="memory", again=again
    )
    while mailings.write_down(opened.mailing):
        pass
    return opened.mailing


def claimed(*, now: float | None = None, mailing: int | None = None) -> Claim:
    from newsletter.store import ledger

    claim = ledger.claim(owner="test", lease=LEASE, now=now or time.time(), mailing=mailing)
    assert claim is not None
    return claim


def intend(claim: Claim, limit: int = 1000, *, now: float | None = None) -> Turn:
    from newsletter.store import ledger

    return ledger.turn(claim, (), start=claim.first, limit=limit, lease=LEASE, now=now or time.time())


def settle(claim: Claim, results: list[tuple[int, Outcome]], *, now: float | None = None) -> None:
    from newsletter.store import ledger

    ledger.turn(claim, results, start=claim.last + 1, limit=0, lease=LEASE, now=now or time.time())


def states(mailing: int) -> dict[str, int]:
    """Only those that are not zero; the invariant is checked on the way."""
    from newsletter.store import ledger, mailings

    counts = ledger.tally(mailing)
    assert sum(counts.values()) == mailings.find(mailing).audience
    return {state: count for state, count in counts.items() if count}


def accepted(turn: Turn) -> list[tuple[int, Outcome]]:
    return [(due.id, Outcome(str(due.id), "accepted", f"queued as {due.id}")) for due in turn.due]


# --- opening ----------------------------------------------------------------------------------------------------------


def test_opening_writes_everybody_down_once_in_their_language(store: Config) -> None:
    from newsletter.store import mailings, models

    mailing = open_to(store, 10)
    assert states(mailing) == {"pending": 10}
    assert mailings.find(mailing).state == "sending"
    rows = models.Delivery.objects.order_by("subscriber_id").values_list("subscriber_id", "address", "language")
    assert list(rows) == [(n, address(n), ("en", "es")[n % 2]) for n in range(1, 11)]
    for batch in models.Batch.objects.all():
        languages = models.Delivery.objects.filter(pk__range=(batch.first, batch.last)).values_list(
            "language", flat=True
        )
        assert set(languages) == {batch.edition.language}


def test_opening_leaves_out_and_counts_who_must_not_get_it(store: Config) -> None:
    from newsletter.store import mailings, models

    add_people(store, range(1, 11))
    models.Subscription.objects.filter(subscriber_id=1).update(state="unsubscribed")
    models.Subscription.objects.filter(subscriber_id=2).update(state="unconfirmed")
    for n in (3, 4):
        key = models.Subscriber.objects.get(pk=n).address_key
        models.Suppression.objects.create(address_key=key, reason="bounce", at="2026-01-01T00:00Z")
    mailing = open_to(store)
    assert states(mailing) == {"pending": 6}
    assert mailings.find(mailing).left_out == {"unsubscribed": 1, "unconfirmed": 1, "suppressed": 2}


def test_a_language_without_an_edition_gets_the_default_and_a_region_its_language(store: Config) -> None:
    from newsletter.store import models

    add_people(store, range(1, 4), languages=("de", "es-PE", ""))
    open_to(store)
    rows = models.Delivery.objects.order_by("subscriber_id").values_list("language", flat=True)
    assert list(rows) == ["es", "en", "en"]  # person 1 has es-PE, 2 none, 3 de


def test_opening_in_many_ranges_and_languages_writes_everybody_once(
    store: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.store import mailings, models

    monkeypatch.setattr(mailings, "RANGE", 7)
    monkeypatch.setattr(mailings, "BATCH", 3)
    add_people(store, range(1, 101, 2))
    mailing = open_to(store)
    assert states(mailing) == {"pending": 50}
    covered = [id for first, last in models.Batch.objects.values_list("first", "last") for id in range(first, last + 1)]
    assert sorted(covered) == sorted(models.Delivery.objects.values_list("pk", flat=True))


def test_nothing_can_be_claimed_while_a_mailing_opens(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import ledger, mailings

    monkeypatch.setattr(mailings, "RANGE", 5)
    list_id = add_people(store, range(1, 11))
    opened = mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="memory"
    )
    assert mailings.write_down(opened.mailing)
    assert ledger.claim(owner="test", lease=LEASE, now=time.time()) is None


def test_the_same_mailing_opened_twice_is_one(store: Config) -> None:
    from newsletter.store import mailings, models

    mailing = open_to(store)
    list_id = models.List.objects.get(name="weekly").pk
    again = mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="memory"
    )
    assert again == mailings.Opened(mailing=mailing, joined=True)


def test_an_issue_reaches_a_person_once_however_many_lists_it_is_sent_to(store: Config) -> None:
    from newsletter.store import mailings, models

    first = open_to(store, 10)
    alerts = models.List.objects.create(name="alerts")
    for n in (1, 2):
        models.Subscription.objects.create(
            list=alerts,
            subscriber_id=n,
            state="subscribed",
            joined_at="2026-01-01T00:00Z",
            changed_at="2026-01-01T00:00Z",
        )
    opened = mailings.open_mailing(
        editions(), issue="2017-11-19", list=alerts.pk, default_language="en", provider="memory"
    )
    while mailings.write_down(opened.mailing):
        pass
    assert opened.mailing != first
    assert states(opened.mailing) == {}
    assert mailings.find(opened.mailing).left_out == {"already has it": 2}


def test_again_opens_another_round_for_everybody(store: Config) -> None:
    from newsletter.store import mailings

    settle_all(open_to(store, 4))
    rest = open_to(store)
    assert states(rest) == {}
    assert open_to(store, again=True) == rest  # under way: two who ask at once mean one round more, not two
    mailings.finish()
    assert states(open_to(store, again=True)) == {"pending": 4}


def settle_all(mailing: int) -> None:
    from newsletter.store import ledger, mailings

    while (claim := ledger.claim(owner="test", lease=LEASE, now=time.time(), mailing=mailing)) is not None:
        settle(claim, accepted(intend(claim)))
        ledger.release(claim, now=time.time())
    mailings.finish()


# --- claim, intent, result --------------------------------------------------------------------------------------------


def test_a_batch_is_claimed_by_one_worker_only(store: Config) -> None:
    from newsletter.store import ledger

    open_to(store, 4)
    claims = [claimed(), claimed()]  # one batch for each language
    assert len({claim.batch for claim in claims}) == 2
    assert ledger.claim(owner="other", lease=LEASE, now=time.time()) is None


def test_intent_and_result_move_a_delivery_to_accepted_with_its_reference(store: Config) -> None:
    from newsletter.store import ledger, mailings, models

    mailing = open_to(store, 2)
    for _ in range(2):
        claim = claimed()
        turn = intend(claim)
        assert states(mailing).get("sending") == 1
        settle(claim, accepted(turn))
        ledger.release(claim, now=time.time())
    assert states(mailing) == {"accepted": 2}
    for id, ref in models.Delivery.objects.values_list("pk", "provider_ref"):
        assert ref == f"queued as {id}"
    assert mailings.finish() == [mailing]
    assert mailings.find(mailing).state == "finished"


@pytest.mark.parametrize("change", ["unsubscribed", "suppressed", "gone"])
def test_who_leaves_before_the_intent_is_skipped_with_the_reason(store: Config, change: str) -> None:
    from newsletter.store import models

    mailing = open_to(store, 2)
    if change == "unsubscribed":
        models.Subscription.objects.filter(subscriber_id=1).update(state="unsubscribed")
    elif change == "suppressed":
        key = models.Subscriber.objects.get(pk=1).address_key
        models.Suppression.objects.create(address_key=key, reason="complaint", at="2026-01-01T00:00Z")
    else:
        models.Subscription.objects.filter(subscriber_id=1).delete()
    settle_all(mailing)
    assert states(mailing) == {"accepted": 1, "skipped": 1}
    why = {"unsubscribed": "unsubscribed", "suppressed": "suppressed: complaint", "gone": "left the list"}[change]
    assert models.Delivery.objects.get(state="skipped").detail == why


@pytest.mark.parametrize("state", ["paused", "cancelled"])
def test_a_mailing_that_is_halted_takes_no_other_chunk(store: Config, state: str) -> None:
    from newsletter.store import ledger, mailings

    mailing = open_to(store, 8)
    claim = claimed()
    turn = intend(claim, limit=1)
    assert len(turn.due) == 1
    if state == "paused":
        mailings.pause(mailing, "test")
    else:
        mailings.cancel(mailing, "test")
    next_turn = ledger.turn(claim, accepted(turn), start=turn.next, limit=9, lease=LEASE, now=time.time())
    assert (next_turn.due, next_turn.halted) == ((), state)
    ledger.release(claim, now=time.time())
    assert states(mailing) == {"accepted": 1, "pending": 7}
    mailings.sweep(time.time())
    assert states(mailing) == ({"accepted": 1, "pending": 7} if state == "paused" else {"accepted": 1, "skipped": 7})


def test_a_deferred_recipient_waits_longer_each_time_and_is_given_up_at_last(store: Config) -> None:
    from newsletter.store import ledger, mailings, models

    mailing = open_to(store, 1)
    now = time.time()
    waits = []
    for _ in range(ledger.MAX_ATTEMPTS - 1):
        claim = claimed(now=now)
        turn = intend(claim, now=now)
        settle(claim, [(turn.due[0].id, Outcome("x", "deferred", "", "450 try later"))], now=now)
        ledger.release(claim, now=now)
        row = models.Delivery.objects.get()
        assert row.state == "pending"
        waits.append(row.not_before - now)
        assert ledger.claim(owner="test", lease=LEASE, now=row.not_before - 1) is None
        now = row.not_before
        assert mailings.finish() == []
    assert waits[0] < waits[2] < waits[5]
    claim = claimed(now=now)
    settle(claim, [(intend(claim, now=now).due[0].id, Outcome("x", "deferred", "", "450 try later"))], now=now)
    ledger.release(claim, now=now)
    assert states(mailing) == {"refused": 1}
    assert models.Delivery.objects.get().detail == "given up after 12 attempts: 450 try later"


def test_what_was_not_handed_over_goes_back_untried(store: Config) -> None:
    from newsletter.store import ledger, models

    mailing = open_to(store, 2)
    claim = claimed()
    ids = [due.id for due in intend(claim).due]
    ledger.turn(claim, (), not_handed_over=ids, start=claim.last + 1, limit=0, lease=LEASE, now=time.time())
    ledger.release(claim, now=time.time())
    assert states(mailing) == {"pending": 2}
    assert set(models.Delivery.objects.values_list("attempts", flat=True)) == {0}
    settle_all(mailing)
    assert states(mailing) == {"accepted": 2}


def test_the_rest_of_a_batch_can_be_given_to_another_lane(store: Config) -> None:
    from newsletter.store import ledger

    mailing = open_to(store, 8)
    claim = claimed()
    turn = intend(claim, limit=1)
    rest = ledger.split(claim, turn.next, lease=LEASE, now=time.time())
    assert (rest.first, rest.last) == (claim.first, claim.first)
    settle_all(mailing)
    assert states(mailing) == {"sending": 1, "accepted": 7}
    settle(rest, accepted(turn))
    ledger.release(rest, now=time.time())
    assert states(mailing) == {"accepted": 8}


def test_a_delivery_without_an_address_is_skipped(store: Config) -> None:
    from newsletter.store import models

    mailing = open_to(store, 2)
    models.Delivery.objects.filter(subscriber_id=1).update(address="", address_key=None, subscriber=None)
    settle_all(mailing)
    assert states(mailing) == {"accepted": 1, "skipped": 1}
    assert models.Delivery.objects.get(state="skipped").detail == "erased"


def test_a_segment_that_changes_while_its_people_are_written_down_stops_the_mailing(store: Config) -> None:
    from newsletter import duties
    from newsletter.store import mailings

    list_id = add_people(store, range(1, 11))
    opened = mailings.open_mailing(
        editions(),
        issue="2017-11-19",
        list=list_id,
        default_language="en",
        provider="memory",
        segment="language=es",
        meaning="something else",
    )
    duties.write_down_recipients(store)
    row = mailings.find(opened.mailing)
    assert row.state == "paused"
    assert "was changed in lists.yaml" in row.reason


# --- fence, reaper, evidence ------------------------------------------------------------------------------------------


def test_a_worker_that_lost_its_lease_changes_nothing(store: Config) -> None:
    from newsletter.store import keys, ledger

    mailing = open_to(store, 1)
    claim = claimed(now=time.time() - 2 * LEASE)
    turn = intend(claim, now=time.time() - 2 * LEASE)
    reaped = ledger.reap(claim.batch, claim.epoch, evidence=None, keyring=keys.keyring(store), now=time.time())
    assert reaped == {"in_doubt": 1}
    calls: list[Callable[[], object]] = [
        lambda: settle(claim, accepted(turn)),
        lambda: ledger.release(claim, now=time.time()),
        lambda: ledger.renew(claim, lease=LEASE, now=time.time()),
    ]
    for call in calls:
        with pytest.raises(Fenced):
            call()
    assert states(mailing) == {"in_doubt": 1}


def test_a_living_lease_is_not_reaped(store: Config) -> None:
    from newsletter.store import keys, ledger

    open_to(store, 1)
    claim = claimed()
    assert ledger.reap(claim.batch, claim.epoch, evidence=None, keyring=keys.keyring(store), now=time.time()) is None
    assert ledger.expired(time.time()) == []
    assert ledger.expired(time.time() + LEASE + 1) == [(claim.batch, claim.epoch)]


def crashed(config: Config, claim: Claim, turn: Turn, folder: Path) -> Evidence:
    """A worker dies after its first message was answered, its second deferred, its third was on its way."""
    from newsletter.store import keys, schema

    lease = Lease(batch=claim.batch, epoch=claim.epoch, until=time.time() + LEASE)
    recorder = Recorder(folder, lease, store=schema.store_id(), owner="test")
    names = keys.keyring(config).delivery_keys([due.id for due in turn.due])
    for name in names[:3]:
        assert recorder.leaving(name)
    recorder.answered(Outcome(names[0], "accepted", "queued as 1"))
    recorder.answered(Outcome(names[1], "deferred", "", "450 later"))
    recorder.close()
    evidence = read_evidence(recorder.path)
    assert evidence is not None
    return evidence


def test_the_recorder_tells_what_became_of_a_dead_workers_chunk(store: Config, tmp_path: Path) -> None:
    from newsletter.store import keys, ledger, models

    mailing = open_to(store, 10)
    claim = claimed()
    turn = intend(claim)
    evidence = crashed(store, claim, turn, tmp_path / "r")
    went = ledger.hand_in(evidence, keyring=keys.keyring(store), now=time.time())
    assert went == {"accepted": 1, "pending": 3, "in_doubt": 1}
    assert states(mailing) == {"accepted": 1, "pending": 8, "in_doubt": 1}
    by_id = {row.pk: row for row in models.Delivery.objects.all()}
    first, second, third, fourth, _ = (by_id[due.id] for due in turn.due)
    assert (first.state, first.provider_ref) == ("accepted", "queued as 1")
    assert (second.state, second.attempts) == ("pending", 1)
    assert (third.state, fourth.state, fourth.attempts) == ("in_doubt", "pending", 0)


def test_evidence_that_comes_after_the_reaper_settles_the_doubts_of_its_own_epoch(
    store: Config, tmp_path: Path
) -> None:
    from newsletter.store import keys, ledger, mailings

    mailing = open_to(store, 10)
    claim = claimed(now=time.time() - 2 * LEASE)
    turn = intend(claim, now=time.time() - 2 * LEASE)
    evidence = crashed(store, claim, turn, tmp_path / "r")
    ledger.reap(claim.batch, claim.epoch, evidence=None, keyring=keys.keyring(store), now=time.time())
    assert states(mailing) == {"in_doubt": 5, "pending": 5}
    settle_all(mailing)
    assert mailings.find(mailing).state == "finished"
    went = ledger.hand_in(evidence, keyring=keys.keyring(store), now=time.time())
    assert went == {"accepted": 1, "pending": 3, "in_doubt": 1}
    assert mailings.find(mailing).state == "sending"
    settle_all(mailing)
    assert states(mailing) == {"accepted": 8, "in_doubt": 1, "pending": 1}  # the deferred one still waits


def test_after_another_boot_a_missing_line_proves_nothing(store: Config, tmp_path: Path) -> None:
    from dataclasses import replace

    from newsletter.store import keys, ledger

    mailing = open_to(store, 10)
    claim = claimed()
    turn = intend(claim)
    evidence = replace(crashed(store, claim, turn, tmp_path / "r"), same_boot=False)
    ledger.hand_in(evidence, keyring=keys.keyring(store), now=time.time())
    assert states(mailing) == {"accepted": 1, "pending": 6, "in_doubt": 3}


def test_evidence_of_a_lease_that_this_database_never_gave_is_kept(store: Config, tmp_path: Path) -> None:
    from dataclasses import replace

    from newsletter.store import keys, ledger

    open_to(store, 10)
    claim = claimed()
    evidence = crashed(store, claim, intend(claim), tmp_path / "r")
    for foreign in (replace(evidence, epoch=9), replace(evidence, batch=999)):
        assert ledger.hand_in(foreign, keyring=keys.keyring(store), now=time.time()) is None


# --- operator ---------------------------------------------------------------------------------------------------------


def in_doubt(config: Config, mailing: int) -> None:
    from newsletter.store import keys, ledger

    claim = claimed(now=time.time() - 2 * LEASE)
    intend(claim, now=time.time() - 2 * LEASE)
    ledger.reap(claim.batch, claim.epoch, evidence=None, keyring=keys.keyring(config), now=time.time())


def test_a_doubt_can_be_treated_as_sent(store: Config) -> None:
    from newsletter.store import mailings

    mailing = open_to(store, 1)
    in_doubt(store, mailing)
    mailings.finish()
    assert mailings.resolve(mailing, again=False, now=time.time()) == 1
    assert states(mailing) == {"accepted": 1}


def test_a_doubt_can_be_sent_again_but_not_at_once(store: Config) -> None:
    from newsletter.store import mailings

    mailing = open_to(store, 1)
    in_doubt(store, mailing)
    assert mailings.finish() == [mailing]
    with pytest.raises(LedgerError, match="younger than 10 minutes"):
        mailings.resolve(mailing, again=True, now=time.time())
    assert mailings.resolve(mailing, again=True, now=time.time() + 601) == 1
    assert mailings.find(mailing).state == "sending"
    settle_all(mailing)
    assert states(mailing) == {"accepted": 1}


def test_pause_and_resume_and_cancel_say_what_does_not_fit(store: Config) -> None:
    from newsletter.store import mailings

    mailing = open_to(store, 1)
    assert mailings.pause(mailing, "because")
    assert not mailings.pause(mailing, "again")
    assert mailings.resume(mailing) == "sending"
    mailings.cancel(mailing, "enough")
    with pytest.raises(LedgerError, match="only a paused one can be resumed"):
        mailings.resume(mailing)
    with pytest.raises(LedgerError, match="is cancelled already"):
        mailings.cancel(mailing, "enough")
    with pytest.raises(NotFound):
        mailings.find(99)


def test_a_mailing_pauses_when_too_many_are_refused_and_not_before(store: Config) -> None:
    from newsletter.store import ledger

    mailing = open_to(store, 100)
    claim = claimed()
    ids = [due.id for due in intend(claim).due]
    refused = [(id, Outcome("x", "refused", "", "550 no")) for id in ids]
    settle(claim, [*refused[:10], *((id, Outcome("x", "accepted")) for id in ids[10:40])])
    assert ledger.too_many_refused(mailing) is None
    settle(claim, refused[40:])
    assert ledger.too_many_refused(mailing) == (20, 50)


# --- one-off mail -----------------------------------------------------------------------------------------------------


def post(key: str = "confirm:7:1", *, address_key: bytes = b"x" * 16, kind: str = "confirm") -> int | None:
    from audience import edition
    from newsletter.store import mailings

    return mailings.post(
        edition(key=kind, kind="transactional"),
        key=key,
        address="new@example.org",
        address_key=address_key,
        slots={"NAME": "New", "CONFIRM_URL": "https://news.example.org/c/1"},
        provider="memory",
    )


def test_one_off_mail_goes_first_once_and_forgets_its_slots(store: Config) -> None:
    from newsletter.store import ledger, models

    open_to(store, 10)
    id = post()
    assert id is not None
    assert post() is None
    claim = claimed()
    assert (claim.kind, claim.first, claim.last) == ("oneoff", id, id)
    turn = intend(claim)
    assert turn.due[0].slots is not None
    settle(claim, accepted(turn))
    ledger.release(claim, now=time.time())
    assert models.Delivery.objects.get(pk=id).slots is None


@pytest.mark.parametrize(
    ("kind", "reason", "state"),
    [
        *(("link", reason, "accepted") for reason in ("manual", "erased")),
        *(("link", reason, "skipped") for reason in ("bounce", "complaint")),
        # A person's own double opt-in lifts a bounce, and so the mail that asks for it must leave.
        *(("confirm", reason, "accepted") for reason in ("manual", "erased", "bounce")),
        ("confirm", "complaint", "skipped"),
    ],
)
def test_one_off_mail_obeys_complaints_and_bounces_and_a_confirmation_complaints_only(
    store: Config, kind: str, reason: str, state: str
) -> None:
    from newsletter.store import ledger, models

    models.Suppression.objects.create(address_key=b"y" * 16, reason=reason, at="2026-01-01T00:00Z")
    id = post(f"{kind}:7:1", address_key=b"y" * 16, kind=kind)
    assert id is not None
    claim = claimed()
    settle(claim, accepted(intend(claim)))
    ledger.release(claim, now=time.time())
    assert models.Delivery.objects.get(pk=id).state == state


def test_one_off_mail_in_doubt_is_sent_again(store: Config) -> None:
    from newsletter.store import keys, ledger, models

    id = post()
    assert id is not None
    claim = claimed(now=time.time() - 2 * LEASE)
    intend(claim, now=time.time() - 2 * LEASE)
    ledger.reap(claim.batch, claim.epoch, evidence=None, keyring=keys.keyring(store), now=time.time())
    assert models.Delivery.objects.get(pk=id).state == "pending"
    assert claimed().first == id


# --- time travel ------------------------------------------------------------------------------------------------------


def test_a_mailing_that_nobody_looked_after_waits_for_a_human(store: Config) -> None:
    from newsletter.store import mailings, models

    mailing = open_to(store, 3)
    assert mailings.pause_forsaken(grace=3600) == []
    models.Mailing.objects.update(watched_at="2026-01-01T00:00Z")
    assert mailings.pause_forsaken(grace=3600) == [mailing]
    row = mailings.find(mailing)
    assert row.state == "paused"
    assert "up to 3 people may have been mailed" in row.reason
    assert f"newsletter resume {mailing}" in row.reason
    assert mailings.resume(mailing) == "sending"
    assert mailings.pause_forsaken(grace=3600) == []


def test_a_database_older_than_its_last_lease_pauses_what_is_under_way(store: Config) -> None:
    from newsletter import duties
    from newsletter.dispatch import _remember
    from newsletter.store import mailings, schema

    schema.prepare(store) if not store.database_url else None
    mailing = open_to(store, 3)
    claim = claimed()
    intend(claim)
    store.recorders.mkdir(parents=True)
    _remember(store, schema.store_id(), claim.first, claim.epoch)
    assert duties.pause_forsaken(store, schema.store_id()) == []
    _remember(store, schema.store_id(), claim.first, claim.epoch + 1)
    assert duties.pause_forsaken(store, schema.store_id()) == [mailing]
    assert "older than the last thing that was sent from here" in mailings.find(mailing).reason


def test_old_deliveries_forget_their_addresses_and_young_ones_do_not(store: Config) -> None:
    from newsletter.store import mailings, models

    old = open_to(store, 4)
    settle_all(old)
    models.Delivery.objects.update(at=1000.0)
    young = open_to(store, again=True)
    while mailings.forget_addresses(before=time.time() - 3600, size=3):
        pass
    assert set(models.Delivery.objects.filter(mailing_id=old).values_list("address", "address_key")) == {("", None)}
    assert "" not in set(models.Delivery.objects.filter(mailing_id=young).values_list("address", flat=True))
