"""HTML pages: an index of news, one article, a newsletter that was sent before. What is no news on a page is left out.

Every date that stands for itself is first replaced by one element of ours. Where the smallest box around each date also
holds a title, the boxes are the stories (cards, rows, items). Otherwise the page is read as lines, like a text listing.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from lxml.html import HtmlElement

from newsletter.content.bulletins import LEAVE, is_bulletin, read_bulletin
from newsletter.content.dates import find_date, parse_date
from newsletter.content.feeds import choose_summary, without_tail
from newsletter.content.listings import MORE, Line, month_of, read_lines
from newsletter.content.markup import (
    DAY,
    Paragraph,
    element_line,
    elements_markdown,
    html_line,
    paragraphs,
    parse_html,
    plain_markdown,
)
from newsletter.content.prose import Clipping, Clippings, clean_line, clean_url, refuse
from newsletter.errors import Where

_TAGS = re.compile(r"</?(?:p|div|h[1-6]|ul|ol|li|a|table|tr|td|article|section|main|time|br)\b[^>]*>", re.IGNORECASE)


def is_page(text: str) -> bool:
    """Whether a text is HTML: a document, or a piece of one."""
    head = re.sub(r"^\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*", "", text[:20000], count=1, flags=re.DOTALL)
    if re.match(r"<(?:!doctype\s+html|html|head|body)\b", head, re.IGNORECASE):
        return True
    tags = len(_TAGS.findall(text[:20000]))
    return tags >= 6 or (tags >= 2 and head.startswith("<"))


def read_page(text: str, name: str, base: str = "", day: date | None = None) -> Clippings:
    """The stories of a page, in its order. CollectError where it holds none.

    Links are relative to the page's `<base>`, to `base`, its own address, or to the one that a saved page names as its
    own. An entry without a date comes back with a `problem`; only in a list whose items are dated stories first and
    undated texts last are those texts blocks. `day` is that of a page which came as a message: a past newsletter.
    """
    root = parse_html(text)
    base = base or _own_address(root)
    for each in root.iter("base"):
        base = clean_url(each.get("href") or "", base) or base
    head = _read_head(root, base)
    mail = day is not None or is_bulletin(text)
    if mail:
        _drop_farewell(root)
    _tidy(root)
    _group_terms(root)
    _mark_dates(root)
    stories = [_article(root, head, name, base)] if head.article and not day else []
    stories = stories or _boxes(root, name, base)
    if not mail:
        stories = stories or _from_lines(root, head, name, base)
    if not stories:
        found = _bulletin(root, head, name, base, day=day)
        stories = found if mail or sum(story.date is not None for story in found) > 1 else []
    if mail:
        stories = stories or _from_lines(root, head, name, base)
    stories = stories or head.listed(name)
    if not any(story.date and story.title for story in stories):
        help = "name the page of one story, a list with dates, or its feed; or add the story by hand"
        raise refuse("no-stories", Where(path=name), "is a page on which no title with a date was found", help)
    return Clippings(stories=tuple(stories), language=clean_line(root.get("lang") or ""))


def _own_address(root: HtmlElement) -> str:
    """The address that a page names as its own, "" where it names none."""
    said = [each.get("href") for each in root.iter("link") if (each.get("rel") or "").lower() == "canonical"]
    said += [each.get("content") for each in root.iter("meta") if (each.get("property") or "").lower() == "og:url"]
    return next((url for each in said if (url := clean_url(each or ""))), "")


# --- what a page says of itself: JSON-LD, Open Graph ---


@dataclass(frozen=True, kw_only=True)
class _Head:
    title: str = ""
    date: date | None = None
    summary: str = ""  # Markdown
    url: str | None = None
    source: str = ""
    article: bool = False  # the page is one article, by its own word
    stories: tuple[_Head, ...] = ()  # the articles that JSON-LD lists, where there are several

    def listed(self, name: str) -> list[Clipping]:
        return [each.clipping(name) for each in self.stories if each.title and each.date]

    def clipping(self, name: str) -> Clipping:
        return Clipping(
            title=self.title,
            date=self.date,
            summary=self.summary,
            url=self.url,
            source=self.source,
            problem="" if self.date and self.title else "has no date" if self.title else "has no title",
            where=Where(path=name),
        )


def _read_head(root: HtmlElement, base: str) -> _Head:
    meta: dict[str, str] = {}
    for each in root.iter("meta"):
        key = (each.get("property") or each.get("name") or each.get("itemprop") or "").lower()
        meta.setdefault(key, each.get("content") or "")
    links = [each.get("href") or "" for each in root.iter("link") if (each.get("rel") or "").lower() == "canonical"]
    said = [_from_json(each, base) for each in _json_articles(root)]
    best = said[0] if len(said) == 1 else _Head()
    times = ("article:published_time", "datepublished", "date", "dc.date", "dcterms.created", "pubdate")
    day = next((day for key in times if meta.get(key) and (day := parse_date(meta[key]))), None)
    urls = (clean_url(url, base) for url in (meta.get("og:url", ""), *links, base) if url)
    return _Head(
        title=best.title or html_line(meta.get("og:title", "")),
        date=best.date or day,
        summary=best.summary or plain_markdown(meta.get("og:description") or meta.get("description") or ""),
        url=best.url or next((url for url in urls if url), None),
        source=best.source or html_line(meta.get("og:site_name", "")),
        article=bool(best.date and best.title) or (meta.get("og:type", "").lower() == "article" and day is not None),
        stories=tuple(said) if len(said) > 1 else (),
    )


def _json_articles(root: HtmlElement) -> Iterator[dict[str, Any]]:
    """The articles in a page's JSON-LD, wherever they stand in its graph."""
    for script in root.iter("script"):
        if "ld+json" not in (script.get("type") or "").lower():
            continue
        try:
            waiting = deque([json.loads(script.text or "")])
        except (ValueError, RecursionError):
            continue
        while waiting:
            node = waiting.popleft()
            if isinstance(node, list):
                waiting += node
            elif isinstance(node, dict):
                kinds = node.get("@type")
                if any(
                    re.search(r"(Article|BlogPosting|Report)$", str(kind))
                    for kind in (kinds if isinstance(kinds, list) else [kinds])
                ):
                    yield node
                else:
                    waiting += [
                        node[key]
                        for key in ("@graph", "itemListElement", "item", "blogPost", "mainEntity")
                        if key in node
                    ]


