"""`newsletter workers`: what it says of a fleet in every state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audience import add_people, editions
from newsletter.cli import run
from newsletter.config import Config

ROOT = Path(__file__).parents[2]
Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def say_one(*arguments: str) -> str:
        capsys.readouterr()
        assert run(["workers", *arguments]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return say_one


def at_work(owner: str, *, seen: float = 0.0, **more: Any) -> None:
    from newsletter.store import fleet

    now = time.time()
    fleet.check_in(owner, engine="cluster", state="working", started_at=now - 3600, now=now - seen, **more)


def opened(config: Config) -> int:
    from newsletter.store import mailings

    list_id = add_people(config, range(1, 21))
    mailing = mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="memory"
    ).mailing
    while mailings.write_down(mailing):
        pass
    return mailing


def test_with_nobody_at_work_it_says_what_to_type(store: Config, say: Say) -> None:
    assert "No worker is at work" in (said := say())
    assert "newsletter worker" in said
    assert "Queue" not in said
    told = json.loads(say("--json"))
    assert (told["workers"], told["mailings"], told["queue"]) == ([], [], None)
    assert told["batches"] == {"due": 0, "leased": 0, "overdue": 0, "later": 0}


def test_each_worker_is_shown_with_what_it_has_in_hand_and_how_its_ways_out_are(store: Config, say: Say) -> None:
    from newsletter.store import ledger

    opened(store)
    until = time.time() + 30
    health = {
        "smtp": {"state": "ready", "why": "", "until": 0.0},
        "sendgrid": {"state": "down", "why": "no route\nto it", "until": until},
    }
    at_work("mail1:812", answered=12_000, per_second=81.5, health=health, trouble="OperationalError: gone")
    at_work("mail2:77", answered=3, per_second=10.0)
    at_work("mail3:5", seen=400)
    assert ledger.claim(owner="mail1:812", lease=60, now=time.time()) is not None
    said = say()
    assert "2 workers at work on " in said
    assert ", 92 messages a second" in said
    assert "  mail1 812 (cluster): working since " in said
    assert "1 batch in hand; 12,000 messages, 81.5 a second\n" in said
    assert "      smtp: ready\n" in said
    assert "      sendgrid: down until " in said
    assert ": no route to it\n" in said
    assert "      trouble: OperationalError: gone\n" in said
    assert "  mail3 5 (cluster): silent since " in said
    assert "; nothing in hand\n" in said
    assert "     1  2017-11-19 to weekly: 0 of 20\n" in said
    assert "Batches: 1 due, 1 in hand.\n" in said
    told = json.loads(say("--json"))
    assert [(each["host"], each["pid"], each["state"]) for each in told["workers"]] == [
        ("mail2", 77, "working"),
        ("mail1", 812, "working"),
        ("mail3", 5, "silent"),
    ]
    assert told["workers"][1]["ways"] == health
    assert told["per_second"] == 91.5
    assert told["mailings"][0]["audience"] == 20


def test_batches_of_a_worker_that_was_killed_are_told_of(store: Config, say: Say) -> None:
    from newsletter.store import ledger

    opened(store)
    at_work("mail1:812", seen=100)
    assert ledger.claim(owner="mail1:812", lease=60, now=time.time() - 100) is not None
    said = say()
    assert "No worker is at work" in said
    assert "1 batch in hand, which others take over when the lease is over" in said
    assert "1 in hand, 1 of them of workers that are gone" in said


def test_the_queue_is_told_of_with_what_failed_and_what_was_left(cluster: Config, say: Say) -> None:
    from django.db import connection

    opened(cluster)
    assert "Queue of duties: 1 waiting, 0 being done." in say()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE procrastinate_jobs SET status = 'doing'")  # by nobody
        cursor.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, status) VALUES ('newsletter', 'finish', 'failed')"
        )
    said = say()
    assert "Queue of duties: 0 waiting, 1 being done." in said
    assert "  write_down: 1 left by workers that are gone; others take over within a minute" in said
    assert "  finish: 1 failed in the last days" in said
    assert json.loads(say("--json"))["queue"]["write_down"] == {"waiting": 0, "doing": 1, "failed": 0, "stalled": 1}


def test_a_cluster_without_its_tables_is_told_what_to_do(cluster: Config, say: Say) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE procrastinate_jobs CASCADE")
    assert "newsletter migrate" in say()


def test_a_worker_of_a_cluster_without_tables_says_what_to_type(
    cluster: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE procrastinate_jobs CASCADE")
    assert run(["worker", "--once"]) == 1
    assert "then type: newsletter migrate" in capsys.readouterr().err


def test_watching_goes_on_until_it_is_stopped(store: Config) -> None:
    hurried = "from newsletter.cli import main, workers; workers.WATCHED = 0.05; main()"
    watching = subprocess.Popen(
        [sys.executable, "-c", hurried, "workers", "--watch", "--json"],
        cwd=store.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    lines = [json.loads(watching.stdout.readline()) for _ in range(3)]
    assert [each["workers"] for each in lines] == [[], [], []]
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=20)
    assert (watching.returncode, err) == (0, "")
