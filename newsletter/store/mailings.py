"""Mailings: opened, written down recipient by recipient, paused, resumed, cancelled, finished, and resolved.

`open_mailing` freezes the editions and the plan in one short transaction. Writing down the recipients is a duty's work,
`write_down`, one key range after the other, each in a transaction of its own: it may be interrupted anywhere and goes
on where it was, and nothing can be claimed before the counts agree.

A mailing with a schedule waits first, and nobody is written down. `begin_scheduled` lets it begin when its moment has
come. Where everybody is to get it at the same hour of their own day, it begins when that hour is anywhere; who lives
elsewhere stands in a batch that waits for its moment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from django.db import connection, transaction
from django.db.models import F, Max, QuerySet

from newsletter.errors import LedgerError, NotFound
from newsletter.moments import Schedule, moments_of, shown, shown_local, span
from newsletter.rendering.edition import Edition as RenderedEdition
from newsletter.store import models
from newsletter.store.doorbell import ring
from newsletter.store.editions import frozen
from newsletter.store.ledger import tally
from newsletter.store.published import keep_images

BATCH = 1000  # deliveries
RANGE = 5000  # subscribers written down in one transaction, to begin with
# Says why nothing has happened yet, and keeps room in the row for the provider's reference: rows that grow while a
# mailing is sent split every page of an SQLite file (1.5 µs a delivery).
WAITING = "waits for its turn"
QUARANTINE = 600.0  # seconds after which a doubtful delivery may be sent again: longer than any answer takes

UNDER_WAY = ("scheduled", "opening", "sending", "paused")
# The attribute that says in which time zone somebody lives, an IANA name; the second as exports of Mailchimp have it.
ZONE = ("timezone", "TIMEZONE")

Audience = QuerySet[models.Subscriber]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What `open_mailing` did. `joined`: that very mailing was under way already, and is gone on with."""

    mailing: int
    joined: bool


def open_mailing(
    editions: Mapping[str, RenderedEdition],
    *,
    issue: str,
    list: int,
    default_language: str,
    provider: str,
    segment: str = "",
    meaning: str = "",
    manifest_hash: str = "",
    again: bool = False,
    schedule: Schedule | None = None,
) -> Opened:
    """Freezes the editions, one per language, for everybody on the list whom this issue has not reached.

    `segment` is its name, `meaning` what that name means now (the repr of the `Segment`): when lists.yaml is changed
    before everybody is written down, the mailing waits for a human.

    Two calls for one issue, list and segment give one mailing while it is under way. `again` begins a new round, in
    which everybody gets the issue once more. With a `schedule` it waits for that, and who is on the list then counts.
    """
    now = datetime.now(UTC)
    with transaction.atomic():
        round = _round(issue, again=again)
        # The row is locked: of two calls at the same moment the second finds what the first made.
        models.Round.objects.select_for_update().get(pk=round.pk)
        under_way = models.Mailing.objects.filter(
            round=round, list_id=list, segment=segment, state__in=UNDER_WAY
        ).first()
        if under_way:
            return Opened(mailing=under_way.pk, joined=True)
        mailing = models.Mailing.objects.create(
            kind="issue",
            round=round,
            list_id=list,
            segment=segment,
            state="scheduled" if schedule else "opening",
            provider=provider,
            manifest_hash=manifest_hash,
            private=any(edition.private for edition in editions.values()),
            plan={"done": 0, "range": RANGE, "language": default_language, "meaning": meaning},
            created_at=now,
            watched_at=now,
        )
        if schedule:
            _put_schedule(mailing, schedule)
        for language, edition in editions.items():
            content, hash = frozen(edition)
            models.Edition.objects.create(mailing=mailing, language=language, hash=hash, content=content)
        keep_images(image for edition in editions.values() for image in edition.images)
        ring("write_down", mailing=mailing.pk)
    return Opened(mailing=mailing.pk, joined=False)


def _round(issue: str, *, again: bool) -> models.Round:
    number = models.Round.objects.filter(issue=issue).aggregate(last=Max("number"))["last"] or 0
    if again and number:
        of_last = models.Mailing.objects.filter(round__issue=issue, round__number=number)
        # Not while that round is under way: whoever asks twice, or from two shells, means one round more, not two.
        if of_last.exists() and not of_last.filter(state__in=UNDER_WAY).exists():
            number += 1
    return models.Round.objects.get_or_create(issue=issue, number=max(number, 1))[0]


