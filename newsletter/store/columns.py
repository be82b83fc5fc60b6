"""What stands in the columns of a sheet, and what each of its rows says of a person.

`plan` finds out once what each column is; `Plan.reader` then reads a million rows with it. Whatever a row holds that
cannot be kept is a reason to reject the row, never to change it in silence; blanks around a text and signs that cannot
be seen are nobody's wish and go.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from newsletter.config import Config
from newsletter.content.segments import DIGITS, Value, attribute_from_text, kept_attribute, kept_name
from newsletter.errors import AddressError, Finding, InputError, Where
from newsletter.shape import LANGUAGE, UNPRINTABLE, nearest
from newsletter.store.presets import (
    FAMILY_NAMES,
    FIELDS,
    LANGUAGES,
    NAMES,
    OURS,
    OWN,
    PRESETS,
    STATUSES,
    WEAK,
    Preset,
    folded,
    recognise,
    status_of_file,
)
from newsletter.store.sheets import REJECT_COLUMNS, Sheet, looks_like_address

LONGEST_NAME = 200  # characters of a person's name
MOST_TAGS = 100  # of one person
MOST_ATTRIBUTES = 100
MARK = "newsletter_export"  # the column that tells our own exports
_SUPPRESSIONS = {"bounced": "bounce", "complained": "complaint", "blocked": "manual"}
_STRICTNESS = {status: place for place, status in enumerate(OURS)}

Wish = tuple[str, str, str]
"""A list ("": the one that is imported into), the state of the subscription ("": there is none, the person is kept all
the same), when it was joined ("": now)."""

Person = tuple[bytes, str, str, str, str, tuple[int, ...], tuple[Wish, ...], str]
"""Key, address, name, language, attributes as JSON ("": none), numbers of tags, wishes, the reason of a suppression."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What whoever imports says about the file, in place of what would be guessed."""

    columns: Mapping[str, str] = field(default_factory=dict)  # field → column
    ignore: tuple[str, ...] = ()  # columns
    attributes: tuple[str, ...] = ()  # columns to be kept as attributes; ("all",) is every one not understood
    preset: str = ""  # "none": none, even if one is recognised
    status: str = ""  # of everybody in the file who has no stricter one
    language: str = ""  # of whoever has none
    tags: tuple[str, ...] = ()  # for everybody
    encoding: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sheet's columns mean, and what its file says of everybody in it."""

    sheet: Sheet
    preset: Preset | None
    why: str  # how the preset was recognised
    places: Mapping[str, int]  # field → column
    attributes: Mapping[int, str]  # column → name
    unused: tuple[str, ...]  # columns
    given_and_family: bool  # the column of the name holds the given name only
    status: str  # of everybody, from the file's name or the command line; ""
    guarded: bool  # cells carry the guard against formulas
    tags: tuple[str, ...]
    language: str

    @property
    def meanings(self) -> dict[str, str]:
        """Field → the name of its column, as reports show it."""
        return {field: self.sheet.columns[place] for field, place in self.places.items()}


