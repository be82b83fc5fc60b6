"""What a sealed message must satisfy. A test that holds a row of the standards (M1 … L8) has it in its name.

"Comes back exactly": the standard library parses the bytes and gives the text that went in, with its slots filled, when
`\\r\\n`, `\\r` and `\\n` count as one and the same line end.
"""

from __future__ import annotations

import base64
import html
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from typing import Any, cast

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from newsletter.envelope import Envelope, Recipient, Sealed, edition_findings
from newsletter.errors import AddressError, HeaderError, InputError
from newsletter.headers import addr_spec
from newsletter.rendering.edition import SLOT, SLOTS, TEXT_SLOTS, Edition, Image, Mailbox

NOON = datetime(2017, 11, 19, 12, tzinfo=UTC)
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
    sender=Mailbox(name="Valley News", address="news@news.example.org"),
    reply_to=Mailbox(name="The desk", address="desk@example.org"),
    list_id=("Valley News, weekly", "weekly.news.example.org"),
    feedback_id="2017-11-19:weekly:news:example",
    unsubscribe_mailbox="leave@news.example.org",
    html='<p>Hola @@NAME@@, <a href="@@VIEW_URL@@">ver</a> · <a href="@@UNSUBSCRIBE_URL@@">salir</a></p>',
    text="Hola @@NAME@@\n\nVer: @@VIEW_URL@@\nSalir: @@UNSUBSCRIBE_URL@@\n",
)
CONFIRMATION = replace(
    ISSUE, key="confirm", kind="transactional", html='<a href="@@CONFIRM_URL@@">sí</a>', text="@@CONFIRM_URL@@"
)

# Python before 3.13.2 keeps the space between two encoded-words of a name (cpython gh-128110); RFC 2047 §6.2 drops it.
KEEPS_SPACE_IN_NAMES = (
    cast("Any", message_from_bytes(b"To: =?utf-8?q?a?=\n =?utf-8?q?b?= <a@b.c>\n\n", policy=policy.default))["To"]
    .addresses[0]
    .display_name
    != "ab"
)

FORBIDDEN = [chr(code) for code in (*range(0x20), 0x7F)]
signs = st.characters(exclude_categories=["Cs"]).filter(lambda sign: sign not in FORBIDDEN)
awkward = st.sampled_from(
    [
        ".",
        "..",
        "=",
        "=2E",
        "=?utf-8?q?x?=",
        "=?",
        "?=",
        "From ",
        "@",
        "@@",
        "@@UNSUBSCRIBE_URL@@",
        "&#64;",
        "&amp;",
        "<b>",
        '"',
        "'",
        "\\",
        ",",
        ";",
        ":",
        "<",
        ">",
        "(",
        ")",
        " ",
        "  ",
        "é",
        "ñ",
        "Ж",
        "語",
        "👩\u200d👩\u200d👧",
        "\u202e",
        "\x85",
        "\u2028",
        "\xa0",
        "x" * 73,
        "x" * 74,
        "x" * 75,
        "x" * 76,
        "x" * 1200,
        "語" * 40,
        "é " * 40,
        "word " * 30,
        "--",
        "--=_a",
        "\ufeff",
    ]
)
values = st.lists(st.one_of(signs, awkward), max_size=8).map("".join)
headers = values.filter(lambda text: not re.search(r"@@[ \t]*\w[\w-]*[ \t]*@@", text))
breaks = st.sampled_from(
    ["\n", "\r\n", "\r", "\n\n", "\n.\n", "\r\n..", " \n", "\t\r\n", "\t", "\x00", "\x0b", "\x0c", "\x1b"]
)
bodies = (
    st.lists(st.one_of(signs, awkward, breaks), min_size=1, max_size=14)
    .map("".join)
    .filter(lambda text: text.strip() and not re.search(r"@@[ \t]*\w[\w-]*[ \t]*@@", text))
)


def seal(edition: Edition = ISSUE, recipient: Recipient = READER) -> bytes:
    return Envelope(edition).seal(recipient, date=NOON)


def parse(raw: bytes) -> EmailMessage:
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not [defect for part in message.walk() for defect in part.defects]
    return message


def lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def content(part: EmailMessage) -> str:
    assert part.get_content_charset() == "utf-8"
    assert part["Content-Transfer-Encoding"] == "quoted-printable"
    return cast("bytes", part.get_payload(decode=True)).decode().replace("\r\n", "\n")


def both_parts(raw: bytes) -> tuple[str, str]:
    text, markup = parse(raw).iter_parts()
    return content(cast("EmailMessage", text)), content(cast("EmailMessage", markup))


def header_block(raw: bytes) -> bytes:
    return raw.partition(b"\r\n\r\n")[0] + b"\r\n"


def header_lines(raw: bytes, name: str) -> list[str]:
    """The one header of that name, as written."""
    (found,) = re.findall(rf"(?m)^{name}:.*\r\n(?:[ \t].*\r\n)*", header_block(raw).decode())
    return cast("str", found).split("\r\n")[:-1]


def raw_header(raw: bytes, name: str) -> str:
    """The value of the one header of that name, as written, its folds undone."""
    return "".join(header_lines(raw, name)).removeprefix(f"{name}:").strip(" ")


def fill(text: str, recipient: Recipient, write: Callable[[str], str] = str) -> str:
    return SLOT.sub(lambda slot: write(recipient.slots[slot[1]]), lf(text))


def markup_value(value: str) -> str:
    return html.escape(value, quote=True).replace("@", "&#64;")


def assert_sound(raw: bytes) -> None:
    """M1 and the promises of the module: line ends, line lengths, nothing that a way out would have to change."""
    assert raw.endswith(b"\r\n")
    lines = raw.split(b"\r\n")
    assert b"\r" not in b"".join(lines)
    assert b"\n" not in b"".join(lines)
    head = lines.index(b"")
    assert max(map(len, lines[:head])) <= 998
    assert max(map(len, lines[head:])) <= 76
    for line in lines:
        assert not line.startswith((b".", b"From "))
        assert not line.endswith((b" ", b"\t"))
    assert raw[raw.index(b"\r\n\r\n") :].isascii()


