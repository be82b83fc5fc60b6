"""What a file of ours may hold: shapes of named fields, and the one reader that checks a file against its shape.

One table of `Field`s gives the reader, the canonical order of `newsletter format`, the JSON Schema and the generated
reference pages, so that none of them can disagree with another.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal
from urllib.parse import urlsplit

from newsletter.errors import AddressError, Finding, Severity, Where
from newsletter.headers import addr_spec
from newsletter.source import Entry, List, Map, Node, Scalar, visible

Kind = Literal[
    "line",  # one line of text, in one or several languages
    "markdown",  # Markdown, in one or several languages
    "string",  # one line, the same in every language
    "value",  # what stands there, be it a text, a number or a truth: read as its text
    "date",  # YYYY-MM-DD
    "integer",
    "number",
    "boolean",
    "word",  # letters, digits, hyphens: a name that other files refer to
    "choice",
    "language",  # BCP 47
    "url",
    "address",  # of a mailbox
    "colour",  # #rrggbb
]

Text = Mapping[str, str]
"""A text per language. A plain string in a file is the text of the default language."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One key of a shape. `many`: a list of them; `keyed`: a map from free names to them."""

    name: str
    kind: Kind | Shape
    help: str
    required: bool = False
    many: bool = False
    keyed: bool = False
    choices: tuple[str, ...] = ()
    default: Any = None
    example: str = ""