def plan(sheet: Sheet, choices: Choices) -> Plan:
    """What the columns of a sheet mean. Raises `InputError` with every choice that does not fit it, or when no column
    holds addresses."""
    findings: list[Finding] = []
    columns = sheet.columns

    def report(message: str, help: str) -> None:
        where = Where(path=sheet.name)
        findings.append(Finding(code="subscribers.column", severity="error", where=where, message=message, help=help))

    def place(name: str, option: str) -> int | None:
        folds = [folded(column) for column in columns]
        if name in columns:
            return columns.index(name)
        if folds.count(folded(name)) == 1:
            return folds.index(folded(name))
        report(f"{option}: no column {name!r}{nearest(name, columns)}", f"its columns: {', '.join(columns)}")
        return None

    preset, why = _preset(sheet, choices, report)
    chosen: dict[str, int] = {}
    for each, name in choices.columns.items():
        if each not in FIELDS:
            report(f"--column {each}: not a field{nearest(each, FIELDS)}", f"fields: {', '.join(FIELDS)}")
        elif (found := place(name, "--column")) is not None:
            chosen[each] = found
    ignored = {found for name in choices.ignore if (found := place(name, "--ignore")) is not None}
    wanted = [name for name in choices.attributes if name not in ("all", "none")]
    kept = {found for name in wanted if (found := place(name, "--attributes")) is not None}
    if choices.status and choices.status not in OURS:
        report(f"--status {choices.status}: not a status{nearest(choices.status, OURS)}", f"write {', '.join(OURS)}")

    places = _guess(sheet, preset, chosen, frozenset(ignored | kept))
    if "email" not in places and not findings:
        seen = ", ".join(columns[:20]) if sheet.headed else "it has no line with names of columns"
        help = 'name it: --column email="…"' if sheet.headed else "put a first line above: email,name"
        report(f"no column holds addresses ({seen})", help)
    rest = [
        index
        for index, name in enumerate(columns)
        if index not in places.values()
        and index not in ignored
        and name not in REJECT_COLUMNS
        and folded(name) != folded(MARK)
    ]
    attributes: dict[int, str] = {}
    for index in rest:
        if index in kept or "all" in choices.attributes:
            try:
                attributes[index] = kept_name(columns[index])
            except ValueError as error:
                report(f"the column {columns[index][:40]!r} {error}", "give it another name, or --ignore it")
    if findings:
        raise InputError(findings)
    given = places.get("first_name")
    return Plan(
        sheet=sheet,
        preset=preset,
        why=why,
        places=places,
        attributes=attributes,
        unused=tuple(columns[index] for index in rest if index not in attributes),
        given_and_family=given is None and "name" in places and "last_name" in places,
        status=choices.status or status_of_file(preset, columns, sheet.file),
        guarded=preset is OWN or any(name in REJECT_COLUMNS for name in columns),
        tags=choices.tags,
        language=choices.language,
    )


def _preset(sheet: Sheet, choices: Choices, report: Callable[[str, str], None]) -> tuple[Preset | None, str]:
    if choices.preset == "none":
        return None, ""
    if not choices.preset:
        return recognise(sheet.columns, sheet.file)
    named = {each.name: each for each in PRESETS}
    if choices.preset not in named:
        hint = nearest(choices.preset, named)
        report(f"--preset {choices.preset}: there is none{hint}", f"presets: {', '.join(named)}, none")
        return None, ""
    return named[choices.preset], "your choice"


def _guess(sheet: Sheet, preset: Preset | None, chosen: Mapping[str, int], taken: frozenset[int]) -> dict[str, int]:
    """Field → column: what was chosen, what the preset says, what the names say, and what stands in the column."""
    folds = [folded(column) for column in sheet.columns]
    used = set(taken) | set(chosen.values())
    special = dict(preset.columns) if preset else {}
    without = preset.without if preset else frozenset()
    places: dict[str, int] = dict(chosen)

    def filled(index: int) -> list[str]:
        return [row[index].strip() for row in sheet.sample if len(row) > index and row[index].strip()]

    def fits(meaning: str, index: int) -> bool:
        cells = filled(index)
        test = _LOOKS.get(meaning)
        if test is None or not cells:
            return True
        alike = sum(map(test, cells))
        return alike > 0 if meaning in ("joined", "confirmed") else 2 * alike >= len(cells)

    def search(meaning: str) -> int | None:
        certain = meaning in special
        for name in special.get(meaning, NAMES.get(meaning, ())):
            strong = certain or meaning == name == "status"
            for index, column in enumerate(folds):
                free = column == name and index not in used
                if free and (strong or (name not in without and fits(meaning, index))):
                    return index
        return None

    for meaning in dict.fromkeys(("email", *special, *NAMES)):
        if meaning not in places and (index := search(meaning)) is not None:
            places[meaning] = index
            used.add(index)
    if "email" not in places:
        found = [index for index in range(len(folds)) if index not in used and filled(index)]
        found = [index for index in found if 2 * sum(map(looks_like_address, filled(index))) > len(filled(index))]
        likely = [index for index in found if "mail" in folds[index]] or [i for i in found if folds[i] in WEAK] or found
        if len(likely) == 1 or (likely and not sheet.headed):
            places["email"] = likely[0]
        elif named := [index for index, fold in enumerate(folds) if fold in NAMES["email"] and index not in used]:
            places["email"] = named[0]  # whatever stands in it
    given, name = places.get("first_name"), places.get("name")
    alone = given is not None and name is not None and "last_name" not in places
    if alone and folds[name or 0] in FAMILY_NAMES.get(folds[given or 0], ()):
        places["last_name"] = places.pop("name")
    return places


