"""What templates see: an issue's content in one language, ready to be printed."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from newsletter.errors import Where


@dataclass(frozen=True, kw_only=True)
class PictureView:
    url: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class TongueView:
    """The language of a text that stands in for a missing translation, and its direction where that differs too; both
    are empty for a text in the edition's own language."""

    language: str
    direction: str

    @classmethod
    def of(cls, view: StoryView | BlockView) -> TongueView:
        return cls(language=view.language, direction=view.direction)


@dataclass(frozen=True, kw_only=True)
class StoryView:
    """A story in one language. `language` is set, with its name, only where the texts are in another one."""

    anchor: str  # "s1", counted through the whole issue in the order shown
    number: int
    title: str
    url: str | None
    day: str
    section: str
    source: str
    image: PictureView | None
    html: Markup
    text: str
    language: str
    direction: str
    language_note: str
    where: Where


@dataclass(frozen=True, kw_only=True)
class GroupView:
    """Stories under one heading. `by` says what the heading is: "date", "section", or "" when there is none."""

    heading: str
    by: str
    stories: tuple[StoryView, ...]


@dataclass(frozen=True, kw_only=True)
class BlockView:
    name: str
    title: str
    html: Markup
    text: str
    button: str
    url: str | None
    note: str
    language: str
    direction: str
    where: Where
