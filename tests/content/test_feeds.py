# ruff: noqa: E501  (texts and pages as they come)

from __future__ import annotations

import json
from itertools import pairwise
from xml.sax.saxutils import escape as xml

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.content.feeds import choose_summary, is_feed, read_feed, without_tail
from newsletter.content.prose import Clipping, Clippings
from newsletter.errors import CollectError
from newsletter.shape import slot_problem

AT = "https://valley.example.org/feed/"


def rss(items: str, head: str = "<language>es-PE</language>") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/">'
        f"<channel><title>Valley</title><link>https://valley.example.org/</link>{head}{items}</channel></rss>"
    )


def item(**parts: str) -> str:
    parts = {"title": "The mill reopens", "pubDate": "Sun, 19 Nov 2017 23:30:00 -0500", **parts}
    return f"<item>{''.join(f'<{key}>{value}</{key}>' for key, value in parts.items() if value)}</item>"


def one(feed: str, base: str = AT) -> Clipping:
    (story,) = read_feed(feed, "feed.xml", base).stories
    return story


RSS_091 = """<?xml version="1.0"?><!DOCTYPE rss PUBLIC "-//Netscape Communications//DTD RSS 0.91//EN" "http://example.org/rss-0.91.dtd">
<rss version="0.91"><channel><title>V</title><language>en</language><item><title>The mill reopens</title><link>https://valley.example.org/mill</link>
<pubDate>19 Nov 2017</pubDate><description>It turns &amp; turns.</description></item></channel></rss>"""

RSS_10 = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"
xmlns:dc="http://purl.org/dc/elements/1.1/"><channel rdf:about="x"><title>V</title><dc:language>en</dc:language></channel>
<item rdf:about="https://valley.example.org/mill"><title>The mill reopens</title><link>https://valley.example.org/mill</link>
<dc:date>2017-11-19T10:00:00+00:00</dc:date><description>It turns &amp;amp; turns.</description></item></rdf:RDF>"""

ATOM_03 = """<feed version="0.3" xmlns="http://purl.org/atom/ns#" xml:lang="en"><title>V</title><entry><title>The mill reopens</title>
<link rel="alternate" type="text/html" href="https://valley.example.org/mill"/><issued>2017-11-19T10:00:00Z</issued>
<modified>2018-01-01T10:00:00Z</modified><summary>It turns &amp; turns.</summary></entry></feed>"""

ATOM_10 = """<feed xmlns="http://www.w3.org/2005/Atom" xml:lang="en"><title>V</title><entry><title type="html">The &lt;i>mill&lt;/i> reopens</title>
<link rel="enclosure" href="/sound.mp3"/><link href="/mill"/><published>2017-11-19T23:30:00-05:00</published>
<updated>2018-01-01T10:00:00Z</updated><content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>It turns &amp; turns.</p></div></content>
</entry></feed>"""

JSON_10 = json.dumps(
    {
        "version": "https://jsonfeed.org/version/1",
        "items": [
            {
                "id": "1",
                "title": "The mill reopens",
                "url": "/mill",
                "date_published": "2017-11-19T10:00:00-05:00",
                "content_html": "<p>It turns &amp; turns.</p>",
            }
        ],
    }
)

JSON_11 = json.dumps(
    {
        "version": "https://jsonfeed.org/version/1.1",
        "language": "en",
        "items": [
            {
                "title": "The mill reopens",
                "external_url": "https://valley.example.org/mill",
                "date_modified": "2017-11-19",
                "content_text": "It turns & turns.",
            }
        ],
    }
)


@pytest.mark.parametrize(
    "feed",
    [RSS_091, RSS_10, ATOM_03, ATOM_10, JSON_10, JSON_11, rss(item(link="/mill", description="It turns &amp; turns."))],
)
def test_every_kind_of_feed_is_known_by_its_content_and_read(feed: str) -> None:
    assert is_feed(feed)
    story = one(feed)
    assert (story.title, str(story.date), story.summary) == ("The mill reopens", "2017-11-19", "It turns & turns.")
    assert (story.url, story.problem) == ("https://valley.example.org/mill", "")


@pytest.mark.parametrize(
    "text", ["", "<html><body>", "{}", '{"version": 1}', "<opml/>", "Title\n1 May 2017\n", "<urlset/>"]
)
def test_other_texts_are_no_feeds(text: str) -> None:
    assert not is_feed(text)


@pytest.mark.parametrize(
    ("feed", "language"), [(rss(item()), "es-PE"), (ATOM_10, "en"), (JSON_11, "en"), (RSS_10, "en"), (JSON_10, "")]
)
def test_the_language_is_what_the_feed_says(feed: str, language: str) -> None:
    assert read_feed(feed, "feed.xml").language == language


def test_the_day_is_the_one_that_is_written_in_the_publishers_zone() -> None:
    assert str(one(rss(item(pubDate="Sun, 19 Nov 2017 23:59:00 -0500"))).date) == "2017-11-19"


def test_an_entry_without_title_or_date_comes_with_its_problem() -> None:
    items = (
        item(pubDate="")
        + item(pubDate="soon")
        + item(title="")
        + item(pubDate="31 Feb 2017")
        + item(pubDate="19 Nov 1066")
    )
    found = read_feed(rss(items), "feed.xml").stories
    assert [each.problem for each in found] == [
        "has no date",
        'has a date that cannot be read: "soon"',
        "has no title",
        'has a date that cannot be read: "31 Feb 2017"',
        'has a date that cannot be read: "19 Nov 1066"',
    ]


def test_the_source_of_an_entry_is_kept() -> None:
    assert (
        one(rss(item().replace("</item>", '<source url="https://o.example">The Other</source></item>'))).source
        == "The Other"
    )


def test_entities_are_decoded_once() -> None:
    story = one(
        rss(
            item(
                title="AT&amp;amp;T &amp;lt;3",
                description="&lt;p&gt;5 &amp;amp;lt; 6 &amp;amp;amp; &amp;eacute;&lt;/p&gt;",
            )
        )
    )
    assert (story.title, story.summary) == (
        "AT&T <3",
        "5 &lt; 6 &amp; é".replace("&lt;", "\\&lt;").replace("&amp;", "\\&amp;"),
    )


HTML = """<h2>Head</h2><p>One <b>bold</b>, <em>it</em>; <a href="/x?a=1&amp;b=(2)" onclick="x()">link</a>, <a href="javascript:x()">bad</a>.</p>
<ul><li>a<ol><li>b</li><li>c</li></ol></li><li>d</li></ul><blockquote><p>q</p></blockquote><p>e<br>f</p>
<table><tr><td>g</td><td>h</td></tr></table><img src="i.png" alt="i"><script>j()</script><style>k</style><iframe src="l"></iframe>
<p>* m</p><p>1. n</p><p># o _p_ snake_case 2 * 3 [q](r) [sic] &lt;s&gt; `t`</p>"""

