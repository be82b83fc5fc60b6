"""What somebody asks for at the pages, and what happens once the owner of the mailbox says that they meant it.

`ask` writes one row, and does the same work whoever the address belongs to: it looks up nobody. A duty finds out who it
is and posts the mail (duties.answer_wishes). The link of that mail brings the wish back, and `grant` fulfils it.

Everything that is asked counts, in all and for each network, over all server processes: `pressure`.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from django.db import connection, transaction

from newsletter.config import Config
from newsletter.content.lists import covers
from newsletter.links import Keyring
from newsletter.store.consent import LIFTED_BY_OPT_IN, confirm
from newsletter.store.doorbell import ring
from newsletter.store.keys import normalised
from newsletter.store.models import KEY_LENGTH, Allowance, List, Rate, Subscriber, Subscription, Suppression, Wish
from newsletter.store.subscribers import address_key, kept_person
from newsletter.store.together import together

Kind = Literal["signup", "link", "address"]
Pressure = Literal["calm", "high", "shut"]

PURPOSES: dict[str, Kind] = {"confirm": "signup", "manage": "link", "address": "address"}
"""Which kind of wish the link of a purpose carries (newsletter/links.py)."""

LIFETIMES: dict[str, float] = {"signup": 7 * 86_400.0, "link": 1_800.0, "address": 86_400.0}
"""For how many seconds the link of a wish is good."""

SHUT = 10  # so many times what makes the pressure high is refused


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What became of it: with a pressure of "shut" nothing was kept, and `wish` is None."""

    wish: int | None
    pressure: Pressure


def ask(
    config: Config,
    *,
    kind: Kind,
    address: str,
    language: str,
    how: str,
    network: str,
    lists: Iterable[str] = (),
    name: str = "",
    text: str = "",
    text_version: str = "",
    text_language: str = "",
    subscriber: int | None = None,
    proof: bytes | None = None,
    delay: float = 0.0,
    now: float | None = None,
) -> Asked:
    """Keeps what somebody asked for; a mail will answer it. It is on the disk when this returns.

    `how` is "page", "form" (which came from another site) or "preferences"; `network` where it came from; `language`
    the one that was chosen; `text` the exact words of consent that the person saw, in `text_language`. `proof` is a
    proof of work that was verified (web/proof.py), which counts once: without one, the mail waits for
    `config.web.delay` seconds while the pressure is high. `delay` is how long it waits in any case. Raises
    `AddressError` for what is no address, `InputError` for a name that is too long.
    """
    now = time.time() if now is None else now
    key = address_key(config, address)
    row: dict[str, object] = {
        "kind": kind,
        "state": "waiting",
        "subscriber_id": subscriber,
        "address": address.strip(),
        "address_key": key,
        "name": kept_person(name),
        "language": language,
        "lists": json.dumps(list(lists)),
        "text": text,
        "text_version": text_version,
        "text_language": text_language,
        "how": how,
        "network": network,
        "reason": "",
        "at": now,
        "welcome_due": False,
    }
    # Asked before anything is written: a flood that is refused must not take the database from the others, and must
    # not count, or one network could shut the page for all.
    if pressure(config, network, now) == "shut":
        return Asked(wish=None, pressure="shut")

    def act() -> Asked:
        with connection.cursor() as cursor:
            high = _counted(cursor, config, network, now)
            late = max(delay, config.web.delay if high else 0.0)
            wish = _insert(cursor, {**row, "proof": proof, "not_before": now + (delay if proof else late)})
            if wish is None:  # the proof has been used
                wish = _insert(cursor, {**row, "proof": None, "not_before": now + late})
        ring("answer_wishes")
        return Asked(wish=wish, pressure="high" if high else "calm")

    return together(act)


def _insert(cursor: Any, row: dict[str, object]) -> int | None:
    """The id of the new wish, None when its proof of work was brought before."""
    cursor.execute(
        f"INSERT INTO wish ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})"
        " ON CONFLICT (proof) DO NOTHING RETURNING id",
        [*row.values()],
    )
    inserted = cursor.fetchone()
    return int(inserted[0]) if inserted else None


# --- how much is asked ------------------------------------------------------------------------------------------------


