"""What a member does, in a real browser, on the real server, with mail that is read in the local inbox: on a phone,
without scripts, and by the keyboard alone. Each visitor also looks out for cookies, errors on the console, breaches of
the policy and requests that leave this machine (visitor.py)."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from visitor import Visitor, newsletter, rows, until, visiting
from web_server import Served, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ISSUE, NEXT_ISSUE = "2017-11-19", "2017-11-26"
CONFIRM = "Please confirm your subscription to Valley News"
ADD = ("subscribers", "add", "--consent", "signed the sheet", "--language", "en", "--list", "weekly", "--name", "Ana")


@pytest.fixture(scope="module")
def root(make_workspace: Any) -> Path:
    workspace: Path = make_workspace("list: weekly\n")
    return workspace


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Served]:
    with served(root, inbox=True) as server:
        yield server
        said = server.said()
    assert not re.search(r"@|Traceback|[A-Za-z0-9_-]{22}\.[a-z0-9]{4}", said), (
        "an address, a token or a fault in the log"
    )


def state(root: Path, address: str) -> str:
    query = "SELECT u.state FROM subscription u JOIN subscriber s ON s.id = u.subscriber_id WHERE s.address = ?"
    [(found,)] = rows(root, query, address)
    return str(found)


def fill_in(visitor: Visitor, address: str) -> None:
    """The sign-up page, filled in, and its button pressed."""
    visitor.go("/signup/?lang=en")
    visitor.write("Your email address", address)
    visitor.tick("Weekly summary")
    visitor.takes(3)
    visitor.press("Sign up")
    visitor.sees("Look into your mailbox")


# --- the whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scripts", "way", "width"),
    [(True, "mouse", 360), (False, "mouse", 1200), (True, "keyboard", 1200)],
    ids=["phone", "no-scripts", "keyboard"],
)
def test_from_signing_up_to_an_issue_in_spanish(
    browser: Browser, root: Path, server: Served, scripts: bool, way: Any, width: int
) -> None:
    address = f"ana.{way}.{scripts}@example.org".lower()
    with visiting(browser, server.url, scripts=scripts, way=way, width=width) as ana:
        fill_in(ana, address)
        ana.follow(ana.mail(address, CONFIRM), "c")
        ana.sees("One click, and you are in")
        assert rows(root, "SELECT * FROM subscriber WHERE address = ?", address) == []
        ana.press("Yes, subscribe me")
        ana.sees("You are in")
        assert state(root, address) == "subscribed"
        ana.mail(address, "Welcome to Valley News")

        newsletter(root, "send", ISSUE, "--yes")
        issue = ana.mail(address, "Peru this week")
        ana.follow(issue, "u")
        ana.sees("Leave Weekly summary?")
        ana.press("Leave Weekly summary")  # one tap
        ana.sees("You have left Weekly summary")
        assert state(root, address) == "unsubscribed"
        ana.press("That was a mistake, put me back")
        ana.sees("Everything is as it was")
        assert state(root, address) == "subscribed"

        issue = ana.mail(address, "Peru this week")
        ana.follow(issue, "p")
        ana.sees("Your preferences")
        ana.choose("Language of the mails", "Español")
        ana.press("Save")
        ana.sees("Sus preferencias")

        newsletter(root, "send", NEXT_ISSUE, "--yes")
        ana.mail(address, "Perú esta semana")
        # Who has it gets it no more, so the next visitor begins alone.
        rest = rows(root, "SELECT count(*) FROM delivery WHERE address = ? AND round_id IS NOT NULL", address)
        assert rest == [(2,)]


def test_the_link_to_the_text_is_the_first_stop_and_leads_there(browser: Browser, server: Served) -> None:
    with visiting(browser, server.url, way="keyboard") as ana:
        ana.go("/signup/?lang=en")
        ana.page.keyboard.press("Tab")
        skip = ana.page.get_by_role("link", name="Skip to the text")
        assert skip.evaluate("e => e === document.activeElement && e.getBoundingClientRect().left >= 0")
        ana.page.keyboard.press("Enter")
        ana.page.keyboard.press("Tab")
        assert ana.page.evaluate("document.activeElement.id") == "email"


# --- a form elsewhere -------------------------------------------------------------------------------------------------


@contextmanager
def another_site(html: str) -> Iterator[str]:
    """A page on another port, which is another site to a browser: its address."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<!doctype html><html lang=en><title>Elsewhere</title><h1>Elsewhere</h1>{html}</html>".encode()
            self.send_response(200 if self.path == "/" else 204)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body) if self.path == "/" else 0))
            self.end_headers()
            if self.path == "/":
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{site.server_address[1]}/"
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_a_form_on_another_site_leads_to_the_page_filled_in_with_one_button(
    browser: Browser, root: Path, server: Served, scripts: bool
) -> None:
    address = f"from.elsewhere.{scripts}@example.org".lower()
    snippet = newsletter(root, "embed", "--list", "weekly").replace("https://news.example.org", server.url)
    with (
        another_site(snippet) as elsewhere,
        visiting(browser, server.url, scripts=scripts, homes=(elsewhere,)) as ana,
    ):
        ana.go(elsewhere)
        ana.write("Your email address", address)
        ana.press("Sign up")
        ana.sees("Get Valley News by email")
        assert ana.page.get_by_label("Your email address", exact=True).input_value() == address
        assert ana.page.get_by_label("Weekly summary", exact=True).is_checked()
        assert ana.page.get_by_role("button").count() == 1
        assert rows(root, "SELECT * FROM wish WHERE address = ?", address) == []
        ana.takes(2)
        ana.press("Sign up")
        ana.sees("Look into your mailbox")
        ana.mail(address, CONFIRM)


