from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.config import Config
from newsletter.content.format import add_stories, format_blocks, format_issue, format_story
from newsletter.content.issue import Story, parse_blocks, parse_issue
from newsletter.content.markdown import slot_in_result
from newsletter.errors import IssueError, Where
from newsletter.shape import UNPRINTABLE
from newsletter.source import one_line_end

PATH = Path("issues/2017-11-19.yaml")
HERE = Where(path="here")

# Any text that an issue may hold: all of Unicode but what cannot be seen, and no slots.
signs = st.characters(exclude_categories=["Cs", "Cc"]).filter(lambda sign: not UNPRINTABLE.search(sign))
awkward = st.sampled_from(
    [
        *("- ", ": ", " #", "#", "'", '"', "\\", "|", ">", "&", "*", "!", "%", "@", "`", "{", "}", "[", "]", ",", "?"),
        *("no", "~", "0x1", "2017-11-19", "---", "...", "=", "<<", "null"),
        *("\u2028", "\ufeff", "é", "👩\u200d👩\u200d👧", "\u202e", "  "),
    ]
)
lines = st.lists(st.one_of(signs, awkward), min_size=1, max_size=12).map("".join)
line = lines.filter(lambda text: text.strip() and "@@" not in text)
paragraphs = st.lists(
    st.one_of(line, st.sampled_from(["", " ", "    code", "\tx", "> q", "* a"])), min_size=1, max_size=5
)
markdown = paragraphs.map("\n".join).filter(
    lambda text: text.strip() and "@@" not in text and not slot_in_result(text, "es")
)


def localized(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.one_of(text, st.fixed_dictionaries({"es": text}, optional={"en": text}))


story = st.fixed_dictionaries(
    {"title": localized(line), "date": st.dates().map(str)},
    optional={
        "section": st.just("justice"),
        "url": st.just("https://example.org/a?b=c#d"),
        "source": localized(line),
        "summary": localized(markdown),
        "image": st.fixed_dictionaries({"src": st.just("images/a.png")}, optional={"alt": localized(line)}),
    },
)
issue = st.fixed_dictionaries(
    {"date": st.dates().map(str)},
    optional={
        "stories": st.lists(story, max_size=3),
        "number": st.integers(0, 999),
        "subject": localized(line),
        "preheader": localized(line),
        "intro": localized(markdown),
    },
)
comment = st.text(signs.filter(lambda sign: sign not in "\x85\u2028\u2029\ufeff"), max_size=8).map(
    lambda t: f"# {t}".rstrip()
)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, list[str]]:
    """An issue in one of YAML's many forms, with comments strewn between the lines, and those comments."""
    content = draw(issue)
    flow = draw(st.sampled_from([False, None, True]))
    text = yaml.safe_dump(
        content, default_flow_style=flow, allow_unicode=draw(st.booleans()), sort_keys=draw(st.booleans())
    )
    places = [0] + [match.start() for match in re.finditer(r"^ *(?:- )?[a-z]+:", text, re.MULTILINE)] + [len(text)]
    comments: list[str] = []
    for place in sorted(draw(st.sets(st.sampled_from(places), max_size=4)), reverse=True):
        comments.append(draw(comment))
        text = f"{text[:place]}{' ' * draw(st.integers(0, 8))}{comments[-1]}\n{text[place:]}"
    return one_line_end(text), comments


@settings(max_examples=300)
@given(written())
def test_formatting_loses_nothing_settles_at_once_and_keeps_comments(source: tuple[str, list[str]]) -> None:
    text, comments = source
    config = _config()
    try:
        before = parse_issue(text, PATH, config)
    except IssueError:  # a comment fell into a multi-line scalar: not the form of file this test is about
        return
    formatted = format_issue(text, PATH, config)
    assert parse_issue(formatted, PATH, config) == before
    assert format_issue(formatted, PATH, config) == formatted
    for each in comments:
        assert each in formatted or each not in _comments_of(text)


def _comments_of(text: str) -> list[str]:
    from newsletter.content.format import _comments

    return [each.text for each in _comments(text)]


@settings(max_examples=150)
@given(written(), st.lists(st.tuples(line, markdown), min_size=1, max_size=2))
def test_added_stories_leave_every_other_line_alone(source: tuple[str, list[str]], new: list[tuple[str, str]]) -> None:
    text, _ = source
    config = _config()
    try:
        before = parse_issue(text, PATH, config)
    except IssueError:
        return
    stories = [
        Story(
            title={"en": " ".join(title.split("\n")).strip()},
            date=before.date,
            summary={"es": text.strip()},
            where=HERE,
        )
        for title, text in new
    ]
    result = add_stories(text, stories, PATH, config)
    after = parse_issue(result, PATH, config)
    assert after.stories == (*before.stories, *stories)
    assert (after.subject, after.intro, after.number) == (before.subject, before.intro, before.number)
    for each in _comments_of(text):
        assert each in result


def _config() -> Config:
    from newsletter.config import Sender

    return Config(
        root=Path(),
        title={"en": "News"},
        tagline={},
        sender=Sender(name={"en": "News"}, address="news@example.org", reply_to=None, unsubscribe=None),
        postal_address={},
        languages=("en", "es"),
        missing_translation="fallback",
        week_ends="sunday",
        group_by="auto",
        sections={},
        base_url="https://news.example.org",
        images="link",
        list="weekly",
        outbox=Path("build/outbox"),
    )


