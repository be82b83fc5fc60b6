"""What every test may use: a workspace of its own, two languages, nothing of the sample in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from newsletter.config import Config, load_config

settings.register_profile("newsletter", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("newsletter")

NEWSLETTER_YAML = """\
title: {en: Valley News, es: Noticias del Valle}
sender:
  name: {en: Valley News, es: Noticias del Valle}
  address: news@example.org
languages: [en, es]
base_url: https://news.example.org
postal_address: 1 Mill Street, Exampletown
sections:
  justice: {en: Justice, es: Justicia}
  land: {en: Land, es: Tierra}
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace, and the current folder."""
    (tmp_path / "issues").mkdir()
    (tmp_path / "newsletter.yaml").write_text(NEWSLETTER_YAML, "utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("NEWSLETTER_BASE_URL", "NEWSLETTER_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    return Path()


@pytest.fixture
def config(workspace: Path) -> Config:
    return load_config(workspace, {})
