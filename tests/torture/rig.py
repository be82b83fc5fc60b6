"""The rig: a mailing, workers that are killed, stopped, cut off and starved, mail servers that take notes, a judge.

The judge reads the mail servers' logs and, with the bare database driver, the ledger: nothing of what it judges is used
to judge it but the keyring, which tells whose a message is.

Which engine runs is the workspace's word (`engine: cluster`). The recipients are then written down by the workers.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import psycopg

from audience import add_people, address, editions
from databases import PostgreSQL
from newsletter.config import Config, load_config
from newsletter.providers import Provider
from newsletter.recorder import read_evidence, recorder_paths
from proxy import Proxy
from torture.sink import Line, SendgridSink, Sink, Trouble, refuses
from torture.worker import Settings

ROOT = Path(__file__).parents[2]
# Of every process here: the workspace's .env alone says which secrets and which database these are.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("NEWSLETTER_", "DATABASE_"))}
ENVIRONMENT["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
ISSUE = "2017-11-19"
BOUNCES = "bounce.news.example.org"
STATES = ("pending", "sending", "accepted", "refused", "in_doubt", "skipped")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done to one mailing. Everything random follows from the seed."""

    people: int
    workers: int = 2  # on each host
    through: Literal["smtp", "sendgrid", "failover"] = "smtp"  # failover: two mail servers, the second the fallback
    hosts: int = 1  # … more than one: with names and recorders of their own (`hosts_missing`), PostgreSQL only
    kills: int = 0
    kills_opening: int = 0  # how often all workers die at once while recipients are written down; cluster only
    stops: int = 0  # workers stopped (SIGSTOP) until their lease is over, and continued
    cuts: int = 0  # workers cut off from PostgreSQL until their lease is over: in turn refused, and without a word
    restarts: int = 0  # of PostgreSQL: in turn in good order, and at once
    outages: int = 0  # of mail servers, killed and started again: each in turn, then all of them at once
    lose_recorders: bool = False  # the recorders of a dead worker are deleted at once
    lease: float = 4.0
    backoff: float = 0.5  # seconds before a deferred recipient is tried again
    connections: int = 4
    timeout: int = 60  # seconds to wait for the mail server
    trouble: Trouble = field(default_factory=Trouble)
    size: int = 0  # octets of a message, about; 0: small
    batch: int = 100  # deliveries in one: fewer than in life, so that every worker has leases in hand
    range: int = 500  # subscribers written down in the first job of the cluster
    patience: float = 120.0  # seconds after which the rig gives up
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the mail server's log says of the ledger. `faults` is empty when every promise was kept."""

    tally: dict[str, int]
    audience: int
    state: str  # of the mailing
    messages: int  # that the server took
    lost: int
    doubled: int
    doubt_bound: int
    doubts_that_arrived: int
    most_in_doubt: int  # in any snapshot: also those of workers who were only away
    snapshots: int
    seconds: float
    crashed: int
    stopped: int
    cut: int
    restarted: int
    outages: int
    left_doing: int  # jobs of the cluster of which dead workers let go, and which others took up
    faults: tuple[str, ...]

    @property
    def in_doubt(self) -> int:
        return self.tally["in_doubt"]


Copy = Path | dict[str, bytes]


class Job(NamedTuple):
    """A job of the cluster's queue. `forsaken`: nobody has heard of its worker for as long as makes it stalled."""

    id: int
    task: str
    status: str
    forsaken: bool


