"""Sending in the foreground: a mailing followed to its end (`send`, `demo`), and `newsletter worker`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import click

from newsletter.cli.database import open_store
from newsletter.cli.mailings import STATES, doubts_next, moment, title
from newsletter.cli.output import command
from newsletter.cli.workspace import open_workspace
from newsletter.config import Config
from newsletter.moments import span
from newsletter.providers import WayOut, open_ways

if TYPE_CHECKING:
    from newsletter.dispatch import Progress
    from newsletter.route import Full
    from newsletter.store.models import Mailing
    from newsletter.store.overview import Standing

LINE_EVERY = 5.0  # seconds between two lines of progress in a pipe
PATIENCE = 60.0  # seconds after which `worker --once` gives up on a provider that is down
PACE_OVER = 10.0  # seconds over which a pace is measured

Say = Callable[[str], None]
"""Takes one line for whoever watches."""


# --- what a watcher is told -------------------------------------------------------------------------------------------


def trouble(progress: Progress) -> str:
    """What keeps mail from leaving at the moment, and when it is tried again; "" for nothing."""
    if progress.down:
        wait = max(0, round(progress.down_until - time.time()))
        return f"nothing leaves: {progress.down}; trying again {f'in {wait} s' if wait else 'now'}"
    if full := progress.full.get("issue"):
        return _capped(full)
    if progress.trouble:
        return f"trouble with the database, the disk or a duty: {' '.join(progress.trouble.split())}; trying again"
    return ""


def _capped(full: Full) -> str:
    return f"{full.why} is reached, and the rest waits; it goes on at {moment(full.opens)}"


def _over_a_fallback(why: str) -> str:
    return f"a fallback is taken meanwhile: {why}" if why else "the first way out is back"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A mailing at one moment, for showing."""

    standing: Standing
    per_second: float

    def __str__(self) -> str:
        now = self.standing
        if now.state == "opening":
            return f"writing down the recipients: {now.audience:,}"
        words = f"{now.done:,} of {now.audience:,}"
        if now.refused:
            words += f", {now.refused:,} refused"
        if now.state == "sending" and not now.due and now.next > time.time():
            if not now.ahead:
                return f"{words}; the rest was deferred by the provider, the next try is at {_clock(now.next)}"
            also = ", or was deferred by the provider" if now.deferred else ""
            return f"{words}; the rest waits for its hour where they live{also}; the next is at {_clock(now.next)}"
        if self.per_second >= 0.05 and now.state == "sending":
            left = max(0, now.audience - now.done)
            words += (
                f", {self.per_second:,.0f} a second" if self.per_second >= 1 else f", {self.per_second:.1f} a second"
            )
            if left:
                words += f", {span(left / self.per_second)} left"
        return words


def _clock(at: float) -> str:
    there = datetime.fromtimestamp(at, UTC).astimezone()
    return f"{there:%H:%M:%S}" if at - time.time() < 12 * 3600 else f"{there:%Y-%m-%d %H:%M}"


class Gauge:
    """How fast a mailing goes, from what was done over the last seconds, by whatever worker."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def see(self, standing: Standing) -> Seen:
        now = time.monotonic()
        self._points.append((now, standing.done))
        while len(self._points) > 2 and now - self._points[0][0] > PACE_OVER:
            self._points.pop(0)
        (begun, before), (ended, done) = self._points[0], self._points[-1]
        pace = (done - before) / (ended - begun) if ended - begun > 0.5 else 0.0
        return Seen(standing=standing, per_second=max(0.0, pace))


class _Screen(Protocol):
    def __enter__(self) -> _Screen: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, seen: Seen | None, trouble: str, detour: str) -> None: ...


class _Lines:
    """Progress in a pipe: a line when something changes, and one every few seconds."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._told, self._at, self._trouble, self._due = "", 0.0, "", True
        self._detour = ""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""

    def show(self, seen: Seen | None, trouble: str, detour: str) -> None:
        if detour != self._detour:
            self._say(_over_a_fallback(detour))
            self._detour = detour
        reason = trouble.partition("; trying again")[0]
        if reason != self._trouble:
            self._say(trouble if reason else "it goes on")
            self._trouble = reason
        if seen is None or reason:
            return
        waits = seen.standing.due
        if str(seen) != self._told and (time.monotonic() - self._at > LINE_EVERY or waits != self._due):
            self._say(str(seen))
            self._told, self._at, self._due = str(seen), time.monotonic(), waits


