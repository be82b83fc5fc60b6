"""What only the sendgrid provider can meet: limits, answers, guilty recipients, connections that fail in every way."""

from __future__ import annotations

import json
import logging
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

import sendgrid_server
from audience import add_people, as_ways, editions
from newsletter.config import Config, Sendgrid, load_config
from newsletter.envelope import Envelope, Recipient
from newsletter.errors import ConfigError, ProviderDown, ProviderError, ProviderRejected, ProviderUnsure
from newsletter.providers import Outcome, open_provider, sendgrid_request
from newsletter.providers.sendgrid import SUSPECTS, SendgridProvider
from newsletter.providers.sendgrid_request import Letter
from newsletter.recorder import Lease, Recorder
from newsletter.rendering.edition import Edition, Image, Mailbox, filled
from sendgrid_server import Reply, SendgridServer, built, openapi_file, refusal, schema_faults, substituted

EDITION = Edition(
    key="2017-11-19",
    language="es",
    direction="ltr",
    kind="bulk",
    subject="Perú esta semana",
    sender=Mailbox(name="Valley News, Ltd", address="news@example.org"),
    reply_to=Mailbox(name="Editors", address="editors@example.org"),
    list_id=("Valley News", "weekly.news.example.org"),
    feedback_id="2017-11-19:es:weekly:example",
    unsubscribe_mailbox="leave@example.org",
    html=(
        '<p>Hola @@NAME@@ <b>“100 %”</b></p><a href="@@VIEW_URL@@">ver</a><a href="@@UNSUBSCRIBE_URL@@">fuera</a>'
        '<a href="@@PREFERENCES_URL@@">más</a>'
    ),
    text="Hola @@NAME@@ %s\n@@VIEW_URL@@\n@@UNSUBSCRIBE_URL@@\n",
)
CONFIRM = replace(EDITION, kind="transactional", key="confirm", html="<p>@@NAME@@</p>", text="@@NAME@@")


def reader(key: str, **changes: str) -> Recipient:
    slots = {
        "NAME": f"Reader {key}",
        "UNSUBSCRIBE_URL": f"https://news.example.org/u/token-{key}",
        "PREFERENCES_URL": f"https://news.example.org/p/other-{key}",
        "VIEW_URL": "https://news.example.org/archive/2017-11-19/",
        "ADDRESS": f"{key}@example.net",
    }
    slots |= {name: value for name, value in changes.items() if name in slots}
    name = changes.get("name", slots["NAME"])
    return Recipient(key=key, address=changes.get("address", f"{key}@example.net"), name=name, slots=slots)


def readers(count: int) -> list[Recipient]:
    return [reader(f"r{number}") for number in range(count)]


def a_provider(server: SendgridServer, **changes: Any) -> SendgridProvider:
    known = {"host": server.url, "tls": None, "now": time.time}
    settings: dict[str, Any] = {"key": server.key, "connections": 3, "timeout": 10}
    settings |= {name: value for name, value in changes.items() if name not in known}
    return SendgridProvider(
        Sendgrid(**settings), **(known | {name: value for name, value in changes.items() if name in known})
    )


@contextmanager
def sending(script: sendgrid_server.Script = (), **changes: Any) -> Iterator[tuple[SendgridServer, SendgridProvider]]:
    """A server and a provider that speaks to it."""
    of_server = {name: changes.pop(name) for name in ("validate", "delay") if name in changes}
    with SendgridServer(script, **of_server) as server:
        provider = a_provider(server, **changes)
        try:
            yield server, provider
        finally:
            provider.close()


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made = a_recorder(tmp_path)
    yield made
    made.close()


def a_recorder(folder: Path) -> Recorder:
    lease = Lease(batch=time.monotonic_ns(), epoch=1, until=time.time() + 3600)
    return Recorder(folder / "recorders", lease, store="s", owner="o")


def told(recorder: Recorder) -> dict[str, str]:
    """The last word of the recorder on each who was announced: a state, or "left"."""
    words: dict[str, str] = {}
    for line in recorder.path.read_bytes().partition(b"\0")[0].decode().splitlines()[1:]:
        key, _, rest = line[1:].partition("\t")
        words[key] = "left" if line[0] == ">" else rest.split("\t")[0]
    return words


def states(outcomes: Sequence[Any]) -> dict[str, str]:
    found = {outcome.key: outcome.state for outcome in outcomes}
    assert len(found) == len(outcomes), "a recipient has two outcomes"
    return found


