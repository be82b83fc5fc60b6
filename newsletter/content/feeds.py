"""Feeds: RSS 0.9x to 2.0, Atom 0.3 and 1.0 (read by feedparser), JSON Feed 1.0 and 1.1 (read here)."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from datetime import date
from html import unescape
from html.entities import html5
from time import struct_time
from typing import Any

import feedparser

from newsletter.content.dates import find_date, parse_date
from newsletter.content.markup import html_line, html_markdown, markdown_words, plain_markdown
from newsletter.content.prose import Clipping, Clippings, clean_line, clean_url, refuse
from newsletter.errors import Finding, Where

_FIRST = 80  # characters of a first sentence that may stand in for a title
REASONABLE = 1500  # characters of a content that may stand in for a summary that was cut off

_ROOT = re.compile(
    r"\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>\s*)*<(?:\w+:)?(rss|feed|RDF|channel)\b",
    re.DOTALL,
)


def is_feed(text: str) -> bool:
    """Whether a text is XML with a feed's root, or JSON."""
    return bool(_ROOT.match(text[:20000])) or is_json_feed(text)


def is_json_feed(text: str) -> bool:
    return text[:200].lstrip().startswith("{") and "jsonfeed.org/version" in text


def read_feed(text: str, name: str, base: str = "") -> Clippings:
    """The entries of a feed, in its order. CollectError where it holds none or cannot be read.

    An entry without a title has its first sentence for one. One without a text either, or without a date that can be
    read, comes back with a `problem`. The day of an entry is
    the one that is written there, in the publisher's zone. Its summary is the feed's own, unless that is missing or
    was cut off and the whole text is no longer than `REASONABLE`; the tails that blogs append ("Continue reading …")
    are left out.
    """
    return _json_feed(text, name, base) if is_json_feed(text) else _xml_feed(text, name, base)


# --- XML ---


def _xml_feed(text: str, name: str, base: str) -> Clippings:
    where = Where(path=name)
    headers = {"content-type": "application/xml; charset=utf-8"} | ({"content-location": base} if base else {})
    stream = io.BytesIO(_without_entities(text).encode("utf-8", "replace"))
    try:
        feed = feedparser.parse(stream, response_headers=headers, resolve_relative_uris=False, sanitize_html=False)
    except Exception as error:  # feedparser's fallback parser lets through whatever its input makes of it
        raise refuse("feed", where, f"is no feed that can be read: {error}", "open it in a feed validator") from error
    base = base or clean_url(str(feed.feed.get("link") or "")) or ""
    stories = tuple(_entry(entry, where, base) for entry in feed.entries)
    if not stories:
        raise refuse(
            "no-stories", where, "is a feed without entries", "name another feed, or look whether it is cut off"
        )
    findings = []
    if feed.bozo and not isinstance(feed.bozo_exception, feedparser.CharacterEncodingOverride):
        message = f"is not well-formed ({clean_line(str(feed.bozo_exception))}): some entries may be missing"
        help = "compare what was read with the feed"
        findings.append(Finding(code="collect.feed", severity="warning", where=where, message=message, help=help))
    language = feed.feed.get("language") or _detail(feed.feed, "title").get("language") or ""
    return Clippings(stories=stories, language=clean_line(str(language)), findings=tuple(findings))


def _without_entities(text: str) -> str:
    """The feed without its DTD: no feed needs one, and entities that grow or that name files can come in no other way.
    HTML's entities (&eacute;) and an & that begins none are written as XML has them."""
    text = re.sub(r"<!DOCTYPE[^>\[]*(\[.*?\]\s*)?>", "", text, count=1, flags=re.DOTALL | re.IGNORECASE)
    parts = re.split(r"(<!\[CDATA\[.*?\]\]>)", text, flags=re.DOTALL)
    return "".join(part if part.startswith("<![CDATA[") else _AMPERSAND.sub(_as_xml, part) for part in parts)


_AMPERSAND = re.compile(r"&(?:(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9A-Fa-f]+);|([A-Za-z][A-Za-z0-9]{1,31};))?")


def _as_xml(match: re.Match[str]) -> str:
    if match[1]:
        signs = html5.get(match[1])
        return "".join(f"&#{ord(sign)};" for sign in signs) if signs else f"&amp;{match[1]}"
    return "&amp;" if match[0] == "&" else match[0]


def _entry(entry: dict[str, Any], where: Where, base: str) -> Clipping:
    title = _line(_detail(entry, "title"))
    said, day = "", None
    for key in ("published", "created", "updated"):
        text = str(dict.get(entry, key) or "")  # feedparser's own `get` answers with another date where one is missing
        said = said or text
        day = day or _day(text, dict.get(entry, f"{key}_parsed"))
    if not said and (found := find_date(title)):
        day = found[0]
    base = base or clean_url(str(entry.get("link") or "")) or ""
    contents = [_markdown(each, base) for each in entry.get("content") or ()]
    summary = choose_summary(_markdown(_detail(entry, "summary"), base), max(contents, key=len, default=""))
    title, summary = titled(title, summary)
    source = entry.get("source")
    links = [
        entry.get("link"),
        *(link.get("href") for link in entry.get("links") or () if link.get("rel") in ("alternate", "enclosure")),
    ]
    urls = (clean_url(str(link), base) for link in links if link)
    return Clipping(
        title=title,
        date=day,
        summary=summary,
        url=next((url for url in urls if url), None),
        source=_line(_detail(source, "title")) if isinstance(source, Mapping) else "",
        problem=_problem(title, day, said),
        where=where,
    )


