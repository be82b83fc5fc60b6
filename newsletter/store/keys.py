"""Address keys, and the check values that tell a wrong secret from the right one.

An address is known to the database by its key: the first 16 octets of HMAC-SHA256 (RFC 2104) under the workspace's
pepper over the normalised address. The pepper stands outside the database, so that a stolen copy does not tell whether
an address is suppressed or was erased.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Callable

from newsletter.config import Config
from newsletter.errors import AddressError, WrongKey
from newsletter.headers import addr_spec
from newsletter.links import Keyring
from newsletter.store.models import KEY_LENGTH, Fact


def normalised(address: str) -> str:
    """Trimmed, NFC, local part case-folded, domain as lower-case A-labels. Raises `AddressError` for no address."""
    address = address.strip()
    if address.isascii():  # NFC and case-folding come to the same, and cost twice as much
        return addr_spec(address).lower()
    address = unicodedata.normalize("NFC", address)
    local, _, domain = addr_spec(address).rpartition("@")
    return f"{unicodedata.normalize('NFC', local.casefold())}@{domain.lower()}"


def key_maker(pepper: bytes) -> Callable[[str], bytes]:
    """A function from an address to its key; it raises `AddressError`. About 2 µs a call."""
    # HMAC as RFC 2104 writes it, from two prepared hashes: hmac.digest costs five times as much.
    secret = hashlib.sha256(pepper).digest() if len(pepper) > 64 else pepper
    padded = secret.ljust(64, b"\0")
    inner, outer = (hashlib.sha256(bytes(octet ^ pad for octet in padded)) for pad in (0x36, 0x5C))

    def key(address: str) -> bytes:
        one, two = inner.copy(), outer.copy()
        one.update(normalised(address).encode())
        two.update(one.digest())
        return two.digest()[:KEY_LENGTH]

    return key


def keyring(config: Config) -> Keyring:
    """The signing keys of the workspace. Raises `WrongKey` when there is none."""
    if not config.secret_key:
        raise WrongKey("NEWSLETTER_SECRET_KEY is not set; put it into .env (newsletter init makes one)")
    secrets = [config.secret_key.encode(), *(key.encode() for key in config.retired_keys)]
    keys = {_key_id(secret): secret for secret in reversed(secrets)}
    return Keyring(current=_key_id(secrets[0]), keys=keys)


def _key_id(secret: bytes) -> str:
    """A name for a key that any machine gives it: links say by which key they are signed."""
    return hmac.digest(secret, b"key id", "sha256").hex()[:4]


def check_keys(config: Config) -> None:
    """Compares the secrets with the check values that the database holds, and keeps those of a new database.

    Raises `WrongKey` when the pepper is missing or another one, or when neither the secret key nor a retired one is the
    key that this database was made with.
    """
    if not config.pepper:
        raise WrongKey("NEWSLETTER_PEPPER is not set; put it into .env (newsletter init makes one)")
    keys = keyring(config)
    pepper, _ = Fact.objects.get_or_create(name="check:pepper", defaults={"value": _check(config.pepper.encode())})
    if not hmac.compare_digest(pepper.value, _check(config.pepper.encode())):
        raise WrongKey(
            "NEWSLETTER_PEPPER is not the one this database was made with; with another one suppressed and erased "
            "people would not be recognised. Put the old one back into .env"
        )
    current = _check(keys.keys[keys.current])
    signing, _ = Fact.objects.get_or_create(name="check:secret_key", defaults={"value": current})
    if hmac.compare_digest(signing.value, current):
        return
    if not any(hmac.compare_digest(signing.value, _check(secret)) for secret in keys.keys.values()):
        raise WrongKey(
            "NEWSLETTER_SECRET_KEY is not the one this database was made with, so the links in messages already sent "
            "would stop working. Put the old one back, or name it in NEWSLETTER_RETIRED_KEYS"
        )
    signing.value = current  # rotated: the former key is among the retired ones
    signing.save()


def _check(secret: bytes) -> str:
    return hmac.digest(secret, b"check value", "sha256").hex()[:32]


__all__ = ["AddressError", "check_keys", "key_maker", "keyring", "normalised"]
