"""Who paused gets no issue until then: not at opening, not at the intent; and is counted (DESIGN.md §8)."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from audience import add_people, address, edition, editions
from newsletter.config import Config

CHRISTMAS_EVE = datetime(2126, 12, 24, 9, tzinfo=UTC).timestamp()


def open_to(list_id: int, issue: str = "2017-11-19", **options: object) -> int:
    from newsletter.store import mailings

    opened = mailings.open_mailing(
        editions(),
        issue=issue,
        list=list_id,
        default_language="en",
        provider="memory",
        **options,  # type: ignore[arg-type]
    )
    while mailings.write_down(opened.mailing, options.get("audience")):  # type: ignore[arg-type]
        pass
    return opened.mailing


def pause(*people: int, until: float = CHRISTMAS_EVE) -> None:
    from newsletter.store.models import Subscriber

    Subscriber.objects.filter(pk__in=people).update(paused_until=until)


def told(mailing: int) -> dict[int | None, tuple[str, str]]:
    """Subscriber → state and detail of their delivery."""
    from newsletter.store import ledger, mailings, models

    assert sum(ledger.tally(mailing).values()) == mailings.find(mailing).audience
    rows = models.Delivery.objects.filter(mailing=mailing)
    return {row.subscriber_id: (row.state, row.detail) for row in rows}


def intend(mailing: int) -> list[str]:
    """Claims every batch of a mailing and writes the intents: the addresses that a message may leave to."""
    from newsletter.store import ledger

    addresses = []
    while claim := ledger.claim(owner="test", lease=60, now=time.time()):
        chunk = ledger.turn(claim, (), start=claim.first, limit=1000, lease=60, now=time.time())
        addresses += [due.address for due in chunk.due]
    return sorted(addresses)


def test_who_paused_is_left_out_at_opening_and_counted(store: Config) -> None:
    from newsletter.store import mailings, models, overview

    list_id = add_people(store, range(1, 11))
    pause(1, 2, 3)
    pause(4, until=time.time() - 1)  # that is over
    count = overview.headcount(["en", "es"], list=list_id, issue="2017-11-19", default_language="en")
    mailing = open_to(list_id)
    assert {*told(mailing)} == {4, 5, 6, 7, 8, 9, 10}
    assert mailings.find(mailing).left_out == {"paused": 3} == count.left_out
    assert mailings.find(mailing).audience == 7 == count.total
    pause(1, 2, until=time.time() - 1)  # sent once more after the pause, it reaches who was left out
    models.Mailing.objects.update(state="finished")
    assert {*told(open_to(list_id))} == {1, 2}


def test_each_reason_is_counted_once_and_the_headcount_agrees(store: Config) -> None:
    """Outside the segment, suppressed, paused, has it already: the first that holds."""
    from newsletter.store import mailings, models, overview
    from newsletter.store.segments import parse_segment, segment_query

    list_id = add_people(store, range(1, 31))
    models.Subscriber.objects.filter(pk__gt=20).update(language="pt")
    assert len(told(open_to(list_id, segment="language=pt"))) == 30  # they have it, whoever was meant
    add_people(store, range(31, 51))
    pause(*range(1, 4), *range(21, 24), *range(31, 34))
    for person in models.Subscriber.objects.filter(pk__in=(3, 4, 33, 34)):
        models.Suppression.objects.create(address_key=person.address_key, reason="bounce", at=datetime.now(UTC))
    audience = segment_query(parse_segment(store, "language=es"), list_id)

    def count(audience: object = None) -> overview.Headcount:
        return overview.headcount(
            ["en", "es"],
            list=list_id,
            issue="2017-11-19",
            default_language="en",
            audience=audience,  # type: ignore[arg-type]
        )

    assert count().left_out == {"suppressed": 4, "paused": 7, "already has it": 23}
    left = {"not in the segment": 30, "suppressed": 2, "paused": 2, "already has it": 8}
    assert count(audience).left_out == left
    assert count(audience).total == 50 - sum(left.values())
    opened = mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="memory", segment="language=es"
    )
    while mailings.write_down(opened.mailing, audience):
        pass
    assert mailings.find(opened.mailing).left_out == left
    assert mailings.find(opened.mailing).audience == 8


def test_who_pauses_after_the_opening_is_skipped_at_the_intent(store: Config) -> None:
    list_id = add_people(store, range(1, 7))
    mailing = open_to(list_id)
    pause(2, 5)
    pause(3, until=time.time() - 1)
    assert intend(mailing) == [address(n) for n in (1, 3, 4, 6)]
    rows = told(mailing)
    assert rows[2] == rows[5] == ("skipped", "paused until 2126-12-24")
    assert {state for state, _ in rows.values()} == {"skipped", "sending"}


def test_who_paused_and_left_has_left(store: Config) -> None:
    from newsletter.store import models

    list_id = add_people(store, range(1, 5))
    mailing = open_to(list_id)
    pause(1, 2, 3)
    models.Subscription.objects.filter(subscriber_id=1).update(state="unsubscribed")
    key = models.Subscriber.objects.get(pk=2).address_key
    models.Suppression.objects.create(address_key=key, reason="complaint", at=datetime.now(UTC))
    assert intend(mailing) == [address(4)]
    rows = told(mailing)
    assert rows[1] == ("skipped", "unsubscribed")
    assert rows[2] == ("skipped", "suppressed: complaint")
    assert rows[3] == ("skipped", "paused until 2126-12-24")


def test_one_off_mail_is_not_held_back(store: Config) -> None:
    from newsletter.store import mailings, models

    add_people(store, (1,))
    pause(1)
    person = models.Subscriber.objects.get(pk=1)
    id = mailings.post(
        edition(key="confirm", kind="oneoff"),
        key="confirm:1:1",
        address=person.address,
        address_key=bytes(person.address_key),
        slots={"CONFIRM_URL": "https://news.example.org/c/x"},
        provider="memory",
        subscriber=1,
    )
    assert id is not None
    assert intend(models.Delivery.objects.get(pk=id).mailing_id) == [address(1)]


@pytest.mark.parametrize(
    ("until", "words"),
    [
        (0.0, "paused"),
        (None, "paused"),
        (1.0, "paused until 1970-01-01"),
        (datetime(2026, 12, 24, tzinfo=UTC).timestamp(), "paused until 2026-12-24"),
        (datetime(2026, 12, 24, tzinfo=UTC).timestamp() - 1, "paused until 2026-12-23"),
        (1e300, "paused"),
        (float("inf"), "paused"),
    ],
)
def test_the_day_is_that_of_utc_and_no_number_breaks_it(until: float | None, words: str, store: Config) -> None:
    from newsletter.store.ledger import paused_words

    assert paused_words(until) == words
