"""`newsletter mailings`, `pause`, `resume`, `cancel`, `resolve`: what became of a mailing, and a hand on it.

Modules of `newsletter.store` are imported inside functions: only after `open_store` has configured the database.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from newsletter.cli.database import open_store
from newsletter.cli.output import command
from newsletter.cli.workspace import open_workspace
from newsletter.config import Config
from newsletter.moments import span

if TYPE_CHECKING:
    from newsletter.store.models import Mailing

SHOWN = 10  # mailings, unless --all
DOUBTS_SHOWN = 20

# The order in which states are told, and the words for them. The first four are told even when there are none.
STATES = {
    "accepted": "accepted",
    "refused": "refused",
    "in_doubt": "in doubt",
    "skipped": "skipped",
    "sending": "on its way",
    "pending": "waiting",
}


@click.command()
@click.argument("mailing", type=int, required=False, metavar="[ID]")
@click.option("--all", "every", is_flag=True, help=f"Every mailing, not only the last {SHOWN}.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def mailings(ctx: click.Context, mailing: int | None, *, every: bool, as_json: bool) -> None:
    """What was sent, what is being sent, and what became of everybody.

    With ID everything about that mailing: how many are in each state and why, who was left out when it was opened, and
    what to do about doubts. What became of one person: newsletter subscribers show ADDRESS.

    \b
    Examples:
      newsletter mailings
      newsletter mailings 3
      newsletter mailings 3 --json
    """
    config = open_workspace(ctx)
    open_store(config)
    from newsletter.store import overview
    from newsletter.store.mailings import find

    if mailing is not None:
        row = find(mailing)
        if as_json:
            click.echo(json.dumps(everything(row, config), ensure_ascii=False, indent=2))
        else:
            _show(row, config)
        return
    rows = overview.newest(None if every else SHOWN)
    if as_json:
        click.echo(json.dumps([described(row) for row in rows], ensure_ascii=False, indent=2))
        return
    if not rows:
        click.echo(f"No mailing yet. Send an issue: {command()} send DATE")
    for row in reversed(rows):
        _show_line(row)
    if rows and not every and rows[-1].pk > 1:
        click.echo(f"The last {len(rows)}; {command()} mailings --all shows every one.", err=True)


@click.command()
@click.argument("mailing", type=int, metavar="ID")
@click.pass_context
def pause(ctx: click.Context, mailing: int) -> None:
    """Let nothing more of a mailing leave, until you resume it.

    What is on its way at this moment is finished; within seconds nothing leaves any more. Nobody is forgotten: whoever
    waits keeps their place.

    \b
    Example:
      newsletter pause 3
    """
    open_store(open_workspace(ctx))
    from newsletter.store import mailings as ledger

    row = ledger.find(mailing)
    if not ledger.pause(mailing, f"paused by hand; to go on: newsletter resume {mailing}"):
        if row.state == "paused":
            click.echo(f"Mailing {mailing} is paused already: {row.reason}")
            return
        raise click.ClickException(f"mailing {mailing} is {row.state}: there is nothing to pause")
    then = "it does not begin before you resume it" if row.state == "scheduled" else ""
    click.echo(f"Mailing {mailing} ({title(row)}) is paused; {then or 'what is on its way arrives within seconds'}.")
    click.echo(f"  {command()} mailings {mailing}    who has it and who waits")
    click.echo(f"  {command()} resume {mailing}      go on")
    click.echo(f"  {command()} cancel {mailing}      whoever has not got it will not get it from this mailing")


@click.command()
@click.argument("mailing", type=int, metavar="ID")
@click.pass_context
def resume(ctx: click.Context, mailing: int) -> None:
    """Go on with a mailing that is paused.

    It pauses by itself when the provider rejects the sender, when too many are refused, when its hour passed without a
    worker, and when the database may be an old copy. `newsletter mailings ID` says why; mend that first. One that was
    scheduled waits for its moment, or begins if that has passed. What is left leaves by the ways out that
    newsletter.yaml names now.

    \b
    Example:
      newsletter resume 3
    """
    config = open_workspace(ctx)
    open_store(config)
    from newsletter.store import mailings as ledger

    row = ledger.find(mailing)
    state = ledger.resume(mailing, route=config.route)
    if row.provider != config.route and row.kind == "issue":
        click.echo(f"It was opened to leave through {row.provider}; what is left goes through {config.route}.")
    if row.state == "paused":
        click.echo(f"It was paused: {row.reason}")
    if state == "scheduled":
        click.echo(f"Mailing {mailing} ({title(row)}) is scheduled for {ledger.schedule_words(row)}.")
    elif row.state == "paused":
        how = "goes on where it stopped" if ledger.has_begun(row) else "begins"
        click.echo(f"Mailing {mailing} ({title(row)}) {how}, as soon as a worker is there.")
    else:
        click.echo(f"Mailing {mailing} ({title(row)}) is {state} as it is.")
    then = "sends it when the time comes" if state == "scheduled" else "send it from here, if no worker is running"
    click.echo(f"  {go_on(ledger.find(mailing)):<34} {then}")


@click.command()
@click.argument("mailing", type=int, metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def cancel(ctx: click.Context, mailing: int, *, yes: bool) -> None:
    """End a mailing: whoever has not got it will not get it from this one.

    Who has it keeps it, and who is in doubt stays in doubt. Those who were waiting are free again: when you have
    corrected the issue, send it, and it reaches them and nobody twice.

    \b
    Example:
      newsletter cancel 3
    """
    open_store(open_workspace(ctx))
    from newsletter.store import mailings as ledger
    from newsletter.store.ledger import tally

    row = ledger.find(mailing)
    if row.kind != "issue":
        raise click.ClickException(
            f"mailing {mailing} is single mail ({row.name}), which people asked for: not cancelled"
        )
    counts = tally(mailing)
    if row.state not in ("finished", "cancelled") and not yes:
        has = counts["accepted"] + counts["sending"]
        told = f"{people(has)} of {row.audience:,} have it, {counts['pending']:,} will not get it"
        if not ledger.has_begun(row):
            told = f"It was to begin on {ledger.schedule_words(row)}" if row.send_at else "It has not begun"
        _confirm(
            f"Cancel mailing {mailing} ({title(row)})? {told}",
            refused=f"not cancelled; to let it wait instead: {command()} pause {mailing}",
        )
    ledger.cancel(mailing, "cancelled by hand")
    swept = ledger.sweep(time.time())
    told = f"{people(swept)} will not get it from this one" if ledger.has_begun(row) else "it had not begun"
    click.echo(f"Mailing {mailing} ({title(row)}) is cancelled; {told}.")
    left = tally(mailing)
    if left["sending"] or left["pending"]:
        click.echo("What is on its way at this moment is finished by its worker, within seconds.")
    if left["in_doubt"]:
        click.echo(f"{people(left['in_doubt'])} in doubt: {command()} mailings {mailing}")
    click.echo(f"Next, with the issue corrected: {command()} send {row.round.issue if row.round else ''}")


@click.command()
@click.argument("mailing", type=int, metavar="ID")
@click.option("--sent", "sent", is_flag=True, help="They count as sent.")
@click.option("--again", "again", is_flag=True, help="They are sent to once more; who has it already gets it twice.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def resolve(ctx: click.Context, mailing: int, *, sent: bool, again: bool, yes: bool) -> None:
    """Settle a mailing's doubts: treat them as sent, or send again.

    In doubt are those whose message was handed over and whose answer was lost. Nothing but the mail server's log knows;
    `newsletter mailings ID` shows the Message-IDs to look for. If you cannot find out, --sent risks that a few lack one
    issue, and --again that a few get it twice.

    \b
    Examples:
      newsletter resolve 3 --sent
      newsletter resolve 3 --again
    """
    if sent == again:
        raise click.UsageError("say which: --sent (they count as sent) or --again (they are sent to once more)")
    open_store(open_workspace(ctx))
    from newsletter.store import mailings as ledger
    from newsletter.store import overview
    from newsletter.store.ledger import tally

    row = ledger.find(mailing)
    count = tally(mailing)["in_doubt"]
    if not count:
        click.echo(f"Mailing {mailing} ({title(row)}) has no doubts: nothing to settle.")
        return
    if again and row.state == "cancelled":
        raise click.ClickException(f"mailing {mailing} is cancelled: its doubts can only be treated as sent (--sent)")
    click.echo(f"{people(count)} of mailing {mailing} ({title(row)}) in doubt:")
    for why, many in overview.reasons(mailing, "in_doubt"):
        click.echo(f"  {many:,}: {why}")
    if not yes:
        what = "Send to them once more; who has it already gets it twice" if again else "Treat them as sent"
        _confirm(f"{what}?", refused="nothing changed")
    settled = ledger.resolve(mailing, again=again, now=time.time())
    if again:
        click.echo(f"{people(settled)} will be sent to once more, as soon as a worker is there.")
        click.echo(f"  {go_on(row):<34} send it from here, if no worker is running")
    else:
        click.echo(f"{people(settled)} count as sent.")


def _confirm(question: str, *, refused: str) -> None:
    """Goes on after a yes. Without one, or with nobody to ask, exit code 1 and what is said then."""
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        raise click.ClickException(f"{refused} (nobody said yes; a script says --yes)") from None
    if not agreed:
        raise click.ClickException(refused)


# --- how a mailing looks ----------------------------------------------------------------------------------------------


def title(row: Mailing) -> str:
    """ "2017-11-19 to weekly, segment board, round 2"; of single mail its kind."""
    if row.kind != "issue" or row.round is None:
        return f"single mail: {row.name}"
    words = f"{row.round.issue} to {row.list.name if row.list else '?'}"
    words += f", segment {row.segment}" if row.segment else ""
    return words + (f", round {row.round.number}" if row.round.number > 1 else "")


def go_on(row: Mailing, *, now: bool = False) -> str:
    """The command that goes on with a mailing from where it was stopped; `now`: the `send` that means it."""
    if row.round is None or (row.state == "scheduled" and not now):
        return f"{command()} worker"
    # The list and the segment too: without them another mailing would be meant.
    words = [command(), "send", row.round.issue]
    words += ["--list", row.list.name] if row.list else []
    words += ["--segment", shlex.quote(row.segment)] if row.segment else []
    return " ".join(words)


def people(count: int) -> str:
    return "1 person" if count == 1 else f"{count:,} people"


def left_out(counts: Mapping[str, int]) -> str:
    """ "3 unsubscribed, 1 suppressed (…)", the most frequent first."""
    by_number = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count:,} {_LEFT_OUT.get(why, why)}" for why, count in by_number)


# Where the ledger's own word for why somebody gets nothing needs help.
_LEFT_OUT = {
    "suppressed": "suppressed (bounced, complained, erased or blocked)",
    "paused": "who paused",
    "already has it": "who have it already",
    "unconfirmed": "who never confirmed",
}


def print_tally(row: Mailing) -> None:
    """How many are in each state, with the reasons; every person of the audience is in one line."""
    from newsletter.store import overview
    from newsletter.store.ledger import tally

    counts = tally(row.pk)
    for state, word in STATES.items():
        count = counts[state]
        if not count and state in ("sending", "pending"):
            continue
        if count and state != "accepted":
            why = overview.reasons(row.pk, state, most=3)
            words = "; ".join(reason if many == count else f"{many:,} × {reason}" for reason, many in why)
            click.echo(f"  {word:<12}{count:>10,}   {words}".rstrip())
        else:
            click.echo(f"  {word:<12}{count:>10,}")
    click.echo(f"  {'in all':<12}{sum(counts.values()):>10,}")
    if row.left_out:
        click.echo(f"Left out when it was opened: {left_out(row.left_out)}.")


def doubts_next(row: Mailing) -> None:
    """What to do about doubts; nothing is said when there are none."""
    from newsletter.store.ledger import tally

    if count := tally(row.pk)["in_doubt"]:
        are = "is" if count == 1 else "are"
        click.echo(f"{people(count)} {are} in doubt: the message was handed over, and the answer was lost.")
        click.echo(f"  {command()} mailings {row.pk}           what to look for in the mail server's log")
        click.echo(f"  {command()} resolve {row.pk} --sent     treat them as sent")
        click.echo(f"  {command()} resolve {row.pk} --again    send to them once more")


def moment(at: datetime | float | None) -> str:
    """ "2017-11-19 18:00 UTC"; "" for never."""
    if not at:
        return ""
    when = at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _show_line(row: Mailing) -> None:
    from newsletter.store.ledger import tally
    from newsletter.store.mailings import schedule_words

    if row.state == "scheduled":
        click.echo(
            f"{row.pk:>4}  {moment(row.created_at)}  {row.state:<9}  {title(row):<28}  for {schedule_words(row)}"
        )
        return
    counts = tally(row.pk)
    told = ", ".join(f"{counts[state]:,} {word}" for state, word in STATES.items() if counts[state])
    when = moment(row.opened_at or row.created_at)
    state = "open" if row.kind == "oneoff" and row.state == "sending" else row.state  # it is never over
    click.echo(f"{row.pk:>4}  {when}  {state:<9}  {title(row):<28}  {people(row.audience)}: {told or '–'}")
    if row.state == "paused" and row.reason:
        click.echo(f"      {row.reason}")


def _show(row: Mailing, config: Config) -> None:
    from newsletter.store import overview
    from newsletter.store.mailings import has_begun, schedule_words

    work = overview.work(row.pk, time.time())
    click.echo(f"Mailing {row.pk}: {title(row)}, {row.state}")
    if row.reason:
        click.echo(f"  {row.reason}")
    if row.send_at:
        ahead = row.send_at - datetime.now(UTC)
        away = f", in {span(ahead)}" if row.state == "scheduled" and ahead > timedelta() else ""
        click.echo(f"  scheduled for {schedule_words(row)}{away}")
    asked = "asked for" if row.send_at else "written down"
    times = ((asked, row.created_at), ("opened", row.opened_at), ("over", row.finished_at))
    click.echo("  " + ", ".join(f"{word} {moment(at)}" for word, at in times if at) + f", through {row.provider}")
    if has_begun(row):
        print_tally(row)
    else:
        click.echo("Nobody is written down yet: who is on the list when it begins gets it.")
    _show_hours(row)
    if waits := waits_for(row, config):
        click.echo(f"{waits['why'][0].upper()}{waits['why'][1:]} is reached; it goes on at {_clock(waits['until'])}.")
    if end := done_by(row, config):
        click.echo(f"It will be done at about {moment(end)}.")
    for owner, count, until in work.held:
        late = until < time.time()
        state = "its lease is over, any worker takes over" if late else f"lease until {_clock(until)}"
        click.echo(f"In the hands of {owner}: {'1 batch' if count == 1 else f'{count:,} batches'}, {state}.")
    if work.next:
        click.echo(f"Deferred by the provider; the next try is at {_clock(work.next)}.")
    for batch, language, refused, answered in work.refusing:
        click.echo(f"Batch {batch} ({language}): {refused:,} of {answered:,} refused.")
    for language, hash in overview.editions(row.pk).items():
        click.echo(f"Edition {language}: {hash}")
    if row.manifest_hash:
        click.echo(f"Manifest: {row.manifest_hash}")
    doubts = doubtful(row, config)
    for each in doubts:
        click.echo(f"In doubt since {each['since']}: Message-ID {each['message_id']}")
    doubts_next(row)


def waits_for(row: Mailing, config: Config) -> dict[str, Any] | None:
    """The cap that a mailing waits for, and until when in Unix seconds; None when it waits for none."""
    from newsletter.store import pace

    way = config.ways[0]
    if row.state != "sending" or row.kind != "issue" or row.provider != config.route or not way.pace:
        return None
    room = pace.room(pace.way_id(way.name), way.pace, "issue", time.time())
    return None if room.count else {"why": room.why, "until": room.until}


def done_by(row: Mailing, config: Config) -> float | None:
    """When a mailing that is being sent will be done, in Unix seconds, as far as anything tells."""
    from newsletter.cli.outlook import outlook
    from newsletter.store.ledger import tally

    if row.state != "sending" or row.kind != "issue" or row.provider != config.route:
        return None
    counts = tally(row.pk)
    seconds = outlook(config, counts["pending"] + counts["sending"]).seconds
    return None if seconds is None else time.time() + seconds


def _show_hours(row: Mailing) -> None:
    """Of a mailing that goes out at the same hour of everybody's own day: when that is, and who waits for it."""
    from newsletter.cli.scheduling import named
    from newsletter.store.overview import hours

    for hour in hours(row) if row.state in ("sending", "opening", "paused") else ():
        waits = "" if hour.waiting == hour.people else f"{hour.waiting:,} "
        begun = "due" if hour.at <= time.time() else "waits" if hour.waiting == 1 else "wait"
        state = f"{waits}{begun}" if hour.waiting else "has begun"
        click.echo(f"  {moment(hour.at)}  {people(hour.people):>16}  {state:<12}  {named(hour.zones)}")


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def doubtful(row: Mailing, config: Config) -> list[dict[str, str]]:
    """The oldest doubts, by what a mail server's log knows them under."""
    from newsletter.store import overview
    from newsletter.store.keys import keyring

    rows = overview.in_doubt(row.pk, most=DOUBTS_SHOWN)
    keys = keyring(config).delivery_keys([each.pk for each in rows])
    name = row.round.issue if row.round else row.name
    domain = config.sender.address.rpartition("@")[2]
    return [
        {"message_id": f"<{name}.{key}@{domain}>", "since": moment(each.at), "why": each.detail}
        for each, key in zip(rows, keys, strict=True)
    ]


