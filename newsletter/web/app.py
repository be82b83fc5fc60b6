"""A server process of the pages: the site loaded, the door opened, and what stands in front of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from newsletter.config import Config, load_config
from newsletter.settings import configure

if TYPE_CHECKING:
    from newsletter.web.door import Door


def load(workspace: str, *, inbox: bool = False) -> Door:
    """The pages of a workspace as a WSGI application, for benchmarks and for servers of one's own.

    Raises what is wrong with the workspace. The database must be there and migrated (`newsletter serve` sees to that).
    """
    config = load_config(Path(workspace))
    configure(config)
    return application(config, inbox=inbox)


def application(config: Config, *, inbox: bool = False) -> Door:
    """The same for a configuration that Django is configured for already."""
    from newsletter.web.door import Door
    from newsletter.web.site import load_site, use

    site = load_site(config, inbox=inbox)
    use(site)
    return Door(site)
