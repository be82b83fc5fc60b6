"""`newsletter send --at`: a moment understood, told, kept and moved.

Modules of `newsletter.store` are imported inside functions: only after `open_store` has configured the database.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from newsletter import moments
from newsletter.cli.mailings import described, go_on, people, title
from newsletter.cli.output import command
from newsletter.moments import Moment, Schedule

if TYPE_CHECKING:
    from newsletter.store.models import Mailing
    from newsletter.store.overview import Hour

NAMED = 3  # zones of one moment that are named, unless all are asked for


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `--at` and `--at-local` ask for."""

    moment: Moment
    schedule: Schedule

    @property
    def options(self) -> str:
        """As they are typed, with the zone or the offset that is meant."""
        moment = self.moment
        clock = "%H:%M:%S" if moment.wall.second else "%H:%M"
        zone = moments.find_zone(moment.zone) or UTC
        second = moment.at != moments.instant(moment.wall, zone)  # of the two times that the clock shows it
        offset = _offset(moment.at.astimezone(zone)) if second else ""
        local = " --at-local" if self.schedule.local_time else ""
        return f'--at "{moment.wall:%Y-%m-%d {clock}}{offset} {moment.zone}"{local}'


def asked(at: str | None, *, local: bool, test: bool) -> Asked | None:
    """What the options mean; None where they are not used. Raises `UsageError`."""
    if at is None:
        if local:
            raise click.UsageError('--at-local needs the time: --at "2026-11-27 08:00 Europe/Madrid" --at-local')
        return None
    if test:
        raise click.UsageError("--test sends at once: leave --at away")
    now = datetime.now(UTC)
    try:
        moment = moments.parse(at, local=machine_zone())
        schedule = moments.at_local(moment, now=now) if local else moments.at_once(moment, now=now)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--at") from None
    return Asked(moment=moment, schedule=schedule)


def machine_zone() -> str:
    """The time zone of this machine: its IANA name, or where it has none, its offset at present."""
    set = os.environ.get("TZ")
    for name in (set.lstrip(":") if set else "", os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]):
        if name in moments.zone_names():
            return name
    offset = f"{datetime.now(UTC).astimezone():%z}"
    return offset if moments.find_zone(offset) else "UTC"


# --- telling it -------------------------------------------------------------------------------------------------------


def say(what: Asked, zones: Mapping[str, int], *, every: bool, err: bool) -> None:
    """When it leaves, and what about that is not plain. `zones` are the recipients as of now; `every` tells each
    moment of a local time."""
    now, schedule, moment = datetime.now(UTC), what.schedule, what.moment
    if schedule.local_time:
        click.echo(f"  on {moments.shown_local(schedule.local_time, schedule.zone)}", err=err)
        _say_hours(schedule, zones, every=every, err=err)
    else:
        away = schedule.send_at - now
        words = f"in {moments.span(away)}" if away > timedelta() else "which is now"
        click.echo(f"  on {moments.shown(schedule.send_at, schedule.zone)}, {words}", err=err)
    click.echo(f"  a worker must run then: {command()} worker", err=err)
    if not moment.named:
        click.echo(
            f"  no time zone was named, so that of this machine is meant, {moment.zone}; to be sure, write it: "
            f'--at "{moment.wall:%Y-%m-%d %H:%M} Europe/Madrid"',
            err=err,
        )
    if moment.other:
        zone = moments.find_zone(moment.zone) or UTC
        click.echo(
            f"  the clock shows {moment.wall:%H:%M} twice that night; the first is meant, {moment.at:%H:%M} UTC. For "
            f'the second write "{moment.wall:%Y-%m-%d %H:%M}{_offset(moment.other.astimezone(zone))} {moment.zone}"',
            err=err,
        )


def _offset(at: datetime) -> str:
    digits = f"{at:%z}"
    return f"{digits[:3]}:{digits[3:5]}"


def _say_hours(schedule: Schedule, zones: Mapping[str, int], *, every: bool, err: bool) -> None:
    now = datetime.now(UTC).timestamp()
    hours = planned(schedule, zones)
    passed = sum(hour.people for hour in hours if hour.at <= now)
    if passed:
        click.echo(f"  {people(passed)} get it as soon as it begins: it is later than that where they live", err=err)
    if every:
        for hour in hours:
            click.echo(f"    {_utc(hour.at)}  {people(hour.people):>16}  {named(hour.zones, every=True)}", err=err)
    elif hours:
        first, last = hours[0], hours[-1]
        span = _utc(first.at) if first == last else f"between {_utc(first.at)} and {_utc(last.at)}"
        click.echo(f"  that is {span}; {command()} send … --dry-run shows each zone", err=err)
    if broken := zones.get("?", 0):
        are = "has" if broken == 1 else "have"
        click.echo(
            f"  {people(broken)} {are} a timezone that is no IANA name (Europe/Madrid): {schedule.zone} counts", err=err
        )


