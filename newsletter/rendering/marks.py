"""Which template and line, and which place of the issue, a piece of rendered text comes from.

`LineMarks` makes Jinja write marks into its output, `at` adds marks from inside a template, `strip` takes both out
again and keeps what they said as `Origins`. Marks are made of Unicode noncharacters (U+FDD0 … U+FDD1), which no issue
can hold since the loader rejects them, and which no character of HTML can be mistaken for.

    environment = SandboxedEnvironment(extensions=[LineMarks], …)
    environment.globals["at"] = at
    text, origins = strip(template.render(…))
    origins.find(text.index("<mj-button")).template      # templates/partials/story.mjml.j2:12

`explain` does the same for what Jinja raises: the exception becomes a TemplateError with file and line.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

from jinja2 import Environment
from jinja2 import TemplateError as JinjaError
from jinja2.exceptions import SecurityError, TemplateNotFound, TemplatesNotFound, TemplateSyntaxError, UndefinedError
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.utils import object_type_repr
from markupsafe import Markup

from newsletter.errors import Finding, InputError, TemplateError, Where

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_RESERVED = re.compile(f"[{_OPEN}{_CLOSE}]")
_MARK = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")
_LITERAL = re.compile(r"=(\d+):(.*)", re.DOTALL)  # the template's own text starts here, at this line
_VALUE = re.compile(r"!(\d+):(.*)", re.DOTALL)  # the output of an expression on this line starts here
_PLACE = re.compile(r"@(?:(\d+):(\d+):(.*))?", re.DOTALL)  # `at`: a place of the issue, or none

_CAPTURING = frozenset({"macro", "call", "filter", "set"})


class LineMarks(Extension):
    """A Jinja extension: the output says for each of its parts which template and line it comes from.

    Marks sit next to what is visible, never at the edge of white space, and where output is captured (macro, call,
    filter, set) only next to markup, so that templates may go on trimming, comparing and looking up what a macro
    returned. What looks at the characters of captured markup (`length`, `capitalize`) still sees the marks.
    """

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        # On tokens rather than on the source (`preprocess`): a mark can never land inside Jinja's own syntax.
        path = stream.filename or stream.name or "<template>"
        captured = 0
        previous = ""
        tag: list[Token] | None = None
        for token in stream:
            if reserved := _RESERVED.search(str(token.value)):
                line = token.lineno + token.value.count("\n", 0, reserved.start())
                message = "U+FDD0 and U+FDD1 are reserved for marks"
                raise TemplateSyntaxError(message, line, stream.name, stream.filename)
            if token.type == "data":
                yield Token(token.lineno, "data", _marked(token.value, token.lineno, path, captured=captured > 0))
                previous = "data"
                continue
            if token.type == "variable_begin" and previous != "data" and not captured:
                yield Token(token.lineno, "data", _value_mark(token.lineno, path))
            yield token
            previous = token.type
            if token.type == "block_begin":
                tag = []
            elif token.type == "block_end" and tag is not None:
                captured = max(0, captured + _capture_step(tag))
                tag = None
            elif tag is not None:
                tag.append(token)


def _capture_step(tag: list[Token]) -> int:
    """+1 for a tag whose body becomes a value, -1 for its end, 0 for any other."""
    word = tag[0].value if tag else ""
    if word.removeprefix("end") not in _CAPTURING:
        return 0
    if word.startswith("end"):
        return -1
    if word == "set":
        # {% set a = 1 %} has no body; {% set a %} and {% set a | filter(b=1) %} have one.
        sign = next((token.type for token in tag if token.type in ("assign", "pipe")), "")
        return 0 if sign == "assign" else 1
    return 1


def _marked(text: str, line: int, path: str, *, captured: bool) -> str:
    if captured and not any(character in text for character in '<>"'):
        return text
    body = text.strip()
    after = _value_mark(line + text.count("\n"), path)
    if not body:
        return text + after
    start = text.index(body)
    end = start + len(body)
    first = line + text.count("\n", 0, start)
    before = f"{_OPEN}={first}:{path}{_CLOSE}"
    return f"{text[:start]}{before}{body}{after}{text[end:]}"


def _value_mark(line: int, path: str) -> str:
    return f"{_OPEN}!{line}:{path}{_CLOSE}"


def at(where: Where | None) -> Markup:
    """A mark: from here on, until the next one, the content comes from this place of the issue; `None` ends it.

    For templates, as a global: `{{ at(story.where) }} … {{ at(None) }}`. It prints nothing that is left after `strip`.
    """
    if where is None:
        return Markup(f"{_OPEN}@{_CLOSE}")  # noqa: S704  a mark is no HTML and is taken out before anything reads it
    path = _RESERVED.sub("", where.path)
    return Markup(f"{_OPEN}@{where.line}:{where.column}:{path}{_CLOSE}")  # noqa: S704  as above


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a piece of rendered text comes from: the template, and the place of the issue if `at` named one."""

    template: Where
    issue: Where | None = None


