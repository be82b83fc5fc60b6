"""Several ways out: which one is taken, what a failure moves, and what it leaves where it was."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest

from audience import add_people, editions
from newsletter.config import Config
from newsletter.errors import ProviderDown, ProviderRejected, ProviderUnsure
from newsletter.providers import Limits, WayOut
from newsletter.providers.memory import Fault, Memory

SMALL = Limits(chunk=10, lanes=2, connections=2, leaves=False)


@pytest.fixture(autouse=True)
def impatient(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newsletter.route.LONGEST_REST", 0.05)
    monkeypatch.setattr("newsletter.dispatch.IDLE", 0.02)
    monkeypatch.setattr("newsletter.engine.local.HEARTBEAT", 0.05)


def opened(config: Config, people: int, route: str = "first,second") -> int:
    from newsletter.store import mailings, schema

    if not config.database_url:
        schema.prepare(config)
    list_id = add_people(config, range(1, people + 1))
    return mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider=route
    ).mailing


def run(config: Config, first: Memory, second: Memory, until: Callable[[], bool]) -> list[str]:
    """Sends until then; what a watcher was told of detours."""
    from newsletter.engine import local

    giving_up = time.monotonic() + 60
    told: list[str] = []
    local.run(
        config,
        [WayOut(name="first", provider=first), WayOut(name="second", provider=second)],
        stop=threading.Event(),
        until=lambda: until() or time.monotonic() > giving_up,
        report=lambda progress: told.append(progress.detour or progress.down),
    )
    return told


def over(mailing: int) -> Callable[[], bool]:
    from newsletter.store import mailings

    return lambda: mailings.find(mailing).state in ("finished", "paused")


def ways_taken(mailing: int) -> Counter[tuple[str, str]]:
    """(state, way out) → deliveries."""
    from newsletter.store import models

    names = dict(models.Way.objects.values_list("pk", "name"))
    rows = models.Delivery.objects.filter(mailing_id=mailing).values_list("state", "way")
    return Counter((state, names.get(way or 0, "")) for state, way in rows)


def once_each(*providers: Memory) -> int:
    """How many people got it; nobody may have it twice."""
    everybody = [taken.address for provider in providers for taken in provider.messages]
    assert len(set(everybody)) == len(everybody)
    return len(everybody)


def test_everything_takes_the_first_way_while_it_can_be_reached(store: Config) -> None:
    mailing = opened(store, 60)
    first, second = Memory(limits=SMALL), Memory(limits=SMALL)
    run(store, first, second, over(mailing))
    assert ways_taken(mailing) == {("accepted", "first"): 60}
    assert not second.messages
    assert (first.closed, second.closed) == (1, 1)


def test_a_way_that_cannot_be_reached_is_left_and_what_it_did_not_take_goes_on_over_the_next(store: Config) -> None:
    mailing = opened(store, 60)
    first = Memory(limits=SMALL, faults={n: Fault(at="before", do=ProviderDown) for n in range(13, 10_000)})
    second = Memory(limits=SMALL)
    told = run(store, first, second, over(mailing))
    assert once_each(first, second) == 60
    taken = ways_taken(mailing)
    assert taken == {("accepted", "first"): len(first.messages), ("accepted", "second"): len(second.messages)}
    assert len(first.messages) == 12
    assert any("cannot be reached" in each for each in told)


def test_the_first_way_is_taken_again_as_soon_as_it_is_back(store: Config) -> None:
    mailing = opened(store, 200)
    gone = threading.Event()
    came_back, taken_again = threading.Event(), threading.Event()

    def away() -> None:
        gone.set()
        if not came_back.is_set():
            raise ProviderDown("first: no route to host")
        taken_again.set()

    first = Memory(limits=SMALL, faults={n: Fault(at="before", do=away) for n in range(11, 10_000)})
    slowly: dict[str | int, Fault] = {
        n: Fault(at="before", do=lambda: taken_again.wait(0.02)) for n in range(31, 10_000)
    }
    second = Memory(limits=SMALL, faults={30: Fault(at="before", do=came_back.set), **slowly})
    run(store, first, second, over(mailing))
    assert gone.is_set()
    assert once_each(first, second) == 200
    assert len(first.messages) > 10, "it came back, and was not taken any more"


def test_both_ways_failing_in_turn_lose_nobody_and_mail_nobody_twice(store: Config) -> None:
    mailing = opened(store, 300)
    kinds: tuple[type[ProviderDown] | Literal["deferred"], ...] = (ProviderDown, "deferred", ProviderDown)
    first, second = (
        Memory(limits=SMALL, faults={n: Fault(at="before", do=kinds[n % 3]) for n in range(start, 2000, 17)})
        for start in (7, 10)
    )
    from newsletter.store import ledger

    def settled() -> bool:
        counts = ledger.tally(mailing)
        from newsletter.store import models

        waiting = models.Delivery.objects.filter(state="pending", not_before=0).count()
        return not counts["sending"] and not waiting and sum(counts.values()) == 300

    run(store, first, second, settled)
    counts = ledger.tally(mailing)
    assert counts["in_doubt"] == counts["refused"] == 0
    assert once_each(first, second) == counts["accepted"]
    assert counts["accepted"] + counts["pending"] == 300  # who was deferred waits for a minute
    assert first.messages
    assert second.messages


def test_an_answer_that_was_lost_is_a_doubt_and_no_other_way_is_tried_for_it(store: Config) -> None:
    mailing = opened(store, 40)
    first = Memory(limits=SMALL, faults={1: Fault(at="taken", do=ProviderUnsure)})
    second = Memory(limits=SMALL)
    run(store, first, second, over(mailing))
    taken = ways_taken(mailing)
    doubts = taken.pop(("in_doubt", "first"))
    assert 1 <= doubts <= SMALL.chunk
    assert sum(taken.values()) == 40 - doubts
    assert once_each(first, second) == 40 - doubts + 1  # the one that was taken before the answer was lost
    assert second.messages, "the way whose answer was lost rests for a moment"


def test_a_provider_that_rejects_the_sender_pauses_the_mailing_whatever_comes_after_it(store: Config) -> None:
    from newsletter.store import ledger, mailings

    mailing = opened(store, 40)
    first = Memory(limits=SMALL, faults={1: Fault(at="before", do=ProviderRejected)})
    second = Memory(limits=SMALL)
    run(store, first, second, over(mailing))
    row = mailings.find(mailing)
    assert row.state == "paused"
    assert "rejects the sender" in row.reason
    assert f"newsletter resume {mailing}" in row.reason
    assert not second.messages
    mailings.resume(mailing)
    run(store, first, second, over(mailing))
    assert ledger.tally(mailing)["accepted"] == 40
    assert once_each(first, second) == 40


def test_a_mailing_of_other_ways_out_is_left_alone_until_somebody_says_resume(store: Config) -> None:
    from newsletter.store import ledger, mailings, overview

    mailing = opened(store, 12, route="outbox")
    first, second = Memory(limits=SMALL), Memory(limits=SMALL)
    while mailings.write_down(mailing):
        pass
    rounds = iter(range(5))
    run(store, first, second, lambda: next(rounds) == 4)
    assert ledger.tally(mailing)["pending"] == 12
    assert [row.pk for row in overview.of_other_ways("first,second")] == [mailing]
    assert not overview.anything_due(time.time(), "first,second")
    assert overview.anything_due(time.time(), "outbox")
    mailings.resume(mailing, route="first,second")
    run(store, first, second, over(mailing))
    assert ledger.tally(mailing)["accepted"] == 12


# --- which way, lane by lane ------------------------------------------------------------------------------------------


@pytest.fixture
def ways(store: Config) -> list[WayOut]:
    from newsletter.store import schema

    if not store.database_url:
        schema.prepare(store)
    narrow = replace(SMALL, lanes=1)
    return [WayOut(name="first", provider=Memory(limits=narrow)), WayOut(name="second", provider=Memory(limits=SMALL))]


def test_one_lane_alone_tries_a_way_that_failed_and_with_few_messages(
    ways: list[WayOut], monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.route import Route

    monkeypatch.setattr("newsletter.route.PROBE", 3)
    route = Route([replace(ways[0], provider=Memory(limits=SMALL)), ways[1]])
    first, second = route.legs
    assert [route.choose(lane) for lane in (0, 1, 2)] == [first, first, first]
    route.failed(first, "gone")
    assert [route.choose(lane) for lane in (0, 1, 2)] == [second, second, second]
    first.rests_until = 0.0  # its rest is over
    assert [route.choose(lane) for lane in (1, 0, 2)] == [first, second, second]
    assert first.limit() == 3
    route.leave(1)  # it had nothing to send
    assert [route.choose(lane) for lane in (0, 1)] == [first, second]
    route.worked(first, 3)
    assert [route.choose(lane) for lane in (0, 1, 2)] == [first, first, first]


def test_a_way_has_no_more_lanes_than_it_says_and_single_mail_has_one_of_its_own(ways: list[WayOut]) -> None:
    from newsletter.route import Route

    route = Route(ways)
    assert route.lanes == 2
    assert [leg and leg.name for leg in map(route.choose, (0, 1, 2))] == ["first", None, "first"]
    route.failed(route.legs[0], "gone")
    assert [leg and leg.name for leg in map(route.choose, (0, 1, 2))] == ["second", "second", "second"]


def test_a_fallback_with_more_lanes_than_the_first_way_takes_nothing_while_that_is_well(store: Config) -> None:
    mailing = opened(store, 400)
    first, second = Memory(limits=replace(SMALL, lanes=1)), Memory(limits=replace(SMALL, lanes=8))
    run(store, first, second, over(mailing))
    assert ways_taken(mailing) == {("accepted", "first"): 400}
    assert not second.messages


def test_a_lane_that_hears_of_a_longer_rest_while_the_way_rests_already_is_heard(ways: list[WayOut]) -> None:
    from newsletter.route import Route

    route = Route(ways)
    now = time.time()
    route.failed(route.legs[0], "connection reset")
    route.failed(route.legs[0], "too many requests", retry_after=120.0)
    assert 119 <= route.legs[0].rests_until - now <= 122
    assert route.legs[0].failures == 1


def test_a_clock_that_is_put_back_keeps_no_way_at_rest(ways: list[WayOut], monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.route import Route

    route = Route(ways)
    route.failed(route.legs[0], "gone")
    then = time.time() - 86_400
    monkeypatch.setattr("newsletter.route.time.time", lambda: then)
    assert route.choose(0) is route.legs[0]


def test_a_chunk_that_was_stopped_before_it_left_does_not_make_a_way_well(ways: list[WayOut], store: Config) -> None:
    from newsletter.dispatch import Dispatcher
    from newsletter.store import keys

    dispatcher = Dispatcher(store, ways, keyring=keys.keyring(store), store="-")
    first = dispatcher.route.legs[0]
    dispatcher.route.failed(first, "gone")
    dispatcher._count(first, 0, None, rejected=False)
    assert first.failures == 1
    dispatcher._count(first, 1, None, rejected=False)
    assert first.failures == 0


def test_a_way_rests_as_long_as_it_was_asked_to(ways: list[WayOut]) -> None:
    from newsletter.route import LONGEST_DATE, Route

    route = Route(ways)
    now = time.time()
    for asked, least, most in ((20.0, 19.0, 22.0), (1e9, LONGEST_DATE - 1, LONGEST_DATE + 2), (-5.0, 0.5, 3.0)):
        route.legs[0].rests_until = 0.0
        route.failed(route.legs[0], "too many requests", retry_after=asked)
        assert least <= route.legs[0].rests_until - now <= most
    assert route.health()["first"]["state"] == "down"
    assert route.health()["second"] == {"state": "ready", "why": "", "until": 0.0}
