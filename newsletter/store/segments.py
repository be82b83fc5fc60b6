"""Segments as SQL, made by the ORM: the same people on SQLite and on PostgreSQL, and those whom `matches` means.

Three things keep the databases alike. Every part is true or false on every row and never NULL, so that `not` is the
opposite. Nothing asks a collation: texts are equal or they are not, octet by octet. Attributes are taken by their name
and told apart by their JSON type, never by Django's key transforms, which read "0" as a place in an array and compare a
JSON path with the text as it was escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db.models import BooleanField, Exists, F, Func, OuterRef, Q, QuerySet, TextField, Value
from django.db.models.functions import Left
from django.db.models.lookups import Exact

from newsletter.config import Config
from newsletter.content.lists import covers, load_lists
from newsletter.content.segments import Attribute, Segment, as_number, as_truth, ascii_lower, joined_between, kept_name
from newsletter.errors import NotFound
from newsletter.shape import nearest
from newsletter.store.models import Subscriber, SubscriberTag, Subscription


def parse_segment(config: Config, text: str) -> Segment:
    """The segment that a command line means: a name of lists.yaml, or `language=es` and `tag=board`, with commas
    between where all must hold.

    Raises `NotFound` for an unknown name, `ConfigError` for a broken lists.yaml.
    """
    segments = load_lists(config).segments
    if text in segments:
        return segments[text]
    languages: list[str] = []
    tags: list[str] = []
    for term in text.split(","):
        key, equals, value = (part.strip() for part in term.partition("="))
        try:
            if not equals or key not in ("language", "tag") or (key == "language" and languages):
                raise ValueError
            (languages if key == "language" else tags).append(kept_name(value))
        except ValueError:
            known = ", ".join(segments) or "there are none"
            raise NotFound(
                f'no segment "{text}"{nearest(text, segments)}; segments of {config.shown(config.lists)}: {known}; '
                "short ones can be written language=es or tag=board"
            ) from None
    blank = any(covers(each, config.default_language) for each in languages)
    return Segment(languages=tuple(languages), blank=blank, all_tags=tuple(tags))


def segment_query(segment: Segment | None, list_id: int, *, now: datetime | None = None) -> QuerySet[Subscriber]:
    """Who is subscribed to a list and meant by a segment (None: everybody), each once, in no order.

    May be filtered further, by ranges of ids or else. `now` is what "30 days ago" counts from. Suppressed people are
    among them: leaving them out is the ledger's business.
    """
    query = Subscriber.objects.filter(subscriptions__list_id=list_id, subscriptions__state="subscribed")
    return query.filter(_condition(segment, list_id, now or datetime.now(UTC))) if segment else query


def _condition(segment: Segment, list_id: int, now: datetime) -> Q:
    where = Q()
    if segment.languages:
        where &= _speaks(segment)
    if segment.any_tags:
        where &= Q(_tagged(segment.any_tags))
    for tag in segment.all_tags:
        where &= Q(_tagged((tag,)))
    if segment.no_tags:
        where &= ~Q(_tagged(segment.no_tags))
    for attribute in segment.attributes:
        where &= _attribute(attribute)
    start, end = joined_between(segment, now)
    if start or end:
        # Not a condition on the join above: under a `not` the ORM would ask for another subscription than that one.
        joined = Subscription.objects.filter(subscriber=OuterRef("pk"), list_id=list_id)
        joined = joined.filter(joined_at__gte=start) if start else joined
        where &= Q(Exists(joined.filter(joined_at__lt=end) if end else joined))
    for each in segment.all:
        where &= _condition(each, list_id, now)
    if segment.any:
        either = Q()
        for each in segment.any:
            either |= _condition(each, list_id, now)
        where &= either
    if segment.excluded:
        where &= ~_condition(segment.excluded, list_id, now)
    return where or Q(pk__isnull=False)  # a condition without parts is true, which an empty Q under a `not` is not


def _speaks(segment: Segment) -> Q:
    where = Q(language="") if segment.blank else Q()
    for language in map(ascii_lower, segment.languages):
        region = f"{language}-"
        where |= Q(Exact(_AsciiLower(F("language")), Value(language)))
        where |= Q(Exact(_AsciiLower(Left(F("language"), len(region))), Value(region)))
    return where


class _AsciiLower(Func):
    """The letters A to Z made small: SQLite's LOWER knows no others, PostgreSQL's does unless it is told not to."""

    function = "LOWER"
    output_field = TextField()

    def as_postgresql(self, compiler: Any, connection: Any, **_: Any) -> Any:
        return self.as_sql(compiler, connection, template='LOWER(%(expressions)s COLLATE "C")')


def _tagged(tags: Sequence[str]) -> Exists:
    return Exists(SubscriberTag.objects.filter(subscriber=OuterRef("pk"), tag__name__in=tags))


def _attribute(test: Attribute) -> Q:
    where = Q()
    if test.absent is not None:
        there = Q(_Holds(test.name))
        where &= ~there if test.absent else there
    if test.one_of:
        where &= Q(_Holds(test.name, one_of=test.one_of))
    for bound, limit in test.bounds:
        where &= Q(_Holds(test.name, operator=_OPERATORS[bound], limit=limit))
    return where


_OPERATORS = {"at_least": ">=", "at_most": "<=", "more_than": ">", "less_than": "<"}


class _Holds(Func):
    """Whether a person has an attribute that is not null and passes a test. Never NULL.

    SQLite turns the digits of a JSON number into a double in its own way, not always the nearest one. A limit goes the
    same way there, by a cast, so that equal digits stay equal. PostgreSQL compares exact decimals.
    """

    output_field = BooleanField()

    def __init__(
        self, name: str, *, one_of: tuple[str, ...] = (), operator: str = "", limit: Decimal | None = None
    ) -> None:
        super().__init__(F("attributes"))
        self.name, self.one_of, self.operator, self.limit = name, one_of, operator, limit

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, tuple[Any, ...]]:
        column, params = compiler.compile(self.source_expressions[0])
        number = "CAST(%s AS REAL)"
        if self.limit is not None:
            test, values = f"a.type IN ('integer', 'real') AND a.atom {self.operator} {number}", [str(self.limit)]
        elif self.one_of:
            numbers, truths = self._numbers(), self._truths()
            test = f"(a.type = 'text' AND a.atom IN ({_places(self.one_of)}))"
            if numbers:
                test += f" OR (a.type IN ('integer', 'real') AND a.atom IN ({_places(numbers, number)}))"
            if truths:
                test += f" OR a.type IN ({_places(truths)})"
            values = [*self.one_of, *numbers, *truths]
        else:
            test, values = "a.type <> 'null'", []
        sql = f"EXISTS (SELECT 1 FROM json_each({column}) AS a WHERE a.key = %s AND ({test}))"
        return sql, (*params, self.name, *values)

    def as_postgresql(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, tuple[Any, ...]]:
        column, params = compiler.compile(self.source_expressions[0])
        number, text = "%s::numeric", "(a.value #>> '{}')"
        if self.limit is not None:
            numeric, values = f"{text}::numeric {self.operator} {number}", [str(self.limit)]
            test = f"CASE jsonb_typeof(a.value) WHEN 'number' THEN {numeric} ELSE false END"
        elif self.one_of:
            numbers, truths = self._numbers(), self._truths()
            test = f"""CASE jsonb_typeof(a.value) WHEN 'string' THEN {text} COLLATE "C" IN ({_places(self.one_of)})"""
            if numbers:
                test += f" WHEN 'number' THEN {text}::numeric IN ({_places(numbers, number)})"
            if truths:
                test += f" WHEN 'boolean' THEN {text} IN ({_places(truths)})"
            test += " ELSE false END"
            values = [*self.one_of, *numbers, *truths]
        else:
            test, values = "jsonb_typeof(a.value) <> 'null'", []
        sql = f"EXISTS (SELECT 1 FROM (SELECT {column} -> %s::text AS value) AS a WHERE {test})"
        return sql, (*params, self.name, *values)

    def _numbers(self) -> list[str]:
        return [str(number) for text in self.one_of if (number := as_number(text)) is not None]

    def _truths(self) -> list[str]:
        truths = {as_truth(text) for text in self.one_of} - {None}
        return sorted("true" if truth else "false" for truth in truths)


def _places(values: Sequence[str], one: str = "%s") -> str:
    return ", ".join([one] * len(values))
