"""Who would get an issue, counted: the same people whom a mailing writes down, for every edition and every reason."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from audience import add_people, edition
from newsletter.config import Config

WORDS = ("pt", "PT", "pt-BR", "pt-br", "pt-PT", "ptx", "en", "EN-gb", "en-", "es-419", "", "de", "en%", "e_")


def edition_of(language: str, languages: list[str], default: str) -> str:
    """The first edition whose language is the reader's own or the same without a region."""
    for each in languages:
        if language.lower() == each.lower() or language.lower().startswith(f"{each.lower()}-"):
            return each
    return default


@pytest.mark.parametrize("languages", [["pt", "pt-BR"], ["pt-BR", "pt"], ["en", "es"], ["es", "en", "PT"]])
def test_everybody_gets_the_first_edition_that_fits(store: Config, languages: list[str]) -> None:
    from newsletter.store import models, overview

    list_id = add_people(store, range(1, len(WORDS) + 1), languages=WORDS)
    spoken = models.Subscriber.objects.values_list("language", flat=True)
    expected = Counter(edition_of(each, languages, languages[-1]) for each in spoken)
    count = overview.headcount(languages, list=list_id, issue="2017-11-19", default_language=languages[-1])
    assert count.recipients == expected
    assert count.left_out == {}
    written = written_down(languages, list_id, default=languages[-1])
    assert written == expected


def written_down(languages: list[str], list_id: int, *, default: str, segment: str = "") -> Counter[str]:
    from newsletter.store import mailings, models

    texts = {language: edition(language) for language in languages}
    opened = mailings.open_mailing(
        texts, issue="2017-11-19", list=list_id, default_language=default, provider="memory", segment=segment
    )
    while mailings.write_down(opened.mailing):
        pass
    rows = models.Delivery.objects.filter(mailing=opened.mailing)
    return Counter(rows.values_list("language", flat=True))


@pytest.mark.parametrize("by_zone", [False, True])
def test_each_person_is_counted_once_and_for_the_first_reason(store: Config, *, by_zone: bool) -> None:
    """Who left is not counted as outside the segment, nor who is suppressed as having it already."""
    from newsletter.store import models, overview
    from newsletter.store.segments import parse_segment, segment_query

    list_id = add_people(store, range(1, 41))
    assert written_down(["en", "es"], list_id, default="en") == {"en": 20, "es": 20}
    add_people(store, range(41, 61))
    models.Subscription.objects.filter(subscriber_id__in=(1, 2, 41, 42)).update(state="unsubscribed")
    models.Subscription.objects.filter(subscriber_id__in=(3, 43)).update(state="unconfirmed")
    for person in models.Subscriber.objects.filter(pk__in=(1, 4, 5, 44, 45)):
        models.Suppression.objects.create(address_key=person.address_key, reason="bounce", at=datetime.now(UTC))
    models.Subscriber.objects.filter(pk__gt=50).update(attributes={"timezone": "Europe/Madrid"})
    options = {"list": list_id, "issue": "2017-11-19", "default_language": "en", "by_zone": by_zone}
    left = {"unsubscribed": 4, "unconfirmed": 2}

    count = overview.headcount(["en", "es"], **options)  # type: ignore[arg-type]
    assert count.recipients == {"en": 8, "es": 7}  # 46 to 60
    assert count.left_out == {**left, "suppressed": 4, "already has it": 35}
    assert count.zones == ({"": 5, "Europe/Madrid": 10} if by_zone else {})

    count = overview.headcount(["en", "es"], **options, again=True)  # type: ignore[arg-type]
    assert count.left_out == {**left, "suppressed": 4}
    assert count.total == 50

    spanish = segment_query(parse_segment(store, "language=es"), list_id)
    count = overview.headcount(["en", "es"], **options, audience=spanish)  # type: ignore[arg-type]
    assert count.recipients == {"es": 7}
    assert count.left_out == {**left, "not in the segment": 28, "suppressed": 2, "already has it": 17}
