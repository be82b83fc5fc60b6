"""DKIM (RFC 6376, 8301, 8463): the keys of a workspace, and the signatures in front of sealed messages.

The envelope writes bodies that are their own relaxed form, and a head of which little differs, so nothing is parsed: a
signature costs its own arithmetic, one SHA-256 over the message, and a few joins.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from newsletter.config import Dkim
from newsletter.envelope import BODY, DATE, KEYS, LIST, TO, Envelope, Sealed
from newsletter.errors import AddressError, ConfigError, Finding, HeaderError, Where
from newsletter.headers import addr_spec

Kind = Literal["rsa", "ed25519"]

BITS = 2048  # of a new RSA key: RFC 8301 §3.2
# Seconds for which a signature holds. Servers give a message up after about five days (RFC 5321 §4.5.4.1), so nobody
# has to verify it later; then it would serve only those who send copies to others, and an old record could not go.
VALID = 7 * 86400
_KEY_FILE = 65536  # octets that a file with a key may have
_SELECTOR = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")  # one label of a domain name, RFC 6376 §3.1
_PKCS1V15, _SHA256 = PKCS1v15(), Prehashed(hashes.SHA256())


@dataclass(frozen=True, kw_only=True)
class Key:
    """A private key and the name under which its public half is in the DNS."""

    selector: str
    private: RSAPrivateKey | Ed25519PrivateKey = field(repr=False)

    @property
    def kind(self) -> Kind:
        return "rsa" if isinstance(self.private, RSAPrivateKey) else "ed25519"

    @property
    def bits(self) -> int:
        return self.private.key_size if isinstance(self.private, RSAPrivateKey) else 256

    @property
    def record(self) -> str:
        """What the TXT record of its public half says (RFC 6376 §3.6.1, RFC 8463 §4)."""
        if isinstance(self.private, RSAPrivateKey):
            public = self.private.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        else:
            public = self.private.public_key().public_bytes_raw()
        return f"v=DKIM1; k={self.kind}; p={b2a_base64(public, newline=False).decode()}"

    @property
    def pem(self) -> bytes:
        """The private key as its file holds it."""
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, digest: bytes) -> bytes:
        """The signature over a SHA-256 digest; RFC 8463 §3 has Ed25519 sign the digest as its message."""
        if isinstance(self.private, RSAPrivateKey):
            return self.private.sign(digest, _PKCS1V15, _SHA256)
        return self.private.sign(digest)


def new_key(selector: str, kind: Kind) -> Key:
    """A fresh key, in memory only."""
    if kind == "rsa":
        return Key(selector=selector, private=generate_private_key(public_exponent=65537, key_size=BITS))
    return Key(selector=selector, private=Ed25519PrivateKey.generate())


def record_name(selector: str, domain: str) -> str:
    """Where the record of a key stands in the DNS."""
    return f"{selector}._domainkey.{domain}"


def strings(record: str) -> list[str]:
    """A record in the pieces of at most 255 octets of which a TXT record is made (RFC 1035 §3.3)."""
    return [record[at : at + 255] for at in range(0, len(record), 255)]


def is_selector(text: str) -> bool:
    """Whether keys can be called so."""
    return bool(_SELECTOR.fullmatch(text))


# --- the keys of a workspace ------------------------------------------------------------------------------------------


def load_keys(settings: Dkim) -> tuple[Key, ...]:
    """The keys to sign with, in the order of their selectors. Raises `ConfigError` with everything that is wrong."""
    keys, findings = examine(settings)
    if errors := [finding for finding in findings if finding.severity == "error"]:
        raise ConfigError(errors)
    return keys


def examine(settings: Dkim, *, sender: str = "") -> tuple[tuple[Key, ...], list[Finding]]:
    """The keys that can be signed with, and what is wrong or worth a look; nothing is raised.

    With the address of the `sender`, also whether DMARC can take the domain for the sender's own.

    Errors: `dkim.missing`, `dkim.unreadable`, `dkim.not-a-key`, `dkim.encrypted`, `dkim.public`, `dkim.kind`,
    `dkim.weak` (below 1024 bits), `dkim.selector`, `dkim.domain`. Warnings: `dkim.short` (below 2048 bits), `dkim.long`
    (above 4096), `dkim.open` (everybody on the machine may read it), `dkim.alone` (no RSA key beside Ed25519),
    `dkim.alignment`.
    """
    keys, findings = [], []
    for selector in dict.fromkeys(settings.selectors):
        key, found = read_key(settings.keys, selector)
        findings += found
        if key:
            keys.append(key)
    if keys and len(keys) == len(set(settings.selectors)) and all(key.kind == "ed25519" for key in keys):
        message = "dkim.selectors: only Ed25519 keys, which many receivers cannot verify: to them the mail is unsigned"
        findings.append(_finding("alone", message, "add an RSA key: newsletter dkim new", severity="warning"))
    try:
        domain = signing_domain(settings)
    except ConfigError as error:
        findings += error.findings
    else:
        own = _domain(sender.rpartition("@")[2]) if sender else ""
        if domain and own and _organisation(domain) != _organisation(own):
            message = f"dkim.domain: {domain} is not of the same organisation as {own}, so DMARC takes no note of it"
            help = f"remove dkim.domain, so that {own} signs"
            findings.append(_finding("alignment", message, help, severity="warning"))
    return tuple(keys), findings


def read_key(folder: Path, selector: str) -> tuple[Key | None, list[Finding]]:
    """The key of a selector, if it can be signed with, and what is wrong with it or worth a look."""
    path = folder / f"{selector}.pem"
    findings: list[Finding] = []

    def report(code: str, message: str, help: str, severity: Literal["error", "warning"] = "error") -> None:
        findings.append(_finding(code, message, help, severity=severity, path=path))

    if not is_selector(selector):
        help = "rename the key, and its record, to at most 63 of A-Z a-z 0-9 - _ with a letter or digit at both ends"
        report("selector", "a selector cannot be called so", help)
        return None, findings
    try:
        content, mode = _content(path)
    except FileNotFoundError:
        help = f"make it: newsletter dkim new {selector}; or copy it here from the machine or backup that has it"
        report("missing", "there is no such key", help)
        return None, findings
    except OSError as error:
        help = "let the user who runs newsletter read it: chown, then chmod 600"
        report("unreadable", f"cannot be read: {error.strerror or error}", help)
        return None, findings
    if mode & 0o007:
        message = "everybody on this machine can read or change this key, and so sign as you"
        report("open", message, f"type: chmod 600 {path}", "warning")
    if not (private := _private(content, report)):
        return None, findings
    key = Key(selector=selector, private=private)
    if key.kind == "rsa" and key.bits < 1024:
        message = f"an RSA key of {key.bits} bits is too weak: receivers take its signatures for none (RFC 8301)"
        report("weak", message, "make another: newsletter dkim new")
        return None, findings
    if key.kind == "rsa" and key.bits < BITS:
        message = f"an RSA key of {key.bits} bits; today keys have {BITS}"
        report("short", message, "change to another in your own time: newsletter dkim new", "warning")
    if key.kind == "rsa" and key.bits > 4096:
        message = f"an RSA key of {key.bits} bits: receivers need not verify more than 4096 (RFC 8301)"
        report("long", message, "make another: newsletter dkim new", "warning")
    return key, findings


def _content(path: Path) -> tuple[bytes, int]:
    """A file's octets, cut off where no key can be, and its permissions. Raises `OSError`, also for no file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe must not hold us up
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError("not a file")
        return file.read(_KEY_FILE), mode


