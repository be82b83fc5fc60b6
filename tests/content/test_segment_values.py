"""What an attribute, a tag and a number are kept as. Who is meant by a segment: tests/store/test_segments.py."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter.content.segments import Value, as_number, attribute_from_text, kept_attribute, kept_name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("18", 18), ("-2.5", -2.5), ("0", 0), ("0.5", 0.5), ("true", True), ("false", False), (" 18 ", 18)),
        *(
            ("007", "007"),
            ("1.50", "1.50"),
            ("+1", "+1"),
            ("1e3", "1e3"),
            ("True", "True"),
            ("yes", "yes"),
            ("-0", "-0"),
        ),
        *(("٣", "٣"), ("1234567890123456", "1234567890123456"), ("", ""), ("0.1000000000000001", "0.1000000000000001")),
    ],
)
def test_a_text_is_a_number_or_a_truth_where_nothing_is_lost(text: str, value: Value) -> None:
    kept = attribute_from_text(text)
    assert kept == value
    assert type(kept) is type(value)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=20))
def test_a_text_comes_back_as_it_was(text: str) -> None:
    kept = attribute_from_text(text)
    written = str(kept).lower() if isinstance(kept, bool) else str(kept)
    assert written == kept_attribute(text.strip())


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("A\u0301", "Á"),
        (True, True),
        (10**15 - 1, 10**15 - 1),
        (10**15, "1000000000000000"),
        (0.1 + 0.2, 0.3),
        (-1.5, -1.5),
    ],
)
def test_a_value_is_kept_as_both_databases_take_it(value: Value, kept: Value) -> None:
    assert kept_attribute(value) == kept
    assert type(kept_attribute(value)) is type(kept)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 1.7976931348623157e308, 10**1000, "a\x00b", "\ud800", "x" * 1001]
)
def test_a_value_that_one_of_them_refuses_is_not_kept(value: Value) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|holds) "):
        kept_attribute(value)


def test_a_name_is_kept_with_single_blanks() -> None:
    assert kept_name("  board \t of  trade ") == "board of trade"
    for bad in ("", "  ", "x" * 101, "a\x00"):
        with pytest.raises(ValueError, match=r"^(is|holds) "):
            kept_name(bad)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("18", "18"), ("-2.50", "-2.5"), ("1e20", "1e20"), ("100000000000000000000", "1e20"), ("007", "7")),
        *(("", None), ("1,5", None), (".5", None), ("1_000", None), ("inf", None), ("1e9999", None), ("٣", None)),
        ("1234567890123456", None),
    ],
)
def test_a_number_is_read_with_fifteen_digits_at_the_most(text: str, number: str | None) -> None:
    assert as_number(text) == (None if number is None else Decimal(number))
