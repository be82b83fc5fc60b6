"""What a delivery costs the database: many workers, and a way out that answers at once and costs next to nothing.

    PYTHONPATH=. python benchmarks/fleet.py [RECIPIENTS] [--workers N …] [--rounds N] [--engine local|cluster] [--apart]

For each number of workers it prints deliveries per second, µs of CPU of the PostgreSQL server per delivery (claims,
intents and results; writing the recipients down is not counted) and of the workers, octets of write-ahead log, and what
a delivery takes on disk in the end, with its indexes; then the medians. A request has one reference for all of its
recipients, as at an API, or with --apart one for each, as over SMTP. A yardstick beside it, since machines differ: what
the server takes to update a row twice by its key, a thousand in a statement.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import psycopg
from mailing import server_cpu

from audience import add_people, editions
from databases import PostgreSQL
from newsletter.config import Config, load_config
from newsletter.envelope import Recipient
from newsletter.providers import Limits, Outcome, Recorder, WayOut
from newsletter.rendering.edition import Edition
from newsletter.settings import configure

WORKSPACE = """\
title: Valley News
sender: {name: Valley News, address: news@example.org}
languages: [en, es]
base_url: https://news.example.org
engine: ENGINE
"""
SECRETS = {"NEWSLETTER_SECRET_KEY": "k" * 40, "NEWSLETTER_PEPPER": "p" * 40}


class Nowhere:
    """Accepts every chunk at once, as an API would that costs nothing."""

    limits = Limits(chunk=1000, lanes=2, connections=2, leaves=False)

    def __init__(self, *, apart: bool) -> None:
        self._apart = apart

    def send(self, edition: Edition, recipients: Sequence[Recipient], recorder: Recorder) -> list[Outcome]:
        keys = [recipient.key for recipient in recipients]
        recorder.leaving_all(keys)
        outcomes = [
            Outcome(key, "accepted", provider_ref=f"queued as {key[:9]}" if self._apart else "nowhere") for key in keys
        ]
        recorder.answered_all(outcomes)
        return outcomes

    def close(self) -> None:
        """Nothing is held open."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipients", nargs="?", type=int, default=200_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engine", choices=("local", "cluster"), default="local")
    parser.add_argument("--apart", action="store_true")
    asked = parser.parse_args()
    server = PostgreSQL(durable=True)
    root = Path(tempfile.mkdtemp(prefix="newsletter-bench-"))
    try:
        print(f"yardstick    {_yardstick(server):.1f} µs of the server's CPU for two updates of a row", flush=True)
        config = _prepared(root, server, asked)
        issue = 0
        runs: dict[int, list[tuple[float, float, float]]] = {workers: [] for workers in asked.workers}
        for number in range(asked.rounds):
            for workers in asked.workers if number % 2 == 0 else reversed(asked.workers):
                issue += 1
                runs[workers].append(_round(config, server, f"2017-11-{issue:02}", workers, apart=asked.apart))
        for workers, taken in runs.items():
            print(f"{workers} workers    median{_said(*(median(each) for each in zip(*taken, strict=True)))}")
    finally:
        server.close()
        shutil.rmtree(root, ignore_errors=True)


def _prepared(root: Path, server: PostgreSQL, asked: argparse.Namespace) -> Config:
    (root / "subscribers").mkdir()
    (root / "newsletter.yaml").write_text(WORKSPACE.replace("ENGINE", asked.engine))
    (root / "subscribers" / "lists.yaml").write_text("lists:\n  - {id: weekly, name: Weekly}\n")
    secrets = {**SECRETS, "DATABASE_URL": server.new_database()}
    (root / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    config = load_config(root, {})
    configure(config)
    from newsletter.store import schema

    schema.migrate(config)
    add_people(config, range(1, asked.recipients + 1))
    return config


def _said(pace: float, database: float, spent: float) -> str:
    cpu = f"for each {database:5.1f} µs of the server's CPU and {spent:5.1f} µs of the workers'"
    return f"{pace:9,.0f} deliveries/s, {cpu}"


def _round(config: Config, server: PostgreSQL, issue: str, workers: int, *, apart: bool) -> tuple[float, float, float]:
    """One mailing by so many workers: deliveries per second, µs of the server and of the workers for each."""
    from django.db import connection

    from newsletter.store import lists, mailings
    from newsletter.store.ledger import tally

    mailing = mailings.open_mailing(
        editions(), issue=issue, list=lists.list_id(config, "weekly"), default_language="en", provider="nowhere"
    ).mailing
    while mailings.write_down(mailing):
        pass
    connection.close()
    mailings.pause(mailing, "until every worker is there")
    running = [
        subprocess.Popen(
            [sys.executable, __file__, "--worker", str(config.root), str(mailing), *["--apart"] * apart],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": "."},
        )
        for _ in range(workers)
    ]
    for worker in running:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    logged = _asked("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
    connection.close()
    before, begun = server_cpu(server.folder), time.monotonic()
    mailings.resume(mailing)
    while mailings.find(mailing).state != "finished":
        time.sleep(0.05)
    seconds, database = time.monotonic() - begun, server_cpu(server.folder) - before
    spent = sum(float(worker.communicate()[0]) for worker in running)
    counts = {state: count for state, count in tally(mailing).items() if count}
    size = sum(counts.values())
    logged = _asked("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn") - logged
    disk = _asked("SELECT pg_total_relation_size('delivery') / (SELECT count(*) FROM delivery)")
    connection.close()
    taken = size / seconds, database / size * 1e6, spent / size * 1e6
    print(
        f"{workers} workers    {_said(*taken)}, {logged / size:,.0f} octets of log, {disk:,.0f} on disk, "
        f"{json.dumps(counts)}, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return taken


def _asked(statement: str) -> float:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)
        return float(cursor.fetchone()[0])


def _work(root: Path, mailing: int, *, apart: bool) -> None:
    """A worker; prints the seconds of CPU that it took."""
    config = load_config(root, {})
    configure(config)
    from newsletter import engine
    from newsletter.store.mailings import find

    begun = 0.0

    def report(_: object) -> None:
        nonlocal begun
        if not begun:
            begun = time.process_time()
            print("ready", flush=True)

    ways = [WayOut(name="nowhere", provider=Nowhere(apart=apart))]
    engine.run(
        config,
        ways,
        stop=threading.Event(),
        until=lambda: find(mailing).state in ("finished", "cancelled"),
        report=report,
    )
    print(time.process_time() - begun)


def _yardstick(server: PostgreSQL, rows: int = 100_000) -> float:
    """µs of the server's CPU for two updates of a row by its key, a thousand rows in a statement."""
    with psycopg.connect(server.new_database(), autocommit=True) as connection:
        connection.execute("CREATE TABLE row (id bigint PRIMARY KEY, state text, at float8, detail text)")
        connection.execute(f"INSERT INTO row SELECT n, 'pending', 0, 'waits' FROM generate_series(1, {rows}) n")
        connection.execute("VACUUM ANALYZE row")
        before = server_cpu(server.folder)
        for state in ("sending", "accepted"):
            for first in range(1, rows, 1000):
                span = (first, first + 999)
                connection.execute(f"UPDATE row SET state = '{state}', at = at + 1 WHERE id BETWEEN %s AND %s", span)
        return (server_cpu(server.folder) - before) / rows * 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _work(Path(sys.argv[2]), int(sys.argv[3]), apart="--apart" in sys.argv)
    else:
        main()
