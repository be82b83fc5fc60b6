"""The cluster engine with real workers, real servers, and everything that may happen to them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from email.parser import BytesHeaderParser
from email.utils import parseaddr
from pathlib import Path

import pytest

from audience import add_people, as_ways, edition, editions
from conftest import cluster_workspace
from databases import PostgreSQL
from newsletter.config import Config
from newsletter.errors import ConfigError
from newsletter.providers.memory import Memory
from proxy import Proxy

ROOT = Path(__file__).parents[1]


class Worker:
    """`newsletter worker` in a process of its own, with short waits (cluster_worker.py)."""

    def __init__(self, config: Config, *settings: float) -> None:
        self.log = config.root / f"worker-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "cluster_worker.py"), *map(str, settings)],
                cwd=config.root,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> str:
        """SIGTERM; what it said."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, self.log.read_text()
        said = self.log.read_text()
        assert "Traceback" not in said
        assert "stopped; nothing is in hand" in said
        return said


@contextmanager
def at_work(config: Config, count: int = 1, settings: tuple[float, ...] = ()) -> Iterator[list[Worker]]:
    """So many workers, each of which has said that it is there; killed at the end, if they still run."""
    workers = [Worker(config, *settings) for _ in range(count)]
    try:
        pids = {worker.process.pid for worker in workers}
        wait(lambda: pids <= {int(owner.rpartition(":")[2]) for owner in fleet()}, workers)
        yield workers
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.kill()


def wait(ready: Callable[[], bool], workers: list[Worker] = (), *, seconds: float = 30.0) -> None:  # type: ignore[assignment]
    """Until it is so. A database that is away is waited for."""
    from django.db import Error, connection

    deadline = time.monotonic() + seconds
    while True:
        try:
            if ready():
                return
        except Error:
            connection.close()
        if time.monotonic() > deadline:
            raise TimeoutError("\n".join(worker.log.read_text()[-3000:] for worker in workers))
        time.sleep(0.01)


def sql(statement: str) -> list[tuple[object, ...]]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def fleet() -> list[str]:
    from newsletter.store.models import Worker as Row

    return [*Row.objects.values_list("owner", flat=True)]


def opened(config: Config, people: range = range(1, 2001), issue: str = "2017-11-19") -> int:
    from newsletter.store import mailings

    list_id = add_people(config, people)
    return mailings.open_mailing(
        editions(key=issue), issue=issue, list=list_id, default_language="en", provider="outbox"
    ).mailing


def state(mailing: int) -> str:
    from newsletter.store import mailings

    return str(mailings.find(mailing).state)


def tally(mailing: int) -> dict[str, int]:
    from newsletter.store import ledger

    return {state: count for state, count in ledger.tally(mailing).items() if count}


def mailed(config: Config) -> Counter[str]:
    """How many messages each address got."""
    parser = BytesHeaderParser()
    texts = [path.read_bytes() for path in (config.outbox / "new").iterdir()]
    return Counter(parseaddr(parser.parsebytes(text)["To"])[1] for text in texts)


def count_mailed(config: Config) -> int:
    return len(os.listdir(config.outbox / "new")) if (config.outbox / "new").exists() else 0


def left_doing() -> int:
    return int(str(sql("SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing'")[0][0]))


# --- several workers ---


