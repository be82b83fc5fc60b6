"""What the tests with a browser share: Chromium, and workspaces to be served."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browser import find_chromium
from members import ISSUE, write_issue
from newsletter.config import load_config
from visitor import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SETTINGS = """\
title: {en: Valley News, es: Noticias del Valle}
tagline: {en: Every Sunday, es: Cada domingo}
sender:
  name: {en: Valley News, es: Noticias del Valle}
  address: news@example.org
languages: [en, es]
base_url: https://news.example.org
postal_address: {en: "1 Mill Street, Exampletown", es: "Calle del Molino 1, Ciudad Ejemplo"}
sections:
  justice: {en: Justice, es: Justicia}
"""
LISTS = """\
lists:
  - id: weekly
    name: {en: Weekly summary, es: Resumen semanal}
    description: {en: Every Sunday., es: Cada domingo.}
  - id: alerts
    name: {en: Alerts, es: Alertas}
"""
SECRETS = f"NEWSLETTER_SECRET_KEY={'k' * 40}\nNEWSLETTER_PEPPER={'p' * 40}\n"
NEXT_ISSUE = "2017-11-26"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a module: while it is there, Django cannot be used in this process (visitor.py)."""
    if find_chromium() is None:
        assert os.environ.get("CI") != "true", "Chromium is needed here: apt-get install chromium"
        pytest.skip("needs Chromium: apt-get install chromium")
    with chromium() as browser:
        yield browser


Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make_workspace(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a workspace with two lists and two issues; its database comes with the first command. `settings` are
    further lines of newsletter.yaml."""

    def make(settings: str = "") -> Path:
        root = tmp_path_factory.mktemp("served")
        (root / "newsletter.yaml").write_text(SETTINGS + settings, "utf-8")
        (root / "subscribers").mkdir()
        (root / "subscribers" / "lists.yaml").write_text(LISTS, "utf-8")
        (root / ".env").write_text(SECRETS, "utf-8")
        (root / "issues").mkdir()
        for name in (ISSUE, NEXT_ISSUE):
            write_issue(load_config(root, {}), name)
        return root

    return make
