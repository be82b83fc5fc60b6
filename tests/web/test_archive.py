"""The archive as visitors, search engines and feed readers get it."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import feedparser
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audience import as_ways, edition
from issues_sent import png, rendered, send
from newsletter.config import Config
from newsletter.providers.memory import Memory
from pages import Answer, Pages, parsed_html, parsed_xml

HERE = "/archive/en/2017-11-19/"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is public is looked at with every request."""
    monkeypatch.setattr("newsletter.web.shelf.FRESH", -1.0)
    monkeypatch.setattr("newsletter.web.shelf.PATIENCE", -1.0)
    monkeypatch.setattr("newsletter.web.shelf.MAKING", -1.0)
    monkeypatch.setattr("newsletter.web.pictures.FRESH", -1.0)


@contextmanager
def no_database() -> Iterator[None]:
    """Nothing answers at the database's place."""
    from django.db import connection

    name = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = "/nowhere/at/all"
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = name


def dom(answer: Answer) -> Any:
    assert answer.status == 200
    return parsed_html(answer.text)


def hrefs(answer: Answer, path: str = "//a") -> list[str]:
    return [str(each.get("href")) for each in dom(answer).xpath(path)]


def meta(answer: Answer) -> dict[str, str]:
    found = dom(answer).xpath("//meta[@property or @name]")
    return {each.get("property") or each.get("name"): each.get("content", "") for each in found}


# --- the list of issues -----------------------------------------------------------------------------------------------


def test_the_archive_leads_to_the_language_of_the_browser(store: Config) -> None:
    answer = Pages(store).get("/archive/", accept_language="es-PE,es;q=0.9")
    assert (answer.status, answer.headers["location"]) == (302, "/archive/es/")
    assert "Accept-Language" in answer.headers["vary"]


def test_an_address_without_its_last_slash_leads_to_the_page(store: Config) -> None:
    pages = Pages(store)
    assert pages.get("/archive/en").headers["location"] == "/archive/en/"
    assert pages.get("/archive/en/2017-11-19").headers["location"] == HERE
    assert pages.get("/archive/%0d%0aX:y/z").headers["location"] == "/archive/%0D%0AX%3Ay/z/"


def test_the_list_says_of_each_issue_what_it_is_the_newest_first(store: Config) -> None:
    for issue in ("2017-11-19", "2017-11-05", "2017-11-12"):
        send(store, issue, rendered(store, issue))
    answer = Pages(store).get("/archive/es/")
    items = dom(answer).xpath("//ol[@class='issues']/li")
    assert [item.xpath("a/@href")[0] for item in items] == [
        f"/archive/es/{day}/" for day in ("2017-11-19", "2017-11-12", "2017-11-05")
    ]
    assert items[0].xpath("string(a)") == "Un puente y <tres> historias"
    assert "N.º 7 · Domingo, 19 de noviembre de 2017" in items[0].text_content()
    assert "Lo que dice el río" in items[0].text_content()
    assert dom(answer).get("lang") == "es"


def test_a_language_without_issues_says_so_and_another_is_not_there(store: Config) -> None:
    pages = Pages(store)
    assert "The first issue will be found here" in pages.get("/archive/en/").text
    for path in ("/archive/de/", "/archive/de/feed.atom", "/archive/en/pages/2/", "/archive/en/pages/1/", HERE):
        assert pages.get(path).status == 404, path


def test_a_language_that_the_workspace_has_given_up_keeps_its_archive(store: Config) -> None:
    send(store, made={"fr": edition("fr")})
    pages = Pages(store)
    assert "/archive/fr/2017-11-19/" in pages.get("/archive/fr/").text
    answer = pages.get("/archive/fr/2017-11-19/")
    assert dom(answer).get("lang") == "fr"
    assert dom(answer).xpath("//header/@lang") == ["en"]  # our words around it
    assert "/archive/fr/" in hrefs(pages.get("/archive/en/"))