def _from_json(node: dict[str, Any], base: str) -> _Head:
    def text(key: str) -> str:
        value = node.get(key)
        if isinstance(value, dict):
            value = value.get("name") or value.get("@id")
        return value if isinstance(value, str) else ""

    urls = (clean_url(text(key), base) for key in ("url", "mainEntityOfPage", "@id") if text(key))
    return _Head(
        title=html_line(text("headline") or text("name")),
        date=parse_date(text("datePublished")) or parse_date(text("dateCreated")),
        summary=plain_markdown(html_line(text("description"))),
        url=next((url for url in urls if url), None),
        source=html_line(text("publisher")),
    )


# --- what is no news ---

_NOISE = (
    "nav",
    "aside",
    "form",
    "script",
    "style",
    "noscript",
    "template",
    "iframe",
    "svg",
    "button",
    "select",
    "dialog",
)
_NOISE_ROLES = ("navigation", "contentinfo", "search", "complementary", "dialog", "alertdialog", "menu", "menubar")
_NOISE_CLASS = re.compile(
    r"(?:site-?|page-?|main-?|global-?|top-?|post-?|entry-?|js-?)?(?:nav|navbar|navigation|menu|breadcrumbs?|cookies?|consent|gdpr|footer"
    r"|sidebar|share|sharing|sharedaddy|social|addtoany|related|comments?|respond|pagination|pager|skip|screen-reader|subscribe"
    r"|unsubscribe|signup|mw-editsection|banner|advert|ads|promo|widget|modal|popup|preheader|hidden|sr-only|visually-hidden)(?:[-_].*|s)?"
)
_KEPT = ("html", "body", "main", "article", "h1", "h2", "h3")


