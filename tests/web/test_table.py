"""Who may do what at every address of the pages, as a table; and a test of each of its rows.

Four kinds of people come to these pages. A *stranger* holds no token of ours, whatever they type. A *member* holds the
links of her own mails, which are all that she shows for herself: there are no accounts and no cookies. The *other
member* holds those of his mails; with them he gets what is his, and nothing of hers. *Staff* have no accounts on these
pages: the desk where they work is to be an application of its own. Here they are strangers with nothing more, and are
tried as such, with every header that a proxy or a desk might tell them by.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from audience import editions
from members import ISSUE, keys_of
from newsletter.config import Config
from pages import Answer, Pages
from rows import Rows, all_rows, changed

ANA, LUIS = "ana@example.org", "luis@example.net"
PRIVATE = "2017-11-26"
LOCAL = {"host": "127.0.0.1:8000"}
NO_TOKEN = "AAAAAAAAAAAAAAAAAAAAAA.k1"

SIGN_UP = {"email": "new@example.com", "list": "weekly", "language": "en", "time": "{form}"}
ASKING = frozenset({"wish", "rate"})  # what a page writes when it asks for a mail: to nobody but the address typed


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is answered at an address, to a stranger and to a member: the status, for GET (and HEAD) and for POST.

    None: the method is refused. `purpose` is that of the token in the address; an address without one is everybody's.
    `changes` are the tables in which a POST may write, and only rows of the token's own member. `first` is what the
    member does before, by POST.
    """

    pattern: str
    path: str
    purpose: str = ""
    get: tuple[int, int] | None = None
    post: tuple[int, int] | None = None
    form: Mapping[str, str] = field(default_factory=dict)
    changes: frozenset[str] = frozenset()
    first: str = ""


def public(pattern: str, path: str, status: int = 200, **more: Any) -> Row:
    return Row(pattern=pattern, path=path, get=(status, status), **more)


def inbox(pattern: str, path: str) -> Row:
    return Row(pattern=f"inbox/{pattern}", path=f"/inbox/{path}", get=(404, 404))


LEAVING = frozenset({"subscription", "consent"})

TABLE: tuple[Row, ...] = (
    # Everybody's.
    public("", "/", 302),
    public("favicon.ico", "/favicon.ico", 204),
    public("robots.txt", "/robots.txt"),
    public("health", "/health"),
    public(".well-known/newsletter", "/.well-known/newsletter"),
    public("signup/", "/signup/", post=(200, 200), form=SIGN_UP, changes=ASKING),
    public("me/", "/me/", post=(200, 200), form={"email": ANA, "time": "{form}"}, changes=ASKING),
    public("archive/", "/archive/", 302),
    public("archive/<str:language>/", "/archive/en/"),
    public("archive/<str:language>/pages/<int:number>/", "/archive/en/pages/2/", 404),  # one page of issues so far
    public("^archive/(?P<language>[^/]+)/feed\\.(?P<kind>atom|json)$", "/archive/es/feed.atom"),
    public("archive/<str:language>/<str:issue>/", f"/archive/en/{ISSUE}/"),
    public("^archive(?:/[^/]+){0,2}$", "/archive/en", 302),
    public("^sitemap(?:-(?P<number>[1-9][0-9]{0,5}))?\\.xml$", "/sitemap.xml"),
    public("^images/(?P<name>[0-9a-f]{32}\\.(?:png|jpg|gif|webp))$", f"/images/{'0' * 32}.png", 404),
    # A member's, by the links of her mails.
    Row(
        pattern="c/<token>",
        path="/c/{}",
        purpose="confirm",
        get=(404, 200),
        post=(404, 200),
        changes=frozenset({"subscription", "consent", "wish", "allowance", "list"}),
    ),
    Row(
        pattern="u/<str:token>",
        path="/u/{}",
        purpose="unsubscribe",
        get=(404, 200),
        post=(404, 200),
        form={"List-Unsubscribe": "One-Click"},
        changes=LEAVING,
    ),
    Row(
        pattern="u/<str:token>/undo",
        path="/u/{}/undo",
        purpose="unsubscribe",
        get=(404, 200),
        post=(404, 200),
        changes=LEAVING,
        first="/u/{}",
    ),
    Row(
        pattern="u/<str:token>/reason",
        path="/u/{}/reason",
        purpose="unsubscribe",
        get=(404, 200),
        post=(404, 200),
        form={"reason": "too_many"},
        changes=frozenset({"consent"}),
        first="/u/{}",
    ),
    Row(
        pattern="p/<str:token>",
        path="/p/{}",
        purpose="preferences",
        get=(404, 200),
        post=(404, 200),
        form={"language": "es", "seen": "weekly"},
        changes=LEAVING | {"subscriber"},
    ),
    Row(
        pattern="p/<str:token>/link",
        path="/p/{}/link",
        purpose="preferences",
        get=(404, 200),
        post=(404, 200),
        changes=ASKING,
    ),
    Row(pattern="m/<str:token>", path="/m/{}", purpose="manage", get=(404, 200)),
    Row(
        pattern="m/<str:token>/name",
        path="/m/{}/name",
        purpose="manage",
        get=(404, 200),
        post=(404, 200),
        form={"name": "Ana María"},
        changes=frozenset({"subscriber"}),
    ),
    Row(
        pattern="m/<str:token>/address",
        path="/m/{}/address",
        purpose="manage",
        get=(404, 200),
        post=(404, 200),
        form={"new_address": "elsewhere@example.com"},
        changes=ASKING,
    ),
    Row(
        pattern="m/<str:token>/preferences",
        path="/m/{}/preferences",
        purpose="manage",
        get=(404, 200),
        post=(404, 200),
        form={"language": "es", "seen": "", "pause": "14"},
        changes=frozenset({"subscriber"}),
    ),
    Row(pattern="m/<str:token>/data", path="/m/{}/data", purpose="manage", get=(404, 200)),
    Row(
        pattern="m/<str:token>/erase",
        path="/m/{}/erase",
        purpose="manage",
        get=(404, 200),
        post=(404, 200),
        changes=frozenset({"subscriber", "subscription", "consent", "delivery", "wish", "suppression", "allowance"}),
    ),
    Row(
        pattern="a/<str:token>",
        path="/a/{}",
        purpose="address",
        get=(404, 200),
        post=(404, 200),
        changes=frozenset({"subscriber", "consent", "wish", "delivery", "suppression"}),
    ),
    Row(pattern="v/<str:token>", path="/v/{}", purpose="view", get=(404, 200)),
    # Nobody's, unless the inbox is on, and then this machine's: tested below.
    inbox("", ""),
    inbox("<str:id>/", "{mail}/"),
    inbox("<str:id>/html", "{mail}/html"),
    inbox("<str:id>/source", "{mail}/source"),
    inbox("<str:id>/part/<str:number>", "{mail}/part/1"),
)


