"""`newsletter doctor`: what it says of each part that is well, wrong, or does not answer. Nothing is ever sent."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from audience import add_people, editions
from newsletter.checks.leaving import LARGEST
from newsletter.cli import run
from newsletter.config import Config
from newsletter.content.fetch import Fetched, fetch
from newsletter.content.fetch import Limits as FetchLimits
from newsletter.providers import sendgrid
from sendgrid_server import Reply, SendgridServer, refusal
from smtp_server import DROP, HANG, Reaction, Session, SmtpServer

PASSWORD = "correct-horse"
KEY = "SG.right-key"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What `newsletter doctor` printed, as people and as programs get it, and its exit code."""

    code: int
    out: str
    parts: dict[str, dict[str, Any]]

    def codes(self, part: str) -> dict[str, str]:
        return {each["code"]: each["severity"] for each in self.parts[part]["findings"]}

    def words(self, part: str) -> str:
        return "\n".join(f"{each['message']} → {each['help']}" for each in self.parts[part]["findings"])


Say = Callable[[], Said]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def say_one() -> Said:
        capsys.readouterr()
        code = run(["doctor"])
        out, err = capsys.readouterr()
        assert err == ""
        assert run(["doctor", "--json"]) == code
        described, err = capsys.readouterr()
        assert err == ""
        told = json.loads(described)
        assert set(told) == {"ok", "parts"}
        assert told["ok"] is (code == 0)
        for part in told["parts"]:
            assert set(part) == {"part", "state", "found", "findings"}
            assert part["state"] in {"fine", "warning", "error", "down", "unknown"}
        for text in (out, described):
            assert PASSWORD not in text
            assert "k" * 40 not in text
            assert KEY not in text
            assert not re.search(r"[\w.+-]+@[\w-]+\.\w", text), "an address"
        return Said(code=code, out=out, parts={part["part"]: part for part in told["parts"]})

    return say_one


one_database = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
"""For what has nothing to do with the database."""


def add(config: Config, text: str, *, env: str = "") -> None:
    """More of newsletter.yaml and of .env."""
    for name, more in (("newsletter.yaml", text), (".env", env)):
        path = config.root / name
        path.write_text(f"{path.read_text('utf-8')}{more}\n", "utf-8")


def smtp(config: Config, server: SmtpServer, more: str = "", *, env: str = "") -> None:
    add(config, f"provider: smtp\nsmtp: {{host: 127.0.0.1, port: {server.port}{more}}}", env=env)


@pytest.fixture
def site(store: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A workspace at https://news.valley.org, and a web server of this machine that answers for it."""
    from newsletter.store import schema

    answers: dict[str, Any] = {"status": 200, "body": json.dumps({"id": schema.store_id()}).encode()}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers["status"])
            self.send_header("Content-Length", str(len(answers["body"])))
            self.end_headers()
            self.wfile.write(answers["body"])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def ask(url: str) -> Fetched:
        limits = FetchLimits(allow=lambda _: True, ports=frozenset({server.server_port}), seconds=5, bytes=LARGEST)
        got = fetch(url.replace("https://news.valley.org", f"http://127.0.0.1:{server.server_port}"), limits)
        return Fetched(body=got.body, url=url)

    monkeypatch.setattr("newsletter.cli.doctor.ask", ask)
    path = store.root / "newsletter.yaml"
    path.write_text(path.read_text("utf-8").replace("example.org", "valley.org"), "utf-8")
    yield answers
    server.shutdown()
    server.server_close()


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """That of a server at 127.0.0.1, which this machine trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def remember_keys(config: Config) -> None:
    """What the first command that opens a database does: it keeps what its keys are known by."""
    from newsletter.store import keys

    keys.check_keys(config)


def nobody_home() -> int:
    """A port at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# --- the whole --------------------------------------------------------------------------------------------------------


def test_a_workspace_with_an_outbox_is_in_order_and_told_that_mail_reaches_nobody(store: Config, say: Say) -> None:
    said = say()
    assert said.code == 0
    assert list(said.parts) == ["configuration", "database", "way out outbox", "dkim", "caps"]
    assert "mail reaches nobody" in said.out
    assert not any(path.name for folder in ("new", "cur", "tmp") for path in (store.outbox / folder).iterdir())


