"""How things look on a terminal: findings, sizes, counts."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from newsletter.errors import Finding

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def print_findings(findings: Iterable[Finding], *, err: bool = False) -> None:
    """One finding after another, each with its place, its code and the next step."""
    for finding in findings:
        place = click.style(f"{finding.where}: ", bold=True) if finding.where else ""
        word = click.style(finding.severity, fg=_COLOURS[finding.severity], bold=True)
        click.echo(f"{place}{word}: {finding.message} {click.style(f'[{finding.code}]', dim=True)}", err=err)
        if finding.help:
            click.echo(f"    → {finding.help}", err=err)


def tally(findings: Iterable[Finding]) -> str:
    """ "2 errors, 1 warning", or "no problems found"."""
    counts = {"error": 0, "warning": 0, "note": 0}
    for finding in findings:
        counts[finding.severity] += 1
    return ", ".join(plural(count, word) for word, count in counts.items() if count) or "no problems found"


def plural(count: int, word: str) -> str:
    """ "1 story", "2 stories"."""
    if count == 1:
        return f"1 {word}"
    return f"{count:,} {word[:-1] + 'ies' if word.endswith('y') else word + 's'}"


def command(folder: Path | str = ".") -> str:
    """What a user types to run us from `folder`: the bare name where the shell finds it, else the path they used."""
    used = Path(sys.argv[0])
    if used.name != "newsletter" or not used.is_file() or shutil.which("newsletter"):
        return "newsletter"
    return os.path.relpath(used, folder)
