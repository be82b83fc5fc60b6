"""Somebody at a real browser: Playwright with the system's Chromium, a window of its own for each, and no network.

Playwright's event loop counts as running in this thread for as long as the browser is there, and Django refuses to work
in such a thread: tests with a browser look into the database from outside, and run commands in processes.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, FrameLocator, Locator, Page, expect, sync_playwright

from browser import find_chromium

ROOT = Path(__file__).parents[1]
PATIENCE = 60_000  # milliseconds for what must come, on a busy machine
FLAGS = (
    "--no-sandbox",  # Chromium refuses to run as root with it
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
Way = Literal["mouse", "keyboard"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, which must be there (`find_chromium`)."""
    path = find_chromium()
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        try:
            yield browser
        finally:
            browser.close()


# --- a window ---------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Visitor:
    """A window, and a person who uses it with the mouse or with the keyboard alone.

    `wrong` is what no visitor may ever meet: an error of a script or of the policy, a request to elsewhere, a fault.
    """

    url: str  # of the pages, without a slash at the end
    context: BrowserContext
    page: Page
    way: Way = "mouse"
    language: str = "en"
    wrong: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        """By typing an address."""
        self.page.goto(path if path.startswith("http") else f"{self.url}{path}")

    def heading(self) -> str:
        return self.page.locator("h1").inner_text()

    def sees(self, text: str | re.Pattern[str]) -> None:
        """Waits until it is the heading of the page."""
        expect(self.page.locator("h1")).to_have_text(text)

    def press(self, name: str, *, within: Locator | Page | FrameLocator | None = None, role: Any = "button") -> None:
        """A button, or a link."""
        self.use((within or self.page).get_by_role(role, name=name, exact=True).first)

    def use(self, target: Locator) -> None:
        if self.way == "mouse":
            target.click()
        else:
            self._reach(target)
            self.page.keyboard.press("Enter")

    def write(self, label: str, text: str) -> None:
        field = self.page.get_by_label(label, exact=True)
        if self.way == "mouse":
            field.fill(text)
        else:
            self._reach(field)
            self.page.keyboard.type(text)

    def tick(self, label: str) -> None:
        """A box, or one of several round ones."""
        box = self.page.get_by_label(label, exact=True)
        if self.way == "mouse":
            box.check()
        elif box.get_attribute("type") == "radio":
            # A group is one stop; arrows choose within it. That is the keyboard's only way.
            group = self.page.locator(f"input[name='{box.get_attribute('name')}']")
            self._reach(group)
            for _ in range(group.count()):
                if box.is_checked():
                    break
                self.page.keyboard.press("ArrowDown")
        else:
            self._reach(box)
            self.page.keyboard.press("Space")
        expect(box).to_be_checked()

    def choose(self, label: str, option: str) -> None:
        """One of a list that opens."""
        select = self.page.get_by_label(label, exact=True)
        if self.way == "mouse":
            select.select_option(label=option)
        else:
            self._reach(select)
            self.page.keyboard.type(option)
        expect(select.locator("option:checked")).to_have_text(option)

    def takes(self, seconds: float) -> None:
        """What a person takes at least: the pages take nobody who is faster for one. Not a wait for anything."""
        self.page.wait_for_timeout(seconds * 1000)

    def mail(self, to: str, subject: str) -> FrameLocator:
        """Opens the newest message to an address with that subject in the local inbox, once it is there: its HTML."""
        mails = self.page.locator(".mails li").filter(has_text=to).filter(has_text=subject)

        def there() -> bool:
            self.go("/inbox/?lang=en")
            return mails.count() > 0

        until(there, f"a mail “{subject}”")
        self.use(mails.first.get_by_role("link"))
        self.sees(subject)
        return self.page.frame_locator("iframe.mail")

    def follow(self, mail: FrameLocator, kind: str) -> None:
        """Opens a link of a message, that whose path begins with /`kind`/, in the tab that it asks for."""
        link = mail.locator(f"a[href^='{self.url}/{kind}/']").first
        if link.get_attribute("target") == "_blank":
            with self.context.expect_page() as opened:
                self.use(link)
            self.page.close()
            self.page = opened.value
        else:
            self.use(link)
        self.page.wait_for_url(f"**/{kind}/**")

    def _reach(self, target: Locator) -> None:
        """Tabs to it, and sees at each stop where it is."""
        target.first.wait_for()
        for _ in range(150):
            self.page.keyboard.press("Tab")
            stop = self._focus()
            if stop is None:
                continue  # the window itself, after the last stop
            if stop["trouble"]:
                self.wrong.append(f"focus at {stop['what']} on {urlsplit(self.page.url).path}: {stop['trouble']}")
            if target.evaluate_all("all => all.some((e) => e === document.activeElement && document.hasFocus())"):
                return
        raise AssertionError(f"no way to {target} by the keyboard on {self.page.url}")

    def _focus(self) -> dict[str, str] | None:
        """Where the focus is, and why a person could not see it."""
        found = None
        for frame in self.page.frames:
            if frame.is_detached():
                continue
            found = frame.evaluate(_FOCUS) or found
        return found


