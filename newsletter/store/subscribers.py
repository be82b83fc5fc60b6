"""One person at a time: found, added, unsubscribed, suppressed, tagged, erased. What is known of them: dossier.py.

The texts of errors never hold an address; whoever shows them says whom they are about.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from django.db import connection, transaction
from django.db.models import Case, CharField, F, FloatField, Q, QuerySet, Value, When

from newsletter.config import Config
from newsletter.content.lists import covers
from newsletter.content.segments import Value as AttributeValue
from newsletter.content.segments import kept_attribute, kept_name
from newsletter.errors import Finding, InputError, NoConsent, NotFound
from newsletter.shape import LANGUAGE, nearest
from newsletter.store.cells import LONGEST_NAME, tidy
from newsletter.store.consent import record, subscribe
from newsletter.store.keys import key_maker, normalised
from newsletter.store.lists import list_id
from newsletter.store.models import (
    Consent,
    Delivery,
    Fact,
    Mailing,
    Subscriber,
    SubscriberTag,
    Subscription,
    Suppression,
    Tag,
    Wish,
)
from newsletter.store.traces import holds

Reason = Literal["bounce", "complaint", "erased", "manual"]

# A suppression may become a graver one, never a lighter one: the gravest is the hardest to lift.
_GRAVITY: tuple[Reason, ...] = ("bounce", "erased", "manual", "complaint")
LIFTED_BY_NAME: tuple[Reason, ...] = ("complaint", "erased")  # the admin must say that they know which it is


def address_key(config: Config, address: str) -> bytes:
    """The key under which an address is known. Raises `AddressError`."""
    return key_maker(config.pepper.encode())(address)


def find(config: Config, address: str) -> Subscriber | None:
    """The subscriber with that address, however it is written. Raises `AddressError` for what is no address."""
    return Subscriber.objects.filter(address_key=address_key(config, address)).first()


def near(address: str) -> list[str]:
    """Up to three addresses of subscribers that a mistyped one may stand for, the likeliest first."""
    local, _, domain = address.strip().rpartition("@")
    same = Q(address__istartswith=f"{local}@") | Q(address__istartswith=local[:1], address__iendswith=f"@{domain}")
    candidates = Subscriber.objects.filter(same).values_list("address", flat=True)[:5000]
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    return [by_lower[each] for each in difflib.get_close_matches(address.strip().lower(), by_lower, n=3, cutoff=0.75)]


@dataclass(frozen=True, kw_only=True)
class Added:
    subscriber: Subscriber
    created: bool  # False: the person was known
    before: str | None  # the state of the subscription, None: there was none
    state: str
    changed: tuple[str, ...]  # what else is new of a known person: "name", "language", "tags", "attributes"


def add(
    config: Config,
    address: str,
    *,
    list: str,
    name: str = "",
    language: str = "",
    tags: Iterable[str] = (),
    attributes: Mapping[str, AttributeValue] | None = None,
    consent: str = "",
    resubscribe: bool = False,
    how: str = "command line",
    now: datetime | None = None,
) -> Added:
    """Puts a person on a list: unconfirmed, so that nothing is sent, unless `consent` states how they agreed.

    What is given of a known person is set, the rest stays. Raises `NoConsent` for an address that is suppressed, and
    for somebody who left the list, unless `resubscribe` and `consent` say that they asked to come back; `NotFound`
    for an unknown list; `AddressError`; `InputError` for a name, a language or an attribute that cannot be kept.
    """
    now = now or datetime.now(UTC)
    key = address_key(config, address)
    chosen = list_id(config, list)
    given = {"name": kept_person(name), "language": _language(config, language)}
    names = _names(tags)
    kept = _attributes(attributes or {})
    with transaction.atomic():
        person, created = Subscriber.objects.select_for_update(no_key=True).get_or_create(
            address_key=key, defaults={"address": address.strip(), "attributes": kept, "created_at": now, **given}
        )
        # Asked once the person is locked: an erasure at this moment has either ended, or waits for us.
        if suppression := Suppression.objects.filter(pk=key).first():
            raise NoConsent(refusal(suppression))
        changed = [] if created else _update(person, given, kept)
        row, joined = Subscription.objects.select_for_update().get_or_create(
            list_id=chosen,
            subscriber=person,
            defaults={"state": "unconfirmed", "joined_at": now, "changed_at": now},
        )
        before = None if joined else row.state
        subscribe(row, text=consent, how=how, resubscribe=resubscribe, now=now)
        if tag(person, add=names)[0] and not created:
            changed.append("tags")
    return Added(subscriber=person, created=created, before=before, state=row.state, changed=tuple(changed))


def _update(person: Subscriber, given: Mapping[str, str], attributes: Mapping[str, AttributeValue]) -> list[str]:
    changed = [field for field, value in given.items() if value and getattr(person, field) != value]
    for field in changed:
        setattr(person, field, given[field])
    if any(
        name not in person.attributes or not _same(person.attributes[name], attributes[name]) for name in attributes
    ):
        person.attributes = {**person.attributes, **attributes}
        changed.append("attributes")
    if changed:
        person.save(update_fields=changed)
    return changed


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other  # True is no 1 in a segment


def _problem(code: str, message: str, help: str) -> InputError:
    return InputError([Finding(code=f"subscriber.{code}", severity="error", where=None, message=message, help=help)])


def kept_person(name: str) -> str:
    """A person's name as it is stored. Raises `InputError` for one that is too long."""
    name = tidy(name)
    if len(name) > LONGEST_NAME:
        raise _problem("name", f"the name is longer than {LONGEST_NAME} characters", "shorten it")
    return name