class Database:
    """The ledger, read with the bare driver: an SQLite file or a PostgreSQL server."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | psycopg.Connection]:
        """One transaction that sees one moment."""
        if self._config.database_url:
            with psycopg.connect(self._config.database_url, connect_timeout=5) as server:
                server.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                yield server
        else:
            with closing(sqlite3.connect(f"{self._config.database.as_uri()}?mode=ro", uri=True, timeout=30)) as file:
                file.execute("BEGIN")
                yield file

    def tally(self, mailing: int) -> tuple[str, int, dict[str, int]]:
        """State and audience of the mailing, and how many of its deliveries are in each state."""
        with self._reading() as reading:
            row = reading.execute(f"SELECT state, audience FROM mailing WHERE id = {mailing}").fetchone()
            assert row
            state, audience = row
            counts = dict.fromkeys(STATES, 0)
            rows = reading.execute(f"SELECT state, count(*) FROM delivery WHERE mailing_id = {mailing} GROUP BY state")
            counts |= dict(rows.fetchall())
        return str(state), int(audience), counts

    def last_mailing(self) -> int:
        with self._reading() as reading:
            row = reading.execute("SELECT max(id) FROM mailing").fetchone()
            assert row
            return int(row[0])

    def deliveries(self, mailing: int) -> list[tuple[int, str, str, str]]:
        """(id, address, state, detail) of each."""
        with self._reading() as reading:
            rows = reading.execute(f"SELECT id, address, state, detail FROM delivery WHERE mailing_id = {mailing}")
            return [(int(id), str(address), str(state), str(detail)) for id, address, state, detail in rows.fetchall()]

    def jobs(self, *, stalled: float) -> list[Job]:
        """The queue of the cluster; a worker unheard of for `stalled` seconds has let go of its jobs."""
        with self._reading() as reading:
            rows = reading.execute(
                "SELECT j.id, j.task_name, j.status::text, j.status = 'doing' AND (w.id IS NULL OR"
                f" w.last_heartbeat < now() - make_interval(secs => {stalled}))"
                " FROM procrastinate_jobs j LEFT JOIN procrastinate_workers w ON w.id = j.worker_id"
            )
            return [Job(*row) for row in rows.fetchall()]

    @contextmanager
    def held(self, mailing: int) -> Iterator[None]:
        """Nobody can write the mailing's row meanwhile: who writes down its recipients waits."""
        with psycopg.connect(self._config.database_url) as server:
            server.execute(f"SELECT 1 FROM mailing WHERE id = {mailing} FOR UPDATE")
            yield

    def copy(self) -> Copy:
        """The ledger as it is at one moment: an SQLite file, or PostgreSQL's rows."""
        if not self._config.database_url:
            path = self._config.database.with_suffix(".copy")
            with self._reading() as source, closing(sqlite3.connect(path)) as target:
                assert isinstance(source, sqlite3.Connection)
                source.backup(target)
            return path
        rows = {}
        with self._reading() as server:
            assert isinstance(server, psycopg.Connection)
            for table in ("mailing", "batch", "delivery"):
                with server.cursor().copy(f"COPY {table} TO STDOUT") as out:
                    rows[table] = b"".join(bytes(part) for part in out)
        return rows

    def put_back(self, copy: Copy) -> None:
        """The copy in the place of the ledger. Nobody may have it open."""
        if isinstance(copy, Path):
            for ending in ("-wal", "-shm"):
                Path(f"{self._config.database}{ending}").unlink(missing_ok=True)
            copy.replace(self._config.database)
            return
        with psycopg.connect(self._config.database_url) as server:
            for table in reversed(copy):
                server.execute(f"DELETE FROM {table}")
            for table, rows in copy.items():
                with server.cursor().copy(f"COPY {table} FROM STDIN") as into:
                    into.write(rows)


