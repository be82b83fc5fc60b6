"""What a workspace says about its look: theme.yaml (colours, fonts, logo) and labels.yaml (the fixed words per
language).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

from newsletter.config import Config
from newsletter.errors import Finding, TemplateError, Where
from newsletter.shape import Field, Reading, Record, Shape, read_record, read_value
from newsletter.source import Map, parse, read_text

_COLOURS = (
    ("page", "Behind the card."),
    ("card", "The sheet that the text stands on."),
    ("panel", "Boxes: the contents, about us."),
    ("ink", "Text."),
    ("soft", "The introduction."),
    ("muted", "Dates, sources, the footer."),
    ("brand", "Links and headings."),
    ("rule", "The line under a group's heading."),
    ("hairline", "Lines between stories."),
    ("call", "The call to join: its ground."),
    ("call_ink", "Its text."),
    ("call_note", "Its small line."),
)

COLOURS = Shape(name="colours", fields=tuple(Field(name=n, kind="colour", required=True, help=h) for n, h in _COLOURS))
FONTS = Shape(
    name="fonts",
    fields=(
        Field(
            name="text",
            kind="string",
            required=True,
            help="Fonts of the text, the best first. Only fonts readers have.",
        ),
        Field(name="headings", kind="string", required=True, help="Fonts of the headings."),
    ),
)
THEME = Shape(
    name="theme",
    fields=(
        Field(
            name="logo",
            kind="string",
            help="A picture in issues/images, shown 56 pixels high.",
            example="logo: images/logo.png",
        ),
        Field(name="fonts", kind=FONTS, required=True, help="Fonts."),
        Field(name="light", kind=COLOURS, required=True, help="Colours."),
        Field(name="dark", kind=COLOURS, required=True, help="Colours where the reader prefers dark."),
    ),
)

_WORDS = (
    ("view_in_browser", "Link at the top."),
    ("number", "Before the issue's number; {number} is the number."),
    ("contents", "Heading of the list of stories."),
    ("read_more", "Link under a story."),
    ("background", "Heading above the background blocks."),
    ("more", "Heading of the stories without a section."),
    ("source", "Before a story's source in the text part; {source} is the source."),
    ("in_language", "Shown at a text that is not translated; {language} is its language."),
    ("why", "In the footer: why the reader gets this; {title} is the newsletter's name."),
    ("unsubscribe", "Link in the footer."),
    ("preferences", "Link in the footer."),
    ("confirm_subject", "Subject of the mail that asks for confirmation."),
    ("confirm_heading", "Its heading."),
    ("confirm_text", "What it says."),
    ("confirm_button", "Its button."),
    ("confirm_note", "What to do when one did not ask for it."),
    ("welcome_subject", "Subject of the mail that welcomes."),
    ("welcome_heading", "Its heading."),
    ("welcome_text", "What it says."),
    ("welcome_button", "Its button, which leads to the latest issue."),
    ("date", "A day: {weekday}, {day}, {month}, {year}."),
    ("date_short", "A day without its year."),
)
# Words that came later: a labels.yaml that was written before them is lent the sample's.
_LATER = (
    ("confirm_lists", "Follows confirm_text where there are several lists; {lists} names those asked for."),
    ("known_subject", "Subject of the mail to somebody who signed up and is subscribed already."),
    ("known_heading", "Its heading."),
    ("known_text", "What it says."),
    ("known_button", "Its button, which leads to the preferences."),
    ("link_subject", "Subject of the mail with a fresh link to one's own data."),
    ("link_heading", "Its heading."),
    ("link_text", "What it says; the link is good for 30 minutes."),
    ("link_button", "Its button."),
    ("link_note", "What to do when one did not ask for it."),
    ("address_subject", "Subject of the mail that asks a new address for confirmation."),
    ("address_heading", "Its heading."),
    ("address_text", "What it says; the link is good for 24 hours."),
    ("address_button", "Its button."),
    ("address_note", "What to do when one did not ask for it."),
    ("moved_subject", "Subject of the mail to the old address, once the new one is confirmed."),
    ("moved_heading", "Its heading."),
    ("moved_text", "What it says; it does not name the new address."),
    ("moved_note", "What to do when one did not ask for it: the mail can be answered."),
)
LABELS = Shape(
    name="labels",
    fields=(
        Field(name="name", kind="string", required=True, help="The language's own name.", example="name: English"),
        Field(
            name="direction", kind="choice", choices=("ltr", "rtl"), help="Which way it is written. Default: as usual."
        ),
        *(Field(name=name, kind="string", required=True, help=help) for name, help in _WORDS),
        *(Field(name=name, kind="string", help=help) for name, help in _LATER),
        Field(name="months", kind="string", many=True, required=True, help="Twelve names."),
        Field(name="weekdays", kind="string", many=True, required=True, help="Seven names, Monday first."),
    ),
)

# Scripts written from right to left, by language; a script subtag (az-Arab) says it directly.
_RTL = frozenset({"ar", "arc", "ckb", "dv", "fa", "he", "iw", "ks", "nqo", "ps", "rhg", "sd", "syr", "ug", "ur", "yi"})
_RTL_SCRIPTS = frozenset({"adlm", "arab", "hebr", "nkoo", "rohg", "syrc", "thaa"})


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours by role, light and dark, font stacks, and the logo's path below issues/ (or None)."""

    logo: str | None
    fonts: Mapping[str, str]
    light: Mapping[str, str]
    dark: Mapping[str, str]
    where: Where  # of the logo, for what is wrong with it


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The fixed words of one language. `labels["read_more"]`, `labels.date(day)`."""

    language: str  # the language they are in, which may be another than was asked for
    words: Mapping[str, Any]
    lent: Mapping[str, str] = field(default_factory=dict)  # words that are in another language, and in which

    def __getitem__(self, name: str) -> str:
        return str(self.words[name])

    def date(self, day: date, form: Literal["date", "date_short"] = "date") -> str:
        """The day in words, its first letter a capital: "Martes, 24 de noviembre de 2026"."""
        text = self[form].format(
            weekday=self.words["weekdays"][day.weekday()],
            day=day.day,
            month=self.words["months"][day.month - 1],
            year=day.year,
        )
        return text[:1].upper() + text[1:]


def direction(language: str) -> Literal["ltr", "rtl"]:
    """Which way a language is written, from its tag (BCP 47)."""
    first, *rest = language.lower().split("-")
    scripts = {part for part in rest if len(part) == 4}
    if scripts:
        return "rtl" if scripts & _RTL_SCRIPTS else "ltr"
    return "rtl" if first in _RTL else "ltr"


_FONT = r"(?:[\w-]+(?: [\w-]+)*|'[\w -]+')"
_FONTS = re.compile(rf"{_FONT}(?: *, *{_FONT})*")


def load_theme(path: Path, config: Config) -> Theme:
    """The theme in a theme.yaml; TemplateError with every problem, each with its line."""
    node, reading = _read(path, config)
    record = read_record(node, THEME, reading)
    fonts: Record | None = record["fonts"]
    for key, stack in fonts.values.items() if fonts else ():
        if stack and not _FONTS.fullmatch(stack):
            help = "write names with commas between; a name with blanks may stand in 'single quotes'"
            where = fonts.marks[key] if fonts else record.where
            reading.report("value", where, f"fonts.{key}: must be a list of font names", help)
    if reading.findings:
        raise TemplateError(reading.findings)
    return Theme(
        logo=record["logo"],
        fonts=record["fonts"].values,
        light=record["light"].values,
        dark=record["dark"].values,
        where=record.marks.get("logo", record.where),
    )


def load_labels(
    path: Path, config: Config, *, lender: Callable[[], Mapping[str, Labels]] | None = None
) -> dict[str, Labels]:
    """The labels of a labels.yaml, by language; TemplateError with every problem, each with its line.

    `lender` gives the labels that words of a later version are taken from where the file has none; without it they must
    be there.
    """
    node, reading = _read(path, config)
    languages: dict[str, Labels] = {}
    for entry in node.entries:
        record: Record = read_value(entry.value, Field(name="labels", kind=LABELS, help=""), reading, at=entry.key)
        for name, count in (("months", 12), ("weekdays", 7)):
            if record[name] and len(record[name]) != count:
                reading.report("value", record.marks[name], f"{entry.key}.{name}: must be {count} names", "count them")
        for name, help in _LATER:
            if not record[name] and lender is None:
                reading.report("missing", record.where, f"{entry.key}.{name}: is missing", help)
        for name, _help in (*_WORDS, *_LATER):
            known = [f"{{{each}}}" for each in _PLACEHOLDERS.get(name, ())]
            rest = record[name] or ""
            for each in known:
                rest = rest.replace(each, "")
            if "{" in rest or "}" in rest:
                help = f"{' or '.join(known) or 'nothing'} is filled in here; write no other braces"
                message = f"{entry.key}.{name}: holds braces that nothing fills"
                reading.report("value", record.marks[name], message, help)
        languages[entry.key] = Labels(language=entry.key, words=record.values)
    if reading.findings:
        raise TemplateError(reading.findings)
    return {language: _completed(labels, lender) for language, labels in languages.items()}


def _completed(labels: Labels, lender: Callable[[], Mapping[str, Labels]] | None) -> Labels:
    """The labels with the words that they lack: the lender's of the same language, else in its English."""
    lacking = [name for name, _ in _LATER if not labels.words[name]]
    if not lacking or lender is None:
        return labels
    known = lender()
    lent = words_of(labels.language, known)
    words = {**labels.words, **{name: (lent or known["en"])[name] for name in lacking}}
    return Labels(language=labels.language, words=words, lent={} if lent else dict.fromkeys(lacking, "en"))


