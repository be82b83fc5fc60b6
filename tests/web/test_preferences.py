"""`/p/<token>` and `/me/`: what a link in a forwarded mail may change, what it may not, and that nobody is told who is
known."""

from __future__ import annotations

import re
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config
from pages import Answer, Pages

if TYPE_CHECKING:
    from newsletter.store.models import Subscriber

ANA = "Ana.Quispe+news@Example.ORG"
LISTS = """\
lists:
  - id: weekly
    name: {en: Weekly summary, es: Resumen semanal}
    description: {en: Every Sunday., es: Cada domingo.}
  - id: alerts
    name: {en: Alerts, es: Alertas}
    double_opt_in: false
  - id: board
    name: {en: Board, es: Junta}
    private: true
  - id: secret
    name: {en: Hidden, es: Oculta}
    private: true
"""


@pytest.fixture
def pages(store: Config) -> Pages:
    store.lists.write_text(LISTS, "utf-8")
    return Pages(store)


def person(store: Config, address: str = ANA, **more: Any) -> Subscriber:
    from newsletter.store.subscribers import add

    given = {"list": "weekly", "consent": "signed the sheet", "name": "Ana Quispe", "language": "en", **more}
    return add(store, address, **given).subscriber


def link(pages: Pages, whose: Subscriber | None, purpose: str = "preferences") -> str:
    """The path of the link in a mail that the person got."""
    return f"/p/{pages.site.keyring.token(purpose, delivery(whose))}"


def delivery(whose: Subscriber | None) -> int:
    from newsletter.store.models import Delivery, Mailing

    now = datetime.now(UTC)
    mailing, _ = Mailing.objects.get_or_create(
        kind="issue", state="sending", defaults={"provider": "outbox", "created_at": now, "watched_at": now}
    )
    fields = {"subscriber": whose, "address": whose.address, "address_key": whose.address_key} if whose else {}
    row = Delivery.objects.create(mailing=mailing, language="en", at=now.timestamp(), state="accepted", **fields)
    return row.pk


def form_of(answer: Answer) -> dict[str, Any]:
    """What a browser would send of the first form of a page, unchanged."""
    html = answer.text[answer.text.index("<form") : answer.text.index("</form>")]
    form: dict[str, Any] = {}
    for tag in re.findall(r"<input [^>]*>", html):
        field = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        if field.get("type") in ("checkbox", "radio") and not re.search(r"\schecked\b", tag):
            continue
        if field["name"] in form:
            form[field["name"]] = [*_listed(form[field["name"]]), field["value"]]
        else:
            form[field["name"]] = field.get("value", "")
    for name, options in re.findall(r'<select id="\w+" name="(\w+)".*?>(.*?)</select>', html, re.DOTALL):
        form[name] = re.search(r'value="([^"]*)"[^>]* selected', options)[1]  # type: ignore[index]
    return form


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def states(whose: Subscriber) -> dict[str, str]:
    from newsletter.store.models import Subscription

    return dict(Subscription.objects.filter(subscriber=whose).values_list("list__name", "state"))


def events(whose: Subscriber) -> list[tuple[str, str]]:
    from newsletter.store.models import Consent

    return [*Consent.objects.filter(subscriber=whose).order_by("pk").values_list("kind", "how")]


def snapshot(whose: Subscriber) -> tuple[Any, ...]:
    from newsletter.store.models import Wish

    whose.refresh_from_db()
    kept = (whose.name, whose.address, whose.language, whose.paused_until, whose.tracking)
    return (*kept, states(whose), events(whose), Wish.objects.count())


# --- what it shows ----------------------------------------------------------------------------------------------------


