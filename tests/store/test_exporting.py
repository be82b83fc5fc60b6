from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config
from newsletter.content.segments import Segment, kept_attribute, kept_name
from newsletter.errors import AddressError, NotFound

NOON = datetime(2017, 11, 19, 12, 30, 15, 123456, tzinfo=UTC)


def person(
    store: Config,
    address: str,
    *,
    name: str = "",
    language: str = "",
    tags: tuple[str, ...] = (),
    attributes: dict[str, Any] | None = None,
    lists: dict[str, str] | None = None,
    suppressed: str = "",
    joined: datetime = NOON,
) -> None:
    from newsletter.store import models
    from newsletter.store.keys import key_maker

    key = key_maker(store.pepper.encode())(address)
    row = models.Subscriber.objects.create(
        address_key=key, address=address, name=name, language=language, attributes=attributes or {}, created_at=NOON
    )
    for tag in tags:
        models.SubscriberTag.objects.create(subscriber=row, tag=models.Tag.objects.get_or_create(name=tag)[0])
    for list, state in (lists or {}).items():
        models.Subscription.objects.create(
            subscriber=row,
            list=models.List.objects.get_or_create(name=list)[0],
            state=state,
            joined_at=joined,
            changed_at=joined,
        )
    if suppressed:
        models.Suppression.objects.create(address_key=key, reason=suppressed, at=NOON)


def exported(store: Config, *, format: str = "csv", **wanted: Any) -> str:
    from newsletter.store.exporting import Wanted, export

    file = io.StringIO(newline="")
    count = export(store, Wanted(**wanted), file, format=format)  # type: ignore[arg-type]
    text = file.getvalue()
    assert format != "csv" or count == len(list(csv.reader(io.StringIO(text)))) - 1
    return text


def rows(text: str) -> list[dict[str, str]]:
    assert text.startswith("\ufeff")
    return list(csv.DictReader(io.StringIO(text[1:])))


def everything() -> dict[str, Any]:
    """All that an export carries, as the database holds it."""
    from newsletter.store.models import Subscriber, Suppression

    reasons = {bytes(each.pk): each.reason for each in Suppression.objects.all()}
    return {
        each.address: (
            each.name,
            each.language,
            json.dumps(each.attributes, sort_keys=True),
            sorted(each.tags.values_list("tag__name", flat=True)),
            sorted((row.list.name, row.state, row.joined_at) for row in each.subscriptions.select_related("list")),
            reasons.get(bytes(each.address_key)),
        )
        for each in Subscriber.objects.all()
    }


def emptied() -> None:
    from newsletter.store import models

    tables = (models.SubscriberTag, models.Tag, models.Subscription, models.Suppression, models.Subscriber)
    for table in (*tables, models.Consent, models.List):
        table.objects.all().delete()


def test_a_row_is_a_person_on_a_list_with_all_that_is_known(store: Config) -> None:
    from newsletter.store.models import Consent, Subscription

    person(
        store,
        "ana@example.org",
        name="Ana",
        language="es",
        tags=("press", "board, old"),
        attributes={"town": "Cusco", "age": 44},
        lists={"weekly": "subscribed", "alerts": "unsubscribed"},
        suppressed="bounce",
    )
    person(store, "bea@example.org")
    event = Consent.objects.create(kind="add", text="By phone", how="command line", at=NOON)
    Subscription.objects.filter(list__name="weekly").update(consent=event)
    first, second, third = rows(exported(store))
    assert first == {
        "email": "ana@example.org",
        "name": "Ana",
        "language": "es",
        "tags": '"board, old",press',
        "attributes": '{"age": 44, "town": "Cusco"}'
        if first["attributes"].startswith('{"age')
        else first["attributes"],
        "list": "weekly",
        "state": "subscribed",
        "joined_at": "2017-11-19T12:30:15.123456Z",
        "changed_at": "2017-11-19T12:30:15.123456Z",
        "consent_kind": "add",
        "consent_at": "2017-11-19T12:30:15.123456Z",
        "consent_how": "command line",
        "consent_text": "By phone",
        "suppressed": "bounce",
        "suppressed_at": "2017-11-19T12:30:15.123456Z",
        "created_at": "2017-11-19T12:30:15.123456Z",
        "newsletter_export": "1",
    }
    assert json.loads(first["attributes"]) == {"town": "Cusco", "age": 44}
    assert (second["list"], second["state"], second["consent_kind"]) == ("alerts", "unsubscribed", "")
    assert (third["email"], third["list"], third["state"]) == ("bea@example.org", "", "")


