"""Our content CSS goes into style attributes; nothing else of the HTML changes and nothing is fetched."""

from __future__ import annotations

import re
import socket
import string
from collections import Counter

import html5lib
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from newsletter.errors import TemplateError, Where
from newsletter.rendering.inline import inline_css
from newsletter.rendering.mjml import compile_mjml

CSS = """.md p { margin: 0 0 12px } .md a { color: #0b5563; text-decoration: underline }
.md > ul li:first-child { margin: 0 }"""


def page(content: str, head: str = "") -> str:
    return f'<!doctype html><html><head>{head}</head><body><div class="md">{content}</div></body></html>'


COMPILED = compile_mjml(
    """<mjml><mj-head><mj-title>T</mj-title><mj-preview>p</mj-preview>
    <mj-style>:root { color-scheme: light dark } .md > p { color: red !important; }
    @media (prefers-color-scheme: dark) { .card { background: #1a2128 !important } }
    [data-ogsc] .card { color: #fff }</mj-style>
    <mj-raw><meta name="color-scheme" content="light dark"></mj-raw></mj-head>
    <mj-body css-class="page"><mj-section css-class="card"><mj-column><mj-text css-class="md"><p>ñ “x” 😀 שלום</p>
    <p><a href="@@UNSUBSCRIBE_URL@@">leave</a></p></mj-text><mj-button href="@@VIEW_URL@@">v</mj-button></mj-column>
    <mj-column><mj-raw><!--[if mso]><p>Outlook</p><![endif]--></mj-raw></mj-column></mj-section></mj-body></mjml>"""
)


def test_rules_go_into_style_attributes() -> None:
    html = inline_css(page('<p>x</p><ul><li>1</li><li>2</li></ul><a href="x">y</a>'), CSS)
    assert '<p style="margin:0 0 12px">x</p>' in html
    assert '<ul><li style="margin:0">1</li><li>2</li></ul>' in html
    assert '<a href="x" style="color:#0b5563; text-decoration:underline">y</a>' in html


def test_an_elements_own_style_wins() -> None:
    html = inline_css(page('<p style="margin: 5px">x</p>'), CSS)
    assert re.search(r'<p style="margin: ?5px;?">', html)


def test_the_doctype_stays_first() -> None:
    assert inline_css(COMPILED, CSS).startswith("<!doctype html><html")
    assert inline_css(COMPILED.replace("<!doctype html>", "<!DOCTYPE html>"), CSS).startswith("<!DOCTYPE html><html")


def test_style_blocks_are_byte_for_byte_the_same_in_the_same_order() -> None:
    blocks = re.findall(r"<style.*?</style>", COMPILED, re.DOTALL)
    assert len(blocks) > 4
    assert re.findall(r"<style.*?</style>", inline_css(COMPILED, CSS), re.DOTALL) == blocks


def test_conditional_comments_are_kept() -> None:
    pattern = re.compile(r"<!--\[if .*?<!\[endif\]-->", re.DOTALL)
    assert len(pattern.findall(COMPILED)) > 5
    assert pattern.findall(inline_css(COMPILED, CSS)) == pattern.findall(COMPILED)


def test_premailers_marker_leaves_no_trace() -> None:
    assert "premailer" not in inline_css(COMPILED, CSS)


def test_classes_and_meta_tags_are_kept() -> None:
    html = inline_css(COMPILED, CSS)
    assert Counter(re.findall(r'class="[^"]*"', html)) == Counter(re.findall(r'class="[^"]*"', COMPILED))
    assert re.findall(r"<meta [^>]*>", html) == re.findall(r"<meta [^>]*>", COMPILED.replace(" />", ">"))


def test_no_width_or_alignment_attribute_is_made_of_a_rule() -> None:
    css = ".md p { width: 10px; height: 1px; text-align: center; vertical-align: top; background-color: #fff }"
    assert re.search(r'<p style="[^"]*">x</p>', inline_css(page("<p>x</p>"), css))


def test_nothing_but_style_attributes_changes() -> None:
    def tree(html: str) -> list[tuple[object, ...]]:
        parsed = html5lib.parse(html, treebuilder="etree", namespaceHTMLElements=False)
        return [
            (
                node.tag,
                sorted((key, value) for key, value in node.attrib.items() if key != "style"),
                node.text,
                node.tail,
            )
            for node in parsed.iter()
        ]

    assert tree(inline_css(COMPILED, CSS)) == tree(COMPILED)


