"""The database made ready: its tables as this program knows them, or the reason why not and the next step.

An SQLite file belongs to one workspace and is migrated by whoever opens it first, after a copy. A PostgreSQL database
may have workers on several machines, so somebody says when: `newsletter migrate`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from django.apps import apps
from django.db import DatabaseError, Error, OperationalError, ProgrammingError, connection

from newsletter import __version__
from newsletter.config import Config
from newsletter.errors import DatabaseDown, SchemaMismatch
from newsletter.store import queue
from newsletter.store.archive import size
from newsletter.store.models import Fact

COPIES = 3  # of the file as it was before a migration
LOCK_WAIT = 60.0  # seconds to wait for another process that migrates
_ADVISORY_LOCK = 0x6E657773  # any number that is always the same
_OLDEST_SQLITE = (3, 35)  # the first with RETURNING

Tell = Callable[[str], None]
"""Takes one line that says what is being done and may take long."""


def _silent(_: str) -> None:
    pass


@lru_cache(maxsize=1)
def migrations() -> tuple[str, ...]:
    """The names of this program's migrations, oldest first."""
    folder = Path(__file__).parent / "migrations"
    return tuple(sorted(path.stem for path in folder.glob("[0-9]*.py")))


def prepare(config: Config, *, tell: Tell = _silent, copy: bool = True) -> None:
    """Sees to it that the database has the tables of this program; to be called after `settings.configure`.

    One query when it has. An SQLite file is made or migrated here, with a copy of it beside (without `copy`: none).
    Raises `SchemaMismatch` for a database that is newer or another program's, and for a PostgreSQL database that is
    older; `DatabaseDown` when it cannot be reached, read or written.
    """
    with explained():
        missing = _missing(config)
        if missing:
            if connection.vendor == "postgresql":
                raise SchemaMismatch(_to_be_migrated(missing))
            _migrate_file(config, tell, copy=copy)


def migrate(config: Config, *, tell: Tell = _silent) -> list[str]:
    """Brings the database to this program's tables: the names of the migrations that were applied, perhaps none.

    On PostgreSQL under a lock that a second `migrate` waits for; with `engine: cluster` Procrastinate's tables too.
    Raises what `prepare` raises, and `ConfigError` when Procrastinate is not installed.
    """
    with explained():
        if connection.vendor == "sqlite":
            return _migrate_file(config, tell) if _missing(config) else []
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [_ADVISORY_LOCK])
            try:
                missing = _missing(config)
                jobs = queue.missing() if config.engine == "cluster" else []
                if missing:
                    tell(f"migrating {database_name()}: {', '.join(missing)}")
                    apply()
                if jobs:
                    tell(f"migrating Procrastinate's tables in {database_name()}, up to {jobs[-1]}")
                    with _failures_explained():
                        queue.migrate(jobs)
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_ADVISORY_LOCK])
    return [*missing, *(["Procrastinate's tables"] if jobs else [])]


def store_id() -> str:
    """The name of this database, 32 hexadecimal digits: made once, kept by copies and backups."""
    fact, _ = Fact.objects.get_or_create(name="id", defaults={"value": token_hex(16)})
    return str(fact.value)


def database_name() -> str:
    """How messages name the database that Django is configured for: never with a password."""
    settings = connection.settings_dict
    if connection.vendor == "sqlite":
        path = Path(settings["NAME"])
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    host = settings["HOST"] or settings["OPTIONS"].get("host", "")
    return f"PostgreSQL database {settings['NAME']}{f' at {host}' if host else ''}"


def _missing(config: Config) -> list[str]:
    """The migrations that the database has not had, oldest first."""
    known, had = migrations(), applied(config)
    return [name for name in known if had is None or name not in had]


