"""What `newsletter check` says of the lists beside the issues."""

from __future__ import annotations

from pathlib import Path

import pytest

from newsletter.checks import check_workspace
from newsletter.config import load_config
from newsletter.errors import Finding
from newsletter.rendering.render import load_templates


def found(workspace: Path, text: str, *, setting: str = "") -> list[Finding]:
    (workspace / "subscribers").mkdir(exist_ok=True)
    (workspace / "subscribers" / "lists.yaml").write_text(text, "utf-8")
    with (workspace / "newsletter.yaml").open("a", encoding="utf-8") as file:
        file.write(setting)
    return list(check_workspace(load_config(workspace, {}), None))


def test_nothing_is_wrong_with_a_good_file_or_with_none(workspace: Path) -> None:
    assert list(check_workspace(load_config(workspace, {}), None)) == []
    assert found(workspace, "lists: [{id: weekly, name: Weekly}]\n") == []


@pytest.mark.parametrize(
    ("setting", "place"), [("", str(Path("subscribers") / "lists.yaml")), ("list: weekly\n", "newsletter.yaml:11:1")]
)
def test_the_list_that_issues_go_to_must_be_one_of_the_file(workspace: Path, setting: str, place: str) -> None:
    (finding,) = found(workspace, "lists: [{id: wekly, name: Weekly}]\n", setting=setting)
    assert (finding.code, finding.severity, str(finding.where)) == ("workspace.list", "error", place)
    assert 'did you mean "wekly"?' in finding.message


def test_every_slip_of_the_file_is_said(workspace: Path) -> None:
    said = found(workspace, "lists: [{id: weekly}]\nsegments: {a: {tag: []}}\n")
    assert [each.code for each in said] == ["lists.missing", "lists.unknown-key"]


def test_a_doubt_of_the_reader_is_told(workspace: Path) -> None:
    (finding,) = found(workspace, "lists:\n  - id: weekly\n    name: Weekly # 1\n")
    assert (finding.code, finding.severity) == ("lists.comment", "warning")


def test_the_mails_to_members_are_looked_at_and_a_welcome_that_a_list_has_of_its_own(workspace: Path) -> None:
    (workspace / "subscribers").mkdir()
    (workspace / "subscribers" / "lists.yaml").write_text("lists: [{id: weekly, name: Weekly}]\n", "utf-8")
    (workspace / "templates").mkdir()
    config = load_config(workspace, {})
    for name in ("welcome-weekly.txt.j2", "welcome-gone.txt.j2", "moved.txt.j2"):
        (workspace / "templates" / name).write_text("{{ nothing }}", "utf-8")
    said = list(check_workspace(config, load_templates(config)))
    assert {str(each.where) for each in said} == {
        f"{Path('templates') / name}:1" for name in ("welcome-weekly.txt.j2", "moved.txt.j2")
    }
