"""`newsletter doctor`: whether mail would leave from here, part by part. It sends nothing to anybody.

Each part is looked at in a thread of its own, so that one that hangs does not keep the others from being looked at.
Modules of `newsletter.store` are imported inside functions: only after `configure_database`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from newsletter.checks.leaving import ask, check_identity, check_settings
from newsletter.cli.database import configure_database
from newsletter.cli.outlook import caps
from newsletter.cli.output import command, plural, print_findings, tally
from newsletter.config import Anymail, Config, Sendgrid, Smtp, Way, find_workspace, load_config
from newsletter.dkim import examine, record_name, signing_domain
from newsletter.errors import (
    ConfigError,
    DatabaseDown,
    Finding,
    InputError,
    NewsletterError,
    ProviderDown,
    ProviderError,
    SchemaMismatch,
    Severity,
    Where,
    WrongKey,
)
from newsletter.providers import Checkable, open_provider
from newsletter.rendering.edition import Mailbox

SECONDS = 15.0  # for a part
SMTP_SECONDS = 13  # for all that a mail server is asked: below SECONDS, so that the words tell what it was
API_SECONDS = 5  # for one answer of a mail service, which is connected to, greeted and asked


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was found about one part."""

    name: str
    words: str  # what is well; "" when nothing is known to be
    findings: tuple[Finding, ...]
    down: bool = False  # it did not answer

    @property
    def state(self) -> str:
        """ "fine", "warning", "error", "down" (it did not answer, or not now), or "unknown": notes say why."""
        severities = {each.severity for each in self.findings}
        if "error" in severities:
            return "down" if self.down else "error"
        return "warning" if "warning" in severities else "fine" if self.words else "unknown"


_PAGES = "pages"  # looked at only where a way out leaves this machine

Report = Callable[[Finding], object]
Look = Callable[[Report], str]
"""Looks at a part, reports what is wrong, and gives words for what is well. May raise what a command may raise."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """See whether mail would leave from here: settings, database, ways out, keys, caps.

    Nothing is sent to anybody. A mail server is asked for everything that comes before the first recipient, SendGrid is
    asked in its sandbox mode, and what cannot be tried without sending is named. Each part may take 15 seconds.

    \b
    Exit codes: 0 mail would leave, 1 something must be mended first,
    3 something did not answer, or not now.

    \b
    Examples:
      newsletter doctor
      newsletter doctor --json
    """
    parts: list[Part] = []
    for part in _parts(find_workspace(Path(ctx.obj))):
        parts.append(part)
        if not as_json:
            _show(part)
    states = [part.state for part in parts]
    code = 1 if "error" in states else 3 if "down" in states else 0
    if as_json:
        described = {
            "ok": not code,
            "parts": [
                {
                    "part": part.name,
                    "state": part.state,
                    "found": part.words or None,
                    "findings": [each.as_json() for each in part.findings],
                }
                for part in parts
            ],
        }
        click.echo(json.dumps(described, ensure_ascii=False, indent=2))
    elif code:
        everything = [finding for part in parts for finding in part.findings if finding.severity != "note"]
        click.echo(f"Mail would not leave from here as it should: {tally(everything)}.")
    elif any(part.name == _PAGES for part in parts):
        click.echo(f"Mail would leave from here. Next: {command()} send ISSUE --test YOUR-ADDRESS")
    else:
        click.echo("Everything is in order, and mail reaches nobody: there is no way out but folders on this machine.")
    ctx.exit(code)


def _show(part: Part) -> None:
    wrong = [finding for finding in part.findings if finding.severity != "note"]
    said = [tally(wrong) if wrong else "fine" if part.words else "not known"]
    said += [part.words] if part.words else []
    click.echo(f"{click.style(part.name, bold=True)}: {': '.join(said)}")
    print_findings(part.findings)


def _parts(workspace: Path) -> Iterator[Part]:
    """Every part, one after the other, each as soon as it was looked at."""
    try:
        config = load_config(workspace)
    except ConfigError as error:  # nothing else can be looked at without it
        yield Part(name="configuration", words="", findings=error.findings)
        return
    yield _examined("configuration", lambda report: _configuration(config, report))
    database = _examined("database", lambda report: _database(config, report))
    yield database
    if _leaves(config):
        _progress(config.base_url)
        yield _examined(_PAGES, lambda report: _pages(config, report, database=database))
    for way in (*config.ways, *config.spare):
        _progress(f"way out {way.name}")
        yield _way_out(config, way)
    yield _examined("dkim", lambda report: _dkim(config, report))
    yield _examined("caps", lambda report: _caps(config, report, known=_readable(database)))


def _progress(what: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"asking {what} …", err=True)


def _leaves(config: Config) -> bool:
    return any(not isinstance(way.settings, Path) for way in config.ways)


# --- one part, whatever happens ---------------------------------------------------------------------------------------


def _examined(name: str, look: Look, *, where: Where | None = None) -> Part:
    """What `look` finds within `SECONDS`; what it raises on purpose is a finding, at `where`. Other errors come out."""
    findings: list[Finding] = []
    words: list[str] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            words.append(look(findings.append))
        except BaseException as error:
            raised.append(error)
        finally:
            _close_database()

    thread = threading.Thread(target=work, name=f"doctor {name}", daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        message = f"{name}: no answer within {SECONDS:g} seconds"
        help = "see whether what it names is at work and can be reached from this machine, then run again"
        late = _finding("no-answer", message, help, where=where)
        return Part(name=name, words="", findings=(*findings, late), down=True)
    if raised:
        found, down = _explained(raised[0], where)
        return Part(name=name, words="", findings=(*findings, *found), down=down)
    return Part(name=name, words=words[0], findings=tuple(findings))


def _close_database() -> None:
    """Closes this thread's connection, if it has one."""
    if "django.db" in sys.modules:
        from django.conf import settings
        from django.db import connections

        if settings.configured:
            connections.close_all()


