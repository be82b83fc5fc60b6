"""`newsletter` for the rig: whatever is asked of base_url, this workspace's own site answers, as it should.

python -m torture.command ARGUMENT...      in a workspace
"""

from __future__ import annotations

import sys
from unittest.mock import patch

from newsletter.checks.leaving import identity_file
from newsletter.cli import main as newsletter
from newsletter.content.fetch import Fetched


def _ask(url: str) -> Fetched:
    from newsletter.store.schema import store_id

    return Fetched(url=url, body=identity_file(store_id()).encode())


def main() -> None:
    with patch("newsletter.cli.sending.ask", _ask):  # there is no web here
        newsletter(sys.argv[1:])


if __name__ == "__main__":
    main()
