"""`newsletter demo`: the whole way on the sample, into a folder on this machine."""

from __future__ import annotations

import datetime
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from newsletter.build import build_issue, sample_recipient, write_build, write_file
from newsletter.checks import check_issue
from newsletter.cli.database import open_store
from newsletter.cli.following import follow
from newsletter.cli.issues import find_issue
from newsletter.cli.mailings import left_out, people, print_tally
from newsletter.cli.output import command, plural, print_findings, tally
from newsletter.cli.workspace import fresh_secrets, open_workspace
from newsletter.config import FILE, Config, Way, load_config
from newsletter.content.issue import Issue
from newsletter.providers import open_ways
from newsletter.rendering.edition import Edition, filled
from newsletter.rendering.render import load_templates, render_issue

if TYPE_CHECKING:
    from newsletter.store.importing import Report


@click.command()
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Send the newest issue to the sample subscribers, into a folder on this machine.

    The whole way, in a workspace of its own under build/demo, made anew each time: the people of subscribers/sample.csv
    are imported, the newest issue is sent to them, then next week's, while one of them leaves, and then the first once
    more, which reaches nobody twice. Nothing leaves this machine.

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
        write_build(build_issue(checked.issue, checked.editions, config), folder)
        pages = [_page(edition, config) for edition in checked.editions.values()]
    sandbox = _sandbox(config)
    with _step("make a database", sandbox.shown(sandbox.database)):
        open_store(sandbox)
    from django.db import connections

    try:
        _send_all(sandbox, checked.issue, checked.editions)
    finally:
        connections.close_all()  # the next demo of this process makes the file anew
    _look_and_try(config, sandbox, pages, folder)


def _sandbox(config: Config) -> Config:
    """A workspace of the demo's own: a copy, with a database and secret keys that are nobody else's."""
    root = config.root / "build" / "demo" / "workspace"
    if root.exists():
        shutil.rmtree(root)
    for name in (FILE, "subscribers/lists.yaml", "subscribers/sample.csv"):
        if (config.root / name).is_file():
            write_file(root / name, (config.root / name).read_bytes())
    for folder in (config.issues, config.templates):
        shutil.copytree(folder, root / folder.name)
    write_file(root / ".env", fresh_secrets().encode(), mode=0o600)
    # Of the environment nothing: DATABASE_URL and the keys in it are those of the real newsletter.
    sandbox = load_config(root, {})
    ways = (Way(name="outbox", settings=sandbox.outbox),)
    return replace(sandbox, ways=ways, engine="local", base_url=config.base_url)


def _send_all(sandbox: Config, issue: Issue, editions: Mapping[str, Edition]) -> None:
    from newsletter import duties
    from newsletter.store import mailings
    from newsletter.store.dossier import profile
    from newsletter.store.importing import import_file
    from newsletter.store.lists import list_id
    from newsletter.store.models import Subscription
    from newsletter.store.subscribers import unsubscribe

    sample = sandbox.root / "subscribers" / "sample.csv"
    with _step("import", sandbox.shown(sample)):
        report = import_file(sandbox, sample, consent="people of the sample, who do not exist")
    _say_import(report)
    list = list_id(sandbox, sandbox.list)

    def open_one(issue: str, editions: Mapping[str, Edition]) -> int:
        opened = mailings.open_mailing(
            editions, issue=issue, list=list, default_language=sandbox.default_language, provider=sandbox.route
        )
        while duties.write_down_recipients(sandbox):
            pass
        return opened.mailing

    with _step("open", f"{issue.name}: the text frozen, a row for each person"):
        first = open_one(issue.name, editions)
    _deliver(sandbox, first)

    coming, their_editions = _next_week(issue, sandbox)
    with _step("open the next", f"{coming.name}, a week later"):
        second = open_one(coming.name, their_editions)
    leaving = Subscription.objects.filter(list_id=list, state="subscribed").select_related("subscriber").first()
    if leaving:
        with _step("unsubscribe", f"{leaving.subscriber.address}, while it waits"):
            unsubscribe(leaving.subscriber, how="the demo")
    _deliver(sandbox, second)

    with _step("open the first again", issue.name):
        third = mailings.find(open_one(issue.name, editions))
        duties.finish()
    click.echo(f"  {people(third.audience)} to send to: {left_out(third.left_out)}; nobody gets it twice")
    if leaving:
        address = leaving.subscriber.address
        click.echo(f"Did {address} get it?")
        for row in profile(sandbox, address).deliveries[::-1]:
            name = row.mailing.round.issue if row.mailing.round else row.mailing.name
            why = f": {row.detail}" if row.detail else ""
            click.echo(f"  {name}: {row.state}{why}")
    click.echo()


def _say_import(report: Report) -> None:
    click.echo(f"  {people(report.new)} on the list {report.list}, {plural(report.rejected, 'row')} rejected")
    for sheet, line, why in report.examples:
        click.echo(f"  {sheet}:{line}: {why}")
    for doubt, count in report.doubts.items():
        click.echo(f"  {plural(count, 'row')}: {doubt}")


def _deliver(sandbox: Config, mailing: int) -> None:
    from newsletter.store import mailings

    with _step("send", f"mailing {mailing} into {sandbox.shown(sandbox.outbox)}"):
        follow(sandbox, open_ways(sandbox), mailing, stop=threading.Event(), say=click.echo)
    print_tally(mailings.find(mailing))


def _next_week(issue: Issue, config: Config) -> tuple[Issue, dict[str, Edition]]:
    """The same stories as the issue of a week later."""
    day = issue.date + datetime.timedelta(days=7)
    coming = replace(issue, name=day.isoformat(), date=day, number=issue.number + 1 if issue.number else None)
    templates = load_templates(config)
    return coming, {language: render_issue(coming, language, templates)[0] for language in config.languages}


@contextmanager
def _step(name: str, what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    milliseconds = (time.perf_counter() - begun) * 1000
    click.echo(f"{name:<20} {what:<56} {milliseconds:>7.0f} ms")


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


def _look_and_try(config: Config, sandbox: Config, pages: list[Path], folder: Path) -> None:
    click.echo("Look at it:")
    for page in pages:
        click.echo(f"  {config.shown(page)}")
    click.echo(f"  {config.shown(folder)}/{config.default_language}.eml          opens in a mail client")
    outbox = config.shown(sandbox.outbox)
    click.echo(f"  {outbox}/                a Maildir, for example: mutt -f {outbox}")
    click.echo("Try next:")
    steps = (
        (f"-w {config.shown(sandbox.root)} mailings", "what became of everybody"),
        ("preview", "change the issue and save: the page follows"),
        ("new", "begin next week's issue"),
        ("init ../my-news", "a newsletter of your own"),
    )
    width = max(len(words) for words, _ in steps)
    for words, why in steps:
        click.echo(f"  {command()} {words:<{width}}  {why}")
