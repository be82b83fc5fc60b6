"""What every page needs, loaded once per server process: the workspace's settings, lists, look and keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from newsletter.config import Config
from newsletter.content.lists import List, Lists, load_lists
from newsletter.links import Keyring
from newsletter.rendering.look import Labels, Theme, words_of
from newsletter.rendering.render import load_templates
from newsletter.shape import Text
from newsletter.store.keys import keyring

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Site:
    """One workspace's pages. `prefix` is the path of base_url, "" or "/news", which every address begins with."""

    config: Config
    lists: Lists
    keyring: Keyring
    theme: Theme
    names: Mapping[str, str]  # of the workspace's languages, each in itself
    pages: Environment = field(repr=False)
    logo: tuple[str, bytes, str] | None = field(default=None, repr=False)  # its name, content and media type
    inbox: bool = False  # whether /inbox/ is there

    @property
    def prefix(self) -> str:
        return urlsplit(self.config.base_url).path.rstrip("/")

    @property
    def public_lists(self) -> tuple[List, ...]:
        """The lists that people can join, in their order."""
        return tuple(each for each in self.lists.lists.values() if not each.private)

    @cached_property
    def style(self) -> tuple[str, bytes]:
        """The style sheet, and its name, which is another one when its content is."""
        content = (_variables(self.theme) + (HERE / "static" / "pages.css").read_text("utf-8")).encode()
        return f"pages-{hashlib.sha256(content).hexdigest()[:12]}.css", content

    def text(self, text: Text, language: str) -> str:
        """A text of the workspace in a language, or in the first that it has."""
        return next((text[each] for each in (language, *self.config.languages) if text.get(each)), "")


def load_site(config: Config, *, inbox: bool = False) -> Site:
    """Raises `ConfigError`, `TemplateError` and `WrongKey` with what is wrong in the workspace."""
    templates = load_templates(config)
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    logo = templates.logo
    return Site(
        config=config,
        lists=load_lists(config),
        keyring=keyring(config),
        theme=templates.theme,
        names={language: _name(language, templates.labels) for language in config.languages},
        pages=environment,
        logo=(logo.name, logo.content, logo.media_type) if logo else None,
        inbox=inbox,
    )


def _name(language: str, labels: Mapping[str, Labels]) -> str:
    words = words_of(language, labels)
    name = words["name"] if words else language
    return name[:1].upper() + name[1:]


def _variables(theme: Theme) -> str:
    """The theme's colours and fonts as custom properties, light and dark."""

    def block(colours: Mapping[str, str]) -> str:
        return "".join(f"--{name.replace('_', '-')}:{value};" for name, value in colours.items())

    fonts = f"--text:{theme.fonts['text']};--headings:{theme.fonts['headings']};"
    return (
        f":root{{color-scheme:light dark;{fonts}{block(theme.light)}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{block(theme.dark)}}}}}\n"
    )


_current: Site | None = None


def use(site: Site) -> None:
    """The site of this process from now on."""
    global _current  # noqa: PLW0603 - one process serves one workspace, and Django's views are given nothing but a request
    _current = site


def site() -> Site:
    """The site of this process."""
    assert _current is not None, "newsletter.web.site.use comes first"
    return _current
