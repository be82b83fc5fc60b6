"""The Django application, known by its label `store`."""

from __future__ import annotations

from django.apps import AppConfig


class StoreConfig(AppConfig):
    name = "newsletter.store"
    label = "store"
    default_auto_field = "django.db.models.BigAutoField"