class Origins:
    """Offset or line of a clean text → where it comes from. Built lazily: most texts are never asked about."""

    def __init__(self, text: str, pieces: list[str]) -> None:
        self._text = text
        self._pieces = pieces  # text, mark, text, mark … text: what re.split makes of a marked text
        self._starts: list[int] = []
        self._regions: list[tuple[str, int, int | None, Where | None]] = []  # path, line, where lines count from, issue

    def find(self, offset: int) -> Origin:
        """Where the character at this offset of the clean text comes from.

        Text without marks counts as a template named `<mjml>`, so that a document from elsewhere has lines too.
        """
        if not self._starts:
            self._read_marks()
        path, line, base, issue = self._regions[bisect_right(self._starts, offset) - 1]
        if base is not None:
            line += self._text.count("\n", base, offset)
        return Origin(template=Where(path=path, line=line), issue=issue)

    def find_line(self, line: int, column: int = 1) -> Origin:
        """The same for a line and a column of the clean text, both counted from 1."""
        offset = 0
        for _ in range(line - 1):
            end = self._text.find("\n", offset)
            if end < 0:
                break
            offset = end + 1
        return self.find(offset + column - 1)

    def _read_marks(self) -> None:
        path, line, offset = "<mjml>", 1, 0
        base: int | None = 0
        issue: Where | None = None
        for index, piece in enumerate(self._pieces):
            if index % 2:
                if literal := _LITERAL.fullmatch(piece):
                    path, line, base = literal[2], int(literal[1]), offset
                elif value := _VALUE.fullmatch(piece):
                    path, line, base = value[2], int(value[1]), None
                elif place := _PLACE.fullmatch(piece):
                    issue = Where(path=place[3], line=int(place[1]), column=int(place[2])) if place[3] else None
            elif piece or not index:
                self._starts.append(offset)
                self._regions.append((path, line, base, issue))
                offset += len(piece)


def strip(marked: str) -> tuple[str, Origins]:
    """The text without its marks, byte for byte what rendering without `LineMarks` and `at` gives; and its origins."""
    pieces = _MARK.split(marked)
    text = "".join(pieces[::2])
    return text, Origins(text, pieces)


def explain(error: Exception, environment: Environment | None = None) -> TemplateError:
    """What Jinja, or a function called from a template, raised, as a TemplateError that names the template and line.

    `environment` serves for hints only: the nearest filter, test or template name. An InputError raised inside a
    template keeps its own findings.
    """
    if isinstance(error, InputError):
        return TemplateError(error.findings)
    where, names = _innermost_template(error.__traceback__)
    text = " ".join(str(error).split()) or type(error).__name__
    code, hint = "template.failed", "look at the expression on this line and at the values it gets"
    match error:
        case TemplateSyntaxError():
            where = Where(path=error.filename or error.name or "<template>", line=error.lineno)
            code, text = "template.syntax", " ".join((error.message or "").split())
            hint = _hint_for_missing_filter(text, environment) or "correct the Jinja tag or expression on this line"
        case UndefinedError():
            code, hint = "template.undefined", _hint_for_undefined(text, names)
        case TemplateNotFound():
            wanted = error.templates[-1] if isinstance(error, TemplatesNotFound) else error.name
            code, text = "template.missing", f'there is no template "{wanted}"'
            where = where or Where(path=str(wanted))
            hint = _nearest(str(wanted), _template_names(environment)) or "create the file or correct the name"
        case SecurityError():
            code, hint = "template.forbidden", "templates may only read plain values and call what they are given"
        case UnicodeDecodeError():
            code, text, hint = "template.encoding", f"the file is not UTF-8: {text}", "save the file as UTF-8"
            where = where or _file_being_read(error.__traceback__)
        case JinjaError():
            pass
        case _:
            text = f"{text} ({type(error).__name__})"
    return TemplateError([Finding(code=code, severity="error", where=where, message=text, help=hint)])


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _innermost_template(traceback: TracebackType | None) -> tuple[Where | None, dict[str, object]]:
    """The deepest template frame, and the variables it could see.

    Jinja replaces the frames of compiled templates by ones that carry the template's file name, line and variables
    (jinja2/debug.py); an exception that did not pass its `handle_exception` still has the compiled frames.
    """
    found: tuple[Where | None, dict[str, object]] = (None, {})
    for entry in _frames(traceback):
        frame = entry.tb_frame
        if "__jinja_exception__" in frame.f_globals:
            found = Where(path=frame.f_code.co_filename, line=entry.tb_lineno), dict(frame.f_locals)
        elif template := frame.f_globals.get("__jinja_template__"):
            path = template.filename or template.name or "<template>"
            found = Where(path=path, line=template.get_corresponding_lineno(entry.tb_lineno)), {}
    return found


def _file_being_read(traceback: TracebackType | None) -> Where | None:
    paths = [entry.tb_frame.f_locals.get("filename") for entry in _frames(traceback)]
    return next((Where(path=path) for path in reversed(paths) if isinstance(path, str)), None)


def _hint_for_undefined(message: str, names: dict[str, object]) -> str:
    if missing := re.fullmatch(r"'(\w+)' is undefined", message):
        return _nearest(missing[1], names) or "give the variable a value or correct its name"
    if missing := re.fullmatch(r"'(.+)' has no attribute '(\w+)'", message):
        return _nearest(missing[2], _members(missing[1], names)) or "correct the name, or test with `is defined` first"
    return "give it a value, or test with `is defined` first"


def _members(kind: str, names: dict[str, object]) -> set[str]:
    """The keys and public attributes of the variables of that type, looking one level into each variable."""
    reached: list[object] = []
    for value in names.values():
        reached.append(value)
        reached.extend(value.values() if isinstance(value, dict) else getattr(value, "__dict__", {}).values())
    members: set[str] = set()
    for value in reached:
        if object_type_repr(value) == kind:
            members.update(str(key) for key in (value if isinstance(value, dict) else dir(value)))
    return {member for member in members if not member.startswith("_")}


def _hint_for_missing_filter(message: str, environment: Environment | None) -> str:
    missing = re.match(r"No (filter|test) named '([\w.]+)'", message)
    if not missing or environment is None:
        return ""
    return _nearest(missing[2], environment.filters if missing[1] == "filter" else environment.tests)


def _template_names(environment: Environment | None) -> list[str]:
    try:
        return environment.list_templates() if environment is not None else []
    except TypeError:  # a loader that cannot list
        return []


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f'did you mean "{close[0]}"?' if close else ""