def test_many_issues_have_many_pages(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newsletter.web.archive_pages.ON_A_PAGE", 2)
    issues = [f"2017-11-{day:02}" for day in range(1, 6)]
    for issue in issues:
        send(store, issue, {"en": edition(key=issue)})
    pages, seen, path = Pages(store), list[str](), "/archive/en/"
    while path:
        answer = pages.get(path)
        seen += hrefs(answer, "//ol//a")
        path = next(iter(hrefs(answer, "//a[@rel='next']")), "")
    assert seen == [f"/archive/en/{issue}/" for issue in reversed(issues)]
    assert hrefs(pages.get("/archive/en/pages/2/"), "//a[@rel='prev']") == ["/archive/en/"]


# --- an issue ---------------------------------------------------------------------------------------------------------


def test_an_issue_is_a_page_of_its_own_with_nobody_in_it(store: Config) -> None:
    send(store, made=rendered(store))
    answer = Pages(store).get(HERE)
    page = dom(answer)
    assert "@@" not in answer.text
    assert not re.search(r"/(u|p|v|c|m)/[A-Za-z0-9_-]{22}\.", answer.text)
    text = " ".join(page.text_content().split())
    assert "Good morning, this is the week." in text
    assert "It is open." in text
    assert [len(page.xpath(f"//{tag}")) for tag in ("main", "h1", "title")] == [1, 1, 1]
    assert page.xpath("//main//h1")
    links = hrefs(answer)
    assert "/me/?lang=en" in links
    assert {"#s1", "#s2", "#s3"} <= set(links)  # the list of contents stays in the page
    assert all(page.xpath(f"//*[@id='{link[1:]}']") for link in links if link.startswith("#"))
    assert "/archive/en/" in links
    assert "/archive/es/2017-11-19/" in links
    assert "/signup/?lang=en" in links
    (source,) = set(page.xpath("//main//img/@src"))
    assert re.fullmatch(r"/images/[0-9a-f]{32}\.png", source)
    assert "set-cookie" not in answer.headers


def test_an_issue_says_to_search_engines_and_shares_what_it_is(store: Config) -> None:
    send(store, made=rendered(store))
    answer = Pages(store).get(HERE)
    base = "https://news.example.org/archive"
    assert hrefs(answer, "//link[@rel='canonical']") == [f"{base}/en/2017-11-19/"]
    alternates = {
        each.get("hreflang"): each.get("href") for each in dom(answer).xpath("//link[@rel='alternate'][@hreflang]")
    }
    assert alternates == {
        "en": f"{base}/en/2017-11-19/",
        "es": f"{base}/es/2017-11-19/",
        "x-default": f"{base}/en/2017-11-19/",
    }
    said = meta(answer)
    assert said["og:title"] == "A bridge & <three> stories"
    assert said["og:description"] == said["description"] == "What the river says"
    assert said["og:url"] == f"{base}/en/2017-11-19/"
    assert (said["og:type"], said["og:locale"], said["og:site_name"]) == ("article", "en", "Valley News")
    assert re.fullmatch(r"https://news\.example\.org/images/[0-9a-f]{32}\.png", said["og:image"])
    assert "robots" not in said
    assert "x-robots-tag" not in answer.headers
    assert hrefs(answer, "//link[@type='application/atom+xml']") == ["/archive/en/feed.atom"]


def test_an_issue_has_its_own_policy_without_any_script(store: Config) -> None:
    hostile = replace(edition(), html="<p onclick=evil()>x<script>evil()</script><form action=/></form></p>")
    send(store, made={"en": hostile})
    headers = Pages(store).get(HERE).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "'self' https://news.example.org",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"


def test_neighbours_are_linked(store: Config) -> None:
    for issue in ("2017-11-12", "2017-11-19", "2017-11-26"):
        send(store, issue)
    answer = Pages(store).get(HERE)
    assert hrefs(answer, "//a[@rel='prev']") == ["/archive/en/2017-11-12/"]
    assert hrefs(answer, "//a[@rel='next']") == ["/archive/en/2017-11-26/"]


def test_what_was_sent_when_base_url_was_another_still_shows_its_pictures(store: Config) -> None:
    old = replace(store, base_url="http://old.example.net/letters")
    send(store, made=rendered(old))
    answer = Pages(store).get(HERE)
    assert "old.example.net" not in answer.text
    assert "#s2" in hrefs(answer)
    assert all(source.startswith("/images/") for source in dom(answer).xpath("//img/@src"))


def test_under_a_path_every_address_begins_with_it(store: Config) -> None:
    store = replace(store, base_url="https://example.org/news")
    send(store, made=rendered(store))
    pages = Pages(store)
    for path in (HERE, "/archive/en/"):
        answer = pages.get(f"/news{path}")
        own = [each for each in hrefs(answer) + dom(answer).xpath("//img/@src") if not each.startswith(("#", "http"))]
        assert own
        assert all(each.startswith("/news/") for each in own), own
    assert pages.get(hrefs(pages.get(f"/news{HERE}"), "//link[@rel='canonical']")[0][len("https://example.org") :])


def test_embedded_pictures_are_shown_too(store: Config) -> None:
    config = replace(store, images="embed")
    made = rendered(config)
    send(config, made=made)
    (store.issues / "images" / "bridge.png").unlink()
    pages = Pages(config)
    (source,) = set(dom(pages.get(HERE)).xpath("//main//img/@src"))
    assert pages.get(source).body == png(600, 300)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<p>Hello @@NAME@@,</p>", "Hello,"),
        ("<p>@@NAME@@, hello</p>", "hello"),
        ("<p>Dear&#32;@@NAME@@!</p>", "Dear !"),
        ("<p>For @@NAME@@ and @@NAME@@.</p>", "For and."),
        ("<p>Thank you, @@NAME@@.</p>", "Thank you."),
        ("<p>Thank you, @@NAME@@</p>", "Thank you"),
        ("<p>Well, @@NAME@@, look</p>", "Well, look"),
        ("<p>To @@ADDRESS@@</p>", "To "),
    ],
)
def test_a_name_that_is_nobodys_leaves_no_hole(store: Config, text: str, shown: str) -> None:
    send(store, made={"en": replace(edition(), html=text)})
    assert dom(Pages(store).get(HERE)).xpath("string(//main/p)") == shown


