"""Plain-text listings of news: a title, a date, some paragraphs, and again. What has no date becomes a standing block.

Nobody writes such a listing to a rule, so the rule is looked for in the listing itself. The dates are found first;
whether titles stand above or below them is put to the vote; the marks that dated titles carry (a bullet, a #, an
underline, or just less indentation) tell which other lines are titles too. A line that merely mentions a date is
nobody's heading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import dropwhile, pairwise, takewhile

from newsletter.content.dates import find_date, parse_date
from newsletter.content.markup import keep_markdown, paragraph
from newsletter.content.prose import Clipping, Clippings, clean, clean_line, clean_url, refuse
from newsletter.errors import Where

_TITLE = 200  # characters; longer than any headline, shorter than any paragraph worth the name


def read_listing(text: str, name: str) -> Clippings:
    """The stories and blocks of a listing, in its order. CollectError where no line in it is, begins or ends with a
    date.

    Text above the first title is no story: it comes back with a `problem`. The first line that is a link and nothing
    else becomes a story's url, a line "Source: …" its source; both leave the summary.
    """
    stories = read_lines(text_lines(text), name)
    if not stories:
        help = "each story needs a line with its date (19 November 2017) under or above its title; or add it by hand"
        raise refuse(
            "no-stories", Where(path=name), "holds no line that is a date: nothing here looks like a story", help
        )
    return Clippings(stories=tuple(stories))


def read_lines(lines: Sequence[Line], name: str) -> list[Clipping]:
    """What `read_listing` finds in a text's lines, or in those of a page; nothing where there is no dated title."""
    headings = _headings(lines)
    if not any(heading.day for heading in headings):
        return []
    entries = _spread(headings, lines)
    ends = _ends(headings, len(lines))
    write = keep_markdown if any(line.mark.startswith("#") and not line.said for line in lines) else paragraph
    stories = [clipping_of(lines, heading, ends[heading.top], name, write) for heading in entries]
    above = [line for line in lines[: entries[0].top] if line.words]
    if above:
        problem = "stands above the first story"
        where = Where(path=name, line=above[0].number)
        stories.insert(0, Clipping(title=clean_line(above[0].words), problem=problem, where=where))
    return stories


