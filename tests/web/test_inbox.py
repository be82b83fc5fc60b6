"""The local inbox: for this machine only, and for messages of any kind."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config
from newsletter.web.words import words_for
from pages import Answer, Pages

pytestmark = pytest.mark.parametrize("store", ["sqlite"], indirect=True)  # the database has no part in it
LOCAL = "127.0.0.1:8000"
Put = Callable[..., str]


@pytest.fixture
def put(store: Config) -> Put:
    """Puts a message into the outbox: its id."""
    for name in ("tmp", "new", "cur"):
        (store.outbox / name).mkdir(parents=True)

    def put_one(content: bytes | EmailMessage, name: str = "", *, folder: str = "new", at: float = 0.0) -> str:
        name = name or f"2017-11-19.{len(list(store.outbox.glob('*/*'))):032x}"
        path = store.outbox / folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.as_bytes())
        if at:
            os.utime(path, (at, at))
        return name.partition(":")[0]

    return put_one


class Inbox:
    """The inbox as a browser on this machine has it."""

    def __init__(self, config: Config) -> None:
        self.pages = Pages(config, inbox=True)

    def get(self, path: str = "", host: str = LOCAL, **headers: str) -> Answer:
        return self.pages.get(f"/inbox/{path}", host=host, **headers)


def letter(**more: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "news@example.org", "reader@example.net", "The week"
    for name, value in more.items():
        message[name] = value
    message.set_content("Hello https://news.example.org/u/token.\n")
    html = '<html><head><title>x</title></head><body><a href="https://news.example.org/u/token">out</a></body></html>'
    message.add_alternative(html, subtype="html")
    return message


# --- for whom ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost:8000", "[::1]", "[::1]:9", "127.0.0.1:65535"])
def test_this_machine_sees_it(store: Config, put: Put, host: str) -> None:
    id = put(letter())
    inbox = Inbox(store)
    assert inbox.get(host=host).status == 200
    assert inbox.get(f"{id}/html", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "news.example.org",
        "",
        "127.0.0.1.example.org",
        "localhost.example.org",
        "192.0.2.1",
        "127.0.0.1:",
        "[::1",
        "::1",
        "localhost:8000@example.org",
        "example.org:127.0.0.1",
        "127.0.0.2",
        "localhost\n",
        "127.0.0.1:123456",
    ],
)
def test_nobody_else_does(store: Config, put: Put, host: str) -> None:
    id = put(letter())
    inbox = Inbox(store)
    for path in ("", f"{id}/", f"{id}/html", f"{id}/source", f"{id}/part/0"):
        answer = inbox.get(path, host=host)
        assert (answer.status, "reader@" in answer.text) == (404, False)


@pytest.mark.parametrize("header", ["forwarded", "x_forwarded_for", "x_forwarded_host", "x_forwarded_proto"])
def test_nothing_that_came_through_a_proxy_is_answered(store: Config, put: Put, header: str) -> None:
    id = put(letter())
    inbox = Inbox(store)
    for path in ("", f"{id}/", f"{id}/html", f"{id}/source"):
        assert inbox.get(path, **{header: ""}).status == 404
        assert inbox.get(path, **{header: "for=127.0.0.1"}).status == 404


def test_without_being_asked_for_it_is_not_there(store: Config, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    id = put(letter())
    pages = Pages(store)
    monkeypatch.setattr(settings, "DEBUG", True)
    for path in ("", f"{id}/", f"{id}/html", f"{id}/source"):
        assert pages.get(f"/inbox/{path}", host=LOCAL).status == 404


def test_it_can_only_be_read(store: Config, put: Put) -> None:
    id = put(letter())
    pages = Pages(store, inbox=True)
    for path in ("/inbox/", f"/inbox/{id}/", f"/inbox/{id}/html"):
        assert pages.post(path, {}, host=LOCAL).status == 405


# --- the list ---------------------------------------------------------------------------------------------------------


def test_an_empty_outbox_says_so(store: Config) -> None:
    assert words_for("en")("inbox.none") in Inbox(store).get().text
    assert words_for("es")("inbox.none") in Inbox(store).get("?lang=es").text


def test_the_newest_is_first_whatever_a_mail_program_did_with_it(store: Config, put: Put) -> None:
    now = time.time()
    put(letter(), "a.1", at=now - 30)
    put(letter(), "b.2:2,S", folder="cur", at=now - 10)
    put(letter(), "c.3", at=now - 20)
    listed = Inbox(store).get().text
    assert re.findall(r'href="/inbox/([^/"]+)/', listed) == ["b.2", "c.3", "a.1"]


def test_a_message_that_is_sent_again_moves_to_the_front(store: Config, put: Put) -> None:
    now = time.time()
    put(letter(), "a.1", at=now - 30)
    put(letter(), "b.2", at=now - 20)
    inbox = Inbox(store)
    assert re.findall(r'href="/inbox/([^/"]+)/', inbox.get().text) == ["b.2", "a.1"]
    (store.outbox / "tmp" / "a.1").write_bytes(letter().as_bytes())
    (store.outbox / "tmp" / "a.1").replace(store.outbox / "new" / "a.1")
    assert re.findall(r'href="/inbox/([^/"]+)/', inbox.get().text) == ["a.1", "b.2"]


def test_many_messages_come_in_pages_and_only_those_of_a_page_are_read(
    store: Config, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for number in range(120):
        put(f"To: r{number}@example.net\nSubject: mail {number}\n\n.".encode(), f"x.{number}", at=now - number)
    read: list[Path] = []
    real = Path.open

    def open_(self: Path, *rest: object, **more: object) -> object:
        read.append(self)
        return real(self, *rest, **more)  # type: ignore[call-overload]

    inbox = Inbox(store)
    monkeypatch.setattr(Path, "open", open_)
    first, third = inbox.get().text, inbox.get("?page=3").text
    assert len([path for path in read if path.parent.name == "new"]) == 50 + 20
    assert "120" in first
    assert (first.count("mail "), third.count("mail ")) == (50, 20)
    assert 'rel="next" href="/inbox/?lang=en&amp;page=2"' in first
    assert 'rel="prev" href="/inbox/?lang=en&amp;page=2"' in third
    assert inbox.get("?page=4").status == 404
    for odd in ("0", "-1", "x", "9" * 30, "%00"):
        assert inbox.get(f"?page={odd}").status == 200


def test_what_is_no_message_of_the_folder_is_neither_shown_nor_followed(store: Config, put: Put) -> None:
    outside = store.root / "secret.txt"
    outside.write_text("Subject: classified\n\nclassified", "utf-8")
    put(letter(), "real.1")
    (store.outbox / "new" / "link.1").symlink_to(outside)
    (store.outbox / "new" / "folder.1").mkdir()
    (store.outbox / "new" / ".hidden").write_bytes(b"x")
    (store.outbox / "new" / "sp ace\udcff").write_bytes(b"x")
    inbox = Inbox(store)
    assert re.findall(r'href="/inbox/([^/"]+)/', inbox.get().text) == ["real.1"]
    odd = ["link.1", "folder.1", ".hidden", "..", "%2e%2e", "..%2f..%2fsecret.txt", "%2fetc%2fpasswd", "real.1%00"]
    odd += ["nothing.1", "real", "real.1%0a", "a" * 400, "new%2freal.1", "..%5creal.1"]
    for id in odd:
        for path in (f"{id}/", f"{id}/html", f"{id}/source", f"{id}/part/0"):
            answer = inbox.get(path)
            assert (answer.status, "classified" in answer.text) == (404, False), path


# --- a message --------------------------------------------------------------------------------------------------------


def test_a_message_has_its_frame_text_headers_and_source(store: Config, put: Put) -> None:
    message = letter(**{"X-Thing": "=?utf-8?q?caf=C3=A9?="})
    id = put(message.as_bytes().replace(b"\n", b"\r\n"))
    inbox = Inbox(store)
    shown = inbox.get(f"{id}/")
    assert shown.status == 200
    assert f'<iframe class="mail" title="The message as it looks" src="/inbox/{id}/html" sandbox="' in shown.text
    assert "allow-scripts" not in shown.text
    assert "allow-same-origin" not in shown.text
    assert "café" in shown.text
    assert "frame-src 'self'" in shown.headers["content-security-policy"]
    source = inbox.get(f"{id}/source")
    assert source.body == message.as_bytes().replace(b"\n", b"\r\n")
    assert source.headers["content-type"] == "text/plain; charset=utf-8"
    for answer in (shown, source, inbox.get(f"{id}/html"), inbox.get()):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "noindex" in answer.headers["x-robots-tag"]


def test_the_frame_runs_nothing_and_fetches_nothing_from_elsewhere(store: Config, put: Put) -> None:
    policy = Inbox(store).get(f"{put(letter())}/html").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "img-src 'self' http" in policy
    assert "frame-ancestors 'self'" in policy
    assert "form-action 'none'" in policy
    sandbox = policy.partition("; sandbox ")[2].split()
    assert set(sandbox) == {
        "allow-popups",
        "allow-popups-to-escape-sandbox",
        "allow-top-navigation-by-user-activation",
    }


def test_links_lead_to_this_server_and_out_of_the_frame(store: Config, put: Put) -> None:
    inbox, id = Inbox(store), put(letter())
    html = inbox.get(f"{id}/html").text
    assert re.search(rf'href="https?://{re.escape(LOCAL)}/u/token"', html)
    assert '<head><base target="_top">' in html
    assert re.search(rf'<a href="https?://{re.escape(LOCAL)}/u/token', inbox.get(f"{id}/").text)
    assert "news.example.org/u/" not in html


def test_only_the_address_of_the_pages_is_taken_for_it(store: Config, put: Put) -> None:
    message = EmailMessage()
    others = ["https://news.example.org.evil.example/", "https://news.example.org:8443/", "https://news.example.org@x/"]
    message.set_content("".join(f'<a href="{each}">x</a>' for each in others), subtype="html")
    html = Inbox(store).get(f"{put(message)}/html").text
    assert all(f'"{each}"' in html for each in others)


def test_pictures_that_a_message_carries_are_shown_and_other_parts_can_only_be_kept(store: Config, put: Put) -> None:
    message = letter()
    message.get_payload()[1].add_related(b"\x89PNG", "image", "png", cid="<logo@newsletter>")  # type: ignore[union-attr, index]
    message.get_payload()[1].get_payload()[0].set_content('<img src="cid:logo@newsletter">', subtype="html")  # type: ignore[union-attr, index]
    message.add_attachment(b"<script>alert(1)</script>", "text", "html", filename='evil";\t.html')
    message.add_attachment(b"<svg onload='alert(1)'/>", "image", "svg+xml", filename="../../x.svg")
    inbox, id = Inbox(store), put(message)
    shown = inbox.get(f"{id}/").text
    links = re.findall(rf'href="(/inbox/{re.escape(id)}/part/\d+)"', shown)
    assert len(links) == 3
    (picture,) = re.findall(r'<img src="([^"]+)"', inbox.get(f"{id}/html").text)
    assert picture in links
    answers = [inbox.pages.get(link, host=LOCAL) for link in links]
    kinds = [(each.status, each.headers["content-type"], "content-disposition" in each.headers) for each in answers]
    kept = (200, "application/octet-stream", True)
    assert sorted(kinds) == sorted([(200, "image/png", False), kept, kept])
    assert all("/" not in each.headers.get("content-disposition", "") for each in answers)


HOSTILE = {
    "nothing": b"",
    "zeros": bytes(2000),
    "no headers": b"\n\nhello",
    "headers only": b"Subject: x",
    "eight bits": bytes(range(256)) * 20,
    "a bad charset": b"Content-Type: text/html; charset=klingon\n\n<b>hi</b>",
    "a codec that is none": b"Content-Type: text/plain; charset=zip\n\nhi",
    "a codec that is slow": b"Content-Type: text/plain; charset=punycode\n\n" + b"a-" * 50_000,
    "a charset with a NUL": b'Content-Type: text/plain; charset="u\0tf"\n\nhi',
    "an encoded charset": b"Content-Type: text/plain; charset*=bogus''%ff%fe\n\nhi",
    "bad base64": b"Content-Type: text/html\nContent-Transfer-Encoding: base64\n\n!!!=A=B=\xff",
    "bad uuencode": b"Content-Type: text/plain\nContent-Transfer-Encoding: x-uuencode\n\nbegin 666 x\n\xff\xff\nend",
    "bad encoded words": b"Subject: =?utf-8?b?!?= =?klingon?q?=FF?= =?utf-8?q?=00=E2=80=AE?=\nTo: =?x?\n\nhi",
    "no boundary": b"Content-Type: multipart/mixed\n\n--x\n\nhi\n--x--",
    "an open boundary": b"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/html\n\n<b>hi",
    "nested": b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(3000)),
    "mails in mails": b"Content-Type: message/rfc822\n\n" * 3000,
    "many parts": b"Content-Type: multipart/mixed; boundary=x\n\n" + b"--x\nContent-Type: text/html\n\nhi\n" * 3000,
    "a long header": b"Subject: " + b"a" * 300_000 + b"\n\nhi",
    "many headers": b"X-A: a\n" * 20_000 + b"\nhi",
    "script": b'Subject: <script>alert(1)</script>\nTo: "<img onerror=x>"\nContent-Type: text/html\n\n<script>x',
    "marks that turn text": "Subject: \u202egnp.exe\nContent-Type: text/plain; charset=utf-8\n\n\u202e\u2066x".encode(),
    "a part that is no part": b"Content-Type: message/partial; number=1\n\nhi",
    "a report": b"Content-Type: message/delivery-status\n\nA: b\n\nC: d\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_whatever_a_message_is_its_pages_can_be_shown(store: Config, put: Put, kind: str) -> None:
    inbox, id = Inbox(store), put(HOSTILE[kind])
    assert inbox.get(f"{id}/source").body == HOSTILE[kind]
    listed, shown = inbox.get(), inbox.get(f"{id}/")
    assert (listed.status, shown.status) == (200, 200)
    assert inbox.get(f"{id}/html").status in (200, 404)
    for answer in (listed, shown):
        assert "<script>alert" not in answer.text
        assert "<img onerror" not in answer.text
        assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\u202a-\u202e\u2066-\u2069]", answer.text)
    for link in re.findall(rf'href="(/inbox/{re.escape(id)}/part/\d+)"', shown.text)[:5]:
        assert inbox.pages.get(link, host=LOCAL).status == 200


def test_a_message_that_is_larger_than_can_be_shown_says_so(store: Config, put: Put) -> None:
    inbox, id = Inbox(store), put(b"Subject: big\n\n" + b"a" * 17_000_000)
    assert words_for("en")("inbox.cut") in inbox.get(f"{id}/").text


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(["Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Subject", "To"]),
            st.sampled_from(["multipart/mixed; boundary=x", "text/html", "base64", "quoted-printable", "attachment"])
            | st.text(max_size=60),
        ),
        max_size=6,
    ),
    body=st.binary(max_size=300),
)
def test_any_octets_can_be_shown(store: Config, put: Put, headers: list[tuple[str, str]], body: bytes) -> None:
    content = "".join(f"{name}: {value}\n" for name, value in headers).encode("utf-8", "replace") + b"\n" + body
    id = put(content, "any.1")
    inbox = Inbox(store)
    assert inbox.get().status == 200
    assert inbox.get(f"{id}/").status == 200
    assert inbox.get(f"{id}/html").status in (200, 404)
    assert inbox.get(f"{id}/source").body == content
