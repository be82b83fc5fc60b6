# ruff: noqa: E501  (texts and pages as they come)

from __future__ import annotations

import json

import pytest

from newsletter.content.pages import is_page, read_page
from newsletter.content.prose import Clipping
from newsletter.errors import CollectError

AT = "https://valley.example.org/news/"

FRAME = """\
<!doctype html><html lang="en"><head><title>Valley Group</title><script>var x = "1 May 2016";</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About the group 1 January 2015</a></li></ul></nav>
<div class="cookie-banner"><p>We use cookies. <a href="/c">Read more</a></p></div>
<main><h1>News</h1>%s</main>
<div class="share-links"><a href="https://social.example/x">Share</a></div>
<footer><p>© Valley Group, 3 March 2001</p><form><input name="q"><button>Search</button></form></footer></body></html>
"""

CARDS = """
<article class="card"><h2><a href="mill?utm_source=x">The mill reopens</a></h2><time datetime="2017-11-19T09:00:00Z">19 Nov</time>
  <p>The wheel <b>turns</b>.</p><a class="more" href="mill">Read more</a></article>
<article class="card"><h2><a href="/dogs">Dogs &amp; their owners</a></h2><time datetime="2017-11-12">last week</time>
  <p>On leads.</p><p>Please.</p><a href="/dogs">Read more</a></article>
"""

TABLE = """
<table><tr><th>Date</th><th>Title</th></tr>
<tr><td>19/11/2017</td><td><a href="mill">The mill reopens</a></td><td>The wheel <b>turns</b>.</td></tr>
<tr><td>12/11/2017</td><td><a href="/dogs">Dogs &amp; their owners</a></td><td>On leads.<br><br>Please.</td></tr></table>
"""

ITEMS = """
<ul><li><a href="mill">The mill reopens</a> – 19 November 2017<p>The wheel <b>turns</b>.</p></li>
<li><a href="/dogs">Dogs &amp; their owners</a> – 12 November 2017<p>On leads.</p><p>Please.</p></li></ul>
"""

FLAT = """
<h3><a href="mill">The mill reopens</a></h3><p class="date">Sunday, 19 November 2017</p><p>The wheel <b>turns</b>.</p>
<h3><a href="/dogs">Dogs &amp; their owners</a></h3><p class="date">Sunday, 12 November 2017</p><p>On leads.</p><p>Please.</p>
"""

DATE_FIRST = """
<p>19 de noviembre de 2017</p><h3><a href="mill">The mill reopens</a></h3><p>The wheel <b>turns</b>.</p>
<p>12 de noviembre de 2017</p><h3><a href="/dogs">Dogs &amp; their owners</a></h3><p>On leads.</p><p>Please.</p>
"""

TERMS = """
<dl><dt>19 November 2017</dt><dd><a href="mill">The mill reopens</a><p>The wheel <b>turns</b>.</p></dd>
<dt>12 November 2017</dt><dd><a href="/dogs">Dogs &amp; their owners</a><p>On leads.</p><p>Please.</p></dd></dl>
"""

SPANS = """
<div class="item"><div class="date"><span>19</span> <span>Nov</span> <span>2017</span></div><h4 class="title"><a href="mill">The mill
reopens</a></h4><div class="text">The wheel <b>turns</b>.</div></div>
<div class="item"><div class="date"><span>12</span> <span>Nov</span> <span>2017</span></div><h4 class="title"><a href="/dogs">Dogs
&amp; their owners</a></h4><div class="text"><p>On leads.</p><p>Please.</p></div></div>
"""

IN_TITLES = """
<div><h3><a href="mill">The mill reopens</a> (19/11/2017)</h3><p>The wheel <b>turns</b>.</p></div>
<div><h3><a href="/dogs">Dogs &amp; their owners</a> (12/11/2017)</h3><p>On leads.</p><p>Please.</p></div>
"""