# --- lines ---


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a text, or one paragraph of a page.

    `mark` is what it begins with or is set off by: a bullet, "1" for any number, #, ##, "=" or "~" for an underline,
    "_" for bold, "^" for capitals, "/" for standing at the head of a part. A page's line also has its Markdown and its
    links.
    """

    number: int
    indent: int = 0
    mark: str = ""
    words: str = ""  # without the mark; "" for a blank line and for a rule
    rule: bool = False
    day: date | None = None  # the line is this date and nothing else
    said: str = ""  # Markdown; "" where the words are still to be escaped
    urls: tuple[str, ...] = ()

    @property
    def heading(self) -> bool:
        """Marked in a way in which only titles are."""
        return self.mark[:1] in ("#", "=", "~", "_", "^", "/")

    @property
    def bullet(self) -> bool:
        return bool(self.mark) and not self.heading

    @property
    def column(self) -> int:
        """Where the words begin."""
        return self.indent + (2 if self.bullet else 0)


_RULE = re.compile(r"\s*([-*_=~–—•#])(\s*\1){2,}\s*")
_BULLET = re.compile(r"(\s*)(?:([•‣◦▪■□●○►▸➤➢∙·])\s*|([-*+–—])\s+|([0-9]{1,3}[.)])\s+)(?=\S)")
_HASHES = re.compile(r"(\s{0,3})(#{1,6})\s+(.*?)\s*#*")
_BOLD = re.compile(r"(\s*)(\*\*|__)(.+)\2")


_MONTH = re.compile(r"(?i)\W*([^\W\d_]{3,10}\.?,?\s+(?:de\s+|del\s+)?[0-9]{4})\W*")
_IN_MONTH = re.compile(r"(\W*)(?:[^\W\d_]{3,9}\.?,?\s+)?([0-9]{1,2})(?:st|nd|rd|th)?\s*(?:[:.)–—-])\s+(\S.*)")


def month_of(words: str) -> str:
    """The month and year that are all a line says, "" where it says anything else."""
    heading = _MONTH.fullmatch(words)
    return heading[1] if heading and parse_date(f"1 {heading[1]}") else ""


def text_lines(text: str) -> list[Line]:
    lines: list[Line] = []
    month, month_at = "", -1
    for number, raw in enumerate(text.split("\n"), 1):
        line = clean(raw.expandtabs(4)).rstrip()
        if heading := month_of(line):
            month, month_at = heading, len(lines)
        elif (dated := _IN_MONTH.fullmatch(line)) and parse_date(f"{dated[2]} {month}"):
            line = f"{dated[1]}{dated[2]} {month}: {dated[3]}"
            if month_at >= 0:
                lines[month_at] = Line(number=lines[month_at].number)
                month_at = -1
        if _RULE.fullmatch(line):
            if _underlines(line.strip(), lines):
                lines[-1] = replace(lines[-1], mark="=" if line.strip()[0] == "=" else "~")
            else:
                lines.append(Line(number=number, rule=True))
            continue
        read = _read_line(line, number)
        dateline = None if read.day or read.mark or len(line) > _TITLE else _dateline(read.words)
        if dateline:
            day, byline = dateline
            alone = bool(lines) and not lines[-1].words  # a place, then, says nothing of a title above
            byline = "" if alone and not byline.lower().startswith(_BY) else byline
            lines.append(replace(read, words=day.isoformat(), day=day))
            read = Line(number=number, indent=read.indent, words=byline)
        lines.append(read)
    return lines


_BYLINE = re.compile(
    r"(?i:(?:posted |published |written |publicado )?(?:by|por))\s\S.{0,60}"  # by Ann Other
    r"|[A-ZÁÉÍÓÚÑ][^\W\d_]+(?: [A-ZÁÉÍÓÚÑ][^\W\d_]+){0,2}"  # Lima
)


_BY = ("by ", "por ", "posted by ", "published by ", "written by ", "publicado por ")


def _dateline(words: str) -> tuple[date, str] | None:
    """The date of a line that says no more than when and by whom or where, and these other words of it."""
    found = find_date(words)
    if not found:
        return None
    day, start, end = found
    before, after = words[:start].rstrip(), words[end:]
    rest = re.sub(r"\s+(?:on|el)$", "", (before or after).strip(_BETWEEN))
    person = rest.lower().startswith(_BY)
    place = before.endswith(",") and rest[:1].isupper()
    return (day, rest) if (person or place) and _BYLINE.fullmatch(rest) and not (before and after.strip(" .")) else None


def _read_line(line: str, number: int) -> Line:
    indent = len(line) - len(line.lstrip())
    words = line.strip()
    day = parse_date(words)
    mark = ""
    if match := _HASHES.fullmatch(line):
        mark, words = match[2], match[3]
    elif match := _BOLD.fullmatch(line):
        mark, words = "_", match[3].strip()
    elif not day and (match := _BULLET.match(line)):
        mark, words = match[2] or match[3] or "1", line[match.end() :].strip()
    return Line(number=number, indent=indent, mark=mark, words=words, day=day or parse_date(words.strip("*_ ")))


def _underlines(rule: str, lines: Sequence[Line]) -> bool:
    """Whether a row of signs is the underline of the line above it, not a rule under a paragraph."""
    above = lines[-1] if lines else None
    if above is None or not above.words or above.heading or above.words.endswith(".") or rule[0] not in "=-~_":
        return False
    alone = len(lines) < 2 or not lines[-2].words
    return abs(len(rule) - len(above.words)) <= 3 or (alone and len(above.words) <= 80)


# --- headings ---


@dataclass(frozen=True, kw_only=True)
class Heading:
    """The head of one entry: `title` is the slice of lines that it stands in, the body the lines of `body` up to the
    next."""

    title: tuple[int, int]
    day: date | None = None
    words: str = ""  # where the title is only a part of its line
    top: int  # the first line of the entry
    body: int  # the first line that may be body
    omit: int = -1  # a line of the body that is the date


def _headings(lines: Sequence[Line]) -> list[Heading]:
    """The head of every entry, in order."""
    alone = _dates_alone(lines)
    marked = [heading for heading in alone if lines[heading.title[0]].mark]
    if len(marked) * 2 > len(alone):
        alone = marked  # under another line a date is part of a text: "The hearing is on:"
    beside = _dates_beside(lines)
    first, second = (alone, beside) if len(alone) >= len(beside) else (beside, alone)
    marks = _marks(lines, first)
    taken = _taken(first)
    for heading in second:  # the rarer form counts only with the marks of the other
        line = lines[heading.title[0]]
        if (
            taken.isdisjoint(range(heading.top, heading.body))
            and line.mark in marks
            and line.indent <= marks[line.mark]
            and not _in_list(lines, heading.title[0])
        ):
            first.append(heading)
    if len(first) == 1:
        marks |= _inner_marks(lines, first[0])
    return sorted([*first, *_undated(lines, first, marks)], key=lambda heading: heading.top)


def _taken(headings: Iterable[Heading]) -> set[int]:
    """The lines that are part of a head."""
    return {number for heading in headings for number in (*range(heading.top, heading.body), heading.omit)}


def _ends(headings: Iterable[Heading], last: int) -> dict[int, int]:
    """The line at which each entry ends, by the line at which it begins."""
    tops = sorted(heading.top for heading in headings)
    return dict(pairwise([*tops, last]))


def _neighbour(lines: Sequence[Line], at: int, step: int) -> int:
    """The nearest line of words above or below a line with at most two blank lines between, or -1."""
    for number in range(at + step, at + 4 * step, step):
        if not 0 <= number < len(lines) or lines[number].rule:
            return -1
        if lines[number].words:
            return number if not lines[number].day else -1
    return -1


def _likeness(lines: Sequence[Line], at: int) -> int:
    """How much a line looks like a title."""
    if at < 0:
        return 0
    line = lines[at]
    short = len(line.words) <= 140 and not re.search(r"[.,;:]$", line.words) and not is_meta(line.words)
    inside = at > 0 and lines[at - 1].words and not lines[at - 1].day and not wraps(lines, at - 1)
    tail = inside and not line.mark  # the last line of a paragraph, rather
    return (2 if line.mark else 0) + (2 if line.heading else 0) + (1 if short else 0) - (1 if tail else 0)


def _dates_alone(lines: Sequence[Line]) -> list[Heading]:
    """The heads whose date has a line of its own, above or below the title, whichever fits this listing better."""
    days = [number for number, line in enumerate(lines) if line.day]
    words = [number for number, line in enumerate(lines) if line.words]
    below = above = 0  # votes for titles below, above their dates
    for at in days:
        before, after = _neighbour(lines, at, -1), _neighbour(lines, at, 1)
        outdented = before >= 0 and lines[before].indent < lines[at].indent
        above += 2 * _likeness(lines, before) + (at - before == 1) + (3 if outdented else 0)
        below += 2 * _likeness(lines, after) + (after - at == 1) + (6 if lines[at].mark else 0)
    if days and days[0] == words[0]:
        below += 3
    elif days and days[0] - 1 == words[0]:
        above += 3
    found = [_head_above(lines, at) if above >= below else _head_below(lines, at) for at in days]
    return [heading for heading in found if heading]


def _head_above(lines: Sequence[Line], at: int) -> Heading | None:
    last = _neighbour(lines, at, -1)
    marked = next((number for number in range(at - 1, -1, -1) if lines[number].mark or lines[number].day), -1)
    if marked >= 0 and marked < last and lines[marked].heading and _likeness(lines, last) <= 1:
        # A byline, or the whole body, stands between the title and its date.
        return Heading(title=(marked, marked + 1), day=lines[at].day, top=marked, body=marked + 1, omit=at)
    if last < 0 or len(lines[last].words) > _TITLE:
        return None
    first = last
    while first > 0 and not lines[first].mark and wraps(lines, first - 1):
        first -= 1
    if len(" ".join(line.words for line in lines[first : last + 1])) > _TITLE + 50:
        first = last
    return Heading(title=(first, last + 1), day=lines[at].day, top=first, body=at + 1)


def wraps(lines: Sequence[Line], at: int) -> bool:
    """Whether a line runs on into the next: long, and not the end of a sentence."""
    line = lines[at]
    full = len(line.words) >= 45 and not re.search(r"[.!?:;)\"”»]$", line.words)
    return bool(line.words) and full and not line.day and not is_meta(line.words)


def _head_below(lines: Sequence[Line], at: int) -> Heading | None:
    first = _neighbour(lines, at, 1)
    if first < 0 or len(lines[first].words) > _TITLE:
        return None
    last = first
    while last + 2 < len(lines) and wraps(lines, last) and lines[last + 1].words and not lines[last + 1].mark:
        if lines[last + 2].words or last - first > 1:  # a body follows at once: where the title ends cannot be told
            last = first
            break
        last += 1
    return Heading(title=(first, last + 1), day=lines[at].day, top=at, body=last + 1)


_BETWEEN = " \t—–-|:,;·•"


def _dates_beside(lines: Sequence[Line]) -> list[Heading]:
    """The heads whose title and date share one line: "Title — 19 November 2017", "19/11/2017: Title", "Title
    (19/11/2017)"."""
    found: list[Heading] = []
    for at, line in enumerate(lines):
        date_in = find_date(line.words) if line.words and not line.day and len(line.words) <= _TITLE + 40 else None
        follows = bool(found) and found[-1].body == at  # one such line under the other
        if not date_in or not (line.mark or follows or _begins(lines, at)):
            continue
        day, start, end = date_in
        before, after = line.words[:start], line.words[end:]
        title = (after if start == 0 else before).strip(_BETWEEN)
        bracket = line.words[start] in "(["
        fits = _fits_before(after, title, line) if start == 0 else _fits_after(before, title, line, after)
        if title and any(sign.isalpha() for sign in title) and (fits or bracket) and len(title) <= _TITLE:
            found.append(Heading(title=(at, at + 1), day=day, words=title, top=at, body=at + 1))
    return found


