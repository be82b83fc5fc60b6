"""Any number of workers on any number of machines, on PostgreSQL: Procrastinate brings the duties to them.

A worker is three things. The lanes, which claim batches from the ledger: the ledger is the queue of mail. A crew, which
is a Procrastinate worker in a thread of its own and runs the duties as jobs, those without a cause once per cluster at
their time. And a small loop for what belongs to this machine: leases, flight recorders, the watch, its word to the
fleet, and the jobs that dead workers left, since what mends the queue must not wait in it.

Jobs carry ids only and may run twice, late, or at the same moment on two machines: the ledger alone knows what is true.
When the queue itself is out of order, a worker runs the duties in its loop, as engine/local.py does.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from django.db import connection

from newsletter import duties
from newsletter.config import Config
from newsletter.dispatch import LEASE, Progress, said
from newsletter.engine.local import EveryDuty, Reporter, Shift, away, unanswered
from newsletter.errors import InputError
from newsletter.providers import WayOut
from newsletter.settings import PATIENCE
from newsletter.store import mailings, queue
from newsletter.store.doorbell import ring

if TYPE_CHECKING:
    from procrastinate import App
    from psycopg import AsyncConnection

CONCURRENCY = 4  # jobs at once: a long one, such as writing down a million people, never holds up the rest
POOL = 2  # connections for Procrastinate's own statements; one more listens
PULSE = 5.0  # seconds between two heartbeats of a crew
STALLED = 20.0  # seconds without one after which others take its jobs over
SLICE = 5.0  # seconds of writing down in one job: how long the short ones may have to wait when many are written down
LONGEST_PAUSE = 15.0  # seconds between two tries of a crew that cannot work
STEADY = 10.0  # seconds after which a crew that was started again counts as back
DISORDER = 30.0  # seconds without a crew after which the loop runs the duties itself


def run(
    config: Config,
    ways: Sequence[WayOut],
    *,
    stop: threading.Event,
    lease: float = LEASE,
    until: Callable[[], bool] = lambda: False,
    report: Reporter = lambda progress: None,
) -> Progress:
    """What `local.run` does, with the duties shared among all workers.

    Raises `ConfigError` without Procrastinate, `SchemaMismatch` without its tables, before anything begins.
    """
    queue.check()
    with Shift(config, ways, engine="cluster", lease=lease) as shift:
        crew = Crew(config, shift)
        every_duty = EveryDuty(config, shift, seconds=min(2.0, lease / 4))
        retried = 0.0

        def round() -> bool:
            nonlocal retried
            duties.read_recorders(config, shift.keyring, shift.store)
            duties.pause_forsaken(config, shift.store)
            if time.monotonic() - retried > STALLED / 2:
                retried = time.monotonic()
                queue.retry_stalled(STALLED)
            alone = crew.out_of_order()
            if trouble := crew.complaint():
                shift.progress.trouble = trouble
            return alone and every_duty()

        crew.start()
        try:
            shift.work(round, stop=stop, until=until, report=report)
        finally:
            shift.dispatcher.stop()  # both at once: nothing new begins
            crew.stop()
            shift.wait_for(crew.join)
    return shift.progress


class Crew:
    """The Procrastinate worker of this process, in a thread. Whatever ends it but `stop`, it is started again."""

    def __init__(self, config: Config, shift: Shift) -> None:
        self._trouble = ""  # why it is not at work
        self._complaint = ""  # what went wrong with a job since `complaint` was asked for
        self._config, self._shift = config, shift
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._up_since = 0.0  # monotonic seconds; 0.0: it is not up
        self._down_since = 0.0  # 0.0: it is not known to be down
        self._thread = threading.Thread(target=self._run, name="crew", daemon=True)

    def start(self) -> None:
        for name in ("procrastinate", "psycopg"):  # they would print whole rows; what matters is said by us
            logging.getLogger(name).addHandler(logging.NullHandler())
            logging.getLogger(name).propagate = False
        self._thread.start()

    def stop(self) -> None:
        """No new job begins; those in hand are finished, or cut off where they can go on later."""
        with self._lock:
            self._stopping.set()
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)

    def join(self, timeout: float) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def complaint(self) -> str:
        """What keeps it from working, or what went wrong with a job since this was last asked; "" for nothing."""
        complaint, self._complaint = self._complaint, ""
        return self._trouble or complaint

    def out_of_order(self) -> bool:
        """Whether it has not worked for a while, although the database answers."""
        if self._steady():
            self._down_since, self._trouble = 0.0, ""
            return False
        return bool(self._down_since) and time.monotonic() - self._down_since > DISORDER

    def _steady(self) -> bool:
        return bool(self._up_since) and time.monotonic() - self._up_since > STEADY

    def _run(self) -> None:
        failures, pause = 0, 0.0
        while not self._stopping.wait(pause):
            why = "Procrastinate's worker lost a connection"  # after which it ends, with a word to its log only
            try:
                asyncio.run(self._work())
            except asyncio.CancelledError:
                pass
            except Exception as error:
                why = said(_first(error))
            if self._stopping.is_set():
                return
            failures = 1 if self._steady() else failures + 1
            pause = min(LONGEST_PAUSE, 0.5 * 2.0 ** min(failures, 10))
            self._up_since, self._down_since = 0.0, self._down_since or time.monotonic()
            self._trouble = f"the queue of duties: {why}"

    async def _work(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._loop.set_exception_handler(self._hear)
        app = self._app()
        try:
            await app.open_async()
            self._up_since = time.monotonic()
            await app.run_worker_async(
                queues=[queue.QUEUE],
                name=self._shift.dispatcher.owner,
                concurrency=CONCURRENCY,
                install_signal_handlers=False,
                delete_jobs="successful",
                update_heartbeat_interval=PULSE,
                stalled_worker_timeout=STALLED,
            )
        finally:
            with self._lock:
                self._loop = self._task = None
            # Also when it was cut off while it opened (`async with` would not): the tasks of a pool that is still open
            # swallow a cancellation while they connect, and asyncio would wait for them for ever.
            await app.close_async()

    def _hear(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody waited for in Procrastinate's worker: asyncio would print it with a traceback."""
        if isinstance(error := context.get("exception"), Exception):
            self._complaint = f"the queue of duties: {said(_first(error))}"

    # --- the tasks ----------------------------------------------------------------------------------------------------

    def _app(self) -> App:
        from procrastinate import App, PsycopgConnector, RetryStrategy
        from psycopg.conninfo import conninfo_to_dict

        connector = PsycopgConnector(
            kwargs={**PATIENCE, **conninfo_to_dict(self._config.database_url), "application_name": "newsletter crew"},
            configure=_each_alone,
            min_size=1,
            max_size=POOL,
            timeout=10.0,
        )
        app = App(connector=connector)
        config, shift = self._config, self._shift
        # Name, when (as in cron, with seconds at the end), priority (the short ones before any writing down), what.
        periodic: tuple[tuple[str, str, int, Callable[[], object]], ...] = (
            ("finish", "* * * * * */2", 10, duties.finish),
            ("reap_expired", "* * * * * */5", 10, lambda: duties.reap_expired(shift.keyring)),
            ("go_on", "* * * * * */5", 10, self._go_on),
            ("answer_wishes", "* * * * * */2", 15, self._answer_wishes),
            ("begin_scheduled", "* * * * *", 10, lambda: duties.begin_scheduled(config)),
            ("forget_addresses", "7 * * * *", 0, self._forget_addresses),
            ("forget_workers", "17 * * * *", 0, duties.forget_workers),
            ("forget_spending", "22 * * * *", 0, duties.forget_spending),
            ("forget_wishes", "12 * * * *", 0, self._forget_wishes),
            ("remove_old_jobs", "27 * * * *", 0, queue.forget_old),
        )
        for name, cron, priority, duty in periodic:
            # The lock keeps a second one from waiting while nobody comes to do the first.
            task = app.task(name=name, queue=queue.QUEUE, priority=priority)(self._job(name, duty))
            app.periodic(cron=cron, queueing_lock=name)(task)

        again = RetryStrategy(max_attempts=10, linear_wait=2)
        write_down = self._job("write_down", lambda mailing: self._write_down(config, mailing))
        app.task(name="write_down", queue=queue.QUEUE, retry=again)(write_down)
        app.task(name="wake", queue=queue.QUEUE)(self._job("wake", self._wake))
        return app

    def _job(self, name: str, duty: Callable[..., object]) -> Callable[..., None]:
        """A duty as a job: its thread's connection is closed at the end, and what goes wrong is said."""

        def job(*, timestamp: int | None = None, **ids: int) -> None:
            try:
                duty(**ids)
            except Exception as error:
                self._complaint = f"the duty {name}: {said(error)}"
                if not (away(error) and timestamp is not None):  # a periodic one comes again by itself
                    raise
            finally:
                connection.close()

        return job

    def _write_down(self, config: Config, mailing: int) -> None:
        if duties.write_down_recipients(config, seconds=SLICE, mailing=mailing, stop=self._stopping.is_set):
            ring("write_down", mailing=mailing)
        else:
            self._wake()

    def _go_on(self) -> None:
        """Sees to it that every mailing that is still opening has a job, whatever became of the one it had."""
        has = {ids.get("mailing") for ids in queue.open_jobs("write_down")}
        for row in mailings.opening():
            if row.pk not in has:
                ring("write_down", mailing=row.pk)

    def _answer_wishes(self) -> None:
        try:
            if duties.answer_wishes(self._config, seconds=SLICE):
                ring("answer_wishes")
        except InputError as error:  # of a file of the workspace: no fault of the job
            self._complaint = unanswered(error)

    def _forget_wishes(self) -> None:
        while not self._stopping.is_set() and duties.forget_wishes():
            pass

    def _forget_addresses(self) -> None:
        while not self._stopping.is_set() and duties.forget_addresses(self._config):
            pass

    def _wake(self) -> None:
        """Lets the lanes of this worker look for work at once."""
        self._shift.dispatcher.wake()


def _first(error: Exception) -> Exception:
    """What an error of Procrastinate, which only says "Database error.", came from."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


async def _each_alone(connection: AsyncConnection) -> None:
    """Every statement of Procrastinate's is a transaction of its own, ended by the server. In one that the client must
    end, a worker that is stopped at that moment would hold its locks, and no other crew could begin."""
    await connection.set_autocommit(True)
