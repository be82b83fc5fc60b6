"""`newsletter demo`: the whole way on the sample, into a folder on this machine."""

from __future__ import annotations

import datetime
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from newsletter.build import build_issue, sample_recipient, write_build, write_file
from newsletter.checks import check_issue
from newsletter.cli.database import open_store
from newsletter.cli.following import follow
from newsletter.cli.issues import find_issue
from newsletter.cli.mailings import left_out, people, print_tally
from newsletter.cli.output import command, plural, print_findings, tally
from newsletter.cli.serve import LOCAL, PORT
from newsletter.cli.visiting import Seen, Visitor, serving
from newsletter.cli.workspace import fresh_secrets, open_workspace
from newsletter.config import FILE, Config, load_config
from newsletter.content.issue import Issue
from newsletter.content.lists import load_lists
from newsletter.providers import open_ways
from newsletter.rendering.edition import Edition, filled
from newsletter.rendering.render import load_templates, render_issue

if TYPE_CHECKING:
    from newsletter.store.importing import Report

NEWCOMER = "newcomer@example.org"  # RFC 2606 §3: nobody's


@click.command()
@click.option("--no-serve", is_flag=True, help="Do not go on serving the pages, also on a terminal.")
@click.pass_context
def demo(ctx: click.Context, *, no_serve: bool) -> None:
    """Send the newest issue to the sample subscribers, into a folder on this machine.

    The whole way, in a workspace of its own under build/demo, made anew each time: the people of subscribers/sample.csv
    are imported, the newest issue is sent to them, then next week's, while one of them leaves, and then the first once
    more, which reaches nobody twice. Then somebody signs up at the pages, confirms by the mail that answers, gets an
    issue, leaves with one click, and gets nothing more. Nothing leaves this machine.

    On a terminal the pages are served until you press Ctrl-C, with every message at /inbox/.

    \b
    Examples:
      newsletter demo
      newsletter demo --no-serve
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

    stay = sys.stdout.isatty() and not no_serve
    try:
        _send_all(sandbox, checked.issue, checked.editions)
        with serving(sandbox.root, port=_port() if stay else 0) as url:
            _become_a_member(sandbox, checked.issue, url)
            click.echo()
            _look_and_try(config, sandbox, pages, folder, url if stay else "")
            if stay:
                with suppress(KeyboardInterrupt):
                    signal.pause()
                click.echo()
    finally:
        connections.close_all()  # the next demo of this process makes the file anew


def _sandbox(config: Config) -> Config:
    """A workspace of the demo's own: a copy, with a database and secret keys that are nobody else's."""
    root = config.root / "build" / "demo" / "workspace"
    if root.exists():
        shutil.rmtree(root)
    for name in ("subscribers/lists.yaml", "subscribers/sample.csv"):
        if (config.root / name).is_file():
            write_file(root / name, (config.root / name).read_bytes())
    settings = yaml.load((config.root / FILE).read_bytes(), Loader=yaml.CSafeLoader)
    settings = {name: value for name, value in settings.items() if name not in _WAYS_OUT}
    settings["base_url"] = config.base_url
    write_file(root / FILE, yaml.safe_dump(settings, allow_unicode=True, sort_keys=False).encode())
    for folder in (config.issues, config.templates):
        shutil.copytree(folder, root / folder.name)
    write_file(root / ".env", fresh_secrets().encode(), mode=0o600)
    # Of the environment nothing: DATABASE_URL and the keys in it are those of the real newsletter.
    return load_config(root, {})


# Settings that the demo's workspace does not have: with them it could reach somebody.
_WAYS_OUT = (
    "provider",
    "fallback",
    "providers",
    "outbox",
    "smtp",
    "sendgrid",
    "anymail",
    "dkim",
    "engine",
    "recorders",
)


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
    with _step("open", f"{issue.name}: the text frozen, a row for each person"):
        first = _open(sandbox, issue.name, editions)
    _deliver(sandbox, first)

    coming, their_editions = _weeks_later(issue, 1, sandbox)
    with _step("open the next", f"{coming.name}, a week later"):
        second = _open(sandbox, coming.name, their_editions)
    leaving = Subscription.objects.filter(list_id=list, state="subscribed").select_related("subscriber").first()
    if leaving:
        with _step("unsubscribe", f"{leaving.subscriber.address}, while it waits"):
            unsubscribe(leaving.subscriber, how="the demo")
    _deliver(sandbox, second)

    with _step("open the first again", issue.name):
        third = mailings.find(_open(sandbox, issue.name, editions))
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


def _become_a_member(sandbox: Config, issue: Issue, url: str) -> None:
    """Somebody's way through the pages at `url`, from the sign-up to the end."""
    chosen = load_lists(sandbox).lists.get(sandbox.list)
    if chosen is None or chosen.private:
        click.echo(f"The list {sandbox.list} is private: nobody signs up at the pages.")
        return
    from newsletter.web.signup import FASTEST

    visitor = Visitor(url=url, language=sandbox.default_language)
    with _step("sign up", f"{NEWCOMER}, at {url}/signup/"):
        form = visitor.get("/signup/")
        time.sleep(FASTEST + 0.1)  # who fills it in faster is taken for a program
        _expect(visitor.press(form, email=NEWCOMER, list=sandbox.list), "the sign-up")
    if chosen.double_opt_in:
        with _step("confirm", "by the link of the mail that came"):
            place, _ = visitor.awaited(NEWCOMER)
            link = next((each for each in visitor.shown(place).links() if "/c/" in each), "")
            asked = _expect(visitor.get(link), "the link of the confirmation mail")
            _expect(visitor.press(asked), "the confirmation")

    coming, editions = _weeks_later(issue, 2, sandbox)
    with _step("open the next", f"{coming.name}, a week later"):
        mailing = _open(sandbox, coming.name, editions)
    _deliver(sandbox, mailing)
    with _step("leave", f"{NEWCOMER}, by the one click of that mail"):
        _, mail = visitor.awaited(NEWCOMER, f"{coming.name}.")
        found = re.search(r"<(http[^>]+)>", str(mail["List-Unsubscribe"]))
        address = found[1].replace(sandbox.base_url, url, 1) if found else ""
        _expect(visitor.post(address, {"List-Unsubscribe": "One-Click"}), "the one click")

    last, editions = _weeks_later(issue, 3, sandbox)
    with _step("open the next", f"{last.name}, a week later"):
        mailing = _open(sandbox, last.name, editions)
    _deliver(sandbox, mailing)
    if visitor.mail(NEWCOMER, f"{last.name}."):
        raise click.ClickException(f"{NEWCOMER} got {last.name} after leaving")
    click.echo(f"  nothing of it for {NEWCOMER}, who has left")


