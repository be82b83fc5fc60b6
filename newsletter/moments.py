"""Moments as people write them: what a clock shows and where, made into one instant.

Two nights a year that is not so easy. When the clock goes forward, some readings do not come that night; when it goes
back, some come twice. Whoever names one reading and one zone is told so (`parse`). Where one reading is meant in many
zones (`instant`), the one that does not come is the same as long after as the clock was put forward, 03:30 for 02:30,
and of two the first is meant: both is what PEP 495 gives for `fold=0`.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import cache
from typing import Literal

from newsletter.shape import nearest

LATEST = timedelta(minutes=1)  # so much may have passed of a moment that is asked for
FARTHEST = timedelta(days=366)

# Names that say something else on every machine, or nothing.
_NO_PLACES = frozenset({"localtime", "posixrules", "Factory"})


@cache
def zone_names() -> frozenset[str]:
    """The time zones by their IANA names, as this machine or the package `tzdata` has them."""
    return frozenset(zoneinfo.available_timezones() - _NO_PLACES)


def find_zone(name: str) -> tzinfo | None:
    """The zone of an IANA name, letter by letter, or of an offset such as `+02:00`; None where there is none."""
    if offset := _OFFSET.fullmatch(name):
        return _offset(offset)
    return zoneinfo.ZoneInfo(name) if name in zone_names() else None


_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)?", re.ASCII)


def _offset(written: re.Match[str]) -> tzinfo | None:
    sign, hours, minutes = written.groups()
    away = timedelta(hours=int(hours), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)
    in_use = timedelta(hours=-12) <= away <= timedelta(hours=14) and int(minutes or 0) < 60
    return timezone(away) if in_use else None


# --- from a reading to an instant -------------------------------------------------------------------------------------


def instant(wall: datetime, zone: tzinfo) -> datetime:
    """The instant, in UTC, at which the clocks of a zone show `wall` (naive); by the rule above if none or two do."""
    return wall.replace(tzinfo=zone, fold=0).astimezone(UTC)


def comes(wall: datetime, zone: tzinfo) -> Literal["once", "never", "twice"]:
    """How often the clocks of a zone show `wall`."""
    first, second = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert first is not None
    assert second is not None
    if first == second:
        return "once"
    return "never" if first < second else "twice"


def gap(wall: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """From which reading to which the clock goes in the night in which `wall` does not come."""
    before, after = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert before is not None
    assert after is not None
    # The clock is put forward after the one and no later than the other, whole seconds of UTC.
    low, high = wall - after, wall - before
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // timedelta(seconds=2) * timedelta(seconds=1)
        if middle.replace(tzinfo=UTC).astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high + before, high + after


def anywhere(wall: datetime) -> tuple[datetime, datetime]:
    """The first and the last instant at which `wall` is shown by the clocks of any zone."""
    instants = {instant(wall, zoneinfo.ZoneInfo(name)) for name in zone_names()}
    return min(instants), max(instants)


# --- what somebody wrote ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A moment as somebody wrote it."""

    wall: datetime  # naive: what the clock shows
    zone: str  # an IANA name, or an offset as +02:00
    at: datetime  # UTC
    named: bool  # whether a zone or an offset was written
    other: datetime | None = None  # UTC: the clock shows it twice, and this is the time that is not meant


_WRITTEN = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt]|\s+)(\d{1,2}):(\d\d)(?::(\d\d))?"
    r"(?:\s*([Zz]|[+-]\d\d(?::?\d\d)?)(?=\s|$))?(?:\s+(\S.*))?",
    re.ASCII,
)
_LONGEST = 100  # characters


def parse(text: str, *, local: str) -> Moment:
    """The moment that a text means: `2026-11-27 08:00 Europe/Madrid`, also with a T, with seconds, with an offset or Z.

    Without a zone that of `local` is meant, a name that `find_zone` knows. Raises `ValueError`, with what is wrong and
    what to write instead; never anything else.
    """
    text = text.strip()
    written = _WRITTEN.fullmatch(text) if len(text) <= _LONGEST and text.isprintable() else None
    if written is None:
        what = f"“{text}”" if text and len(text) <= _LONGEST and text.isprintable() else "that"
        raise ValueError(f"{what} is no moment; write day, time and zone: 2026-11-27 08:00 Europe/Madrid")
    *numbers, offset, name = written.groups()
    try:
        wall = datetime(*(int(each or 0) for each in numbers))  # type: ignore[arg-type]  # noqa: DTZ001
    except ValueError:
        raise ValueError(f"{text[: written.end(6) if numbers[5] else written.end(5)]}: no such day or time") from None
    if not 1970 <= wall.year <= 9998:
        raise ValueError(f"the year {wall.year}: write one from now on")
    zone = canonical(name) if name else ""
    if offset:
        return _at_offset(wall, offset, zone)
    zone = zone or local
    found = find_zone(zone)
    assert found is not None
    often = comes(wall, found)
    if often == "never":
        raise ValueError(_never(wall, zone, found))
    other = wall.replace(tzinfo=found, fold=1).astimezone(UTC) if often == "twice" else None
    return Moment(wall=wall, zone=zone, at=instant(wall, found), named=bool(name), other=other)


def canonical(name: str) -> str:
    """The IANA name that is meant, however its letters are written. Raises `ValueError` with the nearest one."""
    if name in zone_names():
        return name
    plain = name.replace(" ", "_").lower()
    same = sorted(each for each in zone_names() if each.lower() == plain)
    if same:
        return same[0]
    places = sorted((each for each in zone_names() if each.lower().endswith(f"/{plain}")), key=len)
    if places:
        hint = f', did you mean "{places[0]}"?'
    else:
        hint = nearest(name, zone_names()) or "; write it as Europe/Madrid or America/Lima, or as an offset, +01:00"
    raise ValueError(f'no time zone "{name}"{hint}')


