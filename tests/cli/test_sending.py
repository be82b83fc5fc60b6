"""Sending from the command line: what is refused, what is asked, what is said, and that nobody gets anything twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from audience import add_people, address, as_ways, edition
from newsletter.checks.leaving import LARGEST
from newsletter.cli import run
from newsletter.config import Config, Pace
from newsletter.content.fetch import Fetched, fetch
from newsletter.content.fetch import Limits as FetchLimits
from newsletter.envelope import Recipient
from newsletter.errors import ProviderDown, ProviderRejected
from newsletter.providers import Limits, Outcome, Recorder
from newsletter.providers.memory import Fault, Memory
from newsletter.rendering.edition import Edition
from smtp_server import SmtpServer

ROOT = Path(__file__).parents[2]
ISSUE = "issues/2017-11-19.yaml"
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


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err


Say = Callable[..., Said]


@pytest.fixture
def say(store: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Runs a command line in this process, with an issue to send; `typed` is what the user answers."""
    monkeypatch.setattr("newsletter.engine.local.HEARTBEAT", 0.05)
    monkeypatch.setattr("newsletter.dispatch.IDLE", 0.02)
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


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """The way out of every command: memory."""
    memory = Memory()
    for module in ("sending", "following"):
        monkeypatch.setattr(f"newsletter.cli.{module}.open_ways", lambda config: as_ways(memory, config.provider))
    return memory


