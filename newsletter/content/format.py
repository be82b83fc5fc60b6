"""The one canonical text of an issue or blocks file: stable order, literal blocks, no line folding, every comment kept.

Nodes are written back as they were read, with their comments, so that nothing can be lost on the way; what comes out is
read again and compared before it is returned.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from newsletter.config import Config
from newsletter.content.issue import BLOCK, ISSUE, STORY, Block, Issue, Story, load_story, parse_blocks, parse_issue
from newsletter.errors import Finding, IssueError
from newsletter.shape import Field, Shape, Text
from newsletter.source import Entry, List, Map, Node, Scalar, one_line_end, parse

_WIDTH = 120  # a list of names longer than this is written one to a line


def format_issue(text: str, path: Path, config: Config) -> str:
    """The canonical text of an issue file. Raises IssueError where the file cannot be loaded: a broken file is left
    alone.
    """
    parse_issue(text, path, config)
    return _canonical(text, ISSUE, config.languages)


def format_blocks(text: str, path: Path, config: Config) -> str:
    """The canonical text of a blocks file. Raises IssueError where it cannot be loaded."""
    parse_blocks(text, config.shown(path), config)
    return _canonical(text, BLOCK, config.languages, keyed=True)


def format_story(text: str, path: Path, config: Config) -> str:
    """The canonical text of a story in a folder: front matter in order, one blank line, the Markdown as it is."""
    findings: list[Finding] = []
    if load_story(path, config, findings) is None:
        raise IssueError(findings)
    _, front, body = re.split(r"^---[ \t]*$\n?", text, maxsplit=2, flags=re.MULTILINE)
    return f"---\n{_canonical(front, STORY, config.languages)}---\n\n{body.strip()}\n"


def write_issue(issue: Issue, config: Config) -> str:
    """A new issue file."""
    return "".join(_Writer(config.languages).record(_issue_node(issue, config), ISSUE, 0))


def write_block(block: Block, config: Config) -> str:
    """A new entry for a blocks file."""
    values = {key: getattr(block, key) for key in ("style", "title", "text", "button", "url", "note")}
    node = _map([(block.name, _map(_nodes(values, BLOCK, config)))])
    return "".join(_Writer(config.languages).keyed(node, BLOCK, 0))


def add_stories(text: str, stories: Sequence[Story], path: Path, config: Config) -> str:
    """The issue file's text with stories added after those it has; every other line stays as the editor left it.

    Where the list of stories is written in brackets, the file is put into its canonical form first. Raises IssueError
    where the file cannot be loaded.
    """
    text = one_line_end(text)
    before = parse_issue(text, path, config)
    new = _items([_map(_story_nodes(story, config)) for story in stories])
    node = _top(text)
    entry = node.get("stories")
    own = len(entry.value.items) if entry and isinstance(entry.value, List) else 0  # the others are in the folder
    if node.flow or (entry and isinstance(entry.value, List) and (entry.value.flow or not entry.value.items)):
        text = _canonical(text, ISSUE, config.languages)
        node = _top(text)
        entry = node.get("stories")
    if entry is None or not isinstance(entry.value, List) or not entry.value.items:
        if entry:
            lines = text.split("\n")
            place = entry.where.line - 1
            comment = lines[place].partition("#")[1:]
            text = "\n".join([*lines[:place], *(["".join(comment)] if comment[0] else []), *lines[place + 1 :]])
            node = _top(text) if len(node.entries) > 1 else node
        added = "".join(_Writer(config.languages).record(_map([("stories", new)]), ISSUE, 0))
        later = node.get("blocks")
        result = _insert(text, later.where.line - 1 if later else text.count("\n") + 1, added)
    else:
        indent = entry.value.where.column - 1
        items = "".join(_Writer(config.languages).items(new, Field(name="stories", kind=STORY, help=""), indent))
        result = _insert(text, _end_of(entry, node, text), "\n" + items)
    after = parse_issue(result, path, config)
    expected = (*before.stories[:own], *stories, *before.stories[own:])
    if after.stories != expected or [b.name for b in after.blocks] != [b.name for b in before.blocks]:
        raise AssertionError(f"{path}: adding stories would have changed what stands there")
    return result


def _top(text: str) -> Map:
    node, _ = parse(text, "")
    assert isinstance(node, Map)
    return node


def _insert(text: str, line: int, added: str) -> str:
    lines = text.rstrip("\n").split("\n") if text.strip() else []
    line = min(line, len(lines))
    return "\n".join([*lines[:line], *added.rstrip("\n").split("\n"), *lines[line:]]) + "\n"


def _end_of(entry: Entry, top: Map, text: str) -> int:
    """How many lines come before the end of an entry's value: comments indented under it belong to it."""
    lines = text.split("\n")
    limit = next((each.where.line - 1 for each in top.entries if each.where.line > entry.where.line), len(lines))
    end = entry.where.line
    for token in yaml.scan(text, Loader=_LOADER):
        if token.start_mark.line < limit and not isinstance(token, _WITHOUT_TEXT):
            end = max(end, token.end_mark.line + (token.end_mark.column > 0))
    while not lines[end - 1].strip():
        end -= 1
    for number in range(end, limit):
        depth = len(lines[number]) - len(lines[number].lstrip())
        if lines[number].strip() and depth < entry.where.column:
            break
        end = number + 1 if lines[number].strip() else end
    return end


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Tokens that are marked where the next thing begins, however far below.
_WITHOUT_TEXT = (yaml.BlockEndToken, yaml.DocumentEndToken, yaml.StreamEndToken)


