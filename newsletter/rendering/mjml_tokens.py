"""MJML cut into tags, text and comments, with the offset of each.

Own, rather than lxml's: an XML parser stops at the first mistake, names the line of the tag that exposed it instead of
the one that is wrong, and knows of a tag neither its start nor the places of its attributes. This reads anything, and
loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

RAW_TEXT = frozenset({"mj-style", "style", "script"})

_TOKEN = re.compile(
    r"""
    (?P<condition> <!--\[if\b[^\]>]*\]>(?:<!-->|-->)? | <!--<!\[endif\]--> | <!\[(?:if\b[^\]>]*|endif)\](?:-->|>) )
  | (?P<comment> <!--.*?--> )
  | (?P<declaration> <!\[CDATA\[.*?\]\]> | <!doctype\b[^<>]*> | <\?.*?\?> )
  | < (?P<close>/?) (?P<name> [A-Za-z][^\s/<>"'=]* )
      (?P<attributes> (?: [^<>"'] | "[^"<]*" | '[^'<]*' )*+ ) >
  | (?P<bare> < )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_BEGUN = re.compile(r"""<!--|</?(?P<name>[A-Za-z][^\s/<>"'=]*)[^<>]*>?""")


class Token(NamedTuple):
    kind: str  # text, raw (what is inside a style), comment, condition, declaration, open, empty, close, bare
    start: int
    text: str
    name: str = ""  # of a tag; in lower case unless it is a component, which mrml knows in lower case only
    attributes: str = ""


@lru_cache(maxsize=1)
def tokens(mjml: str) -> tuple[Token, ...]:
    """The document, piece by piece and without gaps. The last one is remembered: it is linted, then normalised."""
    return tuple(_read(mjml))


def _read(mjml: str) -> Iterator[Token]:
    position, end = 0, len(mjml)
    while position < end:
        start = mjml.find("<", position)
        if start < 0:
            yield Token("text", position, mjml[position:])
            return
        if start > position:
            yield Token("text", position, mjml[position:start])
        match = _TOKEN.match(mjml, start)
        assert match is not None  # the last alternative takes any "<"
        position = match.end()
        if match["bare"]:
            # What looks like an unfinished tag is taken as a whole, so that its attributes do not count as text.
            begun = _BEGUN.match(mjml, start)
            text = begun[0] if begun else "<"
            position = start + len(text)
            yield Token("bare", start, text, _fold(begun["name"] or "") if begun else "")
            continue
        if not (name := match["name"]):
            yield Token(match.lastgroup or "", start, match[0])
            continue
        name = _fold(name)
        attributes = match["attributes"]
        if match["close"]:
            yield Token("close", start, match[0], name)
        elif attributes.endswith("/"):
            yield Token("empty", start, match[0], name, attributes[:-1])
        else:
            yield Token("open", start, match[0], name, attributes)
            if name in RAW_TEXT:
                close = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(mjml, position)
                stop = close.start() if close else end
                if stop > position:
                    yield Token("raw", position, mjml[position:stop])
                position = stop


def _fold(name: str) -> str:
    lower = name.lower()
    return name if lower.startswith("mj") else lower
