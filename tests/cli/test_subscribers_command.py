"""`newsletter subscribers …` as an admin meets it, on both databases."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from newsletter.cli import run
from newsletter.cli.subscribers import SUBCOMMANDS
from newsletter.config import Config

ROOT = Path(__file__).parents[2]
NOW = datetime(2017, 11, 19, 18, 2, tzinfo=UTC)
ANA = "ana.quispe@example.org"


class Said:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err


Run = Callable[..., Said]


@pytest.fixture
def say(store: Config, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `newsletter subscribers …` in this process."""

    def run_one(*arguments: str) -> Said:
        capsys.readouterr()
        code = run(["subscribers", *arguments])
        return Said(code, *capsys.readouterr())

    return run_one


def add(config: Config, address: str = ANA, **more: Any) -> Any:
    from newsletter.store.subscribers import add

    return add(config, address, **{"list": "weekly", "consent": "signed the sheet", "now": NOW, **more}).subscriber


def deliver(person: Any, **fields: Any) -> Any:
    from newsletter.store.models import Delivery, Mailing, Round

    mailing = {
        "kind": "issue",
        "state": fields.pop("mailing_state", "sending"),
        "name": fields.pop("name", ""),
        "reason": fields.pop("reason", ""),
        "send_at": fields.pop("send_at", None),
    }
    issue = fields.pop("issue", "2017-11-19")
    round = None if mailing["name"] else Round.objects.get_or_create(issue=issue, number=fields.pop("number", 1))[0]
    made = Mailing.objects.create(round=round, provider="outbox", created_at=NOW, watched_at=NOW, **mailing)
    fixed = {
        "address": person.address,
        "address_key": person.address_key,
        "language": "es",
        "at": NOW.timestamp(),
        "state": "accepted",
    }
    return Delivery.objects.create(mailing=made, round=round, subscriber=person, **{**fixed, **fields})


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_imports_no_django() -> None:
    script = (
        "import sys; from newsletter.cli import run; run(['subscribers', '--help']); "
        "print(sorted({'django', 'yaml', 'lxml', 'jinja2'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == "[]\n"
    said = " ".join(done.stdout.split())
    for name, _, help in SUBCOMMANDS:
        assert f" {name} {help}" in said


@pytest.mark.parametrize(("name", "module", "help"), SUBCOMMANDS)
def test_each_command_has_the_help_that_the_list_shows_and_an_example(name: str, module: str, help: str) -> None:
    attribute = {"import": "import_"}.get(name, name)
    command = getattr(importlib.import_module(f"newsletter.cli.{module}"), attribute)
    assert isinstance(command, click.Command)
    assert (command.help or "").strip().split("\n")[0] == help
    assert f"newsletter subscribers {name}" in (command.help or "")


def test_an_unknown_command_is_answered_with_the_nearest(say: Run) -> None:
    said = say("unsubcribe", ANA)
    assert (said.code, 'did you mean "unsubscribe"?' in said.err) == (2, True)


# --- add, tag ---------------------------------------------------------------------------------------------------------


def test_one_person_is_added_and_told_what_is_missing(say: Run, store: Config) -> None:
    from newsletter.store.models import Subscriber, Subscription

    said = say("add", ANA, "--name", "Ana", "--language", "es", "--tag", "board", "--attribute", "age=18")
    assert said.code == 0
    assert said.out.startswith(f"{ANA}: is on weekly, unconfirmed.\n")
    assert f'newsletter subscribers add {ANA} --list weekly --consent "how and when"' in said.out
    person = Subscriber.objects.get()
    assert (person.name, person.language, person.attributes) == ("Ana", "es", {"age": 18})
    said = say("add", ANA.upper(), "--consent", "at the fair", "--name", "Ana Q.")
    assert said.out == f"{ANA.upper()}: is now subscribed to weekly, subscribed; new: name.\n"
    assert Subscription.objects.get().state == "subscribed"
    assert say("add", ANA).out == f"{ANA}: was on weekly already, subscribed.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ana"], 1, "ana: the address has no @"),
        ([ANA, "--list", "wekly"], 1, 'no list "wekly", did you mean "weekly"?'),
        ([ANA, "--language", "sp"], 1, "sp is not a language of this workspace"),
        ([ANA, "--attribute", "city"], 2, "'city' is not NAME=VALUE"),
        ([ANA, "--attribute", "city=" + "x" * 1001], 2, "city is longer than 1,000 characters"),
        ([ANA, "--resubscribe"], 2, "--resubscribe needs --consent"),
    ],
)
def test_what_cannot_be_added_is_said(say: Run, arguments: list[str], code: int, message: str) -> None:
    said = say("add", *arguments)
    assert (said.code, message in said.err) == (code, True), said.err


