"""What can go wrong, in one tree.

    NewsletterError
    ├── InputError (ValueError)        a file, a feed, an argument says no; carries every finding
    │   ├── ConfigError                newsletter.yaml, the environment, the keys
    │   │   └── ProviderUnsupported    the way out cannot carry what is asked of it
    │   ├── IssueError                 an issue file, a folder story, blocks.yaml, an image
    │   ├── TemplateError              a template, theme.yaml, labels.yaml: syntax, an unknown name, wrong MJML
    │   └── CollectError               a source that cannot be read as stories
    ├── AddressError (ValueError)      a recipient whose address cannot be written into a message
    ├── HeaderError (ValueError)       a header value with a control character or a line end in it
    ├── ProviderError (OSError)        the way out, for a whole chunk
    │   ├── ProviderDown (ConnectionError)    nothing left this machine: try again later
    │   ├── ProviderRejected                  credentials, quota, sender: a human must act
    │   └── ProviderUnsure (TimeoutError)     handed over, answer lost: nobody knows
    └── StoreError                     the database and the ledger in it
        ├── DatabaseDown (ConnectionError)    it cannot be reached or written: try again later
        ├── SchemaMismatch                    it is older or newer than this program
        ├── WrongKey                          a secret key is not the one that the database was made with
        ├── NotFound (LookupError)            no such mailing, subscriber, list, segment
        ├── NoConsent                     the person left, complained, was suppressed or erased
        ├── LedgerError                       what is asked does not fit the state of the mailing
        └── Fenced                            the lease went to another worker: nothing was written

A refused *recipient* is never an exception: it is an `Outcome` (providers/__init__.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True, order=True)
class Where:
    """A place in a file: path as the user typed or would type it, line and column counted from 1 (0: unknown)."""

    path: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        parts = [self.path]
        if self.line:
            parts.append(str(self.line))
            if self.column:
                parts.append(str(self.column))
        return ":".join(parts)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong or worth a look, with the place and the next step."""

    code: str  # stable, dotted, family first: "issue.unknown-key", "mjml.unknown-attribute"
    severity: Severity
    where: Where | None
    message: str  # what is wrong, one line
    help: str = ""  # what to do next, one line

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f"\n    → {self.help}" if self.help else ""
        return f"{place}{self.severity}: {self.message} [{self.code}]{hint}"

    def as_json(self) -> dict[str, object]:
        """The shape `newsletter check --json` prints; path, line and column are null where there is no place."""
        where = self.where
        return {
            "code": self.code,
            "severity": self.severity,
            "path": where.path if where else None,
            "line": (where.line or None) if where else None,
            "column": (where.column or None) if where else None,
            "message": self.message,
            "help": self.help,
        }


class NewsletterError(Exception):
    """The root of everything this package raises on purpose."""


class InputError(NewsletterError, ValueError):
    """Something handed to us cannot be used. `findings` holds every problem, at least one of severity error."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class ConfigError(InputError):
    """The workspace's configuration cannot be used."""


class ProviderUnsupported(ConfigError):
    """The way out lacks what the workspace or an edition asks for, so nothing was handed over. Take another way."""


class IssueError(InputError):
    """An issue, a folder story, a block or an image cannot be used."""


class TemplateError(InputError):
    """A template cannot be rendered or its MJML cannot be compiled."""


class CollectError(InputError):
    """A source cannot be fetched or holds nothing that looks like stories."""


class AddressError(NewsletterError, ValueError):
    """A recipient's address cannot be written into a message. The text never holds the address."""


class HeaderError(NewsletterError, ValueError):
    """A header value holds a control character or a line end."""


class ProviderError(NewsletterError, OSError):
    """The way out failed for a whole chunk.

    `outcomes` holds what is known all the same: an `Outcome` (recorder.py) for each recipient that was answered for
    before. The others were not handed over, or, with `ProviderUnsure`, nobody knows. `retry_after` is the number of
    seconds after which to try again, where the provider says so.
    """

    def __init__(self, message: str, *, outcomes: tuple[object, ...] = (), retry_after: float | None = None) -> None:
        super().__init__(message)
        self.outcomes = outcomes
        self.retry_after = retry_after


class ProviderDown(ProviderError, ConnectionError):
    """Nothing left this machine, or the provider said so clearly: the chunk may be tried again later."""


class ProviderRejected(ProviderError):
    """Credentials, quota or sender were rejected: the mailing pauses and a human must act."""


class ProviderUnsure(ProviderError, TimeoutError):
    """The chunk was handed over and the answer was lost: its fate is unknown."""


class StoreError(NewsletterError):
    """The database says no."""


class DatabaseDown(StoreError, ConnectionError):
    """The database cannot be reached, or not be written: nothing was changed, try again later."""


class SchemaMismatch(StoreError):
    """The database is older or newer than this program; the text names the command to type."""


class WrongKey(StoreError):
    """A secret key is missing, or is not the one with which this database was made."""


class NotFound(StoreError, LookupError):
    """There is no mailing, subscriber, list or segment of that name."""


class NoConsent(StoreError):
    """The person left, complained, was suppressed or erased. The text says when, and what alone may change it."""


class LedgerError(StoreError):
    """What is asked does not fit the state in which the mailing is; the text says what would."""


class Fenced(StoreError):
    """The lease ran out and the batch went to another worker: nothing was written under the old epoch."""