def _expect(seen: Seen, what: str) -> Seen:
    if seen.status != 200:
        raise click.ClickException(f"{what} was answered with {seen.status}")
    return seen


def _open(sandbox: Config, issue: str, editions: Mapping[str, Edition]) -> int:
    """Opens a mailing of an issue to the list, and writes down for whom it is."""
    from newsletter import duties
    from newsletter.store import mailings
    from newsletter.store.lists import list_id

    opened = mailings.open_mailing(
        editions,
        issue=issue,
        list=list_id(sandbox, sandbox.list),
        default_language=sandbox.default_language,
        provider=sandbox.route,
    )
    while duties.write_down_recipients(sandbox):
        pass
    return opened.mailing


def _deliver(sandbox: Config, mailing: int) -> None:
    from newsletter.store import mailings

    with _step("send", f"mailing {mailing} into {sandbox.shown(sandbox.outbox)}"):
        follow(sandbox, open_ways(sandbox), mailing, stop=threading.Event(), say=click.echo)
    print_tally(mailings.find(mailing))


def _weeks_later(issue: Issue, weeks: int, config: Config) -> tuple[Issue, dict[str, Edition]]:
    """The same stories as an issue of so many weeks later."""
    day = issue.date + datetime.timedelta(days=7 * weeks)
    number = issue.number + weeks if issue.number else None
    coming = replace(issue, name=day.isoformat(), date=day, number=number)
    templates = load_templates(config)
    return coming, {language: render_issue(coming, language, templates)[0] for language in config.languages}


def _port() -> int:
    """The port that `serve` has by itself where it is free, else any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCAL, PORT))
        except OSError:
            return 0
    return PORT


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


def _look_and_try(config: Config, sandbox: Config, pages: list[Path], folder: Path, url: str) -> None:
    """Where to look, and what to try next; `url` where the pages go on being served."""
    click.echo("Look at it:")
    for page in pages:
        click.echo(f"  {config.shown(page)}")
    click.echo(f"  {config.shown(folder)}/{config.default_language}.eml          opens in a mail client")
    outbox = config.shown(sandbox.outbox)
    click.echo(f"  {outbox}/                a Maildir, for example: mutt -f {outbox}")
    workspace = f"-w {config.shown(sandbox.root)}"
    steps = [
        (f"{workspace} mailings", "what became of everybody"),
        ("preview", "change the issue and save: the page follows"),
        ("new", "begin next week's issue"),
        ("init ../my-news", "a newsletter of your own"),
    ]
    if not url:
        steps.insert(0, (f"{workspace} serve --inbox", "the pages, and every message in a browser"))
    click.echo("Try next:")
    width = max(len(words) for words, _ in steps)
    for words, why in steps:
        click.echo(f"  {command()} {words:<{width}}  {why}")
    if url:
        click.echo("Open in a browser (Ctrl-C ends it):")
        click.echo(f"  {url}/inbox/     every message; their links work")
        click.echo(f"  {url}/signup/    sign up yourself: the mail that answers comes into the inbox")
        click.echo(f"  {url}/archive/   past issues")