def test_who_left_or_complained_is_not_added_and_the_way_is_shown(say: Run, store: Config) -> None:
    add(store)
    said = say("unsubscribe", ANA)
    assert said.out.startswith(f"{ANA}: unsubscribed from weekly.\n")
    back = f"newsletter subscribers add {ANA} --list weekly --resubscribe --consent"
    assert back in said.out
    said = say("add", ANA, "--consent", "an old list")
    assert said.code == 1
    assert f"{ANA} left on " in said.err
    said = say(*back.split()[2:], "rang on Monday")
    assert said.out == f"{ANA}: came back to weekly, subscribed.\n"
    say("suppress", ANA, "--reason", "complaint")
    said = say("add", ANA, "--consent", "x")
    assert said.code == 1
    assert f"newsletter subscribers unsuppress {ANA} --lift complaint" in said.err


def test_people_are_tagged(say: Run, store: Config) -> None:
    for address in (ANA, "luis@example.org"):
        add(store, address, tags=["guest"])
    said = say("tag", ANA, "luis@example.org", ANA.upper(), "--add", "board", "--remove", "guest")
    assert said.out.splitlines() == [
        f"{ANA.upper()}: now tagged board; no longer guest.",
        "luis@example.org: now tagged board; no longer guest.",
    ]
    said = say("tag", ANA, "--add", "Board")
    assert 'there is a tag "board" too' in said.err
    assert say("tag", ANA, "--remove", "x").out == f"{ANA}: nothing to change.\n"
    assert say("tag", ANA).code == 2


def test_nobody_is_changed_when_one_address_is_unknown(say: Run, store: Config) -> None:
    from newsletter.store.models import SubscriberTag, Subscription

    add(store)
    for command in (["tag", "--add", "board"], ["unsubscribe"]):
        said = say(*command, ANA, "ana.qispe@example.org", "nobody", "x@elsewhere.example")
        assert said.code == 1
        assert f"ana.qispe@example.org: nobody with this address is known; did you mean {ANA}?" in said.err
        assert "nobody: the address has no @" in said.err
        assert "x@elsewhere.example: nobody with this address is known\n" in said.err
    assert SubscriberTag.objects.count() == 0
    assert Subscription.objects.get().state == "subscribed"


# --- unsubscribe, suppress --------------------------------------------------------------------------------------------


def test_an_unsubscription_may_be_for_one_list(say: Run, store: Config) -> None:
    add(store)
    add(store, list="alerts")
    assert say("unsubscribe", ANA, "--list", "weekly").out.startswith(f"{ANA}: unsubscribed from weekly.\n")
    assert say("unsubscribe", ANA, "--list", "weekly").out == f"{ANA}: was not on weekly.\n"
    assert say("unsubscribe", ANA).out.startswith(f"{ANA}: unsubscribed from alerts.\n")
    assert say("unsubscribe", ANA).out == f"{ANA}: was not on any list.\n"
    said = say("unsubscribe", ANA, "--list", "wekly")
    assert (said.code, "wekly" in said.err) == (1, True)


