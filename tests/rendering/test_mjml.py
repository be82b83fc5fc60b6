"""MJML is checked with exact places, normalised for mrml, and compiled to the same bytes every time."""

# ruff: noqa: E501  one case a line: a table that wraps cannot be read

from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import html5lib
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import DictLoader, Environment
from lxml import etree
from mjml import mjml2html

from newsletter.errors import Finding, TemplateError, Where
from newsletter.rendering.inline import inline_css
from newsletter.rendering.marks import LineMarks, Origins, at, strip
from newsletter.rendering.mjml import compile_mjml, lint, normalise
from newsletter.rendering.mjml_rules import ATTRIBUTES, CHILDREN, INERT, expected, fits
from newsletter.rendering.mjml_tokens import tokens

GOOD = """\
<mjml lang="es">
  <mj-head>
    <mj-title>Noticias del Valle</mj-title>
    <mj-preview>Esta semana &#847;&zwnj;&nbsp;</mj-preview>
    <mj-breakpoint width="480px" />
    <!-- what follows is for everything -->
    <mj-attributes>
      <mj-all font-family="Georgia, 'Times New Roman', serif" />
      <mj-text padding="0" line-height="1.5" />
      <mj-image padding="0" />
      <mj-class name="lead" font-size="17px" color="#17202a" />
    </mj-attributes>
    <mj-style>.md > p { margin: 0 !important; } @media (max-width:480px) { .md { color: red; } }</mj-style>
    <mj-raw><meta name="color-scheme" content="light dark"></mj-raw>
  </mj-head>
  <mj-body css-class="page" background-color="#eaeef1">
    <mj-wrapper padding="20px 0">
      <mj-section full-width="full-width">
        <mj-column vertical-align="top" width="50%">
          <mj-text mj-class="lead" css-class="md">
            <p>Hola <b>a</b> &amp; <i>b</i><br>fin</p>
            <ul><li>uno</li></ul>
          </mj-text>
          <mj-image src="https://example.org/a.png" alt="" width="536px" />
          <mj-button href="@@UNSUBSCRIBE_URL@@" border-radius="6px">Salir</mj-button>
          <mj-divider border-width="1px" /><mj-spacer height="20px" />
          <mj-table><tr><td width="26">1</td><td><a href="https://example.org/">x</a></td></tr></mj-table>
          <mj-raw><!--[if mso]><p>Outlook</p><![endif]--></mj-raw>
        </mj-column>
        <mj-group><mj-column><mj-social><mj-social-element name="web" href="https://example.org/">w</mj-social-element>
        </mj-social></mj-column></mj-group>
      </mj-section>
    </mj-wrapper>
  </mj-body>
</mjml>
"""


def findings(mjml: str) -> list[Finding]:
    return lint(*strip(mjml))


def body(content: str) -> str:
    """A document whose line 3 is the first line of the content."""
    return (
        "<mjml><mj-head><mj-title>T</mj-title></mj-head><mj-body>\n<mj-section><mj-column>\n"
        f"{content}\n</mj-column></mj-section></mj-body></mjml>"
    )


def head(content: str) -> str:
    """A document whose line 2 is the first line of the head's content."""
    return f"<mjml><mj-head><mj-title>T</mj-title>\n{content}\n</mj-head><mj-body></mj-body></mjml>"


# lint: what is right


def test_a_sound_document_has_no_findings() -> None:
    assert findings(GOOD) == []


def test_attributes_given_by_mj_attributes_count_as_given() -> None:
    document = """<mjml><mj-head><mj-title>T</mj-title><mj-attributes>
      <mj-image alt="" /><mj-class name="logo" src="a.png" /><mj-button href="https://example.org/" />
      </mj-attributes></mj-head><mj-body><mj-section><mj-column>
      <mj-image mj-class="logo" /><mj-button>x</mj-button></mj-column></mj-section></mj-body></mjml>"""
    assert findings(document) == []


def test_classes_are_known_even_if_the_head_comes_last() -> None:
    document = """<mjml><mj-body><mj-section mj-class="a"></mj-section></mj-body>
    <mj-head><mj-title>T</mj-title><mj-attributes><mj-class name="a" padding="0" /></mj-attributes></mj-head></mjml>"""
    assert findings(document) == []


