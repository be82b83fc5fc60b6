"""Our own content CSS written into style attributes, and nothing else changed.

MJML inlines its own attributes; what is left is what Markdown produces inside mj-text (p, a, ul, blockquote …).
premailer does it, but its defaults drop the doctype (quirks mode), strip `!important` from the dark and the narrow
rules, read every <style> and fetch what they refer to. So it sees only our CSS, every <style> of the document is marked
as none of its business, and the URLs that libxml2 would percent-encode are kept aside meanwhile.
"""

from __future__ import annotations

import html as entities
import logging
import re
from functools import cache, lru_cache, reduce
from typing import Any

from newsletter.errors import Finding, TemplateError, Where
from newsletter.rendering.offline import offline

_DOCTYPE = re.compile(r"\s*<!doctype[^>]*>", re.IGNORECASE)
_IGNORE = ' data-premailer="ignore"'
_URLS = ('href="', 'src="', 'action="', 'name="')
_UNTOUCHED = re.compile(r"(?:[!-%'-;=?-~]|&amp;)*")  # what libxml2 writes back as it was
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_RULE = re.compile(r"([^{}]*)\{[^{}]*\}")
_INLINABLE = (":first-child", ":last-child")  # the pseudo-classes that premailer follows, at the end of a selector only


def inline_css(html: str, css: str, *, path: str = "the inlined CSS") -> str:
    """The HTML with the rules of `css` in the style attributes of the elements they select.

    Style blocks, conditional comments, slots and URLs come out byte for byte; an element's own style wins over a rule.
    Nothing is fetched. Raises TemplateError, with lines of `path`, for CSS that refers to something elsewhere or that
    cannot live in a style attribute and would be lost in silence: at-rules, `*`, unbalanced braces, pseudo-classes
    other than a final :first-child or :last-child.
    """
    if problems := _problems(css, path):
        raise TemplateError(problems)
    doctype = _DOCTYPE.match(html)
    kept: list[str] = []
    stand_in = "urn:kept"
    while stand_in in html:
        stand_in += "-"

    def kept_aside(markup: str, attribute: str) -> str:
        out, *rest = markup.split(attribute)
        for part in rest:
            value, quote, after = part.partition('"')
            if quote and out[-1:] in " \t\n\r\f\"'" and not _UNTOUCHED.fullmatch(value):
                kept.append(entities.escape(entities.unescape(value), quote=False).replace('"', "&quot;"))
                value = f"{stand_in}:{len(kept) - 1}:"
            out += f"{attribute}{value}{quote}{after}"
        return out

    premailer = _premailer()(
        reduce(kept_aside, _URLS, html).replace("<style", f"<style{_IGNORE}"),
        css_text=css,
        strip_important=False,
        remove_classes=False,
        disable_leftover_css=True,
        allow_network=False,
        disable_validation=True,
        align_floating_images=False,
        cssutils_logging_level=logging.CRITICAL,
    )
    premailer.document = html
    inlined: str = premailer.transform(pretty_print=False)
    # premailer takes the marker off again, but not inside conditional comments and not with a media attribute.
    inlined = inlined.replace(_IGNORE, "")
    inlined = re.sub(rf"{re.escape(stand_in)}:(\d+):", lambda match: kept[int(match[1])], inlined)
    return (doctype[0].strip() if doctype else "") + _DOCTYPE.sub("", inlined, count=1).lstrip()


@cache
def _premailer() -> Any:
    """premailer's class, imported here because that takes a tenth of a second."""
    with offline():
        import cssutils
        from premailer import Premailer

    # premailer has an element's own style validated whatever `disable_validation` says, and cssutils first compiles the
    # grammar of all of CSS for it (0.09 s). Without profiles there is nothing to validate against; nothing is dropped.
    cssutils.profile.removeProfile(all=True)

    class Sparing(Premailer):  # type: ignore[misc]
        """It reads our CSS once, not once an edition, and looks only for what is there: half of its time."""

        document: str

        def _parse_style_rules(self, css_body: str, ruleset_index: int) -> Any:
            known = (css_body, ruleset_index)
            if known not in _rules:
                if len(_rules) > 7:  # a workspace has one CSS, and another for the other direction
                    _rules.clear()
                rules, leftover = super()._parse_style_rules(css_body, ruleset_index)
                _rules[known] = [(_needles(selector), (weight, selector, style)) for weight, selector, style in rules]
                assert not leftover, "_problems lets nothing through that premailer would leave over"
            sought = set[str]().union(*(needles for needles, _ in _rules[known]))
            missing = {each for each in sought if each not in self.document}
            return [rule for needles, rule in _rules[known] if needles.isdisjoint(missing)], []

        def _style_to_basic_html_attributes(self, element: Any, style_content: str, force: bool = False) -> None:
            """Nothing: each attribute that premailer would write is one that MJML sets where it is wanted."""

    return Sparing


_rules: dict[tuple[str, int], list[tuple[set[str], Any]]] = {}


def _needles(selector: str) -> set[str]:
    """What must stand in a document for the selector to find anything: its classes, and its tags behind a <."""
    plain = re.sub(r"#[\w-]+|\[[^\]]*\]|:[\w-]+(?:\([^)]*\))?", "", selector)
    words = re.findall(r"\.?[A-Za-z][\w-]*", plain)
    return {word[1:] if word[0] == "." else f"<{word.lower()}" for word in words}


def _is_selector(text: str) -> bool:
    from cssselect import SelectorError, parse

    try:
        parse(text)
    except SelectorError:
        return False
    return True


@lru_cache(maxsize=8)
def _problems(css: str, path: str) -> tuple[Finding, ...]:
    bare = _COMMENT.sub(lambda comment: " " * len(comment[0]), css)
    found: list[Finding] = []

    def report(offset: int, message: str, hint: str) -> None:
        where = Where(path=path, line=css.count("\n", 0, offset) + 1)
        found.append(Finding(code="inline.css", severity="error", where=where, message=message, help=hint))

    for match in re.finditer(r"@[\w-]+|\burl\(", bare, re.IGNORECASE):
        if match[0].lower() in ("@import", "url("):
            hint = "write the rules here and use no remote file"
            report(match.start(), f"{match[0].rstrip('(')} refers to a remote file", hint)
        else:
            report(match.start(), f"{match[0]} cannot be inlined", "move this rule into an mj-style of the template")
    for rule in _RULE.finditer(bare):
        for selector in rule[1].split(","):
            plain, colon, pseudo = selector.strip().partition(":")
            if "*" in plain or (colon and f":{pseudo}" not in _INLINABLE) or not plain:
                hint = "move this rule into an mj-style of the template"
                report(rule.end(1), f'"{selector.strip()}" selects what cannot be inlined', hint)
            elif not _is_selector(selector):
                report(rule.end(1), f'"{selector.strip()}" is not a selector', "correct it, or remove the rule")
        if any(rule[0].count(quote) % 2 for quote in "\"'"):
            report(rule.end(1), "a quote in this rule is not closed", "close it")
    left = _RULE.sub(lambda rule: " " * len(rule[0]), bare)
    if not found and left.strip():
        offset = len(left) - len(left.lstrip())
        report(offset, "this is not a complete rule", "give every rule a selector, one { and one }")
    return tuple(found)
