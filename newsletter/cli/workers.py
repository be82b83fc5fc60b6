"""`newsletter workers`: who is at work, how fast, through what, and what waits.

Modules of `newsletter.store` are imported inside functions: only after `open_store` has configured the database.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from newsletter.cli.database import open_store
from newsletter.cli.following import Gauge, Seen
from newsletter.cli.mailings import title
from newsletter.cli.output import command, plural
from newsletter.cli.workspace import open_workspace
from newsletter.config import Config

if TYPE_CHECKING:
    from newsletter.store.fleet import Batches, Member
    from newsletter.store.models import Mailing
    from newsletter.store.queue import Jobs

WATCHED = 2.0  # seconds between two looks


@click.command()
@click.option("--watch", is_flag=True, help=f"Look again every {WATCHED:.0f} seconds, until you stop it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch one line for each look.")
@click.pass_context
def workers(ctx: click.Context, *, watch: bool, as_json: bool) -> None:
    """Who is at work, on which machine, how fast, and what waits.

    A worker says every few seconds that it is there. One that was killed falls silent: what it had in hand goes to
    others once its lease is over, within a minute. A worker that you stop leaves the list at once.

    \b
    Examples:
      newsletter workers
      newsletter workers --watch
      newsletter workers --json
    """
    config = open_workspace(ctx)
    open_store(config)
    gauges: dict[int, Gauge] = {}
    try:
        while True:
            fleet = _look(config, gauges)
            if as_json:
                click.echo(json.dumps(fleet.as_json(), ensure_ascii=False, indent=None if watch else 2))
            else:
                if watch and sys.stdout.isatty():
                    click.clear()
                fleet.show()
            if not watch:
                return
            sys.stdout.flush()
            time.sleep(WATCHED)
    except KeyboardInterrupt:
        return


def _look(config: Config, gauges: dict[int, Gauge]) -> _Fleet:
    from newsletter.engine.cluster import STALLED
    from newsletter.store import fleet, overview, queue, schema

    now = time.time()
    under_way = []
    for row in overview.active():
        standing = overview.standing(row.pk, now)
        if row.kind == "issue" or standing.done < standing.audience:  # single mail is always open
            under_way.append((row, gauges.setdefault(row.pk, Gauge()).see(standing)))
    return _Fleet(
        engine=config.engine,
        database=schema.database_name(),
        now=now,
        members=fleet.members(now),
        under_way=under_way,
        batches=fleet.batches(now),
        queue=queue.jobs(stalled_after=STALLED) if config.engine == "cluster" else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Fleet:
    """Everything about the fleet at one moment."""

    engine: str
    database: str
    now: float
    members: list[Member]
    under_way: list[tuple[Mailing, Seen]]
    batches: Batches
    queue: dict[str, Jobs] | None

    @property
    def per_second(self) -> float:
        return sum(each.row.per_second for each in self.members if not each.silent)

    def show(self) -> None:
        at_work = sum(not each.silent for each in self.members)
        if at_work:
            pace = f", {self.per_second:,.0f} messages a second" if self.per_second >= 0.5 else ""
            click.echo(f"{plural(at_work, 'worker')} at work on {self.database}{pace}")
        else:
            click.echo(f"No worker is at work on {self.database}. Start one: {command()} worker")
        for member in self.members:
            _show_member(member, self.now)
        if self.under_way:
            click.echo("Mailings under way:")
        for row, seen in self.under_way:
            click.echo(f"  {row.pk:>4}  {title(row)}: {seen}")
        due = self.batches
        if due.due or due.leased or due.later:
            words = [f"{due.due:,} due", f"{due.leased:,} in hand"]
            words += [f"{due.overdue:,} of them of workers that are gone"] if due.overdue else []
            words += [f"{due.later:,} deferred until later"] if due.later else []
            click.echo(f"Batches: {', '.join(words)}.")
        if self.queue is not None:
            _show_queue(self.queue)
        elif self.engine == "cluster":
            click.echo(f"The queue has no tables yet; stop every worker, then type: {command()} migrate")

    def as_json(self) -> dict[str, Any]:
        return {
            "at": _iso(self.now),
            "engine": self.engine,
            "per_second": round(self.per_second, 1),
            "workers": [_member_json(each) for each in self.members],
            "mailings": [
                {
                    "id": row.pk,
                    "title": title(row),
                    "state": seen.standing.state,
                    "done": seen.standing.done,
                    "audience": seen.standing.audience,
                    "refused": seen.standing.refused,
                    "per_second": round(seen.per_second, 1),
                }
                for row, seen in self.under_way
            ],
            "batches": asdict(self.batches),
            "queue": None if self.queue is None else {task: asdict(each) for task, each in self.queue.items()},
        }


def _show_member(member: Member, now: float) -> None:
    row = member.row
    host, _, pid = row.owner.rpartition(":")
    held = "1 batch in hand" if member.in_hand == 1 else f"{member.in_hand:,} batches in hand"
    if member.silent:
        fate = f"{held}, which others take over when the lease is over" if member.in_hand else "nothing in hand"
        click.echo(f"  {host} {pid} ({row.engine}): silent since {_clock(row.seen_at, now)}; {fate}")
    else:
        pace = f", {row.per_second:,.1f} a second" if row.per_second >= 0.05 else ""
        click.echo(
            f"  {host} {pid} ({row.engine}): {row.state} since {_clock(row.started_at, now)}, seen "
            f"{max(0, round(now - row.seen_at))} s ago; {held}; {row.answered:,} messages{pace}"
        )
        for way, known in row.health.items():
            click.echo(f"      {way}: {_health(known, now)}")
    if row.trouble:
        click.echo(f"      trouble: {_one_line(row.trouble)}")


def _health(known: Mapping[str, Any], now: float) -> str:
    words = str(known.get("state", "?"))
    until = known.get("until") or 0.0
    if until > now:
        words += f" until {_clock(until, now)}"
    return f"{words}: {_one_line(known['why'])}" if known.get("why") else words


def _member_json(member: Member) -> dict[str, Any]:
    row = member.row
    host, _, pid = row.owner.rpartition(":")
    return {
        "host": host,
        "pid": int(pid) if pid.isdecimal() else None,
        "engine": row.engine,
        "state": "silent" if member.silent else row.state,
        "since": _iso(row.started_at),
        "seen": _iso(row.seen_at),
        "batches": member.in_hand,
        "messages": row.answered,
        "per_second": round(row.per_second, 1),
        "ways": row.health,
        "trouble": row.trouble or None,
    }


def _show_queue(queue: Mapping[str, Jobs]) -> None:
    waiting, doing = sum(each.waiting for each in queue.values()), sum(each.doing for each in queue.values())
    click.echo(f"Queue of duties: {waiting:,} waiting, {doing:,} being done.")
    for task, each in queue.items():
        if each.stalled:
            click.echo(f"  {task}: {each.stalled:,} left by workers that are gone; others take over within a minute")
        if each.failed:
            click.echo(f"  {task}: {each.failed:,} failed in the last days; what a worker says at “trouble” tells why")
        if each.waiting > 1:
            click.echo(f"  {task}: {each.waiting:,} waiting")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _clock(at: float, now: float) -> str:
    when = datetime.fromtimestamp(at, UTC).astimezone()
    return f"{when:%H:%M:%S}" if abs(now - at) < 43_200 else f"{when:%Y-%m-%d %H:%M}"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
