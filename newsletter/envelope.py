"""Edition → RFC 5322 bytes: encoded once, sealed per recipient.

An `Envelope` holds both parts of an edition in quoted-printable, cut at their slots. A soft line break stands before
and after every slot, so a seal encodes the few values, writes the few headers that differ, and joins bytes.

What every sealed message guarantees, whatever text went in:

- CRLF line ends only; body lines ≤ 76 octets, no blank before a line end; header lines ≤ 78 where an address or a URI
  allows it and never over 998 (RFC 5322 §2.1.1).
- No line starts with a dot, none in a body with `From `: nothing needs stuffing or quoting on any way, so the same
  bytes serve SMTP, a Maildir and a DKIM signature.
- No line of a body holds a tab or two blanks in a row: the body is its own relaxed form (RFC 6376 §3.4.4).
- Parsed back, each part is the text that went in, line ends counting as the same (`\\r\\n`, `\\r` and `\\n` all come
  back as one line end), with its slots filled: in the text part with the value itself, in HTML with the escaped value.
- The same edition, recipient and date give the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from base64 import encodebytes
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import repeat
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from newsletter.errors import AddressError, Finding, HeaderError, InputError
from newsletter.headers import (
    CONTROL,
    addr_spec,
    addr_specs,
    lines_of,
    list_id,
    mailbox_header,
    plain_to_headers,
    subject_header,
)
from newsletter.quoted import PLAIN_URL, PLAIN_VALUE, plain_values, quoted_markup_value, quoted_text, quoted_value
from newsletter.rendering.edition import SLOT, SLOTS, URL_SLOTS, Edition, Image, Mailbox

_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY_LINES = re.compile(rf"(?:{_KEY.pattern}\n)*")
_EDITION_KEY = re.compile(r"(?=.{1,100}\Z)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")  # a dot-atom: it opens the Message-ID
_URL = re.compile(r"(?:https?://|mailto:)[A-Za-z0-9\-._~:/?#\[\]@!$&()*+,;=%]+")  # RFC 3986 without the apostrophe
_MAX_HEADER_LINE = 998
_T = TypeVar("_T")
# Places in Sealed.pieces. That of BODY holds the last headers, which are the edition's, and the beginning of the body.
DATE, TO, KEYS, LIST, BODY = 1, 3, (5, 7), 8, 9


class Recipient(NamedTuple):
    """What a way out needs of a delivery. Nothing is checked before a message is sealed for it.

    A tuple, since there are tens of thousands a second and a frozen dataclass takes three times as long to make.
    """

    key: str  # opaque delivery id, 1 to 64 of A-Z a-z 0-9 _ -
    address: str  # one bare addr-spec as typed, Unicode domain allowed
    name: str = ""  # display name in To
    slots: Mapping[str, str] = MappingProxyType({})  # plain text and finished URLs, never markup


class Sealed(NamedTuple):
    """A message that may leave."""

    pieces: tuple[bytes, ...]  # the message is these joined; most of them are the same objects in every message
    address: str  # for RCPT TO, its domain as A-labels
    utf8: bool  # whether the message needs SMTPUTF8 (RFC 6531)


class Envelope:
    """One edition, encoded. Holds about as many bytes as the message has; may be shared between threads.

    Raises `InputError` with every fault of its parts (`edition_findings`), `HeaderError` for a header value that cannot
    be written, `AddressError` for a sender, Reply-To or unsubscribe mailbox that is not one address.
    """

    def __init__(self, edition: Edition) -> None:
        if findings := edition_findings(edition):
            raise InputError(findings)
        if not _EDITION_KEY.fullmatch(edition.key):
            raise HeaderError(
                f"edition key {edition.key!r}: use at most 100 letters, digits, - and _, with single dots between"
            )
        sender = _mailbox_address("sender", edition.sender)
        head = mailbox_header("From", edition.sender.name, sender)
        reply_to = _mailbox_address("reply-to", edition.reply_to) if edition.reply_to else ""
        if edition.reply_to:
            head += mailbox_header("Reply-To", edition.reply_to.name, reply_to)
        self._utf8 = not (sender + reply_to).isascii()
        self._bulk = edition.kind == "bulk"
        self._unsubscribe_mailto = _unsubscribe_mailto(edition.unsubscribe_mailbox)
        self._date = _date_of_second(0)

        # A message is these pieces joined. Empty ones are a recipient's: DATE, TO, KEYS, LIST, and later the slots.
        before_id = f"{subject_header(edition.subject)}Message-ID: <{edition.key}."
        after_id = f"@{sender.rpartition('@')[2]}>\r\nX-Newsletter-Delivery: "
        head_pieces = ["Date: ", "", f"\r\n{head}", "", before_id, "", after_id, "", "", _constant_headers(edition)]
        self.headers: Mapping[str, str] = _unfolded(head_pieces[-1])
        self._pieces = [piece.encode() for piece in head_pieces]
        # Slot → its places in the text part and in the HTML part, here and in the header.
        self._fills: dict[str, tuple[list[int], list[int]]] = {"UNSUBSCRIBE_URL": ([], [])} if self._bulk else {}
        self._add_body(edition)

    @property
    def constant(self) -> tuple[bytes, ...]:
        """The pieces of every message of the edition, a recipient's being empty."""
        return tuple(self._pieces)

    def seal(self, recipient: Recipient, *, date: datetime) -> bytes:
        """The complete message for one recipient. `date` is aware and is written in UTC.

        Raises `AddressError` or `HeaderError` when this recipient cannot be written (key, address, name, a value with a
        control character, a slot URL that is none): a matter of this recipient alone. Raises `InputError` when a slot
        that the edition uses has no value, which is a fault of the caller: text slots may be empty, but say so with "".
        """
        key = _key(recipient)
        pieces = self._pieces.copy()
        for slot, (in_text, in_html) in self._fills.items():
            plain, markup = _value(recipient, slot)
            for place in in_text:
                pieces[place] = plain
            for place in in_html:
                pieces[place] = markup
        pieces[DATE] = self._date_of(date)
        pieces[TO] = _to(recipient, _address(recipient))
        pieces[KEYS[0]] = pieces[KEYS[1]] = key
        pieces[LIST] = self._list_unsubscribe(recipient) if self._bulk else b"\r\n"
        return b"".join(pieces)

    def seal_all(self, recipients: Sequence[Recipient], *, date: datetime) -> list[Sealed | AddressError | HeaderError]:
        """Many messages, in the order of their recipients; where `seal` would raise, its error stands.

        Works column by column and copies no message together: a recipient takes a third of the time of a `seal`.
        Raises `InputError` before all else when a slot that the edition uses has no value for one of them.
        """
        self.check_slots(recipients)
        faults: dict[int, AddressError | HeaderError] = {}

        def column(cell: Callable[..., _T], blank: _T, *arguments: Iterable[Any]) -> list[_T]:
            cells = []
            for place, each in enumerate(zip(*arguments, strict=False)):
                try:
                    cells.append(cell(*each))
                except (AddressError, HeaderError) as error:
                    faults.setdefault(place, error)
                    cells.append(blank)
            return cells

        columns: list[Iterable[bytes]] = [repeat(piece) for piece in self._pieces]
        keys = lines_of([recipient.key for recipient in recipients], _KEY_LINES)
        columns[KEYS[0]] = columns[KEYS[1]] = keys.encode().split() if keys else column(_key, b"", recipients)
        links: list[bytes] | None = None
        for slot, (in_text, in_html) in self._fills.items():
            plain = plain_values([recipient.slots[slot] for recipient in recipients], url=slot in URL_SLOTS)
            markup = plain or []
            if plain is None:
                both = column(_value, (b"", b""), recipients, repeat(slot))
                plain, markup = [cell for cell, _ in both], [cell for _, cell in both]
            elif slot == "UNSUBSCRIBE_URL":
                links = plain
            for place in in_text:
                columns[place] = plain
            for place in in_html:
                columns[place] = markup
        columns[DATE] = repeat(self._date_of(date))
        addresses = addr_specs([recipient.address for recipient in recipients])
        utf8: Iterable[bool] = repeat(self._utf8)
        if addresses is None:
            addresses = column(_address, "", recipients)
            utf8 = [self._utf8 or not address.isascii() for address in addresses]
        names = [recipient.name for recipient in recipients]
        columns[TO] = plain_to_headers(names, addresses) or column(_to, b"", recipients, addresses)
        if self._bulk:
            columns[LIST] = self._plain_list_unsubscribe(links) or column(self._list_unsubscribe, b"", recipients)
        else:
            columns[LIST] = repeat(b"\r\n")
        rows = zip(*columns, strict=False)  # most columns have no end, but that of the addresses has
        sealed: list[Sealed | AddressError | HeaderError] = list(map(Sealed, rows, addresses, utf8))
        for place, fault in faults.items():
            sealed[place] = fault
        return sealed

    def check_slots(self, recipients: Iterable[Recipient]) -> None:
        """Raises `InputError` when a recipient lacks a value for a slot that the edition uses.

        `seal` would raise it too, but for a chunk half of which has left. About 0.2 µs a recipient.
        """
        needed = self._fills.keys()
        for recipient in recipients:
            if not needed <= recipient.slots.keys():
                _value(recipient, min(needed - recipient.slots.keys()))

    def wire_address(self, recipient: Recipient) -> tuple[str, bool]:
        """The address for RCPT TO, its domain as A-labels, and whether this message needs SMTPUTF8 (RFC 6531).

        It does when the local part of the recipient, of the sender or of Reply-To is not ASCII. Raises `AddressError`.
        """
        address = _address(recipient)
        return address, self._utf8 or not address.isascii()

    def headers_for(self, recipient: Recipient) -> dict[str, str]:
        """The headers that only this recipient's message has, for a way out that builds messages itself; unfolded.

        `headers` are those that every message of the edition has, beside From, Reply-To, To, Subject, Date and
        Message-ID. Raises `AddressError` or `HeaderError` as `seal` does.
        """
        key = _key(recipient).decode()
        if self._bulk:
            _value(recipient, "UNSUBSCRIBE_URL")  # nothing but a URL: it could hold further headers
        own = self._list_unsubscribe(recipient).decode() if self._bulk else "\r\n"
        return _unfolded(f"X-Newsletter-Delivery: {key}{own}")

    def _date_of(self, date: datetime) -> bytes:
        if date.tzinfo is None:
            raise HeaderError("a message needs a date with a time zone")
        second = int(date.timestamp())
        cached = self._date  # read once: another thread may replace the pair
        if cached[0] != second:
            cached = self._date = _date_of_second(second)
        return cached[1]

    def _list_unsubscribe(self, recipient: Recipient) -> bytes:
        """RFC 2369 and RFC 8058, one URI a line, never folded into encoded-words; one-click is for HTTPS only.

        The mailto: carries the same token as the link, so that the mail that comes back tells who wants to leave.
        """
        url = recipient.slots["UNSUBSCRIBE_URL"]
        if not url.startswith("http"):
            raise HeaderError(f"recipient {recipient.key}: UNSUBSCRIBE_URL must be a web address, not mailto:")
        lines = f"\r\nList-Unsubscribe: <{url}>"
        if self._unsubscribe_mailto:
            lines += f",\r\n <mailto:{self._unsubscribe_mailto}?subject=unsubscribe-{_last_segment(url)}>"
        if len(lines) > _MAX_HEADER_LINE and max(map(len, lines.split("\r\n"))) > _MAX_HEADER_LINE:
            raise HeaderError(f"recipient {recipient.key}: UNSUBSCRIBE_URL is longer than a header line may be")
        if url.startswith("https:"):
            lines += "\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click"
        return f"{lines}\r\n".encode()

    def _plain_list_unsubscribe(self, links: list[bytes] | None) -> list[bytes] | None:
        """`_list_unsubscribe` of each when all are plain https: links that end in plain tokens; else None."""
        if links is None or b"http://" in b"\n".join(links):
            return None
        tokens = [link.rpartition(b"/")[2] for link in links]
        if not all(tokens) or b"".join(tokens).translate(None, _UNRESERVED_OCTETS):
            return None
        mailto = f",\r\n <mailto:{self._unsubscribe_mailto}?subject=unsubscribe-".replace("%", "%%")
        mailto = f"{mailto}%b>" if self._unsubscribe_mailto else "%.0b"
        lines = f"\r\nList-Unsubscribe: <%b>{mailto}\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n".encode()
        return [lines % pair for pair in zip(links, tokens, strict=True)]

    def _add_body(self, edition: Edition) -> None:
        seed = hashlib.sha256(f"{edition.key}\n{edition.html}\n{edition.text}".encode()).hexdigest()[:24]
        outer, inner = f"=_a{seed}", f"=_r{seed}"  # "=_" occurs in neither quoted-printable nor base64 (RFC 2045 §6.7)
        images = edition.images if edition.embed else ()
        self._add(_multipart_header("alternative", outer))
        self._add(f"\r\n--{outer}\r\n{_TEXT_HEADER.format('plain')}")
        self._add_part(edition.text, _TEXT)
        self._add(f"\r\n--{outer}\r\n")
        if images:
            self._add(f"{_multipart_header('related', inner)}\r\n--{inner}\r\n")
        self._add(_TEXT_HEADER.format("html"))
        self._add_part(edition.html, _HTML)
        for image in images:
            self._add(f"\r\n--{inner}\r\n{_image_part(image)}")
        if images:
            self._add(f"\r\n--{inner}--\r\n")
        self._add(f"\r\n--{outer}--\r\n")

    def _add(self, text: str) -> None:
        self._pieces[-1] += text.encode()

    def _add_part(self, text: str, part: int) -> None:
        pieces = SLOT.split(_LINE_END.sub("\n", text))  # text, slot, text, slot, …, text
        last = len(pieces) - 1
        for number, piece in enumerate(pieces):
            if number % 2:
                self._fills.setdefault(piece, ([], []))[part].append(len(self._pieces))
                self._pieces += [b"", b""]
            else:
                self._add(quoted_text(piece, after_slot=number > 0, before_slot=number < last))