# --- issues that are not public ---------------------------------------------------------------------------------------


def deliver(config: Config, mailing: int) -> list[bytes]:
    """Sends a mailing for real, into memory."""
    from newsletter.engine import local
    from newsletter.store import mailings, schema

    if not config.database_url:
        schema.prepare(config)
    provider = Memory()
    local.run(
        config,
        as_ways(provider, "memory"),
        stop=threading.Event(),
        until=lambda: mailings.find(mailing).state in ("finished", "paused"),
    )
    assert mailings.find(mailing).state == "finished"
    return [each.message for each in provider.messages]


def test_a_private_issue_opens_for_whoever_has_the_link_of_its_mail(store: Config) -> None:
    made = rendered(store, more="private: true\n")
    messages = deliver(store, send(store, made=made))
    found = [re.search(rb"https://news\.example\.org(/v/[\w.-]+)", each.replace(b"=\r\n", b"")) for each in messages]
    links = {match[1].decode() for match in found if match}
    assert len(messages) == 4
    assert len(links) == 2  # one a language, and nobody's in particular
    pages = Pages(store)
    for link in links:
        answer = pages.get(link)
        assert "cache-control" in answer.headers
        assert answer.headers["cache-control"] == "no-store"
        assert "noindex" in answer.headers["x-robots-tag"]
        assert meta(answer)["robots"] == "noindex"
        assert "og:title" not in meta(answer)
        assert not dom(answer).xpath("//link[@rel='canonical']")
        assert links - {link} <= set(hrefs(answer))  # the other language
        assert "#s1" in hrefs(answer)
        assert "/archive/en/2017-11-19/" not in answer.text
    assert pages.get(HERE).status == 404
    assert "2017-11-19" not in pages.get("/archive/en/").text + pages.get("/sitemap.xml").text


def test_the_sample_of_a_private_issue_is_no_promise_of_a_public_page(store: Config) -> None:
    from newsletter.build import sample_recipient

    private = rendered(store, more="private: true\n")["en"]
    assert sample_recipient(private, store).slots["VIEW_URL"].startswith("https://news.example.org/v/")
    public = rendered(store)["en"]
    assert sample_recipient(public, store).slots["VIEW_URL"] == f"https://news.example.org{HERE}"