def test_everything_in_order_is_one_line_for_each_part(store: Config, site: dict[str, Any], say: Say) -> None:
    with SmtpServer(offers=("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 36700160")) as server:
        smtp(store, server)
        said = say()
    assert said.code == 0
    assert list(said.parts) == ["configuration", "database", "pages", "way out smtp", "dkim", "caps"]
    for part in said.parts:
        assert re.search(rf"(?m)^{part}: fine: \S", said.out)
    assert "https://news.valley.org answers for this workspace" in said.out
    assert "it offers PIPELINING, 8BITMIME, SMTPUTF8, SIZE 36,700,160" in said.out
    assert "Mail would leave from here." in said.out


def test_without_a_configuration_nothing_else_is_looked_at(store: Config, say: Say) -> None:
    add(store, "colour: blue")
    said = say()
    assert said.code == 1
    assert list(said.parts) == ["configuration"]
    assert "config.unknown-key" in said.codes("configuration")


def test_one_part_that_fails_keeps_no_other_from_being_looked_at(store: Config, site: dict[str, Any], say: Say) -> None:
    remember_keys(store)
    env = store.root / ".env"
    env.write_text(env.read_text("utf-8").replace("p" * 40, "q" * 40), "utf-8")
    add(store, "provider: smtp\ndkim: {selectors: [gone]}\nfallback: [backup]")
    add(store, f"smtp: {{host: 127.0.0.1, port: {nobody_home()}, pace: {{per_hour: 100}}}}")
    with SmtpServer(MAIL=b"550 5.7.1 go away\r\n") as server:
        add(store, f"providers: {{backup: {{smtp: {{host: 127.0.0.1, port: {server.port}}}}}}}")
        said = say()
    assert said.code == 1
    assert {name: part["state"] for name, part in said.parts.items()} == {
        "configuration": "fine",
        "database": "error",
        "pages": "unknown",  # not asked: the database is not ours
        "way out smtp": "error",
        "way out backup": "error",
        "dkim": "error",
        "caps": "fine",
    }


# --- settings, database, pages ----------------------------------------------------------------------------------------


def test_what_keeps_mail_from_leaving_is_an_error_and_a_warning_where_nothing_leaves(store: Config, say: Say) -> None:
    path = store.root / "newsletter.yaml"
    text = path.read_text("utf-8").replace("https://news.example.org", "http://localhost:8000")
    path.write_text(text.replace("postal_address: 1 Mill Street, Exampletown\n", ""), "utf-8")
    said = say()
    assert (said.code, said.parts["configuration"]["state"]) == (0, "warning")
    with SmtpServer() as server:
        smtp(store, server)
        said = say()
    assert (said.code, said.parts["configuration"]["state"]) == (1, "error")
    assert {"leaving.base-url", "leaving.postal-address"} <= set(said.codes("configuration"))
    assert said.codes("pages") == {"doctor.not-asked": "note"}


def test_a_page_of_another_database_is_an_error(store: Config, site: dict[str, Any], say: Say) -> None:
    site["body"] = b'{"id": "another"}'
    with SmtpServer() as server:
        smtp(store, server)
        said = say()
    assert said.code == 1
    assert said.codes("pages") == {"leaving.identity": "error"}


def test_secrets_that_lack_are_named(store: Config, say: Say) -> None:
    env = store.root / ".env"
    env.write_text(re.sub("(?m)^NEWSLETTER_.*\n", "", env.read_text("utf-8")), "utf-8")
    said = say()
    assert said.code == 1
    assert "NEWSLETTER_SECRET_KEY is not set" in said.words("configuration")
    assert "NEWSLETTER_PEPPER is not set" in said.words("configuration")
    assert said.parts["database"]["state"] == "fine"


def test_the_key_of_another_database_is_an_error(store: Config, say: Say) -> None:
    remember_keys(store)
    env = store.root / ".env"
    env.write_text(env.read_text("utf-8").replace("p" * 40, "q" * 40), "utf-8")
    said = say()
    assert said.code == 1
    assert said.codes("database") == {"doctor.keys": "error"}