MARKDOWN = """**Head**

One **bold**, *it*; [link](https://valley.example.org/x?a=1&b=%282%29), bad.

- a
  1. b
  2. c
- d

> q

e\\
f

g · h

\\* m

1\\. n

\\# o \\_p\\_ snake_case 2 * 3 [q\\](r) [sic] \\<s> \\`t\\`"""


def test_html_becomes_clean_markdown() -> None:
    assert one(rss(item(description=f"<![CDATA[{HTML}]]>"))).summary == MARKDOWN


@pytest.mark.parametrize(
    "tail",
    [
        '<p>The post <a href="/a">Mill</a> appeared first on <a href="/">Valley</a>.</p>',
        '<p>La entrada <a href="/a">Molino</a> se publicó primero en <a href="/">Valle</a>.</p>',
        '<p><a href="/a">Continue reading <span>Mill</span> <span>→</span></a></p>',
        "<p>Read more</p>",
        ' <a class="more-link" href="/a">Leer más »</a>',
    ],
)
def test_the_tails_that_blogs_append_are_left_out(tail: str) -> None:
    assert one(rss(item(description=f"<![CDATA[<p>It turns.</p>{tail}]]>"))).summary == "It turns."


def test_a_sentence_about_reading_on_is_no_tail() -> None:
    assert (
        without_tail("We went on.\n\nThey continue reading aloud in the mill.")
        == "We went on.\n\nThey continue reading aloud in the mill."
    )


def test_a_summary_that_was_cut_off_gives_way_to_a_content_of_reasonable_length() -> None:
    long = "word " * 400
    assert choose_summary("It was seen to […]", "It was seen to turn.") == "It was seen to turn."
    assert choose_summary("It was seen to", "It was seen to turn.") == "It was seen to turn."
    assert choose_summary("It was seen.", "It was seen. It turned.") == "It was seen."
    assert choose_summary("It was seen to…", long) == "It was seen to…"
    assert choose_summary("", long) == long
    assert choose_summary("Only this", "") == "Only this"


def test_the_mark_of_a_cut_is_written_as_an_ellipsis() -> None:
    assert one(rss(item(description="It was seen to [&amp;#8230;]"))).summary == "It was seen to…"


@pytest.mark.parametrize(
    "said",
    ["@@UNSUBSCRIBE_URL@@", "&amp;#64;&amp;#64;NAME&amp;#64;@", "@&lt;b&gt;@NAME@&lt;/b&gt;@", "@@@@", "@\u2060@@"],
)
def test_no_slot_gets_through(said: str) -> None:
    story = one(
        rss(
            item(title=f"x {said}", description=f"y {said}", link=f"https://e.example/{said.split('&', maxsplit=1)[0]}")
        )
    )
    assert not slot_problem(story.title)
    assert not slot_problem(story.summary)
    assert "@@" not in story.summary.replace("*", "")
    assert "@@" not in (story.url or "")