def test_who_is_wanted_can_be_said(store: Config) -> None:
    person(store, "ana@example.org", tags=("x",), lists={"weekly": "subscribed", "alerts": "unsubscribed"})
    person(store, "bea@example.org", lists={"weekly": "subscribed"})
    person(store, "carla@example.org", lists={"weekly": "unsubscribed"})

    def who(**wanted: Any) -> list[tuple[str, str]]:
        return [(row["email"].partition("@")[0], row["list"]) for row in rows(exported(store, **wanted))]

    assert who() == [("ana", "weekly"), ("ana", "alerts"), ("bea", "weekly"), ("carla", "weekly")]
    assert who(list="weekly") == [("ana", "weekly"), ("bea", "weekly"), ("carla", "weekly")]
    assert who(states=("unsubscribed",)) == [("ana", "alerts"), ("carla", "weekly")]
    assert who(list="weekly", states=("subscribed",)) == [("ana", "weekly"), ("bea", "weekly")]
    assert who(list="weekly", segment=Segment(all_tags=("x",))) == [("ana", "weekly")]
    with pytest.raises(NotFound, match='no list "wekly", did you mean "weekly"'):
        who(list="wekly")


def test_a_list_that_nobody_joined_gives_a_file_without_rows(store: Config) -> None:
    assert rows(exported(store, list="alerts")) == []
    assert json.loads(exported(store, list="alerts", format="json")) == []


