from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import sqlite3
import stat
import tarfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from databases import PostgreSQL
from newsletter.cli import run
from newsletter.config import Config, load_config
from newsletter.settings import configure

NOON = datetime(2017, 11, 19, 12, 0, 0, 123456, tzinfo=UTC)
AWKWARD = 'Zoë\t"O\'Hara"\\N \\. \r\n\u2028 שלום 𝄞'


def fill() -> None:
    """At least one row in every table, with values that a careless copy would change."""
    from newsletter.store import models

    people = [
        models.Subscriber.objects.create(
            address_key=bytes([number, 0, 9, 10, 13, 92, 255]) + b"k" * 9,
            address=f"reader{number}@example.org",
            name=AWKWARD,
            language="es",
            attributes={"n": number, "text": AWKWARD, "yes": True, "none": None},
            created_at=NOON,
        )
        for number in range(3)
    ]
    weekly = models.List.objects.create(name="weekly")
    consent = models.Consent.objects.create(list=weekly, kind="import", text=AWKWARD, at=NOON, evidence={"sha256": "x"})
    for person in people:
        models.Subscription.objects.create(
            list=weekly, subscriber=person, state="subscribed", consent=consent, joined_at=NOON, changed_at=NOON
        )
    tag = models.Tag.objects.create(name="\\N")
    models.SubscriberTag.objects.create(tag=tag, subscriber=people[0])
    models.Suppression.objects.create(address_key=bytes(range(16)), reason="bounce", note=AWKWARD, at=NOON)
    round = models.Round.objects.create(issue="2017-11-19", number=1)
    for state in ("sending", "paused", "finished", "opening"):
        mailing = models.Mailing.objects.create(
            kind="issue",
            round=round,
            list=weekly,
            state=state,
            reason="because of me" if state == "paused" else "",
            provider="outbox",
            audience=3,
            left_out={"suppressed": 1},
            plan={"done": 0},
            created_at=NOON,
            opened_at=None if state == "opening" else NOON,
            watched_at=NOON,
        )
        edition = models.Edition.objects.create(mailing=mailing, language="es", hash="h", content=AWKWARD)
        if state == "opening":
            continue
        first = mailing.pk * 10
        models.Batch.objects.create(
            mailing=mailing,
            edition=edition,
            first=first,
            last=first + 2,
            state="done" if state == "finished" else "leased",
            epoch=4,
            owner="w",
            lease_until=1511092800.0625,
        )
        for number, person in enumerate(people):
            open_states = ("pending", "sending", "accepted")
            models.Delivery.objects.create(
                id=first + number,
                mailing=mailing,
                subscriber=person,
                round=None,
                key=f"{state}:{number}",
                address=person.address,
                address_key=person.address_key,
                language="es",
                state="accepted" if state == "finished" else open_states[number],
                at=1511092800.1234567,
                detail=AWKWARD,
            )


