"""A segment means the same people on SQLite and on PostgreSQL: those whom the plain predicate means."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config
from newsletter.content.segments import Attribute, Bound, Segment, Value, kept_attribute, matches
from newsletter.errors import NotFound

NOW = datetime(2017, 11, 19, 18, 2, 3, 250_000, UTC)

# Few values that meet often, and among them what the two databases are known to see differently.
LANGUAGES = ["", "en", "es", "es-PE", "ES", "e", "est", "Es-pe", "É", "\u212ae"]
TAGS = ["board", "Board", "BOARD", "junta ñ", "100%", "a_b", "axb", "😀"]
NAMES = ["city", "City", "0", "1", "a.b", 'quo"te', "back\\slash", "ñandú", "$", "key", "a'b", "%s", "[0]", ""]
TEXTS = [
    *("Lima", "lima", "LIMA", "Ñ", "ñ", "é", "😀", 'a"b', "a\\b", "%", "", " "),
    *("1", "1.0", "01", "true", "True", "null"),
]
NUMBERS: list[int | float] = [
    *(0, 1, -1, 2, 18, 0.1, 0.2, 0.30000000000000004, 0.3, 1.0, 2.5, -0.0, 1e15, 999_999_999_999_999, 10**15, 2**53),
    *(2**53 + 1, 2**63, 2**64, 10**20, 1e20, 1e-7, 5e-324, 1e-300, 1e300, 1.79769313486231e308, 123456.789012345),
]
WORDS = [*TEXTS, "18", "0.1", "0.3", "1e20", "100000000000000000000", "yes", "no", "FALSE", "-0", "9007199254740993"]
LIMITS = [Decimal(text) for text in ("0", "1", "-1", "0.1", "0.3", "2.5", "18", "999999999999999", "1e20", "1e-7")]

BOUNDS: list[Bound] = ["at_least", "at_most", "more_than", "less_than"]
STORED: list[Value] = [*TEXTS, *NUMBERS, True, False]
values = st.sampled_from(STORED).map(kept_attribute)
people = st.fixed_dictionaries(
    {
        "language": st.sampled_from(LANGUAGES),
        "tags": st.sets(st.sampled_from(TAGS), max_size=3),
        "attributes": st.dictionaries(st.sampled_from(NAMES), values | st.none(), max_size=4),
        "joined_at": st.sampled_from(
            [
                datetime(2017, 1, 31, tzinfo=UTC),
                datetime(2017, 1, 31, 23, 59, 59, 999_999, UTC),
                datetime(2017, 2, 1, tzinfo=UTC),
                datetime(2017, 2, 1, 0, 0, 0, 1, UTC),
                NOW - timedelta(days=30),
                NOW - timedelta(days=30, microseconds=1),
                NOW,
            ]
        ),
    }
)
moments = st.none() | st.sampled_from([date(2017, 1, 31), date(2017, 2, 1), timedelta(days=30), timedelta(0)])
some_tags = st.lists(st.sampled_from(TAGS), max_size=2).map(tuple)
bounds = st.tuples(st.sampled_from(BOUNDS), st.sampled_from(LIMITS))
attribute_tests = st.builds(
    Attribute,
    name=st.sampled_from(NAMES),
    one_of=st.lists(st.sampled_from(WORDS), max_size=3).map(tuple),
    bounds=st.lists(bounds, max_size=2).map(tuple),
    absent=st.none() | st.booleans(),
)
parts: dict[str, st.SearchStrategy[Any]] = {
    "languages": st.lists(st.sampled_from(["es", "ES-PE", "e", "en", "ke", "é"]), max_size=2).map(tuple),
    "blank": st.booleans(),
    "any_tags": some_tags,
    "all_tags": some_tags,
    "no_tags": some_tags,
    "attributes": st.lists(attribute_tests, max_size=2).map(tuple),
    "joined_after": moments,
    "joined_before": moments,
}
few = st.sets(st.sampled_from(list(parts)), min_size=1, max_size=3)
leaves = few.flatmap(lambda names: st.fixed_dictionaries({name: parts[name] for name in names})).map(
    lambda chosen: Segment(**chosen)
)
segments = st.recursive(
    leaves,
    lambda inner: st.builds(
        Segment,
        languages=parts["languages"],
        blank=st.booleans(),
        all=st.lists(inner, max_size=2).map(tuple),
        any=st.lists(inner, max_size=2).map(tuple),
        excluded=st.none() | inner,
    ),
    max_leaves=5,
)


def fill(people: list[dict[str, Any]], *, raw: bool) -> int:
    """Subscribes the people, ids from 1, to a list; its id. `raw`: attributes are written without \\u escapes."""
    from django.db import connection

    from newsletter.store.models import List, Subscriber, SubscriberTag, Subscription, Tag

    SubscriberTag.objects.all().delete()
    Subscriber.objects.all().delete()
    list, _ = List.objects.get_or_create(name="weekly")
    other, _ = List.objects.get_or_create(name="alerts")
    tags = {name: Tag.objects.get_or_create(name=name)[0] for name in TAGS}
    Subscriber.objects.bulk_create(
        Subscriber(
            id=number,
            address_key=number.to_bytes(16, "big"),
            address=f"p{number}@example.org",
            language=person["language"],
            attributes=person["attributes"],
            created_at=NOW,
        )
        for number, person in enumerate(people, 1)
    )
    if raw and connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            for number, person in enumerate(people, 1):
                attributes = json.dumps(person["attributes"], ensure_ascii=False)
                cursor.execute("UPDATE subscriber SET attributes = %s WHERE id = %s", [attributes, number])
    SubscriberTag.objects.bulk_create(
        SubscriberTag(subscriber_id=number, tag=tags[tag])
        for number, person in enumerate(people, 1)
        for tag in person["tags"]
    )
    # Each is on another list too, since another day: it must count for nothing.
    for chosen, moved in ((list, timedelta(0)), (other, timedelta(days=300))):
        Subscription.objects.bulk_create(
            Subscription(
                list=chosen,
                subscriber_id=number,
                state="subscribed",
                joined_at=person["joined_at"] - moved,
                changed_at=NOW,
            )
            for number, person in enumerate(people, 1)
        )
    return int(list.pk)


def meant(segment: Segment, people: list[dict[str, Any]]) -> list[int]:
    return [number for number, person in enumerate(people, 1) if matches(segment, **person, now=NOW)]


def found(segment: Segment, list_id: int) -> list[int]:
    from newsletter.store.segments import segment_query

    return sorted(segment_query(segment, list_id, now=NOW).values_list("id", flat=True))


@pytest.mark.parametrize("raw", [False, True], ids=["escaped", "unescaped"])
def test_a_segment_means_whom_the_predicate_means(store: Config, raw: bool) -> None:
    everybody: list[dict[str, Any]] = []

    @settings(max_examples=1)
    @given(st.lists(people, min_size=60, max_size=60))
    def draw(drawn: list[dict[str, Any]]) -> None:
        everybody[:] = drawn

    draw()
    # Every value under two names, so that each meets each test.
    for value in STORED:
        attributes = {"city": kept_attribute(value), "0": kept_attribute(value)}
        person = {"language": "es-PE", "tags": {"board"}, "attributes": attributes, "joined_at": NOW}
        everybody.append(person)
    list_id = fill(everybody, raw=raw)

    @settings(max_examples=250)
    @given(segments)
    def compare(segment: Segment) -> None:
        assert found(segment, list_id) == meant(segment, everybody)

    compare()


def test_every_test_of_an_attribute_means_the_same_values(store: Config) -> None:
    people = [
        {
            "language": "",
            "tags": set(),
            "attributes": {"x": None if value is None else kept_attribute(value)},
            "joined_at": NOW,
        }
        for value in [*STORED, None]
    ]
    list_id = fill(people, raw=False)
    tests = [
        *(Attribute(name="x", one_of=(word,)) for word in WORDS),
        *(Attribute(name="x", bounds=((bound, limit),)) for limit in LIMITS for bound in BOUNDS),
        *(Attribute(name="x", absent=absent) for absent in (True, False)),
    ]
    for test in tests:
        segment = Segment(attributes=(test,))
        assert found(segment, list_id) == meant(segment, people), test
        opposite = Segment(excluded=segment)
        assert found(opposite, list_id) == meant(opposite, people), test


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(people, segments)
def test_not_is_the_opposite(person: dict[str, Any], segment: Segment) -> None:
    assert matches(segment, **person, now=NOW) is not matches(Segment(excluded=segment), **person, now=NOW)


def test_a_number_beyond_every_double_is_no_error(store: Config) -> None:
    """Such a number can come into the database by another hand only; it must not stop a mailing."""
    from django.db import connection

    list_id = fill([{"language": "", "tags": set(), "attributes": {}, "joined_at": NOW}], raw=False)
    for digits in ("1" + "0" * 400, "-1" + "0" * 400, "1e-400"):
        with connection.cursor() as cursor:
            cursor.execute("UPDATE subscriber SET attributes = %s", [f'{{"x": {digits}}}'])
        more = Segment(attributes=(Attribute(name="x", bounds=(("more_than", Decimal(1)),)),))
        assert found(more, list_id) == ([1] if digits.startswith("1" + "0" * 400) else [])


def test_only_subscribed_members_of_the_list_are_meant(store: Config) -> None:
    from newsletter.store.models import List, Subscription
    from newsletter.store.segments import segment_query

    person: dict[str, Any] = {"language": "", "tags": set(), "attributes": {}, "joined_at": NOW}
    list_id = fill([person] * 4, raw=False)
    for number, state in ((2, "unconfirmed"), (3, "unsubscribed")):
        Subscription.objects.filter(subscriber_id=number, list_id=list_id).update(state=state)
    Subscription.objects.filter(subscriber_id=4, list_id=list_id).delete()
    alerts = List.objects.get(name="alerts").pk
    assert list(segment_query(None, list_id).values_list("id", flat=True)) == [1]
    assert segment_query(None, alerts).count() == 4
    assert found(Segment(no_tags=("board",)), list_id) == [1]


def test_the_query_can_be_cut_into_ranges_of_ids_and_taken_as_sql(store: Config) -> None:
    from django.db import connection

    from newsletter.store.segments import segment_query

    person = {"language": "es", "tags": {"board", "100%"}, "attributes": {"%s": "100%"}, "joined_at": NOW}
    list_id = fill([person] * 10, raw=False)
    segment = Segment(
        languages=("es",),
        any_tags=("board", "100%"),
        attributes=(Attribute(name="%s", one_of=("100%", "1")),),
        joined_after=timedelta(days=1),
    )
    query = segment_query(segment, list_id, now=NOW).filter(id__gt=3, id__lte=7).values_list("id", flat=True)
    assert sorted(query) == [4, 5, 6, 7]
    sql, params = query.query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM ({sql}) AS chosen", params)
        assert cursor.fetchone() == (4,)


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("language=es", Segment(languages=("es",))),
        ("language = en", Segment(languages=("en",), blank=True)),
        ("tag=board", Segment(all_tags=("board",))),
        ("tag=a=b, tag=press ,language=es", Segment(languages=("es",), all_tags=("a=b", "press"))),
        ("abroad", Segment(excluded=Segment(languages=("es",)))),
    ],
)
def test_a_segment_is_named_or_written_out(store: Config, text: str, segment: Segment) -> None:
    from newsletter.store.segments import parse_segment

    with store.lists.open("a") as file:
        file.write("segments:\n  abroad: {not: {languages: [es]}}\n")
    assert parse_segment(store, text) == segment


@pytest.mark.parametrize(
    "text", ["abroat", "", "tag=", "city=Lima", "language=es,language=en", "tag=a,", "abroad,tag=a"]
)
def test_an_unknown_segment_names_the_known_ones(store: Config, text: str) -> None:
    from newsletter.store.segments import parse_segment

    with store.lists.open("a") as file:
        file.write("segments:\n  abroad: {not: {languages: [es]}}\n")
    with pytest.raises(NotFound, match=r"segments of .*: abroad"):
        parse_segment(store, text)
