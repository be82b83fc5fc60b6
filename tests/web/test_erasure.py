"""After an erasure the address stands nowhere: not in the database, not in its files, not in what the programs said."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from audience import add_people, as_ways, editions
from newsletter.config import Config
from newsletter.errors import NoConsent
from newsletter.providers.memory import Memory
from pages import Answer, Pages

if TYPE_CHECKING:
    from newsletter.store.models import Wish

LISTS = """\
lists:
  - id: weekly
    name: {en: Weekly summary, es: Resumen semanal}
  - id: alerts
    name: {en: Alerts, es: Alertas}
    double_opt_in: false
"""


@pytest.fixture
def pages(store: Config) -> Pages:
    store.lists.write_text(LISTS, "utf-8")
    return Pages(store)


def dump(config: Config) -> bytes:
    """Every octet that the database holds: the raw files of SQLite with its journal, every table of PostgreSQL."""
    from django.db import connection

    if connection.vendor == "sqlite":  # read by another process: who closes the file takes this one's locks away
        files = sorted(config.database.parent.glob("newsletter.sqlite3*"))
        return subprocess.run(["cat", *files], check=True, capture_output=True).stdout
    with connection.cursor() as cursor:
        out = b""
        for table in connection.introspection.table_names(cursor):
            with cursor.copy(f'COPY "{table}" TO STDOUT') as copy:
                out += b"".join(bytes(part) for part in copy)
    return out


def work(config: Config, provider: Memory, until: Callable[[], bool]) -> None:
    """A worker, until that is so."""
    from newsletter.engine import local
    from newsletter.store import schema

    if not config.database_url:
        schema.prepare(config)
    giving_up = time.monotonic() + 120
    local.run(
        config,
        as_ways(provider, "memory"),
        stop=threading.Event(),
        until=lambda: until() or time.monotonic() > giving_up,
    )
    assert until(), "the worker came to no end"


def answered(config: Config, provider: Memory | None) -> None:
    """A worker, until every wish has its answer and every single mail has left; without a provider, only the duty."""
    from newsletter.duties import answer_wishes
    from newsletter.store.models import Delivery, Wish

    if provider is None:
        while answer_wishes(config):
            pass
        return

    def idle() -> bool:
        waiting = Wish.objects.filter(state="waiting").exists() or Wish.objects.filter(welcome_due=True).exists()
        return not waiting and not Delivery.objects.filter(state__in=("pending", "sending"), key__isnull=False).exists()

    work(config, provider, idle)


def wish(kind: str) -> Wish:
    from newsletter.store.models import Wish

    return Wish.objects.filter(kind=kind).latest("pk")


class Visitor:
    """Somebody who uses every page there is."""

    def __init__(self, config: Config, pages: Pages, provider: Memory | None = None) -> None:
        self.config, self.pages, self.provider = config, pages, provider
        self.links: list[str] = []
        self.answers: list[Answer] = []

    def get(self, path: str) -> Answer:
        self.answers.append(self.pages.get(path))
        return self.answers[-1]

    def post(self, path: str, **form: Any) -> Answer:
        self.answers.append(self.pages.post(path, form, remote_addr="198.51.100.7"))
        return self.answers[-1]

    def asked(self, path: str, email: str, **form: Any) -> Answer:
        """A form with the signed time, ten seconds after it was shown."""
        made = self.pages.site.keyring.token("form", int(time.time() - 10))
        return self.post(path, email=email, time=made, website="", **form)

    def link(self, purpose: str, id: int) -> str:
        from newsletter.links import PATHS

        path = f"/{PATHS[purpose]}/{self.pages.site.keyring.token(purpose, id)}"
        self.links.append(path)
        return path

    def signs_up(self, email: str, **form: Any) -> None:
        assert self.asked("/signup/", email, **{"name": "Zorrilla Pérez", "list": ["weekly"], **form}).status == 200
        answered(self.config, self.provider)

    def confirms(self) -> None:
        path = self.link("confirm", wish("signup").pk)
        assert self.get(path).status == 200
        assert self.post(path).status == 200
        answered(self.config, self.provider)

    def opens(self, email: str) -> str:
        """A fresh link, mailed to the address."""
        assert self.asked("/me/", email).status == 200
        answered(self.config, self.provider)
        return self.link("manage", wish("link").pk)


def used_everywhere(visitor: Visitor, provider: Memory, address: str, other: str) -> str:
    """Somebody comes, reads, leaves, comes back, changes everything, and moves to another address; a fresh link."""
    from newsletter.store import mailings
    from newsletter.store.models import Allowance, Delivery, List, Subscriber

    config = visitor.config
    assert visitor.asked("/signup/", f"{address}@").status == 422
    visitor.signs_up(address.upper())
    visitor.confirms()
    person = Subscriber.objects.get(name="Zorrilla Pérez")
    assert person.address == address.upper()
    weekly = List.objects.get(name="weekly").pk
    opened = mailings.open_mailing(
        editions(), issue="2017-11-19", list=weekly, default_language="en", provider="memory"
    )
    work(config, provider, lambda: mailings.find(opened.mailing).state == "finished")
    delivery = Delivery.objects.get(mailing=opened.mailing, subscriber=person)
    leave = visitor.link("unsubscribe", delivery.pk)
    for path in (leave, f"{leave}/undo", f"{leave}/reason"):
        visitor.get(path)
    visitor.pages.ask("POST", leave, b"List-Unsubscribe=One-Click", "application/x-www-form-urlencoded")
    visitor.post(f"{leave}/undo", email=address)
    preferences = visitor.link("preferences", delivery.pk)
    assert visitor.get(preferences).status == 200
    assert visitor.post(preferences, list=["weekly", "alerts"], pause="14", language="es", tracking="yes").status == 200
    assert visitor.post(preferences, list=[address], pause="until", day=address, language=address).status == 422
    assert visitor.post(f"{preferences}/link", email=address).status == 200
    answered(config, visitor.provider)
    assert visitor.asked("/me/", f"{address} {address}").status == 422
    Allowance.objects.all().delete()  # as a day later
    fresh = visitor.opens(address.lower())
    assert visitor.get(fresh).status == 200
    assert address.upper() in visitor.answers[-1].text.replace("&#39;", "'")
    assert visitor.post(f"{fresh}/name", name=f"Zorrilla {address}").status == 200
    assert visitor.post(f"{fresh}/address", new_address=f"{address} {address}").status == 422
    assert visitor.post(f"{fresh}/address", new_address=other).status == 200
    assert visitor.get(f"{fresh}/data").status == 200
    assert visitor.get(f"{fresh}/preferences").status == 200
    answered(config, visitor.provider)
    move = visitor.link("address", wish("address").pk)
    assert visitor.get(move).status == 200
    assert visitor.post(move).status == 200
    assert visitor.post(move).status == 200
    answered(config, visitor.provider)  # the old mailbox is told
    return visitor.opens(other.upper())


@pytest.mark.parametrize(
    ("address", "other"),
    [
        ("Zorrilla.Weiss+news@Example.ORG", "zorrilla+2@new.example.org"),
        ("zorrilla.o'ñandú@Bücher.example", "Zorrilla@example.net"),
    ],
)
def test_after_an_erasure_the_address_stands_nowhere(
    store: Config,
    pages: Pages,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    address: str,
    other: str,
) -> None:
    from newsletter.store.models import Subscriber, Suppression
    from newsletter.store.subscribers import address_key

    caplog.set_level(logging.DEBUG)
    logging.getLogger("newsletter.web").setLevel(logging.DEBUG)
    provider = Memory()
    visitor = Visitor(store, pages, provider)
    add_people(store, range(1000, 1200))  # neighbours, so that pages are divided
    fresh = used_everywhere(visitor, provider, address, other)
    assert b"zorrilla" in dump(store).lower(), "the search can find it"
    assert visitor.get(f"{fresh}/erase").status == 200
    assert Subscriber.objects.filter(address=other).exists()
    done = visitor.post(f"{fresh}/erase")
    assert (done.status, "are erased" in done.text) == (200, True)
    for answer in visitor.answers:
        assert answer.status < 500
        assert "set-cookie" not in answer.headers
    for path in visitor.links:
        for tried in (visitor.get(path), visitor.post(path)):
            assert tried.status < 500
            assert "zorrilla" not in tried.text.lower(), path
    assert {visitor.get(path).status for path in visitor.links if path[:3] in ("/p/", "/m/", "/a/")} == {404}

    held = dump(store)
    said = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in files(store))
    everything = held + caplog.text.encode() + said.out.encode() + said.err.encode() + written
    text = everything.decode("utf-8", "replace").lower()
    for form in ("zorrilla", "zorrill", quote(address), quote(other), json.dumps(address)[1:-1].lower()):
        assert form.lower() not in text
    for token in (path.split("/")[2] for path in visitor.links):
        assert token not in caplog.text + said.out + said.err, "logs hold no link either"
    keys = {address_key(store, address), address_key(store, other)}
    assert {bytes(row.address_key): row.reason for row in Suppression.objects.all()} == dict.fromkeys(keys, "erased")
    for key in keys:  # each once, in the suppression
        assert count(store, key) == 1


def files(config: Config) -> list[Path]:
    """Whatever else the programs keep in the workspace: recorders, locks, notes; no mail, which has left."""
    ours = {path for path in config.root.rglob("*") if path.is_file()}
    return sorted(ours - {*config.database.parent.glob("newsletter.sqlite3*")})


def count(config: Config, key: bytes) -> int:
    """How many columns of how many rows hold a keyed hash."""
    from django.apps import apps
    from django.db.models import BinaryField

    found = 0
    for model in apps.get_app_config("store").get_models():
        for field in model._meta.concrete_fields:
            if isinstance(field, BinaryField):
                found += model._default_manager.filter(**{field.name: key}).count()
    return found


# --- and stays out ----------------------------------------------------------------------------------------------------

ANA = "ana@example.org"


def erased(visitor: Visitor) -> None:
    visitor.signs_up(ANA)
    visitor.confirms()
    assert visitor.post(f"{visitor.opens(ANA)}/erase").status == 200


@pytest.mark.parametrize("spelled", [ANA, " ANA@Example.Org "])
def test_no_import_and_no_admin_brings_the_person_back(store: Config, pages: Pages, spelled: str) -> None:
    from newsletter.store.importing import import_file
    from newsletter.store.models import Subscriber
    from newsletter.store.subscribers import add

    erased(Visitor(store, pages))
    with pytest.raises(NoConsent, match="was erased on"):
        add(store, spelled, list="weekly", consent="from an old sheet", resubscribe=True)
    path = store.root / "old.csv"
    path.write_text(f"email,name\n{spelled},Ana\nluis@example.org,Luis\n", "utf-8")
    import_file(store, path, list="weekly", consent="signed the sheet", update=True)
    assert [row.address for row in Subscriber.objects.all()] == ["luis@example.org"]


def test_the_address_before_stays_out_too(store: Config, pages: Pages) -> None:
    """Who moved and was erased does not come back by a file from before the move; a new owner of it is left alone."""
    from newsletter.store.models import Subscriber, Suppression
    from newsletter.store.subscribers import address_key

    visitor = Visitor(store, pages)
    for new in ("ana@new.example.org", "ana@newest.example.org"):
        person = Subscriber.objects.first()
        if person is None:
            visitor.signs_up(ANA)
            visitor.confirms()
        fresh = visitor.opens(Subscriber.objects.get().address)
        visitor.post(f"{fresh}/address", new_address=new)
        answered(store, visitor.provider)
        assert visitor.post(visitor.link("address", wish("address").pk)).status == 200
    visitor.signs_up("ana@new.example.org")  # the mailbox was given to somebody else
    visitor.confirms()
    visitor.post(f"{visitor.opens('ana@newest.example.org')}/erase")
    assert {bytes(row.address_key) for row in Suppression.objects.all()} == {
        address_key(store, ANA),
        address_key(store, "ana@newest.example.org"),
    }
    assert [row.address for row in Subscriber.objects.all()] == ["ana@new.example.org"]


@pytest.mark.parametrize("chosen", [["weekly"], ["alerts"], ["weekly", "alerts"]])
def test_a_sign_up_brings_nobody_back_before_it_is_confirmed(store: Config, pages: Pages, chosen: list[str]) -> None:
    """Not even to a list without a double opt-in: whoever types an address is not its owner."""
    from newsletter.store.models import Subscriber, Subscription, Suppression

    visitor = Visitor(store, pages)
    erased(visitor)
    visitor.signs_up(ANA, list=chosen)
    assert not Subscriber.objects.exists()
    assert Suppression.objects.get().reason == "erased"
    visitor.confirms()
    assert Subscriber.objects.get().address == ANA
    assert {*Subscription.objects.values_list("list__name", "state")} == {(each, "subscribed") for each in chosen}
    assert not Suppression.objects.exists()


@pytest.mark.parametrize("reason", ["complaint", "manual"])
def test_a_complaint_stays_one(store: Config, pages: Pages, reason: Any) -> None:
    from newsletter.store.models import Suppression
    from newsletter.store.subscribers import suppress

    visitor = Visitor(store, pages)
    visitor.signs_up(ANA)
    visitor.confirms()
    fresh = visitor.opens(ANA)
    suppress(store, ANA, reason=reason)
    assert visitor.post(f"{fresh}/erase").status == 200
    row = Suppression.objects.get()
    assert row.reason == reason
    assert re.fullmatch(r"erased on \d{4}-\d\d-\d\d", row.note)


def test_two_clicks_at_once_erase_once(store: Config, pages: Pages) -> None:
    from django.db import connection

    from newsletter.store.models import Subscriber

    visitor = Visitor(store, pages)
    visitor.signs_up(ANA)
    visitor.confirms()
    fresh = visitor.opens(ANA)
    answers: list[int] = []

    def click() -> None:
        answers.append(pages.post(f"{fresh}/erase").status)
        connection.close()

    threads = [threading.Thread(target=click) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) <= {200, 404}
    assert 200 in answers
    assert not Subscriber.objects.exists()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_what_unused_space_of_the_file_holds_is_written_over(store: Config, pages: Pages) -> None:
    from django.db import connection

    from newsletter.store.models import Fact

    visitor = Visitor(store, pages)
    visitor.signs_up("zorrilla@example.org")
    visitor.confirms()
    fresh = visitor.opens("zorrilla@example.org")
    fact = Fact.objects.create(name="x", value="ZORRILLA@example.org")
    with connection.cursor() as cursor:  # as a page keeps it that SQLite divided among others
        cursor.execute("PRAGMA secure_delete = OFF")
        fact.delete()
        cursor.execute("PRAGMA secure_delete = ON")
    assert visitor.post(f"{fresh}/erase").status == 200
    assert b"zorrilla@" not in dump(store).lower()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_what_a_reader_keeps_in_the_journal_goes_when_the_reader_has_ended(
    store: Config, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page does not wait for it, and keeps nobody else from writing: a worker does it."""
    from newsletter import duties
    from newsletter.store import subscribers

    monkeypatch.setattr(subscribers, "JOURNAL_PATIENCE", 0.1)
    visitor = Visitor(store, pages)
    visitor.signs_up("zorrilla@example.org")
    visitor.confirms()
    fresh = visitor.opens("zorrilla@example.org")
    assert not duties.clean_file(store), "nothing is due"
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(store.database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdout
    assert reader.stdout.readline() == b"1\n"
    assert visitor.post(f"{fresh}/erase").status == 200
    assert b"zorrilla@" in dump(store).lower()
    assert not duties.clean_file(store), "the reader is still there"
    reader.communicate(b"end", timeout=30)
    assert duties.clean_file(store)
    assert b"zorrilla@" not in dump(store).lower()
    assert not duties.clean_file(store)


READER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN")
print(database.execute("SELECT count(*) FROM subscriber").fetchone()[0], flush=True)
sys.stdin.read()
"""