def test_an_unknown_address_can_be_suppressed_and_let_go_again(say: Run) -> None:
    said = say("suppress", ANA, "--note", "asked by telephone")
    assert said.code == 0
    assert f"To lift that: newsletter subscribers unsuppress {ANA}\n" in said.out
    said = say("suppress", ANA, "--reason", "bounce")
    assert "is suppressed already, for a graver reason: manual" in said.out
    assert say("unsuppress", ANA).out.startswith(f"{ANA}: no longer suppressed (it was: manual).\n")
    said = say("unsuppress", ANA)
    assert (said.code, f"{ANA} is not suppressed" in said.err) == (1, True)
    said = say("suppress", "a b", "c", ANA)
    assert (said.code, "a b: " in said.err, "c: " in said.err) == (1, True, True)
    assert say("unsuppress", ANA).code == 1


def test_a_complaint_is_lifted_by_its_name_only(say: Run) -> None:
    say("suppress", ANA, "--reason", "complaint")
    said = say("unsuppress", ANA)
    assert said.code == 1
    command = re.search(r"newsletter subscribers (unsuppress .*)", said.err)
    assert command
    assert say(*command[1].split()).code == 0


# --- erase ------------------------------------------------------------------------------------------------------------


def test_an_erasure_asks_first(say: Run, store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store.models import Subscriber

    deliver(add(store))
    asked: list[str] = []

    def no(text: str, **_: Any) -> None:
        asked.append(text)
        raise click.Abort

    monkeypatch.setattr(click, "confirm", no)
    said = say("erase", ANA)
    assert said.code == 130
    assert asked == ["This cannot be undone. Erase?"]
    assert said.out == f"{ANA}: 1 subscription and 1 mail.\n"
    assert Subscriber.objects.exists()


def test_after_an_erasure_no_file_of_the_database_holds_the_address(say: Run, store: Config) -> None:
    from django.db import connections

    person = add(store, name="Ana")
    deliver(person, state="pending")
    deliver(person, state="sending", issue="2017-11-12")
    said = say("erase", ANA.upper(), "--yes")
    assert said.code == 0
    assert "Not sent any more: 1 mail that waited." in said.out
    assert "on the way to the provider: 1 mail." in said.out
    connections.close_all()
    for path in Path("subscribers").iterdir():
        assert ANA.encode() not in path.read_bytes().lower(), path
    said = say("show", ANA)
    assert said.code == 0
    assert re.match(rf"{ANA} was erased on \d{{4}}-\d\d-\d\d\. ", said.out)
    assert say("erase", ANA, "--yes").out.startswith(f"{ANA}: there was nothing more to erase.\n")
    said = say("erase", "nobody@example.org", "--yes")
    assert (said.code, "nobody with this address is known" in said.err) == (1, True)


def test_older_copies_of_the_file_are_named(say: Run, store: Config) -> None:
    add(store)
    copy = Path("subscribers/newsletter.sqlite3.before-0002_x-20171119T180200Z")
    copy.write_bytes(b"")
    said = say("erase", ANA, "--yes")
    assert (str(copy) in said.out) is (not store.database_url)


def leave_in_unused_space(text: str) -> None:
    """As a page keeps it that SQLite divided among others: no row holds it, and the file does."""
    from django.db import connection

    from newsletter.store.models import Fact

    fact = Fact.objects.create(name="x", value=text)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA secure_delete = OFF")
        fact.delete()
        cursor.execute("PRAGMA secure_delete = ON")


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_what_unused_space_of_the_file_holds_is_written_over(
    say: Run, store: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.store import subscribers

    add(store)
    leave_in_unused_space(ANA.upper())
    assert say("erase", ANA, "--yes").code == 0
    assert ANA.encode() not in store.database.read_bytes().lower()

    add(store, "luis@example.org")
    leave_in_unused_space("luis@example.org")
    monkeypatch.setattr(subscribers, "COMPACT_LIMIT", 1)
    said = say("erase", "luis@example.org", "--yes")
    assert "newsletter subscribers erase luis@example.org --compact" in said.out
    assert b"luis@example.org" in store.database.read_bytes()
    assert say("erase", "luis@example.org", "--yes", "--compact").code == 0
    assert b"luis@example.org" not in store.database.read_bytes()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_a_reader_who_keeps_the_old_pages_is_told(say: Run, store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import subscribers

    add(store)
    monkeypatch.setattr(subscribers, "_journal_kept", lambda: True)
    said = say("erase", ANA, "--yes")
    assert "its journal keeps old pages" in said.out


# --- show -------------------------------------------------------------------------------------------------------------


def test_everything_known_of_a_person_is_shown(say: Run, store: Config) -> None:
    from newsletter.store.subscribers import unsubscribe

    with store.lists.open("a") as file:
        file.write("segments:\n  spanish: {languages: [es]}\n  press: {tags: {any: [press]}}\n")
    person = add(store, name="Ana Quispe", language="es", tags=["board"], attributes={"vip": True})
    person.name = "Ana\x1b[31m Quispe"  # another way in may keep what a terminal would obey
    person.save()
    add(store, list="alerts", now=NOW - timedelta(days=3))
    unsubscribe(person, list="alerts", how="one-click", now=NOW)
    said = say("show", ANA.upper())
    assert said.code == 0
    assert said.out.splitlines()[0] == f"{ANA} gets weekly."
    for line in (
        "name         Ana�[31m Quispe",
        "language     es",
        "known since  2017-11-19 18:02 UTC",
        "tags         board",
        "attributes   vip: true",
        "weekly: subscribed since 2017-11-19 18:02 UTC; in segment spanish",
        "alerts: left on 2017-11-19 18:02 UTC, joined 2017-11-16 18:02 UTC",
        "2017-11-19 18:02 UTC: added by hand, weekly, command line: “signed the sheet”",
        "2017-11-19 18:02 UTC: unsubscribed, alerts, one-click",
        "No mail yet.",
    ):
        assert line in said.out, said.out


def wish(config: Config, kind: str = "signup", **more: Any) -> Any:
    from newsletter.store.models import Wish
    from newsletter.store.subscribers import address_key

    at = NOW.timestamp()
    fixed = {
        "address": ANA,
        "address_key": address_key(config, ANA),
        "lists": ["weekly"] if kind == "signup" else [],
        "how": "page",
        "network": "203.0.113.0/24",
        "at": at,
        "not_before": at,
    }
    return Wish.objects.create(kind=kind, **{**fixed, **more})


ASKED = "asked to be signed up for weekly on 2017-11-19 18:02 UTC from network 203.0.113.0/24"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, f"{ASKED}, no mail yet: a worker sends it"),
        ({"not_before": 4e9}, f"{ASKED}, the mail waits until 2096-10-02 07:06 UTC"),
        (
            {"state": "mailed", "mailed_at": NOW.timestamp() + 60},
            f"{ASKED}, confirmation mailed 2017-11-19 18:03 UTC, not confirmed yet",
        ),
        (
            {"state": "granted", "mailed_at": NOW.timestamp() + 60, "granted_at": NOW.timestamp() + 120, "address": ""},
            f"{ASKED}, confirmation mailed 2017-11-19 18:03 UTC, confirmed 2017-11-19 18:04 UTC",
        ),
        ({"state": "granted", "granted_at": NOW.timestamp()}, f"{ASKED}, granted 2017-11-19 18:02 UTC without a mail"),
        ({"state": "dropped", "reason": "asked too\x1b[31m often"}, f"{ASKED}, dropped: asked too�[31m often"),
        (
            {"kind": "link", "network": "", "state": "mailed", "mailed_at": NOW.timestamp()},
            "asked for a link to their data on 2017-11-19 18:02 UTC, link mailed 2017-11-19 18:02 UTC",
        ),
    ],
)
def test_who_signed_up_and_got_nothing_can_be_told_why(
    say: Run, store: Config, fields: dict[str, Any], told: str
) -> None:
    wish(store, **fields)
    said = say("show", ANA.upper())
    assert said.code == 0
    assert said.out == f"{ANA.upper()} is no subscriber.\nAsked for at the pages:\n  {told}\n"
    assert json.loads(say("show", ANA, "--json").out)["wishes"][0]["state"] == fields.get("state", "waiting")
    gone = say("erase", ANA, "--yes").out
    assert gone.startswith(f"{ANA}: 0 subscriptions and 0 mails, 1 request at the pages.\n{ANA}: erased.\n")
    assert "Asked for" not in say("show", ANA).out


