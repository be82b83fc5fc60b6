"""The text part: lines of a readable width, never a broken link."""

from __future__ import annotations

import re
import unicodedata

WIDTH = 72


def wrap(text: str, width: int = WIDTH) -> str:
    """The text with its long lines wrapped. List and quote marks keep their hanging indent; a word, a link or a slot
    is never broken, however long; a line of blanks becomes an empty one."""
    return "\n".join(line for source in text.split("\n") for line in _wrap_line(source, width))


_LEAD = re.compile(r"\s*(?:> )*(?:[-*•] |\d{1,3}\. )?")


def _wrap_line(line: str, width: int) -> list[str]:
    line = line.rstrip()
    if len(line) <= width:
        return [line]
    lead = _LEAD.match(line)
    first = lead[0] if lead else ""
    quoted = first.rfind("> ") + 2 if "> " in first else 0
    rest = first[:quoted] + " " * (len(first) - quoted)
    lines: list[str] = []
    words = line[len(first) :]
    while len(first) + len(words) > width:
        cut = words.rfind(" ", 0, width - len(first) + 1)
        if cut < 0:  # a word that is too long stands alone
            cut = words.find(" ")
        if cut < 0:
            break
        lines.append(first + words[:cut].rstrip(" "))
        words = words[cut:].lstrip(" ")
        first = rest
    return [*lines, first + words]


def underline(text: str, sign: str) -> str:
    """A heading's line: as many signs as the text has columns (wide characters count twice), at most WIDTH."""
    columns = sum(
        2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text if not unicodedata.combining(each)
    )
    return sign * min(columns, WIDTH)