def test_keys_are_not_taken_for_the_right_ones_by_looking(store: Config, say: Say) -> None:
    from newsletter.store.models import Fact

    before = [*Fact.objects.order_by("name").values_list()]
    assert say().code == 0
    assert [*Fact.objects.order_by("name").values_list()] == before


def test_a_database_that_does_not_answer_is_down(workspace: Path, say: Say) -> None:
    add_env = "NEWSLETTER_SECRET_KEY=" + "k" * 40 + "\nNEWSLETTER_PEPPER=" + "p" * 40
    (workspace / ".env").write_text(f"{add_env}\nDATABASE_URL=postgresql://127.0.0.1:{nobody_home()}/gone\n", "utf-8")
    said = say()
    assert said.code == 3
    assert said.parts["database"]["state"] == "down"
    assert said.codes("database") == {"doctor.database-down": "error"}
    assert said.parts["way out outbox"]["state"] == "fine"


def test_a_database_that_is_not_there_is_not_made(workspace: Path, say: Say) -> None:
    secrets = "NEWSLETTER_SECRET_KEY=" + "k" * 40 + "\nNEWSLETTER_PEPPER=" + "p" * 40 + "\n"
    (workspace / ".env").write_text(secrets, "utf-8")
    said = say()
    assert said.code == 0
    assert said.codes("database") == {"doctor.no-tables": "note"}
    assert not (workspace / "subscribers").exists()
    path = workspace / "newsletter.yaml"
    path.write_text(f"{path.read_text('utf-8')}provider: sendgrid\n", "utf-8")
    (workspace / ".env").write_text(f"{secrets}NEWSLETTER_SENDGRID_KEY=\n", "utf-8")
    assert say().codes("pages") == {"doctor.not-asked": "error"}, "nothing answers with the id of no database"
    assert not (workspace / "subscribers").exists()


def test_an_empty_postgresql_database_waits_for_migrate(workspace: Path, postgresql: Any, say: Say) -> None:
    secrets = "NEWSLETTER_SECRET_KEY=" + "k" * 40 + "\nNEWSLETTER_PEPPER=" + "p" * 40 + "\n"
    (workspace / ".env").write_text(f"{secrets}DATABASE_URL={postgresql.new_database()}\n", "utf-8")
    said = say()
    assert said.code == 1
    assert said.codes("database") == {"doctor.schema": "error"}
    assert "newsletter migrate" in said.words("database")


def test_a_cluster_has_its_tables_or_says_what_to_type(cluster: Config, postgresql: Any, say: Say) -> None:
    assert say().parts["database"]["state"] == "fine"
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("COMMENT ON TABLE procrastinate_jobs IS 'newsletter: 00.00.00_01_initial.sql'")
    said = say()
    assert said.code == 1
    assert "newsletter migrate" in said.words("database")


def test_a_mailing_without_a_worker_is_a_warning(store: Config, say: Say) -> None:
    from newsletter.store import fleet, mailings

    list_id = add_people(store, range(1, 4))
    mailings.open_mailing(editions(), issue="2017-11-19", list=list_id, default_language="en", provider="outbox")
    said = say()
    assert said.code == 0
    assert said.codes("database") == {"doctor.no-worker": "warning"}
    assert "newsletter worker" in said.words("database")
    now = time.time()
    fleet.check_in("mail1:812", engine="local", state="working", started_at=now, now=now)
    said = say()
    assert said.codes("database") == {}
    assert "1 worker at work" in said.out


# --- smtp -------------------------------------------------------------------------------------------------------------

USERS = {"news": PASSWORD}


@one_database
@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_mail_server_is_asked_for_everything_but_a_recipient(
    security: str, store: Config, site: dict[str, Any], certificate: ssl.SSLContext, say: Say
) -> None:
    with SmtpServer(context=certificate, implicit_tls=security == "tls", users=USERS) as server:
        smtp(store, server, f", security: {security}, username: news", env=f"NEWSLETTER_SMTP_PASSWORD={PASSWORD}")
        said = say()
    assert said.code == 0
    assert re.search(r"the server answers, encrypted \(TLSv1\.\d\); the log-in works; it takes the sender", said.out)
    said_there = [line[:4] for line in server.lines[0] if line[:4] not in ("EHLO", "STAR")]
    assert said_there == ["AUTH", "MAIL", "RSET", "QUIT"]
    assert "MAIL FROM:<news@valley.org>" in server.lines[0]
    assert server.taken == []


