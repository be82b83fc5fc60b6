"""The ledger: every recipient of every mailing, in one of six states, whatever crashes.

The protocol is that of DESIGN.md §8. A worker *claims* a batch, writes down its *intent* for a chunk of it, hands the
chunk over, writes down the *result*, and *releases* the batch. Every one of these is one transaction that begins with
the batch's row and is guarded by its epoch: whoever comes too late gets `Fenced` and has changed nothing. A batch whose
lease ran out is *reaped*: what was sending is in doubt, unless the flight recorder tells better.

Statements are written by hand and are the same for SQLite and PostgreSQL but where a comment says otherwise. Look-ups
beside a delivery are scalar subqueries on purpose: a planner without statistics would join whole tables.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.db import connection, transaction

from newsletter.errors import Fenced
from newsletter.links import Keyring
from newsletter.recorder import Evidence, Outcome
from newsletter.store.models import DELIVERY_STATES
from newsletter.store.pace import Kind

MAX_ATTEMPTS = 12  # with the back-off below the last try is about two days after the first
FIRST_BACKOFF, LONGEST_BACKOFF = 60.0, 6 * 3600.0  # seconds
REFUSALS_ALLOWED, REFUSED_SHARE = 10, 0.10  # a mailing pauses above 10 + 10 % of what was answered

Tally = dict[str, int]
"""How many deliveries are in each state. The values add up to the audience."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A batch that this worker may send until its lease ends."""

    batch: int
    epoch: int
    mailing: int
    edition: int
    kind: str  # issue or oneoff
    list: int | None
    first: int
    last: int
    until: float  # Unix seconds
    share: Kind = "issue"  # which share of the caps it draws on


class Due(NamedTuple):
    """A delivery whose intent is written: its message may leave now."""  # a tuple: there are thousands a second

    id: int
    address: str
    name: str
    slots: str | None  # JSON; one-off mail only


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a transaction of intent gave: the chunk, and where in the batch the next one begins."""

    due: tuple[Due, ...]
    next: int
    halted: str = ""  # the mailing is no longer to be sent: its state
    full: bool = False  # the caps gave less than was there to send


# --- claim, intent, result, release -----------------------------------------------------------------------------------


def claim(
    *,
    owner: str,
    lease: float,
    now: float,
    kinds: Collection[Kind] = ("confirm", "oneoff", "issue"),
    route: str | None = None,
    mailing: int | None = None,
) -> Claim | None:
    """A batch for this worker, one-off mail first, or None when nothing is due. `lease` is in seconds.

    Sign-up confirmations come after other one-off mail: strangers cause them, in any number.
    `route` restricts issues to those that were opened to leave that way (`Mailing.provider`), `mailing` to that one.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            # The second condition says nothing new: it lets the partial index be used.
            "SELECT id, kind, list_id, name, provider FROM mailing WHERE state = 'sending'"
            " AND state IN ('opening', 'sending') ORDER BY kind DESC, CASE WHEN name = 'confirm' THEN 1 ELSE 0 END, id"
        )
        for id, kind, list_id, name, provider in cursor.fetchall():
            share = share_of(kind, name)
            if share not in kinds:
                continue
            if kind == "issue" and (mailing not in (None, id) or route not in (None, provider)):
                continue
            cursor.execute(
                "UPDATE batch SET state = 'leased', epoch = epoch + 1, owner = %s, lease_until = %s WHERE id = ("
                "SELECT id FROM batch WHERE mailing_id = %s AND state = 'ready' AND not_before <= %s"
                f" ORDER BY not_before, id LIMIT 1 {_skip_locked()})"
                " RETURNING id, epoch, edition_id, first, last",
                (owner, now + lease, id, now),
            )
            if row := cursor.fetchone():
                batch, epoch, edition, first, last = row
                return Claim(
                    batch=batch,
                    epoch=epoch,
                    mailing=id,
                    edition=edition,
                    kind=kind,
                    list=list_id,
                    first=first,
                    last=last,
                    until=now + lease,
                    share=share,
                )
    return None


def share_of(kind: str, name: str) -> Kind:
    """Which share of the caps a mailing draws on: sign-up confirmations have one of their own."""
    if kind == "issue":
        return "issue"
    return "confirm" if name == "confirm" else "oneoff"


