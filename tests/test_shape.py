"""What a record is read as, what is said about every value that does not fit, and the schema that editors are given."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from newsletter.errors import Where
from newsletter.shape import Field, Kind, Reading, Shape, json_schema, nearest, read_record, read_value, slot_problem
from newsletter.source import Scalar, parse

PICTURE = Shape(name="picture", fields=(Field(name="src", kind="string", required=True, help="The file."),))

EVERYTHING = Shape(
    name="thing",
    fields=(
        Field(name="title", kind="line", required=True, help="The headline."),
        Field(name="text", kind="markdown", help="The text."),
        Field(name="day", kind="date", help="The day."),
        Field(name="count", kind="integer", help="How many."),
        Field(name="size", kind="number", help="How big."),
        Field(name="worth", kind="value", help="What it is worth."),
        Field(name="on", kind="boolean", default=True, help="Whether."),
        Field(name="names", kind="word", many=True, default=(), help="Names."),
        Field(name="languages", kind="language", many=True, default=("en",), help="Languages."),
        Field(name="style", kind="choice", choices=("plain", "panel"), default="plain", help="How it looks."),
        Field(name="url", kind="url", help="Where it leads."),
        Field(name="address", kind="address", help="Whom to ask."),
        Field(name="colour", kind="colour", help="Its colour."),
        Field(name="picture", kind=PICTURE, help="A picture."),
        Field(name="sections", kind="line", keyed=True, default={}, help="Sections."),
    ),
)


def read(text: str, languages: tuple[str, ...] = ("en", "es")) -> tuple[dict[str, Any], list[str]]:
    """The values of a text and what was said about it, as place, message."""
    reading = Reading(family="thing", languages=languages)
    node, reading.findings = parse(text, "t", family="thing")
    assert node is not None
    record = read_record(node, EVERYTHING, reading)
    assert all(each.help and each.where and each.where.line and each.message.isprintable() for each in reading.findings)
    return dict(record.values), [f"{each.where}: {each.message}" for each in reading.findings]


def value(kind: Kind, text: str) -> Any:
    reading = Reading(family="thing", languages=())
    where = Where(path="t", line=1, column=1)
    field = Field(name="x", kind=kind, help="It is.", choices=("plain", "panel") if kind == "choice" else ())
    read = read_value(Scalar(text=text, where=where, plain=True), field, reading, at="x")
    assert (read is None) is bool(reading.findings), "a value is read or its problem is said, never neither"
    assert all(each.help for each in reading.findings)
    return read


GOOD: dict[Kind, dict[str, Any]] = {
    "date": {"2017-11-19": date(2017, 11, 19), " 2020-02-29 ": date(2020, 2, 29)},
    "integer": {"0": 0, "42": 42, "007": 7, "999999999": 999_999_999},
    "number": {"2": 2.0, "2.5": 2.5},
    "value": {"2.50": "2.50", "no": "no", "two words": "two words"},
    "boolean": {"true": True, "Yes": True, "no": False, "FALSE": False},
    "word": {"human-rights": "human-rights", "año_2": "año_2", "2017": "2017"},
    "language": {"en": "en", "pt-BR": "pt-BR", "zh-Hant-TW": "zh-Hant-TW", "quy": "quy"},
    "colour": {"#0B5563": "#0b5563"},
    "address": {"news@example.org": "news@example.org", "ñ@exämple.org": "ñ@exämple.org"},
    "url": {url: url for url in ("https://example.org", "http://[::1]:8080/a?b=c&d#e", "https://example.org/año/(x)")},
    "choice": {"panel": "panel"},
}
BAD: dict[Kind, list[str]] = {
    "date": ["19/11/2017", "2017-11-31", "2017-1-9", "20171119", "2017-11-19T10:00:00", "0000-01-01", "٢٠١٧-١١-١٩", ""],
    "integer": ["-1", "1.0", "1_000", "0x1f", "1:30", "five", "٣", "1234567890", "1e3", ""],
    "number": ["-1", ".5", "1,5", "inf", "nan", "1e3", ""],
    "value": [""],
    "boolean": ["on", "y", "1", "maybe", ""],
    "word": ["two words", "a.b", "-a", "a/b", "x" * 65, "@@X@@", ""],
    "language": ["EN", "english!", "e", "en_US", ""],
    "colour": ["red", "#fff", "0b5563", ""],
    "address": ["news", "a@b@c", "News <a@b.org>", "a b@c.org", "a@b.org, c@d.org", "x" * 250 + "@b.org", ""],
    "url": [
        *("example.org", "/about", "//example.org", "mailto:a@b.org", "ftp://example.org", "https://"),
        *("https:///x", ""),
        *("javascript:alert(1)", "data:text/html,x", "https://example.org/@@NAME@@", "https://example.org/\x00"),
        *("https://user@example.org", "https://bank.example@evil.example", "https://example.org:99999", "http://[::1"),
        *("https://example.org/a b", 'https://example.org/"', "<https://example.org>", "https://a.org\nhttps://b.org"),
        "https://example.org/" + "x" * 2000,
    ],
    "choice": ["plan", "PANEL", ""],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in GOOD.items() for text in texts])
def test_a_value_that_fits_is_read(kind: Kind, text: str) -> None:
    assert value(kind, text) == GOOD[kind][text]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in BAD.items() for text in texts])
def test_a_value_that_does_not_fit_is_reported(kind: Kind, text: str) -> None:
    assert value(kind, text) is None


def test_a_plain_text_is_in_the_default_language_and_a_map_in_each() -> None:
    values, said = read("title: Hello\ntext: {es: Hola, en: Hello}\n")
    assert said == []
    assert values["title"] == {"en": "Hello"}
    assert values["text"] == {"es": "Hola", "en": "Hello"}


def test_a_line_of_several_lines_becomes_one_and_markdown_keeps_its_own() -> None:
    values, _ = read("title: >\n  a\n  b\n\n  c\ntext: |\n  a\n\n    b\n\n")
    assert values["title"] == {"en": "a b c"}
    assert values["text"] == {"en": "a\n\n  b"}


def test_absent_keys_and_empty_ones_have_the_default_and_only_the_latter_a_place() -> None:
    reading = Reading(family="thing", languages=("en",))
    node, _ = parse("title: x\nstyle:\n", "t")
    assert node is not None
    record = read_record(node, EVERYTHING, reading)
    assert (record["style"], record["on"], record["names"], record["picture"]) == ("plain", True, (), None)
    assert {key: str(where) for key, where in record.marks.items()} == {"title": "t:1:1", "style": "t:2:1"}


@pytest.mark.parametrize("empty", ["", " ~", ' ""', ' "  "', " {}", ' {en: "", es: }', " |", " [ ]"])
def test_a_required_text_that_is_empty_is_never_passed_over(empty: str) -> None:
    values, said = read(f"day: 2017-11-19\ntitle:{empty}\n")
    assert values["title"] is None
    assert len(said) == 1
    assert said[0].startswith("t:2:")
    assert "title: " in said[0]


def test_every_problem_is_reported_at_once_with_its_place() -> None:
    _, said = read(
        "titel: A\nday: 19/11/2017\ncount: many\nnames: aims\nstyle: pannel\npicture: {scr: x}\n"
        "text:\n  se: Hej\n  en: [a]\nlanguages: [en, E]\nsections: {a b: x, c: , d: {}}\nurl: {}\n"
    )
    assert said == [
        't:1:1: titel: unknown key, did you mean "title"?',
        't:2:6: day: must be a date written as YYYY-MM-DD, is "19/11/2017"',
        't:3:8: count: must be a whole number, is "many"',
        't:4:8: names: must be a list, is "aims"',
        't:5:8: style: must be one of the choices, is "pannel", did you mean "panel"?',
        't:6:11: picture.scr: unknown key, did you mean "src"?',
        "t:6:10: picture.src: is missing",
        "t:8:3: text.se: not a language of this workspace",
        "t:9:7: text.en: must be a text, is a list",
        't:10:17: languages[1]: must be a language code, is "E"',
        "t:11:12: sections.a b: a name has only letters, digits, - and _",
        "t:11:20: sections.c: is empty",
        "t:11:25: sections.d: is empty",
        "t:12:6: url: must be a full http(s) address, is a map",
        "t:1:1: title: is missing",
    ]


def test_a_list_with_a_default_cannot_be_empty() -> None:
    assert read("title: x\nlanguages: []\n")[1] == ["t:2:12: languages: is empty"]


@pytest.mark.parametrize(("text", "is_"), [("[a]", "a list"), ("word", '"word"'), ("'\\e[31m' ", '"\\e[31m"')])
def test_what_is_no_map_is_named(text: str, is_: str) -> None:
    assert read(text)[1] == [f"t:1:1: the file: must be a map of keys, is {is_}"]


def test_a_message_shows_nothing_that_a_terminal_would_obey() -> None:
    _, said = read('title: x\nnames: "\\e[31mred\\u202e"\n')
    assert said == ['t:2:8: names: must be a list, is "�[31mred�"']


def test_control_characters_written_with_a_backslash_are_refused() -> None:
    _, said = read('title: "a\\0b"\ntext: "a\\x1bb"\nurl: "https://a.org/\\x7f"\n')
    assert said == [
        "t:1:8: title: holds the control character U+0000",
        "t:2:7: text: holds the control character U+001B",
        "t:3:6: url: holds the control character U+007F",
    ]


def test_a_text_too_long_for_a_message_is_refused() -> None:
    _, said = read(f"title: {'x' * 1001}\ntext: |\n  {'x' * 20_001}\n")
    assert said == [
        "t:1:8: title: is 1,001 characters long, and 1,000 are the most",
        "t:2:7: text: is 20,001 characters long, and 20,000 are the most",
    ]
    assert read(f"title: {'x' * 1000}\ntext: |\n  {'x' * 20_000}\n")[1] == []


@pytest.mark.parametrize(
    "text", ["@@NAME@@", "Dear @@NAME@@, a@b.org", "@ @", "a@@NAME@@@", "https://x.org and @@NAME@@"]
)
def test_the_name_is_the_one_slot_a_text_may_hold(text: str) -> None:
    assert slot_problem(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        *("@@", "@@X@@", "@@UNSUBSCRIBE_URL@@", "@@name@@", "@@NAME@", "@@NAME@@@@", "@@NAME@@NAME@@", "@@@NAME@@@X@@"),
        *("@@ NAME @@", "https://x.org/@@NAME@@", "[x](https://x.org/?a=@@NAME@@)", "mailto://@@NAME@@"),
    ],
)
def test_any_other_slot_is_a_problem(text: str) -> None:
    assert slot_problem(text)


def test_only_running_text_may_hold_the_name() -> None:
    assert read("title: '@@NAME@@'\ntext: '@@NAME@@'\n")[1] == []
    _, said = read("title: x\nurl: https://x.org/@@NAME@@\npicture: {src: '@@NAME@@.png'}\n")
    assert [each[:9] for each in said] == ["t:2:6: ur", "t:3:16: p"]


@pytest.mark.parametrize(
    ("word", "hint"), [("sumary", "summary"), ("Title", "title"), ("“title”", "title"), ("xyz", "")]
)
def test_the_nearest_name_is_offered_when_one_is_near(word: str, hint: str) -> None:
    assert nearest(word, ["summary", "title", "date"]) == (f', did you mean "{hint}"?' if hint else "")


# --- JSON Schema ---


def test_the_schema_is_one_and_describes_every_key() -> None:
    schema = json_schema(EVERYTHING, title="Thing", languages=("en", "es"))
    Draft202012Validator.check_schema(schema)
    assert schema["required"] == ["title"]
    assert {name: each["description"] for name, each in schema["properties"].items()} == {
        each.name: each.help for each in EVERYTHING.fields
    }


# As YAML 1.2 readers, which editors use, hand it over: numbers and booleans are such, dates are texts.
FITTING: dict[str, Any] = {
    "title": {"en": "A", "es": "B"},
    "text": "A",
    "day": "2017-11-19",
    "count": 5,
    "size": 2.5,
    "worth": 18,
    "on": False,
    "names": ["human-rights"],
    "languages": ["en", "pt-BR"],
    "style": "panel",
    "url": "https://example.org/",
    "address": "a@example.org",
    "colour": "#0B5563",
    "picture": {"src": "a.png"},
    "sections": {"justice": {"en": "Justice"}, "land": "Land"},
}
MISFITS: list[dict[str, Any]] = [
    {"titel": "A"},
    {"title": {"fr": "A"}},
    {"title": {}},
    {"title": ["A"]},
    {"day": "19/11/2017"},
    {"count": -1},
    {"on": "maybe"},
    {"worth": ["two", "texts"]},
    {"names": "aims"},
    {"names": ["two words"]},
    {"languages": ["English"]},
    {"style": "pannel"},
    {"url": "example.org"},
    {"colour": "red"},
    {"picture": {}},
    {"picture": {"src": "a", "scr": "b"}},
    {"sections": {"a": {"fr": "x"}}},
]


def test_the_schema_takes_what_the_reader_takes() -> None:
    schema = json_schema(EVERYTHING, title="Thing", languages=("en", "es"))
    Draft202012Validator(schema).validate(FITTING)


@pytest.mark.parametrize("misfit", MISFITS, ids=str)
def test_the_schema_refuses_what_the_reader_refuses(misfit: dict[str, Any]) -> None:
    schema = json_schema(EVERYTHING, title="Thing", languages=("en", "es"))
    assert not Draft202012Validator(schema).is_valid(FITTING | misfit)


def test_without_languages_the_schema_takes_any() -> None:
    schema = json_schema(EVERYTHING, title="Thing")
    assert Draft202012Validator(schema).is_valid({"title": {"quy": "Allin"}})
