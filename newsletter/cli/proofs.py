"""What a preview has to show: each issue's proofs, the last that could be made, and what is wrong with it now."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lxml import html as lxml_html

from newsletter.build import sample_recipient
from newsletter.checks import check_issue
from newsletter.checks.message import CLIPPED_AT
from newsletter.config import Config, load_config
from newsletter.content.issue import issue_paths
from newsletter.errors import Finding, InputError, Severity, Where
from newsletter.rendering.edition import Edition, Image, filled

READER = "Ana"  # whom @@NAME@@ greets
CHANGED = "preview-changed"  # id of the element that the last save changed first


def finding(code: str, severity: Severity, where: Where | None, message: str, help: str) -> Finding:
    return Finding(code=f"preview.{code}", severity=severity, where=where, message=message, help=help)


class Bell:
    """Says that something was saved. `revision` differs after each save, and between two runs of the preview."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._run, self._count, self._closed = secrets.token_hex(4), 0, False

    @property
    def revision(self) -> str:
        return f"{self._run}-{self._count}"

    def ring(self) -> None:
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, seen: str, timeout: float) -> str | None:
        """The revision once it is another than `seen`, or after `timeout` seconds; None when the preview ends."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self.revision != seen, timeout)
            return None if self._closed else self.revision

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()


@dataclass(frozen=True, kw_only=True)
class Proof:
    """An edition with sample values in its slots, its links and images led to where a frame may follow them."""

    edition: Edition
    html: str
    text: str
    size: int  # bytes of the HTML that a member would get
    preheader: str
    unmarked: str  # html before the place of the last change was marked in it
    digest: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """One issue at one revision of the files. A language that is `stale` shows the last proof that could be made."""

    revision: str
    issues: tuple[str, ...]  # names to choose from, the newest first
    issue: str  # "" where there is none at all
    file: str
    languages: tuple[str, ...]
    findings: tuple[Finding, ...]
    proofs: Mapping[str, Proof]
    stale: frozenset[str]

    def as_json(self) -> dict[str, object]:
        findings = [{**finding.as_json(), "place": str(finding.where or "")} for finding in self.findings]
        editions = {
            language: {
                "subject": proof.edition.subject,
                "preheader": proof.preheader,
                "sender": proof.edition.sender.name,
                "address": proof.edition.sender.address,
                "direction": proof.edition.direction,
                "size": proof.size,
                "text": proof.text,
                "digest": proof.digest,
                "stale": language in self.stale,
            }
            for language, proof in self.proofs.items()
        }
        return {
            "revision": self.revision,
            "issues": self.issues,
            "issue": self.issue,
            "file": self.file,
            "languages": self.languages,
            "findings": findings,
            "editions": editions,
            "limit": CLIPPED_AT,
            "changed": CHANGED,
        }


class Proofs:
    """Looks at issues, each once per revision, and keeps the last proofs that could be made. Safe for threads."""

    def __init__(self, root: Path, given: Path | None, bell: Bell) -> None:
        self.root, self.bell = root, bell
        self._given, self._first = given, ""
        self._lock = threading.Lock()
        self._known: dict[str, Path] = {}  # every issue seen; a name of a URL is looked up here and is never a path
        self._languages: tuple[str, ...] = ()
        self._looks: dict[str, Look] = {}
        self._kept: dict[tuple[str, str], Proof] = {}  # by issue and language

    def first(self) -> str:
        """The file that is shown first, or "" where there is none."""
        return self.look("").file

    def look(self, name: str) -> Look:
        """The issue of that name, or the first where nobody knows the name."""
        with self._lock:
            revision = self.bell.revision  # taken before anything is read: a later save makes another revision
            if any(look.revision != revision for look in self._looks.values()):
                self._looks.clear()
            names = self._names()
            name = name if name in self._known else self._first or next(iter(names), "")
            if name not in self._looks:
                self._looks[name] = self._examine(name, names if name in names else [*names, name], revision)
            return self._looks[name]

    def image(self, name: str) -> Image | None:
        """An image of the editions kept, by its name."""
        with self._lock:
            images = (image for proof in self._kept.values() for image in proof.edition.images)
            return next((image for image in images if image.name == name), None)

    def _names(self) -> list[str]:
        """The issues there are now, the newest first."""
        paths = {path.stem: path for path in reversed(issue_paths(self.root / "issues"))}
        given = self._given
        if given:
            own = given.resolve().parent == (self.root / "issues").resolve()
            self._first = given.stem if own else str(given)
            self._known[self._first] = given
            paths |= {self._first: given} if given.exists() else {}
        self._known |= paths
        return list(paths)

    def _examine(self, name: str, names: list[str], revision: str) -> Look:
        findings: tuple[Finding, ...] = ()
        proofs: dict[str, Proof] = {}
        file = str(self._known.get(name, ""))
        try:
            config = load_config(self.root)
            self._languages = config.languages
            file = config.shown(self._known[name]) if name else ""
            if name and not self._known[name].exists():
                help = "bring it back, or choose another issue"
                findings = (finding("gone", "error", Where(path=file), "this file is no longer there", help),)
            elif name:
                checked = check_issue(self._known[name], config)
                findings = checked.findings
                for language, edition in checked.editions.items():
                    proofs[language] = _proof(edition, config, self._kept.get((name, language)))
            else:
                help = "`newsletter new` writes one to begin with; this page shows it as soon as it is there"
                findings = (finding("no-issue", "note", None, "there is no issue in issues/ yet", help),)
        except InputError as error:
            findings = error.findings
        except Exception as error:  # the preview outlives whatever a file, a template or a bug of ours does to it
            message = f"the issue cannot be shown: {type(error).__name__}: {error}".splitlines()[0][:300]
            help = "undo the last change; if that does not help, report this line"
            findings = (finding("unexpected", "error", Where(path=file) if file else None, message, help),)
        self._kept |= {(name, language): proof for language, proof in proofs.items()}
        shown = {each: self._kept[name, each] for each in self._languages if (name, each) in self._kept}
        return Look(
            revision=revision,
            issues=tuple(each for each in names if each),
            issue=name,
            file=file,
            languages=self._languages,
            findings=findings,
            proofs=shown,
            stale=frozenset(shown) - frozenset(proofs),
        )


def _proof(edition: Edition, config: Config, before: Proof | None) -> Proof:
    html, text = filled(edition, sample_recipient(edition, config, name=READER).slots)
    size = len(html.encode())
    preheader = _preheader(html)
    for image in edition.images:
        for source in (f"{config.base_url}/images/{image.name}", f"cid:{image.name}@newsletter"):
            html = html.replace(source, f"/images/{image.name}")
    html = _LINK.sub(_aimed, html)
    if before and before.unmarked == html:
        marked = before.html
    else:
        marked = mark_change(html, before.unmarked) if before else html
    return Proof(
        edition=edition,
        html=marked,
        text=text,
        size=size,
        preheader=preheader,
        unmarked=html,
        digest=hashlib.sha256(marked.encode()).hexdigest()[:16],
    )


_FILLER = re.compile("[\u00a0\u00ad\u034f\u200b-\u200f\u2060\ufeff\\s]+")


def _preheader(html: str) -> str:
    """What inboxes show beside the subject: the first words of the body, without the filler that keeps others out."""
    body = lxml_html.document_fromstring(html.encode(), parser=lxml_html.HTMLParser(encoding="utf-8")).find("body")
    words = str(body.xpath("string()")) if body is not None else ""
    return _FILLER.sub(" ", words[:240]).strip()[:140]


_LINK = re.compile(r"""<a\b((?:[^>"']|"[^"]*"|'[^']*')*)>""", re.IGNORECASE)
_TARGET = re.compile(r"""\starget=(?:"[^"]*"|'[^']*'|[^\s>]+)""", re.IGNORECASE)
_INSIDE = re.compile(r"""\shref=["']?#""", re.IGNORECASE)


def _aimed(match: re.Match[str]) -> str:
    """A link that leaves the frame as it is: it opens a tab of its own, or moves within the message."""
    attributes = _TARGET.sub("", match[1])
    return f'<a{attributes} target="{"_self" if _INSIDE.search(attributes) else "_blank"}">'


_PLACE = re.compile(r"<!--.*?-->|<(?P<tag>p|h[1-6]|li|td|blockquote)\b", re.IGNORECASE | re.DOTALL)


def mark_change(html: str, before: str) -> str:
    """The HTML with the id CHANGED on the element in which it first differs from `before`, if there is one for it."""
    at = len(os.path.commonprefix([html, before]))  # noqa: RUF071 - character by character is what is wanted
    places = [match.end() for match in _PLACE.finditer(html) if match["tag"] and match.end() <= at]
    if not places:
        return html
    tag_end = html.find(">", places[-1])
    if re.search(r"\sid=", html[places[-1] : tag_end]):
        return html
    return f'{html[: places[-1]]} id="{CHANGED}"{html[places[-1] :]}'


_STYLE = re.compile(r"<style\b[^>]*>.*?</style>", re.IGNORECASE | re.DOTALL)
_MEDIA = re.compile(rf"{_STYLE.pattern}|<(?:source|link)\b[^>]*>", re.IGNORECASE | re.DOTALL)
_PREFERS = re.compile(r"\(\s*prefers-color-scheme\s*:\s*(dark|light)\s*\)", re.IGNORECASE)
_SCHEMES = re.compile(r'(color-schemes?(?:\s*:\s*|"\s+content="))light\s+dark', re.IGNORECASE)


def as_client(html: str, *, scheme: Literal["light", "dark"], styles: bool) -> str:
    """The HTML as a mail client would show it whose reader prefers `scheme`; without its style sheets if not `styles`.

    A preference for a scheme cannot be given to a frame in every browser, so its media feature is replaced by one that
    is always, or never, true. (`all` would not do: it makes `screen and (prefers-color-scheme: dark)` invalid.)
    """

    def answered(match: re.Match[str]) -> str:
        return "(min-width:0px)" if match[1].lower() == scheme else "(max-width:0px)"

    html = _MEDIA.sub(lambda match: _PREFERS.sub(answered, match[0]), html)
    html = _SCHEMES.sub(rf"\g<1>{scheme}", html)
    html = html if styles else _STYLE.sub("", html)
    # Some of what stands above a change stays in sight. The page leaves room for a scroll bar, so there is always one.
    ours = (
        f"<style>#{CHANGED} {{ scroll-margin-top: 35vh }} html {{ overflow-y: scroll; scrollbar-width: thin }}</style>"
    )
    return html.replace("</head>", f"{ours}</head>", 1)