def _tidy(root: HtmlElement) -> None:
    """Takes navigation, footers, scripts, banners, forms and share links out of a page."""
    whole = len(root.text_content())
    for element in list(root.iter("*")):
        if element.getparent() is None or element.tag in _KEPT:
            continue
        names = f"{element.get('class') or ''} {element.get('id') or ''}".lower().split()
        noise = element.tag in _NOISE or element.get("role") in _NOISE_ROLES or any(map(_NOISE_CLASS.fullmatch, names))
        footer = element.tag == "footer" and not any(each.tag in ("article", "li") for each in element.iterancestors())
        # A frame named after its sidebar or its banner still holds the page.
        if (noise or footer) and (element.tag in _NOISE or len(element.text_content()) * 2 <= whole):
            element.drop_tree()


def _group_terms(root: HtmlElement) -> None:
    """Puts each term of a list of definitions into a box with what is said of it, as HTML allows."""
    for terms in list(root.iter("dl")):
        box = None
        for each in list(terms):
            if each.tag == "dt" and (box is None or box[-1].tag == "dd"):
                box = each.makeelement("div")
                each.addprevious(box)
            if box is not None:
                box.append(each)


# --- dates ---

_SHORT = 60  # characters that may stand beside a date that is still a heading's


def _mark_dates(root: HtmlElement) -> None:
    """Puts one `DAY` element into the place of each date that stands for itself; dates in running text stay text."""
    for element in list(root.iter("*")):
        if element.getparent() is None or element.tag in (DAY, "title", "script", "style"):
            continue
        names = (element.get("class") or "").lower()
        if element.tag == "time" or element.get("itemprop") in ("datePublished", "dateCreated"):
            day = parse_date(element.get("datetime") or element.get("content") or "") or parse_date(
                element_line(element)
            )
            stale = re.search(r"updated|modified", names) and "published" not in names
            if day and not _in_sentence(element):
                _replace(element, None if stale else day)
                continue
        if len(element) and len(element) <= 6 and (day := _split_date(element)):
            _replace(element, day)
            continue
        _mark_text(element)


def _in_sentence(element: HtmlElement) -> bool:
    block = next((each for each in element.iterancestors() if each.tag in ("p", "blockquote", "dd")), None)
    return block is not None and _longer(block, len(element.text_content()) + _SHORT)


def _longer(element: HtmlElement, limit: int) -> bool:
    """Whether an element holds more text than that; a long one is not read to its end."""
    length = 0
    for text in element.itertext():
        length += len(text.strip())
        if length > limit:
            return True
    return False


def _split_date(element: HtmlElement) -> date | None:
    """A date in several elements: `<span>19</span> <span>Nov</span> <span>2017</span>`."""
    if element.tag in ("html", "body", "tr", "table", "tbody", "ul", "ol") or _longer(element, _SHORT):
        return None
    return parse_date(element_line(element))


def _replace(element: HtmlElement, day: date | None) -> None:
    words = element_line(element)
    element.clear(keep_tail=True)
    element.tag = DAY if day else "span"
    if day:
        element.set("date", day.isoformat())
        element.text = words or day.isoformat()


_PARTING = " \t\r\n\xa0—–-|:,·•"


def _mark_text(element: HtmlElement) -> None:
    """Marks the dates in an element's own text and behind its children."""
    holders: list[tuple[HtmlElement | None, str]] = [(None, element.text or "")]
    holders += [(child, child.tail or "") for child in element]
    for child, text in holders:
        found = _own_date(text, element) if 6 <= len(text) <= 300 else None
        if not found:
            continue
        day, before, after = found
        mark = element.makeelement(DAY, {"date": day.isoformat()})
        mark.text = text[len(before) : len(text) - len(after)].strip()
        if child is None:
            element.text = before
            element.insert(0, mark)
        else:
            child.tail = before
            element.insert(element.index(child) + 1, mark)
        mark.tail = after


