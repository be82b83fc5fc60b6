"""What machines read of the archive: Atom (RFC 4287) and JSON Feed 1.1 (jsonfeed.org) for each language, and the
sitemap (sitemaps.org) with the languages of every page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import nh3
from lxml import etree
from lxml import html as markup
from markupsafe import escape

from newsletter.rendering.edition import Edition
from newsletter.store.published import Public, Published, load_editions
from newsletter.web.archive_pages import feed_paths, first_picture, index_path, issue_path, neutral
from newsletter.web.press import Page, Press

IN_A_FEED = 20  # issues
IN_A_SITEMAP = 50_000  # addresses, at most (sitemaps.org); a file may have 50 MB besides
_ATOM = "http://www.w3.org/2005/Atom"
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """An issue as both feeds have it."""

    row: Published
    id: str
    url: str
    edition: Edition
    content: str  # HTML
    image: str  # address, or ""


def atom(press: Press, public: Public, language: str) -> Page | None:
    """The Atom feed of a language; None where there is no such language."""
    if language not in press.languages(public):
        return None
    entries = _entries(press, public, language)
    home = press.base_url + index_path(language)
    title = press.site.text(press.site.config.title, language)
    updated = max((entry.row.at for entry in entries), default=_NEVER)
    feed = etree.Element(f"{{{_ATOM}}}feed", nsmap={None: _ATOM})  # type: ignore[dict-item] # the stubs know of no default namespace
    feed.set("{http://www.w3.org/XML/1998/namespace}lang", language)
    _add(feed, "id", home)
    _add(feed, "title", title)
    if tagline := press.site.text(press.site.config.tagline, language):
        _add(feed, "subtitle", tagline)
    _add(feed, "updated", _time(updated))
    _add(feed, "link", rel="self", type="application/atom+xml", href=press.base_url + feed_paths(language)[0][0])
    _add(feed, "link", rel="alternate", type="text/html", hreflang=language, href=home)
    if press.site.logo:
        _add(feed, "logo", f"{press.base_url}/images/{press.site.logo[0]}")
    _add(_add(feed, "author"), "name", title)
    for entry in entries:
        each = _add(feed, "entry")
        _add(each, "id", entry.id)
        _add(each, "title", entry.edition.subject)
        _add(each, "link", rel="alternate", type="text/html", hreflang=language, href=entry.url)
        _add(each, "published", _time(entry.row.first_at))
        _add(each, "updated", _time(entry.row.at))
        if entry.edition.imprint.preheader:
            _add(each, "summary", entry.edition.imprint.preheader)
        _add(each, "content", entry.content, type="html")
    etree.indent(feed)
    body = etree.tostring(feed, encoding="utf-8", xml_declaration=True) + b"\n"
    return Page(body=body, media_type="application/atom+xml; charset=utf-8", modified=updated if entries else None)


def json_feed(press: Press, public: Public, language: str) -> Page | None:
    """The JSON Feed of a language; None where there is no such language."""
    if language not in press.languages(public):
        return None
    entries = _entries(press, public, language)
    site = press.site
    title = site.text(site.config.title, language)
    feed: dict[str, object] = {
        "version": "https://jsonfeed.org/version/1.1",
        "title": title,
        "home_page_url": press.base_url + index_path(language),
        "feed_url": press.base_url + feed_paths(language)[1][0],
        "language": language,
        "authors": [{"name": title}],
    }
    if tagline := site.text(site.config.tagline, language):
        feed["description"] = tagline
    if site.logo:
        feed["icon"] = f"{press.base_url}/images/{site.logo[0]}"
    feed["items"] = [_item(entry) for entry in entries]
    body = json.dumps(feed, ensure_ascii=False, indent=2).encode("utf-8", "replace") + b"\n"
    modified = max((entry.row.at for entry in entries), default=None)
    return Page(body=body, media_type="application/feed+json; charset=utf-8", modified=modified)


def _item(entry: _Entry) -> dict[str, object]:
    item: dict[str, object] = {
        "id": entry.id,
        "url": entry.url,
        "title": entry.edition.subject,
        "content_html": entry.content,
        "date_published": _time(entry.row.first_at),
        "date_modified": _time(entry.row.at),
        "language": entry.row.language,
    }
    if entry.edition.imprint.preheader:
        item["summary"] = entry.edition.imprint.preheader
    if entry.image:
        item["image"] = entry.image
    return item


def _entries(press: Press, public: Public, language: str) -> list[_Entry]:
    """The issues that were sent last, whatever date they bear: what a reader of feeds has not seen yet."""
    rows = sorted(public.by_language.get(language, ()), key=lambda row: (row.first_at, row.issue), reverse=True)
    rows = rows[:IN_A_FEED]
    editions = load_editions([row.edition for row in rows])
    return [_entry(press, row, editions[row.edition]) for row in rows if row.edition in editions]


def _entry(press: Press, row: Published, edition: Edition) -> _Entry:
    picture = first_picture(edition)
    return _Entry(
        row=row,
        id=_tag(press, row),
        url=press.base_url + issue_path(row),
        edition=edition,
        content=_content(press, row, edition),
        image=f"{press.base_url}/images/{picture.name}" if picture else "",
    )


def _tag(press: Press, row: Published) -> str:
    """A name for ever (RFC 4151), which a page that moved keeps as long as its host is called the same."""
    host = urlsplit(press.base_url).hostname or "localhost"
    return f"tag:{host},{row.first_at:%Y-%m-%d}:{quote(row.language)}/{quote(row.issue)}"


_BLOCKS = {"blockquote", "br", "h2", "h3", "h4", "hr", "li", "ol", "p", "pre", "ul"}
_TAGS = _BLOCKS | {"a", "b", "code", "del", "em", "i", "img", "s", "strong", "sub", "sup"}
_ATTRIBUTES = {"a": {"href", "title"}, "img": {"src", "alt", "width"}, "*": {"lang", "dir"}}
_FURNITURE = {"edge", "bar", "dateline"}  # of the sample's templates: masthead, foot, the line with number and date
_SLOT = re.compile(r"@@[A-Z_]+_URL@@")


def _content(press: Press, row: Published, edition: Edition) -> str:
    """What an issue says, as plain HTML for feed readers: without the frame of the message, its layout and its links
    for members."""
    document = markup.document_fromstring(edition.html)
    for element in list(document.iter(etree.Element)):
        classes = set(element.get("class", "").split())
        hidden = "display:none" in element.get("style", "").replace(" ", "")
        personal = element.tag == "a" and _SLOT.search(element.get("href", ""))
        if element.getparent() is None:
            continue
        if classes & _FURNITURE or hidden or personal or element.tag == "h1":
            _drop(element)
        elif "contents" in classes:
            panel = next(
                (each for each in element.iterancestors() if "panel" in each.get("class", "").split()), element
            )
            _drop(panel)
        elif element.tag in ("td", "div"):
            element.tail = f" {element.tail or ''}"
    body = document.find("body")
    text = markup.tostring(body if body is not None else document, encoding="unicode")
    plain = neutral(
        press, edition, lambda path: press.base_url + path, view=press.base_url + issue_path(row), html=text
    )
    clean = nh3.clean(plain, tags=_TAGS, attributes=_ATTRIBUTES, url_schemes={"http", "https", "mailto"}, link_rel=None)
    return _printable(re.sub(r"(?<=>)\s+(?=<)", " ", clean).strip())


def _drop(element: etree._Element) -> None:
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)


# What XML 1.0 §2.2 has no place for.
_CONTROL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _printable(text: str) -> str:
    return _CONTROL.sub("", text)


def _add(parent: etree._Element, name: str, text: str = "", **attributes: str) -> etree._Element:
    element = etree.SubElement(
        parent, f"{{{_ATOM}}}{name}", {key: _printable(each) for key, each in attributes.items()}
    )
    if text:
        element.text = _printable(text)
    return element


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- the sitemap ------------------------------------------------------------------------------------------------------


def sitemap(press: Press, public: Public, number: int | None = None) -> Page | None:
    """The sitemap; where it would be too large, the list of its parts, and the part of a number from 1 on."""
    parts = sitemap_count(press, public)
    if number is None and parts > 1:
        places = (f"<sitemap><loc>{press.base_url}/sitemap-{each + 1}.xml</loc></sitemap>" for each in range(parts))
        return _xml("sitemapindex", "", places)
    if number is not None and not (parts > 1 and 1 <= number <= parts):
        return None
    size, start = _part_size(press, public), ((number or 1) - 1) * _part_size(press, public)
    languages = press.languages(public)
    indexes = [(language, press.base_url + index_path(language)) for language in languages]
    first = [_url(address, None, indexes) for _, address in indexes] if start == 0 else []
    rows = public.rows[max(0, start - len(languages)) : start + size - len(languages)]
    pages = (
        _url(
            press.base_url + issue_path(row),
            row.at,
            [(each.language, press.base_url + issue_path(each)) for each in public.by_issue[row.issue].values()],
        )
        for row in rows
    )
    return _xml("urlset", ' xmlns:xhtml="http://www.w3.org/1999/xhtml"', [*first, *pages])


def sitemap_count(press: Press, public: Public) -> int:
    """How many files the sitemap needs."""
    return max(1, -(-(len(public.rows) + len(press.languages(public))) // _part_size(press, public)))


def _part_size(press: Press, public: Public) -> int:
    # An address takes some 150 octets, and as many again for each language that it is in.
    return max(1, min(IN_A_SITEMAP, 300_000 // (len(press.languages(public)) + 1)))


def _url(address: str, at: datetime | None, alternates: Sequence[tuple[str, str]]) -> str:
    links = "".join(
        f'<xhtml:link rel="alternate" hreflang="{escape(code)}" href="{escape(each)}"/>' for code, each in alternates
    )
    lastmod = f"<lastmod>{_time(at)}</lastmod>" if at else ""
    return f"<url><loc>{escape(address)}</loc>{lastmod}{links}</url>"


def _xml(root: str, more: str, lines: Iterable[str]) -> Page:
    inner = "\n".join(lines)
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"{more}>\n'
        f"{inner}\n</{root}>\n"
    )
    return Page(body=text.encode(), media_type="application/xml; charset=utf-8")
