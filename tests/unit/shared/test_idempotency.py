"""An idempotency key is the same key in every notation, and an invalid key is refused."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from shared.http.idempotency import parse_key
from shared.http.problems import ValidationFailed


def parse(*values: str) -> str | None:
    headers = CIMultiDict([("Idempotency-Key", value) for value in values])
    return parse_key(make_mocked_request("POST", "/", headers=headers))


def test_a_request_without_a_key_has_none() -> None:
    assert parse() is None


@pytest.mark.parametrize("value", ["abc", '"abc"', " abc ", ' "abc"'])
def test_a_key_is_the_same_bare_and_quoted(value: str) -> None:
    assert parse(value) == "abc"


def test_quotes_and_backslashes_can_be_escaped_within_quotes() -> None:
    assert parse(r'"a\"b\\c"') == r'a"b\c'
    assert parse(r"a\b") == r"a\b"


@pytest.mark.parametrize("key", ["x", "x" * 255])
def test_a_key_has_1_to_255_characters(key: str) -> None:
    assert parse(key) == parse(f'"{key}"') == key


@pytest.mark.parametrize(
    "value", ["", " ", '""', '"', '"abc', '"a"b', '"a\\"', r'"a\b"', "x" * 256, '"' + "x" * 256 + '"', "a\tb"]
)
def test_malformed_key_is_refused_and_named(value: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        parse(value)
    assert refused.value.members["errors"][0]["pointer"] == "/headers/Idempotency-Key"


def test_two_keys_are_refused() -> None:
    with pytest.raises(ValidationFailed):
        parse("a", "a")