@pytest.mark.parametrize(
    "content",
    [
        "<mj-text>1 &lt; 2 & so on &nbsp;</mj-text>",
        '<mj-text><p title=\'a "b"\'>x</p><hr/><img src="a" alt=""></mj-text>',
        "<mj-raw><tr><td nowrap>x</td></tr></mj-raw>",
        "<mj-raw><!--[if !mso]><!--><b>x</b><!--<![endif]--></mj-raw>",
        "<mj-raw><style>a > b { color: red }</style></mj-raw>",
        "<mj-text>\n<!-- <b> -- </i> -->\n</mj-text>",
        '<mj-image src="a" alt="a > b" />',
        '<mj-raw><!--[if mso]><v:rect fill="true"><v:textbox><p>x</p></v:textbox></v:rect><![endif]--></mj-raw>',
        '<mj-text padding="10px" line-height="1.5" letter-spacing="-0.2px">x</mj-text>',
        '<mj-text color="&#35;ffffff">x</mj-text>',
    ],
)
def test_no_false_alarm(content: str) -> None:
    assert findings(body(content)) == []


# lint: what is wrong


@pytest.mark.parametrize(
    ("content", "code", "line", "message", "hint"),
    [
        # well-formedness, at the culprit
        ("<mj-text>\n<p>x\n</mj-text>", "unclosed", 4, "<p> is not closed before </mj-text>", "add </p>"),
        ("<mj-text>\nx</mj-txt>", "mismatched", 4, "</mj-txt> does not close <mj-text>", "write </mj-text>"),
        ("<mj-text>x\n</b></mj-text>", "mismatched", 4, "</b> closes nothing", "remove it"),
        ("<mj-text>\n<b><i>x</b></i></mj-text>", "unclosed", 4, "<i> is not closed before </b>", "add </i>"),
        ('\n<mj-image src="a" alt="">', "unclosed", 4, "<mj-image> is not closed", "add </mj-image>"),
        ("<mj-text>\n1 < 2</mj-text>", "syntax", 4, 'a bare "<"', "write &lt;"),
        ('<mj-text>x</mj-text>\n<mj-text align="left>y</mj-text>', "syntax", 4, "<mj-text> is not finished", "close the quote"),
        ("<mj-text>x<br></br></mj-text>", "mismatched", 3, "</br> does not exist", "write <br> alone"),
        ("<mj-text>\n<!-- x</mj-text>", "syntax", 4, "a comment that is never closed", "-->"),
        ("<mj-text>\n<![CDATA[x]]></mj-text>", "syntax", 4, "mrml cannot read", "remove it"),
        ("<mj-text align=left>x</mj-text>", "syntax", 3, "the value of align has no quotes", 'write align="left"'),
        ('<mj-text align="left"color="red">x</mj-text>', "syntax", 3, "no space before color", "put a space"),
        ('<mj-text align="left" = "b">x</mj-text>', "syntax", 3, "an attribute of <mj-text> cannot be read", "quotes"),
        ('<mj-text\n align="left"\n align="right">x</mj-text>', "duplicate-attribute", 5, "align is given twice", "keep one"),
        ("<mj-raw>\n<!--[if mso]><table><![endif]--></mj-raw>", "unclosed", 4, "<table> is not closed", "conditional comments"),
        # names
        ("<mj-txt>x</mj-txt>", "unknown-tag", 3, "unknown component <mj-txt>", 'did you mean "mj-text"?'),
        ("<MJ-TEXT>x</MJ-TEXT>", "unknown-tag", 3, "unknown tag <MJ-TEXT>", 'did you mean "mj-text"?'),
        ("<mj-text>\n<stong>x</stong></mj-text>", "unknown-tag", 4, "unknown HTML tag <stong>", 'did you mean "strong"?'),
        ('<mj-text\n colour="red">x</mj-text>', "unknown-attribute", 4, "unknown attribute colour", 'did you mean "color"?'),
        ('<mj-text onclick="x">x</mj-text>', "unknown-attribute", 3, "unknown attribute onclick", "remove it"),
        ('<mj-text mj-class="leed">x</mj-text>', "unknown-class", 3, 'there is no mj-class "leed"', 'add <mj-class name="leed"'),
        # values
        ('<mj-text padding="zz">x</mj-text>', "attribute-value", 3, 'padding="zz" on <mj-text>', "such as 10px 25px"),
        ('<mj-text padding="10">x</mj-text>', "attribute-value", 3, 'padding="10"', "px or %"),
        ('<mj-text padding="9px 8px 0">x</mj-text>', "attribute-value", 3, "without a unit", "0px"),
        ('<mj-text color="#12">x</mj-text>', "attribute-value", 3, 'color="#12"', "#rrggbb"),
        ('<mj-text align="middle">x</mj-text>', "attribute-value", 3, 'align="middle"', "one of left, right, center, justify"),
        ('<mj-table cellpadding="2px"></mj-table>', "attribute-value", 3, "cellpadding", "a whole number"),
        ('<mj-image src="a" alt="" fluid-on-mobile="yes" />', "attribute-value", 3, "fluid-on-mobile", "true or false"),
        ('<mj-image src="a" alt="" width="100%" />', "attribute-value", 3, 'width="100%"', "a number with px"),
        # nesting
        ("<mj-section></mj-section>", "nesting", 3, "<mj-section> cannot stand in <mj-column>", "it belongs in mj-body or mj-wrapper"),
        ("<mj-column></mj-column>", "nesting", 3, "<mj-column> cannot stand in <mj-column>", "mj-section or mj-group"),
        ("<mj-text>\n<mj-button href='a'>x</mj-button></mj-text>", "nesting", 4, "<mj-button> inside <mj-text>", "close <mj-text>"),
        ('<mj-spacer><mj-text>x</mj-text></mj-spacer>', "nesting", 3, "<mj-text> cannot stand in <mj-spacer>", "mj-column"),
        ("<mj-social><mj-raw>x</mj-raw></mj-social>", "nesting", 3, "<mj-raw> cannot stand in <mj-social>", "mj-column"),
        ("\n<p>x</p>", "nesting", 4, "<p> outside of mj-text", "put HTML into an mj-text"),
        ("\nhello", "text", 4, 'text outside of mj-text: "hello"', "put it into an mj-text"),
        ("<mj-raw>\n<!--[if mso]>x</mj-raw>", "unclosed", 4, "the conditional comment is not ended", "add <![endif]-->"),
        ("<mj-raw>\nx<![endif]--></mj-raw>", "mismatched", 4, "<![endif]--> ends no conditional comment", "remove it"),
        ("<mj-raw><!--[if mso]>\n<!--[if mso]>x<![endif]--></mj-raw>", "nesting", 4, "inside the one of <mjml>:3", "end that one"),
        ("<mj-text .x>x</mj-text>", "syntax", 3, "an attribute of <mj-text> cannot be read", "check the quotes"),
        ("<!--[if mso]>", "nesting", 3, "a conditional comment outside of HTML", "mj-raw"),
        # HTML
        ("<mj-text><li>x</li></mj-text>", "html-nesting", 3, "<li> directly in <mj-text>", "<ul> or <ol>"),
        ("<mj-table><td>x</td></mj-table>", "html-nesting", 3, "<td> directly in <mj-table>", "<tr>"),
        ("<mj-table>\n<tr>x</tr></mj-table>", "html-nesting", 4, 'text directly in <tr>: "x"', "<td>"),
        ("<mj-table><tr><p>x</p></tr></mj-table>", "html-nesting", 3, "<p> directly in <tr>", "<td>"),
        ("<mj-text><p><ul><li>x</li></ul></p></mj-text>", "html-nesting", 3, "<ul> inside <p>", "close <p>"),
        ('<mj-text><a href="x"><b><a href="y">z</a></b></a></mj-text>', "html-nesting", 3, "<a> inside <a>", "remove one"),
        ('<mj-button href="x"><a href="y">z</a></mj-button>', "html-nesting", 3, "<a> inside <mj-button>", "remove one"),
        # missing
        ('<mj-image\n alt="" />', "missing-attribute", 3, "<mj-image> has no src", "add src"),
        ('<mj-image src=" " alt="" />', "missing-attribute", 3, "<mj-image> has an empty src", "add src"),
        ('<mj-image src="a.png" />', "missing-attribute", 3, "<mj-image> has no alt", "empty if the image is mere decoration"),
        ("<mj-button>x</mj-button>", "missing-attribute", 3, "<mj-button> has no href", "add href"),
        ('<mj-text><img src="a.png"></mj-text>', "missing-attribute", 3, "<img> has no alt", "add alt"),
        # what mrml or mail programs do not do
        ('<mj-button href="x" title="t">x</mj-button>', "no-effect", 3, "title has no effect on <mj-button>", "remove it"),
        ("<mj-carousel></mj-carousel>", "avoid", 3, "<mj-carousel> is not rendered reliably", "mj-image"),
        ("<mj-text><script>1</script></mj-text>", "active-content", 3, "<script> is removed or blocked", "link"),
        ("<mj-raw><form></form></mj-raw>", "active-content", 3, "<form> is removed or blocked", "link"),
        ('<mj-raw><iframe src="x"></iframe></mj-raw>', "active-content", 3, "<iframe> is removed or blocked", "link"),
        ('<mj-raw><link rel="stylesheet" href="https://x/"></mj-raw>', "remote", 3, "<link> loads a style sheet", "mj-style"),
    ],
)  # fmt: skip
def test_one_mistake_in_the_body_gives_one_error_at_its_line(
    content: str, code: str, line: int, message: str, hint: str
) -> None:
    (finding,) = findings(body(content))
    assert (finding.code, finding.severity, finding.where) == (f"mjml.{code}", "error", Where(path="<mjml>", line=line))
    assert message in finding.message
    assert hint in finding.help