def _own_date(text: str, element: HtmlElement) -> tuple[date, str, str] | None:
    """The date that a bit of text is, or has at an end behind a parting sign, and the text before and after it."""
    for part in re.finditer(r"[^|·•]+", text):  # "By Ann | 19 November 2017 | News"
        day = parse_date(part[0].strip(_PARTING))
        if day:
            return day, text[: part.start()], text[part.end() :]
    found = find_date(text)
    if not found:
        return None
    day, start, end = found
    before, after = text[:start], text[end:]
    titled = element.tag in ("h1", "h2", "h3", "h4", "h5", "h6", "a", "dt", "strong", "b", "th")
    dated = re.search(r"date|meta|time|byline|posted|fecha", (element.get("class") or "").lower())
    parted = re.match(r"\s*[—–|:·]|\s+-\s", after) or re.search(r"[—–|:·]\s*$|\s-\s*$", before) or text[start] in "(["
    rest = (before + after).strip(_PARTING)
    if titled and _ISSUE.fullmatch(rest):
        return day, "", ""  # the heading of an issue is that of a date: its stories stand below
    if rest.endswith(".") or len(rest) > (200 if titled else _SHORT) or not (parted or dated):
        return None
    return day, before.rstrip(_PARTING), after.lstrip(_PARTING)


_ISSUE = re.compile(
    r"(?:\W*(?:issue|number|edition|newsletter|bulletin|update|n[uú]mero|edici[oó]n|bolet[ií]n|no\.?|n\.?\s?[º°o]\.?|#)){1,3}\W*[0-9]+\W*",
    re.IGNORECASE,
)


# --- boxes: each date with its title in an element of its own ---

_TITLES = ("h1", "h2", "h3", "h4", "h5", "h6")
_TITLE_CLASS = re.compile(
    r"(?:p-name|(?:entry|post|card|news|item|article|story|teaser)[-_]{1,2}(?:title|headline|heading)|title|headline)"
)
_ASIDE_CLASS = re.compile(
    r"(?:.*[-_])?(?:meta|byline|author|categor(?:y|ies)|cat|tags?|dates?|posted(?:-on)?|kicker|label|read-?more|more-link)(?:[-_].*)?"
)


def _boxes(root: HtmlElement, name: str, base: str) -> list[Clipping]:
    """The stories of a page where two or more dates have a box with a title each; else nothing."""
    days = list(root.iter(DAY))
    count = Counter(each for day in days for each in day.iterancestors())
    boxes: list[tuple[HtmlElement, HtmlElement]] = []
    whole: dict[HtmlElement, bool] = {}
    for day in days:
        box = day
        for each in day.iterancestors():
            if each not in whole:
                whole[each] = each.tag not in ("body", "html") and (count[each] == 1 or _tells_twice(each))
            if not whole[each]:
                break
            box = each
        if not boxes or boxes[-1][0] is not box:
            boxes.append((box, day))
    titled = [(box, day, title) for box, day in boxes if (title := _title(box)) is not None]
    if len(titled) < 2 or len(titled) * 2 < len(boxes) or any(box.tag in _TITLES for box, _, _ in titled):
        return []  # where the box is but the headline, the text would be lost
    undated, blocks = _undated_boxes([box for box, _, _ in titled])
    if sum(_several(box, title) for box, _, title in titled) * 2 > len(titled):
        return []  # most dates have several titles below them: the lines tell more
    order = {element: index for index, element in enumerate(root.iter())}
    found = [
        (order[box], _box_story(box, title, date.fromisoformat(day.get("date") or ""), name, base))
        for box, day, title in titled
    ]
    for box in undated:
        title = _title(box)
        if title is not None:
            story = _box_story(box, title, None, name, base)
            found.append((order[box], story if blocks else replace(story, problem=_undated(box))))
    return [story for _, story in sorted(found, key=lambda each: each[0])]


