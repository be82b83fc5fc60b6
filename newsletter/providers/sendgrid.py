"""SendGrid: up to a thousand recipients in one request to its Web API v3 (sendgrid_request.py, sendgrid_wire.py).

What an answer means (https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors, and what stands in the
provider's OpenAPI file):

    202                          taken; the id of the request is X-Message-Id
    400, 413                     nothing of the request was sent: the guilty recipients are looked for
    401, 403, other 4xx          a human must act
    408, 429, 503 with errors    said clearly: nothing was taken, try again later
    everything else              nobody knows. Also 200, which is for requests in sandbox mode: whoever gives it here is
                                 not what we speak to, or it does not do what was asked
"""

from __future__ import annotations

import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from newsletter.config import Sendgrid
from newsletter.envelope import Recipient
from newsletter.errors import (
    AddressError,
    ConfigError,
    Finding,
    HeaderError,
    ProviderDown,
    ProviderError,
    ProviderRejected,
    ProviderUnsure,
)
from newsletter.providers import Limits, Outcome, Recorder
from newsletter.providers.sendgrid_request import MOST_RECIPIENTS, Batch, Letter, sandbox_request
from newsletter.providers.sendgrid_wire import Answer, Complaint, Line, complaints, retry_after
from newsletter.recorder import State
from newsletter.rendering.edition import Edition, Mailbox

HOSTS = {"global": "https://api.sendgrid.com", "eu": "https://api.eu.sendgrid.com"}
SUSPECTS = 20  # so many alone refused and nobody taken: it is not they who are wrong