def applied(config: Config) -> set[str] | None:
    """The migrations that the database has had; None when it is not there or has no tables yet.

    Raises `SchemaMismatch` when there are some that this program does not know, or tables of another program.
    """
    if connection.vendor == "sqlite":
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise DatabaseDown(
                f"this Python comes with SQLite {sqlite3.sqlite_version}; 3.35 is the oldest that will do: install a "
                "newer Python, or use PostgreSQL (DATABASE_URL)"
            )
        try:
            empty = config.database.stat().st_size == 0
        except (FileNotFoundError, NotADirectoryError):
            empty = True
        except OSError as error:
            raise _unusable(config.database, error) from error
        if empty:  # asked first: to connect would make the file
            return None
    with connection.cursor() as cursor:
        names = _migrations_had(cursor)
        if newer := sorted(names.difference(migrations())):
            raise SchemaMismatch(_too_new(config, newer))
        if names:
            return names
        tables = set(connection.introspection.table_names(cursor)) - {"django_migrations"}
    # A PostgreSQL database may be shared with another program; our file is ours alone.
    file = connection.vendor == "sqlite"
    if foreign := tables if file else tables.intersection(our_tables()):
        step = "move that file away" if file else "make a database for the newsletter alone and name it in DATABASE_URL"
        names_shown = ", ".join(sorted(foreign)[:5])
        raise SchemaMismatch(f"{database_name()} has tables of another program ({names_shown}): {step}")
    return None


def _migrations_had(cursor: Any) -> set[str]:
    try:
        cursor.execute("SELECT name FROM django_migrations WHERE app = 'store'")
        return {name for (name,) in cursor.fetchall()}
    except (OperationalError, ProgrammingError):
        if "django_migrations" in connection.introspection.table_names(cursor):  # raises, if the database is at fault
            raise
        return set()


def our_tables() -> list[str]:
    """The names of the store's tables."""
    models = apps.get_app_config("store").get_models(include_auto_created=True)
    return [model._meta.db_table for model in models]  # noqa: SLF001 - Django's documented API


# --- an SQLite file ---------------------------------------------------------------------------------------------------


def _migrate_file(config: Config, tell: Tell, *, copy: bool = True) -> list[str]:
    path = config.database
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, tell):
            missing = _missing(config)  # asked again: whoever held the lock may have done it
            if not missing:
                return []
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            if copy and path.stat().st_size and len(missing) < len(migrations()):
                tell(f"migrating {database_name()} ({', '.join(missing)}), after a copy of {size(path.stat().st_size)}")
                tell(f"the copy: {_copy(path, missing[0])}")
            apply()
    except OSError as error:
        if isinstance(error, DatabaseDown):
            raise
        raise _unusable(path, error) from error
    return missing


def apply(target: str | None = None) -> None:
    """Applies the migrations up to `target` (default: all), and names the database.

    Raises `SchemaMismatch` for one that fails, `DatabaseDown` for rights that lack.
    """
    from django.core.management import call_command  # here: most runs have nothing to migrate

    with _failures_explained():
        call_command("migrate", *([] if target is None else ["store", target]), verbosity=0, interactive=False)
    store_id()


@contextmanager
def _failures_explained() -> Iterator[None]:
    try:
        yield
    except (OperationalError, DatabaseDown):
        raise
    except Error as error:
        reason = _one_line(error)
        if "permission denied" in reason:
            raise DatabaseDown(
                f"{database_name()}: {reason}; let its user make tables: GRANT ALL ON SCHEMA public TO …, or make it "
                "the owner of the database"
            ) from error
        raise SchemaMismatch(
            f"{database_name()}: a migration failed, and nothing of it was kept: {reason}. Go back to the version of "
            "newsletter that you had, and report this"
        ) from error


