# ruff: noqa: E501  (texts and pages as they come)

from __future__ import annotations

import os
import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.content.listings import read_listing
from newsletter.content.prose import Clipping
from newsletter.errors import CollectError

# A listing as the pages of many small organisations look when copied: stories, then standing texts.
NOTICES = """\
• The mill reopens

    19 November 2017

    On 3 November, the mill's wheel turned again. The council had closed it in 2015 (see the report).

  • Bridge talks - second round (8 November)

    19 November 2017

    Both banks met; they agreed on *nothing* but the date of the next round, which is 3 December 2017.

  • Dogs and their owners

    12 November 2017

    A first paragraph.

    A second one.

  • Our aims

    The Valley Group exists to keep the valley as it is.

  • Why join us?

    • Hear the news first
    • Learn about mills & dogs
    • Support our work

    Become a member
"""


def stories(text: str) -> list[Clipping]:
    return [each for each in read_listing(text, "news.txt").stories if not each.problem]


def dated(text: str) -> list[tuple[str, str]]:
    return [(str(each.date or "block"), each.title) for each in stories(text)]


WANTED = [
    ("2017-11-19", "The mill reopens"),
    ("2017-11-19", "Bridge talks - second round (8 November)"),
    ("2017-11-12", "Dogs and their owners"),
    ("block", "Our aims"),
    ("block", "Why join us?"),
]


def test_a_listing_of_notices_becomes_dated_stories_and_undated_blocks() -> None:
    found = stories(NOTICES)
    assert [(str(each.date or "block"), each.title) for each in found] == WANTED
    assert found[1].summary == (
        "Both banks met; they agreed on \\*nothing\\* but the date of the next round, which is 3 December 2017."
    )
    assert found[2].summary == "A first paragraph.\n\nA second one."
    assert found[4].summary == (
        "- Hear the news first\n- Learn about mills & dogs\n- Support our work\n\nBecome a member"
    )
    assert [each.where.line for each in found] == [1, 7, 13, 21, 25]


@pytest.mark.parametrize("sign", ["-", "*", "▪", "·", "–", "◦"])
def test_any_bullet_does(sign: str) -> None:
    assert dated(NOTICES.replace("•", sign)) == WANTED


def test_windows_line_ends_tabs_and_hard_blanks_do() -> None:
    assert dated(NOTICES.replace("\n", "\r\n").replace("\r\n", "\n").replace("    ", "\t")) == WANTED
    assert dated(NOTICES.replace(" ", "\xa0")) == WANTED


def test_bullets_without_indentation_do_and_their_inner_lists_stay_lists() -> None:
    flat = "\n".join(line.strip() for line in NOTICES.split("\n"))
    assert dated(flat) == WANTED
    assert stories(flat)[4].summary.startswith("- Hear the news first\n- Learn")


def test_titles_without_bullets_are_known_by_standing_further_left() -> None:
    assert dated(re.sub("(?m)^ *• (?=.*\n\n)", "", NOTICES).replace("    •", "    -")) == WANTED


def test_titles_without_any_mark_are_known_by_their_looks() -> None:
    bare = "\n".join(re.sub("^[• ]+", "", line) for line in NOTICES.split("\n"))
    assert dated(bare) == WANTED


def test_a_listing_without_blank_lines_is_read_by_its_bullets() -> None:
    assert dated(re.sub(r"\n\s*\n", "\n", NOTICES)) == WANTED


def test_numbers_do_for_bullets() -> None:
    text = "1. First thing\n2 May 2017\nOne sentence.\n\n2. Second thing\n9 May 2017\nAnother one.\n"
    assert dated(text) == [("2017-05-02", "First thing"), ("2017-05-09", "Second thing")]


TWO = [("2017-11-19", "The mill reopens"), ("2017-11-12", "Dogs and their owners")]


