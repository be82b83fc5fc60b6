"""The door: what it lets in, and what no answer leaves without."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter.config import Config, Web
from newsletter.web.words import words_for
from pages import Answer, Pages

on_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)  # what is the same on both databases
GUARDS = ("content-security-policy", "x-content-type-options", "referrer-policy", "x-frame-options", "cache-control")


def guarded(answer: Answer) -> bool:
    return all(name in answer.headers for name in GUARDS) and "set-cookie" not in answer.headers


@on_sqlite
def test_no_answer_leaves_without_its_guards(store: Config) -> None:
    pages = Pages(store)
    style = f"/static/{pages.site.style[0]}"
    asked = ["/", "/signup/", "/health", "/robots.txt", "/nowhere", style, "/static/proof.js", "/" + "a" * 3000]
    answers = [pages.get(path) for path in asked] + [pages.post("/health"), pages.post("/signup/", {"a": "a" * 70_000})]
    assert [answer.status for answer in answers] == [302, 200, 200, 200, 404, 200, 200, 413, 405, 413]
    assert all(guarded(answer) for answer in answers)
    assert all("unsafe" not in answer.headers["content-security-policy"] for answer in answers)


@on_sqlite
def test_browsers_are_told_to_insist_on_https_where_the_pages_have_it(store: Config) -> None:
    assert "max-age" in Pages(store).get("/health").headers["strict-transport-security"]
    plain = Pages(replace(store, base_url="http://127.0.0.1:8000"))
    assert "strict-transport-security" not in plain.get("/health").headers


@on_sqlite
def test_files_are_kept_for_ever_and_the_unfinished_style_sheet_is_not_given_out(store: Config) -> None:
    pages = Pages(store)
    answer = pages.get("/static/proof.js")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-type"].startswith("text/javascript")
    assert pages.get("/static/proof.js", if_none_match=answer.headers["etag"]).status == 304
    assert pages.ask("HEAD", "/static/proof.js").body == b""
    assert pages.post("/static/proof.js").status == 405
    assert pages.get("/static/pages.css").status == 404
    assert pages.get("/static/../door.py").status == 404
    assert pages.get("/static/%2e%2e/door.py").status == 404


@on_sqlite
def test_what_is_too_large_is_said_in_the_language_of_the_browser(store: Config) -> None:
    answer = Pages(store).get("/" + "a" * 3000, accept_language="es")
    assert words_for("es")("common.too_large") in answer.text


@on_sqlite
def test_below_the_path_of_base_url_and_nowhere_else(store: Config) -> None:
    pages = Pages(replace(store, base_url="https://example.org/news"))
    assert pages.get("/news/health").status == 200
    assert pages.get("/news").status == 302
    assert pages.get("/health").status == 404
    assert pages.get("/newsletter/health").status == 404
    assert pages.get("/news/").headers["location"].startswith("/news/signup/")
    assert "/news/static/" in pages.get("/news/signup/").text


@on_sqlite
def test_a_fault_is_a_page_that_says_so_and_a_line_without_the_token(
    store: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from newsletter.store.keys import keyring

    token = keyring(store).token("unsubscribe", 7)
    pages = Pages(store)

    def broken(*_: Any) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr("newsletter.web.door.Door._guarding", lambda self, start: broken)
    with caplog.at_level(logging.ERROR, "newsletter.web"):
        answer = pages.get(f"/u/{token}?token={token}")
    assert answer.status == 500
    assert guarded(answer)
    assert [record.message for record in caplog.records] == ["GET /u/… failed"]


@dataclass
class Hops:
    peer: str
    forwarded: str

    def network(self, trusted: tuple[str, ...] = Web().proxies) -> str:
        from newsletter.web.door import network_of

        environ = {"REMOTE_ADDR": self.peer, "HTTP_X_FORWARDED_FOR": self.forwarded}
        return network_of(environ, [ip_network(each) for each in trusted])


@pytest.mark.usefixtures("empty_sqlite")  # configures Django
def test_the_network_of_a_visitor_is_what_a_trusted_proxy_says_and_no_more() -> None:
    assert Hops("192.0.2.77", "").network() == "192.0.2.0/24"
    assert Hops("192.0.2.77", "198.51.100.1").network() == "192.0.2.0/24"  # a stranger says anything
    assert Hops("127.0.0.1", "198.51.100.1").network() == "198.51.100.0/24"
    assert Hops("127.0.0.1", "10.9.9.9, 198.51.100.1").network() == "198.51.100.0/24"
    assert Hops("10.0.0.1", "198.51.100.1, 10.0.0.2").network(("10.0.0.0/8",)) == "198.51.100.0/24"
    assert Hops("127.0.0.1", "10.9.9.9, " * 500 + "198.51.100.1").network() == "198.51.100.0/24"
    assert Hops("127.0.0.1", "2001:db8:1:2::3").network() == "2001:db8:1::/48"
    assert Hops("::ffff:192.0.2.77", "").network() == "192.0.2.0/24"
    assert Hops("127.0.0.1", "nonsense").network() == "127.0.0.0/24"
    assert Hops("", "").network() == ""


@pytest.mark.parametrize("path", ["//evil.example/x", "/%5Cevil.example/x", "/%5C/evil.example/x", "///evil.example/x"])
def test_no_page_links_to_a_host_that_the_path_names(store: Config, path: str) -> None:
    answer = Pages(store).get(path)
    assert answer.status == 404
    assert 'href="/evil.example/x?lang=es"' in answer.text
    assert all(each[:1] not in "/\\" for each in answer.text.split('href="/')[1:])


@pytest.mark.usefixtures("empty_sqlite")  # configures Django
def test_a_path_in_a_log_is_one_line_without_token_and_address() -> None:
    from newsletter.web.door import route_of

    assert route_of("/signup/ana@example.org/x") == "/signup/…/x"
    assert route_of("/a\r\nERROR all is lost\x1b[2J\x9b") == "/a??ERROR?all?is?lost?[2J?"
    assert route_of(f"/c/{'A' * 22}.k1") == "/c/…"


def test_a_header_with_an_underscore_does_not_pass_for_one_with_a_hyphen(store: Config) -> None:
    from newsletter.web.front import environ_of

    @dataclass
    class Scope:
        client: str = "[2001:db8::1]:50000"
        server: str = "127.0.0.1:8000"
        scheme: str = "http"
        http_version: str = "1.1"
        method: str = "GET"
        path: str = "/é/\N{REPLACEMENT CHARACTER}"
        query_string: str = "a=1"

        @property
        def headers(self) -> Any:
            return {"x_forwarded_for": "1.2.3.4", "x-forwarded-for": "5.6.7.8", "content-type": "text/plain"}

    environ = environ_of(Scope())
    assert environ["HTTP_X_FORWARDED_FOR"] == "5.6.7.8"
    assert environ["CONTENT_TYPE"] == "text/plain"
    assert environ["REMOTE_ADDR"] == "2001:db8::1"
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/é/\N{REPLACEMENT CHARACTER}"


@pytest.mark.usefixtures("empty_sqlite")  # configures Django
@given(st.text(st.characters(codec="ascii"), max_size=200), st.text(st.characters(codec="latin-1"), max_size=300))
def test_whatever_a_visitor_and_a_proxy_say_gives_a_network_or_none(peer: str, forwarded: str) -> None:
    network = Hops(peer, forwarded).network()
    assert network == "" or ip_network(network).prefixlen in (24, 48)