def _explained(error: BaseException, where: Where | None) -> tuple[tuple[Finding, ...], bool]:
    """The findings that stand for an error, and whether it says that something did not answer."""
    if isinstance(error, InputError):
        return error.findings, False
    if not isinstance(error, NewsletterError) and "newsletter.store.schema" in sys.modules:
        from newsletter.store.schema import database_down

        error = database_down(error) or error
    if isinstance(error, NewsletterError):
        code = next((code for kind, code in _CODES if isinstance(error, kind)), "failed")
        down = isinstance(error, (ProviderDown, DatabaseDown))
        return (_finding(code, str(error), where=where),), down
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return (_finding("failed", f"{name}{error.strerror or type(error).__name__}", where=where),), False
    raise error


_CODES: tuple[tuple[type[NewsletterError], str], ...] = (
    (ProviderDown, "way-down"),
    (ProviderError, "way-rejected"),
    (DatabaseDown, "database-down"),
    (SchemaMismatch, "schema"),
    (WrongKey, "keys"),
)


def _finding(
    code: str, message: str, help: str = "", *, severity: Severity = "error", where: Where | None = None
) -> Finding:
    return Finding(code=f"doctor.{code}", severity=severity, where=where, message=message, help=help)


# --- the parts --------------------------------------------------------------------------------------------------------


def _configuration(config: Config, report: Report) -> str:
    """newsletter.yaml and the secrets, as far as they can be judged without asking anybody."""
    for finding in config.remarks:
        report(finding)
    leaves = _leaves(config)
    for finding in check_settings(config):
        # Nothing keeps mail from a folder on this machine.
        report(finding if leaves else replace(finding, severity="warning"))
    for name, value in (("NEWSLETTER_SECRET_KEY", config.secret_key), ("NEWSLETTER_PEPPER", config.pepper)):
        if not value:
            help = "bring back the one you had (a backup holds it); for a new workspace newsletter init makes them"
            report(_finding("keys", f"{name} is not set", help, where=Where(path=config.shown(config.root / ".env"))))
    return f"mail leaves through {config.route.replace(',', ', else ')}"


def _database(config: Config, report: Report) -> str:
    """The database as it is: nothing is made, migrated or written."""
    configure_database(config)
    from django.db import transaction

    from newsletter.store import fleet, keys, overview, queue, schema

    name = schema.database_name()
    with schema.explained():
        had = schema.applied(config)
        missing = [each for each in schema.migrations() if not had or each not in had]
        if missing and config.database_url:
            schema.prepare(config)  # which says what to do, and changes nothing on PostgreSQL
        if not had:
            message, help = (
                f"{name} is not there yet",
                f"the first command that needs it makes it: {command()} mailings",
            )
            report(_finding(_NO_TABLES, message, help, severity="note"))
            return _TO_BE_MADE
        if not config.database_url and not all(
            os.access(path, os.W_OK) for path in (config.database, config.database.parent)
        ):
            raise DatabaseDown(f"{name} cannot be written; this user must be able to write the file and its folder")
        if missing:
            message = f"{name} is older than this program; the next command that needs it migrates it, after a copy"
            report(_finding(_NO_TABLES, message, "make a backup first: newsletter backup FILE", severity="warning"))
            return ""
        if config.secret_key and config.pepper:  # else that is told already
            with transaction.atomic():
                keys.check_keys(config)
                transaction.set_rollback(True)  # a new database would keep our keys as the right ones
        if config.engine == "cluster":
            queue.check()
        now = time.time()
        at_work = sum(not each.silent for each in fleet.members(now))
        waiting = sum(_waits(row, overview.standing(row.pk, now)) for row in overview.active())
    if waiting and not at_work:
        message = f"{plural(waiting, 'mailing')} to be sent, and no worker is at work"
        help = f"start one: {command()} worker; or go on here: {command()} send ISSUE"
        report(_finding("no-worker", message, help, severity="warning"))
    known = "its tables are of this version" + (
        ", and its keys are ours" if config.secret_key and config.pepper else ""
    )
    return f"{name}: {known}; {plural(at_work, 'worker')} at work"


