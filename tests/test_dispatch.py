"""The send loop with a provider that fails where a test wants it, over a real database."""

from __future__ import annotations

import email
import email.policy
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from audience import add_people, as_ways, edition, editions
from newsletter.config import Config
from newsletter.errors import ProviderDown, ProviderRejected, ProviderUnsure
from newsletter.providers import Limits
from newsletter.providers.memory import Fault, Memory


def opened(config: Config, people: int = 20) -> int:
    from newsletter.store import mailings

    list_id = add_people(config, range(1, people + 1))
    return mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="memory"
    ).mailing


def run(config: Config, provider: Memory, until: Callable[[], bool], *, lease: float = 60.0) -> None:
    from newsletter.engine import local
    from newsletter.store import schema

    if not config.database_url:
        schema.prepare(config)
    stop = threading.Event()
    giving_up = time.monotonic() + 30

    def enough() -> bool:
        return until() or time.monotonic() > giving_up

    local.run(config, as_ways(provider, "memory"), stop=stop, until=enough, lease=lease)


def finished(mailing: int) -> Callable[[], bool]:
    from newsletter.store import mailings

    return lambda: mailings.find(mailing).state in ("finished", "paused")


def tally(mailing: int) -> dict[str, int]:
    from newsletter.store import ledger, mailings

    counts = ledger.tally(mailing)
    assert sum(counts.values()) == mailings.find(mailing).audience
    return {state: count for state, count in counts.items() if count}


def test_everybody_gets_one_message_in_their_language_with_links_of_their_own(store: Config) -> None:
    from newsletter.store import keys, models

    mailing = opened(store)
    provider = Memory()
    run(store, provider, finished(mailing))
    assert tally(mailing) == {"accepted": 20}
    assert len({taken.address for taken in provider.messages}) == len(provider.messages) == 20
    ring = keys.keyring(store)
    for taken in provider.messages:
        row = models.Delivery.objects.get(address=taken.address)
        message = email.message_from_bytes(taken.message, policy=email.policy.default)
        assert ("Perú" in message["Subject"]) == (row.language == "es")
        assert ring.read_delivery(taken.key) == row.pk
        link = message["List-Unsubscribe"].strip("<>")
        assert ring.read(link.rpartition("/")[2], "unsubscribe") == row.pk
        assert message["To"].addresses[0].display_name == f"Reader {row.subscriber_id}"
    assert provider.closed == 1
    assert {path.name.partition(".")[0] for path in store.recorders.iterdir()} == {"last-intent"}


def test_a_refused_a_deferred_and_a_doubtful_recipient_end_as_what_they_are(store: Config) -> None:
    from newsletter.store import ledger, models

    mailing = opened(store)
    faults: dict[str | int, Fault] = {
        2: Fault(at="before", do="refused"),
        5: Fault(at="left", do="deferred"),
        7: Fault(at="taken", do="in_doubt"),
    }
    run(store, Memory(faults=faults), lambda: ledger.tally(mailing)["accepted"] == 17)
    assert tally(mailing) == {"accepted": 17, "refused": 1, "pending": 1, "in_doubt": 1}
    waiting = models.Delivery.objects.get(state="pending")
    assert waiting.attempts == 1
    assert waiting.not_before > time.time() + 30
    assert waiting.detail == "as scripted"


def test_a_provider_that_is_down_is_tried_again_and_nobody_is_lost_or_doubled(store: Config) -> None:
    mailing = opened(store)
    provider = Memory(faults={1: Fault(at="before", do=ProviderDown), 6: Fault(at="before", do=ProviderDown)})
    run(store, provider, finished(mailing))
    assert tally(mailing) == {"accepted": 20}
    assert len(provider.messages) == 20


def test_a_provider_that_rejects_the_sender_pauses_the_mailing_with_the_next_step(store: Config) -> None:
    from newsletter.store import mailings

    mailing = opened(store)
    provider = Memory(faults={4: Fault(at="before", do=ProviderRejected)}, limits=Limits(chunk=100, lanes=1))
    run(store, provider, finished(mailing))
    row = mailings.find(mailing)
    assert row.state == "paused"
    assert row.reason == (
        "the provider rejects it: memory: rejects the sender, as scripted; change the script; mend it, then "
        f"newsletter resume {mailing}"
    )
    counts = tally(mailing)
    assert counts["accepted"] == len(provider.messages) >= 3
    assert counts["accepted"] + counts["pending"] == 20
    mailings.resume(mailing)
    run(store, provider, finished(mailing))
    assert tally(mailing) == {"accepted": 20}
    assert len(provider.messages) == 20


def test_a_lost_answer_puts_the_rest_of_its_chunk_in_doubt_and_nobody_else(store: Config) -> None:
    mailing = opened(store)
    provider = Memory(faults={3: Fault(at="taken", do=ProviderUnsure)}, limits=Limits(chunk=4, lanes=1))
    run(store, provider, finished(mailing))
    counts = tally(mailing)
    assert set(counts) == {"accepted", "in_doubt"}
    assert counts["in_doubt"] == 2


def test_a_fault_of_the_provider_itself_pauses_and_the_recorder_tells_what_had_left(store: Config) -> None:
    from newsletter.store import mailings

    def fault() -> None:
        raise RuntimeError("nobody thought of reader3@example.org\nDETAIL: Key (address)=(reader3@example.org)")

    mailing = opened(store)
    provider = Memory(faults={3: Fault(at="answered", do=fault)}, limits=Limits(chunk=10, lanes=1))
    run(store, provider, lambda: mailings.find(mailing).state == "paused" and "sending" not in tally(mailing))
    assert tally(mailing) == {"accepted": 3, "pending": 17}
    assert "nobody foresaw (RuntimeError: nobody thought of <address>); mend it" in mailings.find(mailing).reason


