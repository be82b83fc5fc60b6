# ruff: noqa: E501  (texts and pages as they come)

from __future__ import annotations

from datetime import date

import pytest

from newsletter.content.bulletins import is_bulletin, read_bulletin_text
from newsletter.content.pages import read_page
from newsletter.content.prose import Clipping

PRESENTED = """
<html><head><style>.pre{display:none}</style></head><body><span style="display:none">Court rules</span><center><table><tr><td><table>
<tr><td><a href="*|ARCHIVE|*">View this email in your browser</a></td></tr></table><table><tr><td><img src="logo.png" alt="x"></td></tr>
<tr><td><h1>Valley Update</h1><p>Issue 180, 14 May 2024</p><p>Dear friends,<br>here is the news.</p></td></tr>
<tr><td><h3>The mill reopens</h3>The wheel turns. <strong>Again.</strong><br><br>Come.<br><a href="https://e.example/mill">Read more</a></td></tr>
<tr><td height="20">&nbsp;</td></tr>
<tr><td><h3>Dogs</h3><p>On leads, since 3 May 2016.</p></td></tr><tr><td><table><tr><td><a href="https://e.example/dogs">Read more about dogs</a></td></tr></table></td></tr></table>
<table><tr><td><em>Copyright © 2024 Valley Group</em><br>1 Mill Street<br><a href="*|UPDATE_PROFILE|*">update your preferences</a> or <a href="*|UNSUB|*">unsubscribe</a></td></tr></table></td></tr></table></center></body></html>
"""
BY_HAND = """
<html><body><table width="600"><tr><td colspan="2" style="font-size:28px;font-weight:bold">Valley Update</td></tr><tr><td>No. 180</td>
<td align="right">14 May 2024</td></tr><tr><td><p><strong>The mill reopens</strong></p><p>The wheel turns. <b>Again.</b></p><p>Come.</p><p><a href="https://e.example/mill">Read more »</a></p></td></tr>
<tr><td><p><strong><a href="https://e.example/dogs">Dogs</a></strong></p><p>On leads, since 3 May 2016.</p></td></tr>
<tr><td><small>You receive this mail because you signed up. <a href="https://e.example/u">Unsubscribe</a></small></td></tr></table></body></html>
"""
BY_SIZE = """
<html><body><table><tr><td style="font-size:26px">Valley Update</td></tr><tr><td>Tuesday, May 14, 2024 | Issue #180</td></tr>
<tr><td style="font-size:20px"><a href="https://e.example/mill">The mill reopens</a></td></tr><tr><td><p>The wheel turns. <span style="font-weight:700">Again.</span></p><p>Come.</p></td></tr>
<tr><td style="font-size:20px;font-family:Georgia">Dogs</td></tr><tr><td>On leads, since 3 May 2016.</td></tr><tr><td><a href="https://e.example/dogs">Read more</a></td></tr>
<tr><td>1 Mill Street | <a href="https://e.example/unsubscribe?x">Leave</a></td></tr></table></body></html>
"""


def told(stories: list[Clipping]) -> list[tuple[str, str, str | None, str]]:
    return [(str(each.date), each.title, each.url, each.summary) for each in stories if not each.problem]


@pytest.mark.parametrize("html", [PRESENTED, BY_HAND, BY_SIZE])
def test_a_mail_is_read_in_whatever_tables_it_was_laid_out(html: str) -> None:
    assert told(list(read_page(html, "mail.html").stories)) == [
        ("2024-05-14", "The mill reopens", "https://e.example/mill", "The wheel turns. **Again.**\n\nCome."),
        ("2024-05-14", "Dogs", "https://e.example/dogs", "On leads, since 3 May 2016."),
    ]


RULED = """\
VALLEY UPDATE
Issue 180 -- 14 May 2024
======================================================================

In this issue:
 * The mill reopens
 * Dogs

----------------------------------------------------------------------
THE MILL REOPENS
----------------------------------------------------------------------

The wheel turns, and on Sunday it will turn
again.

Come.
<https://e.example/mill>

----------------------------------------------------------------------
DOGS
----------------------------------------------------------------------

On leads, since 3 May 2016.

--
Valley Group, 1 Mill Street
To unsubscribe, write to leave@e.example
"""
STARRED = """\
Valley Update, 14 May 2024

* * *

The mill reopens

The wheel turns, and on Sunday it will turn again.

Come.

Read more:
https://e.example/mill

* * *

Dogs

On leads, since 3 May 2016.

You receive this because you signed up.
"""


@pytest.mark.parametrize("text", [RULED, STARRED])
def test_a_mail_in_plain_text_is_read_by_its_rules_and_capitals(text: str) -> None:
    assert is_bulletin(text)
    first, second = told(read_bulletin_text(text, "mail.txt"))
    assert (first[0], first[1].lower(), first[2]) == ("2024-05-14", "the mill reopens", "https://e.example/mill")
    assert first[3] == "The wheel turns, and on Sunday it will turn again.\n\nCome."
    assert (second[1].lower(), second[3]) == ("dogs", "On leads, since 3 May 2016.")


def test_the_day_of_a_section_or_of_a_story_comes_before_that_of_the_issue_and_undated_texts_are_blocks() -> None:
    text = (
        "Valley Update\nSunday, 19 May 2024\n\nTuesday, 14 May\n---------------\n\nThe mill reopens\n\nThe wheel turns.\n\n* * *\n\n"
        "Dogs\nSource: Valley Voice · Monday, 13 May\n\nOn leads.\n\nBackground\n----------\n\nOur aims\n\nTo keep the valley.\n"
    )
    stories = [each for each in read_bulletin_text(text, "mail.txt") if not each.problem]
    assert [(str(each.date), each.title, each.source) for each in stories] == [
        ("2024-05-14", "The mill reopens", ""),
        ("2024-05-13", "Dogs", "Valley Voice"),
        ("None", "Our aims", ""),
    ]


def test_a_text_without_headlines_or_a_day_is_no_bulletin() -> None:
    assert read_bulletin_text("Just words.\n\nAnd more of them.\n", "mail.txt", date(2024, 5, 14)) == []
    assert read_bulletin_text("ONE\n\nWords.\n\nTWO\n\nWords.\n", "mail.txt") == []


def test_stories_of_an_archive_page_have_the_date_of_their_issue() -> None:
    html = (
        "<html><body><h1>Archive</h1><h2>Issue 180 – 14 May 2024</h2><h3>Mill</h3><p>It turns.</p><h3>Dogs</h3><p>On leads.</p>"
        "<h2>Issue 179 – 7 May 2024</h2><h3>Cats</h3><p>They sleep.</p></body></html>"
    )
    assert [each[:2] for each in told(list(read_page(html, "page.html").stories))] == [
        ("2024-05-14", "Mill"),
        ("2024-05-14", "Dogs"),
        ("2024-05-07", "Cats"),
    ]
