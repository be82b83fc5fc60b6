"""The fixed words of the pages: one YAML file per subject in words/, with a block for each language.

A key is found as "signup.heading". English has every word; a language without a block is shown in English, and the page
says so in its `lang`. What stands between braces is filled in; it is escaped when the page is made, like any value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent / "words"
FIRST = "en"  # the language that has every word


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of one language. Called with a key and what is to be filled in."""

    language: str  # the language they are in
    texts: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        text = self.texts[key]
        return text.format(**values) if values else text

    def version(self, key: str) -> str:
        """A short name for exactly this wording, before anything is filled in: kept beside consent."""
        return hashlib.sha256(self.texts[key].encode()).hexdigest()[:12]


@cache
def languages() -> Mapping[str, Words]:
    """The words of every language that the pages speak."""
    blocks: dict[str, dict[str, str]] = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        for language, texts in yaml.load(path.read_text("utf-8"), Loader=yaml.CSafeLoader).items():
            blocks.setdefault(language, {}).update({f"{path.stem}.{key}": text for key, text in texts.items()})
    return {language: Words(language=language, texts=texts) for language, texts in blocks.items()}


def words_for(language: str) -> Words:
    """The words of a language, or of the one it is a kind of ("es" for "es-PE"), or the English ones."""
    known = languages()
    while language not in known and "-" in language:
        language = language.rpartition("-")[0]
    return known.get(language, known[FIRST])


def wished(header: str, offered: Iterable[str]) -> str | None:
    """Which of the languages a browser asks for first (Accept-Language, RFC 9110 §12.5.4); None when it is none."""
    ranked: list[tuple[float, int, str]] = []
    for place, part in enumerate(header[:500].split(",")[:20]):
        tag, _, quality = part.strip().partition(";")
        try:
            weight = float(quality.strip().removeprefix("q=")) if quality else 1.0
        except ValueError:
            continue
        if tag and 0 < weight <= 1:
            ranked.append((-weight, place, tag.strip().lower()))
    offered = list(offered)
    for _, _, tag in sorted(ranked):
        for language in offered:
            if language.lower() == tag or language.lower().partition("-")[0] == tag.partition("-")[0]:
                return language
    return None
