"""Plain text and HTML from outside as the Markdown of a summary.

Whatever comes in is only words: characters that Markdown would take for more are escaped, and no others, since an
editor will read the result. HTML is taken apart here and not by markdownify, because pages.py needs the paragraphs one
by one, pages nest deeper than Python can recurse, and markdownify escapes either too little or too much.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from html import unescape

import lxml.html
from lxml import etree
from lxml.html import HtmlElement

from newsletter.content.prose import clean, clean_line, clean_url
from newsletter.shape import UNPRINTABLE

# --- escaping ---

# While a text is put together, control characters (which no clean text holds) stand for the Markdown that is meant.
_STRONG, _STRONG_END, _EM, _EM_END, _MARK2, _MARK1, _LINK, _URL, _URL_END, _CELL = (
    "\x01\x02\x03\x04\x05\x06\x0e\x0f\x10\x11"
)

_SIGNS = re.compile(f"{_URL}[0-9]+{_URL_END}|[\x01-\x06\x0e-\x11]")

_INLINE = re.compile(
    r"\\(?=[\x01-\x11!-/:-@\[-`{-~]|$)"  # a backslash that would escape something
    r"|`"
    r"|(?P<run>\*+|_+|~~+)"
    r"|<(?=[A-Za-z/!?])"  # a tag
    r"|&(?=#?[A-Za-z0-9]+;)"  # an entity
    r"|\](?=\()"  # a link
)
_START = re.compile(
    r"(#{1,6}|[-+*]|[0-9]{1,9}[.)])(?=\s|$)"  # a heading, an item
    r"|>|~~~|\[[^\]]+\]:"  # a quote, a fence, the target of a link
    r"|(=+|-+)\s*$|([-*_])[ \t]*(\3[ \t]*){2,}$"  # an underline, a rule
)


def escape(text: str) -> str:
    """One line of plain text as Markdown that reads the same; only what would be taken for markup gets a backslash."""

    def inline(match: re.Match[str]) -> str:
        run = match["run"]
        if not run:
            return f"\\{match[0]}"
        before, after = text[: match.start()][-1:] or " ", text[match.end() :][:1] or " "
        blank = before.isspace() and after.isspace()
        inside = run[0] == "_" and before.isalnum() and after.isalnum()
        return run if blank or inside else "".join(f"\\{sign}" for sign in run)

    escaped = _INLINE.sub(inline, text)
    start = _START.match(escaped)
    if not start:
        return escaped
    at = len(start[0]) - 1 if start[0][0].isdigit() else 0
    return f"{escaped[:at]}\\{escaped[at:]}"


def paragraph(lines: Iterable[str]) -> str:
    """Lines of plain text as one paragraph of Markdown."""
    return escape(clean_line(" ".join(lines)))


def keep_markdown(lines: Iterable[str]) -> str:
    """Lines of a text that is Markdown already as one paragraph: only tags and entities lose their meaning."""
    return _no_slots(
        re.sub(r"<(?=[A-Za-z/!?])(?!https?:)|&(?=#?[A-Za-z0-9]+;)", r"\\\g<0>", clean_line(" ".join(lines)))
    )


def plain_markdown(text: str) -> str:
    """Plain text as Markdown: blank lines part paragraphs, lines inside them are joined."""
    paragraphs = (paragraph(part.split("\n")) for part in re.split(r"\n[ \t]*\n", re.sub(r"\r\n?", "\n", text)))
    return _no_slots("\n\n".join(each for each in paragraphs if each))


def _no_slots(markdown: str) -> str:
    """Also where markup stands between the two signs, since the plain-text part of a message drops it."""
    return re.sub(r"@(?=[*_\\\[\]]*@)", "@\u2060", markdown)


_MARKS = re.compile(
    r"\\([!-/:-@\[-`{-~])"  # an escaped sign stays
    r"|(?m:^[ \t]*(?:>[ \t]?)+)|(?m:^[ \t]*(?:-|[0-9]{1,9}\.)[ \t]+)|\\(?=\n)"  # quotes, items, line ends
    r"|(?<!\s)\*{1,3}|\*{1,3}(?!\s)|\[|\](?:\([^\s()]*\))?"  # bold, italics, links
)


def markdown_words(markdown: str) -> str:
    """The words of Markdown that was written here, as one line."""
    return clean_line(_MARKS.sub(r"\1", markdown))


# --- HTML ---

_DROPPED = frozenset(
    {"script", "style", "noscript", "template", "head", "title", "iframe", "object", "embed", "svg", "math", "canvas"}
    | {"video", "audio", "map", "form", "input", "button", "select", "textarea", "option", "img", "picture", "dialog"}
)
DAY = "newsletter-day"
"""An element of ours, put into pages in the place of a date: `<newsletter-day date="2017-11-19">`."""
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_BLOCKS = _HEADINGS | frozenset(
    {"p", "div", "section", "article", "main", "header", "footer", "aside", "nav", "figure", "figcaption", "ul", "ol"}
    | {"li", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tfoot", "tr", "blockquote", "pre", "hr", DAY}
    | {"address", "details", "summary", "fieldset", "center", "body", "html"}
)
_INLINE_MARKS = {
    "b": (_STRONG, _STRONG_END),
    "i": (_EM, _EM_END),
}


def parse_html(text: str) -> HtmlElement:
    """The document in a text; of broken HTML whatever can be read. Never raises.

    Where elements nest deeper than libxml2 follows (2048 levels), all but the plainest tags are dropped, so that no
    word is.
    """
    text = re.sub("[\x00\ud800-\udfff]", "", text)
    root, whole = _parsed(text)
    return root if whole else _parsed(re.sub(rf"<(?!/?(?:{_PLAINEST})\b)[^>]*>", " ", text))[0]


_TAG = re.compile(r"<[A-Za-z/!?]")
_PLAINEST = "p|br|a|li|h[1-6]|time|script|style"


def _parsed(text: str) -> tuple[HtmlElement, bool]:
    parser = lxml.html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True)
    try:
        root = lxml.html.document_fromstring(text.encode(), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError):
        return lxml.html.document_fromstring(b"<html><body></body></html>"), True
    return root, not any(error.type_name == "ERR_RESOURCE_LIMIT" for error in parser.error_log)


def html_line(html: str) -> str:
    """The words of a bit of HTML as one clean line."""
    if not _TAG.search(html):
        return clean_line(unescape(html))
    return element_line(parse_html(f"<div>{html}</div>"))


def element_line(element: HtmlElement) -> str:
    """An element's words as one clean line. A `<br>` or a block parts words; scripts and the like say nothing."""
    parts: list[str] = []
    walker = etree.iterwalk(element, events=("start", "end"))
    for event, each in walker:
        edge = " " if each.tag in _BLOCKS or each.tag in ("br", "td", "th") else ""
        if event == "start":
            parts.append(edge)
            if each.tag in _DROPPED or each.tag == DAY:
                walker.skip_subtree()
            else:
                parts.append(each.text or "")
        else:
            parts.append(edge + ((each.tail or "") if each is not element else ""))
    return clean_line("".join(parts))


