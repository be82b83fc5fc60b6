"""The first page, and what machines ask for."""

from __future__ import annotations

import json

from newsletter.config import Config
from pages import Pages


def test_the_first_page_leads_to_the_sign_up_in_the_language_of_the_browser(store: Config) -> None:
    answer = Pages(store).get("/", accept_language="es-PE,es;q=0.9,en;q=0.5")
    assert (answer.status, answer.headers["location"]) == (302, "/signup/?lang=es")


def test_the_pages_say_which_workspace_they_belong_to(store: Config) -> None:
    from newsletter.store.schema import store_id

    answer = Pages(store).get("/.well-known/newsletter")
    assert (answer.status, json.loads(answer.text)) == (200, {"id": store_id()})


def test_a_sign_of_life(store: Config) -> None:
    answer = Pages(store).get("/health")
    assert (answer.status, answer.text) == (200, "ok\n")


def test_search_engines_are_kept_from_personal_links(store: Config) -> None:
    answer = Pages(store).get("/robots.txt")
    assert "Disallow: /u/\n" in answer.text
    assert "Sitemap: https://news.example.org/sitemap.xml" in answer.text