# --- M1, M6: bodies ---------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(text=bodies, markup=bodies, name=values, address=values)
@example(text=".\n..\n.", markup="From here\nFrom ", name=".", address="From ")
@example(text="a \nb\t\n \n", markup=" ", name=" ", address="").via("blank parts are refused, blank lines are kept")
@example(text="x" * 1200, markup="語" * 400, name="語" * 400, address="=" * 400)
@example(text="@@", markup="@", name="@NAME@", address="@")
def test_m1_m6_both_parts_come_back_exactly_with_their_slots_filled(
    text: str, markup: str, name: str, address: str
) -> None:
    assume(markup.strip())
    edition = replace(
        ISSUE,
        text=f"@@NAME@@{text} @@ADDRESS@@\n@@NAME@@ @@ADDRESS@@ {text}\n@@NAME@@ ",
        html=f'<p title="@@NAME@@">{markup} @@NAME@@ @@ADDRESS@@</p>{markup}<a href="@@VIEW_URL@@">.</a>',
    )
    assume("@@" not in text + markup or not edition_findings(edition))  # what looks like a slot has tests of its own
    recipient = READER._replace(slots={**LINKS, "NAME": name, "ADDRESS": address})
    raw = seal(edition, recipient)
    assert_sound(raw)
    assert both_parts(raw) == (fill(edition.text, recipient), fill(edition.html, recipient, markup_value))


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from(["@@NAME@@", "@@ADDRESS@@", "@", ".", "\n", "x", "From ", " "]), min_size=1),
    values,
    values,
)
def test_m6_slots_side_by_side_at_line_starts_and_at_the_end_come_back_exactly(
    pieces: list[str], one: str, other: str
) -> None:
    text = "".join(pieces) + "."
    assume(not edition_findings(replace(ISSUE, text=text)))
    recipient = READER._replace(slots={**LINKS, "NAME": one, "ADDRESS": other})
    raw = seal(replace(ISSUE, text=text), recipient)
    assert_sound(raw)
    assert both_parts(raw)[0] == fill(text, recipient)


def test_m6_text_comes_first_and_html_last_and_nothing_else() -> None:
    message = parse(seal())
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]


@settings(max_examples=50)
@given(text=bodies)
def test_m6_the_boundary_is_in_no_line_of_any_part(text: str) -> None:
    edition = replace(ISSUE, text=text)
    boundary = parse(seal(edition)).get_boundary()
    assert boundary
    hostile = seal(replace(edition, text=f"{text}\n--{boundary}\n{boundary}--\n", html=f"--{boundary}--\n{boundary}"))
    lines = [line for line in hostile.split(b"\r\n") if boundary.encode() in line]
    assert not lines  # another text, another boundary, and "=_" is encoded
    own = parse(hostile).get_boundary()
    assert own
    assert hostile.count(own.encode()) == 1 + 2 + 1  # in Content-Type, before each part, at the end


def test_m6_an_empty_part_is_refused() -> None:
    codes = [finding.code for finding in edition_findings(replace(ISSUE, html=" \n", text=""))]
    assert codes == ["envelope.empty-part", "envelope.empty-part"]


@pytest.mark.parametrize("shift", range(9))
def test_a_soft_break_splits_no_character_and_no_escape(shift: int) -> None:
    raw = seal(recipient=READER._replace(slots={**LINKS, "NAME": "x" * shift + "語é" * 60 + "=" * 99}))
    broken = [line for line in raw.partition(b"\r\n\r\n")[2].split(b"\r\n") if line.endswith(b"=")]
    assert len(broken) > 20
    for line in broken:
        quoted_printable = re.fullmatch(rb"(?:[ -<>-~]|=[0-9A-F]{2})*=", line)
        assert quoted_printable
        bytes.fromhex("".join(re.findall(r"=([0-9A-F]{2})", line.decode()))).decode()  # raises on half a character


def test_a_slot_at_a_line_start_needs_no_soft_break_before_it() -> None:
    raw = seal(replace(ISSUE, text="@@NAME@@\n@@NAME@@"))
    assert b"\r\n\r\nAna=\r\n\r\nAna=\r\n\r\n--" in raw


def test_a_slot_value_takes_lines_of_its_own_and_leaves_the_rest_untouched() -> None:
    envelope = Envelope(ISSUE)
    one, other = (
        envelope.seal(READER._replace(slots={**LINKS, "NAME": name}), date=NOON) for name in ("Ana", "Željko " * 30)
    )
    left, right = set(one.split(b"\r\n")), set(other.split(b"\r\n"))
    assert left - right == {b"Ana="}


# --- slots ------------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.sampled_from(sorted(SLOTS)), st.sampled_from(["@", "@@", "", "x@"]), st.sampled_from(["@", "@@", "", "@x"]))
def test_a_value_that_looks_like_a_slot_stays_text(slot: str, before: str, after: str) -> None:
    name = f"{before}@@{slot}@@{after}"
    edition = replace(ISSUE, text="@@NAME@@@ @@UNSUBSCRIBE_URL@@", html="<p>@@@NAME@@@@NAME@@@</p>")
    raw = seal(edition, READER._replace(name=name, slots={**LINKS, "NAME": name}))
    text, markup = both_parts(raw)
    assert text == f"{name}@ {LINKS['UNSUBSCRIBE_URL']}"
    assert not SLOT.search(markup)
    assert html.unescape(markup) == f"<p>@{name}{name}@</p>"
    assert not SLOT.search(raw.decode())


def test_html_escapes_every_value_and_text_escapes_none() -> None:
    hostile = """<script>"x"&'y'</script>"""
    text, markup = both_parts(seal(recipient=READER._replace(slots={**LINKS, "NAME": hostile})))
    assert hostile in text
    assert "&lt;script&gt;&quot;x&quot;&amp;&#x27;y&#x27;&lt;/script&gt;" in markup


