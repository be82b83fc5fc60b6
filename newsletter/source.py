"""YAML as editors write it, read with the place of every word and without YAML's traps.

A scalar stays the text that stands in the file: `no` is not False, `2017-11-19` is not a datetime, `0123` is not 83.
What a text means is decided by whoever asks for it (shape.py). Aliases, anchors and tags are refused, so that no file
can grow beyond its own size or name a Python object; nesting and size are bounded. Reading is PyYAML's C parser,
event by event.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from newsletter.errors import Finding, Where

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 16
MAX_NODES = 50_000  # keys, texts, lists and maps; an issue of 200 stories in two languages has 6,000

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Scalar:
    text: str
    where: Where
    plain: bool  # written without quotes and not as a block: only then can it mean "nothing"
    beside: str = ""  # a comment one blank behind a plain text: perhaps meant to belong to it ("Calle 5 # 10")

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
    """The text of a UTF-8 file (a byte order mark is dropped, line ends become \\n), or "" and the finding that says
    why not.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return "", [_problem(family, "not-found", Where(path=name), "there is no such file", "check the name")]
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        folder = isinstance(error, IsADirectoryError)
        help = "give the name of a file" if folder else "check its name and its permissions"
        return "", [_problem(family, "unreadable", Where(path=name), f"cannot be read: {reason}", help)]
    return decode(raw, name, family=family)


def decode(raw: bytes, name: str, *, family: str = "file") -> tuple[str, list[Finding]]:
    """`read_text` for bytes at hand."""
    if len(raw) > MAX_BYTES:
        limit = f"larger than {MAX_BYTES // 1024 // 1024} MiB"
        return "", [_problem(family, "too-large", Where(path=name), limit, "split it: one file holds one week")]
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "", [_problem(family, "encoding", Where(path=name), "is UTF-16, not UTF-8", "save it as UTF-8")]
    try:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = one_line_end(raw[: error.start].decode("utf-8"))
        where = Where(path=name, line=before.count("\n") + 1, column=len(before) - before.rfind("\n"))
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
    text = one_line_end(text)
    reader = _Reader(name, family, first_line, text)
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
        slip = _syntax(error, text, reader)
        if all(
            each.where is None or slip.where is None or each.where.line != slip.where.line for each in reader.findings
        ):
            reader.findings.append(slip)  # else what is wrong with the line has been said
    except yaml.YAMLError as error:  # ReaderError has no marks; its text is plain enough
        reader.report("syntax", Where(path=name), f"is not valid YAML: {error}", "compare it with a file that works")
    except _GiveUp:
        pass
    return None, reader.findings


# What YAML 1.2 forbids in a stream (§5.1), but for the characters that libyaml itself lets through.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


# Blanks and joiners that no editor shows: they come out of word processors and web pages.
_INVISIBLE = re.compile("[\xa0\xad\u1680\u180e\u2000-\u200f\u202a-\u202f\u205f-\u2064\u3000\ufeff]")
_MAX_KEY = 100


def visible(text: str, *, longest: int = 60) -> str:
    """A text of the file as a message may show it: one line, cut, with nothing in it that a terminal would obey."""
    line = " ".join(text.split())
    line = f"{line[:longest]}…" if len(line) > longest else line
    return "".join(sign if sign.isprintable() else "�" for sign in line)


def _named(sign: str) -> str:
    return f"U+{ord(sign):04X} ({unicodedata.name(sign, 'a control character').lower()})"


def _key_problem(key: Node) -> tuple[str, str] | None:
    """Why no key can be written like this, and what to do."""
    if not isinstance(key, Scalar):
        return "a key must be a word", "write `name: value`"
    text = key.text
    if not text:
        return "a colon without a key before it", "write `name: value`"
    if len(text) > _MAX_KEY:
        return (
            f'"{visible(text)}" is too long for a key',
            "put a text that has `: ` in it between quotes, or under a `|`",
        )
    odd = next((sign for sign in text if not sign.isprintable()), None)
    return (f'{_named(odd)} in the key "{visible(text)}"', _TYPE_SPACE) if odd else None


class _GiveUp(Exception):
    pass