def _tells_twice(box: HtmlElement) -> bool:
    """Whether a box with several dates is one story's all the same: one title, and one day told more than once."""
    return (
        len({day.get("date") for day in box.iter(DAY)}) == 1 and sum(_rank(each) in (1, 2) for each in box.iter()) == 1
    )


def _title(box: HtmlElement) -> HtmlElement | None:
    """The element of a box that is its title: by its class, a heading, a link, or what is bold."""
    ranked = [(rank, each) for each in box.iter("*") if (rank := _rank(each))]
    for _, each in sorted(ranked, key=lambda pair: pair[0]):
        words = element_line(each)
        if re.search(r"\w", words) and not MORE.fullmatch(words) and len(words) <= 300:
            return each
    return None


def _rank(element: HtmlElement) -> int:
    """How an element claims to be a title: 1 is the best claim, 0 is none."""
    if any(map(_TITLE_CLASS.fullmatch, (element.get("class") or "").lower().split())):
        return 1
    if element.tag in _TITLES:
        return 2
    if element.tag == "a":
        return 3 if element.get("href") else 0
    return 4 if element.tag in ("b", "strong") else 0


def _several(box: HtmlElement, title: HtmlElement) -> bool:
    """Whether a box holds more than one story: items beside the title's own, or headings of the title's kind."""
    item = next(
        (each for each in (title, *title.iterancestors()) if each.tag in ("li", "article", "tr", "dd") or each is box),
        box,
    )
    parent = item.getparent()
    beside = (
        item is not box
        and parent is not None
        and sum(each.tag == item.tag and _title(each) is not None for each in parent) > 1
    )
    return beside or (title.tag in _TITLES and sum(1 for _ in box.iter(title.tag)) > 1)


def _undated_boxes(boxes: Sequence[HtmlElement]) -> tuple[list[HtmlElement], bool]:
    """The boxes beside the dated ones that look like them but for the date, and whether they are standing texts: the
    last items of a list."""
    dated = set(boxes)
    undated: list[HtmlElement] = []
    blocks = True
    for parent in dict.fromkeys(parent for box in boxes if (parent := box.getparent()) is not None):
        children = list(parent)
        own = [number for number, child in enumerate(children) if child in dated]
        kinds = {children[number].tag for number in own}
        others = [number for number, child in enumerate(children) if child not in dated and child.tag in kinds]
        undated += [children[number] for number in others if element_line(children[number])]
        blocks = blocks and len(own) > 1 and kinds == {"li"} and min(others, default=len(children)) > own[-1]
    return undated, blocks


_AGO = re.compile(
    r"(?:hace .{1,20}\b(?:minutos?|horas?|d[ií]as?|semanas?|mes(?:es)?)|hoy|ayer"
    r"|.{1,12} (?:minutes?|hours?|days?|weeks?|months?) ago|today|yesterday)",
    re.IGNORECASE,
)


def _undated(box: HtmlElement) -> str:
    """Why a box has no date."""
    ago = next((words for text in box.itertext() if _AGO.fullmatch(words := clean_line(text))), "")
    return f'has a date that cannot be read: "{ago}"' if ago else "has no date"


def _box_story(box: HtmlElement, title: HtmlElement, day: date | None, name: str, base: str) -> Clipping:
    links = [each for each in (title, *title.iter("a"), *title.iterancestors("a")) if each.tag == "a"]
    more = [each for each in box.iter("a") if MORE.fullmatch(element_line(each))]
    around = [box] if box.tag == "a" else list(box.iterancestors("a"))
    buttons = [each for each in box.iter("a") if re.search(r"\b(?:btn|button)\b", (each.get("class") or "").lower())]
    urls = (_page_url(each, base) for each in (*links, *more, *buttons, *around))
    more += buttons
    leave_out = {title, *more, *box.iter(DAY), *(each for each in box.iter() if _is_aside(each, title))}
    return Clipping(
        title=element_line(title).strip("–—-|:·• "),
        date=day,
        summary=without_tail(elements_markdown([box], base, leave_out=leave_out)),
        url=next((url for url in urls if url), None),
        where=Where(path=name, line=int(title.sourceline or 0)),
    )