def test_a_link_with_an_ampersand_works_in_both_parts() -> None:
    text, markup = both_parts(seal(CONFIRMATION))
    links: list[str | None] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links.extend(value for name, value in attrs if name == "href")

    Links().feed(markup)
    assert [text] == links == [LINKS["CONFIRM_URL"]]


@pytest.mark.parametrize(
    "body",
    [
        "@@UNSUBSCRIBE@@",
        "@@name@@",
        "@@ NAME @@",
        "@@NAME @@",
        "@@unsubscribe-url@@",
        "@@ÑAME@@",
        "a@@1@@b",
        "@@TRACKING_ID@@",
    ],
)
def test_what_is_no_slot_but_looks_like_one_is_refused_with_its_line(body: str) -> None:
    with pytest.raises(InputError, match=r"line 3: .* is not a slot") as raised:
        Envelope(replace(ISSUE, text=f"a\n\n{body}"))
    assert [finding.code for finding in raised.value.findings] == ["envelope.unknown-slot"]


@pytest.mark.parametrize(
    "body", ["@@ -1,3 +1,4 @@", "a@@b", "@@@@", "@@\nNAME\n@@", "me@@example.org @@", "@@me @@NAME@@"]
)
def test_two_at_signs_alone_are_text(body: str) -> None:
    assert both_parts(seal(replace(ISSUE, text=body)))[0] == fill(body, READER)


@pytest.mark.parametrize(
    "markup",
    [
        "<p>@@VIEW_URL@@</p>",
        '<a href="@@VIEW_URL@@?x">a</a>',
        '<a href="x@@VIEW_URL@@">a</a>',
        "<a href='@@VIEW_URL@@'>a</a>",
        "<a href=@@VIEW_URL@@>a</a>",
        '="@@VIEW_URL@@"',
        '@@VIEW_URL@@"',
        '<a href="@@VIEW_URL@@',
    ],
)
def test_a_url_slot_in_html_must_be_a_whole_quoted_attribute_value(markup: str) -> None:
    assert [finding.code for finding in edition_findings(replace(ISSUE, html=markup))] == ["envelope.partial-url-slot"]


def test_a_url_slot_may_stand_in_a_conditional_comment_of_outlook() -> None:
    edition = replace(ISSUE, html='<!--[if mso]><v:roundrect href="@@VIEW_URL@@"><![endif]-->')
    assert LINKS["VIEW_URL"] in both_parts(seal(edition))[1]


def test_every_fault_of_an_edition_is_told_at_once() -> None:
    edition = replace(
        ISSUE,
        text="@@A@@\n@@B@@\ud800",
        html="<p>@@VIEW_URL@@</p>",
        subject="Hola @@NAME@@",
        sender=Mailbox(address="a@b.c", name="@@X@@"),
    )
    with pytest.raises(InputError) as raised:
        Envelope(edition)
    assert sorted(finding.code.partition(".")[2] for finding in raised.value.findings) == [
        "partial-url-slot",
        "slot-in-header",
        "slot-in-header",
        "surrogate",
        "unknown-slot",
        "unknown-slot",
    ]


@pytest.mark.parametrize("slot", ["NAME", "VIEW_URL", "UNSUBSCRIBE_URL"])
def test_a_slot_without_a_value_names_the_slot_and_the_recipient(slot: str) -> None:
    slots = {name: value for name, value in READER.slots.items() if name != slot}
    with pytest.raises(InputError, match=f"recipient d-7: no value for the slot {slot}"):
        seal(recipient=READER._replace(slots=slots))


def test_a_text_slot_may_be_empty_but_a_link_may_not() -> None:
    assert "Hola \n" in both_parts(seal(recipient=READER._replace(slots={**LINKS, "NAME": ""})))[0]
    with pytest.raises(HeaderError, match="VIEW_URL"):
        seal(recipient=READER._replace(slots={**READER.slots, "VIEW_URL": ""}))


@pytest.mark.parametrize("slot", ["VIEW_URL", "UNSUBSCRIBE_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "//example.org/",
        "/u/1",
        "https://",
        "http://a b",
        'https://a/"x',
        "https://a/'x",
        "https://a/<x>",
        "https://a/é",
        "https://a/\r\nBcc: x@y.z",
        "https://a/\n",
        "https://a/\x00",
        "https://a/\\",
        " https://a/",
        "HTTPS://a/",
        "data:,x",
    ],
)
def test_a_link_that_is_no_plain_url_is_refused(slot: str, url: str) -> None:
    with pytest.raises(HeaderError, match=slot):
        seal(recipient=READER._replace(slots={**READER.slots, slot: url}))


# --- M2, M3: the headers of a message ---------------------------------------------------------------------------------


def test_m2_every_header_is_there_exactly_once_in_a_fixed_order() -> None:
    expected = ["Date", "From", "Reply-To", "To", "Subject", "Message-ID", "X-Newsletter-Delivery", "List-Unsubscribe"]
    expected += ["List-Unsubscribe-Post", "List-ID", "Feedback-ID", "Precedence", "MIME-Version", "Content-Type"]
    assert parse(seal()).keys() == expected


def test_m2_to_is_exactly_the_one_recipient() -> None:
    (to,) = cast("Any", parse(seal())["To"]).addresses
    assert (to.display_name, to.addr_spec) == ("Ana Quispe", "ana@example.net")


def test_m2_from_and_reply_to_are_those_of_the_edition() -> None:
    message = parse(seal())
    assert str(message["From"]) == "Valley News <news@news.example.org>"
    assert str(message["Reply-To"]) == "The desk <desk@example.org>"
    assert "Reply-To" not in parse(seal(replace(ISSUE, reply_to=None)))


