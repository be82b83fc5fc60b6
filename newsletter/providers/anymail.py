"""django-anymail: one way out for a dozen mail services.

Where a service fills in what differs between recipients, a chunk is one request (`Service.batch`); where it does not,
each recipient is a request of their own, made by a crew of threads that all lanes share. anymail spells the requests
and reads the answers; the connections, the deadlines and the judgement of errors are ours.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from importlib import import_module
from typing import Any

from anymail.exceptions import AnymailError

from newsletter.config import Anymail
from newsletter.envelope import Recipient, Sealed
from newsletter.errors import (
    AddressError,
    ConfigError,
    Finding,
    ProviderDown,
    ProviderError,
    ProviderRejected,
)
from newsletter.headers import addr_spec
from newsletter.providers import Limits, Outcome, Recorder
from newsletter.providers import anymail_answers as answers
from newsletter.providers.anymail_lane import Crew, Line, Lines, Lost, Unreached, Watch
from newsletter.providers.anymail_letter import Addressee, Letter, unsupported, what_is_missing
from newsletter.providers.anymail_services import SERVICES, Service
from newsletter.recorder import State
from newsletter.rendering.edition import Edition, Mailbox

_REPEATS = 2  # of a request whose answer was lost, where a key makes that harmless
_PAUSE = 0.5  # seconds before the first repetition; doubled before each further one
_REQUESTS = 200  # for one chunk, when a service refuses a batch and the guilty recipient is looked for
_NONE_TAKEN = 24  # after so many of them without a success it is not the recipients


class AnymailProvider:
    """Sends through the service that `config` names. `url` takes the place of the address of its API.

    Opens connections when they are needed. After a fork the child opens connections of its own. Raises `ConfigError`
    for settings with which nothing can be sent.
    """

    def __init__(self, config: Anymail, *, url: str = "") -> None:
        self.service = service = SERVICES[config.service]
        _check(config, service)
        url = url or config.url or service.urls.get(config.region, "")
        if config.service == "ses":
            try:
                from newsletter.providers.anymail_ses import SesLine, ses_client
            except ModuleNotFoundError as error:
                raise _problem(
                    "Amazon SES needs boto3, which is not installed", "pip install 'newsletter[ses]'"
                ) from error
            client = ses_client(config, url)
            self._make: Callable[[], Any] = lambda: SesLine(client, service, timeout=config.timeout, watch=self._watch)
        else:
            self._make = lambda: Line(url, _backend(config, service, url), timeout=config.timeout, watch=self._watch)
        if service.batch > 1:
            self.limits = Limits(chunk=service.batch, lanes=config.connections, connections=config.connections)
        else:
            self.limits = Limits(chunk=200, lanes=4, connections=config.connections)
        self._secrets = answers.Secrets(config.key, config.secret)
        self._letter = lru_cache(maxsize=16)(self._made)  # the languages of the mailings at work
        self._begin()
        for name in ("urllib3", "botocore", "boto3"):  # at DEBUG they tell what is sent, and to whom
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.WARNING)

    def _begin(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._watch = Watch()
        self._lines = Lines(self._make)
        self._crew: Crew | None = None

    def send(self, edition: Edition, recipients: Sequence[Recipient], recorder: Recorder) -> list[Outcome]:
        """Every recipient's outcome, in their order.

        `ProviderDown` and `ProviderRejected` carry the outcomes that are known all the same: recipients without one
        were not handed over. `InputError` says that none was.
        """
        if self._process != os.getpid():  # a child: the parent's threads are not here, its connections not ours
            self._begin()
        letter = self._letter(edition)
        task = _Task(self, letter, recipients, recorder)
        if self.service.batch > 1:
            with self._lines.one() as line:
                task.in_batches(line)
        elif task.waiting:
            crew = self._running()
            crew.take(task, pieces=len(task.waiting))
            task.wait(crew)
        if task.failure:
            raise task.failure
        return [task.known[recipient.key] for recipient in recipients]

    def check(self, sender: Mailbox) -> str:
        """What can be seen from here, which is not whether the service takes the key: that would take a message.

        Raises `ProviderRejected` for a sender whose address cannot be written into a message.
        """
        try:
            addr_spec(sender.address)
        except AddressError as error:
            raise ProviderRejected(f"sender.address: {error}") from error
        self._make().close()
        return (
            f"{self.service.title}: the package and the keys are there. Whether the service takes them cannot be tried "
            "without sending; newsletter send ISSUE --test ADDRESS does"
        )

    def close(self) -> None:
        """Requests on their way are waited for; then every connection is closed."""
        if self._process != os.getpid():
            return
        with self._lock:
            crew, self._crew = self._crew, None
        if crew:
            crew.stop()
        self._lines.close()

    def _running(self) -> Crew:
        with self._lock:
            if not self._crew:
                self._crew = Crew(self.limits.connections)
            return self._crew

    def _made(self, edition: Edition) -> Letter:
        letter = Letter(self.service, edition)
        if self.service.payload:
            with self._lines.one() as line:
                letter.check(line.backend)
        return letter


class _Task:
    """One call of `send`."""

    def __init__(
        self, provider: AnymailProvider, letter: Letter, recipients: Sequence[Recipient], recorder: Recorder
    ) -> None:
        self._letter, self._recorder = letter, recorder
        self._service, self._secrets, self._lines = provider.service, provider._secrets, provider._lines  # noqa: SLF001
        self.known: dict[str, Outcome] = {}
        self.failure: BaseException | None = None
        self.waiting: list[Addressee] = []
        self._requests = 0
        self._taken = False
        for recipient, sealed in zip(
            recipients, letter.envelope.seal_all(recipients, date=datetime.now(UTC)), strict=True
        ):
            if isinstance(sealed, Sealed):
                self.waiting.append(Addressee(recipient.key, recipient, sealed.address, sealed.pieces))
            else:
                self.known[recipient.key] = Outcome(key=recipient.key, state="refused", detail=str(sealed))
        self._lock = threading.Lock()
        self._next = self._at_work = 0
        self._done = threading.Event()

    # --- one by one ---------------------------------------------------------------------------------------------------

    def turn(self) -> Callable[[], None] | None:
        """The next recipient's request; None when there is none left, or when something is wrong with all of them."""
        with self._lock:
            if self.failure or self._next == len(self.waiting):
                if not self._at_work:
                    self._done.set()
                return None
            to = self.waiting[self._next]
            self._next += 1
            self._at_work += 1
        return lambda: self._single(to)

    def wait(self, crew: Crew) -> None:
        """Until every request that was begun is over. Whoever gives up before begins no further one."""
        try:
            while not self._done.wait(1.0):
                if crew.stopped and not self._at_work and not self._done.is_set():
                    raise RuntimeError("the anymail provider was closed while it was sending")
        except BaseException as error:
            with self._lock:
                self.failure = self.failure or error
            raise
        if isinstance(self.failure, ProviderError):
            self.failure.outcomes = tuple(self.known.values())

    def _single(self, to: Addressee) -> None:
        try:
            with self._lines.one() as line:
                self._request(line, [to])
        except BaseException as error:
            with self._lock:
                self.failure = self.failure or error
        finally:
            with self._lock:
                self._at_work -= 1
                if not self._at_work and (self.failure or self._next == len(self.waiting)):
                    self._done.set()

    # --- in batches ---------------------------------------------------------------------------------------------------

    def in_batches(self, line: Any) -> None:
        try:
            for group in _groups(self.waiting, self._service.batch):
                self._request(line, group)
        except ProviderError as error:
            error.outcomes = tuple(self.known.values())
            self.failure = error

    # --- one request --------------------------------------------------------------------------------------------------

    def _request(self, line: Any, to: Sequence[Addressee]) -> None:
        """Makes the request, or several where it is refused for one recipient among many, and notes the outcomes."""
        gate = _Gate(self._recorder, to)
        self._requests += 1
        try:
            try:
                found = self._asked(line, to, gate)
            except _Stopped:  # those who were announced before that are in hand, and go
                for each in gate.held:
                    self.known[each.key] = Outcome(key=each.key, state="deferred", detail="stopped before it left")
                to = gate.gone
                if not to:
                    return
                found = self._asked(line, to, gate)
        except ProviderError as error:  # nobody was served: they are not in the outcomes, and no try is counted
            gate.answered("deferred", str(error))
            raise
        except BaseException:  # the recorder's disk is full, before anything left; or a fault of ours
            gate.answered("in_doubt" if gate.open else "deferred", "an error of the program or of the disk")
            raise
        if isinstance(found, list):
            self._taken = self._taken or any(outcome.state == "accepted" for outcome in found)
            for outcome in found:
                self.known[outcome.key] = outcome
                self._recorder.answered(outcome)
            return
        gate.answered("refused" if len(to) == 1 else "deferred", found.detail)
        if len(to) == 1:
            self.known[to[0].key] = Outcome(key=to[0].key, state="refused", detail=found.detail)
            return
        if self._requests > _REQUESTS or (self._requests > _NONE_TAKEN and not self._taken):
            raise ProviderRejected(f"{found.detail}; it is not one recipient's fault, so look at the message")
        half = len(to) // 2
        self._request(line, to[:half])  # nobody was served by the whole
        self._request(line, to[half:])

    def _asked(self, line: Any, to: Sequence[Addressee], gate: _Gate) -> list[Outcome] | answers.Verdict:
        """The outcomes; or the verdict of a request that was refused as a whole. Raises `ProviderError` for all."""
        service, letter = self._service, self._letter
        if not service.payload:
            found: list[Outcome] | answers.Verdict = line.send(to[0], self._secrets, gate)
            return found
        once = _once(letter.edition, to)
        try:
            if service.batch > 1:
                payload = letter.batch(to, line.backend, once=once)
            else:
                payload = letter.single(to[0], line.backend)
            if service.once == "http":
                payload.headers["Idempotency-Key"] = once
            request = line.prepared(payload)
        except AnymailError as error:  # the edition was tried before, so it is about these recipients
            return answers.Verdict("refused", f"{service.title} cannot carry {what_is_missing(error, service)}")
        lost = ""
        unread = False  # a request of ours got no answer at all
        for number in range(1 + (_REPEATS if service.once else 0)):
            if number and not self._may_repeat(number):
                break
            try:
                answer = line.exchange(request, gate)
            except Unreached as error:
                if number:  # the first one left
                    continue
                raise ProviderDown(f"{service.title} cannot be reached: {error}; tried again later") from None
            except Lost as error:
                lost, unread = f"{service.title}: {error}", True
                continue
            verdict = answers.judge(service, answer, self._secrets, alone=len(to) == 1)
            if number and unread and service.once == "brevo" and "duplicate_parameter" in verdict.detail:
                return [Outcome(key=each.key, state="accepted") for each in to]  # it had taken the first one
            if verdict.what == "in_doubt" or (number and verdict.what != "taken"):
                lost = verdict.detail
                continue
            if verdict.what == "taken":
                found = answers.outcomes(
                    service, to, answer, backend=line.backend, payload=payload, secrets=self._secrets
                )
                if why := answers.rejection(service, found):
                    raise ProviderRejected(f"{why}; mend that, then resume")
                return found
            if verdict.what == "refused":
                return verdict
            if verdict.what == "deferred":
                return [Outcome(key=each.key, state="deferred", detail=verdict.detail) for each in to]
            if verdict.what == "down":
                raise ProviderDown(f"{verdict.detail}; tried again later", retry_after=verdict.retry_after)
            raise ProviderRejected(f"{verdict.detail}; mend that, then resume")
        return [Outcome(key=each.key, state="in_doubt", detail=lost) for each in to]

    def _may_repeat(self, number: int) -> bool:
        """Waits a moment, unless the worker is being stopped. The idempotency key makes a second request harmless."""
        return self._recorder.lease.open() and not threading.Event().wait(_PAUSE * 2 ** (number - 1))