def edition_findings(edition: Edition) -> list[Finding]:
    """Every fault of an edition's parts and slots; none when it can be sealed or given to a provider that fills slots.

    Codes: `envelope.unknown-slot` (no slot of that name, or something that looks like one), `envelope.partial-url-slot`
    (a URL slot that is not a whole double-quoted attribute value in HTML), `envelope.slot-in-header`,
    `envelope.empty-part`, `envelope.surrogate`.
    """
    findings: list[Finding] = []

    def report(code: str, place: str, message: str, help: str) -> None:
        message = f"edition {edition.key} ({edition.language}), {place}: {message}"
        findings.append(Finding(code=f"envelope.{code}", severity="error", where=None, message=message, help=help))

    for part, text in (("html", edition.html), ("text", edition.text)):
        if not text.strip():
            report("empty-part", part, "the part is empty", "a message carries its text twice, as text and as HTML")
        if surrogate := _SURROGATE.search(text):
            message = f"lone surrogate U+{ord(surrogate[0]):04X} at character {surrogate.start() + 1}"
            report("surrogate", part, message, "the text was decoded wrongly: save its source as UTF-8")
        for found in _SLOT_LIKE.finditer(text):
            place = f"{part} line {text.count(chr(10), 0, found.start()) + 1}"
            slot = found[0][2:-2]
            if slot not in SLOTS:
                report("unknown-slot", place, f"{found[0]} is not a slot", f"the slots are {', '.join(sorted(SLOTS))}")
            elif part == "html" and slot in URL_SLOTS and not _is_whole_attribute(text, found.start(), found.end()):
                help = f'write href="@@{slot}@@", with nothing else between the quotes'
                report("partial-url-slot", place, f"@@{slot}@@ is not a whole attribute value", help)
    names = [("sender", edition.sender.name), ("reply-to", edition.reply_to.name if edition.reply_to else "")]
    for place, text in (("subject", edition.subject), *names):
        if looks_like := _SLOT_LIKE.search(text):
            help = "slots are for the html and text parts; write the header without it"
            report("slot-in-header", place, f"{looks_like[0]} would be sent as it stands", help)
    return findings