@given(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)), st.integers(-14, 14))  # noqa: DTZ001
def test_m2_the_date_is_the_one_given_in_utc(naive: datetime, hours: int) -> None:
    date = naive.replace(tzinfo=timezone(timedelta(hours=hours)))
    written = raw_header(Envelope(ISSUE).seal(READER, date=date), "Date")
    assert written.endswith(" +0000")
    assert parsedate_to_datetime(written) == date.replace(microsecond=0)


def test_the_first_second_of_1970_is_a_date_too() -> None:
    raw = Envelope(ISSUE).seal(READER, date=datetime(1970, 1, 1, tzinfo=UTC))
    assert raw_header(raw, "Date") == "Thu, 01 Jan 1970 00:00:00 +0000"


def test_a_date_without_a_zone_is_refused() -> None:
    with pytest.raises(HeaderError, match="time zone"):
        Envelope(ISSUE).seal(READER, date=NOON.replace(tzinfo=None))


def test_m3_the_message_id_is_the_delivery_and_the_same_on_each_retry() -> None:
    envelope = Envelope(ISSUE)
    first, retry = (envelope.seal(READER, date=NOON + timedelta(hours=hours)) for hours in (0, 5))
    assert raw_header(first, "Message-ID") == raw_header(retry, "Message-ID") == "<2017-11-19.d-7@news.example.org>"
    assert parse(first)["X-Newsletter-Delivery"] == "d-7"


def test_m3_100_000_deliveries_have_100_000_ids() -> None:
    tiny = Envelope(replace(CONFIRMATION, html="x", text="x"))
    found = re.compile(rb"\r\nMessage-ID: (<.*>)\r\n")
    ids = {
        cast("re.Match[bytes]", found.search(tiny.seal(READER._replace(key=f"d{number}"), date=NOON)))[1]
        for number in range(100_000)
    }
    assert len(ids) == 100_000


def test_m3_the_host_of_the_message_id_is_the_senders_domain_as_a_labels() -> None:
    raw = seal(replace(ISSUE, sender=Mailbox(address="news@bücher.example")))
    assert raw_header(raw, "Message-ID") == "<2017-11-19.d-7@xn--bcher-kva.example>"
    assert raw_header(raw, "From") == "news@xn--bcher-kva.example"


@pytest.mark.parametrize("key", ["", "a" * 65, "a.b", "a b", "é", "a\r\nBcc: x@y.z", "a\n"])
def test_a_delivery_key_of_other_characters_is_refused(key: str) -> None:
    with pytest.raises(HeaderError, match="delivery key"):
        seal(recipient=READER._replace(key=key))


@pytest.mark.parametrize("key", ["", "a b", "a..b", ".a", "a.", "é", "a\r\nb", "a@b", "x" * 101])
def test_an_edition_key_that_is_no_dot_atom_is_refused(key: str) -> None:
    with pytest.raises(HeaderError, match="edition key"):
        Envelope(replace(ISSUE, key=key))


# --- M4: RFC 2047 -----------------------------------------------------------------------------------------------------


def assert_encoded_words(written: str) -> None:
    for word in re.findall(r"=\?utf-8\?[qb]\?[^?]*\?=", written):
        assert len(word) <= 75
        _, _, way, payload, _ = word.split("?")
        octets = (
            base64.b64decode(payload)
            if way == "b"
            else re.sub(rb"=([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), payload.encode())
        )
        octets.decode()  # whole characters only


@settings(max_examples=300)
@given(headers)
@example("=?utf-8?q?a?=")
@example(" leading, trailing and  double ")
@example("word " * 40 + "end")
@example("Ж" * 500)
@example("")
def test_m4_any_subject_comes_back_exactly(subject: str) -> None:
    raw = seal(replace(ISSUE, subject=subject))
    assert_sound(raw)
    assert parse(raw)["Subject"] == subject
    assert_encoded_words(raw_header(raw, "Subject"))
    assert max(map(len, header_lines(raw, "Subject"))) <= 76


def name_written(raw: bytes, header: str, address: str) -> str:
    """The display name by RFC 2047, for which `email.header` is right where the address parser may not be."""
    phrase = raw_header(raw, header).removesuffix(f"<{address}>").strip(" ")
    if phrase.startswith('"'):
        return re.sub(r"\\(.)", r"\1", phrase[1:-1])
    return str(make_header(decode_header(phrase)))


@settings(max_examples=150)
@given(headers.filter(bool), values.filter(bool))
@example("O'Brien, Ana (desk) <x@y.z>", "J. R. Müller")
@example(" ", "  ")
@example("=?utf-8?q?a?=", '"')
@example("\\", "Ж" * 22)
def test_m4_any_display_name_comes_back_exactly(sender: str, reader: str) -> None:
    edition = replace(ISSUE, sender=Mailbox(name=sender, address="news@example.org"))
    raw = seal(edition, READER._replace(name=reader))
    assert_sound(raw)
    message = parse(raw)
    for header, name, address in (("From", sender, "news@example.org"), ("To", reader, "ana@example.net")):
        assert name_written(raw, header, address) == name
        assert_encoded_words(raw_header(raw, header))
        assert max(map(len, header_lines(raw, header))) <= 78
        (parsed,) = cast("Any", message[header]).addresses
        assert parsed.addr_spec == address
        words = raw_header(raw, header).count("=?utf-8?")
        if not (KEEPS_SPACE_IN_NAMES and words > 1):
            assert parsed.display_name == (re.sub(r" \s+", " ", name) if words else name)  # see envelope._encoded_words


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Ana Quispe", "Ana Quispe"),
        ("Ana Q. Quispe", '"Ana Q. Quispe"'),
        ("Quispe, Ana", '"Quispe, Ana"'),
        ('Ana "la jefa"', r'"Ana \"la jefa\""'),
        ("José", "=?utf-8?q?Jos=C3=A9?="),
        ("Владимир", "=?utf-8?b?0JLQu9Cw0LTQuNC80LjRgA==?="),
        ("=?utf-8?q?x?=", "=?utf-8?b?PT91dGYtOD9xP3g/PQ==?="),
        ("@@NAME@@", "=?utf-8?q?=40=40NAME=40=40?="),
    ],
)
def test_m4_a_name_is_plain_quoted_or_encoded_as_it_needs(name: str, written: str) -> None:
    assert raw_header(seal(recipient=READER._replace(name=name)), "To") == f"{written} <ana@example.net>"


