"""What an admin sees of a pause, of a leaving, and of the reason for it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest

from audience import add_people, address, editions
from newsletter.cli import run
from newsletter.config import Config
from rows import all_rows


def shown(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert run(["subscribers", "show", address(1), *options]) == 0
    return capsys.readouterr().out


def test_show_tells_of_the_leaving_and_the_reason(store: Config, capsys: pytest.CaptureFixture[str]) -> None:
    from newsletter.store import leaving, mailings, models, subscribers
    from newsletter.store.keys import keyring

    list_id = add_people(store, (1,))
    opened = mailings.open_mailing(
        editions(), issue="2017-11-19", list=list_id, default_language="en", provider="memory"
    )
    while mailings.write_down(opened.mailing):
        pass
    ring = keyring(store)
    token = ring.token("unsubscribe", models.Delivery.objects.get().pk)
    found = leaving.find(ring, token)
    assert found is not None
    leaving.leave(found, how="one-click")
    found = leaving.find(ring, token)
    assert found is not None
    leaving.reason(found, "never_signed_up", "Who are you?\x1b[31m")
    said = shown(capsys)
    assert "unsubscribed, weekly, one-click" in said
    assert "said why, weekly, page, never signed up: “Who are you?" in said
    assert "\x1b" not in said
    events = json.loads(shown(capsys, "--json"))["consents"]
    assert [each["kind"] for each in events] == ["unsubscribe", "reason"]
    assert events[1]["evidence"]["reason"] == "never_signed_up"
    subscribers.erase(store, address(1))
    assert "Who are you" not in repr(all_rows())


def test_show_tells_of_a_pause_while_it_lasts(store: Config, capsys: pytest.CaptureFixture[str]) -> None:
    from newsletter.store.models import Subscriber

    add_people(store, (1,))
    assert "paused" not in shown(capsys)
    until = datetime(2126, 12, 24, 9, tzinfo=UTC).timestamp()
    Subscriber.objects.update(paused_until=until)
    assert "paused until 2126-12-24" in shown(capsys)
    assert json.loads(shown(capsys, "--json"))["subscriber"]["paused_until"] == "2126-12-24T09:00:00+00:00"
    Subscriber.objects.update(paused_until=time.time() - 1)
    assert "paused" not in shown(capsys)


def test_left_out_names_those_who_paused() -> None:
    from newsletter.cli.mailings import left_out

    assert left_out({"paused": 3, "unsubscribed": 1200}) == "1,200 unsubscribed, 3 who paused"
