from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import Counter
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config
from newsletter.errors import InputError, NotFound, WrongKey
from newsletter.headers import addr_spec
from newsletter.store.sheets import Rows, open_sheets

if TYPE_CHECKING:
    from newsletter.store.importing import Report

CONSENT = "Signed the paper list at the fair in May 2017."


def imported(
    store: Config, content: str | bytes, file: str = "people.csv", *, consent: str = CONSENT, **options: Any
) -> Report:
    """The report of importing a file with that content; options of `Choices` are taken as such."""
    from newsletter.store.columns import Choices
    from newsletter.store.importing import import_file

    path = store.root / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    chosen = {each.name: options.pop(each.name) for each in fields(Choices) if each.name in options}
    return import_file(store, path, consent=consent, choices=Choices(**chosen), **options)


def understood(config: Config, content: bytes) -> tuple[str, str, str]:
    """Address, name and language of the one person in a file, without a database."""
    from newsletter.store.columns import Choices, Tags, plan, reader

    Path("people.csv").write_bytes(content)
    (sheet,) = open_sheets(Path("people.csv"), shown="people.csv")
    read = reader(plan(sheet, Choices()), config, key, consent=True, tags=Tags(), lists=str, doubts=Counter())
    (row,) = Rows(sheet, lambda line, cells, reason: pytest.fail(f"{line}: {reason}"))
    return read(row)[1:4]


def key(address: str) -> bytes:
    return addr_spec(address.strip()).encode()


def people(list: str = "weekly") -> dict[str, tuple[str, str, str, set[str]]]:
    """Address → name, language, state on the list ("": none), tags."""
    from newsletter.store.models import Subscriber, Subscription

    states = dict(Subscription.objects.filter(list__name=list).values_list("subscriber_id", "state"))
    return {
        each.address: (
            each.name,
            each.language,
            states.get(each.pk, ""),
            {tagging.tag.name for tagging in each.tags.select_related("tag")},
        )
        for each in Subscriber.objects.all()
    }


def states(list: str = "weekly") -> dict[str, str]:
    return {address: state for address, (_, _, state, _) in people(list).items()}


def suppressions(store: Config) -> dict[str, str]:
    """Address → reason, for the addresses that tests use."""
    from newsletter.store.keys import key_maker
    from newsletter.store.models import Suppression

    key_of = key_maker(store.pepper.encode())
    reasons = {bytes(each.address_key): each.reason for each in Suppression.objects.all()}
    names = [f"{name}@example.org" for name in ("ana", "bea", "carla", "dora", "eva", "fay", "gil", "hal")]
    return {name: reasons[key_of(name)] for name in names if key_of(name) in reasons}


def suppress(store: Config, address: str, reason: str) -> None:
    from newsletter.store.keys import key_maker
    from newsletter.store.models import Suppression

    key = key_maker(store.pepper.encode())(address)
    Suppression.objects.create(address_key=key, reason=reason, at=datetime.now(UTC))


def outcomes(report: Report) -> dict[str, int]:
    """What became of the rows, without what became of none."""
    names = ("new", "updated", "unchanged", "unsubscribed", "stay_unsubscribed", "now_suppressed", "suppressed")
    counts = {name: getattr(report, name) for name in (*names, "erased", "duplicates", "rejected")}
    assert sum(counts.values()) == report.rows
    return {name: count for name, count in counts.items() if count}


# --- what a file gives ------------------------------------------------------------------------------------------------


def test_a_file_gives_people_with_names_languages_and_tags(store: Config) -> None:
    report = imported(
        store,
        'email,name,language,tags\nana@example.org,Ana Quispe,es,"press, board"\nbea@example.org,,,\n',
    )
    assert people() == {
        "ana@example.org": ("Ana Quispe", "es", "subscribed", {"press", "board"}),
        "bea@example.org": ("", "", "subscribed", set()),
    }
    assert outcomes(report) == {"new": 2}
    assert (report.file, report.list, report.rejects) == ("people.csv", "weekly", ())


def test_importing_a_file_again_changes_nothing(store: Config) -> None:
    content = 'email,name,tags\nana@example.org,Ana,"a,b"\nbea@example.org,Bea,\n'
    imported(store, content)
    before = people()
    assert outcomes(imported(store, content)) == {"unchanged": 2}
    assert people() == before
    from newsletter.store.models import Consent

    assert Consent.objects.count() == 1


def test_subscriptions_point_to_one_event_that_says_where_they_come_from(store: Config) -> None:
    import hashlib

    from newsletter.store.models import Consent, Subscription

    content = "email\nana@example.org\nbea@example.org\nnobody\n"
    imported(store, content)
    (event,) = Consent.objects.all()
    assert {each.consent_id for each in Subscription.objects.all()} == {event.pk}
    assert (event.kind, event.text, event.how, event.subscriber) == ("import", CONSENT, "file people.csv", None)
    assert event.evidence == {"sha256": hashlib.sha256(content.encode()).hexdigest(), "rows": 3}
    assert event.list is not None
    assert event.list.name == "weekly"


def test_a_file_named_after_an_address_leaves_no_address_in_the_event(store: Config) -> None:
    from newsletter.store.models import Consent

    imported(store, "email\nana@example.org\n", "ana@example.org.csv")
    assert Consent.objects.get().how == "file *.csv"


def test_without_a_statement_people_are_unconfirmed(store: Config) -> None:
    report = imported(store, "email\nana@example.org\n", consent="")
    assert states() == {"ana@example.org": "unconfirmed"}
    assert (report.new, report.unconfirmed) == (1, 1)


def test_a_statement_confirms_those_who_were_unconfirmed(store: Config) -> None:
    imported(store, "email\nana@example.org\n", consent="")
    report = imported(store, "email\nana@example.org\n")
    assert states() == {"ana@example.org": "subscribed"}
    assert (report.updated, report.confirmed) == (1, 1)
    from newsletter.store.models import Consent, Subscription

    assert Subscription.objects.get().consent == Consent.objects.get(text=CONSENT)


def test_an_import_without_a_statement_takes_no_confirmation_away(store: Config) -> None:
    imported(store, "email\nana@example.org\n")
    assert outcomes(imported(store, "email\nana@example.org\n", consent="")) == {"unchanged": 1}
    assert states() == {"ana@example.org": "subscribed"}


