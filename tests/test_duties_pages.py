"""What people ask for at the pages, answered by real workers: from the wish to the message, on each engine."""

from __future__ import annotations

import email
import email.policy
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from audience import as_ways
from newsletter.config import Config
from newsletter.providers.memory import Memory
from test_cluster import at_work, count_mailed, sql, wait

ANA, BEA = "ana@example.org", "bea@example.org"


def ask(config: Config, address: str, **more: Any) -> int:
    from newsletter.store import wishes

    given: dict[str, Any] = {"kind": "signup", "language": "en", "how": "page", "network": "", "lists": ["weekly"]}
    asked = wishes.ask(config, address=address, **{**given, **more})
    assert asked.wish
    return asked.wish


def work(config: Config, provider: Memory, until: Callable[[], bool]) -> list[str]:
    """A worker's loop until it is so; what it said of troubles."""
    from newsletter.engine import local

    said: list[str] = []
    deadline = time.monotonic() + 30

    def enough() -> bool:
        assert time.monotonic() < deadline
        return until()

    local.run(
        config,
        as_ways(provider, "memory"),
        stop=threading.Event(),
        until=enough,
        report=lambda progress: said.append(progress.trouble),
    )
    return [each for each in dict.fromkeys(said) if each]


def links(provider: Memory) -> list[tuple[str, str, list[str]]]:
    """Of each message: to whom, the subject, and every address in its HTML part."""
    found = []
    for taken in provider.messages:
        message = email.message_from_bytes(taken.message, policy=email.policy.default)
        part = message.get_body(("html",))
        assert part
        found.append((taken.address, str(message["Subject"]), re.findall(r'href="([^"]*)"', part.get_content())))
    return found


def test_from_a_sign_up_to_the_welcome(store: Config) -> None:
    from newsletter.store import keys, leaving, wishes
    from newsletter.store.models import Delivery

    ring, provider = keys.keyring(store), Memory()
    ask(store, ANA, name="Ana")
    work(store, provider, lambda: len(provider.messages) == 1)
    ((to, subject, (link,)),) = links(provider)
    assert (to, subject) == (ANA, "Please confirm your subscription to Valley News")
    wish = wishes.read(ring, link.rpartition("/")[2], "confirm")
    assert wish
    assert b"Ana" not in provider.messages[0].message  # whoever typed the name may be somebody else
    assert wishes.grant(store, wish, text="Yes.", text_version="1", language="en", network="").outcome == "granted"

    work(store, provider, lambda: len(provider.messages) == 2)
    to, subject, (view, leave, change) = links(provider)[1]
    assert (to, subject) == (ANA, "Welcome to Valley News")
    assert view == "https://news.example.org/archive/en/"
    delivery = Delivery.objects.get(key__startswith="welcome:")
    assert ring.read(change.rpartition("/")[2], "preferences") == delivery.pk
    found = leaving.find(ring, leave.rpartition("/")[2])  # the page that it opens takes the person off the list
    assert found
    assert leaving.leave(found, how="page")


def test_every_other_mail_carries_its_link_and_no_other(store: Config) -> None:
    from newsletter.store import keys, moving, subscribers, wishes
    from newsletter.store.models import Delivery

    ring, provider = keys.keyring(store), Memory()
    person = subscribers.add(store, ANA, list="weekly", consent="Yes.").subscriber
    ids = [ask(store, ANA), ask(store, ANA, kind="link"), ask(store, BEA, kind="address", subscriber=person.pk)]
    work(store, provider, lambda: len(provider.messages) == 3)
    found = {subject.partition(" ")[0]: (to, urls) for to, subject, urls in links(provider)}
    assert {each: to for each, (to, _) in found.items()} == {"You": ANA, "Your": ANA, "Please": BEA}
    (known,), (link,), (address,) = (found[each][1] for each in ("You", "Your", "Please"))
    assert ring.read(known.rpartition("/")[2], "preferences") == Delivery.objects.get(key=f"known:{ids[0]}").pk
    assert ring.read(link.rpartition("/")[2], "manage") == ids[1]
    wish = wishes.read(ring, address.rpartition("/")[2], "address")
    assert wish
    assert moving.move(store, wish, text="Yes.", text_version="1", language="en", network="") == "moved"
    work(store, provider, lambda: len(provider.messages) == 4)
    assert links(provider)[3] == (ANA, "Valley News goes to another address from now on", [])
    assert BEA.encode() not in provider.messages[3].message


