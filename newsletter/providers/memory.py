"""A way out for tests and trials: keeps what it accepts in a list, and fails where a script says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from newsletter.envelope import Envelope, Recipient
from newsletter.errors import AddressError, HeaderError, ProviderDown, ProviderError, ProviderRejected, ProviderUnsure
from newsletter.providers import Limits, Outcome, Recorder
from newsletter.rendering.edition import Edition

Point = Literal["before", "left", "taken", "answered"]
"""Where in the life of one message: before anything of it was said · the recorder was told that it leaves · it is in
`messages` · the recorder was told the answer."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to a message, and at which point.

    A word is its outcome. A class of `ProviderError` is raised, with the outcomes so far. Anything else is called, and
    the message goes on when it returns: to wait for an event, to change the database, to raise, to die.
    """

    at: Point
    do: Literal["refused", "deferred", "in_doubt"] | type[ProviderError] | Callable[[], object]
    times: int = 1  # how often; afterwards the message is accepted like any other


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A message that was accepted, or whose acceptance nobody was told."""

    key: str
    address: str
    message: bytes


_LIMITS = Limits(chunk=1000, lanes=4, connections=4, leaves=False)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(kw_only=True)
class Memory:
    """Accepts every message into `messages`, but for those that `faults` names: by the recipient's key, or by a number,
    counted over all messages from 1. May be used from any number of threads."""

    faults: Mapping[str | int, Fault] = field(default_factory=dict)
    limits: Limits = _LIMITS
    now: Callable[[], datetime] = _now
    messages: list[Taken] = field(default_factory=list)
    closed: int = 0  # how often `close` was called

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = 0
        self._met: dict[str | int, int] = {}
        self._envelope = lru_cache(maxsize=16)(Envelope)

    def send(self, edition: Edition, recipients: Sequence[Recipient], recorder: Recorder) -> list[Outcome]:
        try:
            envelope = self._envelope(edition)
        except (AddressError, HeaderError) as error:
            raise ProviderRejected(f"edition {edition.key} ({edition.language}): {error}") from error
        envelope.check_slots(recipients)
        outcomes: list[Outcome] = []
        for recipient in recipients:
            try:
                self._send_one(envelope, recipient, recorder, outcomes)
            except ProviderError as error:
                error.outcomes = tuple(outcomes)
                raise
        return outcomes

    def close(self) -> None:
        self.closed += 1

    def _send_one(self, envelope: Envelope, recipient: Recipient, recorder: Recorder, outcomes: list[Outcome]) -> None:
        key = recipient.key
        fault = self._fault(key)
        if word := _meet(fault, "before"):
            outcomes.append(Outcome(key=key, state=word, detail="as scripted"))
            return
        try:
            message = envelope.seal(recipient, date=self.now())
        except (AddressError, HeaderError) as error:
            outcomes.append(Outcome(key=key, state="refused", detail=str(error)))
            return
        if not recorder.leaving(key):
            outcomes.append(Outcome(key=key, state="deferred", detail="stopped before it left"))
            return
        word = _meet(fault, "left")
        if word is None:
            with self._lock:
                self.messages.append(Taken(key=key, address=recipient.address, message=message))
            word = _meet(fault, "taken")
        outcome = Outcome(key=key, state=word or "accepted", detail="as scripted" if word else "")
        recorder.answered(outcome)
        outcomes.append(outcome)
        _meet(fault, "answered")

    def _fault(self, key: str) -> Fault | None:
        with self._lock:
            self._begun += 1
            for name in (key, self._begun):
                fault = self.faults.get(name)
                if fault and self._met.get(name, 0) < fault.times:
                    self._met[name] = self._met.get(name, 0) + 1
                    return fault
        return None


def _meet(fault: Fault | None, point: Point) -> Literal["refused", "deferred", "in_doubt"] | None:
    """What becomes of the message at this point; None when it goes on."""
    if fault is None or fault.at != point:
        return None
    if isinstance(fault.do, str):
        return fault.do
    if isinstance(fault.do, type):
        raise fault.do(_WORDS.get(fault.do, "as scripted"))
    fault.do()
    return None


_WORDS: dict[type[ProviderError], str] = {
    ProviderDown: "memory: cannot be reached, as scripted; run again",
    ProviderRejected: "memory: rejects the sender, as scripted; change the script",
    ProviderUnsure: "memory: the answer was lost, as scripted",
}