def _page_url(link: HtmlElement, base: str) -> str | None:
    href = (link.get("href") or "").strip()
    return None if not href or href.startswith("#") else clean_url(href, base)


def _is_aside(element: HtmlElement, title: HtmlElement) -> bool:
    """Whether an element is about the story (author, category, date line), not of it."""
    if element.tag in ("footer", "header") and title not in element.iter():
        return True
    names = (element.get("class") or "").lower().split()
    return any(map(_ASIDE_CLASS.fullmatch, names)) and len(element_line(element)) <= 150 and title not in element.iter()


# --- one article ---

_BODIES = (
    ".//*[@itemprop='articleBody']",
    ".//*[contains(concat(' ', normalize-space(@class), ' '), ' e-content ')]",
    ".//*[contains(concat(' ', normalize-space(@class), ' '), ' entry-content ')]",
    ".//article",
    ".//main",
)


def _article(root: HtmlElement, head: _Head, name: str, base: str) -> Clipping:
    """The page as one story: title, date and description of its head, or else of what can be seen."""
    headline = next((each for each in root.iter("h1") if element_line(each)), None)
    body = next((found[0] for path in _BODIES if (found := root.xpath(path))), None)
    if body is None and headline is not None:
        body = next((each for each in headline.iterancestors() if each.find(".//p") is not None), None)
    content = ""
    if body is not None:
        aside = headline if headline is not None else body
        leave_out = {
            *body.iter("h1"),
            *body.iter(DAY),
            *(each for each in body.iter() if each is not body and _is_aside(each, aside)),
        }
        content = without_tail(elements_markdown([body], base, leave_out=leave_out))
    day = head.date or next((date.fromisoformat(each.get("date") or "") for each in root.iter(DAY)), None)
    title = head.title or (element_line(headline) if headline is not None else "")
    story = replace(head, title=title, date=day, summary=choose_summary(head.summary, content))
    return replace(
        story.clipping(name), where=Where(path=name, line=int(headline.sourceline or 0) if headline is not None else 0)
    )


# --- lines ---


def _from_lines(root: HtmlElement, head: _Head, name: str, base: str) -> list[Clipping]:
    """The stories of a page without boxes: the headings and dates that follow each other, one article, or a
    newsletter."""
    lines = _page_lines(root, base)
    if not any(line.day for line in lines):
        title = next((clean_line(each.text_content()) for each in root.iter("title")), "")
        found = find_date(title)
        day = head.date or (found[0] if found else None) or _dateline(lines)
        if day is None:
            return []
        lines = [
            Line(number=0, words=title or head.title or name),
            Line(number=0, words=day.isoformat(), day=day),
            *lines,
        ]
    stories = read_lines(lines, name)
    dated = [story for story in stories if story.date]
    headlines = [each for each in root.iter("h1") if element_line(each)]
    if len({story.date for story in dated}) == 1 and len(headlines) == 1:
        linked = sum(story.url is not None for story in dated)
        if len(dated) == 1 or linked * 2 < len(dated):  # headings without links part one text, they are no stories
            return [_article(root, replace(head, title=element_line(headlines[0]), date=dated[0].date), name, base)]
    return [story if story.date or story.problem else replace(story, problem="has no date") for story in stories]


def _dateline(lines: Sequence[Line]) -> date | None:
    """The date that a press release begins with: "Lima, 14 May 2024.– The group …"."""
    for line in lines[:20]:
        place = re.match(r"[^\W\d_][^,.;:]{1,40},\s+(?=.*[–—-])", line.words)
        found = find_date(line.words[place.end() :]) if place else None
        if place and found and found[1] == 0 and re.match(r"[\s.)]*[–—-]", line.words[place.end() + found[2] :]):
            return found[0]
    return None


