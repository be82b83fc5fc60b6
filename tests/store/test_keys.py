from __future__ import annotations

import hmac
from dataclasses import replace

import pytest

from newsletter.config import Config
from newsletter.errors import WrongKey


def test_an_address_key_is_the_start_of_hmac_sha256_over_the_normalised_address(store: Config) -> None:
    from newsletter.store.keys import key_maker

    for pepper in (b"p" * 40, b"p" * 100):
        key = key_maker(pepper)
        expected = hmac.digest(pepper, b"ana@xn--bcher-kva.example", "sha256")[:16]
        assert key(" Ana@Bücher.EXAMPLE ") == expected


def test_the_database_knows_its_keys(store: Config) -> None:
    from newsletter.store.keys import check_keys

    check_keys(store)
    check_keys(store)
    with pytest.raises(WrongKey, match="NEWSLETTER_PEPPER is not the one"):
        check_keys(replace(store, pepper="q" * 40))
    with pytest.raises(WrongKey, match="NEWSLETTER_SECRET_KEY is not the one"):
        check_keys(replace(store, secret_key="l" * 40))
    check_keys(replace(store, secret_key="l" * 40, retired_keys=(store.secret_key,)))
    check_keys(replace(store, secret_key="l" * 40))
    with pytest.raises(WrongKey, match="NEWSLETTER_SECRET_KEY"):
        check_keys(store)