def started(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """A command line in a process of its own, as the shell would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "newsletter", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def mailed(config: Config) -> int:
    return len(os.listdir(config.outbox / "new")) if config.outbox.exists() else 0


def tally(mailing: int = 1) -> dict[str, int]:
    from newsletter.store import ledger

    return {state: count for state, count in ledger.tally(mailing).items() if count}


def mailing_count() -> int:
    from newsletter.store.models import Mailing

    return Mailing.objects.filter(kind="issue").count()


def doubt(number: int) -> dict[str | int, Fault]:
    return {number: Fault(at="left", do="in_doubt")}


# --- send ---


def test_everybody_on_the_list_gets_the_edition_of_their_language(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    said = say("send", "2017-11-19", "--yes")
    assert said.code == 0
    assert "7 people will get it: 3 in en, 4 in es" in said.out
    assert "Mailing 1 (2017-11-19 to weekly), finished:" in said.out
    assert re.search(r"accepted +7\n +refused +0\n +in doubt +0\n +skipped +0\n +in all +7\n", said.out)
    assert mailed(store) == 7


def test_a_second_send_reaches_nobody_twice_and_says_so(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    assert say("send", "2017-11-19", "--yes").code == 0
    said = say("send", "2017-11-19")
    assert (said.code, "everybody has it (7 people); nobody gets it twice" in said.out) == (0, True)
    assert (mailed(store), mailing_count()) == (7, 1)


def test_who_joined_since_gets_it_and_nobody_else(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes")
    add_people(store, range(8, 11))
    said = say("send", "2017-11-19", "--yes")
    assert "3 people will get it" in said.out
    assert "left out: 7 who have it already" in said.out
    assert mailed(store) == 10


def test_the_confirmation_names_the_number_and_no_means_nothing(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    for typed in ("n\n", ""):
        said = say("send", "2017-11-19", typed=typed)
        assert said.code == 1
        assert "Send it to 7 people? [y/N]" in said.err
        assert "not sent" in said.err
    assert mailing_count() == 0
    assert say("send", "2017-11-19", typed="y\n").code == 0
    assert mailed(store) == 7


def test_an_issue_with_an_error_is_not_opened(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    (store.issues / "2017-11-19.yaml").write_text(TEXT.replace("stories", "storys"), "utf-8")
    said = say("send", "2017-11-19", "--yes")
    assert (said.code, "2017-11-19.yaml is not sent: 1 error" in said.err) == (1, True)
    assert mailing_count() == 0


def test_a_list_or_a_segment_that_is_not_there_is_named_with_those_that_are(store: Config, say: Say) -> None:
    said = say("send", "2017-11-19", "--list", "weakly", "--yes")
    assert (said.code, 'did you mean "weekly"' in said.err) == (1, True)
    said = say("send", "2017-11-19", "--segment", "boards", "--yes")
    assert (said.code, 'no segment "boards"' in said.err) == (1, True)
    assert mailing_count() == 0


def test_an_empty_list_says_how_people_come_onto_it(store: Config, say: Say) -> None:
    said = say("send", "2017-11-19", "--yes")
    assert (said.code, "newsletter subscribers import" in said.out.replace(sys.argv[0], "newsletter")) == (0, True)
    assert mailing_count() == 0


def test_a_segment_is_all_that_is_sent_to_and_the_rest_follows_without_doubles(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    said = say("send", "2017-11-19", "--segment", "language=es", "--yes")
    assert "left out: 3 not in the segment" in said.out
    assert mailed(store) == 4
    assert "3 people will get it: 3 in en" in say("send", "2017-11-19", "--yes").out
    assert mailed(store) == 7


def test_the_message_names_the_list_that_it_was_sent_to(store: Config, say: Say, out: Memory) -> None:
    add_people(store, range(1, 3), list="alerts")
    assert say("send", "2017-11-19", "--list", "alerts", "--yes").code == 0
    assert all(b"alerts.news.example.org" in each.message for each in out.messages)


def test_what_is_counted_beforehand_is_what_is_written_down(store: Config, say: Say) -> None:
    from newsletter.store.models import Subscriber, Subscription, Suppression

    list = add_people(store, range(1, 41), languages=("en", "es", "es-PE", "EN", "fr", ""))
    Subscription.objects.filter(subscriber_id__in=(1, 2, 3)).update(state="unsubscribed")
    Subscription.objects.filter(subscriber_id__in=(4, 5)).update(state="unconfirmed")
    now = Subscription.objects.get(subscriber_id=1).joined_at
    for person in Subscriber.objects.filter(pk__in=(3, 6, 7, 8)):
        Suppression.objects.create(address_key=person.address_key, reason="bounce", at=now)
    say("send", "2017-11-19", "--segment", "language=es-PE", "--yes")
    for segment in ((), ("--segment", "language=es"), ()):
        told = json.loads(say("send", "2017-11-19", "--dry-run", "--json", *segment).out)
        done = json.loads(say("send", "2017-11-19", "--yes", "--json", *segment).out)
        if done.get("mailing", 0) is None:
            assert told["recipients"] == {}
            continue
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT language, count(*) FROM delivery WHERE mailing_id = %s GROUP BY 1", (done["id"],))
            assert dict(cursor.fetchall()) == told["recipients"]
        assert done["left_out"] == told["left_out"]
        assert sum(told["recipients"].values()) + sum(told["left_out"].values()) == 40
    assert list


def test_json_is_the_only_thing_on_standard_output(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    said = say("send", "2017-11-19", "--yes", "--json")
    told = json.loads(said.out)
    assert (told["state"], told["tally"]["accepted"], told["audience"]) == ("finished", 7, 7)
    assert "Mailing 1 is open" in said.err


def test_who_leaves_while_it_waits_is_skipped_with_the_reason(store: Config, say: Say) -> None:
    from newsletter.store.models import Subscription

    add_people(store, range(1, 8))
    assert say("send", "2017-11-19", "--yes", "--no-wait").code == 0
    write_down(store)
    Subscription.objects.filter(subscriber_id=3).update(state="unsubscribed")
    said = say("send", "2017-11-19")
    assert re.search(r"accepted +6\n.*skipped +1 +unsubscribed\n +in all +7\n", said.out, re.DOTALL)
    assert mailed(store) == 6


def write_down(config: Config) -> None:
    from newsletter import duties

    while duties.write_down_recipients(config):
        pass


# --- going on, and the text that was frozen ---


def test_a_mailing_under_way_goes_on_without_a_question(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes", "--no-wait")
    said = say("send", "2017-11-19")
    assert (said.code, "Mailing 1 (2017-11-19 to weekly) is opening already; this goes on with it" in said.out) == (
        0,
        True,
    )
    assert (mailed(store), mailing_count()) == (7, 1)


def test_an_issue_changed_after_opening_goes_out_as_it_was(store: Config, say: Say, out: Memory) -> None:
    add_people(store, range(1, 3))
    say("send", "2017-11-19", "--yes", "--no-wait")
    (store.issues / "2017-11-19.yaml").write_text(TEXT.replace("Good morning", "Good evening"), "utf-8")
    said = say("send", "2017-11-19", typed="n\n")
    assert said.code == 1
    assert "was changed since mailing 1 was opened" in said.err
    assert "cancel 1, then send again" in said.err
    assert out.messages == []
    assert say("send", "2017-11-19", typed="y\n").code == 0
    assert all(b"Good evening" not in each.message for each in out.messages)
    assert len(out.messages) == 2


def test_after_a_cancel_the_corrected_issue_reaches_those_who_waited(store: Config, say: Say, out: Memory) -> None:
    """And nobody who has it."""
    from newsletter.store import mailings

    add_people(store, range(1, 11))
    out.faults = {4: Fault(at="answered", do=lambda: mailings.pause(1, "stop"))}
    out.limits = replace(out.limits, chunk=2, lanes=1)
    assert say("send", "2017-11-19", "--yes").code == 1
    first = [each.address for each in out.messages]
    assert 0 < len(first) < 10
    said = say("cancel", 1, "--yes")
    assert (said.code, f"{10 - len(first)} people will not get it from this one" in said.out) == (0, True)
    (store.issues / "2017-11-19.yaml").write_text(TEXT.replace("Good morning", "Good evening"), "utf-8")
    assert say("send", "2017-11-19", "--yes").code == 0
    assert sorted(each.address for each in out.messages) == sorted(map(address, range(1, 11)))
    assert sum(tally(1).values()) == 10


def test_a_paused_mailing_is_told_with_its_reason_and_not_gone_on_with(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes", "--no-wait")
    assert say("pause", 1).code == 0
    said = say("send", "2017-11-19")
    assert said.code == 1
    assert "mailing 1 (2017-11-19 to weekly) is paused: paused by hand; to go on: newsletter resume 1" in said.err
    assert mailed(store) == 0
    assert say("resume", 1).code == 0
    assert say("send", "2017-11-19").code == 0
    assert mailed(store) == 7


def test_a_mailing_opened_for_another_way_out_is_not_gone_on_with(store: Config, say: Say, out: Memory) -> None:
    from newsletter.store.models import Mailing

    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes", "--no-wait")
    Mailing.objects.update(provider="smtp")
    said = say("send", "2017-11-19", "--yes")
    assert (said.code, "opened to leave through smtp, and newsletter.yaml says outbox" in said.err) == (1, True)
    assert out.messages == []


# --- again ---


def test_again_needs_the_date_typed_whatever_yes_says(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes")
    for typed in ("", "y\n", "2017-11-12\n"):
        said = say("send", "2017-11-19", "--again", "--yes", typed=typed)
        assert (said.code, "Type 2017-11-19 to send it again" in said.err) == (1, True)
    assert mailed(store) == 7
    said = say("send", "2017-11-19", "--again", typed="2017-11-19\n")
    assert (said.code, "round 2" in said.out) == (0, True)
    assert mailed(store) == 14


def test_again_while_it_is_under_way_begins_nothing(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes", "--no-wait")
    said = say("send", "2017-11-19", "--again", typed="2017-11-19\n")
    assert (said.code, "a new round begins when it is over" in said.err) == (1, True)
    assert mailing_count() == 1


def test_two_who_ask_for_another_round_at_once_get_one(store: Config, say: Say) -> None:
    from newsletter.store import mailings
    from newsletter.store.models import Round

    list = add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes")
    made = [
        mailings.open_mailing({}, issue="2017-11-19", list=list, default_language="en", provider="outbox", again=True)
        for _ in range(2)
    ]
    assert [each.joined for each in made] == [False, True]
    assert Round.objects.count() == 2


def test_again_for_what_was_never_sent_is_a_mistake(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    said = say("send", "2017-11-19", "--again", typed="2017-11-19\n")
    assert (said.code, "was never sent" in said.err) == (1, True)


# --- what does not go well ---


def test_doubts_are_exit_code_4_and_the_next_step_is_told(store: Config, say: Say, out: Memory) -> None:
    add_people(store, range(1, 8))
    out.faults = doubt(3)
    said = say("send", "2017-11-19", "--yes")
    assert said.code == 4
    assert re.search(r"in doubt +1 ", said.out)
    assert re.search(r"resolve 1 --sent +treat them as sent", said.out)


def test_a_refused_person_is_accounted_for_and_no_failure(store: Config, say: Say, out: Memory) -> None:
    add_people(store, range(1, 8))
    out.faults = {2: Fault(at="left", do="refused")}
    said = say("send", "2017-11-19", "--yes")
    assert said.code == 0
    assert re.search(r"accepted +6\n +refused +1 ", said.out)


def test_who_was_refused_has_had_their_turn_and_is_not_said_to_have_it(store: Config, say: Say, out: Memory) -> None:
    add_people(store, range(1, 8))
    out.faults = {2: Fault(at="left", do="refused")}
    say("send", "2017-11-19", "--yes")
    said = say("send", "2017-11-19")
    assert "everybody has had their turn (6 accepted, 1 refused); nobody gets it twice" in said.out
    assert len(out.messages) == 6


def test_what_went_into_the_outbox_counts_as_sent_and_it_is_said_how_to_send_it_for_real(
    store: Config, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes")
    with (store.root / "newsletter.yaml").open("a", encoding="utf-8") as file:
        file.write("provider: smtp\nsmtp: {host: 127.0.0.1, port: 9}\n")
    monkeypatch.setattr("newsletter.cli.sending.open_ways", lambda config: as_ways(Memory(), config.provider))
    said = say("send", "2017-11-19", "--yes")
    assert "everybody has it (7 people)" in said.out
    assert "send it once more to everybody, through smtp: it went through outbox" in said.out


def test_a_provider_that_rejects_the_sender_pauses_it_and_says_what_to_do(store: Config, say: Say, out: Memory) -> None:
    add_people(store, range(1, 8))
    out.faults = {1: Fault(at="before", do=ProviderRejected)}
    out.limits = replace(out.limits, lanes=1)
    said = say("send", "2017-11-19", "--yes")
    assert said.code == 1
    assert "it paused: the provider rejects it" in said.err
    assert "newsletter resume 1" in said.err
    assert tally() == {"pending": 7}


class Down:
    """A way out that does not answer, until somebody says so."""

    limits = Limits(chunk=100, leaves=False)

    def __init__(self) -> None:
        self.asked = threading.Event()

    def send(self, edition: Edition, recipients: Sequence[Recipient], recorder: Recorder) -> list[Outcome]:
        self.asked.set()
        raise ProviderDown("smtp.valley.org:587: connection refused")

    def close(self) -> None:
        pass


def stop_after(event: threading.Event) -> threading.Thread:
    """Sends this process SIGTERM, as `kill` would, some time after an event."""

    def wait() -> None:
        event.wait(30)
        time.sleep(1.5)  # for the progress to be drawn once
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_provider_that_is_down_is_told_while_it_is_waited_for_and_is_exit_code_3(
    store: Config, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_people(store, range(1, 8))
    down = Down()
    monkeypatch.setattr("newsletter.cli.sending.open_ways", lambda config: as_ways(down, config.provider))
    stopper = stop_after(down.asked)
    said = say("send", "2017-11-19", "--yes")
    stopper.join()
    assert said.code == 3
    assert re.search(r"nothing leaves: smtp.valley.org:587: connection refused; trying again in \d+ s", said.out)
    assert re.search(r"stopped; who waits keeps their place. Go on: \S+ send 2017-11-19", said.err)
    assert tally() == {"pending": 7}


# --- before anything leaves ---


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A web server of this machine that answers for news.valley.org: what it is asked, and what it answers."""
    answers: dict[str, Any] = {"status": 200, "body": b"", "asked": [], "to": ""}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers["asked"].append((self.headers["Host"], self.path))
            self.send_response(answers["status"])
            if answers["to"]:
                self.send_header("Location", answers["to"])
            self.send_header("Content-Length", str(len(answers["body"])))
            self.end_headers()
            self.wfile.write(answers["body"])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"

    def ask(url: str) -> Fetched:
        """The web, whose news.valley.org is here."""
        ports = frozenset({server.server_port})
        limits = FetchLimits(allow=lambda _: True, ports=ports, seconds=5, redirects=2, bytes=LARGEST)
        got = fetch(url.replace("https://news.valley.org", here), limits)
        return replace(got, url=got.url.replace(here, "https://news.valley.org"))

    monkeypatch.setattr("newsletter.cli.sending.ask", ask)
    yield answers
    server.shutdown()
    server.server_close()


@pytest.fixture
def leaving(store: Config, out: Memory, site: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Memory:
    """A way out that reaches people, of a workspace at https://news.valley.org that answers as it should."""
    from newsletter.store import schema

    text = (store.root / "newsletter.yaml").read_text("utf-8").replace("example.org", "valley.org")
    (store.root / "newsletter.yaml").write_text(text, "utf-8")
    out.limits = replace(out.limits, leaves=True)
    site["body"] = json.dumps({"id": schema.store_id()}).encode()
    add_people(store, range(1, 4))
    return out


def test_mail_leaves_when_the_address_of_the_links_answers_for_this_workspace(
    leaving: Memory, site: dict[str, Any], say: Say
) -> None:
    assert say("send", "2017-11-19", "--yes").code == 0
    assert len(leaving.messages) == 3
    assert [path for _, path in site["asked"]] == ["/.well-known/newsletter"]


def test_mail_leaves_through_a_mail_server(store: Config, site: dict[str, Any], say: Say) -> None:
    from newsletter.store import schema

    site["body"] = json.dumps({"id": schema.store_id()}).encode()
    add_people(store, range(1, 41))
    with SmtpServer() as server:
        text = (store.root / "newsletter.yaml").read_text("utf-8").replace("example.org", "valley.org")
        smtp = f"provider: smtp\nsmtp: {{host: 127.0.0.1, port: {server.port}}}\n"
        (store.root / "newsletter.yaml").write_text(text + smtp, "utf-8")
        said = say("send", "2017-11-19", "--yes")
    assert said.code == 0
    assert f"through smtp, 127.0.0.1:{server.port}" in said.out
    assert len(server.taken) == 40
    assert tally() == {"accepted": 40}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"body": b'{"id": "0123456789abcdef0123456789abcdef"}'}, "the id of another database"),
        ({"body": b"<html>"}, "something else than a workspace's id"),
        ({"body": b"[1]"}, "something else than a workspace's id"),
        ({"body": b"{" * 100_000}, "is larger than"),
        ({"status": 404}, "answers 404"),
        ({"status": 302, "to": "/.well-known/newsletter"}, "redirects more than 2 times"),
    ],
)
def test_nothing_leaves_when_something_else_answers_there(
    leaving: Memory, site: dict[str, Any], say: Say, answer: dict[str, Any], words: str
) -> None:
    site.update(answer)
    said = say("send", "2017-11-19", "--yes")
    assert (said.code, leaving.messages, mailing_count()) == (1, [], 0)
    assert words in said.err
    assert "nothing leaves through outbox before that is mended" in said.err


