"""Markdown as editors may use it: to the HTML that mail clients can show, and to plain text.

CommonMark without raw HTML, images, code blocks and tables; bare links become links, quotes and dashes become those
of the language. The HTML is cleaned once more by nh3, so that nothing but the tags listed here can ever come out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token

TAGS = {"p", "a", "em", "strong", "ul", "ol", "li", "blockquote", "br", "code", "s"}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
SCHEMES = {"http", "https", "mailto"}

_MAX_MARKS = 8  # emphasis in emphasis: HTML parsers give up at 256 elements inside each other

# Opening and closing double quotes, then single ones.
_QUOTES = {"es": "«»“”", "de": "„“‚‘", "fr": ["«\xa0", "\xa0»", "‹\xa0", "\xa0›"], "it": "«»“”", "pt": "“”‘’"}


@lru_cache(maxsize=16)
def _parser(language: str) -> MarkdownIt:
    parser = MarkdownIt(
        "commonmark",
        {
            "html": False,
            "linkify": True,
            "typographer": True,
            "maxNesting": 50,  # what is nested deeper is left out by the parser; the preset's 20 are soon reached
            "quotes": _QUOTES.get(language.partition("-")[0], "“”‘’"),
        },
    )
    # A text indented by accident must not turn into code, and a title in a summary would compete with the story's own.
    parser.enable(["linkify", "replacements", "smartquotes", "strikethrough"])
    parser.disable(["image", "reference", "code", "fence", "html_block", "html_inline"])
    parser.validateLink = _allowed  # type: ignore[method-assign]
    return parser


def _allowed(url: str) -> bool:
    """Full addresses only: a message has no place that a relative link could start from."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return False
    return parts.scheme in SCHEMES and bool(parts.netloc or parts.scheme == "mailto")


def to_html(text: str, language: str) -> str:
    """HTML of a Markdown text: only TAGS, no line ends (mrml would lose some of them), empty for an empty text."""
    parser = _parser(language)
    html = parser.renderer.render(_tokens(text, language), parser.options, {})
    clean = nh3.clean(html, tags=TAGS, attributes=ATTRIBUTES, url_schemes=SCHEMES, link_rel=None)
    return " ".join(line for line in map(str.strip, clean.split("\n")) if line)


@lru_cache(maxsize=128)
def _tokens(text: str, language: str) -> list[Token]:
    """What both renderings start from; parsing is most of their cost, and standing blocks come again every week."""
    tokens = _parser(language).parse(text)
    for before, token in pairwise(tokens):
        if before.type == "heading_open":  # a heading inside a summary becomes a bold paragraph
            bold = Token("strong_open", "strong", 1), Token("strong_close", "strong", -1)
            token.children = [bold[0], *(token.children or []), bold[1]]
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "p"
        _hide_deep_marks(token.children or [])
    return tokens


def _hide_deep_marks(tokens: Sequence[Token]) -> None:
    depth = 0
    for token in tokens:
        depth += token.nesting == 1
        token.hidden = depth > _MAX_MARKS and token.nesting != 0 and token.tag != "a"
        depth -= token.nesting == -1


def to_text(text: str, language: str) -> str:
    """The same as plain text: paragraphs, "- " and "1. " lists, "> " quotes, a link's address behind its words."""
    return "\n".join(_stacked(_tree(_tokens(text, language)), tight=False))


@dataclass(slots=True)
class _Node:
    """A block and the blocks in it. (markdown-it's SyntaxTreeNode recurses into emphasis, however deep it goes.)"""

    token: Token
    children: list[_Node]


def _tree(tokens: Sequence[Token]) -> _Node:
    root = _Node(Token("root", "", 0), [])
    path = [root]
    for token in tokens:
        if token.nesting < 0:
            path.pop()
            continue
        node = _Node(token, [])
        path[-1].children.append(node)
        if token.nesting > 0:
            path.append(node)
    return root


def _lines(node: _Node) -> list[str]:
    kind = node.token.type
    if kind == "inline":
        return _inline(node.token.children or []).split("\n")
    if kind == "blockquote_open":
        return [f"> {line}".rstrip() for line in _stacked(node, tight=False)]
    if kind not in ("bullet_list_open", "ordered_list_open"):
        return _stacked(node, tight=False)
    start = node.token.attrGet("start")
    first = None if kind == "bullet_list_open" else 1 if start is None else int(start)
    tight = all(block.token.hidden for item in node.children for block in item.children if block.token.tag == "p")
    out: list[str] = []
    for number, item in enumerate(node.children, first or 0):
        bullet = "- " if first is None else f"{number}. "
        lines = _stacked(item, tight=tight)
        out += [] if tight or not out else [""]
        out += [bullet + lines[0] if lines else bullet.rstrip()]
        out += [(" " * len(bullet) + line).rstrip() for line in lines[1:]]
    return out


def _stacked(node: _Node, *, tight: bool) -> list[str]:
    """The lines of a node's children, with an empty line between two of them unless they stand in a tight list."""
    out: list[str] = []
    for child in node.children:
        lines = _lines(child)
        if lines:
            out += [""] if out and not tight else []
            out += lines
    return out


def _inline(tokens: Sequence[Token]) -> str:
    out: list[str] = []
    links: list[tuple[str, int]] = []
    for token in tokens:
        if token.type == "link_open":
            links.append((str(token.attrGet("href") or ""), len(out)))
        elif token.type == "link_close":
            url, start = links.pop()
            words = "".join(out[start:])
            shown = url.removeprefix("mailto:")
            if words not in (url, shown, re.sub(r"^https?://", "", url).rstrip("/")):
                out.append(f" ({shown})")
            else:
                out[start:] = [shown]
        elif token.type == "hardbreak":
            out.append("\n")
        elif token.type == "softbreak":
            out.append(" ")
        else:
            out.append(token.content)
    return "".join(out).rstrip()


def slot_in_result(text: str, language: str) -> bool:
    """Whether Markdown would make a slot, or a link with one in it, that the source does not show
    (`&#64;&#64;NAME…`).
    """
    if text.count("@") + text.count("&") < 2:
        return False
    html = to_html(text, language)
    in_tags = any("@@" in tag for tag in re.findall(r"<[^>]*>", html))
    return in_tags or any("@@" in form.replace("@@NAME@@", "") for form in (html, to_text(text, language)))