@pytest.mark.parametrize(
    ("content", "code", "line", "message"),
    [
        ("<mj-style>\n@import url(x.css);</mj-style>", "remote", 3, "@import in CSS"),
        ("<mj-style>a { background: URL(x.png) }</mj-style>", "remote", 2, "URL in CSS"),
        ("<mj-style>\n@media (width < 480px) {}</mj-style>", "syntax", 3, 'a "<" in CSS'),
        ('<mj-style inline="inline">a {}</mj-style>', "avoid", 2, "mj-style inline has no effect"),
        ('<mj-font name="Inter" href="https://example.org/i.css" />', "remote", 2, "<mj-font> loads a font"),
        ('\n<mj-include path="./x.mjml" />', "avoid", 3, "<mj-include> is not rendered reliably"),
        ("<mj-html-attributes></mj-html-attributes>", "avoid", 2, "<mj-html-attributes>"),
        ("<mj-preview>a <b>b</b></mj-preview>", "nesting", 2, "<b> in <mj-preview>, which holds text only"),
        ("<mj-attributes><mj-class color=\"red\" /></mj-attributes>", "missing-attribute", 2, "<mj-class> has no name"),
        ('<mj-attributes>\n<mj-all gutter="2px" /></mj-attributes>', "no-effect", 3, "gutter has no effect on <mj-all>"),
        ('<mj-attributes>\n<mj-text size="1px" /></mj-attributes>', "unknown-attribute", 3, "unknown attribute size"),
        ('<mj-attributes>\n<mj-class name="a" padding="x" /></mj-attributes>', "attribute-value", 3, 'padding="x"'),
        ("<mj-breakpoint />", "missing-attribute", 2, "<mj-breakpoint> has no width"),
        ("<mj-text>x</mj-text>", "nesting", 2, "<mj-text> cannot stand in <mj-head>"),
        ("<mj-head></mj-head>", "nesting", 2, "cannot stand in <mj-head>"),
    ],
)  # fmt: skip
def test_one_mistake_in_the_head_is_found_at_its_line(content: str, code: str, line: int, message: str) -> None:
    found = [finding for finding in findings(head(content)) if finding.code == f"mjml.{code}"]
    assert [finding.where for finding in found] == [Where(path="<mjml>", line=line)]
    assert message in found[0].message


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "there is no <mjml>"),
        ("<mj-body></mj-body>", "<mj-body> outside of <mjml>"),
        ("<mjml><mj-head><mj-title>T</mj-title></mj-head></mjml>", "there is no <mj-body>"),
        (
            "<mjml><mj-head><mj-title>T</mj-title></mj-head><mj-body></mj-body>\n<mj-body></mj-body></mjml>",
            "a second <mj-body>",
        ),
    ],
)
def test_a_document_without_its_frame_is_an_error(document: str, message: str) -> None:
    assert any(message in finding.message and finding.severity == "error" for finding in findings(document))