@dataclass(frozen=True, kw_only=True)
class Shape:
    name: str
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field | None:
        return next((each for each in self.fields if each.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Record:
    """The values of one shape as read, defaults filled in, and where each key stood (absent keys have no mark)."""

    values: Mapping[str, Any]
    marks: Mapping[str, Where]
    where: Where

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@dataclass(kw_only=True)
class Reading:
    """One reading of one file: what it is read against, and everything found wrong so far."""

    family: str  # first part of every code: "issue", "config"
    languages: tuple[str, ...]  # the first is the default; empty: any language
    language: str = ""  # what a plain string is in; "" means the default language
    findings: list[Finding] = field(default_factory=list)

    def report(self, code: str, where: Where, message: str, help: str = "", *, severity: Severity = "error") -> None:
        self.findings.append(
            Finding(code=f"{self.family}.{code}", severity=severity, where=where, message=message, help=help)
        )

    @property
    def failed(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def default_language(self) -> str:
        return self.language or (self.languages[0] if self.languages else "en")


def nearest(word: str, names: Iterable[str]) -> str:
    """' did you mean "x"?' for the most similar name, or "" when none is close."""
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return f', did you mean "{by_lower[close[0]]}"?' if close else ""


def read_record(node: Node, shape: Shape, reading: Reading, *, at: str = "") -> Record:
    """The record in `node`; whatever is wrong goes to `reading.findings`, and a wrong value counts as absent.

    `at` is how messages name the place inside the file: "stories[2]", or "" for the top.
    """
    prefix = f"{at}." if at else ""
    values: dict[str, Any] = {each.name: each.default for each in shape.fields}
    marks: dict[str, Where] = {}
    said: set[str] = set()  # keys that are there, with something wrong that has been reported
    if not isinstance(node, Map):
        names = ", ".join(each.name for each in shape.fields if each.required) or shape.fields[0].name
        help = f"write `key: value` lines ({names}, …)"
        reading.report("type", node.where, f"{at or 'the file'}: must be a map of keys, is {_is(node)}", help)
        return Record(values=values, marks=marks, where=node.where)
    for entry in node.entries:
        known = shape.field(entry.key)
        if known is None:
            keys = [each.name for each in shape.fields]
            help = f"known keys: {', '.join(keys)}"
            message = f"{prefix}{entry.key}: unknown key{nearest(entry.key, keys)}"
            reading.report("unknown-key", entry.where, message, help)
            continue
        marks[known.name] = entry.where
        if isinstance(entry.value, Scalar) and entry.value.empty:
            continue
        before = len(reading.findings)
        value = _read_field(entry, known, reading, f"{prefix}{known.name}")
        if value is not None:
            values[known.name] = value
        elif len(reading.findings) > before:
            said.add(known.name)
    for each in shape.fields:
        if each.required and each.name not in said and values[each.name] in (None, (), {}):
            problem = "is empty" if each.name in marks else "is missing"
            help = f"{each.help} Example: {_example(each)}"
            reading.report("missing", marks.get(each.name, node.where), f"{prefix}{each.name}: {problem}", help)
    return Record(values=values, marks=marks, where=node.where)


def _read_field(entry: Entry, known: Field, reading: Reading, at: str) -> Any:
    node = entry.value
    if known.keyed:
        if not isinstance(node, Map):
            reading.report("type", node.where, f"{at}: must be a map of names, is {_is(node)}", "write `name: …` lines")
            return None
        read = {}
        for inner in node.entries:
            if not WORD.fullmatch(inner.key):
                reading.report(
                    "word", inner.where, f"{at}.{inner.key}: a name has only letters, digits, - and _", "rename it"
                )
            before = len(reading.findings)
            read[inner.key] = read_value(inner.value, known, reading, at=f"{at}.{inner.key}")
            if read[inner.key] is None and len(reading.findings) == before:
                reading.report("missing", inner.where, f"{at}.{inner.key}: is empty", _hint(known))
        return {name: value for name, value in read.items() if value is not None}
    if known.many:
        if not isinstance(node, List):
            help = f"write {known.name}: [one, two], or each on a line of its own behind a `- `"
            reading.report("type", node.where, f"{at}: must be a list, is {_is(node)}", help)
            return None
        if not node.items and known.default:
            reading.report("missing", node.where, f"{at}: is empty", _hint(known))
        items = (read_value(item, known, reading, at=f"{at}[{index}]") for index, item in enumerate(node.items))
        return tuple(item for item in items if item is not None)
    return read_value(node, known, reading, at=at)


def read_value(node: Node, known: Field, reading: Reading, *, at: str) -> Any:
    """One value of `known`'s kind, or None after saying what is wrong with it."""
    if isinstance(known.kind, Shape):
        return read_record(node, known.kind, reading, at=at)
    if known.kind in ("line", "markdown"):
        return _read_text(node, known, reading, at)
    if not isinstance(node, Scalar):
        reading.report("type", node.where, f"{at}: must be {_KIND_WORDS[known.kind]}, is {_is(node)}", _hint(known))
        return None
    text = node.text.strip()
    if not _clean(text, node.where, reading, at, known):
        return None
    value = _CONVERT[known.kind](text, known)
    if value is None:
        message = f"{at}: must be {_KIND_WORDS[known.kind]}, is {_shown(text)}{nearest(text, known.choices)}"
        if known.kind == "date" and _DAY.fullmatch(text):
            message = f"{at}: there is no such day as {text}"
        reading.report("value", node.where, message, _hint(known))
    return value


def _read_text(node: Node, known: Field, reading: Reading, at: str) -> Text | None:
    if isinstance(node, Scalar):
        text = _one_text(node, known, reading, at)
        return {reading.default_language: text} if text else None
    if isinstance(node, List):
        help = "write the text itself, or a map of languages"
        reading.report("type", node.where, f"{at}: must be a text, is {_is(node)}", help)
        return None
    read: dict[str, str] = {}
    for entry in node.entries:
        language = entry.key
        if reading.languages and language not in reading.languages:
            help = f"languages of this workspace: {', '.join(reading.languages)} (newsletter.yaml, languages:)"
            message = f"{at}.{language}: not a language of this workspace{nearest(language, reading.languages)}"
            reading.report("language", entry.where, message, help)
        elif not LANGUAGE.fullmatch(language):
            reading.report("language", entry.where, f"{at}.{language}: not a language code", "write en, es, pt-BR …")
        elif isinstance(entry.value, Scalar):
            text = _one_text(entry.value, known, reading, f"{at}.{language}")
            if text:
                read[language] = text
        else:
            message = f"{at}.{language}: must be a text, is {_is(entry.value)}"
            reading.report("type", entry.value.where, message, "write the text after the colon, or under a `|`")
    return read or None


# Mail programs cut a message at 100 KB, and the time that Markdown takes grows with the square of a text made for that.
_LONGEST: Mapping[Any, int] = {"line": 1_000, "markdown": 20_000}


def _one_text(node: Scalar, known: Field, reading: Reading, at: str) -> str:
    if node.empty:
        return ""
    if node.beside:
        message = f"{at}: {_shown(node.beside)} is a comment, and not part of the text"
        help = "put the text between quotes if it is; two blanks before the # say that it is not"
        reading.report("comment", node.where, message, help, severity="warning")
    text = node.text.strip()
    if known.kind == "line":
        text = " ".join(text.split("\n")) if "\n" in text else text
    longest = _LONGEST[known.kind]
    if len(text) > longest:
        message = f"{at}: is {len(text):,} characters long, and {longest:,} are the most"
        reading.report("too-long", node.where, message, "shorten it, or link to a page that has the rest")
        return ""
    return text if _clean(text, node.where, reading, at, known) else ""


# Control characters (but line ends and tabs), lone surrogates and noncharacters: none can be seen, all break something.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_FREE_SLOT = re.compile(r"@@NAME@@")
_SLOT_IN_URL = re.compile(r"://\S*@@")


def slot_problem(text: str) -> str:
    """Why the `@@` in a text of ours cannot stay (DESIGN: slots come from templates), or "" when all is well."""
    if "@@" not in text:
        return ""
    if "@@" in _FREE_SLOT.sub("", text):
        return "holds @@, which marks a slot, and only @@NAME@@ may stand in a text"
    return "holds a slot inside a URL" if _SLOT_IN_URL.search(text) else ""


def _clean(text: str, where: Where, reading: Reading, at: str, known: Field) -> bool:
    bad = UNPRINTABLE.search(text)
    if bad:
        reading.report(
            "control-character", where, f"{at}: holds the control character U+{ord(bad[0]):04X}", "delete it"
        )
        return False
    if known.kind != "markdown" and "\n" in text:
        reading.report("value", where, f"{at}: must stand on one line", _hint(known))
        return False
    problem = slot_problem(text)
    if not problem and "@@" in text and known.kind not in ("line", "markdown"):
        problem = "holds a slot, and only running text may"
    if problem:
        help = "the reader's name is @@NAME@@, links come from the templates; write `@ @` for the signs themselves"
        reading.report("slot", where, f"{at}: {problem}", help)
        return False
    return True


WORD = re.compile(r"[\w][\w-]{0,63}")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_HOST = re.compile(r"[^\s/?#@:\\\[\]]+|\[[0-9a-fA-F:.]+\]")


_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _date(text: str, _: Field) -> date | None:
    if not _DAY.fullmatch(text):
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _url(text: str, _: Field) -> str | None:
    """http or https with a host, no blanks, no quotes, no user name: what can stand in a message as a link."""
    if len(text) > 2000 or re.search(r"[\s\"<>\\^`{|}]", text):
        return None
    try:
        parts = urlsplit(text)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        return None
    good = (
        parts.scheme in ("http", "https") and parts.hostname and _HOST.match(parts.netloc) and "@" not in parts.netloc
    )
    return text if good and port_ok else None


def _address(text: str, _: Field) -> str | None:
    try:
        return text if addr_spec(text) else None
    except AddressError:
        return None


_CONVERT: Mapping[str, Any] = {
    "string": lambda text, _: text or None,
    "value": lambda text, _: text or None,
    "date": _date,
    "integer": lambda text, _: int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None,
    "number": lambda text, _: float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) else None,
    "boolean": lambda text, _: {"true": True, "yes": True, "false": False, "no": False}.get(text.lower()),
    "word": lambda text, _: text if WORD.fullmatch(text) else None,
    "choice": lambda text, known: text if text in known.choices else None,
    "language": lambda text, _: text if LANGUAGE.fullmatch(text) else None,
    "url": _url,
    "colour": lambda text, _: text.lower() if re.fullmatch(r"#[0-9a-fA-F]{6}", text) else None,
    "address": _address,
}

_KIND_WORDS: Mapping[str, str] = {
    "line": "a text",
    "markdown": "a text",
    "string": "a text",
    "value": "a text or a number",
    "date": "a date written as YYYY-MM-DD",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "word": "one word (letters, digits, - and _)",
    "choice": "one of the choices",
    "language": "a language code",
    "url": "a full http(s) address",
    "address": "a mail address",
    "colour": "a colour written as #rrggbb",
}

_KIND_EXAMPLES: Mapping[str, str] = {
    "date": "2017-11-19",
    "integer": "42",
    "number": "2.5",
    "boolean": "true",
    "word": "justice",
    "language": "es",
    "url": "https://example.org/story",
    "address": "news@example.org",
    "colour": '"#0b5563"',
}


def _hint(known: Field) -> str:
    if known.choices:
        return f"choices: {', '.join(known.choices)}"
    return f"{known.help} Example: {_example(known)}"


def _example(known: Field) -> str:
    if known.example:
        return known.example
    if isinstance(known.kind, Shape):
        inner = ", ".join(f"{each.name}: …" for each in known.kind.fields if each.required)
        return f"{known.name}: {'[{' if known.many else '{'}{inner}{'}]' if known.many else '}'}"
    value = known.choices[0] if known.choices else _KIND_EXAMPLES.get(known.kind, "…")
    return f"{known.name}: [{value}]" if known.many else f"{known.name}: {value}"


def _is(node: Node) -> str:
    if isinstance(node, Map):
        return "a map"
    if isinstance(node, List):
        return "a list"
    return "empty" if node.empty else _shown(node.text)


def _shown(text: str) -> str:
    return f'"{visible(text, longest=40)}"'


def json_schema(shape: Shape, *, title: str, languages: tuple[str, ...] = ()) -> dict[str, Any]:
    """The shape as a JSON Schema (draft 2020-12) for editors that complete and check YAML while one types."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **_object_schema(shape, languages),
    }


def _object_schema(shape: Shape, languages: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [each.name for each in shape.fields if each.required],
        "properties": {each.name: _field_schema(each, languages) for each in shape.fields},
    }


def _field_schema(known: Field, languages: tuple[str, ...]) -> dict[str, Any]:
    one: dict[str, Any]
    if isinstance(known.kind, Shape):
        one = _object_schema(known.kind, languages)
    elif known.kind in ("line", "markdown"):
        per_language: dict[str, Any] = {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "minProperties": 1,
        }
        if languages:
            per_language["additionalProperties"] = False
            per_language["properties"] = {language: {"type": "string"} for language in languages}
        one = {"anyOf": [{"type": "string"}, per_language]}
    else:
        one = dict(_KIND_SCHEMAS[known.kind])
        if known.choices:
            one["enum"] = list(known.choices)
    if known.many:
        one = {"type": "array", "items": one}
    if known.keyed:
        one = {"type": "object", "additionalProperties": one}
    return {"description": known.help, **one}


_KIND_SCHEMAS: Mapping[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "value": {"type": ["string", "number", "boolean"]},
    "date": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
    "integer": {"type": "integer", "minimum": 0},
    "number": {"type": "number", "minimum": 0},
    "boolean": {"type": "boolean"},
    "word": {"type": "string", "pattern": r"^\w[\w-]*$"},
    "choice": {"type": "string"},
    "language": {"type": "string", "pattern": f"^{LANGUAGE.pattern}$"},
    "url": {"type": "string", "format": "uri", "pattern": "^https?://"},
    "address": {"type": "string", "format": "email"},
    "colour": {"type": "string", "pattern": "^#[0-9a-fA-F]{6}$"},
}
