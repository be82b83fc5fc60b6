"""What people ask of the ledger: who would get an issue, how far a mailing is, what became of everybody and why.

Nothing here writes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection
from django.db.models import Count, F, Max, Min, Q, QuerySet, Sum
from django.db.models.expressions import RawSQL

from newsletter.moments import zone_names
from newsletter.store import models
from newsletter.store.ledger import share_of
from newsletter.store.mailings import UNDER_WAY, Audience, edition_sql, zone_sql
from newsletter.store.pace import Kind

SHORTEST_PACE = 1.0  # seconds of sending from which a pace is worth stating
FEWEST_PACED = 50  # messages


@dataclass(frozen=True, kw_only=True)
class Headcount:
    """Who on a list would get an issue, by the rules with which `mailings.write_down` writes recipients down."""

    recipients: dict[str, int]  # the language of the edition → people
    left_out: dict[str, int]  # the reason → people on the list
    zones: dict[str, int]  # where asked for: the time zone → people; "": none is known, "?": what stands there is none

    @property
    def total(self) -> int:
        return sum(self.recipients.values())


def headcount(
    languages: Sequence[str],
    *,
    list: int,
    issue: str,
    default_language: str,
    audience: Audience | None = None,
    again: bool = False,
    by_zone: bool = False,
) -> Headcount:
    """Counts for an issue in these languages; `again` counts for a new round, which has reached nobody."""
    names, where, values = _places(
        languages, list, issue, default_language, audience=audience, again=again, zone=zone_sql() if by_zone else "''"
    )
    counts = ", ".join(["count(*) FILTER (WHERE place = %s)"] * len(names))
    known: Sequence[str] = ()
    if by_zone:
        known = sorted(zone_names())
        zones_known = ", ".join(["%s"] * len(known))
        where = (
            f"(SELECT place, CASE WHEN zone IN ({zones_known}) THEN zone WHEN coalesce(zone, '') = '' THEN ''"
            f" ELSE '?' END AS zone FROM {where}) AS zoned GROUP BY zone"
        )
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {'zone' if by_zone else 'NULL'}, {counts} FROM {where}", [*names, *known, *values])
        rows = cursor.fetchall()
    spoken = len({*languages})
    recipients: dict[str, int] = {}
    zones: dict[str, int] = {}
    left_out: dict[str, int] = {}
    for zone, *numbers in rows:
        for at, (name, count) in enumerate(zip(names, numbers, strict=True)):
            for counted, key in ((recipients, name), (zones, zone)) if at < spoken else ((left_out, name),):
                if count:
                    counted[key] = counted.get(key, 0) + count
    return Headcount(
        recipients=dict(sorted(recipients.items())),
        left_out=dict(sorted(left_out.items())),
        zones=dict(sorted(zones.items())) if by_zone else {},
    )


_ALL = 2**63 - 1  # rows: as a LIMIT, it keeps both planners from working a subquery out once for each use


def _places(
    languages: Sequence[str],
    list: int,
    issue: str,
    default_language: str,
    *,
    audience: Audience | None,
    again: bool,
    zone: str,
) -> tuple[list[str], str, list[Any]]:
    """Where everybody on a list belongs: the names of the places, the languages first and then the reasons to be left
    out, and a subquery with its values that gives one row for each person, with `place` and `zone`.

    What is made of it are filtered counts, since SQLite would sort a million rows for a GROUP BY. The segment is asked
    for each person: a set of half a million ids is more than PostgreSQL hashes, and it would search it row by row.
    """
    reasons = [state for state in models.SUBSCRIPTION_STATES if state != "subscribed"]
    arms, values = " WHEN n.state <> 'subscribed' THEN n.state", tuple[Any, ...]()
    if audience is not None:
        here = audience.filter(pk=RawSQL("s.id", [])).order_by().values("pk")
        segment, values = here.query.sql_with_params()
        arms += f" WHEN NOT EXISTS ({segment}) THEN 'not in the segment'"
    arms += " WHEN EXISTS (SELECT 1 FROM suppression x WHERE x.address_key = s.address_key) THEN 'suppressed'"
    arms += f" WHEN s.paused_until > {time.time()!r} THEN 'paused'"
    round = None if again else models.Round.objects.filter(issue=issue).order_by("-number").first()
    if round:
        reached = f"SELECT 1 FROM delivery d WHERE d.subscriber_id = s.id AND d.round_id = {round.pk}"
        arms += f" WHEN EXISTS ({reached}) THEN 'already has it'"
    language, language_values = edition_sql(languages, default_language)
    query = (
        f"(SELECT CASE{arms} ELSE {language} END AS place, {zone} AS zone FROM subscription n"
        f" JOIN subscriber s ON s.id = n.subscriber_id WHERE n.list_id = %s LIMIT {_ALL}) AS counted"
    )
    names = [*dict.fromkeys(languages), *reasons, "not in the segment", "suppressed", "paused", "already has it"]
    return names, query, [*values, *language_values, list]


def last_round(issue: str) -> int:
    """The number of the last round of an issue; 0 when it was never sent."""
    return models.Round.objects.filter(issue=issue).aggregate(last=Max("number"))["last"] or 0


def under_way(issue: str) -> list[models.Mailing]:
    """The mailings of an issue's last round that are not over, oldest first."""
    rows = models.Mailing.objects.filter(round__issue=issue, round__number=last_round(issue), state__in=UNDER_WAY)
    return [*rows.select_related("round", "list").order_by("pk")]


