"""Ways out. A provider takes one chunk of one edition and answers for every recipient in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from newsletter.config import NO_CAPS, Anymail, Config, Pace, Sendgrid, Smtp, Way
from newsletter.envelope import Recipient
from newsletter.errors import ConfigError, Finding
from newsletter.recorder import Outcome, Recorder
from newsletter.rendering.edition import Edition, Mailbox

__all__ = ["Checkable", "Limits", "Outcome", "Provider", "Recorder", "WayOut", "open_provider", "open_ways"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a way out can carry."""

    chunk: int  # recipients in one `send`
    lanes: int = 1  # calls of `send` at the same time, from threads of their own
    connections: int = 1  # messages that may be on their way at one moment; an API's request counts as one
    leaves: bool = True  # False: what is sent reaches nobody but this machine


class Provider(Protocol):
    """A way out.

    `send` gives one outcome per recipient, in their order. For the whole chunk it raises `ProviderDown` (nothing left,
    or sending again does no harm), `ProviderRejected` (a human must act) or `ProviderUnsure` (fate unknown), and
    `InputError` for an edition or a recipient that is made wrongly. What the recorder was told holds even then.
    It may be called from up to `limits.lanes` threads at once, and from one more, which sends single mail only.

    A provider that can be tried without sending is `Checkable` as well.
    """

    @property
    def limits(self) -> Limits: ...

    def send(self, edition: Edition, recipients: Sequence[Recipient], recorder: Recorder) -> list[Outcome]: ...

    def close(self) -> None: ...


@runtime_checkable
class Checkable(Protocol):
    """A way out that can tell, without sending anything to anybody, whether mail from `sender` would leave by it.

    `check` gives what was found, one line of words without an address or a secret, for `newsletter doctor`. It raises
    `ProviderDown` when nothing answers or the answer is no for now, and `ProviderRejected` when a human must act, both
    with the next step and in the words that `send` would use.
    """

    def check(self, sender: Mailbox) -> str: ...


@dataclass(frozen=True, kw_only=True)
class WayOut:
    """A way out that is open, under the name that newsletter.yaml gives it."""

    name: str
    provider: Provider
    pace: Pace = NO_CAPS


def open_ways(config: Config) -> tuple[WayOut, ...]:
    """The ways out of the configuration in their order, ready to send. Raises what `open_provider` raises."""
    return tuple(WayOut(name=way.name, provider=open_provider(config, way), pace=way.pace) for way in config.ways)


def open_provider(config: Config, way: Way | None = None) -> Provider:
    """A way out of the configuration (default: the first), ready to send; no connection is made yet.

    Raises `ConfigError`, also when the way needs a package that is not installed, and `ProviderUnsupported` when it
    cannot carry what the workspace asks of every message.
    """
    settings = (way or config.ways[0]).settings
    if isinstance(settings, Smtp):
        from newsletter.providers.smtp import SmtpProvider

        return SmtpProvider(settings, dkim=config.dkim)
    if isinstance(settings, Sendgrid):
        from newsletter.providers.sendgrid import SendgridProvider

        return SendgridProvider(settings)
    if isinstance(settings, Anymail):
        try:
            from newsletter.providers.anymail import AnymailProvider, check_workspace
        except ModuleNotFoundError as error:
            raise _not_installed("django-anymail", "anymail") from error
        check_workspace(settings, embed=config.images == "embed")
        return AnymailProvider(settings)
    from newsletter.providers.outbox import Outbox  # here: outbox imports what this module defines

    assert isinstance(settings, Path)
    return Outbox(settings)


def _not_installed(package: str, extra: str) -> ConfigError:
    message, help = f"this way out needs {package}, which is not installed", f"pip install 'newsletter[{extra}]'"
    return ConfigError([Finding(code="config.package", severity="error", where=None, message=message, help=help)])
