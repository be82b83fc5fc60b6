"""Moments: every zone, around every change of its clocks, against an oracle that reads the clock minute by minute."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter import moments

MINUTE = timedelta(minutes=1)
ZONES = sorted(moments.zone_names())
MADRID = ZoneInfo("Europe/Madrid")
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def wall(text: str) -> datetime:
    return datetime.fromisoformat(text)


@cache
def changes(zone: str) -> list[datetime]:
    """Days (of UTC) after which the clocks of a zone show another offset."""
    place = ZoneInfo(zone)
    days = [datetime(1980, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(57 * 365)]
    offsets = [day.astimezone(place).utcoffset() for day in days]
    return [day for day, old, new in zip(days, offsets, offsets[1:], strict=False) if old != new]


@st.composite
def readings(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone, and a reading of its clocks within hours of a change, if it has any."""
    zone = draw(st.sampled_from(ZONES))
    known = changes(zone) or [datetime(2026, 3, 29, tzinfo=UTC)]
    day = draw(st.sampled_from(known))
    near = (day + timedelta(minutes=draw(st.integers(0, 24 * 60)))).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    return zone, near + timedelta(minutes=draw(st.sampled_from([0, 0, 30, 60, 90, 12 * 60])))


def shown_at(reading: datetime, zone: tzinfo) -> tuple[list[datetime], timedelta]:
    """Every minute of UTC at which the clock shows a reading; else by how much it was put forward over it."""
    start = reading.replace(tzinfo=UTC) - timedelta(hours=27)
    found, before = [], start.astimezone(zone).replace(tzinfo=None)
    forward = timedelta()
    for n in range(1, 54 * 60):
        at = start + n * MINUTE
        now = at.astimezone(zone).replace(tzinfo=None)
        if now == reading:
            found.append(at)
        if before < reading < now:
            forward = now - before - MINUTE
        before = now
    return found, forward


@settings(max_examples=300)
@given(readings())
def test_the_instant_shows_the_reading_or_the_one_as_long_after_as_the_clock_was_put_forward(
    case: tuple[str, datetime],
) -> None:
    name, reading = case
    zone = ZoneInfo(name)
    found, forward = shown_at(reading, zone)
    instant = moments.instant(reading, zone)
    assert moments.comes(reading, zone) == ("never", "once", "twice")[len(found)]
    if found:
        assert instant == found[0]
        assert instant.astimezone(zone).replace(tzinfo=None) == reading
    else:
        assert forward > timedelta()
        assert instant.astimezone(zone).replace(tzinfo=None) == reading + forward


@settings(max_examples=300)
@given(readings())
def test_what_is_written_is_read_back_or_refused_with_neighbours_that_exist(case: tuple[str, datetime]) -> None:
    name, reading = case
    zone = ZoneInfo(name)
    often = moments.comes(reading, zone)
    text = f"{reading:%Y-%m-%d %H:%M} {name}"
    if often == "never":
        with pytest.raises(ValueError, match="there is no") as refused:
            moments.parse(text, local="UTC")
        found = re.search(r"write (.{16}) or (.{16})$", str(refused.value))
        assert found
        before, after = map(wall, found.groups())
        assert before < reading < after
        assert moments.comes(before, zone) != "never"
        assert moments.comes(after, zone) != "never"
        assert after - before == moments.gap(reading, zone)[1] - moments.gap(reading, zone)[0] + MINUTE
        return
    moment = moments.parse(text, local="UTC")
    assert (moment.wall, moment.zone, moment.named) == (reading, name, True)
    assert moment.at == moments.instant(reading, zone)
    assert (moment.other is not None) == (often == "twice")
    for at in (moment.at, moment.other or moment.at):
        there = at.astimezone(zone)
        assert there.replace(tzinfo=None) == reading
        # With its offset either of two is meant, with the zone beside it or without.
        assert moments.parse(f"{there.isoformat()}", local="UTC").at == at
        assert moments.parse(f"{there.isoformat()} {name}", local="UTC").at == at


near_texts = st.from_regex(moments._WRITTEN, fullmatch=True)
parts = st.sampled_from(
    ["2026-11-27", "08:00", "24:61", "Europe/Madrid", "Z", "+99:99", "T", " ", "../etc/passwd", "٣"]
)


