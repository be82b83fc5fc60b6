"""The anymail provider: what only it can meet. What every way out must do stands in test_contract.py."""

from __future__ import annotations

import json
import logging
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from anymail_server import SERVICES as SPOKEN
from anymail_server import Act, Answer, Bad, MailService, Request, Took
from newsletter.config import SERVICES, Anymail, Config, Way, load_config
from newsletter.envelope import Envelope, Recipient
from newsletter.errors import ConfigError, ProviderDown, ProviderRejected, ProviderUnsupported
from newsletter.providers import Outcome, open_provider
from newsletter.providers.anymail import AnymailProvider, _backend, _groups, _once
from newsletter.providers.anymail_answers import Secrets, retry_after
from newsletter.providers.anymail_lane import Crew
from newsletter.providers.anymail_letter import Addressee, Letter
from newsletter.providers.anymail_services import SERVICES as KNOWN
from newsletter.recorder import Lease, Recorder, read_evidence
from newsletter.rendering.edition import Edition, Image, Mailbox

KEY, SECRET = "sk-live-7f3a9c", "secret"
EDITION = Edition(
    key="2026-11-29",
    language="es",
    direction="ltr",
    kind="bulk",
    subject="Perú esta semana",
    sender=Mailbox(name="Valley News", address="news@example.org"),
    reply_to=Mailbox(name="Editors", address="editors@example.org"),
    list_id=("Valley News", "weekly.news.example.org"),
    feedback_id="2026-11-29:es:weekly:newsexample",
    unsubscribe_mailbox="leave@example.org",
    html='<p>Hola @@NAME@@</p><a href="@@UNSUBSCRIBE_URL@@">fuera</a>',
    text="Hola @@NAME@@\nSalir: @@UNSUBSCRIBE_URL@@\n",
)
BATCHES = sorted(name for name, service in KNOWN.items() if service.batch > 1)
SINGLES = sorted(name for name, service in KNOWN.items() if service.batch == 1)
MERGING = sorted(name for name, service in KNOWN.items() if service.merge)
PICTURE = Image(name=f"{'0' * 32}.png", media_type="image/png", content=b"\x89PNG...", width=1, height=1)


def settings_of(name: str, url: str = "", **changes: Any) -> Anymail:
    region = "eu-west-1" if name == "ses" else ""
    fields: dict[str, Any] = {
        "key": KEY,
        "secret": SECRET,
        "region": region,
        "url": url,
        "connections": 4,
        "timeout": 20,
    }
    return Anymail(service=name, **fields | changes)


def reader(key: str, **changes: str) -> Recipient:
    address, name = changes.get("address", f"{key}@example.net"), changes.get("name", key)
    slots = {"NAME": name, "UNSUBSCRIBE_URL": changes.get("url", f"https://news.example.org/u/{key}")}
    return Recipient(key=key, address=address, name=name, slots=slots)


def readers(count: int) -> list[Recipient]:
    return [reader(f"r{number}") for number in range(count)]


class Sent:
    """A provider, the service at its other end, and a recorder."""

    def __init__(self, folder: Path, name: str, **changes: Any) -> None:
        self.service = MailService(name, key=KEY, secret=SECRET, tls=changes.pop("tls", None))
        self.provider = AnymailProvider(settings_of(name, self.service.url, **changes))
        lease = Lease(batch=1, epoch=1, until=time.time() + 3600)
        self.recorder = Recorder(folder, lease, store="s", owner="o")

    def send(self, *recipients: Recipient, edition: Edition = EDITION) -> list[Outcome]:
        return self.provider.send(edition, recipients, self.recorder)

    def words(self) -> str:
        return self.recorder.path.read_bytes().rstrip(b"\0").decode()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newsletter.providers.anymail._PAUSE", 0.01)


@contextmanager
def sent_by(folder: Path, name: str, **changes: Any) -> Iterator[Sent]:
    sent = Sent(folder, name, **changes)
    try:
        yield sent
    finally:
        sent.service.stop()
        sent.provider.close()
        sent.recorder.close()


@pytest.fixture(params=SERVICES)
def sent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sent]:
    with sent_by(tmp_path, request.param) as it:
        yield it


def states(outcomes: list[Outcome]) -> list[str]:
    return [outcome.state for outcome in outcomes]


# --- what leaves ------------------------------------------------------------------------------------------------------


def test_the_server_speaks_every_service() -> None:
    assert set(SPOKEN) == set(KNOWN) == set(SERVICES)


def test_a_message_says_what_the_envelope_says(sent: Sent) -> None:
    ana = reader("ana", name="Ana Ñandú & <Söhne>")
    assert states(sent.send(ana, reader("bea"))) == ["accepted"] * 2
    took = {each.key: each for each in sent.service.taken}["ana"]
    assert (took.address, took.subject) == ("ana@example.net", "Perú esta semana")
    assert took.text.splitlines() == ["Hola Ana Ñandú & <Söhne>", "Salir: https://news.example.org/u/ana"]
    assert took.html.strip() == (
        '<p>Hola Ana Ñandú &amp; &lt;Söhne&gt;</p><a href="https://news.example.org/u/ana">fuera</a>'
    )
    assert "news@example.org" in took.sender


