"""The archive as files for any web host: the same pages, with links that lead from file to file."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote, urlsplit

from newsletter.store.published import Published, load_edition, load_image, published
from newsletter.web.archive_feeds import atom, json_feed, sitemap, sitemap_count
from newsletter.web.archive_pages import (
    feed_paths,
    index_count,
    index_page,
    index_path,
    issue_page,
    issue_path,
    not_found,
)
from newsletter.web.pictures import Pictures
from newsletter.web.press import Page, Press
from newsletter.web.site import Site


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One file to be: its name, relative to the folder and with /, and what makes its bytes."""

    name: str
    make: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class StaticSite:
    """`pieces` in their order; the names of the pictures that they show are known once these were made."""

    pieces: tuple[Piece, ...]
    issues: int  # in all languages
    pictures: Callable[[], Iterator[Piece]]


def static_site(site: Site, *, base_url: str) -> StaticSite:
    """The archive as it is now, to be found at `base_url`. What it cannot do itself (sign up, preferences) leads to the
    pages at the workspace's own base_url. The same database, files and settings give the same bytes."""
    public = published([each.id for each in site.lists.lists.values() if each.private])
    away = site.config.base_url.rstrip("/")
    press = Press(site=site, base_url=base_url, link=lambda here, path: _link(here, path, away=away))
    # A host shows it at any depth, so that its links begin at the root.
    lost = Press(site=site, base_url=base_url, link=lambda here, path: _rooted(path, base_url=base_url, away=away))
    shown: dict[str, None] = dict.fromkeys([site.logo[0]] if site.logo else [])

    def issue(row: Published) -> bytes:
        edition = load_edition(row.edition)
        assert edition is not None  # what was frozen is never removed
        shown.update(dict.fromkeys(image.name for image in edition.images))
        return issue_page(press, public, row, edition).body

    main = site.config.default_language
    pieces = [Piece(name=f"static/{site.style[0]}", make=lambda: site.style[1])]
    pieces += [_piece(here, partial(index_page, press, public, main, here=here)) for here in ("/", "/archive/")]
    for language in press.languages(public):
        for number in range(1, index_count(public, language) + 1):
            pieces += [_piece(index_path(language, number), partial(index_page, press, public, language, number))]
        for (path, _, _), make in zip(feed_paths(language), (atom, json_feed), strict=True):
            pieces += [_piece(path, partial(make, press, public, language))]
    pieces += [Piece(name=_file(issue_path(row)), make=partial(issue, row)) for row in public.rows]
    pieces.append(_piece("/sitemap.xml", partial(sitemap, press, public)))
    if (parts := sitemap_count(press, public)) > 1:
        each_part = range(1, parts + 1)
        pieces += [_piece(f"/sitemap-{part}.xml", partial(sitemap, press, public, part)) for part in each_part]
    pieces.append(_piece("/404.html", partial(not_found, lost, public, main)))

    def pictures() -> Iterator[Piece]:
        own = Pictures(site.config)
        for name in sorted(shown):
            kept = load_image(name) or own.find(name)
            content = site.logo[1] if site.logo and name == site.logo[0] else kept.content if kept else None
            if content is not None:
                yield Piece(name=f"images/{name}", make=partial(bytes, content))

    return StaticSite(pieces=tuple(pieces), issues=len(public.rows), pictures=pictures)


def _piece(path: str, make: Callable[[], Page | None]) -> Piece:
    def bytes_of() -> bytes:
        page = make()
        assert page is not None
        return page.body

    return Piece(name=_file(path), make=bytes_of)


_HERE = ("/archive/", "/images/", "/static/", "/sitemap")


def _link(here: str, path: str, *, away: str) -> str:
    """From one file to another, whatever folder or host they are in."""
    plain = path.partition("?")[0]
    if plain != "/" and not plain.startswith(_HERE):
        return f"{away}{path}"
    return posixpath.relpath(_address(plain), posixpath.dirname(_address(here)))


def _rooted(path: str, *, base_url: str, away: str) -> str:
    plain = path.partition("?")[0]
    if plain != "/" and not plain.startswith(_HERE):
        return f"{away}{path}"
    return f"{urlsplit(base_url).path.rstrip('/')}{plain}"


def _address(path: str) -> str:
    return f"{path}index.html" if path.endswith("/") else path


def _file(path: str) -> str:
    return unquote(_address(path)).lstrip("/")