def _known_status(cell: str) -> bool:
    return folded(cell) in STATUSES


def _truth(cell: str) -> bool | None:
    return {
        **dict.fromkeys(("true", "yes", "y", "1", "t", "x", "si", "oui", "ja", "sim", "on"), True),
        **dict.fromkeys(("false", "no", "n", "0", "f", "non", "nein", "nao", "nee", "off"), False),
    }.get(folded(cell))


_LOOKS: Mapping[str, Callable[[str], bool]] = {
    "email": lambda cell: "@" in cell,
    "status": _known_status,
    "subscribed": lambda cell: _truth(cell) is not None,
    "joined": lambda cell: bool(moment(cell)),
    "confirmed": lambda cell: bool(moment(cell)),
    "attributes": lambda cell: cell.startswith("{"),
    "language": lambda cell: bool(LANGUAGE.fullmatch(cell.replace("_", "-").lower()) or folded(cell) in LANGUAGES),
}


# --- what a row says --------------------------------------------------------------------------------------------------


class Tags:
    """Numbers for the tags of one import, and the tags of each cell by them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._cells: dict[str, tuple[int, ...]] = {}

    def of(self, names: Sequence[str]) -> tuple[int, ...]:
        numbers = []
        for name in dict.fromkeys(names):
            number = self._numbers.get(name)
            if number is None:
                number = self._numbers[name] = len(self.names)
                self.names.append(name)
            numbers.append(number)
        return tuple(numbers)

    def of_cell(self, cell: str, *, exact: bool = False) -> tuple[int, ...]:
        known = self._cells.get(cell)
        if known is None:
            if len(self._cells) > 20_000:
                self._cells.clear()
            known = self._cells[cell] = self.of(split_tags(cell, exact=exact))
        return known


def reader(
    plan: Plan,
    config: Config,
    key: Callable[[str], bytes],
    *,
    consent: bool,
    tags: Tags,
    lists: Callable[[str], str],
    doubts: Counter[str],
) -> Callable[[list[str]], Person]:
    """A function from a row to the person in it. It raises `ValueError`, with the reason, for a row to be rejected.

    `consent`: everybody's was stated. `lists` checks the name of a list. `doubts` counts what was passed over in rows
    that are not rejected.
    """
    at = plan.places.get
    at_email = plan.places["email"]
    at_name, at_first, at_last = at("name"), at("first_name"), at("last_name")
    at_language, at_tags, at_attributes = at("language"), at("tags"), at("attributes")
    at_status, at_subscribed, at_unsubscribed = at("status"), at("subscribed"), at("unsubscribed")
    at_joined, at_confirmed, at_from = at("joined"), at("confirmed"), at("confirmed_from")
    at_list, at_suppressed = at("list"), at("suppressed")
    own = plan.preset is OWN
    signed_up = plan.preset is not None and plan.preset.proof
    statuses = {**STATUSES, **(plan.preset.statuses if plan.preset else {})}
    for_everybody = tags.of(kept_tags(plan.tags))
    spoken = _Languages(config, doubts)
    default_language = spoken.of(plan.language) if plan.language else ""
    has_attributes = at_attributes is not None or bool(plan.attributes)
    usual = ("subscribed" if consent else "unconfirmed") if plan.status in ("", "subscribed") else ""
    plain = all(each is None for each in (at_status, at_subscribed, at_unsubscribed, at_confirmed)) and usual
    usual_wishes: tuple[Wish, ...] = (("", usual, ""),) if usual else ()

    def status_of(row: list[str]) -> str:
        found = [plan.status] if plan.status else []
        if at_status is not None and (cell := row[at_status].strip()):
            word = statuses.get(folded(cell))
            if word is None:
                shown = "" if "@" in cell else f" {cell[:40]!r}"
                raise ValueError(f"the status{shown} is not known")
            found.append(word)
        if at_subscribed is not None and (cell := row[at_subscribed].strip()):
            truth = _truth(cell)
            if truth is None:
                raise ValueError(f"{plan.sheet.columns[at_subscribed]} is neither true nor false")
            found.append("subscribed" if truth else "unsubscribed")
        if at_unsubscribed is not None and (cell := row[at_unsubscribed].strip()) and _truth(cell) is not False:
            found.append("unsubscribed")
        return max(found, key=_STRICTNESS.__getitem__, default="subscribed")

    def time_in(row: list[str], place: int | None) -> str:
        if place is None or not (cell := row[place].strip()):
            return ""
        found = moment(cell)
        if not found:
            doubts[f'a time in "{plan.sheet.columns[place]}" was not understood'] += 1
        return found

    def proven(row: list[str], joined: str, confirmed: str) -> bool:
        if not confirmed or not signed_up:
            return bool(confirmed)
        return (at_from is not None and bool(row[at_from].strip())) or (bool(joined) and joined < confirmed)

    def told(row: list[str]) -> tuple[tuple[Wish, ...], str]:
        status = status_of(row)
        joined, confirmed = time_in(row, at_joined), time_in(row, at_confirmed)
        if status in _SUPPRESSIONS:
            return (), _SUPPRESSIONS[status]
        if status == "subscribed" and not consent and not proven(row, joined, confirmed):
            status = "unconfirmed"
        return (("", status, joined or confirmed),), ""

    def told_by_us(row: list[str]) -> tuple[tuple[Wish, ...], str]:
        state = row[at_status].strip() if at_status is not None else ""
        reason = row[at_suppressed].strip() if at_suppressed is not None else ""
        if state not in ("", "subscribed", "unconfirmed", "unsubscribed"):
            raise ValueError("the state is not one of subscribed, unconfirmed, unsubscribed")
        if reason not in ("", "bounce", "complaint", "manual"):
            raise ValueError("suppressed is not one of bounce, complaint, manual")
        if not state:
            return (("", "", ""),), reason
        joined = time_in(row, at_joined)
        return ((lists(row[at_list].strip()) if at_list is not None else "", state, joined),), reason

    def person(row: list[str]) -> Person:
        cell = row[at_email]
        name = ""
        try:
            if not cell.isascii():  # signs that cannot be seen are found below
                raise AddressError
            found = key(cell)
            address = cell.strip()
        except AddressError:
            address, name = clean_address(cell)
            found = key(address)
        if at_name is not None and (full := row[at_name]):
            name = tidy(full)
            if plan.given_and_family and (family := tidy(row[at_last or 0])) and not name.endswith(family):
                name = f"{name} {family}"
        elif at_first is not None or at_last is not None:
            parts = (row[place] for place in (at_first, at_last) if place is not None)
            name = tidy(" ".join(parts)) or name
        if len(name) > LONGEST_NAME:
            raise ValueError(f"the name is longer than {LONGEST_NAME} characters")
        if at_language is None:
            language = default_language
        else:
            given = row[at_language]
            language = (given if own else spoken.of(given)) or default_language
        if plain:
            wishes, reason = usual_wishes, ""
            if at_joined is not None and (joined := time_in(row, at_joined)):
                wishes = (("", usual, joined),)
        elif own:
            wishes, reason = told_by_us(row)
        else:
            wishes, reason = told(row)
        marked = for_everybody
        if at_tags is not None and (cell := row[at_tags]):
            marked = tags.of_cell(cell, exact=own) + for_everybody if for_everybody else tags.of_cell(cell, exact=own)
        attributes = ""
        if has_attributes:
            values = _read_attributes(row[at_attributes], own=own) if at_attributes is not None else {}
            for place, attribute in plan.attributes.items():
                if text := row[place].strip():
                    values[attribute] = _kept(attribute, attribute_from_text, text)
            if len(values) > MOST_ATTRIBUTES:
                raise ValueError(f"has more than {MOST_ATTRIBUTES} attributes")
            attributes = json.dumps(values) if values else ""
        return found, address, name, language, attributes, marked, wishes, reason

    return person


def kept_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags of a command line as they are stored. Raises `InputError` for one that cannot be kept."""
    kept = []
    for tag in tags:
        try:
            kept.append(kept_name(tag))
        except ValueError as error:
            message = f"the tag {tag[:100]!r} {error}"
            help = "tags are short names, such as board"
            found = Finding(code="subscribers.tag", severity="error", where=None, message=message, help=help)
            raise InputError([found]) from None
    return tuple(kept)