def planned(schedule: Schedule, zones: Mapping[str, int]) -> list[Hour]:
    """The moments of a local time, for people as they were counted."""
    from newsletter.store.overview import Hour

    instants = moments.moments_of(schedule.local_time, zones)
    home = schedule.home_at.timestamp()
    at = {zone: instants.get(zone, home) for zone in zones}
    return [
        Hour(
            at=instant,
            zones=tuple(sorted({"" if zone == "?" else zone for zone in zones if at[zone] == instant})),
            people=sum(count for zone, count in zones.items() if at[zone] == instant),
            waiting=sum(count for zone, count in zones.items() if at[zone] == instant),
        )
        for instant in sorted(set(at.values()))
    ]


def named(zones: Sequence[str], *, every: bool = False) -> str:
    """ "Europe/Madrid, Europe/Paris, and where it is not known"."""
    places = [zone for zone in zones if zone]
    told = places if every else places[:NAMED]
    words = ", ".join(told) + (f" and {len(places) - len(told)} more" if len(places) > len(told) else "")
    if "" in zones:
        return f"{words}, and where it is not known" if words else "where it is not known"
    return words


def _utc(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def as_json(what: Asked | None, zones: Mapping[str, int]) -> dict[str, Any]:
    """What a dry run tells a program."""
    if what is None:
        return {"send_at": None, "zone": None, "local_time": None, "moments": []}
    schedule = what.schedule
    hours = planned(schedule, zones) if schedule.local_time else []
    return {
        "send_at": schedule.send_at.isoformat(timespec="seconds"),
        "zone": schedule.zone,
        "local_time": schedule.local_time or None,
        "moments": [
            {
                "at": datetime.fromtimestamp(hour.at, UTC).isoformat(timespec="seconds"),
                "zones": [zone or None for zone in hour.zones],
                "people": hour.people,
            }
            for hour in hours
        ],
    }


# --- keeping it, and moving it ----------------------------------------------------------------------------------------

Ask = Callable[..., None]
"""Puts a question; goes on after a yes, and raises `ClickException` otherwise."""


def scheduled(row: Mailing, *, quiet: bool) -> int:
    """The last words about a mailing that waits for its moment."""
    from newsletter.store.mailings import schedule_words

    if quiet:
        click.echo(json.dumps(described(row), ensure_ascii=False, indent=2))
        return 0
    again = go_on(row, now=True)
    click.echo(f"Mailing {row.pk} ({title(row)}) is scheduled for {schedule_words(row)}.")
    click.echo("A worker must run then; who joins or leaves before counts. Next:")
    lines = [
        (f"{command()} worker", "sends it when the time comes"),
        (f"{command()} mailings {row.pk}", "how it stands"),
        (f"{again} --at WHEN", "moves it"),
        (f"{command()} cancel {row.pk}", "ends it"),
    ]
    width = max(len(line) for line, _ in lines)
    for line, what in lines:
        click.echo(f"  {line:<{width}}    {what}")
    return 0


def held(
    row: Mailing,
    what: Asked | None,
    zones: Mapping[str, int],
    *,
    changed: bool,
    yes: bool,
    ask: Ask,
    as_json: bool,
) -> int | None:
    """What a second `send` means for a mailing that is there: the exit code when nothing more is to be done.

    `zones` are the recipients as of now; `changed`: the issue says something else now than what was frozen. Raises
    `ClickException`.
    """
    from newsletter.store import mailings

    name = f"mailing {row.pk} ({title(row)})"
    if mailings.has_begun(row):
        if what is None:
            return None
        raise click.ClickException(
            f"{name} is {row.state} already and cannot be put off. To hold it: {command()} pause {row.pk}; to end it: "
            f"{command()} cancel {row.pk}; to go on with it: {go_on(row)}"
        )
    if what is None:
        if row.state == "paused":
            return None
        raise click.ClickException(
            f"{name} is scheduled for {mailings.schedule_words(row)}, and nothing leaves before. To move it: "
            f"{go_on(row, now=True)} --at WHEN; to end it, so that it can be sent now: {command()} cancel {row.pk}"
        )
    if row.state == "scheduled" and _same(row, what.schedule):
        click.echo(f"{name[0].upper()}{name[1:]} is scheduled for that moment already.", err=as_json)
        return scheduled(row, quiet=as_json)
    words = [f"scheduled for {mailings.schedule_words(row)}"] if row.send_at else []
    words += [f"paused: {row.reason}"] if row.state == "paused" else []
    click.echo(f"{name[0].upper()}{name[1:]} is {', and '.join(words)}. It would move:", err=as_json)
    say(what, zones, every=False, err=as_json)
    if changed:
        click.echo(
            f"  what was frozen then goes out, not the issue as it is now; for that: {command()} cancel {row.pk}, then "
            "send again",
            err=as_json,
        )
    if row.state == "paused" or not yes:  # --yes does not answer for what a person must look into
        ask("Move it?", refused=f"not moved; it is {row.state} as it was")
    mailings.move(row.pk, what.schedule)
    return scheduled(mailings.find(row.pk), quiet=as_json)


def _same(row: Mailing, schedule: Schedule) -> bool:
    if (row.local_time, row.zone) != (schedule.local_time, schedule.zone):
        return False
    return bool(row.local_time) or row.send_at == schedule.send_at
