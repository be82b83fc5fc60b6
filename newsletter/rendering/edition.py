"""An edition: an issue (or a transactional mail) made ready in one language, the same for every recipient.

What differs per recipient is a **slot**, written `@@UPPER_SNAKE@@` in templates and filled by the envelope. `SLOTS`
is the whole list: a template that uses another name is an error before the first message leaves.
"""

from __future__ import annotations

import html as markup
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from newsletter.links import archive_url

SLOT = re.compile(r"@@([A-Z][A-Z0-9_]*)@@")

URL_SLOTS = frozenset({"UNSUBSCRIBE_URL", "PREFERENCES_URL", "VIEW_URL", "CONFIRM_URL"})
"""Slots whose value is a signed link: in HTML each is a whole attribute value, never a part of one."""

TEXT_SLOTS = frozenset({"NAME", "ADDRESS"})
"""Slots whose value is text. NAME alone may also stand in an issue's own text."""

SLOTS = URL_SLOTS | TEXT_SLOTS


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture of the workspace, known by its content: `name` is `<first 32 hex digits of its SHA-256>.<ext>`."""

    name: str
    media_type: str  # image/png, image/jpeg, image/gif or image/webp, told from the bytes
    content: bytes
    width: int  # pixels
    height: int


@dataclass(frozen=True, kw_only=True)
class Mailbox:
    """A display name (may be empty) and an address as typed; neither holds control characters."""

    address: str
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Imprint:
    """What an archive says of an issue beside its subject, in the edition's language and words."""

    number: str = ""  # "No. 5"
    date: str = ""  # "Sunday 19 November 2017"
    preheader: str = ""


@dataclass(frozen=True, kw_only=True)
class Edition:
    """Everything about a message that is the same for all its recipients; pure data, safe to store and to pickle."""

    key: str  # what it is an edition of: "2017-11-19", or "confirm", "welcome"
    language: str  # BCP 47, "en"
    direction: Literal["ltr", "rtl"]
    kind: Literal["bulk", "transactional"]  # bulk mail carries List-* and Precedence, transactional Auto-Submitted
    subject: str
    sender: Mailbox
    reply_to: Mailbox | None = None
    list_id: tuple[str, str] | None = None  # (display name, identifier "weekly.news.example.org"), RFC 2919
    feedback_id: str = (
        ""  # "2017-11-19:en:weekly:newsexample", the same for all; its last field names the sender to Gmail
    )
    unsubscribe_mailbox: str = ""  # address for the mailto: of List-Unsubscribe, or ""
    html: str  # with slots
    text: str  # with slots
    images: tuple[Image, ...] = ()  # those that html refers to, by URL or by cid:<name>
    imprint: Imprint = Imprint()  # of an issue
    private: bool = False  # True: not in the public archive; @@VIEW_URL@@ is a signed link
    embed: bool = False  # True: html refers to `cid:<name>@newsletter`, and the envelope carries the images


def kept_private(edition: Edition, base_url: str) -> Edition:
    """The edition as it is when no public page shows it: what leads to places on that page leads to those in itself."""
    page = archive_url(base_url, language=edition.language, issue=edition.key)
    return replace(edition, private=True, html=edition.html.replace(f'href="{page}#', 'href="#'))


def filled(edition: Edition, slots: Mapping[str, str]) -> tuple[str, str]:
    """The edition's HTML and text with these values in their slots, for looking at; messages are sealed by the
    envelope.

    A slot without a value stays. A value that looks like a slot stays a value: everything is filled in one pass.
    """

    def value(match: re.Match[str]) -> str:
        return slots.get(match[1], match[0])

    def escaped(match: re.Match[str]) -> str:
        return markup.escape(value(match), quote=True) if match[1] in slots else match[0]

    return SLOT.sub(escaped, edition.html), SLOT.sub(value, edition.text)
