"""The commands an editor uses from week to week: new, collect, format, check, preview, build."""

from __future__ import annotations

import datetime
import difflib
import json
import time
from pathlib import Path

import click

from newsletter.build import build_issue, write_build, write_file
from newsletter.checks import check_issue, check_workspace
from newsletter.cli.output import plural, print_findings, tally
from newsletter.cli.workspace import open_workspace
from newsletter.config import WEEKDAYS, Config
from newsletter.content.issue import is_story, issue_paths, load_blocks, stray_files
from newsletter.errors import Finding, InputError, IssueError
from newsletter.rendering.render import Templates, issue_mjml, load_templates
from newsletter.source import read_text


def find_issue(name: str | None, config: Config) -> Path:
    """The issue that a user means by a path, a date ("2017-11-19") or nothing (the newest).

    Raises ClickException where there is none.
    """
    paths = issue_paths(config.issues)
    if name is None:
        if not paths:
            strays = "".join(
                f"; {config.shown(path)} is no issue's name (YYYY-MM-DD.yaml)"
                for path in stray_files(config.issues)[:3]
            )
            raise click.ClickException(f"no issues in {config.shown(config.issues)}{strays}; write one: newsletter new")
        return paths[-1]
    for path in (Path(name), config.issues / name, config.issues / f"{name}.yaml"):
        if path.is_file():
            return path
    hint = "there are none; write one: newsletter new"
    if paths:
        near = min(reversed(paths), key=lambda path: _distance(path.stem, Path(name).stem))
        hint = f"did you mean {near.stem}?"
    raise click.ClickException(f"there is no issue {name}; {hint}")


def _distance(stem: str, wanted: str) -> float:
    """How far a name is from the one that was typed: in days where both are dates, else in letters."""
    try:
        return abs((datetime.date.fromisoformat(stem) - datetime.date.fromisoformat(wanted)).days)
    except ValueError:
        return 1_000_000 * (1 - difflib.SequenceMatcher(None, stem, wanted).ratio())


def _chosen(names: tuple[str, ...], config: Config, *, every: bool) -> list[Path]:
    """The issues that a command line names; with --all every one, and without either the newest."""
    if every and (paths := issue_paths(config.issues)):
        return paths
    return [find_issue(name, config) for name in names or (None,)]


@click.command()
@click.argument("date", required=False)
@click.pass_context
def new(ctx: click.Context, date: str | None) -> None:
    """Write a fresh issue file for DATE (default: the coming issue).

    DATE is written YYYY-MM-DD; the coming issue is that of the next day on which weeks end. The file has what most
    issues need, the next number, and the standing blocks of the newest issue.

    \b
    Examples:
      newsletter new
      newsletter new 2017-11-26
    """
    config = open_workspace(ctx)
    paths = issue_paths(config.issues)
    day = _day(date) if date else _coming(config)
    path = config.issues / f"{day}.yaml"
    if path.exists():
        later = day + datetime.timedelta(days=7)
        message = f"{config.shown(path)} is already there; write in it, or begin another: newsletter new {later}"
        raise click.ClickException(message)
    write_file(path, _fresh(day, paths, config).encode())
    click.echo(f"{config.shown(path)}: write your stories there, and look at them with `newsletter preview {day}`.")


def _day(text: str) -> datetime.date:
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=datetime.UTC).date()
    except ValueError:
        raise click.UsageError(f"{text} is no day; write it like 2017-11-26") from None


def _coming(config: Config) -> datetime.date:
    """The next end of a week, today included."""
    today = datetime.datetime.now(tz=datetime.UTC).astimezone().date()
    return today + datetime.timedelta(days=(WEEKDAYS.index(config.week_ends) - today.weekday()) % 7)