# --- under pressure ---------------------------------------------------------------------------------------------------


def test_under_pressure_a_browser_that_does_the_sum_is_answered_at_once_and_one_without_scripts_later(
    browser: Browser, make_workspace: Any
) -> None:
    root: Path = make_workspace("web: {per_network: 1, delay: 600}\n")
    query = "SELECT proof IS NOT NULL, not_before - at FROM wish WHERE address LIKE ?"
    with served(root, inbox=True) as server:
        with visiting(browser, server.url) as first:
            fill_in(first, "first@example.org")
            assert first.page.locator("[name=proof]").count() == 0
        with visiting(browser, server.url, scripts=False) as patient:
            fill_in(patient, "patient@example.org")
        with visiting(browser, server.url) as quick:
            quick.go("/signup/?lang=en")
            quick.write("Your email address", "quick@example.org")
            quick.tick("Weekly summary")
            expect(quick.page.locator("[name=proof]")).not_to_have_value("")
            quick.takes(3)
            quick.press("Sign up")
            quick.sees("Look into your mailbox")
            quick.mail("quick@example.org", CONFIRM)
            quick.go("/inbox/?lang=en")
            assert "patient@example.org" not in quick.page.content()
        assert rows(root, query, "first@%") == [(0, 0.0)]
        assert rows(root, query, "quick@%") == [(1, 0.0)]
        assert rows(root, query, "patient@%") == [(0, 600.0)]


# --- what members do with what is kept of them ------------------------------------------------------------------------


def test_pause_my_data_another_address_and_erase(browser: Browser, root: Path, server: Served) -> None:
    old, new = "ana.quispe@example.org", "ana.nueva@example.net"
    newsletter(root, *ADD, old)
    newsletter(root, "send", ISSUE, "--yes")
    with visiting(browser, server.url) as ana:
        ana.follow(ana.mail(old, "Peru this week"), "p")
        pause = ana.page.get_by_role("group", name="Take a break").get_by_role("radio")
        pause.nth(1).check()  # a fortnight
        ana.press("Save")
        ana.page.get_by_role("status").wait_for()
        [(until_then,)] = rows(root, "SELECT paused_until FROM subscriber WHERE address = ?", old)
        assert 12 * 86_400 < until_then - time.time() < 15 * 86_400
        ana.press("Send me the link")
        ana.sees("Please look into your mailbox")

        ana.follow(ana.mail(old, "Your link to what Valley News keeps about you"), "m")
        ana.sees("Your data")
        with ana.page.expect_download() as download:
            ana.press("Download my data", role="link")
        data = json.loads(download.value.path().read_text("utf-8"))
        assert old in json.dumps(data)
        assert download.value.suggested_filename == "my-data.json"
        ana.write("New address", new)
        ana.press("Change the address")
        ana.page.get_by_text(f"We have written to {new}.").wait_for()

        ana.follow(ana.mail(new, "Please confirm your new address for Valley News"), "a")
        ana.sees("Is this your mailbox?")
        ana.press("Yes, send my mails here")
        ana.sees("That is done")
        assert state(root, new) == "subscribed"
        ana.mail(old, "Valley News goes to another address from now on")

        ana.go("/me/?lang=en")
        ana.write("Your address", new)
        ana.takes(3)
        ana.press("Send me a link")
        ana.sees("Please look into your mailbox")
        ana.follow(ana.mail(new, "Your link to what Valley News keeps about you"), "m")
        ana.press("What would be erased …", role="link")
        ana.sees("Erase everything about you?")
        ana.press("Erase me")
        ana.sees("You are erased")
    assert rows(root, "SELECT * FROM subscriber WHERE address IN (?, ?)", old, new) == []
    for address in (old, new):
        until(lambda address=address: not mentions(root, address), "the end of what is kept")  # type: ignore[misc]


def mentions(root: Path, address: str) -> list[str]:
    """The tables that hold an address."""
    tables = [name for (name,) in rows(root, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    word = re.escape(address)
    return [table for table in tables if re.search(word, repr(rows(root, f'SELECT * FROM "{table}"')), re.IGNORECASE)]
