"""A folder of messages (Maildir, https://cr.yp.to/proto/maildir.html), read for being looked at.

Messages are whatever somebody sent: broken, huge, nested without end. What can be read of them is read, and nothing
here raises for what they hold.
"""

from __future__ import annotations

import codecs
import email
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesHeaderParser
from functools import lru_cache
from heapq import nlargest
from itertools import islice
from pathlib import Path

LARGEST = 16 * 1024 * 1024  # octets of a message that are looked at
LARGEST_HEAD = 64 * 1024  # octets in which the headers of a list are looked for
LARGEST_TOP = 256 * 1024  # octets in which the headers of a message must have ended
LONGEST_FIELD = 4096  # octets of a header that says how a message is built: the parser's time grows with its square
MOST_PARTS = 200
MOST_HEADERS = 500

# A name without flags, as the outbox and other programs make them. Others are not shown: no address could hold them.
_NAME = re.compile(r"[A-Za-z0-9_=+@,~-][A-Za-z0-9_=+@,.~-]{0,199}")
# Codecs that are no character sets, or that take far longer for hostile input than for text.
_NO_CHARSETS = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "utf-7"}
_STRUCTURE = re.compile(rb"^content-(?:type|disposition)[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*", re.IGNORECASE | re.MULTILINE)
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A message of a list."""

    id: str
    at: datetime  # when its file was written
    path: Path


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a list shows of a message."""

    id: str
    at: datetime
    sender: str
    to: str
    subject: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a message that is neither its text nor its HTML."""

    number: int  # its place among all parts
    name: str
    media_type: str
    content_id: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One message."""

    id: str
    at: datetime
    headers: tuple[tuple[str, str], ...]  # decoded, in their order
    html: str
    text: str
    parts: tuple[Part, ...]
    size: int  # octets
    cut: bool  # there is more than can be shown

    def header(self, name: str) -> str:
        """The first header of that name, "" for none."""
        return next((value for each, value in self.headers if each.lower() == name.lower()), "")


class Maildir:
    """The messages in folders `new` and `cur` of some Maildirs. Holds in memory when each of them was written."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._folders = [root / name for root in roots for name in ("new", "cur")]
        self._written: dict[tuple[str, int], int] = {}  # by path and inode: a message that is replaced has another one

    def newest(self, first: int, count: int) -> tuple[list[Entry], int]:
        """`count` messages from the `first` one on, the newest being 0; and how many there are.

        Reads no message. Of 100,000 it takes a second the first time, and a tenth of one after that.
        """
        written: dict[tuple[str, int], int] = {}
        for folder in self._folders:
            for entry in _files(folder):
                key = entry.path, entry.inode()
                try:
                    written[key] = self._written.get(key) or entry.stat(follow_symlinks=False).st_mtime_ns
                except OSError:  # gone meanwhile
                    continue
        self._written = written
        last = nlargest(first + count, ((at, path) for (path, _), at in written.items()))
        entries = [Entry(id=_id(Path(path).name), at=_moment(at), path=Path(path)) for at, path in last[first:]]
        return entries, len(written)

    def find(self, id: str) -> Path | None:
        """The file of a message; None when there is none, or none of that name that could be one."""
        if not _NAME.fullmatch(id):
            return None
        for folder in self._folders:
            if _is_file(folder / id):
                return folder / id
        for folder in self._folders:
            for entry in _files(folder):
                if _id(entry.name) == id:
                    return Path(entry.path)
        return None


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(_id(entry.name)) and entry.is_file(follow_symlinks=False):
                    yield entry
    except OSError:  # no mail yet
        return


def _id(name: str) -> str:
    """A file's name without the flags that mail programs change (`:2,S`)."""
    return name.partition(":")[0]


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _moment(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).astimezone()


