"""What is public of all that was sent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from audience import edition, editions
from issues_sent import png, rendered, send
from newsletter.config import Config
from newsletter.moments import Schedule
from newsletter.rendering.edition import Edition, Image
from newsletter.store.editions import frozen, thawed


def public(*private: str) -> list[tuple[str, str]]:
    from newsletter.store.published import published

    return [(row.issue, row.language) for row in published(private).rows]


BOTH = [("2017-11-19", "es"), ("2017-11-19", "en")]


def test_nothing_is_public_before_a_mailing_has_begun(store: Config) -> None:
    from newsletter.store import mailings, models

    assert public() == []
    people = models.List.objects.create(name="weekly")
    options: dict[str, Any] = {"list": people.pk, "default_language": "en", "provider": "memory"}
    opened = mailings.open_mailing(editions(), issue="2017-11-19", **options)
    assert public() == []  # still writing down
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    schedule = Schedule(send_at=tomorrow, zone="UTC", home_at=tomorrow)
    mailings.open_mailing(editions(key="2017-11-26"), issue="2017-11-26", schedule=schedule, **options)
    mailings.write_down(opened.mailing)
    assert public() == BOTH


@pytest.mark.parametrize("state", ["sending", "paused", "finished"])
def test_what_has_begun_stays_public(store: Config, state: str) -> None:
    from newsletter.store import models

    models.Mailing.objects.filter(pk=send(store)).update(state=state)
    assert public() == BOTH


def test_what_paused_before_it_began_is_not(store: Config) -> None:
    from newsletter.store import mailings, models

    people = models.List.objects.create(name="weekly")
    opened = mailings.open_mailing(
        editions(), issue="2017-11-19", list=people.pk, default_language="en", provider="memory"
    )
    mailings.pause(opened.mailing, "a look first")
    assert public() == []


def test_of_what_was_cancelled_somebody_must_have_it(store: Config) -> None:
    from newsletter.store import mailings, models

    mailing = send(store)
    mailings.cancel(mailing, "a mistake")
    assert public() == []
    batch = models.Batch.objects.filter(mailing=mailing)
    batch.update(answered=1, refused=1)
    assert public() == []
    batch.update(answered=2, refused=1)
    assert public() == BOTH


def test_private_issues_and_lists_are_not(store: Config) -> None:
    private = {language: replace(each, private=True) for language, each in editions().items()}
    send(store, made=private)
    assert public() == []
    send(store, "2017-11-26")
    assert public() == [("2017-11-26", "es"), ("2017-11-26", "en")]
    assert public("weekly") == []
    assert public("alerts", "none such") == [("2017-11-26", "es"), ("2017-11-26", "en")]


def test_single_mail_is_never_public(store: Config) -> None:
    from newsletter.store import mailings

    mailings.post(edition(), key="test:1", address="me@example.org", address_key=b"k" * 16, slots={}, provider="memory")
    assert public() == []


def test_the_newest_mailing_counts_in_each_language(store: Config) -> None:
    from newsletter.store import models
    from newsletter.store.published import load_edition, published

    first = send(store)
    models.Mailing.objects.filter(pk=first).update(state="finished", opened_at=datetime(2026, 1, 2, 3, tzinfo=UTC))
    mended = replace(edition("en"), subject="Mended")
    second = send(store, made={"en": mended}, again=True)
    rows = {row.language: row for row in published(()).rows}
    english = load_edition(rows["en"].edition)
    assert english is not None
    assert english.subject == "Mended"
    assert rows["en"].first_at == datetime(2026, 1, 2, 3, tzinfo=UTC)
    assert rows["en"].at > rows["en"].first_at
    spanish = load_edition(rows["es"].edition)
    assert spanish == edition("es")
    assert models.Edition.objects.get(pk=rows["en"].edition).mailing_id == second


def test_issues_are_in_the_order_of_their_dates_with_their_neighbours(store: Config) -> None:
    from newsletter.store.published import published

    for issue in ("2017-11-19", "2017-11-05", "2017-11-12"):  # sent in another order
        send(store, issue)
    found = published(())
    english = found.by_language["en"]
    assert [row.issue for row in english] == ["2017-11-19", "2017-11-12", "2017-11-05"]
    newest, middle, oldest = english
    assert found.neighbours(newest) == (middle, None)
    assert found.neighbours(middle) == (oldest, newest)
    assert found.neighbours(oldest) == (None, middle)
    assert set(found.by_issue["2017-11-12"]) == {"en", "es"}


def test_the_stamp_changes_with_what_is_public_and_with_nothing_else(store: Config) -> None:
    from newsletter.store import mailings, models
    from newsletter.store.published import published_stamp

    seen = [published_stamp(())]
    mailing = send(store)
    seen.append(published_stamp(()))
    models.Mailing.objects.filter(pk=mailing).update(state="finished")
    assert published_stamp(()) == seen[-1]
    other = send(store, "2017-11-26")
    seen.append(published_stamp(()))
    mailings.cancel(other, "a mistake")
    seen.append(published_stamp(()))
    assert seen[0] != seen[1] != seen[2] != seen[3]
    assert published_stamp(("weekly",)) == seen[0]


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_stay_when_the_file_is_gone(store: Config) -> None:
    from newsletter.store.published import load_image

    made = rendered(store)
    (name,) = {image.name for each in made.values() for image in each.images}
    send(store, made=made)
    (store.issues / "images" / "bridge.png").unlink()
    kept = load_image(name)
    assert kept is not None
    assert (kept.media_type, kept.content) == ("image/png", png(600, 300))
    assert load_image("0" * 32 + ".png") is None


def test_pictures_are_in_a_backup(store: Config) -> None:
    from newsletter.store import schema

    assert "image" in schema.our_tables()


def test_a_picture_is_kept_once(store: Config) -> None:
    from newsletter.store import models

    for issue in ("2017-11-19", "2017-11-26"):
        send(store, issue, made=rendered(store, issue))
    assert models.Image.objects.count() == 1


# --- frozen editions --------------------------------------------------------------------------------------------------


def test_a_private_edition_is_frozen_as_one(store: Config) -> None:
    from newsletter.store import models

    made = rendered(store, more="private: true\n")
    assert all(each.private for each in made.values())
    assert thawed(frozen(made["en"])[0]) == replace(
        made["en"], images=tuple(replace(image, content=b"") for image in made["en"].images)
    )
    mailing = models.Mailing.objects.get(pk=send(store, made=made))
    assert mailing.private


def test_an_edition_that_was_frozen_before_is_public_and_bare(store: Config) -> None:
    import json

    values = json.loads(frozen(edition())[0])
    del values["private"], values["imprint"]
    old = thawed(json.dumps(values))
    assert (old.private, old.imprint.preheader) == (False, "")


def test_no_link_of_a_private_edition_leads_to_the_archive(store: Config) -> None:
    made = rendered(store, more="private: true\n")
    for each in made.values():
        assert "/archive/" not in each.html + each.text
        assert 'href="#s2"' in each.html
    assert "/archive/en/2017-11-19/#s2" in rendered(store)["en"].html


def test_the_imprint_says_what_the_mail_shows(store: Config) -> None:
    imprint = rendered(store)["es"].imprint
    assert (imprint.number, imprint.date, imprint.preheader) == (
        "N.º 7",
        "Domingo, 19 de noviembre de 2017",
        "Lo que dice el río",
    )


def test_sisters_are_the_languages_of_one_mailing(store: Config) -> None:
    from newsletter.store import mailings, models
    from newsletter.store.published import sisters

    mailing = send(store)
    ids = dict(models.Edition.objects.filter(mailing=mailing).values_list("language", "pk"))
    assert sisters(ids["es"]) == ids
    mailings.post(edition(), key="test:1", address="me@example.org", address_key=b"k" * 16, slots={}, provider="memory")
    assert sisters(models.Edition.objects.get(mailing__kind="oneoff").pk) == {}


def test_the_picture_of_single_mail_is_kept_too(store: Config) -> None:
    from newsletter.store import mailings
    from newsletter.store.published import load_image

    picture = Image(name=f"{'a' * 32}.png", media_type="image/png", content=png(2, 2), width=2, height=2)
    mail: Edition = replace(edition(kind="transactional", key="welcome"), images=(picture,))
    for key in ("welcome:1", "welcome:2"):
        mailings.post(mail, key=key, address="me@example.org", address_key=b"k" * 16, slots={}, provider="memory")
    assert load_image(picture.name) is not None