def html_markdown(html: str, base: str = "") -> str:
    """A bit of HTML (of a feed's entry) as clean Markdown; `base` is what its links are relative to."""
    if not _TAG.search(html):
        return plain_markdown(unescape(html))
    return elements_markdown([parse_html(f"<div>{html}</div>")], base)


def elements_markdown(elements: Iterable[HtmlElement], base: str = "", *, leave_out: Iterable[HtmlElement] = ()) -> str:
    """Elements of a page as clean Markdown: bold, italics, links, lists and quotes stay, headings become bold
    paragraphs, the cells of a table's row stand in one line, pictures and programs go."""
    return markdown_of(paragraphs(elements, base, leave_out=leave_out))


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """One paragraph of a page. `first` and `rest` are what its lines begin with in Markdown: marks of lists and
    quotes."""

    words: str  # plain; a line end for each <br>
    markdown: str
    first: str = ""
    rest: str = ""
    heading: int = 0  # 1 to 6 for h1 to h6
    strong: bool = False  # all of it is bold, or is a link
    urls: tuple[str, ...] = ()  # what it links to
    day: str = ""  # a `DAY` element's date
    apart: bool = True  # no item right under another one
    line: int = 0


def paragraphs(
    elements: Iterable[HtmlElement], base: str = "", *, leave_out: Iterable[HtmlElement] = ()
) -> list[Paragraph]:
    """The paragraphs of elements of a page, in order."""
    writer = _Writer(base, set(leave_out))
    for element in elements:
        writer.walk(element)
    writer.flush()
    return writer.paragraphs


