"""The tokens of every purpose that a page reads, as whoever wants in would make them; and what the pages say to those.

tests/test_links.py has what holds for any purpose; here are those that there are, and the door they are brought to.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from hashlib import sha256
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from newsletter.config import Config
from newsletter.links import PATHS, SAMPLE, Keyring, personal_url
from pages import Pages
from rows import all_rows, changed

OLD, NEW = sha256(b"retired").digest(), sha256(b"in use").digest()
KEYS = Keyring(current="k2", keys={"k1": OLD, "k2": NEW})
PURPOSES = (*PATHS, "form")
SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

ids = st.integers(0, 2**48 - 1)
each_purpose = pytest.mark.parametrize("purpose", PURPOSES)


@each_purpose
@given(ids)
def test_a_token_is_read_for_its_own_purpose_and_for_no_other(purpose: str, id: int) -> None:
    token = KEYS.token(purpose, id)
    read = {each: KEYS.read(token, each) for each in PURPOSES}
    assert read == {each: id if each == purpose else None for each in PURPOSES}


@each_purpose
@given(ids, st.text(min_size=1, max_size=12))
def test_a_token_with_anything_before_or_behind_it_is_none(purpose: str, id: int, more: str) -> None:
    token = KEYS.token(purpose, id)
    body, _, key = token.partition(".")
    for longer in (token + more, more + token, f"{body}{more}.{key}", f"{body}.{more}{key}", f"{token}.{more}"):
        assert KEYS.read(longer, purpose) is None


@each_purpose
@given(ids, st.data())
def test_a_token_that_lacks_anything_is_none(purpose: str, id: int, data: st.DataObject) -> None:
    token = KEYS.token(purpose, id)
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, len(token)))
    assert KEYS.read(token[start:end], purpose) == (id if token[start:end] == token else None)
    assert KEYS.read(token[:start] + token[end:], purpose) == (id if start == end else None)


@each_purpose
@given(ids, st.data())
def test_a_token_with_one_sign_changed_or_two_exchanged_is_none(purpose: str, id: int, data: st.DataObject) -> None:
    token = KEYS.token(purpose, id)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.one_of(st.sampled_from(SIGNS + ".=+/%"), st.characters()))
    changed_one = token[:place] + other + token[place + 1 :]
    assert KEYS.read(changed_one, purpose) == (id if changed_one == token else None)
    swapped = [*token]
    there = data.draw(st.integers(0, len(token) - 1))
    swapped[place], swapped[there] = swapped[there], swapped[place]
    assert KEYS.read("".join(swapped), purpose) == (id if "".join(swapped) == token else None)


@each_purpose
@given(ids)
def test_the_spare_bits_of_the_last_sign_make_no_second_spelling(purpose: str, id: int) -> None:
    # 22 signs hold 132 bits, and a block has 128: the last sign could be written in 16 ways.
    body, _, key = KEYS.token(purpose, id).partition(".")
    assert [sign for sign in SIGNS if KEYS.read(f"{body[:-1]}{sign}.{key}", purpose) == id] == [body[-1]]


@each_purpose
@given(ids, st.binary(min_size=32, max_size=64).filter(lambda secret: secret not in (OLD, NEW, *SAMPLE.keys.values())))
def test_a_token_made_with_another_key_is_none_whatever_name_it_bears(purpose: str, id: int, secret: bytes) -> None:
    stranger = Keyring(current="k2", keys={"k2": secret, "k1": secret})
    other = Keyring(current="k1", keys={"k1": secret})
    for token in (stranger.token(purpose, id), other.token(purpose, id), SAMPLE.token(purpose, id)):
        assert KEYS.read(token, purpose) is None
    body, _, _ = KEYS.token(purpose, id).partition(".")
    for name in ("k1", "k3", "", "K2", "k2.k2", "sample"):
        assert KEYS.read(f"{body}.{name}", purpose) is None


@each_purpose
@given(ids)
def test_a_retired_key_is_read_and_makes_no_new_token(purpose: str, id: int) -> None:
    before = Keyring(current="k1", keys={"k1": OLD}).token(purpose, id)
    assert KEYS.read(before, purpose) == id
    assert KEYS.token(purpose, id) != before
    assert KEYS.token(purpose, id).endswith(".k2")
    assert Keyring(current="k2", keys={"k2": NEW}).read(before, purpose) is None


@each_purpose
@given(
    st.one_of(
        st.text(),
        st.text(SIGNS + ".", max_size=60),
        st.text(SIGNS, min_size=22, max_size=22).map(lambda body: f"{body}.k2"),
        st.binary(min_size=16, max_size=16).map(lambda raw: f"{urlsafe_b64encode(raw).decode()[:22]}.k2"),
        st.tuples(ids, ids).map(lambda pair: f"{pair[0]}.{pair[1]}"),
    )
)
@example("A" * 22 + ".k2")
@example("\ud800" * 22 + ".k2")
@example("é" * 22 + ".k2")
@example("\0" * 22 + ".k2")
@example("." * 1_000_000)
def test_what_nobody_made_with_our_key_is_none_and_no_error(purpose: str, token: str) -> None:
    assert KEYS.read(token, purpose) is None


@each_purpose
@given(ids)
def test_a_token_is_short_and_says_nothing(purpose: str, id: int) -> None:
    longest = Keyring(current="x" * 16, keys={"x" * 16: NEW})
    token = longest.token(purpose, id)
    assert len(token) <= 60
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}\.x{16}", token)
    body, _, _ = token.partition(".")
    if id > 9999:  # shorter ones turn up by chance
        assert str(id) not in body
        assert f"{id:x}" not in body.lower()


@each_purpose
def test_the_tokens_of_ids_that_follow_each_other_have_nothing_in_common(purpose: str) -> None:
    """Of two tokens made by chance, 22 signs of 64 each, one in 64 is alike at each place."""
    bodies = [KEYS.token(purpose, id).partition(".")[0] for id in range(2000)]
    assert len(set(bodies)) == 2000
    assert sorted(bodies) != bodies  # no order that would tell who came first
    alike = [sum(one == other for one, other in zip(first, second, strict=True)) for first, second in pairwise(bodies)]
    assert max(alike) <= 6
    assert sum(alike) / len(alike) < 1  # 0.34 by chance
    for place in range(21):  # the last sign has two bits only
        assert len({body[place] for body in bodies}) == 64


# --- brought to the door ----------------------------------------------------------------------------------------------

DOORS = tuple(
    [(purpose, f"/{path}/{{}}") for purpose, path in PATHS.items()]
    + [("unsubscribe", "/u/{}/undo"), ("unsubscribe", "/u/{}/reason"), ("preferences", "/p/{}/link")]
    + [("manage", f"/m/{{}}/{part}") for part in ("name", "address", "preferences", "data", "erase")]
)


@pytest.fixture
def pages(store: Config) -> Pages:
    return Pages(store)


def said(pages: Pages, method: str, path: str) -> tuple[int, str]:
    """The answer to a token, without what the address itself brings into the page."""
    form = b"leave=this&name=Mallory&new_address=m%40example.org"
    answer = pages.ask(method, path, form if method == "POST" else b"", "application/x-www-form-urlencoded")
    assert "set-cookie" not in answer.headers
    return answer.status, re.sub(r"/[a-z]+/[^?\"]*", "", answer.text)


@pytest.mark.parametrize(("purpose", "door"), DOORS)
def test_tokens_of_nobody_of_other_purposes_and_other_keys_get_one_answer(
    pages: Pages, purpose: str, door: str
) -> None:
    """The same status and the same words for all of them, so that nothing is learnt by trying."""
    before = all_rows()
    keyring = pages.site.keyring
    stranger = Keyring(current=keyring.current, keys={keyring.current: sha256(b"stranger").digest()})
    tokens = [
        *(keyring.token(other, id) for other in PURPOSES if other != purpose for id in (1, 7, 2**40)),
        stranger.token(purpose, 1),
        SAMPLE.token(purpose, 1),
        keyring.token(purpose, 1)[:-1],
        keyring.token(purpose, 1) + "A",
        keyring.token(purpose, 1).swapcase(),
        "A" * 22 + ".k1",
        "1",
        "%00",
        "%C3%A9",
        "%FF%FE",
    ]
    methods = ("POST",) if door.endswith(("/name", "/address", "/link")) else ("GET", "POST")
    if door in ("/m/{}", "/m/{}/data", "/v/{}"):
        methods = ("GET",)
    for method in methods:
        answers = {said(pages, method, door.format(token)) for token in tokens}
        assert len(answers) == 1, f"{method}: {[(status, text[:200]) for status, text in answers]}"
        assert answers.pop()[0] == 404
    assert changed(before, all_rows()) == {}


NOBODY = {purpose for purpose in PATHS if purpose != "confirm"}


@pytest.mark.parametrize("purpose", sorted(NOBODY))
def test_a_token_of_ours_for_what_never_was_is_answered_like_a_forged_one(pages: Pages, purpose: str) -> None:
    path = f"/{PATHS[purpose]}/"
    forged = said(pages, "GET", path + "A" * 22 + ".k1")
    assert said(pages, "GET", path + pages.site.keyring.token(purpose, 2**47)) == forged


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.sampled_from(DOORS), st.text(st.characters(exclude_characters="/?#"), min_size=1, max_size=80))
def test_whatever_stands_for_a_token_is_a_dead_link(pages: Pages, door: tuple[str, str], text: str) -> None:
    path = door[1].format(quote(text.encode("utf-8", "surrogatepass"), safe=""))
    for method in ("GET", "HEAD", "POST"):
        status, _ = said(pages, method, path)
        assert status in (404, 405)


def test_a_personal_address_has_nothing_in_it_but_the_token() -> None:
    for purpose, path in PATHS.items():
        url = personal_url("https://news.example.org/", KEYS, purpose, 7)
        assert url == f"https://news.example.org/{path}/{KEYS.token(purpose, 7)}"