_NO_TABLES = "no-tables"
_TO_BE_MADE = "to be made"


def _readable(database: Part) -> bool:
    """Whether the database can be asked for more."""
    tables = all(each.code != f"doctor.{_NO_TABLES}" for each in database.findings)
    return tables and database.state in ("fine", "warning")


def _waits(row: Any, standing: Any) -> bool:
    return bool(row.kind == "issue" or standing.done < standing.audience)  # single mail is always open


def _pages(config: Config, report: Report, *, database: Part) -> str:
    """Whether links in messages lead back to this workspace."""
    message = "whether base_url leads to this workspace was not asked"
    if any(each.code == "leaving.base-url" for each in check_settings(config)):
        message, help = f"{message}: nobody else can open it", "mend base_url first"
    elif not _readable(database):
        message, help = f"{message}: the database does not tell its id", "run this again once the database is in order"
    else:
        from newsletter.store.schema import store_id

        found = [*check_identity(config, store=store_id(), ask=ask)]
        for finding in found:
            report(finding)
        return "" if found else f"{config.base_url} answers for this workspace"
    made = database.words != _TO_BE_MADE  # else nothing can answer with its id, and nothing leaves without that
    report(_finding("not-asked", message, help, severity="note" if made else "error"))
    return ""


def _way_out(config: Config, way: Way) -> Part:
    """What can be learnt of a way out without sending. One that is not in use can only be worth a note."""
    name, spare = f"way out {way.name}", way in config.spare
    where = config.marks.get(way.name) or config.marks.get("providers") or config.marks.get("provider")
    part = _examined(name, lambda _: _try_way(config, way), where=where)
    if not spare:
        return part
    message, help = f"{way.name}: neither provider nor fallback names it", "add it to fallback, or remove it"
    unused = _finding("way-unused", message, help, severity="note", where=where)
    return replace(part, findings=(unused, *(replace(each, severity="note") for each in part.findings)), down=False)


def _try_way(config: Config, way: Way) -> str:
    settings = way.settings
    if isinstance(settings, Smtp):
        way = replace(way, settings=replace(settings, timeout=min(settings.timeout, SMTP_SECONDS)))
    elif isinstance(settings, Sendgrid | Anymail):
        way = replace(way, settings=replace(settings, timeout=min(settings.timeout, API_SECONDS)))
    provider = open_provider(config, way)
    try:
        if isinstance(provider, Checkable):
            sender = Mailbox(name=config.sender.name.get(config.default_language, ""), address=config.sender.address)
            return provider.check(sender)
        return "it cannot be tried without sending"
    finally:
        provider.close()


def _dkim(config: Config, report: Report) -> str:
    """The keys that sign, and the records that nobody here can look up: no DNS library is needed for sending."""
    by_smtp = any(isinstance(way.settings, Smtp) for way in config.ways)
    if not config.dkim:
        if by_smtp:
            message = "what leaves by SMTP is not signed here, so the server must sign it"
            report(_finding("unsigned", message, "if it does not: newsletter dkim new", severity="note"))
        return "no keys are set"
    keys, findings = examine(config.dkim, sender=config.sender.address)
    for finding in findings:
        report(finding)
    if any(each.severity == "error" for each in findings):
        return ""
    if not by_smtp:
        message = "dkim signs what leaves by SMTP, and no way out in use does; a mail service signs by itself"
        report(_finding("unused-keys", message, "enter your domain with the service", severity="note"))
    domain = signing_domain(config.dkim) or config.sender.address.rpartition("@")[2]
    names = ", ".join(record_name(key.selector, domain) for key in keys)
    message = f"the DNS was not asked; to be found there, as TXT: {names}"
    report(_finding("dns", message, f"compare them with what {command()} dkim show prints", severity="note"))
    return f"{plural(len(keys), 'key')} can sign"


def _caps(config: Config, report: Report, *, known: bool) -> str:
    """Which caps there are, and what of them is spent."""
    capped = [way for way in config.ways if way.pace]
    if not capped:
        return "none are set"
    words = {way.name: caps(way.pace).rstrip(",") for way in capped}
    if not known:
        report(_finding("not-asked", "what left lately is not known: the database does not tell", severity="note"))
        return "; ".join(f"{name}: {limits}" for name, limits in words.items())
    from newsletter.store import pace

    ids = {name: id for id, name in pace.way_names().items()}
    now = time.time()
    told = []
    for name, limits in words.items():
        spent = pace.spent(ids[name], now) if name in ids else {}
        told.append(
            f"{name}: {limits} ({spent.get('hour', 0):,} left in the last hour, {spent.get('day', 0):,} in the last "
            "day)"
        )
    return "; ".join(told)