def test_a_link_to_what_is_public_or_never_was_is_dead_like_a_forged_one(store: Config) -> None:
    from newsletter.store.published import published

    send(store)
    pages = Pages(store)
    ring = pages.site.keyring
    (id, _) = [row.edition for row in published(()).rows]
    tokens = [
        ring.token("view", id),  # public: it has its page
        ring.token("view", 999_999),
        ring.token("preferences", id),
        ring.token("view", id)[:-1],
        f"{'A' * 22}.k1",
        "x",
        "%00",
    ]
    answers = {re.sub(r"/v/[^?]*", "", pages.get(f"/v/{token}").text) for token in tokens}
    assert len(answers) == 1
    assert {pages.get(f"/v/{token}").status for token in tokens} == {404}


def test_a_list_that_is_private_now_hides_what_was_sent_to_it(store: Config) -> None:
    send(store)
    lists = store.lists.read_text("utf-8")
    store.lists.write_text(lists.replace("id: weekly", "id: weekly\n    private: true"), "utf-8")
    assert Pages(store).get(HERE).status == 404


# --- the shelf --------------------------------------------------------------------------------------------------------


def test_a_page_is_asked_of_the_database_once(store: Config) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    send(store)
    pages = Pages(store)
    first = pages.get(HERE)
    with CaptureQueriesContext(connection) as asked:
        again = pages.get(HERE)
    assert (len(asked), again) == (0, first)


@pytest.mark.parametrize("path", [HERE, "/archive/en/", "/archive/en/feed.atom", "/archive/en/feed.json"])
def test_who_has_a_page_does_not_get_it_again(store: Config, path: str) -> None:
    send(store)
    pages = Pages(store)
    for _ in range(2):  # made, and from the shelf
        whole = pages.get(path)
        assert whole.headers["cache-control"].startswith("public, max-age=300, stale-while-revalidate=")
        tag = whole.headers["etag"]
        assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
        for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            answer = pages.get(path, if_none_match=header)
            assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
            assert "content-length" not in answer.headers
        assert pages.get(path, if_none_match='"other"').status == 200
        modified = datetime.now(UTC) + timedelta(seconds=5)
        assert pages.get(path, if_modified_since=format_datetime(modified, usegmt=True)).status == 304
        assert pages.get(path, if_modified_since="Sat, 01 Jan 2000 00:00:00 GMT").status == 200
        assert pages.get(path, if_modified_since="soon").status == 200
        # RFC 9110 §13.1.3: the tag, where there is one, decides alone.
        both = {"if_none_match": '"other"', "if_modified_since": format_datetime(modified, usegmt=True)}
        assert pages.get(path, **both).status == 200


def test_pages_are_compressed_for_whom_it_suits(store: Config) -> None:
    send(store, made=rendered(store))
    pages = Pages(store)
    for _ in range(2):
        plain = pages.get(HERE)
        assert "content-encoding" not in plain.headers
        assert plain.headers["vary"] == "Accept-Encoding"
        packed = pages.get(HERE, accept_encoding="br, gzip;q=0.8")
        assert packed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body
        assert len(packed.body) < len(plain.body) / 3
        assert packed.headers["etag"] != plain.headers["etag"]
        assert pages.get(HERE, accept_encoding="gzip;q=0, *").headers.get("content-encoding") is None


def test_head_has_the_headers_alone(store: Config) -> None:
    send(store)
    pages = Pages(store)
    for _ in range(2):
        head, whole = pages.ask("HEAD", HERE), pages.get(HERE)
        assert (head.status, head.body, head.headers) == (200, b"", whole.headers)


def test_what_was_sent_since_is_shown(store: Config, at_once: None) -> None:
    send(store)
    pages = Pages(store)
    paths = (HERE, "/archive/en/", "/archive/en/feed.atom", "/archive/en/feed.json", "/sitemap.xml")
    before = {path: pages.get(path).text for path in paths}
    assert all("2017-11-26" not in text for text in before.values())
    assert {path: pages.get(path).text for path in paths} == before
    send(store, "2017-11-26")
    for path in paths:
        assert "2017-11-26" in pages.get(path).text, path


