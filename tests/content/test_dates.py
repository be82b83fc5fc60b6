from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter.config import WEEKDAYS as WEEKDAY_NAMES
from newsletter.content.dates import MONTHS, WEEKDAYS, find_date, issue_date, order_of, parse_date, parse_day

DAY = date(2017, 11, 19)


@pytest.mark.parametrize(
    "text",
    [
        "19 November 2017",
        "Sunday, 19 November 2017",
        "Sunday 19 November 2017",
        "November 19, 2017",
        "Nov 19th 2017",
        "Nov. 19, 2017",
        "19 Nov. 2017",
        "19th of November 2017",
        "the 19th of November, 2017",
        "19-Nov-2017",
        "19-Nov-17",
        "19 November ’17",
        "2017-11-19",
        "2017/11/19",
        "2017-11-19T10:20:30Z",
        "2017-11-19T23:20:30.123-05:00",
        "2017-11-19 10:20",
        "19/11/2017",
        "19.11.2017",
        "19-11-17",
        "11/19/2017",
        "19. November 2017",
        "19 de noviembre de 2017",
        "19 de noviembre del 2017",
        "domingo 19 de noviembre del 2017",
        "Domingo, 19 de Noviembre de 2017",
        "19 nov. 2017",
        "19 nov 2017",
        "noviembre 19 de 2017",
        "19 DE NOVIEMBRE DE 2017",
        "DOMINGO 19 DE NOVIEMBRE, 2017",
        "Sun, 19 Nov 2017 10:00:00 +0000",
        "Sun, 19 Nov 17 10:00 GMT",
        "November 19, 2017 at 10:30 am",
        "19 de noviembre de 2017, 10:30 hrs",
        "(19/11/2017)",
        "[19 November 2017]",
        "Published: 19 November 2017",
        "Posted on November 19, 2017",
        "Publicado el 19 de noviembre de 2017",
        "Fecha: 19/11/2017",
        " 19\xa0November\u202f2017. ",
        "１９ November 2017",
    ],
)
def test_a_date_is_read_in_each_of_its_forms(text: str) -> None:
    assert parse_date(text) == DAY


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("1º de octubre de 2017", date(2017, 10, 1)),
        ("1.º de octubre de 2017", date(2017, 10, 1)),
        ("1° de octubre de 2017", date(2017, 10, 1)),
        ("1er. de octubre de 2017", None),
        ("1er de octubre de 2017", date(2017, 10, 1)),
        ("primero de octubre de 2017", date(2017, 10, 1)),
        ("19 de setiembre de 2017", date(2017, 9, 19)),
        ("19 sept 2017", date(2017, 9, 19)),
        ("19 set. 2017", date(2017, 9, 19)),
        ("miercoles 15 de noviembre de 2017", date(2017, 11, 15)),
        ("mar. 21 nov. 2017", date(2017, 11, 21)),
        ("3/4/2017", date(2017, 4, 3)),  # day first
        ("4/13/2017", date(2017, 4, 13)),  # unless only the other order makes a date
        ("29 February 2016", date(2016, 2, 29)),
        ("1/1/69", date(1969, 1, 1)),
        ("1/1/68", date(2068, 1, 1)),
    ],
)
def test_the_odder_forms_are_read_as_documented(text: str, day: date | None) -> None:
    assert parse_date(text) == day


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "2017",
            "November 2017",
            "19 November",
            "31 February 2017",
            "29 February 2017",
            "31/02/2017",
            "32 May 2017",
        ),
        *(
            "30/13/2017",
            "0 May 2017",
            "2017-00-10",
            "19 November 1899",
            "19 November 2101",
            "19 November 20177",
            "192.168.1.17",
        ),
        *(
            "On 19 November 2017",
            "19 November 2017 was cold",
            "1.2.3",
            "version 1.2.17",
            "2017-11-190",
            "19-11/2017",
            "٣ May 2017",
        ),
    ],
)
def test_what_is_no_date_or_holds_more_is_none(text: str) -> None:
    assert parse_date(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Title — 19 November 2017", "19 November 2017"),
        ("19 November 2017: Title", "19 November 2017"),
        ("Title (19/11/2017)", "(19/11/2017)"),
        ("Sunday, 19 November 2017 | News", "Sunday, 19 November 2017"),
        ("It began on 19 November 2017.", "19 November 2017"),
        ("Title 2017-11-19T10:00:00Z", "2017-11-19T10:00:00Z"),
        (f"{'long ' * 500} 19 November 2017", "19 November 2017"),
    ],
)
def test_a_date_at_the_start_or_end_is_found_with_its_place(text: str, said: str) -> None:
    found = find_date(text)
    assert found
    day, start, end = found
    assert (day, text[start:end]) == (DAY, said)