MESSY = """\
# The issue of the week of the UPR.

# the year's last but six
number:   5   # after 4
date: "2017-11-19"
stories:
- summary: {es: "Dos\\n\\npárrafos", en: 'One: two'}   # both by Ana
  # checked with the UPR site
  date: 2017-11-19
  title: >
    A long
    title
  # end of the first
- {date: 2017-11-18, title: "no"}  # short
# nothing else this week
blocks:
  - join
  - aims
"""

NEAT = """\
# The issue of the week of the UPR.

date: 2017-11-19
# the year's last but six
number: 5  # after 4
stories:
  - title: A long title
    # checked with the UPR site
    date: 2017-11-19
    summary:  # both by Ana
      en: |
        One: two
      es: |
        Dos

        párrafos
    # end of the first

  - title: "no"
    date: 2017-11-18  # short
# nothing else this week
blocks: [join, aims]
"""


@pytest.fixture
def blocks(config: Config) -> None:
    (config.issues / "blocks.yaml").write_text("aims: {title: Aims}\njoin: {title: Join}\n")


@pytest.mark.usefixtures("blocks")
def test_the_canonical_text(config: Config) -> None:
    assert format_issue(MESSY, PATH, config) == NEAT


def test_a_broken_file_is_not_formatted(config: Config) -> None:
    with pytest.raises(IssueError):
        format_issue("date: 2017-11-19\nstorys: []\n", PATH, config)


def test_an_added_story_goes_below_the_last_and_above_the_blocks(config: Config) -> None:
    text = "date: 2017-11-19\nstories:\n- title:   kept   as it is # mine\n  date: 2017-11-19\n\n# b\nnumber: 3\n"
    story = Story(title={"en": "New"}, date=parse_issue(text, PATH, config).date, where=HERE)
    added = "\n- title:\n    en: New\n  date: 2017-11-19\n"
    assert add_stories(text, [story], PATH, config) == text.replace("\n\n# b", f"\n{added}\n# b")


@pytest.mark.parametrize(
    "stories",
    [
        "- title: One\n# mine\n  date: 2017-11-19\n",
        "# mine\n- title: One\n  date: 2017-11-19\n",
        '- date: 2017-11-19\n  title: "One\n\nand\n  two"\n',
        "- title: One\n  date: 2017-11-19\n  summary:\n",
        "- title: One\n  date: 2017-11-19\n  summary: |\n    # no comment\n\n    text\n\n\n",
        "- {title: One,\n  date: 2017-11-19}\n",
    ],
)
@pytest.mark.parametrize("rest", ["", "\nnumber: 3\n", "# below\nnumber: 3\n", "...\n"])
def test_a_story_is_added_below_the_last_however_that_is_written(config: Config, stories: str, rest: str) -> None:
    text = f"date: 2017-11-19\nstories:\n{stories}{rest}"
    before = parse_issue(text, PATH, config)
    story = Story(title={"en": "New"}, date=before.date, where=HERE)
    result = add_stories(text, [story], PATH, config)
    assert parse_issue(result, PATH, config).stories == (*before.stories, story)
    assert result.endswith(rest)


def test_a_comment_without_a_space_gets_one_where_the_value_loses_its_quotes(config: Config) -> None:
    formatted = format_issue('date: 2017-11-19\nsubject: "A" #x\n', PATH, config)
    assert formatted == "date: 2017-11-19\nsubject: A  # x\n"
    assert parse_issue(formatted, PATH, config).subject == {"en": "A"}


def test_blocks_are_formatted_too(config: Config) -> None:
    text = "join: {text: 'Do', title: 'Join us', style: call} # last\n"
    formatted = format_blocks(text, Path("issues/blocks.yaml"), config)
    assert formatted == "join:  # last\n  style: call\n  title: Join us\n  text: |\n    Do\n"
    assert parse_blocks(formatted, "b", config) == parse_blocks(text, "b", config)


def test_a_story_in_a_folder_keeps_its_markdown(config: Config) -> None:
    folder = config.issues / "2017-11-19"
    folder.mkdir()
    path = folder / "one.md"
    text = "---\ndate: 2017-11-18\ntitle: 'One'\n---\nBody  \nwith *marks*\n\n---\nand a rule\n\n\n"
    path.write_text(text)
    formatted = format_story(text, path, config)
    assert formatted == "---\ntitle: One\ndate: 2017-11-18\n---\n\nBody  \nwith *marks*\n\n---\nand a rule\n"


def test_new_texts_are_plain_strings_where_there_is_one_language_and_maps_where_another_may_join(
    config: Config,
) -> None:
    story = Story(title={"en": "New"}, date=date(2017, 11, 19), where=HERE)
    text = "date: 2017-11-19\n"
    assert "  - title:\n      en: New\n" in add_stories(text, [story], PATH, config)
    assert "  - title: New\n" in add_stories(text, [story], PATH, replace(config, languages=("en",)))


def test_a_doubt_about_a_story_in_a_folder_does_not_keep_it_from_its_canonical_form(config: Config) -> None:
    folder = config.issues / "2017-11-19"
    folder.mkdir()
    path = folder / "one.md"
    path.write_text("---\ndate: 2017-11-18\ntitle: One # of two\n---\nBody\n")
    assert format_story(path.read_text(), path, config).startswith("---\ntitle: One # of two\ndate: 2017-11-18\n")


def test_formatting_does_not_settle_whether_a_comment_was_meant_as_text(config: Config) -> None:
    text = "date: 2017-11-19 # Sunday\nsubject: Fine of # pesos\nintro: A road # 10\n"
    formatted = format_issue(text, PATH, config)
    assert formatted == "date: 2017-11-19  # Sunday\nsubject: Fine of # pesos\nintro: A road # 10\n"
    assert len(parse_issue(formatted, PATH, config).remarks) == 2