@dataclass(frozen=True, kw_only=True)
class World:
    """Two members with a mail of every kind, one public issue and one that is not, and a mail in the outbox."""

    config: Config
    pages: Pages
    tokens: Mapping[str, Mapping[str, str]]  # address → purpose → token
    mail: str

    def path(self, row: Row, token: str) -> str:
        return row.path.format(token, mail=self.mail)

    def ask(self, method: str, path: str, form: Mapping[str, str] | None = None, /, **headers: str) -> Answer:
        stamp = self.pages.site.keyring.token("form", _a_minute_ago())
        filled = {name: stamp if value == "{form}" else value for name, value in (form or {}).items()}
        answer = (
            self.pages.post(path, filled, **headers) if method == "POST" else self.pages.ask(method, path, **headers)
        )
        assert "set-cookie" not in answer.headers
        return answer


def _a_minute_ago() -> int:
    return int(time.time()) - 60


@pytest.fixture
def world(store: Config) -> World:
    from newsletter.store import mailings, models, schema

    schema.store_id()  # made once, by whoever asks first
    tokens = {address: keys_of(store, address) for address in (ANA, LUIS)}
    list = models.List.objects.get(name="weekly")
    for issue, private in ((ISSUE, False), (PRIVATE, True)):
        sent = {code: replace(each, private=private) for code, each in editions(key=issue).items()}
        opened = mailings.open_mailing(sent, issue=issue, list=list.pk, default_language="en", provider="outbox")
        while mailings.write_down(opened.mailing):
            pass
    edition = models.Edition.objects.get(language="en", mailing__round__issue=PRIVATE)
    for folder in ("tmp", "new", "cur"):
        (store.outbox / folder).mkdir(parents=True)
    mail = f"{ISSUE}.{'0' * 32}"
    content = (
        b"To: ana@example.org\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\nContent-Type: text/html\r\n\r\n<p>Hello\r\n"
        b'--b\r\nContent-Type: text/csv\r\nContent-Disposition: attachment; filename="a.csv"\r\n\r\n1\r\n--b--\r\n'
    )
    (store.outbox / "new" / mail).write_bytes(content)
    pages = Pages(store)
    view = pages.site.keyring.token("view", edition.pk)
    of_all = {address: {**own, "view": view} for address, own in tokens.items()}
    return World(config=store, pages=pages, tokens=of_all, mail=mail)


def rows_of(address: str) -> Rows:
    """Every row that is about a person."""
    from django.db import connection

    from newsletter.store.keys import key_maker
    from newsletter.store.models import Subscriber
    from newsletter.store.schema import our_tables

    key = key_maker(b"p" * 40)(address)
    id = Subscriber.objects.filter(address_key=key).values_list("pk", flat=True).first()
    found: Rows = {}
    with connection.cursor() as cursor:
        for table in sorted(our_tables()):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            columns = [each[0] for each in cursor.description]
            for row in cursor.fetchall():
                values = dict(zip(columns, row, strict=True))
                about = (
                    (id is not None and values.get("id" if table == "subscriber" else "subscriber_id") == id)
                    or bytes(values.get("address_key") or b"") == key
                    or address in str(values.get("address", ""))
                )
                if about:
                    found.setdefault(table, []).append(tuple(map(str, row)))
    return {table: sorted(rows) for table, rows in found.items()}


