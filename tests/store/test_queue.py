"""Procrastinate's tables and our jobs in them: made, rung for, mended."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from audience import add_people, edition, editions
from conftest import CLUSTER_YAML, SECRETS
from databases import PostgreSQL
from newsletter.config import Config, load_config
from newsletter.errors import ConfigError, SchemaMismatch
from newsletter.settings import configure


def jobs() -> list[tuple[str, dict[str, int], str]]:
    """(task, arguments, status) of each job, oldest first."""
    import json

    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT task_name, args::text, status::text FROM procrastinate_jobs ORDER BY id")
        return [(task, json.loads(arguments), status) for task, arguments, status in cursor.fetchall()]


def sql(statement: str, *values: str | int | None) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement, values)


def opened(config: Config, people: int = 4) -> int:
    from newsletter.store import mailings

    list_id = add_people(config, range(1, people + 1))
    return mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="memory"
    ).mailing


def posted(number: int) -> None:
    from newsletter.store import mailings

    mailings.post(
        edition(key="confirm", kind="transactional"),
        key=f"confirm:1:{number}",
        address="new@example.org",
        address_key=b"n" * 16,
        slots={},
        provider="memory",
    )


# --- the tables ---


def test_the_tables_are_made_once_and_told_about(
    workspace: Path, postgresql: PostgreSQL, empty_postgresql: str
) -> None:
    (workspace / "newsletter.yaml").write_text(CLUSTER_YAML, "utf-8")
    config = load_config(workspace, {**SECRETS, "DATABASE_URL": postgresql.new_database(empty_postgresql)})
    configure(config)
    from newsletter.store import queue, schema

    with pytest.raises(SchemaMismatch, match="then type: newsletter migrate"):
        queue.check()
    assert queue.jobs(stalled_after=1) is None
    assert schema.migrate(config) == ["Procrastinate's tables"]
    queue.check()
    assert schema.migrate(config) == []
    assert queue.jobs(stalled_after=1) == {}


def test_a_later_version_of_procrastinate_has_the_rest_applied_and_no_more(cluster: Config) -> None:
    from newsletter.store import queue, schema

    sql("COMMENT ON TABLE procrastinate_jobs IS 'newsletter: 03.04.00_01_pre_add_retry_failed_job_procedure.sql'")
    assert queue.missing() == ["03.04.00_50_post_add_retry_failed_job_procedure.sql"]
    with pytest.raises(SchemaMismatch, match="newsletter migrate"):
        queue.check()
    assert schema.migrate(cluster) == ["Procrastinate's tables"]
    queue.check()


def test_tables_of_another_program_or_a_newer_version_are_left_alone(cluster: Config) -> None:
    from newsletter.store import queue, schema

    sql("COMMENT ON TABLE procrastinate_jobs IS 'newsletter: 99.00.00_01_later.sql'")
    with pytest.raises(SchemaMismatch, match=r"newer Procrastinate \(99"):
        queue.check()
    sql("COMMENT ON TABLE procrastinate_jobs IS NULL")
    with pytest.raises(SchemaMismatch, match="another program"):
        schema.migrate(cluster)


def test_without_the_package_the_next_step_is_said(cluster: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import queue

    monkeypatch.setattr(queue, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'newsletter\[postgres\]'"):
        queue.check()


def test_the_installed_procrastinate_has_what_our_sql_was_written_for(cluster: Config) -> None:
    """When this fails, read Procrastinate's changelog, then look over store/doorbell.py and store/queue.py."""
    from django.db import connection

    wanted = ("procrastinate_defer_jobs_v1", "procrastinate_retry_job_v2", "procrastinate_finish_job_v1")
    with connection.cursor() as cursor:
        cursor.execute("SELECT obj_description('procrastinate_jobs'::regclass, 'pg_class')")
        assert cursor.fetchone()[0] == "newsletter: 03.04.00_50_post_add_retry_failed_job_procedure.sql"
        cursor.execute(
            "SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid) FROM pg_proc"
            " WHERE proname = ANY(%s)",
            ([*wanted],),
        )
        found = {name: (arguments, result) for name, arguments, result in cursor.fetchall()}
        cursor.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'procrastinate_job_to_defer_v1'::regclass AND attnum > 0"
            " ORDER BY attnum"
        )
        fields = [name for (name,) in cursor.fetchall()]
    assert found == {
        "procrastinate_defer_jobs_v1": ("jobs procrastinate_job_to_defer_v1[]", "bigint[]"),
        "procrastinate_retry_job_v2": (
            "job_id bigint, retry_at timestamp with time zone, new_priority integer, new_queue_name character varying,"
            " new_lock character varying",
            "void",
        ),
        "procrastinate_finish_job_v1": (
            "job_id bigint, end_status procrastinate_job_status, delete_job boolean",
            "void",
        ),
    }
    assert fields == ["queue_name", "task_name", "priority", "lock", "queueing_lock", "args", "scheduled_at"]


def test_a_backup_holds_nothing_of_the_queue(cluster: Config) -> None:
    from newsletter.store import backup

    opened(cluster)
    done = backup.back_up(cluster, cluster.root / "b.tar.gz", tell=lambda line: None)
    with tarfile.open(done.path) as archive:
        names = archive.getnames()
    assert any("mailing" in name for name in names)
    assert not any("procrastinate" in name for name in names)


# --- the doorbell ---


def test_a_job_is_there_if_and_only_if_its_cause_is_committed(cluster: Config) -> None:
    from django.db import transaction

    with transaction.atomic():
        opened(cluster)
        assert len(jobs()) == 1
        transaction.set_rollback(True)
    assert jobs() == []
    mailing = opened(cluster)
    assert jobs() == [("write_down", {"mailing": mailing}, "todo")]


