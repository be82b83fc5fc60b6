"""DKIM: what is signed verifies for dkimpy and for mailauth, and what cannot sign is told before anything leaves.

A test that holds a row of the standards (L2, P6, P7) has it in its name.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import dkim
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailauth import IP, verdicts
from newsletter.checks.workspace import check_workspace
from newsletter.config import Config, Dkim, Smtp
from newsletter.dkim import BITS, VALID, Key, Kind, Signer, examine, load_keys, new_key, record_name, relaxed, strings
from newsletter.envelope import Envelope, Recipient, Sealed
from newsletter.errors import ConfigError
from newsletter.providers import Recorder
from newsletter.providers.smtp import SmtpProvider
from newsletter.recorder import Lease
from newsletter.rendering.edition import Edition, Image, Mailbox
from smtp_server import SmtpServer

DOMAIN = "example.org"
LINKS = {
    "UNSUBSCRIBE_URL": "https://news.example.org/u/5PsQmDk0x3n1wY7bq2LrTa.k1",
    "PREFERENCES_URL": "https://news.example.org/p/9aZ_x-41kQm.k1",
    "VIEW_URL": "https://news.example.org/archive/es/2017-11-19/",
    "CONFIRM_URL": "https://news.example.org/c/77?a=1&b=2",
}
READER = Recipient(
    key="d-7",
    address="ana@example.net",
    name="Ana Quispe",
    slots={"NAME": "Ana", "ADDRESS": "ana@example.net", **LINKS},
)
ISSUE = Edition(
    key="2017-11-19",
    language="es",
    direction="ltr",
    kind="bulk",
    subject="Perú esta semana",
    sender=Mailbox(name="Valley News", address="news@example.org"),
    reply_to=Mailbox(name="The desk", address="desk@example.org"),
    list_id=("Valley News, weekly", "weekly.news.example.org"),
    feedback_id="2017-11-19:weekly:news:example",
    unsubscribe_mailbox="leave@news.example.org",
    html='<p>Hola @@NAME@@, <a href="@@VIEW_URL@@">ver</a> · <a href="@@UNSUBSCRIBE_URL@@">salir</a></p>',
    text="Hola @@NAME@@\n\nVer: @@VIEW_URL@@\nSalir: @@UNSUBSCRIBE_URL@@\n",
)
CONFIRMATION = replace(
    ISSUE,
    key="confirm",
    kind="transactional",
    list_id=None,
    feedback_id="",
    html='<a href="@@CONFIRM_URL@@">sí</a>',
    text="@@CONFIRM_URL@@",
)
BLANKS = "<pre>\n    def f():\n\treturn  1   \n   \n\t\n  .  \n</pre>\n@@NAME@@   @@NAME@@\t@@NAME@@  \n\n\n"
PICTURE = Image(name="0a" * 16 + ".png", media_type="image/png", content=bytes(range(256)) * 90, width=3, height=2)
SHAPES: dict[str, tuple[Edition, Recipient]] = {
    "bulk": (ISSUE, READER),
    "transactional": (CONFIRMATION, READER),
    "images": (
        replace(ISSUE, html=f'<img src="cid:{PICTURE.name}@newsletter" alt="">', images=(PICTURE,), embed=True),
        READER,
    ),
    "blanks": (
        replace(ISSUE, html=BLANKS, text=BLANKS),
        READER._replace(name='  "A   b"  ', slots={**LINKS, "NAME": "  x   y  "}),
    ),
    "empty slots": (ISSUE, READER._replace(name="", slots={**LINKS, "NAME": ""})),
    "names in UTF-8": (
        replace(ISSUE, sender=Mailbox(name="Ж" * 60, address="news@example.org")),
        READER._replace(name="Zoë 語 " * 20, slots={**LINKS, "NAME": "Zoë 語 👩"}),
    ),
    "long headers": (
        replace(ISSUE, subject="word " * 60 + "x" * 300, list_id=("n" * 60, f"{'l' * 60}.{'m' * 120}.example.org")),
        READER._replace(
            name="A name " * 30, slots={**READER.slots, "UNSUBSCRIBE_URL": f"https://x.example/{'u' * 700}"}
        ),
    ),
    "no one-click": (ISSUE, READER._replace(slots={**READER.slots, "UNSUBSCRIBE_URL": "http://127.0.0.1:8000/u/x"})),
    "no subject": (replace(ISSUE, subject=""), READER),
    "SMTPUTF8": (ISSUE, READER._replace(address="zoë@bücher.example")),
}


@pytest.fixture(scope="module")
def keys() -> tuple[Key, Key]:
    return new_key("s1", "rsa"), new_key("s2", "ed25519")


def signed(edition: Edition, recipient: Recipient, keys: Sequence[Key]) -> bytes:
    now = datetime.now(UTC)
    envelope = Envelope(edition)
    (message,) = Signer(envelope, keys, domain=DOMAIN).sign_all(envelope.seal_all([recipient], date=now), date=now)
    assert isinstance(message, Sealed)
    return b"".join(message.pieces)


def records(keys: Sequence[Key], domain: str = DOMAIN) -> dict[str, str]:
    return {record_name(key.selector, domain): key.record for key in keys}


def verified(message: bytes, known: Mapping[str, str]) -> list[bool]:
    """What dkimpy says of each signature."""

    def lookup(name: bytes, timeout: int = 5) -> bytes | None:
        text = known.get(name.decode().rstrip("."))
        return text.encode() if text else None

    def verify(number: int) -> bool:
        try:
            return bool(dkim.DKIM(message).verify(number, dnsfunc=lookup))
        except dkim.ValidationError:
            return False

    count = len(re.findall(rb"(?m)^DKIM-Signature:", message.partition(b"\r\n\r\n")[0]))
    return [verify(number) for number in range(count)]


def tags(message: bytes) -> list[dict[str, str]]:
    """The tags of each signature, their folds undone."""
    head = re.sub(r"\r\n[ \t]", "", message.partition(b"\r\n\r\n")[0].decode())
    found = re.findall(r"(?m)^DKIM-Signature: (.*)", head)
    return [
        {name.strip(): re.sub(r"\s", "", value) for name, _, value in (tag.partition("=") for tag in each.split(";"))}
        for each in found
    ]


# --- what is signed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_p6_both_signatures_verify_for_dkimpy(shape: str, keys: tuple[Key, Key]) -> None:
    message = signed(*SHAPES[shape], keys)
    assert verified(message, records(keys)) == [True, True]
    assert all(len(line) <= 998 for line in message.split(b"\r\n"))


def test_p6_p7_both_signatures_verify_for_mailauth_and_dmarc_is_aligned(keys: tuple[Key, Key]) -> None:
    known = {
        **records(keys),
        "_dmarc.example.org": "v=DMARC1; p=reject; adkim=s",
        "bounce.example.net": f"v=spf1 ip4:{IP} -all",
    }
    whole = [(signed(*shape, keys), "b@bounce.example.net") for shape in SHAPES.values()]
    changed = [(whole[0][0].replace(b"One-Click", b"One-Clack"), "b@bounce.example.net")]
    *good, bad = verdicts(whole + changed, known)
    for name, verdict in zip(SHAPES, good, strict=True):
        assert verdict.dkim == [("s1", "pass", ""), ("s2", "pass", "")], name
        assert (verdict.spf, verdict.dmarc) == ("pass", "pass"), name
    assert [result for _, result, _ in bad.dkim] == ["fail", "fail"]
    assert bad.dmarc == "fail"
    assert {"list-unsubscribe", "list-unsubscribe-post", "from", "feedback-id"} <= set(good[0].signed)


def test_l2_p6_every_header_is_signed_and_six_cannot_be_added_to(keys: tuple[Key, Key]) -> None:
    for edition, recipient in SHAPES.values():
        message = signed(edition, recipient, keys)
        present = [name.lower() for name in message_from_bytes(message).keys()]  # noqa: SIM118
        for found in tags(message):
            named = found["h"].split(":")
            for name in set(present) - {"dkim-signature"}:
                assert named.count(name) >= present.count(name), name
            for name in ("from", "subject", "to", "date", "list-unsubscribe", "list-unsubscribe-post"):
                assert named.count(name) == present.count(name) + 1, name
            assert "dkim-signature" not in named


@pytest.mark.parametrize(
    "header", ["From: Mallory <m@example.org>", "Subject: else", "List-Unsubscribe: <https://x.y>"]
)
def test_p6_a_second_header_in_front_breaks_the_signature(header: str, keys: tuple[Key, Key]) -> None:
    for edition in (ISSUE, CONFIRMATION):
        message = signed(edition, READER, keys)
        assert verified(f"{header}\r\n".encode() + message, records(keys)) == [False, False]


def test_p6_the_tags_are_those_that_we_mean(keys: tuple[Key, Key]) -> None:
    message = signed(ISSUE, READER, keys)
    first, second = tags(message)
    assert (first["a"], first["s"], second["a"], second["s"]) == ("rsa-sha256", "s1", "ed25519-sha256", "s2")
    date = parsedate_to_datetime(message_from_bytes(message)["Date"])
    for found in (first, second):
        assert list(found) == ["v", "a", "c", "d", "s", "t", "x", "h", "bh", "b"]
        assert (found["v"], found["c"], found["d"]) == ("1", "relaxed/relaxed", DOMAIN)
        assert int(found["t"]) == date.timestamp()
        assert int(found["x"]) - int(found["t"]) == VALID


def test_signature_lines_are_short(keys: tuple[Key, Key]) -> None:
    head = signed(ISSUE, READER, keys).partition(b"Date: ")[0]
    assert max(map(len, head.split(b"\r\n"))) <= 78


@pytest.mark.parametrize("change", [(b"Hola", b"Olah"), (b"Precedence: bulk", b"Precedence: junk"), (b"d-7", b"d-8")])
def test_what_is_changed_on_the_way_does_not_verify(change: tuple[bytes, bytes], keys: tuple[Key, Key]) -> None:
    message = signed(ISSUE, READER, keys)
    assert verified(message.replace(*change), records(keys)) == [False, False]


def test_what_relaxed_allows_on_the_way_verifies(keys: tuple[Key, Key]) -> None:
    head, _, body = signed(ISSUE, READER, keys).partition(b"\r\n\r\n")
    changed = head.replace(b"Precedence: bulk", b"PRECEDENCE:  bulk ") + b"\r\n\r\n" + body.replace(b"Ver: ", b"Ver:  ")
    assert verified(changed, records(keys)) == [True, True]


BLANK = [" ", "  ", "     ", "\t", " \t ", "\n", "\r\n", " \n", "\n "]
SLOTS = ["@@NAME@@", " @@NAME@@ ", "@@ADDRESS@@"]
LONG = ["word " * 20, "x" * 75, "x" * 74 + "  "]
runs = st.lists(
    st.sampled_from([*BLANK, *SLOTS, *LONG, ".", "=", "=20", "é", "x", "a  b", "\xa0", "語 語", "From ", "--"]),
    min_size=1,
    max_size=14,
).map("".join)
values = st.lists(
    st.sampled_from([" ", "  ", "     ", "é", "x", "é  ", '"', "\\", ".", "=", "a  b", "x" * 74, "@", "\xa0", "=?"]),
    max_size=7,
).map("".join)


@settings(max_examples=150, deadline=None)
@example(html="@@NAME@@", text="@@NAME@@", name="", slot="a  b", subject="")
@given(html=runs.filter(str.strip), text=runs.filter(str.strip), name=values, slot=values, subject=values)
def test_our_hashes_are_those_of_dkimpy(html: str, text: str, name: str, slot: str, subject: str) -> None:
    key = _ed25519()
    edition = replace(ISSUE, html=html, text=text, subject=subject)
    slots = {**READER.slots, "NAME": slot, "ADDRESS": slot}
    assert verified(signed(edition, READER._replace(name=name, slots=slots), [key]), records([key])) == [True]


def _ed25519(made: dict[str, Key] = {}) -> Key:  # noqa: B006
    return made.setdefault("", new_key("s", "ed25519"))


@given(text=runs.filter(str.strip), slot=values)
def test_a_body_is_its_own_relaxed_form(text: str, slot: str) -> None:
    slots = {**READER.slots, "NAME": slot, "ADDRESS": slot}
    sealed = Envelope(replace(ISSUE, html=text, text=text)).seal(READER._replace(slots=slots), date=datetime.now(UTC))
    body = sealed.partition(b"\r\n\r\n")[2]
    assert dkim.canonicalization.Relaxed.canonicalize_body(body) == body


@given(
    st.lists(st.sampled_from([b" ", b"  ", b"\t", b"x", b"Y:", b"\r\n ", b"\r\n\t", b":"]), max_size=12).map(b"".join)
)
def test_a_header_in_relaxed_form_is_what_dkimpy_makes_of_it(value: bytes) -> None:
    ((name, expected),) = dkim.canonicalization.Relaxed.canonicalize_headers([(b"X-Name", value + b"x\r\n")])
    assert relaxed(b"X-Name:" + value + b"x\r\n") == name + b":" + expected


def test_who_cannot_be_written_to_stays_an_error_and_the_others_are_signed(keys: tuple[Key, Key]) -> None:
    now = datetime.now(UTC)
    envelope = Envelope(ISSUE)
    crowd = [READER, READER._replace(address="nobody"), READER._replace(key="d-8")]
    sealed = envelope.seal_all(crowd, date=now)
    one, fault, other = Signer(envelope, keys, domain=DOMAIN).sign_all(sealed, date=now)
    assert fault is sealed[1]
    for message, before in ((one, sealed[0]), (other, sealed[2])):
        assert isinstance(message, Sealed)
        assert isinstance(before, Sealed)
        assert message.pieces[1:] == before.pieces
        assert verified(b"".join(message.pieces), records(keys)) == [True, True]


def test_messages_of_one_chunk_may_have_different_headers(keys: tuple[Key, Key]) -> None:
    now = datetime.now(UTC)
    envelope = Envelope(ISSUE)
    links = ("https://news.example.org/u/a", "http://127.0.0.1/u/b", "https://news.example.org/u/c")
    crowd = [READER._replace(slots={**READER.slots, "UNSUBSCRIBE_URL": link}) for link in links]
    for message in Signer(envelope, keys, domain=DOMAIN).sign_all(envelope.seal_all(crowd, date=now), date=now):
        assert isinstance(message, Sealed)
        raw = b"".join(message.pieces)
        assert verified(raw, records(keys)) == [True, True]
        one_click = b"List-Unsubscribe=One-Click" in raw
        assert [found["h"].split(":").count("list-unsubscribe-post") for found in tags(raw)] == [1 + one_click] * 2


def test_several_threads_sign_with_one_signer(keys: tuple[Key, Key]) -> None:
    now = datetime.now(UTC)
    envelope = Envelope(ISSUE)
    signer = Signer(envelope, keys, domain=DOMAIN)
    sealed = envelope.seal_all([READER._replace(key=f"d{number}") for number in range(40)], date=now)
    expected = signer.sign_all(sealed, date=now)  # both kinds of signature are the same each time
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(signer.sign_all(sealed, date=now))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


# --- through a server -------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path, keys: tuple[Key, Key]) -> Dkim:
    """The keys in files, as the settings name them."""
    folder = tmp_path / "dkim"
    folder.mkdir()
    for key in keys:
        keep(folder, key.selector, key.pem)
    return Dkim(selectors=("s1", "s2"), domain="", keys=folder)


def keep(folder: Path, selector: str, content: bytes, *, mode: int = 0o600) -> None:
    path = folder / f"{selector}.pem"
    path.write_bytes(content)
    path.chmod(mode)


@contextmanager
def provider(port: int, settings: Dkim | None) -> Iterator[SmtpProvider]:
    smtp = Smtp(host="127.0.0.1", port=port, security="none", username="", connections=3, timeout=10, bounces="")
    way = SmtpProvider(smtp, dkim=settings)
    try:
        yield way
    finally:
        way.close()


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    lease = Lease(batch=1, epoch=1, until=datetime.now(UTC).timestamp() + 3600)
    recorder = Recorder(tmp_path / "recorders", lease, store="s", owner="o")
    yield recorder
    recorder.close()


CROWD = [
    READER._replace(key=f"d{number}", name=f"Reader  {number}", slots={**READER.slots, "NAME": "a  b" * (number % 3)})
    for number in range(60)
]


def check_arrived(arrived: Sequence[bytes], known: Mapping[str, str]) -> None:
    """Every message of CROWD once, signed, and otherwise as the envelope seals it."""
    envelope = Envelope(ISSUE)
    assert len(arrived) == len(CROWD)
    recipients = {recipient.key: recipient for recipient in CROWD}
    for message in arrived:
        assert verified(message, known) == [True, True]
        parsed = message_from_bytes(message)
        sealed = envelope.seal(
            recipients.pop(parsed["X-Newsletter-Delivery"]), date=parsedate_to_datetime(parsed["Date"])
        )
        assert message.endswith(b"\r\n" + sealed)
    assert not recipients


def test_signed_messages_pass_a_pipelining_server_byte_for_byte(
    kept: Dkim, keys: tuple[Key, Key], recorder: Recorder
) -> None:
    with SmtpServer() as server, provider(server.port, kept) as way:
        outcomes = way.send(ISSUE, CROWD, recorder)
        assert {outcome.state for outcome in outcomes} == {"accepted"}
        check_arrived([taken.message for taken in server.taken], records(keys))


def test_signed_messages_pass_aiosmtpd_byte_for_byte(kept: Dkim, keys: tuple[Key, Key], recorder: Recorder) -> None:
    messages: list[bytes] = []

    class Store:
        async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
            messages.append(envelope.content)
            return "250 2.0.0 taken"

    class Server(Controller):
        def factory(self) -> SMTP:
            return SMTP(self.handler, enable_SMTPUTF8=True)

        def _trigger_server(self) -> None:  # it makes a first connection, for which it must know its port
            assert isinstance(self.server, asyncio.Server)
            self.port = self.server.sockets[0].getsockname()[1]
            super()._trigger_server()  # type: ignore[no-untyped-call]

    server = Server(Store(), hostname="127.0.0.1", port=0)
    server.start()
    try:
        with provider(server.port, kept) as way:
            assert {outcome.state for outcome in way.send(ISSUE, CROWD, recorder)} == {"accepted"}
    finally:
        server.stop()
    check_arrived(messages, records(keys))


def test_without_keys_nothing_is_signed(recorder: Recorder) -> None:
    with SmtpServer() as server, provider(server.port, None) as way:
        way.send(ISSUE, [READER], recorder)
        (taken,) = server.taken
        assert taken.message.startswith(b"Date: ")


@pytest.mark.parametrize(
    ("sender", "setting", "domain"),
    [
        ("news@Bücher.example", "", "xn--bcher-kva.example"),
        ("news@news.example.org", "Example.org", "example.org"),
        ("news@news.example.org", "bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_the_domain_is_that_of_the_setting_else_of_the_sender(
    sender: str, setting: str, domain: str, kept: Dkim, keys: tuple[Key, Key], recorder: Recorder
) -> None:
    with SmtpServer() as server, provider(server.port, replace(kept, domain=setting)) as way:
        way.send(replace(ISSUE, sender=Mailbox(address=sender)), [READER], recorder)
        (taken,) = server.taken
    assert [found["d"] for found in tags(taken.message)] == [domain, domain]
    assert verified(taken.message, records(keys, domain)) == [True, True]


# --- keys that cannot sign, or had better not -------------------------------------------------------------------------


def _pem(private: Any, encryption: serialization.KeySerializationEncryption | None = None) -> bytes:
    encryption = encryption or serialization.NoEncryption()
    found = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    assert isinstance(found, bytes)
    return found


def _rsa(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def _public() -> bytes:
    public = _ed25519().private.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _ssh() -> bytes:
    return _ed25519().private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


# RSA of 768 bits, which cryptography reads and no longer makes: a key of nobody.
WEAK = b"""\
-----BEGIN PRIVATE KEY-----
MIIB4wIBADANBgkqhkiG9w0BAQEFAASCAc0wggHJAgEAAmEAshVhXzI5KuyjTBEj
NpTCNtev+xpbhXeTCZ1bf4LddJXPNhLtB3lAdsBs21B90HpiprCrRKEwyceFR1l/
3sjUe/xBPHsyhr9DmS15Cxrn2z5vMNsv4xgHgolfXDanvYgBAgMBAAECYHMl7/gl
+WEP8ebVjfdU6N+dR2UN/e+nCaRF40vnyloAJCPKyQj0FgKzGbAVs8SB3QJopb4O
V9Ui/sZIq3Eh4CS9Kk7tdd6KD470EmmOnrfk+ELoLTygrSFSD6tChiccoQIxAOyN
+1TssXyZi91gFNi8Yl/PVPwPYWVlxPRb26NG152ARzns0vyM7+CuTODZn0XskwIx
AMC48SPsnsqHT7jmOI6YTYh/YNhrA8FR3sO6Q3qrqJV8hii1I+QwE+YZ/asNFoVp
mwIwVhFuwb6A8WnYlspPq3AXhu6j6DYcZM07dQE7D9RFvRugTrYZKiSJXsFsXV8w
8TsbAjB5x2N409gzGfWiXLd4Q30at4K2vkiNK/Kbs2NYbIgGjb0ok+2uD0NDr0C/
iXGls+kCMFM0OM3NWqRJ4wDW5gkajz8FsdXna/4FpTVyGSY3cdiJ1sFa06XXwh3h
bNlG+Q28kA==
-----END PRIVATE KEY-----
"""

UNUSABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "dkim.not-a-key"),
    "noise": (lambda: os.urandom(200_000), "dkim.not-a-key"),
    "text": ("schlüssel".encode, "dkim.not-a-key"),
    "cut short": (lambda: _pem(_ed25519().private)[:60] + b"\n-----END PRIVATE KEY-----\n", "dkim.not-a-key"),
    "ssh": (_ssh, "dkim.not-a-key"),
    "encrypted": (
        lambda: _pem(_ed25519().private, serialization.BestAvailableEncryption(b"secret")),
        "dkim.encrypted",
    ),
    "public": (_public, "dkim.public"),
    "weak": (lambda: WEAK, "dkim.weak"),
    "elliptic": (lambda: _pem(ec.generate_private_key(ec.SECP256R1())), "dkim.kind"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_key_that_cannot_sign_is_told_before_anything_leaves(case: str, tmp_path: Path) -> None:
    make, code = UNUSABLE[case]
    content = make()
    keep(tmp_path, "s1", content)
    with pytest.raises(ConfigError) as caught, provider(1, Dkim(selectors=("s1",), domain="", keys=tmp_path)):
        pass
    (finding,) = caught.value.findings
    assert finding.code == code
    assert finding.where
    assert finding.where.path == str(tmp_path / "s1.pem")
    assert finding.help
    secret = content.decode("ascii", "replace").splitlines()[1:2]
    assert not any(line and line in str(caught.value) for line in secret)


def test_every_wrong_key_is_told_at_once(tmp_path: Path) -> None:
    keep(tmp_path, "a", b"")
    os.mkfifo(tmp_path / "pipe.pem")
    (tmp_path / "folder.pem").mkdir()
    wrong = Dkim(selectors=("gone", "a", "pipe", "folder", "-x", "y" * 64), domain="no domain", keys=tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_keys(wrong)
    assert [finding.code for finding in caught.value.findings] == [
        "dkim.missing",
        "dkim.not-a-key",
        "dkim.unreadable",
        "dkim.unreadable",
        "dkim.selector",
        "dkim.selector",
        "dkim.domain",
    ]


def found(settings: Dkim, sender: str = "") -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in examine(settings, sender=sender)[1]]


def test_p6_a_short_rsa_key_signs_with_a_warning(tmp_path: Path) -> None:
    keep(tmp_path, "s1", _pem(_rsa(1024)))
    short = Dkim(selectors=("s1",), domain="", keys=tmp_path)
    assert found(short) == [("dkim.short", "warning")]
    keys = load_keys(short)
    assert verified(signed(ISSUE, READER, keys), records(keys)) == [True]


def test_ed25519_alone_signs_with_a_warning(kept: Dkim) -> None:
    assert found(replace(kept, selectors=("s2",))) == [("dkim.alone", "warning")]
    assert found(kept) == []


@pytest.mark.parametrize(("mode", "codes"), [(0o600, []), (0o640, []), (0o644, ["dkim.open"]), (0o602, ["dkim.open"])])
def test_a_key_that_everybody_may_read_is_a_warning(mode: int, codes: list[str], kept: Dkim) -> None:
    (kept.keys / "s1.pem").chmod(mode)
    assert [code for code, _ in found(kept)] == codes


def test_other_forms_of_a_key_file_are_read(tmp_path: Path) -> None:
    """As openssl writes them: PKCS #1, and text or Windows line ends around."""
    old = _rsa(BITS).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    keep(tmp_path, "old", old)
    keep(tmp_path, "text", b"Private-Key: (2048 bit)\n" + old.replace(b"\n", b"\r\n"))
    assert [key.bits for key in load_keys(Dkim(selectors=("old", "text"), domain="", keys=tmp_path))] == [BITS, BITS]


