"""Leaving by the link of a mail, taking it back, and saying why: what is written, on both databases, whoever else
writes at the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audience import add_people, address, edition, editions
from newsletter.config import Config
from newsletter.links import Keyring
from rows import all_rows, changed

if TYPE_CHECKING:
    from newsletter.store.leaving import Link

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
ISSUE = "2017-11-19"


def keys(config: Config) -> Keyring:
    from newsletter.store.keys import keyring

    return keyring(config)


def sent_to(config: Config, people: int = 3, *, list: str = "weekly", issue: str = ISSUE) -> list[int]:
    """Everybody's delivery of an issue on a list, in the order of the people."""
    from newsletter.store import mailings, models

    if not models.Subscriber.objects.exists():
        add_people(config, range(1, people + 1), list=list)
    list_id = models.List.objects.get_or_create(name=list)[0].pk
    opened = mailings.open_mailing(editions(), issue=issue, list=list_id, default_language="en", provider="memory")
    while mailings.write_down(opened.mailing):
        pass
    rows = models.Delivery.objects.filter(mailing=opened.mailing).order_by("subscriber_id")
    return [*rows.values_list("pk", flat=True)]


def also_on(list: str, person: int, state: str = "subscribed") -> None:
    from newsletter.store import models

    row = models.List.objects.get_or_create(name=list)[0]
    models.Subscription.objects.create(list=row, subscriber_id=person, state=state, joined_at=NOW, changed_at=NOW)


def link(config: Config, delivery: int) -> Link:
    """The link as the mail shows it, and as it stands in the database at this moment."""
    from newsletter.store import leaving

    ring = keys(config)
    found = leaving.find(ring, ring.token("unsubscribe", delivery))
    assert found is not None
    return found


def states(person: int = 1) -> dict[str, str]:
    from newsletter.store.models import Subscription

    return dict(Subscription.objects.filter(subscriber_id=person).values_list("list__name", "state"))


def events(person: int = 1) -> list[tuple[str, str | None, str, dict[str, object]]]:
    from newsletter.store.models import Consent

    rows = Consent.objects.filter(subscriber_id=person).order_by("pk")
    return [(each.kind, each.list.name if each.list else None, each.how, each.evidence) for each in rows]


def posted(config: Config, key: str, *, kind: str = "known", subscriber: int | None = 1) -> int:
    """The delivery of one mail."""
    from newsletter.store import mailings
    from newsletter.store.subscribers import address_key

    id = mailings.post(
        edition(key=kind, kind="oneoff"),
        key=key,
        address=address(1),
        address_key=address_key(config, address(1)),
        slots={},
        provider="memory",
        subscriber=subscriber,
    )
    assert id is not None
    return id


def at_once(*works: Callable[[], object]) -> list[BaseException]:
    """Runs all of them in threads of their own, begun at the same moment: what went wrong in any of them."""
    from django.db import connections

    barrier, errors = threading.Barrier(len(works)), list[BaseException]()

    def run(work: Callable[[], object]) -> None:
        try:
            barrier.wait(30)
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


# --- what a link is about ---------------------------------------------------------------------------------------------


def test_a_link_of_an_issue_is_about_its_list(store: Config) -> None:
    from newsletter.store import leaving

    first, *_ = sent_to(store)
    also_on("alerts", 1)
    place = leaving.place(link(store, first))
    assert place is not None
    assert (place.list, place.on, place.others, place.gone) == ("weekly", ("weekly", "alerts"), ("alerts",), False)
    assert (place.language, place.left, place.undo, place.ask) == ("es", (), False, False)
    assert link(store, first).issue == ISSUE


def test_a_link_of_a_welcome_is_about_the_list_that_it_welcomes_to(store: Config) -> None:
    from newsletter.store import leaving, models

    add_people(store, (1, 2))
    also_on("alerts", 1)
    row = models.Subscription.objects.get(subscriber_id=1, list__name="alerts")
    welcome = link(store, posted(store, f"welcome:{row.pk}", kind="welcome"))
    assert leaving.leave(welcome, how="one-click") == (row.list_id,)
    assert states() == {"weekly": "subscribed", "alerts": "unsubscribed"}


