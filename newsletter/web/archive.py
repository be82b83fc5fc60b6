"""The archive's addresses: the list of issues, each issue, the feeds, the sitemap, the pictures, and issues that are
not public, for whoever has their link.

Each is made once and laid on the shelf (shelf.py), from where the door hands it out without coming here.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, re_path
from django.views.decorators.http import require_safe

from newsletter.store.published import Public, load_edition, load_image, sisters
from newsletter.web.archive_feeds import atom, json_feed, sitemap
from newsletter.web.archive_pages import index_page, issue_page, private_page
from newsletter.web.pages import NO_STORE, address, dead_link, language_of
from newsletter.web.press import Page, Press
from newsletter.web.shelf import FOREVER, SHELF, Ready, Shelf
from newsletter.web.site import site


@require_safe
def start(request: HttpRequest) -> HttpResponse:
    """Leads to the list of issues in the visitor's language."""
    headers = {
        "Location": address(f"/archive/{quote(language_of(request))}/"),
        "Vary": "Accept-Language",
        "Cache-Control": NO_STORE,
    }
    return HttpResponse(status=302, headers=headers)


@require_safe
def with_slash(request: HttpRequest) -> HttpResponse:
    """A list or an issue whose address was typed without its last sign."""
    headers = {"Location": address(f"{quote(request.path_info)}/"), "Cache-Control": NO_STORE}
    return HttpResponse(status=302, headers=headers)


@require_safe
def index(request: HttpRequest, language: str, number: int = 1) -> HttpResponse:
    return _made(request, lambda press, public: index_page(press, public, language, number))


@require_safe
def later_index(request: HttpRequest, language: str, number: int) -> HttpResponse:
    """The list from its second page on; the first has one address only."""
    return index(request, language, number) if number > 1 else dead_link(request)


@require_safe
def issue(request: HttpRequest, language: str, issue: str) -> HttpResponse:
    def make(press: Press, public: Public) -> Page | None:
        row = public.by_issue.get(issue, {}).get(language)
        edition = load_edition(row.edition) if row else None
        return issue_page(press, public, row, edition) if row and edition else None

    return _made(request, make)


@require_safe
def feed(request: HttpRequest, language: str, kind: str) -> HttpResponse:
    make = atom if kind == "atom" else json_feed
    return _made(request, lambda press, public: make(press, public, language))


@require_safe
def map_of_site(request: HttpRequest, number: str | None = None) -> HttpResponse:
    return _made(request, lambda press, public: sitemap(press, public, int(number) if number else None))


@require_safe
def private(request: HttpRequest, token: str) -> HttpResponse:
    """An edition that is not public. Its token was given to those who got it, and stands for the edition alone."""
    here = site()
    id = here.keyring.read(token, "view")
    edition = load_edition(id) if id is not None else None
    if id is None or edition is None or not edition.private:
        return dead_link(request)
    shelf: Shelf = request.META[SHELF]
    tokens = {language: here.keyring.token("view", each) for language, each in sisters(id).items()}
    page = private_page(shelf.press, shelf.public(), edition, token, tokens)
    headers = {**page.headers, "Cache-Control": page.cache, "Content-Type": page.media_type}
    return _as_response(request, Ready(status="200 OK", headers=headers, body=page.body))


@require_safe
def image(request: HttpRequest, name: str) -> HttpResponse:
    """A picture that was sent, or one of the workspace's that may be."""
    shelf: Shelf = request.META[SHELF]
    picture = shelf.pictures.find(name)
    kept = picture or load_image(name)
    if kept is None:
        return dead_link(request)
    page = Page(body=kept.content, media_type=kept.media_type, cache=FOREVER)
    return _as_response(request, shelf.put(request.META["PATH_INFO"], page).fitting(request.META))


def _made(request: HttpRequest, make: Callable[[Press, Public], Page | None]) -> HttpResponse:
    """A page as it was made now, from the shelf on which it lies from now on."""
    shelf: Shelf = request.META[SHELF]
    where = request.META["PATH_INFO"]
    try:
        public = shelf.public()
        page = make(shelf.press, public)
    except Error:
        if stale := shelf.stale(where):
            return _as_response(request, stale.fitting(request.META))
        raise
    if page is None:
        return dead_link(request)
    return _as_response(request, shelf.put(where, page, public).fitting(request.META))


def _as_response(request: HttpRequest, ready: Ready) -> HttpResponse:
    response = HttpResponse(b"" if request.method == "HEAD" else ready.body, status=int(ready.status[:3]))
    del response.headers["Content-Type"]
    for name, value in ready.headers.items():
        response.headers[name] = value
    return response


_IMAGE = r"^images/(?P<name>[0-9a-f]{32}\.(?:png|jpg|gif|webp))$"

urls: list[URLPattern] = [
    path("archive/", start),
    path("archive/<str:language>/", index),
    path("archive/<str:language>/pages/<int:number>/", later_index),
    re_path(r"^archive/(?P<language>[^/]+)/feed\.(?P<kind>atom|json)$", feed),
    path("archive/<str:language>/<str:issue>/", issue),
    re_path(r"^archive(?:/[^/]+){0,2}$", with_slash),
    re_path(r"^sitemap(?:-(?P<number>[1-9][0-9]{0,5}))?\.xml$", map_of_site),
    re_path(_IMAGE, image),
    path("v/<str:token>", private),
]
