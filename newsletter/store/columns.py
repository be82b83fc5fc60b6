"""What stands in the columns of a sheet, and what each of its rows says of a person.

`plan` finds out once what each column is; `Plan.reader` then reads a million rows with it. Whatever a row holds that
cannot be kept is a reason to reject the row, never to change it in silence; blanks around a text and signs that cannot
be seen are nobody's wish and go.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from newsletter.config import Config
from newsletter.content.segments import attribute_from_text, kept_name
from newsletter.errors import AddressError, Finding, InputError, Where
from newsletter.shape import LANGUAGE, nearest
from newsletter.store.cells import (
    CODE,
    LONGEST_NAME,
    MOST_ATTRIBUTES,
    Languages,
    clean_address,
    kept,
    kept_tags,
    moment,
    read_attributes,
    split_tags,
    tidy,
    truth,
)
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

    without = preset.without if preset and why != "its name" else frozenset()
    places = _guess(sheet, preset, without, chosen, frozenset(ignored | kept))
    if "email" not in places and not findings:
        seen = ", ".join(columns[:20]) if sheet.headed else "it has no line with names of columns"
        help = 'name it: --column email="…"' if sheet.headed else "put a first line above: email,name"
        report(f"no column holds addresses ({seen})", help)
    rest = [
        index
        for index, name in enumerate(columns)
        if (index not in places.values() or index in kept)
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


def _guess(
    sheet: Sheet, preset: Preset | None, without: frozenset[str], chosen: Mapping[str, int], taken: frozenset[int]
) -> dict[str, int]:
    """Field → column: what was chosen, what the preset says, what the names say, and what stands in the column."""
    folds = [folded(column) for column in sheet.columns]
    used = set(taken) | set(chosen.values())
    special = dict(preset.columns) if preset else {}
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


_LOOKS: Mapping[str, Callable[[str], bool]] = {
    "email": lambda cell: "@" in cell,
    "status": _known_status,
    "subscribed": lambda cell: truth(cell) is not None,
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
    spoken = Languages(config, doubts)
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
            said = truth(cell)
            if said is None:
                raise ValueError(f"{plan.sheet.columns[at_subscribed]} is neither true nor false")
            found.append("subscribed" if said else "unsubscribed")
        if at_unsubscribed is not None and (cell := row[at_unsubscribed].strip()) and truth(cell) is not False:
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
            language = (given if own and CODE.fullmatch(given) else spoken.of(given)) or default_language
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
            values = read_attributes(row[at_attributes], own=own) if at_attributes is not None else {}
            for place, attribute in plan.attributes.items():
                if text := row[place].strip():
                    values[attribute] = kept(attribute, attribute_from_text, text)
            if len(values) > MOST_ATTRIBUTES:
                raise ValueError(f"has more than {MOST_ATTRIBUTES} attributes")
            attributes = json.dumps(values) if values else ""
        return found, address, name, language, attributes, marked, wishes, reason

    return person
