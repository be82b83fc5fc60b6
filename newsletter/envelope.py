"""Edition → RFC 5322 bytes: encoded once, sealed per recipient.

An `Envelope` holds both parts of an edition in quoted-printable, cut at their slots. A soft line break stands before
and after every slot, so a seal encodes the few values, writes the few headers that differ, and joins bytes.

What every sealed message guarantees, whatever text went in:

- CRLF line ends only; body lines ≤ 76 octets, no blank before a line end; header lines ≤ 78 where an address or a URI
  allows it and never over 998 (RFC 5322 §2.1.1).
- No line starts with a dot, none in a body with `From `: nothing needs stuffing or quoting on any way, so the same
  bytes serve SMTP, a Maildir and a DKIM signature.
- Parsed back, each part is the text that went in, line ends counting as the same (`\\r\\n`, `\\r` and `\\n` all come
  back as one line end), with its slots filled: in the text part with the value itself, in HTML with the escaped value.
- The same edition, recipient and date give the same bytes.
"""

from __future__ import annotations

import hashlib
import html
import re
from base64 import encodebytes
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote

from newsletter.errors import AddressError, Finding, HeaderError, InputError
from newsletter.headers import CONTROL, addr_spec, list_id, mailbox_header, octets, subject_header
from newsletter.rendering.edition import SLOT, SLOTS, URL_SLOTS, Edition, Image, Mailbox

_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EDITION_KEY = re.compile(r"(?=.{1,100}\Z)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")  # a dot-atom: it opens the Message-ID
_URL = re.compile(r"(?:https?://|mailto:)[A-Za-z0-9\-._~:/?#\[\]@!$&()*+,;=%]+")  # RFC 3986 without the apostrophe
_MAX_HEADER_LINE = 998
_DATE, _TO, _KEYS, _LIST = 1, 3, (5, 7), 8  # places in Envelope._pieces


class Recipient(NamedTuple):
    """What a way out needs of a delivery. Nothing is checked before a message is sealed for it.

    A tuple, since there are tens of thousands a second and a frozen dataclass takes three times as long to make.
    """

    key: str  # opaque delivery id, 1 to 64 of A-Z a-z 0-9 _ -
    address: str  # one bare addr-spec as typed, Unicode domain allowed
    name: str = ""  # display name in To
    slots: Mapping[str, str] = MappingProxyType({})  # plain text and finished URLs, never markup


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

        # A message is these pieces joined. Empty ones are a recipient's: _DATE, _TO, _KEYS, _LIST, and later the slots.
        before_id = f"{subject_header(edition.subject)}Message-ID: <{edition.key}."
        after_id = f"@{sender.rpartition('@')[2]}>\r\nX-Newsletter-Delivery: "
        head_pieces = ["Date: ", "", f"\r\n{head}", "", before_id, "", after_id, "", "", _constant_headers(edition)]
        self._pieces = [piece.encode() for piece in head_pieces]
        # Slot → its places in the text part and in the HTML part, here and in the header.
        self._fills: dict[str, tuple[list[int], list[int]]] = {"UNSUBSCRIBE_URL": ([], [])} if self._bulk else {}
        self._add_body(edition)

    def seal(self, recipient: Recipient, *, date: datetime) -> bytes:
        """The complete message for one recipient. `date` is aware and is written in UTC.

        Raises `AddressError` or `HeaderError` when this recipient cannot be written (key, address, name, a value with a
        control character, a slot URL that is none): a matter of this recipient alone. Raises `InputError` when a slot
        that the edition uses has no value, which is a fault of the caller: text slots may be empty, but say so with "".
        """
        if not _KEY.fullmatch(recipient.key):
            raise HeaderError("a delivery key must be 1 to 64 of the characters A-Z a-z 0-9 _ -")
        pieces = self._pieces.copy()
        for slot, (in_text, in_html) in self._fills.items():
            value = recipient.slots.get(slot)
            if value is not None and _PLAIN[slot].fullmatch(value):
                plain = markup = value.encode()
            else:
                plain, markup = _encoded_value(recipient, slot)
            for place in in_text:
                pieces[place] = plain
            for place in in_html:
                pieces[place] = markup
        pieces[_DATE] = self._date_of(date)
        try:
            pieces[_TO] = mailbox_header("To", recipient.name, addr_spec(recipient.address)).encode()
        except (AddressError, HeaderError) as error:
            raise type(error)(f"recipient {recipient.key}: {error}") from None
        pieces[_KEYS[0]] = pieces[_KEYS[1]] = recipient.key.encode()
        pieces[_LIST] = self._list_unsubscribe(recipient) if self._bulk else b"\r\n"
        return b"".join(pieces)

    def check_slots(self, recipients: Iterable[Recipient]) -> None:
        """Raises `InputError` when a recipient lacks a value for a slot that the edition uses.

        `seal` would raise it too, but for a chunk half of which has left. About 0.2 µs a recipient.
        """
        needed = self._fills.keys()
        for recipient in recipients:
            if not needed <= recipient.slots.keys():
                _encoded_value(recipient, min(needed - recipient.slots.keys()))

    def wire_address(self, recipient: Recipient) -> tuple[str, bool]:
        """The address for RCPT TO, its domain as A-labels, and whether this message needs SMTPUTF8 (RFC 6531).

        It does when the local part of the recipient, of the sender or of Reply-To is not ASCII. Raises `AddressError`.
        """
        try:
            address = addr_spec(recipient.address)
        except AddressError as error:
            raise AddressError(f"recipient {recipient.key}: {error}") from None
        return address, self._utf8 or not address.isascii()

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
                self._add(_quoted_text(piece, after_slot=number > 0, before_slot=number < last))


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