def test_nothing_leaves_without_a_postal_address(leaving: Memory, say: Say, store: Config) -> None:
    text = (store.root / "newsletter.yaml").read_text("utf-8")
    (store.root / "newsletter.yaml").write_text(re.sub("postal_address: .*\n", "", text), "utf-8")
    said = say("send", "2017-11-19", "--yes")
    assert (said.code, leaving.messages) == (1, [])
    assert "no postal address" in said.err


def test_a_test_is_held_back_by_the_same_checks(leaving: Memory, site: dict[str, Any], say: Say) -> None:
    site["status"] = 404
    assert say("send", "2017-11-19", "--test", "me@valley.org").code == 1
    assert leaving.messages == []


def test_a_dry_run_says_who_how_many_and_how_long_and_what_is_in_the_way(
    leaving: Memory, site: dict[str, Any], say: Say, store: Config
) -> None:
    from newsletter.store import schema

    site["status"] = 404
    said = say("send", "2017-11-19", "--dry-run")
    assert said.code == 1
    assert "3 people will get it: 1 in en, 2 in es" in said.out
    assert "it takes unknown: nothing has left this way yet" in said.out
    assert f'{{"id": "{schema.store_id()}"}}' in said.out
    assert "[leaving.identity]" in said.out
    assert "Nothing would leave before that is mended" in said.out
    site["status"] = 200
    said = say("send", "2017-11-19", "--dry-run", "--json")
    told = json.loads(said.out)
    assert (said.code, told["recipients"], told["seconds"]) == (0, {"en": 1, "es": 2}, None)
    assert (leaving.messages, mailing_count()) == ([], 0)