def _begins(lines: Sequence[Line], at: int) -> bool:
    above = lines[at - 1].words if at else ""
    return not above or bool(re.search(r"[.!?…»”\")\]]$", above)) or bool(is_meta(above))


def _fits_before(after: str, title: str, line: Line) -> bool:
    """Whether what follows a date is a title: behind a sign that parts them, or plainly no sentence."""
    if re.match(r"\s*[:|·]|\s+[—–-]|\s{2,}", after):
        return not title.endswith(".") or len(title) <= 100
    return not title.endswith((".", ",")) and (bool(line.mark) or (title[:1].isupper() and after[:1] == " "))


def _fits_after(before: str, title: str, line: Line, after: str) -> bool:
    if after.strip() or title.endswith("."):
        return False
    parted = re.search(r"\s[—–|·-]\s*$|[|·]\s*$|\s{2,}$", before)
    marked = line.mark and re.search(r"[:,—–]\s*$", before)
    return bool(parted or marked or (before.rstrip().endswith(",") and len(title.split()) >= 4))


def _marks(lines: Sequence[Line], headings: Sequence[Heading]) -> dict[str, int]:
    """The marks that titles carry here, each with the deepest indentation at which it makes a title."""
    marks: dict[str, int] = {}
    for heading in headings:
        line = lines[heading.title[0]]
        marks[line.mark] = max(marks.get(line.mark, 0), line.indent)
    ends = _ends(headings, len(lines))
    bodies = [line.indent for each in headings for line in _first_paragraph(lines[each.body : ends[each.top]])]
    if "" in marks and not (bodies and marks[""] < min(bodies)):
        del marks[""]  # titles without a mark are known by standing further left, or not at all
    return marks


