"""An issue becomes an edition, once per language: what templates see, what comes out, and what is wrong with it.

`load_templates` reads a workspace's templates, theme and labels once; `render_issue` and `render_notice` are pure
after that: the same files give the same bytes, whatever the clock, the locale or the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from jinja2 import StrictUndefined, TemplateNotFound
from jinja2.loaders import FunctionLoader, split_template_path
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment
from markupsafe import Markup

from newsletter.config import Config
from newsletter.content.issue import Block, Issue, Story
from newsletter.content.markdown import to_html, to_text
from newsletter.errors import Finding, IssueError, TemplateError, Where
from newsletter.links import archive_url
from newsletter.rendering.edition import SLOT, SLOTS, Edition, Image, Imprint, Mailbox, kept_private
from newsletter.rendering.images import load_image
from newsletter.rendering.inline import inline_css
from newsletter.rendering.look import Labels, Theme, direction, labels_for, load_labels, load_theme, words_of
from newsletter.rendering.marks import LineMarks, Origins, at, explain, strip
from newsletter.rendering.mjml import compile_mjml, lint, normalise
from newsletter.rendering.plaintext import underline, wrap
from newsletter.rendering.views import BlockView, GroupView, PictureView, StoryView, TongueView
from newsletter.shape import Text, nearest
from newsletter.source import read_text

LEAD_WIDTH = 536  # pixels: the card's 600 less its padding
LOGO_HEIGHT = 56
CONTENTS_FROM = 3  # an issue with fewer stories needs no list of them

Notice = Literal["confirm", "welcome", "known", "link", "address", "moved"]
"""A mail to one person that is no issue. confirm: to confirm a sign-up. known: to somebody who signed up and is
subscribed already. link: a fresh link to one's own data. address: to confirm a new address. moved: to the old one."""
NOTICES: tuple[Notice, ...] = ("confirm", "welcome", "known", "link", "address", "moved")

# What each is sent for: without it, it would be worth nothing.
_NEEDED: dict[Notice, str] = {
    "confirm": "CONFIRM_URL",
    "known": "PREFERENCES_URL",
    "link": "CONFIRM_URL",
    "address": "CONFIRM_URL",
}


@dataclass(frozen=True, kw_only=True)
class Templates:
    """A workspace's templates, theme and labels, ready to render with."""

    config: Config
    environment: SandboxedEnvironment = field(repr=False)
    theme: Theme
    labels: dict[str, Labels]
    logo: Image | None


# --- loading ----------------------------------------------------------------------------------------------------------


