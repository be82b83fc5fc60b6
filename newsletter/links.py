"""Signed, purpose-separated tokens, and the public URLs that carry them.

A token holds one row id and nothing that can be read without the key: no address, no visible or guessable number, no
date. It is a pure function of key, purpose and id, so the same delivery always shows the same link, and it never
expires: an unsubscribe link must work for as long as the mail is kept. A purpose that should expire checks its row, not
its token.

Shape: `<22 characters of base64url>.<key id>`. The characters are one AES-128 block: six octets of id and ten of zeros,
enciphered under a key derived for the purpose. Redundancy inside a block cipher authenticates what it hides (Bellare
and Rogaway, "Encode-then-encipher encryption", 2000): a block that nobody made with the key deciphers to ten zero
octets once in 2^80 times. A whole chunk of recipients is enciphered in one call, about 0.2 µs a token where an HMAC
takes 4 µs.
"""

from __future__ import annotations

import hmac
import re
import sys
from array import array
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from newsletter.errors import ConfigError, Finding

_BLOCK, _ID, _ZEROS = 16, 6, bytes(10)  # octets
_DELIVERY = "delivery"  # the purpose of a delivery's key
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
        """The token of a row id (0 ≤ id < 2^48) for one purpose, such as "unsubscribe"; 24 to 39 characters."""
        return self.tokens(purpose, (id,))[0]

    def tokens(self, purpose: str, ids: Sequence[int]) -> list[str]:
        """The tokens of many ids for one purpose, in their order."""
        blocks = _enciphered(self.keys[self.current], purpose, ids)
        # Two octets more make whole groups of base64: 24 characters for each block, of which 22 are its own.
        spaced = bytearray(18 * len(ids))
        for place in range(_BLOCK):
            spaced[place::18] = blocks[place::_BLOCK]
        ending = f".{self.current}"
        return [letters + ending for letters in _OWN_LETTERS.findall(urlsafe_b64encode(spaced).decode())]

    def read(self, token: str, purpose: str) -> int | None:
        """The id in a token, or None when it is forged, cut, changed, for another purpose or by a key not held here."""
        body, _, name = token.partition(".")
        secret = self.keys.get(name)
        if secret is None or not token.isascii() or len(body) != 22:
            return None
        try:
            block = urlsafe_b64decode(f"{body}==")
        except (NotBase64, ValueError):
            return None
        id = _deciphered(secret, purpose, block)
        # The whole token is compared, so that one id has one spelling only, whatever base64 would read leniently.
        known = id is not None and hmac.compare_digest(_spelled(block, name), token)
        return id if known else None

    def delivery_keys(self, ids: Sequence[int]) -> list[str]:
        """The keys of deliveries: 32 hexadecimal digits each, opaque, the same for ever, fit for a Message-ID, for
        a return path whose case nobody keeps, and for a provider's metadata."""
        return _DELIVERY_KEY.findall(_enciphered(self.keys[self.current], _DELIVERY, ids).hex())

    def read_delivery(self, key: str) -> int | None:
        """The id of the delivery with this key, in upper or lower case, by any key held here; None for any other."""
        if not _DELIVERY_KEY.fullmatch(key):
            return None
        block = bytes.fromhex(key)
        ids = (_deciphered(secret, _DELIVERY, block) for secret in self.keys.values())
        return next((id for id in ids if id is not None), None)


_OWN_LETTERS = re.compile(r"(.{22})..")
_DELIVERY_KEY = re.compile(r"[0-9A-Fa-f]{32}")

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


PATHS = {
    "unsubscribe": "u",  # a delivery; for ever
    "preferences": "p",  # a delivery; for ever
    "confirm": "c",  # a wish; 7 days
    "manage": "m",  # a wish; 30 minutes
    "address": "a",  # a wish; a day
    "view": "v",  # a frozen edition that is not public; for ever
}
"""The purposes whose tokens stand in an address of the pages, the path that each has, and whose row id it carries."""


def personal_url(base_url: str, keyring: Keyring, purpose: str, id: int) -> str:
    """The page that a personal link of this purpose opens."""
    return f"{base_url.rstrip('/')}/{PATHS[purpose]}/{keyring.token(purpose, id)}"


def archive_url(base_url: str, *, language: str, issue: str) -> str:
    """The public page of an issue in one language."""
    return f"{base_url.rstrip('/')}/archive/{quote(language, safe='')}/{quote(issue, safe='')}/"


def _spelled(block: bytes, name: str) -> str:
    return f"{urlsafe_b64encode(block).decode()[:22]}.{name}"


def _enciphered(secret: bytes, purpose: str, ids: Sequence[int]) -> bytes:
    # Columns of numbers, eight octets each: the six of the id with two zeros behind them, and eight zeros.
    plain = array("Q", bytes(_BLOCK * len(ids)))
    plain[::2] = array("Q", [id << 16 for id in ids])
    if sys.byteorder == "little":
        plain.byteswap()
    enciphered: bytes = _cipher(secret, purpose).encryptor().update(plain.tobytes())
    return enciphered


def _deciphered(secret: bytes, purpose: str, block: bytes) -> int | None:
    plain = _cipher(secret, purpose).decryptor().update(block)
    return int.from_bytes(plain[:_ID], "big") if hmac.compare_digest(plain[_ID:], _ZEROS) else None


@lru_cache(maxsize=64)
def _cipher(secret: bytes, purpose: str) -> Any:
    # Imported here: it takes 40 ms, and most commands make no token. One block at a time and no two ids alike: the
    # mode that must not be used for text (ECB) is the bare block cipher, which is what is wanted.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = hmac.digest(secret, b"token\0" + purpose.encode(), "sha256")[:_BLOCK]
    return Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305