def _skip_locked() -> str:
    return "FOR UPDATE SKIP LOCKED" if connection.vendor == "postgresql" else ""


def turn(
    claimed: Claim,
    results: Sequence[tuple[int, Outcome]],
    *,
    start: int,
    limit: int,
    lease: float,
    now: float,
    not_handed_over: Iterable[int] = (),
    wait: float = 0.0,
    way: int | None = None,
    grant: Callable[[Any, int], int] | None = None,
    refund: Callable[[Any, int], None] | None = None,
) -> Turn:
    """One transaction: the results of the chunk that was sent, and the intent for the next `limit` deliveries.

    `results` pairs delivery ids with what the provider said; deliveries of `not_handed_over` go back to pending as if
    they had never been tried, for `wait` seconds. The next chunk begins at delivery id `start` and leaves by `way`.
    `grant`, called with the cursor and how many could leave, says how many may; `refund` is told how many did not leave
    after all. Raises `Fenced` when the lease went to another worker: then nothing was written.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        _guard(cursor, claimed, now + lease)
        if results:
            _write_results(cursor, claimed.epoch, results, now)
            answered, refused = _answers(results)
            if answered:
                cursor.execute(
                    "UPDATE batch SET answered = answered + %s, refused = refused + %s WHERE id = %s",
                    (answered, refused, claimed.batch),
                )
            if claimed.kind == "oneoff":
                ids = (claimed.first, claimed.last)
                _resend_doubt(cursor, claimed.mailing, *ids, claimed.epoch, not_before=now + FIRST_BACKOFF)
        given_back = _give_back(cursor, claimed.epoch, list(not_handed_over), now + wait)
        if refund and given_back:
            refund(cursor, given_back)
        cursor.execute("SELECT state FROM mailing WHERE id = %s", (claimed.mailing,))
        (state,) = cursor.fetchone()
        if state != "sending":
            return Turn(due=(), next=start, halted=state)
        if not limit:
            return Turn(due=(), next=start)
        return _intend(cursor, claimed, start, limit, now, way=way, grant=grant)


def _guard(cursor: Any, claimed: Claim, until: float) -> None:
    """Locks the batch's row, renews the lease, and stops whoever no longer holds it."""
    cursor.execute(
        "UPDATE batch SET lease_until = %s WHERE id = %s AND epoch = %s AND state = 'leased'",
        (until, claimed.batch, claimed.epoch),
    )
    if cursor.rowcount != 1:
        raise Fenced(f"batch {claimed.batch}: the lease of epoch {claimed.epoch} is over")