def _first_paragraph(body: Sequence[Line]) -> Iterator[Line]:
    """Of an entry only this is sure to be its own: what follows may be an entry without a date."""
    return takewhile(lambda line: line.words, dropwhile(lambda line: not line.words, body))


def _in_list(lines: Sequence[Line], at: int) -> bool:
    """Whether a marked line is one of a run of items, not a title: another such item stands right above or below it."""
    line = lines[at]
    if not line.bullet:
        return False
    for step in (-1, 1):
        number = at + step
        while 0 <= number < len(lines) and abs(number - at) < 100 and lines[number].words and not lines[number].day:
            if lines[number].mark and lines[number].indent <= line.indent:
                break
            number += step
        if 0 <= number < len(lines) and lines[number].bullet and lines[number].indent == line.indent:
            first, second = sorted((at, number))
            if not any(each.day for each in lines[first:second]) and not _opens(lines, first, second):
                return True
    return False


def _opens(lines: Sequence[Line], at: int, following: int) -> bool:
    """Whether a marked line has a body of its own under it, with no blank line before the next mark: a compact
    listing."""
    body = lines[at + 1 : following]
    return (
        bool(body)
        and not body[0].mark
        and len(lines[at].words) <= 100
        and not lines[at].words.endswith(".")
        and body[0].words[:1].isupper()
    )