def test_the_page_shows_neither_address_nor_name_and_is_kept_nowhere(store: Config, pages: Pages) -> None:
    answer = pages.get(link(pages, person(store, name="Ana Quispe")))
    assert answer.status == 200
    assert not re.search("ana|quispe|example.org", answer.text.replace("news@example.org", ""), re.IGNORECASE)
    assert answer.headers["cache-control"] == "no-store"
    assert '<meta name="robots" content="noindex">' in answer.text
    assert "set-cookie" not in answer.headers
    assert "<script" not in answer.text


def test_it_offers_public_lists_and_the_private_ones_that_the_person_is_on(store: Config, pages: Pages) -> None:
    from newsletter.store.subscribers import add

    ana = person(store)
    add(store, ANA, list="board", consent="by the board")
    text = pages.get(link(pages, ana), accept_language="es").text
    assert re.findall(r'name="list" type="checkbox" value="(\w+)"( checked)?', text) == [
        ("weekly", " checked"),
        ("alerts", ""),
        ("board", " checked"),
    ]
    assert "Oculta" not in pages.get(f"{link(pages, ana)}?lang=es").text


def test_get_and_head_change_nothing(store: Config, pages: Pages) -> None:
    ana = person(store)
    path, before = link(pages, ana), snapshot(ana)
    assert pages.get(f"{path}?list=alerts&pause=30&language=es&tracking=yes").status == 200
    assert pages.ask("HEAD", path).status == 200
    assert pages.get(f"{path}/link").status == 200
    assert snapshot(ana) == before


@pytest.mark.parametrize("language", ["en", "es"])
def test_a_form_sent_back_unchanged_changes_nothing(store: Config, pages: Pages, language: str) -> None:
    from newsletter.store.models import Subscriber

    ana = person(store, language="es-PE")
    Subscriber.objects.filter(pk=ana.pk).update(paused_until=time.time() + 1_000_000.5)
    path = f"{link(pages, ana)}?lang={language}"
    before = snapshot(ana)
    answer = pages.post(path, form_of(pages.get(path)))
    assert answer.status == 200
    assert snapshot(ana) == before
    assert before[2] == "es-PE"


# --- lists ------------------------------------------------------------------------------------------------------------