META = """
<section><h2><a href="mill">The mill reopens</a></h2><p class="meta">By Ann | 19 November 2017 | <a href="/c">News</a></p>
<p>The wheel <b>turns</b>.</p></section><section><h2><a href="/dogs">Dogs &amp; their owners</a></h2>
<p class="meta">By Ann | 12 November 2017 | <a href="/c">News</a></p><p>On leads.</p><p>Please.</p></section>
"""


def stories(html: str, base: str = AT) -> list[Clipping]:
    return [each for each in read_page(html, "page.html", base).stories if not each.problem]


@pytest.mark.parametrize("body", [CARDS, TABLE, ITEMS, FLAT, DATE_FIRST, TERMS, SPANS, IN_TITLES, META])
def test_an_index_of_news_is_read_in_whatever_elements_it_is_written(body: str) -> None:
    first, second = stories(FRAME % body)
    assert (str(first.date), first.title, first.summary) == ("2017-11-19", "The mill reopens", "The wheel **turns**.")
    assert (str(second.date), second.title) == ("2017-11-12", "Dogs & their owners")
    assert second.summary == "On leads.\n\nPlease."
    assert first.url in (f"{AT}mill", f"{AT}mill?utm_source=x")
    assert second.url == "https://valley.example.org/dogs"


def test_titles_grouped_under_dates_share_them() -> None:
    body = (
        '<h2>19 November 2017</h2><ul><li><a href="a">Mill news</a></li><li><a href="b">Dog news</a></li></ul>'
        '<h2>12 November 2017</h2><ul><li><a href="c">Cat news</a></li></ul>'
    )
    assert [(str(each.date), each.title, each.url) for each in stories(FRAME % body)] == [
        ("2017-11-19", "Mill news", f"{AT}a"),
        ("2017-11-19", "Dog news", f"{AT}b"),
        ("2017-11-12", "Cat news", f"{AT}c"),
    ]


def test_an_entry_without_a_date_is_named_and_left_out() -> None:
    body = CARDS + '<article class="card"><h2><a href="/x">Undated</a></h2><p>Text.</p></article>'
    found = read_page(FRAME % body, "page.html", AT).stories
    assert [(each.title, each.problem) for each in found][2:] == [("Undated", "has no date")]


def test_the_undated_end_of_a_list_becomes_blocks() -> None:
    body = (
        "<ul><li><h3>The mill reopens</h3><p>19 November 2017</p><p>Text.</p></li>"
        "<li><h3>Dogs</h3><p>12 November 2017</p><p>Text on 3 May 2017.</p></li>"
        "<li><h3>Our aims</h3><p>To keep the valley.</p></li>"
        "<li><h3>Why join?</h3><ul><li>News</li><li>Tea</li></ul><p>Become a member</p></li></ul>"
    )
    found = stories(FRAME % body)
    assert [(str(each.date), each.title) for each in found] == [
        ("2017-11-19", "The mill reopens"),
        ("2017-11-12", "Dogs"),
        ("None", "Our aims"),
        ("None", "Why join?"),
    ]
    assert found[3].summary == "- News\n- Tea\n\nBecome a member"


ARTICLE = {
    "@context": "https://schema.org",
    "@graph": [
        {"@type": "WebPage", "datePublished": "2001-01-01"},
        {
            "@type": ["NewsArticle"],
            "headline": "The mill reopens",
            "datePublished": "2017-11-19T22:00:00-05:00",
            "description": "The wheel turns & turns.",
            "mainEntityOfPage": {"@id": "https://valley.example.org/mill"},
            "publisher": {"@type": "Organization", "name": "Valley Voice"},
        },
    ],
}


def test_one_article_is_read_from_its_json_ld() -> None:
    html = (
        FRAME
        % "<h1>The mill reopens</h1><p>Long text.</p><time datetime='2017-11-18'>x</time><h2>Other 2 May 2016</h2>"
    )
    (story,) = stories(
        html.replace("</head>", f'<script type="application/ld+json">{json.dumps(ARTICLE)}</script></head>')
    )
    assert (story.title, str(story.date), story.source) == ("The mill reopens", "2017-11-19", "Valley Voice")
    assert (story.summary, story.url) == ("The wheel turns & turns.", "https://valley.example.org/mill")