def described(row: Mailing) -> dict[str, Any]:
    """A mailing as JSON."""
    from newsletter.store.ledger import tally

    return {
        "id": row.pk,
        "kind": row.kind,
        "name": row.name or None,
        "issue": row.round.issue if row.round else None,
        "round": row.round.number if row.round else None,
        "list": row.list.name if row.list else None,
        "segment": row.segment or None,
        "state": row.state,
        "reason": row.reason or None,
        "provider": row.provider,
        "audience": row.audience,
        "tally": tally(row.pk),
        "left_out": row.left_out,
        "created_at": _iso(row.created_at),
        "send_at": _iso(row.send_at),
        "zone": row.zone or None,
        "local_time": row.local_time or None,
        "opened_at": _iso(row.opened_at),
        "finished_at": _iso(row.finished_at),
        "manifest": row.manifest_hash or None,
    }


def everything(row: Mailing, config: Config) -> dict[str, Any]:
    """A mailing as JSON, with reasons, doubts, batches and editions."""
    from newsletter.store import overview

    work = overview.work(row.pk, time.time())
    waits, end = waits_for(row, config), done_by(row, config)
    return described(row) | {
        "waits_for": waits and {**waits, "until": _iso(datetime.fromtimestamp(waits["until"], UTC))},
        "done_by": _iso(datetime.fromtimestamp(end, UTC)) if end else None,
        "reasons": {
            state: dict(overview.reasons(row.pk, state)) for state in ("refused", "skipped", "pending", "in_doubt")
        },
        "doubts": doubtful(row, config),
        "held": [
            {"owner": owner, "batches": count, "lease_until": _iso(datetime.fromtimestamp(until, UTC))}
            for owner, count, until in work.held
        ],
        "next_try": _iso(datetime.fromtimestamp(work.next, UTC)) if work.next else None,
        "moments": [
            {
                "at": _iso(datetime.fromtimestamp(hour.at, UTC)),
                "zones": [zone or None for zone in hour.zones],
                "people": hour.people,
                "waiting": hour.waiting,
            }
            for hour in overview.hours(row)
        ],
        "editions": overview.editions(row.pk),
    }


def _iso(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat(timespec="seconds") if at else None
