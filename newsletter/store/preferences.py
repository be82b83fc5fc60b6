"""What somebody who holds a mail of theirs may change: lists, language, a pause, consent to be counted.

A mail gets forwarded, and so does its link. So it may take the person off a list, but not put them on one: that is
asked for (store/wishes.py) and confirmed from their own mailbox. The one exception is a list that they left by this
very link a moment ago.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from django.db import transaction

from newsletter.moments import find_zone
from newsletter.store.consent import record
from newsletter.store.mailings import ZONE
from newsletter.store.models import Consent, Delivery, Subscriber, Subscription
from newsletter.store.subscribers import kept_person, unsubscribe

HOW = "preferences"  # in consent events and wishes
UNDO = timedelta(hours=1)  # for so long a list that was left here can be taken back here
_OFTEN = 5  # in a day: events are kept for ever, and nobody shall fill the disk with two buttons


def subscriber_of(delivery: int) -> Subscriber | None:
    """Whom a delivery went to; None when it never was, when it has forgotten whom, and when the person is gone."""
    row = Delivery.objects.filter(pk=delivery).values_list("subscriber_id").first()
    return Subscriber.objects.filter(pk=row[0]).first() if row and row[0] is not None else None


def states(person: Subscriber) -> dict[str, str]:
    """How the person stands to each list: a state of SUBSCRIPTION_STATES, or "left" for one that they may take back."""
    rows = Subscription.objects.filter(subscriber=person).select_related("list")
    now = datetime.now(UTC)
    return {row.list.name: "left" if _may_undo(row, now) else row.state for row in rows}


def zone_of(person: Subscriber) -> tzinfo:
    """The time zone that the person is known to live in, or UTC."""
    named = (str(person.attributes[name]) for name in ZONE if person.attributes.get(name))
    return next((zone for name in named if (zone := find_zone(name))), UTC)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the person answered about opens and clicks, and the words that they saw."""

    agreed: bool
    text: str
    text_version: str
    language: str


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What became of it, by the ids of lists."""

    left: tuple[str, ...] = ()
    taken_back: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()  # to be asked for: nothing is changed before the person confirms


def change(
    person: Subscriber,
    *,
    tick: Collection[str],
    clear: Collection[str],
    language: str,
    paused_until: float | None,
    tracking: Answer,
    network: str,
    now: datetime | None = None,
) -> Changed | None:
    """Keeps what the person chose, all of it at once; None when they were erased meanwhile.

    `tick` are lists that they want and `clear` those that they do not; the rest stay as they are. `language` and
    `paused_until` (Unix seconds) are kept as given. Who was never asked about opens and clicks and does not agree
    stays so: no event is kept of what nobody said. Who says yes and no over and over in a day is left at no.
    """
    now = now or datetime.now(UTC)
    evidence = {"network": network} if network else {}
    with transaction.atomic():
        row = Subscriber.objects.select_for_update(no_key=True).filter(pk=person.pk).first()
        if row is None:
            return None
        on = Subscription.objects.filter(subscriber=row, state="subscribed", list__name__in=clear).order_by("pk")
        left = [
            name
            for each in on.values_list("list__name", flat=True)
            for name in unsubscribe(row, list=each, how=HOW, evidence=evidence, now=now)
        ]
        back, wanted = _ticked(row, tick, evidence, now)
        fields: dict[str, object] = {"language": language, "paused_until": paused_until}
        agreed = tracking.agreed and (bool(row.tracking) or _may_agree(row, now))
        if agreed != bool(row.tracking):
            fields["tracking"] = agreed
            Consent.objects.create(
                subscriber=row,
                kind="tracking",
                text=tracking.text,
                text_version=tracking.text_version,
                language=tracking.language,
                how=HOW,
                evidence={"agreed": agreed, **evidence},
                at=now,
            )
        changed = [name for name, value in fields.items() if getattr(row, name) != value]
        for name in changed:
            setattr(row, name, fields[name])
        if changed:
            row.save(update_fields=changed)
    return Changed(left=tuple(left), taken_back=tuple(back), wanted=tuple(wanted))


def rename(person: Subscriber, name: str) -> Subscriber | None:
    """Gives a person another name, or none: the person as they are now, None when they were erased meanwhile.

    Raises `InputError` for a name that is too long.
    """
    kept = kept_person(name)
    with transaction.atomic():
        row = Subscriber.objects.select_for_update(no_key=True).filter(pk=person.pk).first()
        if row is not None and row.name != kept:
            row.name = kept
            row.save(update_fields=["name"])
    return row


def _ticked(
    person: Subscriber, lists: Collection[str], evidence: Mapping[str, Any], now: datetime
) -> tuple[list[str], list[str]]:
    """Of the lists that a person wants, those that they took back, and those that are still to be confirmed."""
    rows = Subscription.objects.select_for_update(of=("self",)).select_related("list").order_by("pk")
    known = {row.list.name: row for row in rows.filter(subscriber=person, list__name__in=lists)}
    back, wanted = [], []
    for name in sorted(lists):
        row = known.get(name)
        if row and _may_undo(row, now):
            record(row, "undo", how=HOW, evidence=evidence, now=now)
            row.state, row.changed_at = "subscribed", now
            row.save(update_fields=["state", "changed_at"])
            back.append(name)
        elif row is None or row.state != "subscribed":
            wanted.append(name)
    return back, wanted


def _may_undo(row: Subscription, now: datetime) -> bool:
    """Whether the person left the list here, and a moment ago, and has not done so over and over."""
    if row.state != "unsubscribed" or row.changed_at < now - UNDO:
        return False
    events = Consent.objects.filter(subscriber=row.subscriber_id, list=row.list_id)
    last = events.order_by("-pk").first()
    if last is None or (last.kind, last.how) != ("unsubscribe", HOW):
        return False
    return events.filter(kind="undo", how=HOW, at__gte=now - timedelta(days=1)).count() < _OFTEN


def _may_agree(person: Subscriber, now: datetime) -> bool:
    """Whether another yes to being counted is kept. A no always is."""
    events = Consent.objects.filter(subscriber=person, kind="tracking", at__gte=now - timedelta(days=1))
    return events.count() < 2 * _OFTEN
