"""People for the tests of the ledger and its benchmarks: written by plain SQL, fast, on either database."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from newsletter.config import Config
from newsletter.providers import Provider, WayOut
from newsletter.rendering.edition import Edition, Mailbox

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def address(number: int) -> str:
    return f"reader{number}@example.org"


def add_people(
    config: Config, numbers: Iterable[int], *, list: str = "weekly", languages: tuple[str, ...] = ("en", "es")
) -> int:
    """Subscribed people reader<n>@example.org, every language in turn; the id of the list."""
    from django.db import connection, transaction

    from newsletter.store import models
    from newsletter.store.keys import key_maker

    key = key_maker(config.pepper.encode())
    row, _ = models.List.objects.get_or_create(name=list)
    numbers = sorted(numbers)
    people = [(n, key(address(n)), address(n), f"Reader {n}", languages[n % len(languages)], NOON) for n in numbers]
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with cursor.copy(
                "COPY subscriber (id, address_key, address, name, language, attributes, created_at) FROM STDIN"
            ) as copy:
                for person in people:
                    copy.write_row((*person[:5], "{}", person[5]))
            with cursor.copy(
                "COPY subscription (list_id, subscriber_id, state, joined_at, changed_at) FROM STDIN"
            ) as copy:
                for n in numbers:
                    copy.write_row((row.pk, n, "subscribed", NOON, NOON))
        else:
            cursor.executemany(
                "INSERT INTO subscriber (id, address_key, address, name, language, attributes, created_at)"
                " VALUES (%s, %s, %s, %s, %s, '{}', %s)",
                people,
            )
            cursor.executemany(
                "INSERT INTO subscription (list_id, subscriber_id, state, joined_at, changed_at)"
                " VALUES (%s, %s, 'subscribed', %s, %s)",
                [(row.pk, n, NOON, NOON) for n in numbers],
            )
    return int(row.pk)


def edition(language: str = "en", *, key: str = "2017-11-19", kind: str = "bulk", size: int = 0) -> Edition:
    """A small edition with every slot of a bulk message; `size` pads it to about so many octets of message."""
    filling = "El Congreso debatio ayer la mocion; mas en la edicion de hoy.\n" * (max(0, size - 1500) // 65)
    links = "@@VIEW_URL@@ @@PREFERENCES_URL@@ @@UNSUBSCRIBE_URL@@" if kind == "bulk" else "@@CONFIRM_URL@@"
    anchors = "".join(f'<a href="{slot}">x</a>' for slot in links.split())
    return Edition(
        key=key,
        language=language,
        direction="ltr",
        kind=kind,  # type: ignore[arg-type]
        subject="Peru this week" if language == "en" else "Perú esta semana",
        sender=Mailbox(name="Valley News", address="news@example.org"),
        list_id=("Weekly", "weekly.news.example.org") if kind == "bulk" else None,
        html=f"<p>{filling}Hello @@NAME@@ {anchors}</p>",
        text=f"Hello @@NAME@@\n\n{links}\n",
    )


def editions(size: int = 0, key: str = "2017-11-19") -> dict[str, Edition]:
    return {language: edition(language, key=key, size=size) for language in ("en", "es")}


def as_ways(provider: Provider, name: str) -> list[WayOut]:
    """A worker's only way out."""
    return [WayOut(name=name, provider=provider)]
