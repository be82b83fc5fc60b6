"""Backups of a workspace with its database and keys, and how they come back.

Restoring makes the whole new database ready first: beside the old file (SQLite), or in one transaction (PostgreSQL).
What was there is moved aside under a dated name, and only when all that can fail has not failed. A restored database
knows nothing of what was sent, or who left, since the backup: every mailing in it waits for a human.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management.color import no_style
from django.db import DataError, IntegrityError, connection, transaction
from django.db.models import Model

from newsletter.build import write_file
from newsletter.config import Config
from newsletter.errors import Finding, InputError, SchemaMismatch, Where
from newsletter.store import archive, keys, models, schema
from newsletter.store.archive import Unpacked
from newsletter.store.ledger import tally
from newsletter.store.mailings import UNDER_WAY

_PEOPLE = ("subscriber", "suppression", "consent", "mailing", "delivery")  # a database with rows in one is not empty
_FILE = "newsletter.sqlite3"


@dataclass(frozen=True, kw_only=True)
class BackedUp:
    path: Path
    size: int  # octets
    left_out: tuple[str, ...]  # files of the workspace that it does not hold, each with why


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore did. `aside`: where what was there before is now, each in words."""

    paused: tuple[int, ...]
    aside: tuple[str, ...]
    files: int


def back_up(config: Config, path: Path, *, tell: schema.Tell) -> BackedUp:
    """Writes the workspace's backup to `path`, or into the folder `path` under a dated name, and reads it back.

    The database is copied as it is at one moment; nobody who reads or writes it is held up. Raises `InputError` for a
    path that is taken, `WrongKey`, `SchemaMismatch`, `DatabaseDown`, `OSError`.
    """
    if path.is_dir():
        path = path / f"newsletter-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz"
    if path.exists():
        raise _refusal("taken", "is there already", "name another file; a backup never replaces one", path)
    if not path.parent.is_dir():
        raise _refusal("folder", "there is no such folder", "make it, or name another", path.parent)
    had = schema.applied(config)
    if had is None:
        schema.prepare(config, tell=tell)  # makes an empty file; says what to do about an empty PostgreSQL database
        had = schema.applied(config)
    keys.check_keys(config)
    files, left_out = archive.workspace_files(config)
    sources: dict[str, bytes | Path] = {f"workspace/{name}": content for name, content in files.items()}
    weight = archive.size(sum(map(len, files.values())))
    tell(f"workspace: {len(files)} files, {weight}")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        columns = _dump(Path(folder))
        tables = sorted(Path(folder).iterdir())
        sources |= {f"database/{each.name}": each for each in tables}
        weight = archive.size(sum(each.stat().st_size for each in tables))
        tell(f"database: {weight} of {schema.database_name()}")
        manifest = archive.new_manifest(
            kind=connection.vendor, migrations=tuple(sorted(had or ())), columns=columns, store=schema.store_id()
        )
        archive.write(path, sources, archive.secrets_of(config), manifest)
    archive.verify(path)
    return BackedUp(path=path, size=path.stat().st_size, left_out=tuple(left_out))


def _dump(folder: Path) -> dict[str, tuple[str, ...]]:
    """Writes the database into files of `folder`; the columns of each table, for PostgreSQL."""
    if connection.vendor == "sqlite":
        with schema.explained():
            schema.snapshot(folder / _FILE)
        return {}
    columns: dict[str, tuple[str, ...]] = {}
    with schema.explained(), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        _plain_forms(cursor)
        for table in schema.our_tables():
            if names := [name for name, _ in _columns(cursor, table)]:
                columns[table] = tuple(names)
                with (
                    (folder / f"{table}.copy").open("wb") as file,
                    _copying(f"COPY {_listed(table, names)} TO STDOUT") as copy,
                ):
                    for block in copy:
                        file.write(block)
    return columns


