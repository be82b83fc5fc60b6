"""What the mails of the pages are made of: lists and templates as they are on the disk, and each mail rendered once.

A server may be asked for hundreds of them a second, and rendering one takes some hundredths of a second.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from newsletter.config import Config
from newsletter.content.lists import List, covers, load_lists
from newsletter.errors import InputError
from newsletter.links import Keyring
from newsletter.rendering.edition import Edition
from newsletter.rendering.render import Notice, Templates, load_templates, own_welcome, render_notice
from newsletter.store.keys import keyring
from newsletter.store.models import Wish

FIRST_REST, LONGEST_REST = 5.0, 60.0  # seconds between two tries of a template that does not render


class Mail(NamedTuple):
    """One of the mails, whoever gets it."""

    notice: Notice
    language: str
    lists: tuple[str, ...] = ()  # confirm: ids of those to be confirmed, where there is a choice
    welcome: str = ""  # the list whose own welcome it is


Made = dict[Mail, Edition]


@dataclass(frozen=True, kw_only=True)
class _Broken:
    tries: int
    until: float  # Unix seconds: it rests until then


@dataclass(kw_only=True)
class Desk:
    """The lists and the templates as they are on the disk, and the mails that were made of them."""

    config: Config
    keyring: Keyring
    lists: Mapping[str, List]
    templates: Templates
    welcomes: frozenset[str]  # the lists that have a welcome of their own
    _ready: dict[Mail, Edition] = field(default_factory=dict)
    _broken: dict[Mail, _Broken] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ready(self, mail: Mail) -> Edition | None:
        return self._ready.get(mail)

    def rests(self, mail: Mail, now: float) -> float:
        """Until when a mail that could not be rendered rests, in Unix seconds; 0.0 when it may be tried."""
        broken = self._broken.get(mail)
        return broken.until if broken and broken.until > now else 0.0

    def render(self, mails: Iterable[Mail], made: Made, now: float) -> InputError | None:
        """Adds these to what is made, and gives what was wrong with one that cannot be rendered."""
        trouble = None
        with self._lock:
            for mail in mails:
                if edition := self._ready.get(mail):
                    made[mail] = edition
                    continue
                names = [self.lists[each].name for each in mail.lists]
                try:
                    edition, _ = render_notice(
                        mail.notice, mail.language, self.templates, lists=names, welcome=mail.welcome
                    )
                except InputError as error:
                    trouble = error
                    tries = self._broken[mail].tries + 1 if mail in self._broken else 0
                    rest = min(LONGEST_REST, FIRST_REST * 2.0**tries)
                    self._broken[mail] = _Broken(tries=tries, until=now + rest)
                    continue
                self._broken.pop(mail, None)
                while len(self._ready) >= 64:  # some dozens of KB each; strangers choose the lists
                    self._ready.pop(next(iter(self._ready)), None)
                self._ready[mail] = made[mail] = edition
        return trouble

    def language(self, wanted: str) -> str:
        """The language of the workspace that comes nearest to what somebody wants."""
        languages = self.config.languages
        if wanted in languages:
            return wanted
        return next((each for each in languages if covers(each, wanted)), self.config.default_language)

    def confirmation(self, wish: Wish, lists: Sequence[str]) -> Mail:
        """It names the lists where the visitor had a choice."""
        choice = sum(not each.private for each in self.lists.values()) > 1
        return Mail("confirm", self.language(wish.language), tuple(lists) if choice else ())


LOOK_AGAIN = 3.0  # seconds between two looks whether a file of the workspace has changed

_Stamps = tuple[tuple[str, int, int], ...]


class _Desks:
    """The desk of this process, which serves one workspace. It is set up again when a file of that has changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._config: Config | None = None
        self._files: _Stamps = ()
        self._logo: _Stamps = ()
        self._looked_at = 0.0  # monotonic seconds
        self._found: Desk | InputError | None = None

    def desk(self, config: Config) -> Desk:
        """Raises `InputError` for lists or templates that cannot be read."""
        with self._lock:
            now = time.monotonic()
            if self._found is None or self._config != config or now - self._looked_at > LOOK_AGAIN:
                self._look(config)
                self._looked_at = now
            if isinstance(self._found, InputError):
                raise self._found
            assert self._found
            return self._found

    def _look(self, config: Config) -> None:
        folders = os.walk(config.templates)
        paths = [os.path.join(folder, name) for folder, _, names in folders for name in names]
        files = _stamps([str(config.lists), *sorted(paths)])
        logo = _stamps([path for path, _, _ in self._logo])
        if self._found and (self._config, self._files, self._logo) == (config, files, logo):
            return
        self._config, self._files, self._logo = config, files, ()
        try:
            self._found = _set_up(config)
        except InputError as error:
            self._found = error
        else:
            if name := self._found.templates.theme.logo:
                self._logo = _stamps([str(config.issues / name)])


_desks = _Desks()


def desk(config: Config) -> Desk:
    """The desk of this process. Raises `InputError` for lists or templates of the workspace that cannot be read."""
    return _desks.desk(config)


def _stamps(paths: Iterable[str]) -> _Stamps:
    """What tells whether files are still what they were; of those that are there."""
    found = []
    for path in paths:
        with suppress(OSError):
            status = os.stat(path)
            found.append((path, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _set_up(config: Config) -> Desk:
    lists = load_lists(config).lists
    return Desk(
        config=config,
        keyring=keyring(config),
        lists=lists,
        templates=load_templates(config),
        welcomes=frozenset(each for each in lists if own_welcome(config, each)),
    )
