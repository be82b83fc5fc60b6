"""What concerns a whole workspace and no single issue: its files, its theme, the mails that are no issues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from newsletter.config import Config
from newsletter.content.issue import stray_files
from newsletter.content.lists import load_lists
from newsletter.dkim import examine
from newsletter.errors import Finding, InputError, Where
from newsletter.rendering.look import Theme
from newsletter.rendering.render import NOTICES, Notice, Templates, own_welcome, render_notice
from newsletter.shape import nearest

ENOUGH = 4.5  # WCAG 2.2, 1.4.3: contrast of a text with what it stands on

# A text's colour and the ground it stands on.
_PAIRS = (
    *((text, "card") for text in ("ink", "soft", "muted", "brand")),
    *((text, "panel") for text in ("ink", "brand")),
    ("muted", "page"),
    ("call_ink", "call"),
    ("call_note", "call"),
)


def check_workspace(config: Config, templates: Templates | None) -> Iterator[Finding]:
    """Findings about newsletter.yaml, the files beside the issues, the lists, the theme, and the mails to members."""
    yield from config.remarks
    yield from _lists(config)
    if config.dkim:
        for finding in examine(config.dkim, sender=config.sender.address)[1]:
            # Git ignores the keys, so where issues are written they need not be; a provider does not open without.
            missing = finding.code == "dkim.missing"
            yield replace(finding, severity="warning") if missing else finding
    for path in stray_files(config.issues):
        help = "an issue is named YYYY-MM-DD.yaml, a story in its folder <name>.md; rename it, or put _ before the name"
        where = Where(path=config.shown(path))
        yield Finding(code="workspace.stray", severity="warning", where=where, message="is never read", help=help)
    if templates:
        yield from _contrast(templates.theme, config)
        yield from dict.fromkeys(_notices(config, templates))


def _lists(config: Config) -> Iterator[Finding]:
    try:
        lists = load_lists(config)
    except InputError as error:
        yield from error.findings
        return
    yield from lists.remarks
    if config.list not in lists.lists:
        where = config.marks.get("list") or Where(path=config.shown(config.lists))
        message = f"list: {config.list} is not in {config.shown(config.lists)}{nearest(config.list, lists.lists)}"
        help = f"name one of its lists in newsletter.yaml (list: …), or add it there: {', '.join(lists.lists)}"
        yield Finding(code="workspace.list", severity="error", where=where, message=message, help=help)


def _notices(config: Config, templates: Templates) -> Iterator[Finding]:
    welcomes = []
    with suppress(InputError):  # a broken lists.yaml is told of by `_lists`
        welcomes = [each for each in load_lists(config).lists if own_welcome(config, each)]
    for language in config.languages:
        mails: list[tuple[Notice, str]] = [*((each, "") for each in NOTICES), *(("welcome", each) for each in welcomes)]
        for notice, welcome in mails:
            try:
                yield from render_notice(notice, language, templates, welcome=welcome)[1]
            except InputError as error:
                yield from error.findings


def _contrast(theme: Theme, config: Config) -> Iterator[Finding]:
    for name, colours in (("light", theme.light), ("dark", theme.dark)):
        for text, ground in _PAIRS:
            ratio = contrast(colours[text], colours[ground])
            if ratio < ENOUGH:
                message = f"{name}.{text}: a contrast of {ratio:.1f} on {ground}, where {ENOUGH} is the least"
                help = f"make {text} {'darker' if name == 'light' else 'lighter'}, or {ground} the other way"
                where = Where(path=theme.where.path)
                yield Finding(code="workspace.contrast", severity="warning", where=where, message=message, help=help)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours written as #rrggbb, 1 to 21 (WCAG 2.2, relative luminance)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
