"""What the pages stand: requests per second, and how long an answer takes while a mailing is sent and people imported.

    PYTHONPATH=.:tests python benchmarks/serving.py [PEOPLE] [--database sqlite|postgresql] [--beside N] [--seconds N]
        [--only full,half,busy,mix,first] [--kinds one-click,sign-up,archive] [--threads N] [--keep FOLDER]

A database of PEOPLE (default 1,000,000) who have all been sent an issue, two server processes as `newsletter serve`
starts them, and a client on the same machine that costs them some of its time. It prints, for each kind of request:

- full: requests per second of 64 connections that ask again as soon as they are answered, µs of CPU of
  the servers per request, and how long answers took (half of them, 99 of 100, the slowest);
- half: as many requests per second as half the aim, sent at their times whether or not earlier ones are answered, and
  measured from the time at which they were due: alone (half), and while `newsletter worker` sends 100,000 messages over
  SMTP and `newsletter subscribers import` reads 100,000 rows, one kind after the other (busy) and all at once (mix);
- first: the time to the first octet of every kind of page, warm, one after the other.

At the end: CPU and peak memory of each server process, and how long a file waits for the disk, which other programs
that write make longer.

`--keep` leaves the database in a folder, or takes it from there (SQLite only). PostgreSQL is started with fsync on.
"""

from __future__ import annotations

import argparse
import csv
import gc
import math
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import urlencode

from django.conf import settings
from django.db import connections
from mailing import server_cpu

from audience import add_people, editions
from databases import PostgreSQL
from newsletter.config import Config, load_config
from newsletter.settings import configure

WORKSPACE = """\
title: {en: Valley News, es: Noticias del Valle}
sender: {name: Valley News, address: news@example.org}
languages: [en, es]
base_url: http://127.0.0.1
provider: smtp
smtp: {host: 127.0.0.1, port: PORT, security: none}
web: {per_network: 1000000, per_minute: 1000000}
"""
LISTS = """\
lists:
  - {id: weekly, name: {en: Weekly, es: Semanal}}
  - {id: alerts, name: {en: Alerts, es: Alertas}}
"""
SECRETS = {"NEWSLETTER_SECRET_KEY": "k" * 40, "NEWSLETTER_PEPPER": "p" * 40}
ISSUE, NEXT_ISSUE = "2017-11-19", "2017-11-26"
AIMS = {"one-click": 1500, "sign-up": 500, "archive": 6000}  # requests per second
CONNECTIONS = 64  # of each kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("people", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--beside", type=int, default=100_000, help="how many are mailed, and imported")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", default="full,half,busy,mix,first")
    parser.add_argument("--kinds", default=",".join(AIMS))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    for database in asked.database or ("sqlite", "postgresql"):
        print(f"{database}, {asked.people:,} people; {_load()}", flush=True)
        server = PostgreSQL(durable=True) if database == "postgresql" else None
        root = asked.keep if asked.keep and not server else Path(tempfile.mkdtemp(prefix="newsletter-pages-"))
        try:
            _measure(root, server, asked)
        finally:
            if server:
                server.close()
            if root != asked.keep:
                shutil.rmtree(root, ignore_errors=True)


# --- the workspace ----------------------------------------------------------------------------------------------------


def _prepare(root: Path, people: int, beside: int, port: int, server: PostgreSQL | None) -> None:
    """In a process of its own: this one only asks."""
    kept = root / f"people-{people}-{beside}"
    (root / "subscribers").mkdir(parents=True, exist_ok=True)
    (root / "issues").mkdir(exist_ok=True)
    (root / "newsletter.yaml").write_text(WORKSPACE.replace("PORT", str(port)))
    (root / "subscribers" / "lists.yaml").write_text(LISTS)
    secrets = dict(SECRETS)
    if server:
        server.sql("CREATE DATABASE bench")
        secrets["DATABASE_URL"] = server.url("bench")
    (root / ".env").write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    if server or not kept.exists():
        _in_a_child(lambda: _fill(load_config(root), people, beside))
        kept.touch()
    if server:
        server.sql("VACUUM ANALYZE", "bench")