def test_list_headers_arrive_octet_for_octet(sent: Sent) -> None:
    ana = reader("ana", url=f"https://news.example.org/u/{'Tok3n_-~.' * 50}")
    sent.send(ana, reader("bea"))
    took = {each.key: each for each in sent.service.taken}["ana"]
    own = Envelope(EDITION).headers_for(ana)
    arrived = {name.lower(): value for name, value in took.headers.items()}
    names = ["list-unsubscribe", "list-unsubscribe-post"]
    if sent.provider.service.headers != "unsubscribe":
        names.append("x-newsletter-delivery")
    wanted = {name.lower(): value for name, value in own.items()}
    assert [arrived[name] for name in names] == [wanted[name] for name in names]
    assert [arrived[name.lower()] for name in Envelope(EDITION).headers] == [*Envelope(EDITION).headers.values()]
    assert "=?" not in "".join(arrived.get(name, "") for name in names)


def test_one_off_mail_has_no_list_headers(sent: Sent) -> None:
    edition = replace(
        EDITION, kind="transactional", list_id=None, feedback_id="", text="Hola @@NAME@@", html="<p>Hola</p>"
    )
    assert states(sent.send(reader("ana"), edition=edition)) == ["accepted"]
    names = {name.lower() for name in sent.service.taken[0].headers}
    assert "auto-submitted" in names
    assert not {name for name in names if name.startswith("list-")}


@pytest.mark.parametrize(
    "name",
    ["Ñandú, Ana", 'Ana "La Jefa" Pérez', "O'Brien (x)", "a@b.example", "<script>", "Ana\\Bea", "  ", "=?utf-8?q?x?="],
)
def test_names_of_every_kind_reach_the_text(sent: Sent, name: str) -> None:
    assert states(sent.send(reader("ana", name=name))) == ["accepted"]
    assert f"Hola {name}" in sent.service.taken[0].text
    assert sent.service.taken[0].address == "ana@example.net"


def test_idn_domains_are_told_as_a_labels(sent: Sent) -> None:
    assert states(sent.send(reader("ana", address="ana@bücher.example"))) == ["accepted"]
    assert sent.service.taken[0].address == "ana@xn--bcher-kva.example"


@pytest.mark.parametrize("name", sorted(name for name, service in KNOWN.items() if service.images))
def test_pictures_travel_inside(tmp_path: Path, name: str) -> None:
    edition = replace(
        EDITION, embed=True, images=(PICTURE,), html=f'{EDITION.html}<img src="cid:{PICTURE.name}@newsletter">'
    )
    with sent_by(tmp_path, name) as sent:
        assert states(sent.send(reader("ana"), edition=edition)) == ["accepted"]
        assert sent.service.taken[0].images == (f"{PICTURE.name}@newsletter",)


@pytest.mark.parametrize("name", sorted(name for name, service in KNOWN.items() if not service.images))
def test_pictures_that_a_service_cannot_carry_let_nothing_leave(tmp_path: Path, name: str) -> None:
    edition = replace(
        EDITION, embed=True, images=(PICTURE,), html=f'{EDITION.html}<img src="cid:{PICTURE.name}@newsletter">'
    )
    with sent_by(tmp_path, name) as sent:
        with pytest.raises(ProviderUnsupported, match="pictures inside a message"):
            sent.send(reader("ana"), edition=edition)
        assert sent.service.requests == []
        assert sent.recorder.left == 0


def test_a_batch_is_one_request_and_an_address_is_in_it_once(tmp_path: Path) -> None:
    with sent_by(tmp_path, "sparkpost") as sent:
        twice = [reader("a", address="Same@example.net"), reader("b"), reader("c", address="same@example.net")]
        assert states(sent.send(*twice)) == ["accepted"] * 3
        assert len(sent.service.requests) == 2
        assert sorted(each.key for each in sent.service.taken) == ["a", "b", "c"]


def test_groups_hold_everybody_once_and_no_address_twice() -> None:
    to = [Addressee(str(n), reader(str(n)), f"{'aAbc'[n % 4]}{n % 7}@example.net") for n in range(100)]
    groups = list(_groups(to, 9))
    assert sorted(each.key for group in groups for each in group) == sorted(each.key for each in to)
    assert all(len({each.address.casefold() for each in group}) == len(group) <= 9 for group in groups)


def test_requests_one_by_one_share_few_connections(tmp_path: Path) -> None:
    with sent_by(tmp_path, "postmark", connections=3) as sent:
        sent.send(*readers(50))
        sent.send(*readers(50))
        assert sent.service.connections <= 3


