"""A Maildir on disk: the way out of a new workspace, where every message can be looked at and none leaves."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from newsletter.envelope import Envelope, Recipient
from newsletter.errors import AddressError, HeaderError, ProviderDown
from newsletter.providers import Limits, Outcome
from newsletter.rendering.edition import Edition


def _now() -> datetime:
    return datetime.now(UTC)


class Outbox:
    """Writes sealed messages into `path`, made if it is not there. Any mail program that reads Maildir opens it.

    A message is one file, `<edition key>.<recipient key>`, with the very bytes that SMTP would carry (CRLF line ends,
    which mail programs and `mailbox.Maildir` read as well). Sending a delivery again replaces its file, in `cur` under
    the flags that a mail program gave it, so nothing is ever there twice. A crash leaves whole files only; they are not
    synced one by one, since an outbox holds nothing that a second run could not write again.

    Raises `ProviderDown`, with the path, when the disk is full or the folder cannot be written.
    """

    limits = Limits(chunk=1000)

    def __init__(self, path: Path, *, now: Callable[[], datetime] = _now) -> None:
        self._path = path
        self._now = now
        self._envelope = lru_cache(maxsize=16)(Envelope)  # the languages of the mailings at work
        try:
            for folder in ("tmp", "new", "cur"):
                (path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._down(error) from error

    def send(self, edition: Edition, recipients: Sequence[Recipient]) -> list[Outcome]:
        envelope = self._envelope(edition)
        try:
            seen = {name.partition(":")[0]: name for name in os.listdir(self._path / "cur")}
            return [self._deliver(envelope, edition.key, recipient, seen) for recipient in recipients]
        except OSError as error:
            raise self._down(error) from error

    def close(self) -> None:
        """Nothing is held open."""

    def _deliver(self, envelope: Envelope, edition: str, recipient: Recipient, seen: dict[str, str]) -> Outcome:
        try:
            message = envelope.seal(recipient, date=self._now())
        except (AddressError, HeaderError) as error:
            return Outcome(key=recipient.key, state="refused", detail=str(error))
        name = f"{edition}.{recipient.key}"
        draft = self._path / "tmp" / f"{name}.{os.getpid()}.{threading.get_ident()}"
        try:
            draft.write_bytes(message)
            os.replace(draft, self._path / "cur" / seen[name] if name in seen else self._path / "new" / name)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise
        return Outcome(key=recipient.key, state="accepted", provider_ref=name)

    def _down(self, error: OSError) -> ProviderDown:
        reason = error.strerror or type(error).__name__
        return ProviderDown(
            f"outbox {self._path}: {reason}; make the folder writable or free some space, then run again"
        )