def _in_a_child(work: Callable[[], None]) -> None:
    if settings.configured:
        connections.close_all()
    if os.fork() == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.wait()
    assert status == 0


def _fill(config: Config, people: int, beside: int) -> None:
    """People on a list who were all sent an issue, and others on a second list, whom nothing was sent."""
    configure(config)
    from django.db import connection

    from newsletter.store import mailings, models, schema

    schema.migrate(config)
    weekly = add_people(config, range(1, people + 1))
    add_people(config, range(people + 1, people + beside + 1), list="alerts")
    opened = mailings.open_mailing(editions(), issue=ISSUE, list=weekly, default_language="en", provider="smtp")
    while mailings.write_down(opened.mailing):
        pass
    models.Mailing.objects.filter(pk=opened.mailing).update(state="finished")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE batch SET state = 'done'")
        cursor.execute("UPDATE delivery SET state = 'accepted', attempts = 1")
        if connection.vendor == "postgresql":  # add_people gave out ids by itself
            cursor.execute("SELECT setval(pg_get_serial_sequence('subscriber', 'id'), max(id)) FROM subscriber")
    connection.close()


def _open_next(config: Config, number: int) -> None:
    """Another issue for the second list, yet to be written down and sent."""
    configure(config)
    from newsletter.store import mailings, models

    alerts = models.List.objects.get(name="alerts").pk
    issue = f"{NEXT_ISSUE}-{number}"
    sizes = editions(48_000, key=issue)
    mailings.open_mailing(sizes, issue=issue, list=alerts, default_language="en", provider="smtp")


# --- the servers ------------------------------------------------------------------------------------------------------


@contextmanager
def _serving(root: Path, threads: int | None) -> Iterator[tuple[str, int, list[int]]]:
    """Host, port and server processes of `newsletter serve`."""
    words = [*_newsletter(root), "serve", "--port", "0", "--processes", "2", "--no-worker"]
    words += ["--threads", str(threads)] * (threads is not None)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        address = re.search(r"http://(\S+?)/ ", process.stdout.readline())
        assert address
        host, _, port = address[1].partition(":")
        children: list[int] = []
        while len(children) < 2:
            time.sleep(0.1)
            children = _children(process.pid)
        yield host, int(port), children
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _newsletter(root: Path) -> list[str]:
    return [sys.executable, "-m", "newsletter", "-w", str(root)]


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _used(pids: list[int]) -> float:
    """Seconds of CPU of some processes."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def _peak(pid: int) -> float:
    """MiB of resident memory at most."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


# --- what is asked ----------------------------------------------------------------------------------------------------


Requests = Iterator[bytes]
Kinds = Mapping[str, tuple[Requests, float | None]]  # with how many a second


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Language: en\r\n\r\n".encode()


def _post(path: str, body: str) -> bytes:
    kind = "application/x-www-form-urlencoded"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def _one_clicks(config: Config, deliveries: Iterator[int]) -> Requests:
    """Somebody else leaves each time, anywhere in the list."""
    from newsletter.store.keys import keyring

    ring = keyring(config)
    for delivery in deliveries:
        yield _post(f"/u/{ring.token('unsubscribe', delivery)}", "List-Unsubscribe=One-Click")


def _sign_ups(page: str) -> Requests:
    """Somebody new signs up each time, with the fields of a page that was fetched some seconds ago."""
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    for number in count(random.randrange(10**9) * 1000):
        fields = {**hidden, "email": f"new.{number}@example.net", "name": "New", "list": "weekly", "language": "en"}
        yield _post("/signup/?lang=en", urlencode(fields))


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Times:
    """How long answers took in seconds, with the moment at which each request was due."""

    took: list[tuple[float, float]] = field(default_factory=list)
    statuses: dict[bytes, int] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, due: float, answered: float, status: bytes) -> None:
        self.took.append((due, answered - due))
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def quantile(self, share: float, between: tuple[float, float] | None = None) -> float:
        took = sorted(time for due, time in self.took if between is None or between[0] <= due <= between[1])
        return took[min(len(took) - 1, int(share * len(took)))] if took else 0.0

    def words(self, between: tuple[float, float] | None = None) -> str:
        half, late, last = (self.quantile(share, between) * 1000 for share in (0.5, 0.99, 1.0))
        wrong = {status.decode(): number for status, number in self.statuses.items() if status != b"200"}
        return f"{half:6.1f} {late:7.1f} {last:7.1f} ms{f'  {wrong}' if wrong else ''}"