def _at_offset(wall: datetime, offset: str, zone: str) -> Moment:
    written = _OFFSET.fullmatch("+00:00" if offset in "Zz" else offset)
    assert written is not None
    fixed = _offset(written)
    if fixed is None:
        raise ValueError(f"no clock is {offset} away from UTC: -12:00 to +14:00 are in use")
    at = wall.replace(tzinfo=fixed).astimezone(UTC)
    place = find_zone(zone) if zone else None
    if place is not None and at.astimezone(place).replace(tzinfo=None) != wall:
        there = at.astimezone(place)
        raise ValueError(
            f"at {wall:%H:%M}{offset} the clocks of {zone} show {there:%H:%M}: leave the offset or the zone away"
        )
    if not zone:
        sign, hours, minutes = written.groups()
        zone = "UTC" if offset in "Zz" else f"{sign}{hours}:{minutes or '00'}"
    return Moment(wall=wall, zone=zone, at=at, named=True)


def _never(wall: datetime, name: str, zone: tzinfo) -> str:
    start, end = gap(wall, zone)
    before = start - timedelta(minutes=1)
    jump = f"from {start:%H:%M} to {end:%H:%M}" + (f" of {end:%Y-%m-%d}" if end.date() != start.date() else "")
    return (
        f"there is no {wall:%H:%M} on {wall:%Y-%m-%d} in {name}: that night the clock goes {jump}; "
        f"write {before:%Y-%m-%d %H:%M} or {end:%Y-%m-%d %H:%M}"
    )


# --- when a mailing begins --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a mailing begins, and what was asked for."""

    send_at: datetime  # UTC
    zone: str  # of the moment as it was written; with a local time, that of people of whom no zone is known
    home_at: datetime  # UTC: when it is that time in `zone`; without a local time the same as `send_at`
    local_time: str = ""  # "2026-11-27T08:00": for each person when it is that time where they live


def at_once(moment: Moment, *, now: datetime) -> Schedule:
    """One moment for everybody. Raises `ValueError` for one that is past or more than a year ahead."""
    _check(moment, moment.at, moment.at, now)
    return Schedule(send_at=moment.at, zone=moment.zone, home_at=moment.at)


def at_local(moment: Moment, *, now: datetime) -> Schedule:
    """The same reading for everybody, each in their own zone.

    It begins when the reading is shown anywhere, not only where somebody lives at present: whoever joins until then,
    from wherever, is in time. Raises `ValueError` for one that is past everywhere, or not of a whole minute.
    """
    if moment.wall.second:
        raise ValueError(f"a local time is one of whole minutes: write {moment.wall:%Y-%m-%d %H:%M}")
    first, last = anywhere(moment.wall)
    _check(moment, min(first, moment.at), max(last, moment.at), now)
    return Schedule(
        # Not before now: it is not overdue because the day has begun elsewhere.
        send_at=max(min(first, moment.at), now),
        zone=moment.zone,
        home_at=moment.at,
        local_time=moment.wall.isoformat(timespec="minutes"),
    )


def _check(moment: Moment, first: datetime, last: datetime, now: datetime) -> None:
    wall = f"{moment.wall:%Y-%m-%d %H:%M} {moment.zone}"
    if last < now - LATEST:
        zone = find_zone(moment.zone) or UTC
        raise ValueError(
            f"{wall} was {span(now - last)} ago{'' if first == last else ' in the last zone of all'}; it is "
            f"{now.astimezone(zone):%Y-%m-%d %H:%M} there now. Without --at it is sent at once"
        )
    if first > now + FARTHEST:
        raise ValueError(f"{wall} is more than a year ahead: is the year right?")


def wall_of(local_time: str) -> datetime:
    """The reading that a `Schedule.local_time` says, naive."""
    return datetime.fromisoformat(local_time)


def moments_of(local_time: str, zones: Iterable[str]) -> dict[str, float]:
    """Unix seconds at which it is that time in each of these zones; without those that are no IANA names."""
    wall = wall_of(local_time)
    return {name: instant(wall, zoneinfo.ZoneInfo(name)).timestamp() for name in zones if name in zone_names()}


# --- in words ---------------------------------------------------------------------------------------------------------


def shown(at: datetime, zone: str) -> str:
    """ "Friday 2026-11-27 08:00 Europe/Madrid (07:00 UTC)": with the day of UTC where it is another."""
    there = at.astimezone(find_zone(zone) or UTC)
    utc = at.astimezone(UTC)
    clock = "%H:%M:%S" if utc.second else "%H:%M"
    words = f"{there:%A %Y-%m-%d {clock}} {zone if find_zone(zone) else 'UTC'}"
    if zone in ("UTC", "Etc/UTC") or not find_zone(zone):
        return words
    day = "" if utc.date() == there.date() else "%Y-%m-%d "
    return f"{words} ({utc:{day}{clock}} UTC)"


def shown_local(local_time: str, zone: str) -> str:
    """ "Friday 2026-11-27 08:00 where each person lives (Europe/Madrid where that is not known)"."""
    return f"{wall_of(local_time):%A %Y-%m-%d %H:%M} where each person lives ({zone} where that is not known)"


def span(length: timedelta | float) -> str:
    """ "40 seconds", "12 minutes", "3.5 hours", "12 days". A number is of seconds."""
    seconds = abs(length.total_seconds() if isinstance(length, timedelta) else length)
    if seconds < 90:
        count = max(1, round(seconds))
        return f"{count} second{'s' if count > 1 else ''}"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86_400:.0f} days"
