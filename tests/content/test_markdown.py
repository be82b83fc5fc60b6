"""Markdown: nothing but the allowed HTML comes out, no word goes missing, and no slot is made of something else."""

from __future__ import annotations

import re
import string
from typing import Any
from urllib.parse import urlsplit

import html5lib
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from newsletter.content.markdown import ATTRIBUTES, SCHEMES, TAGS, slot_in_result, to_html, to_text
from newsletter.shape import UNPRINTABLE

LONG = 20_000  # what shape.py lets through

# Words as editors write them: no sign in them that Markdown or typography would take for its own.
words = st.text(st.sampled_from(string.ascii_letters + string.digits + "ñáéíóúüçßøœЖλ中あ"), min_size=1, max_size=12)
prose = st.lists(st.lists(words, min_size=1, max_size=12).map(" ".join), min_size=1, max_size=5)
# Whatever could be made of the signs that mean something.
pieces = st.sampled_from(
    [
        *("*", "**", "_", "`", "~~", "[", "]", "(", ")", "<", ">", "!", "#", "- ", "1. ", "> ", "|", "\\", "\n"),
        *("&#64;", "&amp;", "&lt;", "&#0;", "@", "@@", "NAME", "&commat;", '"', "'", "...", "--", "=", "\t", "    "),
        *("javascript:", "data:text/html,", "https://", "HTTPS://x.org", "www.x.org", "mailto:", "a@b.org", "//x.org"),
        *("<script>", "<img src=x onerror=y>", "</p>", "<!--", "<a href=", "onclick=", "[x]: ", "word", "/a", "é"),
        *("\n\n", "\xa0", "\u2028", "\u202e", "👩\u200d👧"),
    ]
)
markdown = st.one_of(
    st.lists(pieces, max_size=25).map("".join), st.text(max_size=60).map(lambda text: UNPRINTABLE.sub("", text))
)
marks = st.sampled_from(["*{}*", "**{}**", "~~{}~~", "`{}`", "# {}", "- {}", "> {}", "7. {}"])
language = st.sampled_from(["en", "es", "fr", "de", "pt-BR", "xx"])


def elements(html: str) -> list[Any]:
    """What a browser makes of the HTML; refuses whatever a browser would have to repair."""
    fragment = html5lib.HTMLParser(namespaceHTMLElements=False, strict=True).parseFragment(html)
    return [element for element in fragment.iter() if element is not fragment]


@settings(max_examples=400)
@given(markdown, language)
@example("[x](javascript:alert(1)) <javascript:alert(1)> [y](JaVaScRiPt:1) [z](&#106;avascript:1)", "en")
@example("[x](data:text/html,<script>) ![x](https://x.org/a.png) <script>alert(1)</script>", "en")
@example('[x](https://x.org "a\\" onclick=\\"y")', "en")
def test_only_the_allowed_html_comes_out_on_one_line(text: str, language: str) -> None:
    html = to_html(text, language)
    assert "\n" not in html
    for element in elements(html):
        assert element.tag in TAGS
        assert set(element.attrib) <= ATTRIBUTES.get(element.tag, set())
        if "href" in element.attrib:
            assert urlsplit(element.attrib["href"]).scheme in SCHEMES
    assert isinstance(to_text(text, language), str)


@settings(max_examples=150)
@given(prose, language)
def test_prose_keeps_every_word_and_every_paragraph_in_both_forms(paragraphs: list[str], language: str) -> None:
    text = "\n\n".join(paragraphs)
    found = elements(to_html(text, language))
    assert ["".join(element.itertext()) for element in found if element.tag == "p"] == paragraphs
    assert to_text(text, language) == text


@settings(max_examples=150)
@given(st.lists(words, min_size=1, max_size=6).map(" ".join), marks)
def test_marks_go_and_words_stay(text: str, mark: str) -> None:
    html = to_html(mark.format(text), "en")
    assert "".join(elements(f"<div>{html}</div>")[0].itertext()).strip() == text
    assert to_text(mark.format(text), "en").removeprefix(mark[:-2] if mark[0] in "->7" else "") == text


# --- what it looks like ---