def test_a_link_of_any_other_mail_is_about_all_lists(store: Config) -> None:
    from newsletter.store import leaving, models

    add_people(store, (1, 2))
    also_on("alerts", 1)
    foreign = models.Subscription.objects.get(subscriber_id=2).pk
    deliveries = [posted(store, key) for key in ("known:7", "welcome:x", "welcome:99999999", f"welcome:{foreign}")]
    for each in deliveries:
        place = leaving.place(link(store, each))
        assert place is not None
        assert (place.list, place.on, place.others) == ("", ("weekly", "alerts"), ())
    leaving.leave(link(store, deliveries[0]), how="one-click")
    assert set(states().values()) == {"unsubscribed"}
    assert states(2) == {"weekly": "subscribed"}


@pytest.mark.parametrize("what", ["test", "erased", "nobody"])
def test_there_may_be_nothing_to_leave(store: Config, what: str) -> None:
    """A test; a person who was erased since; a mail to an address that was no subscriber's."""
    from newsletter.store import leaving, subscribers

    add_people(store, (1, 2))
    if what == "test":
        delivery = posted(store, f"test:{ISSUE}:0f", kind="test")
    elif what == "erased":
        delivery, _ = sent_to(store)
        subscribers.erase(store, address(1))
    else:
        delivery = posted(store, "confirm:7", subscriber=None)
    before = all_rows()
    found = link(store, delivery)
    assert found.test == (what == "test")
    assert leaving.place(found) is None
    assert leaving.leave(found, how="one-click", everything=True) == ()
    assert not leaving.undo(found)
    assert not leaving.reason(found, "other", "words")
    assert changed(before, all_rows()) == {}


def test_what_is_no_link_of_ours_finds_nothing(store: Config) -> None:
    from newsletter.store import leaving

    first, *_ = sent_to(store)
    ring = keys(store)
    token = ring.token("unsubscribe", first)
    other = Keyring(current="zz", keys={"zz": b"z" * 40})
    for wrong in (
        "",
        token[:-1],
        f"{token}x",
        token.swapcase(),
        ring.token("preferences", first),
        ring.token("unsubscribe", first + 1000),
        other.token("unsubscribe", first),
    ):
        assert leaving.find(ring, wrong) is None


def test_a_link_works_after_its_address_was_forgotten_and_the_key_changed(store: Config) -> None:
    from newsletter.store import leaving, mailings, models

    first, *_ = sent_to(store)
    old = keys(store)
    token = old.token("unsubscribe", first)
    models.Delivery.objects.update(state="accepted", at=1.0)
    assert mailings.forget_addresses(before=time.time()) == 3
    assert models.Delivery.objects.get(pk=first).address == ""
    rotated = Keyring(current="ab12", keys={"ab12": b"n" * 40, **old.keys})
    found = leaving.find(rotated, token)
    assert found is not None
    assert leaving.leave(found, how="one-click")
    assert states() == {"weekly": "unsubscribed"}
    assert leaving.undo(link(store, first))


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_leaving_takes_one_list_and_keeps_an_event(store: Config) -> None:
    from newsletter.store import leaving
    from newsletter.store.models import Consent, Subscription

    first, *_ = sent_to(store)
    also_on("alerts", 1)
    before = all_rows()
    leaving.leave(link(store, first), how="page", language="es", now=NOW)
    assert states() == {"weekly": "unsubscribed", "alerts": "subscribed"}
    assert events() == [("unsubscribe", "weekly", "page", {"delivery": first, "issue": ISSUE})]
    event = Consent.objects.get(subscriber_id=1)
    assert (event.at, event.language, event.text) == (NOW, "es", "")
    row = Subscription.objects.get(subscriber_id=1, list__name="weekly")
    assert row.changed_at == NOW
    assert row.joined_at < NOW
    assert set(changed(before, all_rows())) == {"consent", "subscription"}
    assert states(2) == {"weekly": "subscribed"}


@pytest.mark.parametrize("everything", [False, True])
def test_the_second_time_nothing_is_written(store: Config, *, everything: bool) -> None:
    from newsletter.store import leaving

    first, *_ = sent_to(store)
    stale = link(store, first)  # as another thread may hold it, which found the link before
    assert leaving.leave(stale, how="one-click", everything=everything)
    before = all_rows()
    for again in (stale, link(store, first)):
        assert leaving.leave(again, how="one-click", everything=everything) == ()
    assert changed(before, all_rows()) == {}


def test_leaving_everything_takes_what_waits_for_confirmation_too(store: Config) -> None:
    from newsletter.store import leaving

    first, *_ = sent_to(store)
    also_on("alerts", 1, "unconfirmed")
    also_on("sports", 1, "unsubscribed")
    assert len(leaving.leave(link(store, first), how="page", everything=True)) == 2
    assert set(states().values()) == {"unsubscribed"}
    about = {"delivery": first, "issue": ISSUE}
    assert events() == [
        ("unsubscribe", "weekly", "page", about),
        ("unsubscribe", "alerts", "page", {**about, "was": "unconfirmed"}),
    ]
    assert leaving.undo(link(store, first))
    assert states() == {"weekly": "subscribed", "alerts": "unconfirmed", "sports": "unsubscribed"}


