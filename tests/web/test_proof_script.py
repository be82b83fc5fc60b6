"""static/proof.js in a real browser, under the real server's own policy: it solves what the page asks, while it is
filled in."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from browser import Browser, find_chromium
from newsletter.config import Config
from pages import Pages
from web_server import served

FILL_IN = """
(async () => {
  const { email, time, proof } = document.querySelector("form").elements;
  email.focus();
  email.value = "ana@example.org";
  time.value = "%s";
  document.querySelector("#list-weekly").click();
  for (let tries = 0; !proof.value && tries < 3000; tries++) await new Promise((go_on) => setTimeout(go_on, 20));
  return proof.value;
})()
"""
SEND = """
(async () => {
  const form = document.querySelector("form");
  const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
  return answer.status;
})()
"""


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_the_browser_does_the_work_while_the_form_is_filled_in(store: Config) -> None:
    from newsletter.store import wishes
    from newsletter.store.models import Wish

    chromium = find_chromium()
    if chromium is None:
        assert os.environ.get("CI") != "true", "Chromium is needed here: apt-get install chromium"
        pytest.skip("needs Chromium: apt-get install chromium")
    settings = Path(store.root, "newsletter.yaml")
    settings.write_text(settings.read_text("utf-8") + "web: {per_network: 1}\n", "utf-8")
    wishes.ask(store, kind="link", address="b@example.org", language="en", how="page", network="127.0.0.0/24")
    filled_in_long_ago = Pages(store).site.keyring.token("form", int(time.time()) - 60)
    with served(store, worker=False) as server, Browser(chromium) as browser:
        browser.open(f"{server.url}/signup/")
        assert len(browser.run(FILL_IN % filled_in_long_ago)) > 100
        assert browser.run(SEND) == 200
    wish = Wish.objects.get(kind="signup")
    assert wish.proof is not None
    assert wish.not_before == wish.at