def test_a_connection_that_the_server_closed_in_between_is_no_doubt(tmp_path: Path) -> None:
    with sent_by(tmp_path, "postmark", connections=1) as sent:
        sent.send(reader("ana"))
        for sock in list(sent.service._sockets):
            sock.shutdown(2)
        while sent.service._sockets:
            time.sleep(0.01)
        assert states(sent.send(reader("bea"))) == ["accepted"]


# --- an edition's own text, and the service's syntax ------------------------------------------------------------------

_LOOKS = (
    "{ } % [ ] # $ a b @ {{ }} {{{ {% %} [[ ]] [[var:NAME]] {{NAME}} {{L0}} {$x} %recipient.NAME% %unsubscribe_url% "
    "%recipient% 100% &amp;"
)
_SYNTAX = st.lists(
    st.sampled_from([*_LOOKS.split(), " ", "\n", "{{ params.NAME }}", "{# x #}", "{% if x %}"]), max_size=12
).map("".join)


@pytest.mark.parametrize("name", MERGING)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(before="{[[", between="%", after="]]}", subject="{[[", who="{[[")
@given(before=_SYNTAX, between=_SYNTAX, after=_SYNTAX, subject=_SYNTAX, who=_SYNTAX)
def test_text_that_looks_like_a_services_syntax_arrives_as_it_is(
    name: str, before: str, between: str, after: str, subject: str, who: str
) -> None:
    text = f"{before.replace('@@', '@')}@@NAME@@{between.replace('@@', '@')}@@NAME@@{after.replace('@@', '@')}"
    subject = f"x{subject}".replace("\n", " ").replace("@@", "@")
    edition = replace(EDITION, text=f"{text}\n@@UNSUBSCRIBE_URL@@", html=f"<p>{text}</p>", subject=subject)
    who = who.replace("\n", " ")
    service = KNOWN[name]
    assume(text.count("@@") == 4)  # no slot by accident
    letter = Letter(service, edition)
    backend = _backend(settings_of(name), service, "http://127.0.0.1/")
    to = [Addressee("k", reader("k", name=who), "k@example.net")]
    payload = letter.batch(to, backend, once=_once(edition, to)) if service.batch > 1 else letter.single(to[0], backend)
    (took,) = handled(name, payload)
    assert took.text == text.replace("@@NAME@@", who) + "\nhttps://news.example.org/u/k"
    escaped = who.replace("&", "&amp;")
    assert took.html == f"<p>{text.replace('@@NAME@@', escaped)}</p>"
    assert took.subject == subject


def handled(name: str, payload: Any) -> list[Took]:
    """What the service makes of a request, without a line in between."""
    import requests

    asked = requests.Request(**payload.get_request_params("http://127.0.0.1/")).prepare()
    headers = {key.lower(): str(value) for key, value in asked.headers.items()}
    body = asked.body.encode() if isinstance(asked.body, str) else asked.body
    assert isinstance(body, bytes)
    with MailService(name, key=KEY, secret=SECRET) as service:
        try:
            return SPOKEN[name](service, Request(path=asked.path_url, headers=headers, body=body, at=0.0))[0]
        except Bad as bad:
            raise AssertionError(bad.document) from None


@pytest.mark.parametrize("name", MERGING)
def test_syntax_in_a_header_is_not_sent_at_all(tmp_path: Path, name: str) -> None:
    opening = {"mailgun": "%recipient.x%", "mailjet": "[[var:x]]"}.get(name, "{{x}}")
    with sent_by(tmp_path, name) as sent:
        with pytest.raises(ProviderUnsupported, match="sender's name"):
            sent.send(reader("ana"), edition=replace(EDITION, sender=Mailbox(name=opening, address="news@example.org")))
        assert sent.service.requests == []


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 301, 307])
def test_what_a_human_must_mend_rejects_the_mailing(sent: Sent, status: int) -> None:
    sent.service.answer = lambda request: Answer(
        status, {"message": "no, ana@example.net"}, {"Location": f"{sent.service.url}elsewhere"}
    )
    with pytest.raises(ProviderRejected) as caught:
        sent.send(*readers(3))
    assert {outcome.state for outcome in caught.value.outcomes if isinstance(outcome, Outcome)} <= {"deferred"}
    assert not any("elsewhere" in request.path for request in sent.service.requests)
    assert "@" not in str(caught.value)


def test_too_fast_is_down_for_as_long_as_the_service_says(sent: Sent) -> None:
    sent.service.answer = lambda request: Answer(429, {"message": "slow down"}, {"Retry-After": "7"})
    with pytest.raises(ProviderDown) as caught:
        sent.send(*readers(3))
    assert caught.value.outcomes == ()  # nobody was served, and nobody's tries are counted
    assert caught.value.retry_after == (1.0 if sent.service.name == "ses" else 7.0)
    assert sent.service.taken == []
    sent.service.answer = lambda request: None
    assert states(sent.send(*readers(3))) == ["accepted"] * 3


