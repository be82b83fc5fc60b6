"""Issues as editors keep them: one YAML file a week, standing blocks beside them, stories in a folder of the same
name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from newsletter.config import Config
from newsletter.content.markdown import slot_in_result
from newsletter.errors import Finding, IssueError, Where
from newsletter.shape import LANGUAGE, WORD, Field, Reading, Record, Shape, Text, nearest, read_record, read_value
from newsletter.source import Map, Node, Scalar, parse, read_text

IMAGE = Shape(
    name="image",
    fields=(
        Field(
            name="src",
            kind="string",
            required=True,
            help="A PNG, JPEG, GIF or WebP file in issues/images.",
            example="src: images/lima.jpg",
        ),
        Field(name="alt", kind="line", help="What the picture shows, for those who cannot see it."),
    ),
)

STORY = Shape(
    name="story",
    fields=(
        Field(name="title", kind="line", required=True, help="The headline."),
        Field(name="date", kind="date", required=True, help="The day of the news."),
        Field(name="section", kind="word", help="A section of newsletter.yaml."),
        Field(name="url", kind="url", help="Where the whole story can be read."),
        Field(name="source", kind="line", help="Who published it."),
        Field(name="image", kind=IMAGE, help="A picture above the headline."),
        Field(name="summary", kind="markdown", help="The story in a paragraph or two."),
        Field(
            name="collected",
            kind="word",
            help="The key under which `newsletter collect` knows the story. Leave it, and it is never added twice.",
        ),
    ),
)

ISSUE = Shape(
    name="issue",
    fields=(
        Field(name="date", kind="date", required=True, help="The day of the issue; also the file's name."),
        Field(name="number", kind="integer", help="The issue's number."),
        Field(name="subject", kind="line", help="Subject of the mail and headline. Default: the first story's title."),
        Field(name="preheader", kind="line", help="The line that inboxes show beside the subject."),
        Field(name="intro", kind="markdown", help="A few words before the stories."),
        Field(name="stories", kind=STORY, many=True, default=(), help="The stories, in the order of their weight."),
        Field(
            name="blocks", kind="word", many=True, default=(), help="Names of standing blocks of issues/blocks.yaml."
        ),
        Field(
            name="private",
            kind="boolean",
            default=False,
            help="Whether it stays out of the public archive. `View in browser` then opens for whoever got the mail.",
        ),
    ),
)

BLOCK = Shape(
    name="block",
    fields=(
        Field(
            name="style",
            kind="choice",
            choices=("background", "panel", "call"),
            default="background",
            help="background: in two columns after the stories; panel: in a box; call: a coloured call to act.",
        ),
        Field(name="title", kind="line", required=True, help="The heading."),
        Field(name="text", kind="markdown", help="The text."),
        Field(name="button", kind="line", help="The words on the button; needs a url."),
        Field(name="url", kind="url", help="Where the button, or Read more, leads."),
        Field(name="note", kind="line", help="A small line under the button."),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image as an issue names it; whether the file is there and is an image is the renderer's business."""

    src: str
    alt: Text
    where: Where = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Story:
    """One dated summary. `marks` says where each key stands, `where` where the story begins."""

    title: Text
    date: date
    section: str | None = None
    url: str | None = None
    source: Text = field(default_factory=dict)
    image: Picture | None = None
    summary: Text = field(default_factory=dict)
    collected: str | None = None
    where: Where = field(compare=False)
    marks: Mapping[str, Where] = field(default_factory=dict, compare=False, repr=False)

    def at(self, key: str) -> Where:
        return self.marks.get(key, self.where)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A standing text."""

    name: str
    style: str
    title: Text
    text: Text = field(default_factory=dict)
    button: Text = field(default_factory=dict)
    url: str | None = None
    note: Text = field(default_factory=dict)
    where: Where = field(compare=False)
    marks: Mapping[str, Where] = field(default_factory=dict, compare=False, repr=False)

    def at(self, key: str) -> Where:
        return self.marks.get(key, self.where)


@dataclass(frozen=True, kw_only=True)
class Issue:
    """The content of one week. Equal when every text is equal, wherever it stands."""

    name: str  # the file's stem, "2017-11-19"
    date: date
    number: int | None = None
    subject: Text = field(default_factory=dict)
    preheader: Text = field(default_factory=dict)
    intro: Text = field(default_factory=dict)
    stories: tuple[Story, ...] = ()
    blocks: tuple[Block, ...] = ()
    private: bool = False
    where: Where = field(compare=False)
    marks: Mapping[str, Where] = field(default_factory=dict, compare=False, repr=False)
    remarks: tuple[Finding, ...] = field(default=(), compare=False, repr=False)  # doubts of the reader, no errors

    def at(self, key: str) -> Where:
        return self.marks.get(key, self.where)


def load_issue(path: Path, config: Config) -> Issue:
    """The issue in `path`, with the stories of its folder and the blocks it names.

    Raises IssueError with every problem of every file involved.
    """
    text, findings = read_text(path, name=config.shown(path), family="issue")
    if findings:
        raise IssueError(findings)
    return parse_issue(text, path, config)


def parse_issue(text: str, path: Path, config: Config) -> Issue:
    """`load_issue` for a text at hand: what would be loaded if `path` held it."""
    name = config.shown(path)
    reading = Reading(family="issue", languages=config.languages)
    node, reading.findings = parse(text, name, family="issue")
    if node is None:
        if not reading.findings:
            reading.report("empty", Where(path=name), "is empty", "newsletter new writes a file to begin with")
        raise IssueError(reading.findings)
    record = read_record(node, ISSUE, reading)
    _check_slots(record, ISSUE, reading)
    for index, each in enumerate(record["stories"]):
        _check_slots(each, STORY, reading, at=f"stories[{index}].")
    if any("@@" in text for text in (record["subject"] or {}).values()):
        reading.report("slot", record.marks["subject"], "subject: cannot hold a slot", "put @@NAME@@ into the intro")
    stories = [_story(each) for each in record["stories"] if _complete(each, STORY)]
    stories += _folder_stories(path.with_suffix(""), config, reading.findings)
    blocks = _named_blocks(record, node, path.parent / "blocks.yaml", config, reading)
    if reading.failed:
        raise IssueError(reading.findings)
    return Issue(
        name=path.stem,
        date=record["date"],
        number=record["number"],
        subject=record["subject"] or {},
        preheader=record["preheader"] or {},
        intro=record["intro"] or {},
        stories=tuple(stories),
        blocks=tuple(blocks),
        private=record["private"],
        where=Where(path=name),
        marks=record.marks,
        remarks=tuple(reading.findings),
    )


def issue_paths(folder: Path) -> list[Path]:
    """The issue files of a folder, oldest first: those named by a date."""
    return sorted(path for path in folder.glob("*.yaml") if re.fullmatch(r"\d{4}-\d{2}-\d{2}.*", path.stem, re.ASCII))


def is_story(path: Path) -> bool:
    """Whether a file in an issue's folder is one of its stories: drafts begin with _, and a README is for people."""
    return not path.name.startswith((".", "_")) and path.stem.upper() != "README"


