from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter.rendering.plaintext import WIDTH, underline, wrap

LINK = "https://example.org/" + "a-very-long-path/" * 8
WORDS = ["a", "word", "another", "(https://example.org/x)", LINK, "@@NAME@@", "—", "word-with-hyphens", "1.", "-", ">"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), max_size=6).map("\n".join)


@given(texts)
def test_wrapping_keeps_every_word_and_only_a_word_may_be_too_long(text: str) -> None:
    wrapped = wrap(text)
    marks = {">"}  # a quote mark is written again on each of its lines
    assert [word for word in wrapped.split() if word not in marks] == [
        word for word in text.split() if word not in marks
    ]
    for line in wrapped.split("\n"):
        assert len(line) <= WIDTH or len(line.split()) <= 3
        assert line == line.rstrip()


@given(texts)
def test_wrapping_again_changes_nothing_in_lines_that_fit(text: str) -> None:
    for line in wrap(text).split("\n"):
        if len(line) <= WIDTH:
            assert wrap(line) == line


def test_short_lines_and_empty_ones_stay() -> None:
    assert wrap("one\n\n   \ntwo  ") == "one\n\n\ntwo"


@pytest.mark.parametrize(
    ("mark", "indent"),
    [("- ", "  "), ("12. ", "    "), ("> ", "> "), ("> - ", ">   "), ("  - ", "    "), ("> > ", "> > ")],
)
def test_lists_and_quotes_keep_their_indent(mark: str, indent: str) -> None:
    first, *others = wrap(mark + "words of a text " * 10).split("\n")
    assert first.startswith(f"{mark}words")
    assert others
    assert all(line.startswith(indent) and line[len(indent)] != " " for line in others)


def test_a_link_or_a_slot_longer_than_the_line_is_not_broken() -> None:
    assert LINK in wrap(f"See {LINK} and more words that make the line longer").split("\n")


def test_an_underline_has_the_width_of_the_words_and_never_more_than_a_line() -> None:
    assert underline("Perú", "=") == "===="
    assert underline("Peru\u0301", "=") == "===="
    assert underline("日本", "-") == "----"
    assert underline("x" * 200, "-") == "-" * WIDTH