def test_what_editors_use() -> None:
    text = "Two *new* **laws**:\n\n- one\n- [two](https://x.org/a)\n\n> quoted\n\n3. three\n4. four\n\n"
    text += "https://x.org/b_c_d  \nend"
    assert to_html(text, "en") == (
        "<p>Two <em>new</em> <strong>laws</strong>:</p> <ul> <li>one</li> "
        '<li><a href="https://x.org/a">two</a></li> </ul> <blockquote> <p>quoted</p> </blockquote> '
        '<ol start="3"> <li>three</li> <li>four</li> </ol> '
        '<p><a href="https://x.org/b_c_d">https://x.org/b_c_d</a><br> end</p>'
    )
    assert to_text(text, "en") == (
        "Two new laws:\n\n- one\n- two (https://x.org/a)\n\n> quoted\n\n3. three\n4. four\n\nhttps://x.org/b_c_d\nend"
    )


@pytest.mark.parametrize(
    ("language", "typed", "printed"),
    [
        ("en", "\"a 'b' c\" -- it's...", "“a ‘b’ c” – it’s…"),
        ("es", "\"a 'b' c\"", "«a “b” c»"),
        ("de", "\"a 'b' c\"", "„a ‚b‘ c“"),
        ("fr", "\"a 'b' c\"", "«\xa0a ‹\xa0b\xa0› c\xa0»"),
        ("pt-BR", "\"a 'b' c\"", "“a ‘b’ c”"),
        ("quy", "\"a 'b' c\"", "“a ‘b’ c”"),
    ],
)
def test_quotes_and_dashes_are_those_of_the_language(language: str, typed: str, printed: str) -> None:
    assert to_text(typed, language) == printed
    assert "".join(elements(to_html(typed, language))[0].itertext()) == printed


def test_a_heading_becomes_a_bold_paragraph() -> None:
    assert to_html("## Two *laws*\n\ntext", "en") == "<p><strong>Two <em>laws</em></strong></p> <p>text</p>"
    assert to_text("Two laws\n===\n\ntext", "en") == "Two laws\n\ntext"


@pytest.mark.parametrize("text", ["    indented by accident", "```\ncode\n```", "a | b\n--|--\n1 | 2"])
def test_code_blocks_and_tables_stay_text(text: str) -> None:
    assert {element.tag for element in elements(to_html(text, "en"))} <= {"p", "code", "strong"}


@pytest.mark.parametrize("html", ["<b>bold</b>", "<script>alert(1)</script>", "<!-- x -->", "</p>", "a < b & c"])
def test_html_is_shown_as_it_was_typed(html: str) -> None:
    assert "".join(elements(f"<div>{to_html(html, 'en')}</div>")[0].itertext()) == html
    assert to_text(html, "en") == html


@pytest.mark.parametrize(
    "url",
    [
        *("/about", "about.html", "#top", "//x.org/a", "https:x.org", "https://", "ftp://x.org"),
        *("javascript:alert(1)", "JAVASCRIPT:x", "java%0ascript:x", "&#106;avascript:x", "vbscript:x"),
        *("data:text/html,x", "file:///etc/passwd"),
    ],
)
def test_only_full_web_and_mail_addresses_become_links(url: str) -> None:
    for text in (f"[words]({url})", f'[words]({url} "title")', f"[words][1]\n\n[1]: {url}"):
        linked = [element for element in elements(to_html(text, "en")) if "words" in "".join(element.itertext())]
        assert "a" not in {element.tag for element in linked}
        assert "words" in to_text(text, "en")


def test_an_address_is_written_once_when_it_is_its_own_text() -> None:
    assert to_text("<https://x.org/a>, <a@b.org>, x.org/b and [c@d.org](mailto:c@d.org)", "en") == (
        "https://x.org/a, a@b.org, http://x.org/b and c@d.org"
    )


def test_lists_in_lists_and_loose_lists_as_text() -> None:
    assert to_text("- a\n  1. b\n  2. c\n- d\n\n  e\n", "en") == "- a\n\n  1. b\n  2. c\n\n- d\n\n  e"


@pytest.mark.parametrize("text", ["", " ", "\n\n", "***"])
def test_an_empty_text_is_empty(text: str) -> None:
    assert (to_html(text, "en"), to_text(text, "en")) == ("", "")


# --- hostile ---


