"""What an import costs: a file of made-up subscribers into an empty database, and the same file once more.

    PYTHONPATH=.:tests python benchmarks/importing.py [ROWS [sqlite|postgresql]…]        1,000,000 and both by default

Each row has an address, a name, a language and two tags, and becomes a subscription. For each database it prints the
time of the whole import, the CPU time of this process, the longest write transaction, and the peak of resident memory;
each import runs in a process of its own. PostgreSQL is started for the occasion, with fsync on.
"""

from __future__ import annotations

import csv
import gc
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from databases import PostgreSQL
from newsletter.config import Config, load_config

WORKSPACE = """\
title: Valley News
sender: {name: Valley News, address: news@example.org}
languages: [en, es]
base_url: https://news.example.org
"""
SECRETS = {"NEWSLETTER_SECRET_KEY": "k" * 40, "NEWSLETTER_PEPPER": "p" * 40}
TAGS = ("member", "donor", "press", "board", "volunteer")


def write_people(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["email", "name", "language", "tags"])
        for number in range(rows):
            name = f"Reader {number}" if number % 3 else f"Lectora Ñáñez {number}"
            tags = f"{TAGS[number % 5]},{TAGS[(number + 1 + number % 3) % 5]}"
            writer.writerow([f"reader.{number}@mail{number % 977}.example.org", name, ("en", "es")[number % 2], tags])


def run(config: Config, path: Path, title: str) -> None:
    from newsletter.settings import configure

    gc.set_threshold(20_000, 50, 50)  # as the command line does
    configure(config)
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    from newsletter.store.importing import import_file

    begun, used = time.perf_counter(), time.process_time()
    report = import_file(config, path, consent="Made up for a benchmark.")
    wall, cpu = time.perf_counter() - begun, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{title:<22} {report.rows:>9,} rows {wall:>6.1f} s, {cpu:>5.1f} s CPU, new {report.new:,}, unchanged "
        f"{report.unchanged:,}, longest transaction {report.longest_transaction * 1000:.0f} ms, peak {peak:.0f} MiB",
        flush=True,
    )


def main(rows: int, databases: list[str]) -> None:
    print(f"load of this machine: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path = root / "people.csv"
        write_people(path, rows)
        print(f"file                   {path.stat().st_size / 1e6:.0f} MB")
        for database in databases:
            (root / database / "subscribers").mkdir(parents=True)
            (root / database / "newsletter.yaml").write_text(WORKSPACE, "utf-8")
            server = PostgreSQL(durable=True) if database == "postgresql" else None
            url = {"DATABASE_URL": server.new_database()} if server else {}
            config = load_config(root / database, {**SECRETS, **url})
            for title in ("empty database", "once more"):
                process = multiprocessing.get_context("spawn").Process(
                    target=run, args=(config, path, f"{database}, {title}")
                )
                process.start()
                process.join()
            if server:
                server.close()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(arguments[0]) if arguments else 1_000_000, arguments[1:] or ["sqlite", "postgresql"])