@pytest.mark.parametrize("slot", ["@@UNSUBSCRIBE_URL@@", "@@VIEW_URL@@", "@@X_1@@"])
def test_a_slot_in_an_address_survives_byte_for_byte(slot: str) -> None:
    html = inline_css(page(f'<a href="{slot}">{slot}</a><img src="{slot}" alt="{slot}">'), CSS)
    assert f'<a href="{slot}"' in html
    assert f'src="{slot}"' in html
    assert html.count(slot) == 4


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("https://es.wikipedia.org/wiki/Perú", "https://es.wikipedia.org/wiki/Perú"),
        ("https://ñandú.example/?q=é&amp;r=1", "https://ñandú.example/?q=é&amp;r=1"),
        ("https://example.org/Per&#250;", "https://example.org/Perú"),
        ("https://example.org/a b", "https://example.org/a b"),
        ("https://example.org/?a[]={b}|c^`%41", "https://example.org/?a[]={b}|c^`%41"),
        ("mailto:a@example.org?subject=&quot;x&quot;", "mailto:a@example.org?subject=&quot;x&quot;"),
    ],
)
def test_addresses_are_kept_as_they_are(written: str, kept: str) -> None:
    html = inline_css(page(f'<a href="{written}">x</a><a href="{written}">y</a>'), CSS)
    assert html.count(f'href="{kept}"') == 2


URLS = st.text(st.sampled_from(string.printable[:95] + "ñ€😀\u0301\u202e"), max_size=30)


@settings(max_examples=100)
@given(url=URLS)
@example(url="urn:kept:0:")
def test_any_address_is_the_same_after_parsing(url: str) -> None:
    escaped = url.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
    html = inline_css(page(f'<a href="{escaped}">x</a><img src="{escaped}" alt="">'), CSS)
    tree = html5lib.parse(html, treebuilder="etree", namespaceHTMLElements=False)
    assert (tree.find(".//a").get("href"), tree.find(".//img").get("src")) == (url, url)


def test_nothing_is_fetched_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object, **options: object) -> object:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    head = (
        '<link rel="stylesheet" href="https://example.org/a.css"><link rel="stylesheet" href="/etc/hostname">'
        '<style>@import url("https://example.org/b.css"); p { colour: ; }</style>'
    )
    html = inline_css(
        page('<p style="background:url(https://example.org/c.png)">x</p>', head), ".md p { nonsense: ; color: red }"
    )
    assert head in html
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("css", "line", "message"),
    [
        ('p { color: red }\n@import "x.css";', 2, "@import refers to a remote file"),
        ("@import url(https://example.org/x.css);", 1, "@import refers to a remote file"),
        ("p {\n background: url(x.png) }", 2, "url refers to a remote file"),
        ("\n@media print { p { color: red } }", 2, "@media cannot be inlined"),
        ("p { margin: 0 }\n.md a:hover { color: red }", 2, '".md a:hover" selects what cannot be inlined'),
        ("p::before { color: red }", 1, '"p::before"'),
        ("p:first-child b { color: red }", 1, '"p:first-child b"'),
        ("* { color: red }", 1, '"*"'),
        ("p { color: red }\n\na { color: red", 3, "not a complete rule"),
        ("p { color: red }\n}", 2, "not a complete rule"),
        ("{ color: red }", 1, "cannot be inlined"),
    ],
)
def test_css_that_would_be_lost_or_fetched_is_an_error_at_its_line(css: str, line: int, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        inline_css(page("<p>x</p>"), css, path="templates/content.css")
    finding = caught.value.findings[0]
    assert (finding.code, finding.where) == ("inline.css", Where(path="templates/content.css", line=line))
    assert message in finding.message
    assert finding.help


def test_comments_in_css_are_no_problem() -> None:
    assert 'style="color:red"' in inline_css(page("<p>x</p>"), "/* @import: a:hover { url( */ p { color: red } /* * */")


def test_without_a_doctype_none_is_made_up() -> None:
    assert inline_css("<html><head></head><body><p>x</p></body></html>", CSS).startswith("<html>")
