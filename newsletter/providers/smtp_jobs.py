"""What waits to be sent by SMTP, and what became of it. A job is one call of `send`.

Everything here belongs to the engine's thread (smtp_engine.py), but for making a `Job`, its `over` and its `done`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from newsletter.dkim import Signer
from newsletter.envelope import Envelope, Recipient, Sealed
from newsletter.errors import ProviderError, ProviderRejected
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
    urgent: bool
    signer: Signer | None = None


class Job:
    """One call of `send`; the engine's own until `done` is set, but for `over`.

    Making it seals and signs all its messages, in the thread that calls `send`. They hold little: most of a message's
    pieces are the edition's. Raises `InputError` when a recipient lacks the value of a slot.
    """

    def __init__(self, letter: Letter, recipients: Sequence[Recipient], recorder: Recorder) -> None:
        self.letter, self.recipients, self.recorder = letter, recipients, recorder
        self.outcomes: list[Outcome | None] = [None] * len(recipients)
        self.sealed: deque[Mail] = deque()  # not taken by a connection yet, or come back from one that broke
        self.tries: dict[int, int] = {}  # place → connections that broke
        self.flying = 0  # recipients in the hands of a connection
        self.queued = False
        self.over = False  # nothing of it may leave any more
        self.stopped = False  # … since the worker stops: who is left over is deferred
        self.failure: ProviderError | None = None
        self.done = threading.Event()
        date = datetime.now(UTC)
        sealed = letter.envelope.seal_all(recipients, date=date)
        if letter.signer:
            sealed = letter.signer.sign_all(sealed, date=date)
        for place, (recipient, message) in enumerate(zip(recipients, sealed, strict=True)):
            key = recipient.key
            if not isinstance(message, Sealed):
                self.outcomes[place] = Outcome(key, "refused", detail=str(message))
                continue
            pieces, address, utf8 = message
            envelope = (letter.utf8_commands if utf8 else letter.commands) % (key.encode(), address.encode())
            self.sealed.append(Mail(self, place, key, pieces, envelope, utf8, sum(map(len, pieces))))

    @property
    def waiting(self) -> int:
        """How many recipients no connection has taken yet."""
        return len(self.sealed)

    def end(self) -> None:
        """Nobody else is taken from it."""
        self.over = True
        self.sealed.clear()

    def known(self) -> tuple[Outcome, ...]:
        return tuple([outcome for outcome in self.outcomes if outcome])


@dataclass(slots=True, eq=False)
class Mail:
    """The message of one recipient, ready for a connection or in the hands of one."""

    job: Job
    place: int  # of its recipient and outcome
    key: str
    pieces: tuple[bytes, ...]  # the message, without the final dot
    commands: bytes
    utf8: bool  # needs SMTPUTF8
    size: int  # of the message, in octets


class Jobs:
    """The jobs whose recipients wait, one-off mail before mailings, and those that have come to their end.

    `where` names the server in what is raised.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.urgent: deque[Job] = deque()
        self.bulk: deque[Job] = deque()
        self.finished: list[Job] = []  # not told yet

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

    def pull(self, offers: Offers) -> Mail | None:
        """The next message for a connection whose server offers this; None when nobody waits.

        Recipients whose message this server does not take are answered for on the way.
        """
        while queue := self.urgent or self.bulk:
            job = queue[0]
            if job.sealed:
                mail = job.sealed.popleft()
                if (not mail.utf8 and mail.size <= offers.size) or self._carries(offers, mail):
                    job.flying += 1
                    return mail
            else:
                queue.popleft()
                job.queued = False
        return None

    def _carries(self, offers: Offers, mail: Mail) -> bool:
        """Whether the server takes this message; if not, it is answered for."""
        job, size = mail.job, mail.size
        if size > offers.size:
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

    def tell(self) -> None:
        """Wakes those who wait for a job that has come to its end."""
        for job in self.finished:
            job.done.set()
        self.finished.clear()