def markdown_of(paragraphs: Iterable[Paragraph]) -> str:
    """Paragraphs as one Markdown text."""
    written = ""
    before = None
    for each in paragraphs:
        if before:
            quoted = each.rest.rstrip() if ">" in each.rest and ">" in before.rest else ""
            written += f"\n{quoted}\n" if each.apart else "\n"
        text = f"**{each.markdown.replace('**', '')}**" if each.heading else each.markdown
        written += each.first + text.replace("\n", f"\n{each.rest}")
        before = each
    return _no_slots(written)


@dataclass(kw_only=True)
class _Level:
    """A list, an item or a quote around the text."""

    kind: str
    number: int = 1
    marker: str = ""  # of an item, until its first line has been written
    indent: str = ""
    typed: bool = False  # not by an element of its own


class _Writer:
    """Takes a page apart into paragraphs while it is walked; a class, because the open levels and links go everywhere.

    Walked, not recursed into: pages nest deeper than Python's stack.
    """

    def __init__(self, base: str, leave_out: set[HtmlElement]) -> None:
        self.base, self.leave_out = base, leave_out
        self.paragraphs: list[Paragraph] = []
        self.pieces: list[str] = []
        self.urls: list[str] = []
        self.levels: list[_Level] = []
        self.listed = False  # whether the last paragraph stands in a list
        self.line = 0

    def walk(self, root: HtmlElement) -> None:
        walker = etree.iterwalk(root, events=("start", "end"))
        for event, element in walker:
            if event == "start":
                if element.tag in _DROPPED or element in self.leave_out or _hidden(element):
                    if element.tag in _BLOCKS:
                        self.flush()
                    walker.skip_subtree()
                    self.leave_out.add(element)
                else:
                    self.start(element)
                    self.say(element.text, preformatted=element.tag == "pre")
            else:
                if element not in self.leave_out:
                    self.end(element)
                if element is not root:
                    self.say(element.tail)

    def say(self, text: str | None, *, preformatted: bool = False) -> None:
        if text and preformatted:
            self.pieces.append("\n".join(clean(line) for line in text.split("\n")))
        elif text:
            self.pieces.append(clean(re.sub(r"\s+", " ", text)))

    def start(self, element: HtmlElement) -> None:
        tag = element.tag
        if tag in _BLOCKS:
            self.flush()
            self.line = int(element.sourceline or self.line)
        if tag == "br":
            self.pieces.append("\n")
        elif mark := _weight(element):
            self.pieces.append(_INLINE_MARKS[mark][0])
        elif tag == "a" and _link(element.get("href") or "", self.base):
            self.pieces.append(_LINK)
        elif tag in ("ul", "ol"):
            self.listed = self.listed and any(level.kind == "li" for level in self.levels)  # a new list begins apart
            start = element.get("start") or ""
            self.levels.append(_Level(kind=tag, number=int(start) if re.fullmatch("[0-9]{1,6}", start) else 1))
        elif tag == "li":
            owner = next((level for level in reversed(self.levels) if level.kind in ("ul", "ol")), None)
            if owner:  # an item without its list is but a block
                marker = f"{owner.number}. " if owner.kind == "ol" else "- "
                owner.number += 1
                self.levels.append(_Level(kind="li", marker=marker, indent=" " * len(marker)))
        elif tag == "blockquote":
            self.levels.append(_Level(kind="blockquote", indent="> "))

    def end(self, element: HtmlElement) -> None:
        tag = element.tag
        if tag in _HEADINGS:
            self.flush(heading=int(tag[1]))
        elif tag == DAY:
            above = next((each for each in element.iterancestors() if each.tag in _HEADINGS), None)
            alone = above is not None and not element_line(above)
            self.flush(day=element.get("date") or "", heading=int(above.tag[1]) if above is not None and alone else 0)
        elif tag in _BLOCKS:
            self.flush()
        if mark := _weight(element):
            self.pieces.append(_INLINE_MARKS[mark][1])
        elif tag == "a":
            url = _link(element.get("href") or "", self.base)
            if url:
                self.pieces.append(f"{_URL}{len(self.urls)}{_URL_END}")
                self.urls.append(url)
        elif tag in ("td", "th"):
            self.pieces.append(_CELL)
        elif self.levels and self.levels[-1].kind == tag:
            self.levels.pop()

    def flush(self, *, heading: int = 0, day: str = "") -> None:
        text = "".join(self.pieces)
        self.pieces.clear()
        for raw in re.split(r"\s*\n\s*\n\s*", text):
            part = re.sub(r"[^\S\n]+", " ", _cells(raw)).strip()
            markdown = self.inline(part)
            words = _SIGNS.sub("", part)
            if markdown:
                bullet = None if heading or self.levels else _BULLET.match(markdown)
                if bullet and not _START.match(markdown[bullet.end() :]):  # typed, as Word writes its lists
                    words, markdown = words[bullet.end() :], markdown[bullet.end() :]
                    self.levels.append(_Level(kind="li", marker="- ", indent="  ", typed=True))
                strong = bool(
                    re.fullmatch(f"{_STRONG}[^{_STRONG_END}]*{_STRONG_END}|{_LINK}[^{_URL_END}]*{_URL_END}", part)
                )
                urls = tuple(self.urls[int(number)] for number in re.findall(f"{_URL}([0-9]+){_URL_END}", part))
                self.write(words, markdown, heading=heading, day=day, strong=strong, urls=urls)
                if self.levels and self.levels[-1].typed:
                    self.levels.pop()

    def inline(self, text: str) -> str:
        """The Markdown of one paragraph: what is meant as markup is written, everything else escaped."""
        text = _paired_links(text)  # first, since a link around nothing would hide that two marks touch
        for start, end, mark in ((_EM, _EM_END, _MARK1), (_STRONG, _STRONG_END, _MARK2)):
            text = re.sub(f"{start}([^{start}{end}]*){end}", partial(_emphasis, mark), text)
        # Half a pair is left where bold or italics reach over several paragraphs: the words stay, the mark goes.
        text = re.sub(f"[{_STRONG}{_STRONG_END}{_EM}{_EM_END}]", "", text)
        text = "\\\n".join(escape(line.strip()) for line in text.split("\n") if line.strip())
        text = re.sub(f"(!?){_LINK}([^{_URL}]*){_URL}([0-9]+){_URL_END}", self.linked, text)
        return text.replace(_MARK2, "**").replace(_MARK1, "*")

    def linked(self, match: re.Match[str]) -> str:
        words = re.sub(r"(\\.)|[\[\]]", lambda sign: sign[0] if sign[1] else f"\\{sign[0]}", match[2])
        before = "\\!" if match[1] else ""  # else the link would be a picture
        return f"{before}[{words}]({self.urls[int(match[3])]})"

    def write(self, words: str, markdown: str, *, heading: int, day: str, strong: bool, urls: tuple[str, ...]) -> None:
        item = any(level.marker for level in self.levels)
        self.paragraphs.append(
            Paragraph(
                words=words,
                markdown=markdown,
                first="".join(level.marker or level.indent for level in self.levels),
                rest="".join(level.indent for level in self.levels),
                heading=heading,
                strong=strong,
                urls=urls,
                day=day,
                apart=not (item and self.listed),
                line=self.line,
            )
        )
        for level in self.levels:
            level.marker = ""
        self.listed = any(level.kind == "li" for level in self.levels)


