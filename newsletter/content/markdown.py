"""Markdown as editors may use it: to the HTML that mail clients can show, and to plain text.

CommonMark without raw HTML, images, code blocks and tables; bare links become links, quotes and dashes become those
of the language. The HTML is cleaned once more by nh3, so that nothing but the tags listed here can ever come out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode

TAGS = {"p", "a", "em", "strong", "ul", "ol", "li", "blockquote", "br", "code", "s"}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
SCHEMES = {"http", "https", "mailto"}

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
            "quotes": _QUOTES.get(language.partition("-")[0], "“”‘’"),
        },
    )
    # A text indented by accident must not turn into code, and a title in a summary would compete with the story's own.
    parser.enable(["linkify", "replacements", "smartquotes", "strikethrough"])
    parser.disable(["image", "code", "fence", "html_block", "html_inline"])
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
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "p"
    html = parser.renderer.render(_bold_headings(tokens), parser.options, {})
    clean = nh3.clean(html, tags=TAGS, attributes=ATTRIBUTES, url_schemes=SCHEMES, link_rel=None)
    return re.sub(r"\s*\n\s*", " ", clean).strip()


def _bold_headings(tokens: Sequence[Token]) -> list[Token]:
    """A heading inside a summary becomes a bold paragraph."""
    for before, token in pairwise(tokens):
        if before.type == "heading_open" and token.type == "inline":
            token.children = [
                Token("strong_open", "strong", 1),
                *(token.children or []),
                Token("strong_close", "strong", -1),
            ]
    return list(tokens)


def to_text(text: str, language: str) -> str:
    """The same as plain text: paragraphs, "- " and "1. " lists, "> " quotes, a link's address in brackets behind its
    words.
    """
    return "\n".join(_lines(SyntaxTreeNode(_parser(language).parse(text))))


def _lines(node: SyntaxTreeNode) -> list[str]:
    if node.type in ("paragraph", "heading"):
        return _inline(node.children[0].to_tokens()[0].children or []).split("\n") if node.children else []
    if node.type == "blockquote":
        return [f"> {line}".rstrip() for line in _stacked(node, tight=False)]
    if node.type in ("bullet_list", "ordered_list"):
        first = int(node.attrs.get("start", 1)) if node.type == "ordered_list" else None
        tight = all(child.hidden for item in node.children for child in item.children if child.type == "paragraph")
        out: list[str] = []
        for number, item in enumerate(node.children, first or 0):
            bullet = "- " if first is None else f"{number}. "
            lines = _stacked(item, tight=tight)
            out += [] if tight or not out else [""]
            out += [bullet + lines[0] if lines else bullet.rstrip()]
            out += [(" " * len(bullet) + line).rstrip() for line in lines[1:]]
        return out
    return _stacked(node, tight=False)


def _stacked(node: SyntaxTreeNode, *, tight: bool) -> list[str]:
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
    pattern = r"@@(?!NAME@@)(?<!@@NAME@@)"
    in_tags = any("@@" in tag for tag in re.findall(r"<[^>]*>", html))
    return in_tags or bool(re.search(pattern, html) or re.search(pattern, to_text(text, language)))
