"""A link scanner, of the kind that mailbox providers and companies run: it opens every link of a mail before, or while,
a person reads it, and whatever lies behind. None of that may change anything."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from urllib.parse import urljoin, urlsplit

import pytest

from members import Received, every_mail, received
from newsletter.config import Config
from pages import Answer, Pages
from rows import all_rows, changed

ANA, NEW = "ana.quispe@example.org", "ana@new.example.org"
KINDS = ("confirm", "welcome", "issue", "private", "known", "link", "address")

SCANNERS: Mapping[str, Mapping[str, str]] = {
    "plain": {},
    "browser that loads ahead": {"purpose": "prefetch", "sec_purpose": "prefetch;prerender", "x_moz": "prefetch"},
    "preview": {"user_agent": "Mozilla/5.0 (compatible; LinkPreview/1.0; +https://scanner.example)", "dnt": "1"},
    "mail gateway": {
        "user_agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64)",
        "referer": "https://mail.example.net/",
        "sec_fetch_site": "cross-site",
        "sec_fetch_mode": "navigate",
        "x_forwarded_for": "203.0.113.9",
        "accept_language": "es",
        "cookie": "session=1",
        "range": "bytes=0-1023",
        "if_none_match": "*",
        "x_http_method_override": "POST",
        "x_http_method": "POST",
    },
}


@pytest.fixture
def mails(store: Config, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Received]:
    """A member with every mail that there is, in the outbox."""
    monkeypatch.setattr("newsletter.engine.local.HEARTBEAT", 0.05)
    monkeypatch.setattr("newsletter.dispatch.IDLE", 0.02)
    return every_mail(Pages(store), ANA, NEW)


@pytest.fixture
def pages(mails: Mapping[str, Received], store: Config) -> Pages:
    return Pages(store)


def ours(pages: Pages, links: Iterable[str]) -> list[str]:
    """The paths of those links that lead to the pages."""
    host = urlsplit(pages.site.config.base_url).netloc
    paths = []
    for link in links:
        parts = urlsplit(link)
        if parts.netloc == host and parts.scheme in ("http", "https"):
            paths.append(parts.path + (f"?{parts.query}" if parts.query else ""))
    return list(dict.fromkeys(paths))


def behind(answer: Answer, path: str) -> list[str]:
    """What a scanner finds in a page: links, pictures, style, the addresses of its forms, where it is redirected to."""
    found = re.findall(r"""(?:href|src|action|data-href|srcset|poster)=["']([^"']+)["']""", answer.text)
    found += re.findall(r"""https?://[^\s"'<>\\]+""", answer.text)
    if answer.headers.get("content-type", "").startswith("text/plain"):
        found += [line.partition(": ")[2] for line in answer.text.splitlines() if ": " in line]
    if "location" in answer.headers:
        found.append(answer.headers["location"])
    base = f"https://news.example.org{path}"
    return [urljoin(base, unescape(link)) for link in found]


def asked(pages: Pages, paths: Iterable[str], headers: Mapping[str, str]) -> list[str]:
    """Each path by HEAD and by GET; what was found behind them."""
    found: list[str] = []
    for path in paths:
        for method in ("HEAD", "GET"):
            answer = pages.ask(method, path, b"", "", **headers)
            assert answer.status < 500, path
            assert "set-cookie" not in answer.headers
            found += behind(answer, path)
    return found


def test_a_member_got_every_kind_of_mail_with_links_to_these_pages(pages: Pages, mails: Mapping[str, Received]) -> None:
    """Or the tests below would prove nothing."""
    assert set(mails) >= set(KINDS)
    purposes = {kind: {path.split("/")[1] for path in ours(pages, mail.links)} for kind, mail in mails.items()}
    assert "c" in purposes["confirm"]
    assert purposes["issue"] >= {"u", "p", "archive", "images"}
    assert purposes["private"] >= {"u", "p", "v", "images"}
    assert purposes["welcome"] >= {"u", "p", "archive"}
    assert "m" in purposes["link"]
    assert "a" in purposes["address"]
    assert "p" in purposes["known"]
    headers = mails["issue"].message
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mails["issue"].token("unsubscribe") in headers["List-Unsubscribe"]


def test_scanners_that_open_every_link_in_order_and_all_that_lies_behind_change_nothing(
    pages: Pages, mails: Mapping[str, Received], store: Config
) -> None:
    before = all_rows()
    for headers in SCANNERS.values():
        seen: set[str] = set()
        paths = [path for kind in mails for path in ours(pages, mails[kind].links)]
        for _ in range(2):  # what the mails hold, and what those pages hold
            seen.update(paths)
            paths = [path for path in ours(pages, asked(pages, paths, headers)) if path not in seen]
            assert paths or len(seen) > 20
    assert changed(before, all_rows()) == {}
    assert len(received(store)) == len(mails)


def test_scanners_that_open_all_links_at_the_same_moment_change_nothing_and_the_links_still_work(
    pages: Pages, mails: Mapping[str, Received]
) -> None:
    from django.db import connections

    from newsletter.store.models import Subscription

    before = all_rows()
    paths = [path for kind in mails for path in ours(pages, mails[kind].links)]
    requests = [
        (method, path, headers) for path in paths for method in ("GET", "HEAD") for headers in SCANNERS.values()
    ]
    random.Random(1).shuffle(requests)  # always the same

    def ask(request: tuple[str, str, Mapping[str, str]]) -> int:
        method, path, headers = request
        return pages.ask(method, path, b"", "", **headers).status

    every_thread = threading.Barrier(8, timeout=60)

    def close(_: int) -> None:
        every_thread.wait()
        connections.close_all()

    with ThreadPoolExecutor(8) as threads:
        statuses = set(threads.map(ask, requests))
        list(threads.map(close, range(8)))
    assert all(status < 500 for status in statuses)
    assert changed(before, all_rows()) == {}

    for purpose, kind, path in (
        ("preferences", "issue", "/p/"),
        ("manage", "link", "/m/"),
        ("address", "address", "/a/"),
    ):
        assert pages.get(path + mails[kind].token(purpose)).status == 200
    assert pages.post(f"/a/{mails['address'].token('address')}").status == 200
    one_click = pages.post(f"/u/{mails['issue'].token('unsubscribe')}", {"List-Unsubscribe": "One-Click"})
    assert one_click.status == 200
    assert Subscription.objects.get().state == "unsubscribed"


def test_a_scan_of_a_confirmation_does_not_confirm(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mail that a scanner sees first, before the person does."""
    from members import sign_up, work
    from newsletter.store.models import Subscriber

    monkeypatch.setattr("newsletter.engine.local.HEARTBEAT", 0.05)
    pages = Pages(store)
    sign_up(pages, ANA, "weekly")
    work(store)
    [mail] = received(store, ANA)
    before = all_rows()
    for headers in SCANNERS.values():
        asked(pages, ours(pages, asked(pages, ours(pages, mail.links), headers)), headers)
    assert changed(before, all_rows()) == {}
    assert not Subscriber.objects.exists()
    assert pages.post(f"/c/{mail.token('confirm')}").status == 200
    assert Subscriber.objects.get().address == ANA
