"""One loop in one process that runs every duty and the lanes. Any number of such processes may work on one database."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from django.db import InterfaceError, OperationalError, connection

from newsletter import duties
from newsletter.config import Config
from newsletter.dispatch import LEASE, Dispatcher, Progress
from newsletter.providers import WayOut
from newsletter.store import keys, schema

HEARTBEAT = 1.0  # seconds between two rounds of the duties
HOUSEKEEPING = 3600.0


def run(
    config: Config,
    ways: Sequence[WayOut],
    *,
    stop: threading.Event,
    mailing: int | None = None,
    lease: float = LEASE,
    until: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Works until `stop` is set or `until()` says so, then finishes what is in hand.

    `report` is called about every second. A database that is away for a while is waited for. Raises nothing for that;
    raises `WrongKey` and the like before it begins.
    """
    keyring, store = keys.keyring(config), schema.store_id()
    duties.pause_forsaken(config, store)
    dispatcher = Dispatcher(
        config,
        ways,
        keyring=keyring,
        store=store,
        mailing=mailing,
        lease=lease,
    )
    dispatcher.start()
    gc.freeze()  # what was imported stays: looking through it again and again cost more than what is looked for
    beat = min(HEARTBEAT, lease / 6)
    tidied = 0.0
    try:
        while not stop.is_set():
            try:
                dispatcher.heartbeat()
                duties.begin_scheduled(config)
                more = duties.write_down_recipients(config, seconds=min(2.0, lease / 4))
                duties.reap(config, keyring, store)
                duties.finish()
                duties.pause_forsaken(config, store)
                if time.monotonic() - tidied > HOUSEKEEPING:
                    duties.forget_addresses(config)
                    tidied = time.monotonic()
                report(dispatcher.progress)
                if until():
                    break
                if not more:
                    stop.wait(beat)
            except Exception as error:
                if not _database(error):
                    raise
                dispatcher.progress.trouble = f"{type(error).__name__}: {error}".strip()
                connection.close()
                report(dispatcher.progress)
                stop.wait(beat)
    finally:
        dispatcher.stop()
        while not dispatcher.join(beat):
            try:
                dispatcher.heartbeat()
            except Exception as error:
                if not _database(error):
                    raise
                connection.close()
        for way in ways:
            way.provider.close()
        gc.unfreeze()
    return dispatcher.progress


def _database(error: Exception) -> bool:
    """Whether waiting may help: the database or the disk, not a fault of ours."""
    return isinstance(error, OperationalError | InterfaceError | OSError)


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set: what is in hand is finished, nothing new begins. A second SIGINT interrupts
    as usual."""
    stop = threading.Event()
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    for number in former:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
