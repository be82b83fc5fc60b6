"""Wishes answered: who gets which mail, how many, and what becomes of the wish; each on both databases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from newsletter.config import Config
from newsletter.errors import InputError
from newsletter.rendering.render import sample_root

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0
ANA, BEA = "ana@example.org", "bea@example.org"

OPEN = """\
  - id: open
    name: {en: Open news, es: Noticias abiertas}
    double_opt_in: false
  - id: staff
    name: Staff
    private: true
"""


@pytest.fixture
def lists(store: Config) -> Config:
    """The workspace with a list that does without a double opt-in, `open`, and a private one, `staff`."""
    with store.lists.open("a") as file:
        file.write(OPEN)
    return store


def ask(config: Config, address: str = ANA, *lists: str, now: float = NOON, **more: Any) -> int:
    from newsletter.store import wishes

    given: dict[str, Any] = {"kind": "signup", "language": "en", "how": "page", "network": "192.0.2.0/24"}
    asked = wishes.ask(config, address=address, lists=lists or ("weekly",), now=now, **{**given, **more})
    assert asked.wish
    return asked.wish


def answered(config: Config, now: float = NOON) -> None:
    from newsletter.store import answering

    for act in (answering.answer, answering.greet):
        while act(config, now=now).wishes:
            pass


def wish(id: int) -> Any:
    from newsletter.store.models import Wish

    return Wish.objects.get(pk=id)


def outcome(config: Config, *arguments: Any, now: float = NOON, **more: Any) -> str:
    """Asks, answers, and says which mail came of it, or why none."""
    id = ask(config, *arguments, now=now, **more)
    answered(config, now)
    row = wish(id)
    if row.state != "mailed":
        assert row.mailed_at is None
        return f"{row.state}: {row.reason}" if row.reason else str(row.state)
    assert row.mailed_at == now
    (delivery,) = [each for each in deliveries() if each.key.endswith(f":{id}") and each.key.partition(":")[0] in KINDS]
    assert delivery.mailing.name == delivery.key.partition(":")[0]
    return str(delivery.mailing.name)


KINDS = ("confirm", "known", "link", "address")


def deliveries() -> list[Any]:
    from newsletter.store.models import Delivery

    return [*Delivery.objects.select_related("mailing").order_by("pk")]


def posted() -> list[tuple[str, str]]:
    return [(each.mailing.name, each.address) for each in deliveries()]


def person(config: Config, address: str = ANA, *lists: str, consent: str = "Yes.", **more: Any) -> Any:
    from newsletter.store import subscribers

    added = [subscribers.add(config, address, list=each, consent=consent, **more) for each in lists or ("weekly",)]
    return added[-1].subscriber


def suppress(config: Config, reason: Any, address: str = ANA) -> None:
    from newsletter.store import subscribers

    subscribers.suppress(config, address, reason=reason)


def confirmed(config: Config, id: int, now: float = NOON + 60) -> str:
    from newsletter.store import wishes

    granted = wishes.grant(
        config, wish(id), text="Yes.", text_version="1", language="en", network="192.0.2.0/24", now=now
    )
    return granted.outcome


def states(address: str = ANA) -> dict[str, str]:
    from newsletter.store.models import Subscription

    rows = Subscription.objects.filter(subscriber__address=address)
    return dict(rows.values_list("list__name", "state"))


def slots(kind: str) -> dict[str, str]:
    import json

    (row,) = [each for each in deliveries() if each.mailing.name == kind]
    given: dict[str, str] = json.loads(row.slots)
    return given


# --- who gets which mail ----------------------------------------------------------------------------------------------


def test_a_stranger_is_asked_to_confirm_by_a_link_of_this_wish_and_is_no_subscriber_yet(store: Config) -> None:
    from newsletter.store import keys, wishes
    from newsletter.store.models import Subscriber

    id = ask(store, ANA, language="es", name="Buy now http://spam.example")
    answered(store)
    (row,) = deliveries()
    assert (row.key, row.address, row.language, row.subscriber_id) == (f"confirm:{id}", ANA, "es", None)
    given = slots("confirm")
    assert set(given) == {"CONFIRM_URL"}  # and no name: whoever typed it may be somebody else
    assert given["CONFIRM_URL"].startswith("https://news.example.org/c/")
    found = wishes.read(keys.keyring(store), given["CONFIRM_URL"].rpartition("/")[2], "confirm")
    assert found == wish(id)
    assert (wish(id).state, wish(id).mailed_at, wish(id).address) == ("mailed", NOON, ANA)
    assert not Subscriber.objects.exists()


@pytest.mark.parametrize("before", ["unsubscribed", "unconfirmed", "bounce", "erased", "subscribed, bounce"])
def test_who_left_or_bounced_or_was_erased_is_asked_to_confirm(store: Config, before: str) -> None:
    from newsletter.store import subscribers

    row: Any = None if before == "erased" else person(store, consent="" if before == "unconfirmed" else "Yes.")
    if before == "unsubscribed":
        subscribers.unsubscribe(row, how="page")
    for reason in ("bounce", "erased"):
        if reason in before:
            suppress(store, reason)
    assert outcome(store) == "confirm"


@pytest.mark.parametrize("kind", ["signup", "address"])
@pytest.mark.parametrize("reason", ["complaint", "manual"])
def test_who_complained_or_was_suppressed_by_hand_gets_nothing(store: Config, reason: str, kind: str) -> None:
    suppress(store, reason)
    subscriber = person(store, BEA).pk if kind == "address" else None
    assert outcome(store, ANA, kind=kind, subscriber=subscriber) == f"dropped: suppressed: {reason}"
    assert not deliveries()


def test_who_is_on_all_the_lists_is_told_so_and_finds_their_preferences(store: Config) -> None:
    row = person(store, "Ana@Example.org", "weekly", "alerts")
    id = ask(store, ANA, "alerts")
    answered(store)
    (mail,) = deliveries()
    assert (mail.mailing.name, mail.address, mail.subscriber_id) == ("known", "Ana@Example.org", row.pk)
    assert slots("known") == {}  # dispatch makes the link, of the delivery's id
    assert wish(id).subscriber_id == row.pk


def test_who_is_on_some_of_the_lists_confirms_the_others(store: Config) -> None:
    person(store, ANA, "weekly")
    id = ask(store, ANA, "weekly", "alerts")
    answered(store)
    assert posted() == [("confirm", ANA)]
    assert wish(id).lists == ["alerts"]
    assert confirmed(store, id) == "granted"
    assert states() == {"weekly": "subscribed", "alerts": "subscribed"}


def test_lists_that_are_gone_or_private_are_left_out(lists: Config) -> None:
    id = ask(lists, ANA, "staff", "gone", "weekly")
    answered(lists)
    assert wish(id).lists == ["weekly"]
    assert outcome(lists, BEA, "staff", "gone") == "dropped: none of its lists is offered any more"


def test_the_confirmation_names_the_lists_where_there_is_a_choice(lists: Config) -> None:
    from newsletter.store import editions, mailings

    def text(id: int) -> str:
        from newsletter.store.models import Batch, Delivery

        row = Delivery.objects.get(key=f"confirm:{id}")
        batch = Batch.objects.get(first__lte=row.pk, last__gte=row.pk)
        return " ".join(editions.thawed(mailings.edition_of(batch.edition_id)).text.split())

    one, both = ask(lists, ANA, "weekly"), ask(lists, BEA, "weekly", "alerts", language="es")
    answered(lists)
    assert "You would receive: Weekly summary. " in text(one)
    assert "Recibiría: Resumen semanal, Alertas. " in text(both)
    lists.lists.write_text("lists:\n  - {id: weekly, name: Weekly}\n", "utf-8")
    forget_desk()
    only = ask(lists, "cleo@example.org", "weekly")
    answered(lists)
    assert "You would receive" not in text(only)


def forget_desk() -> None:
    """As if some seconds had passed: files of the workspace are looked at again."""
    from newsletter.store import desk

    desk._desks._looked_at = float("-inf")


def test_a_language_that_the_workspace_lacks_is_answered_in_the_nearest_one(store: Config) -> None:
    ids = [ask(store, f"{each}@example.org", language=each) for each in ("es-PE", "de", "en")]
    answered(store)
    found = {each.key: each.language for each in deliveries()}
    assert [found[f"confirm:{id}"] for id in ids] == ["es", "en", "en"]


def test_a_fresh_link_goes_to_who_is_known_only(store: Config) -> None:
    from newsletter.store import keys, wishes

    assert outcome(store, BEA, kind="link") == "dropped: nobody has this address"
    row = person(store, "Ana@Example.org")
    id = ask(store, ANA, kind="link")
    answered(store)
    assert posted() == [("link", "Ana@Example.org")]
    url = slots("link")["CONFIRM_URL"]
    assert url.startswith("https://news.example.org/m/")
    assert wishes.read(keys.keyring(store), url.rpartition("/")[2], "manage") == wish(id)
    assert wish(id).subscriber_id == row.pk
    assert wishes.expires_at(wish(id)) == NOON + 1800


def test_a_new_address_is_asked_by_a_mail_that_names_nobody_and_its_owner_must_still_be_there(store: Config) -> None:
    from newsletter.store import subscribers

    row = person(store, ANA, name="Ana")
    assert outcome(store, BEA, kind="address", subscriber=row.pk) == "address"
    given = slots("address")
    assert given["CONFIRM_URL"].startswith("https://news.example.org/a/")
    assert given["NAME"] == ""
    assert posted() == [("address", BEA)]
    id = ask(store, "cleo@example.org", kind="address", subscriber=99_999)
    subscribers.erase(store, ANA)
    answered(store)
    assert wish(id).reason == "the person is gone"


def test_a_dropped_wish_keeps_no_address_and_no_name(store: Config) -> None:
    suppress(store, "manual")
    id = ask(store, name="Ana")
    answered(store)
    assert (wish(id).state, wish(id).address, wish(id).name) == ("dropped", "", "")


def test_what_is_delayed_waits_for_its_time_and_the_oldest_come_first(store: Config) -> None:
    from newsletter.store import answering

    late = ask(store, ANA, delay=600)
    soon = [ask(store, f"p{number}@example.org", now=NOON - 10 + number) for number in range(4)]
    assert answering.answer(store, now=NOON, size=3).wishes == 3
    assert [each.key for each in deliveries()] == [f"confirm:{id}" for id in soon[:3]]
    answered(store, NOON + 599)
    assert wish(late).state == "waiting"
    answered(store, NOON + 600)
    assert wish(late).state == "mailed"


# --- limits -----------------------------------------------------------------------------------------------------------

A_DAY = "dropped: over the limit: as many mails as a day allows"
IN_ALL = "dropped: over the limit: as many mails as are sent in all, and none was confirmed"


def test_one_confirmation_a_day_and_three_in_all_whatever_dots_and_pluses_the_address_has(store: Config) -> None:
    assert outcome(store, "ana.b@example.org") == "confirm"
    assert outcome(store, "anab@example.org") == A_DAY
    assert outcome(store, "A.n.a.B+x@example.org", now=NOON + DAY - 1) == A_DAY
    assert outcome(store, "anab+1@example.org", now=NOON + DAY) == "confirm"
    assert outcome(store, "ana.b+2@example.org", now=NOON + 2 * DAY) == "confirm"
    assert outcome(store, "an.ab@example.org", now=NOON + 30 * DAY) == IN_ALL
    assert outcome(store, "anab@example.com") == "confirm"  # another mailbox
    assert len(deliveries()) == 4


def test_of_several_in_one_transaction_the_oldest_gets_the_mail(store: Config) -> None:
    ids = [ask(store, f"a.na+{number}@example.org", now=NOON - number) for number in range(5)]
    answered(store)
    assert [wish(id).state for id in ids] == ["dropped"] * 4 + ["mailed"]


def test_a_confirmation_that_is_confirmed_makes_room(store: Config) -> None:
    id = ask(store, ANA)
    answered(store)
    assert confirmed(store, id) == "granted"
    assert outcome(store, ANA, "alerts", now=NOON + 120) == "confirm"


def test_strangers_who_sign_somebody_up_use_up_nothing_that_the_person_needs(store: Config) -> None:
    person(store)
    assert [outcome(store) for _ in range(2)] == ["known", A_DAY]
    assert [outcome(store, now=NOON + day * DAY) for day in (2, 4, 6, 8)] == ["known"] * 4
    assert outcome(store, ANA, "alerts") == "confirm"
    assert outcome(store, ANA, "alerts") == A_DAY
    assert [outcome(store, ANA, kind="link") for _ in range(4)] == ["link"] * 3 + [A_DAY]


@pytest.mark.parametrize("kind", ["link", "address"])
def test_three_links_in_any_24_hours(store: Config, kind: str) -> None:
    subscriber = person(store).pk
    target = ANA if kind == "link" else BEA

    def again(hours: float) -> str:
        return outcome(store, target, kind=kind, subscriber=subscriber, now=NOON + hours * 3600)

    assert [again(hours) for hours in (0, 20, 23, 23.9, 25)] == [kind, kind, kind, A_DAY, A_DAY]
    assert again(47) == kind


def test_what_is_asked_for_with_a_mail_in_hand_counts_by_itself(store: Config) -> None:
    row = person(store)
    more: dict[str, Any] = {"how": "preferences", "subscriber": row.pk}
    assert outcome(store) == "known"
    assert [outcome(store, ANA, kind="link") for _ in range(3)] == ["link"] * 3
    assert [outcome(store, ANA, "alerts", **more) for _ in range(2)] == ["confirm"] * 2
    assert [outcome(store, ANA, kind="link", **more) for _ in range(2)] == ["link", A_DAY]
    # Who only says so, and is nobody, has no more than others.
    assert [outcome(store, BEA, "alerts", how="preferences") for _ in range(2)] == ["confirm", A_DAY]


# --- lists without a double opt-in ------------------------------------------------------------------------------------


def test_a_new_address_is_subscribed_at_once_with_what_the_person_saw_and_welcomed(lists: Config) -> None:
    from newsletter.store.models import Consent, Subscriber, Subscription

    seen: dict[str, Any] = {"text": "Yes, please.", "text_version": "7", "text_language": "en"}
    id = ask(lists, ANA, "open", name="Ana", language="es", how="form", **seen)
    answered(lists)
    who = Subscriber.objects.get()
    assert (who.address, who.name, who.language, states()) == (ANA, "Ana", "es", {"open": "subscribed"})
    event = Consent.objects.get()
    assert (event.kind, event.text, event.text_version, event.language, event.how) == (
        *("signup", "Yes, please.", "7"),
        *("en", "form"),
    )
    assert event.evidence == {"network": "192.0.2.0/24", "asked_at": "2026-11-24T12:00:00+00:00"}
    subscription = Subscription.objects.get()
    assert (subscription.consent_id, subscription.subscriber_id) == (event.pk, who.pk)
    assert (wish(id).state, wish(id).address, wish(id).name, wish(id).welcome_due) == ("granted", "", "", False)
    (mail,) = deliveries()
    assert (mail.key, mail.language, mail.subscriber_id) == (f"welcome:{subscription.pk}", "es", who.pk)


def test_of_several_lists_those_without_are_joined_at_once_and_the_others_by_mail(lists: Config) -> None:
    id = ask(lists, ANA, "weekly", "open", "alerts")
    answered(lists)
    assert states() == {"open": "subscribed"}
    assert posted() == [("confirm", ANA), ("welcome", ANA)]
    assert (wish(id).state, wish(id).lists) == ("mailed", ["weekly", "alerts"])
    assert confirmed(lists, id) == "granted"
    answered(lists)
    assert posted()[2:] == [("welcome", ANA)]
    assert set(states().values()) == {"subscribed"}


@pytest.mark.parametrize(
    "before", ["on another list", "left it", "left another list", "unconfirmed", "bounce", "erased"]
)
def test_who_is_known_joins_at_once_only_while_subscribed_elsewhere_and_welcome(lists: Config, before: str) -> None:
    from newsletter.store import subscribers

    elsewhere = before in ("on another list", "left it", "left another list")
    row: Any = person(lists, ANA, "weekly", name="Ana") if elsewhere else None
    if before == "left it":
        row = person(lists, ANA, "open")
        subscribers.unsubscribe(row, list="open", how="page")
    if before == "left another list":
        subscribers.unsubscribe(row, how="page")
    if before == "unconfirmed":
        person(lists, ANA, "open", consent="")
    if before in ("bounce", "erased"):
        suppress(lists, before)
    id = ask(lists, ANA, "open", name="Somebody else", language="es")
    answered(lists)
    if before == "on another list":
        assert states() == {"weekly": "subscribed", "open": "subscribed"}
        row.refresh_from_db()
        assert (row.name, row.language) == ("Ana", "")  # a stranger may have asked
        assert posted() == [("welcome", ANA)]
    else:
        assert states().get("open") != "subscribed"
        assert posted() == [("confirm", ANA)]
        assert wish(id).state == "mailed"


def test_one_mailbox_is_given_no_more_than_three_addresses_at_once(lists: Config) -> None:
    for number in range(5):
        ask(lists, f"ana+{number}@example.org", "open", now=NOON + number)
    answered(lists, NOON + 10)
    ask(lists, "a.n.a@example.org", "open", now=NOON + 20)
    answered(lists, NOON + 30 * DAY)
    assert posted() == [("welcome", f"ana+{number}@example.org") for number in range(3)]
    # Whose it is may still ask for a list that has to be confirmed, within the limits of that.
    assert outcome(lists, "ana+0@example.org", "alerts", now=NOON + 31 * DAY) == IN_ALL


def test_the_same_person_twice_in_one_transaction_is_one_subscriber(lists: Config) -> None:
    from newsletter.store.models import Consent, Subscriber

    ask(lists, ANA, "open"), ask(lists, "ANA@example.org", "open")
    answered(lists)
    assert Subscriber.objects.count() == Consent.objects.count() == 1
    assert posted() == [("known", ANA), ("welcome", ANA)]


# --- welcome, and the old address -------------------------------------------------------------------------------------


def signed_up(config: Config, *lists: str, address: str = ANA, language: str = "en", now: float = NOON) -> int:
    id = ask(config, address, *lists, language=language, now=now)
    answered(config, now)
    assert confirmed(config, id, now + 60) == "granted"
    return id


def test_who_confirms_is_welcomed_once(store: Config) -> None:
    from newsletter.store.models import Subscription, Wish

    id = signed_up(store, "weekly", "alerts")
    answered(store)
    Wish.objects.filter(pk=id).update(welcome_due=True)
    answered(store)
    first = min(Subscription.objects.values_list("pk", flat=True))
    assert [each.key for each in deliveries()] == [f"confirm:{id}", f"welcome:{first}"]


def test_who_has_left_meanwhile_is_not_welcomed(store: Config) -> None:
    from newsletter.store import subscribers

    id = signed_up(store)
    subscribers.unsubscribe(wish(id).subscriber, how="page")
    answered(store)
    assert posted() == [("confirm", ANA)]
    assert not wish(id).welcome_due


def test_a_list_may_have_a_welcome_of_its_own(store: Config) -> None:
    from newsletter.store import editions, mailings
    from newsletter.store.models import Batch, Subscription

    store.templates.mkdir()
    own = (sample_root() / "templates" / "welcome.txt.j2").read_text("utf-8")
    (store.templates / "welcome-alerts.txt.j2").write_text(f"Only of alerts.\n\n{own}", "utf-8")
    signed_up(store, "weekly", "alerts")
    answered(store)
    ids = dict(Subscription.objects.values_list("list__name", "pk"))
    texts = {}
    for row in deliveries()[1:]:
        batch = Batch.objects.get(first__lte=row.pk, last__gte=row.pk)
        texts[row.key] = editions.thawed(mailings.edition_of(batch.edition_id)).text
    assert set(texts) == {f"welcome:{id}" for id in ids.values()}
    assert texts[f"welcome:{ids['alerts']}"].startswith("Only of alerts.")
    assert not texts[f"welcome:{ids['weekly']}"].startswith("Only of alerts.")


@pytest.mark.parametrize(
    ("sent", "language", "page"),
    [
        ("nothing", "es", "/archive/es/"),
        ("both", "es", "/archive/es/2017-11-26/"),
        ("the newer in English", "es", "/archive/en/2017-11-26/"),
        ("the newer to staff", "es", "/archive/es/2017-11-19/"),
        ("the newer is being written down", "en", "/archive/en/2017-11-19/"),
    ],
)
def test_the_welcome_leads_to_the_latest_issue_that_is_public(
    lists: Config, sent: str, language: str, page: str
) -> None:
    from audience import editions as both
    from newsletter.store import mailings
    from newsletter.store.lists import list_id

    def send(issue: str, *, to: str = "weekly", languages: tuple[str, ...] = ("en", "es"), begun: bool = True) -> None:
        given = {each: both(key=issue)[each] for each in languages}
        opened = mailings.open_mailing(
            given, issue=issue, list=list_id(lists, to), default_language="en", provider="memory"
        )
        while begun and mailings.write_down(opened.mailing):
            pass

    if sent != "nothing":
        send("2017-11-19")
        send(
            "2017-11-26",
            to="staff" if sent.endswith("staff") else "weekly",
            languages=("en",) if sent.endswith("English") else ("en", "es"),
            begun=not sent.endswith("down"),
        )
    signed_up(lists, language=language)
    answered(lists)
    assert slots("welcome") == {"VIEW_URL": f"https://news.example.org{page}"}


def test_the_old_address_is_told_that_it_is_one_and_then_forgotten(store: Config) -> None:
    from newsletter.store import answering, moving

    row = person(store, ANA)
    id = ask(store, BEA, kind="address", subscriber=row.pk)
    answered(store)
    done = moving.move(store, wish(id), text="Yes.", text_version="1", language="en", network="", now=NOON + 60)
    assert (done, wish(id).address) == ("moved", ANA)
    answered(store)
    assert posted() == [("address", BEA), ("moved", ANA)]
    assert (wish(id).address, wish(id).welcome_due) == ("", False)
    assert slots("moved") == {}
    assert answering.greet(store, now=NOON).wishes == 0


# --- templates that do not render, and files that change --------------------------------------------------------------


def test_a_template_that_does_not_render_loses_nothing_and_holds_up_nobody_else(store: Config) -> None:
    from newsletter.store import answering

    store.templates.mkdir()
    broken = store.templates / "confirm.txt.j2"
    broken.write_text("{{ nothing }} @@CONFIRM_URL@@", "utf-8")
    person(store, BEA)
    asked = [ask(store, f"p{number}@example.org", now=NOON - 60) for number in range(3)]
    link = ask(store, BEA, kind="link")
    forget_desk()
    done = answering.answer(store, now=NOON, size=10)
    assert done.wishes == 4
    assert "templates/confirm.txt.j2:1" in str(done.trouble)
    assert "@example" not in str(done.trouble)
    assert wish(link).state == "mailed"
    assert {wish(id).state for id in asked} == {"waiting"}
    assert answering.answer(store, now=NOON + 1).wishes == 0  # a while of rest
    again = answering.answer(store, now=NOON + 6)
    assert (again.wishes, bool(again.trouble)) == (3, True)
    assert answering.answer(store, now=NOON + 12).wishes == 0  # a longer one
    broken.unlink()
    forget_desk()
    answered(store, NOON + 300)
    assert {wish(id).state for id in asked} == {"mailed"}
    assert len(deliveries()) == 4  # and no mail that was not sent was counted


def test_a_welcome_that_does_not_render_is_sent_once_it_does(store: Config) -> None:
    from newsletter.store import answering

    store.templates.mkdir()
    broken = store.templates / "welcome.txt.j2"
    broken.write_text("{% if %}", "utf-8")
    forget_desk()
    id = ask(store)
    assert answering.answer(store, now=NOON).trouble is None
    assert confirmed(store, id) == "granted"
    assert answering.greet(store, now=NOON + 60).trouble
    assert answering.greet(store, now=NOON + 61).wishes == 0
    broken.unlink()
    forget_desk()
    answered(store, NOON + 120)
    assert posted() == [("confirm", ANA), ("welcome", ANA)]


@pytest.mark.parametrize("file", ["subscribers/lists.yaml", "templates/theme.yaml"])
def test_files_that_cannot_be_read_keep_everything_waiting_until_they_are_mended(store: Config, file: str) -> None:
    from newsletter.store import answering

    path = store.root / file
    path.parent.mkdir(exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    path.write_text("lists: [", "utf-8")
    id = ask(store)
    forget_desk()
    for _ in range(2):
        with pytest.raises(InputError, match=Path(file).name):
            answering.answer(store, now=NOON)
    path.unlink() if before is None else path.write_bytes(before)
    forget_desk()
    answered(store)
    assert wish(id).state == "mailed"


def test_a_wish_that_fails_by_a_mistake_is_put_off_and_holds_up_nobody(store: Config) -> None:
    from newsletter.errors import AddressError
    from newsletter.store import answering
    from newsletter.store.models import Wish

    ids = [ask(store, f"p{number}@example.org", now=NOON - 60 + number) for number in range(5)]
    Wish.objects.filter(pk=ids[2]).update(address="no address")
    assert [answering.answer(store, now=NOON).wishes for _ in range(2)] == [1, 1]
    with pytest.raises(AddressError):
        answering.answer(store, now=NOON)
    answered(store)
    assert [wish(id).state for id in ids] == ["mailed", "mailed", "waiting", "mailed", "mailed"]
    assert wish(ids[2]).not_before == NOON + 3600


# --- several workers, and crashes -------------------------------------------------------------------------------------


def crowd(config: Config, count: int, *, lists: tuple[str, ...] = ("weekly",)) -> None:
    from newsletter.store.keys import key_maker
    from newsletter.store.models import Wish

    key = key_maker(config.pepper.encode())
    addresses = [f"new{number}@example.org" for number in range(count)]
    Wish.objects.bulk_create(
        Wish(
            kind="signup",
            address=each,
            address_key=key(each),
            language="en",
            lists=lists,
            how="page",
            at=NOON,
            not_before=NOON,
        )
        for each in addresses
    )


@pytest.mark.parametrize("asked", [("weekly",), ("open", "weekly")])
def test_several_workers_at_once_mail_everybody_once(lists: Config, asked: tuple[str, ...]) -> None:
    from django.db import connections

    from newsletter.store.models import Allowance, Batch, Mailing, Wish

    crowd(lists, 300, lists=asked)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            answered(lists, NOON)
        except BaseException as error:
            failed.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    answered(lists, NOON)  # those that another one had in hand when a worker looked
    assert not Wish.objects.filter(state="waiting").exists()
    assert Counter(posted()) == Counter(
        (kind, f"new{number}@example.org") for number in range(300) for kind in ("confirm", "welcome")[: len(asked)]
    )
    assert {*Allowance.objects.values_list("today", flat=True)} == {1}
    assert sorted(Mailing.objects.values_list("name", "audience")) == [
        (kind, 300) for kind in ("confirm", "welcome")[: len(asked)]
    ]
    ids = [id for first, last in Batch.objects.values_list("first", "last") for id in range(first, last + 1)]
    assert sorted(ids) == [each.pk for each in deliveries()]


KILLED = """
import os, signal, sys
from pathlib import Path
from newsletter.config import load_config
from newsletter.settings import configure
config = load_config(Path.cwd())
configure(config)
from django.db import connection
from newsletter.store import answering
def die(execute, sql, params, many, context):
    result = execute(sql, params, many, context)
    if sql.startswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