class _Stopped(Exception):
    """Not everybody of a request may leave."""


class _Gate:
    """Tells the recorder who leaves, right before the request does; once, however often the request is made."""

    def __init__(self, recorder: Recorder, to: Sequence[Addressee]) -> None:
        self._recorder, self._to = recorder, to
        self.gone: list[Addressee] = []  # announced
        self.held: list[Addressee] = []  # those who may not leave
        self.open = False

    def __call__(self) -> None:
        """Raises `_Stopped` when some may not leave, and `OSError` when the disk says no."""
        if self.open:
            return
        for each in self._to:
            (self.gone if self._recorder.leaving(each.key) else self.held).append(each)
        self.open = True
        if self.held:
            raise _Stopped

    def answered(self, state: State, detail: str) -> None:
        """The same for everybody who was announced."""
        for each in self.gone:
            self._recorder.answered(Outcome(key=each.key, state=state, detail=detail))


def _groups(to: Sequence[Addressee], size: int) -> Iterator[list[Addressee]]:
    """Requests of at most `size` recipients. An address is in a request once: services know people by it."""
    waiting = list(to)
    while waiting:
        seen: set[str] = set()
        group: list[Addressee] = []
        later: list[Addressee] = []
        for each in waiting:
            address = each.address.casefold()
            if len(group) == size or address in seen:
                later.append(each)
            else:
                seen.add(address)
                group.append(each)
        yield group
        waiting = later