def test_a_break_an_answer_and_another_address_are_shown(say: Run, store: Config) -> None:
    from newsletter.store.models import Consent, Subscriber

    person = add(store)
    wish(store, "address", subscriber=person, address="new@example.org", address_key=b"k" * 16)
    events = [("tracking", {"agreed": True}), ("tracking", {"agreed": False}), ("address", {"former_key": "00" * 16})]
    for kind, evidence in (*events, ("reason", {"reason": "too_many", "words": "every\x1b day"})):
        Consent.objects.create(subscriber=person, kind=kind, how="page", evidence=evidence, at=NOW)
    Subscriber.objects.update(paused_until=4e9, tracking=True)
    said = say("show", ANA)
    assert said.out.startswith(f"{ANA} gets nothing: paused until 2096-10-02 by their own wish, then weekly again.\n")
    for line in (
        "  issues       paused until 2096-10-02\n",
        "  tracking     agreed to\n",
        "18:02 UTC: agreed that opens and clicks are counted, page\n",
        "18:02 UTC: agrees no more that opens and clicks are counted, page\n",
        "18:02 UTC: changed the address, page\n",
        "18:02 UTC: said why, page, too many mails: “every� day”\n",
        "  asked for another address on 2017-11-19 18:02 UTC (new@example.org) from network 203.0.113.0/24",
    ):
        assert line in said.out
    read = json.loads(say("show", ANA, "--json").out)
    assert (read["subscriber"]["paused_until"], read["subscriber"]["tracking"]) == ("2096-10-02T07:06:40+00:00", True)
    Subscriber.objects.update(paused_until=1e9, tracking=False)
    assert f"{ANA} gets weekly." in say("show", ANA).out


