"""Another address for a person: asked for with a link to the old mailbox, confirmed with a link to the new one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Literal

from django.db import IntegrityError, transaction

from newsletter.config import Config
from newsletter.store.consent import LIFTED_BY_OPT_IN
from newsletter.store.doorbell import ring
from newsletter.store.models import Allowance, Consent, Delivery, Subscriber, Suppression, Wish
from newsletter.store.subscribers import FORMER_KEY, hold_openings
from newsletter.store.wishes import expires_at, mailbox_key

Moved = Literal["moved", "already", "expired", "taken", "withheld", "gone"]
"""What became of it. "already": by an earlier use of the link, or of another one to the same address. "taken": another
subscriber has the new address. "withheld": a complaint, or an admin, keeps mail from the new address or from the old
one. "gone": the person was erased."""


def move(
    config: Config,
    wish: Wish,
    *,
    text: str,
    text_version: str,
    language: str,
    network: str,
    now: float | None = None,
) -> Moved:
    """The owner of the new mailbox has pressed the button: the person's mail goes there from now on.

    `text` is what stood beside the button, in `language`; it holds no address. Issues that wait to be sent go to the
    new address; what is on its way, and a single mail to the old mailbox, stays as it is. A bounce or an erasure that
    kept mail from the new address is lifted by this. The old address counts as erased, so that no import adds it again
    beside the new one. The wish keeps it until that mailbox has been told (`welcome_due`). With any outcome but "moved"
    nothing is changed.
    """
    now = time.time() if now is None else now
    with transaction.atomic():
        # The wish, the openings, the person: an erasure takes its locks in this order.
        row = Wish.objects.select_for_update(of=("self",)).filter(pk=wish.pk, kind="address").first()
        if row is None:
            return "gone"
        if row.state == "granted":
            return "already"
        if row.state == "dropped" or row.mailed_at is None or now > expires_at(row):
            return "expired"
        hold_openings()
        people = Subscriber.objects.select_for_update()
        person = people.filter(pk=row.subscriber_id).first() if row.subscriber_id else None
        if person is None:
            return "gone"
        former, key = bytes(person.address_key), bytes(row.address_key)
        if former == key:
            return "already"
        held = Suppression.objects.select_for_update().filter(pk__in=(former, key)).order_by("pk")
        reasons = {bytes(each.address_key): each.reason for each in held}
        if any(reason not in LIFTED_BY_OPT_IN for reason in reasons.values()):
            return "withheld"
        if Subscriber.objects.filter(address_key=key).exists():
            return "taken"
        old, person.address, person.address_key = person.address, row.address, key
        try:
            with transaction.atomic():
                person.save(update_fields=["address", "address_key"])
        except IntegrityError:  # signed up or imported at this very moment
            return "taken"
        at = datetime.fromtimestamp(now, UTC)
        Suppression.objects.filter(pk=key).delete()
        left = {"reason": "erased", "note": "the subscriber moved to another address", "at": at}
        Suppression.objects.get_or_create(address_key=former, defaults=left)
        Consent.objects.create(
            subscriber=person,
            kind="address",
            text=text,
            text_version=text_version,
            language=language,
            how="page",
            evidence={FORMER_KEY: former.hex(), **({"network": network} if network else {})},
            at=at,
        )
        waiting = Delivery.objects.filter(subscriber=person, state="pending", key__isnull=True)
        waiting.update(address=person.address, address_key=key)
        Allowance.objects.filter(key=mailbox_key(config, row.address), kind="address").delete()
        row.state, row.granted_at = "granted", now
        row.address, row.address_key, row.welcome_due = old, former, True
        row.save(update_fields=["state", "granted_at", "address", "address_key", "welcome_due"])
        ring("answer_wishes")
    return "moved"