def hosts_missing() -> str:
    """Why there cannot be several hosts here, or ""."""
    if os.geteuid() != 0:
        return "a host name of their own for some processes is something that only root may give"
    if not shutil.which("unshare") or not shutil.which("hostname"):
        return "no unshare or no hostname; on Debian and Ubuntu: apt install util-linux hostname"
    return ""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine, or what counts as one: `platform.node()` is part of what a recorder knows its machine by."""

    name: str  # "": this machine under its own name
    root: Path  # of its workspace; database and secrets are those of all

    @property
    def recorders(self) -> Path:
        return load_config(self.root, {}).recorders


class Worker:
    def __init__(self, number: int, host: Host, settings: Settings, proxy: Proxy | None) -> None:
        self.number, self.host, self.proxy = number, host, proxy
        self.log = host.root / f"worker-{number}.log"
        command = [sys.executable, "-m", "torture.worker", settings.text()]
        if host.name:  # each of the two programs becomes the next, so that the process is the worker's in the end
            command = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host.name, *command]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
            )
        self.stopped_at = 0.0
        self.cut_at = 0.0
        self.asked_to_end = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def ready(self) -> bool:
        return self.log.read_text().startswith("ready")

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        return self._process.wait(timeout)


class Rig:
    """Sets everything up; `close` ends every process that it started."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        *,
        sink: Sink | None = None,
        port: int = 0,
        server: PostgreSQL | None = None,
    ) -> None:
        """`port`: of another mail server, which hands everything to the sink in the end. `server`: whose database it
        is, for plans with cuts and restarts."""
        self.plan = plan
        self.sinks = [sink] if sink else _sinks(config.root, plan)
        for each in self.sinks:
            each.start()
        self.config = _with_ways(config, plan, [port or each.port for each in self.sinks])
        self.database = Database(self.config)
        self.server = server
        self.hosts = [Host(name="", root=self.config.root)]
        self.hosts += [_host(self.config, f"host{number}.example") for number in range(2, plan.hosts + 1)]
        self.mailing = 0
        self.workers: list[Worker] = []
        self.crashed = self.stopped = self.cut = self.restarted = self.outages = 0
        self.left_doing: set[int] = set()
        self.faults: list[str] = []
        self._idle = 0  # of those who crashed: before there was anything to send
        self._dice = random.Random(plan.seed)
        self._numbers = 0
        self._counted = [0] * len(self.sinks)
        self._offsets = [0] * len(self.sinks)
        self._out: list[Sink] = []  # mail servers that are away
        self._out_until = 0.0
        self._fallen = 0  # how often one of them died
        self._started_at = time.monotonic()
        self._watching = threading.Event()
        self._watch: threading.Thread | None = None
        self.snapshots = 0
        self._most_in_doubt = 0

    @property
    def sink(self) -> Sink:
        return self.sinks[0]

    @property
    def cluster(self) -> bool:
        return self.config.engine == "cluster"

    @property
    def _stalled(self) -> float:
        """Seconds, as in torture/worker.py."""
        return self.plan.lease / 2

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._watching.set()
        if self._watch:
            self._watch.join()
        for worker in self.workers:
            if worker.running():
                worker.send_signal(signal.SIGKILL)
                worker.wait(10)
            if worker.proxy:
                worker.proxy.close()
        for sink in self.sinks:
            sink.close()

    # --- the mailing ---

    def open(self) -> None:
        """People, a mailing to all of them, the first snapshot. With `engine: cluster` writing it down is left to the
        workers."""
        from django.db import connection

        from newsletter.store import mailings

        list_id = add_people(self.config, range(1, self.plan.people + 1))
        mailings.BATCH, whole = self.plan.batch, mailings.RANGE
        mailings.RANGE = self.plan.range if self.cluster else whole
        opened = mailings.open_mailing(
            editions(self.plan.size), issue=ISSUE, list=list_id, default_language="en", provider=self.config.route
        )
        mailings.RANGE = whole
        while not self.cluster and mailings.write_down(opened.mailing):
            pass
        connection.close()
        self._begin(opened.mailing)

    def open_by_command(self) -> None:
        """The same from end to end, in the workspace of the sample (`use_sample`): `subscribers import`, `send`."""
        people = self.config.root / "people.csv"
        rows = (f"{address(n)},Reader {n},{('en', 'es')[n % 2]}\n" for n in range(1, self.plan.people + 1))
        people.write_text("email,name,language\n" + "".join(rows), "utf-8")
        self._newsletter("subscribers", "import", str(people), "--consent", "On paper, at the fair of May 2017")
        self._newsletter("send", ISSUE, "--yes", "--no-wait")
        self._begin(self.database.last_mailing())

    def _newsletter(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "torture.command", *arguments],
            cwd=self.config.root,
            env=ENVIRONMENT,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"newsletter {arguments[0]}: {done.stdout}{done.stderr}"

    def _begin(self, mailing: int) -> None:
        self.mailing = mailing
        self._watch = threading.Thread(target=self._take_snapshots, name="snapshots", daemon=True)
        self._watch.start()

    def _take_snapshots(self) -> None:
        accepted = 0
        while not self._watching.wait(0.25):
            try:
                state, audience, counts = self.database.tally(self.mailing)
                if self.cluster:
                    jobs = self.database.jobs(stalled=self._stalled)
                    self.left_doing |= {job.id for job in jobs if job.forsaken}
            except (sqlite3.Error, psycopg.Error):
                continue  # the database is away: that is part of the test
            self.snapshots += 1
            self._most_in_doubt = max(self._most_in_doubt, counts["in_doubt"])
            if sum(counts.values()) != audience:
                self.faults.append(f"a snapshot does not add up: audience {audience}, {counts}")
            if state == "finished" and counts["pending"] + counts["sending"]:
                self.faults.append(f"a snapshot shows a finished mailing with work left: {counts}")
            if counts["accepted"] < accepted:
                self.faults.append(f"accepted fell from {accepted} to {counts['accepted']}")
            accepted = counts["accepted"]

    def doubts(self) -> int:
        """How many are in doubt at this moment."""
        return self.database.tally(self.mailing)[2]["in_doubt"]

    def messages(self) -> int:
        """How many lines the mail servers' logs have."""
        for number, sink in enumerate(self.sinks):
            with suppress(FileNotFoundError), sink.log.open("rb") as log:
                log.seek(self._offsets[number])
                new = log.read()
                self._offsets[number] += len(new)
                self._counted[number] += new.count(b"\n")
        return sum(self._counted)

    def lines(self) -> list[Line]:
        """What all mail servers say that they took."""
        return [line for sink in self.sinks for line in sink.lines()]

    # --- the workers ---

    def start_worker(self, host: Host | None = None) -> Worker:
        """On this machine, or on that host."""
        host = host or self.hosts[0]
        proxy = None
        if self.plan.cuts:
            assert self.server, "only PostgreSQL is reached over a network"
            proxy = Proxy(self.server.folder / ".s.PGSQL.5432")
        settings = Settings(
            root=str(host.root),
            lease=self.plan.lease,
            backoff=self.plan.backoff,
            batch=self.plan.batch,
            database_url=_through(self.config.database_url, proxy) if proxy else "",
            sendgrid=f"http://127.0.0.1:{self.sink.port}" if self.plan.through == "sendgrid" else "",
        )
        self._numbers += 1
        worker = Worker(self._numbers, host, settings, proxy)
        self.workers.append(worker)
        return worker

    def start_workers(self) -> None:
        for host in self.hosts:
            for _ in range(self.plan.workers):
                self.start_worker(host)

    def awake(self) -> list[Worker]:
        return [each for each in self.workers if each.running() and not (each.stopped_at or each.cut_at)]

    def kill(self, worker: Worker) -> None:
        """kill -9. With `lose_recorders` what it wrote down goes with it, as when its disk is gone."""
        if self.plan.lose_recorders:
            worker.send_signal(signal.SIGSTOP)
            for path in recorder_paths(worker.host.recorders):
                with suppress(OSError):
                    if f':{worker.pid}"' in path.read_text("utf-8").partition("\n")[0]:
                        path.unlink()
        worker.asked_to_end = True
        worker.send_signal(signal.SIGKILL)
        worker.wait(10)
        self.crashed += 1

    def stop(self, worker: Worker) -> None:
        worker.send_signal(signal.SIGSTOP)
        worker.stopped_at = time.monotonic()
        self.stopped += 1

    def wake(self, worker: Worker) -> None:
        worker.send_signal(signal.SIGCONT)
        worker.stopped_at = 0.0

    def cut_off(self, worker: Worker) -> None:
        """From the database, until its lease is over: it is told so, or every second time it is not."""
        assert worker.proxy
        if self.cut % 2:
            worker.proxy.silence()
        else:
            worker.proxy.cut()
        worker.cut_at = time.monotonic()
        self.cut += 1

    def reconnect(self, worker: Worker) -> None:
        assert worker.proxy
        worker.proxy.mend()
        worker.cut_at = 0.0

    def restart_database(self) -> None:
        """In good order and, every second time, at once. A worker that only begins may give up without a database."""
        assert self.server
        self.wait_for("all to be at work", lambda: all(worker.ready() for worker in self.awake()))
        # PostgreSQL would wait for those who connect while it shuts down and then say nothing.
        self.wait_for("the end of the cuts", lambda: not any(worker.cut_at for worker in self.workers))
        self.server.stop(fast=self.restarted % 2 == 0)
        time.sleep(1.0)
        self.server.start()
        self.restarted += 1

    def fail(self) -> None:
        """The next mail server in turn dies for a while, then all of them at once."""
        turns = [[sink] for sink in self.sinks]
        turns += [self.sinks] if len(self.sinks) > 1 else []
        self._out = turns[self.outages % len(turns)]
        for sink in self._out:
            sink.kill()
        self._fallen += len(self._out)
        self._out_until = time.monotonic() + 1.5
        self.outages += 1

    def _kill_while_writing_down(self) -> None:
        """All workers die while one of them writes recipients down: its job stays `doing`, and nobody does it."""

        def doing() -> set[int]:
            jobs = self.database.jobs(stalled=self._stalled)
            return {job.id for job in jobs if (job.task, job.status) == ("write_down", "doing")}

        with self.database.held(self.mailing):
            if self.database.tally(self.mailing)[0] != "opening":
                return
            self.wait_for("a job that writes down", lambda: bool(doing()))
            for worker in self.awake():
                self.kill(worker)
                self._idle += 1
            self.left_doing |= doing()

    def terminate(self) -> None:
        """SIGTERM to every worker: each ends in good order."""
        for worker in self.workers:
            if worker.running():
                worker.asked_to_end = True
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            # Before it is ready there is nothing that could be done in good order.
            if worker.running() and (code := self._end_of(worker)) and (code != -signal.SIGTERM or worker.ready()):
                self.faults.append(f"worker {worker.number} ended with {code}: {worker.log.read_text()[-8000:]}")

    def _end_of(self, worker: Worker) -> int | str:
        """The exit code of a worker that was asked to end; one that does not is killed, and its log says where it
        was."""
        try:
            return worker.wait(40)
        except subprocess.TimeoutExpired:
            worker.send_signal(signal.SIGUSR1)
            time.sleep(1.0)
            worker.send_signal(signal.SIGKILL)
            worker.wait(10)
            return "a kill, since it did not end"

    def wait_for(self, what: str, ready: Callable[[], bool], *, pause: float = 0.005) -> None:
        """Raises `TimeoutError` with the state of everything when it takes too long."""
        deadline = time.monotonic() + self.plan.patience
        while not ready():
            self._look_after()
            fallen = [each for each in self.workers if not (each.asked_to_end or each.running())]
            if fallen or time.monotonic() > deadline:
                said = "\n".join(f"worker {each.number}: {each.log.read_text()[-1500:]}" for each in self.workers[-6:])
                raise TimeoutError(
                    f"{'a worker fell' if fallen else 'no end'} while waiting for {what}: "
                    f"{self.database.tally(self.mailing)}, {self.messages()} messages\n{said}"
                )
            time.sleep(pause)

    def wait_for_messages(self, count: int) -> None:
        self.wait_for(f"{count} messages", lambda: self.messages() >= count)

    def wait_for_share(self, share: float) -> None:
        """Until so much of the mailing (0 to 1) has left."""
        self.wait_for_messages(int(self.plan.people * share))

    def run(self) -> None:
        """Workers on the whole mailing, with kills and stops at random instants of it, until it is finished."""
        plan, dice = self.plan, self._dice
        events = ["kill"] * plan.kills + ["stop"] * plan.stops + ["cut"] * plan.cuts
        events += ["restart"] * plan.restarts + ["outage"] * plan.outages
        dice.shuffle(events)
        share = 1 - plan.trouble.refuse
        at = sorted(int(plan.people * share * dice.uniform(0.02, 0.9)) for _ in events)
        self.start_workers()
        for _ in range(plan.kills_opening):
            self._kill_while_writing_down()
            self.start_workers()
        for event, count in zip(events, at, strict=True):
            self.wait_for(f"{event} at {count}", lambda count=count: self._progress() >= count)  # type: ignore[misc]
            time.sleep(dice.uniform(0, 0.05))
            if event == "restart":
                self.restart_database()
                continue
            if event == "outage":
                self.wait_for("the end of the outage before", lambda: not self._out)
                self.fail()
                continue
            awake = self.awake()
            if not awake:
                self.start_worker()
                continue
            victim = dice.choice(awake)
            if event == "kill":
                self.kill(victim)
                self.start_worker(victim.host)
            elif event == "cut":
                # Somebody must be left who takes over, or nothing would be shown.
                self.wait_for("two at work", lambda: sum(worker.ready() for worker in self.awake()) > 1)
                self.cut_off(dice.choice([worker for worker in self.awake() if worker.ready()]))
            else:
                self.wait_for("it to be at work", victim.ready)
                self.stop(victim)
        self.finish()

    def lose_host(self, host: Host) -> int:
        """Every worker there dies, and none is started again; says how many those were."""
        workers = [worker for worker in self.workers if worker.host == host and worker.running()]
        for worker in workers:
            self.kill(worker)
        return len(workers)

    def run_and_lose_a_host(self) -> Verdict:
        """Workers on all hosts until the last of these dies for good, the others until the end; the judge's word on
        that. Then a worker is started on the host that was lost, and everything is finished once more."""
        self.start_workers()
        self.wait_for_share(0.3)
        died = self.lose_host(self.hosts[-1])
        self.finish()
        # What is on the way of the dead is not known here: its recorders are on the other host.
        without = self.judge(extra_doubts=died * self._in_hand())
        self.start_worker(self.hosts[-1])
        self.start_worker()
        self.finish()
        return without

    def _look_after(self) -> None:
        """Wakes who was stopped, reconnects who was cut off, starts what is out, each when its time has come."""
        # Until others have taken over what they had; with the cluster somebody looks for that every five seconds.
        long_enough = time.monotonic() - self.plan.lease * 1.5 - (6 if self.cluster else 1)
        for worker in self.workers:
            if worker.stopped_at and worker.stopped_at < long_enough:
                self.wake(worker)
            if worker.cut_at and worker.cut_at < long_enough:
                self.reconnect(worker)
        if self._out and time.monotonic() > self._out_until:
            for sink in self._out:
                sink.start()
            self._out = []

    def _progress(self) -> int:
        """How many are dealt with; where recorders are lost many of those never left, and the ledger must be asked."""
        if self.plan.lose_recorders:
            with suppress(sqlite3.Error, psycopg.Error):
                counts = self.database.tally(self.mailing)[2]
                time.sleep(0.02)
                return sum(counts.values()) - counts["pending"] - counts["sending"]
            return 0
        return self.messages()

    def finish(self) -> None:
        """Waits until nothing is left to do and every recorder was handed in; then ends the workers."""
        self.wait_for("the end", self._finished, pause=0.1)
        self.terminate()

    def _finished(self) -> bool:
        if self._out or any(worker.stopped_at or worker.cut_at for worker in self.workers):
            return False
        with suppress(sqlite3.Error, psycopg.Error):
            state, _, counts = self.database.tally(self.mailing)
            done = state == "finished" and not counts["pending"] and not counts["sending"]
            return done and not self._evidence_waits() and not self._jobs_left()
        return False

    def _jobs_left(self) -> bool:
        """Whether somebody must still do, or end, a job that is no matter of routine."""
        if not self.cluster:
            return False
        jobs = self.database.jobs(stalled=self._stalled)
        return any(job.status == "doing" or (job.task, job.status) == ("write_down", "todo") for job in jobs)

    def _evidence_waits(self) -> bool:
        for host in self.hosts[1:]:
            # Of another host nothing can be read here. Nobody has a batch in hand: each that is there is evidence.
            lives = any(worker.running() for worker in self.workers if worker.host == host)
            if lives and recorder_paths(host.recorders):
                return True
        for path in recorder_paths(self.hosts[0].recorders):
            with suppress(OSError):
                if read_evidence(path):
                    return True
        return False

    # --- the judge ---

    def judge(self, *, extra_doubts: int = 0, finished: bool = True) -> Verdict:
        """Holds the mail servers' logs against the ledger. `extra_doubts`: those that something else excuses than what
        the rig did and the server's own trouble, which are counted."""
        self._watching.set()
        if self._watch:
            self._watch.join()
        lines = self.lines()
        state, audience, tally = self.database.tally(self.mailing)
        rows = self.database.deliveries(self.mailing)
        verdict = Verdict(
            tally=tally,
            audience=audience,
            state=state,
            messages=sum(line.arrived for line in lines),
            lost=len(lost(rows, lines)),
            doubled=len(doubled(lines)),
            doubt_bound=self.bound() + extra_doubts + sum(line.kind != "accepted" for line in lines),
            most_in_doubt=self._most_in_doubt,
            doubts_that_arrived=len({row[1] for row in rows if row[2] == "in_doubt"} & arrived(lines)),
            snapshots=self.snapshots,
            seconds=time.monotonic() - self._started_at,
            crashed=self.crashed,
            stopped=self.stopped,
            cut=self.cut,
            restarted=self.restarted,
            outages=self.outages,
            left_doing=len(self.left_doing),
            faults=tuple(self.faults),
        )
        return replace(verdict, faults=(*self.faults, *self._faults(verdict, rows, lines, finished=finished)))

    def bound(self) -> int:
        """How many doubts the crashes, stops and outages of this run excuse (DESIGN.md §8.9)."""
        lives = self.crashed - self._idle + self.stopped
        in_hand = self._in_hand() if self.plan.lose_recorders else self._on_way() * len(self.sinks)
        of_workers = self.plan.workers * self.plan.hosts
        return lives * in_hand + self._fallen * of_workers * self._on_way()

    def _on_way(self) -> int:
        """Messages that one worker may have on the way to one mail server at a moment."""
        return self.plan.connections * (self._chunk() if self.plan.through == "sendgrid" else 1)

    def _in_hand(self) -> int:
        """Messages that one worker may have announced to the ledger at a moment."""
        provider = self._provider()
        provider.close()
        return self._chunk() * provider.limits.lanes

    def _chunk(self) -> int:
        provider = self._provider()
        provider.close()
        return min(provider.limits.chunk, self.plan.batch)

    def _provider(self) -> Provider:
        from newsletter.providers import open_provider

        return open_provider(self.config)

    def _faults(
        self, verdict: Verdict, rows: list[tuple[int, str, str, str]], lines: list[Line], *, finished: bool
    ) -> Iterator[str]:
        from newsletter.store.keys import keyring

        if sum(verdict.tally.values()) != self.plan.people or verdict.audience != self.plan.people:
            yield f"{self.plan.people} people, audience {verdict.audience}, {verdict.tally}"
        if verdict.lost:
            yield f"lost: {verdict.lost}, such as {sorted(lost(rows, lines))[:5]}"
        if verdict.doubled:
            yield f"doubled: {verdict.doubled}, such as {sorted(doubled(lines).items())[:5]}"
        if verdict.in_doubt > verdict.doubt_bound:
            yield f"{verdict.in_doubt} in doubt, {verdict.doubt_bound} are the most"
        if finished and (verdict.state != "finished" or verdict.tally["pending"] or verdict.tally["sending"]):
            yield f"not finished: {verdict.state}, {verdict.tally}"
        wrong = [row for row in rows if (row[2] == "refused") != refuses(self.plan.trouble, row[1])]
        if finished and (unjust := [row for row in wrong if row[2] not in ("in_doubt", "skipped")]):
            yield f"refused wrongly, or not: {len(unjust)}, such as {unjust[:5]}"
        if more := arrived(lines) - {row[1] for row in rows if row[2] in ("accepted", "in_doubt", "sending")}:
            yield f"{len(more)} got a message of which the ledger knows nothing, such as {sorted(more)[:5]}"
        if finished and self.cluster:
            jobs = self.database.jobs(stalled=self._stalled)
            if wrong_jobs := [job for job in jobs if job.status in ("doing", "failed")]:
                yield f"jobs of the queue are left: {wrong_jobs[:5]}"
        ring, ids = keyring(self.config), {row[1]: row[0] for row in rows}
        for line in lines:
            if line.kind != "cut" and ring.read_delivery(line.delivery) != ids.get(line.recipient):
                yield f"a message bears another's key: {line}"
                break
        for line in lines if self.plan.through != "sendgrid" else ():
            local, _, domain = line.return_path.partition("@")
            if domain != BOUNCES or ring.read_delivery(local.removeprefix("b+")) != ids.get(line.recipient):
                yield f"a message bears another's return path: {line}"
                break