def test_the_consent_of_an_import_is_shown(say: Run, store: Config) -> None:
    from newsletter.store.models import Consent, Subscription

    add(store, consent="")
    event = Consent.objects.create(kind="import", text="signed up on the old site", how="file people.csv", at=NOW)
    Subscription.objects.update(consent=event, state="subscribed")
    assert "imported, file people.csv: “signed up on the old site”" in say("show", ANA).out
    assert json.loads(say("show", ANA, "--json").out)["subscriptions"][0]["consent"]["how"] == "file people.csv"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"provider_ref": "4F2A"},
            "2017-11-19 (mailing {id}): accepted by the provider on 2017-11-19 18:02 UTC as 4F2A",
        ),
        ({"fate": "bounced", "fate_at": NOW.timestamp() + 60}, "; came back on 2017-11-19 18:03 UTC"),
        ({"fate": "complained"}, "; a complaint came"),
        ({"number": 2}, "2017-11-19 (mailing {id}, sent anew (2)): accepted"),
        (
            {"state": "refused", "detail": "550 no\x1b such user"},
            "refused by the provider on 2017-11-19 18:02 UTC: 550 no",
        ),
        ({"state": "in_doubt"}, "nobody knows: handed over on 2017-11-19 18:02 UTC, and the answer was lost"),
        ({"state": "in_doubt"}, "newsletter resolve {id}"),
        ({"state": "sending"}, "on its way to the provider since 2017-11-19 18:02 UTC"),
        ({"state": "skipped", "detail": "unsubscribed"}, "not sent (unsubscribed), 2017-11-19 18:02 UTC"),
        ({"state": "pending"}, "waits for its turn"),
        (
            {"state": "pending", "not_before": datetime(2999, 1, 1, tzinfo=UTC).timestamp()},
            "waits until 2999-01-01 00:00 UTC",
        ),
        (
            {"state": "pending", "attempts": 2, "not_before": NOW.timestamp() + 60, "detail": "450 later"},
            "waits; was tried 2 times, again not before 2017-11-19 18:03 UTC: 450 later",
        ),
        (
            {"state": "pending", "mailing_state": "paused", "reason": "too many refusals"},
            "waits, since the mailing is paused (too many refusals). To go on: newsletter resume {id}",
        ),
        ({"state": "pending", "mailing_state": "cancelled"}, "will not be sent: the mailing was cancelled"),
        ({"address": "old@example.org"}, ") to old@example.org: accepted"),
        ({"name": "confirm", "key": "confirm:1:1"}, "confirm (mailing {id}): accepted"),
    ],
    ids=str,
)
def test_did_she_get_it_is_answered_in_words(say: Run, store: Config, fields: dict[str, Any], words: str) -> None:
    row = deliver(add(store), **dict(fields))
    said = say("show", ANA)
    assert said.code == 0
    assert words.format(id=row.mailing.pk) in said.out, said.out
    assert "\x1b" not in said.out