def _intend(
    cursor: Any,
    claimed: Claim,
    start: int,
    limit: int,
    now: float,
    *,
    way: int | None,
    grant: Callable[[Any, int], int] | None,
) -> Turn:
    """pending → sending for what may be sent, pending → skipped for who left or must not be mailed."""
    # One-off mail is asked for: only a complaint or a dead address stops it. Not even that a confirmation, by which the
    # person says that the address lives.
    unwanted = {"issue": "", "oneoff": " AND reason IN ('bounce', 'complaint')", "confirm": " AND reason = 'complaint'"}
    # Nor does a pause; of an issue, who paused shows as nobody's name, which costs no look-up more.
    name = "name" if claimed.kind == "oneoff" else f"CASE WHEN paused_until > {float(now)!r} THEN NULL ELSE name END"
    joined = "'subscribed'"
    if claimed.list is not None:
        joined = (
            f"(SELECT state FROM subscription WHERE list_id = {int(claimed.list)} AND subscriber_id = d.subscriber_id)"
        )
    cursor.execute(
        f"SELECT d.id, d.address, (SELECT {name} FROM subscriber WHERE id = d.subscriber_id), d.slots,"
        f" (SELECT reason FROM suppression WHERE address_key = d.address_key{unwanted[claimed.share]}), {joined}"
        " FROM delivery d WHERE d.id BETWEEN %s AND %s AND d.state = 'pending' AND d.not_before <= %s"
        " ORDER BY d.id LIMIT %s",
        (start, claimed.last, now, limit),
    )
    rows = cursor.fetchall()
    if not rows:
        return Turn(due=(), next=claimed.last + 1)
    unpaused = claimed.kind == "oneoff"
    due = [
        Due(id, address, name or "", slots)
        for id, address, name, slots, suppressed, subscription in rows
        if address and suppressed is None and subscription == "subscribed" and (unpaused or name is not None)
    ]
    granted = grant(cursor, len(due)) if grant and due else len(due)
    full = granted < len(due)
    if full:
        rows = [row for row in rows if row[0] < due[granted].id]
        due = due[:granted]
        if not rows:
            return Turn(due=(), next=start, full=True)
    sent = len(due)
    if sent < len(rows):
        _skip(cursor, rows, {each.id for each in due}, now)
    last = rows[-1][0]
    cursor.execute(
        "UPDATE delivery SET state = 'sending', epoch = %s, way = %s, attempts = attempts + 1, at = %s"
        " WHERE id BETWEEN %s AND %s AND state = 'pending' AND not_before <= %s",
        (claimed.epoch, way, now, start, last, now),
    )
    if cursor.rowcount != len(due):  # somebody was erased between the two statements (PostgreSQL): look again
        cursor.execute(
            "SELECT id FROM delivery WHERE id BETWEEN %s AND %s AND state = 'sending' AND epoch = %s",
            (start, last, claimed.epoch),
        )
        sending = {id for (id,) in cursor.fetchall()}
        due = [each for each in due if each.id in sending]
    return Turn(due=tuple(due), next=last + 1, full=full)


def _skip(cursor: Any, rows: Sequence[tuple[Any, ...]], due: Collection[int], now: float) -> None:
    """pending → skipped, with the reason, for the rows of an intent that are not due."""
    for id, address, _, _, suppressed, subscription in rows:
        if id in due:
            continue
        if not address:
            why = "erased"
        elif suppressed:
            why = f"suppressed: {suppressed}"
        elif subscription != "subscribed":
            why = subscription or "left the list"
        else:
            cursor.execute(
                "SELECT paused_until FROM subscriber WHERE id = (SELECT subscriber_id FROM delivery WHERE id = %s)",
                (id,),
            )
            person = cursor.fetchone()
            why = paused_words(person[0]) if person else "left the list"
        cursor.execute(
            "UPDATE delivery SET state = 'skipped', detail = %s, at = %s WHERE id = %s AND state = 'pending'",
            (why, now, id),
        )


def paused_words(until: float | None) -> str:
    """ "paused until 2026-12-24", the day in UTC; "paused" when that is not known, or further off than a calendar."""
    try:
        return f"paused until {datetime.fromtimestamp(until or 0.0, UTC):%Y-%m-%d}" if until else "paused"
    except (OverflowError, ValueError, OSError):
        return "paused"


def _answers(results: Iterable[tuple[int, Outcome]]) -> tuple[int, int]:
    states = [outcome.state for _, outcome in results]
    refused = states.count("refused")
    return states.count("accepted") + refused, refused


def _write_results(cursor: Any, epoch: int, results: Sequence[tuple[int, Outcome]], now: float) -> None:
    """The outcomes of deliveries that are sending, or in doubt, under this epoch; others stay as they are."""
    tired: dict[int, int] = {}  # how often a deferred one was tried
    deferred = [id for id, outcome in results if outcome.state == "deferred"]
    for part in _parts(deferred):
        cursor.execute(f"SELECT id, attempts FROM delivery WHERE id IN ({', '.join(['%s'] * len(part))})", part)
        tired |= dict(cursor.fetchall())
    # Nearly all of them, as a rule: id → provider_ref.
    accepted = {id: ref for id, (_, state, ref, detail) in results if state == "accepted" and not detail}
    others: list[_Written] = []
    for id, outcome in results if len(accepted) < len(results) else ():
        if id in accepted:
            continue
        state, detail, not_before = outcome.state, outcome.detail, 0.0
        if state == "deferred":
            attempts = tired.get(id, 1)
            if attempts >= MAX_ATTEMPTS:
                state, detail = "refused", f"given up after {attempts} attempts: {detail}"
            else:
                not_before = now + backoff(attempts)
        word = "pending" if state == "deferred" else state
        others.append((word, now, outcome.provider_ref, detail, not_before, id))
    _write_accepted(cursor, epoch, accepted, now)
    _write_others(cursor, epoch, others)