def arrived(lines: list[Line]) -> set[str]:
    """Addresses that the server took a message for."""
    return {line.recipient for line in lines if line.arrived}


def doubled(lines: list[Line]) -> dict[str, int]:
    """Addresses that the server took more than one message for, with how many."""
    counts = Counter(line.recipient for line in lines if line.arrived)
    return {address: count for address, count in counts.items() if count > 1}


def lost(rows: list[tuple[int, str, str, str]], lines: list[Line]) -> set[str]:
    """Addresses that the ledger calls accepted and the server does not know."""
    return {address for _, address, state, _ in rows if state == "accepted"} - arrived(lines)


def use_sample(config: Config) -> Config:
    """Puts the sample's settings, issues and templates into a workspace, for `open_by_command`."""
    for folder in ("issues", "templates"):
        shutil.copytree(ROOT / folder, config.root / folder, dirs_exist_ok=True)
    settings = (ROOT / "newsletter.yaml").read_text("utf-8").partition("provider: ")[0]
    (config.root / "newsletter.yaml").write_text(f"{settings}engine: {config.engine}\n", "utf-8")
    return load_config(config.root, {})


def _sinks(root: Path, plan: Plan) -> list[Sink]:
    if plan.through == "sendgrid":
        return [SendgridSink(log=root / "sink.log", trouble=plan.trouble)]
    names = ("sink", "second") if plan.through == "failover" else ("sink",)
    return [Sink(log=root / f"{name}.log", trouble=plan.trouble) for name in names]


