"""Header values as RFC 5322 wants them: addresses, display names, subjects.

Nothing is stripped or replaced in silence: what cannot be written raises `AddressError` or `HeaderError`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import idna

from newsletter.errors import AddressError, HeaderError

CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # C0, DEL, lone surrogates: never in a header or a slot


def addr_spec(address: str) -> str:
    """One bare address as it goes on the wire and into headers: local part as typed, domain as lower-case A-labels.

    Accepts a dot-atom local part, which may hold non-ASCII letters (RFC 6531), and a host name, made ASCII by UTS-46
    and IDNA2008. Quoted local parts (`"a b"@example.org`) and address literals (`@[192.0.2.1]`) are refused: no list
    needs them and few systems carry them whole. Raises `AddressError`, whose text never holds the address.
    """
    if _PLAIN_ADDRESS.fullmatch(address):
        return address
    local, at, domain = address.rpartition("@")
    if not at:
        raise AddressError("the address has no @")
    if not _LOCAL.fullmatch(local):
        if local.startswith('"'):
            raise AddressError("a quoted local part is not supported")
        raise AddressError("the part before the @ is not a plain local part (RFC 5321 dot-string)")
    if not local.isascii() and not all(character.isprintable() for character in local):
        raise AddressError("the part before the @ holds an invisible character")
    host = _a_labels(domain)
    if not host:
        raise AddressError("the part after the @ is not a valid domain")
    octets = len(local if local.isascii() else local.encode())
    if octets > 64 or octets + 1 + len(host) > 254:
        raise AddressError("the part before the @ is longer than 64 octets, or the whole than 254 (RFC 5321 §4.5.3.1)")
    return f"{local}@{host}"


def lines_of(values: Sequence[str], pattern: re.Pattern[str]) -> str:
    """The values, a line each, when they have no line end and the pattern matches all the lines; else "".

    One match for many values takes a fraction of the time of many matches.
    """
    lines = "\n".join([*values, ""])
    return lines if lines.count("\n") == len(values) and pattern.fullmatch(lines) else ""


def addr_specs(addresses: Sequence[str]) -> list[str] | None:
    """`addr_spec` of each when they are all of the plain kind that goes out as it was typed; else None."""
    return list(addresses) if lines_of(addresses, _PLAIN_ADDRESS_LINES) else None


def plain_to_headers(names: Sequence[str], addresses: Sequence[str]) -> list[bytes] | None:
    """`mailbox_header` of each as To, encoded, when no name needs quoting, encoding or folding; else None."""
    longest = max(map(len, names), default=0) + max(map(len, addresses), default=0)
    if longest >= 60 or "=?" in (lines := lines_of(names, _ATOM_LINES)) or not lines:
        return None
    return [f"To: {name} <{address}>\r\n".encode() for name, address in zip(names, addresses, strict=True)]


# What most addresses are, and short enough for every limit below: a seal asks for these first.
_PLAIN_ADDRESS = re.compile(r"[A-Za-z0-9_+-]{1,31}(?:\.[A-Za-z0-9_+-]{1,31})?@(?:[a-z0-9]{1,60}\.){1,2}[a-z]{2,60}")
_PLAIN_ADDRESS_LINES = re.compile(rf"(?:{_PLAIN_ADDRESS.pattern}\n)*")
_ATEXT = r"[^\x00-\x20()<>\[\]:;@\\,.\"\x7f-\x9f\s\ud800-\udfff]+"  # RFC 5322 §3.2.3 with RFC 6532 §3.2
_LOCAL = re.compile(rf"{_ATEXT}(?:\.{_ATEXT})*")
_HOST = re.compile(r"(?!.*\.[0-9]+\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NEEDS_IDNA = re.compile(r"[^\x00-\x7f]|(?:\A|\.)..--")  # also a ready-made A-label: it must be a valid one


@lru_cache(maxsize=4096)
def _a_labels(domain: str) -> str:
    """The domain in lower-case A-labels, or "" when it is none. Cached: a list has few domains and many addresses."""
    host = domain.lower() if domain.isascii() else domain
    if len(host) <= 253 and _NEEDS_IDNA.search(host):
        try:
            host = idna.encode(host, uts46=True, std3_rules=True).decode("ascii")
        except UnicodeError:  # its text holds the domain, and ours must not
            return ""
    return host if len(host) <= 253 and _HOST.fullmatch(host) else ""


# --- texts ------------------------------------------------------------------------------------------------------------


def subject_header(text: str) -> str:
    """The Subject line, with its CRLF."""
    if CONTROL.search(text):
        raise HeaderError("Subject: holds a control character, a line end or a lone surrogate")
    room = 76 - len("Subject: ")
    plain = _PLAIN_TEXT.fullmatch(text) and "=?" not in text
    written = _folded(text, room) if plain else _encoded_words(text, room) if text else ""
    return f"Subject: {written}\r\n" if written else "Subject:\r\n"


def mailbox_header(name: str, display: str, address: str) -> str:
    """The header line of one mailbox, `address` already an addr-spec: `To: Ana <ana@example.org>`, with its CRLF."""
    if not display:
        return f"{name}: {address}\r\n"
    if len(display) + len(address) < 60 and "=?" not in display and _ATOMS.fullmatch(display):  # most recipients
        return f"{name}: {display} <{address}>\r\n"
    if CONTROL.search(display):
        raise HeaderError(f"{name}: the display name holds a control character, a line end or a lone surrogate")
    room = 74 - len(name)
    phrase = _plain_phrase(display, room) or _encoded_words(display, room)
    used = len(phrase) - phrase.rfind("\n") - 1 + (0 if "\n" in phrase else len(name) + 2)
    return f"{name}: {phrase}{_break_before(f'<{address}>', used)}\r\n"


def _break_before(word: str, used: int) -> str:
    return f" {word}" if used + 1 + len(word) <= 78 else f"\r\n {word}"


_PLAIN_TEXT = re.compile(r"[!-~]{1,60}(?: [!-~]{1,60})*")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,60}(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,60})*")
_ATOM_LINES = re.compile(rf"(?:{_ATOMS.pattern}\n)*")
_PRINTABLE = re.compile(r"[ -~]+")


def _plain_phrase(text: str, room: int) -> str:
    """ASCII words as they are, folded, or as one quoted-string; "" when only encoded-words can carry the text."""
    if "=?" in text or "@@" in text:  # what looks like an encoded-word or a slot would be taken for one downstream
        return ""
    if _ATOMS.fullmatch(text):
        return text if len(text) <= room else _folded(text, room)
    if _PRINTABLE.fullmatch(text):
        quoted = '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))
        return quoted if len(quoted) <= room else ""
    return ""


def _folded(text: str, room: int) -> str:
    """Words of at most 60 characters with single spaces between, on lines of at most 76."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > room:
            lines.append(line)
            line, room = word, 75
        else:
            line = f"{line} {word}" if line else word
    return "\r\n ".join([*lines, line])