def _detail(of: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    detail = of.get(f"{key}_detail")
    return detail if isinstance(detail, Mapping) else {"value": of.get(key) or ""}


def _line(detail: Mapping[str, Any]) -> str:
    value = str(detail.get("value") or "")
    return clean_line(value) if detail.get("type") == "text/plain" and "&" not in value else html_line(value)


def _markdown(detail: Mapping[str, Any], base: str) -> str:
    value = str(detail.get("value") or "")
    if detail.get("type") == "text/plain":
        return without_tail(plain_markdown(value))
    if re.fullmatch(r"\s*&lt;\w.*&lt;/\w+&gt;\s*", value, re.DOTALL):
        value = unescape(value)  # escaped once too often
    own = str(detail.get("base") or "")
    return without_tail(html_markdown(value, own if own.startswith("http") else base))


def _day(text: str, parsed: Any) -> date | None:
    day = parse_date(text)
    if (
        day is None
        and isinstance(parsed, struct_time)
        and 1900 <= parsed.tm_year <= 2100
        and str(parsed.tm_year) in text
    ):
        return date(parsed.tm_year, parsed.tm_mon, parsed.tm_mday)
    return day


def _problem(title: str, day: date | None, said: str) -> str:
    if not title:
        return "has no title"
    if day is None:
        return f'has a date that cannot be read: "{clean_line(said)[:40]}"' if said else "has no date"
    return ""


# --- JSON ---


def _json_feed(text: str, name: str, base: str) -> Clippings:
    where = Where(path=name)
    try:
        feed = json.loads(text)
    except json.JSONDecodeError as error:
        where = Where(path=name, line=error.lineno, column=error.colno)
        raise refuse("feed", where, f"is not valid JSON: {error.msg}", "open it in a JSON Feed validator") from error
    except (ValueError, RecursionError) as error:
        raise refuse("feed", where, f"is not valid JSON: {error}", "open it in a JSON Feed validator") from error
    items = feed.get("items") if isinstance(feed, dict) else None
    stories = (
        tuple(_item(item, where, base) for item in items if isinstance(item, dict)) if isinstance(items, list) else ()
    )
    if not stories:
        raise refuse("no-stories", where, "is a feed without items", "name another feed, or look whether it is cut off")
    return Clippings(stories=stories, language=clean_line(_text(feed, "language")))


def _item(item: dict[str, Any], where: Where, base: str) -> Clipping:
    title = clean_line(_text(item, "title"))
    said = _text(item, "date_published") or _text(item, "date_modified")
    day = parse_date(_text(item, "date_published")) or parse_date(_text(item, "date_modified"))
    html, plain = _text(item, "content_html"), _text(item, "content_text")
    content = html_markdown(html, base) if html else plain_markdown(plain)
    urls = (clean_url(_text(item, key), base) for key in ("url", "external_url") if _text(item, key))
    summary = choose_summary(without_tail(plain_markdown(_text(item, "summary"))), without_tail(content))
    title, summary = titled(title, summary)
    return Clipping(
        title=title,
        date=day,
        summary=summary,
        url=next((url for url in urls if url), None),
        problem=_problem(title, day, said),
        where=where,
    )


def _text(of: Mapping[str, Any], key: str) -> str:
    value = of.get(key)
    return value if isinstance(value, str) else ""


# --- summaries ---

_CUT = re.compile(r"\s*(?:\[\s*(?:…|\.\.\.)\s*\\?\]|…|\.\.\.)\s*$")
_READ_ON = r"(?:(?:continue|keep) reading|read (?:more|the rest)|leer m[aá]s|(?:sigue|seguir|continuar) leyendo)"
_TAILS = re.compile(
    r"(?:^|\n\n)(?:The post .*? (?:appeared first|first appeared) on .*"
    r"|.{1,200} was originally published in .{1,200} on Medium\b.*"
    r"|La entrada .*? (?:se public[oó]|aparece) primero en .*"
    rf"|\[?{_READ_ON}\b[^\n]{{0,300}})$"
    rf"|\s*\[{_READ_ON}[^\n\]]{{0,200}}\]\([^\s)]*\)\W*$"  # a link at the end of the text
    rf"|(?<=[.…\]])\s*{_READ_ON}\b[^\n.]{{0,200}}$",
    re.IGNORECASE,
)


def without_tail(markdown: str) -> str:
    """The text without the advertisements of itself that blogs append, and with "…" for the mark "[…]" of a cut."""
    before = None
    while markdown != before:
        before, markdown = markdown, _TAILS.sub("", markdown).rstrip()
    return _CUT.sub("…", markdown) if _CUT.search(markdown) else markdown


def choose_summary(summary: str, content: str) -> str:
    """The summary, or the content where there is no summary or it was cut off and the content is short enough."""
    if not summary or not content:
        return summary or content
    start = _CUT.sub("", summary)
    cut = start != summary or (content.startswith(start) and not re.search(r"[.!?…:)\]\"'”’»]$", start))
    return content if cut and len(content) <= REASONABLE else summary


def titled(title: str, summary: str) -> tuple[str, str]:
    """The title, or where there is none (notes, short messages) the first sentence of the text; and the text, without
    the title that some repeat above it, and none where the title says all of it."""
    if title or not summary:
        first, _, rest = summary.partition("\n\n")
        return title, rest if first.startswith("**") and markdown_words(first) == title else summary
    words = markdown_words(summary)
    first = re.split(r"(?<=[.!?…])\s", words, maxsplit=1)[0]
    title = first if len(first) <= _FIRST else first[:_FIRST].rpartition(" ")[0].rstrip(" ,;:—–-") + "…"
    return title, "" if title == words and "](" not in summary else summary
