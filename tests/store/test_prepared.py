"""Statements that PostgreSQL plans once: the same rows as without, also behind a pooler."""

from __future__ import annotations

import pytest

from newsletter.config import Config


@pytest.fixture(autouse=True)
def direct(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import prepared

    monkeypatch.setattr(prepared, "_pooled", False)


def forget() -> None:
    """What a pooler does between two transactions: the next connection knows no prepared statement."""
    from django.db import connection

    if connection.vendor == "postgresql":
        connection.connection.pgconn.exec_(b"DEALLOCATE ALL")


def known() -> list[str]:
    """The statements that this connection has prepared."""
    from django.db import connection

    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        return [statement for (statement,) in cursor.fetchall()]


def test_a_statement_is_prepared_once_and_others_are_not(store: Config) -> None:
    from django.db import connection

    from newsletter.store import models
    from newsletter.store.prepared import execute

    for number in range(3):
        assert execute("SELECT %s + 1", (number,)).fetchone() == (number + 1,)
        assert models.Fact.objects.filter(name=f"nothing {number}").count() == 0
    assert len(known()) == (connection.vendor == "postgresql")


def test_behind_a_pooler_nothing_is_lost_and_nothing_more_is_prepared(store: Config) -> None:
    from newsletter.store.prepared import execute

    for number in range(3):
        assert execute("SELECT %s + 1", (number,)).fetchone() == (number + 1,)
        forget()
    assert known() == []


def test_in_a_transaction_the_whole_of_it_begins_again(store: Config) -> None:
    from audience import add_people, editions
    from newsletter.store import leaving, mailings, models
    from newsletter.store.keys import keyring

    list_id = add_people(store, range(1, 4))
    opened = mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="memory"
    )
    while mailings.write_down(opened.mailing):
        pass
    ring = keyring(store)
    for id in models.Delivery.objects.values_list("pk", flat=True):
        found = leaving.find(ring, ring.token("unsubscribe", id))
        assert found is not None
        forget()
        assert leaving.leave(found, how="one-click") == (list_id,)
    assert models.Consent.objects.filter(kind="unsubscribe").count() == 3
    assert set(models.Subscription.objects.values_list("state", flat=True)) == {"unsubscribed"}


def test_another_failure_is_shown_as_it_is(store: Config) -> None:
    from django.db import DatabaseError

    from newsletter.store.prepared import execute

    with pytest.raises(DatabaseError):
        execute("SELECT nothing FROM nowhere WHERE id = %s", (1,))
    assert execute("SELECT %s + 1", (1,)).fetchone() == (2,)