def test_one_article_is_read_from_open_graph() -> None:
    head = (
        '<meta property="og:type" content="article"><meta property="og:title" content="The mill reopens">'
        '<meta property="article:published_time" content="2017-11-19T10:00:00+00:00">'
        '<meta property="og:description" content="The wheel was seen […]"><link rel="canonical" href="/mill">'
    )
    html = (FRAME % "<article><h1>The mill reopens</h1><p>The wheel was seen to turn.</p></article>").replace(
        "</head>", f"{head}</head>"
    )
    (story,) = stories(html)
    assert (story.title, str(story.date), story.url) == (
        "The mill reopens",
        "2017-11-19",
        "https://valley.example.org/mill",
    )
    assert story.summary == "The wheel was seen to turn."


def test_one_article_is_read_from_what_can_be_seen() -> None:
    html = "<html><body><article><h1>The mill reopens</h1><p>Published on 19 November 2017 by Ann</p><p>It turns.</p></article></body></html>"
    (story,) = stories(html.replace("Published on 19 November 2017 by Ann", "<time>19 November 2017</time>"))
    assert (story.title, str(story.date), story.summary, story.url) == (
        "The mill reopens",
        "2017-11-19",
        "It turns.",
        AT,
    )


MAIL = """
<html><body><div style="display:none">Preheader 5 May 2011</div><table><tr><td><h1>Valley News</h1><p>19 November 2017</p></td></tr>
<tr><td><p>Dear friends, welcome.</p></td></tr>
<tr><td><h2><a href="https://valley.example.org/mill">The mill reopens</a></h2><p>The wheel turns.</p></td></tr>
<tr><td><h2>Dogs and their owners</h2><p>On leads, since 3 May 2016.</p><p><a href="https://valley.example.org/dogs">Read more »</a></p></td></tr>
<tr><td><p><a href="https://valley.example.org/unsubscribe">Unsubscribe</a></p></td></tr></table></body></html>
"""


@pytest.mark.parametrize(
    "html",
    [
        MAIL,
        MAIL.replace("<h2>", "<p><b>").replace("</h2>", "</b></p>"),
        MAIL.replace("<p>19 November 2017</p>", "").replace(
            "<html>", "<html><head><title>Valley News, 19 November 2017</title></head>"
        ),
    ],
)
def test_a_past_newsletter_has_one_date_for_all_its_stories(html: str) -> None:
    first, second = stories(html)[:2]
    assert [(str(each.date), each.title) for each in (first, second)] == [
        ("2017-11-19", "The mill reopens"),
        ("2017-11-19", "Dogs and their owners"),
    ]
    assert (first.summary, first.url) == ("The wheel turns.", "https://valley.example.org/mill")
    assert second.summary.startswith("On leads, since 3 May 2016.")
    assert second.url == "https://valley.example.org/dogs"


def test_links_are_relative_to_the_base_of_the_page() -> None:
    html = (FRAME % FLAT).replace("<head>", '<head><base href="https://other.example.org/a/">')
    assert [each.url for each in stories(html)] == [
        "https://other.example.org/a/mill",
        "https://other.example.org/dogs",
    ]


def test_a_page_without_dates_is_refused_with_a_next_step() -> None:
    with pytest.raises(CollectError) as caught:
        read_page(
            FRAME % "<h2>Mill</h2><p>It turned on 3 May 2017, they say, and nobody there was surprised.</p>",
            "page.html",
        )
    assert caught.value.findings[0].code == "collect.no-stories"