def test_an_unconfirmed_subscription_is_left_as_well(store: Config) -> None:
    from newsletter.store import leaving, models

    first, *_ = sent_to(store)
    models.Subscription.objects.update(state="unconfirmed")
    assert leaving.leave(link(store, first), how="one-click")
    assert events() == [
        ("unsubscribe", "weekly", "one-click", {"delivery": first, "issue": ISSUE, "was": "unconfirmed"})
    ]


def test_what_waits_in_the_ledger_is_skipped_by_its_intent(store: Config) -> None:
    from newsletter.store import leaving, ledger, models

    first, *_ = sent_to(store)
    leaving.leave(link(store, first), how="one-click")
    reached = []
    while claim := ledger.claim(owner="test", lease=60, now=time.time()):
        chunk = ledger.turn(claim, (), start=claim.first, limit=10, lease=60, now=time.time())
        reached += [due.address for due in chunk.due]
    assert sorted(reached) == [address(2), address(3)]
    row = models.Delivery.objects.get(pk=first)
    assert (row.state, row.detail) == ("skipped", "unsubscribed")


def test_leaving_takes_three_statements_and_the_second_time_one(store: Config) -> None:
    """On PostgreSQL one less, and none that Django would see: it plans them once for each connection."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from newsletter.store import leaving

    first, *_ = sent_to(store)
    for most in (3, 1):
        with CaptureQueriesContext(connection) as queries:
            leaving.leave(link(store, first), how="one-click")
        said = [each["sql"] for each in queries if each["sql"].split()[0] not in ("BEGIN", "COMMIT", "SAVEPOINT")]
        assert len(said) == (most if connection.vendor == "sqlite" else 0), said


# --- at the same moment -----------------------------------------------------------------------------------------------


def test_of_many_at_once_one_leaves(store: Config) -> None:
    from newsletter.store import leaving

    first, *_ = sent_to(store)
    also_on("alerts", 1)
    found = link(store, first)
    works = [lambda: leaving.leave(found, how="one-click")] * 5
    works += [lambda: leaving.leave(found, how="page", everything=True)] * 3
    assert at_once(*works) == []
    assert set(states().values()) == {"unsubscribed"}
    assert sorted(event[1] or "" for event in events()) == ["alerts", "weekly"]


def test_of_many_undos_at_once_one_counts(store: Config) -> None:
    from newsletter.store import leaving

    first, *_ = sent_to(store)
    leaving.leave(link(store, first), how="one-click")
    found = link(store, first)
    assert at_once(*[lambda: leaving.undo(found)] * 5) == []
    assert states() == {"weekly": "subscribed"}
    assert [event[0] for event in events()] == ["unsubscribe", "undo"]


def test_an_import_meanwhile_brings_nobody_back(store: Config) -> None:
    from newsletter.store import leaving, models
    from newsletter.store.columns import Choices
    from newsletter.store.importing import import_file

    people = range(1, 61)
    deliveries = sent_to(store, 60)
    models.Subscription.objects.filter(subscriber_id__gt=30).update(state="unconfirmed")
    path = store.root / "people.csv"
    path.write_text("email,name\n" + "".join(f"{address(n)},Other {n}\n" for n in range(1, 81)), "utf-8")
    links = [link(store, each) for each in deliveries]

    def leave(part: Sequence[Link]) -> None:
        for each in part:
            leaving.leave(each, how="one-click")

    def bring() -> None:
        import_file(store, path, consent="Signed the paper list.", choices=Choices())

    assert at_once(bring, lambda: leave(links[::2]), lambda: leave(links[1::2])) == []
    for person in people:
        last = [kind for kind, *_ in events(person)]
        # Who was unconfirmed and came back by the import before they left has left all the same.
        assert states(person) == {"weekly": "unsubscribed"}, last
        assert last == ["unsubscribe"]


def test_an_erasure_meanwhile_leaves_nothing_behind(store: Config) -> None:
    from newsletter.store import leaving, models, subscribers

    deliveries = sent_to(store, 12)
    links = [link(store, each) for each in deliveries]

    def erase() -> None:
        for n in range(1, 13):
            subscribers.erase(store, address(n))

    def leave() -> None:
        for n, each in enumerate(links):
            leaving.leave(each, how="page", everything=bool(n % 2))

    def back() -> None:
        for each in links:
            leaving.undo(each)
            leaving.reason(each, "other", "words")

    assert at_once(erase, leave, back) == []
    assert not models.Subscriber.objects.exists()
    assert not models.Subscription.objects.exists()
    assert not models.Consent.objects.exists()


@pytest.mark.parametrize("everything", [False, True])
def test_leaving_waits_for_an_erasure_without_holding_what_it_needs(store: Config, *, everything: bool) -> None:
    """Whoever held the subscription and then asked for the person would be in a deadlock with an erasure."""
    from django.db import connection, transaction

    from newsletter.store import leaving, models

    if connection.vendor != "postgresql":
        pytest.skip("SQLite: who writes is alone")
    first, *_ = sent_to(store)
    found = link(store, first)
    errors: list[BaseException] = []

    def leave() -> None:
        errors.extend(at_once(lambda: leaving.leave(found, how="page", everything=everything)))

    thread = threading.Thread(target=leave)
    with transaction.atomic(), connection.cursor() as cursor:
        models.Subscriber.objects.select_for_update().get(pk=1)
        thread.start()
        for _ in range(3000):
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                break
            time.sleep(0.01)
        else:
            pytest.fail("nobody waits")
        cursor.execute("SELECT id FROM subscription WHERE subscriber_id = 1 FOR UPDATE NOWAIT")
        models.Subscription.objects.filter(subscriber_id=1).delete()
        models.Subscriber.objects.filter(pk=1).delete()
    thread.join(30)
    assert errors == []
    assert not thread.is_alive()
    assert events() == []


# --- a mistake --------------------------------------------------------------------------------------------------------


def test_undo_brings_back_what_this_link_took(store: Config) -> None:
    from newsletter.store import leaving
    from newsletter.store.models import Consent, Subscription

    first, *_ = sent_to(store)
    also_on("alerts", 1)
    joined = Subscription.objects.get(subscriber_id=1, list__name="weekly").joined_at
    leaving.leave(link(store, first), how="one-click", now=NOW)
    place = leaving.place(link(store, first), now=NOW)
    assert place is not None
    assert (place.left, place.undo, place.gone) == (("weekly",), True, True)
    later = NOW + timedelta(hours=24)
    assert leaving.undo(link(store, first), language="en", now=later)
    row = Subscription.objects.get(subscriber_id=1, list__name="weekly")
    assert (row.state, row.joined_at, row.changed_at) == ("subscribed", joined, later)
    assert events()[-1] == ("undo", "weekly", "page", {"delivery": first, "issue": ISSUE})
    assert Consent.objects.order_by("pk").last().language == "en"  # type: ignore[union-attr]
    before = all_rows()
    assert not leaving.undo(link(store, first), now=later)
    assert changed(before, all_rows()) == {}


def test_undo_ends_after_a_day(store: Config) -> None:
    from newsletter.store import leaving

    first, *_ = sent_to(store)
    leaving.leave(link(store, first), how="one-click", now=NOW)
    late = NOW + timedelta(hours=24, seconds=1)
    place = leaving.place(link(store, first), now=late)
    assert place is not None
    assert (place.undo, place.left) == (False, ("weekly",))
    assert not leaving.undo(link(store, first), now=late)
    assert states() == {"weekly": "unsubscribed"}


def test_undo_leaves_alone_what_was_left_otherwise(store: Config) -> None:
    """By another mail's link, by the admin, or again after somebody came back."""
    from newsletter.store import leaving, subscribers
    from newsletter.store.models import Subscriber

    first, second, third = sent_to(store)
    other = sent_to(store, issue="2017-11-26")
    leaving.leave(link(store, other[0]), how="one-click")
    subscribers.unsubscribe(Subscriber.objects.get(pk=2), how="command line")
    leaving.leave(link(store, third), how="one-click")
    subscribers.add(store, address(3), list="weekly", consent="asked by telephone", resubscribe=True)
    subscribers.unsubscribe(Subscriber.objects.get(pk=3), how="command line")
    before = all_rows()
    for each in (first, second, third):
        place = leaving.place(link(store, each))
        assert place is not None
        assert (place.left, place.undo, place.ask) == ((), False, False)
        assert not leaving.undo(link(store, each))
        assert not leaving.reason(link(store, each), "other")
    assert changed(before, all_rows()) == {}


