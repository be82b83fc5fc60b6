from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter.errors import ConfigError
from newsletter.links import SAMPLE, Keyring, urls

OLD, NEW = sha256(b"old").digest(), sha256(b"new").digest()
KEYS = Keyring(current="k2", keys={"k1": OLD, "k2": NEW})
ids = st.integers(0, 2**48 - 1)
purposes = st.sampled_from(["unsubscribe", "preferences", "confirm", "bounce"])
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(ids, purposes)
def test_a_token_gives_its_id_back_for_its_purpose(id: int, purpose: str) -> None:
    assert KEYS.read(KEYS.token(purpose, id), purpose) == id


@given(ids)
def test_the_same_id_always_has_the_same_token(id: int) -> None:
    again = Keyring(current="k2", keys={"k2": NEW})
    assert KEYS.token("unsubscribe", id) == again.token("unsubscribe", id)


@given(ids, purposes, purposes)
def test_a_token_for_another_purpose_is_none(id: int, one: str, other: str) -> None:
    assert KEYS.read(KEYS.token(one, id), other) == (id if one == other else None)


@given(ids, purposes)
def test_a_token_is_short_and_fit_for_a_path_and_ends_in_a_letter_or_digit(id: int, purpose: str) -> None:
    longest = Keyring(current="x" * 16, keys={"x" * 16: NEW})
    for keyring in (KEYS, longest):
        token = keyring.token(purpose, id)
        assert len(token) <= 60
        assert re.fullmatch(r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9]+", token)


def test_neighbouring_ids_and_purposes_show_no_pattern() -> None:
    tokens = [
        KEYS.token(purpose, id).partition(".")[0] for purpose in ("unsubscribe", "preferences") for id in range(500)
    ]
    assert len(set(tokens)) == 1000
    for start in range(0, 21, 7):  # no part of a token repeats: 42 bits are never alike among 1,000
        assert len({token[start : start + 7] for token in tokens}) == 1000


@given(ids, st.integers(0, 21), st.sampled_from(ALPHABET))
def test_a_token_with_one_character_changed_is_none(id: int, place: int, sign: str) -> None:
    token = KEYS.token("unsubscribe", id)
    changed = token[:place] + sign + token[place + 1 :]
    assert KEYS.read(changed, "unsubscribe") == (id if changed == token else None)


@given(ids, st.integers(0, 24))
def test_a_token_cut_anywhere_is_none(id: int, length: int) -> None:
    token = KEYS.token("unsubscribe", id)
    assert KEYS.read(token[:length], "unsubscribe") is None
    assert KEYS.read(token[25 - length :], "unsubscribe") == (id if length == 25 else None)


@given(
    st.one_of(
        st.text(),
        st.text(ALPHABET + ".", max_size=40),
        st.binary(max_size=30).map(lambda raw: urlsafe_b64encode(raw).decode() + ".k2"),
    )
)
def test_whatever_else_is_no_token_is_none_and_never_an_error(token: str) -> None:
    assert KEYS.read(token, "unsubscribe") is None


@pytest.mark.parametrize("spelling", ["{}=", "{} ", " {}", "{}\n", "{}.k2", "%s{}", "{}é"])
def test_a_token_has_one_spelling_only(spelling: str) -> None:
    token = KEYS.token("unsubscribe", 7)
    body, _, key = token.partition(".")
    assert KEYS.read(spelling.format(token), "unsubscribe") is None
    assert KEYS.read(f"{spelling.format(body)}.{key}", "unsubscribe") is None


def test_a_retired_key_still_reads_and_a_removed_one_does_not() -> None:
    before = Keyring(current="k1", keys={"k1": OLD}).token("unsubscribe", 7)
    assert KEYS.read(before, "unsubscribe") == 7
    assert Keyring(current="k2", keys={"k2": NEW}).read(before, "unsubscribe") is None


def test_another_secret_under_the_same_key_id_reads_nothing() -> None:
    stranger = Keyring(current="k2", keys={"k2": sha256(b"stranger").digest()})
    assert KEYS.read(stranger.token("unsubscribe", 7), "unsubscribe") is None


def test_the_key_of_the_samples_opens_nothing_real() -> None:
    assert KEYS.read(SAMPLE.token("unsubscribe", 7), "unsubscribe") is None
    assert SAMPLE.read(SAMPLE.token("unsubscribe", 7), "unsubscribe") == 7
    assert SAMPLE.token("unsubscribe", 7).endswith(".sample")


@pytest.mark.parametrize(
    ("current", "keys", "message"),
    [
        ("k3", {"k1": OLD}, "'k3' is not among the keys"),
        ("k1", {"k1": b"short"}, "5 octets are too short"),
        ("k.1", {"k.1": OLD}, "use 1 to 16 letters and digits"),
        ("", {"": OLD}, "use 1 to 16 letters and digits"),
        ("k1", {"k1": OLD, "sample": NEW}, "cannot stand for or among secret ones"),
        ("k1", {"k1": OLD, "k2": SAMPLE.keys["sample"]}, "cannot stand for or among secret ones"),
        ("k1", {"k1": SAMPLE.keys["sample"]}, "cannot stand for or among secret ones"),
        ("sample", {"sample": NEW}, "cannot stand for or among secret ones"),
    ],
)
def test_a_keyring_that_cannot_be_trusted_is_refused(current: str, keys: dict[str, bytes], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Keyring(current=current, keys=keys)


def test_a_keyring_shows_no_secret() -> None:
    assert OLD.hex() not in repr(KEYS)
    assert repr(OLD) not in repr(KEYS)
    with pytest.raises(ConfigError) as raised:
        Keyring(current="k1", keys={"k1": b"tooshort"})
    assert "tooshort" not in str(raised.value)


def test_the_urls_of_a_delivery_are_those_three_slots() -> None:
    links = urls("https://news.example.org/", KEYS, delivery=7, language="es", issue="2017-11-19")
    assert links == {
        "UNSUBSCRIBE_URL": f"https://news.example.org/u/{KEYS.token('unsubscribe', 7)}",
        "PREFERENCES_URL": f"https://news.example.org/p/{KEYS.token('preferences', 7)}",
        "VIEW_URL": "https://news.example.org/archive/es/2017-11-19/",
    }


@given(ids, st.sampled_from(["https://news.example.org", "http://localhost:8000", "https://example.org/noticias/"]))
def test_m5_the_unsubscribe_url_is_under_250_characters_and_never_needs_encoding(id: int, base_url: str) -> None:
    url = urls(base_url, KEYS, delivery=id, language="pt-BR", issue="2017-11-19")["UNSUBSCRIBE_URL"]
    assert len(url) < 250
    assert re.fullmatch(r"https?://[a-z0-9.:]+(/noticias)?/u/[A-Za-z0-9._-]+", url)