def _page_lines(root: HtmlElement, base: str) -> list[Line]:
    """The page's paragraphs as lines; a blank line between any two that are not items of one list."""
    lines: list[Line] = []
    for each in _parted(paragraphs([root], base)):
        if each.heading and month_of(each.words):
            continue  # parts a list of news by months, and is no title
        if each.apart and lines:
            lines.append(Line(number=each.line))
        mark = "#" * each.heading or ("_" if each.strong and not MORE.fullmatch(each.words) else "")
        indent = len(each.rest)
        if each.first != each.rest and not mark:
            mark, indent = ("1" if each.first.strip()[0].isdigit() else "•"), len(each.first) - 2
        said = f"**{each.markdown}**" if each.heading and "**" not in each.markdown else each.markdown
        day = date.fromisoformat(each.day) if each.day else None
        words = clean_line(each.words)
        lines.append(Line(number=each.line, indent=indent, mark=mark, words=words, day=day, said=said, urls=each.urls))
    return lines


# --- past newsletters ---


def _drop_farewell(root: HtmlElement) -> None:
    """Takes out the box around the way to leave a mailing list: addresses, why one gets it, whose it is."""
    whole = len(root.text_content())
    leaves = [each for each in root.iter("*") if _LEAVES.search(f"{each.text or ''} {each.get('href') or ''}")]
    for leaf in leaves:
        box = leaf
        for each in leaf.iterancestors():
            long = _longer(each, min(1500, whole // 3))
            if each.tag in ("body", "html") or long or any(inner.tag in _TITLES for inner in each.iter()):
                break
            box = each
        if box.getparent() is not None:
            box.drop_tree()


_LEAVES = re.compile(LEAVE, re.IGNORECASE)


def _bulletin(root: HtmlElement, head: _Head, name: str, base: str, *, day: date | None) -> list[Clipping]:
    """The stories of a past newsletter: a mail's layout in tables is opened first."""
    for element in list(root.iter("*")):
        size = _SIZE.search(element.get("style") or "")
        if element.tag in ("table", "tbody", "tr", "td") and not any(each.tag == "th" for each in element.iter()):
            element.tag = "div"
        if "source" in (element.get("class") or "").lower().split() and len(element_line(element)) <= 100:
            element.text = f"Source: {element.text or ''}"
        if size and float(size[1]) >= 18 and element.tag in ("div", "p", "span", "font") and _plain_line(element):
            element.tag = "h5" if float(size[1]) >= 24 else "h6"
    title = next((clean_line(each.text_content()) for each in root.iter("title")), "")
    found = find_date(title)
    return read_bulletin(_page_lines(root, base), name, day or head.date or (found[0] if found else None))


_SIZE = re.compile(r"font-size:\s*([0-9]{1,3}(?:\.[0-9]+)?)px")


_INLINE = ("a", "b", "strong", "i", "em", "span", "font", "br")


def _plain_line(element: HtmlElement) -> bool:
    """Whether an element is one short line of words."""
    inline = all(each is element or each.tag in _INLINE for each in element.iter())
    return inline and not _longer(element, 200) and not any(each.tag in _TITLES for each in element.iterancestors())


def _parted(found: Sequence[Paragraph]) -> Iterator[Paragraph]:
    """The paragraphs, and a first line that is bold or a link, with a `<br>` behind it, as one of its own: mails use
    it so."""
    for each in found:
        first, *rest = each.markdown.split("\\\n")
        if rest and not each.heading and re.fullmatch(r"\*\*[^*]+\*\*|\[[^\]]+\]\([^)\s]+\)", first):
            title, _, text = each.words.partition("\n")
            linked = first.startswith("[")
            yield replace(each, words=title, markdown=first, strong=True, urls=each.urls[:1] if linked else ())
            body = replace(each, words=text, markdown="\\\n".join(rest), first=each.rest, strong=False, apart=True)
            yield replace(body, urls=each.urls[1:] if linked else each.urls)
        else:
            yield each