_Written = tuple[str, float, str, str, float, int]  # state, at, provider_ref, detail, not_before, id


def backoff(attempts: int) -> float:
    """Seconds to wait after so many attempts: doubled each time, and spread so that no herd comes back at once."""
    return min(FIRST_BACKOFF * 2.0 ** (attempts - 1), LONGEST_BACKOFF) * random.uniform(0.75, 1.25)  # noqa: S311


def _write_accepted(cursor: Any, epoch: int, refs: dict[int, str], now: float) -> None:
    """All of them in one statement: one for each would cost SQLite twice as much."""
    if not refs:
        return
    columns = (
        "UPDATE delivery SET state = 'accepted', at = %s, detail = '', not_before = 0, slots = NULL, provider_ref = "
    )
    mine = "epoch = %s AND delivery.state IN ('sending', 'in_doubt')"
    postgresql = connection.vendor == "postgresql"
    common = next(iter(refs.values()))
    if set(refs.values()) == {common}:
        among = "= ANY(%s)" if postgresql else "IN (SELECT value FROM json_each(%s))"
        ids = list(refs)
        cursor.execute(
            f"{columns} %s WHERE {mine} AND id {among}", (now, common, epoch, ids if postgresql else json.dumps(ids))
        )
    elif postgresql:
        cursor.execute(
            f"{columns} r.ref FROM unnest(%s::bigint[], %s::text[]) AS r(id, ref)"
            f" WHERE delivery.id = r.id AND delivery.{mine}",
            (now, list(refs), list(refs.values()), epoch),
        )
    else:
        cursor.execute(
            f"{columns} r.value FROM json_each(%s) AS r WHERE delivery.id = CAST(r.key AS INTEGER) AND delivery.{mine}",
            (now, json.dumps(refs), epoch),
        )


def _write_others(cursor: Any, epoch: int, rows: list[_Written]) -> None:
    cursor.executemany(
        "UPDATE delivery SET state = %s, at = %s, provider_ref = %s, detail = %s, not_before = %s"
        f" WHERE id = %s AND epoch = {int(epoch)} AND state IN ('sending', 'in_doubt')",
        rows,
    )
    taken = [(id,) for state, *_, id in rows if state == "accepted"]
    cursor.executemany("UPDATE delivery SET slots = NULL WHERE id = %s AND slots IS NOT NULL", taken)


def _give_back(cursor: Any, epoch: int, ids: Sequence[int], not_before: float) -> int:
    """sending → pending for what never left, as if it had not been tried. Says how many there were."""
    given = 0
    for part in _parts(ids):
        cursor.execute(
            "UPDATE delivery SET state = 'pending', attempts = attempts - 1, not_before = %s"
            f" WHERE id IN ({', '.join(['%s'] * len(part))}) AND epoch = %s AND state IN ('sending', 'in_doubt')",
            (not_before, *part, epoch),
        )
        given += cursor.rowcount
    return given


def _parts(ids: Sequence[int], size: int = 500) -> Iterable[Sequence[int]]:
    return (ids[at : at + size] for at in range(0, len(ids), size))


def release(claimed: Claim, *, now: float) -> None:
    """The batch is worked through: done, or ready again when the first deferred one is due. Raises `Fenced`."""
    with transaction.atomic(), connection.cursor() as cursor:
        _guard(cursor, claimed, 0.0)
        _settle_batch(cursor, claimed.batch, claimed.first, claimed.last)


def _settle_batch(cursor: Any, batch: int, first: int, last: int) -> None:
    """Sets a batch to what its deliveries say. The caller holds its row."""
    cursor.execute(
        "SELECT count(*), min(not_before) FROM delivery WHERE id BETWEEN %s AND %s AND state = 'pending'", (first, last)
    )
    pending, not_before = cursor.fetchone()
    cursor.execute(
        "UPDATE batch SET state = %s, owner = '', lease_until = 0, not_before = %s WHERE id = %s",
        ("ready" if pending else "done", not_before or 0.0, batch),
    )


