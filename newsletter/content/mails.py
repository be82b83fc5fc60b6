"""Messages as they were sent or saved: .eml files, and .mbox files of several. Each holds an issue; its date is that of
its header."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from email import message_from_bytes, policy
from email.message import EmailMessage

from newsletter.content.bulletins import read_bulletin_text
from newsletter.content.dates import parse_date
from newsletter.content.markup import html_markdown, plain_markdown
from newsletter.content.pages import read_page
from newsletter.content.prose import Clipping, Clippings, clean_line, decode, refuse
from newsletter.errors import CollectError, Where

_HEAD = re.compile(r"(?:From [^\n]+\n)?((?:[A-Za-z][A-Za-z0-9-]*:[^\n]*\n(?:[ \t][^\n]*\n)*)+)\n")
_FIELDS = re.compile(
    r"^(?:from|to|date|subject|message-id|mime-version|content-type|received|return-path|delivered-to):",
    re.IGNORECASE | re.MULTILINE,
)


def is_mail(text: str) -> bool:
    """Whether a text begins with the header of a message."""
    head = _HEAD.match(text.lstrip("\n")[:100_000])
    return bool(head) and len({field.lower() for field in _FIELDS.findall(head[1] if head else "")}) >= 3


def read_mail(body: bytes, name: str) -> Clippings:
    """The stories of the messages in a file. CollectError where no message has a date and a text.

    A message without headlines is one story under its subject.
    """
    read = [_read_message(message, name) for message in _messages(body)]
    stories = tuple(story for each in read for story in each.stories)
    if not any(story.date for story in stories):
        help = "save it again with its header (Date:) and its text, or collect the page it links to"
        raise refuse("no-stories", Where(path=name), "is a message without a date or a text", help)
    return Clippings(stories=stories, language=next((each.language for each in read if each.language), ""))


def _messages(body: bytes) -> Iterator[EmailMessage]:
    # A line of an mbox that begins with "From " begins a message (RFC 4155); in texts it is written ">From ".
    for part in re.split(rb"(?m)(?:^|(?<=\n\n)|(?<=\n\r\n))From [^\n]*[0-9]{4}\s*?\n", body.lstrip()):
        if part.strip():
            yield message_from_bytes(part, policy=policy.default)


def _read_message(message: EmailMessage, name: str) -> Clippings:
    where = Where(path=name)
    day = _day(message)
    subject = clean_line(str(message.get("Subject") or ""))
    html, plain = (_text(message, kind, where) for kind in ("html", "plain"))
    if html:
        try:
            return read_page(html, name, day=day)
        except CollectError:
            pass  # no headlines; the plain text may have some
    stories = read_bulletin_text(plain, name, day)
    if stories:
        return Clippings(stories=tuple(stories))
    words = plain_markdown(re.split(r"\n--\s*\n", plain)[0]) or html_markdown(html)
    story = Clipping(title=subject, date=day, summary=words, where=where)
    problem = "" if subject and day and story.summary else "is a message without a subject, a date or a text"
    return Clippings(stories=(Clipping(title=subject, problem=problem, where=where) if problem else story,))


def _day(message: EmailMessage) -> date | None:
    return parse_date(clean_line(re.sub(r"\([^)]*\)", "", str(message.get("Date") or ""))))


def _text(message: EmailMessage, kind: str, where: Where) -> str:
    part = message.get_body((kind,))
    payload = part.get_payload(decode=True) if part is not None else None
    if part is None or not isinstance(payload, bytes):
        return ""
    return decode(payload, where, charset=str(part.get_content_charset() or ""))
