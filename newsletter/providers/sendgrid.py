"""SendGrid: up to a thousand recipients in one request to its Web API v3.

sendgrid_request.py makes the JSON, sendgrid_wire.py carries it, sendgrid_answers.py says what the answers mean.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial

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
from newsletter.providers.sendgrid_answers import Refused, Taken, meaning
from newsletter.providers.sendgrid_request import MOST_RECIPIENTS, Batch, Letter, sandbox_request
from newsletter.providers.sendgrid_wire import Answer, Line, Lines
from newsletter.recorder import State
from newsletter.rendering.edition import Edition, Mailbox

HOSTS = {"global": "https://api.sendgrid.com", "eu": "https://api.eu.sendgrid.com"}
SUSPECTS = 20  # so many refused alone and nobody taken: it is not they who are wrong


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
        if not _KEY.fullmatch(config.key):
            raise _no_key("the key holds a blank or a sign that no key has" if config.key else "the key is missing")
        # One connection more is for one-off mail. More lanes, to get requests ready meanwhile, gained nothing through
        # the ledger and took 3 MiB each.
        connections = config.connections
        self.limits = Limits(chunk=MOST_RECIPIENTS, lanes=connections, connections=connections + 1)
        self._key, self._now = config.key, now
        self._lines = Lines(
            key=config.key,
            host=host or HOSTS[config.region],
            timeout=config.timeout,
            tls=tls,
            most=config.connections,
        )
        self._letter = lru_cache(maxsize=16)(_letter)  # the languages of the mailings at work

    def send(self, edition: Edition, recipients: Sequence[Recipient], recorder: Recorder) -> list[Outcome]:
        """Every recipient's outcome, in their order.

        A `ProviderError` carries the outcomes that are known all the same: with `ProviderUnsure` those of everybody,
        otherwise recipients without one were not handed over.
        """
        letter = self._letter(edition)
        letter.envelope.check_slots(recipients)
        outcomes: list[Outcome] = []
        for start in range(0, len(recipients), MOST_RECIPIENTS):
            part = recipients[start : start + MOST_RECIPIENTS]
            hand = _Hand(
                batch=letter.batch(part),
                keys=[each.key for each in part],
                recorder=recorder,
                line=partial(self._lines.line, urgent=edition.kind != "bulk"),
                meaning=self._meaning,
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

    def check(self, sender: Mailbox) -> str:
        """Asks SendGrid, in sandbox mode, whether it would take a message from `sender`: nothing is sent.

        What it found, in words.

        Raises `ProviderRejected` with the next step when it would not, `ProviderDown` without a clear answer.
        """
        try:
            text = sandbox_request(sender)
        except AddressError as error:
            raise ProviderRejected(str(error)) from error
        try:
            with self._lines.line(urgent=True) as line:
                answer = line.post(lambda: text)
            if answer.status == 200:
                return "SendGrid takes the key, and would take a message from this sender (asked in sandbox mode)"
            found = self._meaning(answer)
        except ProviderUnsure as error:
            raise ProviderDown(str(error)) from error
        if isinstance(found, Refused):
            raise ProviderRejected(f"SendGrid would refuse a message from this sender ({found.said})")
        if isinstance(found, (Taken, ProviderUnsure)):
            raise ProviderDown(f"SendGrid answered {answer.status} to a request in sandbox mode, and not 200")
        raise found

    def close(self) -> None:
        """Closes the connections; those in use when their requests are answered."""
        self._lines.close()

    def _meaning(self, answer: Answer) -> Taken | Refused | ProviderError:
        return meaning(answer, key=self._key, now=self._now())


_KEY = re.compile(r"[!-~]{1,500}")


def _no_key(message: str) -> ConfigError:
    help = "set NEWSLETTER_SENDGRID_KEY (NEWSLETTER_<NAME>_KEY for a way out of `providers`), see docs/sendgrid.md"
    return ConfigError(
        [Finding(code="config.sendgrid", severity="error", where=None, message=f"sendgrid: {message}", help=help)]
    )


def _letter(edition: Edition) -> Letter:
    try:
        return Letter(edition)
    except (AddressError, HeaderError) as error:
        raise ProviderRejected(f"edition {edition.key} ({edition.language}): {error}") from error


_STOPPED = "stopped before it left"
_NOT_TRIED = "not tried: the answer to a request before it was lost"


class _Hand:
    """A chunk in hand: its requests, and what became of each recipient, who go by their places here."""

    def __init__(
        self,
        *,
        batch: Batch,
        keys: list[str],
        recorder: Recorder,
        line: Callable[[], AbstractContextManager[Line]],
        meaning: Callable[[Answer], Taken | Refused | ProviderError],
    ) -> None:
        self._batch, self._keys, self._recorder, self._line, self._meaning = batch, keys, recorder, line, meaning
        self._outcomes: list[Outcome | None] = [None] * len(keys)
        self._suspects: dict[int, str] = {}  # refused alone, and why, in an answer that named nobody
        self._taken = self._stopped = False
        for place, fault in batch.faults.items():
            self._outcomes[place] = Outcome(keys[place], "refused", "", fault)

    def known(self) -> list[Outcome]:
        return [outcome for outcome in self._outcomes if outcome]

    def send(self) -> None:
        """All requests that it takes. When it raises, whoever has no outcome was not handed over."""
        try:
            for group in self._batch.groups():
                self._settle(group)
            if len(self._suspects) > 1 and not self._taken and not self._stopped:
                raise self._everybody()
        except ProviderUnsure:
            open = [place for place, outcome in enumerate(self._outcomes) if outcome is None]
            self._keep(open, "deferred", detail=_NOT_TRIED)
            raise
        for place, words in self._suspects.items():
            if self._taken or not self._stopped:
                self._tell([place], "refused", detail=words)
            else:  # hardly anybody else was tried: it may be the request that is wrong
                self._keep([place], "deferred", detail=words)

    def _settle(self, group: list[int]) -> None:
        """One request for the group, and after a refusal smaller ones, until everybody in it has an outcome.

        A refused request sent nothing. Where the answer names recipients it is they; else each half is tried. The
        halves are every second recipient, so that those who are tried alone first come from all over the list: when
        many of them fail and nobody was ever taken, it is the request that is wrong.
        """
        waiting = [group] if group else []
        namings = 0
        while waiting:
            places = waiting.pop()
            refused = self._request(places)
            if not refused:
                continue
            if refused.itself:
                raise ProviderRejected(f"SendGrid refuses the message itself ({refused.said}); mend it or the sender")
            named = {number: words for number, words in refused.named.items() if number < len(places)}
            if named:
                namings += 1
                for number, words in named.items():
                    self._tell([places[number]], "refused", detail=words)
                rest = [place for number, place in enumerate(places) if number not in named]
                waiting += _halves(rest) if namings > 3 else [rest] if rest else []
            elif len(places) > 1:
                waiting += _halves(places)
            else:
                self._suspects[places[0]] = refused.said
                if len(self._suspects) >= SUSPECTS and not self._taken:
                    raise self._everybody()

    def _everybody(self) -> ProviderRejected:
        words, tried = next(reversed(self._suspects.values())), len(self._suspects)
        return ProviderRejected(
            f"SendGrid refuses the message to each of {tried} recipients alone ({words}); look at message and sender"
        )

    def _request(self, places: list[int]) -> Refused | None:
        """One request: how it was refused for what is in it, or None when its recipients have their outcomes."""
        left = 0
        try:
            with self._line() as line:
                if not self._stopped:
                    line.open()  # first: without a connection nobody is announced
                    left = self._recorder.leaving_all(self._keys_of(places))
                    self._stopped = left < len(places)
                self._keep(places[left:], "deferred", detail=_STOPPED)
                if not left:
                    return None
                places = places[:left]
                answer = line.post(partial(self._batch.text, places))
            found = self._meaning(answer)
            if isinstance(found, ProviderError):
                raise found
        except (ProviderDown, ProviderRejected):
            self._recall(places[:left], "not taken")  # and no outcome: they wait for the provider, not each for itself
            raise
        except ProviderUnsure as error:
            self._tell(places, "in_doubt", detail=str(error))
            raise
        if isinstance(found, Refused):
            self._recall(places, f"not taken ({answer.status})")
            return found
        self._taken = True
        self._tell(places, "accepted", ref=found.reference)
        return None

    def _recall(self, places: Sequence[int], why: str) -> None:
        """Tells the recorder that these were not taken. They have no outcome yet."""
        self._recorder.answered_all([Outcome(key, "deferred", "", why) for key in self._keys_of(places)])

    def _tell(self, places: Sequence[int], state: State, *, ref: str = "", detail: str = "") -> None:
        """The outcome of some who were announced."""
        self._recorder.answered_all(self._keep(places, state, ref=ref, detail=detail))

    def _keep(self, places: Sequence[int], state: State, *, ref: str = "", detail: str = "") -> list[Outcome]:
        """The outcome of some of whom the recorder need not be told."""
        outcomes = [Outcome(key, state, ref, detail) for key in self._keys_of(places)]
        if len(outcomes) == len(self._outcomes):
            self._outcomes[:] = outcomes
        else:
            for place, outcome in zip(places, outcomes, strict=True):
                self._outcomes[place] = outcome
        return outcomes

    def _keys_of(self, places: Sequence[int]) -> list[str]:
        return self._keys if len(places) == len(self._keys) else [self._keys[place] for place in places]


def _halves(places: list[int]) -> list[list[int]]:
    return [half for half in (places[1::2], places[::2]) if half]