@pytest.mark.parametrize("title", ["", "<mj-title> </mj-title>"])
def test_a_missing_title_is_a_warning(title: str) -> None:
    (finding,) = findings(f"<mjml><mj-head>{title}</mj-head><mj-body></mj-body></mjml>")
    assert (finding.code, finding.severity) == ("mjml.title", "warning")


def test_all_mistakes_are_reported_at_once_in_the_documents_order() -> None:
    content = (
        '<mj-text colour="red">\n<p>x\n</mj-text>\n<mj-txt>y</mj-txt>\n<mj-image src="a" />\n<mj-text>1 < 2</mj-text>'
    )
    found = [(finding.code, finding.where.line) for finding in findings(body(content)) if finding.where]
    assert found == [
        ("mjml.unknown-attribute", 3),
        ("mjml.unclosed", 4),
        ("mjml.unknown-tag", 6),
        ("mjml.missing-attribute", 7),
        ("mjml.syntax", 8),
    ]


# lint: places in templates and issues


def rendered(templates: dict[str, str], **values: object) -> tuple[str, Origins]:
    environment = Environment(loader=DictLoader(templates), autoescape=True, extensions=[LineMarks])
    environment.globals["at"] = at
    return strip(environment.get_template("digest.mjml.j2").render(**values))