# --- nodes from values, for what is written new ---

_NOWHERE: Any = None


def _scalar(text: str) -> Scalar:
    return Scalar(text=text, where=_NOWHERE, plain=False)


def _map(pairs: Iterable[tuple[str, Node]]) -> Map:
    entries = tuple(Entry(key=key, where=_NOWHERE, value=value) for key, value in pairs)
    return Map(entries=entries, where=_NOWHERE, flow=False)


def _items(items: Iterable[Node]) -> List:
    return List(items=tuple(items), where=_NOWHERE, flow=False)


def _nodes(values: dict[str, Any], shape: Shape, config: Config) -> Iterator[tuple[str, Node]]:
    """Texts become plain strings where a workspace has one language, and maps where a translation may join them."""
    for known in shape.fields:
        value = values.get(known.name)
        if value in (None, (), {}):
            continue
        if isinstance(value, dict):
            yield known.name, _texts(value, config)
        elif isinstance(value, tuple):
            yield known.name, _items(_scalar(each) for each in value)
        else:
            yield known.name, _scalar(value.isoformat() if isinstance(value, date) else str(value))


def _texts(text: Text, config: Config) -> Node:
    if len(config.languages) == 1 and tuple(text) == config.languages:
        return _scalar(text[config.default_language])
    return _map((language, _scalar(words)) for language, words in text.items())


def _story_nodes(story: Story, config: Config) -> list[tuple[str, Node]]:
    values = {key: getattr(story, key) for key in ("title", "date", "section", "url", "source", "summary", "collected")}
    nodes = dict(_nodes(values, STORY, config))
    if story.image:
        alt: Text = story.image.alt
        image: list[tuple[str, Node]] = [("src", _scalar(story.image.src))]
        if alt:
            image.append(("alt", _texts(alt, config)))
        nodes["image"] = _map(image)
    return list(nodes.items())


def _issue_node(issue: Issue, config: Config) -> Map:
    values = {key: getattr(issue, key) for key in ("date", "number", "subject", "preheader", "intro")}
    values["blocks"] = tuple(block.name for block in issue.blocks)
    nodes = dict(_nodes(values, ISSUE, config))
    if issue.stories:
        nodes["stories"] = _items(_map(_story_nodes(story, config)) for story in issue.stories)
    return _map(nodes.items())


# --- reading comments, which YAML parsers drop ---


@dataclass(frozen=True, kw_only=True)
class _Comment:
    line: int  # from 1
    column: int
    text: str  # from # to the end of the line
    alone: bool  # nothing else in its line