def tidy(text: str) -> str:
    """A person's name as it is stored: NFC, single blanks, without signs that cannot be seen."""
    if text.isascii() and text.isprintable() and "  " not in text:  # most names
        return text.strip(" ")
    text = " ".join(text.split())
    if text.isprintable() and unicodedata.is_normalized("NFC", text):  # what cannot be seen is not printable
        return text
    text = UNPRINTABLE.sub(" ", unicodedata.normalize("NFC", text).replace("\0", ""))
    return " ".join(text.strip(_INVISIBLE).split())


_INVISIBLE = " \t\r\n\0\u00a0\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"


def clean_address(cell: str) -> tuple[str, str]:
    """The address in a cell and the name beside it: `"Ana" <ana@example.org>`, `mailto:ana@example.org`.

    Raises `ValueError` for an empty cell and for several addresses; whether it is one is `key`'s to say.
    """
    text, name = cell.strip(_INVISIBLE), ""
    if found := re.fullmatch(r"([^<>]*)<([^<>]*)>[\s.,;]*", text):
        name, text = found[1].strip(_INVISIBLE).strip("\"'"), found[2]
    elif found := re.fullmatch(r"([^\s()]+@[^\s()]+)\s*\(([^()]*)\)", text):
        text, name = found[1], found[2]
    text = text.strip(f"{_INVISIBLE}\"'<>")
    if text[:7].lower() == "mailto:":
        text = text[7:].partition("?")[0]
    text = text.rstrip(f"{_INVISIBLE}.,;:").lstrip(f"{_INVISIBLE},;:")
    if not text:
        raise ValueError("no address")
    if text.count("@") > 1:
        raise ValueError("more than one address in a cell")
    return text, tidy(name) if "@" not in name else ""


