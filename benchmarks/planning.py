"""What `newsletter send DATE --dry-run` takes for a large list, from the command line to the last line that it prints.

    PYTHONPATH=. python benchmarks/planning.py [SUBSCRIBERS] [--database sqlite|postgresql …] [--rounds 3] [--sent]

A million subscribers by default, half of them English and half Spanish readers, one in fifty has left the list, one in
a hundred is suppressed, every one has a time zone. Prints the seconds, of which so many are CPU of the command and on
PostgreSQL of the server, and the peak of the command's memory: for everybody, for a segment by language and one by an
attribute, and at the same hour of everybody's own day. `--sent`: the issue has reached nine of ten already.

Beside it, since machines differ: what the database takes to read both tables from end to end.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from mailing import SECRETS, server_cpu
from pipeline import workspace

from audience import add_people, editions
from databases import PostgreSQL
from newsletter.config import load_config
from newsletter.settings import configure

ISSUE = "2026-01-04"
SEGMENTS = """\
lists:
  - {id: weekly, name: Weekly}
segments:
  north:
    attributes: [{name: place, equals: north}]
"""
ZONES = (
    "Europe/Madrid",
    "America/Lima",
    "America/Bogota",
    "Europe/Berlin",
    "America/New_York",
    "UTC",
    "Asia/Tokyo",
    "",
)
QUESTIONS = {
    "everybody": [],
    "--segment language=es": ["--segment", "language=es"],
    "--segment north": ["--segment", "north"],
    "--at … --at-local": ["--at", f"{date.today() + timedelta(days=30)} 08:00 Europe/Madrid", "--at-local"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subscribers", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--database", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sent", action="store_true")
    asked = parser.parse_args()
    for database in asked.database:
        server = PostgreSQL(durable=True) if database == "postgresql" else None
        root = Path(tempfile.mkdtemp(prefix="newsletter-bench-"))
        try:
            _prepare(root, server, asked)
            print(f"{database:<12} reading both tables {_alone(root, '--read'):.2f} s", flush=True)
            said = ""
            for name, options in QUESTIONS.items():
                runs = [_ask(root, server, options) for _ in range(asked.rounds)]
                said = runs[-1][4]
                memory = max(run[3] for run in runs)
                wall, cpu, of_server = (median(each) for each in list(zip(*runs, strict=True))[:3])
                print(
                    f"{database:<12} {name:<22} {wall:.2f} s, CPU {cpu:.2f} s"
                    f"{f' and {of_server:.2f} s of the server' if server else ''}, {memory:.0f} MiB"
                    f"   ({', '.join(f'{run[0]:.2f}' for run in runs)}; load {os.getloadavg()[0]:.1f})",
                    flush=True,
                )
            print(said.strip().splitlines()[1])
        finally:
            if server:
                server.close()
            shutil.rmtree(root, ignore_errors=True)


def _prepare(root: Path, server: PostgreSQL | None, asked: argparse.Namespace) -> None:
    workspace(root, issues=1, stories=10)
    (root / "subscribers").mkdir()
    (root / "subscribers" / "lists.yaml").write_text(SEGMENTS)
    secrets = {**SECRETS, **({"DATABASE_URL": server.new_database()} if server else {})}
    (root / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    _alone(root, "--fill", str(asked.subscribers), *["--sent"] * asked.sent)


def _alone(root: Path, *words: str) -> float:
    """Does a step in a process of its own; what it printed, or 0.0."""
    done = subprocess.run(
        [sys.executable, __file__, str(root), *words], check=True, capture_output=True, text=True, env=_environment()
    )
    return float(done.stdout.split()[-1]) if done.stdout else 0.0


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def fill(root: Path, count: int, *, sent: bool) -> None:
    """The people of a workspace."""
    config = load_config(root)
    configure(config)
    from django.db import connection

    from newsletter.store import mailings, schema

    schema.migrate(config)
    list_id = add_people(config, range(1, count + 1))
    zone = "CASE id % 8 " + " ".join(f"WHEN {number} THEN '{name}'" for number, name in enumerate(ZONES)) + " END"
    place = "CASE id % 4 WHEN 0 THEN 'north' WHEN 1 THEN 'south' ELSE 'elsewhere' END"
    made = (
        f"jsonb_build_object('timezone', {zone}, 'place', {place})"
        if server_side()
        else f"json_object('timezone', {zone}, 'place', {place})"
    )
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE subscriber SET attributes = {made}")
        cursor.execute("UPDATE subscription SET state = 'unsubscribed' WHERE subscriber_id % 50 = 7")
        cursor.execute(
            "INSERT INTO suppression (address_key, reason, note, at)"
            " SELECT address_key, 'bounce', '', created_at FROM subscriber WHERE id % 100 = 3"
        )
        if sent:
            cursor.execute("UPDATE subscription SET state = 'unconfirmed' WHERE subscriber_id % 10 = 9")
    if sent:
        opened = mailings.open_mailing(editions(), issue=ISSUE, list=list_id, default_language="en", provider="outbox")
        while mailings.write_down(opened.mailing):
            pass
        with connection.cursor() as cursor:
            cursor.execute("UPDATE subscription SET state = 'subscribed' WHERE subscriber_id % 10 = 9")
    if server_side():
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


def server_side() -> bool:
    from django.db import connection

    return connection.vendor == "postgresql"


def read(root: Path) -> None:
    """Prints how long it takes to read subscribers and subscriptions once."""
    configure(load_config(root))
    from django.db import connection

    with connection.cursor() as cursor:
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            cursor.execute("SELECT max(length(address) + length(language)) FROM subscriber")
            cursor.fetchall()
            cursor.execute("SELECT max(length(state)) FROM subscription")
            cursor.fetchall()
            times.append(time.perf_counter() - begun)
    print(median(times))


def _ask(root: Path, server: PostgreSQL | None, options: list[str]) -> tuple[float, float, float, float, str]:
    """Wall, CPU of the command, CPU of the server, peak memory in MiB, and what it said."""
    words = [sys.executable, "-m", "newsletter", "-w", str(root), "send", ISSUE, "--dry-run", *options]
    before, begun = server_cpu(server.folder) if server else 0.0, time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment())
    assert process.stdout
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    assert re.search(r"Nothing was sent", said), said
    of_server = server_cpu(server.folder) - before if server else 0.0
    return wall, used.ru_utime + used.ru_stime, of_server, used.ru_maxrss / 1024, said


if __name__ == "__main__":
    if sys.argv[2:3] == ["--fill"]:
        fill(Path(sys.argv[1]), int(sys.argv[3]), sent="--sent" in sys.argv)
    elif sys.argv[2:3] == ["--read"]:
        read(Path(sys.argv[1]))
    else:
        main()