with connection.execute_wrapper(die):
    answering.answer(config)
"""


@pytest.mark.parametrize("after", ["INSERT INTO delivery", "UPDATE allowance", "UPDATE wish"])
def test_a_worker_that_is_killed_in_between_has_done_nothing(store: Config, after: str) -> None:
    from django.db import connections

    from newsletter.store.models import Allowance, Wish

    crowd(store, 5)
    connections.close_all()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, after],
        cwd=store.root,
        env={**os.environ, "PYTHONPATH": str(ROOT), **secrets(store)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not deliveries()
    assert not Allowance.objects.exists()
    assert {*Wish.objects.values_list("state", flat=True)} == {"waiting"}
    answered(store)
    assert Counter(posted()) == Counter(("confirm", f"new{number}@example.org") for number in range(5))


def secrets(config: Config) -> dict[str, str]:
    url = {"DATABASE_URL": config.database_url} if config.database_url else {}
    return {"NEWSLETTER_SECRET_KEY": config.secret_key, "NEWSLETTER_PEPPER": config.pepper, **url}


def test_an_idle_worker_does_not_write(store: Config) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from newsletter.store import answering

    answered(store)
    with CaptureQueriesContext(connection) as queries, closing(connection.cursor()):
        answered(store)
        assert not answering.waits(NOON)
    assert {query["sql"].split()[0] for query in queries} == {"SELECT"}


# --- forgetting -------------------------------------------------------------------------------------------------------


def test_what_is_over_is_forgotten_and_what_may_still_be_granted_is_not(store: Config) -> None:
    from newsletter.store import answering
    from newsletter.store.models import Wish

    def row(state: str, days: float, granted: float | None = None) -> int:
        return Wish.objects.create(
            kind="signup",
            state=state,
            address="",
            address_key=b"k" * 16,
            how="page",
            at=NOON - days * DAY,
            not_before=NOON - days * DAY,
            granted_at=None if granted is None else NOON - granted * DAY,
        ).pk

    kept = [row("waiting", 6.9), row("mailed", 6.99), row("dropped", 6.9), row("granted", 366, 364)]
    for state in ("waiting", "mailed", "dropped"):
        row(state, 7.01)
    row("granted", 366, 365.5)
    assert answering.forget(NOON, size=2) == 3
    while answering.forget(NOON, size=2):
        pass
    assert sorted(Wish.objects.values_list("pk", flat=True)) == sorted(kept)


def test_counts_of_links_are_forgotten_after_a_day_and_those_of_sign_ups_after_a_year(store: Config) -> None:
    from newsletter.store import answering
    from newsletter.store.models import Allowance

    for number, (kind, days) in enumerate(
        [("link", 0.9), ("link", 1.1), ("address", 1.1), ("signup", 364), ("signup", 366)]
    ):
        Allowance.objects.create(key=b"%016d" % number, kind=kind, total=1, today=1, since=NOON - days * DAY)
    while answering.forget(NOON):
        pass
    assert sorted(Allowance.objects.values_list("kind", flat=True)) == ["link", "signup"]