def _language(config: Config, language: str) -> str:
    """A language as it is stored: as newsletter.yaml writes it, or with the region that the person prefers."""
    language = language.strip().replace("_", "-").lower()
    if not language:
        return ""
    if not any(covers(each, language) for each in config.languages) or not LANGUAGE.fullmatch(language):
        message = f"{language} is not a language of this workspace{nearest(language, config.languages)}"
        raise _problem("language", message, f"its languages: {', '.join(config.languages)} (newsletter.yaml)")
    first, *rest = language.split("-")
    usual = "-".join((first, *(part.upper() if len(part) == 2 else part.title() for part in rest)))
    return next((each for each in config.languages if each.lower() == language), usual)


def _names(tags: Iterable[str]) -> list[str]:
    names = []
    for tag in tags:
        try:
            names.append(kept_name(tag))
        except ValueError as error:
            raise _problem("tag", f"the tag {tag!r} {error}", "tags are short names, such as board") from None
    return names


def _attributes(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    kept = {}
    for name, value in attributes.items():
        try:
            kept[kept_name(name)] = kept_attribute(value)
        except ValueError as error:
            raise _problem("attribute", f"the attribute {name!r} {error}", "shorten or correct it") from None
    return kept


def tag(person: Subscriber, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Tags a person and takes tags away: those that were new, and those that were there. Raises `InputError`."""
    given, taken = dict.fromkeys(_names(add)), dict.fromkeys(_names(remove))
    with transaction.atomic():
        rows = {name: Tag.objects.get_or_create(name=name)[0] for name in given}
        new = [name for name in given if SubscriberTag.objects.get_or_create(tag=rows[name], subscriber=person)[1]]
        there = SubscriberTag.objects.filter(subscriber=person)
        gone = [name for name in taken if there.filter(tag__name=name).delete()[0]]
    return new, gone


def alike(tag: str) -> str | None:
    """A tag in use that differs from this one in nothing but capitals, where there is none exactly like it."""
    others = [name for name in Tag.objects.values_list("name", flat=True) if name.casefold() == tag.casefold()]
    return None if not others or tag in others else others[0]


def unsubscribe(
    person: Subscriber,
    *,
    list: str | None = None,
    how: str,
    evidence: Mapping[str, object] | None = None,
    now: datetime | None = None,
) -> tuple[str, ...]:
    """Takes a person off a list, or off every list, for good: the names of those that they were on.

    What waits to be sent to them is skipped when its turn comes. An event is kept for each list.
    """
    now = now or datetime.now(UTC)
    with transaction.atomic():
        rows = Subscription.objects.select_for_update(of=("self",)).select_related("list").order_by("pk")
        rows = rows.filter(subscriber=person).exclude(state="unsubscribed")
        left = []
        for row in rows.filter(list__name=list) if list else rows:
            record(row, "unsubscribe", how=how, evidence=evidence, now=now)
            row.state, row.changed_at = "unsubscribed", now
            row.save(update_fields=["state", "changed_at"])
            left.append(row.list.name)
    return tuple(left)


# --- suppressions -----------------------------------------------------------------------------------------------------


def suppress(
    config: Config, address: str, *, reason: Reason = "manual", note: str = "", now: datetime | None = None
) -> Suppression:
    """An address that nothing is sent to from now on, whether we know it or not: the suppression that holds.

    One for a graver reason stays what it is. Raises `AddressError`, and `InputError` for a note with the address in it,
    which would outlive an erasure.
    """
    if any(form in note.casefold() for form in _forms([address])):
        raise _problem("note", "the note holds the address", "leave it out: notes are kept when a person is erased")
    with transaction.atomic():
        row, created = Suppression.objects.select_for_update().get_or_create(
            address_key=address_key(config, address),
            defaults={"reason": reason, "note": note, "at": now or datetime.now(UTC)},
        )
        if not created and _GRAVITY.index(reason) > _GRAVITY.index(row.reason):
            row.reason, row.note, row.at = reason, note, now or datetime.now(UTC)
            row.save()
    return row


def unsuppress(config: Config, address: str, *, lift: Reason | None = None) -> Reason:
    """Lets mail go to an address again: the reason for which it was suppressed. For admins only.

    A complaint and an erasure are lifted by naming them in `lift`. Raises `NotFound` when the address is not
    suppressed, `NoConsent` when it is for another reason than that.
    """
    with transaction.atomic():
        row = Suppression.objects.select_for_update().filter(pk=address_key(config, address)).first()
        if row is None:
            raise NotFound("is not suppressed")
        reason: Reason = row.reason  # type: ignore[assignment]
        if (reason in LIFTED_BY_NAME and lift is None) or (lift is not None and lift != reason):
            raise NoConsent(refusal(row))
        row.delete()
    return reason


def refusal(suppression: Suppression) -> str:
    """Why nothing is sent to an address, since when, and what lifts that. To follow the address."""
    day = f"{suppression.at:%Y-%m-%d}"
    note = f" ({suppression.note})" if suppression.note else ""
    command = "newsletter subscribers unsuppress ADDRESS"
    return {
        "bounce": f"is suppressed: mail to it bounced on {day}{note}. The person's own confirmed sign-up lifts that; "
        f"or, if you know that the mailbox works: {command}",
        "complaint": f"is suppressed: a complaint about our mail came on {day}{note}. Only an admin lifts that, and "
        f"only if the person asks for it: {command} --lift complaint",
        "erased": f"was erased on {day}{note}. The person's own confirmed sign-up lifts that; if they were erased by "
        f"mistake: {command} --lift erased",
        "manual": f"is suppressed by hand since {day}{note}. To lift that: {command}",
    }[suppression.reason]


# --- erasure ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Erased:
    known: bool  # False: there was no subscriber with the address
    wishes: int  # that were made at the pages: sign-ups that nobody confirmed, and the like
    deliveries: int  # that have forgotten whom they went to
    skipped: int  # of those, mail that waited and is not sent
    under_way: int  # of those, handed to a provider at this very moment
    journal: bool  # SQLite: a reader keeps the old pages in the journal until it ends
    forms: frozenset[str]  # the ways in which the address may have been written


def erase(config: Config, address: str, *, now: datetime | None = None) -> Erased:
    """Forgets a person: afterwards the database holds the address nowhere, and only a key that keeps it from coming
    back; likewise the addresses that they had before. A complaint or a suppression by hand stays what it is.

    Deliveries stay for the counts and lose subscriber and address; what waits is skipped. Copies of the database and
    what left already are out of reach. Raises `NotFound` when nothing is known of the address, `AddressError`.
    """
    now = now or datetime.now(UTC)
    key = address_key(config, address)
    with transaction.atomic():
        # What was asked for comes first, as where it is granted: then either there is a person for us, or no wish left.
        known = Subscriber.objects.filter(address_key=key).first()
        list(wishes_of(known, [key]).select_for_update(of=("self",)).order_by("pk").values_list("pk", flat=True))
        # Whoever writes recipients down holds their mailing's row: nobody does while we look, or after we looked.
        hold_openings()
        person = Subscriber.objects.select_for_update().filter(address_key=key).first()
        suppression = Suppression.objects.select_for_update().filter(pk=key).first()
        keys = {key, *(former_keys(person) if person else ())}
        deliveries, wishes = deliveries_of(person, keys), wishes_of(person, keys)
        written = [row for query in (deliveries, wishes) for row in query.values_list("address", flat=True)]
        forms = _forms([address, *([person.address] if person else []), *written])
        counts = dict.fromkeys(("pending", "sending"), 0)
        total = 0
        for row in deliveries.only("pk", "state", "key", "provider_ref", "detail"):
            total += 1
            counts[row.state] = counts.get(row.state, 0) + 1
            _forget_words(row, forms)
        forgotten, _ = wishes.delete()
        if not (person or suppression or total or forgotten):
            raise NotFound("nothing is known of it")
        _forget(deliveries, now)
        if person:
            person.delete()
        for former in keys - {key}:
            Suppression.objects.get_or_create(address_key=former, defaults={"reason": "erased", "at": now})
        if suppression is None:
            Suppression.objects.create(address_key=key, reason="erased", at=now)
        elif suppression.reason == "bounce":
            suppression.reason, suppression.note, suppression.at = "erased", "", now
            suppression.save()
        elif suppression.reason != "erased":
            suppression.note = f"erased on {now:%Y-%m-%d}"
            suppression.save()
    return Erased(
        known=person is not None,
        wishes=forgotten,
        deliveries=total,
        skipped=counts["pending"],
        under_way=counts["sending"],
        journal=_journal_kept(),
        forms=frozenset(forms),
    )


def hold_openings() -> None:
    """Lets nobody write recipients down until this transaction ends. Whoever does now is waited for: a quarter of a
    second, as a rule."""
    opening = Mailing.objects.select_for_update().filter(state__in=("scheduled", "opening")).order_by("pk")
    list(opening.values_list("pk", flat=True))


def deliveries_of(person: Subscriber | None, keys: Iterable[bytes]) -> QuerySet[Delivery]:
    """What was sent to a person, and what went to the address without a subscriber (a confirmation, an alert)."""
    alone = Q(subscriber__isnull=True, address_key__in=[*keys])
    return Delivery.objects.filter(Q(subscriber=person) | alone if person else alone)


def wishes_of(person: Subscriber | None, keys: Iterable[bytes]) -> QuerySet[Wish]:
    """What a person asked for at the pages, and whoever else typed their address."""
    typed = Q(address_key__in=[*keys])
    return Wish.objects.filter(Q(subscriber=person) | typed if person else typed)


FORMER_KEY = "former_key"  # in the evidence of an `address` event: the key of the address before, in hexadecimal


def former_keys(person: Subscriber) -> set[bytes]:
    """The keys of the addresses that a person had before, as far as they are nobody else's by now."""
    events = Consent.objects.filter(subscriber=person, kind="address").values_list("evidence", flat=True)
    keys = {bytes.fromhex(evidence[FORMER_KEY]) for evidence in events if FORMER_KEY in evidence}
    others = Subscriber.objects.filter(address_key__in=[*keys]).exclude(pk=person.pk)
    return keys - {person.address_key, *(bytes(key) for key in others.values_list("address_key", flat=True))}


def _forms(addresses: Iterable[str]) -> set[str]:
    """The ways in which addresses may be written, case-folded: as typed, and normalised."""
    typed = {address.strip() for address in addresses if address.strip()}
    return {form.casefold() for form in typed | {normalised(address) for address in typed}}


def _forget_words(row: Delivery, forms: set[str]) -> None:
    """A provider's words and ids may name the address, though they should not."""
    changed = []
    for field in ("key", "provider_ref", "detail"):
        text = getattr(row, field) or ""
        if any(form in text.casefold() for form in forms):
            anything = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
            clean = re.sub(anything, "…", text, flags=re.IGNORECASE)
            if any(form in clean.casefold() for form in forms):  # ß and ss, say: case-folding alone finds it
                clean = ""
            setattr(row, field, f"erased:{row.pk}" if field == "key" else clean)
            changed.append(field)
    if changed:
        row.save(update_fields=changed)


def _forget(deliveries: QuerySet[Delivery], now: datetime) -> None:
    pending = Q(state="pending")
    chosen = Delivery.objects.filter(pk__in=[*deliveries.values_list("pk", flat=True)])
    # One statement: a worker that takes the row at this moment comes before it or after it, never between.
    chosen.update(
        subscriber=None,
        address="",
        address_key=None,
        slots=None,
        detail=Case(When(pending, then=Value("erased")), default=F("detail"), output_field=CharField()),
        at=Case(When(pending, then=Value(now.timestamp())), default=F("at"), output_field=FloatField()),
        state=Case(When(pending, then=Value("skipped")), default=F("state"), output_field=CharField()),
    )


JOURNAL_PATIENCE = 2.0  # seconds: while a reader is waited for, nobody can write


def _journal_kept() -> bool:
    """Empties SQLite's journal, which holds the pages as they were: True when a reader or a writer is in the way."""
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return False
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        (usual,) = cursor.fetchone()
        cursor.execute(f"PRAGMA busy_timeout = {int(JOURNAL_PATIENCE * 1000)}")
        try:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (busy, _, _) = cursor.fetchone()
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {int(usual)}")
    return bool(busy)


COMPACT_LIMIT = 1_000_000_000  # octets: up to here an erasure writes the file anew by itself, in about ten seconds


def clean_file(config: Config, erased: Erased, *, always: bool = False) -> Literal["clean", "journal", "large"]:
    """Sees to it that an SQLite file holds what was erased nowhere, in use or not. PostgreSQL needs none of it.

    `secure_delete` (settings.py) writes zeros over what is deleted. It misses what SQLite left behind when it divided a
    page among others: measured, 30 of 5,000 addresses after heavy changes. Where that is found, or `always`, the file
    is written anew. "journal": somebody reads, so that old pages are kept until that ends. "large": it was found, and
    the file is too large to do that unasked.
    """
    if config.database_url:
        return "clean"
    if erased.journal:
        return "journal"
    if not always and not holds(config.database, erased.forms):
        return "clean"
    if not always and config.database.stat().st_size > COMPACT_LIMIT:
        return "large"
    compact()
    return "clean"


def clean_later() -> None:
    """Has a worker do what `clean_file` could not: see `clean_now`."""
    Fact.objects.get_or_create(name=_UNCLEAN, defaults={"value": "an erasure left old pages behind"})


_UNCLEAN = "unclean"


def clean_now(config: Config) -> bool:
    """Writes an SQLite file anew for which that was put off, once no reader is in the way: whether it did. A duty."""
    left = Fact.objects.filter(name=_UNCLEAN)
    if config.database_url or not left.exists() or _journal_kept():
        return False
    if config.database.stat().st_size <= COMPACT_LIMIT:  # else what is in use is clean, and the rest is an admin's
        compact()
    left.delete()
    return True


def compact() -> None:
    """Writes an SQLite file anew, so that nothing stands in it but what is in use. About a second for 100 MB, in which
    nobody else can write."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")
    _journal_kept()