@pytest.mark.parametrize(
    "text",
    [
        "The mill reopens\n19 November 2017\nThe wheel turns.\n\nDogs and their owners\n12 November 2017\nOn leads, please.\n",
        "19 November 2017\nThe mill reopens\nThe wheel turns.\n\n12 November 2017\nDogs and their owners\nOn leads, please.\n",
        "19/11/2017\n\nThe mill reopens\n\nThe wheel turns.\n\n12/11/2017\n\nDogs and their owners\n\nOn leads, please.\n",
        "The mill reopens — 19 November 2017\nThe wheel turns.\n\nDogs and their owners — 12 November 2017\nOn leads.\n",
        "The mill reopens - 19 Nov 2017\nThe wheel turns.\nDogs and their owners - 12 Nov 2017\nOn leads.\n",
        "19 November 2017: The mill reopens\nThe wheel turns.\n\n12 November 2017: Dogs and their owners\nOn leads.\n",
        "2017-11-19 The mill reopens\nThe wheel turns.\n\n2017-11-12 Dogs and their owners\nOn leads.\n",
        "The mill reopens (19/11/2017)\n\nThe wheel turns.\n\nDogs and their owners (12/11/2017)\n\nOn leads.\n",
        "The mill reopens\n\nPublished: 19 November 2017\n\nThe wheel turns.\n\nDogs and their owners\n\nPublished: 12 November 2017\n\nX.",
        "The mill reopens\nSunday, 19 November 2017\nThe wheel turns.\n\nDogs and their owners\nSunday 12 November 2017\nOn leads.",
        "The mill reopens\n----------------\n19 November 2017\n\nText.\n\nDogs and their owners\n====\n12 November 2017\n\nX.",
        "# The mill reopens\n19 November 2017\n\nText.\n\n# Dogs and their owners\n\n12 November 2017\n\nText.",
        "# News\n\n## The mill reopens\n*19 November 2017*\n\nText.\n\n## Dogs and their owners\n\n12 November 2017\n\nText.",
        "**The mill reopens**\n19 November 2017\n\nText.\n\n**Dogs and their owners**\n12 November 2017\n\nText.",
        "The mill reopens\n19 November 2017\nText.\n---\nDogs and their owners\n12 November 2017\nText.\n***\n",
        "The mill reopens\n\n19 November 2017\n\nText.\n\n___\n\nDogs and their owners\n\n12 November 2017\n\nText.\n",
        "• 19 November 2017 - The mill reopens\n  The wheel turns.\n• 12 November 2017 - Dogs and their owners\n  On leads.",
        "- The mill reopens, 19 November 2017\n\n- Dogs and their owners, 12 November 2017\n",
        "The mill reopens\t19 November 2017\nDogs and their owners\t12 November 2017\n",
        "19 NOVEMBER 2017\n• The mill reopens\n  The wheel turns.\n12 NOVEMBER 2017\n• Dogs and their owners\n  On leads.",
        "  The mill reopens\n    19 November 2017\n    Text\n  Dogs and their owners\n    12 November 2017\n    Text",
        "The mill reopens\nBy Ann Other\n\n19 November 2017\n\nText.\n\nDogs and their owners\nBy Ann Other\n\n12 November 2017\n\nX.".replace(
            "The mill", "# The mill"
        ).replace("Dogs", "# Dogs"),
    ],
)
def test_title_and_date_may_stand_in_many_orders(text: str) -> None:
    assert dated(text) == TWO


def test_spanish_listings_are_read_too() -> None:
    text = (
        "El molino reabre\n\n19 DE NOVIEMBRE DE 2017\n\nGira la rueda.\n\nFuente: La Voz\n\n"
        "Perros y dueños\n\nDomingo, 12 de noviembre del 2017\n\nCon correa.\n\nLeer más: https://example.org/perros\n"
    )
    assert dated(text) == [("2017-11-19", "El molino reabre"), ("2017-11-12", "Perros y dueños")]
    assert [(each.source, each.url) for each in stories(text)] == [("La Voz", None), ("", "https://example.org/perros")]


def test_wrapped_lines_are_joined_and_paragraphs_kept() -> None:
    text = (
        "The council has decided that the old mill on the river may\nreopen in the spring\n2 May 2017\n\n"
        "A long sentence that somebody\nwrapped at thirty columns.\n\nAnd a second\nparagraph.\n"
    )
    (story,) = stories(text)
    assert story.title == "The council has decided that the old mill on the river may reopen in the spring"
    assert story.summary == "A long sentence that somebody wrapped at thirty columns.\n\nAnd a second paragraph."


def test_a_sentence_that_mentions_a_date_is_no_heading() -> None:
    text = (
        "The mill reopens\n19 November 2017\n\nThe wheel began to turn on 3 November 2017.\n\n"
        "On 4 November 2017 it stopped.\n\n5 November 2017 was a quiet day, said the miller.\n\n"
        "The hearing is on Monday, 4 December 2017\n\nDogs and their owners\n12 November 2017\n\nOn leads.\n"
    )
    assert dated(text) == TWO
    assert "5 November 2017 was a quiet day" in stories(text)[0].summary
    assert "4 December 2017" in stories(text)[0].summary