def test_undo_of_everything_spares_what_has_come_back_since(store: Config) -> None:
    from newsletter.store import leaving, subscribers

    first, *_ = sent_to(store)
    also_on("alerts", 1)
    leaving.leave(link(store, first), how="page", everything=True)
    subscribers.add(store, address(1), list="alerts", consent="asked by telephone", resubscribe=True)
    assert leaving.undo(link(store, first))
    assert states() == {"weekly": "subscribed", "alerts": "subscribed"}
    assert [event[:2] for event in events()][2:] == [("add", "alerts"), ("undo", "weekly")]


@pytest.mark.parametrize("reason", ["complaint", "manual", "bounce"])
def test_undo_lifts_no_suppression(store: Config, reason: Any) -> None:
    from newsletter.store import leaving, subscribers

    first, *_ = sent_to(store)
    leaving.leave(link(store, first), how="one-click")
    subscribers.suppress(store, address(1), reason=reason)
    before = all_rows()
    place = leaving.place(link(store, first))
    assert place is not None
    assert not place.undo
    assert not leaving.undo(link(store, first))
    assert changed(before, all_rows()) == {}


def test_two_buttons_cannot_fill_the_disk(store: Config) -> None:
    from newsletter.store import leaving
    from newsletter.store.models import Consent

    first, *_ = sent_to(store)
    for _ in range(20):
        leaving.leave(link(store, first), how="page")
        leaving.undo(link(store, first))
    assert states() == {"weekly": "unsubscribed"}
    assert Consent.objects.count() == 11
    second = sent_to(store, issue="2017-11-26")
    assert len(second) == 2  # nobody is locked out: the next sign-up counts as any does


