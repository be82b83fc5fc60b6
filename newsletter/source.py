"""YAML as editors write it, read with the place of every word and without YAML's traps.

A scalar stays the text that stands in the file: `no` is not False, `2017-11-19` is not a datetime, `0123` is not 83. What a
text means is decided by whoever asks for it (shape.py). Aliases, anchors and tags are refused, so that no file can grow
beyond its own size or name a Python object; nesting and size are bounded. Reading is PyYAML's C parser, event by event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from newsletter.errors import Finding, Where

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 16

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Scalar:
    text: str
    where: Where
    plain: bool  # written without quotes and not as a block: only then can it mean "nothing"

    @property
    def empty(self) -> bool:
        return self.plain and self.text in _NULLS


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    key: str
    where: Where  # of the key
    value: Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Map:
    entries: tuple[Entry, ...]
    where: Where
    flow: bool

    def get(self, key: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.key == key), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class List:
    items: tuple[Node, ...]
    where: Where
    flow: bool


Node = Scalar | Map | List


def read_text(path: Path, *, name: str | None = None, family: str = "file") -> tuple[str, list[Finding]]:
    """The text of a UTF-8 file (a byte order mark is dropped, line ends become \\n), or "" and the finding that says why not."""
    name = name or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return "", [_problem(family, "not-found", Where(path=name), "there is no such file", "check the name")]
    except OSError as error:
        reason = error.strerror or str(error)
        return "", [
            _problem(family, "unreadable", Where(path=name), f"cannot be read: {reason}", "check its permissions")
        ]
    return decode(raw, name, family=family)


def decode(raw: bytes, name: str, *, family: str = "file") -> tuple[str, list[Finding]]:
    """`read_text` for bytes at hand."""
    if len(raw) > MAX_BYTES:
        limit = f"larger than {MAX_BYTES // 1024 // 1024} MiB"
        return "", [_problem(family, "too-large", Where(path=name), limit, "split it: one file holds one week")]
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "", [_problem(family, "encoding", Where(path=name), "is UTF-16, not UTF-8", "save it as UTF-8")]
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        where = Where(path=name, line=before.count(b"\n") + 1, column=error.start - before.rfind(b"\n"))
        shown = raw[error.start : error.start + 1].decode("cp1252", "replace")
        return "", [
            _problem(
                family,
                "encoding",
                where,
                f"is not UTF-8: byte 0x{raw[error.start]:02x} ({shown!r} in Windows-1252)",
                "save the file as UTF-8",
            )
        ]
    return one_line_end(text), []


def one_line_end(text: str) -> str:
    """The text with \n as its only line end. NEL, LS and PS, which come from pasting and which YAML takes for line ends
    that no editor shows, become blanks: they would end a block in the middle of a sentence."""
    return re.sub("[\x85\u2028\u2029]", " ", re.sub(r"\r\n?", "\n", text))


def parse(text: str, name: str, *, family: str = "file", first_line: int = 1) -> tuple[Node | None, list[Finding]]:
    """The document in `text`, or None where it is empty or broken, and everything that is wrong with its form.

    `first_line` is the number of the text's first line in its file (front matter starts below a line of dashes).
    A duplicate key is a finding, and the first one counts. Never raises for what a text holds.
    """
    reader = _Reader(name, family, first_line)
    text = one_line_end(text)
    bad = _ILLEGAL.search(text)
    if bad:
        line = text.count("\n", 0, bad.start())
        column = bad.start() - (text.rfind("\n", 0, bad.start()) + 1)
        where = Where(path=name, line=line + first_line, column=column + 1)
        message = f"holds the control character U+{ord(bad[0]):04X}"
        return None, [_problem(family, "control-character", where, message, "delete it; it cannot be seen")]
    try:
        return reader.document(yaml.parse(text, Loader=_Loader)), reader.findings
    except yaml.MarkedYAMLError as error:
        reader.findings.append(_syntax(error, text, reader))
    except yaml.YAMLError as error:  # ReaderError has no marks; its text is plain enough
        reader.report("syntax", Where(path=name), f"is not valid YAML: {error}", "compare it with a file that works")
    except _GiveUp:
        pass
    return None, reader.findings


# What YAML 1.2 forbids in a stream (§5.1), but for the characters that libyaml itself lets through.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class _GiveUp(Exception):
    pass


class _Reader:
    """Builds nodes from parser events; a class because every step adds to `findings`."""

    def __init__(self, name: str, family: str, first_line: int) -> None:
        self.name, self.family, self.first_line = name, family, first_line
        self.findings: list[Finding] = []

    def report(self, code: str, where: Where, message: str, help: str) -> None:
        self.findings.append(_problem(self.family, code, where, message, help))

    def place(self, mark: Any) -> Where:
        return Where(path=self.name, line=mark.line + self.first_line, column=mark.column + 1)

    def document(self, events: Iterator[yaml.Event]) -> Node | None:
        node: Node | None = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents == 2:
                    self.report(
                        "documents",
                        self.place(event.start_mark),
                        "a second document starts here (---)",
                        "keep one document in a file",
                    )
                    raise _GiveUp
            elif isinstance(event, yaml.NodeEvent):
                node = self.node(event, events, 1)
        return None if isinstance(node, Scalar) and node.empty else node

    def node(self, event: Any, events: Iterator[yaml.Event], depth: int) -> Node:
        where = self.place(event.start_mark)
        if depth > MAX_DEPTH:
            self.report("too-deep", where, f"is nested more than {MAX_DEPTH} levels deep", "no file of ours needs that")
            raise _GiveUp
        if isinstance(event, yaml.AliasEvent):
            self.report(
                "alias",
                where,
                f"*{event.anchor} is a YAML alias, and aliases are not used here",
                'write the text out, or put it in quotes if it begins with a star: "*…"',
            )
            return Scalar(text="", where=where, plain=True)
        if event.anchor:
            help = 'write the text out, or put it in quotes if it begins with an ampersand: "&…"'
            self.report("alias", where, f"&{event.anchor} is a YAML anchor, and anchors are not used here", help)
        if event.tag not in (None, "!"):
            help = 'remove it, or put the text in quotes if it begins with an exclamation mark: "!…"'
            self.report("tag", where, f"{event.tag} is a YAML tag, and tags are not used here", help)
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(text=event.value, where=where, plain=event.style in (None, ""))
        if isinstance(event, yaml.SequenceStartEvent):
            items = tuple(self.node(inner, events, depth + 1) for inner in _until(events, yaml.SequenceEndEvent))
            return List(items=items, where=where, flow=bool(event.flow_style))
        entries: dict[str, Entry] = {}
        for inner in _until(events, yaml.MappingEndEvent):
            key = self.node(inner, events, depth + 1)
            value = self.node(next(events), events, depth + 1)
            if not isinstance(key, Scalar):
                self.report("key", key.where, "a key must be a plain word", "write `name: value`")
            elif key.text in entries:
                first = entries[key.text].where
                self.report(
                    "duplicate-key",
                    key.where,
                    f"{key.text}: stands twice here; the first is in line {first.line}",
                    "keep one of them (they may hold different texts)",
                )
            else:
                entries[key.text] = Entry(key=key.text, where=key.where, value=value)
        return Map(entries=tuple(entries.values()), where=where, flow=bool(event.flow_style))


def _until(events: Iterator[yaml.Event], end: type) -> Iterator[yaml.Event]:
    for event in events:
        if isinstance(event, end):
            return
        yield event


def _problem(family: str, code: str, where: Where, message: str, help: str) -> Finding:
    return Finding(code=f"{family}.{code}", severity="error", where=where, message=message, help=help)


# What libyaml says, what it means to an editor, what to do: the first pattern found in the parser's words counts.
_MEANINGS: tuple[tuple[str, str, str], ...] = (
    (
        r"mapping values are not allowed",
        "a colon where no key can stand",
        "put a text that has `: ` in it between quotes, or under a `|`; or give the line above its own colon",
    ),
    (
        r"block sequence entries are not allowed",
        "a list cannot begin here",
        "begin it on a line of its own, or quote the text",
    ),
    (
        r"escape",
        "a backslash inside double quotes that means nothing",
        "write the text between single quotes, or each backslash twice",
    ),
    (
        r"simple key.*could not find expected ':'|could not find expected ':'",
        "a key without its colon",
        "write `key: value`",
    ),
    (r"found unexpected end of stream.*quoted|quoted scalar", "a quote that is never closed", "add the closing quote"),
    (r"undefined alias|alias", "a text that begins with a star", 'put it between quotes: "*…"'),
    (r"anchor", "a text that begins with an ampersand", 'put it between quotes: "&…"'),
    (r"tag", "a text that begins with an exclamation mark", 'put it between quotes: "!…"'),
    (
        r"flow (mapping|sequence)|expected ',' or",
        "a bracket or brace that is never closed, or a missing comma",
        "close it",
    ),
    (
        r"block (mapping|collection)|did not find expected key|did not find expected '-' indicator",
        "this line does not fit what stands above it",
        "indent it like its neighbours; a text with quotes inside needs the other kind of quotes outside",
    ),
    (r"directive|percent", "a text that begins with a percent sign", 'put it between quotes: "%…"'),
    (r"document start", "text after the end of the document", "indent it, or remove the line `...` or `---` above it"),
)


def _syntax(error: yaml.MarkedYAMLError, text: str, reader: _Reader) -> Finding:
    mark = error.problem_mark or error.context_mark
    words = f"{error.context or ''} {error.problem or ''}".strip()
    lines = text.split("\n")
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    where = reader.place(mark) if mark else Where(path=reader.name)
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent or (mark and line[mark.column : mark.column + 1] == "\t"):
        return _problem(reader.family, "tab", where, "a tab in the indentation", "indent with spaces")
    if mark and "cannot start any token" in words and line[mark.column : mark.column + 1]:
        sign = line[mark.column]
        help = f'put the text between quotes: "{sign}…"'
        return _problem(reader.family, "syntax", where, f"a text cannot begin with {sign}", help)
    for pattern, meaning, help in _MEANINGS:
        if re.search(pattern, words):
            if "never closed" in meaning and error.context_mark:
                where = reader.place(error.context_mark)  # where it opens: the end of the file helps nobody
            return _problem(reader.family, "syntax", where, meaning, help)
    return _problem(reader.family, "syntax", where, f"is not valid YAML: {words}", "compare it with a file that works")
