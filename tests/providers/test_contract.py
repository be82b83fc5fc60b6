"""What every way out must do. To add one: write a function like those under "ways" and put it into WAYS."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from newsletter.config import SERVICES, Sendgrid, Smtp
from newsletter.envelope import Envelope, Recipient
from newsletter.errors import InputError, ProviderDown, ProviderRejected
from newsletter.providers import Outcome, Provider, Recorder
from newsletter.providers.memory import Memory
from newsletter.providers.outbox import Outbox
from newsletter.recorder import Evidence, Lease, read_evidence
from newsletter.rendering.edition import Edition, Mailbox
from sendgrid_server import SendgridServer

EDITION = Edition(
    key="2017-11-19",
    language="es",
    direction="ltr",
    kind="bulk",
    subject="Perú esta semana",
    sender=Mailbox(name="Valley News", address="news@example.org"),
    list_id=("Valley News", "weekly.news.example.org"),
    html='<p>Hola @@NAME@@</p><a href="@@UNSUBSCRIBE_URL@@">fuera</a>\n.\n',
    text="Hola @@NAME@@\n.\nFrom here: @@UNSUBSCRIBE_URL@@\n",
)


# --- ways -------------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Way:
    """A provider under test, and what stands at its other end."""

    provider: Provider
    delivered: Callable[[], list[bytes]]  # every message that arrived, as it arrived, in any order
    unreachable: Callable[[], None]  # from now on nothing can be delivered
    whole: bool = True  # what arrives is what the envelope sealed; False: an API wrote it anew


def a_memory(folder: Path) -> Iterator[Way]:
    class Unplugged(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            raise ProviderDown("unplugged")

    memory = Memory()

    def unplug() -> None:
        memory.faults = Unplugged()

    yield Way(provider=memory, delivered=lambda: [each.message for each in memory.messages], unreachable=unplug)


def an_outbox(folder: Path) -> Iterator[Way]:
    path = folder / "outbox"

    def delivered() -> list[bytes]:
        return [each.read_bytes() for each in sorted((path / "new").iterdir())]

    yield Way(provider=Outbox(path), delivered=delivered, unreachable=lambda: os.rename(path / "new", path / "gone"))


def a_server(folder: Path) -> Iterator[Way]:
    from aiosmtpd.controller import Controller
    from aiosmtpd.smtp import SMTP

    from newsletter.providers.smtp import SmtpProvider

    class Store:
        def __init__(self) -> None:
            self.messages: list[bytes] = []

        async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
            self.messages.append(envelope.content)
            return "250 2.0.0 taken"

    class Server(Controller):
        def factory(self) -> SMTP:
            return SMTP(self.handler, enable_SMTPUTF8=True)

        def _trigger_server(self) -> None:  # it makes a first connection, for which it must know its port
            assert isinstance(self.server, asyncio.Server)
            self.port = self.server.sockets[0].getsockname()[1]
            super()._trigger_server()  # type: ignore[no-untyped-call]

    store = Store()
    server = Server(store, hostname="127.0.0.1", port=0)
    server.start()
    smtp = Smtp(
        host="127.0.0.1",
        port=server.port,
        security="none",
        username="",
        connections=3,
        timeout=10,
        bounces="b.example.org",
    )
    provider = SmtpProvider(smtp)
    yield Way(provider=provider, delivered=lambda: list(store.messages), unreachable=server.stop)
    provider.close()
    with suppress(AssertionError):  # stopped already
        server.stop()


def a_documented_one(folder: Path) -> Iterator[Way]:
    """The example of docs/adding-providers.md, with a program that keeps what it is given."""
    text = (Path(__file__).parents[2] / "docs" / "adding-providers.md").read_text("utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example
    names: dict[str, Any] = {}
    exec(compile(example[1], "docs/adding-providers.md", "exec"), names)
    (kept := folder / "kept").mkdir()
    program = folder / "sendmail"
    program.write_text(f"#!/bin/sh\nfile=$(mktemp {kept}/XXXXXXXX)\ncat >$file && mv $file $file.eml\n")
    program.chmod(0o755)

    def delivered() -> list[bytes]:
        return [path.read_bytes() for path in kept.glob("*.eml")]

    yield Way(provider=names["Pipe"](str(program)), delivered=delivered, unreachable=program.unlink)


def a_sendgrid(folder: Path) -> Iterator[Way]:
    from newsletter.providers.sendgrid import SendgridProvider

    with SendgridServer() as server:
        provider = SendgridProvider(Sendgrid(key=server.key, connections=3, timeout=10), host=server.url)
        yield Way(provider=provider, delivered=server.delivered, unreachable=server.stop, whole=False)
        provider.close()


def a_mail_service(name: str, folder: Path) -> Iterator[Way]:
    """A service behind django-anymail."""
    from anymail_server import MailService
    from newsletter.config import Anymail
    from newsletter.providers.anymail import AnymailProvider

    with MailService(name, key="key", secret="secret") as service:
        region = "eu-west-1" if name == "ses" else ""
        config = Anymail(
            service=name, key="key", secret="secret", region=region, url=service.url, connections=3, timeout=20
        )
        provider = AnymailProvider(config)
        yield Way(
            provider=provider,
            delivered=lambda: [took.as_bytes() for took in service.taken],
            unreachable=service.stop,
            whole=name == "ses",
        )
        provider.close()


WAYS: dict[str, Callable[[Path], Iterator[Way]]] = {
    "memory": a_memory,
    "outbox": an_outbox,
    "smtp": a_server,
    "documented": a_documented_one,
    "sendgrid": a_sendgrid,
    **{f"anymail-{name}": partial(a_mail_service, name) for name in SERVICES},
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Way]:
    yield from WAYS[request.param](tmp_path)


# --- what they are given ----------------------------------------------------------------------------------------------


def reader(key: str, **changes: str) -> Recipient:
    fields = {"address": f"{key}@example.net", "name": key} | changes
    slots = {"NAME": fields["name"], "UNSUBSCRIBE_URL": f"https://news.example.org/u/{key}"}
    return Recipient(key=key, address=fields["address"], name=fields["name"], slots=slots)


def readers(count: int, *, start: int = 0) -> list[Recipient]:
    return [reader(f"r{number}") for number in range(start, start + count)]


class Spy(Recorder):
    """A recorder that remembers in which order it was told what."""

    def __init__(self, folder: Path, *, batch: int = 1, stop_after: int | None = None) -> None:
        super().__init__(folder, Lease(batch=batch, epoch=1, until=time.time() + 3600), store="s", owner="o")
        self.told: list[tuple[str, str]] = []
        self.outcomes: dict[str, Outcome] = {}
        self._stop_after, self._once = stop_after, threading.Lock()

    def leaving(self, key: str, *, answered: Outcome | None = None) -> bool:
        with self._once:
            if answered:
                self._note(answered)
            if self._stop_after is not None and self.left >= self._stop_after:
                self.lease.stopping = True
            may = super().leaving(key, answered=answered)
            self.told.append(("leaving" if may else "stopped", key))
            return may

    def leaving_all(self, keys: Sequence[str]) -> int:
        for count, key in enumerate(keys):
            if not self.leaving(key):
                return count
        return len(keys)

    def answered(self, outcome: Outcome) -> None:
        self._note(outcome)
        super().answered(outcome)

    def answered_all(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._note(outcome)
        super().answered_all(outcomes)

    def _note(self, outcome: Outcome) -> None:
        self.told.append(("answered", outcome.key))
        self.outcomes[outcome.key] = outcome

    def keys(self, what: str) -> list[str]:
        return [key for word, key in self.told if word == what]

    def evidence(self) -> Evidence:
        """What the file tells after the writer is gone."""
        self.close()
        for _ in range(200):  # a program that another thread starts holds the lock between its fork and its exec
            if evidence := read_evidence(self.path):
                return evidence
            time.sleep(0.05)
        raise AssertionError("somebody still holds the recorder")


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Spy]:
    spy = Spy(tmp_path / "recorders")
    yield spy
    spy.close()


def key_of(message: bytes) -> str:
    return str(message_from_bytes(message)["X-Newsletter-Delivery"])


def parts_of(message: Message) -> list[bytes]:
    """The parts, with one kind of line end."""
    parts = [part.get_payload(decode=True) for part in message.walk() if not part.is_multipart()]
    return [part.replace(b"\r\n", b"\n") for part in parts if isinstance(part, bytes)]


def states(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.key, outcome.state) for outcome in outcomes]


BAD = [
    reader("b1", address="secret one@example.net"),
    reader("b2", address="secret"),
    reader("b3", address="secret@"),
    reader("b4", address="secret@example.net\r\nBcc: x@example.net"),
    reader("b5", name="x\r\nBcc: secret@example.net"),
    reader("b6", address=""),
]


# --- the contract -----------------------------------------------------------------------------------------------------


def test_it_says_what_it_can_carry(way: Way) -> None:
    limits = way.provider.limits
    assert limits.chunk >= 1
    assert limits.lanes >= 1
    assert limits.connections >= 1


def test_one_outcome_per_recipient_in_their_order(way: Way, recorder: Spy) -> None:
    chunk = readers(20)
    outcomes = way.provider.send(EDITION, chunk, recorder)
    assert states(outcomes) == [(recipient.key, "accepted") for recipient in chunk]
    assert sorted(map(key_of, way.delivered())) == sorted(recipient.key for recipient in chunk)


def test_an_empty_chunk_has_no_outcomes(way: Way, recorder: Spy) -> None:
    assert list(way.provider.send(EDITION, [], recorder)) == []
    assert recorder.told == []


def test_what_arrives_is_what_the_envelope_seals(way: Way, recorder: Spy) -> None:
    chunk = [reader("ana", name="Ana Ñandú"), reader("bea", address="bea@bücher.example"), reader("cid", name="")]
    way.provider.send(EDITION, chunk, recorder)
    arrived = {key_of(message): message for message in way.delivered()}
    envelope = Envelope(EDITION)
    for recipient in chunk:
        if way.whole:
            date = parsedate_to_datetime(message_from_bytes(arrived[recipient.key])["Date"])
            assert arrived[recipient.key] == envelope.seal(recipient, date=date)
        else:
            says = message_from_bytes(arrived[recipient.key])
            assert parts_of(says) == parts_of(message_from_bytes(envelope.seal(recipient, date=datetime.now(UTC))))
            own = {**envelope.headers, **envelope.headers_for(recipient)}
            assert {name: str(says[name]) for name in own} == own


def test_refused_recipients_stop_nobody_else(way: Way, recorder: Spy) -> None:
    chunk = [reader("ana"), *BAD, reader("bea")]
    outcomes = way.provider.send(EDITION, chunk, recorder)
    assert states(outcomes) == [
        ("ana", "accepted"),
        *((recipient.key, "refused") for recipient in BAD),
        ("bea", "accepted"),
    ]
    assert sorted(map(key_of, way.delivered())) == ["ana", "bea"]


def test_no_outcome_holds_an_address(way: Way, recorder: Spy) -> None:
    outcomes = way.provider.send(EDITION, [reader("ana", address="secret@example.net"), *BAD], recorder)
    assert all("secret" not in f"{outcome.detail} {outcome.provider_ref}" for outcome in outcomes)
    assert all(outcome.detail for outcome in outcomes if outcome.state != "accepted")
    assert b"secret" not in recorder.path.read_bytes()


def test_the_recorder_is_told_before_a_message_leaves_and_never_of_one_that_does_not(way: Way, recorder: Spy) -> None:
    chunk = [reader("ana"), *BAD, *readers(5)]
    way.provider.send(EDITION, chunk, recorder)
    left = recorder.keys("leaving")
    assert sorted(left) == ["ana", "r0", "r1", "r2", "r3", "r4"]
    assert sorted(recorder.keys("answered")) == sorted(left)
    assert all(recorder.told.index(("leaving", key)) < recorder.told.index(("answered", key)) for key in left)


def test_the_recorder_alone_tells_what_became_of_each_message(way: Way, recorder: Spy) -> None:
    outcomes = way.provider.send(EDITION, [*readers(5), *BAD], recorder)
    evidence = recorder.evidence()
    accepted = {outcome.key: outcome for outcome in outcomes if outcome.state == "accepted"}
    assert evidence.left == set(accepted)
    assert {key: answer.state for key, answer in evidence.answers.items()} == dict.fromkeys(accepted, "accepted")
    assert {key: answer.provider_ref for key, answer in evidence.answers.items()} == {
        key: outcome.provider_ref for key, outcome in accepted.items()
    }


def test_after_a_stop_nothing_leaves_and_everybody_is_deferred(way: Way, recorder: Spy) -> None:
    recorder.lease.stopping = True
    outcomes = way.provider.send(EDITION, readers(5), recorder)
    assert states(outcomes) == [(recipient.key, "deferred") for recipient in readers(5)]
    assert way.delivered() == []
    assert recorder.evidence().left == set()


def test_a_lease_that_ran_out_is_a_stop(way: Way, recorder: Spy) -> None:
    recorder.lease.until = time.time() - 1
    assert {outcome.state for outcome in way.provider.send(EDITION, readers(5), recorder)} == {"deferred"}
    assert way.delivered() == []


def test_a_stop_in_the_middle_finishes_what_is_in_hand_and_begins_nothing(way: Way, tmp_path: Path) -> None:
    recorder = Spy(tmp_path / "recorders", stop_after=7)
    outcomes = way.provider.send(EDITION, readers(30), recorder)
    accepted = {outcome.key for outcome in outcomes if outcome.state == "accepted"}
    assert len(accepted) == 7
    assert {outcome.state for outcome in outcomes if outcome.key not in accepted} == {"deferred"}
    assert {key_of(message) for message in way.delivered()} == accepted == recorder.evidence().left
    assert [outcome.key for outcome in outcomes] == [recipient.key for recipient in readers(30)]


def test_a_recorder_that_cannot_be_written_lets_nothing_leave(
    way: Way, recorder: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(key: str, *, answered: Outcome | None = None) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder, "leaving", full)
    outcomes: Sequence[Outcome] = ()
    with suppress(OSError):
        outcomes = way.provider.send(EDITION, readers(5), recorder)
    assert not any(outcome.state in ("accepted", "in_doubt") for outcome in outcomes)
    assert way.delivered() == []


def test_a_delivery_sent_again_bears_the_same_message_id(way: Way, recorder: Spy) -> None:
    name = "Message-ID" if way.whole else "X-Newsletter-Delivery"  # services make ids of their own
    ids = []
    for _ in range(2):
        way.provider.send(EDITION, [reader("ana")], recorder)
        ids.append(message_from_bytes(way.delivered()[-1])[name])
    assert ids[0]
    assert ids[0] == ids[1]
    if not way.whole:
        assert {key_of(message) for message in way.delivered()} == {"ana"}
    way.provider.send(EDITION, [reader("bea")], recorder)
    assert len({message_from_bytes(message)[name] for message in way.delivered()}) == 2


@pytest.mark.parametrize(
    "wrong",
    [replace(EDITION, text="@@UNKNOWN@@"), replace(EDITION, html=""), replace(EDITION, subject="@@NAME@@")],
    ids=["slot", "part", "header"],
)
def test_an_edition_that_is_made_wrongly_lets_nothing_leave(way: Way, recorder: Spy, wrong: Edition) -> None:
    with pytest.raises(InputError):
        way.provider.send(wrong, readers(5), recorder)
    assert (way.delivered(), recorder.told) == ([], [])


def test_a_sender_that_cannot_be_written_is_rejected_and_lets_nothing_leave(way: Way, recorder: Spy) -> None:
    wrong = replace(EDITION, sender=Mailbox(address="no address"))
    with pytest.raises(ProviderRejected, match="edition 2017-11-19"):
        way.provider.send(wrong, readers(5), recorder)
    assert (way.delivered(), recorder.told) == ([], [])


def test_a_missing_slot_of_the_last_recipient_lets_nothing_leave(way: Way, recorder: Spy) -> None:
    lacking = Recipient(key="zoe", address="zoe@example.net", slots={"NAME": "Zoe"})
    with pytest.raises(InputError, match="recipient zoe: no value for the slot UNSUBSCRIBE_URL"):
        way.provider.send(EDITION, [*readers(50), lacking], recorder)
    assert (way.delivered(), recorder.told) == ([], [])


def test_several_editions_go_through_one_provider(way: Way, recorder: Spy) -> None:
    other = replace(EDITION, key="2017-11-26", subject="Otra")
    for edition in (EDITION, other, EDITION):
        way.provider.send(edition, [reader(f"k{len(recorder.told)}")], recorder)
    subjects = [message_from_bytes(message)["Subject"] for message in way.delivered()]
    assert sorted(subject == "Otra" for subject in subjects) == [False, False, True]


def test_a_way_out_that_cannot_be_reached_is_down_and_says_who_was_served(way: Way, recorder: Spy) -> None:
    way.provider.send(EDITION, [reader("ana")], recorder)
    way.unreachable()
    before = len(recorder.keys("leaving"))
    with pytest.raises(ProviderDown) as caught:
        way.provider.send(EDITION, readers(5), recorder)
    known: Sequence[Any] = caught.value.outcomes
    assert {outcome.state for outcome in known} <= {"deferred", "in_doubt"}
    assert {outcome.key for outcome in known} >= set(recorder.keys("leaving")[before:])
    assert str(caught.value)
    assert "example.net" not in str(caught.value)


def test_as_many_threads_as_it_has_lanes_and_one_more_may_send_at_once(way: Way, tmp_path: Path) -> None:
    lanes = way.provider.limits.lanes + 1  # the last one is that of single mail
    together = threading.Barrier(lanes)

    def send(lane: int) -> list[Outcome]:
        with closing_spy(tmp_path / "recorders", batch=100 + lane) as spy:
            together.wait(30)
            outcomes: list[Outcome] = []
            for round in range(3):
                chunk = readers(20, start=1000 * lane + 20 * round)
                answers = way.provider.send(EDITION, chunk, spy)
                assert [outcome.key for outcome in answers] == [recipient.key for recipient in chunk]
                outcomes += answers
            assert spy.evidence().left == {outcome.key for outcome in outcomes}
            return outcomes

    with ThreadPoolExecutor(lanes) as pool:
        found = [outcome for outcomes in pool.map(send, range(lanes)) for outcome in outcomes]
    assert {outcome.state for outcome in found} == {"accepted"}
    assert sorted(map(key_of, way.delivered())) == sorted(outcome.key for outcome in found)


@contextmanager
def closing_spy(folder: Path, *, batch: int) -> Iterator[Spy]:
    spy = Spy(folder, batch=batch)
    try:
        yield spy
    finally:
        spy.close()


def test_it_may_be_closed_twice(way: Way, recorder: Spy) -> None:
    way.provider.send(EDITION, [reader("ana")], recorder)
    way.provider.close()
    way.provider.close()
    assert [key_of(message) for message in way.delivered()] == ["ana"]


def test_it_may_be_closed_before_anything_was_sent(way: Way) -> None:
    way.provider.close()
    assert way.delivered() == []