def test_a_quota_that_is_used_up_is_a_humans_business(tmp_path: Path) -> None:
    with sent_by(tmp_path, "resend") as sent:
        sent.service.script.append(
            Answer(429, {"name": "daily_quota_exceeded", "message": "You have reached your daily quota"})
        )
        with pytest.raises(ProviderRejected, match="daily"):
            sent.send(reader("ana"))


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_an_error_of_the_service_is_a_doubt_and_nothing_is_sent_again(sent: Sent, status: int) -> None:
    sent.service.answer = lambda request: Answer(status, b"<html>oops</html>", {"Content-Type": "text/html"})
    outcomes = sent.send(reader("ana"))
    assert states(outcomes) == ["in_doubt"]
    assert str(status) in outcomes[0].detail
    assert len(sent.service.requests) == (3 if sent.provider.service.once else 1)
    assert len({request.body for request in sent.service.requests}) == 1


GARBAGE = [
    b"",
    b"not JSON",
    b"[]",
    b"{}",
    b"null",
    b"[" * 100_000,
    b'{"id": {"x": 1}, "messageIds": 7, "Messages": 7, "results": [], "emails": {"a": 1}, "data": []}',
    b'{"id": [], "message": 7, "Messages": [1], "results": {"id": []}, "MessageID": [], "MessageId": {}, "success": 1}',
    b"\xff\xfe\x00" * 100,
    b"9" * 10_000,
]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_an_answer_that_is_none_is_a_doubt(sent: Sent, body: bytes) -> None:
    sent.service.answer = lambda request: Answer(200, body)
    assert states(sent.send(reader("ana"))) == ["in_doubt"]
    assert sent.provider.service.title in sent.words()


def test_an_answer_without_an_end_is_a_doubt(tmp_path: Path) -> None:
    with sent_by(tmp_path, "postmark") as sent:
        sent.service.answer = lambda request: Answer(200, b" " * (5 << 20))
        assert states(sent.send(reader("ana"))) == ["in_doubt"]


REFUSED = {
    "postmark": (
        422,
        {"ErrorCode": 406, "Message": "You tried to send to a recipient that has been marked as inactive."},
    ),
    "resend": (422, {"name": "validation_error", "message": "Invalid `to` field."}),
    "mailtrap": (400, {"success": False, "errors": ["'to' address is invalid"]}),
    "mandrill": (200, [{"email": "r1@example.net", "status": "rejected", "reject_reason": "hard-bounce"}]),
    "scaleway": (400, {"message": "invalid argument(s)", "details": [{"argument_name": "to[0].email"}]}),
    "postal": (200, {"status": "error", "data": {"code": "NoRecipients", "message": "There are no recipients"}}),
    "mailersend": (422, {"message": "The to.0.email must be valid.", "errors": {"to.0.email": ["invalid"]}}),
    "ses": (400, {"message": "Address has an illegal domain part".replace("domain part", "ending")}),
    "mailgun": (400, {"message": "to parameter is not a valid address. please check documentation"}),
    "sparkpost": (
        422,
        {"errors": [{"message": "invalid data format/type", "description": "header_to is wrong", "code": "1300"}]},
    ),
    "brevo": (400, {"code": "invalid_parameter", "message": "email is not valid in to"}),
    "unisender": (400, {"status": "error", "code": 204, "message": "Error ID:1. No valid recipients"}),
    "mailjet": (
        400,
        {"ErrorMessage": "Invalid email address", "ErrorRelatedTo": ["To[0].Email"], "ErrorCode": "mj-0013"},
    ),
}


@pytest.mark.parametrize("name", SERVICES)
def test_a_recipient_whom_the_service_refuses_stops_nobody_else(tmp_path: Path, name: str) -> None:
    status, document = REFUSED[name]
    with sent_by(tmp_path, name) as sent:
        if KNOWN[name].batch > 1:
            sent.service.refuse = lambda took: document if took.address == "r1@example.net" else None
        else:
            headers = {"x-amzn-errortype": "MessageRejected"} if name == "ses" else {}
            r1 = b'["r1@example.net"]' if name == "ses" else b"r1@example.net"
            sent.service.answer = lambda request: Answer(status, document, headers) if r1 in request.body else None
        outcomes = sent.send(*readers(9))
        assert states(outcomes) == ["accepted", "refused", *["accepted"] * 7]
        assert outcomes[1].detail
        assert sorted(each.key for each in sent.service.taken) == sorted(f"r{n}" for n in range(9) if n != 1)
        answered = read(sent)
        assert {key: state for key, state in answered.items() if state != "accepted"} == {"r1": "refused"}


def read(sent: Sent) -> dict[str, str]:
    sent.recorder.close()
    evidence = read_evidence(sent.recorder.path)
    assert evidence
    assert evidence.left == set(evidence.answers)
    return {key: answer.state for key, answer in evidence.answers.items()}