# The focused element of a frame, unless the focus is in a frame of its own: visible, large enough, and marked.
_FOCUS = """() => {
  const e = document.activeElement;
  if (!document.hasFocus() || !e || e === document.body || e.tagName === "IFRAME" || e.tagName === "HTML") return null;
  const box = e.getBoundingClientRect();
  const style = getComputedStyle(e);
  const trouble = [];
  if (box.width < 2 || box.height < 2) trouble.push("it has no size");
  if (self === top && (box.right <= 0 || box.left >= innerWidth || box.bottom <= 0 || box.top >= innerHeight))
    trouble.push("it is outside of the window");
  if (style.visibility !== "visible" || style.opacity === "0") trouble.push("it is not visible");
  if (style.outlineStyle === "none" || (style.outlineStyle !== "auto" && parseFloat(style.outlineWidth) < 2))
    trouble.push("nothing marks it");
  return { what: e.tagName + " " + (e.id || e.innerText || ""), trouble: trouble.join(", ") };
}"""


@contextmanager
def visiting(
    browser: Browser,
    url: str,
    *,
    scripts: bool = True,
    way: Way = "mouse",
    width: int = 1200,
    dark: bool = False,
    language: str = "en",
    allowed: str = "",
    homes: tuple[str, ...] = (),
) -> Iterator[Visitor]:
    """A new window before the pages at `url`. In the end nothing may have gone `wrong`, and there is no cookie.

    `allowed` is a pattern of what may be said on the console; `homes` are other hosts that a test serves.
    """
    context = browser.new_context(
        java_script_enabled=scripts,
        viewport={"width": width, "height": 800},
        color_scheme="dark" if dark else "light",
        locale=language,
        reduced_motion="reduce",
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    visitor = Visitor(url=url, context=context, page=page, way=way, language=language)
    ours = {urlsplit(each).netloc for each in (url, *homes)}
    # Where the focus is in the frame of a mail is asked by a script, and Chromium says that the frame runs none.
    asking = r"^Blocked script execution in '[^']*/html' because the document's frame is sandboxed"
    known = "|".join(filter(None, [allowed, asking if way == "keyboard" else ""]))

    def requested(request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and parts.netloc not in ours:
            visitor.wrong.append(f"a request to {parts.scheme}://{parts.netloc}")

    def answered(response: Any) -> None:
        if response.status >= 500:
            visitor.wrong.append(f"{response.status} at {urlsplit(response.url).path}")
        if "set-cookie" in response.headers:
            visitor.wrong.append(f"a cookie at {urlsplit(response.url).path}")

    def said(message: Any) -> None:
        if message.type in ("error", "warning") and not (known and re.search(known, message.text)):
            where = urlsplit(message.location.get("url", "")).path
            visitor.wrong.append(f"console on {urlsplit(visitor.page.url).path}: {message.text} ({where})")

    context.on("request", requested)
    context.on("response", answered)
    context.on("console", said)
    context.on("weberror", lambda error: visitor.wrong.append(f"script: {error.error}"))
    try:
        yield visitor
        assert not context.cookies(), "a cookie was set"
        if scripts:
            assert visitor.page.evaluate("localStorage.length + sessionStorage.length") == 0
        assert not visitor.wrong, "\n".join(visitor.wrong)
    finally:
        context.close()


# --- what lies behind it ----------------------------------------------------------------------------------------------


def until(true: Callable[[], bool], what: str) -> None:
    """Waits for what must come."""
    ends = time.monotonic() + PATIENCE / 1000
    while not true():
        assert time.monotonic() < ends, f"{what} did not come"
        time.sleep(0.1)


def rows(root: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    """What the database of a workspace answers, looked at from outside."""
    with closing(
        sqlite3.connect(f"file:{root / 'subscribers' / 'newsletter.sqlite3'}?mode=ro", uri=True, timeout=30)
    ) as database:
        return database.execute(query, values).fetchall()


def newsletter(root: Path, *arguments: str) -> str:
    """What a command prints; it ends well."""
    process = subprocess.run(
        [sys.executable, "-m", "newsletter", "-w", str(root), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, f"exit code {process.returncode}: {process.stdout}{process.stderr}"
    return process.stdout
