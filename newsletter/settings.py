"""Django's settings, computed from Config. No logic: whoever needs the database calls `configure` once, first."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import parse_qsl, unquote, urlsplit

from newsletter.config import Config

# How soon a server that vanished without a word is given up, in seconds (libpq's words, and Linux's for the last one,
# which is in milliseconds). Without them a worker that was cut off would hang for a quarter of an hour.
PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def configure(config: Config) -> None:
    """Tells Django which database this workspace has, before anything of `newsletter.store` is imported.

    Opens no connection. When this process had another workspace's database, its connections of this thread are closed
    and the next query goes to the new one; other threads must have ended by then.
    """
    import django
    from django.conf import settings
    from django.db import connections

    database = _postgresql(config.database_url) if config.database_url else _sqlite(config)
    if not settings.configured:
        settings.configure(
            DATABASES={"default": database},
            INSTALLED_APPS=["newsletter.store.apps.StoreConfig"],
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
            USE_TZ=True,
            TIME_ZONE="UTC",
            SECRET_KEY="not used",  # noqa: S106 - links are signed by newsletter/links.py, and visitors have no cookie
            ROOT_URLCONF="newsletter.web.urls",
            ALLOWED_HOSTS=["*"],  # no address is ever made from the Host header (newsletter/web/door.py)
            APPEND_SLASH=False,
            DEFAULT_CHARSET="utf-8",
            DATA_UPLOAD_MAX_MEMORY_SIZE=64 * 1024,  # octets of a form
            DATA_UPLOAD_MAX_NUMBER_FIELDS=100,
            FILE_UPLOAD_HANDLERS=[],
            USE_I18N=False,
            LOGGING_CONFIG=None,
            DEBUG_PROPAGATE_EXCEPTIONS=True,  # to the door, which knows what may be logged
        )
        django.setup()
    elif {"default": database} != settings.DATABASES:
        connections.close_all()
        settings.DATABASES = {"default": database}
        connections.settings = connections.configure_settings(settings.DATABASES)
        with suppress(AttributeError):  # this thread has not asked for it yet
            del connections["default"]
    settings.NEWSLETTER_ENGINE = config.engine  # for store/doorbell.py: whether somebody listens


def _sqlite(config: Config) -> dict[str, object]:
    return {
        "ENGINE": "newsletter.store.sqlite",
        "NAME": str(config.database.absolute()),
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            # FULL: an intent is on the disk before a message leaves. In WAL mode that is one fsync for a commit.
            # secure_delete: who was erased is not found in the file either. Not measurable in an import or a dispatch.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=4000; "
            "PRAGMA cache_size=-4000; PRAGMA temp_store=MEMORY; PRAGMA secure_delete=ON;",
        },
    }


def _postgresql(url: str) -> dict[str, object]:
    parts = urlsplit(url)
    options: dict[str, object] = dict(parse_qsl(parts.query))  # sslmode=require and the like go to libpq
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": {**PATIENCE, **options},
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": False,
    }
