"""The words of SMTP: replies read from octets, what a server offers, what a refusal means. Nothing here does I/O.

Sources: RFC 5321 (SMTP), 2920 (PIPELINING), 3207 (STARTTLS), 4954 (AUTH), 6531 (SMTPUTF8), 2034 and 3463 (enhanced
status codes).
"""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from collections.abc import Generator
from typing import Literal, NamedTuple

from newsletter.config import Smtp
from newsletter.errors import ProviderDown, ProviderRejected

LONGEST_REPLY = 65536  # octets that may wait for the end of a reply; RFC 5321 §4.5.3.1.5 allows 512 a line
LONGEST_DETAIL = 300
LONGEST_REFERENCE = 200


class ProtocolError(Exception):
    """The other end does not speak SMTP, or is out of step: the connection is of no use any more."""


# --- replies ----------------------------------------------------------------------------------------------------------


class Reply(NamedTuple):
    code: int  # 200 to 599
    status: str  # the enhanced status code, "5.1.1", or ""
    text: str  # what stands after the codes, lines separated by "\n"; not yet fit to be shown

    @property
    def good(self) -> bool:
        return self.code < 300

    @property
    def closing(self) -> bool:
        """The server closes the connection after this reply, whatever it replies to."""
        return self.code in (421, 521)

    def __str__(self) -> str:
        """The server's words, fit to be shown and kept: one printable line without an address."""
        return shown(f"{self.code} {self.status} {self.text}")


class Replies:
    """Octets in, whole replies out, however the octets were split or gathered on their way."""

    def __init__(self) -> None:
        self._rest = b""
        self._code = b""  # of a reply whose last line has not come
        self._texts: list[bytes] = []
        self._held = 0  # octets in _texts

    @property
    def waiting(self) -> bool:
        """Whether octets are here that `next` has not given out."""
        return bool(self._rest or self._texts)

    def add(self, octets: bytes) -> None:
        self._rest += octets

    def next(self) -> Reply | None:
        """The next whole reply, or None when more octets are needed. Raises `ProtocolError`.

        A line may end in a bare line feed and hold any octets. A reply of over 64 KB is none.
        """
        while True:
            line, end, rest = self._rest.partition(b"\n")
            if self._held + len(line) > LONGEST_REPLY:
                raise ProtocolError(f"the server sent a reply of over {LONGEST_REPLY:,} octets")
            if not end:
                return None
            self._rest = rest
            found = _LINE.fullmatch(line)
            if not found or (self._texts and found[1] != self._code):
                raise ProtocolError(f"the server sent what is no reply: {shown(line.decode(errors='replace')) or '…'}")
            self._code = found[1]
            self._texts.append(found[3] or b"")
            self._held += len(line)
            if found[2] != b"-":
                texts, self._texts, self._held = self._texts, [], 0
                return _reply(int(self._code), b"\n".join(texts).decode(errors="replace"))


_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\r\n]*))?\r*")
_STATUS = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?![0-9.])[ \t]*")


def _reply(code: int, text: str) -> Reply:
    found = _STATUS.match(text)
    if not found or int(found[1]) != code // 100:  # RFC 2034 §4: another class means nothing
        return Reply(code, "", text)
    status = found[0].rstrip()
    # Long replies repeat the status on each line.
    return Reply(code, status, "\n".join(line.removeprefix(status).strip() for line in text.split("\n")))


STEADY = re.compile(
    rb"250 ([^\r\n]*)\r\n"  # the message before is taken
    rb"250 [^\r\n]*\r\n"  # MAIL
    rb"25[01] [^\r\n]*\r\n"  # RCPT
    rb"354 [^\r\n]*\r\n"  # DATA
)
"""What nearly every answer is once a connection is at work: four replies in one packet."""


_ADDRESS = re.compile(r"""<?(?:"[^"]*"|[^\s<>()\[\]",;:]+)?(?:@|%40)[^\s<>()",;]+>?""")
_QUEUE_ID = re.compile(
    r"\bid=([\w.-]+)"  # Exim
    r"|InternalId=(\d+)"  # Exchange
    r"|(\w+) Message accepted for delivery"  # Sendmail
)


