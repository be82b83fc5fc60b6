"""Small writes of many threads in one transaction: one wait for the disk instead of one each.

Whoever comes while nobody writes, writes at once; whoever comes meanwhile waits, and the first of those who wait then
writes for all who have come until it is its turn, on its own connection and in one transaction. So a batch is as large
as the disk is slow, nobody waits for others to come, and there is no thread beside those of the requests.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from django.db import Error, IntegrityError, InterfaceError, OperationalError, connection, transaction

Result = TypeVar("Result")

LARGEST = 64  # acts in a transaction
LONGEST = 0.02  # seconds after which no further act is begun in a transaction
TRIES = 10  # of an act by itself that is the victim of a deadlock (PostgreSQL) each time


def together(act: Callable[[], Result]) -> Result:
    """What `act` returns, once what it wrote is committed and on the disk.

    `act` does nothing but a few statements on the default connection, in the order of ids where it locks several rows;
    another thread may call it. It may be called again, after what it did before was rolled back. Raises what it raises
    when it is called by itself, in a transaction of its own: no act fails because of another. An error that is the
    database's (it cannot be reached, the disk is full) is raised for all acts that it met. Inside a transaction `act`
    is just called.
    """
    if connection.in_atomic_block:
        return act()
    return cast("Result", _writers.run(act))


class _Waiting:
    """An act, and the thread that waits for what comes of it."""

    __slots__ = ("act", "alone", "bound", "ended", "error", "leads", "result", "woken")

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act
        self.result: Any = None
        self.error: BaseException | None = None
        self.alone = False  # it raised in company: it is tried by itself
        self.bound = False  # what the transaction comes to, it comes to: it may not be called again
        self.ended = False
        self.leads = False  # its thread writes now, and then passes that on
        self.woken = threading.Lock()
        self.woken.acquire()

    def end(self, *, result: Any = None, error: BaseException | None = None) -> None:
        self.result, self.error, self.ended = result, error, True
        self.woken.release()


class _Writers:
    """The acts of one process that wait, and whose thread writes: always that of the first who waited."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._queue: list[_Waiting] = []  # without the one who leads
        self._led = False

    def run(self, act: Callable[[], Any]) -> Any:
        mine = _Waiting(act)
        try:
            with self._mutex:
                if self._led:
                    self._queue.append(mine)
                else:
                    self._led = mine.leads = True
            if not mine.leads:
                mine.woken.acquire()
            while not mine.ended:  # it leads
                self._lead(mine)
        finally:  # also when this thread is interrupted, say by Ctrl-C
            self._leave(mine)
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _lead(self, mine: _Waiting) -> None:
        """Writes for `mine` and for those who wait. Raises what `mine` raises by itself, and what is nobody's fault."""
        if mine.alone:
            mine.end(result=_by_itself(mine.act))
            return
        batch = [mine]
        try:
            self._write(batch)
        except BaseException as error:
            for each in batch[1:]:
                if each.bound and not each.ended:
                    each.end(error=_for_another(error))
            raise
        finally:
            with self._mutex:  # who has come to nothing waits on, before all others
                self._queue[:0] = [each for each in batch[1:] if not each.ended]

    def _write(self, batch: list[_Waiting]) -> None:
        """Calls an act in a transaction, and then those who have come until it began and since, who are added to
        `batch`. Those that are committed have ended then; one that raised is marked to go alone, and nothing is kept.

        Raises what is not an act's fault; those whom it concerns are `bound` to it.
        """
        results: list[Any] = []
        calling: _Waiting | None = None
        committing = False
        try:
            with transaction.atomic():
                begun = time.perf_counter()
                calling = batch[0]
                results.append(calling.act())
                while time.perf_counter() - begun < LONGEST and self._join(batch):
                    calling = batch[-1]
                    results.append(calling.act())
                calling, committing = None, True
                for each in batch:
                    each.bound = True
            for each, result in zip(batch, results, strict=True):
                each.end(result=result)
        except BaseException as error:
            if calling is not None and not _of_the_database(error):
                calling.alone = True
                if not isinstance(error, Exception):
                    raise
            elif committing and (isinstance(error, IntegrityError) or deadlock(error)):
                for each in batch:  # a constraint that is checked at the end: nobody knows whose
                    each.bound, each.alone = False, True
            else:
                if isinstance(error, Exception) and not committing:
                    while calling is None and self._join(batch):  # who waited while it could not even begin
                        pass
                    for each in batch:
                        each.bound = True
                raise

    def _join(self, batch: list[_Waiting]) -> bool:
        """Lets the next one who waits go with a batch: whether there was one, and room."""
        with self._mutex:
            for place, each in enumerate(self._queue if len(batch) < LARGEST else ()):
                if not each.alone:
                    batch.append(self._queue.pop(place))
                    return True
        return False

    def _leave(self, mine: _Waiting) -> None:
        with self._mutex:
            if mine in self._queue:
                self._queue.remove(mine)
            if mine.leads:
                self._led = bool(self._queue)
                if self._led:
                    first = self._queue.pop(0)
                    first.leads = True
                    first.woken.release()


def _by_itself(act: Callable[[], Result]) -> Result:
    """Calls an act in a transaction of its own."""
    for tries_left in reversed(range(TRIES)):
        try:
            with transaction.atomic():
                return act()
        except OperationalError as error:
            if not (deadlock(error) and tries_left):
                raise
    raise AssertionError


def _of_the_database(error: BaseException) -> bool:
    """Whether the next act would meet it too."""
    return isinstance(error, OperationalError | InterfaceError) and not deadlock(error)


def deadlock(error: BaseException) -> bool:
    """PostgreSQL ended this transaction in favour of another (40P01 deadlock_detected, 40001 serialization_failure)."""
    return getattr(error.__cause__, "sqlstate", None) in ("40P01", "40001")


def _for_another(error: BaseException) -> BaseException:
    """The error as another thread may raise it, which writes to it."""
    if not isinstance(error, Error):
        return OperationalError("the commit was broken off, and nobody knows whether it holds")
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__  # the driver's, with its code
    return copy


_writers = _Writers()


def _begin_anew() -> None:
    global _writers  # noqa: PLW0603 - in a forked child none of the parent's threads is there to write
    _writers = _Writers()


os.register_at_fork(after_in_child=_begin_anew)