def test_a_dry_run_writes_nothing_and_reports_the_same(store: Config) -> None:
    from newsletter.store import models

    content = "email,tags,status\nana@example.org,x,\nbea@example.org,,bounced\nnobody,,\nana@example.org,,\n"
    tables = (models.Subscriber, models.Subscription, models.Consent, models.Tag, models.Suppression, models.List)
    dry = imported(store, content, dry_run=True)
    assert [table.objects.count() for table in tables] == [0] * 6
    assert sorted(path.name for path in store.root.glob("*people*")) == ["people.csv"]
    real = imported(store, content)
    assert outcomes(dry) == outcomes(real) == {"new": 1, "now_suppressed": 1, "rejected": 1, "duplicates": 1}
    assert dry.reasons == real.reasons


def test_an_unknown_list_is_an_error_before_anything_is_read(store: Config) -> None:
    for dry_run in (True, False):
        with pytest.raises(NotFound, match='no list "weekley", did you mean "weekly"'):
            imported(store, "email\nana@example.org\n", list="weekley", dry_run=dry_run)
    assert people() == {}


def test_another_pepper_imports_nobody(store: Config) -> None:
    imported(store, "email\nana@example.org\n")
    with pytest.raises(WrongKey):
        imported(replace(store, pepper="q" * 40), "email\nbea@example.org\n")
    assert list(people()) == ["ana@example.org"]


def test_people_may_be_on_several_lists(store: Config) -> None:
    imported(store, "email\nana@example.org\n")
    assert outcomes(imported(store, "email\nana@example.org\n", list="alerts", consent="")) == {"new": 1}
    assert (states("weekly"), states("alerts")) == (
        {"ana@example.org": "subscribed"},
        {"ana@example.org": "unconfirmed"},
    )


def test_tags_and_language_can_be_given_to_everybody(store: Config) -> None:
    imported(store, "email,language\nana@example.org,\nbea@example.org,en\n", tags=("fair",), language="es")
    assert people() == {
        "ana@example.org": ("", "es", "subscribed", {"fair"}),
        "bea@example.org": ("", "en", "subscribed", {"fair"}),
    }


def test_attributes_are_kept_when_asked_for(store: Config) -> None:
    from newsletter.store.models import Subscriber

    content = "email,Ciudad,Edad,Socia,Teléfono,Nota\nana@example.org,Cusco,44,true,+51 084,\n"
    report = imported(store, content)
    assert Subscriber.objects.get().attributes == {}
    assert report.plans[0].unused == ("Ciudad", "Edad", "Socia", "Teléfono", "Nota")
    imported(store, content, attributes=("ciudad", "Edad"))
    assert Subscriber.objects.get().attributes == {"Ciudad": "Cusco", "Edad": 44}
    imported(store, content, attributes=("all",))
    kept = {"Ciudad": "Cusco", "Edad": 44, "Socia": True, "Teléfono": "+51 084"}
    assert Subscriber.objects.get().attributes == kept


def test_joining_dates_are_kept(store: Config) -> None:
    from newsletter.store.models import Subscription

    report = imported(
        store,
        "email,created at\nana@example.org,2015-03-04T05:06:07+02:00\nbea@example.org,3/4/2015\n"
        "carla@example.org,2999-01-01\n",
    )
    joined = {each.subscriber.address: each.joined_at for each in Subscription.objects.all()}
    assert joined["ana@example.org"] == datetime(2015, 3, 4, 3, 6, 7, tzinfo=UTC)
    today = datetime.now(UTC).date()
    assert joined["bea@example.org"].date() == joined["carla@example.org"].date() == today
    assert report.doubts == {'a time in "created at" was not understood': 2}


# --- who is there already ---------------------------------------------------------------------------------------------


def test_what_is_there_is_filled_in_and_not_replaced(store: Config) -> None:
    from newsletter.store.models import Subscriber

    imported(store, "email,name,tags,town,age\nana@example.org,Ana,a,Cusco,\n", attributes=("all",))
    content = "email,name,language,tags,town,age\nANA@example.org,Anita,es,b,Lima,44\n"
    assert outcomes(imported(store, content, attributes=("all",))) == {"updated": 1}
    assert people() == {"ana@example.org": ("Ana", "es", "subscribed", {"a", "b"})}
    assert Subscriber.objects.get().attributes == {"town": "Cusco", "age": 44}
    assert outcomes(imported(store, content, attributes=("all",))) == {"unchanged": 1}
    assert outcomes(imported(store, content, attributes=("all",), update=True)) == {"updated": 1}
    assert people()["ana@example.org"][0] == "Anita"
    assert Subscriber.objects.get().attributes == {"town": "Lima", "age": 44}


def test_nobody_comes_back_who_left(store: Config) -> None:
    from newsletter.store.models import Subscription

    imported(store, "email,name\nana@example.org,\nbea@example.org,\ncarla@example.org,\ndora@example.org,\n")
    Subscription.objects.filter(subscriber__address="ana@example.org").update(state="unsubscribed")
    for address, reason in (("bea", "bounce"), ("carla", "complaint"), ("eva", "erased"), ("fay", "manual")):
        suppress(store, f"{address}@example.org", reason)
    content = "".join(f"{name}@example.org,New Name\n" for name in ("Ana", "bea", "carla", "dora", "EVA", "fay", "gil"))
    for dry_run in (True, False):
        report = imported(store, f"email,name\n{content}", update=True, tags=("new",), dry_run=dry_run)
        assert outcomes(report) == {"stay_unsubscribed": 1, "suppressed": 3, "erased": 1, "updated": 1, "new": 1}
    assert people() == {
        "ana@example.org": ("", "", "unsubscribed", set()),
        "bea@example.org": ("", "", "subscribed", set()),
        "carla@example.org": ("", "", "subscribed", set()),
        "dora@example.org": ("New Name", "", "subscribed", {"new"}),
        "gil@example.org": ("New Name", "", "subscribed", {"new"}),
    }
    assert suppressions(store) == {
        "bea@example.org": "bounce",
        "carla@example.org": "complaint",
        "eva@example.org": "erased",
        "fay@example.org": "manual",
    }


def test_who_left_elsewhere_leaves_here(store: Config) -> None:
    imported(store, "email\nana@example.org\nbea@example.org\n")
    content = (
        "email,status\nana@example.org,unsubscribed\nbea@example.org,Bounced\ncarla@example.org,unsubscribed\n"
        "dora@example.org,spam complaint\neva@example.org,blocklisted\nfay@example.org,pending\n"
        "gil@example.org,active\n"
    )
    report = imported(store, content)
    assert outcomes(report) == {"unsubscribed": 2, "now_suppressed": 3, "new": 2}
    assert states() == {
        "ana@example.org": "unsubscribed",
        "bea@example.org": "subscribed",
        "carla@example.org": "unsubscribed",
        "fay@example.org": "unconfirmed",
        "gil@example.org": "subscribed",
    }
    assert suppressions(store) == {
        "bea@example.org": "bounce",
        "dora@example.org": "complaint",
        "eva@example.org": "manual",
    }
    assert outcomes(imported(store, content)) == {"unchanged": 7}