def _lock_ids(cursor: Any) -> None:
    """Until the transaction ends nobody else makes deliveries, so that the ids of one statement are neighbours.

    On SQLite a transaction that writes is alone as it is.
    """
    if connection.vendor == "postgresql":
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_DELIVERY_IDS,))


_DELIVERY_IDS = 0x6E657773  # a number of our own for the lock


# --- a schedule -------------------------------------------------------------------------------------------------------


def _put_schedule(row: models.Mailing, schedule: Schedule) -> None:
    row.send_at, row.zone, row.local_time = schedule.send_at, schedule.zone, schedule.local_time
    if schedule.local_time:
        # To begin with half as many in one transaction: each row costs more, and there are batches for each moment.
        row.plan = {**row.plan, "home": schedule.home_at.timestamp(), "zones": {}, "range": RANGE // 2}
    else:
        row.plan = {key: value for key, value in row.plan.items() if key not in ("home", "zones")}
    row.save(update_fields=["send_at", "zone", "local_time", "plan"])


def has_begun(row: models.Mailing) -> bool:
    """Whether recipients of a mailing may be written down already, so that no schedule can hold for it any more."""
    return row.state not in ("scheduled", "paused") or row.opened_at is not None or row.plan.get("done", 0) > 0


def move(mailing: int, schedule: Schedule) -> None:
    """Another schedule for a mailing that has not begun; one that is paused waits for it as well.

    Raises `NotFound`, and `LedgerError` when it has begun meanwhile.
    """
    with transaction.atomic():
        find(mailing)
        row = models.Mailing.objects.select_for_update().get(pk=mailing)
        if has_begun(row):
            raise LedgerError(f"mailing {mailing} is {row.state}, and has begun: it cannot be moved any more")
        row.state, row.reason = "scheduled", ""
        row.save(update_fields=["state", "reason"])
        _put_schedule(row, schedule)


def begin_scheduled(*, grace: float, now: datetime | None = None) -> list[int]:
    """Lets every mailing whose moment has come begin: their ids. One that is late by more than `grace` (in seconds) is
    paused: no worker ran, or this database is an old copy of one in which it was sent.
    """
    now = now or datetime.now(UTC)
    begun = []
    for row in models.Mailing.objects.filter(state="scheduled", send_at__lte=now).order_by("pk"):
        assert row.send_at is not None
        # As it was seen: meanwhile another worker may have let it begin, or somebody moved it.
        still = models.Mailing.objects.filter(pk=row.pk, state="scheduled", send_at=row.send_at)
        late = (now - row.send_at).total_seconds()
        if late > grace:
            still.update(state="paused", reason=_overdue(row, late))
        elif still.update(state="opening", watched_at=now):
            begun.append(row.pk)
    return begun


def _overdue(row: models.Mailing, late: float) -> str:
    return (
        f"it was to begin on {schedule_words(row)} and is {span(late)} late, since no worker ran then. If this "
        "database is an old copy, it may have been sent already. When that is not so: "
        f"newsletter resume {row.pk} sends it at once, send with --at moves it"
    )


def schedule_words(row: models.Mailing) -> str:
    """ "Friday 2026-11-27 08:00 Europe/Madrid (07:00 UTC)"; "" for a mailing without a schedule."""
    if row.send_at is None:
        return ""
    return shown_local(row.local_time, row.zone) if row.local_time else shown(row.send_at, row.zone)


def zone_sql() -> str:
    """SQL for the zone of a subscriber `s` as somebody gave it: text, NULL, or whatever else stands there."""
    one = "s.attributes ->> '{}'" if connection.vendor == "postgresql" else "json_extract(s.attributes, '$.{}')"
    return f"coalesce({', '.join(one.format(name) for name in ZONE)})"


def _moment_sql(
    cursor: Any, plan: Mapping[str, Any], local_time: str, source: str, values: list[Any]
) -> tuple[str, list[Any], dict[str, float]]:
    """SQL for the moment of a subscriber, its values, and the moments of the zones in a range of the list."""
    # Only the zones that are there, the most frequent first: every comparison is made for every row.
    cursor.execute(
        f"SELECT {zone_sql()} AS zone, count(*){source} AND n.state = 'subscribed' GROUP BY 1 ORDER BY 2 DESC", values
    )
    moments = moments_of(local_time, (zone for zone, _ in cursor.fetchall() if isinstance(zone, str)))
    arms = "".join(" WHEN %s THEN %s" for _ in moments)
    moment = f"CASE {zone_sql()}{arms} ELSE %s END" if moments else "%s"
    return moment, [*(each for pair in moments.items() for each in pair), plan["home"]], moments


def _count_zones(cursor: Any, plan: dict[str, Any], moments: Mapping[str, float], first: int, last: int) -> None:
    """Adds to the plan how many of these deliveries are in which zone: name → [moment, people]; "" for none."""
    cursor.execute(
        # A look-up for each, not a join: a planner that does not know the new rows would read all subscribers.
        f"SELECT (SELECT {zone_sql()} FROM subscriber s WHERE s.id = d.subscriber_id) AS zone, d.not_before, count(*)"
        " FROM delivery d WHERE d.id BETWEEN %s AND %s GROUP BY 1, 2",
        (first, last),
    )
    zones: dict[str, list[float]] = plan["zones"]
    for zone, moment, count in cursor.fetchall():
        name = zone if isinstance(zone, str) and moments.get(zone) == moment else ""
        zones[name] = [moment, zones.get(name, [moment, 0])[1] + count]


# --- writing down the recipients --------------------------------------------------------------------------------------


def opening() -> list[models.Mailing]:
    """The mailings that are still being written down."""
    return list(models.Mailing.objects.filter(state="opening").order_by("pk"))


def write_down(mailing: int, audience: Audience | None = None) -> bool:
    """One key range of a mailing's recipients: True while there are more.

    `audience` narrows the list to a segment's people. When the last range is done and the counts agree, the mailing is
    `sending` and its batches can be claimed; if they do not, it is paused, and says so.
    """
    if connection.vendor == "postgresql" and not models.Mailing.objects.get(pk=mailing).plan["done"]:
        # Without fresh statistics it would hash or sort all of a million subscribers for every range (66 s, not 13).
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE subscriber, subscription, suppression")
    with transaction.atomic():
        begun = time.perf_counter()
        row = models.Mailing.objects.select_for_update().get(pk=mailing)
        if row.state != "opening":
            return False
        plan = row.plan
        with connection.cursor() as cursor:
            top = _end_of_range(cursor, row.list_id, plan["done"], plan["range"])
            if top is not None:
                _write_range(cursor, row, plan, top, audience)
                row.save(update_fields=["audience", "left_out"])
        if top is not None:
            plan["done"] = top
            # The next range is sized by how long this one took: on SQLite nobody else writes meanwhile.
            seconds, aim = time.perf_counter() - begun, 0.12 if connection.vendor == "postgresql" else 0.04
            plan["range"] = max(500, min(20_000, int(plan["range"] * min(2.0, aim / max(seconds, 0.001)))))
            models.Mailing.objects.filter(pk=mailing).update(plan=plan, watched_at=datetime.now(UTC))
            return True
    _open_up(mailing)
    return False


def _end_of_range(cursor: Any, list: int | None, done: int, size: int) -> int | None:
    cursor.execute(
        "SELECT max(subscriber_id) FROM (SELECT subscriber_id FROM subscription WHERE list_id = %s"
        " AND subscriber_id > %s ORDER BY subscriber_id LIMIT %s) AS part",
        (list, done, size),
    )
    (top,) = cursor.fetchone()
    return None if top is None else int(top)


def _write_range(
    cursor: Any, mailing: models.Mailing, plan: dict[str, Any], top: int, audience: Audience | None
) -> None:
    editions = list(models.Edition.objects.filter(mailing=mailing).order_by("pk").values_list("pk", "language"))
    language, language_values = edition_sql([language for _, language in editions], plan["language"])
    chosen, chosen_values = "1 = 1", []
    if audience is not None:
        part = audience.filter(pk__gt=plan["done"], pk__lte=top).order_by().values("pk")
        segment, values = part.query.sql_with_params()
        chosen, chosen_values = f"s.id IN ({segment})", list(values)
    source = (
        " FROM subscription n JOIN subscriber s ON s.id = n.subscriber_id"
        # The range twice: PostgreSQL would not see that it holds for the other side of the join and read all of that.
        " WHERE n.list_id = %s AND n.subscriber_id > %s AND n.subscriber_id <= %s AND s.id > %s AND s.id <= %s"
    )
    in_range = [mailing.list_id, plan["done"], top]
    of_source = [*in_range, plan["done"], top]
    suppressed = "EXISTS (SELECT 1 FROM suppression x WHERE x.address_key = s.address_key)"
    reached = "EXISTS (SELECT 1 FROM delivery d WHERE d.subscriber_id = s.id AND d.round_id = %s)"
    now = time.time()
    paused = f"coalesce(s.paused_until > {now!r}, FALSE)"
    _lock_ids(cursor)
    # Nobody has it yet when this is the round's only mailing; then its unique key alone is the guard.
    fresh = not models.Mailing.objects.filter(round=mailing.round).exclude(pk=mailing.pk).exists()
    unreached, unreached_values = ("", []) if fresh else (f" AND NOT {reached}", [mailing.round_id])
    moment, moment_values = "0", list[Any]()
    moments: dict[str, float] = {}
    if mailing.local_time:
        moment, moment_values, moments = _moment_sql(cursor, plan, mailing.local_time, source, of_source)
    order = "language, not_before, id" if mailing.local_time else "language, id"
    # Rows of one language and one moment stand together, so that a batch is a range of ids and has one edition.
    cursor.execute(
        "INSERT INTO delivery (mailing_id, subscriber_id, round_id, address, address_key, language, state, epoch,"
        " attempts, not_before, at, provider_ref, detail)"
        " SELECT %s, id, %s, address, address_key, language, 'pending', 0, 0, not_before, %s, '', %s FROM ("
        f"SELECT s.id, s.address, s.address_key, {language} AS language, {moment} AS not_before{source}"
        f" AND n.state = 'subscribed' AND {chosen} AND NOT {paused} AND NOT {suppressed}{unreached}) AS chosen"
        f" ORDER BY {order}",
        [
            *(mailing.pk, mailing.round_id, now, WAITING),
            *language_values,
            *moment_values,
            *of_source,
            *chosen_values,
            *unreached_values,
        ],
    )
    written = cursor.rowcount
    if written:
        cursor.execute("SELECT lastval()" if connection.vendor == "postgresql" else "SELECT last_insert_rowid()")
        last = int(cursor.fetchone()[0])
        first = last - written + 1
        _cut_batches(cursor, mailing, {language: pk for pk, language in editions}, first, last)
        if mailing.local_time:
            _count_zones(cursor, plan, moments, first, last)
        mailing.audience += written
    cursor.execute(
        "SELECT state, count(*) FROM subscription WHERE list_id = %s AND subscriber_id > %s AND subscriber_id <= %s"
        " GROUP BY state",
        in_range,
    )
    why = dict(cursor.fetchall())
    subscribed = why.pop("subscribed", 0)
    if subscribed > written:
        cursor.execute(
            f"SELECT CASE WHEN NOT ({chosen}) THEN 'not in the segment' WHEN {suppressed} THEN 'suppressed'"
            f" WHEN {paused} THEN 'paused' ELSE 'already has it' END AS why, count(*){source}"
            " AND n.state = 'subscribed' GROUP BY 1",
            [*chosen_values, *of_source],
        )
        why |= dict(cursor.fetchall())
        why["already has it"] = why.get("already has it", 0) - written
    for reason, count in why.items():
        if count:
            mailing.left_out[reason] = mailing.left_out.get(reason, 0) + count


def edition_sql(languages: Sequence[str], default: str) -> tuple[str, list[str]]:
    """SQL for the edition that a subscriber gets: their language, the same without its region, or the default."""
    arms, values = "", list[str]()
    for at, language in enumerate(languages):
        # As it is written, as a rule, which is four times as quick to see; but the first edition that fits counts.
        if not any(f"{language.lower()}-".startswith(f"{earlier.lower()}-") for earlier in languages[:at]):
            arms += " WHEN s.language = %s THEN %s"
            values += [language, language]
    for language in languages:
        arms += " WHEN lower(s.language) = %s OR lower(s.language) LIKE %s THEN %s"
        values += [language.lower(), f"{language.lower()}-%", language]
    return f"CASE{arms} ELSE %s END", [*values, default if default in languages else languages[0]]


def _cut_batches(cursor: Any, mailing: models.Mailing, editions: Mapping[str, int], first: int, last: int) -> None:
    moment, by = ("not_before", "language, not_before") if mailing.local_time else ("0", "language")
    cursor.execute(
        f"SELECT language, {moment}, min(id), max(id) FROM delivery WHERE id BETWEEN %s AND %s GROUP BY {by}",
        (first, last),
    )
    for language, not_before, low, high in cursor.fetchall():
        _add_batches(cursor, mailing.pk, editions[language], low, high, not_before=not_before)


def _add_batches(cursor: Any, mailing: int, edition: int, first: int, last: int, *, not_before: float = 0.0) -> None:
    cursor.executemany(
        "INSERT INTO batch (mailing_id, edition_id, first, last, state, epoch, owner, lease_until, not_before,"
        " answered, refused) VALUES (%s, %s, %s, %s, 'ready', 0, '', 0, %s, 0, 0)",
        [(mailing, edition, low, min(low + BATCH - 1, last), not_before) for low in range(first, last + 1, BATCH)],
    )


def _open_up(mailing: int) -> None:
    seen = models.Mailing.objects.get(pk=mailing)
    counted = sum(tally(mailing).values())  # a million take a while: counted before the row is locked
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(last - first + 1) FROM batch WHERE mailing_id = %s", (mailing,))
        batched = int(cursor.fetchone()[0] or 0)
        if connection.vendor == "postgresql" and counted:
            cursor.execute("ANALYZE delivery, batch")
    with transaction.atomic():
        row = models.Mailing.objects.select_for_update().get(pk=mailing)
        if row.state != "opening" or row.plan != seen.plan:
            return  # another worker wrote somebody down meanwhile: the next round counts again
        now = datetime.now(UTC)
        if counted == batched == row.audience:
            row.state, row.opened_at, row.watched_at = "sending", now, now
        else:
            row.state = "paused"
            row.reason = (
                f"the counts do not agree: {row.audience} recipients chosen, {counted} written down, {batched} in "
                "batches; nothing was sent. Please report this; newsletter cancel ends it"
            )
        row.save()


# --- what people do with them -----------------------------------------------------------------------------------------


def find(mailing: int) -> models.Mailing:
    """The mailing. Raises `NotFound`."""
    try:
        return models.Mailing.objects.select_related("round", "list").get(pk=mailing)
    except models.Mailing.DoesNotExist:
        raise NotFound(f"there is no mailing {mailing}; newsletter mailings lists them") from None


def pause(mailing: int, reason: str) -> bool:
    """No more chunks of it leave; what is on its way is finished. False when it was not under way, nor scheduled."""
    changed = models.Mailing.objects.filter(pk=mailing, state__in=("scheduled", "opening", "sending"))
    return bool(changed.update(state="paused", reason=reason))


def resume(mailing: int, *, route: str = "", now: datetime | None = None) -> str:
    """Goes on with a paused mailing; says in which state it is now: `scheduled` again before its moment, and after it
    at once, however late. Raises `NotFound`, `LedgerError`.

    With a `route` (`Config.route`) what is left leaves by those ways out, whichever it was opened for.
    """
    now = now or datetime.now(UTC)
    with transaction.atomic():
        find(mailing)
        row = models.Mailing.objects.select_for_update().get(pk=mailing)
        if route and row.provider != route and row.state in UNDER_WAY:
            row.provider = route
            row.save(update_fields=["provider"])
        if row.state in ("scheduled", "opening", "sending"):
            return str(row.state)
        if row.state != "paused":
            raise LedgerError(f"mailing {mailing} is {row.state}: only a paused one can be resumed")
        if row.opened_at or row.kind == "oneoff":
            row.state = "sending"
        else:
            row.state = "scheduled" if row.send_at and row.send_at > now and not has_begun(row) else "opening"
        row.reason, row.watched_at = "", now
        row.save(update_fields=["state", "reason", "watched_at"])
        ring("write_down", mailing=mailing) if row.state == "opening" else ring("wake")
        return str(row.state)


def cancel(mailing: int, reason: str) -> None:
    """Whoever has not got it will not get it. A duty (`sweep`) turns what is pending into skipped.

    Raises `NotFound`, and `LedgerError` when it is over already.
    """
    with transaction.atomic():
        find(mailing)
        row = models.Mailing.objects.select_for_update().get(pk=mailing)
        if row.state in ("finished", "cancelled"):
            raise LedgerError(f"mailing {mailing} is {row.state} already: there is nothing to cancel")
        row.state, row.reason, row.finished_at = "cancelled", reason, datetime.now(UTC)
        row.save(update_fields=["state", "reason", "finished_at"])


def sweep(now: float) -> int:
    """One batch of a cancelled mailing after the other: pending → skipped. Says how many there were.

    Nothing of them left, so that they give their place in the round back: a corrected issue can still reach them.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT b.id FROM batch b JOIN mailing m ON m.id = b.mailing_id WHERE b.state = 'ready'"
            " AND m.state = 'cancelled' ORDER BY b.id"
        )
        batches = [id for (id,) in cursor.fetchall()]
    swept = 0
    for batch in batches:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "UPDATE batch SET state = 'done', not_before = 0 WHERE id = %s AND state = 'ready'"
                " RETURNING first, last",
                (batch,),
            )
            if row := cursor.fetchone():
                cursor.execute(
                    "UPDATE delivery SET state = 'skipped', detail = 'cancelled', at = %s, round_id = NULL"
                    " WHERE id BETWEEN %s AND %s AND state = 'pending'",
                    (now, *row),
                )
                swept += cursor.rowcount
    return swept


def finish() -> list[int]:
    """Mailings of an issue in which nothing is pending or sending any more are finished: their ids."""
    done = []
    for mailing in models.Mailing.objects.filter(state="sending", kind="issue").values_list("pk", flat=True):
        with connection.cursor() as cursor:
            cursor.execute("SELECT EXISTS (SELECT 1 FROM batch WHERE mailing_id = %s AND state <> 'done')", (mailing,))
            if cursor.fetchone()[0]:
                continue
        with transaction.atomic(), connection.cursor() as cursor:
            # Whoever sets a batch of a finished mailing ready locks this row first (`ledger._reopen`, `resolve`).
            row = models.Mailing.objects.select_for_update().filter(pk=mailing, state="sending").first()
            cursor.execute("SELECT EXISTS (SELECT 1 FROM batch WHERE mailing_id = %s AND state <> 'done')", (mailing,))
            if row is not None and not cursor.fetchone()[0]:
                row.state, row.finished_at = "finished", datetime.now(UTC)
                row.save(update_fields=["state", "finished_at"])
                done.append(mailing)
    return done


def resolve(mailing: int, *, again: bool, now: float, quarantine: float = QUARANTINE) -> int:
    """Settles a mailing's doubts as a human decided: `again` sends to them once more, else they count as sent.

    Says how many. Raises `NotFound`; `LedgerError` when `again` comes before every doubt is older than the quarantine,
    since the answer may still come, or the stopped worker wake.
    """
    find(mailing)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, first, last FROM batch WHERE mailing_id = %s ORDER BY id", (mailing,))
        batches = cursor.fetchall()
    if again:
        youngest = _youngest_doubt(mailing)
        if youngest is not None and now < youngest + quarantine:
            wait = int(youngest + quarantine - now) + 1
            raise LedgerError(
                f"mailing {mailing}: its last doubt is younger than {quarantine / 60:.0f} minutes, an answer may still "
                f"come; try again in {wait} seconds"
            )
    settled = 0
    for batch, first, last in batches:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("UPDATE batch SET epoch = epoch WHERE id = %s RETURNING state", (batch,))
            (state,) = cursor.fetchone()
            cursor.execute(
                "UPDATE delivery SET state = %s, detail = %s, at = %s, not_before = 0"
                " WHERE id BETWEEN %s AND %s AND state = 'in_doubt' AND at <= %s",
                (
                    "pending" if again else "accepted",
                    "sent again after a doubt" if again else "treated as sent after a doubt",
                    now,
                    first,
                    last,
                    now - quarantine if again else now,
                ),
            )
            settled += cursor.rowcount
            if again and cursor.rowcount:
                if state != "leased":
                    cursor.execute("UPDATE batch SET state = 'ready', not_before = 0 WHERE id = %s", (batch,))
                # The row is locked even when it is `sending`: see `finish`.
                models.Mailing.objects.filter(pk=mailing, state__in=("sending", "finished")).update(
                    state="sending", finished_at=None, watched_at=datetime.now(UTC)
                )
                ring("wake")
    return settled


def _youngest_doubt(mailing: int) -> float | None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT max(at) FROM delivery WHERE mailing_id = %s AND state = 'in_doubt' AND id BETWEEN"
            " (SELECT min(first) FROM batch WHERE mailing_id = %s)"
            " AND (SELECT max(last) FROM batch WHERE mailing_id = %s)",
            (mailing, mailing, mailing),
        )
        (at,) = cursor.fetchone()
        return None if at is None else float(at)


# --- one-off mail -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Letter:
    """One mail to one person. `key` says what it is, "confirm:7", and leaves once; `edition.key` names the kind."""

    edition: RenderedEdition
    key: str
    address: str
    address_key: bytes
    slots: Mapping[str, str]
    subscriber: int | None = None


def post(
    edition: RenderedEdition,
    *,
    key: str,
    address: str,
    address_key: bytes,
    slots: Mapping[str, str],
    provider: str,
    subscriber: int | None = None,
) -> int | None:
    """Puts one mail to one person into the ledger; a worker sends it before everything else.

    `key` says what it is, "confirm:7:1": a second call with the same key gives None and sends nothing. `edition.key`
    names the kind. Otherwise the delivery's id.
    """
    letter = Letter(
        edition=edition, key=key, address=address, address_key=address_key, slots=slots, subscriber=subscriber
    )
    return post_many([letter], provider=provider)[0]


def post_many(letters: Sequence[Letter], *, provider: str) -> list[int | None]:
    """What `post` does, for many at once and in one transaction: the delivery of each, or None.

    Those of one edition come to stand in one batch. Up to some hundreds: nobody else makes deliveries meanwhile.
    """
    if not letters:
        return []
    now = datetime.now(UTC)
    by_edition: dict[RenderedEdition, list[Letter]] = {}
    for letter in letters:
        by_edition.setdefault(letter.edition, []).append(letter)
    posted: dict[str, int] = {}
    with transaction.atomic(), connection.cursor() as cursor:
        _lock_ids(cursor)  # before the mailing is looked for: two workers must not make one each
        counts: dict[int, int] = {}
        for edition, its_letters in by_edition.items():
            mailing, frozen_edition = _frozen_for_one(edition, provider, now)
            ids = _insert_letters(cursor, mailing, its_letters, edition.language)
            posted |= ids
            for first, last in _runs(sorted(ids.values())):
                _add_batches(cursor, mailing, frozen_edition, first, last)
            if ids:
                counts[mailing] = counts.get(mailing, 0) + len(ids)
        for mailing, count in sorted(counts.items()):
            models.Mailing.objects.filter(pk=mailing).update(audience=F("audience") + count, watched_at=now)
        if posted:
            ring("wake")
    return [posted.pop(letter.key, None) for letter in letters]


def _frozen_for_one(edition: RenderedEdition, provider: str, now: datetime) -> tuple[int, int]:
    """The mailing that all mail of a kind belongs to, and the edition as it is frozen there."""
    mailing = models.Mailing.objects.filter(kind="oneoff", name=edition.key).order_by("pk").first()
    if mailing is None:
        mailing = models.Mailing.objects.create(
            kind="oneoff",
            name=edition.key,
            state="sending",
            provider=provider,
            on_doubt="resend",
            created_at=now,
            opened_at=now,
            watched_at=now,
        )
    content, hash = _frozen(edition)
    row, new = models.Edition.objects.only("pk").get_or_create(
        mailing=mailing, language=edition.language, hash=hash, defaults={"content": content}
    )
    if new:
        keep_images(edition.images)
    return mailing.pk, row.pk


_frozen = lru_cache(maxsize=16)(frozen)  # of single mail: the same few over and over


def _insert_letters(cursor: Any, mailing: int, letters: Sequence[Letter], language: str) -> dict[str, int]:
    """The ids of the deliveries that are new, by their keys."""
    at, ids = time.time(), dict[str, int]()
    for start in range(0, len(letters), 50):  # SQLite takes 999 values in a statement, by the oldest limit
        part = letters[start : start + 50]
        row = "(%s, %s, %s, %s, %s, %s, %s, 'pending', 0, 0, 0, %s, '', %s)"
        values: list[object] = []
        for each in part:
            slots = json.dumps(dict(each.slots), ensure_ascii=False)
            values += (mailing, each.subscriber, each.key, each.address, each.address_key, language, slots, at, WAITING)
        cursor.execute(
            "INSERT INTO delivery (mailing_id, subscriber_id, key, address, address_key, language, slots, state,"
            f" epoch, attempts, not_before, at, provider_ref, detail) VALUES {', '.join([row] * len(part))}"
            " ON CONFLICT DO NOTHING RETURNING key, id",
            values,
        )
        ids |= cursor.fetchall()
    return ids


def _runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring ids as ranges, both ends included: a batch holds no id between that another mail might have."""
    runs: list[tuple[int, int]] = []
    for id in ids:
        if runs and runs[-1][1] == id - 1:
            runs[-1] = (runs[-1][0], id)
        else:
            runs.append((id, id))
    return runs


# --- the watch --------------------------------------------------------------------------------------------------------


def pause_forsaken(*, grace: float, work_of: Iterable[int] | None = None, why: str = "") -> list[int]:
    """Pauses what nobody looked after for longer than the grace period, in seconds, and has work left: the mailings.

    The database may be an old copy, in which people count as pending whom the newer one has mailed. Nobody need look
    after what is scheduled; it is paused too when `why` says that the database is older.
    """
    now = datetime.now(UTC)
    paused = []
    states = ("scheduled", "opening", "sending") if why else ("opening", "sending")
    rows = models.Mailing.objects.filter(state__in=states)
    if work_of is not None:
        rows = rows.filter(pk__in=tuple(work_of))
    for row in rows:
        silent = (now - row.watched_at).total_seconds()
        if silent <= grace and not why:
            continue
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*), sum(last - first + 1) FROM batch WHERE mailing_id = %s AND state <> 'done'", (row.pk,)
            )
            batches, left = cursor.fetchone()
        if not batches and row.state == "sending":
            continue
        reason = why or f"no worker looked after it for {span(silent)}"
        who = "everybody on its list" if row.state == "scheduled" else f"up to {left or row.audience} people"
        if pause(
            row.pk,
            f"{reason}, so this database may be an old copy: {who} may have been mailed since. When that "
            f"is not so: newsletter resume {row.pk}",
        ):
            paused.append(row.pk)
    return paused


