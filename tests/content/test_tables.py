from __future__ import annotations

import pytest

from newsletter.content.tables import read_table

SEMICOLONS = "2024-05-14; The mill reopens; It turns.\n2024-05-12; Dogs; On leads; always.\n"
TABS = "Date\tTitle\tLink\n14 May 2024\tThe mill reopens\thttps://e.example/mill\n12 May 2024\tDogs\t\n"
COMMAS = '"Title","Date","Text"\n"The mill, again","2024-05-14","It turns."\n"Dogs","2024-05-12","On leads."\n'
MARKDOWN = "| Date | Title |\n|---|---|\n| 14/05/2024 | [The mill](https://e.example/mill) |\n| 12/05/2024 | Dogs |\n"


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        (SEMICOLONS, ("The mill reopens", None, "It turns."), ("Dogs", None, "On leads; always.")),
        (TABS, ("The mill reopens", "https://e.example/mill", ""), ("Dogs", None, "")),
        (COMMAS, ("The mill, again", None, "It turns."), ("Dogs", None, "On leads.")),
        (MARKDOWN, ("The mill", "https://e.example/mill", ""), ("Dogs", None, "")),
    ],
)
def test_a_line_with_a_date_among_its_cells_is_a_story(
    text: str, first: tuple[str, str | None, str], second: tuple[str, str | None, str]
) -> None:
    found = read_table(text, "list.txt")
    assert [str(each.date) for each in found] == ["2024-05-14", "2024-05-12"]
    assert [(each.title, each.url, each.summary) for each in found] == [first, second]


def test_prose_with_commas_is_no_table() -> None:
    assert read_table("The mill, they say, turns.\n14 May 2024\nIt turned, in fact.\n", "list.txt") == []
    assert read_table("14 May 2024\n12 May 2024\n", "list.txt") == []
