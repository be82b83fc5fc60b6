from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from databases import PostgreSQL
from newsletter.cli import run
from newsletter.config import Config, load_config
from newsletter.errors import DatabaseDown, SchemaMismatch
from newsletter.settings import configure

ROOT = Path(__file__).parents[2]
SECRETS = {"NEWSLETTER_SECRET_KEY": "k" * 40, "NEWSLETTER_PEPPER": "p" * 40}


@pytest.fixture
def bare(workspace: Path) -> Iterator[Config]:
    """A workspace with secrets and no database yet; Django is configured for SQLite."""
    from django.db import connections

    (workspace / ".env").write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()), "utf-8")
    config = replace(load_config(workspace, SECRETS), root=workspace.absolute())
    configure(config)
    yield config
    connections.close_all()


@pytest.fixture
def empty(workspace: Path, postgresql: PostgreSQL) -> Iterator[Config]:
    """A workspace whose PostgreSQL database has no tables; Django is configured for it."""
    from django.db import connections

    yield on_postgresql(workspace, postgresql.new_database())
    connections.close_all()


def on_postgresql(workspace: Path, url: str) -> Config:
    secrets = {**SECRETS, "DATABASE_URL": url}
    (workspace / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()), "utf-8")
    config = replace(load_config(workspace, secrets), root=workspace.absolute())
    configure(config)
    return config


