"""Everything that is wrong with an MJML document, at the template's line.

mrml, which renders the mail, says nothing: it accepts a mismatched close tag, drops an attribute that it does not know,
leaves out a missing alt, and where it does fail it names no line. The rules are in mjml_rules.py.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from html import unescape
from typing import NamedTuple

from newsletter.errors import Finding, Severity, Where
from newsletter.rendering.marks import Origins
from newsletter.rendering.mjml_rules import (
    ALL_ATTRIBUTES,
    ATTRIBUTES,
    AVOID,
    CHILDREN,
    EVERYWHERE,
    HTML,
    INERT,
    TEXT,
    expected,
    fits,
)
from newsletter.rendering.mjml_tokens import Token, tokens


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VOID = _words("area base br col embed hr img input link meta param source track wbr")
_HTML_TAGS = _VOID | _words(
    """
    a abbr address article aside b bdi bdo big blockquote caption center cite code colgroup data dd del dfn div dl dt em
    figcaption figure font footer h1 h2 h3 h4 h5 h6 header i ins kbd li main map mark nav noscript ol p picture pre q
    rp rt ruby s samp section small span strike strong style sub sup table tbody td tfoot th thead time title tr tt u ul
    var
    """
)
_ACTIVE = _words("applet audio button embed form frame frameset iframe input object script select svg textarea video")
_BLOCKS = _words("address blockquote center div dl h1 h2 h3 h4 h5 h6 hr ol p pre table ul")
_TABLE_PARTS = frozenset({"table", "thead", "tbody", "tfoot", "tr", "mj-table"})
_PARENTS: Mapping[str, tuple[str, ...]] = {
    "li": ("ul", "ol"),
    "tr": ("table", "thead", "tbody", "tfoot"),
    "td": ("tr",),
    "th": ("tr",),
    "thead": ("table",),
    "tbody": ("table",),
    "tfoot": ("table",),
}
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "mj-image": ("src", "alt"),
    "img": ("src", "alt"),
    "mj-button": ("href",),
    "mj-class": ("name",),
    "mj-breakpoint": ("width",),
}

_ATTRIBUTE = re.compile(r"""(?P<gap>\s*)(?P<name>[^\s=/"'<>]+)(?:\s*=\s*(?P<value>"[^"]*"|'[^']*'|[^\s"'<>]+))?""")
_ATTRIBUTE_NAME = re.compile(r"[A-Za-z_:][\w:.-]*")


def lint(mjml: str, origins: Origins) -> list[Finding]:
    """Every problem of the document, in its order, each at the template's line (and with the issue's place).

    Without a finding of severity error, `compile_mjml` accepts the document and mrml drops nothing of it. The same
    problem printed by a loop is reported once.
    """
    linter = _Linter(origins)
    for token in tokens(mjml):
        linter.read(token)
    linter.finish()
    return linter.findings()


class _Open(NamedTuple):
    name: str
    start: int
    component: str  # the innermost mj-… that is open, itself included


class _Problem(NamedTuple):
    offset: int
    code: str
    severity: Severity
    message: str
    help: str


class _Linter:
    """One reading of a document: what is open, what has been said in the head, what was wrong."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        self._problems: list[_Problem] = []
        self._stack: list[_Open] = []
        self._unfinished: set[int] = set()  # where tags start that are reported already
        self._forgiven: list[str] = []  # reported as unclosed: their own close tag, coming late, is the same mistake
        self._defaults: set[tuple[str, str]] = set()  # what mj-attributes sets: (component or ".class", attribute)
        self._classes: set[str] = set()
        self._condition: int | None = None  # where the conditional comment starts that is open
        self._seen: dict[str, int] = {}
        self._title = ""
        self._at_end: list[Callable[[], None]] = []  # checks that need the whole head, wherever it stands

    # What comes in

    def read(self, token: Token) -> None:
        component = self._stack[-1].component if self._stack else ""
        match token.kind:
            case "open" | "empty":
                self._open(token, component)
            case "close":
                self._close(token)
            case "text":
                self._text(token, component)
            case "raw":
                self._style(token)
            case "condition":
                self._conditional(token, component)
            case "declaration":
                self._error(
                    token.start,
                    "syntax",
                    f"mrml cannot read {_excerpt(token.text)}",
                    "remove it; write characters as &#…;",
                )
            case "bare":
                self._bare(token)

    def finish(self) -> None:
        self._unclosed(self._stack, "the document ends")
        self._end_of_component("the document ends")
        self._stack = []
        if "mjml" not in self._seen:
            self._error(0, "structure", "this is not MJML: there is no <mjml>", "wrap the document in <mjml> … </mjml>")
        elif "mj-body" not in self._seen:
            self._error(
                self._seen["mjml"], "structure", "there is no <mj-body>", "put the content into <mj-body> … </mj-body>"
            )
        elif not self._title:
            offset = self._seen.get("mj-title", self._seen.get("mj-head", self._seen["mjml"]))
            hint = "add <mj-title> with the subject to <mj-head>: screen readers announce the mail by it"
            self._add(offset, "title", "warning", "the document has no title", hint)
        for check in self._at_end:
            check()

    def findings(self) -> list[Finding]:
        grouped: dict[tuple[str, Where, str], tuple[_Problem, list[Where]]] = {}
        for problem in sorted(self._problems, key=lambda problem: problem.offset):
            origin = self._origins.find(problem.offset)
            _, places = grouped.setdefault((problem.code, origin.template, problem.message), (problem, []))
            if origin.issue and origin.issue not in places:
                places.append(origin.issue)
        found = []
        for (code, where, message), (problem, places) in grouped.items():
            source = ""
            if places:
                more = f" and {len(places) - 1} more" if len(places) > 1 else ""
                source = f" (content of {places[0]}{more})"
            text = f"{message}{source}"
            found.append(
                Finding(code=f"mjml.{code}", severity=problem.severity, where=where, message=text, help=problem.help)
            )
        return found

    def _add(self, offset: int, code: str, severity: Severity, message: str, hint: str) -> None:
        self._problems.append(_Problem(offset, code, severity, message, hint))

    def _error(self, offset: int, code: str, message: str, hint: str) -> None:
        self._add(offset, code, "error", message, hint)

    def _place(self, offset: int) -> str:
        return str(self._origins.find(offset).template)

    # Text

    def _text(self, token: Token, component: str) -> None:
        if component == "mj-title":
            self._title += token.text.strip()
        if not token.text.strip() or component in TEXT or _unheard_of(component):
            return
        offset = token.start + len(token.text) - len(token.text.lstrip())
        if component not in HTML:
            if self._stack and self._stack[-1].name != component:
                return  # inside an HTML tag that is out of place itself
            self._error(offset, "text", f"text outside of mj-text: {_excerpt(token.text)}", "put it into an mj-text")
        elif self._stack[-1].name in _TABLE_PARTS:
            inside = self._stack[-1].name
            message = f"text directly in <{inside}>: {_excerpt(token.text)}"
            self._error(offset, "html-nesting", message, "put it into a <td>: browsers move it out of the table")

    def _style(self, token: Token) -> None:
        if "<" in token.text:
            offset = token.start + token.text.index("<")
            self._error(
                offset, "syntax", 'a "<" in CSS: mrml cannot read it', "use min-width and max-width, or \\3C in strings"
            )
        for match in re.finditer(r"@import\b[^;]*|\burl\(", token.text, re.IGNORECASE):
            message = f"{match[0].partition(' ')[0].rstrip('(')} in CSS loads something from elsewhere"
            self._error(token.start + match.start(), "remote", message, "write the rules here and use no remote file")

    def _conditional(self, token: Token, component: str) -> None:
        start = token.start
        if component not in HTML:
            self._error(start, "nesting", "a conditional comment outside of HTML", "put it into an mj-raw")
        elif "endif" not in token.text:
            if self._condition is not None:
                message = f"a conditional comment inside the one of {self._place(self._condition)}"
                self._error(start, "nesting", message, "end that one with <![endif]--> before it")
            self._condition = start
        elif self._condition is None:
            self._error(
                start, "mismatched", f"{token.text} ends no conditional comment", "remove it, or add <!--[if mso]>"
            )
        else:
            self._condition = None

    def _end_of_component(self, because: str) -> None:
        if self._condition is not None:
            message = f"the conditional comment is not ended before {because}"
            self._error(self._condition, "unclosed", message, "add <![endif]-->; mrml needs both ends in one component")
            self._condition = None

    def _bare(self, token: Token) -> None:
        """A "<" that begins no complete tag. It counts as that tag nevertheless, so that the rest still makes sense."""
        if token.text == "<!--":
            self._error(token.start, "syntax", "a comment that is never closed", "end it with -->")
        elif not token.name:
            self._error(token.start, "syntax", 'a bare "<" in the text', "write &lt;")
        else:
            message = f"the tag <{token.name}> is not finished: a quote or the > is missing, or a value holds a <"
            self._error(token.start, "syntax", message, "close the quote and the tag; write < in a value as &lt;")
            self._unfinished.add(token.start)
            if token.text.startswith("</"):
                self._close(token)
            elif token.name not in _VOID and not token.text.rstrip(">").endswith("/"):
                self._seen.setdefault(token.name, token.start)
                self._push(token.name, token.start)

    # Tags

    def _push(self, name: str, start: int) -> None:
        parent = self._stack[-1].component if self._stack else ""
        self._stack.append(_Open(name, start, name if _is_component(name) else parent))

    def _open(self, token: Token, component: str) -> None:
        name = token.name
        attributes = self._attributes(token)
        self._seen.setdefault(name, token.start)
        if _is_component(name):
            self._forgiven = []
            self._component(token, component, attributes)
        elif component in HTML:
            self._html(token, attributes)
        elif _unheard_of(component):
            pass
        elif component in TEXT:
            message = f"<{name}> in <{component}>, which holds text only"
            self._error(token.start, "nesting", message, "remove the tag: mrml cannot read it there")
        elif name in _HTML_TAGS | _ACTIVE:
            message = f"<{name}> outside of mj-text, mj-table and mj-raw"
            self._error(token.start, "nesting", message, "put HTML into an mj-text or an mj-raw")
        else:
            hint = _nearest(name, ATTRIBUTES) or "use a component of MJML; HTML belongs in mj-text"
            self._error(token.start, "unknown-tag", f"unknown tag <{name}>", hint)
        if token.kind == "open" and name not in _VOID:
            self._push(name, token.start)

    def _close(self, token: Token) -> None:
        name, start = token.name, token.start
        depth = len(self._stack) - 1
        while depth >= 0 and self._stack[depth].name != name:
            if _is_component(self._stack[depth].name) and not _is_component(name):
                depth = -1  # HTML never closes what was opened outside of its component
                break
            depth -= 1
        if depth >= 0:
            inner = self._stack[depth + 1 :]
            if inner or (self._condition is not None and _is_component(name)):
                because = f"</{name}> of {self._place(start)}"
                self._unclosed(inner, because)
                if _is_component(name):
                    self._end_of_component(because)
            names = [open_tag.name for open_tag in inner]
            self._forgiven = names if _is_component(name) else self._forgiven + names
            del self._stack[depth:]
        elif name in self._forgiven:
            self._forgiven.remove(name)
        elif name in _VOID:
            self._error(start, "mismatched", f"</{name}> does not exist", f"write <{name}> alone")
        elif self._stack and _close_to(name, self._stack[-1].name):
            top = self._stack.pop()
            message = f"</{name}> does not close <{top.name}> of {self._place(top.start)}"
            self._error(start, "mismatched", message, f"write </{top.name}>")
        else:
            self._error(
                start, "mismatched", f"</{name}> closes nothing", "remove it, or add the tag that it should close"
            )

    def _unclosed(self, tags: Iterable[_Open], because: str) -> None:
        for tag in tags:
            if tag.start in self._unfinished:
                continue
            hint = f"add </{tag.name}> before it; mrml needs every tag closed, also inside conditional comments"
            self._error(tag.start, "unclosed", f"<{tag.name}> is not closed before {because}", hint)

    def _component(self, token: Token, component: str, attributes: dict[str, tuple[str, int]]) -> None:
        name, start = token.name, token.start
        parent = self._stack[-1].name if self._stack else ""
        if name in AVOID:
            self._error(start, "avoid", f"<{name}> is not rendered reliably", AVOID[name])
            return
        if name not in ATTRIBUTES and name not in ("mj-all", "mj-class"):
            self._error(
                start, "unknown-tag", f"unknown component <{name}>", _nearest(name, ATTRIBUTES) or "correct the name"
            )
            return
        if self._seen[name] != start and name in ("mjml", "mj-head", "mj-body"):
            message = f"a second <{name}>: mrml keeps one of them only"
            self._error(
                start, "structure", message, f"move the content into the one of {self._place(self._seen[name])}"
            )
        self._nesting(name, start, parent, component)
        if name == "mj-font":
            self._error(
                start, "remote", "<mj-font> loads a font from elsewhere", "remove it and set font-family on mj-all"
            )
        if name == "mj-style" and "inline" in attributes:
            hint = "remove the attribute; CSS to be inlined belongs in the inlined style sheet"
            self._error(start, "avoid", "mj-style inline has no effect", hint)
        if parent == "mj-attributes":
            self._default(name, attributes)
            return
        self._check_attributes(name, attributes)
        classes = unescape(attributes["mj-class"][0]).split() if "mj-class" in attributes else []
        self._at_end.append(lambda: self._check_against_head(name, start, attributes, classes))

    def _nesting(self, name: str, start: int, parent: str, component: str) -> None:
        if not parent:
            if name != "mjml":
                self._error(start, "structure", f"<{name}> outside of <mjml>", "put it inside <mjml>")
        elif component in HTML | TEXT:
            self._error(
                start, "nesting", f"<{name}> inside <{component}> is not rendered", f"close <{component}> before it"
            )
        elif component == "mj-attributes":
            if name in ("mjml", "mj-attributes"):
                self._error(
                    start, "nesting", f"<{name}> cannot stand in <mj-attributes>", "name a component of the body"
                )
        elif component in ATTRIBUTES and name not in CHILDREN.get(component, frozenset()):
            parents = " or ".join(outer for outer, inner in CHILDREN.items() if name in inner) or "mj-attributes"
            hint = f"it belongs in {parents}"
            self._error(start, "nesting", f"<{name}> cannot stand in <{component}>", hint)

    def _default(self, name: str, attributes: dict[str, tuple[str, int]]) -> None:
        """An entry of mj-attributes: it sets attributes for components that may lack them elsewhere."""
        if name != "mj-class":
            self._check_attributes(name, attributes)
            self._defaults.update((name, attribute) for attribute in attributes)
            return
        self._require(name, attributes, next(iter(attributes.values()), ("", 0))[1])
        self._check_attributes(name, {key: value for key, value in attributes.items() if key != "name"})
        if "name" in attributes:
            called = unescape(attributes["name"][0])
            self._classes.add(called)
            self._defaults.update((f".{called}", attribute) for attribute in attributes)

    def _check_against_head(
        self, name: str, start: int, attributes: dict[str, tuple[str, int]], classes: list[str]
    ) -> None:
        for used in classes:
            if used not in self._classes:
                hint = _nearest(used, self._classes) or f'add <mj-class name="{used}" … /> to mj-attributes'
                self._error(attributes["mj-class"][1], "unknown-class", f'there is no mj-class "{used}"', hint)
        sources = [name, "mj-all", *(f".{used}" for used in classes)]
        given = {attribute for source, attribute in self._defaults if source in sources}
        self._require(name, attributes, start, given)

    def _require(
        self, name: str, attributes: dict[str, tuple[str, int]], start: int, given: Iterable[str] = ()
    ) -> None:
        for attribute in _REQUIRED.get(name, ()):
            if attribute in given or (
                attribute in attributes and (attribute == "alt" or attributes[attribute][0].strip())
            ):
                continue
            hint = (
                f"add {attribute}, empty if the image is mere decoration" if attribute == "alt" else f"add {attribute}"
            )
            lack = "an empty" if attribute in attributes else "no"
            self._error(start, "missing-attribute", f"<{name}> has {lack} {attribute}", hint)

    def _html(self, token: Token, attributes: dict[str, tuple[str, int]]) -> None:
        name, start = token.name, token.start
        parent, component = self._stack[-1].name, self._stack[-1].component
        above = []  # the HTML tags that are open in the component
        for opened in reversed(self._stack):
            if _is_component(opened.name):
                break
            above.append(opened.name)
        if name in _ACTIVE:
            hint = "replace it by a link to a web page, or an image"
            self._error(start, "active-content", f"<{name}> is removed or blocked by mail programs", hint)
        elif name not in _HTML_TAGS and ":" not in name:
            self._error(
                start, "unknown-tag", f"unknown HTML tag <{name}>", _nearest(name, _HTML_TAGS) or "correct the name"
            )
        if name == "link" and "stylesheet" in attributes.get("rel", ("",))[0].lower():
            self._error(
                start, "remote", "<link> loads a style sheet from elsewhere", "write the rules into an mj-style"
            )
        self._require(name, attributes, start)
        allowed = _PARENTS.get(name)
        outer = "table" if parent == "mj-table" else parent
        if allowed and outer not in allowed and parent != "mj-raw":
            hint = "put it into " + " or ".join(f"<{tag}>" for tag in allowed)
            self._error(start, "html-nesting", f"<{name}> directly in <{parent}>", hint)
        elif name not in _PARENTS and parent in _TABLE_PARTS and name not in ("caption", "colgroup", "col", "style"):
            message = f"<{name}> directly in <{parent}>"
            self._error(start, "html-nesting", message, "put it into a <td>: browsers move it out of the table")
        elif name in _BLOCKS and "p" in above:
            self._error(
                start, "html-nesting", f"<{name}> inside <p>: browsers end the paragraph before it", "close <p> first"
            )
        elif name == "a" and ("a" in above or component in ("mj-button", "mj-social-element")):
            inside = component if "a" not in above else "a"
            self._error(
                start, "html-nesting", f"<a> inside <{inside}>: a link cannot hold another", "remove one of them"
            )

    # Attributes

    def _attributes(self, token: Token) -> dict[str, tuple[str, int]]:
        """Name → raw value and offset; what is malformed or twice there is reported and left out."""
        found: dict[str, tuple[str, int]] = {}
        base = token.start + 1 + len(token.name)
        pieces, rest = _attribute_pieces(token.attributes)
        for name, value, start, apart in pieces:
            offset = base + start
            if not apart:
                self._error(
                    offset, "syntax", f"no space before {name} in <{token.name}>", "put a space between attributes"
                )
            if value is not None and value[0] not in "\"'":
                self._error(offset, "syntax", f"the value of {name} has no quotes", f'write {name}="{value}"')
            elif name in found:
                message = f"{name} is given twice in <{token.name}>"
                self._error(offset, "duplicate-attribute", message, "keep one of them")
            else:
                found[name] = (value[1:-1] if value else "", offset)
        if rest is not None:
            self._error(base + rest, "syntax", f"an attribute of <{token.name}> cannot be read", "check the quotes")
        return found

    def _check_attributes(self, name: str, attributes: dict[str, tuple[str, int]]) -> None:
        for attribute, (raw, offset) in attributes.items():
            if attribute in EVERYWHERE:
                continue
            if name in ("mj-all", "mj-class"):
                kinds = ALL_ATTRIBUTES.get(attribute, frozenset())
                owners = [owner for owner, known in ATTRIBUTES.items() if attribute in known]
                inert = bool(owners) and all(attribute in INERT.get(owner, ()) for owner in owners)
                names: Iterable[str] = ALL_ATTRIBUTES
            else:
                kinds = frozenset({ATTRIBUTES[name][attribute]} if attribute in ATTRIBUTES[name] else ())
                inert = attribute in INERT.get(name, ())
                names = [*ATTRIBUTES[name], *EVERYWHERE]
            value = unescape(raw)
            if inert:
                message = f"{attribute} has no effect on <{name}>"
                self._error(offset, "no-effect", message, "remove it: mrml, which renders the mail, does not know it")
            elif not kinds:
                hint = (
                    _nearest(attribute, names) or f"<{name}> does not know it: remove it, or use css-class and mj-style"
                )
                self._error(offset, "unknown-attribute", f"unknown attribute {attribute} on <{name}>", hint)
            elif not any(fits(value, kind) for kind in kinds):
                message = f'{attribute}="{value}" on <{name}> is no valid value'
                self._error(offset, "attribute-value", message, "write " + expected(min(kinds)))
            elif "padding" in attribute and "0" in value.split() and any(side != "0" for side in _sides(value)):
                # No picture shows it: the width told to Outlook is that of a section without any padding.
                message = f'{attribute}="{value}" on <{name}>: mrml reads none of it because of the 0 without a unit'
                self._error(offset, "attribute-value", message, "write 0px")


