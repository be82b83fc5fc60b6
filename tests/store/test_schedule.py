"""Mailings that wait for their moment, and people who wait for the hour of their own zone, on both databases."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from audience import add_people, as_ways, editions
from newsletter import moments
from newsletter.config import Config
from newsletter.errors import LedgerError
from newsletter.moments import Schedule
from newsletter.recorder import Outcome

HOUR = timedelta(hours=1)
NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)
LOCAL = "2026-11-27T08:00"
GRACE = 3600.0
LEASE = 60.0

# What may stand in the attribute, by turns: zones on both sides of the day line, misspelt ones, and no texts at all.
ZONES: list[Any] = [
    "Europe/Madrid",
    "America/Lima",
    None,
    "Pacific/Kiritimati",
    "Europe/Madird",
    "Pacific/Pago_Pago",
    "",
    "Asia/Kathmandu",
    "europe/madrid",
    5,
    "Europe/Paris",
    True,
    "../../etc/passwd",
    "localtime",
    "'; DROP TABLE delivery; --",
    "America/New_York",
    2.5,
]


def at(hours: float = 1) -> Schedule:
    """For everybody, so many hours after NOW."""
    moment = NOW + timedelta(hours=hours)
    return Schedule(send_at=moment, zone="Europe/Madrid", home_at=moment)


def local(zone: str = "Europe/Madrid", text: str = LOCAL) -> Schedule:
    return moments.at_local(moments.parse(f"{text} {zone}", local="UTC"), now=NOW)


def schedule(
    config: Config, when: Schedule, *, people: int = 10, again: bool = False, issue: str = "2017-11-19"
) -> int:
    from newsletter.store import mailings, models

    if people and not models.Subscriber.objects.exists():
        add_people(config, range(1, people + 1))
    list_id = models.List.objects.get_or_create(name="weekly")[0].pk
    return mailings.open_mailing(
        editions(),
        issue=issue,
        list=list_id,
        default_language="en",
        provider="memory",
        again=again,
        schedule=when,
    ).mailing


def begin(now: datetime) -> list[int]:
    from newsletter.store import mailings

    return mailings.begin_scheduled(grace=GRACE, now=now)


def write_down(mailing: int) -> None:
    from newsletter.store import mailings

    while mailings.write_down(mailing):
        pass


def state(mailing: int) -> str:
    from newsletter.store import mailings

    return str(mailings.find(mailing).state)


def give_zones() -> dict[int, Any]:
    """Everybody gets what is next in ZONES; what each has."""
    from newsletter.store import models

    given = {}
    for n, person in enumerate(models.Subscriber.objects.order_by("pk")):
        given[person.pk] = ZONES[n % len(ZONES)]
        name = ("timezone", "TIMEZONE")[n // len(ZONES) % 2]
        absent = given[person.pk] is None and name == "TIMEZONE"  # not there at all, where others have a null
        person.attributes = {"city": "Lima"} if absent else {"city": "Lima", name: given[person.pk]}
        person.save(update_fields=["attributes"])
    return given


def zone_of(person: Any) -> Any:
    return person.attributes.get("timezone") or person.attributes.get("TIMEZONE")


def expected(zone: Any, home: str = "Europe/Madrid", reading: str = LOCAL) -> float:
    """The oracle: when it is that time where this person lives."""
    known = zone if isinstance(zone, str) and zone in moments.zone_names() else home
    return datetime.fromisoformat(reading).replace(tzinfo=ZoneInfo(known)).timestamp()


# --- waiting ---


def test_nobody_is_written_down_before_the_moment_and_who_joins_or_leaves_until_then_counts(store: Config) -> None:
    from newsletter.store import ledger, mailings, models

    mailing = schedule(store, at(1))
    assert (state(mailing), begin(NOW + HOUR - timedelta(seconds=1))) == ("scheduled", [])
    write_down(mailing)
    assert models.Delivery.objects.count() == 0
    assert mailings.opening() == []
    add_people(store, [11])
    models.Subscription.objects.filter(subscriber_id=2).update(state="unsubscribed")
    assert begin(NOW + HOUR) == [mailing]
    write_down(mailing)
    assert state(mailing) == "sending"
    reached = models.Delivery.objects.values_list("subscriber_id", flat=True)
    assert sorted(reached) == [1, *range(3, 12)]
    assert {row.not_before for row in models.Batch.objects.all()} == {0.0}
    assert ledger.claim(owner="test", lease=LEASE, now=time.time()) is not None


def test_a_segment_counts_its_days_from_the_moment(store: Config) -> None:
    from newsletter import duties
    from newsletter.store import mailings, models
    from newsletter.store.segments import parse_segment

    lists = store.lists.read_text("utf-8")
    store.lists.write_text(f"{lists}segments:\n  new: {{joined: {{after: 30 days ago}}}}\n", "utf-8")
    list_id = add_people(store, range(1, 4))
    moment = datetime.now(UTC) - timedelta(seconds=1)
    models.Subscription.objects.filter(subscriber_id=1).update(joined_at=moment - timedelta(days=30))
    models.Subscription.objects.filter(subscriber_id=2).update(joined_at=moment - timedelta(days=30, seconds=1))
    models.Subscription.objects.filter(subscriber_id=3).update(joined_at=moment)
    mailing = mailings.open_mailing(
        editions(),
        issue="2017-11-19",
        list=list_id,
        default_language="en",
        provider="memory",
        segment="new",
        meaning=repr(parse_segment(store, "new")),
        schedule=Schedule(send_at=moment, zone="UTC", home_at=moment),
    ).mailing
    models.Mailing.objects.filter(pk=mailing).update(created_at=moment - timedelta(days=20))
    assert duties.begin_scheduled(store) == [mailing]
    while duties.write_down_recipients(store):
        pass
    assert sorted(models.Delivery.objects.values_list("subscriber_id", flat=True)) == [1, 3]


def test_nothing_begins_in_a_database_that_was_replaced_by_an_older_copy_under_a_running_worker(store: Config) -> None:
    from newsletter.dispatch import _remember
    from newsletter.engine.local import EveryDuty, Shift
    from newsletter.providers.memory import Memory
    from newsletter.store import mailings, models

    shift = Shift(store, as_ways(Memory(), "memory"), engine="local")  # it looked after the database, then this happens
    moment = datetime.now(UTC) - timedelta(seconds=1)
    mailing = schedule(store, Schedule(send_at=moment, zone="UTC", home_at=moment))
    store.recorders.mkdir(parents=True, exist_ok=True)
    _remember(store, shift.store, 10**6, 1)
    EveryDuty(store, shift, seconds=1.0)()
    assert "older than the last thing that was sent from here" in mailings.find(mailing).reason
    assert (state(mailing), models.Delivery.objects.count()) == ("paused", 0)


def test_of_many_workers_one_lets_it_begin(store: Config) -> None:
    from django.db import connections

    mailings = [schedule(store, at(1), issue=f"2017-11-{day}") for day in (10, 11, 12)]
    ready = threading.Barrier(4)
    begun: list[int] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            ready.wait()
            begun.extend(begin(NOW + HOUR))
        except BaseException as error:
            failed.append(error)
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed
    assert sorted(begun) == mailings
    assert {state(each) for each in mailings} == {"opening"}


def test_the_same_mailing_asked_for_again_is_the_one_that_waits(store: Config) -> None:
    from newsletter.store import mailings, models, overview

    mailing = schedule(store, at(1))
    assert schedule(store, at(5)) == mailing
    assert schedule(store, at(5), again=True) == mailing  # its round is not over
    assert mailings.find(mailing).send_at == at(1).send_at
    assert [row.pk for row in overview.under_way("2017-11-19")] == [mailing]
    assert overview.last_round("2017-11-19") == 1
    assert models.Round.objects.count() == 1


def test_a_new_round_may_be_scheduled_and_reaches_everybody(store: Config) -> None:
    from newsletter.store import mailings, models

    first = schedule(store, at(1), people=4)
    begin(NOW + HOUR)
    write_down(first)
    mailings.cancel(first, "")
    mailings.sweep(time.time())
    second = schedule(store, at(2), again=True)
    begin(NOW + 2 * HOUR)
    write_down(second)
    assert mailings.find(second).round.number == 2  # type: ignore[union-attr]
    assert models.Delivery.objects.filter(mailing_id=second).count() == 4


def test_a_worker_that_works_once_does_not_wait_for_it(store: Config) -> None:
    from newsletter.store import mailings, overview

    mailing = schedule(store, at(1))
    moment = at(1).send_at.timestamp()
    assert not overview.anything_due(moment - 1, "memory")
    assert overview.anything_due(moment, "memory")
    assert [row.pk for row in overview.active()] == [mailing]
    assert mailings.finish() == []


# --- overdue ---


def test_an_overdue_one_waits_for_a_human_and_then_goes_at_once(store: Config) -> None:
    from newsletter.store import mailings

    mailing = schedule(store, at(1))
    assert begin(NOW + 3.5 * HOUR) == []
    row = mailings.find(mailing)
    assert (row.state, row.reason) == (
        "paused",
        "it was to begin on Thursday 2026-11-26 05:00 Europe/Madrid (04:00 UTC) and is 2.5 hours late, since no worker "
        "ran then. If this database is an old copy, it may have been sent already. When that is not so: "
        f"newsletter resume {mailing} sends it at once, send with --at moves it",
    )
    assert mailings.resume(mailing, now=NOW + 4 * HOUR) == "opening"
    assert begin(NOW + 4 * HOUR) == []
    assert (state(mailing), mailings.find(mailing).reason) == ("opening", "")
    write_down(mailing)
    assert state(mailing) == "sending"


def test_within_the_grace_period_it_is_late_and_begins(store: Config) -> None:
    mailing = schedule(store, at(1))
    assert begin(NOW + 2 * HOUR) == [mailing]


def test_an_old_copy_that_is_known_as_such_begins_nothing(store: Config) -> None:
    from newsletter.store import mailings

    mailing = schedule(store, at(1))
    assert mailings.pause_forsaken(grace=GRACE) == []  # nobody need look after what waits for its moment
    assert mailings.pause_forsaken(grace=GRACE, why="this database is older") == [mailing]
    row = mailings.find(mailing)
    assert "this database is older, so this database may be an old copy: everybody on its list may have" in row.reason
    assert begin(NOW + HOUR) == []


def test_a_restored_backup_lets_it_wait_for_a_human(store: Config) -> None:
    from newsletter.store import backup, mailings

    mailing = schedule(store, at(1))
    assert backup._pause_all(NOW) == (mailing,)
    assert "everybody on its list may already have been mailed since" in mailings.find(mailing).reason
    assert begin(NOW + HOUR) == []


# --- pause, resume, cancel, move ---


def test_a_paused_one_does_not_begin_and_waits_again_when_it_is_resumed_in_time(store: Config) -> None:
    from newsletter.store import mailings

    mailing = schedule(store, at(2))
    assert mailings.pause(mailing, "by hand")
    assert begin(NOW + 2 * HOUR) == []
    assert mailings.resume(mailing, now=NOW + HOUR) == "scheduled"
    assert mailings.resume(mailing, now=NOW + HOUR) == "scheduled"
    assert begin(NOW + HOUR) == []
    assert begin(NOW + 2 * HOUR) == [mailing]


def test_resumed_after_its_moment_it_begins_at_once_however_late(store: Config) -> None:
    from newsletter.store import mailings

    mailing = schedule(store, at(2))
    mailings.pause(mailing, "by hand")
    assert mailings.resume(mailing, now=NOW + 9 * HOUR) == "opening"


def test_a_cancelled_one_never_begins_and_the_issue_may_be_sent_anew(store: Config) -> None:
    from newsletter.store import mailings, models

    mailing = schedule(store, at(1))
    mailings.cancel(mailing, "by hand")
    assert begin(NOW + HOUR) == []
    assert mailings.sweep(time.time()) == 0
    other = schedule(store, at(2))
    assert other != mailing
    begin(NOW + 2 * HOUR)
    write_down(other)
    assert models.Delivery.objects.count() == 10


def test_moved_it_begins_then_and_not_before(store: Config) -> None:
    from newsletter.store import mailings

    mailing = schedule(store, at(1))
    mailings.move(mailing, at(5))
    assert begin(NOW + HOUR) == []
    assert begin(NOW + 5 * HOUR) == [mailing]
    with pytest.raises(LedgerError, match=f"mailing {mailing} is opening, and has begun: it cannot be moved"):
        mailings.move(mailing, at(6))


def test_an_overdue_one_is_moved_and_waits_again(store: Config) -> None:
    from newsletter.store import mailings

    mailing = schedule(store, at(1))
    begin(NOW + 9 * HOUR)
    mailings.move(mailing, at(10))
    assert (state(mailing), mailings.find(mailing).reason) == ("scheduled", "")
    assert begin(NOW + 10 * HOUR) == [mailing]


def test_one_paused_after_people_were_written_down_is_not_moved(store: Config) -> None:
    from newsletter.store import mailings

    mailing = schedule(store, at(1))
    begin(NOW + HOUR)
    assert mailings.write_down(mailing)
    mailings.pause(mailing, "by hand")
    with pytest.raises(LedgerError, match="has begun"):
        mailings.move(mailing, at(6))
    assert mailings.resume(mailing, now=NOW) == "opening"  # it goes on, whatever the clock says
    write_down(mailing)
    assert state(mailing) == "sending"


def test_moved_between_one_moment_and_the_hour_of_each_zone(store: Config) -> None:
    from newsletter.store import mailings, models

    mailing = schedule(store, at(1), people=20)
    give_zones()
    mailings.move(mailing, local())
    row = mailings.find(mailing)
    assert (row.local_time, row.zone, row.send_at) == (LOCAL, "Europe/Madrid", local().send_at)
    mailings.move(mailing, at(2))
    row = mailings.find(mailing)
    assert (row.local_time, set(row.plan) & {"home", "zones"}) == ("", set())
    begin(NOW + 2 * HOUR)
    write_down(mailing)
    assert {each.not_before for each in models.Delivery.objects.all()} == {0.0}


# --- the hour of each zone ---


def open_local(config: Config, people: int, monkeypatch: pytest.MonkeyPatch, when: Schedule | None = None) -> int:
    """In many ranges, and several batches of one moment."""
    from newsletter.store import mailings

    monkeypatch.setattr(mailings, "RANGE", 40)
    monkeypatch.setattr(mailings, "BATCH", 3)
    when = when or local()
    add_people(config, range(1, people + 1), languages=("en", "es", "es-PE"))
    give_zones()
    mailing = schedule(config, when)
    assert begin(when.send_at) == [mailing]
    write_down(mailing)
    assert state(mailing) == "sending"
    return mailing


def test_everybody_stands_once_in_a_batch_of_their_moment_and_their_language(
    store: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.store import models

    open_local(store, 170, monkeypatch)
    given = {person.pk: zone_of(person) for person in models.Subscriber.objects.all()}
    rows = {row.pk: row for row in models.Delivery.objects.all()}
    assert sorted(row.subscriber_id or 0 for row in rows.values()) == sorted(given)
    stood = []
    for batch in models.Batch.objects.select_related("edition"):
        for id in range(batch.first, batch.last + 1):
            row = rows[id]
            stood.append(id)
            assert batch.not_before == row.not_before == expected(given[row.subscriber_id or 0])
            assert batch.edition.language == row.language
    assert sorted(stood) == sorted(rows)


def test_nobody_gets_it_before_their_hour_and_everybody_gets_it_then(
    store: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.store import ledger, mailings, models, overview

    mailing = open_local(store, 85, monkeypatch)
    due = Counter(expected(zone_of(person)) for person in models.Subscriber.objects.all())
    accepted = 0
    for moment in sorted(due):
        assert ledger.claim(owner="test", lease=LEASE, now=moment - 1) is None
        assert not overview.anything_due(moment - 1, "memory")
        standing = overview.standing(mailing, moment - 1)
        assert (standing.next, standing.due, standing.ahead, standing.deferred) == (moment, False, True, False)
        assert mailings.finish() == []
        assert overview.work(mailing, moment - 1).next == 0.0  # nothing was deferred
        while (claim := ledger.claim(owner="test", lease=LEASE, now=moment)) is not None:
            turn = ledger.turn(claim, (), start=claim.first, limit=1000, lease=LEASE, now=moment)
            results = [(each.id, Outcome(str(each.id), "accepted", "ok")) for each in turn.due]
            accepted += len(results)
            ledger.turn(claim, results, start=claim.last + 1, limit=0, lease=LEASE, now=moment)
            ledger.release(claim, now=moment)
        assert accepted == sum(count for each, count in due.items() if each <= moment)
    assert mailings.finish() == [mailing]
    assert ledger.tally(mailing)["accepted"] == 85


def test_the_hours_tell_each_zone_and_who_waits(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import ledger, mailings, models, overview

    mailing = open_local(store, 85, monkeypatch)
    known: dict[float, set[str]] = {}
    people: Counter[float] = Counter()
    for person in models.Subscriber.objects.all():
        zone = zone_of(person)
        moment = expected(zone)
        people[moment] += 1
        known.setdefault(moment, set()).add(zone if isinstance(zone, str) and zone in moments.zone_names() else "")
    hours = overview.hours(mailings.find(mailing))
    assert {hour.at: (set(hour.zones), hour.people, hour.waiting) for hour in hours} == {
        moment: (zones, people[moment], people[moment]) for moment, zones in known.items()
    }
    first = hours[0].at
    claim = ledger.claim(owner="test", lease=LEASE, now=first)
    assert claim is not None
    begun = overview.hours(mailings.find(mailing))[0]
    assert begun.waiting == begun.people - (claim.last - claim.first + 1)


def test_who_lives_where_it_is_later_already_gets_it_at_once(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import ledger, models

    moment = moments.parse("2026-11-26 08:00 America/Lima", local="UTC")
    when = moments.at_local(moment, now=NOW)  # 03:00 UTC: in Asia it has been eight o'clock
    assert when.send_at == NOW
    open_local(store, 34, monkeypatch, when)
    reached: set[int] = set()
    while (claim := ledger.claim(owner="test", lease=LEASE, now=NOW.timestamp())) is not None:
        rows = models.Delivery.objects.filter(pk__range=(claim.first, claim.last))
        reached |= set(rows.values_list("subscriber_id", flat=True))
    reading = "2026-11-26T08:00"
    for person in models.Subscriber.objects.all():
        moment_there = expected(zone_of(person), "America/Lima", reading)
        assert (person.pk in reached) == (moment_there <= NOW.timestamp())
    assert reached


def test_in_a_night_without_that_hour_it_is_as_long_after(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import models

    when = moments.at_local(moments.parse("2027-03-28 02:30 America/Lima", local="UTC"), now=NOW)
    open_local(store, 34, monkeypatch, when)
    madrid = models.Subscriber.objects.filter(attributes__timezone="Europe/Madrid").values_list("pk", flat=True)
    at = {row.not_before for row in models.Delivery.objects.filter(subscriber_id__in=[*madrid])}
    there = [datetime.fromtimestamp(each, UTC).astimezone(ZoneInfo("Europe/Madrid")) for each in at]
    assert [f"{each:%Y-%m-%d %H:%M}" for each in there] == ["2027-03-28 03:30"]


def test_paused_and_resumed_they_still_wait_for_their_hour(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import ledger, mailings, models

    mailing = open_local(store, 34, monkeypatch)
    before = list(models.Batch.objects.order_by("pk").values_list("pk", "not_before"))
    mailings.pause(mailing, "by hand")
    assert ledger.claim(owner="test", lease=LEASE, now=NOW.timestamp() + 9e5) is None
    assert mailings.resume(mailing) == "sending"
    assert list(models.Batch.objects.order_by("pk").values_list("pk", "not_before")) == before
    assert ledger.claim(owner="test", lease=LEASE, now=min(at for _, at in before) - 1) is None


def test_cancelled_those_who_wait_get_nothing_and_are_free_again(
    store: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.store import ledger, mailings

    mailing = open_local(store, 34, monkeypatch)
    mailings.cancel(mailing, "by hand")
    assert mailings.sweep(NOW.timestamp()) == 34
    assert ledger.tally(mailing)["skipped"] == 34


def test_a_resumed_overdue_local_time_goes_at_once_only_to_whom_it_has_passed(
    store: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.store import mailings, models

    add_people(store, range(1, 35))
    give_zones()
    mailing = schedule(store, local())
    late = local().send_at + 3 * HOUR
    assert begin(late) == []
    assert mailings.resume(mailing, now=late) == "opening"
    write_down(mailing)
    given = {person.pk: zone_of(person) for person in models.Subscriber.objects.all()}
    for row in models.Delivery.objects.all():
        assert row.not_before == expected(given[row.subscriber_id or 0])


def test_people_are_counted_by_zone_as_they_are_written_down(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import mailings, models, overview

    list_id = add_people(store, range(1, 86))
    models.Subscription.objects.filter(subscriber_id__in=(1, 4)).update(state="unsubscribed")
    given = give_zones()
    counted: Counter[str] = Counter()
    for person, zone in given.items():
        if person not in (1, 4):
            known = isinstance(zone, str) and zone in moments.zone_names()
            counted[zone if known else "" if zone in (None, "") else "?"] += 1
    options: dict[str, Any] = {"list": list_id, "issue": "2017-11-19", "default_language": "en"}
    count = overview.headcount(["en", "es"], **options, by_zone=True)
    assert count.zones == counted
    plain = overview.headcount(["en", "es"], **options)
    assert (plain.recipients, plain.left_out, plain.zones) == (count.recipients, count.left_out, {})
    mailing = schedule(store, local())
    begin(local().send_at)
    write_down(mailing)
    counted[""] += counted.pop("?")
    plan = mailings.find(mailing).plan
    assert {zone: people for zone, (_, people) in plan["zones"].items()} == counted
    assert sum(people for _, people in plan["zones"].values()) == 83


def test_a_default_zone_may_be_an_offset(store: Config) -> None:
    from newsletter.store import models

    when = moments.at_local(moments.parse("2026-11-27 08:00 -03:00", local="UTC"), now=NOW)
    mailing = schedule(store, when, people=3)
    begin(when.send_at)
    write_down(mailing)
    assert {row.not_before for row in models.Batch.objects.all()} == {
        datetime(2026, 11, 27, 11, tzinfo=UTC).timestamp()
    }