@given(st.one_of(st.text(), near_texts, st.lists(parts).map(" ".join), st.lists(parts).map("".join)))
def test_any_text_is_a_moment_or_a_refusal_on_one_line(text: str) -> None:
    told = ""
    try:
        moment = moments.parse(text, local="America/Lima")
        moments.at_once(moment, now=NOW)
        told = moments.shown(moment.at, moment.zone)
    except ValueError as error:
        told = str(error)
    assert told
    assert told.isprintable()


@given(st.text())
def test_any_name_is_a_zone_or_none(name: str) -> None:
    found = moments.find_zone(name)
    assert found is None or name in ZONES or re.fullmatch(r"[+-]\d\d:?(\d\d)?", name)


@pytest.mark.parametrize(
    ("text", "utc", "zone"),
    [
        ("2026-11-27 08:00 Europe/Madrid", "2026-11-27T07:00", "Europe/Madrid"),
        ("2026-11-27T08:00 europe/madrid", "2026-11-27T07:00", "Europe/Madrid"),
        ("2026-11-27 8:00:30 Europe/Madrid", "2026-11-27T07:00:30", "Europe/Madrid"),
        ("2026-11-27T08:00+05:30", "2026-11-27T02:30", "+05:30"),
        ("2026-11-27 08:00 -0500", "2026-11-27T13:00", "-05:00"),
        ("2026-11-27T08:00:00Z", "2026-11-27T08:00", "UTC"),
        ("2026-11-27 08:00+01 Europe/Madrid", "2026-11-27T07:00", "Europe/Madrid"),
        ("  2026-11-27   08:00  ", "2026-11-27T13:00", "America/Lima"),
    ],
)
def test_ways_of_writing_a_moment(text: str, utc: str, zone: str) -> None:
    moment = moments.parse(text, local="America/Lima")
    assert (moment.at.isoformat(), moment.zone) == (f"{utc}{'' if len(utc) > 16 else ':00'}+00:00", zone)
    assert moment.named == (text.strip() != "2026-11-27   08:00")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2026-11-27 08:00 Europe/Madird", 'no time zone "Europe/Madird", did you mean "Europe/Madrid"?'),
        ("2026-11-27 08:00 madrid", 'no time zone "madrid", did you mean "Europe/Madrid"?'),
        ("2026-11-27 08:00 new york", 'no time zone "new york", did you mean "America/New_York"?'),
        ("2026-11-27 08:00 ✈", 'no time zone "✈"; write it as Europe/Madrid or America/Lima'),
        ("2026-11-27 08:00 localtime", 'no time zone "localtime"'),
        ("tomorrow", "“tomorrow” is no moment; write day, time and zone: 2026-11-27 08:00 Europe/Madrid"),
        ("2026-11-27", "is no moment"),
        ("a\x1b[31m", "that is no moment"),
        ("9" * 500, "that is no moment"),
        ("2026-02-30 08:00", "2026-02-30 08:00: no such day or time"),
        ("2026-11-27 25:00 UTC", "2026-11-27 25:00: no such day or time"),
        ("0001-01-01 00:00 Asia/Tokyo", "the year 1"),
        ("9999-12-31 23:59 America/Lima", "the year 9999"),
        ("2026-11-27 08:00+19:00", "no clock is +19:00 away from UTC"),
        ("2026-11-27 08:00+02:00 Europe/Madrid", "at 08:00+02:00 the clocks of Europe/Madrid show 07:00"),
        (
            "2026-03-29 02:30 Europe/Madrid",
            "there is no 02:30 on 2026-03-29 in Europe/Madrid: that night the clock goes from 02:00 to 03:00; "
            "write 2026-03-29 01:59 or 2026-03-29 03:00",
        ),
        ("2011-12-30 12:00 Pacific/Apia", "write 2011-12-29 23:59 or 2011-12-31 00:00"),
    ],
)
def test_what_is_no_moment_is_told_with_what_would_be(text: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        moments.parse(text, local="UTC")
    assert words in str(refused.value)


def test_of_a_reading_that_comes_twice_the_first_is_meant_and_the_second_is_told() -> None:
    moment = moments.parse("2026-10-25 02:30 Europe/Madrid", local="UTC")
    assert moment.at == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert moment.other == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    second = moments.parse("2026-10-25 02:30+01:00 Europe/Madrid", local="UTC")
    assert (second.at, second.other, second.zone) == (moment.other, None, "Europe/Madrid")


def test_a_moment_may_be_a_minute_past_and_a_year_ahead_and_no_more() -> None:
    def schedule(text: str, *, local: bool = False) -> moments.Schedule:
        moment = moments.parse(text, local="UTC")
        return moments.at_local(moment, now=NOW) if local else moments.at_once(moment, now=NOW)

    assert schedule("2026-11-26 11:59 UTC").send_at == NOW - MINUTE
    with pytest.raises(ValueError, match=r"was 2 minutes ago; it is 2026-11-26 13:00 there now. Without --at"):
        schedule("2026-11-26 12:58 Europe/Madrid")
    assert schedule("2027-11-27 12:00 UTC").send_at == NOW + timedelta(days=366)
    with pytest.raises(ValueError, match="more than a year ahead"):
        schedule("2027-11-27 12:01 UTC")
    # A local time is past when it is past in the last zone of all, twelve hours behind UTC.
    assert schedule("2026-11-26 00:00 Europe/Madrid", local=True).send_at == NOW
    with pytest.raises(ValueError, match="ago in the last zone of all"):
        schedule("2026-11-25 23:58 Europe/Madrid", local=True)
    with pytest.raises(ValueError, match="whole minutes"):
        schedule("2026-11-27 08:00:30 Europe/Madrid", local=True)


@settings(max_examples=100)
@given(st.integers(0, 360 * 24 * 60), st.lists(st.sampled_from(ZONES), min_size=1, max_size=20))
def test_a_local_time_begins_before_it_is_that_time_in_any_zone(minutes: int, zones: list[str]) -> None:
    reading = NOW.replace(tzinfo=None) + minutes * MINUTE
    home = "Europe/Madrid" if moments.comes(reading, MADRID) != "never" else "UTC"
    schedule = moments.at_local(moments.parse(f"{reading} {home}", local="UTC"), now=NOW - timedelta(days=2))
    found = moments.moments_of(schedule.local_time, [*zones, "Mars/Phobos", "", "localtime"])
    assert set(found) == set(zones)
    assert schedule.home_at == moments.instant(reading, ZoneInfo(home))
    assert moments.wall_of(schedule.local_time) == reading
    for zone, at in found.items():
        assert at >= schedule.send_at.timestamp()
        assert datetime.fromtimestamp(at, UTC) == moments.instant(reading, ZoneInfo(zone))
    assert (schedule.home_at - schedule.send_at) <= timedelta(hours=26)


@pytest.mark.parametrize(
    ("at", "zone", "words"),
    [
        ("2026-11-27T07:00+00:00", "Europe/Madrid", "Friday 2026-11-27 08:00 Europe/Madrid (07:00 UTC)"),
        ("2026-11-26T23:30+00:00", "Europe/Madrid", "Friday 2026-11-27 00:30 Europe/Madrid (2026-11-26 23:30 UTC)"),
        ("2026-11-27T07:00:05+00:00", "UTC", "Friday 2026-11-27 07:00:05 UTC"),
        ("2026-11-27T07:00+00:00", "-05:00", "Friday 2026-11-27 02:00 -05:00 (07:00 UTC)"),
        ("2026-11-27T07:00+00:00", "Gone/Away", "Friday 2026-11-27 07:00 UTC"),
    ],
)
def test_a_moment_in_words(at: str, zone: str, words: str) -> None:
    assert moments.shown(datetime.fromisoformat(at), zone) == words


def test_spans_in_words() -> None:
    spans = [
        timedelta(seconds=0.2),
        timedelta(seconds=40),
        timedelta(minutes=12),
        timedelta(hours=3),
        timedelta(days=9),
    ]
    assert [moments.span(each) for each in spans] == ["1 second", "40 seconds", "12 minutes", "3.0 hours", "9 days"]
