"""An edition as a mail service's API takes it: django-anymail builds the requests, from parts that are made once.

Its payload classes say how each service spells a sender, a header, a picture. What they would work out anew for every
message (parsing addresses, merging settings, checking for lazy strings) is known here, so they are given finished
values: that takes a tenth of the time, and no setting of Django's is read.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from email.mime.image import MIMEImage
from functools import cache, cached_property
from importlib import import_module
from itertools import repeat
from typing import Any, NamedTuple

from anymail.exceptions import AnymailError
from anymail.utils import Attachment, EmailAddress

from newsletter.envelope import Envelope, Recipient
from newsletter.errors import AddressError, Finding, HeaderError, ProviderRejected, ProviderUnsupported
from newsletter.headers import addr_spec
from newsletter.providers.anymail_services import Service
from newsletter.rendering.edition import SLOT, Edition, Mailbox

_BASE = ("from_email", "to", "subject", "reply_to", "extra_headers", "body", "alternatives", "attachments")
_MORE = (
    "metadata",
    "tags",
    "track_clicks",
    "track_opens",
    "merge_data",
    "merge_headers",
    "merge_metadata",
    "esp_extra",
)


class Draft:
    """The attributes of a Django message that anymail reads, with values that need no more work."""

    content_subtype = "plain"

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Addressee(NamedTuple):
    """A recipient to whom the edition can be written."""

    key: str
    recipient: Recipient
    address: str  # as the service is told it: the domain as A-labels
    pieces: tuple[bytes, ...] = ()  # joined, the whole message, for a service that takes it so


class Letter:
    """One edition for one service; may be shared between threads.

    Raises `ProviderRejected` for a sender that cannot be written, `InputError` for an edition that is made wrongly, and
    `ProviderUnsupported` for one that the service cannot carry.
    """

    def __init__(self, service: Service, edition: Edition) -> None:
        self.service, self.edition = service, edition
        try:
            self.envelope = Envelope(edition)
            self._from = _mailbox(edition.sender)
            self._reply_to = _mailbox(edition.reply_to) if edition.reply_to else None
        except (AddressError, HeaderError) as error:
            raise ProviderRejected(f"edition {edition.key} ({edition.language}): {error}") from error
        if edition.embed and edition.images and not service.images:
            raise unsupported(service, "pictures inside a message", "write `images: link` in newsletter.yaml")
        self._constant = dict(self.envelope.headers)
        self._merge = service.merge
        self._literals: dict[str, str] = {}  # variable → text of the edition that the service would take for its own
        self._check_headers()
        self._extra = {**service.extra, **(service.bulk if edition.kind == "bulk" else {})}
        self._common: dict[str, Any] = {
            "from_email": [self._from],
            "subject": edition.subject,
            "attachments": _pictures(edition),
            **({"reply_to": [self._reply_to]} if self._reply_to else {}),
            **({"track_clicks": False, "track_opens": False} if service.tracking else {}),
        }
        if service.batch > 1 and self._merge:
            self._text, in_text = self._mergeable(edition.text, self._merge.text, "{}")
            self._html, in_html = self._mergeable(edition.html, self._merge.html, "{}_H")
            if self._merge.subject:
                self._common["subject"] = self._kept(edition.subject, self._merge.text, self._literals)
            self._variables = [*((slot, slot, _plain) for slot in in_text), *((f"{s}_H", s, _escaped) for s in in_html)]
        else:
            self._text_pieces, self._html_pieces = SLOT.split(edition.text), SLOT.split(edition.html)

    def single(self, to: Addressee, backend: Any) -> Any:
        """anymail's payload for one recipient, everything filled in."""
        text = _filled(self._text_pieces, to.recipient.slots, _plain)
        markup = _filled(self._html_pieces, to.recipient.slots, _escaped)
        subject = self.edition.subject
        more: dict[str, Any] = {}
        if self._merge:  # it reads every message as a template
            literals: dict[str, str] = {}
            text = self._kept(text, self._merge.text, literals)
            markup = self._kept(markup, self._merge.html, literals)
            subject = self._kept(subject, self._merge.text, literals)
            if literals:
                more["merge_data"] = {to.address: literals}
        if self.service.metadata:
            more["metadata"] = {"d": to.key}
        headers = self._constant | self.envelope.headers_for(to.recipient)
        return self._payload(backend, [to], headers, text, markup, subject=subject, **more)

    def batch(self, to: Sequence[Addressee], backend: Any, *, once: str) -> Any:
        """anymail's payload for many recipients with different addresses. `once` makes a repetition harmless."""
        common, own_headers = self._constant, self.service.headers
        values: dict[str, dict[str, str]] = {}
        headers: dict[str, dict[str, str]] = {}
        metadata: dict[str, dict[str, str]] = {}
        variables, literals = self._variables, self._literals
        for each in to:
            slots, address = each.recipient.slots, each.address
            values[address] = {name: value(slots[slot]) for name, slot, value in variables} | literals
            own = self.envelope.headers_for(each.recipient)
            if own_headers == "whole":
                own = common | own
            elif own_headers == "unsubscribe":
                own = {name: value for name, value in own.items() if name == "List-Unsubscribe"}
            headers[address] = own
            metadata[address] = {"d": each.key}
        if own_headers == "whole":
            common = {}
        elif own_headers == "unsubscribe":  # what stands beside it is the same for all
            post = "List-Unsubscribe-Post"
            common = common | {n: v for n, v in self.envelope.headers_for(to[0].recipient).items() if n == post}
        if self.service.once == "brevo":
            common = common | {"idempotencyKey": once}
        return self._payload(
            backend,
            to,
            common,
            self._text,
            self._html,
            merge_data=values,
            merge_headers=headers,
            merge_metadata=metadata,
        )

    def check(self, backend: Any) -> None:
        """Raises `ProviderUnsupported` when anymail knows that the service cannot carry this edition."""
        slots = dict.fromkeys(
            ("UNSUBSCRIBE_URL", "PREFERENCES_URL", "VIEW_URL", "CONFIRM_URL"), "https://example.org/x"
        )
        slots |= {"NAME": "", "ADDRESS": "a@example.org"}
        someone = Addressee("k", Recipient(key="k", address="a@example.org", slots=slots), "a@example.org")
        try:
            self.batch([someone], backend, once="") if self.service.batch > 1 else self.single(someone, backend)
        except AnymailError as error:
            raise unsupported(self.service, what_is_missing(error, self.service), "take another way out") from None

    def _payload(
        self, backend: Any, to: Sequence[Addressee], headers: Mapping[str, str], text: str, markup: str, **more: Any
    ) -> Any:
        if self._extra:
            more["esp_extra"] = _copied(self._extra)
        draft = Draft(
            **self._common
            | {
                "to": [self._to(each) for each in to],
                "extra_headers": headers,
                "body": text,
                "alternatives": ((markup, "text/html"),),
            }
            | more
        )
        return _payload_class(self.service.module, self.service.payload)(draft, {}, backend)

    def _to(self, to: Addressee) -> EmailAddress:
        name = to.recipient.name
        if self._merge and self._merge.opening.search(name):
            name = ""  # a display name is a courtesy; one that the service would read as a template is left out
        local, _, domain = to.address.rpartition("@")
        return EmailAddress(name, username=local, domain=domain)

    def _mergeable(self, part: str, placeholder: str, naming: str) -> tuple[str, list[str]]:
        """A part with the service's placeholders for our slots, and the slots that it has."""
        assert self._merge
        pieces = SLOT.split(part)  # text, slot, text, slot, …, text
        written = []
        for number, piece in enumerate(pieces):
            if number % 2:
                written.append(placeholder % naming.format(piece))
            else:
                before, after = number > 0, number < len(pieces) - 1
                written.append(self._kept(piece, placeholder, self._literals, after_slot=before, before_slot=after))
        return "".join(written), sorted(set(pieces[1::2]))

    def _kept(
        self,
        text: str,
        placeholder: str,
        literals: dict[str, str],
        *,
        after_slot: bool = False,
        before_slot: bool = False,
    ) -> str:
        """The text with everything that the service would take for its own syntax as the value of a variable.

        That is also done for what is harmless alone and would not be beside a placeholder: `{` before `{{NAME}}`.
        """
        merge = self._merge
        assert merge
        if not (after_slot or before_slot) and not merge.opening.search(text):
            return text

        def kept(found: re.Match[str]) -> str:
            touches = (after_slot and found.start() == 0) or (before_slot and found.end() == len(text))
            if not touches and not merge.opening.search(found[0]):
                return found[0]
            name = next((name for name, value in literals.items() if value == found[0]), f"L{len(literals)}")
            literals[name] = found[0]
            return placeholder % name

        return merge.runs.sub(kept, text)

    def _check_headers(self) -> None:
        """A header that the service would read as a template cannot be kept from it, so it is not sent at all."""
        if not self._merge:
            return
        edition = self.edition
        names = {"sender's name": edition.sender.name, **self._constant}
        if edition.reply_to:
            names["Reply-To name"] = edition.reply_to.name
        for name, value in names.items():
            if found := self._merge.opening.search(value):
                help = f"write the {name} without it"
                raise unsupported(self.service, f"{found[0]} in the {name}, which it would take for its own", help)


