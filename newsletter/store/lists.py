"""The lists of lists.yaml as the database knows them."""

from __future__ import annotations

from newsletter.config import Config
from newsletter.content.lists import Lists, load_lists
from newsletter.errors import NotFound
from newsletter.shape import nearest
from newsletter.store.models import List


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


__all__ = ["Lists", "list_id", "load_lists"]