def split_tags(cell: str, *, exact: bool = False) -> list[str]:
    """The tags of a cell: with commas, semicolons or bars between, in quotes inside the cell, or as a list in brackets.

    Raises `ValueError` for one that cannot be kept. `exact`: as our exports write them, with commas and quotes.
    """
    text = cell.strip()
    if not exact and text.startswith("[") and text.endswith("]"):
        listed = _literal(text)
        parts = [str(part) for part in listed] if isinstance(listed, list | tuple) else [text]
    elif exact or '"' in text:
        try:
            parts = next(csv.reader([text.replace("\r", " ").replace("\n", " ")], skipinitialspace=not exact), [])
        except csv.Error:
            raise ValueError("the tags cannot be read") from None
    else:
        parts = re.split("[;|]", text) if ";" in text or "|" in text else text.split(",")
    if len(parts) > MOST_TAGS:
        raise ValueError(f"has more than {MOST_TAGS} tags")
    tags = []
    for part in parts:
        if part.strip(_INVISIBLE):
            try:
                tags.append(kept_name(part.strip(_INVISIBLE)))
            except ValueError as error:
                raise ValueError(f"a tag {error}") from None
    return tags


def _read_attributes(cell: str, *, own: bool = False) -> dict[str, Value]:
    """Attributes written as JSON or as Python writes a dict; those inside one another get names with a dot.

    `own`: of our export, where a whole number of many digits is a large amount: PostgreSQL writes 1e16 so.
    """
    text = cell.strip()
    if not text or text in ("{}", "null", "None"):
        return {}
    held = _literal(text)
    if not isinstance(held, dict):
        raise ValueError("the attributes are neither JSON nor a Python dict")
    flat: dict[str, Value] = {}

    def flatten(prefix: str, values: dict[Any, Any], depth: int) -> None:
        for key, value in values.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict) and depth < 4:
                flatten(f"{name}.", value, depth + 1)
            elif value is not None:
                plain = _plain(value)
                large = own and type(plain) is int and 10**DIGITS <= abs(plain) < 10**300
                flat[_kept(name, kept_name, name)] = _kept(name, kept_attribute, float(plain) if large else plain)

    flatten("", held, 0)
    return flat


