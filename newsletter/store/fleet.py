"""The workers: each says every few seconds that it is there and how it fares. Nothing else depends on what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models import Count

from newsletter.store import models

SILENT = 60.0  # seconds unseen after which a worker is shown as silent: as long as a lease
FORGOTTEN = 86_400.0  # seconds unseen after which its row is removed


def check_in(
    owner: str,
    *,
    engine: str,
    state: str,
    started_at: float,
    now: float,
    answered: int = 0,
    per_second: float = 0.0,
    health: Mapping[str, Mapping[str, Any]] | None = None,
    trouble: str = "",
) -> None:
    """A worker's row as it is now. `health`: way out → {"state": ready | down | full, "why", "until"}."""
    row = models.Worker(
        owner=owner,
        engine=engine,
        state=state,
        started_at=started_at,
        seen_at=now,
        answered=answered,
        per_second=per_second,
        health={way: {**known} for way, known in (health or {}).items()},
        trouble=trouble,
    )
    changing = ["engine", "state", "started_at", "seen_at", "answered", "per_second", "health", "trouble"]
    models.Worker.objects.bulk_create([row], update_conflicts=True, unique_fields=["owner"], update_fields=changing)


def check_out(owner: str) -> None:
    """The worker ended in good order."""
    models.Worker.objects.filter(owner=owner).delete()


def forget(now: float) -> int:
    """Removes the rows of workers that were killed and are unseen for a day; says how many."""
    return models.Worker.objects.filter(seen_at__lt=now - FORGOTTEN).delete()[0]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A worker, for showing."""

    row: models.Worker
    silent: bool
    in_hand: int  # batches


@dataclass(frozen=True, kw_only=True)
class Batches:
    due: int  # may be sent now, and nobody has them
    leased: int
    overdue: int  # of those leased, the ones whose lease is over: somebody takes them over within seconds
    later: int  # deferred


def members(now: float) -> list[Member]:
    """Every worker that said it is there and not that it left, the one seen last first."""
    held = models.Batch.objects.filter(state="leased").values_list("owner").annotate(Count("pk"))
    in_hand: dict[str, int] = dict(held)
    rows = models.Worker.objects.order_by("-seen_at", "owner")
    return [
        Member(row=row, silent=now - row.seen_at > SILENT, in_hand=in_hand.get(row.owner, 0))
        for row in rows
        if now - row.seen_at <= FORGOTTEN
    ]


def batches(now: float) -> Batches:
    """The batches of all mailings under way."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(CASE WHEN b.state = 'ready' AND b.not_before <= %s THEN 1 ELSE 0 END),"
            " sum(CASE WHEN b.state = 'leased' THEN 1 ELSE 0 END),"
            " sum(CASE WHEN b.state = 'leased' AND b.lease_until < %s THEN 1 ELSE 0 END),"
            " sum(CASE WHEN b.state = 'ready' AND b.not_before > %s THEN 1 ELSE 0 END)"
            " FROM batch b JOIN mailing m ON m.id = b.mailing_id"
            " WHERE b.state = 'leased' OR (b.state = 'ready' AND m.state = 'sending')",
            (now, now, now),
        )
        due, leased, overdue, later = (int(count or 0) for count in cursor.fetchone())
    return Batches(due=due, leased=leased, overdue=overdue, later=later)