def _bomb() -> str:
    names = "abcdefghijkl"
    entities = "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in pairwise(names))
    return f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha">{entities}]>{rss(item(title="Boom &l;"))[38:]}'


def test_entities_that_grow_or_name_files_do_nothing() -> None:
    assert len(one(_bomb()).title) < 100
    feed = f'<!DOCTYPE x [<!ENTITY file SYSTEM "file:///etc/passwd">]>{rss(item(title="Mine &file;"))[38:]}'
    assert "root" not in one(feed).title


def test_a_feed_that_is_not_well_formed_is_read_with_a_warning() -> None:
    found = read_feed(rss(item(description="a < b & c")), "feed.xml")
    assert found.stories[0].title == "The mill reopens"
    assert [each.code for each in found.findings] == ["collect.feed"]
    assert found.findings[0].severity == "warning"


@pytest.mark.parametrize(
    "text",
    [
        rss(""),
        '{"version": "https://jsonfeed.org/version/1.1", "items": []}',
        '{"version": "https://jsonfeed.org/version/1.1", "items": 3}',
        '{"version": "https://jsonfeed.org/version/1.1", "items": [1]}',
        '{"version": "https://jsonfeed.org/version/1.1", "items": [',
        '{"version": "https://jsonfeed.org/version/1.1", "items": ' + "[" * 100_000,
        '{"version": "https://jsonfeed.org/version/1.1", "items": ' + "9" * 10_000 + "}",
    ],
)
def test_a_feed_without_entries_is_refused_with_a_next_step(text: str) -> None:
    with pytest.raises(CollectError) as caught:
        read_feed(text, "feed.xml")
    (finding,) = caught.value.findings
    assert finding.code in ("collect.no-stories", "collect.feed")
    assert finding.help


@settings(max_examples=100)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["title", "url", "date_published", "content_html", "summary", "items", "language"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_a_json_feed_may_hold_anything(anything: object) -> None:
    text = json.dumps(
        {"version": "https://jsonfeed.org/version/1.1", "language": anything, "items": [anything, {"title": "x"}]}
    )
    assert isinstance(read_feed(text, "feed.json"), Clippings)


@settings(max_examples=60)
@given(st.text(max_size=80))
def test_no_xml_breaks_the_reader(text: str) -> None:
    found = read_feed(f"<rss><channel><item><title>x{text}</title></item></channel></rss>", "feed.xml")
    assert found.stories[0].title.startswith("x") or found.findings


def test_a_note_without_a_title_has_its_first_sentence_for_one() -> None:
    note = item(title="", description=xml("<p>The court has ruled. Read <a href='https://c.example/1'>it</a>.</p>"))
    story = one(rss(note))
    assert (story.title, story.problem) == ("The court has ruled.", "")
    assert story.summary == "The court has ruled. Read [it](https://c.example/1)."
    assert one(rss(item(title="", description="Short *note*"))).summary == ""
    long = one(rss(item(title="", description="word " * 40))).title
    assert long.endswith("word…")
    assert len(long) <= 81


def test_a_date_that_only_the_title_tells_is_read() -> None:
    assert str(one(rss(item(title="Notes of 19 November 2017", pubDate=""))).date) == "2017-11-19"
    assert one(rss(item(pubDate="Mon, 01 Jan 0001 00:00:00 +0000"))).date is None


def test_entities_and_signs_that_xml_does_not_know_are_read_without_a_warning() -> None:
    feed = "<rss version='2.0'><channel><title>V</title><link>https://v.example/</link><item><title>Caf&eacute; AT&T</title>"
    feed += "<link>https://v.example/?a=1&b=2</link><pubDate>19 Nov 2017</pubDate>"
    feed += "<description><![CDATA[<a href='/x?a=1&b=2'>x</a> &eacute;]]></description></item></channel></rss>"
    read = read_feed(feed, "feed.xml")
    assert read.findings == ()
    assert (read.stories[0].title, read.stories[0].url) == ("Café AT&T", "https://v.example/?a=1&b=2")
    assert read.stories[0].summary == "[x](https://v.example/x?a=1&b=2) é"


def test_what_stands_around_a_text_in_feeds_of_well_known_systems_goes() -> None:
    drupal = (
        '<span class="field field--name-title">T</span><span class="field field--name-uid">admin</span>'
        '<span class="field field--name-created">Tue</span><div class="field--name-body"><p>Body.</p></div>'
    )
    medium = "<h3>Title</h3><p>Body.</p><p><a href='https://m.example/'>T</a> was originally published in <a href='https://m.example/'>P</a> on Medium, where more.</p>"
    for html in (drupal, medium, "&lt;p&gt;Body.&lt;/p&gt;"):
        assert one(rss(item(title="Title", description=xml(html)))).summary == "Body."
