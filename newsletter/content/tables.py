"""Listings with a story in each line, its parts between signs: exported sheets, CSV, Markdown tables."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from newsletter.content.dates import parse_date
from newsletter.content.markup import keep_markdown, paragraph
from newsletter.content.prose import Clipping, clean_line, clean_url
from newsletter.errors import Where

_LINK = re.compile(r"\[([^\[\]]+)\]\((https?://[^\s()]+)\)")


def read_table(text: str, name: str) -> list[Clipping]:
    """The stories of a text whose lines are rows with a date in one cell; nothing where it is no such text.

    The first cell that is neither a date nor an address is the title, what comes behind it the summary.
    """
    for sign in ("\t", "|", ";", ","):
        rows = list(_rows(text, sign))
        dated = [row for row in rows if sum(parse_date(cell) is not None for cell in row[1]) == 1 and len(row[1]) > 1]
        if len(dated) > 1 and len(dated) >= len(rows) - 1:  # all but the names of the columns
            return [_clipping(number, cells, name, sign) for number, cells in dated]
    return []


def _rows(text: str, sign: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line that is more than a rule."""
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip().strip("|") if sign == "|" else line.strip()
        if not re.search(r"\w", bare):
            continue
        cells = (
            next(csv.reader([bare], delimiter=sign, skipinitialspace=True), []) if sign in ",;" else bare.split(sign)
        )
        yield number, [clean_line(cell) for cell in cells]


def _clipping(number: int, cells: list[str], name: str, sign: str) -> Clipping:
    day = next(day for cell in cells if (day := parse_date(cell)))
    words = [cell for cell in cells if cell and not parse_date(cell)]
    urls = [url for cell in words if re.match(r"https?://\S+$", cell) and (url := clean_url(cell))]
    words = [cell for cell in words if not re.match(r"https?://\S+$", cell)]
    title = words[0] if words else ""
    linked = _LINK.search(title)
    write = keep_markdown if sign == "|" else paragraph
    where = Where(path=name, line=number)
    return Clipping(
        title=_LINK.sub(r"\1", title),
        date=day,
        summary=write([f"{sign} ".join(words[1:])])
        if sign in ",;"
        else "\n\n".join(write([cell]) for cell in words[1:]),
        url=(clean_url(linked[2]) if linked else None) or next(iter(urls), None),
        where=where,
    )