def stray_files(folder: Path) -> list[Path]:
    """What stands in the issues' folder and is never read, though it looks as if it should be: misnamed files, and
    folders of stories without an issue of their name."""
    known = {path.stem for path in issue_paths(folder)}
    strays = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith((".", "_")) or path.name in ("images", "blocks.yaml") or path.stem in known:
            continue
        if path.suffix.lower() in (".yaml", ".yml") or (path.is_dir() and any(path.glob("*.md"))):
            strays.append(path)
    for name in known:
        inside = sorted((folder / name).glob("*")) if (folder / name).is_dir() else ()
        strays += [path for path in inside if path.is_file() and path.suffix != ".md" and path.name[0] not in "._"]
    return strays


def load_blocks(path: Path, config: Config) -> dict[str, Block]:
    """The standing blocks of a blocks.yaml, by name; none where there is no such file. Raises IssueError."""
    text, findings = read_text(path, name=config.shown(path), family="block")
    if any(each.code == "block.not-found" for each in findings):
        return {}
    if findings:
        raise IssueError(findings)
    return parse_blocks(text, config.shown(path), config)


def parse_blocks(text: str, name: str, config: Config) -> dict[str, Block]:
    """`load_blocks` for a text at hand."""
    reading = Reading(family="block", languages=config.languages)
    node, reading.findings = parse(text, name, family="block")
    blocks: dict[str, Block] = {}
    if node is not None:
        shape = Field(name="blocks", kind=BLOCK, keyed=True, help="")
        top = Map(entries=(), where=node.where, flow=False) if not isinstance(node, Map) else node
        if not isinstance(node, Map):
            reading.report(
                "type", node.where, "the file: must be a map of block names", "write `aims:` and its keys below"
            )
        for entry in top.entries:
            if not WORD.fullmatch(entry.key):
                message = f"{entry.key}: a block's name has only letters, digits, - and _"
                reading.report("word", entry.where, message, "rename it")
            record = read_value(entry.value, shape, reading, at=entry.key)
            _check_slots(record, BLOCK, reading, at=f"{entry.key}.")
            if _complete(record, BLOCK):
                blocks[entry.key] = _block(entry.key, record, entry.where)
            if record["button"] and not record["url"]:
                help = "add url: where the button leads"
                reading.report("button", record.marks["button"], f"{entry.key}.button: has no url to lead to", help)
    if reading.failed:
        raise IssueError(reading.findings)
    return blocks