def test_how_long_it_takes_is_told_from_the_last_pace(store: Config, say: Say) -> None:
    from newsletter.store.models import Delivery

    add_people(store, range(1, 201))
    say("send", "2017-11-19", "--yes")
    for row in Delivery.objects.all():
        row.at = 1_000_000 + row.pk / 10  # ten a second
        row.save()
    (store.issues / "2017-11-26.yaml").write_text(TEXT.replace("2017-11-19", "2017-11-26"), "utf-8")
    said = say("send", "2017-11-26", "--dry-run")
    assert "it takes about 20 seconds, at the pace of mailing 1 (10.0 a second)" in said.out


def test_how_long_smtp_takes_at_first_is_named_an_estimate(store: Config, say: Say) -> None:
    add_people(store, range(1, 201))
    with (store.root / "newsletter.yaml").open("a", encoding="utf-8") as file:
        file.write("provider: smtp\nsmtp: {host: 127.0.0.1, port: 9, connections: 2}\n")
    said = say("send", "2017-11-19", "--dry-run")
    assert "about 20 seconds, an estimate: nothing tells yet how fast this server is" in said.out
    assert "smtp, 127.0.0.1:9" in said.out


# --- a test ---


def test_a_test_looks_like_the_real_thing_and_never_touches_the_round(store: Config, say: Say, out: Memory) -> None:
    add_people(store, range(1, 4))
    said = say("send", "2017-11-19", "--test", "me@valley.org", address(1))
    assert (said.code, said.out.count(": accepted")) == (0, 4)
    assert sorted({each.address for each in out.messages}) == ["me@valley.org", address(1)]
    for each in out.messages:
        assert re.search(rb"Subject: .*\[test\]|Subject: =\?utf-8\?", each.message)
        assert b"List-Unsubscribe-Post: List-Unsubscribe=One-Click" in each.message
        assert b"https://news.example.org/v/" in each.message  # in the archive it is not yet
        assert b"/archive/" not in each.message
    assert len({re.findall(rb"/u/([A-Za-z0-9_-]{22})", each.message)[0] for each in out.messages}) == 4
    assert mailing_count() == 0
    out.messages.clear()
    assert say("send", "2017-11-19", "--yes").code == 0
    assert len(out.messages) == 3