@pytest.mark.parametrize("tag", ["div", "b", "ul><li", "table><tr><td", "blockquote"])
def test_pages_nested_beyond_reason_lose_no_words(tag: str) -> None:
    html = f"<html><body><h1>Deep</h1><p>19 November 2017</p>{f'<{tag}>' * 20000}<p>Found</p></body></html>"
    (story,) = stories(html)
    assert (story.title, story.summary.strip("*->· ")) == ("Deep", "Found")


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("<!DOCTYPE html><p>x", True),
        ("\n<html><body>x</body></html>", True),
        ("<?xml version='1.0'?><!-- x --><html xmlns='http://www.w3.org/1999/xhtml'/>", True),
        ("<h2>A</h2><p>1 May 2017</p>", True),
        ("Title\n1 May 2017\n\nUse <p> and </p> for paragraphs.\n", False),
        ("a < b\n", False),
    ],
)
def test_a_page_is_known_by_its_tags(text: str, page: bool) -> None:
    assert is_page(text) is page


TERM_TITLES = """
<dl><dt><a href="mill">The mill reopens</a></dt><dd>19 November 2017</dd><dd>The wheel <b>turns</b>.</dd>
<dt><a href="/dogs">Dogs &amp; their owners</a></dt><dd>12 November 2017</dd><dd><p>On leads.</p><p>Please.</p></dd></dl>
"""
BUTTONS = """
<div class="card"><small>Nov 19, 2017</small><h5 class="card-title">The mill reopens</h5><p>The wheel <b>turns</b>.</p><a href="mill" class="btn btn-primary">Go on</a></div>
<div class="card"><small>Nov 12, 2017</small><h5 class="card-title">Dogs &amp; their owners</h5><p>On leads.</p><p>Please.</p><a href="/dogs" class="btn">Go on</a></div>
"""
TOLD_TWICE = """
<div class="item"><time datetime="2017-11-19">19</time><div class="title"><a href="mill">The mill reopens</a></div><p>The wheel <b>turns</b>.</p><time datetime="2017-11-19">19</time></div>
<div class="item"><time datetime="2017-11-12">12</time><div class="title"><a href="/dogs">Dogs &amp; their owners</a></div><p>On leads.</p><p>Please.</p></div>
"""


@pytest.mark.parametrize("body", [TERM_TITLES, BUTTONS, TOLD_TWICE])
def test_an_index_is_read_where_its_dates_or_links_stand_apart(body: str) -> None:
    first, second = stories(FRAME % body)
    assert [str(each.date) for each in (first, second)] == ["2017-11-19", "2017-11-12"]
    assert (first.title, first.summary, first.url) == ("The mill reopens", "The wheel **turns**.", f"{AT}mill")
    assert (second.title, second.summary) == ("Dogs & their owners", "On leads.\n\nPlease.")


def test_a_date_counted_from_today_is_named() -> None:
    body = CARDS.replace('<time datetime="2017-11-19T09:00:00Z">19 Nov</time>', "<span>Hace 3 días</span>", 1)
    found = read_page(FRAME % (body + CARDS), "page.html", AT).stories
    assert found[0].problem == 'has a date that cannot be read: "Hace 3 días"'


def test_a_press_release_has_the_date_of_its_first_line() -> None:
    html = '<html><head><link rel="canonical" href="https://v.example/a"></head><body><h1>A ruling</h1><p>Lima, 14 May 2024.– The group <a href="/b">said</a> so.</p></body></html>'
    (story,) = read_page(html, "page.html").stories
    assert (str(story.date), story.title, story.url) == ("2024-05-14", "A ruling", "https://v.example/a")
    assert story.summary == "Lima, 14 May 2024.– The group [said](https://v.example/b) so."


def test_a_day_s_heading_may_end_with_its_weekday_and_stand_under_a_month_s() -> None:
    body = "<h2>May 2024</h2><h3>14 May 2024 (Tuesday)</h3><ul><li>The mill turns.</li></ul><h3>13 May 2024 (Monday)</h3><ul><li>Dogs bark.</li></ul>"
    assert [(str(each.date), each.title) for each in stories(f"<html><body>{body}</body></html>")] == [
        ("2024-05-14", "The mill turns."),
        ("2024-05-13", "Dogs bark."),
    ]
