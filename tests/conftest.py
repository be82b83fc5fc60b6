"""What every test may use: a workspace of its own, two languages, nothing of the sample in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from databases import PostgreSQL
from newsletter.config import ENVIRONMENT, Config, load_config
from newsletter.settings import configure
from served_workspace import browser, make_workspace

__all__ = ["browser", "make_workspace"]  # fixtures of the tests with a browser

settings.register_profile("newsletter", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("newsletter")

NEWSLETTER_YAML = """\
title: {en: Valley News, es: Noticias del Valle}
sender:
  name: {en: Valley News, es: Noticias del Valle}
  address: news@example.org
languages: [en, es]
base_url: https://news.example.org
postal_address: 1 Mill Street, Exampletown
sections:
  justice: {en: Justice, es: Justicia}
  land: {en: Land, es: Tierra}
"""


SLOWEST = ("web/test_accessibility.py", "torture/", "web/test_browser.py", "web/test_erasure.py", "cli/test_demo.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose few tests take long begin first: at the end of a run one process would be alone with them."""
    ranks = {item: next((at for at, part in enumerate(SLOWEST) if part in item.path.as_posix()), 99) for item in items}
    items.sort(key=ranks.__getitem__)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace, and the current folder."""
    (tmp_path / "issues").mkdir()
    (tmp_path / "newsletter.yaml").write_text(NEWSLETTER_YAML, "utf-8")
    monkeypatch.chdir(tmp_path)
    for variable in ENVIRONMENT:
        monkeypatch.delenv(variable.name, raising=False)
    return Path()


@pytest.fixture
def config(workspace: Path) -> Config:
    return load_config(workspace, {})


SECRETS = {"NEWSLETTER_SECRET_KEY": "k" * 40, "NEWSLETTER_PEPPER": "p" * 40}


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server of this run."""
    server = PostgreSQL()
    yield server
    server.close()


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file without rows, to be copied."""
    root = tmp_path_factory.mktemp("sqlite")
    (root / "subscribers").mkdir()
    (root / "newsletter.yaml").write_text(NEWSLETTER_YAML, "utf-8")
    config = load_config(root, SECRETS)
    _migrate(config)
    return config.database


@pytest.fixture(scope="session")
def empty_postgresql(postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a migrated PostgreSQL database without rows, to be copied."""
    root = tmp_path_factory.mktemp("postgresql")
    (root / "newsletter.yaml").write_text(NEWSLETTER_YAML, "utf-8")
    postgresql.sql("CREATE DATABASE empty")
    _migrate(load_config(root, {**SECRETS, "DATABASE_URL": postgresql.url("empty")}))
    return "empty"


def _migrate(config: Config) -> None:
    from django.core.management import call_command
    from django.db import connections

    configure(config)
    call_command("migrate", verbosity=0)
    connections.close_all()


LISTS_YAML = """\
lists:
  - id: weekly
    name: {en: Weekly summary, es: Resumen semanal}
  - id: alerts
    name: {en: Alerts, es: Alertas}
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, workspace: Path) -> Iterator[Config]:
    """The configuration of an empty workspace with lists `weekly` and `alerts`, secrets, and an empty database: once
    SQLite, once PostgreSQL. Django is configured for it."""
    from django.db import connections

    (workspace / "subscribers").mkdir()
    (workspace / "subscribers" / "lists.yaml").write_text(LISTS_YAML, "utf-8")
    secrets = dict(SECRETS)
    if request.param == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        secrets["DATABASE_URL"] = server.new_database(request.getfixturevalue("empty_postgresql"))
    config = replace(load_config(workspace, secrets), root=workspace.absolute())
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("empty_sqlite"), config.database)
    (workspace / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()), "utf-8")
    configure(config)
    yield config
    connections.close_all()


@pytest.fixture(scope="session")
def empty_cluster(postgresql: PostgreSQL, empty_postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a PostgreSQL database without rows that has Procrastinate's tables as well, to be copied."""
    from django.db import connections

    root = tmp_path_factory.mktemp("cluster")
    (root / "newsletter.yaml").write_text(CLUSTER_YAML, "utf-8")
    postgresql.sql(f"CREATE DATABASE empty_cluster TEMPLATE {empty_postgresql}")
    config = load_config(root, {**SECRETS, "DATABASE_URL": postgresql.url("empty_cluster")})
    configure(config)
    from newsletter.store import schema

    schema.migrate(config)
    connections.close_all()
    return "empty_cluster"


CLUSTER_YAML = NEWSLETTER_YAML + "engine: cluster\n"


def cluster_workspace(workspace: Path, url: str) -> Config:
    """A workspace with lists `weekly` and `alerts`, secrets, `engine: cluster` and this database. Django is configured
    for it."""
    (workspace / "subscribers").mkdir()
    (workspace / "subscribers" / "lists.yaml").write_text(LISTS_YAML, "utf-8")
    (workspace / "newsletter.yaml").write_text(CLUSTER_YAML, "utf-8")
    secrets = {**SECRETS, "DATABASE_URL": url}
    (workspace / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()), "utf-8")
    config = replace(load_config(workspace, secrets), root=workspace.absolute())
    configure(config)
    return config


@pytest.fixture
def cluster(workspace: Path, postgresql: PostgreSQL, empty_cluster: str) -> Iterator[Config]:
    """The configuration of an empty workspace with `engine: cluster` and a database that is ready for it."""
    from django.db import connections

    yield cluster_workspace(workspace, postgresql.new_database(empty_cluster))
    connections.close_all()
