"""Proof of work: a sum that a browser does while somebody fills in a form, so that a thousand forms cost something.

The challenge is one of ALTCHA's (altcha.org, version 2 of its format, SHA-256): find the counter below `MOST` with
which the hash of salt, nonce and counter begins as it should. static/proof.js does that; nobody else is asked.
"""

from __future__ import annotations

import hmac
import json
import secrets

import altcha

from newsletter.links import Keyring
from newsletter.store.models import KEY_LENGTH

# Half of it on average: 75,000 hashes, one to two seconds on a phone. With a limit, unlike with a number of zeros that
# the hash must begin with, nobody has bad luck.
MOST = 150_000
LIFETIME = 2 * 3600  # seconds. Far shorter than a wish is kept: that is where a proof is remembered as used
LONGEST = 2000  # characters of a solution; ours have 600


def challenge(keyring: Keyring, now: float) -> str:
    """A new challenge as JSON, for the form's `data-challenge`. Nothing is kept of it."""
    made = altcha.create_challenge(
        "SHA-256",
        1,
        counter=secrets.randbelow(MOST),
        expires_at=int(now) + LIFETIME,
        hmac_secret=_secret(keyring),
    )
    return json.dumps(made.to_dict(), separators=(",", ":"))


def proven(keyring: Keyring, text: str) -> bytes | None:
    """What a solved challenge is known by, so that it counts once; None for what is unsolved, too old or not ours."""
    if not text or len(text) > LONGEST:
        return None
    try:
        solved = altcha.Payload.from_base64(text)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not altcha.verify_solution(solved, _secret(keyring)).verified:
        return None
    return bytes.fromhex(str(solved.challenge.signature))[:KEY_LENGTH]


def _secret(keyring: Keyring) -> bytes:
    return hmac.digest(keyring.keys[keyring.current], b"proof of work", "sha256")