def _private(content: bytes, report: Callable[[str, str, str], None]) -> RSAPrivateKey | Ed25519PrivateKey | None:
    again = "make another: newsletter dkim new"
    if b"-----BEGIN OPENSSH PRIVATE KEY" in content:
        report("not-a-key", "is a key of ssh", again)
        return None
    if b"PRIVATE KEY-----" not in content:
        if b"-----BEGIN PUBLIC KEY" in content or b"-----BEGIN RSA PUBLIC KEY" in content:
            help = "put the private key here; the public one belongs into the DNS, and newsletter dkim show prints it"
            report("public", "is the public half of a key, which cannot sign", help)
        else:
            help = "it begins with -----BEGIN PRIVATE KEY----- or -----BEGIN RSA PRIVATE KEY-----"
            report("not-a-key", "is not a private key in PEM form", f"{again}; {help}")
        return None
    try:
        private = serialization.load_pem_private_key(content, password=None)
    except TypeError:  # cryptography's way to ask for a password
        help = f"take the password off (openssl pkey -in OLD -out NEW): the file's permissions protect it; or {again}"
        report("encrypted", "is locked with a password", help)
        return None
    except (ValueError, UnsupportedAlgorithm):  # its text may tell of the key
        report("not-a-key", "is damaged, or no key that can be used here", f"put a whole copy here; or {again}")
        return None
    if not isinstance(private, RSAPrivateKey | Ed25519PrivateKey):
        kind = type(private).__name__.removesuffix("PrivateKey").lstrip("_")
        report("kind", f"is a key of the kind {kind}; DKIM knows RSA and Ed25519", again)
        return None
    return private