def watch() -> None:
    """Says that a worker looks after what is under way; not more often than every 20 seconds."""
    now = datetime.now(UTC)
    stale = now - timedelta(seconds=20)
    models.Mailing.objects.filter(state__in=("opening", "sending"), watched_at__lt=stale).update(watched_at=now)


def intent_epoch(delivery: int) -> int | None:
    """The epoch of a delivery's last intent, or None when there is no such delivery."""
    return models.Delivery.objects.filter(pk=delivery).values_list("epoch", flat=True).first()


def edition_of(edition: int) -> str:
    """The content of a frozen edition (`editions.thawed`)."""
    content: str = models.Edition.objects.values_list("content", flat=True).get(pk=edition)
    return content


def forget_addresses(*, before: float, size: int = 5000) -> int:
    """Empties the addresses of one range of old deliveries that are settled; says how many, 0 when none is left."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT value FROM fact WHERE name = 'forgotten_to'")
        row = cursor.fetchone()
        start = int(row[0]) if row else 0
        cursor.execute(
            "SELECT max(id) FROM (SELECT id FROM delivery WHERE id > %s AND at < %s ORDER BY id LIMIT %s) AS part",
            (start, before, size),
        )
        (top,) = cursor.fetchone()
        if top is None:
            return 0
        cursor.execute(
            "SELECT min(id) FROM delivery WHERE id > %s AND id <= %s AND (at >= %s OR state IN ('pending', 'sending'))",
            (start, top, before),
        )
        (young,) = cursor.fetchone()
        if young is not None:
            top = young - 1
        if top <= start:
            return 0
        cursor.execute("UPDATE delivery SET address = '', address_key = NULL WHERE id > %s AND id <= %s", (start, top))
        models.Fact.objects.update_or_create(name="forgotten_to", defaults={"value": str(top)})
        return int(top - start)
