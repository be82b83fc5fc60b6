"""Before anything leaves: which addresses are refused, and what must answer there."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import pytest
import trustme

from newsletter.checks.leaving import WELL_KNOWN, check_leaving, identity_file
from newsletter.config import Config
from newsletter.content.fetch import Fetched, Limits, fetch

STORE = "0123456789abcdef0123456789abcdef"


def answering(url: str) -> Fetched:
    return Fetched(body=identity_file(STORE).encode(), url=url)


def unasked(url: str) -> Fetched:
    raise AssertionError(f"{url} was asked")


def codes(config: Config, **changes: object) -> list[str]:
    """The codes of what is found, errors only."""
    found = check_leaving(replace(config, **changes), store=STORE, ask=answering)  # type: ignore[arg-type]
    return [each.code for each in found if each.severity == "error"]


def test_a_workspace_that_is_as_it_should_be_has_no_errors(config: Config) -> None:
    assert codes(config) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://news.valley.org",
        "https://localhost",
        "https://localhost:8443",
        "https://news",
        "https://news.local",
        "https://news.localhost",
        "https://news.internal",
        "https://news.test",
        "https://NEWS.TEST",
        "https://news.test.",
        "https://news.example",
        "https://news.invalid",
        "https://box.home.arpa",
        "https://127.0.0.1",
        "https://203.0.113.7",
        "https://127.1",
        "https://[2001:db8::1]",
        "https://2130706433",
    ],
)
def test_an_address_that_readers_cannot_open_is_refused_and_never_asked(config: Config, url: str) -> None:
    found = [*check_leaving(replace(config, base_url=url), store=STORE, ask=unasked)]
    assert [each.code for each in found if each.severity == "error"] == ["leaving.base-url"]


@pytest.mark.parametrize("address", ["news@localhost", "news@valley.test", "news@box.local", "news@valley"])
def test_a_sender_that_no_mail_can_come_from_is_refused(config: Config, address: str) -> None:
    assert codes(config, sender=replace(config.sender, address=address)) == ["leaving.sender"]


def test_the_sender_of_the_sample_is_a_doubt(config: Config) -> None:
    (found,) = check_leaving(config, store=STORE, ask=answering)
    assert (found.code, found.severity) == ("leaving.sender", "warning")


@pytest.mark.parametrize("postal_address", [{}, {"en": "  "}])
def test_a_missing_postal_address_is_refused(config: Config, postal_address: dict[str, str]) -> None:
    assert codes(config, postal_address=postal_address) == ["leaving.postal-address"]


@pytest.mark.parametrize("place", ["https://elsewhere.example.org/x", "http://news.example.org/x"])
def test_an_answer_from_another_place_does_not_count(config: Config, place: str) -> None:
    def elsewhere(url: str) -> Fetched:
        return Fetched(body=identity_file(STORE).encode(), url=place)

    found = next(check_leaving(config, store=STORE, ask=elsewhere))
    assert found.code == "leaving.identity"
    assert f"leads to another place, {place.removesuffix('/x')}" in found.message


def test_the_help_is_the_file_to_put_there(config: Config) -> None:
    def other(url: str) -> Fetched:
        return Fetched(body=b'{"id": "another"}', url=url)

    found = next(check_leaving(config, store=STORE, ask=other))
    assert identity_file(STORE).strip() in found.help
    assert json.loads(identity_file(STORE)) == {"id": STORE}


# --- a real server ---


@pytest.fixture
def site() -> Iterator[tuple[int, ssl.SSLContext, list[str]]]:
    """An https server of this machine that says it is news.example.org: its port, who signs for it, what was asked."""
    asked: list[str] = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.headers['Host']}{self.path}")
            body = identity_file(STORE).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    authority = trustme.CA()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("news.example.org").configure_cert(served)
    server.socket = served.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    yield server.server_port, trusting, asked
    server.shutdown()
    server.server_close()


def test_the_address_is_asked_over_https_by_its_name(
    config: Config, site: tuple[int, ssl.SSLContext, list[str]]
) -> None:
    port, trusting, asked = site
    limits = Limits(
        allow=lambda _: True,
        look_up=lambda host, port: [ip_address("127.0.0.1")],
        ports=frozenset({port}),
        tls=trusting,
        seconds=5,
    )
    config = replace(config, base_url=f"https://news.example.org:{port}")
    found = check_leaving(config, store=STORE, ask=lambda url: fetch(url, limits))
    assert [each.code for each in found if each.severity == "error"] == []
    assert asked == [f"news.example.org:{port}{WELL_KNOWN}"]


def test_a_certificate_that_nobody_signed_does_not_count(
    config: Config, site: tuple[int, ssl.SSLContext, list[str]]
) -> None:
    port, _, asked = site
    limits = Limits(
        allow=lambda _: True,
        look_up=lambda host, port: [ip_address("127.0.0.1")],
        ports=frozenset({port}),
        seconds=5,
    )
    config = replace(config, base_url=f"https://news.example.org:{port}")
    found = next(check_leaving(config, store=STORE, ask=lambda url: fetch(url, limits)))
    assert "certificate that cannot be trusted" in found.message
    assert asked == []