class _Bar:
    """Progress on a terminal: one bar that moves, and the trouble under way beside it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        words = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=False))
        self._bars = Bars(BarColumn(bar_width=20), words, console=Console(), transient=True)
        self._task = self._bars.add_task("opening", total=None)

    def __enter__(self) -> _Bar:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, seen: Seen | None, trouble: str, detour: str) -> None:
        if seen is None:
            self._bars.update(self._task, description=trouble or "opening")
            return
        now = seen.standing
        total = None if now.state == "opening" else max(1, now.audience)
        words = f"{now.done:,} of {now.audience:,}: {trouble}" if trouble else str(seen)
        words += f" ({_over_a_fallback(detour)})" if detour else ""
        self._bars.update(self._task, description=words, total=total, completed=now.done)


@contextmanager
def _announced(stop: threading.Event, say: Say) -> Iterator[None]:
    """Says at once that a signal was heard: finishing what is in hand may take a while."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if stop.is_set():
                say("stopping: what is on its way is finished first")
                return

    watcher = threading.Thread(target=watch, name="announce", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


# --- one mailing to its end -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Followed:
    standing: Standing
    stopped: bool  # by a signal, before it was over
    down: str  # what kept mail from leaving when it was stopped


def follow(config: Config, ways: Sequence[WayOut], mailing: int, *, stop: threading.Event, say: Say) -> Followed:
    """Sends a mailing from this process until it is over, paused, or `stop` is set, and shows how far it is.

    Other processes may work on it too. Closes the ways out. With a terminal there is a bar, else `say` gets lines.
    """
    from newsletter import engine
    from newsletter.store import overview

    gauge = Gauge()
    latest: list[Seen] = []
    last_known: list[Progress] = []

    def until() -> bool:
        latest[:] = [gauge.see(overview.standing(mailing, time.time()))]
        if last_known:
            last_known[0].trouble = ""  # the database has just answered
        return latest[0].standing.state not in ("opening", "sending")

    def report(progress: Progress) -> None:
        last_known[:] = [progress]
        screen.show(latest[0] if latest else None, trouble(progress), progress.detour)

    screen: _Screen = _Bar() if say is click.echo and sys.stdout.isatty() else _Lines(say)
    with screen, _announced(stop, say):
        progress = engine.run(config, ways, stop=stop, mailing=mailing, until=until, report=report)
    standing = overview.standing(mailing, time.time())
    over = standing.state not in ("opening", "sending")
    return Followed(standing=standing, stopped=stop.is_set() and not over, down=trouble(progress))


# --- newsletter worker ------------------------------------------------------------------------------------------------


@click.command()
@click.option("--once", is_flag=True, help="Work until nothing is due, then end.")
@click.pass_context
def worker(ctx: click.Context, *, once: bool) -> None:
    """Send what is due: mailings, single mail, second tries, until you stop it.

    Any number of workers may run on one database, on one machine or, with PostgreSQL, on several: nobody gets anything
    twice. SIGTERM and Ctrl-C let it finish what is in hand, so that nothing is left in doubt. With --once (for cron) it
    ends when nothing is due: exit code 4 if there are doubts, 3 if the provider does not answer.

    \b
    Examples:
      newsletter worker
      newsletter worker --once
    """
    config = open_workspace(ctx)
    open_store(config)
    from newsletter import engine
    from newsletter.engine.local import stopped_by_signals
    from newsletter.store import overview

    ways = open_ways(config)
    log = _Log(config.route)
    kind = " of the cluster" if config.engine == "cluster" else ""
    click.echo(f"{_now()} worker{kind} on {_where()}, through {config.route}; Ctrl-C stops it")
    log.look()
    down_since, gave_up = 0.0, ""
    last_known: list[Progress] = []
    waits: list[str] = []  # for a cap

    def until() -> bool:
        nonlocal down_since, gave_up
        log.look()
        progress = last_known[0] if last_known else None
        if progress:
            progress.trouble = ""  # the database has just answered
        if not once:
            return False
        if progress and progress.down:
            down_since = down_since or time.monotonic()
            if time.monotonic() - down_since > PATIENCE:
                gave_up = progress.down
                return True
        else:
            down_since = 0.0
        full = {} if progress is None else progress.full
        if overview.anything_due(time.time(), config.route, full=full):
            return False
        waits[:] = [
            _capped(full[kind])
            for kind in full
            if overview.anything_due(time.time(), config.route, full={*full} - {kind})
        ]
        return True

    def report(progress: Progress) -> None:
        last_known[:] = [progress]
        log.trouble(trouble(progress))
        log.detour(progress.detour)

    with stopped_by_signals() as stop, _announced(stop, click.echo):
        engine.run(config, ways, stop=stop, until=until, report=report)
    log.look()
    if not once:
        click.echo(f"{_now()} stopped; nothing is in hand")
        return
    doubts = log.sum_up()
    for words in waits:
        click.echo(f"{words}, with the next {command()} worker --once")
    if gave_up:
        raise _Down(f"{gave_up}; what was not sent waits, and leaves with the next run")
    if doubts:
        ctx.exit(4)


class _Down(click.ClickException):
    exit_code = 3


def _now() -> str:
    return f"{datetime.now(UTC).astimezone():%H:%M:%S}"


def _where() -> str:
    from newsletter.store.schema import database_name

    return database_name()


class _Log:
    """What a worker says: one line when a mailing changes its state, and one every few seconds while it goes on."""

    def __init__(self, route: str) -> None:
        self._route = route
        self._elsewhere: set[int] = set()  # opened for other ways out, and told so
        self._gauges: dict[int, Gauge] = {}
        self._told: dict[int, tuple[str, int, float]] = {}  # state, done, when
        self._open: set[int] = set()  # those that are not over
        self._trouble = self._detour = ""

    def detour(self, why: str) -> None:
        if why != self._detour:
            click.echo(f"{_now()} {_over_a_fallback(why)}")
            self._detour = why

    def trouble(self, words: str) -> None:
        reason = words.partition("; trying again")[0]
        if reason != self._trouble:
            click.echo(f"{_now()} {words or 'it goes on'}")
            self._trouble = reason

    def look(self) -> None:
        from newsletter.store import overview

        for row in overview.of_other_ways(self._route):
            if row.pk not in self._elsewhere:
                click.echo(
                    f"{_now()} mailing {row.pk} ({title(row)}) was opened to leave through {row.provider}, and this "
                    f"worker sends through {self._route}; to send the rest of it this way: "
                    f"{command()} resume {row.pk}"
                )
                self._elsewhere.add(row.pk)
        for row in overview.active(self._open):
            self._look_at(row)
            (self._open.discard if row.state in ("finished", "cancelled") else self._open.add)(row.pk)

    def _look_at(self, row: Mailing) -> None:
        from newsletter.store import overview
        from newsletter.store.mailings import schedule_words

        standing = overview.standing(row.pk, time.time())
        seen = self._gauges.setdefault(row.pk, Gauge()).see(standing)
        state, done, at = self._told.get(row.pk, ("", 0 if row.kind == "oneoff" else -1, 0.0))
        if row.kind == "oneoff" and standing.state == "sending":
            state = "sending"  # it is always open: only its numbers tell anything
        changed = standing.state != state
        if changed or (standing.done != done and time.monotonic() - at > LINE_EVERY):
            words = str(seen) if standing.state in ("opening", "sending") else standing.state
            words += f": {standing.reason}" if standing.state == "paused" else ""
            words += f" for {schedule_words(row)}" if standing.state == "scheduled" else ""
            words = f"{words}: {_told(row.pk)}" if standing.state == "finished" else words
            click.echo(f"{_now()} mailing {row.pk} ({title(row)}): {words}")
            self._told[row.pk] = (standing.state, standing.done, time.monotonic())
        elif row.pk not in self._told:
            self._told[row.pk] = (standing.state, standing.done, 0.0)

    def sum_up(self) -> int:
        """What became of the mailings that were worked on; says how many are in doubt."""
        from newsletter.store.ledger import tally
        from newsletter.store.mailings import find

        doubts = 0
        rows = [row for row in map(find, self._told) if row.state != "scheduled"]
        for row in rows:
            id = row.pk
            counts = tally(id)
            doubts += counts["in_doubt"] if row.kind == "issue" else 0
            if row.kind == "issue":
                click.echo(f"mailing {id} ({title(row)}), {row.state}: {_told(id)}")
                doubts_next(row)
        if not rows:
            click.echo("nothing was due")
        return doubts


def _told(mailing: int) -> str:
    from newsletter.store.ledger import tally

    counts = tally(mailing)
    told = ", ".join(f"{counts[state]:,} {word}" for state, word in STATES.items() if counts[state])
    return told or "nobody to send to"