def test_m4_no_name_leaves_the_bare_address() -> None:
    assert raw_header(seal(recipient=READER._replace(name="")), "To") == "ana@example.net"


@settings(max_examples=50)
@given(headers.filter(bool), values)
def test_m4_structured_headers_hold_no_encoded_words(name: str, reader: str) -> None:
    raw = seal(replace(ISSUE, list_id=(name, "weekly.example.org")), READER._replace(name=reader))
    for header in ("List-Unsubscribe", "List-Unsubscribe-Post", "List-ID", "Message-ID", "Feedback-ID"):
        assert "=?" not in raw_header(raw, header)


# --- M5, L1, L5: List-Unsubscribe -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [30, 100, 500, 900])
def test_m5_a_long_unsubscribe_link_is_never_encoded_or_folded(length: int) -> None:
    url = f"https://news.example.org/u/{'a1-_' * (length // 4)}"
    raw = seal(recipient=READER._replace(slots={**READER.slots, "UNSUBSCRIBE_URL": url}))
    assert f"\r\nList-Unsubscribe: <{url}>,\r\n".encode() in raw
    assert url in both_parts(raw)[0]
    assert_sound(raw)


def test_m1_a_link_of_any_length_keeps_body_lines_short() -> None:
    for length in range(40, 180):
        url = "https://a.example/".ljust(length, "x")
        recipient = READER._replace(slots={**READER.slots, "VIEW_URL": url})
        raw = seal(recipient=recipient)
        assert_sound(raw)
        assert both_parts(raw) == (fill(ISSUE.text, recipient), fill(ISSUE.html, recipient))


def test_m5_a_link_over_998_octets_is_refused() -> None:
    url = f"https://news.example.org/u/{'a' * 960}"
    with pytest.raises(HeaderError, match="longer than a header line"):
        seal(recipient=READER._replace(slots={**READER.slots, "UNSUBSCRIBE_URL": url}))


def test_l1_one_https_uri_and_exactly_one_click() -> None:
    raw = seal(replace(ISSUE, unsubscribe_mailbox=""))
    assert raw_header(raw, "List-Unsubscribe") == f"<{LINKS['UNSUBSCRIBE_URL']}>"
    assert raw_header(raw, "List-Unsubscribe-Post") == "List-Unsubscribe=One-Click"


def test_l1_one_click_is_not_promised_for_a_link_without_tls() -> None:
    url = "http://localhost:8000/u/x"
    raw = seal(recipient=READER._replace(slots={**READER.slots, "UNSUBSCRIBE_URL": url}))
    assert f"<{url}>" in raw_header(raw, "List-Unsubscribe")
    assert b"List-Unsubscribe-Post" not in raw


def test_l1_a_bulk_message_cannot_be_sealed_with_a_mailto_as_its_link() -> None:
    with pytest.raises(HeaderError, match="must be a web address"):
        seal(recipient=READER._replace(slots={**READER.slots, "UNSUBSCRIBE_URL": "mailto:leave@example.org"}))


def test_l5_the_mailto_carries_the_token_of_the_link_on_a_line_of_its_own() -> None:
    token = LINKS["UNSUBSCRIBE_URL"].rpartition("/")[2]
    assert f",\r\n <mailto:leave@news.example.org?subject=unsubscribe-{token}>\r\n".encode() in seal()


@pytest.mark.parametrize(
    ("url", "token"),
    [("https://a.example/u/T/", "T"), ("https://a.example/u/T?x=/1", "T"), ("https://a.example/u/a&b=c", "a%26b%3Dc")],
)
def test_l5_the_token_is_the_last_segment_of_the_path_and_cannot_change_the_mailto(url: str, token: str) -> None:
    raw = seal(recipient=READER._replace(slots={**READER.slots, "UNSUBSCRIBE_URL": url}))
    assert raw_header(raw, "List-Unsubscribe").endswith(f"?subject=unsubscribe-{token}>")


def test_l5_the_local_part_of_the_mailbox_is_percent_encoded() -> None:
    raw = seal(replace(ISSUE, unsubscribe_mailbox="leave+a&b?c@bücher.example"))
    assert "<mailto:leave%2Ba%26b%3Fc@xn--bcher-kva.example?subject=" in raw_header(raw, "List-Unsubscribe")


# --- L6, L7, L8 -------------------------------------------------------------------------------------------------------


def test_l6_the_list_id_is_the_same_for_every_issue() -> None:
    written = {raw_header(seal(replace(ISSUE, key=key)), "List-ID") for key in ("2017-11-19", "2017-11-26")}
    assert written == {'"Valley News, weekly" <weekly.news.example.org>'}


@pytest.mark.parametrize("name", ["", "Noticias del Perú", "=?utf-8?q?x?=", "word " * 20 + "end,"])
def test_l6_a_list_name_that_needs_encoding_is_left_out(name: str) -> None:
    assert raw_header(seal(replace(ISSUE, list_id=(name, "weekly.example.org"))), "List-ID") == "<weekly.example.org>"


@pytest.mark.parametrize(
    "identifier", ["", "weekly", "a b.c", "a..b", "é.example.org", "a.b>\r\nBcc: x@y.z", "a.b\n", "a." * 130 + "b"]
)
def test_l6_what_is_no_list_identifier_is_refused(identifier: str) -> None:
    with pytest.raises(HeaderError, match="List-ID"):
        Envelope(replace(ISSUE, list_id=("x", identifier)))