def test_a_person_whose_mail_bounced_confirms_and_gets_mail_again(store: Config) -> None:
    from newsletter.store import keys, subscribers, wishes
    from newsletter.store.models import Suppression

    provider = Memory()
    subscribers.add(store, ANA, list="weekly", consent="Yes.")
    subscribers.suppress(store, ANA, reason="bounce")
    ask(store, ANA)
    work(store, provider, lambda: len(provider.messages) == 1)
    ((_, _, (link,)),) = links(provider)
    wish = wishes.read(keys.keyring(store), link.rpartition("/")[2], "confirm")
    assert wish
    assert wishes.grant(store, wish, text="Yes.", text_version="1", language="en", network="").outcome == "granted"
    assert not Suppression.objects.exists()


def test_a_broken_template_is_told_by_the_worker_which_goes_on(store: Config) -> None:
    from newsletter.store import subscribers
    from newsletter.store.models import Wish

    store.templates.mkdir()
    broken = store.templates / "confirm.mjml.j2"
    broken.write_text("{{ nothing }}", "utf-8")
    subscribers.add(store, ANA, list="weekly", consent="Yes.")
    id = ask(store, BEA)
    provider = Memory()
    said = work(store, provider, lambda: not Wish.objects.filter(pk=id, not_before__lte=time.time()).exists())
    assert [each.partition(":")[0] for each in said] == ["some mails that people asked for at the pages wait"]
    assert "templates/confirm.mjml.j2:1" in said[0]
    assert BEA not in said[0]
    ask(store, ANA, kind="link")
    work(store, provider, lambda: len(provider.messages) == 1)
    assert Wish.objects.get(pk=id).state == "waiting"


def test_a_worker_answers_while_a_mailing_is_being_written_down(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from audience import add_people, editions
    from newsletter import duties
    from newsletter.store import mailings
    from newsletter.store.models import Mailing

    monkeypatch.setattr(mailings, "RANGE", 500)
    list_id = add_people(store, range(1, 1501))
    opened = mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="memory"
    )
    ask(store, ANA)
    assert duties.write_down_recipients(store, seconds=60, stop=duties.wishes_wait)
    assert Mailing.objects.get(pk=opened.mailing).audience < 1500  # it stopped after one range
    assert not duties.answer_wishes(store)
    assert not duties.write_down_recipients(store, seconds=60, stop=duties.wishes_wait)


def test_what_is_old_is_forgotten_by_every_worker(store: Config) -> None:
    from newsletter.store.models import Rate, Wish

    ask(store, ANA, now=time.time() - 8 * 86_400)
    work(store, Memory(), lambda: not (Wish.objects.exists() or Rate.objects.exists()))


def test_a_cluster_answers_when_the_bell_rings(cluster: Config) -> None:
    from newsletter.store.models import Wish

    with at_work(cluster, 2) as workers:
        for number in range(20):
            ask(cluster, f"new{number}@example.org")
        wait(lambda: count_mailed(cluster) == 20, workers)
        assert {*Wish.objects.values_list("state", flat=True)} == {"mailed"}
        wait(lambda: not sql("SELECT 1 FROM procrastinate_jobs WHERE status = 'failed'"), workers)


def test_a_cluster_tells_of_a_broken_template_and_no_job_fails(cluster: Config) -> None:
    from newsletter.store.models import Wish, Worker

    cluster.templates.mkdir()
    (cluster.templates / "confirm.txt.j2").write_text("{{ nothing }}", "utf-8")
    id = ask(cluster, ANA)
    with at_work(cluster) as workers:
        wait(lambda: Worker.objects.filter(trouble__contains="confirm.txt.j2").exists(), workers)
        assert Wish.objects.get(pk=id).state == "waiting"
        assert not sql("SELECT 1 FROM procrastinate_jobs WHERE status = 'failed'")
        (cluster.templates / "confirm.txt.j2").unlink()
        wait(lambda: count_mailed(cluster) == 1, workers)