def _inner_marks(lines: Sequence[Line], head: Heading) -> dict[str, int]:
    """The mark of the titles under the only date there is, which is then the date of a whole newsletter."""
    own = lines[head.title[0]].mark
    found: dict[str, list[int]] = {}
    for at in range(head.body, len(lines)):
        line = lines[at]
        following = _neighbour(lines, at, 1)
        told = following > 0 and not lines[following].mark and not lines[at - 1].words  # with a text of its own
        if line.mark and line.mark != own and _likeness(lines, at) >= 3 and (line.heading or told):
            found.setdefault(line.mark, []).append(line.indent)
    marks = {mark: max(indents) for mark, indents in found.items() if len(indents) > 1}
    first = min(marks, key=len, default="")
    return {first: marks[first]} if marks else {}


def _undated(lines: Sequence[Line], dated: Sequence[Heading], marks: dict[str, int]) -> Iterator[Heading]:
    """Lines that are titles by the marks of the dated ones, or, under the last story, by their looks."""
    if not dated:
        return
    taken = _taken(dated)
    paired = all(_links_below(lines, heading.body - 1) for heading in dated)
    ruled = sum(heading.top > 0 and under_rule(lines, heading.top) for heading in dated) * 2 >= len(dated)
    last = max(heading.body for heading in dated)
    told = next((at for at in range(last, len(lines)) if lines[at].words), last)  # where the last story's text begins
    compact = any(line.words and not line.mark for heading in dated for line in lines[heading.body : heading.body + 1])
    for at, line in enumerate(lines):
        if not line.words or at in taken:
            continue
        ours = line.mark in marks and line.indent <= marks[line.mark]
        if ours and not line.heading:
            ours = _starts_entry(lines, at, compact=compact) and (len(line.words) <= _TITLE)
        looks = not marks and at > told and _looks_like_title(lines, at)
        pair = paired and _links_below(lines, at) and _likeness(lines, at) > 0
        if ours or looks or pair or (ruled and under_rule(lines, at) and _likeness(lines, at) > 0):
            yield Heading(title=(at, at + 1), top=at, body=at + 1)


def _links_below(lines: Sequence[Line], at: int) -> bool:
    """Whether the line below is a link and nothing else."""
    return at + 1 < len(lines) and bool(_LINK.fullmatch(lines[at + 1].words))


def _starts_entry(lines: Sequence[Line], at: int, *, compact: bool) -> bool:
    above = lines[at - 1] if at else None
    if above and above.words and not compact:
        return False
    if not lines[at].mark:
        return not (above and above.words) and _likeness(lines, at) > 0
    following = _neighbour(lines, at, 1)
    if following < 0 or (
        lines[following].bullet and lines[following].indent <= lines[at].indent and not _run(lines, following)
    ):
        return False
    return not _in_list(lines, at)


def _run(lines: Sequence[Line], at: int) -> bool:
    return at + 1 < len(lines) and lines[at + 1].bullet


