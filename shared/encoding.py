"""JSON as every service writes it: in answers, stored answers, events and command lines.

An integer within 64 bits is a number, a larger one is its digits as text: most readers of JSON know no larger numbers.
orjson refuses to write them, and reads them as the nearest double.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, WithJsonSchema

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
DIGITS = r"-?(0|[1-9][0-9]*)"
_DIGITS = re.compile(DIGITS)


def encode(body: Any) -> bytes:
    """Return the JSON of a body; timestamps are RFC 3339 in UTC.

    asyncpg's UUIDs are a subclass, which orjson can only write as text.
    """
    return orjson.dumps(body, default=str, option=orjson.OPT_UTC_Z)


def to_json(value: Any) -> Any:
    """Return a JSON value with every integer beyond 64 bits, however deep in it, as its digits.

    A `Decimal` counts as an integer: Postgres' `numeric` arrives so, and holds sums of integers.
    """
    if isinstance(value, Decimal):
        value = int(value)
    if isinstance(value, int):
        return value if INT64_MIN <= value <= INT64_MAX else str(value)
    if isinstance(value, Mapping):
        return {name: to_json(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """Return the integer that digits stand for; return everything else as it is."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


# A field of a wire model that takes both forms and holds the integer.
Integer = Annotated[
    int,
    BeforeValidator(from_json),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": f"^{DIGITS}$"}]}),
]