_SPACE = uuid.UUID("0d2f0ab5-2f3c-5d0e-9a51-6a8a5c1e7f10")


def _once(edition: Edition, to: Sequence[Addressee]) -> str:
    """The same for the same deliveries of the same edition in the same order, and for nothing else."""
    return str(uuid.uuid5(_SPACE, "\n".join((edition.key, edition.language, *(each.key for each in to)))))


# --- settings ---------------------------------------------------------------------------------------------------------


def check_workspace(config: Anymail, *, embed: bool) -> None:
    """Raises `ProviderUnsupported` for what a workspace asks of every message and the service cannot carry."""
    service = SERVICES[config.service]
    if embed and not service.images:
        raise unsupported(service, "pictures inside a message", "write `images: link` in newsletter.yaml")


def _check(config: Anymail, service: Service) -> None:
    def report(message: str, help: str) -> None:
        findings.append(
            Finding(code="config.value", severity="error", where=None, message=f"anymail: {message}", help=help)
        )

    findings: list[Finding] = []
    stem = "NEWSLETTER_ANYMAIL"
    optional = config.service == "ses" and not config.key and not config.secret  # boto3 finds them elsewhere
    for value, what, variable in ((config.key, "key", "KEY"), (config.secret, service.secret_is, "SECRET")):
        if not what or optional:
            continue
        if not value:
            help = f"set {stem}_{variable}, or that of the way out's own name; docs/anymail.md tells where to find it"
            report(f"{service.title} needs its {what}", help)
        elif not re.fullmatch(r"[!-~]+", value):
            report(f"the {what} holds a blank, a line end or a letter outside ASCII", f"set {stem}_{variable} anew")
    if service.url_is_own and not config.url:
        report(f"{service.title} has no address of its own", "set `url` to that of your server's API")
    if service.urls and not config.url and config.region not in service.urls:
        known = ", ".join(region for region in service.urls if region) or "none, so leave it out"
        report(f"{service.title} has no such region", f"`region` may be: {known}")
    if config.domain and not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", config.domain):
        report("`domain` is no domain", "write it as the service shows it, such as mg.example.org")
    if findings:
        raise ConfigError(findings)