def renew(claimed: Claim, *, lease: float, now: float) -> float:
    """The heartbeat: the new end of the lease. Raises `Fenced`."""
    with transaction.atomic(), connection.cursor() as cursor:
        _guard(cursor, claimed, now + lease)
    return now + lease


def split(claimed: Claim, at: int, *, lease: float, now: float) -> Claim:
    """Makes a batch of its own, ready for anybody, of the deliveries from `at` on; the claim on the others.

    Raises `Fenced`.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        _guard(cursor, claimed, now + lease)
        cursor.execute("UPDATE batch SET last = %s WHERE id = %s", (at - 1, claimed.batch))
        cursor.execute(
            "INSERT INTO batch (mailing_id, edition_id, first, last, state, epoch, owner, lease_until, not_before,"
            " answered, refused) VALUES (%s, %s, %s, %s, 'ready', 0, '', 0, 0, 0, 0)",
            (claimed.mailing, claimed.edition, at, claimed.last),
        )
    return replace(claimed, last=at - 1)


# --- reaper and evidence ----------------------------------------------------------------------------------------------


def expired(now: float) -> list[tuple[int, int]]:
    """Batches whose lease ran out, with their epochs."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, epoch FROM batch WHERE state = 'leased' AND lease_until < %s ORDER BY id", (now,))
        return list(cursor.fetchall())


def reap(
    batch: int, epoch: int, *, evidence: Evidence | None, keyring: Keyring, now: float, force: bool = False
) -> Tally | None:
    """Takes a batch from a worker that is gone. What it was sending becomes what the evidence tells, else in doubt.

    Says how many went where, or None when the lease is not over (unless `force`: the writer is known to be dead) or the
    epoch is past. Never puts back to pending what may have left.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            # A worker that was stopped inside a transaction holds the row; nobody waits for it.
            "UPDATE batch SET epoch = epoch + 1 WHERE id = (SELECT id FROM batch WHERE id = %s AND epoch = %s"
            f" AND state = 'leased' AND (lease_until < %s OR %s) {_skip_locked()})"
            " RETURNING first, last, mailing_id",
            (batch, epoch, now, force),
        )
        row = cursor.fetchone()
        if row is None:
            return None
        first, last, mailing = row
        went = _judge(cursor, (first, last), epoch, evidence, keyring=keyring, now=now)
        _resend_doubt(cursor, mailing, first, last, epoch)
        _settle_batch(cursor, batch, first, last)
        return went


def hand_in(evidence: Evidence, *, keyring: Keyring, now: float) -> Tally | None:
    """What a dead or fenced worker's recorder tells about deliveries of its epoch that are still in doubt.

    When the batch is leased under that very epoch it is reaped at once: the writer is dead. Says how many went where;
    None when this database knows nothing of that lease, being an older copy: the file must be kept.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT epoch, state FROM batch WHERE id = %s", (evidence.batch,))
        row = cursor.fetchone()
    if row is None or row[0] < evidence.epoch:
        return None
    if row == (evidence.epoch, "leased"):
        reaped = reap(evidence.batch, evidence.epoch, evidence=evidence, keyring=keyring, now=now, force=True)
        if reaped is not None:
            return reaped  # else another reaper came first, without this evidence
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE batch SET epoch = epoch WHERE id = (SELECT id FROM batch WHERE id = %s {_skip_locked()})"
            " RETURNING first, last, state, mailing_id",
            (evidence.batch,),
        )
        row = cursor.fetchone()
        if row is None:
            return None  # somebody holds it, perhaps stopped in the middle: the file waits
        first, last, state, mailing = row
        went = _judge(cursor, (first, last), evidence.epoch, evidence, keyring=keyring, now=now)
        if went.get("pending") and state != "leased":
            _settle_batch(cursor, evidence.batch, first, last)
            _reopen(cursor, mailing)
        return went


