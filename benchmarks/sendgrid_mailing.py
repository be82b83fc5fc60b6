"""A mailing through the ledger and the sendgrid provider, to a local server that answers late.

    PYTHONPATH=.:tests python benchmarks/sendgrid_mailing.py [RECIPIENTS] [--delay SECONDS] [--connections N]
        [--database sqlite|postgresql] [--size OCTETS]

Prints recipients per second beside what the latency allows (connections × 1,000 ÷ delay), ms of CPU of the worker per
1,000 recipients, and the peak of its memory. The server is a process of its own and does not validate; writing the
recipients down is not counted.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from audience import add_people, editions
from databases import PostgreSQL
from newsletter.config import Sendgrid, load_config
from newsletter.settings import configure

WORKSPACE = """\
title: Valley News
sender: {name: Valley News, address: news@example.org}
languages: [en, es]
base_url: https://news.example.org
provider: sendgrid
"""
SECRETS = {"NEWSLETTER_SECRET_KEY": "k" * 40, "NEWSLETTER_PEPPER": "p" * 40, "NEWSLETTER_SENDGRID_KEY": "SG.test-key"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipients", nargs="?", type=int, default=200_000)
    parser.add_argument("--delay", type=float, default=0.15)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--size", type=int, default=48_000)
    asked = parser.parse_args()
    database = PostgreSQL(durable=True) if asked.database == "postgresql" else None
    root = Path(tempfile.mkdtemp(prefix="newsletter-bench-"))
    server = subprocess.Popen(
        [sys.executable, "-m", "sendgrid_server", "--delay", str(asked.delay), "--no-validate"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "tests:."},
    )
    try:
        assert server.stdout
        port = int(server.stdout.readline())
        secrets = {**SECRETS, **({"DATABASE_URL": database.new_database()} if database else {})}
        (root / "subscribers").mkdir()
        (root / "newsletter.yaml").write_text(WORKSPACE)
        (root / "subscribers" / "lists.yaml").write_text("lists:\n  - {id: weekly, name: Weekly}\n")
        (root / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
        for step in ("prepare", "work"):  # in processes of their own: the worker's memory is the worker's
            words = [str(each) for each in (root, port, asked.connections, asked.recipients, asked.size)]
            subprocess.run(
                [sys.executable, __file__, f"--{step}", *words], check=True, env={**os.environ, "PYTHONPATH": ".:tests"}
            )
        allowed = asked.connections * 1000 / asked.delay if asked.delay else float("inf")
        print(f"the latency allows {allowed:,.0f} recipients/s")
    finally:
        server.kill()
        if database:
            database.close()
        shutil.rmtree(root, ignore_errors=True)


def _prepare(root: Path, recipients: int, size: int) -> None:
    config = load_config(root, {})
    configure(config)
    from newsletter.store import mailings, schema

    schema.migrate(config)
    list_id = add_people(config, range(1, recipients + 1))
    mailings.open_mailing(editions(size), issue="2017-11-19", list=list_id, default_language="en", provider="sendgrid")
    while mailings.write_down(1):
        pass


def _work(root: Path, port: int, connections: int) -> None:
    config = load_config(root, {})
    configure(config)
    from newsletter.engine import local
    from newsletter.providers import WayOut
    from newsletter.providers.sendgrid import SendgridProvider
    from newsletter.store import ledger, mailings

    settings = Sendgrid(key="SG.test-key", connections=connections)
    ways = [WayOut(name="sendgrid", provider=SendgridProvider(settings, host=f"http://127.0.0.1:{port}"))]
    begun, spent = time.monotonic(), time.process_time()
    over: list[float] = []

    def until() -> bool:
        if not over and mailings.find(1).state in ("finished", "paused"):
            over.append(time.monotonic())
        return bool(over)

    local.run(config, ways, stop=threading.Event(), until=until)
    seconds, cpu = over[0] - begun, time.process_time() - spent
    counts = {state: count for state, count in ledger.tally(1).items() if count}
    size = sum(counts.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{size / seconds:,.0f} recipients/s, {cpu / size * 1e6:.1f} ms of CPU per 1,000, peak {peak:.0f} MiB")
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        _prepare(Path(sys.argv[2]), int(sys.argv[5]), int(sys.argv[6]))
    elif sys.argv[1:2] == ["--work"]:
        _work(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
