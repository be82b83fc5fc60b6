"""`/m/<token>` and `/a/<token>`: what half an hour's link to a mailbox opens, and what it takes to move to another."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config
from pages import Answer, Pages

if TYPE_CHECKING:
    from newsletter.store.models import Subscriber, Wish

ANA = "Ana.Quispe@Example.ORG"
NEW = "ana@new.example.org"


@pytest.fixture
def pages(store: Config) -> Pages:
    return Pages(store)


def person(store: Config, address: str = ANA, **more: Any) -> Subscriber:
    from newsletter.store.subscribers import add

    given = {"list": "weekly", "consent": "signed the sheet", "name": "Ana Quispe", "language": "en", **more}
    return add(store, address, **given).subscriber


def mailed(store: Config, kind: str, address: str, *, ago: float = 60.0, whose: Subscriber | None = None) -> Wish:
    """A wish of that kind, whose mail left so many seconds ago."""
    from newsletter.store.models import Wish
    from newsletter.store.wishes import ask

    asked = ask(
        store,
        kind=kind,  # type: ignore[arg-type]
        address=address,
        language="en",
        how="page",
        network="198.51.100.0/24",
        subscriber=whose.pk if whose else None,
    )
    assert asked.wish
    Wish.objects.filter(pk=asked.wish).update(state="mailed", mailed_at=time.time() - ago)
    return Wish.objects.get(pk=asked.wish)


def fresh(pages: Pages, store: Config, address: str = ANA, *, ago: float = 60.0) -> str:
    """The path of a fresh link to the address."""
    return f"/m/{pages.site.keyring.token('manage', mailed(store, 'link', address, ago=ago).pk)}"


def moving(pages: Pages, store: Config, whose: Subscriber, address: str = NEW, *, ago: float = 60.0) -> str:
    wish = mailed(store, "address", address, ago=ago, whose=whose)
    return f"/a/{pages.site.keyring.token('address', wish.pk)}"


def plain(answer: Answer) -> str:
    """A page without what its own address brings in."""
    return re.sub(r"/[ma]/[^?\"]*", "", answer.text)


# --- the link ---------------------------------------------------------------------------------------------------------


def test_a_fresh_link_shows_address_and_name_and_works_several_times(store: Config, pages: Pages) -> None:
    person(store)
    path = fresh(pages, store)
    for _ in range(3):
        answer = pages.get(path)
        assert answer.status == 200
        assert ANA in answer.text
        assert "Ana Quispe" in answer.text
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers


ACTIONS = ("", "/name", "/address", "/preferences", "/data", "/erase")


def every(pages: Pages, path: str, actions: tuple[str, ...] = ACTIONS) -> list[Answer]:
    """Everything that a link could do, tried."""
    answers = []
    for action in actions:
        answers.append(pages.get(path + action))
        if action not in ("", "/data"):
            answers.append(pages.post(path + action, {"name": "Mallory", "new_address": "m@example.org"}))
    return answers


def test_after_half_an_hour_it_opens_nothing_and_offers_another(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Subscriber, Wish

    person(store)
    for answer in every(pages, fresh(pages, store, ago=1801)):
        assert answer.status == 410
        assert ANA not in answer.text
        assert 'href="/me/?lang=en"' in answer.text
    assert Subscriber.objects.get().name == "Ana Quispe"
    assert Wish.objects.count() == 1
    assert pages.get(fresh(pages, store, ago=1700)).status == 200


def test_forged_foreign_unsent_and_erased_links_are_the_same_dead_link(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Subscriber, Wish
    from newsletter.store.subscribers import erase

    ana = person(store)
    luis = person(store, "luis@example.org")
    keyring = pages.site.keyring
    signup = mailed(store, "signup", ANA).pk
    waiting, dropped = mailed(store, "link", ANA).pk, mailed(store, "link", ANA).pk
    Wish.objects.filter(pk=waiting).update(state="waiting", mailed_at=None)
    Wish.objects.filter(pk=dropped).update(state="dropped", mailed_at=None)
    link = mailed(store, "link", ANA).pk
    of_luis = fresh(pages, store, "luis@example.org")
    erase(store, "luis@example.org")
    token = keyring.token("manage", link)
    dead = [
        *(keyring.token(purpose, link) for purpose in ("preferences", "unsubscribe", "confirm", "address", "view")),
        *(keyring.token("manage", each) for each in (signup, waiting, dropped, 2**40)),
        token[:-1],
        token[:12],
        f"A{token[1:]}" if token[0] != "A" else f"B{token[1:]}",
        "x",
        of_luis.removeprefix("/m/"),
        keyring.token("manage", mailed(store, "link", "nobody@example.org").pk),
    ]
    answers = [answer for each in dead for answer in every(pages, f"/m/{each}")]
    assert {answer.status for answer in answers} == {404}
    assert len({plain(answer) for answer in answers}) == 1
    assert Subscriber.objects.get().pk == ana.pk
    assert luis.pk != ana.pk
    assert pages.get(f"/m/{token}").status == 200


def test_a_link_opens_its_own_person_only(store: Config, pages: Pages) -> None:
    person(store)
    person(store, "luis@example.org", name="Luis")
    path = fresh(pages, store, "luis@example.org")
    for answer in (pages.get(path), pages.get(f"{path}/data")):
        assert "luis@example.org" in answer.text
        assert ANA not in answer.text
        assert "Quispe" not in answer.text


def test_get_and_head_change_nothing(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Consent, Subscriber, Wish

    ana = person(store)
    path, to = fresh(pages, store), moving(pages, store, ana)

    def rows() -> list[Any]:
        return [[*model.objects.order_by("pk").values()] for model in (Subscriber, Wish, Consent)]

    before = rows()
    for method in ("GET", "HEAD"):
        for each in (*(path + action for action in ACTIONS), to):
            assert pages.ask(method, f"{each}?name=x&new_address=y@example.org").status == 200
    assert rows() == before


# --- name -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("  Ana   María ", "Ana María"),
        ("", ""),
        ("Ana\r\nBcc: mallory@example.org", "Ana Bcc: mallory@example.org"),
        ("A\0n\x07a", "An a"),
        ("<b>Ana</b> & {{ 7*7 }} @@NAME@@", "<b>Ana</b> & {{ 7*7 }} @@NAME@@"),
        ("x" * 200, "x" * 200),
    ],
)
def test_a_name_is_kept_as_the_store_keeps_names(store: Config, pages: Pages, typed: str, kept: str) -> None:
    ana = person(store)
    answer = pages.post(f"{fresh(pages, store)}/name", {"name": typed})
    ana.refresh_from_db()
    assert ana.name == kept
    assert answer.status == 200
    assert "The name is saved." in answer.text
    assert "<b>" not in answer.text


def test_a_name_that_is_too_long_is_said_at_the_field(store: Config, pages: Pages) -> None:
    ana = person(store)
    answer = pages.post(f"{fresh(pages, store)}/name", {"name": "x" * 201})
    ana.refresh_from_db()
    assert answer.status == 422
    assert 'id="name-error"' in answer.text
    assert ana.name == "Ana Quispe"


# --- another address: asked for ---------------------------------------------------------------------------------------


def test_another_address_is_asked_for_and_nothing_changes_yet(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Wish

    ana = person(store)
    answer = pages.post(f"{fresh(pages, store)}/address", {"new_address": f" {NEW} "}, remote_addr="203.0.113.9")
    assert "We have written to ana@new.example.org." in answer.text
    wish = Wish.objects.get(kind="address")
    assert (wish.state, wish.address, wish.subscriber_id, wish.how, wish.network) == (
        *("waiting", NEW, ana.pk),
        *("manage", "203.0.113.0/24"),
    )
    ana.refresh_from_db()
    assert ana.address == ANA


def test_the_answer_does_not_tell_whether_the_new_address_is_known(store: Config, pages: Pages) -> None:
    from newsletter.store.subscribers import suppress

    person(store)
    person(store, "luis@example.org")
    suppress(store, "eva@example.org", reason="complaint")
    path = fresh(pages, store)
    answers = {
        pages.post(f"{path}/address", {"new_address": each}).text.replace(each, "")
        for each in ("luis@example.org", "eva@example.org", "nobody@example.org")
    }
    assert len(answers) == 1


@pytest.mark.parametrize("typed", ["", "ana", "a@b@c", "ana@example.org\nBcc: x@example.org", ANA.lower(), f" {ANA} "])
def test_a_wrong_or_the_same_address_is_said_at_the_field(store: Config, pages: Pages, typed: str) -> None:
    from newsletter.store.models import Wish

    person(store)
    answer = pages.post(f"{fresh(pages, store)}/address", {"new_address": typed})
    assert answer.status == 422
    assert 'id="new_address-error"' in answer.text
    assert not Wish.objects.filter(kind="address").exists()


# --- another address: confirmed ---------------------------------------------------------------------------------------


def test_the_new_mailbox_confirms_once_and_the_old_one_is_told(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Consent, Suppression
    from newsletter.store.subscribers import find

    ana = person(store)
    old = fresh(pages, store)
    path = moving(pages, store, ana)
    shown = pages.get(path)
    assert (shown.status, shown.text.count("<button")) == (200, 1)
    answer = pages.post(path, remote_addr="203.0.113.9")
    assert (answer.status, "That is done" in answer.text) == (200, True)
    former = bytes(ana.address_key)
    ana.refresh_from_db()
    assert ana.address == NEW
    assert find(store, NEW) == ana
    event = Consent.objects.get(kind="address")
    assert f"<p>{event.text}</p>" in shown.text
    assert (event.language, event.how) == ("en", "page")
    assert event.evidence == {"former_key": former.hex(), "network": "203.0.113.0/24"}
    assert "@" not in event.text
    wish = ana.wishes.get(kind="address")
    assert (wish.state, wish.welcome_due, wish.address, bytes(wish.address_key)) == ("granted", True, ANA, former)
    assert wish.granted_at
    old_one = Suppression.objects.get()
    assert (bytes(old_one.pk), old_one.reason) == (former, "erased"), "no import adds it again"
    for again in (pages.post(path), pages.get(path)):
        assert (again.status, "That was done already" in again.text) == (200, True)
        assert ANA not in again.text
    assert Consent.objects.filter(kind="address").count() == 1
    assert pages.get(old).status == 404, "a link to the old mailbox opens nothing any more"
    assert pages.get(fresh(pages, store, NEW)).status == 200


def test_forged_foreign_and_unsent_links_move_nobody(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Subscriber, Wish

    ana = person(store)
    sent, waiting = mailed(store, "address", NEW, whose=ana).pk, mailed(store, "address", NEW, whose=ana).pk
    Wish.objects.filter(pk=waiting).update(state="waiting", mailed_at=None)
    keyring = pages.site.keyring
    dead = [
        *(keyring.token(purpose, sent) for purpose in ("preferences", "unsubscribe", "confirm", "manage", "view")),
        *(keyring.token("address", each) for each in (waiting, 2**40, mailed(store, "link", ANA).pk)),
        keyring.token("address", sent)[:-1],
        "x",
    ]
    answers = [ask(f"/a/{each}") for each in dead for ask in (pages.get, pages.post)]
    assert {answer.status for answer in answers} == {404}
    assert len({plain(answer) for answer in answers}) == 1
    assert Subscriber.objects.get().address == ANA


def test_what_waits_follows_and_what_is_done_stays(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Delivery, Mailing, Round

    ana = person(store)
    now = time.time()
    for number, (state, key) in enumerate(
        [("pending", None), ("accepted", None), ("sending", None), ("pending", "x:1")]
    ):
        mailing = Mailing.objects.create(
            kind="issue" if key is None else "oneoff",
            round=Round.objects.create(issue=f"2017-11-1{number}", number=1),
            state="sending",
            provider="outbox",
            created_at=ana.created_at,
            watched_at=ana.created_at,
        )
        Delivery.objects.create(
            mailing=mailing,
            subscriber=ana,
            key=key,
            address=ANA,
            address_key=ana.address_key,
            language="en",
            state=state,
            at=now,
        )
    pages.post(moving(pages, store, ana))
    ana.refresh_from_db()
    rows = Delivery.objects.order_by("pk")
    assert [row.address for row in rows] == [NEW, ANA, ANA, ANA]
    assert bytes(rows[0].address_key or b"") == bytes(ana.address_key)


def test_an_old_file_does_not_add_the_old_address_and_the_way_back_is_open(store: Config, pages: Pages) -> None:
    from newsletter.errors import NoConsent
    from newsletter.store.models import Subscriber, Suppression
    from newsletter.store.subscribers import add, address_key

    ana = person(store)
    pages.post(moving(pages, store, ana))
    with pytest.raises(NoConsent, match="moved to another address"):
        add(store, ANA, list="weekly", consent="from an old file")
    assert pages.post(moving(pages, store, ana, ANA)).status == 200
    assert Subscriber.objects.get().address == ANA
    assert [bytes(row.pk) for row in Suppression.objects.all()] == [address_key(store, NEW)]


def test_it_is_good_for_a_day(store: Config, pages: Pages) -> None:
    ana = person(store)
    path = moving(pages, store, ana, ago=86_401)
    for answer in (pages.get(path), pages.post(path)):
        assert answer.status == 410
        assert 'href="/me/?lang=en"' in answer.text
        assert NEW not in answer.text
    ana.refresh_from_db()
    assert ana.address == ANA
    assert pages.get(moving(pages, store, ana, ago=86_000)).status == 200


def test_an_address_that_is_somebody_s_already_is_refused(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Consent, Wish

    ana, luis = person(store), person(store, NEW)
    path = moving(pages, store, ana)
    answer = pages.post(path)
    assert (answer.status, "a subscription of its own" in answer.text) == (409, True)
    ana.refresh_from_db()
    luis.refresh_from_db()
    assert (ana.address, luis.address) == (ANA, NEW)
    assert not Consent.objects.filter(kind="address").exists()
    assert Wish.objects.get(kind="address").state == "mailed"


@pytest.mark.parametrize("reason", ["complaint", "manual"])
@pytest.mark.parametrize("whose", ["old", "new"])
def test_a_complaint_and_an_admin_s_word_are_not_escaped_by_moving(
    store: Config, pages: Pages, reason: Any, whose: str
) -> None:
    from newsletter.store.models import Suppression
    from newsletter.store.subscribers import suppress

    ana = person(store)
    suppress(store, ANA if whose == "old" else NEW, reason=reason)
    answer = pages.post(moving(pages, store, ana))
    assert (answer.status, "news@example.org" in answer.text) == (409, True)
    ana.refresh_from_db()
    assert ana.address == ANA
    assert Suppression.objects.get().reason == reason


@pytest.mark.parametrize("reason", ["bounce", "erased"])
def test_the_person_s_own_confirmation_lifts_a_bounce_and_an_erasure(store: Config, pages: Pages, reason: Any) -> None:
    from newsletter.store.models import Suppression
    from newsletter.store.subscribers import address_key, suppress

    ana = person(store)
    suppress(store, NEW, reason=reason)
    suppress(store, ANA, reason="bounce")
    assert pages.post(moving(pages, store, ana)).status == 200
    assert [bytes(row.pk) for row in Suppression.objects.all()] == [address_key(store, ANA)], "the old one's stays"


def test_who_was_erased_meanwhile_moves_nowhere(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Subscriber
    from newsletter.store.subscribers import erase

    ana = person(store)
    path = moving(pages, store, ana)
    erase(store, ANA)
    dead = {plain(pages.get(path)), plain(pages.post(path)), plain(pages.get("/a/nothing"))}
    assert len(dead) == 1
    assert pages.post(path).status == 404
    assert Subscriber.objects.count() == 0


def at_once(*acts: Any) -> list[Any]:
    """What came of acts that began in the same moment, each in a thread and so on a connection of its own."""
    from django.db import connection

    results: list[Any] = [None] * len(acts)
    ready = threading.Barrier(len(acts))

    def run(number: int) -> None:
        ready.wait()
        try:
            results[number] = acts[number]()
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_two_at_once_one_moves_the_person(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Consent

    ana = person(store)
    path = moving(pages, store, ana)
    answers = at_once(*[lambda: pages.post(path)] * 4)
    assert sorted(("already" in answer.text, answer.status) for answer in answers) == [
        (False, 200),
        (True, 200),
        (True, 200),
        (True, 200),
    ]
    assert Consent.objects.filter(kind="address").count() == 1


def test_of_two_people_who_want_one_address_one_gets_it(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Subscriber

    ana, luis = person(store), person(store, "luis@example.org")
    paths = [moving(pages, store, ana), moving(pages, store, luis)]
    answers = at_once(*[lambda path=path: pages.post(path) for path in paths])
    assert sorted(answer.status for answer in answers) == [200, 409]
    assert Subscriber.objects.filter(address=NEW).count() == 1


@pytest.mark.parametrize("attempt", range(4))
def test_an_erasure_at_the_same_moment_comes_first_or_last(store: Config, pages: Pages, attempt: int) -> None:
    from newsletter.errors import NotFound
    from newsletter.store.models import Subscriber, Wish
    from newsletter.store.subscribers import erase

    ana = person(store)
    path = moving(pages, store, ana)

    def erased() -> bool:
        try:
            return erase(store, ANA).known
        except NotFound:
            return False

    answer, known = at_once(lambda: pages.post(path), erased)
    if known:
        assert not Subscriber.objects.exists()
        assert not Wish.objects.exists()
        assert answer.status == 404
    else:
        assert Subscriber.objects.get().address == NEW
        assert answer.status == 200


# --- preferences, data ------------------------------------------------------------------------------------------------


def test_the_preferences_open_without_a_mail_at_hand(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Subscription

    ana = person(store)
    path = f"{fresh(pages, store)}/preferences"
    shown = pages.get(path)
    assert f'action="{path}?lang=en"' in shown.text
    assert f'href="{path.removesuffix("/preferences")}?lang=en"' in shown.text
    assert pages.post(path, {"seen": "weekly", "pause": "none"}).status == 200
    assert Subscription.objects.get(subscriber=ana).state == "unsubscribed"


def test_my_data_is_a_file_with_everything_in_it(store: Config, pages: Pages) -> None:
    person(store, tags=["board"], attributes={"city": "Lima"})
    answer = pages.get(f"{fresh(pages, store)}/data")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="my-data.json"'
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-robots-tag"] == "noindex"
    kept = json.loads(answer.body)
    assert kept["newsletter"] == "Valley News"
    assert kept["subscriber"]["attributes"] == {"city": "Lima"}
    assert kept["subscriptions"][0]["consent"]["text"] == "signed the sheet"
    assert [each["kind"] for each in kept["wishes"]] == ["link"]


# --- whatever is sent -------------------------------------------------------------------------------------------------

texts = st.text(max_size=60) | st.sampled_from([ANA, NEW, "\0", "x" * 300, "a@b", "@", "\r\n", "ana@例え.jp"])
names = st.sampled_from(["name", "new_address", "lang", "list", "pause", "day"])
forms = st.dictionaries(names | st.text(max_size=10), texts | st.lists(texts, max_size=3), max_size=8)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=forms, raw=st.binary(max_size=200), kind=st.sampled_from(["form", "raw", "multipart"]))
def test_whatever_is_sent_is_answered_without_an_error_or_a_cookie(
    store: Config, pages: Pages, form: dict[str, Any], raw: bytes, kind: str
) -> None:
    from newsletter.store.models import Subscriber

    ana = Subscriber.objects.first() or person(store)
    path = fresh(pages, store, ana.address)
    to, old = moving(pages, store, ana), fresh(pages, store, ana.address, ago=1801)
    for each in (f"{path}/name", f"{path}/address", f"{path}/preferences", to, f"{old}/erase", f"{path}/data"):
        if kind == "form":
            answer = pages.post(each, form)
        elif kind == "raw":
            answer = pages.ask("POST", each, raw, "application/x-www-form-urlencoded")
        else:
            answer = pages.ask("POST", each, raw, "multipart/form-data; boundary=x")
        assert answer.status < 500
        assert "set-cookie" not in answer.headers