def test_a_mailing_that_is_under_way_already_rings_for_nothing(cluster: Config) -> None:
    mailing = opened(cluster)
    from newsletter.store import mailings

    joined = mailings.open_mailing(editions(), issue="2017-11-19", list=1, default_language="en", provider="memory")
    assert (joined.mailing, joined.joined, len(jobs())) == (mailing, True, 1)


def test_a_hundred_single_mails_need_one_wake(cluster: Config) -> None:
    for number in range(100):
        posted(number)
    posted(1)  # the same once more
    assert jobs() == [("wake", {}, "todo")]


def test_whoever_resumes_rings_for_what_is_next(cluster: Config) -> None:
    from newsletter.store import mailings

    mailing = opened(cluster)
    sql("DELETE FROM procrastinate_jobs")
    mailings.pause(mailing, "by hand")
    mailings.resume(mailing)
    assert jobs() == [("write_down", {"mailing": mailing}, "todo")]
    while mailings.write_down(mailing):
        pass
    mailings.pause(mailing, "by hand")
    mailings.resume(mailing)
    assert jobs()[1:] == [("wake", {}, "todo")]


def test_a_doubt_that_is_sent_again_wakes_the_lanes(cluster: Config) -> None:
    import time

    from newsletter.store import mailings, models

    mailing = opened(cluster)
    while mailings.write_down(mailing):
        pass
    sql("DELETE FROM procrastinate_jobs")
    first = models.Delivery.objects.values_list("pk", flat=True)[0]
    models.Delivery.objects.filter(pk=first).update(state="in_doubt", at=1.0)
    assert mailings.resolve(mailing, again=True, now=time.time()) == 1
    assert jobs() == [("wake", {}, "todo")]


def test_nobody_is_rung_for_with_the_local_engine(store: Config) -> None:
    from django.db import connection

    from newsletter.store import mailings, queue

    mailing = opened(store)
    posted(1)
    mailings.pause(mailing, "by hand")
    mailings.resume(mailing)
    assert queue.jobs(stalled_after=1) is None
    assert "procrastinate_jobs" not in connection.introspection.table_names()


def test_before_the_tables_are_made_a_ring_is_no_error(
    workspace: Path, postgresql: PostgreSQL, empty_postgresql: str
) -> None:
    from conftest import cluster_workspace

    config = cluster_workspace(workspace, postgresql.new_database(empty_postgresql))
    assert opened(config) == 1


def test_no_ring_waits_for_another_transaction(cluster: Config) -> None:
    """Two sign-ups at once: the second must not wait for the first to commit."""
    import psycopg

    from newsletter.store.doorbell import ring

    sql("SET statement_timeout = '5s'")
    with psycopg.connect(cluster.database_url) as other:
        other.execute(
            "SELECT procrastinate_defer_jobs_v1(ARRAY[ROW('newsletter', 'wake', 20, NULL, NULL, '{}'::jsonb, NULL)"
            "::procrastinate_job_to_defer_v1])"
        )
        ring("wake")
        ring("write_down", mailing=1)
    assert [task for task, _, _ in jobs()] == ["wake", "wake", "write_down"]


# --- stalled and old jobs ---


def worker(silent_for: float) -> int:
    """A worker of Procrastinate that was heard of so many seconds ago."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - make_interval(secs => %s))"
            " RETURNING id",
            (silent_for,),
        )
        return int(cursor.fetchone()[0])


def job(
    task: str, *, by: int | None, lock: str | None = None, status: str = "doing", queue: str = "newsletter"
) -> None:
    sql(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, status, worker_id)"
        " VALUES (%s, %s, %s, %s, %s)",
        *(queue, task, lock, status, by),
    )


def test_jobs_of_silent_and_vanished_workers_are_given_to_others_and_no_more(cluster: Config) -> None:
    from newsletter.store import queue

    alive, dead = worker(1), worker(100)
    job("a", by=alive)
    job("b", by=dead)
    job("c", by=None)
    job("d", by=dead, queue="of another program")
    counted = queue.jobs(stalled_after=20)
    assert counted is not None
    assert {task: each.stalled for task, each in counted.items()} == {"a": 0, "b": 1, "c": 1}
    assert queue.retry_stalled(20) == 2
    states = {task: status for task, _, status in jobs()}
    assert states == {"a": "doing", "b": "todo", "c": "todo", "d": "doing"}
    assert queue.retry_stalled(20) == 0


def test_a_stalled_job_whose_twin_waits_already_is_dropped(cluster: Config) -> None:
    """Else it could never be retried: the queueing lock allows one that waits."""
    from newsletter.store import queue

    job("finish", by=worker(100), lock="finish")
    job("finish", by=None, lock="finish", status="todo")
    assert queue.retry_stalled(20) == 1
    assert jobs() == [("finish", {}, "todo")]


def test_jobs_that_failed_are_kept_for_a_while(cluster: Config) -> None:
    from newsletter.store import queue

    for task in ("old", "young"):
        job(task, by=None, status="todo")
        sql("UPDATE procrastinate_jobs SET status = 'doing' WHERE task_name = %s", task)
        sql("UPDATE procrastinate_jobs SET status = 'failed' WHERE task_name = %s", task)
    job("waiting", by=None, status="todo")
    sql(
        "UPDATE procrastinate_events SET at = now() - interval '9 days' WHERE job_id IN"
        " (SELECT id FROM procrastinate_jobs WHERE task_name IN ('old', 'waiting'))"
    )
    assert queue.forget_old() == 1
    assert [task for task, _, _ in jobs()] == ["young", "waiting"]
