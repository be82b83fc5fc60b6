"""The lists of lists.yaml as the database knows them, and how many people are on each."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Count, Exists, OuterRef

from newsletter.config import Config
from newsletter.content.lists import Lists, load_lists
from newsletter.errors import NotFound
from newsletter.shape import nearest
from newsletter.store.models import List, Subscription, Suppression


def list_id(config: Config, name: str) -> int:
    """The database's id of a list; a list of lists.yaml that the database does not know yet is added.

    Raises `NotFound`, naming the lists that there are, and `ConfigError` for a broken lists.yaml.
    """
    known = load_lists(config).lists
    if name in known:
        return List.objects.get_or_create(name=name)[0].pk
    file = config.shown(config.lists)
    where = f"lists of {file}" if config.lists.exists() else f"there is no {file}, so that the only list is"
    raise NotFound(f'no list "{name}"{nearest(name, known)}; {where}: {", ".join(known)}')


@dataclass(frozen=True, kw_only=True)
class Members:
    """How many people are on a list, by the state of their subscription."""

    subscribed: int = 0
    unconfirmed: int = 0
    unsubscribed: int = 0
    suppressed: int = 0  # of those subscribed: nothing is sent to them


def members() -> dict[str, Members]:
    """The numbers of every list that somebody has ever joined, by its id in lists.yaml."""
    counts: dict[str, dict[str, int]] = {}
    rows = Subscription.objects.values_list("list__name", "state").annotate(count=Count("pk")).order_by("list__name")
    for name, state, count in rows:
        counts.setdefault(name, {})[state] = count
    suppressed = Suppression.objects.filter(address_key=OuterRef("subscriber__address_key"))
    held = Subscription.objects.filter(Exists(suppressed), state="subscribed")
    for name, count in held.values_list("list__name").annotate(count=Count("pk")).order_by("list__name"):
        counts[name]["suppressed"] = count
    return {name: Members(**states) for name, states in counts.items()}


__all__ = ["Lists", "Members", "list_id", "load_lists", "members"]