DIGEST = """\
{% from "partials/story.mjml.j2" import story %}
<mjml>
<mj-head><mj-title>T</mj-title></mj-head>
<mj-body>
  <mj-section><mj-column>
    {% for s in stories %}
      {{ at(s.where) }}{{ story(s) }}{{ at(none) }}
    {% endfor %}
    <mj-text colour="red">end</mj-text>
  </mj-column></mj-section>
</mj-body>
</mjml>
"""
STORY = """\
{% macro story(s) %}
<mj-image src="{{ s.image }}" />
<mj-text><h3>{{ s.title }}</h3></mj-text>
{% endmacro %}
"""


def test_a_mistake_is_reported_in_the_template_that_made_it_once_with_the_issues_places() -> None:
    stories = [
        {"title": "A & B\n<c>", "image": "a.png", "where": Where(path="issues/x.yaml", line=14)},
        {"title": "C", "image": "c.png", "where": Where(path="issues/x.yaml", line=22)},
    ]
    found = lint(*rendered({"digest.mjml.j2": DIGEST, "partials/story.mjml.j2": STORY}, stories=stories))
    assert [(str(finding.where), finding.message) for finding in found] == [
        ("partials/story.mjml.j2:2", "<mj-image> has no alt (content of issues/x.yaml:14 and 1 more)"),
        ("digest.mjml.j2:9", "unknown attribute colour on <mj-text>"),
    ]


def test_an_unclosed_tag_of_a_partial_is_blamed_on_the_partial_and_names_where_it_was_exposed() -> None:
    partial = STORY.replace("</h3>", "")
    stories = [{"title": "A", "image": "a", "where": None}]
    found = lint(*rendered({"digest.mjml.j2": DIGEST, "partials/story.mjml.j2": partial}, stories=stories))
    unclosed = next(finding for finding in found if finding.code == "mjml.unclosed")
    assert unclosed.where == Where(path="partials/story.mjml.j2", line=3)
    assert "not closed before </mj-text> of partials/story.mjml.j2:3" in unclosed.message


# lint and mrml agree


TAGS = [token.text for token in tokens(GOOD) if token.kind != "text"]
CUTS = st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12))


@settings(max_examples=250)
@given(cut=CUTS, insert=st.sampled_from(["", "<", ">", '"', "&", "<b>", "</b>", "<!--", "-->", "/", "=", "x", *TAGS]))
@example(cut=(GOOD.index("<mj-social>") + 11, 0), insert=TAGS[TAGS.index("</mj-raw>") - 2])
def test_what_lint_passes_mrml_compiles(cut: tuple[int, int], insert: str) -> None:
    document = GOOD[: cut[0]] + insert + GOOD[cut[0] + cut[1] :]
    if any(finding.severity == "error" for finding in findings(document)):
        return
    compile_mjml(document)


PIECES = [token.text for token in tokens(GOOD)]