class _Reader:
    """Builds nodes from parser events; a class because every step adds to `findings`."""

    def __init__(self, name: str, family: str, first_line: int, text: str) -> None:
        self.name, self.family, self.first_line = name, family, first_line
        self.lines = text.split("\n")
        self.findings: list[Finding] = []
        self.nodes = 0
        self.open: list[Any] = []  # where each bracket stands that is not closed yet
        self.quoted: Any = None  # the last text in quotes that goes over several lines: its quote may be a slip

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

    def scalar(self, event: Any, where: Where) -> Scalar:
        plain = event.style in (None, "")
        end = event.end_mark
        beside = ""
        if plain and end.line < len(self.lines):
            hashed = _HASH.match(self.lines[end.line], end.column)
            if hashed:
                place = Where(path=self.name, line=end.line + self.first_line, column=hashed.start(1) + 1)
                message = f"{visible(hashed[1])} begins a comment: it and the rest of the line is left out"
                help = 'put the text between quotes: "… #…"; a comment has a space after its #'
                self.report("comment", place, message, help)
            elif near := _NEAR_HASH.match(self.lines[end.line], end.column):
                beside = near[1].rstrip()
        elif not plain and event.style in "\"'" and event.start_mark.line < end.line:
            self.quoted = event
        return Scalar(text=event.value, where=where, plain=plain, beside=beside)

    def node(self, event: Any, events: Iterator[yaml.Event], depth: int) -> Node:
        where = self.place(event.start_mark)
        if depth > MAX_DEPTH:
            self.report("too-deep", where, f"is nested more than {MAX_DEPTH} levels deep", "no file of ours needs that")
            raise _GiveUp
        self.nodes += 1
        if self.nodes > MAX_NODES:
            message = f"holds more than {MAX_NODES:,} keys and texts"
            self.report("too-large", where, message, "split it: one file holds one week")
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
            self.report("tag", where, f"{visible(event.tag)} is a YAML tag, and tags are not used here", help)
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event, where)
        if event.flow_style:
            self.open.append(event.start_mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items = tuple(self.node(inner, events, depth + 1) for inner in _until(events, yaml.SequenceEndEvent))
            self.close(event)
            return List(items=items, where=where, flow=bool(event.flow_style))
        entries: dict[str, Entry] = {}
        for inner in _until(events, yaml.MappingEndEvent):
            key = self.node(inner, events, depth + 1)
            value = self.node(next(events), events, depth + 1)
            problem = _key_problem(key)
            word = key.text if isinstance(key, Scalar) else ""
            if problem:
                self.report("key", key.where, *problem)
            elif word in entries:
                first = entries[word].where
                self.report(
                    "duplicate-key",
                    key.where,
                    f"{word}: stands twice here; the first is in line {first.line}",
                    "keep one of them (they may hold different texts)",
                )
            else:
                entries[word] = Entry(key=word, where=key.where, value=value)
        self.close(event)
        return Map(entries=tuple(entries.values()), where=where, flow=bool(event.flow_style))

    def close(self, event: Any) -> None:
        if event.flow_style:
            self.open.pop()


def _until(events: Iterator[yaml.Event], end: type) -> Iterator[yaml.Event]:
    for event in events:
        if isinstance(event, end):
            return
        yield event


def _problem(family: str, code: str, where: Where, message: str, help: str) -> Finding:
    return Finding(code=f"{family}.{code}", severity="error", where=where, message=message, help=help)


# What libyaml says, whether the slip is where its complaint begins or where it ends, what it means, what to do. The
# first pattern found in the parser's words counts.
_MEANINGS: tuple[tuple[str, bool, str, str], ...] = (
    (
        r"mapping values are not allowed",
        False,
        "a colon where no key can stand",
        "put a text that has `: ` in it between quotes, or under a `|`",
    ),
    (
        r"block sequence entries are not allowed",
        False,
        "a list cannot begin here",
        "begin it on a line of its own, or put the text between quotes",
    ),
    (r"mapping keys are not allowed", False, "a text cannot begin with a question mark", 'quote it: "? …"'),
    (
        r"while scanning a block scalar",
        False,
        "text after the sign that begins a block",
        "begin the text on the next line; if the sign belongs to the text, put it between quotes",
    ),
    (
        r"escape|hexdecimal|Unicode character code",
        False,
        "a backslash inside double quotes that means nothing",
        "write the text between single quotes, or each backslash twice",
    ),
    (r"quoted scalar", True, "a quote that is never closed", "add the closing quote"),
    (r"alias", True, "a text that begins with a star", 'put it between quotes: "*…"'),
    (r"anchor", True, "a text that begins with an ampersand", 'put it between quotes: "&…"'),
    (r"directive|percent", True, "a text that begins with a percent sign", 'put it between quotes: "%…"'),
    (r"tag|shorthand", True, "a text that begins with an exclamation mark", 'put it between quotes: "!…"'),
    (
        r"block (mapping|collection)|did not find expected key|did not find expected '-' indicator",
        False,
        "this line does not fit what stands above it",
        "indent it like its neighbours (a text under a `|` like its first line); a new story begins with `- `",
    ),
    (
        r"document start",
        False,
        "text after the end of the document",
        "indent it, or remove the line `...` or `---` above it",
    ),
)

_TYPE_SPACE = "delete it; where a space belongs, type an ordinary one"
_ODD_SPACE = re.compile(rf"(?:^ *|^ *- *|^ *(?:- +)?[\w-]+:)({_INVISIBLE.pattern})")
_HASH = re.compile(r"[ \t]+(#[^\s#]\S*)")
_NEAR_HASH = re.compile(r" (#[ \t].*)")


def _syntax(error: yaml.MarkedYAMLError, text: str, reader: _Reader) -> Finding:
    """The parser's complaint in an editor's words, at the slip itself, which often stands above the place it names."""
    words = f"{error.context or ''} {error.problem or ''}".strip()
    mark = error.problem_mark or error.context_mark
    if mark is None:
        help = "compare it with a file that works"
        return _problem(reader.family, "syntax", Where(path=reader.name), f"is not valid YAML: {words}", help)
    begin = error.context_mark or mark
    lines = text.split("\n")
    here = lines[mark.line] if mark.line < len(lines) else ""
    above = mark.line - 1
    while above > 0 and (not lines[above].strip() or lines[above].lstrip().startswith("#")):
        above -= 1

    def found(line: int, column: int, message: str, help: str, code: str = "syntax") -> Finding:
        where = Where(path=reader.name, line=line + reader.first_line, column=column + 1)
        return _problem(reader.family, code, where, message, help)

    conflict = re.search(r"^<{7} ", text, re.MULTILINE)
    if conflict:
        help = "keep what is right of both sides, and delete the lines of <<<<<<<, ======= and >>>>>>>"
        return found(text.count("\n", 0, conflict.start()), 0, "a conflict that git could not merge", help, "conflict")
    tab = re.match(r"[ \t]*?(?=\t)", here)
    if tab or here[mark.column : mark.column + 1] == "\t":
        return found(
            mark.line, tab.end() if tab else mark.column, "a tab in the indentation", "indent with spaces", "tab"
        )
    for line in dict.fromkeys((mark.line, begin.line, above)):
        odd = _ODD_SPACE.match(lines[line]) if 0 <= line < len(lines) else None
        if odd:
            return found(line, odd.start(1), f"{_named(odd[1])} where an ordinary space belongs", _TYPE_SPACE, "space")
    if reader.quoted and reader.quoted.end_mark.line == mark.line:
        start = reader.quoted.start_mark
        message = f"a quote that is only closed by the next one, in line {mark.line + reader.first_line}"
        return found(start.line, start.column, message, "add the closing quote")
    if re.search("cannot start any token|expected node content", words) and here[mark.column : mark.column + 1].strip():
        sign = here[mark.column]
        return found(mark.line, mark.column, f"a text cannot begin with {sign}", f'put it between quotes: "{sign}…"')
    before = here[: mark.column].rstrip()
    if "mapping values" in words and not re.search(r":\s", before) and above >= 0:
        # This line's own first colon: the line above it has not ended as a key and a value.
        upper = lines[above]
        start = re.match(r" *(?:- +)*", upper)
        column = start.end() if start else 0
        if re.match(r" *-[^\s-]", upper):
            return found(above, column + 1, "no space after the dash", "write `- ` and the text")
        if re.search(r":(\s|$)", upper):
            help = "indent it like its neighbours; a text of several lines goes under a `|`"
            return found(mark.line, len(here) - len(here.lstrip()), "is indented deeper than the line above it", help)
        return _no_colon(above, column, upper, found)
    if "expected key" in words and before.endswith(('"', "'")):
        help = "put the whole text between the other kind of quotes"
        return found(mark.line, mark.column, "text after the closing quote", help)
    if "expected key" in words and before.endswith(("]", "}")):
        help = "put a text that begins with a bracket between quotes; else delete what is too much"
        return found(mark.line, mark.column, "text after the closing bracket", help)
    if "flow" in words:
        begin = reader.open[-1] if reader.open else begin
        if begin.line == mark.line:
            help = "put a comma between two entries, and a text with commas or colons between quotes"
            return found(mark.line, mark.column, "a comma or a closing bracket is missing here", help)
        message = f"a bracket that is not closed before line {mark.line + reader.first_line}, or a comma missing there"
        return found(begin.line, begin.column, message, "close it")
    if "expected key" in words and here[mark.column : mark.column + 1] == ":":
        return found(mark.line, mark.column, "a colon without a key before it", "write `key: value`")
    if "could not find expected ':'" in words and begin.line < len(lines):
        return _no_colon(begin.line, begin.column, lines[begin.line], found)
    for pattern, at_begin, message, help in _MEANINGS:
        if re.search(pattern, words):
            place = begin if at_begin else mark
            return found(place.line, place.column, message, help)
    return found(mark.line, mark.column, f"is not valid YAML: {words}", "compare it with a file that works")


def _no_colon(line: int, column: int, text: str, found: Callable[[int, int, str, str], Finding]) -> Finding:
    tight = re.compile(r"[\w-]+:(?=[^\s:])").match(text, column)
    if tight:
        return found(line, tight.end(), "no space after the colon", "write `key: value`")
    return found(
        line, column, "a key without its colon", "write `key: value`; a text under a `|` stands deeper than its key"
    )
