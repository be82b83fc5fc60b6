"""What is asked for at the pages: kept by few statements, counted, and granted once, whoever comes in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config, Web
from newsletter.errors import AddressError, InputError

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0
NETWORK = "192.0.2.0/24"
YES = {"text": "Yes.", "text_version": "1", "language": "en", "network": NETWORK}


def ask(config: Config, address: str = "ana@example.org", **more: Any) -> Any:
    from newsletter.store import wishes

    given = {"kind": "signup", "language": "en", "how": "page", "network": NETWORK, "lists": ["weekly"], "now": NOON}
    return wishes.ask(config, address=address, **{**given, **more})


def wish(config: Config, address: str = "ana@example.org", **more: Any) -> Any:
    """A wish whose mail has been sent."""
    from newsletter.store.models import Wish

    id = ask(config, address, **more).wish
    Wish.objects.filter(pk=id).update(state="mailed", mailed_at=NOON + 1)
    return Wish.objects.get(pk=id)


def grant(config: Config, row: Any, now: float = NOON + 60, **more: Any) -> str:
    from newsletter.store import wishes

    outcome: str = wishes.grant(config, row, **{**YES, "now": now, **more}).outcome
    return outcome


def states() -> dict[str, str]:
    from newsletter.store.models import Subscription

    return dict(Subscription.objects.values_list("list__name", "state"))


def crowd(config: Config, **web: Any) -> Config:
    return replace(config, web=Web(**{"per_network": 3, "per_minute": 5, "delay": 600, **web}))


# --- asking -----------------------------------------------------------------------------------------------------------


def test_asking_is_three_statements_in_one_transaction(store: Config) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries:
        ask(store)
    first = [query["sql"].split()[0] for query in queries]
    assert first == ["SELECT", "BEGIN", "INSERT", "INSERT", "COMMIT"]


def test_a_worker_of_the_cluster_is_woken_once(cluster: Config) -> None:
    from django.db import connection

    for number in range(3):
        ask(cluster, f"a{number}@example.org")
    with connection.cursor() as cursor:
        cursor.execute("SELECT task_name FROM procrastinate_jobs")
        assert cursor.fetchall() == [("answer_wishes",)]


def test_no_address_and_no_name_that_cannot_be_kept(store: Config) -> None:
    from newsletter.store.models import Rate, Wish

    for address in ("", "ana", "ana@", "ana@example.org\0", "ana\n@example.org", "a" * 65 + "@example.org"):
        with pytest.raises(AddressError) as caught:
            ask(store, address)
        assert "ana" not in str(caught.value)
    with pytest.raises(InputError):
        ask(store, name="x" * 201)
    assert not Wish.objects.exists()
    assert not Rate.objects.exists()


def test_a_name_is_tidied(store: Config) -> None:
    from newsletter.store.models import Wish

    ask(store, name=" Ana\0\n\ud800 María\u202e ")
    assert Wish.objects.get().name == "Ana María"


def test_a_proof_of_work_counts_once(store: Config) -> None:
    from newsletter.store.models import Wish

    config = crowd(store, per_network=1)
    for number in range(4):
        ask(config, f"a{number}@example.org", proof=b"p" * 16)
    assert [*Wish.objects.order_by("pk").values_list("not_before", flat=True)] == [NOON, *[NOON + 600] * 3]
    assert [each.proof is not None for each in Wish.objects.order_by("pk")] == [True, False, False, False]
    ask(config, proof=b"q" * 16)
    assert Wish.objects.latest("pk").not_before == NOON


def test_a_delay_that_is_asked_for_holds_in_any_case(store: Config) -> None:
    from newsletter.store.models import Wish

    config = crowd(store, per_network=1)
    ask(config, delay=5)
    ask(config, delay=5)
    ask(config, delay=900, proof=b"p" * 16)
    assert [*Wish.objects.order_by("pk").values_list("not_before", flat=True)] == [NOON + 5, NOON + 600, NOON + 900]


def test_who_asks_at_one_moment_is_counted_and_a_proof_given_to_one(store: Config) -> None:
    from newsletter.store.models import Rate, Wish

    config = crowd(store, per_network=10, per_minute=1000)
    errors: list[BaseException] = []
    barrier = threading.Barrier(6)

    def several(first: int) -> None:
        from django.db import connections

        try:
            barrier.wait()
            for number in range(first, first + 5):
                ask(config, f"a{number}@example.org", proof=b"p" * 16, network=f"192.0.{first % 2}.0/24")
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=several, args=(first,)) for first in range(0, 42, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    counts = {"wish": 30, "wish 192.0.0.0/24": 15, "wish 192.0.1.0/24": 15}
    assert dict(Rate.objects.values_list("scope", "count")) == counts
    assert Wish.objects.count() == 30
    assert Wish.objects.filter(proof__isnull=False).count() == 1


# --- how much is asked ------------------------------------------------------------------------------------------------


def test_the_pressure_rises_with_a_network_and_falls_with_the_hour(store: Config) -> None:
    from newsletter.store import wishes

    config = crowd(store, per_minute=1000)
    seen = []
    for number in range(32):
        seen.append(wishes.pressure(config, NETWORK, NOON))
        asked = ask(config, f"a{number}@example.org")
        assert (asked.wish is None) == (asked.pressure == "shut")
    assert seen == ["calm"] * 3 + ["high"] * 27 + ["shut"] * 2
    assert wishes.pressure(config, "198.51.100.0/24", NOON) == "calm"
    assert wishes.pressure(config, NETWORK, NOON + 3599) == "shut"
    assert wishes.until_calm(config, NETWORK, NOON + 3000) == 601
    assert wishes.pressure(config, NETWORK, NOON + 3600) == "calm"


def test_all_networks_together_count_by_the_minute(store: Config) -> None:
    from newsletter.store import wishes

    config = crowd(store)
    outcomes = [ask(config, network=f"198.51.{number}.0/24").pressure for number in range(51)]
    assert outcomes == ["calm"] * 5 + ["high"] * 45 + ["shut"]
    assert wishes.until_calm(config, NETWORK, NOON + 30) == 31
    assert wishes.pressure(config, NETWORK, NOON + 60) == "calm"


def test_whoever_comes_from_nowhere_is_not_one_network(store: Config) -> None:
    config = crowd(store, per_minute=1000)
    assert {ask(config, network="").pressure for _ in range(40)} == {"calm"}


def test_counts_of_slots_that_are_over_are_forgotten(store: Config) -> None:
    from newsletter.store import wishes
    from newsletter.store.models import Rate

    ask(store)
    Rate.objects.create(scope="else", slot=1, count=1)
    assert wishes.forget_rates(NOON + 59) == 0
    assert wishes.forget_rates(NOON + 60) == 1
    assert wishes.forget_rates(NOON + 3600) == 1
    assert Rate.objects.get().scope == "else"


_local = st.text("ab.+", min_size=1, max_size=8).filter(lambda text: not text.startswith(".") and ".." not in text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=_local, other=_local)
def test_dots_and_what_follows_a_plus_make_no_other_mailbox(store: Config, one: str, other: str) -> None:
    from newsletter.store.subscribers import address_key
    from newsletter.store.wishes import mailbox_key

    bare = [local.partition("+")[0].replace(".", "") for local in (one, other)]
    addresses = [f"{local.rstrip('.')}@example.org" for local in (one, other)]
    keys = [mailbox_key(store, address) for address in addresses]
    if all(bare):
        assert (keys[0] == keys[1]) == (bare[0] == bare[1])
    assert keys[0] == mailbox_key(store, addresses[0].upper())
    assert keys[0] != address_key(store, addresses[0])
    assert len(keys[0]) == 16


def test_a_mailbox_with_two_names_counts_as_one(store: Config) -> None:
    from newsletter.store.wishes import mailbox_key

    assert mailbox_key(store, "a.na@GoogleMail.com") == mailbox_key(store, "ana+x@gmail.com")
    assert mailbox_key(store, "ana@googlemail.example") != mailbox_key(store, "ana@gmail.example")


# --- granting ---------------------------------------------------------------------------------------------------------


def test_a_new_person_is_as_they_asked(store: Config) -> None:
    from newsletter.store.models import Allowance, Consent, Subscriber
    from newsletter.store.wishes import mailbox_key

    key = mailbox_key(store, "a.na+x@example.org")
    for kind in ("signup", "link"):
        Allowance.objects.create(key=key, kind=kind, total=3, today=1, since=NOON)
    row = wish(store, "ana@example.org", name="Ana", language="es", lists=["weekly", "alerts"])
    assert grant(store, row) == "granted"
    person = Subscriber.objects.get()
    assert (person.address, person.name, person.language) == ("ana@example.org", "Ana", "es")
    assert states() == {"weekly": "subscribed", "alerts": "subscribed"}
    event = Consent.objects.filter(list__name="weekly").get()
    assert (event.kind, event.text, event.text_version, event.language) == ("confirm", "Yes.", "1", "en")
    assert event.evidence["network"] == NETWORK
    row.refresh_from_db()
    assert (row.state, row.address, row.granted_at, row.welcome_due) == ("granted", "", NOON + 60, True)
    assert Allowance.objects.get().kind == "link", "that of sign-ups starts anew"


def test_a_known_person_keeps_what_they_do_not_give(store: Config) -> None:
    from newsletter.store import subscribers
    from newsletter.store.models import Subscriber

    subscribers.add(store, "Ana@example.org", list="weekly", name="Ana", language="es-PE", consent="by letter")
    row = wish(store, "ana@example.org", language="es", lists=["weekly", "alerts"])
    assert grant(store, row) == "granted"
    person = Subscriber.objects.get()
    assert (person.address, person.name, person.language) == ("Ana@example.org", "Ana", "es-PE")
    assert states() == {"weekly": "subscribed", "alerts": "subscribed"}
    row.refresh_from_db()
    assert row.welcome_due, "for alerts"
    assert grant(store, wish(store, name="Ana Ruiz", language="en")) == "granted"
    person = Subscriber.objects.get()
    assert (person.name, person.language) == ("Ana Ruiz", "en")


def test_no_welcome_is_due_to_who_was_there(store: Config) -> None:
    from newsletter.store import subscribers

    subscribers.add(store, "ana@example.org", list="weekly", consent="by letter")
    row = wish(store)
    assert grant(store, row) == "granted"
    row.refresh_from_db()
    assert not row.welcome_due


@pytest.mark.parametrize(
    ("reason", "outcome", "stays"),
    [
        ("bounce", "granted", False),
        ("erased", "granted", False),
        ("complaint", "withheld", True),
        ("manual", "withheld", True),
    ],
)
def test_a_confirmation_lifts_what_it_may(store: Config, reason: Any, outcome: str, stays: bool) -> None:
    from newsletter.store import subscribers
    from newsletter.store.models import Suppression

    subscribers.suppress(store, "ana@example.org", reason=reason)
    row = wish(store)
    assert grant(store, row) == outcome
    assert Suppression.objects.exists() == stays
    row.refresh_from_db()
    assert row.welcome_due == (not stays)
    assert grant(store, row) == (outcome if stays else "already")


def test_a_wish_is_granted_once_and_in_time(store: Config) -> None:
    from newsletter.store import subscribers
    from newsletter.store.models import Consent, Wish

    row = wish(store)
    assert grant(store, row, now=NOON + 7 * DAY + 1) == "expired"
    assert states() == {}
    assert grant(store, row, now=NOON + 7 * DAY) == "granted"
    assert grant(store, row, now=NOON + 30 * DAY) == "already", "the person is in, however late they ask again"
    assert Consent.objects.count() == 1
    person = subscribers.find(store, "ana@example.org")
    assert person
    subscribers.unsubscribe(person, how="page")
    assert grant(store, row) == "left"
    Wish.objects.all().delete()
    assert grant(store, row) == "expired"
    dropped = wish(store)
    Wish.objects.filter(pk=dropped.pk).update(state="dropped", address="")
    assert grant(store, dropped) == "expired"
    assert grant(store, wish(store, kind="link")) == "expired"
    assert grant(store, wish(store, lists=["weekly"]), lists=["alerts"]) == "expired"
    assert states() == {"weekly": "unsubscribed"}


def test_a_link_is_read_for_its_purpose_only(store: Config) -> None:
    from newsletter.store import wishes
    from newsletter.store.keys import keyring

    keys = keyring(store)
    signup, link = wish(store), wish(store, kind="link")
    assert wishes.read(keys, keys.token("confirm", signup.pk), "confirm") == signup
    assert wishes.read(keys, keys.token("manage", link.pk), "manage") == link
    assert wishes.read(keys, keys.token("manage", signup.pk), "manage") is None
    assert wishes.read(keys, keys.token("confirm", signup.pk), "manage") is None
    assert wishes.read(keys, keys.token("confirm", 10_000), "confirm") is None
    assert wishes.expires_at(signup) == NOON + 7 * DAY
    assert wishes.expires_at(link) == NOON + 1 + 1800


# --- between two statements -------------------------------------------------------------------------------------------

Operation = Callable[[], object]


@contextmanager
def _before_statement(step: int, action: Operation, seen: list[str]) -> Iterator[None]:
    from django.db import connection

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        if len(seen) == step + 1:
            action()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(wrapper):
        yield


def _elsewhere(config: Config, action: Operation, errors: list[BaseException]) -> threading.Thread:
    """A thread with a connection of its own. Waited for until it ends or has to wait for a lock of ours."""
    from django.db import connections

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    if config.database_url:
        with psycopg.connect(config.database_url, autocommit=True) as server:
            waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            while thread.is_alive() and not server.execute(waiting).fetchall():
                thread.join(0.005)
    else:
        thread.join()
    return thread


def _clear() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        for table in ("subscription", "suppression", "wish", "rate", "allowance"):
            cursor.execute(f"DELETE FROM {table}")
    from newsletter.store.models import Subscriber

    Subscriber.objects.all().delete()


def _between(config: Config, prepare: Callable[[], Any], other: Callable[[Any], object], check: Operation) -> None:
    """Grants a wish once for each statement of that, with `other` before that statement."""
    from django.db import connection

    step = 0
    while True:
        _clear()
        row = prepare()
        errors: list[BaseException] = []
        threads: list[threading.Thread] = []

        def between(
            row: Any = row, errors: list[BaseException] = errors, threads: list[threading.Thread] = threads
        ) -> None:
            # On SQLite a transaction that writes is alone: whoever comes in between comes after it.
            if connection.vendor == "postgresql" or not connection.in_atomic_block:
                threads.append(_elsewhere(config, lambda: other(row), errors))

        seen: list[str] = []
        with _before_statement(step, between, seen):
            grant(config, row)
        for thread in threads:
            thread.join()
        if len(seen) <= step:
            break
        assert not errors, (seen[step], errors)
        if threads:
            check()
        step += 1
    assert step > 5


@pytest.mark.parametrize("known", [False, True])
def test_two_confirmations_at_once_are_one(store: Config, known: bool) -> None:
    from newsletter.store import subscribers
    from newsletter.store.models import Consent, Subscriber

    def prepare() -> Any:
        if known:
            subscribers.add(store, "ana@example.org", list="weekly")
        return wish(store, lists=["weekly", "alerts"])

    def check() -> None:
        assert Subscriber.objects.count() == 1
        assert states() == {"weekly": "subscribed", "alerts": "subscribed"}
        assert Consent.objects.filter(kind="confirm").count() == 2

    _between(store, prepare, lambda row: grant(store, row), check)


def test_two_sign_ups_of_one_person_are_both_granted(store: Config) -> None:
    from newsletter.store.models import Subscriber

    others = []

    def prepare() -> Any:
        others.append(wish(store, lists=["alerts", "weekly"], name="Ana"))
        return wish(store, lists=["weekly"])

    def check() -> None:
        assert Subscriber.objects.get().name == "Ana"
        assert states() == {"weekly": "subscribed", "alerts": "subscribed"}

    _between(store, prepare, lambda row: grant(store, others[-1]), check)


def test_a_person_who_leaves_or_is_added_at_that_moment_is_one_person(store: Config) -> None:
    from newsletter.store import subscribers
    from newsletter.store.models import Consent, Subscriber

    def prepare() -> Any:
        subscribers.add(store, "ana@example.org", list="weekly", consent="by letter")
        return wish(store)

    def leave(row: Any) -> None:
        person = subscribers.find(store, "ana@example.org")
        assert person
        subscribers.unsubscribe(person, how="page")

    def left() -> None:
        last = Consent.objects.latest("pk")
        assert states() == {"weekly": "unsubscribed" if last.kind == "unsubscribe" else "subscribed"}

    _between(store, prepare, leave, left)

    def add(row: Any) -> None:
        subscribers.add(store, "ana@example.org", list="weekly")

    def added() -> None:
        assert Subscriber.objects.count() == 1
        assert states() == {"weekly": "subscribed"}

    _between(store, lambda: wish(store), add, added)


def test_a_complaint_at_that_moment_is_not_lifted(store: Config) -> None:
    from newsletter.store import subscribers
    from newsletter.store.models import Suppression

    def prepare() -> Any:
        subscribers.suppress(store, "ana@example.org", reason="bounce")
        return wish(store)

    def check() -> None:
        assert Suppression.objects.get().reason == "complaint"

    _between(store, prepare, lambda row: subscribers.suppress(store, "ana@example.org", reason="complaint"), check)


@pytest.mark.parametrize("known", [False, True])
def test_who_is_erased_at_that_moment_is_gone(store: Config, known: bool) -> None:
    from newsletter.store import subscribers
    from newsletter.store.models import Subscriber, Suppression, Wish

    def prepare() -> Any:
        if known:
            subscribers.add(store, "ana@example.org", list="weekly", consent="by letter")
        return wish(store)

    def check() -> None:
        assert not Subscriber.objects.exists()
        assert not Wish.objects.exists()
        assert states() == {}
        assert Suppression.objects.get().reason == "erased"

    _between(store, prepare, lambda row: subscribers.erase(store, "ana@example.org"), check)