def test_more_people_than_are_held_in_memory_are_all_in_it_once(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import exporting

    monkeypatch.setattr(exporting, "AT_ONCE", 3)
    for number in range(10):
        person(store, f"reader{number}@example.org", lists={"weekly": "subscribed"})
    addresses = [row["email"] for row in rows(exported(store))]
    assert addresses == [f"reader{number}@example.org" for number in range(10)]


def test_json_is_one_array_or_an_object_a_line(store: Config) -> None:
    person(store, "ana@example.org", tags=("x",), attributes={"a": True}, lists={"weekly": "subscribed"})
    person(store, "bea@example.org", name="=1+1")
    people = json.loads(exported(store, format="json"))
    assert [json.loads(line) for line in exported(store, format="jsonl").splitlines()] == people
    assert people[0]["tags"] == ["x"]
    assert people[0]["attributes"] == {"a": True}
    nothing = dict.fromkeys(("list", "state", "joined_at", "changed_at", "suppressed", "suppressed_at"))
    nothing |= dict.fromkeys(("consent_kind", "consent_at", "consent_how", "consent_text"))
    facts = {"email": "bea@example.org", "name": "=1+1", "language": "", "tags": [], "attributes": {}}
    assert people[1] == {**facts, **nothing, "created_at": "2017-11-19T12:30:15.123456Z"}


@pytest.mark.parametrize(
    "cell", ["=1+1", "+49 30 1234", "-1", "@cmd", "\tx", "\rx", "\0x", "  =1", " '=1", "'=1", "＝1"]
)
def test_no_cell_is_a_formula_and_none_is_lost(cell: str) -> None:
    from newsletter.store.sheets import guarded, unguarded

    assert guarded(cell) == f"'{cell}"
    assert unguarded(guarded(cell)) == cell


@given(st.text(alphabet="'=+-@ \t\r\0ab", max_size=6))
def test_the_guard_can_be_taken_off_again(cell: str) -> None:
    from newsletter.store.sheets import guarded, unguarded

    assert unguarded(guarded(cell)) == cell
    assert guarded(cell).lstrip(" ")[:1] not in tuple("=+-@\t\r\0")


def test_a_file_of_ours_begins_no_cell_like_a_formula(store: Config) -> None:
    person(store, "=cmd@example.org", name="+49 30 1234", tags=("@x", "-y"), lists={"weekly": "subscribed"})
    (row,) = rows(exported(store))
    assert (row["email"], row["name"], row["tags"]) == ("'=cmd@example.org", "'+49 30 1234", "'-y,@x")


def test_the_file_is_for_its_owner_and_there_only_when_whole(tmp_path: Path) -> None:
    from newsletter.store.exporting import new_file

    path = tmp_path / "people.csv"
    with new_file(path) as file:
        file.write("a")
        assert not path.exists()
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("a", 0o600)
    with pytest.raises(ZeroDivisionError), new_file(path) as file:
        file.write(str(1 // 0))
    assert [each.name for each in tmp_path.iterdir()] == ["people.csv"]
    assert path.read_text() == "a"


def reimported(store: Config, text: str, **options: Any) -> Any:
    from newsletter.store.importing import import_file

    path = store.root / "people.csv"
    path.write_text(text, "utf-8", newline="")
    return import_file(store, path, **options)


def test_phone_numbers_and_odd_names_come_back_as_they_were(store: Config) -> None:
    person(store, "ana@example.org", name="'=Ana", attributes={"phone": "+49 30 1", "zip": "00123", "n": 1.5})
    person(store, "bea@example.org", name='Bea \\ "la" Dos, Líneas; \'s', tags=('q"uote', "a,b", "'x"))
    before, text = everything(), exported(store)
    emptied()
    report = reimported(store, text)
    assert everything() == before
    assert (report.new, report.rejected) == (2, 0)
    assert reimported(store, text).unchanged == 2


def test_an_export_of_ours_brings_nobody_back_either(store: Config) -> None:
    from newsletter.store.models import Subscriber, Subscription

    person(store, "ana@example.org", lists={"weekly": "subscribed"})
    person(store, "bea@example.org", lists={"weekly": "subscribed"})
    text = exported(store)
    Subscription.objects.filter(subscriber__address="ana@example.org").update(state="unsubscribed")
    Subscriber.objects.get(address="bea@example.org").delete()
    person(store, "carla@example.org", suppressed="erased")
    before = everything()
    report = reimported(store, text.replace("bea@", "carla@"))
    assert everything() == before
    assert (report.stay_unsubscribed, report.erased) == (1, 1)


def test_people_of_our_export_go_to_their_lists_or_to_the_one_that_is_named(store: Config) -> None:
    person(store, "ana@example.org", lists={"weekly": "subscribed", "alerts": "unconfirmed"})
    text = exported(store)
    emptied()
    report = reimported(store, text.replace(",alerts,", ",gone,"))
    assert report.reasons == {"there is no list 'gone' in lists.yaml": 1}
    emptied()
    reimported(store, text, list="alerts")
    assert [row[:2] for row in everything()["ana@example.org"][4]] == [("alerts", "subscribed")]


# --- import(export(x)) == x -------------------------------------------------------------------------------------------


def _kept(keep: Any) -> Any:
    def accepted(value: Any) -> bool:
        try:
            keep(value)
        except ValueError:
            return False
        return True

    return accepted


NASTY = st.one_of(
    st.text(max_size=20),
    st.text(alphabet="'\"=+-@,;|\\\t\r\n éñ日{}[]:_", max_size=12),
    st.sampled_from(
        ["=cmd|' /C calc'!A0", "+49 30 1234", "'=x", "true", "18", "NULL", "a\\nb", "\\", '""', "[x]", "{}"]
    ),
)
TAG = NASTY.filter(_kept(kept_name)).map(kept_name)
VALUE = st.one_of(
    st.booleans(),
    st.integers(-(10**14), 10**14),
    st.floats(-1e300, 1e300),
    NASTY.filter(_kept(kept_attribute)),
).map(kept_attribute)
STATE = st.sampled_from(["subscribed", "unconfirmed", "unsubscribed"])
LOCAL = st.from_regex(r"[a-z0-9=+'{}|/!#$%&*?^_`~-]{1,8}", fullmatch=True) | st.sampled_from(["josé", "日本", "=1+1"])
PERSON = st.fixed_dictionaries(
    {
        "name": NASTY,
        "language": st.sampled_from(["", "en", "es", "es-PE", "fr"]),
        "tags": st.sets(TAG, max_size=4).map(tuple),
        "attributes": st.dictionaries(TAG, VALUE, max_size=4),
        "lists": st.dictionaries(st.sampled_from(["weekly", "alerts"]), STATE),
        "suppressed": st.sampled_from(["", "", "", "bounce", "complaint", "manual"]),
        "joined": st.datetimes(datetime(1990, 1, 1), datetime(2024, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    }
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(people=st.dictionaries(LOCAL, PERSON, max_size=6))
def test_what_is_exported_and_imported_is_what_it_was(store: Config, people: dict[str, dict[str, Any]]) -> None:
    from newsletter.store.cells import tidy
    from newsletter.store.keys import normalised

    emptied()
    seen = set()
    for local, facts in people.items():
        address = f"{local}@example.org"
        try:
            key = normalised(address)
        except AddressError:
            continue
        if key not in seen:
            seen.add(key)
            person(store, address, **{**facts, "name": tidy(facts["name"])})
    before, text = everything(), exported(store)
    emptied()
    report = reimported(store, text)
    assert everything() == before
    assert report.rejected == 0
    assert reimported(store, text).changed == 0
    assert everything() == before
