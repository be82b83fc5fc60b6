"""Consent events can be added, and deleted with the person, and never be changed: the database itself refuses.

SQLite drops a trigger with its table, and Django changes an SQLite table by making another: a later migration that
alters `consent` has to make this trigger again.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations

MESSAGE = "consent events are append-only"

MAKE = {
    "sqlite": [
        f"CREATE TRIGGER consent_append_only BEFORE UPDATE ON consent BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
    ],
    "postgresql": [
        f"""CREATE FUNCTION consent_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION '{MESSAGE}' USING ERRCODE = 'integrity_constraint_violation'; END $$""",
        """CREATE TRIGGER consent_append_only BEFORE UPDATE ON consent
        FOR EACH ROW EXECUTE FUNCTION consent_append_only()""",
    ],
}
DROP = {
    "sqlite": ["DROP TRIGGER consent_append_only"],
    "postgresql": ["DROP TRIGGER consent_append_only ON consent", "DROP FUNCTION consent_append_only()"],
}


def make(_: Any, schema_editor: Any) -> None:
    for statement in MAKE[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def drop(_: Any, schema_editor: Any) -> None:
    for statement in DROP[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("store", "0001_first")]
    operations = [migrations.RunPython(make, drop)]