def _problem(message: str, help: str) -> ConfigError:
    return ConfigError([Finding(code="config.package", severity="error", where=None, message=message, help=help)])


def _backend(config: Anymail, service: Service, url: str) -> Any:
    """anymail's backend. Every setting is given, so nobody's Django settings have a say."""
    module = import_module(f"anymail.backends.{service.module}")
    options: dict[str, Any] = {
        "api_url": url,
        service.key: config.key,
        "timeout": config.timeout,
        "ignore_unsupported_features": False,
        "ignore_recipient_status": True,
        "debug_api_requests": False,
        "idna_encoder": "idna2008",
    }
    if service.secret:
        options[service.secret] = config.secret
    if config.service == "mailgun" and config.domain:
        options["sender_domain"] = config.domain
    if config.service == "unisender":
        options["generate_message_id"] = False
    with _settings():
        return module.EmailBackend(**options)


_settings_lock = threading.Lock()


@contextmanager
def _settings() -> Iterator[None]:
    """Django's settings, which anymail's constructors ask for defaults.

    Where nobody has made any, Django's own are there for as long as that takes: to make some for good would get in the
    way of newsletter.settings.
    """
    from django.conf import UserSettingsHolder, global_settings, settings
    from django.utils.functional import empty

    with _settings_lock:
        if settings.configured:
            yield
            return
        settings._wrapped = UserSettingsHolder(global_settings)  # noqa: SLF001 (as Django's own override_settings does)
        try:
            yield
        finally:
            settings._wrapped = empty  # noqa: SLF001