def active(besides: Iterable[int] = ()) -> list[models.Mailing]:
    """The mailings that are scheduled, opening or sending, and those of `besides`, oldest first."""
    rows = models.Mailing.objects.filter(Q(state__in=("scheduled", "opening", "sending")) | Q(pk__in=[*besides]))
    return [*rows.select_related("round", "list").order_by("pk")]


def newest(count: int | None) -> list[models.Mailing]:
    """The mailings, newest first: so many, or all of them."""
    return [*models.Mailing.objects.select_related("round", "list").order_by("-pk")[:count]]


# --- how far it is ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a mailing is, read from its batches alone: cheap enough to ask every second."""

    state: str
    reason: str
    audience: int  # grows while it is opening
    done: int  # deliveries that need nothing more; a little behind where some were skipped
    refused: int
    due: bool  # something may be sent now, or is being sent
    next: float  # Unix seconds at which the first one that waits is due; 0.0: none is
    deferred: bool  # of those that wait some were tried before
    ahead: bool  # of those that wait some were not: their hour has not come where they live


def standing(mailing: int, now: float) -> Standing:
    """Raises `Mailing.DoesNotExist`."""
    row = models.Mailing.objects.only("state", "reason", "audience").get(pk=mailing)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(CASE WHEN state = 'done' OR answered > last - first + 1 THEN last - first + 1"
            " ELSE answered END), 0), coalesce(sum(refused), 0),"
            " coalesce(sum(CASE WHEN state = 'leased' OR (state = 'ready' AND not_before <= %s) THEN 1 ELSE 0 END), 0),"
            " min(CASE WHEN state = 'ready' AND not_before > %s AND epoch > 0 THEN not_before END),"
            " min(CASE WHEN state = 'ready' AND not_before > %s AND epoch = 0 THEN not_before END)"
            " FROM batch WHERE mailing_id = %s",
            (now, now, now, mailing),
        )
        done, refused, due, deferred, ahead = cursor.fetchone()
    return Standing(
        state=row.state,
        reason=row.reason,
        audience=row.audience,
        done=int(done),
        refused=int(refused),
        due=bool(due),
        next=min((each for each in (deferred, ahead) if each), default=0.0),
        deferred=bool(deferred),
        ahead=bool(ahead),
    )


def of_other_ways(route: str) -> list[models.Mailing]:
    """The mailings that could be sent, but were opened for other ways out than these: no worker here touches them."""
    rows = models.Mailing.objects.filter(state="sending", kind="issue").exclude(provider=route)
    return [*rows.select_related("round", "list").order_by("pk")]


def anything_due(now: float, route: str, *, full: Collection[Kind] = ()) -> bool:
    """Whether there is work for a worker with these ways out at this moment, or one is at it: false while all that is
    left must wait. For mail of the kinds `full` a cap leaves no room."""
    begins = Q(state="scheduled", send_at__lte=datetime.fromtimestamp(now, UTC))
    if models.Mailing.objects.filter(Q(state="opening") | begins).exists():
        return True
    unfinished = models.Batch.objects.exclude(state="done")
    # Asked first and last: what is ready may be claimed, and what is claimed be done, between two questions.
    leased = unfinished.filter(state="leased")
    held = leased.exists()
    # One query or two for each mailing that is open: what waits is found in the index of ready batches.
    sending = models.Mailing.objects.filter(state="sending")
    for id, kind, provider, name in sending.values_list("pk", "kind", "provider", "name"):
        ours = (kind == "oneoff" or provider == route) and share_of(kind, name) not in full
        if ours and unfinished.filter(mailing_id=id, state="ready", not_before__lte=now).exists():
            return True
        if kind == "issue" and not unfinished.filter(mailing_id=id).exists():
            return True  # it is over, and somebody must say so
    if unfinished.filter(state="ready", mailing__state="cancelled").exists():
        return True
    return held or leased.exists()


@dataclass(frozen=True, kw_only=True)
class Pace:
    mailing: int
    per_second: float


def last_pace(provider: str) -> Pace | None:
    """How fast the newest mailing that tells anything left through a provider; None when none does.

    The pace of the first half of what was accepted: those who were deferred come late and say nothing of it.
    """
    rows = models.Mailing.objects.filter(kind="issue", provider=provider, opened_at__isnull=False, local_time="")
    rows = rows.order_by("-pk")  # not those that waited for the hour of each zone
    for id in rows.values_list("pk", flat=True)[:5]:
        accepted = _deliveries(id).filter(state="accepted").order_by("at")
        half = accepted.count() // 2
        if half * 2 < FEWEST_PACED:
            continue
        first, middle = (accepted.values_list("at", flat=True)[at] for at in (0, half))
        if middle - first >= SHORTEST_PACE:
            return Pace(mailing=id, per_second=half / (middle - first))
    return None