REJECTED = {
    "postmark": (422, {"ErrorCode": 400, "Message": "The 'From' address you supplied is not a Sender Signature"}),
    "resend": (422, {"name": "validation_error", "message": "Invalid `from` field."}),
    "mailtrap": (422, {"success": False, "errors": ["'from' domain is not verified"]}),
    "mandrill": (500, {"status": "error", "code": -1, "name": "Invalid_Key", "message": "Invalid API key"}),
    "scaleway": (400, {"message": "domain is not checked"}),
    "postal": (200, {"status": "error", "data": {"code": "UnauthenticatedFromAddress", "message": "no"}}),
    "mailersend": (422, {"message": "The from.email domain must be verified in your account."}),
    "ses": (400, {"message": "Email address is not verified."}),
    "mailgun": (400, {"message": "'from' parameter is not a valid address."}),
    "sparkpost": (
        400,
        {"errors": [{"message": "Invalid domain", "description": "Unconfigured Sending Domain", "code": "7001"}]},
    ),
    "brevo": (
        400,
        {"code": "unauthorized", "message": "Sending has been rejected because the sender you used is not valid"},
    ),
    "unisender": (400, {"status": "error", "code": 219, "message": "from_email domain is not verified"}),
    "mailjet": (
        400,
        {
            "Messages": [
                {
                    "Status": "error",
                    "Errors": [{"ErrorMessage": "not an authorized sender", "ErrorRelatedTo": ["From"]}],
                }
            ]
            * 3
        },
    ),
}


@pytest.mark.parametrize("name", SERVICES)
def test_a_sender_whom_the_service_refuses_rejects_the_mailing(tmp_path: Path, name: str) -> None:
    status, document = REJECTED[name]
    with sent_by(tmp_path, name) as sent:
        headers = {"x-amzn-errortype": "MessageRejected"} if name == "ses" else {}
        sent.service.answer = lambda request: Answer(status, document, headers)
        with pytest.raises(ProviderRejected, match="then resume"):
            sent.send(*readers(3))
        assert sent.service.taken == []
        assert set(read(sent).values()) <= {"deferred"}


def test_a_batch_that_is_refused_whatever_is_in_it_is_not_cut_to_pieces(tmp_path: Path) -> None:
    with sent_by(tmp_path, "mailgun") as sent:
        sent.service.answer = lambda request: Answer(400, {"message": "I do not like it"})
        with pytest.raises(ProviderRejected, match="not one recipient's fault"):
            sent.send(*readers(500))
        assert len(sent.service.requests) < 40


def test_a_message_that_is_too_large_is_nobodys_fault_but_ours(tmp_path: Path) -> None:
    with sent_by(tmp_path, "brevo") as sent:
        sent.service.answer = lambda request: Answer(413, {"message": "too large"})
        with pytest.raises(ProviderRejected, match="413"):
            sent.send(*readers(3))


def test_a_batch_that_is_too_large_is_halved(tmp_path: Path) -> None:
    with sent_by(tmp_path, "brevo") as sent:
        sent.service.answer = lambda request: Answer(413, {}) if len(request.json["messageVersions"]) > 3 else None
        assert states(sent.send(*readers(10))) == ["accepted"] * 10
        assert sorted(took.key for took in sent.service.taken) == sorted(f"r{n}" for n in range(10))


def test_a_page_that_takes_the_place_of_mailguns_api_is_a_wrong_setting(tmp_path: Path) -> None:
    with sent_by(tmp_path, "mailgun") as sent:
        sent.service.answer = lambda request: Answer(200, b"Mailgun Magnificent API")
        with pytest.raises(ProviderRejected, match="look at `domain`"):
            sent.send(reader("ana"))


def test_a_batch_of_which_a_part_was_taken_is_a_doubt_when_nobody_says_which(tmp_path: Path) -> None:
    with sent_by(tmp_path, "sparkpost") as sent:
        results = {"total_rejected_recipients": 1, "total_accepted_recipients": 2, "id": "1"}
        sent.service.answer = lambda request: Answer(200, {"results": results})
        assert states(sent.send(*readers(3))) == ["in_doubt"] * 3


@pytest.mark.parametrize(
    ("said", "state"), [("unsubscribed", "refused"), ("temporary_unavailable", "deferred"), ("invalid", "refused")]
)
def test_unisender_tells_of_each_recipient(tmp_path: Path, said: str, state: str) -> None:
    with sent_by(tmp_path, "unisender") as sent:
        emails = {
            "status": "success",
            "job_id": "j",
            "emails": ["r0@example.net"],
            "failed_emails": {"r1@example.net": said},
        }
        sent.service.answer = lambda request: Answer(200, emails)
        assert states(sent.send(*readers(3))) == ["accepted", state, "in_doubt"]