_BULLET = re.compile(r"[•‣▪·]\s+(?=\S)")


def _paired_links(text: str) -> str:
    """The text without the beginnings of links that never end, ends that never began, and links around nothing."""
    parts = re.split(f"({_LINK}|{_URL}[0-9]+{_URL_END})", text)  # every second one is a mark
    begun: int | None = None
    for number in range(1, len(parts), 2):
        around = begun is not None and any(_SIGNS.sub("", part).strip() for part in parts[begun + 1 : number])
        if parts[number] == _LINK or not around:
            if begun is not None:
                parts[begun] = ""
            if parts[number] != _LINK:
                parts[number] = ""
        begun = number if parts[number] == _LINK else None
    if begun is not None:
        parts[begun] = ""
    return "".join(parts)


def _link(href: str, base: str) -> str | None:
    """What a link in a summary may lead to: a page or a mailbox."""
    if re.fullmatch(r"mailto:[^\s<>\"()\\]+", href, re.IGNORECASE) and "@@" not in href:
        return UNPRINTABLE.sub("", href)
    url = None if href.startswith("#") else clean_url(href, base)
    return url and url.replace("(", "%28").replace(")", "%29")


def _hidden(element: HtmlElement) -> bool:
    style = (element.get("style") or "").replace(" ", "").lower()
    return "hidden" in element.attrib or bool(_UNSEEN.search(style) or _ABOUT.search(element.get("class") or ""))