_SURROGATE = re.compile("[\ud800-\udfff]")
_SLOT_LIKE = re.compile(rf"{SLOT.pattern}|@@[ \t]*\w[\w-]*[ \t]*@@(?![A-Z][A-Z0-9_]*@@)")
_ATTRIBUTE_OPENING = re.compile(r"[\s\"'/][A-Za-z_:][\w:.-]*=\"\Z")


def _is_whole_attribute(markup: str, start: int, end: int) -> bool:
    # No HTML parser here: links inside Outlook's conditional comments count as well.
    return markup[end : end + 1] == '"' and bool(_ATTRIBUTE_OPENING.search(markup[max(0, start - 80) : start]))


# --- what differs from recipient to recipient -------------------------------------------------------------------------


def _key(recipient: Recipient) -> bytes:
    if not _KEY.fullmatch(recipient.key):
        raise HeaderError("a delivery key must be 1 to 64 of the characters A-Z a-z 0-9 _ -")
    return recipient.key.encode()


def _address(recipient: Recipient) -> str:
    try:
        return addr_spec(recipient.address)
    except AddressError as error:
        raise AddressError(f"recipient {recipient.key}: {error}") from None


def _to(recipient: Recipient, address: str) -> bytes:
    try:
        return mailbox_header("To", recipient.name, address).encode()
    except HeaderError as error:
        raise HeaderError(f"recipient {recipient.key}: {error}") from None


