"""Everything that could be wrong with an issue, as findings. One small module per family of checks.

A family is a function `check(examined) -> Iterator[Finding]`; `FAMILIES` is the list of them. What loading and
rendering find joins the same list, so that `newsletter check` shows one thing: findings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from newsletter.checks import content, message
from newsletter.checks.examined import Examined
from newsletter.checks.workspace import check_workspace as check_workspace
from newsletter.config import Config
from newsletter.content.issue import Issue, load_issue
from newsletter.errors import Finding, InputError, Severity
from newsletter.rendering.edition import Edition
from newsletter.rendering.render import Templates, load_templates, render_issue

FAMILIES = (content.check, message.check)

_ORDER: Mapping[Severity, int] = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """An issue as far as it could be loaded and rendered, and every finding, the gravest first."""

    issue: Issue | None
    editions: Mapping[str, Edition]  # by language; those that could be rendered
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.severity != "error" for finding in self.findings)


def check_issue(path: Path, config: Config, *, templates: Templates | None = None) -> Checked:
    """Loads, renders and examines the issue in `path`. Never raises for what the workspace's files hold."""
    findings: list[Finding] = []
    editions: dict[str, Edition] = {}
    issue: Issue | None = None
    try:
        issue = load_issue(path, config)
    except InputError as error:
        findings += error.findings
    try:
        templates = templates or load_templates(config)
    except InputError as error:
        findings += error.findings
    if issue and templates:
        for language in config.languages:
            try:
                editions[language], found = render_issue(issue, language, templates)
                findings += found
            except InputError as error:
                findings += error.findings
    if issue:
        findings += issue.remarks
        examined = Examined(issue=issue, editions=editions, config=config)
        for family in FAMILIES:
            findings += family(examined)
    unique = dict.fromkeys(findings)  # two languages often have the same thing to say
    return Checked(issue=issue, editions=editions, findings=tuple(sorted(unique, key=_key)))


def _key(finding: Finding) -> tuple[object, ...]:
    where = finding.where
    return (
        _ORDER[finding.severity],
        where.path if where else "",
        where.line if where else 0,
        where.column if where else 0,
    )