@pytest.mark.parametrize(
    "line",
    [
        "19 November 2017 by Ann Other",
        "By Ann Other, 19 November 2017",
        "Posted by Ann Other on 19 November 2017",
        "Lima, 19 de noviembre de 2017",
        "Por Ana Otero | 19 de noviembre de 2017",
    ],
)
def test_a_date_line_may_say_by_whom_or_where_and_those_words_stay(line: str) -> None:
    (story,) = stories(f"The mill reopens\n{line}\n\nIt turns.\n")
    assert (story.title, str(story.date)) == ("The mill reopens", "2017-11-19")
    assert re.fullmatch(r"(by |Posted by |By |Por )?(Ann Other|Ana Otero|Lima)\n\nIt turns\.", story.summary)


def test_texts_that_do_not_end_in_a_full_stop_are_not_taken_for_titles() -> None:
    assert (
        dated("The mill reopens\n19 November 2017\nIt turns\nDogs and their owners\n12 November 2017\nOn leads\n")
        == TWO
    )


def test_a_date_alone_in_the_text_of_a_marked_listing_is_text() -> None:
    text = "• The mill reopens\n\n19 November 2017\n\nThe hearing is on:\n\n3 December 2017\n\n• Dogs and their owners\n\n12 November 2017\n\nX.\n"
    assert dated(text) == TWO
    assert stories(text)[0].summary == "The hearing is on:\n\n3 December 2017"


def test_labels_are_understood() -> None:
    text = "Title: The mill reopens\nDate: 19 November 2017\n\nX.\n\nTitle: Dogs and their owners\nDate: 12 November 2017\n\nX.\n"
    assert dated(text) == TWO


def test_nested_lists_keep_their_levels() -> None:
    text = "Fair\n2 May 2017\n\nWe need:\n\n  - cakes\n    - with cream\n    - without\n  - hands\n    that can wash up\n\n  1. come\n  2. stay\n"
    assert stories(text)[0].summary == (
        "We need:\n\n- cakes\n  - with cream\n  - without\n- hands that can wash up\n1. come\n2. stay"
    )


@pytest.mark.parametrize(
    "line",
    [
        "https://example.org/a",
        "Read more: https://example.org/a",
        "Link: <https://example.org/a>",
        "[Read on](https://example.org/a)",
    ],
)
def test_a_line_that_is_a_link_becomes_the_url(line: str) -> None:
    (story,) = stories(f"Fair\n2 May 2017\n\nCakes.\n\n{line}\n")
    assert (story.url, story.summary) == ("https://example.org/a", "Cakes.")


def test_a_second_link_stays_in_the_text() -> None:
    (story,) = stories("Fair\n2 May 2017\n\nCakes.\n\nhttps://example.org/a\n\nTickets: https://example.org/b\n")
    assert (story.url, story.summary) == ("https://example.org/a", "Cakes.\n\nTickets: https://example.org/b")


def test_one_date_in_the_head_of_a_past_newsletter_is_the_date_of_all_its_stories() -> None:
    text = "Valley News\n19 November 2017\n\nDear friends,\n\n# The mill reopens\n\nText.\n\n# Dogs and their owners\n\nText.\n"
    assert dated(text) == [("2017-11-19", "The mill reopens"), ("2017-11-19", "Dogs and their owners")]
    above = read_listing(text, "news.txt").stories[0]
    assert (above.title, above.problem) == ("Valley News", "stands above the first story")


def test_several_titles_under_each_date_share_it() -> None:
    text = "19 November 2017\n\n# A\n\nText.\n\n# B\n\nText.\n\n12 November 2017\n\n# C\n\nText.\n"
    assert dated(text) == [("2017-11-19", "A"), ("2017-11-19", "B"), ("2017-11-12", "C")]


