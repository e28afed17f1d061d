"""Integers of any size survive JSON exactly: numbers within 64 bits, digits beyond them."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.contracts.books import Books, HoldsPage
from shared.encoding import INT64_MAX, INT64_MIN, from_json, to_json

ORDER = "00000000-0000-7000-8000-000000000000"
sizes = st.one_of(st.integers(), st.integers(min_value=-(2**80), max_value=2**80))


@given(sizes)
def test_an_integer_of_any_size_is_read_as_it_was_written(number: int) -> None:
    written = orjson.dumps(to_json({"of": [number]}))
    assert from_json(orjson.loads(written)["of"][0]) == number
    books = Books.model_validate_json(b'{"checks":[],"totals":' + written.replace(b"[", b"").replace(b"]", b"") + b"}")
    assert books.totals == {"of": number}


@pytest.mark.parametrize("number", [0, INT64_MAX, INT64_MIN])
def test_within_64_bits_an_integer_is_a_number(number: int) -> None:
    assert to_json(number) == to_json(Decimal(number)) == number


@pytest.mark.parametrize("number", [INT64_MAX + 1, INT64_MIN - 1, 2**64 - 1, 10**40])
def test_beyond_64_bits_an_integer_is_its_digits_however_deep(number: int) -> None:
    assert to_json([{"a": (number, {"b": Decimal(number)})}]) == [{"a": [str(number), {"b": str(number)}]}]


@pytest.mark.parametrize("value", [None, True, 1.5, "1", UUID(ORDER), {}, []], ids=str)
def test_other_values_are_unchanged(value: Any) -> None:
    assert to_json(value) is value or to_json(value) == value


@pytest.mark.parametrize("text", ["", "RESERVED", "1.0", "1e3", " 1", "+1", "01", "-", "1_0", "\u0661"])
def test_text_that_is_no_integer_stays_text(text: str) -> None:
    assert from_json(text) == text


@pytest.mark.parametrize("total", [2**64, str(2**64)])
def test_totals_are_taken_in_either_form(total: int | str) -> None:
    text = f'"{total}"' if isinstance(total, str) else str(total)
    assert Books.model_validate_json(f'{{"checks": [], "totals": {{"sum": {text}}}}}').totals == {"sum": 2**64}
    page = HoldsPage.model_validate_json(f'{{"items": [{{"order_id": "{ORDER}", "holds": {{"ann": {text}}}}}]}}')
    assert page.items[0].holds == {"ann": 2**64}


@pytest.mark.parametrize("total", ["1.5", '"1.5"', '"much"', "true", "null"])
def test_totals_that_are_no_integer_are_refused(total: str) -> None:
    with pytest.raises(ValidationError):
        Books.model_validate_json(f'{{"checks": [], "totals": {{"sum": {total}}}}}')


def test_a_coupon_keeps_its_status() -> None:
    page = HoldsPage.model_validate({"items": [{"order_id": UUID(ORDER), "holds": {"WELCOME": "RESERVED"}}]})
    assert page.items[0].holds == {"WELCOME": "RESERVED"}


def test_published_schema_has_both_forms() -> None:
    sums = Books.model_json_schema()["properties"]["totals"]["additionalProperties"]["anyOf"]
    holds = HoldsPage.model_json_schema()["$defs"]["OrderHolds"]["properties"]["holds"]["additionalProperties"]["anyOf"]
    assert [one["type"] for one in sums] == [one["type"] for one in holds] == ["integer", "string"]