def shown(text: str) -> str:
    """Words of a server as one printable line of at most 300 characters, `<address>` for whatever looks like one."""
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else " " for sign in text)
    text = " ".join(text[:2000].split())
    if "@" in text or "%40" in text:
        text = _ADDRESS.sub("<address>", text)
    return text[:LONGEST_DETAIL]


def reference(text: str) -> str:
    """Under which id the server took a message, or its words where it does not tell; at most 200 characters."""
    _, queued, id = text.partition("queued as ")  # Postfix and its many relatives
    if not queued or not id.isalnum():
        found = _QUEUE_ID.search(text) if len(text) > 20 else None
        id = found[found.lastindex or 0] if found else shown(text)
    return id[:LONGEST_REFERENCE]


# --- what a refusal means ---------------------------------------------------------------------------------------------

Command = Literal["mail", "rcpt", "data", "dot"]
Meaning = Literal["accepted", "refused", "deferred", "rejected"]

# RFC 5248 and what large receivers add: SPF, DKIM, DMARC, reverse DNS, encryption, credentials, a blocked sender.
_SENDER_STATUS = re.compile(
    r"5\.3\.4|5\.7\.(?:8|9|1[01]|2[0-9]|30|5[0-9]|60|515|50[0-9]|606|60[7-9]|6[1-4][0-9]|70[0-9]|75[0-9])"
)
_LOG_IN = re.compile(r"\bauth", re.IGNORECASE)
_RELAY = re.compile(
    r"relay(?:ing)?(?: access)? (?:is )?(?:denied|not permitted|prohibited)|unable to relay", re.IGNORECASE
)
_TOO_LARGE = re.compile(r"\bsize\b|too (?:big|large)", re.IGNORECASE)


def meaning(reply: Reply, command: Command) -> Meaning:
    """What a reply to a command of a mail transaction means for its message.

    `rejected`: it is about the sender, this machine or the message as such, so it holds for the whole mailing. Raises
    `ProtocolError` for a reply that this command cannot have.
    """
    code = reply.code
    if code < 300 and command != "data":
        return "accepted"
    if code == 503 and _LOG_IN.search(reply.text):
        return "rejected"
    if code < 400 or (code == 503 and command != "mail"):  # "bad sequence of commands" after a MAIL that was taken
        raise ProtocolError(f"the server is out of step: it answered {command.upper()} with {reply}")
    if code < 500:
        return "deferred"
    if command == "mail" or code in (530, 535, 538) or _SENDER_STATUS.fullmatch(reply.status):
        return "rejected"
    if command == "rcpt" and _RELAY.search(reply.text):
        return "rejected"
    if command != "rcpt" and code == 552 and not reply.status and _TOO_LARGE.search(reply.text):
        return "rejected"
    return "refused"


# --- the opening of a connection --------------------------------------------------------------------------------------


class Offers(NamedTuple):
    """What a server offers in its answer to EHLO."""

    pipelining: bool = False
    starttls: bool = False
    smtputf8: bool = False
    eight_bit: bool = False
    size: int = sys.maxsize  # octets that a message may have
    auth: frozenset[str] = frozenset()


def offers(reply: Reply) -> Offers:
    words: dict[str, list[str]] = {}
    for line in reply.text.upper().split("\n")[1:]:  # the first line is a greeting
        keyword, *parameters = line.replace("AUTH=", "AUTH ").split() or [""]
        words.setdefault(keyword, []).extend(parameters)
    size = next(iter(words.get("SIZE", ())), "")
    return Offers(
        pipelining="PIPELINING" in words,
        starttls="STARTTLS" in words,
        smtputf8="SMTPUTF8" in words,
        eight_bit="8BITMIME" in words,
        size=(int(size) if size.isdecimal() and size.isascii() and len(size) < 16 else 0) or sys.maxsize,
        auth=frozenset(words.get("AUTH", ())),
    )