# --- a reason ---------------------------------------------------------------------------------------------------------


def test_a_reason_is_kept_once_and_only_after_leaving(store: Config) -> None:
    from newsletter.store import leaving

    first, *_ = sent_to(store)
    assert not leaving.reason(link(store, first), "too_many")
    leaving.leave(link(store, first), how="page")
    assert not leaving.reason(link(store, first), "because")
    place = leaving.place(link(store, first))
    assert place is not None
    assert place.ask
    assert leaving.reason(link(store, first), "never_signed_up", "  I\tnever\0 did\n", language="en")
    kept = {"delivery": first, "reason": "never_signed_up", "words": "I never did"}
    assert events()[-1] == ("reason", "weekly", "page", kept)
    before = all_rows()
    assert not leaving.reason(link(store, first), "too_many", "again")
    place = leaving.place(link(store, first))
    assert place is not None
    assert not place.ask
    assert place.undo  # a reason is no obstacle
    assert changed(before, all_rows()) == {}
    assert leaving.undo(link(store, first))


def test_of_many_reasons_at_once_one_is_kept(store: Config) -> None:
    from newsletter.store import leaving

    first, *_ = sent_to(store)
    leaving.leave(link(store, first), how="page")
    found = link(store, first)
    assert at_once(*[lambda: leaving.reason(found, "other", "words")] * 5) == []
    assert [event[0] for event in events()] == ["unsubscribe", "reason"]


def test_a_reason_for_leaving_everything_is_about_no_list(store: Config) -> None:
    from newsletter.store import leaving

    first, *_ = sent_to(store)
    also_on("alerts", 1)
    leaving.leave(link(store, first), how="page", everything=True)
    assert leaving.reason(link(store, first), "no_interest")
    assert events()[-1][:2] == ("reason", None)


@given(words=st.text(st.characters(exclude_categories=()), max_size=2000))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_can_be_kept(store: Config, words: str) -> None:
    """Control characters, lone surrogates, NUL, and more of them than there is room for."""
    from django.db import transaction

    from newsletter.store import leaving, models

    if not models.Subscriber.objects.exists():
        sent_to(store)
    first = models.Delivery.objects.get(subscriber_id=1).pk
    with transaction.atomic():
        leaving.leave(link(store, first), how="page")
        assert leaving.reason(link(store, first), "other", words)
        kept = str(events()[-1][3]["words"])
        transaction.set_rollback(True)
    assert len(kept) <= 500
    assert kept.isprintable() or not kept.isascii()
    assert "\0" not in kept
    kept.encode()


def test_a_reason_goes_with_the_person(store: Config) -> None:
    from newsletter.store import leaving, subscribers

    first, *_ = sent_to(store)
    leaving.leave(link(store, first), how="page")
    assert leaving.reason(link(store, first), "other", f"write to {address(1)}")
    subscribers.erase(store, address(1))
    assert address(1) not in repr(all_rows())
