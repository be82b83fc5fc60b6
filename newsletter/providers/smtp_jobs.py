"""What waits to be sent by SMTP, and what became of it. A job is one call of `send`.

Everything here belongs to the engine's thread (smtp_engine.py), but for making a `Job`, its `over` and its `done`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from newsletter.envelope import Envelope, Recipient
from newsletter.errors import AddressError, HeaderError, ProviderError, ProviderRejected
from newsletter.providers import Outcome, Recorder
from newsletter.providers.smtp_wire import Offers

TRIES = 3  # connections that may break under one envelope before its recipient is deferred
STOPPING = "not sent: the worker is stopping"


@dataclass(frozen=True, kw_only=True)
class Letter:
    """What is the same for every message of an edition."""

    envelope: Envelope
    commands: bytes  # MAIL, RCPT and DATA, to be filled with key and address
    utf8_commands: bytes  # the same for a message that needs SMTPUTF8
    utf8: bool  # every message needs it, for the sender's sake
    ahead: int  # how many messages are made at once
    urgent: bool


class Job:
    """One call of `send`; the engine's own until `done` is set, but for `over`."""

    def __init__(self, letter: Letter, recipients: Sequence[Recipient], recorder: Recorder) -> None:
        self.letter, self.recipients, self.recorder = letter, recipients, recorder
        self.outcomes: list[Outcome | None] = [None] * len(recipients)
        self.place = 0  # of the next recipient
        self.sealed: deque[Mail] = deque()  # made ahead, or come back from a connection that broke
        self.tries: dict[int, int] = {}  # place → connections that broke
        self.flying = 0  # recipients in the hands of a connection
        self.queued = False
        self.over = False  # nothing of it may leave any more
        self.stopped = False  # … since the worker stops: who is left over is deferred
        self.failure: ProviderError | None = None
        self.done = threading.Event()

    @property
    def waiting(self) -> int:
        """How many recipients no connection has taken yet."""
        return len(self.recipients) - self.place + len(self.sealed)

    def end(self) -> None:
        """Nobody else is taken from it."""
        self.over = True
        self.place = len(self.recipients)
        self.sealed.clear()

    def known(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome)


@dataclass(slots=True, eq=False)
class Mail:
    """The message of one recipient, ready for a connection or in the hands of one."""

    job: Job
    place: int  # of its recipient and outcome
    key: str
    body: bytes  # emptied once written
    commands: bytes
    utf8: bool  # needs SMTPUTF8


