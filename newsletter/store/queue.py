"""The jobs of `engine: cluster`: Procrastinate's tables, made by `newsletter migrate`, looked into, and mended.

Everything here goes over Django's own connection and without importing Procrastinate, so that it is part of our
transactions and works where only the database driver is installed. Made for the tables of Procrastinate 3.10 (its
migrations up to 03.04.00); tests/store/test_queue.py fails when another version brings others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from django.db import IntegrityError, connection, transaction

from newsletter.errors import ConfigError, Finding, SchemaMismatch

QUEUE = "newsletter"  # the name of our queue among those of the tables
KEPT = 7 * 24  # hours for which jobs that failed can be looked at; those that went well are deleted at once
_MARK = "newsletter: "  # begins the comment on their table that says how far it was migrated


# --- its tables -------------------------------------------------------------------------------------------------------


def missing() -> list[str]:
    """The SQL files of the installed Procrastinate that the database has not had, in their order.

    What it has had stands in a comment on the table itself, so that it comes and goes with the tables and no backup of
    ours carries it elsewhere. Raises `ConfigError` when Procrastinate is not installed, `SchemaMismatch` when the
    tables are another program's, or of a newer Procrastinate.
    """
    known = sorted(path.name for path in _folder().glob("*.sql"))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_regclass('procrastinate_jobs') IS NOT NULL,"
            " obj_description(to_regclass('procrastinate_jobs'), 'pg_class')"
        )
        there, comment = cursor.fetchone()
    if not there:
        return known
    if not (comment or "").startswith(_MARK):
        raise SchemaMismatch(
            "the database has tables of Procrastinate that another program made: make a database for the newsletter "
            "alone and name it in DATABASE_URL"
        )
    last = comment.removeprefix(_MARK)
    if last > known[-1]:
        raise SchemaMismatch(
            f"the database has the tables of a newer Procrastinate ({last}) than the one installed here "
            f"({known[-1]}): install on every machine the version that newsletter migrate was run with"
        )
    return [name for name in known if name > last]


def migrate(names: list[str]) -> None:
    """Runs these SQL files (`missing`), each in a transaction of its own. Raises what Django raises."""
    for name in names:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute((_folder() / name).read_text("utf-8"))
            cursor.execute("COMMENT ON TABLE procrastinate_jobs IS %s", [_MARK + name])


def check() -> None:
    """Whether a worker of the cluster can begin. Raises `ConfigError`, `SchemaMismatch` with the next step."""
    if lacks := missing():
        raise SchemaMismatch(
            f"engine: cluster keeps its jobs in tables of Procrastinate, and the database lacks {lacks[-1]}; stop "
            "every worker, then type: newsletter migrate"
        )


def _folder() -> Path:
    found = find_spec("procrastinate")
    if found is None or found.origin is None:
        message = "engine: cluster needs Procrastinate, which is not installed"
        help = "type: pip install 'newsletter[postgres]'; or leave `engine` out of newsletter.yaml"
        finding = Finding(code="config.procrastinate", severity="error", where=None, message=message, help=help)
        raise ConfigError([finding])
    return Path(found.origin).parent / "sql" / "migrations"


def _there() -> bool:
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('procrastinate_jobs') IS NOT NULL")
        return bool(cursor.fetchone()[0])


# --- jobs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """How many jobs of one kind there are. `stalled` are among those `doing`: their worker is gone."""

    waiting: int
    doing: int
    failed: int
    stalled: int


def jobs(*, stalled_after: float) -> dict[str, Jobs] | None:
    """The queue by kind of job; None without its tables. A worker unheard of for `stalled_after` seconds is gone."""
    if not _there():
        return None
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT task_name, count(*) FILTER (WHERE status = 'todo'), count(*) FILTER (WHERE status = 'doing'),"
            " count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'doing' AND"
            f" {_STALLED}) FROM procrastinate_jobs j LEFT JOIN procrastinate_workers w ON w.id = j.worker_id"
            " WHERE queue_name = %s GROUP BY task_name ORDER BY task_name",
            (stalled_after, QUEUE),
        )
        return {
            task: Jobs(waiting=waiting, doing=doing, failed=failed, stalled=stalled)
            for task, waiting, doing, failed, stalled in cursor.fetchall()
        }


_STALLED = "(w.id IS NULL OR w.last_heartbeat < now() - make_interval(secs => %s))"


def retry_stalled(after: float) -> int:
    """Gives the jobs of workers unheard of for `after` seconds to others; says how many there were.

    Procrastinate itself leaves them `doing` for ever. A job that waits a second time already (its queueing lock forbids
    two) is dropped, since the other one does the same. A worker that was only slow may finish the job as well: every
    job may run twice.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT j.id FROM procrastinate_jobs j LEFT JOIN procrastinate_workers w ON w.id = j.worker_id"
            f" WHERE j.status = 'doing' AND j.queue_name = %s AND {_STALLED}",
            (QUEUE, after),
        )
        found = [id for (id,) in cursor.fetchall()]
    for id in found:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM procrastinate_jobs WHERE id = %s AND status = 'doing' FOR UPDATE SKIP LOCKED", (id,)
            )
            if cursor.fetchone() is None:
                continue  # another worker was faster
            try:
                with transaction.atomic():
                    cursor.execute("SELECT procrastinate_retry_job_v2(%s, now(), NULL, NULL, NULL)", (id,))
            except IntegrityError:
                cursor.execute("SELECT procrastinate_finish_job_v1(%s, 'aborted', true)", (id,))
    return len(found)


def open_jobs(task: str) -> list[dict[str, int]]:
    """The arguments of the jobs of this kind that wait or are being done."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT args::text FROM procrastinate_jobs WHERE queue_name = %s AND task_name = %s"
            " AND status IN ('todo', 'doing')",
            (QUEUE, task),
        )
        return [json.loads(arguments) for (arguments,) in cursor.fetchall()]


def forget_old(hours: int = KEPT) -> int:
    """Deletes jobs that came to an end so long ago; says how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM procrastinate_jobs j WHERE queue_name = %s AND status NOT IN ('todo', 'doing')"
            " AND NOT EXISTS (SELECT 1 FROM procrastinate_events e WHERE e.job_id = j.id"
            " AND e.at > now() - make_interval(hours => %s))",
            (QUEUE, hours),
        )
        return int(cursor.rowcount)
