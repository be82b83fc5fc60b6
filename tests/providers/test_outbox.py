from __future__ import annotations

import mailbox
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import cast

import pytest

from newsletter.envelope import Envelope, Recipient
from newsletter.errors import InputError, ProviderDown
from newsletter.providers import Outcome, Provider, Recorder
from newsletter.providers.outbox import Outbox
from newsletter.recorder import Lease
from newsletter.rendering.edition import Edition, Mailbox

NOON = datetime(2017, 11, 19, 12, tzinfo=UTC)
EDITION = Edition(
    key="2017-11-19",
    language="es",
    direction="ltr",
    kind="transactional",
    subject="Perú esta semana",
    sender=Mailbox(name="Valley News", address="news@example.org"),
    html="<p>Hola @@NAME@@</p>",
    text="Hola @@NAME@@\n",
)


def reader(key: str, **changes: str) -> Recipient:
    fields = {"address": f"{key}@example.net", "name": key} | changes
    return Recipient(key=key, address=fields["address"], name=fields["name"], slots={"NAME": fields["name"]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "build" / "outbox"


@pytest.fixture
def outbox(path: Path) -> Outbox:
    return Outbox(path, now=lambda: NOON)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    lease = Lease(batch=1, epoch=1, until=time.time() + 3600)
    recorder = Recorder(tmp_path / "recorders", lease, store="s", owner="o")
    yield recorder
    recorder.close()


def messages(path: Path) -> list[mailbox.MaildirMessage]:
    maildir = mailbox.Maildir(path, create=False)
    return [maildir.get_message(key) for key in sorted(maildir.keys())]


def test_an_outbox_is_a_provider(outbox: Outbox, recorder: Recorder) -> None:
    provider: Provider = outbox
    assert provider.limits.chunk == 1000
    provider.close()


def test_the_standard_library_reads_every_message(outbox: Outbox, recorder: Recorder, path: Path) -> None:
    outcomes = outbox.send(EDITION, [reader("ana"), reader("bea"), reader("cid")], recorder)
    assert [(outcome.key, outcome.state) for outcome in outcomes] == [
        ("ana", "accepted"),
        ("bea", "accepted"),
        ("cid", "accepted"),
    ]
    found = messages(path)
    assert [message["To"] for message in found] == [f"{key} <{key}@example.net>" for key in ("ana", "bea", "cid")]
    text, _ = cast("list[Message]", found[0].get_payload())
    assert cast("bytes", text.get_payload(decode=True)).decode().splitlines() == ["Hola ana"]


def test_the_file_holds_the_sealed_bytes_and_the_outcome_names_it(
    outbox: Outbox, recorder: Recorder, path: Path
) -> None:
    (outcome,) = outbox.send(EDITION, [reader("ana")], recorder)
    assert outcome == Outcome(key="ana", state="accepted", provider_ref="2017-11-19.ana")
    assert (path / "new" / outcome.provider_ref).read_bytes() == Envelope(EDITION).seal(reader("ana"), date=NOON)


def test_a_delivery_sent_again_is_there_once(outbox: Outbox, recorder: Recorder, path: Path) -> None:
    outbox.send(EDITION, [reader("ana"), reader("bea")], recorder)
    outbox.send(replace(EDITION, subject="Otra vez"), [reader("ana")], recorder)
    assert [message["Subject"] for message in messages(path)] == ["Otra vez", "=?utf-8?q?Per=C3=BA_esta_semana?="]


def test_a_delivery_sent_again_after_it_was_read_is_there_once_and_stays_read(
    outbox: Outbox, recorder: Recorder, path: Path
) -> None:
    outbox.send(EDITION, [reader("ana")], recorder)
    os.rename(path / "new" / "2017-11-19.ana", path / "cur" / "2017-11-19.ana:2,S")
    outbox.send(replace(EDITION, subject="Otra vez"), [reader("ana")], recorder)
    (message,) = messages(path)
    assert (message["Subject"], message.get_flags()) == ("Otra vez", "S")


def test_two_editions_to_one_recipient_are_two_messages(outbox: Outbox, recorder: Recorder, path: Path) -> None:
    outbox.send(EDITION, [reader("ana")], recorder)
    outbox.send(replace(EDITION, key="2017-11-26"), [reader("ana")], recorder)
    assert len(messages(path)) == 2


def test_m8_m9_one_bad_recipient_is_refused_and_the_others_are_written(
    outbox: Outbox, recorder: Recorder, path: Path
) -> None:
    chunk = [
        reader("ana"),
        reader("bad", address="secret address@example.org"),
        reader("eve", name="x\r\nBcc: y"),
        reader("bea"),
    ]
    outcomes = outbox.send(EDITION, chunk, recorder)
    assert [outcome.state for outcome in outcomes] == ["accepted", "refused", "refused", "accepted"]
    assert outcomes[1].detail.startswith("recipient bad: ")
    assert "secret" not in outcomes[1].detail
    assert "Bcc" not in outcomes[2].detail
    assert len(messages(path)) == 2


def test_a_recipient_without_a_slot_stops_the_chunk(outbox: Outbox, recorder: Recorder) -> None:
    with pytest.raises(InputError, match="no value for the slot NAME"):
        outbox.send(EDITION, [Recipient(key="ana", address="ana@example.net")], recorder)


def test_an_edition_that_cannot_be_sealed_writes_nothing(outbox: Outbox, recorder: Recorder, path: Path) -> None:
    with pytest.raises(InputError, match="UNKNOWN"):
        outbox.send(replace(EDITION, text="@@UNKNOWN@@"), [reader("ana")], recorder)
    assert messages(path) == []


def test_no_draft_is_left_behind(outbox: Outbox, recorder: Recorder, path: Path) -> None:
    outbox.send(EDITION, [reader("ana")], recorder)
    assert os.listdir(path / "tmp") == []


def test_a_path_that_is_a_file_is_down_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("in the way")
    with pytest.raises(ProviderDown, match=f"outbox {tmp_path / 'outbox'}: .*make the folder writable"):
        Outbox(tmp_path / "outbox")


def test_a_folder_that_is_gone_is_down_with_the_path(outbox: Outbox, recorder: Recorder, path: Path) -> None:
    os.rename(path / "new", path / "gone")
    with pytest.raises(ProviderDown, match=f"outbox {path}: No such file"):
        outbox.send(EDITION, [reader("ana")], recorder)
    assert os.listdir(path / "tmp") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to stand for a full disk")
def test_a_full_disk_is_down_with_the_path(outbox: Outbox, recorder: Recorder, path: Path) -> None:
    (path / "tmp" / f"2017-11-19.ana.{os.getpid()}.{threading.get_ident()}").symlink_to("/dev/full")
    with pytest.raises(ProviderDown, match=f"outbox {path}: No space left"):
        outbox.send(EDITION, [reader("ana")], recorder)
    assert os.listdir(path / "tmp") == os.listdir(path / "new") == []
    assert outbox.send(EDITION, [reader("ana")], recorder)[0].state == "accepted"
