from __future__ import annotations

import json
from pathlib import Path

import pytest

from newsletter.cli import run
from newsletter.config import Config


@pytest.fixture
def people(store: Config) -> Path:
    path = Path("people.csv")
    path.write_text("email,Town\nana@example.org,Lima\nnobody,\n", "utf-8")
    return path


def test_an_import_tells_what_was_understood_what_happened_and_what_comes_next(
    people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["subscribers", "import", "people.csv"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        "people.csv: UTF-8, comma\n  email          ← email\n"
        "  not imported: Town (--attributes all, or the names of some, keeps them)\n\n2 rows, list weekly\n"
        "          1  new  (of them 1 unconfirmed)\n          1  rejected\nrejected because:\n"
        "          1  the address has no @\n    people.csv:3: the address has no @\ntook "
    )
    assert told.endswith(
        " s\n→ mend the rejected rows in people.csv.rejected.csv, and import that file\n"
        '→ 1 unconfirmed: they get no mail. If you know how they agreed, say so and import again: --consent "…"\n'
    )


def test_options_reach_the_import(people: Path) -> None:
    from newsletter.store.models import Subscriber

    words = [
        "--list",
        "alerts",
        "--tag",
        " board ",
        "--language",
        "es",
        "--attributes",
        "Town",
        "--consent",
        "By phone",
    ]
    assert run(["subscribers", "import", "people.csv", *words, "--column", "name=Town"]) == 0
    ana = Subscriber.objects.get()
    (subscription,) = ana.subscriptions.all()
    assert (ana.name, ana.language, ana.attributes, ana.tags.get().tag.name) == (
        "Lima",
        "es",
        {"Town": "Lima"},
        "board",
    )
    assert (subscription.list.name, subscription.state) == ("alerts", "subscribed")


def test_a_dry_run_says_so_and_changes_nothing(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from newsletter.store.models import Subscriber

    assert run(["subscribers", "import", "people.csv", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "2 rows, list weekly, dry run: nothing was changed" in told
    assert "→ to do it, leave out --dry-run" in told
    assert not Subscriber.objects.exists()
    assert not list(Path().glob("*rejected*"))


def test_a_file_of_which_nothing_can_be_used_ends_with_one(store: Config, capsys: pytest.CaptureFixture[str]) -> None:
    Path("people.csv").write_text("email\nana\n", "utf-8")
    assert run(["subscribers", "import", "people.csv"]) == 1
    Path("people.csv").write_text("name\nana\n", "utf-8")
    assert run(["subscribers", "import", "people.csv"]) == 1
    assert "no column holds addresses" in capsys.readouterr().err
    assert run(["subscribers", "import", "people.csv", "--column", "email"]) == 2
    assert 'write FIELD="name of the column"' in capsys.readouterr().err


def test_an_export_goes_to_standard_output_or_to_a_file_by_its_name(
    people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["subscribers", "import", "people.csv", "--consent", "x", "--tag", "board"])
    capsys.readouterr()
    assert run(["subscribers", "export", "--state", "subscribed"]) == 0
    assert "ana@example.org," in capsys.readouterr().out
    assert run(["subscribers", "export", "--segment", "tag=board", "--out", "out.json"]) == 0
    assert capsys.readouterr().out == "1 row in out.json; it holds addresses, and only you can read it\n"
    assert [each["email"] for each in json.loads(Path("out.json").read_text("utf-8"))] == ["ana@example.org"]
    assert Path("out.json").stat().st_mode & 0o777 == 0o600
    assert run(["subscribers", "export", "--segment", "nobody", "--out", "out.json"]) == 1
    assert 'no segment "nobody"' in capsys.readouterr().err


def test_what_was_exported_can_be_imported(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["subscribers", "import", "people.csv", "--consent", "x"])
    run(["subscribers", "export", "--out", "out.csv"])
    capsys.readouterr()
    assert run(["subscribers", "import", "out.csv"]) == 0
    told = capsys.readouterr().out
    assert "out.csv: UTF-8, comma, our own export (known by its columns)" in told
    assert "1  unchanged" in told
