from __future__ import annotations

from datetime import UTC, datetime

import pytest

from newsletter.config import Config
from newsletter.errors import NotFound


def test_a_list_of_the_file_has_one_id(store: Config) -> None:
    from newsletter.store.lists import list_id
    from newsletter.store.models import List

    first = list_id(store, "weekly")
    assert list_id(store, "weekly") == first
    assert list_id(store, "alerts") != first
    assert List.objects.count() == 2


def test_an_unknown_list_is_answered_with_the_known_ones(store: Config) -> None:
    from newsletter.store.lists import list_id

    with pytest.raises(NotFound, match=r'no list "wekly", did you mean "weekly"\?; lists of .*: weekly, alerts'):
        list_id(store, "wekly")
    store.lists.unlink()
    with pytest.raises(NotFound, match=r"there is no .*lists\.yaml, so that the only list is: weekly"):
        list_id(store, "alerts")


def test_members_are_counted_by_state(store: Config) -> None:
    from newsletter.store.lists import Members, list_id, members
    from newsletter.store.models import Subscriber, Subscription, Suppression

    now = datetime.now(UTC)
    weekly, alerts = list_id(store, "weekly"), list_id(store, "alerts")
    states = ["subscribed"] * 3 + ["unconfirmed"] * 2 + ["unsubscribed"]
    for number, state in enumerate(states, 1):
        key = number.to_bytes(16, "big")
        person = Subscriber.objects.create(pk=number, address_key=key, address=f"p{number}@e.org", created_at=now)
        Subscription.objects.create(list_id=weekly, subscriber=person, state=state, joined_at=now, changed_at=now)
        if number in (1, 5, 6):
            Suppression.objects.create(address_key=key, reason="bounce", at=now)
    Subscription.objects.create(list_id=alerts, subscriber_id=6, state="subscribed", joined_at=now, changed_at=now)
    assert members() == {
        "weekly": Members(subscribed=3, unconfirmed=2, unsubscribed=1, suppressed=1),
        "alerts": Members(subscribed=1, suppressed=1),
    }
