"""Every page in both languages, light and dark, on a phone and on a desk: axe-core finds nothing, nothing has to be
scrolled sideways, and twice as large text can still be read.

The pages are made first, through the door, all of them; the browser then shows what the door gave out, with its headers
(so that the policy holds), in each of the ways. Rules of axe-core that are switched off: none. `target-size` (WCAG 2.2,
2.5.8), which is off by default, is switched on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from members import ISSUE, keys_of, write_issue
from newsletter.config import Config, load_config
from newsletter.settings import configure
from pages import Answer, Pages
from visitor import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

LANGUAGES = ("en", "es")
SCHEMES = ("light", "dark")
WIDTHS = (320, 1200)  # pixels
HOST = "https://news.example.org"
LONG = "A" * 64 + "@" + "b" * 63 + ".example.org"  # what may be shown again, and must not push anything aside
Shown = dict[tuple[str, str], Answer]  # page and language


# --- the pages, all of them -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Making:
    """Everything that it takes to bring a page about in one language."""

    config: Config
    language: str
    made: dict[int, Pages] = field(default_factory=dict)
    members: count[int] = field(default_factory=count)

    def pages(self, *, crowd: int = 10**6) -> Pages:
        """The pages with their inbox, where so many sign-ups an hour are no crowd."""
        from newsletter.web.site import use

        if crowd not in self.made:
            web = replace(self.config.web, per_network=crowd, per_minute=10**6)
            self.made[crowd] = Pages(replace(self.config, web=web), inbox=True)
        use(self.made[crowd].site)
        return self.made[crowd]

    def member(self) -> Mapping[str, str]:
        return keys_of(self.config, f"reader{next(self.members)}@example.org", lists=("weekly", "alerts"))

    def get(self, path: str, **headers: str) -> Answer:
        return self.pages().get(f"{path}?lang={self.language}", **headers)

    def post(self, path: str, *, crowd: int = 10**6, **form: Any) -> Answer:
        pages = self.pages(crowd=crowd)
        stamp = pages.site.keyring.token("form", int(time.time()) - 60)
        filled = {name: stamp if value == "{time}" else value for name, value in form.items()}
        return pages.post(f"{path}?lang={self.language}", filled)


LOCAL = {"host": "127.0.0.1:8000"}


def _every_page(make: _Making) -> Iterator[tuple[str, Answer]]:
    """The list of all pages: what each is, and how it comes about."""
    from newsletter.store.models import Wish

    get, post = make.get, make.post
    yield "archive without issues", get(f"/archive/{make.language}/")
    yield "inbox without mail", get("/inbox/", **LOCAL)

    yield "sign-up", get("/signup/")
    yield "sign-up, from another site", post("/signup/", email=LONG, list="weekly")
    yield "sign-up, with mistakes", post("/signup/", email="ana@", name="A" * 300, time="{time}")
    yield "sign-up, too fast", post("/signup/", email="ana@example.org", list="weekly")
    yield "sign-up, done", post("/signup/", email="ana@example.org", list="weekly", time="{time}")
    yield "sign-up, in a crowd", make.pages(crowd=1).get(f"/signup/?lang={make.language}")
    for number in range(10):
        post("/signup/", email=f"ana{number}@example.org", list="weekly", time="{time}")
    yield "sign-up, shut", post("/signup/", crowd=1, email="ana@example.org", list="weekly", time="{time}")
    link = f"/c/{make.member()['confirm']}"
    yield "confirm", get(link)
    yield "confirmed", post(link)
    yield "confirmed again", post(link)
    link = f"/c/{make.member()['confirm']}"
    Wish.objects.order_by("-pk").filter(kind="signup").update(at=time.time() - 8 * 86_400)
    yield "confirm, too late", get(link)

    link = f"/u/{make.member()['unsubscribe']}"
    yield "leave", get(link)
    yield "left", post(link, leave="this")
    yield "left, with thanks", post(f"{link}/reason", reason="other", words="A" * 200)
    yield "left long since", get(link)
    yield "back again", post(f"{link}/undo")
    yield "left everything", post(link, leave="all")
    yield "leave, by a method that is none", make.pages().ask("PUT", f"{link}?lang={make.language}")

    link = f"/p/{make.member()['preferences']}"
    yield "preferences", get(link)
    yield "preferences, saved", post(link, seen="weekly,alerts", list="weekly", pause="14", tracking="yes")
    yield "preferences, with mistakes", post(link, language="xx", pause="until", day="2020-01-01")
    yield "preferences, link sent", post(f"{link}/link")
    yield "preferences, link shut", post(f"{link}/link", crowd=1)

    yield "fresh link", get("/me/")
    yield "fresh link, with a mistake", post("/me/", email=f"{LONG} x", time="{time}")
    yield "fresh link, too fast", post("/me/", email=LONG)
    yield "fresh link, sent", post("/me/", email="ana@example.org", time="{time}")
    yield "fresh link, in a crowd", make.pages(crowd=1).get(f"/me/?lang={make.language}")

    tokens = make.member()
    link = f"/m/{tokens['manage']}"
    yield "my data", get(link)
    yield "my data, name saved", post(f"{link}/name", name="A" * 200)
    yield "my data, name too long", post(f"{link}/name", name="A" * 300)
    yield "my data, address asked for", post(f"{link}/address", new_address=LONG)
    yield "my data, address wrong", post(f"{link}/address", new_address="ana@")
    yield "my data, preferences", get(f"{link}/preferences")
    yield "erase", get(f"{link}/erase")
    yield "new address", get(f"/a/{tokens['address']}")
    yield "new address, done", post(f"/a/{tokens['address']}")
    yield "new address, done before", post(f"/a/{tokens['address']}")
    tokens = make.member()
    yield "erased", post(f"/m/{tokens['manage']}/erase")
    tokens = make.member()
    Wish.objects.filter(kind__in=("link", "address")).update(mailed_at=time.time() - 2 * 86_400)
    yield "my data, too late", get(f"/m/{tokens['manage']}")
    yield "new address, too late", get(f"/a/{tokens['address']}")

    yield "nowhere", get("/nowhere/")
    yield "dead link", get("/u/AAAAAAAAAAAAAAAAAAAAAA.k1")
    too_large = make.pages().ask("POST", "/signup/", b"a" * 70_000, accept_language=make.language)
    yield "too large", too_large

    private = _send(make.config)
    make.made.clear()  # what is on the shelf stays there for two seconds
    yield "archive", get(f"/archive/{make.language}/")
    yield "issue", get(f"/archive/{make.language}/{ISSUE}/")
    yield "issue that is not public", get(f"/v/{make.pages().site.keyring.token('view', private[make.language])}")
    yield "inbox", get("/inbox/", **LOCAL)
    yield "inbox, a mail", get(f"/inbox/{MAIL}/", **LOCAL)


MAIL = f"{ISSUE}.{'0' * 32}"


def _send(config: Config) -> Mapping[str, int]:
    """An issue goes out, and one that is not public: the editions of that by their language. A mail lies in the
    outbox."""
    from newsletter.checks import check_issue
    from newsletter.store import mailings, models

    write_issue(config)
    checked = check_issue(config.issues / f"{ISSUE}.yaml", config)
    list = models.List.objects.get(name="weekly")
    private = {code: replace(each, private=True) for code, each in checked.editions.items()}
    for name, sent in ((ISSUE, checked.editions), ("2017-11-26", private)):
        opened = mailings.open_mailing(sent, issue=name, list=list.pk, default_language="en", provider="outbox")
        while mailings.write_down(opened.mailing):
            pass
    for folder in ("tmp", "new", "cur"):
        (config.outbox / folder).mkdir(parents=True, exist_ok=True)
    head = f"From: news@example.org\r\nTo: {LONG}\r\nSubject: The week, {'in full ' * 20}\r\nX-Long: {'a' * 300}\r\n"
    content = f"{head}Content-Type: text/html\r\n\r\n<p>Hello"
    (config.outbox / "new" / MAIL).write_text(content, "utf-8")
    rows = models.Edition.objects.filter(mailing__round__issue="2017-11-26").values_list("language", "pk")
    return dict(rows)


@pytest.fixture(scope="module")
def shown(make_workspace: Callable[..., Path]) -> Mapping[str, Any]:
    """Every page, and every file that pages name."""
    from django.db import connections

    found: Shown = {}
    files: dict[str, Answer] = {}
    for language in LANGUAGES:
        root = make_workspace()
        (root / "issues" / f"{ISSUE}.yaml").unlink()
        config = load_config(root, {})
        configure(config)
        from newsletter.store import schema

        schema.prepare(config)
        for name, answer in _every_page(_Making(config=config, language=language)):
            assert (name, language) not in found
            found[name, language] = answer
        pages = Pages(config, inbox=True)
        for answer in [*found.values()]:
            for path in re.findall(
                r"""(?:href|src)="((?:https://news\.example\.org)?/(?:static|images)/[^"]+)""", answer.text
            ):
                files.setdefault(path.removeprefix(HOST), pages.get(path.removeprefix(HOST), **LOCAL))
        connections.close_all()
    return {"pages": found, "files": files}


def test_every_page_is_in_the_language_that_was_asked_for(shown: Mapping[str, Any]) -> None:
    """Or the tests below would look at one language twice."""
    for (name, language), answer in shown["pages"].items():
        assert answer.headers["content-type"].startswith("text/html"), name
        assert f'<html lang="{language}"' in answer.text, name
        assert answer.status < 500, name
    names = {name for name, _ in shown["pages"]}
    assert len(shown["pages"]) == len(names) * len(LANGUAGES)
    assert all(answer.status == 200 for answer in shown["files"].values())


def test_each_of_the_pages_is_another_one(shown: Mapping[str, Any]) -> None:
    """A page that did not come about, and shows a dead link instead, would be looked at in vain."""
    headings: dict[str, list[str]] = {}
    for (name, language), answer in shown["pages"].items():
        if language == "en" and answer.status == 404:
            headings.setdefault("dead", []).append(name)
    assert headings == {"dead": ["nowhere", "dead link"]}


# --- looked at --------------------------------------------------------------------------------------------------------

OPTIONS = {"resultTypes": ["violations"], "iframes": False, "rules": {"target-size": {"enabled": True}}}
_SIDEWAYS = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return "";
  const wide = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > width + 1);
  const shown = wide.slice(0, 3).map((e) => e.outerHTML.slice(0, 80)).join(" | ");
  return `${document.documentElement.scrollWidth} px: ${shown}`;
}"""
# Texts of which a part is cut off by a box that hides what does not fit, or lies outside of the window.
_CUT = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.data.trim() || node.parentElement.closest(".trap, details:not([open]) > :not(summary)")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (!box.width || box.right < 0) continue;  // what is left of the window waits there for the keyboard
    let cut = box.left < -1 || box.right > document.documentElement.clientWidth + 1;
    for (let e = node.parentElement; e && e !== document.body; e = e.parentElement) {
      const style = getComputedStyle(e), around = e.getBoundingClientRect();
      if (style.overflowX === "hidden" && box.right > around.right + 1) cut = true;
      if (style.overflowY === "hidden" && box.bottom > around.bottom + 1) cut = true;
    }
    if (cut) found.push(node.data.trim().slice(0, 60));
  }
  return found;
}"""


@pytest.fixture(scope="module")
def window(shown: Mapping[str, Any], browser: Browser) -> Iterator[Page]:
    """A page of the browser to which the whole world is what was made."""
    context = browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()

    def answer(route: Route) -> None:
        path = route.request.url.removeprefix(HOST)
        name, _, language = path.removeprefix("/page/").partition("/")
        found = shown["files"].get(path) or shown["pages"].get((name.replace("%20", " "), language))
        if found is None:
            route.abort()
        else:
            headers = {key: value for key, value in found.headers.items() if key != "content-length"}
            route.fulfill(status=found.status, headers=headers, body=found.body)

    context.route("**/*", answer)
    yield page
    context.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_axe_finds_nothing_and_nothing_sticks_out(shown: Mapping[str, Any], window: Page, language: str) -> None:
    found: list[str] = []
    broken: list[str] = []
    window.on(
        "console", lambda message: broken.append(message.text) if "Content Security Policy" in message.text else None
    )
    for name in [name for name, spoken in shown["pages"] if spoken == language]:
        window.set_viewport_size({"width": WIDTHS[0], "height": 800})
        window.goto(f"{HOST}/page/{name}/{language}")
        window.evaluate(AXE_SCRIPT)
        for width in WIDTHS:
            window.set_viewport_size({"width": width, "height": 800})
            for scheme in SCHEMES:
                window.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                where = f"{name}, {language}, {scheme}, {width} px"
                for each in window.evaluate("(options) => axe.run(document, options)", OPTIONS)["violations"]:
                    nodes = [node["html"][:120] for node in each["nodes"]]
                    found.append(f"{where}: {each['id']} ({each['help']}): {nodes[:3]}")
            if sideways := window.evaluate(_SIDEWAYS):
                found.append(f"{name}, {language}, {width} px: wider than the window, {sideways}")
        window.set_viewport_size({"width": 1200, "height": 800})
        window.evaluate("document.documentElement.style.fontSize = '200%'")
        found += [f"{name}, {language}, text at 200 %: cut off: {text}" for text in window.evaluate(_CUT)]
        if sideways := window.evaluate(_SIDEWAYS):
            found.append(f"{name}, {language}, text at 200 %: wider than the window, {sideways}")
    assert not found, "\n".join(found)
    assert not broken, "\n".join(broken)


def test_axe_would_find_something(window: Page) -> None:
    """That the tool works, and looks at what it is said to look at."""
    window.goto("about:blank")
    window.evaluate("document.body.innerHTML = '<img src=x><p style=\"color:#999\">pale</p><input>'")
    window.evaluate(AXE_SCRIPT)
    found = window.evaluate("(options) => axe.run(document, options)", OPTIONS)["violations"]
    assert {each["id"] for each in found} >= {"image-alt", "color-contrast", "label", "region", "html-has-lang"}
    version = window.evaluate("axe.version")
    assert [int(part) for part in version.split(".")[:2]] >= [4, 10]