@contextmanager
def one_more_migration(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """As a newer version of the program has it: a second migration, which adds the table `later`."""
    from django.db import migrations, models

    from newsletter.store import schema
    from newsletter.store.migrations import __name__ as package

    name = "9000_later"

    class Migration(migrations.Migration):
        dependencies: ClassVar = [("store", schema.migrations()[-1])]
        operations: ClassVar = [migrations.CreateModel("Later", [("id", models.BigAutoField(primary_key=True))])]

    known = (*schema.migrations(), name)
    module = type(sys)(f"{package}.{name}")
    module.Migration = Migration  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(schema, "migrations", lambda: known)
    monkeypatch.setattr(
        "django.db.migrations.loader.pkgutil.iter_modules", lambda path: [(None, n, False) for n in known]
    )
    yield name


@pytest.fixture
def newer_program(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with one_more_migration(monkeypatch) as name:
        yield name


def tables() -> set[str]:
    from django.db import connection

    return set(connection.introspection.table_names())


def record_migration(name: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('store', %s, CURRENT_TIMESTAMP)", [name]
        )


def copies(config: Config) -> list[str]:
    return sorted(path.name for path in config.database.parent.glob("*.before-*"))


# --- both ---


def test_a_database_that_is_ready_costs_one_query_and_no_lock(store: Config) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from newsletter.store import schema

    with CaptureQueriesContext(connection) as queries:
        schema.prepare(store)
    assert len(queries) == 1
    assert not Path(f"{store.database}.lock").exists()


def test_a_ready_database_is_opened_without_the_migration_executor(store: Config) -> None:
    script = (
        "import sys; from pathlib import Path; from newsletter.config import load_config;"
        "from newsletter.cli.database import open_store; open_store(load_config(Path(sys.argv[1])));"
        "sys.exit('django.db.migrations.executor' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(store.root)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_database_has_a_name_that_stays(store: Config) -> None:
    from newsletter.store.schema import store_id

    assert len(bytes.fromhex(store_id())) == 16
    assert store_id() == store_id()


def test_a_database_newer_than_the_program_is_refused(store: Config) -> None:
    from newsletter.store import schema

    record_migration("9001_from_the_future")
    for use in (schema.prepare, schema.migrate):
        with pytest.raises(
            SchemaMismatch, match=r"made by a newer version .*9001_from_the_future.*Install that version"
        ):
            use(store)


def test_the_first_command_says_so_without_a_traceback(store: Config, capsys: pytest.CaptureFixture[str]) -> None:
    record_migration("9001_from_the_future")
    assert run(["migrate"]) == 1
    assert "error: " in capsys.readouterr().err


# --- SQLite ---


def test_a_file_is_made_for_its_owner_only_with_every_table(bare: Config) -> None:
    from newsletter.store import models, schema

    schema.prepare(bare)
    assert bare.database.stat().st_mode & 0o777 == 0o600
    assert models.Mailing.objects.count() == 0
    assert models.Fact.objects.get(name="id").value == schema.store_id()
    assert copies(bare) == []


def test_an_empty_file_is_made_a_database(bare: Config) -> None:
    from newsletter.store import schema

    bare.database.parent.mkdir()
    bare.database.touch()
    schema.prepare(bare)
    assert "delivery" in tables()


def test_an_older_file_is_migrated_after_a_whole_copy(bare: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import models, schema

    schema.prepare(bare)
    models.Tag.objects.create(name="kept")
    said: list[str] = []
    with one_more_migration(monkeypatch) as name:
        schema.prepare(bare, tell=said.append)
        assert "store_later" in tables()
        schema.prepare(bare, tell=said.append)
    (copy,) = copies(bare)
    assert copy.startswith(f"newsletter.sqlite3.before-{name}-2")
    path = bare.database.with_name(copy)
    assert path.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(path)) as before:
        assert before.execute("SELECT name FROM tag").fetchall() == [("kept",)]
        assert before.execute("SELECT count(*) FROM sqlite_master WHERE name = 'store_later'").fetchall() == [(0,)]
    assert len(said) == 2
    assert copy in said[1]


def test_the_last_three_copies_are_kept(bare: Config, newer_program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import schema

    bare.database.parent.mkdir()
    old = [f"newsletter.sqlite3.before-{name}Z" for name in ("0009_b-20260101T000000", "0002_c-20260301T000000")]
    old += [f"newsletter.sqlite3.before-{name}Z" for name in ("0001_z-20250101T000000", "0003_a-20260201T000000")]
    schema.apply("0001_first")
    for name in old:
        bare.database.with_name(name).touch()
    schema.prepare(bare)
    kept = copies(bare)
    assert len(kept) == 3
    assert {old[1], old[3]} < set(kept)


def test_a_newer_file_names_the_copy_to_go_back_to(bare: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import schema

    schema.prepare(bare)
    with monkeypatch.context() as newer, one_more_migration(newer):
        schema.prepare(bare)
    (copy,) = copies(bare)
    with pytest.raises(SchemaMismatch) as caught:
        schema.prepare(bare)
    assert copy in str(caught.value)


def test_a_migration_that_fails_leaves_the_file_as_it_was(bare: Config, newer_program: str) -> None:
    from django.db import connection

    from newsletter.store import schema

    bare.database.parent.mkdir()
    schema.apply(schema.migrations()[0])
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE store_later (id INTEGER)")
    with pytest.raises((SchemaMismatch, DatabaseDown), match="already exists"):
        schema.prepare(bare)
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM django_migrations")
        assert newer_program not in {name for (name,) in cursor.fetchall()}


def test_processes_that_start_together_migrate_once(bare: Config) -> None:
    script = (
        "import sys; from pathlib import Path; from newsletter.config import load_config;"
        "from newsletter.cli.database import open_store; open_store(load_config(Path(sys.argv[1])));"
        "from newsletter.store.schema import store_id; print(store_id())"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(bare.root)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    answers = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0] * 4, answers
    assert len({out for out, _ in answers}) == 1


def test_a_lock_that_nobody_lets_go_of_is_reported_and_waiting_is_told(
    bare: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.store import schema

    bare.database.parent.mkdir()
    monkeypatch.setattr(schema, "LOCK_WAIT", 0.1)
    said: list[str] = []
    with open(f"{bare.database}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DatabaseDown, match="another process has been migrating"):
            schema.prepare(bare, tell=said.append)
    assert said == ["waiting for another process that migrates newsletter.sqlite3"]
    assert not bare.database.exists()
    schema.prepare(bare)


def test_whoever_waited_for_the_lock_finds_it_done(bare: Config) -> None:
    from newsletter.store import schema

    bare.database.parent.mkdir()
    waiting = threading.Event()
    with open(f"{bare.database}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=migrate_meanwhile, args=(bare, waiting, file.fileno()))
        thread.start()
        schema.prepare(bare, tell=lambda line: waiting.set())
        thread.join()
    assert "delivery" in tables()


def migrate_meanwhile(config: Config, waiting: threading.Event, lock: int) -> None:
    from django.db import connections

    from newsletter.store import schema

    waiting.wait(30)
    schema.apply()
    connections.close_all()
    fcntl.flock(lock, fcntl.LOCK_UN)


def spoilt_head(path: Path) -> None:
    path.write_bytes(b"this is not a database at all, " * 100)


def spoilt_page(path: Path) -> None:
    with path.open("r+b") as file:  # the page of the table of tables, behind the header
        file.seek(100)
        file.write(b"\xff" * 300)


@pytest.mark.parametrize("spoil", [spoilt_head, spoilt_page])
def test_a_damaged_file_is_said_to_be_damaged_and_left_alone(bare: Config, spoil: Callable[[Path], None]) -> None:
    from django.db import connections

    from newsletter.store import schema

    schema.prepare(bare)
    connections.close_all()
    spoil(bare.database)
    before = bare.database.read_bytes()
    with pytest.raises(DatabaseDown, match=r"newsletter\.sqlite3: .*is damaged.*newsletter restore FILE --replace"):
        schema.prepare(bare)
    assert bare.database.read_bytes() == before
    assert run(["migrate"]) == 3


def test_another_programs_file_is_refused_and_left_alone(bare: Config) -> None:
    from newsletter.store import schema

    bare.database.parent.mkdir()
    with closing(sqlite3.connect(bare.database)) as other:
        other.execute("CREATE TABLE recipes (id)")
    before = bare.database.read_bytes()
    with pytest.raises(SchemaMismatch, match=r"tables of another program \(recipes\): move that file away"):
        schema.prepare(bare)
    with closing(sqlite3.connect(bare.database)) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)]
    assert len(before) == len(bare.database.read_bytes())


def test_a_folder_where_the_file_should_be_is_down(bare: Config) -> None:
    from newsletter.store import schema

    bare.database.mkdir(parents=True)
    with pytest.raises(DatabaseDown, match="unable to open"):
        schema.prepare(bare)


def test_a_file_where_the_folder_should_be_is_down(bare: Config) -> None:
    from newsletter.store import schema

    bare.database.parent.write_text("in the way")
    with pytest.raises(DatabaseDown, match="this user may write to"):
        schema.prepare(bare)


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Without root's right to write anywhere. The folder and those above it stay reachable."""
    import django.db.backends.sqlite3.base  # noqa: F401 - while it may still be read

    if os.geteuid():
        yield
        return
    modes = {path: path.stat().st_mode for path in (folder, *folder.parents) if path.stat().st_uid == 0}
    for path, mode in modes.items():
        path.chmod(mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_folder_that_may_not_be_written_is_down(bare: Config) -> None:
    from newsletter.store import schema

    bare.database.parent.mkdir(mode=0o555)
    with as_nobody(bare.database.parent), pytest.raises(DatabaseDown, match=r"Permission denied; .*may write to"):
        schema.prepare(bare)


def test_a_file_that_may_not_be_read_is_down(bare: Config) -> None:
    from django.db import connections

    from newsletter.store import schema

    schema.prepare(bare)
    connections.close_all()
    bare.database.chmod(0o000)
    with (
        as_nobody(bare.database.parent),
        pytest.raises(DatabaseDown, match=r"unable to open .*read and write the file"),
    ):
        schema.prepare(bare)


def test_no_room_for_the_copy_is_down_before_anything_is_done(
    bare: Config, newer_program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.store import schema

    bare.database.parent.mkdir()
    schema.apply(schema.migrations()[0])
    monkeypatch.setattr("newsletter.store.schema.shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(DatabaseDown, match="10 bytes are free: free some space"):
        schema.prepare(bare)
    assert "store_later" not in tables()


def test_a_database_that_goes_away_under_a_command_gives_exit_code_3(
    bare: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from django.db import OperationalError

    def full(*_: object, **__: object) -> None:
        raise OperationalError("database or disk is full")

    monkeypatch.setattr("newsletter.store.keys.check_keys", full)
    monkeypatch.setattr("newsletter.store.schema.prepare", full)
    monkeypatch.setattr("newsletter.store.schema.migrate", full)
    assert run(["migrate"]) == 3
    said = capsys.readouterr().err
    assert said == "error: subscribers/newsletter.sqlite3: database or disk is full; free some space, then run again\n"


def test_a_mistake_in_the_program_is_not_called_a_database_that_is_down(bare: Config) -> None:
    from django.db import IntegrityError, ProgrammingError

    from newsletter.store import models, schema

    schema.prepare(bare)
    with pytest.raises(IntegrityError), schema.explained():
        models.Suppression.objects.create(address_key=b"k" * 16, reason="no such reason", at="2026-01-01T00:00Z")
    assert schema.database_down(ProgrammingError("no such column")) is None


# --- PostgreSQL ---


def test_an_empty_postgresql_names_the_command_and_the_command_makes_the_tables(
    empty: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    from newsletter.store import schema

    with pytest.raises(SchemaMismatch, match="is empty; make its tables: newsletter migrate"):
        schema.prepare(empty)
    assert tables() == set()
    assert run(["migrate"]) == 0
    assert "migrated (0001_first" in capsys.readouterr().out
    schema.prepare(empty)
    assert run(["migrate"]) == 0
    assert "nothing to migrate" in capsys.readouterr().out


def test_an_older_postgresql_is_refused_with_the_command(
    workspace: Path, postgresql: PostgreSQL, empty_postgresql: str, newer_program: str
) -> None:
    from newsletter.store import schema

    config = on_postgresql(workspace, postgresql.new_database(empty_postgresql))
    with pytest.raises(SchemaMismatch, match=f"lacks {newer_program}.*type: newsletter migrate"):
        schema.prepare(config)
    assert "store_later" not in tables()
    assert schema.migrate(config) == [newer_program]
    schema.prepare(config)


def test_two_migrations_of_a_postgresql_wait_for_each_other(empty: Config) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "newsletter", "-w", str(empty.root), "migrate"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], answers
    assert sorted("nothing to migrate" in answer for answer in answers) == [False, True]


def test_a_postgresql_shared_with_another_program_is_no_obstacle_unless_tables_clash(empty: Config) -> None:
    from django.db import connection

    from newsletter.store import schema

    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE recipes (id int)")
        cursor.execute("CREATE TABLE tag (id int)")
    with pytest.raises(SchemaMismatch, match=r"tables of another program \(tag\).*DATABASE_URL"):
        schema.migrate(empty)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE tag")
    assert schema.migrate(empty)


@pytest.mark.parametrize(
    ("url", "step"),
    [
        ("postgresql://test:secret@127.0.0.1:1/news", "is the server running there"),
        ("postgresql://test:secret@/news?host=/nowhere", "is the server running there"),
        ("postgresql://test:secret@no-such-host.invalid/news", "is the server running there"),
        ("postgresql://test:secret@127.0.0.1:1/news?sslmode=perhaps", "correct what follows the ?"),
        ("postgresql://test:secret@127.0.0.1:1/news?colour=red", "correct what follows the ?"),
    ],
)
def test_a_server_that_cannot_be_reached_is_down_with_the_next_step(workspace: Path, url: str, step: str) -> None:
    from newsletter.store import schema

    config = on_postgresql(workspace, url)
    with pytest.raises(DatabaseDown) as caught:
        schema.prepare(config)
    assert step in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "PostgreSQL database news at " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgresql://h:port/n", "postgresql://h:99999/n", "postgresql://[::1/n", "mysql://h/n"]
)
def test_an_address_that_is_none_is_a_finding(
    bare: Config, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    assert run(["migrate"]) == 1
    assert "DATABASE_URL: not a PostgreSQL address" in capsys.readouterr().err


def test_without_psycopg_the_message_says_what_to_install(
    bare: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/n")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert run(["migrate"]) == 1
    assert "pip install 'psycopg[binary]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("user", "name", "step"),
    [("test", "nothing_there", r"make the database \(createdb\)"), ("stranger", "postgres", "user and password")],
)
def test_a_wrong_name_or_user_is_down_with_the_next_step(
    workspace: Path, postgresql: PostgreSQL, user: str, name: str, step: str
) -> None:
    from newsletter.store import schema

    config = on_postgresql(workspace, f"postgresql://{user}@/{name}?host={postgresql.folder}")
    with pytest.raises(DatabaseDown, match=step):
        schema.prepare(config)


def test_a_connection_that_the_server_ends_is_down(
    workspace: Path, postgresql: PostgreSQL, empty_postgresql: str
) -> None:
    from newsletter.store import schema

    url = postgresql.new_database(empty_postgresql)
    config = on_postgresql(workspace, url)
    schema.prepare(config)
    name = url.partition("@/")[2].partition("?")[0]
    postgresql.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    with pytest.raises(DatabaseDown, match="went away: run again"):
        schema.prepare(config)