def test_a_complaint_is_worse_than_a_bounce_and_nothing_lifts_either(store: Config) -> None:
    suppress(store, "ana@example.org", "bounce")
    suppress(store, "bea@example.org", "complaint")
    suppress(store, "carla@example.org", "erased")
    report = imported(
        store, "email,status\n" + "".join(f"{name}@example.org,complained\n" for name in ("ana", "bea", "carla"))
    )
    assert outcomes(report) == {"now_suppressed": 1, "unchanged": 1, "erased": 1}
    imported(store, "email,status\nana@example.org,bounced\nbea@example.org,bounced\n")
    assert suppressions(store) == {
        "ana@example.org": "complaint",
        "bea@example.org": "complaint",
        "carla@example.org": "erased",
    }


def test_who_unsubscribes_in_the_file_leaves_although_suppressed(store: Config) -> None:
    imported(store, "email\nana@example.org\n")
    suppress(store, "ana@example.org", "bounce")
    assert outcomes(imported(store, "email,status\nana@example.org,unsubscribed\n")) == {"unsubscribed": 1}
    assert states() == {"ana@example.org": "unsubscribed"}


# --- rows about one person --------------------------------------------------------------------------------------------


def test_rows_about_one_person_are_put_together(store: Config) -> None:
    content = (
        "email,name,language,tags,status\nana@example.org,Ana,,a,\n Ana@EXAMPLE.org ,Anita,es,b,\n"
        "bea@example.org,,,,active\nbea@example.org,,,,unsubscribed\nbea@example.org,,,,active\n"
    )
    report = imported(store, content)
    assert outcomes(report) == {"new": 1, "unsubscribed": 1, "duplicates": 3}
    assert people() == {
        "ana@example.org": ("Ana", "es", "subscribed", {"a", "b"}),
        "bea@example.org": ("", "", "unsubscribed", set()),
    }


