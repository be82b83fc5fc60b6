"""Signing up and confirming: what the pages say, what they keep, and what they give away (nothing)."""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import altcha
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config, Web
from newsletter.settings import configure
from pages import Answer, Pages

NETWORK = "127.0.0.0/24"


class _Fields(HTMLParser):
    """What a browser would send of the only form in the page, as it stands there; and what it sees of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action, self.challenge, self.buttons = "", "", 0
        self.values: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.action = given.get("action") or ""
        elif tag == "button":
            self.buttons += 1
        elif tag == "input" and given.get("name"):
            self.challenge = given.get("data-challenge") or self.challenge
            if given.get("type") not in ("checkbox", "radio") or "checked" in given:
                self.values.setdefault(str(given["name"]), []).append(given.get("value") or "")


@pytest.fixture
def pages(store: Config) -> Pages:
    return Pages(store)


def signed(pages: Pages, ago: float = 60) -> str:
    return pages.site.keyring.token("form", int(time.time() - ago))


def sign_up(pages: Pages, address: str = "ana@example.org", /, path: str = "/signup/?lang=en", **form: Any) -> Answer:
    """A form that was filled in within a minute."""
    remote = form.pop("remote_addr", "127.0.0.1")
    form = {"email": address, "list": "weekly", "language": "en", "time": signed(pages), **form}
    return pages.post(path, {name: value for name, value in form.items() if value is not None}, remote_addr=remote)


def wishes() -> list[Any]:
    from newsletter.store.models import Wish

    return list(Wish.objects.order_by("pk"))


def solved(challenge: str) -> str:
    found = altcha.solve_challenge(altcha.Challenge.from_dict(json.loads(challenge)))
    assert found
    return altcha.Payload(altcha.Challenge.from_dict(json.loads(challenge)), found).to_base64()


def confirm_path(pages: Pages, wish: int) -> str:
    return f"/c/{pages.site.keyring.token('confirm', wish)}"


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_offers_the_lists_and_the_languages_in_the_visitors_language(pages: Pages) -> None:
    english, spanish = pages.get("/signup/"), pages.get("/signup/", accept_language="es-PE")
    assert english.status == spanish.status == 200
    assert 'lang="en"' in english.text
    assert "Weekly summary" in english.text
    assert 'lang="es"' in spanish.text
    assert "Resumen semanal" in spanish.text
    form = _Fields(spanish.text)
    assert form.action == "/signup/?lang=es"
    assert form.values["language"] == ["es"]
    assert "list" not in form.values, "consent is never ticked beforehand"
    assert form.buttons == 1
    assert 'href="/archive/es/?lang=es"' in spanish.text
    assert "<script" not in english.text


def test_an_address_may_choose_the_list(pages: Pages) -> None:
    assert _Fields(pages.get("/signup/?list=alerts").text).values["list"] == ["alerts"]
    assert "list" not in _Fields(pages.get("/signup/?list=nowhere").text).values


def test_search_engines_may_know_the_page_and_no_answer_of_it(pages: Pages) -> None:
    assert "noindex" not in pages.get("/signup/").text
    assert "noindex" in pages.post("/signup/", {"email": "x"}).text


def test_a_single_list_is_named_in_the_consent_and_needs_no_tick(store: Config) -> None:
    store.lists.write_text("lists: [{id: weekly, name: Weekly}, {id: board, name: Board, private: true}]", "utf-8")
    pages = Pages(store)
    page = pages.get("/signup/")
    assert "I would like to receive “Weekly” from Valley News by email." in page.text
    assert 'name="list"' not in page.text
    assert "Board" not in page.text
    assert sign_up(pages, list=["board", "weekly"]).status == 200
    assert [wish.lists for wish in wishes()] == [["weekly"]]


def test_without_a_public_list_there_is_nothing_to_sign_up_for(store: Config) -> None:
    store.lists.write_text("lists: [{id: board, name: Board, private: true}]", "utf-8")
    pages = Pages(store)
    assert "nothing to sign up for" in pages.get("/signup/").text
    assert sign_up(pages, list="board").status == 200
    assert wishes() == []


# --- its answers ------------------------------------------------------------------------------------------------------


def test_a_sign_up_is_kept_as_it_was_asked_for(pages: Pages) -> None:
    from newsletter.store.keys import key_maker

    answer = sign_up(pages, " Ana@Example.org ", name=" Ana  María ", list=["alerts", "weekly"], language="es")
    assert answer.status == 200
    assert "Look into your mailbox" in answer.text
    assert "news@example.org" in answer.text
    [wish] = wishes()
    assert (wish.kind, wish.state, wish.how, wish.network) == ("signup", "waiting", "page", NETWORK)
    assert (wish.address, wish.name, wish.language) == ("Ana@Example.org", "Ana María", "es")
    assert wish.lists == ["weekly", "alerts"]
    assert bytes(wish.address_key) == key_maker(b"p" * 40)("ana@example.org")
    assert wish.not_before == wish.at
    assert wish.subscriber_id is None


@pytest.mark.parametrize("language", ["en", "es"])
def test_the_words_that_are_kept_are_those_of_the_page(pages: Pages, language: str) -> None:
    page = pages.get(f"/signup/?lang={language}")
    sign_up(pages, path=f"/signup/?lang={language}", language="es")
    [wish] = wishes()
    assert (wish.language, wish.text_language) == ("es", language)
    assert f'<p class="soft">{wish.text}</p>' in page.text
    assert len(wish.text) > 50
    assert _Fields(page.text).values["words"] == [wish.text_version]


def test_words_that_have_changed_since_have_to_be_seen_first(pages: Pages) -> None:
    answer = sign_up(pages, words="000000000000")
    assert "One more click" in answer.text
    assert wishes() == []


def test_what_is_wrong_is_said_on_top_and_at_the_field_and_nothing_typed_is_lost(pages: Pages) -> None:
    answer = sign_up(pages, "ana@", name="A<b>" * 60, list=None, language="es")
    assert answer.status == 422
    form = _Fields(answer.text)
    assert form.values["email"] == ["ana@"]
    assert form.values["name"] == ["A<b>" * 60]
    assert form.values["language"] == ["es"]
    for field in ("email", "name", "list"):
        assert f'<a href="#{field}">' in answer.text
        assert f'id="{field}"' in answer.text
        assert f'id="{field}-error"' in answer.text
    assert wishes() == []
    assert sign_up(pages, "").status == 422


@pytest.mark.parametrize("ago", [0, 1, 25 * 3600, -100])
def test_too_fast_and_too_late_need_one_more_click(pages: Pages, ago: float) -> None:
    answer = sign_up(pages, time=signed(pages, ago), list="alerts", language="es", name="Ana")
    assert answer.status == 200
    assert "One more click" in answer.text
    assert wishes() == []
    form = _Fields(answer.text)
    assert (form.values["email"], form.values["list"]) == (["ana@example.org"], ["alerts"])
    assert (form.values["name"], form.values["language"]) == (["Ana"], ["es"])
    assert "from" not in form.values
    made = pages.site.keyring.read(form.values["time"][0], "form")
    assert made is not None
    if ago in (0, 1):  # the time of the first page stays, so that the second click may come at once
        assert abs(time.time() - ago - made) < 2
    else:
        assert 1 <= time.time() - made < 10


def test_a_form_of_another_site_changes_nothing_and_is_shown_filled_in(pages: Pages) -> None:
    foreign = (None, "", "x" * 24, pages.site.keyring.token("confirm", int(time.time())))
    answers = [sign_up(pages, time=stamp) for stamp in foreign]
    for answer in answers:
        assert answer.status == 200
        assert "One more click" in answer.text
        assert _Fields(answer.text).buttons == 1
    assert wishes() == []
    several = pages.post("/signup/", {"email": "ana@example.org"})
    assert "One more click" in several.text, "no blame: there was nothing to tick"
    form = _Fields(answers[0].text)
    assert form.values["email"] == ["ana@example.org"]
    form.values["time"] = [signed(pages)]  # some seconds later
    assert "Look into your mailbox" in pages.post(form.action, form.values).text
    assert [wish.how for wish in wishes()] == ["form"]


@pytest.mark.parametrize("path", ["/signup/?lang=en", "/me/?lang=en"])
def test_another_site_cannot_use_a_time_that_it_took_from_our_page(pages: Pages, path: str) -> None:
    form = {"email": "ana@example.org", "list": "weekly", "language": "en", "time": signed(pages)}
    assert "One more click" in pages.post(path, form, sec_fetch_site="cross-site").text
    assert wishes() == []
    for own in ("same-origin", "none"):
        assert "One more click" not in pages.post(path, form, sec_fetch_site=own).text
    assert len(wishes()) == 2


def test_the_snippet_posts_what_the_page_understands(pages: Pages) -> None:
    from newsletter.cli.embed import snippet

    text = snippet("https://news.example.org", title="<News>", lists=("alerts",), language="es", plain=False)
    assert "<script" not in text
    assert "&lt;News&gt;" in text
    form = _Fields(text)
    assert form.action == "https://news.example.org/signup/?lang=es"
    answer = pages.post(form.action.removeprefix("https://news.example.org"), {**form.values, "email": "a@example.org"})
    assert answer.status == 200
    assert "Un clic más" in answer.text
    assert _Fields(answer.text).values["list"] == ["alerts"]


def test_the_trap_answers_like_success_and_keeps_nothing(pages: Pages) -> None:
    assert sign_up(pages, website="https://example.org").body == sign_up(pages).body
    assert len(wishes()) == 1


def test_the_answer_promises_no_button_where_a_list_needs_none(store: Config) -> None:
    store.lists.write_text("lists: [{id: a, name: A}, {id: b, name: B, double_opt_in: false}]", "utf-8")
    pages = Pages(store)
    assert "only then are you signed up" in sign_up(pages, list=["a", "b"]).text
    single = sign_up(pages, list="b")
    assert "If there is a button in it" in single.text
    assert single.body == sign_up(pages, list="b", website="x").body


def _statements(act: Any) -> tuple[Any, list[str]]:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries:
        answer = act()
    return answer, [re.sub(r"'[^']*'|\b\d[\d.]*\b|\bX?'\w*'", "?", query["sql"])[:60] for query in queries]


def test_no_answer_and_no_work_tells_who_is_known(pages: Pages, store: Config) -> None:
    from newsletter.store import subscribers

    def member(name: str) -> str:
        subscribers.add(store, f"{name}@example.org", list="weekly", consent="by letter")
        return f"{name}@example.org"

    suppressed, erased, gone = member("suppressed"), member("erased"), member("gone")
    subscribers.suppress(store, suppressed, reason="complaint")
    subscribers.erase(store, erased)
    person = subscribers.find(store, gone)
    assert person
    subscribers.unsubscribe(person, how="page")
    sign_up(pages, "warm@example.org")  # the first of this network and minute
    kinds = ["new@example.org", member("member"), suppressed, erased, gone, "warm@example.org"]
    seen = [_statements(lambda address=address: sign_up(pages, address)) for address in kinds]
    assert {(answer.status, answer.body) for answer, _ in seen} == {(seen[0][0].status, seen[0][0].body)}
    assert [statements for _, statements in seen] == [seen[0][1]] * len(kinds)
    written = [each for each in seen[0][1] if "wish" in each or "rate" in each]
    assert len(written) == 3, "a look at the counters, both of them raised at once, the wish"
    assert not any("subscriber" in each or "suppression" in each for each in seen[0][1] if "INTO wish" not in each)


def test_a_base_url_with_a_path_is_kept(store: Config) -> None:
    pages = crowded(replace(store, base_url="https://example.org/news"), per_network=1)
    page = pages.get("/news/signup/")
    assert _Fields(page.text).action == "/news/signup/?lang=en"
    assert sign_up(pages, path="/news/signup/?lang=en").status == 200
    assert 'src="/news/static/proof.js?' in pages.get("/news/signup/").text
    confirmation = f"/news{confirm_path(pages, wishes()[0].pk)}"
    assert "You are in" in pages.post(confirmation, {"lang": "en"}).text


# --- when many come ---------------------------------------------------------------------------------------------------


def crowded(store: Config, **web: Any) -> Pages:
    return Pages(replace(store, web=Web(**{"per_network": 2, "per_minute": 1000, "delay": 600, **web})))


def test_past_the_usual_rate_a_sign_up_waits_unless_it_brings_a_proof_of_work(store: Config) -> None:
    pages = crowded(store)
    assert "data-challenge" not in pages.get("/signup/").text
    sign_up(pages, "a@example.org")
    sign_up(pages, "b@example.org")
    page = pages.get("/signup/")
    assert re.search(r'<script src="/static/proof.js\?[0-9a-f]{12}" defer></script>', page.text)
    proof = solved(_Fields(page.text).challenge)
    answers = [
        sign_up(pages, "c@example.org"),
        sign_up(pages, "d@example.org", proof=proof),
        sign_up(pages, "e@example.org", proof=proof),  # it counts once
        sign_up(pages, "f@example.org", proof="e30="),
    ]
    assert len({answer.body for answer in answers}) == 1
    assert [wish.not_before - wish.at for wish in wishes()] == [0, 0, 600, 0, 600, 600]
    assert [wish.proof is not None for wish in wishes()] == [False, False, False, True, False, False]


def test_ten_times_the_rate_is_refused_for_that_network_alone(store: Config) -> None:
    pages = crowded(store)
    for number in range(20):
        assert sign_up(pages, f"a{number}@example.org").status == 200
    refused = sign_up(pages, "late@example.org")
    assert refused.status == 429
    assert 0 < int(refused.headers["retry-after"]) <= 3601
    assert "news@example.org" in refused.text
    assert sign_up(pages, "late@example.org", proof=solved(_Fields(pages.get("/signup/").text).challenge)).status == 429
    assert len(wishes()) == 20
    assert sign_up(pages, "other@example.org", remote_addr="192.0.2.9").status == 200
    assert pages.get("/signup/").status == 200


def test_a_refused_flood_of_one_network_does_not_count_for_the_others(store: Config) -> None:
    pages = crowded(store, per_minute=3)
    for number in range(40):
        sign_up(pages, f"a{number}@example.org")
    assert len(wishes()) == 20
    assert sign_up(pages, "other@example.org", remote_addr="192.0.2.9").status == 200


# --- confirming -------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(pages: Pages) -> Any:
    sign_up(pages, name="Ana", list=["weekly", "alerts"], language="es")
    [wish] = wishes()
    return wish


def test_looking_at_the_confirmation_changes_nothing(pages: Pages, asked: Any) -> None:
    from newsletter.store.models import Subscriber

    page = pages.get(confirm_path(pages, asked.pk))
    assert page.status == 200
    assert "Resumen semanal" in page.text, "in the language that was chosen"
    assert _Fields(page.text).buttons == 1
    assert "ana@example.org" not in page.text
    assert page.headers["cache-control"] == "no-store"
    assert pages.ask("HEAD", confirm_path(pages, asked.pk)).status == 200
    assert wishes()[0].state == "waiting"
    assert not Subscriber.objects.exists()


def test_the_button_puts_the_person_on_the_lists_and_a_second_use_finds_them_there(pages: Pages, asked: Any) -> None:
    from newsletter.store.models import Consent, Subscriber, Subscription

    page = pages.get(confirm_path(pages, asked.pk))
    first = pages.post(confirm_path(pages, asked.pk), {"lang": "es"})
    assert first.status == 200
    assert "Suscripción confirmada" in first.text
    assert 'href="/archive/es/?lang=es"' in first.text
    person = Subscriber.objects.get()
    assert (person.address, person.name, person.language) == ("ana@example.org", "Ana", "es")
    assert set(Subscription.objects.values_list("list__name", "state")) == {
        ("weekly", "subscribed"),
        ("alerts", "subscribed"),
    }
    for consent in Consent.objects.all():
        assert (consent.kind, consent.how, consent.language) == ("confirm", "page", "es")
        assert f'<p class="soft">{consent.text}</p>' in page.text
        assert "«Resumen semanal», «Alertas»" in consent.text
        assert re.fullmatch("[0-9a-f]{12}", consent.text_version)
        assert consent.evidence["network"] == NETWORK
        assert "example.org" not in json.dumps(consent.evidence)
    [wish] = wishes()
    assert (wish.state, wish.address, wish.name, wish.welcome_due) == ("granted", "", "", True)
    assert wish.subscriber_id == person.pk
    again = [pages.post(confirm_path(pages, asked.pk), {"lang": "es"}), pages.get(confirm_path(pages, asked.pk))]
    assert [answer.body for answer in again] == [first.body] * 2
    assert Consent.objects.count() == 2


def test_a_link_is_good_for_seven_days_and_then_leads_to_a_new_one(pages: Pages, asked: Any) -> None:
    from newsletter.store.models import Subscriber, Wish

    Wish.objects.update(at=time.time() - 7 * 86_400 - 1)
    path = confirm_path(pages, asked.pk)
    answers = [pages.get(path), pages.post(path)]
    Wish.objects.all().delete()
    answers += [pages.get(f"{path}?lang=es"), pages.post(f"{path}?lang=es")]
    assert [answer.status for answer in answers] == [410] * 4
    assert len({answer.body for answer in answers}) == 1
    assert 'href="/signup/?lang=es"' in answers[0].text
    assert not Subscriber.objects.exists()


def test_tokens_that_are_none_all_get_the_same_answer(pages: Pages, asked: Any) -> None:
    from newsletter.links import Keyring

    good = pages.site.keyring.token("confirm", asked.pk)
    other = Keyring(current=pages.site.keyring.current, keys={pages.site.keyring.current: b"x" * 40})
    bad = [
        good[:-6],
        f"A{good[1:]}" if good[0] != "A" else f"B{good[1:]}",
        pages.site.keyring.token("unsubscribe", asked.pk),
        pages.site.keyring.token("manage", asked.pk),
        other.token("confirm", asked.pk),
        "x",
        "%00",
        "\u00e9",
    ]
    answers = [ask(f"/c/{token}") for token in bad for ask in (pages.get, pages.post)]
    assert {answer.status for answer in answers} == {404}
    assert len({re.sub(r'href="/c/[^"]*"', "", answer.text) for answer in answers}) == 1
    assert wishes()[0].state == "waiting"


def test_who_has_left_since_is_not_told_to_be_in(pages: Pages, store: Config, asked: Any) -> None:
    from newsletter.store import subscribers
    from newsletter.store.models import Subscription

    pages.post(confirm_path(pages, asked.pk))
    person = subscribers.find(store, "ana@example.org")
    assert person
    subscribers.unsubscribe(person, how="page")
    answer = pages.post(confirm_path(pages, asked.pk), accept_language="en")
    assert "Después se dio de baja" in answer.text
    assert not Subscription.objects.filter(state="subscribed").exists()


@pytest.mark.parametrize("reason", ["complaint", "manual"])
def test_only_who_holds_the_link_learns_that_mail_is_blocked(
    pages: Pages, store: Config, asked: Any, reason: Any
) -> None:
    from newsletter.store import subscribers

    subscribers.suppress(store, "ana@example.org", reason=reason)
    path = confirm_path(pages, asked.pk)
    assert "bloqueados" not in pages.get(path).text
    answers = [pages.post(path, {"lang": "es"}), pages.post(path, {"lang": "es"}), pages.get(f"{path}?lang=es")]
    assert all("bloqueados" in answer.text and "mailto:news@example.org" in answer.text for answer in answers)
    assert wishes()[0].welcome_due is False


def test_a_list_that_has_become_private_is_not_joined_any_more(pages: Pages, store: Config, asked: Any) -> None:
    from newsletter.store.models import Subscription

    store.lists.write_text("lists: [{id: weekly, name: W}, {id: alerts, name: A, private: true}]", "utf-8")
    pages = Pages(store)
    assert pages.post(confirm_path(pages, asked.pk)).status == 200
    assert [each.list.name for each in Subscription.objects.all()] == ["weekly"]


def test_logs_name_no_token_and_no_address(pages: Pages, asked: Any, caplog: pytest.LogCaptureFixture) -> None:
    token = pages.site.keyring.token("confirm", asked.pk)
    pages.get(f"/c/{token[:-1]}")
    pages.ask("PUT", f"/c/{token}")
    sign_up(pages, "ana@")
    assert token[:20] not in caplog.text
    assert "ana@" not in caplog.text


# --- whatever comes ---------------------------------------------------------------------------------------------------

_text = st.text(st.characters(exclude_categories=()), max_size=60) | st.sampled_from(
    ["", "\0", "\ud800", "a@b.example", "weekly", "es", "x" * 5000, "1e999", "../..", "<script>", "ana@example.org\0"]
)
_names = st.sampled_from(["email", "name", "list", "language", "lang", "website", "time", "words", "from", "proof"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.lists(st.tuples(_names | _text, _text), max_size=30),
    good=st.booleans(),
    path=st.sampled_from(["/signup/", "/signup/?lang=es&list=weekly&list=%00", "/c/"]),
    kind=st.sampled_from(
        [
            "application/x-www-form-urlencoded",
            "application/x-www-form-urlencoded; charset=utf-16",
            "application/x-www-form-urlencoded; charset=nonsense",
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            "text/plain",
            "",
        ]
    ),
)
def test_no_form_breaks_the_pages(
    pages: Pages, fields: list[tuple[str, str]], good: bool, path: str, kind: str
) -> None:
    if good:
        fields = [*fields, ("time", signed(pages)), ("email", "ana@example.org"), ("list", "weekly")]
    if path == "/c/":
        path += pages.site.keyring.token("confirm", len(fields))
    body = urlencode(fields, errors="surrogatepass").encode()
    if "boundary" in kind:
        parts = [f'--x\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields]
        body = "".join(parts).encode("utf-8", "surrogatepass") + b"--x--\r\n"
    answer = pages.ask("POST", path, body, kind)
    assert answer.status < 500
    assert "set-cookie" not in answer.headers
    assert all("@" in wish.address or wish.state == "granted" for wish in wishes()[-1:])


@pytest.fixture
def django(config: Config) -> None:
    """Django is configured, without a database that is ready."""
    configure(config)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(max_size=100)
    | st.binary(max_size=100).map(lambda octets: b64encode(octets).decode())
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["challenge", "solution", "parameters", "signature", "algorithm", "nonce", "salt", "cost"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    ).map(lambda value: b64encode(json.dumps(value).encode()).decode())
)
def test_no_proof_breaks_the_check(django: None, text: str) -> None:
    from newsletter.links import SAMPLE
    from newsletter.web.proof import proven

    assert proven(SAMPLE, text) is None


def test_a_proof_is_ours_solved_and_fresh(django: None) -> None:
    from newsletter.links import SAMPLE, Keyring
    from newsletter.web.proof import LIFETIME, challenge, proven

    good = solved(challenge(SAMPLE, time.time()))
    key = proven(SAMPLE, good)
    assert key is not None
    assert len(key) == 16
    assert proven(SAMPLE, good) == key
    assert proven(Keyring(current="a", keys={"a": b"x" * 40}), good) is None
    assert proven(SAMPLE, solved(challenge(SAMPLE, time.time() - LIFETIME - 5))) is None
    unsolved = altcha.Payload.from_base64(good)
    unsolved.solution.counter += 1
    assert proven(SAMPLE, unsolved.to_base64()) is None


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["signup/", "c/", "c/x", "signup"]),
    query=st.lists(st.tuples(_names | _text, _text)),
    header=_text,
)
def test_no_address_breaks_the_pages(pages: Pages, path: str, query: list[tuple[str, str]], header: str) -> None:
    answer = pages.get(f"/{path}?{urlencode(query, errors='surrogatepass')}", accept_language=header)
    assert answer.status in (200, 404, 413)
    assert "set-cookie" not in answer.headers