def _value(recipient: Recipient, slot: str) -> tuple[bytes, bytes]:
    """A slot's value as the text part and as the HTML part carry it."""
    value = recipient.slots.get(slot)
    if value is None:
        message = f"recipient {recipient.key}: no value for the slot {slot}"
        help = "give every slot of the edition a value; a text slot may be empty"
        raise InputError(
            [Finding(code="envelope.missing-slot", severity="error", where=None, message=message, help=help)]
        )
    if _PLAIN[slot].fullmatch(value):
        same = value.encode()
        return same, same
    if slot in URL_SLOTS and not _URL.fullmatch(value):
        raise HeaderError(f"recipient {recipient.key}: the value of {slot} is not a plain http(s) or mailto URL")
    if CONTROL.search(value):
        raise HeaderError(f"recipient {recipient.key}: the value of {slot} holds a control character")
    return quoted_value(value), quoted_markup_value(value)


_PLAIN = {slot: PLAIN_URL if slot in URL_SLOTS else PLAIN_VALUE for slot in SLOTS}


# --- headers ----------------------------------------------------------------------------------------------------------


def _mailbox_address(role: str, mailbox: Mailbox) -> str:
    try:
        return addr_spec(mailbox.address)
    except AddressError as error:
        raise AddressError(f"{role}: {error}") from None