# --- bodies -----------------------------------------------------------------------------------------------------------

_TEXT, _HTML = 0, 1  # where the places of a slot stand in Envelope._fills
_TEXT_HEADER = "Content-Type: text/{}; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
_LINE_END = re.compile(r"\r\n?")
_UNSAFE = re.compile(r"[^\t -<>-~]+")  # RFC 2045 §6.7 (1), (2)
_UNSAFE_IN_VALUE = re.compile(r"[^ -<>?A-~]+")  # and "@"
# Values that stand for themselves in both parts, on one line: most do, so a seal asks for these first.
_PLAIN_VALUE = re.compile(r"(?!From )[!#-%(-\-/-;?A-~][ !#-%(-;?A-~]{0,74}")
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9\-._~:/?#\[\]!$()*+,;%]{1,67}")
_PLAIN = {slot: _PLAIN_URL if slot in URL_SLOTS else _PLAIN_VALUE for slot in SLOTS}
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


def _encoded_value(recipient: Recipient, slot: str) -> tuple[bytes, bytes]:
    """A recipient's value as the text part and as the HTML part carry it.

    Every "@" is written `=40` in the raw text part and `&#64;` in HTML, so that `@@…@@` inside a value is taken for a
    slot by nobody, not even together with what stands beside it.
    """
    if slot not in recipient.slots:
        message = f"recipient {recipient.key}: no value for the slot {slot}"
        help = "give every slot of the edition a value; a text slot may be empty"
        raise InputError(
            [Finding(code="envelope.missing-slot", severity="error", where=None, message=message, help=help)]
        )
    value = recipient.slots[slot]
    if slot in URL_SLOTS and not _URL.fullmatch(value):
        raise HeaderError(f"recipient {recipient.key}: the value of {slot} is not a plain http(s) or mailto URL")
    if CONTROL.search(value):
        raise HeaderError(f"recipient {recipient.key}: the value of {slot} holds a control character")
    return _quoted_value(value), _quoted_value(html.escape(value, quote=True).replace("@", "&#64;"))


def _quoted_value(value: str) -> bytes:
    return _soft_broken(_UNSAFE_IN_VALUE.sub(octets, value)).encode()


def _quoted_text(text: str, *, after_slot: bool, before_slot: bool) -> str:
    """Text between two slots in quoted-printable (RFC 2045 §6.7); a slot stands on lines of its own."""
    *whole, last = text.split("\n")
    lines = [_soft_broken(_visible_end(_UNSAFE.sub(octets, line))) for line in whole]
    quoted = _UNSAFE.sub(octets, last)
    lines.append(_soft_broken(quoted if before_slot else _visible_end(quoted)))
    return "".join(("=\r\n" if after_slot else "", "\r\n".join(lines), "=\r\n" if before_slot and last else ""))


def _visible_end(quoted: str) -> str:
    return f"{quoted[:-1]}={ord(quoted[-1]):02X}" if quoted.endswith((" ", "\t")) else quoted


def _soft_broken(quoted: str) -> str:
    """One encoded line in pieces of at most 75, none starting with a dot or `From `, none ending inside a character."""
    pieces, start, end = [], 0, len(quoted)
    while True:
        opening = ""
        if quoted.startswith((".", "From "), start):
            opening = f"={ord(quoted[start]):02X}"
            start += 1
        cut = start + 75 - len(opening)
        if cut >= end:
            pieces.append(opening + quoted[start:])
            return "=\r\n".join(pieces)
        escape = quoted.rfind("=", cut - 2, cut)
        if escape >= 0:
            cut = escape
        while quoted[cut] == "=" and quoted[cut + 1] in "89AB":  # a UTF-8 continuation octet
            cut -= 3
        pieces.append(opening + quoted[start:cut])
        start = cut
