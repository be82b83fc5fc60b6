"""Everything known of a person: as JSON it is complete, and stays so when a table or a column is added."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from newsletter.config import Config

NOW = datetime(2017, 11, 19, 18, 2, 3, tzinfo=UTC)
ANA = "ana@example.org"

# What only the machinery has of a person's rows, and why it tells them nothing.
MACHINERY = {
    "address_key": "made from the address with a secret",
    "subscriber": "the number of the person, which stands at the top",
    "key": "names the kind of a single mail and numbers of rows",
    "slots": "values of a mail that waits: the name, and links that would open something",
    "epoch": "a count of leases",
    "way": "shown by its name, as `provider`",
    "proof": "a number that a browser found",
    "welcome_due": "whether a mail is still to be posted",
    "consent": "shown whole",
    "tag": "shown by its name",
    "mailing": "shown by its number and kind",
    "list": "shown by its name",
    "round": "shown as the issue and its number",
}


def everything(store: Config) -> dict[str, Any]:
    """Somebody with a row in every table, and no column left as it comes; the dossier of it."""
    from newsletter.store import models
    from newsletter.store.dossier import dossier, profile
    from newsletter.store.subscribers import add, suppress, unsubscribe

    person = add(
        store,
        ANA,
        list="weekly",
        name="Ana Quispe",
        language="es",
        tags=["board"],
        attributes={"city": "Lima", "vip": True},
        consent="signed the sheet",
        now=NOW,
    ).subscriber
    unsubscribe(person, list="weekly", how="one-click", evidence={"network": "203.0.113.0/24"}, now=NOW)
    models.Subscriber.objects.filter(pk=person.pk).update(paused_until=NOW.timestamp() + 5, tracking=True)
    models.Consent.objects.create(
        subscriber=person, kind="tracking", text="Yes.", text_version="abc", language="es", how="preferences", at=NOW
    )
    suppress(store, ANA, reason="bounce", note="mailbox full", now=NOW)
    models.Wish.objects.create(
        kind="signup",
        state="dropped",
        subscriber=person,
        address=ANA,
        address_key=person.address_key,
        name="Anita",
        language="es",
        lists=["alerts"],
        text="I want the alerts.",
        text_version="def",
        text_language="en",
        how="page",
        network="198.51.100.0/24",
        proof=b"p" * 16,
        reason="asked too often",
        at=1511114524.5,
        not_before=1511114525.0,
        mailed_at=1511114526.0,
        granted_at=1511114527.0,
        welcome_due=True,
    )
    round = models.Round.objects.create(issue="2017-11-12", number=3)
    mailing = models.Mailing.objects.create(
        kind="issue", round=round, name="weekly", state="finished", provider="outbox", created_at=NOW, watched_at=NOW
    )
    models.Delivery.objects.create(
        mailing=mailing,
        subscriber=person,
        round=round,
        key="x:1",
        address="old@example.org",
        address_key=person.address_key,
        language="es",
        slots="{}",
        state="refused",
        epoch=7,
        way=1,
        attempts=2,
        not_before=1511114528.0,
        at=1511114529.0,
        provider_ref="<ref@example.org>",
        detail="550 no such user",
        fate="bounced",
        fate_at=1511114530.0,
    )
    return dossier(ANA, profile(store, ANA), {1: "mailgun"})


Rows = list[dict[str, Any]]
WHERE: dict[str, Callable[[dict[str, Any]], Rows]] = {
    "subscriber": lambda found: [found["subscriber"], {"address": found["address"]}],
    "subscriber_tag": lambda found: [{"tag": name} for name in found["subscriber"]["tags"]],
    "consent": lambda found: found["consents"],
    "subscription": lambda found: found["subscriptions"],
    "suppression": lambda found: [found["suppression"]],
    "wish": lambda found: found["wishes"],
    "delivery": lambda found: found["deliveries"],
}
"""Where the rows of each table that knows a person stand in the dossier."""


def test_it_has_every_table_that_knows_a_person_and_every_column(store: Config) -> None:
    from django.apps import apps

    found = everything(store)
    missing = []
    for model in apps.get_app_config("store").get_models():
        columns = {field.column for field in model._meta.concrete_fields}
        if not columns & {"subscriber_id", "address_key"}:
            continue
        table = model._meta.db_table
        assert table in WHERE, f"{table} knows a person, and the dossier does not know it"
        rows = WHERE[table](found)
        assert rows, f"nothing of {table}"
        shown = {name for row in rows for name in row}
        for field in model._meta.concrete_fields:
            private = field.name in MACHINERY or (field.primary_key and field.name != "address_key")
            if not private and field.name not in shown:
                missing.append(f"{table}.{field.name}")
    assert not missing


def test_its_values_are_those_of_the_rows_and_can_be_read(store: Config) -> None:
    found = everything(store)
    assert json.loads(json.dumps(found)) == found
    person = dict(found["subscriber"])
    assert person.pop("id") > 0
    assert person == {
        "name": "Ana Quispe",
        "language": "es",
        "tags": ["board"],
        "attributes": {"city": "Lima", "vip": True},
        "created_at": "2017-11-19T18:02:03+00:00",
        "paused_until": "2017-11-19T18:02:08+00:00",
        "tracking": True,
    }
    assert found["suppression"] == {"reason": "bounce", "note": "mailbox full", "at": "2017-11-19T18:02:03+00:00"}
    assert [(each["kind"], each["list"], each["how"]) for each in found["consents"]] == [
        ("add", "weekly", "command line"),
        ("unsubscribe", "weekly", "one-click"),
        ("tracking", None, "preferences"),
    ]
    wish = dict(found["wishes"][0])
    assert wish.pop("id") > 0
    assert wish == {
        "kind": "signup",
        "state": "dropped",
        "reason": "asked too often",
        "address": ANA,
        "name": "Anita",
        "language": "es",
        "lists": ["alerts"],
        "text": "I want the alerts.",
        "text_version": "def",
        "text_language": "en",
        "how": "page",
        "network": "198.51.100.0/24",
        "at": "2017-11-19T18:02:04.500000+00:00",
        "not_before": "2017-11-19T18:02:05+00:00",
        "mailed_at": "2017-11-19T18:02:06+00:00",
        "granted_at": "2017-11-19T18:02:07+00:00",
    }
    mail = found["deliveries"][0]
    assert (mail["address"], mail["provider"], mail["issue"], mail["round"], mail["fate_at"]) == (
        *("old@example.org", "mailgun", "2017-11-12", 3),
        "2017-11-19T18:02:10+00:00",
    )


def test_who_only_asked_is_known_by_that(store: Config) -> None:
    from newsletter.store.dossier import dossier, profile
    from newsletter.store.wishes import ask

    ask(store, kind="signup", address=ANA, language="en", how="page", network="", lists=["weekly"])
    found = dossier(ANA, profile(store, ANA.upper()), {})
    assert (found["address"], found["subscriber"], len(found["wishes"])) == (ANA, None, 1)


def test_what_somebody_else_typed_is_not_shown_but_goes_with_an_erasure(store: Config) -> None:
    """Luis asked for Ana's address as his new one: his network is none of her business."""
    from newsletter.store.dossier import profile
    from newsletter.store.models import Wish
    from newsletter.store.subscribers import add, erase
    from newsletter.store.wishes import ask

    add(store, ANA, list="weekly", consent="x")
    luis = add(store, "luis@example.org", list="weekly", consent="x").subscriber
    ask(store, kind="address", address=ANA, language="en", how="manage", network="203.0.113.0/24", subscriber=luis.pk)
    ask(store, kind="link", address=ANA, language="en", how="page", network="")
    assert [each.kind for each in profile(store, ANA).wishes] == ["link"]
    assert [each.kind for each in profile(store, "luis@example.org").wishes] == ["address"]
    assert erase(store, ANA).wishes == 2
    assert not Wish.objects.exists()


def test_an_erasure_of_who_only_asked_is_one(store: Config) -> None:
    from newsletter.store.models import Suppression, Wish
    from newsletter.store.subscribers import address_key, erase
    from newsletter.store.wishes import ask

    ask(store, kind="signup", address=ANA, language="en", how="page", network="", lists=["weekly"], now=time.time())
    erased = erase(store, ANA)
    assert (erased.known, erased.wishes, erased.deliveries) == (False, 1, 0)
    assert not Wish.objects.exists()
    row = Suppression.objects.get()
    assert (bytes(row.address_key), row.reason) == (address_key(store, ANA), "erased")
