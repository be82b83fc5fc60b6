"""Issue → edition. Most tests look at the text part through a template of their own, so that they do not depend on the
sample's look.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import html5lib
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config, load_config
from newsletter.content.issue import parse_issue
from newsletter.envelope import edition_findings
from newsletter.errors import Finding, IssueError, TemplateError
from newsletter.rendering.edition import SLOT, URL_SLOTS, Edition
from newsletter.rendering.look import Labels
from newsletter.rendering.mjml import normalise
from newsletter.rendering.render import (
    NOTICES,
    Templates,
    issue_mjml,
    load_templates,
    own_welcome,
    render_issue,
    render_notice,
    sample_root,
)

HEAD = """\
date: 2017-11-19
number: 42
subject: {en: A mill reopens, es: Reabre un molino}
preheader: {en: And a road closes, es: Y cierra un camino}
"""

SHOWN = """\
{{ issue.subject }}/{{ issue.preheader }}/{{ issue.intro_text }}
{% for story in issue.contents %}
contents {{ story.number }}
{% endfor %}
{% for group in issue.groups %}
[{{ group.by }}] {{ group.heading }}
{% for story in group.stories %}
{{ story.anchor }} {{ story.title }}: {{ story.text }} ({{ story.day }}) {{ story.section }}/{{ story.source }}
 in {{ story.language }}/{{ story.direction }}/{{ story.language_note }}
{% endfor %}
{% endfor %}
{% for block in issue.background + issue.panels + issue.calls %}
block {{ block.name }} {{ block.title }}: {{ block.text }} {{ block.button }} {{ block.note }} in {{ block.language }}
{% endfor %}
@@UNSUBSCRIBE_URL@@
"""


def render(text: str, config: Config, language: str = "en") -> tuple[Edition, list[Finding]]:
    issue = parse_issue(text, config.issues / "2017-11-19.yaml", config)
    return render_issue(issue, language, load_templates(config))


def shown(text: str, config: Config, language: str = "en") -> tuple[list[str], list[Finding]]:
    """The lines of a text part that shows what templates see, and the findings."""
    (config.root / "templates").mkdir(exist_ok=True)
    (config.root / "templates" / "digest.txt.j2").write_text(SHOWN, "utf-8")
    edition, findings = render(text, config, language)
    return edition.text.split("\n"), findings


def story(title: str, day: int = 19, **more: object) -> dict[str, object]:
    texts = {language: f"{title} {language}" for language in ("en", "es")}
    return {"title": texts, "date": f"2017-11-{day}", "summary": texts, **more}


def issue(*stories: Mapping[str, object], **more: object) -> str:
    """An issue file, each story in a line of its own: the first in line 6."""
    written = "".join(f"- {json.dumps(each, ensure_ascii=False)}\n" for each in stories)
    return f"{HEAD}stories:\n{written}" + "".join(f"{name}: {json.dumps(value)}\n" for name, value in more.items())


def changed(config: Config, **settings: object) -> Config:
    """The workspace with other settings."""
    path = config.root / "newsletter.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text("utf-8")) | settings, allow_unicode=True), "utf-8")
    return load_config(config.root, {})


def headings(text: str, config: Config) -> list[str]:
    return [line for line in shown(text, config)[0] if line.startswith("[")]


# --- the same every time ---


def test_rendering_again_and_after_another_language_gives_the_same_edition(config: Config) -> None:
    templates = load_templates(config)
    parsed = parse_issue(issue(story("A"), story("B", 18)), Path("issues/2017-11-19.yaml"), config)
    first = {language: render_issue(parsed, language, templates) for language in ("en", "es")}
    again = {language: render_issue(parsed, language, load_templates(config)) for language in ("es", "en")}
    assert first == again
    assert render_issue(parsed, "en", templates) == first["en"]


@pytest.mark.parametrize("expression", ["{{ [1, 2] | random }}", "{{ lipsum() }}"])
def test_templates_have_nothing_random(config: Config, expression: str) -> None:
    own_template(config, "partials/story.mjml.j2", lambda text: text + expression)
    with pytest.raises(TemplateError, match=r"templates/partials/story\.mjml\.j2:\d+"):
        render(issue(story("A")), config)


def test_a_template_cannot_change_what_the_next_edition_sees(config: Config) -> None:
    own_template(config, "partials/story.mjml.j2", lambda text: text + "{{ labels.words.update({'name': 'x'}) }}")
    with pytest.raises(TemplateError, match=r"story\.mjml\.j2:\d+: error"):
        render(issue(story("A")), config)


# --- groups, contents, what stands in ---


@pytest.mark.parametrize(
    ("stories", "expected"),
    [
        ([story("A", 19, section="land"), story("B", 19, section="justice")], ["[date] Sunday, 19 November"]),
        (
            [story(name, day, section="land") for name, day in (("A", 18), ("B", 18), ("C", 19), ("D", 19))],
            ["[date] Sunday, 19 November", "[date] Saturday, 18 November"],
        ),
        (
            [story("A", 18, section="land"), story("B", 18, section="land"), story("C", 19, section="justice")],
            ["[section] Justice", "[section] Land"],
        ),
        ([story("A", 18), story("B", 19)], ["[date] Sunday, 19 November", "[date] Saturday, 18 November"]),
        ([story("A", 18, section="land"), story("B", 19)], ["[section] Land", "[section] More news"]),
        ([story("A", 18, section="sea-bed"), story("B", 19, section="land")], ["[section] Land", "[section] Sea bed"]),
    ],
    ids=["two a day", "two a day on two days", "fewer", "no sections", "some without", "an unknown section last"],
)
def test_stories_are_grouped_by_date_when_two_share_one_on_average_and_else_by_section(
    config: Config, stories: list[dict[str, object]], expected: list[str]
) -> None:
    assert headings(issue(*stories), config) == expected


def test_group_by_in_the_configuration_forces_the_grouping(config: Config) -> None:
    many = issue(*(story(name, 19, section="land") for name in "ABCD"))
    assert headings(many, changed(config, group_by="section")) == ["[section] Land"]
    few = issue(story("A", 18, section="land"), story("B", 19, section="justice"))
    assert headings(few, changed(config, group_by="date")) == [
        "[date] Sunday, 19 November",
        "[date] Saturday, 18 November",
    ]


def test_without_any_section_a_group_forced_by_section_has_no_heading(config: Config) -> None:
    assert headings(issue(story("A")), changed(config, group_by="section")) == ["[]"]


def test_the_source_line_has_the_date_unless_the_heading_has_it(config: Config) -> None:
    text = issue(story("A", 18, section="land"), story("B", 19, section="justice"))
    by_section = render(text, config)[0]
    by_date = render(text, changed(config, group_by="date"))[0]
    assert [each.text.count("Saturday, 18 November") for each in (by_section, by_date)] == [1, 1]
    source_lines = [re.findall('class="source[^>]*>([^<]*)', each.html) for each in (by_section, by_date)]
    assert source_lines == [["Sunday, 19 November", "Saturday, 18 November"], []]


@pytest.mark.parametrize(("count", "entries"), [(2, 0), (3, 3)])
def test_three_stories_have_a_list_of_contents_and_two_have_none(config: Config, count: int, entries: int) -> None:
    lines, _ = shown(issue(*(story(name) for name in "ABC"[:count])), config)
    assert sum(line.startswith("contents") for line in lines) == entries


def test_entries_of_the_contents_lead_to_the_story_on_the_public_page(config: Config) -> None:
    html = render(issue(*(story(name) for name in "ABC")), config)[0].html
    anchors = re.findall(r'href="https://news\.example\.org/archive/en/2017-11-19/#(\w+)"', html)
    assert anchors == ["s1", "s2", "s3"]
    assert all(f'id="{anchor}"' in html for anchor in anchors)


def test_without_a_preheader_the_other_headlines_stand_in_up_to_140_characters(config: Config) -> None:
    text = issue(*(story(f"Headline number {number}") for number in range(20))).replace("preheader", "#")
    line = shown(text, config)[0][0].split("/")[1]
    assert line.startswith("Headline number 0 en · Headline number 1 en · ")
    assert line.endswith("…")
    assert len(line) <= 140


def test_without_a_subject_the_first_storys_title_stands_in(config: Config) -> None:
    edition, _ = render(issue(story("A"), story("B")).replace("subject", "#"), config, "es")
    assert edition.subject == "A es"


# --- translations that are missing ---

SPANISH = {"title": {"es": "Solo"}, "date": "2017-11-19", "summary": {"es": "Texto."}, "url": "https://example.org/a"}
BLOCKS = """\
join: {title: {es: Únete}, text: {es: Ven.}, button: {es: Ir}, url: https://example.org/b, style: call}
aims: {title: {en: Aims, es: Fines}, text: {en: Good., es: Bien.}}
"""


def note_of(language: str, config: Config) -> str:
    labels = load_templates(config).labels
    return labels["en"]["in_language"].format(language=labels[language]["name"])


def codes(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(each.code, each.severity, each.message) for each in findings]


def test_a_story_in_another_language_says_so_in_the_findings_the_note_and_the_lang_attribute(config: Config) -> None:
    edition, findings = render(issue(story("A"), SPANISH), config)
    assert codes(findings) == [("translation.missing", "warning", "story not translated into en: title, summary")]
    assert findings[0].where is not None
    assert (findings[0].where.line, findings[0].help) == (7, "es stands in (missing_translation: fallback)")
    assert note_of("es", config) in edition.text
    tree = html5lib.parse(edition.html, namespaceHTMLElements=False)
    spanish = ["".join(each.itertext()) for each in tree.findall(".//*[@lang='es']")]
    assert any("Solo" in text and "Texto." in text for text in spanish)
    assert note_of("es", config) in edition.html


def test_a_block_in_another_language_is_reported_and_marked(config: Config) -> None:
    (config.issues / "blocks.yaml").write_text(BLOCKS, "utf-8")
    lines, findings = shown(issue(story("A"), blocks=["join", "aims"]), config)
    assert codes(findings) == [
        ("translation.missing", "warning", "block join not translated into en: title, text, button")
    ]
    assert "block join Únete: Ven. Ir  in es" in lines
    assert "block aims Aims: Good.   in " in [line + " " if line.endswith("in") else line for line in lines]


@pytest.mark.parametrize("name", ["subject", "preheader"])
def test_a_subject_or_preheader_in_another_language_is_reported(config: Config, name: str) -> None:
    text = re.sub(rf"^{name}: {{en: [^,]*, ", f"{name}: {{", issue(story("A")), flags=re.MULTILINE)
    lines, findings = shown(text, config)
    assert codes(findings) == [("translation.missing", "warning", f"not translated into en: {name}")]
    assert {"subject": "Reabre un molino", "preheader": "Y cierra un camino"}[name] in lines[0].split("/")


def test_an_introduction_in_another_language_is_reported_and_has_its_lang(config: Config) -> None:
    edition, findings = render(issue(story("A"), intro={"es": "Buenos *días*."}), config)
    assert codes(findings) == [("translation.missing", "warning", "not translated into en: intro")]
    tree = html5lib.parse(edition.html, namespaceHTMLElements=False)
    assert [" ".join("".join(each.itertext()).split()) for each in tree.findall(".//*[@lang='es']")] == ["Buenos días."]


def test_an_alt_text_in_another_language_is_reported_and_left_out_where_the_policy_says_so(config: Config) -> None:
    picture(config)
    text = issue(story("A", image={"src": "images/a.png", "alt": {"es": "Un valle"}}))
    edition, findings = render(text, config)
    assert codes(findings) == [("translation.missing", "warning", "not translated into en: alt")]
    assert 'alt="Un valle"' in edition.html
    edition, findings = render(text, changed(config, missing_translation="omit"))
    assert codes(findings) == [("translation.omitted", "note", "not translated into en: alt")]
    assert "Un valle" not in edition.html


@pytest.mark.parametrize(
    ("title", "summary", "stand_in"),
    [
        ({"en": "T-en", "es": "T-es"}, {"es": "S-es"}, "es"),
        ({"en": "T-en"}, {"es": "S-es"}, "es"),
        ({"es": "T-es", "qu": "T-qu"}, {"qu": "S-qu"}, "qu"),
    ],
)
def test_a_half_translated_story_loses_nothing_and_keeps_together(
    config: Config, title: dict[str, str], summary: dict[str, str], stand_in: str
) -> None:
    config = changed(config, languages=["en", "es", "qu"])
    lines, findings = shown(issue({"title": title, "date": "2017-11-19", "summary": summary}), config)
    assert [each.help for each in findings] == [f"{stand_in} stands in (missing_translation: fallback)"]
    wanted = title.get(stand_in, title.get("en")), summary.get(stand_in, summary.get("en"))
    assert any(f"{wanted[0]}: {wanted[1]} (" in line for line in lines)
    assert any(line.startswith(f" in {stand_in}/") for line in lines)


def test_a_name_for_a_title_leaves_the_text_in_its_own_language(config: Config) -> None:
    text = issue({"title": "Glencore", "date": "2017-11-19", "summary": {"en": "S-en", "es": "S-es"}})
    edition, findings = render(text, config, "es")
    assert ("Glencore" in edition.html, "S-es" in edition.html, "S-en" in edition.html) == (True, True, False)
    assert [each.code for each in findings] == ["translation.missing"]


def test_omit_leaves_a_story_out_and_numbers_the_others_without_a_gap(config: Config) -> None:
    (config.issues / "blocks.yaml").write_text(BLOCKS, "utf-8")
    text = issue(SPANISH, story("B"), intro={"es": "Hola"}, blocks=["join"])
    lines, findings = shown(text, changed(config, missing_translation="omit"))
    assert codes(findings) == [
        ("translation.omitted", "note", "story not translated into en: title, summary"),
        ("translation.omitted", "note", "block join not translated into en: title, text, button"),
        ("translation.omitted", "note", "not translated into en: intro"),
    ]
    assert not any("Solo" in line or "Hola" in line or "Únete" in line for line in lines)
    assert any(line.startswith("s1 B en") for line in lines)


def test_error_names_every_missing_translation_at_once(config: Config) -> None:
    (config.issues / "blocks.yaml").write_text(BLOCKS, "utf-8")
    text = issue(SPANISH, story("B"), intro={"es": "Hola"}, blocks=["join"]).replace("{en: And a road closes, ", "{")
    with pytest.raises(IssueError) as caught:
        render(text, changed(config, missing_translation="error"))
    assert [(each.code, each.severity) for each in caught.value.findings] == [("translation.missing", "error")] * 4
    found = " ".join(each.message for each in caught.value.findings)
    assert all(name in found for name in ("story", "block join", "preheader", "intro"))


@pytest.mark.parametrize("policy", ["fallback", "omit", "error"])
def test_names_given_once_for_all_languages_are_no_missing_translation(config: Config, policy: str) -> None:
    config = changed(config, missing_translation=policy, title="Valley News", sections={"land": "Land"})
    lines, findings = shown(issue(story("A", source="La República", section="land")), config, "es")
    assert findings == []
    assert any(line.endswith("Land/La República") for line in lines)


@pytest.mark.parametrize("blocks", [[], ["aims"]], ids=["no blocks", "with a standing block"])
def test_an_edition_of_which_nothing_is_left_is_an_error(config: Config, blocks: list[str]) -> None:
    (config.issues / "blocks.yaml").write_text(BLOCKS, "utf-8")
    text = issue(SPANISH, blocks=blocks)
    assert render(text, changed(config, missing_translation="omit"), "es")[1] == []
    with pytest.raises(IssueError) as caught:
        render(text, changed(config, missing_translation="omit"))
    assert caught.value.findings[-1].code == "edition.empty"


def test_a_subject_that_is_left_out_gives_way_to_a_headline_in_the_language_of_the_edition(config: Config) -> None:
    text = issue(story("A")).replace("{en: A mill reopens, ", "{")
    edition, findings = render(text, changed(config, missing_translation="omit"))
    assert codes(findings) == [("translation.omitted", "note", "not translated into en: subject")]
    assert edition.subject == "A en"
    assert 'lang="es"' not in edition.html


def test_an_issue_without_stories_and_introduction_is_an_error_and_one_with_either_is_not(config: Config) -> None:
    for text in (HEAD, "date: 2017-11-19\n"):
        with pytest.raises(IssueError, match=r"there is nothing to send in en"):
            render(text, config)
    assert render(f"{HEAD}intro: {{en: Hello, es: Hola}}\n", config)[1] == []


# --- languages ---


def test_a_workspace_with_one_language_needs_no_maps(config: Config) -> None:
    config = changed(
        config,
        languages=["es"],
        title="Noticias",
        sender={"name": "N", "address": "n@example.org"},
        postal_address="Calle 1",
        sections={},
    )
    edition, findings = render(
        "date: 2017-11-19\nstories: [{title: Uno, date: 2017-11-19, summary: Dos}]\n", config, "es"
    )
    assert findings == []
    assert (edition.subject, edition.sender.name, 'lang="es"' in edition.html) == ("Uno", "N", True)


def test_a_language_uses_the_labels_of_its_base_and_one_without_labels_says_what_stands_in(config: Config) -> None:
    config = changed(config, languages=["en", "es", "pt-BR", "qu"])
    portuguese = {"title": {"pt-BR": "Um"}, "date": "2017-11-19", "url": "https://example.org"}
    edition, findings = render(issue(portuguese), config, "pt-BR")
    assert load_templates(config).labels["pt"]["read_more"] in edition.text
    assert 'lang="pt-BR"' in edition.html
    assert {each.code for each in findings} == {"translation.missing"}
    _, findings = render(issue(story("A")), config, "qu")
    assert [each.message for each in findings if each.code == "theme.labels"] == [
        "has no words for qu: those of en stand in"
    ]
    edition, _ = render(issue(portuguese), config, "en")
    assert note_of("pt", config) in edition.text


def test_a_language_written_from_right_to_left_turns_the_message_round(config: Config) -> None:
    config = changed(
        config,
        languages=["en", "ar"],
        title="News",
        sender={"name": "N", "address": "n@example.org"},
        postal_address="1 Mill Street",
        sections={},
    )
    text = HEAD.replace("es:", "ar:") + "stories: [{title: {en: A, ar: ب}, date: 2017-11-19, summary: {en: B}}]\n"
    edition, _ = render(text, config, "ar")
    assert edition.direction == "rtl"
    html = html5lib.parse(edition.html, namespaceHTMLElements=False)
    assert (html.get("dir"), html.get("lang")) == ("rtl", "ar")
    assert any(each.get("dir") == "ltr" for each in html.findall(".//*[@lang='en']"))


# --- what is wrong with a template is told with its file and line ---


def own_template(config: Config, name: str, change: Callable[[str], str]) -> Path:
    """The sample's templates in the workspace, one of them changed."""
    folder = config.root / "templates"
    if not folder.exists():
        shutil.copytree(sample_root() / "templates", folder)
        shutil.copytree(sample_root() / "issues" / "images", config.issues / "images", dirs_exist_ok=True)
    path = folder / name
    path.write_text(change(path.read_text("utf-8")), "utf-8")
    return path


BROKEN = {
    "syntax": ("partials/story.mjml.j2", "{% if %}", "template.syntax"),
    "undefined name": ("partials/story.mjml.j2", "{{ storie.title }}", "template.undefined"),
    "undefined attribute": ("digest.mjml.j2", "{{ issue.sbject }}", "template.undefined"),
    "missing include": ("digest.mjml.j2", '{% include "partials/nope.mjml.j2" %}', "template.missing"),
    "include from outside": ("digest.mjml.j2", '{% include "../newsletter.yaml" %}', "template.missing"),
    "unknown filter": ("digest.txt.j2", "{{ issue.subject|uper }}", "template.syntax"),
    "exception": ("digest.txt.j2", "{{ 1 // 0 }}", "template.failed"),
    "forbidden": ("digest.txt.j2", "{{ issue.__class__.__mro__ }}", "template.forbidden"),
    "recursion": ("partials/story.mjml.j2", '{% include "partials/story.mjml.j2" %}', "template.failed"),
    "broken MJML": ("partials/story.mjml.j2", "<mj-txt>x</mj-txt>", "mjml.unknown-tag"),
    "undefined in css": ("content.css.j2", "{{ theme.lite.ink }}", "template.undefined"),
    "at-rule": ("content.css.j2", "@media print { }", "inline.css"),
    "no selector": ("content.css.j2", "..x ( { color: red }", "inline.css"),
    "open quote": ("content.css.j2", ".x { font-family: 'Arial; }", "inline.css"),
    "remote file": ("content.css.j2", ".x { background: url(https://example.org/x.png) }", "inline.css"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_error_in_a_template_names_the_file_and_the_line(config: Config, name: str) -> None:
    file, slip, code = BROKEN[name]
    if file == "content.css.j2":
        line = 7  # below the comment at its head

        def change(text: str) -> str:
            lines = text.split("\n")
            return "\n".join([*lines[: line - 1], "{% if true %}", slip, "{% endif %}", *lines[line - 1 :]])

        line += 1
    elif file == "digest.mjml.j2":

        def change(text: str) -> str:
            return text.replace("{% block body %}", "{% block body %}\n" + slip, 1)

    else:

        def change(text: str) -> str:
            return f"{{% if true %}}\n\n{{% endif %}}\n{slip}\n{text}"

    path = own_template(config, file, change)
    lines = path.read_text("utf-8").split("\n")
    with pytest.raises(TemplateError) as caught:
        render(issue(story("A")), config)
    places = [(each.code, each.where.path, each.where.line) for each in caught.value.findings if each.where]
    assert (code, f"templates/{file}", lines.index(slip) + 1) in places


def test_a_template_that_is_not_utf8_is_named_with_the_line(config: Config) -> None:
    path = own_template(config, "partials/story.mjml.j2", lambda text: text)
    path.write_bytes(b"\n<mj-text>Per\xfa</mj-text>\n")
    with pytest.raises(TemplateError, match=r"^templates/partials/story\.mjml\.j2:2:13: error: is not UTF-8"):
        render(issue(story("A")), config)


@pytest.mark.parametrize("name", ["digest.mjml.j2", "digest.txt.j2"])
def test_a_template_that_gives_nothing_is_named(config: Config, name: str) -> None:
    own_template(config, name, lambda text: "{# all gone #}\n")
    with pytest.raises(TemplateError, match=rf"^templates/{name}: error: nothing comes out of it"):
        render(issue(story("A")), config)


def test_a_template_error_comes_with_what_was_found_before_it(config: Config) -> None:
    own_template(config, "digest.txt.j2", lambda text: "{{ nothing }}")
    with pytest.raises(TemplateError) as caught:
        render(issue(SPANISH), config)
    assert [each.code for each in caught.value.findings] == ["translation.missing", "template.undefined"]


def test_a_file_that_the_workspace_lacks_comes_from_the_sample(config: Config) -> None:
    own_template(config, "labels.yaml", lambda text: text.replace("Read more", "Go on"))
    for path in (config.root / "templates").rglob("*.j2"):
        path.unlink()
    assert "Go on" in render(issue(story("A", url="https://example.org/a")), config)[0].text


def test_an_unusable_theme_labels_and_logo_are_reported_together(config: Config) -> None:
    own_template(config, "theme.yaml", lambda text: re.sub('page: "#[0-9a-f]+"', "page: blue", text))
    own_template(config, "labels.yaml", lambda text: text.replace("  read_more: Read more\n", ""))
    with pytest.raises(TemplateError) as caught:
        load_templates(config)
    assert [str(each.where).rpartition(":")[0].partition(":")[0] for each in caught.value.findings] == [
        "templates/theme.yaml",
        "templates/theme.yaml",
        "templates/labels.yaml",
    ]


def test_an_unknown_logo_is_told_at_its_line_in_the_theme(config: Config) -> None:
    path = own_template(config, "theme.yaml", lambda text: re.sub("logo: .*", "logo: images/x.png", text))
    line = path.read_text("utf-8").split("\n").index("logo: images/x.png") + 1
    with pytest.raises(TemplateError, match=rf"^templates/theme\.yaml:{line}:1: error: images/x\.png: there is no"):
        load_templates(config)


# --- slots ---

PIECES = [
    *("@", "@@", "&#64;", "&#x40;", "&commat;", "\\@", "NAME", "@@NAME@@", "@@UNSUBSCRIBE_URL@@", "VIEW_URL", "_URL"),
    *(
        "[x](https://example.org/",
        ")",
        "https://example.org/",
        "mailto:a",
        "<",
        ">",
        "*",
        "_",
        "`",
        '"',
        "'",
        "{{",
        "&",
        " ",
        "\n",
    ),
    *("é", "👍🏽", "](", "?a=", "\\", "|"),
]
bits = st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).map("".join)
lines = bits.map(lambda text: " ".join(text.split()) or "x")


@pytest.fixture
def templates(config: Config) -> Templates:
    return load_templates(config)


def parsed_or_none(content: dict[str, object], config: Config) -> Any:
    try:
        return parse_issue(json.dumps(content, ensure_ascii=False), Path("issues/2017-11-19.yaml"), config)
    except IssueError:
        return None


def slots_but_name(edition: Edition) -> Counter[str]:
    return Counter(slot for part in (edition.html, edition.text) for slot in SLOT.findall(part) if slot != "NAME")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines, bits, lines, bits, lines)
def test_no_text_of_an_issue_makes_a_slot_or_puts_a_name_into_an_address(
    config: Config, templates: Templates, title: str, summary: str, source: str, intro: str, note: str
) -> None:
    def content(title: str, summary: str, source: str, intro: str) -> dict[str, object]:
        story = {"title": title, "date": "2017-11-19", "summary": summary, "source": source}
        return {"date": "2017-11-19", "subject": "S", "intro": intro, "stories": [story]}

    block = {"title": title, "text": summary, "button": source, "note": note, "url": "https://example.org/join"}
    (config.issues / "blocks.yaml").write_text(json.dumps({"join": block | {"style": "call"}}), "utf-8")
    texts = content(title, summary, source, intro)
    issue = parsed_or_none(texts | {"blocks": ["join"]}, config) or parsed_or_none(texts, config)
    if issue is None:
        return
    plain = parsed_or_none(content("T", "S", "S", "I"), config)
    edition, _ = render_issue(issue, "en", templates)
    assert edition_findings(edition) == []
    assert slots_but_name(edition) == slots_but_name(render_issue(plain, "en", templates)[0])
    for element in html5lib.parse(edition.html, namespaceHTMLElements=False).iter():
        for name in ("href", "src", "action", "background"):
            value = str(element.get(name) or "")
            assert "@@" not in value or value[2:-2] in URL_SLOTS
    assert not re.search(r"://\S*@@", edition.text)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=30), lines)
