"""What lies ready to be handed out as bytes, without Django: style, logo, and the archive's pages.

An archive's page is made once, by Django (archive.py), and put here; from then on it is one look into a dictionary.
What it was made from is looked at again every two seconds, by whichever request comes then. When that has changed a
page is made anew, and handed out as it was to whoever asks meanwhile. When the database does not answer, what lies here
is still handed out: an old page is better than none.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache
from typing import Any

from django.db import Error, connection

from newsletter.store.published import Public, published, published_stamp
from newsletter.web.pictures import Pictures
from newsletter.web.press import Page, Press
from newsletter.web.site import Site

log = logging.getLogger("newsletter.web")

FOREVER = "public, max-age=31536000, immutable"

ROOM = 64 * 1024 * 1024  # octets of pages and pictures in one process
FRESH = 2.0  # seconds between two looks at what is public
PATIENCE = 10.0  # seconds until the next look after one that failed
MAKING = 5.0  # seconds that a page may take to be made anew
SHELF = "newsletter.shelf"  # the key of the shelf in a request's environment

_COMPRESSED = ("text/", "application/xml", "application/atom+xml", "application/feed+json", "application/javascript")


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An answer as it leaves."""

    status: str
    headers: Mapping[str, str]
    body: bytes


class Shelved:
    """A page in the forms in which it may be asked for, compressed and not."""

    __slots__ = ("_forms", "_modified", "_tags", "made_from", "making_until", "size", "used")

    def __init__(self, page: Page, made_from: Public | None = None) -> None:
        tag = hashlib.sha256(page.body).hexdigest()[:32]
        compressible = page.media_type.startswith(_COMPRESSED)
        headers = {**page.headers, "Cache-Control": page.cache}
        if page.modified:
            headers["Last-Modified"] = format_datetime(page.modified.astimezone(UTC), usegmt=True)
        if compressible:
            headers["Vary"] = "Accept-Encoding"
        self._forms = [_form(page.body, {**headers, "Content-Type": page.media_type}, headers, f'"{tag}"')]
        if compressible:
            packed = gzip.compress(page.body, 6, mtime=0)
            encoded = {**headers, "Content-Type": page.media_type, "Content-Encoding": "gzip"}
            self._forms.append(_form(packed, encoded, headers, f'"{tag}-gzip"'))
        self._tags = frozenset(ready.headers["ETag"] for ready, _ in self._forms)
        self._modified = page.modified.replace(microsecond=0) if page.modified else None
        self.made_from = made_from
        self.making_until = 0.0
        self.used = time.monotonic()
        self.size = sum(len(ready.body) for ready, _ in self._forms) + 2000

    def fitting(self, environ: Mapping[str, Any]) -> Ready:
        """The answer to one request: compressed where that is understood, and 304 where the client has it."""
        packed = len(self._forms) > 1 and takes_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")[:200])
        ready, unchanged = self._forms[packed]
        if (tags := environ.get("HTTP_IF_NONE_MATCH")) is not None:
            given = {tag.strip().removeprefix("W/") for tag in tags[:1000].split(",")}
            return unchanged if given & self._tags or "*" in given else ready
        if self._modified and (since := environ.get("HTTP_IF_MODIFIED_SINCE")):
            with suppress(ValueError, TypeError, OverflowError):
                moment = parsedate_to_datetime(since[:100])
                if self._modified <= moment.replace(tzinfo=moment.tzinfo or UTC):
                    return unchanged
        return ready


def _form(body: bytes, headers: Mapping[str, str], unchanged: Mapping[str, str], tag: str) -> tuple[Ready, Ready]:
    """One form of a page, and what is answered to those who have it (RFC 9110 §15.4.5)."""
    return (
        Ready(status="200 OK", headers={**headers, "Content-Length": str(len(body)), "ETag": tag}, body=body),
        Ready(status="304 Not Modified", headers={**unchanged, "ETag": tag}, body=b""),
    )


@lru_cache(maxsize=256)
def takes_gzip(header: str) -> bool:
    """Whether an Accept-Encoding allows gzip (RFC 9110 §12.5.3). Nothing said is taken for no."""
    weights = {}
    for part in header.lower().split(","):
        name, _, weight = part.partition(";")
        try:
            weights[name.strip()] = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