def test_two_workers_send_a_mailing_and_everybody_gets_it_once(cluster: Config) -> None:
    # Kept for this test: every job that was ever deferred, with what started it.
    sql("CREATE TABLE was_deferred AS SELECT task_name, args FROM procrastinate_jobs WHERE false")
    sql(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO was_deferred VALUES (NEW.task_name, NEW.args); RETURN NEW; END $$"
    )
    sql("CREATE TRIGGER keep AFTER INSERT ON procrastinate_jobs FOR EACH ROW EXECUTE FUNCTION keep()")
    with at_work(cluster, 2) as workers:
        mailing = opened(cluster)
        wait(lambda: state(mailing) == "finished", workers)
        assert tally(mailing) == {"accepted": 2000}
        got = mailed(cluster)
        assert (len(got), max(got.values())) == (2000, 1)
        finishes = "SELECT count(*), count(DISTINCT args) FROM was_deferred WHERE task_name = 'finish'"
        wait(lambda: int(str(sql(finishes)[0][0])) >= 3, workers)
        # Both would have deferred each of them: it is once per cluster.
        rows = sql("SELECT task_name, count(*), count(DISTINCT args) FROM was_deferred GROUP BY task_name")
        assert {task: count for task, count, _ in rows if task != "wake"} == {
            task: distinct for task, _, distinct in rows if task != "wake"
        }
        assert {"finish", "reap_expired", "write_down"} <= {task for task, _, _ in rows}
        for worker in workers:
            worker.stop()
    assert fleet() == []
    assert left_doing() == 0
    assert sql("SELECT * FROM procrastinate_workers") == []


def test_a_single_mail_is_sent_by_whoever_hears_the_ring(cluster: Config) -> None:
    from newsletter.store import mailings, models

    with at_work(cluster) as workers:
        mailings.post(
            edition(key="confirm", kind="transactional"),
            key="confirm:1:1",
            address="new@example.org",
            address_key=b"n" * 16,
            slots={"NAME": "", "CONFIRM_URL": "https://news.example.org/c/1"},
            provider="outbox",
        )
        wait(lambda: models.Delivery.objects.filter(state="accepted").exists(), workers)
        wait(lambda: not sql("SELECT 1 FROM procrastinate_jobs WHERE task_name = 'wake'"), workers)


def test_a_long_writing_down_goes_on_in_several_jobs_and_stops_at_once(cluster: Config) -> None:
    with at_work(cluster, settings=(2.0, 0.2)) as workers:
        mailing = opened(cluster, range(1, 40_001))
        wait(lambda: bool(sql("SELECT 1 FROM mailing WHERE audience > 0")), workers)
        workers[0].stop()
        assert left_doing() == 0
        if state(mailing) == "opening":
            assert sql("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'write_down'") == [(1,)]
        assert count_mailed(cluster) == 0 or state(mailing) == "sending"
    with at_work(cluster, settings=(2.0, 0.2)) as workers:
        wait(lambda: state(mailing) != "opening", workers)
        assert sum(tally(mailing).values()) == 40_000
        workers[0].stop()
    assert left_doing() == 0


# --- what dies ---