def test_a_date_in_the_middle_is_not_found() -> None:
    assert find_date("On 19 November 2017 the court ruled") is None


@given(st.dates(date(1900, 1, 1), date(2100, 12, 31)), st.sampled_from(["en", "es"]))
def test_every_day_is_read_back_from_its_names(day: date, language: str) -> None:
    of = " de " if language == "es" else " "
    text = f"{WEEKDAYS[language][day.weekday()]} {day.day}{of}{MONTHS[language][day.month - 1]}{of}{day.year}"
    assert parse_date(text) == parse_date(text.upper()) == day
    assert parse_date(day.isoformat()) == parse_date(day.strftime("%d/%m/%Y")) == day


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader_and_a_find_lies_within_it(text: str) -> None:
    found = find_date(text)
    if found:
        day, start, end = found
        assert 0 <= start < end <= len(text)
        assert parse_date(text[start:end]) == day


def test_spanish_names_are_in_lower_case_and_complete() -> None:
    assert [len(names) for names in (*MONTHS.values(), *WEEKDAYS.values())] == [12, 12, 7, 7]
    assert all(name == name.lower() for name in (*MONTHS["es"], *WEEKDAYS["es"]))


def test_a_week_ends_on_the_day_it_is_set_to() -> None:
    assert issue_date(date(2017, 10, 21), "sunday") == date(2017, 10, 22)
    assert issue_date(date(2017, 10, 22), "sunday") == date(2017, 10, 22)
    assert issue_date(date(2017, 10, 23), "sunday") == date(2017, 10, 29)


@given(st.dates(max_value=date(9999, 12, 20)), st.sampled_from(WEEKDAY_NAMES))
def test_an_issue_is_dated_the_first_such_weekday_from_the_day_on(day: date, week_ends: str) -> None:
    issue = issue_date(day, week_ends)
    assert day <= issue < day + timedelta(days=7)
    assert WEEKDAY_NAMES[issue.weekday()] == week_ends


def test_the_last_days_of_the_calendar_have_an_issue_too() -> None:
    assert issue_date(date.max, "sunday") == date.max


@pytest.mark.parametrize(
    ("texts", "read"),
    [
        (["05/14/2024", "05/07/2024"], "2024-05-07"),
        (["14/05/2024", "05/07/2024"], "2024-07-05"),
        (["14/05/2024", "05/14/2024", "05/07/2024"], "2024-07-05"),
        (["05/07/2024"], "2024-07-05"),
    ],
)
def test_the_order_of_numbers_is_that_of_the_whole_text(texts: list[str], read: str) -> None:
    with order_of("\n".join(texts)):
        assert str(parse_date("05/07/2024")) == read
    assert str(parse_date("05/07/2024")) == "2024-07-05"


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("Sunday, 19 November", "2017-11-19"),
        ("domingo 19 de noviembre", "2017-11-19"),
        ("November 26", "2017-11-26"),
        ("31 December", "2016-12-31"),
        ("19 November 2015", "2015-11-19"),
        ("29 February", "2016-02-29"),
        ("November", None),
        ("19 people", None),
    ],
)
def test_a_day_without_its_year_is_the_last_one_before_the_issue(text: str, day: str | None) -> None:
    found = parse_day(text, date(2017, 11, 19))
    assert (str(found) if found else None) == day


def test_a_year_of_four_digits_is_no_short_one() -> None:
    assert parse_date("1 Jan 0001") is None