# --- what became of everybody -----------------------------------------------------------------------------------------


def _deliveries(mailing: int) -> QuerySet[models.Delivery]:
    """A mailing's deliveries, found by their range of ids: there is no index of mailings."""
    span = models.Batch.objects.filter(mailing_id=mailing).aggregate(first=Min("first"), last=Max("last"))
    if span["first"] is None:
        return models.Delivery.objects.none()
    return models.Delivery.objects.filter(pk__gte=span["first"], pk__lte=span["last"], mailing_id=mailing)


def round_providers(issue: str) -> set[str]:
    """The ways out that an issue's last round was opened for."""
    rows = models.Mailing.objects.filter(round__issue=issue, round__number=last_round(issue))
    return set(rows.values_list("provider", flat=True))


def round_tally(issue: str) -> dict[str, int]:
    """How many are in each state over all mailings of an issue's last round; states without anybody are not there."""
    counts = dict.fromkeys(models.DELIVERY_STATES, 0)
    rows = models.Mailing.objects.filter(round__issue=issue, round__number=last_round(issue))
    for id in rows.values_list("pk", flat=True):
        own = _deliveries(id).filter(round__isnull=False)  # not those that a cancelled mailing gave back
        counts |= {state: counts[state] + count for state, count in own.values_list("state").annotate(Count("pk"))}
    return {state: count for state, count in counts.items() if count}


def reasons(mailing: int, state: str, *, most: int = 10) -> list[tuple[str, int]]:
    """Why deliveries are in a state, in the words that were kept, with how many each; the most frequent first."""
    rows = _deliveries(mailing).filter(state=state).exclude(detail="")
    if state == "pending":
        rows = rows.filter(attempts__gt=0)
    counted = rows.values_list("detail").annotate(count=Count("pk")).order_by("-count", "detail")
    return [(detail, count) for detail, count in counted[:most]]


def editions(mailing: int) -> dict[str, str]:
    """The hashes of a mailing's frozen editions by language; of single mail, the newest."""
    rows = models.Edition.objects.filter(mailing_id=mailing).order_by("language", "pk")
    return dict(rows.values_list("language", "hash"))


def in_doubt(mailing: int, *, most: int) -> list[models.Delivery]:
    """Deliveries in doubt, the oldest first."""
    return [*_deliveries(mailing).filter(state="in_doubt").order_by("at", "pk")[:most]]


def named(ids: Iterable[int]) -> dict[int, models.Delivery]:
    """Deliveries by their ids."""
    return models.Delivery.objects.in_bulk([*ids])


@dataclass(frozen=True, kw_only=True)
class Work:
    """The batches of a mailing that something can be said of."""

    held: list[tuple[str, int, float]]  # worker, batches, the earliest end of a lease
    waiting: int  # batches whose deferred deliveries wait
    next: float
    refusing: list[tuple[int, str, int, int]]  # batch, language, refused, answered: where most were refused


def work(mailing: int, now: float) -> Work:
    batches = models.Batch.objects.filter(mailing_id=mailing)
    held = batches.filter(state="leased").values_list("owner").annotate(count=Count("pk"), until=Min("lease_until"))
    waiting: dict[str, Any] = batches.filter(state="ready", not_before__gt=now, epoch__gt=0).aggregate(
        count=Count("pk"), next=Min("not_before")
    )
    refusing = batches.filter(refused__gt=0).order_by("-refused", "pk")
    return Work(
        held=[*held.order_by("owner")],
        waiting=waiting["count"],
        next=waiting["next"] or 0.0,
        refusing=[*refusing.values_list("pk", "edition__language", "refused", "answered")[:5]],
    )


@dataclass(frozen=True, kw_only=True)
class Hour:
    """One of the moments of a mailing that goes out at the same hour of everybody's own day."""

    at: float  # Unix seconds
    zones: tuple[str, ...]  # "": people of whom no zone is known
    people: int
    waiting: int  # of them, those whose batches have not been touched; at most `people`


def hours(row: models.Mailing) -> list[Hour]:
    """The moments of a mailing with a local time, as its recipients were written down; none before that."""
    waits = (
        models.Batch.objects.filter(mailing=row, state="ready", epoch=0)
        .values_list("not_before")
        .annotate(people=Sum(F("last") - F("first") + 1))
    )
    waiting = dict(waits.order_by())
    found: dict[float, tuple[list[str], int]] = {}
    for zone, (at, people) in sorted(row.plan.get("zones", {}).items()):
        names, count = found.get(at, ([], 0))
        found[at] = ([*names, zone], count + int(people))
    return [
        Hour(at=at, zones=tuple(names), people=count, waiting=int(waiting.get(at, 0)))
        for at, (names, count) in sorted(found.items())
    ]