def read_head(entry: Entry) -> Head:
    """What a list shows. A message that cannot be read has an empty head."""
    try:
        with entry.path.open("rb") as file:
            message = BytesHeaderParser().parsebytes(file.read(LARGEST_HEAD))
        sender, to, subject = (_header(message.get(name)) for name in ("From", "To", "Subject"))
    except Exception:
        sender = to = subject = ""
    return Head(id=entry.id, at=entry.at, sender=sender[:200], to=to[:200], subject=subject[:300])


def read_mail(path: Path) -> Mail:
    """A message as far as it can be read. Raises `OSError` when its file cannot."""
    with path.open("rb") as file:
        written = os.fstat(file.fileno())
        content = file.read(LARGEST)
    if not re.search(rb"^\r?\n", content[:LARGEST_TOP], re.MULTILINE):
        content = content[:LARGEST_TOP]  # headers without an end
    parts: list[Message] = []
    headers: tuple[tuple[str, str], ...] = ()
    try:
        if all(len(each[0]) <= LONGEST_FIELD for each in _STRUCTURE.finditer(content)):
            message = email.message_from_bytes(content)
            parts = _leaves(message)
            headers = tuple((_clean(name), _header(value)) for name, value in islice(message.raw_items(), MOST_HEADERS))
    except Exception:  # nested deeper than Python goes, and whatever else nobody foresaw
        parts = []
    html = text = ""
    others: list[Part] = []
    for number, part in enumerate(parts[:MOST_PARTS]):
        kind, payload = part.get_content_type(), _payload(part)
        shown = not part.get_filename() and part.get_content_disposition() != "attachment"
        if kind == "text/html" and shown and not html:
            html = _decoded(part, payload)
        elif kind == "text/plain" and shown and not text:
            text = _decoded(part, payload)
        else:
            content_id = _clean(str(part.get("Content-ID", ""))).strip("<> ")
            name = _name(part) or f"{number + 1}"
            others.append(Part(number=number, name=name, media_type=kind, content_id=content_id, content=payload))
    return Mail(
        id=_id(path.name),
        at=_moment(written.st_mtime_ns),
        headers=headers,
        html=html,
        text=_UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n")),
        parts=tuple(others),
        size=written.st_size,
        cut=written.st_size > len(content) or len(parts) > MOST_PARTS,
    )


def _leaves(message: Message) -> list[Message]:
    """The parts that hold something, in their order. Not by recursion, since a message may be nested as it likes."""
    leaves: list[Message] = []
    waiting = [message]
    while waiting and len(leaves) <= MOST_PARTS:
        part = waiting.pop()
        payload = part.get_payload()
        if isinstance(payload, list):
            waiting.extend(each for each in reversed(payload) if isinstance(each, Message))
        else:
            leaves.append(part)
    return leaves


def _payload(part: Message) -> bytes:
    try:
        payload = part.get_payload(decode=True)
    except Exception:
        payload = None
    if isinstance(payload, bytes):
        return payload
    raw = part.get_payload()
    return raw.encode("utf-8", "surrogateescape") if isinstance(raw, str) else b""


def _decoded(part: Message, payload: bytes) -> str:
    try:
        charset = codecs.lookup(part.get_content_charset("utf-8")).name
        return payload.decode("utf-8" if charset in _NO_CHARSETS else charset, "replace")
    except Exception:  # no such character set, or one that makes something else of it
        return payload.decode("utf-8", "replace")


def _name(part: Message) -> str:
    try:
        return _clean(part.get_filename() or "")[:100]
    except Exception:
        return ""


def _header(value: object) -> str:
    """A header's value as text: encoded words decoded where they can be."""
    raw = str(value or "")[:LARGEST_HEAD]
    try:
        return _clean(str(make_header(decode_header(raw))))
    except Exception:
        return _clean(raw)


def _clean(text: str) -> str:
    """On one line, without what a page cannot show or what would turn the text around it."""
    return _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", re.sub(r"\r?\n[ \t]*", " ", text))


@lru_cache(maxsize=8)
def maildir(roots: tuple[Path, ...]) -> Maildir:
    """The one of this process for these folders."""
    return Maildir(roots)
