"""SMTP: a transaction for every message, over connections that stay open (smtp_engine.py)."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Sequence
from functools import lru_cache

from newsletter.config import Dkim, Smtp
from newsletter.dkim import Signer, load_keys, signing_domain
from newsletter.envelope import Envelope, Recipient
from newsletter.errors import AddressError, ConfigError, Finding, HeaderError, ProviderRejected
from newsletter.headers import addr_spec
from newsletter.providers import Limits, Outcome, Recorder
from newsletter.providers.smtp_engine import Engine
from newsletter.providers.smtp_jobs import Job, Letter
from newsletter.providers.smtp_probe import probe
from newsletter.rendering.edition import Edition, Mailbox


class SmtpProvider:
    """Sends through the server of `config`. Opens connections when they are needed, and closes idle ones.

    With `dkim` every message is signed. `tls` replaces the default context, which verifies the server's certificate and
    name. After a fork the child opens connections of its own. Raises `ConfigError` for a `bounces` that is no domain,
    and for a key that cannot be signed with.
    """

    def __init__(self, config: Smtp, *, dkim: Dkim | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.limits = Limits(chunk=250, lanes=4, connections=config.connections)
        self._config = config
        self._tls = tls
        self._bounces = _bounce_domain(config.bounces)
        self._keys = load_keys(dkim) if dkim else ()
        self._signing_domain = signing_domain(dkim) if dkim else ""
        self._letter = lru_cache(maxsize=16)(self._made)  # the languages of the mailings at work
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._process = os.getpid()

    def send(self, edition: Edition, recipients: Sequence[Recipient], recorder: Recorder) -> list[Outcome]:
        """Every recipient's outcome, in their order.

        `ProviderDown` and `ProviderRejected` carry the outcomes that are known all the same: recipients without one
        were not handed over. `InputError` says that none was.
        """
        letter = self._letter(edition)
        job = Job(letter, recipients, recorder)
        if not job.waiting:
            return list(job.known())
        engine = self._running()
        engine.take(job)
        try:
            while not job.done.wait(5.0):
                if not engine.thread.is_alive() and not job.done.is_set():
                    raise RuntimeError("the smtp provider was closed while it was sending")
        except BaseException:
            job.over = True  # nobody waits for it any more: what has not left stays
            raise
        if job.failure:
            raise job.failure
        outcomes = job.known()
        assert len(outcomes) == len(recipients), "a recipient without an outcome"
        return list(outcomes)

    def check(self, sender: Mailbox) -> str:
        """What the server says to all that comes before a recipient: connection, encryption, log-in, sender.

        Over a connection of its own, on which nothing is sent, and within one time-out altogether. Raises
        `ProviderDown` and `ProviderRejected`.
        """
        try:
            address = addr_spec(sender.address)
        except AddressError as error:
            raise ProviderRejected(f"sender.address: {error}") from error
        path = f"b+check@{self._bounces}" if self._bounces else address
        return probe(self._config, tls=self._tls, path=path, utf8=not address.isascii())

    def close(self) -> None:
        """Says QUIT on every connection. Messages on their way are waited for, for the length of one time-out."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine and self._process == os.getpid():
            engine.stop()
            engine.thread.join()

    def _running(self) -> Engine:
        if self._process != os.getpid():  # a child: the parent's connections are not ours to speak on
            self._process, self._lock = os.getpid(), threading.Lock()
            if self._engine:
                self._engine.forget()
                self._engine = None
        with self._lock:
            if not self._engine or not self._engine.thread.is_alive():
                self._engine = Engine(self._config, self._tls)
                self._engine.thread.start()
            return self._engine

    def _made(self, edition: Edition) -> Letter:
        try:
            envelope = Envelope(edition)
            sender = addr_spec(edition.sender.address)
            reply_to = addr_spec(edition.reply_to.address) if edition.reply_to else ""
        except (AddressError, HeaderError) as error:
            raise ProviderRejected(f"edition {edition.key} ({edition.language}): {error}") from error
        # To be filled with key and address. A return path without a key prints it with no width at all (%.0b).
        path = f"b+%b@{self._bounces}" if self._bounces else f"{sender.replace('%', '%%')}%.0b"
        domain = self._signing_domain or sender.rpartition("@")[2]
        commands = f"MAIL FROM:<{path}>{{}}\r\nRCPT TO:<%b>\r\nDATA\r\n"
        return Letter(
            envelope=envelope,
            commands=commands.format("").encode(),
            utf8_commands=commands.format(" BODY=8BITMIME SMTPUTF8").encode(),
            utf8=not (sender + reply_to).isascii(),
            urgent=edition.kind == "transactional",
            signer=Signer(envelope, self._keys, domain=domain) if self._keys else None,
        )


def _bounce_domain(domain: str) -> str:
    """The domain of return paths as A-labels, or ""."""
    try:
        return addr_spec(f"b@{domain}").removeprefix("b@") if domain else ""
    except AddressError:
        message = "smtp.bounces: is not a domain"
        help = "write a domain whose mail reaches you, such as bounce.example.org, or remove the line"
        finding = Finding(code="config.value", severity="error", where=None, message=message, help=help)
        raise ConfigError([finding]) from None
