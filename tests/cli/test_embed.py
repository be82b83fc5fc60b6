"""`newsletter embed`: a form for any web site. What its button does is in tests/web/test_signup.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from newsletter.cli import run
from newsletter.cli.embed import snippet

DOCS = Path(__file__).parents[2] / "docs"
LISTS = "lists: [{id: weekly, name: Weekly}, {id: alerts, name: Alerts}, {id: board, name: Board, private: true}]"


@pytest.fixture
def lists(workspace: Path) -> Path:
    (workspace / "subscribers").mkdir()
    (workspace / "subscribers" / "lists.yaml").write_text(LISTS, "utf-8")
    return workspace / "subscribers" / "lists.yaml"


def embed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    return (run(["embed", *arguments]), *capsys.readouterr())


def test_the_form_asks_in_its_language_and_leads_to_the_sign_up_page(
    lists: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = embed(capsys, "--list", "weekly", "--list", "alerts", "--language", "es")
    assert code == 0
    assert 'action="https://news.example.org/signup/?lang=es" method="post"' in out
    assert '<label for="newsletter-email">Su correo electrónico</label>' in out
    assert '<input type="hidden" name="list" value="weekly">\n  <input type="hidden" name="list" value="alerts">' in out
    assert 'aria-label="Reciba Noticias del Valle por correo"' in out
    assert "<script" not in out
    assert "style=" in out


def test_without_options_the_visitor_chooses_the_list(lists: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = embed(capsys, "--plain")
    assert code == 0
    assert "hidden" not in out
    assert "style=" not in out
    assert "Your email address" in out


def test_what_is_not_offered_is_refused_with_what_is(lists: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (("--list", "weakly"), 'did you mean "weekly"'),
        (("--list", "board"), "weekly, alerts"),
        (("--language", "fr"), "en, es"),
    ):
        code, out, error = embed(capsys, *arguments)
        assert (code, out) == (2, "")
        assert words in error
    lists.write_text("lists: [{id: board, name: Board, private: true}]", "utf-8")
    code, out, error = embed(capsys)
    assert (code, out) == (1, "")
    assert "private: true" in error


def test_nothing_of_the_workspace_ends_a_tag() -> None:
    out = snippet('https://x.example/"><b>', title='--><b>"', lists=('"><b>',), language="en", plain=False)
    assert "<b>" not in out
    assert out.count("-->") == 1


def test_the_manual_shows_the_form_as_it_is() -> None:
    form = snippet(
        "https://news.example.org", title="Peru Rights Weekly", lists=("weekly",), language="en", plain=False
    )
    assert f"```html\n{form}\n```" in (DOCS / "signup.md").read_text("utf-8")
