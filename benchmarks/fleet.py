"""What the ledger costs on PostgreSQL while several workers share it: claims, intents and results, and nothing else.

    PYTHONPATH=. python benchmarks/fleet.py [--size 200000] [--workers 4 8] [--rounds 3] [--lanes 2] [--apart] [--caps]

Every round opens a mailing of --size recipients and lets so many worker processes send it, for each number of --workers
in turn, then in the opposite order. The way out answers at once and keeps nothing, a thousand recipients in a request,
so that the ledger is what is measured. A request has one reference for all its recipients, as at an API, or with
--apart one for each, as over SMTP; --caps counts every message against caps that are never reached.

Prints for each run, per delivery: µs of CPU of the PostgreSQL server with all its processes, those that ended among
them, and of the workers (the dispatcher, the links, the driver); deliveries per second, and octets of WAL. Writing the
recipients down is printed apart. At the end the medians; and, from the first run, what share of the updates were HOT.

The server is one of our own with its usual settings; it waits for the disk. Before that it prints what `smtp-source`
takes for a message of 48 KB, in CPU: see mailing.py.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from mailing import SECRETS, WORKSPACE, free_port, postfix_sink, server_cpu, smtp_source

from audience import add_people, editions
from databases import PostgreSQL
from newsletter.config import NO_CAPS, Config, Pace, load_config
from newsletter.envelope import Recipient
from newsletter.providers import Limits, Outcome, Recorder, WayOut
from newsletter.rendering.edition import Edition
from newsletter.settings import configure

CAPS = Pace(per_hour=10**9, per_day=10**9)


class Nowhere:
    """Takes everything at once and keeps nothing."""

    def __init__(self, lanes: int, *, apart: bool) -> None:
        self.limits = Limits(chunk=1000, lanes=lanes, connections=lanes, leaves=False)
        self._apart = apart

    def send(self, edition: Edition, recipients: Sequence[Recipient], recorder: Recorder) -> list[Outcome]:
        # As long as SendGrid's X-Message-Id, and as Postfix's "queued as".
        common = recipients[0].key.ljust(22, "x")[:22]
        if self._apart:
            return [Outcome(each.key, "accepted", f"queued as {each.key[:9]}") for each in recipients]
        return [Outcome(each.key, "accepted", common) for each in recipients]

    def close(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=200_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--caps", action="store_true")
    parser.add_argument("--fillfactor", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="newsletter-bench-"))
    server = PostgreSQL(durable=True)
    try:
        yardstick()
        server.sql("CREATE DATABASE bench")
        config = _workspace(root, server)
        configure(config)
        from newsletter.store import schema

        schema.migrate(config)
        list_id = add_people(config, range(1, asked.size + 1))
        ways = [(workers, factor) for workers in asked.workers for factor in asked.fillfactor]
        runs: dict[tuple[int, int], list[tuple[float, float, float]]] = {way: [] for way in ways}
        for number in range(asked.rounds):
            for workers, factor in ways if number % 2 == 0 else reversed(ways):
                if factor:
                    server.sql(f"ALTER TABLE delivery SET (fillfactor = {factor})", "bench")
                    print(f"fillfactor {factor}")
                _open(list_id, server, asked.size)
                runs[workers, factor].append(_run(root, server, asked, workers))
        for (workers, factor), taken in runs.items():
            database, process, pace = (median(each) for each in zip(*taken, strict=True))
            print(
                f"median   {workers} workers{f', fillfactor {factor}' if factor else ''}   database {database:.1f} µs"
                f"   workers {process:.1f} µs   {pace:,.0f}/s"
            )
    finally:
        from django.db import connections

        connections.close_all()
        server.close()
        shutil.rmtree(root, ignore_errors=True)


def yardstick() -> None:
    """Prints what `smtp-source` takes: machines differ, and one machine differs from hour to hour."""
    port = free_port()
    sink = postfix_sink(port)
    try:
        print(f"smtp-source  {smtp_source(port):.1f} µs of CPU per message", flush=True)
    finally:
        sink.kill()


def _workspace(root: Path, server: PostgreSQL) -> Config:
    (root / "subscribers").mkdir()
    text = WORKSPACE.replace("PORT", "25").replace("CONNECTIONS", "1").replace("SECURITY", "none")
    (root / "newsletter.yaml").write_text(text)
    secrets = {**SECRETS, "DATABASE_URL": server.url("bench")}
    (root / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    return load_config(root)


def _open(list_id: int, server: PostgreSQL, size: int) -> None:
    """A mailing to everybody, written down."""
    from newsletter.store import mailings, models

    issue = f"round-{models.Round.objects.count() + 1}"
    before, begun = server_cpu(server.folder), time.monotonic()
    opened = mailings.open_mailing(
        editions(key=issue), issue=issue, list=list_id, default_language="en", provider="smtp"
    )
    while mailings.write_down(opened.mailing):
        pass
    used, seconds = server_cpu(server.folder) - before, time.monotonic() - begun
    print(f"opening  {'':11}database {used / size * 1e6:.1f} µs   {size / seconds:,.0f}/s", flush=True)
    server.sql("CHECKPOINT", "bench")


def _run(root: Path, server: PostgreSQL, asked: argparse.Namespace, workers: int) -> tuple[float, float, float]:
    """One mailing by so many workers: µs of the database and of the workers per delivery, deliveries per second."""
    words = [sys.executable, __file__, "--worker", str(root), str(asked.lanes), str(asked.apart), str(asked.caps)]
    fleet = [
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}
        )
        for _ in range(workers)
    ]
    for worker in fleet:  # started, and connected to nothing yet
        assert worker.stdout
        worker.stdout.readline()
    hot, updated = _updates()
    grown = _octets()
    wal, before, begun = _wal(), server_cpu(server.folder), time.time()
    for worker in fleet:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = [json.loads(worker.communicate()[0]) for worker in fleet]
    used = server_cpu(server.folder) - before
    seconds = _last_result() - begun
    answered = sum(each["answered"] for each in told)
    assert answered == asked.size, f"{answered} of {asked.size}: {told}"
    taken = (
        used / asked.size * 1e6,
        sum(each["cpu"] for each in told) / asked.size * 1e6,
        asked.size / seconds,
    )
    wal, (hot_after, updated_after) = _wal() - wal, _updates()
    hot_share = (hot_after - hot) / max(1, updated_after - updated)
    print(
        f"sending  {workers} workers  database {taken[0]:.1f} µs   workers {taken[1]:.1f} µs   {taken[2]:,.0f}/s"
        f"   WAL {wal / asked.size:.0f} octets   HOT {hot_share:.0%}"
        f"   disk +{(_octets() - grown) / asked.size:.0f} of {_octets() / _deliveries():.0f} octets"
        f"   {max(each['peak'] for each in told):.0f} MiB   load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return taken


def _row(statement: str) -> tuple[Any, ...]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)
        return tuple(cursor.fetchone())


def _wal() -> float:
    return float(_row("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")[0])


def _octets() -> int:
    """What the deliveries take on disk, with their indexes."""
    return int(_row("SELECT pg_total_relation_size('delivery')")[0])


def _deliveries() -> int:
    return int(_row("SELECT count(*) FROM delivery")[0])


def _last_result() -> float:
    return float(_row("SELECT max(at) FROM delivery WHERE state = 'accepted'")[0])


def _updates() -> tuple[int, int]:
    """How many updates of deliveries were HOT, and how many there were."""
    time.sleep(1.5)  # until every process of the server has told
    return _row("SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'delivery'")


def work(root: Path, lanes: int, *, apart: bool, caps: bool) -> None:
    """One worker, until no mailing is under way."""
    config = load_config(root)
    configure(config)
    from newsletter.engine import local
    from newsletter.store import models

    way = WayOut(name="smtp", provider=Nowhere(lanes, apart=apart), pace=CAPS if caps else NO_CAPS)
    print("ready", flush=True)
    sys.stdin.readline()
    began = _used()
    progress = local.run(
        config,
        [way],
        stop=threading.Event(),
        until=lambda: not models.Mailing.objects.filter(state__in=("opening", "sending"), kind="issue").exists(),
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"answered": progress.answered, "cpu": _used() - began, "peak": peak, "why": progress.trouble}))


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]), int(sys.argv[3]), apart=sys.argv[4] == "True", caps=sys.argv[5] == "True")
    else:
        main()
