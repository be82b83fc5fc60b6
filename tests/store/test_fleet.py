"""The workers' rows, on both databases."""

from __future__ import annotations

import threading
import time

from audience import add_people, as_ways, editions
from newsletter.config import Config
from newsletter.providers import Limits
from newsletter.providers.memory import Fault, Memory

NOW = 1_795_000_000.0


def said(owner: str, *, at: float = NOW, state: str = "working", answered: int = 0) -> None:
    from newsletter.store import fleet

    fleet.check_in(
        owner, engine="local", state=state, started_at=NOW - 100, now=at, answered=answered, health={"smtp": {}}
    )


def opened(config: Config, people: int = 20) -> int:
    from newsletter.store import mailings

    list_id = add_people(config, range(1, people + 1))
    return mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="memory"
    ).mailing


def test_a_worker_has_one_row_that_tells_the_last_it_said(store: Config) -> None:
    from newsletter.store import fleet

    said("a:1")
    said("b:2", at=NOW + 2)
    said("a:1", at=NOW + 5, state="stopping", answered=7)
    rows = [each.row for each in fleet.members(NOW + 6)]
    assert [(row.owner, row.state, row.answered, row.seen_at) for row in rows] == [
        ("a:1", "stopping", 7, NOW + 5),
        ("b:2", "working", 0, NOW + 2),
    ]
    fleet.check_out("a:1")
    assert [each.row.owner for each in fleet.members(NOW + 6)] == ["b:2"]


def test_a_worker_falls_silent_after_a_minute_and_is_forgotten_after_a_day(store: Config) -> None:
    from newsletter.store import fleet

    said("a:1")
    assert [each.silent for each in fleet.members(NOW + 60)] == [False]
    assert [each.silent for each in fleet.members(NOW + 61)] == [True]
    assert fleet.members(NOW + 86_401) == []
    said("b:2", at=NOW + 86_400)
    assert fleet.forget(NOW + 86_401) == 1
    assert [each.row.owner for each in fleet.members(NOW + 86_401)] == ["b:2"]


def test_batches_are_counted_by_who_has_them_and_when_they_are_due(store: Config) -> None:
    from newsletter.store import fleet, ledger, mailings, models

    mailing = opened(store)
    while mailings.write_down(mailing):
        pass
    assert fleet.batches(NOW) == fleet.Batches(due=2, leased=0, overdue=0, later=0)
    said("a:1")
    assert ledger.claim(owner="a:1", lease=60, now=NOW) is not None
    assert [each.in_hand for each in fleet.members(NOW)] == [1]
    assert fleet.batches(NOW) == fleet.Batches(due=1, leased=1, overdue=0, later=0)
    models.Batch.objects.filter(state="ready").update(not_before=NOW + 10)
    assert fleet.batches(NOW + 5) == fleet.Batches(due=0, leased=1, overdue=0, later=1)
    assert fleet.batches(NOW + 61) == fleet.Batches(due=1, leased=1, overdue=1, later=0)
    mailings.pause(mailing, "by hand")
    assert fleet.batches(NOW + 61) == fleet.Batches(due=0, leased=1, overdue=1, later=0)


def test_a_worker_says_that_it_is_there_what_it_did_and_at_the_end_that_it_left(store: Config) -> None:
    from newsletter.engine import run
    from newsletter.store import fleet, mailings, schema

    if not store.database_url:
        schema.prepare(store)
    mailing = opened(store)
    seen: list[tuple[str, str]] = []

    def until() -> bool:
        seen.extend((each.row.engine, each.row.state) for each in fleet.members(time.time()))
        return mailings.find(mailing).state == "finished"

    stopping: list[str] = []

    def slow() -> None:
        """The last message is still on its way when everything stops."""
        from django.db import connection

        stop.set()
        for _ in range(500):
            stopping[:] = [each.row.state for each in fleet.members(time.time())]
            if stopping == ["stopping"]:
                break
            time.sleep(0.01)
        connection.close()

    stop = threading.Event()
    provider = Memory(faults={20: Fault(at="taken", do=slow)}, limits=Limits(chunk=20, lanes=1))
    run(store, as_ways(provider, "memory"), stop=stop, until=until)
    assert set(seen) == {("local", "working")}
    assert stopping == ["stopping"]
    assert fleet.members(time.time()) == []