def signing_domain(settings: Dkim) -> str:
    """The domain of the settings as A-labels, or "" for that of each sender. Raises `ConfigError`."""
    domain = _domain(settings.domain)
    if settings.domain and not domain:
        help = "write one such as example.org, or remove the line: the domain of the sender's address signs then"
        raise ConfigError([_finding("domain", "dkim.domain: is not a domain", help)])
    return domain


def _domain(text: str) -> str:
    try:
        return addr_spec(f"d@{text}").removeprefix("d@")
    except AddressError:
        return ""


def _organisation(domain: str) -> str:
    # The true answer needs the Public Suffix List; two labels never warn of what is right.
    return ".".join(domain.split(".")[-2:])


def _finding(
    code: str, message: str, help: str, *, severity: Literal["error", "warning"] = "error", path: Path | None = None
) -> Finding:
    where = Where(path=str(path)) if path else None
    return Finding(code=f"dkim.{code}", severity=severity, where=where, message=message, help=help)


# --- signing ----------------------------------------------------------------------------------------------------------


class _Template(NamedTuple):
    """The signature header of one key, as it is written and as it is hashed, up to the hash of the body."""

    key: Key
    written: bytes
    hashed: bytes


# Named once more than they occur, so that a second one, put in front of ours on the way, breaks the signature.
_SEALED = (b"from", b"subject", b"to", b"date", b"list-unsubscribe", b"list-unsubscribe-post")


