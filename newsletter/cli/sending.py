"""`newsletter send`: an issue made ready, looked over, and sent to everybody on a list whom it has not reached."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from newsletter.build import build_issue
from newsletter.checks import Checked, check_issue
from newsletter.checks.leaving import WELL_KNOWN, ask, check_leaving, identity_file
from newsletter.cli import scheduling
from newsletter.cli.database import open_store
from newsletter.cli.following import Followed, follow, trouble
from newsletter.cli.issues import find_issue
from newsletter.cli.mailings import (
    STATES,
    described,
    doubts_next,
    go_on,
    left_out,
    moment,
    people,
    print_tally,
    title,
)
from newsletter.cli.outlook import Outlook, outlook
from newsletter.cli.output import command, plural, print_findings, tally
from newsletter.cli.workspace import open_workspace
from newsletter.config import Anymail, Config, Smtp, Way
from newsletter.content.lists import load_lists
from newsletter.errors import AddressError, Finding
from newsletter.providers import WayOut, open_ways
from newsletter.rendering.edition import Edition, kept_private

if TYPE_CHECKING:
    from newsletter.dispatch import Progress
    from newsletter.store.models import Mailing
    from newsletter.store.overview import Headcount


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One issue to one audience, ready to be opened."""

    issue: str
    subject: str
    editions: dict[str, Edition]
    manifest_hash: str
    list: int
    segment: str
    meaning: str  # of the segment, at this moment
    again: bool
    round: int  # the last one there was when we looked
    count: Headcount
    outlook: Outlook
    at: scheduling.Asked | None


