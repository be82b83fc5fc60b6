"""MJML made safe for mrml, checked, and turned into HTML.

mrml (the engine inside mjml-python) is fast and, on sound input, renders to the pixel what the official MJML renders.
It is also silent about mistakes, and prints attribute values with Rust's debug escaping, so that an emoji in an alt
text arrives as `\\u{fe0f}`. Hence three functions:

    lint(mjml, origins)   every problem, with the template's file and line; run it before compiling (mjml_lint.py)
    normalise(mjml)       the same document in the form that mrml carries over unharmed
    compile_mjml(mjml)    normalise, mrml, and the few repairs of its HTML that no reader can see
"""

from __future__ import annotations

import re

from mjml import mjml2html

from newsletter.errors import Finding, TemplateError
from newsletter.rendering.marks import Origins, strip
from newsletter.rendering.mjml_lint import lint
from newsletter.rendering.mjml_rules import HTML, TEXT
from newsletter.rendering.mjml_tokens import tokens

__all__ = ["compile_mjml", "lint", "normalise"]

_ENDING = HTML | TEXT | {"mj-style", "mj-accordion-text", "mj-accordion-title", "mj-navbar-link", "mj-carousel-image"}
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_BREAKS = re.compile(r"[\r\n\t]+[ \r\n\t]*")
_SPACES = re.compile(r"[ \t\r\n]+")
_QUOTED = re.compile(r"""("[^"]*"|'[^']*')""")
_DEBUG_ESCAPED = re.compile(r"[^\x20-\x5b\x5d-\x7e]")  # the backslash, and whatever is not printable ASCII


def normalise(mjml: str) -> str:
    """The same document in the form that mrml 6.0.1 renders unharmed; normalising twice changes nothing.

    - Tags, and mj-title (which becomes an aria-label): line ends become spaces, and what Rust's debug format would
      escape (the backslash, all non-ASCII: combining marks, emoji, no-break spaces) becomes a character reference.
    - White space between components becomes one line feed: mrml refuses anything else in mj-head, mj-attributes and
      mj-social.
    - White space between tags of content becomes one space and keeps separating words: mrml deletes it when it starts
      with a line feed.
    - Comments go (mrml fails on some, and they are not for readers), conditional ones stay. Control characters go.
    """
    out: list[str] = []
    text = ""  # what has been read since the last tag, comments left out
    content = ""  # the component with HTML or text that is open
    for token in tokens(_UNFIT.sub("", mjml.replace("\r\n", "\n").replace("\r", "\n"))):
        if token.kind == "comment":
            continue
        if token.kind in ("text", "bare"):
            text += token.text
            continue
        if text:
            out.append(_normal_text(text, content, at_edge=not out))
            text = ""
        if token.kind not in ("open", "empty", "close"):
            out.append(token.text)
            continue
        out.append(_normal_tag(token.text))
        if token.kind == "open" and not content and token.name in _ENDING:
            content = token.name
        elif token.kind == "close" and token.name == content:
            content = ""
    out.append(_normal_text(text, content, at_edge=True))
    return "".join(out)


def _normal_text(text: str, content: str, *, at_edge: bool) -> str:
    if content == "mj-title":
        return _DEBUG_ESCAPED.sub(_reference, _SPACES.sub(" ", text).strip(" ").replace('"', "&#34;"))
    if text.strip():
        return text
    if content:
        return _SPACES.sub(" ", text)
    return "" if at_edge or not text else "\n"


def _normal_tag(tag: str) -> str:
    if _DEBUG_ESCAPED.search(tag):
        tag = _DEBUG_ESCAPED.sub(_reference, _BREAKS.sub(" ", tag))
    if "'" in tag:
        tag = _QUOTED.sub(_double_quoted, tag)
    return tag


def _reference(match: re.Match[str]) -> str:
    return f"&#{ord(match[0])};"


def _double_quoted(match: re.Match[str]) -> str:
    value = match[0]
    if value[0] == '"' or '"' not in value:
        return value
    return '"' + value[1:-1].replace('"', "&#34;") + '"'


_PREVIEW = '<div style="display:none;font-size:1px;color:#ffffff;'
_TD_VERTICAL_ALIGN = re.compile(r'(<td(?: [a-z-]+="[^"]*")*?) vertical-align="[a-z]+"')
_IMG_WITHOUT_ALT = re.compile(r'<img(?=[\s/>])(?!(?:[^>"]|"[^"]*")*?\salt=)')
_POSITION = re.compile(r" at position (\d+):\d+$")


def compile_mjml(mjml: str, *, origins: Origins | None = None) -> str:
    """The HTML of a document, the same bytes for the same input.

    Raises TemplateError where mrml fails: with everything `lint` finds wrong or, if it finds nothing, with mrml's own
    words and the tag at which it stopped. `origins` (from `strip`) lets it name template and line.

    Repairs of what mrml writes, none of them visible: the preview text loses its white colour (SpamAssassin's
    HTML_FONT_LOW_CONTRAST; it stays hidden by display:none), `vertical-align`, which is no attribute of <td>, goes, and
    an image without alt gets an empty one, as the official MJML writes it.
    """
    normalised = normalise(mjml)
    try:
        html = mjml2html(normalised, fonts={})  # no fonts: else a link to Google Fonts for each known family
    except ValueError as error:
        raise TemplateError(_failure(str(error), mjml, normalised, origins or strip(mjml)[1])) from error
    html = html.replace(_PREVIEW, _PREVIEW.replace("color:#ffffff;", ""), 1)
    html = _TD_VERTICAL_ALIGN.sub(r"\1", html)
    return _IMG_WITHOUT_ALT.sub('<img alt=""', html)


def _failure(message: str, mjml: str, normalised: str, origins: Origins) -> list[Finding]:
    if errors := [finding for finding in lint(mjml, origins) if finding.severity == "error"]:
        return errors
    where = None
    if position := _POSITION.search(message):
        # mrml counts bytes of the normalised text; the same tag, counted from the start, is found in the text itself.
        offset = len(normalised.encode()[: int(position[1])].decode(errors="ignore"))
        count = sum(token.start < offset for token in tokens(normalised) if token.name)
        starts = [token.start for token in tokens(mjml) if token.name]
        where = origins.find(starts[min(count, len(starts) - 1)] if starts else 0).template
    words = _POSITION.sub("", message).removesuffix(" in root template")
    hint = (
        "look at this tag and at the one before it"
        if where
        else "look for a tag that is not closed, or a stray < or quote"
    )
    return [Finding(code="mjml.refused", severity="error", where=where, message=f"mrml fails: {words}", help=hint)]