@settings(max_examples=250)
@given(
    index=st.integers(0, len(PIECES) - 1), drop=st.integers(0, 2), insert=st.lists(st.sampled_from(PIECES), max_size=2)
)
def test_what_lint_passes_an_xml_parser_reads(index: int, drop: int, insert: list[str]) -> None:
    """mrml accepts any close tag for any open one; an XML parser does not."""
    document = "".join([*PIECES[:index], *insert, *PIECES[index + drop :]])
    if any(finding.severity == "error" for finding in findings(document)):
        return
    clean = re.sub(r"<!--\[if mso\]>|<!\[endif\]-->|<!--.*?-->", "", document, flags=re.DOTALL)
    clean = re.sub(r"<(meta|br)\b([^<>]*?)/?>", r"<\1\2/>", clean)
    clean = re.sub(r"&(?!(amp|lt|gt|quot|#\d+);)", "&amp;", clean)
    etree.fromstring(clean, etree.XMLParser(resolve_entities=False, no_network=True))


@pytest.mark.parametrize(
    ("parent", "child"), [(parent, child) for parent, inner in CHILDREN.items() for child in sorted(inner)]
)
def test_mrml_takes_every_child_that_the_table_allows(parent: str, child: str) -> None:
    paths = {"mjml": [], "mj-head": ["mjml"], "mj-body": ["mjml"], "mj-wrapper": ["mjml", "mj-body"]}
    paths["mj-section"] = [*paths["mj-wrapper"]]
    paths["mj-group"] = paths["mj-column"] = [*paths["mj-section"], "mj-section"]
    paths["mj-social"] = [*paths["mj-column"], "mj-column"]
    outer = [*paths[parent], parent]
    document = (
        "".join(f"<{name}>" for name in outer) + f"<{child}></{child}>" + "".join(f"</{n}>" for n in reversed(outer))
    )
    assert "<html" in mjml2html(document, fonts={})


@pytest.mark.parametrize(("component", "attribute"), [(c, a) for c, inner in INERT.items() for a in sorted(inner)])
def test_mrml_ignores_what_the_table_calls_inert(component: str, attribute: str) -> None:
    """When an upgrade of mrml fails this, take the attribute out of INERT."""
    value = {"role": "none", "icon-position": "right", "owa": "desktop"}.get(attribute, "7px")
    plain = GOOD.replace('<mj-text padding="0" line-height="1.5" />', "")
    changed = re.sub(rf"(<{component})(?=[\s>/])", rf'\1 {attribute}="{value}"', plain)
    assert changed != plain
    assert compile_mjml(changed) == compile_mjml(plain)


# the table


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        ("20px", "unit(px)", True), ("0", "unit(px)", True), ("20", "unit(px)", False), ("20%", "unit(px)", False),
        ("1px 2% 0 .5px", "unit(px,%){1,4}", True), ("1px 1px 1px 1px 1px", "unit(px,%){1,4}", False),
        ("", "unit(px,%){1,4}", False), ("-1px", "unit(px,%)", False), ("-1px", "unitWithNegative(px,em)", True),
        ("1.5", "unit(px,%,)", True), ("auto", "unit(px,auto)", True), ("auto", "unit(px,%)", False),
        ("#abc", "color", True), ("#ABCDEF", "color", True), ("#abcd", "color", False), ("Tomato", "color", True),
        ("rgba(0, 0, 0, 0.5)", "color", True), ("rgb(1,2)", "color", False), ("", "color", False), ("blurple", "color", False),
        ("left", "enum(left,right)", True), ("Left", "enum(left,right)", False), ("", "enum(full-width,false,)", True),
        ("12", "integer", True), ("1.2", "integer", False), ("true", "boolean", True), ("1", "boolean", False),
        ("any\nthing", "string", True),
    ],
)  # fmt: skip
def test_values_are_judged_by_their_type(value: str, kind: str, right: bool) -> None:
    assert fits(value, kind) is right


def test_every_type_of_the_table_can_be_explained() -> None:
    kinds = {kind for attributes in ATTRIBUTES.values() for kind in attributes.values()}
    assert len({expected(kind) for kind in kinds if not kind.startswith("enum")}) > 5
    assert all(expected(kind) for kind in kinds)


# normalise


