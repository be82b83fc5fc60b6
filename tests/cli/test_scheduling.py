"""`newsletter send --at`: what is said, asked and refused, and that nothing leaves before its moment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from audience import add_people
from newsletter import moments
from newsletter.cli import run
from newsletter.config import Config

TEXT = """\
date: 2017-11-19
subject: {en: Peru this week, es: Perú esta semana}
intro: {en: Good morning., es: Buenos días.}
stories:
  - title: {en: A vote, es: Una votación}
    date: 2017-11-19
    url: https://news.valley.org/vote
    summary: {en: They voted., es: Votaron.}
"""
MADRID = ZoneInfo("Europe/Madrid")
SOON = datetime.now(MADRID).replace(tzinfo=None) + timedelta(days=2)
AT = f"{SOON:%Y-%m-%d} 08:00 Europe/Madrid"
LATER = f"{SOON + timedelta(days=1):%Y-%m-%d} 08:00 Europe/Madrid"


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out, self.err = (each.replace(sys.argv[0], "newsletter") for each in (out, err))
        assert "Traceback" not in err


Say = Callable[..., Said]


@pytest.fixture
def say(store: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Runs a command line in this process, with an issue to send; `typed` is what the user answers."""
    monkeypatch.setattr("newsletter.engine.local.HEARTBEAT", 0.05)
    monkeypatch.setattr("newsletter.dispatch.IDLE", 0.02)
    monkeypatch.setenv("TZ", "America/Lima")
    (store.issues / "2017-11-19.yaml").write_text(TEXT, "utf-8")

    def run_one(*arguments: str | int, typed: str = "") -> Said:
        capsys.readouterr()
        read, write = os.pipe()
        os.write(write, typed.encode())
        os.close(write)
        with os.fdopen(read) as keyboard:
            monkeypatch.setattr(sys, "stdin", keyboard)
            code = run([str(each) for each in arguments])
        return Said(code, *capsys.readouterr())

    return run_one


def words(text: str) -> str:
    """How a moment is told everywhere."""
    moment = moments.parse(text, local="UTC")
    return moments.shown(moment.at, moment.zone)


def mailed(config: Config) -> int:
    return len(os.listdir(config.outbox / "new")) if config.outbox.exists() else 0


def state(mailing: int = 1) -> str:
    from newsletter.store import mailings

    return str(mailings.find(mailing).state)


def pass_time(time: timedelta, mailing: int = 1) -> None:
    """As if so much time had passed since it was scheduled."""
    from newsletter.store.models import Mailing

    row = Mailing.objects.get(pk=mailing)
    assert row.send_at is not None
    row.send_at -= time
    row.save()


def to_the_moment(mailing: int = 1, *, late: timedelta = timedelta()) -> None:
    from newsletter.store import mailings

    send_at = mailings.find(mailing).send_at
    assert send_at is not None
    pass_time(send_at - datetime.now(UTC) + late, mailing)


def give_zones(zones: dict[int, str]) -> None:
    from newsletter.store.models import Subscriber

    for person, zone in zones.items():
        Subscriber.objects.filter(pk=person).update(attributes={"timezone": zone})


def nights(hour: int) -> tuple[date, date]:
    """The next nights in which the clocks of Madrid go forward and go back."""
    found: dict[str, date] = {}
    for n in range(1, 366):
        wall = datetime.combine(datetime.now(UTC).date() + timedelta(days=n), datetime.min.time()).replace(hour=hour)
        found.setdefault(moments.comes(wall.replace(minute=30), MADRID), wall.date())
    return found["never"], found["twice"]


# --- scheduling ---


