"""YAML as it comes from real editors and from hostile ones: what is read, what is refused, and where the slip is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.errors import Finding
from newsletter.source import (
    MAX_BYTES,
    MAX_NODES,
    List,
    Map,
    Node,
    Scalar,
    decode,
    one_line_end,
    parse,
    read_text,
    visible,
)


def read(text: str) -> Map:
    node, findings = parse(text, "f.yaml")
    assert findings == []
    assert isinstance(node, Map)
    return node


def texts(node: Node) -> object:
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, List):
        return [texts(item) for item in node.items]
    return {entry.key: texts(entry.value) for entry in node.entries}


def only(text: str) -> Finding:
    """The one finding about a text."""
    _, findings = parse(text, "f.yaml")
    assert len(findings) == 1, findings
    return findings[0]


# --- what YAML would turn into something else ---


@pytest.mark.parametrize(
    "word",
    [
        *("no", "Yes", "on", "y", "true", "None", "2017-11-19", "2017-11-19T10:00:00Z", "1:30:00", "1_000", "1e3"),
        *("0123", "0x1F", "0o17", "+1", ".inf", ".NaN", "="),
    ],
)
def test_a_word_stays_the_text_that_stands_in_the_file(word: str) -> None:
    assert texts(read(f"a: {word}\n{word}: b\n")) == {"a": word, word: "b"}


@pytest.mark.parametrize(("written", "empty"), [("", True), ("~", True), ("null", True), ('""', False), ('"~"', False)])
def test_only_an_unquoted_word_means_nothing(written: str, empty: bool) -> None:
    value = read(f"a: {written}\n").entries[0].value
    assert isinstance(value, Scalar)
    assert value.empty is empty


def test_places_count_characters_from_one() -> None:
    node = read("a: 1\n👩😀: {é: ñ, b: x}\n")
    inner = node.entries[1].value
    assert isinstance(inner, Map)
    assert str(node.entries[1].where) == "f.yaml:2:1"
    assert [str(entry.where) for entry in inner.entries] == ["f.yaml:2:6", "f.yaml:2:12"]


def test_front_matter_is_placed_in_its_file() -> None:
    _, findings = parse("a: 1\na: 2\n", "f.md", first_line=2)
    assert [(str(each.where), each.message) for each in findings] == [
        ("f.md:3:1", "a: stands twice here; the first is in line 2")
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing but a comment\n", "---\n", "~", "--- # x\n...\n"])
def test_a_file_without_content_is_no_document_and_no_mistake(text: str) -> None:
    assert parse(text, "f.yaml") == (None, [])


# --- slips of the hand: (the file, line:column of the culprit, words of the message, words of the help) ---

SLIPS = {
    "a quote that is never closed": ('a: "One\nb: 2\n', "1:4", "never closed", "closing quote"),
    "a quote closed by the next": ('a: "One\nb: 2\nc: "Two"\n', "1:4", "by the next one, in line 3", "closing quote"),
    "and then a colon": ('a: "One\nb: "Two: three"\n', "1:4", "closed by the next one, in line 2", "closing quote"),
    "an apostrophe in single quotes": ("a: 'Peru's turn'\n", "1:10", "after the closing quote", "other kind of quotes"),
    "quotes in quotes": ('a: "the "big" one"\n', "1:10", "after the closing quote", "other kind of quotes"),
    "text after a quotation": ('a: "Never" they said\n', "1:12", "after the closing quote", "whole text"),
    "a tab as indentation": ("a:\n\tb: 1\n", "2:1", "a tab in the indentation", "spaces"),
    "a tab among spaces": ("a:\n  b: 1\n \t c: 1\n", "3:2", "a tab in the indentation", "spaces"),
    "a tab under a bar": ("a: |\n\tText\n", "2:1", "a tab in the indentation", "spaces"),
    "a colon in a title": ("a: Peru: the vote\n", "1:8", "colon where no key can stand", "between quotes"),
    "two keys in a line": ("a: One, b: Two\n", "1:10", "colon where no key can stand", "between quotes"),
    "no space after the colon": ("a: 1\nb:2\nc: 3\n", "2:3", "no space after the colon", "key: value"),
    "nor in the first line": ("a:1\nb: 2\n", "1:3", "no space after the colon", "key: value"),
    "nor in a list": ("a:\n  - b:1\n    c: 2\n", "2:7", "no space after the colon", "key: value"),
    "no space after the dash": ("a:\n  -b: 1\n    c: 2\n", "2:4", "no space after the dash", "- "),
    "no colon": ("a: 1\nb\nc: 3\n", "2:1", "a key without its colon", "key: value"),
    "an equals sign": ("a:\n  - b = 1\n    c: 2\n", "2:5", "a key without its colon", "key: value"),
    "a wide colon": ("a:\n  - b：1\n    c: 2\n", "2:5", "a key without its colon", "key: value"),
    "a text where languages stand": ("a:\n  Hello there\n  en: Hi\n", "2:3", "a key without its colon", "under a `|`"),
    "text not under its bar": ("a:\n  b: |\n  Text\n  c: 1\n", "3:3", "a key without its colon", "deeper than its key"),
    "a bar's second line too far left": ("a:\n  b: |\n      One\n   two\n", "4:4", "not fit", "like its first line"),
    "pasted HTML": ("a:\n  b: |\n<p>Text</p>\n  c: 1\n", "3:1", "a key without its colon", "deeper than its key"),
    "a line too deep": ("a:\n  - b: 1\n     c: 2\n", "3:6", "deeper than the line above", "like its neighbours"),
    "a line not deep enough": ("a:\n  - b: 1\n  c: 2\n", "3:3", "does not fit", "like its neighbours"),
    "a forgotten dash": ("a:\n  - b: 1\n\n  b: 2\n", "4:3", "does not fit", "begins with `- `"),
    "a value below its key": ("a:\n  b:\n  One\n  c: 1\n", "3:3", "a key without its colon", "key: value"),
    "an at sign": ("a: @rosa says\n", "1:4", "cannot begin with @", '"@…"'),
    "a percent sign": ("a: %5 more\n", "1:4", "cannot begin with %", '"%…"'),
    "a percent sign in front": ("%5 more: 1\n", "1:1", "begins with a percent sign", '"%…"'),
    "a backtick": ("a: `code`\n", "1:4", "cannot begin with `", '"`…"'),
    "a comma": ("a: , and so on\n", "1:4", "cannot begin with ,", '",…"'),
    "a star": ("a: *Bold* text\n", "1:4", "begins with a star", '"*…"'),
    "two stars": ("a:\n  b: **Bold** text\n", "2:6", "begins with a star", '"*…"'),
    "an ampersand": ("a: & more\n", "1:4", "begins with an ampersand", '"&…"'),
    "a question mark": ("a: ? who\n", "1:4", "cannot begin with a question mark", "quote it"),
    "a dash": ("a: - One\n", "1:4", "a list cannot begin here", "between quotes"),
    "a greater-than sign": ("a: > One\n", "1:6", "after the sign that begins a block", "next line"),
    "text beside its bar": ("a: | One\n", "1:6", "after the sign that begins a block", "next line"),
    "a bracket at the start": ("a: [Updated] One\n", "1:14", "after the closing bracket", "between quotes"),
    "a bracket never closed": ("a: [b, c\nd: 1\n", "1:4", "not closed before line 2", "close it"),
    "a brace never closed": ("a: {b: 1, c: 2\n", "1:4", "not closed before line 2", "close it"),
    "a bracket at the very end": ("a:\n  b: [\n", "2:6", "not closed before line 3", "close it"),
    "the inner of two": ("a: {b: [c,\n  d: 1}\n", "1:8", "not closed before line 2", "close it"),
    "a forgotten comma": ("a: {b: One c: Two}\n", "1:13", "a comma or a closing bracket", "comma between"),
    "a brace too many": ("a: {b: One}}\n", "1:12", "after the closing bracket", "too much"),
    "a backslash in quotes": ('a: "C:\\path"\n', "1:7", "a backslash", "single quotes"),
    "a colon alone": ("a:\n  - : One\n", "2:5", "a colon without a key", "key: value"),
    "a hashtag": ("a: We are #NiUnaMenos in Lima\n", "1:11", "#NiUnaMenos begins a comment", "between quotes"),
    "a colour": ("a: #ff0000\nb: 1\n", "1:4", "#ff0000 begins a comment", "between quotes"),
    "no-break spaces as indentation": ("a:\n  - b: 1\n\xa0\xa0\xa0\xa0c: 2\n", "3:1", "(no-break space)", "ordinary"),
    "one among ordinary ones": ("a:\n  - b: 1\n  \xa0 c: 2\n", "3:3", "U+00A0 (no-break space)", "ordinary"),
    "one after the dash": ("a:\n  -\xa0b: 1\n    c: 2\n", "2:3", "U+00A0 (no-break space)", "ordinary"),
    "one after the colon": ("a: 1\nb:\xa02\nc: 3\n", "2:3", "U+00A0 (no-break space)", "ordinary"),
    "one in front of a text under a bar": ("a:\n  b: |\n\xa0\xa0\xa0\xa0Text\n  c: 1\n", "3:1", "U+00A0", "ordinary"),
    "a zero-width space": ("a: 1\n\u200bb: 2\n", "2:1", "U+200B (zero width space)", "delete it"),
    "a byte order mark inside": ("a: 1\n\ufeffb: 2\n", "2:1", "U+FEFF", "delete it"),
    "a whole sentence before a colon": (f"{'word ' * 25}: yes\n", "1:1", "too long for a key", "between quotes"),
    "a key with colours for the terminal": ('"\\e[31mred": 1\n', "1:1", "U+001B", "delete it"),
    "a key of two lines": ('"a\\nb": 1\n', "1:1", "U+000A", "delete it"),
    "a merge conflict": ("a: 1\n<<<<<<< x\nb: 1\n=======\nb: 2\n>>>>>>> y\n", "2:1", "not merge", "both sides"),
    "a second document": ("a: 1\n---\nb: 1\n", "2:1", "second document", "one document"),
    "text after the end": ("a: 1\n...\nb: 1\n", "3:1", "after the end of the document", "remove"),
    "a key that stands twice": ("a: 1\nb: 2\na: 3\n", "3:1", "twice here; the first is in line 1", "keep one"),
    "a key that is a list": ("[a]: 1\n", "1:1", "a key must be a word", "name: value"),
    "a control character": ("a: b\x07c\n", "1:5", "U+0007", "delete it"),
    "a NUL": ("a: 1\nb: \x00\n", "2:4", "U+0000", "delete it"),
    "a lone surrogate": ("a: \ud800\n", "1:4", "U+D800", "delete it"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_reported_where_it_was_made(slip: str) -> None:
    text, place, message, help = SLIPS[slip]
    finding = only(text)
    assert (str(finding.where), finding.severity) == (f"f.yaml:{place}", "error")
    assert message in finding.message
    assert help in finding.help
    assert finding.message.isprintable()


def test_a_comment_with_a_space_after_its_sign_is_one() -> None:
    assert texts(read("a: One # not two\nb: # none\n  c: x#y\n")) == {"a": "One", "b": {"c": "x#y"}}


# --- what could make a small file big, or do something ---


@pytest.mark.parametrize(
    ("text", "place", "code"),
    [
        ("a: &x [1, 2]\n", "1:4", "alias"),
        ("a: *x\n", "1:4", "alias"),
        ("<<: *x\n", "1:5", "alias"),
        ("a: !!python/object/apply:os.system [id]\n", "1:4", "tag"),
        ("a: !!binary aGk=\n", "1:4", "tag"),
        ("a: !!str 5\n", "1:4", "tag"),
        ("a: !Viva\n", "1:4", "tag"),
    ],
)
def test_aliases_anchors_and_tags_are_refused(text: str, place: str, code: str) -> None:
    finding = only(text)
    assert (str(finding.where), finding.code) == (f"f.yaml:{place}", f"file.{code}")


def test_a_tag_cannot_write_to_the_terminal() -> None:
    assert "\x1b" not in only("a: !x%1b[31m b\n").message


def test_an_anchor_bomb_costs_nothing() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
    _, findings = parse(bomb, "f.yaml")
    assert {each.code for each in findings} == {"file.alias"}


def test_a_merge_key_is_a_key_like_any_other() -> None:
    assert texts(read("<<: {a: 1}\n")) == {"<<": {"a": "1"}}


@pytest.mark.parametrize("opening", ["[\n", "{a: ", "- ", "? ", "[{a: "])
def test_deep_nesting_is_refused_early(opening: str) -> None:
    assert only(opening * 100_000).code == "file.too-deep"


@pytest.mark.parametrize("piece", ["- a\n", "- \n", "- - a\n"])
def test_a_file_of_too_many_pieces_is_refused_with_one_finding(piece: str) -> None:
    assert only(piece * (MAX_NODES + 1)).code == "file.too-large"


# --- bytes ---


def test_a_byte_order_mark_and_foreign_line_ends_change_nothing() -> None:
    assert decode(b"\xef\xbb\xbfa: 1\r\nb: 2\rc: 3\n", "f") == ("a: 1\nb: 2\nc: 3\n", [])


def test_line_ends_that_no_editor_shows_are_blanks() -> None:
    assert one_line_end("a: x\x85y\u2028z\u2029.\n") == "a: x y z .\n"
    assert texts(read("a: |\n  one\u2028two\x85three\n")) == {"a": "one two three\n"}


@pytest.mark.parametrize(
    ("raw", "place", "message", "help"),
    [
        ("title: “Perú”\n".encode("cp1252"), "f:1:8", "byte 0x93 ('“' in Windows-1252)", "UTF-8"),
        ("é: 1\r\nñandú: ".encode() + b"\xe9\n", "f:2:8", "byte 0xe9 ('é' in Windows-1252)", "UTF-8"),
        (b"\xef\xbb\xbfab\xff", "f:1:3", "byte 0xff", "UTF-8"),
        (b"one\rtwo\rx\xff", "f:3:2", "byte 0xff", "UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "f:1:1", "byte 0x89", "UTF-8"),
        ("a: 1\n".encode("utf-16"), "f", "UTF-16", "UTF-8"),
        (b"a" * (MAX_BYTES + 1), "f", "larger than 4 MiB", "split it"),
    ],
)
def test_bytes_that_are_no_text_of_ours_are_named(raw: bytes, place: str, message: str, help: str) -> None:
    text, findings = decode(raw, "f")
    assert text == ""
    assert [str(each.where) for each in findings] == [place]
    assert message in findings[0].message
    assert help in findings[0].help


def test_utf_16_without_a_mark_shows_as_its_nuls() -> None:
    text, findings = decode("a: 1\n".encode("utf-16-le"), "f")
    assert findings == []
    assert only(text).message == "holds the control character U+0000"


@pytest.mark.parametrize(
    ("name", "code", "help"),
    [
        (".", "unreadable", "name of a file"),
        ("x", "not-found", "check the name"),
        ("\0", "unreadable", "check its name"),
    ],
)
def test_what_cannot_be_opened_is_a_finding(tmp_path: Path, name: str, code: str, help: str) -> None:
    text, findings = read_text(tmp_path / name, name="f")
    assert text == ""
    assert [each.code for each in findings] == [f"file.{code}"]
    assert help in findings[0].help


def test_what_a_message_shows_is_one_printable_line() -> None:
    assert visible("a\n\tb\x1b[31m\u202e" + "x" * 80, longest=20) == "a b�[31m�xxxxxxxxxxx…"


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_bytes_are_a_document_or_findings_with_a_message_and_a_help(raw: bytes) -> None:
    text, findings = decode(raw, "f")
    if not findings:
        _, findings = parse(text, "f")
    for each in findings:
        assert each.message.isprintable()
        assert each.help
        assert each.where
        assert each.where.line > 0 or each.code == "file.encoding"