def test_a_title_comes_out_as_it_was_written_in_html_and_text(
    config: Config, templates: Templates, any_text: str, hostile: str
) -> None:
    for title in (any_text, hostile):
        texts = {"title": title, "date": "2017-11-19", "summary": "S", "url": "https://example.org/a"}
        issue = parsed_or_none({"date": "2017-11-19", "subject": "S", "stories": [texts]}, config)
        if issue is None:
            continue
        edition, _ = render_issue(issue, "en", templates)
        tree = html5lib.parse(edition.html, namespaceHTMLElements=False)
        wanted = " ".join(issue.stories[0].title["en"].split())
        assert wanted in {" ".join("".join(each.itertext()).split()) for each in tree.iter("h3")}
        assert wanted in " ".join(edition.text.split())


@pytest.mark.parametrize("slot", ["@@UNSUBSCRIBE_URL@@", "@@NAME@@", "@@"])
@pytest.mark.parametrize("file", ["labels.yaml", "theme.yaml"])
def test_labels_and_theme_hold_no_slots(config: Config, file: str, slot: str) -> None:
    old = {"labels.yaml": r"read_more: .*", "theme.yaml": r"headings: .*"}[file]
    own_template(config, file, lambda text: re.sub(old, f'{old.partition(":")[0]}: "{slot}"', text, count=1))
    with pytest.raises(TemplateError) as caught:
        load_templates(config)
    assert {each.code for each in caught.value.findings} == {"theme.slot"}


