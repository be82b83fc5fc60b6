"""Each code of a check has an issue that makes it appear and one that does not; whatever files hold, checking ends with
findings.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.build import sample_recipient
from newsletter.checks import FAMILIES, Checked, check_issue, content, message
from newsletter.checks.examined import Examined
from newsletter.config import Config, load_config
from newsletter.content.issue import parse_issue
from newsletter.errors import Finding, InputError, Where
from newsletter.rendering.edition import Edition, Image, Mailbox, filled
from newsletter.rendering.render import sample_root

ISSUE = """\
date: 2017-11-19
subject: {en: A mill reopens, es: Reabre un molino}
preheader: {en: And a road closes, es: Y cierra un camino}
stories:
  - title: {en: The mill, es: El molino}
    date: 2017-11-18
    section: land
    url: https://example.org/mill
    summary: {en: It grinds again., es: Muele otra vez.}
  - title: {en: The road, es: El camino}
    date: 2017-11-13
    url: https://example.org/road
    image: {src: images/road.png, alt: {en: A road, es: Un camino}}
    summary: {en: It is closed., es: Está cerrado.}
"""


def opinions(text: str, config: Config, *, name: str = "2017-11-19") -> list[Finding]:
    """What the content family says of an issue that loads."""
    issue = parse_issue(text, config.issues / f"{name}.yaml", config)
    return list(content.check(Examined(issue=issue, editions={}, config=config)))


def test_nothing_is_wrong_with_a_good_issue(config: Config) -> None:
    assert opinions(ISSUE, config) == []


CONTENT: dict[str, tuple[str, str, str, int]] = {
    # code: what is replaced in the good issue, by what, severity, line
    "file-name": ("date: 2017-11-19", "date: 2017-11-26", "error", 1),
    "week-end": ("date: 2017-11-19", "date: 2017-11-18", "warning", 1),
    "no-stories": ("stories:[^§]*", "intro: {en: Hello, es: Hola}", "warning", 0),
    "no-subject": ("subject", "#", "warning", 0),
    "long-subject": ("A mill reopens", "A" * 91, "warning", 2),
    "no-preheader": ("preheader", "#", "note", 0),
    "week": ("2017-11-13", "2017-11-12", "warning", 11),
    "section": ("section: land", "section: lnad", "warning", 7),
    "no-summary": ("    summary: {en: It is closed., es: Está cerrado.}\n", "", "warning", 10),
    "no-alt": (", alt: {en: A road, es: Un camino}", "", "warning", 13),
    "placeholder": ("It grinds again.", "…", "error", 9),
    "as-typed": ("It grinds again.", '"It [grinds](/mill) again."', "warning", 9),
    "same-link": ("example.org/road", "EXAMPLE.org/mill/#top", "warning", 12),
    "same-title": ("The road", "the  Mill!", "warning", 10),
}


@pytest.mark.parametrize("code", CONTENT)
def test_each_opinion_appears_with_its_place_and_a_next_step(config: Config, code: str) -> None:
    old, new, severity, line = CONTENT[code]
    text = re.sub(old, lambda _: new, ISSUE, count=1)
    assert text != ISSUE
    (finding,) = [each for each in opinions(text, config) if each.code == f"content.{code}"]
    assert (finding.severity, finding.where and finding.where.line) == (severity, line)
    assert finding.help


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A mill reopens", "A" * 90),
        ("2017-11-18", "2017-11-19"),
        ("section: land", "section: justice"),
        ("It grinds again.", "It grinds again…"),
        ("example.org/road", "example.org/mill?page=2"),
    ],
)
def test_what_is_just_inside_a_limit_is_no_finding(config: Config, old: str, new: str) -> None:
    assert opinions(ISSUE.replace(old, new), config) == []


def test_an_issue_with_no_sections_configured_may_name_any(config: Config) -> None:
    free = replace(config, sections={})
    assert opinions(ISSUE.replace("section: land", "section: sea"), free) == []


def test_a_file_may_have_more_in_its_name_than_the_date(config: Config) -> None:
    assert opinions(ISSUE, config, name="2017-11-19-special") == []


def test_two_titles_of_signs_alone_are_not_taken_for_the_same(config: Config) -> None:
    text = ISSUE.replace("The mill", "¿?").replace("The road", "…!")
    assert opinions(text, config) == []


def test_the_week_ends_where_the_configuration_says(config: Config) -> None:
    text = re.sub("2017-11-1[38]", "2017-11-20", ISSUE.replace("date: 2017-11-19\nsub", "date: 2017-11-24\nsub"))
    assert opinions(text, replace(config, week_ends="friday"), name="2017-11-24") == []


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
def test_the_first_and_the_last_day_there_is_are_days_like_others(config: Config, day: str) -> None:
    found = opinions(ISSUE.replace("date: 2017-11-19\nsub", f"date: {day}\nsub"), config, name=day)
    assert {each.code for each in found} <= {"content.week", "content.week-end"}


# --- the finished message ---

GOOD = Edition(
    key="2017-11-19",
    language="en",
    direction="ltr",
    kind="bulk",
    subject="A mill reopens",
    sender=Mailbox(address="news@example.org", name="Valley News"),
    list_id=("Valley News", "weekly.news.example.org"),
    html='<!doctype html><html><body><p>Hello</p><a href="@@UNSUBSCRIBE_URL@@">Leave</a></body></html>',
    text="Hello\n\nLeave:\n@@UNSUBSCRIBE_URL@@\n",
)


def examined(edition: Edition, config: Config) -> list[Finding]:
    """What the message family says of an edition."""
    issue = parse_issue(ISSUE, Path("issues/2017-11-19.yaml"), config)
    return list(message.check(Examined(issue=issue, editions={"en": edition}, config=config)))


def body(markup: str) -> Edition:
    return replace(GOOD, html=GOOD.html.replace("<p>Hello</p>", markup))


def image(size: int) -> Image:
    return Image(name="a.png", media_type="image/png", content=b"x" * size, width=1, height=1)


def test_nothing_is_wrong_with_a_good_message(config: Config) -> None:
    assert examined(GOOD, config) == []


@pytest.mark.parametrize(
    ("edition", "code"),
    [
        (replace(GOOD, key="2017 11"), "message.envelope"),
        (replace(GOOD, sender=Mailbox(address="nobody")), "message.envelope"),
        (replace(GOOD, subject="Hello @@NAME@@"), "envelope.slot-in-header"),
        (body("<p>@@UNSUBSCRIBE@@</p>"), "envelope.unknown-slot"),
        (body('<a href="@@VIEW_URL@@#s1">x</a>'), "envelope.partial-url-slot"),
        (replace(GOOD, text="Hello"), "message.unsubscribe"),
        (replace(GOOD, images=(image(500_001),)), "message.heavy-image"),
        (body("<script>1</script>"), "message.forbidden"),
        (body("<form></form>"), "message.forbidden"),
        (body("<a>nowhere</a>"), "message.empty-link"),
        (body('<a href="">nowhere</a>'), "message.empty-link"),
        (body('<a href="https://example.org/"> </a>'), "message.wordless-link"),
        (
            body('<a href="https://example.org/"><img alt="" src="https://example.org/a.png"></a>'),
            "message.wordless-link",
        ),
        (body('<img src="https://example.org/a.png">'), "message.no-alt"),
    ],
)
def test_each_fault_of_a_message_appears(config: Config, edition: Edition, code: str) -> None:
    found = examined(edition, config)
    assert [each.code for each in found] == [code]
    assert found[0].help


@pytest.mark.parametrize(
    "edition",
    [
        body('<a href="@@VIEW_URL@@">x</a> @@NAME@@'),
        body('<a href="https://example.org/" aria-label="Home"></a>'),
        body('<a href="https://example.org/"><img alt="Home" src="https://example.org/a.png"></a>'),
        body('<img alt="" src="https://example.org/a.png">'),
        replace(GOOD, images=(image(500_000),)),
        replace(GOOD, kind="transactional", list_id=None, html="<p>Hello</p>", text="Hello"),
    ],
)
def test_what_looks_like_a_fault_and_is_none_is_no_finding(config: Config, edition: Edition) -> None:
    assert examined(edition, config) == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (89_999, []),
        (90_000, [("message.large", "warning")]),
        (102_399, [("message.large", "warning")]),
        (102_400, [("message.clipped", "error")]),
    ],
)
def test_the_size_counts_in_bytes_with_the_slots_filled(
    config: Config, size: int, expected: list[tuple[str, str]]
) -> None:
    start = body("<p>é§</p>")
    slots = sample_recipient(start, config).slots
    missing = size - len(filled(start, slots)[0].encode())
    edition = replace(start, html=start.html.replace("§", "x" * (missing + 2)))
    assert len(filled(edition, slots)[0].encode()) == size
    assert [(each.code, each.severity) for each in examined(edition, config)] == expected


def test_a_missing_postal_address_is_a_warning_at_the_configuration(config: Config) -> None:
    (finding,) = examined(GOOD, replace(config, postal_address={}))
    assert (finding.code, finding.severity) == ("message.postal-address", "warning")
    assert finding.where is not None
    assert finding.where.path == "newsletter.yaml"


# --- all together ---


@pytest.fixture
def desk(config: Config) -> Config:
    """A workspace with everything in it: templates, pictures, blocks, a good issue."""
    sample = sample_root()
    shutil.copytree(sample / "templates", config.root / "templates")
    shutil.copytree(sample / "issues" / "images", config.issues / "images")
    shutil.copy(config.issues / "images" / "plaza.png", config.issues / "images" / "road.png")
    (config.issues / "2017-11-19.yaml").write_text(ISSUE + "blocks: [join]\n", "utf-8")
    blocks = "join: {style: call, title: {en: Join, es: Únete}, url: https://example.org/join}\n"
    (config.issues / "blocks.yaml").write_text(blocks, "utf-8")
    return config


def check(config: Config) -> Checked:
    return check_issue(config.issues / "2017-11-19.yaml", config)


def test_a_good_issue_has_no_finding_and_an_edition_per_language(desk: Config) -> None:
    checked = check(desk)
    assert checked.findings == ()
    assert (list(checked.editions), checked.ok) == (["en", "es"], True)


def change(path: Path, step: Callable[[str], str]) -> None:
    text = path.read_text("utf-8")
    assert step(text) != text
    path.write_text(step(text), "utf-8")


@pytest.mark.parametrize("template", ["digest.mjml.j2", "partials/footer.txt.j2"])
def test_an_unknown_slot_in_a_template_is_an_error_at_the_template_s_line(desk: Config, template: str) -> None:
    path = desk.templates / template
    change(path, lambda text: text.replace("@@VIEW_URL@@", "@@VIEW@@").replace("@@PREFERENCES_URL@@", "@@VIEW@@"))
    line = next(number for number, text in enumerate(path.read_text("utf-8").split("\n"), 1) if "@@VIEW@@" in text)
    found = [each for each in check(desk).findings if each.code == "template.slot"]
    assert found[0].message == '@@VIEW@@ is not a slot, did you mean "VIEW_URL"?'
    assert found[0].where == Where(path=f"templates/{template}", line=line)


def test_a_url_slot_that_is_only_a_part_of_an_attribute_is_an_error_that_names_the_edition(desk: Config) -> None:
    change(desk.templates / "digest.mjml.j2", lambda text: text.replace("@@VIEW_URL@@", "@@VIEW_URL@@?x=1", 1))
    found = [each for each in check(desk).findings if each.code == "envelope.partial-url-slot"]
    assert [each.message.partition(",")[0] for each in found] == ["edition 2017-11-19 (en)", "edition 2017-11-19 (es)"]
    assert 'href="@@VIEW_URL@@"' in found[0].help


def test_what_is_wrong_in_every_language_is_said_once(desk: Config) -> None:
    (desk.issues / "images" / "road.png").unlink()
    checked = check(desk)
    assert [each.code for each in checked.findings] == ["image.missing"]
    assert (checked.editions, checked.ok) == ({}, False)


def test_findings_come_gravest_first_and_then_by_place(desk: Config) -> None:
    text = ISSUE.replace("preheader", "#").replace("2017-11-13", "2017-11-12").replace("It grinds again.", "…")
    (desk.issues / "2017-11-19.yaml").write_text(text.replace("section: land", "section: sea"), "utf-8")
    found = [(each.severity, each.where.line if each.where else 0) for each in check(desk).findings]
    assert found == [("error", 9), ("warning", 7), ("warning", 11), ("note", 0)]


def test_an_issue_that_does_not_load_and_templates_that_do_not_are_told_together(desk: Config) -> None:
    change(desk.issues / "2017-11-19.yaml", lambda text: text.replace("date:", "dat:"))
    change(desk.templates / "theme.yaml", lambda text: re.sub('page: "#', 'page: "', text))
    checked = check(desk)
    assert checked.issue is None
    assert {each.code for each in checked.findings} >= {"issue.unknown-key", "theme.value"}


def test_an_issue_that_is_not_there_is_a_finding(desk: Config) -> None:
    (finding,) = check_issue(desk.issues / "2017-11-26.yaml", desk).findings
    assert (finding.code, finding.severity) == ("issue.not-found", "error")


def test_every_family_is_part_of_the_check(desk: Config) -> None:
    assert (content.check, message.check) == FAMILIES


WRITTEN = ["newsletter.yaml", "issues/2017-11-19.yaml", "issues/blocks.yaml", "templates/theme.yaml"]
WRITTEN += [f"templates/{name}" for name in ("labels.yaml", "digest.mjml.j2", "digest.txt.j2", "content.css.j2")]
WRITTEN += [f"templates/partials/{name}" for name in ("layout.mjml.j2", "story.mjml.j2")]
SLIPS = [
    "\n",
    " ",
    "  - ",
    ":",
    '"',
    "'",
    "{",
    "}",
    "{{ ",
    " }}",
    "{%",
    "%}",
    "{#",
    "<",
    "</",
    ">",
    "&",
    "@@",
    "@@NAME@@",
]
SLIPS += [
    "<mj-text>",
    "</mj-column>",
    "<mj-include path='/etc/passwd' />",
    "{% include 'x' %}",
    "{{ 1/0 }}",
    "{{ x.y }}",
]
SLIPS += [
    "\0",
    "\t",
    "\ufdd0",
    "\ufeff",
    "<!--",
    "-->",
    "é",
    "\u202e",
    "/*",
    "@import 'x';",
    "|",
    "[",
    "0001-01-01",
    "#",
]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(WRITTEN),
    st.sampled_from(["insert", "insert", "cut", "drop a line", "double a line", "bytes"]),
    st.floats(0, 1),
    st.sampled_from(SLIPS),
    st.binary(min_size=1, max_size=3),
)
def test_checking_ends_with_findings_whatever_slip_a_file_holds(
    desk: Config, name: str, kind: str, place: float, slip: str, raw: bytes
) -> None:
    path = desk.root / name
    before = path.read_bytes()
    text = before.decode()
    at = round(place * len(text))
    lines = text.split("\n")
    line = round(place * (len(lines) - 1))
    changed = {
        "insert": (text[:at] + slip + text[at:]).encode(),
        "cut": text[:at].encode(),
        "drop a line": "\n".join(lines[:line] + lines[line + 1 :]).encode(),
        "double a line": "\n".join(lines[: line + 1] + lines[line:]).encode(),
        "bytes": text[:at].encode() + raw + text[at:].encode(),
    }[kind]
    path.write_bytes(changed)
    try:
        found = check(load_config(desk.root, {})).findings
    except InputError as error:  # newsletter.yaml itself
        found = error.findings
        assert name == "newsletter.yaml"
    finally:
        path.write_bytes(before)
    for each in found:
        assert each.message
        json.dumps(each.as_json())


def test_a_workspace_without_templates_and_pictures_checks_well(config: Config) -> None:
    (config.issues / "2017-11-19.yaml").write_text(re.sub("    image:.*\n", "", ISSUE), "utf-8")
    assert check(config).findings == ()