@click.command()
@click.argument("issue", metavar="ISSUE")
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option("--list", "list_name", metavar="NAME", help="The list. Default: that of newsletter.yaml.")
@click.option("--segment", default="", metavar="S", help="Only these: a segment of lists.yaml, language=es, tag=board.")
@click.option("--test", multiple=True, metavar="ADDRESS...", help="Send a test to these addresses, and to nobody else.")
@click.option("--dry-run", is_flag=True, help="Say who would get it, how many, and how long it takes. Send nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--again", is_flag=True, help="Send it once more to everybody, also to those who have it.")
@click.option("--at", metavar="WHEN", help='Not before: "2026-11-27 08:00 Europe/Madrid". A worker sends it then.')
@click.option("--at-local", is_flag=True, help="With --at: when it is that time where each person lives.")
@click.option("--no-wait", is_flag=True, help="Leave the sending to workers that run already.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; progress goes to standard error.")
@click.pass_context
def send(
    ctx: click.Context,
    issue: str,
    addresses: tuple[str, ...],
    *,
    list_name: str | None,
    segment: str,
    test: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    again: bool,
    at: str | None,
    at_local: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Send an issue to everybody on a list whom it has not reached yet.

    ISSUE is a file or a date. The issue is checked, you are told how many will get it and asked; then what it says is
    frozen, one row is kept for each person, and the messages leave. Run it again at any time: who has the issue does
    not get it twice, whatever crashed in between, and from however many shells. Ctrl-C finishes what is on its way;
    the same command goes on later.

    Before anything leaves through a mail server, base_url must be a public https address that answers for this
    workspace (--dry-run shows how), and there must be a postal address.

    --again asks you to type the issue's date, whatever --yes says.

    --at freezes the issue now and comes back at once; who is on the list at that moment gets it, from a worker that
    runs then. With --at-local everybody gets it at that time of their own day (the attribute timezone), and the zone of
    --at counts for people who have none. The same command with another --at moves it.

    \b
    Exit codes: 0 everybody is accounted for, 1 not sent, paused or cancelled,
    2 usage, 3 the provider or the database did not answer, 4 sent with some
    in doubt, 130 you stopped it.

    \b
    Examples:
      newsletter send 2017-11-19 --test me@example.org
      newsletter send 2017-11-19 --dry-run
      newsletter send 2017-11-19
      newsletter send 2017-11-19 --list weekly --segment language=es
      newsletter send 2017-11-19 --at "2017-11-19 08:00 Europe/Madrid"
    """
    if addresses and not test:
        raise click.UsageError(f"{addresses[0]} is one word too many; addresses follow --test")
    if test and (dry_run or again or segment or no_wait):
        raise click.UsageError("--test goes with none of --dry-run, --again, --segment and --no-wait")
    when = scheduling.asked(at, local=at_local, test=bool(test))
    config = open_workspace(ctx)
    config = replace(config, list=list_name or config.list)
    path = find_issue(issue, config)
    checked = check_issue(path, config)
    _stop_at_errors(checked, config.shown(path), dry_run=dry_run)
    open_store(config)
    ways = open_ways(config)
    try:
        findings = [*checked.findings, *_leaving(config, ways)] if dry_run else _leaving(config, ways)
        if not dry_run:
            _refuse_to_leave(findings, config)
        if test:
            outcome = _send_test(config, ways, checked, (*test, *addresses), as_json=as_json)
            ctx.exit(outcome)
        plan = _plan(config, checked, segment.strip(), again=again, at=when)
        if dry_run:
            ctx.exit(_dry_run(config, ways, plan, findings, as_json=as_json))
        ctx.exit(_send(config, ways, plan, yes=yes, wait=not no_wait, as_json=as_json))
    finally:
        for way in ways:
            way.provider.close()


# --- before anything leaves -------------------------------------------------------------------------------------------


def _stop_at_errors(checked: Checked, name: str, *, dry_run: bool) -> None:
    print_findings([each for each in checked.findings if each.severity == "error"], err=True)
    if not checked.ok or checked.issue is None:
        raise click.ClickException(
            f"{name} is not sent: {tally(checked.findings)}; {command()} check {name} tells more"
        )
    doubts = [each for each in checked.findings if each.severity == "warning"]
    if doubts and not dry_run:
        click.echo(f"{name}: {plural(len(doubts), 'warning')}; {command()} check {name} shows them", err=True)


def _leaving(config: Config, ways: Sequence[WayOut]) -> list[Finding]:
    """What keeps mail from leaving; nothing does where it does not leave this machine."""
    if not _leaves(ways):
        return []
    from newsletter.store.schema import store_id

    return [*check_leaving(config, store=store_id(), ask=ask)]


def _leaves(ways: Sequence[WayOut]) -> bool:
    return any(way.provider.limits.leaves for way in ways)


def _refuse_to_leave(findings: Sequence[Finding], config: Config) -> None:
    print_findings(findings, err=True)
    if any(each.severity == "error" for each in findings):
        raise click.ClickException(f"nothing leaves through {config.route} before that is mended: {tally(findings)}")


def _plan(config: Config, checked: Checked, segment: str, *, again: bool, at: scheduling.Asked | None) -> Plan:
    from newsletter.store import overview
    from newsletter.store.lists import list_id
    from newsletter.store.segments import parse_segment, segment_query

    assert checked.issue is not None
    issue = checked.issue.name
    list = list_id(config, config.list)
    chosen = parse_segment(config, segment) if segment else None
    audience = segment_query(chosen, list, now=datetime.now(UTC)) if chosen else None
    count = overview.headcount(
        config.languages,
        list=list,
        issue=issue,
        default_language=config.default_language,
        audience=audience,
        again=again,
        by_zone=bool(at and at.schedule.local_time),
    )
    return Plan(
        issue=issue,
        subject=checked.editions[config.default_language].subject,
        editions=_editions(config, checked),
        manifest_hash=build_issue(checked.issue, checked.editions, config).manifest_hash,
        list=list,
        segment=segment,
        meaning=repr(chosen) if chosen else "",
        again=again,
        round=overview.last_round(issue),
        count=count,
        outlook=outlook(config, count.total),
        at=at,
    )


def _editions(config: Config, checked: Checked) -> dict[str, Edition]:
    """The editions as they are frozen: those for a private list are private, whatever the list is later."""
    chosen = load_lists(config).lists.get(config.list)
    if not (chosen and chosen.private):
        return {**checked.editions}
    return {language: kept_private(edition, config.base_url) for language, edition in checked.editions.items()}


def _say_plan(config: Config, plan: Plan, *, err: bool, every: bool = False) -> None:
    where = f"the list {config.list}" + (f", segment {plan.segment}" if plan.segment else "")
    click.echo(f"{plan.issue} “{plan.subject}” to {where}:", err=err)
    spoken = ", ".join(f"{count:,} in {language}" for language, count in plan.count.recipients.items())
    click.echo(f"  {people(plan.count.total)} will get it{f': {spoken}' if spoken else ''}", err=err)
    if plan.count.left_out:
        click.echo(f"  left out: {left_out(plan.count.left_out)}", err=err)
    click.echo(f"  through {_way_out(config)}; it takes {plan.outlook.words}", err=err)
    if plan.at:
        scheduling.say(plan.at, plan.count.zones, every=every, err=err)


def _way_out(config: Config) -> str:
    """ "smtp, mail.example.org:587, else relay, …": the ways out in their order."""
    return ", else ".join(_described(config, way) for way in config.ways)


def _described(config: Config, way: Way) -> str:
    match way.settings:
        case Path():
            return f"the {way.name}, {config.shown(way.settings)}, which reaches nobody"
        case Smtp():
            return f"{way.name}, {way.settings.host}:{way.settings.port}"
        case Anymail() if way.name == "anymail":
            return way.settings.service
        case _:
            return way.name


def _dry_run(config: Config, ways: Sequence[WayOut], plan: Plan, findings: Sequence[Finding], *, as_json: bool) -> int:
    from newsletter.store import mailings, overview
    from newsletter.store.schema import store_id

    failed = any(each.severity == "error" for each in findings)
    going = [row for row in overview.under_way(plan.issue) if _same(row, plan)]
    if as_json:
        described = {
            "issue": plan.issue,
            "list": config.list,
            "segment": plan.segment or None,
            "under_way": going[0].pk if going else None,
            "recipients": plan.count.recipients,
            "left_out": plan.count.left_out,
            "seconds": plan.outlook.seconds,
            "provider": config.route,
            "manifest": plan.manifest_hash,
            "findings": [each.as_json() for each in findings],
            **scheduling.as_json(plan.at, plan.count.zones),
        }
        click.echo(json.dumps(described, ensure_ascii=False, indent=2))
        return int(failed)
    print_findings([each for each in findings if each.severity != "note"])
    _say_plan(config, plan, err=False, every=True)
    if going:
        words = f"under way ({going[0].state}): send would go on with that"
        if going[0].state == "scheduled":
            words = f"scheduled for {mailings.schedule_words(going[0])}; send with --at moves it"
        click.echo(f"Mailing {going[0].pk} of it is {words}.")
    if _leaves(ways):
        click.echo(f"{config.base_url}{WELL_KNOWN} must answer with this file, as it is, from any web server:")
        click.echo(f"  {identity_file(store_id()).strip()}")
    if failed:
        click.echo(f"Nothing would leave before that is mended: {tally(findings)}.")
        return 1
    click.echo("Nothing was sent. Next:")
    click.echo(f"  {command()} send {plan.issue} --test YOUR-ADDRESS    see it in your own inbox")
    click.echo(f"  {command()} send {plan.issue}{f' {plan.at.options}' if plan.at else ''}")
    return 0


# --- opening it, and going on with it ---------------------------------------------------------------------------------


def _send(config: Config, ways: Sequence[WayOut], plan: Plan, *, yes: bool, wait: bool, as_json: bool) -> int:
    from newsletter.store import mailings, overview

    going = overview.under_way(plan.issue)
    same = next((row for row in going if _same(row, plan)), None)
    if plan.again and not (same and plan.at):
        _ask_again(plan, going)
    if same:
        changed = same.manifest_hash != plan.manifest_hash
        held = scheduling.held(same, plan.at, plan.count.zones, changed=changed, yes=yes, ask=_ask, as_json=as_json)
        if held is not None:
            return held
        _ask_going_on(config, plan, same, yes=yes, err=as_json)
        return _follow(config, ways, same.pk, wait=wait, as_json=as_json)
    if not plan.count.total:
        return _nobody(plan, config, going, as_json=as_json)
    _say_plan(config, plan, err=as_json)
    if not yes and not plan.again:
        what = f"Schedule it, for {people(plan.count.total)} as of now?" if plan.at else ""
        _ask(what or f"Send it to {people(plan.count.total)}?", refused="not sent")
    # Somebody may have answered the same question in another shell meanwhile: one new round, not two.
    again = plan.again and overview.last_round(plan.issue) == plan.round
    opened = mailings.open_mailing(
        plan.editions,
        issue=plan.issue,
        list=plan.list,
        default_language=config.default_language,
        provider=config.route,
        segment=plan.segment,
        meaning=plan.meaning,
        manifest_hash=plan.manifest_hash,
        again=again,
        schedule=plan.at.schedule if plan.at else None,
    )
    row = mailings.find(opened.mailing)
    if plan.at or row.state == "scheduled":
        return scheduling.scheduled(row, quiet=as_json)
    words = "was opened from another shell at this moment; going on with it" if opened.joined else "is open"
    click.echo(f"Mailing {opened.mailing} {words}.", err=as_json)
    return _follow(config, ways, opened.mailing, wait=wait, as_json=as_json)


def _same(row: Mailing, plan: Plan) -> bool:
    return row.list_id == plan.list and row.segment == plan.segment


def _nobody(plan: Plan, config: Config, going: Sequence[Mailing], *, as_json: bool) -> int:
    """There is nobody to send to: everybody has it, or nobody is there."""
    from newsletter.store import overview

    if as_json:
        described = {"mailing": None, "issue": plan.issue, "recipients": {}, "left_out": plan.count.left_out}
        click.echo(json.dumps(described, ensure_ascii=False, indent=2))
        return 0
    has = plan.count.left_out.get("already has it", 0)
    if has:
        counts = overview.round_tally(plan.issue)
        told = f"everybody has it ({people(has)})"
        if set(counts) != {"accepted"}:
            told = f"everybody has had their turn ({', '.join(f'{counts[each]:,} {STATES[each]}' for each in counts)})"
        click.echo(f"{plan.issue}: {told}; nobody gets it twice.")
    else:
        click.echo(f"{plan.issue}: nobody on the list {config.list} can get it; nothing was sent.")
    others = {why: count for why, count in plan.count.left_out.items() if why != "already has it"}
    if others:
        click.echo(f"  left out: {left_out(others)}")
    for row in going:
        click.echo(f"  mailing {row.pk} ({title(row)}) is {row.state}; to go on with it: {go_on(row)}")
    if has:
        click.echo(f"  {command()} mailings            what became of everybody")
        went = overview.round_providers(plan.issue)
        other = "" if config.route in went else f", through {config.route}: it went through {' and '.join(went)}"
        click.echo(f"  {command()} send {plan.issue} --again    send it once more to everybody{other}")
    else:
        click.echo(f"  {command()} subscribers import FILE    bring people onto the list")
    return 0


def _ask_again(plan: Plan, going: Sequence[Mailing]) -> None:
    """A new round needs the date typed: it mails everybody once more. `--yes` does not answer for that."""
    if going:
        row = going[0]
        raise click.ClickException(
            f"mailing {row.pk} ({title(row)}) is {row.state}: a new round begins when it is over. Go on with it: "
            f"{go_on(row)}; or end it: {command()} cancel {row.pk}"
        )
    if not plan.round:
        raise click.ClickException(f"{plan.issue} was never sent: leave --again away")
    click.echo(
        f"{plan.issue} was sent before (round {plan.round}). Everybody gets it once more: "
        f"{people(plan.count.total)}, also those who have it.",
        err=True,
    )
    try:
        typed = click.prompt(f"Type {plan.issue} to send it again", err=True, default="", show_default=False)
    except click.Abort:
        typed = ""
    if typed.strip() != plan.issue:
        raise click.ClickException(
            f"not sent: that is not {plan.issue} (a script writes it to the standard input; --yes is not enough)"
        )


def _ask_going_on(config: Config, plan: Plan, row: Mailing, *, yes: bool, err: bool) -> None:
    """A mailing that is under way goes on as it was opened, whatever the file says now."""
    if row.provider != config.route:
        raise click.ClickException(
            f"mailing {row.pk} ({title(row)}) was opened to leave through {row.provider}, and newsletter.yaml says "
            f"{config.route} now: set it back, or let the rest leave that way: {command()} resume {row.pk}"
        )
    if row.state == "paused":
        raise click.ClickException(
            f"mailing {row.pk} ({title(row)}) is paused: {row.reason}; or end it: {command()} cancel {row.pk}"
        )
    click.echo(f"Mailing {row.pk} ({title(row)}) is {row.state} already; this goes on with it.", err=err)
    if row.manifest_hash != plan.manifest_hash:
        click.echo(
            f"The issue was changed since mailing {row.pk} was opened. What was frozen then goes out, so that "
            f"everybody gets the same. To send the changed text to those who wait: {command()} cancel {row.pk}, then "
            "send again.",
            err=True,
        )
        if not yes:
            _ask("Go on with the text as it was?", refused="nothing was done")


def _ask(question: str, *, refused: str) -> None:
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        raise click.ClickException(f"{refused}: nobody said yes (a script says --yes)") from None
    if not agreed:
        raise click.ClickException(refused)


def _follow(config: Config, ways: Sequence[WayOut], mailing: int, *, wait: bool, as_json: bool) -> int:
    from newsletter.engine import local
    from newsletter.store import mailings

    def note(line: str) -> None:
        click.echo(line, err=True)

    followed = None
    if wait:
        with local.stopped_by_signals() as stop:
            followed = follow(config, ways, mailing, stop=stop, say=note if as_json else click.echo)
    row = mailings.find(mailing)
    if as_json:
        click.echo(json.dumps(described(row), ensure_ascii=False, indent=2))
    if followed:
        return _ended(row, followed, quiet=as_json)
    if not as_json:
        click.echo(f"A worker sends it: {command()} worker; how far it is: {command()} mailings {mailing}")
    return 0


def _ended(row: Mailing, followed: Followed, *, quiet: bool) -> int:
    from newsletter.store.ledger import tally as tally_of

    if not quiet:
        click.echo(f"Mailing {row.pk} ({title(row)}), {row.state}:")
        print_tally(row)
        doubts_next(row)
    if followed.stopped:
        _stopped(row, followed)
    if row.state == "paused":
        raise click.ClickException(f"it paused: {row.reason}")
    if row.state == "cancelled":
        raise click.ClickException("it was cancelled from elsewhere")
    return 4 if tally_of(row.pk)["in_doubt"] else 0


def _stopped(row: Mailing, followed: Followed) -> NoReturn:
    words = f"stopped; who waits keeps their place. Go on: {go_on(row)}, or {command()} worker"
    if followed.down:
        raise _Down(f"{followed.down.partition('; trying again')[0]}. {words}")
    raise _Stopped(words)


class _Stopped(click.ClickException):
    exit_code = 130


class _Down(click.ClickException):
    exit_code = 3


# --- a test -----------------------------------------------------------------------------------------------------------


def _send_test(config: Config, ways: Sequence[WayOut], checked: Checked, given: Sequence[str], *, as_json: bool) -> int:
    """Every edition to each address, as single mail that never touches the round: what members will get, but for the
    subject's beginning, and for the link to the page in the archive, which is not there yet."""
    from newsletter.engine import local
    from newsletter.store import mailings, overview, subscribers

    addresses = [part.strip() for each in given for part in each.split(",") if part.strip()]
    if not addresses:
        raise click.UsageError("--test needs an address")
    assert checked.issue is not None
    issue = checked.issue.name
    posted: dict[int, tuple[str, str]] = {}
    for address in dict.fromkeys(addresses):
        try:
            address_key = subscribers.address_key(config, address)
        except AddressError as error:
            raise click.ClickException(f"{address}: {error}") from error
        person = subscribers.find(config, address)
        for language, edition in checked.editions.items():
            id = mailings.post(
                replace(kept_private(edition, config.base_url), key="test", subject=f"[test] {edition.subject}"),
                key=f"test:{issue}:{secrets.token_hex(8)}",
                address=address,
                address_key=address_key,
                slots={"NAME": person.name if person else ""},
                provider=config.route,
                subscriber=person.pk if person else None,
            )
            assert id is not None  # the key is new
            posted[id] = (address, language)
    mailing = next(iter(overview.named(posted).values())).mailing_id
    down: list[str] = []

    def until() -> bool:
        if down or overview.standing(mailing, time.time()).state != "sending":
            return True
        rows = overview.named(posted).values()
        return all(row.state not in ("pending", "sending") or (row.attempts and row.not_before) for row in rows)

    def report(progress: Progress) -> None:
        if progress.down:
            down[:] = [trouble(progress).partition("; trying again")[0]]
        elif full := progress.full.get("oneoff"):
            down[:] = [f"{full.why} is reached; more may leave at {moment(full.opens)}"]

    with local.stopped_by_signals() as stop:
        local.run(config, ways, stop=stop, mailing=_NO_MAILING, until=until, report=report)
    rows = overview.named(posted)
    if as_json:
        told = [
            {"address": posted[id][0], "language": posted[id][1], "state": row.state, "detail": row.detail}
            for id, row in sorted(rows.items())
        ]
        click.echo(json.dumps(told, ensure_ascii=False, indent=2))
    failed = 0
    for id, row in sorted(rows.items()):
        address, language = posted[id]
        failed += row.state != "accepted"
        if not as_json:
            why = f": {row.detail}" if row.detail and row.state != "accepted" else ""
            click.echo(f"test of {issue} ({language}) to {address}: {row.state.replace('_', ' ')}{why}")
    waiting = any(row.state in ("pending", "sending") for row in rows.values())
    if waiting:
        test = mailings.find(mailing)
        if test.state == "paused":
            raise click.ClickException(f"mailing {mailing} ({title(test)}) is paused: {test.reason}")
        words = f"{down[0]}. " if down else ""
        raise _Down(f"{words}What waits leaves with the next {command()} worker")
    if not failed and not as_json:
        click.echo(f"Next: {command()} send {issue} --dry-run")
    return 1 if failed else 0


_NO_MAILING = 0  # the id of no mailing: single mail alone is sent
