"""A server process of the pages: the database made ready, the site loaded, the door opened."""

from __future__ import annotations

from pathlib import Path

from newsletter.config import load_config
from newsletter.settings import configure


def load(workspace: str, *, inbox: bool = False) -> object:
    """The WSGI application for a workspace. Called once in each server process; raises what is wrong with it.

    The database must be there and migrated (`newsletter serve` sees to that before it starts any).
    """
    config = load_config(Path(workspace))
    configure(config)
    from newsletter.web.door import Door
    from newsletter.web.site import load_site, use

    site = load_site(config, inbox=inbox)
    use(site)
    return Door(site)
