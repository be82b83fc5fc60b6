"""Leaving by the link of a mail, and what may follow: the reason, or that it was a mistake.

An unsubscribe link carries a delivery, and so a person and a list. It says so for ever: after a rotation of the keys,
and when the address of the delivery was forgotten long ago. What waits in the ledger is not touched here: the intent
looks at the subscription before each message leaves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from django.db import OperationalError, connection, transaction

from newsletter.links import Keyring
from newsletter.store.cells import tidy
from newsletter.store.models import Consent, Subscriber, Subscription, Suppression
from newsletter.store.prepared import execute
from newsletter.store.together import deadlock, together

How = Literal["one-click", "page"]

UNDO = timedelta(hours=24)  # how long a leaving may be taken back
_UNDOS = 5  # by one link: events are kept for ever, and nobody shall fill the disk with two buttons
REASONS = ("too_many", "not_expected", "no_interest", "never_signed_up", "other")
LONGEST_WORDS = 500  # characters, of a reason


@dataclass(frozen=True, kw_only=True)
class Link:
    """What an unsubscribe link is about, as one statement finds it."""

    delivery: int
    subscriber: int | None  # None: erased since, or the mail went to nobody we knew
    list: int | None  # None: every list
    state: str | None  # of the subscription to that list, at this moment; None: there is none
    issue: str  # its name; "": the mail was no issue
    test: bool  # the mail was a test: there is nothing to leave


def find(keyring: Keyring, token: str) -> Link | None:
    """What a link's token stands for; None for what is no token of ours, or of a delivery that never was.

    The list is that of the mailing, and of a welcome the one that it welcomes to; any other mail stands for all lists.
    """
    delivery = keyring.read(token, "unsubscribe")
    if delivery is None:
        return None
    row = execute(_FIND, (delivery,)).fetchone()
    if row is None:
        return None
    subscriber, key, kind, name, list, issue, state = row
    if kind == "oneoff" and subscriber is not None and (welcome := _WELCOME.match(key or "")):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT list_id, state FROM subscription WHERE id = %s AND subscriber_id = %s",
                (int(welcome[1]), subscriber),
            )
            list, state = cursor.fetchone() or (None, None)
    return Link(
        delivery=delivery,
        subscriber=subscriber,
        list=list,
        state=state,
        issue=issue or "",
        test=kind == "oneoff" and name == "test",
    )


_FIND = (
    "SELECT d.subscriber_id, d.key, m.kind, m.name, m.list_id, (SELECT issue FROM round WHERE id = m.round_id),"
    " (SELECT state FROM subscription WHERE list_id = m.list_id AND subscriber_id = d.subscriber_id)"
    " FROM delivery d JOIN mailing m ON m.id = d.mailing_id WHERE d.id = %s"
)
_WELCOME = re.compile(r"welcome:([0-9]{1,18})(?![0-9])")


# --- leaving ----------------------------------------------------------------------------------------------------------


def leave(
    link: Link, *, how: How, everything: bool = False, language: str = "", now: datetime | None = None
) -> tuple[int, ...]:
    """Takes the person off the link's list, or off all of them: the ids of the lists that they were on.

    An event is kept for each. The second time there is nothing to take away, and nothing is written.
    """
    if link.subscriber is None or link.test:
        return ()
    everything = everything or link.list is None
    if not everything and link.state in (None, "unsubscribed"):
        return ()
    at = connection.ops.adapt_datetimefield_value(now or datetime.now(UTC))
    if everything:
        return together(lambda: _leave_all(link, how, language, at))
    if connection.vendor == "postgresql" and not connection.in_atomic_block:
        try:
            # One statement is a transaction by itself: without BEGIN and COMMIT there are two round trips less.
            return _leave_one(link, how, language, at)
        except OperationalError as error:
            if not deadlock(error):
                raise
    return together(lambda: _leave_one(link, how, language, at))


_INTO_CONSENT = "INTO consent (subscriber_id, list_id, kind, text, text_version, language, how, evidence, at)"
_LEAVE = "UPDATE subscription SET state = 'unsubscribed', changed_at = %s WHERE list_id = %s AND subscriber_id = "
_LEAVE_POSTGRESQL = (
    # The person's row first, as an erasure does it: the event's foreign key would ask for it at the end, when an
    # erasure that holds it may be waiting for the subscription.
    f"WITH gone AS ({_LEAVE} (SELECT id FROM subscriber WHERE id = %s FOR KEY SHARE) AND state = %s"
    f" RETURNING subscriber_id, list_id) INSERT {_INTO_CONSENT}"
    " SELECT subscriber_id, list_id, 'unsubscribe', '', '', %s, %s, %s::jsonb, %s FROM gone"
)


def _leave_one(link: Link, how: How, language: str, at: Any) -> tuple[int, ...]:
    assert link.list is not None
    # In the state that it was in a moment ago, or else in the other one.
    for was in sorted(("subscribed", "unconfirmed"), key=lambda state: state != link.state):
        event = (language, how, _evidence(link, was), at)
        gone = (at, link.list, link.subscriber, was)
        if connection.vendor == "postgresql":
            left = execute(_LEAVE_POSTGRESQL, (*gone, *event)).rowcount
        else:
            with connection.cursor() as cursor:
                cursor.execute(f"{_LEAVE} %s AND state = %s", gone)
                left = cursor.rowcount
                if left:
                    _note_leaving(cursor, [(link.subscriber, link.list, *event)])
        if left:
            return (link.list,)
    return ()


def _leave_all(link: Link, how: How, language: str, at: Any) -> tuple[int, ...]:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT 1 FROM subscriber WHERE id = %s FOR KEY SHARE", (link.subscriber,))
        cursor.execute(
            "SELECT id, list_id, state FROM subscription WHERE subscriber_id = %s AND state <> 'unsubscribed'"
            f" ORDER BY id {_locked('UPDATE')}",
            (link.subscriber,),
        )
        rows = cursor.fetchall()
        cursor.executemany(
            "UPDATE subscription SET state = 'unsubscribed', changed_at = %s WHERE id = %s",
            [(at, id) for id, _, _ in rows],
        )
        _note_leaving(
            cursor,
            [(link.subscriber, list, language, how, _evidence(link, state), at) for _, list, state in rows],
        )
    return tuple(list for _, list, _ in rows)


def _note_leaving(cursor: Any, events: Sequence[tuple[Any, ...]]) -> None:
    cursor.executemany(f"INSERT {_INTO_CONSENT} VALUES (%s, %s, 'unsubscribe', '', '', %s, %s, %s, %s)", events)


def _evidence(link: Link, was: str) -> str:
    evidence: dict[str, object] = {"delivery": link.delivery, "issue": link.issue}
    if was != "subscribed":
        evidence["was"] = was
    return json.dumps(evidence)


def _locked(strength: str) -> str:
    return f"FOR {strength}" if connection.vendor == "postgresql" else ""  # SQLite: nobody else writes


# --- what its page says -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Place:
    """What the page of a link has to say. Lists are named by their ids in lists.yaml."""

    language: str  # the person's; "": none is known
    list: str  # what the link leaves; "": every list
    on: tuple[str, ...]  # the lists that the person is on
    left: tuple[str, ...]  # what this link took away
    undo: bool  # whether that can be taken back now
    ask: bool  # whether a reason may be given

    @property
    def others(self) -> tuple[str, ...]:
        """The lists that leaving by this link leaves alone."""
        return tuple(each for each in self.on if each != self.list) if self.list else ()

    @property
    def gone(self) -> bool:
        """Whether there is nothing left to leave."""
        return self.list not in self.on if self.list else not self.on


def place(link: Link, *, now: datetime | None = None) -> Place | None:
    """None when there is nobody whom the link could be about: the person was erased, or the mail was a test."""
    if link.test or link.subscriber is None:
        return None
    person = Subscriber.objects.filter(pk=link.subscriber).first()
    if person is None:
        return None
    subscriptions = _subscriptions(person)
    events = _events(person)
    taken = _taken(link, subscriptions, events)
    return Place(
        language=person.language,
        list=next((row.list.name for row in subscriptions if row.list_id == link.list), ""),
        on=tuple(row.list.name for row in subscriptions if row.state == "subscribed"),
        left=tuple(row.list.name for row, _ in taken),
        undo=_may_undo(link, person, taken, events, now or datetime.now(UTC)),
        ask=bool(taken) and not _by(link, events, "reason"),
    )


def _subscriptions(person: Subscriber) -> list[Subscription]:
    return [*Subscription.objects.filter(subscriber=person).select_related("list").order_by("pk")]


def _events(person: Subscriber) -> list[Consent]:
    """In the order of their ids: those of one subscription are written under its lock."""
    return [*Consent.objects.filter(subscriber=person).order_by("pk")]


def _by(link: Link, events: Sequence[Consent], kind: str) -> list[Consent]:
    return [each for each in events if each.kind == kind and each.evidence.get("delivery") == link.delivery]


def _taken(
    link: Link, subscriptions: Sequence[Subscription], events: Sequence[Consent]
) -> list[tuple[Subscription, Consent]]:
    """What this link took away and nothing has happened to since, with the events of it."""
    last = {each.list_id: each for each in events if each.list_id is not None and each.kind != "reason"}
    taken = []
    for row in subscriptions:
        event = last.get(row.list_id)
        if row.state == "unsubscribed" and event and _by(link, [event], "unsubscribe"):
            taken.append((row, event))
    return taken


def _may_undo(
    link: Link,
    person: Subscriber,
    taken: Sequence[tuple[Subscription, Consent]],
    events: Sequence[Consent],
    now: datetime,
) -> bool:
    fresh = any(now - event.at <= UNDO for _, event in taken)
    if not fresh or len({each.at for each in _by(link, events, "undo")}) >= _UNDOS:
        return False
    return not Suppression.objects.filter(pk=person.address_key).exists()


# --- what may follow --------------------------------------------------------------------------------------------------


def undo(link: Link, *, language: str = "", now: datetime | None = None) -> bool:
    """Brings back what leaving by this link took away, within 24 hours and while nothing else has happened to it.

    Whether anything came back. Never for an address that is suppressed: what a complaint or an admin said stays said.
    """
    now = now or datetime.now(UTC)
    with transaction.atomic():
        person = _held(link)
        if person is None:
            return False
        rows = Subscription.objects.select_for_update(of=("self",)).select_related("list").order_by("pk")
        subscriptions = [*rows.filter(subscriber=person)]
        events = _events(person)
        taken = _taken(link, subscriptions, events)
        if not _may_undo(link, person, taken, events, now):
            return False
        for row, event in taken:
            if now - event.at > UNDO:
                continue
            row.state, row.changed_at = event.evidence.get("was", "subscribed"), now
            row.save(update_fields=["state", "changed_at"])
            _note(link, row.list_id, "undo", {}, language=language, now=now)
    return True


def reason(link: Link, choice: str, words: str = "", *, language: str = "", now: datetime | None = None) -> bool:
    """Keeps why somebody left by this link, one of `REASONS` with words of their own: False when nothing was kept.

    Only after a leaving that holds, and once. Words are cut after `LONGEST_WORDS` characters.
    """
    if choice not in REASONS:
        return False
    now = now or datetime.now(UTC)
    with transaction.atomic():
        person = _held(link)
        if person is None:
            return False
        events = _events(person)
        taken = _taken(link, _subscriptions(person), events)
        if not taken or _by(link, events, "reason"):
            return False
        list = taken[0][0].list_id if len(taken) == 1 else None
        own = tidy(words[: 4 * LONGEST_WORDS].encode("utf-8", "replace").decode())[:LONGEST_WORDS].strip()
        kept = {"reason": choice, "words": own}
        _note(link, list, "reason", kept, language=language, now=now)
    return True


def _held(link: Link) -> Subscriber | None:
    """The person, whom nobody erases or signs up before this transaction ends."""
    if link.test or link.subscriber is None:
        return None
    return Subscriber.objects.select_for_update().filter(pk=link.subscriber).first()


def _note(
    link: Link, list: int | None, kind: str, evidence: Mapping[str, object], *, language: str, now: datetime
) -> None:
    kept = {"delivery": link.delivery, **({"issue": link.issue} if kind == "undo" else {}), **evidence}
    Consent.objects.create(
        subscriber_id=link.subscriber, list_id=list, kind=kind, language=language, how="page", evidence=kept, at=now
    )