def test_while_a_page_is_made_anew_others_get_it_as_it_was(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newsletter.web.shelf.FRESH", -1.0)
    send(store)
    pages = Pages(store)
    before = pages.get("/archive/en/").text
    send(store, "2017-11-26")
    shelf = pages._door._shelf
    asked: dict[str, Any] = {"PATH_INFO": "/archive/en/"}
    assert shelf.find(asked) is None  # one makes it
    old = shelf.find(asked)
    assert old is not None
    assert old.body.decode() == before


def test_an_old_page_is_better_than_none(store: Config, at_once: None) -> None:
    send(store)
    pages = Pages(store)
    before = pages.get(HERE)
    with no_database():
        assert pages.get(HERE) == before
        assert pages.get("/archive/es/2017-11-19/").status == 503  # was never made
    assert pages.get("/archive/es/2017-11-19/").status == 200


def test_a_page_that_cannot_be_made_anew_is_shown_as_it_was(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newsletter.web.shelf.FRESH", -1.0)
    send(store)
    pages = Pages(store)
    before = pages.get(HERE)
    send(store, "2017-11-26")
    pages._door._shelf.public()  # it is known that there is something new
    with no_database():
        assert pages.get(HERE).text == before.text


def test_without_the_database_from_the_beginning_the_page_says_so(store: Config) -> None:
    pages = Pages(store)
    with no_database():
        assert pages.get("/archive/en/").status == 503
    assert pages.get("/archive/en/").status == 200


def test_the_room_is_bounded_and_the_longest_unused_go(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.web.press import Page

    monkeypatch.setattr("newsletter.web.shelf.ROOM", 100_000)
    shelf = Pages(store)._door._shelf
    for number in range(40):
        shelf.put(f"/images/{number}", Page(body=bytes(8000), media_type="image/png"))
        shelf.find({"PATH_INFO": "/images/0"})  # is used all the time
    assert shelf._size == sum(each.size for each in shelf._shelved.values()) <= 100_000
    assert "/images/0" in shelf._shelved
    assert "/images/39" in shelf._shelved
    assert "/images/1" not in shelf._shelved
    shelf.put("/images/large", Page(body=bytes(50_000), media_type="image/png"))
    assert "/images/large" not in shelf._shelved
    shelf.put("/images/39", Page(body=bytes(10), media_type="image/png"))
    assert shelf._size == sum(each.size for each in shelf._shelved.values())


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_header_is_too_odd(tags: str, since: str, encoding: str) -> None:
    from newsletter.web.press import Page
    from newsletter.web.shelf import Shelved

    shelved = Shelved(Page(body=b"x", media_type="text/html", modified=datetime(2026, 1, 1, tzinfo=UTC)))
    asked = {"HTTP_IF_NONE_MATCH": tags, "HTTP_ACCEPT_ENCODING": encoding}
    assert shelved.fitting(asked).status[:3] in ("200", "304")
    del asked["HTTP_IF_NONE_MATCH"]
    assert shelved.fitting({**asked, "HTTP_IF_MODIFIED_SINCE": since}).status[:3] in ("200", "304")


# --- feeds ------------------------------------------------------------------------------------------------------------

ATOM = {"a": "http://www.w3.org/2005/Atom"}


def test_atom_has_what_rfc_4287_asks_for(store: Config) -> None:
    send(store, "2017-11-12", rendered(store, "2017-11-12"))
    send(store, made=rendered(store))
    answer = Pages(store).get("/archive/es/feed.atom")
    assert answer.headers["content-type"] == "application/atom+xml; charset=utf-8"
    feed = parsed_xml(answer.body)
    assert feed.tag == "{http://www.w3.org/2005/Atom}feed"
    for path in ("a:id", "a:title", "a:updated", "a:author/a:name", "a:link[@rel='self']"):
        assert len(feed.xpath(path, namespaces=ATOM)) == 1, path
    entries = feed.xpath("a:entry", namespaces=ATOM)
    once = ("a:id", "a:title", "a:updated", "a:published", "a:link[@rel='alternate']", "a:content", "a:summary")
    for entry in entries:
        for path in once:
            assert len(entry.xpath(path, namespaces=ATOM)) == 1, path
    parsed = feedparser.parse(answer.body)
    assert not parsed.bozo
    assert [entry.link for entry in parsed.entries] == [
        f"https://news.example.org/archive/es/{day}/" for day in ("2017-11-19", "2017-11-12")
    ]
    assert len({entry.id for entry in parsed.entries}) == 2
    assert parsed.entries[0].title == "Un puente y <tres> historias"
    assert parsed.feed.links[0].href == "https://news.example.org/archive/es/feed.atom"


def test_a_feed_has_what_the_issue_says_and_no_furniture(store: Config) -> None:
    send(store, made=rendered(store))
    (entry,) = feedparser.parse(Pages(store).get("/archive/en/feed.atom").body, sanitize_html=False).entries
    content = entry.content[0].value
    assert entry.content[0].type == "text/html"
    assert "<strong>open</strong>" in content
    assert "https://elsewhere.example.org/bridge-2" in content
    assert re.search(r'src="https://news\.example\.org/images/[0-9a-f]{32}\.png"', content)
    for absent in ("@@", "Unsubscribe", "/me/", "style=", "<table", "<h1", "#s1", "Mill Street", "View in browser"):
        assert absent not in content, absent


def test_the_names_of_entries_stay_when_an_issue_is_sent_again(store: Config, at_once: None) -> None:
    from newsletter.store import models

    mailing = send(store)
    then = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    models.Mailing.objects.filter(pk=mailing).update(state="finished", opened_at=then)
    pages = Pages(store)
    (before,) = feedparser.parse(pages.get("/archive/en/feed.atom").body).entries
    send(store, again=True)
    (after,) = feedparser.parse(pages.get("/archive/en/feed.atom").body).entries
    assert (after.id, after.published) == (before.id, before.published)
    assert before.published == "2026-01-02T03:04:05Z"
    assert after.updated > before.updated


def test_json_feed_is_one(store: Config) -> None:
    send(store, made=rendered(store))
    answer = Pages(store).get("/archive/es/feed.json")
    assert answer.headers["content-type"] == "application/feed+json; charset=utf-8"
    feed = json.loads(answer.body)
    assert feed["version"] == "https://jsonfeed.org/version/1.1"
    assert feed["feed_url"] == "https://news.example.org/archive/es/feed.json"
    assert (feed["title"], feed["language"]) == ("Noticias del Valle", "es")
    (item,) = feed["items"]
    assert item["url"] == "https://news.example.org/archive/es/2017-11-19/"
    assert item["title"] == "Un puente y <tres> historias"
    assert item["summary"] == "Lo que dice el río"
    assert "<strong>abierto</strong>" in item["content_html"]
    assert item["image"].startswith("https://news.example.org/images/")


def test_feeds_are_whole_before_anything_was_sent(store: Config) -> None:
    pages = Pages(store)
    parsed = feedparser.parse(pages.get("/archive/en/feed.atom").body)
    assert (parsed.bozo, parsed.entries) == (False, [])
    assert parsed.feed.updated
    assert json.loads(pages.get("/archive/en/feed.json").body)["items"] == []


def test_a_feed_has_the_last_twenty_that_were_sent(store: Config) -> None:
    for day in range(1, 22):
        send(store, f"2017-11-{day:02}", {"en": edition(key=f"2017-11-{day:02}")})
    send(store, "1999-01-01", {"en": edition(key="1999-01-01")})  # old, and new to every reader
    entries = feedparser.parse(Pages(store).get("/archive/en/feed.atom").body).entries
    assert len(entries) == 20
    assert entries[0].link.endswith("/1999-01-01/")
    assert entries[1].link.endswith("/2017-11-21/")


@pytest.mark.parametrize("text", ["bell \x07 and \x1b escape", "\ufffe\uffff", "]]> & <b>", "“Perú” 🦙", "\u2028"])
def test_no_text_breaks_a_feed(store: Config, text: str) -> None:
    made = edition()
    odd = replace(made, subject=text, html=f"<p>{text}</p>", imprint=replace(made.imprint, preheader=text))
    send(store, made={"en": odd})
    pages = Pages(store)
    (entry,) = parsed_xml(pages.get("/archive/en/feed.atom").body).xpath("a:entry", namespaces=ATOM)
    kept = re.sub("[\x07\x1b\ufffe\uffff]", "", text)
    assert entry.xpath("string(a:title)", namespaces=ATOM) == kept
    assert json.loads(pages.get("/archive/en/feed.json").body)["items"][0]["title"] == text
    assert pages.get(HERE).status == pages.get("/archive/en/").status == 200


# --- sitemap ----------------------------------------------------------------------------------------------------------

SITEMAP = {"s": "http://www.sitemaps.org/schemas/sitemap/0.9", "x": "http://www.w3.org/1999/xhtml"}


def test_the_sitemap_has_every_page_in_its_languages(store: Config) -> None:
    send(store)
    send(store, "2017-11-26", {"en": edition(key="2017-11-26")})
    answer = Pages(store).get("/sitemap.xml")
    assert answer.headers["content-type"].startswith("application/xml")
    found = {
        url.xpath("string(s:loc)", namespaces=SITEMAP): url.xpath("x:link/@hreflang", namespaces=SITEMAP)
        for url in parsed_xml(answer.body).xpath("s:url", namespaces=SITEMAP)
    }
    base = "https://news.example.org/archive"
    assert {key: sorted(value) for key, value in found.items()} == {
        f"{base}/en/": ["en", "es"],
        f"{base}/es/": ["en", "es"],
        f"{base}/en/2017-11-26/": ["en"],
        f"{base}/en/2017-11-19/": ["en", "es"],
        f"{base}/es/2017-11-19/": ["en", "es"],
    }
    assert len(parsed_xml(answer.body).xpath("//s:lastmod", namespaces=SITEMAP)) == 3


def test_a_large_sitemap_is_in_parts(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newsletter.web.archive_feeds.IN_A_SITEMAP", 3)
    for day in range(1, 4):
        send(store, f"2017-11-{day:02}")
    pages = Pages(store)
    top = parsed_xml(pages.get("/sitemap.xml").body)
    assert top.tag.endswith("}sitemapindex")
    parts = [each.removeprefix("https://news.example.org") for each in top.xpath("//s:loc/text()", namespaces=SITEMAP)]
    assert parts == ["/sitemap-1.xml", "/sitemap-2.xml", "/sitemap-3.xml"]
    found = [parsed_xml(pages.get(part).body).xpath("//s:loc/text()", namespaces=SITEMAP) for part in parts]
    assert [len(each) for each in found] == [3, 3, 2]
    assert len({address for each in found for address in each}) == 8
    assert pages.get("/sitemap-4.xml").status == 404


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_sent_picture_keeps_its_address_for_ever(store: Config, at_once: None) -> None:
    send(store, made=rendered(store))
    file = store.issues / "images" / "bridge.png"
    (source,) = set(dom(Pages(store).get(HERE)).xpath("//main//img/@src"))
    file.write_bytes(png(600, 300, shade=1))
    answer = Pages(store).get(source)
    assert answer.body == png(600, 300)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["x-content-type-options"] == "nosniff"
    file.unlink()
    assert Pages(store).get(source).body == png(600, 300)


def test_a_picture_that_may_be_sent_is_found_in_the_workspace(store: Config, at_once: None) -> None:
    made = rendered(store)
    (name,) = {image.name for image in made["en"].images}
    pages = Pages(store)
    assert pages.get(f"/images/{name}").status == 200
    newer = png(4, 4)
    (store.issues / "images" / "newer.png").write_bytes(newer)
    import hashlib

    assert pages.get(f"/images/{hashlib.sha256(newer).hexdigest()[:32]}.png").body == newer


@pytest.mark.parametrize("name", ["bridge.png", "../bridge.png", f"{'0' * 32}.png", f"{'0' * 32}.svg", "%00", ""])
def test_nothing_else_is_a_picture(store: Config, name: str) -> None:
    rendered(store)
    assert Pages(store).get(f"/images/{name}").status == 404


# --- whatever is asked ------------------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_characters="?"), max_size=12), min_size=1, max_size=4))
def test_no_address_is_too_odd(store: Config, parts: list[str]) -> None:
    from urllib.parse import quote

    path = "/".join(quote(part.encode("utf-8", "surrogatepass"), safe="") for part in parts)
    pages = Pages(store)
    for first in ("/archive/", "/images/", "/v/", "/archive/en/"):
        assert pages.get(first + path).status in (200, 302, 404)


@pytest.mark.parametrize("path", ["/archive/", "/archive/en/", HERE, "/archive/en/feed.atom", "/sitemap.xml", "/v/x"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_is_done_here(store: Config, method: str, path: str) -> None:
    assert Pages(store).ask(method, path).status == 405
