from __future__ import annotations

import os
import random
import re
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import trustme
from aiosmtpd.controller import Controller

from newsletter.config import Smtp
from newsletter.envelope import Envelope, Recipient
from newsletter.errors import ConfigError, InputError, ProviderDown, ProviderRejected
from newsletter.providers import Outcome, Provider
from newsletter.providers import smtp_engine as engine
from newsletter.providers.smtp import SmtpProvider
from newsletter.providers.smtp_jobs import TRIES
from newsletter.recorder import Lease, Recorder, read_evidence
from newsletter.rendering.edition import Edition, Mailbox
from smtp_server import DROP, HANG, RESET, Reaction, Session, SmtpServer

BULK = Edition(
    key="2017-11-19",
    language="es",
    direction="ltr",
    kind="bulk",
    subject="Perú esta semana",
    sender=Mailbox(name="Valley News", address="news@example.org"),
    html='<p>Hola @@NAME@@ <a href="@@UNSUBSCRIBE_URL@@">salir</a></p>',
    text="Hola @@NAME@@\n@@UNSUBSCRIBE_URL@@\n",
)
URGENT = replace(BULK, key="confirm", kind="transactional")
LARGE = replace(BULK, key="large", html=BULK.html + "<p>pesado</p>\n" * 300_000)


def reader(key: str, **changes: str) -> Recipient:
    fields = {"address": f"{key}@example.net", "name": key} | changes
    slots = {"NAME": fields["name"], "UNSUBSCRIBE_URL": f"https://news.example.org/u/{key}"}
    return Recipient(key=key, address=fields["address"], name=fields["name"], slots=slots)


def crowd(count: int, start: str = "r") -> list[Recipient]:
    return [reader(f"{start}{number}") for number in range(count)]


Failure = TypeVar("Failure", bound=Exception)


class Notes:
    """A recorder that remembers what it was told, in order."""

    def __init__(self, *, most: int = 1_000_000, check: Callable[[str], None] = lambda key: None) -> None:
        self.told: list[tuple[str, str]] = []
        self.most, self.check = most, check
        self.left = 0

    def leaving(self, key: str, *, answered: Outcome | None = None) -> bool:
        if answered:
            self.answered(answered)
        if self.left >= self.most:
            return False
        self.check(key)
        self.left += 1
        self.told.append(("leaving", key))
        return True

    def answered(self, outcome: Outcome) -> None:
        self.told.append((outcome.state, outcome.key))

    def of(self, key: str) -> list[str]:
        return [what for what, whom in self.told if whom == key]


def at(point: str, reactions: Sequence[Reaction]) -> dict[str, Any]:
    """The script of a server that does something at one point."""
    return {point: reactions}


def smtp(server: SmtpServer | int, **changes: Any) -> Smtp:
    port = server if isinstance(server, int) else server.port
    fields: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "username": "",
        "connections": 1,
        "timeout": 5,
        "bounces": "",
    }
    return Smtp(**fields | changes)


@contextmanager
def way_out(server: SmtpServer | int, *, tls: ssl.SSLContext | None = None, **changes: Any) -> Iterator[SmtpProvider]:
    provider = SmtpProvider(smtp(server, **changes), tls=tls)
    try:
        yield provider
    finally:
        provider.close()


def send(
    provider: SmtpProvider,
    recipients: Sequence[Recipient],
    notes: Notes | None = None,
    edition: Edition = BULK,
) -> list[Outcome]:
    return provider.send(edition, recipients, cast("Recorder", notes or Notes()))


def failure(
    kind: type[Failure],
    provider: SmtpProvider,
    recipients: Sequence[Recipient],
    notes: Notes | None = None,
    edition: Edition = BULK,
) -> Failure:
    """What `send` raises."""
    with pytest.raises(kind) as caught:
        send(provider, recipients, notes, edition)
    return caught.value


def send_through(server: SmtpServer, recipients: Sequence[Recipient], **changes: Any) -> list[Outcome]:
    with way_out(server, **changes) as provider:
        return send(provider, recipients)


def states(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.state for outcome in outcomes]


def takers(server: SmtpServer) -> list[str]:
    return [taken.recipient for taken in server.taken]


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Starts the work; what comes back waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(20)
        assert results, "it did not come to an end"
        return results[0]

    return result


def until(fact: Callable[[], Any]) -> None:
    """Waits for what will be."""
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_smtp_is_a_provider_with_room_for_a_thousand_recipients() -> None:
    provider: Provider = SmtpProvider(smtp(1, connections=7))
    assert provider.limits.chunk * provider.limits.lanes == 1000
    assert provider.limits.connections == 7
    assert provider.limits.leaves
    provider.close()


def test_every_recipient_has_an_outcome_in_order_and_the_server_the_sealed_bytes() -> None:
    with SmtpServer() as server:
        outcomes = send_through(server, crowd(20), connections=3)
    assert [outcome.key for outcome in outcomes] == [f"r{number}" for number in range(20)]
    assert set(states(outcomes)) == {"accepted"}
    assert sorted(takers(server)) == sorted(f"r{number}@example.net" for number in range(20))
    for taken in server.taken:
        dated = message_from_bytes(taken.message, policy=default)["Date"].datetime
        recipient = reader(taken.recipient.partition("@")[0])
        assert taken.message == Envelope(BULK).seal(recipient, date=dated.astimezone(UTC))


def test_nobody_is_nothing_to_do() -> None:
    with way_out(1) as provider:
        assert send(provider, []) == []


def test_the_queue_id_is_the_reference() -> None:
    with SmtpServer() as server:
        (outcome,) = send_through(server, crowd(1))
    assert outcome == Outcome(key="r0", state="accepted", provider_ref="Q1", detail="")


def test_mail_comes_from_the_sender() -> None:
    with SmtpServer() as server:
        send_through(server, crowd(1))
    assert server.taken[0].sender == "news@example.org"


def test_with_a_bounce_domain_every_message_has_its_own_return_path() -> None:
    with SmtpServer() as server:
        send_through(server, crowd(3), bounces="bounce.exämple.org")
    assert [taken.sender for taken in server.taken] == [f"b+r{number}@bounce.xn--exmple-cua.org" for number in range(3)]


@pytest.mark.parametrize("domain", ["two words", "a>b.example", "x\r\nDATA", "-", "a@b.example"])
def test_a_bounce_domain_that_is_none_is_an_error_of_the_configuration(domain: str) -> None:
    with pytest.raises(ConfigError, match=r"smtp\.bounces"):
        SmtpProvider(smtp(1, bounces=domain))


def test_a_percent_sign_in_the_sender_is_a_percent_sign() -> None:
    edition = replace(BULK, sender=Mailbox(address="a%b%s@example.org"))
    with SmtpServer() as server, way_out(server) as provider:
        send(provider, crowd(2), edition=edition)
    assert [taken.sender for taken in server.taken] == ["a%b%s@example.org"] * 2


