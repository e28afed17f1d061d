"""Values and tables as text: aligned, on one line each, and harmless to a terminal."""

from typing import Any

import pytest

from deploy.orderctl.plain import cell, table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (2.6, "3"),
        ("a\x1b[2J\nb", "a?[2J?b"),
        ({"a": [1]}, '{"a": [1]}'),
        (["hold_stock"], '["hold_stock"]'),
        ("é", "é"),
    ],
)
def test_value_is_one_line_of_text(value: Any, text: str) -> None:
    assert cell(value) == text


def test_columns_are_aligned_and_chosen() -> None:
    rows: list[dict[str, Any]] = [{"a": 1, "b": "long", "c": 0}, {"b": "x"}]
    assert table(rows, ("a", "b")) == "a  b\n1  long\n-  x"