_NOTICES = ("confirm_", "welcome_", "known_", "link_", "address_", "moved_")

# What is filled in between braces, by the label's name.
_PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "number": ("number",),
    "source": ("source",),
    "in_language": ("language",),
    "why": ("title",),
    **{name: ("title",) for name, _ in (*_WORDS, *_LATER) if name.startswith(_NOTICES)},
    "confirm_text": ("title", "lists"),
    "confirm_lists": ("title", "lists"),
    "date": ("weekday", "day", "month", "year"),
    "date_short": ("weekday", "day", "month", "year"),
}


def _read(path: Path, config: Config) -> tuple[Map, Reading]:
    name = config.shown(path)
    text, findings = read_text(path, name=name, family="theme")
    if findings:
        raise TemplateError(findings)
    node, findings = parse(text, name, family="theme")
    reading = Reading(family="theme", languages=(), findings=findings)
    if isinstance(node, Map):
        return node, reading
    if not findings:
        reading.report("type", Where(path=name, line=1), "must be a map of keys", "compare it with the sample's")
    raise TemplateError(reading.findings)


def words_of(language: str, known: Mapping[str, Labels]) -> Labels | None:
    """The words of a language, or of the one it is a kind of: "pt" for "pt-BR" (RFC 4647 §3.4, lookup)."""
    while language not in known and "-" in language:
        language = language.rpartition("-")[0]
    return known.get(language)


def labels_for(language: str, known: Mapping[str, Labels], config: Config, path: Path) -> tuple[Labels, list[Finding]]:
    """The words for a language: its own, those of its base ("pt" for "pt-BR"), or others and a warning that says so."""
    if words := words_of(language, known):
        return words, []
    stand_in = next((known[each] for each in (*config.languages, "en", *known) if each in known), None)
    where = Where(path=config.shown(path))
    if stand_in is None:
        finding = Finding(
            code="theme.labels", severity="error", where=where, message="has no language in it", help="add en:"
        )
        raise TemplateError([finding])
    message = f"has no words for {language}: those of {stand_in.language} stand in"
    help = f"copy the block {stand_in.language}: to {language}: and translate it"
    return stand_in, [Finding(code="theme.labels", severity="warning", where=where, message=message, help=help)]