# --- the rest of an edition ---


def test_pictures_are_linked_by_their_content_or_carried_along(config: Config) -> None:
    picture(config)
    text = issue(story("A", image={"src": "images/a.png", "alt": "A valley"}))
    linked, _ = render(text, config)
    (image,) = [
        each
        for each in linked.images
        if f'alt="A valley" src="https://news.example.org/images/{each.name}"'
        in re.sub(r'(alt="A valley")[^>]*?(src="[^"]*")', r"\1 \2", linked.html)
    ]
    embedded, _ = render(text, changed(config, images="embed"))
    assert f'src="cid:{image.name}@newsletter"' in embedded.html
    assert (linked.embed, embedded.embed, image in embedded.images) == (False, True, True)


def test_a_picture_that_cannot_be_used_is_told_at_its_place_in_the_issue(config: Config) -> None:
    with pytest.raises(
        IssueError, match=r"^issues/2017-11-19\.yaml:\d+:\d+: error: images/none\.png: there is no such file"
    ):
        render(issue(story("A", image={"src": "images/none.png"})), config)


def test_headers_of_bulk_mail_come_from_the_configuration(config: Config) -> None:
    sender = {
        "name": "V",
        "address": "v@example.org",
        "reply_to": "desk@example.org",
        "unsubscribe": "leave@example.org",
    }
    edition, _ = render(
        issue(story("A")), changed(config, sender=sender, list="daily", base_url="https://n.example.org:8443/x")
    )
    assert (edition.sender.address, edition.reply_to and edition.reply_to.address) == (
        "v@example.org",
        "desk@example.org",
    )
    assert edition.unsubscribe_mailbox == "leave@example.org"
    assert edition.list_id == ("Valley News", "daily.n.example.org")
    assert edition.feedback_id == "2017-11-19:en:daily:nexampleorg"
    assert edition.kind == "bulk"