@pytest.mark.parametrize(
    ("domain", "sender", "codes"),
    [
        ("", "news@example.org", []),
        ("example.org", "news@news.example.org", []),
        ("mail.example.org", "news@example.org", []),
        ("example.com", "news@example.org", ["dkim.alignment"]),
        ("notexample.org", "news@example.org", ["dkim.alignment"]),
    ],
)
def test_p7_a_domain_of_another_organisation_is_a_warning(
    domain: str, sender: str, codes: list[str], kept: Dkim
) -> None:
    assert [code for code, _ in found(replace(kept, domain=domain), sender)] == codes


def test_check_reports_the_keys_and_does_not_fail_where_they_are_missing(config: Config, kept: Dkim) -> None:
    (kept.keys / "s1.pem").write_bytes(b"")
    there = replace(config, dkim=replace(kept, selectors=("s1", "s2", "elsewhere")))
    findings = [finding for finding in check_workspace(there, None) if finding.code.startswith("dkim.")]
    assert [(finding.code, finding.severity) for finding in findings] == [
        ("dkim.not-a-key", "error"),
        ("dkim.missing", "warning"),
    ]


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_record_is_cut_into_strings_that_dns_can_carry(kind: Kind) -> None:
    key = new_key("s1", kind)
    assert "".join(strings(key.record)) == key.record
    assert max(map(len, strings(key.record))) <= 255


def test_a_key_shows_no_secret_when_it_is_printed() -> None:
    assert "private" not in repr(_ed25519()).lower()


def test_keys_come_back_from_their_files(kept: Dkim, keys: tuple[Key, Key]) -> None:
    assert [key.record for key in load_keys(kept)] == [key.record for key in keys]
