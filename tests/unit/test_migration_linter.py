"""The linter of `make check` refuses a migration that stops traffic."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SQUAWK = Path(sys.executable).with_name("squawk")

REFUSED = {
    "ALTER TABLE orders.orders ADD COLUMN note text NOT NULL;": "adding-required-field",
    "ALTER TABLE orders.orders ADD COLUMN id uuid DEFAULT gen_random_uuid();": "adding-field-with-default",
    "ALTER TABLE orders.orders ADD CONSTRAINT positive CHECK (total > 0);": "constraint-missing-not-valid",
    "ALTER TABLE orders.orders ALTER COLUMN note SET NOT NULL;": "adding-not-nullable-field",
    "ALTER TABLE orders.orders ALTER COLUMN total TYPE numeric;": "changing-column-type",
    "ALTER TABLE orders.orders RENAME COLUMN total TO amount;": "renaming-column",
    "CREATE INDEX orders_by_note ON orders.orders (note);": "require-concurrent-index-creation",
    "DROP TABLE orders.orders;": "ban-drop-table",
}


def lint(folder: Path, migration: str) -> "subprocess.CompletedProcess[str]":
    file = folder / "0001.sql"
    file.write_text(migration + "\n")
    configuration = REPOSITORY / "deploy" / "sql" / "squawk.toml"
    command = [str(SQUAWK), "--config", str(configuration), "--reporter", "gcc", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("migration", "rule"), REFUSED.items(), ids=REFUSED.values())
def test_migration_that_stops_traffic_is_refused(tmp_path: Path, migration: str, rule: str) -> None:
    linted = lint(tmp_path, migration)
    assert linted.returncode == 1
    assert f"warning: {rule} " in linted.stdout


def test_migration_that_adds_an_optional_column_passes(tmp_path: Path) -> None:
    assert lint(tmp_path, "ALTER TABLE orders.orders ADD COLUMN note text;").returncode == 0
