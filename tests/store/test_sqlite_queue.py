"""Who wants to write to an SQLite file gets a turn, whoever else writes again and again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from newsletter.config import Config

WRITES_ON = """
import sys
import time
from pathlib import Path
from newsletter.config import load_config
from newsletter.settings import configure
configure(load_config(Path(sys.argv[1])))
from django.db import connection, transaction
while True:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE fact SET value = CAST(value AS INTEGER) + 1 WHERE name = 'other'")
        time.sleep(0.02)
"""


@pytest.fixture
def counter(store: Config) -> Config:
    from newsletter.store.models import Fact

    if store.database_url:
        pytest.skip("PostgreSQL has many writers")
    Fact.objects.create(name="other", value="0")
    return store


def count() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT value FROM fact WHERE name = 'other'")
        return int(cursor.fetchone()[0])


def test_a_process_that_writes_without_a_pause_keeps_nobody_out(counter: Config) -> None:
    from django.db import transaction

    home = str(Path(__file__).parents[2])
    words = [sys.executable, "-c", WRITES_ON, str(counter.root)]
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": home}) as other:
        try:
            while count() < 3:
                threading.Event().wait(0.01)
            turns = []
            for _ in range(9):
                seen = count()
                while count() == seen:  # then it is in its next transaction
                    threading.Event().wait(0.001)
                before = count()
                with transaction.atomic():
                    turns.append(count() - before)
        finally:
            other.kill()
    # Between two of its transactions the door is hardly open: whoever naps misses it several times.
    assert sorted(turns)[4] <= 2, turns


def test_who_comes_too_late_is_told_that_the_database_is_locked(counter: Config) -> None:
    from django.db import OperationalError, connection, transaction

    told: list[BaseException] = []

    def late() -> None:
        connection.settings_dict = {
            **connection.settings_dict,
            "OPTIONS": {**connection.settings_dict["OPTIONS"], "timeout": 0.1},
        }
        try:
            with transaction.atomic():
                pass
        except OperationalError as error:
            told.append(error)
        finally:
            connection.close()

    with transaction.atomic():
        thread = threading.Thread(target=late)
        thread.start()
        thread.join()
    assert [str(error) for error in told] == ["database is locked"]
    with transaction.atomic():
        assert count() == 0


def test_a_transaction_of_another_program_is_waited_for(counter: Config) -> None:
    import sqlite3

    from django.db import transaction

    with sqlite3.connect(counter.database, isolation_level=None, check_same_thread=False) as shell:
        shell.execute("BEGIN IMMEDIATE")
        shell.execute("UPDATE fact SET value = '7' WHERE name = 'other'")
        ends = threading.Timer(0.05, lambda: shell.execute("COMMIT"))
        ends.start()
        with transaction.atomic():
            assert count() == 7
        ends.join()
    shell.close()