def unsupported(service: Service, what: str, help: str) -> ProviderUnsupported:
    message = f"{service.title} cannot carry {what}"
    return ProviderUnsupported(
        [Finding(code="provider.unsupported", severity="error", where=None, message=message, help=help)]
    )


def what_is_missing(error: AnymailError, service: Service) -> str:
    """The feature in the words of anymail, which hold no address for what we ask of it."""
    text = str(error.args[0]) if error.args else type(error).__name__
    text = text.partition(" does not support ")[2] or text
    return "this edition" if "@" in text else text


@cache
def _payload_class(module: str, name: str) -> Any:
    """anymail's class with nothing left to convert: each attribute goes straight to its setter."""
    original = getattr(import_module(f"anymail.backends.{module}"), name)
    base, more = (tuple(zip(names, repeat(None), repeat(None), strict=False)) for names in (_BASE, _MORE))
    own: dict[str, Any] = {"base_message_attrs": base, "anymail_message_attrs": more}
    if module == "mailjet":
        own["_burst_for_batch_send"] = _burst_once
    return type(name, (original,), own)


def _burst_once(payload: Any) -> None:
    """In place of MailjetPayload's own (anymail 15.2), which takes one recipient's message for one that is still to be
    split, each time anew, and so forgets what was put into it."""
    if not getattr(payload, "burst", False):
        payload.burst = True
        payload.data["Messages"] = [{"To": [to]} for message in payload.data["Messages"] for to in message["To"]]