def _comments(text: str) -> list[_Comment]:
    """Every comment: what stands behind a # between two tokens, and in the first line of a block scalar."""
    if "#" not in text:
        return []
    lines = text.split("\n")
    found: list[_Comment] = []

    def gap(start: tuple[int, int], end: tuple[int, int]) -> None:
        for number in range(start[0], min(end[0], len(lines) - 1) + 1):
            first = start[1] if number == start[0] else 0
            last = end[1] if number == end[0] else len(lines[number])
            at = lines[number].find("#", first, last)
            if at >= 0:
                alone = not lines[number][:at].strip()
                found.append(_Comment(line=number + 1, column=at + 1, text=lines[number][at:].rstrip(), alone=alone))

    position = (0, 0)
    for token in yaml.scan(text, Loader=_LOADER):
        start, end = (token.start_mark.line, token.start_mark.column), (token.end_mark.line, token.end_mark.column)
        if isinstance(token, yaml.DirectiveToken):
            continue
        gap(position, start)
        if isinstance(token, yaml.ScalarToken) and token.style in ("|", ">"):
            gap((start[0], start[1] + 1), (start[0], len(lines[start[0]])))
        position = max(position, end)
    gap(position, (len(lines), 0))
    return found


@dataclass(kw_only=True)
class _Notes:
    """The comments of one entry or item."""

    before: list[str] = field(default_factory=list)
    beside: str = ""
    inside: list[str] = field(default_factory=list)  # at the end of the value, indented like it


@dataclass(frozen=True, kw_only=True)
class _Anchor:
    """An entry or a list item, at which a comment may stand; `column` is that of its key or of its dash."""

    of: int  # id() of the Entry, or of an item's Node
    parent: int  # the anchor that it stands in; 0 at the top
    line: int
    column: int
    is_entry: bool


def _anchors(node: Node, parent: int = 0) -> Iterator[_Anchor]:
    if isinstance(node, Map):
        for entry in node.entries:
            of, where = id(entry), entry.where
            yield _Anchor(of=of, parent=parent, line=where.line, column=where.column, is_entry=True)
            yield from _anchors(entry.value, of)
    elif isinstance(node, List):
        for item in node.items:
            of, where = id(item), item.where
            yield _Anchor(of=of, parent=parent, line=where.line, column=where.column - 2, is_entry=False)
            yield from _anchors(item, of)


def _attach(node: Node, text: str) -> tuple[list[str], dict[int, _Notes]]:
    """The comments at the head of the file (those with a blank line below them), and those of each entry and item.

    A comment stands before what comes next, unless it is indented deeper: then it closes what it is indented like.
    """
    anchors = list(_anchors(node))  # in the order of their lines
    places = [anchor.line for anchor in anchors]
    lines = text.split("\n")
    notes: dict[int, _Notes] = {0: _Notes(), **{anchor.of: _Notes() for anchor in anchors}}
    head: list[str] = []
    comments = _comments(text)
    first = anchors[0].line if anchors else len(lines) + 1
    blanks = [number for number in range(1, first) if not lines[number - 1].strip()]
    for comment in comments:
        start, end = bisect_left(places, comment.line), bisect_right(places, comment.line)
        earlier = anchors[: start if comment.alone else end]
        following = anchors[len(earlier)] if len(earlier) < len(anchors) else None
        if not comment.alone:
            here = [anchor for anchor in anchors[start:end] if anchor.is_entry] or anchors[start:end] or earlier[-1:]
            if here and not notes[here[0].of].beside:
                notes[here[0].of].beside = re.sub("^#(?=[^ #])", "# ", comment.text)  # `word #x` would not load
            elif here:
                notes[here[0].of].before.append(comment.text)
            else:
                head.append(comment.text)
            continue
        if not earlier and (not following or any(blank > comment.line for blank in blanks)):
            head.append(comment.text)
            continue
        limit = following.column if following else 0
        closes = next((anchor for anchor in reversed(earlier) if anchor.column <= comment.column), None)
        if closes and closes.column > limit and comment.column > limit:
            notes[closes.parent].inside.append(comment.text)
        elif following:
            notes[following.of].before.append(comment.text)
        else:
            notes[0].inside.append(comment.text)
    return head, notes


# --- writing ---