def under_rule(lines: Sequence[Line], at: int) -> bool:
    while at > 0 and not lines[at - 1].words:
        at -= 1
        if lines[at].rule:
            return True
    return False


def _looks_like_title(lines: Sequence[Line], at: int) -> bool:
    """A short line between blank ones, no sentence, with a longer paragraph under it."""
    line = lines[at]
    following = _neighbour(lines, at, 1)
    alone = at > 0 and not lines[at - 1].words and following > at + 1
    short = len(line.words) <= 80 and not re.search(r"[.,;:]$", line.words) and not is_meta(line.words)
    return (
        alone and short and not line.mark and (len(lines[following].words) > len(line.words) or lines[following].bullet)
    )


def _spread(headings: Sequence[Heading], lines: Sequence[Line]) -> list[Heading]:
    """The entries of the listing, each with its end; undated titles get the date that is meant for them.

    One date above several titles is the date of all: where it is the only one (a past newsletter), or where the listing
    puts several titles under one date elsewhere too. Otherwise an undated title is a block.
    """
    dated = [heading for heading in headings if heading.day]
    groups: list[int] = []
    for heading in headings:
        if heading.day:
            groups.append(0)
        elif groups:
            groups[-1] += 1
    head = lines[dated[0].title[0]]
    if (
        len(dated) == 1
        and len(headings) > 2
        and headings[0] is dated[0]
        and lines[headings[1].title[0]].mark != head.mark
    ):
        return [replace(heading, day=dated[0].day) for heading in headings[1:]]
    dates_first = sum(heading.top < heading.title[0] for heading in dated) * 2 > len(dated)
    if dates_first and (any(groups[:-1]) or (len(groups) == 1 and groups[0])):
        day = None
        spread = []
        for heading in headings:
            day = heading.day or day
            spread.append(replace(heading, day=day))
        return spread
    return list(headings)


# --- bodies ---

SOURCE = re.compile(r"(?:source|fuente)\s*:\s*(.+)", re.IGNORECASE)
_URL = r"<?(https?://[^\s<>]+?)>?[.,]?"
_MORE = (
    r"(?:links?|url|web|website|more(?: info(?:rmation)?)?|full (?:story|text|article)|continue reading|details"
    r"|read (?:more|on|the (?:full )?(?:story|article))|see(?: also)?|available (?:at|from)"
    r"|enlaces?|v[ií]nculo|m[aá]s(?: informaci[oó]n)?|(?:leer|ver) m[aá]s|seguir leyendo|(?:nota|texto) complet[ao])"
)
MORE = re.compile(rf"\W*{_MORE}(?:\s+(?:here|aqu[ií]|about .*|of .*|sobre .*))?\W*", re.IGNORECASE)
"""What a link says that leads to the whole story and tells nothing of it."""
_LINK = re.compile(rf"(?:\[?{_MORE}\]?\s*(?:here|aqu[ií])?\s*[:→»>-]*\s*[(]?)?{_URL}[)]?", re.IGNORECASE)
_MARKDOWN_LINK = re.compile(r"\[([^\[\]]+)\]\((https?://[^\s()]+)\)")


_LABEL = re.compile(r"^(?:title|headline|t[ií]tulo|titular)\s*:\s*(?=\S)", re.IGNORECASE)


def is_meta(words: str) -> bool:
    return bool(_LINK.fullmatch(words) or SOURCE.fullmatch(words))


_Write = Callable[[Iterable[str]], str]