def test_a_worker_killed_while_writing_down_leaves_its_job_to_another(
    cluster: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    from newsletter.store import mailings

    monkeypatch.setattr(mailings, "RANGE", 500)
    mailing = opened(cluster)
    assert mailings.write_down(mailing)  # the first range: the worker dies in the middle
    doing = "SELECT 1 FROM procrastinate_jobs WHERE task_name = 'write_down' AND status = 'doing'"
    with psycopg.connect(cluster.database_url) as other:
        other.execute("SELECT 1 FROM mailing FOR UPDATE")
        with at_work(cluster) as workers:
            wait(lambda: bool(sql(doing)), workers)
            workers[0].kill()
    assert sql(doing)
    with at_work(cluster) as workers:
        wait(lambda: state(mailing) == "finished", workers)
        wait(lambda: not sql("SELECT 1 FROM procrastinate_jobs WHERE task_name = 'write_down'"), workers)
        assert tally(mailing) == {"accepted": 2000}
        got = mailed(cluster)
        assert (len(got), max(got.values())) == (2000, 1)
        workers[0].stop()
    assert left_doing() == 0


def test_lanes_killed_in_the_middle_lose_and_double_nobody(cluster: Config) -> None:
    mailing = opened(cluster)
    for sent in (200, 900):
        with at_work(cluster) as workers:
            wait(lambda sent=sent: count_mailed(cluster) >= sent, workers)  # type: ignore[misc]
            workers[0].kill()
    with at_work(cluster, 2) as workers:
        wait(lambda: state(mailing) == "finished", workers)
        for worker in workers:
            worker.stop()
    counts = tally(mailing)
    assert sum(counts.values()) == 2000
    assert set(counts) <= {"accepted", "in_doubt"}
    assert counts.get("in_doubt", 0) <= 2  # two crashes, one connection
    got = mailed(cluster)
    assert max(got.values()) == 1
    assert 2000 - counts.get("in_doubt", 0) <= len(got) <= 2000
    assert left_doing() == 0
    assert len(fleet()) == 2  # the killed ones, until they are forgotten


def test_a_worker_that_was_stopped_so_long_that_it_counts_as_gone_works_again(cluster: Config) -> None:
    with at_work(cluster) as workers:
        asleep = workers[0]
        wait(lambda: bool(sql("SELECT 1 FROM procrastinate_workers")), workers)
        asleep.process.send_signal(signal.SIGSTOP)
        wait(lambda: bool(sql("SELECT 1 FROM procrastinate_workers WHERE last_heartbeat < now() - interval '3 s'")))
        with at_work(cluster) as others:  # which strikes off whoever is silent
            wait(
                lambda: (
                    sql("SELECT count(*), max(last_heartbeat) > now() - interval '3 s' FROM procrastinate_workers")
                    == [(1, True)]
                ),
                others,
            )
            others[0].stop()
        asleep.process.send_signal(signal.SIGCONT)
        mailing = opened(cluster)
        wait(lambda: state(mailing) == "finished", workers)
        assert tally(mailing) == {"accepted": 2000}
        asleep.stop()
    assert left_doing() == 0


def test_a_duty_with_a_fault_is_said_and_holds_nothing_up(cluster: Config) -> None:
    sql("CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no such thing'; END $$")
    sql(
        "CREATE TRIGGER fault BEFORE UPDATE OF finished_at ON mailing FOR EACH ROW"
        " WHEN (NEW.finished_at IS NOT NULL) EXECUTE FUNCTION fault()"
    )
    mailing = opened(cluster)
    with at_work(cluster) as workers:
        wait(lambda: "the duty finish: " in str(sql("SELECT trouble FROM worker")), workers)
        assert "no such thing" in str(sql("SELECT trouble FROM worker"))
        wait(lambda: tally(mailing) == {"accepted": 2000}, workers)
        sql("DROP TRIGGER fault ON mailing")
        wait(lambda: state(mailing) == "finished", workers)
        workers[0].stop()


def test_a_mailing_whose_job_was_lost_is_written_down_all_the_same(cluster: Config) -> None:
    mailing = opened(cluster, range(1, 21))
    sql("DELETE FROM procrastinate_jobs")
    with at_work(cluster) as workers:
        wait(lambda: state(mailing) == "finished", workers)


def test_a_worker_for_cron_ends_when_nothing_is_due(cluster: Config) -> None:
    mailing = opened(cluster)
    done = subprocess.run(
        [sys.executable, "-m", "newsletter", "worker", "--once"],
        cwd=cluster.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
        timeout=40,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert tally(mailing) == {"accepted": 2000}
    assert (fleet(), left_doing()) == ([], 0)


# --- the database goes away ---


def test_a_crew_that_is_stopped_while_it_still_connects_ends(cluster: Config) -> None:
    from newsletter.engine.cluster import Crew
    from newsletter.engine.local import Shift

    shift = Shift(cluster, as_ways(Memory(), "outbox"), engine="cluster")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        crew = Crew(replace(cluster, database_url=f"postgresql://test@127.0.0.1:{port}/none"), shift)
        crew.start()
        client, _ = silent.accept()
        client.recv(100)  # it waits for an answer now
        crew.stop()
        assert crew.join(20)
        client.close()


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    """A server of the test's own, to be stopped. What it commits is on the disk."""
    own = PostgreSQL(durable=True)
    yield own
    own.close()


@pytest.mark.parametrize("how", ["the server is restarted", "the network is cut"])
def test_a_worker_outlives_a_database_that_goes_away(workspace: Path, server: PostgreSQL, how: str) -> None:
    from django.db import connections

    from newsletter.store import schema

    url, proxy = server.new_database(), None
    if how == "the network is cut":
        proxy = Proxy(server.folder / ".s.PGSQL.5432")
        url = f"postgresql://test@127.0.0.1:{proxy.port}/test1"
    config = cluster_workspace(workspace, url)
    schema.migrate(config)
    mailing = opened(config)
    with at_work(config) as workers:
        wait(lambda: count_mailed(config) >= 200, workers)
        if proxy:
            proxy.cut()
            time.sleep(1)  # for as long as it is away
            proxy.mend()
        else:
            server.stop(fast=False)
            server.start()
        wait(lambda: state(mailing) == "finished", workers)
        got = mailed(config)
        assert max(got.values()) == 1
        assert tally(mailing).get("in_doubt", 0) <= 1
        assert len(got) == 2000
        # The crew is back, too: only a job writes down, and only a periodic one finishes.
        second = opened(config, range(2001, 2101), "2017-11-26")
        wait(lambda: state(second) == "finished", workers)
        wait(lambda: left_doing() == 0, workers)
        workers[0].stop()
    assert fleet() == []
    connections.close_all()
    if proxy:
        proxy.close()


def test_a_worker_does_the_duties_itself_when_the_queue_is_out_of_order(cluster: Config) -> None:
    """And says so, and gives them back once the queue is mended."""
    sql("ALTER FUNCTION procrastinate_fetch_job_v2 RENAME TO gone")
    mailing = opened(cluster)
    with at_work(cluster) as workers:
        wait(lambda: state(mailing) == "finished", workers)
        assert tally(mailing) == {"accepted": 2000}
        trouble = "SELECT trouble FROM worker"
        wait(lambda: "the queue of duties" in str(sql(trouble)), workers)
        assert sql("SELECT 1 FROM procrastinate_jobs WHERE task_name = 'write_down' AND status = 'todo'")
        sql("ALTER FUNCTION gone RENAME TO procrastinate_fetch_job_v2")
        wait(lambda: not sql("SELECT 1 FROM procrastinate_jobs WHERE task_name = 'write_down'"), workers)
        said = workers[0].stop()
    assert "the queue of duties: " in said


def test_who_follows_one_mailing_to_its_end_needs_no_worker_and_no_queue(
    cluster: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.engine import run
    from newsletter.store import queue

    monkeypatch.setattr(queue, "find_spec", lambda name: None)
    mailing = opened(cluster, range(1, 21))
    provider = Memory()
    run(
        cluster,
        as_ways(provider, "outbox"),
        stop=threading.Event(),
        mailing=mailing,
        until=lambda: state(mailing) == "finished",
    )
    assert len(provider.messages) == 20
    with pytest.raises(ConfigError, match="Procrastinate, which is not installed"):
        run(cluster, as_ways(provider, "outbox"), stop=threading.Event())


# --- the duties ---


def test_every_duty_may_run_twice_at_once(cluster: Config) -> None:
    from django.db import connection

    from newsletter import duties
    from newsletter.store import keys, ledger, models, queue

    mailing = opened(cluster)
    ring = keys.keyring(cluster)

    def four(act: Callable[[], object]) -> list[object]:
        barrier = threading.Barrier(4)

        def one() -> object:
            try:
                barrier.wait(10)
                return act()
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as pool:
            return [each.result() for each in [pool.submit(one) for _ in range(4)]]

    four(lambda: duties.write_down_recipients(cluster, mailing=mailing))
    duties.write_down_recipients(cluster)
    assert state(mailing) == "sending"
    assert tally(mailing) == {"pending": 2000}
    assert ledger.claim(owner="gone:1", lease=-1.0, now=time.time()) is not None
    four(lambda: duties.reap_expired(ring))
    assert models.Batch.objects.filter(state="leased").count() == 0
    assert tally(mailing) == {"pending": 2000}
    models.Batch.objects.update(state="done")
    finished = four(duties.finish)
    assert sorted(map(str, finished)) == sorted([str([mailing]), "[]", "[]", "[]"])
    sql("UPDATE procrastinate_jobs SET status = 'doing'")
    four(lambda: queue.retry_stalled(20))
    assert sql("SELECT status::text, attempts FROM procrastinate_jobs") == [("todo", 1)]
