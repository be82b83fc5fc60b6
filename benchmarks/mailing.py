"""What a mailing costs from the first recipient to the last: through the ledger, over SMTP, into postfix's smtp-sink.

    PYTHONPATH=. python benchmarks/mailing.py [RECIPIENTS] [--database sqlite|postgresql] [--connections N]
        [--late MILLISECONDS] [--hanging] [--tls] [--size OCTETS] [--people] [--opening]

Prints µs of CPU of the worker process per message (writing the recipients down is counted on its own), the peak of its
resident memory, messages per second, and on PostgreSQL the CPU of the server. `--late` answers every command that late
from a server of our own, `--hanging` lets one of its connections never answer, `--tls` speaks STARTTLS to it.
`--people` lets a thousand members leave in the middle and posts three confirmations: it prints for how long any of the
first got mail, and how long a confirmation waited. `--opening` ends when the recipients are written down.

Before that it prints what `smtp-source`, Postfix's own generator in C, takes for a message of this size into the same
kind of sink: machines differ, and one machine differs from hour to hour.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from audience import add_people, edition, editions
from databases import PostgreSQL
from newsletter.config import Config, load_config
from newsletter.settings import configure

WORKSPACE = """\
title: Valley News
sender: {name: Valley News, address: news@example.org}
languages: [en, es]
base_url: https://news.example.org
provider: smtp
smtp: {host: 127.0.0.1, port: PORT, security: SECURITY, connections: CONNECTIONS}
"""
SECRETS = {"NEWSLETTER_SECRET_KEY": "k" * 40, "NEWSLETTER_PEPPER": "p" * 40}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipients", nargs="?", type=int, default=100_000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--late", type=int, default=0)
    parser.add_argument("--hanging", action="store_true")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--size", type=int, default=48_000)
    parser.add_argument("--people", action="store_true")
    parser.add_argument("--opening", action="store_true")
    asked = parser.parse_args()
    server = PostgreSQL(durable=True) if asked.database == "postgresql" else None
    root = Path(tempfile.mkdtemp(prefix="newsletter-bench-"))
    port = _free_port()
    sink = _sink(port, root, asked)
    if not (asked.late or asked.tls or asked.hanging or asked.opening):
        print(f"smtp-source  {_smtp_source(port, asked):.1f} µs of CPU per message", flush=True)
    try:
        _prepare(root, port, asked, server)
        worker = subprocess.run(
            [
                sys.executable,
                __file__,
                "--worker",
                str(root),
                *["--people"] * asked.people,
                *["--opening"] * asked.opening,
            ],
            env={**os.environ, "PYTHONPATH": "."},
            check=True,
        )
        assert worker.returncode == 0
        if server:
            spent = server_cpu(server.folder) / asked.recipients * 1e6
            print(f"postgresql   {spent:.1f} µs of the server's CPU per message")
    finally:
        sink.kill()
        if server:
            server.close()
        shutil.rmtree(root, ignore_errors=True)


def _prepare(root: Path, port: int, asked: argparse.Namespace, server: PostgreSQL | None) -> None:
    """In a process of its own, so that the worker's memory is the worker's."""
    (root / "subscribers").mkdir()
    text = WORKSPACE.replace("PORT", str(port)).replace("CONNECTIONS", str(asked.connections))
    (root / "newsletter.yaml").write_text(text.replace("SECURITY", "starttls" if asked.tls else "none"))
    (root / "subscribers" / "lists.yaml").write_text("lists:\n  - {id: weekly, name: Weekly}\n")
    secrets = dict(SECRETS)
    if server:
        server.sql("CREATE DATABASE bench")
        secrets["DATABASE_URL"] = server.url("bench")
    (root / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    if os.fork() == 0:
        config = load_config(root)
        configure(config)
        from newsletter.store import mailings, schema

        schema.migrate(config)
        list_id = add_people(config, range(1, asked.recipients + 1))
        mailings.open_mailing(
            editions(asked.size), issue="2017-11-19", list=list_id, default_language="en", provider="smtp"
        )
        os._exit(0)
    _, status = os.wait()
    assert status == 0
    if server:
        server.sql("ANALYZE", "bench")


def work(root: Path, *, people: bool = False, only_opening: bool = False) -> None:
    """The worker: opens the mailing, sends it, says what that took."""
    config: Config = load_config(root)
    configure(config)
    from newsletter.engine import local
    from newsletter.providers import open_ways
    from newsletter.store import ledger, mailings

    began = _used()
    begun = time.monotonic()
    steps = [time.monotonic()]  # after each write transaction
    while mailings.write_down(1):
        steps.append(time.monotonic())
    steps.append(time.monotonic())
    # Before the first PostgreSQL is asked for statistics, and the last only counts.
    longest = max((after - before for before, after in pairwise(steps[1:-1])), default=0.0)
    opening, opening_seconds = _used() - began, time.monotonic() - begun
    audience = mailings.find(1).audience
    print(f"opening      {opening / audience * 1e6:.1f} µs of CPU per recipient, {opening_seconds:.1f} s", end="")
    print(f", the longest transaction {longest * 1000:.0f} ms", flush=True)
    if only_opening:
        return
    ways = open_ways(config)
    told: list[str] = []
    crowd = threading.Thread(target=_people, args=(config, told))
    if people:
        crowd.start()
    began, begun = _used(), time.monotonic()
    marks: list[tuple[float, int]] = []
    progress = local.run(
        config,
        ways,
        stop=threading.Event(),
        until=lambda: mailings.find(1).state in ("finished", "paused"),
        report=lambda so_far: marks.append((time.monotonic() - begun, so_far.answered)),
    )
    cpu, seconds = _used() - began, time.monotonic() - begun
    counts = {state: count for state, count in ledger.tally(1).items() if count}
    total = sum(counts.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"sending      {cpu / total * 1e6:.1f} µs of CPU per message, {total / seconds:,.0f} messages/s")
    at, answered = next(mark for mark in marks if mark[1] >= 0.98 * total) if total > 10_000 else marks[-1]
    print(f"pace         {answered / at:,.0f} messages/s until 98 % had an answer")
    print(f"peak memory  {peak:.0f} MiB")
    print(f"ledger       {json.dumps(counts)} {progress.trouble}{mailings.find(1).reason}")
    if people:
        crowd.join()
        print("\n".join(told))


def _people(config: Config, told: list[str]) -> None:
    """A thousand who leave while the mailing is sent, and three who sign up."""
    from django.db import connection
    from django.db.models import Max, Min

    from newsletter.store import models, subscribers
    from newsletter.store.mailings import post

    deliveries = models.Delivery.objects.filter(mailing=1)
    while deliveries.filter(state="accepted").count() < 1000:
        time.sleep(0.1)
    waits = []
    for number in range(3):
        begun = time.time()
        id = post(
            edition(key="confirm", kind="transactional"),
            key=f"confirm:{number}",
            address=f"new{number}@example.org",
            address_key=f"new{number}".encode(),
            slots={"CONFIRM_URL": "https://news.example.org/c/1", "NAME": ""},
            provider="smtp",
        )
        assert id
        while models.Delivery.objects.get(pk=id).state != "accepted":
            time.sleep(0.02)
        waits.append(time.time() - begun)
    waiting = deliveries.filter(state="pending").count()
    told.append(f"one-off mail left after {max(waits):.1f} s at most, while {waiting:,} waited")
    left: dict[int, float] = {}
    first, last = deliveries.aggregate(first=Min("pk"), last=Max("pk")).values()
    for row in deliveries.filter(state="pending", pk__in=range(first, last, max(1, (last - first) // 1000))):
        person = subscribers.find(config, row.address)
        assert person
        subscribers.unsubscribe(person, how="benchmark")
        left[row.pk] = time.time()
    while deliveries.filter(state__in=("pending", "sending")).exists():
        time.sleep(0.5)
    rows = deliveries.filter(pk__in=left, state="accepted").values_list("pk", "at")
    late = [at - left[id] for id, at in rows]
    told.append(f"left         {len(left):,}; {len(late)} of them had mail later, {max(late, default=0):.1f} s at most")
    connection.close()


def _smtp_source(port: int, asked: argparse.Namespace) -> float:
    program = shutil.which("smtp-source") or "/usr/sbin/smtp-source"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ["-m", "20000", "-s", str(asked.connections), "-l", str(asked.size), "-d", f"127.0.0.1:{port}"]
    subprocess.run([program, *words], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 20000 * 1e6


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def server_cpu(folder: Path) -> float:
    """Seconds of CPU that the server whose data lies in `folder` has used, with its children that ended."""
    total = 0.0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{folder}/data".encode() in (entry / "cmdline").read_bytes() or _parent_is(entry, folder):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                total += sum(int(each) for each in fields[11:15]) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return total


def _parent_is(entry: Path, folder: Path) -> bool:
    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
    return f"{folder}/data".encode() in Path(f"/proc/{parent}/cmdline").read_bytes()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _sink(port: int, root: Path, asked: argparse.Namespace) -> subprocess.Popen[bytes]:
    if asked.late or asked.tls or asked.hanging:
        words = [sys.executable, str(Path(__file__).parent / "late_sink.py"), str(port), str(asked.late)]
        words += ["--hanging"] if asked.hanging else []
        if asked.tls:
            authority = root / "authority.pem"  # a new file of ours: the variable may name the system's own
            os.environ["SSL_CERT_FILE"] = str(authority)
            words += ["--tls", str(authority)]
        process = subprocess.Popen(words)
    else:
        program = shutil.which("smtp-sink") or "/usr/sbin/smtp-sink"
        process = subprocess.Popen([program, "-u", "nobody", f"127.0.0.1:{port}", "1000"])
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    raise RuntimeError("the mail server did not start")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]), people="--people" in sys.argv, only_opening="--opening" in sys.argv)
    else:
        main()