class Signer:
    """Signs the messages of one envelope. Holds a few hundred octets; may be shared between threads.

    Every header of a message is signed. `domain` is in A-labels (RFC 6376 §3.5, d=).
    """

    def __init__(self, envelope: Envelope, keys: Sequence[Key], *, domain: str) -> None:
        constant = envelope.constant
        last_headers, _, body = constant[BODY].partition(b"\r\n\r\n")
        self._body = hashlib.sha256(body)
        head = (*constant[:BODY], last_headers + b"\r\n")
        self._before_to, self._to_key = relaxed(head[TO - 1]), relaxed(head[TO + 1])
        self._between_keys, self._after_list = relaxed(head[KEYS[0] + 1]), relaxed(head[BODY])
        self._keys, self._domain = keys, domain.encode()

    def sign_all(
        self, sealed: Iterable[Sealed | AddressError | HeaderError], *, date: datetime
    ) -> list[Sealed | AddressError | HeaderError]:
        """The messages with a DKIM-Signature in front for each key, in their order; an error stays what it is.

        `date` is the one they were sealed with. The time is that of the signatures, which release the interpreter's
        lock (RSA): several threads sign on several cores.
        """
        second = int(date.timestamp())
        templates: dict[tuple[bool, bool], list[_Template]] = {}
        signed: list[Sealed | AddressError | HeaderError] = []
        for message in sealed:
            if not isinstance(message, Sealed):
                signed.append(message)
                continue
            pieces = message.pieces
            links, key = _relaxed_links(pieces[LIST]), pieces[KEYS[0]]
            head = b"".join(
                (
                    b"date:",
                    pieces[DATE],
                    self._before_to,
                    _relaxed_line(pieces[TO]),
                    self._to_key,
                    key,
                    self._between_keys,
                    key,
                    links,
                    self._after_list,
                )
            )
            shape = (b"\nlist-unsubscribe:" in links, b"\nlist-unsubscribe-post:" in links)
            if shape not in templates:
                templates[shape] = self._templates(head, second)
            body = self._body.copy()
            for piece in pieces[BODY + 1 :]:  # joined they would be copied once more
                body.update(piece)
            body_hash = b2a_base64(body.digest(), newline=False)
            hashed_head = hashlib.sha256(head)
            lines = []
            for template in templates[shape]:
                digest = hashed_head.copy()
                digest.update(b"%b%b; b=" % (template.hashed, body_hash))
                signature = b2a_base64(template.key.sign(digest.digest()), newline=False)
                folded = b"\r\n ".join([signature[at : at + 72] for at in range(0, len(signature), 72)])
                lines.append(b"%b%b;\r\n b=%b\r\n" % (template.written, body_hash, folded))
            signed.append(Sealed((b"".join(lines), *pieces), message.address, message.utf8))
        return signed

    def _templates(self, head: bytes, second: int) -> list[_Template]:
        """For messages with the same headers as this relaxed head, signed at that second of the epoch."""
        h = _folded_names([*_NAMES.findall(head), *_SEALED])
        made = []
        for key in self._keys:
            written = (
                b"DKIM-Signature: v=1; a=%b-sha256; c=relaxed/relaxed;\r\n"
                b" d=%b; s=%b;\r\n t=%d; x=%d;\r\n h=%b;\r\n bh="
            ) % (key.kind.encode(), self._domain, key.selector.encode(), second, second + VALID, h)
            made.append(_Template(key, written, relaxed(written)))
        return made


def _folded_names(names: Sequence[bytes]) -> bytes:
    lines, line = [], b""
    for name in names:
        if line and len(line) + len(name) > 72:
            lines.append(line)
            line = b""
        line += name + b":"
    return b"\r\n ".join([*lines, line]).removesuffix(b":")


def relaxed(lines: bytes) -> bytes:
    """Header lines of ours, whole or not, in the relaxed form (RFC 6376 §3.4.2).

    Names hold letters and hyphens, and what is cut off begins or ends inside a line that is not folded there.
    """
    unfolded = _BLANKS.sub(b" ", _FOLD.sub(b"", lines)).replace(b" \r\n", b"\r\n")
    return _NAME.sub(_lower, unfolded)


def _relaxed_line(line: bytes) -> bytes:
    """`relaxed` of one whole To line, most of which have nothing to be changed but the name."""
    if b"  " in line or b"\t" in line or line.find(b"\r\n") != len(line) - 2:
        return relaxed(line)
    return b"to:" + line[4:]


def _relaxed_links(lines: bytes) -> bytes:
    """`relaxed` of List-Unsubscribe(-Post), whose values have no blanks but after a fold; a fifth of the time."""
    for written, hashed in _LINKS:
        lines = lines.replace(written, hashed)
    return lines


_LINKS = (
    (b"\r\n ", b" "),
    (b"\r\nList-Unsubscribe: ", b"\r\nlist-unsubscribe:"),
    (b"\r\nList-Unsubscribe-Post: ", b"\r\nlist-unsubscribe-post:"),
)


def _lower(found: re.Match[bytes]) -> bytes:
    return found[1].lower() + b":"


_NAMES = re.compile(rb"(?m)^([a-z-]+):")
_FOLD = re.compile(rb"\r\n(?=[ \t])")
_BLANKS = re.compile(rb"[ \t]+")
_NAME = re.compile(rb"(?m)^([A-Za-z-]+) ?: ?")
