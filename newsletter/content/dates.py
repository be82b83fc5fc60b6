"""Dates as people write them, in English and Spanish, and the week that a day belongs to.

A date of three numbers is read day first, as both languages of this package do (3/4/2017 is 3 April), unless only the
other order makes a date (11/19/2017), or it stands among such dates (`order_of`). Years lie between 1900 and 2100; two
digits mean 1969 to 2068, as POSIX has it.
A weekday, a time, a zone and a label ("Published:") may stand beside the date and change nothing: the day counts as
it is written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, timedelta

from newsletter.config import WEEKDAYS as WEEKDAY_NAMES

MONTHS: Mapping[str, tuple[str, ...]] = {
    "en": (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
    "es": (
        *("enero", "febrero", "marzo", "abril", "mayo", "junio"),
        *("julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"),
    ),
}
"""The months' names, January first, as they stand inside a sentence."""

WEEKDAYS: Mapping[str, tuple[str, ...]] = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "es": ("lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"),
}
"""The weekdays' names, Monday first, as they stand inside a sentence."""

_OTHER_MONTHS = {"sept": 9, "set": 9, "setiembre": 9}
_OTHER_WEEKDAYS = ("tues", "wednes", "thur", "thurs")


def issue_date(day: date, week_ends: str) -> date:
    """The date of the issue that a day's news goes to: the first `week_ends` ("sunday", …) on or after that day."""
    ahead = (WEEKDAY_NAMES.index(week_ends) - day.weekday()) % 7
    return day + timedelta(days=min(ahead, (date.max - day).days))


def parse_date(text: str) -> date | None:
    """The date that a text is, or None where the text is no date, an impossible one, or holds anything more."""
    found = find_date(text)
    return found[0] if found and not text[: found[1]].strip() and not text[found[2] :].strip(" .,;:") else None


def parse_day(text: str, near: date) -> date | None:
    """The date that a text is, also without its year ("Sunday, 19 November"): then the last such day up to a week after
    `near`. None where it is no date."""
    whole = parse_date(text)
    if whole or not any(sign.isdigit() for sign in text):
        return whole
    days = (parse_date(f"{text.strip(' .,')} {year}") for year in (near.year + 1, near.year, near.year - 1))
    return next((day for day in days if day and day <= near + timedelta(days=7)), None)


def find_date(text: str) -> tuple[date, int, int] | None:
    """The date that a text begins or ends with, and the slice of the text that says it; None where there is none.

    Weekday, time, label and brackets belong to the slice. Where a text begins and ends with a date, the first counts.
    """
    folded = _fold(text)
    first = len(folded) - len(folded.lstrip())
    for match in _WHOLE.finditer(folded[: first + _REACH]):
        day = _day(match)
        if day and match.start() == first:
            return day, match.start(), match.end()
    shift = max(0, len(folded) - _REACH)
    for match in _WHOLE.finditer(folded[shift:]):
        day = _day(match)
        if day and not folded[shift + match.end() :].strip(" .,;:"):
            return day, shift + match.start(), shift + match.end()
    return None


# --- day or month first ---

_month_first = ContextVar("_month_first", default=False)
_TWO_WAYS = re.compile(r"(?<![\w/.-])([0-9]{1,2})/([0-9]{1,2})/(?:[0-9]{4}|[0-9]{2})(?![\w/])")


@contextmanager
def order_of(text: str) -> Iterator[None]:
    """Within, a date like 05/07/2024 is read month first if that is how the text writes its others: some can be read in
    no other way (05/14/2024), and none only day first."""
    pairs = [(int(match[1]), int(match[2])) for match in _TWO_WAYS.finditer(text)]
    american = any(first <= 12 < second for first, second in pairs) and all(first <= 12 for first, _ in pairs)
    token = _month_first.set(american)
    try:
        yield
    finally:
        _month_first.reset(token)


# --- the table of forms ---

_REACH = 100  # no date with weekday, label, time and zone is longer


def _fold(text: str) -> str:
    """The text in lower case, without accents, any blank as a blank; each character stays where it is."""

    def one(sign: str) -> str:
        base = unicodedata.normalize("NFKD", sign)[:1].lower()
        return " " if sign.isspace() else base if len(base) == 1 else sign

    return "".join(map(one, text))


def _names(table: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, int]]:
    """Every name and its three-letter form, folded, with its number from 1."""
    for names in table.values():
        for number, name in enumerate(names, 1):
            yield _fold(name), number
            yield _fold(name)[:3], number


