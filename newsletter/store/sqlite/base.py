"""Django's backend for SQLite, with a queue of those who want to write.

SQLite lets one transaction write at a time, and whoever comes meanwhile naps and looks again, the longer it waits the
seldomer (1 to 100 ms). Whoever has just written and wants to write again finds the door open, so a mailing or an import
keeps others out for seconds. Here a process sends one thread at a time to the door, only one process waits at the door,
looking every half millisecond, and whoever leaves stands behind it: between two transactions of a process everybody
else who waits has a turn. Nothing is promised by this but fairness; what keeps writers apart is SQLite's own lock.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.db.backends.sqlite3 import base
from django.db.utils import OperationalError

NAP = 0.0005  # seconds between two looks


class _Door:
    """Where the threads of this process queue for one database file."""

    def __init__(self, path: str) -> None:
        self.one = threading.Lock()  # held by the thread that waits at the door or writes
        self._path = path
        self._next: int | None = None  # a file that is locked by the process that waits at the door

    def stand(self, until: float) -> bool:
        """Takes the place before the door: whether it was free in time."""
        if self._next is None:
            try:
                self._next = os.open(f"{self._path}.queue", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError:  # a folder that may only be read, or one that is not there: SQLite will say so
                return True
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(self._next, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            if time.monotonic() > until:
                return False
            time.sleep(NAP)

    def step_away(self) -> None:
        if self._next is not None:
            fcntl.flock(self._next, fcntl.LOCK_UN)


_doors: dict[str, _Door] = {}
os.register_at_fork(after_in_child=_doors.clear)  # a child has threads and files of its own


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection whose write transactions queue up."""

    _door: _Door | None = None  # while it writes

    def _start_transaction_under_autocommit(self) -> None:
        with self.execute_wrapper(self._queued):
            super()._start_transaction_under_autocommit()  # type: ignore[misc] # not in the stubs, like the three below

    def _queued(self, execute: Callable[..., Any], *statement: Any) -> Any:
        """BEGIN IMMEDIATE when it is this thread's turn and nobody else writes.

        Raises what SQLite raises, and what it says ("database is locked") when the turn did not come in time.
        """
        patience = self.settings_dict["OPTIONS"].get("timeout", 5.0)
        until = time.monotonic() + patience
        path = self.settings_dict["NAME"]
        door = _doors.get(path) or _doors.setdefault(path, _Door(path))
        if not door.one.acquire(timeout=patience):
            raise OperationalError("database is locked")
        self._door = door
        try:
            if not door.stand(until):
                raise OperationalError("database is locked")
            try:
                return self._begin(until, lambda: execute(*statement))
            finally:
                door.step_away()
        except BaseException:
            self._leave()
            raise

    def _begin(self, until: float, begin: Callable[[], Any]) -> Any:
        pragma = self.connection.execute
        (naps,) = pragma("PRAGMA busy_timeout").fetchone()
        pragma("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    return begin()
                except OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > until:
                        raise
                time.sleep(NAP)
        finally:
            pragma(f"PRAGMA busy_timeout = {naps}")

    def _commit(self) -> Any:
        try:
            return super()._commit()  # type: ignore[misc]
        finally:
            self._leave()

    def _rollback(self) -> Any:
        try:
            return super()._rollback()  # type: ignore[misc]
        finally:
            self._leave()

    def _close(self) -> Any:
        try:
            return super()._close()  # type: ignore[misc]
        finally:
            self._leave()

    def _leave(self) -> None:
        door, self._door = self._door, None
        if door is not None:
            door.one.release()
