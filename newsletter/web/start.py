"""The first page, and what machines ask for: robots.txt, a sign of life."""

from __future__ import annotations

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_safe

from newsletter.checks.leaving import WELL_KNOWN, identity_file
from newsletter.store.schema import store_id
from newsletter.web.pages import address, language_of
from newsletter.web.site import site


@require_safe
def start(request: HttpRequest) -> HttpResponse:
    """Leads to the sign-up page, which is also where a visitor learns what this is."""
    language = language_of(request)
    headers = {"Location": address("/signup/", lang=language), "Vary": "Accept-Language", "Cache-Control": "no-store"}
    return HttpResponse(status=302, headers=headers)


@require_safe
def robots(request: HttpRequest) -> HttpResponse:
    """Search engines may read the archive, and nothing that a personal link opens."""
    closed = "".join(f"Disallow: {address(f'/{part}/')}\n" for part in ("u", "p", "c", "m", "a", "v", "inbox"))
    text = f"User-agent: *\n{closed}Sitemap: {site().config.base_url}/sitemap.xml\n"
    return HttpResponse(
        text, content_type="text/plain; charset=utf-8", headers={"Cache-Control": "public, max-age=3600"}
    )


@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """200 when this process answers and the database does, 503 (made by the door) when it does not."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok\n", content_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"})


@require_safe
def identity(request: HttpRequest) -> HttpResponse:
    """Which workspace answers here: nothing is sent with links that lead to another one (checks/leaving.py)."""
    return HttpResponse(
        identity_file(store_id()), content_type="application/json", headers={"Cache-Control": "public, max-age=60"}
    )


@require_safe
def icon(request: HttpRequest) -> HttpResponse:
    """Nothing, for browsers that ask for an icon where the page names none: there is no logo. It is no error."""
    return HttpResponse(status=204, headers={"Cache-Control": "public, max-age=86400"})


urls: list[URLPattern] = [
    path("", start),
    path("favicon.ico", icon),
    path("robots.txt", robots),
    path("health", health),
    path(WELL_KNOWN.removeprefix("/"), identity),
]
