from __future__ import annotations

import sys
from typing import Any

import pytest

from newsletter.config import Smtp
from newsletter.errors import ProviderRejected
from newsletter.providers.smtp_wire import (
    NO_REPLY,
    Command,
    ProtocolError,
    Replies,
    Reply,
    meaning,
    offers,
    opening,
    reference,
    shown,
)


def smtp(**changes: Any) -> Smtp:
    fields: dict[str, Any] = {
        "host": "mail.example.org",
        "port": 25,
        "security": "none",
        "username": "",
        "connections": 1,
        "timeout": 5,
        "bounces": "",
    }
    return Smtp(**fields | changes)


def test_replies_read_octets_however_they_are_cut() -> None:
    octets = b"250-one\r\n250 two\r\n550 5.1.1 no\n354 go\r\n"
    for size in range(1, len(octets)):
        replies = Replies()
        found = []
        for at in range(0, len(octets), size):
            replies.add(octets[at : at + size])
            while reply := replies.next():
                found.append(reply)
        assert found == [Reply(250, "", "one\ntwo"), Reply(550, "5.1.1", "no"), Reply(354, "", "go")]
        assert not replies.waiting


def test_a_reply_without_end_is_bounded() -> None:
    replies = Replies()
    with pytest.raises(ProtocolError, match="over 65,536 octets"):  # noqa: PT012
        for _ in range(10_000):
            replies.add(b"250-" + b"x" * 100 + b"\r\n")
            assert replies.next() is None


@pytest.mark.parametrize(
    ("words", "id"),
    [
        ("2.0.0 Ok: queued as 4F3A1C0032", "4F3A1C0032"),
        ("OK id=1tF2aB-000000001Ab-3xYz", "1tF2aB-000000001Ab-3xYz"),
        ("2.0.0 4AOC1xyz012345 Message accepted for delivery", "4AOC1xyz012345"),
        ("2.6.0 <x@y> [InternalId=123456, Hostname=a.b] Queued mail for delivery", "123456"),
        ("2.0.0 OK  1700000000 abc-20020a0123.45 - gsmtp", "2.0.0 OK 1700000000 abc-20020a0123.45 - gsmtp"),
        ("Ok 0100018b-1234-5678-000000", "Ok 0100018b-1234-5678-000000"),
        ("thanks, ana@example.net", "thanks, <address>"),
        ("y" * 500, "y" * 200),
    ],
)
def test_the_reference_is_what_the_server_calls_the_message(words: str, id: str) -> None:
    assert reference(words) == id


@pytest.mark.parametrize(
    "text", ["a@b.example", "<a@b.example>", '"a b"@c.example', "a+b=c.d@e.example", "é@ü.example"]
)
def test_no_address_is_shown(text: str) -> None:
    assert shown(f"550 no {text}, sorry") == "550 no <address>, sorry"


@pytest.mark.parametrize(("command", "code"), [("data", 250), ("mail", 354), ("dot", 354), ("rcpt", 503), ("dot", 334)])
def test_a_reply_that_a_command_cannot_have_is_out_of_step(command: Command, code: int) -> None:
    with pytest.raises(ProtocolError, match="out of step"):
        meaning(Reply(code, "", "hm"), command)


def test_a_status_of_another_class_than_its_code_means_nothing() -> None:
    replies = Replies()
    replies.add(b"451 5.7.26 hm\r\n")
    assert replies.next() == Reply(451, "", "5.7.26 hm")


def test_what_a_server_offers_is_read() -> None:
    text = "test greets you\nPIPELINING\nsize 1000\nAUTH LOGIN\nAUTH=PLAIN\n8bitmime\n\nSIZE2 x"
    found = offers(Reply(250, "", text))
    assert (found.pipelining, found.starttls, found.smtputf8, found.eight_bit) == (True, False, False, True)
    assert found.size == 1000
    assert found.auth == {"LOGIN", "PLAIN"}
    assert offers(Reply(250, "", "PIPELINING")).pipelining is False  # the first line is a greeting
    assert offers(Reply(250, "", "x\nSIZE no")).size == offers(Reply(250, "", "x\nSIZE")).size == sys.maxsize


def test_no_password_travels_in_clear_to_another_machine() -> None:
    dialogue = opening(smtp(username="news", password="secret"), name="me.example.org", local=False)
    next(dialogue)
    assert dialogue.send(Reply(220, "", "hello")) == b"EHLO me.example.org\r\n"
    with pytest.raises(ProviderRejected, match=r"must not travel unencrypted; set smtp\.security"):
        dialogue.send(Reply(250, "", "hello\nAUTH PLAIN LOGIN"))


def test_the_opening_dialogue_greets_and_returns_what_is_offered() -> None:
    dialogue = opening(smtp(security="starttls"), name="me.example.org", local=False)
    assert next(dialogue) == b""
    assert dialogue.send(Reply(220, "", "hello")) == b"EHLO me.example.org\r\n"
    assert dialogue.send(Reply(250, "", "hello\nSTARTTLS\nSIZE 5")) == b"STARTTLS\r\n"
    assert dialogue.send(Reply(220, "", "go")) is None
    assert dialogue.send(NO_REPLY) == b"EHLO me.example.org\r\n"
    with pytest.raises(StopIteration) as end:
        dialogue.send(Reply(250, "", "hello\nPIPELINING"))
    assert end.value.value == offers(Reply(250, "", "hello\nPIPELINING"))