class Jobs:
    """The jobs whose recipients wait, one-off mail before mailings, and those that have come to their end.

    `where` names the server in what is raised.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.urgent: deque[Job] = deque()
        self.bulk: deque[Job] = deque()
        self.finished: list[Job] = []  # not told yet
        self._touched: set[Recorder] = set()  # recorders with answers that may not be written yet

    def __bool__(self) -> bool:
        """Whether somebody may be waiting; `pull` knows for sure."""
        return bool(self.urgent or self.bulk)

    def all(self) -> list[Job]:
        return [*self.urgent, *self.bulk]

    def take(self, job: Job, *, first: bool = False) -> None:
        """Behind the others of its kind, or before all of them."""
        if not job.queued and job.waiting:
            job.queued = True
            queue = self.urgent if job.letter.urgent else self.bulk
            if first:
                queue.appendleft(job)
            else:
                queue.append(job)

    def pull(self, offers: Offers, date: datetime) -> Mail | None:
        """The next message for a connection whose server offers this, sealed; None when nobody waits.

        Recipients for whom no message can be made, or none that this server takes, are answered for on the way.
        """
        while queue := self.urgent or self.bulk:
            job = queue[0]
            if job.sealed:
                mail = job.sealed.popleft()
                if (not mail.utf8 and not offers.size) or self._carries(offers, mail):
                    job.flying += 1
                    return mail
            elif job.place < len(job.recipients):
                self._seal(job, date)
            else:
                queue.popleft()
                job.queued = False
        return None

    def _seal(self, job: Job, date: datetime) -> None:
        """Makes the next messages, several at once: one alone between two writes costs twice that, with cold caches."""
        letter = job.letter
        seal, wire_address = letter.envelope.seal, letter.envelope.wire_address
        first, job.place = job.place, min(job.place + letter.ahead, len(job.recipients))
        for place in range(first, job.place):
            recipient = job.recipients[place]
            try:
                body = seal(recipient, date=date)
                address, utf8 = wire_address(recipient)
            except (AddressError, HeaderError) as error:
                job.outcomes[place] = Outcome(key=recipient.key, state="refused", detail=str(error))
                continue
            key = recipient.key
            commands = (letter.utf8_commands if utf8 else letter.commands) % (key.encode(), address.encode())
            job.sealed.append(Mail(job, place, key, body, commands, utf8))
        self._check(job)

    def _carries(self, offers: Offers, mail: Mail) -> bool:
        """Whether the server takes this message; if not, it is answered for."""
        job, size = mail.job, len(mail.body)
        if offers.size and size > offers.size:
            self.reject(
                job,
                f"the message has {size:,} bytes and the server takes {offers.size:,}; make it smaller (images: link "
                "instead of embed), or ask who runs the server to allow more",
            )
            return False
        if mail.utf8 and not offers.smtputf8:
            lack = "the server does not offer SMTPUTF8, so it cannot take letters outside ASCII before the @"
            if job.letter.utf8:
                self.reject(job, f"{lack}; write sender.address and sender.reply_to in ASCII")
            else:
                job.outcomes[mail.place] = Outcome(mail.key, "refused", detail=f"recipient {mail.key}: {lack}")
                self._check(job)
            return False
        return True

    def settle(self, mail: Mail, outcome: Outcome | None) -> None:
        """The recipient leaves the hands of its connection, with an outcome or (None) not handed over."""
        job = mail.job
        if outcome:
            job.outcomes[mail.place] = outcome
        job.flying -= 1
        if not job.flying:
            self._check(job)

    def answered(self, mail: Mail, outcome: Outcome) -> None:
        """The fate of a message whose leaving the recorder was told of."""
        job = mail.job
        job.recorder.answered(outcome)
        self._touched.add(job.recorder)
        job.outcomes[mail.place] = outcome
        job.flying -= 1
        if not job.flying:
            self._check(job)

    def again(self, mail: Mail, why: str, *, broken: bool = True) -> None:
        """Nothing of the message left, so it goes to another connection, a few times."""
        job, place = mail.job, mail.place
        if broken:
            job.tries[place] = job.tries.get(place, 0) + 1
        if job.over:
            self.settle(mail, None)
        elif job.tries.get(place, 0) >= TRIES:
            self.settle(mail, Outcome(key=mail.key, state="deferred", detail=why))
        else:
            job.flying -= 1
            job.sealed.appendleft(mail)
            self.take(job, first=True)

    def fail(self, job: Job, error: ProviderError) -> None:
        """Nothing of the job leaves any more; it ends when what is on its way is answered for."""
        job.failure = job.failure or error
        job.end()
        self._check(job)

    def reject(self, job: Job, why: str) -> None:
        self.fail(job, ProviderRejected(f"{self.where}: {why}"))

    def stop(self, job: Job) -> None:
        job.stopped = True
        job.end()
        self._check(job)

    def _check(self, job: Job) -> None:
        """Whether the job has come to its end."""
        if job.flying or job.waiting or job in self.finished:
            return
        if job.queued:
            job.queued = False
            (self.urgent if job.letter.urgent else self.bulk).remove(job)
        if job.failure:
            job.failure.outcomes = job.known()
        elif job.stopped:
            pairs = zip(job.recipients, job.outcomes, strict=True)
            job.outcomes = [had or Outcome(key=each.key, state="deferred", detail=STOPPING) for each, had in pairs]
        self.finished.append(job)

    def write_others(self, job: Job) -> None:
        """The answers of other jobs, before a message of this one leaves: at most one message of a connection may be
        without an answer on the disk."""
        for recorder in self._touched:
            if recorder is not job.recorder:
                recorder.flush()

    def tell(self) -> None:
        """Before anything is waited for: answers go into the recorders, then finished jobs to those who wait."""
        try:
            while self._touched:
                self._touched.pop().flush()
        except OSError:  # the disk is full: no other message will leave, and these answers are in hand
            pass
        for job in self.finished:
            job.done.set()
        self.finished.clear()