def _check_slots(record: Record, shape: Shape, reading: Reading, *, at: str = "") -> None:
    """Reports Markdown that makes a slot, or a link with one in it, out of signs that are none (`&#64;`,
    backslashes).
    """
    for known in shape.fields:
        texts = record[known.name] if known.kind == "markdown" else None
        for language, text in (texts or {}).items():
            if slot_in_result(text, language):
                where = record.marks.get(known.name, record.where)
                help = "a member's links come from the templates; write `@ @` for the signs"
                reading.report(
                    "slot", where, f"{at}{known.name}.{language}: makes a slot or a link with one in it", help
                )


def _complete(record: Record, shape: Shape) -> bool:
    return all(record[each.name] for each in shape.fields if each.required)


def _story(record: Record) -> Story:
    image = record["image"]
    picture = Picture(src=image["src"], alt=image["alt"] or {}, where=image.where) if image and image["src"] else None
    texts = {name: record[name] or {} for name in ("source", "summary")}
    return Story(
        title=record["title"],
        date=record["date"],
        section=record["section"],
        url=record["url"],
        image=picture,
        collected=record["collected"],
        where=record.where,
        marks=record.marks,
        **texts,
    )


def _block(name: str, record: Record, where: Where) -> Block:
    texts = {key: record[key] or {} for key in ("text", "button", "note")}
    return Block(
        name=name,
        style=record["style"],
        title=record["title"],
        url=record["url"],
        where=where,
        marks=record.marks,
        **texts,
    )


def _named_blocks(record: Record, node: Node, path: Path, config: Config, reading: Reading) -> list[Block]:
    if not record["blocks"]:
        return []
    try:
        known = load_blocks(path, config)
    except IssueError as error:
        reading.findings.extend(error.findings)
        return []
    entry = node.get("blocks") if isinstance(node, Map) else None
    places = {
        item.text: item.where
        for item in getattr(getattr(entry, "value", None), "items", ())
        if isinstance(item, Scalar)
    }
    blocks = []
    for name in dict.fromkeys(record["blocks"]):
        if name in known:
            blocks.append(known[name])
            continue
        help = f"blocks of {config.shown(path)}: {', '.join(known) or 'none; there is no such file'}"
        where = places.get(name, record.where)
        reading.report("block", where, f"blocks: there is no block {name}{nearest(name, known)}", help)
    return blocks


# --- the folder form: issues/2017-11-19/fujimori.md, and fujimori.es.md for the same story in another language ---