STAFF = {
    "remote_user": "editor",
    "x_forwarded_user": "editor",
    "authorization": "Basic ZWRpdG9yOmVkaXRvcg==",
    "cookie": "sessionid=1; csrftoken=1",
    "x_real_ip": "127.0.0.1",
}
OTHER_METHODS = ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "LINK")


@pytest.mark.usefixtures("empty_sqlite")  # configures Django
def test_the_table_has_every_address_of_the_pages_and_no_other() -> None:
    from newsletter.web.urls import urlpatterns

    patterns = [str(each.pattern) for each in urlpatterns]
    assert sorted(patterns) == sorted(row.pattern for row in TABLE)
    assert len(set(patterns)) == len(patterns)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.pattern or "/")
def test_a_row_of_the_table(world: World, row: Row) -> None:
    ana, luis = world.tokens[ANA], world.tokens[LUIS]
    hers, his = world.path(row, ana.get(row.purpose, "")), world.path(row, luis.get(row.purpose, ""))
    if row.first:
        assert world.ask("POST", row.first.format(ana[row.purpose])).status == 200
        assert world.ask("POST", row.first.format(luis[row.purpose])).status == 200
    none = [world.path(row, token) for token in (NO_TOKEN, *_foreign(row, ana), *_foreign(row, luis))]
    none = none if row.purpose else [hers]
    before = all_rows()

    # GET and HEAD, whoever comes: nothing changes.
    for method in ("GET", "HEAD"):
        for path in none:
            for headers in ({}, STAFF):  # the stranger, and staff
                assert world.ask(method, path, None, **headers).status == (row.get[0] if row.get else 405)
        for path in (hers, his):  # the member, and the other member
            assert world.ask(method, path).status == (row.get[1] if row.get else 405)
    # Every other method is refused.
    for method in OTHER_METHODS:
        for path in (*none, hers):
            assert world.ask(method, path).status in ((404, 405) if row.purpose or row.get == (404, 404) else (405,))
    # POST by who holds nothing.
    if row.purpose or not row.post:
        for path in none:
            for headers in ({}, STAFF):
                assert world.ask("POST", path, row.form, **headers).status == (row.post[0] if row.post else 405)
    assert changed(before, all_rows()) == {}
    if not row.post:
        assert world.ask("POST", hers, row.form).status == 405
        assert changed(before, all_rows()) == {}
        return

    if not row.purpose:  # everybody's: it asks for a mail, and touches nobody
        people = rows_of(ANA), rows_of(LUIS)
        for headers in ({}, STAFF):
            assert world.ask("POST", hers, row.form, **headers).status == row.post[0]
        assert {*changed(before, all_rows())} == row.changes
        if row.form["email"] not in (ANA, LUIS):
            assert (rows_of(ANA), rows_of(LUIS)) == people
        return

    # POST by the other member with his own token: what is hers stays as it is.
    of_ana = rows_of(ANA)
    assert world.ask("POST", his, row.form).status == row.post[1]
    assert changed(of_ana, rows_of(ANA)) == {}
    after_his = all_rows()
    assert {*changed(before, after_his)} <= row.changes
    assert after_his != before

    # POST by the member.
    of_luis = rows_of(LUIS)
    assert world.ask("POST", hers, row.form).status == row.post[1]
    assert {*changed(after_his, all_rows())} <= row.changes
    assert all_rows() != after_his
    assert changed(of_luis, rows_of(LUIS)) == {}


def _foreign(row: Row, tokens: Mapping[str, str]) -> list[str]:
    """A member's tokens of all the other purposes, which open nothing here."""
    return [token for purpose, token in tokens.items() if purpose != row.purpose]


# --- the inbox, when it is on -----------------------------------------------------------------------------------------

INBOX = [row for row in TABLE if row.pattern.startswith("inbox/")]
NOT_THIS_MACHINE = (
    {"host": "news.example.org"},
    {"host": "127.0.0.1.example.org"},
    {"host": "127.0.0.1:8000", "x_forwarded_for": "203.0.113.9"},
    {"host": "127.0.0.1:8000", "x_forwarded_host": "127.0.0.1"},
    {"host": "localhost", "forwarded": "for=127.0.0.1"},
    {"host": "localhost@example.org"},
    {"host": ""},
)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("row", INBOX, ids=lambda row: row.pattern)
def test_the_inbox_is_this_machines_and_can_only_be_read(world: World, row: Row) -> None:
    path = world.path(row, "")
    pages = Pages(world.config, inbox=True)
    before = all_rows(), sorted(str(each) for each in world.config.outbox.rglob("*"))
    for method in ("GET", "HEAD"):
        assert pages.ask(method, path, **LOCAL).status == 200
        for headers in NOT_THIS_MACHINE:
            assert pages.ask(method, path, **headers).status == 404
    for method in ("POST", *OTHER_METHODS):
        assert pages.ask(method, path, **LOCAL).status == 405
    assert (all_rows(), sorted(str(each) for each in world.config.outbox.rglob("*"))) == before
