"""Issues that have been sent, for the tests of the archive: opened and written down, as a worker does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from audience import add_people, editions
from newsletter.config import Config
from newsletter.content.issue import load_issue
from newsletter.rendering.edition import Edition
from newsletter.rendering.render import load_templates, render_issue

STORY = """\
  - title: {{en: "Bridge {number} over the river", es: "El puente {number} sobre el río"}}
    date: {day}
    url: https://elsewhere.example.org/bridge-{number}
    image: {{src: images/bridge.png, alt: {{en: A bridge, es: Un puente}}}}
    summary: {{en: "It is **open**, @@NAME@@.", es: "Ya está **abierto**."}}
"""

ISSUE = """\
date: {day}
number: 7
subject: {{en: "A bridge & <three> stories", es: "Un puente y <tres> historias"}}
preheader: {{en: "What the river says", es: "Lo que dice el río"}}
intro: {{en: "Good morning @@NAME@@, this is the week.", es: "Buenos días @@NAME@@."}}
{more}stories:
{stories}"""


def send(
    config: Config, issue: str = "2017-11-19", made: Mapping[str, Edition] | None = None, **options: object
) -> int:
    """Opens a mailing of these editions to the list `weekly`, or `list=`, and lets it begin; its id."""
    from newsletter.store import mailings, models

    name = str(options.pop("list", "weekly"))
    row = models.List.objects.filter(name=name).first()
    if row is None or not row.pk:
        first = {"weekly": 1, "alerts": 101}.get(name, 201)
        id = add_people(config, range(first, first + 4), list=name)
    else:
        id = row.pk
    opened = mailings.open_mailing(
        made or editions(key=issue),
        issue=issue,
        list=id,
        default_language="en",
        provider="memory",
        again=bool(options.pop("again", False)),
    )
    assert not options
    while mailings.write_down(opened.mailing):
        pass
    return opened.mailing


def rendered(config: Config, issue: str = "2017-11-19", *, more: str = "") -> dict[str, Edition]:
    """An issue of the workspace with three stories and a picture, rendered with the sample's templates. Its file stays
    in issues/."""
    folder = config.issues / "images"
    folder.mkdir(exist_ok=True)
    if not (folder / "bridge.png").exists():
        (folder / "bridge.png").write_bytes(png(600, 300))
    path = config.issues / f"{issue}.yaml"
    stories = "".join(STORY.format(number=number, day=issue[:10]) for number in (1, 2, 3))
    path.write_text(ISSUE.format(day=issue[:10], stories=stories, more=more), "utf-8")
    templates = load_templates(config)
    read = load_issue(Path(path), config)
    return {language: render_issue(read, language, templates)[0] for language in ("en", "es")}


def png(width: int, height: int, shade: int = 90) -> bytes:
    """A picture of one grey."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = (b"\0" + bytes([shade]) * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
