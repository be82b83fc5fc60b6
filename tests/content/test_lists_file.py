"""What lists.yaml is read as, and what is said, with its line, about every slip in it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from newsletter.config import Config
from newsletter.content.lists import LISTS, List, Lists, load_lists
from newsletter.content.segments import Attribute, Segment
from newsletter.errors import ConfigError
from newsletter.shape import json_schema

GOOD = """\
lists:
  - id: weekly
    name: {en: Weekly, es: Semanal}
    description: One issue every Sunday.
  - {id: alerts, name: Alerts, double_opt_in: false}
segments:
  spanish: {languages: [es]}
  board:
    tags: {any: [board, 2017], all: [member], none: [guest]}
    attributes:
      - {name: city, one_of: [Lima, Cusco]}
      - {name: age, at_least: 18, less_than: 65.5}
      - {name: phone, absent: yes}
      - {name: "no", equals: no}
    joined: {after: 2017-01-31, before: 12 weeks ago}
  others:
    any:
      - languages: [en]
      - all: [{tags: {any: [a]}}, {tags: {any: [b]}}]
    not: {joined: {after: 30 days}}
"""


def lists(config: Config, text: str) -> Lists:
    config.lists.parent.mkdir(exist_ok=True)
    config.lists.write_text(text, "utf-8")
    return load_lists(config)


def said(config: Config, text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        lists(config, text)
    assert all(each.help for each in raised.value.findings)
    return [f"{each.where}: {each.message} [{each.code}]" for each in raised.value.findings]


def test_a_file_is_read_with_its_order(config: Config) -> None:
    read = lists(config, GOOD)
    assert list(read.lists.values()) == [
        List(
            id="weekly",
            name={"en": "Weekly", "es": "Semanal"},
            description={"en": "One issue every Sunday."},
            double_opt_in=True,
        ),
        List(id="alerts", name={"en": "Alerts"}, description={}, double_opt_in=False),
    ]
    assert read.segments == {
        "spanish": Segment(languages=("es",)),
        "board": Segment(
            any_tags=("board", "2017"),
            all_tags=("member",),
            no_tags=("guest",),
            attributes=(
                Attribute(name="city", one_of=("Lima", "Cusco")),
                Attribute(name="age", bounds=(("at_least", Decimal(18)), ("less_than", Decimal("65.5")))),
                Attribute(name="phone", absent=True),
                Attribute(name="no", one_of=("no",)),
            ),
            joined_after=date(2017, 1, 31),
            joined_before=timedelta(weeks=12),
        ),
        "others": Segment(
            any=(
                Segment(languages=("en",), blank=True),
                Segment(all=(Segment(any_tags=("a",)), Segment(any_tags=("b",)))),
            ),
            excluded=Segment(joined_after=timedelta(days=30)),
        ),
    }


def test_without_a_file_there_is_the_list_of_newsletter_yaml(config: Config) -> None:
    assert load_lists(replace(config, list="news")).lists == {
        "news": List(id="news", name=config.title, description={}, double_opt_in=True)
    }


@pytest.mark.parametrize(
    ("languages", "blank"), [("[en]", True), ("[es, en]", True), ("[EN]", None), ("[en-GB]", False), ("[es-PE]", False)]
)
def test_whoever_has_no_language_has_the_default_one(config: Config, languages: str, blank: bool | None) -> None:
    text = f"lists: [{{id: weekly, name: W}}]\nsegments: {{s: {{languages: {languages}}}}}\n"
    if blank is None:
        assert said(config, text)
    else:
        assert lists(config, text).segments["s"].blank is blank


HEAD = "lists: [{id: weekly, name: W}]\nsegments:\n  s:\n"
FILE = str(Path("subscribers") / "lists.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"{FILE}: is empty [lists.empty]"),
        ("lists: []\n", f"{FILE}:1:1: lists: is empty [lists.missing]"),
        ("list: []\nlists: [{id: a, name: A}]\n", '1:1: list: unknown key, did you mean "lists"? [lists.unknown-key]'),
        ("lists:\n  - id: a\n", "2:5: lists[0].name: is missing [lists.missing]"),
        ("lists:\n  - {id: a b, name: A}\n", "lists[0].id: must be one word"),
        ("lists:\n  - {id: a, nmae: A}\n", 'lists[0].nmae: unknown key, did you mean "name"?'),
        ("lists:\n  - {id: a, name: A}\n  - {id: a, name: B}\n", "3:6: lists[1].id: there is a list a already"),
        ("lists: [{id: a, name: {fr: A}}]\n", "lists[0].name.fr: not a language of this workspace"),
        (HEAD + "    tag: {any: [a]}\n", '4:5: segments.s.tag: unknown key, did you mean "tags"?'),
        (HEAD + "    languages: es\n", 'segments.s.languages: must be a list, is "es"'),
        (HEAD + "    languages: [fr]\n", "4:5: segments.s.languages: fr is not a language of this workspace"),
        (HEAD + "    tags: {any: [board, '']}\n", "segments.s.tags.any[1]: must be a text or a number"),
        (HEAD + f"    tags: {{any: [{'x' * 101}]}}\n", "segments.s.tags.any: is longer than 100 characters"),
        (HEAD + "    tags: {}\n", "segments.s: says nothing, so that it would be everybody [lists.empty]"),
        (HEAD + "    any: []\n", "segments.s: says nothing, so that it would be everybody [lists.empty]"),
        (HEAD + "    not: {}\n", "segments.s.not: says nothing, so that it would be everybody [lists.empty]"),
        (HEAD + "    any: [{}, {languages: [es]}]\n", "segments.s.any[0]: says nothing"),
        (HEAD + "    joined: {after: yesterday}\n", "4:5: segments.s.joined.after: yesterday is no day"),
        (HEAD + "    joined: {before: 2017-02-30}\n", "segments.s.joined.before: 2017-02-30 is no day"),
        (HEAD + "    joined: {after: 9999-12-31}\n", "segments.s.joined.after: 9999-12-31 is no day"),
        (HEAD + "    joined: {after: 99999 days}\n", "segments.s.joined.after: 99999 days is no day"),
        (HEAD + "    attributes: [{equals: Lima}]\n", "segments.s.attributes[0].name: is missing"),
        (HEAD + "    attributes: [{name: city}]\n", "segments.s.attributes[0]: says nothing about city"),
        (HEAD + "    attributes: [{name: c, equals: a, one_of: [b]}]\n", "attributes[0]: has both equals and one_of"),
        (HEAD + "    attributes: [{name: age, at_least: ten}]\n", "attributes[0].at_least: ten is no number"),
        (HEAD + "    attributes: [{name: a, more_than: 1234567890123456}]\n", "1234567890123456 is no number"),
        (HEAD + "    attributes: {city: Lima}\n", "segments.s.attributes: must be a list, is a map"),
        (HEAD + "    any: [{any: [{any: [{languages: [es]}]}]}]\n", "segments.s.any[0].any[0].any: unknown key"),
    ],
)
def test_a_slip_is_said_with_its_place(config: Config, text: str, message: str) -> None:
    found = said(config, text)
    assert any(message in each for each in found), found


def test_the_example_of_the_documentation_loads(config: Config) -> None:
    page = (Path(__file__).parents[2] / "docs" / "subscribers.md").read_text("utf-8")
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert example
    assert list(lists(config, example[1]).segments) == ["abroad", "board", "new"]


def test_every_slip_is_said_at_once(config: Config) -> None:
    text = HEAD + "    tags: {all: [a], non: [b]}\n    joined: {after: soon}\n    attributes: [{name: a}]\n"
    assert len(said(config, text)) == 3


def test_a_file_that_cannot_be_read_is_said(config: Config) -> None:
    config.lists.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"lists\.yaml: error: cannot be read"):
        load_lists(config)


def test_the_schema_takes_a_good_file_and_no_bad_one(config: Config) -> None:
    schema = json_schema(LISTS, title="lists", languages=config.languages)
    Draft202012Validator.check_schema(schema)
    good = {
        "lists": [{"id": "weekly", "name": "Weekly"}],
        "segments": {"s": {"tags": {"any": ["a", 2017]}, "any": [{"not": {"joined": {"after": "30 days"}}}]}},
    }
    assert Draft202012Validator(schema).is_valid(good)
    assert not Draft202012Validator(schema).is_valid({**good, "segments": {"s": {"tag": []}}})
