"""Whether a claim costs the same however large the ledger has grown.

    PYTHONPATH=. python benchmarks/claims.py [--database sqlite|postgresql] [DELIVERIES …]     10,000 to 10,000,000

For each size a ledger of finished mailings is made by plain SQL, then one of 20,000 recipients is opened and worked
through without a provider. Prints the median of claim, of a chunk's intent and result, and of release, in ms of wall
time, of which most is the wait for the disk.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from mailing import SECRETS, WORKSPACE

from audience import add_people, editions
from databases import PostgreSQL
from newsletter.config import load_config
from newsletter.recorder import Outcome
from newsletter.settings import configure

FRESH = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("deliveries", nargs="*", type=int, default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    asked = parser.parse_args()
    server = PostgreSQL(durable=True) if asked.database == "postgresql" else None
    root = Path(tempfile.mkdtemp(prefix="newsletter-bench-"))
    try:
        (root / "subscribers").mkdir()
        text = WORKSPACE.replace("PORT", "25").replace("CONNECTIONS", "1").replace("SECURITY", "none")
        (root / "newsletter.yaml").write_text(text)
        secrets = dict(SECRETS)
        if server:
            server.sql("CREATE DATABASE bench")
            secrets["DATABASE_URL"] = server.url("bench")
        config = load_config(root, secrets)
        configure(config)
        from newsletter.store import schema

        schema.migrate(config)
        list_id = add_people(config, range(1, FRESH + 1))
        for number, size in enumerate(sorted(asked.deliveries)):
            _grow(size)
            print(f"{_count():>12,} deliveries   {_measure(list_id, f'fresh-{number}')}")
    finally:
        if server:
            from django.db import connections

            connections.close_all()
            server.close()
        shutil.rmtree(root, ignore_errors=True)


def _count() -> int:
    from newsletter.store import models

    return models.Delivery.objects.count()


def _grow(size: int) -> None:
    """Finished mailings of 20,000 each, to so many deliveries in all."""
    from django.db import connection, transaction

    from newsletter.store import mailings, models

    for there in range(_count(), size, FRESH):  # counted once: it takes as long as the table is
        part = min(FRESH, size - there)
        with transaction.atomic(), connection.cursor() as cursor:
            round = models.Round.objects.create(issue=f"old-{there}", number=1)
            old = models.Mailing.objects.create(
                kind="issue",
                round=round,
                state="finished",
                provider="x",
                audience=part,
                created_at=_now(),
                watched_at=_now(),
            )
            edition = models.Edition.objects.create(mailing=old, language="en", hash=str(there), content="{}")
            cursor.execute(
                "INSERT INTO delivery (mailing_id, subscriber_id, round_id, address, address_key, language, state,"
                " epoch, attempts, not_before, at, provider_ref, detail)"
                " SELECT %s, id, %s, address, address_key, language, 'accepted', 1, 1, 0, 0, 'queued as 4F2AB', ''"
                " FROM subscriber ORDER BY id LIMIT %s",
                (old.pk, round.pk, part),
            )
            cursor.execute("SELECT max(id) FROM delivery")
            last = int(cursor.fetchone()[0])
            mailings._add_batches(  # noqa: SLF001
                cursor, old.pk, edition.pk, last - part + 1, last
            )
            cursor.execute("UPDATE batch SET state = 'done' WHERE mailing_id = %s", (old.pk,))
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


def _now() -> str:
    return "2026-01-01T00:00Z"


def _measure(list_id: int, issue: str) -> str:
    from newsletter.store import ledger, mailings

    opened = mailings.open_mailing(
        editions(key=issue), issue=issue, list=list_id, default_language="en", provider="smtp"
    )
    while mailings.write_down(opened.mailing):
        pass
    claims, turns, releases = [], [], []
    while True:
        begun = time.perf_counter()
        claim = ledger.claim(owner="bench", lease=60, now=time.time())
        if claim is None:
            break
        claims.append(time.perf_counter() - begun)
        chunk = ledger.turn(claim, (), start=claim.first, limit=250, lease=60, now=time.time())
        while chunk.due:
            results = [(due.id, Outcome(str(due.id), "accepted", f"queued as {due.id}")) for due in chunk.due]
            begun = time.perf_counter()
            chunk = ledger.turn(claim, results, start=chunk.next, limit=250, lease=60, now=time.time())
            turns.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        ledger.release(claim, now=time.time())
        releases.append(time.perf_counter() - begun)
    mailings.finish()
    times = (median(each) * 1000 for each in (claims, turns, releases))
    return "claim {:.2f} ms   chunk of 250 {:.2f} ms   release {:.2f} ms".format(*times)


if __name__ == "__main__":
    main()