def test_rows_about_one_person_meet_however_far_apart(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import importing

    monkeypatch.setattr(importing, "CHUNK", 10)
    rows = [f"reader{number}@example.org,{'unsubscribed' if number == 7 else ''}\n" for number in range(300)]
    report = imported(store, "email,status\n" + "".join(rows) + "reader7@example.org,active\n" + "".join(rows))
    assert outcomes(report) == {"new": 299, "unsubscribed": 1, "duplicates": 301}
    assert states()["reader7@example.org"] == "unsubscribed"


def test_a_file_of_one_address_a_thousand_times_is_one_person(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import importing

    monkeypatch.setattr(importing, "CHUNK", 10)
    assert outcomes(imported(store, "email\n" + "ana@example.org\n" * 1000)) == {"new": 1, "duplicates": 999}


# --- rows that cannot be taken ----------------------------------------------------------------------------------------

BAD = """email,name,tags,status
ana@example.org,Ana,,
,Nobody,,
not an address,=cmd(),,
a@b@example.org,Two,,
"bea@example.org, carla@example.org",,,
dora@example.org,Dora,,perhaps
eva@example.org,Eva,x,,more
fay@localhost.,Fay,,
gil@example.org,{long},,
"""


def rejected(report: Report) -> list[list[str]]:
    (path,) = report.rejects
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def test_bad_rows_go_to_a_file_with_line_and_reason(store: Config) -> None:
    report = imported(store, BAD.replace("{long}", "x" * 201))
    assert list(people()) == ["ana@example.org", "fay@localhost"]
    head, *rows = rejected(report)
    assert report.rejects == (store.root / "people.csv.rejected.csv",)
    assert head == ["reject_line", "reject_reason", "email", "name", "tags", "status"]
    assert [row[:3] for row in rows] == [
        ["3", "no address", ""],
        ["4", "the address has no @", "not an address"],
        ["5", "more than one address in a cell", "a@b@example.org"],
        ["6", "more than one address in a cell", "bea@example.org, carla@example.org"],
        ["7", "the status 'perhaps' is not known", "dora@example.org"],
        ["8", "has 5 cells, the header 4", "eva@example.org"],
        ["10", "the name is longer than 200 characters", "gil@example.org"],
    ]
    assert rows[1][3] == "'=cmd()"
    assert report.reasons["more than one address in a cell"] == 2
    assert report.examples[0] == ("people.csv", 3, "no address")


def test_a_mended_file_of_rejected_rows_can_be_imported(store: Config) -> None:
    report = imported(store, "email,name\nana(at)example.org,=Ana\nbea@example.org,Bea\n")
    (path,) = report.rejects
    path.write_bytes(path.read_bytes().replace(b"(at)", b"@"))
    from newsletter.store.importing import import_file

    again = import_file(store, path, consent=CONSENT)
    assert outcomes(again) == {"new": 1}
    assert again.plans[0].unused == ()
    assert people()["ana@example.org"][0] == "=Ana"


def test_a_file_of_rejected_rows_is_never_overwritten(store: Config) -> None:
    first = imported(store, "email\nana\n")
    again = imported(store, "email\nana\n")
    other = imported(store, "email\nbea\n")
    names = [report.rejects[0].name for report in (first, again, other)]
    assert names == ["people.csv.rejected.csv", "people.csv.rejected.csv", "people.csv.rejected-2.csv"]


def test_rows_that_are_rejected_again_get_a_file_of_their_own(store: Config) -> None:
    (path,) = imported(store, "email\nana\nbea\n").rejects
    path.write_bytes(path.read_bytes().replace(b"ana", b"ana@example.org"))
    from newsletter.store.importing import import_file

    again = import_file(store, path)
    assert [each.name for each in again.rejects] == ["people.csv.rejected-2.csv"]


def test_a_quote_that_is_never_closed_takes_one_row_and_not_the_rest(store: Config) -> None:
    content = (
        'email,name\nana@example.org,"Ana\nbea@example.org,Bea\ncarla@example.org,"Carla"\n'
        'dora@example.org,"Dora ""la"" Dos\nLines"\neva@example.org,"Eva\n'
    )
    report = imported(store, content)
    assert people().keys() == {"bea@example.org", "carla@example.org", "dora@example.org"}
    assert people()["dora@example.org"][0] == 'Dora "la" Dos Lines'
    assert [(line, reason) for _, line, reason in report.examples] == [
        (2, "a quote opens here and is not closed"),
        (7, "a quote opens here and is not closed"),
    ]
    assert rejected(report)[1][2:] == ["ana@example.org", '"Ana']


def test_a_cell_without_end_is_one_bad_row(store: Config) -> None:
    content = (
        f'email,name\nana@example.org,{"x" * 140_000}\nbea@example.org,"{"y" * 140_000}\ncarla@example.org,Carla\n'
    )
    report = imported(store, content)
    assert list(people()) == ["carla@example.org"]
    assert [line for _, line, _ in report.examples] == [2, 3]
    assert report.reasons == {"a cell is longer than 131,072 characters": 2}


def test_blank_rows_are_no_rows(store: Config) -> None:
    report = imported(store, "\n\n,,\nemail,name,\n\nana@example.org,Ana,\n,,\n   \n\nbea@example.org\n")
    assert outcomes(report) == {"new": 2}


# --- addresses and names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "address", "name"),
    [
        ("ana@example.org", "ana@example.org", ""),
        (" Ana@Example.ORG\t", "Ana@Example.ORG", ""),
        ("\u200bana@example.org\ufeff\u00a0", "ana@example.org", ""),
        ("ana@example.org.", "ana@example.org", ""),
        ("ana@example.org;", "ana@example.org", ""),
        ("mailto:ana@example.org?subject=x", "ana@example.org", ""),
        ("<ana@example.org>", "ana@example.org", ""),
        ('"Quispe, Ana" <ana@example.org>', "ana@example.org", "Quispe, Ana"),
        ("Ana Quispe <MAILTO:ana@example.org>", "ana@example.org", "Ana Quispe"),
        ("ana@example.org (Ana Quispe)", "ana@example.org", "Ana Quispe"),
        ("'ana@example.org'", "ana@example.org", ""),
        ("josé@bücher.example", "josé@bücher.example", ""),
        ("o'brien+news@example.org", "o'brien+news@example.org", ""),
    ],
)
def test_an_address_is_found_in_its_cell(cell: str, address: str, name: str) -> None:
    from newsletter.store.cells import clean_address

    assert clean_address(cell) == (address, name)


def test_a_name_beside_the_address_counts_where_no_other_is(store: Config) -> None:
    imported(store, 'email;name\n"""Ana Q"" <ana@example.org>";\nBea <bea@example.org>;Beatriz\n')
    assert {address: name for address, (name, *_) in people().items()} == {
        "ana@example.org": "Ana Q",
        "bea@example.org": "Beatriz",
    }


@pytest.mark.parametrize(
    ("header", "row", "name"),
    [
        ("First Name,Last Name,Email", "Ana,Quispe,ana@example.org", "Ana Quispe"),
        ("Vorname;Name;E-Mail", "Ana;Quispe;ana@example.org", "Ana Quispe"),
        ("Prénom;Nom;Adresse e-mail", "Ana;Quispe;ana@example.org", "Ana Quispe"),
        ("Nombre;Apellidos;Correo electrónico", "Ana;Quispe;ana@example.org", "Ana Quispe"),
        ("Nombre,Correo", "Ana Quispe,ana@example.org", "Ana Quispe"),
        ("Full name\tE-MAIL ADDRESS", "Ana Quispe\tana@example.org", "Ana Quispe"),
        ("Name|First Name|Last Name|Mail", "|Ana|Quispe|ana@example.org", "Ana Quispe"),
        ("名前,メールアドレス", "Ana Quispe,ana@example.org", "Ana Quispe"),
        ("Имя;Фамилия;Электронная почта", "Ana;Quispe;ana@example.org", "Ana Quispe"),
        ("What is your name?,What is your email?", "Ana Quispe,ana@example.org", ""),
        ("Address,Contact", '"1 Mill Street, Lima",ana@example.org', ""),
        ("Name,Address", "  Ana \u00a0  Quispe\u200b,ana@example.org", "Ana Quispe"),
    ],
)
def test_columns_are_known_by_their_names_or_by_what_stands_in_them(
    config: Config, header: str, row: str, name: str
) -> None:
    assert understood(config, f"{header}\n{row}\n".encode()) == ("ana@example.org", name, "")


@pytest.mark.parametrize(
    ("cell", "language"),
    [
        *(("es", "es"), ("ES", "es"), ("es_PE", "es-PE"), ("ES-pe", "es-PE"), ("Español", "es"), ("inglés", "en")),
        *(("fr", "fr"), ("zh-hant-tw", "zh-Hant-TW"), ("Klingon-like", ""), ("?", ""), ("", "")),
    ],
)
def test_languages_are_understood(config: Config, cell: str, language: str) -> None:
    from newsletter.store.cells import Languages

    doubts: Counter[str] = Counter()
    assert Languages(config, doubts).of(cell) == language
    assert doubts == ({f"{cell!r} is no language that is known": 1} if cell and not language else {})


@pytest.mark.parametrize(
    ("cell", "moment"),
    [
        ("2019-03-04", "2019-03-04 00:00:00"),
        ("2019-03-04 05:06", "2019-03-04 05:06:00"),
        ("2019-03-04T05:06:07.123Z", "2019-03-04 05:06:07.123000"),
        ("2019-03-04 05:06:07 UTC", "2019-03-04 05:06:07"),
        ("2019-03-04T05:06:07+02:00", "2019-03-04 03:06:07"),
        ("4.3.2019", "2019-03-04 00:00:00"),
        ("04.03.2019, 05:06", "2019-03-04 05:06:00"),
        ("1551675967", "2019-03-04 05:06:07"),
        ("1551675967123", "2019-03-04 05:06:07"),
        *((cell, "") for cell in ("3/4/2019", "yesterday", "", "2999-01-01", "31.2.2019", "0001-01-01T00:00:00+05:00")),
    ],
)
def test_times_are_understood_that_have_one_meaning(cell: str, moment: str) -> None:
    from newsletter.store import cells

    assert cells.moment(cell) == moment


@pytest.mark.parametrize(
    ("cell", "tags"),
    [
        ("a", ["a"]),
        (" a ,b,, c", ["a", "b", "c"]),
        ("a; b|c", ["a", "b", "c"]),
        ("a, b; c", ["a, b", "c"]),
        ('"Tag one","Tag, two"', ["Tag one", "Tag, two"]),
        ('"one", "two"', ["one", "two"]),
        ("['one', 'two']", ["one", "two"]),
        ('["one", "two"]', ["one", "two"]),
        ("", []),
        (" , ", []),
    ],
)
def test_tags_are_split_as_people_write_them(cell: str, tags: list[str]) -> None:
    from newsletter.store.cells import split_tags

    assert split_tags(cell) == tags


def test_more_than_a_hundred_tags_or_one_too_long_reject_the_row(store: Config) -> None:
    many, long = ",".join(map(str, range(101))), "x" * 101
    report = imported(store, f'email,tags\nana@example.org,"{many}"\nbea@example.org,{long}\n')
    assert report.reasons == {"has more than 100 tags": 1, "a tag is longer than 100 characters": 1}


def test_a_column_with_too_many_different_tags_is_none_of_tags(store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import importing

    monkeypatch.setattr(importing, "MOST_TAGS", 2)
    content = "email,tags\n" + "".join(f"reader{number}@example.org,{number}\n" for number in range(3))
    with pytest.raises(InputError, match="has more than 2 different tags") as caught:
        imported(store, content)
    assert caught.value.findings[0].help.endswith('If not: --ignore "tags"')
    assert people() == {}
    assert outcomes(imported(store, content, ignore=("tags",))) == {"new": 3}


# --- what whoever imports says ----------------------------------------------------------------------------------------


def test_columns_can_be_named_and_ignored(store: Config) -> None:
    content = "Private,Work,Nick,Tags\nana@example.org,ana@example.com,Anita,x\n"
    with pytest.raises(InputError, match="no column holds addresses") as caught:
        imported(store, content)
    assert 'name it: --column email="…"' in caught.value.findings[0].help
    imported(store, content, columns={"email": "work", "name": "Nick"}, ignore=("Tags",))
    assert people() == {"ana@example.com": ("Anita", "", "subscribed", set())}


def test_wrong_choices_are_told_all_at_once(store: Config) -> None:
    with pytest.raises(InputError) as caught:
        imported(
            store,
            "email,name\nana@example.org,Ana\n",
            columns={"emial": "email", "name": "nmae"},
            ignore=("phone",),
            attributes=("town",),
            preset="mailchmp",
            status="subscribd",
        )
    assert [finding.message for finding in caught.value.findings] == [
        '--preset mailchmp: there is none, did you mean "mailchimp"?',
        '--column emial: not a field, did you mean "email"?',
        "--column: no column 'nmae', did you mean \"name\"?",
        "--ignore: no column 'phone'",
        "--attributes: no column 'town'",
        '--status subscribd: not a status, did you mean "subscribed"?',
    ]
    assert people() == {}


def test_a_status_can_be_given_to_the_whole_file(store: Config) -> None:
    assert outcomes(imported(store, "email\nana@example.org\n", status="blocked")) == {"now_suppressed": 1}
    assert suppressions(store) == {"ana@example.org": "manual"}


@pytest.mark.parametrize(
    ("file", "outcome"), [("unsubscribed.csv", "unsubscribed"), ("hard bounces.csv", "now_suppressed")]
)
def test_a_file_whose_name_says_that_they_left_subscribes_nobody(store: Config, file: str, outcome: str) -> None:
    assert outcomes(imported(store, "email\nana@example.org\n", file)) == {outcome: 1}


# --- files of every kind ----------------------------------------------------------------------------------------------

ACCENTS = "correo;nombre\r\nana@example.org;Ana Ñáñez\r\n"


@pytest.mark.parametrize(
    ("content", "dialect"),
    [
        (ACCENTS.encode(), "UTF-8, semicolon"),
        (ACCENTS.encode("utf-8-sig"), "UTF-8, semicolon"),
        (ACCENTS.encode("utf-16"), "UTF-16, semicolon"),
        (b"\xfe\xff" + ACCENTS.encode("utf-16-be"), "UTF-16, semicolon"),
        (ACCENTS.encode("utf-16-le"), "UTF-16LE, semicolon"),
        (ACCENTS.encode("utf-16-be"), "UTF-16BE, semicolon"),
        (ACCENTS.encode("cp1252"), "Windows-1252, semicolon"),
        (ACCENTS.replace(";", "\t").encode("utf-16"), "UTF-16, tab"),
        (ACCENTS.replace(";", "|").encode(), "UTF-8, vertical bar"),
        (ACCENTS.replace(";", ",").encode(), "UTF-8, comma"),
        (ACCENTS.replace("\r\n", "\r").encode(), "UTF-8, semicolon"),
        (ACCENTS.replace("\r\n", "\n").encode(), "UTF-8, semicolon"),
        (("sep=;\r\n" + ACCENTS).encode("cp1252"), "Windows-1252, semicolon"),
        (('"sep=,"\r\n' + ACCENTS.replace(";", ",")).encode("utf-8-sig"), "UTF-8, comma"),
        (("\r\n;\r\n" + ACCENTS).encode(), "UTF-8, semicolon"),
        (ACCENTS.replace("Ana ", "\0Ana\0 ").encode(), "UTF-8, semicolon"),
        (ACCENTS.replace("ana@", '"ana@').replace("org;", 'org";').encode(), "UTF-8, semicolon"),
        (ACCENTS.rstrip().encode(), "UTF-8, semicolon"),
    ],
)
def test_files_of_every_spreadsheet_are_read(config: Config, content: bytes, dialect: str) -> None:
    assert understood(config, content) == ("ana@example.org", "Ana Ñáñez", "")
    (sheet,) = open_sheets(Path("people.csv"), shown="people.csv")
    assert sheet.dialect == dialect


def test_octets_that_no_windows_writes_are_latin_1(store: Config) -> None:
    report = imported(store, b"email,name\nana@example.org,Ana \x81\xd1\n")
    assert report.plans[0].sheet.encoding == "ISO-8859-1"


def test_an_encoding_can_be_named(store: Config) -> None:
    imported(store, "email,name\nana@example.org,Анна\n".encode("cp1251"), encoding="Windows-1251")
    assert people()["ana@example.org"][0] == "Анна"
    with pytest.raises(InputError, match="Windows-1215: no such encoding, did you mean"):
        imported(store, b"email\n", encoding="Windows-1215")
    with pytest.raises(InputError, match="is not in the encoding ascii"):
        imported(store, "email,name\nana@example.org,Ñ\n", encoding="ascii")


def test_damage_in_utf_8_costs_the_rows_that_it_is_in(store: Config) -> None:
    content = "email,name\nana@example.org,Ñáñez\nbea@example.org,É?\ncarla@example.org,Carla\n".encode()
    report = imported(store, content.replace(b"?", b"\xff"))
    assert people().keys() == {"ana@example.org", "carla@example.org"}
    assert report.reasons == {"holds octets that are not UTF-8": 1}
    assert report.plans[0].sheet.encoding == "UTF-8"


def test_addresses_alone_need_no_header(store: Config) -> None:
    report = imported(store, "ana@example.org\n\nBea <bea@example.org>\n")
    assert people().keys() == {"ana@example.org", "bea@example.org"}
    assert not report.plans[0].sheet.headed
    assert outcomes(imported(store, "1,carla@example.org,x\n2,dora@example.org,y\n", "other.csv")) == {"new": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"name,town\nAna,Cusco\n", "no column holds addresses"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Excel workbook"),
        (b"\xff\xfee\0m\0a\0i\0l\0\n\0a\xd8x", "begins as UTF-16 and is not to its end"),
        (b"email\n" + b"x" * 5_000_000, "a line of it has no end"),
    ],
)
def test_what_is_no_table_is_refused_with_the_next_step(store: Config, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        imported(store, content)
    assert all(finding.help for finding in caught.value.findings)


def zipped(**files: str | bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_a_workbook_is_refused(store: Config) -> None:
    with pytest.raises(InputError, match="is a workbook") as caught:
        imported(store, zipped(**{"[Content_Types].xml": "<x/>", "xl/sheet1.xml": ""}), "people.xlsx")
    assert "CSV" in caught.value.findings[0].help


def test_a_bomb_is_refused(store: Config) -> None:
    with pytest.raises(InputError, match="unpacks to far more than a table would"):
        imported(store, zipped(**{"people.csv": b"email\n" + b"\n" * 30_000_000}), "export.zip")


def test_a_zip_whose_directory_lies_gives_no_more_than_it_names(store: Config) -> None:
    content = zipped(**{"people.csv": b"email\n" + b"x@example.org\n" * 100_000})
    size = len(b"email\n" + b"x@example.org\n" * 100_000)
    lying = content.replace(size.to_bytes(4, "little"), (20).to_bytes(4, "little"))
    with pytest.raises(InputError, match=r"cannot be unpacked|damaged"):
        imported(store, lying, "export.zip")
    assert people() == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + b"x" * 100, "no column holds|is a damaged zip"),
        (zipped(readme="hello"), "without a .csv in it"),
    ],
)
def test_a_zip_without_people_is_refused(store: Config, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        imported(store, content, "export.zip")


# --- exports of other systems -----------------------------------------------------------------------------------------

MAILCHIMP = (
    '"Email Address","First Name","Last Name",Company,MEMBER_RATING,OPTIN_TIME,OPTIN_IP,CONFIRM_TIME,CONFIRM_IP,'
    "LATITUDE,LONGITUDE,GMTOFF,DSTOFF,TIMEZONE,CC,REGION,{left}LAST_CHANGED,LEID,EUID,NOTES,TAGS\n"
)
SUBSCRIBED = MAILCHIMP.format(left="") + (
    'ana@example.org,Ana,Quispe,,4,"2018-02-12 17:59:31",192.0.2.7,"2018-02-12 18:06:58",192.0.2.7,,,,,,,,'
    '"2018-02-12 18:06:58",1,a1,,"""Tag one"",""Tag, two"""\n'
    'bea@example.org,Bea,,,2,"2018-02-12 16:55:49",,"2018-02-12 16:55:49",,,,,,,,,"2018-02-13 09:25:34",2,b2,,\n'
    'carla@example.org,,,,2,,,"2015-03-16 14:40:47",,,,,,,,,"2015-03-16 14:40:47",3,c3,,"""Tag one"""\n'
)
UNSUBSCRIBED = MAILCHIMP.format(left="UNSUB_TIME,UNSUB_CAMPAIGN_ID,UNSUB_REASON,UNSUB_CAMPAIGN_ID,UNSUB_REASON,") + (
    'dora@example.org,Dora,,,,"2018-02-12 10:54:27",192.0.2.8,"2018-02-12 10:55:27",,,,,,,,,"2018-07-23 12:19:27",,'
    ",,,,4,d4,,\n"
)
CLEANED = MAILCHIMP.format(left="CLEAN_TIME,CLEAN_CAMPAIGN_TITLE,CLEAN_CAMPAIGN_ID,") + (
    'eva@example.org,Eva,,,1,"2018-02-05 19:28:23",192.0.2.9,"2018-02-05 19:29:23",,,,,,,,,"2020-03-23 17:30:05",'
    ",,,5,e5,,\n"
)


def test_mailchimp_says_by_the_name_of_the_file_who_is_in_it(store: Config) -> None:
    report = imported(
        store,
        zipped(
            **{
                "subscribed_email_audience_export_1a2b.csv": SUBSCRIBED,
                "unsubscribed_email_audience_export_1a2b.csv": UNSUBSCRIBED,
                "cleaned_email_audience_export_1a2b.csv": CLEANED,
                "notes.txt": "not a table of people\n",
                "__MACOSX/subscribed.csv": SUBSCRIBED,
            }
        ),
        "audience_export.zip",
        consent="",
    )
    assert people() == {
        "ana@example.org": ("Ana Quispe", "", "subscribed", {"Tag one", "Tag, two"}),
        "bea@example.org": ("Bea", "", "unconfirmed", set()),  # uploaded by the owner: nothing but the time says so
        "carla@example.org": ("", "", "unconfirmed", {"Tag one"}),
        "dora@example.org": ("Dora", "", "unsubscribed", set()),
    }
    assert suppressions(store) == {"eva@example.org": "bounce"}
    assert outcomes(report) == {"new": 3, "unsubscribed": 1, "now_suppressed": 1}
    assert [plan.status for plan in report.plans] == ["bounced", "unsubscribed", "subscribed"]
    assert {plan.preset and plan.preset.name for plan in report.plans} == {"mailchimp"}
    assert report.passed_over == ("audience_export.zip/notes.txt",)


def test_mailchimp_files_can_come_one_by_one_renamed_and_in_other_languages(store: Config) -> None:
    imported(store, UNSUBSCRIBED, "old.csv")
    imported(store, CLEANED, "subscribed_members.csv")  # its columns know better
    german = SUBSCRIBED.replace('"Email Address","First Name","Last Name"', "Emailadresse,Vorname,Nachname")
    imported(store, german.replace("ana@", "fay@"), "subscribed_segment_export_0f.csv", consent="")
    assert states() == {
        "dora@example.org": "unsubscribed",
        "fay@example.org": "subscribed",
        "bea@example.org": "unconfirmed",
        "carla@example.org": "unconfirmed",
    }
    assert suppressions(store) == {"eva@example.org": "bounce"}


PRESETS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "substack": (
        "email_list.valley.csv",
        "email,active_subscription,expiry,plan,email_disabled,created_at,first_payment_at\n"
        "ana@example.org,false,,other,false,2021-01-15T10:00:00.000Z,\n"
        "bea@example.org,true,2026-12-01T00:00:00.000Z,yearly,false,2021-02-01T10:00:00.000Z,\n"
        "carla@example.org,false,,other,true,2021-03-01T10:00:00.000Z,\n",
        {"ana@example.org": "subscribed", "bea@example.org": "subscribed", "carla@example.org": "unsubscribed"},
        {},
    ),
    "ghost": (
        "valley.ghost.members.2024-01-02.csv",
        "id,email,name,note,subscribed_to_emails,complimentary_plan,stripe_customer_id,created_at,deleted_at,labels,tiers\n"
        'm1,ana@example.org,Ana,"a note, of us",true,false,,2021-01-15T10:00:00.000Z,,"press,board",\n'
        "m2,bea@example.org,Bea,,false,false,,2021-01-15T10:00:00.000Z,,,\n"
        "m3,carla@example.org,,,true,false,,2021-01-15T10:00:00.000Z,2022-01-15T10:00:00.000Z,,\n",
        {"ana@example.org": "subscribed", "bea@example.org": "unsubscribed", "carla@example.org": "unsubscribed"},
        {},
    ),
    "listmonk": (
        "subscribers.csv",
        "uuid,email,name,attributes,status,created_at,updated_at\n"
        'u1,ana@example.org,Ana,"{""city"":""Lima"",""age"":44,""x"":{""y"":true}}",enabled,2021-01-15T10:00:00Z,x\n'
        "u2,bea@example.org,Bea,{},disabled,2021-01-15T10:00:00Z,x\n"
        "u3,carla@example.org,Carla,{},blocklisted,2021-01-15T10:00:00Z,x\n",
        {"ana@example.org": "subscribed", "bea@example.org": "unsubscribed"},
        {"carla@example.org": "manual"},
    ),
    "keila": (
        "contacts_np_x.csv",
        "Email,First name,Last name,Data,Status,External ID\n"
        'ana@example.org,Ana,Quispe,"{""city"":""Lima"",""age"":44,""x"":{""y"":true}}",active,\n'
        "bea@example.org,Bea,,,unsubscribed,\n"
        "carla@example.org,Carla,,,unreachable,\n",
        {"ana@example.org": "subscribed", "bea@example.org": "unsubscribed"},
        {"carla@example.org": "bounce"},
    ),
    "buttondown": (
        "subscribers-export.csv",
        "email,notes,metadata,tags,referrer_url,subscriber_type,creation_date,source\n"
        "ana@example.org,,\"{'city': 'Lima', 'age': 44, 'x': {'y': True}}\",\"press, board\",,regular,2021-01-15,api\n"
        "bea@example.org,,{},,,unsubscribed,2021-01-15 10:00:00+00:00,\n"
        "carla@example.org,,{},,,unactivated,2021-01-15,\n"
        "dora@example.org,,{},,,undeliverable,2021-01-15,\n"
        "eva@example.org,,{},,,complained,2021-01-15,\n"
        "fay@example.org,,{},,,blocked,2021-01-15,\n",
        {"ana@example.org": "subscribed", "bea@example.org": "unsubscribed", "carla@example.org": "unconfirmed"},
        {"dora@example.org": "bounce", "eva@example.org": "complaint", "fay@example.org": "manual"},
    ),
    "beehiiv": (
        "export.csv",
        "email,First Name,Last Name,status,tier,created_at,stripe_customer_id,Free Tier,unsubscribed_at\n"
        "ana@example.org, Ana , Quispe,active,free,2021-01-15 10:00:00 UTC,,Yes,\n"
        "bea@example.org,,,inactive,premium,2021-01-15 10:00:00 UTC,,No,\n"
        "carla@example.org,,,pending,free,2021-01-15 10:00:00 UTC,,Yes,\n"
        "dora@example.org,,,active,free,2021-01-15 10:00:00 UTC,,Yes,2022-01-15 10:00:00 UTC\n"
        "eva@example.org,,,invalid,free,2021-01-15 10:00:00 UTC,,Yes,\n",
        {
            "ana@example.org": "subscribed",
            "bea@example.org": "unsubscribed",
            "carla@example.org": "unconfirmed",
            "dora@example.org": "unsubscribed",
        },
        {"eva@example.org": "bounce"},
    ),
    "mailerlite": (
        "export.csv",
        "Subscriber,Name,Last name,Subscribed,Location,Status,Groups,Sent,Opened,Clicked\n"
        "ana@example.org,Ana,Quispe,2021-01-15 10:00:00,Lima,active,press,3,2,1\n"
        "bea@example.org,,,2021-01-15 10:00:00,,unsubscribed,,3,2,1\n"
        "carla@example.org,,,2021-01-15 10:00:00,,unconfirmed,,0,0,0\n"
        "dora@example.org,,,2021-01-15 10:00:00,,bounced,,3,2,1\n"
        "eva@example.org,,,2021-01-15 10:00:00,,junk,,3,2,1\n",
        {"ana@example.org": "subscribed", "bea@example.org": "unsubscribed", "carla@example.org": "unconfirmed"},
        {"dora@example.org": "bounce", "eva@example.org": "complaint"},
    ),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_exports_of_other_systems_are_recognised_and_understood(store: Config, preset: str) -> None:
    from newsletter.store.models import Subscriber, Subscription

    file, content, expected, suppressed = PRESETS[preset]
    report = imported(store, content, file)
    (plan,) = report.plans
    assert plan.preset is not None
    assert (plan.preset.name, report.rejected) == (preset, 0)
    assert states() == expected
    assert suppressions(store) == suppressed
    ana = Subscriber.objects.get(address="ana@example.org")
    assert ana.name in ("", "Ana", "Ana Quispe")
    if plan.preset.name in ("listmonk", "keila", "buttondown"):
        assert ana.attributes == {"city": "Lima", "age": 44, "x.y": True}
    if "tags" in plan.places and "press" in content:
        assert "press" in people()["ana@example.org"][3]
    if preset != "keila":
        joined = Subscription.objects.get(subscriber=ana).joined_at
        assert joined.date().isoformat() == "2021-01-15"


@pytest.mark.parametrize("preset", PRESETS)
def test_without_a_statement_these_exports_prove_nothing(store: Config, preset: str) -> None:
    file, content, expected, suppressed = PRESETS[preset]
    imported(store, content, file, consent="")
    assert states() == {
        address: "unconfirmed" if state == "subscribed" else state for address, state in expected.items()
    }
    assert suppressions(store) == suppressed


def test_a_time_of_confirmation_is_proof(store: Config) -> None:
    content = (
        "email,confirmed_at\nana@example.org,2021-01-15 10:00\nbea@example.org,\ncarla@example.org,never\n"
        "dora@example.org,2021-01-15\n"
    )
    imported(store, content, consent="")
    assert states() == {
        "ana@example.org": "subscribed",
        "dora@example.org": "subscribed",
        "bea@example.org": "unconfirmed",
        "carla@example.org": "unconfirmed",
    }


def test_a_preset_can_be_chosen_and_switched_off(store: Config) -> None:
    content = "email,status\nana@example.org,enabled\nbea@example.org,regular\n"
    assert imported(store, content, preset="buttondown").plans[0].why == "your choice"
    plan = imported(store, PRESETS["ghost"][1], preset="none").plans[0]
    assert plan.preset is None


def test_a_name_like_that_of_an_export_makes_no_status_vanish(store: Config) -> None:
    content = "email,status\nana@example.org,unsubscribed\nbea@example.org,active\n"
    for name in ("email_list.csv", "my ghost members.csv", "buttondown.csv", "mailchimp.csv"):
        imported(store, content, name)
        assert states() == {"ana@example.org": "unsubscribed", "bea@example.org": "subscribed"}


def test_substack_s_zip_gives_the_readers_and_not_who_opened_what(store: Config) -> None:
    report = imported(
        store,
        zipped(
            **{
                "email_list.valley.csv": PRESETS["substack"][1],
                "posts.csv": "post_id,title,email_sent_at\n1.x,Hello,2021-01-01\n",
                "posts/1.opens.csv": "post_id,timestamp,email\n1,2021-01-01,zoe@example.org\n",
            }
        ),
        "export.zip",
    )
    assert states() == PRESETS["substack"][2]
    assert report.passed_over == ("export.zip/posts.csv", "export.zip/posts/1.opens.csv")


@pytest.mark.parametrize(
    "cell",
    [
        "{'a': __import__('os').getcwd()}",
        "[1, 2]",
        "{" * 3000,
        "{'a': " + "-" * 3000 + "1}",
        '{"a": 1',
        "{'a': " + "(" * 3000 + "}",
        '{"a": 1e999}',
        '{"a": "' + "x" * 1001 + '"}',
        '{"' + "k" * 101 + '": 1}',
        json.dumps({str(number): number for number in range(101)}),
    ],
)
def test_attributes_that_cannot_be_kept_reject_the_row_and_run_nothing(cell: str) -> None:
    from newsletter.store.cells import MOST_ATTRIBUTES, read_attributes

    with pytest.raises(ValueError):  # noqa: PT012
        if len(read_attributes(cell)) > MOST_ATTRIBUTES:
            raise ValueError


# --- that it can be killed, and meet others ---------------------------------------------------------------------------


class Killed(BaseException):
    pass


def test_an_import_that_is_killed_leaves_whole_chunks_and_can_be_run_again(
    store: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newsletter.store import importing, merging
    from newsletter.store.models import Consent, Subscription

    monkeypatch.setattr(importing, "CHUNK", 20)
    content = "email,tags\n" + "".join(f"reader{number}@example.org,a\n" for number in range(500))
    apply, calls = merging.apply, iter(range(1000))

    def killed_in_the_middle(*arguments: Any, **options: Any) -> None:
        apply(*arguments, **options)
        if next(calls) == 7:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(merging, "apply", killed_in_the_middle)
        with pytest.raises(Killed):
            imported(store, content)
    there = people()
    assert 0 < len(there) < 500
    assert all(person[2:] == ("subscribed", {"a"}) for person in there.values())
    assert outcomes(imported(store, content)) == {"unchanged": len(there), "new": 500 - len(there)}
    assert Consent.objects.count() == 1
    assert Subscription.objects.filter(consent=Consent.objects.get()).count() == 500


def test_a_person_who_joins_at_the_same_moment_is_not_added_twice(
    store: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL another writer may come between the comparison and the writing; SQLite has one writer at a time."""
    from django.db import connection

    from newsletter.store import merging
    from newsletter.store.keys import key_maker
    from newsletter.store.models import Subscriber

    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    import psycopg

    compare = merging.compare
    raced: list[bool] = []

    def compare_then_lose(*arguments: Any, lock: bool) -> Any:
        changes = compare(*arguments, lock=lock)
        if lock and not raced:
            raced.append(True)
            with psycopg.connect(store.database_url) as other:
                other.execute(
                    "INSERT INTO subscriber (address_key, address, name, language, attributes, created_at)"
                    " VALUES (%s, 'ana@example.org', 'Hers', '', '{}', now())",
                    [key_maker(store.pepper.encode())("ana@example.org")],
                )
        return changes

    monkeypatch.setattr(merging, "compare", compare_then_lose)
    report = imported(store, "email,name\nana@example.org,Ours\nbea@example.org,Bea\n")
    assert raced
    assert outcomes(report) == {"new": 2}
    assert Subscriber.objects.get(address="ana@example.org").name == "Hers"


def test_progress_is_told_from_nothing_to_all(store: Config) -> None:
    told: list[tuple[str, float]] = []
    imported(store, "email\nana@example.org\n", progress=lambda stage, done: told.append((stage, done)))
    assert told[0][0] == "reading"
    assert told[-1] == ("writing", 1.0)
    assert all(0 <= done <= 1 for _, done in told)


# --- anything at all --------------------------------------------------------------------------------------------------

CELL = st.one_of(
    st.sampled_from(
        ["ana@example.org", "Ana@example.org", "bea@example.org", "x", "", "unsubscribed", "active", '"', "'"]
    ),
    st.text(max_size=12),
    st.from_regex(r"[a-c]@example\.(org|com)", fullmatch=True),
)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from newsletter.store import importing

    monkeypatch.setattr(importing, "CHUNK", 2)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(CELL, min_size=1, max_size=5), max_size=12),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    dry_run=st.booleans(),
)
def test_whatever_a_file_holds_every_row_is_accounted_for(
    store: Config, small_chunks: None, rows: list[list[str]], delimiter: str, quoting: Any, dry_run: bool
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting)
    writer.writerow(["email", "name", "status", "tags"])
    writer.writerows(rows)
    content = buffer.getvalue().encode(errors="replace")
    first = imported(store, content, dry_run=True)
    blank = sum(not any(cell.strip("\0 ") for cell in row) for row in rows)
    assert first.rows + blank >= len(rows)
    outcomes(first)
    if not dry_run:
        assert outcomes(imported(store, content)) == outcomes(first)
        again = imported(store, content)
        assert again.changed == 0
        assert again.rows == first.rows