def test_what_is_shown_can_be_read_by_a_program(say: Run, store: Config) -> None:
    person = add(store, tags=["board"], attributes={"age": 18})
    row = deliver(person, provider_ref="4F2A")
    say("suppress", ANA, "--reason", "bounce")
    read = json.loads(say("show", ANA, "--json").out)
    assert read["address"] == ANA
    assert read["subscriber"]["tags"] == ["board"]
    assert read["subscriber"]["attributes"] == {"age": 18}
    assert read["suppression"]["reason"] == "bounce"
    assert read["subscriptions"][0]["consent"]["text"] == "signed the sheet"
    assert read["deliveries"][0]["mailing"] == row.mailing.pk
    assert read["deliveries"][0]["at"] == "2017-11-19T18:02:00+00:00"
    assert read["deliveries"][0]["not_before"] is None


def test_an_address_that_is_only_suppressed_or_was_only_written_to_is_shown(say: Run, store: Config) -> None:
    from newsletter.store.models import Delivery
    from newsletter.store.subscribers import address_key

    say("suppress", ANA, "--reason", "bounce")
    said = say("show", ANA)
    assert (said.code, said.out.startswith(f"{ANA} is suppressed: mail to it bounced on")) == (0, True)
    assert json.loads(say("show", ANA, "--json").out)["subscriber"] is None
    deliver(add(store, "luis@example.org"))
    other = "eva@example.org"
    Delivery.objects.update(subscriber=None, address=other, address_key=address_key(store, other))
    said = say("show", other)
    assert said.out.startswith(f"{other} is no subscriber; mail went to it all the same.\nMail, newest first:\n")
    assert say("show", "nobody@example.org").code == 1


def test_a_broken_lists_file_does_not_keep_a_person_from_being_shown(say: Run, store: Config) -> None:
    add(store)
    store.lists.write_text("lists: nonsense\n")
    assert say("show", ANA).code == 0


# --- lists ------------------------------------------------------------------------------------------------------------


def test_lists_and_segments_are_counted(say: Run, store: Config) -> None:
    from newsletter.store.models import List

    with store.lists.open("a") as file:
        file.write("segments:\n  spanish: {languages: [es]}\n  board: {tags: {any: [board]}}\n")
    add(store, language="es")
    add(store, "luis@example.org", tags=["board"])
    add(store, "eva@example.org", consent="")
    say("suppress", "luis@example.org")
    List.objects.create(name="former")
    said = say("lists")
    assert said.out.splitlines() == [
        "weekly   2 subscribed (1 of them suppressed), 1 unconfirmed, 0 left",
        "alerts   0 subscribed, 0 unconfirmed, 0 left",
        "Segments of weekly, subscribed:",
        "spanish  1",
        "board    1",
    ]
    read = json.loads(say("lists", "--json", "--list", "alerts").out)
    assert read["lists"][0] == {
        "id": "weekly",
        "in_file": True,
        "subscribed": 2,
        "unconfirmed": 1,
        "unsubscribed": 0,
        "suppressed": 1,
    }
    assert read["segments"] == {"list": "alerts", "subscribed": {"spanish": 0, "board": 0}}


def test_a_list_that_left_the_file_is_still_counted(say: Run, store: Config) -> None:
    add(store, list="alerts")
    store.lists.write_text("lists: [{id: weekly, name: Weekly}]\n")
    assert re.search(r"^alerts  1 subscribed, .*; not in .*lists\.yaml any more$", say("lists").out, re.MULTILINE)
    assert say("unsubscribe", ANA, "--list", "alerts").code == 0
