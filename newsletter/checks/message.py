"""What a finished message must satisfy (STANDARDS: M1-M11, L1-L8), on the editions as they would be sent."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree

from newsletter.build import sample_recipient, seal_sample
from newsletter.checks.examined import Examined
from newsletter.config import Config
from newsletter.errors import Finding, InputError, NewsletterError, Severity, Where
from newsletter.rendering.edition import Edition, filled

# Gmail shows the first 102 KB of a message's HTML and hides the rest, footer and unsubscribe link included.
CLIPPED_AT = 102_400  # bytes
CLOSE_TO_CLIPPED = 90_000
HEAVY_IMAGE = 500_000  # bytes
FORBIDDEN = ("script", "form", "iframe", "object", "embed", "input", "video", "audio")


def check(examined: Examined) -> Iterator[Finding]:
    """Findings of family `message`."""
    config = examined.config
    if not config.postal_address:
        help = "write postal_address: in newsletter.yaml; many laws ask for one"
        yield _finding("postal-address", "warning", config.marks.get("title"), "no postal address in the footer", help)
    for edition in examined.editions.values():
        where = Where(path=examined.issue.where.path)
        yield from _envelope(edition, config, where, examined)
        yield from _size(edition, where, config)
        yield from _html(edition, where)


def _finding(code: str, severity: Severity, where: Where | None, message: str, help: str) -> Finding:
    return Finding(code=f"message.{code}", severity=severity, where=where, message=message, help=help)


def _envelope(edition: Edition, config: Config, where: Where, examined: Examined) -> Iterator[Finding]:
    try:
        seal_sample(edition, config, examined.issue.date)
    except InputError as error:
        yield from error.findings
    except NewsletterError as error:
        yield _finding("envelope", "error", where, f"({edition.language}) {error}", "correct the text that it names")
    if edition.kind == "bulk":
        for part, text in (("HTML", edition.html), ("text", edition.text)):
            if "@@UNSUBSCRIBE_URL@@" not in text:
                help = "put @@UNSUBSCRIBE_URL@@ into the template's footer"
                yield _finding(
                    "unsubscribe", "error", where, f"({edition.language}) the {part} part has no unsubscribe link", help
                )


def _size(edition: Edition, where: Where, config: Config) -> Iterator[Finding]:
    size = len(filled(edition, sample_recipient(edition, config).slots)[0].encode())
    if size >= CLIPPED_AT:
        message = (
            f"({edition.language}) {size:,} bytes of HTML: Gmail hides what comes after {CLIPPED_AT:,}, footer included"
        )
        yield _finding("clipped", "error", where, message, "shorten summaries, or move stories to the next issue")
    elif size >= CLOSE_TO_CLIPPED:
        message = (
            f"({edition.language}) {size:,} bytes of HTML, close to the {CLIPPED_AT:,} after which Gmail hides the rest"
        )
        yield _finding("large", "warning", where, message, "shorten summaries")
    for image in edition.images:
        if len(image.content) > HEAVY_IMAGE:
            message = f"{image.name}: {len(image.content):,} bytes, slow on a phone"
            yield _finding("heavy-image", "warning", where, message, "save it as JPEG, 1072 pixels wide")


def _html(edition: Edition, where: Where) -> Iterator[Finding]:
    tree = etree.fromstring(edition.html.encode(), etree.HTMLParser(encoding="utf-8"))
    for element in tree.iter(*FORBIDDEN):
        message = f"({edition.language}) <{element.tag}> in the HTML: mail clients remove it, filters distrust it"
        yield _finding("forbidden", "error", where, message, "take it out of the template")
    for link in tree.iter("a"):
        words = (
            str(link.xpath("string()")).strip()
            or link.get("aria-label")
            or "".join(i.get("alt") or "" for i in link.iter("img"))
        )
        if not link.get("href"):
            yield _finding(
                "empty-link",
                "error",
                where,
                f"({edition.language}) a link leads nowhere: {words[:40]!r}",
                "give it an href",
            )
        elif not words.strip():
            href = link.get("href") or ""
            yield _finding(
                "wordless-link", "error", where, f"({edition.language}) a link without words: {href}", "give it words"
            )
    for picture in tree.iter("img"):
        if picture.get("alt") is None:
            message = f"({edition.language}) an image without alt: {picture.get('src')}"
            yield _finding("no-alt", "error", where, message, 'write alt="…", or alt="" where it says nothing')
