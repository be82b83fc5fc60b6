"""`newsletter collect`: stories from feeds, pages and listings into issue files, each story once, no edited line
touched.

Everything is read, placed and checked before the first file is written. A story is known again by the key it is
written with, by its link, or by its title, so an editor may change or move it as they like; what was *deleted* is
collected again.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import count
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from newsletter.config import Config
from newsletter.content.bulletins import is_bulletin, read_bulletin_text
from newsletter.content.dates import issue_date, order_of, parse_date
from newsletter.content.feeds import is_feed, read_feed
from newsletter.content.fetch import Fetched, fetch
from newsletter.content.format import add_stories, format_blocks, write_block, write_issue
from newsletter.content.issue import (
    Block,
    Issue,
    Story,
    issue_paths,
    load_blocks,
    load_issue,
    parse_blocks,
    parse_issue,
)
from newsletter.content.listings import read_listing
from newsletter.content.mails import is_mail, read_mail
from newsletter.content.markup import markdown_words
from newsletter.content.pages import is_page, read_page
from newsletter.content.prose import MAX_BYTES, Clipping, Clippings, decode, guess_language, refuse
from newsletter.content.tables import read_table
from newsletter.errors import CollectError, Finding, IssueError, Where
from newsletter.source import read_text


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of one entry of a source."""

    outcome: Literal["added", "skipped", "renamed"]  # renamed: a block whose name was taken by other words
    title: str
    date: date | None = None  # none: a block, or an entry that is not a story
    file: str = ""  # the file it stands in now, or stood in before
    name: str = ""  # of a block
    reason: str = ""  # why it was skipped or renamed
    where: Where  # in the source

    def __str__(self) -> str:
        what = f'"{self.title}"' if self.title else "an entry"
        of = f" ({self.date})" if self.date else f" (block {self.name})" if self.name else ""
        target = f" → {self.file}" if self.outcome != "skipped" else ""
        return f"{self.where}: {self.outcome} {what}{of}{target}{f': {self.reason}' if self.reason else ''}"

    def as_json(self) -> dict[str, object]:
        return {
            "outcome": self.outcome,
            "title": self.title,
            "date": self.date.isoformat() if self.date else None,
            "file": self.file or None,
            "block": self.name or None,
            "reason": self.reason or None,
            "source": self.where.path,
            "line": self.where.line or None,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `collect` did, or would do: a line for each entry of each source, in their order."""

    lines: tuple[Fate, ...] = ()
    written: tuple[str, ...] = ()  # files; with `dry_run` those that would be
    problems: tuple[Finding, ...] = ()  # warnings and notes
    dry_run: bool = False

    @property
    def added(self) -> tuple[Fate, ...]:
        return tuple(line for line in self.lines if line.outcome != "skipped")

    @property
    def skipped(self) -> tuple[Fate, ...]:
        return tuple(line for line in self.lines if line.outcome == "skipped")

    def as_json(self) -> dict[str, object]:
        """The shape `newsletter collect --json` prints."""
        return {
            "added": [line.as_json() for line in self.added],
            "skipped": [line.as_json() for line in self.skipped],
            "written": list(self.written),
            "problems": [finding.as_json() for finding in self.problems],
            "dry_run": self.dry_run,
        }

    def __str__(self) -> str:
        verb = "would write" if self.dry_run else "wrote"
        files = f"{verb} {', '.join(self.written)}" if self.written else "nothing new"
        stories = sum(line.date is not None for line in self.added)
        blocks = len(self.added) - stories
        total = f"{_count(stories, 'story', 'stories')} and {_count(blocks, 'block', 'blocks')} added"
        return "\n".join(
            [*map(str, self.problems), *map(str, self.lines), f"{total}, {len(self.skipped)} skipped; {files}"]
        )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def collect(
    sources: Sequence[str],
    config: Config,
    *,
    into: Path,
    language: str | None = None,
    dry_run: bool = False,
    fetch: Callable[[str], Fetched] = fetch,
) -> Report:
    """Adds the stories of `sources` (files and http(s) URLs) to the issues of the folder `into`, and reports on each.

    A dated entry goes to the issue of its week, an undated one of a listing to blocks.yaml. Texts are in `language`,
    or else in the one the source names if it is one of the workspace's. Where a source names none, and the workspace
    has no languages but English and Spanish, the words of each text tell its language; if they do not, those of the
    whole source; and at last it is the default language. Raises CollectError for sources, IssueError for files of
    `into` that cannot be used, with every problem; then nothing has been written. Files are replaced one by one, each
    at once or not at all.
    """
    if language is not None and language not in config.languages:
        help = f"languages of this workspace: {', '.join(config.languages)} (newsletter.yaml, languages:)"
        raise refuse("language", Where(path=language), "is not a language of this workspace", help)
    read: list[Clippings] = []
    findings: list[Finding] = []
    for source in sources:
        try:
            clippings = read_source(source, fetch=fetch)
            read.append(replace(clippings, language=language or clippings.language))
        except CollectError as error:
            findings += error.findings
    if findings:
        raise CollectError(findings)
    desk = _Desk(into, config)
    notes: list[Finding] = []
    for clippings in read:
        spoken, guessed = _languages(clippings, config)
        for clipping, said in zip(clippings.stories, spoken, strict=True):
            desk.place(clipping, said)
        notes += [*clippings.findings, *guessed]
    texts = desk.texts()
    written = tuple(config.shown(path) for path in texts)
    if not dry_run:
        _write(texts, config)
    return Report(lines=tuple(desk.lines), written=written, problems=tuple(notes), dry_run=dry_run)


def _languages(clippings: Clippings, config: Config) -> tuple[list[str], Sequence[Finding]]:
    """The language of each entry of a source, and a note where the words had to tell it."""
    stated = _language(clippings.language, config)
    if stated or not all(known.lower().partition("-")[0] in ("en", "es") for known in config.languages):
        return [stated or config.default_language] * len(clippings.stories), ()
    texts = [f"{clipping.title}\n{clipping.summary}" for clipping in clippings.stories]
    whole = _language(guess_language("\n".join(texts)), config) or config.default_language
    spoken = [_language(guess_language(text), config) or whole for text in texts]
    others = Counter(each for each in spoken if each != config.default_language)
    if not others:
        return spoken, ()
    told = ", ".join(f"{number} as {each}" for each, number in others.items())
    message = f"does not say its language: read by its words, {told}"
    help = "--language says it where that is wrong"
    where = clippings.stories[0].where
    note = Finding(code="collect.language", severity="note", where=Where(path=where.path), message=message, help=help)
    return spoken, (note,)


def _language(said: str, config: Config) -> str:
    """The workspace's language that a source's own ("es-PE", "en_GB") is or belongs to; "" if there is none."""
    said = said.replace("_", "-").lower()
    for candidate in (said, said.partition("-")[0]):
        for known in config.languages:
            if candidate and candidate in (known.lower(), known.lower().partition("-")[0]):
                return known
    return ""


# --- sources ---


def read_source(source: str, *, fetch: Callable[[str], Fetched] = fetch) -> Clippings:
    """The entries of a file or a URL, whatever it turns out to be: a feed, a page, a listing in plain text.
    CollectError."""
    where = Where(path=source)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        fetched = fetch(source)
        body, charset, base = fetched.body, fetched.charset, fetched.url
    else:
        body, charset, base = _read_file(source), "", ""
    text = decode(body, where, charset=charset)
    if not text.strip():
        raise refuse("no-stories", where, "is empty", "name another source")
    with order_of(text):
        if is_mail(text):
            return read_mail(body, source)
        if is_feed(text):
            return read_feed(text, source, base)
        if is_page(text):
            return read_page(text, source, base)
        stories = read_table(text, source) or (read_bulletin_text(text, source) if is_bulletin(text) else [])
        return Clippings(stories=tuple(stories)) if stories else read_listing(text, source)


def _read_file(source: str) -> bytes:
    where = Where(path=source)
    try:
        with Path(source).open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise refuse(
            "not-found", where, "there is no such file", "check the name; an address begins with https://"
        ) from None
    except IsADirectoryError:
        raise refuse("unreadable", where, "is a folder", "name the file itself") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise refuse("unreadable", where, f"cannot be read: {reason}", "check its permissions") from error
    if len(body) > MAX_BYTES:
        limit = f"is larger than {MAX_BYTES // 1024 // 1024} MiB"
        raise refuse("too-large", where, limit, "split it, or name a feed with the latest stories only")
    return body


# --- knowing a story again ---

_TRACKING = re.compile(
    r"(?:utm_.*|fbclid|gclid|gclsrc|gbraid|wbraid|dclid|msclkid|yclid|twclid|ttclid|igshid|igsh|mc_cid|mc_eid|mkt_tok|_hsenc|_hsmi"
    r"|hsctatracking|oly_enc_id|oly_anon_id|vero_id|wickedid|xtor|at_medium|at_campaign|at_custom\d|s_cid|_ga|_gl|ref_src|cmpid)",
    re.IGNORECASE,
)


def untracked(url: str) -> str:
    """The link without the parameters that only tell where a reader came from."""
    base, mark, fragment = url.partition("#")
    path, question, query = base.partition("?")
    kept = [part for part in query.split("&") if part and not _TRACKING.fullmatch(part.partition("=")[0])]
    if not question or len(kept) == len(query.split("&")):
        return url
    return path + ("?" + "&".join(kept) if kept else "") + mark + fragment


def canonical_link(url: str) -> str:
    """What two links to the same page share: no scheme, no default port, no tracking, no fragment, no slash at the
    end."""
    parts = urlsplit(untracked(url))
    host = (parts.hostname or "").lower()
    port = f":{parts.port}" if parts.port not in (None, 80, 443) else ""
    return urlunsplit(("", host + port, parts.path.rstrip("/"), parts.query, ""))


# Places that pages have, not stories: text fragments, comments, what follows the fold, campaigns.
_NO_PLACE = re.compile(
    r":~:.*|top|main|content|comments?|comment-\d+|respond|reply|more(-\d+)?|(utm_|xtor|at_|ref)\w*=.*", re.IGNORECASE
)


def _place(url: str | None) -> str:
    """The place of a page that a link leads to, where it may be one story among others: hand-made feeds have but one
    page."""
    fragment = urlsplit(url or "").fragment
    return "" if _NO_PLACE.fullmatch(fragment) else fragment


def canonical_title(title: str) -> str:
    """What two spellings of a title share: letters (with their accents), figures and symbols, but no case or
    punctuation."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", title).casefold())
    words = "".join(" " if unicodedata.category(sign)[0] in "PZC" else sign for sign in folded).split()
    return " ".join(words) or folded.strip()