def _judge(
    cursor: Any, ids: tuple[int, int], epoch: int, evidence: Evidence | None, *, keyring: Keyring, now: float
) -> Tally:
    cursor.execute(
        "SELECT id FROM delivery WHERE id BETWEEN %s AND %s AND epoch = %s AND state IN ('sending', 'in_doubt')"
        " ORDER BY id",
        (*ids, epoch),
    )
    held = [id for (id,) in cursor.fetchall()]
    went: Tally = {}
    results: list[tuple[int, Outcome]] = []
    never_left: list[int] = []
    answers, left = _by_id(evidence, keyring)
    for id in held:
        answer = _said(evidence, id, answers, left)
        if answer is None:
            never_left.append(id)
        else:
            results.append((id, answer))
        word = "pending" if answer is None or answer.state == "deferred" else answer.state
        went[word] = went.get(word, 0) + 1
    if results:
        _write_results(cursor, epoch, results, now)
    _give_back(cursor, epoch, never_left, 0.0)
    return went


def _by_id(evidence: Evidence | None, keyring: Keyring) -> tuple[dict[int, Outcome], set[int]]:
    """The answers and the announcements, by delivery: the keys may be of a secret that was retired since."""
    if evidence is None:
        return {}, set()
    answers = {keyring.read_delivery(key): outcome for key, outcome in evidence.answers.items()}
    left = {keyring.read_delivery(key) for key in evidence.left}
    return {id: outcome for id, outcome in answers.items() if id is not None}, {id for id in left if id is not None}


def _said(evidence: Evidence | None, id: int, answers: dict[int, Outcome], left: set[int]) -> Outcome | None:
    """The outcome that the evidence gives to a delivery; None when it is certain that nothing left."""
    if evidence is None:
        return Outcome("", "in_doubt", detail="its worker is gone and left no record: nobody knows")
    if id in answers:
        return answers[id]
    if id in left:
        return Outcome("", "in_doubt", detail="its worker died between sending and the answer")
    if len(left) < len(evidence.left):
        return Outcome("", "in_doubt", detail="its record was written under a secret key that is not known here")
    if evidence.same_boot:
        return None
    return Outcome("", "in_doubt", detail="its machine went down: the record may lack its last lines")


def _resend_doubt(cursor: Any, mailing: int, first: int, last: int, epoch: int, *, not_before: float = 0.0) -> None:
    """One-off mail is sent again rather than held: a second password link does less harm than none."""
    cursor.execute(
        "UPDATE delivery SET state = 'pending', not_before = %s WHERE id BETWEEN %s AND %s AND epoch = %s"
        " AND state = 'in_doubt' AND attempts < %s AND (SELECT on_doubt FROM mailing WHERE id = %s) = 'resend'",
        (not_before, first, last, epoch, MAX_ATTEMPTS, mailing),
    )


def _reopen(cursor: Any, mailing: int) -> None:
    cursor.execute(
        # Also when it is `sending`: the row is locked, and whoever is about to call it finished waits and looks again.
        "UPDATE mailing SET state = 'sending', finished_at = NULL WHERE id = %s AND state IN ('sending', 'finished')",
        (mailing,),
    )


# --- what stands in it ------------------------------------------------------------------------------------------------


def tally(mailing: int) -> Tally:
    """How many deliveries of a mailing are in each state; all six are there. Reads each of them."""
    # Not GROUP BY: SQLite would sort a million rows in memory for it.
    counts = ", ".join(f"count(*) FILTER (WHERE state = '{state}')" for state in DELIVERY_STATES)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {counts} FROM delivery WHERE mailing_id = %s AND id BETWEEN"
            " (SELECT min(first) FROM batch WHERE mailing_id = %s)"
            " AND (SELECT max(last) FROM batch WHERE mailing_id = %s)",
            (mailing, mailing, mailing),
        )
        return dict(zip(DELIVERY_STATES, cursor.fetchone(), strict=True))


def too_many_refused(mailing: int) -> tuple[int, int] | None:
    """(refused, answered) when so many of a mailing were refused that something must be wrong with all of it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(refused), sum(answered) FROM batch WHERE mailing_id = %s", (mailing,))
        refused, answered = (int(each or 0) for each in cursor.fetchone())
    return (refused, answered) if refused > REFUSALS_ALLOWED + REFUSED_SHARE * answered else None