class SendgridProvider:
    """Sends through the account of `config`. Opens connections when they are needed and keeps them.

    `host` replaces SendGrid's URL, `tls` the default context, which verifies the server's certificate and name. After a
    fork the child opens connections of its own. Raises `ConfigError` for a key that is none.
    """

    def __init__(
        self,
        config: Sendgrid,
        *,
        host: str = "",
        tls: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.limits = Limits(chunk=MOST_RECIPIENTS, lanes=config.connections, connections=config.connections)
        self._config, self._tls, self._now = config, tls, now
        self._host = host or HOSTS[config.region]
        if not _KEY.fullmatch(config.key):
            raise _no_key("the key is missing" if not config.key else "the key holds a blank or a sign that no key has")
        self._letter = lru_cache(maxsize=16)(_letter)  # the languages of the mailings at work
        self._lock = threading.Lock()
        self._idle: list[Line] = []
        self._closings = 0
        self._process = os.getpid()

    def send(self, edition: Edition, recipients: Sequence[Recipient], recorder: Recorder) -> list[Outcome]:
        """Every recipient's outcome, in their order.

        `ProviderError`s carry the outcomes that are known all the same; with `ProviderDown` and `ProviderUnsure` those
        are the outcomes of everybody who was ever announced to the recorder.
        """
        letter = self._letter(edition)
        letter.envelope.check_slots(recipients)
        outcomes: list[Outcome] = []
        for start in range(0, len(recipients), MOST_RECIPIENTS):
            part = recipients[start : start + MOST_RECIPIENTS]
            with self._line() as line:
                hand = _Hand(
                    letter.batch(part), part, recorder=recorder, line=line, key=self._config.key, now=self._now
                )
                try:
                    hand.send()
                except ProviderError as error:
                    error.outcomes = (*outcomes, *hand.known())
                    if isinstance(error, ProviderUnsure):
                        rest = recipients[start + MOST_RECIPIENTS :]
                        error.outcomes += tuple(Outcome(each.key, "deferred", "", _NOT_TRIED) for each in rest)
                    raise
                outcomes += hand.known()
        return outcomes

    def check(self, sender: Mailbox) -> None:
        """Asks SendGrid, in sandbox mode, whether it would take a message from `sender`: nothing is sent.

        Raises `ProviderRejected` with the next step when it would not, `ProviderDown` without a clear answer.
        """
        try:
            text = sandbox_request(sender)
        except (AddressError, HeaderError) as error:
            raise ProviderRejected(f"the sender: {error}") from error
        with self._line() as line:
            try:
                answer = line.post(text)
                if answer.status != 200:
                    self._refuse_check(answer)
            except ProviderUnsure as error:
                raise ProviderDown(str(error)) from error

    def close(self) -> None:
        """Closes the connections; those in use when their requests are answered."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._closings += 1
        if self._process == os.getpid():
            for line in idle:
                line.close()

    def _refuse_check(self, answer: Answer) -> None:
        found = complaints(answer, key=self._config.key)
        if answer.status == 400:
            raise ProviderRejected(f"SendGrid refuses a test message (400): {_said(found)}")
        raise _trouble(answer, found, self._now())

    @contextmanager
    def _line(self) -> Iterator[Line]:
        """A line of this thread's own, for a while."""
        if self._process != os.getpid():  # a child: the parent's connections are not ours to speak on
            self._process, self._lock = os.getpid(), threading.Lock()
            for line in self._idle:
                line.forget()
            self._idle = []
        with self._lock:
            closings = self._closings
            kept = self._idle.pop() if self._idle else None
        line = kept or Line(key=self._config.key, host=self._host, timeout=self._config.timeout, tls=self._tls)
        try:
            yield line
        finally:
            with self._lock:
                keep = closings == self._closings
                if keep:
                    self._idle.append(line)
            if not keep:
                line.close()


_KEY = re.compile(r"[!-~]{1,500}")
_STOPPED = "stopped before it left"
_NOT_TRIED = "not tried: the answer to a request before it was lost"


def _no_key(message: str) -> ConfigError:
    help = "set NEWSLETTER_SENDGRID_KEY (NEWSLETTER_<NAME>_KEY for a way out of `providers`), as docs/sendgrid.md says"
    return ConfigError(
        [Finding(code="config.sendgrid", severity="error", where=None, message=f"sendgrid: {message}", help=help)]
    )


def _letter(edition: Edition) -> Letter:
    try:
        return Letter(edition)
    except (AddressError, HeaderError) as error:
        raise ProviderRejected(f"edition {edition.key} ({edition.language}): {error}") from error


class _Hand:
    """One chunk in hand: its requests, and what became of each recipient, who are named by their places."""

    def __init__(
        self,
        batch: Batch,
        recipients: Sequence[Recipient],
        *,
        recorder: Recorder,
        line: Line,
        key: str,
        now: Callable[[], float],
    ) -> None:
        self._batch, self._recorder, self._line, self._key, self._now = batch, recorder, line, key, now
        self._keys = [recipient.key for recipient in recipients]
        self._outcomes: list[Outcome | None] = [None] * len(recipients)
        self._suspects: dict[int, str] = {}  # refused alone, and why, in an answer that named nobody
        self._taken = self._stopped = False
        for place, fault in batch.faults.items():
            self._outcomes[place] = Outcome(self._keys[place], "refused", "", fault)

    def known(self) -> list[Outcome]:
        return [outcome for outcome in self._outcomes if outcome]

    def send(self) -> None:
        try:
            for group in self._batch.groups():
                self._settle(group)
            if len(self._suspects) > 1 and not self._taken and not self._stopped:
                raise self._everybody()
        except ProviderRejected:
            raise  # who has no outcome waits, also the suspects
        except (ProviderDown, ProviderUnsure) as error:
            open = [place for place, outcome in enumerate(self._outcomes) if outcome is None]
            if isinstance(error, ProviderUnsure):
                self._note(open, "deferred", detail=_NOT_TRIED)
            else:
                self._note(sorted(self._suspects), "deferred", detail=str(error))
            raise
        for place, words in self._suspects.items():
            if self._taken or not self._stopped:
                self._tell([place], "refused", detail=words)
            else:  # nobody else was tried: it may be the request that is wrong
                self._note([place], "deferred", detail=words)

    def _settle(self, group: list[int]) -> None:
        """One request for the group, and after a refusal smaller ones, until everybody in it has an outcome.

        A refused request sent nothing (errors page). Where the answer names the recipients it is they; else each half
        is tried. The halves are every second recipient, so that who is tried alone first comes from all over the list:
        when many of them fail and nobody was ever taken, it is the request that is wrong.
        """
        waiting = [group] if group else []
        rounds = 0
        while waiting:
            places = self._announced(waiting.pop())
            if not places:
                continue
            answer = self._post(places)
            if answer is None:
                continue
            found = complaints(answer, key=self._key)
            said = f"{answer.status}: {_said(found)}"
            named = _named(found, len(places))
            if any(each.field and not each.field.startswith("personalizations") for each in found):
                raise ProviderRejected(f"SendGrid refuses the message itself ({said}); mend it or the sender")
            if named:
                rounds += 1
                for number, words in named.items():
                    self._tell([places[number]], "refused", detail=f"{answer.status}: {words}")
                rest = [place for number, place in enumerate(places) if number not in named]
                waiting += _halves(rest) if rounds > 3 else [rest]
            elif len(places) > 1:
                waiting += _halves(places)
            else:
                self._suspects[places[0]] = said
                if len(self._suspects) >= SUSPECTS and not self._taken:
                    raise self._everybody()

    def _everybody(self) -> ProviderRejected:
        words = next(reversed(self._suspects.values()))
        tried = len(self._suspects)
        return ProviderRejected(
            f"SendGrid refuses the message to each of {tried} recipients tried alone ({words}): "
            "look at the sender and the message"
        )

    def _announced(self, places: list[int]) -> list[int]:
        """Those who may leave; the others are deferred."""
        if not self._stopped:
            self._line.open()  # first: without a connection nobody is announced
            left = self._recorder.leaving_all(self._keys_of(places))
            self._stopped = left < len(places)
            if not self._stopped:
                return places
        else:
            left = 0
        self._note(places[left:], "deferred", detail=_STOPPED)
        return places[:left]

    def _post(self, places: list[int]) -> Answer | None:
        """The answer of a request that was refused for what is in it; None when its recipients have their outcomes."""
        try:
            answer = self._line.post(self._batch.text(places))
        except ProviderDown as error:
            self._tell(places, "deferred", detail=str(error))
            raise
        except ProviderUnsure as error:
            self._tell(places, "in_doubt", detail=str(error))
            raise
        if answer.status == 202:
            self._taken = True
            self._tell(places, "accepted", ref=_reference(answer))
            return None
        if answer.status in (400, 413):
            self._recall(places, f"not taken ({answer.status})")
            return answer
        trouble = _trouble(answer, complaints(answer, key=self._key), self._now())
        if isinstance(trouble, ProviderUnsure):
            self._tell(places, "in_doubt", detail=str(trouble))
        elif isinstance(trouble, ProviderDown):
            self._tell(places, "deferred", detail=str(trouble))
        else:
            self._recall(places, str(trouble))
        raise trouble

    def _recall(self, places: Sequence[int], why: str) -> None:
        """Tells the recorder that these did not leave. They have no outcome yet."""
        self._recorder.answered_all([Outcome(key, "deferred", "", why) for key in self._keys_of(places)])

    def _tell(self, places: Sequence[int], state: State, *, ref: str = "", detail: str = "") -> None:
        told = [Outcome(key, state, ref, detail) for key in self._keys_of(places)]
        self._recorder.answered_all(told)
        self._keep(places, told)

    def _note(self, places: Sequence[int], state: State, *, detail: str) -> None:
        """Outcomes of those who were not announced since the recorder was last told of them."""
        self._keep(places, [Outcome(key, state, "", detail) for key in self._keys_of(places)])

    def _keep(self, places: Sequence[int], outcomes: list[Outcome]) -> None:
        if len(outcomes) == len(self._outcomes):  # all of them, and places always ascend
            self._outcomes[:] = outcomes
        else:
            for place, outcome in zip(places, outcomes, strict=True):
                self._outcomes[place] = outcome

    def _keys_of(self, places: Sequence[int]) -> list[str]:
        return self._keys if len(places) == len(self._keys) else [self._keys[place] for place in places]


def _halves(places: list[int]) -> list[list[int]]:
    return [half for half in (places[1::2], places[::2]) if half]


_PLACE = re.compile(r"personalizations[.\[]([0-9]{1,4})(?![0-9])", re.ASCII)


def _named(found: Sequence[Complaint], count: int) -> dict[int, str]:
    """The recipients of a request whom complaints name, and what is said of them."""
    named: dict[int, str] = {}
    for field, words in found:
        match = _PLACE.match(field)
        if match and int(match[1]) < count:
            named.setdefault(int(match[1]), words or "no reason given")
    return named


def _said(found: Sequence[Complaint]) -> str:
    """What an answer complains of, in one line."""
    words = [f"{each.field}: {each.words}" if _FIELD.fullmatch(each.field) else each.words for each in found[:3]]
    return "; ".join(word for word in words if word)[:300] or "no reason given"


_FIELD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,80}")


