from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml.html import fragment_fromstring
from markdown_it import MarkdownIt

from newsletter.content.markup import escape, html_line, html_markdown, markdown_words, plain_markdown
from newsletter.content.prose import clean, clean_line, clean_url, guess_language

AT = "https://valley.example.org/news/"

# CommonMark and what our messages add to it, without the changes of typography: words must come out as they went in.
_READER = MarkdownIt("commonmark", {"html": True}).enable(["strikethrough", "table"])

marks = st.lists(
    st.sampled_from(
        [
            *"*_`~<>[]()&#\\!|-+=.:1a é\n",
            "**",
            "&amp;",
            "&#64;",
            "<b>",
            "](",
            "http://",
            "1. ",
            "- ",
            "---",
            "\n\n",
            "    ",
        ]
    ),
    max_size=14,
).map("".join)


def seen(markdown: str) -> str:
    """What a reader sees, without the blanks."""
    element = fragment_fromstring(_READER.render(markdown), create_parent="div")
    return "".join(element.text_content().split())


@settings(max_examples=300)
@given(marks)
@example("* a")
@example("1) a")
@example("a\n===")
@example("[a]: b")
@example("***")
@example("~~a~~")
@example("+ a - b")
@example("\\\n\\*")
def test_plain_text_is_seen_in_markdown_as_it_was(text: str) -> None:
    assert seen(plain_markdown(text)) == "".join(text.split())


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "b", "em", "a href='http://e.example/x'", "p", "li", "h2", "blockquote", "td"]), marks
        ),
        max_size=5,
    )
)
@example([("a href='http://e.example/x'", "\\["), ("", "](")])
@example([("", "!"), ("a href='http://e.example/x'", "a")])
@example([("em", "1"), ("a href='http://e.example/x'", ""), ("em", "1")])
def test_html_is_seen_in_markdown_as_it_was(parts: list[tuple[str, str]]) -> None:
    def quoted(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;")

    html = "".join(f"<{tag}>{quoted(text)}</{tag.split()[0]}>" if tag else quoted(text) for tag, text in parts)
    told = "".join("".join(text.split()) for _, text in parts)
    assert re.sub(r"\u2060|·", "", seen(html_markdown(html))) == told


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("snake_case, 2 * 3, a [sic] note, AT&T, 5 < 6, C# and a - b.", None),
        ("Peru's “aims”: 50% (or more) — since 1983!", None),
        ("e-mail: ann_other@example.org, https://example.org/a_b?c=1&d=2", None),
        ("1983 was a year. 2. was not.", None),
        ("#hashtag -5 +5 =5 >", None),
        ("1. First", "1\\. First"),
        ("1983. A year", "1983\\. A year"),
        ("- item", "\\- item"),
        ("# head", "\\# head"),
        ("> quote", "\\> quote"),
        ("*bold*", "\\*bold\\*"),
        ("a _b_ c", "a \\_b\\_ c"),
        ("[a](b)", "[a\\](b)"),
        ("<b> &amp; &#64;", "\\<b> \\&amp; \\&#64;"),
        ("~~gone~~ ~5", "\\~\\~gone\\~\\~ ~5"),
        ("C:\\*", "C:\\\\\\*"),
    ],
)
def test_only_what_would_be_markup_is_escaped(text: str, markdown: str | None) -> None:
    assert escape(text) == (markdown or text)


def test_control_characters_go_and_every_line_end_is_one() -> None:
    assert clean_line(" a\x00b\u2028c\x85d e\ufeff\uffff\x01f\t g\r\n") == "ab c d ef g"
    assert clean("@@@") == "@\u2060@\u2060@"


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("a?b=c#d", f"{AT}a?b=c#d"),
        (" /ñ b|c ", "https://valley.example.org/ñ%20b%7Cc"),
        ("//other.example/", "https://other.example/"),
        ("/@@X@@", "https://valley.example.org/%40%40X%40%40"),
        ("https://www.google.com/url?q=https://e.example/a%3Fb&sa=D", "https://e.example/a?b"),
        (
            "https://eur01.safelinks.protection.outlook.com/?url=https%3A%2F%2Fe.example%2Fa&data=x",
            "https://e.example/a",
        ),
        ("javascript:x()", None),
        ("mailto:a@b.example", None),
        ("https://user@e.example/", None),
        ("http://[::1", None),
        ("http://e.example:0/", None),
        ("x" * 3000, None),
    ],
)
def test_an_address_is_made_absolute_and_fit_or_refused(url: str, clean: str | None) -> None:
    assert clean_url(url, AT) == clean


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<b>a </b>b<b> c</b>", "**a** b **c**"),
        ("a<b>b</b>c x<b>!y</b>z", "a**b**c x!yz"),
        ("<b>a</b><b>b</b>", "**a**b"),
        ("<b><i>a</i></b>", "***a***"),
        ("<b><p>a</p><p>b</p></b>c", "a\n\nb\n\nc"),
        ("<a href='x'><b>a</b> [1]</a>", f"[**a** \\[1\\]]({AT}x)"),
        (
            "<a href='#x'>a</a> <a href='mailto:a@b.example'>b</a> <a href='ftp://x'>c</a> <a href='y'> </a>",
            "a [b](mailto:a@b.example) c",
        ),
        ("<ol start='3'><li>a</li><li><p>b</p><p>c</p></li></ol>d", "3. a\n4. b\n\n   c\n\nd"),
        ("<blockquote><p>a</p><ul><li>b</li></ul></blockquote>", "> a\n>\n> - b"),
        ("<pre>a\n  b</pre>", "a\\\nb"),
        ("a<!-- b -->c<div hidden>d</div><p style='display: none'>e</p>", "ac"),
        ("<p>a<br><br>b<br/>c</p>", "a\n\nb\\\nc"),
        ("<p><b style='font-weight:normal'>a <span style='font-weight: 700'>b</span></b></p>", "a **b**"),
        ("<p>• - a</p><p><b>• b</b></p>", "• - a\n\n**• b**"),
        ("<p>· a</p><p>•&nbsp; b</p><p>c</p>", "- a\n- b\n\nc"),
        ("plain\ntext\n\nof &eacute; lines", "plain text\n\nof é lines"),
    ],
)
def test_html_becomes_markdown(html: str, markdown: str) -> None:
    assert html_markdown(html, AT) == markdown


def test_html_becomes_a_line() -> None:
    assert html_line("<b>A</b>&amp;B<br>c <script>d</script><p>e</p>") == "A&B c e"
    assert html_line("5 &lt; 6 &amp;amp;") == "5 < 6 &amp;"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The mill of the valley has turned for years and it will turn for more.", "en"),
        ("El molino del valle gira desde siempre y los vecinos dicen que en el río hay más.", "es"),
        ("El molino.", ""),
        ("El molino del valle y los vecinos. The mill of the valley and the people for it.", ""),
        ("Le moulin de la vallée tourne et il tournera encore pour nous.", ""),
    ],
)
def test_a_language_is_guessed_only_where_its_small_words_decide(text: str, language: str) -> None:
    assert guess_language(text) == language


def test_the_words_of_markdown_are_those_of_its_html() -> None:
    markdown = html_markdown(
        "<p>5 * 3, <b>bold</b>er <a href='x'>a [b]</a></p><ul><li>c_d</li></ul><p>1. e<br>f</p>", AT
    )
    assert markdown_words(markdown) == "5 * 3, bolder a [b] c_d 1. e f"