def _date_of_second(second: int) -> tuple[int, bytes]:
    return second, format_datetime(datetime.fromtimestamp(second, UTC)).encode()


def _constant_headers(edition: Edition) -> str:
    """The headers after List-Unsubscribe, the same for every recipient of the edition."""
    if edition.kind == "transactional":
        return "Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n"  # RFC 3834 §5
    lines = ""
    if edition.list_id:
        lines += f"List-ID: {list_id(*edition.list_id)}\r\n"
    if edition.feedback_id:
        if not _FEEDBACK_ID.fullmatch(edition.feedback_id):
            raise HeaderError("Feedback-ID: at most four fields of visible ASCII, separated by colons")
        lines += f"Feedback-ID: {edition.feedback_id}\r\n"
    return f"{lines}Precedence: bulk\r\nMIME-Version: 1.0\r\n"


def _unfolded(lines: str) -> dict[str, str]:
    """Header lines as names and values, without MIME-Version: somebody else builds the parts."""
    pairs = (line.partition(": ") for line in re.sub("\r\n(?=[ \t])", "", lines).splitlines())
    return {name: value for name, _, value in pairs if name != "MIME-Version"}


_FEEDBACK_ID = re.compile(r"(?!.*=\?)[!-9;-~]{1,60}(?::[!-9;-~]{1,60}){0,3}")


def _unsubscribe_mailto(address: str) -> str:
    """The address part of a mailto: URI, percent-encoded (RFC 6068 §2), or "" for none."""
    if not address:
        return ""
    local, _, domain = _mailbox_address("unsubscribe mailbox", Mailbox(address=address)).rpartition("@")
    return f"{quote(local, safe='')}@{domain}"


def _last_segment(url: str) -> str:
    """The token that ends a link, fit for the subject of a mailto: URI."""
    segment = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    return segment if _UNRESERVED.fullmatch(segment) else quote(segment)


_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]+")  # RFC 3986 §2.3
_UNRESERVED_OCTETS = bytes(octet for octet in range(128) if _UNRESERVED.fullmatch(chr(octet)))


# --- bodies -----------------------------------------------------------------------------------------------------------

_TEXT, _HTML = 0, 1  # where the places of a slot stand in Envelope._fills
_TEXT_HEADER = "Content-Type: text/{}; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
_LINE_END = re.compile(r"\r\n?")
_IMAGE_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_IMAGE_TYPE = re.compile(r"image/[a-z0-9.+-]+")


def _multipart_header(subtype: str, boundary: str) -> str:
    kind = ' type="text/html";' if subtype == "related" else ""  # RFC 2387 §3.1
    return f'Content-Type: multipart/{subtype};{kind}\r\n boundary="{boundary}"\r\n'


def _image_part(image: Image) -> str:
    if not _IMAGE_NAME.fullmatch(image.name) or not _IMAGE_TYPE.fullmatch(image.media_type):
        raise HeaderError(f"image {image.name!r} ({image.media_type!r}): not a file name or media type for a header")
    content = encodebytes(image.content).decode().replace("\n", "\r\n")
    return (
        f'Content-Type: {image.media_type}; name="{image.name}"\r\n'
        f"Content-Transfer-Encoding: base64\r\n"
        f"Content-ID: <{image.name}@newsletter>\r\n"
        f'Content-Disposition: inline; filename="{image.name}"\r\n\r\n'
        f"{content.removesuffix(chr(13) + chr(10))}"
    )