def pressure(config: Config, network: str, now: float) -> Pressure:
    """Whether more is asked for at this time than usual, in all or from this network; one query.

    "high": who brings no proof of work waits. "shut": nothing more is taken until the slot of time is over.
    """
    slots = _slots(config, network, now)
    with connection.cursor() as cursor:
        where = " OR ".join(["(scope = %s AND slot = %s)"] * len(slots))
        values = [part for scope, (slot, _) in slots.items() for part in (scope, slot)]
        cursor.execute(f"SELECT scope, count FROM rate WHERE {where}", values)
        counts = cursor.fetchall()
    if any(count >= SHUT * slots[scope][1] for scope, count in counts):
        return "shut"
    return "high" if any(count >= slots[scope][1] for scope, count in counts) else "calm"


def until_calm(config: Config, network: str, now: float) -> int:
    """In how many seconds what is shut opens again, for Retry-After: when the longest slot that is full is over."""
    for scope, (slot, most) in reversed(_slots(config, network, now).items()):
        length = _length(scope)
        if Rate.objects.filter(scope=scope, slot=slot, count__gte=SHUT * most).exists():
            return int((slot + 1) * length - now) + 1
    return 1


def forget_rates(now: float) -> int:
    """Removes the counts of slots of time that are over: how many. For a duty."""
    minutes = Rate.objects.filter(scope=_ALL, slot__lt=int(now // _MINUTE))
    hours = Rate.objects.filter(scope__startswith=f"{_ALL} ", slot__lt=int(now // _HOUR))
    return minutes.delete()[0] + hours.delete()[0]


_ALL = "wish"
_MINUTE, _HOUR = 60, 3600


def _length(scope: str) -> int:
    return _MINUTE if scope == _ALL else _HOUR


def _slots(config: Config, network: str, now: float) -> dict[str, tuple[int, int]]:
    """What an ask counts in: its scope, the slot of time, and after how many the pressure is high.

    Always the common one first, so that two transactions take their locks in the same order. A network that is not
    known (a socket instead of an address) is everybody's, and so is not counted.
    """
    slots = {_ALL: (int(now // _MINUTE), config.web.per_minute)}
    if network:
        slots[f"{_ALL} {network}"] = (int(now // _HOUR), config.web.per_network)
    return slots


def _counted(cursor: Any, config: Config, network: str, now: float) -> bool:
    """Counts one ask: whether it is one too many to be answered at once."""
    slots = _slots(config, network, now)
    cursor.execute(
        f"INSERT INTO rate (scope, slot, count) VALUES {', '.join(['(%s, %s, 1)'] * len(slots))}"
        " ON CONFLICT (scope, slot) DO UPDATE SET count = rate.count + 1 RETURNING scope, count",
        [part for scope, (slot, _) in slots.items() for part in (scope, slot)],
    )
    return any(count > slots[scope][1] for scope, count in cursor.fetchall())


def mailbox_key(config: Config, address: str) -> bytes:
    """The key under which mails to one mailbox are counted (`Allowance`), however its address is varied: dots before
    the @ and what follows a plus do not count, wherever it is. Raises `AddressError`.

    Some providers tell such addresses apart. That does no harm: it is only for limits, and nobody is stored by it. The
    HMAC has a label of its own, so that this key never equals an `address_key`.
    """
    local, _, domain = normalised(address).rpartition("@")
    local = local.partition("+")[0].replace(".", "") or local
    domain = "gmail.com" if domain == "googlemail.com" else domain  # the same mailboxes under two names
    return hmac.digest(config.pepper.encode(), f"mailbox\0{local}@{domain}".encode(), "sha256")[:KEY_LENGTH]


# --- granting ---------------------------------------------------------------------------------------------------------


def read(keyring: Keyring, token: str, purpose: str) -> Wish | None:
    """The wish that a link of this purpose ("confirm", "manage", "address") stands for.

    None for a token that nobody made with our keys or for that purpose, and for a wish that is not there any more:
    purged, or erased with the person.
    """
    id = keyring.read(token, purpose)
    return None if id is None else Wish.objects.filter(pk=id, kind=PURPOSES[purpose]).first()


def expires_at(wish: Wish) -> float:
    """Until when the link of a wish is good, in Unix seconds: a sign-up's from when it was asked for, the others' from
    when they were mailed, since minutes count there."""
    since = wish.at if wish.kind == "signup" or wish.mailed_at is None else wish.mailed_at
    return since + LIFETIMES[wish.kind]


@dataclass(frozen=True, kw_only=True)
class Granted:
    """What came of a confirmation.

    "granted": just now. "already": before, and it still holds. "left": before, and the person has left since.
    "expired": too late, or the wish is gone. "withheld": the person is on the lists, but mail to the address is blocked
    by a complaint or by hand.
    """

    outcome: Literal["granted", "already", "left", "expired", "withheld"]
    subscriber: int | None = None


def grant(
    config: Config,
    wish: Wish,
    *,
    text: str,
    text_version: str,
    language: str,
    network: str,
    lists: Collection[str] | None = None,
    now: float | None = None,
) -> Granted:
    """The owner of the mailbox has pressed the button: the person is subscribed to what they asked for, once.

    `text` is the sentence of consent that stood beside the button, in `language`; `network` where the button was
    pressed. `lists` are those of the wish that are still offered; without it, all of them. A known person's name and
    language become what was asked for, where something was. A second use changes nothing.
    """
    now = time.time() if now is None else now
    with transaction.atomic():
        # The wish first, then the person: an erasure takes its locks in this order, so that whoever comes second finds
        # either the person to erase, or no wish to grant.
        row = Wish.objects.select_for_update(of=("self",)).filter(pk=wish.pk, kind="signup").first()
        if row is None:
            return Granted(outcome="expired")
        if (found := look(row, now=now)) is not None:
            return found
        chosen = [name for name in row.lists if lists is None or name in lists]
        if not chosen:
            return Granted(outcome="expired")
        at = datetime.fromtimestamp(now, UTC)
        person = _person(row, at)
        rows = [
            Subscription.objects.get_or_create(
                list=List.objects.get_or_create(name=name)[0],
                subscriber=person,
                defaults={"state": "unconfirmed", "joined_at": at, "changed_at": at},
            )[0]
            for name in chosen
        ]
        asked = {"asked_at": datetime.fromtimestamp(row.at, UTC).isoformat(timespec="seconds"), "asked_how": row.how}
        confirmed = [
            confirm(
                subscription,
                text=text,
                text_version=text_version,
                language=language,
                how="page",
                evidence={"network": network, "asked_network": row.network, **asked},
                now=at,
            )
            for subscription in sorted(each.pk for each in rows)  # as whoever leaves all lists locks them
        ]
        withheld = any(each.withheld for each in confirmed)
        Allowance.objects.filter(key=mailbox_key(config, row.address), kind="signup").delete()
        row.state, row.granted_at, row.subscriber = "granted", now, person
        row.address = row.name = ""
        row.welcome_due = not withheld and any(each.before != "subscribed" for each in confirmed)
        row.save(update_fields=["state", "granted_at", "subscriber", "address", "name", "welcome_due"])
    return Granted(outcome="withheld" if withheld else "granted", subscriber=person.pk)


def _person(wish: Wish, at: datetime) -> Subscriber:
    """The subscriber of a wish, made or found, locked, with the name and the language that were asked for."""
    # No key: whoever leaves holds a subscription, and then looks whether the person of the event is there.
    person, created = Subscriber.objects.select_for_update(no_key=True).get_or_create(
        address_key=bytes(wish.address_key),
        defaults={"address": wish.address, "name": wish.name, "language": wish.language, "created_at": at},
    )
    if created:
        return person
    changed = []
    if wish.name and wish.name != person.name:
        person.name = wish.name
        changed.append("name")
    if wish.language and not covers(wish.language, person.language):  # "es" leaves "es-PE" as it is
        person.language = wish.language
        changed.append("language")
    if changed:
        person.save(update_fields=changed)
    return person


def look(wish: Wish, *, now: float) -> Granted | None:
    """What the link of a sign-up finds before the button is pressed: None when there is something to grant. Changes
    nothing."""
    if wish.state != "granted":
        return Granted(outcome="expired") if wish.state == "dropped" or now > expires_at(wish) else None
    if Suppression.objects.filter(pk=bytes(wish.address_key)).exclude(reason__in=LIFTED_BY_OPT_IN).exists():
        return Granted(outcome="withheld", subscriber=wish.subscriber_id)
    on = Subscription.objects.filter(subscriber=wish.subscriber_id, list__name__in=wish.lists, state="subscribed")
    return Granted(outcome="already" if on.exists() else "left", subscriber=wish.subscriber_id)