def test_a_mailing_pauses_by_itself_when_refusals_pass_the_threshold(store: Config) -> None:
    from newsletter.store import mailings

    mailing = opened(store, 200)
    faults: dict[str | int, Fault] = {number: Fault(at="left", do="refused") for number in range(1, 201)}
    run(store, Memory(faults=faults, limits=Limits(chunk=20, lanes=1)), finished(mailing))
    row = mailings.find(mailing)
    assert row.state == "paused"
    assert "recipients were refused, so something is wrong with all of it" in row.reason
    assert tally(mailing)["refused"] <= 40


def test_a_stop_finishes_what_is_in_hand_and_leaves_no_doubt(store: Config) -> None:
    from newsletter.engine import local
    from newsletter.store import schema

    if not store.database_url:
        schema.prepare(store)
    mailing = opened(store, 100)
    stop = threading.Event()
    slowly: dict[str | int, Fault] = {n: Fault(at="before", do=lambda: time.sleep(0.02)) for n in range(11, 101)}
    provider = Memory(faults=slowly | {10: Fault(at="taken", do=stop.set)}, limits=Limits(chunk=50, lanes=1))
    local.run(store, as_ways(provider, "memory"), stop=stop)
    counts = tally(mailing)
    assert set(counts) == {"accepted", "pending"}
    assert counts["accepted"] == len(provider.messages) < 100
    run(store, provider, finished(mailing))
    assert len({taken.key for taken in provider.messages}) == len(provider.messages) == 100


def test_a_pause_takes_effect_within_the_chunk_that_is_on_its_way(store: Config) -> None:
    from django.db import connection

    from newsletter.store import mailings

    mailing = opened(store, 100)

    def pause() -> None:
        mailings.pause(mailing, "by hand")
        connection.close()

    provider = Memory(faults={12: Fault(at="answered", do=pause)}, limits=Limits(chunk=5, lanes=1))
    run(store, provider, finished(mailing))
    assert tally(mailing) == {"accepted": 15, "pending": 85}


def test_one_off_mail_does_not_wait_behind_a_mailing(store: Config) -> None:
    from newsletter.store import keys, mailings, models

    mailing = opened(store, 40)
    free = threading.Event()
    hang = Fault(at="before", do=lambda: free.wait(20))
    faults: dict[str | int, Fault] = dict.fromkeys(keys.keyring(store).delivery_keys(range(1, 41)), hang)
    provider = Memory(faults=faults, limits=Limits(chunk=40, lanes=2))

    def posted() -> bool:
        if not models.Mailing.objects.filter(kind="oneoff").exists() and mailings.find(mailing).state == "sending":
            mailings.post(
                edition(key="confirm", kind="transactional"),
                key="confirm:1:1",
                address="new@example.org",
                address_key=b"n" * 16,
                slots={"NAME": "", "CONFIRM_URL": "https://news.example.org/c/1"},
                provider="memory",
            )
        return models.Delivery.objects.filter(key="confirm:1:1", state="accepted").exists()

    timer = threading.Timer(15, free.set)
    timer.start()
    try:
        from newsletter.engine import local
        from newsletter.store import schema

        if not store.database_url:
            schema.prepare(store)

        def done() -> bool:
            arrived = posted()
            if arrived:
                assert not free.is_set()
                free.set()
            return arrived

        local.run(store, as_ways(provider, "memory"), stop=threading.Event(), until=done)
    finally:
        timer.cancel()
        free.set()
    assert provider.messages[0].address == "new@example.org"


def test_a_heartbeat_keeps_a_lease_that_is_shorter_than_the_sending(store: Config) -> None:
    mailing = opened(store, 4)
    slow = Fault(at="before", do=lambda: time.sleep(0.9))
    provider = Memory(faults={1: slow, 2: slow, 3: slow}, limits=Limits(chunk=10, lanes=1))
    run(store, provider, finished(mailing), lease=1.5)
    assert tally(mailing) == {"accepted": 4}
    assert len(provider.messages) == 4


def test_a_recorder_folder_that_cannot_be_written_holds_the_mailing_and_says_so(store: Config) -> None:
    from newsletter.engine import local
    from newsletter.store import schema

    if not store.database_url:
        schema.prepare(store)
    mailing = opened(store, 4)
    (store.root / "blocked").write_text("a file where a folder should be")
    blocked = replace(store, recorders=store.root / "blocked" / "recorders")
    seen: list[str] = []
    progress = local.run(
        blocked,
        as_ways(Memory(), "memory"),
        stop=threading.Event(),
        until=lambda: bool(seen),
        report=lambda p: seen.append(p.trouble) if p.trouble else None,
    )
    assert "NotADirectoryError" in progress.trouble
    assert tally(mailing) == {"pending": 4}
    run(store, Memory(), finished(mailing))
    assert tally(mailing) == {"accepted": 4}


@pytest.mark.parametrize("silence", [10, 100_000])
def test_only_a_mailing_that_was_silent_for_the_grace_period_waits(store: Config, silence: int) -> None:
    from datetime import UTC, datetime, timedelta

    from newsletter.store import mailings, models

    mailing = opened(store, 4)
    while mailings.write_down(mailing):
        pass
    models.Mailing.objects.update(watched_at=datetime.now(UTC) - timedelta(seconds=silence))
    provider = Memory()
    run(store, provider, finished(mailing))
    assert len(provider.messages) == (4 if silence < store.grace else 0)
