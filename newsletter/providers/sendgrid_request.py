"""Requests to SendGrid's /v3/mail/send, as JSON text: an edition once, and a *personalization* for each recipient.

The text is put together column by column, since a thousand dictionaries and `json.dumps` take five times as long. It
is ASCII, so its length in signs is its length on the wire.

A slot of the edition becomes a *substitution tag*, which SendGrid replaces in the content: a random word of this
process, which no text holds by chance and nobody who chooses a name can know. A slot whose HTML-escaped value differs
from the plain one has two tags. The start that all links of a request have in common stays in the content.
"""

from __future__ import annotations

import html
import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from json import dumps
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NamedTuple

from newsletter.envelope import Envelope, Recipient
from newsletter.errors import AddressError, HeaderError, ProviderRejected
from newsletter.headers import CONTROL, addr_spec, addr_specs
from newsletter.rendering.edition import SLOT, URL_SLOTS, Edition, Mailbox

MOST_RECIPIENTS = 1000  # per request, twilio/sendgrid-oai tsg_mail_v3.json: personalizations.maxItems
MOST_OCTETS = 29_000_000  # SendGrid takes less than 30 MB
MOST_SUBSTITUTIONS = 10_000  # octets per personalization, ibidem

# Said in every request, since the account may have another default: SendGrid's own links, pixels, footers and its own
# List-Unsubscribe stay out of the message.
_TRACKING = {
    "click_tracking": {"enable": False, "enable_text": False},
    "open_tracking": {"enable": False},
    "subscription_tracking": {"enable": False},
    "ganalytics": {"enable": False},
}
_TEXT, _HTML = 0, 1
_HOLE = "\0"  # where a recipient's value goes; JSON text never holds one
_URL = re.compile(r"(?:https?://|mailto:)[A-Za-z0-9\-._~:/?#\[\]@!$&()*+,;=%]+")  # as the envelope has it
_TOKEN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986 §2.3
_TOKEN_OCTETS = bytes(_TOKEN)
_KEY_OCTETS = bytes(_TOKEN - set(b".~"))
_PLAIN_OCTETS = bytes(set(range(0x20, 0x7F)) - set(b"\"\\&<>'"))  # themselves in JSON, in HTML and in text
_NAME_OCTETS = bytes(set(_PLAIN_OCTETS) - set(b",;"))
# SendGrid's page "Limitations": no display name of a recipient may hold a comma or a semicolon.
_NAME_SIGNS = str.maketrans({",": " ", ";": " "})


class Batch(NamedTuple):
    """Up to a thousand recipients, ready to be sent in one request or in several."""

    opening: str  # the request up to its first personalization
    rows: list[str]  # a personalization for each recipient; rubbish for those in `faults`
    faults: dict[int, str]  # why a recipient cannot be written, by place
    addresses: list[str]  # as SendGrid compares them: no two alike in one request

    def text(self, places: Sequence[int]) -> str:
        """The request for those at `places`."""
        rows = self.rows
        if len(places) < len(rows):
            rows = [rows[place] for place in places]
        return f"{self.opening}{','.join(rows)}]}}"

    def groups(self) -> list[list[int]]:
        """The places of all who can be written, in ascending order, parted so that each part may be a request.

        SendGrid refuses a whole request in which an address stands twice, so the second one goes into a later request.
        """
        waiting = [place for place in range(len(self.rows)) if place not in self.faults]
        size = len(self.opening) + sum(map(len, self.rows)) + len(self.rows) + 2
        if len(self.rows) <= MOST_RECIPIENTS and size <= MOST_OCTETS and len({*self.addresses}) == len(self.rows):
            return [waiting]
        groups = []
        while waiting:
            group: list[int] = []
            seen: set[str] = set()
            later = []
            room = MOST_OCTETS - len(self.opening) - 2
            for at, place in enumerate(waiting):
                room -= len(self.rows[place]) + 1
                if group and (room < 0 or len(group) == MOST_RECIPIENTS):
                    later += waiting[at:]
                    break
                if self.addresses[place] in seen:
                    room += len(self.rows[place]) + 1
                    later.append(place)
                else:
                    seen.add(self.addresses[place])
                    group.append(place)
            groups.append(group)
            waiting = later
        return groups


