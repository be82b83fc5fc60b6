"""The rig: a mailing, worker processes that are killed, stopped and starved, a mail server that takes notes, a judge.

The judge reads the mail server's log and, with the bare database driver, the ledger: nothing of what it judges is used
to judge it but the keyring, which tells whose a message is.
"""

from __future__ import annotations

import random
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

import psycopg

from audience import add_people, editions
from newsletter.config import Config, load_config
from newsletter.recorder import read_evidence, recorder_paths
from torture.sink import Line, Sink, Trouble, refuses

ISSUE = "2017-11-19"
BOUNCES = "bounce.news.example.org"
STATES = ("pending", "sending", "accepted", "refused", "in_doubt", "skipped")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done to one mailing. Everything random follows from the seed."""

    people: int
    workers: int = 2
    kills: int = 0
    stops: int = 0  # workers stopped (SIGSTOP) until their lease is over, and continued
    lose_recorders: bool = False  # the recorders of a dead worker are deleted at once
    lease: float = 4.0
    backoff: float = 0.5  # seconds before a deferred recipient is tried again
    connections: int = 4
    timeout: int = 60  # seconds to wait for the mail server
    trouble: Trouble = field(default_factory=Trouble)
    size: int = 0  # octets of a message, about; 0: small
    batch: int = 100  # deliveries in one: fewer than in life, so that every worker has leases in hand
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
    snapshots: int
    seconds: float
    crashed: int
    stopped: int
    faults: tuple[str, ...]

    @property
    def in_doubt(self) -> int:
        return self.tally["in_doubt"]


Copy = Path | dict[str, bytes]


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

    def deliveries(self, mailing: int) -> list[tuple[int, str, str, str]]:
        """(id, address, state, detail) of each."""
        with self._reading() as reading:
            rows = reading.execute(f"SELECT id, address, state, detail FROM delivery WHERE mailing_id = {mailing}")
            return [(int(id), str(address), str(state), str(detail)) for id, address, state, detail in rows.fetchall()]

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


class Worker:
    def __init__(self, root: Path, plan: Plan, number: int) -> None:
        self.number = number
        self.log = root / f"worker-{number}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "torture.worker", str(root), str(plan.lease), str(plan.backoff)],
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[1],
            )
        self.stopped_at = 0.0
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

    def __init__(self, config: Config, plan: Plan, *, sink: Sink | None = None, port: int = 0) -> None:
        """`port`: of another mail server, which hands everything to the sink in the end."""
        self.plan = plan
        self.sink = sink or Sink(log=config.root / "sink.log", trouble=plan.trouble)
        self.sink.start()
        self.config = _with_smtp(config, plan, port or self.sink.port)
        self.database = Database(self.config)
        self.mailing = 0
        self.workers: list[Worker] = []
        self.crashed = self.stopped = 0
        self.faults: list[str] = []
        self._dice = random.Random(plan.seed)
        self._began = 0
        self._numbers = 0
        self._counted = self._offset = 0
        self._started_at = time.monotonic()
        self._watching = threading.Event()
        self._watch: threading.Thread | None = None
        self.snapshots = 0

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
        self.sink.close()

    # --- the mailing ---

    def open(self) -> None:
        """People, a mailing to all of them, the first snapshot."""
        from django.db import connection

        from newsletter.store import mailings

        list_id = add_people(self.config, range(1, self.plan.people + 1))
        mailings.BATCH = self.plan.batch
        opened = mailings.open_mailing(
            editions(self.plan.size), issue=ISSUE, list=list_id, default_language="en", provider="smtp"
        )
        while mailings.write_down(opened.mailing):
            pass
        connection.close()
        self.mailing = opened.mailing
        self._watch = threading.Thread(target=self._take_snapshots, name="snapshots", daemon=True)
        self._watch.start()

    def _take_snapshots(self) -> None:
        accepted = 0
        while not self._watching.wait(0.25):
            try:
                state, audience, counts = self.database.tally(self.mailing)
            except (sqlite3.Error, psycopg.Error):
                continue  # the database is away: that is part of the test
            self.snapshots += 1
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
        """How many lines the mail server's log has."""
        with suppress(FileNotFoundError), self.sink.log.open("rb") as log:
            log.seek(self._offset)
            new = log.read()
            self._offset += len(new)
            self._counted += new.count(b"\n")
        return self._counted

    # --- the workers ---

    def start_worker(self) -> Worker:
        self._numbers += 1
        worker = Worker(self.config.root, self.plan, self._numbers)
        self.workers.append(worker)
        return worker

    def start_workers(self) -> None:
        for _ in range(self.plan.workers):
            self.start_worker()

    def awake(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.running() and not worker.stopped_at]

    def kill(self, worker: Worker) -> None:
        """kill -9. With `lose_recorders` what it wrote down goes with it, as when its disk is gone."""
        if self.plan.lose_recorders:
            worker.send_signal(signal.SIGSTOP)
            for path in recorder_paths(self.config.recorders):
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

    def terminate(self) -> None:
        """SIGTERM to every worker: each ends in good order."""
        for worker in self.workers:
            if worker.running():
                worker.asked_to_end = True
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            # Before it is ready there is nothing that could be done in good order.
            if worker.running() and (code := worker.wait(60)) and (code != -signal.SIGTERM or worker.ready()):
                self.faults.append(f"worker {worker.number} ended with {code}: {worker.log.read_text()[-2000:]}")

    def wait_for(self, what: str, ready: Callable[[], bool], *, pause: float = 0.005) -> None:
        """Raises `TimeoutError` with the state of everything when it takes too long."""
        deadline = time.monotonic() + self.plan.patience
        while not ready():
            self._look_after_stopped()
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
        events = ["kill"] * plan.kills + ["stop"] * plan.stops
        dice.shuffle(events)
        share = 1 - plan.trouble.refuse
        at = sorted(int(plan.people * share * dice.uniform(0.02, 0.9)) for _ in events)
        self.start_workers()
        for event, count in zip(events, at, strict=True):
            self.wait_for(f"{event} at {count}", lambda count=count: self._progress() >= count)  # type: ignore[misc]
            time.sleep(dice.uniform(0, 0.05))
            awake = self.awake()
            if not awake:
                self.start_worker()
                continue
            victim = dice.choice(awake)
            if event == "kill":
                self.kill(victim)
                self.start_worker()
            else:
                self.stop(victim)
        self.finish()

    def _look_after_stopped(self) -> None:
        for worker in self.workers:
            if worker.stopped_at and time.monotonic() - worker.stopped_at > self.plan.lease * 1.5 + 1:
                self.wake(worker)

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
        if any(worker.stopped_at for worker in self.workers):
            return False
        with suppress(sqlite3.Error, psycopg.Error):
            state, _, counts = self.database.tally(self.mailing)
            done = state == "finished" and not counts["pending"] and not counts["sending"]
            return done and not self._evidence_waits()
        return False

    def _evidence_waits(self) -> bool:
        for path in recorder_paths(self.config.recorders):
            with suppress(OSError):
                if read_evidence(path):
                    return True
        return False

    # --- the judge ---

    def judge(self, *, extra_doubts: int = 0, finished: bool = True) -> Verdict:
        """Holds the mail server's log against the ledger. `extra_doubts`: those that something else but crashes and the
        server's own trouble, which is counted, excuses."""
        self._watching.set()
        if self._watch:
            self._watch.join()
        lines = self.sink.lines()
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
            doubts_that_arrived=len({row[1] for row in rows if row[2] == "in_doubt"} & arrived(lines)),
            snapshots=self.snapshots,
            seconds=time.monotonic() - self._started_at,
            crashed=self.crashed,
            stopped=self.stopped,
            faults=tuple(self.faults),
        )
        return replace(verdict, faults=(*self.faults, *self._faults(verdict, rows, lines, finished=finished)))

    def bound(self) -> int:
        """How many doubts the crashes and stops of this run excuse (DESIGN.md §8.9)."""
        from newsletter.providers import open_provider

        provider = open_provider(self.config)
        limits = provider.limits
        provider.close()
        in_hand = limits.chunk * limits.lanes if self.plan.lose_recorders else limits.connections
        return (self.crashed + self.stopped) * in_hand

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
        ring, ids = keyring(self.config), {row[1]: row[0] for row in rows}
        for line in lines:
            if line.kind != "cut" and ring.read_delivery(line.delivery) != ids.get(line.recipient):
                yield f"a message bears another's key: {line}"
                break
        for line in lines:
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


def _with_smtp(config: Config, plan: Plan, port: int) -> Config:
    """The workspace with this mail server in its newsletter.yaml, where the workers read it."""
    path = config.root / "newsletter.yaml"
    text = path.read_text("utf-8").partition("provider: smtp")[0]
    path.write_text(
        f"{text}provider: smtp\nsmtp: {{host: 127.0.0.1, port: {port}, connections: {plan.connections},"
        f" timeout: {plan.timeout}, bounces: {BOUNCES}}}\n",
        "utf-8",
    )
    return load_config(config.root, {})


def table(verdicts: dict[str, Verdict]) -> str:
    """The results as lines of text, one for each run."""
    words = "run,people,crashed,stopped,accepted,refused,in doubt,bound,arrived,lost,doubled,snapshots,seconds,faults"
    head = words.split(",")
    rows = [head]
    for name, each in verdicts.items():
        counts = (each.audience, each.crashed, each.stopped, each.tally["accepted"], each.tally["refused"])
        doubts = (each.in_doubt, each.doubt_bound, each.doubts_that_arrived, each.lost, each.doubled, each.snapshots)
        rows.append([name, *map(str, (*counts, *doubts, round(each.seconds), len(each.faults)))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