def restore(unpacked: Unpacked, config: Config, root: Path, *, replace: bool, tell: schema.Tell) -> Restored:
    """Puts a backup in the place of the workspace `root`; to be called after `settings.configure(config)`.

    `config` is the configuration of the unpacked workspace, so that its SQLite file is the one in there. With `replace`
    whatever is in the way is moved aside under a dated name. Raises `InputError` when something is in the way or the
    backup cannot go into this database, `SchemaMismatch` for one of a newer program, `WrongKey`, `DatabaseDown`,
    `OSError`. The files are put in place last but one and the database last: whatever fails before has changed nothing,
    and a run that was killed in between can be run again.
    """
    manifest = unpacked.manifest
    if newer := sorted(set(manifest.migrations).difference(schema.migrations())):
        raise SchemaMismatch(
            f"the backup is of a newer version of newsletter ({manifest.program}: {', '.join(newer)}); install that "
            "one, then restore"
        )
    to_postgresql = connection.vendor == "postgresql"
    if manifest.kind == "postgresql" and not to_postgresql:
        raise _refusal(
            "database",
            "the backup is of a PostgreSQL database and does not go into an SQLite file",
            "name an empty PostgreSQL database in DATABASE_URL (in the environment, or in .env), then restore",
        )
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S_%fZ}"
    target = root / "subscribers" / _FILE
    changed = _changed_files(unpacked, root)
    with schema.explained():
        full = _database_in_use(config) if to_postgresql else _file_in_use(target)
        if not replace:
            _check_nothing_in_the_way(unpacked, root, changed, schema.database_name() if full else "")
        if to_postgresql:
            with _rows_explained(), transaction.atomic():
                aside = _into_database(unpacked, stamp, full=full, tell=tell)
                paused = _pause_all(manifest.created)
                keys.check_keys(config)
                aside += _put_files(unpacked, root, changed, stamp)
        else:
            paused = _make_file_ready(unpacked, config, tell)
            target.parent.mkdir(exist_ok=True)
            with schema.locked(target, tell):
                _claim(target)
                aside = _put_files(unpacked, root, changed, stamp)
                aside += _put_database_file(config.database, target, stamp, full=full)
    return Restored(paused=paused, aside=tuple(aside), files=len(changed))


def _check_nothing_in_the_way(unpacked: Unpacked, root: Path, changed: dict[str, bytes], database: str) -> None:
    there = [f"{name} (other secrets)" if name == ".env" else name for name in _in_the_way(unpacked, root, changed)]
    if there or database:
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        files = f"files differ from the backup's: {', '.join(there[:5])}{more}" if there else ""
        rows = f"{database} is not empty" if database else ""
        raise _refusal(
            "in-the-way",
            f"not restored: {'; '.join(filter(None, (rows, files)))}",
            "restore into a new folder, or with --replace: what is in the way is then moved aside and kept",
        )


def _refusal(code: str, message: str, help: str, path: Path | None = None) -> InputError:
    where = Where(path=str(path)) if path else None
    return InputError([Finding(code=f"backup.{code}", severity="error", where=where, message=message, help=help)])


def _pause_all(created: datetime) -> tuple[int, ...]:
    """Lets every mailing with work left wait for a human; their ids."""
    paused = []
    for mailing in models.Mailing.objects.filter(state__in=UNDER_WAY).order_by("pk"):
        counts = tally(mailing.pk)
        left = counts["pending"] + counts["sending"]
        opening = mailing.kind == "issue" and mailing.opened_at is None
        if not left and not opening:
            continue
        who = "everybody on its list" if opening else f"{left:,}"
        reason = (
            f"restored from a backup of {created:%Y-%m-%d %H:%M} UTC: {who} may already have been mailed since; "
            f"newsletter resume {mailing.pk} after you have checked"
        )
        if mailing.state == "paused" and mailing.reason:
            reason += f" (paused before that: {mailing.reason})"
        models.Mailing.objects.filter(pk=mailing.pk).update(state="paused", reason=reason)
        paused.append(mailing.pk)
    return tuple(paused)