def _folder_stories(folder: Path, config: Config, findings: list[Finding]) -> list[Story]:
    if not folder.is_dir():
        return []
    stories: dict[str, Story] = {}
    translations: list[tuple[str, str, Path]] = []
    for path in sorted(folder.glob("*.md")):
        if not is_story(path):
            continue
        stem, _, language = path.stem.rpartition(".")
        if stem and language == config.default_language and (folder / f"{stem}.md").is_file():
            message = f"is in {language}, and so is {stem}.md beside it"
            help = f"keep one of them: a file without a language in its name is in {language}"
            where = Where(path=config.shown(path))
            findings.append(Finding(code="issue.language", severity="error", where=where, message=message, help=help))
        elif stem and language in config.languages:
            translations.append((stem, language, path))
        elif stem and LANGUAGE.fullmatch(language.lower()) and (folder / f"{stem}.md").is_file():
            message = f"{language}, in the file's name, is not a language of this workspace"
            message += nearest(language, config.languages)
            help = f"name it {' or '.join(f'{stem}.{each}.md' for each in config.languages)}"
            where = Where(path=config.shown(path))
            findings.append(Finding(code="issue.language", severity="error", where=where, message=message, help=help))
        elif story := load_story(path, config, findings):
            stories[path.stem] = story
    for stem, language, path in translations:
        story = load_story(path, config, findings, language=language)
        original = stories.get(stem)
        if story and original:
            stories[stem] = _merged(original, story)
        elif story:
            stories[stem] = story
    return list(stories.values())


_FRONT = re.compile(r"---[ \t]*\n(.*?\n)?---[ \t]*(?:\n|\Z)", re.DOTALL)


def load_story(path: Path, config: Config, findings: list[Finding], *, language: str = "") -> Story | None:
    """The story in a Markdown file with YAML front matter; None after adding to `findings` what is wrong with it.

    The body is the summary. Plain texts and the body are in `language`, or else in the default one.
    """
    name = config.shown(path)
    reading = Reading(family="issue", languages=config.languages, language=language)
    if not _inside(path, config.issues):
        help = "put the file itself into the folder"
        reading.report("outside", Where(path=name), "is a link to a file outside issues/", help)
        findings += reading.findings
        return None
    text, reading.findings = read_text(path, name=name, family="issue")
    match = _FRONT.match(text)
    record = None
    if match:
        node, found = parse(match[1] or "", name, family="issue", first_line=2)
        reading.findings += found
        if not found:
            empty = Map(entries=(), where=Where(path=name, line=1), flow=False)
            record = read_record(node or empty, STORY, reading)
            line = text.count("\n", 0, match.end()) + 1
            body = Scalar(text=text[match.end() :], where=Where(path=name, line=line), plain=False)
            summary = STORY.field("summary")
            assert summary is not None
            record = _with_summary(record, read_value(body, summary, reading, at="summary"), body.where, reading)
            _check_slots(record, STORY, reading)
    elif not reading.findings:
        help = "begin the file with a line ---, the keys title: and date:, and another line ---"
        reading.report("front-matter", Where(path=name, line=1), "has no front matter", help)
    findings += reading.findings
    return _story(record) if record and not reading.failed else None


def _inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # RuntimeError: a link that leads back to itself
        return False


def _with_summary(record: Record, body: Text | None, where: Where, reading: Reading) -> Record:
    given = dict(record["summary"] or {})
    for language, text in (body or {}).items():
        if language in given:
            message = f"summary.{language}: stands in the front matter and below it"
            reading.report("duplicate-key", record.marks["summary"], message, "keep one of them")
        given[language] = text
    values, marks = {**record.values, "summary": given or None}, {"summary": where, **record.marks}
    return Record(values=values, marks=marks, where=record.where)


def _merged(original: Story, translation: Story) -> Story:
    """The original with the texts of the other language added; what is not text stays as the original has it."""
    image = original.image
    if image and translation.image:
        image = replace(image, alt={**translation.image.alt, **image.alt})
    return replace(
        original,
        image=image,
        title={**translation.title, **original.title},
        source={**translation.source, **original.source},
        summary={**translation.summary, **original.summary},
    )