def test_mailersend_tells_whom_it_will_not_write_to(tmp_path: Path) -> None:
    with sent_by(tmp_path, "mailersend") as sent:
        warning = {"type": "ALL_SUPPRESSED", "recipients": [{"email": "ana@example.net", "reason": ["hard_bounced"]}]}
        sent.service.answer = lambda request: Answer(202, {"warnings": [warning]})
        assert states(sent.send(reader("ana"))) == ["refused"]


def test_mailjet_with_a_single_recipient_carries_what_is_his(tmp_path: Path) -> None:
    with sent_by(tmp_path, "mailjet") as sent:
        assert states(sent.send(reader("ana"))) == ["accepted"]
        assert sent.service.taken[0].text.startswith("Hola ana")


def test_no_word_of_a_service_brings_an_address_or_a_key_along(sent: Sent) -> None:
    said = {
        "message": f"no such user r0@example.net <R0%40example.net> key {KEY} {SECRET}\r\nsecond line\x00",
        "ErrorCode": 300,
    }
    for status in (400, 422, 500):
        sent.service.answer = lambda request, status=status: Answer(status, said)  # type: ignore[misc]
        text = ""
        try:
            text = repr(sent.send(reader("r0")))
        except ProviderRejected as error:
            text = f"{error} {error.outcomes}"
        words = text + sent.words()
        assert "example.net" not in words.lower()
        assert KEY not in words


# --- when there is no answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [Act.CUT, Act.HALF, Act.HANG, Act.DRIP, Act.DRIP_HEAD])
@pytest.mark.parametrize("name", ["postmark", "mailgun", "ses", "mailjet"])
def test_an_answer_that_is_lost_leaves_a_doubt_and_one_request(tmp_path: Path, name: str, act: Act) -> None:
    with sent_by(tmp_path, name, timeout=1) as sent:
        sent.service.script.append(act)
        outcomes = sent.send(reader("ana"))
        assert states(outcomes) == ["in_doubt"]
        assert outcomes[0].detail
        assert len(sent.service.requests) == 1
        assert read(sent) == {"ana": "in_doubt"}


def test_a_line_that_dripped_serves_the_next_message(tmp_path: Path) -> None:
    with sent_by(tmp_path, "postmark", timeout=1, connections=1) as sent:
        sent.service.script.append(Act.DRIP)
        assert states(sent.send(*readers(3))) == ["in_doubt", "accepted", "accepted"]


def test_a_drip_inside_tls_is_cut_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tls(tmp_path, monkeypatch) as context, sent_by(tmp_path, "postmark", timeout=1, tls=context) as sent:
        assert states(sent.send(reader("ana"))) == ["accepted"]
        sent.service.script.append(Act.DRIP)
        assert states(sent.send(reader("bea"))) == ["in_doubt"]


def test_a_certificate_that_nobody_vouches_for_is_down_and_nothing_leaves(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with sent_by(tmp_path, "postmark", tls=context) as sent:
        with pytest.raises(ProviderDown, match="cannot be reached"):
            sent.send(reader("ana"))
        assert sent.service.requests == []
        assert sent.recorder.left == 0


@contextmanager
def tls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder / "ca.pem"))
    yield context


def test_a_line_that_breaks_before_the_body_was_read_serves_nobody(tmp_path: Path) -> None:
    with sent_by(tmp_path, "postmark", connections=1) as sent:
        sent.service.script.append(Act.CUT_EARLY)
        try:
            found = states(sent.send(reader("ana")))
        except ProviderDown as down:
            found = [outcome.state for outcome in down.outcomes if isinstance(outcome, Outcome)]
        assert found in (["in_doubt"], ["deferred"])  # as the machine happened to tell us of it
        assert sent.service.taken == []


def test_nobody_is_announced_to_a_service_that_cannot_be_reached(sent: Sent) -> None:
    sent.service.stop()
    with pytest.raises(ProviderDown, match="cannot be reached") as caught:
        sent.send(*readers(5))
    assert sent.recorder.left == 0
    assert caught.value.outcomes == ()


def test_a_connection_that_was_idle_for_long_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newsletter.providers.anymail_lane.IDLE", -1.0)
    with sent_by(tmp_path, "postmark", connections=1) as sent:
        assert states(sent.send(*readers(3))) == ["accepted"] * 3
        assert sent.service.connections == 3


def test_a_stop_in_a_batch_sends_those_who_were_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sent_by(tmp_path, "sparkpost") as sent:
        leaving = sent.recorder.leaving

        def stop_after_two(key: str, *, answered: Outcome | None = None) -> bool:
            sent.recorder.lease.stopping = sent.recorder.left == 2
            return leaving(key, answered=answered)

        monkeypatch.setattr(sent.recorder, "leaving", stop_after_two)
        assert states(sent.send(*readers(5))) == ["accepted"] * 2 + ["deferred"] * 3
        assert sorted(took.key for took in sent.service.taken) == ["r0", "r1"]
        assert read(sent) == {"r0": "accepted", "r1": "accepted"}