class _Connection:
    """A connection that is kept, and what is still to come of an answer."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.socket = socket.create_connection(place)
        self.due, self.got = 0.0, b""
        self.missing = -1  # octets; -1: the head is not here yet

    def ask(self, request: bytes, due: float) -> None:
        self.due, self.got, self.missing = due, b"", -1
        self.socket.sendall(request)

    def read(self) -> bytes | None:
        """The status once the answer is whole; "closed" when the server has closed the connection."""
        part = self.socket.recv(262_144)
        if not part:
            return b"closed"
        if self.missing < 0:
            self.got += part
            head, blank, rest = self.got.partition(b"\r\n\r\n")
            if not blank:
                return None
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            self.missing = int(length[1]) - len(rest) if length else 0
        else:
            self.missing -= len(part)
        return self.got[9:12] if self.missing <= 0 else None


class _Stream:
    """Requests of one kind on connections of their own: so many a second, at random moments as people come, whether or
    not earlier ones are answered; or (no rate) as fast as answers come."""

    def __init__(self, place: tuple[str, int], poll: select.epoll, requests: Requests, rate: float | None) -> None:
        self.times = Times()
        self._place, self._poll = place, poll
        self._free = deque(_Connection(place) for _ in range(CONNECTIONS))
        self.of_number = {each.socket.fileno(): each for each in self._free}
        for number in self.of_number:
            poll.register(number, select.EPOLLIN)
        self._requests, self._rate = requests, rate
        self._due: deque[float] = deque()  # moments of requests that wait for a connection
        self.next = time.perf_counter() if rate else math.inf

    def ask(self, now: float) -> None:
        while self._rate and self.next <= now:
            self._due.append(self.next)
            self.next += random.expovariate(self._rate)
        while self._free and (self._due or not self._rate):
            self._free.popleft().ask(next(self._requests), self._due.popleft() if self._rate else now)

    def answered(self, connection: _Connection) -> None:
        status = connection.read()
        if status == b"closed":  # it was idle for long, unless it is waited for
            del self.of_number[connection.socket.fileno()]
            connection.socket.close()
            connection.socket = socket.create_connection(self._place)
            self._poll.register(connection.socket, select.EPOLLIN)
            self.of_number[connection.socket.fileno()] = connection
        if status is not None and connection not in self._free:
            self.times.add(connection.due, time.perf_counter(), status)
            self._free.append(connection)

    def ended(self) -> bool:
        """To be called when no more shall be asked: whether all is answered."""
        self.next = math.inf
        while self._free and self._due:
            self._free.popleft().ask(next(self._requests), self._due.popleft())
        return len(self._free) == CONNECTIONS


def ask(place: tuple[str, int], kinds: Kinds, *, over: Callable[[float], bool]) -> dict[str, Times]:
    """Asks until `over`, called with the time since it began, says so; each kind so many times a second or (None) as
    fast as it is answered."""
    poll = select.epoll()
    streams = {name: _Stream(place, poll, requests, rate) for name, (requests, rate) in kinds.items()}
    begun = time.perf_counter()
    gc.disable()
    try:
        while True:
            now = time.perf_counter()
            if over(now - begun):
                if min(stream.ended() for stream in streams.values()):
                    break
            else:
                for stream in streams.values():
                    stream.ask(now)
            first = min(stream.next for stream in streams.values())
            for number, _ in poll.poll(min(0.1, max(0.0, first - time.perf_counter()))):
                for stream in streams.values():
                    if connection := stream.of_number.get(number):
                        stream.answered(connection)
    finally:
        gc.enable()
        poll.close()
        for stream in streams.values():
            for connection in stream.of_number.values():
                connection.socket.close()
    for stream in streams.values():
        stream.times.seconds = time.perf_counter() - begun
    return {name: stream.times for name, stream in streams.items()}


def _for(seconds: float) -> Callable[[float], bool]:
    return lambda passed: passed >= seconds


def _first_octet(place: tuple[str, int], path: str) -> tuple[float, bytes]:
    """How long it takes until an answer begins, half of the time, on a connection that is there; and its status."""
    connection = _Connection(place)
    took, status = [], b""
    for _ in range(20):
        connection.ask(_get(path), time.perf_counter())
        part = connection.read()
        took.append(time.perf_counter() - connection.due)
        while part is None:
            part = connection.read()
        status = part
    connection.socket.close()
    return sorted(took[4:])[8], status


# --- measuring --------------------------------------------------------------------------------------------------------


def _measure(root: Path, server: PostgreSQL | None, asked: argparse.Namespace) -> None:
    port = _free_port()
    only, names = asked.only.split(","), asked.kinds.split(",")
    _prepare(root, asked.people, asked.beside, port, server)
    with _serving(root, asked.threads) as (host, number, processes):
        place = (host, number)
        config = load_config(root)
        configure(config)
        page = _page(place, "/signup/?lang=en")
        deliveries = list(range(1, asked.people + 1))
        random.shuffle(deliveries)
        archive = f"/archive/en/{ISSUE}/"
        if not _page(place, archive):
            archive = re.findall(r'href="([^"]+\.css)"', page)[0]
            print(f"archive      no such page yet: {archive} instead")
        kinds = {
            "one-click": _one_clicks(config, iter(deliveries)),
            "sign-up": _sign_ups(page),
            "archive": _endless(_get(archive)),
        }
        kinds = {name: kinds[name] for name in names}
        time.sleep(4)  # faster than that nobody fills in a form
        for requests in kinds.values():
            ask(place, {"": (requests, None)}, over=_for(0.5))
        if "full" in only:
            for name, requests in kinds.items():
                used, used_there = _used(processes), _database_cpu(server)
                times = ask(place, {name: (requests, None)}, over=_for(asked.seconds))[name]
                cpu = (_used(processes) - used) / len(times.took) * 1e6
                more = (_database_cpu(server) - used_there) / len(times.took) * 1e6
                database = f" + {more:4.0f} PostgreSQL" if server else ""
                pace = len(times.took) / times.seconds
                print(f"{name:<10} full {pace:7,.0f}/s  {cpu:5.0f} µs{database}  {times.words()}", flush=True)
        half = {name: (requests, AIMS[name] / 2) for name, requests in kinds.items()}
        if "half" in only:
            for name, kind in half.items():
                times = ask(place, {name: kind}, over=_for(asked.seconds))[name]
                print(f"{name:<10} half alone               {times.words()}", flush=True)
        sink = _sink(port)
        try:
            for name, kind in half.items() if "busy" in only else ():
                _busy(root, place, {name: kind}, asked.beside)
            if "mix" in only:
                _busy(root, place, half, asked.beside)
        finally:
            sink.kill()
        if "first" in only:
            for path in _kinds_of_pages(config, page, archive, deliveries[0]):
                took, status = _first_octet(place, path)
                shown = re.sub(r"[\w-]{22}\.\w+", "…", path)
                print(f"first octet  {took * 1000:5.1f} ms  {status.decode()} {shown}")
        print("CPU " + " and ".join(f"{_used([each]):.1f}" for each in processes) + " s")
        peaks = " and ".join(f"{_peak(each):.0f}" for each in processes)
        print(f"peak memory  {peaks} MiB")
        print(f"{_load()}; the disk takes {_disk(root) * 1000:.1f} ms", flush=True)


def _load() -> str:
    return f"load of this machine {os.getloadavg()[0]:.1f}"


def _disk(folder: Path) -> float:
    """Seconds that a file waits for the disk after some pages were added to it: half of all waits are shorter."""
    took = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(100):
            file.write(bytes(16_384))
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begun)
    return sorted(took)[50]


def _busy(root: Path, place: tuple[str, int], kinds: Kinds, beside: int) -> None:
    """Asks while so many messages are sent, and so many people imported in the middle of that."""
    number = random.randrange(10**9)
    _in_a_child(lambda: _open_next(load_config(root), number))
    people = root / f"people-{random.randrange(10**9)}.csv"
    with people.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["email", "name", "language", "tags"])
        rows.writerows([f"{people.stem}.{n}@example.com", f"Reader {n}", "en", "member"] for n in range(beside))
    environment = {**os.environ, "NO_COLOR": "1"}
    spans: dict[str, list[float]] = {}
    worker = subprocess.Popen(
        [*_newsletter(root), "worker"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    importing: subprocess.Popen[bytes] | None = None
    looks = 0.0

    def over(passed: float) -> bool:
        nonlocal importing, looks
        now = time.perf_counter()
        if now < looks:
            return False
        looks = now + 0.1
        if "mailing" not in spans:
            spans["mailing"] = [now, 0.0]
        if importing is None and now - spans["mailing"][0] > 2:
            words = [*_newsletter(root), "subscribers", "import", str(people), "--consent", "Made up."]
            importing = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            spans["import"] = [now, 0.0]
        if importing and importing.poll() is not None and not spans["import"][1]:
            assert importing.returncode == 0, importing.communicate()
            spans["import"][1] = now
        if not spans["mailing"][1] and int(now * 10) % 5 == 0 and _is_sent(root, number):
            spans["mailing"][1] = now
        return all(len(spans) == 2 and span[1] for span in spans.values())

    try:
        times = ask(place, kinds, over=over)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
        people.unlink()
    for what, (begun, ended) in spans.items():
        for name, each in times.items():
            all_kinds = "with the others" if len(kinds) > 1 else ""
            words = each.words((begun, ended))
            print(f"{name:<10} half {what:<7} {ended - begun:4.0f} s {words} {all_kinds}", flush=True)


def _is_sent(root: Path, number: int) -> bool:
    """Asked of the database by another connection than Django's: cheap, and out of everybody's way."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT state FROM mailing WHERE round_id = (SELECT id FROM round WHERE issue = %s)",
            (f"{NEXT_ISSUE}-{number}",),
        )
        (state,) = cursor.fetchone()
    assert state in ("opening", "sending", "finished"), state
    return bool(state == "finished")


