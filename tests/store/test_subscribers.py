"""One person: who may be added, what lifts what, and what is left after an erasure."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from newsletter.config import Config
from newsletter.errors import AddressError, InputError, NoConsent, NotFound

if TYPE_CHECKING:
    from newsletter.store.models import Delivery, Subscriber, Subscription
    from newsletter.store.subscribers import Reason

NOW = datetime(2017, 11, 19, 18, 2, tzinfo=UTC)
ANA = "Ana.Quispe@Example.ORG"


def added(config: Config, address: str = ANA, **more: Any) -> Subscriber:
    from newsletter.store.subscribers import add

    return add(config, address, **{"list": "weekly", "consent": "signed the sheet", "now": NOW, **more}).subscriber


def subscription(person: Subscriber, list: str = "weekly") -> Subscription:
    from newsletter.store.models import Subscription

    return Subscription.objects.select_related("consent").get(subscriber=person, list__name=list)


numbers = itertools.count(1)


def delivery(person: Subscriber | None, **fields: Any) -> Delivery:
    from newsletter.store.models import Delivery, Mailing, Round

    number = next(numbers)
    round = Round.objects.create(issue=f"issue-{number}", number=1)
    mailing = Mailing.objects.create(
        kind="issue", round=round, state="sending", provider="outbox", created_at=NOW, watched_at=NOW
    )
    if person:
        fields = {"subscriber": person, "address": person.address, "address_key": person.address_key, **fields}
    fixed = {"round": round, "language": "es", "at": NOW.timestamp(), "state": "accepted"}
    return Delivery.objects.create(mailing=mailing, **{**fixed, **fields})


# --- add --------------------------------------------------------------------------------------------------------------


def test_an_address_is_found_however_it_is_written(store: Config) -> None:
    from newsletter.store.subscribers import find

    person = added(store, " Ana@Bücher.example ")
    assert person.address == "Ana@Bücher.example"
    for written in ("ana@bücher.example", "ANA@BÜCHER.EXAMPLE", "\tana@xn--bcher-kva.example "):
        assert find(store, written) == person
    assert find(store, "ana@example.org") is None
    with pytest.raises(AddressError):
        find(store, "ana")


def test_without_consent_a_person_is_unconfirmed(store: Config) -> None:
    from newsletter.store.models import Consent
    from newsletter.store.subscribers import add

    result = add(store, ANA, list="weekly")
    assert (result.created, result.before, result.state) == (True, None, "unconfirmed")
    assert Consent.objects.count() == 0
    assert add(store, ANA, list="weekly").before == "unconfirmed"


def test_stated_consent_subscribes_and_is_kept(store: Config) -> None:
    from newsletter.store.models import Consent
    from newsletter.store.subscribers import add

    add(store, ANA, list="weekly", now=NOW)
    result = add(store, ANA, list="weekly", consent="at the fair", language="es", now=NOW + timedelta(days=1))
    assert (result.created, result.before, result.state) == (False, "unconfirmed", "subscribed")
    row = subscription(result.subscriber)
    assert row.joined_at == NOW
    assert row.changed_at == NOW + timedelta(days=1)
    event = Consent.objects.get()
    assert row.consent == event
    assert (event.kind, event.text, event.language, event.how) == ("add", "at the fair", "", "command line")
    again = add(store, ANA, list="weekly", consent="at the fair")
    assert (again.before, again.changed) == ("subscribed", ())
    assert Consent.objects.count() == 1


def test_what_is_given_of_a_known_person_is_set_and_the_rest_stays(store: Config) -> None:
    from newsletter.store.models import SubscriberTag
    from newsletter.store.subscribers import add

    added(store, name="Ana", language="es", tags=["board"], attributes={"city": "Lima", "age": 18})
    result = add(
        store, ANA.upper(), list="alerts", name="Ana Q.", tags=["board", "press"], attributes={"age": 19, "vip": True}
    )
    person = result.subscriber
    assert result.changed == ("name", "attributes", "tags")
    person.refresh_from_db()
    assert (person.name, person.language, person.address) == ("Ana Q.", "es", ANA)
    assert person.attributes == {"city": "Lima", "age": 19, "vip": True}
    tags = SubscriberTag.objects.filter(subscriber=person).values_list("tag__name", flat=True)
    assert sorted(tags) == ["board", "press"]
    assert add(store, ANA, list="alerts", attributes={"vip": 1}).changed == ("attributes",)


@pytest.mark.parametrize(
    "bad",
    [{"name": "x" * 300}, {"language": "fr"}, {"language": "es-"}, {"tags": [""]}, {"attributes": {"a": "\x00"}}],
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(store: Config, bad: dict[str, Any]) -> None:
    from newsletter.store.models import Subscriber
    from newsletter.store.subscribers import add

    with pytest.raises(InputError):
        add(store, ANA, list="weekly", **bad)
    with pytest.raises(NotFound):
        add(store, ANA, list="wekly")
    assert Subscriber.objects.count() == 0


def test_who_left_is_brought_back_only_by_a_stated_wish(store: Config) -> None:
    from newsletter.store.models import Consent
    from newsletter.store.subscribers import add, unsubscribe

    person = added(store)
    assert unsubscribe(person, how="one-click", now=NOW + timedelta(days=2)) == ("weekly",)
    for refused in ({}, {"consent": "an old list"}, {"resubscribe": True}):
        with pytest.raises(NoConsent, match="left on 2017-11-21"):
            add(store, ANA, list="weekly", **refused)
    later = NOW + timedelta(days=9)
    result = add(store, ANA, list="weekly", resubscribe=True, consent="rang on Monday", now=later)
    assert (result.before, result.state) == ("unsubscribed", "subscribed")
    assert subscription(person).joined_at == later
    assert [each.kind for each in Consent.objects.order_by("pk")] == ["add", "unsubscribe", "add"]


def test_a_refused_addition_changes_nothing(store: Config) -> None:
    from newsletter.store.subscribers import add, unsubscribe

    person = added(store, name="Ana")
    unsubscribe(person, how="page")
    with pytest.raises(NoConsent):
        add(store, ANA, list="weekly", name="Anna", tags=["board"])
    person.refresh_from_db()
    assert person.name == "Ana"
    assert person.tags.count() == 0


@pytest.mark.parametrize(
    ("typed", "kept"), [("ES", "es"), ("es_pe", "es-PE"), ("es-latn-pe", "es-Latn-PE"), (" en ", "en"), ("", "")]
)
def test_a_language_and_a_name_are_kept_in_their_usual_form(store: Config, typed: str, kept: str) -> None:
    person = added(store, language=typed, name="Ana\r\n  Quispe\u200b ")
    assert (person.language, person.name) == (kept, "Ana Quispe")


# --- unsubscribe, tags, near ------------------------------------------------------------------------------------------


def test_an_unsubscription_is_for_one_list_or_for_all_and_counts_once(store: Config) -> None:
    from newsletter.store.models import Consent
    from newsletter.store.subscribers import add, unsubscribe

    person = added(store)
    add(store, ANA, list="alerts")
    assert unsubscribe(person, list="weekly", how="page") == ("weekly",)
    assert unsubscribe(person, list="weekly", how="page") == ()
    assert subscription(person, "alerts").state == "unconfirmed"
    assert unsubscribe(person, how="page") == ("alerts",)
    assert subscription(person, "alerts").state == "unsubscribed"
    assert Consent.objects.filter(kind="unsubscribe").count() == 2


def test_tags_are_given_and_taken(store: Config) -> None:
    from newsletter.store.subscribers import alike, tag

    person = added(store, tags=["guest"])
    assert tag(person, add=["board", "board", " press  club "], remove=["guest", "nobody"]) == (
        ["board", "press club"],
        ["guest"],
    )
    assert tag(person, add=["board"]) == ([], [])
    assert alike("Board") == "board"
    assert alike("board") is None
    assert alike("new") is None


def test_addresses_alike_are_offered(store: Config) -> None:
    from newsletter.store.subscribers import near

    for address in ("ana.quispe@example.org", "ana.quispe@example.com", "luis@example.org", "a_a%b@example.org"):
        added(store, address)
    assert near("ana.quispe@exmaple.org") == ["ana.quispe@example.org", "ana.quispe@example.com"]
    assert near("Ana.Qispe@example.org")[0] == "ana.quispe@example.org"
    assert near("nobody@elsewhere.example") == []


# --- suppression ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["bounce", "complaint", "erased", "manual"])
def test_a_suppressed_address_is_not_added_and_the_text_says_what_lifts_it(store: Config, reason: Any) -> None:
    from newsletter.store.models import Subscriber
    from newsletter.store.subscribers import add, suppress

    suppress(store, ANA.lower(), reason=reason, now=NOW)
    with pytest.raises(NoConsent, match="2017-11-19") as raised:
        add(store, ANA, list="weekly", consent="stated", resubscribe=True)
    assert "unsuppress ADDRESS" in str(raised.value)
    assert "example" not in str(raised.value).lower()
    assert ("own confirmed sign-up" in str(raised.value)) is (reason in ("bounce", "erased"))
    assert Subscriber.objects.count() == 0


def test_a_suppression_becomes_graver_and_never_lighter(store: Config) -> None:
    from newsletter.store.subscribers import suppress

    assert suppress(store, ANA, reason="bounce").reason == "bounce"
    assert suppress(store, ANA, reason="manual", note="by telephone").reason == "manual"
    assert suppress(store, ANA, reason="bounce").note == "by telephone"
    assert suppress(store, ANA, reason="complaint").reason == "complaint"
    assert suppress(store, ANA, reason="manual").reason == "complaint"


def test_a_note_may_not_hold_the_address(store: Config) -> None:
    from newsletter.store.models import Suppression
    from newsletter.store.subscribers import suppress

    with pytest.raises(InputError):
        suppress(store, ANA, note="she wrote from ana.quispe@EXAMPLE.org")
    assert Suppression.objects.count() == 0


def test_a_complaint_and_an_erasure_are_lifted_by_name_only(store: Config) -> None:
    from newsletter.store.subscribers import suppress, unsuppress

    named: list[Reason] = ["complaint", "erased"]
    plain: list[Reason] = ["bounce", "manual"]
    for reason in named:
        suppress(store, ANA, reason=reason)
        for wrong in (None, plain[0]):
            with pytest.raises(NoConsent):
                unsuppress(store, ANA, lift=wrong)
        assert unsuppress(store, ANA, lift=reason) == reason
    for reason in plain:
        suppress(store, ANA, reason=reason)
        assert unsuppress(store, ANA) == reason
    with pytest.raises(NotFound):
        unsuppress(store, ANA)


# --- a person's own double opt-in -------------------------------------------------------------------------------------

SAID: dict[str, Any] = {"text": "Yes, send me the summary.", "text_version": "3", "language": "es", "how": "page"}


@pytest.mark.parametrize(
    ("reason", "lifted"), [("bounce", True), ("erased", True), ("complaint", False), ("manual", False)]
)
def test_a_double_opt_in_lifts_a_bounce_and_an_erasure_and_nothing_else(
    store: Config, reason: Any, lifted: bool
) -> None:
    from newsletter.store.consent import confirm
    from newsletter.store.models import Suppression
    from newsletter.store.subscribers import suppress

    person = added(store)
    suppress(store, ANA, reason=reason)
    done = confirm(subscription(person).pk, **SAID)
    assert (done.lifted, done.withheld) == ((reason, "") if lifted else ("", reason))
    assert Suppression.objects.exists() is not lifted


@pytest.mark.parametrize("before", ["unconfirmed", "unsubscribed"])
def test_a_double_opt_in_subscribes_and_keeps_the_exact_text(store: Config, before: str) -> None:
    from newsletter.store.consent import confirm
    from newsletter.store.models import Consent, Subscription

    person = added(store, consent="")
    Subscription.objects.update(state=before)
    row = subscription(person)
    later = NOW + timedelta(days=1)
    assert confirm(row.pk, **SAID, evidence={"network": "192.0.2.0/24"}, now=later).before == before
    row = subscription(person)
    assert (row.state, row.changed_at) == ("subscribed", later)
    assert row.joined_at == (later if before == "unsubscribed" else NOW)
    assert row.consent is not None
    assert {name: getattr(row.consent, name) for name in SAID} == SAID
    assert (row.consent.kind, row.consent.at, row.consent.evidence) == ("confirm", later, {"network": "192.0.2.0/24"})
    assert confirm(row.pk, **SAID).before == "subscribed"
    assert Consent.objects.count() == 1
    with pytest.raises(NotFound):
        confirm(row.pk + 1, **SAID)


def test_the_database_refuses_to_change_a_consent_event(store: Config) -> None:
    from django.db import IntegrityError, connection, transaction

    from newsletter.store.models import Consent

    added(store)
    event = Consent.objects.get()
    event.text = "another text"
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        event.save()
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE consent SET at = at")
    assert Consent.objects.get().text == "signed the sheet"


def test_the_migration_that_refuses_it_can_be_taken_back(store: Config) -> None:
    from django.core.management import call_command

    from newsletter.store.models import Consent

    added(store)
    call_command("migrate", "store", "0001", verbosity=0)
    Consent.objects.update(how="page")
    call_command("migrate", "store", "0002", verbosity=0)


# --- erasure ----------------------------------------------------------------------------------------------------------


def dump(config: Config) -> bytes:
    """Every octet that the database holds: the raw files of SQLite, every table of PostgreSQL."""
    from django.db import connection

    if connection.vendor == "sqlite":  # the last connection to be closed would empty the journal; another process reads
        files = sorted(config.database.parent.glob("newsletter.sqlite3*"))
        return subprocess.run(["cat", *files], check=True, capture_output=True).stdout
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        out = b""
        for table in tables:
            with cursor.copy(f'COPY "{table}" TO STDOUT') as copy:
                out += b"".join(bytes(part) for part in copy)
    return out


def everything_about(config: Config, address: str) -> Subscriber:
    from newsletter.store.subscribers import add, unsubscribe

    person = added(
        config, address, name="Ana Quispe", tags=["board"], attributes={"mail": address, "city": "Lima"}, language="es"
    )
    add(config, address, list="alerts")
    unsubscribe(person, list="alerts", how="one-click")
    lower = address.lower()
    delivery(person, provider_ref=f"<1.{address}>", fate="delivered")
    delivery(person, state="refused", detail=f"550 <{address.upper()}>: no such user; {lower} is unknown")
    delivery(person, state="pending", slots=f'{{"NAME": "{address}"}}')
    delivery(person, state="sending")
    delivery(person, state="in_doubt")
    delivery(None, key=f"api:{lower}", address=address, address_key=person.address_key, state="accepted", round=None)
    return person


@pytest.mark.parametrize("address", [ANA, "ñandú.Ärger@Bücher.example", "a+b'c@example.org"])
def test_after_an_erasure_the_database_holds_the_address_nowhere(store: Config, address: str) -> None:
    from newsletter.store.keys import normalised
    from newsletter.store.subscribers import erase

    for number in range(200):  # neighbours, so that pages are divided
        added(store, f"{number}.neighbour@example.org", name="N" * (number % 50))
    everything_about(store, address)
    for number in range(200, 300):
        added(store, f"{number}.neighbour@example.org", name="N" * (number % 50))
    forms = {form.encode() for form in (address.lower(), address.casefold(), normalised(address))}
    forms |= {json.dumps(address.lower())[1:-1].encode()}
    before = dump(store).decode("utf-8", "replace").lower().encode()
    assert any(form in before for form in forms), "the search can find it"
    erased = erase(store, address.upper())
    assert (erased.known, erased.deliveries, erased.skipped, erased.under_way, erased.journal) == (True, 6, 1, 1, False)
    after = dump(store).decode("utf-8", "replace").lower().encode()
    assert not any(form in after for form in forms)
    assert b"299.neighbour@example.org" in after


def test_an_erasure_leaves_a_key_and_the_counts(store: Config) -> None:
    from newsletter.store.models import Consent, Delivery, Subscriber, SubscriberTag, Subscription, Suppression
    from newsletter.store.subscribers import address_key, erase

    everything_about(store, ANA)
    other = added(store, "luis@example.org", tags=["board"])
    kept = delivery(other)
    erase(store, ANA, now=NOW)
    row = Suppression.objects.get()
    assert (bytes(row.address_key), row.reason, row.note, row.at) == (address_key(store, ANA), "erased", "", NOW)
    assert [each.pk for each in Subscriber.objects.all()] == [other.pk]
    for model in (Subscription, Consent, SubscriberTag):
        assert set(model.objects.values_list("subscriber", flat=True)) == {other.pk}
    rows = Delivery.objects.exclude(pk=kept.pk).order_by("pk")
    assert [each.state for each in rows] == ["accepted", "refused", "skipped", "sending", "in_doubt", "accepted"]
    for each in rows:
        assert (each.subscriber_id, each.address, each.address_key, each.slots) == (None, "", None, None)
    skipped = rows.get(state="skipped")
    assert (skipped.detail, skipped.at) == ("erased", NOW.timestamp())
    assert rows[0].fate == "delivered"
    assert rows[1].detail == "550 <…>: no such user; … is unknown"
    assert Delivery.objects.get(pk=kept.pk).address == "luis@example.org"


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        ("bounce", "erased", ""),
        ("erased", "erased", ""),
        ("manual", "manual", "erased on 2017-11-19"),
        ("complaint", "complaint", "erased on 2017-11-19"),
    ],
)
def test_an_erasure_makes_no_suppression_lighter(store: Config, before: Any, after: str, note: str) -> None:
    from newsletter.store.models import Suppression
    from newsletter.store.subscribers import erase, suppress

    added(store)
    suppress(store, ANA, reason=before, note="" if before == "erased" else "said Ana")
    erase(store, ANA, now=NOW)
    row = Suppression.objects.get()
    assert (row.reason, row.note) == (after, note)


def test_who_is_erased_stays_out_until_they_sign_up_themselves(store: Config) -> None:
    from newsletter.store.subscribers import add, erase, find

    added(store)
    erase(store, ANA)
    assert find(store, ANA) is None
    with pytest.raises(NoConsent, match="was erased on"):
        add(store, ANA, list="weekly", consent="from an old sheet", resubscribe=True)


def test_nothing_known_is_nothing_to_erase(store: Config) -> None:
    from newsletter.store.models import Suppression
    from newsletter.store.subscribers import erase

    with pytest.raises(NotFound):
        erase(store, ANA)
    assert Suppression.objects.count() == 0


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_a_text_is_found_in_a_file_and_gone_after_it_was_written_anew(store: Config) -> None:
    from django.db import connection, connections

    from newsletter.store.subscribers import compact
    from newsletter.store.traces import holds

    added(store)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA secure_delete")
        assert cursor.fetchone() == (1,), "else more of what was deleted would stay in the file"
        cursor.execute("PRAGMA secure_delete = OFF")
        cursor.execute("DELETE FROM subscription")
        cursor.execute("DELETE FROM consent")
        cursor.execute("DELETE FROM subscriber")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connections.close_all()
    assert holds(store.database, ["ana.quispe@example.org"])
    assert not holds(store.database, ["ana.quisbe@example.org"])
    compact()
    connections.close_all()
    assert not holds(store.database, ["ana.quispe@example.org"])


# --- profile ----------------------------------------------------------------------------------------------------------


def test_a_profile_is_everything_known(store: Config) -> None:
    from newsletter.store.dossier import profile
    from newsletter.store.subscribers import suppress

    person = everything_about(store, ANA)
    suppress(store, ANA, reason="bounce")
    known = profile(store, ANA.lower())
    assert known.subscriber == person
    assert known.tags == ("board",)
    assert [(each.list.name, each.state) for each in known.subscriptions] == [
        ("weekly", "subscribed"),
        ("alerts", "unsubscribed"),
    ]
    assert [each.kind for each in known.consents] == ["add", "unsubscribe"]
    assert known.suppression is not None
    assert [each.pk for each in known.deliveries] == sorted((each.pk for each in known.deliveries), reverse=True)
    assert len(known.deliveries) == 6


def test_an_address_without_a_subscriber_has_a_profile_where_anything_is_known(store: Config) -> None:
    from newsletter.store.dossier import profile
    from newsletter.store.subscribers import address_key, suppress

    with pytest.raises(NotFound):
        profile(store, ANA)
    delivery(None, address=ANA, address_key=address_key(store, ANA), key="confirm:1:1", round=None)
    assert len(profile(store, ANA).deliveries) == 1
    suppress(store, "other@example.org")
    assert profile(store, "other@example.org").subscriber is None


def test_an_erasure_waits_for_whoever_writes_recipients_down(store: Config) -> None:
    """Else the row that is being written at that moment would keep the address, and nobody would ever look for it."""
    from django.db import connection, connections, transaction

    from newsletter.store.models import Delivery, Mailing
    from newsletter.store.subscribers import erase

    person = added(store)
    mailing = Mailing.objects.create(kind="issue", state="opening", provider="outbox", created_at=NOW, watched_at=NOW)
    failed: list[BaseException] = []

    def erase_elsewhere() -> None:
        try:
            erase(store, ANA)
        except BaseException as error:
            failed.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=erase_elsewhere)
    with transaction.atomic():
        Mailing.objects.select_for_update().get(pk=mailing.pk)
        thread.start()
        if connection.vendor == "postgresql":
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            deadline = time.monotonic() + 30
            with connection.cursor() as cursor:
                while cursor.execute(waiting).fetchone() == (0,) and time.monotonic() < deadline:
                    cursor.execute("SELECT pg_sleep(0.01), pg_stat_clear_snapshot()")
        row = Delivery.objects.create(
            mailing=mailing,
            subscriber=person,
            address=ANA,
            address_key=person.address_key,
            language="es",
            state="pending",
            at=NOW.timestamp(),
        )
    thread.join(60)
    assert failed == []
    row.refresh_from_db()
    assert (row.address, row.state, row.detail) == ("", "skipped", "erased")