def test_a_name_that_nobody_knows_is_down(tmp_path: Path) -> None:
    with sent_by(tmp_path, "postmark") as sent:
        sent.provider = AnymailProvider(settings_of("postmark", "https://nowhere.invalid/"))
        with pytest.raises(ProviderDown, match="Postmark cannot be reached"):
            sent.send(*readers(2))


@pytest.mark.parametrize("name", ["resend", "sparkpost", "brevo"])
@pytest.mark.parametrize("act", [Act.HALF, Answer(502, b"", takes=True)], ids=["half", "502"])
def test_a_request_with_a_key_is_repeated_and_taken_once(tmp_path: Path, name: str, act: Act | Answer) -> None:
    with sent_by(tmp_path, name) as sent:
        sent.service.script.append(act)
        chunk = readers(3 if KNOWN[name].batch > 1 else 1)
        wanted = (
            "in_doubt" if name == "brevo" and isinstance(act, Answer) else "accepted"
        )  # it says no more than "twice"
        assert set(states(sent.send(*chunk))) == {wanted}
        assert sorted(each.key for each in sent.service.taken) == [each.key for each in chunk]
        assert len(sent.service.requests) > 1


def test_an_idempotency_key_is_of_the_edition_and_the_deliveries() -> None:
    to = [Addressee(key, reader(key), f"{key}@example.net") for key in "abc"]
    assert _once(EDITION, to) == _once(replace(EDITION, html="<p>other</p>"), to)
    others = [to[:2], to[::-1], []]
    keys = {_once(EDITION, to), _once(replace(EDITION, key="x"), to), _once(replace(EDITION, language="en"), to)}
    assert len(keys | {_once(EDITION, each) for each in others}) == 6


def test_a_worker_that_stops_repeats_nothing(tmp_path: Path) -> None:
    with sent_by(tmp_path, "resend") as sent:

        def stop(request: Request) -> Act:
            sent.recorder.lease.stopping = True
            return Act.CUT

        sent.service.answer = stop
        assert states(sent.send(reader("ana"))) == ["in_doubt"]
        assert len(sent.service.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 1.0),
        ({"retry-after": "99999999999999999999"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Sun, 99 Nov 2026"}, None),
        ({"retry-after": "864000"}, 3600.0),
        ({"x-sib-ratelimit-reset": "12"}, 12.0),
        ({}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_how_long_to_wait_until_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 <= (retry_after({"retry-after": later}) or 0) <= 60


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_words_are_one_short_line_without_addresses(text: str) -> None:
    words = Secrets(KEY).words(f"{text} ana@example.net {KEY} {text}")
    assert words.isprintable()
    assert len(words) <= 300
    assert "@" not in words
    assert KEY not in words


# --- many at once -----------------------------------------------------------------------------------------------------


def test_a_single_mail_waits_for_one_request_and_not_for_a_chunk() -> None:
    done: list[str] = []
    begun, go = threading.Event(), threading.Event()

    class Work:
        def __init__(self, name: str, pieces: int) -> None:
            self.name, self.left = name, pieces

        def turn(self) -> Any:
            if not self.left:
                return None
            self.left -= 1
            return self.piece

        def piece(self) -> None:
            begun.set()
            go.wait(30)
            done.append(self.name)
            if len(done) == 6:
                over.set()

    over = threading.Event()
    crew = Crew(1)
    crew.take(Work("issue", 5), pieces=5)
    assert begun.wait(30)
    crew.take(Work("single", 1), pieces=1)
    go.set()
    assert over.wait(30)
    crew.stop()
    assert done.index("single") <= 2


# --- settings ---------------------------------------------------------------------------------------------------------


def workspace(folder: Path, text: str, **variables: str) -> Any:
    (folder / "newsletter.yaml").write_text(
        f"title: News\nsender: {{name: News, address: news@example.org}}\nbase_url: https://news.example.org\n{text}"
    )
    return load_config(folder, {"NEWSLETTER_SECRET_KEY": "x" * 40, "NEWSLETTER_PEPPER": "y" * 40, **variables})


def test_the_way_out_of_a_workspace(tmp_path: Path) -> None:
    config = workspace(tmp_path, "provider: anymail\nanymail: {service: resend}\n", NEWSLETTER_ANYMAIL_KEY=KEY)
    provider = open_provider(config)
    assert isinstance(provider, AnymailProvider)
    assert provider.service.title == "Resend"
    assert KEY not in repr(config)
    provider.close()


def test_a_workspace_that_embeds_pictures_is_told_before_anything_leaves(tmp_path: Path) -> None:
    config = workspace(
        tmp_path, "provider: anymail\nimages: embed\nanymail: {service: brevo}\n", NEWSLETTER_ANYMAIL_KEY=KEY
    )
    with pytest.raises(ProviderUnsupported, match="Brevo cannot carry pictures inside a message"):
        open_provider(config)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"service": "postmark", "key": ""}, "needs its key"),
        ({"service": "mailjet", "secret": ""}, "needs its secret key"),
        ({"service": "scaleway", "secret": ""}, "needs its project id"),
        ({"service": "postmark", "key": "a\r\nb"}, "a blank, a line end"),
        ({"service": "postal", "url": ""}, "has no address of its own"),
        ({"service": "mailgun", "region": "mars"}, "no such region"),
        ({"service": "mailgun", "domain": "a/b"}, "is no domain"),
        ({"service": "ses", "region": ""}, "needs a region"),
    ],
)
def test_settings_that_cannot_work_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    changes = {"key": KEY, "secret": SECRET} | changes
    with pytest.raises(ConfigError, match=says) as caught:
        AnymailProvider(Anymail(**changes))
    assert KEY not in str(caught.value)