def load_templates(config: Config) -> Templates:
    """The workspace's templates; a file that it lacks is taken from the sample. TemplateError with every problem."""
    findings: list[Finding] = []
    theme: Theme | None = None
    labels: dict[str, Labels] = {}
    try:
        theme = load_theme(_find(config, "theme.yaml"), config)
    except TemplateError as error:
        findings += error.findings
    try:
        own, sample = _find(config, "labels.yaml"), sample_root() / "templates" / "labels.yaml"
        labels = load_labels(own, config, lender=lambda: load_labels(sample, config))
    except TemplateError as error:
        findings += error.findings
    logo = None
    if theme and theme.logo and (config.templates / "theme.yaml").exists():  # the sample's logo is nobody else's
        try:
            logo = load_image(theme.logo, config, theme.where)
        except IssueError as error:
            findings += error.findings
    if findings or theme is None:
        raise TemplateError(findings)

    def source(name: str) -> tuple[str, str, None]:
        path = _find(config, "/".join(split_template_path(name)))
        if not path.is_file():
            raise TemplateNotFound(name)
        text, findings = read_text(path, name=config.shown(path), family="template")
        if findings:
            raise TemplateError(findings)
        return text, config.shown(path), None

    environment = _Environment(
        loader=FunctionLoader(source),
        autoescape=lambda name: name is None or ".mjml" in name,
        undefined=StrictUndefined,
        extensions=[LineMarks],
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    environment.globals["at"] = at
    del environment.globals["lipsum"], environment.filters["random"]  # a build has to come out the same again
    environment.filters["wrap"] = wrap
    environment.filters["underline"] = underline
    return Templates(config=config, environment=environment, theme=theme, labels=labels, logo=logo)


class _Environment(ImmutableSandboxedEnvironment):
    """Immutable: what a template does to a list or a map must not reach the next edition."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As the sandbox has it, but at once for our own views, which are most of what templates ask for."""
        if isinstance(obj, _VIEWS) and not attribute.startswith("_"):
            try:
                return getattr(obj, attribute)
            except AttributeError:
                pass
        return super().getattr(obj, attribute)


_VIEWS = (StoryView, GroupView, BlockView, PictureView, TongueView, Labels, Theme)


def sample_root() -> Path:
    """The sample workspace: inside an installed package, or around it in a checkout."""
    package = Path(__file__).parents[1]
    return package / "sample" if (package / "sample").is_dir() else package.parent


def _find(config: Config, name: str) -> Path:
    own = config.templates / name
    return own if own.exists() else sample_root() / "templates" / name


# --- rendering --------------------------------------------------------------------------------------------------------


def render_issue(issue: Issue, language: str, templates: Templates) -> tuple[Edition, list[Finding]]:
    """The issue's edition in one language, and what is worth a look (translations that are missing, lint warnings).

    Raises IssueError or TemplateError, with everything found by then, where there can be no edition.
    """
    desk, subject, context = _digest(issue, language, templates)
    edition = desk.edition("digest", subject, context, key=issue.name)
    seen = context["issue"]
    imprint = Imprint(number=seen["number"], date=seen["date"], preheader=seen["preheader"])
    edition = replace(edition, imprint=imprint)
    return kept_private(edition, templates.config.base_url) if issue.private else edition, desk.findings


def issue_mjml(issue: Issue, language: str, templates: Templates) -> str:
    """The MJML of an edition as the compiler gets it, for comparing compilers. Raises what `render_issue` raises."""
    desk, _, context = _digest(issue, language, templates)
    mjml, _ = desk.rendered("digest.mjml.j2", desk.surroundings(context))
    return normalise(mjml)


def _digest(issue: Issue, language: str, templates: Templates) -> tuple[_Desk, str, dict[str, Any]]:
    """The desk an edition is made at, its subject, and what the digest's templates see."""
    config = templates.config
    desk = _desk(language, templates)
    groups = _grouped(issue, desk)
    stories = [view for group in groups for view in group.stories]
    blocks = [(block.style, view) for block in issue.blocks if (view := desk.block(block))]
    subject = desk.text(issue.subject, issue.at("subject"), "subject") if issue.subject else ""
    subject_in = desk.tongue(issue.subject)
    if stories and not subject:
        subject, subject_in = stories[0].title, TongueView.of(stories[0])
    preheader = desk.text(issue.preheader, issue.at("preheader"), "preheader") if issue.preheader else ""
    intro = desk.markdown(issue.intro, issue.at("intro"), "intro")
    # Standing blocks alone make an issue that never had a story, not one whose stories were all left out.
    something = stories or intro[1] or (blocks and not issue.stories)
    if not (subject and something) and not desk.failed:
        help = "translate a story, or see missing_translation" if issue.stories else "write a story"
        desk.report("edition.empty", "error", issue.where, f"there is nothing to send in {language}", help)
    if desk.failed:
        raise IssueError(desk.findings)
    page = archive_url(config.base_url, language=language, issue=issue.name)
    context = {
        "issue": {
            "name": issue.name,
            "number": desk.words["number"].format(number=issue.number) if issue.number is not None else "",
            "date": desk.words.date(issue.date),
            "subject": subject,
            "subject_in": subject_in,
            "preheader": preheader or _preheader(subject, stories),
            "intro_in": desk.tongue(issue.intro),
            "intro_html": intro[0],
            "intro_text": intro[1],
            "groups": groups,
            "contents": stories if len(stories) >= CONTENTS_FROM else [],
            "page_url": page,
            "background": [view for style, view in blocks if style == "background"],
            "panels": [view for style, view in blocks if style == "panel"],
            "calls": [view for style, view in blocks if style == "call"],
            "where": issue.where,
        },
    }
    return desk, subject, context


def render_notice(
    notice: Notice, language: str, templates: Templates, *, lists: Sequence[Text] = (), welcome: str = ""
) -> tuple[Edition, list[Finding]]:
    """A mail to one person, in one language, and what is worth a look. Raises TemplateError.

    `lists` are the names of those to be confirmed, where there is a choice of lists. `welcome` is the id of a list that
    has a welcome of its own (`own_welcome`).
    """
    desk = _desk(language, templates)
    words = desk.words
    title = desk.quiet(templates.config.title)
    comma = "، " if language.partition("-")[0] == "ar" else ", "
    named = comma.join(name for name in map(desk.quiet, lists) if name)
    parts = ["subject", "heading", "text"]
    parts += ["button"] if f"{notice}_button" in words.words else []
    parts += ["note"] if f"{notice}_note" in words.words else []
    texts = {part: words[f"{notice}_{part}"].format(title=title, lists=named or title) for part in parts}
    if notice == "confirm" and named and "{lists}" not in words["confirm_text"]:
        texts["text"] += " " + words["confirm_lists"].format(title=title, lists=named)
    if other := next((words.lent[name] for name in words.lent if name.startswith(f"{notice}_")), None):
        where = Where(path=templates.config.shown(_find(templates.config, "labels.yaml")))
        message = f"{words.language} has no words for the mail {notice}: those of {other} stand in"
        desk.report("theme.labels", "warning", where, message, f"add {notice}_subject: and so on (docs/templates.md)")
    name = f"welcome-{welcome}" if welcome else notice
    return desk.edition(name, texts["subject"], {"notice": texts}, key=notice, notice=notice), desk.findings


def own_welcome(config: Config, list: str) -> bool:
    """Whether the workspace has a welcome for this list: templates/welcome-<id>.mjml.j2, welcome-<id>.txt.j2."""
    return any((config.templates / f"welcome-{list}{ending}").is_file() for ending in _ENDINGS)


_ENDINGS = (".mjml.j2", ".txt.j2")


def _desk(language: str, templates: Templates) -> _Desk:
    config = templates.config
    words, findings = labels_for(language, templates.labels, config, _find(config, "labels.yaml"))
    return _Desk(language=language, templates=templates, words=words, findings=findings)


def _preheader(subject: str, stories: Sequence[StoryView]) -> str:
    """What inboxes show beside the subject when an editor wrote nothing for it: the other headlines."""
    titles = " · ".join(view.title for view in stories if view.title != subject)
    return titles if len(titles) <= 140 else titles[:139].rsplit(" ", 1)[0] + "…"


def _groups(issue: Issue, config: Config) -> list[tuple[date | str | None, list[Story]]]:
    """Stories by date, the newest first, or by section in the order of newsletter.yaml, those without one last."""
    by = config.group_by
    stories = issue.stories
    if by == "auto":
        days = len({story.date for story in stories})
        sections = any(story.section for story in stories)
        by = "date" if not sections or len(stories) >= 2 * days else "section"
    if by == "date":
        dates = sorted({story.date for story in stories}, reverse=True)
        return [(day, [story for story in stories if story.date == day]) for day in dates]
    order = dict.fromkeys([*config.sections, *(story.section for story in stories if story.section), None])
    groups = [(name, [story for story in stories if story.section == name]) for name in order]
    return [(name, inside) for name, inside in groups if inside]


def _grouped(issue: Issue, desk: _Desk) -> tuple[GroupView, ...]:
    groups: list[GroupView] = []
    shown = 0
    for key, stories in _groups(issue, desk.config):
        views = []
        for story in stories:
            view = desk.story(story, number=shown + 1)
            if view:
                shown += 1
                views.append(view)
        if isinstance(key, date):
            heading, by = desk.words.date(key, "date_short"), "date"
        elif key:
            heading, by = desk.section(key), "section"
        else:
            heading, by = (desk.words["more"], "section") if groups else ("", "")
        if views:
            groups.append(GroupView(heading=heading, by=by, stories=tuple(views)))
    return tuple(groups)


@dataclass(kw_only=True)
class _Desk:
    """One edition in the making: its language, its words, and everything found so far."""

    language: str
    templates: Templates
    words: Labels
    findings: list[Finding]
    images: dict[str, Image] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        return self.templates.config

    @property
    def failed(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    def report(self, code: str, severity: Any, where: Where | None, message: str, help: str) -> None:
        self.findings.append(Finding(code=code, severity=severity, where=where, message=message, help=help))

    # texts, in the edition's language or as the policy for missing ones has it

    def quiet(self, text: Text) -> str:
        """A name: in the edition's language, or else as it is; a name need not be translated."""
        return next((text[each] for each in (self.language, *self.config.languages) if text.get(each)), "")

    def stands_in(self, texts: Iterable[tuple[str, Text]], where: Where, at: str) -> str | None:
        """The language that a piece of content is shown in; None to leave it out. A missing translation is reported."""
        given = {name: text for name, text in texts if text}
        missing = [name for name, text in given.items() if not text.get(self.language)]
        if not missing:
            return self.language
        policy = self.config.missing_translation
        message = f"{at}not translated into {self.language}: {', '.join(missing)}"
        if policy == "error":
            self.report(
                "translation.missing", "error", where, message, f"add {self.language}: (missing_translation: error)"
            )
            return None
        if policy == "omit":
            help = f"it is left out of the {self.language} edition (missing_translation: omit)"
            self.report("translation.omitted", "note", where, message, help)
            return None
        # The language that has most of it, so that a headline and its text stay together.
        others = [each for each in self.config.languages if each != self.language]
        language = max(others, key=lambda each: sum(each in text for text in given.values()))
        help = f"{language} stands in (missing_translation: fallback)"
        self.report("translation.missing", "warning", where, message, help)
        return language

    def text(self, text: Text, where: Where, name: str) -> str:
        language = self.stands_in([(name, text)], where, "")
        return text.get(language, "") if language else ""

    def markdown(self, text: Text, where: Where, name: str) -> tuple[Markup, str]:
        language = self.stands_in([(name, text)], where, "") if text else None
        if not language:
            return Markup(), ""
        return _html(text[language], language), to_text(text[language], language)

    def tongue(self, text: Text) -> TongueView:
        """The language that `text` and `quiet` show a text in."""
        language = next((each for each in (self.language, *self.config.languages) if text.get(each)), self.language)
        if language == self.language:
            return TongueView(language="", direction="")
        other = direction(language)
        return TongueView(language=language, direction=other if other != direction(self.language) else "")

    def section(self, name: str) -> str:
        label = self.config.sections.get(name)
        return self.quiet(label) if label else name.replace("-", " ").replace("_", " ").capitalize()

    def story(self, story: Story, *, number: int) -> StoryView | None:
        language = self.stands_in([("title", story.title), ("summary", story.summary)], story.where, "story ")
        if language is None:
            return None
        if story.summary.get(self.language):  # a name for a title may be the same in every language; the text is not
            language = self.language
        title = story.title.get(language) or self.quiet(story.title)
        summary = story.summary.get(language) or self.quiet(story.summary)
        image = None
        if story.image:
            picture = self.picture(story.image.src, story.image.where)
            if picture:
                alt = self.text(story.image.alt, story.image.where, "alt")
                width = min(LEAD_WIDTH, picture.width)
                height = max(1, round(picture.height * width / picture.width))
                image = PictureView(url=self.image_url(picture), alt=alt, width=width, height=height)
        other = language != self.language
        return StoryView(
            anchor=f"s{number}",
            number=number,
            title=title,
            url=story.url,
            day=self.words.date(story.date, "date_short"),
            section=self.section(story.section) if story.section else "",
            source=self.quiet(story.source),
            image=image,
            html=_html(summary, language),
            text=to_text(summary, language),
            language=language if other else "",
            direction=direction(language) if other and direction(language) != direction(self.language) else "",
            language_note=self.words["in_language"].format(language=self.language_name(language)) if other else "",
            where=story.where,
        )

    def block(self, block: Block) -> BlockView | None:
        texts = [("title", block.title), ("text", block.text), ("button", block.button), ("note", block.note)]
        language = self.stands_in(texts, block.where, f"block {block.name} ")
        if language is None:
            return None
        other = language != self.language
        text = block.text.get(language) or self.quiet(block.text)
        return BlockView(
            name=block.name,
            title=block.title.get(language) or self.quiet(block.title),
            html=_html(text, language),
            text=to_text(text, language),
            button=block.button.get(language) or self.quiet(block.button),
            url=block.url,
            note=block.note.get(language) or self.quiet(block.note),
            language=language if other else "",
            direction=direction(language) if other and direction(language) != direction(self.language) else "",
            where=block.where,
        )

    def language_name(self, language: str) -> str:
        words = words_of(language, self.templates.labels)
        return words["name"] if words else language

    def picture(self, src: str, where: Where) -> Image | None:
        try:
            image = load_image(src, self.config, where)
        except IssueError as error:
            self.findings += error.findings
            return None
        self.images[image.name] = image
        return image

    def image_url(self, image: Image) -> str:
        if self.config.images == "embed":
            return f"cid:{image.name}@newsletter"
        return f"{self.config.base_url}/images/{image.name}"

    # templates

    def surroundings(self, context: dict[str, Any]) -> dict[str, Any]:
        """The context, and what every template sees beside it."""
        config, theme = self.config, self.templates.theme
        rtl = direction(self.language) == "rtl"
        logo = None
        if self.templates.logo:
            image = self.templates.logo
            self.images[image.name] = image
            width = max(1, round(image.width * LOGO_HEIGHT / image.height))
            logo = PictureView(url=self.image_url(image), alt="", width=width, height=LOGO_HEIGHT)
        return {
            **context,
            "newsletter": {
                "title": self.quiet(config.title),
                "tagline": self.quiet(config.tagline),
                "postal_address": self.quiet(config.postal_address),
                "url": config.base_url,
                "logo": logo,
            },
            "theme": theme,
            "labels": self.words,
            "language": self.language,
            "direction": "rtl" if rtl else "ltr",
            "start": "right" if rtl else "left",
            "end": "left" if rtl else "right",
            "why": self.words["why"].format(title=self.quiet(config.title)),
        }

    def edition(
        self, name: str, subject: str, context: dict[str, Any], *, key: str, notice: Notice | None = None
    ) -> Edition:
        config = self.config
        context = self.surroundings(context)
        sources = [name + ending for ending in _ENDINGS]
        if notice:  # a list's own welcome may have one part only, and share the other
            sources = [each if _find(config, each).is_file() else notice + each[len(name) :] for each in sources]
        mjml, origins = self.rendered(sources[0], context)
        text, text_origins = self.rendered(sources[1], context)
        for output, places in ((mjml, origins), (text, text_origins)):
            for slot in SLOT.finditer(output):
                if slot[1] not in SLOTS:
                    help = f"the slots are {', '.join(sorted(SLOTS))}"
                    message = f"{slot[0]} is not a slot{nearest(slot[1], SLOTS)}"
                    self.report("template.slot", "error", places.find(slot.start()).template, message, help)
        for template, output in zip(sources, (mjml, text), strict=True):
            where = Where(path=config.shown(_find(config, template)))
            needed = _NEEDED.get(notice) if notice else None
            if not output.strip():
                self.report("template.empty", "error", where, "nothing comes out of it", "compare it with the sample's")
            elif needed and f"@@{needed}@@" not in output:
                message = f"@@{needed}@@ is not in it, and the mail is sent for nothing else"
                self.report("template.slot", "error", where, message, "compare it with the sample's")
        if mjml.strip():
            self.findings += lint(mjml, origins)
        if self.failed:
            raise TemplateError(self.findings)
        html = self.styled(compile_mjml(mjml, origins=origins), context)
        bulk = notice is None
        title = self.quiet(config.title)
        host = urlsplit(config.base_url).hostname or "localhost"
        return Edition(
            key=key,
            language=self.language,
            direction=direction(self.language),
            kind="bulk" if bulk else "transactional",
            subject=subject,
            sender=Mailbox(address=config.sender.address, name=self.quiet(config.sender.name)),
            reply_to=Mailbox(address=config.sender.reply_to) if config.sender.reply_to else None,
            list_id=(title, f"{config.list}.{host}") if bulk else None,
            feedback_id=f"{key}:{self.language}:{config.list}:{_sender_id(host)}" if bulk else "",
            unsubscribe_mailbox=(config.sender.unsubscribe or "") if bulk else "",
            html=html,
            text=_tidy(text),
            images=tuple(image for _, image in sorted(self.images.items()) if image.name in html),
            embed=config.images == "embed",
        )

    def rendered(self, name: str, context: dict[str, Any]) -> tuple[str, Origins]:
        try:
            return strip(self.templates.environment.get_template(name).render(context))
        except Exception as error:  # a template may fail in any way; each is named with its file and line
            raise TemplateError([*self.findings, *explain(error, self.templates.environment).findings]) from error

    def styled(self, html: str, context: dict[str, Any]) -> str:
        """The HTML with the rules of content.css.j2 inlined. What is wrong with one is told by the template's line."""
        css, origins = self.rendered("content.css.j2", context)
        try:
            return inline_css(html, css)
        except TemplateError as error:
            lines = css.split("\n")
            for each in error.findings:
                number = each.where.line if each.where else 1
                line = lines[number - 1]
                origin = origins.find_line(number, len(line) - len(line.lstrip()) + 1)
                self.findings.append(replace(each, where=origin.template))
            raise TemplateError(self.findings) from error


def _html(markdown: str, language: str) -> Markup:
    return Markup(to_html(markdown, language))  # noqa: S704 - nh3 has cleaned it


def _sender_id(host: str) -> str:
    """The last field of Feedback-ID: 5 to 15 characters, always the same (support.google.com/mail/answer/6254652)."""
    return re.sub(r"[^a-z0-9]", "", host.lower())[-15:].rjust(5, "0")


def _tidy(text: str) -> str:
    """One empty line at most between two paragraphs, none at the ends, one line end at the last."""
    lines = (line if line == "-- " else line.rstrip() for line in text.split("\n"))  # "-- ": RFC 3676 §4.3
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