@pytest.mark.parametrize(
    "bad",
    [
        {"address": "a@example.net>\r\nRCPT TO:<b@example.net"},
        {"address": "a>@example.net"},
        {"address": "secret place@example.net"},
        {"name": "x\r\nBcc: y@example.net"},
    ],
)
def test_what_cannot_be_written_is_refused_and_says_nothing_to_the_server(bad: dict[str, str]) -> None:
    with SmtpServer() as server:
        outcomes = send_through(server, [reader("ana"), reader("bad", **bad), reader("bea")])
    assert states(outcomes) == ["accepted", "refused", "accepted"]
    assert outcomes[1].detail.startswith("recipient bad: ")
    assert "example" not in outcomes[1].detail
    assert takers(server) == ["ana@example.net", "bea@example.net"]


@pytest.mark.parametrize("good", range(5))
def test_the_order_of_good_and_bad_recipients_does_not_matter(good: int) -> None:
    bad = [reader(f"bad{number}", address="no address") for number in range(4)]
    with SmtpServer() as server:
        outcomes = send_through(server, [*bad[:good], reader("ana"), *bad[good:], *bad[:good]])
    assert states(outcomes) == ["refused"] * good + ["accepted"] + ["refused"] * 4
    assert takers(server) == ["ana@example.net"]


def test_nobody_who_can_be_written_to_is_no_reason_to_wait() -> None:
    with SmtpServer() as server:
        outcomes = send_through(server, [reader(f"bad{number}", address="no address") for number in range(40)])
    assert states(outcomes) == ["refused"] * 40


def test_a_recipient_without_a_slot_is_an_input_error_and_nothing_leaves() -> None:
    bare = Recipient(key="ana", address="ana@example.net", slots={"UNSUBSCRIBE_URL": "https://x.org/"})
    with SmtpServer() as server, way_out(server) as provider:
        error = failure(InputError, provider, [*crowd(3), bare])
        assert "no value for the slot NAME" in str(error)
        assert states(send(provider, crowd(1))) == ["accepted"]
    assert len(server.taken) == 1


def test_an_edition_that_cannot_be_written_is_rejected_or_an_input_error() -> None:
    with way_out(1) as provider:
        error = failure(InputError, provider, crowd(1), edition=replace(BULK, text="@@UNKNOWN@@"))
        assert re.search("UNKNOWN", str(error))
        rejected = failure(
            ProviderRejected, provider, crowd(1), edition=replace(BULK, sender=Mailbox(address="nobody"))
        )
        assert re.search("edition 2017-11-19", str(rejected))


def test_a_message_of_more_slots_than_the_system_writes_at_once_arrives() -> None:
    edition = replace(BULK, text=BULK.text + "@@NAME@@\n" * 1200)
    with SmtpServer() as server, way_out(server) as provider:
        outcomes = send(provider, crowd(3), edition=edition)
    assert states(outcomes) == ["accepted"] * 3
    for recipient, taken in zip(crowd(3), server.taken, strict=True):
        dated = message_from_bytes(taken.message, policy=default)["Date"].datetime
        assert taken.message == Envelope(edition).seal(recipient, date=dated.astimezone(UTC))