def _with_ways(config: Config, plan: Plan, ports: list[int]) -> Config:
    """The workspace with these mail servers in its newsletter.yaml, where the workers read it."""
    if plan.through == "sendgrid":
        ways = f"provider: sendgrid\nsendgrid: {{connections: {plan.connections}, timeout: {plan.timeout}}}\n"
        with (config.root / ".env").open("a") as secrets:
            secrets.write("NEWSLETTER_SENDGRID_KEY=SG.test-key\n")
    else:
        more = f"connections: {plan.connections}, timeout: {plan.timeout}, bounces: {BOUNCES}"
        first, *others = (f"smtp: {{host: 127.0.0.1, port: {port}, {more}}}" for port in ports)
        ways = f"provider: smtp\n{first}\n"
        if others:
            ways += f"providers: {{second: {{{others[0]}}}}}\nfallback: [second]\n"
    path = config.root / "newsletter.yaml"
    path.write_text(path.read_text("utf-8").partition("provider: ")[0] + ways, "utf-8")
    return load_config(config.root, {})


def _host(config: Config, name: str) -> Host:
    """Another machine with the workspace: nothing is shared with it but the database and the secrets."""
    root = config.root / name
    (root / "subscribers").mkdir(parents=True)
    for path in ("newsletter.yaml", ".env", "subscribers/lists.yaml"):
        shutil.copyfile(config.root / path, root / path)
    return Host(name=name, root=root)


def _through(url: str, proxy: Proxy) -> str:
    """The same database, by way of the proxy."""
    return f"postgresql://test@127.0.0.1:{proxy.port}{urlsplit(url).path}"


def table(verdicts: dict[str, Verdict]) -> str:
    """The results as lines of text, one for each run."""
    words = (
        "run,people,crashed,stopped,cut,restarts,outages,left doing,accepted,refused,in doubt,bound,arrived,lost,"
        "doubled,snapshots,seconds,faults"
    )
    head = words.split(",")
    rows = [head]
    for name, each in verdicts.items():
        done = (each.audience, each.crashed, each.stopped, each.cut, each.restarted, each.outages, each.left_doing)
        counts = (each.tally["accepted"], each.tally["refused"], each.in_doubt, each.doubt_bound)
        rest = (each.doubts_that_arrived, each.lost, each.doubled, each.snapshots, round(each.seconds))
        rows.append([name, *map(str, (*done, *counts, *rest, len(each.faults)))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