@pytest.mark.parametrize(
    ("content", "normal"),
    [
        ('<mj-image src="a" alt="a\r\n\tb" />', '<mj-image src="a" alt="a b" />'),
        ('<mj-image src="a" alt="C:\\x" />', '<mj-image src="a" alt="C:&#92;x" />'),
        ('<mj-image src="a" alt="❤️" />', '<mj-image src="a" alt="&#10084;&#65039;" />'),
        ("<mj-image src='a' alt='\"q\"' />", "<mj-image src='a' alt=\"&#34;q&#34;\" />"),
        ("<mj-text>ñ ❤️ \\ </mj-text>", "<mj-text>ñ ❤️ \\ </mj-text>"),
        ("<mj-text><b>a</b>\n<i>b</i></mj-text>", "<mj-text><b>a</b> <i>b</i></mj-text>"),
        ("<mj-text><b>a</b>\n\u00a0<i>b</i></mj-text>", "<mj-text><b>a</b> \u00a0<i>b</i></mj-text>"),
        ("<mj-text><b>a</b>\n<!-- x --><i>b</i></mj-text>", "<mj-text><b>a</b> <i>b</i></mj-text>"),
        ("<mj-text>a\x01\x0b\x7f\x85b</mj-text>", "<mj-text>ab</mj-text>"),
        ("<mj-raw><!--[if mso]><b>x</b><![endif]--></mj-raw>", "<mj-raw><!--[if mso]><b>x</b><![endif]--></mj-raw>"),
        ("<mj-raw><style>\n\\é { }</style></mj-raw>", "<mj-raw><style>\n\\é { }</style></mj-raw>"),
    ],
)  # fmt: skip
def test_content_is_normalised(content: str, normal: str) -> None:
    assert normalise(body(content)) == body(normal)


def test_white_space_between_components_becomes_one_line_feed() -> None:
    head = "<mj-head>\t<!-- x --> <mj-attributes>  <mj-all color='red'/> \n\n </mj-attributes></mj-head>"
    document = f" <mjml> \r\n {head}</mjml> \n"
    assert (
        normalise(document)
        == "<mjml>\n<mj-head>\n<mj-attributes>\n<mj-all color='red'/>\n</mj-attributes></mj-head></mjml>"
    )


@settings(max_examples=150)
@given(cut=CUTS, insert=st.text(max_size=8) | st.sampled_from(TAGS))
def test_normalising_twice_changes_nothing(cut: tuple[int, int], insert: str) -> None:
    document = GOOD[: cut[0]] + insert + GOOD[cut[0] + cut[1] :]
    if any(token.kind == "bare" for token in tokens(document)):
        return  # a lone "<" may become a tag when the comment after it goes; lint calls it an error
    once = normalise(document)
    assert normalise(once) == once


def collapsed(text: str) -> str:
    return re.sub(r"[ \t\r\n\f]+", " ", text).strip(" ")


LETTER = GOOD[: GOOD.index("<mj-body")].replace("Noticias del Valle", "{{ v }}") + (
    """<mj-body><mj-section><mj-column>
    <mj-text css-class="md"><p title="{{ v }}">{{ v }}</p>
    <p><a href="https://example.org/?q=1&amp;n={{ v | urlencode }}">{{ v }}</a>\n<b>{{ v }}</b></p></mj-text>
    <mj-image src="a.png" alt="{{ v }}" title="{{ v }}" />
    <mj-button href="@@VIEW_URL@@">{{ v }}</mj-button>
    </mj-column></mj-section></mj-body></mjml>"""
)
TEMPLATE = Environment(autoescape=True).from_string(LETTER)
# No control characters (the loader rejects them); no noncharacters but two, which XML and libxml2 cannot hold.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"), max_size=40)
AWKWARD = st.sampled_from(
    ["❤️", "👩‍👩‍👧", "n\u0303", "שָׁלוֹם", "नमस्ते", "a\u00adb", "a\u00a0b", "\u202eabc", '"', "'", "\\", "\\n", "&amp;", "<b>", "-->", "]]>",
     "{{ x }}", "{%", "@@", "a\nb", "\n", "\t", " ", "<!--[if mso]>", "/>", "&#128;", "\u2028", "％"]
)  # fmt: skip


