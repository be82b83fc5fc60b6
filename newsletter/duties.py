"""What must happen in the background, as plain functions. Each may run anywhere, at any time, and be cut off."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from newsletter.config import Config
from newsletter.content.segments import Segment
from newsletter.dispatch import forget_marks, remembered
from newsletter.errors import ConfigError, InputError, NotFound
from newsletter.links import Keyring
from newsletter.recorder import read_evidence, recorder_paths
from newsletter.store import answering, fleet, ledger, mailings, pace, segments, subscribers, wishes
from newsletter.store.ledger import Tally

DAY = 86_400.0  # seconds


def begin_scheduled(config: Config) -> list[int]:
    """Lets the mailings begin whose moment has come: their ids. Those that are overdue wait for a human.

    To be called after `pause_forsaken`: in an old copy of the database nothing must begin.
    """
    return mailings.begin_scheduled(grace=config.grace)


def write_down_recipients(
    config: Config, *, seconds: float = 2.0, mailing: int | None = None, stop: Callable[[], bool] = lambda: False
) -> bool:
    """Goes on with every mailing that is still opening, or with this one, for so long; True while there is more to do.

    `stop` is asked between two key ranges, which is every quarter of a second.
    """
    deadline = time.monotonic() + seconds
    for row in mailings.opening():
        if mailing not in (None, row.pk):
            continue
        audience = None
        if row.segment and row.list_id is not None:
            segment = _segment(config, row.segment, row.plan.get("meaning", ""))
            if segment is None:
                why = f"the segment {row.segment} was changed in lists.yaml before everybody was written down"
                mailings.pause(row.pk, f"{why}; put it back and newsletter resume {row.pk}, or cancel and send anew")
                continue
            audience = segments.segment_query(segment, row.list_id, now=row.send_at or row.created_at)
        while mailings.write_down(row.pk, audience):
            if time.monotonic() > deadline or stop():
                return True
    return False


def _segment(config: Config, text: str, meaning: str) -> Segment | None:
    """The segment of that name if it still means the same."""
    try:
        segment = segments.parse_segment(config, text)
    except (NotFound, ConfigError):
        return None
    return segment if meaning in ("", repr(segment)) else None


def answer_wishes(config: Config, *, seconds: float = 2.0) -> bool:
    """Posts the mails that answer what people asked for at the pages, for so long; True while there are more.

    Raises `InputError`, after all that could be answered, when the lists or a template of the workspace cannot be used.
    What needs them goes on waiting, and is tried again and again.
    """
    deadline = time.monotonic() + seconds
    trouble: InputError | None = None
    for act in (answering.answer, answering.greet):
        while (done := act(config)).wishes:
            trouble = trouble or done.trouble
            if time.monotonic() > deadline:
                if trouble:
                    raise trouble
                return True
    if trouble:
        raise trouble
    return False


def wishes_wait() -> bool:
    """Whether somebody at the pages waits for a mail."""
    return answering.waits(time.time())


def reap(config: Config, keyring: Keyring, store: str) -> Tally:
    """Settles what dead workers left behind: from their recorders, else as doubts. Says how many went where."""
    went = read_recorders(config, keyring, store)
    _add(went, reap_expired(keyring))
    return went


def read_recorders(config: Config, keyring: Keyring, store: str) -> Tally:
    """Settles what dead workers of this machine left behind, from their recorders: first, for they know most."""
    now = time.time()
    went: Tally = {}
    for path in recorder_paths(config.recorders):
        evidence = None
        with suppress(OSError):  # gone meanwhile: another worker was faster
            evidence = read_evidence(path)
        if evidence is None or evidence.store != store:
            continue
        settled = ledger.hand_in(evidence, keyring=keyring, now=now)
        if settled is not None:
            _add(went, settled)
            path.unlink(missing_ok=True)  # after the commit: what it tells stands in the ledger
    return went


def reap_expired(keyring: Keyring) -> Tally:
    """Takes the batches away whose lease is over, of whatever machine; what was on its way is in doubt."""
    now = time.time()
    went: Tally = {}
    for batch, epoch in ledger.expired(now):
        _add(went, ledger.reap(batch, epoch, evidence=None, keyring=keyring, now=now))
    return went


def _add(went: Tally, more: Tally | None) -> None:
    for state, count in (more or {}).items():
        went[state] = went.get(state, 0) + count


def pause_forsaken(config: Config, store: str) -> list[int]:
    """Pauses mailings that may be those of an old copy of the database, and says that somebody watches the others.

    Old is what nobody looked after for the grace period, and a database that does not know an intent which a
    worker of this machine wrote into it.
    """
    paused = mailings.pause_forsaken(grace=config.grace)
    for delivery, epoch in remembered(config, store):
        known = mailings.intent_epoch(delivery)
        if known is None or known < epoch:
            paused += mailings.pause_forsaken(
                grace=config.grace, why="this database is older than the last thing that was sent from here"
            )
            forget_marks(config)
            break
    mailings.watch()
    return paused


def finish() -> list[int]:
    """Ends what has ended: sweeps cancelled mailings, and marks those finished in which nothing is left to do."""
    mailings.sweep(time.time())
    return mailings.finish()


def forget_spending() -> int:
    """Removes what was counted for caps and counts for none any more; says how many slots."""
    return pace.tidy(time.time())


def forget_addresses(config: Config, *, seconds: float = 2.0) -> bool:
    """Empties the addresses of deliveries older than the retention, for so long; True while there are more."""
    if not config.retention:
        return False
    deadline = time.monotonic() + seconds
    while mailings.forget_addresses(before=time.time() - config.retention * DAY):
        if time.monotonic() > deadline:
            return True
    return False


def forget_workers() -> int:
    """Removes the rows of workers that nobody has seen for a day; says how many."""
    return fleet.forget(time.time())


def forget_wishes(*, seconds: float = 2.0) -> bool:
    """Removes what was asked for at the pages and is over, and what was counted there, for so long; True while there is
    more."""
    deadline = time.monotonic() + seconds
    wishes.forget_rates(time.time())
    while answering.forget(time.time()):
        if time.monotonic() > deadline:
            return True
    return False


def clean_file(config: Config) -> bool:
    """Writes an SQLite file anew when an erasure could not, since somebody was reading; says whether it did."""
    return subscribers.clean_now(config)