def _reference(answer: Answer) -> str:
    """X-Message-Id, with which the ids in SendGrid's events begin."""
    id = answer.headers.get("x-message-id", "").strip()
    return id if _ID.fullmatch(id) else ""


_ID = re.compile(r"[A-Za-z0-9_.=-]{1,100}")


def _trouble(answer: Answer, found: Sequence[Complaint], now: float) -> ProviderError:
    """What an answer means that is about the whole request."""
    status, said = answer.status, _said(found)
    match status:
        case 401:
            step = "make a key with the permission Mail Send; if the credits are used up, look at the plan"
            return ProviderRejected(f"SendGrid does not take the key (401: {said}); {step}")
        case 403:
            step = "give the key the permission Mail Send, and authenticate the sender's domain"
            return ProviderRejected(f"SendGrid forbids it (403: {said}); {step}")
        case 429:
            wait = retry_after(answer.headers, now=now)
            return ProviderDown(f"SendGrid wants fewer requests (429: {said})", retry_after=wait)
        case 408:
            return ProviderDown(f"SendGrid did not get the request in time (408: {said})")
        case 503 if found:
            wait = retry_after(answer.headers, now=now)
            return ProviderDown(f"SendGrid does not take mail at the moment (503: {said})", retry_after=wait)
        case _ if 400 <= status < 500:
            step = "look at sendgrid.region, and whether a proxy stands between"
            return ProviderRejected(f"SendGrid does not know such a request ({status}: {said}); {step}")
        case _:
            return ProviderUnsure(f"SendGrid gave the answer {status}, which says neither that it took it nor not")
