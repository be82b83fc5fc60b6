"""/u/<token> as people, mailbox providers, link scanners and attackers ask for it."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audience import add_people, address, edition, editions
from newsletter.config import Config
from newsletter.links import Keyring
from pages import Answer, Pages
from rows import all_rows, changed

ISSUE = "2017-11-19"
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
ONE_CLICK = b"List-Unsubscribe=One-Click"
FORM = "application/x-www-form-urlencoded"
MULTIPART = (
    b'--b0\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--b0--\r\n',
    "multipart/form-data; boundary=b0",
)


@pytest.fixture
def mailed(store: Config) -> Config:
    """Ten people on `weekly`, the first two on `alerts` as well, and everybody has an issue of `weekly`. The first
    reads Spanish, the second English, and so on."""
    from newsletter.store import mailings, models

    list_id = add_people(store, range(1, 11))
    alerts = models.List.objects.create(name="alerts")
    for person in (1, 2):
        models.Subscription.objects.create(
            list=alerts, subscriber_id=person, state="subscribed", joined_at=NOW, changed_at=NOW
        )
    opened = mailings.open_mailing(editions(), issue=ISSUE, list=list_id, default_language="en", provider="memory")
    while mailings.write_down(opened.mailing):
        pass
    return store


@pytest.fixture
def pages(mailed: Config) -> Pages:
    return Pages(mailed)


def delivery(person: int) -> int:
    from newsletter.store.models import Delivery

    return int(Delivery.objects.get(subscriber_id=person, round__issue=ISSUE).pk)


def link(pages: Pages, person: int = 4) -> str:
    return f"/u/{pages.site.keyring.token('unsubscribe', delivery(person))}"


def state(person: int = 4, list: str = "weekly") -> str:
    from newsletter.store.models import Subscription

    return str(Subscription.objects.get(subscriber_id=person, list__name=list).state)


def events(person: int = 4) -> list[tuple[str, str]]:
    from newsletter.store.models import Consent

    return list(Consent.objects.filter(subscriber_id=person).order_by("pk").values_list("kind", "how"))


def heading(answer: Answer) -> str:
    found = re.search(r"<h1>(.*?)</h1>", answer.text)
    assert found, answer.text
    return found[1]


def buttons(answer: Answer) -> list[tuple[str, dict[str, str], str]]:
    """Every form of a page: where it goes, its hidden fields, and what its button says."""
    found = []
    for form in re.findall(r"<form.*?</form>", answer.text, re.DOTALL):
        action = re.search(r'method="post" action="(.*?)"', form)
        label = re.search(r"<button[^>]*>(.*?)</button>", form)
        assert action
        assert label
        hidden = dict(re.findall(r'type="hidden" name="(.*?)" value="(.*?)"', form))
        found.append((action[1].replace("&amp;", "&"), hidden, label[1]))
    return found


def press(pages: Pages, answer: Answer, label: str, **fields: str) -> Answer:
    action, hidden, _ = next(each for each in buttons(answer) if each[2] == label)
    return pages.post(action, {**hidden, **fields})


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_names_the_list_and_has_one_button(pages: Pages) -> None:
    answer = pages.get(link(pages))
    assert answer.status == 200
    assert heading(answer) == "Leave Weekly summary?"
    assert [label for *_, label in buttons(answer)] == ["Leave Weekly summary"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-robots-tag"] == "noindex"
    assert '<meta name="robots" content="noindex">' in answer.text
    assert "set-cookie" not in answer.headers
    assert address(4) not in answer.text


def test_who_is_on_other_lists_may_leave_them_all(pages: Pages) -> None:
    answer = pages.get(link(pages, 2))
    assert "You are also on: Alerts." in answer.text
    assert [label for *_, label in buttons(answer)] == ["Leave Weekly summary", "Leave all lists"]
    answer = press(pages, answer, "Leave all lists")
    assert heading(answer) == "You have left all lists" or heading(answer) == "You have left these lists"
    assert "Weekly summary, Alerts" in answer.text
    assert (state(2), state(2, "alerts")) == ("unsubscribed", "unsubscribed")
    answer = press(pages, answer, "That was a mistake, put me back")
    assert heading(answer) == "Everything is as it was"
    assert (state(2), state(2, "alerts")) == ("subscribed", "subscribed")


def test_leaving_one_list_shows_what_is_left_and_offers_it_too(pages: Pages) -> None:
    answer = press(pages, pages.get(link(pages, 2)), "Leave Weekly summary")
    assert heading(answer) == "You have left Weekly summary"
    assert (state(2), state(2, "alerts")) == ("unsubscribed", "subscribed")
    assert "You are also on: Alerts." in answer.text
    answer = press(pages, answer, "Leave all lists")
    assert state(2, "alerts") == "unsubscribed"


def test_leaving_a_reason_and_back_again(pages: Pages) -> None:
    from newsletter.store.models import Consent

    answer = press(pages, pages.get(link(pages)), "Leave Weekly summary")
    assert answer.status == 200
    assert "location" not in answer.headers
    assert heading(answer) == "You have left Weekly summary"
    assert [label for *_, label in buttons(answer)] == ["That was a mistake, put me back", "Send"]
    answer = press(pages, answer, "Send", reason="never_signed_up", words="Who <are> you?")
    assert heading(answer) == "Thank you"
    kept = Consent.objects.get(kind="reason").evidence
    assert kept == {"delivery": delivery(4), "reason": "never_signed_up", "words": "Who <are> you?"}
    assert [label for *_, label in buttons(answer)] == ["That was a mistake, put me back"]
    answer = press(pages, answer, "That was a mistake, put me back")
    assert heading(answer) == "Everything is as it was"
    assert state() == "subscribed"
    assert events() == [("unsubscribe", "page"), ("reason", "page"), ("undo", "page")]


def test_words_alone_are_a_reason_and_nothing_at_all_is_none(pages: Pages) -> None:
    from newsletter.store.models import Consent

    answer = press(pages, pages.get(link(pages)), "Leave Weekly summary")
    answer = press(pages, answer, "Send", words="  ")
    assert heading(answer) == "You are not on Weekly summary"
    assert not Consent.objects.filter(kind="reason").exists()
    press(pages, answer, "Send", words="So it is.")
    assert Consent.objects.get(kind="reason").evidence["reason"] == "other"


def test_who_has_left_is_told_so_and_may_come_back(pages: Pages) -> None:
    pages.ask("POST", link(pages), ONE_CLICK, FORM)
    answer = pages.get(link(pages))
    assert heading(answer) == "You are not on Weekly summary"
    assert [label for *_, label in buttons(answer)] == ["That was a mistake, put me back", "Send"]
    answer = press(pages, answer, "That was a mistake, put me back")
    assert state() == "subscribed"
    answer = pages.post(f"{link(pages)}/undo")  # the button pressed twice
    assert heading(answer) == "Everything is as it was"
    assert state() == "subscribed"


def test_after_a_day_only_the_sign_up_brings_back(pages: Pages) -> None:
    from newsletter.store import leaving

    found = leaving.find(pages.site.keyring, link(pages).removeprefix("/u/"))
    assert found is not None
    leaving.leave(found, how="page", now=datetime.now(UTC) - timedelta(hours=25))
    answer = pages.get(link(pages))
    assert "That was a mistake" not in answer.text
    assert '<a href="/signup/?lang=en">Sign up again</a>' in answer.text
    answer = pages.post(f"{link(pages)}/undo")
    assert heading(answer) == "That cannot be taken back here any more"
    assert "Sign up again" in answer.text
    assert state() == "unsubscribed"


def test_the_page_speaks_the_persons_language_unless_another_is_chosen(pages: Pages) -> None:
    spanish = link(pages, 3)
    assert heading(pages.get(spanish, accept_language="en")) == "¿Quiere dejar de recibir Resumen semanal?"
    assert heading(pages.get(f"{spanish}?lang=en")) == "Leave Weekly summary?"
    answer = press(pages, pages.get(spanish), "Dejar de recibir Resumen semanal")
    assert heading(answer) == "Ya no recibirá Resumen semanal"
    assert answer.headers["content-language"] == "es"
    assert f'href="{spanish}?lang=en"' in answer.text
    assert heading(pages.get(f"{spanish}?lang=xx")) == "No está en la lista Resumen semanal"


def test_a_list_that_is_gone_from_its_file_goes_by_its_id(pages: Pages, mailed: Config) -> None:
    from newsletter.store.models import List

    List.objects.filter(name="weekly").update(name="old-weekly")
    answer = pages.get(link(pages))
    assert heading(answer) == "Leave old-weekly?"
    press(pages, answer, "Leave old-weekly")
    assert state(list="old-weekly") == "unsubscribed"


def test_there_may_be_nothing_to_leave(pages: Pages, mailed: Config) -> None:
    from newsletter.store import mailings, subscribers

    id = mailings.post(
        edition(key="test", kind="oneoff"),
        key=f"test:{ISSUE}:0f",
        address=address(4),
        address_key=subscribers.address_key(mailed, address(4)),
        slots={},
        provider="memory",
        subscriber=4,
    )
    assert id is not None
    test = f"/u/{pages.site.keyring.token('unsubscribe', id)}"
    erased = link(pages, 5)
    subscribers.erase(mailed, address(5))
    before = all_rows()
    for path, said in ((test, "This was a test"), (erased, "There is nothing to leave")):
        assert heading(pages.get(path)) == said
        assert heading(pages.post(path, {"leave": "this"})) == said
        assert heading(pages.post(f"{path}/undo")) == said
        assert heading(pages.post(f"{path}/reason", {"reason": "other"})) == said
        assert pages.ask("POST", path, ONE_CLICK, FORM).status == 200
    assert changed(before, all_rows()) == {}


# --- one click (RFC 8058) ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "kind"), [(ONE_CLICK, FORM), MULTIPART])
def test_one_click_needs_nothing_but_the_request(pages: Pages, body: bytes, kind: str) -> None:
    """RFC 8058 §3.1: no cookie, no redirect, nothing else to be pressed; and the same answer the second time."""
    answers = []
    for _ in range(2):
        answers.append(pages.ask("POST", link(pages), body, kind))
        assert state() == "unsubscribed"
    first, second = answers
    assert (first.status, first.text) == (200, "You have left. Nothing more is needed.\n")
    assert (first.status, first.headers, first.body) == (second.status, second.headers, second.body)
    assert first.headers["content-type"] == "text/plain; charset=utf-8"
    assert not {"location", "set-cookie", "refresh"} & {*first.headers}
    assert first.headers["cache-control"] == "no-store"
    assert events() == [("unsubscribe", "one-click")]
    assert state(2, "alerts") == "subscribed"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", ""),
        (b"", FORM),
        (ONE_CLICK, ""),
        (ONE_CLICK, "text/plain"),
        (b"{}", "application/json"),
        (b"leave=no&leave=", FORM),
        (b"leave=this", "text/plain"),
        (b"leave=this", f"{FORM}; charset=utf-16"),
        (b"&".join([b"a=b"] * 1000) + b"&leave=this", FORM),
        (b"\xff\xfe%zz%00=%ff", FORM),
        (b"--b0\r\nbroken", "multipart/form-data; boundary=b0"),
        (b"x", "multipart/form-data"),
        (b"x", "multipart/form-data; boundary=" + "é" * 300),
        (b'--b0\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\nx\r\n--b0--\r\n', MULTIPART[1]),
        (b"x" * 64 * 1024, FORM),
    ],
)
def test_a_post_that_says_it_badly_leaves_as_well(pages: Pages, body: bytes, kind: str) -> None:
    answer = pages.ask("POST", link(pages), body, kind)
    assert (answer.status, answer.text) == (200, "You have left. Nothing more is needed.\n")
    assert state() == "unsubscribed"


def test_what_is_larger_than_any_providers_request_is_not_read(pages: Pages) -> None:
    answer = pages.ask("POST", link(pages), b"x" * (64 * 1024 + 1), FORM)
    assert answer.status == 413
    assert state() == "subscribed"


@pytest.mark.parametrize("query", ["a=b&" * 60, "lang=" + "x" * 3000])
def test_a_query_longer_than_any_of_ours_is_not_read(pages: Pages, query: str) -> None:
    for method in ("GET", "POST"):
        answer = pages.ask(method, f"{link(pages)}?{query}", ONE_CLICK, f"{FORM}; charset=utf-8")
        assert answer.status == 413
    assert state() == "subscribed"


def test_a_body_that_breaks_off_leaves(pages: Pages) -> None:
    from newsletter.web.door import Door

    statuses: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": link(pages),
        "CONTENT_LENGTH": "26",
        "CONTENT_TYPE": FORM,
        "SERVER_NAME": "news.example.org",
        "SERVER_PORT": "443",
        "wsgi.input": io.BytesIO(b"List-Unsub"),
        "wsgi.url_scheme": "https",
    }
    list(Door(pages.site)(environ, lambda status, *_: statuses.append(status)))
    assert statuses == ["200 OK"]
    assert state() == "unsubscribed"


_VALUES = st.sampled_from(["this", "all", "One-Click", "", "\0", "é", "x" * 500])
_BODIES = st.one_of(
    st.binary(max_size=300),
    st.lists(st.tuples(st.sampled_from(["leave", "lang", "List-Unsubscribe", "words", "a"]), _VALUES), max_size=8).map(
        lambda pairs: urlencode(pairs).encode()
    ),
)
_KINDS = st.one_of(
    st.sampled_from(
        [FORM, f"{FORM}; charset=latin-1", f"{FORM};charset", "multipart/form-data", MULTIPART[1], "", "a/b;c=d;;"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60),
)


@given(body=_BODIES, kind=_KINDS, query=st.sampled_from(["", "?lang=es", "?lang=%00&lang=xx"]))
@example(body=b"leave=this", kind=FORM, query="?lang=es")
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_posted_leaves_and_never_breaks(pages: Pages, body: bytes, kind: str, query: str) -> None:
    from newsletter.store.models import Consent, Subscription

    Consent.objects.all().delete()
    Subscription.objects.update(state="subscribed")
    answer = pages.ask("POST", f"{link(pages)}{query}", body, kind)
    own = kind.partition(";")[0].strip().lower() == FORM and b"leave=" in body
    assert answer.status == 200
    assert state() == "unsubscribed"
    assert (answer.headers["content-type"] == "text/plain; charset=utf-8") or own
    assert not {"location", "set-cookie"} & {*answer.headers}
    for path in ("/undo", "/reason"):
        assert pages.ask("POST", f"{link(pages)}{path}{query}", body, kind).status == 200


# --- whoever asks without a right to --------------------------------------------------------------------------------


def test_a_link_that_is_not_ours_says_the_same_whatever_is_wrong(pages: Pages) -> None:
    ring = pages.site.keyring
    good = link(pages).removeprefix("/u/")
    other = Keyring(current="zz", keys={"zz": b"z" * 40})
    wrong = [
        "x",
        good[:-1],
        f"{good}x",
        good.swapcase(),
        ring.token("preferences", delivery(4)),
        ring.token("unsubscribe", 10**9),
        other.token("unsubscribe", delivery(4)),
        "%00",
        "%ff%fe",
        "..",
        "é" * 30,
        "A" * 1000,
    ]
    before = all_rows()
    for ending in ("", "/undo", "/reason"):
        for method in ("GET", "POST"):
            answers = {pages.ask(method, f"/u/{each}{ending}", ONE_CLICK, FORM).text for each in wrong}
            statuses = {pages.ask(method, f"/u/{each}{ending}", b"leave=this", FORM).status for each in wrong}
            assert statuses == {404}
            assert len({re.sub(r'href="[^"]*"', "", each) for each in answers}) == 1
    assert changed(before, all_rows()) == {}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("ending", ["", "/undo", "/reason"])
def test_no_other_method_is_allowed(pages: Pages, method: str, ending: str) -> None:
    before = all_rows()
    answer = pages.ask(method, link(pages) + ending, ONE_CLICK, FORM)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert heading(answer) == "That cannot be done here"
    assert changed(before, all_rows()) == {}


def addresses(pages: Pages) -> list[str]:
    """Every address under /u/: of people who are on the list, who left by it, who were erased, and of nobody."""
    from newsletter.store import subscribers

    gone = link(pages, 6)
    subscribers.erase(pages.site.config, address(6))
    pages.ask("POST", link(pages, 7), ONE_CLICK, FORM)
    links = [link(pages, 2), link(pages, 4), link(pages, 7), gone, f"{link(pages)}x", "/u/", "/u"]
    endings = ("", "/undo", "/reason", "?lang=es", "/undo?lang=xx", "/?x")
    return [f"{each}{ending}" for each in links for ending in endings]


def test_a_scanner_changes_nothing_one_after_the_other(pages: Pages) -> None:
    paths = addresses(pages)
    before = all_rows()
    for path in [*paths, *reversed(paths)]:
        whole, head = pages.get(path), pages.ask("HEAD", path, purpose="prefetch", sec_purpose="prefetch")
        assert whole.status in (200, 404)
        assert head.status == whole.status
    assert changed(before, all_rows()) == {}


def test_a_scanner_changes_nothing_all_at_once(pages: Pages) -> None:
    from django.db import connections

    paths = addresses(pages)
    before = all_rows()
    begin = threading.Barrier(4)

    def scan(part: int) -> list[int]:
        begin.wait(30)
        try:
            rows: Callable[[str, str], Any] = pages.ask
            return [rows(method, path).status for path in paths[part::2] for method in ("GET", "HEAD")]
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        statuses = {status for part in pool.map(scan, (0, 1, 0, 1)) for status in part}
    assert statuses == {200, 404}
    assert changed(before, all_rows()) == {}


def test_no_log_names_a_token_or_an_address(pages: Pages, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    pages.ask("POST", link(pages), ONE_CLICK, FORM)
    pages.get(link(pages))
    pages.get(f"{link(pages)}x")
    pages.ask("PUT", link(pages))
    mine = [each.getMessage() for each in caplog.records if not each.name.startswith(("django.db", "asyncio"))]
    assert not any(link(pages)[3:20] in each or address(4) in each for each in mine), mine


def test_the_pages_may_lie_below_a_path(mailed: Config) -> None:
    from dataclasses import replace

    pages = Pages(replace(mailed, base_url="https://example.org/news"))
    path = f"/news{link(pages)}"
    answer = pages.get(path)
    assert buttons(answer)[0][0] == f"{path}?lang=en"
    assert heading(press(pages, answer, "Leave Weekly summary")) == "You have left Weekly summary"