def clipping_of(lines: Sequence[Line], heading: Heading, end: int, name: str, write: _Write) -> Clipping:
    """The entry under a heading, up to the line `end`."""
    words = heading.words or " ".join(line.words for line in lines[slice(*heading.title)])
    linked = _MARKDOWN_LINK.search(words)
    heads = lines[slice(*heading.title)]
    url = clean_url(linked[2]) if linked else next((url for line in heads for url in line.urls), None)
    words = _LABEL.sub("", words)
    title = clean_line(
        re.sub(r"\*\*|__", "", _MARKDOWN_LINK.sub(r"\1", words)) if linked or write is keep_markdown else words
    )
    source = ""
    body: list[Line] = []
    for number in range(heading.body, end):
        line = lines[number]
        if number == heading.omit or line.rule:
            continue
        if line.urls and MORE.fullmatch(line.words):
            url = url or line.urls[0]
            continue
        if url is None and line.said:
            line, url = _without_more(line)
        following = lines[number + 1] if number + 1 < end else None
        if following and line.words.endswith(":") and MORE.fullmatch(line.words) and _LINK.fullmatch(following.words):
            continue  # "Read more:" with its address in the next line
        credit = SOURCE.fullmatch(line.words)
        linked = _MARKDOWN_LINK.fullmatch(line.words) or _LINK.fullmatch(line.words)
        if url is None and linked:
            url = clean_url(linked[linked.lastindex or 0])
            if url:
                continue
        if credit and not source and not line.mark:
            source = clean_line(credit[1])
            continue
        body.append(line)
    title = re.sub(r"^[–—|:·•-]+\s+", "", title)  # what parted it from its date
    where = Where(path=name, line=lines[heading.title[0]].number)
    return Clipping(title=title, date=heading.day, summary=_markdown(body, write), url=url, source=source, where=where)


_LAST_LINK = re.compile(r"\s*\[([^\[\]]+)\]\((https?://[^\s()]+)\)\W*$")


def _without_more(line: Line) -> tuple[Line, str | None]:
    """A paragraph of a page without the "Read more" at its end, and where that leads."""
    link = _LAST_LINK.search(line.said)
    if not link or not MORE.fullmatch(link[1]):
        return line, None
    return replace(line, said=line.said[: link.start()].rstrip("\\\n ")), link[2]


@dataclass(kw_only=True)
class _Part:
    """A paragraph (`depth` 0) or an item of a list under construction."""

    lines: list[Line]
    depth: int = 0
    marker: str = ""
    prefix: str = ""


def _markdown(lines: Sequence[Line], write: _Write) -> str:
    """The lines of a body as Markdown: wrapped lines joined, bullets and numbers as lists, nested as they are
    indented."""
    parts: list[_Part] = []
    open_items: list[tuple[int, str]] = []  # the indentation of each open item's bullet, and its marker
    counts: dict[int, int] = {}  # at each depth, the number of the last item
    joined = False
    for line in lines:
        if not line.words:
            joined = False
        elif line.bullet:
            while open_items and open_items[-1][0] >= line.indent:
                open_items.pop()
            prefix = "".join(" " * len(marker) for _, marker in open_items)
            depth = len(open_items) + 1
            counts = {level: count for level, count in counts.items() if level <= depth}
            counts[depth] = counts.get(depth, 0) + 1 if line.mark == "1" else 0
            open_items.append((line.indent, f"{counts[depth]}. " if line.mark == "1" else "- "))
            parts.append(_Part(lines=[line], depth=depth, marker=open_items[-1][1], prefix=prefix))
            joined = True
        elif line.heading:
            parts.append(_Part(lines=[line], marker="**"))
            open_items.clear()
            counts.clear()
            joined = False
        elif joined:
            parts[-1].lines.append(line)
        else:
            while open_items and line.indent < open_items[-1][0] + 2:
                open_items.pop()
            counts = {level: count for level, count in counts.items() if level <= len(open_items)}
            prefix = "".join(" " * len(marker) for _, marker in open_items)
            parts.append(_Part(lines=[line], depth=len(open_items), prefix=prefix))
            joined = True
    written = ""
    for before, part in zip([None, *parts], parts, strict=False):
        said = part.lines[0].said
        text = said.replace("\n", f"\n{part.prefix}{' ' * len(part.marker)}") or write(
            line.words for line in part.lines
        )
        if part.marker == "**":
            text = text if said else f"**{text}**"
        text = text if part.marker == "**" else f"{part.prefix}{part.marker}{text}"
        tight = before and before.depth and part.depth and part.marker
        written += ("\n" if tight else "\n\n" if before else "") + text
    return written.strip()