def _canonical(text: str, shape: Shape, languages: tuple[str, ...], *, keyed: bool = False) -> str:
    """Canonical text of a text that is known to load. Comments may settle only in the second round; it never takes more
    than a few (shown by the property tests), and the loop says so if it ever does."""
    text = one_line_end(text)
    meaning = _meaning(parse(text, "")[0], shape, keyed=keyed)
    for _ in range(6):
        node, _findings = parse(text, "")
        if not isinstance(node, Map):
            return text
        head, notes = _attach(node, text)
        writer = _Writer(languages, notes)
        body = writer.keyed(node, shape, 0) if keyed else writer.record(node, shape, 0)
        result = "".join(
            [*(f"{line}\n" for line in head), "\n" if head else "", *body, *(f"{line}\n" for line in notes[0].inside)]
        )
        if result == text:
            if _meaning(node, shape, keyed=keyed) != meaning:
                raise AssertionError("formatting would have changed the file's meaning")
            return text
        text = result
    raise AssertionError("formatting did not settle")


def _meaning(node: Node | None, shape: Shape, *, keyed: bool = False) -> Any:
    """What a node says, whatever its form: for comparing before and after."""

    def value(node: Node, known: Field | None) -> Any:
        inner = known.kind if known and isinstance(known.kind, Shape) else None
        if isinstance(node, Scalar):
            return None if node.empty else _settled(node.text, known)
        if isinstance(node, List):
            return [value(item, known) for item in node.items]
        return {entry.key: value(entry.value, inner.field(entry.key) if inner else known) for entry in node.entries}

    top = Field(name="", kind=shape, help="")
    if node is None:
        return None
    if keyed and isinstance(node, Map):
        return {entry.key: value(entry.value, top) for entry in node.entries}
    return value(node, top)


def _settled(text: str, known: Field | None) -> str:
    """A scalar's text as it is loaded: without blanks around it, and on one line unless it is Markdown."""
    text = text.strip()
    return text if known is None or known.kind == "markdown" else " ".join(text.split("\n"))


