"""What people said yes and no to: append-only events, and what lifts what.

A person's own double opt-in lifts an unsubscription, an erasure or a bounce. A complaint, and what an admin suppressed,
is lifted by an admin only. An import lifts nothing. Events are never changed; the database refuses it
(migration 0002_consent_append_only). They go when the person is erased.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from newsletter.errors import NoConsent, NotFound
from newsletter.store.models import Consent, Subscription, Suppression

LIFTED_BY_OPT_IN = ("bounce", "erased")


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """What a double opt-in changed."""

    before: str  # the state in which the subscription was
    lifted: str  # the reason of the suppression that it lifted, or ""
    withheld: str  # the reason of a suppression that stays, so that nothing is sent; or ""


def confirm(
    subscription: int,
    *,
    text: str,
    text_version: str,
    language: str,
    how: str,
    evidence: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> Confirmed:
    """The person has confirmed by a link that only they could have: the subscription is `subscribed`.

    `text` is the exact text that they saw, `how` the way ("page"), `evidence` what else is kept; none may hold an
    address. Confirming again adds no second event. Raises `NotFound` when the subscription is gone: the person was
    erased since.
    """
    now = now or datetime.now(UTC)
    with transaction.atomic():
        query = Subscription.objects.select_for_update(of=("self",)).select_related("subscriber", "consent")
        row = query.filter(pk=subscription).first()
        if row is None:
            raise NotFound("there is no such subscription any more; the person can sign up anew")
        # Held: a complaint that comes at this moment must not be lifted as the bounce that it replaces.
        suppression = Suppression.objects.select_for_update().filter(pk=row.subscriber.address_key).first()
        lifted = suppression.reason if suppression and suppression.reason in LIFTED_BY_OPT_IN else ""
        withheld = suppression.reason if suppression and not lifted else ""
        before = row.state
        if before == "subscribed" and not lifted and row.consent and row.consent.kind == "confirm":
            return Confirmed(before=before, lifted="", withheld=withheld)
        row.consent = record(
            row,
            "confirm",
            text=text,
            text_version=text_version,
            language=language,
            how=how,
            evidence=evidence,
            now=now,
        )
        _subscribed(row, now)
        if suppression and lifted:
            suppression.delete()
        return Confirmed(before=before, lifted=lifted, withheld=withheld)


def record(
    subscription: Subscription,
    kind: str,
    *,
    how: str,
    now: datetime,
    text: str = "",
    text_version: str = "",
    language: str = "",
    evidence: Mapping[str, Any] | None = None,
) -> Consent:
    """One more event of a person about a list."""
    return Consent.objects.create(
        subscriber_id=subscription.subscriber_id,
        list_id=subscription.list_id,
        kind=kind,
        text=text,
        text_version=text_version,
        language=language,
        how=how,
        evidence=dict(evidence or {}),
        at=now,
    )


def _subscribed(row: Subscription, now: datetime) -> None:
    """Makes a subscription one that mail goes to, and keeps it; who comes back has joined now."""
    if row.state == "unsubscribed":
        row.joined_at = now
    if row.state != "subscribed":
        row.state, row.changed_at = "subscribed", now
    row.save(update_fields=["state", "consent", "joined_at", "changed_at"])


def subscribe(row: Subscription, *, text: str, how: str, resubscribe: bool = False, now: datetime) -> bool:
    """An admin states that the person agreed: False when that is nothing new. Raises `NoConsent` for somebody who left,
    unless `resubscribe` says that they asked to come back."""
    if row.state == "unsubscribed" and not (resubscribe and text):
        raise NoConsent(
            f"left on {row.changed_at:%Y-%m-%d}. Their own confirmed sign-up brings them back; if they asked you to, "
            'say so with --resubscribe --consent "how and when they asked"'
        )
    if row.state == "subscribed" or not text:
        return False
    row.consent = record(row, "add", text=text, how=how, now=now)
    _subscribed(row, now)
    return True