# --- pipelining -------------------------------------------------------------------------------------------------------


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the engine writes, one element for each system call."""
    written: list[bytes] = []
    write = engine.Engine._write_all

    def spy(self: engine.Engine, connection: Any, pieces: tuple[bytes, ...], size: int) -> None:
        written.append(b"".join(pieces))
        assert size == len(written[-1])
        write(self, connection, pieces, size)

    monkeypatch.setattr(engine.Engine, "_write_all", spy)
    return written


def envelope_after_body(session: Session, _: str) -> Reaction:
    """Does not answer a message before the next DATA is here: a client that waits would wait for ever."""
    while not session.buffer.endswith(b"DATA\r\n") and len(session.server.taken) < 3:
        session.fill()
    return None


def test_the_envelope_of_the_next_leaves_behind_a_message_before_its_answer() -> None:
    with SmtpServer(DOT=envelope_after_body) as server:
        assert states(send_through(server, crowd(4))) == ["accepted"] * 4


def test_the_end_of_a_message_and_the_next_envelope_are_one_write(writes: list[bytes]) -> None:
    with SmtpServer() as server:
        send_through(server, crowd(3))
    assert writes[1] == b"MAIL FROM:<news@example.org>\r\nRCPT TO:<r0@example.net>\r\nDATA\r\n"
    assert writes[2].startswith(b"Date: ")
    assert writes[2].endswith(b"--\r\n.\r\nMAIL FROM:<news@example.org>\r\nRCPT TO:<r1@example.net>\r\nDATA\r\n")
    assert writes[4].endswith(b"--\r\n.\r\n")
    assert writes[5:] == [b"QUIT\r\n"]


def test_pipelining_goes_on_from_one_job_to_the_next(writes: list[bytes]) -> None:
    two_are_there = threading.Event()

    def wait(session: Session, _: str) -> Reaction:
        two_are_there.wait(20)
        return None

    with SmtpServer(EHLO=wait) as server, way_out(server) as provider:
        one = in_thread(lambda: send(provider, [reader("ana")]))
        until(lambda: server.sessions and server.sessions[0].lines)
        two = in_thread(lambda: send(provider, [reader("bea")], edition=replace(BULK, key="2017-11-26")))
        until(lambda: provider._engine and len(provider._engine._jobs.bulk) == 2)
        two_are_there.set()
        assert states(one() + two()) == ["accepted", "accepted"]
    assert any(b"2017-11-19.ana" in write and b"RCPT TO:<bea@example.net>" in write for write in writes)


def test_without_pipelining_it_is_one_command_at_a_time(writes: list[bytes]) -> None:
    with SmtpServer(offers=("8BITMIME",), RCPT=[b"550 no\r\n"]) as server:
        outcomes = send_through(server, crowd(3))
    assert states(outcomes) == ["refused", "accepted", "accepted"]
    commands = [write for write in writes if not write.startswith(b"Date: ")]
    assert [write[:4] for write in commands] == (
        [b"EHLO", b"MAIL", b"RCPT", b"RSET", b"MAIL", b"RCPT", b"DATA", b"MAIL", b"RCPT", b"DATA", b"QUIT"]
    )
    assert all(write.count(b"\r\n") == 1 for write in commands)


def test_without_pipelining_a_refused_mail_or_data_is_followed_by_rset() -> None:
    with SmtpServer(offers=(), MAIL=[b"451 4.3.0 not now\r\n"], DATA=[b"451 4.3.0 not now\r\n"]) as server:
        outcomes = send_through(server, crowd(3))
    assert states(outcomes) == ["deferred", "deferred", "accepted"]
    said = [line[:4] for line in server.lines[0]]
    assert said == ["EHLO", "MAIL", "RSET", "MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA", ".", "QUIT"]


def test_a_server_of_old_is_greeted_with_helo() -> None:
    with SmtpServer(EHLO=b"502 5.5.1 what?\r\n") as server:
        assert states(send_through(server, crowd(2))) == ["accepted"] * 2
    assert [line[:4] for line in server.lines[0][:4]] == ["EHLO", "HELO", "MAIL", "RCPT"]


def test_to_a_slow_server_no_envelope_is_sent_ahead(writes: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "QUICK", 0.0)
    with SmtpServer() as server:
        send_through(server, crowd(3))
    ahead = [write for write in writes if write.startswith(b"Date: ") and write.endswith(b"DATA\r\n")]
    assert len(ahead) == 1  # the first: nothing was known then


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_refused_recipient_is_an_outcome_and_the_next_envelope_begins_with_rset() -> None:
    said = b"550-5.1.1 <r1@example.net>: Recipient\r\n550 5.1.1 address rejected: User unknown\r\n"
    with SmtpServer(RCPT=[None, said]) as server:
        outcomes = send_through(server, crowd(4))
    assert states(outcomes) == ["accepted", "refused", "accepted", "accepted"]
    assert outcomes[1].detail == "550 5.1.1 <address>: Recipient address rejected: User unknown"
    assert [line[:4] for line in server.lines[0]] == [
        *["EHLO", "MAIL", "RCPT", "DATA", ".", "MAIL", "RCPT", "DATA"],
        *["RSET", "MAIL", "RCPT", "DATA", ".", "MAIL", "RCPT", "DATA", ".", "QUIT"],
    ]
    assert takers(server) == ["r0@example.net", "r2@example.net", "r3@example.net"]


def test_a_354_after_a_refused_recipient_is_ended_by_a_lone_dot() -> None:
    with SmtpServer(RCPT=[b"550 5.1.1 unknown\r\n"], DATA=[b"354 go\r\n"], DOT=[b"554 nobody\r\n"]) as server:
        notes = Notes()
        with way_out(server) as provider:
            outcomes = send(provider, crowd(2), notes)
    assert states(outcomes) == ["refused", "accepted"]
    assert server.sessions[0].body_octets == len(server.taken[0].message) + len(".\r\n") * 2
    assert notes.of("r0") == []


def test_a_refused_mail_never_sends_its_body() -> None:
    with SmtpServer(MAIL=[b"451 4.7.1 later\r\n"], RCPT=[b"503 no MAIL\r\n"], DATA=[b"354 go\r\n"]) as server:
        outcomes = send_through(server, crowd(2))
    assert states(outcomes) == ["deferred", "accepted"]
    assert outcomes[0].detail == "451 4.7.1 later"
    assert takers(server) == ["r1@example.net"]


def test_a_354_after_a_refused_mail_whose_recipient_was_taken_ends_the_connection() -> None:
    with SmtpServer(MAIL=[b"451 later\r\n"]) as server:
        outcomes = send_through(server, crowd(2))
    assert states(outcomes) == ["deferred", "accepted"]
    assert takers(server) == ["r1@example.net"]
    assert server.lines[0][-1] == "DATA"
    assert server.sessions[0].body_octets == 0


@pytest.mark.parametrize(
    ("point", "reply", "state"),
    [
        ("MAIL", b"452 4.3.1 disk full\r\n", "deferred"),
        ("RCPT", b"450 4.2.0 greylisted\r\n", "deferred"),
        ("RCPT", b"451 4.7.1 greylisted\r\n", "deferred"),
        ("RCPT", b"552 5.2.2 mailbox full\r\n", "refused"),
        ("RCPT", b"550 no such user\r\n", "refused"),
        ("RCPT", b"553 5.1.3 bad address\r\n", "refused"),
        ("RCPT", b"550 5.7.1 does not want your mail\r\n", "refused"),
        ("DATA", b"451 4.3.0 later\r\n", "deferred"),
        ("DATA", b"554 5.6.0 no\r\n", "refused"),
        ("DOT", b"451 4.3.0 later\r\n", "deferred"),
        ("DOT", b"554 5.6.0 I do not like it\r\n", "refused"),
        ("DOT", b"550 5.7.1 looks like spam\r\n", "refused"),
    ],
)
def test_a_refusal_concerns_one_recipient(point: str, reply: bytes, state: str) -> None:
    notes = Notes()
    with SmtpServer(**at(point, [None, reply])) as server, way_out(server) as provider:
        outcomes = send(provider, crowd(3), notes)
    assert outcomes[1] == Outcome(key="r1", state=cast("Any", state), detail=reply.decode().strip())
    assert states(outcomes) == ["accepted", state, "accepted"]
    assert takers(server) == ["r0@example.net", "r2@example.net"]
    assert notes.of("r1") == (["leaving", state] if point == "DOT" else [])


@pytest.mark.parametrize(
    ("point", "reply"),
    [
        ("MAIL", b"550 5.1.8 sender unknown\r\n"),
        ("MAIL", b"530 5.7.0 authentication required\r\n"),
        ("MAIL", b"552 5.3.4 message too big\r\n"),
        ("RCPT", b"530 5.7.0 authentication required\r\n"),
        ("RCPT", b"503 5.5.1 authenticate first\r\n"),
        ("RCPT", b"554 5.7.1 <r1@example.net>: Relay access denied\r\n"),
        ("DOT", b"550 5.7.26 unauthenticated mail from example.org\r\n"),
        ("DOT", b"550 5.7.515 access denied, sending domain does not meet the required authentication level\r\n"),
        ("DOT", b"552 5.3.4 message too big\r\n"),
        ("DOT", b"552 Message size exceeds fixed limit\r\n"),
    ],
)
def test_a_refusal_of_the_sender_rejects_the_mailing_and_keeps_what_is_known(point: str, reply: bytes) -> None:
    notes = Notes()
    with SmtpServer(**at(point, [None, reply])) as server, way_out(server) as provider:
        error = failure(ProviderRejected, provider, crowd(9), notes)
    outcomes = cast("Sequence[Outcome]", error.outcomes)
    assert outcomes[0].state == "accepted"
    assert "mend it there" in str(error)
    assert "@" not in str(error)
    assert takers(server) == ["r0@example.net"]
    if point == "DOT":  # announced, so the evidence must say that it was not taken
        assert notes.of("r1") == ["leaving", "deferred"]
        assert (len(outcomes), outcomes[1].state) == (2, "deferred")
    else:
        assert len(outcomes) == 1


def test_rejected_waits_for_what_is_on_its_way() -> None:
    def dot(session: Session, _: str) -> Reaction:
        if session.number:
            return b"550 5.7.26 unauthenticated\r\n"
        working = provider._engine
        until(lambda: working and not any(job.waiting for job in working._jobs.bulk))
        return None

    with SmtpServer(DOT=dot) as server, way_out(server, connections=2) as provider:
        error = failure(ProviderRejected, provider, crowd(9))
    outcomes = cast("Sequence[Outcome]", error.outcomes)
    assert sorted(states(outcomes)) == ["accepted", "deferred"]
    assert len(server.taken) == 1


def test_details_are_one_printable_line_without_addresses() -> None:
    reply = b'550 5.1.1 No \xff\x07 r0@example.net;"a b"@example.net  see http://x/?who=r0%40example.net ' + b"x" * 600
    with SmtpServer(RCPT=[reply + b"\r\n"]) as server:
        (outcome,) = send_through(server, crowd(1))
    assert outcome.detail.startswith("550 5.1.1 No \ufffd <address>;<address> see http:<address> xxx")
    assert len(outcome.detail) == 300
    assert outcome.detail.isprintable()


# --- the flight recorder ----------------------------------------------------------------------------------------------


def test_the_recorder_is_told_before_the_first_octet_and_after_the_answer() -> None:
    with SmtpServer() as server:
        counts: list[tuple[int, int]] = []

        def check(key: str) -> None:
            counts.append((len(server.taken), sum(session.body_octets for session in server.sessions)))

        notes = Notes(check=check)
        with way_out(server) as provider:
            send(provider, crowd(3), notes)
        sizes = [len(taken.message) + 3 for taken in server.taken]
    assert counts == [(0, 0), (1, sizes[0]), (2, sum(sizes[:2]))]
    expected = [(what, f"r{number}") for number in range(3) for what in ("leaving", "accepted")]
    assert notes.told == expected


def test_when_send_returns_the_recorder_file_holds_every_answer(tmp_path: Path) -> None:
    lease = Lease(batch=1, epoch=1, until=time.time() + 600)
    recorder = Recorder(tmp_path, lease, store="store", owner="me")
    with SmtpServer(RCPT=[b"550 no\r\n"]) as server, way_out(server, connections=3) as provider:
        outcomes = provider.send(BULK, crowd(40), recorder)
        text = recorder.path.read_text()
    recorder.close()
    assert text.count("\n>") == 39
    evidence = read_evidence(recorder.path)
    assert evidence is not None
    assert {outcome.key: outcome for outcome in outcomes if outcome.state == "accepted"} == evidence.answers


def test_a_worker_that_stops_sends_nothing_more_and_leaves_no_doubt() -> None:
    notes = Notes(most=2)
    with SmtpServer() as server, way_out(server) as provider:
        outcomes = send(provider, crowd(9), notes)
        assert states(outcomes) == ["accepted"] * 2 + ["deferred"] * 7
        assert {outcome.detail for outcome in outcomes[2:]} == {"not sent: the worker is stopping"}
        assert states(send(provider, crowd(1, "other"))) == ["accepted"]
    assert takers(server) == ["r0@example.net", "r1@example.net", "other0@example.net"]
    assert server.lines[0][-1] == "DATA"  # after which only the end of the connection keeps a message back


def test_a_job_that_stops_does_not_stop_the_others() -> None:
    with SmtpServer() as server, way_out(server, connections=2) as provider:
        stopped = in_thread(lambda: send(provider, crowd(50, "s"), Notes(most=5)))
        other = in_thread(lambda: send(provider, crowd(50, "o")))
        assert states(stopped()).count("accepted") == 5
        assert states(other()) == ["accepted"] * 50


def test_a_recorder_that_cannot_be_written_keeps_the_message_back() -> None:
    def full(key: str) -> None:
        if key == "r2":
            raise OSError(28, "No space left on device")

    with SmtpServer() as server, way_out(server) as provider:
        error = failure(ProviderDown, provider, crowd(5), Notes(check=full))
        assert re.search("flight recorder cannot be written .No space left on device", str(error))
        assert states(send(provider, crowd(1))) == ["accepted"]
    assert states(cast("Sequence[Outcome]", error.outcomes)) == ["accepted"] * 2
    assert len(server.taken) == 3


# --- broken connections -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [DROP, RESET])
def test_a_connection_lost_after_the_final_dot_puts_its_message_in_doubt_and_no_other(end: Reaction) -> None:
    notes = Notes()
    with SmtpServer(DOT=[None, end]) as server, way_out(server) as provider:
        outcomes = send(provider, crowd(4), notes)
    assert states(outcomes) == ["accepted", "in_doubt", "accepted", "accepted"]
    assert outcomes[1].detail.startswith("handed over, and then: ")
    assert notes.of("r1") == ["leaving", "in_doubt"]
    assert sorted(takers(server)) == ["r0@example.net", "r2@example.net", "r3@example.net"]


@pytest.mark.parametrize("end", [DROP, RESET])
@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA"])
def test_a_connection_lost_before_the_body_is_made_good_on_another(point: str, end: Reaction) -> None:
    notes = Notes()
    with SmtpServer(**at(point, [None, end])) as server, way_out(server) as provider:
        outcomes = send(provider, crowd(4), notes)
    # What was before it on the connection may have been cut off, answer and all.
    assert states(outcomes)[1:] == ["accepted"] * 3
    assert outcomes[0].state in ("accepted", "in_doubt")
    assert notes.of("r1") == ["leaving", "accepted"]
    assert sorted(takers(server)) == [f"r{number}@example.net" for number in range(4)]


def test_a_connection_lost_in_the_middle_of_a_body_defers_it_since_half_a_message_is_none() -> None:
    notes = Notes()
    body = [None, None, RESET]
    with SmtpServer(receive_buffer=8192, BODY=body) as server, way_out(server) as provider:
        outcomes = send(provider, crowd(2), notes, edition=LARGE)
    assert states(outcomes) == ["deferred", "accepted"]
    assert outcomes[0].detail.startswith("broken off before its end: ")
    assert notes.of("r0") == ["leaving", "deferred"]
    assert takers(server) == ["r1@example.net"]


def test_a_large_message_leaves_whole_through_small_windows() -> None:
    with SmtpServer(receive_buffer=8192) as server, way_out(server) as provider:
        assert states(send(provider, crowd(2), edition=LARGE)) == ["accepted"] * 2
    assert all(len(taken.message) > 4_000_000 for taken in server.taken)
    text = message_from_bytes(server.taken[1].message, policy=default).get_body(("html",))
    assert text is not None
    assert text.get_content().count("pesado") == 300_000


@pytest.mark.parametrize(
    ("reply", "state"), [(b"552 5.2.2 too much\r\n", "refused"), (b"451 4.3.0 disk full\r\n", "deferred")]
)
def test_an_answer_before_the_end_of_a_message_counts(reply: bytes, state: str) -> None:
    def body(session: Session, _: str) -> Reaction:
        if session.number:
            return None
        session.out += reply
        session.flush()
        return HANG

    with SmtpServer(receive_buffer=8192, BODY=body) as server, way_out(server) as provider:
        outcomes = send(provider, crowd(2), edition=LARGE)
    assert outcomes[0] == Outcome(key="r0", state=cast("Any", state), detail=reply.decode().strip())
    assert outcomes[1].state == "accepted"


def test_the_last_words_of_a_server_that_closes_in_the_middle_of_a_message_count() -> None:
    def body(session: Session, _: str) -> Reaction:
        if session.number:
            return None
        session.out += b"552 5.2.2 too much\r\n"
        session.flush()
        session.sock.shutdown(socket.SHUT_WR)
        return HANG

    with SmtpServer(receive_buffer=8192, BODY=body) as server, way_out(server) as provider:
        outcomes = send(provider, crowd(2), edition=LARGE)
    assert states(outcomes) == ["refused", "accepted"]


def test_a_message_taken_before_its_end_is_a_broken_server_and_deferred() -> None:
    def body(session: Session, _: str) -> Reaction:
        if session.number:
            return None
        session.out += b"250 ok\r\n"
        session.flush()
        return HANG

    with SmtpServer(receive_buffer=8192, BODY=body) as server, way_out(server) as provider:
        outcomes = send(provider, crowd(2), edition=LARGE)
    assert states(outcomes) == ["deferred", "accepted"]
    assert "out of step" in outcomes[0].detail


def test_a_server_that_closes_with_421_after_a_message_did_not_take_it() -> None:
    with SmtpServer(DOT=[b"421 4.3.2 shutting down\r\n"]) as server:
        outcomes = send_through(server, crowd(3))
    assert states(outcomes) == ["deferred", "accepted", "accepted"]
    assert outcomes[0].detail == "421 4.3.2 shutting down"
    assert sorted(takers(server)) == ["r1@example.net", "r2@example.net"]


def test_a_server_that_closes_with_421_between_messages_costs_nobody_anything() -> None:
    with SmtpServer(MAIL=[None, None, b"421 4.7.0 enough for one connection\r\n"]) as server:
        assert states(send_through(server, crowd(6))) == ["accepted"] * 6
    assert len(server.sessions) == 2
    assert sorted(takers(server)) == [f"r{number}@example.net" for number in range(6)]


def test_a_recipient_on_whom_every_connection_breaks_is_deferred_and_holds_up_nobody() -> None:
    def rcpt(session: Session, line: str) -> Reaction:
        return DROP if "poison" in line else None

    with SmtpServer(RCPT=rcpt) as server:
        outcomes = send_through(server, [reader("ana"), reader("poison"), reader("bea"), reader("cid")])
    assert states(outcomes) == ["accepted", "deferred", "accepted", "accepted"]
    assert outcomes[1].detail == "the server closed the connection"
    assert len(server.sessions) == TRIES + 1


def test_a_poisonous_recipient_at_the_very_beginning_is_deferred_while_the_others_wait() -> None:
    def rcpt(session: Session, line: str) -> Reaction:
        return DROP if "poison" in line else None

    with SmtpServer(RCPT=rcpt) as server, way_out(server) as provider:
        error = failure(ProviderDown, provider, [reader("poison"), reader("ana")])
        (outcome,) = cast("Sequence[Outcome]", error.outcomes)
        assert (outcome.key, outcome.state) == ("poison", "deferred")
        assert states(send(provider, [reader("ana")])) == ["accepted"]


def test_a_server_that_was_restarted_is_found_again() -> None:
    server = SmtpServer()
    port = server.port
    with way_out(port) as provider:
        assert states(send(provider, crowd(2))) == ["accepted"] * 2
        server.close()
        again = SmtpServer(port=port)
        assert states(send(provider, crowd(2))) == ["accepted"] * 2
        assert len(again.taken) == 2
        again.close()


# --- time -------------------------------------------------------------------------------------------------------------


def test_no_answer_to_a_message_in_time_puts_that_one_in_doubt_and_no_other() -> None:
    notes = Notes()
    with SmtpServer(DOT=[None, HANG]) as server, way_out(server, timeout=1) as provider:
        outcomes = send(provider, crowd(5), notes)
    assert states(outcomes) == ["accepted", "in_doubt", "accepted", "accepted", "accepted"]
    assert outcomes[1].detail == "handed over, and then: no answer within 1 s"
    assert notes.of("r1") == ["leaving", "in_doubt"]
    assert len(server.taken) == 4


@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA"])
def test_no_answer_to_an_envelope_in_time_defers_its_recipient(point: str) -> None:
    with SmtpServer(**at(point, [HANG])) as server:
        outcomes = send_through(server, crowd(3), timeout=1)
    assert states(outcomes) == ["deferred", "accepted", "accepted"]
    assert outcomes[0].detail == "no answer within 1 s"


def test_a_server_that_stops_reading_in_the_middle_of_a_message_defers_it() -> None:
    with SmtpServer(receive_buffer=8192, BODY=[None, HANG]) as server, way_out(server, timeout=1) as provider:
        outcomes = send(provider, crowd(2), edition=LARGE)
    assert states(outcomes) == ["deferred", "accepted"]


def test_a_connection_that_hangs_holds_up_its_own_message_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "STALL", 0.1)

    def dot(session: Session, _: str) -> Reaction:
        if session.number == 1:
            return HANG
        until(lambda: len(server.sessions) > 1 and "." in server.sessions[1].lines)
        return None

    with SmtpServer(DOT=dot) as server, way_out(server, connections=2, timeout=60) as provider:
        first = in_thread(lambda: send(provider, crowd(40, "a")))
        until(lambda: len(server.taken) > 20)
        for name in "bcd":
            assert states(send(provider, crowd(40, name))) == ["accepted"] * 40
        until(lambda: len(server.taken) == 4 * 40 - 1)
        assert server.sessions[1].lines[-1] == "."
        server.close()
        assert sorted(states(first())) == ["accepted"] * 39 + ["in_doubt"]


def test_an_envelope_behind_a_hanging_message_goes_elsewhere_and_not_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "STALL", 0.1)
    rest_is_done = threading.Event()

    def dot(session: Session, _: str) -> Reaction:
        if session.number == 0 and session.lines.count(".") == 1:
            rest_is_done.wait(20)
        return None

    with SmtpServer(DOT=dot) as server, way_out(server, connections=2) as provider:
        result = in_thread(lambda: send(provider, crowd(10)))
        until(lambda: len(server.taken) == 9)
        rest_is_done.set()
        assert states(result()) == ["accepted"] * 10
    assert sorted(takers(server)) == sorted(f"r{number}@example.net" for number in range(10))


def test_one_off_mail_goes_before_a_mailing_that_waits() -> None:
    both_are_there = threading.Event()

    def dot(session: Session, _: str) -> Reaction:
        both_are_there.wait(20)
        return None

    with SmtpServer(DOT=dot) as server, way_out(server) as provider:
        mailing = in_thread(lambda: send(provider, crowd(30)))
        until(lambda: server.sessions and "." in server.sessions[0].lines)
        confirmation = in_thread(lambda: send(provider, [reader("new")], edition=URGENT))
        until(lambda: provider._engine and provider._engine._jobs.urgent)
        both_are_there.set()
        assert states(confirmation()) == ["accepted"]
        assert states(mailing()) == ["accepted"] * 30
    # One was on its way, the envelope of the second stood behind it.
    assert takers(server)[:4] == ["r0@example.net", "r1@example.net", "new@example.net", "r2@example.net"]


# --- connections ------------------------------------------------------------------------------------------------------


def test_connections_stay_open_between_sends_and_end_with_quit() -> None:
    with SmtpServer() as server, way_out(server, connections=3) as provider:
        for _ in range(3):
            send(provider, crowd(1))
        assert len(server.sessions) == 1
        send(provider, crowd(100))
        assert len(server.sessions) == 3
    assert all(lines[-1] == "QUIT" for lines in server.lines)


def test_an_idle_connection_says_quit_and_the_next_send_opens_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "IDLE", 0.05)
    with SmtpServer() as server, way_out(server) as provider:
        send(provider, crowd(1))
        until(lambda: server.sessions[0].lines[-1] == "QUIT")
        until(lambda: provider._engine and not provider._engine._connections)
        assert states(send(provider, crowd(1))) == ["accepted"]
        assert len(server.sessions) == 2


@pytest.mark.parametrize("words", [b"", b"421 4.4.2 timeout\r\n"])
def test_an_idle_connection_that_the_server_closes_is_replaced(words: bytes) -> None:
    with SmtpServer() as server, way_out(server) as provider:
        send(provider, crowd(1))
        sock = server.sessions[0].sock
        sock.sendall(words)
        if not words:
            sock.shutdown(socket.SHUT_RDWR)
        until(lambda: provider._engine and not provider._engine._connections)
        assert states(send(provider, crowd(1))) == ["accepted"]


def test_after_close_a_send_opens_connections_again() -> None:
    with SmtpServer() as server, way_out(server) as provider:
        send(provider, crowd(1))
        provider.close()
        provider.close()
        assert states(send(provider, crowd(1))) == ["accepted"]


def test_close_waits_for_the_answer_that_is_due_and_defers_the_rest() -> None:
    closing = threading.Event()

    def dot(session: Session, _: str) -> Reaction:
        closing.wait(20)
        return None

    with SmtpServer(DOT=dot) as server, way_out(server) as provider:
        result = in_thread(lambda: send(provider, crowd(9)))
        until(lambda: server.sessions and "." in server.sessions[0].lines)
        working = provider._engine
        assert working is not None
        closed = in_thread(provider.close)
        until(lambda: working._stopping)
        closing.set()
        outcomes = result()
        closed()
    assert states(outcomes) == ["accepted"] + ["deferred"] * 8


def test_a_server_that_refuses_more_connections_is_served_with_those_it_takes() -> None:
    def connect(session: Session, _: str) -> Reaction:
        return b"421 4.7.0 too many connections\r\n" if session.number % 3 else None

    with SmtpServer(CONNECT=connect) as server:
        assert states(send_through(server, crowd(300), connections=6)) == ["accepted"] * 300
    assert len(server.taken) == 300


def test_the_first_connection_is_opened_alone() -> None:
    greet = threading.Event()

    def connect(session: Session, _: str) -> Reaction:
        greet.wait(20)
        return b"554 5.3.2 no\r\n"

    with SmtpServer(CONNECT=connect) as server, way_out(server, connections=9) as provider:
        result = in_thread(lambda: failure(ProviderDown, provider, crowd(100)))
        until(lambda: server.sessions)
        greet.set()
        result()
        assert len(server.sessions) == 1


def test_many_threads_send_at_once() -> None:
    with SmtpServer() as server, way_out(server, connections=5) as provider:
        results = [in_thread(lambda name=name: send(provider, crowd(60, name))) for name in "abcdefgh"]  # type: ignore[misc]
        for result, name in zip(results, "abcdefgh", strict=True):
            outcomes = result()
            assert [outcome.key for outcome in outcomes] == [f"{name}{number}" for number in range(60)]
            assert set(states(outcomes)) == {"accepted"}
    assert len(set(takers(server))) == len(server.taken) == 480


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_the_child_speaks_on_connections_of_its_own() -> None:
    with SmtpServer() as server, way_out(server) as provider:
        send(provider, [reader("before")])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: that there are threads
            child = os.fork()
        if child == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcomes = send(provider, [reader("child")])
                provider.close()
                os._exit(0 if states(outcomes) == ["accepted"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert states(send(provider, [reader("after")])) == ["accepted"]
    assert [(taken.session, taken.recipient) for taken in server.taken] == [
        (0, "before@example.net"),
        (1, "child@example.net"),
        (0, "after@example.net"),
    ]


# --- nobody there -----------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_down_with_the_next_step() -> None:
    with SmtpServer() as server:
        port = server.port
    with way_out(port) as provider:
        error = failure(ProviderDown, provider, crowd(3))
        assert re.search(f"smtp 127.0.0.1:{port}: Connection refused; check smtp.host", str(error))
        assert error.outcomes == ()


def test_down_concerns_every_job_that_waits() -> None:
    with SmtpServer() as server:
        port = server.port
    with way_out(port) as provider:
        results = [in_thread(lambda: failure(ProviderDown, provider, crowd(3))) for _ in range(4)]
        assert all(isinstance(result(), ProviderDown) for result in results)


@pytest.mark.parametrize("reply", [b"554 5.3.2 no service for you@example.net\r\n", b"421 4.3.2 busy\r\n"])
def test_a_server_that_turns_us_away_is_down_with_its_words(reply: bytes) -> None:
    with SmtpServer(CONNECT=reply) as server, way_out(server) as provider:
        error = failure(ProviderDown, provider, crowd(3))
        assert re.search("turns connections away: " + reply[:9].decode(), str(error))
        assert "example" not in str(error)


@pytest.mark.parametrize("end", [DROP, RESET, b"SSH-2.0-OpenSSH_9\r\n", b"999 hm\r\n", b"220\xff\xfe\r\n"])
def test_what_does_not_speak_smtp_is_down(end: Reaction) -> None:
    with SmtpServer(CONNECT=end) as server, way_out(server) as provider:
        error = failure(ProviderDown, provider, crowd(3))
        assert re.search("check smtp.host, smtp.port and smtp.security", str(error))


def test_a_server_that_says_nothing_is_down_in_time() -> None:
    with SmtpServer(CONNECT=HANG) as server, way_out(server, timeout=1) as provider:
        error = failure(ProviderDown, provider, crowd(3))
        assert re.search("no answer within 1 s", str(error))


def test_a_name_that_cannot_be_looked_up_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with way_out(25, host="mail.example.org") as provider:
        error = failure(ProviderDown, provider, crowd(1))
        assert re.search("name mail.example.org cannot be looked up .Name or service not known", str(error))


def test_a_name_server_that_hangs_is_down_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def hangs(*_: object, **__: object) -> list[Any]:
        answer.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    with way_out(25, host="mail.example.org", timeout=1) as provider:
        error = failure(ProviderDown, provider, crowd(1))
        assert re.search("could not be looked up in time", str(error))
        answer.set()


def test_the_next_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpServer() as server, SmtpServer() as gone:
        gone.close()
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        both = [(*kind, ("127.0.0.1", gone.port)), (*kind, ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(both))
        assert states(send_through(server, crowd(2), host="mail.example.org")) == ["accepted"] * 2


# --- replies ----------------------------------------------------------------------------------------------------------


def test_replies_that_come_octet_by_octet_are_read() -> None:
    with SmtpServer(byte_by_byte=True, RCPT=[None, b"550-5.1.1 no\r\n550 5.1.1 never\r\n"]) as server:
        outcomes = send_through(server, crowd(3))
    assert states(outcomes) == ["accepted", "refused", "accepted"]
    assert outcomes[1].detail == "550 5.1.1 no never"


@pytest.mark.parametrize(
    "reply",
    [b"250 2.0.0 Ok\n", b"250-2.0.0 Ok\r\n250-and\r\n250 more\r\n", b"250\r\n", b"250 \xff\xfe\r\n", b"250 ok\r\r\n"],
)
def test_replies_of_odd_servers_are_read(reply: bytes) -> None:
    with SmtpServer(MAIL=reply, DOT=lambda session, _: None) as server:
        assert states(send_through(server, crowd(3))) == ["accepted"] * 3


@pytest.mark.parametrize("reply", [b"25\r\n", b"hello\r\n", b"600 what\r\n", b"250-a\r\n350 b\r\n", b"x" * 70_000])
def test_what_is_no_reply_breaks_the_connection_and_puts_the_message_in_doubt(reply: bytes) -> None:
    with SmtpServer(DOT=[reply]) as server:
        outcomes = send_through(server, crowd(3))
    assert states(outcomes) == ["in_doubt", "accepted", "accepted"]


def test_a_reply_that_nobody_asked_for_is_never_taken_for_an_answer() -> None:
    with SmtpServer(DATA=[b"354 go ahead\r\n250 2.0.0 Ok: queued as FALSE\r\n"]) as server:
        outcomes = send_through(server, crowd(3))
    assert states(outcomes) == ["accepted"] * 3
    assert "FALSE" not in [outcome.provider_ref for outcome in outcomes]
    assert sorted(takers(server)) == [f"r{number}@example.net" for number in range(3)]
    assert len(server.sessions) == 2


# --- addresses outside ASCII, size ------------------------------------------------------------------------------------


def test_an_address_outside_ascii_travels_with_smtputf8() -> None:
    with SmtpServer() as server:
        outcomes = send_through(server, [reader("ana"), reader("u", address="jörg@exämple.net")])
    assert states(outcomes) == ["accepted"] * 2
    plain, utf8 = server.taken
    assert plain.parameters == ""
    assert (utf8.recipient, utf8.parameters) == ("jörg@xn--exmple-cua.net", "BODY=8BITMIME SMTPUTF8")
    assert "To: u <jörg@xn--exmple-cua.net>\r\n".encode() in utf8.message


def test_without_smtputf8_such_a_recipient_is_refused_before_mail() -> None:
    with SmtpServer(offers=("PIPELINING",)) as server:
        outcomes = send_through(server, [reader("u", address="jörg@example.net"), reader("i", address="i@exämple.net")])
    assert states(outcomes) == ["refused", "accepted"]
    assert "SMTPUTF8" in outcomes[0].detail
    assert takers(server) == ["i@xn--exmple-cua.net"]


def test_without_smtputf8_such_a_sender_is_rejected() -> None:
    edition = replace(BULK, sender=Mailbox(address="jörg@example.org"))
    with SmtpServer(offers=("PIPELINING",)) as server, way_out(server) as provider:
        error = failure(ProviderRejected, provider, crowd(2), edition=edition)
        assert re.search(r"SMTPUTF8.*write sender.address", str(error))
    assert not any(line.startswith("MAIL") for line in server.lines[0])


def test_a_message_larger_than_the_server_takes_is_rejected_before_mail() -> None:
    with SmtpServer(offers=("PIPELINING", "SIZE 500")) as server, way_out(server) as provider:
        error = failure(ProviderRejected, provider, crowd(2))
        assert re.search(r"the message has \d{3} bytes and the server takes 500", str(error))
    assert server.lines[0] == [server.lines[0][0], "QUIT"]


def test_a_size_of_zero_is_no_limit() -> None:
    with SmtpServer(offers=("SIZE 0",)) as server:
        assert states(send_through(server, crowd(1))) == ["accepted"]


# --- logging in -------------------------------------------------------------------------------------------------------

USERS = {"news": "correct hörse"}
LOGIN: dict[str, Any] = {"username": "news", "password": "correct hörse"}


@pytest.mark.parametrize("ways", ["PLAIN", "LOGIN", "CRAM-MD5 LOGIN PLAIN"])
def test_it_logs_in(ways: str) -> None:
    with SmtpServer(users=USERS, ways=ways, auth_in_clear=True) as server:
        assert states(send_through(server, crowd(2), **LOGIN)) == ["accepted"] * 2
        assert server.sessions[0].user == "news"


def test_a_long_password_is_not_sent_in_the_line_of_the_command() -> None:
    users = {"news": "x" * 600}
    with SmtpServer(users=users, ways="PLAIN", auth_in_clear=True) as server:
        assert states(send_through(server, crowd(1), username="news", password="x" * 600)) == ["accepted"]
        assert "AUTH PLAIN" in server.lines[0]


def test_a_wrong_password_is_rejected_with_the_next_step_and_never_shown() -> None:
    with (
        SmtpServer(users=USERS, auth_in_clear=True) as server,
        way_out(server, username="news", password="0xBEEF") as out,
    ):
        error = failure(ProviderRejected, out, crowd(2))
        assert re.search(r"log-in was refused: 535 5.7.8 .*NEWSLETTER_SMTP_PASSWORD", str(error))
    assert not any(line.startswith("MAIL") for line in server.lines[0])


def test_a_server_that_repeats_the_credentials_does_not_make_us_repeat_them() -> None:
    def auth(session: Session, line: str) -> Reaction:
        return f"501 cannot decode {line.rsplit(maxsplit=1)[-1]}\r\n".encode()

    with (
        SmtpServer(users=USERS, ways="PLAIN", auth_in_clear=True, AUTH=auth) as server,
        way_out(server, **LOGIN) as out,
    ):
        error = failure(ProviderRejected, out, crowd(2))
        assert re.search("cannot decode …;", str(error))


def test_a_log_in_that_fails_for_now_is_down() -> None:
    busy = b"454 4.7.0 try later\r\n"
    with SmtpServer(users=USERS, auth_in_clear=True, AUTH=busy) as server, way_out(server, **LOGIN) as out:
        error = failure(ProviderDown, out, crowd(2))
        assert re.search("log-in failed for now: 454 4.7.0 try later", str(error))


def test_no_password_is_sent_to_a_server_that_offers_no_log_in() -> None:
    with SmtpServer() as server, way_out(server, **LOGIN) as out:
        error = failure(ProviderRejected, out, crowd(2))
        assert re.search("offers no log-in here, so the password was not sent", str(error))
    assert [line[:4] for line in server.lines[0]] == ["EHLO", "QUIT"]


def test_only_ways_to_log_in_that_we_do_not_speak_are_named() -> None:
    with SmtpServer(users=USERS, ways="GSSAPI XOAUTH2", auth_in_clear=True) as server, way_out(server, **LOGIN) as out:
        error = failure(ProviderRejected, out, crowd(2))
        assert re.search("only GSSAPI XOAUTH2", str(error))


def test_a_user_without_a_password_is_rejected() -> None:
    with SmtpServer(users=USERS, auth_in_clear=True) as server, way_out(server, username="news") as out:
        error = failure(ProviderRejected, out, crowd(2))
        assert re.search(r"put NEWSLETTER_SMTP_PASSWORD into \.env", str(error))


# --- encryption -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def certificate(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail_travels_encrypted(security: str, certificate: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with (
        SmtpServer(context=certificate, implicit_tls=security == "tls", users=USERS) as server,
        way_out(server, tls=trusting, security=security, connections=3, **LOGIN) as provider,
    ):
        assert states(send(provider, crowd(60))) == ["accepted"] * 60
        assert states(send(provider, crowd(2), edition=LARGE)) == ["accepted"] * 2
        assert {session.user for session in server.sessions} == {"news"}
        assert all(isinstance(session.sock, ssl.SSLSocket) for session in server.sessions)
    assert len(server.taken) == 62


def test_after_starttls_the_server_is_asked_again(certificate: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with SmtpServer(context=certificate) as server, way_out(server, tls=trusting, security="starttls") as provider:
        send(provider, crowd(1))
    assert [line[:4] for line in server.lines[0][:4]] == ["EHLO", "STAR", "EHLO", "MAIL"]


def test_an_encrypted_connection_lost_in_the_middle_of_a_body_defers_it(
    certificate: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    notes = Notes()
    with (
        SmtpServer(context=certificate, receive_buffer=8192, BODY=[None, None, RESET]) as server,
        way_out(server, tls=trusting, security="starttls") as provider,
    ):
        outcomes = send(provider, crowd(2), notes, edition=LARGE)
    assert states(outcomes) == ["deferred", "accepted"]
    assert notes.of("r0") == ["leaving", "deferred"]


def test_a_server_without_starttls_hears_nothing_more() -> None:
    with (
        SmtpServer(users=USERS, auth_in_clear=True) as server,
        way_out(server, security="starttls", **LOGIN) as provider,
    ):
        error = failure(ProviderRejected, provider, crowd(1))
        assert "offers no STARTTLS, so nothing was sent; set smtp.security to tls" in str(error)
    assert [line[:4] for line in server.lines[0]] == ["EHLO", "QUIT"]


def test_words_smuggled_in_before_the_encryption_end_the_connection(
    certificate: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    def smuggle(session: Session, _: str) -> Reaction:
        session.sock.sendall(b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n")
        return DROP

    with (
        SmtpServer(context=certificate, STARTTLS=smuggle) as server,
        way_out(server, tls=trusting, security="starttls", **LOGIN) as provider,
    ):
        error = failure(ProviderDown, provider, crowd(1))
        assert re.search("went on in clear after STARTTLS", str(error))


def test_starttls_that_is_refused_is_down(certificate: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with (
        SmtpServer(context=certificate, STARTTLS=b"454 4.7.0 no certificate\r\n") as server,
        way_out(server, tls=trusting, security="starttls") as provider,
    ):
        error = failure(ProviderDown, provider, crowd(1))
        assert re.search("refuses it: 454 4.7.0 no certificate", str(error))
    assert not any(line.startswith("MAIL") for line in server.lines[0])


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_nobody_vouches_for_is_down(security: str, certificate: ssl.SSLContext) -> None:
    with (
        SmtpServer(context=certificate, implicit_tls=security == "tls") as server,
        way_out(server, security=security) as provider,
    ):
        error = failure(ProviderDown, provider, crowd(1))
        assert re.search("its certificate is not accepted: .*check smtp.host", str(error))
    assert server.taken == []


def test_a_certificate_of_another_name_is_down(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example.org").configure_cert(context)
    with SmtpServer(context=context) as server, way_out(server, tls=trusting, security="starttls") as provider:
        error = failure(ProviderDown, provider, crowd(1))
        assert re.search("its certificate is not accepted: IP address mismatch", str(error))


def test_tls_to_a_port_that_speaks_in_clear_is_down() -> None:
    with SmtpServer() as server, way_out(server, security="tls") as provider:
        error = failure(ProviderDown, provider, crowd(1))
        assert re.search("the encryption failed .*check smtp.host, smtp.port and smtp.security", str(error))


def test_a_server_that_hangs_in_the_handshake_is_down_in_time(trusting: ssl.SSLContext) -> None:
    def nothing(session: Session, _: str) -> Reaction:
        session.sock.sendall(b"220 go\r\n")
        return HANG

    offers = ("PIPELINING", "STARTTLS")
    with (
        SmtpServer(offers=offers, STARTTLS=nothing) as server,
        way_out(server, tls=trusting, security="starttls", timeout=1) as provider,
    ):
        error = failure(ProviderDown, provider, crowd(1))
        assert re.search("no answer within 1 s", str(error))


# --- everything at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_whatever_goes_wrong_every_outcome_is_true(seed: int) -> None:
    """Accepted: the server has it once. Refused and deferred: it never has. In doubt: once at most."""
    chance = random.Random(seed)
    faults: dict[str, list[Reaction]] = {
        "CONNECT": [b"421 4.3.2 busy\r\n", DROP],
        "MAIL": [b"451 4.3.0 later\r\n", b"421 4.3.2 enough\r\n", DROP, RESET],
        "RCPT": [b"550 5.1.1 unknown\r\n", b"450 4.2.0 later\r\n", b"421 4.3.2 enough\r\n", DROP, RESET],
        "DATA": [b"451 4.3.0 later\r\n", b"354 go\r\n", DROP, RESET],
        "DOT": [b"451 4.3.0 later\r\n", b"554 5.6.0 no\r\n", b"421 4.3.2 enough\r\n", DROP, RESET],
        "BODY": [RESET],
    }
    lock = threading.Lock()

    def script(point: str) -> Callable[[Session, str], Reaction]:
        def react(session: Session, _: str) -> Reaction:
            with lock:
                return chance.choice(faults[point]) if chance.random() < 0.03 else None

        return react

    notes = [Notes() for _ in range(4)]
    outcomes: dict[str, Outcome] = {}
    with (
        SmtpServer(**cast("Any", {point: script(point) for point in faults})) as server,
        way_out(server, connections=4, timeout=10) as provider,
    ):

        def lane(number: int) -> None:
            waiting = crowd(150, f"{'abcd'[number]}")
            while waiting:
                try:
                    found = send(provider, waiting, notes[number])
                except ProviderDown as error:
                    found = list(cast("tuple[Outcome, ...]", error.outcomes))
                with lock:
                    outcomes.update({outcome.key: outcome for outcome in found})
                waiting = [each for each in waiting if each.key not in outcomes]

        for wait in [in_thread(lambda number=number: lane(number)) for number in range(4)]:  # type: ignore[misc]
            wait()
    had = [recipient.partition("@")[0] for recipient in takers(server)]
    assert len(outcomes) == 600
    assert len({outcome.state for outcome in outcomes.values()}) == 4
    for key, outcome in outcomes.items():
        times = had.count(key)
        assert times in {"accepted": (1,), "in_doubt": (0, 1)}.get(outcome.state, (0,)), (outcome, times)
        told = notes["abcd".index(key[0])].of(key)
        assert told in (["leaving", outcome.state], []), (outcome, told)
        assert told or outcome.state in ("refused", "deferred")


# --- others judge -----------------------------------------------------------------------------------------------------


class Judge:
    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(envelope)
        return "250 2.0.0 Message accepted"


@pytest.mark.parametrize("utf8", [True, False])
def test_aiosmtpd_takes_and_reads_what_we_send(utf8: bool) -> None:
    judge = Judge()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(judge, hostname="127.0.0.1", port=port, enable_SMTPUTF8=utf8)
    controller.start()
    try:
        with way_out(port, connections=2, bounces="bounce.example.org") as provider:
            outcomes = send(provider, [*crowd(30), reader("u", address="jörg@example.net")])
    finally:
        controller.stop()
    assert states(outcomes) == ["accepted"] * 30 + ["accepted" if utf8 else "refused"]
    assert len(judge.mails) == 30 + utf8
    for mail in judge.mails:
        message = message_from_bytes(mail.content, policy=default)
        key = message["X-Newsletter-Delivery"]
        assert mail.mail_from == f"b+{key}@bounce.example.org"
        assert mail.rcpt_tos in ([f"{key}@example.net"], ["jörg@example.net"])
        part = message.get_body(("plain",))
        assert part is not None
        assert part.get_content().splitlines() == [f"Hola {key}", f"https://news.example.org/u/{key}"]


def test_the_date_is_now() -> None:
    with SmtpServer() as server:
        send_through(server, crowd(1))
    date = message_from_bytes(server.taken[0].message, policy=default)["Date"].datetime
    assert abs((datetime.now(UTC) - date).total_seconds()) < 60
