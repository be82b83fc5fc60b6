"""subscribers/lists.yaml: the lists that people can join, and the segments that a mailing can be meant for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, cast

from newsletter.config import Config
from newsletter.content.segments import (
    Attribute,
    Bound,
    Moment,
    Segment,
    as_number,
    ascii_lower,
    kept_attribute,
    kept_name,
)
from newsletter.errors import ConfigError, Finding, Where
from newsletter.shape import Field, Reading, Record, Shape, Text, nearest, read_record
from newsletter.source import parse, read_text

LIST = Shape(
    name="list",
    fields=(
        Field(name="id", kind="word", required=True, help="Its name for us. Never change it once it has members."),
        Field(name="name", kind="line", required=True, help="Its name for readers."),
        Field(name="description", kind="line", help="What it brings and how often, for those who think of joining."),
        Field(
            name="double_opt_in",
            kind="boolean",
            default=True,
            help="Whether a sign-up counts only once it was confirmed by mail.",
        ),
        Field(
            name="private",
            kind="boolean",
            default=False,
            help="Whether only you put people on it: it is not offered on the pages, and its issues are not in the "
            "public archive.",
        ),
    ),
)

TAGS = Shape(
    name="tags",
    fields=tuple(
        Field(name=name, kind="value", many=True, default=(), help=help, example=f"{name}: [board, press]")
        for name, help in (
            ("any", "One of these tags or more."),
            ("all", "Every one of these tags."),
            ("none", "None of these tags."),
        )
    ),
)

ATTRIBUTE = Shape(
    name="attribute",
    fields=(
        Field(name="name", kind="value", required=True, help="Which attribute.", example="name: city"),
        Field(
            name="equals",
            kind="value",
            help="Its value, letter by letter: `lima` is not `Lima`. A number or true/false in the same way.",
            example="equals: Lima",
        ),
        Field(
            name="one_of",
            kind="value",
            many=True,
            default=(),
            help="One of these values.",
            example="one_of: [Lima, Cusco]",
        ),
        Field(name="absent", kind="boolean", help="true: the person has no such attribute. false: has one."),
        Field(name="at_least", kind="value", help="A number, this or more.", example="at_least: 18"),
        Field(name="at_most", kind="value", help="A number, this or less.", example="at_most: 65"),
        Field(name="more_than", kind="value", help="A number, more than this.", example="more_than: 0"),
        Field(name="less_than", kind="value", help="A number, less than this.", example="less_than: 2.5"),
    ),
)

JOINED = Shape(
    name="joined",
    fields=(
        Field(
            name="after",
            kind="value",
            help="After this day (of UTC), or in this last time.",
            example="after: 2017-01-31, or after: 30 days ago",
        ),
        Field(
            name="before",
            kind="value",
            help="Before this day (of UTC), or longer ago.",
            example="before: 2017-02-01, or before: 12 weeks ago",
        ),
    ),
)


def _condition(inner: Shape | None) -> Shape:
    """The parts of a condition, of which all must hold; `inner` is what it may be made of."""
    fields = [
        Field(
            name="languages",
            kind="language",
            many=True,
            default=(),
            help="One of these. `es` means `es-PE` as well; who has chosen none has the default language.",
            example="languages: [es]",
        ),
        Field(name="tags", kind=TAGS, help="What is tagged to the person.", example="tags: {any: [board, press]}"),
        Field(
            name="attributes",
            kind=ATTRIBUTE,
            many=True,
            default=(),
            help="What is known about the person, all of it.",
            example="attributes: [{name: city, equals: Lima}]",
        ),
        Field(name="joined", kind=JOINED, help="When the person joined the list.", example="joined: {after: 30 days}"),
    ]
    if inner:
        one = "{languages: [es]}, {tags: {any: [board]}}"
        fields += [
            Field(
                name="all",
                kind=inner,
                many=True,
                default=(),
                help="Conditions like this, all of which hold.",
                example=f"all: [{one}]",
            ),
            Field(
                name="any",
                kind=inner,
                many=True,
                default=(),
                help="Conditions like this, one of which holds.",
                example=f"any: [{one}]",
            ),
            Field(
                name="not",
                kind=inner,
                help="A condition like this that does not hold.",
                example="not: {tags: {any: [board]}}",
            ),
        ]
    return Shape(name="condition", fields=tuple(fields))


# Conditions may stand inside conditions, two deep: who needs more has two segments.
SEGMENT = _condition(_condition(_condition(None)))

LISTS = Shape(
    name="lists",
    fields=(
        Field(
            name="lists",
            kind=LIST,
            many=True,
            required=True,
            default=(),
            help="The lists.",
            example="lists: [{id: weekly, name: Weekly summary}]",
        ),
        Field(
            name="segments",
            kind=SEGMENT,
            keyed=True,
            default={},
            help="Named parts of a list, for `send --segment`. All that a segment says must hold.",
            example="segments: {spanish: {languages: [es]}}",
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class List:
    id: str
    name: Text
    description: Text
    double_opt_in: bool = True
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class Lists:
    """What lists.yaml says, in its order."""

    lists: Mapping[str, List]  # by id
    segments: Mapping[str, Segment]
    remarks: tuple[Finding, ...] = field(default=(), compare=False)  # doubts of the reader, no errors


def load_lists(config: Config) -> Lists:
    """The lists and segments of the workspace; without a file, the one list that newsletter.yaml names.

    Raises `ConfigError` with every problem of the file.
    """
    if not config.lists.exists():
        only = List(id=config.list, name=config.title, description={})
        return Lists(lists={only.id: only}, segments={})
    name = config.shown(config.lists)
    text, findings = read_text(config.lists, name=name, family="lists")
    reading = Reading(family="lists", languages=config.languages, findings=findings)
    if not findings:
        node, found = parse(text, name, family="lists")
        reading.findings += found
        if node is not None:
            read = _lists(read_record(node, LISTS, reading), config, reading)
            if not reading.failed:
                return read
        elif not found:
            reading.report("empty", Where(path=name), "is empty", "name a list: lists: [{id: weekly, name: Weekly}]")
    raise ConfigError(reading.findings)


def _lists(record: Record, config: Config, reading: Reading) -> Lists:
    lists: dict[str, List] = {}
    for index, each in enumerate(record["lists"]):
        id = each["id"]
        if id in lists:
            help = "give each list an id of its own"
            reading.report("twice", each.marks["id"], f"lists[{index}].id: there is a list {id} already", help)
        elif id:
            values = {**each.values, "description": each["description"] or {}, "name": each["name"] or {}}
            lists[id] = List(**values)
    segments = {name: _segment(each, f"segments.{name}", config, reading) for name, each in record["segments"].items()}
    return Lists(lists=lists, segments=segments, remarks=tuple(reading.findings))


def _segment(record: Record, at: str, config: Config, reading: Reading) -> Segment:
    """The segment of a record; what is wrong with it goes to `reading`."""
    before = len(reading.findings)
    tags: Mapping[str, Any] = record["tags"].values if record["tags"] else {}
    joined: Mapping[str, Any] = record["joined"].values if record["joined"] else {}
    where = record.marks

    def parts(name: str) -> tuple[Segment, ...]:
        conditions = enumerate(record.values.get(name, ()))
        return tuple(_segment(each, f"{at}.{name}[{index}]", config, reading) for index, each in conditions)

    excluded = record.values.get("not")
    for language in record["languages"]:
        if not any(covers(language, each) or covers(each, language) for each in config.languages):
            message = f"{at}.languages: {language} is not a language of this workspace"
            help = f"its languages: {', '.join(config.languages)} (newsletter.yaml, languages:)"
            reading.report("language", where["languages"], message + nearest(language, config.languages), help)
    segment = Segment(
        languages=record["languages"],
        blank=any(covers(language, config.default_language) for language in record["languages"]),
        any_tags=_names(tags.get("any", ()), f"{at}.tags.any", where.get("tags"), reading),
        all_tags=_names(tags.get("all", ()), f"{at}.tags.all", where.get("tags"), reading),
        no_tags=_names(tags.get("none", ()), f"{at}.tags.none", where.get("tags"), reading),
        attributes=tuple(
            _attribute(each, f"{at}.attributes[{index}]", reading) for index, each in enumerate(record["attributes"])
        ),
        joined_after=_moment(joined.get("after"), f"{at}.joined.after", where.get("joined"), reading),
        joined_before=_moment(joined.get("before"), f"{at}.joined.before", where.get("joined"), reading),
        all=parts("all"),
        any=parts("any"),
        excluded=_segment(excluded, f"{at}.not", config, reading) if excluded else None,
    )
    if segment == Segment() and len(reading.findings) == before and not _said(record.where, reading):
        reading.report("empty", record.where, f"{at}: says nothing, so that it would be everybody", _EMPTY)
    return segment


_EMPTY = "write at least one of languages, tags, attributes, joined; for everybody, send without a segment"


def _said(where: Where, reading: Reading) -> bool:
    """Whether something was found wrong at or below a place: an empty condition is then no news."""
    return any(each.where and each.where.line >= where.line for each in reading.findings)


def covers(language: str, other: str) -> bool:
    """Whether a language is meant by another: `es` covers `es-PE`."""
    language, other = ascii_lower(language), ascii_lower(other)
    return other == language or other.startswith(f"{language}-")


def _names(texts: tuple[str, ...], at: str, where: Where | None, reading: Reading) -> tuple[str, ...]:
    names = []
    for text in texts:
        try:
            names.append(kept_name(text))
        except ValueError as error:
            reading.report("value", cast("Where", where), f"{at}: {error}", "tags are short names, such as board")
    return tuple(dict.fromkeys(names))


def _attribute(record: Record, at: str, reading: Reading) -> Attribute:
    bounds: list[tuple[Bound, Decimal]] = []
    for bound in ("at_least", "at_most", "more_than", "less_than"):
        text = record[bound]
        number = as_number(text) if text else None
        if number is not None:
            bounds.append((bound, number))
        elif text:
            message = f"{at}.{bound}: {text} is no number"
            reading.report("value", record.marks[bound], message, "write digits and a point, at most 15: 18, -2.5")
    texts = (*((record["equals"],) if record["equals"] else ()), *record["one_of"])
    name, one_of = record["name"] or "", []
    try:
        name = kept_name(name) if name else ""
        one_of = [str(kept_attribute(text)) for text in texts]
    except ValueError as error:
        reading.report("value", record.where, f"{at}: {error}", "shorten it")
    if record["equals"] and record["one_of"]:
        message = f"{at}: has both equals and one_of"
        reading.report("value", record.marks["one_of"], message, "put all values into one_of")
    if name and not texts and not bounds and record["absent"] is None and set(record.marks) <= {"name"}:
        help = "write equals, one_of, absent, at_least, at_most, more_than or less_than"
        reading.report("empty", record.where, f"{at}: says nothing about {name}", help)
    return Attribute(name=name, one_of=tuple(one_of), bounds=tuple(bounds), absent=record["absent"])


_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_AGO = re.compile(r"(\d{1,4}) (day|week)s?( ago)?", re.ASCII)


def _moment(text: str | None, at: str, where: Where | None, reading: Reading) -> Moment | None:
    if not text:
        return None
    if ago := _AGO.fullmatch(text):
        return timedelta(days=int(ago[1]) * (7 if ago[2] == "week" else 1))
    try:
        day = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None or not 1900 <= day.year < 3000:
        message = f"{at}: {text} is no day and no time that has passed"
        reading.report("value", cast("Where", where), message, "write 2017-01-31, 30 days ago or 12 weeks ago")
        return None
    return day