def collected_key(title: str, day: date, url: str | None) -> str:
    """The key a story is written with, from what the source says of it."""
    known = f"{canonical_link(url)}#{_place(url)}".rstrip("#") if url else f"{canonical_title(title)}\n{day}"
    return hashlib.sha256(known.encode("utf-8", "replace")).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A story that is there already."""

    file: str
    week: date
    titles: frozenset[str]
    url: str | None


@dataclass(kw_only=True)
class _Memory:
    """Every story of the folder and of this run, by what it can be known again by."""

    by_key: dict[str, _Known] = field(default_factory=dict)
    by_link: dict[str, list[_Known]] = field(default_factory=dict)
    by_title: dict[str, list[_Known]] = field(default_factory=dict)

    def keep(self, story: Story, file: str, week: date) -> None:
        titles = frozenset(map(canonical_title, story.title.values()))
        known = _Known(file=file, week=week, titles=titles, url=story.url)
        if story.collected:
            self.by_key.setdefault(story.collected, known)
        if story.url:
            self.by_link.setdefault(canonical_link(story.url), []).append(known)
        for title in titles:
            self.by_title.setdefault(title, []).append(known)

    def find(self, title: str, week: date, url: str | None, key: str) -> tuple[_Known, str] | None:
        """The story that a new one repeats, and how it is known."""
        if key in self.by_key:
            return self.by_key[key], "collected before"
        title = canonical_title(title)
        for known in self.by_link.get(canonical_link(url), ()) if url else ():
            places = {_place(url), _place(known.url)} - {""}
            if len(places) < 2 or title in known.titles:  # two places of one page are two stories
                return known, "the same link"
        for known in self.by_title.get(title, ()):
            if known.week == week or (known.url is None) != (url is None):  # else a column that appears every week
                return known, "the same title"
        return None


# --- placing ---


class _Desk:
    """The folder of issues while stories are laid into it; nothing is written here. Raises IssueError where a file of
    the folder cannot be loaded: what cannot be read cannot be compared."""

    def __init__(self, into: Path, config: Config) -> None:
        self.into, self.config = into, config
        self.lines: list[Fate] = []
        self.memory = _Memory()
        self.issues: dict[Path, Issue] = {}
        self.new: dict[Path, list[Story]] = {}
        self.blocks: dict[str, Block] = {}
        self.new_blocks: list[Block] = []
        self.block_words: dict[tuple[str, str], str] = {}  # the name of each block, by its language and words
        findings: list[Finding] = []
        for path in self._paths():
            try:
                exists = path.exists()
                issue = load_issue(path, config) if exists else parse_issue(f"date: {path.stem[:10]}\n", path, config)
            except IssueError as error:
                findings += error.findings
                continue
            if exists:
                self.issues[path] = issue
            for story in issue.stories:
                self.memory.keep(
                    story, story.where.path or config.shown(path), issue_date(story.date, config.week_ends)
                )
        try:
            self.blocks = load_blocks(into / "blocks.yaml", config)
        except IssueError as error:
            findings += error.findings
        if findings:
            raise IssueError(dict.fromkeys(findings))
        for name, block in self.blocks.items():
            for language in block.title:
                self.block_words.setdefault((language, _block_words(block, language)), name)

    def _paths(self) -> list[Path]:
        """The issues, and those that exist only as a folder of stories so far."""
        folders = [each for each in self.into.glob("????-??-??") if each.is_dir() and parse_date(each.name)]
        return [
            *issue_paths(self.into),
            *(each.with_suffix(".yaml") for each in folders if not each.with_suffix(".yaml").exists()),
        ]

    def place(self, clipping: Clipping, language: str) -> None:
        if clipping.problem or not clipping.title:
            self._skip(clipping, clipping.problem or "has no title")
        elif clipping.date is None:
            self._place_block(clipping, language)
        else:
            self._place_story(clipping, clipping.date, language)

    def _skip(self, clipping: Clipping, reason: str, file: str = "", name: str = "") -> None:
        line = Fate(
            outcome="skipped",
            title=clipping.title,
            date=clipping.date,
            file=file,
            name=name,
            reason=reason,
            where=clipping.where,
        )
        self.lines.append(line)

    def _place_story(self, clipping: Clipping, day: date, language: str) -> None:
        url = untracked(clipping.url) if clipping.url else None
        week = issue_date(day, self.config.week_ends)
        key = collected_key(clipping.title, day, url)
        known = self.memory.find(clipping.title, week, url, key)
        if known:
            self._skip(clipping, f"already in {known[0].file} ({known[1]})", known[0].file)
            return
        story = Story(
            title={language: clipping.title},
            date=day,
            url=url,
            source={language: clipping.source} if clipping.source else {},
            summary={language: clipping.summary} if clipping.summary else {},
            collected=key,
            where=clipping.where,
        )
        path = self._path(week)
        file = self.config.shown(path)
        self.new.setdefault(path, []).append(story)
        self.memory.keep(story, file, week)
        self.lines.append(Fate(outcome="added", title=clipping.title, date=day, file=file, where=clipping.where))

    def _path(self, week: date) -> Path:
        """The issue of a week: by its name, or else by its date; or else a new one."""
        path = self.into / f"{week}.yaml"
        if path in self.issues:
            return path
        return next((each for each, issue in self.issues.items() if issue.date == week), path)

    def _place_block(self, clipping: Clipping, language: str) -> None:
        file = self.config.shown(self.into / "blocks.yaml")
        words = canonical_title(markdown_words(f"{clipping.title}\n\n{clipping.summary}"))
        known = self.block_words.get((language, words))
        if known:
            self._skip(clipping, f"already in {file} (the same words)", file, known)
            return
        base = name = slug(clipping.title)
        for number in count(2):
            if name not in self.blocks:
                break
            name = f"{base}-{number}"
        self.block_words[language, words] = name
        where = clipping.where
        text = {language: clipping.summary} if clipping.summary else {}
        url = untracked(clipping.url) if clipping.url else None
        block = Block(name=name, style="background", title={language: clipping.title}, text=text, url=url, where=where)
        self.blocks[name] = block
        self.new_blocks.append(block)
        reason = "" if name == base else f"block {base} is there with other words"
        outcome: Literal["added", "renamed"] = "renamed" if reason else "added"
        self.lines.append(Fate(outcome=outcome, title=clipping.title, file=file, name=name, reason=reason, where=where))

    def texts(self) -> dict[Path, str]:
        """The new text of every file that changes; each has been read again and holds what it should."""
        texts: dict[Path, str] = {}
        for path, stories in sorted(self.new.items()):
            if path in self.issues:
                texts[path] = add_stories(_text(path), stories, path, self.config)
                continue
            day = date.fromisoformat(path.stem)
            texts[path] = write_issue(
                Issue(name=path.stem, date=day, stories=tuple(stories), where=Where(path="")), self.config
            )
            if parse_issue(texts[path], path, self.config).stories[: len(stories)] != tuple(stories):
                raise AssertionError(f"{path}: would not hold the stories that were collected")
        if self.new_blocks:
            path = self.into / "blocks.yaml"
            texts[path] = self._blocks_text(path)
        return texts

    def _blocks_text(self, path: Path) -> str:
        """blocks.yaml with the new blocks at its end. Where nothing can be put there (the blocks are in braces, or all
        indented) the file is put into its canonical form first."""
        added = "\n".join(write_block(block, self.config) for block in self.new_blocks)
        before = _text(path) if path.exists() else ""
        name = self.config.shown(path)
        for canonical in (False, True):
            text = format_blocks(before, path, self.config) if canonical else before
            result = f"{text.rstrip()}\n\n{added}".lstrip("\n")
            try:
                if parse_blocks(result, name, self.config) == self.blocks:
                    return result
            except IssueError:
                continue
        raise AssertionError(f"{path}: adding blocks would have changed what stands there")


def _block_words(block: Block, language: str) -> str:
    """What a message shows of a block, to be compared."""
    parts = (block.title, block.text, block.button, block.note)
    return canonical_title(markdown_words("\n\n".join(part.get(language, "") for part in parts)))


def slug(title: str) -> str:
    """A title as the name of a block: ASCII, at most 40 characters."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(name) > 40:
        name = name[:41].rpartition("-")[0] or name[:40]
    return name.strip("-") or "block"


def _text(path: Path) -> str:
    text, findings = read_text(path, family="issue")
    if findings:
        raise IssueError(findings)
    return text


# --- writing ---


def _write(texts: dict[Path, str], config: Config) -> None:
    """Writes every text beside its file first, and then puts all of them into place. CollectError where that fails."""
    waiting: list[tuple[Path, Path]] = []
    path = Path()
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            target = path.resolve()  # what a link leads to is replaced, not the link
            beside = target.with_name(f".{target.name}.new")
            waiting.append((beside, target))
            beside.unlink(missing_ok=True)
            with open(
                os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w", encoding="utf-8", newline="\n"
            ) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                beside.chmod(stat.S_IMODE(target.stat().st_mode))
        for beside, target in waiting:
            path = target
            beside.replace(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise refuse(
            "write", Where(path=config.shown(path)), f"cannot be written: {reason}", "check its permissions"
        ) from error
    finally:
        for beside, _ in waiting:
            beside.unlink(missing_ok=True)
