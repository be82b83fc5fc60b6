"""What a family of checks looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from newsletter.config import Config
from newsletter.content.issue import Issue
from newsletter.rendering.edition import Edition


@dataclass(frozen=True, kw_only=True)
class Examined:
    """An issue that loads, and those of its editions that could be rendered."""

    issue: Issue
    editions: Mapping[str, Edition]
    config: Config