def failure(provider: SendgridProvider, recorder: Recorder, recipients: list[Recipient]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        provider.send(EDITION, recipients, recorder)
    return caught.value


# --- the request ------------------------------------------------------------------------------------------------------


def test_the_vendors_file_is_here_where_it_must_be() -> None:
    if openapi_file() is None:
        where = f"{sendgrid_server.FILE} of twilio/sendgrid-oai is not here: name it by NEWSLETTER_SENDGRID_OPENAPI"
        if os.environ.get("CI") == "true":
            pytest.fail(where)
        pytest.skip(where)
    assert schema_faults(b"{}", KEY)


KEY = {"Authorization": "Bearer SG.test-key"}


@pytest.mark.skipif(openapi_file() is None, reason="the vendor's OpenAPI file is not here")
@pytest.mark.parametrize(
    "wrong",
    [
        {"unknown": 1},
        {"custom_args": {"d": "x"}},
        {"send_at": "soon"},
        {"from": {"email": "no address"}},
        {"subject": ""},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_server_of_these_tests_refuses_what_the_vendors_file_forbids(wrong: dict[str, Any]) -> None:
    right = json.loads(Letter(EDITION).batch(readers(3)).text([0, 1, 2]))
    assert schema_faults(json.dumps(right).encode(), KEY) == []
    assert schema_faults(json.dumps(right | wrong).encode(), KEY)


def test_a_request_holds_what_it_must_and_nothing_else(recorder: Recorder) -> None:
    with sending() as (server, provider):
        provider.send(EDITION, readers(3), recorder)
    (request,) = server.requests
    assert {*request} == {"from", "reply_to", "subject", "content", "tracking_settings", "personalizations"}
    assert request["from"] == {"email": "news@example.org", "name": "Valley News, Ltd"}
    assert request["reply_to"] == {"email": "editors@example.org", "name": "Editors"}
    assert request["subject"] == "Perú esta semana"
    assert request["tracking_settings"] == {
        "click_tracking": {"enable": False, "enable_text": False},
        "open_tracking": {"enable": False},
        "subscription_tracking": {"enable": False},
        "ganalytics": {"enable": False},
    }
    for recipient, each in zip(readers(3), request["personalizations"], strict=True):
        assert {*each} == {"to", "substitutions", "headers", "custom_args"}
        assert each["to"] == [{"email": recipient.address, "name": recipient.name}]
        assert each["custom_args"] == {"d": recipient.key}
        assert each["headers"] == {
            "X-Newsletter-Delivery": recipient.key,
            "List-Unsubscribe": f"<https://news.example.org/u/token-{recipient.key}>, "
            f"<mailto:leave@example.org?subject=unsubscribe-token-{recipient.key}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            "List-ID": "Valley News <weekly.news.example.org>",
            "Feedback-ID": "2017-11-19:es:weekly:example",
            "Precedence": "bulk",
        }
    head = server.heads[0]
    assert head["Content-Type"] == "application/json"
    assert head["User-Agent"].startswith("sendgrid/")


def test_transactional_mail_has_no_list_headers(recorder: Recorder) -> None:
    with sending() as (server, provider):
        provider.send(CONFIRM, [reader("ana")], recorder)
    headers = server.requests[0]["personalizations"][0]["headers"]
    assert headers == {"X-Newsletter-Delivery": "ana", "Auto-Submitted": "auto-generated"}


def test_images_that_are_embedded_go_along(recorder: Recorder) -> None:
    image = Image(name="a.png", media_type="image/png", content=b"\x89PNG", width=1, height=1)
    edition = replace(
        EDITION, embed=True, images=(image,), html=f'{EDITION.html}<img src="cid:a.png@newsletter" alt="">'
    )
    with sending() as (server, provider):
        assert states(provider.send(edition, readers(2), recorder)) == {"r0": "accepted", "r1": "accepted"}
    (attached,) = server.requests[0]["attachments"]
    assert attached["content_id"] == "a.png@newsletter"
    assert (attached["disposition"], attached["content"]) == ("inline", "iVBORw==")


def test_what_is_the_same_for_all_is_no_substitution() -> None:
    batch = Letter(EDITION).batch(readers(3))
    request = json.loads(batch.text([0, 1, 2]))
    values = [*request["personalizations"][0]["substitutions"].values()]
    assert values == ["Reader r0", "token-r0", "other-r0"]
    assert "https://news.example.org/archive/2017-11-19/\n" in request["content"][0]["value"]


def test_no_text_can_hold_a_substitution_tag() -> None:
    tags = {
        tag
        for _ in range(50)
        for tag in json.loads(Letter(EDITION).batch(readers(2)).text([0]))["personalizations"][0]["substitutions"]
    }
    assert len(tags) == 150, "the tags of every letter are made anew"
    assert all(re.fullmatch(r"-[A-Za-z0-9]{9,}-", tag) for tag in tags)


WORDS = st.text(
    st.sampled_from("aZ0 éñ漢😀&<>\"'\\%{}/;,:@=?-_.~\n\r\t\0\x7f\u2028\u00a0\ud800") | st.characters(), max_size=12
)
TAILS = st.text(st.sampled_from("abXY01-._~"), max_size=8) | WORDS
LINKS = st.builds(
    "{}{}".format,
    st.sampled_from(["https://n.example/u/", "http://n.example/?a=1&b=", "mailto:", "https://n.example/u/?x=/"]),
    TAILS,
)


@st.composite
def recipients_of_any_kind(draw: Callable[..., Any]) -> list[Recipient]:
    plain = draw(st.booleans())
    links = (
        st.builds("https://n.example/u/{}".format, st.text(st.sampled_from("abXY01-._~"), max_size=8))
        if plain
        else LINKS
    )
    addresses = st.builds("{}@example.net".format, st.sampled_from("abcdefABCDEF")) | WORDS
    addresses |= st.builds("{}@{}".format, WORDS, st.sampled_from(["bücher.example", "x.example", "EXAMPLE.net"]))
    found = []
    for number in range(draw(st.integers(0, 8))):
        key = (
            f"k{number}"
            if plain
            else draw(st.sampled_from([f"k{number}", f"k{number}-", f"k{number}"]))
            + draw(st.sampled_from(["", "", "", "!", '"', "\n"]))
        )
        name = draw(WORDS)
        slots = {
            "NAME": draw(st.just(name) | WORDS),
            "UNSUBSCRIBE_URL": draw(links),
            "PREFERENCES_URL": draw(links),
            "VIEW_URL": draw(links),
        }
        found.append(Recipient(key=key, address=draw(addresses), name=name, slots=slots))
    return found


@given(recipients=recipients_of_any_kind(), kind=st.sampled_from(["bulk", "transactional"]), mailto=st.booleans())
@settings(max_examples=150)
def test_the_text_is_what_plain_dictionaries_would_be(recipients: list[Recipient], kind: Any, mailto: bool) -> None:
    edition = replace(EDITION, kind=kind, unsubscribe_mailbox="leave@example.org" if mailto else "")
    letter, envelope = Letter(edition), Envelope(edition)
    batch = letter.batch(recipients)
    fine = [place for place in range(len(recipients)) if place not in batch.faults]
    text = batch.text(fine)
    assert text.isascii()
    request = json.loads(text)
    for place, each in zip(fine, request["personalizations"], strict=True):
        recipient = recipients[place]
        address, _ = envelope.wire_address(recipient)
        name = (
            " ".join(re.sub("[,;]", " ", recipient.name).split())
            if re.search("[,;]", recipient.name)
            else recipient.name
        )
        assert each["to"] == [{"email": address, "name": name} if name else {"email": address}]
        assert each["headers"] == {**envelope.headers_for(recipient), **envelope.headers}
        assert each["custom_args"] == {"d": recipient.key}
        assert not any(re.search("[\x00-\x1f\x7f]", value) for value in each["headers"].values())
        values = each.get("substitutions", {})
        parts = [substituted(part["value"], values) for part in request["content"]]
        assert parts == [*reversed(filled(edition, recipient.slots))]


@given(recipients=recipients_of_any_kind())
@settings(max_examples=40)
def test_whatever_is_written_each_is_answered_once_and_taken_at_most_once(
    recipients: list[Recipient], tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipients = [
        each for number, each in enumerate(recipients) if each.key not in {r.key for r in recipients[:number]}
    ]
    recorder = a_recorder(tmp_path_factory.mktemp("any"))
    with sending() as (server, provider):
        outcomes = provider.send(EDITION, recipients, recorder)
    assert [outcome.key for outcome in outcomes] == [recipient.key for recipient in recipients]
    assert {outcome.state for outcome in outcomes} <= {"accepted", "refused"}
    assert sorted(server.accepted) == sorted(outcome.key for outcome in outcomes if outcome.state == "accepted")
    assert all(outcome.detail for outcome in outcomes if outcome.state == "refused")
    for request in server.requests:
        for each in request["personalizations"]:
            built(request, each)  # the standard library refuses a header with a line end
    recorder.close()


@pytest.mark.parametrize("length", [1, 900, 1200])
def test_links_may_be_as_long_as_a_header_line(length: int, recorder: Recorder) -> None:
    tail = "t" * length
    some = [reader("a", UNSUBSCRIBE_URL=f"https://n.example/u/{tail}"), reader("b")]
    with sending() as (server, provider):
        outcomes = provider.send(EDITION, some, recorder)
    assert [outcome.state for outcome in outcomes] == ["accepted" if length <= 900 else "refused", "accepted"]
    assert server.accepted == [outcome.key for outcome in outcomes if outcome.state == "accepted"]


# --- limits -----------------------------------------------------------------------------------------------------------


def test_more_than_a_thousand_are_several_requests(recorder: Recorder) -> None:
    with sending() as (server, provider):
        assert provider.limits.chunk == 1000
        outcomes = provider.send(EDITION, readers(2100), recorder)
    assert [len(request["personalizations"]) for request in server.requests] == [1000, 1000, 100]
    assert {*states(outcomes).values()} == {"accepted"}


def test_an_address_that_stands_twice_goes_into_two_requests(recorder: Recorder) -> None:
    twins = [
        reader("a", address="ana@example.net"),
        reader("b"),
        reader("c", address="ANA@Example.net"),
        reader("d", address="ana@example.net"),
    ]
    with sending() as (server, provider):
        outcomes = provider.send(EDITION, twins, recorder)
    assert [[each["custom_args"]["d"] for each in request["personalizations"]] for request in server.requests] == [
        ["a", "b"],
        ["c"],
        ["d"],
    ]
    assert [outcome.state for outcome in outcomes] == ["accepted"] * 4


def test_values_beyond_ten_thousand_octets_are_refused_alone(recorder: Recorder) -> None:
    long = [reader("ana"), reader("bea", NAME="ñ" * 5100), reader("cid", NAME="n" * 9000, name="Cid")]
    with sending() as (_, provider):
        outcomes = provider.send(EDITION, long, recorder)
    assert states(outcomes) == {"ana": "accepted", "bea": "refused", "cid": "accepted"}
    assert "SendGrid takes 10,000" in outcomes[1].detail
    assert "bea" not in told(recorder)


def test_requests_stay_below_thirty_megabytes(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sendgrid_request, "MOST_OCTETS", 6000)
    with sending() as (server, provider):
        outcomes = provider.send(EDITION, readers(40), recorder)
    sizes = [int(head["Content-Length"]) for head in server.heads]
    assert len(sizes) > 2
    assert 5000 < max(sizes) <= 6000
    assert {*states(outcomes).values()} == {"accepted"}


def test_a_message_that_no_request_can_hold_is_rejected(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sendgrid_request, "MOST_OCTETS", 300)
    with sending() as (server, provider), pytest.raises(ProviderRejected, match="less than 30; leave out images"):
        provider.send(EDITION, readers(1), recorder)
    assert server.requests == []


def test_names_lose_the_signs_that_sendgrid_does_not_take(recorder: Recorder) -> None:
    with sending() as (server, provider):
        provider.send(
            EDITION, [reader("a", name="Doe, John; Dr."), reader("b", name=";"), reader("c", name="")], recorder
        )
    found = [each["to"][0].get("name") for each in server.requests[0]["personalizations"]]
    assert found == ["Doe John Dr.", None, None]


def test_an_address_with_letters_outside_ascii_before_the_at_is_refused(recorder: Recorder) -> None:
    with sending() as (_, provider):
        outcomes = provider.send(EDITION, [reader("ana", address="josé@example.net"), reader("bea")], recorder)
    assert states(outcomes) == {"ana": "refused", "bea": "accepted"}
    assert "example.net" not in outcomes[0].detail


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (replace(EDITION, sender=Mailbox(address="josé@example.org")), "the sender: SendGrid takes no letters"),
        (replace(EDITION, reply_to=Mailbox(address="josé@example.org")), "reply-to: SendGrid takes no letters"),
        (replace(EDITION, subject=""), "the subject is empty"),
    ],
    ids=["sender", "reply-to", "subject"],
)
def test_an_edition_that_sendgrid_cannot_take_is_rejected(wrong: Edition, why: str, recorder: Recorder) -> None:
    with sending() as (server, provider), pytest.raises(ProviderRejected, match=why):
        provider.send(wrong, readers(2), recorder)
    assert server.requests == []


# --- answers ----------------------------------------------------------------------------------------------------------


def test_everybody_of_a_request_bears_its_id(recorder: Recorder) -> None:
    with sending([Reply(status=202, headers={"x-message-id": "14c5d75ce93.dfd.64b469"})]) as (_, provider):
        outcomes = provider.send(EDITION, readers(2), recorder)
    assert {outcome.provider_ref for outcome in outcomes} == {"14c5d75ce93.dfd.64b469"}


@pytest.mark.parametrize("id", ["", "ana@example.net", "x" * 200, "a\tb", "é"])
def test_an_id_that_is_none_is_left_out(id: str, recorder: Recorder) -> None:
    with sending([Reply(status=202, headers={"X-Message-Id": id})]) as (_, provider):
        assert provider.send(EDITION, readers(1), recorder) == [Outcome("r0", "accepted")]


REPLIES: dict[str, tuple[Reply, type[ProviderError], str]] = {
    "200 without sandbox": (Reply(status=200), ProviderUnsure, "answered 200"),
    "204": (Reply(status=204), ProviderUnsure, "answered 204"),
    "302": (Reply(status=302, headers={"Location": "/"}), ProviderUnsure, "answered 302"),
    "401": (refusal("Maximum credits exceeded", status=401), ProviderRejected, "credits exceeded.*Mail Send"),
    "403": (refusal("access forbidden", status=403), ProviderRejected, "authenticate the sender's domain"),
    "404": (Reply(status=404), ProviderRejected, "sendgrid.region"),
    "405": (Reply(status=405), ProviderRejected, "sendgrid.region"),
    "408": (Reply(status=408), ProviderDown, "408"),
    "415": (Reply(status=415), ProviderRejected, "sendgrid.region"),
    "429": (refusal("too many requests", status=429), ProviderDown, "too many requests"),
    "500": (refusal("unexpected", status=500), ProviderUnsure, "answered 500"),
    "502": (Reply(status=502, body=b"<html>"), ProviderUnsure, "answered 502"),
    "503 of a proxy": (Reply(status=503, body=b"<html>no upstream"), ProviderUnsure, "answered 503"),
    "503 with nested trash": (Reply(status=503, body=b"[" * 50_000), ProviderUnsure, "answered 503"),
    "503 of SendGrid": (refusal("unavailable", status=503), ProviderDown, "unavailable"),
    "504": (Reply(status=504), ProviderUnsure, "answered 504"),
    "the sender": (refusal("not valid", "from.email"), ProviderRejected, "itself.*from.email: not valid"),
    "the content": (refusal("not valid", "content.0.value"), ProviderRejected, "itself.*content.0.value"),
    "everybody": (refusal("no"), ProviderRejected, "each of 5 recipients alone"),
}


@pytest.mark.parametrize("name", REPLIES)
def test_what_an_answer_means_for_all(name: str, recorder: Recorder) -> None:
    reply, kind, words = REPLIES[name]
    with sending(lambda _: reply) as (server, provider):
        error = failure(provider, recorder, readers(5))
    assert type(error) is kind
    assert re.search(words, str(error))
    keys = {each.key for each in readers(5)}
    doubt = kind is ProviderUnsure
    assert states(error.outcomes) == (dict.fromkeys(keys, "in_doubt") if doubt else {})
    assert told(recorder) == dict.fromkeys(keys, "in_doubt" if doubt else "deferred")
    assert server.accepted == []


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-RateLimit-Reset": "1000000030"}, 30),
        ({"x-ratelimit-reset": "1000000030", "Retry-After": "5"}, 30),
        ({"X-RateLimit-Reset": "999999999999"}, 3600),
        ({"X-RateLimit-Reset": "1000000000"}, 1),
        ({"X-RateLimit-Reset": "-5", "Retry-After": "7"}, 7),
        ({"X-RateLimit-Reset": "1e400"}, None),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "Sun, 09 Sep 2001 01:47:10 GMT"}, 30),
        ({"Retry-After": "Sun, 09 Sep 9999 01:47:10 GMT"}, 3600),
        ({"Retry-After": "Sun, 99 Xxx 0000 99:99:99 GMT"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_server_says_when_to_come_again_within_reason(
    headers: dict[str, str], expected: float | None, recorder: Recorder
) -> None:
    encoded = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    with sending([Reply(status=429, headers=encoded)], now=lambda: 1_000_000_000.0) as (_, provider):
        assert failure(provider, recorder, readers(1)).retry_after == expected


def test_no_words_of_a_server_show_an_address_or_a_link_or_the_key(recorder: Recorder) -> None:
    said = "r0@example.net <R0@Example.net> r0%40example.net SG.test-key https://news.example.org/u/token-r0 \r\n\x07no"
    replies = [refusal(said, "personalizations.0.to.0.email"), refusal(said, status=401)]
    with sending(replies) as (_, provider):
        error = failure(provider, recorder, readers(2))
        outcome: Any = error.outcomes[0]
    for text in (outcome.detail, str(error), recorder.path.read_text()):
        assert "no" in text
        assert not re.search(r"example\.net|token-r0|SG\.test", text, re.IGNORECASE)
    assert outcome.detail.isprintable()


def test_an_answer_in_doubt_says_so_of_its_request_alone(recorder: Recorder) -> None:
    twins = [
        reader("a"),
        reader("b"),
        reader("c", address="a@example.net"),
        reader("d", address="a@example.net"),
        reader("e", address=""),
    ]
    with sending([None, Reply(status=500)]) as (server, provider):
        error = failure(provider, recorder, twins)
    assert states(error.outcomes) == {
        "a": "accepted",
        "b": "accepted",
        "c": "in_doubt",
        "d": "deferred",
        "e": "refused",
    }
    assert "d" not in told(recorder)
    assert server.accepted == ["a", "b"]


def test_who_was_taken_before_a_rejection_stays_taken(recorder: Recorder) -> None:
    twins = [reader("a"), reader("b", address="a@example.net")]
    with sending([None, refusal("no", status=403)]) as (_, provider):
        error = failure(provider, recorder, twins)
    assert states(error.outcomes) == {"a": "accepted"}
    assert told(recorder) == {"a": "accepted", "b": "deferred"}


# --- guilty recipients ------------------------------------------------------------------------------------------------


def blaming(guilty: set[str], *, named: int, status: int = 400) -> Callable[[dict[str, Any]], Reply | None]:
    """Refuses requests with guilty recipients in them; names so many of those, or nobody."""

    def answer(request: dict[str, Any]) -> Reply | None:
        places = [
            number for number, each in enumerate(request["personalizations"]) if each["custom_args"]["d"] in guilty
        ]
        if not places:
            return None
        fields: list[str | None] = [f"personalizations.{place}.to.0.email" for place in places[:named]]
        fields = fields or [None]
        errors = [{"message": "Does not contain a valid address.", "field": field} for field in fields]
        return Reply(status=status, body={"errors": errors})

    return answer


@given(
    count=st.integers(2, 40),
    guilty=st.sets(st.integers(0, 39), max_size=40),
    named=st.sampled_from([0, 1, 3, 1000]),
    status=st.sampled_from([400, 413]),
)
@settings(max_examples=60)
def test_the_guilty_are_refused_and_all_others_taken_once(
    count: int, guilty: set[int], named: int, status: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = {f"r{number}" for number in guilty if number < count}
    if not named and len(keys) >= min(count, SUSPECTS):
        keys = set(sorted(keys)[: min(count, SUSPECTS) - 1])
    recorder = a_recorder(tmp_path_factory.mktemp("guilty"))
    with sending(blaming(keys, named=named, status=status), validate=False) as (server, provider):
        outcomes = provider.send(EDITION, readers(count), recorder)
    assert [outcome.key for outcome in outcomes] == [each.key for each in readers(count)]
    assert {outcome.key for outcome in outcomes if outcome.state == "refused"} == keys
    assert sorted(server.accepted) == sorted({each.key for each in readers(count)} - keys)
    assert told(recorder) == states(outcomes)
    recorder.close()


def test_one_guilty_among_a_thousand_takes_few_requests(recorder: Recorder) -> None:
    with sending(blaming({"r617"}, named=0), validate=False) as (server, provider):
        outcomes = provider.send(EDITION, readers(1000), recorder)
    assert [outcome.key for outcome in outcomes if outcome.state != "accepted"] == ["r617"]
    assert len(server.requests) <= 21
    assert len(server.accepted) == 999


def test_a_refusal_of_everything_takes_few_requests_and_refuses_nobody(recorder: Recorder) -> None:
    with sending(lambda _: refusal("Bad Request"), validate=False) as (server, provider):
        error = failure(provider, recorder, readers(1000))
    assert isinstance(error, ProviderRejected)
    assert error.outcomes == ()
    assert len(server.requests) < 80
    assert {*told(recorder).values()} == {"deferred"}


@pytest.mark.parametrize(
    "field", ["personalizations.7.to", "personalizations", "personalizations.x", "personalizations.99999999"]
)
def test_a_field_that_names_nobody_is_looked_into(field: str, recorder: Recorder) -> None:
    with sending([refusal("no", field), None, None]) as (_, provider):
        assert {*states(provider.send(EDITION, readers(4), recorder)).values()} == {"accepted"}


def test_a_stop_while_the_guilty_are_looked_for_sends_nothing_more(recorder: Recorder) -> None:
    def stop(request: dict[str, Any]) -> Reply:
        recorder.lease.stopping = True
        return refusal("no")

    with sending(stop) as (server, provider):
        outcomes = provider.send(EDITION, readers(4), recorder)
    assert {*states(outcomes).values()} == {"deferred"}
    assert len(server.requests) == 1
    assert {*told(recorder).values()} == {"deferred"}


def test_everybody_is_announced_before_the_request(recorder: Recorder) -> None:
    seen: list[dict[str, str]] = []

    def look(request: dict[str, Any]) -> None:
        seen.append(told(recorder))

    with sending(look) as (_, provider):
        provider.send(EDITION, readers(3), recorder)
    assert seen == [{"r0": "left", "r1": "left", "r2": "left"}]
    assert {*told(recorder).values()} == {"accepted"}


# --- connections ------------------------------------------------------------------------------------------------------


def test_one_connection_serves_many_requests(recorder: Recorder) -> None:
    with sending() as (server, provider):
        for _ in range(20):
            provider.send(EDITION, readers(2), recorder)
    assert (server.connections, len(server.requests)) == (1, 20)


def test_a_connection_that_was_closed_in_between_is_opened_again(recorder: Recorder) -> None:
    with sending([Reply(close=True), None]) as (server, provider):
        for _ in range(3):
            assert {*states(provider.send(EDITION, readers(2), recorder)).values()} == {"accepted"}
            if len(server.requests) == 1:
                server.wait_until_closed()
    assert server.connections == 2


def test_a_server_that_says_close_is_obeyed(recorder: Recorder) -> None:
    replies = [Reply(status=202, headers={"Connection": "close"})] * 2
    with sending(replies) as (server, provider):
        for _ in range(2):
            provider.send(EDITION, readers(2), recorder)
    assert server.connections == 2


CUTS = ["before-reading", "mid-body", "after-body", "reset-after-body", "mid-head", "mid-answer"]


@pytest.mark.parametrize("reused", [False, True])
@pytest.mark.parametrize("cut", CUTS)
def test_a_connection_that_breaks_leaves_everybody_in_doubt(cut: Any, reused: bool, recorder: Recorder) -> None:
    broken = Reply(status=202, body=b"{}", cut=cut)
    with sending([None, broken] if reused else [broken], validate=False) as (server, provider):
        if reused:
            provider.send(EDITION, [reader("first")], recorder)
        error = failure(provider, recorder, [reader(f"r{number}", NAME="n" * 5000) for number in range(600)])
        assert isinstance(error, ProviderUnsure)
        assert {*states(error.outcomes).values()} == {"in_doubt"}
        assert len(error.outcomes) == 600
        assert {*states(provider.send(EDITION, [reader("last")], recorder)).values()} == {"accepted"}
    assert server.accepted == ["first", "last"] if reused else ["last"]


def test_a_server_without_an_answer_is_waited_for_no_longer_than_the_time_out(recorder: Recorder) -> None:
    with sending([Reply(hang=True)], timeout=1) as (_, provider):
        error = failure(provider, recorder, readers(2))
    assert isinstance(error, ProviderUnsure)
    assert "no answer in time" in str(error)


def test_dripping_does_not_stretch_the_time_out(recorder: Recorder) -> None:
    with sending([Reply(status=202, headers={"X-Long": "x" * 2000}, drip=0.1)], timeout=1) as (_, provider):
        error = failure(provider, recorder, readers(2))  # its whole answer would come, after minutes
    assert isinstance(error, ProviderUnsure)


ENDLESS: dict[str, bytes] = {
    "no HTTP": b"\x16\x03\x01 what?\r\n\r\n",
    "a number too large": b"HTTP/1.1 99999 X\r\n\r\n",
    "a header line of a megabyte": b"HTTP/1.1 202 Accepted\r\nX: " + b"x" * 1_000_000,
    "ten thousand headers": b"HTTP/1.1 202 Accepted\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "continue for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
    "a chunk that is none": b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_answer_that_is_none_is_no_answer(name: str, recorder: Recorder) -> None:
    with sending([Reply(raw=ENDLESS[name], close=True)], timeout=5) as (_, provider):
        error = failure(provider, recorder, readers(2))
        assert isinstance(error, ProviderUnsure)
        assert "?" not in str(error)
        assert {*states(provider.send(EDITION, readers(1), recorder)).values()} == {"accepted"}


def test_an_answer_with_a_body_without_an_end_counts_without_it(recorder: Recorder) -> None:
    huge = Reply(status=401, body=json.dumps({"errors": [{"message": "x" * 200_000}]}).encode())
    with sending([huge]) as (server, provider):
        error = failure(provider, recorder, readers(2))
        assert "401: no reason given" in str(error)
        provider.send(EDITION, readers(1), recorder)
    assert server.connections == 2


def test_an_acceptance_without_a_length_is_one(recorder: Recorder) -> None:
    bare = b"HTTP/1.1 202 Accepted\r\nX-Message-Id: one\r\n\r\n"
    with sending([Reply(raw=bare)]) as (server, provider):
        assert provider.send(EDITION, readers(1), recorder)[0].provider_ref == "one"
        provider.send(EDITION, readers(1), recorder)
    assert server.connections == 2


def test_two_answers_to_one_request_are_not_taken_for_two(recorder: Recorder) -> None:
    double = (
        b"HTTP/1.1 202 A\r\nContent-Length: 0\r\nX-Message-Id: one\r\n\r\nHTTP/1.1 401 B\r\nContent-Length: 0\r\n\r\n"
    )
    with sending([Reply(raw=double), None]) as (server, provider):
        assert provider.send(EDITION, readers(1), recorder)[0].provider_ref == "one"
        assert provider.send(EDITION, readers(1), recorder)[0].state == "accepted"
    assert len(server.requests) == 2


def test_a_name_that_does_not_exist_is_down(recorder: Recorder) -> None:
    provider = SendgridProvider(Sendgrid(key="SG.k", timeout=5), host="http://name.invalid:1")
    error = failure(provider, recorder, readers(2))
    assert isinstance(error, ProviderDown)
    assert (error.outcomes, told(recorder)) == ((), {})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_side(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_tls_with_a_certificate_to_be_trusted(authority: trustme.CA, recorder: Recorder) -> None:
    client = ssl.create_default_context()
    authority.configure_trust(client)
    with SendgridServer(tls=server_side(authority, "localhost")) as server:
        provider = a_provider(server, tls=client)
        for _ in range(3):
            assert {*states(provider.send(EDITION, readers(500), recorder)).values()} == {"accepted"}
        provider.close()
    assert server.connections == 1


@pytest.mark.parametrize("name", ["localhost", "elsewhere.example"])
def test_tls_is_verified(name: str, authority: trustme.CA, recorder: Recorder) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with SendgridServer(tls=server_side(authority, name)) as server:
        provider = a_provider(server, tls=None if name == "localhost" else trusting)
        error = failure(provider, recorder, readers(2))
        provider.close()
    assert isinstance(error, ProviderDown)
    assert "the certificate is not to be trusted" in str(error)
    assert (server.requests, told(recorder)) == ([], {})


def test_a_child_after_a_fork_opens_a_connection_of_its_own(recorder: Recorder) -> None:
    with sending() as (server, provider):
        provider.send(EDITION, readers(1), recorder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: threads do not go along
            child = os.fork()
        if not child:
            try:
                folder = recorder.path.parent / "child"
                done = provider.send(EDITION, [reader("child")], a_recorder(folder))[0].state == "accepted"
                provider.close()
                os._exit(0 if done else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        provider.send(EDITION, [reader("parent")], recorder)
    assert server.accepted == ["r0", "child", "parent"]
    assert server.connections == 2


def test_the_server_of_these_tests_is_a_program_too(tmp_path: Path, recorder: Recorder) -> None:
    log = tmp_path / "log"
    program = [sys.executable, "-m", "sendgrid_server", "--log", str(log), "--no-validate"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        host = f"http://127.0.0.1:{int(process.stdout.readline())}"
        provider = SendgridProvider(Sendgrid(key="SG.test-key"), host=host)
        provider.send(EDITION, readers(1500), recorder)
        provider.close()
        process.kill()
    assert log.read_text().splitlines() == [f"{each.key}\t{each.address}" for each in readers(1500)]


def test_closing_lets_go_of_every_connection_and_sending_opens_new_ones(recorder: Recorder) -> None:
    with sending() as (server, provider):
        for _ in range(2):
            provider.send(EDITION, readers(1), recorder)
            provider.close()
    assert server.connections == 2


def test_no_more_requests_are_on_their_way_than_connections_and_one_off_mail_has_one_more(tmp_path: Path) -> None:
    under_way: list[int] = [0, 0]  # now, at most
    full, gate = threading.Semaphore(0), threading.Event()
    lock = threading.Lock()

    def answer(request: dict[str, Any]) -> None:
        with lock:
            under_way[0] += 1
            under_way[1] = max(under_way)
        full.release()
        gate.wait(30)
        with lock:
            under_way[0] -= 1

    def send(edition: Edition, key: str) -> str:
        recorder = a_recorder(tmp_path / key)
        try:
            return provider.send(edition, [reader(key)], recorder)[0].state
        finally:
            recorder.close()

    with sending(answer, connections=2) as (_, provider), ThreadPoolExecutor(8) as pool:
        issues = [pool.submit(send, EDITION, f"issue{number}") for number in range(4)]
        for _ in range(2):
            assert full.acquire(timeout=30)
        confirmation = pool.submit(send, CONFIRM, "confirm")
        assert full.acquire(timeout=30), "one-off mail does not wait behind a mailing"
        gate.set()
        assert {each.result(30) for each in [*issues, confirmation]} == {"accepted"}
    assert under_way == [0, 3]


# --- what is kept to oneself ------------------------------------------------------------------------------------------


def test_no_log_shows_the_key_or_an_address(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    replies = [
        None,
        refusal("r0@example.net is not valid", "personalizations.0"),
        refusal("r1@example.net", status=401),
    ]
    with sending(replies) as (_, provider):
        provider.send(EDITION, readers(2), recorder)
        failure(provider, recorder, readers(2))
    shown = "\n".join([caplog.text, *map(repr, (record.__dict__ for record in caplog.records)), *capfd.readouterr()])
    assert "python_http_client" in shown, "the package does log"
    assert not re.search(r"SG\.test-key|example\.net|token-r", shown)


def test_a_repr_shows_no_key() -> None:
    provider = SendgridProvider(Sendgrid(key="SG.secret"))
    assert "SG.secret" not in repr(provider)


# --- through the ledger -----------------------------------------------------------------------------------------------


def test_a_mailing_through_the_ledger_ends_with_everybody_in_one_state(store: Config) -> None:
    """The first request is turned away, one recipient is refused; all others are taken, once."""
    from newsletter.engine import local
    from newsletter.store import ledger, mailings, schema

    if not store.database_url:
        schema.prepare(store)
    list_id = add_people(store, range(1, 61))
    mailing = mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="sendgrid"
    ).mailing
    turned_away: list[object] = []

    def answer(request: dict[str, Any]) -> Reply | None:
        if not turned_away:
            turned_away.append(request)
            return refusal("too many requests", status=429)
        for number, each in enumerate(request["personalizations"]):
            if each["to"][0]["email"].startswith("reader7@"):
                return refusal("Does not contain a valid address.", f"personalizations.{number}.to.0.email")
        return None

    giving_up = time.monotonic() + 60

    def over() -> bool:
        return mailings.find(mailing).state in ("finished", "paused") or time.monotonic() > giving_up

    with sending(answer) as (server, provider):
        local.run(store, as_ways(provider, "sendgrid"), stop=threading.Event(), until=over)
    counts = {state: count for state, count in ledger.tally(mailing).items() if count}
    assert counts == {"accepted": 59, "refused": 1}
    assert len(server.accepted) == len(set(server.accepted)) == 59


# --- settings and doctor ----------------------------------------------------------------------------------------------


def test_the_region_decides_the_host() -> None:
    hosts = {region: SendgridProvider(Sendgrid(key="k", region=region))._lines._host for region in ("global", "eu")}
    assert hosts == {"global": "https://api.sendgrid.com", "eu": "https://api.eu.sendgrid.com"}


@pytest.mark.parametrize("key", ["", "SG. x", "SG.x\r\nX: y", "é"])
def test_a_key_that_is_none_is_told_before_anything_else(key: str) -> None:
    with pytest.raises(ConfigError, match=r"sendgrid: the key .*\n.*NEWSLETTER_SENDGRID_KEY"):
        SendgridProvider(Sendgrid(key=key))


def test_the_configuration_opens_it(workspace: Path) -> None:
    file = workspace / "newsletter.yaml"
    file.write_text(f"{file.read_text()}provider: sendgrid\nsendgrid: {{connections: 4}}\n")
    provider = open_provider(load_config(workspace, {"NEWSLETTER_SENDGRID_KEY": "SG.k"}))
    assert isinstance(provider, SendgridProvider)
    assert (provider.limits.connections, provider.limits.lanes) == (5, 4)


SENDER = Mailbox(name="Valley News", address="news@example.org")


def test_a_check_asks_in_sandbox_mode() -> None:
    with sending() as (server, provider):
        provider.check(SENDER)
    assert server.requests[0]["mail_settings"] == {"sandbox_mode": {"enable": True}}
    assert server.accepted == []


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (refusal("wrong", status=401), ProviderRejected, "Mail Send"),
        (refusal("The from address does not match a verified Sender Identity", status=403), ProviderRejected, "domain"),
        (refusal("no", "from.email"), ProviderRejected, "from this sender"),
        (Reply(status=202), ProviderDown, "sandbox"),
        (Reply(status=500), ProviderDown, "500"),
        (Reply(cut="after-body"), ProviderDown, "lost"),
    ],
    ids=lambda each: str(getattr(each, "status", "")),
)
def test_a_check_says_what_is_wrong(reply: Reply, kind: type[ProviderError], words: str) -> None:
    with sending([reply]) as (_, provider), pytest.raises(kind, match=words):
        provider.check(SENDER)


def test_a_check_with_a_sender_that_cannot_be_written() -> None:
    with sending() as (server, provider), pytest.raises(ProviderRejected, match="sender"):
        provider.check(Mailbox(address="josé@example.org"))
    assert server.requests == []