def test_l7_an_issue_is_bulk_and_a_confirmation_is_auto_generated() -> None:
    issue, confirmation = parse(seal()), parse(seal(CONFIRMATION))
    assert (issue["Precedence"], issue["Auto-Submitted"]) == ("bulk", None)
    assert (confirmation["Precedence"], confirmation["Auto-Submitted"]) == (None, "auto-generated")
    assert not [name for name in confirmation if name.startswith("List-") or name == "Feedback-ID"]


def test_l7_a_confirmation_needs_no_unsubscribe_link() -> None:
    seal(CONFIRMATION, READER._replace(slots={"CONFIRM_URL": "https://news.example.org/c/1"}))


def test_l8_the_feedback_id_is_the_same_for_every_recipient() -> None:
    envelope = Envelope(ISSUE)
    raws = [envelope.seal(READER._replace(key=key), date=NOON) for key in ("a", "b")]
    assert {raw_header(raw, "Feedback-ID") for raw in raws} == {"2017-11-19:weekly:news:example"}


@pytest.mark.parametrize("value", ["a:b:c:d:e", "a b", "é:b", "a::b", "a\r\nBcc: x@y.z", "a\n", "=?utf-8?q?x?="])
def test_l8_a_feedback_id_of_another_shape_is_refused(value: str) -> None:
    with pytest.raises(HeaderError, match="Feedback-ID"):
        Envelope(replace(ISSUE, feedback_id=value))