class _Writer:
    """Writes nodes as lines; a class because the comments and the languages go everywhere."""

    def __init__(self, languages: tuple[str, ...], notes: dict[int, _Notes] | None = None) -> None:
        self.languages, self.notes = languages, notes or {}

    def record(self, node: Map, shape: Shape, indent: int) -> Iterator[str]:
        order = {known.name: index for index, known in enumerate(shape.fields)}
        for entry in sorted(node.entries, key=lambda each: order.get(each.key, len(order))):
            yield from self.entry(
                entry, shape.field(entry.key) or Field(name=entry.key, kind="string", help=""), indent
            )

    def keyed(self, node: Map, shape: Shape, indent: int) -> Iterator[str]:
        known = Field(name="", kind=shape, help="")
        for index, entry in enumerate(node.entries):
            if index:
                yield "\n"
            yield from self.entry(entry, known, indent)

    def entry(self, entry: Entry, known: Field, indent: int) -> Iterator[str]:
        notes = self.notes.get(id(entry), _Notes())
        pad = " " * indent
        for line in notes.before:
            yield f"{pad}{line}\n"
        beside = f"  {notes.beside}" if notes.beside else ""
        key = entry.key if _plain(entry.key) else _quoted(entry.key)
        yield from self.value(f"{pad}{key}:", entry.value, known, indent, beside)
        for line in notes.inside:
            yield f"{pad}  {line}\n"

    def value(self, start: str, node: Node, known: Field, indent: int, beside: str) -> Iterator[str]:
        if isinstance(node, Scalar):
            if node.empty:
                yield f"{start}{beside}\n"
                return
            text = _settled(node.text, known)
            if node.beside and beside.strip() == node.beside and known.kind in ("line", "markdown") and _plain(text):
                # One blank before the comment: was it meant to be text? `check` asks, and formatting must not answer.
                yield f"{start} {text} {node.beside}\n"
                return
            yield from self.text(start, node.text, known, indent + 2, beside)
        elif isinstance(node, List):
            if not node.items:
                yield f"{start} []{beside}\n"
            elif self.short(node, known):
                names = ", ".join(item.text.strip() for item in node.items if isinstance(item, Scalar))
                yield f"{start} [{names}]{beside}\n"
            else:
                yield f"{start}{beside}\n"
                yield from self.items(node, known, indent + 2)
        elif not node.entries:
            yield f"{start} {{}}{beside}\n"
        else:
            yield f"{start}{beside}\n"
            if isinstance(known.kind, Shape):
                yield from self.record(node, known.kind, indent + 2)
            else:
                order = {language: index for index, language in enumerate(self.languages)}
                for entry in sorted(node.entries, key=lambda each: order.get(each.key, len(order))):
                    yield from self.entry(entry, known, indent + 2)

    def short(self, node: List, known: Field) -> bool:
        """Whether a list of names fits one line, with no comment inside that would have no place there."""
        if isinstance(known.kind, Shape):
            return False
        names = [item.text.strip() for item in node.items if isinstance(item, Scalar)]
        clear = all(self.notes.get(id(item), _Notes()) == _Notes() for item in node.items)
        return (
            clear and all(_plain(name) and re.fullmatch(r"[\w-]+", name) for name in names) and len(str(names)) < _WIDTH
        )

    def items(self, node: List, known: Field, indent: int) -> Iterator[str]:
        pad = " " * indent
        for index, item in enumerate(node.items):
            notes = self.notes.get(id(item), _Notes())
            if index and isinstance(item, Map):
                yield "\n"
            for line in notes.before:
                yield f"{pad}{line}\n"
            if isinstance(item, Map) and isinstance(known.kind, Shape) and item.entries:
                lines = "".join(self.record(item, known.kind, indent + 2))
                if lines.lstrip(" ").startswith("#") or notes.beside:  # a comment above the first key: above the dash
                    inside = re.match(r"(?: *#.*\n)*", lines)
                    assert inside is not None
                    for line in [notes.beside, *inside[0].split("\n")]:
                        if line.strip():
                            yield f"{pad}{line.strip()}\n"
                    lines = lines[inside.end() :]
                yield f"{pad}- {lines[indent + 2 :]}"
            else:
                beside = f"  {notes.beside}" if notes.beside else ""
                yield from self.value(f"{pad}-", item, known, indent, beside)
            for line in notes.inside:
                yield f"{pad}  {line}\n"

    def text(self, start: str, text: str, known: Field, indent: int, beside: str) -> Iterator[str]:
        text = _settled(text, known)
        if known.kind == "markdown" and text and not _UNSAFE.search(text):
            yield f"{start} |{beside}\n"
            pad = " " * indent
            for line in text.split("\n"):
                yield f"{pad}{line}\n" if line else "\n"
        elif _plain(text) or (known.kind in _BARE and _WORDLIKE.fullmatch(text)):
            yield f"{start} {text}{beside}\n"
        else:
            yield f"{start} {_quoted(text)}{beside}\n"


_BARE = ("date", "integer", "number", "boolean")  # kinds whose values are written as they are, never in quotes
_WORDLIKE = re.compile(r"[\w.-]+")
# What YAML 1.1 takes for a line end or a mark, so that it cannot stand in a literal block.
_UNSAFE = re.compile("[\x85\u2028\u2029\ufeff]")
# A text that needs no quotes for any YAML reader: begins like prose, and has nothing in it that YAML could take for
# more.
_PROSE = re.compile(r"[^\W_\d]|[0-9¿¡«“‘(/…—–]")
_SIGNS = re.compile(r": |:$| #|[\t\n\x85\u2028\u2029\ufeff]|^\s|\s$|^\($")
_OTHER = re.compile(r"[-+.]?[0-9][0-9a-fA-FxXoO_.,:eE+-]*|(y|n|yes|no|on|off|true|false|null)", re.IGNORECASE)


def _plain(text: str) -> bool:
    return bool(text and _PROSE.match(text) and not _SIGNS.search(text) and not _OTHER.fullmatch(text))


def _quoted(text: str) -> str:
    """Between double quotes, or single ones where that saves backslashes."""
    if '"' in text and "'" not in text and not re.search("[\t\n\\\\\x85\u2028\u2029\ufeff]", text):
        return f"'{text}'"
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub("[\x85\u2028\u2029\ufeff]", lambda match: f"\\u{ord(match[0]):04x}", quoted)
