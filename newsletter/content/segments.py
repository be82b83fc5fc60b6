"""Who of a list is meant: conditions on language, tags, attributes and the day of joining.

What a segment means is said once, by `matches`, in plain Python; store/segments.py says the same in SQL, and a test
compares the two on both databases. What an attribute may hold is made for that (`kept_attribute`): SQLite and
PostgreSQL agree about every value that is kept.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Literal

from newsletter.shape import UNPRINTABLE

Value = str | int | float | bool
Bound = Literal["at_least", "at_most", "more_than", "less_than"]
Moment = date | timedelta
"""A day (of UTC), or so long ago."""

DIGITS = 15  # of a number: so many survive the way through a double, and compare alike everywhere
LONGEST_NAME = 100  # characters of a tag or of an attribute's name
LONGEST_VALUE = 1_000


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One test of one attribute. Every part that is set must hold."""

    name: str
    one_of: tuple[str, ...] = ()  # as written: "18" is the text 18 and the number, "true" the text and the truth
    bounds: tuple[tuple[Bound, Decimal], ...] = ()  # for numbers; a text is neither more nor less
    absent: bool | None = None  # True: nobody said; False: somebody did


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A condition. Every part that is set must hold."""

    languages: tuple[str, ...] = ()  # "es" means es-PE as well, "es-PE" only itself; "ES" is "es"
    blank: bool = False  # whether a person without a language is meant too: the default language is among them
    any_tags: tuple[str, ...] = ()
    all_tags: tuple[str, ...] = ()
    no_tags: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    joined_after: Moment | None = None  # that day itself is not after it
    joined_before: Moment | None = None
    all: tuple[Segment, ...] = ()
    any: tuple[Segment, ...] = ()
    excluded: Segment | None = None  # `not`: its parts do not all hold


def matches(
    segment: Segment,
    *,
    language: str,
    tags: Collection[str],
    attributes: Mapping[str, Value | None],
    joined_at: datetime,
    now: datetime,
) -> bool:
    """Whether a person who joined the list at `joined_at` is meant."""

    def inside(other: Segment) -> bool:
        return matches(other, language=language, tags=tags, attributes=attributes, joined_at=joined_at, now=now)

    start, end = joined_between(segment, now)
    return (
        (not segment.languages or _speaks(segment, language))
        and (not segment.any_tags or any(tag in tags for tag in segment.any_tags))
        and all(tag in tags for tag in segment.all_tags)
        and not any(tag in tags for tag in segment.no_tags)
        and all(_passes(test, attributes.get(test.name)) for test in segment.attributes)
        and (start is None or joined_at >= start)
        and (end is None or joined_at < end)
        and all(inside(each) for each in segment.all)
        and (not segment.any or any(inside(each) for each in segment.any))
        and not (segment.excluded and inside(segment.excluded))
    )


def _speaks(segment: Segment, language: str) -> bool:
    language = ascii_lower(language)
    if not language:
        return segment.blank
    return any(language == each or language.startswith(f"{each}-") for each in map(ascii_lower, segment.languages))


def ascii_lower(text: str) -> str:
    """The letters A to Z made small, and no other: what both databases can be told to do."""
    return text.encode().lower().decode()


def _passes(test: Attribute, value: Value | None) -> bool:
    if test.absent is not None and (value is None) is not test.absent:
        return False
    if test.one_of and not any(_equals(text, value) for text in test.one_of):
        return False
    number = None if value is None or isinstance(value, bool | str) else Decimal(repr(value))
    return all(number is not None and _COMPARE[bound](number, limit) for bound, limit in test.bounds)


_COMPARE = {
    "at_least": Decimal.__ge__,
    "at_most": Decimal.__le__,
    "more_than": Decimal.__gt__,
    "less_than": Decimal.__lt__,
}


def _equals(text: str, value: Value | None) -> bool:
    if isinstance(value, bool):
        return value is as_truth(text)
    if isinstance(value, int | float):
        return as_number(text) == Decimal(repr(value))
    return value == text


def joined_between(segment: Segment, now: datetime) -> tuple[datetime | None, datetime | None]:
    """The first instant at which somebody who is meant may have joined, and the first at which no more."""
    after, before = segment.joined_after, segment.joined_before
    if isinstance(after, date):
        after = after + timedelta(days=1)
    return _instant(after, now), _instant(before, now)


def _instant(moment: Moment | None, now: datetime) -> datetime | None:
    if isinstance(moment, date):
        return datetime.combine(moment, time(), UTC)
    return None if moment is None else now - moment


# --- values that every database understands alike ---------------------------------------------------------------------

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]{1,3})?", re.ASCII)
_WRITTEN = re.compile(r"(0|-?[1-9][0-9]*)(\.[0-9]*[1-9])?|-0\.[0-9]*[1-9]", re.ASCII)  # the one way to write a number


def as_number(text: str) -> Decimal | None:
    """The number that a text writes out, of at most 15 digits; None where it is no such number."""
    if not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    return number if len(number.normalize().as_tuple().digits) <= DIGITS else None


def as_truth(text: str) -> bool | None:
    """What `true`, `false`, `yes` and `no` say; None for any other text."""
    return {"true": True, "yes": True, "false": False, "no": False}.get(text.lower())


def kept_attribute(value: Value) -> Value:
    """An attribute's value as it is stored, so that it means the same in both databases and in a segment.

    Texts in NFC; a whole number of more than 15 digits as the text that it is (the number of a card, not an amount);
    other numbers to 15 digits. Raises `ValueError`, with what is wrong, for control characters, infinity, a value of
    over 1,000 characters.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        value = float(f"{value:.{DIGITS}g}")
        if not math.isfinite(value):
            raise ValueError("is no finite number")
        return value
    if isinstance(value, int):
        if abs(value) < 10**DIGITS:
            return value
        if abs(value) >= 10**LONGEST_VALUE:
            raise ValueError(f"has more than {LONGEST_VALUE:,} digits")
        return str(value)
    return _kept_text(value, LONGEST_VALUE)


def attribute_from_text(text: str) -> Value:
    """A value as a CSV cell or a command line gives it: a number or a truth where the text is the one way of writing
    it (18, -2.5, true), so that nothing is lost on the way back; else the text. Raises `ValueError` as above.
    """
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    if _WRITTEN.fullmatch(text) and as_number(text) is not None:
        value = float(text) if "." in text else int(text)
        if str(value) == text:
            return kept_attribute(value)
    return kept_attribute(text)


INVISIBLE = " \t\r\n\u00a0\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"
"""Signs around a cell or a word that nobody typed on purpose."""


def kept_name(text: str) -> str:
    """The name of a tag or of an attribute as it is stored: NFC, single blanks, nothing that cannot be seen around it.

    Raises `ValueError`.
    """
    name = _kept_text(" ".join(text.strip(INVISIBLE).split()), LONGEST_NAME)
    if not name:
        raise ValueError("is empty")
    return name


def _kept_text(text: str, longest: int) -> str:
    text = unicodedata.normalize("NFC", text)
    if bad := UNPRINTABLE.search(text):
        raise ValueError(f"holds the control character U+{ord(bad[0]):04X}")
    if len(text) > longest:
        raise ValueError(f"is longer than {longest:,} characters")
    return text