def _fresh(day: datetime.date, paths: list[Path], config: Config) -> str:
    """The text of a new issue file: what an editor fills in, and comments that say how."""
    from newsletter.content.issue import load_issue

    number, blocks = 1, ", ".join(load_blocks(config.issues / "blocks.yaml", config))
    for path in reversed([each for each in paths if each.stem < day.isoformat()]):
        try:
            before = load_issue(path, config)
        except IssueError:
            continue  # a broken old issue must not keep anyone from writing a new one
        number = (before.number or 0) + 1
        blocks = ", ".join(block.name for block in before.blocks)
        break
    sections = ", ".join(config.sections)

    def texts(indent: int, *, literal: bool = False) -> str:
        pad = " " * indent
        if len(config.languages) == 1:
            return f" |\n{pad}…" if literal else " …"
        mark = " |" if literal else ""
        hint = f"\n{pad}  …" if literal else " …"
        return "".join(f"\n{pad}{language}:{mark}{hint}" for language in config.languages)

    return f"""\
# What an issue can hold: docs/issue-files.md. Look at it while you write: newsletter preview {day}
date: {day}
number: {number}
subject:{texts(2)}
# The line that inboxes show beside the subject.
preheader:{texts(2)}
intro:{texts(2, literal=True)}
stories:
  - title:{texts(6)}
    date: {day}
{f"    # one of: {sections}{chr(10)}    section: {next(iter(config.sections))}{chr(10)}" if sections else ""}\
    # url: https://…
    summary:{texts(6, literal=True)}
{f"blocks: [{blocks}]{chr(10)}" if blocks else ""}"""


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), help="Folder of the issue files. Default: issues/."
)
@click.option("--language", help="Language the sources are written in, when it is not the default one or told by them.")
@click.option("--dry-run", is_flag=True, help="Say what would be added, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def collect(
    ctx: click.Context,
    sources: tuple[str, ...],
    into: Path | None,
    language: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Collect stories from feeds, pages and listings into issue files.

    SOURCE is a file or an address: RSS, Atom, JSON Feed, an HTML page, or a plain text of titles, dates and paragraphs.
    Each story goes to the issue of its week. What an editor changed stays as it is, and nothing is added twice.

    \b
    Examples:
      newsletter collect https://example.org/feed.xml
      newsletter collect news.txt page.html --dry-run
      newsletter collect noticias.xml --language es
    """
    from newsletter.content.collect import collect as collect_stories

    config = open_workspace(ctx)
    report = collect_stories(sources, config, into=into or config.issues, language=language, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(report.as_json(), ensure_ascii=False, indent=2))
        return
    click.echo(str(report))
    issues = [Path(name).stem for name in report.written if Path(name).stem != "blocks"]
    if issues and dry_run:
        click.echo("Next: the same command without --dry-run")
    elif issues:
        click.echo(f"Next: newsletter preview {issues[-1]}")


@click.command("format")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="[FILE]...")
@click.option(
    "--check", "only_check", is_flag=True, help="Change nothing; exit 1 if a file is not in its canonical form."
)
@click.option("--diff", "show_diff", is_flag=True, help="Change nothing; show what would change.")
@click.pass_context
def format(ctx: click.Context, files: tuple[Path, ...], *, only_check: bool, show_diff: bool) -> None:
    """Put issue files into their one canonical form.

    Keys in a fixed order, Markdown under a |, no folded lines. Comments stay, and no word changes. A file that does not
    load is left alone and reported. Without FILE: every file in issues/.

    \b
    Examples:
      newsletter format
      newsletter format issues/2017-11-19.yaml --diff
      newsletter format --check        (in a git hook or in CI)
    """
    config = open_workspace(ctx)
    chosen = files or _all_files(config)
    findings: list[Finding] = []
    changed = 0
    for path in chosen:
        text, found = read_text(path, name=config.shown(path), family="issue")
        try:
            result = "" if found else _formatted(text, path, config)
        except IssueError as error:
            found = list(error.findings)
            result = text
        findings += found
        if found or result.encode() == path.read_bytes():  # bytes: \r\n and a byte order mark are not canonical
            continue
        changed += 1
        if show_diff:
            lines = difflib.unified_diff(
                text.splitlines(True), result.splitlines(True), str(path), f"{path} (formatted)"
            )
            click.echo("".join(lines), nl=False)
        elif only_check:
            click.echo(f"{config.shown(path)}: not in canonical form; run newsletter format {config.shown(path)}")
        else:
            write_file(path, result.encode())
            click.echo(f"{config.shown(path)}: formatted")
    print_findings(findings, err=True)
    click.echo(f"{plural(len(chosen), 'file')}, {changed} {'to change' if only_check or show_diff else 'changed'}")
    if findings or (changed and (only_check or show_diff)):
        ctx.exit(1)


def _all_files(config: Config) -> tuple[Path, ...]:
    blocks = config.issues / "blocks.yaml"
    paths = issue_paths(config.issues)
    stories = [story for path in paths for story in sorted(path.with_suffix("").glob("*.md")) if is_story(story)]
    return (*paths, *stories, *([blocks] if blocks.is_file() else []))


def _formatted(text: str, path: Path, config: Config) -> str:
    from newsletter.content.format import format_blocks, format_issue, format_story

    if path.suffix == ".md":
        return format_story(text, path, config)
    if path.name == "blocks.yaml":
        return format_blocks(text, path, config)
    return format_issue(text, path, config)


@click.command()
@click.argument("issues", nargs=-1, metavar="[ISSUE]...")
@click.option("--all", "every", is_flag=True, help="Every issue of the workspace.")
@click.option("--json", "as_json", is_flag=True, help="Print findings as a JSON list.")
@click.pass_context
def check(ctx: click.Context, issues: tuple[str, ...], *, every: bool, as_json: bool) -> None:
    """Report everything that could be wrong with an issue.

    Everything that loading, rendering, the MJML linter and the envelope find, each with its place and the next step.
    Exit code 1 when there is an error; warnings and notes do not count. ISSUE is a file or a date; without one, the
    newest, and what concerns the whole workspace: its settings, its theme, files that are never read.

    \b
    Examples:
      newsletter check
      newsletter check 2017-11-19 --json
      newsletter check --all
    """
    try:
        config = open_workspace(ctx)
    except InputError as error:
        if not as_json:
            raise
        _print_json([(None, finding) for finding in error.findings])
        ctx.exit(1)
    paths = _chosen(issues, config, every=every)
    templates = _templates(config)
    told: list[tuple[str | None, Finding]] = []
    if not issues:
        told = [(None, finding) for finding in check_workspace(config, templates)]
        if told and not as_json:
            print_findings(finding for _, finding in told)
            click.echo(f"the workspace: {tally(finding for _, finding in told)}")
    for path in paths:
        findings = check_issue(path, config, templates=templates).findings
        told += [(config.shown(path), finding) for finding in findings]
        if not as_json:
            print_findings(findings)
            click.echo(f"{config.shown(path)}: {tally(findings)}")
    if as_json:
        _print_json(told)
    if any(finding.severity == "error" for _, finding in told):
        ctx.exit(1)


def _print_json(told: list[tuple[str | None, Finding]]) -> None:
    described = [{"issue": issue, **finding.as_json()} for issue, finding in told]
    click.echo(json.dumps(described, ensure_ascii=False, indent=2))


def _templates(config: Config) -> Templates | None:
    """The templates, read once for many issues; None when they are broken, which each check will then say."""
    try:
        return load_templates(config)
    except InputError:
        return None


@click.command()
@click.argument("issue", required=False)
@click.option("--port", default=8025, show_default=True, help="Port on this machine; the next free one is taken.")
@click.option("--open/--no-open", "open_browser", default=False, help="Open the browser.")
@click.pass_context
def preview(ctx: click.Context, issue: str | None, port: int, *, open_browser: bool) -> None:
    """Show an issue in the browser, reloading at every save.

    Phone and desktop width, light and dark, with and without images, HTML and text, each language, and the problems
    found. Only this machine can see it.

    \b
    Examples:
      newsletter preview
      newsletter preview 2017-11-19 --open
    """
    from newsletter.cli.preview import serve_preview
    from newsletter.config import find_workspace

    root = find_workspace(Path(ctx.obj))
    path = find_issue(issue, open_workspace(ctx)) if issue else None
    serve_preview(root, path, port=port, open_browser=open_browser, announce=click.echo)


@click.command()
@click.argument("issues", nargs=-1, metavar="[ISSUE]...")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write to. Default: build/<issue>/."
)
@click.option("--all", "every", is_flag=True, help="Every issue of the workspace.")
@click.option("--mjml", is_flag=True, help="Write the MJML too, as the compiler gets it.")
@click.pass_context
def build(ctx: click.Context, issues: tuple[str, ...], out: Path | None, *, every: bool, mjml: bool) -> None:
    """Write html, txt and eml per language, and a manifest.

    The eml is a sealed sample that any mail client opens. The same files give the same bytes on any machine; the hash
    of the manifest identifies what is sent. ISSUE is a file or a date; without one, the newest.

    \b
    Examples:
      newsletter build
      newsletter build 2017-11-19 --out /tmp/issue
    """
    config = open_workspace(ctx)
    paths = _chosen(issues, config, every=every)
    templates = _templates(config)
    failed = False
    for path in paths:
        begun = time.perf_counter()
        result = check_issue(path, config, templates=templates)
        print_findings([each for each in result.findings if each.severity != "note"], err=True)
        if not result.ok or result.issue is None:
            failed = True
            click.echo(f"{config.shown(path)}: not built: {tally(result.findings)}", err=True)
            continue
        folder = out / path.stem if out and (every or len(paths) > 1) else out or config.root / "build" / path.stem
        made = build_issue(result.issue, result.editions, config)
        write_build(made, folder)
        if mjml and templates:
            for language in result.editions:
                write_file(folder / f"{language}.mjml", issue_mjml(result.issue, language, templates).encode())
        milliseconds = (time.perf_counter() - begun) * 1000
        click.echo(f"{config.shown(path)} → {config.shown(folder)}/ in {milliseconds:.0f} ms")
        for name, content in made.files.items():
            click.echo(f"  {name:<44} {len(content):>9,} bytes")
        click.echo(f"  manifest {made.manifest_hash}")
    if failed:
        ctx.exit(1)