@contextmanager
def locked(path: Path, tell: Tell = _silent, *, wait: float | None = None) -> Iterator[None]:
    """Holds the lock of an SQLite file, `<path>.lock`, which whoever migrates or replaces the file holds.

    Raises `DatabaseDown` when another process has not let go of it after `wait` seconds.
    """
    wait = LOCK_WAIT if wait is None else wait
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DatabaseDown(
                        f"{path}: another process has been migrating or restoring it for over {wait:.0f} s; wait for "
                        "it to end, or stop it, then run again"
                    ) from None
            if not told:
                tell(f"waiting for another process that migrates {path.name}")
                told = True
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _copy(path: Path, migration: str) -> Path:
    """A consistent copy of the file as it is, beside it under a dated name; the oldest beyond `COPIES` are removed."""
    parts = (path, Path(f"{path}-wal"))
    needed, free = sum(each.stat().st_size for each in parts if each.exists()), shutil.disk_usage(path.parent).free
    if free < needed:
        raise DatabaseDown(
            f"{path.parent}: before a migration the database is copied, which takes {size(needed)}, and {size(free)} "
            "are free: free some space, then run again"
        )
    copy = path.with_name(f"{path.name}.before-{migration}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    snapshot(copy)
    copies = sorted(path.parent.glob(f"{path.name}.before-*Z"), key=lambda each: each.name[-16:])
    for old in copies[:-COPIES]:
        old.unlink(missing_ok=True)
    return copy


def snapshot(target: Path) -> None:
    """A whole and consistent copy of the SQLite database at `target`, synced, for its owner only.

    Readers and writers are not held up. Raises what SQLite raises, `explained`, or `OSError`; then nothing is left.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        with connection.cursor() as cursor:
            cursor.execute("VACUUM INTO %s", [str(draft)])  # into an empty file: its mode is ours
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


# --- what messages say ------------------------------------------------------------------------------------------------


def _to_be_migrated(missing: list[str]) -> str:
    if len(missing) == len(migrations()):
        return f"{database_name()} is empty; make its tables: newsletter migrate"
    return (
        f"{database_name()} is older than this program (it lacks {', '.join(missing)}). Stop every worker, "
        "make a backup (newsletter backup FILE), then type: newsletter migrate"
    )


def _unusable(path: Path, error: OSError) -> DatabaseDown:
    return DatabaseDown(
        f"{error.filename or path}: {error.strerror or error}; the database needs a folder that this user may write "
        "to, on a disk with room"
    )


def _too_new(config: Config, newer: list[str]) -> str:
    message = (
        f"{database_name()} was made by a newer version of newsletter: it has {', '.join(newer)}, which this one "
        f"({__version__}) does not know. Install that version again"
    )
    path = config.database
    copies = sorted(path.parent.glob(f"{path.name}.before-{newer[0]}-*Z")) if connection.vendor == "sqlite" else []
    if copies:
        message += f"; or go back, and lose what came since, by putting {copies[-1].name} in the file's place"
    return message


@contextmanager
def explained() -> Iterator[None]:
    """Turns errors of the database that are nobody's fault in here into `DatabaseDown` with the next step."""
    try:
        yield
    except Error as error:
        if down := database_down(error):
            raise down from error
        raise


def database_down(error: BaseException) -> DatabaseDown | None:
    """What to tell when Django raised this: None for other errors, and for a mistake in the program (a constraint,
    wrong SQL)."""
    if not isinstance(error, Error):
        return None
    reason = _one_line(error)
    sqlite = connection.vendor == "sqlite"
    for words, step in (_SQLITE_STEPS if sqlite else _POSTGRESQL_STEPS).items():
        if any(word in reason for word in words):
            return DatabaseDown(f"{database_name()}: {reason}; {step}")
    if isinstance(error, OperationalError) or type(error) in (DatabaseError, Error) or "connection" in reason:
        return DatabaseDown(f"{database_name()}: {reason}; nothing was changed by this; try again")
    return None


_SQLITE_STEPS = {
    ("not a database", "malformed", "file is encrypted"): (
        "the file is damaged, or no database of ours: bring a backup back (newsletter restore FILE --replace), or put "
        "a copy in its place (newsletter.sqlite3.before-…, beside it)"
    ),
    ("disk is full",): "free some space, then run again",
    ("unable to open", "readonly"): "this user must be able to read and write the file and its folder",
    ("locked",): "another process has been writing to it for long: see whether one hangs, then run again",
    ("disk I/O error",): "look at the disk (and do not keep the file on a network drive), then run again",
}
_POSTGRESQL_STEPS = {
    ("authentication", "no password supplied", "pg_hba.conf", "role "): "look at user and password in DATABASE_URL",
    ("connection option", "invalid sslmode", "invalid integer value"): "correct what follows the ? in DATABASE_URL",
    ("refused", "timeout", "translate host", "resolve", "No such file", "unreachable", "No route"): (
        "is the server running there, and reachable from here? See DATABASE_URL, then run again"
    ),
    ("No space left", "disk full", "could not extend"): "the server's disk is full: free some space, then run again",
    ("read-only transaction",): "this is a standby server: name the primary in DATABASE_URL",
    ("terminating connection", "server closed", "starting up", "shutting down", "connection is closed", "is lost"): (
        "the server went away: run again once it is back"
    ),
    ("too many clients", "remaining connection slots"): "it has no connection left: raise its max_connections",
    ("FATAL: database",): "make the database (createdb), or correct its name in DATABASE_URL",
}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def integrity(path: Path) -> str:
    """What SQLite finds wrong with the file at `path`, "" for nothing."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            (found,) = file.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        return _one_line(error)
    return "" if found == "ok" else str(found)
