"""Every address of the pages. A test holds them against what strangers, members and staff may do there."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern

from newsletter.web import archive, inbox, leaving, manage, preferences, signup, start
from newsletter.web.pages import dead_link

urlpatterns: list[URLPattern] = [
    *start.urls,
    *signup.urls,
    *leaving.urls,
    *preferences.urls,
    *manage.urls,
    *archive.urls,
    *inbox.urls,
]


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """No such page. A mistyped address and a forged link cannot be told apart."""
    return dead_link(request)