# --- the files of the workspace ---------------------------------------------------------------------------------------


def _changed_files(unpacked: Unpacked, root: Path) -> dict[str, bytes]:
    """The files that are not in `root` as the backup has them; .env, with the secrets, last."""
    changed = {}
    for name, path in {**unpacked.files(), ".env": unpacked.workspace / ".env"}.items():
        there, content = root / name, path.read_bytes()
        above = [each for each in there.parents if each.is_relative_to(root)]
        if there.is_dir() or any(os.path.lexists(each) and not each.is_dir() for each in above):
            message = f"{name} cannot be written: a folder is in its place, or a file where its folder should be"
            raise _refusal("place", message, "move it away, then restore")
        if not there.exists() or there.read_bytes() != content:
            changed[name] = content
    return changed


def _in_the_way(unpacked: Unpacked, root: Path, changed: dict[str, bytes]) -> list[str]:
    """The files whose content would be lost. A .env is none as long as it sets no secret to another value."""
    env, ours = archive.secrets_in(root / ".env"), archive.secrets_in(unpacked.workspace / ".env")
    clean = all(ours.get(name) == value for name, value in env.items())
    return [name for name in changed if os.path.lexists(root / name) and not (name == ".env" and clean)]


def _put_files(unpacked: Unpacked, root: Path, changed: dict[str, bytes], stamp: str) -> list[str]:
    aside = root / f"before-restore-{stamp}"
    moved = _in_the_way(unpacked, root, changed)
    for name, content in changed.items():
        if name in moved:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(root / name, aside / name)
        if archive.is_secret(name) and name != ".env":
            (root / name).parent.parent.mkdir(parents=True, exist_ok=True)
            (root / name).parent.mkdir(mode=0o700, exist_ok=True)
        write_file(root / name, content, mode=0o600 if archive.is_secret(name) else None)
    return [f"the files that differed ({len(moved)}): {aside.name}/"] if moved else []


# --- an SQLite file ---------------------------------------------------------------------------------------------------


def _make_file_ready(unpacked: Unpacked, config: Config, tell: schema.Tell) -> tuple[int, ...]:
    """The unpacked database with the tables of this program and all its mailings paused, closed and synced."""
    config.database.parent.mkdir(exist_ok=True)
    os.replace(unpacked.database / _FILE, config.database)
    if wrong := schema.integrity(config.database):
        raise _refusal("damaged", f"the database in the backup is damaged: {wrong}", "take another backup file")
    tell("the backup is whole; making its database ready")
    schema.prepare(config, tell=tell, copy=False)
    paused = _pause_all(unpacked.manifest.created)
    keys.check_keys(config)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with config.database.open("rb") as file:
        os.fsync(file.fileno())
    return paused


def _file_in_use(path: Path) -> bool:
    """Whether there is a file that holds anybody, or anything that is no database of ours. Raises `InputError` when a
    worker sends from it."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as file:
            tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "batch" in tables:
                _check_leases(file.execute(_LIVE_LEASE).fetchone()[0])
            people = [table for table in _PEOPLE if table in tables]
            return not people or any(_any_row(file, table) for table in people)
    except sqlite3.Error:  # damaged, or somebody's file: in the way
        return True


def _claim(path: Path) -> None:
    """Folds the write-ahead log of the file into it, which only works while nobody else has it open.

    Raises `InputError` when somebody has. A damaged file cannot be asked and is left as it is.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as file:
        try:
            (mode,) = file.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.OperationalError as error:
            mode = "locked" if "locked" in str(error) else ""
        if mode in ("wal", "locked"):
            message = f"another process has {path} open"
            raise _refusal("in-use", message, "stop every `newsletter worker`, then restore")


