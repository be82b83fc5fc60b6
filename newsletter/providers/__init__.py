"""Ways out. A provider takes one chunk of one edition and answers for every recipient in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from newsletter.config import Config
from newsletter.envelope import Recipient
from newsletter.rendering.edition import Edition

State = Literal["accepted", "refused", "deferred", "in_doubt"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a provider says at once about one recipient. A refused recipient is an outcome, never an exception."""

    key: str  # the recipient's
    state: State  # deferred: this one may be tried again; in_doubt: handed over, answer lost
    provider_ref: str = ""  # the id under which the provider took it
    detail: str = ""  # the provider's words, or the reason; never holds an address


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a way out can carry."""

    chunk: int  # recipients in one `send`


class Provider(Protocol):
    """A way out.

    `send` gives one outcome per recipient, in their order. For the whole chunk it raises `ProviderDown` (nothing left,
    or sending again does no harm), `ProviderRejected` (a human must act) or `ProviderUnsure` (fate unknown), and
    `InputError` for an edition or a recipient that is made wrongly.
    """

    @property
    def limits(self) -> Limits: ...

    def send(self, edition: Edition, recipients: Sequence[Recipient]) -> list[Outcome]: ...

    def close(self) -> None: ...


def open_provider(config: Config) -> Provider:
    """The way out that the configuration names, ready to send."""
    from newsletter.providers.outbox import Outbox  # here: outbox imports what this module defines

    return Outbox(config.outbox)