@pytest.mark.parametrize("host", ["a.example", "a-very-long-name-of-a-host.news.example.org", "10.0.0.1"])
def test_the_last_field_of_feedback_id_has_5_to_15_characters(config: Config, host: str) -> None:
    edition, _ = render(issue(story("A")), changed(config, base_url=f"http://{host}"))
    assert re.fullmatch(r"[a-z0-9]{5,15}", edition.feedback_id.rpartition(":")[2])


@pytest.mark.parametrize("language", ["en", "es"])
def test_notices_render_in_each_language_with_the_slots_they_need(config: Config, language: str) -> None:
    templates = load_templates(config)
    confirm, found = render_notice("confirm", language, templates)
    welcome, found_too = render_notice("welcome", language, templates)
    assert found + found_too == []
    assert edition_findings(confirm) + edition_findings(welcome) == []
    assert {slot for part in (confirm.html, confirm.text) for slot in SLOT.findall(part)} == {"CONFIRM_URL"}
    assert "UNSUBSCRIBE_URL" in SLOT.findall(welcome.html)
    assert (confirm.kind, confirm.list_id, confirm.key) == ("transactional", None, "confirm")
    assert config.title[language] in confirm.subject


def test_a_workspace_with_older_labels_and_templates_still_sends_every_notice(config: Config) -> None:
    """Copies of the sample's, from when there were only confirm and welcome."""
    config.templates.mkdir()
    for name in ("labels.yaml", "confirm.mjml.j2", "welcome.mjml.j2", "welcome.txt.j2"):
        text = (sample_root() / "templates" / name).read_text("utf-8")
        text = re.sub(r"(?m)^  (confirm_lists|(known|link|address|moved)_\w+): .*\n", "", text)
        (config.templates / name).write_text(text, "utf-8")
    (config.templates / "confirm.txt.j2").write_text("{{ notice.text }}\n@@CONFIRM_URL@@\n{{ notice.note }}\n", "utf-8")
    templates = load_templates(config)
    for notice in NOTICES:
        for language in config.languages:
            edition, found = render_notice(notice, language, templates)
            assert found == []
            assert edition_findings(edition) == []
    named, _ = render_notice("confirm", "es", templates, lists=[{"en": "Weekly", "es": "Semanal"}, {"en": "Alerts"}])
    assert "Recibiría: Semanal, Alerts." in named.text
    assert "Recibiría: Semanal, Alerts." in named.html


