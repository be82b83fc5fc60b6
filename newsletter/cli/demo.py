"""`newsletter demo`: the whole way on the sample, into a local outbox."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from newsletter.build import build_issue, sample_recipient, write_build, write_file
from newsletter.checks import check_issue
from newsletter.cli.issues import find_issue
from newsletter.cli.output import command, plural, print_findings, tally
from newsletter.cli.workspace import open_workspace
from newsletter.config import Config
from newsletter.envelope import Recipient
from newsletter.errors import ConfigError, Finding, Where
from newsletter.providers import open_provider
from newsletter.rendering.edition import Edition, filled
from newsletter.source import read_text


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of subscribers/sample.csv."""

    address: str
    name: str
    language: str
    where: Where


@click.command()
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Build the newest sample issue and seal it for the sample subscribers.

    Checks and renders the newest issue in every language, and leaves one message for each row of
    subscribers/sample.csv in the outbox, a folder on this machine. Nothing is sent to anybody.

    \b
    Example:
      newsletter demo
    """
    config = open_workspace(ctx)
    path = find_issue(None, config)
    with _step("read and check", config.shown(path)):
        checked = check_issue(path, config)
    print_findings(checked.findings)
    if not checked.ok or checked.issue is None:
        click.echo(f"not built: {tally(checked.findings)}", err=True)
        ctx.exit(1)
    folder = config.root / "build" / path.stem
    with _step("build", ", ".join(config.languages)):
        made = build_issue(checked.issue, checked.editions, config)
        write_build(made, folder)
        pages = [_page(edition, config) for edition in checked.editions.values()]
    rows = sample_rows(config.root / "subscribers" / "sample.csv", config)
    outcomes = []
    provider = open_provider(config)
    with _step("seal and deliver", f"{plural(len(rows), 'message')} into {config.shown(config.outbox)}"):
        for language, edition in checked.editions.items():
            recipients = [
                _recipient(index, row, edition, config) for index, row in enumerate(rows) if row.language == language
            ]
            outcomes += provider.send(edition, recipients)
        provider.close()
    accepted = sum(outcome.state == "accepted" for outcome in outcomes)
    click.echo()
    refused = len(outcomes) - accepted
    click.echo(f"{plural(accepted, 'message')} in the outbox, {refused} refused, for {plural(len(rows), 'row')}.")
    for outcome in outcomes:
        if outcome.state != "accepted":
            row = rows[int(outcome.key.removeprefix("sample-")) - 1]
            click.echo(f"  {row.where}: {outcome.detail.partition(': ')[2]}")
    click.echo("Look at it:")
    for page in pages:
        click.echo(f"  {config.shown(page)}")
    click.echo(f"  {config.shown(folder)}/{config.default_language}.eml          opens in a mail client")
    click.echo(
        f"  {config.shown(config.outbox)}/                a Maildir, for example: mutt -f {config.shown(config.outbox)}"
    )
    click.echo("Try next:")
    for words, why in (
        ("preview", "change the issue and save: the page follows"),
        ("new", "begin next week's issue"),
        ("init ../my-news", "a newsletter of your own"),
    ):
        click.echo(f"  {command()} {words:<16} {why}")


@contextmanager
def _step(name: str, what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    milliseconds = (time.perf_counter() - begun) * 1000
    click.echo(f"{name:<18} {what:<46} {milliseconds:>7.0f} ms")


def _recipient(index: int, row: Row, edition: Edition, config: Config) -> Recipient:
    return sample_recipient(edition, config, delivery=index + 1, address=row.address, name=row.name)


def _page(edition: Edition, config: Config) -> Path:
    """A copy of the edition that a browser can show without a server: slots filled, images beside it."""
    folder = config.root / "build" / "demo"
    html, _ = filled(edition, sample_recipient(edition, config).slots)
    for image in edition.images:
        write_file(folder / "images" / image.name, image.content)
        html = html.replace(f"{config.base_url}/images/{image.name}", f"images/{image.name}")
        html = html.replace(f"cid:{image.name}@newsletter", f"images/{image.name}")
    path = folder / f"{edition.language}.html"
    write_file(path, html.encode())
    return path


def sample_rows(path: Path, config: Config) -> list[Row]:
    """The rows of a sample.csv with the columns email, name and language. ConfigError with every row that is wrong."""
    text, findings = read_text(path, name=config.shown(path), family="subscribers")
    if findings:
        raise ConfigError(findings)
    rows: list[Row] = []
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        if "email" not in (reader.fieldnames or ()):
            where = Where(path=config.shown(path), line=1)
            help = "write email,name,language into it, with commas between"
            raise ConfigError([_wrong(where, "the first line names no column email", help)])
        for each in reader:
            where = Where(path=config.shown(path), line=reader.line_num)
            row = Row(
                address=(each.get("email") or "").strip(),
                name=(each.get("name") or "").strip(),
                language=(each.get("language") or config.default_language).strip(),
                where=where,
            )
            if not row.address:
                findings.append(_wrong(where, "no address", "the columns are email,name,language"))
            elif row.language not in config.languages:
                help = f"languages of this workspace: {', '.join(config.languages)}"
                findings.append(_wrong(where, f"{row.language}: not a language of this workspace", help))
            rows.append(row)
    except csv.Error as error:
        where = Where(path=config.shown(path), line=reader.line_num)
        findings.append(_wrong(where, f"is not CSV: {error}", "a field with a quote in it needs quotes around it"))
    if findings:
        raise ConfigError(findings)
    return rows


def _wrong(where: Where, message: str, help: str) -> Finding:
    return Finding(code="subscribers.row", severity="error", where=where, message=message, help=help)