def test_a_second_test_is_a_second_mail(store: Config, say: Say, out: Memory) -> None:
    for _ in range(2):
        assert say("send", "2017-11-19", "--test", "me@valley.org").code == 0
    assert len(out.messages) == 4


def test_a_test_to_what_is_no_address_sends_nothing(store: Config, say: Say, out: Memory) -> None:
    said = say("send", "2017-11-19", "--test", "me@valley.org,nobody")
    assert (said.code, "nobody: " in said.err) == (1, True)
    assert out.messages == []


def test_a_test_that_is_refused_says_why(store: Config, say: Say, out: Memory) -> None:
    out.faults = {1: Fault(at="left", do="refused")}
    said = say("send", "2017-11-19", "--test", "me@valley.org")
    assert (said.code, said.out.count("refused: "), said.out.count(": accepted")) == (1, 1, 1)


def test_a_test_does_not_wait_for_a_provider_that_is_down(
    store: Config, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("newsletter.cli.sending.open_ways", lambda config: as_ways(Down(), config.provider))
    said = say("send", "2017-11-19", "--test", "me@valley.org")
    assert said.code == 3
    assert "smtp.valley.org:587: connection refused. What waits leaves with the next" in said.err


def test_a_test_that_the_provider_rejects_is_told_why_and_leaves_after_resume(
    store: Config, say: Say, out: Memory
) -> None:
    out.faults = {1: Fault(at="before", do=ProviderRejected)}
    out.limits = replace(out.limits, lanes=1)
    said = say("send", "2017-11-19", "--test", "me@valley.org")
    assert (said.code, "mailing 1 (single mail: test) is paused: the provider rejects it" in said.err) == (1, True)
    assert say("resume", 1).code == 0
    assert say("worker", "--once").code == 0
    assert len(out.messages) == 2


def test_a_test_needs_an_address(say: Say) -> None:
    assert say("send", "2017-11-19", "--test", " , ").code == 2


def test_addresses_without_test_are_a_mistake(say: Say) -> None:
    assert say("send", "2017-11-19", "me@valley.org").code == 2


# --- mailings, pause, resume, cancel, resolve ---


def test_mailings_shows_each_with_its_tally_and_one_with_everything(store: Config, say: Say, out: Memory) -> None:
    add_people(store, range(1, 8))
    assert "No mailing yet" in say("mailings").out
    out.faults = {2: Fault(at="left", do="refused"), **doubt(5)}
    say("send", "2017-11-19", "--yes")
    assert re.search(
        r"1 .* finished +2017-11-19 to weekly +7 people: 5 accepted, 1 refused, 1 in doubt", say("mailings").out
    )
    said = say("mailings", 1)
    assert re.search(r"In doubt since .*: Message-ID <2017-11-19\.[0-9a-f]{32}@example.org>", said.out)
    assert re.search(r"Edition en: [0-9a-f]{64}\nEdition es: [0-9a-f]{64}\nManifest: [0-9a-f]{64}\n", said.out)
    assert re.search(r"Batch \d \((en|es)\): 1 of \d refused", said.out)
    (row,) = json.loads(say("mailings", "--json").out)
    assert row["tally"] == {"accepted": 5, "refused": 1, "in_doubt": 1, "pending": 0, "sending": 0, "skipped": 0}
    assert len(json.loads(say("mailings", 1, "--json").out)["doubts"]) == 1


@pytest.mark.parametrize("command", ["mailings", "pause", "resume", "cancel", "resolve"])
def test_a_mailing_that_is_not_there_is_said_to_be_not_there(say: Say, command: str) -> None:
    said = say(command, 7, *(["--sent"] if command == "resolve" else []))
    assert (said.code, "there is no mailing 7" in said.err) == (1, True)


def test_what_is_over_can_be_neither_paused_nor_resumed_nor_cancelled(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes")
    for command in ("pause", "resume", "cancel"):
        said = say(command, 1)
        assert (said.code, "finished" in said.err) == (1, True)


def test_cancel_asks_and_names_how_many_will_not_get_it(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes", "--no-wait")
    write_down(store)
    said = say("cancel", 1, typed="n\n")
    assert (said.code, "7 will not get it" in said.err) == (1, True)
    assert say("cancel", 1, typed="y\n").code == 0
    assert tally() == {"skipped": 7}
    assert mailed(store) == 0
    assert "2017-11-19 (mailing 1): " in say("subscribers", "show", address(1)).out


def test_doubts_are_settled_as_sent_after_a_yes(store: Config, say: Say, out: Memory) -> None:
    add_people(store, range(1, 8))
    out.faults = doubt(3)
    say("send", "2017-11-19", "--yes")
    assert say("resolve", 1).code == 2
    assert say("resolve", 1, "--sent", "--again").code == 2
    said = say("resolve", 1, "--sent", typed="n\n")
    assert (said.code, tally()) == (1, {"accepted": 6, "in_doubt": 1})
    said = say("resolve", 1, "--sent", typed="y\n")
    assert (said.code, tally()) == (0, {"accepted": 7})
    assert "no doubts: nothing to settle" in say("resolve", 1, "--sent").out


def test_a_doubt_is_sent_again_once_no_answer_can_come_any_more(store: Config, say: Say, out: Memory) -> None:
    from newsletter.store.models import Delivery

    add_people(store, range(1, 8))
    out.faults = doubt(3)
    say("send", "2017-11-19", "--yes")
    said = say("resolve", 1, "--again", "--yes")
    assert (said.code, "younger than 10 minutes" in said.err) == (1, True)
    Delivery.objects.filter(state="in_doubt").update(at=time.time() - 700)
    assert say("resolve", 1, "--again", "--yes").code == 0
    assert say("send", "2017-11-19").code == 0
    assert tally() == {"accepted": 7}


def test_a_mailing_that_nobody_looked_after_waits_for_a_human(store: Config, say: Say) -> None:
    from datetime import UTC, datetime, timedelta

    from newsletter.store.models import Mailing

    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes", "--no-wait")
    write_down(store)
    Mailing.objects.update(watched_at=datetime.now(UTC) - timedelta(hours=2))
    said = say("send", "2017-11-19")
    assert said.code == 1
    assert "up to 7 people may have been mailed since" in said.err
    assert mailed(store) == 0
    assert say("resume", 1).code == 0
    assert say("send", "2017-11-19").code == 0
    assert mailed(store) == 7


# --- worker ---


def test_a_worker_once_sends_all_that_is_due_and_ends(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes", "--no-wait")
    said = say("worker", "--once")
    assert said.code == 0
    assert "mailing 1 (2017-11-19 to weekly), finished: 7 accepted" in said.out
    assert "nothing was due" in say("worker", "--once").out


def test_a_worker_once_does_not_wait_for_what_was_deferred(store: Config, say: Say, out: Memory) -> None:
    add_people(store, range(1, 8))
    out.faults = {3: Fault(at="left", do="deferred")}
    say("send", "2017-11-19", "--yes", "--no-wait")
    assert say("worker", "--once").code == 0
    assert tally() == {"accepted": 6, "pending": 1}


def test_a_worker_once_that_leaves_a_doubt_is_exit_code_4(store: Config, say: Say, out: Memory) -> None:
    add_people(store, range(1, 8))
    out.faults = doubt(3)
    say("send", "2017-11-19", "--yes", "--no-wait")
    assert say("worker", "--once").code == 4


def test_a_worker_once_gives_up_on_a_provider_that_stays_down(
    store: Config, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes", "--no-wait")
    monkeypatch.setattr("newsletter.cli.following.open_ways", lambda config: as_ways(Down(), config.provider))
    monkeypatch.setattr("newsletter.cli.following.PATIENCE", 0.2)
    said = say("worker", "--once")
    assert (said.code, "connection refused; what was not sent waits" in said.err) == (3, True)
    assert tally() == {"pending": 7}


def test_a_segment_that_is_gone_pauses_its_mailing_and_no_other(store: Config, say: Say) -> None:
    lists = (store.lists).read_text("utf-8")
    add_people(store, range(1, 8))
    store.lists.write_text(f"{lists}segments:\n  spanish: {{languages: [es]}}\n", "utf-8")
    assert say("send", "2017-11-19", "--segment", "spanish", "--yes", "--no-wait").code == 0
    store.lists.write_text(lists, "utf-8")
    say("send", "2017-11-19", "--yes", "--no-wait")
    assert say("worker", "--once").code == 0
    said = say("mailings")
    assert re.search(r"1 .* paused .*\n +the segment spanish was changed in lists.yaml", said.out)
    assert re.search(r"2 .* finished .* 7 accepted", said.out)


# --- processes ---


def test_two_shells_at_the_same_moment_are_one_mailing_and_one_mail_each(store: Config, say: Say) -> None:
    people = 3000
    add_people(store, range(1, people + 1))
    shells = [started("send", "2017-11-19", "--yes", cwd=store.root) for _ in range(2)]
    ended = [shell.communicate(timeout=120) for shell in shells]
    assert [shell.returncode for shell in shells] == [0, 0], ended
    for out, _ in ended:
        assert "Mailing 1 (2017-11-19 to weekly), finished:" in out or "everybody has it" in out
    assert (mailing_count(), tally(), mailed(store)) == (1, {"accepted": people}, people)


def test_a_term_signal_leaves_nothing_in_doubt_and_the_same_command_goes_on(store: Config, say: Say) -> None:
    people = 8000
    add_people(store, range(1, people + 1))
    shell = started("send", "2017-11-19", "--yes", cwd=store.root)
    deadline = time.monotonic() + 60
    while mailed(store) < 100 and shell.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    shell.send_signal(signal.SIGTERM)
    told = shell.communicate(timeout=60)[1]
    assert shell.returncode == 130, told
    assert re.search(r"stopped; who waits keeps their place. Go on: \S+.* send 2017-11-19", told)
    before = tally()
    assert set(before) == {"accepted", "pending"}
    assert before["accepted"] == mailed(store) < people
    assert say("send", "2017-11-19").code == 0
    assert (tally(), mailed(store)) == ({"accepted": people}, people)


def test_a_worker_that_is_told_to_stop_says_that_nothing_is_in_hand(store: Config, say: Say) -> None:
    add_people(store, range(1, 8))
    say("send", "2017-11-19", "--yes", "--no-wait")
    shell = started("worker", cwd=store.root)
    deadline = time.monotonic() + 60
    while tally() != {"accepted": 7} and time.monotonic() < deadline:
        time.sleep(0.05)
    shell.send_signal(signal.SIGTERM)
    said, told = shell.communicate(timeout=60)
    assert (shell.returncode, told) == (0, "")
    assert "stopped; nothing is in hand" in said
    assert "mailing 1 (2017-11-19 to weekly): " in said


def test_caps_tell_when_it_will_be_done_and_what_it_waits_for(
    store: Config, say: Say, out: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_people(store, range(1, 31))
    caps = Pace(per_day=10, oneoff=0)
    monkeypatch.setattr(
        "newsletter.cli.sending.open_ways",
        lambda config: [replace(way, pace=caps) for way in as_ways(out, config.provider)],
    )
    monkeypatch.setattr("newsletter.config.Way.pace", caps)
    planned = say("send", "2017-11-19", "--dry-run")
    assert "at most 10 a day may leave" in planned.out
    assert "(2 days)" in planned.out or "(48." in planned.out
    assert say("send", "2017-11-19", "--yes", "--no-wait").code == 0
    monkeypatch.setattr(
        "newsletter.cli.following.open_ways",
        lambda config: [replace(way, pace=caps) for way in as_ways(out, config.provider)],
    )
    worked = say("worker", "--once")
    assert worked.code == 0
    assert "the cap of 10 a day is reached" in worked.out
    assert len(out.messages) == 10
    shown = say("mailings", 1)
    assert "The cap of 10 a day is reached; it goes on at " in shown.out
    assert "It will be done at about " in shown.out
    described = json.loads(say("mailings", 1, "--json").out)
    assert described["waits_for"]["why"] == "the cap of 10 a day"
    assert "the cap of 10 a day is reached" in say("worker", "--once").out
    assert described["done_by"] > described["waits_for"]["until"]


def test_a_worker_once_says_which_mail_waits_for_a_cap_and_sends_the_rest(
    store: Config, say: Say, out: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.store import mailings, schema
    from newsletter.store.subscribers import address_key

    if not store.database_url:
        schema.prepare(store)
    caps = Pace(per_day=10)
    monkeypatch.setattr(
        "newsletter.cli.following.open_ways",
        lambda config: [replace(way, pace=caps) for way in as_ways(out, config.provider)],
    )
    confirm = replace(edition("en"), key="confirm", kind="transactional", list_id=None)
    for number in range(4):
        who = address(number)
        key = address_key(store, who)
        mailings.post(confirm, key=f"c:{number}", address=who, address_key=key, slots={}, provider=store.route)
    add_people(store, range(11, 14))
    say("send", "2017-11-19", "--yes", "--no-wait")
    worked = say("worker", "--once")
    assert (worked.code, worked.err) == (0, "")
    assert len(out.messages) == 5, "a fifth of the cap, and the issue"
    assert "the cap of 10 a day (sign-up confirmations may take a fifth of it) is reached, and the rest" in worked.out
    assert (tally(1), tally(2)) == ({"accepted": 2, "pending": 2}, {"accepted": 3})