@one_database
def test_with_bounces_the_return_path_is_tried_that_sending_would_use(
    store: Config, site: dict[str, Any], say: Say
) -> None:
    with SmtpServer() as server:
        smtp(store, server, ", bounces: bounce.valley.org")
        assert say().code == 0
    assert "MAIL FROM:<b+check@bounce.valley.org>" in server.lines[0]


def wrong_password(config: Config, server: SmtpServer) -> None:
    smtp(config, server, ", username: news", env="NEWSLETTER_SMTP_PASSWORD=mistyped")


def no_password(config: Config, server: SmtpServer) -> None:
    smtp(config, server, ", username: news")


@one_database
@pytest.mark.parametrize(
    ("set_up", "server", "code", "words"),
    [
        (wrong_password, {"users": USERS, "auth_in_clear": True}, 1, "log-in was refused: 535 5.7.8 wrong credentials"),
        (no_password, {"users": USERS, "auth_in_clear": True}, 1, "there is no password; put NEWSLETTER_SMTP_PASSWORD"),
        (
            smtp,
            {"MAIL": b"550 5.7.1 sender news@valley.org rejected\r\n"},
            1,
            "550 5.7.1 sender <address> rejected; th",
        ),
        (smtp, {"MAIL": b"450 4.7.1 greylisted\r\n"}, 3, "nothing from the sender for now: 450 4.7.1 greylisted; try"),
        (smtp, {"MAIL": b"421 4.3.2 closing\r\n"}, 3, "for now: 421 4.3.2 closing"),
        (smtp, {"CONNECT": b"554 5.7.1 not you\r\n"}, 3, "turns connections away: 554 5.7.1 not you"),
        (smtp, {"CONNECT": b"SSH-2.0-x\r\n"}, 3, "sent what is no reply: .*check smtp.host, smtp.port"),
        (smtp, {"CONNECT": b"220 hi\r\n250 unasked\r\n"}, 3, "out of step"),
        (smtp, {"MAIL": b"354 go\r\n"}, 3, "out of step: it answered MAIL with 354"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_a_mail_server_says_is_told_in_the_words_of_sending(
    set_up: Callable[[Config, SmtpServer], None],
    server: dict[str, Any],
    code: int,
    words: str,
    store: Config,
    site: dict[str, Any],
    say: Say,
) -> None:
    with SmtpServer(**server) as there:
        set_up(store, there)
        said = say()
    assert said.code == code
    assert said.parts["way out smtp"]["state"] == ("error" if code == 1 else "down")
    assert re.search(words, said.words("way out smtp"))
    assert f"smtp 127.0.0.1:{there.port}" in said.words("way out smtp")


@one_database
def test_a_certificate_that_nobody_vouches_for_is_told(store: Config, site: dict[str, Any], say: Say) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with SmtpServer(context=context) as server:
        smtp(store, server, ", security: starttls")
        said = say()
    assert said.code == 3
    assert "its certificate is not accepted" in said.words("way out smtp")
    assert not any(line.startswith("MAIL") for line in server.lines[0])


@one_database
def test_a_server_without_starttls_is_told(store: Config, site: dict[str, Any], say: Say) -> None:
    with SmtpServer() as server:
        smtp(store, server, ", security: starttls")
        said = say()
    assert said.code == 1
    assert "offers no STARTTLS" in said.words("way out smtp")


@one_database
def test_words_in_clear_behind_starttls_are_not_taken_for_the_servers(
    store: Config, site: dict[str, Any], certificate: ssl.SSLContext, say: Say
) -> None:
    with SmtpServer(context=certificate, STARTTLS=b"220 go\r\n250 evil\r\n") as server:
        smtp(store, server, ", security: starttls")
        said = say()
    assert said.code == 3
    assert "went on in clear after STARTTLS" in said.words("way out smtp")


@one_database
def test_nobody_listening_is_down(store: Config, site: dict[str, Any], say: Say) -> None:
    add(store, f"provider: smtp\nsmtp: {{host: 127.0.0.1, port: {nobody_home()}}}")
    said = say()
    assert said.code == 3
    assert "Connection refused; check smtp.host, smtp.port and smtp.security" in said.words("way out smtp")


@one_database
@pytest.mark.parametrize("point", ["CONNECT", "EHLO", "MAIL", "RSET"])
def test_a_server_that_hangs_is_down_after_its_time_out(
    point: str, store: Config, site: dict[str, Any], say: Say
) -> None:
    answers: dict[str, Any] = {point: HANG}
    with SmtpServer(**answers) as server:
        smtp(store, server, ", timeout: 1")
        said = say()
    assert said.code == 3
    assert "no answer within 1 s" in said.words("way out smtp")


@one_database
@pytest.mark.parametrize(
    "flood", [b"250-x\r\n" * 100_000, b"250-" + b"x" * 100_000], ids=["of lines", "without an end"]
)
def test_a_server_that_answers_without_end_is_given_up(
    flood: bytes, store: Config, site: dict[str, Any], say: Say
) -> None:
    with SmtpServer(EHLO=flood) as server:
        smtp(store, server)
        said = say()
    assert said.code == 3
    assert "a reply of over 65,536 octets" in said.words("way out smtp")


@one_database
def test_a_server_that_drips_is_given_up_after_the_time_out(store: Config, site: dict[str, Any], say: Say) -> None:
    def drip(session: Session, _: str) -> Reaction:
        while not session.server.closing.wait(0.05):
            session.sock.sendall(b"x")
        return DROP

    with SmtpServer(EHLO=drip) as server:
        smtp(store, server, ", timeout: 1")
        said = say()
    assert said.code == 3
    assert "no answer within 1 s" in said.words("way out smtp")


@one_database
def test_a_part_that_hangs_keeps_no_other_from_being_looked_at(
    store: Config, site: dict[str, Any], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a way out waits for: here a server whose time-out is longer than what a part may take."""
    with SmtpServer(EHLO=HANG) as server:
        smtp(store, server)
        monkeypatch.setattr("newsletter.cli.doctor.SECONDS", 2.0)
        said = say()
        assert said.code == 3
        assert said.codes("way out smtp") == {"doctor.no-answer": "error"}
        assert said.parts["caps"]["state"] == "fine"


# --- sendgrid, anymail, outbox ----------------------------------------------------------------------------------------


@one_database
@pytest.mark.parametrize("region", ["global", "eu"])
def test_sendgrid_is_asked_in_its_sandbox_in_the_region_of_the_account(
    region: str, store: Config, site: dict[str, Any], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SendgridServer(key=KEY, validate=False) as server, SendgridServer(key="SG.other") as elsewhere:
        for name in sendgrid.HOSTS:
            monkeypatch.setitem(sendgrid.HOSTS, name, server.url if name == region else elsewhere.url)
        add(store, f"provider: sendgrid\nsendgrid: {{region: {region}}}", env=f"NEWSLETTER_SENDGRID_KEY={KEY}")
        said = say()
    assert said.code == 0
    assert "SendGrid takes the key, and would take a message from this sender" in said.out
    assert all(each["mail_settings"]["sandbox_mode"]["enable"] for each in server.requests)
    assert (server.accepted, elsewhere.requests) == ([], [])


@one_database
@pytest.mark.parametrize(
    ("key", "reply", "code", "words"),
    [
        ("SG.wrong", None, 1, "Mail Send"),
        (KEY, refusal("does not match a verified Sender Identity", status=403), 1, "domain"),
        (KEY, Reply(status=503), 3, "503"),
        (KEY, Reply(cut="after-body"), 3, "lost"),
        (KEY, Reply(hang=True), 3, "lost"),
    ],
    ids=["wrong-key", "sender", "503", "cut", "hang"],
)
def test_what_sendgrid_says_is_told(
    key: str,
    reply: Reply | None,
    code: int,
    words: str,
    store: Config,
    site: dict[str, Any],
    say: Say,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with SendgridServer([reply, reply], key=KEY, validate=False) as server:
        monkeypatch.setitem(sendgrid.HOSTS, "global", server.url)
        add(store, "provider: sendgrid\nsendgrid: {timeout: 1}", env=f"NEWSLETTER_SENDGRID_KEY={key}")
        said = say()
    assert said.code == code
    assert words in said.words("way out sendgrid")
    assert "SG.wrong" not in said.out


@one_database
def test_a_sendgrid_key_that_is_missing_is_told(store: Config, site: dict[str, Any], say: Say) -> None:
    add(store, "provider: sendgrid")
    said = say()
    assert said.code == 1
    assert "NEWSLETTER_SENDGRID_KEY" in said.words("way out sendgrid")


@one_database
def test_of_anymail_it_says_that_the_key_cannot_be_tried(store: Config, site: dict[str, Any], say: Say) -> None:
    add(store, "provider: anymail\nanymail: {service: postmark}")
    said = say()
    assert said.code == 1
    assert "NEWSLETTER_ANYMAIL_KEY" in said.words("way out anymail")
    add(store, "", env=f"NEWSLETTER_ANYMAIL_KEY={KEY}")
    said = say()
    assert said.code == 0
    assert "Postmark: the package and the keys are there" in said.out
    assert "cannot be tried without sending" in said.out


@one_database
def test_a_service_that_cannot_carry_pictures_is_told_where_they_are_embedded(
    store: Config, site: dict[str, Any], say: Say
) -> None:
    add(store, "provider: anymail\nanymail: {service: brevo}\nimages: embed", env=f"NEWSLETTER_ANYMAIL_KEY={KEY}")
    said = say()
    assert said.code == 1
    assert "images: link" in said.words("way out anymail")


@one_database
def test_an_outbox_that_cannot_be_written_is_down(store: Config, say: Say) -> None:
    store.outbox.parent.mkdir(parents=True, exist_ok=True)
    store.outbox.write_text("in the way", "utf-8")
    said = say()
    assert said.code == 3
    assert said.codes("way out outbox") == {"doctor.way-down": "error"}


@one_database
def test_a_way_out_that_nothing_names_is_a_note_whatever_it_says(store: Config, say: Say) -> None:
    add(store, f"providers: {{relay: {{smtp: {{host: 127.0.0.1, port: {nobody_home()}}}}}}}")
    said = say()
    assert said.code == 0
    assert said.codes("way out relay") == {"doctor.way-unused": "note", "doctor.way-down": "note"}


# --- keys and caps ----------------------------------------------------------------------------------------------------


def test_keys_that_sign_are_named_with_the_records_to_look_up(
    store: Config, site: dict[str, Any], say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["dkim", "new", "s1", "--ed25519"]) == 0
    with SmtpServer() as server:
        smtp(store, server)
        add(store, "dkim: {selectors: [s1, s2]}")
        said = say()
        assert said.code == 1
        assert said.codes("dkim") == {"dkim.missing": "error"}
        assert said.parts["way out smtp"]["state"] == "error"
        assert run(["dkim", "new", "s2"]) == 0
        said = say()
    assert said.code == 0
    assert "s1._domainkey.valley.org, s2._domainkey.valley.org" in said.words("dkim")
    assert "newsletter dkim show" in said.words("dkim")


def test_caps_are_told_with_what_is_spent(store: Config, site: dict[str, Any], say: Say) -> None:
    from django.db import connection, transaction

    from newsletter.config import Pace
    from newsletter.store import pace

    with SmtpServer() as server:
        smtp(store, server, ", pace: {per_hour: 100, per_day: 300}")
        assert "smtp: at most 100 an hour and 300 a day (0 left in the last hour, 0 in the last day)" in say().out
        way = pace.way_id("smtp")
        with transaction.atomic(), connection.cursor() as cursor:
            pace.take(cursor, way, Pace(per_hour=100, per_day=300), "issue", 12, time.time())
        said = say()
    assert "(12 left in the last hour, 12 in the last day)" in said.out