def _sides(padding: str) -> list[str]:
    """The left and right of a CSS padding of one to four values."""
    return padding.split()[1::2] or padding.split()


@lru_cache(maxsize=1024)
def _attribute_pieces(text: str) -> tuple[list[tuple[str, str | None, int, bool]], int | None]:
    """Name, value with its quotes, place and whether a space stands before it, for each attribute; then the place from
    which on nothing can be read, if there is one. Remembered: a template writes the same tags again and again."""
    pieces: list[tuple[str, str | None, int, bool]] = []
    position = 0
    for match in _ATTRIBUTE.finditer(text):
        name = match["name"]
        if text[position : match.start()].strip() or not _ATTRIBUTE_NAME.fullmatch(name):
            break
        position = match.end()
        pieces.append((name, match["value"], match.start("name"), bool(match["gap"])))
    return pieces, position if text[position:].strip() else None


def _is_component(name: str) -> bool:
    return name.startswith("mj")


def _unheard_of(component: str) -> bool:
    """A component whose own tag is an error already: what stands in it is not judged."""
    return component not in ATTRIBUTES and component not in ("", "mj-all", "mj-class")


def _close_to(name: str, other: str) -> bool:
    return (
        difflib.SequenceMatcher(None, name, other).ratio() > 0.7 and name not in _HTML_TAGS and name not in ATTRIBUTES
    )


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.lower(), sorted(names), n=1)
    return f'did you mean "{close[0]}"?' if close else ""


def _excerpt(text: str) -> str:
    words = " ".join(text.split())
    return f'"{words}"' if len(words) <= 40 else f'"{words[:39]}…"'