def _plain(value: object) -> Value:
    if isinstance(value, list | tuple):
        plain = all(isinstance(each, str | int | float) for each in value)
        return ", ".join(map(str, value)) if plain else json.dumps(value, default=str)
    return value if isinstance(value, str | int | float) else str(value)


def _kept(name: str, keep: Callable[[Any], Any], value: object) -> Any:
    try:
        return keep(value)
    except ValueError as error:
        shown = "" if "@" in name else f" {name[:40]!r}"
        raise ValueError(f"the attribute{shown} {error}") from None


def _literal(text: str) -> object:
    """What JSON or a Python literal holds; None for neither."""
    if len(text) > 50_000:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > 10_000 or text.count("-") + text.count("[") + text.count("(") + text.count("{") > 500:
        return None  # deep nesting costs the parser far more than its length
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value


class _Languages:
    """Languages as they are stored: as newsletter.yaml writes them, else in the usual form of a code."""

    def __init__(self, config: Config, doubts: Counter[str]) -> None:
        self._known = {language.lower(): language for language in config.languages}
        self._doubts = doubts
        self._seen: dict[str, str] = {"": ""}

    def of(self, cell: str) -> str:
        found = self._seen.get(cell)
        if found is None:
            found = self._read(cell)
            if len(self._seen) < 10_000:
                self._seen[cell] = found
        if not found and cell.strip():
            shown = repr(cell.strip()[:35]) if len(self._doubts) < 20 and "@" not in cell else "a word"
            self._doubts[f"{shown} is no language that is known"] += 1
        return found

    def _read(self, cell: str) -> str:
        text = cell.strip(_INVISIBLE).partition(".")[0].replace("_", "-").lower()
        if known := self._known.get(text):
            return known
        if named := LANGUAGES.get(folded(text)):
            return named
        if not LANGUAGE.fullmatch(text) or len(text) > 35:
            return ""
        first, *rest = text.split("-")
        sized = (part.upper() if len(part) == 2 else part.title() if len(part) == 4 else part for part in rest)
        return "-".join((first, *sized))


_DOTTED = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})(?:,? ([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?)?")


def moment(cell: str) -> str:
    """A time of the past in a cell as the database writes it, in UTC: "2024-05-31 17:20:00". "" for what is none.

    Understood are ISO 8601 in its variants, with a blank for the T or UTC at the end, 31.5.2024 with dots, and Unix
    seconds. A date such as 3/4/2024 has two meanings and is not guessed.
    """
    text = cell.strip()
    if len(text) < 8:
        return ""
    try:
        if text.isdigit() and len(text) in (10, 13):
            at = datetime.fromtimestamp(int(text[:10]), UTC)
        elif dotted := _DOTTED.fullmatch(text):
            day, month, year, hour, minute, second = (int(part or 0) for part in dotted.groups())
            at = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        else:
            at = datetime.fromisoformat(text.removesuffix(" UTC"))
            at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    if at.year < 1970 or at > datetime.now(UTC):
        return ""
    return str(at.replace(tzinfo=None))