def test_markdown_listings_keep_their_markup_but_no_html() -> None:
    text = "## [Fair](https://example.org/fair)\n2 May 2017\n\nCakes, **many** and [good](https://example.org/g) <b>ones</b> &copy;\n"
    (story,) = stories(text)
    assert (story.title, story.url) == ("Fair", "https://example.org/fair")
    assert story.summary == "Cakes, **many** and [good](https://example.org/g) \\<b>ones\\</b> \\&copy;"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n \n",
        "Just a letter.\n\nDear Ann,\n\nwe met on 3 May 2017 and it was nice.\n\nYours\n",
        "Aims\n\nWe have aims.\n\nHistory\n\nWe have one.\n",
    ],
)
def test_a_text_without_dates_is_refused_with_a_next_step(text: str) -> None:
    with pytest.raises(CollectError) as caught:
        read_listing(text, "letter.txt")
    (finding,) = caught.value.findings
    assert finding.code == "collect.no-stories"
    assert finding.where
    assert finding.where.path == "letter.txt"
    assert finding.help


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(st.text(max_size=30), st.sampled_from(["2 May 2017", "• x", "", "---", "# y", "    - z", "1. q"])),
        max_size=15,
    )
)
def test_no_text_breaks_the_reader_and_no_slot_gets_through(lines: list[str]) -> None:
    try:
        found = read_listing("\n".join(lines), "any.txt").stories
    except CollectError:
        return
    assert found
    assert not any("@@" in each.title + each.summary for each in found)


def _listing() -> Path | None:
    named = os.environ.get("NEWSLETTER_PSG_LISTING")
    path = Path(named) if named else Path(__file__).parents[2] / "../shared/data/news/psg-news.txt"
    return path if path.is_file() else None


@pytest.mark.skipif(_listing() is None, reason="the listing is not part of this repository")
def test_the_listing_this_program_was_written_for_is_read_whole() -> None:
    path = _listing()
    assert path
    text = path.read_text("utf-8")
    found = stories(text)
    weeks = [each.date for each in found if each.date]
    assert weeks == [date(2017, 11, 19)] * 2 + [date(2017, 11, 12)] * 2 + [date(2017, 11, 5)] * 2 + [
        *[date(2017, 10, 29)] * 3,
        date(2017, 10, 21),
    ]
    assert [each.title for each in found if not each.date] == [
        *("PSG Aims", "Historical Overview", "Human Rights", "Why join the PSG?")
    ]
    assert found[-1].summary.endswith("- Support the work of the Peru Support Group\n\nBecome a member")
    told = " ".join(f"{each.title} {each.summary}" for each in found)
    words = re.sub(r"[0-9]{2} (October|November) 2017\n", "\n", text)
    assert re.findall(r"\w+", told) == re.findall(r"\w+", words)
    assert "\\" not in told  # nothing in it needs escaping


@pytest.mark.parametrize(
    "text",
    [
        "May 2024\n\n14: Mill\nIt turns.\n\n12: Dogs\nOn leads.\n\nApril 2024\n\n30: Cats\nThey sleep.\n",
        "MAYO DE 2024\n\nMartes 14 - Mill\nIt turns.\n\nDomingo 12 - Dogs\nOn leads.\n\nABRIL DE 2024\n\nMartes 30 - Cats\nThey sleep.\n",
    ],
)
def test_days_under_the_heading_of_a_month_are_dates(text: str) -> None:
    found = read_listing(text, "list.txt").stories
    assert [(str(each.date), each.title, each.summary) for each in found] == [
        ("2024-05-14", "Mill", "It turns."),
        ("2024-05-12", "Dogs", "On leads."),
        ("2024-04-30", "Cats", "They sleep."),
    ]


def test_titles_with_a_link_each_share_the_date_above_them() -> None:
    text = "14 May 2024\n\nMill\nhttps://e.example/m\n\nDogs\nhttps://e.example/d\n\n12 May 2024\n\nCats\nhttps://e.example/c\n"
    assert [(str(each.date), each.title, each.url) for each in read_listing(text, "list.txt").stories] == [
        ("2024-05-14", "Mill", "https://e.example/m"),
        ("2024-05-14", "Dogs", "https://e.example/d"),
        ("2024-05-12", "Cats", "https://e.example/c"),
    ]


def test_an_outline_of_org_mode_is_read() -> None:
    found = read_listing(
        "* Mill\n<2024-05-14 Tue>\nIt turns.\n* Dogs\n<2024-05-12 Sun>\nOn leads.\n", "list.org"
    ).stories
    assert [(str(each.date), each.title) for each in found] == [("2024-05-14", "Mill"), ("2024-05-12", "Dogs")]