NO_REPLY = Reply(200, "", "")
Dialogue = Generator[bytes | None, Reply, Offers]


def opening(config: Smtp, *, name: str, local: bool) -> Dialogue:
    """The dialogue from the greeting to the first MAIL, as a generator; what it returns is what the server offers.

    It yields what is to be written and is sent the reply. It begins with nothing to write, for the server speaks first.
    None stands for the TLS handshake, after which it is sent `NO_REPLY`. `name` is this machine's for EHLO; `local`
    says that the server is on this machine.

    Raises `ProviderDown` and `ProviderRejected`, without the server's name.
    """
    reply = yield b""
    if not reply.good:
        raise ProviderDown(f"the server turns connections away: {reply}; try again later, or ask who runs it")
    offered = yield from _introduction(name)
    if config.security == "starttls":
        if not offered.starttls:
            raise ProviderRejected(
                "the server offers no STARTTLS, so nothing was sent; set smtp.security to tls with the port for it "
                "(mostly 465), or see that nothing between you and the server takes the encryption out"
            )
        reply = yield b"STARTTLS\r\n"
        if not reply.good:
            raise ProviderDown(f"the server offers STARTTLS and refuses it: {reply}; ask who runs the server")
        yield None
        offered = yield from _introduction(name)  # what was said in clear counts for nothing (RFC 3207 §4.2)
    if config.username:
        if config.security == "none" and not local:
            raise ProviderRejected(
                "a password must not travel unencrypted; set smtp.security to starttls or tls, or remove smtp.username"
            )
        yield from _authentication(config, offered)
    return offered


def _introduction(name: str) -> Dialogue:
    reply = yield f"EHLO {name}\r\n".encode()
    if reply.good:
        return offers(reply)
    if reply.code in (500, 501, 502, 504, 550, 554):
        reply = yield f"HELO {name}\r\n".encode()
        if reply.good:
            return Offers()
    raise ProviderDown(f"the server does not take our greeting: {reply}; try again later, or ask who runs it")


def _authentication(config: Smtp, offered: Offers) -> Dialogue:
    if not config.password:
        raise ProviderRejected("smtp.username is set but there is no password; put NEWSLETTER_SMTP_PASSWORD into .env")
    username, password = config.username.encode(), config.password.encode()
    if b"\0" in username + password:
        raise ProviderRejected("smtp.username or its password holds a NUL character; write them without it")
    both = b64encode(b"\0" + username + b"\0" + password)
    secrets = (both, b64encode(password), b64encode(username))
    if "PLAIN" in offered.auth:
        if len(both) < 480:  # RFC 4954 §4: a longer first response would make too long a line
            reply = yield b"AUTH PLAIN %b\r\n" % both
        else:
            reply = yield b"AUTH PLAIN\r\n"
            if reply.code == 334:
                reply = yield b"%b\r\n" % both
    elif "LOGIN" in offered.auth:
        reply = yield b"AUTH LOGIN\r\n"
        for secret in (secrets[2], secrets[1]):
            if reply.code == 334:
                reply = yield b"%b\r\n" % secret
    elif not offered.auth:
        raise ProviderRejected(
            "the server offers no log-in here, so the password was not sent; set smtp.security and smtp.port to where "
            "it does (mostly starttls and 587), or remove smtp.username"
        )
    else:
        ways = " ".join(sorted(offered.auth))
        raise ProviderRejected(
            f"the server offers no log-in with PLAIN or LOGIN, only {shown(ways)}; ask who runs it for a password that "
            "works with PLAIN"
        )
    if reply.code == 235:
        return offered
    words = reply.text
    for secret in secrets:  # some servers repeat what they could not read
        words = words.replace(secret.decode(), "…")
    said = str(reply._replace(text=words.replace(config.password, "…")))
    if 400 <= reply.code < 500:
        raise ProviderDown(f"the log-in failed for now: {said}; try again later")
    raise ProviderRejected(
        f"the log-in was refused: {said}; check smtp.username and NEWSLETTER_SMTP_PASSWORD (many services want a "
        "password made for programs, not the one of the mailbox)"
    )
