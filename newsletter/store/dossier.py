"""Everything known of one person: as rows, for whoever shows them, and as JSON, which is what the person may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db.models import Q

from newsletter.config import Config
from newsletter.errors import NotFound
from newsletter.store.models import Consent, Delivery, Subscriber, SubscriberTag, Subscription, Suppression, Wish
from newsletter.store.subscribers import address_key, deliveries_of, former_keys, wishes_of


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything known of an address. Without a subscriber it may still be suppressed, have had a confirmation, or have
    been typed at the pages."""

    subscriber: Subscriber | None
    tags: tuple[str, ...]
    subscriptions: tuple[Subscription, ...]  # with list and consent
    consents: tuple[Consent, ...]  # with list; oldest first
    suppression: Suppression | None
    wishes: tuple[Wish, ...]  # oldest first
    deliveries: tuple[Delivery, ...]  # with mailing and its round; newest first


def profile(config: Config, address: str) -> Profile:
    """Raises `NotFound` when nothing is known of the address, `AddressError` for what is none."""
    key = address_key(config, address)
    person = Subscriber.objects.filter(address_key=key).first()
    suppression = Suppression.objects.filter(pk=key).first()
    keys = {key, *(former_keys(person) if person else ())}
    deliveries = tuple(deliveries_of(person, keys).select_related("mailing__round").order_by("-pk"))
    # Who typed this address as their own new one may see that, not its owner.
    strangers = Q(subscriber__isnull=False) & ~Q(subscriber=person)
    wishes = tuple(wishes_of(person, keys).exclude(strangers).order_by("pk"))
    if not (person or suppression or deliveries or wishes):
        raise NotFound("nothing is known of it")
    subscriptions: Iterable[Subscription] = ()
    consents: Iterable[Consent] = ()
    tags: Iterable[str] = ()
    if person:
        subscriptions = Subscription.objects.filter(subscriber=person).select_related("list", "consent").order_by("pk")
        consents = Consent.objects.filter(subscriber=person).select_related("list").order_by("at", "pk")
        tags = [each.tag.name for each in SubscriberTag.objects.filter(subscriber=person).select_related("tag")]
    return Profile(
        subscriber=person,
        tags=tuple(sorted(tags)),
        subscriptions=tuple(subscriptions),
        consents=tuple(consents),
        suppression=suppression,
        wishes=wishes,
        deliveries=deliveries,
    )


def dossier(address: str, known: Profile, ways: Mapping[int, str]) -> dict[str, Any]:
    """A profile as JSON: times in ISO 8601, and words where the database has words. `ways` are the names of the ways
    out (`pace.way_names`).

    Left out is what only the machinery has of a row: keys, leases, and the values of mail that waits.
    """
    person, suppression = known.subscriber, known.suppression
    return {
        "address": person.address if person else address,
        "subscriber": person
        and {
            "id": person.pk,
            "name": person.name,
            "language": person.language,
            "tags": list(known.tags),
            "attributes": person.attributes,
            "created_at": person.created_at.isoformat(),
            "paused_until": _iso(person.paused_until),
            "tracking": person.tracking,
        },
        "suppression": suppression
        and {"reason": suppression.reason, "note": suppression.note, "at": suppression.at.isoformat()},
        "subscriptions": [
            {
                "list": each.list.name,
                "state": each.state,
                "joined_at": each.joined_at.isoformat(),
                "changed_at": each.changed_at.isoformat(),
                "consent": each.consent and _consent(each.consent),
            }
            for each in known.subscriptions
        ],
        "consents": [_consent(each) for each in known.consents],
        "wishes": [_wish(each) for each in known.wishes],
        "deliveries": [_delivery(each, ways) for each in known.deliveries],
    }


def _consent(event: Consent) -> dict[str, Any]:
    return {
        "kind": event.kind,
        "list": event.list.name if event.list else None,
        "text": event.text,
        "text_version": event.text_version,
        "language": event.language,
        "how": event.how,
        "evidence": event.evidence,
        "at": event.at.isoformat(),
    }


def _wish(row: Wish) -> dict[str, Any]:
    return {
        "id": row.pk,
        "kind": row.kind,
        "state": row.state,
        "reason": row.reason,
        "address": row.address,
        "name": row.name,
        "language": row.language,
        "lists": row.lists,
        "text": row.text,
        "text_version": row.text_version,
        "text_language": row.text_language,
        "how": row.how,
        "network": row.network,
        "at": _iso(row.at),
        "not_before": _iso(row.not_before),
        "mailed_at": _iso(row.mailed_at),
        "granted_at": _iso(row.granted_at),
    }


def _delivery(row: Delivery, ways: Mapping[int, str]) -> dict[str, Any]:
    return {
        "id": row.pk,
        "mailing": row.mailing.pk,
        "kind": row.mailing.kind,
        "issue": row.mailing.round.issue if row.mailing.round else None,
        "round": row.mailing.round.number if row.mailing.round else None,
        "name": row.mailing.name or None,
        "address": row.address,
        "language": row.language,
        "state": row.state,
        "at": _iso(row.at),
        "attempts": row.attempts,
        "not_before": _iso(row.not_before),
        "provider": ways.get(row.way or 0, row.mailing.provider),
        "provider_ref": row.provider_ref,
        "detail": row.detail,
        "fate": row.fate,
        "fate_at": _iso(row.fate_at),
    }


def _iso(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None