def _plain(value: str) -> str:
    return value


def _escaped(value: str) -> str:
    return html.escape(value, quote=True)


def _filled(pieces: Sequence[str], slots: Mapping[str, str], value: Callable[[str], str]) -> str:
    filled = list(pieces)
    filled[1::2] = map(value, map(slots.__getitem__, pieces[1::2]))
    return "".join(filled)


def _mailbox(mailbox: Mailbox) -> EmailAddress:
    local, _, domain = addr_spec(mailbox.address).rpartition("@")
    return EmailAddress(mailbox.name, username=local, domain=domain)


class _Picture(Attachment):  # type: ignore[misc]
    """Encoded once, not for every message."""

    @cached_property
    def b64content(self) -> str:
        return str(super().b64content)

    @cached_property
    def b64content_utf8(self) -> str:
        return str(super().b64content_utf8)


def _pictures(edition: Edition) -> list[Attachment]:
    pictures = []
    for image in edition.images if edition.embed else ():
        part = MIMEImage(image.content, image.media_type.partition("/")[2])
        part.add_header("Content-Disposition", "inline", filename=image.name)
        part.add_header("Content-ID", f"<{image.name}@newsletter>")
        pictures.append(_Picture(part))
    return pictures


def _copied(extra: Mapping[str, Any]) -> dict[str, Any]:
    """anymail merges other things into what it is given."""
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in extra.items()}
