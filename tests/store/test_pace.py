"""Caps, rate, warm-up and shares hold whatever happens, and nobody waits longer than promised, on both databases."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from newsletter.config import PLANS, Config, Pace, WarmUp
from newsletter.errors import NotFound

if TYPE_CHECKING:
    from newsletter.store.pace import Kind, Room

NOON = 1_795_867_200.0  # a Saturday; a slot of each span begins here
HOUR, DAY = 3600.0, 86400.0
MANY = 10**6
_names = itertools.count()

on_one_database = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def new_way() -> int:
    from newsletter.store import pace

    return pace.way_id(f"way-{next(_names)}")


def take(way: int, pace_: Pace, wanted: int, now: float, kind: Kind = "issue") -> int:
    from django.db import connection, transaction

    from newsletter.store import pace

    with transaction.atomic(), connection.cursor() as cursor:
        return pace.take(cursor, way, pace_, kind, wanted, now)


def give_back(way: int, pace_: Pace, count: int, *, taken_at: float, now: float, kind: Kind = "issue") -> None:
    from django.db import connection, transaction

    from newsletter.store import pace

    with transaction.atomic(), connection.cursor() as cursor:
        pace.give_back(cursor, way, pace_, kind, count, taken_at=taken_at, now=now)


def room(way: int, pace_: Pace, now: float, kind: Kind = "issue") -> Room:
    from newsletter.store import pace

    return pace.room(way, pace_, kind, now)


def forecast(way: int, pace_: Pace, count: int, now: float) -> float:
    from newsletter.store import pace

    return pace.forecast(way, pace_, count, now)


def spent(way: int, now: float) -> dict[str, int]:
    from newsletter.store import pace

    return pace.spent(way, now)


def before(at: float) -> float:
    return math.nextafter(at, -math.inf)


# --- the truth --------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Truth:
    """Every message that left, by time and kind, and what the pace says about them, told by other means."""

    pace: Pace
    left: list[tuple[float, Kind, int]] = field(default_factory=list)
    began: float | None = None

    def within(self, first: float, last: float, *kinds: Kind) -> int:
        return sum(n for at, kind, n in self.left if first <= at <= last and (not kinds or kind in kinds))

    def check(self, *, rate: bool = True) -> None:
        """Every window that ends with a message, both of its ends within it."""
        for end in {at for at, _, _ in self.left}:
            if self.pace.per_hour:
                self.check_window(end - HOUR, end, self.pace.per_hour)
            if cap := self.day_cap(end):
                self.check_window(end - DAY, end, cap)
        if self.pace.per_second and rate:
            self.check_rate()

    def check_window(self, first: float, last: float, cap: int) -> None:
        assert self.within(first, last) <= cap
        kept = min(math.ceil(Fraction(cap * self.pace.oneoff, 100)), cap - 1)
        issues = max((at for at, kind, _ in self.left if kind == "issue" and at <= last), default=-1.0)
        if issues == last or not self.pace.warm_up:
            assert self.within(first, last, "issue") <= cap - kept
        assert self.within(first, last, "confirm") <= max(1, cap // 5)

    def day_cap(self, now: float) -> int:
        caps = [self.pace.per_day] if self.pace.per_day else []
        if (warm_up := self.pace.warm_up) and self.began is not None:
            day = int(max(now - self.began, 0) // DAY)
            if day < warm_up.days:
                caps.append(math.floor(warm_up.first_day * Fraction(100 + warm_up.growth, 100) ** day))
        return min(caps, default=0)

    def check_rate(self) -> None:
        rate = self.pace.per_second
        burst = max(1.0, rate)
        kept = min(burst * self.pace.oneoff / 100, burst - 1) if burst >= 2 else 0.0
        times = sorted({at for at, _, _ in self.left})
        for first, last in itertools.combinations_with_replacement(times, 2):
            more = rate * (last - first) + 1e-5
            assert self.within(first, last) <= burst + more
            assert self.within(first, last, "issue") <= burst - kept + more
            assert self.within(first, last, "confirm") <= max(1.0, rate / 5) + more / 5


def check_promise(way: int, pace_: Pace, now: float, kind: Kind) -> Room:
    """What `room` says is what `take` gives, now and at the time that it names."""
    from django.db import connection, transaction

    promised = room(way, pace_, now, kind)

    def given(at: float) -> int:
        with transaction.atomic(), connection.cursor():
            taken = take(way, pace_, MANY, at, kind)
            transaction.set_rollback(True)
            return taken

    if promised.count:
        assert promised.until == 0.0
        assert not promised.why
        assert given(now) == min(promised.count, MANY)
    else:
        assert promised.until > now
        assert promised.why
        assert given(now) == given(before(promised.until)) == 0
        assert given(promised.until) >= 1
    return promised


KINDS: st.SearchStrategy[Kind] = st.sampled_from(["issue", "oneoff", "confirm"])
WARM_UPS = st.none() | st.builds(
    WarmUp, first_day=st.integers(1, 30), growth=st.integers(1, 300), days=st.integers(1, 6)
)
PACES = st.builds(
    Pace,
    per_second=st.sampled_from([0.0, 0.0, 0.01, 0.3, 1.0, 2.0, 3.7, 20.0]),
    per_hour=st.sampled_from([0, 1, 2, 7, 30]),
    per_day=st.sampled_from([0, 1, 3, 20, 100]),
    warm_up=WARM_UPS,
    oneoff=st.integers(0, 90),
).filter(bool)
PAUSES = st.one_of(
    st.just(0.0),
    st.floats(0, 3),
    st.floats(0, 120),
    st.floats(0, 4000),
    st.floats(0, 40000),
    st.sampled_from([60.0, HOUR, HOUR + 60, 900.0, DAY, DAY + 900]),
)
STEPS = st.lists(st.tuples(PAUSES, KINDS, st.integers(1, 40), st.sampled_from("ttttwgg")), min_size=1, max_size=25)


def play(pace_: Pace, steps: list[tuple[float, Kind, int, str]]) -> Truth:
    """Takes, waits for room and takes, or gives back. Checks promises on the way."""
    way, truth, now = new_way(), Truth(pace=pace_), NOON
    takes: list[tuple[float, Kind, int]] = []
    for pause, kind, wanted, what in steps:
        now += pause
        if what == "g" and takes:
            at, kind_, n = takes.pop(wanted % len(takes))
            back = min(n, wanted)
            give_back(way, pace_, back, taken_at=at, now=now, kind=kind_)
            truth.left[truth.left.index((at, kind_, n))] = (at, kind_, n - back)
            continue
        promised = check_promise(way, pace_, now, kind)
        if what == "w" and not promised.count:
            now = promised.until
        if count := take(way, pace_, wanted, now, kind):
            truth.began = now if truth.began is None else truth.began
            takes.append((now, kind, count))
            truth.left.append((now, kind, count))
    return truth


@on_one_database
@given(pace_=PACES, steps=STEPS)
def test_no_window_holds_more_than_its_cap_and_every_promise_is_kept(
    store: Config, pace_: Pace, steps: list[tuple[float, Kind, int, str]]
) -> None:
    play(pace_, steps).check()


@on_one_database
@given(pace_=PACES, steps=STEPS, jumps=st.lists(st.floats(-3 * DAY, 3 * DAY) | st.floats(-120, 120), min_size=25))
def test_caps_hold_in_the_time_that_is_told_even_when_clocks_jump(
    store: Config, pace_: Pace, steps: list[tuple[float, Kind, int, str]], jumps: list[float]
) -> None:
    play(Pace(per_hour=5, per_day=20, oneoff=pace_.oneoff), steps)
    without_warm_up = Pace(
        per_second=pace_.per_second, per_hour=pace_.per_hour, per_day=pace_.per_day or 9, oneoff=pace_.oneoff
    )
    jumping = [(step[0] + jump, *step[1:]) for step, jump in zip(steps, jumps, strict=False)]
    play(without_warm_up, jumping).check(rate=False)


# --- caps -------------------------------------------------------------------------------------------------------------


def test_a_slot_counts_until_no_part_of_it_lies_in_the_window(store: Config) -> None:
    way, pace_ = new_way(), Pace(per_hour=10, oneoff=0)
    assert take(way, pace_, MANY, NOON + 59.9) == 10
    assert take(way, pace_, 1, before(NOON + HOUR + 60)) == 0
    assert room(way, pace_, NOON + 60).until == NOON + HOUR + 60
    assert take(way, pace_, MANY, NOON + HOUR + 60) == 10


def test_no_two_bursts_around_midnight_share_a_day(store: Config) -> None:
    """What a token bucket would get wrong."""
    way, pace_ = new_way(), Pace(per_day=300, oneoff=0)
    midnight = NOON + DAY / 2
    assert take(way, pace_, MANY, midnight - 1) == 300
    assert sum(take(way, pace_, MANY, midnight + minutes * 60) for minutes in range(24 * 60)) == 0
    assert take(way, pace_, MANY, midnight + DAY) == 300


@pytest.mark.parametrize(
    ("plan", "cap", "span"),
    [("brevo-free", 300, DAY), ("google-workspace", 2000, DAY), ("shared-hosting", 100, HOUR)],
)
def test_plans_are_kept(store: Config, plan: str, cap: int, span: float) -> None:
    way, pace_ = new_way(), replace(Pace(), **PLANS[plan])  # type: ignore[arg-type]
    assert take(way, pace_, MANY, NOON) == cap * 9 // 10
    assert take(way, pace_, MANY, NOON, "oneoff") == cap // 10
    assert room(way, pace_, NOON).why == f"the cap of {cap:,} {'a day' if span == DAY else 'an hour'}"
    assert take(way, pace_, MANY, NOON + span) == 0


def test_without_a_pace_nothing_is_written_and_all_may_leave(store: Config) -> None:
    from newsletter.store.models import Spending

    way = new_way()
    assert take(way, Pace(), MANY, NOON) == MANY
    give_back(way, Pace(), 5, taken_at=NOON, now=NOON)
    assert room(way, Pace(), NOON).count > MANY
    assert forecast(way, Pace(), MANY, NOON) == NOON
    assert not Spending.objects.exists()


@pytest.mark.parametrize("wanted", [0, -3])
def test_nothing_wanted_is_nothing_taken(store: Config, wanted: int) -> None:
    way, pace_ = new_way(), Pace(per_hour=10)
    assert take(way, pace_, wanted, NOON) == 0
    assert spent(way, NOON) == {"hour": 0, "day": 0}


def test_ways_out_do_not_share_a_pace(store: Config) -> None:
    first, second, pace_ = new_way(), new_way(), Pace(per_hour=10, per_second=5, oneoff=0)
    assert (take(first, pace_, MANY, NOON), take(first, pace_, MANY, NOON)) == (5, 0)
    assert take(second, pace_, MANY, NOON) == 5


def test_a_cap_that_is_set_later_knows_what_left_before(store: Config) -> None:
    way = new_way()
    take(way, Pace(per_hour=100, oneoff=0), 80, NOON)
    assert take(way, Pace(per_day=100, oneoff=0), MANY, NOON + 7200) == 20


def test_a_cap_that_is_lowered_below_what_left_lets_nothing_out(store: Config) -> None:
    way = new_way()
    take(way, Pace(per_hour=100), 80, NOON)
    lower = Pace(per_hour=10)
    assert take(way, lower, 5, NOON + 60, "oneoff") == 0
    assert check_promise(way, lower, NOON + 60, "oneoff").until == NOON + HOUR + 60


def test_a_take_that_is_rolled_back_was_none(store: Config) -> None:
    from django.db import transaction

    way, pace_ = new_way(), Pace(per_hour=10, per_second=10, warm_up=WarmUp(first_day=10), oneoff=0)
    with transaction.atomic():
        assert take(way, pace_, MANY, NOON) == 10
        transaction.set_rollback(True)
    assert take(way, pace_, MANY, NOON) == 10


# --- shares -----------------------------------------------------------------------------------------------------------


def test_issues_leave_a_tenth_to_single_mail_which_may_take_all(store: Config) -> None:
    way, pace_ = new_way(), Pace(per_day=300)
    assert take(way, pace_, MANY, NOON) == 270
    reason = room(way, pace_, NOON)
    assert reason.why == "the cap of 300 a day (30 of them kept for single mail)"
    assert take(way, pace_, MANY, NOON, "oneoff") == 30
    other = new_way()
    assert take(other, pace_, MANY, NOON, "oneoff") == 300
    assert room(other, pace_, NOON).why == "the cap of 300 a day"


@pytest.mark.parametrize(("cap", "issues"), [(1, 1), (2, 1), (3, 2), (11, 9), (100, 90)])
def test_the_reserve_is_rounded_up_and_never_all(store: Config, cap: int, issues: int) -> None:
    assert take(new_way(), Pace(per_day=cap), MANY, NOON) == issues
    assert take(new_way(), Pace(per_day=cap, oneoff=90), MANY, NOON) == max(cap // 10, 1)
    assert take(new_way(), Pace(per_day=cap, oneoff=0), MANY, NOON) == cap


@pytest.mark.parametrize(("cap", "confirmations"), [(1, 1), (4, 1), (9, 1), (10, 2), (300, 60)])
def test_confirmations_take_a_fifth_at_most(store: Config, cap: int, confirmations: int) -> None:
    way, pace_ = new_way(), Pace(per_day=cap)
    assert take(way, pace_, MANY, NOON, "confirm") == confirmations
    assert take(way, pace_, MANY, NOON + HOUR, "confirm") == 0
    if cap > 1:
        assert "confirmations may take a fifth" in room(way, pace_, NOON, "confirm").why
        assert take(way, pace_, 1, NOON, "oneoff") == 1


def test_confirmations_have_a_fifth_of_the_rate(store: Config) -> None:
    way, pace_ = new_way(), Pace(per_second=10)
    assert take(way, pace_, MANY, NOON, "confirm") == 2
    assert take(way, pace_, MANY, NOON, "oneoff") == 8
    assert take(way, pace_, MANY, NOON + 10, "confirm") == 2


# --- the rate ---------------------------------------------------------------------------------------------------------


def test_the_rate_lets_a_second_s_worth_out_at_once_and_then_as_time_goes_by(store: Config) -> None:
    way, pace_ = new_way(), Pace(per_second=10, oneoff=0)
    assert [take(way, pace_, MANY, NOON + at) for at in (0, 0, 0.5, 0.5625, 0.625, 100)] == [10, 0, 5, 0, 1, 10]
    assert room(way, pace_, NOON + 100).why == "the rate of 10 a second"


@pytest.mark.parametrize("rate", [0.0001, 0.3, 1.0, 1.9, 7.3, 999.7])
def test_a_message_leaves_at_the_very_moment_that_was_promised(store: Config, rate: float) -> None:
    way, pace_, now = new_way(), Pace(per_second=rate), NOON + 0.123
    take(way, pace_, MANY, now)
    for _ in range(10):
        now = check_promise(way, pace_, now, "issue").until
        assert take(way, pace_, MANY, now) == 1


# --- warm-up ----------------------------------------------------------------------------------------------------------


def test_a_warm_up_grows_to_the_cap_from_the_day_of_the_first_message(store: Config) -> None:
    from newsletter.store.models import Way

    way, pace_ = new_way(), Pace(per_day=300, warm_up=WarmUp(first_day=100, growth=15, days=30), oneoff=0)
    assert room(way, pace_, NOON - 5 * DAY).count == 100
    assert Way.objects.get(pk=way).begun_at is None
    daily = []
    for day in range(10):
        daily.append(take(way, pace_, MANY, NOON + day * (DAY + 900)))
        assert take(way, pace_, MANY, NOON + day * (DAY + 900) + HOUR) == 0
    assert daily == [100, 115, 132, 152, 174, 201, 231, 266, 300, 300]
    assert Way.objects.get(pk=way).begun_at == NOON


def test_a_warm_up_ends_after_its_days(store: Config) -> None:
    way, pace_ = new_way(), Pace(warm_up=WarmUp(first_day=1, growth=1, days=3), oneoff=0)
    assert take(way, pace_, MANY, NOON) == 1
    assert room(way, pace_, NOON).why == "the warm-up, which on day 1 allows 1 a day"
    assert take(way, pace_, MANY, before(NOON + 3 * DAY)) == 1
    assert check_promise(way, pace_, NOON + 3 * DAY - 1, "issue").until == NOON + 3 * DAY
    assert take(way, pace_, MANY, NOON + 3 * DAY) == MANY
    assert room(way, pace_, NOON + 3 * DAY).count > MANY


def test_a_warm_up_that_is_set_later_begins_then(store: Config) -> None:
    way = new_way()
    take(way, Pace(per_day=1000), 500, NOON)
    later = NOON + 100 * DAY
    assert take(way, Pace(per_day=1000, warm_up=WarmUp(first_day=50), oneoff=0), MANY, later) == 50


def test_a_warm_up_that_a_wrong_clock_began_in_the_future_begins_again(store: Config) -> None:
    from newsletter.store.models import Way

    way, pace_ = new_way(), Pace(warm_up=WarmUp(first_day=10), oneoff=0)
    take(way, pace_, 1, NOON + 10_000 * DAY)
    assert take(way, pace_, MANY, NOON) == 10
    assert Way.objects.get(pk=way).begun_at == NOON


def test_the_longest_warm_up_is_computed(store: Config) -> None:
    way, pace_ = new_way(), Pace(per_day=50, warm_up=WarmUp(first_day=10**9, growth=1000, days=365))
    take(way, pace_, 1, NOON)
    assert room(way, pace_, NOON + 364.5 * DAY).count == 45


# --- giving back ------------------------------------------------------------------------------------------------------


def test_what_did_not_leave_may_leave_at_once(store: Config) -> None:
    way, pace_ = new_way(), Pace(per_hour=10, per_second=10, oneoff=0)
    assert take(way, pace_, MANY, NOON) == 10
    give_back(way, pace_, 4, taken_at=NOON, now=NOON)
    assert spent(way, NOON) == {"hour": 6, "day": 6}
    assert take(way, pace_, MANY, NOON) == 4


def test_it_goes_back_to_the_slot_that_it_was_taken_from(store: Config) -> None:
    way, pace_ = new_way(), Pace(per_hour=10, oneoff=0)
    take(way, pace_, 5, NOON)
    take(way, pace_, 5, NOON + 1800)
    give_back(way, pace_, 5, taken_at=NOON, now=NOON + 1800)
    assert take(way, pace_, MANY, NOON + 1800) == 5
    assert room(way, pace_, NOON + HOUR + 60).count == 0


def test_it_is_dropped_when_the_slot_counts_no_more(store: Config) -> None:
    from newsletter.store.models import Spending

    way, pace_ = new_way(), Pace(per_hour=10, oneoff=0)
    take(way, pace_, 10, NOON)
    take(way, pace_, 10, NOON + HOUR + 60)
    give_back(way, pace_, 10, taken_at=NOON, now=NOON + HOUR + 60)
    assert spent(way, NOON + HOUR + 60) == {"hour": 10, "day": 10}
    assert take(way, pace_, MANY, NOON + HOUR + 60) == 0
    assert set(Spending.objects.filter(way=way, span="hour").values_list("issue", flat=True)) == {10}


def test_nothing_becomes_negative_and_no_other_kind_is_given_back(store: Config) -> None:
    from newsletter.store.models import Bucket, Spending

    way, pace_ = new_way(), Pace(per_hour=10, per_second=10, oneoff=0)
    take(way, pace_, 3, NOON)
    take(way, pace_, 2, NOON, "oneoff")
    give_back(way, pace_, MANY, taken_at=NOON, now=NOON)
    give_back(way, pace_, MANY, taken_at=NOON, now=NOON)
    give_back(way, pace_, -5, taken_at=NOON, now=NOON)
    give_back(way, pace_, 5, taken_at=NOON + 1e6, now=NOON)
    assert set(Spending.objects.filter(way=way).values_list("issue", "oneoff", "confirm")) == {(0, 2, 0)}
    assert Bucket.objects.get(way=way).tokens == 10


def test_the_rate_gets_back_only_what_was_not_refilled_since(store: Config) -> None:
    way, pace_ = new_way(), Pace(per_second=10, oneoff=0)
    assert take(way, pace_, 10, NOON) == 10
    assert take(way, pace_, 5, NOON + 0.5) == 5
    give_back(way, pace_, 10, taken_at=NOON, now=NOON + 0.5)
    assert take(way, pace_, MANY, NOON + 0.5) == 5  # with the five before: the ten that a bucket holds


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-1e12, -60 * DAY, 60 * DAY, 1e12])
def test_a_clock_that_is_wrong_for_a_moment_stops_nothing(store: Config, jump: float) -> None:
    way, pace_ = new_way(), Pace(per_second=10, per_hour=50, per_day=100, warm_up=WarmUp(first_day=80), oneoff=0)
    assert take(way, pace_, MANY, NOON) == 10
    assert take(way, pace_, MANY, NOON + jump) == 10
    assert take(way, pace_, MANY, NOON + 1) == 10
    assert spent(way, NOON + 1) == {"hour": 20, "day": 20}


@pytest.mark.parametrize("back", [0.5, 30.0, 59.0, 600.0, HOUR, 3 * HOUR])
def test_a_clock_that_is_put_back_exceeds_no_cap(store: Config, back: float) -> None:
    way, pace_ = new_way(), Pace(per_day=10, oneoff=0)
    assert take(way, pace_, MANY, NOON) == 10
    assert take(way, pace_, MANY, NOON - back) == 0
    assert check_promise(way, pace_, NOON - back, "issue").until == NOON + DAY + 900


def test_two_machines_whose_clocks_differ_do_not_fill_the_bucket_twice(store: Config) -> None:
    way, pace_ = new_way(), Pace(per_second=2, oneoff=0)
    taken = sum(take(way, pace_, 1, NOON + step / 100 + (step % 2) * 30) for step in range(100))
    assert taken <= 1 + 2 + 2 * 1  # one before the other's clock is seen, a full bucket, and what a second adds
    assert check_promise(way, pace_, NOON + 1, "issue").until <= NOON + 1 + 31


# --- the rows ---------------------------------------------------------------------------------------------------------


def test_a_way_out_has_one_row_however_often_it_is_asked_for(store: Config) -> None:
    from newsletter.store import pace
    from newsletter.store.models import Way

    assert pace.way_id("relay") == pace.way_id("relay") != pace.way_id("relay-2")
    assert sorted(Way.objects.values_list("name", flat=True)) == ["relay", "relay-2"]


def test_the_id_of_a_row_that_was_rolled_back_is_forgotten(store: Config) -> None:
    from django.db import transaction

    from newsletter.store import pace
    from newsletter.store.models import Way

    with transaction.atomic():
        pace.way_id("relay")
        transaction.set_rollback(True)
    assert Way.objects.get(pk=pace.way_id("relay")).name == "relay"


def test_a_way_out_that_is_not_in_the_database_is_named(store: Config) -> None:
    with pytest.raises(NotFound, match="way out 4711: not in this database"):
        take(4711, Pace(per_hour=1), 1, NOON)


def test_tidying_removes_what_counts_no_more_and_changes_no_answer(store: Config) -> None:
    from newsletter.store import pace
    from newsletter.store.models import Spending

    way, pace_ = new_way(), Pace(per_hour=10, per_day=100)
    for hour in range(24 * 5):
        take(way, pace_, 3, NOON + hour * HOUR)
    now = NOON + 5 * DAY
    rooms = [room(way, pace_, now, kind) for kind in ("issue", "oneoff", "confirm")]
    counted = spent(way, now)
    assert pace.tidy(now) > 100
    assert rooms == [room(way, pace_, now, kind) for kind in ("issue", "oneoff", "confirm")]
    assert spent(way, now) == counted
    assert pace.tidy(now) == 0
    assert pace.tidy(now + 10 * DAY) > 0
    assert not Spending.objects.exists()


# --- many at once -----------------------------------------------------------------------------------------------------


def at_once(*works: Callable[[], None]) -> None:
    """Each in a thread with a connection of its own, all beginning at one moment."""
    from django.db import connections

    barrier, errors = threading.Barrier(len(works)), list[BaseException]()

    def run(work: Callable[[], None]) -> None:
        try:
            barrier.wait()
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_workers_at_one_moment_share_the_cap_to_the_last_message(store: Config) -> None:
    way, pace_ = new_way(), Pace(per_hour=200, per_day=300, per_second=1000, warm_up=WarmUp(first_day=250), oneoff=0)
    taken: list[int] = []

    def work() -> None:
        while count := take(way, pace_, 7, NOON):
            taken.append(count)

    at_once(*[work] * 4)
    assert sum(taken) == 200
    assert spent(way, NOON) == {"hour": 200, "day": 200}


def test_workers_that_take_and_give_back_in_one_transaction_do_not_wait_for_each_other(store: Config) -> None:
    from django.db import connection, transaction

    from newsletter.store import pace

    way, pace_ = new_way(), Pace(per_hour=50, per_day=60, per_second=1000, oneoff=0)
    held: list[int] = []

    def work() -> None:
        mine = 0
        for _ in range(40):
            with transaction.atomic(), connection.cursor() as cursor:
                pace.give_back(cursor, way, pace_, "issue", mine, taken_at=NOON, now=NOON)
                mine = pace.take(cursor, way, pace_, "issue", 20, NOON)
        held.append(mine)

    at_once(*[work] * 4)
    assert sum(held) == spent(way, NOON)["hour"] <= 50


def test_workers_that_change_from_one_way_to_the_other_and_back_do_not_wait_for_each_other(store: Config) -> None:
    from django.db import connection, transaction

    from newsletter.store import pace

    first, second = new_way(), new_way()
    pace_ = Pace(per_hour=50, oneoff=0)
    both = threading.Barrier(2)

    def change(before: int, after: int) -> None:
        take(before, pace_, 10, NOON)
        with transaction.atomic(), connection.cursor() as cursor:
            pace.give_back(cursor, before, pace_, "issue", 10, taken_at=NOON, now=NOON, then=after)
            with suppress(threading.BrokenBarrierError):  # whoever waits for the other's lock does not come
                both.wait(1)
            pace.take(cursor, after, pace_, "issue", 5, NOON)

    at_once(lambda: change(first, second), lambda: change(second, first))
    assert [spent(way, NOON)["hour"] for way in (first, second)] == [5, 5]


def test_workers_that_name_a_new_way_out_at_once_make_one_row(store: Config) -> None:
    from newsletter.store import pace
    from newsletter.store.models import Way

    ids: list[int] = []
    at_once(*[lambda: ids.append(pace.way_id("brand-new"))] * 4)
    assert ids == [Way.objects.get().pk] * 4


# --- forecast ---------------------------------------------------------------------------------------------------------


def by_sending(way: int, pace_: Pace, count: int, now: float) -> float:
    """When the last of them leaves, by taking all that may leave each time that something may."""
    while count := count - take(way, pace_, count, now):
        now = room(way, pace_, now).until or now
    return now


@on_one_database
@given(
    pace_=PACES,
    steps=st.lists(st.tuples(st.floats(0, 20000), KINDS, st.integers(1, 40), st.just("t")), max_size=6),
    count=st.integers(1, 60),
    pause=st.floats(0, 4000),
)
@example(pace_=Pace(per_second=2.0, per_hour=7), steps=[], count=60, pause=0.0)
@example(pace_=Pace(per_hour=7, per_day=20, warm_up=WarmUp(first_day=3)), steps=[], count=60, pause=0.0)
@example(pace_=Pace(per_second=0.3, per_hour=18, oneoff=0), steps=[], count=20, pause=59.0)  # one in the first slot
def test_a_forecast_comes_true(
    store: Config, pace_: Pace, steps: list[tuple[float, Kind, int, str]], count: int, pause: float
) -> None:
    way, now = new_way(), NOON
    for wait, kind, wanted, _ in steps:
        now += wait
        take(way, pace_, wanted, now, kind)
    now += pause
    told = forecast(way, pace_, count, now)
    assert told == pytest.approx(by_sending(way, pace_, count, now), rel=0, abs=0.01)


@pytest.mark.parametrize(
    "pace_",
    [
        Pace(per_second=0.005, per_hour=100, oneoff=0),  # whose cap binds only until what left before is forgotten
        Pace(per_hour=100, warm_up=WarmUp(first_day=3, growth=100), oneoff=0),  # whose warm-up begins an hour later
    ],
    ids=str,
)
def test_a_forecast_reckons_with_what_left_before(store: Config, pace_: Pace) -> None:
    way = new_way()
    take(way, Pace(per_hour=100, oneoff=0), 100, NOON)
    assert room(way, pace_, NOON + 5).count == 0
    told = forecast(way, pace_, 20, NOON + 5)
    assert told == pytest.approx(by_sending(way, pace_, 20, NOON + 5), rel=0, abs=0.01)


def one_by_one(pace_: Pace, count: int, now: float) -> float:
    """The same for caps alone, message by message: each waits for the one that is a cap's size before it."""
    spans = [(cap, width, span) for cap, width, span in ((pace_.per_hour, 60, 61), (pace_.per_day, 900, 97)) if cap]
    times: list[float] = []
    for n in range(count):
        at = times[-1] if times else now
        for cap, width, slots in spans:
            issues = cap - min(math.ceil(Fraction(cap * pace_.oneoff, 100)), cap - 1)
            if n >= issues:
                at = max(at, (times[n - issues] // width + slots) * width)
        times.append(at)
    return times[-1]


@pytest.mark.parametrize(
    ("pace_", "count"),
    [
        (Pace(per_hour=100), 20_000),
        (Pace(per_hour=1), 3_000),
        (Pace(per_day=300), 20_000),
        (Pace(per_hour=100, per_day=2000), 50_000),
        (Pace(per_hour=7, per_day=50, oneoff=35), 10_001),
        (Pace(per_hour=97, per_day=101), 10_000),
    ],
    ids=str,
)
def test_a_long_forecast_is_exact(store: Config, pace_: Pace, count: int) -> None:
    for now in (NOON, NOON + 1234.5):
        assert forecast(new_way(), pace_, count, now) == one_by_one(pace_, count, now)


def test_a_million_at_300_a_day_take_ten_years(store: Config) -> None:
    told = forecast(new_way(), Pace(per_day=300), MANY, NOON)
    assert told == NOON + ((MANY - 1) // 270) * (DAY + 900)


@pytest.mark.parametrize("rate", [0.002, 0.5, 14.0, 1000.0])
def test_a_rate_alone_is_computed_at_once(store: Config, rate: float) -> None:
    """Also beside caps that never bind."""
    kept = min(rate * 0.1, rate - 1) if rate >= 2 else 0.0
    expected = NOON + (MANY - (max(rate, 1.0) - kept)) / rate
    for pace_ in (Pace(per_second=rate), Pace(per_second=rate, per_hour=10**7, warm_up=WarmUp(first_day=10**9))):
        assert forecast(new_way(), pace_, MANY, NOON) == pytest.approx(expected, rel=1e-9)


def test_rate_and_caps_together_are_skipped_through_as_well(store: Config) -> None:
    """Half a message a second fills the hour's cap in half an hour: every 61 minutes 900 leave."""
    pace_ = Pace(per_second=0.5, per_hour=900, oneoff=0)
    told = forecast(new_way(), pace_, 900 * 2000, NOON)
    assert (told - NOON) / (2000 * 3660) == pytest.approx(1, abs=0.01)


def test_a_million_after_a_warm_up(store: Config) -> None:
    pace_ = Pace(per_second=20, per_day=50_000, warm_up=WarmUp(first_day=200, growth=50, days=30))
    days = (forecast(new_way(), pace_, MANY, NOON) - NOON) / DAY
    warm = [min(200 * 1.5**day, 50_000) * 0.9 for day in range(60)]
    assert days == pytest.approx(next(n for n in range(60) if sum(warm[:n]) >= MANY), abs=2)


def test_nothing_to_send_is_done_now(store: Config) -> None:
    assert forecast(new_way(), Pace(per_day=1), 0, NOON) == NOON