def test_a_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['anymail'] = None\n"
        "from newsletter.config import Anymail, Way\nfrom newsletter.providers import open_provider\n"
        "from newsletter.errors import ConfigError\n"
        "from types import SimpleNamespace\n"
        "way = Way(name='x', settings=Anymail(service='resend', key='k'))\n"
        "try:\n    open_provider(SimpleNamespace(images='link'), way)\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'newsletter[anymail]'" in done.stdout


def test_django_may_have_settings_or_none_and_gets_ours_afterwards(tmp_path: Path) -> None:
    """In a process of its own: settings are made once."""
    code = (
        "from newsletter.config import Anymail, load_config\n"
        "from newsletter.providers.anymail import AnymailProvider\nfrom pathlib import Path\nimport sys\n"
        "provider = AnymailProvider(Anymail(service='resend', key='k'))\n"
        "with provider._lines.one() as line: print(line.backend.api_url)\n"
        "from django.conf import settings\nprint(settings.configured)\n"
        "from newsletter.settings import configure\nconfigure(load_config(Path(sys.argv[1])))\n"
        "import newsletter.store.ledger\nprint(settings.configured)\n"
        "provider = AnymailProvider(Anymail(service='mailgun', key='k', region='eu'))\n"
        "with provider._lines.one() as line: print(line.backend.api_url)\n"
    )
    workspace(tmp_path, "")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["https://api.resend.com/", "False", "True", "https://api.eu.mailgun.net/v3/"]


def test_no_log_holds_the_key_or_an_address(sent: Sent, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        sent.send(*readers(2))
        sent.service.answer = lambda request: Answer(500, b"no")
        sent.send(reader("ana"))
    assert KEY not in caplog.text
    assert "example.net" not in caplog.text


def test_every_region_is_https() -> None:
    for service in KNOWN.values():
        assert all(url.startswith("https://") for url in service.urls.values())


def test_a_way_has_a_name_of_its_own(tmp_path: Path) -> None:
    config = workspace(
        tmp_path,
        "provider: second\nproviders: {second: {anymail: {service: mailjet}}}\n",
        NEWSLETTER_SECOND_KEY=KEY,
        NEWSLETTER_SECOND_SECRET=SECRET,
    )
    way = config.ways[0]
    assert isinstance(way, Way)
    provider = open_provider(config, way)
    assert provider.limits.chunk == 50
    provider.close()
    assert json.dumps(provider.limits.connections)


# --- under the ledger -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mailgun", "postmark", "resend"])
def test_a_mailing_through_a_service_that_fails_now_and_then_reaches_everybody_once(store: Config, name: str) -> None:
    from audience import add_people, as_ways, editions
    from newsletter.engine import local
    from newsletter.store import ledger, mailings, schema

    list_id = add_people(store, range(1, 121))
    mailing = mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="anymail"
    ).mailing
    if not store.database_url:
        schema.prepare(store)
    with MailService(name, key=KEY, secret=SECRET) as service:
        service.script += [None, Answer(429, {}, {"Retry-After": "1"}), Act.HALF, None, Answer(500, b"", takes=True)]
        provider = AnymailProvider(settings_of(name, service.url))
        giving_up = time.monotonic() + 60

        def over() -> bool:
            counts = ledger.tally(mailing)
            return not counts["pending"] + counts["sending"] or time.monotonic() > giving_up

        local.run(store, as_ways(provider, "anymail"), stop=threading.Event(), until=over)
        counts = {state: count for state, count in ledger.tally(mailing).items() if count}
        taken = [took.address for took in service.taken]
    assert sum(counts.values()) == 120
    assert counts.keys() <= {"accepted", "in_doubt"}
    assert len(taken) == len(set(taken)) == 120  # those in doubt were taken, and the ledger sends nothing twice
    assert ("in_doubt" in counts) == (name != "resend")  # which says the same to the same request