_UNSEEN = re.compile(r"display:none|visibility:hidden|mso-hide:all|max-height:0(?:px)?(?:;|$)")
_ABOUT = re.compile(r"\bfield--name-(?:title|uid|created)\b")  # Drupal's feeds put them before each text


def _weight(element: HtmlElement) -> str:
    """The mark of an element that makes its words bold or slanted: "b", "i", or "". A style comes before the tag."""
    style = (element.get("style") or "").replace(" ", "").lower()
    bold = re.search(r"font-weight:(bold|[6-9]00)?", style)
    tag = element.tag
    if tag in ("b", "strong", "span", "font") and (bold or tag in ("b", "strong")):
        return "b" if not bold or bold[1] else ""
    return "i" if tag in ("i", "em") else ""


def _cells(text: str) -> str:
    """A table's row in one line: its cells, parted by a dot."""
    return re.sub(rf"\s*{_CELL}[\s{_CELL}]*", " · ", text.strip(f" \n{_CELL}")) if _CELL in text else text


def _emphasis(mark: str, match: re.Match[str]) -> str:
    """The words between two marks, the words alone where Markdown sees no pair in the marks (CommonMark §6.2)."""
    words = match[1].strip()
    lead, trail = match[1][: len(match[1]) - len(match[1].lstrip())], match[1][len(match[1].rstrip()) :]
    before = _SIGNS.sub("", match.string[max(0, match.start() - 20) : match.start()])[-1:]
    after = _SIGNS.sub("", match.string[match.end() : match.end() + 20])[:1]
    again = match.string[: match.start()][-1:] in (_STRONG_END, _EM_END)  # `**a****b**` would be read otherwise
    opens = bool(words) and not again and (bool(lead) or not before.isalnum() or words[0].isalnum())
    closes = bool(words) and (bool(trail) or not after.isalnum() or words[-1].isalnum())
    return f"{lead}{mark}{words}{mark}{trail}" if opens and closes else match[1]
