"""What makes pages for one place: for the web application, or for a folder of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from newsletter.store.published import Public
from newsletter.web.site import Site

SOON = "public, max-age=300, stale-while-revalidate=86400"  # of what changes with the next issue


@dataclass(frozen=True, kw_only=True)
class Page:
    """Something made: a page, a feed, a picture."""

    body: bytes
    media_type: str
    cache: str = SOON
    modified: datetime | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the list says of an issue."""

    subject: str
    number: str
    date: str
    preheader: str


@dataclass(frozen=True, kw_only=True)
class Press:
    """`link(here, path)` is the address of a path as the page at `here` writes it, `base_url` the address that the
    world knows the place by."""

    site: Site
    base_url: str
    link: Callable[[str, str], str]
    cards: dict[int, Card] = field(default_factory=dict)  # by edition: frozen, so that none is read twice

    def languages(self, public: Public) -> list[str]:
        """The languages that have a list of issues, the workspace's first."""
        return list(dict.fromkeys([*self.site.config.languages, *public.by_language]))
