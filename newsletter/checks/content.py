"""Opinions about what an editor wrote: dates, doubles, gaps. Nothing here keeps an issue from loading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from urllib.parse import urlsplit

from newsletter.checks.examined import Examined
from newsletter.config import WEEKDAYS, Config
from newsletter.content.issue import Issue
from newsletter.content.markdown import to_text
from newsletter.errors import Finding, Severity, Where
from newsletter.shape import nearest

SUBJECT_LENGTH = 90  # characters; what a desktop inbox shows of a subject at the most


def check(examined: Examined) -> Iterator[Finding]:
    """Findings of family `content`."""
    issue, config = examined.issue, examined.config
    yield from _texts(issue)
    yield from _issue(issue, config)
    yield from _stories(issue, config)
    yield from _doubles(issue)


def _finding(code: str, severity: Severity, where: Where, message: str, help: str) -> Finding:
    return Finding(code=f"content.{code}", severity=severity, where=where, message=message, help=help)


def _issue(issue: Issue, config: Config) -> Iterator[Finding]:
    if not issue.name.startswith(issue.date.isoformat()):
        message = f"the date is {issue.date}, and the file is named {issue.name}"
        yield _finding(
            "file-name", "error", issue.at("date"), message, f"rename the file to {issue.date}.yaml, or mend the date"
        )
    weekday = WEEKDAYS[issue.date.weekday()]
    if weekday != config.week_ends:
        message = f"{issue.date} is a {weekday.capitalize()}, and weeks end on {config.week_ends.capitalize()}"
        yield _finding(
            "week-end", "warning", issue.at("date"), message, "change the date, or week_ends in newsletter.yaml"
        )
    if not issue.stories:
        yield _finding("no-stories", "warning", issue.at("stories"), "there are no stories", "add one under stories:")
    if not issue.subject:
        help = "write subject: what the mail is about, in each language"
        yield _finding("no-subject", "warning", issue.where, "no subject: the first story's title stands in", help)
    for language, subject in issue.subject.items():
        if len(subject) > SUBJECT_LENGTH:
            message = f"subject.{language}: {len(subject)} characters, and inboxes show {SUBJECT_LENGTH} at most"
            yield _finding(
                "long-subject", "warning", issue.at("subject"), message, "put what matters first, and less of it"
            )
    if not issue.preheader:
        help = "write preheader: the line that inboxes show beside the subject"
        yield _finding("no-preheader", "note", issue.where, "no preheader: headlines stand in", help)


def _stories(issue: Issue, config: Config) -> Iterator[Finding]:
    first = date.fromordinal(max(1, issue.date.toordinal() - 6))
    for index, story in enumerate(issue.stories):
        name = f"stories[{index}]"
        if not first <= story.date <= issue.date:
            message = f"{name}.date: {story.date} is outside the week of this issue ({first} to {issue.date})"
            yield _finding("week", "warning", story.at("date"), message, "move the story to its week, or mend the date")
        if story.section and config.sections and story.section not in config.sections:
            known = ", ".join(config.sections)
            message = f"{name}.section: {story.section} has no name{nearest(story.section, config.sections)}"
            yield _finding("section", "warning", story.at("section"), message, f"sections of newsletter.yaml: {known}")
        if not story.summary:
            yield _finding(
                "no-summary", "warning", story.where, f"{name}: no summary", "write summary: two or three sentences"
            )
        if story.image and not story.image.alt:
            help = "write alt: what the picture shows, for those who cannot see it"
            yield _finding("no-alt", "warning", story.image.where, f"{name}.image: no alt text", help)


# What readers will see as it is typed, since Markdown here makes nothing of it: the sign, what to do instead.
_AS_TYPED = (
    (re.compile(r"!\[[^\]\n]*\]\([^)\n]*\)?"), "a picture cannot stand in a text: put it under image:"),
    (re.compile(r"\[[^\[\]\n]*\]\([^)\n]*\)?"), "write a full address without blanks: [words](https://…)"),
    (re.compile(r"</?[a-z][a-z0-9]*(?: [^<>]*)?/?>"), "write it in Markdown; HTML is shown as it is typed"),
    (re.compile(r"\|(?: *:?-+:? *\|)+"), "tables cannot stand in a text: write a list"),
)


def _texts(issue: Issue) -> Iterator[Finding]:
    """What `newsletter new` left to be filled in, and links that lead nowhere."""
    texts = [(name, getattr(issue, name), issue.at(name)) for name in ("subject", "preheader", "intro")]
    for index, story in enumerate(issue.stories):
        texts += [(f"stories[{index}].{name}", getattr(story, name), story.at(name)) for name in ("title", "summary")]
    texts += [(f"block {block.name}", block.text, block.at("text")) for block in issue.blocks]
    for name, text, where in texts:
        for language, words in text.items() if name.endswith(("intro", "summary")) or name.startswith("block ") else ():
            shown = to_text(words, language)
            for sign, help in _AS_TYPED:
                if typed := sign.search(shown):
                    message = f"{name}.{language}: readers will see {typed[0][:60]} as it is typed"
                    yield _finding("as-typed", "warning", where, message, help)
                    break
        left = [language for language, words in text.items() if words in ("…", "...")]
        if left:
            message = f"{name}: still the … of a fresh file ({', '.join(left)})"
            yield _finding("placeholder", "error", where, message, "write the text, or delete the line")


def _doubles(issue: Issue) -> Iterator[Finding]:
    links: dict[str, int] = {}
    titles: dict[str, int] = {}
    for index, story in enumerate(issue.stories):
        if story.url:
            parts = urlsplit(story.url)
            link = f"{parts.netloc.lower()}{parts.path.rstrip('/')}?{parts.query}"
            if links.setdefault(link, index) != index:
                message = f"stories[{index}].url: the same link as stories[{links[link]}]"
                yield _finding(
                    "same-link", "warning", story.at("url"), message, "remove one of the two stories, or mend the link"
                )
        for title in story.title.values():
            plain = re.sub(r"\W+", " ", title.casefold()).strip()
            if plain and titles.setdefault(plain, index) != index:
                message = f"stories[{index}].title: the same title as stories[{titles[plain]}]"
                yield _finding("same-title", "warning", story.at("title"), message, "remove one of the two stories")
                break
