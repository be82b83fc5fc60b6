"""What a cell says: an address, a name, tags, attributes, a language, a time.

Blanks around a text and signs that cannot be seen are nobody's wish and go. What cannot be kept otherwise raises
`ValueError` with the reason, and is never changed in silence.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from sys import float_info
from typing import Any

from newsletter.config import Config
from newsletter.content.segments import DIGITS, INVISIBLE, Value, kept_attribute, kept_name
from newsletter.errors import Finding, InputError
from newsletter.shape import LANGUAGE, UNPRINTABLE
from newsletter.store.presets import LANGUAGES, folded

LONGEST_NAME = 200  # characters of a person's name
MOST_TAGS = 100  # of one person
MOST_ATTRIBUTES = 100


def truth(cell: str) -> bool | None:
    return {
        **dict.fromkeys(("true", "yes", "y", "1", "t", "x", "si", "oui", "ja", "sim", "on"), True),
        **dict.fromkeys(("false", "no", "n", "0", "f", "non", "nein", "nao", "nee", "off"), False),
    }.get(folded(cell))


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


_UNSEEN = f"{INVISIBLE}\0"


def tidy(text: str) -> str:
    """A person's name as it is stored: NFC, single blanks, without signs that cannot be seen."""
    if text.isascii() and text.isprintable() and "  " not in text:  # most names
        return text.strip(" ")
    text = " ".join(text.split())
    if text.isprintable() and unicodedata.is_normalized("NFC", text):  # what cannot be seen is not printable
        return text
    text = UNPRINTABLE.sub(" ", unicodedata.normalize("NFC", text).replace("\0", ""))
    return " ".join(text.strip(_UNSEEN).split())


def clean_address(cell: str) -> tuple[str, str]:
    """The address in a cell and the name beside it: `"Ana" <ana@example.org>`, `mailto:ana@example.org`.

    Raises `ValueError` for an empty cell and for several addresses; whether it is one is `key`'s to say.
    """
    text, name = cell.strip(_UNSEEN), ""
    if found := re.fullmatch(r"([^<>]*)<([^<>]*)>[\s.,;]*", text):
        name, text = found[1].strip(_UNSEEN).strip("\"'"), found[2]
    elif found := re.fullmatch(r"([^\s()]+@[^\s()]+)\s*\(([^()]*)\)", text):
        text, name = found[1], found[2]
    text = text.strip(f"{_UNSEEN}\"'<>")
    if text[:7].lower() == "mailto:":
        text = text[7:].partition("?")[0]
    text = text.rstrip(f"{_UNSEEN}.,;:").lstrip(f"{_UNSEEN},;:")
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
        if part.strip(_UNSEEN):
            try:
                tags.append(kept_name(part.strip(_UNSEEN)))
            except ValueError as error:
                raise ValueError(f"a tag {error}") from None
    return tags


def read_attributes(cell: str, *, own: bool = False) -> dict[str, Value]:
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
                large = own and type(plain) is int and 10**DIGITS <= abs(plain) <= float_info.max
                flat[kept(name, kept_name, name)] = kept(name, kept_attribute, float(plain) if large else plain)

    flatten("", held, 0)
    return flat


def _plain(value: object) -> Value:
    if isinstance(value, list | tuple):
        plain = all(isinstance(each, str | int | float) for each in value)
        return ", ".join(map(str, value)) if plain else json.dumps(value, default=str)
    return value if isinstance(value, str | int | float) else str(value)


def kept(name: str, keep: Callable[[Any], Any], value: object) -> Any:
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


class Languages:
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
        text = cell.strip(_UNSEEN).partition(".")[0].replace("_", "-").lower()
        if known := self._known.get(text):
            return known
        if named := LANGUAGES.get(folded(text)):
            return named
        if not LANGUAGE.fullmatch(text) or len(text) > 35:
            return ""
        first, *rest = text.split("-")
        sized = (part.upper() if len(part) == 2 else part.title() if len(part) == 4 else part for part in rest)
        return "-".join((first, *sized))


CODE = re.compile("[A-Za-z0-9-]{1,35}")
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
