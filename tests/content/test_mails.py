from __future__ import annotations

from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.cli import run
from newsletter.config import Config
from newsletter.content.collect import collect
from newsletter.content.issue import Story, load_issue
from newsletter.content.mails import is_mail, read_mail
from newsletter.errors import CollectError

PLAIN = (
    "Boletín\n=======\n\nEl molino reabre\n----------------\n\nGira.\n\nLeer más: https://e.example/m\n\n-- \nBaja: x\n"
)
PAGE = (
    "<h1>Boletín</h1><h2><a href='https://e.example/m'>El molino reabre</a></h2><p>Gira.</p><h2>Perros</h2><p>Sí.</p>"
)


def mail(text: str = PLAIN, html: str = "", subject: str = "Boletín 12", day: str = "14 May 2024") -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Boletín <news@e.example>"
    message["To"] = "reader@e.example"
    message["Subject"] = subject
    message["Date"] = f"Tue, {day} 23:30:00 -0500"
    message.set_content(text, cte="quoted-printable")
    if html:
        message.add_alternative(html, subtype="html")
    return message


def test_a_message_has_the_date_of_its_header_and_is_decoded() -> None:
    body = mail().as_bytes()
    assert is_mail(body.decode())
    (story,) = [each for each in read_mail(body, "a.eml").stories if not each.problem]
    assert (str(story.date), story.title, story.summary) == ("2024-05-14", "El molino reabre", "Gira.")
    assert story.url == "https://e.example/m"


def test_the_html_of_a_message_comes_before_its_plain_text() -> None:
    found = [each.title for each in read_mail(mail(html=PAGE).as_bytes(), "a.eml").stories if not each.problem]
    assert found == ["El molino reabre", "Perros"]


def test_a_message_without_headlines_is_one_story_under_its_subject() -> None:
    (story,) = read_mail(mail("Hello,\n\nthe tea\nis hot.\n-- \nAnn\n", subject="Tea").as_bytes(), "a.eml").stories
    assert (story.title, story.summary, str(story.date)) == ("Tea", "Hello,\n\nthe tea is hot.", "2024-05-14")


def test_every_message_of_an_mbox_is_read() -> None:
    messages = [mail("One.", subject="A"), mail("Two.", subject="B", day="15 May 2024")]
    mbox = b"".join(b"From x@e.example Tue May 14 10:00:00 2024\n" + each.as_bytes() + b"\n" for each in messages)
    assert [(each.title, str(each.date)) for each in read_mail(mbox, "a.mbox").stories] == [
        ("A", "2024-05-14"),
        ("B", "2024-05-15"),
    ]


@pytest.mark.parametrize(
    "text", ["Title: A\nDate: 1 May 2017\n\nText.\n", "From: here\nTo: there\n\nText.\n", "", "\n\n"]
)
def test_a_listing_with_labels_is_no_message(text: str) -> None:
    assert not is_mail(text)


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from(["text/html", "text/plain", "multipart/mixed; boundary=b", "x/y", "é"]))
def test_whatever_a_message_holds_is_read_or_refused(body: bytes, kind: str) -> None:
    head = f"From: a\nTo: b\nDate: Tue, 14 May 2024 10:00 +0000\nSubject: =?utf-8?q?=FF?=\nContent-Type: {kind}\n\n"
    try:
        found = read_mail(head.encode() + body, "a.eml").stories
    except CollectError:
        return
    assert all(each.problem or each.title for each in found)


def rows(stories: tuple[Story, ...]) -> list[tuple[str, str, str | None, str]]:
    return [(each.title["en"], str(each.date), each.url, each.source.get("en", "")) for each in stories]


@pytest.mark.parametrize("suffix", ["html", "txt", "eml"])
def test_our_own_issue_comes_back_as_its_stories(config: Config, suffix: str) -> None:
    path = config.issues / "2024-05-19.yaml"
    path.write_text(
        "date: 2024-05-19\nnumber: 5\nintro: Dear friends, here is the news.\nstories:\n"
        "  - title: The mill of the upper valley reopens after a winter in which nobody thought it would\n"
        "    date: 2024-05-14\n    section: land\n    url: https://e.example/mill\n    source: Valley Voice\n"
        "    summary: |\n      The wheel turns.\n\n      Come and see.\n"
        "  - title: Dogs\n    date: 2024-05-13\n    section: justice\n    summary: On leads.\n"
        "  - title: Cats\n    date: 2024-05-13\n    section: justice\n    url: https://e.example/cats\n"
        "    summary: At home.\n",
        "utf-8",
    )
    before = load_issue(path, config).stories
    assert run(["build", "2024-05-19", "--out", "out"]) == 0
    into = Path("again")
    collect([f"out/en.{suffix}"], config, into=into)
    after = load_issue(into / "2024-05-19.yaml", config).stories
    assert sorted(rows(after)) == sorted(rows(before))
    assert sorted(each.summary["en"].strip() for each in after) == sorted(each.summary["en"].strip() for each in before)