def test_words_of_a_notice_that_stand_in_are_told(config: Config) -> None:
    config = changed(config, languages=["en", "es", "qu"])
    config.templates.mkdir()
    text = (sample_root() / "templates" / "labels.yaml").read_text("utf-8")
    block = text[: text.index("\nes:")].replace("en:", "qu:", 1)
    older = re.sub(r"(?m)^  (confirm_lists|(known|link|address|moved)_\w+): .*\n", "", block[block.index("qu:") :])
    (config.templates / "labels.yaml").write_text(f"{text}\n{older}", "utf-8")
    templates = load_templates(config)
    assert render_notice("welcome", "qu", templates)[1] == []
    (finding,) = render_notice("known", "qu", templates)[1]
    assert (finding.severity, finding.message) == (
        "warning",
        "qu has no words for the mail known: those of en stand in",
    )


@pytest.mark.parametrize("placeholder", [True, False])
def test_the_lists_stand_where_the_workspace_wants_them(config: Config, placeholder: bool) -> None:
    templates = load_templates(config)
    words = dict(templates.labels["en"].words)
    if placeholder:
        words["confirm_text"] = "Shall {lists} of {title} come here?"
    templates = replace(templates, labels={"en": Labels(language="en", words=words)})
    lists = [{"en": "Weekly"}, {"en": "Alerts & more"}]
    edition, _ = render_notice("confirm", "en", templates, lists=lists)
    lines = " ".join(edition.text.split())
    if placeholder:
        assert "Shall Weekly, Alerts & more of Valley News come here?" in lines
        assert "You would receive" not in lines
    else:
        assert "and it is yours. You would receive: Weekly, Alerts & more." in lines
    assert "Weekly, Alerts &amp; more" in edition.html
    alone, _ = render_notice("confirm", "en", templates)
    assert "{" not in alone.text
    assert "You would receive" not in alone.text


