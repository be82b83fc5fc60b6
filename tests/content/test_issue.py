"""Issues, blocks and folder stories: what is loaded, and what is said about files that cannot be."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from newsletter.config import Config, load_config
from newsletter.content.format import format_issue
from newsletter.content.issue import (
    ISSUE,
    Issue,
    issue_paths,
    load_blocks,
    load_issue,
    parse_blocks,
    parse_issue,
)
from newsletter.errors import Finding, InputError, IssueError
from newsletter.shape import json_schema
from newsletter.source import decode

ROOT = Path(__file__).parents[2]
SAMPLES = issue_paths(ROOT / "issues")
PATH = Path("issues/2017-11-19.yaml")

GOOD = """\
date: 2017-11-19
stories:
  - title: One
    date: 2017-11-18
    section: justice
    summary:
      en: |
        Text of it.
      es: Texto
  - title: Two
    date: 2017-11-17
blocks: [aims]
"""


@pytest.fixture(autouse=True)
def blocks(config: Config) -> None:
    (config.issues / "blocks.yaml").write_text("aims: {title: Aims}\njoin: {style: call, title: Join}\n")


def said(load: Callable[[], object]) -> list[str]:
    """What is said about files that cannot be loaded, as place: message."""
    with pytest.raises(IssueError) as caught:
        load()
    assert all(each.message.isprintable() and each.help for each in caught.value.findings)
    return [f"{each.where}: {each.message}" for each in caught.value.findings]


def about(text: str, config: Config) -> list[str]:
    """What is said about an issue file, its own name left out."""
    return [each.removeprefix(f"{PATH}:") for each in said(lambda: parse_issue(text, PATH, config))]


def put(config: Config, name: str, text: str) -> Path:
    path = config.issues / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


# --- what is loaded ---


def test_an_issue_as_it_is_written(config: Config) -> None:
    issue = load_issue(put(config, "2017-11-19.yaml", GOOD), config)
    one, two = issue.stories
    assert (issue.name, issue.date, issue.number, issue.subject) == ("2017-11-19", date(2017, 11, 19), None, {})
    assert (one.title, one.date, one.section) == ({"en": "One"}, date(2017, 11, 18), "justice")
    assert one.summary == {"en": "Text of it.", "es": "Texto"}
    assert (two.title, two.summary, two.image) == ({"en": "Two"}, {}, None)
    assert [block.title for block in issue.blocks] == [{"en": "Aims"}]


def test_everything_knows_where_it_stands(config: Config) -> None:
    issue = parse_issue(GOOD, PATH, config)
    assert str(issue.at("blocks")) == f"{PATH}:12:1"
    assert str(issue.at("subject")) == str(PATH)
    assert [str(story.where) for story in issue.stories] == [f"{PATH}:3:5", f"{PATH}:10:5"]
    assert str(issue.stories[0].at("summary")) == f"{PATH}:6:5"
    assert str(issue.stories[1].at("summary")) == f"{PATH}:10:5"


def test_issues_are_equal_when_their_texts_are(config: Config) -> None:
    elsewhere = "# moved\n" + GOOD.replace("title: Two", "title:   'Two'")
    assert parse_issue(elsewhere, PATH, config) == parse_issue(GOOD, PATH, config)


def test_the_samples_load_and_fit_the_schema_that_editors_use() -> None:
    config = load_config(ROOT, {})
    schema = Draft202012Validator(json_schema(ISSUE, title="Issue", languages=config.languages))
    assert SAMPLES
    for path in SAMPLES:
        assert load_issue(path, config).stories
        content = yaml.load(path.read_bytes(), yaml.BaseLoader)
        schema.validate(content | {"number": int(content["number"])})  # YAML 1.2, the editors', knows numbers


def test_issue_files_are_those_named_by_a_date_oldest_first(config: Config) -> None:
    for name in (
        "2017-11-19.yaml",
        "2016-01-03.yaml",
        "2017-11-19-extra.yaml",
        "notes.yaml",
        "2017-11-19.yml",
        ".2017-01-01.yaml",
    ):
        put(config, name, "")
    put(config, "2017-11-19/one.md", "")
    assert [path.name for path in issue_paths(config.issues)] == [
        "2016-01-03.yaml",
        "2017-11-19-extra.yaml",
        "2017-11-19.yaml",
    ]


def test_a_missing_folder_of_issues_holds_none(config: Config) -> None:
    shutil.rmtree(config.issues)
    assert issue_paths(config.issues) == []


# --- files that real editors make: what is replaced in GOOD by what, and all that is said about it ---

SLIPS = {
    "a missing quote": ("title: One", 'title: "One', "3:12: a quote that is never closed"),
    "a quote closed by another": (
        "title: One",
        "title: 'One\n    source: 'X'",
        "3:12: a quote that is only closed by the next one, in line 4",
    ),
    "a list without indentation": ("  - title: One", "- title: One", "4:5: is indented deeper than the line above it"),
    "a tab": ("    date: 2017-11-18", "\tdate: 2017-11-18", "4:1: a tab in the indentation"),
    "a colon in a title": ("title: One", "title: Peru: the vote", "3:16: a colon where no key can stand"),
    "a date as people write it": (
        "2017-11-18",
        "18/11/2017",
        '4:11: stories[0].date: must be a date written as YYYY-MM-DD, is "18/11/2017"',
    ),
    "a day that is not": (
        "2017-11-18",
        "2017-11-31",
        "4:11: stories[0].date: there is no such day as 2017-11-31",
    ),
    "a misspelt key": ("summary:", "sumary:", '6:5: stories[0].sumary: unknown key, did you mean "summary"?'),
    "a key with a capital": ("section:", "Section:", '5:5: stories[0].Section: unknown key, did you mean "section"?'),
    "a list where languages stand": (
        "en: |\n        Text of it.\n      es: Texto",
        "- A\n      - B",
        "7:7: stories[0].summary: must be a text, is a list",
    ),
    "a map where a list stands": ("[aims]", "{aims: yes}", "12:9: blocks: must be a list, is a map"),
    "a name where a list stands": ("[aims]", "aims", '12:9: blocks: must be a list, is "aims"'),
    "an unknown language": ("es: Texto", "fr: Texte", "9:7: stories[0].summary.fr: not a language of this workspace"),
    "text beside languages": ("en: |\n        Text of it.", "Text of it.", "7:7: a key without its colon"),
    "text not under its bar": ("        Text of it.", "      Text of it.", "8:7: a key without its colon"),
    "curly quotes around a key": (
        "section:",
        "“section”:",
        '5:5: stories[0].“section”: unknown key, did you mean "section"?',
    ),
    "no space after a colon": ("section: justice", "section:justice", "5:13: no space after the colon"),
    "no space after a dash": ("- title: One", "-title: One", "3:4: no space after the dash"),
    "a forgotten dash": (
        "  - title: Two",
        "    title: Two",
        "10:5: title: stands twice here; the first is in line 3",
        "11:5: date: stands twice here; the first is in line 4",
    ),
    "a key that stands twice": (
        "section: justice",
        "date: 2017-11-18",
        "5:5: date: stands twice here; the first is in line 4",
    ),
    "an at sign": ("title: One", "title: @rosa speaks", "3:12: a text cannot begin with @"),
    "a percent sign": ("title: One", "title: %5 more", "3:12: a text cannot begin with %"),
    "a hashtag": (
        "title: One",
        "title: One #NiUnaMenos more",
        "3:16: #NiUnaMenos begins a comment: it and the rest of the line is left out",
    ),
    "bold text": ("es: Texto", "es: **Texto**", "9:11: a text that begins with a star"),
    "a bracket never closed": (
        "[aims]",
        "[aims",
        "12:9: a bracket that is not closed before line 13, or a comma missing there",
    ),
    "a bracket before a title": ("title: One", "title: [Updated] One", "3:22: text after the closing bracket"),
    "pasted HTML": ("        Text of it.", "<p>Text</p>", "8:1: a key without its colon"),
    "Word's indentation": (
        "    section",
        "\xa0\xa0\xa0\xa0section",
        '5:1: U+00A0 (no-break space) in the key "section"',
    ),
    "Word's space": (
        "section: justice",
        "section:\xa0justice",
        "5:13: U+00A0 (no-break space) where an ordinary space belongs",
    ),
    "an address without https": (
        "section: justice",
        "url: example.org/x",
        '5:10: stories[0].url: must be a full http(s) address, is "example.org/x"',
    ),
    "an image without its keys": (
        "section: justice",
        "image: images/a.png",
        '5:12: stories[0].image: must be a map of keys, is "images/a.png"',
    ),
    "no title": ("- title: One\n    date", "- date", "3:5: stories[0].title: is missing"),
    "an empty title": ("title: One", 'title: ""', "3:5: stories[0].title: is empty"),
    "a title empty in each language": ("title: One", "title: {en: , es: ' '}", "3:5: stories[0].title: is empty"),
    "a story that is only a dash": (
        "- title: Two\n    date: 2017-11-17",
        "-",
        "10:4: stories[1]: must be a map of keys, is empty",
    ),
    "an unknown block": ("[aims]", "[aims, jion]", '12:16: blocks: there is no block jion, did you mean "join"?'),
    "a slot": (
        "Text of it.",
        "Text @@X@@",
        "7:11: stories[0].summary.en: holds @@, which marks a slot, and only @@NAME@@ may stand in a text",
    ),
    "a slot in a link": (
        "Text of it.",
        "x https://x.org/@@NAME@@",
        "7:11: stories[0].summary.en: holds a slot inside a URL",
    ),
    "a slot that Markdown would make": (
        "Text of it.",
        "&#64;&#64;X@\\@",
        "6:5: stories[0].summary.en: makes a slot or a link with one in it",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_reported_where_it_was_made_and_nothing_else_is(config: Config, slip: str) -> None:
    old, new, *messages = SLIPS[slip]
    assert old in GOOD
    assert about(GOOD.replace(old, new, 1), config) == messages


@pytest.mark.parametrize(
    "title", ["Yes", "no", "1984", "null hypothesis", "12:30", "-- One", "#1 in Lima", "it's", "a - b", "O’Brien"]
)
def test_a_title_is_the_text_that_stands_there(config: Config, title: str) -> None:
    written = f'"{title}"' if title.startswith("#") else title
    assert parse_issue(GOOD.replace("title: One", f"title: {written}"), PATH, config).stories[0].title == {"en": title}


def test_every_problem_of_every_file_is_reported_at_once(config: Config) -> None:
    put(config, "2017-11-19/a.md", "---\ntitle: A\n---\n")
    put(config, "2017-11-19/b.md", "no front matter")
    put(config, "blocks.yaml", "aims: {titel: Aims}\n")
    text = GOOD.replace("date: 2017-11-19", "date: soon").replace("title: Two", "titel: Two")
    assert said(lambda: parse_issue(text, PATH, config)) == [
        f'{PATH}:1:7: date: must be a date written as YYYY-MM-DD, is "soon"',
        f'{PATH}:10:5: stories[1].titel: unknown key, did you mean "title"?',
        f"{PATH}:10:5: stories[1].title: is missing",
        "issues/2017-11-19/a.md:2:1: date: is missing",
        "issues/2017-11-19/b.md:1: has no front matter",
        'issues/blocks.yaml:1:8: aims.titel: unknown key, did you mean "title"?',
        "issues/blocks.yaml:1:7: aims.title: is missing",
    ]


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n"])
def test_an_empty_file_is_no_issue(config: Config, text: str) -> None:
    assert said(lambda: parse_issue(text, PATH, config)) == [f"{PATH}: is empty"]


def test_a_subject_holds_no_slot_since_it_is_the_same_for_everyone(config: Config) -> None:
    assert about("date: 2017-11-19\nsubject: Dear @@NAME@@\n", config) == ["2:1: subject: cannot hold a slot"]


def test_a_file_in_another_encoding_is_told_from_one_in_ours(config: Config) -> None:
    path = put(config, "2017-11-19.yaml", GOOD)
    path.write_bytes(GOOD.replace("Texto", "Perú").encode("cp1252"))
    assert said(lambda: load_issue(path, config)) == [f"{PATH}:9:14: is not UTF-8: byte 0xfa ('ú' in Windows-1252)"]
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_issue(path, config) == parse_issue(GOOD, PATH, config)


# --- blocks ---


def test_blocks_come_in_the_order_of_the_issue_and_once(config: Config) -> None:
    issue = parse_issue("date: 2017-11-19\nblocks: [join, aims, join]\n", PATH, config)
    assert [(block.name, block.style) for block in issue.blocks] == [("join", "call"), ("aims", "background")]
    assert str(issue.blocks[0].where) == "issues/blocks.yaml:2:1"


def test_what_is_wrong_with_a_block(config: Config) -> None:
    text = (
        "two words: {title: A}\njoin: {title: B, button: Go}\nempty:\nstyled: {title: C, style: loud, text: '@@X@@'}\n"
    )
    assert said(lambda: parse_blocks(text, "b.yaml", config)) == [
        "b.yaml:1:1: two words: a block's name has only letters, digits, - and _",
        "b.yaml:2:18: join.button: has no url to lead to",
        "b.yaml:3:7: empty: must be a map of keys, is empty",
        'b.yaml:4:27: styled.style: must be one of the choices, is "loud"',
        "b.yaml:4:39: styled.text: holds @@, which marks a slot, and only @@NAME@@ may stand in a text",
    ]


def test_without_a_file_there_are_no_blocks(config: Config) -> None:
    (config.issues / "blocks.yaml").unlink()
    assert load_blocks(config.issues / "blocks.yaml", config) == {}
    assert about(GOOD, config) == ["12:10: blocks: there is no block aims"]


def test_a_folder_in_place_of_the_blocks_is_reported(config: Config) -> None:
    (config.issues / "blocks.yaml").unlink()
    (config.issues / "blocks.yaml").mkdir()
    assert said(lambda: parse_issue(GOOD, PATH, config)) == ["issues/blocks.yaml: cannot be read: Is a directory"]


def test_an_issue_without_blocks_does_not_read_them(config: Config) -> None:
    put(config, "blocks.yaml", "[")
    assert parse_issue(GOOD.replace("blocks: [aims]\n", ""), PATH, config).blocks == ()


# --- stories in a folder ---


def folder(config: Config, **files: str) -> Issue:
    for name, text in files.items():
        put(config, f"2017-11-19/{name.replace('__', '.')}.md", text)
    return parse_issue("date: 2017-11-19\n", PATH, config)


def test_a_folder_adds_stories_in_the_order_of_their_names(config: Config) -> None:
    text = "---\ntitle: {en: A}\ndate: 2017-11-18\n---\n\nThe *text*.\n\n---\n\nMore.\n"
    put(config, "2017-11-19/README.md", "how we write")
    put(config, "2017-11-19/_draft.md", "not yet")
    put(config, "2017-11-19/notes.txt", "notes")
    issue = folder(config, b=text.replace("A", "B"), a=text)
    assert [story.title["en"] for story in issue.stories] == ["A", "B"]
    assert issue.stories[0].summary == {"en": "The *text*.\n\n---\n\nMore."}
    assert str(issue.stories[0].at("date")) == "issues/2017-11-19/a.md:3:1"


def test_a_translation_is_a_file_of_its_own(config: Config) -> None:
    issue = folder(
        config,
        a="---\ntitle: One\ndate: 2017-11-18\nsource: UN\nimage: {src: images/a.png, alt: Hill}\n---\nText\n",
        a__es="---\ntitle: Uno\ndate: 2017-11-18\nsource: ONU\nimage: {src: images/a.png, alt: Cerro}\n---\nTexto\n",
        b__es="---\ntitle: Solo\ndate: 2017-11-17\n---\n",
    )
    one, two = issue.stories
    assert one.title == {"en": "One", "es": "Uno"}
    assert one.summary == {"en": "Text", "es": "Texto"}
    assert one.source == {"en": "UN", "es": "ONU"}
    assert one.image is not None
    assert one.image.alt == {"en": "Hill", "es": "Cerro"}
    assert two.title == {"es": "Solo"}


@pytest.mark.parametrize(
    ("suffix", "hint"), [("fr", ""), ("ES", ', did you mean "es"?'), ("ess", ', did you mean "es"?')]
)
def test_a_translation_into_no_language_of_ours_does_not_become_a_second_story(
    config: Config, suffix: str, hint: str
) -> None:
    text = "---\ntitle: One\ndate: 2017-11-18\n---\n"
    assert said(lambda: folder(config, **{"a": text, f"a__{suffix}": text})) == [
        f"issues/2017-11-19/a.{suffix}.md: {suffix}, in the file's name, is not a language of this workspace{hint}"
    ]


def test_a_dot_in_a_name_is_no_language(config: Config) -> None:
    text = "---\ntitle: One\ndate: 2017-11-18\n---\n"
    assert len(folder(config, law__n__22=text, law__old=text).stories) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.md:1: has no front matter"),
        ("title: A\n", "a.md:1: has no front matter"),
        ("\n---\ntitle: A\n---\n", "a.md:1: has no front matter"),
        ("---\ntitle: A\n", "a.md:1: has no front matter"),
        ("---\n---\nText\n", "a.md:1: title: is missing"),
        ("---\ntitle: A\ndate: 2017-11-18\ntitle: B\n---\n", "a.md:4:1: title: stands twice here"),
        ("---\ntitle: Peru: A\n---\n", "a.md:2:12: a colon where no key can stand"),
        ("---\ntitle: A\ndate: 2017-11-18\nsummary: B\n---\nC\n", "a.md:4:1: summary.en: stands in the front matter"),
        ("---\ntitle: A\ndate: 2017-11-18\n---\n\n@@X@@\n", "a.md:5: summary: holds @@, which marks a slot"),
        ("---\ntitle: A\ndate: 2017-11-18\n---\n\\@\\@X\\@\\@\n", "a.md:5: summary.en: makes a slot"),
        ("---\ntitle: A\ndate: 2017-11-18\n---\nbell \x07\n", "a.md:5: summary: holds the control character U+0007"),
    ],
)
def test_what_is_wrong_with_a_story_of_a_folder(config: Config, text: str, message: str) -> None:
    messages = said(lambda: folder(config, a=text))
    assert messages[0].startswith(f"issues/2017-11-19/{message}"), messages


def test_a_story_with_foreign_line_ends_and_a_byte_order_mark_loads(config: Config) -> None:
    path = put(config, "2017-11-19/a.md", "")
    path.write_bytes(b"\xef\xbb\xbf---\r\ntitle: A\r\ndate: 2017-11-18\r\n--- \r\nB\r\n")
    assert folder(config).stories[0].summary == {"en": "B"}


# --- paths ---


def test_a_story_that_is_a_link_out_of_the_issues_is_refused_unread(config: Config, tmp_path: Path) -> None:
    secret = tmp_path / "secret.md"
    secret.write_text("---\ntitle: Secret\ndate: 2017-11-18\n---\n")
    (config.issues / "2017-11-19").mkdir()
    (config.issues / "2017-11-19" / "a.md").symlink_to(secret)
    assert said(lambda: folder(config)) == ["issues/2017-11-19/a.md: is a link to a file outside issues/"]


def test_a_folder_that_is_a_link_out_of_the_issues_is_refused_too(config: Config, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.md").write_text("---\ntitle: A\ndate: 2017-11-18\n---\n")
    (config.issues / "2017-11-19").symlink_to(tmp_path / "elsewhere")
    assert said(lambda: folder(config)) == ["issues/2017-11-19/a.md: is a link to a file outside issues/"]


def test_a_link_within_the_issues_is_followed(config: Config) -> None:
    put(config, "shared/a.md", "---\ntitle: A\ndate: 2017-11-18\n---\n")
    (config.issues / "2017-11-19").mkdir()
    (config.issues / "2017-11-19" / "a.md").symlink_to("../shared/a.md")
    assert len(folder(config).stories) == 1


@pytest.mark.parametrize("target", ["a.md", "nothing.md"])
def test_a_link_that_leads_nowhere_is_a_finding(config: Config, target: str) -> None:
    (config.issues / "2017-11-19").mkdir()
    (config.issues / "2017-11-19" / "a.md").symlink_to(target)
    assert len(said(lambda: folder(config))) == 1


def test_a_folder_where_a_story_should_be_is_a_finding(config: Config) -> None:
    (config.issues / "2017-11-19" / "a.md").mkdir(parents=True)
    assert said(lambda: folder(config)) == ["issues/2017-11-19/a.md: cannot be read: Is a directory"]


def test_a_file_named_like_the_folder_is_left_alone(config: Config) -> None:
    put(config, "2017-11-19", "what is this?")
    assert folder(config).stories == ()


@pytest.mark.parametrize(
    "name",
    [".", "..", "issues", "no/such/issue.yaml", "\0", "x" * 300, "caf\udce9.yaml", "-", "issues/2017-11-19.yaml/x"],
)
def test_a_path_that_is_no_issue_is_a_finding(config: Config, name: str) -> None:
    put(config, "2017-11-19.yaml", GOOD)
    assert len(said(lambda: load_issue(Path(name), config))) == 1


# --- fuzz: broken samples ---

SIGNS = [
    *("\t", "\xa0", "\u200b", "'", '"', "[", "]", "{", "}", "- ", ": ", ":", "#", " #x", "&a ", "*a", "!x ", "|"),
    *(">", "%"),
    *("@", "`", "@@", "\x00", "\x85", "\u2028", "\\", "? ", "---\n", "...\n", "<<: ", "\r", "\n", "\ufeff", "  "),
    *(",", "~"),
    *("!!python/object/apply:os.system ", "%YAML 1.1\n", "<<<<<<< a\n", "\x1b[31m", "&#64;", "😀", "null", "'''"),
    *('"""',),
]


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A sample file with a few slips of the hand in it."""
    lines = draw(st.sampled_from([*SAMPLES, ROOT / "issues" / "blocks.yaml"])).read_text("utf-8").split("\n")
    lines = [line[:60] for line in lines[: draw(st.integers(1, 45))]]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        column = draw(st.integers(0, len(line)))
        slip = draw(st.sampled_from(["sign", "sign", "cut", "indent", "drop", "swap", "double"]))
        if slip == "sign":
            lines[at] = line[:column] + draw(st.sampled_from(SIGNS)) + line[column:]
        elif slip == "cut":
            lines[at] = line[column:]
        elif slip == "indent":
            lines[at] = draw(st.sampled_from([" ", "  ", "\t", "\xa0"])) + line
        elif slip == "drop":
            lines[at] = ""
        elif slip == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], line
        else:
            lines.insert(at, line)
    raw = "\n".join(lines).encode()
    flip = draw(st.integers(0, 20 * len(raw)))
    return raw[:flip] + bytes([draw(st.integers(0, 255))]) + raw[flip + 1 :] if flip < len(raw) else raw


@settings(max_examples=400)
@given(st.one_of(broken(), broken(), st.binary(max_size=80)), st.sampled_from(["issue", "blocks", "story"]))
def test_a_broken_file_ends_in_findings_that_say_where_and_what_next(raw: bytes, kind: str) -> None:
    findings = _findings(raw, kind)
    for each in findings:
        assert each.message.isprintable()
        assert each.help
        assert each.where
        assert each.where.line or each.code.split(".")[1] in ("empty", "encoding")
        assert each.where.line <= raw.count(b"\n") + raw.count(b"\r") + (4 if kind == "story" else 2)


def _findings(raw: bytes, kind: str) -> tuple[Finding, ...]:
    config: Any = load_config(ROOT, {})
    text, findings = decode(raw, "f", family="issue")
    if findings:
        return tuple(findings)
    try:
        if kind == "issue":
            issue = parse_issue(text, ROOT / "issues" / "2000-01-01.yaml", config)
            formatted = format_issue(text, ROOT / "issues" / "2000-01-01.yaml", config)
            assert parse_issue(formatted, ROOT / "issues" / "2000-01-01.yaml", config) == issue
        elif kind == "blocks":
            parse_blocks(text, "f", config)
        else:
            parse_issue(re.sub("^", "  ", f"date: 2017-11-19\nstories:\n- {text}"), ROOT / "issues" / "x.yaml", config)
    except InputError as error:
        return error.findings
    return ()


def test_a_text_cut_by_a_comment_is_a_doubt_and_no_error(config: Config) -> None:
    text = "date: 2017-11-19\nsubject: Fine of # pesos\nnumber: 3 # three\nstories: []  # none\n"
    issue = parse_issue(text, PATH, config)
    assert [(str(each.where), each.severity, each.message) for each in issue.remarks] == [
        ("issues/2017-11-19.yaml:2:10", "warning", 'subject: "# pesos" is a comment, and not part of the text')
    ]


def test_two_files_of_one_story_in_the_default_language_are_an_error(config: Config) -> None:
    folder = config.issues / "2017-11-19"
    folder.mkdir()
    for name in ("mill.md", "mill.en.md"):
        (folder / name).write_text("---\ntitle: The mill\ndate: 2017-11-19\n---\nText\n", "utf-8")
    with pytest.raises(IssueError, match=r"mill\.en\.md: error: is in en, and so is mill\.md beside it"):
        parse_issue("date: 2017-11-19\n", config.issues / "2017-11-19.yaml", config)
