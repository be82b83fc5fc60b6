"""Words from outside made fit for an issue: bytes become text, a text a clean line, an address a whole one.

No control character stays, and no `@@` that could ask for a member's link (DESIGN §6). How a text becomes Markdown is
told in markup.py.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from datetime import date
from urllib.parse import parse_qs, quote, urljoin

from newsletter.errors import CollectError, Finding, Where
from newsletter.shape import UNPRINTABLE, Field, Reading, read_value
from newsletter.source import Scalar

MAX_BYTES = 5 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """A story as a source tells it, cleaned but not yet in an issue. Without a date it is a standing text: a block.

    `problem` says why it can be neither; then the other fields hold what is known.
    """

    title: str
    date: date | None = None
    summary: str = ""  # Markdown
    url: str | None = None
    source: str = ""
    problem: str = ""
    where: Where


@dataclass(frozen=True, kw_only=True)
class Clippings:
    """What one source holds, in its own order. `language` is what it says of itself, "" where it says nothing."""

    stories: tuple[Clipping, ...]
    language: str = ""
    findings: tuple[Finding, ...] = ()


def refuse(code: str, where: Where, message: str, help: str) -> CollectError:
    """A CollectError with one finding."""
    return CollectError([Finding(code=f"collect.{code}", severity="error", where=where, message=message, help=help)])


# --- bytes to text ---

_BOMS = (  # UTF-32 before UTF-16, whose mark begins like it
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(
    rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})|<meta[^>]{0,300}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""",
    re.IGNORECASE,
)
_LATIN = ("iso8859-1", "ascii")  # on the web these names mean Windows-1252 (WHATWG Encoding §4.2)
_KINDS = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\xd0\xcf\x11\xe0", "an office document"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"\x1f\x8b", "a gzip file"),
)


def decode(body: bytes, where: Where, *, charset: str = "") -> str:
    """The text in `body`: by its byte order mark, else by `charset` (of the HTTP header), by what it declares itself,
    as UTF-8, and at last as Windows-1252. Line ends become \\n. CollectError where the bytes are no text."""
    kind = next((name for magic, name in _KINDS if body.startswith(magic)), "")
    if not kind:
        text = re.sub(r"\r\n?", "\n", _decoded(body, charset))
        blind = sum(1 for _ in UNPRINTABLE.finditer(text[:4000]))
        if blind * 20 <= len(text[:4000]):
            return text
    help = "save it as plain text or HTML, or name the page's or the feed's address"
    raise refuse("not-text", where, f"is {kind or 'not text'}", help)


def _decoded(body: bytes, charset: str) -> str:
    for mark, name in _BOMS:
        if body.startswith(mark):
            return body.decode(name, "replace").removeprefix("\ufeff")
    wide = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(body[:2], "")
    match = _DECLARED.search(body[:4096])
    said = (match[1] or match[2]).decode("ascii") if match else ""
    said = "" if said.lower().startswith("utf-16") else said  # it could not be read if it were
    for name in (charset, wide, said, "utf-8"):
        try:
            codec = codecs.lookup(name).name
            # Only the codecs of real charsets: `punycode` takes quadratic time, `unicode_escape` reads backslashes.
            if re.match(r"utf-?(8|16)|cp\d|iso|koi|mac|big5|gb|euc|shift|latin|ascii", codec) is None:
                continue
            return body.decode("cp1252" if codec in _LATIN else codec)
        except (LookupError, ValueError):
            continue
    return body.decode("cp1252", "replace")


# --- one line, one address ---


def clean(text: str) -> str:
    """The text without control characters and without any @@; every sign that ends a line for some becomes a blank."""
    text = UNPRINTABLE.sub("", re.sub("[\x0b\x0c\x1c-\x1f\x85\u2028\u2029\xa0\u202f]", " ", text)).replace("\ufeff", "")
    return re.sub("@(?=@)", "@\u2060", text)  # a word joiner: it cannot be seen, and the slot is gone


def clean_line(text: str) -> str:
    """`clean`, with single blanks."""
    return " ".join(clean(text).split())


def clean_url(url: str, base: str = "") -> str | None:
    """The address, absolute and fit for an issue's `url`, or None where it is none: http or https, no user name, no
    @@."""
    try:
        url = _unwrapped(urljoin(base, UNPRINTABLE.sub("", url).strip()))
    except ValueError:
        return None
    url = re.sub(r"[\s\"<>\\^`{|}]", lambda match: quote(match[0]), url).replace("@@", "%40%40")
    node = Scalar(text=url, where=Where(path=""), plain=False)
    kind = Field(name="url", kind="url", help="")
    read: str | None = read_value(node, kind, Reading(family="collect", languages=()), at="url")
    return read


_WRAPPER = re.compile(
    r"https?://(?:www\.google\.[a-z.]{2,6}/url|[\w.-]+\.safelinks\.protection\.outlook\.com/|l\.facebook\.com/l\.php)\?(.*)",
    re.IGNORECASE,
)


def _unwrapped(url: str) -> str:
    """Where a link leads that an editor or a mailbox has wrapped into one of its own, to count or to check clicks."""
    wrapper = _WRAPPER.fullmatch(url)
    inner = parse_qs(wrapper[1]) if wrapper else {}
    return next((inner[key][0] for key in ("q", "url", "u") if inner.get(key, [""])[0].startswith("http")), url)


# --- English or Spanish ---

_SMALL_WORDS = {
    "en": r"(?:the|of|and|to|is|for|with|on|was|by|that|from|has|have|are|this|at|as|it|will|which|their)",
    "es": r"(?:el|la|los|las|de|del|que|y|en|para|por|con|una|un|se|su|al|lo|como|más|fue|sobre|este|esta)",
}


def guess_language(text: str) -> str:
    """The language of a text, "en" or "es", by the small words that each has and the other lacks; "" where they do not
    decide it."""
    text = text.lower()
    counts = {language: len(re.findall(rf"\b{words}\b", text)) for language, words in _SMALL_WORDS.items()}
    least, most = sorted(counts, key=lambda language: counts[language])
    return most if counts[most] >= 6 and counts[most] >= 4 * counts[least] else ""