def test_what_is_cleared_is_left_at_once_and_may_be_taken_back_on_the_same_visit(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Consent

    ana = person(store)
    path = link(pages, ana)
    form = form_of(pages.get(path))
    answer = pages.post(path, {**form, "list": []}, remote_addr="198.51.100.7")
    assert "You get no more mail from: Weekly summary." in answer.text
    assert states(ana) == {"weekly": "unsubscribed"}
    event = Consent.objects.get(kind="unsubscribe")
    assert (event.how, event.list and event.list.name, event.evidence) == (
        "preferences",
        "weekly",
        {"network": "198.51.100.0/24"},
    )
    form = form_of(answer)
    assert "list" not in form
    back = pages.post(path, {**form, "list": "weekly"})
    assert "You get mail again from: Weekly summary." in back.text
    assert states(ana) == {"weekly": "subscribed"}
    assert events(ana)[1:] == [("unsubscribe", "preferences"), ("undo", "preferences")]


def test_taking_back_ends_after_an_hour_and_is_for_what_was_left_here(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Consent, Subscription, Wish
    from newsletter.store.subscribers import unsubscribe

    ana = person(store)
    path = link(pages, ana)
    pages.post(path, {**form_of(pages.get(path)), "list": []})
    Subscription.objects.update(changed_at=datetime.now(UTC) - timedelta(minutes=61))
    pages.post(path, {**form_of(pages.get(path)), "list": "weekly"})
    assert states(ana) == {"weekly": "unsubscribed"}
    assert Wish.objects.get().lists == ["weekly"]
    luis = person(store, "luis@example.org")
    unsubscribe(luis, how="one-click")
    path = link(pages, luis)
    pages.post(path, {**form_of(pages.get(path)), "list": "weekly"})
    assert states(luis) == {"weekly": "unsubscribed"}
    assert Wish.objects.count() == 2
    assert not Consent.objects.filter(kind="undo").exists()


def test_a_private_list_can_be_taken_back_and_not_be_joined(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Subscription, Wish

    ana = person(store, list="board")
    path = link(pages, ana)
    left = pages.post(path, {**form_of(pages.get(path)), "list": []})
    assert states(ana) == {"board": "unsubscribed"}
    pages.post(path, {**form_of(left), "list": "board"})
    assert states(ana) == {"board": "subscribed"}
    pages.post(path, {**form_of(pages.get(path)), "list": []})
    Subscription.objects.update(changed_at=datetime.now(UTC) - timedelta(minutes=61))
    shown = pages.get(path)
    assert "Board" not in shown.text
    pages.post(path, {**form_of(shown), "list": "board"})
    assert states(ana) == {"board": "unsubscribed"}
    assert Wish.objects.count() == 0


def test_nobody_fills_the_disk_by_leaving_and_coming_back(store: Config, pages: Pages) -> None:
    ana = person(store)
    path = link(pages, ana)
    for _ in range(8):
        pages.post(path, {"list": [], "seen": "weekly"})
        pages.post(path, {"list": "weekly", "seen": ""})
    assert [kind for kind, _ in events(ana)].count("undo") == 5
    assert [kind for kind, _ in events(ana)].count("unsubscribe") == 6


@pytest.mark.parametrize("wanted", ["alerts", "weekly"])
def test_a_forwarded_mail_puts_nobody_on_a_list(store: Config, pages: Pages, wanted: str) -> None:
    """Whether the list wants a double opt-in or not: a mail to the address on record asks."""
    from newsletter.store.models import Wish

    ana = person(store, list="weekly" if wanted == "alerts" else "alerts")
    path = link(pages, ana)
    form = form_of(pages.get(path))
    answer = pages.post(
        path,
        {**form, "list": ["weekly", "alerts"], "email": "mallory@example.org", "address": "mallory@example.org"},
        remote_addr="198.51.100.7",
    )
    assert "We have sent a mail to your mailbox" in answer.text
    assert states(ana) == {"weekly" if wanted == "alerts" else "alerts": "subscribed"}
    wish = Wish.objects.get()
    assert (wish.kind, wish.state, wish.how, wish.address, wish.subscriber_id) == (
        *("signup", "waiting", "preferences"),
        *(ANA, ana.pk),
    )
    assert (bytes(wish.address_key), wish.lists, wish.network) == (ana.address_key, [wanted], "198.51.100.0/24")
    assert wish.text
    assert wish.text_version


def test_a_list_joined_on_a_page_in_another_language_leaves_the_language_of_the_mails(
    store: Config, pages: Pages
) -> None:
    from newsletter.store.models import Wish
    from newsletter.store.wishes import grant

    ana = person(store, language="es-PE")
    path = f"{link(pages, ana)}?lang=en"
    pages.post(path, {**form_of(pages.get(path)), "list": ["weekly", "alerts"]})
    wish = Wish.objects.get()
    assert (wish.language, wish.text_language) == ("es", "en")
    grant(store, wish, text="Yes.", text_version="1", language="en", network="")
    ana.refresh_from_db()
    assert ana.language == "es-PE"
    assert states(ana) == {"weekly": "subscribed", "alerts": "subscribed"}


@pytest.mark.parametrize("name", ["board", "secret", "weekly ", "nothing", "weekly,alerts", "", "\0", "1"])
def test_a_list_that_is_not_offered_cannot_be_joined(store: Config, pages: Pages, name: str) -> None:
    from newsletter.store.models import Wish

    ana = person(store)
    path = link(pages, ana)
    assert pages.post(path, {**form_of(pages.get(path)), "list": ["weekly", name]}).status == 200
    assert Wish.objects.count() == 0
    assert states(ana) == {"weekly": "subscribed"}


def test_a_page_left_open_does_not_take_back_what_came_since(store: Config, pages: Pages) -> None:
    from newsletter.store.subscribers import add

    ana = person(store)
    path = link(pages, ana)
    form = form_of(pages.get(path))
    add(store, ANA, list="alerts", consent="confirmed meanwhile")
    assert pages.post(path, {**form, "language": "es"}).status == 200
    assert states(ana) == {"weekly": "subscribed", "alerts": "subscribed"}


# --- language, pause --------------------------------------------------------------------------------------------------


def test_another_language_is_kept_and_the_page_answers_in_it(store: Config, pages: Pages) -> None:
    ana = person(store)
    path = link(pages, ana)
    answer = pages.post(f"{path}?lang=en", {**form_of(pages.get(path)), "language": "es"})
    ana.refresh_from_db()
    assert ana.language == "es"
    assert answer.headers["content-language"] == "es"
    assert "Guardado." in answer.text
    assert pages.get(path).headers["content-language"] == "es"


def test_a_pause_begins_in_one_step_and_ends_in_one(store: Config, pages: Pages) -> None:
    ana = person(store)
    path = link(pages, ana)
    today = datetime.now(UTC).date()
    answer = pages.post(path, {**form_of(pages.get(path)), "pause": "14"})
    ana.refresh_from_db()
    assert ana.paused_until
    assert datetime.fromtimestamp(ana.paused_until, UTC).isoformat() == f"{today + timedelta(days=14)}T00:00:00+00:00"
    form = form_of(answer)
    assert (form["pause"], form["day"]) == ("until", str(today + timedelta(days=14)))
    pages.post(path, {**form, "day": str(today + timedelta(days=365))})
    ana.refresh_from_db()
    assert ana.paused_until
    assert datetime.fromtimestamp(ana.paused_until, UTC).date() == today + timedelta(days=365)
    pages.post(path, {**form_of(pages.get(path)), "pause": "none"})
    ana.refresh_from_db()
    assert ana.paused_until is None


def test_a_day_typed_without_its_button_counts(store: Config, pages: Pages) -> None:
    ana = person(store)
    path = link(pages, ana)
    day = datetime.now(UTC).date() + timedelta(days=40)
    pages.post(path, {**form_of(pages.get(path)), "pause": "none", "day": str(day)})
    ana.refresh_from_db()
    assert ana.paused_until == datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def test_a_day_begins_where_the_person_lives(store: Config, pages: Pages) -> None:
    ana = person(store, attributes={"timezone": "America/Lima"})
    path = link(pages, ana)
    shown = pages.get(path)
    assert "where you live" in shown.text
    assert "Lima" not in shown.text, "whoever the mail was forwarded to learns nothing"
    day = datetime.now(UTC).date() + timedelta(days=40)
    answer = pages.post(path, {**form_of(shown), "pause": "until", "day": str(day)})
    ana.refresh_from_db()
    assert ana.paused_until == datetime(day.year, day.month, day.day, 5, tzinfo=UTC).timestamp()
    assert form_of(answer)["day"] == str(day)


@pytest.mark.parametrize(
    ("pause", "day", "field"),
    [
        ("until", "", "day"),
        ("until", "0", "day"),
        ("until", "+1", "day"),
        ("until", "tomorrow", "day"),
        ("until", "2026-02-30", "day"),
        ("until", "9999-12-31", "day"),
        ("until", "0001-01-01", "day"),
        ("until", "٢٠٢٧-01-01", "day"),
        ("until", "2027-1-1", "day"),
        ("until", "today", "day"),
        ("until", "366", "day"),
        ("15", "", "pause"),
        ("-1", "", "pause"),
        ("inf", "", "pause"),
        ("99999999999999999999", "", "pause"),
    ],
)
def test_a_wrong_pause_is_said_at_the_field_and_nothing_is_saved(
    store: Config, pages: Pages, pause: str, day: str, field: str
) -> None:
    ana = person(store)
    path = link(pages, ana)
    day = {
        "today": str(datetime.now(UTC).date()),
        "366": str(datetime.now(UTC).date() + timedelta(days=366)),
    }.get(day, day)
    before = snapshot(ana)
    form = {**form_of(pages.get(path)), "pause": pause, "day": day, "list": "alerts", "language": "es"}
    answer = pages.post(path, {**form, "tracking": "yes"})
    assert answer.status == 422
    assert f'id="{field}-error"' in answer.text
    assert f'href="#{field}"' in answer.text
    assert snapshot(ana) == before
    again = form_of(answer)
    assert (again["list"], again["language"], again["tracking"]) == ("alerts", "es", "yes"), "what was chosen is kept"


# --- tracking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "es"])
def test_consent_to_be_counted_is_kept_with_the_words_that_were_shown(
    store: Config, pages: Pages, language: str
) -> None:
    from newsletter.store.models import Consent

    ana = person(store)
    path = f"{link(pages, ana)}?lang={language}"
    shown = pages.get(path)
    assert "tracking" not in form_of(shown), "off unless the person says yes"
    pages.post(path, form_of(shown))
    ana.refresh_from_db()
    assert ana.tracking is None
    agreed = pages.post(path, {**form_of(shown), "tracking": "yes"})
    ana.refresh_from_db()
    assert ana.tracking is True
    event = Consent.objects.get(kind="tracking")
    assert f">{event.text}</label>" in shown.text
    assert (event.language, event.how, event.evidence["agreed"]) == (language, "preferences", True)
    assert event.text_version
    form = form_of(agreed)
    assert form.pop("tracking") == "yes"
    pages.post(path, form)
    ana.refresh_from_db()
    assert ana.tracking is False
    assert [each.evidence["agreed"] for each in Consent.objects.filter(kind="tracking").order_by("pk")] == [True, False]


def test_nobody_fills_the_disk_by_saying_yes_and_no(store: Config, pages: Pages) -> None:
    ana = person(store)
    path = link(pages, ana)
    for _ in range(12):
        pages.post(path, {"seen": "", "tracking": "yes"})
        pages.post(path, {"seen": ""})
    ana.refresh_from_db()
    assert ana.tracking is False
    assert [kind for kind, _ in events(ana)].count("tracking") == 10


# --- whose link it is -------------------------------------------------------------------------------------------------


def test_whoever_is_gone_and_whoever_never_was_get_the_same_dead_link(store: Config, pages: Pages) -> None:
    from newsletter.store.subscribers import erase

    ana, luis = person(store), person(store, "luis@example.org")
    path, other = link(pages, ana), link(pages, luis)
    token = path.removeprefix("/p/")
    erase(store, ANA)
    keyring = pages.site.keyring
    swapped = token[:5] + ("A" if token[5] != "A" else "B") + token[6:]
    dead = [
        path,
        link(pages, None),
        f"/p/{swapped}",
        f"/p/{token[:-1]}",
        f"/p/{token[:10]}",
        f"/p/{keyring.token('unsubscribe', 1)}",
        f"/p/{keyring.token('manage', 1)}",
        f"/p/{keyring.token('preferences', 2**40)}",
        "/p/x",
        "/p/%00",
        "/p/é",
    ]
    answers = [pages.get(each) for each in dead] + [pages.post(each, {"pause": "14"}) for each in dead]
    answers += [pages.post(f"{each}/link") for each in dead]
    assert {answer.status for answer in answers} == {404}
    assert len({re.sub(r"/p/[^?\"]*", "", answer.text) for answer in answers}) == 1
    assert pages.get(other).status == 200


def test_a_link_changes_its_own_person_only(store: Config, pages: Pages) -> None:
    ana, luis = person(store), person(store, "luis@example.org")
    before = snapshot(luis)
    path = link(pages, ana)
    pages.post(path, {**form_of(pages.get(path)), "list": [], "pause": "30", "tracking": "yes", "language": "es"})
    assert snapshot(luis) == before
    assert states(ana) == {"weekly": "unsubscribed"}


def test_an_erasure_while_a_form_is_on_its_way_leaves_nothing(store: Config, pages: Pages) -> None:
    """At once, in two threads: whoever comes first, nobody is there afterwards, and no request fails."""
    from django.db import connection

    from newsletter.store.models import Consent, Subscriber, Subscription
    from newsletter.store.subscribers import erase, unsuppress

    for _ in range(5):
        ana = person(store, address="eva@example.org")
        path = link(pages, ana)
        answers: list[int] = []

        def send(path: str = path, answers: list[int] = answers) -> None:
            answers.append(pages.post(path, {"seen": "weekly", "pause": "30", "tracking": "yes"}).status)
            connection.close()

        thread = threading.Thread(target=send)
        thread.start()
        erase(store, "eva@example.org")
        thread.join()
        assert answers[0] in (200, 404)
        assert pages.get(path).status == 404
        assert not any(model.objects.exists() for model in (Subscriber, Subscription, Consent))
        unsuppress(store, "eva@example.org", lift="erased")


def test_a_suppressed_mailbox_is_told_whom_to_write_to(store: Config, pages: Pages) -> None:
    from newsletter.store.subscribers import suppress

    ana = person(store)
    assert "nothing is sent to your mailbox" not in pages.get(link(pages, ana)).text
    suppress(store, ANA, reason="complaint")
    text = pages.get(link(pages, ana)).text
    assert "nothing is sent to your mailbox" in text
    assert "news@example.org" in text
    assert "complaint" not in text


# --- a fresh link -----------------------------------------------------------------------------------------------------


def test_the_fresh_link_goes_to_the_address_on_record(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Wish

    ana = person(store)
    answer = pages.post(f"{link(pages, ana)}/link?lang=es", {"email": "mallory@example.org"})
    assert answer.status == 200
    assert ANA not in answer.text
    wish = Wish.objects.get()
    assert (wish.kind, wish.address, wish.subscriber_id, wish.language) == ("link", ANA, ana.pk, "es")


def asked_for(pages: Pages, email: str, *, seconds: float = 10.0, **more: str) -> Answer:
    made = pages.site.keyring.token("form", int(time.time() - seconds))
    return pages.post("/me/", {"email": email, "time": made, "website": "", **more})


def test_the_answer_is_the_same_whoever_has_the_address(store: Config, pages: Pages) -> None:
    """Body, status, headers and the number of statements."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from newsletter.store.models import Wish
    from newsletter.store.subscribers import erase, suppress

    person(store)
    person(store, "erased@example.org")
    erase(store, "erased@example.org")
    person(store, "both@example.org")
    suppress(store, "both@example.org", reason="bounce")
    suppress(store, "stopped@example.org", reason="complaint")
    asked = [ANA, ANA.upper(), "nobody@example.org", "erased@example.org", "stopped@example.org", "both@example.org"]
    asked_for(pages, "first@example.org")
    answers, statements = [], []
    for each in asked:
        with CaptureQueriesContext(connection) as queries:
            answers.append(asked_for(pages, each))
        statements.append([re.sub(r"\d+|'[^']*'|%s|E?'\\\\x[^']*'", "?", query["sql"])[:60] for query in queries])
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len({str(answer.headers) for answer in answers}) == 1
    assert all(each == statements[0] for each in statements)
    rows = Wish.objects.order_by("pk").values_list("kind", "state", "subscriber", "address")
    assert [tuple(map(str, row)) for row in rows][1:] == [("link", "waiting", "None", each) for each in asked]


def test_robots_are_answered_alike_and_nothing_is_kept(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Wish

    sent = asked_for(pages, ANA)
    assert asked_for(pages, ANA, website="https://example.org").body == sent.body
    assert Wish.objects.count() == 1


@pytest.mark.parametrize("seconds", [1.0, 200_000.0, -500.0])
def test_a_form_that_is_too_fast_or_too_old_asks_for_one_more_click(
    store: Config, pages: Pages, seconds: float
) -> None:
    from newsletter.store.models import Wish

    answer = asked_for(pages, ANA, seconds=seconds)
    assert answer.status == 200
    assert "One more click" in answer.text
    assert form_of(answer)["email"] == ANA
    assert pages.post("/me/", {"email": ANA}).text.count("One more click") == 1
    assert Wish.objects.count() == 0


@pytest.mark.parametrize("email", ["", "ana", "ana@", "a b@example.org", "ana@example.org\r\nBcc: x@example.org", "\0"])
def test_what_is_no_address_is_said_at_the_field(store: Config, pages: Pages, email: str) -> None:
    from newsletter.store.models import Wish

    answer = asked_for(pages, email)
    assert answer.status == 422
    assert 'id="email-error"' in answer.text
    assert Wish.objects.count() == 0


def test_a_flood_is_told_when_to_come_back(store: Config, pages: Pages) -> None:
    from newsletter.store.models import Rate

    now = time.time()
    Rate.objects.create(scope="wish", slot=int(now // 60), count=1_000_000)
    Rate.objects.create(scope="wish", slot=int(now // 60) + 1, count=1_000_000)
    ana = person(store)
    for answer in (asked_for(pages, ANA), pages.post(f"{link(pages, ana)}/link")):
        assert answer.status == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    path = link(pages, ana)
    answer = pages.post(path, {**form_of(pages.get(path)), "list": ["weekly", "alerts"], "pause": "14"})
    assert answer.status == 200
    assert "Everything else is saved" in answer.text
    ana.refresh_from_db()
    assert ana.paused_until


def test_the_pages_say_the_same_in_both_languages() -> None:
    """Every word is there, and every blank in it, so that nothing falls back to English."""
    from newsletter.web.words import languages

    english, spanish = (languages()[each].texts for each in ("en", "es"))
    keys = [key for key in english if key.startswith(("preferences.", "manage."))]
    assert len(keys) > 100
    for key in keys:
        assert set(re.findall(r"{\w*}", english[key])) == set(re.findall(r"{\w*}", spanish[key])), key


# --- whatever is sent -------------------------------------------------------------------------------------------------

texts = st.text(max_size=60) | st.sampled_from(
    ["weekly", "alerts", "board", "en", "es", "none", "14", "until", "yes", "2027-01-01", "2026-12-24", ANA, "\0", "٣"]
)
names = st.sampled_from(
    ["list", "seen", "language", "pause", "day", "tracking", "lang", "email", "time", "website", "proof"]
)
forms = st.dictionaries(names | st.text(max_size=10), texts | st.lists(texts, max_size=4), max_size=12)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=forms, raw=st.binary(max_size=200), kind=st.sampled_from(["form", "many", "raw", "multipart"]))
def test_whatever_is_sent_is_answered_without_an_error_or_a_cookie(
    store: Config, pages: Pages, form: dict[str, Any], raw: bytes, kind: str
) -> None:
    from newsletter.store.models import Subscriber

    ana = Subscriber.objects.filter(address=ANA).first() or person(store)
    path = link(pages, ana)
    form = form if kind != "many" else {**form, **{f"f{number}": "x" for number in range(150)}}
    for each in (path, f"{path}/link", "/me/", f"{path}?lang=%00", "/p/nothing"):
        if kind in ("form", "many"):
            answer = pages.post(each, form)
        elif kind == "raw":
            answer = pages.ask("POST", each, raw, "application/x-www-form-urlencoded")
        else:
            answer = pages.ask("POST", each, raw, "multipart/form-data; boundary=x")
        assert answer.status < 500
        assert "set-cookie" not in answer.headers
