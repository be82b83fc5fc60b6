"""What of all that was sent is public: which issues, in which languages, since when; their editions and pictures.

An issue is public once a mailing of it has begun that is not private: neither the issue's file nor its list said so
when the mailing was opened, and the list is not private now. Of one that was cancelled somebody must have it. In each
language the edition of the newest such mailing counts. Single mail, tests among it, is never public.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from django.db import connection

from newsletter.rendering.edition import Edition, Image
from newsletter.store import models
from newsletter.store.editions import thawed


@dataclass(frozen=True, kw_only=True)
class Published:
    """An issue in one language, as its readers have it."""

    issue: str  # "2017-11-19"
    language: str
    edition: int
    first_at: datetime  # when it was first sent in this language
    at: datetime  # when this edition was


@dataclass(frozen=True, kw_only=True, eq=False)
class Public:
    """All that is public at one moment, the newest issue first."""

    rows: tuple[Published, ...]

    @cached_property
    def by_language(self) -> Mapping[str, tuple[Published, ...]]:
        found: dict[str, list[Published]] = {}
        for each in self.rows:
            found.setdefault(each.language, []).append(each)
        return {language: tuple(rows) for language, rows in found.items()}

    @cached_property
    def by_issue(self) -> Mapping[str, Mapping[str, Published]]:
        """Issue → language → what is public of it."""
        found: dict[str, dict[str, Published]] = {}
        for each in self.rows:
            found.setdefault(each.issue, {})[each.language] = each
        return found

    def neighbours(self, row: Published) -> tuple[Published | None, Published | None]:
        """The issue before this one in its language, and the one after it."""
        place = self._places[row.issue, row.language]
        rows = self.by_language[row.language]
        earlier = rows[place + 1] if place + 1 < len(rows) else None
        return earlier, rows[place - 1] if place else None

    @cached_property
    def _places(self) -> Mapping[tuple[str, str], int]:
        rows = self.by_language.values()
        return {(each.issue, each.language): place for inside in rows for place, each in enumerate(inside)}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A picture that something sent links to."""

    media_type: str
    content: bytes


def published(private_lists: Collection[str]) -> Public:
    """Everything public; `private_lists` are the lists whose issues are not."""
    where, values = _public(private_lists)
    rows: dict[tuple[str, str], Published] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT r.issue, e.language, e.id, m.opened_at FROM mailing m JOIN round r ON r.id = m.round_id"
            f" JOIN edition e ON e.mailing_id = m.id WHERE {where} ORDER BY m.opened_at, e.id",
            values,
        )
        for issue, language, edition, opened_at in cursor.fetchall():
            at = _moment(opened_at)
            earlier = rows.get((issue, language))
            first_at = earlier.first_at if earlier else at
            rows[issue, language] = Published(issue=issue, language=language, edition=edition, first_at=first_at, at=at)
    # By name, which begins with the date: an old issue that is sent late, or again, stays where its date puts it.
    return Public(rows=tuple(rows[key] for key in sorted(rows, reverse=True)))


def published_stamp(private_lists: Collection[str]) -> tuple[Any, ...]:
    """Something that is another when `published` may be: two aggregates over the mailings of issues."""
    where, values = _public(private_lists)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*), max(m.opened_at) FROM mailing m WHERE {where}", values)
        return tuple(cursor.fetchone())


def _public(private_lists: Collection[str]) -> tuple[str, Sequence[str]]:
    """SQL that says which mailings `m` are public, and its values."""
    lists = ""
    if private_lists:
        marks = ", ".join("%s" for _ in private_lists)
        lists = f" AND m.list_id NOT IN (SELECT l.id FROM list l WHERE l.name IN ({marks}))"
    # Whoever was answered for and not refused has it.
    reached = "EXISTS (SELECT 1 FROM batch b WHERE b.mailing_id = m.id AND b.answered > b.refused)"
    begun = f"m.opened_at IS NOT NULL AND (m.state <> 'cancelled' OR {reached})"
    return f"m.kind = 'issue' AND NOT m.private AND {begun}{lists}", tuple(private_lists)


def _moment(value: datetime) -> datetime:
    """A moment as the database hands it out: SQLite has it without its time zone, which is UTC."""
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def load_edition(id: int) -> Edition | None:
    """A frozen edition, or None when there is none of this id."""
    content = models.Edition.objects.filter(pk=id).values_list("content", flat=True).first()
    return thawed(content) if content else None


def load_editions(ids: Collection[int]) -> dict[int, Edition]:
    """Frozen editions by their ids."""
    rows = models.Edition.objects.filter(pk__in=ids).values_list("pk", "content")
    return {id: thawed(content) for id, content in rows}


def sisters(id: int) -> dict[str, int]:
    """The editions of the same mailing by language, that of `id` among them; none for single mail."""
    rows = models.Edition.objects.filter(mailing__kind="issue", mailing__editions=id).order_by("language", "pk")
    return dict(rows.values_list("language", "pk"))


def keep_images(images: Iterable[Image]) -> None:
    """Keeps pictures for as long as the database: what was sent links to them, whatever becomes of the workspace's
    files. One that is kept already costs no more than a look."""
    new = {image.name: image for image in images}
    for name in models.Image.objects.filter(name__in=new).values_list("name", flat=True):
        del new[name]
    rows = [models.Image(name=each.name, media_type=each.media_type, content=each.content) for each in new.values()]
    models.Image.objects.bulk_create(rows, ignore_conflicts=True)


def load_image(name: str) -> Kept | None:
    """A picture that was kept when something linking to it was sent; None when there is none of this name."""
    row = models.Image.objects.filter(pk=name).values_list("media_type", "content").first()
    return Kept(media_type=row[0], content=bytes(row[1])) if row else None