def rows(*, without: tuple[str, ...] = ()) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, as Python sees it."""
    from django.apps import apps

    found = {}
    for model in apps.get_app_config("store").get_models():
        names = [field.attname for field in model._meta.concrete_fields if field.attname not in without]
        values = [
            tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
            for row in model._default_manager.order_by("pk").values_list(*names)
        ]
        found[model.__name__] = values
    return found


@pytest.fixture
def news(store: Config) -> Config:
    """A workspace with files, and rows in every table."""
    from newsletter.store import keys, schema

    (store.root / ".gitignore").write_text("build/\n.env\n")
    (store.root / "issues" / "2017-11-19.yaml").write_text("title: not read here\n")
    (store.root / "issues" / "images").mkdir()
    (store.root / "issues" / "images" / "ñandú.png").write_bytes(bytes(range(256)))
    (store.root / "templates" / "partials").mkdir(parents=True)
    (store.root / "templates" / "theme.yaml").write_text("{}\n")
    for unwanted in ("build/page.html", ".git/config", "issues/.DS_Store", "subscribers/people.csv"):
        (store.root / unwanted).parent.mkdir(exist_ok=True)
        (store.root / unwanted).write_text("not kept")
    schema.prepare(store)
    keys.check_keys(store)
    schema.store_id()
    fill()
    return store


@pytest.fixture
def file(news: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it."""
    path = tmp_path_factory.mktemp("backups") / "news.tar.gz"
    assert run(["backup", str(path)]) == 0
    return path


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder."""
    return tmp_path_factory.mktemp("elsewhere")


def with_database(folder: Path, url: str | None) -> None:
    if url:
        (folder / ".env").write_text(f"# the server\nDATABASE_URL={url}\n")


def opened(folder: Path) -> Config:
    from newsletter.cli.database import open_store

    config = replace(load_config(folder, {}), root=folder)
    open_store(config)
    return config


def restored(file: Path, folder: Path, *more: str) -> int:
    return run(["-w", str(folder), "restore", str(file), *more])


def new_url(store: Config, request: pytest.FixtureRequest) -> str | None:
    """A new and empty database of the same kind: None for a file."""
    if not store.database_url:
        return None
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new_database()


# --- there and back ---


def test_everything_comes_back(
    news: Config, file: Path, elsewhere: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    from newsletter.store import models, schema

    before, id = rows(without=("state", "reason")), schema.store_id()
    with_database(elsewhere, new_url(news, request))
    assert restored(file, elsewhere) == 0
    said = capsys.readouterr().out
    opened(elsewhere)
    assert rows(without=("state", "reason")) == before
    assert schema.store_id() == id
    assert models.Delivery.objects.filter(state="sending").count() == 2
    names = {path.relative_to(elsewhere).as_posix() for path in elsewhere.rglob("*") if path.is_file()}
    assert names - {"subscribers/newsletter.sqlite3", "subscribers/newsletter.sqlite3.lock"} == {
        ".env",
        ".gitignore",
        "issues/2017-11-19.yaml",
        "issues/images/ñandú.png",
        "newsletter.yaml",
        "subscribers/lists.yaml",
        "templates/theme.yaml",
    } | {name for name in names if "-shm" in name or "-wal" in name}
    assert (elsewhere / "issues/images/ñandú.png").read_bytes() == bytes(range(256))
    assert "Restored the backup of 2" in said
    assert stat.S_IMODE((elsewhere / ".env").stat().st_mode) == 0o600


def test_keys_that_sign_come_back_for_their_owner_only(
    news: Config, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    assert run(["dkim", "new", "s1"]) == 0
    keys = news.root / "subscribers" / "dkim"
    file = tmp_path_factory.mktemp("backups") / "news.tar.gz"
    assert run(["backup", str(file)]) == 0
    with_database(elsewhere, new_url(news, request))
    assert restored(file, elsewhere) == 0
    again = elsewhere / "subscribers" / "dkim"
    assert (again / "s1.pem").read_bytes() == (keys / "s1.pem").read_bytes()
    assert stat.S_IMODE((again / "s1.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(again.stat().st_mode) == 0o700
    assert (again / ".gitignore").read_bytes() == b"*\n"


def test_rows_written_after_a_restore_get_new_ids(
    news: Config, file: Path, elsewhere: Path, request: pytest.FixtureRequest
) -> None:
    from newsletter.store import models

    before = {row.pk for row in models.Tag.objects.all()}
    with_database(elsewhere, new_url(news, request))
    assert restored(file, elsewhere) == 0
    opened(elsewhere)
    assert models.Tag.objects.create(name="new").pk > max(before)
    assert models.List.objects.create(name="new").pk > 1


def test_every_mailing_with_work_left_waits_for_a_human(
    news: Config, file: Path, elsewhere: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    from newsletter.store import models

    ids = dict(models.Mailing.objects.values_list("state", "pk"))
    with_database(elsewhere, new_url(news, request))
    assert restored(file, elsewhere) == 0
    said = capsys.readouterr().out
    opened(elsewhere)
    found = {pk: (state, reason) for pk, state, reason in models.Mailing.objects.values_list("pk", "state", "reason")}
    sending = found[ids["sending"]]
    assert sending[0] == "paused"
    assert re.fullmatch(
        r"restored from a backup of 20\d\d-\d\d-\d\d \d\d:\d\d UTC: 2 may already have been mailed since; "
        rf"newsletter resume {ids['sending']} after you have checked",
        sending[1],
    )
    assert found[ids["opening"]][0] == "paused"
    assert "everybody on its list may already" in found[ids["opening"]][1]
    assert found[ids["paused"]][1].endswith("(paused before that: because of me)")
    assert found[ids["finished"]] == ("finished", "")
    assert f"mailing {ids['sending']} is paused" in said
    assert f"mailing {ids['finished']} is" not in said


def test_a_database_in_a_file_moves_to_postgresql(
    workspace: Path, request: pytest.FixtureRequest, postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from django.db import connection, connections

    from newsletter.store import keys, schema

    secrets = {"NEWSLETTER_SECRET_KEY": "k" * 40, "NEWSLETTER_PEPPER": "p" * 40}
    (workspace / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    config = replace(load_config(workspace, secrets), root=workspace.absolute())
    configure(config)
    schema.prepare(config)
    keys.check_keys(config)
    fill()
    before = rows(without=("state", "reason"))
    file, folder = tmp_path_factory.mktemp("backups") / "news.tar.gz", tmp_path_factory.mktemp("elsewhere")
    assert run(["backup", str(file)]) == 0
    with_database(folder, postgresql.new_database())
    assert restored(file, folder) == 0
    opened(folder)
    assert connection.vendor == "postgresql"
    assert rows(without=("state", "reason")) == before
    connections.close_all()


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_a_postgresql_database_does_not_go_into_a_file(
    news: Config, file: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert restored(file, elsewhere) == 1
    assert "name an empty PostgreSQL database in DATABASE_URL" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_the_other_lines_of_env_stay(news: Config, file: Path, elsewhere: Path, request: pytest.FixtureRequest) -> None:
    url = new_url(news, request)
    with_database(elsewhere, url)
    with (elsewhere / ".env").open("a") as env:
        env.write("# mine\nNEWSLETTER_SMTP_PASSWORD='s p'\n")
    assert restored(file, elsewhere) == 0
    text = (elsewhere / ".env").read_text()
    assert text.startswith("# the server\n" if url else "# mine\n")
    assert "NEWSLETTER_SMTP_PASSWORD='s p'\n" in text
    assert f'NEWSLETTER_PEPPER="{news.pepper}"\n' in text


def test_a_backup_is_taken_while_another_process_writes(news: Config, tmp_path: Path) -> None:
    import threading

    from django.db import connections, transaction

    from newsletter.store import archive, models

    written, done = threading.Event(), threading.Event()

    def write() -> None:
        with transaction.atomic():
            models.Tag.objects.create(name="not yet there")
            written.set()
            done.wait(60)
        connections.close_all()

    writer = threading.Thread(target=write)
    writer.start()
    written.wait(60)
    try:
        assert run(["backup", str(tmp_path / "b.tar.gz")]) == 0
    finally:
        done.set()
        writer.join()
    with archive.unpacked(tmp_path / "b.tar.gz", tmp_path) as unpacked:
        found = b"".join(path.read_bytes() for path in unpacked.database.iterdir())
    assert b"not yet there" not in found


# --- the file ---


def test_the_file_is_its_owners_only_and_says_that_it_holds_secrets(
    news: Config, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("backups")
    assert run(["backup", str(folder)]) == 0
    said = capsys.readouterr()
    (path,) = folder.iterdir()
    assert re.fullmatch(r"newsletter-20\d{6}T\d{6}Z\.tar\.gz", path.name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "holds addresses and the secret keys" in said.out
    assert f"restore {path}" in said.out
    assert "workspace: 6 files" in said.err


def test_a_backup_never_replaces_a_file(news: Config, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = file.read_bytes()
    assert run(["backup", str(file)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_folder_that_is_not_there_is_said(news: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["backup", str(tmp_path / "nowhere" / "b.tar.gz")]) == 1
    assert "nowhere: error: there is no such folder" in capsys.readouterr().err


def test_what_cannot_be_kept_is_said(news: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (news.root / "issues" / "lost.yaml").symlink_to("nowhere")
    assert run(["backup", str(tmp_path / "b.tar.gz")]) == 0
    assert "left out: issues/lost.yaml" in capsys.readouterr().err


def test_a_backup_with_the_wrong_keys_is_refused(
    news: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = news.root / ".env"
    env.write_text(env.read_text().replace("p" * 40, "q" * 40))
    assert run(["backup", str(tmp_path / "b.tar.gz")]) == 1
    assert "NEWSLETTER_PEPPER is not the one" in capsys.readouterr().err
    assert not (tmp_path / "b.tar.gz").exists()


def test_a_full_disk_leaves_no_half_a_backup(
    news: Config, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("backups")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("newsletter.store.archive.os.fsync", full)
    assert run(["backup", str(folder / "b.tar.gz")]) in (1, 3)
    assert list(folder.iterdir()) == []


# --- nothing is overwritten ---


def test_a_workspace_that_differs_is_left_alone_unless_told(
    news: Config, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from newsletter.store import models

    (news.root / "newsletter.yaml").write_text(before := (news.root / "newsletter.yaml").read_text() + "# changed\n")
    models.Tag.objects.create(name="since then")
    assert restored(file, news.root) == 1
    said = capsys.readouterr().err
    assert "is not empty; files differ from the backup's: newsletter.yaml" in said
    assert "--replace" in said
    assert (news.root / "newsletter.yaml").read_text() == before
    opened(news.root)
    assert models.Tag.objects.filter(name="since then").exists()
    assert not list(news.root.glob(".restoring-*"))


def test_replace_moves_everything_aside_so_that_it_can_be_undone(
    news: Config, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from django.db import IntegrityError, connection, connections

    from newsletter.store import models

    (news.root / "newsletter.yaml").write_text(before := (news.root / "newsletter.yaml").read_text() + "# changed\n")
    (news.root / "issues" / "newer.yaml").write_text("stays\n")
    models.Tag.objects.create(name="since then")
    connections.close_all()
    assert restored(file, news.root, "--replace") == 0
    said = capsys.readouterr().out
    opened(news.root)
    assert not models.Tag.objects.filter(name="since then").exists()
    assert "# changed" not in (news.root / "newsletter.yaml").read_text()
    assert (news.root / "issues" / "newer.yaml").exists()
    (aside,) = news.root.glob("before-restore-*")
    assert (aside / "newsletter.yaml").read_text() == before
    assert aside.name in said
    if news.database_url:
        name = re.search(r"schema (before_restore_\w+)", said)
        assert name
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT name FROM {name[1]}.tag ORDER BY id")
            assert ("since then",) in cursor.fetchall()
            # and back, as docs/backup.md says
            cursor.execute(f"ALTER SCHEMA public RENAME TO unwanted; ALTER SCHEMA {name[1]} RENAME TO public")
        opened(news.root)
        assert models.Tag.objects.filter(name="since then").exists()
        models.Tag.objects.create(name="later")
        with pytest.raises(IntegrityError, match="append-only"):
            models.Consent.objects.update(text="changed")
    else:
        (old,) = news.root.glob("subscribers/*.replaced-*Z")
        assert old.name in said
        with closing(sqlite3.connect(old)) as former:
            assert ("since then",) in former.execute("SELECT name FROM tag").fetchall()
    assert restored(file, news.root, "--replace") == 0


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_another_programs_tables_and_migrations_stay_where_they_are(news: Config, file: Path) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE recipes (id int)")
        cursor.execute("INSERT INTO django_migrations (app, name, applied) VALUES ('kitchen', '0001', now())")
    assert restored(file, news.root, "--replace") == 0
    opened(news.root)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM recipes")
        cursor.execute("SELECT count(*) FROM django_migrations WHERE app = 'kitchen'")
        assert cursor.fetchone() == (1,)


def test_a_clone_of_the_workspace_is_no_obstacle(
    news: Config, file: Path, elsewhere: Path, request: pytest.FixtureRequest
) -> None:
    for name in ("newsletter.yaml", "issues", "templates"):
        source = news.root / name
        if source.is_dir():
            shutil.copytree(source, elsewhere / name)
        else:
            shutil.copy(source, elsewhere / name)
    with_database(elsewhere, new_url(news, request))
    assert restored(file, elsewhere) == 0


def test_other_secrets_are_an_obstacle(
    news: Config, file: Path, elsewhere: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    url = new_url(news, request)
    (elsewhere / ".env").write_text(f"NEWSLETTER_PEPPER={'z' * 40}\n" + (f"DATABASE_URL={url}\n" if url else ""))
    assert restored(file, elsewhere) == 1
    assert ".env (other secrets)" in capsys.readouterr().err
    assert (elsewhere / ".env").read_text().startswith(f"NEWSLETTER_PEPPER={'z' * 40}\n")
    assert restored(file, elsewhere, "--replace") == 0
    (aside,) = elsewhere.glob("before-restore-*")
    assert (aside / ".env").read_text().startswith(f"NEWSLETTER_PEPPER={'z' * 40}\n")
    assert "z" * 40 not in (elsewhere / ".env").read_text()


def test_secrets_of_the_environment_that_do_not_fit_stop_a_restore(
    news: Config, file: Path, elsewhere: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_database(elsewhere, new_url(news, request))
    before = sorted(elsewhere.iterdir())
    monkeypatch.setenv("NEWSLETTER_PEPPER", "z" * 40)
    assert restored(file, elsewhere) == 1
    assert sorted(elsewhere.iterdir()) == before


def test_a_folder_of_something_else_is_refused(
    news: Config, file: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "letters").mkdir()
    assert restored(file, elsewhere, "--replace") == 1
    assert "neither empty nor a workspace (letters)" in capsys.readouterr().err
    assert [path.name for path in elsewhere.iterdir()] == ["letters"]


def test_while_a_worker_holds_a_lease_nothing_is_replaced(
    news: Config, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from newsletter.store import models

    models.Batch.objects.filter(state="leased").update(lease_until=time.time() + 60)
    assert restored(file, news.root, "--replace") == 1
    assert "a worker is sending from the database" in capsys.readouterr().err
    opened(news.root)
    assert models.Batch.objects.filter(lease_until__gt=time.time()).exists()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_a_file_that_another_process_has_open_is_not_replaced(
    news: Config, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(news.database)) as other:
        other.execute("SELECT count(*) FROM fact").fetchone()
        assert restored(file, news.root, "--replace") == 1
    assert "another process has" in capsys.readouterr().err
    assert not list(news.root.glob("subscribers/*.replaced-*"))


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_a_damaged_database_is_replaced_and_kept(news: Config, file: Path) -> None:
    from django.db import connections

    from newsletter.store import models

    connections.close_all()
    news.database.write_bytes(b"ruined " * 1000)
    assert restored(file, news.root) == 1
    assert restored(file, news.root, "--replace") == 0
    opened(news.root)
    assert models.Subscriber.objects.count() == 3
    (old,) = news.root.glob("subscribers/*.replaced-*Z")
    assert old.read_bytes() == b"ruined " * 1000


def test_a_restore_that_fails_at_the_last_step_leaves_the_database_as_it_was(
    news: Config, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.store import models

    models.Tag.objects.create(name="since then")
    before = rows()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("newsletter.store.backup._put_files", full)
    assert restored(file, news.root, "--replace") == 1
    opened(news.root)
    assert rows() == before


# --- nothing is believed ---


def rewritten(file: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """The backup once more, with its members changed."""
    with tarfile.open(file) as tar:
        members = [(entry, tar.extractfile(entry).read()) for entry in tar]  # type: ignore[union-attr]
    change(members)
    path = file.with_name("changed.tar.gz")
    with tarfile.open(path, "w:gz") as tar:
        for entry, content in members:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def entry(name: str, **values: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(made, key, value)
    return made


def manifest_with(**values: Any) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        last, content = members[-1]
        members[-1] = (last, json.dumps({**json.loads(content), **values}).encode())

    return change


def one_bit(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    last, content = members[0]
    members[0] = (last, bytes([content[0] ^ 1]) + content[1:])


def without_first(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    del members[0]


def without_last(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    del members[-1]


HOSTILE: dict[str, tuple[Callable[[list[tuple[tarfile.TarInfo, bytes]]], None], str]] = {
    "a path that leads out": (lambda m: m.insert(0, (entry("workspace/issues/../../x.yaml"), b"")), "has no business"),
    "an absolute path": (lambda m: m.insert(0, (entry("/etc/cron.d/x"), b"")), "has no business"),
    "a hidden file": (lambda m: m.insert(0, (entry("workspace/issues/.git/config"), b"")), "has no business"),
    "an .env": (lambda m: m.insert(0, (entry("workspace/.env"), b"")), "has no business"),
    "a symlink": (
        lambda m: m.insert(0, (entry("workspace/issues/x", type=tarfile.SYMTYPE, linkname="/etc"), b"")),
        "is no plain file",
    ),
    "a hard link": (
        lambda m: m.insert(0, (entry("workspace/issues/x", type=tarfile.LNKTYPE, linkname="/etc/passwd"), b"")),
        "is no plain file",
    ),
    "a device": (lambda m: m.insert(0, (entry("workspace/issues/x", type=tarfile.CHRTYPE), b"")), "is no plain file"),
    "a name twice": (lambda m: m.insert(1, m[0]), "is there twice"),
    "a member that the manifest lacks": (
        lambda m: m.insert(0, (entry("workspace/issues/x.yaml"), b"")),
        "issues/x.yaml: missing, or not what was backed up",
    ),
    "a member that is not there": (without_first, "missing, or not what was backed up"),
    "one bit": (one_bit, "missing, or not what was backed up"),
    "no manifest": (without_last, "it has no manifest.json"),
    "something after the manifest": (
        lambda m: m.append((entry("workspace/issues/x.yaml"), b"")),
        "after the manifest",
    ),
    "a format to come": (manifest_with(format=2, program="9.9"), "restore it with version 9.9"),
    "a manifest that is none": (manifest_with(members=None), "manifest.json cannot be read"),
    "another database": (manifest_with(database="oracle"), "holds no workspace"),
    "a newer schema": (manifest_with(migrations=["0001_first", "0999_z"]), "of a newer version of newsletter"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of an SQLite workspace; each test below gets a changed copy."""
    from django.db import connections

    root, path = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("backups") / "news.tar.gz"
    (root / "newsletter.yaml").write_text(
        "title: News\nsender: {name: News, address: news@example.org}\nbase_url: https://news.example.org\n"
    )
    (root / ".env").write_text(f"NEWSLETTER_SECRET_KEY={'k' * 40}\nNEWSLETTER_PEPPER={'p' * 40}\n")
    assert run(["-w", str(root), "backup", str(path)]) == 0
    connections.close_all()
    return path


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that_was_tampered_with_touches_nothing(
    plain: Path, elsewhere: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = HOSTILE[what]
    assert restored(rewritten(plain, change), elsewhere) == 1
    assert words in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "spoil",
    [cut, flipped, lambda _: b"", lambda _: b"not a tar", lambda _: gzip.compress(b"x" * 5000)],
)
def test_a_file_that_is_damaged_touches_nothing(
    plain: Path, elsewhere: Path, spoil: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    path = plain.with_name("spoilt.tar.gz")
    path.write_bytes(spoil(plain.read_bytes()))
    assert restored(path, elsewhere) == 1
    assert "spoilt.tar.gz: error: " in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_a_member_larger_than_the_disk_is_refused_before_it_is_written(
    plain: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from types import SimpleNamespace

    monkeypatch.setattr("newsletter.store.archive.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert restored(plain, elsewhere) == 1
    assert "which the disk does not have" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_a_folder_in_the_place_of_a_file_is_said_before_anything_is_touched(
    plain: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "newsletter.yaml").write_text("title: mine\n")
    (elsewhere / ".env").mkdir()
    assert restored(plain, elsewhere, "--replace") == 1
    assert "error" in capsys.readouterr().err
    assert (elsewhere / "newsletter.yaml").read_text() == "title: mine\n"


def test_rows_that_postgresql_does_not_take_are_refused_without_their_values(
    plain: Path, elsewhere: Path, postgresql: PostgreSQL, capsys: pytest.CaptureFixture[str]
) -> None:
    source = plain.parent.parent / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    assert restored(plain, source) == 0
    with closing(sqlite3.connect(source / "subscribers" / "newsletter.sqlite3")) as file, file:
        file.execute(
            "INSERT INTO subscriber (address_key, address, name, language, attributes, created_at)"
            " VALUES (x'00', 'secret@example.org', ?, ?, '{}', '2017-11-19 12:00:00')",
            ("secret", "secret" * 20),
        )
    path = plain.with_name(f"long-{os.getpid()}.tar.gz")
    path.unlink(missing_ok=True)
    assert run(["-w", str(source), "backup", str(path)]) == 0
    with_database(elsewhere, postgresql.new_database())
    capsys.readouterr()
    assert restored(path, elsewhere) == 1
    said = capsys.readouterr().err
    assert "PostgreSQL does not take a row of the backup: value too long" in said
    assert "secret" not in said
    assert [path.name for path in elsewhere.iterdir()] == [".env"]
