"""The comparison of the client with the OpenAPI documents finds each kind of disagreement."""

from typing import Any

import pytest

from tests.contract.agreement import disagreements

TEXT, NUMBER, NOTHING = {"type": "string"}, {"type": "integer"}, {"type": "null"}
ID, TIME = {"type": "string", "format": "uuid"}, {"type": "string", "format": "date-time"}
A, B = {"type": "string", "const": "A"}, {"type": "string", "enum": ["A", "B"]}


def an_object(*required: str, **properties: Any) -> dict[str, Any]:
    """Return the schema of an object."""
    return {"type": "object", "properties": properties, "required": list(required)}


def maybe(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, NOTHING]}


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (TEXT, TEXT),
        (ID, TEXT),
        (ID, ID),
        (A, B),
        (A, TEXT),
        (NUMBER, maybe(NUMBER)),
        (an_object("a", a=TEXT), an_object(a=maybe(TEXT))),
        (an_object("a", a=TEXT, b=NUMBER), an_object("a", a=TEXT, b=NUMBER, c=TEXT)),
        ({"type": "array", "items": A}, {"type": "array", "items": B}),
        (an_object(a=TEXT), {**an_object(a=TEXT), "anyOf": [{"required": ["a"]}]}),
    ],
)
def test_what_the_reader_takes_is_no_disagreement(writer: Any, reader: Any) -> None:
    assert list(disagreements(writer, reader)) == []


@pytest.mark.parametrize(
    ("writer", "reader", "found"),
    [
        (TEXT, NUMBER, ": string is not taken"),
        (maybe(TEXT), TEXT, ": null is not taken"),
        (TEXT, ID, ": {'type': 'string'} is not taken"),
        (TIME, ID, ": {'type': 'string', 'format': 'date-time'} is not taken"),
        (B, A, ": {'type': 'string', 'enum': ['A', 'B']} is not taken"),
        (TEXT, B, ": {'type': 'string'} is not taken"),
        (an_object(a=TEXT), an_object("a", a=TEXT), "/a may be missing"),
        (an_object(a=TEXT), an_object(), "/a is unknown to the reader"),
        (an_object(a=an_object(b=TEXT)), an_object(a=an_object(b=NUMBER)), "/a/b: string is not taken"),
        ({"type": "array", "items": TEXT}, {"type": "array", "items": ID}, "/*: {'type': 'string'} is not taken"),
    ],
)
def test_what_the_reader_does_not_take_is_named(writer: Any, reader: Any, found: str) -> None:
    assert list(disagreements(writer, reader)) == [found]