@settings(max_examples=120)
@given(st.lists(ANY_TEXT | AWKWARD, min_size=1, max_size=6).map("".join))
def test_text_alt_and_title_survive_the_whole_way_exactly(value: str) -> None:
    html = inline_css(compile_mjml(TEMPLATE.render(v=value)), ".md p { margin: 0 } .md a { color: #0b5563 }")
    tree = html5lib.parse(html, treebuilder="etree", namespaceHTMLElements=False)
    wanted = collapsed(value)
    image, link = tree.find(".//img"), tree.find(".//p/a")
    first, second = tree.findall(".//div/p")
    button = next(a for a in tree.iter("a") if a.get("href") == "@@VIEW_URL@@")
    assert [collapsed(text or "") for text in (image.get("alt"), image.get("title"), first.get("title"))] == [
        wanted
    ] * 3
    assert [collapsed("".join(element.itertext())) for element in (first, link, button, tree.find(".//title"))] == [
        wanted
    ] * 4
    assert collapsed("".join(second.itertext())) == collapsed(f"{value} {value}")
    label = tree.find(".//*[@aria-roledescription]").get("aria-label")
    assert collapsed(label or "") == wanted


# compile_mjml


def test_no_font_is_loaded_from_elsewhere() -> None:
    assert "fonts.googleapis" not in compile_mjml(body('<mj-text font-family="Roboto">x</mj-text>'))


def test_the_preview_is_hidden_without_a_white_colour() -> None:
    html = compile_mjml(head("<mj-preview>soon</mj-preview>"))
    style = re.search(r'<div style="([^"]*)">soon</div>', html)
    assert style
    assert "display:none" in style[1]
    assert "color" not in style[1]


def test_an_image_without_alt_gets_an_empty_one_and_others_keep_theirs() -> None:
    html = compile_mjml(body('<mj-image src="a" title="no alt=" /><mj-image src="b" alt="b > c" />'))
    assert re.findall(r'<img (?:[a-z]+="[^"]*" )*?(?=height)', html) == ['<img alt="" ', '<img alt="b > c" ']


def test_table_cells_have_no_invalid_vertical_align() -> None:
    html = compile_mjml(
        body('<mj-button href="x">x</mj-button><mj-text vertical-align="top">vertical-align="top"</mj-text>')
    )
    assert " vertical-align=" not in html.replace('>vertical-align="top"', "")
    assert '>vertical-align="top"<' in html


def test_what_mrml_refuses_is_a_template_error_with_every_finding_of_lint() -> None:
    document, origins = rendered({"digest.mjml.j2": body("<mj-text>\n<p>x\n</mj-text>\n<mj-text>1 < 2</mj-text>")})
    with pytest.raises(TemplateError) as caught:
        compile_mjml(document, origins=origins)
    assert [str(finding.where) for finding in caught.value.findings] == ["digest.mjml.j2:4", "digest.mjml.j2:6"]


def test_what_only_mrml_refuses_names_the_tag_at_which_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    document, origins = rendered({"digest.mjml.j2": GOOD})
    position = normalise(GOOD).encode().index(b"<mj-button")

    def refuse(mjml: str, **options: object) -> str:
        raise ValueError(f"unexpected token in root template at position {position}:{position + 3}")

    monkeypatch.setattr("newsletter.rendering.mjml.mjml2html", refuse)
    with pytest.raises(TemplateError) as caught:
        compile_mjml(document, origins=origins)
    (finding,) = caught.value.findings
    line = GOOD[: GOOD.index("<mj-button")].count("\n") + 1
    assert finding.where == Where(path="digest.mjml.j2", line=line)
    assert finding.message == "mrml fails: unexpected token"


def test_compiling_gives_the_same_bytes_in_every_process() -> None:
    columns = "".join(
        f'<mj-section><mj-column width="{n}%"><mj-text>x</mj-text></mj-column></mj-section>' for n in range(20, 60)
    )
    document = f"<mjml><mj-body>{columns}</mj-body></mjml>"
    script = (
        "import sys, hashlib; from newsletter.rendering.mjml import compile_mjml;"
        "print(hashlib.sha256(compile_mjml(sys.stdin.read()).encode()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", script], input=document, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }
    assert hashes == {hashlib.sha256(compile_mjml(document).encode()).hexdigest() + "\n"}
