"""Nothing ships undocumented: generated pages are fresh, every link leads somewhere, the examples load."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from newsletter.cli import COMMANDS
from newsletter.config import load_config
from newsletter.content.issue import parse_issue

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "issue-reference.md", "commands.md"])
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    text = (ROOT / "docs" / name).read_text("utf-8")
    assert text == reference().pages()[name], "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith(("https://", "http://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_named_exists(page: Path) -> None:
    known = {name for name, _, _ in COMMANDS}
    text = page.read_text("utf-8")
    named = re.findall(r"^ {4}newsletter ([a-z]+)", text, re.MULTILINE) + re.findall(r"`newsletter ([a-z]+)", text)
    assert set(named) <= known, f"{page.name} names {set(named) - known}"


def test_the_example_of_an_issue_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "issue-files.md").read_text("utf-8")
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert example
    monkeypatch.chdir(ROOT)
    issue = parse_issue(example[1], Path("issues/2017-11-19.yaml"), load_config(Path(), {}))
    assert len(issue.stories) == 1
    assert [block.name for block in issue.blocks] == ["aims", "join"]


def test_every_commands_page_has_every_command() -> None:
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert re.findall(r"^## newsletter (\w+)", text, re.MULTILINE) == [name for name, _, _ in COMMANDS]