@pytest.mark.parametrize(("notice", "slot"), [("confirm", "CONFIRM_URL"), ("known", "PREFERENCES_URL")])
@pytest.mark.parametrize("part", ["mjml", "txt"])
def test_a_notice_without_the_link_that_it_is_sent_for_is_an_error(
    config: Config, notice: Literal["confirm", "known"], slot: str, part: str
) -> None:
    config.templates.mkdir()
    name = f"{notice}.{part}.j2"
    text = (sample_root() / "templates" / name).read_text("utf-8")
    (config.templates / name).write_text(text.replace(f"@@{slot}@@", "https://example.org/"), "utf-8")
    with pytest.raises(TemplateError) as caught:
        render_notice(notice, "en", load_templates(config))
    assert [(str(each.where), each.message) for each in caught.value.findings] == [
        (str(Path("templates") / name), f"@@{slot}@@ is not in it, and the mail is sent for nothing else")
    ]


def test_a_list_may_have_a_welcome_of_its_own_in_one_part_or_both(config: Config) -> None:
    config.templates.mkdir()
    assert not own_welcome(config, "alerts")
    sample = sample_root() / "templates"
    (config.templates / "welcome-alerts.mjml.j2").write_text(
        (sample / "welcome.mjml.j2").read_text("utf-8").replace("{{ notice.button }}", "Only alerts"), "utf-8"
    )
    assert own_welcome(config, "alerts")
    assert not own_welcome(config, "weekly")
    templates = load_templates(config)
    own, common = (render_notice("welcome", "en", templates, welcome=each)[0] for each in ("alerts", ""))
    assert (own.key, own.kind, own.subject, own.text) == ("welcome", "transactional", common.subject, common.text)
    assert "Only alerts" in own.html
    assert "Only alerts" not in common.html


def test_the_text_part_ends_lines_without_blanks_but_for_the_mark_before_the_footer(config: Config) -> None:
    text = render(issue(story("A")), config)[0].text
    assert "\n-- \n" in text  # RFC 3676 §4.3
    assert not re.search(r"(?<!\n--)[ \t]\n|\n{3}", text)


def test_the_mjml_of_an_issue_is_what_the_compiler_gets(config: Config) -> None:
    parsed = parse_issue(issue(story("Ñandú 👍")), Path("issues/2017-11-19.yaml"), config)
    mjml = issue_mjml(parsed, "en", load_templates(config))
    assert mjml.startswith("<mjml ")
    assert normalise(mjml) == mjml
    assert not re.search("[\ufdd0-\ufdef]", mjml)


def picture(config: Config) -> None:
    folder = config.issues / "images"
    folder.mkdir(exist_ok=True)
    shutil.copy(sample_root() / "issues" / "images" / "plaza.png", folder / "a.png")