class Shelf:
    """The answers of one server process that are ready, by path.

    Reading takes no lock. Pages are put here under one, and the longest unused go when there is no room left.
    """

    def __init__(self, site: Site) -> None:
        self.press = Press(site=site, base_url=site.config.base_url, link=lambda here, path: f"{site.prefix}{path}")
        self.pictures = Pictures(site.config)
        self._private_lists = tuple(each.id for each in site.lists.lists.values() if each.private)
        name, style = site.style
        fixed = {f"/static/{name}": Page(body=style, media_type="text/css; charset=utf-8", cache=FOREVER)}
        if site.logo:
            fixed[f"/images/{site.logo[0]}"] = Page(body=site.logo[1], media_type=site.logo[2], cache=FOREVER)
        self._fixed = {path: Shelved(page) for path, page in fixed.items()}
        self._shelved: dict[str, Shelved] = {}
        self._size = 0
        self._putting = threading.Lock()
        self._looking = threading.Lock()
        self._public: Public | None = None
        self._stamp: tuple[Any, ...] = ()
        self._look_at = 0.0

    def find(self, environ: dict[str, Any]) -> Ready | None:
        """The answer to a GET or HEAD, if it lies here and is fresh. Else the views find the shelf in `environ`."""
        path = environ["PATH_INFO"]
        shelved = self._fixed.get(path)
        if shelved is None:
            environ[SHELF] = self
            shelved = self._shelved.get(path)
            if shelved is None:
                return None
            now = time.monotonic()
            old = shelved.made_from is not None and shelved.made_from is not self.public()
            if old and now > shelved.making_until:
                shelved.making_until = now + MAKING
                return None
            shelved.used = now
        return shelved.fitting(environ)

    def at_hand(self, path: str, environ: Mapping[str, Any]) -> Ready | None:
        """The answer to a GET or HEAD, if it lies here and needs no look into the database: it takes microseconds."""
        shelved = self._fixed.get(path) or self._shelved.get(path)
        if shelved is None:
            return None
        if shelved.made_from is not None:
            now = time.monotonic()
            if shelved.made_from is not self._public or now >= self._look_at:
                return None
            shelved.used = now
        return shelved.fitting(environ)

    def public(self) -> Public:
        """What is public, as it was two seconds ago or later. Raises Django's `Error` only where it never was known."""
        known = self._public
        if known is not None and time.monotonic() < self._look_at:
            return known
        if self._looking.acquire(blocking=known is None):
            try:
                if self._public is None or time.monotonic() >= self._look_at:
                    self._look()
            except Error:
                connection.close()  # whatever is the matter with it, the next look gets a new one
                self._look_at = time.monotonic() + PATIENCE
                if self._public is None:
                    raise
                log.warning("what is public could not be looked at; the archive is handed out as it was")
            finally:
                self._looking.release()
        assert self._public is not None
        return self._public

    def _look(self) -> None:
        stamp = published_stamp(self._private_lists)  # before the rows: what comes in between is seen at the next look
        if self._public is None or stamp != self._stamp:
            self._public = published(self._private_lists)
            self._stamp = stamp
        self._look_at = time.monotonic() + FRESH

    def put(self, path: str, page: Page, made_from: Public | None = None) -> Shelved:
        """Lays a page on the shelf, unless it would take more than an eighth of the room. `made_from` is what it shows;
        None for what never changes."""
        shelved = Shelved(page, made_from)
        with self._putting:
            if before := self._shelved.pop(path, None):
                self._size -= before.size
            if shelved.size <= ROOM // 8:
                self._shelved[path] = shelved
                self._size += shelved.size
            if self._size > ROOM:
                self._make_room()
        return shelved

    def _make_room(self) -> None:
        for path, each in sorted(self._shelved.items(), key=lambda item: item[1].used):
            if self._size <= ROOM * 9 // 10:
                break
            del self._shelved[path]
            self._size -= each.size

    def stale(self, path: str) -> Shelved | None:
        """What lies here for a path, however old."""
        return self._shelved.get(path)
