"""Signed, purpose-separated tokens, and the public URLs that carry them.

A token holds one row id and nothing that can be read without the key: no address, no visible or guessable number, no
date. It is a pure function of key, purpose and id, so the same delivery always shows the same link, and it never
expires: an unsubscribe link must work for as long as the mail is kept. A purpose that should expire checks its row, not
its token.

Shape: `<28 characters of base64url>.<key id>`, that is a synthetic IV (104 bits of HMAC-SHA256 over purpose and id) and
the id under a pad made from that IV, the construction of RFC 5297 with HMAC in the place of CMAC and CTR. Two equal IVs
give two equal pads only for the same purpose and, but for one chance in 2^104, the same id.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from newsletter.errors import ConfigError, Finding

_IV = 13  # octets; with the id 21, which is base64 without padding or spare bits
_ID = 8
_KEY_ID = re.compile(r"[A-Za-z0-9]{1,16}")
_PUBLIC_ID, _PUBLIC_SECRET = "sample", b"newsletter: this key is public, never trust it"


@dataclass(frozen=True, kw_only=True)
class Keyring:
    """The secret keys of a workspace: `current` signs, all of them verify, so a retired key keeps its links alive.

    Raises `ConfigError` for a key id that is not 1 to 16 letters and digits, a secret under 32 octets, a current key
    that is not there, and for the public sample key among real ones.
    """

    current: str
    keys: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        problems = [] if self.current in self.keys else [f"the current key {self.current!r} is not among the keys"]
        for name, secret in self.keys.items():
            if not _KEY_ID.fullmatch(name):
                problems.append(f"key id {name!r}: use 1 to 16 letters and digits")
            if len(secret) < 32:
                problems.append(f"key {name!r}: {len(secret)} octets are too short, 32 are the least")
            public = (name == _PUBLIC_ID, secret == _PUBLIC_SECRET)
            if any(public) and not (all(public) and len(self.keys) == 1):
                problems.append(f"key {name!r}: the public sample key cannot stand for or among secret ones")
        if problems:
            help = 'make one: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
            raise ConfigError(
                Finding(code="links.key", severity="error", where=None, message=problem, help=help)
                for problem in problems
            )

    def token(self, purpose: str, id: int) -> str:
        """The token of a row id (0 ≤ id < 2^64) for one purpose, such as "unsubscribe"; 30 to 45 characters."""
        return _token(self.current, self.keys[self.current], purpose, id)

    def read(self, token: str, purpose: str) -> int | None:
        """The id in a token, or None when it is forged, cut, changed, for another purpose or by a key not held here."""
        body, _, name = token.partition(".")
        secret = self.keys.get(name)
        if secret is None or not token.isascii():
            return None
        try:
            sealed = urlsafe_b64decode(body)
        except (NotBase64, ValueError):
            return None
        iv, hidden = sealed[:_IV], sealed[_IV:]
        id = int.from_bytes(hidden, "big") ^ _pad(secret, purpose, iv) if len(hidden) == _ID else 0
        # The whole token is compared, so that one id has one spelling only, whatever base64 would read leniently.
        return id if hmac.compare_digest(_token(name, secret, purpose, id), token) else None


SAMPLE = Keyring(current=_PUBLIC_ID, keys={_PUBLIC_ID: _PUBLIC_SECRET})
"""The key of samples and demos, known to all. No real keyring reads its tokens; the web refuses to serve with it."""


def urls(base_url: str, keyring: Keyring, *, delivery: int, language: str, issue: str) -> dict[str, str]:
    """The values of UNSUBSCRIBE_URL, PREFERENCES_URL and VIEW_URL for one delivery.

    The first two are personal. The view is the public archive page and carries no token: a forwarded issue gives nobody
    away.
    """
    base = base_url.rstrip("/")
    return {
        "UNSUBSCRIBE_URL": f"{base}/u/{keyring.token('unsubscribe', delivery)}",
        "PREFERENCES_URL": f"{base}/p/{keyring.token('preferences', delivery)}",
        "VIEW_URL": archive_url(base, language=language, issue=issue),
    }


def archive_url(base_url: str, *, language: str, issue: str) -> str:
    """The public page of an issue in one language."""
    return f"{base_url.rstrip('/')}/archive/{quote(language, safe='')}/{quote(issue, safe='')}/"


def _token(name: str, secret: bytes, purpose: str, id: int) -> str:
    iv = hmac.digest(secret, b"iv\0" + purpose.encode() + b"\0" + id.to_bytes(_ID, "big"), "sha256")[:_IV]
    hidden = (id ^ _pad(secret, purpose, iv)).to_bytes(_ID, "big")
    return f"{urlsafe_b64encode(iv + hidden).decode()}.{name}"


def _pad(secret: bytes, purpose: str, iv: bytes) -> int:
    return int.from_bytes(hmac.digest(secret, b"pad\0" + purpose.encode() + b"\0" + iv, "sha256")[:_ID], "big")