_MONTH_NUMBERS = {**dict(_names(MONTHS)), **_OTHER_MONTHS}


def _one_of(words: Mapping[str, int] | tuple[str, ...]) -> str:
    return "|".join(sorted(words, key=lambda word: (-len(word), word)))


_MONTH = rf"(?P<month>{_one_of(_MONTH_NUMBERS)})\b\.?"
_WEEKDAY = rf"(?:(?:{_one_of((*dict(_names(WEEKDAYS)), *_OTHER_WEEKDAYS))})\b\.?,?\s*)"
_DAY = r"(?P<day>[0-9]{1,2})(?:\s?(?:st|nd|rd|th)\b|\.?[o°]\b|\.?°|(?:er|ro|ero)\b|\.)?"
_YEAR = r"(?P<year>[0-9]{4}|['’]?[0-9]{2})(?![0-9])"
_OF = r"(?:\s*,?\s+(?:de\s+|del\s+|del\s+ano\s+|of\s+)?|\s*,\s*|[-/.])"

_FORMS = (
    r"(?P<year>[0-9]{4})(?P<sign>[-/.])(?P<month>[0-9]{1,2})(?P=sign)(?P<day>[0-9]{1,2})(?![0-9])",  # 2017-11-19
    r"(?P<day>[0-9]{1,2})\s?(?P<sign>[-/.])\s?(?P<month>[0-9]{1,2})\s?(?P=sign)\s?" + _YEAR,  # 19/11/2017, 19.11.17
    rf"(?:the\s+)?{_DAY}{_OF}{_MONTH}{_OF}{_YEAR}",  # 19 November 2017, 19-Nov-17, 1.º de octubre del 2017
    rf"(?P<first>primero)\s+de\s+{_MONTH}{_OF}{_YEAR}",  # primero de noviembre de 2017
    rf"{_MONTH}\s+(?:de\s+)?(?:the\s+)?{_DAY}{_OF}{_YEAR}",  # November 19, 2017, noviembre 19 de 2017
)
_LABEL = (
    r"(?:(?:first\s+)?(?:published|posted|date|dated|updated|issued|created)|(?:fecha(?:\s+de\s+publicacion)?)|publicad[oa]"
    r"|actualizad[oa]|creado)(?:\s*:\s*|\s+(?:on|el|el\s+dia)\s*:?\s+|\s+)(?:on\s+|el\s+)?"
)
_ZONE = r"(?:\s?(?:z|ut|utc|gmt|[ecmp][sd]t|cet|cest|bst|pet|art|clt|cot)\b|\s?(?:utc|gmt)?[+-][0-9]{2}:?[0-9]{2})"
_TIME = (
    r"(?:\s*(?:t|,|-|–|—|\||·|\bat\b|\ba\s+las\b)?\s*[0-9]{1,2}[:.][0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?"
    rf"\s?(?:[ap]\.?\s?m\b\.?|hrs?\b\.?|h\b\.?|horas\b)?{_ZONE}?)"
)


def _numbered(form: str, number: int) -> str:
    """A form with its groups renamed, so that all forms fit into one expression."""
    return re.sub(r"\(\?P(<|=)(\w+)([>)])", rf"(?P\1\g<2>{number}\3", form)


_DATE = "|".join(_numbered(form, number) for number, form in enumerate(_FORMS))
_WHOLE = re.compile(
    rf"(?<![\w/.-])(?:{_LABEL})?(?P<open>[(\[<])?{_WEEKDAY}?(?:el\s+)?(?:{_DATE})(?![0-9])"
    rf"(?:\s\(?{_WEEKDAY}\)?)?{_TIME}?(?(open)\s?[)\]>])(?![\w@])",
    re.ASCII,
)


def _day(match: re.Match[str]) -> date | None:
    groups = match.groupdict()
    number = next(number for number in range(len(_FORMS)) if groups[f"year{number}"])
    found = {name: groups.get(f"{name}{number}") for name in ("year", "month", "day", "first")}
    digits = (found["year"] or "").lstrip("'’")
    year = int(digits)
    if len(digits) == 2:
        year += 2000 if year < 69 else 1900
    month = _MONTH_NUMBERS.get(found["month"] or "") or int(found["month"] or 0)
    day = 1 if found["first"] else int(found["day"] or 0)
    if number == 1 and day <= 12 and (month > 12 or _month_first.get()):  # only the other order makes a date
        month, day = day, month
    if not 1900 <= year <= 2100:
        return None
    try:
        return date(year, month, day)
    except ValueError:
        return None
