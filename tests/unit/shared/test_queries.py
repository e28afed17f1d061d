"""A file of queries names each of them once."""

from pathlib import Path

import pytest

from shared.postgres.connections import load_queries


def test_each_query_is_found_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "queries.sql"
    file.write_text("-- All SQL.\n\n-- name: one\nSELECT 1;\n\n-- name: two\n-- Why.\nSELECT 2;\n")
    assert load_queries(file) == {"one": "SELECT 1", "two": "-- Why.\nSELECT 2"}


def test_name_given_to_two_queries_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "queries.sql"
    file.write_text("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")
    with pytest.raises(ValueError, match="names a query twice"):
        load_queries(file)