def test_it_is_asked_told_and_kept_and_leaves_when_the_moment_comes(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    said = say("send", "2017-11-19", "--at", AT, typed="y\n")
    assert said.code == 0
    assert f"  on {words(AT)}, in " in said.out
    assert "  a worker must run then: newsletter worker" in said.out
    assert "Schedule it, for 7 people as of now? [y/N]" in said.err
    assert f"Mailing 1 (2017-11-19 to weekly) is scheduled for {words(AT)}." in said.out
    for next in ("newsletter worker", "newsletter mailings 1", "newsletter cancel 1"):
        assert f"  {next}  " in said.out
    assert "newsletter send 2017-11-19 --list weekly --at WHEN    moves it" in said.out
    said = say("worker", "--once")
    assert (said.code, mailed(store), state()) == (0, 0, "scheduled")
    assert f"mailing 1 (2017-11-19 to weekly): scheduled for {words(AT)}" in said.out
    assert said.out.endswith("nothing was due\n")
    add_people(store, [8])
    to_the_moment()
    assert say("worker", "--once").code == 0
    assert (mailed(store), state()) == (8, "finished")


def test_without_a_yes_nothing_is_scheduled(store: Config, say: Say) -> None:
    from newsletter.store.models import Mailing

    add_people(store, range(1, 3))
    for typed in ("n\n", ""):
        said = say("send", "2017-11-19", "--at", AT, typed=typed)
        assert (said.code, "not sent" in said.err) == (1, True)
    assert not Mailing.objects.exists()


def test_what_is_scheduled_goes_out_as_it_was_frozen(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    say("send", "2017-11-19", "--at", AT, "--yes")
    (store.issues / "2017-11-19.yaml").write_text(TEXT.replace("Peru this week", "Peru today"), "utf-8")
    said = say("send", "2017-11-19", "--at", LATER, "--yes")
    assert "what was frozen then goes out, not the issue as it is now; for that: newsletter cancel 1" in said.out
    to_the_moment()
    say("worker", "--once")
    messages = [each.read_bytes() for each in (store.outbox / "new").iterdir()]
    assert len(messages) == 2
    assert not any(b"Peru today" in each for each in messages)


def test_an_issue_with_an_error_is_not_scheduled(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    (store.issues / "2017-11-19.yaml").write_text(TEXT.replace("stories", "storys"), "utf-8")
    said = say("send", "2017-11-19", "--at", AT, "--yes")
    assert (said.code, "is not sent: 1 error" in said.err) == (1, True)


def test_json_is_the_only_thing_on_standard_output(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    give_zones({1: "America/Lima"})
    planned = json.loads(say("send", "2017-11-19", "--at", AT, "--at-local", "--dry-run", "--json").out)
    assert (planned["zone"], planned["local_time"]) == ("Europe/Madrid", f"{SOON:%Y-%m-%d}T08:00")
    assert [(each["zones"], each["people"]) for each in planned["moments"]] == [([None], 1), (["America/Lima"], 1)]
    kept = json.loads(say("send", "2017-11-19", "--at", AT, "--at-local", "--yes", "--json").out)
    assert (kept["state"], kept["zone"], kept["send_at"]) == ("scheduled", "Europe/Madrid", planned["send_at"])
    moved = json.loads(say("send", "2017-11-19", "--at", LATER, "--yes", "--json").out)
    assert (moved["id"], moved["local_time"]) == (kept["id"], None)
    assert json.loads(say("mailings", "1", "--json").out)["send_at"] == moved["send_at"]


# --- moments that are none ---


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--at", f"{SOON:%Y-%m-%d} 08:00 Europe/Madird"],
            'no time zone "Europe/Madird", did you mean "Europe/Madrid"',
        ),
        (["--at", "soon"], "“soon” is no moment; write day, time and zone"),
        (["--at", "2017-11-19 08:00 Europe/Madrid"], "Without --at it is sent at once"),
        (["--at", f"{SOON.year + 2}-01-01 08:00 UTC"], "is more than a year ahead: is the year right?"),
        (["--at-local"], "--at-local needs the time: --at "),
        (["--at", AT, "--test", "me@example.org"], "--test sends at once: leave --at away"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(store: Config, say: Say, options: list[str], told: str) -> None:
    said = say("send", "2017-11-19", *options)
    assert said.code == 2
    assert told in " ".join(said.err.split())


def test_an_hour_that_does_not_come_that_night_is_told_with_its_neighbours(store: Config, say: Say) -> None:
    forward, _ = nights(2)
    said = say("send", "2017-11-19", "--at", f"{forward} 02:30 Europe/Madrid")
    assert said.code == 2
    told = " ".join(said.err.split())
    assert f"there is no 02:30 on {forward} in Europe/Madrid: that night the clock goes from 02:00 to 03:00" in told
    assert f"write {forward} 01:59 or {forward} 03:00" in told


def test_of_an_hour_that_comes_twice_the_first_is_meant_and_it_is_told(store: Config, say: Say) -> None:
    _, back = nights(2)
    add_people(store, range(1, 3))
    said = say("send", "2017-11-19", "--at", f"{back} 02:30 Europe/Madrid", "--dry-run")
    assert "the clock shows 02:30 twice that night; the first is meant, 00:30 UTC" in said.out
    second = f"{back} 02:30+01:00 Europe/Madrid"
    assert f'For the second write "{second}"' in said.out
    said = say("send", "2017-11-19", "--at", second, "--dry-run")
    assert "(01:30 UTC)" in said.out
    assert "twice" not in said.out
    assert f'newsletter send 2017-11-19 --at "{second}"' in said.out


def test_without_a_zone_that_of_the_machine_is_meant_and_it_is_told(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    said = say("send", "2017-11-19", "--at", f"{SOON:%Y-%m-%d} 08:00", "--dry-run")
    assert f"on {SOON:%A %Y-%m-%d} 08:00 America/Lima (13:00 UTC)" in said.out
    assert "no time zone was named, so that of this machine is meant, America/Lima; to be sure, write it" in said.out
    assert "no time zone was named" not in say("send", "2017-11-19", "--at", AT, "--dry-run").out


# --- a second send ---


def test_a_second_send_tells_when_it_leaves_and_sends_nothing(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    say("send", "2017-11-19", "--at", AT, "--yes")
    said = say("send", "2017-11-19", "--yes")
    assert said.code == 1
    assert f"mailing 1 (2017-11-19 to weekly) is scheduled for {words(AT)}, and nothing leaves before" in said.err
    assert "To move it: newsletter send 2017-11-19 --list weekly --at WHEN" in said.err
    assert "newsletter cancel 1" in said.err
    assert (
        f"Mailing 1 of it is scheduled for {words(AT)}; send with --at moves it."
        in say("send", "2017-11-19", "--dry-run").out
    )
    said = say("send", "2017-11-19", "--again")
    assert (said.code, "is scheduled: a new round begins when it is over" in said.err) == (1, True)
    assert (mailed(store), state()) == (0, "scheduled")


def test_the_same_moment_asked_for_twice_is_one_mailing(store: Config, say: Say) -> None:
    from newsletter.store.models import Mailing

    add_people(store, range(1, 3))
    for options in ([AT], [AT, "--at-local"]):
        say("send", "2017-11-19", "--at", *options, "--yes")
        said = say("send", "2017-11-19", "--at", *options)
        assert (said.code, "is scheduled for that moment already" in said.out) == (0, True)
    assert Mailing.objects.count() == 1


def test_another_moment_moves_it_after_a_question(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    say("send", "2017-11-19", "--at", AT, "--yes")
    said = say("send", "2017-11-19", "--at", LATER, typed="n\n")
    assert (said.code, "not moved; it is scheduled as it was" in said.err) == (1, True)
    assert words(AT) in say("mailings").out
    said = say("send", "2017-11-19", "--at", LATER, typed="y\n")
    assert said.code == 0
    assert f"is scheduled for {words(AT)}. It would move:\n  on {words(LATER)}" in said.out
    assert f"is scheduled for {words(LATER)}." in said.out
    assert words(LATER) in say("mailings").out


def test_one_that_has_begun_is_not_put_off(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    say("send", "2017-11-19", "--no-wait", "--yes")
    said = say("send", "2017-11-19", "--at", AT, "--yes")
    assert (said.code, "is opening already and cannot be put off" in said.err) == (1, True)
    assert "newsletter pause 1" in said.err
    assert say("worker", "--once").code == 0
    assert mailed(store) == 2


def test_a_new_round_may_be_scheduled_with_its_date_typed(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    say("send", "2017-11-19", "--yes")
    assert say("send", "2017-11-19", "--again", "--at", AT, "--yes").code == 1
    said = say("send", "2017-11-19", "--again", "--at", AT, typed="2017-11-19\n")
    assert (said.code, state(2)) == (0, "scheduled")
    assert say("send", "2017-11-19", "--again", "--at", LATER, "--yes").code == 0  # moves it
    to_the_moment(2)
    say("worker", "--once")
    assert mailed(store) == 4


# --- pause, resume, cancel, overdue ---


def test_mailings_shows_it_with_its_moment(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    say("send", "2017-11-19", "--at", AT, "--yes")
    line = say("mailings").out
    assert "scheduled  2017-11-19 to weekly" in line
    assert f"for {words(AT)}" in line
    shown = say("mailings", "1").out
    assert "Mailing 1: 2017-11-19 to weekly, scheduled\n" in shown
    assert f"  scheduled for {words(AT)}, in " in shown
    assert "Nobody is written down yet" in shown
    assert "accepted" not in shown


def test_paused_resumed_and_cancelled(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    say("send", "2017-11-19", "--at", AT, "--yes")
    assert "is paused; it does not begin before you resume it." in say("pause", "1").out
    said = say("send", "2017-11-19", "--at", LATER, "--yes")  # --yes does not answer for why it is paused
    assert (said.code, "and paused: paused by hand" in said.out) == (1, True)
    said = say("resume", "1")
    assert f"is scheduled for {words(AT)}." in said.out
    assert "newsletter worker" in said.out
    said = say("cancel", "1", typed="y\n")
    assert f"It was to begin on {words(AT)}" in said.err
    assert "is cancelled; it had not begun." in said.out
    to_the_moment()
    say("worker", "--once")
    assert (mailed(store), state()) == (0, "cancelled")


def test_an_overdue_one_waits_for_a_human_who_resumes_it(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    say("send", "2017-11-19", "--at", AT, "--yes")
    to_the_moment(late=timedelta(seconds=store.grace + 3600))
    said = say("worker", "--once")
    assert "is 2.0 hours late, since no worker ran then" in said.out
    assert "it may have been sent already" in said.out
    assert (mailed(store), state()) == (0, "paused")
    assert "2.0 hours late" in say("mailings", "1").out
    said = say("send", "2017-11-19", "--yes")
    assert (said.code, "newsletter resume 1 sends it at once" in said.err) == (1, True)
    assert "begins, as soon as a worker is there" in say("resume", "1").out
    assert say("worker", "--once").code == 0
    assert (mailed(store), state()) == (2, "finished")


def test_an_overdue_one_is_moved_by_a_human(store: Config, say: Say) -> None:
    add_people(store, range(1, 3))
    say("send", "2017-11-19", "--at", AT, "--yes")
    to_the_moment(late=timedelta(days=1))
    say("worker", "--once")
    assert say("send", "2017-11-19", "--at", LATER, "--yes").code == 1
    assert say("send", "2017-11-19", "--at", LATER, typed="y\n").code == 0
    assert state() == "scheduled"


# --- the hour of each zone ---


def test_the_dry_run_tells_each_zone_and_the_question_a_summary(store: Config, say: Say) -> None:
    add_people(store, range(1, 9))
    give_zones({1: "America/Lima", 2: "Pacific/Kiritimati", 3: "Europe/Paris", 4: "Europe/Madird", 5: "Europe/Madrid"})
    said = say("send", "2017-11-19", "--at", AT, "--at-local", "--dry-run")
    day = f"{SOON:%Y-%m-%d}"
    assert f"on {SOON:%A} {day} 08:00 where each person lives (Europe/Madrid where that is not known)" in said.out
    rows = [line.split(maxsplit=5) for line in said.out.splitlines() if line.startswith("    20")]
    assert [row[3:] for row in rows] == [
        ["1", "person", "Pacific/Kiritimati"],
        ["6", "people", "Europe/Madrid, Europe/Paris, and where it is not known"],
        ["1", "person", "America/Lima"],
    ]
    assert rows[2][:3] == [day, "13:00", "UTC"]
    assert "1 person has a timezone that is no IANA name (Europe/Madrid): Europe/Madrid counts" in said.out
    said = say("send", "2017-11-19", "--at", AT, "--at-local", typed="n\n")
    assert f" and {day} 13:00 UTC; newsletter send … --dry-run shows each zone" in said.out
    assert "1 person has a timezone that is no IANA name" in said.out


def test_who_is_past_that_hour_gets_it_at_once_and_the_others_in_theirs(store: Config, say: Say) -> None:
    """Somewhere it is one hour later than now in UTC, and there the hour comes thirteen hours later than in another."""
    from newsletter.store import models

    add_people(store, range(1, 4))
    give_zones({1: "Etc/GMT-14", 2: "Etc/GMT+12", 3: "Etc/GMT-14"})
    hour = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
    at = f"{hour:%Y-%m-%d %H:%M} UTC"
    said = say("send", "2017-11-19", "--at", at, "--at-local", typed="y\n")
    assert said.code == 0
    assert "  2 people get it as soon as it begins: it is later than that where they live" in said.out
    said = say("worker", "--once")
    assert said.code == 0
    assert "sending: 2 accepted, 1 waiting" in said.out
    assert (mailed(store), state()) == (2, "sending")
    shown = say("mailings", "1").out
    rows = [" ".join(line.split()[3:]) for line in shown.splitlines() if line.startswith("  20")]
    assert rows == ["2 people has begun Etc/GMT-14", "1 person waits Etc/GMT+12"]
    assert "Deferred by the provider" not in shown
    waits = json.loads(say("mailings", "1", "--json").out)["moments"]
    assert [(each["people"], each["waiting"]) for each in waits] == [(2, 0), (1, 1)]
    said = say("send", "2017-11-19", "--at", LATER, "--yes")
    assert (said.code, "is sending already and cannot be put off" in said.err) == (1, True)
    assert "waits until" in say("subscribers", "show", "reader2@example.org").out
    models.Batch.objects.filter(state="ready").update(not_before=0)
    models.Delivery.objects.filter(state="pending").update(not_before=0)
    assert say("worker", "--once").code == 0
    assert (mailed(store), state()) == (3, "finished")


def test_who_follows_it_is_told_what_the_rest_waits_for() -> None:
    from newsletter.cli.following import Seen
    from newsletter.store.overview import Standing

    def seen(*, deferred: bool, ahead: bool) -> str:
        standing = Standing(
            state="sending",
            reason="",
            audience=9,
            done=5,
            refused=0,
            due=False,
            next=datetime.now(UTC).timestamp() + 100,
            deferred=deferred,
            ahead=ahead,
        )
        return str(Seen(standing=standing, per_second=0.0))

    assert "5 of 9; the rest waits for its hour where they live; the next is at" in seen(deferred=False, ahead=True)
    assert "where they live, or was deferred by the provider; the next is at" in seen(deferred=True, ahead=True)
    assert "5 of 9; the rest was deferred by the provider, the next try is at" in seen(deferred=True, ahead=False)