@pytest.mark.parametrize(("mark", "levels"), [("> ", 45), ("- ", 22), ("1. ", 22)])
def test_deep_blocks_keep_their_words(mark: str, levels: int) -> None:
    assert "word" in to_html(mark * levels + "word", "en")
    assert "word" in to_text(mark * levels + "word", "en")


@pytest.mark.parametrize("mark", ["*", "**", "~~"])
def test_emphasis_in_emphasis_stays_shallow_enough_for_every_parser_and_keeps_its_words(mark: str) -> None:
    half = LONG // (2 * len(mark) + 4)
    text = f"{mark}a " * half + "word" + f" a{mark}" * half
    html = to_html(text, "en")
    open_tags = deepest = 0
    for slash in re.findall("<(/?)", html):
        open_tags += -1 if slash else 1
        deepest = max(deepest, open_tags)
    assert deepest <= 10
    assert html.count("a") >= 2 * half
    assert "word" in to_text(text, "en")


@pytest.mark.parametrize(
    "piece",
    [
        *("[", "](", "![", "[a](", "*a ", "_a_", "**", "`a``", "<", "<http://a", "&", "&#64;", '"', "'a", "a@b.c "),
        *("www.",),
        *("- ", "> ", "1. a\n", "~~a", "\\", "a\n=\n", "[a]: http://b.c\n", "\xa0", "a\t", "(", "| ", "# ", "+-"),
        *("...",),
    ],
)
def test_the_longest_text_is_rendered_whatever_it_is_made_of(piece: str) -> None:
    text = piece * (LONG // 4 // len(piece))
    assert len(to_html(text, "es")) < 20 * LONG
    assert len(to_text(text, "es")) < 20 * LONG


# --- slots ---


@pytest.mark.parametrize(
    "text",
    [
        *("Dear @@NAME@@,", "**@@NAME@@**", "[@@NAME@@](https://x.org)", "@ @NAME@ @", "`@@NAME@@`"),
        *("@rosa and @ana", "a@b.org & c@d.org", "<a@b.org>", "https://x.org/@rosa"),
        *("https://x.org/%40%40NAME%40%40", "1 & 2 & 3"),
    ],
)
def test_the_name_and_single_signs_are_no_foreign_slot(text: str) -> None:
    assert not slot_in_result(text, "en")


@pytest.mark.parametrize(
    "text",
    [
        *("&#64;&#64;UNSUBSCRIBE_URL&#64;&#64;", "&commat;&#x40;X@&#64;", "\\@\\@X\\@\\@", "@\\@X@\\@", "@&#64;"),
        *("@**@UNSUBSCRIBE_URL@**@", "@*@X@*@", "@~~@X@~~@", "@`@X@`@", "@[@X@](https://x.org)@"),
        *("[x](https://x.org/@@NAME@@)", "[x](<https://x.org/&#64;@NAME@@>)", "x.org/@@NAME@@", "www.x.org?@@NAME@@"),
        *("<https://x.org/@@NAME@@>", "[x](mailto:@@NAME@@@x.org)", '[x](https://x.org "@@NAME@@")'),
        *("[x][1]\n\n[1]: https://x.org/@@NAME@@", "@@NAME@@&#64;&#64;", "&#64;@NAME@@NAME@@"),
    ],
)
def test_a_slot_made_by_markdown_is_found(text: str) -> None:
    assert slot_in_result(text, "en")


SLOT = re.compile(r"@@([A-Z][A-Z0-9_]*)@@")  # what the envelope fills
signs = st.sampled_from(
    [
        *("@", "&#64;", "&commat;", "\\@", "*", "**", "`", "~~", "X", "NAME", "UNSUBSCRIBE_URL"),
        *("<", ">", "[", "](https://x.org/", ")", " ", "\n", "x.org/"),
    ]
)


@settings(max_examples=500)
@given(st.lists(signs, max_size=16).map("".join))
@example("@*@X@*@")
def test_a_text_that_passes_holds_no_slot_but_the_name_and_none_in_a_link(text: str) -> None:
    if slot_in_result(text, "en"):
        return
    html, plain = to_html(text, "en"), to_text(text, "en")
    assert set(SLOT.findall(html) + SLOT.findall(plain)) <= {"NAME"}
    assert not [element for element in elements(html) if "@@" in element.attrib.get("href", "")]
