"""One look at a mail server: everything that comes before a recipient, and good-bye. Nothing is sent to anybody.

The dialogue is the one with which sending begins (smtp_wire.py), over one blocking socket instead of the engine.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import ssl
import sys
import threading
from contextlib import suppress
from time import monotonic
from typing import Any

from newsletter.config import Smtp
from newsletter.errors import ProviderDown, ProviderError, ProviderRejected
from newsletter.providers.smtp_engine import ADDRESS_WAIT, HINT, own_name, reason
from newsletter.providers.smtp_wire import NO_REPLY, Offers, ProtocolError, Replies, Reply, meaning, opening


def probe(config: Smtp, *, tls: ssl.SSLContext | None, path: str, utf8: bool) -> str:
    """What the server offers and takes, in one line of words.

    `path` is the return path to be tried in MAIL, `utf8` whether the sender's address is not ASCII. Takes
    `config.timeout` seconds at most, all in all. Raises `ProviderDown` and `ProviderRejected` as sending does.
    """
    where = f"smtp {config.host}:{config.port}"
    until = monotonic() + config.timeout
    hint = "check smtp.host, smtp.port and smtp.security, and that the server runs"
    try:
        addresses, name = _looked_up(config, until)
        with _Talk(config, _connected(addresses, until), tls, until) as talk:
            offered = _opened(talk, config, name)
            hint = "try again later"
            _try_sender(talk, offered, path, utf8=utf8)
            return _words(config, offered, talk.encryption)
    except ProviderError as error:
        raise type(error)(f"{where}: {error}") from error
    except TimeoutError as error:
        raise ProviderDown(f"{where}: no answer within {config.timeout} s; {hint}") from error
    except (ProtocolError, OSError, UnicodeError) as error:
        raise ProviderDown(f"{where}: {reason(error)}; {hint}") from error


def _left(until: float) -> float:
    """Raises `TimeoutError` when no time is left."""
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _looked_up(config: Smtp, until: float) -> tuple[list[Any], str]:
    """The server's addresses, and this machine's name; in a thread, since nothing bounds a look-up."""
    found: queue.SimpleQueue[tuple[list[Any], str] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put((socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM), own_name()))
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=look_up, name="smtp look-up", daemon=True).start()
    try:
        answer = found.get(timeout=_left(until))
    except queue.Empty:
        raise ProviderDown(f"the name {config.host} could not be looked up in time; is the network up?") from None
    if isinstance(answer, Exception):
        raise ProviderDown(
            f"the name {config.host} cannot be looked up ({reason(answer)}); check smtp.host, and that this machine is "
            "on the network"
        ) from answer
    return answer


def _connected(addresses: list[Any], until: float) -> socket.socket:
    """A connection to the first of the addresses that answers."""
    for place, (family, kind, protocol, _, address) in enumerate(addresses):
        last = place == len(addresses) - 1
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(_left(until) if last else min(ADDRESS_WAIT, _left(until)))
            sock.connect(address)
        except OSError:
            if sock:
                sock.close()
            if last:
                raise
        else:
            return sock
    raise OSError("the name has no address")


class _Talk:
    """A connection on which one command follows the answer to the other. Says QUIT when it is left."""

    def __init__(self, config: Smtp, sock: socket.socket, tls: ssl.SSLContext | None, until: float) -> None:
        self._host, self._tls, self._until = config.host, tls, until
        self._sock = sock
        self._replies = Replies()
        self.encryption = ""  # "TLSv1.3"

    def __enter__(self) -> _Talk:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # who has nothing more to ask does not wait for the answer
            self._sock.settimeout(1.0)
            self._sock.sendall(b"QUIT\r\n")
        self._sock.close()

    def ends(self) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
        """Our address and the server's."""
        names = (self._sock.getsockname(), self._sock.getpeername())
        return tuple(ipaddress.ip_address(each[0].partition("%")[0]) for each in names)

    def ask(self, octets: bytes) -> Reply:
        """The reply to a command; b"" waits for the greeting."""
        if self._replies.waiting:
            raise ProtocolError("the server is out of step: it answered what it was not asked")
        if octets:
            self._sock.settimeout(_left(self._until))
            self._sock.sendall(octets)
        while (reply := self._replies.next()) is None:
            self._sock.settimeout(_left(self._until))
            more = self._sock.recv(8192)
            if not more:
                raise ProtocolError("the server closed the connection")
            self._replies.add(more)
        return reply

    def encrypt(self) -> None:
        if self._replies.waiting:  # it would be taken for the words of the encrypted server
            raise ProtocolError("the server went on in clear after STARTTLS")
        context = self._tls or ssl.create_default_context()
        self._sock.settimeout(_left(self._until))
        self._sock = encrypted = context.wrap_socket(
            self._sock, server_hostname=self._host, do_handshake_on_connect=False
        )
        encrypted.do_handshake()
        self.encryption = encrypted.version() or "TLS"


def _opened(talk: _Talk, config: Smtp, name: str) -> Offers:
    """What the server offers once it let us in."""
    here, there = talk.ends()
    literal = f"[{'IPv6:' if here.version == 6 else ''}{here}]"  # RFC 5321 §4.1.3
    dialogue = opening(config, name=name or literal, local=there.is_loopback)
    octets = next(dialogue)
    if config.security == "tls":
        talk.encrypt()
    while True:
        if octets is None:
            talk.encrypt()
        reply = NO_REPLY if octets is None else talk.ask(octets)
        try:
            octets = dialogue.send(reply)
        except StopIteration as end:
            offered: Offers = end.value
            return offered


def _try_sender(talk: _Talk, offered: Offers, path: str, *, utf8: bool) -> None:
    """MAIL for the sender, and RSET."""
    if utf8 and not offered.smtputf8:
        raise ProviderRejected(
            "the server does not offer SMTPUTF8, so it cannot take letters outside ASCII before the @; write "
            "sender.address and sender.reply_to in ASCII"
        )
    reply = talk.ask(f"MAIL FROM:<{path}>{' BODY=8BITMIME SMTPUTF8' if utf8 else ''}\r\n".encode())
    means = meaning(reply, "mail")
    if means == "rejected":
        raise ProviderRejected(f"{reply}{HINT}")
    if means != "accepted":
        raise ProviderDown(f"the server takes nothing from the sender for now: {reply}; try again later")
    talk.ask(b"RSET\r\n")


def _words(config: Smtp, offered: Offers, encryption: str) -> str:
    size = "" if offered.size == sys.maxsize else f"SIZE {offered.size:,}"
    extensions = {
        "PIPELINING": offered.pipelining,
        "8BITMIME": offered.eight_bit,
        "SMTPUTF8": offered.smtputf8,
        "STARTTLS": offered.starttls,
        size: bool(size),
    }
    there = [name for name, offers in extensions.items() if offers]
    words = [
        f"the server answers, encrypted ({encryption})" if encryption else "the server answers, not encrypted",
        "the log-in works" if config.username else "no log-in is set",
        "it takes the sender",
        f"it offers {', '.join(there)}" if there else "it offers no extension",
    ]
    if not offered.pipelining:
        words.append("without PIPELINING every message takes five round trips")
    if not offered.smtputf8:
        words.append("without SMTPUTF8 recipients with letters outside ASCII before the @ are refused")
    return "; ".join(words)
