"""Everything that stands in the database, to be held against what stood there before."""

from __future__ import annotations

Rows = dict[str, list[tuple[object, ...]]]


def all_rows(*, besides: tuple[str, ...] = ()) -> Rows:
    """Every row of every table of the store, in an order that is always the same; tables named in `besides` are left
    out. Two of them are equal when nothing was written in between, and their difference says what was."""
    from django.db import connection

    from newsletter.store.schema import our_tables

    rows: Rows = {}
    with connection.cursor() as cursor:
        for table in sorted({*our_tables()} - {*besides}):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            rows[table] = sorted((tuple(map(_plain, row)) for row in cursor.fetchall()), key=repr)
    return rows


def changed(before: Rows, after: Rows) -> dict[str, tuple[list[tuple[object, ...]], list[tuple[object, ...]]]]:
    """The tables that differ: the rows that are gone, and those that are new."""
    tables = sorted({*before, *after})
    differences = {
        table: (
            [row for row in before.get(table, []) if row not in after.get(table, [])],
            [row for row in after.get(table, []) if row not in before.get(table, [])],
        )
        for table in tables
    }
    return {table: pair for table, pair in differences.items() if any(pair)}


def _plain(value: object) -> object:
    """PostgreSQL gives octets as `memoryview`, which are compared by their identity in a set."""
    return bytes(value) if isinstance(value, memoryview) else value