def _put_database_file(ready: Path, target: Path, stamp: str, *, full: bool) -> list[str]:
    old = target.with_name(f"{target.name}.replaced-{stamp}")
    for ending in ("-wal", "-shm"):  # of a damaged file, or they would be taken for the new one's
        with suppress(FileNotFoundError):
            os.replace(f"{target}{ending}", f"{old}{ending}")
    if full:
        try:
            os.link(target, old)  # so that at no moment there is no database, for which a new one would be made
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            os.replace(target, old)
    os.replace(ready, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return [f"the former database: {target.parent.name}/{old.name}"] if full else []


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _database_in_use(config: Config) -> bool:
    """Whether the database holds anybody. Raises `InputError` when a worker sends from it."""
    if schema.applied(config) is None:
        return False
    with connection.cursor() as cursor:
        there = [table for table in schema.our_tables() if _columns(cursor, table)]
        if "batch" in there:
            cursor.execute(_LIVE_LEASE)
            _check_leases(cursor.fetchone()[0])
        return any(_any_row(cursor, table) for table in _PEOPLE if table in there)


def _into_database(unpacked: Unpacked, stamp: str, *, full: bool, tell: schema.Tell) -> list[str]:
    """The backup's rows in tables of this program; the former tables in a schema of their own. Inside a transaction."""
    manifest, aside = unpacked.manifest, f"before_restore_{stamp.lower()}"
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '10s'")
        there = [table for table in schema.our_tables() if _columns(cursor, table)]
        if full:
            cursor.execute(f"CREATE SCHEMA {aside}")
            cursor.execute("SELECT count(*) FROM django_migrations WHERE app <> 'store'")
            if cursor.fetchone()[0]:  # another Django program shares the database
                cursor.execute(f"CREATE TABLE {aside}.django_migrations (LIKE django_migrations)")
                cursor.execute(
                    f"INSERT INTO {aside}.django_migrations SELECT * FROM django_migrations WHERE app = 'store'"
                )
                cursor.execute("DELETE FROM django_migrations WHERE app = 'store'")
            else:
                cursor.execute(f"ALTER TABLE django_migrations SET SCHEMA {aside}")
        elif there:
            cursor.execute("DELETE FROM django_migrations WHERE app = 'store'")
        functions = _trigger_functions(cursor, there)
        for table in there:
            cursor.execute(f"ALTER TABLE {table} SET SCHEMA {aside}" if full else f"DROP TABLE {table} CASCADE")
        for function in functions:
            cursor.execute(f"ALTER FUNCTION {function} SET SCHEMA {aside}" if full else f"DROP FUNCTION {function}")
        schema.apply(manifest.migrations[-1])
        cursor.execute("DELETE FROM fact")
        _plain_forms(cursor)
        tell(f"the backup is whole; writing its rows into {schema.database_name()}")
        written = _copy_file(cursor, unpacked) if manifest.kind == "sqlite" else _copy_tables(cursor, unpacked)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for statement in connection.ops.sequence_reset_sql(no_style(), _models(written)):
            cursor.execute(statement)
        schema.apply()
        cursor.execute(f"ANALYZE {', '.join(schema.our_tables())}")
    return [f"the former tables: schema {aside} of {schema.database_name()}"] if full else []


def _trigger_functions(cursor: Any, tables: list[str]) -> list[str]:
    """What the triggers of these tables call, of our own: a migration makes it with them."""
    cursor.execute(
        "SELECT DISTINCT p.oid::regprocedure::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE c.relname = ANY(%s) AND c.relnamespace = n.oid AND n.nspname = current_schema() AND NOT t.tgisinternal",
        [tables],
    )
    return [name for (name,) in cursor.fetchall()]


def _models(tables: list[str]) -> list[type[Model]]:
    return [each for each in apps.get_app_config("store").get_models() if each._meta.db_table in tables]  # noqa: SLF001


def _copy_tables(cursor: Any, unpacked: Unpacked) -> list[str]:
    for table, names in unpacked.manifest.columns.items():
        path = unpacked.database / f"{table}.copy"
        _check_columns(cursor, table, names, there=path.is_file())
        with path.open("rb") as file, _copying(f"COPY {_listed(table, names)} FROM STDIN") as copy:
            while block := file.read(1 << 16):
                copy.write(block)
    return list(unpacked.manifest.columns)


def _copy_file(cursor: Any, unpacked: Unpacked) -> list[str]:
    """The rows of an SQLite file, in the forms that PostgreSQL has for them."""
    path = unpacked.database / _FILE
    if wrong := schema.integrity(path):
        raise _refusal("damaged", f"the database in the backup is damaged: {wrong}", "take another backup file")
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
        tables = [table for table in schema.our_tables() if _columns(cursor, table)]
        for table in tables:
            kinds = dict(_columns(cursor, table))
            names = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
            _check_columns(cursor, table, names, there=True)
            dated = [place for place, name in enumerate(names) if kinds[name] == "timestamp with time zone"]
            with _copying(f"COPY {_listed(table, names)} FROM STDIN") as copy:
                for row in file.execute(f"SELECT {', '.join(map(_quoted, names))} FROM {table}"):
                    values = list(row)
                    for place in dated:  # Django keeps times in SQLite as UTC without saying so
                        if values[place] is not None:
                            values[place] += "+00"
                    copy.write_row(values)
    return tables


def _check_columns(cursor: Any, table: str, names: Sequence[str], *, there: bool) -> None:
    if table not in schema.our_tables() or not there or {name for name, _ in _columns(cursor, table)} != set(names):
        message = f"the backup's table {table[:63]!r} is not as its migrations say"
        raise _refusal("damaged", message, "take another backup file")


def _columns(cursor: Any, table: str) -> list[tuple[str, str]]:
    """The columns of a table and their types, in their order; none where there is no such table."""
    cursor.execute(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND table_name = %s ORDER BY ordinal_position",
        [table],
    )
    return list(cursor.fetchall())


def _plain_forms(cursor: Any) -> None:
    """Forms of values that do not depend on how the server is set up."""
    cursor.execute("SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1")


@contextmanager
def _copying(statement: str) -> Iterator[Any]:
    connection.ensure_connection()
    assert connection.connection is not None
    with connection.wrap_database_errors, connection.connection.cursor() as cursor, cursor.copy(statement) as copy:
        yield copy


@contextmanager
def _rows_explained() -> Iterator[None]:
    """Rows that a table does not take are a matter of the backup. The server's words are told without the values."""
    try:
        yield
    except (DataError, IntegrityError) as error:
        diagnosis = getattr(error.__cause__, "diag", None)
        words = getattr(diagnosis, "message_primary", None) or str(error).partition("\n")[0]
        raise _refusal(
            "rows",
            f"PostgreSQL does not take a row of the backup: {words}",
            "nothing was restored; restore into a new folder without DATABASE_URL, correct the row, back up again",
        ) from error


def _listed(table: str, names: Sequence[str]) -> str:
    return f"{_quoted(table)} ({', '.join(map(_quoted, names))})"


def _quoted(name: str) -> str:
    return connection.ops.quote_name(name)


# --- both -------------------------------------------------------------------------------------------------------------

_LIVE_LEASE = "SELECT max(lease_until) FROM batch WHERE state = 'leased'"


def _any_row(cursor: Any, table: str) -> bool:
    found = cursor.execute(f"SELECT 1 FROM {table} LIMIT 1")
    return (found or cursor).fetchone() is not None


def _check_leases(until: float | None) -> None:
    if until is not None and until > time.time():
        end = datetime.fromtimestamp(until, UTC)
        message = f"a worker is sending from the database that is there now (its lease ends at {end:%H:%M:%S} UTC)"
        raise _refusal("in-use", message, "stop every worker, wait until then, and restore")