class Letter:
    """An edition as requests carry it. May be shared between threads.

    Raises what `Envelope` raises, `AddressError` for a sender whose address is not ASCII, `HeaderError` for an empty
    subject, and `ProviderRejected` for a message that no request can hold.
    """

    def __init__(self, edition: Edition) -> None:
        self.envelope = Envelope(edition)
        if not edition.subject:
            raise HeaderError("the subject is empty, and SendGrid takes no message without one")
        self._bulk = edition.kind == "bulk"
        self._word = _absent_word(f"{edition.html}{edition.text}{edition.subject}")
        self._parts = [SLOT.split(edition.text), SLOT.split(edition.html)]
        # Constant pieces in JSON's spelling; every second one is the name of a slot.
        self._pieces = [[quoted(each)[1:-1] for each in part] for part in self._parts]
        self._slots = {
            slot: tuple(slot in part[1::2] for part in self._parts) for part in self._parts for slot in part[1::2]
        }
        message: dict[str, Any] = {"from": _mailbox("the sender", edition.sender)}
        if edition.reply_to:
            message["reply_to"] = _mailbox("reply-to", edition.reply_to)
        message["subject"] = edition.subject
        self._head = f'{dumps(message)[:-1]}, "content": [{{"type": "text/plain", "value": "'
        settings: dict[str, Any] = {"tracking_settings": _TRACKING}
        if edition.embed and edition.images:
            settings["attachments"] = [
                {
                    "content": b64encode(image.content).decode(),
                    "type": image.media_type,
                    "filename": image.name,
                    "disposition": "inline",
                    "content_id": f"{image.name}@newsletter",
                }
                for image in edition.images
            ]
        self._tail = f'"}}], {dumps(settings)[1:-1]}, "personalizations": ['
        # All of them in each personalization. SendGrid says that its fields "override" those of the message, and not
        # whether that goes for `headers` one by one or as a whole; a lost List-ID would be found out by nobody.
        self._headers = _members(self.envelope.headers)
        if (size := len(self._head) + len(self._tail) + sum(map(len, self._pieces[0] + self._pieces[1]))) > MOST_OCTETS:
            raise ProviderRejected(
                f"edition {edition.key} ({edition.language}): the message has {size / 1e6:.0f} MB, and SendGrid takes "
                "less than 30; leave out images, or link to them (images: link)"
            )

    def batch(self, recipients: Sequence[Recipient]) -> Batch:
        """Their personalizations. Every slot must have a value (`Envelope.check_slots`)."""
        faults: dict[int, str] = {}

        def column(cell: Callable[..., str], *arguments: Iterable[Any]) -> list[str]:
            cells = []
            for place, each in enumerate(zip(recipients, *arguments, strict=False)):
                try:
                    cells.append(cell(*each))
                except (AddressError, HeaderError) as error:
                    faults.setdefault(place, str(error))
                    cells.append("")
            return cells

        columns: list[Sequence[str]] = []
        pattern = f'{{"to":[{{"email":"{_HOLE}"'
        columns.append(addresses := addr_specs([each.address for each in recipients]) or column(_address))
        names = [each.name for each in recipients]
        if all(names) and _only(names, _NAME_OCTETS):
            pattern += f',"name":"{_HOLE}"}}]'
        else:
            names = column(_name)
            pattern += f"{_HOLE}}}]"
        columns.append(names)

        links = _links([each.slots["UNSUBSCRIBE_URL"] for each in recipients]) if self._bulk else _Links("", ())
        fills, tags = self._fills(recipients, links, column)
        _check_substitutions(tags, recipients, faults)
        if tags:
            members = ",".join([f'"{tag.name}":"{_HOLE}"' for tag in tags])
            pattern += f',"substitutions":{{{members}}}'
            columns += [tag.values if tag.clean else [quoted(value)[1:-1] for value in tag.values] for tag in tags]

        keys = [each.key for each in recipients]
        own_headers = self._list_headers(links) if _are_keys(keys) else None
        if own_headers is not None:
            pattern += f',"headers":{{"X-Newsletter-Delivery":"{_HOLE}"{own_headers}'
            columns += [keys, *repeat(links.tails, own_headers.count(_HOLE))]
        else:
            pattern += f',"headers":{{{_HOLE}'
            columns.append(column(self._own_headers))
            keys = [quoted(key)[1:-1] for key in keys]
        pattern += f'{self._headers}}},"custom_args":{{"d":"{_HOLE}"}}}}'
        columns.append(keys)
        first, *others = pattern.split(_HOLE)
        cells = [each for column, piece in zip(columns, others, strict=True) for each in (column, repeat(piece))]
        rows = list(map("".join, zip(repeat(first), *cells, strict=False)))  # four times as fast as "%"
        return Batch(self._opening(fills), rows, faults, "\n".join(addresses).lower().split("\n"))

    def _fills(
        self, recipients: Sequence[Recipient], links: _Links, column: Callable[..., list[str]]
    ) -> tuple[list[dict[str, str]], list[_Tag]]:
        """What stands in each slot of the text and of the HTML, in JSON's spelling, and the tags in it."""
        fills: list[dict[str, str]] = [{}, {}]
        tags = []
        for number, (slot, (in_text, in_html)) in enumerate(self._slots.items()):
            plain: Sequence[str] = [each.slots[slot] for each in recipients]
            markup = plain
            prefix = ""
            if slot in URL_SLOTS:
                link = links if slot == "UNSUBSCRIBE_URL" and links.prefix else _links(plain)
                if not link.prefix:
                    plain = markup = column(_url, repeat(slot))
                elif slot != "UNSUBSCRIBE_URL" and plain.count(plain[0]) == len(plain):
                    prefix, plain, markup = plain[0], [], []  # the same for all: no tag
                else:
                    prefix, plain, markup = link.prefix, link.tails, link.tails
            clean = bool(prefix) or _only(plain, _PLAIN_OCTETS)
            if not clean:
                plain = column(_value, repeat(slot)) if slot not in URL_SLOTS else plain
                markup = [html.escape(value) for value in plain]
            apart = in_text and in_html and plain != markup
            tag = f"-{self._word}{number}"
            names = (f"{tag}-", f"{tag}h-" if apart else f"{tag}-")
            escaped = (prefix, html.escape(prefix))
            for part, used, values in ((_TEXT, in_text, plain), (_HTML, in_html, markup)):
                if used:
                    fills[part][slot] = quoted(escaped[part] + names[part] if values else escaped[part])[1:-1]
                if used and values and (part == _TEXT or apart or not in_text):
                    tags.append(_Tag(names[part], values, clean))
        return fills, tags

    def _opening(self, fills: Sequence[dict[str, str]]) -> str:
        text, markup = (
            [fill[piece] if number % 2 else piece for number, piece in enumerate(pieces)]
            for fill, pieces in zip(fills, self._pieces, strict=True)
        )
        between = '"}, {"type": "text/html", "value": "'
        return "".join((self._head, *text, between, *markup, self._tail))

    def _list_headers(self, links: _Links) -> str | None:
        """The headers of those who differ in the end of their link only, a hole for each end; None when every recipient
        must be asked for.

        They are what the envelope writes for a link that ends in a word, with each end in the word's place.
        """
        if not self._bulk:
            return ""
        if not links.prefix or not all(links.tails):
            return None
        longest = max(map(len, links.tails), default=0)
        word = self._word * (longest // len(self._word) + 1)  # at least as long: where it fits, the others do
        probe = Recipient(key="k", address="", slots={"UNSUBSCRIBE_URL": links.prefix + word})
        try:
            headers = self.envelope.headers_for(probe)
        except HeaderError:
            return None
        del headers["X-Newsletter-Delivery"]
        return _members(headers).replace(word, _HOLE)

    def _own_headers(self, recipient: Recipient) -> str:
        return dumps(self.envelope.headers_for(recipient))[1:-1]


class _Tag(NamedTuple):
    name: str
    values: Sequence[str]  # for each recipient
    clean: bool  # they stand for themselves in JSON


class _Links(NamedTuple):
    prefix: str  # a URL up to a slash; "" when the links do not have one in common, or are not plain
    tails: Sequence[str]  # what follows: unreserved signs only


def _links(values: Sequence[str]) -> _Links:
    low, high = min(values, default=""), max(values, default="")  # between them in order, all share what these share
    alike = next((place for place, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    prefix = low[: low.rfind("/", 0, alike) + 1]
    if "?" in prefix or "#" in prefix or not _URL.fullmatch(prefix):
        return _Links("", ())
    cut = len(prefix)
    tails = [value[cut:] for value in values]
    return _Links(prefix, tails) if _only(tails, _TOKEN_OCTETS) else _Links("", ())


def _only(values: Sequence[str], octets: bytes) -> bool:
    """Whether the values hold nothing but these octets. One look at all of them takes a fraction of many looks."""
    text = "".join(values)
    return text.isascii() and not text.encode().translate(None, octets)


def _are_keys(keys: Sequence[str]) -> bool:
    return all(keys) and _only(keys, _KEY_OCTETS) and max(map(len, keys), default=0) <= 64


def _members(values: Mapping[str, str]) -> str:
    """Members of a JSON object, with a comma before each."""
    return "".join([f",{quoted(name)}:{quoted(value)}" for name, value in values.items()])


def _absent_word(text: str) -> str:
    """A word that nobody can know and that the text does not hold; 48 bits."""
    while True:
        word = secrets.token_urlsafe(6).replace("-", "x").replace("_", "y")
        if word not in text:
            return word


# --- what differs from recipient to recipient -------------------------------------------------------------------------


def _address(recipient: Recipient) -> str:
    try:
        address = addr_spec(recipient.address)
    except AddressError as error:
        raise AddressError(f"recipient {recipient.key}: {error}") from None
    if not address.isascii():
        raise AddressError(f"recipient {recipient.key}: SendGrid takes no letters outside ASCII before the @")
    return address


def _name(recipient: Recipient) -> str:
    if CONTROL.search(recipient.name):
        raise HeaderError(f"recipient {recipient.key}: the name holds a control character")
    name = recipient.name
    if "," in name or ";" in name:
        name = " ".join(name.translate(_NAME_SIGNS).split())
    return f',"name":{quoted(name)}' if name else ""


def _url(recipient: Recipient, slot: str) -> str:
    value = recipient.slots[slot]
    if not _URL.fullmatch(value):
        raise HeaderError(f"recipient {recipient.key}: the value of {slot} is not a plain http(s) or mailto URL")
    return value


def _value(recipient: Recipient, slot: str) -> str:
    value = recipient.slots[slot]
    if CONTROL.search(value):
        raise HeaderError(f"recipient {recipient.key}: the value of {slot} holds a control character")
    return value


def _check_substitutions(tags: Sequence[_Tag], recipients: Sequence[Recipient], faults: dict[int, str]) -> None:
    """Notes whose substitutions are longer than SendGrid takes."""
    if sum(len(tag.name) + 4 * max(map(len, tag.values), default=0) for tag in tags) <= MOST_SUBSTITUTIONS:
        return  # nobody's can be: a sign has four octets at most
    for place, recipient in enumerate(recipients):
        octets = sum(len(tag.name) + len(tag.values[place].encode()) for tag in tags)
        if octets > MOST_SUBSTITUTIONS:
            reason = f"recipient {recipient.key}: the values of the slots have {octets} octets, SendGrid takes 10,000"
            faults.setdefault(place, reason)


def _mailbox(role: str, mailbox: Mailbox) -> dict[str, str]:
    address = addr_spec(mailbox.address)
    if not address.isascii():
        raise AddressError(f"{role}: SendGrid takes no letters outside ASCII before the @")
    return {"email": address, "name": mailbox.name} if mailbox.name else {"email": address}


def sandbox_request(sender: Mailbox) -> str:
    """A request that SendGrid only looks at: a message from the sender to itself, in sandbox mode."""
    mailbox = _mailbox("the sender", sender)
    return dumps(
        {
            "personalizations": [{"to": [{"email": mailbox["email"]}]}],
            "from": mailbox,
            "subject": "Test",
            "content": [{"type": "text/plain", "value": "Test"}],
            "mail_settings": {"sandbox_mode": {"enable": True}},
            "tracking_settings": _TRACKING,
        }
    )
