"""One loop in one process that runs every duty and the lanes. Any number of such processes may work on one database.

`Shift` is what every worker does, whichever engine runs the duties: engine/cluster.py works a shift, too.
"""

from __future__ import annotations

import ctypes
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType

from django.db import InterfaceError, OperationalError, connection

from newsletter import duties
from newsletter.config import Config
from newsletter.dispatch import LEASE, Dispatcher, Progress, said
from newsletter.providers import WayOut
from newsletter.store import fleet, keys, schema

HEARTBEAT = 1.0  # seconds between two rounds of the duties
HOUSEKEEPING = 3600.0
CHECK_IN = 5.0  # seconds between two words to the fleet
REMEMBERED = 300.0  # seconds for which the fleet is told of the last trouble

Reporter = Callable[[Progress], None]


def run(
    config: Config,
    ways: Sequence[WayOut],
    *,
    stop: threading.Event,
    mailing: int | None = None,
    lease: float = LEASE,
    until: Callable[[], bool] = lambda: False,
    report: Reporter = lambda progress: None,
) -> Progress:
    """Works until `stop` is set or `until()` says so, then finishes what is in hand.

    `report` is called about every second. A database that is away for a while is waited for. Raises nothing for that;
    raises `WrongKey` and the like before it begins.
    """
    with Shift(config, ways, engine="local", mailing=mailing, lease=lease) as shift:
        every_duty = EveryDuty(config, shift, seconds=min(2.0, lease / 4))
        shift.work(every_duty, stop=stop, until=until, report=report)
    return shift.progress


class EveryDuty:
    """Runs every duty once at each call; True when there is more to write down and no time to wait."""

    def __init__(self, config: Config, shift: Shift, *, seconds: float) -> None:
        self._config, self._shift, self._seconds = config, shift, seconds
        self._tidied = 0.0

    def __call__(self) -> bool:
        config, shift = self._config, self._shift
        duties.pause_forsaken(config, shift.store)  # first: in an old copy of the database nothing must begin
        duties.begin_scheduled(config)
        more = self._answer_wishes()
        # Who asked for a mail at the pages is answered within a second, also while a million are written down.
        more |= duties.write_down_recipients(config, seconds=self._seconds, stop=duties.wishes_wait)
        duties.reap(config, shift.keyring, shift.store)
        duties.finish()
        if time.monotonic() - self._tidied > HOUSEKEEPING:
            duties.forget_workers()
            duties.forget_spending()
            duties.clean_file(config)
            more_wishes = duties.forget_wishes(seconds=self._seconds)
            if not duties.forget_addresses(config, seconds=self._seconds) and not more_wishes:
                self._tidied = time.monotonic()
        return more

    def _answer_wishes(self) -> bool:
        try:
            return duties.answer_wishes(self._config, seconds=self._seconds)
        except Exception as error:  # of a file of the workspace, or a mistake of ours: issues must go on being sent
            if away(error):
                raise
            self._shift.progress.trouble = unanswered(error)
            return False


def unanswered(error: Exception) -> str:
    """What a worker says of lists or templates that keep mails of the pages from being made."""
    return f"some mails that people asked for at the pages wait: {said(error)}"


class Shift:
    """The lanes of this process, kept alive and reported to the fleet from the first claim to the last answer.

    On leaving, what is in hand is finished and the ways out are closed.
    """

    def __init__(
        self, config: Config, ways: Sequence[WayOut], *, engine: str, mailing: int | None = None, lease: float = LEASE
    ) -> None:
        """Raises `WrongKey` and the like. Pauses what may be an old copy of the database before anything can leave."""
        self.keyring, self.store = keys.keyring(config), schema.store_id()
        duties.pause_forsaken(config, self.store)
        self._ways = ways
        self.dispatcher = Dispatcher(config, ways, keyring=self.keyring, store=self.store, mailing=mailing, lease=lease)
        self.progress = self.dispatcher.progress
        self.beat = min(HEARTBEAT, lease / 6)  # seconds
        self._word = _Word(self.dispatcher, engine)

    def __enter__(self) -> Shift:
        _share_arenas()
        self.dispatcher.start()
        gc.freeze()  # what was imported stays: looking through it again and again cost more than what is looked for
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dispatcher.stop()
        self.wait_for(self.dispatcher.join)
        self._patiently(duties.finish)  # what the lanes have just brought to its end
        self._patiently(self._word.take_back)
        for way in self._ways:
            way.provider.close()
        gc.unfreeze()

    def work(
        self,
        round: Callable[[], bool],
        *,
        stop: threading.Event,
        until: Callable[[], bool],
        report: Reporter,
    ) -> None:
        """Calls `round` about every second, or at once while it says that there is more to do.

        Raises what it raises, but waits for a database or a disk that is away.
        """
        while not stop.is_set():
            try:
                self.dispatcher.heartbeat()
                more = round()
                self._word.say("working")
                report(self.progress)
                if until():
                    break
                if not more:
                    stop.wait(self.beat)
            except Exception as error:
                if not away(error):
                    raise
                self.progress.trouble = said(error)
                connection.close()
                report(self.progress)
                stop.wait(self.beat)

    def wait_for(self, joined: Callable[[float], bool]) -> None:
        """Keeps the leases alive until `joined`, which is given so many seconds each time, says that it is over."""
        self._patiently(lambda: self._word.say("stopping"))
        while not joined(self.beat):
            self._patiently(self.dispatcher.heartbeat)
            self._patiently(lambda: self._word.say("stopping"))

    def _patiently(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            if not away(error):
                raise
            connection.close()


def _share_arenas() -> None:
    """Lets the threads of this process share two heaps. glibc gives each its own, and keeps what a lane once needed for
    a request: 103 MiB became 96 with eight lanes (mallopt(3), M_ARENA_MAX). Elsewhere nothing happens."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-8, 2)


class _Word:
    """What this worker says of itself in the fleet: when its state changes, and every few seconds."""

    def __init__(self, dispatcher: Dispatcher, engine: str) -> None:
        self._dispatcher, self._engine = dispatcher, engine
        self._started = time.time()
        self._state, self._at, self._answered = "", time.monotonic(), 0
        self._trouble, self._trouble_at = "", 0.0

    def say(self, state: str) -> None:
        now, progress = time.monotonic(), self._dispatcher.progress
        if progress.trouble:
            self._trouble, self._trouble_at = progress.trouble.partition("\n")[0], now
        span = now - self._at
        if state == self._state and span < CHECK_IN:
            return
        answered = progress.answered
        fleet.check_in(
            self._dispatcher.owner,
            engine=self._engine,
            state=state,
            started_at=self._started,
            now=time.time(),
            answered=answered,
            per_second=(answered - self._answered) / span if span > 0.5 else 0.0,
            health=self._dispatcher.route.health(),
            trouble=self._trouble if now - self._trouble_at < REMEMBERED else "",
        )
        self._state, self._at, self._answered = state, now, answered

    def take_back(self) -> None:
        fleet.check_out(self._dispatcher.owner)


def away(error: Exception) -> bool:
    """Whether waiting may help: the database or the disk, not a fault of ours."""
    if getattr(error.__cause__, "sqlstate", "") == _STOPPED_TOO_LONG:
        return True
    return isinstance(error, OperationalError | InterfaceError | OSError)


_STOPPED_TOO_LONG = "25P03"  # PostgreSQL's idle_in_transaction_session_timeout: of a worker that was stopped, say


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
