"""Writes of many threads in one transaction: each result belongs to its act, none is lost, none is written twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config


class Threads:
    """Threads that close their connections when they end."""

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(most)

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def start(self, work: Callable[[], Any]) -> Future[Any]:
        return self._pool.submit(self._run, work)

    def _run(self, work: Callable[[], Any]) -> Any:
        from django.db import connection

        try:
            return work()
        finally:
            connection.close()


def write(name: str, value: str = "") -> str:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO fact (name, value) VALUES (%s, %s)", (name, value))
    return name


def written() -> set[str]:
    from newsletter.store.models import Fact

    return set(Fact.objects.filter(name__startswith="t").values_list("name", flat=True))


@contextmanager
def held_up() -> Iterator[None]:
    """Nobody else writes until this ends: what comes meanwhile is one batch."""
    from django.db import connection, transaction

    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE fact IN EXCLUSIVE MODE")
        yield


def queue_up(threads: Threads, writers: Any, acts: list[Callable[[], Any]]) -> list[Future[Any]]:
    """Each act in a thread of its own, waiting in this order. The first of them leads."""
    futures = []
    for waiting, act in enumerate(acts):
        futures.append(threads.start(partial(writers.run, act)))
        while not writers._led or len(writers._queue) < waiting:
            threading.Event().wait(0.001)
    return futures


def outcome(future: Future[Any]) -> Any:
    error = future.exception(60)
    return type(error) if error is not None else future.result()


@pytest.fixture
def writers(store: Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    from newsletter.store import together

    monkeypatch.setattr(together, "LONGEST", 60.0)  # a batch is whole, however slow this machine is
    return together._Writers()


def test_who_waits_is_written_for_by_the_first_of_them_in_one_transaction(writers: Any) -> None:
    def act(number: int) -> Callable[[], tuple[str, int]]:
        return lambda: (write(f"t{number}"), threading.get_ident())

    with Threads(40) as threads:
        with held_up():
            futures = queue_up(threads, writers, [act(number) for number in range(30)])
        results = [outcome(future) for future in futures]
    assert [name for name, _ in results] == [f"t{number}" for number in range(30)]
    assert len({thread for _, thread in results}) == 1
    assert written() == {*(f"t{number}" for number in range(30))}


def test_only_the_act_that_raises_fails_and_leaves_nothing(writers: Any) -> None:
    from django.db import IntegrityError

    def wrong() -> None:
        write("t-wrong")
        raise ValueError("wrong")

    acts: list[Callable[[], Any]] = [lambda: write("t1"), wrong, lambda: write("t1"), lambda: write("t2")]
    with Threads(8) as threads:
        with held_up():
            futures = queue_up(threads, writers, acts)
        assert [outcome(future) for future in futures] == ["t1", ValueError, IntegrityError, "t2"]
    assert written() == {"t1", "t2"}


def test_the_act_that_leads_may_be_the_one_that_raises(writers: Any) -> None:
    def wrong() -> None:
        raise LookupError

    with Threads(8) as threads:
        with held_up():
            futures = queue_up(threads, writers, [wrong, lambda: write("t1"), wrong, lambda: write("t2")])
        assert [outcome(future) for future in futures] == [LookupError, "t1", LookupError, "t2"]
    assert written() == {"t1", "t2"}


def test_a_constraint_that_is_checked_at_the_end_fails_only_whose_it_is(writers: Any) -> None:
    from django.db import IntegrityError, connection

    def orphan() -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO edition (mailing_id, language, hash, content) VALUES (987654, 'en', '', '')")

    with Threads(8) as threads:
        with held_up():
            futures = queue_up(threads, writers, [lambda: write("t1"), orphan, lambda: write("t2")])
        assert [outcome(future) for future in futures] == ["t1", IntegrityError, "t2"]
    assert written() == {"t1", "t2"}


def test_an_interrupted_thread_leaves_the_others_their_turn(writers: Any) -> None:
    def interrupted() -> None:
        write("t-interrupted")
        raise KeyboardInterrupt

    with Threads(8) as threads:
        with held_up():
            futures = queue_up(threads, writers, [interrupted, lambda: write("t1"), lambda: write("t2")])
        assert [outcome(future) for future in futures] == [KeyboardInterrupt, "t1", "t2"]
    assert written() == {"t1", "t2"}
    assert writers.run(lambda: write("t3")) == "t3"


def test_a_fault_of_the_database_is_told_to_all_whom_it_met(writers: Any) -> None:
    from django.db import OperationalError, connection

    def broken() -> None:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            else:
                cursor.execute("PRAGMA query_only = ON")
                write("t-refused")

    with Threads(8) as threads:
        with held_up():
            futures = queue_up(threads, writers, [lambda: write("t1"), broken, lambda: write("t2")])
        errors = [future.exception(60) for future in futures]
    assert [type(error) for error in errors] == [OperationalError, OperationalError, type(None)]
    assert errors[0] is not errors[1]  # to raise one writes to it
    assert written() == {"t2"}  # it came after the fault
    assert writers.run(lambda: write("t3")) == "t3"


def test_inside_a_transaction_it_is_just_called(store: Config) -> None:
    from django.db import transaction

    from newsletter.store.together import together

    with transaction.atomic():
        assert together(lambda: together(lambda: write("t1"))) == "t1"
        transaction.set_rollback(True)
    assert written() == set()


def test_what_has_returned_is_seen_by_every_other_connection(store: Config) -> None:
    from newsletter.store.together import together

    def work(number: int) -> bool:
        name = together(lambda: write(f"t{number}"))
        return name in written()

    with Threads(16) as threads:
        assert all(future.result(60) for future in [threads.start(partial(work, n)) for n in range(64)])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(["writes", "raises", "doubles", "nests"]), min_size=1, max_size=120))
def test_no_act_is_lost_none_is_written_twice_and_each_result_is_its_own(store: Config, kinds: list[str]) -> None:
    from django.db import IntegrityError, transaction

    from newsletter.store.models import Fact
    from newsletter.store.together import together

    Fact.objects.filter(name__startswith="t").delete()
    write("t-there")

    def act(number: int, kind: str) -> Any:
        if kind == "nests":
            with transaction.atomic():
                write(f"t{number}")
            return number
        write(f"t{number}")
        if kind == "raises":
            raise ValueError(number)
        if kind == "doubles":
            write("t-there")
        return number

    with Threads(32) as threads:
        futures = [threads.start(partial(together, partial(act, number, kind))) for number, kind in enumerate(kinds)]
        for number, (kind, future) in enumerate(zip(kinds, futures, strict=True)):
            error = future.exception(60)
            if kind == "raises":
                assert isinstance(error, ValueError)
                assert error.args == (number,)
            elif kind == "doubles":
                assert isinstance(error, IntegrityError)
            else:
                assert future.result() == number
    kept = {f"t{number}" for number, kind in enumerate(kinds) if kind in ("writes", "nests")}
    assert written() == {"t-there", *kept}


def test_the_victim_of_a_deadlock_is_tried_again(store: Config) -> None:
    """Two processes' batches that lock two rows in different orders, on PostgreSQL. SQLite has one writer."""
    from django.db import connection

    from newsletter.store.together import _Writers

    write("t1", "0")
    write("t2", "0")
    if connection.vendor == "sqlite":
        return
    both = threading.Barrier(2)

    def act(first: str, second: str) -> Callable[[], None]:
        tries = iter((True, False))

        def add() -> None:
            with connection.cursor() as cursor:
                for place, name in enumerate((first, second)):
                    if place and next(tries, False):
                        both.wait(30)
                    cursor.execute("UPDATE fact SET value = value::int + 1 WHERE name = %s", (name,))

        return add

    with Threads(2) as threads:
        futures = [threads.start(partial(_Writers().run, act(*names))) for names in (("t1", "t2"), ("t2", "t1"))]
        assert [outcome(future) for future in futures] == [None, None]
    with connection.cursor() as cursor:
        cursor.execute("SELECT value FROM fact WHERE name IN ('t1', 't2')")
        assert cursor.fetchall() == [("2",), ("2",)]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_process_waits_for_no_thread_of_its_parent(store: Config) -> None:
    from django.db import connection

    from newsletter.store import together

    begun, go = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(30)

    connection.close()  # no file of it goes over into the child
    with Threads(1) as threads:
        leads = threads.start(lambda: together.together(slow))
        assert begun.wait(30)
        child = os.fork()
        if child == 0:
            together._Writers._lead = lambda self, mine: mine.end(result=7)  # type: ignore[method-assign]
            os._exit(0 if together.together(lambda: 7) == 7 else 1)
        _, status = os.waitpid(child, 0)
        go.set()
        assert leads.result(60) is None
    assert status == 0
