"""A Maildir on disk: the way out of a new workspace, where every message can be looked at and none leaves."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from newsletter.envelope import Envelope, Recipient
from newsletter.errors import AddressError, HeaderError, ProviderDown, ProviderRejected
from newsletter.providers import Limits, Outcome, Recorder
from newsletter.rendering.edition import Edition, Mailbox


def _now() -> datetime:
    return datetime.now(UTC)


class Outbox:
    """Writes sealed messages into `path`, made if it is not there. Any mail program that reads Maildir opens it.

    A message is one file, `<edition key>.<recipient key>`, with the very bytes that SMTP would carry (CRLF line ends,
    which mail programs and `mailbox.Maildir` read as well). Sending a delivery again replaces its file, in `cur` under
    the flags that a mail program gave it, so nothing is ever there twice. A crash leaves whole files only; they are not
    synced one by one, since an outbox holds nothing that a second run could not write again.

    Raises `ProviderDown`, with the path, when the disk is full or the folder cannot be written. One lane: a worker has
    nothing to wait for here.
    """

    limits = Limits(chunk=1000, lanes=1, connections=1, leaves=False)

    def __init__(self, path: Path, *, now: Callable[[], datetime] = _now) -> None:
        self._path = path
        self._now = now
        self._envelope = lru_cache(maxsize=16)(Envelope)  # the languages of the mailings at work
        try:
            for folder in ("tmp", "new", "cur"):
                (path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._down(error) from error

    def send(self, edition: Edition, recipients: Sequence[Recipient], recorder: Recorder) -> list[Outcome]:
        try:
            envelope = self._envelope(edition)
        except (AddressError, HeaderError) as error:
            raise ProviderRejected(f"edition {edition.key} ({edition.language}): {error}") from error
        envelope.check_slots(recipients)
        try:
            seen = {name.partition(":")[0]: name for name in os.listdir(self._path / "cur")}
        except OSError as error:
            raise self._down(error) from error
        outcomes: list[Outcome] = []
        for recipient in recipients:
            try:
                message = envelope.seal(recipient, date=self._now())
            except (AddressError, HeaderError) as error:
                outcomes.append(Outcome(key=recipient.key, state="refused", detail=str(error)))
                continue
            if not recorder.leaving(recipient.key):
                outcomes.append(Outcome(key=recipient.key, state="deferred", detail="stopped before it left"))
                continue
            name = f"{edition.key}.{recipient.key}"
            try:
                self._write(name, message, seen)
            except OSError as error:
                outcome = Outcome(key=recipient.key, state="deferred", detail=_reason(error))
                recorder.answered(outcome)
                raise self._down(error, (*outcomes, outcome)) from error
            outcomes.append(Outcome(key=recipient.key, state="accepted", provider_ref=name))
            recorder.answered(outcomes[-1])
        return outcomes

    def check(self, sender: Mailbox) -> str:
        """Writes a file into the folder and removes it. Raises `ProviderDown` when that fails."""
        draft = self._path / "tmp" / f"check.{os.getpid()}.{threading.get_ident()}"
        try:
            draft.write_bytes(b"")
            draft.unlink()
            for folder in ("new", "cur"):
                if not os.access(self._path / folder, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise self._down(error) from error
        return "the folder can be written; what is in it reaches nobody"

    def close(self) -> None:
        """Nothing is held open."""

    def _write(self, name: str, message: bytes, seen: dict[str, str]) -> None:
        draft = self._path / "tmp" / f"{name}.{os.getpid()}.{threading.get_ident()}"
        try:
            draft.write_bytes(message)
            os.replace(draft, self._path / "cur" / seen[name] if name in seen else self._path / "new" / name)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise

    def _down(self, error: OSError, outcomes: tuple[Outcome, ...] = ()) -> ProviderDown:
        message = f"outbox {self._path}: {_reason(error)}; make the folder writable or free some space, then run again"
        return ProviderDown(message, outcomes=outcomes)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