_WRAPPING = len("=?utf-8?q??=")
_Q_BIAS = 4  # Q can be read by eye, and spam filters count B against text that is nearly ASCII
_Q_UNSAFE = re.compile(r"[^A-Za-z0-9!*+/-]")  # RFC 2047 §5 (3): what a phrase may hold


def _encoded_words(text: str, room: int) -> str:
    """RFC 2047: whole characters in words of at most 75, one a line of at most 76; Q, or B where it is clearly shorter.

    Receivers drop the white space between two encoded-words (§6.2), so every space of the text is inside a word.
    Python's own address parser has two faults here, both of them harmless: before 3.13.2 it keeps that white space, one
    space too many in a name of over 45 octets, and it reads a run of white space inside a word as one space.
    """
    room -= _WRAPPING
    octets = text.encode()
    if len(octets) <= room:  # one word will mostly do
        q, b = _q(text), b64encode(octets).decode()
        if len(q) <= min(room, len(b) + _Q_BIAS):
            return f"=?utf-8?q?{q}?="
        if len(b) <= room:
            return f"=?utf-8?b?{b}?="
    rest = 75 - _WRAPPING
    q = "\r\n ".join(f"=?utf-8?q?{_q(run)}?=" for run in _runs(text, lambda char: len(_q(char)), room, rest))
    runs = _runs(text, lambda char: len(char.encode()), room // 4 * 3, rest // 4 * 3)
    b = "\r\n ".join(f"=?utf-8?b?{b64encode(run.encode()).decode()}?=" for run in runs)
    return q if len(q) <= len(b) + _Q_BIAS else b


def _q(text: str) -> str:
    return _Q_UNSAFE.sub(lambda found: "_" if found[0] == " " else octets(found), text)


def octets(found: re.Match[str]) -> str:
    """What a regular expression found as `=XX` for each of its octets."""
    return _octets_of(found[0])


@lru_cache(maxsize=4096)
def _octets_of(text: str) -> str:
    """A language has few letters outside ASCII, and a message many of each."""
    return "".join(f"={octet:02X}" for octet in text.encode())


def _runs(text: str, width: Callable[[str], int], first: int, rest: int) -> Iterator[str]:
    """Cut text into runs of whole characters whose widths add up to at most `first`, then `rest`."""
    start, used, room = 0, 0, first
    for place, character in enumerate(text):
        wide = width(character)
        if used + wide > room:
            yield text[start:place]
            start, used, room = place, 0, rest
        used += wide
    yield text[start:]


_LIST_ID = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")


def list_id(name: str, identifier: str) -> str:
    """RFC 2919 §3. The name is a courtesy: one that would need encoded-words is left out, the identifier never."""
    if CONTROL.search(name):
        raise HeaderError("List-ID: the name holds a control character")
    if len(identifier) > 255 or not _LIST_ID.fullmatch(identifier):
        raise HeaderError(f"List-ID: {identifier!r} is not an identifier like weekly.news.example.org")
    phrase = _plain_phrase(name, 66)
    return f"{phrase}{_break_before(f'<{identifier}>', 9 + len(phrase))}" if phrase else f"<{identifier}>"