# --- L2: DKIM ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key_pair() -> tuple[bytes, bytes]:
    """A private key as dkimpy reads it and the TXT record of its public half."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem, b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


@pytest.mark.parametrize("name", ["Ana Quispe", "Ж" * 60, "@@NAME@@", ". ", "x" * 300])
def test_l2_p6_the_sealed_bytes_are_signed_and_verified_unchanged(key_pair: tuple[bytes, bytes], name: str) -> None:
    private, record = key_pair
    signed_headers = [b"from", b"to", b"subject", b"date", b"message-id", b"mime-version", b"content-type"]
    signed_headers += [b"list-unsubscribe", b"list-unsubscribe-post", b"list-id", b"feedback-id"]
    raw = seal(replace(ISSUE, subject=name.replace("@", "")), READER._replace(name=name, slots={**LINKS, "NAME": name}))
    signature = dkim.sign(
        raw, b"s1", b"news.example.org", private, canonicalize=(b"relaxed", b"relaxed"), include_headers=signed_headers
    )
    assert re.search(rb"h=[^;]*list-unsubscribe\s*:\s*list-unsubscribe-post", re.sub(rb"\s+", b"", signature))
    assert dkim.verify(signature + raw, dnsfunc=lambda name, timeout=5: record)
    assert not dkim.verify(signature + raw.replace(b"One-Click", b"One-Clack"), dnsfunc=lambda name, timeout=5: record)


# --- M7: embedded images ----------------------------------------------------------------------------------------------

PICTURES = (
    Image(name="0a" * 16 + ".png", media_type="image/png", content=bytes(range(256)) * 9, width=3, height=2),
    Image(name="0b" * 16 + ".gif", media_type="image/gif", content=b".\r\n.\r\nFrom \n", width=1, height=1),
)
EMBEDDED = replace(
    ISSUE, html=f'<img src="cid:{PICTURES[0].name}@newsletter" alt="">@@NAME@@', images=PICTURES, embed=True
)


def test_m7_embedded_images_stand_beside_the_html_with_identical_bytes() -> None:
    raw = seal(EMBEDDED)
    assert_sound(raw)
    message = parse(raw)
    text, related = cast("list[EmailMessage]", list(message.iter_parts()))
    assert (text.get_content_type(), related.get_content_type()) == ("text/plain", "multipart/related")
    assert related.get_param("type") == "text/html"
    markup, *images = cast("list[EmailMessage]", list(related.iter_parts()))
    assert content(markup) == fill(EMBEDDED.html, READER)
    assert [image.get_content() for image in images] == [picture.content for picture in PICTURES]
    for image, picture in zip(images, PICTURES, strict=True):
        assert image.get_content_type() == picture.media_type
        assert image["Content-ID"] == f"<{picture.name}@newsletter>"
        assert (image.get_content_disposition(), image.get_filename()) == ("inline", picture.name)
    assert cast("EmailMessage", message.get_body(("html",))).get_content_type() == "text/html"


def test_m7_images_that_are_not_embedded_are_not_sent() -> None:
    assert b"image/png" not in seal(replace(EMBEDDED, embed=False))


@pytest.mark.parametrize(
    "change", [{"name": 'a".png'}, {"name": "é.png"}, {"name": "a\r\nb"}, {"media_type": "image/png\r\nX: y"}]
)
def test_m7_an_image_that_is_not_named_by_its_content_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(HeaderError, match="image"):
        Envelope(replace(EMBEDDED, images=(replace(PICTURES[0], **cast("Any", change)),)))


# --- M8: addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "wire"),
    [
        ("ana@example.org", "ana@example.org"),
        ("Ana.Q+news@Example.ORG", "Ana.Q+news@example.org"),
        ("o'brien/x=y@a-b.example", "o'brien/x=y@a-b.example"),
        ("ana@localhost", "ana@localhost"),
        ("ana@bücher.example", "ana@xn--bcher-kva.example"),
        ("ana@BÜCHER.example", "ana@xn--bcher-kva.example"),
        ("ana@xn--bcher-kva.example", "ana@xn--bcher-kva.example"),
        ("ana@faß.example", "ana@xn--fa-hia.example"),
        ("ana@例え。テスト", "ana@xn--r8jz45g.xn--zckzah"),
        ("x" * 64 + "@example.org", "x" * 64 + "@example.org"),
    ],
)
def test_m8_a_domain_goes_out_as_lower_case_a_labels(typed: str, wire: str) -> None:
    recipient = READER._replace(address=typed)
    assert Envelope(ISSUE).wire_address(recipient) == (wire, False)
    assert raw_header(seal(recipient=recipient._replace(name="")), "To") == wire


def test_m8_a_local_part_beyond_ascii_is_written_raw_and_needs_smtputf8() -> None:
    recipient = READER._replace(address="josé@bücher.example", name="José")
    assert Envelope(ISSUE).wire_address(recipient) == ("josé@xn--bcher-kva.example", True)
    raw = seal(recipient=recipient)
    assert "To: =?utf-8?q?Jos=C3=A9?= <josé@xn--bcher-kva.example>\r\n".encode() in raw
    assert_sound(raw)


def test_m8_a_sender_beyond_ascii_makes_every_message_need_smtputf8() -> None:
    for change in (
        {"sender": Mailbox(address="señal@example.org")},
        {"reply_to": Mailbox(address="señal@example.org")},
    ):
        assert Envelope(replace(ISSUE, **cast("Any", change))).wire_address(READER) == ("ana@example.net", True)


BAD_ADDRESSES = [
    "",
    "secretname",
    "@",
    "secretname@",
    "@secret.example",
    "secretname@example.org, other@example.org",
    "Ana <secretname@example.org>",
    "<secretname@example.org>",
    "secretname@example.org (home)",
    "secret name@example.org",
    " secretname@example.org",
    "secretname@example.org ",
    "secretname@@example.org",
    "secretname@other@example.org",
    ".secretname@example.org",
    "secretname.@example.org",
    "secret..name@example.org",
    '"secret name"@example.org',
    "secretname@[192.0.2.1]",
    "secretname@192.0.2.1",
    "secretname@example..org",
    "secretname@.example.org",
    "secretname@example.org.",
    "secretname@-a.example",
    "secretname@a-.example",
    "secretname@a_b.example",
    "secretname@xn--a.example",
    "secretname@☃.example",
    "secretname@exam ple.org",
    "secretname@" + "a" * 64 + ".org",
    "secretname@" + "a." * 130 + "org",
    "s" * 65 + "@example.org",
    "é" * 33 + "@example.org",
    "x" * 64 + "@" + "a" * 60 + ("." + "b" * 60) * 3,
    "secretname\r\nBcc: x@example.org",
    "secretname@example.org\r\nBcc: x",
    "secretname@example.org\n",
    "secret\x00name@example.org",
    "secretname\x7f@example.org",
    "secret\u2028name@example.org",
    "secret\u200bname@example.org",
    "secret\xa0name@example.org",
    "secret\ud800name@example.org",
    "secretname@exa\ud800mple.org",
    "secret:name@example.org",
    "secret;name@example.org",
    "secret\\name@example.org",
]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_m8_what_is_not_one_bare_address_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(AddressError, match=r"^recipient d-7: ") as raised:
        seal(recipient=READER._replace(address=address))
    with pytest.raises(AddressError, match=r"^recipient d-7: ") as again:
        Envelope(ISSUE).wire_address(READER._replace(address=address))
    assert str(raised.value) == str(again.value)
    assert "secret" not in str(raised.value)
    assert "example" not in str(raised.value)


@settings(max_examples=200)
@given(st.text(min_size=1, max_size=12), st.text(max_size=12))
def test_m8_an_address_is_one_word_on_the_wire_or_refused(local: str, domain: str) -> None:
    try:
        wire = addr_spec(f"{local}@{domain}")
    except AddressError:
        return
    assert re.fullmatch(r'[^\x00-\x20<>()\[\]:;,@\\"\x7f-\x9f\u2028\u2029]+@[a-z0-9.-]+', wire)
    assert wire.partition("@")[0] == local


def test_a_sender_that_is_no_address_says_which_mailbox() -> None:
    for change in ("sender", "reply_to"):
        with pytest.raises(AddressError, match=f"^{change.replace('_', '-')}: "):
            Envelope(replace(ISSUE, **cast("Any", {change: Mailbox(address="a b@example.org")})))
    with pytest.raises(AddressError, match=r"^unsubscribe mailbox: "):
        Envelope(replace(ISSUE, unsubscribe_mailbox="a@b@example.org"))


# --- M9: header injection ---------------------------------------------------------------------------------------------

INJECTIONS = ["\r\nBcc: x@evil.example", "\nBcc: x@evil.example", "\rBcc: x", "\r\n\r\nbody", *FORBIDDEN, "\ud800"]


def edition_with(place: str, text: str) -> Edition:
    changes: dict[str, Any] = {
        "subject": f"a{text}b",
        "sender name": Mailbox(name=f"a{text}b", address="a@example.org"),
        "sender address": Mailbox(address=f"a{text}@example.org"),
        "reply-to name": Mailbox(name=f"a{text}b", address="a@example.org"),
        "reply-to address": Mailbox(address=f"a@example{text}.org"),
        "list name": (f"a{text}b", "a.example.org"),
        "list identifier": ("a", f"a.example{text}.org"),
        "feedback id": f"a{text}:b",
        "unsubscribe mailbox": f"a{text}@example.org",
        "key": f"a{text}b",
    }
    names = {
        "sender": "sender",
        "reply-to": "reply_to",
        "list": "list_id",
        "feedback": "feedback_id",
        "unsubscribe": "unsubscribe_mailbox",
    }
    first = place.split(" ", maxsplit=1)[0]
    return replace(ISSUE, **{names.get(first, first): changes[place]})


@pytest.mark.parametrize(
    "place",
    [
        "subject",
        "sender name",
        "sender address",
        "reply-to name",
        "reply-to address",
        "list name",
        "list identifier",
        "feedback id",
        "unsubscribe mailbox",
        "key",
    ],
)
def test_m9_no_field_of_an_edition_lets_a_header_in(place: str) -> None:
    Envelope(edition_with(place, ""))  # without the injection each is fine
    for text in INJECTIONS:
        with pytest.raises((HeaderError, AddressError)):
            Envelope(edition_with(place, text))


def recipient_with(place: str, text: str) -> Recipient:
    value = f"a{text}b"
    if place in SLOTS:
        old = "a" if place in TEXT_SLOTS else LINKS[place]
        return READER._replace(slots={**READER.slots, place: f"{old}{text}"})
    return READER._replace(**cast("Any", {place: value if place != "address" else f"{value}@example.org"}))


@pytest.mark.parametrize("place", ["key", "name", "address", *sorted(SLOTS)])
def test_m9_no_field_of_a_recipient_lets_a_header_in(place: str) -> None:
    slots = "@@NAME@@ @@ADDRESS@@ @@VIEW_URL@@ @@PREFERENCES_URL@@ @@CONFIRM_URL@@ @@UNSUBSCRIBE_URL@@"
    envelope = Envelope(replace(ISSUE, text=slots))
    envelope.seal(recipient_with(place, ""), date=NOON)
    for text in INJECTIONS:
        with pytest.raises((HeaderError, AddressError)) as raised:
            envelope.seal(recipient_with(place, text), date=NOON)
        assert "evil" not in str(raised.value)


def test_m9_body_text_that_looks_like_headers_stays_body() -> None:
    text = "Bcc: x@evil.example\r\n\r\nFrom: y@evil.example\r\n--=_a\r\nSubject: z"
    raw = seal(replace(ISSUE, text=text))
    assert "Bcc" not in parse(raw)
    assert both_parts(raw)[0] == lf(text)


# --- M11 --------------------------------------------------------------------------------------------------------------


def test_m11_the_text_part_holds_the_unsubscribe_link() -> None:
    assert LINKS["UNSUBSCRIBE_URL"] in both_parts(seal())[0]


# --- the whole --------------------------------------------------------------------------------------------------------


def test_the_same_edition_recipient_and_date_give_the_same_bytes() -> None:
    assert seal() == seal(pickle.loads(pickle.dumps(ISSUE)), pickle.loads(pickle.dumps(READER)))


anyones = st.builds(
    Recipient,
    key=st.sampled_from(["d-7", "0a" * 16, "", "a b", "x" * 65, "d-7\nd-8"]),
    address=st.one_of(
        st.sampled_from(["ana@example.net", "josé@bücher.example", "no", "ana@b.example\nbob@b.example"]), values
    ),
    name=st.one_of(st.sampled_from(["Ana Quispe", "María", "", "Ana\nBob", "=?x", "a" * 70]), values),
    slots=st.fixed_dictionaries(
        {
            "NAME": st.one_of(
                st.sampled_from(["Ana", ".", " ", "", "From x", "a\nb", "\ud800", "@@", "x" * 76]), values
            ),
            **{
                slot: st.one_of(
                    st.just(url),
                    st.text("abc-_~.", max_size=80).map("https://n.example/u/{}".format),
                    st.sampled_from(
                        [
                            *("", "http://", "https://x", "ftp://x", "mailto:a@b.c", "https://x/\nhttps://y"),
                            *("https://x/a:b", "https://x/?a=1&b=2", "https://x/é", "https://x/y/"),
                            "https://h.example/" + "z" * 999,
                        ]
                    ),
                )
                for slot, url in LINKS.items()
            },
        }
    ),
)


@given(st.lists(anyones, max_size=6), st.sampled_from([ISSUE, CONFIRMATION, replace(ISSUE, unsubscribe_mailbox="")]))
def test_sealing_many_is_sealing_each(people: list[Recipient], edition: Edition) -> None:
    envelope = Envelope(edition)

    def one(recipient: Recipient) -> tuple[object, ...]:
        try:
            return (envelope.seal(recipient, date=NOON), *envelope.wire_address(recipient))
        except (AddressError, HeaderError) as error:
            return (type(error), str(error))

    together = [
        (b"".join(each.pieces), each.address, each.utf8) if isinstance(each, Sealed) else (type(each), str(each))
        for each in envelope.seal_all(people, date=NOON)
    ]
    assert together == [one(recipient) for recipient in people]


def test_sealing_many_needs_every_slot_before_anything_is_made() -> None:
    lacks = READER._replace(slots={})
    with pytest.raises(InputError, match="no value for the slot"):
        Envelope(ISSUE).seal_all([READER, lacks], date=NOON)


def test_messages_sealed_together_share_what_is_the_same() -> None:
    first, second = (each for each in Envelope(ISSUE).seal_all([READER] * 2, date=NOON) if isinstance(each, Sealed))
    shared = sum(len(piece) for piece, other in zip(first.pieces, second.pieces, strict=True) if piece is other)
    assert shared > sum(map(len, first.pieces)) / 2


def test_one_recipient_leaves_no_trace_in_the_next_message() -> None:
    envelope = Envelope(ISSUE)
    clean = envelope.seal(READER, date=NOON)
    envelope.seal(
        Recipient(key="other", address="other@example.org", slots={**LINKS, "NAME": "Other"}),
        date=NOON + timedelta(days=1),
    )
    assert envelope.seal(READER, date=NOON) == clean


@pytest.mark.parametrize(
    "url", ["https://n.example/u/a\r\nBcc: x@example.net", "javascript:x", "https://n.example/>,<x"]
)
def test_headers_for_a_way_out_that_builds_messages_hold_no_link_that_is_none(url: str) -> None:
    recipient = Recipient(key="k", address="ana@example.net", slots={"UNSUBSCRIBE_URL": url})
    with pytest.raises(HeaderError, match="is not a plain"):
        Envelope(ISSUE).headers_for(recipient)


def test_headers_for_a_way_out_that_builds_messages_are_those_of_a_sealed_message() -> None:
    envelope = Envelope(ISSUE)
    sealed = parse(seal())
    given = {**envelope.headers, **envelope.headers_for(READER)}
    assert given["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert given == {name: sealed[name] for name in given}
