"""Subscribers as a file: CSV that opens in a spreadsheet and comes back through import, JSON for programs.

A row is one person on one list; somebody on two lists has two rows, somebody on none has one. Suppressions of addresses
that no subscriber has are not in it: the database knows those by their keys only (`newsletter backup` keeps them).
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from django.db.models import QuerySet

from newsletter.config import Config
from newsletter.content.segments import Segment
from newsletter.errors import NotFound
from newsletter.shape import nearest
from newsletter.store.columns import MARK
from newsletter.store.lists import load_lists
from newsletter.store.models import List, Subscriber, SubscriberTag, Subscription, Suppression
from newsletter.store.schema import explained
from newsletter.store.segments import segment_query
from newsletter.store.sheets import guarded

Format = Literal["csv", "json", "jsonl"]
FORMATS: tuple[Format, ...] = ("csv", "json", "jsonl")
AT_ONCE = 2_000  # people; so many are in memory

COLUMNS = (
    *("email", "name", "language", "tags", "attributes", "list", "state", "joined_at", "changed_at"),
    *("consent_kind", "consent_at", "consent_how", "consent_text", "suppressed", "suppressed_at", "created_at", MARK),
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Whom to export. Everything that is said must hold."""

    list: str = ""  # "": every list, and who is on none
    segment: Segment | None = None  # of a list: only who is subscribed to it
    states: tuple[str, ...] = ()  # of the subscription


def export(config: Config, wanted: Wanted, file: IO[str], *, format: Format = "csv") -> int:
    """Writes the people who are wanted to a file, in the order in which they came, and says how many rows that made.

    Takes the same memory for a million people as for ten. Raises `NotFound` for an unknown list, `DatabaseDown`.
    """
    if wanted.list and wanted.list not in (known := load_lists(config).lists):
        raise NotFound(f'no list "{wanted.list}"{nearest(wanted.list, known)}; the lists are: {", ".join(known)}')
    with explained():
        rows = _rows(wanted)
        if format == "csv":
            return _write_csv(rows, file)
        return _write_json(rows, file, lines=format == "jsonl")


@contextmanager
def new_file(path: Path) -> Iterator[IO[str]]:
    """A file that is at `path` once it is whole, for its owner only: it holds addresses. Raises `OSError`."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # its mode is 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


# --- rows -------------------------------------------------------------------------------------------------------------


def _rows(wanted: Wanted) -> Iterator[dict[str, Any]]:
    query: QuerySet[Subscriber] = Subscriber.objects.all()
    only = List.objects.filter(name=wanted.list).first() if wanted.list else None
    if wanted.list and only is None:
        return  # nobody has joined it yet
    if only and wanted.segment:
        query = segment_query(wanted.segment, only.pk)
    elif only or wanted.states:
        of_list = Subscription.objects.filter(list=only) if only else Subscription.objects.all()
        joined = of_list.filter(state__in=wanted.states) if wanted.states else of_list
        query = query.filter(pk__in=joined.values("subscriber"))
    last = 0
    while people := list(query.filter(pk__gt=last).order_by("pk")[:AT_ONCE]):
        last = people[-1].pk
        yield from _of(people, only, wanted.states)


def _of(people: Sequence[Subscriber], only: List | None, states: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of some people, from three queries for all of them."""
    ids = [person.pk for person in people]
    joined: defaultdict[int, list[Subscription | None]] = defaultdict(list)
    subscriptions = Subscription.objects.filter(subscriber__in=ids).select_related("list", "consent")
    for subscription in subscriptions.order_by("subscriber_id", "list_id"):
        if (not only or subscription.list_id == only.pk) and (not states or subscription.state in states):
            joined[subscription.subscriber_id].append(subscription)
    tags: defaultdict[int, list[str]] = defaultdict(list)
    for id, name in SubscriberTag.objects.filter(subscriber__in=ids).values_list("subscriber_id", "tag__name"):
        tags[id].append(name)
    keys = [bytes(person.address_key) for person in people]
    held = {bytes(each.pk): each for each in Suppression.objects.filter(address_key__in=keys)}
    for person in people:
        suppression = held.get(bytes(person.address_key))
        for row in joined[person.pk] or [None]:
            yield {
                "email": person.address,
                "name": person.name,
                "language": person.language,
                "tags": sorted(tags[person.pk]),
                "attributes": person.attributes,
                **_subscription(row),
                "suppressed": suppression.reason if suppression else None,
                "suppressed_at": _time(suppression.at) if suppression else None,
                "created_at": _time(person.created_at),
            }


def _subscription(row: Subscription | None) -> dict[str, Any]:
    consent = row.consent if row else None
    return {
        "list": row.list.name if row else None,
        "state": row.state if row else None,
        "joined_at": _time(row.joined_at) if row else None,
        "changed_at": _time(row.changed_at) if row else None,
        "consent_kind": consent.kind if consent else None,
        "consent_at": _time(consent.at) if consent else None,
        "consent_how": consent.how if consent else None,
        "consent_text": consent.text if consent else None,
    }


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


# --- files ------------------------------------------------------------------------------------------------------------


def _write_csv(rows: Iterable[Mapping[str, Any]], file: IO[str]) -> int:
    """RFC 4180, with the mark that Excel takes for UTF-8, and no cell that a spreadsheet would take for a formula."""
    file.write("\ufeff")
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    count = 0
    for row in rows:
        cells = {**row, "tags": _joined(row["tags"]), "attributes": _object(row["attributes"]), MARK: "1"}
        writer.writerow([guarded(cells[column] or "") for column in COLUMNS])
        count += 1
    return count


def _joined(tags: list[str]) -> str:
    """Tags with commas between, and quotes around one that holds a comma or a quote."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(tags)
    return "" if not tags else line.getvalue()


def _object(attributes: Mapping[str, Any]) -> str:
    return json.dumps(attributes, ensure_ascii=False) if attributes else ""


def _write_json(rows: Iterable[Mapping[str, Any]], file: IO[str], *, lines: bool) -> int:
    """One array, an object a line in it; or an object a line and nothing else."""
    count = 0
    for row in rows:
        before = "" if lines else ",\n" if count else "[\n"
        file.write(f"{before}{json.dumps(row, ensure_ascii=False)}{chr(10) if lines else ''}")
        count += 1
    if not lines:
        file.write("\n]\n" if count else "[]\n")
    return count