def _page(place: tuple[str, int], path: str) -> str:
    """The text of a page, "" for one that is not there."""
    with socket.create_connection(place) as asked:
        asked.sendall(_get(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answer = b"".join(iter(lambda: asked.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return body.decode() if b" 200 " in head[:14] else ""


def _kinds_of_pages(config: Config, page: str, archive: str, delivery: int) -> list[str]:
    from newsletter.store.keys import keyring

    ring = keyring(config)
    leaving, preferences = (ring.token(purpose, delivery) for purpose in ("unsubscribe", "preferences"))
    forged = f"/u/{leaving[:-8]}aaaaaaaa"
    paths = ["/signup/?lang=es", f"/u/{leaving}", f"/p/{preferences}", "/me/", archive, "/archive/en/", forged]
    return [*paths, "/archive/en/feed.atom", "/sitemap.xml", *re.findall(r'href="([^"]+\.css)"', page), "/health"]


def _endless(request: bytes) -> Requests:
    while True:
        yield request


def _database_cpu(server: PostgreSQL | None) -> float:
    return server_cpu(server.folder) if server else 0.0


def _sink(port: int) -> subprocess.Popen[bytes]:
    program = shutil.which("smtp-sink") or "/usr/sbin/smtp-sink"
    process = subprocess.Popen([program, "-u", "nobody", f"127.0.0.1:{port}", "1000"])
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    raise RuntimeError("the mail server did not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
