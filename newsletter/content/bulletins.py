"""A past newsletter: one issue, its stories under headlines, and around them what every mail carries (the name, "View
in browser", contents, the footer). Which headlines are those of stories is told from the lines themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from itertools import pairwise

from newsletter.content.dates import find_date, parse_day
from newsletter.content.listings import MORE, Heading, Line, clipping_of, is_meta, text_lines, wraps
from newsletter.content.markup import paragraph
from newsletter.content.prose import Clipping, clean_line

LEAVE = (
    r"(?:\*\|UNSUB|@@UNSUBSCRIBE|\bunsubscribe\b|\b(?:dar|darse|date) de baja\b|\bdesuscrib\w+"
    r"|\bcancelar (?:la |su |tu )?suscripci[oó]n"
    r"|\b(?:manage|update|change) (?:your |my )?(?:e-?mail )?(?:preferences|subscriptions?)"
    r"|\b(?:cambiar|actualizar) (?:sus |tus )?preferencias|\byou(?:'re|’re| are)? (?:receiv\w+|getting|subscribed)"
    r"|\b(?:recibes?|est[aá]s? recibiendo) este (?:correo|mensaje|bolet[ií]n))"
)
"""What mails to many say at their end: how to leave."""

_FOOT = re.compile(
    rf"{LEAVE}|©|\(c\) ?[12][0-9]{{3}}|\bcopyright\b|all rights reserved|todos los derechos reservados", re.IGNORECASE
)
_FURNITURE = re.compile(
    r"\W*(?:(?:view|read|see|open) (?:this |it |the )?.{0,20}\b(?:in|on) (?:your |a |the )?(?:web )?"
    r"(?:browser|web|online)"
    r"|view online|(?:ver|v[eé]alo|leer|abrir) .{0,30}(?:en|desde) (?:el |su |tu )?(?:navegador|web)"
    r"|(?:having )?(?:trouble|problems) (?:viewing|reading).*|¿?(?:no (?:puede|ve|visualiza)|problemas para ver).*"
    r"|forward (?:this|to a friend).*|reenviar.*|back to (?:the )?top|volver arriba"
    r"|(?:share|tweet|like|pin|e-?mail|facebook|twitter|x|linkedin|instagram|youtube|whatsapp|telegram|compartir|tuitear"
    r"|follow us.*|s[ií]ganos.*|s[ií]guenos.*|[\s·|])+(?: (?:this |on |en )\w+)?)\W*",
    re.IGNORECASE,
)
_CONTENTS = re.compile(
    r"\W*(?:in this (?:issue|edition|newsletter|week)\b.*|(?:table of )?contents"
    r"|en (?:este n[uú]mero|esta edici[oó]n)\b.*|contenidos?|sumario|[ií]ndice)\W*",
    re.IGNORECASE,
)


def is_bulletin(text: str) -> bool:
    """Whether a text says what mails to many say: how to leave them, or where to read them on the web."""
    online = r"view (?:this|it|the) .{0,20}in (?:your|a) (?:web )?browser|ver .{0,30} en (?:el|su|tu) navegador"
    return bool(re.search(f"{LEAVE}|{online}", text, re.IGNORECASE))


def read_bulletin_text(text: str, name: str, day: date | None = None) -> list[Clipping]:
    """`read_bulletin` of a plain text: its headlines are underlined, in capitals, marked, or begin a part."""
    return read_bulletin(_marked(text_lines(text)), name, day)


def read_bulletin(lines: Sequence[Line], name: str, day: date | None = None) -> list[Clipping]:
    """The stories of an issue of that day, or of the day that its head names; nothing where there is no day, or no
    headline with a text.

    A story's own date, on the line under its headline or in the heading of its section, comes before the issue's; where
    stories have such dates, a text without one is a standing text: a block.
    """
    lines = _without_frame(lines)
    day = day or _day_of(lines)
    own = _story_rank(lines)
    if day is None or not own:
        return []
    entries = list(_entries(lines, own, day))
    dated = any(heading.day for heading, _ in entries)
    stories = [_story(lines, heading, end, name, day) for heading, end in entries]
    if not dated:
        stories = [replace(story, date=day) for story in stories]
    if len(stories) > 1 and all(story.title.startswith(f"{at}. ") for at, story in enumerate(stories, 1)):
        stories = [replace(story, title=story.title.partition(". ")[2]) for story in stories]
    above = next((line for line in lines[: entries[0][0].top] if line.words), None) if entries else None
    if above:
        where = replace(stories[0].where, line=above.number)
        stories.insert(0, Clipping(title=clean_line(above.words), problem="stands above the first story", where=where))
    return stories


# --- the frame ---


def _without_frame(lines: Sequence[Line]) -> list[Line]:
    """The lines up to the footer, blank ones in the place of what else mails carry around their stories."""
    first = next((at for at, line in enumerate(lines) if _rank(line)), len(lines))
    kept: list[Line] = []
    for at, line in enumerate(lines):
        foot = line.words == "--" or (len(line.words) <= 400 and bool(_FOOT.search(line.words)))
        if foot and at > first:
            break
        kept.append(Line(number=line.number) if foot or _FURNITURE.fullmatch(line.words) else line)
    return kept


def _day_of(lines: Sequence[Line]) -> date | None:
    """The date in the head of an issue: "Issue 180, 31 March 2015", "No. 5 · Sunday, 19 November 2017"."""
    for line in [line for line in lines if line.words][:15]:
        if day := line.day or _date_in(line.words):
            return day
    return None


def _date_in(words: str) -> date | None:
    parts = re.split(r"[|·•–—]", words) if len(words) <= 120 else []
    return next((found[0] for part in parts if (found := find_date(part))), None)


# --- headlines ---

_RANKS = {"=": 1, "~": 2, "^": 4, "/": 8, "_": 9}  # beside 1 to 6, the levels of headings


def _rank(line: Line) -> int:
    """How much a line weighs as a heading: 1 is the most, 0 is none."""
    heading = line.mark and not line.bullet and len(line.words) <= 250 and re.search(r"\w", line.words)
    return _RANKS.get(line.mark, len(line.mark)) if heading and not MORE.fullmatch(line.words) else 0


def _marked(lines: Sequence[Line]) -> list[Line]:
    """The lines of a text, each headline in one of them, with marks for those that only their place or their letters
    tell: ^ for capitals, / for a line that begins a part, below a heading or a rule."""
    kept: list[Line] = []
    begins = False
    at = 0
    while at < len(lines):
        line = lines[at]
        end = at + 1
        if line.mark in ("=", "~"):
            while kept and kept[-1].words and not kept[-1].mark and wraps(kept, len(kept) - 1):
                line = replace(line, words=f"{kept.pop().words} {line.words}")
        elif (_plain(line) or (line.mark == "1" and begins)) and (not kept or not kept[-1].words):
            capital = _capitals(line.words)
            while end < len(lines) and _plain(lines[end]) and (not capital or _capitals(lines[end].words)):
                end += 1
            words = " ".join(each.words for each in lines[at:end])
            below = next((each for each in lines[end:] if each.words or each.rule), None)
            sentence = re.search(r"[.,;:]$|https?://", words)
            title = len(words) <= 200 and not sentence and below and not below.rule and not below.mark
            if title and (capital or begins):
                line = replace(line, words=words, mark="^" if capital else "/")
            else:
                end = at + 1
        if line.words or line.rule:
            begins = line.rule or line.mark[:1] in ("=", "~", "#", "^")
        kept.append(line)
        at = end
    return kept


def _plain(line: Line) -> bool:
    """Whether a line may be words of a headline that carries no mark."""
    dated = _meta_day(line, date(2000, 1, 1))[0]  # of any year
    return bool(line.words) and not line.mark and not dated and not is_meta(line.words)


def _capitals(words: str) -> bool:
    letters = [sign for sign in words if sign.isalpha()]
    return len(letters) > 3 and all(sign.isupper() for sign in letters)


def _heads(lines: Sequence[Line], deepest: int) -> Iterator[tuple[int, int]]:
    """The headings down to a rank, each with the line at which the next one begins."""
    heads = [at for at, line in enumerate(lines) if 0 < _rank(line) <= deepest]
    return pairwise([*heads, len(lines)])


def _told(lines: Sequence[Line]) -> bool:
    """Whether there is a text, not only dates and links."""
    said = (line for line in lines if line.words and not is_meta(line.words) and not MORE.fullmatch(line.words))
    return not all(map(_dates_issue, said))


def _dates_issue(line: Line) -> bool:
    return bool(line.day or (_date_in(line.words) and len(line.words) <= 80 and not line.words.endswith(".")))


def _story_rank(lines: Sequence[Line]) -> int:
    """The rank of the headlines that most texts stand under; 0 where no text stands under one."""
    counts = Counter(_rank(lines[at]) for at, end in _heads(lines, 9) if _told(lines[at + 1 : end]))
    real = {rank: count for rank, count in counts.items() if rank < 9 and count > 1}  # bold words may be only that
    return max(real or counts, key=lambda rank: (counts[rank], -rank if counts[rank] > 1 else rank), default=0)


def _entries(lines: Sequence[Line], own: int, near: date) -> Iterator[tuple[Heading, int]]:
    """The heads of the stories, each with the line at which it ends. A heading above them that has no text of its own
    is a section's; one that has a text counts as soon as a story has come."""
    day = None  # of the section
    begun = False
    heads = list(_heads(lines, own))
    for at, end in heads:
        line = lines[at]
        told = _told(lines[at + 1 : end])
        if _rank(line) < own:
            day = None if told else parse_day(line.words, near)
        names_issue = not begun and len(heads) > 1 and any(map(_dates_issue, lines[at + 1 : end]))
        linked = bool(line.urls) or any(is_meta(each.words) or each.urls for each in lines[at + 1 : end])
        if _CONTENTS.fullmatch(line.words) or not (told or (linked and _rank(line) == own)):
            continue
        if not begun and (_rank(line) < own or (names_issue and not line.urls)):
            continue
        begun = True
        below = next((number for number in range(at + 1, end) if lines[number].words), -1)
        said = _meta_day(lines[below], near)[0] if below > 0 else None
        yield Heading(title=(at, at + 1), day=said or day, top=at, body=at + 1, omit=below if said else -1), end


def _meta_day(line: Line, near: date) -> tuple[date | None, str]:
    """The day on a line that says when and by whom, and the rest of it: "Valley Voice · Sunday, 19 November"."""
    words = re.sub(r"^(?:source|fuente): ", "", line.words, flags=re.IGNORECASE)
    parts = [part.strip() for part in words.split("·")] if len(words) <= 150 else []
    days = [parse_day(part, near) for part in parts]
    rest = " · ".join(part for part, day in zip(parts, days, strict=True) if not day)
    return line.day or next((day for day in days if day), None), rest


def _story(lines: Sequence[Line], heading: Heading, end: int, name: str, near: date) -> Clipping:
    story = clipping_of(lines, heading, end, name, paragraph)
    source = "" if heading.omit < 0 else _meta_day(lines[heading.omit], near)[1]
    return replace(story, source=story.source or clean_line(source), title=re.sub(r"^\W*\*\*|\*\*$", "", story.title))
